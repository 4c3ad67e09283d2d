//! From the store to a shard that serves: sessions, subscriptions, queues, in-flight exchanges, retained messages.
//!
//! Run once, before the first connection. The store has been brought up to its journal already. Each shard takes the
//! sessions that live on it; retained messages and the queues of share groups are put back once, by whoever starts the
//! shards.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nightjar_codec::topic::parse_shared;
use nightjar_codec::{PacketId, QoS};
use nightjar_storage::{
    Checkpoint, MessageId, Operation, Owner, QueuePhase, QueuedMessage, Record, SessionRecord,
    StorageError, StoredMessage, Table,
};

use super::{Shard, Shared};
use crate::clock::Now;
use crate::identity::{Origin, SessionId};
use crate::message::{cost_of_text, stored_cost};
use crate::session::Session;
use crate::session::inflight::{Entry, Kept, State};
use crate::session::queue::{InStore, MemoryLimits};
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
    // What nobody else will ever take out of the store.
    let mut over = Vec::new();
    checkpoint.scan(Table::Retained, &mut |record| {
        exchange.keeps_something.store(true, Ordering::Relaxed);
        if let Record::Retained { message } = record {
            last = last.max(message.message_id);
            if message.expires_at.is_some_and(|at| at <= now.monotonic) {
                let topic = message.topic.clone();
                over.push(Operation::DeleteRetained { topic });
                return;
            }
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
    let with_members = groups_with_members(checkpoint)?;
    let mut left_alone = BTreeSet::new();
    for owner in checkpoint.groups()? {
        let Owner::Group {
            share_name,
            topic_filter,
        } = &owner
        else {
            continue;
        };
        let name = (share_name.clone(), topic_filter.clone());
        if !with_members.contains(&name) {
            left_alone.insert(name);
            continue;
        }
        let group = exchange.group(share_name, topic_filter);
        each_queued(checkpoint, &owner, &mut |queued| {
            if let Some(message) = queued.state.message() {
                group.restore(Arc::clone(message), &exchange.totals);
            }
        })?;
    }
    let last = last.max(checkpoint.message_id_max());
    exchange.continue_message_ids_after(last);
    let groups = left_alone.into_iter();
    over.extend(
        groups.map(|(share_name, topic_filter)| Operation::DeleteGroup {
            share_name,
            topic_filter,
        }),
    );
    if let Some(journal) = shared.journal.as_ref().filter(|_| !over.is_empty()) {
        // Where the journal takes nothing, the next start does it.
        let _ = journal.append(over.into());
    }
    Ok(())
}

/// Share name and topic filter of a share group.
type GroupName = (Box<str>, Box<str>);

/// A group lives by its members; those that could not resume went with the process.
fn groups_with_members(checkpoint: &dyn Checkpoint) -> Result<BTreeSet<GroupName>, StorageError> {
    let mut members: Vec<(Box<str>, GroupName)> = Vec::new();
    checkpoint.scan(Table::Subscriptions, &mut |record| {
        if let Record::Subscription {
            client_id,
            topic_filter,
            ..
        } = record
            && let Ok(Some((share_name, topic_filter))) = parse_shared(&topic_filter)
        {
            members.push((client_id, (share_name.into(), topic_filter.into())));
        }
    })?;
    let mut groups = BTreeSet::new();
    for (client_id, group) in members {
        let session = checkpoint.session(&client_id)?;
        if session.is_some_and(|session| !is_over(&session)) {
            groups.insert(group);
        }
    }
    Ok(groups)
}

/// The session ended with its connection, and that with the process. Its will is all that is left (D10).
fn is_over(record: &SessionRecord) -> bool {
    record.session_expiry_interval == 0
}

impl Shard {
    /// Takes the sessions that live here. From here on, what is too long of a queue is left to the store and read when its
    /// turn comes.
    pub fn restore(
        &mut self,
        checkpoint: Arc<dyn Checkpoint>,
        now: Now,
    ) -> Result<(), StorageError> {
        let settings = &self.shared.settings;
        self.sinks.memory_limits = Some(MemoryLimits {
            bytes_max: settings.queue_memory_bytes_max,
            total_bytes_max: settings.queue_memory_total_bytes_max,
        });
        self.checkpoint = Some(Arc::clone(&checkpoint));
        let checkpoint = &*checkpoint;
        let mut sessions = Vec::new();
        checkpoint.scan(Table::Sessions, &mut |record| {
            if let Record::Session { client_id, session } = record
                && self.shared.exchange.home(&client_id, None) == self.id
            {
                sessions.push((client_id, session));
            }
        })?;
        if !sessions.is_empty() {
            let keeps_something = &self.shared.exchange.keeps_something;
            keeps_something.store(true, Ordering::Relaxed);
        }
        for (client_id, record) in &sessions {
            if is_over(record) {
                // Its queue and its subscriptions go; a record with the will alone comes behind.
                let client_id = (&**client_id).into();
                self.sinks
                    .journal
                    .push(Operation::DeleteSession { client_id });
                if record.will.is_none() {
                    continue;
                }
            }
            let id = self.restore_session(now, client_id, record);
            if !is_over(record) {
                self.restore_queue(checkpoint, id, &Owner::session(client_id))?;
            }
        }
        self.restore_subscriptions(checkpoint, now)?;
        self.restore_received(checkpoint)?;
        self.end_turn(now);
        Ok(())
    }

    /// The session itself, its end and its will. Where that is a session that is over, both come at the same time.
    fn restore_session(&mut self, now: Now, client_id: &str, record: &SessionRecord) -> SessionId {
        let shard = self.id;
        let name: Arc<str> = client_id.into();
        let gauges = &self.inflight_gauges;
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
                gauges,
            )
        });
        let id = SessionId {
            shard,
            slot,
            generation,
        };
        self.names.add(&self.sessions, id);
        self.shared.exchange.sessions.take_anyway(1);
        let grace = u64::from(self.shared.settings.will_restart_grace_seconds) * 1000;
        if let Some(session) = self.sessions.get_mut(slot, generation) {
            session.is_stored = true;
            session.user = record.user.clone();
            // Open when the broker stopped: the connection closed at that moment, as far as anyone can tell (D10).
            session.expires_at = record
                .expires_at
                .or_else(|| session.expiry_deadline(now.monotonic));
            session.will = record
                .will
                .as_ref()
                .map(|will| Box::new(Will::from_record(will)));
            let kept = record.will.as_ref().and_then(|will| will.fires_at);
            session.will_fires_at = session.will.as_ref().map(|will| {
                let counted = will::fires_at(will, session.expiry_interval, now.monotonic);
                let grace = now.monotonic + grace;
                kept.unwrap_or_else(|| counted.unwrap_or(0).max(grace))
            });
            if is_over(record) {
                session.expires_at = session.will_fires_at;
            } else if let (Some(fires_at), Some(expires_at)) =
                (session.will_fires_at, session.expires_at)
            {
                // [MQTT-3.1.3-9]: the end of the session publishes it; clients have their time to come back all the same.
                session.expires_at = Some(expires_at.max(fires_at));
            }
            let will_cost = session.will.as_ref().map_or(0, |will| will.cost());
            self.shared.exchange.will_bytes.take_anyway(will_cost);
            // Deadlines that begin now hold over another restart.
            if session.session_record() != *record || is_over(record) {
                self.sinks.journal.push(session.record());
            }
        }
        self.arm_session(id);
        id
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
                && let Some(id) = self.resumable(&client_id)
            {
                subscriptions.push((id, topic_filter, Subscription::from_record(&subscription)));
            }
        })?;
        for (id, filter, subscription) in subscriptions {
            // A bound that was lowered since does not take away what was granted.
            if let Ok(added) = self.add_subscription(id, &filter, subscription, false) {
                self.carry_out(now, added.given);
            }
        }
        Ok(())
    }

    /// The session of this client, unless it is over.
    fn resumable(&self, client_id: &str) -> Option<SessionId> {
        let id = self.names.find(&self.sessions, client_id)?;
        let session = self.sessions.get(id.slot, id.generation)?;
        session.is_resumable().then_some(id)
    }

    fn restore_received(&mut self, checkpoint: &dyn Checkpoint) -> Result<(), StorageError> {
        checkpoint.scan(Table::ReceivedQos2, &mut |record| {
            if let Record::ReceivedQos2 {
                client_id,
                packet_id,
            } = record
                && let Some(id) = self.resumable(&client_id)
                && let Some(session) = self.sessions.get_mut(id.slot, id.generation)
                && let Some(packet_id) = PacketId::new(packet_id)
            {
                session.unreleased.restore(packet_id);
            }
        })
    }

    /// In-flight exchanges in the order of their packet ids, which is that in which they were begun. What waits stays in the
    /// store, and is known by its ids.
    fn restore_queue(
        &mut self,
        checkpoint: &dyn Checkpoint,
        id: SessionId,
        owner: &Owner,
    ) -> Result<(), StorageError> {
        let outline = checkpoint.outline(owner)?;
        if outline.is_empty() {
            return Ok(());
        }
        let mut waiting = Vec::with_capacity(outline.len());
        let mut sent = Vec::new();
        let mut in_flight: BTreeMap<PacketId, InFlight> = BTreeMap::new();
        for entry in outline {
            match entry.phase {
                QueuePhase::Waiting => waiting.push(InStore {
                    message_id: entry.message_id,
                    cost: cost_of_text(u64::from(entry.bytes)),
                }),
                QueuePhase::Sent { .. } => sent.push(entry.message_id),
                QueuePhase::Released { packet_id } => {
                    if let Some(packet_id) = PacketId::new(packet_id) {
                        let message_id = entry.message_id;
                        let kept = None;
                        in_flight.insert(packet_id, InFlight { message_id, kept });
                    }
                }
            }
        }
        for ids in sent.chunks(PAGE) {
            for queued in checkpoint.queued(owner, ids, u64::MAX)? {
                let packet_id = queued.state.packet_id().and_then(PacketId::new);
                if let (Some(packet_id), Some(message)) = (packet_id, queued.state.message()) {
                    let message_id = queued.message_id;
                    let kept = Some(kept(Arc::clone(message), &queued));
                    in_flight.insert(packet_id, InFlight { message_id, kept });
                }
            }
        }
        let Some(session) = self.sessions.get_mut(id.slot, id.generation) else {
            return Ok(());
        };
        let totals = &self.shared.exchange.totals;
        let budget = &session.receiver.budget;
        let bytes = waiting.iter().map(|message| message.cost).sum();
        budget.reserve_many_anyway(waiting.len() as u64, bytes, totals);
        session.queue.restore(waiting);
        for (packet_id, InFlight { message_id, kept }) in in_ring_order(in_flight) {
            if let Some(kept) = &kept {
                budget.reserve_anyway(kept.reserved, totals);
            }
            let state = match &kept {
                None => State::AwaitPubcomp,
                Some(kept) if kept.qos == QoS::ExactlyOnce => State::AwaitPubrec,
                Some(_) => State::AwaitPuback,
            };
            let payload = kept.as_ref().map_or(0, |kept| kept.message.payload.len());
            let entry = Entry {
                state,
                bytes: u32::try_from(payload).unwrap_or(u32::MAX),
                kept: kept.map(Box::new),
                origin: Origin::Direct,
                message_id,
                hold: None,
                sent_before: true,
                counted: false,
            };
            session.inflight.restore(packet_id, entry);
        }
        Ok(())
    }
}

/// An exchange as it was found in the store.
struct InFlight {
    message_id: MessageId,
    /// `None` past its PUBREC.
    kept: Option<Kept>,
}

fn kept(message: Arc<StoredMessage>, queued: &QueuedMessage) -> Kept {
    Kept {
        reserved: stored_cost(&message),
        message,
        qos: queued.qos,
        retain: queued.retain,
        subscription_identifiers: queued.subscription_identifiers.clone().into(),
        origin: Origin::Direct,
    }
}

/// Visits a whole queue.
fn each_queued(
    checkpoint: &dyn Checkpoint,
    owner: &Owner,
    visit: &mut dyn FnMut(&QueuedMessage),
) -> Result<(), StorageError> {
    let mut after = 0;
    loop {
        let page = checkpoint.queue(owner, after, PAGE)?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        after = last.sequence;
        page.iter().for_each(&mut *visit);
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
