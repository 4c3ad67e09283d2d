//! Shared subscriptions (4.8.2): one receiver made of many.
//!
//! A group gives each message to one member: those that are connected and have room in their window, in turn. What
//! nobody can take waits in the group's own queue and goes to whoever has room first. QoS 1 that a member did not
//! acknowledge comes back to the front when the member goes; QoS 2 stays with the member once it was sent to it (D8).
//!
//! Members live on several shards, so a group is behind a lock of its own, held for a few instructions and never while
//! anything is sent: calls give back assignments, and the caller's shard carries them out.
//!
//! A message that is to be stored comes in two steps: `accept` takes room for it, and `hand_in` shows it to the members.
//! Between the two the journal has taken it, so no member's shard can be done with it before the journal has heard of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nightjar_codec::QoS;
use nightjar_storage::{MessageId, OwnerEntry, StoredMessage};
use smallvec::SmallVec;

use crate::identity::{GroupId, SessionId};
use crate::message::{MessageRef, stored_cost};
use crate::session::quota::{Budget, QueueLimits, QueueTotals, Receiver};
use crate::session::subscribe::Subscription;
use crate::settings::QueuePolicy;

/// All sessions that share one topic filter under one share name.
pub struct ShareGroup {
    pub id: GroupId,
    pub share_name: Box<str>,
    pub topic_filter: Box<str>,
    budget: Budget,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    members: BTreeMap<SessionId, Member>,
    online: BTreeSet<SessionId>,
    /// Online, not full, and fewer messages given than its window takes.
    ready: BTreeSet<SessionId>,
    last: Option<SessionId>,
    /// What members gave back, before everything in `queue`.
    returned: VecDeque<Arc<StoredMessage>>,
    queue: VecDeque<Arc<StoredMessage>>,
    /// Nothing that waits expires before this.
    earliest_expiry: Option<u64>,
    /// Taken out of the index: nobody may join any more.
    closed: bool,
}

struct Member {
    receiver: Arc<Receiver>,
    qos: QoS,
    retain_as_published: bool,
    subscription_identifier: Option<u32>,
    resumable: bool,
    given: u32,
    window: u32,
    /// Its session had no room for the last message.
    is_full: bool,
}

/// A message for one member.
pub struct Assignment {
    pub group: Arc<ShareGroup>,
    pub session: SessionId,
    pub message: Arc<StoredMessage>,
    pub qos: QoS,
    pub retain: bool,
    pub subscription_identifiers: SmallVec<[u32; 1]>,
}

/// What follows from a change: what members are to be sent, and what nobody will get any more.
#[derive(Default)]
pub struct Decided {
    pub given: Vec<Assignment>,
    pub dropped: Vec<MessageId>,
}

/// Whether a group takes a message that it will be handed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acceptance {
    /// Room is taken; `hand_in` has to follow.
    Taken,
    /// The last member has just left.
    NoMember,
    NoRoom,
}

/// What a group did with a message.
pub enum Offer {
    Assigned(Assignment),
    /// It waits, and with the policy `drop_oldest` these made room for it.
    Queued {
        dropped: Vec<MessageId>,
    },
    /// The last member has just left.
    NoMember,
    /// QoS 0 and nobody is connected, or no room in the queue.
    Dropped,
}

impl ShareGroup {
    pub fn new(id: GroupId, share_name: &str, topic_filter: &str) -> Self {
        Self {
            id,
            share_name: share_name.into(),
            topic_filter: topic_filter.into(),
            budget: Budget::default(),
            state: Mutex::default(),
        }
    }

    /// The group as an owner in the store, of a message of this QoS.
    pub fn owner_entry(&self, qos: QoS) -> OwnerEntry {
        OwnerEntry {
            owner: self.owner(),
            qos,
            retain: false,
            subscription_identifiers: Vec::new(),
        }
    }

    pub fn owner(&self) -> nightjar_storage::Owner {
        nightjar_storage::Owner::Group {
            share_name: self.share_name.clone(),
            topic_filter: self.topic_filter.clone(),
        }
    }

    /// A member that can resume makes the group an owner in its own right (D8).
    pub fn is_resumable(&self) -> bool {
        self.state().members.values().any(|member| member.resumable)
    }

    pub fn queued(&self) -> usize {
        self.state().waiting()
    }

    /// Whether any member may read this topic.
    pub fn may_receive(&self, topic: &str) -> bool {
        let state = self.state();
        state.members.is_empty() || state.anybody_may_receive(topic)
    }

    /// Closes the group to new members, unless it has one. True: it is closed.
    pub fn close_if_empty(&self) -> bool {
        let mut state = self.state();
        state.closed |= state.members.is_empty();
        state.closed
    }

    /// Joins, or changes its options. Gives what the new member is to be sent at once. `None`: the last member left in
    /// the meantime and the group is closed; the index has another by now, or makes one.
    pub fn join(
        self: &Arc<Self>,
        session: SessionId,
        subscription: &Subscription,
        receiver: &Arc<Receiver>,
        online_window: Option<u32>,
        totals: &QueueTotals,
    ) -> Option<Vec<Assignment>> {
        let mut state = self.state();
        if state.closed {
            return None;
        }
        let given = state.members.get(&session).map_or(0, |member| member.given);
        let member = Member {
            receiver: Arc::clone(receiver),
            qos: subscription.qos,
            retain_as_published: subscription.retain_as_published,
            subscription_identifier: subscription.subscription_identifier,
            resumable: receiver.is_resumable(),
            given,
            window: online_window.unwrap_or(0),
            is_full: false,
        };
        state.members.insert(session, member);
        if online_window.is_some() {
            state.online.insert(session);
            state.refresh(session);
        }
        Some(self.drain(&mut state, totals))
    }

    /// The member has a Network Connection again.
    pub fn online(
        self: &Arc<Self>,
        session: SessionId,
        window: u32,
        resumable: bool,
        totals: &QueueTotals,
    ) -> Vec<Assignment> {
        let mut state = self.state();
        if let Some(member) = state.members.get_mut(&session) {
            member.window = window;
            member.is_full = false;
            member.resumable = resumable;
            state.online.insert(session);
            state.refresh(session);
        }
        self.drain(&mut state, totals)
    }

    /// The member's connection closed, or it leaves for good. `returned` is what it did not acknowledge, oldest first. Where
    /// the last member leaves, what waits is dropped.
    pub fn gone(
        self: &Arc<Self>,
        session: SessionId,
        leaves: bool,
        returned: impl DoubleEndedIterator<Item = Arc<StoredMessage>>,
        totals: &QueueTotals,
    ) -> Decided {
        let mut state = self.state();
        state.online.remove(&session);
        state.ready.remove(&session);
        if leaves {
            state.members.remove(&session);
        } else if let Some(member) = state.members.get_mut(&session) {
            member.given = 0;
        }
        for message in returned.rev() {
            self.budget.reserve_anyway(stored_cost(&message), totals);
            state.note_expiry(&message);
            state.returned.push_front(message);
        }
        self.decide(&mut state, totals)
    }

    /// Takes room for a message of QoS 1 or 2 that is to be stored first. What a member would get at once needs none.
    pub fn accept(&self, cost: u64, totals: &QueueTotals, limits: &QueueLimits) -> Acceptance {
        let state = self.state();
        if state.members.is_empty() {
            return Acceptance::NoMember;
        }
        if state.waiting() == 0 && !state.ready.is_empty() {
            self.budget.reserve_anyway(cost, totals);
        } else if !self.budget.reserve(cost, totals, limits) {
            return Acceptance::NoRoom;
        }
        Acceptance::Taken
    }

    /// Shows members a message that was accepted. With the policy `drop_oldest` some that waited may make room for it.
    pub fn hand_in(
        self: &Arc<Self>,
        message: Arc<StoredMessage>,
        totals: &QueueTotals,
        limits: &QueueLimits,
    ) -> Decided {
        let mut state = self.state();
        state.note_expiry(&message);
        state.queue.push_back(message);
        let mut decided = self.decide(&mut state, totals);
        if limits.policy == QueuePolicy::DropOldest {
            decided
                .dropped
                .extend(self.drop_oldest(&mut state, totals, limits));
        }
        decided
    }

    /// One message for one member. QoS 0 goes to any connected member, others to one with room.
    pub fn offer(
        self: &Arc<Self>,
        message: &MessageRef<'_>,
        totals: &QueueTotals,
        limits: &QueueLimits,
    ) -> Offer {
        let mut state = self.state();
        if state.members.is_empty() {
            // A route from before the last member left: what waited here would wait for ever.
            return Offer::NoMember;
        }
        let candidate = if message.qos == QoS::AtMostOnce {
            state.next(|state| &state.online, message.topic)
        } else {
            state.next(|state| &state.ready, message.topic)
        };
        if let Some(session) =
            candidate.filter(|_| state.waiting() == 0 || message.qos == QoS::AtMostOnce)
        {
            state.last = Some(session);
            return match state.assign(self, session, Arc::clone(message.stored())) {
                Some(assignment) => Offer::Assigned(assignment),
                None => Offer::Dropped,
            };
        }
        if message.qos == QoS::AtMostOnce || !self.budget.reserve(message.cost(), totals, limits) {
            return Offer::Dropped;
        }
        state.note_expiry(message.stored());
        state.queue.push_back(Arc::clone(message.stored()));
        Offer::Queued {
            dropped: self.drop_oldest(&mut state, totals, limits),
        }
    }

    /// A member is done with one message and gets the next that waits.
    pub fn finished(self: &Arc<Self>, session: SessionId, totals: &QueueTotals) -> Vec<Assignment> {
        let mut state = self.state();
        if let Some(member) = state.members.get_mut(&session) {
            member.given = member.given.saturating_sub(1);
        }
        state.refresh(session);
        self.drain(&mut state, totals)
    }

    /// The member's session has no room for what it was given: the message waits here, and the member gets none until
    /// `room_again`.
    pub fn declined(
        self: &Arc<Self>,
        session: SessionId,
        message: Arc<StoredMessage>,
        totals: &QueueTotals,
    ) -> Decided {
        let mut state = self.state();
        if let Some(member) = state.members.get_mut(&session) {
            member.given = member.given.saturating_sub(1);
            member.is_full = true;
        }
        state.refresh(session);
        self.budget.reserve_anyway(stored_cost(&message), totals);
        state.note_expiry(&message);
        state.returned.push_back(message);
        self.decide(&mut state, totals)
    }

    /// A member that declined has room for messages.
    pub fn room_again(
        self: &Arc<Self>,
        session: SessionId,
        totals: &QueueTotals,
    ) -> Vec<Assignment> {
        let mut state = self.state();
        if let Some(member) = state.members.get_mut(&session) {
            member.is_full = false;
        }
        state.refresh(session);
        self.drain(&mut state, totals)
    }

    /// Puts back what was read from the store, in order.
    pub fn restore(&self, message: Arc<StoredMessage>, totals: &QueueTotals) {
        self.budget.reserve_anyway(stored_cost(&message), totals);
        let mut state = self.state();
        state.note_expiry(&message);
        state.queue.push_back(message);
    }

    /// Takes messages whose time is over out of the queue.
    pub fn drop_expired(&self, now: u64, totals: &QueueTotals) -> Vec<MessageId> {
        let mut state = self.state();
        let mut dropped = Vec::new();
        if state.earliest_expiry.is_none_or(|at| at > now) {
            return dropped;
        }
        let mut earliest = None;
        let mut stays = |message: &Arc<StoredMessage>| {
            let Some(expires_at) = message.expires_at else {
                return true;
            };
            let expired = expires_at <= now;
            if expired {
                self.budget.release(stored_cost(message), totals);
                dropped.push(message.message_id);
            } else {
                earliest = earliest.into_iter().chain([expires_at]).min();
            }
            !expired
        };
        state.returned.retain(&mut stays);
        state.queue.retain(&mut stays);
        state.earliest_expiry = earliest;
        dropped
    }

    fn drain(self: &Arc<Self>, state: &mut State, totals: &QueueTotals) -> Vec<Assignment> {
        let mut assignments = Vec::new();
        while let Some(first) = state.returned.front().or_else(|| state.queue.front()) {
            let Some(session) = state.next(|state| &state.ready, &first.topic) else {
                break;
            };
            let Some(message) = state.pop() else {
                break;
            };
            self.budget.release(stored_cost(&message), totals);
            state.last = Some(session);
            assignments.extend(state.assign(self, session, message));
        }
        assignments
    }

    /// Gives members what they have room for, or drops everything where there are none.
    fn decide(self: &Arc<Self>, state: &mut State, totals: &QueueTotals) -> Decided {
        let mut dropped = Vec::new();
        while state.members.is_empty()
            && let Some(message) = state.pop()
        {
            self.budget.release(stored_cost(&message), totals);
            dropped.push(message.message_id);
        }
        Decided {
            given: self.drain(state, totals),
            dropped,
        }
    }

    fn drop_oldest(
        &self,
        state: &mut State,
        totals: &QueueTotals,
        limits: &QueueLimits,
    ) -> Vec<MessageId> {
        let mut dropped = Vec::new();
        while state.waiting() > 1 && self.budget.is_over(limits) {
            let Some(oldest) = state.pop() else {
                break;
            };
            self.budget.release(stored_cost(&oldest), totals);
            self.budget.count_dropped();
            dropped.push(oldest.message_id);
        }
        dropped
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change below leaves the state consistent at each step, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The one after the last that may read the topic, around. Where no member may at all, the one after the last: its session
    /// drops the message, and the group is done with it.
    fn next(
        &self,
        among: impl Fn(&Self) -> &BTreeSet<SessionId>,
        topic: &str,
    ) -> Option<SessionId> {
        let among = among(self);
        let after = self.last.map_or(Bound::Unbounded, Bound::Excluded);
        let mut in_turn = among.range((after, Bound::Unbounded)).chain(among);
        let first = in_turn.next()?;
        if self.may_receive(first, topic) {
            return Some(*first);
        }
        in_turn
            .find(|session| self.may_receive(session, topic))
            .or_else(|| (!self.anybody_may_receive(topic)).then_some(first))
            .copied()
    }

    fn may_receive(&self, session: &SessionId, topic: &str) -> bool {
        self.members
            .get(session)
            .is_none_or(|member| member.receiver.may_receive(topic))
    }

    fn anybody_may_receive(&self, topic: &str) -> bool {
        self.members
            .values()
            .any(|member| member.receiver.may_receive(topic))
    }

    fn assign(
        &mut self,
        group: &Arc<ShareGroup>,
        session: SessionId,
        message: Arc<StoredMessage>,
    ) -> Option<Assignment> {
        let member = self.members.get_mut(&session)?;
        let qos = message.qos.min(member.qos);
        let assignment = Assignment {
            group: Arc::clone(group),
            session,
            qos,
            retain: message.retain && member.retain_as_published,
            subscription_identifiers: member.subscription_identifier.into_iter().collect(),
            message,
        };
        member.given += 1;
        self.refresh(session);
        Some(assignment)
    }

    fn waiting(&self) -> usize {
        self.returned.len() + self.queue.len()
    }

    /// What waits longest.
    fn pop(&mut self) -> Option<Arc<StoredMessage>> {
        self.returned.pop_front().or_else(|| self.queue.pop_front())
    }

    fn note_expiry(&mut self, message: &StoredMessage) {
        self.earliest_expiry = self
            .earliest_expiry
            .into_iter()
            .chain(message.expires_at)
            .min();
    }

    fn refresh(&mut self, session: SessionId) {
        let room = self
            .members
            .get(&session)
            .is_some_and(|member| member.given < member.window && !member.is_full);
        if room && self.online.contains(&session) {
            self.ready.insert(session);
        } else {
            self.ready.remove(&session);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nightjar_codec::RetainHandling;

    const LIMITS: QueueLimits = QueueLimits {
        messages_max: 0,
        bytes_max: 0,
        total_bytes_max: 0,
        policy: QueuePolicy::Refuse,
    };

    fn id(slot: u32) -> SessionId {
        SessionId {
            shard: 0,
            slot,
            generation: 0,
        }
    }

    fn group() -> Arc<ShareGroup> {
        Arc::new(ShareGroup::new(GroupId(1), "g", "t"))
    }

    fn join(
        group: &Arc<ShareGroup>,
        slot: u32,
        window: Option<u32>,
        totals: &QueueTotals,
    ) -> Vec<Assignment> {
        let subscription = Subscription {
            qos: QoS::AtLeastOnce,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Send,
            subscription_identifier: None,
            group: None,
        };
        let receiver = Arc::new(Receiver::new("c".into(), true));
        group
            .join(id(slot), &subscription, &receiver, window, totals)
            .expect("the group is open")
    }

    fn offer(group: &Arc<ShareGroup>, payload: &[u8], totals: &QueueTotals) -> Option<u32> {
        match group.offer(
            &MessageRef::new("t", payload, &[], QoS::AtLeastOnce),
            totals,
            &LIMITS,
        ) {
            Offer::Assigned(assignment) => Some(assignment.session.slot),
            Offer::Queued { .. } | Offer::NoMember | Offer::Dropped => None,
        }
    }

    #[test]
    fn members_take_turns_and_the_offline_ones_are_left_out() {
        let (group, totals) = (group(), QueueTotals::default());
        join(&group, 1, Some(10), &totals);
        join(&group, 2, None, &totals);
        join(&group, 3, Some(10), &totals);
        let turns: Vec<_> = (0..4).map(|_| offer(&group, b"x", &totals)).collect();
        assert_eq!(turns, [Some(1), Some(3), Some(1), Some(3)]);
    }

    #[test]
    fn a_message_waits_until_a_window_opens() {
        let (group, totals) = (group(), QueueTotals::default());
        join(&group, 1, Some(1), &totals);
        assert_eq!(offer(&group, b"1", &totals), Some(1));
        assert_eq!(offer(&group, b"2", &totals), None);
        assert_eq!(group.queued(), 1);
        let next = group.finished(id(1), &totals);
        assert_eq!(
            next.iter()
                .map(|next| &*next.message.payload)
                .collect::<Vec<_>>(),
            [b"2"]
        );
        assert_eq!(totals.messages(), 0);
    }

    #[test]
    fn what_a_member_leaves_goes_to_another_in_front_of_what_waits() {
        let (group, totals) = (group(), QueueTotals::default());
        join(&group, 1, Some(1), &totals);
        offer(&group, b"1", &totals);
        offer(&group, b"2", &totals);
        let first = Arc::new(StoredMessage {
            message_id: 0,
            topic: "t".into(),
            payload: bytes::Bytes::from_static(b"1"),
            properties: bytes::Bytes::new(),
            qos: QoS::AtLeastOnce,
            retain: false,
            expires_at: None,
            sequence: 0,
            publisher: None,
        });
        assert!(
            group
                .gone(id(1), false, [first].into_iter(), &totals)
                .given
                .is_empty()
        );
        let given = join(&group, 2, Some(5), &totals);
        assert_eq!(
            given
                .iter()
                .map(|given| &*given.message.payload)
                .collect::<Vec<_>>(),
            [b"1", b"2"]
        );
    }

    fn message(message_id: MessageId) -> Arc<StoredMessage> {
        let mut message = MessageRef::new("t", b"x", &[], QoS::AtLeastOnce);
        message.message_id = message_id;
        Arc::clone(message.stored())
    }

    fn slots(decided: &Decided) -> Vec<u32> {
        let given = decided.given.iter();
        given.map(|given| given.session.slot).collect()
    }

    #[test]
    fn what_is_accepted_is_shown_to_nobody_before_it_is_handed_in() {
        let (group, totals) = (group(), QueueTotals::default());
        join(&group, 1, Some(1), &totals);
        let stored = message(7);
        let cost = stored_cost(&stored);
        assert_eq!(group.accept(cost, &totals, &LIMITS), Acceptance::Taken);
        assert!(group.finished(id(1), &totals).is_empty());
        assert!(join(&group, 2, Some(1), &totals).is_empty());
        assert_eq!(totals.messages(), 1);
        assert_eq!(slots(&group.hand_in(stored, &totals, &LIMITS)), [1]);
        assert_eq!(totals.messages(), 0);
    }

    #[test]
    fn what_is_accepted_takes_room_unless_a_member_has_some() {
        let (group, totals) = (group(), QueueTotals::default());
        let limits = QueueLimits {
            messages_max: 1,
            ..LIMITS
        };
        assert_eq!(group.accept(1, &totals, &limits), Acceptance::NoMember);
        join(&group, 1, None, &totals);
        assert_eq!(group.accept(1, &totals, &limits), Acceptance::Taken);
        assert_eq!(group.accept(1, &totals, &limits), Acceptance::NoRoom);
        join(&group, 2, Some(5), &totals);
        assert_eq!(group.accept(1, &totals, &limits), Acceptance::Taken);
    }

    #[test]
    fn the_last_member_leaves_and_everything_is_named_that_nobody_will_get() {
        let (group, totals) = (group(), QueueTotals::default());
        join(&group, 1, None, &totals);
        let accept = || group.accept(stored_cost(&message(1)), &totals, &LIMITS);
        for message_id in [1, 2] {
            assert_eq!(accept(), Acceptance::Taken);
            let decided = group.hand_in(message(message_id), &totals, &LIMITS);
            assert!(decided.given.is_empty() && decided.dropped.is_empty());
        }
        assert_eq!(accept(), Acceptance::Taken);
        let decided = group.gone(id(1), true, [message(9)].into_iter(), &totals);
        assert_eq!(decided.dropped, [9, 1, 2]);
        // Late for a group that is empty, or closed since.
        assert!(group.close_if_empty());
        let decided = group.hand_in(message(3), &totals, &LIMITS);
        assert_eq!(decided.dropped, [3]);
        assert_eq!((totals.messages(), totals.bytes()), (0, 0));
    }

    #[test]
    fn with_drop_oldest_what_is_handed_in_takes_the_place_of_what_waits_longest() {
        let (group, totals) = (group(), QueueTotals::default());
        let limits = QueueLimits {
            messages_max: 1,
            policy: QueuePolicy::DropOldest,
            ..LIMITS
        };
        join(&group, 1, None, &totals);
        let mut dropped = Vec::new();
        for message_id in 1..=3 {
            let stored = message(message_id);
            let accepted = group.accept(stored_cost(&stored), &totals, &limits);
            assert_eq!(accepted, Acceptance::Taken);
            dropped.extend(group.hand_in(stored, &totals, &limits).dropped);
        }
        assert_eq!((dropped, group.queued()), (vec![1, 2], 1));
    }
}
