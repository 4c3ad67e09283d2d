//! The checkpoint: what is kept for long, in a form that can be read without replaying its history.
//!
//! Comes in: operations that are durable in the journal. Goes out: records. It is read at a start, and when a session
//! comes back to a queue that is longer than what is held in memory; never on the way of a PUBLISH.

use std::sync::Arc;

use crate::error::StorageError;
use crate::journal::Lsn;
use crate::operation::{
    ClockRecord, MessageId, Operation, Owner, SessionRecord, StoredMessage, SubscriptionRecord,
};

/// The place of a message in its owner's queue. Ascending in the order of the queue, with gaps; the first is above 0.
pub type Sequence = u64;

/// What is kept for long: sessions, subscriptions, queues, in-flight state, retained messages.
pub trait Checkpoint: Send + Sync {
    /// Takes operations with consecutive Lsns, the last of which is `upto`. Operations that were applied before are
    /// skipped, so that a replay after a crash changes nothing.
    fn apply(&mut self, operations: &[Operation], upto: Lsn) -> Result<(), StorageError>;

    /// The record of one session.
    fn session(&self, client_id: &str) -> Result<Option<SessionRecord>, StorageError>;

    /// At most `limit` messages of one owner's queue, from the first one behind `after`; 0 is before the first. Messages
    /// that are in flight are among them. The work does not depend on what others own (D7).
    fn queue(
        &self,
        owner: &Owner,
        after: Sequence,
        limit: usize,
    ) -> Result<Vec<QueuedMessage>, StorageError>;

    /// What one owner's queue holds, in its order, without the messages: what a start needs of a long queue.
    fn outline(&self, owner: &Owner) -> Result<Vec<QueueEntry>, StorageError> {
        let mut entries = Vec::new();
        let mut after = 0;
        loop {
            let page = self.queue(owner, after, PAGE)?;
            let Some(last) = page.last() else {
                return Ok(entries);
            };
            after = last.sequence;
            entries.extend(page.iter().map(QueueEntry::of));
        }
    }

    /// These messages of one owner's queue, in the order asked for: up to the first that is not there or not durable
    /// yet, and as long as their texts have at most `bytes_max` together; the first one in any case. The work does not
    /// depend on what else is in the queue.
    fn queued(
        &self,
        owner: &Owner,
        message_ids: &[MessageId],
        bytes_max: u64,
    ) -> Result<Vec<QueuedMessage>, StorageError>;

    /// Share groups whose queue holds something, in order.
    fn groups(&self) -> Result<Vec<Owner>, StorageError> {
        let mut groups = Vec::new();
        self.scan(Table::Queues, &mut |record| {
            if let Record::Queued { owner, .. } = record
                && matches!(owner, Owner::Group { .. })
                && groups.last() != Some(&owner)
            {
                groups.push(owner);
            }
        })?;
        Ok(groups)
    }

    /// The highest message id that is known, 0 if none is; ids are given above it after a start.
    fn message_id_max(&self) -> MessageId;

    /// Visits every record of one table, ordered by its key.
    fn scan(&self, table: Table, visit: &mut dyn FnMut(Record)) -> Result<(), StorageError>;
}

/// One entry of an owner's queue, without its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueEntry {
    pub message_id: MessageId,
    /// Of the message's topic, properties and payload; 0 where the message is not needed any more.
    pub bytes: u32,
    pub phase: QueuePhase,
}

/// [`QueuedState`] without the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueuePhase {
    Waiting,
    Sent { packet_id: u16 },
    Released { packet_id: u16 },
}

impl QueueEntry {
    fn of(queued: &QueuedMessage) -> Self {
        let message = queued.state.message();
        Self {
            message_id: queued.message_id,
            bytes: message.map_or(0, |message| {
                u32::try_from(message.text_bytes()).unwrap_or(u32::MAX)
            }),
            phase: queued.state.phase(),
        }
    }
}

/// One message in one owner's queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueuedMessage {
    pub sequence: Sequence,
    pub message_id: MessageId,
    pub qos: nightjar_codec::QoS,
    /// The RETAIN flag as it will be sent.
    pub retain: bool,
    pub subscription_identifiers: Vec<u32>,
    pub state: QueuedState,
    /// The owner that handed the message over, and the place it had there.
    pub came_from: Option<(Owner, Sequence)>,
}

/// How far the delivery of a queued message has come.
///
/// `order` is ascending in the order in which packet ids were assigned and PUBRECs came, which is the order of sending
/// again [MQTT-4.6.0-1] [MQTT-4.6.0-4]; it may differ from the order of the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueuedState {
    Waiting(Arc<StoredMessage>),
    /// A PUBLISH with this packet id may have been sent.
    Sent {
        packet_id: u16,
        order: u64,
        message: Arc<StoredMessage>,
    },
    /// PUBREC came, PUBREL is due until PUBCOMP comes. What was asked for the message's sending is forgotten.
    Released {
        packet_id: u16,
        order: u64,
    },
}

impl QueuedState {
    /// The message, unless it is not needed any more.
    pub fn message(&self) -> Option<&Arc<StoredMessage>> {
        match self {
            Self::Waiting(message) | Self::Sent { message, .. } => Some(message),
            Self::Released { .. } => None,
        }
    }

    pub fn phase(&self) -> QueuePhase {
        match *self {
            Self::Waiting(_) => QueuePhase::Waiting,
            Self::Sent { packet_id, .. } => QueuePhase::Sent { packet_id },
            Self::Released { packet_id, .. } => QueuePhase::Released { packet_id },
        }
    }

    /// The packet id in use, if there is one.
    pub fn packet_id(&self) -> Option<u16> {
        match self {
            Self::Waiting(_) => None,
            Self::Sent { packet_id, .. } | Self::Released { packet_id, .. } => Some(*packet_id),
        }
    }
}

/// What [`Checkpoint::scan`] can go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// By client id.
    Sessions,
    /// By client id, then topic filter.
    Subscriptions,
    /// By owner (sessions before groups), then sequence.
    Queues,
    /// By client id, then packet id.
    ReceivedQos2,
    /// By message id; every message that is in somebody's queue.
    Messages,
    /// By topic.
    Retained,
    /// One record, or none.
    Clock,
}

impl Table {
    pub const ALL: [Self; 7] = [
        Self::Sessions,
        Self::Subscriptions,
        Self::Queues,
        Self::ReceivedQos2,
        Self::Messages,
        Self::Retained,
        Self::Clock,
    ];
}

/// One row of a [`Table`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    Session {
        client_id: Box<str>,
        session: SessionRecord,
    },
    Subscription {
        client_id: Box<str>,
        topic_filter: Box<str>,
        subscription: SubscriptionRecord,
    },
    Queued {
        owner: Owner,
        queued: QueuedMessage,
    },
    ReceivedQos2 {
        client_id: Box<str>,
        packet_id: u16,
    },
    /// `owners` is the number of queues that hold the message; never 0.
    Message {
        message: Arc<StoredMessage>,
        owners: u32,
    },
    Retained {
        message: Arc<StoredMessage>,
    },
    Clock(ClockRecord),
}

/// Messages that are read at once where a whole queue is.
const PAGE: usize = 256;
