//! What operations add up to, in ordered maps: the reference model that every engine is compared with.
//!
//! Comes in: one [`Operation`] after the other, through [`Image::fold`], which defines what each of them means. Goes out:
//! sessions, queues, in-flight state and retained messages, each in the order of its key. It does not know which of the
//! operations are durable.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nightjar_codec::QoS;

use crate::checkpoint::{QueuedMessage, QueuedState, Record, Sequence, Table};
use crate::operation::{
    ClockRecord, MessageId, Operation, Owner, OwnerEntry, SessionRecord, StoredMessage,
    SubscriptionRecord,
};

/// What operations add up to: the meaning of the store, without its mechanics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    sessions: BTreeMap<Box<str>, StoredSession>,
    queues: BTreeMap<Owner, Queue>,
    messages: BTreeMap<MessageId, Held>,
    retained: BTreeMap<Box<str>, Arc<StoredMessage>>,
    clock: Option<ClockRecord>,
    /// Places in queues, and the order of sending, are taken from one counter: a place is never given twice, also not by
    /// a queue that was dropped and comes back.
    last_sequence: Sequence,
    without_effect: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct StoredSession {
    record: SessionRecord,
    subscriptions: BTreeMap<Box<str>, SubscriptionRecord>,
    received_qos2: BTreeSet<u16>,
}

/// One owner's messages. An owner without messages has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Queue {
    entries: BTreeMap<Sequence, Entry>,
    places: BTreeMap<MessageId, Sequence>,
    packet_ids: BTreeMap<u16, Sequence>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    message_id: MessageId,
    qos: QoS,
    retain: bool,
    subscription_identifiers: Vec<u32>,
    phase: Phase,
    came_from: Option<(Owner, Sequence)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Waiting,
    Sent { packet_id: u16, order: u64 },
    Released { packet_id: u16, order: u64 },
}

/// A stored message and how many entries need it. It goes when none does.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    message: Arc<StoredMessage>,
    owners: u32,
}

impl Image {
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies one operation. An operation that speaks of something that is not there changes nothing.
    pub fn fold(&mut self, operation: &Operation) {
        let changed = match operation {
            Operation::PutSession { client_id, session } => self.put_session(client_id, session),
            Operation::DeleteSession { client_id } => self.delete_session(client_id),
            Operation::PutSubscription {
                client_id,
                topic_filter,
                subscription,
            } => self.session_mut(client_id, |session| {
                session
                    .subscriptions
                    .insert(topic_filter.clone(), subscription.clone());
                true
            }),
            Operation::DeleteSubscription {
                client_id,
                topic_filter,
            } => self.session_mut(client_id, |session| {
                session.subscriptions.remove(topic_filter).is_some()
            }),
            Operation::Enqueue { message, owners } => self.enqueue(message, owners),
            Operation::AssignPacketId {
                client_id,
                message_id,
                packet_id,
            } => self.assign_packet_id(client_id, *message_id, *packet_id),
            Operation::Pubrec {
                client_id,
                packet_id,
            } => self.pubrec(client_id, *packet_id),
            Operation::Dequeue { owner, message_id } => self.take(owner, *message_id).is_some(),
            Operation::Transfer {
                message_id,
                from,
                to,
            } => self.transfer(*message_id, from, to),
            Operation::ReceivedQos2 {
                client_id,
                packet_id,
            } => self.session_mut(client_id, |session| {
                session.received_qos2.insert(*packet_id)
            }),
            Operation::ReleaseQos2 {
                client_id,
                packet_id,
            } => self.session_mut(client_id, |session| session.received_qos2.remove(packet_id)),
            Operation::PutRetained { message } => {
                self.retained
                    .insert(message.topic.clone(), Arc::clone(message));
                true
            }
            Operation::DeleteRetained { topic } => self.retained.remove(topic).is_some(),
            Operation::DeleteGroup {
                share_name,
                topic_filter,
            } => self.drop_queue(&Owner::group(share_name, topic_filter)),
            Operation::PutClock(clock) => {
                self.clock = Some(*clock);
                true
            }
        };
        if !changed {
            self.without_effect += 1;
        }
    }

    pub fn session(&self, client_id: &str) -> Option<&SessionRecord> {
        self.sessions.get(client_id).map(|session| &session.record)
    }

    /// Every session with its client id.
    pub fn sessions(&self) -> impl Iterator<Item = (&str, &SessionRecord)> {
        self.sessions
            .iter()
            .map(|(client_id, session)| (&**client_id, &session.record))
    }

    /// The Subscriptions of one session, by topic filter.
    pub fn subscriptions(
        &self,
        client_id: &str,
    ) -> impl Iterator<Item = (&str, &SubscriptionRecord)> {
        let session = self.sessions.get(client_id);
        session
            .into_iter()
            .flat_map(|session| &session.subscriptions)
            .map(|(topic_filter, subscription)| (&**topic_filter, subscription))
    }

    /// Packet ids of QoS 2 messages that this client has sent and not released.
    pub fn received_qos2(&self, client_id: &str) -> impl Iterator<Item = u16> {
        self.sessions
            .get(client_id)
            .into_iter()
            .flat_map(|session| session.received_qos2.iter().copied())
    }

    /// The owners whose queue is not empty.
    pub fn owners(&self) -> impl Iterator<Item = &Owner> {
        self.queues.keys()
    }

    /// One owner's queue behind the place `after`.
    pub fn queue(&self, owner: &Owner, after: Sequence) -> impl Iterator<Item = QueuedMessage> {
        let entries = self
            .queues
            .get(owner)
            .map(|queue| queue.entries.range(after.saturating_add(1)..));
        entries
            .into_iter()
            .flatten()
            .map(|(sequence, entry)| self.queued(*sequence, entry))
    }

    /// One message of one owner's queue, unless it is past its PUBREC.
    pub fn entry(&self, owner: &Owner, message_id: MessageId) -> Option<QueuedMessage> {
        let queue = self.queues.get(owner)?;
        let sequence = queue.places.get(&message_id)?;
        let entry = queue.entries.get(sequence)?;
        let is_needed = !matches!(entry.phase, Phase::Released { .. });
        is_needed.then(|| self.queued(*sequence, entry))
    }

    /// Every retained message, by topic.
    pub fn retained(&self) -> impl Iterator<Item = &Arc<StoredMessage>> {
        self.retained.values()
    }

    pub fn clock(&self) -> Option<ClockRecord> {
        self.clock
    }

    /// The highest message id that is mentioned anywhere, 0 if none is; ids are given above it after a restart.
    pub fn message_id_max(&self) -> MessageId {
        let queued = self
            .queues
            .values()
            .filter_map(|queue| queue.places.last_key_value())
            .map(|(id, _)| *id);
        let retained = self.retained.values().map(|message| message.message_id);
        queued.chain(retained).max().unwrap_or(0)
    }

    /// How many operations changed nothing, because what they spoke of was not there.
    pub fn without_effect(&self) -> u64 {
        self.without_effect
    }

    /// Every record of one table, ordered by its key.
    pub fn records(&self, table: Table) -> Box<dyn Iterator<Item = Record> + '_> {
        match table {
            Table::Sessions => {
                Box::new(
                    self.sessions
                        .iter()
                        .map(|(client_id, session)| Record::Session {
                            client_id: client_id.clone(),
                            session: session.record.clone(),
                        }),
                )
            }
            Table::Subscriptions => {
                Box::new(self.sessions.iter().flat_map(|(client_id, session)| {
                    session
                        .subscriptions
                        .iter()
                        .map(|(topic_filter, subscription)| Record::Subscription {
                            client_id: client_id.clone(),
                            topic_filter: topic_filter.clone(),
                            subscription: subscription.clone(),
                        })
                }))
            }
            Table::Queues => Box::new(self.queues.iter().flat_map(|(owner, queue)| {
                queue
                    .entries
                    .iter()
                    .map(|(sequence, entry)| Record::Queued {
                        owner: owner.clone(),
                        queued: self.queued(*sequence, entry),
                    })
            })),
            Table::ReceivedQos2 => {
                Box::new(self.sessions.iter().flat_map(|(client_id, session)| {
                    session
                        .received_qos2
                        .iter()
                        .map(|packet_id| Record::ReceivedQos2 {
                            client_id: client_id.clone(),
                            packet_id: *packet_id,
                        })
                }))
            }
            Table::Messages => Box::new(self.messages.values().map(|held| Record::Message {
                message: Arc::clone(&held.message),
                owners: held.owners,
            })),
            Table::Retained => Box::new(self.retained.values().map(|message| Record::Retained {
                message: Arc::clone(message),
            })),
            Table::Clock => Box::new(self.clock.into_iter().map(Record::Clock)),
        }
    }

    fn put_session(&mut self, client_id: &str, record: &SessionRecord) -> bool {
        match self.sessions.get_mut(client_id) {
            Some(session) => session.record = record.clone(),
            None => {
                let session = StoredSession {
                    record: record.clone(),
                    subscriptions: BTreeMap::new(),
                    received_qos2: BTreeSet::new(),
                };
                self.sessions.insert(client_id.into(), session);
            }
        }
        true
    }

    fn delete_session(&mut self, client_id: &str) -> bool {
        let queue_dropped = self.drop_queue(&Owner::session(client_id));
        let session_dropped = self.sessions.remove(client_id).is_some();
        assert!(
            session_dropped || !queue_dropped,
            "a queue without its session"
        );
        session_dropped
    }

    fn session_mut(
        &mut self,
        client_id: &str,
        change: impl FnOnce(&mut StoredSession) -> bool,
    ) -> bool {
        self.sessions.get_mut(client_id).is_some_and(change)
    }

    fn enqueue(&mut self, message: &Arc<StoredMessage>, owners: &[OwnerEntry]) -> bool {
        let mut changed = false;
        for to in owners {
            if !self.may_own(&to.owner) {
                continue;
            }
            let held = self
                .messages
                .entry(message.message_id)
                .or_insert_with(|| Held {
                    message: Arc::clone(message),
                    owners: 0,
                });
            assert!(
                held.message == *message,
                "two messages with the id {}",
                message.message_id
            );
            held.owners += 1;
            self.last_sequence += 1;
            let entry = Entry::new(message.message_id, to, None);
            self.queues
                .entry(to.owner.clone())
                .or_default()
                .insert(self.last_sequence, entry);
            changed = true;
        }
        changed
    }

    /// A session's queue needs the session; a group exists by its queue.
    fn may_own(&self, owner: &Owner) -> bool {
        match owner {
            Owner::Session(client_id) => self.sessions.contains_key(&**client_id),
            Owner::Group { .. } => true,
        }
    }

    fn assign_packet_id(&mut self, client_id: &str, message_id: MessageId, packet_id: u16) -> bool {
        assert!(packet_id != 0, "[MQTT-2.2.1-4] a packet id is not 0");
        let order = self.last_sequence + 1;
        let Some(queue) = self.queues.get_mut(&Owner::session(client_id)) else {
            return false;
        };
        let Some(place) = queue.places.get(&message_id) else {
            return false;
        };
        let holder = queue.packet_ids.insert(packet_id, *place);
        assert!(
            holder.is_none_or(|holder| holder == *place),
            "packet id {packet_id} of {client_id} is in use"
        );
        let entry = queue
            .entries
            .get_mut(place)
            .expect("every place has its entry");
        match entry.phase {
            Phase::Waiting => {}
            Phase::Sent {
                packet_id: earlier, ..
            } => {
                if earlier != packet_id {
                    queue.packet_ids.remove(&earlier);
                }
            }
            Phase::Released { .. } => {
                panic!("message {message_id} of {client_id} is past its PUBREC")
            }
        }
        entry.phase = Phase::Sent { packet_id, order };
        self.last_sequence = order;
        true
    }

    fn pubrec(&mut self, client_id: &str, packet_id: u16) -> bool {
        let order = self.last_sequence + 1;
        let Some(queue) = self.queues.get_mut(&Owner::session(client_id)) else {
            return false;
        };
        let Some(place) = queue.packet_ids.get(&packet_id) else {
            return false;
        };
        let entry = queue
            .entries
            .get_mut(place)
            .expect("every packet id has its entry");
        if matches!(entry.phase, Phase::Released { .. }) {
            return false;
        }
        entry.phase = Phase::Released { packet_id, order };
        // PUBREL needs the packet id alone.
        entry.retain = false;
        entry.subscription_identifiers.clear();
        entry.came_from = None;
        let message_id = entry.message_id;
        self.last_sequence = order;
        self.release(message_id);
        true
    }

    fn transfer(&mut self, message_id: MessageId, from: &Owner, to: &OwnerEntry) -> bool {
        let waits = self
            .queues
            .get(from)
            .and_then(|queue| queue.entry_of(message_id));
        let Some((_, entry)) = waits else {
            return false;
        };
        // What is past its PUBREC stays with its session [MQTT-4.8.2-4]; a session that is gone takes nothing.
        if matches!(entry.phase, Phase::Released { .. }) || !self.may_own(&to.owner) {
            return false;
        }
        let (place, left) = self
            .remove_entry(from, message_id)
            .expect("it was there a line ago");
        let (sequence, came_from) = match left.came_from {
            Some((origin, sequence)) if origin == to.owner => (sequence, None),
            Some(origin) => (self.next_sequence(), Some(origin)),
            None => (self.next_sequence(), Some((from.clone(), place))),
        };
        let entry = Entry::new(message_id, to, came_from);
        self.queues
            .entry(to.owner.clone())
            .or_default()
            .insert(sequence, entry);
        true
    }

    fn next_sequence(&mut self) -> Sequence {
        self.last_sequence += 1;
        self.last_sequence
    }

    /// Takes the message out of the queue, and out of the store if nobody else needs it.
    fn take(&mut self, owner: &Owner, message_id: MessageId) -> Option<Entry> {
        let (_, entry) = self.remove_entry(owner, message_id)?;
        if entry.needs_message() {
            self.release(message_id);
        }
        Some(entry)
    }

    fn remove_entry(&mut self, owner: &Owner, message_id: MessageId) -> Option<(Sequence, Entry)> {
        let queue = self.queues.get_mut(owner)?;
        let removed = queue.remove(message_id)?;
        if queue.entries.is_empty() {
            self.queues.remove(owner);
        }
        Some(removed)
    }

    fn drop_queue(&mut self, owner: &Owner) -> bool {
        let Some(queue) = self.queues.remove(owner) else {
            return false;
        };
        for entry in queue.entries.values().filter(|entry| entry.needs_message()) {
            self.release(entry.message_id);
        }
        true
    }

    fn release(&mut self, message_id: MessageId) {
        let held = self
            .messages
            .get_mut(&message_id)
            .expect("a queued message is stored");
        held.owners -= 1;
        if held.owners == 0 {
            self.messages.remove(&message_id);
        }
    }

    fn queued(&self, sequence: Sequence, entry: &Entry) -> QueuedMessage {
        let message = || {
            let held = self
                .messages
                .get(&entry.message_id)
                .expect("a queued message is stored");
            Arc::clone(&held.message)
        };
        let state = match entry.phase {
            Phase::Waiting => QueuedState::Waiting(message()),
            Phase::Sent { packet_id, order } => QueuedState::Sent {
                packet_id,
                order,
                message: message(),
            },
            Phase::Released { packet_id, order } => QueuedState::Released { packet_id, order },
        };
        QueuedMessage {
            sequence,
            message_id: entry.message_id,
            qos: entry.qos,
            retain: entry.retain,
            subscription_identifiers: entry.subscription_identifiers.clone(),
            state,
            came_from: entry.came_from.clone(),
        }
    }
}

impl Queue {
    fn insert(&mut self, sequence: Sequence, entry: Entry) {
        let twice = self.places.insert(entry.message_id, sequence);
        assert!(
            twice.is_none(),
            "message {} is queued twice for one owner",
            entry.message_id
        );
        let taken = self.entries.insert(sequence, entry);
        assert!(taken.is_none(), "two messages at place {sequence}");
    }

    fn remove(&mut self, message_id: MessageId) -> Option<(Sequence, Entry)> {
        let sequence = self.places.remove(&message_id)?;
        let entry = self
            .entries
            .remove(&sequence)
            .expect("every place has its entry");
        if let Phase::Sent { packet_id, .. } | Phase::Released { packet_id, .. } = entry.phase {
            self.packet_ids.remove(&packet_id);
        }
        Some((sequence, entry))
    }

    fn entry_of(&self, message_id: MessageId) -> Option<(Sequence, &Entry)> {
        let sequence = *self.places.get(&message_id)?;
        Some((sequence, self.entries.get(&sequence)?))
    }
}

impl Entry {
    fn new(message_id: MessageId, to: &OwnerEntry, came_from: Option<(Owner, Sequence)>) -> Self {
        assert!(message_id != 0, "a stored message has an id");
        Self {
            message_id,
            qos: to.qos,
            retain: to.retain,
            subscription_identifiers: to.subscription_identifiers.clone(),
            phase: Phase::Waiting,
            came_from,
        }
    }

    fn needs_message(&self) -> bool {
        !matches!(self.phase, Phase::Released { .. })
    }
}
