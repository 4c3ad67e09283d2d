//! Where readings wait until the broker has them: in order of their sequence numbers, which are given when they are written.
//!
//! A store is a ring with a bound. Writing always succeeds while the medium works: above the bound the oldest are evicted, and counted.
//! What is released has been delivered and never comes back. Two are here: [`ram::RamStore`], and [`flash::FlashRing`] on any NOR flash.

pub mod flash;
pub mod ram;

use alloc::vec::Vec;
use core::fmt;

/// The number of a reading: given when it is written, never twice, higher for what was written later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(u64);

impl Sequence {
    /// The first there is.
    pub const FIRST: Self = Self(1);

    /// Of a number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The next one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A ring of records.
pub trait Store {
    /// What can go wrong with the medium.
    type Error: fmt::Debug;

    /// The number that the next record will have.
    fn next_sequence(&self) -> Sequence;

    /// Appends a record and gives its number; evicts the oldest where there is no room.
    ///
    /// # Errors
    /// The medium failed, or the record is above [`Store::record_bytes_max`]. Nothing was written then, or what was is never read.
    fn append(&mut self, record: &[u8]) -> Result<Sequence, Self::Error>;

    /// The first record whose number is `from` or above and that was not released: its bytes take the place of what is in `into`.
    ///
    /// # Errors
    /// The medium failed.
    fn read(&mut self, from: Sequence, into: &mut Vec<u8>)
    -> Result<Option<Sequence>, Self::Error>;

    /// Everything up to `through` has been delivered. May be written later: after a loss of power the last of it may come back.
    ///
    /// # Errors
    /// The medium failed.
    fn release(&mut self, through: Sequence) -> Result<(), Self::Error>;

    /// Records that were evicted before they were delivered, ever.
    fn evicted(&self) -> u64;

    /// Records that wait.
    fn pending(&self) -> u64;

    /// The longest record.
    fn record_bytes_max(&self) -> usize;
}
