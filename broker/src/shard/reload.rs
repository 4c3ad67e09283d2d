//! Other settings and users, taken while everybody stays who may.

use std::sync::Arc;

use nightjar_codec::Limits;

use super::close::Cause;
use super::connect::accepts_version;
use super::{Phase, Shard};
use crate::auth::Passwords;
use crate::authorization::Authorization;
use crate::clock::Now;
use crate::session::queue::MemoryLimits;
use crate::session::quota::QueueLimits;
use crate::settings::{ListenerSettings, Settings};

/// What a reload brings to every shard: all of it was read and checked.
#[derive(Clone, Debug)]
pub struct Reloaded {
    pub settings: Arc<Settings>,
    pub passwords: Arc<Passwords>,
    pub authorization: Arc<Authorization>,
}

impl Shard {
    /// Takes what was reloaded. Connections keep the terms they came in on; those end that would not be let in any more, or
    /// whose listener is gone or serves something else.
    pub fn reload(&mut self, now: Now, reloaded: &Reloaded) {
        self.shared.settings = Arc::clone(&reloaded.settings);
        self.has_reloaded = true;
        let settings = &*reloaded.settings;
        (self.limits, self.pre_auth_limits) = limits(settings);
        self.sinks.queue_limits = QueueLimits::from(settings);
        if let Some(memory) = &mut self.sinks.memory_limits {
            *memory = MemoryLimits {
                bytes_max: settings.queue_memory_bytes_max,
                total_bytes_max: settings.queue_memory_total_bytes_max,
            };
        }
        let mut gone = Vec::new();
        // Many connections share one listener.
        let mut known: Vec<(Arc<ListenerSettings>, Option<Arc<ListenerSettings>>)> = Vec::new();
        for connection in self.connections.iter_mut() {
            let old = &connection.listener;
            let new = match known.iter().find(|(known, _)| Arc::ptr_eq(known, old)) {
                Some((_, new)) => new.clone(),
                None => {
                    let new = renewed(settings, old);
                    known.push((Arc::clone(old), new.clone()));
                    new
                }
            };
            // Before CONNECT nobody knows what is spoken, and after it nobody asks again.
            let is_serving = matches!(connection.phase, Phase::Serving { .. });
            let new = new.filter(|new| !is_serving || accepts_version(new, connection.version));
            match new {
                Some(new) => connection.listener = new,
                None if matches!(connection.phase, Phase::Closing) => {}
                None => gone.push(connection.id),
            }
        }
        for id in gone {
            self.close(now, id, Cause::ListenerGone);
        }
        self.replace_rules(Arc::clone(&reloaded.authorization));
        self.give_groups_what_they_may_read(now);
        self.reauthenticate_all(now, Arc::clone(&reloaded.passwords));
    }

    /// What a socket's listener has become while the socket was on its way here; `None`: it is gone.
    pub(super) fn current_listener(
        &self,
        listener: &Arc<ListenerSettings>,
    ) -> Option<Arc<ListenerSettings>> {
        let settings = &self.shared.settings;
        let is_current = !self.has_reloaded
            || settings
                .listeners
                .iter()
                .any(|current| Arc::ptr_eq(current, listener));
        if is_current {
            return Some(Arc::clone(listener));
        }
        renewed(settings, listener)
    }

    /// Everything that may wait for the journal goes there with this turn.
    pub fn save(&mut self) {
        self.retained_due();
    }
}

/// A listener's old terms with its new rules; `None`: nobody listens there any more, or what is spoken there is another thing, so
/// that who is there would not be let in.
pub(super) fn renewed(
    settings: &Settings,
    old: &ListenerSettings,
) -> Option<Arc<ListenerSettings>> {
    let new = old
        .endpoints
        .iter()
        .find_map(|endpoint| settings.listener_at(endpoint))?;
    let spoken = |listener: &ListenerSettings| {
        (
            listener.protocol,
            listener.tls.is_some(),
            listener.proxy_protocol,
        )
    };
    (spoken(new) == spoken(old)).then(|| {
        Arc::new(ListenerSettings {
            security: new.security.clone(),
            allow_anonymous: new.allow_anonymous,
            protocol_versions: new.protocol_versions,
            ..old.clone()
        })
    })
}

/// For packets of those who are served, and of those who are not yet.
pub(super) fn limits(settings: &Settings) -> (Limits, Limits) {
    let limits = Limits {
        packet_size_max: settings.max_packet_size,
        user_properties_max: settings.user_properties_max,
        topic_levels_max: settings.topic_levels_max,
        topic_filters_max: settings.topic_filters_max,
    };
    let pre_auth_limits = Limits {
        packet_size_max: settings
            .pre_auth_packet_size_max
            .min(settings.max_packet_size),
        ..limits
    };
    (limits, pre_auth_limits)
}
