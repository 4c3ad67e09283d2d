//! Clients that keep every rule: what the broker must be able to serve without harm to anybody.
//!
//! In come packets and orders of the world (publish something, subscribe, go); out go bytes. A client remembers across
//! connections what the standard asks it to (unfinished QoS 1 and 2 in both directions) and sends again what it must. It is
//! slow where the world wants it to be, silent, or gone, but never wrong: whatever the broker accuses it of is a fault.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::{NonZeroU16, NonZeroU32};

use nightjar_codec::packet::{
    Connect, ConnectProperties, Disconnect, DisconnectProperties, Publish, PublishProperties,
    Subscribe, SubscribeFilter, SubscribeProperties, SubscriptionOptions, Unsubscribe,
    UnsubscribeProperties, Will, WillProperties,
};
use nightjar_codec::{Packet, PacketId, ProtocolVersion, QoS, ReasonCode, RetainHandling};

use crate::broker::PASSWORD;
use crate::log::log;
use crate::model::{Message, Model};
use crate::random::Random;
use crate::wire::{Splitter, acknowledgement, describe, encode, payload, payload_key, qos};

/// How long the server is to remember the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// As long as it is connected.
    Clean,
    /// For longer than the world lasts.
    Durable,
    /// For a few seconds.
    Short,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    Offline,
    Connecting,
    Online,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Puback,
    Pubrec,
    Pubcomp,
}

/// A publish of ours that is not finished.
#[derive(Clone, Debug)]
struct Outgoing {
    packet_id: u16,
    message: usize,
    stage: Stage,
}

pub(crate) struct Client {
    pub(crate) index: usize,
    pub(crate) name: String,
    pub(crate) version: ProtocolVersion,
    pub(crate) kind: Kind,
    pub(crate) link: Option<usize>,
    pub(crate) phase: Phase,
    pub(crate) since: u64,
    /// Bytes for the present connection.
    pub(crate) out: Vec<u8>,
    /// Acknowledgements it is still thinking about, in order.
    pub(crate) acknowledgements: VecDeque<Packet>,
    /// Takes its time to acknowledge.
    pub(crate) is_slow: bool,
    /// Leaves more QoS 2 unreleased than the broker likes (D22).
    pub(crate) overruns: bool,
    pub(crate) keep_alive: u16,
    pub(crate) last_sent: u64,
    pub(crate) retained_qos: u8,
    receive_maximum: Option<u16>,
    pub(crate) maximum_packet_size: Option<u32>,
    alias_maximum: u16,
    expiry: u32,
    expiry_at_connect: u32,
    asked_clean: bool,
    /// It has forgotten its session, and the broker is to do the same before anything else.
    has_forgotten: bool,
    /// It remembers a session.
    has_session: bool,
    outgoing: Vec<Outgoing>,
    received: BTreeSet<u16>,
    pending: BTreeSet<u16>,
    next_packet_id: u16,
    aliases: Vec<String>,
    splitter: Splitter,
    /// How often each QoS 2 message came out at the top.
    used: BTreeMap<usize, u32>,
}

pub(crate) const TOPICS: [&str; 4] = ["a/x", "a/y", "b/x", "b/y/z"];
const FILTERS: [&str; 14] = [
    "a/x",
    "a/+",
    "a/#",
    "b/x",
    "+/x",
    "b/#",
    "#",
    "r/+",
    "r/#",
    "w/+",
    "w/#",
    "$share/g/a/x",
    "$share/g/a/+",
    "$share/h/b/#",
];

impl Client {
    pub(crate) fn new(index: usize, random: &mut Random) -> Self {
        let version = if random.chance(50) {
            ProtocolVersion::V5
        } else {
            ProtocolVersion::V3_1_1
        };
        let is_v5 = version.is_v5();
        let kind = match random.below(100) {
            _ if index == 0 => Kind::Durable,
            0..60 => Kind::Durable,
            60..75 if is_v5 => Kind::Short,
            _ => Kind::Clean,
        };
        let expiry = match kind {
            Kind::Clean => 0,
            Kind::Durable if random.chance(50) => u32::MAX,
            Kind::Durable => 100_000,
            Kind::Short => u32::try_from(random.between(2, 6)).expect("small"),
        };
        Self {
            index,
            name: format!("c{index}"),
            version,
            kind,
            link: None,
            phase: Phase::Offline,
            since: 0,
            out: Vec::new(),
            acknowledgements: VecDeque::new(),
            is_slow: random.chance(30),
            overruns: !is_v5 && random.chance(20),
            keep_alive: *random.pick(&[0, 0, 5, 10, 60]),
            last_sent: 0,
            retained_qos: u8::try_from(random.below(3)).expect("small"),
            receive_maximum: (is_v5 && random.chance(50))
                .then(|| u16::try_from(random.between(1, 4)).expect("small")),
            maximum_packet_size: (is_v5 && random.chance(10)).then_some(400),
            alias_maximum: if is_v5 && random.chance(40) { 3 } else { 0 },
            expiry,
            expiry_at_connect: 0,
            asked_clean: false,
            has_forgotten: false,
            has_session: false,
            outgoing: Vec::new(),
            received: BTreeSet::new(),
            pending: BTreeSet::new(),
            next_packet_id: 0,
            aliases: Vec::new(),
            splitter: Splitter::default(),
            used: BTreeMap::new(),
        }
    }

    pub(crate) fn is_v5(&self) -> bool {
        self.version.is_v5()
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.outgoing.is_empty() && self.pending.is_empty() && self.acknowledgements.is_empty()
    }

    pub(crate) fn unfinished(&self) -> String {
        format!(
            "{:?} outgoing {:?} awaiting {:?} thinking {}",
            self.phase,
            self.outgoing,
            self.pending,
            self.acknowledgements.len()
        )
    }

    /// Says CONNECT on a new connection. What was on the old one is forgotten.
    pub(crate) fn connect(
        &mut self,
        now: u64,
        link: usize,
        asked: Asked,
        model: &mut Model,
        random: &mut Random,
    ) {
        self.lost();
        self.link = Some(link);
        self.phase = Phase::Connecting;
        self.since = now;
        self.splitter = Splitter::default();
        let (clean_start, expiry) = match (asked, self.kind) {
            (Asked::Usual, Kind::Clean) => (true, 0),
            (Asked::Usual, _) => (false, self.expiry),
            (Asked::CleanStart, _) if self.is_v5() => (true, self.expiry),
            (Asked::CleanStart | Asked::NothingKept, _) => (true, 0),
            (Asked::LastTime, _) if self.is_v5() => (false, 0),
            (Asked::LastTime, _) => (true, 0),
        };
        let clean_start = clean_start || self.has_forgotten;
        let expiry = if clean_start && !self.is_v5() {
            0
        } else {
            expiry
        };
        self.asked_clean = clean_start;
        self.expiry_at_connect = if !self.is_v5() && !clean_start {
            u32::MAX
        } else {
            expiry
        };
        if clean_start {
            self.forget_session();
            self.has_forgotten = true;
        }
        let will = (asked != Asked::NothingKept && random.chance(40))
            .then(|| self.will(now, model, random));
        let mut properties = ConnectProperties::default();
        if self.is_v5() {
            properties.session_expiry_interval = (expiry > 0).then_some(expiry);
            properties.receive_maximum = self.receive_maximum.and_then(NonZeroU16::new);
            properties.maximum_packet_size = self.maximum_packet_size.and_then(NonZeroU32::new);
            properties.topic_alias_maximum = (self.alias_maximum > 0).then_some(self.alias_maximum);
        }
        self.send(&Packet::Connect(Box::new(Connect {
            protocol_version: self.version,
            bridge: false,
            clean_start,
            keep_alive: self.keep_alive,
            client_id: self.name.as_str().into(),
            will,
            username: Some(self.name.as_str().into()),
            password: Some(PASSWORD.into()),
            properties,
        })));
    }

    fn will(&self, now: u64, model: &mut Model, random: &mut Random) -> Will {
        let level = u8::try_from(random.below(3)).expect("small");
        let topic = format!("w/{}", self.name);
        let key = model.new_message(Message {
            is_will: true,
            ..Message::new(self.index, &topic, level, now)
        });
        let delay = if self.is_v5() {
            *random.pick(&[0, 0, 1, 3, 8])
        } else {
            0
        };
        Will {
            topic: topic.into(),
            payload: payload(key, 0).into(),
            qos: qos(level),
            retain: false,
            properties: WillProperties {
                will_delay_interval: (delay > 0).then_some(delay),
                ..WillProperties::default()
            },
        }
    }

    /// The connection is gone, whoever did it.
    pub(crate) fn lost(&mut self) {
        if self.link.is_some() && self.expiry_at_connect == 0 {
            // What was to end with this connection has ended, if the broker has heard of it.
            self.has_forgotten |= self.phase == Phase::Connecting;
            self.forget_session();
        }
        self.link = None;
        self.phase = Phase::Offline;
        self.out.clear();
        self.acknowledgements.clear();
        self.pending.clear();
        self.aliases.clear();
    }

    fn forget_session(&mut self) {
        self.outgoing.clear();
        self.received.clear();
        self.used.clear();
        self.has_session = false;
    }

    /// Bytes of the present connection. Gives false when the broker said goodbye.
    pub(crate) fn receive(&mut self, now: u64, piece: &[u8], model: &mut Model) -> bool {
        for packet in self.splitter.feed(piece, self.version) {
            log(|| format!("{} <- {}", self.name, describe(&packet)));
            if !self.handle(now, packet, model) {
                return false;
            }
        }
        true
    }

    fn handle(&mut self, now: u64, packet: Packet, model: &mut Model) -> bool {
        match packet {
            Packet::Connack(connack) => {
                if connack.reason_code != ReasonCode::Success {
                    return false;
                }
                self.phase = Phase::Online;
                self.since = now;
                self.has_forgotten = false;
                if connack.session_present && !self.has_session {
                    self.has_forgotten = true; // [MQTT-3.2.2-4]
                    return false;
                }
                if connack.session_present {
                    self.send_again(model);
                } else if !self.asked_clean {
                    self.forget_session();
                }
                self.has_session = true;
            }
            Packet::Publish(publish) => self.handle_publish(&publish, model),
            Packet::Puback(packet) => {
                let packet_id = packet.packet_id.get();
                self.outgoing
                    .retain(|one| one.packet_id != packet_id || one.stage != Stage::Puback);
            }
            Packet::Pubrec(packet) => {
                let packet_id = packet.packet_id.get();
                if packet.reason_code.is_error() {
                    self.outgoing.retain(|one| one.packet_id != packet_id);
                } else {
                    for one in &mut self.outgoing {
                        if one.packet_id == packet_id {
                            one.stage = Stage::Pubcomp;
                        }
                    }
                    self.acknowledgements
                        .push_back(Packet::Pubrel(acknowledgement(packet_id)));
                }
            }
            Packet::Pubrel(packet) => {
                self.received.remove(&packet.packet_id.get());
                self.acknowledgements
                    .push_back(Packet::Pubcomp(acknowledgement(packet.packet_id.get())));
            }
            Packet::Pubcomp(packet) => {
                let packet_id = packet.packet_id.get();
                self.outgoing.retain(|one| one.packet_id != packet_id);
            }
            Packet::Suback(suback) => {
                self.pending.remove(&suback.packet_id.get());
            }
            Packet::Unsuback(unsuback) => {
                self.pending.remove(&unsuback.packet_id.get());
            }
            Packet::Pingresp => {}
            Packet::Disconnect(_) => return false,
            other => panic!("violation: a server sent {}", describe(&other)),
        }
        true
    }

    fn handle_publish(&mut self, publish: &Publish, model: &mut Model) {
        let key = payload_key(publish);
        match (publish.qos, publish.packet_id) {
            (QoS::AtLeastOnce, Some(packet_id)) => self
                .acknowledgements
                .push_back(Packet::Puback(acknowledgement(packet_id.get()))),
            (QoS::ExactlyOnce, Some(packet_id)) => {
                let is_new = self.received.insert(packet_id.get());
                if let (true, false, Some(key)) = (is_new, publish.retain, key) {
                    let used = self.used.entry(key).or_default();
                    *used += 1;
                    model.check_used(self.index, key, *used);
                }
                self.acknowledgements
                    .push_back(Packet::Pubrec(acknowledgement(packet_id.get())));
            }
            _ => {}
        }
    }

    /// [MQTT-4.4.0-1]
    fn send_again(&mut self, model: &Model) {
        for one in self.outgoing.clone() {
            if one.stage == Stage::Pubcomp {
                self.send(&Packet::Pubrel(acknowledgement(one.packet_id)));
            } else {
                let publish = publish_packet(model, one.message, Some(one.packet_id), true);
                self.send(&Packet::Publish(publish));
            }
        }
    }

    /// Says what it has been thinking about.
    pub(crate) fn acknowledge(&mut self, count: usize) {
        for _ in 0..count {
            let Some(packet) = self.acknowledgements.pop_front() else {
                return;
            };
            self.send(&packet);
        }
    }

    /// Publishes something. While it is `certain` who it talks to: QoS 2 needs that both sides remember the same.
    pub(crate) fn publish(
        &mut self,
        now: u64,
        certain: bool,
        model: &mut Model,
        random: &mut Random,
    ) {
        let levels = if certain { 3 } else { 2 };
        let mut level = u8::try_from(random.below(levels)).expect("small");
        let retain = certain && random.chance(20);
        let topic = if retain {
            level = self.retained_qos;
            format!("r/{}", self.name)
        } else {
            (*random.pick(&TOPICS)).to_owned()
        };
        let quota = if self.overruns { 40 } else { 20 };
        if level > 0 && self.outgoing.len() >= quota {
            return;
        }
        let deletes = retain && self.is_v5() && random.chance(10);
        let key = model.new_message(Message {
            retain,
            deletes,
            expiry: (!retain && self.is_v5() && random.chance(10))
                .then(|| u32::try_from(random.between(1, 5)).expect("small")),
            length: if random.chance(5) {
                1500
            } else {
                random.index(40)
            },
            ..Message::new(self.index, &topic, level, now)
        });
        let packet_id = (level > 0).then(|| self.take_packet_id());
        if let Some(packet_id) = packet_id {
            let stage = if level == 1 {
                Stage::Puback
            } else {
                Stage::Pubrec
            };
            self.outgoing.push(Outgoing {
                packet_id,
                message: key,
                stage,
            });
        }
        let mut publish = publish_packet(model, key, packet_id, false);
        if self.is_v5() && random.chance(50) {
            self.put_alias(&mut publish);
        }
        self.send(&Packet::Publish(publish));
    }

    fn put_alias(&mut self, publish: &mut Publish) {
        let known = self
            .aliases
            .iter()
            .position(|topic| **topic == *publish.topic);
        let place = known.unwrap_or_else(|| {
            self.aliases.push(publish.topic.to_string());
            self.aliases.len() - 1
        });
        if place >= 10 {
            self.aliases.truncate(10);
            return;
        }
        publish.properties.topic_alias = NonZeroU16::new(u16::try_from(place + 1).expect("small"));
        if known.is_some() {
            publish.topic = "".into();
        }
    }

    pub(crate) fn subscribe(&mut self, random: &mut Random) {
        let packet_id = self.take_packet_id();
        let mut filters: Vec<SubscribeFilter> = Vec::new();
        for _ in 0..random.between(1, 3) {
            let filter = *random.pick(&FILTERS);
            if filters.iter().any(|other| &*other.topic_filter == filter) {
                continue;
            }
            let is_shared = filter.starts_with("$share");
            let level = if is_shared {
                random.between(1, 2)
            } else {
                *random.pick(&[0, 1, 1, 2, 2])
            };
            filters.push(SubscribeFilter {
                topic_filter: filter.into(),
                options: SubscriptionOptions {
                    qos: qos(u8::try_from(level).expect("small")),
                    no_local: self.is_v5() && !is_shared && random.chance(15),
                    retain_as_published: false,
                    retain_handling: if self.is_v5() {
                        *random.pick(&[
                            RetainHandling::Send,
                            RetainHandling::Send,
                            RetainHandling::SendIfNew,
                            RetainHandling::DoNotSend,
                        ])
                    } else {
                        RetainHandling::Send
                    },
                },
            });
        }
        self.pending.insert(packet_id);
        self.send(&Packet::Subscribe(Subscribe {
            packet_id: PacketId::new(packet_id).expect("not 0"),
            properties: SubscribeProperties {
                subscription_identifier: (self.is_v5() && random.chance(30))
                    .then(|| u32::try_from(random.between(1, 200)).expect("small")),
                ..SubscribeProperties::default()
            },
            filters,
        }));
    }

    pub(crate) fn unsubscribe(&mut self, random: &mut Random) {
        let packet_id = self.take_packet_id();
        self.pending.insert(packet_id);
        self.send(&Packet::Unsubscribe(Unsubscribe {
            packet_id: PacketId::new(packet_id).expect("not 0"),
            properties: UnsubscribeProperties::default(),
            topic_filters: vec![(*random.pick(&FILTERS)).into()],
        }));
    }

    pub(crate) fn ping(&mut self) {
        self.send(&Packet::Pingreq);
    }

    /// DISCONNECT. `ends`: the session, too, where the version has a way to say it.
    pub(crate) fn disconnect(&mut self, ends: bool, with_will: bool) {
        let session_expiry_interval =
            (ends && self.is_v5() && self.expiry_at_connect > 0).then_some(0);
        let reason_code = if with_will && self.is_v5() {
            ReasonCode::DisconnectWithWillMessage
        } else {
            ReasonCode::Success
        };
        self.send(&Packet::Disconnect(Disconnect {
            reason_code,
            properties: DisconnectProperties {
                session_expiry_interval,
                ..DisconnectProperties::default()
            },
        }));
        if session_expiry_interval == Some(0) {
            self.expiry_at_connect = 0;
        }
    }

    fn take_packet_id(&mut self) -> u16 {
        loop {
            // A small ring, so that ids come round often.
            self.next_packet_id = self.next_packet_id % 90 + 1;
            let id = self.next_packet_id;
            if !self.pending.contains(&id) && self.outgoing.iter().all(|one| one.packet_id != id) {
                return id;
            }
        }
    }

    fn send(&mut self, packet: &Packet) {
        log(|| format!("{} -> {}", self.name, describe(packet)));
        self.out.extend_from_slice(&encode(packet, self.version));
    }
}

/// What kind of CONNECT the world wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Asked {
    /// As the client's kind is.
    Usual,
    /// Clean Start; a 5.0 client is remembered from then on.
    CleanStart,
    /// Resumes what there is, for the last time: it ends with this connection.
    LastTime,
    /// Neither before nor after, and no will: the end.
    NothingKept,
}

fn publish_packet(model: &Model, key: usize, packet_id: Option<u16>, dup: bool) -> Publish {
    let message = model.message(key);
    let mut properties = PublishProperties {
        message_expiry_interval: message.expiry,
        ..PublishProperties::default()
    };
    if message.deletes {
        properties.user_properties = vec![("key".into(), key.to_string().into())];
    }
    Publish {
        dup,
        qos: qos(message.qos),
        retain: message.retain,
        topic: message.topic.as_str().into(),
        packet_id: packet_id.and_then(PacketId::new),
        properties,
        payload: if message.deletes {
            Vec::new().into()
        } else {
            payload(key, message.length).into()
        },
    }
}
