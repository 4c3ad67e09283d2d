//! Certificates: what a listener serves with, whom it trusts, and who a client is.
//!
//! Comes in: paths of PEM files as an operator wrote them. Goes out: a [`Listener`] that makes TLS sessions, and the [`Identity`] of the
//! client at the other end of one. Files are read when asked, all or nothing; nothing here watches, logs or knows MQTT.

mod ciphers;
mod identity;
mod key_log;
mod listener;

pub use identity::{Identity, IdentityFault};
pub use listener::{Files, Listener, LoadError, Loaded, MinimumVersion, NotTrusted};
