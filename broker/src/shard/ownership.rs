//! Own it, then acknowledge it: what waits for the journal, and what happens when it is durable, or when it never will be.
//!
//! Everything a turn wants kept is one batch with one ticket. Acknowledgements wait in their connection's three FIFOs (D3);
//! this room keeps, in ticket order, which sessions have some, and everything else that waits. Tickets become durable in
//! order. When the journal fails, what waits above its durable mark is refused and never acknowledged (D5).

use std::rc::Rc;
use std::sync::Arc;

use nightjar_codec::{Packet, PacketId, ReasonCode};
use nightjar_storage::{JournalStatus, StoredMessage, epoch};
use smallvec::SmallVec;

use super::subscribe::{AcceptedSubscribe, AcceptedUnsubscribe};
use super::{Cause, Shard, publish};
use crate::clock::Now;
use crate::exchange::delivery::Route;
use crate::exchange::shared::Assignment;
use crate::identity::{ConnectionId, SessionId, Ticket};
use crate::message::stored_cost;

/// What leaves when its ticket is durable.
pub(super) enum Waiting {
    /// The acknowledgements at the front of this session's FIFOs.
    Acknowledgements(SessionId),
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
    pub(super) offers: Vec<Assignment>,
}

impl Shard {
    pub(super) fn wait_for(&mut self, ticket: Ticket, waiting: Waiting) {
        debug_assert!(
            self.waiting.back().is_none_or(|(last, _)| *last <= ticket),
            "tickets are waited for in order"
        );
        self.waiting.push_back((ticket, waiting));
    }

    /// Nothing leaves for this connection before the ticket is durable.
    pub(super) fn cork(&mut self, id: ConnectionId, ticket: Ticket) {
        if self.sinks.journal.is_durable(ticket) {
            return;
        }
        if let Some(connection) = self.connections.get_mut(id.slot, id.generation) {
            connection.is_corked = true;
        }
        let last = self.waiting.back().map_or(ticket, |(last, _)| *last);
        self.wait_for(ticket.max(last), Waiting::Uncork(id));
    }

    /// After a call that may have put acknowledgements behind the batch: remember to release them.
    pub(super) fn note_waiting_acknowledgements(&mut self, id: ConnectionId) {
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
        let ticket = self
            .waiting
            .back()
            .map_or(last, |(back, _)| last.max(*back));
        let noted = matches!(
            self.waiting.back(),
            Some((_, Waiting::Acknowledgements(noted))) if *noted == session_id
        );
        if !noted || self.waiting.back().is_none_or(|(back, _)| *back < ticket) {
            self.wait_for(ticket, Waiting::Acknowledgements(session_id));
        }
    }

    /// Hands this turn's batch to the journal. False: it was not taken and goes with the next turn.
    pub(super) fn append_batch(&mut self) -> bool {
        let Some(journal) = &self.shared.journal else {
            return true;
        };
        for (session, packet_id) in std::mem::take(&mut self.sinks.journal.held) {
            self.waiting
                .push_back((self.sinks.journal.ticket, Waiting::Held(session, packet_id)));
        }
        if self.sinks.journal.batch.is_empty() {
            return true;
        }
        match journal.append(self.sinks.journal.take_batch()) {
            Ok(lsn) => {
                self.tickets.push_back((self.sinks.journal.ticket, lsn));
                self.sinks.journal.ticket += 1;
                true
            }
            Err(full) => {
                // Nothing of it was taken: it goes again with the next turn, in front. What waits for it goes on waiting.
                self.sinks.journal.batch = full.batch.0;
                self.sinks.counters.journal_refused += 1;
                false
            }
        }
    }

    /// Looks how far the journal has come, and lets go what has become durable or never will.
    pub(super) fn release_durable(&mut self, now: Now) {
        let Some(journal) = &self.shared.journal else {
            return;
        };
        let status = journal.status();
        let lost = match &status {
            JournalStatus::Durable(durable) => {
                epoch(*durable) != self.epoch && self.epoch_has_passed(epoch(*durable))
            }
            JournalStatus::Failed { .. } => true,
            JournalStatus::Reopened { epoch } => {
                *epoch != self.epoch && self.epoch_has_passed(*epoch)
            }
        };
        while let Some((ticket, lsn)) = self.tickets.front().copied() {
            if !status.covers(lsn) {
                break;
            }
            self.tickets.pop_front();
            self.sinks.journal.durable = ticket;
        }
        let durable = self.sinks.journal.durable;
        if !self.deletions.is_empty() {
            self.deletions.retain(|_, ticket| *ticket > durable);
        }
        self.let_go(now);
        if lost {
            self.refuse_what_waits(now);
            self.note_epoch();
        }
    }

    fn epoch_has_passed(&self, current: u16) -> bool {
        self.tickets
            .front()
            .is_some_and(|(_, lsn)| epoch(*lsn) != current)
    }

    pub(super) fn note_epoch(&mut self) {
        if let Some(journal) = &self.shared.journal {
            self.epoch = match journal.status() {
                JournalStatus::Durable(durable) | JournalStatus::Failed { durable, .. } => {
                    epoch(durable)
                }
                JournalStatus::Reopened { epoch } => epoch,
            };
        }
    }

    fn let_go(&mut self, now: Now) {
        while let Some((ticket, _)) = self.waiting.front() {
            if !self.sinks.journal.is_durable(*ticket) {
                return;
            }
            let Some((_, waiting)) = self.waiting.pop_front() else {
                return;
            };
            self.release(now, waiting);
        }
    }

    fn release(&mut self, now: Now, waiting: Waiting) {
        match waiting {
            Waiting::Acknowledgements(session) => self.release_acknowledgements(now, session),
            Waiting::Held(session, packet_id) => self.release_held(now, session, packet_id),
            Waiting::Deliver(held) => publish::deliver_held(self, now, *held),
            Waiting::Subscribe(accepted) => {
                self.count_waiting_subscribe(accepted.session(), false);
                self.finish_subscribe(now, *accepted);
            }
            Waiting::Unsubscribe(accepted) => self.finish_unsubscribe(now, &accepted),
            Waiting::Packet { connection, packet } => self.write_packet(connection, &packet),
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

    /// The journal has lost what was not durable: nothing of it is acknowledged. 5.0 publishers hear 0x97; others are
    /// closed, and send it again when they come back. Subscribers whose exchange hung on it are closed too, since their
    /// state on disk and in memory differ.
    fn refuse_what_waits(&mut self, now: Now) {
        self.tickets.clear();
        for (_, waiting) in std::mem::take(&mut self.waiting) {
            match waiting {
                Waiting::Acknowledgements(id) => self.refuse_acknowledgements(now, id),
                Waiting::Held(id, _) => self.close_session_connection(now, id),
                Waiting::Deliver(held) => self.drop_held(&held),
                Waiting::Subscribe(accepted) => {
                    self.count_waiting_subscribe(accepted.session(), false);
                    self.close_session_connection(now, accepted.session())
                }
                Waiting::Unsubscribe(accepted) => self.close(
                    now,
                    accepted.connection,
                    Cause::Server(ReasonCode::ServerBusy),
                ),
                Waiting::Packet { connection, .. } | Waiting::Uncork(connection) => {
                    self.close(now, connection, Cause::Server(ReasonCode::ServerBusy));
                }
            }
        }
        // A new ticket line: what was given out so far is settled.
        self.sinks.journal.durable = self.sinks.journal.ticket.saturating_sub(1);
    }

    /// A held message that nobody owns: what was reserved for it is given back, and members of share groups are free again.
    fn drop_held(&mut self, held: &HeldPublish) {
        self.held_publishes -= 1;
        let cost = stored_cost(&held.message);
        let totals = &self.shared.exchange.totals;
        for delivery in held.route.local.iter().chain(&held.route.remote) {
            if held.owners.binary_search(&delivery.session).is_ok() {
                delivery.receiver.budget.release(cost, totals);
            }
        }
        let offers = held.offers.iter();
        let finished = offers.map(|offer| (offer.session, offer.group));
        self.sinks.finished.extend(finished);
    }

    fn refuse_acknowledgements(&mut self, now: Now, id: SessionId) {
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
        let close = session.refuse_waiting(&mut out);
        connection.mark_dirty(&mut self.sinks.dirty);
        if close {
            self.close(now, connection_id, Cause::NotOwned);
        }
    }

    fn close_session_connection(&mut self, now: Now, id: SessionId) {
        let connection = self
            .sessions
            .get(id.slot, id.generation)
            .and_then(|session| session.link.as_ref())
            .map(|link| link.connection);
        if let Some(connection) = connection {
            self.close(now, connection, Cause::Server(ReasonCode::ServerBusy));
        }
    }
}
