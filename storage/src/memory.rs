//! The engine that keeps everything in memory: the reference model, the simulator's disk, and the store of a broker
//! without persistence.
//!
//! A journal in front of an [`Image`], with one lock around both. It is deterministic: nothing happens in it that its
//! owner did not ask for.
//!
//! Faults it injects, for the simulation:
//! - durability that comes late (`manual` or `hold`, then `commit`), in whole batches;
//! - appends that are refused (`fail_next_appends`, `with_pending_bytes_max`);
//! - a medium that fails and works again, and keeps what was taken (`fail`, `reopen`);
//! - a power cut (`crash`, and `crash_keeping` for the disk that had written more than it said).
//!
//! It does not tear batches: that a batch is durable together or not at all is the promise under test elsewhere.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::checkpoint::{Checkpoint, QueuedMessage, Record, Sequence, Table};
use crate::error::StorageError;
use crate::image::Image;
use crate::journal::{Full, Journal, JournalStatus, Lsn};
use crate::operation::{Batch, MessageId, Operation, Owner, SessionRecord};

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
    /// Operations since the journal began, those included that a crash has taken. The Lsn of the last one is their count.
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

    /// From here on the durable mark moves only by [`Self::commit`], whatever it did before.
    pub fn hold(&self) {
        self.lock().commit = Commit::WhenTold;
    }

    /// Makes durable what waits, and from here on every batch as soon as it is appended.
    pub fn release(&self) {
        let mut store = self.lock();
        store.commit = Commit::AtAppend;
        store.commit(Lsn::MAX);
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

    /// The medium fails: nothing is taken and nothing becomes durable until `reopen`. What was taken is kept.
    pub fn fail(&self, reason: &str) {
        self.lock().fail(reason);
    }

    /// The medium works again. What was kept becomes durable as batches do in this engine: at once, or by `commit`.
    pub fn reopen(&self) {
        self.lock().reopen();
    }

    /// A power cut: gives the store as the next process finds it. Whoever still holds the old one holds a failed journal.
    pub fn crash(&self) -> Self {
        self.crash_keeping(0)
    }

    /// A power cut that came after the disk had written `batches` more batches than it had reported.
    pub fn crash_keeping(&self, batches: usize) -> Self {
        let mut store = self.lock();
        // What a failed medium had refused may be on it all the same.
        store.status = JournalStatus::Durable(store.durable);
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
            operations: store.operations,
            durable: store.durable,
            appends_to_refuse: 0,
        };
        store.fail("the power was cut");
        store.pending.clear();
        store.pending_bytes = 0;
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

    fn queued(
        &self,
        owner: &Owner,
        message_ids: &[MessageId],
        bytes_max: u64,
    ) -> Result<Vec<QueuedMessage>, StorageError> {
        let store = self.lock();
        let found = message_ids
            .iter()
            .map_while(|message_id| store.checkpoint.image.entry(owner, *message_id));
        let mut bytes = 0;
        let page = found.enumerate().take_while(|(place, queued)| {
            bytes += queued
                .state
                .message()
                .map_or(0, |message| message.text_bytes());
            *place == 0 || bytes <= bytes_max
        });
        Ok(page.map(|(_, queued)| queued).collect())
    }

    fn message_id_max(&self) -> MessageId {
        self.lock().checkpoint.image.message_id_max()
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
        let last = self.operations;
        self.pending_bytes += bytes;
        self.pending.push_back(Pending { last, bytes, batch });
        if self.commit == Commit::AtAppend {
            self.commit(last);
        }
        Ok(last)
    }

    fn commit(&mut self, upto: Lsn) {
        if matches!(self.status, JournalStatus::Failed { .. }) {
            return;
        }
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
        self.status = JournalStatus::Failed {
            durable: self.durable,
            reason: reason.into(),
        };
    }

    fn reopen(&mut self) {
        assert!(
            matches!(self.status, JournalStatus::Failed { .. }),
            "only a failed journal is reopened"
        );
        self.status = JournalStatus::Durable(self.durable);
        if self.commit == Commit::AtAppend {
            self.commit(Lsn::MAX);
        }
    }
}

impl Checkpointed {
    fn apply(&mut self, operations: &[Operation], upto: Lsn) {
        let first = upto + 1 - operations.len() as u64;
        for (lsn, operation) in (first..).zip(operations) {
            if lsn > self.applied {
                self.image.fold(operation);
                self.applied = lsn;
            }
        }
    }
}
