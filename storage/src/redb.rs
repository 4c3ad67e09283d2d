//! The database file: tables, transactions, and what goes wrong with them. The only room that knows redb.
//!
//! Comes in: the rows that a commit writes ([`Changes`]), and the places of a queue that is to be read. Goes out: rows as
//! values, or one clear error. It knows nothing of what rows mean to each other (`index` does), and nothing of their bytes
//! (`record` does).

mod load;
mod pages;
mod rows;
mod unwritten;

use std::io::{self, ErrorKind};
use std::ops::{Bound, Deref, Range};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ::redb::{
    Builder, CommitError, CursorError, DatabaseError, ReadTransaction, ReadableDatabase,
    ReadableTable, ReadableTableMetadata, StorageBackend, StorageError as RedbStorageError,
    TableDefinition, TableError, TableHandle, TableStats, TransactionError, WriteTransaction,
};

use crate::checkpoint::{QueuedMessage, QueuedState, Record};
use crate::disk::{Disk, DiskFile};
use crate::engine::Options;
use crate::error::StorageError;
use crate::index::{ByNumber, Changes, Index, KeyedChange, ListedMessage, Place};
use crate::operation::{MessageId, Owner, SessionRecord};
use crate::record::{
    self, BLOCK_NUMBERS, Broken, CursorRecord, MessageBody, MessageRow, MovedRecord, OwnerNumber,
    StoreRecord,
};
use crate::writer::Durability;

pub(crate) use self::pages::Pages;
pub(crate) use self::rows::{RowSource, RowWriter, build};
pub(crate) use self::unwritten::Unwritten;

/// An open database. After a failed `write` it is of no use any more.
#[derive(Debug)]
pub(crate) struct Database {
    inner: Guarded<::redb::Database>,
    file_bytes: Arc<AtomicU64>,
}

/// The database as it was at one moment, whatever is written meanwhile.
pub(crate) struct Snapshot(Guarded<ReadTransaction>);

impl Database {
    /// Opens the store's file, or makes it if there is none.
    pub(crate) fn open_or_create(disk: &dyn Disk, options: &Options) -> Result<Self, StorageError> {
        guard("opening", || open_or_create(disk, options))
    }

    /// Opens the store's file. One that is gone is an error: what was acknowledged was in it.
    pub(crate) fn open(disk: &dyn Disk, options: &Options) -> Result<Self, StorageError> {
        guard("opening", || {
            let file = disk.open().map_err(|error| file_error(disk, &error))?;
            let file = file.ok_or_else(|| file_error(disk, &ErrorKind::NotFound.into()))?;
            open_file(disk, file, options)
        })
    }

    /// Opens the store's file as it is after the last commit, and writes nothing to it; for a disk that takes nothing.
    pub(crate) fn open_unwritten(disk: &dyn Disk, options: &Options) -> Result<Self, StorageError> {
        guard("opening", || {
            let file = disk.open().map_err(|error| file_error(disk, &error))?;
            let file = file.ok_or_else(|| file_error(disk, &ErrorKind::NotFound.into()))?;
            let file = Unwritten::new(file).map_err(|error| file_error(disk, &error))?;
            let backend = Backend::new(Box::new(file), false);
            let file_bytes = Arc::clone(&backend.bytes);
            let database = Builder::new()
                .set_cache_size(options.cache_bytes)
                .create_with_backend(backend)
                .map_err(|error| database_error(disk, error))?;
            Ok(Self {
                inner: Guarded(Some(database)),
                file_bytes,
            })
        })
    }

    pub(crate) fn read(&self) -> Result<Snapshot, StorageError> {
        guard("reading", || {
            self.inner
                .begin_read()
                .map(|transaction| Snapshot(Guarded(Some(transaction))))
                .map_err(transaction_error)
        })
    }

    /// Writes what has changed in one transaction. When it returns, the disk has it.
    pub(crate) fn write(&self, changes: &Changes) -> Result<(), StorageError> {
        guard("writing", || write(&self.inner, changes))
    }

    pub(crate) fn file_bytes(&self) -> u64 {
        self.file_bytes.load(Ordering::Relaxed)
    }
}

impl Snapshot {
    /// Bytes of pages that hold something.
    pub(crate) fn used(&self) -> Result<u64, StorageError> {
        guard("reading", || {
            let mut used = 0;
            for table in [
                STORE,
                SESSIONS,
                GROUPS,
                BLOCKS,
                MOVED,
                SUBSCRIPTIONS,
                RECEIVED,
                RETAINED,
            ] {
                let table = self.0.open_table(table).map_err(table_error)?;
                used += in_use(&table.stats().map_err(storage_error)?);
            }
            for table in [CURSORS, MESSAGES] {
                let table = self.0.open_table(table).map_err(table_error)?;
                used += in_use(&table.stats().map_err(storage_error)?);
            }
            Ok(used)
        })
    }

    /// Reads the whole store. Gives messages that nobody needs, too.
    pub(crate) fn load(&self) -> Result<(Index, Vec<MessageId>), StorageError> {
        guard("reading", || load::load(&self.0))
    }

    pub(crate) fn session(&self, client_id: &str) -> Result<Option<SessionRecord>, StorageError> {
        guard("reading", || {
            let table = self.0.open_table(SESSIONS).map_err(table_error)?;
            let key = client_id.as_bytes();
            let Some(row) = table.get(key).map_err(storage_error)? else {
                return Ok(None);
            };
            let (_, session) = record::read_session(key, row.value())
                .map_err(|broken| corrupt("session", client_id, broken))?;
            Ok(Some(session))
        })
    }

    /// The messages at these places of the queue of the owner with this number.
    pub(crate) fn queued(
        &self,
        owner: OwnerNumber,
        places: Vec<Place>,
    ) -> Result<Vec<QueuedMessage>, StorageError> {
        if places.is_empty() {
            return Ok(Vec::new());
        }
        guard("reading", || {
            let table = self.0.open_table(MESSAGES).map_err(table_error)?;
            places
                .into_iter()
                .map(|place| read_place(&table, owner, place))
                .collect()
        })
    }

    /// Visits every session, by client id.
    pub(crate) fn sessions(&self, visit: &mut dyn FnMut(Record)) -> Result<(), StorageError> {
        guard("reading", || {
            each_row(&self.0, SESSIONS, |key, row| {
                let client_id = record::text(key)?;
                let (_, session) = record::read_session(key, row)?;
                visit(Record::Session { client_id, session });
                Ok(())
            })
        })
    }

    /// Visits every retained message, by topic.
    pub(crate) fn retained(&self, visit: &mut dyn FnMut(Record)) -> Result<(), StorageError> {
        guard("reading", || {
            each_row(&self.0, RETAINED, |key, row| {
                let message = Arc::new(record::read_retained(key, row)?);
                visit(Record::Retained { message });
                Ok(())
            })
        })
    }

    /// Visits the subscriptions of these sessions, in their order.
    pub(crate) fn subscriptions(
        &self,
        sessions: Vec<(Box<str>, OwnerNumber)>,
        visit: &mut dyn FnMut(Record),
    ) -> Result<(), StorageError> {
        guard("reading", || {
            let table = self.0.open_table(SUBSCRIPTIONS).map_err(table_error)?;
            for (client_id, owner) in sessions {
                let (from, to) = owner_range(owner);
                let rows = table
                    .range::<&[u8]>(from.as_slice()..to.as_slice())
                    .map_err(storage_error)?;
                for row in rows {
                    let (key, row) = row.map_err(storage_error)?;
                    let read = record::read_owned_text_key(key.value()).and_then(|(_, filter)| {
                        Ok((filter, record::read_subscription(key.value(), row.value())?))
                    });
                    let (topic_filter, subscription) =
                        read.map_err(|broken| corrupt("subscription", &client_id, broken))?;
                    visit(Record::Subscription {
                        client_id: client_id.clone(),
                        topic_filter,
                        subscription,
                    });
                }
            }
            Ok(())
        })
    }

    /// Visits these messages, each with the number of owners that need it.
    pub(crate) fn messages(
        &self,
        messages: Vec<(MessageId, u32)>,
        visit: &mut dyn FnMut(Record),
    ) -> Result<(), StorageError> {
        guard("reading", || {
            let table = self.0.open_table(MESSAGES).map_err(table_error)?;
            for (message_id, owners) in messages {
                let row = table
                    .get(message_id)
                    .map_err(storage_error)?
                    .ok_or_else(|| missing(message_id))?;
                let (_, message) = MessageRow::open(message_id, row.value())
                    .and_then(MessageRow::read)
                    .map_err(|broken| corrupt("message", message_id, broken))?;
                let message = Arc::new(message);
                visit(Record::Message { message, owners });
            }
            Ok(())
        })
    }
}

/// Rows, what leads to them, and what is free in their pages.
fn in_use(stats: &TableStats) -> u64 {
    stats.stored_bytes() + stats.metadata_bytes() + stats.fragmented_bytes()
}

fn read_place(
    table: &impl ReadableTable<u64, &'static [u8]>,
    owner: OwnerNumber,
    place: Place,
) -> Result<QueuedMessage, StorageError> {
    let Place {
        number,
        message_id,
        flight,
        moved,
    } = place;
    if let Some(flight) = flight
        && flight.released
    {
        return Ok(QueuedMessage {
            sequence: number,
            message_id,
            qos: nightjar_codec::QoS::ExactlyOnce,
            retain: false,
            subscription_identifiers: Vec::new(),
            state: QueuedState::Released {
                packet_id: flight.packet_id,
                order: flight.order,
            },
            came_from: None,
        });
    }
    let row = table
        .get(message_id)
        .map_err(storage_error)?
        .ok_or_else(|| missing(message_id))?;
    let (listed, message) = MessageRow::open(message_id, row.value())
        .and_then(|row| row.read_for(owner))
        .map_err(|broken| corrupt("message", message_id, broken))?;
    let message = Arc::new(message);
    let (qos, retain, subscription_identifiers, came_from) = match (moved, listed) {
        (Some(moved), _) => (
            moved.qos,
            moved.retain,
            moved.subscription_identifiers,
            moved.came_from,
        ),
        (None, Some(listed)) => (
            listed.qos,
            listed.retain,
            listed.subscription_identifiers,
            None,
        ),
        (None, None) => {
            return Err(StorageError::Corrupt {
                what: format!("message {message_id} does not list its owner").into(),
            });
        }
    };
    let state = match flight {
        Some(flight) => QueuedState::Sent {
            packet_id: flight.packet_id,
            order: flight.order,
            message,
        },
        None => QueuedState::Waiting(message),
    };
    Ok(QueuedMessage {
        sequence: number,
        message_id,
        qos,
        retain,
        subscription_identifiers,
        state,
        came_from,
    })
}

fn open_or_create(disk: &dyn Disk, options: &Options) -> Result<Database, StorageError> {
    let file_error = |error: io::Error| file_error(disk, &error);
    if let Some(file) = disk.open().map_err(file_error)? {
        return open_file(disk, file, options);
    }
    let file = disk.create().map_err(file_error)?;
    let database = Builder::new()
        .create_with_backend(Backend::new(file, true))
        .map_err(|error| database_error(disk, error))?;
    let transaction = database.begin_write().map_err(transaction_error)?;
    create_tables(&transaction)?;
    commit(transaction)?;
    drop(database);
    disk.publish().map_err(file_error)?;
    let file = disk.open().map_err(file_error)?;
    let file = file.ok_or_else(|| file_error(ErrorKind::NotFound.into()))?;
    open_file(disk, file, options)
}

fn open_file(
    disk: &dyn Disk,
    file: Box<dyn DiskFile>,
    options: &Options,
) -> Result<Database, StorageError> {
    let foreign = |why: &str| StorageError::Foreign {
        path: disk.path(),
        why: why.into(),
    };
    let file_error = |error: io::Error| file_error(disk, &error);
    let mut magic = [0; REDB_MAGIC.len()];
    if file.len().map_err(file_error)? < magic.len() as u64 {
        // redb would make a database out of an empty file.
        return Err(foreign("it is too short"));
    }
    file.read(0, &mut magic).map_err(file_error)?;
    if magic != REDB_MAGIC {
        return Err(foreign("it does not begin like one"));
    }
    let not_ours = || foreign("it is a database of another program");
    let sync = options.durability != Durability::Written;
    let backend = Backend::new(file, sync);
    let file_bytes = Arc::clone(&backend.bytes);
    let mut database = Builder::new()
        .set_cache_size(options.cache_bytes)
        .create_with_backend(backend)
        .map_err(|error| database_error(disk, error))?;
    let before = store_record(&database).map_err(|error| error.unwrap_or_else(not_ours))?;
    // Looks at every page. What is wrong only with the list of free pages is put right: it can be told from the others.
    database
        .check_integrity()
        .map_err(|error| database_error(disk, error))?;
    let after = store_record(&database).map_err(|error| error.unwrap_or_else(not_ours))?;
    if after != before {
        return Err(StorageError::Corrupt {
            what: "its last commit is damaged".into(),
        });
    }
    Ok(Database {
        inner: Guarded(Some(database)),
        file_bytes,
    })
}

/// The row about the store. `None` is the error of a database that has none.
fn store_record(database: &::redb::Database) -> Result<StoreRecord, Option<StorageError>> {
    let read = database.begin_read().map_err(transaction_error)?;
    let table = match read.open_table(STORE) {
        Ok(table) => table,
        Err(TableError::Storage(error)) => return Err(Some(storage_error(error))),
        Err(_) => return Err(None),
    };
    let row = table.get(record::STORE_KEY).map_err(storage_error)?;
    let row = row.ok_or_else(|| StorageError::Corrupt {
        what: "the row about the store is missing".into(),
    })?;
    let record = StoreRecord::read(row.value()).map_err(|broken| corrupt("store", "", broken))?;
    Ok(record)
}

/// Every table is there from the beginning, so that readers find it.
fn create_tables(transaction: &WriteTransaction) -> Result<(), StorageError> {
    let mut row = Vec::new();
    StoreRecord::default().write(&mut row);
    let mut store = transaction.open_table(STORE).map_err(table_error)?;
    store
        .insert(record::STORE_KEY, row.as_slice())
        .map_err(storage_error)?;
    for table in [
        SESSIONS,
        GROUPS,
        BLOCKS,
        MOVED,
        SUBSCRIPTIONS,
        RECEIVED,
        RETAINED,
    ] {
        transaction.open_table(table).map_err(table_error)?;
    }
    for table in [CURSORS, MESSAGES] {
        transaction.open_table(table).map_err(table_error)?;
    }
    Ok(())
}

fn write(database: &::redb::Database, changes: &Changes) -> Result<(), StorageError> {
    let transaction = database.begin_write().map_err(transaction_error)?;
    let arena = changes.arena.as_slice();
    remove_messages(&transaction, &changes.removed)?;
    insert_messages(&transaction, &changes.messages, arena)?;
    write_cursors(&transaction, &changes.cursors, arena)?;
    for (table, rows) in [
        (SESSIONS, &changes.sessions),
        (GROUPS, &changes.groups),
        (BLOCKS, &changes.blocks),
        (MOVED, &changes.moved),
        (SUBSCRIPTIONS, &changes.subscriptions),
        (RECEIVED, &changes.received),
        (RETAINED, &changes.retained),
    ] {
        write_keyed(&transaction, table, rows, arena)?;
    }
    drop_owners(&transaction, &changes.dropped)?;
    {
        let mut store = transaction.open_table(STORE).map_err(table_error)?;
        store
            .insert(record::STORE_KEY, slice(arena, &changes.store))
            .map_err(storage_error)?;
    }
    commit(transaction)
}

/// Removes rows that mostly lie side by side: message ids are given in order, and acknowledged about in order. Going
/// through a stretch of them costs a third of looking each one up.
fn remove_messages(
    transaction: &WriteTransaction,
    removed: &[MessageId],
) -> Result<(), StorageError> {
    if removed.is_empty() {
        return Ok(());
    }
    let mut table = transaction.open_table(MESSAGES).map_err(table_error)?;
    for stretch in removed.chunk_by(|one, next| next - one <= STRETCH_GAP_MAX) {
        let [first, .., last] = stretch else {
            for message_id in stretch {
                table.remove(*message_id).map_err(storage_error)?;
            }
            continue;
        };
        let mut rest = stretch;
        table
            .retain_in(*first..=*last, |message_id, _| {
                while let Some((next, behind)) = rest.split_first()
                    && *next < message_id
                {
                    rest = behind;
                }
                rest.first() != Some(&message_id)
            })
            .map_err(storage_error)?;
    }
    Ok(())
}

/// Inserts rows that mostly belong behind all others, where they are packed page by page.
fn insert_messages(
    transaction: &WriteTransaction,
    rows: &[(MessageId, Range<usize>)],
    arena: &[u8],
) -> Result<(), StorageError> {
    if rows.is_empty() {
        return Ok(());
    }
    let mut table = transaction.open_table(MESSAGES).map_err(table_error)?;
    let last = table
        .last()
        .map_err(storage_error)?
        .map_or(0, |(last, _)| last.value());
    let (among, behind) = rows.split_at(rows.partition_point(|(id, _)| *id <= last));
    for (message_id, range) in among {
        table
            .insert(*message_id, slice(arena, range))
            .map_err(storage_error)?;
    }
    let mut end = table
        .upper_bound_mut(Bound::<u64>::Unbounded)
        .map_err(storage_error)?;
    for (message_id, range) in behind {
        end.insert_before(*message_id, slice(arena, range))
            .map_err(|error| match error {
                CursorError::Storage(error) => storage_error(error),
                other => StorageError::Failed {
                    reason: other.to_string().into(),
                },
            })?;
    }
    end.close().map_err(storage_error)
}

fn write_cursors(
    transaction: &WriteTransaction,
    rows: &[(OwnerNumber, Range<usize>)],
    arena: &[u8],
) -> Result<(), StorageError> {
    if rows.is_empty() {
        return Ok(());
    }
    let mut table = transaction.open_table(CURSORS).map_err(table_error)?;
    for (owner, range) in rows {
        table
            .insert(*owner, slice(arena, range))
            .map_err(storage_error)?;
    }
    Ok(())
}

fn write_keyed(
    transaction: &WriteTransaction,
    table: TableDefinition<'_, &'static [u8], &'static [u8]>,
    rows: &[KeyedChange],
    arena: &[u8],
) -> Result<(), StorageError> {
    if rows.is_empty() {
        return Ok(());
    }
    let mut table = transaction.open_table(table).map_err(table_error)?;
    for (key, range) in rows {
        match range {
            Some(range) => table.insert(&**key, slice(arena, range)).map(drop),
            None => table.remove(&**key).map(drop),
        }
        .map_err(storage_error)?;
    }
    Ok(())
}

/// Removes every row of owners that are gone; last, for the same transaction may have written some.
fn drop_owners(
    transaction: &WriteTransaction,
    dropped: &[OwnerNumber],
) -> Result<(), StorageError> {
    if dropped.is_empty() {
        return Ok(());
    }
    let mut cursors = transaction.open_table(CURSORS).map_err(table_error)?;
    for owner in dropped {
        cursors.remove(*owner).map_err(storage_error)?;
    }
    for table in [BLOCKS, MOVED, SUBSCRIPTIONS, RECEIVED] {
        let mut table = transaction.open_table(table).map_err(table_error)?;
        for owner in dropped {
            let (from, to) = owner_range(*owner);
            table
                .retain_in::<&[u8], _>(from.as_slice()..to.as_slice(), |_, _| false)
                .map_err(storage_error)?;
        }
    }
    Ok(())
}

fn commit(mut transaction: WriteTransaction) -> Result<(), StorageError> {
    // Saves the allocator's state with each commit: a start after a crash need not walk the whole file.
    transaction.set_quick_repair(true);
    transaction.commit().map_err(|error| match error {
        CommitError::Storage(error) => storage_error(error),
        other => StorageError::Failed {
            reason: other.to_string().into(),
        },
    })
}

/// Visits every row, and finds out whether some are missing.
fn each_row(
    transaction: &ReadTransaction,
    definition: Rows,
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), Broken>,
) -> Result<(), StorageError> {
    let name = definition.name();
    let table = transaction.open_table(definition).map_err(table_error)?;
    let mut rows = 0;
    for row in table.iter().map_err(storage_error)? {
        let (key, row) = row.map_err(storage_error)?;
        visit(key.value(), row.value())
            .map_err(|broken| corrupt(name, key.value().escape_ascii(), broken))?;
        rows += 1;
    }
    complete(name, rows, table.len().map_err(storage_error)?)
}

fn each_numbered(
    transaction: &ReadTransaction,
    definition: NumberedRows,
    mut visit: impl FnMut(u64, &[u8]) -> Result<(), Broken>,
) -> Result<(), StorageError> {
    let name = definition.name();
    let table = transaction.open_table(definition).map_err(table_error)?;
    let mut rows = 0;
    for row in table.iter().map_err(storage_error)? {
        let (key, row) = row.map_err(storage_error)?;
        visit(key.value(), row.value()).map_err(|broken| corrupt(name, key.value(), broken))?;
        rows += 1;
    }
    complete(name, rows, table.len().map_err(storage_error)?)
}

/// The table counts its rows apart from the pages that hold them.
fn complete(table: &str, rows: u64, expected: u64) -> Result<(), StorageError> {
    if rows == expected {
        return Ok(());
    }
    Err(StorageError::Corrupt {
        what: format!("{rows} rows of {table} are there, {expected} were written").into(),
    })
}

/// A row of an owner that is not there.
fn known(found: bool) -> Result<(), Broken> {
    found
        .then_some(())
        .ok_or(Broken("its owner is not there, or is there twice"))
}

/// The keys of all rows of one owner.
fn owner_range(owner: OwnerNumber) -> ([u8; 8], [u8; 8]) {
    (owner.to_be_bytes(), (owner + 1).to_be_bytes())
}

fn slice<'a>(arena: &'a [u8], range: &Range<usize>) -> &'a [u8] {
    arena
        .get(range.clone())
        .expect("a range of the arena it was written to")
}

/// redb asserts what only a damaged file breaks; that is an error here, not the end of the process.
fn guard<T>(what: &str, run: impl FnOnce() -> Result<T, StorageError>) -> Result<T, StorageError> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let message = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no message");
        Err(StorageError::Corrupt {
            what: format!("{what} the database: {message}").into(),
        })
    })
}

fn file_error(disk: &dyn Disk, error: &io::Error) -> StorageError {
    StorageError::File {
        path: disk.path(),
        reason: error.to_string().into(),
    }
}

fn missing(message_id: MessageId) -> StorageError {
    StorageError::Corrupt {
        what: format!("message {message_id} is owned and not there").into(),
    }
}

fn corrupt(table: &str, key: impl std::fmt::Display, broken: Broken) -> StorageError {
    StorageError::Corrupt {
        what: format!("row {key} of {table}: {broken}").into(),
    }
}

fn storage_error(error: RedbStorageError) -> StorageError {
    match error {
        RedbStorageError::Corrupted(what) => StorageError::Corrupt { what: what.into() },
        other => StorageError::Failed {
            reason: other.to_string().into(),
        },
    }
}

fn table_error(error: TableError) -> StorageError {
    match error {
        TableError::Storage(error) => storage_error(error),
        other => StorageError::Corrupt {
            what: other.to_string().into(),
        },
    }
}

fn transaction_error(error: TransactionError) -> StorageError {
    match error {
        TransactionError::Storage(error) => storage_error(error),
        other => StorageError::Failed {
            reason: other.to_string().into(),
        },
    }
}

fn database_error(disk: &dyn Disk, error: DatabaseError) -> StorageError {
    match error {
        DatabaseError::DatabaseAlreadyOpen => StorageError::InUse { path: disk.path() },
        DatabaseError::UpgradeRequired(version) => StorageError::Foreign {
            path: disk.path(),
            why: format!("its file format is version {version}").into(),
        },
        DatabaseError::Storage(error) => storage_error(error),
        other => StorageError::Failed {
            reason: other.to_string().into(),
        },
    }
}

/// Something of redb's that may assert while it is dropped, after its file was found to be damaged.
#[derive(Debug)]
struct Guarded<T>(Option<T>);

impl<T> Deref for Guarded<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("only dropping takes it")
    }
}

impl<T> Drop for Guarded<T> {
    fn drop(&mut self) {
        let dropped = self.0.take();
        // What could not be written on the way out was promised to nobody.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(dropped)));
    }
}

/// A file as redb wants it.
#[derive(Debug)]
struct Backend {
    file: Box<dyn DiskFile>,
    sync: bool,
    /// How long the file is, for whoever has no hold of it.
    bytes: Arc<AtomicU64>,
}

impl Backend {
    fn new(file: Box<dyn DiskFile>, sync: bool) -> Self {
        Self {
            file,
            sync,
            bytes: Arc::default(),
        }
    }

    fn note(&self, len: u64) {
        self.bytes.store(len, Ordering::Relaxed);
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> Result<u64, io::Error> {
        let len = self.file.len()?;
        self.note(len);
        Ok(len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.file.set_len(len)?;
        self.note(len);
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        if self.sync { self.file.sync() } else { Ok(()) }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.file.write(offset, data)
    }
}

type Rows = TableDefinition<'static, &'static [u8], &'static [u8]>;
type NumberedRows = TableDefinition<'static, u64, &'static [u8]>;

const STORE: Rows = TableDefinition::new("store");
const SESSIONS: Rows = TableDefinition::new("sessions");
const GROUPS: Rows = TableDefinition::new("groups");
const CURSORS: NumberedRows = TableDefinition::new("cursors");
const BLOCKS: Rows = TableDefinition::new("blocks");
const MOVED: Rows = TableDefinition::new("moved");
const MESSAGES: NumberedRows = TableDefinition::new("messages");
const SUBSCRIPTIONS: Rows = TableDefinition::new("subscriptions");
const RECEIVED: Rows = TableDefinition::new("received");
const RETAINED: Rows = TableDefinition::new("retained");

/// How a file of redb begins.
const REDB_MAGIC: [u8; 9] = *b"redb\x1a\x0a\xa9\x0d\x0a";
/// Ids between two that are removed, up to which the way over the rows between them is shorter than a look-up.
const STRETCH_GAP_MAX: u64 = 32;
