//! SUBSCRIBE and UNSUBSCRIBE: the exchange learns of them, the client gets its answer, then retained messages.
//!
//! For a session that can resume, both wait until the change is durable and only then take effect here: nothing a client
//! was told about is forgotten, and a SUBACK leaves before anything its own subscription causes (D2, D3).

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use nightjar_codec::packet::{
    Suback, SubackProperties, Subscribe, SubscribeFilter, Unsuback, UnsubackProperties, Unsubscribe,
};
use nightjar_codec::topic::parse_shared;
use nightjar_codec::{Packet, ReasonCode, RetainHandling};
use nightjar_storage::Operation;

use super::ownership::Waiting;
use super::{Cause, Shard};
use crate::clock::Now;
use crate::exchange::delivery::Subscriber;
use crate::exchange::retained::Snapshot;
use crate::exchange::shared::Assignment;
use crate::identity::{ConnectionId, SessionId};
use crate::session::subscribe::Subscription;

impl Shard {
    pub(super) fn handle_subscribe(
        &mut self,
        now: Now,
        id: ConnectionId,
        session_id: SessionId,
        subscribe: &Subscribe,
    ) -> Result<(), Cause> {
        let settings = Arc::clone(&self.shared.settings);
        let Some(session) = self.sessions.get(session_id.slot, session_id.generation) else {
            return Ok(());
        };
        session
            .check_subscribe(subscribe, &settings)
            .map_err(Cause::Violation)?;
        let identifier = subscribe.properties.subscription_identifier;
        let version_5 = session.version.is_v5();
        let is_strict = self.answers_strictly(session);
        let mut denied: Vec<&str> = Vec::new();
        let mut added = 0;
        let count = &self.shared.exchange.subscription_count;
        let grants: Vec<Result<Granted, ReasonCode>> = subscribe
            .filters
            .iter()
            .map(|filter| {
                let subscription = session.grant(filter, identifier, &mut added, &settings)?;
                if is_strict && !session.may_subscribe(&filter.topic_filter) {
                    denied.push(&filter.topic_filter);
                    return Err(ReasonCode::NotAuthorized);
                }
                // Room for it comes first: what is in the journal cannot be refused any more. Behind a SUBSCRIBE that waits
                // nobody knows what there will be; what is taken in vain is given back.
                let replaces = session.subscriptions.contains_key(&filter.topic_filter)
                    && session.subscribes_waiting == 0;
                if !replaces && !count.take(1) {
                    return Err(ReasonCode::QuotaExceeded);
                }
                Ok(Granted {
                    subscription,
                    is_counted: !replaces,
                })
            })
            .collect();
        let resumable = session.is_resumable();
        let client_id: Box<str> = (&*session.receiver.client_id).into();
        for topic_filter in denied {
            self.note_denied_subscribe(now, id, session_id, topic_filter);
        }
        let mut ticket = None;
        if resumable {
            for (filter, grant) in subscribe.filters.iter().zip(&grants) {
                if let Ok(Granted { subscription, .. }) = grant {
                    ticket = self.sinks.journal.push(Operation::PutSubscription {
                        client_id: client_id.clone(),
                        topic_filter: filter.topic_filter.clone(),
                        subscription: subscription.record(),
                    });
                }
            }
        }
        let accepted = AcceptedSubscribe {
            connection: id,
            session: session_id,
            packet_id: subscribe.packet_id,
            filters: subscribe.filters.iter().cloned().zip(grants).collect(),
            version_5,
        };
        let waits = ticket.filter(|ticket| !self.sinks.journal.is_durable(*ticket));
        match waits.filter(|_| !self.is_told_from_memory(id)) {
            Some(ticket) => {
                self.count_waiting_subscribe(session_id, true);
                self.wait_for(now, ticket, Waiting::Subscribe(Box::new(accepted)));
            }
            None => {
                self.in_shared_room(|shard| shard.finish_subscribe(now, accepted));
            }
        }
        Ok(())
    }

    /// One SUBSCRIBE of this session more, or less, waits for the journal.
    pub(super) fn count_waiting_subscribe(&mut self, id: SessionId, more: bool) {
        if let Some(session) = self.sessions.get_mut(id.slot, id.generation) {
            if more {
                session.subscribes_waiting += 1;
            } else {
                session.subscribes_waiting -= 1;
            }
        }
    }

    /// The subscriptions exist, SUBACK, retained messages: in this order.
    pub(super) fn finish_subscribe(&mut self, now: Now, accepted: AcceptedSubscribe) {
        let session_id = accepted.session;
        let mut reason_codes = Vec::with_capacity(accepted.filters.len());
        let mut retained = Vec::new();
        let mut given = Vec::new();
        for (filter, grant) in accepted.filters {
            let granted = grant.and_then(|granted| {
                let subscription = granted.subscription;
                let reason_code = subscription.granted();
                self.log_subscribed(session_id, &filter.topic_filter, reason_code);
                let added = self.add_subscription(
                    session_id,
                    &filter.topic_filter,
                    subscription.clone(),
                    granted.is_counted,
                )?;
                Ok((reason_code, subscription, added))
            });
            match granted {
                Ok((reason_code, subscription, added)) => {
                    reason_codes.push(reason_code);
                    given.extend(added.given);
                    let wanted = match filter.options.retain_handling {
                        RetainHandling::Send => true,
                        RetainHandling::SendIfNew => added.is_new, // [MQTT-3.3.1-10]
                        RetainHandling::DoNotSend => false,        // [MQTT-3.3.1-11]
                    };
                    // Never for shared subscriptions [MQTT-3.8.4-3].
                    if let Some(seen) = added.seen.filter(|_| wanted) {
                        retained.push((filter, subscription, seen));
                    }
                }
                Err(reason_code) if accepted.version_5 => reason_codes.push(reason_code),
                Err(_) => reason_codes.push(ReasonCode::UnspecifiedError), // [v3 MQTT-3.9.3-2]: 0x80
            }
        }
        let refused = reason_codes
            .iter()
            .position(|code: &ReasonCode| code.is_error());
        let mut suback = Packet::Suback(Suback {
            packet_id: accepted.packet_id,
            reason_codes,
            properties: SubackProperties::default(),
        });
        if let (Some(place), Packet::Suback(Suback { reason_codes, .. })) = (refused, &suback) {
            let text = format!("topic filter {}: {}", place + 1, reason_codes[place]);
            self.explain(session_id, &mut suback, text);
        }
        self.write_packet(accepted.connection, &suback);
        self.carry_out(now, given);
        for (filter, subscription, seen) in retained {
            self.begin_retained(session_id, &filter.topic_filter, &subscription, &seen);
        }
        self.read_retained(now, session_id);
        self.pump(now, session_id);
    }

    /// Adds a Reason String where the session's client may see one.
    fn explain(&self, id: SessionId, packet: &mut Packet, text: String) {
        let session = self.sessions.get(id.slot, id.generation);
        if let Some((session, link)) =
            session.and_then(|session| Some((session, session.link.as_ref()?)))
        {
            link.audience(session.version, &self.shared.settings)
                .explain(packet, text);
        }
    }

    pub(super) fn handle_unsubscribe(
        &mut self,
        now: Now,
        id: ConnectionId,
        session_id: SessionId,
        unsubscribe: &Unsubscribe,
    ) -> Result<(), Cause> {
        let Some(session) = self.sessions.get(session_id.slot, session_id.generation) else {
            return Ok(());
        };
        let resumable = session.is_resumable();
        let client_id: Box<str> = (&*session.receiver.client_id).into();
        let existing: Vec<bool> = unsubscribe
            .topic_filters
            .iter()
            .map(|filter| session.subscriptions.contains_key(filter))
            .collect();
        // Behind a SUBSCRIBE that waits, what exists will be known when that has taken effect.
        let waits = session.subscribes_waiting > 0;
        let mut ticket = None;
        if resumable {
            for (filter, _) in unsubscribe
                .topic_filters
                .iter()
                .zip(&existing)
                .filter(|(_, exists)| **exists || waits)
            {
                ticket = self.sinks.journal.push(Operation::DeleteSubscription {
                    client_id: client_id.clone(),
                    topic_filter: filter.clone(),
                });
            }
        }
        if let Some(ticket) = ticket.filter(|_| waits) {
            let accepted = AcceptedUnsubscribe {
                connection: id,
                session: session_id,
                unsubscribe: unsubscribe.clone(),
            };
            self.wait_for(now, ticket, Waiting::Unsubscribe(Box::new(accepted)));
            return Ok(());
        }
        // What is gone from memory may still be in the store, for an UNSUBSCRIBE before this one: that goes first.
        let last = || self.waiting.back().filter(|_| resumable);
        let ticket = ticket.or_else(|| last().map(|last| last.ticket));
        let unsuback = self.take_out(now, session_id, unsubscribe);
        let waits = ticket.filter(|ticket| !self.sinks.journal.is_durable(*ticket));
        match waits.filter(|_| !self.is_told_from_memory(id)) {
            Some(ticket) => {
                self.wait_for(
                    now,
                    ticket,
                    Waiting::Packet {
                        connection: id,
                        packet: Box::new(unsuback),
                    },
                );
            }
            None => self.write_packet(id, &unsuback),
        }
        Ok(())
    }

    /// The SUBSCRIBEs before it have taken effect.
    pub(super) fn finish_unsubscribe(&mut self, now: Now, accepted: &AcceptedUnsubscribe) {
        let unsuback = self.take_out(now, accepted.session, &accepted.unsubscribe);
        self.write_packet(accepted.connection, &unsuback);
    }

    fn take_out(&mut self, now: Now, session_id: SessionId, unsubscribe: &Unsubscribe) -> Packet {
        let reason_codes = unsubscribe
            .topic_filters
            .iter()
            .map(|filter| {
                self.log_unsubscribed(session_id, filter);
                match self
                    .in_shared_room(|shard| shard.remove_subscription(now, session_id, filter))
                {
                    true => ReasonCode::Success,
                    false => ReasonCode::NoSubscriptionExisted, // [MQTT-3.10.4-5]: answered all the same
                }
            })
            .collect();
        Packet::Unsuback(Unsuback {
            packet_id: unsubscribe.packet_id,
            reason_codes,
            properties: UnsubackProperties::default(),
        })
    }

    /// Puts a subscription in the index and in its session. `is_counted`: room for it was taken already.
    pub(super) fn add_subscription(
        &mut self,
        id: SessionId,
        filter: &str,
        mut subscription: Subscription,
        is_counted: bool,
    ) -> Result<Added, ReasonCode> {
        let exchange = Arc::clone(&self.shared.exchange);
        let count = &exchange.subscription_count;
        let Some(session) = self.sessions.get_mut(id.slot, id.generation) else {
            count.give_back(u64::from(is_counted));
            return Err(ReasonCode::UnspecifiedError);
        };
        let is_new = !session.subscriptions.contains_key(filter);
        match (is_new, is_counted) {
            (true, false) if !count.take(1) => return Err(ReasonCode::QuotaExceeded),
            (false, true) => count.give_back(1),
            _ => {}
        }
        let mut given = Vec::new();
        let mut seen = None;
        match parse_shared(filter) {
            Ok(Some((share_name, topic_filter))) => {
                let window = session
                    .link
                    .as_ref()
                    .map(|link| u32::from(link.send_quota_max()));
                let receiver = &session.receiver;
                let (group, assignments) = exchange.join_group(share_name, topic_filter, |group| {
                    group.join(id, &subscription, receiver, window, &exchange.totals)
                });
                subscription.group = Some(group.id);
                given = assignments;
                let more = u64::from(is_new);
                exchange
                    .shared_subscriptions
                    .fetch_add(more, Ordering::Relaxed);
            }
            _ => {
                let subscriber = Subscriber::new(&subscription, &session.receiver);
                seen = Some(Arc::clone(&subscriber.seen));
                exchange.subscriptions.insert(filter, id, subscriber);
            }
        }
        session.subscriptions.insert(filter.into(), subscription);
        Ok(Added {
            is_new,
            seen,
            given,
        })
    }

    /// Takes a subscription out. Deliveries that were begun complete [MQTT-3.10.4-3]. False: there was none.
    pub(super) fn remove_subscription(&mut self, now: Now, id: SessionId, filter: &str) -> bool {
        let exchange = Arc::clone(&self.shared.exchange);
        let Some(session) = self.sessions.get_mut(id.slot, id.generation) else {
            return false;
        };
        let Some(subscription) = session.subscriptions.get(filter).cloned() else {
            return false;
        };
        if let Some(group_id) = subscription.group {
            exchange
                .shared_subscriptions
                .fetch_sub(1, Ordering::Relaxed);
            self.return_to_groups(now, id, Some(group_id));
            if let Some(group) = exchange.group_by_id(group_id) {
                // What the last member leaves behind is named one by one: a group of the same name may be there again before
                // this batch is appended, and what that one owns must stay.
                let decided = group.gone(id, true, std::iter::empty(), &exchange.totals);
                self.carry_out_decided(now, &group, decided);
                exchange.remove_group_if_empty(&group);
            }
        } else {
            exchange.subscriptions.remove(filter, id);
            self.end_retained(id, filter);
        }
        if let Some(session) = self.sessions.get_mut(id.slot, id.generation) {
            session.subscriptions.remove(filter);
        }
        exchange.subscription_count.give_back(1);
        true
    }
}

/// A subscription that was put in the index.
pub(super) struct Added {
    is_new: bool,
    /// Where what its retained messages have shown is noted; `None` for a share group.
    seen: Option<Arc<OnceLock<Snapshot>>>,
    /// What a share group gives, to be carried out behind the SUBACK (D3).
    pub(super) given: Vec<Assignment>,
}

/// A SUBSCRIBE that was judged and waits to take effect.
impl AcceptedSubscribe {
    pub(super) fn session(&self) -> SessionId {
        self.session
    }
}

/// An UNSUBSCRIBE behind a SUBSCRIBE that waits.
pub(super) struct AcceptedUnsubscribe {
    pub(super) connection: ConnectionId,
    session: SessionId,
    unsubscribe: Unsubscribe,
}

struct Granted {
    subscription: Subscription,
    /// Room for it was taken from the bound of all subscriptions.
    is_counted: bool,
}

pub(super) struct AcceptedSubscribe {
    pub(super) connection: ConnectionId,
    session: SessionId,
    packet_id: nightjar_codec::PacketId,
    filters: Vec<(SubscribeFilter, Result<Granted, ReasonCode>)>,
    version_5: bool,
}
