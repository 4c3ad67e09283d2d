//! DISCONNECT: the last packet of a Network Connection; empty before 5.0, with Reason Code and properties in 5.0.

use alloc::boxed::Box;

use super::acknowledge::reason_code;
use super::encode_methods;
use crate::error::Misdeed;
use crate::frame::{Limits, PacketType};
use crate::primitive::{Body, Properties, Reader, Sink, put_properties};
use crate::property::{self, PropertyId, PutProperty, UserProperties, Value};
use crate::reason_code::ReasonCode;
use crate::version::ProtocolVersion;

/// DISCONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disconnect {
    /// 5.0 only; success elsewhere.
    pub reason_code: ReasonCode,
    /// 5.0 only.
    pub properties: DisconnectProperties,
}

/// Properties of DISCONNECT.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DisconnectProperties {
    /// Session Expiry Interval, in seconds; only a client sends it. [MQTT-3.14.2-2]
    pub session_expiry_interval: Option<u32>,
    /// Server Reference; only a server sends it.
    pub server_reference: Option<Box<str>>,
    /// Reason String.
    pub reason_string: Option<Box<str>>,
    /// User Properties.
    pub user_properties: UserProperties,
}

encode_methods!(Disconnect, PacketType::Disconnect);

impl Disconnect {
    /// A Reason Code, without properties.
    #[must_use]
    pub fn with_reason(reason_code: ReasonCode) -> Self {
        Self {
            reason_code,
            properties: DisconnectProperties::default(),
        }
    }

    pub(super) fn decode(
        reader: &mut Reader<'_>,
        version: ProtocolVersion,
        limits: &Limits,
    ) -> Result<Self, Misdeed> {
        let mut disconnect = Self::with_reason(ReasonCode::Success);
        if version.is_v5() && !reader.is_empty() {
            disconnect.reason_code = reason_code(reader, PacketType::Disconnect)?;
            if !reader.is_empty() {
                disconnect.properties = DisconnectProperties::decode(reader, limits)?;
            }
        }
        Ok(disconnect)
    }
}

impl Body for Disconnect {
    fn write(&self, version: ProtocolVersion, sink: &mut impl Sink) {
        let no_properties = self.properties.is_empty();
        if !version.is_v5() || (no_properties && self.reason_code == ReasonCode::Success) {
            return;
        }
        sink.put_u8(self.reason_code.as_u8());
        // 3.14.2.2.1: without properties the length may be left out too.
        if !no_properties {
            put_properties(sink, &self.properties);
        }
    }
}

impl DisconnectProperties {
    fn decode(reader: &mut Reader<'_>, limits: &Limits) -> Result<Self, Misdeed> {
        let mut properties = Self::default();
        let mut reader = reader.properties()?;
        while !reader.is_empty() {
            match property::read(&mut reader)? {
                (id @ PropertyId::SessionExpiryInterval, Value::FourByte(seconds)) => {
                    property::once(&mut properties.session_expiry_interval, id, seconds)?;
                }
                (id @ PropertyId::ServerReference, Value::Text(text)) => {
                    property::once(&mut properties.server_reference, id, text.into())?;
                }
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

impl Properties for DisconnectProperties {
    fn write(&self, sink: &mut impl Sink) {
        sink.property_u32(
            PropertyId::SessionExpiryInterval,
            self.session_expiry_interval,
        );
        sink.property_text(
            PropertyId::ServerReference,
            self.server_reference.as_deref(),
        );
        sink.property_text(PropertyId::ReasonString, self.reason_string.as_deref());
        sink.user_properties(&self.user_properties);
    }
}
