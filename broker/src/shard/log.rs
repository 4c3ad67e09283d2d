//! Who comes and who goes, one line each, in the words that Mosquitto's users and their tools look for.
//!
//! What a client chose is escaped. Lines about those who are refused are bounded by source.

use nightjar_codec::ReasonCode;
use tracing::Level;

use super::close::Cause;
use super::throttle::Verdict;
use super::{Connection, Shard, Timer};
use crate::clock::Now;
use crate::identity::{ConnectionId, SessionId};
use crate::logging::{NOTICE, SUBSCRIBE, UNSUBSCRIBE};
use crate::session::Session;
use crate::session::will::Will;

impl Shard {
    pub(super) fn log_connected(&self, id: ConnectionId, session: SessionId) {
        if !self.shared.settings.log.connection_messages {
            return;
        }
        let (Some(connection), Some(session)) = (
            self.connections.get(id.slot, id.generation),
            self.sessions.get(session.slot, session.generation),
        ) else {
            return;
        };
        let Some(link) = &session.link else { return };
        let user = session
            .user
            .as_deref()
            .map(|user| format!(", u'{}'", user.escape_debug()));
        tracing::info!(
            target: NOTICE,
            "New client connected from {} as {} (p{}, c{}, k{}{}).",
            connection.peer,
            session.receiver.client_id.escape_debug(),
            session.version.level(),
            u8::from(link.clean_start),
            link.keep_alive,
            user.unwrap_or_default()
        );
        log_will(session.will.as_deref());
    }

    pub(super) fn log_closed(
        &mut self,
        now: Now,
        id: ConnectionId,
        session: Option<SessionId>,
        cause: &Cause,
    ) {
        let Some(connection) = self.connections.get(id.slot, id.generation) else {
            return;
        };
        let client =
            session.and_then(|session| self.sessions.get(session.slot, session.generation));
        if let Some(session) = client {
            let is_wanted = self.shared.settings.log.connection_messages;
            log_goodbye(connection, session, cause, is_wanted);
            return;
        }
        let is_said = matches!(
            cause,
            Cause::Refused(_)
                | Cause::NotAuthorised(_)
                | Cause::Violation(_)
                | Cause::Certificate(_)
        );
        if !is_said {
            tracing::debug!("Connection from {} closed: {cause}.", connection.peer);
            return;
        }
        match self
            .throttle
            .admit(now.monotonic, &connection.peer.to_string())
        {
            Verdict::Say => log_refused(connection, cause),
            Verdict::LeaveOutUntil(until) => {
                let next = self.throttle_armed.map_or(until, |armed| armed.min(until));
                self.timers
                    .set(&mut self.throttle_armed, Some(next), Timer::LeftOut);
            }
            Verdict::LeaveOut => {}
        }
    }

    pub(super) fn log_subscribed(&self, id: SessionId, topic_filter: &str, granted: ReasonCode) {
        // Looked at first: a client may subscribe as often as it likes.
        if tracing::enabled!(target: SUBSCRIBE, Level::DEBUG)
            && let Some(session) = self.sessions.get(id.slot, id.generation)
        {
            tracing::debug!(
                target: SUBSCRIBE,
                "{} {} {}",
                session.receiver.client_id.escape_debug(),
                granted.as_u8(),
                topic_filter.escape_debug()
            );
        }
    }

    pub(super) fn log_unsubscribed(&self, id: SessionId, topic_filter: &str) {
        if tracing::enabled!(target: UNSUBSCRIBE, Level::DEBUG)
            && let Some(session) = self.sessions.get(id.slot, id.generation)
        {
            tracing::debug!(
                target: UNSUBSCRIBE,
                "{} {}",
                session.receiver.client_id.escape_debug(),
                topic_filter.escape_debug()
            );
        }
    }

    /// Who has subscribed to what, for whoever asks with a signal.
    pub fn log_subscriptions(&self) {
        let mut sessions: Vec<&Session> = self.sessions.iter().collect();
        sessions
            .sort_unstable_by(|one, other| one.receiver.client_id.cmp(&other.receiver.client_id));
        let subscriptions = sessions.iter().flat_map(|session| {
            let each = session.subscriptions.iter();
            each.map(|(filter, subscription)| (&session.receiver.client_id, filter, subscription))
        });
        let count: usize = sessions
            .iter()
            .map(|session| session.subscriptions.len())
            .sum();
        tracing::info!("Subscriptions of shard {}: {count}.", self.id);
        for (client_id, filter, subscription) in subscriptions.take(SUBSCRIPTION_LINES_MAX) {
            tracing::info!(
                "    {} {} {}",
                client_id.escape_debug(),
                subscription.granted().as_u8(),
                filter.escape_debug()
            );
        }
        if count > SUBSCRIPTION_LINES_MAX {
            tracing::info!("    and {} more.", count - SUBSCRIPTION_LINES_MAX);
        }
    }

    /// Says how many lines were left out.
    pub(super) fn log_left_out(&mut self, now: Now) {
        self.throttle_armed = None;
        for (address, lines) in self.throttle.left_out(now.monotonic) {
            tracing::warn!(
                "{lines} more lines about refused connections from {address} were left out."
            );
        }
        let next = self.throttle.next();
        self.timers
            .set(&mut self.throttle_armed, next, Timer::LeftOut);
    }
}

fn log_goodbye(connection: &Connection, session: &Session, cause: &Cause, is_wanted: bool) {
    let client_id = session.receiver.client_id.escape_debug();
    match cause {
        Cause::Violation(violation) => tracing::info!(
            target: NOTICE,
            "Client {client_id} disconnected due to protocol error: {violation}."
        ),
        // The first words are Mosquitto's.
        Cause::NoLongerAuthorised => tracing::info!(
            target: NOTICE,
            "Client {client_id} [{}] disconnected, not authorised ({}: its password or its right to come in has gone with a reload).",
            connection.peer,
            user_of(session.user.as_deref())
        ),
        Cause::Certificate(void) => tracing::info!(
            target: NOTICE,
            "Client {client_id} [{}] disconnected, not authorised ({}: {void}).",
            connection.peer,
            user_of(session.user.as_deref())
        ),
        _ if !is_wanted => {}
        Cause::Disconnected(_) => {
            tracing::info!(target: NOTICE, "Client {client_id} disconnected.");
        }
        Cause::KeepAlive => tracing::info!(
            target: NOTICE,
            "Client {client_id} has exceeded timeout, disconnecting."
        ),
        Cause::TakenOver => tracing::info!(
            target: NOTICE,
            "Client {client_id} already connected, closing old connection."
        ),
        Cause::PeerGone => {
            tracing::info!(target: NOTICE, "Client {client_id} closed its connection.");
        }
        Cause::ShutDown => tracing::info!(
            target: NOTICE,
            "Client {client_id} disconnected: shutting down."
        ),
        other => tracing::info!(target: NOTICE, "Client {client_id} disconnected: {other}."),
    }
}

fn log_refused(connection: &Connection, cause: &Cause) {
    match (cause, &connection.claimant) {
        // The first words are Mosquitto's.
        (Cause::NotAuthorised(refusal), Some(claimant)) => tracing::info!(
            target: NOTICE,
            "Client {} [{}] disconnected, not authorised ({}: {refusal}).",
            claimant.client_id.escape_debug(),
            connection.peer,
            user_of(claimant.user.as_deref())
        ),
        (Cause::Refused(reason_code), Some(claimant)) => tracing::info!(
            target: NOTICE,
            "Connection from {} refused: {reason_code} (client {}, {}).",
            connection.peer,
            claimant.client_id.escape_debug(),
            user_of(claimant.user.as_deref())
        ),
        (Cause::Refused(reason_code), None) => tracing::info!(
            target: NOTICE,
            "Connection from {} refused: {reason_code}.",
            connection.peer
        ),
        (other, _) => tracing::info!(
            target: NOTICE,
            "Connection from {} closed: {other}.",
            connection.peer
        ),
    }
}

fn log_will(will: Option<&Will>) {
    match will {
        None => tracing::debug!("No will message specified."),
        Some(will) => {
            tracing::debug!(
                "Will message specified ({} bytes) (r{}, q{}).",
                will.payload.len(),
                u8::from(will.retain),
                will.qos as u8
            );
            tracing::debug!("    {}", will.topic.escape_debug());
        }
    }
}

fn user_of(user: Option<&str>) -> String {
    user.map_or_else(
        || "no user".to_owned(),
        |user| format!("user '{}'", user.escape_debug()),
    )
}

/// Lines that one shard writes of its subscriptions.
const SUBSCRIPTION_LINES_MAX: usize = 1000;
