//! Reading the whole database at a start, as far as the index needs it.
//!
//! Comes in: a transaction. Goes out: the index, and messages that nobody needs; or the first row that is not what was
//! written. Payloads are looked at for their checksums only.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use ::redb::{ReadTransaction, ReadableTable, ReadableTableMetadata, TableHandle};
use hashbrown::HashMap;

use super::*;

/// Gives messages that nobody needs, too.
pub(super) fn load(transaction: &ReadTransaction) -> Result<(Index, Vec<MessageId>), StorageError> {
    let store = {
        let table = transaction.open_table(STORE).map_err(table_error)?;
        let row = table.get(record::STORE_KEY).map_err(storage_error)?;
        let row = row.ok_or_else(|| StorageError::Corrupt {
            what: "the row about the store is missing".into(),
        })?;
        StoreRecord::read(row.value()).map_err(|broken| corrupt("store", "", broken))?
    };
    let mut index = Index::default();
    let mut by_number = ByNumber::new();
    index.load_store(&store);
    each_row(transaction, SESSIONS, |key, row| {
        let (owner, _) = record::read_session(key, row)?;
        let name = Owner::Session(record::text(key)?.into());
        known(index.load_owner(owner, name, &mut by_number))
    })?;
    each_row(transaction, GROUPS, |key, row| {
        let owner = record::read_group(key, row)?;
        let name = record::read_group_key(key)?;
        known(index.load_owner(owner, name, &mut by_number))
    })?;
    each_numbered(transaction, CURSORS, |owner, row| {
        let cursor = CursorRecord::read(owner, row)?;
        known(index.load_cursor(owner, cursor, &by_number))
    })?;
    each_row(transaction, BLOCKS, |key, row| {
        let (owner, number) = record::read_owned_key(key)?;
        let first = number
            .checked_mul(BLOCK_NUMBERS)
            .filter(|first| first.checked_add(BLOCK_NUMBERS).is_some());
        let first = first.ok_or(Broken("its number is too large"))?;
        let block = record::read_block(key, row, first)?;
        known(index.load_block(owner, number, &block, &by_number))
    })?;
    let mut needed: HashMap<MessageId, u32> = HashMap::new();
    each_row(transaction, MOVED, |key, row| {
        let (owner, number) = record::read_owned_key(key)?;
        let entry = MovedRecord::read(key, row)?;
        known(index.load_moved(owner, number, entry, &by_number, &mut needed))
    })?;
    each_row(transaction, RECEIVED, |key, row| {
        let (owner, group) = record::read_owned_key(key)?;
        let group = u8::try_from(group).map_err(|_| Broken("its number is too large"))?;
        let packet_ids = record::read_received(key, row)?;
        known(index.load_received(owner, group, packet_ids, &by_number))
    })?;
    each_row(transaction, SUBSCRIPTIONS, |key, row| {
        let (owner, _) = record::read_owned_text_key(key)?;
        record::read_subscription(key, row)?;
        known(by_number.contains_key(&owner))
    })?;
    each_row(transaction, RETAINED, |key, row| {
        record::read_retained(key, row).map(drop)
    })?;
    let mut orphans = Vec::new();
    read_messages(transaction, |part| {
        let mut owners = part.owners.as_slice();
        for message in part.messages {
            let (own, rest) = owners.split_at(message.owners);
            owners = rest;
            if !index.load_message(message, own, &by_number, &mut needed) {
                orphans.push(message.message_id);
            }
        }
    })?;
    if let Some(message_id) = needed.keys().min() {
        return Err(missing(*message_id));
    }
    index
        .loaded()
        .map_err(|what| StorageError::Corrupt { what: what.into() })?;
    let found = index.store_record();
    if (found.messages, found.sessions) != (store.messages, store.sessions) {
        return Err(StorageError::Corrupt {
            what: format!(
                "{} messages and {} sessions were stored, {} and {} are found",
                store.messages, store.sessions, found.messages, found.sessions
            )
            .into(),
        });
    }
    Ok((index, orphans))
}

/// Some of the messages, as far as the index needs them.
#[derive(Default)]
struct MessagesPart {
    messages: Vec<ListedMessage>,
    /// Of all of them, one message after the other.
    owners: Vec<(OwnerNumber, u64)>,
    rows: u64,
}

/// Reads every message, the long way with several threads, and visits them by id.
fn read_messages(
    transaction: &ReadTransaction,
    mut visit: impl FnMut(MessagesPart),
) -> Result<(), StorageError> {
    let name = MESSAGES.name();
    let table = transaction.open_table(MESSAGES).map_err(table_error)?;
    let expected = table.len().map_err(storage_error)?;
    let first = table.first().map_err(storage_error)?;
    let last = table.last().map_err(storage_error)?;
    let (Some((first, _)), Some((last, _))) = (first, last) else {
        return complete(name, 0, expected);
    };
    let (first, last) = (first.value(), last.value());
    let threads = match expected {
        0..PARALLEL_FROM => 1,
        _ => std::thread::available_parallelism().map_or(1, |threads| threads.get().min(4)),
    };
    if threads == 1 {
        let part = read_messages_part(&table, first..=last)?;
        let rows = part.rows;
        visit(part);
        return complete(name, rows, expected);
    }
    let step = (last.saturating_sub(first) / PARTS).saturating_add(1);
    let parts: Vec<_> = (0..PARTS)
        .map(|part| first.saturating_add(part.saturating_mul(step)))
        .map(|from| from..=from.saturating_add(step - 1).min(last))
        .filter(|part| !part.is_empty())
        .collect();
    let next = AtomicUsize::new(0);
    let mut rows = 0;
    std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::sync_channel(threads);
        let (parts, next, table) = (&parts, &next, &table);
        for _ in 0..threads {
            let sender = sender.clone();
            scope.spawn(move || {
                loop {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    let Some(ids) = parts.get(place) else { return };
                    let part = guard("reading", || read_messages_part(table, ids.clone()));
                    // Whoever reads them has given up at the first error.
                    if sender.send((place, part)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let mut early = BTreeMap::new();
        for place in 0..parts.len() {
            let part = loop {
                if let Some(part) = early.remove(&place) {
                    break part;
                }
                let (place, part) = receiver.recv().map_err(|_| StorageError::Failed {
                    reason: "a thread that reads has ended".into(),
                })?;
                early.insert(place, part?);
            };
            rows += part.rows;
            visit(part);
        }
        Ok(())
    })?;
    complete(name, rows, expected)
}

fn read_messages_part(
    table: &impl ReadableTable<u64, &'static [u8]>,
    ids: RangeInclusive<MessageId>,
) -> Result<MessagesPart, StorageError> {
    let mut part = MessagesPart::default();
    for row in table.range(ids).map_err(storage_error)? {
        let (key, row) = row.map_err(storage_error)?;
        let message_id = key.value();
        let owners_before = part.owners.len();
        let owners = &mut part.owners;
        let bytes = MessageRow::open(message_id, row.value())
            .and_then(|row| row.owners(|owner, number| owners.push((owner, number))))
            .and_then(MessageBody::text_bytes)
            .map_err(|broken| corrupt(MESSAGES.name(), message_id, broken))?;
        part.messages.push(ListedMessage {
            message_id,
            bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
            owners: part.owners.len() - owners_before,
        });
        part.rows += 1;
    }
    Ok(part)
}

/// Messages from which on several threads read them.
const PARALLEL_FROM: u64 = 50_000;
/// Into how many parts they are cut then: ids may lie unevenly.
const PARTS: u64 = 64;
