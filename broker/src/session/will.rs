//! The Will Message (3.1.2.5): kept from CONNECT until it is published or deleted.

use bytes::Bytes;
use nightjar_codec::packet::{self, Publish, PublishProperties, PublishRef};
use nightjar_codec::{Limits, ProtocolVersion, QoS};
use nightjar_storage::WillRecord;

/// A Will Message as the exchange takes it.
#[derive(Clone, Debug)]
pub struct Will {
    pub topic: Box<str>,
    pub payload: Bytes,
    /// Encoded properties that are forwarded unchanged [MQTT-3.1.3-10].
    pub properties: Bytes,
    pub qos: QoS,
    pub retain: bool,
    /// Seconds, counted from the moment it is published.
    pub message_expiry_interval: Option<u32>,
    /// Will Delay Interval, seconds.
    pub delay: u32,
}

impl Will {
    pub fn from_connect(will: packet::Will) -> Self {
        let properties = will.properties;
        let delay = properties.will_delay_interval.unwrap_or(0);
        let message_expiry_interval = properties.message_expiry_interval;
        let encoded = encode(PublishProperties {
            payload_format_indicator: properties.payload_format_indicator,
            content_type: properties.content_type,
            response_topic: properties.response_topic,
            correlation_data: properties.correlation_data,
            user_properties: properties.user_properties,
            ..PublishProperties::default()
        });
        Self {
            topic: will.topic,
            payload: will.payload,
            properties: encoded,
            qos: will.qos,
            retain: will.retain,
            message_expiry_interval,
            delay,
        }
    }

    /// What the will counts for in the bound of all wills.
    pub fn cost(&self) -> u64 {
        (self.topic.len() + self.payload.len() + self.properties.len()) as u64
    }

    pub fn record(&self, fires_at: Option<u64>) -> WillRecord {
        WillRecord {
            topic: self.topic.clone(),
            payload: self.payload.clone(),
            properties: self.properties.clone(),
            qos: self.qos,
            retain: self.retain,
            message_expiry_interval: self.message_expiry_interval,
            delay: self.delay,
            fires_at,
        }
    }

    pub fn from_record(record: &WillRecord) -> Self {
        Self {
            topic: record.topic.clone(),
            payload: record.payload.clone(),
            properties: record.properties.clone(),
            qos: record.qos,
            retain: record.retain,
            message_expiry_interval: record.message_expiry_interval,
            delay: record.delay,
        }
    }
}

/// The properties as a PUBLISH carries them: what the codec writes, read back without the rest of the packet.
fn encode(properties: PublishProperties) -> Bytes {
    let publish = Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: "w".into(),
        packet_id: None,
        properties,
        payload: Bytes::new(),
    };
    let mut packet = Vec::new();
    if publish.encode(ProtocolVersion::V5, &mut packet).is_err() {
        return Bytes::new();
    }
    let decoded = PublishRef::decode(&packet, ProtocolVersion::V5, &Limits::PROTOCOL, "w");
    decoded.map_or_else(
        |_| Bytes::new(),
        |publish| Bytes::copy_from_slice(publish.properties.raw),
    )
}

/// When a will fires after its connection closed: after the delay, but not later than the session ends [MQTT-3.1.3-9].
/// `None`: at once.
pub fn fires_at(will: &Will, expiry_interval: u32, now: u64) -> Option<u64> {
    let delay = will.delay.min(expiry_interval);
    (delay > 0).then(|| now.saturating_add(u64::from(delay) * 1000))
}
