//! The engine that keeps everything in memory: the reference model, the simulator's disk, and the store of a broker
//! without persistence.
//!
//! [`Image`] is what operations add up to. Its [`Image::fold`] defines what each [`Operation`] means; every other engine
//! is compared with it. [`MemoryEngine`] puts a journal in front of an image, with one lock around both, and is
//! deterministic: nothing happens in it that its owner did not ask for.
//!
//! Faults it injects, for the simulation:
//! - durability that comes late (`manual`, `commit`), in whole batches;
//! - appends that are refused (`fail_next_appends`, `with_pending_bytes_max`);
//! - a medium that fails and is reopened (`fail`, `reopen`);
//! - a power cut (`crash`, and `crash_keeping` for the disk that had written more than it said).
//!
//! It does not tear batches: that a batch is durable together or not at all is the promise under test elsewhere.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use nightjar_codec::QoS;

use crate::checkpoint::{Checkpoint, QueuedMessage, QueuedState, Record, Sequence, Table};
use crate::error::StorageError;
use crate::journal::{Full, Journal, JournalStatus, Lsn, epoch, first_lsn_of};
use crate::operation::{
    Batch, ClockRecord, MessageId, Operation, Owner, OwnerEntry, SessionRecord, StoredMessage,
    SubscriptionRecord,
};

/// A journal and a checkpoint in memory. Clones share the same store, so that each shard can hold one.
#[derive(Clone, Debug)]
pub struct MemoryEngine {
    store: Arc<Mutex<Store>>,
}

/// When an appended batch becomes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Commit {
    AtAppend,
    WhenTold,
}

/// When the checkpoint takes what has become durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Checkpointing {
    /// Together with the commit, as an engine does that writes both in one transaction.
    AtCommit,
    /// When somebody calls `apply`, as in front of which a journal of its own lies.
    WhenTold,
}

#[derive(Debug)]
struct Store {
    commit: Commit,
    checkpointing: Checkpointing,
    pending_bytes_max: u64,
    checkpoint: Checkpointed,
    /// Durable operations that were not trimmed. Empty unless the checkpoint is told.
    journal: VecDeque<(Lsn, Operation)>,
    /// Batches that are not durable.
    pending: VecDeque<Pending>,
    pending_bytes: u64,
    status: JournalStatus,
    epoch: u16,
    /// Operations since the journal began, those included that a crash has taken.
    operations: u64,
    durable: Lsn,
    appends_to_refuse: u32,
}

/// An image and how far it has come.
#[derive(Clone, Debug, Default)]
struct Checkpointed {
    image: Image,
    applied: Lsn,
}

/// A batch that waits to become durable, with the Lsn of its last operation.
#[derive(Clone, Debug)]
struct Pending {
    last: Lsn,
    bytes: u64,
    batch: Batch,
}

impl Default for MemoryEngine {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryEngine {
    /// An empty store where a batch is durable as soon as it is appended.
    pub fn new() -> Self {
        Self::with(Commit::AtAppend)
    }

    /// An empty store where the durable mark moves only by [`Self::commit`].
    pub fn manual() -> Self {
        Self::with(Commit::WhenTold)
    }

    fn with(commit: Commit) -> Self {
        let store = Store {
            commit,
            checkpointing: Checkpointing::AtCommit,
            pending_bytes_max: u64::MAX,
            checkpoint: Checkpointed::default(),
            journal: VecDeque::new(),
            pending: VecDeque::new(),
            pending_bytes: 0,
            status: JournalStatus::Durable(0),
            epoch: 0,
            operations: 0,
            durable: 0,
            appends_to_refuse: 0,
        };
        Self {
            store: Arc::new(Mutex::new(store)),
        }
    }

    /// Refuses a batch that would make more than this wait to become durable, unless nothing waits.
    pub fn with_pending_bytes_max(self, pending_bytes_max: u64) -> Self {
        self.lock().pending_bytes_max = pending_bytes_max;
        self
    }

    /// Leaves it to the owner to apply what is durable to the checkpoint, and to trim the journal.
    pub fn with_separate_checkpoint(self) -> Self {
        self.lock().checkpointing = Checkpointing::WhenTold;
        self
    }

    /// Makes every batch durable whose last operation is not above `upto`.
    pub fn commit(&self, upto: Lsn) {
        self.lock().commit(upto);
    }

    /// Makes everything durable that was appended.
    pub fn commit_all(&self) {
        self.lock().commit(Lsn::MAX);
    }

    /// The Lsns of the batches that wait to become durable, oldest first; each is a possible argument for `commit`.
    pub fn pending(&self) -> Vec<Lsn> {
        self.lock()
            .pending
            .iter()
            .map(|pending| pending.last)
            .collect()
    }

    /// Refuses this many appends from here on, as a full journal does.
    pub fn fail_next_appends(&self, appends: u32) {
        self.lock().appends_to_refuse = appends;
    }

    /// The medium fails: what is not durable is lost, nothing is taken any more.
    pub fn fail(&self, reason: &str) {
        self.lock().fail(reason);
    }

    /// Opens the medium again after a failure and gives the new epoch.
    pub fn reopen(&self) -> u16 {
        self.lock().reopen()
    }

    /// A power cut: gives the store as the next process finds it. Whoever still holds the old one holds a failed journal.
    pub fn crash(&self) -> Self {
        self.crash_keeping(0)
    }

    /// A power cut that came after the disk had written `batches` more batches than it had reported.
    pub fn crash_keeping(&self, batches: usize) -> Self {
        let mut store = self.lock();
        if let Some(upto) = store
            .pending
            .iter()
            .take(batches)
            .next_back()
            .map(|pending| pending.last)
        {
            store.commit(upto);
        }
        let next = Store {
            commit: store.commit,
            checkpointing: store.checkpointing,
            pending_bytes_max: store.pending_bytes_max,
            checkpoint: store.checkpoint.clone(),
            journal: store.journal.clone(),
            pending: VecDeque::new(),
            pending_bytes: 0,
            status: JournalStatus::Durable(store.durable),
            epoch: next_epoch(store.epoch),
            operations: store.operations,
            durable: store.durable,
            appends_to_refuse: 0,
        };
        store.fail("the power was cut");
        Self {
            store: Arc::new(Mutex::new(next)),
        }
    }

    /// A copy of what the checkpoint holds.
    pub fn image(&self) -> Image {
        self.lock().checkpoint.image.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Store> {
        // A panic inside the store ends the process (D18); a poisoned lock can only be seen on the way there.
        self.store
            .lock()
            .expect("no panic while the store was changed")
    }
}

impl Journal for MemoryEngine {
    fn append(&self, batch: Batch) -> Result<Lsn, Full> {
        self.lock().append(batch)
    }

    fn status(&self) -> JournalStatus {
        self.lock().status.clone()
    }

    fn recover(&mut self, visit: &mut dyn FnMut(Lsn, Operation)) -> Result<(), StorageError> {
        // Copied, so that `visit` may call the checkpoint, which is behind the same lock.
        let operations = self.lock().journal.clone();
        for (lsn, operation) in operations {
            visit(lsn, operation);
        }
        Ok(())
    }

    fn trim(&mut self, upto: Lsn) {
        let mut store = self.lock();
        assert!(
            upto <= store.checkpoint.applied,
            "what the checkpoint does not have cannot be trimmed"
        );
        while store.journal.front().is_some_and(|(lsn, _)| *lsn <= upto) {
            store.journal.pop_front();
        }
    }
}

impl Checkpoint for MemoryEngine {
    fn apply(&mut self, operations: &[Operation], upto: Lsn) -> Result<(), StorageError> {
        self.lock().checkpoint.apply(operations, upto);
        Ok(())
    }

    fn session(&self, client_id: &str) -> Result<Option<SessionRecord>, StorageError> {
        Ok(self.lock().checkpoint.image.session(client_id).cloned())
    }

    fn queue(
        &self,
        owner: &Owner,
        after: Sequence,
        limit: usize,
    ) -> Result<Vec<QueuedMessage>, StorageError> {
        Ok(self
            .lock()
            .checkpoint
            .image
            .queue(owner, after)
            .take(limit)
            .collect())
    }

    fn scan(&self, table: Table, visit: &mut dyn FnMut(Record)) -> Result<(), StorageError> {
        // Collected, so that `visit` may call the store.
        let records: Vec<Record> = self.lock().checkpoint.image.records(table).collect();
        records.into_iter().for_each(visit);
        Ok(())
    }
}

impl Store {
    fn append(&mut self, batch: Batch) -> Result<Lsn, Full> {
        if self.appends_to_refuse > 0 {
            self.appends_to_refuse -= 1;
            return Err(Full { batch });
        }
        if matches!(self.status, JournalStatus::Failed { .. }) {
            return Err(Full { batch });
        }
        if batch.is_empty() {
            return Ok(0);
        }
        let bytes = batch.bytes();
        // A batch that is larger than the bound by itself must pass some time.
        if !self.pending.is_empty()
            && self.pending_bytes.saturating_add(bytes) > self.pending_bytes_max
        {
            return Err(Full { batch });
        }
        self.operations += batch.len() as u64;
        let last = first_lsn_of(self.epoch, self.operations);
        self.pending_bytes += bytes;
        self.pending.push_back(Pending { last, bytes, batch });
        if self.commit == Commit::AtAppend {
            self.commit(last);
        }
        Ok(last)
    }

    fn commit(&mut self, upto: Lsn) {
        while self
            .pending
            .front()
            .is_some_and(|pending| pending.last <= upto)
        {
            let Some(Pending { last, bytes, batch }) = self.pending.pop_front() else {
                return;
            };
            self.pending_bytes -= bytes;
            assert!(last > self.durable, "the durable mark only moves forward");
            self.durable = last;
            self.status = JournalStatus::Durable(last);
            match self.checkpointing {
                Checkpointing::AtCommit => self.checkpoint.apply(&batch.0, last),
                Checkpointing::WhenTold => {
                    let first = last + 1 - batch.len() as u64;
                    self.journal.extend((first..).zip(batch.0));
                }
            }
        }
    }

    fn fail(&mut self, reason: &str) {
        self.pending.clear();
        self.pending_bytes = 0;
        self.status = JournalStatus::Failed {
            durable: self.durable,
            reason: reason.into(),
        };
    }

    fn reopen(&mut self) -> u16 {
        assert!(
            matches!(self.status, JournalStatus::Failed { .. }),
            "only a failed journal is reopened"
        );
        self.epoch = next_epoch(self.epoch);
        self.status = JournalStatus::Reopened { epoch: self.epoch };
        self.epoch
    }
}

impl Checkpointed {
    fn apply(&mut self, operations: &[Operation], upto: Lsn) {
        let first = upto + 1 - operations.len() as u64;
        assert!(
            epoch(first) == epoch(upto),
            "a run of operations has consecutive Lsns"
        );
        for (lsn, operation) in (first..).zip(operations) {
            if lsn > self.applied {
                self.image.fold(operation);
                self.applied = lsn;
            }
        }
    }
}

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
            Owner::Session(client_id) => self.sessions.contains_key(client_id),
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
        // What is past its PUBREC stays with its session [MQTT-4.8.2]; a session that is gone takes nothing.
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

fn next_epoch(epoch: u16) -> u16 {
    epoch
        .checked_add(1)
        .expect("a journal in memory is not reopened 65,535 times")
}
