//! Bytes of one direction of one connection, cut anywhere, as packets.

use nightjar_codec::packet::{Acknowledgement, AcknowledgementProperties};
use nightjar_codec::{Limits, Packet, PacketId, ProtocolVersion, QoS, ReasonCode, cut, decode};

/// Puts pieces together and cuts packets off.
#[derive(Default)]
pub(crate) struct Splitter {
    bytes: Vec<u8>,
}

impl Splitter {
    /// Takes a piece. The version is that of the connection; CONNECT brings its own.
    pub(crate) fn feed(&mut self, piece: &[u8], version: ProtocolVersion) -> Vec<Packet> {
        self.bytes.extend_from_slice(piece);
        let mut packets = Vec::new();
        let mut version = version;
        let mut from = 0;
        while let Some((_, length)) =
            cut(&self.bytes[from..], &Limits::PROTOCOL).expect("honest bytes have a length")
        {
            let packet = decode(&self.bytes[from..from + length], version, &Limits::PROTOCOL);
            let packet = packet.unwrap_or_else(|error| {
                let bytes = &self.bytes[from..from + length];
                panic!("violation: these bytes are no packet: {error} {bytes:02x?}")
            });
            if let Packet::Connect(connect) = &packet {
                version = connect.protocol_version;
            }
            packets.push(packet);
            from += length;
        }
        self.bytes.drain(..from);
        packets
    }
}

pub(crate) fn encode(packet: &Packet, version: ProtocolVersion) -> Vec<u8> {
    let mut bytes = Vec::new();
    packet
        .encode(version, &mut bytes)
        .expect("what a simulated client says can be said");
    bytes
}

pub(crate) fn acknowledgement(packet_id: u16) -> Acknowledgement {
    Acknowledgement {
        packet_id: PacketId::new(packet_id).expect("a packet id is not 0"),
        reason_code: ReasonCode::Success,
        properties: AcknowledgementProperties::default(),
    }
}

pub(crate) fn qos(level: u8) -> QoS {
    match level {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    }
}

/// A packet in a few words.
pub(crate) fn describe(packet: &Packet) -> String {
    match packet {
        Packet::Connect(connect) => format!(
            "CONNECT {} v{} clean={} expiry={:?}{}",
            connect.client_id,
            connect.protocol_version.level(),
            u8::from(connect.clean_start),
            connect.properties.session_expiry_interval,
            connect.will.as_ref().map_or(String::new(), |will| format!(
                " will={} q{} delay={:?}",
                String::from_utf8_lossy(&will.payload),
                will.qos as u8,
                will.properties.will_delay_interval
            )),
        ),
        Packet::Connack(connack) => format!(
            "CONNACK present={} {:?}",
            u8::from(connack.session_present),
            connack.reason_code
        ),
        Packet::Publish(publish) => format!(
            "PUBLISH {} m{} q{}{}{}{}",
            publish.topic,
            payload_key(publish).map_or_else(|| "?".into(), |key| key.to_string()),
            publish.qos as u8,
            publish
                .packet_id
                .map_or(String::new(), |id| format!(" id={}", id.get())),
            if publish.dup { " DUP" } else { "" },
            if publish.retain { " RETAIN" } else { "" },
        ),
        Packet::Puback(packet) => acknowledged("PUBACK", packet),
        Packet::Pubrec(packet) => acknowledged("PUBREC", packet),
        Packet::Pubrel(packet) => acknowledged("PUBREL", packet),
        Packet::Pubcomp(packet) => acknowledged("PUBCOMP", packet),
        Packet::Subscribe(subscribe) => format!(
            "SUBSCRIBE id={} {}",
            subscribe.packet_id.get(),
            subscribe
                .filters
                .iter()
                .map(|filter| format!("{} q{}", filter.topic_filter, filter.options.qos as u8))
                .collect::<Vec<_>>()
                .join(", ")
        ),
        Packet::Suback(suback) => {
            format!(
                "SUBACK id={} {:?}",
                suback.packet_id.get(),
                suback.reason_codes
            )
        }
        Packet::Unsubscribe(unsubscribe) => format!(
            "UNSUBSCRIBE id={} {}",
            unsubscribe.packet_id.get(),
            unsubscribe.topic_filters.join(", ")
        ),
        Packet::Unsuback(unsuback) => format!("UNSUBACK id={}", unsuback.packet_id.get()),
        Packet::Pingreq => "PINGREQ".into(),
        Packet::Pingresp => "PINGRESP".into(),
        Packet::Disconnect(disconnect) => format!(
            "DISCONNECT {:?} expiry={:?}",
            disconnect.reason_code, disconnect.properties.session_expiry_interval
        ),
        Packet::Auth(_) => "AUTH".into(),
    }
}

/// The number of the message, which its payload begins with; a deletion of what is retained has it in a User Property.
pub(crate) fn payload_key(publish: &nightjar_codec::packet::Publish) -> Option<usize> {
    if publish.payload.is_empty() {
        let (_, value) = publish.properties.user_properties.first()?;
        return value.parse().ok();
    }
    std::str::from_utf8(publish.payload.get(..KEY_LENGTH)?)
        .ok()?
        .parse()
        .ok()
}

/// A payload that says which message it is, and is `length` long if that is more.
pub(crate) fn payload(key: usize, length: usize) -> Vec<u8> {
    let mut payload = format!("{key:0KEY_LENGTH$}").into_bytes();
    while payload.len() < length {
        payload.push(b'.');
    }
    payload
}

fn acknowledged(name: &str, packet: &Acknowledgement) -> String {
    match packet.reason_code {
        ReasonCode::Success => format!("{name} id={}", packet.packet_id.get()),
        reason_code => format!("{name} id={} {reason_code:?}", packet.packet_id.get()),
    }
}

const KEY_LENGTH: usize = 6;
