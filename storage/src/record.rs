//! The bytes of every record in the store. `docs/storage-format.md` draws them.
//!
//! Comes in: plain values, or bytes that may have been damaged. Goes out: bytes, or values that are exactly what was
//! written. It knows nothing of files, tables or transactions.
//!
//! ```text
//! every record:  version (1 byte) | fields | CRC-32 (4 bytes, little-endian)
//! ```
//! The checksum covers the table, the key, the version and the fields, so that a record that turns up under another key
//! is found out too. The database below checks its pages only when it repairs, not when it reads.

mod tag;

use std::fmt;

use bytes::Bytes;
use nightjar_codec::{ProtocolVersion, QoS, RetainHandling};

use crate::operation::{
    ClockRecord, MessageId, Owner, OwnerEntry, SessionRecord, StoredMessage, SubscriptionRecord,
    WillRecord,
};

pub(crate) use self::tag::Tag;

/// Names an owner in keys and in lists of owners; never given twice.
pub(crate) type OwnerNumber = u64;

/// The one record about the store as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StoreRecord {
    /// Operations since the journal began, those included that a restart has skipped.
    pub(crate) operations: u64,
    pub(crate) next_owner: OwnerNumber,
    /// No owner that is created from here on uses a number up to this one.
    pub(crate) number_floor: u64,
    pub(crate) message_id_max: MessageId,
    pub(crate) clock: Option<ClockRecord>,
    pub(crate) messages: u64,
    pub(crate) sessions: u64,
}

/// Who an owner is in the store: its number, and the first number of its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OwnerRecord {
    pub(crate) owner: OwnerNumber,
    pub(crate) first: u64,
}

/// How far an owner has come. Below `head` everything is done that is listed in messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CursorRecord {
    pub(crate) head: u64,
    pub(crate) next: u64,
}

/// What is out of the ordinary in 64 consecutive numbers of one queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BlockRecord {
    /// Bit n: the n-th number is done.
    pub(crate) done: u64,
    pub(crate) flights: Vec<FlightRecord>,
}

/// A message that was sent, or is past its PUBREC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FlightRecord {
    pub(crate) number: u64,
    pub(crate) message_id: MessageId,
    pub(crate) order: u64,
    pub(crate) packet_id: u16,
    pub(crate) released: bool,
}

/// An entry of a queue that does not stand in the message's own list of owners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MovedRecord {
    pub(crate) message_id: MessageId,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) subscription_identifiers: Vec<u32>,
    pub(crate) came_from: Option<(Owner, u64)>,
}

/// One owner in a message's list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListedOwner {
    pub(crate) owner: OwnerNumber,
    pub(crate) number: u64,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) subscription_identifiers: Vec<u32>,
}

/// What is wrong with the bytes of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken(pub(crate) &'static str);

impl fmt::Display for Broken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0)
    }
}

/// Appends a record: the version, what `fields` writes, and the checksum.
pub(crate) fn write(out: &mut Vec<u8>, tag: Tag, key: &[u8], fields: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.push(VERSION);
    fields(out);
    let sum = checksum(tag, key, out.get(start..).unwrap_or_default());
    out.extend_from_slice(&sum.to_le_bytes());
}

/// Checks a record and gives its fields.
fn fields<'a>(tag: Tag, key: &[u8], record: &'a [u8]) -> Result<Reader<'a>, Broken> {
    let (content, sum) = record
        .split_last_chunk::<4>()
        .ok_or(Broken("it is cut short"))?;
    if checksum(tag, key, content) != u32::from_le_bytes(*sum) {
        return Err(Broken("its checksum is wrong"));
    }
    let (version, rest) = content.split_first().ok_or(Broken("it is empty"))?;
    if *version != VERSION {
        return Err(Broken("it was written by a later version"));
    }
    Ok(Reader { rest })
}

/// Whether a row is what was written under this key.
pub(crate) fn is_whole(tag: Tag, key: &[u8], record: &[u8]) -> bool {
    fields(tag, key, record).is_ok()
}

fn checksum(tag: Tag, key: &[u8], content: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&[tag as u8]);
    sum.update(key);
    sum.update(content);
    sum.finalize()
}

impl StoreRecord {
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        write(out, Tag::Store, STORE_KEY, |out| {
            put_varint(out, self.operations);
            put_varint(out, self.next_owner);
            put_varint(out, self.number_floor);
            put_u64(out, self.message_id_max);
            put_varint(out, self.messages);
            put_varint(out, self.sessions);
            put_option(out, self.clock, |out, clock| {
                put_u64(out, clock.broker);
                put_u64(out, clock.wall);
            });
        });
    }

    pub(crate) fn read(record: &[u8]) -> Result<Self, Broken> {
        let mut reader = fields(Tag::Store, STORE_KEY, record)?;
        let store = Self {
            operations: reader.varint()?,
            next_owner: reader.varint()?,
            number_floor: reader.varint()?,
            message_id_max: reader.u64()?,
            messages: reader.varint()?,
            sessions: reader.varint()?,
            clock: reader.option(|reader| {
                Ok(ClockRecord {
                    broker: reader.u64()?,
                    wall: reader.u64()?,
                })
            })?,
        };
        reader.end()?;
        Ok(store)
    }
}

/// A session's row: who it is as an owner, and its record.
pub(crate) fn write_session(
    out: &mut Vec<u8>,
    key: &[u8],
    owner: OwnerRecord,
    session: &SessionRecord,
) {
    write(out, Tag::Session, key, |out| {
        put_varint(out, owner.owner);
        put_varint(out, owner.first);
        out.push(session.protocol_version.level());
        put_u32(out, session.session_expiry_interval);
        put_option(out, session.expires_at, put_u64);
        put_option(out, session.user.as_deref(), put_text);
        put_option(out, session.will.as_ref(), |out, will| {
            out.push(will.qos as u8 | (u8::from(will.retain) << RETAIN_SHIFT));
            put_text(out, &will.topic);
            put_bytes(out, &will.properties);
            put_bytes(out, &will.payload);
            put_option(out, will.message_expiry_interval, put_u32);
            put_u32(out, will.delay);
            put_option(out, will.fires_at, put_u64);
        });
    });
}

pub(crate) fn read_session(
    key: &[u8],
    record: &[u8],
) -> Result<(OwnerRecord, SessionRecord), Broken> {
    let mut reader = fields(Tag::Session, key, record)?;
    let owner = reader.owner()?;
    let session = SessionRecord {
        protocol_version: match reader.u8()? {
            3 => ProtocolVersion::V3_1,
            4 => ProtocolVersion::V3_1_1,
            5 => ProtocolVersion::V5,
            _ => return Err(Broken("its protocol version is unknown")),
        },
        session_expiry_interval: reader.u32()?,
        expires_at: reader.option(Reader::u64)?,
        user: reader.option(Reader::text)?,
        will: reader.option(|reader| {
            let flags = reader.u8()?;
            Ok(WillRecord {
                qos: qos(flags & QOS_MASK)?,
                retain: flags & RETAIN_BIT != 0,
                topic: reader.text()?,
                properties: reader.bytes()?,
                payload: reader.bytes()?,
                message_expiry_interval: reader.option(Reader::u32)?,
                delay: reader.u32()?,
                fires_at: reader.option(Reader::u64)?,
            })
        })?,
    };
    reader.end()?;
    Ok((owner, session))
}

/// The key of a group's row: the length of the share name, the share name, the topic filter.
pub(crate) fn group_key(share_name: &str, topic_filter: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(share_name.len() + topic_filter.len() + 2);
    put_text(&mut key, share_name);
    key.extend_from_slice(topic_filter.as_bytes());
    key
}

pub(crate) fn read_group_key(key: &[u8]) -> Result<Owner, Broken> {
    let mut reader = Reader { rest: key };
    let share_name = reader.text()?;
    let topic_filter = text(reader.rest)?;
    Ok(Owner::Group {
        share_name,
        topic_filter,
    })
}

pub(crate) fn write_group(out: &mut Vec<u8>, key: &[u8], owner: OwnerRecord) {
    write(out, Tag::Group, key, |out| {
        put_varint(out, owner.owner);
        put_varint(out, owner.first);
    });
}

pub(crate) fn read_group(key: &[u8], record: &[u8]) -> Result<OwnerRecord, Broken> {
    let mut reader = fields(Tag::Group, key, record)?;
    let owner = reader.owner()?;
    reader.end()?;
    Ok(owner)
}

impl CursorRecord {
    pub(crate) fn write(self, out: &mut Vec<u8>, owner: OwnerNumber) {
        write(out, Tag::Cursor, &owner.to_be_bytes(), |out| {
            put_varint(out, self.head);
            put_varint(out, self.next);
        });
    }

    pub(crate) fn read(owner: OwnerNumber, record: &[u8]) -> Result<Self, Broken> {
        let mut reader = fields(Tag::Cursor, &owner.to_be_bytes(), record)?;
        let cursor = Self {
            head: reader.varint()?,
            next: reader.varint()?,
        };
        reader.end()?;
        if cursor.head > cursor.next {
            return Err(Broken("its queue begins behind its end"));
        }
        Ok(cursor)
    }
}

/// Appends the row of one block. Flights are given in the order of their numbers.
pub(crate) fn write_block<'a>(
    out: &mut Vec<u8>,
    key: &[u8],
    done: u64,
    flights: impl Iterator<Item = (&'a u64, &'a FlightRecord)>,
) {
    write(out, Tag::Block, key, |out| {
        put_u64(out, done);
        for (_, flight) in flights {
            let place = u8::try_from(flight.number % BLOCK_NUMBERS).unwrap_or_default();
            out.push(place | (u8::from(flight.released) << 7));
            out.extend_from_slice(&flight.packet_id.to_le_bytes());
            put_varint(out, flight.message_id);
            put_varint(out, flight.order);
        }
    });
}

/// `first` is the first number of the block.
pub(crate) fn read_block(key: &[u8], record: &[u8], first: u64) -> Result<BlockRecord, Broken> {
    let mut reader = fields(Tag::Block, key, record)?;
    let mut block = BlockRecord {
        done: reader.u64()?,
        flights: Vec::new(),
    };
    while !reader.rest.is_empty() {
        let place = reader.u8()?;
        let flight = FlightRecord {
            number: first + u64::from(place & 0x3f),
            released: place & 0x80 != 0,
            packet_id: reader.u16()?,
            message_id: reader.varint()?,
            order: reader.varint()?,
        };
        if flight.packet_id == 0 {
            return Err(Broken("a packet id in it is 0"));
        }
        block.flights.push(flight);
    }
    Ok(block)
}

impl MovedRecord {
    pub(crate) fn write(&self, out: &mut Vec<u8>, key: &[u8]) {
        write(out, Tag::Moved, key, |out| {
            put_varint(out, self.message_id);
            put_options(out, self.qos, self.retain, &self.subscription_identifiers);
            put_option(out, self.came_from.as_ref(), |out, (owner, number)| {
                put_varint(out, *number);
                match owner {
                    Owner::Session(client_id) => {
                        out.push(0);
                        put_text(out, client_id);
                    }
                    Owner::Group {
                        share_name,
                        topic_filter,
                    } => {
                        out.push(1);
                        put_text(out, share_name);
                        put_text(out, topic_filter);
                    }
                }
            });
        });
    }

    pub(crate) fn read(key: &[u8], record: &[u8]) -> Result<Self, Broken> {
        let mut reader = fields(Tag::Moved, key, record)?;
        let message_id = reader.varint()?;
        let (qos, retain, subscription_identifiers) = reader.options()?;
        let came_from = reader.option(|reader| {
            let number = reader.varint()?;
            let owner = match reader.u8()? {
                0 => Owner::Session(reader.text()?.into()),
                1 => Owner::Group {
                    share_name: reader.text()?,
                    topic_filter: reader.text()?,
                },
                _ => return Err(Broken("the kind of an owner in it is unknown")),
            };
            Ok((owner, number))
        })?;
        reader.end()?;
        Ok(Self {
            message_id,
            qos,
            retain,
            subscription_identifiers,
            came_from,
        })
    }
}

/// Appends a message's row. `owners` is ordered by owner number, each with what is asked for its copy.
pub(crate) fn write_message<'a>(
    out: &mut Vec<u8>,
    message: &StoredMessage,
    owners: impl ExactSizeIterator<Item = (OwnerNumber, u64, &'a OwnerEntry)>,
) {
    let key = message.message_id.to_be_bytes();
    write(out, Tag::Message, &key, |out| {
        put_varint(out, owners.len() as u64);
        let mut before = 0;
        for (owner, number, entry) in owners {
            put_varint(out, owner - before);
            before = owner;
            put_varint(out, number);
            put_options(
                out,
                entry.qos,
                entry.retain,
                &entry.subscription_identifiers,
            );
        }
        put_message(out, message);
    });
}

/// A message's row that has been checked: its owners can be walked without reading the rest.
pub(crate) struct MessageRow<'a> {
    message_id: MessageId,
    owners: u64,
    reader: Reader<'a>,
}

impl<'a> MessageRow<'a> {
    pub(crate) fn open(message_id: MessageId, record: &'a [u8]) -> Result<Self, Broken> {
        let mut reader = fields(Tag::Message, &message_id.to_be_bytes(), record)?;
        let owners = reader.varint()?;
        Ok(Self {
            message_id,
            owners,
            reader,
        })
    }

    /// Visits every owner and gives what is behind them.
    pub(crate) fn owners(
        mut self,
        mut visit: impl FnMut(OwnerNumber, u64),
    ) -> Result<MessageBody<'a>, Broken> {
        let mut owner: OwnerNumber = 0;
        for _ in 0..self.owners {
            let step = self.reader.varint()?;
            owner = owner
                .checked_add(step)
                .ok_or(Broken("an owner number in it is too large"))?;
            let number = self.reader.varint()?;
            self.reader.skip_options()?;
            visit(owner, number);
        }
        Ok(MessageBody {
            message_id: self.message_id,
            reader: self.reader,
        })
    }

    /// The whole row.
    pub(crate) fn read(mut self) -> Result<(Vec<ListedOwner>, StoredMessage), Broken> {
        let mut owners = Vec::new();
        let mut owner: OwnerNumber = 0;
        for _ in 0..self.owners {
            let step = self.reader.varint()?;
            owner = owner
                .checked_add(step)
                .ok_or(Broken("an owner number in it is too large"))?;
            let number = self.reader.varint()?;
            let (qos, retain, subscription_identifiers) = self.reader.options()?;
            owners.push(ListedOwner {
                owner,
                number,
                qos,
                retain,
                subscription_identifiers,
            });
        }
        let body = MessageBody {
            message_id: self.message_id,
            reader: self.reader,
        };
        Ok((owners, body.read()?))
    }

    /// The message, and the options of one owner's copy if it is listed.
    pub(crate) fn read_for(
        mut self,
        wanted: OwnerNumber,
    ) -> Result<(Option<ListedOwner>, StoredMessage), Broken> {
        let mut found = None;
        let mut owner: OwnerNumber = 0;
        for _ in 0..self.owners {
            let step = self.reader.varint()?;
            owner = owner
                .checked_add(step)
                .ok_or(Broken("an owner number in it is too large"))?;
            let number = self.reader.varint()?;
            if owner == wanted {
                let (qos, retain, subscription_identifiers) = self.reader.options()?;
                found = Some(ListedOwner {
                    owner,
                    number,
                    qos,
                    retain,
                    subscription_identifiers,
                });
            } else {
                self.reader.skip_options()?;
            }
        }
        let body = MessageBody {
            message_id: self.message_id,
            reader: self.reader,
        };
        Ok((found, body.read()?))
    }
}

/// What follows the owners in a message's row.
pub(crate) struct MessageBody<'a> {
    message_id: MessageId,
    reader: Reader<'a>,
}

impl MessageBody<'_> {
    /// Bytes of topic, properties and payload, none of which is looked into.
    pub(crate) fn text_bytes(mut self) -> Result<u64, Broken> {
        let flags = self.reader.u8()?;
        self.reader.varint()?;
        self.reader.option(Reader::u64)?;
        self.reader
            .option(|reader| reader.slice().map(<[u8]>::len))?;
        if flags & USER_BIT != 0 {
            self.reader.slice()?;
        }
        let mut bytes = 0;
        for _ in 0..3 {
            bytes += self.reader.slice()?.len() as u64;
        }
        self.reader.end()?;
        Ok(bytes)
    }

    pub(crate) fn read(mut self) -> Result<StoredMessage, Broken> {
        let message = self.reader.message(self.message_id)?;
        self.reader.end()?;
        Ok(message)
    }
}

pub(crate) fn write_retained(out: &mut Vec<u8>, message: &StoredMessage) {
    write(out, Tag::Retained, message.topic.as_bytes(), |out| {
        put_varint(out, message.message_id);
        put_message(out, message);
    });
}

pub(crate) fn read_retained(key: &[u8], record: &[u8]) -> Result<StoredMessage, Broken> {
    let mut reader = fields(Tag::Retained, key, record)?;
    let message_id = reader.varint()?;
    let message = reader.message(message_id)?;
    reader.end()?;
    if message.topic.as_bytes() != key {
        return Err(Broken("it belongs to another topic"));
    }
    Ok(message)
}

pub(crate) fn write_subscription(out: &mut Vec<u8>, key: &[u8], subscription: &SubscriptionRecord) {
    write(out, Tag::Subscription, key, |out| {
        out.push(
            subscription.qos as u8
                | (u8::from(subscription.no_local) << 2)
                | (u8::from(subscription.retain_as_published) << 3)
                | ((subscription.retain_handling as u8) << 4),
        );
        put_option(out, subscription.subscription_identifier, put_u32);
    });
}

pub(crate) fn read_subscription(key: &[u8], record: &[u8]) -> Result<SubscriptionRecord, Broken> {
    let mut reader = fields(Tag::Subscription, key, record)?;
    let flags = reader.u8()?;
    let subscription = SubscriptionRecord {
        qos: qos(flags & QOS_MASK)?,
        no_local: flags & 0x04 != 0,
        retain_as_published: flags & 0x08 != 0,
        retain_handling: match flags >> 4 {
            0 => RetainHandling::Send,
            1 => RetainHandling::SendIfNew,
            2 => RetainHandling::DoNotSend,
            _ => return Err(Broken("its retain handling is unknown")),
        },
        subscription_identifier: reader.option(Reader::u32)?,
    };
    reader.end()?;
    Ok(subscription)
}

/// 256 packet ids of QoS 2 messages that were received and not released, as bits.
pub(crate) fn write_received(out: &mut Vec<u8>, key: &[u8], packet_ids: &[u64; 4]) {
    write(out, Tag::Received, key, |out| {
        packet_ids.iter().for_each(|word| put_u64(out, *word));
    });
}

pub(crate) fn read_received(key: &[u8], record: &[u8]) -> Result<[u64; 4], Broken> {
    let mut reader = fields(Tag::Received, key, record)?;
    let mut packet_ids = [0; 4];
    for word in &mut packet_ids {
        *word = reader.u64()?;
    }
    reader.end()?;
    Ok(packet_ids)
}

/// The key of a row that belongs to one owner and a number: both big-endian, so that rows are sorted by both.
pub(crate) fn owned_key(owner: OwnerNumber, number: u64) -> [u8; 16] {
    ((u128::from(owner) << 64) | u128::from(number)).to_be_bytes()
}

pub(crate) fn read_owned_key(key: &[u8]) -> Result<(OwnerNumber, u64), Broken> {
    let mut reader = Reader { rest: key };
    let owner = u64::from_be_bytes(reader.chunk()?);
    let number = u64::from_be_bytes(reader.chunk()?);
    reader.end()?;
    Ok((owner, number))
}

/// The key of a row that belongs to one owner and a text.
pub(crate) fn owned_text_key(owner: OwnerNumber, text: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(8 + text.len());
    key.extend_from_slice(&owner.to_be_bytes());
    key.extend_from_slice(text.as_bytes());
    key
}

pub(crate) fn read_owned_text_key(key: &[u8]) -> Result<(OwnerNumber, Box<str>), Broken> {
    let mut reader = Reader { rest: key };
    let owner = u64::from_be_bytes(reader.chunk()?);
    Ok((owner, text(reader.rest)?))
}

/// A client id or topic as it stands in a key.
pub(crate) fn text(bytes: &[u8]) -> Result<Box<str>, Broken> {
    let text = std::str::from_utf8(bytes).map_err(|_| Broken("a text in it is not UTF-8"))?;
    Ok(text.into())
}

fn put_message(out: &mut Vec<u8>, message: &StoredMessage) {
    let user = message.publisher_user.as_deref();
    let flags = message.qos as u8 | (u8::from(message.retain) << RETAIN_SHIFT);
    out.push(flags | (u8::from(user.is_some()) << USER_SHIFT));
    put_varint(out, message.sequence);
    put_option(out, message.expires_at, put_u64);
    put_option(out, message.publisher.as_deref(), put_text);
    if let Some(user) = user {
        put_text(out, user);
    }
    put_text(out, &message.topic);
    put_bytes(out, &message.properties);
    put_bytes(out, &message.payload);
}

/// QoS, RETAIN flag and Subscription Identifiers of one copy.
fn put_options(out: &mut Vec<u8>, qos: QoS, retain: bool, subscription_identifiers: &[u32]) {
    let count = subscription_identifiers.len();
    let short = u8::try_from(count).map_or(COUNT_FOLLOWS, |count| count.min(COUNT_FOLLOWS));
    out.push(qos as u8 | (u8::from(retain) << RETAIN_SHIFT) | (short << COUNT_SHIFT));
    if short == COUNT_FOLLOWS {
        put_varint(out, count as u64);
    }
    for identifier in subscription_identifiers {
        put_varint(out, u64::from(*identifier));
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, value: &[u8]) {
    put_varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn put_text(out: &mut Vec<u8>, value: &str) {
    put_bytes(out, value.as_bytes());
}

fn put_option<T>(out: &mut Vec<u8>, value: Option<T>, put: impl FnOnce(&mut Vec<u8>, T)) {
    match value {
        None => out.push(0),
        Some(value) => {
            out.push(1);
            put(out, value);
        }
    }
}

fn qos(bits: u8) -> Result<QoS, Broken> {
    match bits {
        0 => Ok(QoS::AtMostOnce),
        1 => Ok(QoS::AtLeastOnce),
        2 => Ok(QoS::ExactlyOnce),
        _ => Err(Broken("a QoS in it is 3")),
    }
}

/// Takes fields from the front and never reads behind the end.
struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn chunk<const N: usize>(&mut self) -> Result<[u8; N], Broken> {
        let (chunk, rest) = self.rest.split_first_chunk::<N>().ok_or(SHORT)?;
        self.rest = rest;
        Ok(*chunk)
    }

    fn u8(&mut self) -> Result<u8, Broken> {
        self.chunk::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, Broken> {
        self.chunk().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, Broken> {
        self.chunk().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Broken> {
        self.chunk().map(u64::from_le_bytes)
    }

    fn varint(&mut self) -> Result<u64, Broken> {
        let mut value: u64 = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if (bits << shift) >> shift != bits {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Broken("a number in it is too large"))
    }

    fn slice(&mut self) -> Result<&[u8], Broken> {
        let length = usize::try_from(self.varint()?).map_err(|_| SHORT)?;
        let (slice, rest) = self.rest.split_at_checked(length).ok_or(SHORT)?;
        self.rest = rest;
        Ok(slice)
    }

    fn bytes(&mut self) -> Result<Bytes, Broken> {
        self.slice().map(Bytes::copy_from_slice)
    }

    fn text(&mut self) -> Result<Box<str>, Broken> {
        self.slice().and_then(text)
    }

    fn option<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, Broken>,
    ) -> Result<Option<T>, Broken> {
        match self.u8()? {
            0 => Ok(None),
            1 => read(self).map(Some),
            _ => Err(Broken("an optional field in it is neither there nor not")),
        }
    }

    fn owner(&mut self) -> Result<OwnerRecord, Broken> {
        Ok(OwnerRecord {
            owner: self.varint()?,
            first: self.varint()?,
        })
    }

    fn options(&mut self) -> Result<(QoS, bool, Vec<u32>), Broken> {
        let flags = self.u8()?;
        let count = self.count(flags)?;
        let mut identifiers = Vec::new();
        for _ in 0..count {
            let identifier = u32::try_from(self.varint()?)
                .map_err(|_| Broken("a subscription identifier in it is too large"))?;
            identifiers.push(identifier);
        }
        Ok((qos(flags & QOS_MASK)?, flags & RETAIN_BIT != 0, identifiers))
    }

    fn skip_options(&mut self) -> Result<(), Broken> {
        let flags = self.u8()?;
        for _ in 0..self.count(flags)? {
            self.varint()?;
        }
        Ok(())
    }

    fn count(&mut self, flags: u8) -> Result<u64, Broken> {
        match flags >> COUNT_SHIFT {
            COUNT_FOLLOWS => self.varint(),
            count => Ok(u64::from(count)),
        }
    }

    fn message(&mut self, message_id: MessageId) -> Result<StoredMessage, Broken> {
        let flags = self.u8()?;
        Ok(StoredMessage {
            message_id,
            qos: qos(flags & QOS_MASK)?,
            retain: flags & RETAIN_BIT != 0,
            sequence: self.varint()?,
            expires_at: self.option(Reader::u64)?,
            publisher: self.option(Reader::text)?,
            publisher_user: match flags & USER_BIT {
                0 => None,
                _ => Some(self.text()?),
            },
            topic: self.text()?,
            properties: self.bytes()?,
            payload: self.bytes()?,
        })
    }

    fn end(&self) -> Result<(), Broken> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(Broken("there is something behind its end"))
        }
    }
}

/// The key of the one [`StoreRecord`].
pub(crate) const STORE_KEY: &[u8] = b"nightjar";
/// How many numbers of a queue share a block.
pub(crate) const BLOCK_NUMBERS: u64 = 64;
const VERSION: u8 = 1;
const QOS_MASK: u8 = 0x03;
const RETAIN_SHIFT: u8 = 2;
const RETAIN_BIT: u8 = 1 << RETAIN_SHIFT;
/// Of a message: the user name of its publisher follows.
const USER_SHIFT: u8 = 3;
const USER_BIT: u8 = 1 << USER_SHIFT;
const COUNT_SHIFT: u8 = 3;
/// More Subscription Identifiers than fit into the flags: their number follows as a varint.
const COUNT_FOLLOWS: u8 = 0x1f;
const SHORT: Broken = Broken("it is cut short");

#[cfg(test)]
mod tests;
