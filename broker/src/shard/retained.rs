//! Retained messages for new subscriptions, as fast as their clients take them.
//!
//! A SUBSCRIBE begins a reading of the retained store for each filter that is to be answered with what is retained, and the
//! first piece goes out right behind SUBACK. The next is read when the session has sent everything before it, so a filter
//! that matches a million messages holds up nobody else and needs no memory for them. A session that loses its connection
//! and can come back owns what was not read yet, as far as its queue has room; of another that is forgotten.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use nightjar_codec::QoS;
use nightjar_storage::{Operation, Owner, OwnerEntry, StoredMessage};

use super::Shard;
use crate::clock::Now;
use crate::exchange::retained::{Reading, Snapshot};
use crate::identity::{Origin, SessionId};
use crate::message::stored_cost;
use crate::session::deliver::Grant;
use crate::session::quota::QueueLimits;
use crate::session::subscribe::Subscription;

/// What the new subscriptions of one session have still to be shown, in order.
pub(super) type Readings = VecDeque<RetainedReading>;

pub(super) struct RetainedReading {
    reading: Reading,
    qos: QoS,
    subscription_identifiers: Box<[u32]>,
    /// Something of it was sent.
    has_begun: bool,
}

impl Shard {
    /// What is retained now is to be sent for this subscription. What the reading will have seen is noted with the
    /// subscription, so that no live copy of it follows (D17).
    pub(super) fn begin_retained(
        &mut self,
        id: SessionId,
        filter: &str,
        subscription: &Subscription,
        seen: &OnceLock<Snapshot>,
    ) {
        let Some(session) = self.sessions.get_mut(id.slot, id.generation) else {
            return;
        };
        let readings = self.retained_readings.entry(id).or_default();
        // A client that asks again and again without taking the answers has one answer waiting for each filter.
        readings.retain(|known| known.has_begun || known.reading.topic_filter() != filter);
        let (reading, snapshot) = self.shared.exchange.retained.begin_reading(filter);
        // A new cell came with this SUBSCRIBE, so it is empty.
        let _ = seen.set(snapshot);
        readings.push_back(RetainedReading {
            reading,
            qos: subscription.qos,
            subscription_identifiers: subscription.subscription_identifier.into_iter().collect(),
            has_begun: false,
        });
        session.reads_retained = true;
    }

    /// The subscription is gone; what was queued for it is delivered [MQTT-3.10.4-3].
    pub(super) fn end_retained(&mut self, id: SessionId, filter: &str) {
        if let Some(readings) = self.retained_readings.get_mut(&id) {
            readings.retain(|known| known.reading.topic_filter() != filter);
        }
    }

    /// Queues the next piece where the session has nothing else to send.
    pub(super) fn read_retained(&mut self, now: Now, id: SessionId) {
        let session = self.sessions.get(id.slot, id.generation);
        if session.is_some_and(|session| session.queue.is_empty()) {
            self.queue_retained(now, id, PIECE);
        }
    }

    /// The session has lost its connection.
    pub(super) fn keep_or_forget_retained(&mut self, now: Now, id: SessionId) {
        let session = self.sessions.get(id.slot, id.generation);
        if session.is_some_and(|session| session.is_resumable()) {
            self.queue_retained(now, id, usize::MAX);
        }
        self.retained_readings.remove(&id);
        if let Some(session) = self.sessions.get_mut(id.slot, id.generation) {
            session.reads_retained = false;
        }
    }

    fn queue_retained(&mut self, now: Now, id: SessionId, limit: usize) {
        let Some(readings) = self.retained_readings.get_mut(&id) else {
            return;
        };
        let Some(session) = self.sessions.get_mut(id.slot, id.generation) else {
            self.retained_readings.remove(&id);
            return;
        };
        let exchange = Arc::clone(&self.shared.exchange);
        // Bound by bytes only: a queue of few messages must not keep a client from seeing what is retained.
        let limits = QueueLimits {
            messages_max: 0,
            ..self.sinks.queue_limits
        };
        let mut left = limit;
        let mut has_room = true;
        while let Some(current) = readings.front_mut()
            && left > 0
            && has_room
        {
            current.has_begun = true;
            let mut found: Vec<Arc<StoredMessage>> = Vec::new();
            let more = exchange.retained.read_on(
                &mut current.reading,
                now.monotonic,
                left.min(PIECE),
                &mut |_, message| found.push(Arc::clone(message)),
            );
            left -= found.len().min(left);
            for mut message in found {
                if !session.may_receive(&message.topic) || !self.shared.may_still_publish(&message)
                {
                    self.sinks.counters.deliveries_denied += 1;
                    continue;
                }
                let qos = message.qos.min(current.qos);
                let reserved = stored_cost(&message);
                if !session
                    .receiver
                    .budget
                    .reserve(reserved, &exchange.totals, &limits)
                {
                    self.sinks.counters.dropped_queue_full += 1;
                    // One that is not connected frees no room while this goes on.
                    has_room = session.is_online();
                    continue;
                }
                if session.is_resumable() && qos > QoS::AtMostOnce && self.sinks.journal.enabled {
                    // Its own copy in the store: the retained one may be replaced before this is acknowledged.
                    let message_id = exchange.next_message_id();
                    message = Arc::new(StoredMessage {
                        message_id,
                        ..(*message).clone()
                    });
                    let owner = OwnerEntry {
                        owner: Owner::Session(Arc::clone(&session.receiver.client_id)),
                        qos,
                        retain: true,
                        subscription_identifiers: current.subscription_identifiers.to_vec(),
                    };
                    self.sinks.journal.push(Operation::Enqueue {
                        message: Arc::clone(&message),
                        owners: [owner].into(),
                    });
                } else if message.message_id != 0 {
                    message = Arc::new(StoredMessage {
                        message_id: 0,
                        ..(*message).clone()
                    });
                }
                let grant = Grant {
                    qos: current.qos,
                    retain: true, // [MQTT-3.3.1-8]
                    subscription_identifiers: &current.subscription_identifiers,
                    origin: Origin::Direct,
                    reserved,
                };
                let mut out = self.sinks.outputs_nowhere(now, &self.shared);
                session.enqueue_retained(message, &grant, &mut out);
            }
            if !more {
                readings.pop_front();
            }
        }
        if readings.is_empty() {
            self.retained_readings.remove(&id);
            session.reads_retained = false;
        }
    }
}

/// Messages that are queued at once.
const PIECE: usize = 1024;
