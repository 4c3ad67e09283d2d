//! What was read of a connection and cannot be served yet: the beginning of a packet, and what one turn had no room for. All of
//! it together is bounded (D19).

use std::collections::VecDeque;

use nightjar_codec::cut;

use super::{Cause, Connection, Phase, Received, Shard};
use crate::clock::Now;
use crate::identity::ConnectionId;
use crate::session::seldom::{Nothing, Seldom};

/// PUBLISH packets that wait for PUBRELs (D22), in order.
#[derive(Default)]
pub(super) struct WaitingPublishes {
    pub(super) packets: VecDeque<Box<[u8]>>,
    pub(super) bytes: u64,
}

impl Nothing for WaitingPublishes {
    const NOTHING: &'static Self = &Self {
        packets: VecDeque::new(),
        bytes: 0,
    };
}

impl Shard {
    /// Its client is let in.
    pub fn is_serving(&self, id: ConnectionId) -> bool {
        let connection = self.connections.get(id.slot, id.generation);
        connection.is_some_and(Connection::is_served)
    }

    /// Bytes of this connection wait for the next turn. They come before what is still to be read.
    pub fn has_unread(&self, id: ConnectionId) -> bool {
        self.unread_bytes(id) > 0
    }

    /// How many they are.
    pub fn unread_bytes(&self, id: ConnectionId) -> usize {
        self.connections
            .get(id.slot, id.generation)
            .map_or(0, |connection| connection.unread.len())
    }

    pub(super) fn put_aside(&mut self, now: Now, id: ConnectionId, packet: &[u8]) {
        if let Some(connection) = self.connections.get_mut(id.slot, id.generation) {
            let waiting = &mut *connection.waiting_publishes;
            waiting.packets.push_back(packet.into());
            waiting.bytes += waiting_cost(packet);
            self.receive_bytes += waiting_cost(packet);
            self.bound_received(now);
        }
    }

    /// A PUBREL made room: the PUBLISH packets that waited come first.
    pub(super) fn retry_waiting_publishes(&mut self, now: Now, id: ConnectionId) {
        loop {
            let Some(connection) = self.connections.get_mut(id.slot, id.generation) else {
                return;
            };
            let Phase::Serving { session } = connection.phase else {
                return;
            };
            if connection.waiting_publishes.packets.is_empty() {
                return;
            }
            let waiting = &mut *connection.waiting_publishes;
            let Some(packet) = waiting.packets.pop_front() else {
                return;
            };
            waiting.bytes -= waiting_cost(&packet);
            let before = waiting.packets.len();
            self.receive_bytes -= waiting_cost(&packet);
            let result = self.accept_publish(now, id, session, &packet);
            if let Err(cause) = result {
                self.close(now, id, cause);
                return;
            }
            let Some(connection) = self.connections.get_mut(id.slot, id.generation) else {
                return;
            };
            if connection.waiting_publishes.packets.len() > before {
                // Still no room: it went to the back, and belongs in front.
                connection.waiting_publishes.packets.rotate_right(1);
                return;
            }
        }
    }

    pub(super) fn complete_partial(
        &mut self,
        now: Now,
        id: ConnectionId,
        rest: &mut &[u8],
    ) -> Option<Received> {
        let connection = self.connections.get_mut(id.slot, id.generation)?;
        let limits = if connection.is_served() {
            &self.limits
        } else {
            &self.pre_auth_limits
        };
        loop {
            // Never more than what is missing, so that what comes behind the packet is not copied. The header comes first:
            // while its length is unknown one byte at a time is missing.
            let known = cut(&connection.partial, limits);
            let missing = match &known {
                Ok(Some(_)) => 0,
                Ok(None) => match nightjar_codec::FixedHeader::read(&connection.partial) {
                    Ok(Some(header)) => header.packet_length() - connection.partial.len(),
                    _ => 1,
                },
                Err(_) => 0,
            };
            if missing == 0 {
                let partial = std::mem::take(&mut connection.partial);
                self.receive_bytes -= partial.len() as u64;
                match known {
                    Err(error) => {
                        self.close(now, id, Cause::Violation(error.into()));
                        return None;
                    }
                    Ok(_) => {
                        if let Some(home) = self.handle_packet(now, id, &partial) {
                            let mut unread = partial;
                            unread.extend_from_slice(rest);
                            return Some(self.move_away(id, home, &unread));
                        }
                    }
                }
                return Some(Received::Continue);
            }
            if rest.is_empty() {
                return None;
            }
            let (taken, after) = rest.split_at(missing.min(rest.len()));
            connection.partial.extend_from_slice(taken);
            self.receive_bytes += taken.len() as u64;
            *rest = after;
            if taken.len() < missing {
                self.bound_received(now);
                return None;
            }
        }
    }

    pub(super) fn keep_partial(&mut self, now: Now, id: ConnectionId, rest: &[u8]) {
        if rest.is_empty() {
            return;
        }
        let Some(connection) = self.connections.get_mut(id.slot, id.generation) else {
            return;
        };
        // Its own memory, not a pooled buffer: one byte of a packet must not hold 64 KiB.
        connection.partial.extend_from_slice(rest);
        self.receive_bytes += rest.len() as u64;
        self.bound_received(now);
    }

    pub(super) fn keep_unread(&mut self, now: Now, id: ConnectionId, rest: &[u8]) {
        let Some(connection) = self.connections.get_mut(id.slot, id.generation) else {
            return;
        };
        connection.unread = Seldom::from(rest.to_vec());
        self.receive_bytes += rest.len() as u64;
        self.bound_received(now);
    }

    /// Partial packets and those put aside are bounded in total: the largest that makes no progress is closed first (D19).
    pub(super) fn bound_received(&mut self, now: Now) {
        let shards = self.outgoing.len().max(1) as u64;
        while self.receive_bytes > self.shared.settings.receive_bytes_max / shards {
            let is_idle = |connection: &Connection| {
                now.monotonic.saturating_sub(connection.last_received) > IDLE_MILLISECONDS
            };
            let largest = self
                .connections
                .iter()
                .filter(|connection| connection.received_bytes() > 0)
                .max_by_key(|connection| (is_idle(connection), connection.received_bytes()));
            let Some(id) = largest.map(|largest| largest.id) else {
                return;
            };
            self.close(
                now,
                id,
                Cause::Server(nightjar_codec::ReasonCode::QuotaExceeded),
            );
        }
    }
}

/// A packet of which nothing has come for so long makes no progress.
const IDLE_MILLISECONDS: u64 = 1000;

/// What a packet that was put aside counts for: itself and its place in the queue.
fn waiting_cost(packet: &[u8]) -> u64 {
    packet.len() as u64 + 64
}
