//! UNSUBACK: before 5.0 only a Packet Identifier, in 5.0 one Reason Code for each Topic Filter of an UNSUBSCRIBE.

use alloc::vec::Vec;

use super::acknowledge::AcknowledgementProperties;
use super::encode_methods;
use super::suback::read_codes;
use crate::error::Misdeed;
use crate::frame::{Limits, PacketType};
use crate::primitive::{Body, Reader, Sink, put_properties};
use crate::reason_code::ReasonCode;
use crate::version::{PacketId, ProtocolVersion};

/// UNSUBACK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsuback {
    /// The UNSUBSCRIBE that is meant.
    pub packet_id: PacketId,
    /// One for each Topic Filter [MQTT-3.11.3-1]; not on the wire before 5.0.
    pub reason_codes: Vec<ReasonCode>,
    /// 5.0 only.
    pub properties: UnsubackProperties,
}

/// Properties of UNSUBACK.
pub type UnsubackProperties = AcknowledgementProperties;

encode_methods!(Unsuback, PacketType::Unsuback);

impl Unsuback {
    pub(super) fn decode(
        reader: &mut Reader<'_>,
        version: ProtocolVersion,
        limits: &Limits,
    ) -> Result<Self, Misdeed> {
        let packet_id = reader.packet_id()?;
        if !version.is_v5() {
            return Ok(Self {
                packet_id,
                reason_codes: Vec::new(),
                properties: UnsubackProperties::default(),
            });
        }
        let properties = UnsubackProperties::decode(reader, limits)?;
        let reason_codes = read_codes(reader, |code| code.is_allowed_in(PacketType::Unsuback))?;
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

impl Body for Unsuback {
    fn write(&self, version: ProtocolVersion, sink: &mut impl Sink) {
        sink.put_u16(self.packet_id.get());
        if version.is_v5() {
            put_properties(sink, &self.properties);
            for code in &self.reason_codes {
                sink.put_u8(code.as_u8());
            }
        }
    }
}
