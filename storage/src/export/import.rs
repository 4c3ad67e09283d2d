//! A new store from the lines of an export.
//!
//! Comes in: lines. Goes out: a store with everything they say, or the first line that cannot be taken and why; nothing in
//! between, for the file gets its name last. Lines are read one by one: what is held in memory is the owners, and what is
//! in flight or was moved.

use std::collections::BTreeMap;
use std::io::{BufRead, Read};
use std::path::Path;

use hashbrown::{HashMap, HashSet};
use nightjar_codec::topic::{
    TopicError, parse_shared, validate_client_id, validate_topic_filter, validate_topic_name,
};
use nightjar_codec::{Limits, Packet, ProtocolVersion, RetainHandling};

use super::VERSION;
use super::line::{
    Encoded, Group, Header, Line, Message, Queued, Released, Retained, Session, Subscription,
};
use crate::closed::{ClosedStore, NewFile};
use crate::disk::Directory;
use crate::error::StorageError;
use crate::operation::{
    ClockRecord, Owner, OwnerEntry, SessionRecord, StoredMessage, SubscriptionRecord, WillRecord,
};
use crate::record::{
    self, BLOCK_NUMBERS, CursorRecord, FlightRecord, MovedRecord, OwnerNumber, OwnerRecord,
    StoreRecord, Tag,
};
use crate::redb::{RowWriter, build};
use crate::survey::{Contents, Meter};

impl ClosedStore {
    /// Makes a store of the lines of an export. A store that is there already must hold nothing.
    pub fn import(
        data: &Path,
        input: &mut dyn BufRead,
        meter: &mut dyn Meter,
    ) -> Result<Contents, StorageError> {
        let file = Directory::file_in(data);
        let _locked = Directory::lock(data)?;
        match Self::at(&file) {
            Err(StorageError::Missing { .. }) => {}
            Err(error) => return Err(error),
            Ok(store) => {
                if store.check(meter)?.contents != Contents::default() {
                    return Err(StorageError::Exists {
                        path: file.display().to_string().into(),
                    });
                }
            }
        }
        let new = NewFile::in_place_of(&file);
        meter.begin("importing", 0);
        build(&new, |writer| Import::default().read(input, writer, meter))?;
        new.finish(meter)
    }
}

/// What has been read so far.
#[derive(Default)]
struct Import {
    store: StoreRecord,
    owners: HashMap<Owner, OwnerNumber>,
    cursors: BTreeMap<OwnerNumber, Cursor>,
    flights: BTreeMap<(OwnerNumber, u64), FlightRecord>,
    moved: BTreeMap<(OwnerNumber, u64), MovedRecord>,
    /// Places that are taken, 64 to a word.
    places: HashMap<(OwnerNumber, u64), u64>,
    packet_ids: HashSet<(OwnerNumber, u16)>,
    orders: HashSet<(OwnerNumber, u64)>,
    /// Where in the order of lines this one is.
    part: Part,
    last_text: Option<Box<str>>,
    last_group: Option<Owner>,
    last_message: u64,
    /// The session that subscriptions may belong to.
    session: Option<(Box<str>, OwnerNumber)>,
    row: Vec<u8>,
}

struct Cursor {
    first: u64,
    next: u64,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    #[default]
    Start,
    Sessions,
    Groups,
    Messages,
    Retained,
    End,
}

/// What is wrong with a line.
enum Bad {
    Line(Box<str>),
    Store(StorageError),
}

impl Import {
    fn read(
        mut self,
        input: &mut dyn BufRead,
        writer: &mut RowWriter<'_>,
        meter: &mut dyn Meter,
    ) -> Result<(), StorageError> {
        let mut text = Vec::new();
        let mut number = 0;
        let bad = |number, what: &str| StorageError::Line {
            number,
            what: what.into(),
        };
        loop {
            text.clear();
            let read = (&mut *input)
                .take(LINE_BYTES_MAX)
                .read_until(b'\n', &mut text)
                .map_err(|error| bad(number + 1, &error.to_string()))?;
            if read == 0 {
                break;
            }
            number += 1;
            meter.advance(1);
            if self.part == Part::End {
                return Err(bad(number, "there is something behind the end"));
            }
            if text.last() != Some(&b'\n') && read as u64 == LINE_BYTES_MAX {
                return Err(bad(number, "it is longer than any record"));
            }
            let line = serde_json::from_slice(&text)
                .map_err(|error| bad(number, &without_line(&error)))?;
            self.take(line, number, writer)
                .map_err(|error| match error {
                    Bad::Line(what) => bad(number, &what),
                    Bad::Store(error) => error,
                })?;
        }
        if self.part != Part::End {
            return Err(bad(
                number + 1,
                "the end is missing: the file was cut short",
            ));
        }
        self.finish(writer)
    }

    fn take(&mut self, line: Line, number: u64, writer: &mut RowWriter<'_>) -> Result<(), Bad> {
        match line {
            Line::NightjarExport(header) if self.part == Part::Start => self.header(&header),
            _ if self.part == Part::Start => {
                Err(bad("the first line must be that of type nightjar_export"))
            }
            Line::NightjarExport(_) => Err(bad("a second nightjar_export")),
            Line::Session(line) => {
                self.enter(Part::Sessions)?;
                self.session(*line, writer)
            }
            Line::Subscription(line) => {
                self.enter(Part::Sessions)?;
                self.subscription(&line, writer)
            }
            Line::Group(line) => {
                self.enter(Part::Groups)?;
                self.group(line, writer)
            }
            Line::Message(line) => {
                self.enter(Part::Messages)?;
                self.message(*line, writer)
            }
            Line::Retained(line) => {
                self.enter(Part::Retained)?;
                self.retained(*line, writer)
            }
            Line::End(end) if end.lines == number - 1 => self.enter(Part::End),
            Line::End(end) => Err(bad(&format!(
                "{} lines were written before this one, {} are there",
                end.lines,
                number - 1
            ))),
        }
    }

    fn enter(&mut self, part: Part) -> Result<(), Bad> {
        if part < self.part {
            return Err(bad(
                "it comes too late: sessions and their subscriptions, groups, messages, retained, end",
            ));
        }
        if part > self.part {
            self.last_text = None;
            self.part = part;
        }
        Ok(())
    }

    /// Lines of one part come in the order of their text.
    fn ascends(&mut self, text: &str, otherwise: &str) -> Result<(), Bad> {
        if self.last_text.as_deref().is_some_and(|last| *last >= *text) {
            return Err(bad(otherwise));
        }
        self.last_text = Some(text.into());
        Ok(())
    }

    fn header(&mut self, header: &Header) -> Result<(), Bad> {
        if header.version != VERSION {
            return Err(bad(&format!(
                "it is version {} of the format, and this program reads version {VERSION}",
                header.version
            )));
        }
        self.store.clock = header
            .wall_clock
            .map(|wall| ClockRecord { broker: wall, wall });
        self.store.message_id_max = header.message_id_max;
        self.store.number_floor = place(header.place_floor)?;
        self.part = Part::Sessions;
        Ok(())
    }

    fn session(&mut self, line: Session, writer: &mut RowWriter<'_>) -> Result<(), Bad> {
        validate_client_id(&line.client_id).map_err(|error| topic_error("client_id", &error))?;
        let client_id = line.client_id.clone();
        let last = self.session.as_ref();
        if last.is_some_and(|(last, _)| *last >= client_id) {
            return Err(bad("sessions must be there once, by ascending client_id"));
        }
        let protocol_version = match line.protocol_version {
            3 => ProtocolVersion::V3_1,
            4 => ProtocolVersion::V3_1_1,
            5 => ProtocolVersion::V5,
            other => return Err(bad(&format!("{other} is no protocol_version"))),
        };
        let owner = self.new_owner(Owner::session(&client_id), line.next_place)?;
        let will = match line.will {
            None => None,
            Some(will) => {
                validate_topic_name(&will.topic).map_err(|error| topic_error("topic", &error))?;
                Some(WillRecord {
                    topic: will.topic,
                    payload: will.payload.0,
                    properties: properties(will.properties)?,
                    qos: will.qos.0,
                    retain: will.retain,
                    message_expiry_interval: will.message_expiry_interval,
                    delay: will.will_delay_interval,
                    fires_at: will.publish_at,
                })
            }
        };
        let session = SessionRecord {
            protocol_version,
            session_expiry_interval: line.session_expiry_interval,
            expires_at: line.expires_at,
            will,
            user: line.user,
        };
        self.row.clear();
        record::write_session(&mut self.row, client_id.as_bytes(), owner, &session);
        writer.put(Tag::Session, client_id.as_bytes(), &self.row)?;
        self.store.sessions += 1;
        self.session = Some((client_id, owner.owner));
        self.last_text = None;
        self.received(owner.owner, line.received_packet_ids, writer)?;
        for released in line.released {
            self.released(owner.owner, &released)?;
        }
        Ok(())
    }

    fn received(
        &mut self,
        owner: OwnerNumber,
        packet_ids: Vec<u16>,
        writer: &mut RowWriter<'_>,
    ) -> Result<(), Bad> {
        let mut groups: BTreeMap<u8, [u64; 4]> = BTreeMap::new();
        for packet_id in packet_ids {
            let [group, bit] = packet_id.to_be_bytes();
            let words = groups.entry(group).or_default();
            let word = words.get_mut(usize::from(bit / 64));
            let word = word.filter(|word| packet_id != 0 && **word & (1 << (bit % 64)) == 0);
            *word.ok_or_else(|| bad(&format!("packet id {packet_id} is 0 or there twice")))? |=
                1 << (bit % 64);
        }
        for (group, words) in groups {
            let key = record::owned_key(owner, u64::from(group));
            self.row.clear();
            record::write_received(&mut self.row, &key, &words);
            writer.put(Tag::Received, &key, &self.row)?;
        }
        Ok(())
    }

    fn released(&mut self, owner: OwnerNumber, line: &Released) -> Result<(), Bad> {
        self.take_place(owner, line.place)?;
        self.flight(
            FlightRecord {
                number: line.place,
                message_id: line.message_id,
                order: line.order,
                packet_id: line.packet_id,
                released: true,
            },
            owner,
        )
    }

    fn flight(&mut self, flight: FlightRecord, owner: OwnerNumber) -> Result<(), Bad> {
        if flight.packet_id == 0 || !self.packet_ids.insert((owner, flight.packet_id)) {
            return Err(bad(&format!(
                "packet id {} is 0 or in use twice",
                flight.packet_id
            )));
        }
        if !self.orders.insert((owner, flight.order)) {
            return Err(bad("two messages of one session have the same order"));
        }
        self.flights.insert((owner, flight.number), flight);
        Ok(())
    }

    fn subscription(&mut self, line: &Subscription, writer: &mut RowWriter<'_>) -> Result<(), Bad> {
        let Some((client_id, owner)) = &self.session else {
            return Err(bad("a subscription must come behind its session"));
        };
        if *client_id != line.client_id {
            return Err(bad("a subscription must come behind its session"));
        }
        let owner = *owner;
        validate_topic_filter(&line.topic_filter)
            .and_then(|()| parse_shared(&line.topic_filter).map(drop))
            .map_err(|error| topic_error("topic_filter", &error))?;
        self.ascends(
            &line.topic_filter,
            "subscriptions of a session must be there once, by ascending topic_filter",
        )?;
        let subscription = SubscriptionRecord {
            qos: line.qos.0,
            no_local: line.no_local,
            retain_as_published: line.retain_as_published,
            retain_handling: match line.retain_handling {
                0 => RetainHandling::Send,
                1 => RetainHandling::SendIfNew,
                2 => RetainHandling::DoNotSend,
                other => return Err(bad(&format!("{other} is no retain_handling"))),
            },
            subscription_identifier: line.subscription_identifier,
        };
        identifiers(subscription.subscription_identifier.as_slice())?;
        let key = record::owned_text_key(owner, &line.topic_filter);
        self.row.clear();
        record::write_subscription(&mut self.row, &key, &subscription);
        writer.put(Tag::Subscription, &key, &self.row)?;
        Ok(())
    }

    fn group(&mut self, line: Group, writer: &mut RowWriter<'_>) -> Result<(), Bad> {
        let shared = format!("$share/{}/{}", line.share_name, line.topic_filter);
        match parse_shared(&shared) {
            Ok(Some((share_name, _))) if share_name == &*line.share_name => {}
            _ => return Err(bad("share_name or topic_filter cannot be")),
        }
        let name = Owner::group(&line.share_name, &line.topic_filter);
        if self.last_group.as_ref().is_some_and(|last| *last >= name) {
            return Err(bad(
                "groups must be there once, by ascending share_name and topic_filter",
            ));
        }
        self.last_group = Some(name.clone());
        let owner = self.new_owner(name, line.next_place)?;
        let key = record::group_key(&line.share_name, &line.topic_filter);
        self.row.clear();
        record::write_group(&mut self.row, &key, owner);
        writer.put(Tag::Group, &key, &self.row)?;
        Ok(())
    }

    fn message(&mut self, line: Message, writer: &mut RowWriter<'_>) -> Result<(), Bad> {
        let message_id = line.message_id;
        if message_id <= self.last_message {
            return Err(bad(
                "messages must be there once, by ascending message_id above 0",
            ));
        }
        self.last_message = message_id;
        if line.queues.is_empty() {
            return Err(bad("no queue holds the message"));
        }
        validate_topic_name(&line.topic).map_err(|error| topic_error("topic", &error))?;
        let message = StoredMessage {
            message_id,
            topic: line.topic,
            payload: line.payload.0,
            properties: properties(line.properties)?,
            qos: line.qos.0,
            retain: line.retain,
            expires_at: line.expires_at,
            sequence: line.retain_sequence,
            publisher: line.publisher,
            publisher_user: line.publisher_user,
        };
        let mut holders = HashSet::new();
        let mut listed: Vec<(OwnerNumber, u64, OwnerEntry)> = Vec::new();
        for queued in line.queues {
            let (owner, number, entry, came_from) = self.queued(message_id, queued)?;
            if !holders.insert(owner) {
                return Err(bad("a queue holds the message twice"));
            }
            if let Some((origin, place)) = came_from {
                let moved = MovedRecord {
                    message_id,
                    qos: entry.qos,
                    retain: entry.retain,
                    subscription_identifiers: entry.subscription_identifiers,
                    came_from: Some((origin, place)),
                };
                self.moved.insert((owner, number), moved);
                continue;
            }
            if let Some(cursor) = self.cursors.get_mut(&owner) {
                cursor.first = cursor.first.min(number);
            }
            listed.push((owner, number, entry));
        }
        listed.sort_unstable_by_key(|(owner, _, _)| *owner);
        let rows = listed
            .iter()
            .map(|(owner, number, entry)| (*owner, *number, entry));
        self.row.clear();
        record::write_message(&mut self.row, &message, rows);
        writer.put(Tag::Message, &message_id.to_be_bytes(), &self.row)?;
        self.store.messages += 1;
        self.store.message_id_max = self.store.message_id_max.max(message_id);
        Ok(())
    }

    /// One queue's entry: whose it is, its place, its options, and where it came from.
    #[allow(clippy::type_complexity)]
    fn queued(
        &mut self,
        message_id: u64,
        line: Queued,
    ) -> Result<(OwnerNumber, u64, OwnerEntry, Option<(Owner, u64)>), Bad> {
        let name = Owner::from(line.owner);
        let owner = *self
            .owners
            .get(&name)
            .ok_or_else(|| bad("a queue that holds the message has no session or group line"))?;
        self.take_place(owner, line.place)?;
        identifiers(&line.subscription_identifiers)?;
        if let Some(sent) = line.sent {
            if matches!(name, Owner::Group { .. }) {
                return Err(bad("a group sends nothing itself"));
            }
            self.flight(
                FlightRecord {
                    number: line.place,
                    message_id,
                    order: sent.order,
                    packet_id: sent.packet_id,
                    released: false,
                },
                owner,
            )?;
        }
        let came_from = match line.came_from {
            None => None,
            Some(came_from) => Some((came_from.owner.into(), place(came_from.place)?)),
        };
        let entry = OwnerEntry {
            owner: name,
            qos: line.qos.0,
            retain: line.retain,
            subscription_identifiers: line.subscription_identifiers,
        };
        Ok((owner, line.place, entry, came_from))
    }

    fn retained(&mut self, line: Retained, writer: &mut RowWriter<'_>) -> Result<(), Bad> {
        validate_topic_name(&line.topic).map_err(|error| topic_error("topic", &error))?;
        self.ascends(
            &line.topic,
            "retained messages must be there once, by ascending topic",
        )?;
        let message = StoredMessage {
            message_id: line.message_id,
            topic: line.topic,
            payload: line.payload.0,
            properties: properties(line.properties)?,
            qos: line.qos.0,
            retain: line.retain,
            expires_at: line.expires_at,
            sequence: line.retain_sequence,
            publisher: line.publisher,
            publisher_user: line.publisher_user,
        };
        self.store.message_id_max = self.store.message_id_max.max(message.message_id);
        self.row.clear();
        record::write_retained(&mut self.row, &message);
        writer.put(Tag::Retained, message.topic.as_bytes(), &self.row)?;
        Ok(())
    }

    fn new_owner(&mut self, name: Owner, next_place: u64) -> Result<OwnerRecord, Bad> {
        let next = place(next_place)?.max(1);
        self.store.next_owner += 1;
        let owner = self.store.next_owner;
        self.owners.insert(name, owner);
        self.cursors.insert(owner, Cursor { first: next, next });
        Ok(OwnerRecord { owner, first: 1 })
    }

    fn take_place(&mut self, owner: OwnerNumber, number: u64) -> Result<(), Bad> {
        let next = self.cursors.get(&owner).map_or(0, |cursor| cursor.next);
        if number == 0 || number >= next {
            return Err(bad(&format!(
                "place {number} is not between 0 and next_place {next}"
            )));
        }
        let word = self.places.entry((owner, number / 64)).or_default();
        if *word & (1 << (number % 64)) != 0 {
            return Err(bad(&format!("place {number} of a queue is taken twice")));
        }
        *word |= 1 << (number % 64);
        Ok(())
    }

    /// The rows that need all lines.
    fn finish(mut self, writer: &mut RowWriter<'_>) -> Result<(), StorageError> {
        for (owner, cursor) in &self.cursors {
            self.row.clear();
            let record = CursorRecord {
                head: cursor.first,
                next: cursor.next,
            };
            record.write(&mut self.row, *owner);
            writer.put(Tag::Cursor, &owner.to_be_bytes(), &self.row)?;
        }
        let mut blocks: BTreeMap<(OwnerNumber, u64), BTreeMap<u64, FlightRecord>> = BTreeMap::new();
        for ((owner, number), flight) in self.flights {
            let block = blocks.entry((owner, number / BLOCK_NUMBERS)).or_default();
            block.insert(number, flight);
        }
        for ((owner, block), flights) in blocks {
            let key = record::owned_key(owner, block);
            self.row.clear();
            record::write_block(&mut self.row, &key, 0, flights.iter());
            writer.put(Tag::Block, &key, &self.row)?;
        }
        for ((owner, number), moved) in self.moved {
            let key = record::owned_key(owner, number);
            self.row.clear();
            moved.write(&mut self.row, &key);
            writer.put(Tag::Moved, &key, &self.row)?;
        }
        self.row.clear();
        self.store.write(&mut self.row);
        writer.put(Tag::Store, record::STORE_KEY, &self.row)
    }
}

impl From<StorageError> for Bad {
    fn from(error: StorageError) -> Self {
        Self::Store(error)
    }
}

fn bad(what: &str) -> Bad {
    Bad::Line(what.into())
}

fn topic_error(field: &str, error: &TopicError) -> Bad {
    bad(&format!("{field}: {error}"))
}

/// A place, or a bound of places: with room for all that will ever come.
fn place(number: u64) -> Result<u64, Bad> {
    if number > PLACE_MAX {
        return Err(bad(&format!("{number} is no place in a queue")));
    }
    Ok(number)
}

fn identifiers(identifiers: &[u32]) -> Result<(), Bad> {
    match identifiers
        .iter()
        .find(|id| !(1..=IDENTIFIER_MAX).contains(*id))
    {
        None => Ok(()),
        Some(wrong) => Err(bad(&format!("{wrong} is no subscription identifier"))),
    }
}

/// Properties that are sent to subscribers as they are, so they must be what a publisher may send.
fn properties(encoded: Encoded) -> Result<bytes::Bytes, Bad> {
    let properties = encoded.0;
    if properties.is_empty() {
        return Ok(properties);
    }
    let mut packet = vec![0, 1, b't'];
    put_length(&mut packet, properties.len());
    packet.extend_from_slice(&properties);
    let mut whole = vec![0x30];
    put_length(&mut whole, packet.len());
    whole.append(&mut packet);
    let limits = Limits {
        packet_size_max: u32::MAX,
        user_properties_max: u16::MAX,
        topic_levels_max: u16::MAX,
        topic_filters_max: u16::MAX,
    };
    match nightjar_codec::packet::decode(&whole, ProtocolVersion::V5, &limits) {
        Ok(Packet::Publish(publish))
            if publish.properties.topic_alias.is_none()
                && publish.properties.message_expiry_interval.is_none()
                && publish.properties.subscription_identifiers.is_empty() =>
        {
            Ok(properties)
        }
        Ok(_) => Err(bad(
            "properties: no topic alias, message expiry interval or subscription identifier",
        )),
        Err(error) => Err(bad(&format!("properties: {error}"))),
    }
}

fn put_length(out: &mut Vec<u8>, mut length: usize) {
    while length >= 0x80 {
        out.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
}

/// The line is known better here.
fn without_line(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let at = text.rfind(" at line ");
    let column = error.column();
    match at.and_then(|at| text.get(..at)) {
        Some(text) if column > 0 => format!("{text} at column {column}"),
        Some(text) => text.to_owned(),
        None => text,
    }
}

/// More than the largest message takes with its payload in base64.
const LINE_BYTES_MAX: u64 = 512 << 20;
/// A queue that gets a million messages a second is here after 292,000 years.
const PLACE_MAX: u64 = u64::MAX / 2;
const IDENTIFIER_MAX: u32 = 268_435_455;
