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
mod tests {
    use super::super::buckets::matches_by_definition;
    use super::*;
    use proptest::prelude::*;
    use std::sync::Arc;

    type Index = SubscriptionIndex<u32, Arc<str>>;

    #[test]
    fn wildcards_match_as_the_specification_says() {
        let cases = [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            (
                "sport/tennis/player1/#",
                "sport/tennis/player1/score/wimbledon",
                true,
            ),
            ("sport/#", "sport", true),
            ("#", "a", true),
            ("#", "/", true),
            ("+", "finance", true),
            ("+", "/finance", false),
            ("/+", "/finance", true),
            ("+/+", "/finance", true),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("sport/tennis/+", "sport/tennis/player1/ranking", false),
            ("+/tennis/#", "sport/tennis", true),
            ("a//b", "a//b", true),
            ("a//b", "a/b", false),
            ("a/+/b", "a//b", true),
            ("A", "a", false),
            ("a/", "a", false),
            ("a", "a/", false),
        ];
        for (topic_filter, topic_name, expected) in cases {
            let index = Index::new(8, 1);
            index.insert(topic_filter, session(1), 0);
            assert_eq!(
                plain(&index, topic_name).len() == 1,
                expected,
                "{topic_filter} {topic_name}"
            );
            assert_eq!(
                matches_by_definition(topic_filter, topic_name),
                expected,
                "{topic_filter} {topic_name}"
            );
            assert_eq!(
                nightjar_codec::topic::matches(topic_filter, topic_name),
                expected,
                "{topic_filter} {topic_name}"
            );
        }
    }

    #[test]
    fn mqtt_4_7_2_1_leading_wildcards_do_not_match_dollar_topics() {
        let index = Index::new(8, 1);
        for (n, topic_filter) in ["#", "+/monitor/Clients", "+/#", "$SYS/#", "$SYS/monitor/+"]
            .into_iter()
            .enumerate()
        {
            index.insert(topic_filter, session(n as u32), 0);
        }
        assert_eq!(
            plain(&index, "$SYS/monitor/Clients"),
            [(session(3), 0), (session(4), 0)]
        );
        assert_eq!(plain(&index, "a/$SYS"), [(session(0), 0), (session(2), 0)]);
    }

    #[test]
    fn an_identical_topic_filter_replaces_and_only_exactly_that_one_is_removed() {
        let index = Index::new(8, 1);
        assert_eq!(index.insert("a/+", session(1), 1), None);
        assert_eq!(index.insert("a/+", session(1), 2), Some(1));
        assert_eq!(index.insert("a/b", session(1), 3), None);
        assert_eq!(index.len(), 2);
        assert_eq!(index.remove("a/c", session(1)), None);
        assert_eq!(index.remove("a", session(1)), None);
        assert_eq!(index.remove("a/+", session(2)), None);
        assert_eq!(plain(&index, "a/b"), [(session(1), 3), (session(1), 2)]);
        assert_eq!(index.remove("a/+", session(1)), Some(2));
        assert_eq!(index.remove("a/+", session(1)), None);
        assert_eq!(plain(&index, "a/b"), [(session(1), 3)]);
        assert!(!index.is_empty());
    }

    #[test]
    fn a_session_with_overlapping_subscriptions_is_named_for_each() {
        let index = Index::new(8, 1);
        for (n, topic_filter) in ["a/b", "a/+", "a/#", "+/b", "#", "+/+", "a/b/#"]
            .into_iter()
            .enumerate()
        {
            index.insert(topic_filter, session(1), n as u32);
        }
        let mut found: Vec<u32> = plain(&index, "a/b").into_iter().map(|(_, n)| n).collect();
        found.sort_unstable();
        assert_eq!(found, [0, 1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn the_order_of_matches_depends_neither_on_the_hash_nor_on_the_order_of_inserts() {
        let filters = ["a/b", "a/+", "a/#", "+/b", "#", "+/+", "a/b/#"];
        let mut orders = Vec::new();
        for (seed, reversed) in [(1, false), (2, true), (99, false)] {
            let index = Index::new(if reversed { 1 } else { 64 }, seed);
            let mut inserts: Vec<(usize, u32)> = (0..filters.len())
                .flat_map(|n| (0..5).map(move |s| (n, s)))
                .collect();
            if reversed {
                inserts.reverse();
            }
            for (n, s) in inserts {
                index.insert(filters[n], session(s), n as u32);
            }
            orders.push(plain(&index, "a/b"));
        }
        assert_eq!(orders[0].len(), 35);
        assert!(orders.windows(2).all(|pair| pair[0] == pair[1]));
    }

    #[test]
    fn a_token_is_stale_after_any_change_that_could_matter_and_only_then() {
        let index = Index::new(64, 1);
        let topics = ["a/b", "$a"];
        let tokens = || topics.map(|topic| index.token(topic));
        let current = |tokens: [RouteToken; 2]| tokens.map(|token| index.is_current(&token));

        let before = tokens();
        assert_eq!(current(before), [true, true]);
        index.insert("a/x", session(1), 1);
        assert_eq!(current(before), [false, true], "the same first level");
        let before = tokens();
        index.insert("a/x", session(1), 2);
        assert_eq!(current(before), [false, true], "replaced options count");
        let before = tokens();
        index.insert("+/x", session(1), 2);
        assert!(!current(before)[0], "a leading wildcard");
        let before = tokens();
        assert_eq!(index.remove("a/x", session(2)), None);
        assert_eq!(index.remove("a/nothing", session(2)), None);
        assert_eq!(current(before), [true, true], "nothing was removed");
        index.remove("a/x", session(1));
        assert_eq!(current(before), [false, true]);

        let before = tokens();
        index.shared_group("g", "a/b", || "g".into());
        assert_eq!(current(before), [false, true]);
        let before = tokens();
        index.shared_group("g", "a/b", || unreachable!("it exists"));
        assert!(!index.remove_shared_group("g", "a/b", |_| false));
        assert!(!index.remove_shared_group("h", "a/b", |_| true));
        assert_eq!(current(before), [true, true]);
        assert!(index.remove_shared_group("g", "a/b", |_| true));
        assert_eq!(current(before), [false, true]);
    }

    #[test]
    fn a_subscribe_leaves_tokens_of_most_other_first_levels_alone() {
        let index = Index::new(64, 1);
        let tokens: Vec<RouteToken> = (0..64).map(|n| index.token(&format!("{n}/x"))).collect();
        index.insert("a/b", session(1), 1);
        let stale = tokens
            .iter()
            .filter(|token| !index.is_current(token))
            .count();
        assert!(
            stale < 8,
            "{stale} of 64 caches were emptied by one SUBSCRIBE"
        );
    }

    #[test]
    fn share_groups_are_kept_by_name_and_filter_beside_plain_subscriptions() {
        let index = Index::new(8, 1);
        index.insert("a/+", session(1), 1);
        for (share_name, topic_filter) in
            [("g2", "a/+"), ("g1", "a/+"), ("g1", "#"), ("g1", "a/b/c")]
        {
            index.shared_group(share_name, topic_filter, || {
                format!("{share_name} {topic_filter}").into()
            });
        }
        assert_eq!(shared(&index, "a/b"), ["g1 a/+", "g2 a/+", "g1 #"]);
        assert_eq!(plain(&index, "a/b"), [(session(1), 1)]);
        assert_eq!(index.len(), 1);

        index.remove("a/+", session(1));
        assert!(index.remove_shared_group("g2", "a/+", |group| &**group == "g2 a/+"));
        assert_eq!(shared(&index, "a/b"), ["g1 a/+", "g1 #"]);
        assert!(index.remove_shared_group("g1", "a/+", |_| true));
        assert!(index.remove_shared_group("g1", "#", |_| true));
        assert!(index.remove_shared_group("g1", "a/b/c", |_| true));
        assert_eq!(index.node_count(), 0);
    }

    #[test]
    fn sixty_five_thousand_empty_levels_are_harmless() {
        let deep = "/".repeat(65_535);
        let plusses = format!("{}+", "+/".repeat(32_767));
        let tail = format!("{}#", "/".repeat(65_534));
        let index = Index::new(8, 1);
        for (n, topic_filter) in [&deep, &plusses, &tail].into_iter().enumerate() {
            index.insert(topic_filter, session(n as u32), 0);
        }
        assert_eq!(plain(&index, &deep), [(session(2), 0), (session(0), 0)]);
        assert_eq!(plain(&index, &"/".repeat(32_767)), [(session(1), 0)]);
        index.remove(&plusses, session(1));
        index.remove(&deep, session(0));
        assert_eq!(plain(&index, &deep), [(session(2), 0)]);
        index.remove(&tail, session(2));
        assert_eq!(index.node_count(), 0);
    }

    #[test]
    fn a_trie_of_any_depth_is_dropped_without_recursion() {
        let deep = format!("{}#", "+/".repeat(200_000));
        // A stack that a recursion 200,000 deep could not live on.
        std::thread::Builder::new()
            .stack_size(128 * 1024)
            .spawn(move || {
                let index = Index::new(8, 1);
                index.insert(&deep, session(1), 0);
                drop(index);
            })
            .unwrap()
            .join()
            .unwrap();
    }

    #[test]
    fn literal_and_wildcard_at_every_level_is_matched_with_a_stack_of_its_own() {
        // Ten levels of {a, +} are 1,024 filters, all of which match one topic.
        let index = Index::new(8, 1);
        for bits in 0..1024_u32 {
            index.insert(&two_to_the_ten(bits), session(bits), bits);
        }
        assert_eq!(plain(&index, "a/a/a/a/a/a/a/a/a/a").len(), 1024);
        assert_eq!(plain(&index, "a/a/a/a/a/a/a/a/a/b").len(), 512);
        for bits in 0..1024_u32 {
            assert_eq!(
                index.remove(&two_to_the_ten(bits), session(bits)),
                Some(bits)
            );
        }
        assert_eq!(index.node_count(), 0);

        fn two_to_the_ten(bits: u32) -> String {
            (0..10)
                .map(|bit| if bits >> bit & 1 == 1 { "+" } else { "a" })
                .collect::<Vec<_>>()
                .join("/")
        }
    }

    #[test]
    fn a_hundred_thousand_subscribers_of_one_filter_come_and_go() {
        let index = Index::new(8, 1);
        for n in 0..100_000 {
            // Scattered, so that neither end of the order is favoured.
            let n = n * 7_919 % 100_000;
            assert_eq!(index.insert("a/b", session(n), n), None);
        }
        let found = plain(&index, "a/b");
        assert_eq!(found.len(), 100_000);
        assert!(found.is_sorted());
        for n in 0..100_000 {
            assert_eq!(index.remove("a/b", session(n)), Some(n));
        }
        assert_eq!((index.len(), index.node_count()), (0, 0));
    }

    #[test]
    fn removal_gives_nodes_and_table_back() {
        let index = Index::new(1, 1);
        let filters: Vec<String> = (0..50_000)
            .map(|n| format!("devices/{n}/a level that is longer than short"))
            .collect();
        for topic_filter in &filters {
            index.insert(topic_filter, session(1), 0);
        }
        assert_eq!(index.node_count(), 1 + 100_000);
        for topic_filter in &filters {
            assert_eq!(index.remove(topic_filter, session(1)), Some(0));
        }
        assert_eq!((index.len(), index.node_count()), (0, 0));
        let capacity = read(&index.literal[0].trie).children.capacity();
        assert!(capacity <= 64, "the table still has room for {capacity}");
    }

    #[test]
    fn a_cached_route_is_never_believed_after_a_subscription_it_misses() {
        use std::sync::atomic::{AtomicU32, Ordering};
        let index = Index::new(4, 1);
        let announced = AtomicU32::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 1..=20_000 {
                    let topic_filter = if n % 2 == 0 { "a/b" } else { "+/b" };
                    index.insert(topic_filter, session(1), n);
                    announced.store(n, Ordering::Release);
                }
            });
            scope.spawn(|| {
                let mut cached = (index.token("a/b"), plain(&index, "a/b"));
                let mut seen = 0;
                while seen < 20_000 {
                    seen = announced.load(Ordering::Acquire);
                    if !index.is_current(&cached.0) {
                        let token = index.token("a/b");
                        cached = (token, plain(&index, "a/b"));
                    }
                    let newest = cached.1.iter().map(|(_, n)| *n).max().unwrap_or(0);
                    assert!(
                        newest >= seen,
                        "subscription {seen} was announced, the cache knows {newest}"
                    );
                }
            });
        });
    }

    #[test]
    fn a_node_stays_small() {
        assert_eq!(size_of::<Level>(), 24);
        let node = size_of::<Node<[u64; 2], Arc<str>>>();
        assert!(node <= 96, "{node} bytes a node");
    }

    proptest! {
        #[test]
        fn matching_agrees_with_the_definition(
            operations in prop::collection::vec((any::<bool>(), filter(), 0..4_u32, any::<u32>()), 1..60),
            topics in prop::collection::vec(topic(), 1..20),
            buckets in 1..5_usize,
            seed in any::<u64>(),
        ) {
            let index = Index::new(buckets, seed);
            let mut model = BTreeMap::new();
            for (insert, topic_filter, s, value) in operations {
                let key = (topic_filter.clone(), session(s));
                if insert {
                    prop_assert_eq!(index.insert(&topic_filter, session(s), value), model.insert(key, value));
                } else {
                    prop_assert_eq!(index.remove(&topic_filter, session(s)), model.remove(&key));
                }
                prop_assert_eq!(index.len(), model.len());
            }
            for topic_name in topics {
                let mut found = plain(&index, &topic_name);
                found.sort_unstable();
                let mut expected: Vec<(SessionId, u32)> = model
                    .iter()
                    .filter(|((topic_filter, _), _)| matches_by_definition(topic_filter, &topic_name))
                    .map(|((_, session), value)| (*session, *value))
                    .collect();
                expected.sort_unstable();
                prop_assert_eq!(found, expected, "{}", topic_name);
            }
            for (topic_filter, session) in model.keys() {
                prop_assert!(index.remove(topic_filter, *session).is_some());
            }
            prop_assert_eq!((index.len(), index.node_count()), (0, 0));
        }
    }

    fn topic() -> impl Strategy<Value = String> {
        prop::collection::vec(prop::sample::select(vec!["a", "b", "", "$x"]), 1..5)
            .prop_map(|levels| levels.join("/"))
    }

    fn filter() -> impl Strategy<Value = String> {
        let levels = prop::collection::vec(
            prop::sample::select(vec!["a", "b", "", "$x", "+", "+"]),
            0..4,
        );
        (levels, prop::sample::select(vec!["a", "", "+", "#"])).prop_map(|(mut levels, last)| {
            levels.push(last);
            levels.join("/")
        })
    }

    fn session(slot: u32) -> SessionId {
        SessionId {
            shard: 0,
            slot,
            generation: 0,
        }
    }

    fn plain(index: &Index, topic_name: &str) -> Vec<(SessionId, u32)> {
        let mut found = Vec::new();
        index.matching(
            topic_name,
            &mut |session, value| found.push((session, *value)),
            &mut |_, _| {},
        );
        found
    }

    fn shared(index: &Index, topic_name: &str) -> Vec<String> {
        let mut found = Vec::new();
        index.matching(topic_name, &mut |_, _| {}, &mut |_, group| {
            found.push(group.to_string())
        });
        found
    }
}
