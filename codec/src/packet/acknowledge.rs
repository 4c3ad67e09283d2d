//! PUBACK, PUBREC, PUBREL and PUBCOMP: one Packet Identifier, in 5.0 with a Reason Code and properties.
//!
//! 5.0 on the wire: length 2 = success, length 3 = a Reason Code, length 4 and above = properties too. The shortest form that
//! says all is written.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::error::{EncodeError, Misdeed};
use crate::frame::{Limits, PacketType};
use crate::primitive::{Body, Properties, Reader, Sink, encode, encoded_length, put_properties};
use crate::property::{self, PropertyId, PutProperty, UserProperties, Value};
use crate::reason_code::ReasonCode;
use crate::version::{PacketId, ProtocolVersion};

/// The body of PUBACK, PUBREC, PUBREL or PUBCOMP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledgement {
    /// The PUBLISH that is meant.
    pub packet_id: PacketId,
    /// 5.0 only; success elsewhere.
    pub reason_code: ReasonCode,
    /// 5.0 only.
    pub properties: AcknowledgementProperties,
}

/// Properties of PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK and UNSUBACK.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AcknowledgementProperties {
    /// Reason String.
    pub reason_string: Option<Box<str>>,
    /// User Properties.
    pub user_properties: UserProperties,
}

impl Acknowledgement {
    /// Success, without properties.
    #[must_use]
    pub const fn success(packet_id: PacketId) -> Self {
        Self::with_reason(packet_id, ReasonCode::Success)
    }

    /// A Reason Code, without properties.
    #[must_use]
    pub const fn with_reason(packet_id: PacketId, reason_code: ReasonCode) -> Self {
        Self {
            packet_id,
            reason_code,
            properties: AcknowledgementProperties {
                reason_string: None,
                user_properties: Vec::new(),
            },
        }
    }

    pub(super) fn decode(
        packet_type: PacketType,
        reader: &mut Reader<'_>,
        version: ProtocolVersion,
        limits: &Limits,
    ) -> Result<Self, Misdeed> {
        let packet_id = reader.packet_id()?;
        if !version.is_v5() || reader.is_empty() {
            return Ok(Self::success(packet_id));
        }
        let reason_code = reason_code(reader, packet_type)?;
        let properties = if reader.is_empty() {
            AcknowledgementProperties::default()
        } else {
            AcknowledgementProperties::decode(reader, limits)?
        };
        Ok(Self {
            packet_id,
            reason_code,
            properties,
        })
    }

    /// Appends the packet as one of `packet_type` and gives its length; appends nothing on error.
    ///
    /// # Errors
    /// A field or the whole is too long.
    pub fn encode(
        &self,
        packet_type: PacketType,
        version: ProtocolVersion,
        out: &mut Vec<u8>,
    ) -> Result<usize, EncodeError> {
        debug_assert!(matches!(
            packet_type,
            PacketType::Puback | PacketType::Pubrec | PacketType::Pubrel | PacketType::Pubcomp
        ));
        encode(packet_type.first_byte(), self, version, out)
    }

    /// The length that [`Acknowledgement::encode`] would give.
    #[must_use]
    pub fn encoded_length(&self, version: ProtocolVersion) -> usize {
        encoded_length(self, version)
    }
}

impl Body for Acknowledgement {
    fn write(&self, version: ProtocolVersion, sink: &mut impl Sink) {
        sink.put_u16(self.packet_id.get());
        let no_properties = self.properties.is_empty();
        if !version.is_v5() || (no_properties && self.reason_code == ReasonCode::Success) {
            return;
        }
        sink.put_u8(self.reason_code.as_u8());
        if !no_properties {
            put_properties(sink, &self.properties);
        }
    }
}

/// Reads a PUBACK, PUBREC, PUBREL or PUBCOMP of four bytes, the form nearly all of them have in every version; `None` where
/// [`crate::decode`] has to look.
#[inline]
#[must_use]
pub const fn decode_acknowledgement_short(packet: &[u8]) -> Option<(PacketType, PacketId)> {
    let &[first, 2, high, low] = packet else {
        return None;
    };
    let packet_type = match first {
        0x40 => PacketType::Puback,
        0x50 => PacketType::Pubrec,
        0x62 => PacketType::Pubrel,
        0x70 => PacketType::Pubcomp,
        _ => return None,
    };
    match PacketId::new(u16::from_be_bytes([high, low])) {
        Some(packet_id) => Some((packet_type, packet_id)),
        None => None,
    }
}

impl AcknowledgementProperties {
    pub(super) fn decode(reader: &mut Reader<'_>, limits: &Limits) -> Result<Self, Misdeed> {
        let mut properties = Self::default();
        let mut reader = reader.properties()?;
        while !reader.is_empty() {
            match property::read(&mut reader)? {
                (id @ PropertyId::ReasonString, Value::Text(text)) => {
                    property::once(&mut properties.reason_string, id, text.into())?;
                }
                (_, Value::Pair(name, value)) => property::push_user_property(
                    &mut properties.user_properties,
                    name,
                    value,
                    limits,
                )?,
                (id, _) => return Err(Misdeed::PropertyNotAllowed(id)),
            }
        }
        Ok(properties)
    }
}

impl Properties for AcknowledgementProperties {
    fn write(&self, sink: &mut impl Sink) {
        sink.property_text(PropertyId::ReasonString, self.reason_string.as_deref());
        sink.user_properties(&self.user_properties);
    }

    fn is_empty(&self) -> bool {
        self.reason_string.is_none() && self.user_properties.is_empty()
    }
}

/// Reads a Reason Code that this packet may carry.
pub(super) fn reason_code(
    reader: &mut Reader<'_>,
    packet_type: PacketType,
) -> Result<ReasonCode, Misdeed> {
    let byte = reader.u8()?;
    ReasonCode::from_u8(byte)
        .filter(|code| code.is_allowed_in(packet_type))
        .ok_or(Misdeed::InvalidReasonCode(byte))
}
