//! A session: what MQTT asks the server to remember of one client, and what it does with each packet.
//!
//! Sans-IO. In come a packet and the time; out go bytes in the connection's send buffer, operations for the store, and a
//! value that tells the shard what to do next. A session knows nothing of sockets, of other sessions or of the exchange.
//! One file a chapter of the standard: `connect`, `publish`, `acknowledge`, `subscribe`, `disconnect` are what comes in;
//! `deliver` is what goes out.
//!
//! States: a session without `link` is offline; with one it is served by that Network Connection. Order of calls after
//! any input: `handle_*`, then what the returned value asks for, then the next input.

pub mod acknowledge;
pub mod authenticate;
pub mod authorize;
pub mod connect;
pub mod counters;
pub mod deliver;
pub mod disconnect;
pub mod inflight;
pub mod output;
pub mod publish;
pub mod queue;
pub mod quota;
pub mod reason_string;
pub mod seldom;
pub mod send_buffer;
pub mod subscribe;
pub mod terms;
pub mod topic_alias;
pub mod violation;
pub mod will;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use nightjar_codec::{PacketId, ProtocolVersion, ReasonCode};
use nightjar_storage::{Operation, SessionRecord};

use crate::identity::{ConnectionId, GroupId, SessionId, Ticket};
use crate::settings::Settings;
use counters::InflightGauges;
use inflight::Inflight;
use publish::UnreleasedQos2;
use queue::Queue;
use quota::Receiver;
use reason_string::Audience;
use seldom::{Nothing, Seldom};
use subscribe::Subscription;
use terms::Terms;
use topic_alias::{InboundAliases, OutboundAliases};
pub use violation::Violation;
use will::Will;

/// A session and, while it has one, its Network Connection.
pub struct Session {
    pub id: SessionId,
    /// Who the session belongs to; nobody else may resume or replace it.
    pub user: Option<Box<str>>,
    /// Where its client came in last; `None`: not since this process began.
    pub entry: Option<authorize::Entry>,
    /// What its client may do; `None`: everything, or not known without `entry`.
    access: Option<Arc<authorize::Access>>,
    /// What other shards see of it, its Client Identifier with it.
    pub receiver: Arc<Receiver>,
    pub version: ProtocolVersion,
    /// The store may know it, so its end has to be written.
    pub is_stored: bool,
    /// Seconds; 0: ends with its connection, `u32::MAX`: never ends.
    pub expiry_interval: u32,
    /// Broker clock at which an offline session ends.
    pub expires_at: Option<u64>,
    pub subscriptions: BTreeMap<Box<str>, Subscription>,
    /// Boxed: few have one.
    pub will: Option<Box<Will>>,
    /// Broker clock at which a delayed will fires.
    pub will_fires_at: Option<u64>,
    pub link: Option<Link>,
    /// Sent and not finished.
    pub(crate) inflight: Inflight,
    /// Not yet sent, in order.
    pub(crate) queue: Queue,
    /// Share groups that took a message back for want of room here, and give none until they hear of room again.
    declined: Seldom<Vec<GroupId>>,
    pub(crate) unreleased: UnreleasedQos2,
    /// SUBSCRIBEs that wait for the journal; an UNSUBSCRIBE waits behind them.
    pub(crate) subscribes_waiting: u32,
    /// New subscriptions have still to be shown what is retained: the shard reads it, piece by piece.
    pub(crate) reads_retained: bool,
}

/// What holds only as long as the Network Connection.
pub struct Link {
    pub connection: ConnectionId,
    pub clean_start: bool,
    /// Seconds, 0 for none.
    pub keep_alive: u16,
    /// PUBLISH packets of QoS 1 and 2 that may still be sent [MQTT-3.3.4-9].
    send_quota: u16,
    send_quota_max: u16,
    /// The client's Maximum Packet Size.
    pub maximum_packet_size: u32,
    pub request_problem_information: bool,
    /// What its listener makes of the broker's settings.
    pub terms: Terms,
    inbound_aliases: InboundAliases,
    outbound_aliases: OutboundAliases,
    /// QoS 1 and 2 publishes of the client that we have not acknowledged to the end.
    unacknowledged: u16,
    /// Acknowledgements in order, each behind the batch it depends on (D3).
    pub(crate) pubacks: AcknowledgementFifo,
    pub(crate) pubrecs: AcknowledgementFifo,
    pub(crate) pubcomps: AcknowledgementFifo,
    /// Refusals for want of room (0x97) that wait behind other acknowledgements. Until the client has heard of them nothing
    /// is taken that it said later, or a repeat of what was refused would come behind it [MQTT-4.6.0-1].
    pub(crate) unheard_refusals: u32,
    /// Nothing it is told waits for the journal.
    pub(crate) from_memory: bool,
    /// The Session Expiry Interval at CONNECT, which decides whether DISCONNECT may raise it.
    pub expiry_interval_at_connect: u32,
    pub rarities: Seldom<Rarities>,
}

/// What few links have.
#[derive(Default)]
pub struct Rarities {
    pub authentication_method: Option<Box<str>>,
    /// A re-authentication that is under way.
    pub reauthentication: Option<authenticate::Exchange>,
    /// Since when PUBLISH of a 3.x client waits for its PUBRELs (D22).
    pub unreleased_full_since: Option<u64>,
    /// When a publish of a 3.x client was refused, which it can only be told by the close (D1).
    pub refused_at: Option<u64>,
}

impl Nothing for Rarities {
    const NOTHING: &'static Self = &Self {
        authentication_method: None,
        reauthentication: None,
        unreleased_full_since: None,
        refused_at: None,
    };
}

/// Acknowledgements that wait, oldest first. Owns nothing until the first has to.
#[derive(Debug, Default)]
// Three of them in every connection, and nearly all of them empty: a pointer instead of four words.
#[allow(clippy::box_collection)]
pub struct AcknowledgementFifo(Option<Box<VecDeque<WaitingAcknowledgement>>>);

#[derive(Debug)]
pub struct WaitingAcknowledgement {
    pub(crate) kind: publish::Kind,
    pub ticket: Ticket,
    pub packet_id: PacketId,
    pub reason_code: ReasonCode,
}

/// What CONNECT agreed on, for a new link.
pub struct LinkParameters {
    pub connection: ConnectionId,
    pub clean_start: bool,
    pub keep_alive: u16,
    pub receive_maximum: u16,
    pub maximum_packet_size: u32,
    pub topic_alias_maximum: u16,
    pub request_problem_information: bool,
    pub authentication_method: Option<Box<str>>,
    pub expiry_interval: u32,
    pub terms: Terms,
}

impl Session {
    pub fn new(
        id: SessionId,
        client_id: Arc<str>,
        version: ProtocolVersion,
        expiry_interval: u32,
        gauges: &InflightGauges,
    ) -> Self {
        Self {
            id,
            receiver: Arc::new(Receiver::new(client_id, expiry_interval > 0)),
            user: None,
            entry: None,
            access: None,
            is_stored: false,
            version,
            expiry_interval,
            expires_at: None,
            subscriptions: BTreeMap::new(),
            will: None,
            will_fires_at: None,
            link: None,
            inflight: Inflight::counted_in(gauges.outbound.clone()),
            queue: Queue::default(),
            declined: Seldom::default(),
            unreleased: UnreleasedQos2::counted_in(gauges.inbound.clone()),
            subscribes_waiting: 0,
            reads_retained: false,
        }
    }

    /// The session was made to outlive its Network Connection. It may still end with one, see `ends_with_connection`.
    pub fn is_resumable(&self) -> bool {
        self.receiver.is_resumable()
    }

    /// What the client asked for last: its Session Expiry Interval is 0.
    pub fn ends_with_connection(&self) -> bool {
        self.expiry_interval == 0
    }

    pub fn is_online(&self) -> bool {
        self.link.is_some()
    }

    pub fn is_member(&self, group: GroupId) -> bool {
        self.subscriptions
            .values()
            .any(|subscription| subscription.group == Some(group))
    }

    /// Messages that wait, in flight or not.
    pub fn queued_messages(&self) -> usize {
        self.queue.len() + self.inflight.len()
    }

    /// Messages of the queue whose text is in memory, and not only in the store.
    pub fn held_messages(&self) -> usize {
        self.queue.held()
    }

    /// Something waits for room to be sent: here, or in a share group.
    pub(crate) fn has_waiting(&self) -> bool {
        !self.queue.is_empty()
            || !self.inflight.is_empty()
            || !self.declined.is_empty()
            || self.reads_retained
    }

    /// Takes a Network Connection; what was in flight will be sent again by the next `pump`.
    pub fn attach(&mut self, parameters: LinkParameters) {
        self.expires_at = None;
        self.will_fires_at = None;
        self.expiry_interval = parameters.expiry_interval;
        self.inflight.rewind();
        self.unreleased.forget_repeats();
        self.declined = Seldom::default();
        self.link = Some(Link {
            connection: parameters.connection,
            clean_start: parameters.clean_start,
            keep_alive: parameters.keep_alive,
            send_quota: parameters.receive_maximum,
            send_quota_max: parameters.receive_maximum,
            maximum_packet_size: parameters.maximum_packet_size,
            request_problem_information: parameters.request_problem_information,
            terms: parameters.terms,
            inbound_aliases: InboundAliases::default(),
            outbound_aliases: OutboundAliases::new(parameters.topic_alias_maximum),
            // QoS 2 messages that still wait for PUBREL count from the start [MQTT-4.9.0-1].
            unacknowledged: u16::try_from(self.unreleased.len()).unwrap_or(u16::MAX),
            pubacks: AcknowledgementFifo::default(),
            pubrecs: AcknowledgementFifo::default(),
            pubcomps: AcknowledgementFifo::default(),
            unheard_refusals: 0,
            from_memory: false,
            expiry_interval_at_connect: parameters.expiry_interval,
            rarities: match parameters.authentication_method {
                None => Seldom::default(),
                method => Seldom::from(Rarities {
                    authentication_method: method,
                    ..Rarities::default()
                }),
            },
        });
    }

    /// What the store keeps of the session itself.
    pub fn record(&self) -> Operation {
        Operation::PutSession {
            client_id: Arc::clone(&self.receiver.client_id),
            session: self.session_record(),
        }
    }

    pub(crate) fn session_record(&self) -> SessionRecord {
        SessionRecord {
            protocol_version: self.version,
            session_expiry_interval: self.expiry_interval,
            expires_at: self.expires_at,
            will: self
                .will
                .as_ref()
                .map(|will| will.record(self.will_fires_at)),
            user: self.user.clone(),
        }
    }

    /// It ended with its connection when the broker stopped; only its will waits here (D10).
    pub fn is_over(&self) -> bool {
        self.link.is_none() && self.ends_with_connection()
    }

    /// The time at which the session ends if its connection closes at `now`; `None`: never.
    pub fn expiry_deadline(&self, now: u64) -> Option<u64> {
        (self.expiry_interval != u32::MAX)
            .then(|| now.saturating_add(u64::from(self.expiry_interval) * 1000))
    }
}

impl Link {
    /// Milliseconds of silence after which the client is gone: one and a half times the Keep Alive [MQTT-3.1.2-22].
    pub fn silence_max(&self) -> Option<u64> {
        (self.keep_alive > 0).then(|| u64::from(self.keep_alive) * 1500)
    }

    fn open_send_quota(&mut self) {
        // [MQTT-4.9.0-1]: never above where it started.
        self.send_quota = self.send_quota.saturating_add(1).min(self.send_quota_max);
    }

    /// What the send quota is while nothing is in flight.
    pub fn send_quota_max(&self) -> u16 {
        self.send_quota_max
    }

    /// Who would read a Reason String.
    pub fn audience(&self, version: ProtocolVersion, settings: &Settings) -> Audience {
        Audience::new(
            settings,
            version,
            self.request_problem_information,
            self.maximum_packet_size,
        )
    }
}

/// The most PUBLISH packets in flight to a client: its Receive Maximum and our own bound.
pub fn send_window(client_receive_maximum: Option<u16>, settings: &Settings) -> u16 {
    client_receive_maximum
        .unwrap_or(u16::MAX)
        .min(settings.inflight_messages_max)
        .max(1)
}
