//! The same requests to Mosquitto and to us, and the answers compared. Skipped loudly where Mosquitto is not installed; a failure where
//! CI is set.

mod copies;
mod guide;
mod log;
mod options;
mod process;
mod rules;
mod sys;
mod takeover;
