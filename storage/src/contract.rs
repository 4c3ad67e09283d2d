//! The test suite that every engine must pass.
//!
//! An engine is handed in as a [`Subject`]: the two traits, and the few levers that only a test needs (hold the medium
//! back, cut the power, let the medium fail). Each function panics with the sentence that was broken. A whole engine is
//! tested by [`journal_contract`], [`full_contract`], [`checkpoint_contract`] and [`random_contract`].
//!
//! Faults it injects: a power cut between any two batches, a medium that stands still, a medium that fails, a replay of
//! operations that were applied already.
//!
//! It knows nothing of files. That a batch is whole after a torn sector is for the power-loss harness of the engine.

mod checkpoint;
mod journal;
mod random;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use nightjar_codec::{ProtocolVersion, QoS, RetainHandling};

use crate::checkpoint::{Checkpoint, QueuedMessage, QueuedState, Record, Sequence, Table};
use crate::image::Image;
use crate::journal::{Journal, JournalStatus, Lsn, restore};
use crate::memory::MemoryEngine;
use crate::operation::{
    Batch, ClockRecord, MessageId, Operation, Owner, OwnerEntry, SessionRecord, StoredMessage,
    SubscriptionRecord, WillRecord,
};

pub use checkpoint::checkpoint_contract;
pub use journal::{full_contract, journal_contract};
pub use random::{Random, World, random_contract};

/// An engine under test: empty when it is made, and its medium obeys.
pub trait Subject: Journal + Checkpoint + Sized {
    /// From here on nothing becomes durable but by `settle`.
    fn hold(&mut self);

    /// Returns when everything up to `upto` is durable, and nothing behind it.
    fn settle(&mut self, upto: Lsn);

    /// Brings the checkpoint up to what is durable, and trims the journal.
    fn catch_up(&mut self);

    /// Cuts the power and opens what is left. What was not durable may be there, in whole batches from the oldest on.
    fn power_cut(self) -> Self;

    /// Lets the medium fail under the next write. Returns when the journal has failed.
    fn fail(&mut self);

    /// Lets the medium work again. Returns when the journal has noticed; from here on it is held, as by `hold`.
    fn reopen(&mut self);
}

impl Subject for MemoryEngine {
    fn hold(&mut self) {
        Self::hold(self);
    }

    fn settle(&mut self, upto: Lsn) {
        self.commit(upto);
    }

    fn catch_up(&mut self) {
        let mut journal = self.clone();
        if let Some(upto) = restore(&mut journal, self).expect("memory can be read") {
            journal.trim(upto);
        }
    }

    fn power_cut(self) -> Self {
        self.crash()
    }

    fn fail(&mut self) {
        Self::fail(self, "a test said so");
    }

    fn reopen(&mut self) {
        Self::reopen(self);
        Self::hold(self);
    }
}

/// Panics if a record points at something that is not there, or something is there that no record needs.
pub fn check_integrity(checkpoint: &impl Checkpoint) {
    let mut sessions = BTreeSet::new();
    let mut needed: BTreeMap<MessageId, u32> = BTreeMap::new();
    let mut packet_ids = BTreeSet::new();
    let mut orders = BTreeSet::new();
    let mut entries = BTreeSet::new();
    let mut before: Option<(Owner, Sequence)> = None;
    let mut queues: BTreeMap<Owner, Vec<QueuedMessage>> = BTreeMap::new();

    scan(checkpoint, Table::Sessions, |record| {
        let Record::Session { client_id, .. } = record else {
            panic!("not a session: {record:?}")
        };
        assert!(
            sessions.insert(client_id.clone()),
            "session {client_id} is there twice"
        );
    });
    scan(checkpoint, Table::Subscriptions, |record| {
        let Record::Subscription { client_id, .. } = record else {
            panic!("not a subscription: {record:?}")
        };
        assert!(
            sessions.contains(&client_id),
            "a subscription without its session {client_id}"
        );
    });
    scan(checkpoint, Table::ReceivedQos2, |record| {
        let Record::ReceivedQos2 { client_id, .. } = record else {
            panic!("not a packet id: {record:?}")
        };
        assert!(
            sessions.contains(&client_id),
            "a received packet id without its session {client_id}"
        );
    });
    scan(checkpoint, Table::Queues, |record| {
        let Record::Queued { owner, queued } = record else {
            panic!("not a queued message: {record:?}")
        };
        if let Owner::Session(client_id) = &owner {
            assert!(
                sessions.contains(&**client_id),
                "a queue without its session {client_id}"
            );
        }
        assert!(
            entries.insert((owner.clone(), queued.message_id)),
            "{owner:?} owns a message twice"
        );
        if let Some(packet_id) = queued.state.packet_id() {
            assert!(
                packet_ids.insert((owner.clone(), packet_id)),
                "{owner:?} uses packet id {packet_id} twice"
            );
        }
        if let QueuedState::Sent { order, .. } | QueuedState::Released { order, .. } = queued.state
        {
            assert!(
                orders.insert((owner.clone(), order)),
                "two messages of {owner:?} were sent at once"
            );
        }
        if let Some(message) = queued.state.message() {
            assert_eq!(
                message.message_id, queued.message_id,
                "a dangling message id"
            );
            *needed.entry(queued.message_id).or_default() += 1;
        }
        let place = (owner.clone(), queued.sequence);
        queues.entry(owner).or_default().push(queued);
        assert!(place.1 > 0, "places begin above 0");
        assert!(
            before.as_ref().is_none_or(|before| *before < place),
            "queues are not scanned in order"
        );
        before = Some(place);
    });
    scan(checkpoint, Table::Messages, |record| {
        let Record::Message { message, owners } = record else {
            panic!("not a message: {record:?}")
        };
        let needed = needed.remove(&message.message_id);
        assert_eq!(
            needed,
            Some(owners),
            "message {} is an orphan or miscounted",
            message.message_id
        );
    });
    assert!(
        needed.is_empty(),
        "queued messages that are not stored: {needed:?}"
    );
    check_ways_to_read(checkpoint, &queues);
}

/// Panics where a queue that is read by its entries, or message by message, is not what a scan shows.
fn check_ways_to_read(checkpoint: &impl Checkpoint, queues: &BTreeMap<Owner, Vec<QueuedMessage>>) {
    for (owner, queue) in queues {
        let outline: Vec<_> = checkpoint
            .outline(owner)
            .expect("a healthy medium can be read")
            .iter()
            .map(|entry| (entry.message_id, u64::from(entry.bytes), entry.phase))
            .collect();
        let expected: Vec<_> = queue
            .iter()
            .map(|queued| {
                let message = queued.state.message();
                let bytes = message.map_or(0, |message| message.text_bytes());
                (queued.message_id, bytes, queued.state.phase())
            })
            .collect();
        assert_eq!(outline, expected, "the outline of the queue of {owner:?}");
        let needed = queue
            .iter()
            .filter(|queued| queued.state.message().is_some());
        let backwards: Vec<QueuedMessage> = needed.rev().cloned().collect();
        let ids: Vec<MessageId> = backwards.iter().map(|queued| queued.message_id).collect();
        let read = checkpoint.queued(owner, &ids, u64::MAX);
        assert_eq!(
            read.expect("a healthy medium can be read"),
            backwards,
            "the messages of {owner:?} read by their ids"
        );
    }
    let mut groups: Vec<&Owner> = queues.keys().collect();
    groups.retain(|owner| matches!(owner, Owner::Group { .. }));
    let found = checkpoint.groups().expect("a healthy medium can be read");
    assert!(found.iter().eq(groups), "groups with a queue: {found:?}");
    let highest = queues.values().flatten().map(|queued| queued.message_id);
    assert!(
        highest
            .max()
            .is_none_or(|id| id <= checkpoint.message_id_max()),
        "a message id is above the highest"
    );
}

fn append(engine: &impl Journal, operations: Vec<Operation>) -> Lsn {
    engine
        .append(Batch(operations))
        .expect("a journal with room takes a batch")
}

/// Appends one batch and waits until the checkpoint has it.
fn run<E: Subject>(engine: &mut E, operations: Vec<Operation>) -> Lsn {
    let lsn = append(engine, operations);
    engine.settle(lsn);
    engine.catch_up();
    lsn
}

fn reopened<E: Subject>(engine: E) -> E {
    let mut engine = engine.power_cut();
    engine.catch_up();
    engine
}

fn scan(checkpoint: &impl Checkpoint, table: Table, mut visit: impl FnMut(Record)) {
    checkpoint
        .scan(table, &mut visit)
        .expect("a healthy medium can be read");
}

/// Whether the checkpoint holds what the model does.
pub fn is_same(checkpoint: &impl Checkpoint, model: &Image) -> bool {
    snapshot(image_records(model)) == snapshot(engine_records(checkpoint))
}

/// Panics where the checkpoint does not hold what the model does.
pub fn check_same(checkpoint: &impl Checkpoint, model: &Image, context: &str) {
    check_integrity(checkpoint);
    let (stored, expected) = (
        snapshot(engine_records(checkpoint)),
        snapshot(image_records(model)),
    );
    if stored == expected {
        return;
    }
    let brief = |records: &[Record], without: &[Record]| -> Vec<String> {
        let only = records.iter().filter(|record| !without.contains(record));
        only.map(|record| format!("{record:?}").chars().take(300).collect())
            .collect()
    };
    panic!(
        "{context}: {} records are stored, {} expected\nonly stored: {:#?}\nonly expected: {:#?}",
        stored.len(),
        expected.len(),
        brief(&stored, &expected),
        brief(&expected, &stored),
    );
}

fn engine_records(checkpoint: &impl Checkpoint) -> Vec<Record> {
    let mut records = Vec::new();
    for table in Table::ALL {
        scan(checkpoint, table, |record| records.push(record));
    }
    records
}

fn image_records(image: &Image) -> Vec<Record> {
    Table::ALL
        .into_iter()
        .flat_map(|table| image.records(table))
        .collect()
}

/// The records with their order kept, but places and orders of sending as ranks within their owner: which numbers an engine
/// takes is its own.
fn snapshot(mut records: Vec<Record>) -> Vec<Record> {
    let mut orders: BTreeSet<(Owner, u64)> = BTreeSet::new();
    let mut places: BTreeSet<(Owner, Sequence)> = BTreeSet::new();
    for record in &records {
        if let Record::Queued { owner, queued } = record {
            places.insert((owner.clone(), queued.sequence));
            places.extend(queued.came_from.clone());
            if let QueuedState::Sent { order, .. } | QueuedState::Released { order, .. } =
                queued.state
            {
                orders.insert((owner.clone(), order));
            }
        }
    }
    let orders: BTreeMap<(Owner, u64), u64> = orders.into_iter().zip(1..).collect();
    let places: BTreeMap<(Owner, Sequence), u64> = places.into_iter().zip(1..).collect();
    for record in &mut records {
        if let Record::Queued { owner, queued } = record {
            queued.sequence = places[&(owner.clone(), queued.sequence)];
            if let Some(came_from) = &mut queued.came_from {
                came_from.1 = places[came_from];
            }
            if let QueuedState::Sent { order, .. } | QueuedState::Released { order, .. } =
                &mut queued.state
            {
                *order = orders[&(owner.clone(), *order)];
            }
        }
    }
    records
}

fn put_session(client_id: &str) -> Operation {
    let session = SessionRecord {
        protocol_version: ProtocolVersion::V3_1_1,
        session_expiry_interval: 60,
        expires_at: None,
        will: None,
        user: None,
    };
    Operation::PutSession {
        client_id: client_id.into(),
        session,
    }
}

fn delete_session(client_id: &str) -> Operation {
    Operation::DeleteSession {
        client_id: client_id.into(),
    }
}

fn put_subscription(client_id: &str, topic_filter: &str) -> Operation {
    let subscription = SubscriptionRecord {
        qos: QoS::AtLeastOnce,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::DoNotSend,
        subscription_identifier: None,
    };
    Operation::PutSubscription {
        client_id: client_id.into(),
        topic_filter: topic_filter.into(),
        subscription,
    }
}

fn message(topic: &str, message_id: MessageId) -> Arc<StoredMessage> {
    Arc::new(StoredMessage {
        message_id,
        topic: topic.into(),
        payload: Bytes::from(format!("payload {message_id}")),
        properties: Bytes::new(),
        qos: QoS::ExactlyOnce,
        retain: false,
        expires_at: None,
        sequence: 0,
        publisher: None,
        publisher_user: None,
    })
}

fn enqueue(message_id: MessageId, owners: &[OwnerEntry]) -> Operation {
    Operation::Enqueue {
        message: message("t/1", message_id),
        owners: owners.into(),
    }
}

fn retain(topic: &str, message_id: MessageId) -> Operation {
    Operation::PutRetained {
        message: message(topic, message_id),
    }
}

fn to(client_id: &str) -> OwnerEntry {
    entry(Owner::session(client_id))
}

fn to_group() -> OwnerEntry {
    entry(Owner::group("g", "t/+"))
}

fn entry(owner: Owner) -> OwnerEntry {
    OwnerEntry {
        owner,
        qos: QoS::ExactlyOnce,
        retain: false,
        subscription_identifiers: vec![],
    }
}

fn assign(client_id: &str, message_id: MessageId, packet_id: u16) -> Operation {
    Operation::AssignPacketId {
        client_id: client_id.into(),
        message_id,
        packet_id,
    }
}

fn pubrec(client_id: &str, packet_id: u16) -> Operation {
    Operation::Pubrec {
        client_id: client_id.into(),
        packet_id,
    }
}

fn dequeue(owner: &Owner, message_id: MessageId) -> Operation {
    Operation::Dequeue {
        owner: owner.clone(),
        message_id,
    }
}

fn transfer(message_id: MessageId, from: &Owner, to: OwnerEntry) -> Operation {
    Operation::Transfer {
        message_id,
        from: from.clone(),
        to,
    }
}

fn received(client_id: &str, packet_id: u16) -> Operation {
    Operation::ReceivedQos2 {
        client_id: client_id.into(),
        packet_id,
    }
}
