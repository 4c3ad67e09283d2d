//! Deliveries to the client: at once where nothing is in the way, else through the session's queue, in order.
//!
//! One FIFO a session. A QoS 1 or 2 message goes past it only when it is empty; a QoS 0 message also while the queue holds
//! no QoS 0, since order is promised per topic and QoS [MQTT-4.6.0-5]. The window is the client's Receive Maximum
//! [MQTT-3.3.4-9], the send buffer has a bound in bytes, and an offline session only queues.

use std::sync::Arc;

use nightjar_codec::{PacketId, QoS};
use nightjar_storage::{MessageId, Operation, Owner, OwnerEntry, StoredMessage};

use super::acknowledge::{PUBREL, write_short};
use super::inflight::{Entry, Kept, State};
use super::output::{Outputs, Sending, head};
use super::queue::{InStore, Oldest};
use super::quota::QueueTotals;
use super::topic_alias::Known;
use super::{Link, Session};
use crate::identity::{GroupId, Origin};
use crate::message::MessageRef;
use crate::settings::Settings;

/// On which terms a session gets a message, fixed when the message is accepted (D6).
#[derive(Clone, Copy, Debug)]
pub struct Grant<'a> {
    /// The highest granted QoS of the matching subscriptions [MQTT-3.3.4-2].
    pub qos: QoS,
    /// The RETAIN flag as it is sent.
    pub retain: bool,
    /// Of all matching subscriptions [MQTT-3.3.4-3].
    pub subscription_identifiers: &'a [u32],
    pub origin: Origin,
    /// Bytes already taken from the session's budget.
    pub reserved: u64,
}

impl Session {
    /// Delivers one message. A drop is counted and gives back what was reserved. False: there is no room, and the share
    /// group that gave the message has to take it back.
    pub fn deliver(
        &mut self,
        message: &MessageRef<'_>,
        grant: &Grant<'_>,
        out: &mut Outputs<'_>,
    ) -> bool {
        let mut qos = message.qos.min(grant.qos);
        if qos == QoS::ExactlyOnce
            && self.is_resumable()
            && out.journal.enabled
            && message.is_from_broker()
        {
            // The store does not know this message. After a restart the client would take the next one with this packet id
            // for a repeat of it [MQTT-4.3.3-10]; QoS 1 leaves nothing behind there.
            qos = QoS::AtLeastOnce;
        }
        if message.is_expired(out.now) {
            out.counters.dropped_expired += 1; // [MQTT-3.3.2-5]
            self.drop_delivery(message.message_id, grant, out);
            return true;
        }
        if self.link.is_none() {
            if message.is_from_broker() {
                // What the broker tells of itself is of no use later, and nobody has to have read all of it.
                self.drop_delivery(message.message_id, grant, out);
                return true;
            }
            if qos == QoS::AtMostOnce && !out.settings.queue_qos0 {
                out.counters.dropped_offline += 1;
                self.drop_delivery(message.message_id, grant, out);
                return true;
            }
            return self.enqueue(message, qos, grant, out);
        }
        let room = out.has_send_room();
        if qos == QoS::AtMostOnce {
            if self.queue.has_qos0() {
                return self.enqueue(message, qos, grant, out);
            }
            if !room {
                out.counters.dropped_send_buffer_full += 1;
                self.receiver.log_dropped(out.now);
                self.drop_delivery(message.message_id, grant, out);
                return true;
            }
            self.send_qos0(message, grant, out);
            return true;
        }
        if room
            && self.queue.is_empty()
            && self.window_is_open(out.settings)
            && !self.inflight.has_unsent()
        {
            self.send_qos1_or_2(message, qos, grant, out);
            return true;
        }
        self.enqueue(message, qos, grant, out)
    }

    /// Sends what the window and the send buffer allow: first what the last connection left, then the queue, then what
    /// share groups keep for want of room here.
    pub fn pump(&mut self, out: &mut Outputs<'_>) {
        self.send_waiting(out);
        if !self.declined.is_empty() && self.queue.is_empty() && self.window_is_open(out.settings) {
            let id = self.id;
            out.room_again
                .extend(self.declined.drain(..).map(|group| (id, group)));
        }
    }

    fn send_waiting(&mut self, out: &mut Outputs<'_>) {
        while self.link.is_some() && out.has_send_room() {
            if self.inflight.has_unsent() {
                if !self.resend_next(out) {
                    return;
                }
                continue;
            }
            let Some(first) = self.queue.front() else {
                self.ask_for_page(out);
                return;
            };
            if first.qos > QoS::AtMostOnce && !self.window_is_open(out.settings) {
                return;
            }
            let Some(kept) = self.queue.pop(out.totals) else {
                return;
            };
            // Each is another message: nothing that was made for the one before may be sent again.
            out.frames.begin(1);
            let stored = Arc::clone(&kept.message);
            let message = MessageRef::from_stored(&stored);
            let grant = Grant {
                qos: kept.qos,
                retain: kept.retain,
                subscription_identifiers: &kept.subscription_identifiers,
                origin: kept.origin,
                reserved: kept.reserved,
            };
            if message.is_expired(out.now) {
                out.counters.dropped_expired += 1; // [MQTT-3.3.2-5]
                self.drop_delivery(stored.message_id, &grant, out);
                continue;
            }
            // It may have waited for longer than the rules that let it in.
            if !self.may_receive(message.topic) {
                self.deny_delivery(stored.message_id, &grant, out);
                continue;
            }
            if kept.qos == QoS::AtMostOnce {
                self.send_qos0(&message, &grant, out);
            } else {
                self.send_qos1_or_2(&message, kept.qos, &grant, out);
            }
        }
    }

    /// What waits is in the store only: the shard reads the next of it, and pumps again.
    fn ask_for_page(&mut self, out: &mut Outputs<'_>) {
        let wants_page = self.queue.needs_page() || self.reads_retained;
        if wants_page && !self.queue.is_loading && self.window_is_open(out.settings) {
            self.queue.is_loading = true;
            out.page_wanted.push(self.id);
        }
    }

    /// Puts a retained message, for which room was reserved, behind whatever waits already.
    pub fn enqueue_retained(
        &mut self,
        message: Arc<StoredMessage>,
        grant: &Grant<'_>,
        out: &mut Outputs<'_>,
    ) {
        let qos = message.qos.min(grant.qos);
        self.push(
            Kept {
                message,
                qos,
                retain: grant.retain,
                subscription_identifiers: grant.subscription_identifiers.into(),
                origin: grant.origin,
                reserved: grant.reserved,
            },
            out,
        );
    }

    /// The client leaves the group while it is connected: what is on its way to it completes [MQTT-3.10.4-3]. A session that
    /// can come back owns that from here on; of another the group gets its message back, since that one may vanish with it.
    pub fn keep_group_exchanges(
        &mut self,
        group: GroupId,
        out: &mut Outputs<'_>,
    ) -> Vec<(GroupId, Arc<StoredMessage>)> {
        let resumable = self.is_resumable();
        let owner = self.group_owner(group);
        let mut returned = Vec::new();
        for (packet_id, entry) in self.inflight.iter_mut() {
            if entry.state != State::AwaitPuback || entry.origin != Origin::Group(group) {
                continue;
            }
            entry.origin = Origin::Direct;
            let Some(kept) = entry.kept.as_mut().filter(|_| resumable) else {
                if let Some(kept) = entry.kept.take() {
                    self.receiver.budget.release_if(kept.reserved, out.totals);
                    returned.push((group, kept.message));
                }
                entry.message_id = 0;
                continue;
            };
            kept.origin = Origin::Direct;
            if let Some(from) = owner.clone().filter(|_| entry.message_id != 0) {
                out.journal.push(Operation::Transfer {
                    message_id: entry.message_id,
                    from,
                    to: OwnerEntry {
                        owner: Owner::Session(Arc::clone(&self.receiver.client_id)),
                        qos: kept.qos,
                        retain: kept.retain,
                        subscription_identifiers: kept.subscription_identifiers.to_vec(),
                    },
                });
                out.journal.push(Operation::AssignPacketId {
                    client_id: Arc::clone(&self.receiver.client_id),
                    message_id: entry.message_id,
                    packet_id: packet_id.get(),
                });
            }
        }
        returned
    }

    /// Takes everything a share group gave and may have back: what waits, and QoS 1 in flight. QoS 2 that was sent stays
    /// [MQTT-4.8.2-4]. In the order in which the group gave it.
    pub fn take_group_messages(
        &mut self,
        group: Option<GroupId>,
        totals: &QueueTotals,
    ) -> Vec<(GroupId, Arc<StoredMessage>)> {
        let wanted = |origin| match origin {
            Origin::Direct => None,
            Origin::Group(id) => (group.is_none() || group == Some(id)).then_some(id),
        };
        let mut taken = Vec::new();
        let in_flight: Vec<PacketId> = self
            .inflight
            .iter()
            .filter(|(_, entry)| {
                entry.state == State::AwaitPuback && wanted(entry.origin).is_some()
            })
            .map(|(packet_id, _)| packet_id)
            .collect();
        for packet_id in in_flight {
            if let Some(entry) = self.inflight.finish(packet_id)
                && let (Some(id), Some(kept)) = (wanted(entry.origin), entry.kept)
            {
                self.receiver.budget.release_if(kept.reserved, totals);
                taken.push((id, kept.message));
            }
        }
        let budget = &self.receiver.budget;
        self.queue.take_group_messages(group, totals, |id, kept| {
            budget.release_if(kept.reserved, totals);
            // Also what this member would have got at QoS 0: it was not sent, and another may get it.
            if kept.message.qos > QoS::AtMostOnce {
                taken.push((id, kept.message));
            }
        });
        taken
    }

    /// The batch with this packet id is durable: PUBLISH or PUBREL may leave (D2).
    pub fn release_held(&mut self, packet_id: PacketId, out: &mut Outputs<'_>) {
        let Some(entry) = self.inflight.find(packet_id) else {
            return;
        };
        if entry
            .hold
            .is_none_or(|ticket| !out.journal.is_durable(ticket))
        {
            return;
        }
        entry.hold = None;
        if self.link.is_none() || self.inflight_is_behind(packet_id) {
            return;
        }
        match self
            .inflight
            .find(packet_id)
            .map(|entry| (entry.state, entry.kept.clone()))
        {
            Some((State::AwaitPubcomp, _)) => {
                write_short(
                    PUBREL,
                    packet_id,
                    nightjar_codec::ReasonCode::Success,
                    self.version,
                    out,
                );
            }
            Some((State::AwaitPubrec, Some(kept))) if !self.may_receive(&kept.message.topic) => {
                out.counters.deliveries_denied += 1;
                self.finish(packet_id, out);
            }
            Some((State::AwaitPubrec, Some(kept))) => self.write_kept(&kept, packet_id, out),
            _ => {}
        }
    }

    /// A message that was reserved for the session and is not delivered to it after all.
    pub fn forget_reserved(&self, message_id: MessageId, reserved: u64, out: &mut Outputs<'_>) {
        self.receiver.budget.release_if(reserved, out.totals);
        self.dequeue(message_id, out);
    }

    /// Drops whatever a clean session must not keep and frees the budget of it all. The session is about to end.
    pub fn discard_messages(&mut self, out: &mut Outputs<'_>) {
        let in_flight = self
            .inflight
            .iter()
            .filter_map(|(_, entry)| entry.kept.as_deref());
        for kept in in_flight {
            self.receiver.budget.release_if(kept.reserved, out.totals);
        }
        let budget = &self.receiver.budget;
        self.queue.clear(out.totals, |reserved| {
            budget.release_if(reserved, out.totals)
        });
        self.inflight.clear();
    }

    fn window_is_open(&self, settings: &Settings) -> bool {
        let bytes_max = settings.inflight_bytes_max;
        self.link.as_ref().is_some_and(|link| link.send_quota > 0)
            && !self.inflight.is_full()
            && (bytes_max == 0 || self.inflight.bytes() < bytes_max)
    }

    /// The resend after a reconnect has not come to this exchange yet; it will send it.
    fn inflight_is_behind(&mut self, packet_id: PacketId) -> bool {
        let Some((next, _)) = self.inflight.next_unsent() else {
            return false;
        };
        self.inflight
            .iter()
            .skip_while(|(id, _)| *id != next)
            .any(|(id, _)| id == packet_id)
    }

    fn send_qos0(&mut self, message: &MessageRef<'_>, grant: &Grant<'_>, out: &mut Outputs<'_>) {
        let sending = Sending {
            version: self.version,
            dup: false, // [MQTT-3.3.1-2]
            qos: QoS::AtMostOnce,
            retain: grant.retain,
            packet_id: None,
            subscription_identifiers: grant.subscription_identifiers,
        };
        let Some(link) = self.link.as_mut() else {
            return;
        };
        if !link.write_publish(message, &sending, out) {
            out.counters.dropped_too_large += 1;
            return self.drop_delivery(message.message_id, grant, out);
        }
        // QoS 0 is gone once sent, also where it waited in a queue or a group gave it.
        if grant.reserved > 0 || grant.origin != Origin::Direct {
            self.drop_delivery(message.message_id, grant, out);
        }
    }

    fn send_qos1_or_2(
        &mut self,
        message: &MessageRef<'_>,
        qos: QoS,
        grant: &Grant<'_>,
        out: &mut Outputs<'_>,
    ) {
        let resumable = self.is_resumable();
        let direct = grant.origin == Origin::Direct;
        let keep = resumable || !direct;
        let Some(link) = self.link.as_mut() else {
            return;
        };
        if !link.fits(message, self.version, qos, grant, out.now) {
            out.counters.dropped_too_large += 1; // [MQTT-3.1.2-25]
            return self.drop_delivery(message.message_id, grant, out);
        }
        let kept = keep.then(|| {
            Box::new(Kept {
                message: Arc::clone(message.stored()),
                qos,
                retain: grant.retain,
                subscription_identifiers: grant.subscription_identifiers.into(),
                origin: grant.origin,
                reserved: grant.reserved,
            })
        });
        if !keep {
            self.receiver.budget.release_if(grant.reserved, out.totals);
        }
        link.send_quota -= 1;
        let packet_id = self.inflight.begin(Entry {
            state: if qos == QoS::AtLeastOnce {
                State::AwaitPuback
            } else {
                State::AwaitPubrec
            },
            kept,
            origin: grant.origin,
            message_id: message.message_id,
            hold: None,
            sent_before: true,
            counted: true,
            bytes: u32::try_from(message.payload.len()).unwrap_or(u32::MAX),
        });
        let stored = out.journal.enabled && message.message_id != 0;
        if let (true, QoS::ExactlyOnce, Origin::Group(group)) = (stored, qos, grant.origin) {
            self.take_over_from_group(group, message.message_id, qos, grant, out);
        }
        if stored && resumable && (direct || qos == QoS::ExactlyOnce) {
            let ticket = out.journal.push(Operation::AssignPacketId {
                client_id: Arc::clone(&self.receiver.client_id),
                message_id: message.message_id,
                packet_id: packet_id.get(),
            });
            // D2: the id of a QoS 2 message is durable before the client sees it.
            if qos == QoS::ExactlyOnce
                && let (Some(ticket), Some(entry)) = (ticket, self.inflight.find(packet_id))
            {
                entry.hold = Some(ticket);
                entry.sent_before = false;
                out.journal.held.push((self.id, packet_id));
                return;
            }
        }
        let sending = Sending {
            version: self.version,
            dup: false, // [MQTT-3.3.1-3]: independent of the incoming one.
            qos,
            retain: grant.retain,
            packet_id: Some(packet_id),
            subscription_identifiers: grant.subscription_identifiers,
        };
        if let Some(link) = self.link.as_mut() {
            link.write_publish(message, &sending, out);
        }
    }

    /// A QoS 2 message belongs to the member once it is sent to it (D8) [MQTT-4.8.2-4]; where the member cannot resume
    /// it dies with it [MQTT-4.8.2-5].
    fn take_over_from_group(
        &self,
        group: GroupId,
        message_id: MessageId,
        qos: QoS,
        grant: &Grant<'_>,
        out: &mut Outputs<'_>,
    ) {
        let Some(from) = self.group_owner(group) else {
            return;
        };
        if !self.is_resumable() {
            out.journal.push(Operation::Dequeue {
                owner: from,
                message_id,
            });
            return;
        }
        let to = OwnerEntry {
            owner: Owner::Session(Arc::clone(&self.receiver.client_id)),
            qos,
            retain: grant.retain,
            subscription_identifiers: grant.subscription_identifiers.to_vec(),
        };
        out.journal.push(Operation::Transfer {
            message_id,
            from,
            to,
        });
    }

    /// One exchange of an earlier connection: PUBLISH with DUP, or PUBREL [MQTT-4.4.0-1]. False: not now.
    fn resend_next(&mut self, out: &mut Outputs<'_>) -> bool {
        let Some((packet_id, entry)) = self.inflight.next_unsent() else {
            return false;
        };
        if entry
            .hold
            .is_some_and(|ticket| !out.journal.is_durable(ticket))
        {
            return false;
        }
        entry.hold = None;
        if entry.state == State::AwaitPubcomp {
            write_short(
                PUBREL,
                packet_id,
                nightjar_codec::ReasonCode::Success,
                self.version,
                out,
            );
            self.inflight.mark_sent();
            return true;
        }
        let Some(kept) = entry.kept.clone() else {
            self.inflight.mark_sent();
            return true;
        };
        let message = MessageRef::from_stored(&kept.message);
        if !self.may_receive(message.topic) {
            // As if completed: the client may not read it any more.
            out.counters.deliveries_denied += 1;
            self.finish(packet_id, out);
            return true;
        }
        let Some(link) = self.link.as_mut() else {
            return false;
        };
        if link.send_quota == 0 {
            return false;
        }
        let grant = Grant {
            qos: kept.qos,
            retain: kept.retain,
            subscription_identifiers: &kept.subscription_identifiers,
            origin: kept.origin,
            reserved: kept.reserved,
        };
        if !link.fits(&message, self.version, kept.qos, &grant, out.now) {
            // Too large for the connection that came back: as if completed [MQTT-3.1.2-25].
            out.counters.dropped_too_large += 1;
            self.finish(packet_id, out);
            return true;
        }
        link.send_quota -= 1;
        if let Some(entry) = self.inflight.find(packet_id) {
            entry.counted = true;
        }
        self.inflight.mark_sent();
        self.write_kept(&kept, packet_id, out);
        true
    }

    fn write_kept(&mut self, kept: &Kept, packet_id: PacketId, out: &mut Outputs<'_>) {
        let version = self.version;
        let Some(entry) = self.inflight.find(packet_id) else {
            return;
        };
        let dup = entry.sent_before; // [MQTT-3.3.1-1]
        entry.sent_before = true;
        let sending = Sending {
            version,
            dup,
            qos: kept.qos,
            retain: kept.retain,
            packet_id: Some(packet_id),
            subscription_identifiers: &kept.subscription_identifiers,
        };
        let message = MessageRef::from_stored(&kept.message);
        out.frames.begin(1);
        if let Some(link) = self.link.as_mut() {
            link.write_publish(&message, &sending, out);
        }
    }

    /// Every message that waits here takes room, also what a share group gave. False: there is none, and the group keeps it.
    fn enqueue(
        &mut self,
        message: &MessageRef<'_>,
        qos: QoS,
        grant: &Grant<'_>,
        out: &mut Outputs<'_>,
    ) -> bool {
        let mut reserved = grant.reserved;
        if reserved == 0 {
            let budget = &self.receiver.budget;
            let limits = &out.queue_limits;
            reserved = message.cost();
            if let (Origin::Group(group), true) = (grant.origin, qos > QoS::AtMostOnce) {
                if !budget.reserve_if_free(reserved, out.totals, limits) {
                    self.note_declined(group);
                    return false;
                }
            } else if !budget.reserve(reserved, out.totals, limits) {
                out.counters.dropped_queue_full += 1;
                self.receiver.log_dropped(out.now);
                self.drop_delivery(message.message_id, grant, out);
                return true;
            }
        }
        self.push(
            Kept {
                message: Arc::clone(message.stored()),
                qos,
                retain: grant.retain,
                subscription_identifiers: grant.subscription_identifiers.into(),
                origin: grant.origin,
                reserved,
            },
            out,
        );
        self.drop_oldest(out);
        true
    }

    fn note_declined(&mut self, group: GroupId) {
        if !self.declined.contains(&group) {
            self.declined.push(group);
        }
    }

    /// The policy `drop_oldest`: what was queued first makes room, what is in flight stays.
    fn drop_oldest(&mut self, out: &mut Outputs<'_>) {
        while self.queue.len() > 1 && self.receiver.budget.is_over(&out.queue_limits) {
            let kept = match self.queue.pop_oldest(out.totals) {
                None => return,
                Some(Oldest::Held(kept)) => kept,
                Some(Oldest::InStore(message)) => {
                    self.receiver.budget.count_dropped();
                    self.receiver.log_dropped(out.now);
                    out.counters.dropped_queue_full += 1;
                    self.forget_reserved(message.message_id, message.cost, out);
                    continue;
                }
            };
            if let Origin::Group(group) = kept.origin
                && kept.message.qos > QoS::AtMostOnce
            {
                // Another member may have it yet.
                self.receiver.budget.release_if(kept.reserved, out.totals);
                self.note_declined(group);
                out.given_back.push((self.id, group, kept.message));
                continue;
            }
            self.receiver.budget.count_dropped();
            self.receiver.log_dropped(out.now);
            out.counters.dropped_queue_full += 1;
            let grant = Grant {
                qos: kept.qos,
                retain: kept.retain,
                subscription_identifiers: &kept.subscription_identifiers,
                origin: kept.origin,
                reserved: kept.reserved,
            };
            self.drop_delivery(kept.message.message_id, &grant, out);
        }
    }

    fn push(&mut self, kept: Kept, out: &mut Outputs<'_>) {
        let limits = out
            .memory_limits
            .filter(|_| self.is_resumable() && kept.is_in_store());
        match limits {
            // Nobody takes it for a while: the store has it.
            Some(_) if self.link.is_none() => self.queue.leave(InStore::of(&kept)),
            Some(limits) => self.queue.push_stored(kept, &limits, out.totals),
            None => self.queue.push(kept, out.totals),
        }
    }

    pub(super) fn drop_delivery(
        &self,
        message_id: MessageId,
        grant: &Grant<'_>,
        out: &mut Outputs<'_>,
    ) {
        match grant.origin {
            Origin::Direct if grant.reserved > 0 => {
                self.receiver.budget.release(grant.reserved, out.totals);
                self.dequeue(message_id, out);
            }
            Origin::Direct => {}
            Origin::Group(group) => {
                self.receiver.budget.release_if(grant.reserved, out.totals);
                self.finish_for_group(group, message_id, out);
            }
        }
    }
}

impl Link {
    /// Whether the packet stays within the client's Maximum Packet Size [MQTT-3.1.2-24], and within its listener's mount point.
    fn fits(
        &self,
        message: &MessageRef<'_>,
        version: nightjar_codec::ProtocolVersion,
        qos: QoS,
        grant: &Grant<'_>,
        now: u64,
    ) -> bool {
        let Some(topic) = self.terms.topic_of_client(message.topic) else {
            return false;
        };
        if self.maximum_packet_size == u32::MAX {
            return true;
        }
        let sending = Sending {
            version,
            dup: false,
            qos,
            retain: grant.retain,
            packet_id: PacketId::new(1).filter(|_| qos > QoS::AtMostOnce),
            subscription_identifiers: grant.subscription_identifiers,
        };
        let mut head = head(message, &sending, now);
        head.topic = topic;
        head.encoded_length(version) <= self.maximum_packet_size as usize
    }

    /// Encodes the PUBLISH, with a Topic Alias where the client allows some. False: larger than the client takes, or outside
    /// of its mount point.
    fn write_publish(
        &mut self,
        message: &MessageRef<'_>,
        sending: &Sending<'_>,
        out: &mut Outputs<'_>,
    ) -> bool {
        let before = out.send.len();
        let Some(topic) = self.terms.topic_of_client(message.topic) else {
            return false;
        };
        let alias = self.outbound_aliases.alias_for(topic);
        let is_same_for_all = alias.is_none() && !self.terms.is_mounted();
        if is_same_for_all && self.maximum_packet_size == u32::MAX {
            out.send.borrow_from(out.pool);
            out.frames.send(message, sending, out.now, out.send);
        } else {
            let mut head = head(message, sending, out.now);
            head.topic = topic;
            if let Some((alias, known)) = alias {
                head.topic_alias = Some(alias);
                if known == Known::Yes {
                    head.topic = "";
                }
                if head.encoded_length(sending.version) > self.maximum_packet_size as usize {
                    // Three bytes of alias must not push it over the limit, be it in place of a shorter topic.
                    head.topic_alias = None;
                    head.topic = topic;
                    if known == Known::No {
                        // An unsent alias must not be remembered.
                        self.outbound_aliases.forget_last();
                    }
                }
            }
            if head.encoded_length(sending.version) > self.maximum_packet_size as usize {
                return false;
            }
            out.buffer()
                .append(|bytes| head.encode(sending.version, bytes));
            out.frames.append_payload(message, out.send);
        }
        let bytes_max = out.settings.send_buffer_bytes_max as usize;
        let written = out.send.len() - before;
        out.frames.count(written, out.send, bytes_max);
        out.counters.messages_sent[sending.qos as usize] += 1;
        out.counters.payload_bytes_sent += message.payload.len() as u64;
        true
    }
}
