//! Back-pressure of the journal (D4): how much of this shard is not durable, and who is not read because of it.
//!
//! Counted are the operations of batches that the journal has taken and not made durable, of the batch that grows, and
//! letters that wait behind a batch which the journal did not take. Above `journal_pending_bytes_max` connections whose last
//! PUBLISH needed the journal are not read; above twice that, whoever's last packet did, and who has not said CONNECT yet. Once half of the bound is durable
//! they are read again. Nothing is dropped, and keep alive does not run for them meanwhile.

use std::collections::BTreeMap;

use super::{Connection, Shard};
use crate::clock::Now;
use crate::identity::ConnectionId;

/// What is not durable, and what follows from it.
#[derive(Default)]
pub(super) struct Pressure {
    /// Bytes of batches that the journal has taken.
    pub(super) appended: u64,
    /// Cost of the letters behind a batch that it has not.
    pub(super) held_mail: u64,
    level: Level,
    /// Connections that had something to say and were not read, and since when.
    paused: BTreeMap<ConnectionId, u64>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Level {
    #[default]
    Free,
    PublishersWait,
    EverybodyWaits,
}

/// What a connection's packets have asked of the journal lately.
#[derive(Default)]
pub(super) struct Needs {
    publish: bool,
    last_packet: bool,
}

impl Shard {
    /// Bytes of this shard that are not durable.
    pub fn journal_pending_bytes(&self) -> u64 {
        self.pressure.appended + self.pressure.held_mail + self.sinks.journal.batch_bytes
    }

    /// Nothing of this connection is read, because of what it lately asked of the journal.
    pub(super) fn waits_for_room(&self, connection: &Connection) -> bool {
        let needs = &connection.needs;
        match self.pressure.level {
            Level::Free => false,
            Level::PublishersWait => needs.publish,
            Level::EverybodyWaits => needs.publish || needs.last_packet || !connection.is_served(),
        }
    }

    /// A packet of this connection was served; `pushed` is what had ever gone to the journal before that.
    pub(super) fn note_needs(&mut self, id: ConnectionId, is_publish: bool, pushed: u64) {
        if !self.sinks.journal.enabled {
            return;
        }
        let needed = self.sinks.journal.pushed != pushed;
        if let Some(connection) = self.connections.get_mut(id.slot, id.generation) {
            connection.needs.last_packet = needed;
            if is_publish {
                connection.needs.publish = needed;
            }
        }
        if needed {
            self.weigh();
        }
    }

    /// The driver had something to read from this connection, and `may_read` was false.
    pub fn note_paused(&mut self, now: Now, id: ConnectionId) {
        let Some(connection) = self.connections.get(id.slot, id.generation) else {
            return;
        };
        if !self.waits_for_room(connection) || self.pressure.paused.contains_key(&id) {
            return;
        }
        self.pressure.paused.insert(id, now.monotonic);
        self.sinks.counters.connections_paused += 1;
    }

    /// The level goes up at once, also within a turn.
    fn weigh(&mut self) {
        let max = self.shared.settings.journal_pending_bytes_max;
        let pending = self.journal_pending_bytes();
        let level = if pending > max.saturating_mul(2) {
            Level::EverybodyWaits
        } else if pending > max {
            Level::PublishersWait
        } else {
            Level::Free
        };
        self.pressure.level = self.pressure.level.max(level);
    }

    /// At the end of a turn it goes down where enough has become durable, and those who were not read are again: the driver
    /// finds them among the dirty ones.
    pub(super) fn relieve(&mut self, now: Now) {
        self.weigh();
        let max = self.shared.settings.journal_pending_bytes_max;
        let pending = self.journal_pending_bytes();
        let level = if pending <= max / 2 {
            Level::Free
        } else if pending <= max {
            Level::PublishersWait
        } else {
            return;
        };
        if level >= self.pressure.level {
            return;
        }
        self.pressure.level = level;
        for (id, since) in std::mem::take(&mut self.pressure.paused) {
            let still_waits = self
                .connections
                .get(id.slot, id.generation)
                .is_some_and(|connection| self.waits_for_room(connection));
            if still_waits {
                self.pressure.paused.insert(id, since);
                continue;
            }
            self.count_paused(now, since);
            if let Some(connection) = self.connections.get_mut(id.slot, id.generation) {
                // It was silent because we did not listen.
                connection.last_received = now.monotonic;
                connection.mark_dirty(&mut self.sinks.dirty);
            }
        }
    }

    /// The connection ends, paused or not.
    pub(super) fn forget_paused(&mut self, now: Now, id: ConnectionId) {
        if let Some(since) = self.pressure.paused.remove(&id) {
            self.count_paused(now, since);
        }
    }

    fn count_paused(&mut self, now: Now, since: u64) {
        self.sinks.counters.paused_milliseconds += now.monotonic.saturating_sub(since);
    }
}
