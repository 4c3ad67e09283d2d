//! Queues that are longer than what is held in memory: the next page is read from the store when a session has sent the
//! one before.
//!
//! A session asks with the ids of the messages it wants, in its own order; what is in flight or on its way in the mail is
//! none of them, so nothing is delivered twice and nothing overtakes. A read sees what is durable only. What is not there
//! yet is looked for again when everything that was appended until now is durable, and after that, since the store may be
//! closed at that moment or write late by its operator's choice, from time to time.

use nightjar_storage::{ClockRecord, Operation, Owner};

use super::ownership::Waiting;
use super::{Shard, Timer};
use crate::clock::Now;
use crate::identity::SessionId;

impl Shard {
    /// Reads for the sessions that have asked, as far as this turn has room.
    pub(super) fn read_pages(&mut self, now: Now) {
        let mut wanted = std::mem::take(&mut self.sinks.page_wanted).into_iter();
        while !self.is_turn_full()
            && let Some(id) = wanted.next()
        {
            self.read_page(now, id);
        }
        // Whoever asks again has had its page in this turn, and comes behind those that have not.
        let again = std::mem::replace(&mut self.sinks.page_wanted, wanted.collect());
        self.sinks.page_wanted.extend(again);
    }

    /// Reads the next messages of one session, of its queue or of what is retained for it, and sends what its window takes.
    pub(super) fn read_page(&mut self, now: Now, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id.slot, id.generation) else {
            return;
        };
        session.queue.is_loading = false;
        if !session.is_online() {
            return;
        }
        if session.reads_retained && !session.queue.needs_page() {
            self.read_retained(now, id);
            self.pump(now, id);
            return;
        }
        if !session.queue.needs_page() {
            // What only memory has came meanwhile, and waits for this: it is sent first, and then it is asked again.
            self.pump(now, id);
            return;
        }
        let Some(checkpoint) = &self.checkpoint else {
            return;
        };
        let owner = Owner::Session(session.receiver.client_id.clone());
        let page = checkpoint.queued(&owner, &session.queue.next_page(), PAGE_BYTES_MAX);
        match page {
            Ok(page) if !page.is_empty() => {
                session.queue.misses = 0;
                session.queue.take_page(page, &self.shared.exchange.totals);
                self.pump(now, id);
            }
            found => {
                session.queue.is_loading = true;
                session.queue.misses += 1;
                let misses = session.queue.misses;
                if misses.is_multiple_of(MISSES_TOLD) {
                    let why = match found {
                        Ok(_) => "the next message is not there".to_owned(),
                        Err(error) => error.to_string(),
                    };
                    let client_id = session.receiver.client_id.escape_debug();
                    tracing::error!("The queue of {client_id} cannot be read: {why}.");
                }
                self.read_page_later(now, id, misses);
            }
        }
    }

    fn read_page_later(&mut self, now: Now, id: SessionId, misses: u32) {
        if misses == 1 {
            // Behind an operation that is appended from here on lies everything that was appended before.
            let clock = ClockRecord {
                broker: now.monotonic,
                wall: now.wall,
            };
            self.sinks.journal.push(Operation::PutClock(clock));
            self.wait_for(now, self.sinks.journal.ticket, Waiting::Page(id));
            return;
        }
        let delay = RETRY_MILLISECONDS << misses.min(RETRY_DOUBLINGS);
        let due = Some(now.monotonic + delay);
        self.timers.set(&mut None, due, Timer::Page(id));
    }
}

/// Text that is read at once; a message that is larger comes alone.
const PAGE_BYTES_MAX: u64 = 256 * 1024;
const RETRY_MILLISECONDS: u64 = 10;
/// Up to about a second and a quarter between two looks.
const RETRY_DOUBLINGS: u32 = 7;
/// Misses in a row after which the log says so, and again after as many.
const MISSES_TOLD: u32 = 16;
