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
    pub(crate) first_fed_at: u64,
    /// Its place in the order in which the broker has taken messages in.
    pub(crate) rank: u64,
    pub(crate) last_fed_at: u64,
    pub(crate) acknowledged: bool,
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
            first_fed_at: now,
            rank: 0,
            last_fed_at: now,
            acknowledged: false,
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
    /// Message by packet id, of this client's publishes.
    inbound: BTreeMap<u16, usize>,
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
    /// The broker has said something that it may only say of a session on disk.
    is_on_disk: bool,
    resumable: bool,
    /// It has ended, but no CONNACK has said so yet: a crash may bring it back.
    may_come_back: bool,
    connection: Option<usize>,
    subscriptions: BTreeMap<String, Subscription>,
    /// Every filter that was in force in this session at any time, and those that may have been.
    ever: BTreeSet<String>,
    /// Messages this session is to get if they are acknowledged, with the filters they matched.
    expected: BTreeMap<usize, Vec<String>>,
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
    /// Messages that a member has to get, and those a member has had.
    expected: BTreeSet<usize>,
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
    /// Published, at the latest a moment after this.
    Due(u64),
    Cancelled,
}

fn violated(sentence: &str) -> ! {
    panic!("violation: {sentence}")
}

macro_rules! violated {
    ($($words:tt)*) => { violated(&format!($($words)*)) };
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

    /// A shard has accepted a socket.
    pub(crate) fn opened(&mut self, key: usize, client: usize) {
        self.connections
            .insert(key, Connection::new(client, self.now));
    }

    pub(crate) fn has_ended(&self, key: usize) -> bool {
        self.connections
            .get(&key)
            .is_none_or(|connection| connection.has_ended)
    }

    /// A shard has taken in a whole packet of an open connection.
    pub(crate) fn fed(&mut self, key: usize, packet: &Packet) {
        let Some(connection) = self.connections.get_mut(&key) else {
            return;
        };
        connection.last_fed = self.now;
        if connection.has_ended {
            return;
        }
        let client = connection.client;
        match packet {
            Packet::Connect(connect) => self.fed_connect(key, client, connect),
            Packet::Publish(publish) => self.fed_publish(key, client, publish),
            Packet::Puback(packet) => self.fed_puback(key, client, packet.packet_id.get()),
            Packet::Pubrec(packet) => {
                let packet_id = packet.packet_id.get();
                if let Some(inflight) = self.sessions[client].inflight.get_mut(&packet_id) {
                    inflight.released = true;
                    let message = inflight.message;
                    self.group_message_taken(client, message);
                }
            }
            Packet::Pubrel(packet) => connection.pubcomps.push_back(packet.packet_id.get()),
            Packet::Pubcomp(packet) => {
                let packet_id = packet.packet_id.get();
                connection.outstanding.remove(&packet_id);
                self.sessions[client].inflight.remove(&packet_id);
            }
            Packet::Subscribe(subscribe) => self.fed_subscribe(key, client, subscribe),
            Packet::Unsubscribe(unsubscribe) => {
                let filters: Vec<String> = unsubscribe
                    .topic_filters
                    .iter()
                    .map(ToString::to_string)
                    .collect();
                for filter in &filters {
                    self.withdraw(client, filter);
                }
                let connection = self.connections.get_mut(&key).expect("it is there");
                connection
                    .unsubscribes
                    .insert(unsubscribe.packet_id.get(), filters);
            }
            Packet::Pingreq => connection.pings += 1,
            Packet::Disconnect(disconnect) => self.fed_disconnect(key, client, disconnect),
            _ => {}
        }
    }

    fn fed_connect(&mut self, key: usize, client: usize, connect: &Connect) {
        if let Some(earlier) = self.sessions[client].connection {
            // Takeover: the broker closes it as part of this.
            self.ended(earlier);
        }
        let expiry = if self.facts[client].is_v5 {
            connect.properties.session_expiry_interval.unwrap_or(0)
        } else if connect.clean_start {
            0
        } else {
            u32::MAX
        };
        let before = self.sessions[client].presence;
        if let Some(will) = &connect.will {
            let message = payload_message(&will.payload);
            let delay = will.properties.will_delay_interval.unwrap_or(0);
            let state = WillState::Unknown;
            self.wills.insert(
                message,
                Will {
                    client,
                    delay,
                    state,
                },
            );
            let connection = self.connections.get_mut(&key).expect("it is there");
            connection.will = Some(message);
        }
        if connect.clean_start {
            self.session_ends(client);
        }
        let connection = self.connections.get_mut(&key).expect("it is there");
        connection.asked = Some(Asked {
            clean_start: connect.clean_start,
            expiry,
            receive_maximum: connect
                .properties
                .receive_maximum
                .map_or(u16::MAX, std::num::NonZeroU16::get)
                .into(),
            maximum_packet_size: connect
                .properties
                .maximum_packet_size
                .map_or(usize::MAX, |maximum| maximum.get() as usize),
            keep_alive: connect.keep_alive,
            session_before: before,
        });
        self.sessions[client].connection = Some(key);
        self.sessions[client].resumable = expiry > 0;
        if expiry == 0 {
            self.expect_nothing(client);
        }
    }

    fn fed_publish(&mut self, key: usize, client: usize, publish: &Publish) {
        let Some(message_key) = payload_key(publish) else {
            return;
        };
        let connection = self.connections.get_mut(&key).expect("it is there");
        if let Some(packet_id) = publish.packet_id {
            connection.inbound.insert(packet_id.get(), message_key);
            match publish.qos as u8 {
                1 => connection.pubacks.push_back(packet_id.get()),
                _ => connection.pubrecs.push_back(packet_id.get()),
            }
        }
        let message = &mut self.messages[message_key];
        message.fed += 1;
        if message.fed == 1 {
            message.first_fed_at = self.now;
            self.fed += 1;
            message.rank = self.fed;
        }
        message.last_fed_at = self.now;
        let message = message.clone();
        if message.retain {
            let topic = self.topics.entry(message.topic.clone()).or_default();
            topic.last = newer(&self.messages, topic.last, message_key);
            if message.qos == 0 && !self.facts[client].overruns {
                topic.sure = newer(&self.messages, topic.sure, message_key);
            }
            if message.qos == 1 && message.fed > 1 {
                topic.is_disturbed = true;
            }
        }
        // A repeated QoS 2 publish is the same one: who is to have it was settled when it came first.
        let is_repeat = message.qos == 2 && message.fed > 1;
        // One that may wait at the door is accepted nobody can tell when.
        let may_wait = self.facts[client].overruns;
        if message.qos == 0 || message.expiry.is_some() || is_repeat || may_wait {
            return;
        }
        self.expect(message_key, &message, client);
    }

    /// Notes who is to have the message once it is acknowledged.
    fn expect(&mut self, key: usize, message: &Message, publisher: usize) {
        // What the chosen member cannot take is gone [MQTT-3.1.2-25].
        let fits_all = message.length < 300 || self.facts.iter().all(|facts| facts.takes_all);
        let mut groups = BTreeSet::new();
        for (client, session) in self.sessions.iter_mut().enumerate() {
            if !session.is_certain() || !self.facts[client].is_durable {
                continue;
            }
            // Only 5.0 clients are told which message deletes what is retained.
            let takes_all =
                self.facts[client].takes_all && (self.facts[client].is_v5 || !message.deletes);
            let mut filters = Vec::new();
            for (filter, subscription) in &session.subscriptions {
                if !subscription.in_force || subscription.is_unsure {
                    continue;
                }
                let own = subscription.no_local && client == publisher;
                if let Ok(Some((_, inner))) = parse_shared(filter) {
                    if matches(inner, &message.topic) && takes_all && fits_all {
                        groups.insert(filter.clone());
                    }
                } else if subscription.qos > 0 && !own && matches(filter, &message.topic) {
                    filters.push(filter.clone());
                }
            }
            if !filters.is_empty() && takes_all {
                session.expected.insert(key, filters);
            }
        }
        for group in groups {
            self.groups.entry(group).or_default().expected.insert(key);
        }
    }

    fn fed_puback(&mut self, key: usize, client: usize, packet_id: u16) {
        let connection = self.connections.get_mut(&key).expect("it is there");
        connection.outstanding.remove(&packet_id);
        let session = &mut self.sessions[client];
        if let Some(inflight) = session.inflight.get(&packet_id)
            && inflight.connection == key
        {
            let message = inflight.message;
            session.inflight.remove(&packet_id);
            self.group_message_taken(client, message);
        }
    }

    /// Somebody has acknowledged it: every group this client is in may have given it.
    fn group_message_taken(&mut self, client: usize, message: usize) {
        let topic = &self.messages[message].topic;
        for filter in &self.sessions[client].ever {
            if let Ok(Some((_, inner))) = parse_shared(filter)
                && matches(inner, topic)
            {
                let group = self.groups.entry(filter.clone()).or_default();
                group.taken.insert(message);
            }
        }
    }

    fn fed_subscribe(&mut self, key: usize, client: usize, subscribe: &Subscribe) {
        let mut filters = Vec::new();
        for filter in &subscribe.filters {
            let name = filter.topic_filter.to_string();
            self.filters[client].insert(name.clone());
            let qos = filter.options.qos as u8;
            let session = &mut self.sessions[client];
            let is_first = session
                .ever
                .iter()
                .chain(session.subscriptions.keys())
                .all(|other| !overlaps(other, &name));
            for (other, subscription) in &mut session.subscriptions {
                subscription.is_first &= !overlaps(other, &name);
            }
            let handling = filter.options.retain_handling;
            let floor = self
                .topics
                .iter()
                .filter(|(topic, _)| matches(&name, topic))
                .filter_map(|(topic, retained)| Some((topic.clone(), retained.sure?)))
                .collect();
            let subscription = session.subscriptions.entry(name.clone());
            let subscription = subscription.or_insert_with(|| Subscription {
                qos,
                no_local: filter.options.no_local,
                in_force: false,
                is_unsure: false,
                since: u64::MAX,
                connection: Some(key),
                is_first,
                sends_retained: handling != RetainHandling::DoNotSend,
                floor,
                seen: BTreeMap::new(),
            });
            // Of two, what both promise.
            subscription.qos = subscription.qos.min(qos);
            subscription.no_local |= filter.options.no_local;
            filters.push((name, filter.options.no_local));
        }
        let connection = self.connections.get_mut(&key).expect("it is there");
        connection
            .subscribes
            .insert(subscribe.packet_id.get(), filters);
        // What the present SUBSCRIBE asks for counts from its SUBACK on.
        for filter in &subscribe.filters {
            let pending = &mut self.sessions[client].subscriptions;
            if let Some(subscription) = pending.get_mut(&*filter.topic_filter) {
                subscription.connection = Some(key);
            }
        }
    }

    /// UNSUBSCRIBE: nothing is promised any more, not even what waits.
    fn withdraw(&mut self, client: usize, filter: &str) {
        let session = &mut self.sessions[client];
        if let Some(subscription) = session.subscriptions.get_mut(filter) {
            subscription.is_unsure = true;
            session
                .expected
                .retain(|_, filters| !filters.iter().any(|one| one == filter));
        }
        // What is on its way to a member that leaves is that member's own.
        if let Some(group) = self.groups.get_mut(filter) {
            for inflight in session.inflight.values() {
                group.expected.remove(&inflight.message);
            }
        }
        self.revise_group(filter);
    }

    /// A group whose last member that is certain to stay has gone keeps nothing for sure.
    fn revise_group(&mut self, filter: &str) {
        let has_member = self.sessions.iter().enumerate().any(|(client, session)| {
            self.facts[client].is_durable
                && session.is_certain()
                && session
                    .subscriptions
                    .get(filter)
                    .is_some_and(|one| one.in_force && !one.is_unsure)
        });
        if !has_member && let Some(group) = self.groups.get_mut(filter) {
            group.expected.clear();
        }
    }

    fn fed_disconnect(&mut self, key: usize, client: usize, disconnect: &Disconnect) {
        let session = &mut self.sessions[client];
        if disconnect.properties.session_expiry_interval == Some(0) {
            session.resumable = false;
        }
        if disconnect.reason_code == ReasonCode::Success {
            let will = self
                .connections
                .get(&key)
                .and_then(|connection| connection.will);
            if let Some(will) = will.and_then(|will| self.wills.get_mut(&will)) {
                will.state = WillState::Cancelled;
            }
        }
        self.ended(key);
    }

    /// The Network Connection is over: closed, cut, taken over, or given up by the broker.
    pub(crate) fn ended(&mut self, key: usize) {
        let Some(connection) = self.connections.get_mut(&key) else {
            return;
        };
        if connection.has_ended {
            return;
        }
        connection.has_ended = true;
        let client = connection.client;
        let is_accepted = connection.is_accepted;
        let unanswered: Vec<String> = connection
            .subscribes
            .values()
            .flatten()
            .map(|(filter, _)| filter.clone())
            .chain(connection.unsubscribes.values().flatten().cloned())
            .collect();
        let expiry = connection.asked.as_ref().map_or(0, |asked| asked.expiry);
        let will = connection.will;
        if self.sessions[client].connection != Some(key) {
            return;
        }
        let session = &mut self.sessions[client];
        session.connection = None;
        for filter in unanswered {
            session.ever.insert(filter.clone());
            if let Some(subscription) = session.subscriptions.get_mut(&filter) {
                subscription.is_unsure = true;
            }
        }
        // What a share group gave at QoS 1 goes back to it (D8).
        let messages = &self.messages;
        let shared: Vec<&str> = session
            .ever
            .iter()
            .filter_map(|filter| Some(parse_shared(filter).ok()??.1))
            .collect();
        session.inflight.retain(|_, one| {
            let topic = &messages[one.message].topic;
            one.qos == 2 || !shared.iter().any(|filter| matches(filter, topic))
        });
        let resumable = session.resumable;
        if let Some(will) = will.and_then(|will| self.wills.get_mut(&will))
            && will.state == WillState::Armed
        {
            let delay = will.delay.min(if resumable { expiry } else { 0 });
            will.state = if delay == 0 {
                WillState::Due(self.now)
            } else {
                WillState::Pending(self.now + u64::from(delay) * 1000)
            };
        }
        if !resumable {
            self.session_ends(client);
        } else if !is_accepted || !self.facts[client].is_durable {
            self.session_is_uncertain(client);
        }
    }

    /// The session is gone as far as the broker's memory goes.
    fn session_ends(&mut self, client: usize) {
        let was = self.sessions[client].presence;
        self.leave_groups(client);
        let now = self.now;
        for will in self.wills.values_mut().filter(|will| will.client == client) {
            if let WillState::Pending(fires_at) = will.state {
                will.state = WillState::Due(now.min(fires_at));
            }
        }
        let may_come_back =
            self.has_journal && (was != Presence::Absent || self.sessions[client].may_come_back);
        let ever = std::mem::take(&mut self.sessions[client].ever);
        self.sessions[client] = Session::new();
        self.sessions[client].may_come_back = may_come_back;
        if may_come_back {
            // Should a crash bring it back, so does what it had.
            self.sessions[client].ever = ever;
        }
        for filter in self.groups.keys().cloned().collect::<Vec<_>>() {
            self.revise_group(&filter);
        }
    }

    fn session_is_uncertain(&mut self, client: usize) {
        self.sessions[client].presence = Presence::Unknown;
        self.expect_nothing(client);
    }

    fn expect_nothing(&mut self, client: usize) {
        let session = &mut self.sessions[client];
        session.expected.clear();
        for subscription in session.subscriptions.values_mut() {
            subscription.is_unsure = true;
        }
        for filter in self.groups.keys().cloned().collect::<Vec<_>>() {
            self.revise_group(&filter);
        }
    }

    /// QoS 2 that was given to a member dies with its session (D8), and may have been given without having been sent yet.
    fn leave_groups(&mut self, client: usize) {
        let messages = &self.messages;
        for filter in &self.sessions[client].ever {
            if let Some(group) = self.groups.get_mut(filter) {
                group.expected.retain(|key| messages[*key].qos < 2);
            }
        }
    }

    /// The broker has written a whole packet to a socket.
    pub(crate) fn written(&mut self, key: usize, packet: &Packet) {
        let Some(connection) = self.connections.get_mut(&key) else {
            return;
        };
        let client = connection.client;
        if connection.goodbye_written {
            violated!("{} behind DISCONNECT [MQTT-3.14.4-1]", describe(packet));
        }
        if !connection.is_accepted && !matches!(packet, Packet::Connack(_)) {
            violated!("{} before CONNACK [MQTT-3.2.0-1]", describe(packet));
        }
        let packet_id = match packet {
            Packet::Puback(packet) | Packet::Pubrec(packet) | Packet::Pubcomp(packet) => {
                packet.packet_id.get()
            }
            _ => 0,
        };
        match packet {
            Packet::Connack(connack) => {
                if connack.reason_code != ReasonCode::Success {
                    let fine = self.journal_has_failed
                        || connack.reason_code == ReasonCode::ServerUnavailable;
                    if !fine {
                        violated!("CONNECT of {client} refused: {:?}", connack.reason_code);
                    }
                    return;
                }
                self.accepted(key, client, connack.session_present);
            }
            Packet::Publish(publish) => self.written_publish(key, client, publish),
            Packet::Puback(packet) => {
                in_order(&mut connection.pubacks, packet_id, "PUBACK");
                self.acknowledged(key, client, packet_id, packet.reason_code);
            }
            Packet::Pubrec(packet) => {
                in_order(&mut connection.pubrecs, packet_id, "PUBREC");
                self.acknowledged(key, client, packet_id, packet.reason_code);
            }
            Packet::Pubrel(packet) => {
                let packet_id = packet.packet_id.get();
                if let Some(inflight) = self.sessions[client].inflight.get_mut(&packet_id)
                    && !connection.has_ended
                {
                    if !inflight.released && inflight.crashes == self.crashes {
                        violated!("PUBREL id={packet_id} before PUBREC [MQTT-4.3.3-4]");
                    }
                    inflight.connection = key;
                }
            }
            Packet::Pubcomp(_) => in_order(&mut connection.pubcomps, packet_id, "PUBCOMP"),
            Packet::Suback(suback) => {
                let filters = connection.subscribes.remove(&suback.packet_id.get());
                let Some(filters) = filters else {
                    violated!("SUBACK for a SUBSCRIBE that was not said");
                };
                let codes = suback.reason_codes.iter();
                self.subscribed(
                    key,
                    client,
                    filters,
                    codes.map(|code| code.is_error()).collect(),
                );
            }
            Packet::Unsuback(unsuback) => {
                let filters = connection.unsubscribes.remove(&unsuback.packet_id.get());
                let Some(filters) = filters else {
                    violated!("UNSUBACK for an UNSUBSCRIBE that was not said");
                };
                if connection.has_ended {
                    return;
                }
                let asked_again: BTreeSet<&String> = connection
                    .subscribes
                    .values()
                    .flatten()
                    .map(|(filter, _)| filter)
                    .collect();
                for filter in filters {
                    let again = asked_again.contains(&filter);
                    let subscriptions = &mut self.sessions[client].subscriptions;
                    if let Some(subscription) = subscriptions.get_mut(&filter) {
                        subscription.in_force = false;
                        subscription.is_unsure = true;
                        if !again {
                            subscriptions.remove(&filter);
                        }
                    }
                }
            }
            Packet::Pingresp => {
                if connection.pings == 0 {
                    violated!("PINGRESP without PINGREQ");
                }
                connection.pings -= 1;
            }
            Packet::Disconnect(disconnect) => {
                connection.goodbye_written = true;
                let fine = match disconnect.reason_code {
                    ReasonCode::SessionTakenOver | ReasonCode::ServerShuttingDown => true,
                    ReasonCode::KeepAliveTimeout => keep_alive_has_passed(connection, self.now),
                    ReasonCode::ServerUnavailable => self.journal_has_failed,
                    _ => false,
                };
                if !fine {
                    violated!("an honest client is told {:?}", disconnect.reason_code);
                }
            }
            other => violated!("a server does not say {}", describe(other)),
        }
    }

    fn accepted(&mut self, key: usize, client: usize, present: bool) {
        let others: Vec<usize> = self
            .connections
            .iter()
            .filter(|(other, one)| {
                **other != key && one.client == client && one.is_accepted && !one.has_ended
            })
            .map(|(other, _)| *other)
            .collect();
        let is_late = self.connections[&key].has_ended;
        if let Some(other) = others.first().filter(|_| !is_late) {
            violated!("two connections for one client id: {other} and {key} [MQTT-3.1.4-3]");
        }
        let connection = self.connections.get_mut(&key).expect("it is there");
        if connection.is_accepted {
            violated!("second CONNACK");
        }
        connection.is_accepted = true;
        connection.accepted_at = self.now;
        let Some(asked) = connection.asked.clone() else {
            violated!("CONNACK before CONNECT");
        };
        let has_ended = connection.has_ended;
        let will = connection.will;
        if asked.clean_start && present {
            violated!("session present after clean start [MQTT-3.2.2-2]");
        }
        if has_ended {
            return;
        }
        if !asked.clean_start {
            match (asked.session_before, present) {
                (Presence::Absent, true) => {
                    violated!("a session that had ended has come back [MQTT-3.2.2-3]")
                }
                (Presence::Present, false) => {
                    violated!("the session of c{client} is lost [MQTT-3.2.2-3]")
                }
                (_, false) => {
                    let (connection, resumable) = (
                        self.sessions[client].connection,
                        self.sessions[client].resumable,
                    );
                    self.session_ends(client);
                    self.sessions[client].connection = connection;
                    self.sessions[client].resumable = resumable;
                }
                (_, true) => {}
            }
        }
        // Whether one that was resumed for the last time is remembered is for its connection to decide.
        let session = &mut self.sessions[client];
        if !present {
            session.may_come_back = false;
            session.ever.clear();
            session.is_on_disk = false;
            session.presence = Presence::Present;
        } else if session.presence != Presence::Present {
            session.presence = Presence::Present;
            session.is_on_disk = self.has_journal && session.is_on_disk;
        }
        let now = self.now;
        for other in self.wills.values_mut().filter(|will| will.client == client) {
            if let WillState::Pending(fires_at) = other.state {
                other.state = if !present {
                    WillState::Due(now.min(fires_at))
                } else if now < fires_at {
                    WillState::Cancelled
                } else if now > fires_at + SLACK {
                    WillState::Due(fires_at)
                } else {
                    WillState::Unknown
                };
            }
        }
        if let Some(will) = will.and_then(|will| self.wills.get_mut(&will)) {
            will.state = WillState::Armed;
        }
    }

    fn acknowledged(&mut self, key: usize, client: usize, packet_id: u16, code: ReasonCode) {
        let connection = &self.connections[&key];
        let Some(message_key) = connection.inbound.get(&packet_id).copied() else {
            return;
        };
        if code.is_error() {
            if !self.journal_has_failed {
                violated!("a publish is refused without a reason: {code:?}");
            }
            return;
        }
        self.messages[message_key].acknowledged = true;
        let message = self.messages[message_key].clone();
        log(|| format!("  m{message_key} is acknowledged"));
        if message.retain && message.qos > 0 {
            let topic = self.topics.entry(message.topic).or_default();
            topic.sure = newer(&self.messages, topic.sure, message_key);
        }
        if code == ReasonCode::NoMatchingSubscribers {
            let owner = self
                .sessions
                .iter()
                .position(|session| session.expected.contains_key(&message_key));
            if let Some(owner) = owner {
                violated!("no matching subscribers, it says, but c{owner} is one");
            }
        }
        let _ = client;
    }

    fn subscribed(
        &mut self,
        key: usize,
        client: usize,
        filters: Vec<(String, bool)>,
        refused: Vec<bool>,
    ) {
        let has_ended = self.connections[&key].has_ended;
        let withdrawn: BTreeSet<String> = self.connections[&key]
            .unsubscribes
            .values()
            .flatten()
            .cloned()
            .collect();
        let now = self.now;
        let session = &mut self.sessions[client];
        for ((filter, no_local), refused) in filters.into_iter().zip(refused) {
            if refused {
                violated!("SUBSCRIBE to {filter} is refused");
            }
            if has_ended {
                continue;
            }
            session.ever.insert(filter.clone());
            if let Some(subscription) = session.subscriptions.get_mut(&filter)
                && !withdrawn.contains(&filter)
            {
                subscription.no_local = no_local;
                if !subscription.in_force || subscription.is_unsure {
                    subscription.since = now;
                }
                subscription.in_force = true;
                subscription.is_unsure = false;
            }
        }
        if !has_ended && session.resumable && self.has_journal {
            session.is_on_disk = true;
        }
    }

    fn written_publish(&mut self, key: usize, client: usize, publish: &Publish) {
        let connection = self.connections.get_mut(&key).expect("it is there");
        let topic = match publish.properties.topic_alias {
            Some(alias) if publish.topic.is_empty() => {
                let Some(topic) = connection.aliases.get(&alias.get()) else {
                    violated!("a topic alias that was never set");
                };
                topic.clone()
            }
            Some(alias) => {
                connection
                    .aliases
                    .insert(alias.get(), publish.topic.to_string());
                publish.topic.to_string()
            }
            None => publish.topic.to_string(),
        };
        let Some(message_key) = payload_key(publish) else {
            return;
        };
        let message = self.messages[message_key].clone();
        if message.topic != topic {
            violated!(
                "m{message_key} was published to {} and comes as {topic}",
                message.topic
            );
        }
        let qos = publish.qos as u8;
        if qos > message.qos {
            violated!(
                "m{message_key} was published at QoS {} and comes at {qos}",
                message.qos
            );
        }
        if connection.has_ended {
            // Written before the end and flushed after: nothing is concluded from when it comes.
            if !publish.dup && !publish.retain {
                let crashes = self.crashes;
                let sent = self.sessions[client].sent.entry(message_key);
                sent.or_insert(Sent {
                    without_dup: 0,
                    crashes,
                });
            }
            return;
        }
        if publish.dup && message.fed > 0 && message.first_fed_at > connection.accepted_at {
            violated!("m{message_key} comes for the first time, and with DUP [MQTT-3.3.1-1]");
        }
        let receive_maximum = connection
            .asked
            .as_ref()
            .map_or(0, |asked| asked.receive_maximum);
        let maximum = connection
            .asked
            .as_ref()
            .map_or(0, |asked| asked.maximum_packet_size);
        let length = publish.encoded_length(if self.facts[client].is_v5 {
            nightjar_codec::ProtocolVersion::V5
        } else {
            nightjar_codec::ProtocolVersion::V3_1_1
        });
        if length > maximum {
            violated!("a packet of {length} bytes where {maximum} are allowed [MQTT-3.1.2-24]");
        }
        if let Some(expiry) = message.expiry {
            let dead_at = message.last_fed_at + u64::from(expiry) * 1000;
            if !publish.dup && self.now > dead_at + SLACK {
                violated!("m{message_key} expired long ago [MQTT-3.3.2-5]");
            }
            let left = publish.properties.message_expiry_interval;
            if self.facts[client].is_v5 && left.is_none_or(|left| left == 0 || left > expiry) {
                violated!("m{message_key} expires in {expiry} s, it says {left:?} [MQTT-3.3.2-6]");
            }
        }
        if let Some(packet_id) = publish.packet_id {
            let packet_id = packet_id.get();
            connection.outstanding.insert(packet_id);
            if connection.outstanding.len() > receive_maximum {
                violated!(
                    "{} publishes in flight, Receive Maximum is {receive_maximum} [MQTT-3.3.4-9]",
                    connection.outstanding.len()
                );
            }
            self.check_packet_id(key, client, packet_id, message_key, publish);
        }
        self.check_subscription(client, message_key, &message);
        if message.is_will {
            self.check_will(message_key);
        }
        if message.topic.starts_with("r/") {
            self.check_retained(client, message_key, &message, publish);
        }
        if !publish.retain {
            self.check_times_and_order(client, message_key, &message, publish);
        }
        self.sessions[client].expected.remove(&message_key);
    }

    fn check_packet_id(
        &mut self,
        key: usize,
        client: usize,
        packet_id: u16,
        message: usize,
        publish: &Publish,
    ) {
        let crashes = self.crashes;
        let qos = publish.qos as u8;
        let earlier = self.sessions[client].inflight.get(&packet_id);
        let was_shared = earlier.is_some_and(|earlier| {
            // A share group without a resumable member keeps nothing on disk.
            self.copies(client, &self.messages[earlier.message].topic).1
        });
        let inflight = &mut self.sessions[client].inflight;
        if let Some(earlier) = inflight.get(&packet_id) {
            let same_life = earlier.crashes == crashes;
            // The id of a QoS 2 message is durable before the client sees it (D2).
            if earlier.message != message && (same_life || earlier.qos == 2 && !was_shared) {
                violated!(
                    "packet id {packet_id} is in flight for m{} and given to m{message} [MQTT-2.2.1-4]",
                    earlier.message
                );
            }
            if earlier.message == message {
                if earlier.connection == key {
                    violated!(
                        "m{message} twice under id {packet_id} on one connection [MQTT-4.4.0-1]"
                    );
                }
                if earlier.released && same_life {
                    violated!("m{message} again after its PUBREC [MQTT-4.3.3-5]");
                }
                if !publish.dup && (same_life || qos == 2) {
                    violated!("m{message} again under id {packet_id} without DUP [MQTT-3.3.1-1]");
                }
            }
        }
        inflight.insert(
            packet_id,
            Inflight {
                message,
                qos,
                connection: key,
                crashes,
                released: false,
            },
        );
    }

    fn check_subscription(&self, client: usize, key: usize, message: &Message) {
        let session = &self.sessions[client];
        let matched = session.ever.iter().any(|filter| {
            let inner = parse_shared(filter)
                .ok()
                .flatten()
                .map_or(&**filter, |(_, inner)| inner);
            matches(inner, &message.topic)
        });
        if !matched {
            let pending = session.subscriptions.keys().any(|filter| {
                let inner = parse_shared(filter)
                    .ok()
                    .flatten()
                    .map_or(&**filter, |(_, inner)| inner);
                matches(inner, &message.topic)
            });
            if pending {
                violated!("m{key} comes before the SUBACK of its subscription (D3)");
            }
            violated!("m{key} comes without a subscription to {}", message.topic);
        }
    }

    fn copies(&self, client: usize, topic: &str) -> (u32, bool) {
        copies_by(&self.sessions[client].ever, topic)
    }

    fn check_times_and_order(
        &mut self,
        client: usize,
        key: usize,
        message: &Message,
        publish: &Publish,
    ) {
        let (copies, is_shared) = self.copies(client, &message.topic);
        let crashes = self.crashes;
        let qos = publish.qos as u8;
        let session = &mut self.sessions[client];
        let is_first = !session.sent.contains_key(&key);
        // What a publisher has sent again at QoS 1 is published again, and late.
        let is_again = message.qos == 1 && message.fed > 1;
        if is_first && !is_shared && !message.is_will && !is_again {
            let line = (message.publisher, message.topic.clone(), message.qos, qos);
            let last = session.order.get(&line).copied();
            if let Some(last) = last.filter(|last| self.messages[*last].rank > message.rank) {
                violated!(
                    "m{key} comes behind m{last}, of the same publisher, topic and QoS [MQTT-4.6.0-6]"
                );
            }
            session.order.insert(line, key);
        }
        let sent = session.sent.entry(key).or_insert(Sent {
            without_dup: 0,
            crashes,
        });
        if publish.dup {
            return;
        }
        sent.without_dup += 1;
        if is_shared {
            return; // What a member did not acknowledge may come back to it under a new id.
        }
        let published = if message.qos == 1 {
            message.fed.max(1)
        } else {
            1
        };
        let lives = if qos == 2 {
            1
        } else {
            1 + crashes - sent.crashes
        };
        if sent.without_dup > published * copies * lives {
            violated!(
                "m{key} comes to c{client} {} times without DUP, published {published} times [MQTT-3.3.1-1]",
                sent.without_dup
            );
        }
    }

    /// A client has taken a QoS 2 message to the top, for the `times`th time in its session.
    pub(crate) fn check_used(&self, client: usize, key: usize, times: u32) {
        let message = &self.messages[key];
        // What a share group takes back from a member at QoS 1 it may give it again at QoS 2.
        let (copies, is_shared) = copies_by(&self.filters[client], &message.topic);
        let copies = if is_shared { 2 * copies } else { copies };
        // A session that did not survive a crash may have had it in its life before.
        let lives = if self.facts[client].is_durable && self.has_journal {
            1
        } else {
            1 + self.crashes
        };
        if message.qos == 2 && times > copies.max(1) * lives {
            violated!("c{client} got m{key} {times} times at QoS 2 [MQTT-4.3.3-1]");
        }
    }

    fn check_will(&self, key: usize) {
        let will = &self.wills[&key];
        let when = match will.state {
            WillState::Armed => "while its connection is open",
            WillState::Cancelled => "though it was deleted",
            WillState::Pending(fires_at) if self.now < fires_at => "before its delay is over",
            _ => return,
        };
        violated!(
            "the will m{key} of c{} is published {when} [MQTT-3.1.2-8]",
            will.client
        );
    }

    fn check_retained(&mut self, client: usize, key: usize, message: &Message, publish: &Publish) {
        let topic = self.topics.entry(message.topic.clone()).or_default();
        let is_disturbed = topic.is_disturbed;
        let session = &mut self.sessions[client];
        let mut subscriptions = session
            .subscriptions
            .iter_mut()
            .filter(|(filter, _)| matches(filter, &message.topic));
        let (Some((filter, subscription)), None) = (subscriptions.next(), subscriptions.next())
        else {
            return;
        };
        if !subscription.is_first {
            return;
        }
        if publish.dup {
            let seen = subscription
                .seen
                .entry(message.topic.clone())
                .or_insert(key);
            *seen = newer(&self.messages, Some(*seen), key).unwrap_or(key);
            return;
        }
        let floor = subscription.floor.get(&message.topic);
        if let Some(floor) = floor.filter(|floor| {
            self.messages[**floor].rank > message.rank
                && subscription.sends_retained
                && !is_disturbed
        }) {
            violated!(
                "{filter} of c{client} is shown m{key}, but m{floor} was retained before it subscribed (D17)"
            );
        }
        let seen = subscription.seen.get(&message.topic).copied();
        if let Some(seen) =
            seen.filter(|seen| self.messages[*seen].rank >= message.rank && !is_disturbed)
        {
            violated!("{filter} of c{client} is shown m{key} behind m{seen} (D17)");
        }
        subscription.seen.insert(message.topic.clone(), key);
    }

    /// The broker process is gone. `orderly`: it said goodbye and wrote everything.
    pub(crate) fn crashed(&mut self, orderly: bool) {
        self.crashes += 1;
        let open: Vec<usize> = self
            .connections
            .iter()
            .filter(|(_, connection)| !connection.has_ended)
            .map(|(key, _)| *key)
            .collect();
        if !orderly {
            // What became of a will is on disk a little later (D10).
            for will in self.wills.values_mut() {
                will.state = WillState::Unknown;
            }
        }
        for key in open {
            self.ended(key);
        }
        for client in 0..self.sessions.len() {
            let session = &mut self.sessions[client];
            let survives = self.has_journal
                && self.facts[client].is_durable
                && session.presence == Presence::Present
                && session.resumable
                && (session.is_on_disk || orderly);
            if survives {
                continue;
            }
            if !self.has_journal {
                for will in self.wills.values_mut() {
                    will.state = match will.state {
                        WillState::Pending(_) => WillState::Unknown,
                        other => other,
                    };
                }
                self.session_ends(client);
                self.sessions[client].ever.clear();
            } else if session.presence != Presence::Absent || session.may_come_back {
                self.session_is_uncertain(client);
            }
        }
        for topic in self.topics.values_mut() {
            topic.is_disturbed = true;
            if !self.has_journal {
                topic.sure = None;
            }
        }
        for (name, topic) in &mut self.topics {
            // A retained QoS 0 PUBLISH promises nothing (D11).
            let keeps = topic.sure.is_some_and(|key| self.messages[key].qos > 0);
            if !keeps && !orderly {
                topic.sure = None;
                log(|| format!("  nothing is sure of {name}"));
            }
        }
        // What a session that is open again without its client had been shown counts no more.
        if !self.has_journal {
            self.groups.clear();
        }
    }

    /// Whether this connection has been silent for so long that the broker must have closed it.
    pub(crate) fn keep_alive_is_long_over(&self, key: usize) -> bool {
        self.connections.get(&key).is_some_and(|connection| {
            let keep_alive = connection
                .asked
                .as_ref()
                .map_or(0, |asked| asked.keep_alive);
            keep_alive > 0 && self.now > connection.last_fed + u64::from(keep_alive) * 1500 + SLACK
        })
    }

    /// Whether the broker may end this connection without having been asked.
    pub(crate) fn check_broker_closes(&self, key: usize) {
        let Some(connection) = self.connections.get(&key) else {
            return;
        };
        let fine = connection.has_ended
            || self.journal_has_failed
            || keep_alive_has_passed(connection, self.now)
            || self.facts[connection.client].overruns
            || !connection.is_accepted;
        if !fine {
            violated!("the broker closes the connection of c{}", connection.client);
        }
    }

    /// Bytes arrived, of whatever part of a packet.
    pub(crate) fn heard(&mut self, key: usize) {
        if let Some(connection) = self.connections.get_mut(&key) {
            connection.last_fed = self.now;
        }
    }

    /// Everything has drained: what was promised has to have been kept.
    pub(crate) fn check_at_rest(&self) {
        for (client, session) in self.sessions.iter().enumerate() {
            let missing = session
                .expected
                .keys()
                .find(|key| self.messages[**key].acknowledged);
            if let Some(key) = missing {
                violated!("m{key} was acknowledged and has not come to c{client} (D1)");
            }
            let is_online = session.connection.is_some();
            if is_online
                && let Some((packet_id, inflight)) = session.inflight.first_key_value()
                && inflight.crashes == self.crashes
            {
                violated!(
                    "id {packet_id} (m{}) of c{client} never ends",
                    inflight.message
                );
            }
            self.check_states(client, session);
        }
        for (filter, group) in &self.groups {
            let missing = group
                .expected
                .iter()
                .find(|key| self.messages[**key].acknowledged && !group.taken.contains(key));
            if let Some(key) = missing {
                violated!("m{key} was acknowledged and no member of {filter} has had it (D8)");
            }
        }
        self.check_wills_at_rest();
    }

    /// The last retained state is the last one each subscription has seen.
    fn check_states(&self, client: usize, session: &Session) {
        for (filter, subscription) in &session.subscriptions {
            let counts = subscription.is_first
                && subscription.sends_retained
                && subscription.in_force
                && !subscription.is_unsure
                && session.is_certain();
            if !counts {
                continue;
            }
            for (name, topic) in &self.topics {
                // What was taken in later may hold without having been acknowledged.
                let is_last = topic.sure == topic.last;
                let Some(sure) = topic.sure.filter(|_| is_last && matches(filter, name)) else {
                    continue;
                };
                let message = &self.messages[sure];
                let reliable = message.qos > 0
                    && subscription.qos > 0
                    && self.facts[client].is_durable
                    && self.facts[client].takes_all
                    && (self.facts[client].is_v5 || !message.deletes)
                    && !subscription.no_local;
                let seen = subscription.seen.get(name).copied();
                // Deleted before the subscription took effect, there is nothing to see.
                let may_be_unseen = message.deletes && seen.is_none();
                if reliable
                    && !may_be_unseen
                    && seen.is_none_or(|seen| self.messages[seen].rank < message.rank)
                {
                    violated!(
                        "{filter} of c{client} has seen {seen:?} of {name}, but m{sure} is retained (D17)"
                    );
                }
            }
        }
    }

    fn check_wills_at_rest(&self) {
        for (key, will) in &self.wills {
            let message = &self.messages[*key];
            let due = match will.state {
                WillState::Due(at) => at,
                WillState::Pending(at) if self.now > at + SLACK => at,
                _ => continue,
            };
            if message.qos == 0 || self.journal_has_failed {
                continue;
            }
            for (client, session) in self.sessions.iter().enumerate() {
                let watches = session.subscriptions.iter().any(|(filter, subscription)| {
                    subscription.in_force
                        && !subscription.is_unsure
                        && subscription.qos > 0
                        && subscription.since < due
                        && matches(filter, &message.topic)
                });
                let is_owner = client != will.client
                    && session.is_certain()
                    && self.facts[client].is_durable
                    && session.resumable;
                if watches
                    && is_owner
                    && self.facts[client].takes_all
                    && !session.sent.contains_key(key)
                {
                    violated!(
                        "the will m{key} of c{} has not come to c{client}",
                        will.client
                    );
                }
            }
        }
    }

    /// The filters of a session as the broker has them, against those that were asked for.
    pub(crate) fn check_subscriptions(&self, client: usize, filters: &BTreeSet<String>) {
        let session = &self.sessions[client];
        if !session.is_certain() {
            return;
        }
        for (filter, subscription) in &session.subscriptions {
            if subscription.in_force && !subscription.is_unsure && !filters.contains(filter) {
                violated!("c{client} has subscribed to {filter}, the broker has forgotten it");
            }
        }
        for filter in filters {
            if !session.subscriptions.contains_key(filter) {
                violated!("c{client} is subscribed to {filter}, but has not asked for it");
            }
        }
    }
}

impl Session {
    fn new() -> Self {
        Self {
            presence: Presence::Absent,
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

fn payload_message(payload: &[u8]) -> usize {
    std::str::from_utf8(payload)
        .ok()
        .and_then(|text| text.get(..6))
        .and_then(|text| text.parse().ok())
        .expect("a simulated will says which message it is")
}

/// How late a stalled shard may be, milliseconds.
const SLACK: u64 = 8000;
