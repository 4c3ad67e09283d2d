//! Share groups on a shard: what they are offered, and carrying out what they decide.

use std::collections::VecDeque;
use std::sync::Arc;

use nightjar_codec::QoS;
use nightjar_storage::{MessageId, Operation, StoredMessage};

use super::Shard;
use crate::clock::Now;
use crate::exchange::delivery::Route;
use crate::exchange::shared::{Acceptance, Assignment, Decided, Offer, ShareGroup};
use crate::identity::Origin;
use crate::message::MessageRef;
use crate::session::deliver::Grant;

/// A message that a share group has accepted and not been handed.
pub(super) struct Handing {
    pub(super) group: Arc<ShareGroup>,
    pub(super) message: Arc<StoredMessage>,
}

/// What share groups did with a message when it was accepted.
#[derive(Default)]
pub(super) struct Offered {
    /// To be sent right away.
    pub(super) given: Vec<Assignment>,
    /// To be handed in when the journal has it.
    pub(super) handing: Vec<Handing>,
    /// How many groups took it.
    pub(super) taken: usize,
}

impl Shard {
    /// Offers the message to the share groups of its route. `is_held`: it is of QoS 2 and waits for the journal.
    pub(super) fn offer_to_groups(
        &mut self,
        message: &MessageRef<'_>,
        route: &Route,
        is_held: bool,
    ) -> Offered {
        let mut offered = Offered::default();
        if message.is_from_broker() && message.qos > QoS::AtMostOnce && !route.groups.is_empty() {
            // For whoever is there: no group keeps what the broker tells of itself.
            let own = MessageRef::new(message.topic, message.payload, &[], QoS::AtMostOnce);
            return self.offer_to_groups(&own, route, false);
        }
        for group in &route.groups {
            let is_stored = message.message_id != 0 && group.is_resumable();
            if is_stored || is_held {
                self.promise_to_group(message, group, is_stored, &mut offered);
                continue;
            }
            // The copy of a group that the store does not know.
            let copy = (message.message_id != 0).then(|| copy_of(message, 0));
            let copy = copy.as_ref().map(MessageRef::from_stored);
            match group.offer(
                copy.as_ref().unwrap_or(message),
                &self.shared.exchange.totals,
                &self.sinks.queue_limits,
            ) {
                Offer::Assigned(assignment) => {
                    offered.given.push(assignment);
                    offered.taken += 1;
                }
                Offer::Queued { given, dropped } => {
                    offered.given.extend(given);
                    self.sinks.counters.dropped_queue_full += dropped.len() as u64;
                    self.disown(group, dropped);
                    offered.taken += 1;
                }
                Offer::Dropped if message.qos == QoS::AtMostOnce => {
                    self.sinks.counters.dropped_offline += 1;
                }
                Offer::Dropped => self.sinks.counters.dropped_queue_full += 1,
                // Nobody was there to take it, so nobody refused it.
                Offer::NoMember => offered.taken += 1,
            }
        }
        offered
    }

    /// A share group owns a copy of its own: a member may own the message for itself besides, and nobody owns one id twice.
    /// Members see it when the journal has taken it, or, of QoS 2, when it is durable (D2): members of other shards append
    /// to the journal, too, and what they append must not come first.
    fn promise_to_group(
        &mut self,
        message: &MessageRef<'_>,
        group: &Arc<ShareGroup>,
        is_stored: bool,
        offered: &mut Offered,
    ) {
        let totals = &self.shared.exchange.totals;
        match group.accept(
            message.topic,
            message.cost(),
            totals,
            &self.sinks.queue_limits,
        ) {
            Acceptance::Taken => offered.taken += 1,
            Acceptance::NoMember => {
                offered.taken += 1;
                return;
            }
            Acceptance::NoRoom => {
                self.sinks.counters.dropped_queue_full += 1;
                return;
            }
        }
        let message_id = if is_stored {
            self.shared.exchange.next_message_id()
        } else {
            0
        };
        let copy = copy_of(message, message_id);
        if is_stored {
            self.sinks.journal.push(Operation::Enqueue {
                message: Arc::clone(&copy),
                owners: [group.owner_entry(message.qos)].into(),
            });
        }
        offered.handing.push(Handing {
            group: Arc::clone(group),
            message: copy,
        });
    }

    /// The journal has these: members may see them.
    pub(super) fn hand_in(&mut self, now: Now, handing: Vec<Handing>) {
        for Handing { group, message } in handing {
            let decided = group.hand_in(
                message,
                &self.shared.exchange.totals,
                &self.sinks.queue_limits,
            );
            self.sinks.counters.dropped_queue_full += decided.dropped.len() as u64;
            self.carry_out_decided(now, &group, decided);
        }
    }

    /// The group does not keep these after all.
    fn disown(&mut self, group: &ShareGroup, message_ids: impl IntoIterator<Item = MessageId>) {
        for message_id in message_ids {
            if message_id != 0 {
                let owner = group.owner();
                self.sinks
                    .journal
                    .push(Operation::Dequeue { owner, message_id });
            }
        }
    }

    /// Carries out what this group has decided, and lets the store forget what nobody will get.
    pub(super) fn carry_out_decided(&mut self, now: Now, group: &ShareGroup, decided: Decided) {
        self.disown(group, decided.dropped);
        self.carry_out(now, decided.given);
    }

    /// Carries out what share groups decided: here, or on the member's shard.
    pub(super) fn carry_out(&mut self, now: Now, given: Vec<Assignment>) {
        let mut given = VecDeque::from(given);
        while let Some(assignment) = given.pop_front() {
            if assignment.session.shard == self.id {
                given.extend(self.deliver_assignment(now, &assignment));
            } else if let Some(mail) = self.outgoing.get_mut(usize::from(assignment.session.shard))
            {
                mail.push_assigned(assignment);
                self.sinks.frames.turn_is_full |= self.shared.post.is_full(mail);
            }
        }
    }

    /// Delivers to the member. Where that does not take the message, gives what its group decides then.
    pub(super) fn deliver_assignment(
        &mut self,
        now: Now,
        assignment: &Assignment,
    ) -> Vec<Assignment> {
        let exchange = Arc::clone(&self.shared.exchange);
        let id = assignment.session;
        let group = &assignment.group;
        let is_there = self
            .sessions
            .get(id.slot, id.generation)
            .is_some_and(|session| session.is_online() && session.is_member(group.id));
        if !is_there {
            // It went, or left the group, while the message was on its way; the group knows already and takes it back.
            let returned = std::iter::once(Arc::clone(&assignment.message))
                .filter(|message| message.qos > QoS::AtMostOnce);
            let decided = group.gone(id, false, returned, &exchange.totals);
            self.disown(group, decided.dropped);
            return decided.given;
        }
        let grant = Grant {
            qos: assignment.qos,
            retain: assignment.retain,
            subscription_identifiers: &assignment.subscription_identifiers,
            origin: Origin::Group(group.id),
            reserved: 0,
        };
        self.sinks.frames.begin(1);
        let message = MessageRef::from_stored(&assignment.message);
        if self.deliver_if_allowed(now, &message, id, &grant) {
            return Vec::new();
        }
        let decided = group.declined(id, Arc::clone(&assignment.message), &exchange.totals);
        self.disown(group, decided.dropped);
        decided.given
    }

    /// Members that are done with a message of their group, or have room again, get the next.
    pub(super) fn give_groups_their_turn(&mut self, now: Now) {
        let exchange = Arc::clone(&self.shared.exchange);
        for (session, group, message) in std::mem::take(&mut self.sinks.given_back) {
            if let Some(group) = exchange.group_by_id(group) {
                let decided = group.declined(session, message, &exchange.totals);
                self.carry_out_decided(now, &group, decided);
            }
        }
        loop {
            let given = if let Some((session, group)) = self.sinks.finished.pop() {
                exchange
                    .group_by_id(group)
                    .map(|group| group.finished(session, &exchange.totals))
            } else if let Some((session, group)) = self.sinks.room_again.pop() {
                exchange
                    .group_by_id(group)
                    .map(|group| group.room_again(session, &exchange.totals))
            } else {
                return;
            };
            self.carry_out(now, given.unwrap_or_default());
        }
    }

    /// The rules have changed: what waited for a member who may read it may have found one.
    pub(super) fn give_groups_what_they_may_read(&mut self, now: Now) {
        let exchange = Arc::clone(&self.shared.exchange);
        for group in exchange.groups_after(None, usize::MAX) {
            let given = group.rights_changed(&exchange.totals);
            self.carry_out(now, given);
        }
    }

    /// Takes expired messages out of the queues of so many groups; the next sweep goes on behind them.
    pub(super) fn sweep_groups(&mut self, now: Now, limit: usize) {
        let exchange = Arc::clone(&self.shared.exchange);
        let groups = exchange.groups_after(self.swept_group, limit);
        self.swept_group = groups
            .last()
            .filter(|_| groups.len() == limit)
            .map(|group| group.id);
        for group in groups {
            let dropped = group.drop_expired(now.monotonic, &exchange.totals);
            self.sinks.counters.dropped_expired += dropped.len() as u64;
            self.disown(&group, dropped);
        }
    }
}

fn copy_of(message: &MessageRef<'_>, message_id: MessageId) -> Arc<StoredMessage> {
    if message.message_id == message_id {
        return Arc::clone(message.stored());
    }
    Arc::new(StoredMessage {
        message_id,
        ..(**message.stored()).clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Auth;
    use crate::exchange::Exchange;
    use crate::settings::Settings;
    use crate::shard::{PostOffice, Shared};

    fn message(expires_at: Option<u64>) -> Arc<StoredMessage> {
        let mut message = MessageRef::new("t", b"x", &[], QoS::AtLeastOnce);
        message.expires_at = expires_at;
        Arc::clone(message.stored())
    }

    #[test]
    fn the_sweep_takes_expired_messages_out_of_every_groups_queue() {
        let settings = Arc::new(Settings::default());
        let exchange = Arc::new(Exchange::new(&settings, 1, 1));
        let mut shard = Shard::new(
            0,
            Shared {
                settings,
                exchange: Arc::clone(&exchange),
                post: Arc::new(PostOffice::new(1, 1)),
                methods: Default::default(),
                auth: Auth::default(),
                authorization: Default::default(),
                journal: None,
                hash_seed: 1,
                client_id_seed: [7; 32],
            },
        );
        let groups = ["a", "b", "c"].map(|name| exchange.group(name, "t"));
        for group in &groups {
            for expires_at in [Some(20), None, Some(10), Some(30)] {
                group.restore(message(expires_at), &exchange.totals);
            }
        }
        let mut queued_at = |monotonic| {
            let now = Now { monotonic, wall: 0 };
            // Two at a time, so it takes two calls to see all three.
            shard.sweep_groups(now, 2);
            shard.sweep_groups(now, 2);
            groups.each_ref().map(|group| group.queued())
        };
        assert_eq!(queued_at(9), [4; 3]);
        assert_eq!(queued_at(20), [2; 3]);
        assert_eq!(queued_at(40), [1; 3]);
        assert_eq!(exchange.totals.messages(), 3);
        assert_eq!(shard.counters().dropped_expired, 9);
    }
}
