//! Proofs about the source itself: `statements.toml` is true in both directions, `docs/conformance.md` is what it says, and the
//! invariants of ARCHITECTURE.md that a machine can read hold.
//!
//! Comes in: the files of this repository. Goes out: a list of places that break a rule, one a line, with what the rule wants.
//! With `UPDATE=1` `docs/conformance.md` is written instead of compared.
//! It deliberately does not know Rust's grammar: comments are cut off, the rest is searched as text.

mod conformance_table;
mod invariants;
mod source;
mod statements;
