//! Deadlines of one shard. Every owner has at most one of a kind, so the set is never larger than twice the connections
//! and twice the sessions together.

use std::collections::BTreeSet;

use crate::identity::{ConnectionId, SessionId};

/// What is due.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Timer {
    /// Something of a connection: CONNECT, keep alive, or the last bytes.
    Connection(ConnectionId),
    /// The certificate of a connection's client ends.
    Certificate(ConnectionId),
    /// A delayed will, or the end of an offline session.
    Session(SessionId),
    /// A session's queue is looked for in the store again.
    Page(SessionId),
    /// Expired retained messages and group queues are swept away.
    Sweep,
    /// It is to be said how many log lines were left out.
    LeftOut,
    /// The journal is to be asked again, or somebody has waited for it long enough.
    Journal,
    /// What was retained at QoS 0 is written.
    Retained,
}

#[derive(Debug, Default)]
pub(crate) struct Timers {
    due: BTreeSet<(u64, Timer)>,
}

impl Timers {
    /// Moves the owner's deadline. `armed` is where the owner remembers it.
    pub(crate) fn set(&mut self, armed: &mut Option<u64>, deadline: Option<u64>, timer: Timer) {
        if *armed == deadline {
            return;
        }
        if let Some(old) = armed.take() {
            self.due.remove(&(old, timer));
        }
        if let Some(new) = deadline {
            self.due.insert((new, timer));
            *armed = Some(new);
        }
    }

    pub(crate) fn next(&self) -> Option<u64> {
        self.due.first().map(|(deadline, _)| *deadline)
    }

    /// The next one that is due at `now`. The owner's `armed` has to be cleared.
    pub(crate) fn pop(&mut self, now: u64) -> Option<Timer> {
        let (deadline, timer) = *self.due.first()?;
        if deadline > now {
            return None;
        }
        self.due.remove(&(deadline, timer));
        Some(timer)
    }
}
