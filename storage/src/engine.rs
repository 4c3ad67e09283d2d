//! The engine that keeps its word on a disk: journal and checkpoint in one database.
//!
//! Comes in: batches. Goes out: a durable mark, and what the batches add up to. A batch is durable when the transaction is
//! that holds what it changes, so there is nothing to replay at a start: [`Journal::recover`] visits nothing.
//!
//! It joins four rooms: `writer` says when, `index` says what, `record` says in which bytes, `redb` puts it on the disk.
//! At a start everything is read once, but payloads are not kept; a row that is not what was written ends the start. After
//! a failed commit the handle is dropped, and the database is opened and read again; what it holds is told by the count of
//! operations in it (`docs/storage-format.md`, "After a failed sync"). As long as that does not succeed, the last commit can be
//! read; nothing that would be written reaches the file then.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::checkpoint::{Checkpoint, QueueEntry, QueuedMessage, Record, Sequence, Table};
use crate::disk::{Directory, Disk};
use crate::error::StorageError;
use crate::index::Index;
use crate::journal::{Journal, JournalStatus, Lsn};
use crate::operation::{Batch, ClockRecord, MessageId, Operation, Owner, SessionRecord};
use crate::redb::{Database, Snapshot};
use crate::writer::{Counters, Durability, Medium, Progress, Writer};

/// A journal and a checkpoint in one file. Shared by all shards behind an `Arc`.
#[derive(Debug)]
pub struct RedbEngine {
    // The writer first: it is dropped first, and lets go of the store.
    writer: Writer,
    store: Arc<Store>,
}

/// How a store is kept.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub durability: Durability,
    /// With `Durability::Memory`: how long the store gathers before it writes.
    pub write_behind: Duration,
    /// Bytes of batches that may wait to become durable; above it `append` gives `Full`.
    pub pending_bytes_max: u64,
    /// Bytes of the file that are held in memory.
    pub cache_bytes: usize,
    /// How long after a failure the store is opened again; twice as long after each further one, up to 20 times as long.
    pub reopen_delay: Duration,
    /// Percent of the file system that stays free: below it nothing is taken, before there is no room at all. 0: no floor.
    pub disk_free_min: u8,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            durability: Durability::Synced,
            write_behind: Duration::from_secs(1),
            pending_bytes_max: 64 << 20,
            cache_bytes: 64 << 20,
            reopen_delay: Duration::from_millis(100),
            disk_free_min: 5,
        }
    }
}

/// How large the store's file is, and how much of it holds something. `nightjar store compact` gives the rest back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileUse {
    pub bytes: u64,
    pub used: u64,
}

impl FileUse {
    pub fn free_percent(&self) -> u64 {
        let free = u128::from(self.bytes.saturating_sub(self.used)) * 100;
        let percent = free.checked_div(u128::from(self.bytes)).unwrap_or(0);
        u64::try_from(percent).expect("not above 100")
    }
}

#[derive(Debug)]
struct Store {
    disk: Box<dyn Disk>,
    options: Options,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    index: Index,
    /// `None` from a failed commit until the database is open again.
    database: Option<Arc<Database>>,
}

impl RedbEngine {
    /// Opens the store in the directory, or makes one there if there is none.
    pub fn open(directory: &Path, options: Options) -> Result<Arc<Self>, StorageError> {
        Self::open_on(Box::new(Directory::lock(directory)?), options).map(Arc::new)
    }

    /// Opens the store on a disk of the caller's.
    pub fn open_on(disk: Box<dyn Disk>, options: Options) -> Result<Self, StorageError> {
        let store = Arc::new(Store {
            disk,
            options,
            state: Mutex::new(State::default()),
        });
        let operations = store.open()?;
        let writer =
            Writer::start(Box::new(Arc::clone(&store)), operations, &options).map_err(|error| {
                StorageError::Failed {
                    reason: error.to_string().into(),
                }
            })?;
        Ok(Self { writer, store })
    }

    /// Registers a call for whenever the durable mark or the state has moved. It is made by the writer's thread and must
    /// not block.
    pub fn on_progress(&self, progress: Progress) {
        self.writer.on_progress(progress);
    }

    /// Both clocks at the last commit that carried them.
    pub fn clock(&self) -> Option<ClockRecord> {
        self.store.lock().index.clock()
    }

    pub fn counters(&self) -> Counters {
        self.writer.counters()
    }

    /// Whether the thread of the store is gone for good: nothing will ever be durable again, and the process has to end.
    pub fn has_ended(&self) -> bool {
        self.writer.has_ended()
    }

    /// What messages call the store.
    pub fn path(&self) -> Box<str> {
        self.store.disk.path()
    }

    /// Returns when all that has been appended is durable, or the medium has failed.
    pub fn flush(&self) {
        self.writer.flush();
    }

    /// For tests: from here on nothing above `upto` becomes durable. Returns when everything up to it is.
    pub fn hold(&self, upto: Lsn) {
        self.writer.hold(upto);
    }

    /// For tests: undoes `hold`.
    pub fn release(&self) {
        self.writer.release();
    }

    /// For tests: stops as a killed process does, without what is pending.
    pub fn abandon(&self) {
        self.writer.abandon();
    }

    /// How much of the file is in use. Reads all of it that is not payload, so that it takes a while.
    pub fn file_use(&self) -> Result<FileUse, StorageError> {
        let database = self.store.lock().open_database()?;
        let used = database.read()?.used()?;
        Ok(FileUse {
            bytes: database.file_bytes(),
            used,
        })
    }

    /// The store as it is on the disk at this moment.
    pub(crate) fn snapshot(&self) -> Result<Snapshot, StorageError> {
        self.store.lock().read()
    }

    /// Reads everything there is, and names what is wrong with it. Ends at what cannot be read at all.
    pub fn check(&self) -> Result<Vec<String>, StorageError> {
        let (snapshot, expected) = {
            let state = self.store.lock();
            (state.read()?, state.index.store_record())
        };
        let (index, orphans) = snapshot.load()?;
        let mut found: Vec<String> = orphans
            .iter()
            .map(|orphan| format!("message {orphan} belongs to nobody"))
            .collect();
        let read = index.store_record();
        if (read.messages, read.sessions) != (expected.messages, expected.sessions) {
            found.push(format!(
                "{} messages and {} sessions are stored, {} and {} are known",
                read.messages, read.sessions, expected.messages, expected.sessions
            ));
        }
        Ok(found)
    }
}

impl Journal for RedbEngine {
    fn append(&self, batch: Batch) -> Result<Lsn, crate::Full> {
        self.writer.append(batch)
    }

    fn status(&self) -> JournalStatus {
        self.writer.status()
    }

    fn recover(&mut self, _visit: &mut dyn FnMut(Lsn, Operation)) -> Result<(), StorageError> {
        Ok(())
    }

    fn trim(&mut self, _upto: Lsn) {}
}

impl Checkpoint for RedbEngine {
    /// What is durable has been applied; what is not cannot be applied but by `append`.
    fn apply(&mut self, _operations: &[Operation], upto: Lsn) -> Result<(), StorageError> {
        if upto <= self.writer.operations() {
            return Ok(());
        }
        Err(StorageError::Failed {
            reason: "operations of another journal cannot be applied here".into(),
        })
    }

    fn session(&self, client_id: &str) -> Result<Option<SessionRecord>, StorageError> {
        let snapshot = self.store.lock().read()?;
        snapshot.session(client_id)
    }

    fn queue(
        &self,
        owner: &Owner,
        after: Sequence,
        limit: usize,
    ) -> Result<Vec<QueuedMessage>, StorageError> {
        let (snapshot, number, places) = {
            let state = self.store.lock();
            let snapshot = state.read()?;
            let (number, places) = state.index.places(owner, after, limit);
            (snapshot, number, places)
        };
        snapshot.queued(number, places)
    }

    fn outline(&self, owner: &Owner) -> Result<Vec<QueueEntry>, StorageError> {
        let state = self.store.lock();
        state.open_database()?;
        Ok(state.index.outline(owner))
    }

    fn queued(
        &self,
        owner: &Owner,
        message_ids: &[MessageId],
        bytes_max: u64,
    ) -> Result<Vec<QueuedMessage>, StorageError> {
        let (snapshot, number, places) = {
            let state = self.store.lock();
            let snapshot = state.read()?;
            let (number, places) = state.index.places_of(owner, message_ids, bytes_max);
            (snapshot, number, places)
        };
        snapshot.queued(number, places)
    }

    fn groups(&self) -> Result<Vec<Owner>, StorageError> {
        let state = self.store.lock();
        state.open_database()?;
        Ok(state.index.group_owners())
    }

    /// The highest that was ever stored.
    fn message_id_max(&self) -> MessageId {
        self.store.lock().index.message_id_max()
    }

    fn scan(&self, table: Table, visit: &mut dyn FnMut(Record)) -> Result<(), StorageError> {
        let state = self.store.lock();
        let snapshot = state.read()?;
        // The lock is let go before anything is visited, so that `visit` may call the store.
        match table {
            Table::Sessions => {
                drop(state);
                snapshot.sessions(visit)
            }
            Table::Retained => {
                drop(state);
                snapshot.retained(visit)
            }
            Table::Subscriptions => {
                let sessions = state.index.session_owners();
                drop(state);
                snapshot.subscriptions(sessions, visit)
            }
            Table::Messages => {
                let messages = state.index.stored_messages();
                drop(state);
                snapshot.messages(messages, visit)
            }
            Table::Queues => {
                let owners = state.index.queue_owners();
                drop(state);
                self.scan_queues(owners, visit)
            }
            Table::ReceivedQos2 => {
                let received = state.index.received_qos2();
                drop(state);
                for (client_id, packet_ids) in received {
                    for packet_id in packet_ids {
                        let client_id = client_id.clone();
                        visit(Record::ReceivedQos2 {
                            client_id,
                            packet_id,
                        });
                    }
                }
                Ok(())
            }
            Table::Clock => {
                let clock = state.index.clock();
                drop(state);
                clock.into_iter().map(Record::Clock).for_each(visit);
                Ok(())
            }
        }
    }
}

impl RedbEngine {
    fn scan_queues(
        &self,
        owners: Vec<Owner>,
        visit: &mut dyn FnMut(Record),
    ) -> Result<(), StorageError> {
        for owner in owners {
            let mut after = 0;
            loop {
                let page = self.queue(&owner, after, PAGE)?;
                let Some(last) = page.last() else { break };
                after = last.sequence;
                for queued in page {
                    let owner = owner.clone();
                    visit(Record::Queued { owner, queued });
                }
            }
        }
        Ok(())
    }
}

impl State {
    /// The database as it is on the disk at this moment.
    fn read(&self) -> Result<Snapshot, StorageError> {
        self.open_database()?.read()
    }

    fn open_database(&self) -> Result<Arc<Database>, StorageError> {
        self.database.clone().ok_or_else(|| StorageError::Failed {
            reason: "it is being opened again".into(),
        })
    }
}

impl Store {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock is one of the writer's thread, which gives up then, or of a caller's `Debug`.
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn close(&self) {
        let closed = std::mem::take(&mut *self.lock());
        // Without the lock, for closing takes its time.
        drop(closed);
    }

    /// Opens the database at a start and gives the count of operations that the journal goes on from: behind all that an
    /// earlier life may have given beyond what it wrote.
    fn open(&self) -> Result<u64, StorageError> {
        let database = Database::open_or_create(&*self.disk, &self.options)?;
        self.take(database, |index| {
            let operations = index.operations() + OPERATIONS_SKIPPED;
            index.set_operations(operations);
            Ok(operations)
        })
    }

    /// Reads what the database holds, and makes it what the store is.
    fn take(
        &self,
        database: Database,
        count: impl FnOnce(&mut Index) -> Result<u64, StorageError>,
    ) -> Result<u64, StorageError> {
        let (mut index, orphans) = database.read()?.load()?;
        let operations = count(&mut index)?;
        let mut changes = index.take_changes();
        changes.removed = orphans;
        // Proves that the disk takes a commit, and writes again what only a failed sync has seen of the file's header.
        database.write(&changes)?;
        index.committed(changes);
        let mut state = self.lock();
        state.index = index;
        state.database = Some(Arc::new(database));
        Ok(operations)
    }
}

impl Store {
    /// Lets the last commit be read from a disk that takes nothing.
    fn show(
        &self,
        counted: impl FnOnce(&Index) -> Result<u64, StorageError>,
    ) -> Result<(), StorageError> {
        let database = Database::open_unwritten(&*self.disk, &self.options)?;
        let (index, _) = database.read()?.load()?;
        counted(&index)?;
        let mut state = self.lock();
        state.index = index;
        state.database = Some(Arc::new(database));
        Ok(())
    }
}

impl Medium for Arc<Store> {
    fn check(&mut self) -> Result<(), StorageError> {
        let floor = self.options.disk_free_min;
        if floor == 0 {
            return Ok(());
        }
        // Asked before every commit, of which it is a hundredth: what others write to this disk, nobody tells.
        match self.disk.room() {
            Ok(Some(room)) if room.free_percent() < u64::from(floor) => Err(StorageError::Failed {
                reason: format!(
                    "{} % of the file system of {} is free, and disk_free_min is {floor}",
                    room.free_percent(),
                    self.disk.path()
                )
                .into(),
            }),
            // A file system that does not tell has to show it by its errors.
            _ => Ok(()),
        }
    }

    fn commit(&mut self, batches: &[Batch], operations: u64) -> Result<(), StorageError> {
        let (database, changes) = {
            let mut state = self.lock();
            let database = state.open_database()?;
            let mut folded = 0;
            for batch in batches {
                for operation in &batch.0 {
                    state.index.fold(operation);
                }
                folded += batch.len();
                if folded > FOLD_OPERATIONS_MAX {
                    // Whoever wants to read gets a chance.
                    folded = 0;
                    drop(state);
                    state = self.lock();
                }
            }
            state.index.set_operations(operations);
            (database, state.index.take_changes())
        };
        let written = database.write(&changes);
        drop(database);
        match written {
            Ok(()) => self.lock().index.committed(changes),
            Err(_) => {
                // The index is ahead of the disk for good.
                self.close();
                let _ = self.show(|index| Ok(index.operations()));
            }
        }
        written
    }

    fn reopen(&mut self, before: u64, after: u64) -> Result<u64, StorageError> {
        let counted = |index: &Index| match index.operations() {
            operations if operations == before || operations == after => Ok(operations),
            operations => Err(StorageError::Corrupt {
                what: format!("it holds {operations} operations, and {before} were durable").into(),
            }),
        };
        self.close();
        let opened = Database::open(&*self.disk, &self.options)
            .and_then(|database| self.take(database, |index| counted(index)));
        if opened.is_err() {
            // Who wants to read is told of the failure where this fails, too.
            let _ = self.show(counted);
        }
        opened
    }
}

/// More operations than a journal can have given Lsns to without writing one of them: at 64 bytes each, 4 GiB pending.
const OPERATIONS_SKIPPED: u64 = 1 << 26;
/// Operations after which the lock on the index is given to readers once.
const FOLD_OPERATIONS_MAX: usize = 4096;
/// Messages that are read at once where a whole queue is.
const PAGE: usize = 256;
