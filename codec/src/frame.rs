//! Where one packet ends and the next begins: the fixed header, and the caller's limits.
//!
//! In: what has been received so far. Out: the length of the first packet, "more bytes are needed", or an error as early as the
//! bytes allow one. Does not look behind the fixed header.

use core::fmt;

use crate::error::{DecodeError, Misdeed, Place};

/// The type of a Control Packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum PacketType {
    /// A client asks for a session.
    Connect = 1,
    /// The server's answer to CONNECT.
    Connack = 2,
    /// An Application Message.
    Publish = 3,
    /// Acknowledges a PUBLISH of QoS 1.
    Puback = 4,
    /// QoS 2: received.
    Pubrec = 5,
    /// QoS 2: released.
    Pubrel = 6,
    /// QoS 2: complete.
    Pubcomp = 7,
    /// A client asks for subscriptions.
    Subscribe = 8,
    /// The server's answer to SUBSCRIBE.
    Suback = 9,
    /// A client ends subscriptions.
    Unsubscribe = 10,
    /// The server's answer to UNSUBSCRIBE.
    Unsuback = 11,
    /// A sign of life.
    Pingreq = 12,
    /// The answer to PINGREQ.
    Pingresp = 13,
    /// The last packet of a Network Connection.
    Disconnect = 14,
    /// A step of enhanced authentication (5.0).
    Auth = 15,
}

impl PacketType {
    /// The type of the high four bits; `None` for 0 and for what is no four bits.
    #[inline]
    #[must_use]
    pub const fn from_u8(bits: u8) -> Option<Self> {
        Some(match bits {
            1 => Self::Connect,
            2 => Self::Connack,
            3 => Self::Publish,
            4 => Self::Puback,
            5 => Self::Pubrec,
            6 => Self::Pubrel,
            7 => Self::Pubcomp,
            8 => Self::Subscribe,
            9 => Self::Suback,
            10 => Self::Unsubscribe,
            11 => Self::Unsuback,
            12 => Self::Pingreq,
            13 => Self::Pingresp,
            14 => Self::Disconnect,
            15 => Self::Auth,
            _ => return None,
        })
    }

    /// The first byte of a packet of this type other than PUBLISH.
    pub(crate) const fn first_byte(self) -> u8 {
        ((self as u8) << 4) | self.reserved_flags()
    }

    /// The low four bits that the standard fixes. [MQTT-2.1.3-1] [v3 MQTT-2.2.2-1]
    pub(crate) const fn reserved_flags(self) -> u8 {
        match self {
            Self::Pubrel | Self::Subscribe | Self::Unsubscribe => 0b0010,
            _ => 0,
        }
    }
}

impl fmt::Display for PacketType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "CONNECT",
            Self::Connack => "CONNACK",
            Self::Publish => "PUBLISH",
            Self::Puback => "PUBACK",
            Self::Pubrec => "PUBREC",
            Self::Pubrel => "PUBREL",
            Self::Pubcomp => "PUBCOMP",
            Self::Subscribe => "SUBSCRIBE",
            Self::Suback => "SUBACK",
            Self::Unsubscribe => "UNSUBSCRIBE",
            Self::Unsuback => "UNSUBACK",
            Self::Pingreq => "PINGREQ",
            Self::Pingresp => "PINGRESP",
            Self::Disconnect => "DISCONNECT",
            Self::Auth => "AUTH",
        })
    }
}

/// What the caller is willing to take in one packet; checked before anything is allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a whole packet, fixed header included. Above: [`Misdeed::PacketTooLarge`], as soon as the length is read.
    pub packet_size_max: u32,
    /// User Properties of one packet (of CONNECT: those of the packet and of the Will each). Above: [`Misdeed::TooManyUserProperties`].
    pub user_properties_max: u16,
    /// Levels of a Topic Name (65,535 slashes make 65,536, which is always refused). Above: [`Misdeed::TooManyTopicLevels`]. Topic Filters are left to the caller
    /// ([`crate::topic::levels`]), who can refuse one of several.
    pub topic_levels_max: u16,
    /// Topic Filters of one SUBSCRIBE or UNSUBSCRIBE. Above: [`Misdeed::TooManyTopicFilters`].
    pub topic_filters_max: u16,
}

impl Limits {
    /// No limit but the protocol's own.
    pub const PROTOCOL: Self = Self {
        packet_size_max: REMAINING_LENGTH_MAX + 5,
        user_properties_max: u16::MAX,
        topic_levels_max: u16::MAX,
        topic_filters_max: u16::MAX,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::PROTOCOL
    }
}

/// The first two to five bytes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FixedHeader {
    /// The high four bits of the first byte; 1 to 15.
    pub packet_type_bits: u8,
    /// The low four bits of the first byte.
    pub flags: u8,
    /// Bytes of this header, 2 to 5.
    pub header_length: usize,
    /// Bytes that follow this header, at most 268,435,455.
    pub remaining_length: u32,
}

impl FixedHeader {
    /// Reads the header at the beginning of `input`; `None` when more bytes are needed.
    ///
    /// Packet type 0 is an error from its first byte, a Remaining Length of five bytes from its fourth.
    ///
    /// # Errors
    /// Packet type 0; a Remaining Length of more than four bytes or of more bytes than it needs.
    #[inline]
    pub fn read(input: &[u8]) -> Result<Option<Self>, DecodeError> {
        let Some((&first, rest)) = input.split_first() else {
            return Ok(None);
        };
        let packet_type_bits = first >> 4;
        if packet_type_bits == 0 {
            return Err(DecodeError::new(
                Misdeed::ReservedPacketType,
                Place::FixedHeader(None),
            ));
        }
        let header = |header_length, remaining_length| Self {
            packet_type_bits,
            flags: first & 0x0f,
            header_length,
            remaining_length,
        };
        // Most packets are short; a length of one byte needs no loop.
        match rest.first() {
            None => Ok(None),
            Some(&byte) if byte < 0x80 => Ok(Some(header(2, u32::from(byte)))),
            Some(_) => match read_variable_byte_integer(rest) {
                Ok(Some((value, length))) => Ok(Some(header(1 + length, value))),
                Ok(None) => Ok(None),
                Err(misdeed) => Err(DecodeError::new(
                    misdeed,
                    Place::FixedHeader(PacketType::from_u8(packet_type_bits)),
                )),
            },
        }
    }

    /// Bytes of the whole packet.
    #[inline]
    #[must_use]
    pub const fn packet_length(&self) -> usize {
        self.header_length + self.remaining_length as usize
    }

    /// The type of the packet.
    ///
    /// # Errors
    /// Packet type 0, which [`FixedHeader::read`] never gives.
    #[inline]
    pub fn packet_type(&self) -> Result<PacketType, DecodeError> {
        PacketType::from_u8(self.packet_type_bits).ok_or(DecodeError::new(
            Misdeed::ReservedPacketType,
            Place::FixedHeader(None),
        ))
    }

    /// Refuses what only a server sends: CONNACK, SUBACK, UNSUBACK, PINGRESP.
    ///
    /// # Errors
    /// [`Misdeed::PacketFromServer`], or the fault of the fixed header itself where the byte vectors answer that first.
    pub fn check_from_client(&self) -> Result<(), DecodeError> {
        let packet_type = self.packet_type()?;
        let misdeed = match packet_type {
            PacketType::Connack => Misdeed::PacketFromServer,
            PacketType::Suback | PacketType::Unsuback | PacketType::Pingresp => {
                if self.flags == 0 {
                    Misdeed::PacketFromServer
                } else {
                    Misdeed::InvalidFlags
                }
            }
            _ => return Ok(()),
        };
        Err(DecodeError::new(misdeed, Place::Packet(packet_type)))
    }
}

/// Finds the first packet of `input`: its header and the length of the whole; `None` when more bytes are needed.
///
/// An error is given as early as it is known, before the packet is complete.
///
/// # Errors
/// Those of [`FixedHeader::read`]; a packet above the limit; a ping with a body.
#[inline]
pub fn cut(input: &[u8], limits: &Limits) -> Result<Option<(FixedHeader, usize)>, DecodeError> {
    let Some(header) = FixedHeader::read(input)? else {
        return Ok(None);
    };
    check_length(&header, limits)?;
    let length = header.packet_length();
    Ok((input.len() >= length).then_some((header, length)))
}

#[inline]
pub(crate) fn check_length(header: &FixedHeader, limits: &Limits) -> Result<(), DecodeError> {
    let packet_type = PacketType::from_u8(header.packet_type_bits);
    if header.packet_length() > limits.packet_size_max as usize {
        return Err(DecodeError::new(
            Misdeed::PacketTooLarge,
            Place::FixedHeader(packet_type),
        ));
    }
    if header.remaining_length > 0
        && matches!(
            packet_type,
            Some(PacketType::Pingreq | PacketType::Pingresp)
        )
    {
        return Err(DecodeError::new(
            Misdeed::PingNotEmpty,
            Place::FixedHeader(packet_type),
        ));
    }
    Ok(())
}

/// The value and the number of its bytes; `None` when more bytes are needed.
#[inline]
pub(crate) fn read_variable_byte_integer(input: &[u8]) -> Result<Option<(u32, usize)>, Misdeed> {
    let mut value = 0_u32;
    for (index, &byte) in input.iter().take(4).enumerate() {
        value |= u32::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            // [MQTT-1.5.5-1]
            if byte == 0 && index > 0 {
                return Err(Misdeed::VariableByteIntegerNotMinimal);
            }
            return Ok(Some((value, index + 1)));
        }
    }
    if input.len() >= 4 {
        return Err(Misdeed::VariableByteIntegerTooLong);
    }
    Ok(None)
}

/// The highest Remaining Length, and the highest value of any Variable Byte Integer.
pub(crate) const REMAINING_LENGTH_MAX: u32 = 268_435_455;
