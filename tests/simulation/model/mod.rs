//! What must be true, whatever happens.
//!
//! The model stands at the broker's door: it hears every packet a shard has taken in (`fed`), every packet the broker has
//! written to a socket (`written`), the end of every connection, every crash. From that it knows what the broker has
//! promised, and it panics with the sentence that was broken. It demands only what is certain: where the world cannot tell
//! (a crash before anything was durable, a session about to expire) it accepts both.
//!
//! Checked on the way:
//! - framing: CONNACK first, nothing behind DISCONNECT, no accusation of an honest client, answers in order (D3);
//! - one Network Connection a client id; session present exactly if a session is;
//! - Receive Maximum, packet ids, DUP; QoS 2 once; QoS 1 without DUP as often as it was published; order per topic and QoS;
//! - nothing without a subscription, nothing before its SUBACK, nothing long expired;
//! - wills not after a goodbye, a resumption or while the connection is open;
//! - retained state: never older than what a SUBSCRIBE was promised, never new then old, never the same state twice (D17).
//!
//! Checked at rest: what was acknowledged has reached every resumable session and share group that was to have it, wills
//! that were due have been seen, subscriptions are those that were asked for.

macro_rules! violated {
    ($($words:tt)*) => { violated(&format!($($words)*)) };
}

mod rest;
mod taken_in;
mod written;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use nightjar_codec::packet::{Connect, Disconnect, Publish, Subscribe};
use nightjar_codec::topic::{matches, parse_shared};
use nightjar_codec::{Packet, ReasonCode, RetainHandling};

use crate::log::log;
use crate::wire::{describe, payload_key};

/// One Application Message, by its number.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) publisher: usize,
    pub(crate) topic: String,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) expiry: Option<u32>,
    pub(crate) length: usize,
    /// Empty payload: deletes what is retained.
    pub(crate) deletes: bool,
    pub(crate) is_will: bool,
    /// How often the broker has taken it in.
    pub(crate) fed: u32,
    /// How often it had to take it for new.
    pub(crate) published: u32,
    /// It may have been published later than its rank says.
    pub(crate) is_late: bool,
    pub(crate) first_fed_at: u64,
    /// Its place in the order in which the broker has taken messages in.
    pub(crate) rank: u64,
    pub(crate) last_fed_at: u64,
    /// The last of its arrivals that was acknowledged, counted as `fed` is; 0 where none was.
    pub(crate) acknowledged: u32,
}

impl Message {
    pub(crate) fn new(publisher: usize, topic: &str, qos: u8, now: u64) -> Self {
        Self {
            publisher,
            topic: topic.to_owned(),
            qos,
            retain: false,
            expiry: None,
            length: 0,
            deletes: false,
            is_will: false,
            fed: 0,
            published: 0,
            is_late: false,
            first_fed_at: now,
            rank: 0,
            last_fed_at: now,
            acknowledged: 0,
        }
    }
}

/// What the model has to know of a client beforehand.
#[derive(Clone, Debug)]
pub(crate) struct ClientFacts {
    pub(crate) is_v5: bool,
    /// Its sessions outlive the world, unless it says otherwise.
    pub(crate) is_durable: bool,
    /// Its publishes may wait at the door for PUBRELs (D22).
    pub(crate) overruns: bool,
    /// It has no Maximum Packet Size.
    pub(crate) takes_all: bool,
}

pub(crate) struct Model {
    pub(crate) now: u64,
    facts: Vec<ClientFacts>,
    messages: Vec<Message>,
    connections: BTreeMap<usize, Connection>,
    sessions: Vec<Session>,
    groups: BTreeMap<String, Group>,
    topics: BTreeMap<String, RetainedTopic>,
    wills: BTreeMap<usize, Will>,
    has_journal: bool,
    /// Every filter each client has ever subscribed to: a session may be gone before its last packets arrive.
    filters: Vec<BTreeSet<String>>,
    /// Messages taken in.
    fed: u64,
    /// The journal has failed in this world: refusals, and closed connections, are to be expected.
    pub(crate) journal_has_failed: bool,
    crashes: u32,
    last_crash_at: u64,
}

struct Connection {
    client: usize,
    asked: Option<Asked>,
    is_accepted: bool,
    has_ended: bool,
    goodbye_written: bool,
    accepted_at: u64,
    last_fed: u64,
    pubacks: VecDeque<u16>,
    pubrecs: VecDeque<u16>,
    pubcomps: VecDeque<u16>,
    pings: u32,
    /// Message and arrival by packet id, of this client's publishes.
    inbound: BTreeMap<u16, (usize, u32)>,
    subscribes: BTreeMap<u16, Vec<(String, bool)>>,
    unsubscribes: BTreeMap<u16, Vec<String>>,
    outstanding: BTreeSet<u16>,
    aliases: BTreeMap<u16, String>,
    will: Option<usize>,
}

/// What CONNECT asked for.
#[derive(Clone, Debug)]
struct Asked {
    clean_start: bool,
    expiry: u32,
    receive_maximum: usize,
    maximum_packet_size: usize,
    keep_alive: u16,
    session_before: Presence,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Presence {
    Absent,
    Present,
    Unknown,
}

struct Session {
    presence: Presence,
    /// When a session of this client has ended last.
    ended_at: Option<u64>,
    /// The broker has said something that it may only say of a session on disk.
    is_on_disk: bool,
    resumable: bool,
    /// It has ended, but no CONNACK has said so yet: a crash may bring it back.
    may_come_back: bool,
    connection: Option<usize>,
    subscriptions: BTreeMap<String, Subscription>,
    /// Every filter that was in force in this session at any time, and those that may have been.
    ever: BTreeSet<String>,
    /// Messages this session is to get if they are acknowledged.
    expected: BTreeMap<usize, Expected>,
    sent: BTreeMap<usize, Sent>,
    inflight: BTreeMap<u16, Inflight>,
    order: BTreeMap<(usize, String, u8, u8), usize>,
}

#[derive(Clone, Debug)]
struct Subscription {
    qos: u8,
    no_local: bool,
    /// SUBACK was written.
    in_force: bool,
    /// Whether it is in force cannot be known: its SUBSCRIBE or UNSUBSCRIBE was not answered.
    is_unsure: bool,
    since: u64,
    connection: Option<usize>,
    /// The first of this session that covers its topics, so that what is seen of them is seen because of it.
    is_first: bool,
    sends_retained: bool,
    /// What retained state a SUBSCRIBE at that moment has to show at least, by topic.
    floor: BTreeMap<String, usize>,
    /// The last state seen, by topic.
    seen: BTreeMap<String, usize>,
}

#[derive(Clone, Debug)]
struct Expected {
    /// The arrival that made it so: one that came later and was refused (D5) promises nothing.
    arrival: u32,
    /// What it matched.
    filters: Vec<String>,
}

#[derive(Clone, Debug)]
struct Sent {
    without_dup: u32,
    crashes: u32,
}

#[derive(Clone, Debug)]
struct Inflight {
    message: usize,
    qos: u8,
    connection: usize,
    crashes: u32,
    released: bool,
}

#[derive(Default)]
struct Group {
    /// Messages that a member has to get if they are acknowledged, with the arrival that made it so.
    expected: BTreeMap<usize, u32>,
    /// Those a member has had.
    taken: BTreeSet<usize>,
}

#[derive(Default)]
struct RetainedTopic {
    /// The last state that is certainly stored.
    sure: Option<usize>,
    /// The last state that was taken in, acknowledged or not.
    last: Option<usize>,
    /// States may have been stored twice, or lost: their order proves nothing.
    is_disturbed: bool,
}

struct Will {
    client: usize,
    delay: u32,
    state: WillState,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum WillState {
    /// CONNECT is not accepted yet, or a crash came between.
    Unknown,
    Armed,
    Pending(u64),
    /// The store had it when the broker started: published at this moment, unless its client comes back before (D10).
    /// `is_over`: its session has ended.
    Lost {
        at: u64,
        is_over: bool,
    },
    /// Published, at the latest a moment after this.
    Due(u64),
    Cancelled,
}

fn violated(sentence: &str) -> ! {
    panic!("violation: {sentence}")
}

impl Model {
    pub(crate) fn new(facts: Vec<ClientFacts>, has_journal: bool) -> Self {
        let sessions_count = facts.len();
        let sessions = facts.iter().map(|_| Session::new()).collect();
        Self {
            now: 0,
            facts,
            messages: Vec::new(),
            connections: BTreeMap::new(),
            sessions,
            groups: BTreeMap::new(),
            topics: BTreeMap::new(),
            wills: BTreeMap::new(),
            has_journal,
            filters: vec![BTreeSet::new(); sessions_count],
            fed: 0,
            journal_has_failed: false,
            crashes: 0,
            last_crash_at: 0,
        }
    }

    pub(crate) fn new_message(&mut self, message: Message) -> usize {
        self.messages.push(message);
        self.messages.len() - 1
    }

    pub(crate) fn message(&self, key: usize) -> &Message {
        &self.messages[key]
    }

    pub(crate) fn messages(&self) -> usize {
        self.messages.len()
    }
}

impl Session {
    fn new() -> Self {
        Self {
            presence: Presence::Absent,
            ended_at: None,
            is_on_disk: false,
            resumable: false,
            may_come_back: false,
            connection: None,
            subscriptions: BTreeMap::new(),
            ever: BTreeSet::new(),
            expected: BTreeMap::new(),
            sent: BTreeMap::new(),
            inflight: BTreeMap::new(),
            order: BTreeMap::new(),
        }
    }

    fn is_certain(&self) -> bool {
        self.presence == Presence::Present && self.resumable
    }
}

impl Connection {
    fn new(client: usize, now: u64) -> Self {
        Self {
            client,
            asked: None,
            is_accepted: false,
            has_ended: false,
            goodbye_written: false,
            accepted_at: 0,
            last_fed: now,
            pubacks: VecDeque::new(),
            pubrecs: VecDeque::new(),
            pubcomps: VecDeque::new(),
            pings: 0,
            inbound: BTreeMap::new(),
            subscribes: BTreeMap::new(),
            unsubscribes: BTreeMap::new(),
            outstanding: BTreeSet::new(),
            aliases: BTreeMap::new(),
            will: None,
        }
    }
}

/// How many copies of one publish a session may get, one of its own and one of each share group it is in, and whether it is
/// in any.
fn copies_by(filters: &BTreeSet<String>, topic: &str) -> (u32, bool) {
    let mut own = 0;
    let mut shared = 0;
    for filter in filters {
        match parse_shared(filter) {
            Ok(Some((_, inner))) => shared += u32::from(matches(inner, topic)),
            _ => own |= u32::from(matches(filter, topic)),
        }
    }
    (own + shared, shared > 0)
}

/// The one that the broker took in last.
fn newer(messages: &[Message], one: Option<usize>, other: usize) -> Option<usize> {
    match one {
        Some(one) if messages[one].rank > messages[other].rank => Some(one),
        _ => Some(other),
    }
}

fn keep_alive_has_passed(connection: &Connection, now: u64) -> bool {
    let keep_alive = connection
        .asked
        .as_ref()
        .map_or(0, |asked| asked.keep_alive);
    keep_alive > 0 && now >= connection.last_fed + u64::from(keep_alive) * 1500
}

fn in_order(expected: &mut VecDeque<u16>, packet_id: u16, name: &str) {
    let first = expected.pop_front();
    if first != Some(packet_id) {
        violated!("{name} id={packet_id} where {first:?} is next [MQTT-4.6.0-2]");
    }
}

/// Whether both can match the topics that the simulation publishes retained messages to.
fn overlaps(one: &str, other: &str) -> bool {
    let may = |filter: &str| matches(filter, "r/c0");
    may(one) && may(other)
}

pub(crate) fn payload_message(payload: &[u8]) -> usize {
    std::str::from_utf8(payload)
        .ok()
        .and_then(|text| text.get(..6))
        .and_then(|text| text.parse().ok())
        .expect("a simulated will says which message it is")
}

/// How long what nobody waits for may be in memory only, milliseconds: a second, a stalled shard and a stalled disk.
const UNWRITTEN: u64 = 8000;
/// How late a stalled shard may be, milliseconds.
const SLACK: u64 = 8000;
