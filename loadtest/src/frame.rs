//! Finds the packets in a stream of bytes by their Fixed Headers, and the few fields a generator looks at.
//!
//! Comes in: whatever one read returned, after what was left over from the read before. Goes out: one `Frame` after the
//! other, or `None` when the rest has not arrived. Nothing is copied and nothing is validated beyond what is needed to
//! stay in step with the stream.

use std::fmt;

/// The packet types a generator sends or receives, as the high four bits of the first byte.
pub const CONNECT: u8 = 0x10;
pub const CONNACK: u8 = 0x20;
pub const PUBLISH: u8 = 0x30;
pub const PUBACK: u8 = 0x40;
pub const PUBREC: u8 = 0x50;
pub const PUBREL: u8 = 0x60;
pub const PUBCOMP: u8 = 0x70;
pub const SUBSCRIBE: u8 = 0x80;
pub const SUBACK: u8 = 0x90;
pub const PINGREQ: u8 = 0xc0;
pub const PINGRESP: u8 = 0xd0;
pub const DISCONNECT: u8 = 0xe0;

/// One whole packet inside a read buffer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Frame<'a> {
    /// Packet type and flags.
    pub first: u8,
    /// The whole packet.
    pub bytes: &'a [u8],
    /// Everything behind the Fixed Header.
    pub body: &'a [u8],
    /// Length of the whole packet, Fixed Header included.
    pub length: usize,
}

impl<'a> Frame<'a> {
    /// The first packet of `input`, or `None` if it is not all there.
    #[inline]
    pub fn next(input: &'a [u8]) -> Result<Option<Self>, FrameError> {
        let [first, rest @ ..] = input else {
            return Ok(None);
        };
        let Some((remaining_length, header_rest)) = variable_byte_integer(rest)? else {
            return Ok(None);
        };
        let length = 1 + header_rest + remaining_length;
        let Some(bytes) = input.get(..length) else {
            return Ok(None);
        };
        Ok(Some(Frame {
            first: *first,
            bytes,
            body: bytes.get(1 + header_rest..).unwrap_or_default(),
            length,
        }))
    }

    /// The packet type, flags masked out.
    #[inline]
    pub fn packet_type(&self) -> u8 {
        self.first & 0xf0
    }

    /// The Packet Identifier of an acknowledgement (or SUBSCRIBE): the first two bytes of the body.
    #[inline]
    pub fn packet_id(&self) -> Result<[u8; 2], FrameError> {
        match self.body {
            [high, low, ..] => Ok([*high, *low]),
            _ => Err(FrameError::TooShort { first: self.first }),
        }
    }

    /// The Reason Code of a PUBACK, PUBREC, PUBREL or PUBCOMP, which is 0 where it is left out.
    #[inline]
    pub fn acknowledgement_reason(&self) -> u8 {
        self.body.get(2).copied().unwrap_or(0)
    }

    /// Topic Name, Packet Identifier and payload of a PUBLISH.
    #[inline]
    pub fn publish(&self, version_5: bool) -> Result<PublishFields<'a>, FrameError> {
        let too_short = FrameError::TooShort { first: self.first };
        let [topic_high, topic_low, rest @ ..] = self.body else {
            return Err(too_short);
        };
        let topic_length = usize::from(u16::from_be_bytes([*topic_high, *topic_low]));
        let Some((topic, mut rest)) = rest.split_at_checked(topic_length) else {
            return Err(too_short);
        };
        let qos = self.first >> 1 & 3;
        let mut packet_id = [0, 0];
        if qos > 0 {
            let [high, low, behind @ ..] = rest else {
                return Err(too_short);
            };
            packet_id = [*high, *low];
            rest = behind;
        }
        if version_5 {
            let Some((properties_length, own_length)) = variable_byte_integer(rest)? else {
                return Err(too_short);
            };
            rest = rest
                .get(own_length + properties_length..)
                .ok_or(too_short)?;
        }
        Ok(PublishFields {
            qos,
            topic,
            packet_id,
            payload: rest,
        })
    }
}

/// What a generator needs to know of a PUBLISH.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PublishFields<'a> {
    pub qos: u8,
    pub topic: &'a [u8],
    /// Meaningless at QoS 0.
    pub packet_id: [u8; 2],
    pub payload: &'a [u8],
}

/// A stream that cannot be followed any further.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum FrameError {
    /// A length of more than four bytes.
    LengthTooLong,
    /// A packet that ends before its own fields do.
    TooShort { first: u8 },
}

impl fmt::Display for FrameError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LengthTooLong => write!(out, "a length of more than four bytes"),
            Self::TooShort { first } => write!(
                out,
                "a packet with first byte {first:#04x} ends before its fields do"
            ),
        }
    }
}

impl std::error::Error for FrameError {}

/// Value and own length of the Variable Byte Integer at the start of `input`, `None` if it is not all there.
#[inline]
pub fn variable_byte_integer(input: &[u8]) -> Result<Option<(usize, usize)>, FrameError> {
    let mut value = 0;
    for (index, byte) in input.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((value, index + 1)));
        }
    }
    if input.len() >= 4 {
        Err(FrameError::LengthTooLong)
    } else {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QOS_1_V3: &[u8] = b"\x32\x08\x00\x03a/b\x12\x34Z";
    const QOS_0_V5: &[u8] = b"\x30\x09\x00\x03a/b\x02\x01\x01Z";

    #[test]
    fn every_cut_of_a_frame_asks_for_more() {
        let mut long = vec![PUBLISH, 0xac, 0x02];
        long.resize(3 + 300, 7);
        for whole in [QOS_1_V3, QOS_0_V5, &long] {
            for cut in 0..whole.len() {
                assert_eq!(Frame::next(&whole[..cut]), Ok(None), "cut at {cut}");
            }
            let frame = Frame::next(whole).unwrap().unwrap();
            assert_eq!(frame.length, whole.len());
        }
    }

    #[test]
    fn bytes_behind_a_frame_are_not_part_of_it() {
        let stream = [QOS_1_V3, b"\x40\x02\x00\x07", &[PINGRESP]].concat();
        let first = Frame::next(&stream).unwrap().unwrap();
        assert_eq!(first.length, QOS_1_V3.len());
        let second = Frame::next(&stream[first.length..]).unwrap().unwrap();
        assert_eq!(
            (second.packet_type(), second.packet_id()),
            (PUBACK, Ok([0, 7]))
        );
        assert_eq!(
            Frame::next(&stream[first.length + second.length..]),
            Ok(None)
        );
    }

    #[test]
    fn a_fifth_length_byte_is_an_error() {
        let endless = [PUBLISH, 0x80, 0x80, 0x80, 0x80, 0x01];
        assert_eq!(Frame::next(&endless), Err(FrameError::LengthTooLong));
        assert_eq!(Frame::next(&endless[..4]), Ok(None));
    }

    #[test]
    fn publish_fields_are_found_in_both_versions() {
        let frame = Frame::next(QOS_1_V3).unwrap().unwrap();
        let fields = frame.publish(false).unwrap();
        assert_eq!((fields.qos, fields.topic), (1, b"a/b".as_slice()));
        assert_eq!(
            (fields.packet_id, fields.payload),
            ([0x12, 0x34], b"Z".as_slice())
        );
        let frame = Frame::next(QOS_0_V5).unwrap().unwrap();
        let fields = frame.publish(true).unwrap();
        assert_eq!((fields.qos, fields.payload), (0, b"Z".as_slice()));
    }

    #[test]
    fn a_publish_shorter_than_its_topic_is_an_error() {
        let frame = Frame::next(b"\x30\x04\x00\x09ab").unwrap().unwrap();
        assert_eq!(
            frame.publish(false),
            Err(FrameError::TooShort { first: PUBLISH })
        );
    }

    #[test]
    fn a_left_out_reason_code_is_success() {
        let short = Frame::next(b"\x40\x02\x00\x01").unwrap().unwrap();
        let long = Frame::next(b"\x40\x03\x00\x01\x97").unwrap().unwrap();
        assert_eq!(
            (
                short.acknowledgement_reason(),
                long.acknowledgement_reason()
            ),
            (0, 0x97)
        );
    }
}
