//! SUBSCRIBE: Topic Filters with their options; in 5.0 also a Subscription Identifier.
//!
//! A filter that is no Topic Filter is refused here only where the packet as a whole has to be: an empty one, forbidden
//! characters, and before 5.0 a misplaced wildcard. In 5.0 the answer to a misplaced wildcard or a broken `$share` is a code
//! in SUBACK, which is the session's to give.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::encode_methods;
use crate::error::{EncodeError, Misdeed};
use crate::frame::{Limits, PacketType};
use crate::primitive::{Body, Properties, Reader, Sink, put_properties};
use crate::property::{self, PropertyId, PutProperty, UserProperties, Value};
use crate::topic::validate_topic_filter;
use crate::version::{PacketId, ProtocolVersion, QoS};

/// SUBSCRIBE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribe {
    /// Its Packet Identifier.
    pub packet_id: PacketId,
    /// 5.0 only.
    pub properties: SubscribeProperties,
    /// At least one.
    pub filters: Vec<SubscribeFilter>,
}

/// Properties of SUBSCRIBE.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubscribeProperties {
    /// Subscription Identifier, 1 to 268,435,455.
    pub subscription_identifier: Option<u32>,
    /// User Properties.
    pub user_properties: UserProperties,
}

/// One subscription that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscribeFilter {
    /// Allowed characters, not empty; in 5.0 otherwise unchecked.
    pub topic_filter: Box<str>,
    /// Its options.
    pub options: SubscriptionOptions,
}

/// Subscription Options; before 5.0 there is only the QoS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SubscriptionOptions {
    /// The highest QoS to send with.
    pub qos: QoS,
    /// Whether the client's own messages are left out.
    pub no_local: bool,
    /// Whether RETAIN is forwarded as it was published.
    pub retain_as_published: bool,
    /// Which retained messages are sent.
    pub retain_handling: RetainHandling,
}

/// When retained messages are sent because of a subscription.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RetainHandling {
    /// With every SUBSCRIBE. [MQTT-3.3.1-9]
    #[default]
    Send = 0,
    /// Only if the subscription did not exist. [MQTT-3.3.1-10]
    SendIfNew = 1,
    /// Never. [MQTT-3.3.1-11]
    DoNotSend = 2,
}

encode_methods!(Subscribe, PacketType::Subscribe);

impl SubscriptionOptions {
    /// The options byte of 5.0; `None` for reserved bits, QoS 3 or Retain Handling 3.
    #[must_use]
    pub const fn from_u8(value: u8) -> Option<Self> {
        let Some(qos) = QoS::from_u8(value & 0b11) else {
            return None;
        };
        let retain_handling = match value >> 4 {
            0 => RetainHandling::Send,
            1 => RetainHandling::SendIfNew,
            2 => RetainHandling::DoNotSend,
            _ => return None,
        };
        Some(Self {
            qos,
            no_local: value & 0b100 != 0,
            retain_as_published: value & 0b1000 != 0,
            retain_handling,
        })
    }

    /// The options byte of 5.0.
    #[must_use]
    pub const fn as_u8(self) -> u8 {
        self.qos.as_u8()
            | (self.no_local as u8) << 2
            | (self.retain_as_published as u8) << 3
            | (self.retain_handling as u8) << 4
    }

    fn decode(byte: u8, version: ProtocolVersion) -> Result<Self, Misdeed> {
        // [v3 MQTT-3.8.3-4] Before 5.0 all but the QoS is reserved.
        let reserved = if version.is_v5() { 0 } else { !0b11 };
        Self::from_u8(byte)
            .filter(|_| byte & reserved == 0)
            .ok_or(Misdeed::InvalidSubscriptionOptions)
    }
}

impl Subscribe {
    pub(super) fn decode(
        reader: &mut Reader<'_>,
        version: ProtocolVersion,
        limits: &Limits,
    ) -> Result<Self, Misdeed> {
        let packet_id = reader.packet_id()?;
        let properties = if version.is_v5() {
            SubscribeProperties::decode(reader, limits)?
        } else {
            SubscribeProperties::default()
        };
        let mut filters = Vec::new();
        while !reader.is_empty() {
            if filters.len() >= usize::from(limits.topic_filters_max) {
                return Err(Misdeed::TooManyTopicFilters);
            }
            filters.push(SubscribeFilter::decode(reader, version)?);
        }
        // [MQTT-3.8.3-2] [v3 MQTT-3.8.3-3]
        if filters.is_empty() {
            return Err(Misdeed::NoTopicFilters);
        }
        Ok(Self {
            packet_id,
            properties,
            filters,
        })
    }
}

impl SubscribeFilter {
    fn decode(reader: &mut Reader<'_>, version: ProtocolVersion) -> Result<Self, Misdeed> {
        let topic_filter = topic_filter(reader, version)?;
        let options = SubscriptionOptions::decode(reader.u8()?, version)?;
        // [MQTT-3.8.3-4]
        if options.no_local && topic_filter.starts_with("$share/") {
            return Err(Misdeed::NoLocalOnSharedSubscription);
        }
        Ok(Self {
            topic_filter: topic_filter.into(),
            options,
        })
    }
}

impl Body for Subscribe {
    fn write(&self, version: ProtocolVersion, sink: &mut impl Sink) {
        sink.put_u16(self.packet_id.get());
        if version.is_v5() {
            put_properties(sink, &self.properties);
        }
        if self.filters.is_empty() {
            sink.fail(EncodeError::NoTopicFilters);
        }
        for filter in &self.filters {
            sink.put_string(&filter.topic_filter);
            sink.put_u8(if version.is_v5() {
                filter.options.as_u8()
            } else {
                filter.options.qos.as_u8()
            });
        }
    }
}

impl SubscribeProperties {
    fn decode(reader: &mut Reader<'_>, limits: &Limits) -> Result<Self, Misdeed> {
        let mut properties = Self::default();
        let mut reader = reader.properties()?;
        while !reader.is_empty() {
            match property::read(&mut reader)? {
                (id @ PropertyId::SubscriptionIdentifier, Value::Variable(value)) => {
                    if value == 0 {
                        return Err(Misdeed::InvalidPropertyValue(id));
                    }
                    property::once(&mut properties.subscription_identifier, id, value)?;
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

impl Properties for SubscribeProperties {
    fn write(&self, sink: &mut impl Sink) {
        if let Some(identifier) = self.subscription_identifier {
            sink.property_subscription_identifier(identifier);
        }
        sink.user_properties(&self.user_properties);
    }
}

/// A Topic Filter of SUBSCRIBE or UNSUBSCRIBE, as far as the packet depends on it.
pub(super) fn topic_filter<'a>(
    reader: &mut Reader<'a>,
    version: ProtocolVersion,
) -> Result<&'a str, Misdeed> {
    let topic_filter = reader.string()?;
    // [MQTT-4.7.3-1]
    if topic_filter.is_empty() {
        return Err(Misdeed::EmptyTopicFilter);
    }
    if !version.is_v5() {
        validate_topic_filter(topic_filter)?;
    }
    Ok(topic_filter)
}
