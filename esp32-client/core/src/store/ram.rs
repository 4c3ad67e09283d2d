//! A store in memory: for a device without a partition for it. What waits is gone with the power, and numbers begin anew.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::{Sequence, Store};

/// A ring in memory, bound by records and by bytes.
#[derive(Debug)]
pub struct RamStore {
    records: VecDeque<(Sequence, Box<[u8]>)>,
    next: Sequence,
    bytes: usize,
    evicted: u64,
    records_max: usize,
    bytes_max: usize,
}

/// Why a record was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge;

impl RamStore {
    /// An empty ring. Each record counts [`RamStore::RECORD_OVERHEAD`] bytes beside its own.
    #[must_use]
    pub const fn new(records_max: usize, bytes_max: usize) -> Self {
        Self {
            records: VecDeque::new(),
            next: Sequence::FIRST,
            bytes: 0,
            evicted: 0,
            records_max,
            bytes_max,
        }
    }

    /// What a record costs beside its own bytes.
    pub const RECORD_OVERHEAD: usize = 32;

    fn drop_oldest(&mut self) -> bool {
        let Some((_, record)) = self.records.pop_front() else {
            return false;
        };
        self.bytes -= record.len() + Self::RECORD_OVERHEAD;
        true
    }
}

impl Store for RamStore {
    type Error = TooLarge;

    fn next_sequence(&self) -> Sequence {
        self.next
    }

    fn append(&mut self, record: &[u8]) -> Result<Sequence, TooLarge> {
        let cost = record.len() + Self::RECORD_OVERHEAD;
        if record.len() > self.record_bytes_max() || self.records_max == 0 {
            return Err(TooLarge);
        }
        while self.records.len() >= self.records_max || self.bytes + cost > self.bytes_max {
            if !self.drop_oldest() {
                return Err(TooLarge);
            }
            self.evicted = self.evicted.saturating_add(1);
        }
        let sequence = self.next;
        self.next = sequence.next();
        self.bytes += cost;
        self.records.push_back((sequence, record.into()));
        Ok(sequence)
    }

    fn read(&mut self, from: Sequence, into: &mut Vec<u8>) -> Result<Option<Sequence>, TooLarge> {
        let index = self
            .records
            .partition_point(|(sequence, _)| *sequence < from);
        Ok(self.records.get(index).map(|(sequence, record)| {
            into.clear();
            into.extend_from_slice(record);
            *sequence
        }))
    }

    fn release(&mut self, through: Sequence) -> Result<(), TooLarge> {
        while self
            .records
            .front()
            .is_some_and(|(sequence, _)| *sequence <= through)
        {
            self.drop_oldest();
        }
        Ok(())
    }

    fn evicted(&self) -> u64 {
        self.evicted
    }

    fn pending(&self) -> u64 {
        self.records.len().try_into().unwrap_or(u64::MAX)
    }

    fn record_bytes_max(&self) -> usize {
        self.bytes_max.saturating_sub(Self::RECORD_OVERHEAD)
    }
}
