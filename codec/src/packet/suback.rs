//! SUBACK: one Reason Code for each Topic Filter of a SUBSCRIBE, in its order.

use alloc::vec::Vec;

use super::acknowledge::AcknowledgementProperties;
use super::encode_methods;
use crate::error::Misdeed;
use crate::frame::{Limits, PacketType};
use crate::primitive::{Body, Reader, Sink, put_properties};
use crate::reason_code::ReasonCode;
use crate::version::{PacketId, ProtocolVersion};

/// SUBACK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suback {
    /// The SUBSCRIBE that is meant.
    pub packet_id: PacketId,
    /// One for each Topic Filter [MQTT-3.8.4-6]; before 5.0 every error is written as 0x80.
    pub reason_codes: Vec<ReasonCode>,
    /// 5.0 only.
    pub properties: SubackProperties,
}

/// Properties of SUBACK.
pub type SubackProperties = AcknowledgementProperties;

encode_methods!(Suback, PacketType::Suback);

impl Suback {
    pub(super) fn decode(
        reader: &mut Reader<'_>,
        version: ProtocolVersion,
        limits: &Limits,
    ) -> Result<Self, Misdeed> {
        let packet_id = reader.packet_id()?;
        let properties = if version.is_v5() {
            SubackProperties::decode(reader, limits)?
        } else {
            SubackProperties::default()
        };
        let allowed = |code: &ReasonCode| {
            if version.is_v5() {
                code.is_allowed_in(PacketType::Suback)
            } else {
                // [v3 MQTT-3.9.3-2]
                code.as_u8() <= 2 || *code == ReasonCode::UnspecifiedError
            }
        };
        let reason_codes = read_codes(reader, allowed)?;
        if reason_codes.is_empty() {
            return Err(Misdeed::UnexpectedEnd);
        }
        Ok(Self {
            packet_id,
            reason_codes,
            properties,
        })
    }
}

impl Body for Suback {
    fn write(&self, version: ProtocolVersion, sink: &mut impl Sink) {
        sink.put_u16(self.packet_id.get());
        if version.is_v5() {
            put_properties(sink, &self.properties);
        }
        for code in &self.reason_codes {
            sink.put_u8(if version.is_v5() || !code.is_error() {
                code.as_u8()
            } else {
                ReasonCode::UnspecifiedError.as_u8()
            });
        }
    }
}

/// The rest of the packet as Reason Codes.
pub(super) fn read_codes(
    reader: &mut Reader<'_>,
    allowed: impl Fn(&ReasonCode) -> bool,
) -> Result<Vec<ReasonCode>, Misdeed> {
    let bytes = reader.take(reader.rest().len())?;
    bytes
        .iter()
        .map(|&byte| {
            ReasonCode::from_u8(byte)
                .filter(&allowed)
                .ok_or(Misdeed::InvalidReasonCode(byte))
        })
        .collect()
}
