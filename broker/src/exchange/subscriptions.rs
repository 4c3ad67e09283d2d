//! The subscription index: who is subscribed to a topic.
//!
//! In: topic filters of SUBSCRIBE and UNSUBSCRIBE, and topic names of PUBLISH, all parsed at the door. Out: the subscriptions and
//! share groups that match, in an order that depends on the filters and session ids alone, never on a hash. It does not know what a
//! subscription's options mean, does not merge overlapping subscriptions and chooses no member of a share group.
//!
//! It is split into buckets by the first level of the topic filter; filters that begin with a wildcard have one bucket of their own
//! (D16). A topic is therefore matched in two buckets at most, and each has a generation that every change raises. To cache what a
//! topic resolves to, in this order:
//!
//! 1. [`SubscriptionIndex::token`], 2. [`SubscriptionIndex::matching`], 3. keep both; before each use ask
//!    [`SubscriptionIndex::is_current`].
//!
//! A change that lands between 1 and 2 may be seen by 2, but the token is then stale: the cache is thrown away once too often, never
//! once too seldom. A generation is raised before the bucket's lock is released, so whoever can know that a SUBSCRIBE was accepted
//! finds every older token stale.
//!
//! Each bucket is a trie of levels. Nothing recurses: matching keeps its own stack, nodes live in an arena, and the deepest topic that
//! fits a packet (65,535 empty levels) is a loop like any other. Finding a child is one lookup in one hash table per bucket, keyed by
//! parent and level, so that a node costs the same whether it has one child or a million.
//!
//! Callbacks run under the read lock of a bucket: they must not call back into the index.

use std::collections::BTreeMap;
use std::sync::RwLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use hashbrown::HashTable;
use smallvec::SmallVec;

use super::arena::{Arena, NodeId};
use super::buckets::{
    BucketChoice, LevelHash, begins_with_wildcard, is_hidden_from_wildcards, read, split_level,
    write,
};

pub use crate::identity::SessionId;

/// All subscriptions of all sessions. `S` is what is kept of one subscription, `G` a handle of a share group.
#[derive(Debug)]
pub struct SubscriptionIndex<S, G> {
    choice: BucketChoice,
    literal: Box<[Bucket<S, G>]>,
    wildcard: Bucket<S, G>,
    len: AtomicUsize,
}

/// What the buckets of one topic were like at one moment.
#[derive(Copy, Clone, Debug)]
pub struct RouteToken {
    bucket: usize,
    generation: u64,
    wildcard_generation: u64,
}

impl<S: Clone, G: Clone> SubscriptionIndex<S, G> {
    /// An empty index. The number of buckets is rounded up to a power of two.
    pub fn new(buckets: usize, hash_seed: u64) -> Self {
        let choice = BucketChoice::new(buckets, hash_seed);
        let literal = (0..choice.count()).map(|_| Bucket::new()).collect();
        Self {
            choice,
            literal,
            wildcard: Bucket::new(),
            len: AtomicUsize::new(0),
        }
    }

    /// Adds a subscription, or replaces the one this session has with an identical topic filter, which is returned. [MQTT-3.8.4-3]
    pub fn insert(&self, topic_filter: &str, session: SessionId, subscription: S) -> Option<S> {
        self.bucket_of_filter(topic_filter).change(|trie| {
            let node = trie.find_or_create(self.choice.hash(), topic_filter);
            let previous = trie
                .nodes
                .get_mut(node)
                .subscribers
                .insert(session, subscription);
            if previous.is_none() {
                self.len.fetch_add(1, Ordering::Relaxed);
            }
            (previous, Changed::Yes)
        })
    }

    /// Removes the subscription this session has with exactly this topic filter. [MQTT-3.10.4-1]
    pub fn remove(&self, topic_filter: &str, session: SessionId) -> Option<S> {
        self.bucket_of_filter(topic_filter).change(|trie| {
            let Some(node) = trie.find(self.choice.hash(), topic_filter) else {
                return (None, Changed::No);
            };
            let Some(previous) = trie.nodes.get_mut(node).subscribers.remove(session) else {
                return (None, Changed::No);
            };
            trie.prune(self.choice.hash(), node);
            self.len.fetch_sub(1, Ordering::Relaxed);
            (Some(previous), Changed::Yes)
        })
    }

    /// The share group of this share name and topic filter (without the `$share` part), created if there is none.
    pub fn shared_group(
        &self,
        share_name: &str,
        topic_filter: &str,
        create: impl FnOnce() -> G,
    ) -> G {
        self.bucket_of_filter(topic_filter).change(|trie| {
            let found = trie
                .find(self.choice.hash(), topic_filter)
                .and_then(|node| trie.nodes.get(node).share_groups.as_ref())
                .and_then(|groups| groups.by_share_name.get(share_name));
            if let Some(group) = found {
                return (group.clone(), Changed::No);
            }
            // Before the trie is touched, so that a panic in it leaves no node without a purpose.
            let group = create();
            let node = trie.find_or_create(self.choice.hash(), topic_filter);
            let groups = trie
                .nodes
                .get_mut(node)
                .share_groups
                .get_or_insert_default();
            groups
                .by_share_name
                .insert(share_name.into(), group.clone());
            (group, Changed::Yes)
        })
    }

    /// Removes a share group if `still_empty` says so. It is asked under the bucket's lock, so no one can get the group from
    /// [`Self::shared_group`] between the question and the removal.
    pub fn remove_shared_group(
        &self,
        share_name: &str,
        topic_filter: &str,
        still_empty: impl FnOnce(&G) -> bool,
    ) -> bool {
        let removed = self.bucket_of_filter(topic_filter).change(|trie| {
            let Some(node) = trie.find(self.choice.hash(), topic_filter) else {
                return (None, Changed::No);
            };
            let share_groups = &mut trie.nodes.get_mut(node).share_groups;
            let Some(groups) = share_groups else {
                return (None, Changed::No);
            };
            if !groups
                .by_share_name
                .get(share_name)
                .is_some_and(still_empty)
            {
                return (None, Changed::No);
            }
            let group = groups.by_share_name.remove(share_name);
            if groups.by_share_name.is_empty() {
                *share_groups = None;
            }
            trie.prune(self.choice.hash(), node);
            (group, Changed::Yes)
        });
        // The group itself is dropped here, outside the lock.
        removed.is_some()
    }

    /// What to remember next to a cached result. Take it before [`Self::matching`].
    pub fn token(&self, topic: &str) -> RouteToken {
        let bucket = self.choice.of(topic);
        RouteToken {
            bucket,
            generation: self.literal[bucket].generation.load(Ordering::Acquire),
            wildcard_generation: self.wildcard.generation.load(Ordering::Acquire),
        }
    }

    /// Whether no bucket that could match the token's topic has changed since the token was taken.
    #[inline]
    pub fn is_current(&self, token: &RouteToken) -> bool {
        self.literal[token.bucket]
            .generation
            .load(Ordering::Acquire)
            == token.generation
            && self.wildcard.generation.load(Ordering::Acquire) == token.wildcard_generation
    }

    /// Calls `plain` for every matching subscription and `shared` for every matching share group. A session with overlapping
    /// subscriptions is named once for each.
    pub fn matching(
        &self,
        topic: &str,
        plain: &mut dyn FnMut(SessionId, &S),
        shared: &mut dyn FnMut(&str, &G),
    ) {
        self.literal[self.choice.of(topic)].matching(self.choice.hash(), topic, plain, shared);
        // [MQTT-4.7.2-1]
        if !is_hidden_from_wildcards(topic) {
            self.wildcard
                .matching(self.choice.hash(), topic, plain, shared);
        }
    }

    /// Who gets what this filter matches has changed, though no subscription has: every route through its bucket is made anew.
    pub fn touch(&self, topic_filter: &str) {
        self.bucket_of_filter(topic_filter)
            .generation
            .fetch_add(1, Ordering::Release);
    }

    /// The same for all filters.
    pub fn touch_all(&self) {
        for bucket in self.literal.iter().chain([&self.wildcard]) {
            bucket.generation.fetch_add(1, Ordering::Release);
        }
    }

    /// How many subscriptions there are, those of share groups not counted.
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Whether there is no subscription, those of share groups not counted.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn bucket_of_filter(&self, topic_filter: &str) -> &Bucket<S, G> {
        if begins_with_wildcard(topic_filter) {
            &self.wildcard
        } else {
            &self.literal[self.choice.of(topic_filter)]
        }
    }

    /// Nodes that are not the root of a bucket.
    #[cfg(test)]
    fn node_count(&self) -> usize {
        self.literal
            .iter()
            .chain([&self.wildcard])
            .map(|bucket| read(&bucket.trie).nodes.len() - 1)
            .sum()
    }
}

/// Aligned so that the generations of two buckets, which every publisher reads, never share a cache line.
#[derive(Debug)]
#[repr(align(128))]
struct Bucket<S, G> {
    generation: AtomicU64,
    /// Nodes below the root, written under the lock before the generation is. Zero spares publishers the lock of an empty bucket;
    /// that is most of the work where nobody subscribes with a leading wildcard.
    nodes: AtomicUsize,
    trie: RwLock<Trie<S, G>>,
}

enum Changed {
    Yes,
    No,
}

impl<S, G> Bucket<S, G> {
    fn new() -> Self {
        Self {
            generation: AtomicU64::new(0),
            nodes: AtomicUsize::new(0),
            trie: RwLock::new(Trie::new()),
        }
    }

    fn change<R>(&self, change: impl FnOnce(&mut Trie<S, G>) -> (R, Changed)) -> R {
        let mut trie = write(&self.trie);
        let (result, changed) = change(&mut trie);
        if let Changed::Yes = changed {
            self.nodes.store(trie.nodes.len() - 1, Ordering::Release);
            // While the lock is held: a reader that saw the old trie after this would hold a token that is already stale.
            self.generation.fetch_add(1, Ordering::Release);
        }
        result
    }

    fn matching(
        &self,
        hash: &LevelHash,
        topic: &str,
        plain: &mut dyn FnMut(SessionId, &S),
        shared: &mut dyn FnMut(&str, &G),
    ) {
        if self.nodes.load(Ordering::Acquire) > 0 {
            read(&self.trie).matching(hash, topic, plain, shared);
        }
    }
}

#[derive(Debug)]
struct Trie<S, G> {
    nodes: Arena<Node<S, G>>,
    root: NodeId,
    /// The literal children of all nodes.
    children: HashTable<Child>,
}

/// A node that matches so far, and the levels that are left to match below it.
type Step<'a> = (NodeId, Option<&'a [u8]>);

/// The hash is kept so that growing the table need not visit the nodes.
#[derive(Debug)]
struct Child {
    hash: u32,
    node: NodeId,
}

#[derive(Debug)]
struct Node<S, G> {
    level: Level,
    /// `None` is the root's.
    parent: Option<NodeId>,
    literal_children: u32,
    single_level_wildcard: Option<NodeId>,
    multi_level_wildcard: Option<NodeId>,
    subscribers: Subscribers<S>,
    share_groups: Option<Box<ShareGroups<G>>>,
}

#[derive(Debug)]
struct ShareGroups<G> {
    by_share_name: BTreeMap<Box<str>, G>,
}

impl<G> Default for ShareGroups<G> {
    fn default() -> Self {
        Self {
            by_share_name: BTreeMap::new(),
        }
    }
}

impl<S, G> Trie<S, G> {
    fn new() -> Self {
        let mut nodes = Arena::new();
        let root = nodes.insert(Node::new(None, b""));
        Self {
            nodes,
            root,
            children: HashTable::new(),
        }
    }

    fn matching(
        &self,
        hash: &LevelHash,
        topic: &str,
        plain: &mut dyn FnMut(SessionId, &S),
        shared: &mut dyn FnMut(&str, &G),
    ) {
        // Every node on the way is one that matches the levels so far, and is visited once; at most one node a level waits.
        let mut waiting: SmallVec<[Step<'_>; 16]> = SmallVec::new();
        let mut next = Some((self.root, Some(topic.as_bytes())));
        while let Some((id, rest)) = next.take().or_else(|| waiting.pop()) {
            let node = self.nodes.get(id);
            if let Some(below) = node.multi_level_wildcard {
                // Also where no level is left: `a/#` matches `a`.
                self.nodes.get(below).visit(plain, shared);
            }
            let Some(rest) = rest else {
                node.visit(plain, shared);
                continue;
            };
            let (level, rest) = split_level(rest);
            if let Some(any) = node.single_level_wildcard {
                waiting.push((any, rest));
            }
            if node.literal_children > 0 {
                next = self
                    .literal_child(hash, id, level)
                    .map(|child| (child, rest));
            }
        }
    }

    fn find(&self, hash: &LevelHash, topic_filter: &str) -> Option<NodeId> {
        let mut id = self.root;
        for level in topic_filter.split('/') {
            id = self.child(hash, id, level.as_bytes())?;
        }
        Some(id)
    }

    fn find_or_create(&mut self, hash: &LevelHash, topic_filter: &str) -> NodeId {
        let mut id = self.root;
        for level in topic_filter.split('/') {
            let level = level.as_bytes();
            id = match self.child(hash, id, level) {
                Some(child) => child,
                None => self.create_child(hash, id, level),
            };
        }
        id
    }

    fn child(&self, hash: &LevelHash, parent: NodeId, level: &[u8]) -> Option<NodeId> {
        match level {
            b"+" => self.nodes.get(parent).single_level_wildcard,
            b"#" => self.nodes.get(parent).multi_level_wildcard,
            _ => self.literal_child(hash, parent, level),
        }
    }

    fn literal_child(&self, hash: &LevelHash, parent: NodeId, level: &[u8]) -> Option<NodeId> {
        let short = short_hash(hash, parent, level);
        let found = self.children.find(table_hash(short), |child| {
            child.hash == short && {
                let node = self.nodes.get(child.node);
                node.parent == Some(parent) && node.level.as_bytes() == level
            }
        });
        found.map(|child| child.node)
    }

    fn create_child(&mut self, hash: &LevelHash, parent: NodeId, level: &[u8]) -> NodeId {
        let id = self.nodes.insert(Node::new(Some(parent), level));
        let above = self.nodes.get_mut(parent);
        match level {
            b"+" => above.single_level_wildcard = Some(id),
            b"#" => above.multi_level_wildcard = Some(id),
            _ => {
                above.literal_children += 1;
                let short = short_hash(hash, parent, level);
                let child = Child {
                    hash: short,
                    node: id,
                };
                self.children
                    .insert_unique(table_hash(short), child, |child| table_hash(child.hash));
            }
        }
        id
    }

    /// Removes this node and its ancestors for as long as nothing hangs on them.
    fn prune(&mut self, hash: &LevelHash, mut id: NodeId) {
        while let node = self.nodes.get(id)
            && let Some(parent) = node.parent
            && node.is_empty()
        {
            let node = self.nodes.remove(id);
            let above = self.nodes.get_mut(parent);
            match node.level.as_bytes() {
                b"+" => above.single_level_wildcard = None,
                b"#" => above.multi_level_wildcard = None,
                level => {
                    above.literal_children -= 1;
                    self.forget_literal_child(short_hash(hash, parent, level), id);
                }
            }
            id = parent;
        }
    }

    fn forget_literal_child(&mut self, hash: u32, id: NodeId) {
        let Ok(entry) = self
            .children
            .find_entry(table_hash(hash), |child| child.node == id)
        else {
            unreachable!("every literal child is in the table");
        };
        entry.remove();
        // A table that was large once does not stay large; half full after shrinking, so the next insert does not grow it again.
        if self.children.capacity() > 64 && self.children.len() < self.children.capacity() / 8 {
            self.children
                .shrink_to(self.children.len() * 2, |child| table_hash(child.hash));
        }
    }
}

fn short_hash(hash: &LevelHash, parent: NodeId, level: &[u8]) -> u32 {
    // Truncation is meant.
    hash.hash(parent.number(), level) as u32
}

/// The table takes its tag from the high bits and its place from the low ones.
fn table_hash(hash: u32) -> u64 {
    (u64::from(hash) << 32) | u64::from(hash)
}

impl<S, G> Node<S, G> {
    fn new(parent: Option<NodeId>, level: &[u8]) -> Self {
        Self {
            level: Level::new(level),
            parent,
            literal_children: 0,
            single_level_wildcard: None,
            multi_level_wildcard: None,
            subscribers: Subscribers::None,
            share_groups: None,
        }
    }

    fn is_empty(&self) -> bool {
        self.literal_children == 0
            && self.single_level_wildcard.is_none()
            && self.multi_level_wildcard.is_none()
            && matches!(self.subscribers, Subscribers::None)
            && self.share_groups.is_none()
    }

    fn visit(&self, plain: &mut dyn FnMut(SessionId, &S), shared: &mut dyn FnMut(&str, &G)) {
        match &self.subscribers {
            Subscribers::None => {}
            Subscribers::One(session, subscription) => plain(*session, subscription),
            Subscribers::Many(subscribers) => {
                for (session, subscription) in subscribers {
                    plain(*session, subscription);
                }
            }
        }
        if let Some(groups) = &self.share_groups {
            for (share_name, group) in &groups.by_share_name {
                shared(share_name, group);
            }
        }
    }
}

/// One subscriber is by far the most common number and needs no memory beside the node; a hundred thousand are found in O(log n).
#[derive(Debug)]
enum Subscribers<S> {
    None,
    One(SessionId, S),
    Many(BTreeMap<SessionId, S>),
}

impl<S> Subscribers<S> {
    fn insert(&mut self, session: SessionId, subscription: S) -> Option<S> {
        match self {
            Self::None => {
                *self = Self::One(session, subscription);
                None
            }
            Self::One(only, existing) if *only == session => {
                Some(std::mem::replace(existing, subscription))
            }
            Self::One(..) => {
                let mut subscribers = BTreeMap::from([(session, subscription)]);
                if let Self::One(only, existing) = std::mem::replace(self, Self::None) {
                    subscribers.insert(only, existing);
                }
                *self = Self::Many(subscribers);
                None
            }
            Self::Many(subscribers) => subscribers.insert(session, subscription),
        }
    }

    fn remove(&mut self, session: SessionId) -> Option<S> {
        match self {
            Self::One(only, _) if *only == session => match std::mem::replace(self, Self::None) {
                Self::One(_, existing) => Some(existing),
                _ => None,
            },
            Self::None | Self::One(..) => None,
            Self::Many(subscribers) => {
                let removed = subscribers.remove(&session);
                if subscribers.len() == 1
                    && let Some((only, existing)) = subscribers.pop_first()
                {
                    *self = Self::One(only, existing);
                }
                removed
            }
        }
    }
}

/// The text of one level, inside the node where it is short: comparing it is then no further cache miss, and costs no allocation.
#[derive(Debug)]
enum Level {
    Short {
        length: u8,
        bytes: [u8; LEVEL_SHORT_MAX],
    },
    Long(Box<[u8]>),
}

impl Level {
    fn new(level: &[u8]) -> Self {
        let mut bytes = [0; LEVEL_SHORT_MAX];
        match (bytes.get_mut(..level.len()), u8::try_from(level.len())) {
            (Some(place), Ok(length)) => {
                place.copy_from_slice(level);
                Self::Short { length, bytes }
            }
            _ => Self::Long(level.into()),
        }
    }

    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Short { length, bytes } => &bytes[..usize::from(*length)],
            Self::Long(bytes) => bytes,
        }
    }
}

/// As much as fits beside a tag and a length in the room of a `Box` and two words.
const LEVEL_SHORT_MAX: usize = 22;

#[cfg(test)]
mod tests;
