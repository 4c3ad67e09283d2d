//! The vocabulary of the store: one [`Operation`] for each thing that happens to a session, a queue or a retained message.
//!
//! Operations are plain values, so that a batch of them can be logged, replayed, compared, or sent to another machine.
//! Client ids are shared, for one client id is in many operations of one turn.
//! They are facts, not requests: the rooms above have decided already, and an engine refuses none of them. What an
//! operation means is defined by [`Image::fold`](crate::Image::fold).
//!
//! Two shards append independently, so an operation may speak of a session that another shard has just deleted. Such an
//! operation changes nothing. Whoever appends keeps five rules:
//! 1. `PutSession` is appended before the session's first Subscription can be matched by another shard. An `Enqueue` for
//!    a session that is not stored is dropped.
//! 2. An owner never holds the same message id twice. Where it has to hold two copies of one publish (an ordinary and a
//!    Shared Subscription of one client, or duplicates by configuration), each copy has a message id of its own.
//! 3. A shard that learns of an `Enqueue` for a session that has ended in the meantime appends the `Dequeue`: the client may
//!    have another session by now. A crash between the two leaves that one a message of the last.
//! 4. A packet id is assigned again only after the `Dequeue` of its last message was appended.
//! 5. A message of a share group is shown to other shards only after its `Enqueue` was appended, since their `Dequeue` or
//!    `Transfer` of it would change nothing before. `DeleteGroup` is for a start, when nobody else appends: a group of the
//!    same name may begin while the end of the last one is still on its way.

use std::sync::Arc;

use bytes::Bytes;
use nightjar_codec::{ProtocolVersion, QoS, RetainHandling};

/// Names one stored copy of an Application Message; never 0 in the store, and never given twice.
pub type MessageId = u64;

/// One change to what is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Creates the session, or replaces its record and leaves everything else that belongs to it.
    PutSession {
        client_id: Arc<str>,
        session: SessionRecord,
    },
    /// Drops the session with its subscriptions, its queue and its in-flight state.
    DeleteSession {
        client_id: Arc<str>,
    },
    /// `topic_filter` is as subscribed, with `$share/` and the share name.
    PutSubscription {
        client_id: Box<str>,
        topic_filter: Box<str>,
        subscription: SubscriptionRecord,
    },
    DeleteSubscription {
        client_id: Box<str>,
        topic_filter: Box<str>,
    },
    /// Stores the message once and puts it behind everything in the queue of each owner. A group's queue exists from
    /// the first message on.
    Enqueue {
        message: Arc<StoredMessage>,
        /// Messages that go the same way share the list.
        owners: Arc<[OwnerEntry]>,
    },
    /// The message is about to be sent, or was sent, to the subscriber under this packet id (QoS 1 and 2).
    AssignPacketId {
        client_id: Arc<str>,
        message_id: MessageId,
        packet_id: u16,
    },
    /// The subscriber's PUBREC came: the packet id stays in use until the `Dequeue`, the message is not needed any more.
    Pubrec {
        client_id: Arc<str>,
        packet_id: u16,
    },
    /// The owner is done with the message: PUBACK or PUBCOMP came, or it expired or was dropped. Frees its packet id.
    Dequeue {
        owner: Owner,
        message_id: MessageId,
    },
    /// Moves a message to another owner, without its packet id. A message that returns to an owner where it has been
    /// gets the place back that it had there (the front, as seen by whoever reads that queue); otherwise it goes to the
    /// end. `to` carries the options of the new owner's own Subscription.
    Transfer {
        message_id: MessageId,
        from: Owner,
        to: OwnerEntry,
    },
    /// A QoS 2 PUBLISH was accepted from this client; a repeat of it is answered, not published.
    ReceivedQos2 {
        client_id: Arc<str>,
        packet_id: u16,
    },
    /// Its PUBREL came.
    ReleaseQos2 {
        client_id: Arc<str>,
        packet_id: u16,
    },
    /// Replaces what was retained for the topic.
    PutRetained {
        message: Arc<StoredMessage>,
    },
    DeleteRetained {
        topic: Box<str>,
    },
    /// Drops the queue of a share group that has no members.
    DeleteGroup {
        share_name: Box<str>,
        topic_filter: Box<str>,
    },
    /// The broker clock and the wall clock at this moment (D12).
    PutClock(ClockRecord),
}

/// Who has to get a stored message: one session, or one of a share group's members (D8).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// The client id.
    Session(Arc<str>),
    /// `topic_filter` is without `$share/` and the share name.
    Group {
        share_name: Box<str>,
        topic_filter: Box<str>,
    },
}

/// An owner with the options its copy is sent with, fixed when the message is accepted (D6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerEntry {
    pub owner: Owner,
    /// The granted QoS, already lowered to that of the message.
    pub qos: QoS,
    /// The RETAIN flag as it will be sent.
    pub retain: bool,
    pub subscription_identifiers: Vec<u32>,
}

/// An Application Message as it is kept, once, however many own it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredMessage {
    pub message_id: MessageId,
    pub topic: Box<str>,
    pub payload: Bytes,
    /// Encoded 5.0 properties that are forwarded unchanged: without Topic Alias, Message Expiry Interval and
    /// Subscription Identifiers.
    pub properties: Bytes,
    pub qos: QoS,
    /// The RETAIN flag as the publisher set it.
    pub retain: bool,
    /// Broker clock, milliseconds.
    pub expires_at: Option<u64>,
    /// Place among the retained publishes, 0 for a message that is not retained (D17).
    pub sequence: u64,
    /// Client id of the publisher.
    pub publisher: Option<Box<str>>,
    /// Its user name, of retained messages.
    pub publisher_user: Option<Box<str>>,
}

/// What a session is, apart from what it owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRecord {
    pub protocol_version: ProtocolVersion,
    /// Seconds; `u32::MAX` never expires.
    pub session_expiry_interval: u32,
    /// Broker clock, milliseconds; `None` while a Network Connection is open and for a session that never expires.
    pub expires_at: Option<u64>,
    pub will: Option<WillRecord>,
    /// Who the client has authenticated as.
    pub user: Option<Box<str>>,
}

/// A Will Message that waits for its Network Connection to close (D10).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WillRecord {
    pub topic: Box<str>,
    pub payload: Bytes,
    /// Encoded 5.0 properties that are forwarded unchanged.
    pub properties: Bytes,
    pub qos: QoS,
    pub retain: bool,
    /// Seconds; counted from the moment of publication.
    pub message_expiry_interval: Option<u32>,
    /// Will Delay Interval, seconds.
    pub delay: u32,
    /// Broker clock, milliseconds; `None` while the Network Connection is open.
    pub fires_at: Option<u64>,
}

/// The options of one Subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionRecord {
    pub qos: QoS,
    pub no_local: bool,
    pub retain_as_published: bool,
    pub retain_handling: RetainHandling,
    pub subscription_identifier: Option<u32>,
}

/// Both clocks at one moment, so that deadlines go on over a restart (D12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockRecord {
    /// Milliseconds of the broker clock.
    pub broker: u64,
    /// Milliseconds since the epoch.
    pub wall: u64,
}

/// The operations of one turn: durable together or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch(pub Vec<Operation>);

impl Batch {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn push(&mut self, operation: Operation) {
        self.0.push(operation);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// What the batch counts for in a journal's bound.
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(Operation::bytes).sum()
    }
}

impl From<Vec<Operation>> for Batch {
    fn from(operations: Vec<Operation>) -> Self {
        Self(operations)
    }
}

impl Operation {
    /// What the operation counts for in a journal's bound: its text and a fixed share.
    pub fn bytes(&self) -> u64 {
        let text = match self {
            Self::PutSession { client_id, session } => client_id.len() + session.bytes(),
            Self::DeleteSession { client_id }
            | Self::AssignPacketId { client_id, .. }
            | Self::Pubrec { client_id, .. }
            | Self::ReceivedQos2 { client_id, .. }
            | Self::ReleaseQos2 { client_id, .. } => client_id.len(),
            Self::PutSubscription {
                client_id,
                topic_filter,
                ..
            }
            | Self::DeleteSubscription {
                client_id,
                topic_filter,
            } => client_id.len() + topic_filter.len(),
            Self::Enqueue { message, owners } => {
                message.bytes() + owners.iter().map(OwnerEntry::bytes).sum::<usize>()
            }
            Self::Dequeue { owner, .. } => owner.bytes(),
            Self::Transfer { from, to, .. } => from.bytes() + to.bytes(),
            Self::PutRetained { message } => message.bytes(),
            Self::DeleteRetained { topic } => topic.len(),
            Self::DeleteGroup {
                share_name,
                topic_filter,
            } => share_name.len() + topic_filter.len(),
            Self::PutClock(_) => 0,
        };
        text as u64 + OPERATION_BYTES
    }
}

impl Owner {
    /// The session of this client.
    pub fn session(client_id: &str) -> Self {
        Self::Session(client_id.into())
    }

    /// The group of this share name and filter.
    pub fn group(share_name: &str, topic_filter: &str) -> Self {
        Self::Group {
            share_name: share_name.into(),
            topic_filter: topic_filter.into(),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Session(client_id) => client_id.len(),
            Self::Group {
                share_name,
                topic_filter,
            } => share_name.len() + topic_filter.len(),
        }
    }
}

impl OwnerEntry {
    fn bytes(&self) -> usize {
        self.owner.bytes() + self.subscription_identifiers.len() * size_of::<u32>() + OWNER_BYTES
    }
}

impl StoredMessage {
    /// Bytes of its topic, properties and payload.
    pub fn text_bytes(&self) -> u64 {
        (self.topic.len() + self.properties.len() + self.payload.len()) as u64
    }

    fn bytes(&self) -> usize {
        let length = |text: &Option<Box<str>>| text.as_ref().map_or(0, |text| text.len());
        self.topic.len()
            + self.payload.len()
            + self.properties.len()
            + length(&self.publisher)
            + length(&self.publisher_user)
    }
}

impl SessionRecord {
    fn bytes(&self) -> usize {
        let user = self.user.as_ref().map_or(0, |user| user.len());
        let will = self.will.as_ref().map_or(0, |will| {
            will.topic.len() + will.payload.len() + will.properties.len()
        });
        user + will
    }
}

/// Room for the fixed-size fields of an operation.
const OPERATION_BYTES: u64 = 64;
/// Room for the fixed-size fields of an owner entry.
const OWNER_BYTES: usize = 16;
