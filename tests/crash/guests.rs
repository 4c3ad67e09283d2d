//! Clients that stay for one life of the broker: those that leave a will, and those that read what is retained.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use nightjar_codec::{
    Connect, ConnectProperties, Disconnect, DisconnectProperties, Packet, PacketId,
    ProtocolVersion, QoS, ReasonCode, Subscribe, SubscribeFilter, SubscribeProperties,
    SubscriptionOptions, Will, WillProperties,
};

use crate::link::Link;
use crate::member::Turn;
use crate::model::{Floor, WILLS, payload, read_payload, violated};
use crate::trace::Event;

/// One client with a will, under a client id that nobody had before.
pub(crate) struct WillHolder {
    client_id: String,
    version: ProtocolVersion,
    /// Its session outlives the connection; it may come back and cancel the will.
    is_durable: bool,
    qos: QoS,
    pub(crate) will: u64,
    pub(crate) link: Option<Link>,
    state: Holding,
    fate: Fate,
    fate_at: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Holding {
    Connecting,
    Connected,
    /// DISCONNECT is sent.
    Leaving,
    /// The broker was killed, and this client comes back to cancel its will.
    Returning,
    Gone,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    StaysToTheEnd,
    ComesBack,
    Disconnects,
    Drops,
}

impl WillHolder {
    pub(crate) fn new(turn: &mut Turn<'_>) -> Self {
        let random = &mut *turn.random;
        let version = *random.pick(&[
            ProtocolVersion::V3_1_1,
            ProtocolVersion::V5,
            ProtocolVersion::V5,
        ]);
        let qos = *random.pick(&[QoS::AtLeastOnce, QoS::ExactlyOnce]);
        let is_durable = random.chance(50);
        let fate = *random.pick(&[
            Fate::StaysToTheEnd,
            Fate::StaysToTheEnd,
            Fate::ComesBack,
            Fate::Disconnects,
            Fate::Drops,
        ]);
        let fate_at = turn.now + Duration::from_millis(random.between(5, 250));
        let will = turn.model.wills.make(topic, qos);
        Self {
            client_id: format!("will-{will}"),
            version,
            is_durable,
            qos,
            will,
            link: None,
            state: Holding::Connecting,
            fate,
            fate_at,
        }
    }

    pub(crate) fn connect(&mut self, port: u16, turn: &mut Turn<'_>) {
        let Some(mut link) = Link::open(port, self.version) else {
            return;
        };
        if self.state == Holding::Returning {
            turn.model.trace.add(
                turn.now,
                Event::Said(format!("{} comes back", self.client_id)),
            );
        }
        let is_v5 = self.version.is_v5();
        let delay = (self.will.is_multiple_of(3) && is_v5).then_some(WILL_DELAY_SECONDS);
        let will = (self.state == Holding::Connecting).then(|| Will {
            topic: topic(self.will).into(),
            payload: payload(WILLS, self.will, 40).into(),
            qos: self.qos,
            retain: false,
            properties: WillProperties {
                will_delay_interval: delay,
                ..WillProperties::default()
            },
        });
        link.send(&Packet::Connect(Box::new(Connect {
            protocol_version: self.version,
            bridge: false,
            clean_start: !self.is_durable,
            keep_alive: 0,
            client_id: self.client_id.as_str().into(),
            will,
            username: None,
            password: None,
            properties: ConnectProperties {
                session_expiry_interval: (is_v5 && self.is_durable).then_some(20),
                ..ConnectProperties::default()
            },
        })));
        link.flush();
        self.link = Some(link);
    }

    pub(crate) fn receive(&mut self, turn: &mut Turn<'_>) {
        let Some(link) = &mut self.link else { return };
        link.fill();
        while let Some(packet) = self.link.as_mut().and_then(Link::next_packet) {
            match (self.state, packet) {
                (Holding::Connecting, Packet::Connack(connack))
                    if connack.reason_code == ReasonCode::Success =>
                {
                    self.state = Holding::Connected;
                    let place = turn.model.place();
                    turn.model.wills.accepted(self.will, place);
                    self.say(turn, "is accepted");
                }
                (Holding::Returning, Packet::Connack(connack))
                    if connack.reason_code == ReasonCode::Success =>
                {
                    // Not if the will may have been published, and be on its way.
                    if turn.now - turn.broker_started < WILL_GRACE / 2 {
                        let place = turn.model.place();
                        turn.model.wills.cancelled(self.will, place);
                    }
                    self.say(turn, "is back");
                    self.leave();
                    self.state = Holding::Gone;
                }
                (state, packet) => violated!("{} ({state:?}): {packet:?}", self.client_id),
            }
        }
    }

    pub(crate) fn act(&mut self, turn: &mut Turn<'_>) {
        if self.state != Holding::Connected || turn.now < self.fate_at {
            return;
        }
        match self.fate {
            Fate::Disconnects => {
                self.say(turn, "disconnects");
                turn.model.wills.disconnecting(self.will);
                self.leave();
                self.state = Holding::Leaving;
            }
            Fate::Drops => {
                self.say(turn, "drops its connection");
                self.link = None;
                turn.model.wills.dropped(self.will);
                self.state = Holding::Gone;
            }
            Fate::StaysToTheEnd | Fate::ComesBack => {}
        }
    }

    /// The broker has closed, and is alive.
    pub(crate) fn handle_close(&mut self, turn: &mut Turn<'_>) {
        self.link = None;
        match self.state {
            Holding::Leaving => {
                self.say(turn, "has disconnected");
                let place = turn.model.place();
                turn.model.wills.cancelled(self.will, place);
                self.state = Holding::Gone;
            }
            Holding::Gone => {}
            state => violated!("{} ({state:?}): the broker has closed", self.client_id),
        }
    }

    /// The broker was killed, the model knows.
    pub(crate) fn handle_kill(&mut self, turn: &mut Turn<'_>) {
        self.link = None;
        let was_connected = self.state == Holding::Connected;
        let comes_back = self.fate == Fate::ComesBack && self.is_durable;
        self.state = match was_connected && comes_back && turn.model.wills.is_owed(self.will) {
            true => Holding::Returning,
            false => Holding::Gone,
        };
        if self.state == Holding::Returning {
            // From here on it is a race between it and the will, if the broker is slow.
            turn.model.wills.give_up(self.will);
        }
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.state == Holding::Connected
    }

    /// The broker is to close.
    pub(crate) fn is_leaving(&self) -> bool {
        matches!(self.state, Holding::Leaving | Holding::Gone)
    }

    pub(crate) fn is_returning(&self) -> bool {
        self.state == Holding::Returning
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.state == Holding::Gone && self.link.is_none()
    }

    fn leave(&mut self) {
        if let Some(link) = &mut self.link {
            link.send(&Packet::Disconnect(Disconnect {
                reason_code: ReasonCode::Success,
                properties: DisconnectProperties::default(),
            }));
            link.flush();
        }
    }

    fn say(&self, turn: &mut Turn<'_>, what: &str) {
        let text = format!("{} {what}", self.client_id);
        turn.model.trace.add(turn.now, Event::Said(text));
    }
}

fn topic(will: u64) -> String {
    format!("will/{will}")
}

/// `will_restart_grace_seconds`, as this test sets it.
pub(crate) const WILL_GRACE: Duration = Duration::from_secs(1);

/// The longest delay of a will, in seconds.
pub(crate) const WILL_DELAY_SECONDS: u32 = 1;

/// Subscribes once and compares what is retained with what must be.
pub(crate) struct Reader {
    pub(crate) link: Option<Link>,
    version: ProtocolVersion,
    floors: BTreeMap<String, Floor>,
    seen: BTreeSet<String>,
    is_subscribed: bool,
}

impl Reader {
    /// `number` is its own: the CONNECT of one that was dropped may be read after that of the next.
    pub(crate) fn open(port: u16, number: u64, turn: &mut Turn<'_>) -> Option<Self> {
        let version = *turn
            .random
            .pick(&[ProtocolVersion::V3_1_1, ProtocolVersion::V5]);
        let mut link = Link::open(port, version)?;
        link.send(&Packet::Connect(Box::new(Connect {
            protocol_version: version,
            bridge: false,
            clean_start: true,
            keep_alive: 0,
            client_id: format!("reader-{number}").into(),
            will: None,
            username: None,
            password: None,
            properties: ConnectProperties::default(),
        })));
        link.flush();
        Some(Self {
            link: Some(link),
            version,
            floors: BTreeMap::new(),
            seen: BTreeSet::new(),
            is_subscribed: false,
        })
    }

    pub(crate) fn receive(&mut self, turn: &mut Turn<'_>) {
        let Some(link) = &mut self.link else { return };
        link.fill();
        while let Some(packet) = self.link.as_mut().and_then(Link::next_packet) {
            match packet {
                Packet::Connack(connack) => {
                    if connack.reason_code != ReasonCode::Success || connack.session_present {
                        violated!("the reader: {connack:?}");
                    }
                    self.floors = turn.model.retained_floors();
                    self.subscribe();
                }
                Packet::Suback(_) => self.is_subscribed = true,
                Packet::Publish(publish) if publish.retain => {
                    self.check(publish.topic.as_ref(), &publish.payload);
                    turn.model.counts.retained_read += 1;
                }
                Packet::Publish(_) => {}
                packet => violated!("the reader: {packet:?} (v5 {})", self.version.is_v5()),
            }
        }
    }

    /// Everything that must be retained has come.
    pub(crate) fn is_complete(&self) -> bool {
        self.is_subscribed && self.missing().is_empty()
    }

    pub(crate) fn missing(&self) -> Vec<&str> {
        let floors = self.floors.iter();
        floors
            .filter(|(topic, floor)| floor.must_be_there && !self.seen.contains(*topic))
            .map(|(topic, _)| topic.as_str())
            .collect()
    }

    fn subscribe(&mut self) {
        if let Some(link) = &mut self.link {
            link.send(&Packet::Subscribe(Subscribe {
                packet_id: PacketId::new(1).expect("not 0"),
                properties: SubscribeProperties::default(),
                filters: vec![SubscribeFilter {
                    topic_filter: "retained/#".into(),
                    options: SubscriptionOptions {
                        qos: QoS::AtMostOnce,
                        ..SubscriptionOptions::default()
                    },
                }],
            }));
            link.flush();
        }
    }

    fn check(&mut self, topic: &str, payload: &[u8]) {
        let Some(floor) = self.floors.get(topic) else {
            violated!("{topic} is retained, and nobody has published there");
        };
        let Some((stream, number)) = read_payload(payload) else {
            violated!("what is retained at {topic} was never published");
        };
        if stream != floor.stream || number < floor.number {
            violated!(
                "{number} is retained at {topic}, and {} was acknowledged (must be there: {})",
                floor.number,
                floor.must_be_there
            );
        }
        // The clear itself has the number of the floor, and is nothing that can be retained.
        if !self.seen.insert(topic.to_owned()) {
            violated!("what is retained at {topic} came twice");
        }
    }
}
