//! What a device does, apart from its radio, its flash and its TLS: an MQTT client session, a buffer for readings, commands.
//!
//! In: bytes of the Network Connection, the time, random bits, readings. Out: bytes to write, [`session::Event`]s, and what the traits
//! [`Store`] and [`Actuator`] are asked to do. [`Device`] puts the rooms together; [`driver::serve`] moves bytes between it and one
//! connection. Nothing here reads a clock, sleeps or knows a socket, so what runs on the chip is what the tests drive.
//!
//! Rooms point one way: `session`, `buffer` (on a [`Store`]), `telemetry`, `command`, `backoff`, `config` <- `device` <- `driver`.
#![no_std]
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::cast_possible_truncation
    )
)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod backoff;
pub mod command;
pub mod config;
pub mod device;
pub mod doorbell;
pub mod driver;
mod flat_toml;
pub mod provisioning;
pub mod session;
pub mod store;
pub mod telemetry;
pub mod time;

pub use backoff::Backoff;
pub use command::{Actuator, Refusal};
pub use config::{Config, ConfigError};
pub use device::{Counters, Device, DeviceError};
pub use doorbell::Doorbell;
pub use nightjar_codec as codec;
pub use provisioning::{Provisioning, ProvisioningError, Wifi};
pub use session::Ended;
pub use store::flash::FlashRing;
pub use store::ram::RamStore;
pub use store::{Sequence, Store};
pub use telemetry::Value;
pub use time::{Calendar, Clock, Instant, Now, calendar};
