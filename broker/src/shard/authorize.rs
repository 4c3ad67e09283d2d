//! Where the rules meet clients: at CONNECT, at each PUBLISH and SUBSCRIBE, when a will is due, and when the rules change.
//!
//! What a session may receive is asked when a route is made (`exchange/delivery.rs`), so a message on its way along a route asks
//! nothing; what waited for anything is asked for again when it is sent (`session/deliver.rs`). What a client may publish is asked
//! once a topic: its `last_route` is one that it may publish to.

use std::sync::Arc;

use nightjar_acl::Identity;
use nightjar_codec::packet::PublishRef;
use nightjar_codec::topic::parse_shared;
use nightjar_storage::StoredMessage;

use super::reload::renewed;
use super::{Shard, Shared};
use crate::authorization::{Authorization, security_of};
use crate::clock::Now;
use crate::identity::{ConnectionId, SessionId};
use crate::message::MessageRef;
use crate::session::Session;
use crate::session::authorize::{Access, Entry};
use crate::session::connect::Admitted;
use crate::session::deliver::Grant;
use crate::session::will::Will;
use crate::settings::{AclSubscribe, ListenerSettings};

/// How much has been logged of what was denied.
#[derive(Default)]
pub(super) struct Denials {
    since: u64,
    lines: u32,
    left_out: u64,
}

impl Shard {
    /// The rules have changed; the settings they came with are in force already. Everything is asked anew from here on: of
    /// those who are subscribed, of what is queued and retained, of wills, of topics that were published to before.
    pub fn replace_rules(&mut self, authorization: Arc<Authorization>) {
        self.shared.authorization = authorization;
        let settings = &self.shared.settings;
        let mut known: Vec<(Arc<ListenerSettings>, Arc<ListenerSettings>)> = Vec::new();
        for session in self.sessions.iter_mut() {
            let Some(mut entry) = session.entry.clone() else {
                continue;
            };
            // Its listener may have other rules than before; the mount point stays that of the connection. Many sessions share
            // one listener.
            let old = &entry.listener;
            let new = match known.iter().find(|(known, _)| Arc::ptr_eq(known, old)) {
                Some((_, new)) => Arc::clone(new),
                None => {
                    let new = renewed(settings, old).unwrap_or_else(|| Arc::clone(old));
                    known.push((Arc::clone(old), Arc::clone(&new)));
                    new
                }
            };
            entry.listener = new;
            let rules = self
                .shared
                .authorization
                .rules_for(settings, &entry.listener);
            let user = session.user.as_deref();
            let access = Access::find(rules.as_ref(), user, &session.receiver.client_id, &entry);
            session.entry = Some(entry);
            session.set_access(access);
        }
        for connection in self.connections.iter_mut() {
            connection.last_route = None;
        }
        self.shared.exchange.subscriptions.touch_all();
    }

    /// Finds what the client may do. False: not even leave this will.
    pub(super) fn authorize(
        &mut self,
        now: Now,
        id: ConnectionId,
        client_id: &str,
        admitted: &mut Admitted,
    ) -> bool {
        let Some(connection) = self.connections.get(id.slot, id.generation) else {
            return false;
        };
        let entry = Entry {
            address: connection.peer.address().map(|address| address.ip()),
            certificate: connection.client().cloned(),
            listener: Arc::clone(&connection.listener),
        };
        let shared = &self.shared;
        let rules = shared
            .authorization
            .rules_for(&shared.settings, &entry.listener);
        let user = admitted.user.as_deref();
        admitted.access = Access::find(rules.as_ref(), user, client_id, &entry);
        admitted.entry = Some(entry);
        let (Some(access), Some(will)) = (&admitted.access, &admitted.will) else {
            return true;
        };
        if access.may_publish_whole(&will.topic) {
            return true;
        }
        self.sinks.counters.wills_denied += 1;
        if let Some(left_out) = self.denials.may_log(now) {
            tracing::info!(
                "Denied will of {} ('{}', user {}, address {}): the rules do not allow it.{left_out}",
                client_id.escape_debug(),
                will.topic.escape_debug(),
                user_name(user),
                connection.peer,
            );
        }
        false
    }

    /// The session takes what `authorize` found. Routes that were made of what it was before are not believed any more.
    pub(super) fn take_access(&mut self, id: SessionId, admitted: &mut Admitted) {
        let Some(session) = self.sessions.get_mut(id.slot, id.generation) else {
            return;
        };
        session.entry = admitted.entry.take();
        if !session.set_access(admitted.access.take()) {
            return;
        }
        for filter in session.subscriptions.keys() {
            let inner = match parse_shared(filter) {
                Ok(Some((_, inner))) => inner,
                _ => filter,
            };
            self.shared.exchange.subscriptions.touch(inner);
        }
    }

    /// Whether this session's client is told that it may not subscribe to something.
    pub(super) fn answers_strictly(&self, session: &Session) -> bool {
        session.entry.as_ref().is_some_and(|entry| {
            let security = security_of(&self.shared.settings, &entry.listener);
            security.acl_subscribe == AclSubscribe::Strict
        })
    }

    /// Whether a session's will may be published, under the rules of this moment.
    pub(super) fn may_publish_will(&mut self, now: Now, id: SessionId, will: &Will) -> bool {
        if self.shared.authorization.is_off() {
            return true;
        }
        let Some(session) = self.sessions.get(id.slot, id.generation) else {
            return false;
        };
        let may_publish = match &session.entry {
            Some(_) => session.may_publish_will(&will.topic),
            None => self.may_publish_from_anywhere(session, &will.topic),
        };
        if may_publish {
            return true;
        }
        self.sinks.counters.wills_denied += 1;
        if let Some(left_out) = self.denials.may_log(now) {
            tracing::info!(
                "Denied will of {} ('{}', user {}): the rules do not allow it any more.{left_out}",
                session.receiver.client_id.escape_debug(),
                will.topic.escape_debug(),
                user_name(session.user.as_deref()),
            );
        }
        false
    }

    /// Its client was last seen by another process, so nobody knows where it came in: every listener has to allow it.
    fn may_publish_from_anywhere(&self, session: &Session, topic: &str) -> bool {
        let settings = &self.shared.settings;
        settings.listeners.iter().all(|listener| {
            let rules = self.shared.authorization.rules_for(settings, listener);
            let user = session.user.as_deref();
            let entry = Entry {
                address: None,
                certificate: None,
                listener: Arc::clone(listener),
            };
            Access::find(rules.as_ref(), user, &session.receiver.client_id, &entry)
                .is_none_or(|access| access.may_publish_whole(topic))
        })
    }

    /// A PUBLISH was denied, and answered.
    pub(super) fn note_denied_publish(
        &mut self,
        now: Now,
        id: ConnectionId,
        session: SessionId,
        topic: &str,
        publish: &PublishRef<'_>,
    ) {
        let (Some(connection), Some(session)) = (
            self.connections.get(id.slot, id.generation),
            self.sessions.get(session.slot, session.generation),
        ) else {
            return;
        };
        let Some(left_out) = self.denials.may_log(now) else {
            return;
        };
        tracing::info!(
            "Denied PUBLISH from {} (d{}, q{}, r{}, m{}, '{}', ... ({} bytes)), user {}, address {}: the rules do not allow it.{left_out}",
            session.receiver.client_id.escape_debug(),
            u8::from(publish.dup),
            publish.qos as u8,
            u8::from(publish.retain),
            publish.packet_id.map_or(0, |packet_id| packet_id.get()),
            topic.escape_debug(),
            publish.payload.len(),
            user_name(session.user.as_deref()),
            connection.peer,
        );
    }

    /// A Topic Filter of a SUBSCRIBE was denied.
    pub(super) fn note_denied_subscribe(
        &mut self,
        now: Now,
        id: ConnectionId,
        session: SessionId,
        topic_filter: &str,
    ) {
        self.sinks.counters.subscribes_denied += 1;
        let (Some(connection), Some(session)) = (
            self.connections.get(id.slot, id.generation),
            self.sessions.get(session.slot, session.generation),
        ) else {
            return;
        };
        let Some(left_out) = self.denials.may_log(now) else {
            return;
        };
        tracing::info!(
            "Denied SUBSCRIBE from {} ('{}'), user {}, address {}: the rules do not allow all of it.{left_out}",
            session.receiver.client_id.escape_debug(),
            topic_filter.escape_debug(),
            user_name(session.user.as_deref()),
            connection.peer,
        );
    }

    /// As `deliver_to`, for what was promised to the session earlier: the rules may have changed since.
    pub(super) fn deliver_if_allowed(
        &mut self,
        now: Now,
        message: &MessageRef<'_>,
        id: SessionId,
        grant: &Grant<'_>,
    ) -> bool {
        let session = self.sessions.get(id.slot, id.generation);
        if let Some(session) = session.filter(|session| !session.may_receive(message.topic)) {
            let mut out = self.sinks.outputs_nowhere(now, &self.shared);
            session.deny_delivery(message.message_id, grant, &mut out);
            return true;
        }
        self.deliver_to(now, message, id, grant)
    }
}

impl Shared {
    /// Whether the rules in force let its publisher publish what is retained: at some listener, for nobody knows any more where it
    /// came in. Rules that ask for more than names cannot be asked of somebody who may be gone.
    pub(super) fn may_still_publish(&self, message: &StoredMessage) -> bool {
        let Some(client_id) = message.publisher.as_deref() else {
            return true;
        };
        if !self.settings.check_retain_source || self.authorization.is_off() {
            return true;
        }
        let user = message.publisher_user.as_deref();
        self.settings.listeners.iter().any(|listener| {
            let rules = self.authorization.rules_for(&self.settings, listener);
            rules.is_none_or(|rules| {
                !rules.ask_for_names_only()
                    || rules.may_publish(&Identity::new(user, client_id), &message.topic)
            })
        })
    }
}

impl Denials {
    /// Some lines a second, whoever tries how often. `Some`: one may be written, with this at its end.
    fn may_log(&mut self, now: Now) -> Option<LeftOut> {
        if now.monotonic.saturating_sub(self.since) >= 1000 {
            self.since = now.monotonic;
            self.lines = 0;
        }
        if self.lines >= LINES_A_SECOND {
            self.left_out += 1;
            return None;
        }
        self.lines += 1;
        Some(LeftOut(std::mem::take(&mut self.left_out)))
    }
}

/// How many lines were not written before this one.
struct LeftOut(u64);

impl std::fmt::Display for LeftOut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            0 => Ok(()),
            left_out => write!(f, " ({left_out} more were denied and not logged.)"),
        }
    }
}

/// A user as the log names it: nobody can forge a line with it.
fn user_name(user: Option<&str>) -> String {
    user.map_or_else(
        || "none".to_owned(),
        |user| format!("'{}'", user.escape_debug()),
    )
}

const LINES_A_SECOND: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_denials_a_second_are_logged_and_the_others_counted() {
        let mut denials = Denials::default();
        let at = |monotonic| Now { monotonic, wall: 0 };
        let logged = (0..25).filter(|_| denials.may_log(at(5_000)).is_some());
        assert_eq!(logged.count(), 10);
        let next = denials.may_log(at(6_000)).map(|left_out| left_out.0);
        assert_eq!(next, Some(15));
        let after = denials.may_log(at(6_001)).map(|left_out| left_out.0);
        assert_eq!(after, Some(0));
    }
}
