//! What one shard tells another: messages for its sessions. One queue for each ordered pair of shards, handed over once a
//! turn, so that a thousand deliveries cost one lock and one wake-up.
//!
//! A plain message travels as ranges of one byte buffer and is resolved by the receiving shard from its own cache. A
//! message that sessions of the receiving shard own travels with the list of those owners, which was fixed when it was
//! accepted (D6).

use std::mem;
use std::ops::{ControlFlow, Range};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use nightjar_codec::QoS;
use nightjar_storage::StoredMessage;
use smallvec::SmallVec;

use crate::exchange::retained::Snapshot;
use crate::exchange::shared::Assignment;
use crate::identity::{SessionId, ShardId};
use crate::message::{MessageRef, stored_cost};

/// A batch from one shard to another.
#[derive(Default)]
pub struct Mail {
    bytes: Vec<u8>,
    items: Vec<Item>,
    /// Items that were read already.
    read: usize,
    /// What it counts for in the bound of the pair.
    cost: u64,
}

enum Item {
    Plain(Plain),
    Owned(Box<Owned>),
    /// A share group chose a session of the receiving shard.
    Assigned(Box<Assignment>),
}

struct Plain {
    start: usize,
    topic_length: usize,
    properties_length: usize,
    payload_length: usize,
    qos: QoS,
    retain: bool,
    expires_at: Option<u64>,
    sequence: u64,
    publisher: Option<SessionId>,
}

/// A message and those of the receiving shard's sessions that own it. Sessions that cannot resume are resolved there.
pub(crate) struct Owned {
    pub(crate) message: Arc<StoredMessage>,
    pub(crate) sequence: u64,
    pub(crate) publisher: Option<SessionId>,
    pub(crate) owners: Vec<OwnedDelivery>,
    /// A further copy for overlapping subscriptions: for its owners alone.
    pub(crate) is_copy: bool,
}

/// One owner, its terms and what was reserved for it.
pub(crate) struct OwnedDelivery {
    pub(crate) session: SessionId,
    /// Should the session have ended: what the store calls it.
    pub(crate) client_id: Arc<str>,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) subscription_identifiers: SmallVec<[u32; 2]>,
    pub(crate) reserved: u64,
    /// What the subscriptions that made it an owner have shown of retained messages (D17).
    pub(crate) seen: SmallVec<[Arc<OnceLock<Snapshot>>; 1]>,
}

/// One piece of mail, read.
pub(crate) enum Letter<'a> {
    Message(MessageRef<'a>),
    Owned(&'a Owned),
    Assigned(&'a Assignment),
}

impl Mail {
    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(crate) fn push_message(&mut self, message: &MessageRef<'_>) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(message.topic.as_bytes());
        self.bytes.extend_from_slice(message.properties);
        self.bytes.extend_from_slice(message.payload);
        self.cost += (self.bytes.len() - start + size_of::<Item>()) as u64;
        self.items.push(Item::Plain(Plain {
            start,
            topic_length: message.topic.len(),
            properties_length: message.properties.len(),
            payload_length: message.payload.len(),
            qos: message.qos,
            retain: message.retain,
            expires_at: message.expires_at,
            sequence: message.sequence,
            publisher: message.publisher,
        }));
    }

    pub(crate) fn push_owned(&mut self, owned: Owned) {
        self.cost += stored_cost(&owned.message);
        self.items.push(Item::Owned(Box::new(owned)));
    }

    pub(crate) fn push_assigned(&mut self, assignment: Assignment) {
        self.cost += stored_cost(&assignment.message);
        self.items.push(Item::Assigned(Box::new(assignment)));
    }

    /// Reads the letters in the order they were written, on from where it was broken off the last time. A letter at which `visit`
    /// breaks off is read again. True: all were read, and it is empty.
    pub(crate) fn read(&mut self, mut visit: impl FnMut(Letter<'_>) -> ControlFlow<()>) -> bool {
        while let Some(item) = self.items.get(self.read) {
            let flow = visit(match item {
                Item::Plain(plain) => Letter::Message(plain.message(&self.bytes)),
                Item::Owned(owned) => Letter::Owned(owned),
                Item::Assigned(assignment) => Letter::Assigned(assignment),
            });
            if flow.is_break() {
                return false;
            }
            self.read += 1;
        }
        self.clear();
        true
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(KEPT_BYTES);
        self.items.clear();
        self.items.shrink_to(KEPT_ITEMS);
        self.read = 0;
        self.cost = 0;
    }

    pub(crate) fn cost(&self) -> u64 {
        self.cost
    }

    /// Moves what the journal may be concerned with behind what is held already. QoS 0 stays: order is kept within each QoS.
    pub(crate) fn hold_back(&mut self, held: &mut Self) {
        if self.is_empty() {
            return;
        }
        let mail = mem::take(self);
        for item in mail.items {
            match item {
                Item::Plain(plain) if plain.qos == QoS::AtMostOnce => {
                    self.push_message(&plain.message(&mail.bytes));
                }
                Item::Plain(plain) => held.push_message(&plain.message(&mail.bytes)),
                Item::Owned(owned) => held.push_owned(*owned),
                Item::Assigned(assignment) => held.push_assigned(*assignment),
            }
        }
    }

    fn append(&mut self, mut other: Self) -> Self {
        let offset = self.bytes.len();
        self.bytes.extend_from_slice(&other.bytes);
        for mut item in other.items.drain(..) {
            if let Item::Plain(plain) = &mut item {
                plain.start += offset;
            }
            self.items.push(item);
        }
        self.cost += other.cost;
        other.clear();
        other
    }
}

impl Plain {
    fn message<'a>(&self, bytes: &'a [u8]) -> MessageRef<'a> {
        let properties = self.start + self.topic_length;
        let payload = properties + self.properties_length;
        let part = |range: Range<usize>| bytes.get(range).unwrap_or_default();
        let topic = std::str::from_utf8(part(self.start..properties)).unwrap_or_default();
        let mut message = MessageRef::new(
            topic,
            part(payload..payload + self.payload_length),
            part(properties..payload),
            self.qos,
        );
        message.retain = self.retain;
        message.expires_at = self.expires_at;
        message.sequence = self.sequence;
        message.publisher = self.publisher;
        message
    }
}

/// The queues between all pairs of shards.
pub struct PostOffice {
    shards: usize,
    boxes: Vec<Letterbox>,
    bytes_max: u64,
}

#[derive(Default)]
struct Letterbox {
    mail: Mutex<Mail>,
    cost: AtomicU64,
}

impl PostOffice {
    pub fn new(shards: ShardId, bytes_max: u64) -> Self {
        let shards = usize::from(shards);
        Self {
            shards,
            boxes: (0..shards * shards).map(|_| Letterbox::default()).collect(),
            bytes_max,
        }
    }

    pub fn shards(&self) -> usize {
        self.shards
    }

    /// Hands over `mail` and leaves it empty. True: the queue was empty before, so the receiver has to be woken.
    pub(crate) fn post(&self, from: ShardId, to: ShardId, mail: &mut Mail) -> bool {
        let letterbox = self.letterbox(from, to);
        let mut waiting = letterbox.lock();
        let was_empty = waiting.is_empty();
        if was_empty {
            mem::swap(&mut *waiting, mail);
        } else {
            *mail = waiting.append(mem::take(mail));
        }
        letterbox.cost.store(waiting.cost, Ordering::Relaxed);
        was_empty
    }

    /// Takes everything that waits; `mail` must be empty and its buffers are used for the next.
    pub(crate) fn collect(&self, from: ShardId, to: ShardId, mail: &mut Mail) {
        let letterbox = self.letterbox(from, to);
        if letterbox.cost.load(Ordering::Relaxed) == 0 && letterbox.lock().is_empty() {
            return;
        }
        let mut waiting = letterbox.lock();
        mem::swap(&mut *waiting, mail);
        letterbox.cost.store(0, Ordering::Relaxed);
    }

    /// So much is to be handed over that the turn ends with it.
    pub(crate) fn is_full(&self, mail: &Mail) -> bool {
        mail.cost > self.bytes_max
    }

    /// The receiver is so far behind that the sender has to stop reading from its publishers.
    pub(crate) fn is_congested(&self, from: ShardId, to: ShardId) -> bool {
        self.letterbox(from, to).cost.load(Ordering::Relaxed) > self.bytes_max
    }

    fn letterbox(&self, from: ShardId, to: ShardId) -> &Letterbox {
        &self.boxes[usize::from(from) * self.shards + usize::from(to)]
    }
}

impl Letterbox {
    fn lock(&self) -> MutexGuard<'_, Mail> {
        // A batch is swapped or appended whole; a panic between cannot leave half a letter.
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const KEPT_BYTES: usize = 256 * 1024;
const KEPT_ITEMS: usize = 4096;
