//! The packets of a generator's life, through the codec: CONNECT, CONNACK, SUBSCRIBE, SUBACK, PUBLISH, DISCONNECT.
//!
//! Each is needed once per connection (PUBLISH once per publisher, as a pattern whose sequence number and Packet
//! Identifier are patched), so nothing here is on the hot path.

use std::fmt;
use std::num::NonZeroU16;

use nightjar_codec::{
    Connect, ConnectProperties, DecodeError, Limits, Packet, PacketId, ProtocolVersion,
    PublishHead, QoS, ReasonCode, Subscribe, SubscribeFilter, SubscribeProperties,
    SubscriptionOptions, decode,
};

use crate::frame::{self, FrameError};

/// Whom a connection says it is, and which session it wants.
#[derive(Clone, Copy, Debug)]
pub struct Greeting<'a> {
    pub protocol: ProtocolVersion,
    pub client_id: &'a str,
    pub receive_maximum: u16,
    pub credentials: Option<&'a Credentials>,
    pub session: SessionWish,
}

/// Which session a connection asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SessionWish {
    /// A new one that ends with the connection.
    Clean,
    /// The one there is, if any, to be kept after the connection: for so many seconds in 5.0, without end before.
    Kept { seconds: u32 },
}

/// User name and password.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Credentials {
    pub username: String,
    pub password: Option<String>,
}

/// A CONNECT without keep alive: a run is bounded in time, and pings would only add noise.
#[must_use]
pub fn connect(greeting: &Greeting<'_>) -> Vec<u8> {
    let version = greeting.protocol;
    let kept = match greeting.session {
        SessionWish::Clean => None,
        SessionWish::Kept { seconds } => Some(seconds),
    };
    let password = greeting
        .credentials
        .and_then(|credentials| credentials.password.as_ref());
    let packet = Connect {
        protocol_version: version,
        bridge: false,
        clean_start: kept.is_none(),
        keep_alive: 0,
        client_id: greeting.client_id.into(),
        will: None,
        username: greeting
            .credentials
            .map(|credentials| credentials.username.as_str().into()),
        password: password.map(|password| password.clone().into_bytes().into()),
        properties: ConnectProperties {
            receive_maximum: NonZeroU16::new(greeting.receive_maximum),
            session_expiry_interval: kept,
            ..ConnectProperties::default()
        },
    };
    encode(&Packet::Connect(Box::new(packet)), version)
}

/// A SUBSCRIBE of one Topic Filter.
#[must_use]
pub fn subscribe(version: ProtocolVersion, topic_filter: &str, qos: QoS) -> Vec<u8> {
    subscribe_all(version, PacketId::MIN, [topic_filter], qos)
}

/// A SUBSCRIBE of several Topic Filters.
#[must_use]
pub fn subscribe_all<S: AsRef<str>>(
    version: ProtocolVersion,
    packet_id: PacketId,
    topic_filters: impl IntoIterator<Item = S>,
    qos: QoS,
) -> Vec<u8> {
    let options = SubscriptionOptions {
        qos,
        ..SubscriptionOptions::default()
    };
    let filters = topic_filters.into_iter().map(|filter| SubscribeFilter {
        topic_filter: filter.as_ref().into(),
        options,
    });
    let packet = Subscribe {
        packet_id,
        properties: SubscribeProperties::default(),
        filters: filters.collect(),
    };
    encode(&Packet::Subscribe(packet), version)
}

/// A PUBLISH whose fields are patched before it is sent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pattern {
    pub bytes: Vec<u8>,
    /// Where the Packet Identifier is, at QoS 1 and 2.
    pub packet_id_at: Option<usize>,
    pub payload_at: usize,
}

impl Pattern {
    /// Encodes it once.
    #[must_use]
    pub fn publish(version: ProtocolVersion, topic: &str, qos: QoS, payload: &[u8]) -> Self {
        let head = PublishHead {
            dup: false,
            qos,
            retain: false,
            topic,
            packet_id: None,
            subscription_identifiers: &[],
            message_expiry_interval: None,
            topic_alias: None,
            forwardable_properties: &[],
            payload_length: payload.len(),
        };
        let mut bytes = Vec::with_capacity(head.encoded_length(version));
        let packet_id_at = head.encode(version, &mut bytes);
        let payload_at = bytes.len();
        bytes.extend(payload);
        Self {
            bytes,
            packet_id_at,
            payload_at,
        }
    }
}

/// A normal DISCONNECT, the same in every version.
pub const DISCONNECT: [u8; 2] = [frame::DISCONNECT, 0];

/// What a CONNACK allows the client to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Allowed {
    pub session_present: bool,
    /// QoS 1 and 2 messages in flight towards the broker. Before 5.0 there is no bound but the Packet Identifiers.
    pub receive_maximum: u16,
    pub maximum_qos: QoS,
}

impl Default for Allowed {
    /// What the absence of a property says.
    fn default() -> Self {
        Self {
            session_present: false,
            receive_maximum: u16::MAX,
            maximum_qos: QoS::ExactlyOnce,
        }
    }
}

/// Reads a CONNACK, which must say yes.
pub fn read_connack(version: ProtocolVersion, bytes: &[u8]) -> Result<Allowed, Refusal> {
    let Packet::Connack(connack) = read(version, bytes)? else {
        return Err(Refusal::unexpected(bytes));
    };
    if connack.reason_code.is_error() {
        return Err(Refusal::Connect(connack.reason_code));
    }
    let default = Allowed::default();
    let properties = connack.properties;
    let receive_maximum = properties.receive_maximum.map(NonZeroU16::get);
    Ok(Allowed {
        session_present: connack.session_present,
        receive_maximum: receive_maximum.unwrap_or(default.receive_maximum),
        maximum_qos: properties.maximum_qos.unwrap_or(default.maximum_qos),
    })
}

/// Reads a SUBACK, which must grant at least `qos` to every filter; tells how many they are.
pub fn read_suback(version: ProtocolVersion, bytes: &[u8], qos: QoS) -> Result<usize, Refusal> {
    let Packet::Suback(suback) = read(version, bytes)? else {
        return Err(Refusal::unexpected(bytes));
    };
    let granted = |code: &&ReasonCode| !code.is_error() && code.as_u8() >= qos.as_u8();
    let codes = suback.reason_codes;
    match codes.iter().find(|code| !granted(code)) {
        Some(code) => Err(Refusal::Subscribe(*code)),
        None if codes.is_empty() => Err(Refusal::unexpected(bytes)),
        None => Ok(codes.len()),
    }
}

/// Why a broker did not let the generator in.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Refusal {
    Connect(ReasonCode),
    /// An error, or a lower QoS than asked for.
    Subscribe(ReasonCode),
    Unexpected {
        first: u8,
    },
    Decode(DecodeError),
    Frame(FrameError),
}

impl Refusal {
    fn unexpected(bytes: &[u8]) -> Self {
        Self::Unexpected {
            first: bytes.first().copied().unwrap_or(0),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(code) => write!(out, "the broker refused CONNECT with {code}"),
            Self::Subscribe(code) => write!(out, "the broker answered SUBSCRIBE with {code}"),
            Self::Unexpected { first } => write!(
                out,
                "the broker sent an unexpected packet with first byte {first:#04x}"
            ),
            Self::Decode(error) => write!(out, "the broker sent an invalid packet: {error}"),
            Self::Frame(error) => write!(out, "the broker sent {error}"),
        }
    }
}

impl std::error::Error for Refusal {}

impl From<FrameError> for Refusal {
    fn from(error: FrameError) -> Self {
        Self::Frame(error)
    }
}

fn read(version: ProtocolVersion, bytes: &[u8]) -> Result<Packet, Refusal> {
    decode(bytes, version, &Limits::PROTOCOL).map_err(Refusal::Decode)
}

fn encode(packet: &Packet, version: ProtocolVersion) -> Vec<u8> {
    let mut bytes = Vec::new();
    packet
        .encode(version, &mut bytes)
        .expect("the arguments bound every field");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Frame;

    #[test]
    fn connack_properties_are_found_behind_others() {
        let bytes = b"\x20\x0e\x00\x00\x0b\x22\x00\x0a\x27\x00\x1e\x84\x80\x21\x00\x14";
        let allowed = read_connack(ProtocolVersion::V5, bytes).unwrap();
        assert_eq!(
            (allowed.receive_maximum, allowed.maximum_qos),
            (20, QoS::ExactlyOnce)
        );
    }

    #[test]
    fn a_refused_connect_is_an_error() {
        assert_eq!(
            read_connack(ProtocolVersion::V3_1_1, b"\x20\x02\x00\x05"),
            Err(Refusal::Connect(ReasonCode::NotAuthorized))
        );
    }

    #[test]
    fn a_suback_below_the_wanted_qos_is_an_error() {
        let check = |qos| read_suback(ProtocolVersion::V3_1_1, b"\x90\x03\x00\x01\x01", qos);
        assert_eq!(check(QoS::AtLeastOnce), Ok(1));
        assert!(matches!(
            check(QoS::ExactlyOnce),
            Err(Refusal::Subscribe(_))
        ));
    }

    #[test]
    fn publish_offsets_point_at_packet_id_and_payload() {
        for (version, qos) in [
            (ProtocolVersion::V3_1_1, QoS::AtMostOnce),
            (ProtocolVersion::V5, QoS::AtLeastOnce),
            (ProtocolVersion::V3_1_1, QoS::ExactlyOnce),
        ] {
            let payload = vec![9; 200];
            let pattern = Pattern::publish(version, "a/b", qos, &payload);
            let frame = Frame::next(&pattern.bytes).unwrap().unwrap();
            let fields = frame.publish(version.is_v5()).unwrap();
            assert_eq!(
                (frame.length, fields.qos),
                (pattern.bytes.len(), qos.as_u8())
            );
            assert_eq!(fields.payload, &pattern.bytes[pattern.payload_at..]);
            assert_eq!(pattern.packet_id_at.is_some(), qos > QoS::AtMostOnce);
            if let Some(at) = pattern.packet_id_at {
                assert_eq!(pattern.bytes[at..at + 2], [0, 0]);
                assert_eq!(pattern.bytes[at - 3..at], *b"a/b");
            }
        }
    }
}
