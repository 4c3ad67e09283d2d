//! The packets of a generator's life, written and read: CONNECT, CONNACK, SUBSCRIBE, SUBACK, PUBLISH, DISCONNECT.
//!
//! Each is needed once per connection (PUBLISH once per publisher, as a pattern whose sequence number and Packet
//! Identifier are patched), so nothing here is on the hot path.

use std::fmt;

use crate::frame::{self, Frame, FrameError};

/// The protocol a connection speaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Protocol {
    V3_1_1,
    V5,
}

impl Protocol {
    /// Whether packets have properties.
    #[must_use]
    pub fn is_v5(self) -> bool {
        self == Self::V5
    }

    fn level(self) -> u8 {
        match self {
            Self::V3_1_1 => 4,
            Self::V5 => 5,
        }
    }
}

/// A CONNECT with a clean start and without keep alive: a run is bounded in time, and pings would only add noise.
#[must_use]
pub fn connect(protocol: Protocol, client_id: &str, receive_maximum: u16) -> Vec<u8> {
    let mut body = Vec::new();
    string(&mut body, "MQTT");
    body.extend([protocol.level(), 0x02, 0, 0]);
    if protocol.is_v5() {
        body.extend([3, 0x21]);
        body.extend(receive_maximum.max(1).to_be_bytes());
    }
    string(&mut body, client_id);
    packet(frame::CONNECT, &body)
}

/// A SUBSCRIBE of one Topic Filter with Packet Identifier 1.
#[must_use]
pub fn subscribe(protocol: Protocol, topic_filter: &str, qos: u8) -> Vec<u8> {
    let mut body = vec![0, 1];
    if protocol.is_v5() {
        body.push(0);
    }
    string(&mut body, topic_filter);
    body.push(qos);
    packet(frame::SUBSCRIBE | 2, &body)
}

/// A PUBLISH, and where in it the Packet Identifier (at QoS 1 and 2) and the payload begin.
#[must_use]
pub fn publish(
    protocol: Protocol,
    topic: &str,
    qos: u8,
    payload: &[u8],
) -> (Vec<u8>, Option<usize>, usize) {
    let mut body = Vec::new();
    string(&mut body, topic);
    let packet_id_at = (qos > 0).then_some(body.len());
    if qos > 0 {
        body.extend([0, 0]);
    }
    if protocol.is_v5() {
        body.push(0);
    }
    body.extend(payload);
    let whole = packet(frame::PUBLISH | qos << 1, &body);
    let header_length = whole.len() - body.len();
    let payload_at = whole.len() - payload.len();
    (
        whole,
        packet_id_at.map(|offset| header_length + offset),
        payload_at,
    )
}

/// A normal DISCONNECT, the same in every version.
pub const DISCONNECT: [u8; 2] = [frame::DISCONNECT, 0];

/// What a CONNACK allows the client to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Connack {
    /// QoS 1 and 2 messages in flight towards the broker. 3.1.1 knows no bound but the Packet Identifiers.
    pub receive_maximum: u16,
    pub maximum_qos: u8,
}

impl Connack {
    /// Reads a CONNACK, which must say yes.
    pub fn read(protocol: Protocol, frame: Frame<'_>) -> Result<Self, Refusal> {
        if frame.packet_type() != frame::CONNACK {
            return Err(Refusal::Unexpected { first: frame.first });
        }
        let [_flags, code, properties @ ..] = frame.body else {
            return Err(FrameError::TooShort { first: frame.first }.into());
        };
        if *code != 0 {
            return Err(Refusal::Connect { code: *code });
        }
        let mut connack = Self {
            receive_maximum: u16::MAX,
            maximum_qos: 2,
        };
        if protocol.is_v5() {
            connack.read_properties(properties, frame.first)?;
        }
        Ok(connack)
    }

    fn read_properties(&mut self, input: &[u8], first: u8) -> Result<(), Refusal> {
        let too_short = FrameError::TooShort { first };
        let (length, own) = frame::variable_byte_integer(input)?.ok_or(too_short)?;
        let mut rest = input.get(own..own + length).ok_or(too_short)?;
        while let [identifier, behind @ ..] = rest {
            let length = match identifier {
                0x24 | 0x25 | 0x28 | 0x29 | 0x2a => 1,
                0x13 | 0x21 | 0x22 => 2,
                0x11 | 0x27 => 4,
                0x12 | 0x15 | 0x16 | 0x1a | 0x1c | 0x1f => {
                    string_length(behind).ok_or(too_short)?
                }
                0x26 => {
                    let name = string_length(behind).ok_or(too_short)?;
                    name + behind
                        .get(name..)
                        .and_then(string_length)
                        .ok_or(too_short)?
                }
                _ => {
                    return Err(Refusal::Property {
                        identifier: *identifier,
                    });
                }
            };
            let (value, behind) = behind.split_at_checked(length).ok_or(too_short)?;
            match (identifier, value) {
                (0x21, [high, low]) => self.receive_maximum = u16::from_be_bytes([*high, *low]),
                (0x24, [qos]) => self.maximum_qos = *qos,
                _ => {}
            }
            rest = behind;
        }
        Ok(())
    }
}

/// Reads a SUBACK, which must grant at least `qos`.
pub fn read_suback(frame: Frame<'_>, qos: u8) -> Result<(), Refusal> {
    if frame.packet_type() != frame::SUBACK {
        return Err(Refusal::Unexpected { first: frame.first });
    }
    match frame.body.last() {
        Some(granted) if *granted <= 2 && *granted >= qos => Ok(()),
        Some(code) => Err(Refusal::Subscribe { code: *code }),
        None => Err(FrameError::TooShort { first: frame.first }.into()),
    }
}

/// Why a broker did not let the generator in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Refusal {
    Connect { code: u8 },
    Subscribe { code: u8 },
    Unexpected { first: u8 },
    Property { identifier: u8 },
    Frame(FrameError),
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect { code } => {
                write!(out, "the broker refused CONNECT with code {code:#04x}")
            }
            Self::Subscribe { code } => {
                write!(out, "the broker answered SUBSCRIBE with code {code:#04x}")
            }
            Self::Unexpected { first } => {
                write!(
                    out,
                    "the broker sent an unexpected packet with first byte {first:#04x}"
                )
            }
            Self::Property { identifier } => {
                write!(
                    out,
                    "the broker sent CONNACK with unknown property {identifier:#04x}"
                )
            }
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

fn string_length(input: &[u8]) -> Option<usize> {
    match input {
        [high, low, ..] => Some(2 + usize::from(u16::from_be_bytes([*high, *low]))),
        _ => None,
    }
}

fn string(out: &mut Vec<u8>, value: &str) {
    let length = u16::try_from(value.len()).expect("names made here are short");
    out.extend(length.to_be_bytes());
    out.extend(value.as_bytes());
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    let mut rest = body.len();
    assert!(rest < 1 << 28, "the arguments bound the payload");
    while rest >= 0x80 {
        out.push(u8::try_from(rest & 0x7f).expect("seven bits") | 0x80);
        rest >>= 7;
    }
    out.push(u8::try_from(rest).expect("seven bits"));
    out.extend(body);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connack_properties_are_found_behind_others() {
        let bytes = b"\x20\x0e\x00\x00\x0b\x22\x00\x0a\x27\x00\x1e\x84\x80\x21\x00\x14";
        let frame = Frame::next(bytes).unwrap().unwrap();
        let connack = Connack::read(Protocol::V5, frame).unwrap();
        assert_eq!((connack.receive_maximum, connack.maximum_qos), (20, 2));
    }

    #[test]
    fn a_refused_connect_is_an_error() {
        let frame = Frame::next(b"\x20\x02\x00\x05").unwrap().unwrap();
        assert_eq!(
            Connack::read(Protocol::V3_1_1, frame),
            Err(Refusal::Connect { code: 5 })
        );
    }

    #[test]
    fn a_suback_below_the_wanted_qos_is_an_error() {
        let frame = Frame::next(b"\x90\x03\x00\x01\x01").unwrap().unwrap();
        assert_eq!(read_suback(frame, 1), Ok(()));
        assert_eq!(read_suback(frame, 2), Err(Refusal::Subscribe { code: 1 }));
    }

    #[test]
    fn publish_offsets_point_at_packet_id_and_payload() {
        for (protocol, qos) in [
            (Protocol::V3_1_1, 0),
            (Protocol::V5, 1),
            (Protocol::V3_1_1, 2),
        ] {
            let payload = vec![9; 200];
            let (bytes, packet_id_at, payload_at) = publish(protocol, "a/b", qos, &payload);
            let frame = Frame::next(&bytes).unwrap().unwrap();
            let fields = frame.publish(protocol.is_v5()).unwrap();
            assert_eq!((frame.length, fields.qos), (bytes.len(), qos));
            assert_eq!(fields.payload, &bytes[payload_at..]);
            assert_eq!(packet_id_at.is_some(), qos > 0);
            if let Some(at) = packet_id_at {
                assert_eq!(bytes[at..at + 2], [0, 0]);
                assert_eq!(bytes[at - 3..at], *b"a/b");
            }
        }
    }
}
