//! What a chip does between its network and `nightjar-esp32-core`, alike on all of them: the time before any trust, TLS with the
//! device's own certificate, one connection after another.
//!
//! In: a network stack, the provisioning, a random number generator. Out: bytes of the session, over TLS. It knows no chip; the hooks
//! of mbedTLS, which need `unsafe`, are the firmware's to set.
#![no_std]

extern crate alloc;

pub mod clock;
pub mod identity;
pub mod network;
pub mod time_server;
pub mod work;

pub use nightjar_esp32_core as core;
