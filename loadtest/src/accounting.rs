//! The books of one stream, publisher to subscriber: what has arrived once, twice, late or never.
//!
//! Comes in: the sequence number of every message received, which a publisher counts up from 0 without a gap. Goes out:
//! `Totals`. The expected case, the next number in order, is one comparison; gaps are kept as ranges, at most
//! `GAPS_MAX` of them a stream: beyond that the oldest is settled as lost and a late message in it counts as a duplicate.

use std::collections::BTreeMap;

/// What happened to the messages of a stream.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Totals {
    /// Different messages received.
    pub received: u64,
    /// Messages received that had been received before.
    pub duplicates: u64,
    /// Messages received after one with a higher sequence number.
    pub reorderings: u64,
    /// Messages sent and not received.
    pub losses: u64,
}

impl Totals {
    /// Adds the books of another stream.
    pub fn add(&mut self, other: Self) {
        self.received += other.received;
        self.duplicates += other.duplicates;
        self.reorderings += other.reorderings;
        self.losses += other.losses;
    }
}

/// The unexpected part of a stream; the expected part is the number that comes next, which its owner keeps.
#[derive(Debug, Default)]
pub struct Anomalies {
    /// First missing sequence number to the one behind the last missing.
    gaps: BTreeMap<u64, u64>,
    settled_losses: u64,
    duplicates: u64,
    reorderings: u64,
}

impl Anomalies {
    /// Books `sequence`, which is not the `next` expected, and returns the one expected from here on.
    #[cold]
    pub fn unexpected(&mut self, next: u64, sequence: u64) -> u64 {
        if sequence >= next {
            if sequence > next {
                self.open_gap(next, sequence);
            }
            return sequence + 1;
        }
        let gap = self.gaps.range(..=sequence).next_back();
        match gap.map(|(start, end)| (*start, *end)) {
            Some((start, end)) if sequence < end => {
                self.gaps.remove(&start);
                if start < sequence {
                    self.gaps.insert(start, sequence);
                }
                if sequence + 1 < end {
                    self.gaps.insert(sequence + 1, end);
                }
                self.reorderings += 1;
            }
            _ => self.duplicates += 1,
        }
        next
    }

    /// Closes the books: `next` is the number expected, `sent` how many the publisher has sent.
    pub fn totals(&self, next: u64, sent: u64) -> Totals {
        let missing: u64 = self.gaps.iter().map(|(start, end)| end - start).sum();
        let missing = missing + self.settled_losses;
        Totals {
            received: next.saturating_sub(missing),
            duplicates: self.duplicates,
            reorderings: self.reorderings,
            losses: missing + sent.saturating_sub(next),
        }
    }

    fn open_gap(&mut self, start: u64, end: u64) {
        if self.gaps.len() >= GAPS_MAX
            && let Some((start, end)) = self.gaps.pop_first()
        {
            self.settled_losses += end - start;
        }
        self.gaps.insert(start, end);
    }
}

const GAPS_MAX: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    fn check(sequences: &[u64], sent: u64, expected: Totals) {
        let mut anomalies = Anomalies::default();
        let mut next = 0;
        for sequence in sequences {
            next = if *sequence == next {
                next + 1
            } else {
                anomalies.unexpected(next, *sequence)
            };
        }
        assert_eq!(anomalies.totals(next, sent), expected, "{sequences:?}");
    }

    #[test]
    fn in_order_is_received() {
        check(
            &[0, 1, 2],
            3,
            Totals {
                received: 3,
                ..Totals::default()
            },
        );
    }

    #[test]
    fn gaps_and_the_missing_tail_are_losses() {
        check(
            &[1, 2, 5],
            8,
            Totals {
                received: 3,
                losses: 5,
                ..Totals::default()
            },
        );
        check(
            &[],
            4,
            Totals {
                losses: 4,
                ..Totals::default()
            },
        );
    }

    #[test]
    fn a_second_copy_is_a_duplicate() {
        check(
            &[0, 0, 1, 2, 1],
            3,
            Totals {
                received: 3,
                duplicates: 2,
                ..Totals::default()
            },
        );
    }

    #[test]
    fn a_late_message_is_a_reordering_and_no_loss() {
        check(
            &[0, 4, 2, 1, 3],
            5,
            Totals {
                received: 5,
                reorderings: 3,
                ..Totals::default()
            },
        );
        check(
            &[0, 4, 2, 2],
            5,
            Totals {
                received: 3,
                reorderings: 1,
                duplicates: 1,
                losses: 2,
            },
        );
    }

    #[test]
    fn too_many_gaps_are_settled_as_losses() {
        let gaps = GAPS_MAX as u64 + 10;
        let odd: Vec<u64> = (0..gaps).map(|index| 2 * index + 1).collect();
        check(
            &odd,
            2 * gaps,
            Totals {
                received: gaps,
                losses: gaps,
                ..Totals::default()
            },
        );
    }
}
