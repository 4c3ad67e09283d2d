//! Certificates: what a listener serves with, whom it trusts, and who a client is.
//!
//! Comes in: paths of PEM files as an operator wrote them. Goes out: a [`Listener`] that makes TLS sessions, and the [`Client`] at the other
//! end of one, with its [`Identity`]. Files are read when asked; nothing here watches, logs or knows MQTT.

mod ciphers;
mod client;
mod files;
mod identity;
mod key_log;
mod listener;
mod trust;

pub use client::{Client, Void};
pub use files::{Expiry, Files, Kind, LoadError, MinimumVersion};
pub use identity::{Identity, IdentityFault};
pub use listener::{Listener, Loaded, NotTrusted};
