//! One MQTT client session, for 3.1.1 and 5.0: what goes over a Network Connection and what outlives it.
//!
//! In: [`Session::open`] when there is a connection, [`Session::receive`] with its bytes, [`Session::handle_time`], and what the
//! application wants ([`Session::publish`] and the others). Out: [`Session::outgoing`], and [`Session::poll`], which takes the next packet
//! from what was received only when it is called: nothing is queued between the two, so input that is not polled is input that is
//! not read. After each input call `poll` until it gives `None`, then write what is outgoing and say so with [`Session::written`].
//!
//! What outlives the connection: messages of QoS 1 and 2 that are not acknowledged, in their order, and the ids of QoS 2 messages
//! that came and were not released. Where the server has kept its part they are sent again; where it has not they are sent anew.

mod inbound;
mod outbound;

use alloc::boxed::Box;
use alloc::collections::{BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::fmt;
use core::num::{NonZeroU16, NonZeroU32};
use core::time::Duration;

use bytes::Bytes;
use nightjar_codec::{
    ClientId, Connack, Connect, ConnectProperties, DecodeError, Disconnect, Limits, Packet,
    PacketId, PacketType, ProtocolVersion, QoS, ReasonCode, Subscribe, SubscribeFilter,
    SubscribeProperties, Unsubscribe, UnsubscribeProperties, Will, cut, decode_bytes,
};

pub use inbound::{Message, Receipt};
use outbound::InFlight;
pub use outbound::{Publication, PublishError};

use crate::time::Instant;

/// What a session is made with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Client Identifier.
    pub client_id: ClientId,
    /// 3.1.1 or 5.0.
    pub version: ProtocolVersion,
    /// Whether the server is to forget what it has of us with each connection.
    pub clean_start: bool,
    /// Keep Alive in seconds; 0 for none. The server may choose another.
    pub keep_alive_seconds: u16,
    /// How long the server is to keep the session, in seconds; 5.0 only.
    pub session_expiry_seconds: u32,
    /// User Name.
    pub username: Option<Box<str>>,
    /// Password.
    pub password: Option<Bytes>,
    /// The Will Message.
    pub will: Option<Will>,
    /// Messages in flight to the server. The server may allow fewer.
    pub in_flight_max: NonZeroU16,
    /// Messages in flight from the server: QoS 1 not acknowledged, QoS 2 not released. 5.0 tells the server; a 3.1.1 server that
    /// sends more is disconnected.
    pub receive_maximum: NonZeroU16,
    /// The largest packet that is taken, in bytes.
    pub packet_bytes_max: u32,
    /// Bytes that may wait to be written. While there are more nothing is taken from the input and nothing published.
    pub outgoing_bytes_max: usize,
    /// How long the server may take for CONNACK, and for PINGRESP.
    pub answer_within: Duration,
}

impl Settings {
    /// What a small device uses.
    #[must_use]
    pub const fn new(client_id: ClientId, version: ProtocolVersion) -> Self {
        Self {
            client_id,
            version,
            clean_start: false,
            keep_alive_seconds: 60,
            session_expiry_seconds: 7 * 24 * 60 * 60,
            username: None,
            password: None,
            will: None,
            in_flight_max: NonZeroU16::MIN.saturating_add(7),
            receive_maximum: NonZeroU16::MIN.saturating_add(7),
            packet_bytes_max: 8192,
            outgoing_bytes_max: 16384,
            answer_within: Duration::from_secs(20),
        }
    }
}

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The server has accepted the connection.
    Connected {
        /// Whether it had kept the session.
        session_present: bool,
    },
    /// A message has come; QoS 1 and 2 are acknowledged with [`Session::acknowledge`].
    Message(Message),
    /// A message is the server's: the token of its [`Publication`].
    Delivered(u64),
    /// A message was refused: its token and the reason. It is not sent again.
    Refused(u64, ReasonCode),
    /// A SUBSCRIBE was answered, one code for each filter.
    Subscribed(Vec<ReasonCode>),
    /// An UNSUBSCRIBE was answered.
    Unsubscribed,
    /// The connection is over: write what is outgoing, then close it.
    Ended(Ended),
}

/// Why a connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ended {
    /// [`Session::disconnect`] was called.
    Asked,
    /// The server refused CONNECT.
    Refused(ReasonCode),
    /// The server sent DISCONNECT.
    ByServer(ReasonCode),
    /// The bytes are no packet of MQTT, or one above our limit.
    Malformed(DecodeError),
    /// A packet that the server must not send now.
    Unexpected(PacketType),
    /// The server has more messages in flight than we take.
    ReceiveMaximumExceeded,
    /// The server used a Topic Alias, and was told that there are none.
    TopicAlias,
    /// Nothing was answered to CONNECT.
    NoConnack,
    /// Nothing was answered to PINGREQ.
    NoPingresp,
    /// CONNECT is above the server's or its own limits: nothing of it can be sent.
    CannotConnect,
    /// The connection was closed, or reading or writing failed.
    Closed,
    /// Nothing could be written for a long time.
    WriteTimeout,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked => f.write_str("closed as asked"),
            Self::Refused(reason) => write!(f, "refused by the server: {reason}"),
            Self::ByServer(reason) => write!(f, "closed by the server: {reason}"),
            Self::Malformed(error) => write!(f, "malformed: {error}"),
            Self::Unexpected(packet_type) => write!(f, "unexpected {packet_type}"),
            Self::ReceiveMaximumExceeded => f.write_str("more messages in flight than announced"),
            Self::TopicAlias => f.write_str("a topic alias, though none is allowed"),
            Self::NoConnack => f.write_str("no answer to CONNECT"),
            Self::NoPingresp => f.write_str("no answer to PINGREQ"),
            Self::CannotConnect => f.write_str("CONNECT cannot be written"),
            Self::Closed => f.write_str("the connection was closed"),
            Self::WriteTimeout => f.write_str("nothing could be written"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No connection.
    Away,
    /// CONNECT is written or waits to be.
    Connecting { since: Instant },
    /// CONNACK has come.
    Online,
    /// Nothing more is read; what is outgoing may still be written.
    Over,
}

/// What the server allows on this connection.
#[derive(Clone, Copy, Debug)]
struct Allowed {
    in_flight: u16,
    packet_bytes: u32,
    qos: QoS,
    retain: bool,
    keep_alive: Duration,
}

/// The session of one client.
#[derive(Debug)]
pub struct Session {
    settings: Settings,
    state: State,
    allowed: Allowed,
    /// Received and not yet polled; at most one packet and what came with it.
    received: Vec<u8>,
    outgoing: Vec<u8>,
    events: VecDeque<Event>,
    /// In the order of their first sending. [MQTT-4.6.0-1]
    in_flight: VecDeque<InFlight>,
    next_packet_id: PacketId,
    /// SUBSCRIBE and UNSUBSCRIBE without an answer.
    requests: Vec<PacketId>,
    /// QoS 2 messages that came and were not released.
    unreleased: BTreeSet<PacketId>,
    /// QoS 1 and 2 messages that were given out and not acknowledged, in their order.
    unacknowledged: VecDeque<(PacketId, QoS)>,
    last_sent: Instant,
    ping_sent: Option<Instant>,
}

impl Session {
    /// A session that has no connection yet.
    ///
    /// `random`: where packet ids begin. A device that has lost its memory must not use an id again that the server still holds of its
    /// former life.
    #[must_use]
    pub fn new(settings: Settings, random: u32) -> Self {
        let [low, high, ..] = random.to_le_bytes();
        Self {
            allowed: Allowed::before_connack(&settings),
            settings,
            state: State::Away,
            received: Vec::new(),
            outgoing: Vec::new(),
            events: VecDeque::new(),
            in_flight: VecDeque::new(),
            next_packet_id: PacketId::new(u16::from_le_bytes([low, high])).unwrap_or(PacketId::MIN),
            requests: Vec::new(),
            unreleased: BTreeSet::new(),
            unacknowledged: VecDeque::new(),
            last_sent: Instant::default(),
            ping_sent: None,
        }
    }

    /// There is a connection: CONNECT is outgoing.
    pub fn open(&mut self, now: Instant) {
        self.leave();
        self.state = State::Connecting { since: now };
        let connect = Packet::Connect(Box::new(self.connect_packet()));
        if connect
            .encode(self.settings.version, &mut self.outgoing)
            .is_err()
        {
            self.end(Ended::CannotConnect);
        }
        self.last_sent = now;
    }

    /// There is no connection any more.
    pub fn close(&mut self) {
        self.leave();
        self.state = State::Away;
    }

    /// Takes bytes of the server and gives their number: all of them where [`Session::wants_input`] was true and they are no more
    /// than [`READ_BYTES_MAX`].
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        if !self.is_open() {
            return 0;
        }
        let room = self.received_max().saturating_sub(self.received.len());
        let taken = bytes.get(..room).unwrap_or(bytes);
        self.received.extend_from_slice(taken);
        taken.len()
    }

    /// Whether there is room for more bytes of the server.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        self.is_open()
            && self.events.is_empty()
            && self.has_room()
            && self.received.len() + READ_BYTES_MAX <= self.received_max()
    }

    /// The next thing that has happened.
    pub fn poll(&mut self, now: Instant) -> Option<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            match self.next_packet() {
                Some(packet) => self.handle(packet, now),
                // What could not be decoded has ended the connection.
                None => return self.events.pop_front(),
            }
        }
    }

    /// Ends what was waited for in vain, and keeps the connection alive.
    pub fn handle_time(&mut self, now: Instant) {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return;
        }
        match self.state {
            State::Connecting { .. } => self.end(Ended::NoConnack),
            State::Online if self.ping_sent.is_some() => {
                self.disconnect_with(ReasonCode::UnspecifiedError);
                self.end(Ended::NoPingresp);
            }
            State::Online => {
                self.ping_sent = Some(now);
                self.send(&Packet::Pingreq, now);
            }
            State::Away | State::Over => {}
        }
    }

    /// When [`Session::handle_time`] has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match (self.state, self.ping_sent) {
            (State::Connecting { since }, _) => Some(since + self.settings.answer_within),
            (State::Online, Some(sent)) => Some(sent + self.settings.answer_within),
            (State::Online, None) if self.allowed.keep_alive.is_zero() => None,
            // Three quarters of it, so that the packet arrives within it. [MQTT-3.1.2-20]
            (State::Online, None) => Some(self.last_sent + self.allowed.keep_alive * 3 / 4),
            (State::Away | State::Over, _) => None,
        }
    }

    /// Bytes to write.
    #[must_use]
    pub fn outgoing(&self) -> &[u8] {
        &self.outgoing
    }

    /// The first `count` outgoing bytes were written.
    pub fn written(&mut self, count: usize) {
        self.outgoing.drain(..count.min(self.outgoing.len()));
        if self.outgoing.is_empty() {
            // A burst is over; keep what a packet needs.
            self.outgoing.shrink_to(256);
        }
    }

    /// Whether CONNACK has come and the connection is not over.
    #[must_use]
    pub fn is_online(&self) -> bool {
        self.state == State::Online
    }

    /// Whether packets have properties.
    #[must_use]
    pub const fn is_v5(&self) -> bool {
        self.settings.version.is_v5()
    }

    /// Asks for subscriptions; [`Event::Subscribed`] answers. False where that cannot be sent now.
    pub fn subscribe(&mut self, filters: Vec<SubscribeFilter>, now: Instant) -> bool {
        let Some(packet_id) = self.request() else {
            return false;
        };
        let packet = Packet::Subscribe(Subscribe {
            packet_id,
            properties: SubscribeProperties::default(),
            filters,
        });
        self.send_request(packet_id, &packet, now)
    }

    /// Ends subscriptions; [`Event::Unsubscribed`] answers. False where that cannot be sent now.
    pub fn unsubscribe(&mut self, topic_filters: Vec<Box<str>>, now: Instant) -> bool {
        let Some(packet_id) = self.request() else {
            return false;
        };
        let packet = Packet::Unsubscribe(Unsubscribe {
            packet_id,
            properties: UnsubscribeProperties::default(),
            topic_filters,
        });
        self.send_request(packet_id, &packet, now)
    }

    /// Says good-bye: the server discards the will. The session stays with the server as long as was asked for.
    pub fn disconnect(&mut self) {
        if self.is_open() {
            self.disconnect_with(ReasonCode::Success);
            self.end(Ended::Asked);
        }
    }

    /// Ends the connection without a good-bye: the server publishes the will.
    pub fn part(&mut self) {
        if self.is_open() {
            self.end(Ended::Asked);
        }
    }

    fn connect_packet(&self) -> Connect {
        let settings = &self.settings;
        let properties = if settings.version.is_v5() {
            ConnectProperties {
                session_expiry_interval: Some(settings.session_expiry_seconds),
                receive_maximum: Some(settings.receive_maximum),
                maximum_packet_size: NonZeroU32::new(settings.packet_bytes_max),
                ..ConnectProperties::default()
            }
        } else {
            ConnectProperties::default()
        };
        Connect {
            protocol_version: settings.version,
            bridge: false,
            clean_start: settings.clean_start,
            keep_alive: settings.keep_alive_seconds,
            client_id: settings.client_id.as_str().into(),
            will: settings.will.clone(),
            username: settings.username.clone(),
            password: settings.password.clone(),
            properties,
        }
    }

    /// What belongs to the connection goes with it.
    fn leave(&mut self) {
        self.received = Vec::new();
        self.outgoing = Vec::new();
        self.events.clear();
        self.requests.clear();
        self.unacknowledged.clear();
        self.ping_sent = None;
        self.allowed = Allowed::before_connack(&self.settings);
        for entry in &mut self.in_flight {
            entry.on_this_connection = false;
        }
    }

    fn is_open(&self) -> bool {
        matches!(self.state, State::Connecting { .. } | State::Online)
    }

    /// A packet of the largest size, but for its last byte, and one reading more.
    const fn received_max(&self) -> usize {
        self.settings.packet_bytes_max as usize + READ_BYTES_MAX
    }

    fn has_room(&self) -> bool {
        self.outgoing.len() < self.settings.outgoing_bytes_max
    }

    /// Takes one packet from the input. [MQTT-4.13.1-1]
    fn next_packet(&mut self) -> Option<Packet> {
        if !self.is_open() || !self.has_room() {
            return None;
        }
        let limits = Limits {
            packet_size_max: self.settings.packet_bytes_max,
            user_properties_max: USER_PROPERTIES_MAX,
            topic_levels_max: TOPIC_LEVELS_MAX,
            topic_filters_max: 1,
        };
        let decoded = cut(&self.received, &limits).and_then(|found| {
            let Some((_, length)) = found else {
                return Ok(None);
            };
            let packet: Bytes = self.received.drain(..length).collect::<Vec<u8>>().into();
            decode_bytes(&packet, self.settings.version, &limits).map(Some)
        });
        match decoded {
            Ok(packet) => {
                if packet.is_none() {
                    self.received.shrink_to(READ_BYTES_MAX);
                }
                packet
            }
            Err(error) => {
                self.disconnect_with(error.reason_code());
                self.end(Ended::Malformed(error));
                None
            }
        }
    }

    fn handle(&mut self, packet: Packet, now: Instant) {
        let packet_type = packet.packet_type();
        match (self.state, packet) {
            (State::Connecting { .. }, Packet::Connack(connack)) => {
                self.handle_connack(&connack, now)
            }
            (State::Online, Packet::Publish(publish)) => self.handle_publish(publish, now),
            (State::Online, Packet::Pubrel(pubrel)) => self.handle_pubrel(pubrel.packet_id, now),
            (State::Online, Packet::Puback(puback)) => {
                self.handle_puback(puback.packet_id, puback.reason_code, now)
            }
            (State::Online, Packet::Pubrec(pubrec)) => {
                self.handle_pubrec(pubrec.packet_id, pubrec.reason_code, now)
            }
            (State::Online, Packet::Pubcomp(pubcomp)) => {
                self.handle_pubcomp(pubcomp.packet_id, now)
            }
            (State::Online, Packet::Suback(suback)) => {
                if self.answered(suback.packet_id) {
                    self.events
                        .push_back(Event::Subscribed(suback.reason_codes));
                }
            }
            (State::Online, Packet::Unsuback(unsuback)) => {
                if self.answered(unsuback.packet_id) {
                    self.events.push_back(Event::Unsubscribed);
                }
            }
            (State::Online, Packet::Pingresp) => self.ping_sent = None,
            // 3.1.1 has no DISCONNECT of a server.
            (State::Online, Packet::Disconnect(disconnect)) if self.settings.version.is_v5() => {
                self.end(Ended::ByServer(disconnect.reason_code));
            }
            _ => {
                self.disconnect_with(ReasonCode::ProtocolError);
                self.end(Ended::Unexpected(packet_type));
            }
        }
    }

    fn handle_connack(&mut self, connack: &Connack, now: Instant) {
        if connack.reason_code.is_error() {
            return self.end(Ended::Refused(connack.reason_code));
        }
        self.state = State::Online;
        self.allowed.limit_to(connack, &self.settings);
        // Not [MQTT-3.2.2-4]: a device that has lost its memory takes the session that the server has kept. What it had in flight is in
        // its store, and commands that wait for it are in that session.
        let session_present = connack.session_present;
        self.events.push_back(Event::Connected { session_present });
        if !session_present {
            // [MQTT-3.2.2-5]
            self.unreleased.clear();
            self.begin_anew();
        }
        self.pump(now);
    }

    /// Over, for the reason given; told once.
    fn end(&mut self, ended: Ended) {
        if self.state != State::Over {
            self.state = State::Over;
            self.received = Vec::new();
            self.events.push_back(Event::Ended(ended));
        }
    }

    /// Before CONNACK a client may send no DISCONNECT with a reason that the server could read as its version's.
    fn disconnect_with(&mut self, reason_code: ReasonCode) {
        if self.state == State::Online {
            let packet = Packet::Disconnect(Disconnect::with_reason(reason_code));
            let _ = packet.encode(self.settings.version, &mut self.outgoing);
        }
    }

    /// Writes a packet that is known to be within the limits of the codec.
    fn send(&mut self, packet: &Packet, now: Instant) {
        let encoded = packet.encode(self.settings.version, &mut self.outgoing);
        debug_assert!(encoded.is_ok(), "{:?}", packet.packet_type());
        self.last_sent = now;
    }

    fn request(&mut self) -> Option<PacketId> {
        let may = self.is_online() && self.has_room() && self.requests.len() < REQUESTS_MAX;
        may.then(|| self.free_packet_id())
    }

    fn send_request(&mut self, packet_id: PacketId, packet: &Packet, now: Instant) -> bool {
        let fits =
            packet.encoded_length(self.settings.version) <= self.allowed.packet_bytes as usize;
        if !fits
            || packet
                .encode(self.settings.version, &mut self.outgoing)
                .is_err()
        {
            return false;
        }
        self.last_sent = now;
        self.requests.push(packet_id);
        true
    }

    fn answered(&mut self, packet_id: PacketId) -> bool {
        match self.requests.iter().position(|id| *id == packet_id) {
            Some(index) => {
                self.requests.swap_remove(index);
                true
            }
            None => {
                self.disconnect_with(ReasonCode::ProtocolError);
                self.end(Ended::Unexpected(PacketType::Suback));
                false
            }
        }
    }
}

impl Allowed {
    const fn before_connack(settings: &Settings) -> Self {
        Self {
            in_flight: settings.in_flight_max.get(),
            packet_bytes: u32::MAX,
            qos: QoS::ExactlyOnce,
            retain: true,
            keep_alive: Duration::from_secs(settings.keep_alive_seconds as u64),
        }
    }

    fn limit_to(&mut self, connack: &Connack, settings: &Settings) {
        let properties = &connack.properties;
        let in_flight = properties.receive_maximum.map_or(u16::MAX, NonZeroU16::get);
        self.in_flight = in_flight.min(settings.in_flight_max.get());
        // [MQTT-3.2.2-15]
        self.packet_bytes = properties
            .maximum_packet_size
            .map_or(u32::MAX, NonZeroU32::get);
        // [MQTT-3.2.2-11]
        self.qos = properties.maximum_qos.unwrap_or(QoS::ExactlyOnce);
        // [MQTT-3.2.2-14]
        self.retain = properties.retain_available.unwrap_or(true);
        // [MQTT-3.2.2-21]
        if let Some(seconds) = properties.server_keep_alive {
            self.keep_alive = Duration::from_secs(seconds.into());
        }
    }
}

/// What a caller of [`Session::receive`] should read at a time.
pub const READ_BYTES_MAX: usize = 1024;

const USER_PROPERTIES_MAX: u16 = 16;
const TOPIC_LEVELS_MAX: u16 = 64;
/// SUBSCRIBE and UNSUBSCRIBE that may be without an answer.
const REQUESTS_MAX: usize = 4;

#[cfg(test)]
mod tests;
