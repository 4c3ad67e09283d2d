//! A slab of nodes in chunks: what the tries are built of.
//!
//! Nodes refer to each other by [`NodeId`] and are owned by the arena alone, so dropping a trie of any depth is a loop over chunks
//! and never a recursion. In: nodes. Out: their ids. A chunk never moves once it is full, so growing to a million nodes never stops a
//! publisher for one big copy, and a chunk whose last node goes gives its memory back.

use std::collections::BTreeSet;
use std::num::NonZeroU32;

/// Names a node of one arena. Four bytes also as an `Option`.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub(super) struct NodeId(NonZeroU32);

impl NodeId {
    pub(super) fn number(self) -> u32 {
        self.0.get()
    }

    fn new(chunk: u32, slot: u32) -> Self {
        let index = chunk
            .checked_mul(CHUNK_NODES)
            .and_then(|first| first.checked_add(slot));
        let number = index
            .and_then(|index| index.checked_add(1))
            .and_then(NonZeroU32::new);
        Self(number.expect("memory ends before 2^32 nodes"))
    }

    fn chunk(self) -> u32 {
        (self.0.get() - 1) / CHUNK_NODES
    }

    fn slot(self) -> u32 {
        (self.0.get() - 1) % CHUNK_NODES
    }
}

#[derive(Debug)]
pub(super) struct Arena<T> {
    chunks: Vec<Chunk<T>>,
    /// Chunks that can take another node. The lowest is filled first, so that the others can become empty.
    with_room: BTreeSet<u32>,
    live: usize,
}

#[derive(Debug)]
struct Chunk<T> {
    slots: Vec<Slot<T>>,
    first_free: Option<u32>,
    live: u32,
}

#[derive(Debug)]
enum Slot<T> {
    Live(T),
    Free { next: Option<u32> },
}

impl<T> Arena<T> {
    pub(super) fn new() -> Self {
        Self {
            chunks: Vec::new(),
            with_room: BTreeSet::new(),
            live: 0,
        }
    }

    /// How many nodes are alive.
    pub(super) fn len(&self) -> usize {
        self.live
    }

    pub(super) fn get(&self, id: NodeId) -> &T {
        match &self.chunks[id.chunk() as usize].slots[id.slot() as usize] {
            Slot::Live(node) => node,
            Slot::Free { .. } => unreachable!("nobody keeps the id of a node that was removed"),
        }
    }

    pub(super) fn get_mut(&mut self, id: NodeId) -> &mut T {
        match &mut self.chunks[id.chunk() as usize].slots[id.slot() as usize] {
            Slot::Live(node) => node,
            Slot::Free { .. } => unreachable!("nobody keeps the id of a node that was removed"),
        }
    }

    pub(super) fn insert(&mut self, node: T) -> NodeId {
        let number = self
            .with_room
            .first()
            .copied()
            .unwrap_or_else(|| self.add_chunk());
        let chunk = &mut self.chunks[number as usize];
        let slot = chunk.insert(node, number);
        if chunk.live == CHUNK_NODES {
            self.with_room.remove(&number);
        }
        self.live += 1;
        NodeId::new(number, slot)
    }

    pub(super) fn remove(&mut self, id: NodeId) -> T {
        let number = id.chunk();
        let chunk = &mut self.chunks[number as usize];
        let node = chunk.remove(id.slot());
        self.with_room.insert(number);
        self.live -= 1;
        while self.chunks.last().is_some_and(|chunk| chunk.live == 0) {
            self.chunks.pop();
            self.with_room.remove(&(self.chunks.len() as u32));
        }
        node
    }

    fn add_chunk(&mut self) -> u32 {
        let number = u32::try_from(self.chunks.len()).expect("memory ends before 2^32 chunks");
        self.chunks.push(Chunk {
            slots: Vec::new(),
            first_free: None,
            live: 0,
        });
        self.with_room.insert(number);
        number
    }
}

impl<T> Chunk<T> {
    fn insert(&mut self, node: T, number: u32) -> u32 {
        self.live += 1;
        if let Some(slot) = self.first_free {
            let place = &mut self.slots[slot as usize];
            let Slot::Free { next } = *place else {
                unreachable!("only free slots are on the free list")
            };
            self.first_free = next;
            *place = Slot::Live(node);
            return slot;
        }
        // A small index has one small chunk; a big one has many, which need not be grown in steps.
        if self.slots.is_empty() && number > 0 {
            self.slots.reserve_exact(CHUNK_NODES as usize);
        }
        self.slots.push(Slot::Live(node));
        self.slots.len() as u32 - 1
    }

    fn remove(&mut self, slot: u32) -> T {
        let place = &mut self.slots[slot as usize];
        let free = Slot::Free {
            next: self.first_free,
        };
        let Slot::Live(node) = std::mem::replace(place, free) else {
            unreachable!("nobody keeps the id of a node that was removed")
        };
        self.first_free = Some(slot);
        self.live -= 1;
        if self.live == 0 {
            self.slots = Vec::new();
            self.first_free = None;
        }
        node
    }
}

/// Small enough that emptying and filling one chunk again and again is cheap, large enough that its own cost is nothing per node.
const CHUNK_NODES: u32 = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_stay_good_while_others_come_and_go() {
        let mut arena = Arena::new();
        let ids: Vec<(NodeId, u32)> = (0..2000).map(|n| (arena.insert(n), n)).collect();
        for (id, n) in ids.iter().filter(|(_, n)| n % 3 == 0) {
            assert_eq!(arena.remove(*id), *n);
        }
        let again: Vec<(NodeId, u32)> = (5000..5600).map(|n| (arena.insert(n), n)).collect();
        for (id, n) in ids.iter().filter(|(_, n)| n % 3 != 0).chain(&again) {
            assert_eq!(arena.get(*id), n);
            assert_eq!(arena.get_mut(*id), n);
        }
        assert_eq!(arena.len(), 2000 - 667 + 600);
    }

    #[test]
    fn memory_of_removed_nodes_is_given_back() {
        let mut arena = Arena::new();
        let ids: Vec<NodeId> = (0..10_000).map(|n| arena.insert(n)).collect();
        assert_eq!(
            arena.chunks.len(),
            10_000_usize.div_ceil(CHUNK_NODES as usize)
        );
        let (keep, go) = ids.split_last().unwrap();
        for id in go {
            arena.remove(*id);
        }
        let slots: usize = arena
            .chunks
            .iter()
            .map(|chunk| chunk.slots.capacity())
            .sum();
        assert!(
            slots <= CHUNK_NODES as usize,
            "{slots} slots are kept for one node"
        );
        arena.remove(*keep);
        assert_eq!(
            (arena.len(), arena.chunks.len(), arena.with_room.len()),
            (0, 0, 0)
        );
    }

    #[test]
    fn freed_slots_are_used_again_before_new_ones() {
        let mut arena = Arena::new();
        let ids: Vec<NodeId> = (0..1000).map(|n| arena.insert(n)).collect();
        for id in ids.iter().step_by(2) {
            arena.remove(*id);
        }
        let chunks = arena.chunks.len();
        for n in 0..500 {
            arena.insert(n);
        }
        assert_eq!(arena.chunks.len(), chunks);
        assert_eq!(arena.len(), 1000);
    }

    #[test]
    fn an_optional_id_takes_four_bytes() {
        assert_eq!(size_of::<Option<NodeId>>(), 4);
    }
}
