//! Crashes, ends, and what must be true when nothing moves any more.

use super::*;

impl Model {
    /// The broker process is gone. `orderly`: it said goodbye and wrote everything.
    /// `at_rest`: everything that was to be written at that moment was durable.
    pub(crate) fn crashed(&mut self, orderly: bool, at_rest: bool) {
        self.crashes += 1;
        self.last_crash_at = self.now;
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
        if !orderly {
            for subscription in self
                .sessions
                .iter_mut()
                .flat_map(|session| session.subscriptions.values_mut())
            {
                // What it was to be shown may not have been written yet; SUBACK does not promise it.
                let is_new = subscription.since.saturating_add(UNWRITTEN) > self.now;
                subscription.sends_retained &= !is_new;
            }
        }
        let (messages, now) = (&self.messages, self.now);
        for (name, topic) in &mut self.topics {
            // A retained QoS 0 PUBLISH promises nothing, but is written before long (D11).
            let keeps = topic.sure.is_some_and(|key| {
                let is_old = at_rest && messages[key].last_fed_at + UNWRITTEN < now;
                messages[key].qos > 0 || is_old && self.has_journal
            });
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

    /// The broker is about to die at rest: the store has the will of everybody who is connected (D10).
    pub(crate) fn check_wills_are_stored(&self, stored: &BTreeSet<usize>) {
        for (key, will) in &self.wills {
            if will.state == WillState::Armed && !stored.contains(key) {
                violated!("the will m{key} of c{} is not stored (D10)", will.client);
            }
        }
    }

    /// The broker starts, and the store has this will; `at` is when it is to be published.
    pub(crate) fn will_has_survived(&mut self, key: usize, at: u64, is_over: bool) {
        if let Some(will) = self.wills.get_mut(&key)
            && will.state == WillState::Unknown
        {
            will.state = WillState::Lost { at, is_over };
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
                .iter()
                .find(|(key, expected)| self.messages[**key].acknowledged >= expected.arrival);
            if let Some((key, _)) = missing {
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
            let missing = group.expected.iter().find(|(key, arrival)| {
                self.messages[**key].acknowledged >= **arrival && !group.taken.contains(key)
            });
            if let Some((key, _)) = missing {
                violated!("m{key} was acknowledged and no member of {filter} has had it (D8)");
            }
        }
        self.check_wills_at_rest();
    }

    /// The last retained state is the last one each subscription has seen.
    pub(super) fn check_states(&self, client: usize, session: &Session) {
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

    pub(super) fn check_wills_at_rest(&self) {
        for (key, will) in &self.wills {
            let message = &self.messages[*key];
            let due = match will.state {
                WillState::Due(at) => at,
                WillState::Pending(at) | WillState::Lost { at, .. } if self.now > at + SLACK => at,
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
