//! What has changed in the index since the last commit, and the rows that make the disk agree.
//!
//! Comes in: notes of what has changed, and the bytes of new rows. Goes out: [`Changes`], each table's rows in the order of
//! their keys. What is noted twice is written once, and a message that comes and goes between two commits never.

use std::collections::BTreeMap;
use std::ops::Range;

use super::{Index, OwnerState, Slot, slot_mut, slot_ref};
use crate::operation::MessageId;
use crate::record::{self, BLOCK_NUMBERS, CursorRecord, OwnerNumber};

/// What has to be written, by what has changed.
#[derive(Debug, Default)]
pub(super) struct Changed {
    pub(super) arena: Vec<u8>,
    pub(super) removed: Vec<MessageId>,
    pub(super) sessions: BTreeMap<Box<str>, Option<Range<usize>>>,
    pub(super) groups: BTreeMap<Vec<u8>, Option<Range<usize>>>,
    pub(super) subscriptions: BTreeMap<Vec<u8>, Option<Range<usize>>>,
    pub(super) retained: BTreeMap<Box<str>, Option<Range<usize>>>,
    pub(super) owners: Vec<Slot>,
    pub(super) blocks: Vec<(Slot, u64)>,
    pub(super) moved: Vec<(Slot, u64)>,
    pub(super) received: Vec<(Slot, u8)>,
    pub(super) dropped: Vec<OwnerNumber>,
}

/// The rows that make the disk agree with the index. `None` is a row to remove.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) arena: Vec<u8>,
    pub(crate) store: Range<usize>,
    /// Messages that go, by id, before those of `messages` come; an id may be in both.
    pub(crate) removed: Vec<MessageId>,
    /// New messages, by id.
    pub(crate) messages: Vec<(MessageId, Range<usize>)>,
    pub(crate) cursors: Vec<(OwnerNumber, Range<usize>)>,
    pub(crate) sessions: Vec<KeyedChange>,
    pub(crate) groups: Vec<KeyedChange>,
    pub(crate) blocks: Vec<KeyedChange>,
    pub(crate) moved: Vec<KeyedChange>,
    pub(crate) subscriptions: Vec<KeyedChange>,
    pub(crate) received: Vec<KeyedChange>,
    pub(crate) retained: Vec<KeyedChange>,
    /// Owners whose rows go, in every table that has rows by owner.
    pub(crate) dropped: Vec<OwnerNumber>,
}

pub(crate) type KeyedChange = (Box<[u8]>, Option<Range<usize>>);

impl Index {
    /// Everything that has changed since the last call, as rows. Until [`Self::committed`], new messages are not shown.
    pub(crate) fn take_changes(&mut self) -> Changes {
        let changed = std::mem::take(&mut self.changed);
        let mut changes = Changes {
            arena: changed.arena,
            dropped: changed.dropped,
            removed: changed.removed,
            sessions: keyed(changed.sessions, |key| key.into_boxed_bytes()),
            groups: keyed(changed.groups, Vec::into_boxed_slice),
            subscriptions: keyed(changed.subscriptions, Vec::into_boxed_slice),
            retained: keyed(changed.retained, |key| key.into_boxed_bytes()),
            ..Changes::default()
        };
        changes.removed.sort_unstable();
        changes
            .messages
            .extend(self.fresh.iter().map(|(id, range)| (*id, range.clone())));
        changes.messages.sort_unstable_by_key(|(id, _)| *id);
        self.take_owner_changes(
            &mut changes,
            changed.owners,
            changed.blocks,
            changed.moved,
            changed.received,
        );
        let store = self.store_record();
        changes.store = put(&mut changes.arena, |arena| store.write(arena));
        changes
    }

    fn take_owner_changes(
        &mut self,
        changes: &mut Changes,
        owners: Vec<Slot>,
        mut blocks: Vec<(Slot, u64)>,
        mut moved: Vec<(Slot, u64)>,
        mut received: Vec<(Slot, u8)>,
    ) {
        let arena = &mut changes.arena;
        for slot in owners {
            let Some(state) = slot_mut(&mut self.slots, slot).filter(|state| state.changed) else {
                continue;
            };
            state.changed = false;
            let cursor = CursorRecord {
                head: state.queue.head,
                next: state.queue.next,
            };
            let range = put(arena, |arena| cursor.write(arena, state.owner.owner));
            changes.cursors.push((state.owner.owner, range));
        }
        changes.cursors.sort_unstable_by_key(|(owner, _)| *owner);

        blocks.sort_unstable();
        blocks.dedup();
        for (slot, block) in blocks {
            let Some(state) = slot_ref(&self.slots, slot) else {
                continue;
            };
            let key = record::owned_key(state.owner.owner, block);
            let queue = &state.queue;
            let done = queue.done_bits(block);
            let mut flights = queue.flights_of(block).peekable();
            let range = (done != 0 || flights.peek().is_some()).then(|| {
                put(arena, |arena| {
                    record::write_block(arena, &key, done, flights)
                })
            });
            changes.blocks.push((Box::new(key), range));
        }
        changes.blocks.sort_unstable_by(|a, b| a.0.cmp(&b.0));

        moved.sort_unstable();
        moved.dedup();
        for (slot, number) in moved {
            let Some(state) = slot_ref(&self.slots, slot) else {
                continue;
            };
            let key = record::owned_key(state.owner.owner, number);
            let entry = state.queue.moved(number);
            let range = entry.map(|entry| put(arena, |arena| entry.write(arena, &key)));
            changes.moved.push((Box::new(key), range));
        }
        changes.moved.sort_unstable_by(|a, b| a.0.cmp(&b.0));

        received.sort_unstable();
        received.dedup();
        for (slot, group) in received {
            let Some(state) = slot_ref(&self.slots, slot) else {
                continue;
            };
            let key = record::owned_key(state.owner.owner, u64::from(group));
            let bits = state.received.get(&group);
            let range =
                bits.map(|bits| put(arena, |arena| record::write_received(arena, &key, bits)));
            changes.received.push((Box::new(key), range));
        }
        changes.received.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    }

    /// The changes are on disk. Takes them back, for their memory.
    pub(crate) fn committed(&mut self, changes: Changes) {
        self.fresh.clear();
        let mut arena = changes.arena;
        if arena.capacity() <= ARENA_KEPT_BYTES && self.changed.arena.is_empty() {
            arena.clear();
            self.changed.arena = arena;
        }
    }
}

impl Changed {
    pub(super) fn put(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Range<usize> {
        put(&mut self.arena, write)
    }

    pub(super) fn owner(&mut self, slot: Slot, state: &mut OwnerState) {
        if !state.changed {
            state.changed = true;
            self.owners.push(slot);
        }
    }

    pub(super) fn block(&mut self, slot: Slot, number: u64) {
        let changed = (slot, number / BLOCK_NUMBERS);
        if self.blocks.last() != Some(&changed) {
            self.blocks.push(changed);
        }
    }
}

fn put(arena: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) -> Range<usize> {
    let start = arena.len();
    write(arena);
    start..arena.len()
}

fn keyed<K>(
    rows: BTreeMap<K, Option<Range<usize>>>,
    key: impl Fn(K) -> Box<[u8]>,
) -> Vec<KeyedChange> {
    rows.into_iter()
        .map(|(row, range)| (key(row), range))
        .collect()
}

/// A buffer that grew beyond this for one commit is given back.
const ARENA_KEPT_BYTES: usize = 16 << 20;
