//! Who gets a topic: the matching subscriptions, merged to one delivery a session, as one shard sees them.
//!
//! A [`Route`] is computed once and cached by the shard under the topic; it is believed as long as the generations of the
//! buckets it came from stand still (D16). Overlapping subscriptions of a session become one copy at the highest granted
//! QoS with all Subscription Identifiers (D23, [MQTT-3.3.4-2], [MQTT-3.3.4-3]), or, where that is set, a copy each.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};

use nightjar_codec::QoS;
use nightjar_storage::OwnerEntry;
use smallvec::SmallVec;

use super::Exchange;
use super::retained::{Sequence, Snapshot};
use super::shared::ShareGroup;
use super::subscriptions::RouteToken;
use crate::identity::{SessionId, ShardId};
use crate::session::quota::Receiver;
use crate::session::subscribe::Subscription;

/// One subscription in the index.
#[derive(Clone)]
pub struct Subscriber {
    pub qos: QoS,
    pub no_local: bool,
    pub retain_as_published: bool,
    pub subscription_identifier: Option<u32>,
    pub receiver: Arc<Receiver>,
    /// What the retained messages of its SUBSCRIBE have shown already; empty where none were asked for (D17).
    pub seen: Arc<OnceLock<Snapshot>>,
}

/// Everybody who gets one topic.
pub struct Route {
    pub topic: Box<str>,
    token: RouteToken,
    /// Sessions of this shard, by slot.
    pub local: Vec<Delivery>,
    /// Sessions of other shards, by shard.
    pub remote: Vec<Delivery>,
    pub remote_shards: SmallVec<[ShardId; 4]>,
    pub groups: SmallVec<[Arc<ShareGroup>; 1]>,
    /// Where overlapping subscriptions get a copy each: the second copies, the third ones and so on.
    pub copies: Vec<Rc<Self>>,
    /// It is one of another's `copies`.
    pub is_copy: bool,
    /// Deliveries, those of `copies` with them: asked for by every message.
    len: usize,
    /// Sessions and share groups that subscribe to the topic and may not read it.
    pub denied: u32,
    /// No publisher gets a copy on other terms than everybody's.
    is_the_same_for_all: bool,
    /// See [`Self::owners`]; at QoS 1 and 2.
    owners: [OnceCell<Arc<[OwnerEntry]>>; 2],
}

/// One session's terms.
pub struct Delivery {
    pub session: SessionId,
    pub terms: Terms,
    /// What its own publishes get, where No Local makes a difference.
    pub own: OwnCopy,
    pub receiver: Arc<Receiver>,
    pub(crate) seen: SmallVec<[Arc<OnceLock<Snapshot>>; 1]>,
}

#[derive(Clone, Debug)]
pub struct Terms {
    pub qos: QoS,
    pub retain_as_published: bool,
    pub subscription_identifiers: Box<[u32]>,
}

/// [MQTT-3.8.3-3]
pub enum OwnCopy {
    Same,
    None,
    Other(Box<Terms>),
}

impl Route {
    /// Looks the topic up in the index.
    pub fn resolve(exchange: &Exchange, topic: &str, shard: ShardId) -> Self {
        let token = exchange.subscriptions.token(topic);
        let copy_each = exchange.copies_per_subscription();
        // Empty: it may not read the topic. More than one: a copy each.
        let mut merged: BTreeMap<SessionId, SmallVec<[Merging; 1]>> = BTreeMap::new();
        let mut groups = SmallVec::new();
        let mut denied = 0;
        exchange.subscriptions.matching(
            topic,
            &mut |session, subscriber| match merged.get_mut(&session) {
                Some(copies) if copy_each && !copies.is_empty() => {
                    copies.push(Merging::new(subscriber));
                }
                Some(copies) => {
                    if let Some(merging) = copies.first_mut() {
                        merging.add(subscriber);
                    }
                }
                None => {
                    let may_receive = subscriber.receiver.may_receive(topic);
                    let copies = may_receive.then(|| Merging::new(subscriber));
                    merged.insert(session, copies.into_iter().collect());
                }
            },
            &mut |_, group: &Arc<ShareGroup>| {
                if group.may_receive(topic) {
                    groups.push(Arc::clone(group));
                } else {
                    denied += 1;
                }
            },
        );
        let mut route = Self::empty(topic, token);
        route.groups = groups;
        route.denied = denied;
        let mut layers: Vec<Self> = Vec::new();
        for (session, copies) in merged {
            if copies.is_empty() {
                route.denied += 1;
            }
            for (depth, merging) in copies.into_iter().enumerate() {
                let delivery = merging.finish(session);
                let Some(depth) = depth.checked_sub(1) else {
                    route.add(delivery, shard);
                    continue;
                };
                if depth == layers.len() {
                    layers.push(Self {
                        is_copy: true,
                        ..Self::empty(topic, token)
                    });
                }
                if let Some(layer) = layers.get_mut(depth) {
                    layer.add(delivery, shard);
                }
            }
        }
        route.copies = layers.into_iter().map(Rc::new).collect();
        route.len = route
            .layers()
            .map(|layer| layer.local.len() + layer.remote.len())
            .sum();
        route
    }

    fn empty(topic: &str, token: RouteToken) -> Self {
        Self {
            topic: topic.into(),
            token,
            local: Vec::new(),
            remote: Vec::new(),
            remote_shards: SmallVec::new(),
            groups: SmallVec::new(),
            copies: Vec::new(),
            is_copy: false,
            len: 0,
            denied: 0,
            is_the_same_for_all: true,
            owners: Default::default(),
        }
    }

    /// In the order of sessions.
    fn add(&mut self, delivery: Delivery, shard: ShardId) {
        self.is_the_same_for_all &= matches!(delivery.own, OwnCopy::Same);
        let session = delivery.session;
        if session.shard == shard {
            self.local.push(delivery);
            return;
        }
        if self.remote_shards.last() != Some(&session.shard) {
            self.remote_shards.push(session.shard);
        }
        self.remote.push(delivery);
    }

    /// The route itself, and its `copies`.
    pub fn layers(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self).chain(self.copies.iter().map(Rc::as_ref))
    }

    pub fn is_current(&self, exchange: &Exchange) -> bool {
        exchange.subscriptions.is_current(&self.token)
    }

    /// Copies that sessions get of a message.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The owners of a message of this QoS without RETAIN, listed once: every message along this route shares the list.
    /// `None` where it depends on the publisher.
    pub fn owners(
        &self,
        qos: QoS,
        list: impl FnOnce() -> Arc<[OwnerEntry]>,
    ) -> Option<Arc<[OwnerEntry]>> {
        let [at_least_once, exactly_once] = &self.owners;
        let listed = match qos {
            QoS::AtMostOnce => return None,
            QoS::AtLeastOnce => at_least_once,
            QoS::ExactlyOnce => exactly_once,
        };
        self.is_the_same_for_all
            .then(|| Arc::clone(listed.get_or_init(list)))
    }

    /// Nobody subscribes to the topic.
    pub fn is_empty(&self) -> bool {
        self.local.is_empty() && self.remote.is_empty() && self.groups.is_empty()
    }
}

impl Delivery {
    /// The terms for a message of this publisher; `None`: No Local.
    pub fn terms_for(&self, publisher: Option<SessionId>) -> Option<&Terms> {
        if publisher != Some(self.session) {
            return Some(&self.terms);
        }
        match &self.own {
            OwnCopy::Same => Some(&self.terms),
            OwnCopy::None => None,
            OwnCopy::Other(terms) => Some(terms),
        }
    }

    /// The retained messages of the SUBSCRIBE have shown this state already: the live copy would be the second (D17).
    pub fn has_seen(&self, topic: &str, sequence: Sequence) -> bool {
        has_seen(&self.seen, topic, sequence)
    }
}

/// Whether all subscriptions that `seen` belongs to have shown this state already.
pub(crate) fn has_seen(seen: &[Arc<OnceLock<Snapshot>>], topic: &str, sequence: Sequence) -> bool {
    sequence != 0
        && !seen.is_empty()
        && seen
            .iter()
            .all(|seen| seen.get().is_some_and(|seen| seen.covers(topic, sequence)))
}

/// One session's matching subscriptions, being merged.
struct Merging {
    all: Terms,
    without_no_local: Option<Terms>,
    any_no_local: bool,
    receiver: Arc<Receiver>,
    seen: SmallVec<[Arc<OnceLock<Snapshot>>; 1]>,
}

impl Merging {
    fn new(subscriber: &Subscriber) -> Self {
        let mut merging = Self {
            all: Terms::default(),
            without_no_local: None,
            any_no_local: false,
            receiver: Arc::clone(&subscriber.receiver),
            seen: SmallVec::new(),
        };
        merging.add(subscriber);
        merging
    }

    fn add(&mut self, subscriber: &Subscriber) {
        self.seen.push(Arc::clone(&subscriber.seen));
        self.all.add(subscriber);
        if subscriber.no_local {
            self.any_no_local = true;
        } else {
            let terms = self.without_no_local.get_or_insert_with(Terms::default);
            terms.add(subscriber);
        }
    }

    fn finish(self, session: SessionId) -> Delivery {
        let own = match (self.any_no_local, self.without_no_local) {
            (false, _) => OwnCopy::Same,
            (true, None) => OwnCopy::None,
            (true, Some(terms)) => OwnCopy::Other(Box::new(terms)),
        };
        Delivery {
            session,
            terms: self.all,
            own,
            receiver: self.receiver,
            seen: self.seen,
        }
    }
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            qos: QoS::AtMostOnce,
            retain_as_published: false,
            subscription_identifiers: Box::default(),
        }
    }
}

impl Terms {
    fn add(&mut self, subscriber: &Subscriber) {
        self.qos = self.qos.max(subscriber.qos);
        self.retain_as_published |= subscriber.retain_as_published;
        if let Some(identifier) = subscriber.subscription_identifier {
            let mut identifiers = std::mem::take(&mut self.subscription_identifiers).into_vec();
            identifiers.push(identifier);
            self.subscription_identifiers = identifiers.into();
        }
    }
}

impl Subscriber {
    pub fn new(subscription: &Subscription, receiver: &Arc<Receiver>) -> Self {
        Self {
            qos: subscription.qos,
            no_local: subscription.no_local,
            retain_as_published: subscription.retain_as_published,
            subscription_identifier: subscription.subscription_identifier,
            receiver: Arc::clone(receiver),
            seen: Arc::default(),
        }
    }
}
