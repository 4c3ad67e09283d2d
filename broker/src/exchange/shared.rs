//! Shared subscriptions (4.8.2): one receiver made of many.
//!
//! A group gives each message to one member: those that are connected and have room in their window, in turn. What
//! nobody can take waits in the group's own queue and goes to whoever has room first. QoS 1 that a member did not
//! acknowledge comes back to the front when the member goes; QoS 2 stays with the member once it was sent to it (D8).
//! Members may differ in what they may read: a message goes to one who may, and one that waits for such a member is passed over
//! for those who may read what is behind it. Rights are about topics, so each topic keeps its order. How far a member has looked
//! in vain is remembered: nothing is looked at twice for the same member as long as its rights are the same.
//!
//! Members live on several shards, so a group is behind a lock of its own, held for a few instructions and never while
//! anything is sent: calls give back assignments, and the caller's shard carries them out.
//!
//! A message that is to be stored comes in two steps: `accept` takes room for it, and `hand_in` shows it to the members.
//! Between the two the journal has taken it, so no member's shard can be done with it before the journal has heard of it.

use std::collections::{BTreeMap, BTreeSet};
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

struct State {
    members: BTreeMap<SessionId, Member>,
    online: BTreeSet<SessionId>,
    /// Online, not full, and fewer messages given than its window takes.
    ready: BTreeSet<SessionId>,
    last: Option<SessionId>,
    /// In the order in which they are to go: below 0 what members gave back, then what came.
    waiting: BTreeMap<Place, Arc<StoredMessage>>,
    /// Where the next message stands that came, that was given back, and that a member who went gives back.
    next: Place,
    next_returned: Place,
    next_in_front: Place,
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
    /// Of what was given back, and of what came: nothing that waits before this is for this member.
    looked: [Place; 2],
}

/// Where a message stands among those that wait.
type Place = i64;

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
    /// It waits, or goes the way of what waits; with the policy `drop_oldest` some made room for it.
    Queued {
        given: Vec<Assignment>,
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
        self.state().waiting.len()
    }

    /// Whether any member may read this topic.
    pub fn may_receive(&self, topic: &str) -> bool {
        let state = self.state();
        state.members.is_empty() || state.anybody_may_receive(topic)
    }

    /// Members may read something else than before.
    pub fn rights_changed(self: &Arc<Self>, totals: &QueueTotals) -> Vec<Assignment> {
        let mut state = self.state();
        state.look_again();
        self.drain(&mut state, totals)
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
            looked: NOT_YET,
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
            member.looked = NOT_YET;
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
            // What only this one could read is nobody's any more.
            state.look_again();
        } else if let Some(member) = state.members.get_mut(&session) {
            member.given = 0;
        }
        for message in returned.rev() {
            self.budget.reserve_anyway(stored_cost(&message), totals);
            state.put_in_front(message);
        }
        self.decide(&mut state, totals)
    }

    /// Takes room for a message of QoS 1 or 2 that is to be stored first. What a member would get at once needs none.
    pub fn accept(
        &self,
        topic: &str,
        cost: u64,
        totals: &QueueTotals,
        limits: &QueueLimits,
    ) -> Acceptance {
        let state = self.state();
        if state.members.is_empty() {
            return Acceptance::NoMember;
        }
        if state.next(|state| &state.ready, topic).is_some() {
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
        state.put_last(message);
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
            candidate.filter(|_| state.waiting.is_empty() || message.qos == QoS::AtMostOnce)
        {
            state.last = Some(session);
            return match state.assign(self, session, Arc::clone(message.stored())) {
                Some(assignment) => Offer::Assigned(assignment),
                None => Offer::Dropped,
            };
        }
        if candidate.is_some() {
            // Others wait, for members who may read them: it only passes through.
            self.budget.reserve_anyway(message.cost(), totals);
        } else if message.qos == QoS::AtMostOnce
            || !self.budget.reserve(message.cost(), totals, limits)
        {
            return Offer::Dropped;
        }
        state.put_last(Arc::clone(message.stored()));
        let given = self.drain(&mut state, totals);
        Offer::Queued {
            given,
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
        state.put_behind_returned(message);
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
        self.state().put_last(message);
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
        state.waiting.retain(|_, message| stays(message));
        state.earliest_expiry = earliest;
        dropped
    }

    fn drain(self: &Arc<Self>, state: &mut State, totals: &QueueTotals) -> Vec<Assignment> {
        let mut assignments = Vec::new();
        while let Some((place, session)) = state.next_pair() {
            let Some(message) = state.waiting.remove(&place) else {
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
        while state.waiting.len() > 1 && self.budget.is_over(limits) {
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

    /// The first message that waits and that a member with room may read, and that member.
    fn next_pair(&mut self) -> Option<(Place, SessionId)> {
        let (first, message) = self.waiting.first_key_value()?;
        if let Some(session) = self.next(|state| &state.ready, &message.topic) {
            return Some((*first, session));
        }
        let ready: SmallVec<[SessionId; 8]> = self.ready.iter().copied().collect();
        let places = ready
            .iter()
            .filter_map(|session| self.first_readable(*session));
        let place = places.min()?;
        let message = self.waiting.get(&place)?;
        let session = self.next(|state| &state.ready, &message.topic)?;
        Some((place, session))
    }

    /// The first message that waits and that this member may read, or nobody.
    fn first_readable(&mut self, session: SessionId) -> Option<Place> {
        let [mut returned, mut came] = self.members.get(&session)?.looked;
        let is_for_it = |(_, message): &(&Place, &Arc<StoredMessage>)| {
            self.may_receive(&session, &message.topic) || !self.anybody_may_receive(&message.topic)
        };
        let mut found = self
            .waiting
            .range(returned..FIRST)
            .find(is_for_it)
            .map(|(place, _)| *place);
        returned = found.unwrap_or(self.next_returned);
        if found.is_none() {
            found = self
                .waiting
                .range(came.max(FIRST)..)
                .find(is_for_it)
                .map(|(place, _)| *place);
            came = found.unwrap_or(self.next);
        }
        if let Some(member) = self.members.get_mut(&session) {
            member.looked = [returned, came];
        }
        found
    }

    /// Nothing is known of what members may read.
    fn look_again(&mut self) {
        for member in self.members.values_mut() {
            member.looked = NOT_YET;
        }
    }

    /// Behind everything.
    fn put_last(&mut self, message: Arc<StoredMessage>) {
        self.note_expiry(&message);
        self.waiting.insert(self.next, message);
        self.next += 1;
    }

    /// Behind what was given back, and before what came.
    fn put_behind_returned(&mut self, message: Arc<StoredMessage>) {
        self.note_expiry(&message);
        self.waiting.insert(self.next_returned, message);
        self.next_returned += 1;
    }

    /// Before everything.
    fn put_in_front(&mut self, message: Arc<StoredMessage>) {
        self.note_expiry(&message);
        self.waiting.insert(self.next_in_front, message);
        for member in self.members.values_mut() {
            let [returned, _] = &mut member.looked;
            *returned = (*returned).min(self.next_in_front);
        }
        self.next_in_front -= 1;
    }

    /// What waits longest.
    fn pop(&mut self) -> Option<Arc<StoredMessage>> {
        self.waiting.pop_first().map(|(_, message)| message)
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

impl Default for State {
    fn default() -> Self {
        Self {
            members: BTreeMap::new(),
            online: BTreeSet::new(),
            ready: BTreeSet::new(),
            last: None,
            waiting: BTreeMap::new(),
            next: FIRST,
            next_returned: RETURNED,
            next_in_front: RETURNED - 1,
            earliest_expiry: None,
            closed: false,
        }
    }
}

/// Where the first message stands that came.
const FIRST: Place = 0;
/// Around this stands what was given back. No process lives for as many messages as are between the two.
const RETURNED: Place = Place::MIN / 2;
const NOT_YET: [Place; 2] = [Place::MIN, FIRST];

#[cfg(test)]
mod tests;
