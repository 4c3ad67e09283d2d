//! Every stored message by its id, in as little memory and with as few cache misses as it takes.
//!
//! Ids are given one after the other, so neighbours mostly come, and often go, together: 64 of them share a block, which
//! keeps only those that are there, packed. It knows nothing of what it keeps.

use hashbrown::HashMap;

use crate::operation::MessageId;

/// A map from message ids.
#[derive(Debug)]
pub(super) struct Messages<T> {
    blocks: HashMap<u64, Block<T>>,
    len: usize,
}

/// Up to 64 neighbours.
#[derive(Debug)]
struct Block<T> {
    /// Bit n: the n-th of them is there.
    present: u64,
    /// Those that are, in order.
    values: Vec<T>,
}

impl<T> Default for Messages<T> {
    fn default() -> Self {
        Self {
            blocks: HashMap::new(),
            len: 0,
        }
    }
}

impl<T> Messages<T> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn contains(&self, id: MessageId) -> bool {
        self.get(id).is_some()
    }

    pub(super) fn get(&self, id: MessageId) -> Option<&T> {
        let block = self.blocks.get(&(id / BLOCK_IDS))?;
        block.values.get(block.place(id)?)
    }

    pub(super) fn get_mut(&mut self, id: MessageId) -> Option<&mut T> {
        let block = self.blocks.get_mut(&(id / BLOCK_IDS))?;
        let place = block.place(id)?;
        block.values.get_mut(place)
    }

    /// Replaces what is there.
    pub(super) fn insert(&mut self, id: MessageId, value: T) {
        let block = self.blocks.entry(id / BLOCK_IDS).or_insert(Block {
            present: 0,
            values: Vec::new(),
        });
        let rank = block.rank(id);
        if let Some(there) = block
            .place(id)
            .and_then(|place| block.values.get_mut(place))
        {
            *there = value;
            return;
        }
        block.present |= bit(id);
        block.values.insert(rank, value);
        self.len += 1;
    }

    pub(super) fn remove(&mut self, id: MessageId) -> Option<T> {
        let block = self.blocks.get_mut(&(id / BLOCK_IDS))?;
        let place = block.place(id)?;
        block.present &= !bit(id);
        let value = block.values.remove(place);
        self.len -= 1;
        if block.present == 0 {
            self.blocks.remove(&(id / BLOCK_IDS));
        } else if block.values.capacity() > 4 * block.values.len().max(1) {
            // A few that stay for long must not hold the room of all that were there.
            block.values.shrink_to_fit();
        }
        Some(value)
    }

    /// In no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (MessageId, &T)> {
        self.blocks.iter().flat_map(|(number, block)| {
            let first = number * BLOCK_IDS;
            let ids = (first..=first + (BLOCK_IDS - 1)).filter(|id| block.present & bit(*id) != 0);
            ids.zip(&block.values)
        })
    }
}

impl<T> Block<T> {
    /// How many come before this one.
    fn rank(&self, id: MessageId) -> usize {
        (self.present & (bit(id) - 1)).count_ones() as usize
    }

    fn place(&self, id: MessageId) -> Option<usize> {
        (self.present & bit(id) != 0).then(|| self.rank(id))
    }
}

fn bit(id: MessageId) -> u64 {
    1 << (id % BLOCK_IDS)
}

const BLOCK_IDS: u64 = 64;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_keeps_what_a_map_keeps(
            changes in prop::collection::vec((any::<bool>(), prop_oneof![0_u64..300, any::<u64>()]), 0..400),
        ) {
            let mut messages = Messages::default();
            let mut model = BTreeMap::new();
            for (value, (insert, id)) in changes.into_iter().enumerate() {
                if insert {
                    messages.insert(id, value);
                    model.insert(id, value);
                } else {
                    prop_assert_eq!(messages.remove(id), model.remove(&id));
                }
                prop_assert_eq!(messages.get(id), model.get(&id));
                prop_assert_eq!(messages.contains(id), model.contains_key(&id));
                prop_assert_eq!(messages.get_mut(id), model.get_mut(&id));
                prop_assert_eq!(messages.len(), model.len());
            }
            let all: BTreeMap<u64, usize> = messages.iter().map(|(id, value)| (id, *value)).collect();
            prop_assert_eq!(all, model);
        }
    }
}
