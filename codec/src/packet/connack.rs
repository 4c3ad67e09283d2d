//! CONNACK: the server's answer to CONNECT. Before 5.0 a flag and a Return Code, in 5.0 a Reason Code and what the server offers.

use alloc::boxed::Box;
use core::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;

use super::acknowledge::reason_code;
use super::encode_methods;
use crate::error::{EncodeError, Misdeed};
use crate::frame::{Limits, PacketType};
use crate::primitive::{Blobs, Body, Properties, Reader, Sink, put_properties};
use crate::property::{self, PropertyId, PutProperty, UserProperties, Value};
use crate::reason_code::ReasonCode;
use crate::version::{ProtocolVersion, QoS};

/// CONNACK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connack {
    /// Whether the server has a session for the client; 3.1 does not say. [MQTT-3.2.2-2] [MQTT-3.2.2-6]
    pub session_present: bool,
    /// Before 5.0 written as the Return Code of the same meaning.
    pub reason_code: ReasonCode,
    /// 5.0 only.
    pub properties: ConnackProperties,
}

/// Properties of CONNACK.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnackProperties {
    /// Session Expiry Interval, in seconds, where the server uses another than the client asked for.
    pub session_expiry_interval: Option<u32>,
    /// Assigned Client Identifier. [MQTT-3.2.2-16]
    pub assigned_client_identifier: Option<Box<str>>,
    /// Server Keep Alive, in seconds. [MQTT-3.2.2-21]
    pub server_keep_alive: Option<u16>,
    /// Topic Alias Maximum.
    pub topic_alias_maximum: Option<u16>,
    /// Maximum Packet Size, in bytes.
    pub maximum_packet_size: Option<NonZeroU32>,
    /// Receive Maximum.
    pub receive_maximum: Option<NonZeroU16>,
    /// Maximum QoS, 0 or 1; 2 is said by saying nothing.
    pub maximum_qos: Option<QoS>,
    /// Retain Available.
    pub retain_available: Option<bool>,
    /// Wildcard Subscription Available.
    pub wildcard_subscription_available: Option<bool>,
    /// Subscription Identifier Available.
    pub subscription_identifier_available: Option<bool>,
    /// Shared Subscription Available.
    pub shared_subscription_available: Option<bool>,
    /// Response Information.
    pub response_information: Option<Box<str>>,
    /// Server Reference.
    pub server_reference: Option<Box<str>>,
    /// Authentication Method.
    pub authentication_method: Option<Box<str>>,
    /// Authentication Data.
    pub authentication_data: Option<Bytes>,
    /// Reason String.
    pub reason_string: Option<Box<str>>,
    /// User Properties.
    pub user_properties: UserProperties,
}

encode_methods!(Connack, PacketType::Connack);

impl Connack {
    /// A refusal without properties.
    #[must_use]
    pub fn with_reason(reason_code: ReasonCode) -> Self {
        Self {
            session_present: false,
            reason_code,
            properties: ConnackProperties::default(),
        }
    }

    pub(super) fn decode(
        reader: &mut Reader<'_>,
        blobs: Blobs<'_>,
        version: ProtocolVersion,
        limits: &Limits,
    ) -> Result<Self, Misdeed> {
        let flags = reader.u8()?;
        let session_present = match (version, flags) {
            // 3.1 calls the byte reserved and unused.
            (ProtocolVersion::V3_1, _) | (_, 0) => false,
            (_, 1) => true,
            // [MQTT-3.2.2-1]
            _ => return Err(Misdeed::InvalidConnackFlags),
        };
        let (reason_code, properties) = if version.is_v5() {
            let reason_code = reason_code(reader, PacketType::Connack)?;
            (
                reason_code,
                ConnackProperties::decode(reader, blobs, limits)?,
            )
        } else {
            let return_code = reader.u8()?;
            let reason_code = ReasonCode::from_connect_return_code(return_code)
                .ok_or(Misdeed::InvalidReasonCode(return_code))?;
            (reason_code, ConnackProperties::default())
        };
        // [MQTT-3.2.2-6] [v3 MQTT-3.2.2-4]
        if session_present && reason_code.is_error() {
            return Err(Misdeed::InvalidConnackFlags);
        }
        Ok(Self {
            session_present,
            reason_code,
            properties,
        })
    }
}

impl Body for Connack {
    fn write(&self, version: ProtocolVersion, sink: &mut impl Sink) {
        debug_assert!(!(self.session_present && self.reason_code.is_error()));
        let session_present = self.session_present && version != ProtocolVersion::V3_1;
        sink.put_u8(u8::from(session_present));
        if version.is_v5() {
            sink.put_u8(self.reason_code.as_u8());
            put_properties(sink, &self.properties);
            return;
        }
        match self.reason_code.to_connect_return_code() {
            Some(return_code) => sink.put_u8(return_code),
            None => sink.fail(EncodeError::ReasonCodeNotInVersion(self.reason_code)),
        }
    }
}

impl ConnackProperties {
    fn decode(reader: &mut Reader<'_>, blobs: Blobs<'_>, limits: &Limits) -> Result<Self, Misdeed> {
        let mut properties = Self::default();
        let mut reader = reader.properties()?;
        while !reader.is_empty() {
            let (id, value) = property::read(&mut reader)?;
            properties.set(id, value, blobs, limits)?;
        }
        Ok(properties)
    }

    fn set(
        &mut self,
        id: PropertyId,
        value: Value<'_>,
        blobs: Blobs<'_>,
        limits: &Limits,
    ) -> Result<(), Misdeed> {
        use PropertyId as P;
        use property::{boolean, non_zero_u16, non_zero_u32, once};
        match (id, value) {
            (P::SessionExpiryInterval, Value::FourByte(value)) => {
                once(&mut self.session_expiry_interval, id, value)
            }
            (P::AssignedClientIdentifier, Value::Text(value)) => {
                once(&mut self.assigned_client_identifier, id, value.into())
            }
            (P::ServerKeepAlive, Value::TwoByte(value)) => {
                once(&mut self.server_keep_alive, id, value)
            }
            (P::TopicAliasMaximum, Value::TwoByte(value)) => {
                once(&mut self.topic_alias_maximum, id, value)
            }
            (P::MaximumPacketSize, Value::FourByte(value)) => {
                once(&mut self.maximum_packet_size, id, non_zero_u32(id, value)?)
            }
            (P::ReceiveMaximum, Value::TwoByte(value)) => {
                once(&mut self.receive_maximum, id, non_zero_u16(id, value)?)
            }
            (P::MaximumQoS, Value::Byte(value)) => {
                let qos = match value {
                    0 => QoS::AtMostOnce,
                    1 => QoS::AtLeastOnce,
                    _ => return Err(Misdeed::InvalidPropertyValue(id)),
                };
                once(&mut self.maximum_qos, id, qos)
            }
            (P::RetainAvailable, Value::Byte(value)) => {
                once(&mut self.retain_available, id, boolean(id, value)?)
            }
            (P::WildcardSubscriptionAvailable, Value::Byte(value)) => once(
                &mut self.wildcard_subscription_available,
                id,
                boolean(id, value)?,
            ),
            (P::SubscriptionIdentifierAvailable, Value::Byte(value)) => once(
                &mut self.subscription_identifier_available,
                id,
                boolean(id, value)?,
            ),
            (P::SharedSubscriptionAvailable, Value::Byte(value)) => once(
                &mut self.shared_subscription_available,
                id,
                boolean(id, value)?,
            ),
            (P::ResponseInformation, Value::Text(value)) => {
                once(&mut self.response_information, id, value.into())
            }
            (P::ServerReference, Value::Text(value)) => {
                once(&mut self.server_reference, id, value.into())
            }
            (P::AuthenticationMethod, Value::Text(value)) => {
                once(&mut self.authentication_method, id, value.into())
            }
            (P::AuthenticationData, Value::Binary(value)) => {
                once(&mut self.authentication_data, id, blobs.blob(value))
            }
            (P::ReasonString, Value::Text(value)) => {
                once(&mut self.reason_string, id, value.into())
            }
            (_, Value::Pair(name, value)) => {
                property::push_user_property(&mut self.user_properties, name, value, limits)
            }
            _ => Err(Misdeed::PropertyNotAllowed(id)),
        }
    }
}

impl Properties for ConnackProperties {
    /// In the order in which Mosquitto writes them: its users' scripts and tests compare bytes.
    fn write(&self, sink: &mut impl Sink) {
        use PropertyId as P;
        sink.property_u16(P::ServerKeepAlive, self.server_keep_alive);
        sink.property_u16(P::TopicAliasMaximum, self.topic_alias_maximum);
        sink.property_text(
            P::AssignedClientIdentifier,
            self.assigned_client_identifier.as_deref(),
        );
        sink.property_text(
            P::AuthenticationMethod,
            self.authentication_method.as_deref(),
        );
        sink.property_binary(P::AuthenticationData, self.authentication_data.as_deref());
        sink.property_u32(P::SessionExpiryInterval, self.session_expiry_interval);
        sink.property_bool(P::RetainAvailable, self.retain_available);
        sink.property_u32(
            P::MaximumPacketSize,
            self.maximum_packet_size.map(NonZeroU32::get),
        );
        sink.property_u16(P::ReceiveMaximum, self.receive_maximum.map(NonZeroU16::get));
        // [MQTT-3.2.2-9] There is no way to write 2 but to write nothing.
        sink.property_bool(
            P::MaximumQoS,
            self.maximum_qos
                .filter(|&qos| qos < QoS::ExactlyOnce)
                .map(|qos| qos == QoS::AtLeastOnce),
        );
        sink.property_bool(
            P::WildcardSubscriptionAvailable,
            self.wildcard_subscription_available,
        );
        sink.property_bool(
            P::SubscriptionIdentifierAvailable,
            self.subscription_identifier_available,
        );
        sink.property_bool(
            P::SharedSubscriptionAvailable,
            self.shared_subscription_available,
        );
        sink.property_text(P::ResponseInformation, self.response_information.as_deref());
        sink.property_text(P::ServerReference, self.server_reference.as_deref());
        sink.property_text(P::ReasonString, self.reason_string.as_deref());
        sink.user_properties(&self.user_properties);
    }
}
