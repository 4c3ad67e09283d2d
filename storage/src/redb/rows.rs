//! The rows of a database as they stand in it, for whoever copies, looks over or puts together a whole store.
//!
//! Comes in: rows, in the order of their keys. Goes out: rows, with their checksums. A key is given as it is in the checksum of
//! its row, so numbers are big-endian here. It knows nothing of what rows mean.

use std::ops::Bound;

use ::redb::{
    Builder, CompactionError, CursorError, ReadableTable, ReadableTableMetadata, WriteTransaction,
};

use super::{
    BLOCKS, Backend, CURSORS, GROUPS, Guarded, MESSAGES, MOVED, NumberedRows, RECEIVED, RETAINED,
    Rows, SESSIONS, STORE, SUBSCRIPTIONS, Snapshot, commit, create_tables, database_error, guard,
    owner_range, storage_error, table_error, transaction_error,
};
use crate::disk::Disk;
use crate::error::StorageError;
use crate::record::{OwnerNumber, Tag};

/// Is given the key and the value of each row.
pub(crate) type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), StorageError> + 'a;

/// Where rows come from.
pub(crate) trait RowSource {
    /// How many rows of a table there should be, if the source says so.
    fn rows(&self, table: Tag) -> Result<Option<u64>, StorageError>;

    /// Visits the rows of a table, by key.
    fn each(&self, table: Tag, visit: &mut Visit<'_>) -> Result<(), StorageError>;
}

/// How redb is told of a table.
#[derive(Clone, Copy)]
pub(super) enum Definition {
    Keyed(Rows),
    Numbered(NumberedRows),
}

pub(super) fn definition(table: Tag) -> Definition {
    match table {
        Tag::Store => Definition::Keyed(STORE),
        Tag::Session => Definition::Keyed(SESSIONS),
        Tag::Group => Definition::Keyed(GROUPS),
        Tag::Cursor => Definition::Numbered(CURSORS),
        Tag::Block => Definition::Keyed(BLOCKS),
        Tag::Moved => Definition::Keyed(MOVED),
        Tag::Message => Definition::Numbered(MESSAGES),
        Tag::Subscription => Definition::Keyed(SUBSCRIPTIONS),
        Tag::Received => Definition::Keyed(RECEIVED),
        Tag::Retained => Definition::Keyed(RETAINED),
    }
}

impl RowSource for Snapshot {
    fn rows(&self, table: Tag) -> Result<Option<u64>, StorageError> {
        guard("reading", || {
            match definition(table) {
                Definition::Keyed(rows) => self.0.open_table(rows).map_err(table_error)?.len(),
                Definition::Numbered(rows) => self.0.open_table(rows).map_err(table_error)?.len(),
            }
            .map(Some)
            .map_err(storage_error)
        })
    }

    fn each(&self, table: Tag, visit: &mut Visit<'_>) -> Result<(), StorageError> {
        guard("reading", || match definition(table) {
            Definition::Keyed(rows) => {
                let table = self.0.open_table(rows).map_err(table_error)?;
                for row in table.iter().map_err(storage_error)? {
                    let (key, row) = row.map_err(storage_error)?;
                    visit(key.value(), row.value())?;
                }
                Ok(())
            }
            Definition::Numbered(rows) => {
                let table = self.0.open_table(rows).map_err(table_error)?;
                for row in table.iter().map_err(storage_error)? {
                    let (key, row) = row.map_err(storage_error)?;
                    visit(&key.value().to_be_bytes(), row.value())?;
                }
                Ok(())
            }
        })
    }
}

impl Snapshot {
    /// Visits the rows of one owner in a table that has rows by owner.
    pub(crate) fn each_of(
        &self,
        table: Tag,
        owner: OwnerNumber,
        visit: &mut Visit<'_>,
    ) -> Result<(), StorageError> {
        let Definition::Keyed(rows) = definition(table) else {
            return Ok(());
        };
        guard("reading", || {
            let table = self.0.open_table(rows).map_err(table_error)?;
            let (from, to) = owner_range(owner);
            let rows = table
                .range::<&[u8]>(from.as_slice()..to.as_slice())
                .map_err(storage_error)?;
            for row in rows {
                let (key, row) = row.map_err(storage_error)?;
                visit(key.value(), row.value())?;
            }
            Ok(())
        })
    }
}

/// Takes the rows of a store that is being made. Tables in any order, the rows of each best by ascending key.
pub(crate) struct RowWriter<'a> {
    transaction: &'a WriteTransaction,
    waiting: [Vec<Row>; Tag::ALL.len()],
    bytes: usize,
}

type Row = (Box<[u8]>, Box<[u8]>);

/// Makes the disk's new file a database with what `fill` writes. It is synced and closed then, and not published.
pub(crate) fn build<T>(
    disk: &dyn Disk,
    fill: impl FnOnce(&mut RowWriter<'_>) -> Result<T, StorageError>,
) -> Result<T, StorageError> {
    guard("writing", || {
        let file = disk.create().map_err(|error| StorageError::File {
            path: disk.path(),
            reason: error.to_string().into(),
        })?;
        let database = Builder::new()
            .set_cache_size(CACHE_BYTES)
            .create_with_backend(Backend::new(file, true))
            .map_err(|error| database_error(disk, error))?;
        let mut database = Guarded(Some(database));
        let transaction = database.begin_write().map_err(transaction_error)?;
        create_tables(&transaction)?;
        let mut writer = RowWriter {
            transaction: &transaction,
            waiting: Default::default(),
            bytes: 0,
        };
        let filled = fill(&mut writer)?;
        writer.flush()?;
        commit(transaction)?;
        // The file grew by doubling.
        if let Some(database) = &mut database.0 {
            database.compact().map_err(|error| match error {
                CompactionError::Storage(error) => storage_error(error),
                other => StorageError::Failed {
                    reason: other.to_string().into(),
                },
            })?;
        }
        Ok(filled)
    })
}

impl RowWriter<'_> {
    pub(crate) fn put(&mut self, table: Tag, key: &[u8], row: &[u8]) -> Result<(), StorageError> {
        if let Some(waiting) = self.waiting.get_mut(table as usize - 1) {
            waiting.push((key.into(), row.into()));
        }
        self.bytes += key.len() + row.len();
        if self.bytes > WAITING_BYTES_MAX {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StorageError> {
        self.bytes = 0;
        for (table, waiting) in Tag::BY_NUMBER.into_iter().zip(&mut self.waiting) {
            let rows = std::mem::take(waiting);
            if rows.is_empty() {
                continue;
            }
            match definition(table) {
                Definition::Keyed(definition) => append_keyed(self.transaction, definition, rows)?,
                Definition::Numbered(definition) => {
                    append_numbered(self.transaction, definition, rows)?;
                }
            }
        }
        Ok(())
    }
}

/// Rows that belong behind all others are packed page by page; others, that only a damaged store brings, are inserted.
fn append_keyed(
    transaction: &WriteTransaction,
    definition: Rows,
    rows: Vec<Row>,
) -> Result<(), StorageError> {
    let mut table = transaction.open_table(definition).map_err(table_error)?;
    let mut last: Option<Box<[u8]>> = table
        .last()
        .map_err(storage_error)?
        .map(|(key, _)| key.value().into());
    let mut among = Vec::new();
    let mut end = table
        .upper_bound_mut(Bound::<&[u8]>::Unbounded)
        .map_err(storage_error)?;
    for (key, row) in rows {
        if last.as_ref().is_some_and(|last| key <= *last) {
            among.push((key, row));
            continue;
        }
        end.insert_before(&*key, &*row).map_err(cursor_error)?;
        last = Some(key);
    }
    end.close().map_err(storage_error)?;
    for (key, row) in among {
        table.insert(&*key, &*row).map_err(storage_error)?;
    }
    Ok(())
}

fn append_numbered(
    transaction: &WriteTransaction,
    definition: NumberedRows,
    rows: Vec<Row>,
) -> Result<(), StorageError> {
    let mut table = transaction.open_table(definition).map_err(table_error)?;
    let mut last = table
        .last()
        .map_err(storage_error)?
        .map(|(number, _)| number.value());
    let mut among = Vec::new();
    let mut end = table
        .upper_bound_mut(Bound::<u64>::Unbounded)
        .map_err(storage_error)?;
    for (key, row) in rows {
        let number = <[u8; 8]>::try_from(&*key).map(u64::from_be_bytes);
        let number = number.map_err(|_| StorageError::Corrupt {
            what: "a key that should be a number is none".into(),
        })?;
        if last.is_some_and(|last| number <= last) {
            among.push((number, row));
            continue;
        }
        end.insert_before(number, &*row).map_err(cursor_error)?;
        last = Some(number);
    }
    end.close().map_err(storage_error)?;
    for (number, row) in among {
        table.insert(number, &*row).map_err(storage_error)?;
    }
    Ok(())
}

fn cursor_error(error: CursorError) -> StorageError {
    match error {
        CursorError::Storage(error) => storage_error(error),
        other => StorageError::Failed {
            reason: other.to_string().into(),
        },
    }
}

/// Rows that wait to be written together.
const WAITING_BYTES_MAX: usize = 4 << 20;
/// Bytes of a store that is being made which are held in memory.
const CACHE_BYTES: usize = 64 << 20;
