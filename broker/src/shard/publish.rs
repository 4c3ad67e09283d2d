//! From a PUBLISH to its receivers: the one door every Application Message goes through.
//!
//! `handle_publish` is the client's way in, `publish` everybody's. Order: resolve, validate, authorize (the session), then
//! own (retained, owners, one batch), then deliver, then acknowledge. QoS 2 turns the last two round: PUBREC first, and
//! where somebody durable is concerned both wait for the batch (D2).

use std::rc::Rc;
use std::sync::Arc;

use nightjar_codec::packet::PublishRef;
use nightjar_codec::{QoS, ReasonCode};
use nightjar_storage::{Operation, Owner, OwnerEntry};
use smallvec::SmallVec;

use super::groups::{Handing, Offered};
use super::mail::{Owned, OwnedDelivery};
use super::ownership::{HeldPublish, Waiting};
use super::{Cause, Shard};
use crate::clock::Now;
use crate::exchange::delivery::{Delivery, Route};
use crate::exchange::shared::Assignment;
use crate::identity::{ConnectionId, Origin, SessionId, Ticket};
use crate::message::{MessageRef, stored_cost};
use crate::session::Session;
use crate::session::deliver::Grant;
use crate::session::publish::{Inbound, Receipt};
use crate::settings::QueuePolicy;

/// What became of a publish.
pub(super) struct Accepted {
    pub(super) reason_code: ReasonCode,
    /// The batch that makes it true; `None`: it is true already.
    pub(super) ticket: Option<Ticket>,
}

impl Shard {
    /// PUBLISH from a client.
    pub(super) fn handle_publish(
        &mut self,
        now: Now,
        id: ConnectionId,
        session: SessionId,
        packet: &[u8],
    ) -> Result<(), Cause> {
        let Some(connection) = self.connections.get_mut(id.slot, id.generation) else {
            return Ok(());
        };
        if !connection.waiting_publishes.packets.is_empty() {
            // Behind one that waits: order is kept (D22).
            self.put_aside(now, id, packet);
            return Ok(());
        }
        self.accept_publish(now, id, session, packet)
    }

    pub(super) fn accept_publish(
        &mut self,
        now: Now,
        id: ConnectionId,
        session_id: SessionId,
        packet: &[u8],
    ) -> Result<(), Cause> {
        let Some(connection) = self.connections.get_mut(id.slot, id.generation) else {
            return Ok(());
        };
        let Some(session) = self
            .sessions
            .get_mut(session_id.slot, session_id.generation)
        else {
            return Ok(());
        };
        let last_route = connection.last_route.take();
        let known_topic = last_route.as_ref().map_or("", |route| &route.topic);
        let publish =
            PublishRef::decode_on_known_topic(packet, session.version, &self.limits, known_topic)
                .map_err(|error| Cause::Violation(error.into()))?;
        let mut out = self.sinks.outputs(now, &self.shared, &mut connection.send);
        let inbound = session
            .handle_publish(&publish, known_topic, &mut out)
            .map_err(Cause::Violation)?;
        let refuses = session
            .link
            .as_ref()
            .is_some_and(|link| link.unheard_refusals > 0);
        let (topic, receipt) = match inbound {
            Inbound::Publish { topic, receipt } => (topic, receipt),
            Inbound::Control { receipt } => {
                self.answer_control(now, id, session_id, &publish, receipt);
                return Ok(());
            }
            Inbound::Answered | Inbound::Refused => {
                connection.mark_dirty(&mut self.sinks.dirty);
                self.note_waiting_acknowledgements(now, id);
                return Ok(());
            }
            Inbound::Denied { topic } => {
                connection.mark_dirty(&mut self.sinks.dirty);
                self.note_waiting_acknowledgements(now, id);
                let topic = topic.name(publish.topic);
                self.note_denied_publish(now, id, session_id, topic, &publish);
                return Ok(());
            }
            Inbound::Wait => {
                let since = session.link.as_mut().map(|link| {
                    let since = &mut link.rarities.unreleased_full_since;
                    since.get_or_insert(now.monotonic)
                });
                let due = since
                    .map(|since| *since + u64::from(self.shared.settings.qos2_wait_seconds) * 1000);
                self.put_aside(now, id, packet);
                self.arm_connection_earlier(id, due);
                return Ok(());
            }
        };
        let topic = topic.name(publish.topic);
        panic_if_planted(self.panic_topic.as_deref(), topic);
        let mut copied;
        let properties = match publish.properties.forwardable() {
            Some(properties) => properties,
            None => {
                copied = Vec::new();
                publish.properties.write_forwardable(&mut copied);
                &copied
            }
        };
        let qos = self.shared.settings.outgoing_qos(publish.qos);
        let mut message = MessageRef::new(topic, publish.payload, properties, qos);
        message.retain = publish.retain;
        message.publisher = Some(session_id);
        message.expires_at = publish
            .properties
            .message_expiry_interval
            .map(|seconds| now.monotonic + u64::from(seconds) * 1000);
        let route = match &last_route {
            Some(route) if *route.topic == *topic && route.is_current(&self.shared.exchange) => {
                Rc::clone(route)
            }
            _ => self.route(topic),
        };
        let refuses = refuses && receipt != Receipt::None;
        let accepted = if refuses || self.cannot_own(&message, &route, receipt, id) {
            self.sinks.counters.publishes_not_owned += 1;
            NOT_OWNED
        } else {
            self.in_shared_room = true;
            let accepted = self.publish_along(now, &mut message, &route, receipt);
            self.in_shared_room = false;
            accepted
        };
        if let Some(connection) = self.connections.get_mut(id.slot, id.generation) {
            // A long route is left to the cache: many connections would keep many versions of it.
            connection.last_route = Some(route).filter(|route| route.len() <= REMEMBERED_MAX);
        }
        if receipt != Receipt::None {
            self.acknowledge(now, id, session_id, receipt, accepted);
        }
        Ok(())
    }

    /// The journal has failed, and the acknowledgement of this message would have to wait for it: it is refused before
    /// anything of it is remembered (D5).
    pub(super) fn cannot_own(
        &self,
        message: &MessageRef<'_>,
        route: &Route,
        receipt: Receipt,
        id: ConnectionId,
    ) -> bool {
        if !self.progress.has_failed || receipt == Receipt::None || self.is_told_from_memory(id) {
            return false;
        }
        let id_is_kept = || {
            let publisher = message.publisher;
            matches!(receipt, Receipt::Pubrec(_))
                && publisher
                    .and_then(|id| self.sessions.get(id.slot, id.generation))
                    .is_some_and(Session::is_resumable)
        };
        message.retain
            || route.groups.iter().any(|group| group.is_resumable())
            || route
                .layers()
                .any(|layer| owning(message, layer).next().is_some())
            || id_is_kept()
    }

    /// The one door. `publish` for whoever has no route at hand: wills, and guests without a socket.
    pub(super) fn publish(
        &mut self,
        now: Now,
        message: &mut MessageRef<'_>,
        receipt: Option<Receipt>,
    ) {
        let route = self.route(message.topic);
        self.publish_along(now, message, &route, receipt.unwrap_or(Receipt::None));
    }

    /// Publishes what the broker tells of itself below `$SYS`: retained, QoS 2, in memory only (D11).
    pub fn publish_own(&mut self, now: Now, topic: &str, payload: &[u8]) {
        let mut message = MessageRef::new(topic, payload, &[], QoS::ExactlyOnce);
        debug_assert!(message.is_from_broker(), "{topic} is not the broker's");
        // A log line is for whoever is there.
        message.retain =
            self.shared.settings.retain_available && !topic.starts_with("$SYS/broker/log/");
        self.in_shared_room(|shard| shard.publish(now, &mut message, None));
    }

    /// Owns the message as far as somebody durable wants it, and delivers it.
    fn publish_along(
        &mut self,
        now: Now,
        message: &mut MessageRef<'_>,
        route: &Rc<Route>,
        receipt: Receipt,
    ) -> Accepted {
        let is_owned = message.qos > QoS::AtMostOnce && !message.is_from_broker();
        if message.retain && is_owned && !self.retained_would_fit(message) {
            self.sinks.counters.retained_refused += 1;
            return NOT_OWNED;
        }
        if message.retain {
            if self.sinks.journal.enabled && is_owned {
                self.name_for_store(message);
            }
            self.name_publisher(message);
            self.retain(now, message);
        }
        // D17: only now. A SUBSCRIBE that did not see what was retained above is in the index.
        let route = &match route.is_current(&self.shared.exchange) {
            true => Rc::clone(route),
            false => self.route(message.topic),
        };
        let copies = self.publish_copies(now, message, route);
        let mut skipped: SmallVec<[SessionId; 4]> = SmallVec::new();
        let mut owners = 0;
        if message.qos > QoS::AtMostOnce {
            owners = self.reserve(now, message, route, &mut skipped);
        }
        let has_durable_owner =
            owners > skipped.len() || route.groups.iter().any(|group| group.is_resumable());
        let durable =
            self.sinks.journal.enabled && is_owned && (has_durable_owner || message.retain);
        if durable && message.message_id == 0 {
            self.name_for_store(message);
        }
        let is_held =
            message.qos == QoS::ExactlyOnce && is_owned && (durable || self.held_publishes > 0);
        let Offered {
            given,
            handing,
            taken,
        } = self.offer_to_groups(message, route, is_held);
        let refused = message.qos > QoS::AtMostOnce
            && !message.retain
            && owners + route.groups.len() > 0
            && skipped.len() == owners
            && taken + copies.owners == 0
            && self.sinks.queue_limits.policy == QueuePolicy::Refuse;
        if refused {
            return NOT_OWNED; // D1
        }
        let ticket = if durable {
            self.own(message, route, &skipped)
        } else {
            None
        };
        let ticket = ticket.max(copies.ticket);
        let ticket = ticket.or_else(|| self.ticket_not_to_overtake(message));
        // D2: what somebody durable owns of QoS 2 is delivered when it is durable. PUBREC waits for the same batch.
        if message.qos == QoS::ExactlyOnce
            && let Some(ticket) = ticket
        {
            self.hold(now, message, route, ticket, skipped, handing);
        } else if matches!(receipt, Receipt::Pubrec(_)) {
            // PUBREC is written first, so the delivery is the turn's next step, after `acknowledge`.
            self.deliver_after_pubrec(now, message, route, skipped, given, receipt);
            self.hand_in(now, handing);
        } else {
            self.deliver(now, message, route, &skipped, None);
            if !given.is_empty() {
                self.carry_out(now, given);
            }
            self.handing_in.extend(handing);
        }
        // [MQTT-3.4.2-1]: 5.0 publishers of QoS 1 hear that nobody subscribes.
        let mut reason_code = ReasonCode::Success;
        if route.is_empty() {
            self.sinks.counters.dropped_no_subscribers += u64::from(message.publisher.is_some());
            if matches!(receipt, Receipt::Puback(_)) {
                reason_code = ReasonCode::NoMatchingSubscribers;
            }
        }
        Accepted {
            reason_code,
            ticket,
        }
    }

    /// [MQTT-4.6.0-6]: nothing of QoS 2 overtakes what is held.
    pub(super) fn ticket_not_to_overtake(&self, message: &MessageRef<'_>) -> Option<Ticket> {
        let overtakes =
            message.qos == QoS::ExactlyOnce && !message.is_from_broker() && self.held_publishes > 0;
        let last = self.waiting.back().filter(|_| overtakes)?;
        Some(last.ticket)
    }

    /// Delivers it when the ticket is durable.
    pub(super) fn hold(
        &mut self,
        now: Now,
        message: &MessageRef<'_>,
        route: &Rc<Route>,
        ticket: Ticket,
        skipped: SmallVec<[SessionId; 4]>,
        handing: Vec<Handing>,
    ) {
        let held = HeldPublish {
            route: Rc::clone(route),
            message: Arc::clone(message.stored()),
            sequence: message.sequence,
            publisher: message.publisher,
            owners: sorted(
                owning(message, route)
                    .map(|delivery| delivery.session)
                    .filter(|session| skipped.binary_search(session).is_err()),
            ),
            skipped,
            handing,
        };
        self.held_publishes += 1;
        self.wait_for(now, ticket, Waiting::Deliver(Box::new(held)));
    }

    /// Gives the message an identity for the store. Before anything keeps it.
    pub(super) fn name_for_store(&self, message: &mut MessageRef<'_>) {
        message.message_id = self.shared.exchange.next_message_id();
        self.name_publisher(message);
    }

    fn name_publisher(&self, message: &mut MessageRef<'_>) {
        let publisher = message.publisher;
        let session = publisher.and_then(|id| self.sessions.get(id.slot, id.generation));
        message.publisher_client_id =
            session.map(|session| Arc::clone(&session.receiver.client_id));
        if message.retain {
            message.publisher_user = session.and_then(|session| session.user.clone());
        }
    }

    pub(super) fn acknowledge(
        &mut self,
        now: Now,
        id: ConnectionId,
        session: SessionId,
        receipt: Receipt,
        accepted: Accepted,
    ) {
        let (Some(connection), Some(session)) = (
            self.connections.get_mut(id.slot, id.generation),
            self.sessions.get_mut(session.slot, session.generation),
        ) else {
            return;
        };
        if session.link.is_none() {
            return;
        }
        let version_5 = session.version.is_v5();
        if accepted.reason_code.is_error() && !version_5 {
            // D1: no acknowledgement, and after a moment no connection: the client will send it again, and that will be no
            // repeat of something we own.
            session.unreleased.forget_unaccepted();
            self.arm_refusal(now, id);
            return;
        }
        let written = matches!(receipt, Receipt::Pubrec(_))
            && accepted.ticket.is_none()
            && !accepted.reason_code.is_error();
        if written {
            return; // `deliver_after_pubrec` has.
        }
        let mut out = self.sinks.outputs(now, &self.shared, &mut connection.send);
        session.handle_accepted(receipt, accepted.reason_code, accepted.ticket, &mut out);
        connection.mark_dirty(&mut self.sinks.dirty);
        self.note_waiting_acknowledgements(now, id);
    }

    /// PUBREC goes out before what it acknowledges is delivered, which may be to the publisher itself.
    fn deliver_after_pubrec(
        &mut self,
        now: Now,
        message: &MessageRef<'_>,
        route: &Rc<Route>,
        skipped: SmallVec<[SessionId; 4]>,
        given: Vec<Assignment>,
        receipt: Receipt,
    ) {
        if let Some(publisher) = message.publisher
            && let Some(session) = self.sessions.get_mut(publisher.slot, publisher.generation)
            && let Some(link) = &session.link
        {
            let id = link.connection;
            if let Some(connection) = self.connections.get_mut(id.slot, id.generation) {
                let mut out = self.sinks.outputs(now, &self.shared, &mut connection.send);
                session.handle_accepted(receipt, ReasonCode::Success, None, &mut out);
                connection.mark_dirty(&mut self.sinks.dirty);
            }
            self.note_waiting_acknowledgements(now, id);
        }
        self.deliver(now, message, route, &skipped, None);
        self.carry_out(now, given);
    }

    /// Who gets the topic, from the cache where that still holds.
    pub(super) fn route(&mut self, topic: &str) -> Rc<Route> {
        self.in_shared_room(|shard| shard.routes.get(topic, &shard.shared.exchange, shard.id))
    }

    fn retained_would_fit(&self, message: &MessageRef<'_>) -> bool {
        message.payload.is_empty()
            || self
                .shared
                .exchange
                .retained
                .would_fit(message.topic, message.cost())
    }

    /// [MQTT-3.3.1-5] to [MQTT-3.3.1-7]. The sequence orders it against SUBSCRIBEs (D17).
    fn retain(&mut self, now: Now, message: &mut MessageRef<'_>) {
        let retained = &self.shared.exchange.retained;
        if message.payload.is_empty() {
            let (sequence, removed) = retained.remove(message.topic);
            message.sequence = sequence;
            // Also where memory has nothing: what took it away may not be durable yet, and this one is acknowledged.
            if removed.is_some() || message.qos > QoS::AtMostOnce {
                self.note_retained(now, message.topic, message.qos, message.cost());
            }
            return;
        }
        let stored = Arc::clone(message.stored());
        if message.is_from_broker() {
            message.sequence = retained.store_own(message.topic, stored);
            return;
        }
        match retained.store(
            message.topic,
            Arc::clone(&stored),
            stored_cost(&stored),
            message.expires_at,
        ) {
            Ok(sequence) => {
                message.sequence = sequence;
                self.note_retained(now, message.topic, message.qos, message.cost());
            }
            Err(_) => self.sinks.counters.retained_refused += 1,
        }
    }

    /// Takes room in the budget of every session that is to own the message. Gives how many there are; those without
    /// room are in `skipped`, sorted.
    pub(super) fn reserve(
        &self,
        now: Now,
        message: &MessageRef<'_>,
        route: &Route,
        skipped: &mut SmallVec<[SessionId; 4]>,
    ) -> usize {
        let cost = message.cost();
        let totals = &self.shared.exchange.totals;
        let mut owners = 0;
        for delivery in owning(message, route) {
            owners += 1;
            if !delivery
                .receiver
                .budget
                .reserve(cost, totals, &self.sinks.queue_limits)
            {
                delivery.receiver.log_dropped(now.monotonic);
                skipped.push(delivery.session);
            }
        }
        skipped.sort_unstable();
        owners
    }

    /// One operation for the message and all its owners.
    pub(super) fn own(
        &mut self,
        message: &MessageRef<'_>,
        route: &Route,
        skipped: &[SessionId],
    ) -> Option<Ticket> {
        let list = || {
            owning(message, route)
                .filter(|delivery| skipped.binary_search(&delivery.session).is_err())
                .filter_map(|delivery| {
                    let terms = delivery.terms_for(message.publisher)?;
                    Some(OwnerEntry {
                        owner: Owner::Session(Arc::clone(&delivery.receiver.client_id)),
                        qos: message.qos.min(terms.qos),
                        retain: message.retain && terms.retain_as_published,
                        subscription_identifiers: terms.subscription_identifiers.to_vec(),
                    })
                })
                .collect()
        };
        let owners = if skipped.is_empty() && !message.retain {
            route.owners(message.qos, list).unwrap_or_else(list)
        } else {
            list()
        };
        if owners.is_empty() {
            // Only share groups or the retained store own it; those operations are in the batch, or will be.
            let is_empty = self.sinks.journal.batch.is_empty() && !self.unwritten.owns_some();
            return (!is_empty).then_some(self.sinks.journal.ticket);
        }
        self.sinks.journal.push(Operation::Enqueue {
            message: Arc::clone(message.stored()),
            owners,
        })
    }

    /// Delivers to the sessions of this shard, and puts the rest in the mail. `owners`: as they were fixed when the message
    /// was accepted (D6), where that was earlier.
    pub(super) fn deliver(
        &mut self,
        now: Now,
        message: &MessageRef<'_>,
        route: &Route,
        skipped: &[SessionId],
        owners: Option<&[SessionId]>,
    ) {
        let owns = |delivery: &Delivery| match owners {
            Some(owners) => owners.binary_search(&delivery.session).is_ok(),
            None => is_owner(message, delivery),
        };
        if route.denied > 0 {
            self.sinks.counters.deliveries_denied += u64::from(route.denied);
        }
        self.sinks.frames.begin(route.local.len());
        for delivery in &route.local {
            if !skipped.is_empty() && skipped.binary_search(&delivery.session).is_ok() {
                continue;
            }
            let Some(terms) = delivery.terms_for(message.publisher) else {
                continue;
            };
            let owned = message.qos > QoS::AtMostOnce && owns(delivery);
            if owned
                && self
                    .sessions
                    .get(delivery.session.slot, delivery.session.generation)
                    .is_none()
            {
                // It ended while the message was held; only the reservation is left.
                self.release_reservation(message.cost());
                continue;
            }
            let grant = Grant {
                qos: terms.qos,
                retain: message.retain && terms.retain_as_published,
                subscription_identifiers: &terms.subscription_identifiers,
                origin: Origin::Direct,
                reserved: if owned { message.cost() } else { 0 },
            };
            if owners.is_some() {
                // It was held since the route was made.
                self.deliver_if_allowed(now, message, delivery.session, &grant);
            } else {
                self.deliver_to(now, message, delivery.session, &grant);
            }
        }
        let mut remote = &*route.remote;
        for shard in &route.remote_shards {
            // The deliveries stand in the order of their shards.
            let (there, others) = remote
                .split_at(remote.partition_point(|delivery| delivery.session.shard == *shard));
            remote = others;
            let owners: Vec<OwnedDelivery> = there
                .iter()
                .filter(|delivery| owns(delivery))
                .filter(|delivery| skipped.binary_search(&delivery.session).is_err())
                .filter_map(|delivery| owned_delivery(message, delivery))
                .collect();
            let Some(mail) = self.outgoing.get_mut(usize::from(*shard)) else {
                continue;
            };
            if !owners.is_empty() {
                mail.push_owned(Owned {
                    message: Arc::clone(message.stored()),
                    sequence: message.sequence,
                    publisher: message.publisher,
                    owners,
                    is_copy: route.is_copy,
                });
            } else if !route.is_copy {
                mail.push_message(message);
            }
            self.sinks.frames.turn_is_full |= self.shared.post.is_full(mail);
        }
    }

    /// One delivery to one session of this shard. False: its share group has to take the message back.
    pub(super) fn deliver_to(
        &mut self,
        now: Now,
        message: &MessageRef<'_>,
        id: SessionId,
        grant: &Grant<'_>,
    ) -> bool {
        let Some(session) = self.sessions.get_mut(id.slot, id.generation) else {
            return true;
        };
        let Some(link) = &session.link else {
            let mut out = self.sinks.outputs_nowhere(now, &self.shared);
            return session.deliver(message, grant, &mut out);
        };
        let connection_id = link.connection;
        let Some(connection) = self
            .connections
            .get_mut(connection_id.slot, connection_id.generation)
        else {
            return true;
        };
        let mut out = self.sinks.outputs(now, &self.shared, &mut connection.send);
        let taken = session.deliver(message, grant, &mut out);
        if !connection.send.is_empty() {
            connection.mark_dirty(&mut self.sinks.dirty);
        }
        taken
    }

    pub(super) fn release_reservation(&self, reserved: u64) {
        self.shared.exchange.totals.release(reserved);
    }

    fn arm_connection_earlier(&mut self, id: ConnectionId, due: Option<u64>) {
        let Some(connection) = self.connections.get(id.slot, id.generation) else {
            return;
        };
        let due = connection.timer.into_iter().chain(due).min();
        self.arm_connection(id, due);
    }

    /// A 3.x publisher whose message was refused: closed after a moment.
    fn arm_refusal(&mut self, now: Now, id: ConnectionId) {
        let Some(connection) = self.connections.get(id.slot, id.generation) else {
            return;
        };
        let super::Phase::Serving { session } = connection.phase else {
            return;
        };
        let Some(session) = self.sessions.get_mut(session.slot, session.generation) else {
            return;
        };
        if let Some(link) = session.link.as_mut() {
            link.rarities.refused_at.get_or_insert(now.monotonic);
        }
        self.arm_connection_earlier(id, Some(now.monotonic + REFUSAL_MILLISECONDS));
    }
}

pub(super) fn panic_if_planted(planted: Option<&str>, topic: &str) {
    assert!(planted != Some(topic), "a test asked for this panic");
}

/// Sessions that are to own the message: resumable ones that get it at QoS 1 or 2.
fn owning<'a>(message: &'a MessageRef<'_>, route: &'a Route) -> impl Iterator<Item = &'a Delivery> {
    route
        .local
        .iter()
        .chain(&route.remote)
        .filter(|delivery| is_owner(message, delivery))
}

fn sorted(sessions: impl Iterator<Item = SessionId>) -> SmallVec<[SessionId; 4]> {
    let mut sessions: SmallVec<_> = sessions.collect();
    sessions.sort_unstable();
    sessions
}

pub(super) fn is_owner(message: &MessageRef<'_>, delivery: &Delivery) -> bool {
    message.qos > QoS::AtMostOnce
        && delivery.receiver.is_resumable()
        && delivery
            .terms_for(message.publisher)
            .is_some_and(|terms| terms.qos > QoS::AtMostOnce)
}

fn owned_delivery(message: &MessageRef<'_>, delivery: &Delivery) -> Option<OwnedDelivery> {
    let terms = delivery.terms_for(message.publisher)?;
    Some(OwnedDelivery {
        session: delivery.session,
        client_id: Arc::clone(&delivery.receiver.client_id),
        qos: message.qos.min(terms.qos),
        retain: message.retain && terms.retain_as_published,
        subscription_identifiers: terms.subscription_identifiers.iter().copied().collect(),
        reserved: message.cost(),
        seen: if message.sequence == 0 {
            SmallVec::new()
        } else {
            delivery.seen.clone()
        },
    })
}

/// A message that waits for its batch, on the terms it was accepted on.
pub(super) fn deliver_held(shard: &mut Shard, now: Now, held: HeldPublish) {
    let mut message = MessageRef::from_stored(&held.message);
    message.sequence = held.sequence;
    message.publisher = held.publisher;
    shard.held_publishes -= 1;
    shard.deliver(
        now,
        &message,
        &held.route,
        &held.skipped,
        Some(&held.owners),
    );
    shard.hand_in(now, held.handing);
}

pub(super) const NOT_OWNED: Accepted = Accepted {
    reason_code: ReasonCode::QuotaExceeded,
    ticket: None,
};
/// Deliveries of a route that a connection remembers by itself.
const REMEMBERED_MAX: usize = 64;
/// How long a 3.x publisher stays connected after a refused publish.
pub(super) const REFUSAL_MILLISECONDS: u64 = 5000;
