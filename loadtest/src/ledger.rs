//! The books of a run whose number of messages is known before: which of them have arrived, by number.
//!
//! Comes in: the numbers of the messages received. Goes out: how many arrived once, twice or never, and how many came
//! after a higher number of their stream. A bit a message, so that a million of them cost nothing.

/// One message a bit.
#[derive(Debug)]
pub struct Ledger {
    arrived: Vec<u64>,
    count: u64,
    /// Per stream, the number behind the highest received.
    highest: Vec<u64>,
    /// Different messages received.
    pub received: u64,
    pub duplicates: u64,
    pub reorderings: u64,
    /// Messages that were never sent by this run.
    pub strays: u64,
}

impl Ledger {
    /// For messages 0 to `count`, in `streams` streams of which each must keep its order.
    #[must_use]
    pub fn new(count: u64, streams: usize) -> Self {
        let words = usize::try_from(count.div_ceil(64)).unwrap_or(usize::MAX);
        Self {
            arrived: vec![0; words],
            count,
            highest: vec![0; streams],
            received: 0,
            duplicates: 0,
            reorderings: 0,
            strays: 0,
        }
    }

    /// Message `number` has arrived on `stream`, or on none whose order counts.
    #[inline]
    pub fn book(&mut self, stream: Option<usize>, number: u64) {
        let word = usize::try_from(number / 64).ok();
        let word = word.and_then(|word| self.arrived.get_mut(word));
        let Some(word) = word.filter(|_| number < self.count) else {
            self.strays += 1;
            return;
        };
        let bit = 1 << (number % 64);
        if *word & bit != 0 {
            self.duplicates += 1;
            return;
        }
        *word |= bit;
        self.received += 1;
        if let Some(highest) = stream.and_then(|stream| self.highest.get_mut(stream)) {
            self.reorderings += u64::from(number < *highest);
            *highest = (*highest).max(number + 1);
        }
    }
}

impl Ledger {
    /// Whether message `number` has arrived.
    #[must_use]
    pub fn has(&self, number: u64) -> bool {
        let word = usize::try_from(number / 64).ok();
        let word = word.and_then(|word| self.arrived.get(word));
        word.is_some_and(|word| word & 1 << (number % 64) != 0)
    }

    /// How many of the messages that are in these books are not in the `other` ones.
    #[must_use]
    pub fn missing_in(&self, other: &Self) -> u64 {
        let others = other.arrived.iter().chain(std::iter::repeat(&0));
        let words = self.arrived.iter().zip(others);
        words
            .map(|(own, other)| u64::from((own & !other).count_ones()))
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_message_is_booked_for_what_it_is() {
        let mut ledger = Ledger::new(100, 2);
        for (stream, number) in [(0, 0), (0, 70), (0, 69), (1, 2), (1, 2), (0, 100), (1, 640)] {
            ledger.book(Some(stream), number);
        }
        assert_eq!((ledger.received, ledger.duplicates), (4, 1));
        assert_eq!((ledger.reorderings, ledger.strays), (1, 2));
    }

    #[test]
    fn what_only_one_of_two_books_has_is_counted() {
        let (mut acknowledged, mut arrived) = (Ledger::new(200, 0), Ledger::new(100, 0));
        for number in [1, 64, 99, 130, 199] {
            acknowledged.book(None, number);
        }
        for number in [0, 1, 99] {
            arrived.book(None, number);
        }
        assert!(arrived.has(99) && !arrived.has(64) && !arrived.has(1_000));
        assert_eq!(acknowledged.missing_in(&arrived), 3);
        assert_eq!(arrived.missing_in(&acknowledged), 1);
    }
}
