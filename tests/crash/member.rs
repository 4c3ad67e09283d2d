//! A client whose session outlives everything: a publisher, a subscriber, or both. It keeps its half of the session over every kill and
//! resumes its exchanges as the standard asks: PUBLISH again with DUP, PUBREL again, ids of received QoS 2 messages until PUBREL.
//!
//! In: packets. Out: packets, and to the model what they mean. It knows nothing of the broker but its port.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU16;
use std::time::Instant;

use nightjar_codec::{
    Acknowledgement, Connack, Connect, ConnectProperties, Disconnect, DisconnectProperties, Packet,
    PacketId, ProtocolVersion, Publish, PublishProperties, QoS, ReasonCode, Subscribe,
    SubscribeFilter, SubscribeProperties, SubscriptionOptions, Unsubscribe, UnsubscribeProperties,
};

use crate::link::Link;
use crate::model::{Kind, Model, payload, read_payload, violated};
use crate::random::Random;
use crate::trace::Event;

/// What a member is like, all its life.
#[derive(Clone, Debug)]
pub(crate) struct Traits {
    pub(crate) id: String,
    pub(crate) version: ProtocolVersion,
    /// Its subscription, and who the model counts for it.
    pub(crate) filter: String,
    pub(crate) qos: QoS,
    pub(crate) receiver: Option<usize>,
    pub(crate) receive_maximum: Option<u16>,
    /// It takes its time to acknowledge.
    pub(crate) is_slow: bool,
    /// It is away at times.
    pub(crate) comes_and_goes: bool,
    /// It unsubscribes and begins anew.
    pub(crate) churns: bool,
    /// What it publishes.
    pub(crate) streams: Vec<usize>,
}

pub(crate) struct Member {
    pub(crate) traits: Traits,
    pub(crate) link: Option<Link>,
    /// Network Connections so far.
    connection: u64,
    is_serving: bool,
    session: Presence,
    /// Asked for with CONNECT, and not answered.
    clean_start: bool,
    is_subscribed: bool,
    /// The SUBSCRIBE (true) or UNSUBSCRIBE that is to be answered; sent again over the next connection.
    change: Option<bool>,
    change_id: Option<PacketId>,
    in_flight: VecDeque<InFlight>,
    last_id: u16,
    /// QoS 2 messages received and not released.
    unreleased: BTreeMap<PacketId, Unreleased>,
    answers: VecDeque<Packet>,
    /// It stays away so long.
    pub(crate) away: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Presence {
    Absent,
    /// CONNACK of a new session waits for nothing (D2).
    Either,
    Present,
    /// Of a 3.1.1 client that has begun anew: it ends with the connection [v3 MQTT-3.1.2-6].
    Transient,
}

struct InFlight {
    packet_id: PacketId,
    stream: usize,
    number: u64,
    publish: Publish,
    /// PUBREC has come.
    is_received: bool,
}

struct Unreleased {
    payload: Vec<u8>,
    connection: u64,
}

/// What a member may use while it acts.
pub(crate) struct Turn<'a> {
    pub(crate) now: Instant,
    pub(crate) broker_started: Instant,
    pub(crate) model: &'a mut Model,
    pub(crate) random: &'a mut Random,
    /// Messages that may still be sent before the next kill.
    pub(crate) budget: &'a mut u32,
    /// Nothing new is begun.
    pub(crate) is_resting: bool,
}

impl Member {
    pub(crate) fn new(traits: Traits) -> Self {
        Self {
            traits,
            link: None,
            connection: 0,
            is_serving: false,
            session: Presence::Absent,
            clean_start: false,
            is_subscribed: false,
            change: Some(true),
            change_id: None,
            in_flight: VecDeque::new(),
            last_id: 0,
            unreleased: BTreeMap::new(),
            answers: VecDeque::new(),
            away: false,
        }
    }

    /// Opens a Network Connection and sends CONNECT.
    pub(crate) fn connect(&mut self, port: u16, turn: &mut Turn<'_>) {
        let Some(link) = Link::open(port, self.traits.version) else {
            return;
        };
        self.link = Some(link);
        self.connection += 1;
        self.is_serving = false;
        self.answers.clear();
        let was_transient = self.session == Presence::Transient;
        self.clean_start = self.traits.churns && !turn.is_resting && turn.random.chance(20);
        if was_transient {
            self.session = Presence::Absent;
        }
        if self.clean_start {
            self.say(turn, "begins anew");
            self.session = Presence::Either;
        }
        if self.clean_start || was_transient {
            self.is_subscribed = false;
            self.change = Some(true);
            if let Some(receiver) = self.traits.receiver {
                turn.model.unsubscribing(receiver);
            }
        }
        let mut properties = ConnectProperties::default();
        if self.traits.version.is_v5() {
            properties.session_expiry_interval = Some(u32::MAX);
            properties.receive_maximum = self.traits.receive_maximum.and_then(NonZeroU16::new);
        }
        let connect = Connect {
            protocol_version: self.traits.version,
            bridge: false,
            clean_start: self.clean_start,
            keep_alive: 0,
            client_id: self.traits.id.as_str().into(),
            will: None,
            username: None,
            password: None,
            properties,
        };
        self.send(Packet::Connect(Box::new(connect)));
        self.flush();
    }

    /// The Network Connection is gone.
    pub(crate) fn forget_link(&mut self) {
        self.link = None;
        self.is_serving = false;
        self.answers.clear();
    }

    /// Ends the Network Connection, with DISCONNECT or without.
    pub(crate) fn leave(&mut self, turn: &mut Turn<'_>, politely: bool) {
        self.say(
            turn,
            if politely {
                "disconnects"
            } else {
                "drops its connection"
            },
        );
        if politely {
            self.send(Packet::Disconnect(Disconnect {
                reason_code: ReasonCode::Success,
                properties: DisconnectProperties::default(),
            }));
            self.flush();
        }
        self.forget_link();
    }

    pub(crate) fn flush(&mut self) {
        if let Some(link) = &mut self.link {
            link.flush();
        }
    }

    /// Takes in all packets that have come.
    pub(crate) fn receive(&mut self, turn: &mut Turn<'_>) {
        if let Some(link) = &mut self.link {
            link.fill();
        }
        while let Some(packet) = self.link.as_mut().and_then(Link::next_packet) {
            self.handle(packet, turn);
        }
    }

    /// Sends what it has to say.
    pub(crate) fn act(&mut self, turn: &mut Turn<'_>) {
        if !self.is_serving {
            return;
        }
        let answers = match self.traits.is_slow && !turn.is_resting {
            true => usize::try_from(turn.random.below(6)).expect("a few"),
            false => usize::MAX,
        };
        for _ in 0..answers.min(self.answers.len()) {
            if let Some(answer) = self.answers.pop_front() {
                self.send(answer);
            }
        }
        self.publish_some(turn);
        if self.traits.churns && self.change.is_none() && !turn.is_resting && turn.random.chance(3)
        {
            self.change = Some(!self.is_subscribed);
            self.ask_for_change(turn);
        }
        self.flush();
    }

    /// Nothing is on its way, as far as it can tell.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.is_serving
            && self.in_flight.is_empty()
            && self.change.is_none()
            && self.answers.is_empty()
            && self.unreleased.is_empty()
    }

    pub(crate) fn describe(&self) -> String {
        format!(
            "{}: serving {}, {} in flight (first {:?}), change {:?}, {} unreleased, {} answers",
            self.traits.id,
            self.is_serving,
            self.in_flight.len(),
            self.in_flight
                .front()
                .map(|it| (it.packet_id, it.number, it.is_received)),
            self.change,
            self.unreleased.len(),
            self.answers.len(),
        )
    }

    /// Its session and its subscription are durable.
    pub(crate) fn is_known(&self) -> bool {
        self.session == Presence::Present
    }

    pub(crate) fn is_serving(&self) -> bool {
        self.is_serving
    }

    fn publish_some(&mut self, turn: &mut Turn<'_>) {
        let may_publish = !turn.is_resting && self.session == Presence::Present;
        if self.traits.streams.is_empty() || !may_publish || turn.random.chance(30) {
            return;
        }
        for _ in 0..turn.random.between(1, 6) {
            if self.in_flight.len() >= WINDOW || *turn.budget == 0 {
                return;
            }
            *turn.budget -= 1;
            let stream = *turn.random.pick(&self.traits.streams);
            let (kind, qos) = (
                turn.model.streams[stream].kind,
                turn.model.streams[stream].qos,
            );
            let clears = kind == Kind::Retained && turn.random.chance(20);
            let number = turn.model.sent(turn.now, stream, clears);
            let length = length(turn.random);
            let of = &turn.model.streams[stream];
            let packet_id = self.next_id();
            let publish = Publish {
                dup: false,
                qos,
                retain: kind == Kind::Retained,
                topic: of.topic.as_str().into(),
                packet_id: Some(packet_id),
                properties: PublishProperties {
                    message_expiry_interval: of.expiry,
                    ..PublishProperties::default()
                },
                payload: match clears {
                    true => Vec::new().into(),
                    false => payload(stream, number, length).into(),
                },
            };
            self.send(Packet::Publish(publish.clone()));
            self.in_flight.push_back(InFlight {
                packet_id,
                stream,
                number,
                publish,
                is_received: false,
            });
        }
    }

    fn handle(&mut self, packet: Packet, turn: &mut Turn<'_>) {
        match packet {
            Packet::Connack(connack) => self.handle_connack(&connack, turn),
            _ if !self.is_serving => violated!("{}: {packet:?} before CONNACK", self.traits.id),
            Packet::Publish(publish) => self.handle_publish(publish, turn),
            Packet::Puback(puback) => self.handle_puback(&puback, turn),
            Packet::Pubrec(pubrec) => self.handle_pubrec(&pubrec, turn),
            Packet::Pubrel(pubrel) => self.handle_pubrel(&pubrel),
            Packet::Pubcomp(pubcomp) => self.handle_pubcomp(&pubcomp),
            Packet::Suback(suback) => {
                let granted = suback.reason_codes.first().map(|code| *code as u8);
                if self.change != Some(true) || granted != Some(self.traits.qos.as_u8()) {
                    violated!("{}: {suback:?}", self.traits.id);
                }
                self.is_changed(suback.packet_id, true, turn);
            }
            Packet::Unsuback(unsuback) => {
                if self.change != Some(false) {
                    violated!("{}: {unsuback:?}", self.traits.id);
                }
                self.is_changed(unsuback.packet_id, false, turn);
            }
            other => violated!("{}: the broker sends {other:?}", self.traits.id),
        }
    }

    fn handle_connack(&mut self, connack: &Connack, turn: &mut Turn<'_>) {
        let id = &self.traits.id;
        if connack.reason_code != ReasonCode::Success || self.is_serving {
            violated!("{id}: {connack:?}");
        }
        let expected = match (self.clean_start, self.session) {
            (true, _) | (_, Presence::Absent) => Some(false),
            (_, Presence::Present) => Some(true),
            (_, Presence::Either | Presence::Transient) => None,
        };
        if expected.is_some_and(|expected| expected != connack.session_present) {
            violated!("{id}: session present is {}", connack.session_present);
        }
        self.is_serving = true;
        turn.model.counts.resumed += u64::from(connack.session_present);
        if !connack.session_present {
            // What the session had, the client forgets, too [MQTT-3.2.2-5].
            self.session = match self.clean_start && !self.traits.version.is_v5() {
                true => Presence::Transient,
                false => Presence::Either,
            };
            self.unreleased.clear();
            if self.is_subscribed {
                violated!("{}: its subscription is gone", self.traits.id);
            }
            if self.clean_start
                && let Some(receiver) = self.traits.receiver
            {
                turn.model.unsubscribed(receiver);
            }
            // A subscriber is to be one; the session counts from SUBACK on.
            self.change = Some(true);
        }
        self.say(turn, "is served");
        // [MQTT-4.4.0-1] In the order in which they were sent [MQTT-4.6.0-1].
        for index in 0..self.in_flight.len() {
            let in_flight = &mut self.in_flight[index];
            let packet = match in_flight.is_received {
                true => Packet::Pubrel(Acknowledgement::success(in_flight.packet_id)),
                false => {
                    // [MQTT-3.3.1-1]
                    in_flight.publish.dup = true;
                    turn.model
                        .sent_again(turn.now, in_flight.stream, in_flight.number);
                    Packet::Publish(in_flight.publish.clone())
                }
            };
            self.send(packet);
        }
        self.change_id = None;
        if self.change.is_some() {
            self.ask_for_change(turn);
        }
    }

    fn ask_for_change(&mut self, turn: &mut Turn<'_>) {
        let packet_id = self.next_id();
        self.change_id = Some(packet_id);
        let subscribes = self.change == Some(true);
        self.say(
            turn,
            if subscribes {
                "subscribes"
            } else {
                "unsubscribes"
            },
        );
        if let Some(receiver) = self.traits.receiver {
            match subscribes {
                true => turn.model.subscribing(receiver),
                false => turn.model.unsubscribing(receiver),
            }
        }
        self.is_subscribed = false;
        self.send(match subscribes {
            true => Packet::Subscribe(Subscribe {
                packet_id,
                properties: SubscribeProperties::default(),
                filters: vec![SubscribeFilter {
                    topic_filter: self.traits.filter.as_str().into(),
                    options: SubscriptionOptions {
                        qos: self.traits.qos,
                        ..SubscriptionOptions::default()
                    },
                }],
            }),
            false => Packet::Unsubscribe(Unsubscribe {
                packet_id,
                properties: UnsubscribeProperties::default(),
                topic_filters: vec![self.traits.filter.as_str().into()],
            }),
        });
    }

    fn is_changed(&mut self, packet_id: PacketId, subscribed: bool, turn: &mut Turn<'_>) {
        if self.change_id != Some(packet_id) {
            violated!("{}: {packet_id:?} answers nothing", self.traits.id);
        }
        self.say(
            turn,
            if subscribed {
                "is subscribed"
            } else {
                "is unsubscribed"
            },
        );
        // Both are durable before they are answered (D2), and so is the session.
        if self.session == Presence::Either {
            self.session = Presence::Present;
        }
        self.change = None;
        self.change_id = None;
        self.is_subscribed = subscribed;
        if let Some(receiver) = self.traits.receiver {
            match subscribed {
                true => turn.model.subscribed(receiver),
                false => turn.model.unsubscribed(receiver),
            }
        }
    }

    fn handle_publish(&mut self, publish: Publish, turn: &mut Turn<'_>) {
        let id = &self.traits.id;
        if publish.dup && self.connection == 1 {
            violated!("{id}: DUP over its first connection: {publish:?}");
        }
        let Some(receiver) = self.traits.receiver else {
            violated!("{id}: {publish:?} was not subscribed to");
        };
        let packet_id = publish.packet_id;
        match (publish.qos, packet_id) {
            (QoS::AtLeastOnce, Some(packet_id)) => {
                turn.model
                    .delivered(turn.now, receiver, id, self.connection, &publish);
                let puback = Acknowledgement::success(packet_id);
                self.answers.push_back(Packet::Puback(puback));
            }
            (QoS::ExactlyOnce, Some(packet_id)) => {
                if let Some(unreleased) = self.unreleased.get_mut(&packet_id) {
                    if unreleased.connection == self.connection || !publish.dup {
                        violated!(
                            "{id}: {packet_id:?} is in use: {:?}",
                            read_payload(&publish.payload)
                        );
                    }
                    if unreleased.payload != publish.payload {
                        violated!("{id}: {packet_id:?} is that of another message");
                    }
                    unreleased.connection = self.connection;
                    let text = format!("{id}: {packet_id:?} again, and waits for PUBREL");
                    turn.model.trace.add(turn.now, Event::Said(text));
                } else {
                    turn.model
                        .delivered(turn.now, receiver, id, self.connection, &publish);
                    let unreleased = Unreleased {
                        payload: publish.payload.to_vec(),
                        connection: self.connection,
                    };
                    self.unreleased.insert(packet_id, unreleased);
                }
                let pubrec = Acknowledgement::success(packet_id);
                self.answers.push_back(Packet::Pubrec(pubrec));
            }
            _ => violated!("{id}: {publish:?}"),
        }
    }

    fn handle_puback(&mut self, puback: &Acknowledgement, turn: &mut Turn<'_>) {
        let waiting = |it: &InFlight| it.publish.qos == QoS::AtLeastOnce;
        let in_flight = self.front(puback, waiting);
        let in_flight = self.in_flight.remove(in_flight).expect("found above");
        turn.model
            .acknowledged(turn.now, in_flight.stream, in_flight.number);
    }

    fn handle_pubrec(&mut self, pubrec: &Acknowledgement, turn: &mut Turn<'_>) {
        let waiting = |it: &InFlight| it.publish.qos == QoS::ExactlyOnce && !it.is_received;
        let index = self.front(pubrec, waiting);
        let in_flight = &mut self.in_flight[index];
        in_flight.is_received = true;
        turn.model
            .acknowledged(turn.now, in_flight.stream, in_flight.number);
        let pubrel = Acknowledgement::success(in_flight.packet_id);
        self.send(Packet::Pubrel(pubrel));
    }

    /// The first message that waits for such an acknowledgement: it must be the one that is meant (D3).
    fn front(&self, answer: &Acknowledgement, waiting: impl Fn(&InFlight) -> bool) -> usize {
        let index = self.in_flight.iter().position(waiting);
        let is_meant = |index: &usize| self.in_flight[*index].packet_id == answer.packet_id;
        let Some(index) = index.filter(is_meant) else {
            violated!("{}: {answer:?}, but first is {:?}", self.traits.id, index);
        };
        if answer.reason_code.is_error() {
            violated!("{}: {answer:?}", self.traits.id);
        }
        index
    }

    fn handle_pubrel(&mut self, pubrel: &Acknowledgement) {
        let was_there = self.unreleased.remove(&pubrel.packet_id).is_some();
        let code = match was_there {
            true => ReasonCode::Success,
            // Released over an earlier connection.
            false => ReasonCode::PacketIdentifierNotFound,
        };
        let pubcomp = Acknowledgement::with_reason(pubrel.packet_id, code);
        self.answers.push_back(Packet::Pubcomp(pubcomp));
    }

    fn handle_pubcomp(&mut self, pubcomp: &Acknowledgement) {
        let is_meant = |it: &InFlight| it.packet_id == pubcomp.packet_id && it.is_received;
        let Some(index) = self.in_flight.iter().position(is_meant) else {
            violated!("{}: {pubcomp:?} answers nothing", self.traits.id);
        };
        self.in_flight.remove(index);
    }

    fn send(&mut self, packet: Packet) {
        if let Some(link) = &mut self.link {
            link.send(&packet);
        }
    }

    fn say(&self, turn: &mut Turn<'_>, what: &str) {
        let text = format!("{} {what} (connection {})", self.traits.id, self.connection);
        turn.model.trace.add(turn.now, Event::Said(text));
    }

    fn next_id(&mut self) -> PacketId {
        loop {
            self.last_id = self.last_id.wrapping_add(1);
            let in_use = |id: &PacketId| {
                self.in_flight.iter().any(|it| it.packet_id == *id) || self.change_id == Some(*id)
            };
            if let Some(id) = PacketId::new(self.last_id)
                && !in_use(&id)
            {
                return id;
            }
        }
    }
}

/// Most are small, some fill pages of their own.
fn length(random: &mut Random) -> usize {
    let length = match random.below(1_000) {
        0..800 => random.between(10, 64),
        800..960 => random.between(200, 2_000),
        960..995 => random.between(4_000, 16_000),
        _ => random.between(60_000, 200_000),
    };
    usize::try_from(length).expect("a length fits")
}

/// Below the Receive Maximum that the broker gives.
const WINDOW: usize = 12;
