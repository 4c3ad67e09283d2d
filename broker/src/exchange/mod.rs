//! The exchange: where a message meets those who want it. Shared by all shards, mostly read.
//!
//! `subscriptions` finds who matches, `delivery` makes a route of it that a shard can cache, `shared` gives one message to
//! one of many, `retained` keeps the last message of a topic. In comes a topic or a topic filter, out come values; nothing
//! here sends, stores or waits. The registry is the only place that decides which shard a client id lives on.

mod arena;
mod buckets;
pub mod delivery;
pub mod retained;
pub mod shared;
pub mod subscriptions;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use dashmap::DashMap;
use nightjar_storage::{MessageId, StoredMessage};

use crate::identity::{GroupId, ShardId};
use crate::session::quota::QueueTotals;
use crate::settings::Settings;
use delivery::Subscriber;
use retained::{RetainedLimits, RetainedStore};
use shared::ShareGroup;
use subscriptions::SubscriptionIndex;

/// What all shards share.
pub struct Exchange {
    pub subscriptions: SubscriptionIndex<Subscriber, Arc<ShareGroup>>,
    pub retained: RetainedStore<StoredMessage>,
    /// Held by whoever reads what is retained for a topic and appends it to the journal, so that the store ends with the last.
    pub retained_order: Mutex<()>,
    /// The store has something, or will have: the clock is worth keeping (D12).
    pub keeps_something: AtomicBool,
    pub totals: QueueTotals,
    /// Sessions, subscriptions and bytes of wills, each against its bound.
    pub sessions: Bounded,
    pub subscription_count: Bounded,
    pub will_bytes: Bounded,
    /// Of the subscriptions, those that are shared.
    pub shared_subscriptions: AtomicU64,
    /// Bytes waiting in all send buffers, as of each shard's last turn.
    pub send_bytes: AtomicU64,
    /// Overlapping subscriptions get a copy each (D23).
    copy_per_subscription: AtomicBool,
    homes: DashMap<Arc<str>, ShardId, foldhash::fast::FixedState>,
    groups: DashMap<GroupId, Arc<ShareGroup>, foldhash::fast::FixedState>,
    shards: ShardId,
    hash_seed: u64,
    next_group: AtomicU64,
    next_message_id: AtomicU64,
}

/// A count that stops at a maximum.
#[derive(Debug)]
pub struct Bounded {
    value: AtomicU64,
    maximum: AtomicU64,
}

impl Exchange {
    /// `hash_seed` is random in production and fixed in a simulation.
    pub fn new(settings: &Settings, shards: ShardId, hash_seed: u64) -> Self {
        let limits = RetainedLimits {
            count_max: settings.retained_count_max,
            bytes_max: settings.retained_bytes_max,
        };
        let hasher = foldhash::fast::FixedState::with_seed(hash_seed);
        Self {
            subscriptions: SubscriptionIndex::new(BUCKETS, hash_seed),
            retained: RetainedStore::new(BUCKETS, hash_seed, limits),
            retained_order: Mutex::default(),
            keeps_something: AtomicBool::new(false),
            totals: QueueTotals::default(),
            sessions: Bounded::new(settings.sessions_max),
            subscription_count: Bounded::new(settings.subscriptions_max),
            will_bytes: Bounded::new(settings.will_bytes_max),
            shared_subscriptions: AtomicU64::new(0),
            send_bytes: AtomicU64::new(0),
            copy_per_subscription: AtomicBool::new(settings.copy_per_subscription),
            homes: DashMap::with_hasher(hasher.clone()),
            groups: DashMap::with_hasher(hasher),
            shards,
            hash_seed,
            next_group: AtomicU64::new(1),
            next_message_id: AtomicU64::new(1),
        }
    }

    /// Takes other bounds, and another answer to overlapping subscriptions.
    pub fn apply(&self, settings: &Settings) {
        let copies = settings.copy_per_subscription;
        if self.copy_per_subscription.swap(copies, Ordering::Relaxed) != copies {
            self.subscriptions.touch_all();
        }
        self.sessions.set_maximum(settings.sessions_max);
        self.subscription_count
            .set_maximum(settings.subscriptions_max);
        self.will_bytes.set_maximum(settings.will_bytes_max);
        self.retained
            .set_limits(settings.retained_count_max, settings.retained_bytes_max);
    }

    /// Whether a session that matches by several subscriptions gets a copy for each.
    pub fn copies_per_subscription(&self) -> bool {
        self.copy_per_subscription.load(Ordering::Relaxed)
    }

    /// The shard a client id lives on, for as long as its session does (D13). `assigned` names the shard for an id that
    /// the server has just made up. Asking leaves nothing behind: whoever asks has not been admitted yet.
    pub fn home(&self, client_id: &str, assigned: Option<ShardId>) -> ShardId {
        if let Some(home) = self.homes.get(client_id) {
            return *home;
        }
        assigned.unwrap_or_else(|| self.hashed_home(client_id))
    }

    /// A session of this client id begins on this shard. Only a home that its hash does not tell has to be remembered.
    pub fn settle(&self, client_id: &Arc<str>, home: ShardId) {
        if home != self.hashed_home(client_id) {
            self.homes.insert(Arc::clone(client_id), home);
        }
    }

    /// The session is gone; the next CONNECT chooses again.
    pub fn forget_home(&self, client_id: &str) {
        self.homes.remove(client_id);
    }

    /// The group of this share name and topic filter, made on first use.
    pub fn group(&self, share_name: &str, topic_filter: &str) -> Arc<ShareGroup> {
        self.subscriptions
            .shared_group(share_name, topic_filter, || {
                let id = GroupId(self.next_group.fetch_add(1, Ordering::Relaxed));
                let group = Arc::new(ShareGroup::new(id, share_name, topic_filter));
                self.groups.insert(id, Arc::clone(&group));
                group
            })
    }

    /// Joins the group of this name. One that closes between finding and joining it is gone from the index by the next
    /// look, so each further round means that another group lost its last member.
    pub fn join_group<T>(
        &self,
        share_name: &str,
        topic_filter: &str,
        join: impl Fn(&Arc<ShareGroup>) -> Option<T>,
    ) -> (Arc<ShareGroup>, T) {
        loop {
            let group = self.group(share_name, topic_filter);
            if let Some(joined) = join(&group) {
                return (group, joined);
            }
        }
    }

    /// Share groups that have members.
    pub fn group_count(&self) -> usize {
        self.groups.len()
    }

    pub fn group_by_id(&self, id: GroupId) -> Option<Arc<ShareGroup>> {
        self.groups.get(&id).map(|group| Arc::clone(&group))
    }

    /// At most `limit` groups in the order in which they were made, from behind `after`.
    pub fn groups_after(&self, after: Option<GroupId>, limit: usize) -> Vec<Arc<ShareGroup>> {
        let mut groups: Vec<_> = self
            .groups
            .iter()
            .filter(|group| after.is_none_or(|after| group.id > after))
            .map(|group| Arc::clone(&group))
            .collect();
        groups.sort_unstable_by_key(|group| group.id);
        groups.truncate(limit);
        groups
    }

    /// Removes a group that has no members left. True: it is gone.
    pub fn remove_group_if_empty(&self, group: &ShareGroup) -> bool {
        let removed = self.subscriptions.remove_shared_group(
            &group.share_name,
            &group.topic_filter,
            // Only this one: by now another of its name may be waiting for its first member.
            |found| found.id == group.id && found.close_if_empty(),
        );
        if removed {
            self.groups.remove(&group.id);
        }
        removed
    }

    pub fn next_message_id(&self) -> MessageId {
        self.next_message_id.fetch_add(1, Ordering::Relaxed)
    }

    /// After a start: ids go on behind the last one in the store.
    pub fn continue_message_ids_after(&self, last: MessageId) {
        self.next_message_id.fetch_max(last + 1, Ordering::Relaxed);
    }

    fn hashed_home(&self, client_id: &str) -> ShardId {
        use std::hash::{BuildHasher, Hasher};
        let mut hasher = foldhash::quality::FixedState::with_seed(self.hash_seed).build_hasher();
        hasher.write(client_id.as_bytes());
        let shards = u64::from(self.shards.max(1));
        ShardId::try_from(hasher.finish() % shards).unwrap_or(0)
    }
}

impl Bounded {
    fn new(maximum: u64) -> Self {
        Self {
            value: AtomicU64::new(0),
            maximum: AtomicU64::new(maximum),
        }
    }

    /// Takes `amount`, unless that would pass the maximum.
    pub fn take(&self, amount: u64) -> bool {
        let before = self.value.fetch_add(amount, Ordering::Relaxed);
        if before.saturating_add(amount) > self.maximum.load(Ordering::Relaxed) {
            self.value.fetch_sub(amount, Ordering::Relaxed);
            return false;
        }
        true
    }

    /// What is there already stays, be it above the new maximum.
    fn set_maximum(&self, maximum: u64) {
        self.maximum.store(maximum, Ordering::Relaxed);
    }

    /// Takes `amount` for what exists already, whatever the maximum.
    pub fn take_anyway(&self, amount: u64) {
        self.value.fetch_add(amount, Ordering::Relaxed);
    }

    pub fn give_back(&self, amount: u64) {
        self.value.fetch_sub(amount, Ordering::Relaxed);
    }

    pub fn value(&self) -> u64 {
        self.value.load(Ordering::Relaxed)
    }
}

const BUCKETS: usize = 64;

#[cfg(test)]
mod tests {
    use nightjar_codec::{QoS, RetainHandling};

    use super::*;
    use crate::identity::SessionId;
    use crate::session::subscribe::Subscription;

    fn id(slot: u32) -> SessionId {
        SessionId {
            shard: 0,
            slot,
            generation: 0,
        }
    }

    #[test]
    fn who_joins_a_share_group_while_its_last_member_leaves_is_in_the_group_that_routes_find() {
        let exchange = Exchange::new(&Settings::default(), 1, 1);
        let subscription = Subscription {
            qos: QoS::AtLeastOnce,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Send,
            subscription_identifier: None,
            group: None,
        };
        let join = |group: &Arc<ShareGroup>, slot| {
            let receiver = Arc::new(crate::session::quota::Receiver::new("c".into(), true));
            let totals = &exchange.totals;
            group.join(id(slot), &subscription, &receiver, Some(1), totals)
        };
        let (old, _) = exchange.join_group("g", "t", |group| join(group, 1));
        let rounds = std::cell::Cell::new(0);
        let (joined, _) = exchange.join_group("g", "t", |group| {
            if rounds.replace(rounds.get() + 1) == 0 {
                old.gone(id(1), true, std::iter::empty(), &exchange.totals);
                assert!(exchange.remove_group_if_empty(&old));
            }
            join(group, 2)
        });
        assert!(rounds.get() == 2 && joined.id != old.id);
        assert!(!exchange.remove_group_if_empty(&old));
        let mut routed = Vec::new();
        exchange
            .subscriptions
            .matching("t", &mut |_, _| {}, &mut |_, group| routed.push(group.id));
        assert_eq!(routed, [joined.id]);
        assert!(exchange.group_by_id(joined.id).is_some());
    }
}
