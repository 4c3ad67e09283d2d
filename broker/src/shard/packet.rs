//! One whole packet of a connection, given to whoever it is for.

use bytes::Bytes;
use nightjar_codec::{
    Acknowledgement, Packet, PacketId, PacketType, ReasonCode, decode_acknowledgement_short,
    decode_from_client,
};

use super::{Cause, Phase, Shard, trace};
use crate::clock::Now;
use crate::identity::{ConnectionId, SessionId, ShardId};
use crate::session::Violation;

/// Why a packet ends its connection.
type Handled = Result<(), Cause>;

impl Shard {
    /// Serves one packet. `Some`: it is a CONNECT for another shard, and nothing was done.
    pub(super) fn handle_packet(
        &mut self,
        now: Now,
        id: ConnectionId,
        packet: &[u8],
    ) -> Option<ShardId> {
        let connection = self.connections.get(id.slot, id.generation)?;
        if trace::is_on() && !matches!(connection.phase, Phase::Greeting) {
            self.trace_received(id, packet);
        }
        let pushed = self.sinks.journal.pushed;
        let connection = self.connections.get_mut(id.slot, id.generation)?;
        let handled = match &connection.phase {
            Phase::Serving { session } => {
                let session = *session;
                self.serve(now, id, session, packet)
            }
            Phase::Greeting => match self.greet(now, id, packet) {
                Ok(Some(home)) => return Some(home), // It is counted there.
                Ok(None) => {
                    self.sinks.counters.count_received(CONNECT << 4);
                    return None;
                }
                Err(cause) => Err(cause),
            },
            Phase::Authenticating(_) => self.continue_authentication(now, id, packet),
            Phase::Verifying { .. } | Phase::Refusing { .. } | Phase::Closing => Ok(()),
        };
        let first_byte = packet.first().copied().unwrap_or_default();
        self.sinks.counters.count_received(first_byte);
        self.note_needs(id, first_byte >> 4 == PUBLISH, pushed);
        if let Err(cause) = handled {
            self.close(now, id, cause);
        }
        None
    }

    fn serve(&mut self, now: Now, id: ConnectionId, session: SessionId, packet: &[u8]) -> Handled {
        match packet.first().map(|first| first >> 4) {
            Some(PUBLISH) => return self.handle_publish(now, id, session, packet),
            // [MQTT-3.1.0-2]: whatever is in it.
            Some(CONNECT) => return Err(Cause::Violation(Violation::SecondConnect)),
            Some(PUBACK..=PUBCOMP) => {
                if let Some((packet_type, packet_id)) = decode_acknowledgement_short(packet) {
                    return self.handle_acknowledgement(
                        now,
                        id,
                        session,
                        packet_type,
                        packet_id,
                        ReasonCode::Success,
                    );
                }
            }
            _ => {}
        }
        let version = self.version(session);
        let mut packet = decode_from_client(&Bytes::copy_from_slice(packet), version, &self.limits)
            .map_err(|error| Cause::Violation(error.into()))?;
        self.mount_filters(session, &mut packet);
        let acknowledged = |packet_type, acknowledgement: &Acknowledgement| {
            (
                packet_type,
                acknowledgement.packet_id,
                acknowledgement.reason_code,
            )
        };
        let (packet_type, packet_id, reason_code) = match &packet {
            Packet::Puback(packet) => acknowledged(PacketType::Puback, packet),
            Packet::Pubrec(packet) => acknowledged(PacketType::Pubrec, packet),
            Packet::Pubrel(packet) => acknowledged(PacketType::Pubrel, packet),
            Packet::Pubcomp(packet) => acknowledged(PacketType::Pubcomp, packet),
            Packet::Subscribe(subscribe) => {
                return self.handle_subscribe(now, id, session, subscribe);
            }
            Packet::Unsubscribe(unsubscribe) => {
                return self.handle_unsubscribe(now, id, session, unsubscribe);
            }
            Packet::Pingreq => {
                // [MQTT-3.12.4-1]. Never waits for anything (D3).
                self.write(id, &[0xd0, 0x00]);
                return Ok(());
            }
            Packet::Disconnect(disconnect) => {
                let settings = &self.shared.settings;
                let Some(session) = self.sessions.get_mut(session.slot, session.generation) else {
                    return Ok(());
                };
                let fate = session
                    .handle_disconnect(disconnect, settings)
                    .map_err(Cause::Violation)?;
                return Err(Cause::Disconnected(fate));
            }
            Packet::Auth(auth) => return self.handle_auth(id, session, auth),
            // CONNECT and PUBLISH went their own ways above.
            _ => return Err(Cause::Violation(Violation::PacketForClients)),
        };
        self.handle_acknowledgement(now, id, session, packet_type, packet_id, reason_code)
    }

    /// From here on topic filters are whole, as topics are.
    fn mount_filters(&self, session: SessionId, packet: &mut Packet) {
        let session = self.sessions.get(session.slot, session.generation);
        let link = session.and_then(|session| session.link.as_ref());
        let Some(link) = link.filter(|link| link.terms.is_mounted()) else {
            return;
        };
        match packet {
            Packet::Subscribe(subscribe) => subscribe
                .filters
                .iter_mut()
                .for_each(|filter| link.terms.mount_filter(&mut filter.topic_filter)),
            Packet::Unsubscribe(unsubscribe) => unsubscribe
                .topic_filters
                .iter_mut()
                .for_each(|filter| link.terms.mount_filter(filter)),
            _ => {}
        }
    }

    fn handle_acknowledgement(
        &mut self,
        now: Now,
        id: ConnectionId,
        session: SessionId,
        packet_type: PacketType,
        packet_id: PacketId,
        reason_code: ReasonCode,
    ) -> Handled {
        let Some(connection) = self.connections.get_mut(id.slot, id.generation) else {
            return Ok(());
        };
        let Some(session) = self.sessions.get_mut(session.slot, session.generation) else {
            return Ok(());
        };
        let mut out = self.sinks.outputs(now, &self.shared, &mut connection.send);
        match packet_type {
            PacketType::Puback => session.handle_puback(packet_id, &mut out),
            PacketType::Pubrec => session.handle_pubrec(packet_id, reason_code, &mut out),
            PacketType::Pubcomp => session.handle_pubcomp(packet_id, &mut out),
            _ => {
                session.handle_pubrel(packet_id, &mut out);
                Ok(())
            }
        }
        .map_err(Cause::Violation)?;
        session.pump(&mut out);
        if !connection.send.is_empty() {
            connection.mark_dirty(&mut self.sinks.dirty);
        }
        self.note_waiting_acknowledgements(now, id);
        if packet_type == PacketType::Pubrel {
            self.retry_waiting_publishes(now, id);
        }
        Ok(())
    }

    /// Puts the bytes of one packet in a connection's send buffer.
    pub(super) fn write(&mut self, id: ConnectionId, bytes: &[u8]) {
        if let Some(connection) = self.connections.get_mut(id.slot, id.generation) {
            connection.send.borrow_from(&mut self.sinks.pool);
            connection.send.extend(bytes);
            let first_byte = bytes.first().copied().unwrap_or_default();
            self.sinks.counters.count_sent(first_byte);
            connection.mark_dirty(&mut self.sinks.dirty);
        }
    }

    /// Encodes a packet into a connection's send buffer.
    pub(super) fn write_packet(&mut self, id: ConnectionId, packet: &Packet) {
        // [MQTT-3.14.4-1]: what comes too late for a connection that has ended is not said.
        if let Some(connection) = self
            .connections
            .get_mut(id.slot, id.generation)
            .filter(|connection| !connection.is_closing())
        {
            let version = connection.version;
            connection.send.borrow_from(&mut self.sinks.pool);
            let encoded = connection.send.append(|out| packet.encode(version, out));
            let packet_type = packet.packet_type() as u8;
            self.sinks.counters.count_sent(packet_type << 4);
            debug_assert!(
                encoded.is_ok(),
                "a packet of our own does not encode: {encoded:?}"
            );
            connection.mark_dirty(&mut self.sinks.dirty);
        }
    }

    /// Sends what the session's window and send buffer allow.
    pub(super) fn pump(&mut self, now: Now, session: SessionId) {
        let Some(session) = self.sessions.get_mut(session.slot, session.generation) else {
            return;
        };
        let Some(link) = &session.link else { return };
        let id = link.connection;
        let Some(connection) = self.connections.get_mut(id.slot, id.generation) else {
            return;
        };
        let mut out = self.sinks.outputs(now, &self.shared, &mut connection.send);
        session.pump(&mut out);
        if !connection.send.is_empty() {
            connection.mark_dirty(&mut self.sinks.dirty);
        }
    }

    pub(super) fn version(&self, session: SessionId) -> nightjar_codec::ProtocolVersion {
        self.sessions
            .get(session.slot, session.generation)
            .map_or(nightjar_codec::ProtocolVersion::V3_1_1, |session| {
                session.version
            })
    }
}

const CONNECT: u8 = PacketType::Connect as u8;
const PUBLISH: u8 = PacketType::Publish as u8;
const PUBACK: u8 = PacketType::Puback as u8;
const PUBCOMP: u8 = PacketType::Pubcomp as u8;
