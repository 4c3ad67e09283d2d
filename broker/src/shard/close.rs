//! How connections and sessions end: goodbye, silence, takeover, violation, expiry.
//!
//! A connection ends once: its client hears why where the protocol has a way to say it, its session goes offline or ends,
//! its will is published or not. A session ends when its connection does, when its time is up, or when a clean start
//! replaces it.

use std::fmt;

use nightjar_certs::Void;
use nightjar_codec::packet::{Disconnect, DisconnectProperties};
use nightjar_codec::{Packet, ProtocolVersion, QoS, ReasonCode};
use nightjar_storage::Operation;

use super::by_listener::ListenerPlace;
use super::publish::{REFUSAL_MILLISECONDS, panic_if_planted};
use super::{Phase, Refusal, Shard, Timer};
use crate::clock::Now;
use crate::identity::{ConnectionId, GroupId, SessionId};
use crate::message::MessageRef;
use crate::session::Violation;
use crate::session::connect::refusal;
use crate::session::counters::{Closed, SessionEnd};
use crate::session::disconnect::WillFate;
use crate::session::reason_string::Audience;
use crate::session::seldom::Seldom;
use crate::session::will::{self, Will};

/// Why a connection ends.
#[derive(Debug)]
#[non_exhaustive]
pub enum Cause {
    Violation(Violation),
    /// The first packet is no CONNECT; nothing is said [MQTT-3.1.0-1].
    NotConnect,
    /// CONNECT is answered with this code.
    Refused(ReasonCode),
    /// CONNECT is answered with "not authorised"; the reason is for the log.
    NotAuthorised(Refusal),
    /// After a reload its user is gone, or has another password.
    NoLongerAuthorised,
    /// After a reload nobody listens any more where it came in.
    ListenerGone,
    /// Its certificate is not good any more.
    Certificate(Void),
    /// More than a client may send before it has its CONNACK.
    TooMuchBeforeConnack,
    /// CONNECT is fine, but the client does not take a packet as large as its CONNACK.
    Unanswerable,
    /// DISCONNECT from the client.
    Disconnected(WillFate),
    /// The socket closed or failed.
    PeerGone,
    KeepAlive,
    ConnectTimeout,
    TakenOver,
    ShutDown,
    /// We close for a reason of our own.
    Server(ReasonCode),
    /// We close a 3.x client whose publish we could not take; it will send it again.
    NotOwned,
    /// What was asked for has waited for the journal long enough.
    JournalStalled,
    Panic,
}

impl Shard {
    /// Ends a connection. Does nothing for one that has ended.
    pub(super) fn close(&mut self, now: Now, id: ConnectionId, cause: Cause) {
        let Some(connection) = self.connections.get(id.slot, id.generation) else {
            return;
        };
        if connection.is_closing() {
            return;
        }
        let was_served = connection.is_served();
        let place = connection.listener_place;
        self.count_close(&cause, was_served, place);
        self.forget_paused(now, id);
        let Some(connection) = self.connections.get_mut(id.slot, id.generation) else {
            return;
        };
        let deadline = now.monotonic + LAST_BYTES_MILLISECONDS;
        let phase = std::mem::replace(&mut connection.phase, Phase::Closing);
        let served = match phase {
            Phase::Serving { session } => Some(session),
            _ => None,
        };
        let greeted = served.is_some() && !connection.is_corked;
        if std::mem::take(&mut connection.is_corked) {
            // It has not heard CONNACK, and does not hear it now.
            connection.send.discard(&mut self.sinks.pool);
        }
        if let Some((mut packet, version)) = farewell(&cause, connection.version, greeted) {
            let version = version.unwrap_or(connection.version);
            let settings = &self.shared.settings;
            let link = served
                .and_then(|session| self.sessions.get(session.slot, session.generation))
                .and_then(|session| session.link.as_ref());
            let audience = match link {
                Some(link) => link.audience(version, settings),
                None => Audience::new(settings, version, true, connection.maximum_packet_size),
            };
            audience.explain(&mut packet, &cause);
            connection.send.borrow_from(&mut self.sinks.pool);
            let encoded = connection.send.append(|out| packet.encode(version, out));
            let packet_type = packet.packet_type() as u8;
            self.sinks.counters.count_sent(packet_type << 4);
            // [v3 MQTT-3.2.2-6]: where no return code fits, nothing is sent.
            debug_assert!(
                encoded.is_ok() || !version.is_v5(),
                "a farewell does not encode: {encoded:?}"
            );
        }
        self.receive_bytes -= connection.received_bytes();
        connection.partial = Seldom::default();
        connection.unread = Seldom::default();
        connection.waiting_publishes = Seldom::default();
        connection.last_route = None;
        connection.mark_dirty(&mut self.sinks.dirty);
        self.log_closed(now, id, served, &cause);
        self.arm_connection(id, Some(deadline));
        if let Some(session) = served {
            let fate = match cause {
                Cause::Disconnected(fate) => fate,
                _ => WillFate::Publish,
            };
            self.in_shared_room(|shard| shard.detach(now, session, fate));
        }
    }

    fn count_close(&mut self, cause: &Cause, served: bool, place: ListenerPlace) {
        self.sinks.counters.violations += u64::from(matches!(cause, Cause::Violation(_)));
        let is_not_its = matches!(cause, Cause::NotAuthorised(Refusal::NotItsClientId));
        self.sinks.counters.client_ids_not_bound += u64::from(is_not_its);
        let counters = self.listeners.at(place);
        counters.closed[cause.label() as usize] += 1;
        let refusal = match cause {
            _ if served => None,
            Cause::Refused(reason_code) | Cause::Server(reason_code) => Some(*reason_code),
            Cause::Violation(violation) => Some(violation.reason_code()),
            Cause::NotConnect | Cause::TooMuchBeforeConnack => Some(ReasonCode::ProtocolError),
            Cause::NotAuthorised(refusal) => Some(refusal.reason_code()),
            Cause::Unanswerable => Some(ReasonCode::PacketTooLarge),
            Cause::JournalStalled => Some(ReasonCode::ServerUnavailable),
            _ => None,
        };
        if let Some(reason_code) = refusal {
            counters.refused.count(reason_code);
        }
    }

    /// A new connection for a client id that has one: the old client hears 0x8E [MQTT-3.1.4-3].
    pub(super) fn take_over(&mut self, now: Now, session: SessionId) {
        let connection = self
            .sessions
            .get(session.slot, session.generation)
            .and_then(|session| session.link.as_ref())
            .map(|link| link.connection);
        if let Some(connection) = connection {
            self.close(now, connection, Cause::TakenOver);
        }
    }

    /// The session loses its connection: what share groups gave goes back, the will is decided, and the time runs.
    fn detach(&mut self, now: Now, id: SessionId, fate: WillFate) {
        self.return_to_groups(now, id, None);
        let Some(session) = self.sessions.get_mut(id.slot, id.generation) else {
            return;
        };
        session.link = None;
        self.sinks.counters.disconnects += 1;
        self.keep_or_forget_retained(now, id);
        let Some(session) = self.sessions.get_mut(id.slot, id.generation) else {
            return;
        };
        if self.checkpoint.is_some() && session.is_resumable() {
            session.queue.leave_to_store(&self.shared.exchange.totals);
        }
        let mut fire = None;
        match fate {
            WillFate::Delete => {
                if let Some(will) = session.will.take() {
                    self.shared.exchange.will_bytes.give_back(will.cost());
                }
            }
            WillFate::Publish => {
                let expiry_interval = session.expiry_interval;
                session.will_fires_at = session
                    .will
                    .as_ref()
                    .and_then(|will| will::fires_at(will, expiry_interval, now.monotonic));
                if session.will_fires_at.is_none() {
                    fire = session.will.take();
                }
            }
        }
        let ends = session.ends_with_connection();
        session.expires_at = if ends {
            None
        } else {
            session.expiry_deadline(now.monotonic)
        };
        let record = (!ends).then(|| session.record());
        if let Some(record) = record {
            self.sinks.journal.push(record);
        }
        self.arm_session(id);
        if let Some(will) = fire {
            self.publish_will(now, id, &will);
        }
        if ends {
            self.end_session(now, id, SessionEnd::Disconnect);
        }
    }

    /// The session and everything it is known by goes. A will that waits fires now [MQTT-3.1.3-9].
    pub(super) fn end_session(&mut self, now: Now, id: SessionId, why: SessionEnd) {
        self.return_to_groups(now, id, None);
        let Some(session) = self.sessions.get_mut(id.slot, id.generation) else {
            return;
        };
        session.will_fires_at = None;
        session.expires_at = None;
        let will = session.will.take();
        let filters: Vec<Box<str>> = session.subscriptions.keys().cloned().collect();
        self.arm_session(id);
        for filter in &filters {
            self.remove_subscription(now, id, filter);
        }
        if let Some(will) = will {
            self.publish_will(now, id, &will);
        }
        let Some(session) = self.sessions.get_mut(id.slot, id.generation) else {
            return;
        };
        let mut out = self.sinks.outputs_nowhere(now, &self.shared);
        session.discard_messages(&mut out);
        let client_id = std::sync::Arc::clone(&session.receiver.client_id);
        // Also for a session that has just given up its expiry interval.
        let is_resumable = session.is_resumable();
        if session.is_stored {
            let ticket = self.sinks.journal.push(Operation::DeleteSession {
                client_id: (&*client_id).into(),
            });
            // Of one that could not be resumed a will is forgotten, which nobody is told.
            if let Some(ticket) = ticket.filter(|_| is_resumable) {
                self.deletions
                    .insert(std::sync::Arc::clone(&client_id), ticket);
            }
        }
        self.retained_readings.remove(&id);
        self.names.forget(&self.sessions, &client_id);
        self.sessions.remove(id.slot, id.generation);
        self.sinks.counters.sessions_ended[why as usize] += 1;
        self.shared.exchange.sessions.give_back(1);
        self.shared.exchange.forget_home(&client_id);
    }

    /// Publishes a will through the one door.
    pub(super) fn publish_will(&mut self, now: Now, id: SessionId, will: &Will) {
        self.shared.exchange.will_bytes.give_back(will.cost());
        if !self.may_publish_will(now, id, will) {
            return;
        }
        let mut message = MessageRef::new(
            &will.topic,
            &will.payload,
            &will.properties,
            self.shared.settings.outgoing_qos(will.qos),
        );
        message.retain = will.retain;
        message.expires_at = will
            .message_expiry_interval
            .map(|seconds| now.monotonic + u64::from(seconds) * 1000);
        message.publisher = Some(id);
        panic_if_planted(self.panic_topic.as_deref(), message.topic);
        self.publish(now, &mut message, None);
    }

    /// What share groups gave this session goes back to them, and it counts as offline there.
    pub(super) fn return_to_groups(&mut self, now: Now, id: SessionId, only: Option<GroupId>) {
        let Some(session) = self.sessions.get_mut(id.slot, id.generation) else {
            return;
        };
        let groups: Vec<GroupId> = session
            .subscriptions
            .values()
            .filter_map(|subscription| subscription.group)
            .filter(|group| only.is_none_or(|only| only == *group))
            .collect();
        if groups.is_empty() {
            return;
        }
        let mut taken = Vec::new();
        if let Some(group) = only.filter(|_| session.link.is_some()) {
            let mut out = self.sinks.outputs_nowhere(now, &self.shared);
            taken = session.keep_group_exchanges(group, &mut out);
        }
        taken.extend(session.take_group_messages(only, &self.shared.exchange.totals));
        for group_id in groups {
            let Some(group) = self.shared.exchange.group_by_id(group_id) else {
                continue;
            };
            let returned = taken
                .iter()
                .filter(|(from, _)| *from == group_id)
                .map(|(_, message)| std::sync::Arc::clone(message));
            let decided = group.gone(id, false, returned, &self.shared.exchange.totals);
            self.carry_out_decided(now, &group, decided);
        }
    }

    /// A connection's deadline.
    pub(super) fn connection_due(&mut self, now: Now, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(id.slot, id.generation) else {
            return;
        };
        connection.timer = None;
        match &connection.phase {
            Phase::Greeting | Phase::Authenticating(_) | Phase::Verifying { .. } => {
                self.close(now, id, Cause::ConnectTimeout)
            }
            Phase::Refusing { refusal } => {
                let cause = Cause::NotAuthorised(*refusal);
                self.close(now, id, cause);
            }
            // The peer does not take its last bytes: the driver closes the socket when it sees the connection gone.
            Phase::Closing => {
                connection.mark_dirty(&mut self.sinks.dirty);
                self.released(id);
            }
            Phase::Serving { session } => {
                let session = *session;
                self.served_connection_due(now, id, session);
            }
        }
    }

    /// Keep alive, and the patience for unreleased QoS 2 messages.
    fn served_connection_due(&mut self, now: Now, id: ConnectionId, session: SessionId) {
        let (Some(connection), Some(session)) = (
            self.connections.get(id.slot, id.generation),
            self.sessions.get(session.slot, session.generation),
        ) else {
            return;
        };
        let Some(link) = &session.link else { return };
        let patience = u64::from(self.shared.settings.qos2_wait_seconds) * 1000;
        let unreleased_due = link
            .rarities
            .unreleased_full_since
            .map(|since| since + patience);
        if unreleased_due.is_some_and(|due| due <= now.monotonic) {
            self.close(now, id, Cause::Violation(Violation::UnreleasedTooLong));
            return;
        }
        let refused_due = link.rarities.refused_at.map(|at| at + REFUSAL_MILLISECONDS);
        if refused_due.is_some_and(|due| due <= now.monotonic) {
            self.close(now, id, Cause::NotOwned);
            return;
        }
        // Keep alive does not run while we are the ones who do not read (D4).
        let silence_due = link.silence_max().map(|silence| {
            let since = if self.is_behind(connection) {
                now.monotonic
            } else {
                connection.last_received
            };
            since + silence
        });
        if silence_due.is_some_and(|due| due <= now.monotonic) {
            self.close(now, id, Cause::KeepAlive);
            return;
        }
        let dues = [silence_due, unreleased_due, refused_due];
        let next = dues.into_iter().flatten().min();
        self.arm_connection(id, next);
    }

    /// A delayed will or the end of an offline session.
    pub(super) fn session_due(&mut self, now: Now, id: SessionId) {
        self.session_timers.remove(&id);
        let Some(session) = self.sessions.get_mut(id.slot, id.generation) else {
            return;
        };
        if session.will_fires_at.is_some_and(|at| at <= now.monotonic) {
            session.will_fires_at = None;
            if let Some(will) = session.will.take() {
                let record = session.record();
                self.sinks.journal.push(record);
                self.publish_will(now, id, &will);
            }
        }
        let expired = self
            .sessions
            .get(id.slot, id.generation)
            .is_some_and(|session| session.expires_at.is_some_and(|at| at <= now.monotonic));
        if expired {
            self.end_session(now, id, SessionEnd::Expired);
        } else {
            self.arm_session(id);
        }
    }

    /// Expired messages are taken out of the retained store and of group queues, a bounded number at a time.
    pub(super) fn sweep(&mut self, now: Now) {
        self.sweep_armed = None;
        let mut removed = Vec::new();
        self.shared
            .exchange
            .retained
            .remove_expired(now.monotonic, SWEEP_MAX, &mut |topic| {
                removed.push(topic.to_owned())
            });
        for topic in removed {
            self.note_retained(now, &topic, QoS::AtMostOnce, 0);
        }
        self.check_clock(now);
        self.sweep_groups(now, SWEEP_MAX);
        self.arm_sweep(now);
    }

    /// Starts the sweep; one shard does it for all.
    pub fn arm_sweep(&mut self, now: Now) {
        self.timers.set(
            &mut self.sweep_armed,
            Some(now.monotonic + SWEEP_MILLISECONDS),
            Timer::Sweep,
        );
    }
}

impl Cause {
    /// The metric's word for it.
    fn label(&self) -> Closed {
        match self {
            Self::Violation(_) | Self::NotConnect => Closed::ProtocolError,
            Self::Refused(_) | Self::NotAuthorised(_) | Self::Unanswerable => Closed::Refused,
            Self::NoLongerAuthorised => Closed::NotAuthorized,
            Self::ListenerGone => Closed::NotAuthorized,
            Self::Certificate(_) => Closed::Certificate,
            Self::TooMuchBeforeConnack => Closed::ProtocolError,
            Self::Disconnected(_) => Closed::Disconnect,
            Self::PeerGone => Closed::Peer,
            Self::KeepAlive => Closed::KeepAlive,
            Self::ConnectTimeout => Closed::ConnectTimeout,
            Self::TakenOver => Closed::TakenOver,
            Self::ShutDown => Closed::ShutDown,
            Self::Server(_) => Closed::Server,
            Self::NotOwned | Self::JournalStalled => Closed::NotStored,
            Self::Panic => Closed::Panic,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Violation(violation) => return violation.fmt(f),
            Self::Refused(reason_code) | Self::Server(reason_code) => return reason_code.fmt(f),
            // What exactly was wrong is not for the client (T1).
            Self::NotAuthorised(refusal) => return refusal.reason_code().fmt(f),
            Self::NoLongerAuthorised => return ReasonCode::NotAuthorized.fmt(f),
            Self::Certificate(void) => return void.fmt(f),
            Self::ListenerGone => "its listener is gone with a reload, or is another one",
            Self::TooMuchBeforeConnack => "too many bytes before CONNACK",
            Self::NotConnect => "the first packet is not CONNECT",
            Self::Unanswerable => "CONNACK is larger than the client's maximum packet size",
            Self::Disconnected(_) => "DISCONNECT from the client",
            Self::PeerGone => "the client closed its connection",
            Self::KeepAlive => "no packet within one and a half times the keep alive",
            Self::ConnectTimeout => "no CONNECT in time",
            Self::TakenOver => "another connection took over the session",
            Self::ShutDown => "the broker shuts down",
            Self::NotOwned => "a publish could not be stored",
            Self::JournalStalled => "what was asked for could not be stored in time",
            Self::Panic => "an internal error",
        })
    }
}

/// What the client hears, and the version to say it in where that is not the connection's own.
fn farewell(
    cause: &Cause,
    version: ProtocolVersion,
    served: bool,
) -> Option<(Packet, Option<ProtocolVersion>)> {
    let connack = |reason_code, version| {
        refusal(reason_code, version).map(|connack| (Packet::Connack(connack), Some(version)))
    };
    if !served {
        return match cause {
            Cause::Refused(reason_code) => connack(*reason_code, version),
            Cause::NotAuthorised(refusal) => connack(refusal.reason_code(), version),
            Cause::Violation(Violation::Decode(error)) => {
                connack(error.reason_code(), error.connack_version()?)
            }
            Cause::Server(reason_code) if version.is_v5() => connack(*reason_code, version),
            Cause::JournalStalled => connack(ReasonCode::ServerUnavailable, version),
            _ => None,
        };
    }
    if !version.is_v5() {
        return None; // 3.x has no way to say it.
    }
    let reason_code = match cause {
        Cause::Violation(Violation::Decode(error)) if error.is_silent() => return None,
        Cause::Violation(violation) => violation.reason_code(),
        Cause::KeepAlive => ReasonCode::KeepAliveTimeout,
        Cause::TakenOver => ReasonCode::SessionTakenOver,
        Cause::ShutDown => ReasonCode::ServerShuttingDown,
        Cause::ListenerGone => ReasonCode::AdministrativeAction,
        // It was let in for so long and not longer.
        Cause::Certificate(Void::Expired) => ReasonCode::MaximumConnectTime,
        Cause::Certificate(_) => ReasonCode::AdministrativeAction,
        Cause::Server(reason_code) => *reason_code,
        Cause::NoLongerAuthorised => ReasonCode::AdministrativeAction,
        Cause::JournalStalled => ReasonCode::QuotaExceeded,
        Cause::Panic => ReasonCode::UnspecifiedError,
        _ => return None,
    };
    Some((
        Packet::Disconnect(Disconnect {
            reason_code,
            properties: DisconnectProperties::default(),
        }),
        None,
    ))
}

/// How long a peer may take to read its last bytes.
const LAST_BYTES_MILLISECONDS: u64 = 5000;
const SWEEP_MILLISECONDS: u64 = 1000;
const SWEEP_MAX: usize = 10_000;
