//! Application Messages on their way through the broker.
//!
//! A message lives twice. On the hot path it is a [`MessageRef`]: ranges of the buffer it was read into, nothing owned.
//! Whoever has to keep it (a queue, an in-flight window, the retained store, another shard's owner list) asks for
//! [`MessageRef::stored`], which copies it once, however many ask. Properties travel in their encoded form, without
//! those that belong to one hop (Topic Alias, Subscription Identifier) and without the Message Expiry Interval, which is
//! kept as a deadline and counted down on every send [MQTT-3.3.2-6].

use std::cell::OnceCell;
use std::sync::Arc;

use bytes::Bytes;
use nightjar_codec::QoS;
use nightjar_storage::{MessageId, StoredMessage};

use crate::identity::SessionId;

/// One Application Message that is being routed right now.
pub struct MessageRef<'a> {
    pub topic: &'a str,
    pub payload: &'a [u8],
    /// Encoded 5.0 properties that are forwarded unchanged [MQTT-3.3.2-17].
    pub properties: &'a [u8],
    pub qos: QoS,
    /// The RETAIN flag as the publisher set it.
    pub retain: bool,
    /// Broker clock, milliseconds, at which the message expires.
    pub expires_at: Option<u64>,
    /// Place among the retained publishes, 0 for a message that is not retained (D17).
    pub sequence: u64,
    /// The publishing session, for No Local.
    pub publisher: Option<SessionId>,
    /// For the store; only set once somebody durable is to own the message.
    pub publisher_client_id: Option<Arc<str>>,
    /// Of one that is retained.
    pub publisher_user: Option<Box<str>>,
    /// Identity for the store; assigned before somebody durable owns the message.
    pub message_id: MessageId,
    stored: OnceCell<Arc<StoredMessage>>,
}

impl<'a> MessageRef<'a> {
    pub fn new(topic: &'a str, payload: &'a [u8], properties: &'a [u8], qos: QoS) -> Self {
        Self {
            topic,
            payload,
            properties,
            qos,
            retain: false,
            expires_at: None,
            sequence: 0,
            publisher: None,
            publisher_client_id: None,
            publisher_user: None,
            message_id: 0,
            stored: OnceCell::new(),
        }
    }

    /// A message that is already kept, routed again without another copy.
    pub fn from_stored(stored: &'a Arc<StoredMessage>) -> Self {
        let message = Self {
            retain: stored.retain,
            expires_at: stored.expires_at,
            sequence: stored.sequence,
            message_id: stored.message_id,
            ..Self::new(
                &stored.topic,
                &stored.payload,
                &stored.properties,
                stored.qos,
            )
        };
        // The cell is new, so this cannot fail.
        let _ = message.stored.set(Arc::clone(stored));
        message
    }

    /// The same message once more, for the store another one.
    pub fn copy(&self) -> MessageRef<'_> {
        MessageRef {
            retain: self.retain,
            expires_at: self.expires_at,
            sequence: self.sequence,
            publisher: self.publisher,
            ..MessageRef::new(self.topic, self.payload, self.properties, self.qos)
        }
    }

    /// The message as something that can be kept. Copies on the first call only.
    pub fn stored(&self) -> &Arc<StoredMessage> {
        self.stored.get_or_init(|| {
            Arc::new(StoredMessage {
                message_id: self.message_id,
                topic: self.topic.into(),
                payload: Bytes::copy_from_slice(self.payload),
                properties: Bytes::copy_from_slice(self.properties),
                qos: self.qos,
                retain: self.retain,
                expires_at: self.expires_at,
                sequence: self.sequence,
                publisher: self.publisher_client_id.as_deref().map(Into::into),
                publisher_user: self.publisher_user.clone(),
            })
        })
    }

    /// Whether there is a copy that is kept.
    pub fn is_stored(&self) -> bool {
        self.stored.get().is_some()
    }

    /// The payload as bytes that several receivers can share; copied at most once.
    pub fn shared_payload(&self) -> Bytes {
        self.stored.get().map_or_else(
            || Bytes::copy_from_slice(self.payload),
            |stored| stored.payload.clone(),
        )
    }

    /// What the message counts for in byte bounds.
    pub fn cost(&self) -> u64 {
        cost(self.topic, self.payload, self.properties)
    }

    /// What the broker tells of itself: kept in memory only, and for nobody who is away. The state of bridges is theirs.
    pub fn is_from_broker(&self) -> bool {
        self.publisher.is_none()
            && self.topic.starts_with("$SYS/")
            && !self.topic.starts_with("$SYS/broker/connection/")
    }

    pub fn is_expired(&self, now: u64) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}

/// What a kept message counts for in byte bounds: its text and a fixed share of bookkeeping.
pub fn stored_cost(message: &StoredMessage) -> u64 {
    cost(&message.topic, &message.payload, &message.properties)
}

/// The Message Expiry Interval to send: whole seconds that are left, rounded up, never 0 for a message that is still alive.
pub fn remaining_expiry_seconds(expires_at: Option<u64>, now: u64) -> Option<u32> {
    let left = expires_at?.saturating_sub(now).div_ceil(1000).max(1);
    Some(u32::try_from(left).unwrap_or(u32::MAX))
}

fn cost(topic: &str, payload: &[u8], properties: &[u8]) -> u64 {
    cost_of_text((topic.len() + payload.len() + properties.len()) as u64)
}

/// What a message counts for whose topic, payload and properties have so many bytes together.
pub fn cost_of_text(bytes: u64) -> u64 {
    bytes + BOOKKEEPING_BYTES
}

const BOOKKEEPING_BYTES: u64 = 128;
