//! Reading the disk at a start into the index.
//!
//! Comes in: rows, in this order: the store, owners, what belongs to them, messages. Goes out: an index as it was after the
//! last commit, or what does not fit together.

use hashbrown::HashMap;

use super::queue::Listed;
use super::{Held, Index, OwnerState, Shared, Slot, slot_mut};
use crate::operation::{MessageId, Owner};
use crate::record::{
    BLOCK_NUMBERS, BlockRecord, CursorRecord, MovedRecord, OwnerNumber, OwnerRecord, StoreRecord,
};

/// Reading the disk at a start: first the store, then owners, then what belongs to them, then messages, then `loaded`.
impl Index {
    pub(crate) fn load_store(&mut self, store: &StoreRecord) {
        self.operations = store.operations;
        self.next_owner = store.next_owner;
        self.number_floor = store.number_floor;
        self.message_id_max = store.message_id_max;
        self.clock = store.clock;
    }

    pub(crate) fn load_owner(
        &mut self,
        owner: OwnerRecord,
        name: Owner,
        by_number: &mut ByNumber,
    ) -> bool {
        let slot = self.place_owner(owner, name.clone());
        match name {
            Owner::Session(client_id) => self.sessions.insert(client_id, slot),
            Owner::Group { .. } => self.groups.insert(name, slot),
        };
        owner.owner <= self.next_owner && by_number.insert(owner.owner, slot).is_none()
    }

    /// These give false if the owner is not there.
    pub(crate) fn load_cursor(
        &mut self,
        owner: OwnerNumber,
        cursor: CursorRecord,
        by_number: &ByNumber,
    ) -> bool {
        self.load(owner, by_number, |state| {
            state.queue.head = state.queue.head.max(cursor.head);
            state.queue.saw(cursor.next.saturating_sub(1));
        })
    }

    pub(crate) fn load_block(
        &mut self,
        owner: OwnerNumber,
        number: u64,
        block: &BlockRecord,
        by_number: &ByNumber,
    ) -> bool {
        self.load(owner, by_number, |state| {
            let queue = &mut state.queue;
            if block.done != 0 {
                queue.done.insert(number, block.done);
                let last = u64::from(block.done.ilog2());
                queue.saw(number * BLOCK_NUMBERS + last);
            }
            for flight in &block.flights {
                queue.saw(flight.number);
                queue.next_order = queue.next_order.max(flight.order);
                queue.packet_ids.insert(flight.packet_id, flight.number);
                queue.flights.insert(flight.number, *flight);
                if flight.released {
                    let rare = queue.rare.get_or_insert_default();
                    rare.released.insert(flight.message_id, flight.number);
                }
            }
        })
    }

    pub(crate) fn load_moved(
        &mut self,
        owner: OwnerNumber,
        number: u64,
        entry: MovedRecord,
        by_number: &ByNumber,
        needed: &mut HashMap<MessageId, u32>,
    ) -> bool {
        *needed.entry(entry.message_id).or_default() += 1;
        self.load(owner, by_number, |state| {
            state.queue.saw(number);
            let rare = state.queue.rare.get_or_insert_default();
            rare.moved_numbers.insert(entry.message_id, number);
            rare.moved.insert(number, entry);
        })
    }

    pub(crate) fn load_received(
        &mut self,
        owner: OwnerNumber,
        group: u8,
        packet_ids: [u64; 4],
        by_number: &ByNumber,
    ) -> bool {
        self.load(owner, by_number, |state| {
            state.received.insert(group, packet_ids);
        })
    }

    /// A message's row with what it lists. Gives false if nobody needs the message.
    pub(crate) fn load_message(
        &mut self,
        message: ListedMessage,
        owners: &[(OwnerNumber, u64)],
        by_number: &ByNumber,
        needed: &mut HashMap<MessageId, u32>,
    ) -> bool {
        let ListedMessage {
            message_id, bytes, ..
        } = message;
        let elsewhere = if needed.is_empty() {
            0
        } else {
            needed.remove(&message_id).unwrap_or(0)
        };
        let mut places = SmallPlaces::default();
        let mut live = 0;
        for (owner, number) in owners {
            let Some(slot) = by_number.get(owner).copied() else {
                continue;
            };
            let Some(state) = slot_mut(&mut self.slots, slot) else {
                continue;
            };
            places.push((slot, *number));
            let queue = &mut state.queue;
            queue.saw(*number);
            if !queue.is_done(*number) {
                queue.entries.push_back(Listed {
                    number: *number,
                    message_id,
                });
                live += 1;
            }
        }
        if live + elsewhere == 0 {
            return false;
        }
        let held = match (places, elsewhere) {
            (SmallPlaces::One((slot, number)), 0) => Held::One {
                slot,
                bytes,
                number,
            },
            (places, _) => {
                let mut listed = places.into_vec();
                listed.sort_unstable();
                Held::Many(Box::new(Shared {
                    owners: live + elsewhere,
                    bytes,
                    listed: listed.into_boxed_slice(),
                }))
            }
        };
        self.messages.insert(message_id, held);
        true
    }

    /// Ends the loading; says what does not fit together.
    pub(crate) fn loaded(&mut self) -> Result<(), String> {
        let messages = &self.messages;
        for state in self.slots.iter_mut().flatten() {
            let queue = &mut state.queue;
            if !queue.entries.iter().is_sorted_by_key(|entry| entry.number) {
                queue
                    .entries
                    .make_contiguous()
                    .sort_unstable_by_key(|entry| entry.number);
            }
            queue.head = queue
                .entries
                .front()
                .map_or(queue.next, |entry| entry.number);
            let mut missing = queue
                .flights
                .values()
                .filter(|flight| !flight.released && !messages.contains(flight.message_id));
            if let Some(flight) = missing.next() {
                return Err(format!(
                    "message {} was sent and is not there",
                    flight.message_id
                ));
            }
        }
        Ok(())
    }

    fn load(
        &mut self,
        owner: OwnerNumber,
        by_number: &ByNumber,
        change: impl FnOnce(&mut OwnerState),
    ) -> bool {
        let state = by_number
            .get(&owner)
            .and_then(|slot| slot_mut(&mut self.slots, *slot));
        state.map(change).is_some()
    }
}

/// A message as its row tells of it, apart from its owners.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ListedMessage {
    pub(crate) message_id: MessageId,
    /// Of its topic, properties and payload.
    pub(crate) bytes: u32,
    /// How many owners its row lists.
    pub(crate) owners: usize,
}

/// Most messages have one owner, and no memory of their own is asked for then.
#[derive(Default)]
enum SmallPlaces {
    #[default]
    None,
    One((Slot, u64)),
    Many(Vec<(Slot, u64)>),
}

impl SmallPlaces {
    fn push(&mut self, place: (Slot, u64)) {
        *self = match std::mem::take(self) {
            Self::None => Self::One(place),
            Self::One(first) => Self::Many(vec![first, place]),
            Self::Many(mut places) => {
                places.push(place);
                Self::Many(places)
            }
        };
    }

    fn into_vec(self) -> Vec<(Slot, u64)> {
        match self {
            Self::None => Vec::new(),
            Self::One(place) => vec![place],
            Self::Many(places) => places,
        }
    }
}

/// Owner numbers of the disk to slots; needed only while loading.
pub(crate) type ByNumber = HashMap<OwnerNumber, Slot>;
