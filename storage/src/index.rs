//! What is held in memory of the store: who owns which message, and what has to be written for what has changed.
//!
//! Comes in: operations, one after the other ([`Index::fold`], which means the same as [`Image::fold`](crate::Image::fold)),
//! and at a start the rows that are on disk. Goes out: [`Changes`], the rows that make the disk agree. It knows nothing of
//! files or transactions. Payloads, topics and records are on disk only.
//!
//! An owner counts its messages itself. A message's row lists its owners with their numbers, so that storing it for a
//! thousand sessions is one row. Which of the listed numbers are done is said by the owner:
//!
//! ```text
//! number    1 2 3 4 5 6 7 8 9
//!           x x x . x . . . .      x: done
//!                 ^         ^
//!               head       next    the cursor row; everything below head is done
//!           block 0: bit 5         a row for each 64 numbers in which something above head is done, sent or released
//! ```
//! An entry that came by [`Operation::Transfer`] is in no list: it has a row of its own, and lives as long as that.
//!
//! The lock around the index is held while operations are folded, never while the medium works. So the index may be
//! ahead of the disk: what is `fresh` is not there yet, and is not shown to readers.

mod changes;
mod load;
mod messages;
mod queue;
mod read;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use hashbrown::HashMap;

use self::changes::Changed;
pub(crate) use self::changes::{Changes, KeyedChange};
pub(crate) use self::load::{ByNumber, ListedMessage};
use self::messages::Messages;
use self::queue::Queue;
use crate::checkpoint::Sequence;
use crate::operation::{ClockRecord, MessageId, Operation, Owner, OwnerEntry, SessionRecord};
use crate::record::{self, FlightRecord, MovedRecord, OwnerNumber, OwnerRecord, StoreRecord};

/// Owners, their queues, and the messages they need.
#[derive(Debug, Default)]
pub(crate) struct Index {
    slots: Vec<Option<OwnerState>>,
    free: Vec<Slot>,
    sessions: HashMap<Arc<str>, Slot>,
    groups: HashMap<Owner, Slot>,
    messages: Messages<Held>,
    next_owner: OwnerNumber,
    number_floor: u64,
    message_id_max: MessageId,
    clock: Option<ClockRecord>,
    operations: u64,
    changed: Changed,
    /// Messages whose rows are not on disk yet, with their bytes in the arena of the changes.
    fresh: HashMap<MessageId, Range<usize>>,
    scratch: Vec<(OwnerNumber, Slot, u64, usize)>,
    last_owners: LastOwners,
}

/// The owners of the message before, looked up: messages that go the same way share their list.
#[derive(Debug, Default)]
struct LastOwners {
    /// `None` where an owner has come or gone since.
    list: Option<Arc<[OwnerEntry]>>,
    /// By number, with the places in the list.
    slots: Vec<(OwnerNumber, Slot, usize)>,
}

/// Where an owner is in `Index::slots`; given again when it is gone.
type Slot = u32;

#[derive(Debug)]
struct OwnerState {
    owner: OwnerRecord,
    name: Owner,
    queue: Queue,
    /// Received QoS 2 packet ids, 256 to a word group.
    received: BTreeMap<u8, [u64; 4]>,
    changed: bool,
}

/// Who needs a message. It goes when nobody does.
#[derive(Debug)]
enum Held {
    /// One owner, by its list.
    One {
        slot: Slot,
        bytes: u32,
        number: u64,
    },
    Many(Box<Shared>),
}

#[derive(Debug)]
struct Shared {
    owners: u32,
    bytes: u32,
    /// As in the message's row, by slot. An owner that is gone may still be among them.
    listed: Box<[(Slot, u64)]>,
}

/// One entry of a queue, as far as it is known without the disk.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) number: Sequence,
    pub(crate) message_id: MessageId,
    pub(crate) flight: Option<FlightRecord>,
    /// The entry's own options, if they are not in the message's row.
    pub(crate) moved: Option<MovedRecord>,
}

impl Index {
    /// Applies one operation. An operation that speaks of something that is not there changes nothing.
    pub(crate) fn fold(&mut self, operation: &Operation) {
        match operation {
            Operation::PutSession { client_id, session } => self.put_session(client_id, session),
            Operation::DeleteSession { client_id } => self.delete_session(client_id),
            Operation::PutSubscription {
                client_id,
                topic_filter,
                subscription,
            } => {
                if let Some((_, state)) = self.session_mut(client_id) {
                    let key = record::owned_text_key(state.owner.owner, topic_filter);
                    let range = self.changed.put(|arena| {
                        record::write_subscription(arena, &key, subscription);
                    });
                    self.changed.subscriptions.insert(key, Some(range));
                }
            }
            Operation::DeleteSubscription {
                client_id,
                topic_filter,
            } => {
                if let Some((_, state)) = self.session_mut(client_id) {
                    let key = record::owned_text_key(state.owner.owner, topic_filter);
                    self.changed.subscriptions.insert(key, None);
                }
            }
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
            Operation::Dequeue { owner, message_id } => self.dequeue(owner, *message_id),
            Operation::Transfer {
                message_id,
                from,
                to,
            } => self.transfer(*message_id, from, to),
            Operation::ReceivedQos2 {
                client_id,
                packet_id,
            } => self.mark_received(client_id, *packet_id, true),
            Operation::ReleaseQos2 {
                client_id,
                packet_id,
            } => self.mark_received(client_id, *packet_id, false),
            Operation::PutRetained { message } => {
                self.message_id_max = self.message_id_max.max(message.message_id);
                let range = self
                    .changed
                    .put(|arena| record::write_retained(arena, message));
                self.changed
                    .retained
                    .insert(message.topic.clone(), Some(range));
            }
            Operation::DeleteRetained { topic } => {
                self.changed.retained.insert(topic.clone(), None);
            }
            Operation::DeleteGroup {
                share_name,
                topic_filter,
            } => {
                let group = Owner::group(share_name, topic_filter);
                if let Some(slot) = self.groups.remove(&group) {
                    let key = record::group_key(share_name, topic_filter);
                    self.changed.groups.insert(key, None);
                    self.drop_owner(slot);
                }
            }
            Operation::PutClock(clock) => self.clock = Some(*clock),
        }
    }

    pub(crate) fn operations(&self) -> u64 {
        self.operations
    }

    /// How many operations the journal has seen, those included that were lost.
    pub(crate) fn set_operations(&mut self, operations: u64) {
        self.operations = operations;
    }

    pub(crate) fn message_id_max(&self) -> MessageId {
        self.message_id_max
    }

    pub(crate) fn clock(&self) -> Option<ClockRecord> {
        self.clock
    }

    pub(crate) fn store_record(&self) -> StoreRecord {
        StoreRecord {
            operations: self.operations,
            next_owner: self.next_owner,
            number_floor: self.number_floor,
            message_id_max: self.message_id_max,
            clock: self.clock,
            messages: self.messages.len() as u64,
            sessions: self.sessions.len() as u64,
        }
    }

    /// Owners whose queue holds something, sessions before groups.
    pub(crate) fn queue_owners(&self) -> Vec<Owner> {
        let mut owners: Vec<Owner> = self
            .slots
            .iter()
            .flatten()
            .filter(|state| !state.queue.is_empty())
            .map(|state| state.name.clone())
            .collect();
        owners.sort_unstable();
        owners
    }

    /// Sessions by client id.
    pub(crate) fn session_owners(&self) -> Vec<(Box<str>, OwnerNumber)> {
        let mut sessions: Vec<(Box<str>, OwnerNumber)> = self
            .sessions
            .iter()
            .filter_map(|(client_id, slot)| {
                let state = slot_ref(&self.slots, *slot)?;
                Some(((&**client_id).into(), state.owner.owner))
            })
            .collect();
        sessions.sort_unstable();
        sessions
    }

    /// Messages that are on disk, by id, with the number of owners that need them.
    pub(crate) fn stored_messages(&self) -> Vec<(MessageId, u32)> {
        let mut messages: Vec<(MessageId, u32)> = self
            .messages
            .iter()
            .filter(|(id, _)| !self.fresh.contains_key(id))
            .map(|(id, held)| match held {
                Held::One { .. } => (id, 1),
                Held::Many(shared) => (id, shared.owners),
            })
            .collect();
        messages.sort_unstable();
        messages
    }

    /// At most `limit` entries of a queue behind `after`, with the number its owner has on disk.
    pub(crate) fn places(
        &self,
        owner: &Owner,
        after: Sequence,
        limit: usize,
    ) -> (OwnerNumber, Vec<Place>) {
        let Some(state) = self
            .slot_of(owner)
            .and_then(|slot| slot_ref(&self.slots, slot))
        else {
            return (0, Vec::new());
        };
        let queue = &state.queue;
        let Some(from) = after.checked_add(1) else {
            return (0, Vec::new());
        };
        let begin = queue.entries.partition_point(|entry| entry.number < from);
        let mut listed = queue
            .entries
            .range(begin..)
            .filter(|entry| entry.message_id != 0 && !self.fresh.contains_key(&entry.message_id))
            .take(limit)
            .map(|entry| Place {
                number: entry.number,
                message_id: entry.message_id,
                flight: queue.flights.get(&entry.number).copied(),
                moved: None,
            })
            .peekable();
        let mut others = queue
            .moved_from(from)
            .filter(|(_, entry)| !self.fresh.contains_key(&entry.message_id))
            .map(|(number, entry)| Place {
                number: *number,
                message_id: entry.message_id,
                flight: queue.flights.get(number).copied(),
                moved: Some(entry.clone()),
            })
            .peekable();
        let mut released = queue
            .flights
            .range(from..)
            .filter(|(_, flight)| flight.released)
            .map(|(number, flight)| Place {
                number: *number,
                message_id: flight.message_id,
                flight: Some(*flight),
                moved: None,
            })
            .peekable();
        let mut places = Vec::new();
        while places.len() < limit {
            let numbers = [
                listed.peek().map(|place| place.number),
                others.peek().map(|place| place.number),
                released.peek().map(|place| place.number),
            ];
            let next = match numbers.iter().flatten().min() {
                None => break,
                least if least == numbers[0].as_ref() => listed.next(),
                least if least == numbers[1].as_ref() => others.next(),
                _ => released.next(),
            };
            places.extend(next);
        }
        (state.owner.owner, places)
    }

    pub(crate) fn received_qos2(&self) -> Vec<(Box<str>, Vec<u16>)> {
        let mut received: Vec<(Box<str>, Vec<u16>)> = Vec::new();
        for (client_id, slot) in &self.sessions {
            let Some(state) = slot_ref(&self.slots, *slot) else {
                continue;
            };
            let packet_ids: Vec<u16> = state
                .received
                .iter()
                .flat_map(|(group, words)| bits_of(*group, words))
                .collect();
            if !packet_ids.is_empty() {
                received.push(((&**client_id).into(), packet_ids));
            }
        }
        received.sort_unstable();
        received
    }

    fn put_session(&mut self, client_id: &Arc<str>, session: &SessionRecord) {
        let slot = match self.sessions.get(&**client_id) {
            Some(slot) => *slot,
            None => {
                let slot = self.create_owner(Owner::Session(Arc::clone(client_id)));
                self.sessions.insert(Arc::clone(client_id), slot);
                slot
            }
        };
        let Some(state) = slot_ref(&self.slots, slot) else {
            return;
        };
        let owner = state.owner;
        let range = self.changed.put(|arena| {
            record::write_session(arena, client_id.as_bytes(), owner, session);
        });
        self.changed
            .sessions
            .insert((&**client_id).into(), Some(range));
    }

    fn delete_session(&mut self, client_id: &str) {
        if let Some(slot) = self.sessions.remove(client_id) {
            self.changed.sessions.insert(client_id.into(), None);
            self.drop_owner(slot);
        }
    }

    fn create_owner(&mut self, name: Owner) -> Slot {
        self.next_owner += 1;
        let owner = OwnerRecord {
            owner: self.next_owner,
            first: self.number_floor + 1,
        };
        self.place_owner(owner, name)
    }

    fn place_owner(&mut self, owner: OwnerRecord, name: Owner) -> Slot {
        self.last_owners.list = None;
        let state = OwnerState {
            owner,
            name,
            queue: Queue {
                head: owner.first,
                next: owner.first,
                ..Queue::default()
            },
            received: BTreeMap::new(),
            changed: false,
        };
        match self.free.pop() {
            Some(slot) => {
                if let Some(place) = self.slots.get_mut(slot as usize) {
                    *place = Some(state);
                }
                slot
            }
            None => {
                let slot = Slot::try_from(self.slots.len())
                    .expect("4 billion owners do not fit into memory");
                self.slots.push(Some(state));
                slot
            }
        }
    }

    fn drop_owner(&mut self, slot: Slot) {
        let Some(state) = self.slots.get_mut(slot as usize).and_then(Option::take) else {
            return;
        };
        self.free.push(slot);
        self.last_owners.list = None;
        self.number_floor = self.number_floor.max(state.queue.next);
        self.changed.dropped.push(state.owner.owner);
        for entry in &state.queue.entries {
            if entry.message_id != 0 {
                self.release(entry.message_id);
            }
        }
        for (_, entry) in state.queue.moved_from(0) {
            self.release(entry.message_id);
        }
    }

    fn slot_of(&self, owner: &Owner) -> Option<Slot> {
        match owner {
            Owner::Session(client_id) => self.sessions.get(&**client_id).copied(),
            Owner::Group { .. } => self.groups.get(owner).copied(),
        }
    }

    /// The owner's slot. A session has to be stored; a group is there as soon as it is to own something.
    fn slot_to_own(&mut self, owner: &Owner) -> Option<Slot> {
        if let Some(slot) = self.slot_of(owner) {
            return Some(slot);
        }
        let Owner::Group {
            share_name,
            topic_filter,
        } = owner
        else {
            return None;
        };
        let slot = self.create_owner(owner.clone());
        self.groups.insert(owner.clone(), slot);
        let key = record::group_key(share_name, topic_filter);
        let record = slot_ref(&self.slots, slot)?.owner;
        let range = self
            .changed
            .put(|arena| record::write_group(arena, &key, record));
        self.changed.groups.insert(key, Some(range));
        Some(slot)
    }

    fn session_mut(&mut self, client_id: &str) -> Option<(Slot, &mut OwnerState)> {
        let slot = *self.sessions.get(client_id)?;
        Some((slot, slot_mut(&mut self.slots, slot)?))
    }

    fn enqueue(&mut self, message: &crate::operation::StoredMessage, owners: &Arc<[OwnerEntry]>) {
        let message_id = message.message_id;
        self.message_id_max = self.message_id_max.max(message_id);
        if self.messages.contains(message_id) {
            self.enqueue_again(message_id, owners);
            return;
        }
        let mut listed = std::mem::take(&mut self.scratch);
        listed.clear();
        self.look_up(owners);
        for (owner, slot, index) in &self.last_owners.slots {
            if let Some(state) = slot_mut(&mut self.slots, *slot) {
                let number = state.queue.push(message_id);
                listed.push((*owner, *slot, number, *index));
            }
        }
        if !listed.is_empty() {
            let range = self.changed.put(|arena| {
                let rows = listed
                    .iter()
                    .map(|(owner, _, number, index)| (*owner, *number, &owners[*index]));
                record::write_message(arena, message, rows);
            });
            self.fresh.insert(message_id, range);
            let places = listed.iter().map(|(_, slot, number, _)| (*slot, *number));
            let held = Held::new(message_bytes(message), places);
            self.messages.insert(message_id, held);
        }
        self.scratch = listed;
    }

    /// Makes `last_owners` those of this list, by number.
    fn look_up(&mut self, owners: &Arc<[OwnerEntry]>) {
        let known = self.last_owners.list.as_ref();
        if known.is_some_and(|known| Arc::ptr_eq(known, owners)) {
            return;
        }
        let mut slots = std::mem::take(&mut self.last_owners.slots);
        slots.clear();
        for (index, entry) in owners.iter().enumerate() {
            if let Some(slot) = self.slot_to_own(&entry.owner)
                && let Some(state) = slot_ref(&self.slots, slot)
            {
                slots.push((state.owner.owner, slot, index));
            }
        }
        slots.sort_unstable();
        debug_assert!(
            slots.is_sorted_by(|a, b| a.0 < b.0),
            "an owner is listed twice"
        );
        self.last_owners = LastOwners {
            list: Some(Arc::clone(owners)),
            slots,
        };
    }

    /// More owners for a message that is stored already: entries with rows of their own, for its list is written.
    fn enqueue_again(&mut self, message_id: MessageId, owners: &[OwnerEntry]) {
        for entry in owners {
            let Some(slot) = self.slot_to_own(&entry.owner) else {
                continue;
            };
            if self.find(slot, message_id).is_some() {
                debug_assert!(false, "message {message_id} is queued twice for one owner");
                continue;
            }
            self.add_moved(slot, None, MovedRecord::new(message_id, entry, None));
            if let Some(held) = self.messages.get_mut(message_id) {
                held.share().owners += 1;
            }
        }
    }

    fn add_moved(&mut self, slot: Slot, number: Option<u64>, entry: MovedRecord) {
        let Some(state) = slot_mut(&mut self.slots, slot) else {
            return;
        };
        let queue = &mut state.queue;
        let number = number.unwrap_or_else(|| {
            queue.next += 1;
            queue.next - 1
        });
        if queue.entries.is_empty() {
            queue.head = queue.next;
        }
        let rare = queue.rare.get_or_insert_default();
        rare.moved_numbers.insert(entry.message_id, number);
        rare.moved.insert(number, entry);
        self.changed.moved.push((slot, number));
        self.changed.owner(slot, state);
    }

    /// Where a message that is waiting or sent stands in a queue.
    fn find(&self, slot: Slot, message_id: MessageId) -> Option<Found> {
        let queue = &slot_ref(&self.slots, slot)?.queue;
        // Queues are mostly worked off from the front.
        if let Some(first) = queue.entries.front()
            && first.message_id == message_id
        {
            return Some(Found::Listed(first.number));
        }
        if let Some(rare) = &queue.rare
            && let Some(number) = rare.moved_numbers.get(&message_id)
        {
            return Some(Found::Moved(*number));
        }
        let number = self.messages.get(message_id)?.number_of(slot)?;
        let entry = queue.entries.get(queue.position(number)?)?;
        (entry.message_id == message_id).then_some(Found::Listed(number))
    }

    fn assign_packet_id(&mut self, client_id: &str, message_id: MessageId, packet_id: u16) {
        assert!(packet_id != 0, "[MQTT-2.2.1-4] a packet id is not 0");
        let Some(slot) = self.sessions.get(client_id).copied() else {
            return;
        };
        let Some(Found::Listed(number) | Found::Moved(number)) = self.find(slot, message_id) else {
            return;
        };
        let Some(state) = slot_mut(&mut self.slots, slot) else {
            return;
        };
        let queue = &mut state.queue;
        queue.next_order += 1;
        let flight = FlightRecord {
            number,
            message_id,
            order: queue.next_order,
            packet_id,
            released: false,
        };
        if let Some(earlier) = queue.flights.insert(number, flight)
            && earlier.packet_id != packet_id
        {
            queue.packet_ids.remove(&earlier.packet_id);
        }
        let holder = queue.packet_ids.insert(packet_id, number);
        assert!(
            holder.is_none_or(|holder| holder == number),
            "packet id {packet_id} is in use"
        );
        self.changed.block(slot, number);
    }

    fn pubrec(&mut self, client_id: &str, packet_id: u16) {
        let Some((slot, state)) = self.session_mut(client_id) else {
            return;
        };
        let queue = &mut state.queue;
        let Some(number) = queue.packet_ids.get(&packet_id).copied() else {
            return;
        };
        let Some(flight) = queue.flights.get_mut(&number) else {
            return;
        };
        if flight.released {
            return;
        }
        queue.next_order += 1;
        flight.order = queue.next_order;
        flight.released = true;
        let message_id = flight.message_id;
        self.changed.block(slot, number);
        if let Some(found) = self.find(slot, message_id) {
            self.remove_entry(slot, found);
            self.release(message_id);
        }
        if let Some(state) = slot_mut(&mut self.slots, slot) {
            let rare = state.queue.rare.get_or_insert_default();
            rare.released.insert(message_id, number);
        }
    }

    fn dequeue(&mut self, owner: &Owner, message_id: MessageId) {
        let Some(slot) = self.slot_of(owner) else {
            return;
        };
        if let Some(found) = self.find(slot, message_id) {
            self.remove_entry(slot, found);
            self.end_flight(slot, found.number());
            self.release(message_id);
            return;
        }
        let Some(state) = slot_mut(&mut self.slots, slot) else {
            return;
        };
        let released = state
            .queue
            .rare
            .as_mut()
            .and_then(|rare| rare.released.remove(&message_id));
        if let Some(number) = released {
            self.end_flight(slot, number);
        }
    }

    fn transfer(&mut self, message_id: MessageId, from: &Owner, to: &OwnerEntry) {
        let Some(from_slot) = self.slot_of(from) else {
            return;
        };
        // What is past its PUBREC is not found: it stays with its session [MQTT-4.8.2-4].
        let Some(found) = self.find(from_slot, message_id) else {
            return;
        };
        // A session that is gone takes nothing.
        let Some(to_slot) = self.slot_to_own(&to.owner) else {
            return;
        };
        if from_slot != to_slot && self.find(to_slot, message_id).is_some() {
            debug_assert!(false, "message {message_id} is queued twice for one owner");
            return;
        }
        let left = self.remove_entry(from_slot, found);
        self.end_flight(from_slot, found.number());
        let (number, came_from) = match left.and_then(|left| left.came_from) {
            Some((origin, number)) if origin == to.owner => (Some(number), None),
            Some(origin) => (None, Some(origin)),
            None => (None, Some((from.clone(), found.number()))),
        };
        self.add_moved(to_slot, number, MovedRecord::new(message_id, to, came_from));
        if let Some(held) = self.messages.get_mut(message_id) {
            // As many owners as before, but not by the list alone.
            held.share();
        }
    }

    /// Takes the entry out of the queue, and leaves the message and the packet id.
    fn remove_entry(&mut self, slot: Slot, found: Found) -> Option<MovedRecord> {
        let state = slot_mut(&mut self.slots, slot)?;
        self.changed.owner(slot, state);
        match found {
            Found::Moved(number) => {
                self.changed.moved.push((slot, number));
                let rare = state.queue.rare.as_mut()?;
                let entry = rare.moved.remove(&number)?;
                rare.moved_numbers.remove(&entry.message_id);
                Some(entry)
            }
            Found::Listed(number) => {
                let changed = &mut self.changed;
                state
                    .queue
                    .finish(number, |block| changed.blocks.push((slot, block)));
                None
            }
        }
    }

    fn end_flight(&mut self, slot: Slot, number: u64) {
        let Some(state) = slot_mut(&mut self.slots, slot) else {
            return;
        };
        if let Some(flight) = state.queue.flights.remove(&number) {
            state.queue.packet_ids.remove(&flight.packet_id);
            self.changed.block(slot, number);
            self.changed.owner(slot, state);
        }
    }

    /// One owner does not need the message any more.
    fn release(&mut self, message_id: MessageId) {
        let Some(held) = self.messages.get_mut(message_id) else {
            debug_assert!(false, "a queued message is stored");
            return;
        };
        if let Held::Many(shared) = held {
            shared.owners -= 1;
            if shared.owners > 0 {
                return;
            }
        }
        self.messages.remove(message_id);
        // A message that comes and goes between two commits is never written.
        if self.fresh.remove(&message_id).is_none() {
            self.changed.removed.push(message_id);
        }
    }

    fn mark_received(&mut self, client_id: &str, packet_id: u16, received: bool) {
        let Some((slot, state)) = self.session_mut(client_id) else {
            return;
        };
        let [group, bit] = packet_id.to_be_bytes();
        let words = state.received.entry(group).or_default();
        let word = &mut words[usize::from(bit / 64)];
        let mask = 1 << (bit % 64);
        *word = if received {
            *word | mask
        } else {
            *word & !mask
        };
        if *words == [0; 4] {
            state.received.remove(&group);
        }
        if self.changed.received.last() != Some(&(slot, group)) {
            self.changed.received.push((slot, group));
        }
    }
}

#[derive(Clone, Copy)]
enum Found {
    Listed(u64),
    Moved(u64),
}

impl Found {
    fn number(self) -> u64 {
        match self {
            Self::Listed(number) | Self::Moved(number) => number,
        }
    }
}

impl Held {
    fn new(bytes: u32, listed: impl ExactSizeIterator<Item = (Slot, u64)>) -> Self {
        let mut listed: Vec<(Slot, u64)> = listed.collect();
        if let [(slot, number)] = listed.as_slice() {
            return Self::One {
                slot: *slot,
                bytes,
                number: *number,
            };
        }
        listed.sort_unstable();
        let owners = u32::try_from(listed.len()).expect("there are fewer owners than slots");
        Self::Many(Box::new(Shared {
            owners,
            bytes,
            listed: listed.into_boxed_slice(),
        }))
    }

    fn bytes(&self) -> u32 {
        match self {
            Self::One { bytes, .. } => *bytes,
            Self::Many(shared) => shared.bytes,
        }
    }

    fn number_of(&self, wanted: Slot) -> Option<u64> {
        match self {
            Self::One { slot, number, .. } => (*slot == wanted).then_some(*number),
            Self::Many(shared) => {
                let at = shared
                    .listed
                    .binary_search_by_key(&wanted, |(slot, _)| *slot);
                at.ok()
                    .and_then(|at| shared.listed.get(at))
                    .map(|(_, number)| *number)
            }
        }
    }

    fn share(&mut self) -> &mut Shared {
        if let Self::One {
            slot,
            bytes,
            number,
        } = *self
        {
            *self = Self::Many(Box::new(Shared {
                owners: 1,
                bytes,
                listed: Box::new([(slot, number)]),
            }));
        }
        match self {
            Self::Many(shared) => shared,
            Self::One { .. } => unreachable!("it was made one of many a line ago"),
        }
    }
}

impl MovedRecord {
    fn new(message_id: MessageId, to: &OwnerEntry, came_from: Option<(Owner, u64)>) -> Self {
        Self {
            message_id,
            qos: to.qos,
            retain: to.retain,
            subscription_identifiers: to.subscription_identifiers.clone(),
            came_from,
        }
    }
}

/// What the message's text counts for.
fn message_bytes(message: &crate::operation::StoredMessage) -> u32 {
    u32::try_from(message.text_bytes()).unwrap_or(u32::MAX)
}

fn slot_ref(slots: &[Option<OwnerState>], slot: Slot) -> Option<&OwnerState> {
    slots.get(slot as usize)?.as_ref()
}

fn slot_mut(slots: &mut [Option<OwnerState>], slot: Slot) -> Option<&mut OwnerState> {
    slots.get_mut(slot as usize)?.as_mut()
}

fn bits_of(group: u8, words: &[u64; 4]) -> impl Iterator<Item = u16> {
    (0..=u8::MAX)
        .filter(|bit| words[usize::from(bit / 64)] & (1 << (bit % 64)) != 0)
        .map(move |bit| u16::from_be_bytes([group, bit]))
}
