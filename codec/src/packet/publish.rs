//! PUBLISH: an Application Message on its way, as an owned value and, for the hot path, as a view of the packet.
//!
//! `PublishRef` looks at a packet without allocating; `PublishHead` writes everything before the payload, with the properties
//! of the original forwarded as they stand. Both check and write exactly what `Publish` does.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::num::NonZeroU16;

use bytes::Bytes;

use super::open;
use crate::error::{DecodeError, EncodeError, Misdeed, Place};
use crate::frame::{Limits, PacketType};
use crate::primitive::{
    Blobs, Body, Properties, Reader, Sink, encode, encoded_length, put_properties,
    variable_byte_integer_length,
};
use crate::property::{self, PropertyId, PutProperty, UserProperties, Value};
use crate::topic::{levels, validate_topic_name};
use crate::version::{PacketId, ProtocolVersion, QoS};

/// PUBLISH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// Whether it may have been sent before.
    pub dup: bool,
    /// Its QoS.
    pub qos: QoS,
    /// Its RETAIN flag.
    pub retain: bool,
    /// A valid Topic Name; empty only in 5.0 beside a Topic Alias.
    pub topic: Box<str>,
    /// Present exactly with QoS 1 and 2. [MQTT-2.2.1-2]
    pub packet_id: Option<PacketId>,
    /// 5.0 only.
    pub properties: PublishProperties,
    /// The payload.
    pub payload: Bytes,
}

/// Properties of PUBLISH.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishProperties {
    /// Payload Format Indicator.
    pub payload_format_indicator: Option<bool>,
    /// Message Expiry Interval, in seconds.
    pub message_expiry_interval: Option<u32>,
    /// Topic Alias.
    pub topic_alias: Option<NonZeroU16>,
    /// Response Topic: not empty, no wildcards.
    pub response_topic: Option<Box<str>>,
    /// Correlation Data.
    pub correlation_data: Option<Bytes>,
    /// Content Type.
    pub content_type: Option<Box<str>>,
    /// Subscription Identifiers, 1 to 268,435,455; only a server sends them. [MQTT-3.3.4-6]
    pub subscription_identifiers: Vec<u32>,
    /// User Properties.
    pub user_properties: UserProperties,
}

/// PUBLISH, as a view of its bytes.
#[derive(Clone, Copy, Debug)]
pub struct PublishRef<'a> {
    /// Whether it may have been sent before.
    pub dup: bool,
    /// Its QoS.
    pub qos: QoS,
    /// Its RETAIN flag.
    pub retain: bool,
    /// A valid Topic Name; empty only in 5.0 beside a Topic Alias.
    pub topic: &'a str,
    /// Present exactly with QoS 1 and 2. [MQTT-2.2.1-2]
    pub packet_id: Option<PacketId>,
    /// 5.0 only.
    pub properties: PublishPropertiesRef<'a>,
    /// The payload.
    pub payload: &'a [u8],
}

/// Properties of PUBLISH, as a view of their bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct PublishPropertiesRef<'a> {
    /// Payload Format Indicator.
    pub payload_format_indicator: Option<bool>,
    /// Message Expiry Interval, in seconds.
    pub message_expiry_interval: Option<u32>,
    /// Topic Alias.
    pub topic_alias: Option<NonZeroU16>,
    /// Response Topic: not empty, no wildcards.
    pub response_topic: Option<&'a str>,
    /// Correlation Data.
    pub correlation_data: Option<&'a [u8]>,
    /// Content Type.
    pub content_type: Option<&'a str>,
    /// Whether there is a Subscription Identifier, which a client must not send. [MQTT-3.3.4-6]
    pub has_subscription_identifier: bool,
    /// All properties as they stand in the packet, without their length.
    pub raw: &'a [u8],
}

/// Everything of a PUBLISH to be sent but its payload.
///
/// The topic has at most 65,535 bytes, and the whole packet at most 268,435,460: the caller knows both from the packet or the
/// `TopicName` that they came from, and asks `encoded_length` for the Maximum Packet Size of the receiver anyway.
#[derive(Clone, Copy, Debug)]
pub struct PublishHead<'a> {
    /// Whether it may have been sent before.
    pub dup: bool,
    /// Its QoS.
    pub qos: QoS,
    /// Its RETAIN flag.
    pub retain: bool,
    /// The Topic Name; empty beside a Topic Alias that is known.
    pub topic: &'a str,
    /// Written exactly with QoS 1 and 2; 0 is written where it is missing, to be patched.
    pub packet_id: Option<PacketId>,
    /// Subscription Identifiers, 1 to 268,435,455.
    pub subscription_identifiers: &'a [u32],
    /// Message Expiry Interval, in seconds: what is left of it.
    pub message_expiry_interval: Option<u32>,
    /// Topic Alias.
    pub topic_alias: Option<NonZeroU16>,
    /// The other properties, encoded, without their length.
    pub forwardable_properties: &'a [u8],
    /// The length of the payload that follows.
    pub payload_length: usize,
}

impl<'a> PublishRef<'a> {
    /// Looks at exactly one whole PUBLISH. A topic equal to `known_topic`, which the caller knows to be a valid Topic Name within
    /// the limits, is not validated again; `""` where there is none.
    ///
    /// # Errors
    /// Those of [`crate::decode`]; a packet that is no PUBLISH is [`Misdeed::PacketNotInVersion`].
    #[inline]
    pub fn decode(
        packet: &'a [u8],
        version: ProtocolVersion,
        limits: &Limits,
        known_topic: &str,
    ) -> Result<Self, DecodeError> {
        Self::decode_with(packet, version, limits, |bytes| {
            if bytes == known_topic.as_bytes() {
                core::str::from_utf8(bytes).map_err(|_| Misdeed::NotUtf8)
            } else {
                new_topic_name(bytes, limits)
            }
        })
    }

    /// As [`Self::decode`], and a topic equal to `known_topic` *is* `known_topic`, which saves looking at its bytes once more: about
    /// half of the time, where the topic is that of the last packet.
    ///
    /// # Errors
    /// Those of [`Self::decode`].
    #[inline]
    pub fn decode_on_known_topic(
        packet: &'a [u8],
        version: ProtocolVersion,
        limits: &Limits,
        known_topic: &'a str,
    ) -> Result<Self, DecodeError> {
        Self::decode_with(packet, version, limits, |bytes| {
            if bytes == known_topic.as_bytes() {
                Ok(known_topic)
            } else {
                new_topic_name(bytes, limits)
            }
        })
    }

    #[inline(always)]
    fn decode_with(
        packet: &'a [u8],
        version: ProtocolVersion,
        limits: &Limits,
        topic_name: impl FnOnce(&'a [u8]) -> Result<&'a str, Misdeed>,
    ) -> Result<Self, DecodeError> {
        let (header, packet_type, mut reader) = open(packet, limits)?;
        let publish = if packet_type == PacketType::Publish {
            Self::read(header.flags, &mut reader, version, limits, topic_name)
        } else {
            Err(Misdeed::PacketNotInVersion)
        };
        publish.map_err(|misdeed| DecodeError::new(misdeed, Place::Packet(packet_type)))
    }

    // Inlined for certain: the value is large, and each call that is not costs a copy of it.
    #[inline(always)]
    fn read(
        flags: u8,
        reader: &mut Reader<'a>,
        version: ProtocolVersion,
        limits: &Limits,
        topic_name: impl FnOnce(&'a [u8]) -> Result<&'a str, Misdeed>,
    ) -> Result<Self, Misdeed> {
        let dup = flags & FLAG_DUP != 0;
        let retain = flags & FLAG_RETAIN != 0;
        // [MQTT-3.3.1-4]
        let qos = QoS::from_u8((flags >> QOS_SHIFT) & 0b11).ok_or(Misdeed::InvalidQoS)?;
        // [MQTT-3.3.1-2]
        if dup && qos == QoS::AtMostOnce {
            return Err(Misdeed::DupWithQoS0);
        }
        let topic = topic_name(reader.binary()?)?;
        let packet_id = if qos == QoS::AtMostOnce {
            None
        } else {
            Some(reader.packet_id()?)
        };
        let properties = if version.is_v5() {
            PublishPropertiesRef::read(reader, limits)?
        } else {
            PublishPropertiesRef::default()
        };
        // [MQTT-4.7.3-1] 5.0 may leave the topic to the alias.
        if topic.is_empty() && properties.topic_alias.is_none() {
            return Err(Misdeed::EmptyTopicName);
        }
        Ok(Self {
            dup,
            qos,
            retain,
            topic,
            packet_id,
            properties,
            payload: reader.take(reader.rest().len())?,
        })
    }
}

#[inline(never)]
fn new_topic_name<'a>(bytes: &'a [u8], limits: &Limits) -> Result<&'a str, Misdeed> {
    let topic = core::str::from_utf8(bytes).map_err(|_| Misdeed::NotUtf8)?;
    if topic.is_empty() {
        return Ok(topic);
    }
    validate_topic_name(topic)?;
    let levels_max = usize::from(limits.topic_levels_max);
    // A topic has at most one level more than bytes, so short ones need no counting.
    if topic.len() >= levels_max && levels(topic) > levels_max {
        return Err(Misdeed::TooManyTopicLevels);
    }
    Ok(topic)
}

impl<'a> PublishPropertiesRef<'a> {
    #[inline(always)]
    fn read(reader: &mut Reader<'a>, limits: &Limits) -> Result<Self, Misdeed> {
        let reader = reader.properties()?;
        if reader.is_empty() {
            return Ok(Self::default());
        }
        Self::read_some(reader, limits)
    }

    #[inline(never)]
    fn read_some(mut reader: Reader<'a>, limits: &Limits) -> Result<Self, Misdeed> {
        use PropertyId as P;
        use property::{boolean, once};
        let mut properties = Self {
            raw: reader.rest(),
            ..Self::default()
        };
        let mut user_properties = 0_usize;
        while !reader.is_empty() {
            let (id, value) = property::read(&mut reader)?;
            match (id, value) {
                (P::PayloadFormatIndicator, Value::Byte(value)) => {
                    let value = boolean(id, value)?;
                    once(&mut properties.payload_format_indicator, id, value)?;
                }
                (P::MessageExpiryInterval, Value::FourByte(value)) => {
                    once(&mut properties.message_expiry_interval, id, value)?;
                }
                (P::TopicAlias, Value::TwoByte(value)) => {
                    // [MQTT-3.3.2-8]
                    let value = NonZeroU16::new(value).ok_or(Misdeed::TopicAliasZero)?;
                    once(&mut properties.topic_alias, id, value)?;
                }
                (P::ResponseTopic, Value::Text(value)) => {
                    let value = property::response_topic(value)?;
                    once(&mut properties.response_topic, id, value)?;
                }
                (P::CorrelationData, Value::Binary(value)) => {
                    once(&mut properties.correlation_data, id, value)?;
                }
                (P::ContentType, Value::Text(value)) => {
                    once(&mut properties.content_type, id, value)?;
                }
                (P::SubscriptionIdentifier, Value::Variable(value)) => {
                    if value == 0 {
                        return Err(Misdeed::InvalidPropertyValue(id));
                    }
                    properties.has_subscription_identifier = true;
                }
                (_, Value::Pair(..)) => {
                    user_properties += 1;
                    if user_properties > usize::from(limits.user_properties_max) {
                        return Err(Misdeed::TooManyUserProperties);
                    }
                }
                _ => return Err(Misdeed::PropertyNotAllowed(id)),
            }
        }
        Ok(properties)
    }

    /// The User Properties, in order.
    pub fn user_properties(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        self.each().filter_map(|(_, value, _)| match value {
            Value::Pair(name, value) => Some((name, value)),
            _ => None,
        })
    }

    /// The Subscription Identifiers, in order.
    pub fn subscription_identifiers(&self) -> impl Iterator<Item = u32> + use<'a> {
        self.each().filter_map(|(_, value, _)| match value {
            Value::Variable(identifier) => Some(identifier),
            _ => None,
        })
    }

    /// The properties as they stand, if a receiver may be given them so: no Topic Alias, no Message Expiry Interval and no
    /// Subscription Identifier among them.
    #[inline]
    #[must_use]
    pub const fn forwardable(&self) -> Option<&'a [u8]> {
        if self.topic_alias.is_none()
            && self.message_expiry_interval.is_none()
            && !self.has_subscription_identifier
        {
            Some(self.raw)
        } else {
            None
        }
    }

    /// Appends the properties without Topic Alias, Message Expiry Interval and Subscription Identifier, in order.
    pub fn write_forwardable(&self, out: &mut Vec<u8>) {
        if let Some(raw) = self.forwardable() {
            return out.put(raw);
        }
        for (id, _, encoded) in self.each() {
            match id {
                PropertyId::TopicAlias
                | PropertyId::MessageExpiryInterval
                | PropertyId::SubscriptionIdentifier => {}
                _ => out.put(encoded),
            }
        }
    }

    /// Every property with its bytes. `raw` was read once without an error, so nothing is left out here.
    fn each(&self) -> impl Iterator<Item = (PropertyId, Value<'a>, &'a [u8])> + use<'a> {
        let mut reader = Reader::new(self.raw);
        core::iter::from_fn(move || {
            let before = reader.rest();
            let (id, value) = property::read(&mut reader).ok()?;
            let length = before.len() - reader.rest().len();
            Some((id, value, before.get(..length)?))
        })
    }
}

impl PublishHead<'_> {
    /// The length of the whole packet, payload included.
    #[inline]
    #[must_use]
    pub fn encoded_length(&self, version: ProtocolVersion) -> usize {
        let remaining_length = self.remaining_length(self.properties_length(version), version);
        1 + variable_byte_integer_length(remaining_length) + remaining_length
    }

    /// Appends everything but the payload, and gives the offset of the Packet Identifier from the start of this packet, so that
    /// copies of the bytes can be given other ones; `None` with QoS 0.
    #[inline]
    pub fn encode(&self, version: ProtocolVersion, out: &mut Vec<u8>) -> Option<usize> {
        let properties_length = self.properties_length(version);
        let remaining_length = self.remaining_length(properties_length, version);
        debug_assert!(remaining_length <= crate::frame::REMAINING_LENGTH_MAX as usize);
        let start = out.len();
        // One reservation, so that none of the writes below grows the buffer.
        out.reserve(MAX_OVERHEAD + remaining_length - self.payload_length);
        out.put_u8(first_byte(self.dup, self.qos, self.retain));
        out.put_variable_byte_integer(clamp(remaining_length));
        out.put_binary(self.topic.as_bytes());
        let packet_id_offset = if self.qos == QoS::AtMostOnce {
            None
        } else {
            let offset = out.len() - start;
            out.put_u16(self.packet_id.map_or(0, PacketId::get));
            Some(offset)
        };
        if version.is_v5() {
            out.put_variable_byte_integer(clamp(properties_length));
            if properties_length > 0 {
                self.put_properties(out);
            }
        }
        packet_id_offset
    }

    #[inline]
    fn remaining_length(&self, properties_length: usize, version: ProtocolVersion) -> usize {
        let packet_id_length = if self.qos == QoS::AtMostOnce { 0 } else { 2 };
        let properties = if version.is_v5() {
            variable_byte_integer_length(properties_length) + properties_length
        } else {
            0
        };
        2 + self.topic.len() + packet_id_length + properties + self.payload_length
    }

    #[inline]
    fn properties_length(&self, version: ProtocolVersion) -> usize {
        if !version.is_v5() {
            return 0;
        }
        let alias = if self.topic_alias.is_some() { 3 } else { 0 };
        let expiry = if self.message_expiry_interval.is_some() {
            5
        } else {
            0
        };
        let identifiers: usize = self
            .subscription_identifiers
            .iter()
            .map(|&identifier| 1 + variable_byte_integer_length(identifier as usize))
            .sum();
        alias + expiry + self.forwardable_properties.len() + identifiers
    }

    fn put_properties(&self, out: &mut Vec<u8>) {
        out.property_u16(
            PropertyId::TopicAlias,
            self.topic_alias.map(NonZeroU16::get),
        );
        out.property_u32(
            PropertyId::MessageExpiryInterval,
            self.message_expiry_interval,
        );
        out.put(self.forwardable_properties);
        for &identifier in self.subscription_identifiers {
            out.property_subscription_identifier(identifier);
        }
    }
}

impl Publish {
    pub(super) fn decode(
        flags: u8,
        reader: &mut Reader<'_>,
        blobs: Blobs<'_>,
        version: ProtocolVersion,
        limits: &Limits,
    ) -> Result<Self, Misdeed> {
        let publish = PublishRef::read(flags, reader, version, limits, |bytes| {
            new_topic_name(bytes, limits)
        })?;
        Ok(Self {
            dup: publish.dup,
            qos: publish.qos,
            retain: publish.retain,
            topic: publish.topic.into(),
            packet_id: publish.packet_id,
            properties: PublishProperties::from_ref(&publish.properties, blobs),
            payload: blobs.blob(publish.payload),
        })
    }

    /// Appends the packet and gives its length; appends nothing on error.
    ///
    /// # Errors
    /// A field or the whole is too long, or a Packet Identifier is missing.
    pub fn encode(
        &self,
        version: ProtocolVersion,
        out: &mut Vec<u8>,
    ) -> Result<usize, EncodeError> {
        let first_byte = first_byte(self.dup, self.qos, self.retain);
        encode(first_byte, self, version, out)
    }

    /// The length that [`Publish::encode`] would give.
    #[must_use]
    pub fn encoded_length(&self, version: ProtocolVersion) -> usize {
        encoded_length(self, version)
    }
}

impl Body for Publish {
    fn write(&self, version: ProtocolVersion, sink: &mut impl Sink) {
        sink.put_string(&self.topic);
        match (self.qos, self.packet_id) {
            (QoS::AtMostOnce, _) => {}
            (_, Some(packet_id)) => sink.put_u16(packet_id.get()),
            (_, None) => sink.fail(EncodeError::NoPacketId),
        }
        if version.is_v5() {
            put_properties(sink, &self.properties);
        }
        sink.put(&self.payload);
    }
}

impl PublishProperties {
    fn from_ref(properties: &PublishPropertiesRef<'_>, blobs: Blobs<'_>) -> Self {
        Self {
            payload_format_indicator: properties.payload_format_indicator,
            message_expiry_interval: properties.message_expiry_interval,
            topic_alias: properties.topic_alias,
            response_topic: properties.response_topic.map(Into::into),
            correlation_data: properties.correlation_data.map(|data| blobs.blob(data)),
            content_type: properties.content_type.map(Into::into),
            subscription_identifiers: properties.subscription_identifiers().collect(),
            user_properties: properties
                .user_properties()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        }
    }
}

impl Properties for PublishProperties {
    fn write(&self, sink: &mut impl Sink) {
        use PropertyId as P;
        sink.property_bool(P::PayloadFormatIndicator, self.payload_format_indicator);
        sink.property_u32(P::MessageExpiryInterval, self.message_expiry_interval);
        sink.property_u16(P::TopicAlias, self.topic_alias.map(NonZeroU16::get));
        sink.property_text(P::ResponseTopic, self.response_topic.as_deref());
        sink.property_binary(P::CorrelationData, self.correlation_data.as_deref());
        sink.property_text(P::ContentType, self.content_type.as_deref());
        for &identifier in &self.subscription_identifiers {
            sink.property_subscription_identifier(identifier);
        }
        sink.user_properties(&self.user_properties);
    }
}

#[inline]
fn first_byte(dup: bool, qos: QoS, retain: bool) -> u8 {
    PacketType::Publish.first_byte()
        | u8::from(dup) << 3
        | qos.as_u8() << QOS_SHIFT
        | u8::from(retain)
}

#[inline]
fn clamp(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

const FLAG_DUP: u8 = 0b1000;
const QOS_SHIFT: u8 = 1;
const FLAG_RETAIN: u8 = 0b0001;
/// The fixed header, at most.
const MAX_OVERHEAD: usize = 5;
