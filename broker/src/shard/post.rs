//! Mail between shards: handed over at the end of a turn, collected as far as a turn has room for it.

use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;

use nightjar_storage::{Operation, Owner};

use super::Shard;
use super::mail::{Letter, Mail, OwnedDelivery};
use super::publish::is_owner;
use crate::clock::Now;
use crate::exchange::delivery::{Route, has_seen};
use crate::identity::{Origin, ShardId};
use crate::message::MessageRef;
use crate::session::deliver::Grant;
use crate::session::output::Outputs;

/// What other shards sent and this one has not delivered yet: a batch of each.
pub(super) struct Incoming {
    batches: Vec<Mail>,
    /// Who is served first: who comes behind the one that filled the last turn.
    first: ShardId,
}

impl Incoming {
    pub(super) fn new(shards: usize) -> Self {
        Self {
            batches: (0..shards).map(|_| Mail::default()).collect(),
            first: 0,
        }
    }
}

impl Shard {
    /// Another shard must not finish with a message before the journal has it: letters wait with the batch, but for those
    /// that no journal ever hears of.
    pub(super) fn hand_over_mail(&mut self, is_appended: bool) {
        let boxes = self.outgoing.iter_mut().zip(&mut self.held_mail);
        let mut held_cost = 0;
        for (to, (mail, held)) in boxes.enumerate() {
            let to = ShardId::try_from(to).unwrap_or(ShardId::MAX);
            if !is_appended {
                mail.hold_back(held);
                held_cost += held.cost();
            } else if !held.is_empty() && self.shared.post.post(self.id, to, held) {
                self.wakes.push(to);
            }
            if !mail.is_empty() && self.shared.post.post(self.id, to, mail) {
                self.wakes.push(to);
            }
        }
        self.pressure.held_mail = held_cost;
    }

    /// Some other shard does not keep up with the mail of this one.
    pub fn is_congested(&self) -> bool {
        let shards = ShardId::try_from(self.outgoing.len()).unwrap_or(ShardId::MAX);
        shards > 1 && (0..shards).any(|to| self.shared.post.is_congested(self.id, to))
    }

    /// Takes the mail of every other shard, as far as this turn has room for it. True: the turn is full, and there may be
    /// more, which nobody will wake this shard for; it is to be collected in another turn.
    #[must_use]
    pub fn collect_mail(&mut self, now: Now) -> bool {
        let shards = ShardId::try_from(self.outgoing.len()).unwrap_or(ShardId::MAX);
        let first = self.incoming.first;
        for from in (first..shards).chain(0..first) {
            self.collect_mail_from(now, from);
            if self.is_turn_full() {
                self.incoming.first = (from + 1) % shards;
                return true;
            }
        }
        false
    }

    /// Takes the mail of one shard.
    pub fn collect_mail_from(&mut self, now: Now, from: ShardId) {
        let Some(batch) = self.incoming.batches.get_mut(usize::from(from)) else {
            return;
        };
        let mut mail = std::mem::take(batch);
        if self.deliver_mail(now, &mut mail) {
            self.shared.post.collect(from, self.id, &mut mail);
            self.deliver_mail(now, &mut mail);
        }
        if let Some(batch) = self.incoming.batches.get_mut(usize::from(from)) {
            *batch = mail;
        }
    }

    /// Of the mail that was taken, some is not delivered: the turn was full.
    pub fn has_mail_left(&self) -> bool {
        !self.incoming.batches.iter().all(Mail::is_empty)
    }

    /// Delivers letters until the turn is full. True: all of them, and `mail` is empty.
    fn deliver_mail(&mut self, now: Now, mail: &mut Mail) -> bool {
        let mut last: Option<Rc<Route>> = None;
        mail.read(|letter| {
            if self.is_turn_full() {
                return ControlFlow::Break(());
            }
            match letter {
                Letter::Message(message) => {
                    let route = match last.take() {
                        Some(route)
                            if *route.topic == *message.topic
                                && route.is_current(&self.shared.exchange) =>
                        {
                            route
                        }
                        _ => self.route(message.topic),
                    };
                    self.deliver_from_mail(now, &message, &route, &[]);
                    self.deliver_copies_from_mail(now, &message, &route);
                    last = Some(route);
                }
                Letter::Owned(owned) => {
                    let mut message = MessageRef::from_stored(&owned.message);
                    message.sequence = owned.sequence;
                    message.publisher = owned.publisher;
                    if owned.is_copy {
                        self.deliver_to_owners(now, &message, &owned.owners);
                    } else {
                        let route = self.route(message.topic);
                        self.deliver_from_mail(now, &message, &route, &owned.owners);
                        self.deliver_copies_from_mail(now, &message, &route);
                    }
                }
                Letter::Assigned(assignment) => {
                    let given = self.deliver_assignment(now, assignment);
                    self.carry_out(now, given);
                }
            }
            ControlFlow::Continue(())
        })
    }

    /// Owners were fixed when the message was accepted; sessions that cannot resume are those that match now.
    pub(super) fn deliver_from_mail(
        &mut self,
        now: Now,
        message: &MessageRef<'_>,
        route: &Route,
        owners: &[OwnedDelivery],
    ) {
        self.sinks.frames.begin(route.local.len().max(owners.len()));
        debug_assert!(owners.is_sorted_by_key(|owner| owner.session));
        for delivery in &route.local {
            let Some(terms) = delivery.terms_for(message.publisher) else {
                continue;
            };
            let is_named = || {
                owners
                    .binary_search_by_key(&delivery.session, |owner| owner.session)
                    .is_ok()
            };
            if is_owner(message, delivery)
                || is_named()
                || delivery.has_seen(message.topic, message.sequence)
            {
                continue;
            }
            let grant = Grant {
                qos: terms.qos,
                retain: message.retain && terms.retain_as_published,
                subscription_identifiers: &terms.subscription_identifiers,
                origin: Origin::Direct,
                reserved: 0,
            };
            self.deliver_to(now, message, delivery.session, &grant);
        }
        self.deliver_to_owners(now, message, owners);
    }

    fn deliver_to_owners(&mut self, now: Now, message: &MessageRef<'_>, owners: &[OwnedDelivery]) {
        for owner in owners {
            // What made it an owner counts, not a subscription that has replaced that since [MQTT-3.8.4-4].
            let seen = has_seen(&owner.seen, message.topic, message.sequence);
            let session = self
                .sessions
                .get_mut(owner.session.slot, owner.session.generation);
            let Some(session) = session else {
                // The session ended meanwhile, and its place in the totals with it; only the reservation is left, and what the
                // store may have put in the queue of another session of this client since.
                self.release_reservation(owner.reserved);
                if message.message_id != 0 {
                    self.sinks.journal.push(Operation::Dequeue {
                        owner: Owner::Session(Arc::clone(&owner.client_id)),
                        message_id: message.message_id,
                    });
                }
                continue;
            };
            if seen {
                let mut out: Outputs<'_> = self.sinks.outputs_nowhere(now, &self.shared);
                session.forget_reserved(message.message_id, owner.reserved, &mut out);
                continue;
            }
            let grant = Grant {
                qos: owner.qos,
                retain: owner.retain,
                subscription_identifiers: &owner.subscription_identifiers,
                origin: Origin::Direct,
                reserved: owner.reserved,
            };
            self.deliver_if_allowed(now, message, owner.session, &grant);
        }
    }
}
