//! From the store to a shard that serves: sessions, subscriptions, queues, in-flight exchanges, retained messages.
//!
//! Run once, before the first connection. The store has been brought up to its journal already. Each shard takes the
//! sessions that live on it; retained messages and the queues of share groups are put back once, by whoever starts the
//! shards.

use std::collections::BTreeMap;
use std::sync::Arc;

use nightjar_codec::{PacketId, QoS};
use nightjar_storage::{
    Checkpoint, Operation, Owner, QueuedMessage, QueuedState, Record, StorageError, Table,
};

use super::{Shard, Shared};
use crate::clock::Now;
use crate::identity::{Origin, SessionId};
use crate::message::stored_cost;
use crate::session::Session;
use crate::session::inflight::{Entry, Kept, State};
use crate::session::subscribe::Subscription;
use crate::session::will::{self, Will};

/// Puts back what belongs to no shard. Call before the shards restore their sessions.
pub fn restore_groups_and_retained(
    shared: &Shared,
    checkpoint: &dyn Checkpoint,
    now: Now,
) -> Result<(), StorageError> {
    let exchange = &shared.exchange;
    let mut last = 0;
    checkpoint.scan(Table::Retained, &mut |record| {
        if let Record::Retained { message } = record
            && message.expires_at.is_none_or(|at| at > now.monotonic)
        {
            last = last.max(message.message_id);
            let expires_at = message.expires_at;
            let topic = message.topic.clone();
            // Above a bound that was lowered since, what is left out is gone with the next change; it is in the store still.
            let _ = exchange.retained.store(
                &topic,
                Arc::clone(&message),
                stored_cost(&message),
                expires_at,
            );
        }
    })?;
    checkpoint.scan(Table::Messages, &mut |record| {
        if let Record::Message { message, .. } = record {
            last = last.max(message.message_id);
        }
    })?;
    checkpoint.scan(Table::Queues, &mut |record| {
        // Also of an exchange past its PUBREC, whose message is not kept any more.
        if let Record::Queued { queued, .. } = &record {
            last = last.max(queued.message_id);
        }
        if let Record::Queued {
            owner:
                Owner::Group {
                    share_name,
                    topic_filter,
                },
            queued,
        } = record
            && let Some(message) = queued.state.message()
        {
            let group = exchange.group(&share_name, &topic_filter);
            group.restore(Arc::clone(message), &exchange.totals);
        }
    })?;
    exchange.continue_message_ids_after(last);
    Ok(())
}

impl Shard {
    /// Takes the sessions that live here.
    pub fn restore(&mut self, checkpoint: &dyn Checkpoint, now: Now) -> Result<(), StorageError> {
        let mut sessions = Vec::new();
        checkpoint.scan(Table::Sessions, &mut |record| {
            if let Record::Session { client_id, session } = record
                && self.shared.exchange.home(&client_id, None) == self.id
            {
                sessions.push((client_id, session));
            }
        })?;
        for (client_id, record) in &sessions {
            let shard = self.id;
            let name: Arc<str> = (&**client_id).into();
            let (slot, generation) = self.sessions.insert(|slot, generation| {
                let id = SessionId {
                    shard,
                    slot,
                    generation,
                };
                Session::new(
                    id,
                    Arc::clone(&name),
                    record.protocol_version,
                    record.session_expiry_interval,
                )
            });
            let id = SessionId {
                shard,
                slot,
                generation,
            };
            self.by_client_id.insert(name, id);
            self.shared.exchange.sessions.take_anyway(1);
            if let Some(session) = self.sessions.get_mut(slot, generation) {
                session.is_stored = true;
                session.user = record.user.clone();
                // Open when the broker stopped: the connection closed at that moment, as far as anyone can tell (D10).
                session.expires_at = record
                    .expires_at
                    .or_else(|| session.expiry_deadline(now.monotonic));
                session.will = record.will.as_ref().map(Will::from_record);
                session.will_fires_at = session.will.as_ref().map(|will| {
                    let kept = record.will.as_ref().and_then(|will| will.fires_at);
                    let counted = will::fires_at(will, session.expiry_interval, now.monotonic);
                    let grace = now.monotonic + WILL_RESTART_GRACE_MILLISECONDS;
                    kept.unwrap_or_else(|| counted.unwrap_or(0).max(grace))
                });
                let will_cost = session.will.as_ref().map_or(0, Will::cost);
                self.shared.exchange.will_bytes.take_anyway(will_cost);
            }
            self.restore_queue(checkpoint, id, client_id)?;
            self.arm_session(id);
        }
        self.restore_subscriptions(checkpoint, now)?;
        self.restore_received(checkpoint)?;
        self.end_turn(now);
        Ok(())
    }

    fn restore_subscriptions(
        &mut self,
        checkpoint: &dyn Checkpoint,
        now: Now,
    ) -> Result<(), StorageError> {
        let mut subscriptions = Vec::new();
        checkpoint.scan(Table::Subscriptions, &mut |record| {
            if let Record::Subscription {
                client_id,
                topic_filter,
                subscription,
            } = record
                && let Some(id) = self.by_client_id.get(&*client_id)
            {
                subscriptions.push((*id, topic_filter, Subscription::from_record(&subscription)));
            }
        })?;
        for (id, filter, subscription) in subscriptions {
            // A bound that was lowered since does not take away what was granted.
            if let Ok(added) = self.add_subscription(id, &filter, subscription) {
                self.carry_out(now, added.given);
            }
        }
        Ok(())
    }

    fn restore_received(&mut self, checkpoint: &dyn Checkpoint) -> Result<(), StorageError> {
        checkpoint.scan(Table::ReceivedQos2, &mut |record| {
            if let Record::ReceivedQos2 {
                client_id,
                packet_id,
            } = record
                && let Some(id) = self.by_client_id.get(&*client_id)
                && let Some(session) = self.sessions.get_mut(id.slot, id.generation)
                && let Some(packet_id) = PacketId::new(packet_id)
            {
                session.unreleased.restore(packet_id);
            }
        })
    }

    /// In-flight exchanges in the order of their packet ids, which is that in which they were begun, then what waits, in the order of the queue.
    fn restore_queue(
        &mut self,
        checkpoint: &dyn Checkpoint,
        id: SessionId,
        client_id: &str,
    ) -> Result<(), StorageError> {
        let owner = Owner::Session(client_id.into());
        let mut in_flight: BTreeMap<PacketId, QueuedMessage> = BTreeMap::new();
        let mut after = 0;
        loop {
            let page = checkpoint.queue(&owner, after, PAGE)?;
            let Some(last) = page.last() else { break };
            after = last.sequence;
            for queued in page {
                match queued.state {
                    QueuedState::Waiting(ref message) => {
                        let kept = self.kept(Arc::clone(message), &queued);
                        if let Some(session) = self.sessions.get_mut(id.slot, id.generation) {
                            session
                                .receiver
                                .budget
                                .reserve_anyway(kept.reserved, &self.shared.exchange.totals);
                            session.push(kept);
                        }
                    }
                    QueuedState::Sent { packet_id, .. }
                    | QueuedState::Released { packet_id, .. } => {
                        if let Some(packet_id) = PacketId::new(packet_id) {
                            in_flight.insert(packet_id, queued);
                        }
                    }
                }
            }
        }
        for (packet_id, queued) in in_ring_order(in_flight) {
            let kept = queued
                .state
                .message()
                .map(|message| self.kept(Arc::clone(message), &queued));
            let Some(session) = self.sessions.get_mut(id.slot, id.generation) else {
                continue;
            };
            if let Some(kept) = &kept {
                session
                    .receiver
                    .budget
                    .reserve_anyway(kept.reserved, &self.shared.exchange.totals);
            }
            let state = match (&kept, queued.qos) {
                (None, _) => State::AwaitPubcomp,
                (Some(_), QoS::ExactlyOnce) => State::AwaitPubrec,
                (Some(_), _) => State::AwaitPuback,
            };
            let entry = Entry {
                state,
                kept: kept.map(Box::new),
                origin: Origin::Direct,
                message_id: queued.message_id,
                hold: None,
                sent_before: true,
                counted: false,
            };
            session.inflight.restore(packet_id, entry);
        }
        Ok(())
    }

    fn kept(&self, message: Arc<nightjar_storage::StoredMessage>, queued: &QueuedMessage) -> Kept {
        Kept {
            reserved: stored_cost(&message),
            message,
            qos: queued.qos,
            retain: queued.retain,
            subscription_identifiers: queued.subscription_identifiers.clone().into(),
            origin: Origin::Direct,
        }
    }

    /// Writes both clocks with this turn's batch (D12).
    pub fn note_clock(&mut self, now: Now) {
        self.sinks
            .journal
            .push(Operation::PutClock(nightjar_storage::ClockRecord {
                broker: now.monotonic,
                wall: now.wall,
            }));
    }
}

/// Packet ids are given out one after the other around the ring, so the first one is behind the widest gap.
fn in_ring_order<T>(in_flight: BTreeMap<PacketId, T>) -> impl Iterator<Item = (PacketId, T)> {
    let ids: Vec<u16> = in_flight.keys().map(|packet_id| packet_id.get()).collect();
    let gap = |place: usize| match place.checked_sub(1) {
        Some(before) => u32::from(ids[place] - ids[before]),
        None => u32::from(u16::MAX) + u32::from(ids[0]) - u32::from(ids[ids.len() - 1]),
    };
    let first = (0..ids.len()).max_by_key(|place| (gap(*place), std::cmp::Reverse(*place)));
    let mut ordered: Vec<_> = in_flight.into_iter().collect();
    ordered.rotate_left(first.unwrap_or(0));
    ordered.into_iter()
}

const PAGE: usize = 1024;
/// How long clients have to come back after a restart before their wills fire (D10).
const WILL_RESTART_GRACE_MILLISECONDS: u64 = 30_000;

#[cfg(test)]
mod tests {
    use super::*;

    /// Found by the simulation: put back in the order of their last change, one PUBREC out of order filled the ring.
    #[test]
    fn in_flight_ids_come_in_the_order_of_the_ring_wherever_it_begins() {
        let cases: [&[u16]; 5] = [
            &[],
            &[7],
            &[1, 2, 3],
            &[65_534, 65_535, 1, 4],
            &[40_000, 65_535, 9],
        ];
        for expected in cases {
            let ids = expected.iter().filter_map(|id| PacketId::new(*id));
            let ordered: Vec<u16> = in_ring_order(ids.map(|id| (id, ())).collect())
                .map(|(id, ())| id.get())
                .collect();
            assert_eq!(ordered, expected);
        }
    }
}
