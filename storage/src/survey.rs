//! What the rows of a store mean to each other, and which of them do not fit: for whoever looks over a store, exports it, or saves
//! what is left of a damaged one.
//!
//! Comes in: all rows, from a database or from the pages of a damaged one ([`Survey::of`]). Goes out: counts, problems in
//! words, who owns a message, and for each row whether a store can be made with it ([`Survey::verdict`]). Unlike
//! `index`, it goes on behind what is wrong, and holds nothing for each message: who owns one is worked out from its own
//! list and from what its owners say of their numbers.

use std::collections::{BTreeMap, BTreeSet};

use hashbrown::HashMap;

use crate::error::StorageError;
use crate::operation::{ClockRecord, MessageId, Owner};
use crate::record::{
    self, BLOCK_NUMBERS, Broken, CursorRecord, FlightRecord, ListedOwner, MessageRow, MovedRecord,
    OwnerNumber, OwnerRecord, StoreRecord, Tag,
};
use crate::redb::RowSource;

/// Is told how far a long work has come.
pub trait Meter {
    /// A part of the work begins, of this many steps.
    fn begin(&mut self, work: &str, steps: u64);

    /// So many steps more are done.
    fn advance(&mut self, steps: u64);
}

/// Nobody looks.
impl Meter for () {
    fn begin(&mut self, _: &str, _: u64) {}

    fn advance(&mut self, _: u64) {}
}

/// How much of what is in a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    pub sessions: u64,
    pub subscriptions: u64,
    /// Share groups with a queue of their own.
    pub groups: u64,
    /// Messages that somebody is to get.
    pub messages: u64,
    /// Entries of queues; a message that two are to get counts twice.
    pub queued: u64,
    /// Entries that were sent and not acknowledged to the end.
    pub in_flight: u64,
    /// QoS 2 packet ids that were received and not released.
    pub received_qos2: u64,
    pub retained: u64,
}

/// What is wrong with a store, in words. Only the first ones are kept, all are counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems {
    pub first: Vec<String>,
    pub count: u64,
}

/// A store that was read once, from its first row to its last.
pub(crate) struct Survey {
    pub(crate) contents: Contents,
    pub(crate) problems: Problems,
    /// Rows that were looked at, and those of them that cannot stay, by table.
    pub(crate) rows: BTreeMap<Tag, u64>,
    pub(crate) bad: BTreeMap<Tag, u64>,
    /// Entries of whole rows whose message is not there, by table.
    pub(crate) dangling: BTreeMap<Tag, u64>,
    /// Messages that nobody is to get any more; the next start removes them.
    pub(crate) unneeded: u64,
    store: Option<StoreRecord>,
    owners: HashMap<OwnerNumber, Owned>,
    /// Entries that stand in no message's list, by message. Those are left that point to no message.
    moved: HashMap<MessageId, Vec<(OwnerNumber, u64)>>,
    /// What cannot stay of `moved` and of the flights.
    dropped_moved: BTreeSet<(OwnerNumber, u64)>,
    dropped_flights: BTreeSet<(OwnerNumber, u64)>,
    highest: Highest,
}

/// What is known of an owner.
#[derive(Debug)]
pub(crate) struct Owned {
    pub(crate) name: Owner,
    head: u64,
    /// Above every number that was given.
    pub(crate) next: u64,
    done: BTreeMap<u64, u64>,
    pub(crate) flights: BTreeMap<u64, FlightRecord>,
    packet_ids: BTreeSet<u16>,
    moved: BTreeMap<u64, MovedRecord>,
}

/// One queue that holds a message.
#[derive(Debug)]
pub(crate) struct Holder<'a> {
    pub(crate) owned: &'a Owned,
    pub(crate) entry: ListedOwner,
    pub(crate) came_from: Option<&'a (Owner, u64)>,
    pub(crate) flight: Option<FlightRecord>,
}

/// What becomes of a row in a store that is made from this one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Keep,
    Replace(Vec<u8>),
    Drop,
}

/// Above everything that was ever given, for a store whose own row is lost.
#[derive(Debug, Default)]
struct Highest {
    owner: OwnerNumber,
    number: u64,
    message_id: MessageId,
}

impl Survey {
    /// Reads everything. Ends only at what cannot be read at all.
    pub(crate) fn of(source: &dyn RowSource, meter: &mut dyn Meter) -> Result<Self, StorageError> {
        let mut survey = Self {
            contents: Contents::default(),
            problems: Problems::default(),
            rows: BTreeMap::new(),
            bad: BTreeMap::new(),
            dangling: BTreeMap::new(),
            unneeded: 0,
            store: None,
            owners: HashMap::new(),
            moved: HashMap::new(),
            dropped_moved: BTreeSet::new(),
            dropped_flights: BTreeSet::new(),
            highest: Highest::default(),
        };
        let mut steps = 0;
        for table in Tag::ALL {
            steps += source.rows(table)?.unwrap_or(0);
        }
        meter.begin("reading", steps);
        for table in Tag::ALL {
            let mut rows = 0;
            source.each(table, &mut |key, row| {
                rows += 1;
                meter.advance(1);
                if let Err(broken) = survey.take(table, key, row) {
                    survey.bad_row(table, key, &broken);
                }
                Ok(())
            })?;
            survey.rows.insert(table, rows);
            if let Some(expected) = source.rows(table)?
                && expected != rows
            {
                survey.problems.add(format!(
                    "{rows} rows of {} are there, {expected} were written",
                    table.name()
                ));
            }
        }
        survey.finish();
        Ok(survey)
    }

    pub(crate) fn clock(&self) -> Option<ClockRecord> {
        self.store.as_ref().and_then(|store| store.clock)
    }

    /// The row about the store, for one with what can stay of this one.
    pub(crate) fn store_record(&self) -> StoreRecord {
        let found = self.store.clone().unwrap_or_default();
        let places = self.owners.values().map(|owned| owned.next);
        let highest = &self.highest;
        StoreRecord {
            operations: found.operations,
            next_owner: found.next_owner.max(highest.owner),
            number_floor: match self.store {
                Some(_) => found.number_floor,
                None => places.max().unwrap_or(0).max(highest.number),
            },
            message_id_max: found.message_id_max.max(highest.message_id),
            clock: found.clock,
            messages: self.contents.messages,
            sessions: self.contents.sessions,
        }
    }

    pub(crate) fn owner(&self, owner: OwnerNumber) -> Option<&Owned> {
        self.owners.get(&owner)
    }

    /// The owners, sessions by client id before groups.
    pub(crate) fn owners(&self) -> Vec<(&Owner, OwnerNumber)> {
        let mut owners: Vec<(&Owner, OwnerNumber)> = Vec::with_capacity(self.owners.len());
        owners.extend(
            self.owners
                .iter()
                .map(|(number, owned)| (&owned.name, *number)),
        );
        owners.sort_unstable();
        owners
    }

    /// The queues that hold a message with this list, by the names of their owners.
    pub(crate) fn holders(
        &self,
        message_id: MessageId,
        listed: Vec<ListedOwner>,
    ) -> Vec<Holder<'_>> {
        let mut holders = Vec::with_capacity(listed.len());
        for entry in listed {
            if let Some(owned) = self.owners.get(&entry.owner)
                && !owned.is_done(entry.number)
            {
                let flight = self.flight(owned, entry.owner, entry.number);
                holders.push(Holder {
                    owned,
                    entry,
                    came_from: None,
                    flight,
                });
            }
        }
        for (owner, number) in self.moved.get(&message_id).into_iter().flatten() {
            if self.dropped_moved.contains(&(*owner, *number)) {
                continue;
            }
            let owned = self.owners.get(owner);
            if let Some((owned, moved)) =
                owned.and_then(|owned| Some((owned, owned.moved.get(number)?)))
            {
                holders.push(Holder {
                    owned,
                    entry: ListedOwner {
                        owner: *owner,
                        number: *number,
                        qos: moved.qos,
                        retain: moved.retain,
                        subscription_identifiers: moved.subscription_identifiers.clone(),
                    },
                    came_from: moved.came_from.as_ref(),
                    flight: self.flight(owned, *owner, *number),
                });
            }
        }
        holders.sort_unstable_by_key(|holder| &holder.owned.name);
        holders
    }

    /// What a store that is made from this one has in place of a row.
    pub(crate) fn verdict(&self, table: Tag, key: &[u8], row: &[u8]) -> Verdict {
        let keep = |keep| if keep { Verdict::Keep } else { Verdict::Drop };
        match table {
            // Its counts are new.
            Tag::Store => Verdict::Drop,
            Tag::Session => keep(record::read_session(key, row).is_ok_and(|(owner, _)| {
                let name = record::text(key).map(|client_id| Owner::Session(client_id.into()));
                name.is_ok_and(|name| self.is(owner.owner, &name))
            })),
            Tag::Group => keep(record::read_group(key, row).is_ok_and(|owner| {
                record::read_group_key(key).is_ok_and(|name| self.is(owner.owner, &name))
            })),
            Tag::Cursor => keep(
                read_number(key)
                    .and_then(|owner| CursorRecord::read(owner, row).map(|_| owner))
                    .is_ok_and(|owner| self.owners.contains_key(&owner)),
            ),
            Tag::Block => self.block_verdict(key, row),
            Tag::Moved => keep(
                MovedRecord::read(key, row).is_ok()
                    && record::read_owned_key(key).is_ok_and(|(owner, number)| {
                        self.owners.contains_key(&owner)
                            && !self.dropped_moved.contains(&(owner, number))
                    }),
            ),
            Tag::Received => keep(
                record::read_received(key, row).is_ok()
                    && record::read_owned_key(key).is_ok_and(|(owner, group)| {
                        group <= u64::from(u8::MAX) && self.owners.contains_key(&owner)
                    }),
            ),
            Tag::Subscription => keep(
                record::read_subscription(key, row).is_ok()
                    && record::read_owned_text_key(key)
                        .is_ok_and(|(owner, _)| self.owners.contains_key(&owner)),
            ),
            Tag::Retained => keep(record::read_retained(key, row).is_ok()),
            Tag::Message => keep(
                read_message(key, row)
                    .is_ok_and(|(message_id, listed)| !self.holders(message_id, listed).is_empty()),
            ),
        }
    }

    fn block_verdict(&self, key: &[u8], row: &[u8]) -> Verdict {
        let Ok((owner, block)) = read_block(key, row) else {
            return Verdict::Drop;
        };
        let Some(owned) = self.owners.get(&owner) else {
            return Verdict::Drop;
        };
        let stays = |flight: &&FlightRecord| {
            owned.flights.get(&flight.number) == Some(flight)
                && !self.dropped_flights.contains(&(owner, flight.number))
        };
        let flights: Vec<&FlightRecord> = block.flights.iter().filter(stays).collect();
        if flights.len() == block.flights.len() {
            return Verdict::Keep;
        }
        if flights.is_empty() && block.done == 0 {
            return Verdict::Drop;
        }
        let mut replaced = Vec::new();
        let flights = flights.iter().map(|flight| (&flight.number, *flight));
        record::write_block(&mut replaced, key, block.done, flights);
        Verdict::Replace(replaced)
    }

    fn take(&mut self, table: Tag, key: &[u8], row: &[u8]) -> Result<(), Broken> {
        match table {
            Tag::Store if key == record::STORE_KEY => {
                self.store = Some(StoreRecord::read(row)?);
                Ok(())
            }
            Tag::Store => Err(Broken("its key is unknown")),
            Tag::Session => {
                let (owner, _) = record::read_session(key, row)?;
                let name = Owner::Session(record::text(key)?.into());
                self.take_owner(owner, name)?;
                self.contents.sessions += 1;
                Ok(())
            }
            Tag::Group => {
                let owner = record::read_group(key, row)?;
                self.take_owner(owner, record::read_group_key(key)?)?;
                self.contents.groups += 1;
                Ok(())
            }
            Tag::Cursor => {
                let owner = read_number(key)?;
                let cursor = CursorRecord::read(owner, row)?;
                let owned = self.owned(owner)?;
                owned.head = owned.head.max(cursor.head);
                owned.next = owned.next.max(cursor.next);
                Ok(())
            }
            Tag::Block => self.take_block(key, row),
            Tag::Moved => self.take_moved(key, row),
            Tag::Received => {
                let (owner, group) = record::read_owned_key(key)?;
                u8::try_from(group).map_err(|_| Broken("its number is too large"))?;
                let packet_ids = record::read_received(key, row)?;
                self.owned(owner)?;
                let count: u32 = packet_ids.iter().map(|word| word.count_ones()).sum();
                self.contents.received_qos2 += u64::from(count);
                Ok(())
            }
            Tag::Subscription => {
                let (owner, _) = record::read_owned_text_key(key)?;
                record::read_subscription(key, row)?;
                self.owned(owner)?;
                self.contents.subscriptions += 1;
                Ok(())
            }
            Tag::Retained => {
                let message = record::read_retained(key, row)?;
                self.highest.message_id = self.highest.message_id.max(message.message_id);
                self.contents.retained += 1;
                Ok(())
            }
            Tag::Message => self.take_message(key, row),
        }
    }

    fn take_owner(&mut self, owner: OwnerRecord, name: Owner) -> Result<(), Broken> {
        self.highest.owner = self.highest.owner.max(owner.owner);
        if self
            .store
            .as_ref()
            .is_some_and(|store| owner.owner > store.next_owner)
        {
            return Err(Broken("its owner number was never given"));
        }
        let owned = Owned {
            name,
            head: owner.first,
            next: owner.first,
            done: BTreeMap::new(),
            flights: BTreeMap::new(),
            packet_ids: BTreeSet::new(),
            moved: BTreeMap::new(),
        };
        if self.owners.contains_key(&owner.owner) {
            return Err(Broken("its owner number is another's"));
        }
        self.owners.insert(owner.owner, owned);
        Ok(())
    }

    fn owned(&mut self, owner: OwnerNumber) -> Result<&mut Owned, Broken> {
        self.highest.owner = self.highest.owner.max(owner);
        self.owners
            .get_mut(&owner)
            .ok_or(Broken("its owner is not there"))
    }

    fn take_block(&mut self, key: &[u8], row: &[u8]) -> Result<(), Broken> {
        let (owner, block) = read_block(key, row)?;
        let (_, number) = record::read_owned_key(key)?;
        let block_flights = block.flights.len();
        let owned = self.owned(owner)?;
        if block.done != 0 {
            owned.done.insert(number, block.done);
            owned.saw(number * BLOCK_NUMBERS + u64::from(block.done.ilog2()));
        }
        let mut twice = Vec::new();
        let mut sent = Vec::new();
        for flight in block.flights {
            owned.saw(flight.number);
            if !owned.packet_ids.insert(flight.packet_id) {
                twice.push(flight.packet_id);
                continue;
            }
            owned.flights.insert(flight.number, flight);
            if !flight.released {
                sent.push((owner, flight.number));
            }
        }
        self.contents.in_flight += (block_flights - sent.len() - twice.len()) as u64;
        // Until their messages are found.
        self.dropped_flights.extend(sent);
        for packet_id in twice {
            let whose = self.name_of(owner);
            self.problems
                .add(format!("packet id {packet_id} of {whose} is in use twice"));
            *self.dangling.entry(Tag::Block).or_default() += 1;
        }
        Ok(())
    }

    fn take_moved(&mut self, key: &[u8], row: &[u8]) -> Result<(), Broken> {
        let (owner, number) = record::read_owned_key(key)?;
        let moved = MovedRecord::read(key, row)?;
        let message_id = moved.message_id;
        if let Some((_, number)) = &moved.came_from {
            self.highest.number = self.highest.number.max(*number);
        }
        let owned = self.owned(owner)?;
        owned.saw(number);
        owned.moved.insert(number, moved);
        self.moved
            .entry(message_id)
            .or_default()
            .push((owner, number));
        // Until its message is found.
        self.dropped_moved.insert((owner, number));
        Ok(())
    }

    fn take_message(&mut self, key: &[u8], row: &[u8]) -> Result<(), Broken> {
        let (message_id, listed) = read_message(key, row)?;
        self.highest.message_id = self.highest.message_id.max(message_id);
        let mut holders = Vec::with_capacity(listed.len());
        for entry in listed {
            self.highest.owner = self.highest.owner.max(entry.owner);
            let Some(owned) = self.owners.get_mut(&entry.owner) else {
                continue;
            };
            owned.saw(entry.number);
            if !owned.is_done(entry.number) {
                holders.push((entry.owner, entry.number));
            }
        }
        for place in self.moved.get(&message_id).cloned().unwrap_or_default() {
            if holders.iter().any(|(owner, _)| *owner == place.0) {
                // Its row stays among those that are dropped: no queue holds a message twice.
                let whose = self.name_of(place.0);
                let twice = format!("message {message_id} is in the queue of {whose} twice");
                self.problems.add(twice);
                continue;
            }
            self.dropped_moved.remove(&place);
            holders.push(place);
        }
        for (owner, number) in &holders {
            let owned = self.owners.get(owner);
            if let Some(flight) = owned.and_then(|owned| owned.flights.get(number))
                && flight.message_id == message_id
                && self.dropped_flights.remove(&(*owner, *number))
            {
                self.contents.in_flight += 1;
            }
        }
        if holders.is_empty() {
            self.unneeded += 1;
        } else {
            self.contents.messages += 1;
            self.contents.queued += holders.len() as u64;
        }
        Ok(())
    }

    fn finish(&mut self) {
        match &self.store {
            None => self
                .problems
                .add("the row about the store cannot be read".into()),
            Some(store) => {
                for (what, found, written) in [
                    ("messages", self.contents.messages, store.messages),
                    ("sessions", self.contents.sessions, store.sessions),
                ] {
                    if found != written {
                        self.problems
                            .add(format!("{written} {what} were stored, {found} are found"));
                    }
                }
            }
        }
        let mut dangling = Vec::new();
        for (table, places) in [
            (Tag::Moved, &self.dropped_moved),
            (Tag::Block, &self.dropped_flights),
        ] {
            for (owner, number) in places {
                let owned = self.owners.get(owner);
                let message_id = owned.and_then(|owned| match table {
                    Tag::Moved => owned.moved.get(number).map(|moved| moved.message_id),
                    _ => owned.flights.get(number).map(|flight| flight.message_id),
                });
                dangling.push((table, *owner, message_id.unwrap_or_default()));
            }
        }
        for (table, owner, message_id) in dangling {
            let whose = self.name_of(owner);
            let how = if table == Tag::Moved {
                "is queued for"
            } else {
                "was sent to"
            };
            self.problems.add(format!(
                "message {message_id} {how} {whose} and is not there"
            ));
            *self.dangling.entry(table).or_default() += 1;
        }
    }

    fn bad_row(&mut self, table: Tag, key: &[u8], broken: &Broken) {
        *self.bad.entry(table).or_default() += 1;
        let key = match table {
            Tag::Cursor | Tag::Message => {
                read_number(key).map_or_else(|_| "?".into(), |number| number.to_string())
            }
            _ => key.escape_ascii().to_string(),
        };
        self.problems
            .add(format!("row {key} of {}: {broken}", table.name()));
    }

    fn flight(&self, owned: &Owned, owner: OwnerNumber, number: u64) -> Option<FlightRecord> {
        let flight = owned.flights.get(&number).copied()?;
        (!flight.released && !self.dropped_flights.contains(&(owner, number))).then_some(flight)
    }

    fn is(&self, owner: OwnerNumber, name: &Owner) -> bool {
        self.owners
            .get(&owner)
            .is_some_and(|owned| owned.name == *name)
    }

    fn name_of(&self, owner: OwnerNumber) -> String {
        match self.owners.get(&owner).map(|owned| &owned.name) {
            Some(Owner::Session(client_id)) => format!("{client_id:?}"),
            Some(Owner::Group {
                share_name,
                topic_filter,
            }) => format!("group {share_name:?} of {topic_filter:?}"),
            None => format!("owner {owner}"),
        }
    }
}

impl Owned {
    fn is_done(&self, number: u64) -> bool {
        let block = self.done.get(&(number / BLOCK_NUMBERS));
        number < self.head || block.is_some_and(|bits| bits & (1 << (number % BLOCK_NUMBERS)) != 0)
    }

    fn saw(&mut self, number: u64) {
        self.next = self.next.max(number.saturating_add(1));
    }
}

impl Problems {
    pub(crate) fn extend(&mut self, others: Self) {
        self.count += others.count;
        let room = PROBLEMS_KEPT.saturating_sub(self.first.len());
        self.first.extend(others.first.into_iter().take(room));
    }

    pub(crate) fn add(&mut self, problem: String) {
        self.count += 1;
        if self.first.len() < PROBLEMS_KEPT {
            self.first.push(problem);
        }
    }
}

pub(crate) fn read_number(key: &[u8]) -> Result<u64, Broken> {
    let number = <[u8; 8]>::try_from(key).map_err(|_| Broken("its key is not a number"))?;
    Ok(u64::from_be_bytes(number))
}

/// A message's id and its list. The message is read to its end, too.
fn read_message(key: &[u8], row: &[u8]) -> Result<(MessageId, Vec<ListedOwner>), Broken> {
    let message_id = read_number(key)?;
    let (listed, _) = MessageRow::open(message_id, row)?.read()?;
    Ok((message_id, listed))
}

fn read_block(key: &[u8], row: &[u8]) -> Result<(OwnerNumber, record::BlockRecord), Broken> {
    let (owner, number) = record::read_owned_key(key)?;
    let first = number
        .checked_mul(BLOCK_NUMBERS)
        .filter(|first| first.checked_add(BLOCK_NUMBERS).is_some());
    let first = first.ok_or(Broken("its number is too large"))?;
    Ok((owner, record::read_block(key, row, first)?))
}

/// Problems whose words are kept.
const PROBLEMS_KEPT: usize = 100;
