//! Mosquitto's `mosquitto.db`, read once when people come from there (D26).
//!
//! Comes in: the bytes of a file of format 3 to 6 (Mosquitto 1.0 to 2.1). Goes out: what it holds as plain values, which
//! `lines.rs` turns into the lines of an export, so that `nightjar_storage` makes a store of them with all its checks. The file is
//! never written.
//!
//! ```text
//! 15 bytes 00 b5 00 "mosquitto db", u32 checksum (always 0), u32 format, then chunks:
//!   format 3, 4:  u16 kind, u32 length          format 5, 6:  u32 kind, u32 length
//! kinds: 1 settings, 2 message, 3 message of a client, 4 retained, 5 subscription, 6 client
//! ```
//! Numbers are big-endian, but those of 8 bytes, which are as the machine had them: little-endian where Mosquitto runs today. In
//! formats 3 and 4 every text stands behind its length; in 5 and 6 a chunk begins with all its numbers, lengths included, and
//! ends with the texts. A chunk of another kind is passed over, and one whose lengths do not add up is a fault of the file.

mod lines;

use std::fmt;
use std::fs;
use std::path::Path;

use nightjar_storage::{ClosedStore, Meter, StorageError};
use sha2::{Digest, Sha256};

use self::lines::convert;

/// What was taken over.
pub(crate) struct Imported {
    pub(crate) contents: nightjar_storage::Contents,
    /// What was left out, a line each.
    pub(crate) left_out: String,
}

/// Makes a store in `data` of what the file holds; one that is there already must hold nothing. `now`: milliseconds since 1970.
pub(crate) fn import(
    file: &Path,
    data: &Path,
    now: u64,
    meter: &mut dyn Meter,
) -> Result<Imported, StorageError> {
    let refused = |reason: String| StorageError::File {
        path: file.display().to_string().into(),
        reason: reason.into(),
    };
    let bytes = fs::read(file).map_err(|error| refused(error.to_string()))?;
    let converted = convert(&bytes, now).map_err(|fault| refused(fault.to_string()))?;
    drop(bytes);
    let contents = ClosedStore::import(data, &mut &converted.lines[..], meter)?;
    let left_out = converted
        .left_out
        .iter()
        .map(|(what, count)| format!("left out: {count} {what}\n"))
        .collect();
    Ok(Imported { contents, left_out })
}

/// What a file holds.
#[derive(Debug, Default)]
struct Contents {
    clients: Vec<Client>,
    messages: Vec<Message>,
    queued: Vec<Queued>,
    retained: Vec<u64>,
    subscriptions: Vec<Subscription>,
}

#[derive(Debug)]
struct Client {
    client_id: String,
    user: Option<String>,
    /// Seconds since 1970; 0: was connected, or never expires.
    expires_at: u64,
    /// Seconds; `u32::MAX`: never.
    session_expiry_interval: u32,
}

#[derive(Debug)]
struct Message {
    store_id: u64,
    /// Seconds since 1970; 0: never.
    expires_at: u64,
    topic: String,
    payload: Vec<u8>,
    /// Encoded, without their length.
    properties: Vec<u8>,
    qos: u8,
    retain: bool,
    publisher: String,
    user: String,
}

/// A message in the hands of a client: on its way to it, or received from it and not released.
#[derive(Debug)]
struct Queued {
    client_id: String,
    store_id: u64,
    packet_id: u16,
    qos: u8,
    retain: bool,
    is_inbound: bool,
    state: State,
    subscription_identifiers: Vec<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Never sent, as far as anybody knows.
    Waiting,
    /// Sent, and PUBACK or PUBREC has not come.
    Sent,
    /// PUBREC has come, and PUBCOMP not.
    Released,
}

#[derive(Debug)]
struct Subscription {
    client_id: String,
    topic_filter: String,
    qos: u8,
    no_local: bool,
    retain_as_published: bool,
    retain_handling: u8,
    subscription_identifier: u32,
}

/// Why a file cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fault {
    /// It does not begin as such a file does.
    NotOne,
    /// A format that this program does not know.
    Format(u32),
    /// The chunk at this offset is not what it says.
    Broken { offset: usize },
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOne => formatter.write_str("it is no persistence file of Mosquitto"),
            Self::Format(format) => write!(
                formatter,
                "it has format {format}, and formats 3 to 6 can be read"
            ),
            Self::Broken { offset } => {
                write!(formatter, "it is damaged at byte {offset}")
            }
        }
    }
}

impl std::error::Error for Fault {}

/// SHA-256 of the file, in hexadecimal.
pub(crate) fn checksum(file: &Path) -> std::io::Result<String> {
    let digest = Sha256::digest(fs::read(file)?);
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn read(file: &[u8]) -> Result<Contents, Fault> {
    let mut head = Bytes(file.strip_prefix(MAGIC).ok_or(Fault::NotOne)?);
    let (Some(_checksum), Some(format)) = (head.u32(), head.u32()) else {
        return Err(Fault::NotOne);
    };
    if !(3..=6).contains(&format) {
        return Err(Fault::Format(format));
    }
    let mut rest = head;
    let mut contents = Contents::default();
    while !rest.0.is_empty() {
        let offset = file.len() - rest.0.len();
        let chunk = read_chunk(&mut rest, format, &mut contents);
        chunk.ok_or(Fault::Broken { offset })?;
    }
    Ok(contents)
}

fn read_chunk(rest: &mut Bytes<'_>, format: u32, contents: &mut Contents) -> Option<()> {
    let kind = match format {
        3 | 4 => u32::from(rest.u16()?),
        _ => rest.u32()?,
    };
    let length = rest.u32()?;
    let mut chunk = Bytes(rest.take(usize::try_from(length).ok()?)?);
    let chunk = &mut chunk;
    let old = format < 5;
    match kind {
        MESSAGE if old => contents.messages.push(old_message(chunk, format)?),
        MESSAGE => contents.messages.push(message(chunk)?),
        QUEUED if old => contents.queued.extend(old_queued(chunk)?),
        QUEUED => contents.queued.extend(queued(chunk)?),
        RETAINED => contents.retained.push(chunk.u64()?),
        SUBSCRIPTION if old => contents.subscriptions.push(old_subscription(chunk)?),
        SUBSCRIPTION => contents.subscriptions.push(subscription(chunk)?),
        CLIENT if old => contents.clients.push(old_client(chunk)?),
        CLIENT => contents.clients.push(client(chunk, format)?),
        _ => {}
    }
    Some(())
}

fn client(chunk: &mut Bytes<'_>, format: u32) -> Option<Client> {
    let expires_at = chunk.u64()?;
    let session_expiry_interval = chunk.u32()?;
    let _last_packet_id = chunk.u16()?;
    let id_length = chunk.u16()?;
    let mut user_length = 0;
    if format == 6 {
        let _listener_port = chunk.u16()?;
        user_length = chunk.u16()?;
        chunk.take(4)?;
    }
    let client_id = chunk.text(id_length)?;
    let user = Some(chunk.text(user_length)?).filter(|user| !user.is_empty());
    Some(Client {
        client_id,
        user,
        expires_at,
        session_expiry_interval,
    })
}

fn old_client(chunk: &mut Bytes<'_>) -> Option<Client> {
    // When it disconnected follows; these formats know no session that expires.
    Some(Client {
        client_id: chunk.counted_text()?,
        user: None,
        expires_at: 0,
        session_expiry_interval: u32::MAX,
    })
}

fn message(chunk: &mut Bytes<'_>) -> Option<Message> {
    let store_id = chunk.u64()?;
    let expires_at = chunk.u64()?;
    let payload_length = chunk.u32()?;
    let _packet_id = chunk.u16()?;
    let publisher_length = chunk.u16()?;
    let user_length = chunk.u16()?;
    let topic_length = chunk.u16()?;
    let _port = chunk.u16()?;
    let qos = chunk.u8()?;
    let retain = chunk.u8()? != 0;
    let publisher = chunk.text(publisher_length)?;
    let user = chunk.text(user_length)?;
    let topic = chunk.text(topic_length)?;
    let payload = chunk.take(usize::try_from(payload_length).ok()?)?.to_vec();
    let properties = if chunk.0.is_empty() {
        Vec::new()
    } else {
        let length = chunk.variable()?;
        chunk.take(usize::try_from(length).ok()?)?.to_vec()
    };
    Some(Message {
        store_id,
        expires_at,
        topic,
        payload,
        properties,
        qos,
        retain,
        publisher,
        user,
    })
}

fn old_message(chunk: &mut Bytes<'_>, format: u32) -> Option<Message> {
    let store_id = chunk.u64()?;
    let publisher = chunk.counted_text()?;
    let mut user = String::new();
    if format == 4 {
        user = chunk.counted_text()?;
        let _port = chunk.u16()?;
    }
    let _packet_ids = (chunk.u16()?, chunk.u16()?);
    let topic = chunk.counted_text()?;
    let qos = chunk.u8()?;
    let retain = chunk.u8()? != 0;
    let payload_length = chunk.u32()?;
    Some(Message {
        store_id,
        expires_at: 0,
        topic,
        payload: chunk.take(usize::try_from(payload_length).ok()?)?.to_vec(),
        properties: Vec::new(),
        qos,
        retain,
        publisher,
        user,
    })
}

/// `Some(None)`: nothing that has to be kept.
fn queued(chunk: &mut Bytes<'_>) -> Option<Option<Queued>> {
    let store_id = chunk.u64()?;
    let packet_id = chunk.u16()?;
    let id_length = chunk.u16()?;
    let qos = chunk.u8()?;
    let state = chunk.u8()?;
    let retain = chunk.u8()? >> 4 != 0;
    let direction = chunk.u8()?;
    let client_id = chunk.text(id_length)?;
    // Some versions say less here, or something else; what is not understood is not needed.
    let subscription_identifiers = identifiers(chunk).unwrap_or_default();
    Some(state_of(state).map(|state| Queued {
        client_id,
        store_id,
        packet_id,
        qos,
        retain,
        is_inbound: direction == 0,
        state,
        subscription_identifiers,
    }))
}

fn old_queued(chunk: &mut Bytes<'_>) -> Option<Option<Queued>> {
    let client_id = chunk.counted_text()?;
    let store_id = chunk.u64()?;
    let packet_id = chunk.u16()?;
    let qos = chunk.u8()?;
    let retain = chunk.u8()? != 0;
    let direction = chunk.u8()?;
    let state = chunk.u8()?;
    Some(state_of(state).map(|state| Queued {
        client_id,
        store_id,
        packet_id,
        qos,
        retain,
        is_inbound: direction == 0,
        state,
        subscription_identifiers: Vec::new(),
    }))
}

fn identifiers(chunk: &mut Bytes<'_>) -> Option<Vec<u32>> {
    let length = chunk.variable()?;
    let mut properties = Bytes(chunk.take(usize::try_from(length).ok()?)?);
    let mut found = Vec::new();
    while !properties.0.is_empty() {
        if properties.u8()? != SUBSCRIPTION_IDENTIFIER {
            return None;
        }
        found.push(properties.variable()?);
    }
    Some(found)
}

/// The numbers of its states, and what they mean for one who takes over.
fn state_of(state: u8) -> Option<State> {
    match state {
        // To be published at QoS 0, 1 and 2; queued.
        1 | 2 | 4 | 11 => Some(State::Waiting),
        // PUBACK, PUBREC and, inbound, PUBREL are awaited; PUBREC is to be sent.
        3 | 5 | 7 | 10 => Some(State::Sent),
        // PUBREL is to be sent again, PUBCOMP is awaited.
        6 | 9 => Some(State::Released),
        _ => None,
    }
}

fn subscription(chunk: &mut Bytes<'_>) -> Option<Subscription> {
    let subscription_identifier = chunk.u32()?;
    let id_length = chunk.u16()?;
    let filter_length = chunk.u16()?;
    let qos = chunk.u8()?;
    let options = chunk.u8()?;
    chunk.take(2)?;
    Some(Subscription {
        client_id: chunk.text(id_length)?,
        topic_filter: chunk.text(filter_length)?,
        qos,
        no_local: options & 0x04 != 0,
        retain_as_published: options & 0x08 != 0,
        retain_handling: options >> 4 & 3,
        subscription_identifier,
    })
}

fn old_subscription(chunk: &mut Bytes<'_>) -> Option<Subscription> {
    Some(Subscription {
        client_id: chunk.counted_text()?,
        topic_filter: chunk.counted_text()?,
        qos: chunk.u8()?,
        no_local: false,
        retain_as_published: false,
        retain_handling: 0,
        subscription_identifier: 0,
    })
}

/// Bytes that are taken from the front. `None`: there are too few.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn variable(&mut self) -> Option<u32> {
        let mut value = 0;
        for place in 0..4 {
            let byte = self.u8()?;
            value |= u32::from(byte & 0x7f) << (7 * place);
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn text(&mut self, length: u16) -> Option<String> {
        // What is not UTF-8 was never a legal topic or client id; `lines.rs` leaves out what such a name belongs to.
        let bytes = self.take(usize::from(length))?;
        Some(String::from_utf8(bytes.to_vec()).unwrap_or_else(|_| "\0".into()))
    }

    fn counted_text(&mut self) -> Option<String> {
        let length = self.u16()?;
        self.text(length)
    }
}

const MAGIC: &[u8] = b"\x00\xb5\x00mosquitto db";
const MESSAGE: u32 = 2;
const QUEUED: u32 = 3;
const RETAINED: u32 = 4;
const SUBSCRIPTION: u32 = 5;
const CLIENT: u32 = 6;
const SUBSCRIPTION_IDENTIFIER: u8 = 0x0b;

#[cfg(test)]
mod tests;
