//! Which bucket a topic name or topic filter lives in, how a topic is cut into levels, and how the locks of the buckets are taken.
//!
//! In: topic names and topic filters that were parsed at the door. Out: bucket numbers and hashes. Both the subscription index and
//! the retained store are split this way (D16), so that a SUBSCRIBE or a retained PUBLISH disturbs only what shares its first level.
//! This room does not know what a bucket holds.

use std::hash::Hasher;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use foldhash::SharedSeed;
use foldhash::quality::FoldHasher;

/// A seeded hash of one level below one parent.
///
/// All of its state comes from the seed it is given: random in production, so that nobody outside can choose topics that collide,
/// and fixed in a simulation, so that a run can be repeated.
#[derive(Debug)]
pub(super) struct LevelHash {
    shared: SharedSeed,
    seed: u64,
}

impl LevelHash {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            shared: SharedSeed::from_u64(seed),
            seed,
        }
    }

    pub(super) fn hash(&self, parent: u32, level: &[u8]) -> u64 {
        let mut hasher = FoldHasher::with_seed(self.seed, &self.shared);
        hasher.write_u32(parent);
        hasher.write(level);
        hasher.finish()
    }
}

/// Chooses one of a power of two of buckets by the first level.
#[derive(Debug)]
pub(super) struct BucketChoice {
    hash: LevelHash,
    mask: usize,
}

impl BucketChoice {
    /// The number of buckets is rounded up to a power of two and held between 1 and [`BUCKETS_MAX`].
    pub(super) fn new(buckets: usize, hash_seed: u64) -> Self {
        let buckets = buckets.clamp(1, BUCKETS_MAX).next_power_of_two();
        Self {
            hash: LevelHash::new(hash_seed),
            mask: buckets - 1,
        }
    }

    pub(super) fn count(&self) -> usize {
        self.mask + 1
    }

    pub(super) fn hash(&self) -> &LevelHash {
        &self.hash
    }

    /// The bucket of a topic name, or of a topic filter whose first level is literal.
    pub(super) fn of(&self, topic: &str) -> usize {
        let (first, _) = split_level(topic.as_bytes());
        // Truncation is meant: the mask keeps the low bits only.
        self.hash.hash(u32::MAX, first) as usize & self.mask
    }
}

/// Cuts off the first level. `None` for the rest means that it was the last level; an empty rest is one more, empty, level.
#[inline]
pub(super) fn split_level(topic: &[u8]) -> (&[u8], Option<&[u8]>) {
    match topic.iter().position(|&byte| byte == b'/') {
        Some(end) => {
            let (level, rest) = topic.split_at(end);
            (level, rest.get(1..))
        }
        None => (topic, None),
    }
}

/// Whether the first level of a topic filter is `+` or `#`, so that it can match topics of every bucket.
pub(super) fn begins_with_wildcard(topic_filter: &str) -> bool {
    matches!(split_level(topic_filter.as_bytes()).0, b"+" | b"#")
}

/// A topic that a filter beginning with a wildcard does not match. [MQTT-4.7.2-1]
pub(super) fn is_hidden_from_wildcards(topic_name: &str) -> bool {
    topic_name.starts_with('$')
}

pub(super) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(|poison| stop(&poison))
}

pub(super) fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(|poison| stop(&poison))
}

/// A lock is poisoned when a thread panicked halfway through a change. Going on with a half-changed index could skip an owner and
/// still acknowledge the message, so the panic spreads to every shard that comes here, and the process stops (D18).
pub(super) fn stop<T>(_: &PoisonError<T>) -> ! {
    panic!("a change of a shared index panicked halfway, its content cannot be trusted");
}

/// More buckets than this only cost memory: the point is that unrelated first levels seldom meet.
const BUCKETS_MAX: usize = 4096;

/// The definition of matching, written as the specification reads, to test the fast structures against.
#[cfg(test)]
pub(super) fn matches_by_definition(topic_filter: &str, topic_name: &str) -> bool {
    let filter: Vec<&str> = topic_filter.split('/').collect();
    let topic: Vec<&str> = topic_name.split('/').collect();
    let wildcard_first = matches!(filter.first(), Some(&"+" | &"#"));
    if wildcard_first && topic_name.starts_with('$') {
        return false;
    }
    let multi_level = filter.last() == Some(&"#");
    let levels = if multi_level {
        &filter[..filter.len() - 1]
    } else {
        &filter[..]
    };
    let length_fits = if multi_level {
        topic.len() >= levels.len()
    } else {
        topic.len() == levels.len()
    };
    length_fits
        && levels
            .iter()
            .zip(&topic)
            .all(|(wanted, level)| wanted == &"+" || wanted == level)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_levels_are_levels() {
        assert_eq!(split_level(b""), (&b""[..], None));
        assert_eq!(split_level(b"/"), (&b""[..], Some(&b""[..])));
        assert_eq!(split_level(b"a/b/c"), (&b"a"[..], Some(&b"b/c"[..])));
        assert_eq!(split_level(b"a"), (&b"a"[..], None));
    }

    #[test]
    fn the_bucket_depends_on_the_first_level_and_the_seed_only() {
        let choice = BucketChoice::new(64, 1);
        assert_eq!(choice.count(), 64);
        assert_eq!(choice.of("a/b"), choice.of("a/c/d"));
        assert_eq!(choice.of("a"), choice.of("a/#"));
        let other = BucketChoice::new(64, 2);
        let names: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        assert!(names.iter().any(|name| choice.of(name) != other.of(name)));
        assert!(
            names
                .iter()
                .all(|name| choice.of(name) == BucketChoice::new(64, 1).of(name))
        );
    }

    #[test]
    fn the_number_of_buckets_is_a_power_of_two_within_bounds() {
        for (asked, got) in [
            (0, 1),
            (1, 1),
            (3, 4),
            (64, 64),
            (65, 128),
            (usize::MAX, BUCKETS_MAX),
        ] {
            assert_eq!(BucketChoice::new(asked, 0).count(), got);
        }
    }
}
