//! Every packet as a log line, in Mosquitto's words, for who asks with `-v`. Costs one comparison where nobody does.
//!
//! Topics and client ids appear, payloads never. What is sent is read back from the send buffer at the end of the turn, so
//! that the lines are what goes over the wire and in its order.

use std::fmt::Write;
use std::io::IoSlice;

use nightjar_codec::packet::PublishRef;
use nightjar_codec::{Acknowledgement, Limits, Packet, PacketType, ProtocolVersion, cut, decode};
use tracing::Level;

use super::{Connection, Phase, Shard};
use crate::identity::ConnectionId;

pub(super) fn is_on() -> bool {
    tracing::enabled!(Level::TRACE)
}

impl Shard {
    /// A packet from a client, before it is served.
    pub(super) fn trace_received(&self, id: ConnectionId, packet: &[u8]) {
        let Some(connection) = self.connections.get(id.slot, id.generation) else {
            return;
        };
        for line in describe(packet, connection.version, Direction::Received) {
            tracing::trace!("{}", line.replace("{}", &self.name_of(connection)));
        }
    }

    /// What this turn has put in the send buffers.
    pub(super) fn trace_sent(&mut self) {
        for id in self.sinks.dirty.clone() {
            let Some(connection) = self.connections.get_mut(id.slot, id.generation) else {
                continue;
            };
            let untraced = connection.send.take_appended();
            let untraced = usize::try_from(untraced).unwrap_or(usize::MAX);
            let Some(connection) = self.connections.get(id.slot, id.generation) else {
                continue;
            };
            let bytes = tail(connection, untraced);
            let name = self.name_of(connection);
            let mut rest = &*bytes;
            while let Ok(Some((_, length))) = cut(rest, &Limits::PROTOCOL) {
                let (packet, after) = rest.split_at(length);
                for line in describe(packet, connection.version, Direction::Sent) {
                    tracing::trace!("{}", line.replace("{}", &name));
                }
                rest = after;
            }
        }
    }

    fn name_of(&self, connection: &Connection) -> String {
        let session = match connection.phase {
            Phase::Serving { session } => self.sessions.get(session.slot, session.generation),
            _ => None,
        };
        session.map_or_else(
            || connection.peer.to_string(),
            |session| session.receiver.client_id.to_string(),
        )
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Received,
    Sent,
}

impl Direction {
    const fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Received => ("Received", "from"),
            Self::Sent => ("Sending", "to"),
        }
    }
}

/// The lines of one packet; `{}` stands for the client. Nothing for bytes that are no packet: they are reported as such.
fn describe(packet: &[u8], version: ProtocolVersion, direction: Direction) -> Vec<String> {
    let (verb, preposition) = direction.words();
    let limits = &Limits::PROTOCOL;
    if let Ok(publish) = PublishRef::decode(packet, version, limits, "") {
        return vec![format!(
            "{verb} PUBLISH {preposition} {{}} (d{}, q{}, r{}, m{}, '{}', ... ({} bytes))",
            u8::from(publish.dup),
            publish.qos as u8,
            u8::from(publish.retain),
            publish.packet_id.map_or(0, |packet_id| packet_id.get()),
            publish.topic,
            publish.payload.len()
        )];
    }
    let Ok(packet) = decode(packet, version, limits) else {
        return Vec::new();
    };
    let name = packet.packet_type();
    let mut line = format!("{verb} {name} {preposition} {{}}");
    let mut lines = Vec::new();
    match &packet {
        Packet::Connack(connack) => {
            let present = u8::from(connack.session_present);
            push(
                &mut line,
                format_args!(" ({present}, {})", connack.reason_code.as_u8()),
            );
        }
        Packet::Puback(acknowledgement)
        | Packet::Pubrec(acknowledgement)
        | Packet::Pubrel(acknowledgement)
        | Packet::Pubcomp(acknowledgement) => {
            push_acknowledgement(&mut line, acknowledgement, name, direction)
        }
        Packet::Subscribe(subscribe) => {
            for filter in &subscribe.filters {
                lines.push(format!(
                    "    {} (QoS {})",
                    filter.topic_filter, filter.options.qos as u8
                ));
            }
        }
        Packet::Unsubscribe(unsubscribe) => {
            lines.extend(
                unsubscribe
                    .topic_filters
                    .iter()
                    .map(|filter| format!("    {filter}")),
            );
        }
        Packet::Disconnect(disconnect)
            if version.is_v5()
                && (direction == Direction::Sent || disconnect.reason_code.as_u8() != 0) =>
        {
            push(
                &mut line,
                format_args!(" (rc{})", disconnect.reason_code.as_u8()),
            );
        }
        _ => {}
    }
    lines.insert(0, line);
    lines
}

/// Mosquitto leaves out the reason code where there is seldom one; a failure is told here.
fn push_acknowledgement(
    line: &mut String,
    acknowledgement: &Acknowledgement,
    packet_type: PacketType,
    direction: Direction,
) {
    let packet_id = acknowledgement.packet_id.get();
    let reason_code = acknowledgement.reason_code.as_u8();
    let has_code = reason_code != 0
        || match packet_type {
            PacketType::Puback => true,
            PacketType::Pubrec => direction == Direction::Sent,
            PacketType::Pubcomp => direction == Direction::Received,
            _ => false,
        };
    match (direction, has_code) {
        (Direction::Received, true) => {
            push(line, format_args!(" (Mid: {packet_id}, RC:{reason_code})"));
        }
        (Direction::Received, false) => push(line, format_args!(" (Mid: {packet_id})")),
        (Direction::Sent, true) => push(line, format_args!(" (m{packet_id}, rc{reason_code})")),
        (Direction::Sent, false) => push(line, format_args!(" (m{packet_id})")),
    }
}

fn push(line: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing into a String cannot fail.
    let _ = line.write_fmt(text);
}

/// The last `count` unwritten bytes of a connection.
fn tail(connection: &Connection, count: usize) -> Vec<u8> {
    let mut slices = vec![IoSlice::new(&[]); connection.send.pieces()];
    let filled = connection.send.slices(&mut slices);
    let all: Vec<u8> = slices
        .iter()
        .take(filled)
        .flat_map(|slice| slice.iter().copied())
        .collect();
    all.get(all.len().saturating_sub(count)..)
        .unwrap_or_default()
        .to_vec()
}
