//! Own it, then acknowledge it: what waits for the journal, and what happens when it is durable.
//!
//! Everything a turn wants kept is one batch with one ticket. Acknowledgements wait in their connection's three FIFOs (D3);
//! this room keeps, in ticket order, which sessions have some, and everything else that waits. Tickets become durable in
//! order. A journal that fails keeps what it took: what waits goes on waiting, and is let go when it works again (D5).

use std::rc::Rc;
use std::sync::Arc;

use nightjar_codec::{Packet, PacketId};
use nightjar_storage::{JournalStatus, Lsn, StoredMessage};
use smallvec::SmallVec;

use super::groups::Handing;
use super::subscribe::{AcceptedSubscribe, AcceptedUnsubscribe};
use super::{Cause, Shard, Timer, publish};
use crate::clock::Now;
use crate::exchange::delivery::Route;
use crate::identity::{ConnectionId, SessionId, Ticket};

/// A batch that the journal has taken.
#[derive(Clone, Copy)]
pub(super) struct Appended {
    ticket: Ticket,
    lsn: Lsn,
    bytes: u64,
}

/// How the journal gets on, as this shard sees it.
#[derive(Default)]
pub(super) struct Progress {
    /// It has not taken the batch. No turn is ended for that alone before `timer`.
    pub(super) is_stuck: bool,
    timer: Option<u64>,
    /// It had failed at the end of the last turn.
    pub(super) has_failed: bool,
    /// When something became durable last, or began to wait.
    moved_at: u64,
    /// How many of those who wait, from the front, have waited so long that their clients were told to come back later.
    given_up: usize,
}

/// What waits, for which ticket, and since when.
pub(super) struct Waits {
    pub(super) ticket: Ticket,
    since: u64,
    what: Waiting,
}

/// What leaves when its ticket is durable.
pub(super) enum Waiting {
    /// The acknowledgements at the front of this session's FIFOs, which go to this connection.
    Acknowledgements {
        session: SessionId,
        connection: ConnectionId,
    },
    /// A QoS 2 PUBLISH or PUBREL to a subscriber.
    Held(SessionId, PacketId),
    /// A QoS 2 message for its receivers.
    Deliver(Box<HeldPublish>),
    Subscribe(Box<AcceptedSubscribe>),
    Unsubscribe(Box<AcceptedUnsubscribe>),
    Packet {
        connection: ConnectionId,
        packet: Box<Packet>,
    },
    /// CONNACK, and what was written behind it.
    Uncork(ConnectionId),
    /// The next page of this session's queue, which was not there when it was looked for.
    Page(SessionId),
}

/// A QoS 2 message whose owners are on their way to the journal.
pub(super) struct HeldPublish {
    pub(super) route: Rc<Route>,
    pub(super) message: Arc<StoredMessage>,
    pub(super) sequence: u64,
    pub(super) publisher: Option<SessionId>,
    pub(super) skipped: SmallVec<[SessionId; 4]>,
    /// Sessions that room was reserved for.
    pub(super) owners: SmallVec<[SessionId; 4]>,
    pub(super) handing: Vec<Handing>,
}

impl Waiting {
    /// Whose client waits for an answer. Subscribers wait for messages, whatever happens to the journal.
    fn asked_by(&self) -> Option<ConnectionId> {
        match self {
            Self::Acknowledgements { connection, .. } => Some(*connection),
            Self::Subscribe(accepted) => Some(accepted.connection),
            Self::Unsubscribe(accepted) => Some(accepted.connection),
            Self::Packet { connection, .. } | Self::Uncork(connection) => Some(*connection),
            Self::Held(..) | Self::Deliver(_) | Self::Page(_) => None,
        }
    }
}

impl Shard {
    pub(super) fn wait_for(&mut self, now: Now, ticket: Ticket, what: Waiting) {
        debug_assert!(
            self.waiting.back().is_none_or(|last| last.ticket <= ticket),
            "tickets are waited for in order"
        );
        if self.waiting.is_empty() {
            self.progress.moved_at = now.monotonic;
        }
        let since = now.monotonic;
        self.waiting.push_back(Waits {
            ticket,
            since,
            what,
        });
    }

    /// Nothing leaves for this connection before the ticket is durable.
    pub(super) fn cork(&mut self, now: Now, id: ConnectionId, ticket: Ticket) {
        if self.sinks.journal.is_durable(ticket) || self.is_told_from_memory(id) {
            return;
        }
        if let Some(connection) = self.connections.get_mut(id.slot, id.generation) {
            connection.is_corked = true;
        }
        let last = self.waiting.back().map_or(ticket, |last| last.ticket);
        self.wait_for(now, ticket.max(last), Waiting::Uncork(id));
    }

    /// This connection does not wait for the journal.
    pub(super) fn is_told_from_memory(&self, id: ConnectionId) -> bool {
        self.connections
            .get(id.slot, id.generation)
            .is_some_and(|connection| connection.from_memory)
    }

    /// After a call that may have put acknowledgements behind the batch: remember to release them.
    pub(super) fn note_waiting_acknowledgements(&mut self, now: Now, id: ConnectionId) {
        if !self.sinks.journal.enabled {
            return;
        }
        let Some(connection) = self.connections.get(id.slot, id.generation) else {
            return;
        };
        let super::Phase::Serving {
            session: session_id,
        } = connection.phase
        else {
            return;
        };
        let Some(link) = self
            .sessions
            .get(session_id.slot, session_id.generation)
            .and_then(|session| session.link.as_ref())
        else {
            return;
        };
        let last = [&link.pubacks, &link.pubrecs, &link.pubcomps]
            .into_iter()
            .filter_map(|fifo| fifo.last_ticket())
            .max();
        let Some(last) = last else { return };
        // Not the present batch, which may stay empty: the last one that anything waits for.
        let back = self.waiting.back();
        let ticket = back.map_or(last, |back| last.max(back.ticket));
        let is_noted = back.is_some_and(|back| {
            let noted = matches!(back.what, Waiting::Acknowledgements { connection, .. } if connection == id);
            noted && back.ticket >= ticket
        });
        if !is_noted {
            let what = Waiting::Acknowledgements {
                session: session_id,
                connection: id,
            };
            self.wait_for(now, ticket, what);
        }
    }

    /// Hands this turn's batch to the journal. False: it was not taken and grows until it is.
    pub(super) fn append_batch(&mut self, now: Now) -> bool {
        if !self.sinks.journal.enabled {
            return true;
        }
        for (session, packet_id) in std::mem::take(&mut self.sinks.journal.held) {
            let ticket = self.sinks.journal.ticket;
            self.wait_for(now, ticket, Waiting::Held(session, packet_id));
        }
        self.progress.is_stuck = false;
        let bytes = self.sinks.journal.batch_bytes;
        match self.append_all(now) {
            Ok(None) => true,
            Ok(Some(lsn)) => {
                self.tickets.push_back(Appended {
                    ticket: self.sinks.journal.ticket,
                    lsn,
                    bytes,
                });
                self.pressure.appended += bytes;
                self.sinks.journal.ticket += 1;
                true
            }
            Err(full) => {
                // Nothing of it was taken: it goes again, in front. What waits for it goes on waiting.
                self.sinks.journal.batch = full.batch.0;
                self.sinks.journal.batch_bytes = bytes;
                self.sinks.counters.journal_refused += 1;
                self.progress.is_stuck = true;
                self.arm_journal(now.monotonic + RETRY_MILLISECONDS);
                false
            }
        }
    }

    /// Looks how far the journal has come, and lets go what has become durable.
    pub(super) fn release_durable(&mut self, now: Now) {
        let Some(journal) = &self.shared.journal else {
            return;
        };
        let status = journal.status();
        self.progress.has_failed = matches!(status, JournalStatus::Failed { .. });
        while let Some(first) = self.tickets.front().copied() {
            if !status.covers(first.lsn) {
                break;
            }
            self.tickets.pop_front();
            self.pressure.appended -= first.bytes;
            self.sinks.journal.durable = first.ticket;
            self.progress.moved_at = now.monotonic;
        }
        let durable = self.sinks.journal.durable;
        if !self.deletions.is_empty() {
            self.deletions.retain(|_, ticket| *ticket > durable);
        }
        self.let_go(now);
    }

    fn let_go(&mut self, now: Now) {
        while let Some(first) = self.waiting.front() {
            if !self.sinks.journal.is_durable(first.ticket) {
                return;
            }
            let Some(first) = self.waiting.pop_front() else {
                return;
            };
            self.progress.given_up = self.progress.given_up.saturating_sub(1);
            self.release(now, first.what);
        }
    }

    fn arm_journal(&mut self, at: u64) {
        let at = self.progress.timer.map_or(at, |armed| armed.min(at));
        self.timers
            .set(&mut self.progress.timer, Some(at), Timer::Journal);
    }

    /// Whoever waits has a deadline.
    pub(super) fn arm_patience(&mut self) {
        if self.progress.timer.is_none()
            && let Some(next) = self.waiting.get(self.progress.given_up)
        {
            self.arm_journal(next.since.max(self.progress.moved_at) + self.patience());
        }
    }

    fn patience(&self) -> u64 {
        u64::from(self.shared.settings.journal_wait_seconds) * 1000
    }

    /// The journal is asked again, and clients that have waited for it long enough are told to come back later.
    pub(super) fn journal_due(&mut self, now: Now) {
        self.progress.timer = None;
        self.progress.is_stuck = false;
        let patience = self.patience();
        if now.monotonic >= self.progress.moved_at + patience {
            while let Some(next) = self.waiting.get(self.progress.given_up)
                && next.since + patience <= now.monotonic
            {
                // It stays in its place: what it waits for will be true, and takes effect then.
                let connection = next.what.asked_by();
                self.progress.given_up += 1;
                if let Some(connection) = connection {
                    self.close(now, connection, Cause::JournalStalled);
                }
            }
        }
        self.arm_patience();
    }

    fn release(&mut self, now: Now, waiting: Waiting) {
        match waiting {
            Waiting::Acknowledgements { session, .. } => {
                self.release_acknowledgements(now, session);
            }
            Waiting::Held(session, packet_id) => self.release_held(now, session, packet_id),
            Waiting::Deliver(held) => publish::deliver_held(self, now, *held),
            Waiting::Subscribe(accepted) => {
                self.count_waiting_subscribe(accepted.session(), false);
                self.finish_subscribe(now, *accepted);
            }
            Waiting::Unsubscribe(accepted) => self.finish_unsubscribe(now, &accepted),
            Waiting::Packet { connection, packet } => self.write_packet(connection, &packet),
            Waiting::Page(session) => self.read_page(now, session),
            Waiting::Uncork(connection) => {
                if let Some(connection) = self
                    .connections
                    .get_mut(connection.slot, connection.generation)
                {
                    connection.is_corked = false;
                    connection.mark_dirty(&mut self.sinks.dirty);
                }
            }
        }
    }

    fn release_acknowledgements(&mut self, now: Now, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id.slot, id.generation) else {
            return;
        };
        let Some(link) = &session.link else { return };
        let connection_id = link.connection;
        let Some(connection) = self
            .connections
            .get_mut(connection_id.slot, connection_id.generation)
        else {
            return;
        };
        let mut out = self.sinks.outputs(now, &self.shared, &mut connection.send);
        session.release_acknowledgements(&mut out);
        if !connection.send.is_empty() {
            connection.mark_dirty(&mut self.sinks.dirty);
        }
    }

    fn release_held(&mut self, now: Now, id: SessionId, packet_id: PacketId) {
        let Some(session) = self.sessions.get_mut(id.slot, id.generation) else {
            return;
        };
        let Some(link) = &session.link else {
            let mut out = self.sinks.outputs_nowhere(now, &self.shared);
            session.release_held(packet_id, &mut out);
            return;
        };
        let connection_id = link.connection;
        let Some(connection) = self
            .connections
            .get_mut(connection_id.slot, connection_id.generation)
        else {
            return;
        };
        let mut out = self.sinks.outputs(now, &self.shared, &mut connection.send);
        session.release_held(packet_id, &mut out);
        session.pump(&mut out);
        if !connection.send.is_empty() {
            connection.mark_dirty(&mut self.sinks.dirty);
        }
    }
}

/// When a batch that was not taken is offered again, should nobody say before that the journal got on.
const RETRY_MILLISECONDS: u64 = 50;
