//! The device on a computer: what on the chip is radio, flash, pins and clock is here a socket, a file, a folder and the system's time.
//!
//! The core, mbedTLS and the way they are put together ([`tls`], [`connection`]) are those of the chip. The program is `nightjar-device`.
#![warn(missing_docs)]

pub mod clock;
pub mod connection;
pub mod file_flash;
pub mod folder;
pub mod pins;
pub mod tls;
