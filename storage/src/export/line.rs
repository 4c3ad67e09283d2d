//! The lines of an export as values. `docs/store-export.md` says what each field means.
//!
//! Comes in and goes out: JSON, one value a line, the fields in the order in which they stand here. A field that is not known is
//! an error, so that a slip of the pen in a file made by hand is found.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use nightjar_codec::QoS;
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::operation::Owner;

/// One line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Line {
    NightjarExport(Header),
    Session(Box<Session>),
    Subscription(Subscription),
    Group(Group),
    Message(Box<Message>),
    Retained(Box<Retained>),
    End(End),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    pub(super) version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) wall_clock: Option<u64>,
    pub(super) message_id_max: u64,
    pub(super) place_floor: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Session {
    pub(super) client_id: Box<str>,
    pub(super) protocol_version: u8,
    pub(super) session_expiry_interval: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) expires_at: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) user: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) will: Option<Will>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) received_packet_ids: Vec<u16>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) released: Vec<Released>,
    pub(super) next_place: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Will {
    pub(super) topic: Box<str>,
    pub(super) qos: Level,
    pub(super) retain: bool,
    pub(super) will_delay_interval: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) message_expiry_interval: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) publish_at: Option<u64>,
    pub(super) properties: Encoded,
    pub(super) payload: Encoded,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Released {
    pub(super) packet_id: u16,
    pub(super) order: u64,
    pub(super) message_id: u64,
    pub(super) place: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Subscription {
    pub(super) client_id: Box<str>,
    pub(super) topic_filter: Box<str>,
    pub(super) qos: Level,
    pub(super) no_local: bool,
    pub(super) retain_as_published: bool,
    pub(super) retain_handling: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) subscription_identifier: Option<u32>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Group {
    pub(super) share_name: Box<str>,
    pub(super) topic_filter: Box<str>,
    pub(super) next_place: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Message {
    pub(super) message_id: u64,
    pub(super) topic: Box<str>,
    pub(super) qos: Level,
    pub(super) retain: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) expires_at: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) publisher: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) publisher_user: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) retain_sequence: u64,
    pub(super) properties: Encoded,
    pub(super) payload: Encoded,
    pub(super) queues: Vec<Queued>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Queued {
    pub(super) owner: Holder,
    pub(super) place: u64,
    pub(super) qos: Level,
    pub(super) retain: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) subscription_identifiers: Vec<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) sent: Option<Sent>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) came_from: Option<CameFrom>,
}

/// Who has a queue.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Holder {
    Session(HolderSession),
    Group(HolderGroup),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HolderSession {
    client_id: Box<str>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HolderGroup {
    share_name: Box<str>,
    topic_filter: Box<str>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sent {
    pub(super) packet_id: u16,
    pub(super) order: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CameFrom {
    pub(super) owner: Holder,
    pub(super) place: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Retained {
    pub(super) topic: Box<str>,
    pub(super) message_id: u64,
    pub(super) qos: Level,
    pub(super) retain: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) expires_at: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) publisher: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) publisher_user: Option<Box<str>>,
    pub(super) retain_sequence: u64,
    pub(super) properties: Encoded,
    pub(super) payload: Encoded,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct End {
    /// Lines before this one.
    pub(super) lines: u64,
}

/// A QoS as its number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Level(pub(super) QoS);

impl Serialize for Level {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(self.0 as u8)
    }
}

impl<'de> Deserialize<'de> for Level {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u8::deserialize(deserializer)? {
            0 => Ok(Self(QoS::AtMostOnce)),
            1 => Ok(Self(QoS::AtLeastOnce)),
            2 => Ok(Self(QoS::ExactlyOnce)),
            other => Err(D::Error::custom(format_args!("{other} is no QoS"))),
        }
    }
}

/// Bytes as base64.
#[derive(Debug)]
pub(super) struct Encoded(pub(super) Bytes);

impl Serialize for Encoded {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Encoded {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(EncodedVisitor)
    }
}

struct EncodedVisitor;

impl Visitor<'_> for EncodedVisitor {
    type Value = Encoded;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("bytes in base64")
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Encoded, E> {
        let bytes = STANDARD
            .decode(value)
            .map_err(|error| E::custom(format_args!("this is not base64: {error}")))?;
        Ok(Encoded(bytes.into()))
    }
}

impl From<&Owner> for Holder {
    fn from(owner: &Owner) -> Self {
        match owner {
            Owner::Session(client_id) => Self::Session(HolderSession {
                client_id: (&**client_id).into(),
            }),
            Owner::Group {
                share_name,
                topic_filter,
            } => Self::Group(HolderGroup {
                share_name: share_name.clone(),
                topic_filter: topic_filter.clone(),
            }),
        }
    }
}

impl From<Holder> for Owner {
    fn from(holder: Holder) -> Self {
        match holder {
            Holder::Session(HolderSession { client_id }) => Self::Session(client_id.into()),
            Holder::Group(HolderGroup {
                share_name,
                topic_filter,
            }) => Self::Group {
                share_name,
                topic_filter,
            },
        }
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}
