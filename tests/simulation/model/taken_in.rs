//! What a shard has taken in, and what follows from it: who is to get what.

use super::*;

impl Model {
    /// A shard has accepted a socket.
    pub(crate) fn opened(&mut self, key: usize, client: usize) {
        self.connections
            .insert(key, Connection::new(client, self.now));
    }

    pub(crate) fn has_ended(&self, key: usize) -> bool {
        self.connections
            .get(&key)
            .is_none_or(|connection| connection.has_ended)
    }

    /// A shard has taken in a whole packet of an open connection.
    pub(crate) fn fed(&mut self, key: usize, packet: &Packet) {
        let Some(connection) = self.connections.get_mut(&key) else {
            return;
        };
        connection.last_fed = self.now;
        if connection.has_ended {
            return;
        }
        let client = connection.client;
        match packet {
            Packet::Connect(connect) => self.fed_connect(key, client, connect),
            Packet::Publish(publish) => self.fed_publish(key, client, publish),
            Packet::Puback(packet) => self.fed_puback(key, client, packet.packet_id.get()),
            Packet::Pubrec(packet) => {
                let packet_id = packet.packet_id.get();
                if let Some(inflight) = self.sessions[client].inflight.get_mut(&packet_id) {
                    inflight.released = true;
                    let message = inflight.message;
                    self.group_message_taken(client, message);
                }
            }
            Packet::Pubrel(packet) => connection.pubcomps.push_back(packet.packet_id.get()),
            Packet::Pubcomp(packet) => {
                let packet_id = packet.packet_id.get();
                connection.outstanding.remove(&packet_id);
                self.sessions[client].inflight.remove(&packet_id);
            }
            Packet::Subscribe(subscribe) => self.fed_subscribe(key, client, subscribe),
            Packet::Unsubscribe(unsubscribe) => {
                let filters: Vec<String> = unsubscribe
                    .topic_filters
                    .iter()
                    .map(ToString::to_string)
                    .collect();
                for filter in &filters {
                    self.withdraw(client, filter);
                }
                let connection = self.connections.get_mut(&key).expect("it is there");
                connection
                    .unsubscribes
                    .insert(unsubscribe.packet_id.get(), filters);
            }
            Packet::Pingreq => connection.pings += 1,
            Packet::Disconnect(disconnect) => self.fed_disconnect(key, client, disconnect),
            _ => {}
        }
    }

    pub(super) fn fed_connect(&mut self, key: usize, client: usize, connect: &Connect) {
        if let Some(earlier) = self.sessions[client].connection {
            // Takeover: the broker closes it as part of this.
            self.ended(earlier);
        }
        let expiry = if self.facts[client].is_v5 {
            connect.properties.session_expiry_interval.unwrap_or(0)
        } else if connect.clean_start {
            0
        } else {
            u32::MAX
        };
        let before = self.sessions[client].presence;
        if let Some(will) = &connect.will {
            let message = payload_message(&will.payload);
            let delay = will.properties.will_delay_interval.unwrap_or(0);
            let state = WillState::Unknown;
            self.wills.insert(
                message,
                Will {
                    client,
                    delay,
                    state,
                },
            );
            let connection = self.connections.get_mut(&key).expect("it is there");
            connection.will = Some(message);
        }
        if connect.clean_start {
            // A session that ends publishes what waits; one that was over does not.
            for will in self.wills.values_mut().filter(|will| will.client == client) {
                if matches!(will.state, WillState::Lost { is_over: false, .. }) {
                    will.state = WillState::Unknown;
                }
            }
            self.session_ends(client);
        }
        let connection = self.connections.get_mut(&key).expect("it is there");
        connection.asked = Some(Asked {
            clean_start: connect.clean_start,
            expiry,
            receive_maximum: connect
                .properties
                .receive_maximum
                .map_or(u16::MAX, std::num::NonZeroU16::get)
                .into(),
            maximum_packet_size: connect
                .properties
                .maximum_packet_size
                .map_or(usize::MAX, |maximum| maximum.get() as usize),
            keep_alive: connect.keep_alive,
            session_before: before,
        });
        self.sessions[client].connection = Some(key);
        self.sessions[client].resumable = expiry > 0;
        if expiry == 0 {
            self.expect_nothing(client);
        }
    }

    pub(super) fn fed_publish(&mut self, key: usize, client: usize, publish: &Publish) {
        let Some(message_key) = payload_key(publish) else {
            return;
        };
        let connection = self.connections.get_mut(&key).expect("it is there");
        let session_ended_at = self.sessions[client].ended_at;
        let message = &mut self.messages[message_key];
        message.fed += 1;
        let is_first = message.fed == 1;
        if is_first {
            message.first_fed_at = self.now;
            self.fed += 1;
            message.rank = self.fed;
        }
        // What was known of QoS 2 goes with the session, and a repeat is a message like any other. Its client need not have
        // heard of it: the CONNECT of a connection it gave up may come behind that of the next one, and start anew.
        let is_forgotten = session_ended_at.is_some_and(|at| at >= message.last_fed_at);
        let is_new = is_first || message.qos < 2 || is_forgotten;
        // What a failed journal refused (D5) is new as well, behind what was accepted before its client heard of the refusal.
        let may_be_new = is_new || self.journal_has_failed && message.acknowledged == 0;
        message.published += u32::from(is_new);
        message.is_late |= !is_first && may_be_new;
        message.last_fed_at = self.now;
        if let Some(packet_id) = publish.packet_id {
            let arrival = (message_key, message.fed);
            connection.inbound.insert(packet_id.get(), arrival);
            match publish.qos as u8 {
                1 => connection.pubacks.push_back(packet_id.get()),
                _ => connection.pubrecs.push_back(packet_id.get()),
            }
        }
        let message = message.clone();
        if message.retain && may_be_new {
            let topic = self.topics.entry(message.topic.clone()).or_default();
            topic.last = match message.is_late {
                true => Some(message_key),
                false => newer(&self.messages, topic.last, message_key),
            };
            topic.is_disturbed |= message.is_late;
            if message.qos == 0 && !self.facts[client].overruns {
                topic.sure = newer(&self.messages, topic.sure, message_key);
            }
        }
        // A repeated QoS 2 publish is the same one: who is to have it was settled when it came first.
        let is_repeat = message.qos == 2 && message.fed > 1;
        // One that may wait at the door is accepted nobody can tell when.
        let may_wait = self.facts[client].overruns;
        if message.qos == 0 || message.expiry.is_some() || is_repeat || may_wait {
            return;
        }
        self.expect(message_key, &message, client);
    }

    /// Notes who is to have the message once it is acknowledged.
    pub(super) fn expect(&mut self, key: usize, message: &Message, publisher: usize) {
        // What the chosen member cannot take is gone [MQTT-3.1.2-25].
        let fits_all = message.length < 300 || self.facts.iter().all(|facts| facts.takes_all);
        let mut groups = BTreeSet::new();
        for (client, session) in self.sessions.iter_mut().enumerate() {
            if !session.is_certain() || !self.facts[client].is_durable {
                continue;
            }
            // Only 5.0 clients are told which message deletes what is retained.
            let takes_all =
                self.facts[client].takes_all && (self.facts[client].is_v5 || !message.deletes);
            let mut filters = Vec::new();
            for (filter, subscription) in &session.subscriptions {
                if !subscription.in_force || subscription.is_unsure {
                    continue;
                }
                let own = subscription.no_local && client == publisher;
                if let Ok(Some((_, inner))) = parse_shared(filter) {
                    if matches(inner, &message.topic) && takes_all && fits_all {
                        groups.insert(filter.clone());
                    }
                } else if subscription.qos > 0 && !own && matches(filter, &message.topic) {
                    filters.push(filter.clone());
                }
            }
            if !filters.is_empty() && takes_all {
                let arrival = message.fed;
                let expected = session.expected.entry(key).or_insert(Expected {
                    arrival,
                    filters: Vec::new(),
                });
                expected.filters = filters;
            }
        }
        for group in groups {
            let expected = &mut self.groups.entry(group).or_default().expected;
            expected.entry(key).or_insert(message.fed);
        }
    }

    pub(super) fn fed_puback(&mut self, key: usize, client: usize, packet_id: u16) {
        let connection = self.connections.get_mut(&key).expect("it is there");
        connection.outstanding.remove(&packet_id);
        let session = &mut self.sessions[client];
        if let Some(inflight) = session.inflight.get(&packet_id)
            && inflight.connection == key
        {
            let message = inflight.message;
            session.inflight.remove(&packet_id);
            self.group_message_taken(client, message);
        }
    }

    /// Somebody has acknowledged it: every group this client is in may have given it.
    pub(super) fn group_message_taken(&mut self, client: usize, message: usize) {
        let topic = &self.messages[message].topic;
        for filter in &self.sessions[client].ever {
            if let Ok(Some((_, inner))) = parse_shared(filter)
                && matches(inner, topic)
            {
                let group = self.groups.entry(filter.clone()).or_default();
                group.taken.insert(message);
            }
        }
    }

    pub(super) fn fed_subscribe(&mut self, key: usize, client: usize, subscribe: &Subscribe) {
        let mut filters = Vec::new();
        for filter in &subscribe.filters {
            let name = filter.topic_filter.to_string();
            self.filters[client].insert(name.clone());
            let qos = filter.options.qos as u8;
            let session = &mut self.sessions[client];
            let is_first = session
                .ever
                .iter()
                .chain(session.subscriptions.keys())
                .all(|other| !overlaps(other, &name));
            for (other, subscription) in &mut session.subscriptions {
                subscription.is_first &= !overlaps(other, &name);
            }
            let handling = filter.options.retain_handling;
            let floor = self
                .topics
                .iter()
                .filter(|(topic, _)| matches(&name, topic))
                .filter_map(|(topic, retained)| Some((topic.clone(), retained.sure?)))
                .collect();
            let subscription = session.subscriptions.entry(name.clone());
            let subscription = subscription.or_insert_with(|| Subscription {
                qos,
                no_local: filter.options.no_local,
                in_force: false,
                is_unsure: false,
                since: u64::MAX,
                connection: Some(key),
                is_first,
                sends_retained: handling != RetainHandling::DoNotSend,
                floor,
                seen: BTreeMap::new(),
            });
            // Of two, what both promise.
            subscription.qos = subscription.qos.min(qos);
            subscription.no_local |= filter.options.no_local;
            filters.push((name, filter.options.no_local));
        }
        let connection = self.connections.get_mut(&key).expect("it is there");
        connection
            .subscribes
            .insert(subscribe.packet_id.get(), filters);
        // What the present SUBSCRIBE asks for counts from its SUBACK on.
        for filter in &subscribe.filters {
            let pending = &mut self.sessions[client].subscriptions;
            if let Some(subscription) = pending.get_mut(&*filter.topic_filter) {
                subscription.connection = Some(key);
            }
        }
    }

    /// UNSUBSCRIBE: nothing is promised any more, not even what waits.
    pub(super) fn withdraw(&mut self, client: usize, filter: &str) {
        let session = &mut self.sessions[client];
        if let Some(subscription) = session.subscriptions.get_mut(filter) {
            subscription.is_unsure = true;
            session
                .expected
                .retain(|_, expected| !expected.filters.iter().any(|one| one == filter));
        }
        // What is on its way to a member that leaves is that member's own.
        if let Some(group) = self.groups.get_mut(filter) {
            for inflight in session.inflight.values() {
                group.expected.remove(&inflight.message);
            }
        }
        self.revise_group(filter);
    }

    /// A group whose last member that is certain to stay has gone keeps nothing for sure.
    pub(super) fn revise_group(&mut self, filter: &str) {
        let has_member = self.sessions.iter().enumerate().any(|(client, session)| {
            self.facts[client].is_durable
                && session.is_certain()
                && session
                    .subscriptions
                    .get(filter)
                    .is_some_and(|one| one.in_force && !one.is_unsure)
        });
        if !has_member && let Some(group) = self.groups.get_mut(filter) {
            group.expected.clear();
        }
    }

    pub(super) fn fed_disconnect(&mut self, key: usize, client: usize, disconnect: &Disconnect) {
        let session = &mut self.sessions[client];
        if disconnect.properties.session_expiry_interval == Some(0) {
            session.resumable = false;
        }
        if disconnect.reason_code == ReasonCode::Success {
            let will = self
                .connections
                .get(&key)
                .and_then(|connection| connection.will);
            if let Some(will) = will.and_then(|will| self.wills.get_mut(&will)) {
                will.state = WillState::Cancelled;
            }
        }
        self.ended(key);
    }

    /// The Network Connection is over: closed, cut, taken over, or given up by the broker.
    pub(crate) fn ended(&mut self, key: usize) {
        let Some(connection) = self.connections.get_mut(&key) else {
            return;
        };
        if connection.has_ended {
            return;
        }
        connection.has_ended = true;
        let client = connection.client;
        let is_accepted = connection.is_accepted;
        let unanswered: Vec<String> = connection
            .subscribes
            .values()
            .flatten()
            .map(|(filter, _)| filter.clone())
            .chain(connection.unsubscribes.values().flatten().cloned())
            .collect();
        let expiry = connection.asked.as_ref().map_or(0, |asked| asked.expiry);
        let will = connection.will;
        if self.sessions[client].connection != Some(key) {
            return;
        }
        if !is_accepted {
            // It may have resumed the session without living to hear so, and that deletes a will that waits.
            for will in self.wills.values_mut().filter(|will| will.client == client) {
                if matches!(will.state, WillState::Pending(_) | WillState::Lost { .. }) {
                    will.state = WillState::Unknown;
                }
            }
        }
        let session = &mut self.sessions[client];
        session.connection = None;
        for filter in unanswered {
            session.ever.insert(filter.clone());
            if let Some(subscription) = session.subscriptions.get_mut(&filter) {
                subscription.is_unsure = true;
            }
        }
        // What a share group gave at QoS 1 goes back to it (D8).
        let messages = &self.messages;
        let shared: Vec<&str> = session
            .ever
            .iter()
            .filter_map(|filter| Some(parse_shared(filter).ok()??.1))
            .collect();
        session.inflight.retain(|_, one| {
            let topic = &messages[one.message].topic;
            one.qos == 2 || !shared.iter().any(|filter| matches(filter, topic))
        });
        let resumable = session.resumable;
        if let Some(will) = will.and_then(|will| self.wills.get_mut(&will))
            && will.state == WillState::Armed
        {
            let delay = will.delay.min(if resumable { expiry } else { 0 });
            will.state = if delay == 0 {
                WillState::Due(self.now)
            } else {
                WillState::Pending(self.now + u64::from(delay) * 1000)
            };
        }
        if !resumable {
            self.session_ends(client);
        } else if !is_accepted || !self.facts[client].is_durable {
            self.session_is_uncertain(client);
        }
    }

    /// The session is gone as far as the broker's memory goes.
    pub(super) fn session_ends(&mut self, client: usize) {
        let was = self.sessions[client].presence;
        self.leave_groups(client);
        let now = self.now;
        for will in self.wills.values_mut().filter(|will| will.client == client) {
            if let WillState::Pending(fires_at) = will.state {
                will.state = WillState::Due(now.min(fires_at));
            }
        }
        let may_come_back =
            self.has_journal && (was != Presence::Absent || self.sessions[client].may_come_back);
        let ever = std::mem::take(&mut self.sessions[client].ever);
        self.sessions[client] = Session::new();
        self.sessions[client].ended_at = Some(now);
        self.sessions[client].may_come_back = may_come_back;
        if may_come_back {
            // Should a crash bring it back, so does what it had.
            self.sessions[client].ever = ever;
        }
        for filter in self.groups.keys().cloned().collect::<Vec<_>>() {
            self.revise_group(&filter);
        }
    }

    pub(super) fn session_is_uncertain(&mut self, client: usize) {
        self.sessions[client].presence = Presence::Unknown;
        self.expect_nothing(client);
    }

    pub(super) fn expect_nothing(&mut self, client: usize) {
        let session = &mut self.sessions[client];
        session.expected.clear();
        for subscription in session.subscriptions.values_mut() {
            subscription.is_unsure = true;
        }
        for filter in self.groups.keys().cloned().collect::<Vec<_>>() {
            self.revise_group(&filter);
        }
    }

    /// QoS 2 that was given to a member dies with its session (D8), and may have been given without having been sent yet.
    pub(super) fn leave_groups(&mut self, client: usize) {
        let messages = &self.messages;
        for filter in &self.sessions[client].ever {
            if let Some(group) = self.groups.get_mut(filter) {
                group.expected.retain(|key, _| messages[*key].qos < 2);
            }
        }
    }
}
