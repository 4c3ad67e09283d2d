//! What is true in memory before it is written: retained messages and the broker clock.
//!
//! A retained topic is not written when it changes but with a batch, as it stands then: for QoS 1 and 2 with the batch of the
//! same turn, which the acknowledgement waits for; for QoS 0, which promises nothing, at most `write_behind_seconds` later, the
//! last value only (D11). Two shards may change one topic, and whoever appends last has the last word in the store: so the
//! state is read, and the batch appended, under one lock, and what is appended last is what memory holds.
//!
//! Both clocks go with every batch that carries something, so that no deadline in the store is further away than it was
//! meant to be; and alone when the wall clock was set, and about every minute while anything is kept (D12).

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use foldhash::fast::FixedState;
use hashbrown::HashSet;
use nightjar_codec::QoS;
use nightjar_storage::{ClockRecord, Full, Lsn, Operation};

use super::Shard;
use super::timers::Timer;
use crate::clock::Now;

/// Retained topics that the store has to hear of, and when it last heard of the clock.
pub(super) struct Unwritten {
    /// Changed at QoS 1 or 2 in this turn.
    owned: HashSet<Box<str>, FixedState>,
    /// Changed at QoS 0, or expired.
    lazy: HashSet<Box<str>, FixedState>,
    lazy_bytes: usize,
    armed: Option<u64>,
    /// `lazy` goes with the next batch, or makes one.
    is_due: bool,
    clock: Option<Now>,
    clock_is_due: bool,
}

impl Unwritten {
    pub(super) fn new(hasher: FixedState) -> Self {
        Self {
            owned: HashSet::with_hasher(hasher.clone()),
            lazy: HashSet::with_hasher(hasher),
            lazy_bytes: 0,
            armed: None,
            is_due: false,
            clock: None,
            clock_is_due: false,
        }
    }

    /// There is something to write even if the batch is empty.
    pub(super) fn is_due(&self) -> bool {
        self.is_due || self.clock_is_due || self.owns_some()
    }

    /// The turn has changed a retained topic at QoS 1 or 2, which somebody waits for.
    pub(super) fn owns_some(&self) -> bool {
        !self.owned.is_empty()
    }

    fn has_retained(&self) -> bool {
        self.is_due || self.owns_some()
    }

    fn topics(&self) -> impl Iterator<Item = &str> {
        let lazy = self.lazy.iter().filter(|_| self.is_due);
        let lazy = lazy.filter(|topic| !self.owned.contains(*topic));
        self.owned.iter().chain(lazy).map(|topic| &**topic)
    }

    fn written(&mut self) {
        self.owned.clear();
        self.owned.shrink_to(KEPT_TOPICS);
        if self.is_due {
            self.lazy.clear();
            self.lazy.shrink_to(KEPT_TOPICS);
            self.lazy_bytes = 0;
            self.is_due = false;
        }
    }
}

impl Shard {
    /// The retained message of this topic was replaced or deleted. `cost` is what the message counts for.
    pub(super) fn note_retained(&mut self, now: Now, topic: &str, qos: QoS, cost: u64) {
        if !self.sinks.journal.enabled || is_of_the_server(topic) {
            return; // D11: `$SYS` is never stored.
        }
        let unwritten = &mut self.unwritten;
        if qos > QoS::AtMostOnce {
            if !unwritten.owned.contains(topic) {
                unwritten.owned.insert(topic.into());
            }
            self.sinks.journal.count(cost);
            return;
        }
        if unwritten.lazy.contains(topic) {
            return;
        }
        if unwritten.lazy_bytes >= LAZY_BYTES_MAX {
            // Only while the journal takes nothing. It promises nothing, and the next change of the topic is written.
            self.sinks.counters.retained_unwritten += 1;
            return;
        }
        unwritten.lazy_bytes += topic.len() + TOPIC_BYTES;
        unwritten.lazy.insert(topic.into());
        unwritten.is_due |= self.draining || unwritten.lazy_bytes >= LAZY_BYTES_DUE;
        if unwritten.armed.is_none() {
            let wait = 1_000 * u64::from(self.shared.settings.write_behind_seconds);
            let due = Some(now.monotonic + wait);
            self.timers.set(&mut unwritten.armed, due, Timer::Retained);
        }
    }

    /// What was retained at QoS 0 is written with the next batch.
    pub(super) fn retained_due(&mut self) {
        self.timers
            .set(&mut self.unwritten.armed, None, Timer::Retained);
        self.unwritten.is_due = !self.unwritten.lazy.is_empty();
    }

    /// About once a minute while anything is kept, and when somebody has set the wall clock, both clocks are written though
    /// nothing else is.
    pub(super) fn check_clock(&mut self, now: Now) {
        let keeps_something = self.shared.exchange.keeps_something.load(Ordering::Relaxed);
        if self.sinks.journal.enabled && keeps_something {
            let last = self.unwritten.clock;
            self.unwritten.clock_is_due |= is_stale(last, now, CLOCK_IDLE_MILLISECONDS);
        }
    }

    /// Appends this turn's batch with all that is due. Nothing is taken of what is refused: it stays as it was.
    pub(super) fn append_all(&mut self, now: Now) -> Result<Option<Lsn>, Full> {
        let Some(journal) = &self.shared.journal else {
            return Ok(None);
        };
        let exchange = &self.shared.exchange;
        let sink = &mut self.sinks.journal;
        if sink.batch.is_empty() && !self.unwritten.is_due() {
            return Ok(None);
        }
        let before = sink.batch.len();
        // Held until the batch is appended, so that what another shard appends later is as new as this, or newer.
        let _in_order = self.unwritten.has_retained().then(|| {
            let order = exchange.retained_order.lock();
            order.unwrap_or_else(PoisonError::into_inner)
        });
        for topic in self.unwritten.topics() {
            sink.batch.push(match exchange.retained.get(topic) {
                Some(message) => Operation::PutRetained { message },
                None => Operation::DeleteRetained {
                    topic: topic.into(),
                },
            });
        }
        if self.unwritten.clock != Some(now) {
            sink.batch.push(Operation::PutClock(ClockRecord {
                broker: now.monotonic,
                wall: now.wall,
            }));
        }
        match journal.append(sink.take_batch()) {
            Ok(lsn) => {
                self.unwritten.written();
                self.unwritten.clock = Some(now);
                self.unwritten.clock_is_due = false;
                if !exchange.keeps_something.load(Ordering::Relaxed) {
                    exchange.keeps_something.store(true, Ordering::Relaxed);
                }
                Ok(Some(lsn))
            }
            Err(mut full) => {
                // Both will have changed by the next turn.
                full.batch.0.truncate(before);
                Err(full)
            }
        }
    }
}

/// Whether the store has heard of the clocks too long ago, or the wall clock was set since.
fn is_stale(last: Option<Now>, now: Now, milliseconds: u64) -> bool {
    let Some(last) = last else { return true };
    let passed = now.monotonic.saturating_sub(last.monotonic);
    let on_the_wall = i128::from(now.wall) - i128::from(last.wall);
    passed >= milliseconds
        || (on_the_wall - i128::from(passed)).unsigned_abs() >= WALL_WAS_SET_MILLISECONDS
}

fn is_of_the_server(topic: &str) -> bool {
    topic == "$SYS" || topic.starts_with("$SYS/")
}

/// Names of so many bytes are written before their time.
const LAZY_BYTES_DUE: usize = 1024 * 1024;
/// Names of so many bytes may wait for a journal that takes nothing.
const LAZY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// What a name costs besides its text.
const TOPIC_BYTES: usize = 32;
const KEPT_TOPICS: usize = 1024;
/// The wall clock has gone its own way by so much: somebody has set it.
const WALL_WAS_SET_MILLISECONDS: u128 = 1_000;
const CLOCK_IDLE_MILLISECONDS: u64 = 60_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d12_the_clock_is_noted_when_it_is_old_and_when_the_wall_clock_was_set() {
        let then = Now {
            monotonic: 10_000,
            wall: 1_800_000_000_000,
        };
        let after = |passed, wall: i64| Now {
            monotonic: then.monotonic + passed,
            wall: then.wall.saturating_add_signed(wall),
        };
        assert!(is_stale(None, then, 60_000));
        assert!(!is_stale(Some(then), after(59_999, 59_999), 60_000));
        assert!(is_stale(Some(then), after(60_000, 60_000), 60_000));
        assert!(!is_stale(Some(then), after(500, 600), 60_000));
        for jump in [5_000, -5_000, 68 * 31_557_600_000, -68 * 31_557_600_000] {
            assert!(is_stale(Some(then), after(10, jump), 60_000));
        }
    }
}
