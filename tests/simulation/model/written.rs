//! What the broker has written to a socket, held against what it may and must write.

use super::*;

impl Model {
    /// The broker has written a whole packet to a socket.
    pub(crate) fn written(&mut self, key: usize, packet: &Packet) {
        let Some(connection) = self.connections.get_mut(&key) else {
            return;
        };
        let client = connection.client;
        if connection.goodbye_written {
            violated!("{} behind DISCONNECT [MQTT-3.14.4-1]", describe(packet));
        }
        if !connection.is_accepted && !matches!(packet, Packet::Connack(_)) {
            violated!("{} before CONNACK [MQTT-3.2.0-1]", describe(packet));
        }
        let packet_id = match packet {
            Packet::Puback(packet) | Packet::Pubrec(packet) | Packet::Pubcomp(packet) => {
                packet.packet_id.get()
            }
            _ => 0,
        };
        match packet {
            Packet::Connack(connack) => {
                if connack.reason_code != ReasonCode::Success {
                    let fine = self.journal_has_failed
                        || connack.reason_code == ReasonCode::ServerUnavailable;
                    if !fine {
                        violated!("CONNECT of {client} refused: {:?}", connack.reason_code);
                    }
                    return;
                }
                self.accepted(key, client, connack.session_present);
            }
            Packet::Publish(publish) => self.written_publish(key, client, publish),
            Packet::Puback(packet) => {
                in_order(&mut connection.pubacks, packet_id, "PUBACK");
                self.acknowledged(key, client, packet_id, packet.reason_code);
            }
            Packet::Pubrec(packet) => {
                in_order(&mut connection.pubrecs, packet_id, "PUBREC");
                self.acknowledged(key, client, packet_id, packet.reason_code);
            }
            Packet::Pubrel(packet) => {
                let packet_id = packet.packet_id.get();
                if let Some(inflight) = self.sessions[client].inflight.get_mut(&packet_id)
                    && !connection.has_ended
                {
                    if !inflight.released && inflight.crashes == self.crashes {
                        violated!("PUBREL id={packet_id} before PUBREC [MQTT-4.3.3-4]");
                    }
                    inflight.connection = key;
                }
            }
            Packet::Pubcomp(_) => in_order(&mut connection.pubcomps, packet_id, "PUBCOMP"),
            Packet::Suback(suback) => {
                let filters = connection.subscribes.remove(&suback.packet_id.get());
                let Some(filters) = filters else {
                    violated!("SUBACK for a SUBSCRIBE that was not said");
                };
                let codes = suback.reason_codes.iter();
                self.subscribed(
                    key,
                    client,
                    filters,
                    codes.map(|code| code.is_error()).collect(),
                );
            }
            Packet::Unsuback(unsuback) => {
                let filters = connection.unsubscribes.remove(&unsuback.packet_id.get());
                let Some(filters) = filters else {
                    violated!("UNSUBACK for an UNSUBSCRIBE that was not said");
                };
                if connection.has_ended {
                    return;
                }
                let asked_again: BTreeSet<&String> = connection
                    .subscribes
                    .values()
                    .flatten()
                    .map(|(filter, _)| filter)
                    .collect();
                for filter in filters {
                    let again = asked_again.contains(&filter);
                    let subscriptions = &mut self.sessions[client].subscriptions;
                    if let Some(subscription) = subscriptions.get_mut(&filter) {
                        subscription.in_force = false;
                        subscription.is_unsure = true;
                        if !again {
                            subscriptions.remove(&filter);
                        }
                    }
                }
            }
            Packet::Pingresp => {
                if connection.pings == 0 {
                    violated!("PINGRESP without PINGREQ");
                }
                connection.pings -= 1;
            }
            Packet::Disconnect(disconnect) => {
                connection.goodbye_written = true;
                let fine = match disconnect.reason_code {
                    ReasonCode::SessionTakenOver | ReasonCode::ServerShuttingDown => true,
                    ReasonCode::KeepAliveTimeout => keep_alive_has_passed(connection, self.now),
                    ReasonCode::ServerUnavailable | ReasonCode::ServerBusy => {
                        self.journal_has_failed
                    }
                    _ => false,
                };
                if !fine {
                    violated!("an honest client is told {:?}", disconnect.reason_code);
                }
            }
            other => violated!("a server does not say {}", describe(other)),
        }
    }

    pub(super) fn accepted(&mut self, key: usize, client: usize, present: bool) {
        let others: Vec<usize> = self
            .connections
            .iter()
            .filter(|(other, one)| {
                **other != key && one.client == client && one.is_accepted && !one.has_ended
            })
            .map(|(other, _)| *other)
            .collect();
        let is_late = self.connections[&key].has_ended;
        if let Some(other) = others.first().filter(|_| !is_late) {
            violated!("two connections for one client id: {other} and {key} [MQTT-3.1.4-3]");
        }
        let connection = self.connections.get_mut(&key).expect("it is there");
        if connection.is_accepted {
            violated!("second CONNACK");
        }
        connection.is_accepted = true;
        connection.accepted_at = self.now;
        let Some(asked) = connection.asked.clone() else {
            violated!("CONNACK before CONNECT");
        };
        let has_ended = connection.has_ended;
        let will = connection.will;
        if asked.clean_start && present {
            violated!("session present after clean start [MQTT-3.2.2-2]");
        }
        if has_ended {
            return;
        }
        if !asked.clean_start {
            match (asked.session_before, present) {
                (Presence::Absent, true) => {
                    violated!("a session that had ended has come back [MQTT-3.2.2-3]")
                }
                (Presence::Present, false) => {
                    violated!("the session of c{client} is lost [MQTT-3.2.2-3]")
                }
                (_, false) => {
                    let (connection, resumable) = (
                        self.sessions[client].connection,
                        self.sessions[client].resumable,
                    );
                    self.session_ends(client);
                    self.sessions[client].connection = connection;
                    self.sessions[client].resumable = resumable;
                }
                (_, true) => {}
            }
        }
        // Whether one that was resumed for the last time is remembered is for its connection to decide.
        let session = &mut self.sessions[client];
        if !present {
            session.may_come_back = false;
            session.ever.clear();
            session.is_on_disk = false;
            session.presence = Presence::Present;
        } else if session.presence != Presence::Present {
            session.presence = Presence::Present;
            session.is_on_disk = self.has_journal && session.is_on_disk;
        }
        let now = self.now;
        for other in self.wills.values_mut().filter(|will| will.client == client) {
            if let WillState::Lost { at, is_over } = other.state {
                other.state = if now > at + SLACK {
                    WillState::Due(at)
                } else if now < at && (present || is_over) {
                    WillState::Cancelled
                } else {
                    WillState::Unknown
                };
            }
            if let WillState::Pending(fires_at) = other.state {
                other.state = if !present {
                    WillState::Due(now.min(fires_at))
                } else if now < fires_at {
                    WillState::Cancelled
                } else if now > fires_at + SLACK {
                    WillState::Due(fires_at)
                } else {
                    WillState::Unknown
                };
            }
        }
        if let Some(will) = will.and_then(|will| self.wills.get_mut(&will)) {
            will.state = WillState::Armed;
        }
    }

    pub(super) fn acknowledged(
        &mut self,
        key: usize,
        client: usize,
        packet_id: u16,
        code: ReasonCode,
    ) {
        let connection = &self.connections[&key];
        let Some((message_key, arrival)) = connection.inbound.get(&packet_id).copied() else {
            return;
        };
        if code.is_error() {
            if !self.journal_has_failed {
                violated!("a publish is refused without a reason: {code:?}");
            }
            return;
        }
        let message = &mut self.messages[message_key];
        message.acknowledged = message.acknowledged.max(arrival);
        let message = message.clone();
        log(|| format!("  m{message_key} is acknowledged"));
        if message.retain && message.qos > 0 {
            let topic = self.topics.entry(message.topic).or_default();
            topic.sure = newer(&self.messages, topic.sure, message_key);
        }
        if code == ReasonCode::NoMatchingSubscribers {
            let owner = self
                .sessions
                .iter()
                .position(|session| session.expected.contains_key(&message_key));
            if let Some(owner) = owner {
                violated!("no matching subscribers, it says, but c{owner} is one");
            }
        }
        let _ = client;
    }

    pub(super) fn subscribed(
        &mut self,
        key: usize,
        client: usize,
        filters: Vec<(String, bool)>,
        refused: Vec<bool>,
    ) {
        let has_ended = self.connections[&key].has_ended;
        let withdrawn: BTreeSet<String> = self.connections[&key]
            .unsubscribes
            .values()
            .flatten()
            .cloned()
            .collect();
        let now = self.now;
        let session = &mut self.sessions[client];
        for ((filter, no_local), refused) in filters.into_iter().zip(refused) {
            if refused {
                violated!("SUBSCRIBE to {filter} is refused");
            }
            if has_ended {
                continue;
            }
            session.ever.insert(filter.clone());
            if let Some(subscription) = session.subscriptions.get_mut(&filter)
                && !withdrawn.contains(&filter)
            {
                subscription.no_local = no_local;
                if !subscription.in_force || subscription.is_unsure {
                    subscription.since = now;
                }
                subscription.in_force = true;
                subscription.is_unsure = false;
            }
        }
        if !has_ended && session.resumable && self.has_journal {
            session.is_on_disk = true;
        }
    }

    pub(super) fn written_publish(&mut self, key: usize, client: usize, publish: &Publish) {
        let connection = self.connections.get_mut(&key).expect("it is there");
        let topic = match publish.properties.topic_alias {
            Some(alias) if publish.topic.is_empty() => {
                let Some(topic) = connection.aliases.get(&alias.get()) else {
                    violated!("a topic alias that was never set");
                };
                topic.clone()
            }
            Some(alias) => {
                connection
                    .aliases
                    .insert(alias.get(), publish.topic.to_string());
                publish.topic.to_string()
            }
            None => publish.topic.to_string(),
        };
        let Some(message_key) = payload_key(publish) else {
            return;
        };
        let message = self.messages[message_key].clone();
        if message.topic != topic {
            violated!(
                "m{message_key} was published to {} and comes as {topic}",
                message.topic
            );
        }
        let qos = publish.qos as u8;
        if qos > message.qos {
            violated!(
                "m{message_key} was published at QoS {} and comes at {qos}",
                message.qos
            );
        }
        if connection.has_ended {
            // Written before the end and flushed after: nothing is concluded from when it comes.
            if !publish.dup && !publish.retain {
                let crashes = self.crashes;
                let sent = self.sessions[client].sent.entry(message_key);
                sent.or_insert(Sent {
                    without_dup: 0,
                    crashes,
                });
            }
            return;
        }
        if publish.dup && message.fed > 0 && message.first_fed_at > connection.accepted_at {
            violated!("m{message_key} comes for the first time, and with DUP [MQTT-3.3.1-1]");
        }
        let receive_maximum = connection
            .asked
            .as_ref()
            .map_or(0, |asked| asked.receive_maximum);
        let maximum = connection
            .asked
            .as_ref()
            .map_or(0, |asked| asked.maximum_packet_size);
        let length = publish.encoded_length(if self.facts[client].is_v5 {
            nightjar_codec::ProtocolVersion::V5
        } else {
            nightjar_codec::ProtocolVersion::V3_1_1
        });
        if length > maximum {
            violated!("a packet of {length} bytes where {maximum} are allowed [MQTT-3.1.2-24]");
        }
        if let Some(expiry) = message.expiry {
            let dead_at = message.last_fed_at + u64::from(expiry) * 1000;
            if !publish.dup && self.now > dead_at + SLACK {
                violated!("m{message_key} expired long ago [MQTT-3.3.2-5]");
            }
            let left = publish.properties.message_expiry_interval;
            if self.facts[client].is_v5 && left.is_none_or(|left| left == 0 || left > expiry) {
                violated!("m{message_key} expires in {expiry} s, it says {left:?} [MQTT-3.3.2-6]");
            }
        }
        if let Some(packet_id) = publish.packet_id {
            let packet_id = packet_id.get();
            connection.outstanding.insert(packet_id);
            if connection.outstanding.len() > receive_maximum {
                violated!(
                    "{} publishes in flight, Receive Maximum is {receive_maximum} [MQTT-3.3.4-9]",
                    connection.outstanding.len()
                );
            }
            self.check_packet_id(key, client, packet_id, message_key, publish);
        }
        self.check_subscription(client, message_key, &message);
        if message.is_will {
            self.check_will(message_key);
        }
        if message.topic.starts_with("r/") {
            self.check_retained(client, message_key, &message, publish);
        }
        if !publish.retain {
            self.check_times_and_order(client, message_key, &message, publish);
        }
        let session = &mut self.sessions[client];
        session.expected.remove(&message_key);
        // Given to a member before it left and written after, it is that member's own (see `withdraw`).
        for (filter, subscription) in &session.subscriptions {
            if subscription.is_unsure
                && parse_shared(filter)
                    .is_ok_and(|one| one.is_some_and(|(_, inner)| matches(inner, &topic)))
                && let Some(group) = self.groups.get_mut(filter)
            {
                group.expected.remove(&message_key);
            }
        }
    }

    pub(super) fn check_packet_id(
        &mut self,
        key: usize,
        client: usize,
        packet_id: u16,
        message: usize,
        publish: &Publish,
    ) {
        let crashes = self.crashes;
        let qos = publish.qos as u8;
        let earlier = self.sessions[client].inflight.get(&packet_id);
        let was_shared = earlier.is_some_and(|earlier| {
            // A share group without a resumable member keeps nothing on disk.
            self.copies(client, &self.messages[earlier.message].topic).1
        });
        let inflight = &mut self.sessions[client].inflight;
        if let Some(earlier) = inflight.get(&packet_id) {
            let same_life = earlier.crashes == crashes;
            // The id of a QoS 2 message is durable before the client sees it (D2).
            if earlier.message != message && (same_life || earlier.qos == 2 && !was_shared) {
                violated!(
                    "packet id {packet_id} is in flight for m{} and given to m{message} [MQTT-2.2.1-4]",
                    earlier.message
                );
            }
            if earlier.message == message {
                if earlier.connection == key {
                    violated!(
                        "m{message} twice under id {packet_id} on one connection [MQTT-4.4.0-1]"
                    );
                }
                if earlier.released && same_life {
                    violated!("m{message} again after its PUBREC [MQTT-4.3.3-5]");
                }
                if !publish.dup && (same_life || qos == 2) {
                    violated!("m{message} again under id {packet_id} without DUP [MQTT-3.3.1-1]");
                }
            }
        }
        inflight.insert(
            packet_id,
            Inflight {
                message,
                qos,
                connection: key,
                crashes,
                released: false,
            },
        );
    }

    pub(super) fn check_subscription(&self, client: usize, key: usize, message: &Message) {
        let session = &self.sessions[client];
        let matched = session.ever.iter().any(|filter| {
            let inner = parse_shared(filter)
                .ok()
                .flatten()
                .map_or(&**filter, |(_, inner)| inner);
            matches(inner, &message.topic)
        });
        // A message on its way to a session that has ended may find the next one of that client in the store.
        let is_left_over = message.last_fed_at <= self.last_crash_at
            && copies_by(&self.filters[client], &message.topic).0 > 0;
        if !matched && !is_left_over {
            let pending = session.subscriptions.keys().any(|filter| {
                let inner = parse_shared(filter)
                    .ok()
                    .flatten()
                    .map_or(&**filter, |(_, inner)| inner);
                matches(inner, &message.topic)
            });
            if pending {
                violated!("m{key} comes before the SUBACK of its subscription (D3)");
            }
            violated!("m{key} comes without a subscription to {}", message.topic);
        }
    }

    pub(super) fn copies(&self, client: usize, topic: &str) -> (u32, bool) {
        copies_by(&self.sessions[client].ever, topic)
    }

    pub(super) fn check_times_and_order(
        &mut self,
        client: usize,
        key: usize,
        message: &Message,
        publish: &Publish,
    ) {
        let (copies, is_shared) = self.copies(client, &message.topic);
        let crashes = self.crashes;
        let qos = publish.qos as u8;
        let session = &mut self.sessions[client];
        let is_first = !session.sent.contains_key(&key);
        if is_first && !is_shared && !message.is_will && !message.is_late {
            let line = (message.publisher, message.topic.clone(), message.qos, qos);
            let last = session.order.get(&line).copied();
            if let Some(last) = last.filter(|last| self.messages[*last].rank > message.rank) {
                violated!(
                    "m{key} comes behind m{last}, of the same publisher, topic and QoS [MQTT-4.6.0-6]"
                );
            }
            session.order.insert(line, key);
        }
        let sent = session.sent.entry(key).or_insert(Sent {
            without_dup: 0,
            crashes,
        });
        if publish.dup {
            return;
        }
        sent.without_dup += 1;
        if is_shared {
            return; // What a member did not acknowledge may come back to it under a new id.
        }
        let published = message.published.max(1);
        let lives = if qos == 2 {
            1
        } else {
            1 + crashes - sent.crashes
        };
        if sent.without_dup > published * copies * lives {
            violated!(
                "m{key} comes to c{client} {} times without DUP, published {published} times [MQTT-3.3.1-1]",
                sent.without_dup
            );
        }
    }

    /// A client has taken a QoS 2 message to the top, for the `times`th time in its session.
    pub(crate) fn check_used(&self, client: usize, key: usize, times: u32) {
        let message = &self.messages[key];
        // What a share group takes back from a member at QoS 1 it may give it again at QoS 2.
        let (copies, is_shared) = copies_by(&self.filters[client], &message.topic);
        let copies = if is_shared { 2 * copies } else { copies };
        // A session that did not survive a crash may have had it in its life before.
        let lives = if self.facts[client].is_durable && self.has_journal {
            1
        } else {
            1 + self.crashes
        };
        if message.qos == 2 && times > copies.max(1) * lives * message.published.max(1) {
            violated!("c{client} got m{key} {times} times at QoS 2 [MQTT-4.3.3-1]");
        }
    }

    pub(super) fn check_will(&self, key: usize) {
        let will = &self.wills[&key];
        let when = match will.state {
            WillState::Armed => "while its connection is open",
            WillState::Cancelled => "though it was deleted",
            WillState::Pending(fires_at) if self.now < fires_at => "before its delay is over",
            WillState::Lost { at, .. } if self.now < at => "before its client had its time",
            _ => return,
        };
        violated!(
            "the will m{key} of c{} is published {when} [MQTT-3.1.2-8]",
            will.client
        );
    }

    pub(super) fn check_retained(
        &mut self,
        client: usize,
        key: usize,
        message: &Message,
        publish: &Publish,
    ) {
        let topic = self.topics.entry(message.topic.clone()).or_default();
        let is_disturbed = topic.is_disturbed;
        let session = &mut self.sessions[client];
        let mut subscriptions = session
            .subscriptions
            .iter_mut()
            .filter(|(filter, _)| matches(filter, &message.topic));
        let (Some((filter, subscription)), None) = (subscriptions.next(), subscriptions.next())
        else {
            return;
        };
        if !subscription.is_first {
            return;
        }
        if publish.dup {
            let seen = subscription
                .seen
                .entry(message.topic.clone())
                .or_insert(key);
            *seen = newer(&self.messages, Some(*seen), key).unwrap_or(key);
            return;
        }
        let floor = subscription.floor.get(&message.topic);
        if let Some(floor) = floor.filter(|floor| {
            self.messages[**floor].rank > message.rank
                && subscription.sends_retained
                && !is_disturbed
                // What a failed journal refused is new when its client repeats it, behind what came later.
                && !self.journal_has_failed
        }) {
            violated!(
                "{filter} of c{client} is shown m{key}, but m{floor} was retained before it subscribed (D17)"
            );
        }
        let seen = subscription.seen.get(&message.topic).copied();
        if let Some(seen) =
            seen.filter(|seen| self.messages[*seen].rank >= message.rank && !is_disturbed)
        {
            violated!("{filter} of c{client} is shown m{key} behind m{seen} (D17)");
        }
        subscription.seen.insert(message.topic.clone(), key);
    }
}
