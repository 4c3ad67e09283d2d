//! What a session has not sent yet, in order: the head in memory, and what is behind it in the store.
//!
//! Comes in: messages that wait, and pages that the shard reads. Goes out: the next one to send. A message that the store
//! has need not be held: its id and its cost are enough to read it when its turn comes, or to drop it. What only memory
//! has (QoS 0, what a share group gave) is always held; it may overtake what is in the store, since order is promised per
//! topic and QoS [MQTT-4.6.0-5]. It knows neither the store nor when a message may be sent.

use std::collections::VecDeque;

use nightjar_codec::QoS;
use nightjar_storage::{MessageId, QueuedMessage, QueuedState};

use super::inflight::Kept;
use super::quota::QueueTotals;
use super::seldom::Seldom;
use crate::identity::{GroupId, Origin};
use crate::message::stored_cost;

/// The messages of one session that wait.
#[derive(Debug, Default)]
pub struct Queue {
    held: VecDeque<Kept>,
    held_bytes: u64,
    /// How many of `held` are QoS 0: they only wait behind retained messages or a full send buffer.
    qos0: usize,
    /// Behind all of `held` that the store has, too.
    stored: Seldom<VecDeque<InStore>>,
    /// The shard has been asked for the next page.
    pub(crate) is_loading: bool,
    /// How often the next message was looked for in the store and not found there.
    pub(crate) misses: u32,
}

/// A message of which the store has the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InStore {
    pub message_id: MessageId,
    /// What it takes of the session's budget.
    pub cost: u64,
}

/// How much of a queue that is in the store, too, may be held.
#[derive(Clone, Copy, Debug)]
pub struct MemoryLimits {
    /// Of one session.
    pub bytes_max: u64,
    /// Of all sessions.
    pub total_bytes_max: u64,
}

/// What waited longest.
pub enum Oldest {
    Held(Kept),
    InStore(InStore),
}

impl Queue {
    pub fn len(&self) -> usize {
        self.held.len() + self.stored.len()
    }

    pub fn is_empty(&self) -> bool {
        self.held.is_empty() && self.stored.is_empty()
    }

    /// Messages whose text is in memory.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    pub fn has_qos0(&self) -> bool {
        self.qos0 > 0
    }

    /// The next one to send, if it is in memory.
    pub fn front(&self) -> Option<&Kept> {
        self.held.front()
    }

    pub fn pop(&mut self, totals: &QueueTotals) -> Option<Kept> {
        let kept = self.held.pop_front()?;
        self.let_go(&kept, totals);
        Some(kept)
    }

    pub fn pop_oldest(&mut self, totals: &QueueTotals) -> Option<Oldest> {
        match self.pop(totals) {
            Some(kept) => Some(Oldest::Held(kept)),
            None => self.pop_stored().map(Oldest::InStore),
        }
    }

    fn pop_stored(&mut self) -> Option<InStore> {
        if self.stored.is_empty() {
            return None;
        }
        self.stored.pop_front()
    }

    /// Puts a message at the end that is in memory only.
    pub fn push(&mut self, kept: Kept, totals: &QueueTotals) {
        self.held_bytes += kept.reserved;
        totals.hold(kept.reserved);
        self.qos0 += usize::from(kept.qos == QoS::AtMostOnce);
        self.held.push_back(kept);
    }

    /// Puts a message at the end that is in the store, too, or is on its way there. It is held where there is room and
    /// nothing is left out before it.
    pub fn push_stored(&mut self, kept: Kept, limits: &MemoryLimits, totals: &QueueTotals) {
        let has_room = self.stored.is_empty()
            && self.held.len() < HELD_MAX
            && self.held_bytes + kept.reserved <= limits.bytes_max
            && totals.held_bytes() + kept.reserved <= limits.total_bytes_max;
        if has_room {
            self.push(kept, totals);
        } else {
            self.leave(InStore::of(&kept));
        }
    }

    /// Puts a message at the end that is in the store, or on its way there, and does not hold it.
    pub fn leave(&mut self, message: InStore) {
        self.stored.push_back(message);
    }

    /// Puts messages at the end that the store has since an earlier life.
    pub fn restore(&mut self, messages: Vec<InStore>) {
        if messages.is_empty() {
            return;
        }
        self.stored.extend(messages);
    }

    /// Nobody reads this queue: what the store has is not held any longer.
    pub fn leave_to_store(&mut self, totals: &QueueTotals) {
        if self.held.is_empty() {
            return;
        }
        for kept in std::mem::take(&mut self.held).into_iter().rev() {
            if kept.is_in_store() {
                self.let_go(&kept, totals);
                self.stored.push_front(InStore::of(&kept));
            } else {
                self.held.push_front(kept);
            }
        }
        self.held.shrink_to_fit();
    }

    /// Everything in memory is sent, and there is more.
    pub fn needs_page(&self) -> bool {
        self.held.is_empty() && !self.stored.is_empty()
    }

    /// The ids of the next page.
    pub fn next_page(&self) -> Vec<MessageId> {
        let next = self.stored.iter().take(PAGE_MESSAGES);
        next.map(|message| message.message_id).collect()
    }

    /// Takes what was read of the next page, from its first message on.
    pub fn take_page(&mut self, page: Vec<QueuedMessage>, totals: &QueueTotals) {
        for queued in page {
            let Some(next) = self.pop_stored() else {
                return;
            };
            assert!(
                next.message_id == queued.message_id,
                "a page is what was asked for"
            );
            let QueuedState::Waiting(message) = queued.state else {
                debug_assert!(false, "message {} is in flight", next.message_id);
                continue;
            };
            debug_assert!(stored_cost(&message) == next.cost, "a message has one cost");
            let kept = Kept {
                message,
                qos: queued.qos,
                retain: queued.retain,
                subscription_identifiers: queued.subscription_identifiers.into(),
                origin: Origin::Direct,
                reserved: next.cost,
            };
            self.push(kept, totals);
        }
        if self.stored.is_empty() {
            // A queue that was long must not go on taking the room of it.
            self.stored = Seldom::default();
        }
    }

    /// Takes out what this share group gave, or any. Gives what has to go back.
    pub fn take_group_messages(
        &mut self,
        group: Option<GroupId>,
        totals: &QueueTotals,
        mut taken: impl FnMut(GroupId, Kept),
    ) {
        for kept in std::mem::take(&mut self.held) {
            match kept.origin {
                Origin::Group(id) if group.is_none_or(|group| group == id) => {
                    self.let_go(&kept, totals);
                    taken(id, kept);
                }
                _ => self.held.push_back(kept),
            }
        }
    }

    /// Drops everything. Gives what each message had taken of the budget.
    pub fn clear(&mut self, totals: &QueueTotals, mut reserved: impl FnMut(u64)) {
        totals.let_go(self.held_bytes);
        self.held_bytes = 0;
        self.qos0 = 0;
        self.held.drain(..).for_each(|kept| reserved(kept.reserved));
        for message in self.stored.iter() {
            reserved(message.cost);
        }
        self.stored = Seldom::default();
    }

    fn let_go(&mut self, kept: &Kept, totals: &QueueTotals) {
        self.held_bytes -= kept.reserved;
        totals.let_go(kept.reserved);
        self.qos0 -= usize::from(kept.qos == QoS::AtMostOnce);
    }
}

impl Kept {
    /// The store has this copy, under the session's own name.
    pub fn is_in_store(&self) -> bool {
        self.origin == Origin::Direct
            && self.qos > QoS::AtMostOnce
            && self.message.message_id != 0
            && self.reserved > 0
    }
}

impl InStore {
    pub fn of(kept: &Kept) -> Self {
        Self {
            message_id: kept.message.message_id,
            cost: kept.reserved,
        }
    }
}

/// Messages of one session's queue that are held besides being in the store.
const HELD_MAX: usize = 1_000;
/// Messages that are read at once.
const PAGE_MESSAGES: usize = 256;
