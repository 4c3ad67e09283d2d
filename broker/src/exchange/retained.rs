//! The retained store: the last retained Application Message of each topic.
//!
//! In: topic names of PUBLISH and topic filters of SUBSCRIBE, parsed at the door, and messages it never looks into. Out: what was
//! stored, ordered by topic. It knows nothing of sessions, QoS or Retain Handling, and it does not write to disk.
//!
//! **Shape.** Buckets by first level, as the subscription index has (D16). A bucket is one ordered map, in which `/` is kept as the
//! byte 0. U+0000 cannot occur in a topic [MQTT-1.5.4-2] and sorts before all that can, so the order of the bytes is the order level
//! by level, and all topics below a level lie side by side. A filter is matched by walking the map and leaping over every range in
//! which it cannot match. There is no node per level: a topic of 65,535 empty levels costs its length, and nothing recurses.
//!
//! **Retained against subscribe (D17).** Every change takes its sequence from one counter while it holds the lock of its bucket, and a
//! read notes the counter while it holds that lock too. So a change with a sequence up to the noted one was seen by the read, and one
//! with a greater sequence was not. The order of calls that makes a SUBSCRIBE see each state exactly once:
//!
//! - publisher: [`RetainedStore::store`], then find the subscriptions (a cached route is checked after `store`), then deliver;
//! - subscriber: insert the subscription, then [`RetainedStore::matching`], then give it live messages, but skip each whose sequence
//!   the [`Snapshot`] covers.
//!
//! **Bounds.** Count and bytes are reserved before anything is stored and are never above their bounds, whoever stores at the same
//! time. A message that has expired but was not swept yet still counts.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock, TryLockError};

use smallvec::SmallVec;

use super::buckets::{BucketChoice, begins_with_wildcard, read, stop, write};

/// The place of one change in the order of all changes of retained messages. Starts at 1.
pub type Sequence = u64;

/// All retained messages. `M` is what is kept of one.
#[derive(Debug)]
pub struct RetainedStore<M> {
    choice: Arc<BucketChoice>,
    buckets: Box<[RwLock<Bucket<M>>]>,
    /// The last sequence given out.
    sequence: AtomicU64,
    totals: Totals,
    sweep: Mutex<Sweep>,
}

/// What the store holds at most.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub struct RetainedLimits {
    pub count_max: u64,
    pub bytes_max: u64,
}

/// A bound of [`RetainedLimits`] would have been passed; nothing was changed.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub struct RetainedFull;

impl fmt::Display for RetainedFull {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the retained store is full")
    }
}

impl std::error::Error for RetainedFull {}

/// Which changes one call of [`RetainedStore::matching`] has seen.
#[derive(Clone, Debug)]
pub struct Snapshot {
    seen: Seen,
}

#[derive(Clone, Debug)]
enum Seen {
    /// The first level of the filter is literal, so all its topics are in one bucket.
    OneBucket(Sequence),
    EachBucket {
        choice: Arc<BucketChoice>,
        sequences: Arc<[Sequence]>,
    },
}

impl Snapshot {
    /// Whether the read had already seen the change of `topic` that was given `sequence`, so that its live copy must be skipped.
    /// `topic` is one that the filter of the read matches.
    pub fn covers(&self, topic: &str, sequence: Sequence) -> bool {
        match &self.seen {
            Seen::OneBucket(seen) => sequence <= *seen,
            Seen::EachBucket { choice, sequences } => sequence <= sequences[choice.of(topic)],
        }
    }
}

impl<M> RetainedStore<M> {
    /// An empty store. The number of buckets is rounded up to a power of two.
    pub fn new(buckets: usize, hash_seed: u64, limits: RetainedLimits) -> Self {
        let choice = Arc::new(BucketChoice::new(buckets, hash_seed));
        let buckets = (0..choice.count())
            .map(|_| RwLock::new(Bucket::new()))
            .collect();
        Self {
            choice,
            buckets,
            sequence: AtomicU64::new(0),
            totals: Totals {
                count: AtomicU64::new(0),
                bytes: AtomicU64::new(0),
                limits,
            },
            sweep: Mutex::new(Sweep::default()),
        }
    }

    /// Stores or replaces the message of a topic [MQTT-3.3.1-5]; `bytes` is what it counts against the bound, and it is given to
    /// nobody once `expires_at` is reached.
    ///
    /// What does not grow always succeeds: a replacement that is not larger never fails, whatever the bounds are.
    pub fn store(
        &self,
        topic: &str,
        message: Arc<M>,
        bytes: u64,
        expires_at: Option<u64>,
    ) -> Result<Sequence, RetainedFull> {
        let key = Key::of(topic);
        let entry = Entry {
            message,
            bytes,
            expires_at: expires_at.unwrap_or(NEVER),
        };
        let mut bucket = write(&self.buckets[self.choice.of(topic)]);
        let previous = match bucket.entries.get_mut(key.as_bytes()) {
            Some(existing) => {
                self.totals.replace(existing.bytes, bytes)?;
                let expiring_before = u64::from(existing.expires());
                let expiring = u64::from(entry.expires());
                let previous = std::mem::replace(existing, entry);
                bucket.expiring = bucket.expiring - expiring_before + expiring;
                Some(previous)
            }
            None => {
                self.totals.add(bytes)?;
                bucket.expiring += u64::from(entry.expires());
                bucket.entries.insert(key.as_bytes().into(), entry)
            }
        };
        let sequence = self.next_sequence();
        drop(bucket);
        // Freeing a large message is not the business of those who wait for the lock.
        drop(previous);
        Ok(sequence)
    }

    /// Removes the message of a topic [MQTT-3.3.1-6]. A removal has a sequence also where there was nothing.
    pub fn remove(&self, topic: &str) -> (Sequence, Option<Arc<M>>) {
        let key = Key::of(topic);
        let mut bucket = write(&self.buckets[self.choice.of(topic)]);
        let removed = bucket.remove(key.as_bytes());
        if let Some(entry) = &removed {
            self.totals.remove(entry.bytes);
        }
        let sequence = self.next_sequence();
        drop(bucket);
        (sequence, removed.map(|entry| entry.message))
    }

    /// Whether [`Self::store`] would succeed if nobody else stored in the meantime.
    pub fn would_fit(&self, topic: &str, bytes: u64) -> bool {
        let key = Key::of(topic);
        let bucket = read(&self.buckets[self.choice.of(topic)]);
        let existing = bucket.entries.get(key.as_bytes()).map(|entry| entry.bytes);
        drop(bucket);
        self.totals.would_fit(existing, bytes)
    }

    /// Visits every message that matches and has not expired at `now`, ordered level by level of the topic.
    ///
    /// The matches are taken together first (24 bytes and the topic for each) and visited after the last lock is released, so a slow
    /// visitor delays no publisher and may use the store itself.
    pub fn matching(
        &self,
        topic_filter: &str,
        now: u64,
        visit: &mut dyn FnMut(&str, &Arc<M>),
    ) -> Snapshot {
        if begins_with_wildcard(topic_filter) {
            self.matching_in_all_buckets(topic_filter, now, visit)
        } else if topic_filter
            .split('/')
            .any(|level| matches!(level, "+" | "#"))
        {
            let lock = &self.buckets[self.choice.of(topic_filter)];
            let mut found = Found::new();
            let sequence = self.collect(lock, &Filter::new(topic_filter), now, &mut found);
            found.visit(visit);
            Snapshot {
                seen: Seen::OneBucket(sequence),
            }
        } else {
            self.matching_one_topic(topic_filter, now, visit)
        }
    }

    /// Removes messages that have expired at `now` and names their topics, under no lock of a bucket.
    ///
    /// Looks at no more than `limit` messages and goes on there at the next call. While another thread sweeps it does nothing.
    pub fn remove_expired(&self, now: u64, limit: usize, removed: &mut dyn FnMut(&str)) {
        let mut sweep = match self.sweep.try_lock() {
            Ok(sweep) => sweep,
            Err(TryLockError::WouldBlock) => return,
            Err(TryLockError::Poisoned(poison)) => stop(&poison),
        };
        let mut left = limit;
        // One round at most, and the bucket it began in is finished then.
        for _ in 0..=self.buckets.len() {
            if left == 0 {
                return;
            }
            let lock = &self.buckets[sweep.bucket];
            let mut expired: Vec<Box<[u8]>> = Vec::new();
            sweep.after =
                read(lock).find_expired(now, sweep.after.as_deref(), &mut left, &mut expired);
            if sweep.after.is_none() {
                sweep.bucket = (sweep.bucket + 1) % self.buckets.len();
            }
            for key in expired {
                if self.remove_if_expired(lock, &key, now) {
                    removed(&topic_of(&key));
                }
            }
        }
    }

    /// How many messages are held, expired ones included until they are swept.
    pub fn len(&self) -> u64 {
        self.totals.count.load(Ordering::Relaxed)
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of all messages that are held.
    pub fn bytes(&self) -> u64 {
        self.totals.bytes.load(Ordering::Relaxed)
    }

    /// To be called under the write lock of the bucket that changes. Relaxed suffices: readers of that bucket are ordered by its lock,
    /// and others do not compare.
    fn next_sequence(&self) -> Sequence {
        self.sequence.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn matching_one_topic(
        &self,
        topic: &str,
        now: u64,
        visit: &mut dyn FnMut(&str, &Arc<M>),
    ) -> Snapshot {
        let key = Key::of(topic);
        let bucket = read(&self.buckets[self.choice.of(topic)]);
        let sequence = self.sequence.load(Ordering::Relaxed);
        let entry = bucket
            .entries
            .get(key.as_bytes())
            .filter(|entry| !entry.has_expired(now));
        let message = entry.map(|entry| Arc::clone(&entry.message));
        drop(bucket);
        if let Some(message) = message {
            visit(topic, &message);
        }
        Snapshot {
            seen: Seen::OneBucket(sequence),
        }
    }

    fn matching_in_all_buckets(
        &self,
        topic_filter: &str,
        now: u64,
        visit: &mut dyn FnMut(&str, &Arc<M>),
    ) -> Snapshot {
        let filter = Filter::new(topic_filter);
        let mut found = Found::new();
        let sequences = self
            .buckets
            .iter()
            .map(|lock| self.collect(lock, &filter, now, &mut found))
            .collect();
        found.sort();
        found.visit(visit);
        Snapshot {
            seen: Seen::EachBucket {
                choice: Arc::clone(&self.choice),
                sequences,
            },
        }
    }

    fn collect(
        &self,
        lock: &RwLock<Bucket<M>>,
        filter: &Filter<'_>,
        now: u64,
        found: &mut Found<M>,
    ) -> Sequence {
        let bucket = read(lock);
        bucket.matching(filter, &mut |key, entry| {
            if !entry.has_expired(now) {
                found.push(key, &entry.message);
            }
        });
        // Any change of this bucket has waited, so it will have a greater sequence, and any that has a smaller one was seen.
        self.sequence.load(Ordering::Relaxed)
    }

    fn remove_if_expired(&self, lock: &RwLock<Bucket<M>>, key: &[u8], now: u64) -> bool {
        let mut bucket = write(lock);
        // It may have been replaced since it was found.
        if !bucket
            .entries
            .get(key)
            .is_some_and(|entry| entry.has_expired(now))
        {
            return false;
        }
        let removed = bucket.remove(key);
        if let Some(entry) = &removed {
            self.totals.remove(entry.bytes);
        }
        drop(bucket);
        removed.is_some()
    }
}

#[derive(Debug)]
struct Bucket<M> {
    entries: BTreeMap<Box<[u8]>, Entry<M>>,
    /// How many entries will ever expire; a sweep passes by where there are none.
    expiring: u64,
}

#[derive(Debug)]
struct Entry<M> {
    message: Arc<M>,
    bytes: u64,
    expires_at: u64,
}

impl<M> Entry<M> {
    fn expires(&self) -> bool {
        self.expires_at != NEVER
    }

    fn has_expired(&self, now: u64) -> bool {
        self.expires() && self.expires_at <= now
    }
}

impl<M> Bucket<M> {
    fn new() -> Self {
        Self {
            entries: BTreeMap::new(),
            expiring: 0,
        }
    }

    fn remove(&mut self, key: &[u8]) -> Option<Entry<M>> {
        let removed = self.entries.remove(key);
        if let Some(entry) = &removed {
            self.expiring -= u64::from(entry.expires());
        }
        removed
    }

    fn matching(&self, filter: &Filter<'_>, visit: &mut dyn FnMut(&[u8], &Entry<M>)) {
        let mut bound: Vec<u8> = filter.literal_prefix();
        'leap: loop {
            let mut entries = self
                .entries
                .range::<[u8], _>((Bound::Included(&bound[..]), Bound::Unbounded));
            // The range keeps its place in the tree without the bound, which may be written to from here on.
            let mut short_of_bound = 0;
            loop {
                let Some((key, entry)) = entries.next() else {
                    return;
                };
                if short_of_bound > 0 && **key < bound[..] {
                    // A few steps are cheaper than a search from the root, many are not.
                    short_of_bound += 1;
                    if short_of_bound > STEPS_BEFORE_LEAP {
                        continue 'leap;
                    }
                    continue;
                }
                short_of_bound = 0;
                match filter.check(key, &mut bound) {
                    Check::Match => visit(key, entry),
                    Check::Next => {}
                    Check::LeapToBound => short_of_bound = 1,
                    Check::Done => return,
                }
            }
        }
    }

    /// Looks at up to `left` entries behind `after`. Gives the last one it looked at if there may be more.
    fn find_expired(
        &self,
        now: u64,
        after: Option<&[u8]>,
        left: &mut usize,
        expired: &mut Vec<Box<[u8]>>,
    ) -> Option<Box<[u8]>> {
        if self.expiring == 0 {
            return None;
        }
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        for (key, entry) in self.entries.range::<[u8], _>((from, Bound::Unbounded)) {
            *left -= 1;
            if entry.has_expired(now) {
                expired.push(key.clone());
            }
            if *left == 0 {
                return Some(key.clone());
            }
        }
        None
    }
}

/// A topic as the map keeps it, with [`SEPARATOR`] for `/`, without an allocation where it is short.
struct Key(SmallVec<[u8; 128]>);

impl Key {
    fn of(topic: &str) -> Self {
        debug_assert!(
            !topic.as_bytes().contains(&SEPARATOR),
            "U+0000 is refused at the door"
        );
        Self(
            topic
                .bytes()
                .map(|byte| if byte == b'/' { SEPARATOR } else { byte })
                .collect(),
        )
    }

    fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

fn topic_of(key: &[u8]) -> String {
    text(
        key.iter()
            .map(|&byte| if byte == SEPARATOR { b'/' } else { byte })
            .collect(),
    )
}

fn text(topics: Vec<u8>) -> String {
    String::from_utf8(topics).expect("replacing one ASCII character by another leaves UTF-8 valid")
}

/// A topic filter, cut into levels once.
struct Filter<'a> {
    /// Without the `#` at the end, if there is one.
    levels: SmallVec<[FilterLevel<'a>; 16]>,
    multi_level: bool,
    begins_with_wildcard: bool,
}

enum FilterLevel<'a> {
    Literal(&'a [u8]),
    Any,
}

/// What a topic has to do with a filter, and where to look next.
enum Check {
    Match,
    /// No match, but the next topic can be one.
    Next,
    /// No match, and no topic before the bound that was written is one.
    LeapToBound,
    /// No match, and no later topic is one.
    Done,
}

impl<'a> Filter<'a> {
    fn new(topic_filter: &'a str) -> Self {
        let mut levels: SmallVec<[FilterLevel<'a>; 16]> = SmallVec::new();
        let mut multi_level = false;
        for level in topic_filter.split('/') {
            match level {
                "#" => multi_level = true,
                "+" => levels.push(FilterLevel::Any),
                _ => levels.push(FilterLevel::Literal(level.as_bytes())),
            }
        }
        Self {
            levels,
            multi_level,
            begins_with_wildcard: begins_with_wildcard(topic_filter),
        }
    }

    /// The key of the levels before the first wildcard: no topic before it matches.
    fn literal_prefix(&self) -> Vec<u8> {
        let mut prefix = Vec::new();
        for (number, level) in self.levels.iter().enumerate() {
            let FilterLevel::Literal(level) = level else {
                break;
            };
            if number > 0 {
                prefix.push(SEPARATOR);
            }
            prefix.extend_from_slice(level);
        }
        prefix
    }

    fn check(&self, key: &[u8], bound: &mut Vec<u8>) -> Check {
        if self.begins_with_wildcard && key.first() == Some(&b'$') {
            // [MQTT-4.7.2-1]
            bound.clear();
            bound.push(b'$' + 1);
            return Check::LeapToBound;
        }
        // Where the level to compare next begins; behind the end of the key once that has no more levels.
        let mut begin = 0;
        for level in &self.levels {
            let Some(rest) = key.get(begin..) else {
                // A topic above those that the filter asks for; they come right behind it.
                return Check::Next;
            };
            let length = rest
                .iter()
                .position(|&byte| byte == SEPARATOR)
                .unwrap_or(rest.len());
            if let FilterLevel::Literal(wanted) = level {
                match rest[..length].cmp(wanted) {
                    std::cmp::Ordering::Equal => {}
                    std::cmp::Ordering::Less => {
                        bound.clear();
                        bound.extend_from_slice(&key[..begin]);
                        bound.extend_from_slice(wanted);
                        return Check::LeapToBound;
                    }
                    std::cmp::Ordering::Greater => return leap_behind(&key[..begin], bound),
                }
            }
            begin += length + 1;
        }
        let no_level_is_left = begin > key.len();
        if no_level_is_left || self.multi_level {
            Check::Match
        } else {
            leap_behind(&key[..begin], bound)
        }
    }
}

/// Leaps behind all topics below a level; `begin` is that level's key and a separator. Below nothing there are all topics.
fn leap_behind(begin: &[u8], bound: &mut Vec<u8>) -> Check {
    let Some((_, level)) = begin.split_last() else {
        return Check::Done;
    };
    bound.clear();
    bound.extend_from_slice(level);
    bound.push(SEPARATOR + 1);
    Check::LeapToBound
}

/// Matches taken out of their buckets: their keys one after the other in one buffer, and where each begins and ends.
struct Found<M> {
    keys: Vec<u8>,
    messages: Vec<(usize, u32, Arc<M>)>,
}

impl<M> Found<M> {
    fn new() -> Self {
        Self {
            keys: Vec::new(),
            messages: Vec::new(),
        }
    }

    fn push(&mut self, key: &[u8], message: &Arc<M>) {
        let length = u32::try_from(key.len()).expect("a topic has at most 65,535 bytes");
        self.messages
            .push((self.keys.len(), length, Arc::clone(message)));
        self.keys.extend_from_slice(key);
    }

    /// Each bucket's matches are in order already; a stable sort finds those runs and merges them.
    fn sort(&mut self) {
        let keys = &self.keys;
        self.messages.sort_by(|(a, a_length, _), (b, b_length, _)| {
            keys[*a..*a + *a_length as usize].cmp(&keys[*b..*b + *b_length as usize])
        });
    }

    fn visit(mut self, visit: &mut dyn FnMut(&str, &Arc<M>)) {
        for byte in &mut self.keys {
            if *byte == SEPARATOR {
                *byte = b'/';
            }
        }
        let topics = text(self.keys);
        for (begin, length, message) in &self.messages {
            visit(&topics[*begin..*begin + *length as usize], message);
        }
    }
}

/// What is held, counted before it is.
#[derive(Debug)]
struct Totals {
    count: AtomicU64,
    bytes: AtomicU64,
    limits: RetainedLimits,
}

impl Totals {
    fn add(&self, bytes: u64) -> Result<(), RetainedFull> {
        reserve(&self.bytes, bytes, self.limits.bytes_max)?;
        reserve(&self.count, 1, self.limits.count_max).inspect_err(|_| {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        })
    }

    fn replace(&self, before: u64, bytes: u64) -> Result<(), RetainedFull> {
        if bytes > before {
            return reserve(&self.bytes, bytes - before, self.limits.bytes_max);
        }
        self.bytes.fetch_sub(before - bytes, Ordering::Relaxed);
        Ok(())
    }

    fn remove(&self, bytes: u64) {
        self.count.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn would_fit(&self, existing: Option<u64>, bytes: u64) -> bool {
        let has_room = |growth| {
            let sum = self.bytes.load(Ordering::Relaxed).checked_add(growth);
            sum.is_some_and(|sum| sum <= self.limits.bytes_max)
        };
        match existing {
            Some(before) => bytes <= before || has_room(bytes - before),
            None => self.count.load(Ordering::Relaxed) < self.limits.count_max && has_room(bytes),
        }
    }
}

/// Adds `more` unless that passes `max`. The numbers guard no other memory, so Relaxed is enough for an exact sum.
fn reserve(total: &AtomicU64, more: u64, max: u64) -> Result<(), RetainedFull> {
    let with_more = |total: u64| total.checked_add(more).filter(|sum| *sum <= max);
    match total.try_update(Ordering::Relaxed, Ordering::Relaxed, with_more) {
        Ok(_) => Ok(()),
        Err(_) => Err(RetainedFull),
    }
}

/// Where the next sweep goes on.
#[derive(Debug, Default)]
struct Sweep {
    bucket: usize,
    after: Option<Box<[u8]>>,
}

/// Stands for `/` in a key.
const SEPARATOR: u8 = 0;

/// The `expires_at` of a message that does not expire; no clock of ours gets there.
const NEVER: u64 = u64::MAX;

/// About what a search in a map of a hundred thousand topics costs, in steps to the next one.
const STEPS_BEFORE_LEAP: u32 = 8;

#[cfg(test)]
mod tests {
    use super::super::buckets::matches_by_definition;
    use super::super::subscriptions::{SessionId, SubscriptionIndex};
    use super::*;
    use proptest::prelude::*;
    use std::sync::mpsc;

    type Store = RetainedStore<u64>;

    const UNBOUNDED: RetainedLimits = RetainedLimits {
        count_max: u64::MAX,
        bytes_max: u64::MAX,
    };

    #[test]
    fn matches_come_in_the_order_of_their_levels_from_all_buckets() {
        let store = Store::new(16, 1, UNBOUNDED);
        // `!` and `-` sort before `/`, so that the order of characters would be another one.
        let ordered = [
            "/", "/a", "a", "a/", "a/b", "a/b/c", "a!", "a!/b", "a-b/c", "b", "b/a", "c/d/e",
        ];
        for (value, topic) in ordered.iter().enumerate().rev() {
            store.store(topic, Arc::new(value as u64), 1, None).unwrap();
        }
        assert_eq!(topics(&store, "#"), ordered);
        assert_eq!(topics(&store, "+"), ["a", "a!", "b"]);
        assert_eq!(
            topics(&store, "+/+"),
            ["/", "/a", "a/", "a/b", "a!/b", "a-b/c", "b/a"]
        );
        assert_eq!(topics(&store, "a/#"), ["a", "a/", "a/b", "a/b/c"]);
        assert_eq!(topics(&store, "a/+"), ["a/", "a/b"]);
        assert_eq!(topics(&store, "a/b"), ["a/b"]);
        assert_eq!(topics(&store, "+/b/#"), ["a/b", "a/b/c", "a!/b"]);
        assert_eq!(topics(&store, "x/#"), [""; 0]);
    }

    #[test]
    fn mqtt_4_7_2_1_leading_wildcards_do_not_find_dollar_topics() {
        let store = Store::new(1, 1, UNBOUNDED);
        for topic in ["!/a", "$", "$SYS/a", "$SYS/b", "%/a"] {
            store.store(topic, Arc::new(0), 1, None).unwrap();
        }
        assert_eq!(topics(&store, "#"), ["!/a", "%/a"]);
        assert_eq!(topics(&store, "+/a"), ["!/a", "%/a"]);
        assert_eq!(topics(&store, "$SYS/+"), ["$SYS/a", "$SYS/b"]);
    }

    #[test]
    fn a_filter_leaps_over_what_cannot_match() {
        let store = Store::new(1, 1, UNBOUNDED);
        for device in 0..100 {
            for sensor in 0..100 {
                let topic = format!("home/{device:03}/{sensor:03}/state");
                store.store(&topic, Arc::new(0), 1, None).unwrap();
            }
            store
                .store(&format!("home/{device:03}/online"), Arc::new(1), 1, None)
                .unwrap();
        }
        assert_eq!(looked_at(&store, "home/050/#"), (101, 102));
        let (found, looked_at_online) = looked_at(&store, "home/+/online");
        assert_eq!(found, 100);
        assert!(
            looked_at_online < 100 * 16,
            "{looked_at_online} of 10,100 topics were looked at"
        );
        assert_eq!(looked_at(&store, "home/+/050/state").0, 100);
        assert_eq!(looked_at(&store, "elsewhere/#").1, 1);
    }

    #[test]
    fn storing_replaces_and_removing_removes() {
        let store = Store::new(8, 1, UNBOUNDED);
        assert_eq!(store.store("a", Arc::new(1), 10, None), Ok(1));
        assert_eq!(store.store("a", Arc::new(2), 7, None), Ok(2));
        assert_eq!((store.len(), store.bytes()), (1, 7));
        assert_eq!(found(&store, "a", 0), [("a".to_owned(), 2)]);
        assert_eq!(store.remove("b"), (3, None));
        assert_eq!(store.remove("a"), (4, Some(Arc::new(2))));
        assert_eq!((store.len(), store.bytes(), store.is_empty()), (0, 0, true));
        assert!(topics(&store, "#").is_empty());
    }

    #[test]
    fn a_full_store_takes_replacements_that_do_not_grow_and_nothing_else() {
        let store = Store::new(
            8,
            1,
            RetainedLimits {
                count_max: 2,
                bytes_max: 100,
            },
        );
        store.store("a", Arc::new(1), 50, None).unwrap();
        assert!(!store.would_fit("b", 51));
        assert_eq!(store.store("b", Arc::new(1), 51, None), Err(RetainedFull));
        assert_eq!(
            (store.len(), store.bytes()),
            (1, 50),
            "a refused message leaves no trace"
        );
        assert!(store.would_fit("b", 50));
        store.store("b", Arc::new(1), 50, None).unwrap();

        assert!(!store.would_fit("c", 0));
        assert_eq!(
            store.store("c", Arc::new(1), 0, None),
            Err(RetainedFull),
            "by count"
        );
        assert!(!store.would_fit("a", 51));
        assert_eq!(
            store.store("a", Arc::new(2), 51, None),
            Err(RetainedFull),
            "by growth"
        );
        assert_eq!(found(&store, "a", 0), [("a".to_owned(), 1)]);
        assert!(store.would_fit("a", 50));
        store.store("a", Arc::new(3), 50, None).unwrap();
        store.store("a", Arc::new(4), 20, None).unwrap();
        store.store("a", Arc::new(5), 50, None).unwrap();
        assert_eq!(
            store.store("a", Arc::new(6), u64::MAX, None),
            Err(RetainedFull)
        );
        store.remove("b");
        store.store("c", Arc::new(1), 50, None).unwrap();
        assert_eq!((store.len(), store.bytes()), (2, 100));
    }

    #[test]
    fn an_expired_message_is_not_given_out_and_is_swept_a_few_at_a_time() {
        let store = Store::new(4, 1, UNBOUNDED);
        for n in 0..100_u64 {
            let expires_at = (n % 2 == 0).then_some(1000 + n);
            store
                .store(&format!("{n}/x"), Arc::new(n), 1, expires_at)
                .unwrap();
        }
        assert_eq!(found(&store, "#", 999).len(), 100);
        assert_eq!(found(&store, "#", 1000).len(), 99);
        assert_eq!(found(&store, "0/x", 1000).len(), 0);
        assert_eq!(found(&store, "0/+", 1000).len(), 0);
        assert_eq!(store.len(), 100, "it counts until it is swept");

        let mut removed = Vec::new();
        let mut calls = 0;
        while store.len() > 50 {
            let before = removed.len();
            store.remove_expired(2000, 7, &mut |topic| removed.push(topic.to_owned()));
            assert!(removed.len() - before <= 7);
            calls += 1;
            assert!(calls <= 100, "the sweep does not get on");
        }
        removed.sort();
        let mut expected: Vec<String> = (0..100).step_by(2).map(|n| format!("{n}/x")).collect();
        expected.sort();
        assert_eq!(removed, expected);
        assert_eq!(found(&store, "#", u64::MAX).len(), 50);
        store.remove_expired(u64::MAX, 1000, &mut |topic| {
            panic!("{topic} does not expire")
        });
    }

    #[test]
    fn one_sweep_with_enough_room_removes_all_wherever_the_last_one_stopped() {
        for first in 0..12 {
            let store = Store::new(4, 1, UNBOUNDED);
            for n in 0..10_u64 {
                store
                    .store(&format!("{n}"), Arc::new(n), 1, Some(10))
                    .unwrap();
            }
            store.remove_expired(9, first, &mut |_| panic!("nothing has expired"));
            let mut removed = 0;
            store.remove_expired(10, 20, &mut |_| removed += 1);
            assert_eq!(
                (removed, store.len(), store.bytes()),
                (10, 0, 0),
                "after a sweep of {first}"
            );
        }
    }

    #[test]
    fn a_replaced_message_expires_by_its_last_expiry() {
        let store = Store::new(4, 1, UNBOUNDED);
        store.store("a", Arc::new(1), 1, Some(10)).unwrap();
        store.store("a", Arc::new(2), 1, None).unwrap();
        store.remove_expired(20, 100, &mut |_| panic!("the replacement does not expire"));
        store.store("a", Arc::new(3), 1, Some(30)).unwrap();
        assert_eq!(found(&store, "a", 29), [("a".to_owned(), 3)]);
        let mut removed = 0;
        store.remove_expired(30, 100, &mut |_| removed += 1);
        assert_eq!((removed, store.len()), (1, 0));
    }

    #[test]
    fn sixty_five_thousand_empty_levels_are_harmless() {
        let store = Store::new(4, 1, UNBOUNDED);
        let deep = "/".repeat(65_535);
        let less_deep = "/".repeat(65_534);
        store.store(&deep, Arc::new(1), 1, Some(5)).unwrap();
        store.store(&less_deep, Arc::new(2), 1, None).unwrap();
        let plusses = format!("{}+", "+/".repeat(32_767));
        let exact = format!("{}+", "/".repeat(65_534));
        assert_eq!(topics(&store, &plusses), [""; 0]);
        assert_eq!(topics(&store, &exact), [less_deep.as_str()]);
        assert_eq!(topics(&store, "#").len(), 2);
        assert_eq!(
            topics(&store, &format!("{less_deep}#")),
            [less_deep.as_str(), deep.as_str()]
        );
        store.remove_expired(5, 10, &mut |topic| assert_eq!(topic, deep));
        store.remove(&less_deep);
        assert_eq!((store.len(), store.bytes()), (0, 0));
    }

    #[test]
    fn totals_never_pass_their_bounds_and_are_exact_afterwards() {
        let limits = RetainedLimits {
            count_max: 30,
            bytes_max: 1000,
        };
        let store = Store::new(4, 1, limits);
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let store = &store;
                scope.spawn(move || {
                    for n in 0..5_000_u64 {
                        let topic = format!("{}/x", (n * 7 + thread * 13) % 40);
                        match (n + thread) % 4 {
                            0 => drop(store.remove(&topic)),
                            1 => store.remove_expired(n, 3, &mut |_| {}),
                            _ => drop(store.store(&topic, Arc::new(n), n % 90, Some(n + 40))),
                        }
                        assert!(
                            store.len() <= limits.count_max && store.bytes() <= limits.bytes_max
                        );
                    }
                });
            }
        });
        let held: Vec<(u64, u64)> = store
            .buckets
            .iter()
            .flat_map(|lock| {
                read(lock)
                    .entries
                    .values()
                    .map(|entry| (1, entry.bytes))
                    .collect::<Vec<_>>()
            })
            .collect();
        assert_eq!(
            store.len(),
            held.iter().map(|(count, _)| count).sum::<u64>()
        );
        assert_eq!(
            store.bytes(),
            held.iter().map(|(_, bytes)| bytes).sum::<u64>()
        );
    }

    /// D17: publishers store and then deliver to whom they find; subscribers subscribe, read, and then take what is delivered to them.
    #[test]
    fn every_subscriber_sees_old_then_live_or_new_and_never_both_or_neither() {
        const VALUES: u64 = 30_000;
        const TOPICS: [&str; 3] = ["a/x", "b/x", "c/x"];
        type Live = mpsc::Sender<(&'static str, Sequence, u64)>;
        let index: SubscriptionIndex<Live, ()> = SubscriptionIndex::new(8, 1);
        let store = Store::new(8, 1, UNBOUNDED);

        let finished = AtomicU64::new(0);

        std::thread::scope(|scope| {
            for topic in TOPICS {
                let (index, store, finished) = (&index, &store, &finished);
                scope.spawn(move || {
                    let mut token = None;
                    let mut route: Vec<Live> = Vec::new();
                    for value in 1..=VALUES {
                        let sequence = store.store(topic, Arc::new(value), 8, None).unwrap();
                        if !token.as_ref().is_some_and(|token| index.is_current(token)) {
                            token = Some(index.token(topic));
                            route.clear();
                            index.matching(
                                topic,
                                &mut |_, live| route.push(live.clone()),
                                &mut |_, ()| {},
                            );
                        }
                        for live in &route {
                            // A subscriber that has seen enough is gone.
                            let _ = live.send((topic, sequence, value));
                        }
                    }
                    finished.fetch_add(1, Ordering::Release);
                });
            }
            for shard in 0..2 {
                let (index, store, finished) = (&index, &store, &finished);
                scope.spawn(move || {
                    for slot in 0.. {
                        let all_is_published =
                            finished.load(Ordering::Acquire) == TOPICS.len() as u64;
                        let topic_filter = ["+/x", "a/x", "#", "b/+"][slot as usize % 4];
                        let session = SessionId {
                            shard,
                            slot,
                            generation: 0,
                        };
                        let (live, delivered) = mpsc::channel();
                        index.insert(topic_filter, session, live);
                        let mut last: BTreeMap<String, u64> = BTreeMap::new();
                        let snapshot = store.matching(topic_filter, 0, &mut |topic, value| {
                            assert_eq!(last.insert(topic.to_owned(), **value), None);
                        });
                        // A few live messages are enough; none comes once all is published.
                        for _ in 0..10 {
                            let next = delivered.recv_timeout(std::time::Duration::from_millis(10));
                            let Ok((topic, sequence, value)) = next else {
                                break;
                            };
                            if snapshot.covers(topic, sequence) {
                                let read = last.get(topic).copied();
                                assert!(
                                    read >= Some(value),
                                    "{value} of {topic} was skipped, {read:?} was read"
                                );
                                continue;
                            }
                            let before = last.insert(topic.to_owned(), value).unwrap_or(0);
                            assert_eq!(
                                value,
                                before + 1,
                                "{topic_filter} was given {value} of {topic} after {before}"
                            );
                        }
                        index.remove(topic_filter, session);
                        if all_is_published {
                            assert!(last.values().all(|value| *value == VALUES));
                            break;
                        }
                    }
                });
            }
        });
        assert!(index.is_empty());
        assert_eq!(found(&store, "#", 0).len(), TOPICS.len());
    }

    #[test]
    fn a_visitor_may_use_the_store() {
        let store = Store::new(1, 1, UNBOUNDED);
        store.store("a/b", Arc::new(1), 1, None).unwrap();
        for topic_filter in ["a/b", "a/+", "#"] {
            store.matching(topic_filter, 0, &mut |topic, _| {
                store.store(topic, Arc::new(2), 1, None).unwrap();
            });
        }
    }

    proptest! {
        #[test]
        fn matching_agrees_with_the_definition(
            operations in prop::collection::vec((0..4_u8, topic(), 0..50_u64, prop::option::of(0..20_u64)), 1..60),
            filters in prop::collection::vec(filter(), 1..20),
            now in 0..20_u64,
            buckets in 1..5_usize,
            seed in any::<u64>(),
        ) {
            let limits = RetainedLimits { count_max: 12, bytes_max: 300 };
            let store = Store::new(buckets, seed, limits);
            let mut model: BTreeMap<Vec<String>, (u64, u64, Option<u64>)> = BTreeMap::new();
            let mut sequence = 0;
            for (kind, topic_name, bytes, expires_at) in operations {
                let key: Vec<String> = topic_name.split('/').map(str::to_owned).collect();
                if kind == 0 {
                    sequence += 1;
                    let expected = model.remove(&key).map(|(value, _, _)| Arc::new(value));
                    prop_assert_eq!(store.remove(&topic_name), (sequence, expected));
                } else {
                    let before = model.get(&key).map(|entry| entry.1);
                    let sum: u64 = model.values().map(|entry| entry.1).sum();
                    let fits = match before {
                        Some(before) => bytes <= before || sum - before + bytes <= limits.bytes_max,
                        None => (model.len() as u64) < limits.count_max && sum + bytes <= limits.bytes_max,
                    };
                    prop_assert_eq!(store.would_fit(&topic_name, bytes), fits);
                    let stored = store.store(&topic_name, Arc::new(sequence), bytes, expires_at);
                    if fits {
                        model.insert(key, (sequence, bytes, expires_at));
                        sequence += 1;
                        prop_assert_eq!(stored, Ok(sequence));
                    } else {
                        prop_assert_eq!(stored, Err(RetainedFull));
                    }
                }
                prop_assert_eq!(store.len(), model.len() as u64);
                prop_assert_eq!(store.bytes(), model.values().map(|entry| entry.1).sum::<u64>());
            }
            for topic_filter in filters {
                let expected: Vec<(String, u64)> = model
                    .iter()
                    .map(|(levels, entry)| (levels.join("/"), entry))
                    .filter(|(topic_name, (_, _, expires_at))| {
                        expires_at.is_none_or(|at| at > now) && matches_by_definition(&topic_filter, topic_name)
                    })
                    .map(|(topic_name, (value, _, _))| (topic_name, *value))
                    .collect();
                prop_assert_eq!(found(&store, &topic_filter, now), expected, "{}", topic_filter);
            }
            let unexpired = model.values().filter(|entry| entry.2.is_none_or(|at| at > now)).count();
            store.remove_expired(now, 100, &mut |_| {});
            prop_assert_eq!(store.len(), unexpired as u64);
        }
    }

    fn topic() -> impl Strategy<Value = String> {
        prop::collection::vec(
            prop::sample::select(vec!["a", "b", "a!", "a\u{1}", "", "$x"]),
            1..5,
        )
        .prop_map(|levels| levels.join("/"))
    }

    fn filter() -> impl Strategy<Value = String> {
        let levels = prop::collection::vec(
            prop::sample::select(vec!["a", "b", "a!", "a\u{1}", "", "$x", "+", "+"]),
            0..4,
        );
        (levels, prop::sample::select(vec!["a", "", "+", "#"])).prop_map(|(mut levels, last)| {
            levels.push(last);
            levels.join("/")
        })
    }

    fn found(store: &Store, topic_filter: &str, now: u64) -> Vec<(String, u64)> {
        let mut found = Vec::new();
        store.matching(topic_filter, now, &mut |topic, value| {
            found.push((topic.to_owned(), **value))
        });
        found
    }

    fn topics(store: &Store, topic_filter: &str) -> Vec<String> {
        found(store, topic_filter, 0)
            .into_iter()
            .map(|(topic, _)| topic)
            .collect()
    }

    /// How many topics of a store with one bucket match, and how many a search by leaps from bound to bound would look at.
    fn looked_at(store: &Store, topic_filter: &str) -> (usize, usize) {
        let bucket = read(&store.buckets[0]);
        let filter = Filter::new(topic_filter);
        let mut bound = filter.literal_prefix();
        let (mut matches, mut looked_at) = (0, 0);
        let mut from = Bound::Included(bound.clone());
        while let Some((key, _)) = bucket
            .entries
            .range::<[u8], _>((from.as_ref().map(|key| &key[..]), Bound::Unbounded))
            .next()
        {
            looked_at += 1;
            from = match filter.check(key, &mut bound) {
                Check::Match => {
                    matches += 1;
                    Bound::Excluded(key.to_vec())
                }
                Check::Next => Bound::Excluded(key.to_vec()),
                Check::LeapToBound => Bound::Included(bound.clone()),
                Check::Done => break,
            };
        }
        (matches, looked_at)
    }
}
