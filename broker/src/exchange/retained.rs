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
//! - subscriber: insert the subscription, then [`RetainedStore::begin_reading`], then give it live messages, but skip each whose
//!   sequence the [`Snapshot`] covers, and meanwhile go on reading.
//!
//! **Bounds.** Count and bytes are reserved before anything is stored and are never above their bounds, whoever stores at the same
//! time. A message that has expired but was not swept yet still counts.

mod reading;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Bound, ControlFlow};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock, TryLockError};

use smallvec::SmallVec;

pub use reading::Reading;

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
                own: AtomicU64::new(0),
                count_max: AtomicU64::new(limits.count_max),
                bytes_max: AtomicU64::new(limits.bytes_max),
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
        let mut entry = Entry {
            message,
            bytes,
            expires_at: expires_at.unwrap_or(NEVER),
            sequence: 0,
        };
        let mut bucket = write(&self.buckets[self.choice.of(topic)]);
        let sequence;
        let previous = match bucket.entries.get_mut(key.as_bytes()) {
            Some(existing) => {
                self.totals.replace(existing.bytes, bytes)?;
                sequence = self.next_sequence();
                entry.sequence = sequence;
                let expiring_before = u64::from(existing.expires());
                let expiring = u64::from(entry.expires());
                let previous = std::mem::replace(existing, entry);
                bucket.expiring = bucket.expiring - expiring_before + expiring;
                Some(previous)
            }
            None => {
                self.totals.add(bytes)?;
                sequence = self.next_sequence();
                entry.sequence = sequence;
                bucket.expiring += u64::from(entry.expires());
                bucket.entries.insert(key.as_bytes().into(), entry)
            }
        };
        drop(bucket);
        // Freeing a large message is not the business of those who wait for the lock.
        drop(previous);
        Ok(sequence)
    }

    /// Stores or replaces a message of the broker's own, which counts against no bound.
    pub fn store_own(&self, topic: &str, message: Arc<M>) -> Sequence {
        let key = Key::of(topic);
        let mut bucket = write(&self.buckets[self.choice.of(topic)]);
        let previous = bucket.remove(key.as_bytes());
        let sequence = self.next_sequence();
        let entry = Entry {
            message,
            bytes: OWN,
            expires_at: NEVER,
            sequence,
        };
        bucket.entries.insert(key.as_bytes().into(), entry);
        self.totals.own.fetch_add(1, Ordering::Relaxed);
        if let Some(previous) = &previous {
            self.totals.remove(previous.bytes);
        }
        drop(bucket);
        drop(previous);
        sequence
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

    /// What is held for one topic, expired or not.
    pub fn get(&self, topic: &str) -> Option<Arc<M>> {
        let key = Key::of(topic);
        let bucket = read(&self.buckets[self.choice.of(topic)]);
        let entry = bucket.entries.get(key.as_bytes());
        entry.map(|entry| Arc::clone(&entry.message))
    }

    /// Whether [`Self::store`] would succeed if nobody else stored in the meantime.
    pub fn would_fit(&self, topic: &str, bytes: u64) -> bool {
        let key = Key::of(topic);
        let bucket = read(&self.buckets[self.choice.of(topic)]);
        let existing = bucket.entries.get(key.as_bytes()).map(|entry| entry.bytes);
        drop(bucket);
        self.totals.would_fit(existing, bytes)
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

    /// Takes other bounds. What is there already stays.
    pub fn set_limits(&self, count_max: u64, bytes_max: u64) {
        self.totals.count_max.store(count_max, Ordering::Relaxed);
        self.totals.bytes_max.store(bytes_max, Ordering::Relaxed);
    }

    /// How many messages of the broker's own are held besides.
    pub fn own(&self) -> u64 {
        self.totals.own.load(Ordering::Relaxed)
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

/// Takes an entry and its key; may break off.
type Visit<'a, M> = &'a mut dyn FnMut(&[u8], &Entry<M>) -> ControlFlow<()>;

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
    /// Of the change that brought it.
    sequence: Sequence,
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

    /// Visits what matches behind the key `after`, in order, until the visitor breaks off.
    fn matching(&self, filter: &Filter<'_>, after: Option<&[u8]>, visit: Visit<'_, M>) {
        let mut bound: Vec<u8> = match after {
            // The very next key there can be.
            Some(after) => [after, &[SEPARATOR]].concat(),
            None => filter.literal_prefix(),
        };
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
                    Check::Match => {
                        if visit(key, entry).is_break() {
                            return;
                        }
                    }
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

/// What is held, counted before it is.
#[derive(Debug)]
struct Totals {
    count: AtomicU64,
    bytes: AtomicU64,
    /// Messages of the broker's own, which are in neither.
    own: AtomicU64,
    count_max: AtomicU64,
    bytes_max: AtomicU64,
}

impl Totals {
    fn add(&self, bytes: u64) -> Result<(), RetainedFull> {
        reserve(&self.bytes, bytes, self.bytes_max.load(Ordering::Relaxed))?;
        reserve(&self.count, 1, self.count_max.load(Ordering::Relaxed)).inspect_err(|_| {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        })
    }

    fn replace(&self, before: u64, bytes: u64) -> Result<(), RetainedFull> {
        if before == OWN {
            self.add(bytes)?;
            self.own.fetch_sub(1, Ordering::Relaxed);
            return Ok(());
        }
        if bytes > before {
            return reserve(
                &self.bytes,
                bytes - before,
                self.bytes_max.load(Ordering::Relaxed),
            );
        }
        self.bytes.fetch_sub(before - bytes, Ordering::Relaxed);
        Ok(())
    }

    fn remove(&self, bytes: u64) {
        if bytes == OWN {
            self.own.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        self.count.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn would_fit(&self, existing: Option<u64>, bytes: u64) -> bool {
        let has_room = |growth| {
            let sum = self.bytes.load(Ordering::Relaxed).checked_add(growth);
            sum.is_some_and(|sum| sum <= self.bytes_max.load(Ordering::Relaxed))
        };
        match existing.filter(|before| *before != OWN) {
            Some(before) => bytes <= before || has_room(bytes - before),
            None => {
                self.count.load(Ordering::Relaxed) < self.count_max.load(Ordering::Relaxed)
                    && has_room(bytes)
            }
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

/// The `bytes` of a message of the broker's own; no message has so many.
const OWN: u64 = u64::MAX;

/// The `expires_at` of a message that does not expire; no clock of ours gets there.
const NEVER: u64 = u64::MAX;

/// About what a search in a map of a hundred thousand topics costs, in steps to the next one.
const STEPS_BEFORE_LEAP: u32 = 8;

#[cfg(test)]
mod tests;
