//! Where overlapping subscriptions get a copy each (D23, `copy_per_subscription`): every copy but the first is a message of its own.
//!
//! A route has layers: each names a session once, and the next one those that match by another subscription still. What is
//! retained, acknowledged or given to share groups is the first layer's message; the others come before it, so that whatever
//! waits for the journal waits for them, too. Plain mail to another shard stands for all layers; the shard resolves them itself.

use std::rc::Rc;

use nightjar_codec::QoS;
use smallvec::SmallVec;

use super::Shard;
use crate::clock::Now;
use crate::exchange::delivery::Route;
use crate::identity::Ticket;
use crate::message::MessageRef;

/// What became of the copies of a message.
#[derive(Default)]
pub(super) struct Copies {
    /// Deliveries that sessions own.
    pub(super) owners: usize,
    /// The batch that makes them true.
    pub(super) ticket: Option<Ticket>,
}

impl Shard {
    /// Owns and delivers all copies but the first.
    #[inline]
    pub(super) fn publish_copies(
        &mut self,
        now: Now,
        message: &MessageRef<'_>,
        route: &Route,
    ) -> Copies {
        let mut copies = Copies::default();
        for layer in &route.copies {
            let (owners, ticket) = self.publish_copy(now, &mut message.copy(), layer);
            copies.owners += owners;
            copies.ticket = copies.ticket.max(ticket);
        }
        copies
    }

    fn publish_copy(
        &mut self,
        now: Now,
        message: &mut MessageRef<'_>,
        layer: &Rc<Route>,
    ) -> (usize, Option<Ticket>) {
        let mut skipped = SmallVec::new();
        let mut owners = 0;
        if message.qos > QoS::AtMostOnce {
            owners = self.reserve(now, message, layer, &mut skipped) - skipped.len();
        }
        let is_owned = message.qos > QoS::AtMostOnce && !message.is_from_broker();
        let mut ticket = None;
        if self.sinks.journal.enabled && is_owned && owners > 0 {
            self.name_for_store(message);
            ticket = self.own(message, layer, &skipped);
        }
        let ticket = ticket.or_else(|| self.ticket_not_to_overtake(message));
        if message.qos == QoS::ExactlyOnce
            && let Some(ticket) = ticket
        {
            self.hold(now, message, layer, ticket, skipped, Vec::new());
        } else {
            self.deliver(now, message, layer, &skipped, None);
        }
        (owners, ticket)
    }

    /// The copies of those sessions here that own none.
    pub(super) fn deliver_copies_from_mail(
        &mut self,
        now: Now,
        message: &MessageRef<'_>,
        route: &Route,
    ) {
        for layer in &route.copies {
            self.deliver_from_mail(now, &message.copy(), layer, &[]);
        }
    }
}
