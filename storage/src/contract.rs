//! The test suite that every engine must pass.
