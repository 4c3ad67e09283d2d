//! Budgets for messages that are kept. A session's budget is an atomic in the subscription index, so that the
//! publisher's shard reserves before anything is written and the owner's shard releases when the message goes (D9).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::authorize::Access;
use crate::logging::NOTICE;
use crate::settings::{QueuePolicy, Settings};

/// What one owner (a session, a share group) keeps.
#[derive(Debug, Default)]
pub struct Budget {
    messages: AtomicU64,
    bytes: AtomicU64,
    dropped: AtomicU64,
    /// Broker clock at which it may be said again that messages are dropped.
    silent_until: AtomicU64,
}

/// What all owners together keep.
#[derive(Debug, Default)]
pub struct QueueTotals {
    messages: AtomicU64,
    bytes: AtomicU64,
    /// Of `bytes`, what sessions that wait to send it hold in memory.
    held_bytes: AtomicU64,
}

/// The part of a session that other shards see.
#[derive(Debug)]
pub struct Receiver {
    pub client_id: Arc<str>,
    /// The session outlives its connection, so a message for it is owned (D1).
    /// Fixed when the session is made: several threads ask while a message is on its way, and must hear the same.
    resumable: bool,
    pub budget: Budget,
    /// There is something in `access`: without rules nobody takes its lock.
    is_restricted: AtomicBool,
    access: RwLock<Option<Arc<Access>>>,
}

/// The bounds of a [`Budget`]; 0 means no bound.
#[derive(Clone, Copy, Debug)]
pub struct QueueLimits {
    pub messages_max: u64,
    pub bytes_max: u64,
    pub total_bytes_max: u64,
    pub policy: QueuePolicy,
}

impl From<&Settings> for QueueLimits {
    fn from(settings: &Settings) -> Self {
        Self {
            messages_max: settings.queue_messages_max,
            bytes_max: settings.queue_bytes_max,
            total_bytes_max: settings.queue_total_bytes_max,
            policy: settings.queue_policy,
        }
    }
}

impl Receiver {
    pub fn new(client_id: Arc<str>, resumable: bool) -> Self {
        Self {
            client_id,
            resumable,
            budget: Budget::default(),
            is_restricted: AtomicBool::new(false),
            access: RwLock::default(),
        }
    }

    pub fn is_resumable(&self) -> bool {
        self.resumable
    }

    /// Says that a message for this client was dropped, in Mosquitto's words and not for each one. Any shard may find that out.
    pub fn log_dropped(&self, now: u64) {
        if now < self.budget.silent_until.load(Ordering::Relaxed) {
            return;
        }
        let next = now + DROPPED_LINE_MILLISECONDS;
        if self.budget.silent_until.swap(next, Ordering::Relaxed) != next {
            tracing::info!(
                target: NOTICE,
                "Outgoing messages are being dropped for client {}.",
                self.client_id.escape_debug()
            );
        }
    }

    /// Other shards believe routes that they made of what it was before until its subscriptions' generations are raised.
    pub fn set_access(&self, access: Option<Arc<Access>>) {
        let is_restricted = access.is_some();
        let mut place = self.access.write().unwrap_or_else(PoisonError::into_inner);
        *place = access;
        self.is_restricted.store(is_restricted, Ordering::Release);
    }

    /// Whether messages of this topic are for it at all.
    pub fn may_receive(&self, topic: &str) -> bool {
        if !self.is_restricted.load(Ordering::Acquire) {
            return true;
        }
        let access = self.access.read().unwrap_or_else(PoisonError::into_inner);
        access
            .as_ref()
            .is_none_or(|access| access.may_receive(topic))
    }
}

impl Budget {
    /// Takes room for one message of `bytes`. With `drop_oldest` there is always room: the owner makes it.
    /// False: no room, counted as dropped here.
    pub fn reserve(&self, bytes: u64, totals: &QueueTotals, limits: &QueueLimits) -> bool {
        let messages_before = self.messages.fetch_add(1, Ordering::Relaxed);
        let bytes_before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let total_before = totals.bytes.fetch_add(bytes, Ordering::Relaxed);
        totals.messages.fetch_add(1, Ordering::Relaxed);
        let over = (limits.messages_max > 0 && messages_before >= limits.messages_max)
            || (limits.bytes_max > 0 && bytes_before.saturating_add(bytes) > limits.bytes_max);
        let over_total = limits.total_bytes_max > 0
            && total_before.saturating_add(bytes) > limits.total_bytes_max;
        if over_total || (over && limits.policy != QueuePolicy::DropOldest) {
            self.release(bytes, totals);
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        true
    }

    /// Takes room only where some is free, whatever the policy. False: no room; nothing is dropped for it, and nothing counted.
    pub fn reserve_if_free(&self, bytes: u64, totals: &QueueTotals, limits: &QueueLimits) -> bool {
        self.reserve_anyway(bytes, totals);
        let over_total = limits.total_bytes_max > 0 && totals.bytes() > limits.total_bytes_max;
        if over_total || self.is_over(limits) {
            self.release(bytes, totals);
            return false;
        }
        true
    }

    /// Takes room for a message that is already owned, bound or not.
    pub fn reserve_anyway(&self, bytes: u64, totals: &QueueTotals) {
        self.reserve_many_anyway(1, bytes, totals);
    }

    /// The same for many at once.
    pub fn reserve_many_anyway(&self, messages: u64, bytes: u64, totals: &QueueTotals) {
        self.messages.fetch_add(messages, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        totals.messages.fetch_add(messages, Ordering::Relaxed);
        totals.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Gives back what `reserve` took.
    pub fn release(&self, bytes: u64, totals: &QueueTotals) {
        self.messages.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        totals.messages.fetch_sub(1, Ordering::Relaxed);
        totals.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// As `release`, for a message that may not have taken anything.
    pub fn release_if(&self, reserved: u64, totals: &QueueTotals) {
        if reserved > 0 {
            self.release(reserved, totals);
        }
    }

    /// Whether more is kept than the bounds allow; an owner with the policy `drop_oldest` then has to make room.
    pub fn is_over(&self, limits: &QueueLimits) -> bool {
        (limits.messages_max > 0 && self.messages() > limits.messages_max)
            || (limits.bytes_max > 0 && self.bytes() > limits.bytes_max)
    }

    pub fn count_dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    pub fn messages(&self) -> u64 {
        self.messages.load(Ordering::Relaxed)
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl QueueTotals {
    pub fn hold(&self, bytes: u64) {
        self.held_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn let_go(&self, bytes: u64) {
        self.held_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub fn held_bytes(&self) -> u64 {
        self.held_bytes.load(Ordering::Relaxed)
    }

    /// Gives back one message of an owner that is gone itself.
    pub fn release(&self, bytes: u64) {
        self.messages.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub fn messages(&self) -> u64 {
        self.messages.load(Ordering::Relaxed)
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// Between two lines about the same client.
const DROPPED_LINE_MILLISECONDS: u64 = 60_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(messages_max: u64, bytes_max: u64, policy: QueuePolicy) -> QueueLimits {
        QueueLimits {
            messages_max,
            bytes_max,
            total_bytes_max: 1000,
            policy,
        }
    }

    #[test]
    fn a_refused_reservation_takes_nothing_and_is_counted() {
        let (budget, totals) = (Budget::default(), QueueTotals::default());
        let limits = limits(1, 0, QueuePolicy::Refuse);
        assert!(budget.reserve(10, &totals, &limits));
        assert!(!budget.reserve(10, &totals, &limits));
        assert_eq!(
            (budget.messages(), budget.bytes(), budget.dropped()),
            (1, 10, 1)
        );
        assert_eq!((totals.messages(), totals.bytes()), (1, 10));
    }

    #[test]
    fn drop_oldest_takes_room_and_says_that_some_must_be_made() {
        let (budget, totals) = (Budget::default(), QueueTotals::default());
        let limits = limits(1, 0, QueuePolicy::DropOldest);
        assert!(budget.reserve(10, &totals, &limits) && budget.reserve(10, &totals, &limits));
        assert!(budget.is_over(&limits));
        budget.release(10, &totals);
        assert!(!budget.is_over(&limits));
    }

    #[test]
    fn the_total_bounds_every_policy() {
        let (budget, totals) = (Budget::default(), QueueTotals::default());
        assert!(!budget.reserve(1001, &totals, &limits(0, 0, QueuePolicy::DropOldest)));
        assert_eq!(totals.bytes(), 0);
    }
}
