//! UNSUBSCRIBE: Topic Filters, checked as those of SUBSCRIBE are.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::encode_methods;
use super::subscribe::topic_filter;
use crate::error::{EncodeError, Misdeed};
use crate::frame::{Limits, PacketType};
use crate::primitive::{Body, Properties, Reader, Sink, put_properties};
use crate::property::{self, PutProperty, UserProperties, Value};
use crate::version::{PacketId, ProtocolVersion};

/// UNSUBSCRIBE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsubscribe {
    /// Its Packet Identifier.
    pub packet_id: PacketId,
    /// 5.0 only.
    pub properties: UnsubscribeProperties,
    /// At least one. Allowed characters, not empty; in 5.0 otherwise unchecked.
    pub topic_filters: Vec<Box<str>>,
}

/// Properties of UNSUBSCRIBE.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnsubscribeProperties {
    /// User Properties.
    pub user_properties: UserProperties,
}

encode_methods!(Unsubscribe, PacketType::Unsubscribe);

impl Unsubscribe {
    pub(super) fn decode(
        reader: &mut Reader<'_>,
        version: ProtocolVersion,
        limits: &Limits,
    ) -> Result<Self, Misdeed> {
        let packet_id = reader.packet_id()?;
        let properties = if version.is_v5() {
            UnsubscribeProperties::decode(reader, limits)?
        } else {
            UnsubscribeProperties::default()
        };
        let mut topic_filters = Vec::new();
        while !reader.is_empty() {
            if topic_filters.len() >= usize::from(limits.topic_filters_max) {
                return Err(Misdeed::TooManyTopicFilters);
            }
            topic_filters.push(topic_filter(reader, version)?.into());
        }
        // [MQTT-3.10.3-2] [v3 MQTT-3.10.3-2]
        if topic_filters.is_empty() {
            return Err(Misdeed::NoTopicFilters);
        }
        Ok(Self {
            packet_id,
            properties,
            topic_filters,
        })
    }
}

impl Body for Unsubscribe {
    fn write(&self, version: ProtocolVersion, sink: &mut impl Sink) {
        sink.put_u16(self.packet_id.get());
        if version.is_v5() {
            put_properties(sink, &self.properties);
        }
        if self.topic_filters.is_empty() {
            sink.fail(EncodeError::NoTopicFilters);
        }
        for topic_filter in &self.topic_filters {
            sink.put_string(topic_filter);
        }
    }
}

impl UnsubscribeProperties {
    fn decode(reader: &mut Reader<'_>, limits: &Limits) -> Result<Self, Misdeed> {
        let mut properties = Self::default();
        let mut reader = reader.properties()?;
        while !reader.is_empty() {
            match property::read(&mut reader)? {
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

impl Properties for UnsubscribeProperties {
    fn write(&self, sink: &mut impl Sink) {
        sink.user_properties(&self.user_properties);
    }
}
