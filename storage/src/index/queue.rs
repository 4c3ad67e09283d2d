//! One owner's queue, as far as it is held in memory: which numbers wait for which message, which are done, and which are
//! in flight.
//!
//! Comes in: one change at a time. Goes out: places in the order of the queue, and the blocks whose rows have to be written
//! again. It knows neither messages nor other owners.

use std::collections::{BTreeMap, VecDeque};

use crate::operation::MessageId;
use crate::record::{BLOCK_NUMBERS, FlightRecord, MovedRecord};

#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) head: u64,
    pub(super) next: u64,
    /// Listed entries above `head`, ascending; a message id of 0 is a gap.
    pub(super) entries: VecDeque<Listed>,
    pub(super) gaps: usize,
    /// Out of order: by block, a bit for each number that is done.
    pub(super) done: BTreeMap<u64, u64>,
    /// By number.
    pub(super) flights: BTreeMap<u64, FlightRecord>,
    pub(super) packet_ids: BTreeMap<u16, u64>,
    pub(super) next_order: u64,
    pub(super) rare: Option<Box<Rare>>,
}

/// What most queues never have.
#[derive(Debug, Default)]
pub(super) struct Rare {
    /// By number.
    pub(super) moved: BTreeMap<u64, MovedRecord>,
    pub(super) moved_numbers: BTreeMap<MessageId, u64>,
    /// Messages past their PUBREC.
    pub(super) released: BTreeMap<MessageId, u64>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Listed {
    pub(super) number: u64,
    pub(super) message_id: MessageId,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.len() == self.gaps
            && self.flights.is_empty()
            && self.rare.as_ref().is_none_or(|rare| rare.moved.is_empty())
    }

    pub(super) fn push(&mut self, message_id: MessageId) -> u64 {
        let number = self.next;
        self.next += 1;
        if self.entries.is_empty() {
            self.head = number;
        }
        self.entries.push_back(Listed { number, message_id });
        number
    }

    /// A number that is in use or was.
    pub(super) fn saw(&mut self, number: u64) {
        self.next = self.next.max(number.saturating_add(1));
    }

    pub(super) fn position(&self, number: u64) -> Option<usize> {
        let first = self.entries.front()?.number;
        // Without gaps the distance of the numbers is the distance of the places.
        let guess = usize::try_from(number.checked_sub(first)?).unwrap_or(usize::MAX);
        match self.entries.get(guess) {
            Some(entry) if entry.number == number => Some(guess),
            _ => self
                .entries
                .binary_search_by_key(&number, |entry| entry.number)
                .ok(),
        }
    }

    /// Marks a listed number as done, and tells the blocks whose rows this changes.
    pub(super) fn finish(&mut self, number: u64, mut changed: impl FnMut(u64)) {
        let Some(position) = self.position(number) else {
            return;
        };
        if position > 0 {
            if let Some(entry) = self.entries.get_mut(position) {
                entry.message_id = 0;
            }
            self.gaps += 1;
            let block = number / BLOCK_NUMBERS;
            *self.done.entry(block).or_default() |= 1 << (number % BLOCK_NUMBERS);
            changed(block);
            if self.gaps > GAPS_KEPT && self.gaps > self.entries.len() / 2 {
                self.entries.retain(|entry| entry.message_id != 0);
                self.gaps = 0;
            }
            return;
        }
        self.entries.pop_front();
        while let Some(entry) = self.entries.front()
            && entry.message_id == 0
        {
            self.entries.pop_front();
            self.gaps -= 1;
        }
        self.head = self.entries.front().map_or(self.next, |entry| entry.number);
        while let Some((block, _)) = self.done.first_key_value()
            && (block + 1) * BLOCK_NUMBERS <= self.head
        {
            changed(*block);
            self.done.pop_first();
        }
    }

    pub(super) fn is_done(&self, number: u64) -> bool {
        let block = self.done.get(&(number / BLOCK_NUMBERS));
        number < self.head || block.is_some_and(|bits| bits & (1 << (number % BLOCK_NUMBERS)) != 0)
    }

    /// The bits of a block that the cursor does not say already.
    pub(super) fn done_bits(&self, block: u64) -> u64 {
        let bits = self.done.get(&block).copied().unwrap_or(0);
        let below = self.head.saturating_sub(block * BLOCK_NUMBERS);
        if below >= BLOCK_NUMBERS {
            0
        } else {
            bits & (u64::MAX << below)
        }
    }

    pub(super) fn flights_of(&self, block: u64) -> impl Iterator<Item = (&u64, &FlightRecord)> {
        let first = block * BLOCK_NUMBERS;
        self.flights.range(first..=first + (BLOCK_NUMBERS - 1))
    }

    pub(super) fn moved(&self, number: u64) -> Option<&MovedRecord> {
        self.rare.as_ref()?.moved.get(&number)
    }

    pub(super) fn moved_from(&self, from: u64) -> impl Iterator<Item = (&u64, &MovedRecord)> {
        self.rare
            .iter()
            .flat_map(move |rare| rare.moved.range(from..))
    }
}

/// Gaps that are not worth closing.
const GAPS_KEPT: usize = 64;
