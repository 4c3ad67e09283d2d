//! Reading what a SUBSCRIBE is to see, piece by piece.
//!
//! A filter may match a million messages, and its client takes them as fast as its socket does. A reading keeps nothing but its place
//! in each bucket, and gives the matches out in the order of their topics, level by level.
//!
//! **Which state it shows (D17).** A reading notes the sequence of each bucket when it begins, under that bucket's lock. What changes
//! later has a greater sequence; its live copy goes to the subscription, which is in the index by then, so the reading passes over it.
//! What it gives out is what the store holds at that moment, so no live copy of anything newer can have come before. Each topic is
//! seen as it was at the beginning, or its next change is seen live: never both, never neither.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{
    Filter, RetainedStore, Seen, Sequence, Snapshot, begins_with_wildcard, read, topic_of,
};

/// Where a reading is. Take a new one from [`RetainedStore::begin_reading`].
#[derive(Debug)]
pub struct Reading {
    topic_filter: Box<str>,
    places: Box<[Place]>,
}

/// A reading in one bucket.
#[derive(Debug)]
struct Place {
    bucket: usize,
    sequence: Sequence,
    /// The last key that was given out.
    after: Option<Box<[u8]>>,
    is_at_end: bool,
}

/// What was taken out of one bucket and not given out yet.
struct InHand<M> {
    matches: VecDeque<(Box<[u8]>, Arc<M>)>,
    there_is_more: bool,
}

impl Reading {
    pub fn topic_filter(&self) -> &str {
        &self.topic_filter
    }
}

impl<M> RetainedStore<M> {
    /// Begins to read what matches, and notes which changes the reading will have seen.
    pub fn begin_reading(&self, topic_filter: &str) -> (Reading, Snapshot) {
        let buckets = if begins_with_wildcard(topic_filter) {
            0..self.buckets.len()
        } else {
            let bucket = self.choice.of(topic_filter);
            bucket..bucket + 1
        };
        let places: Box<[Place]> = buckets
            .map(|bucket| {
                let _unchanged = read(&self.buckets[bucket]);
                Place {
                    bucket,
                    // Any change of this bucket waits, so it will have a greater sequence.
                    sequence: self.sequence.load(Ordering::Relaxed),
                    after: None,
                    is_at_end: false,
                }
            })
            .collect();
        let seen = match &places[..] {
            [only] => Seen::OneBucket(only.sequence),
            all => Seen::EachBucket {
                choice: Arc::clone(&self.choice),
                sequences: all.iter().map(|place| place.sequence).collect(),
            },
        };
        let reading = Reading {
            topic_filter: topic_filter.into(),
            places,
        };
        (reading, Snapshot { seen })
    }

    /// Gives out the next `limit` messages that have not expired at `now`, under no lock. False: that was all.
    pub fn read_on(
        &self,
        reading: &mut Reading,
        now: u64,
        limit: usize,
        visit: &mut dyn FnMut(&[u8], &Arc<M>),
    ) -> bool {
        let filter = Filter::new(&reading.topic_filter);
        let at_once = (limit / reading.places.len().max(1)).clamp(AT_ONCE_MIN, AT_ONCE_MAX);
        let mut hands: Vec<InHand<M>> = reading
            .places
            .iter()
            .map(|place| self.take_more(place, &filter, now, at_once))
            .collect();
        // The next key of each place, smallest first.
        let mut next: BinaryHeap<Reverse<(Box<[u8]>, usize)>> = BinaryHeap::new();
        for (number, hand) in hands.iter().enumerate() {
            next.extend(hand.first_key().map(|key| Reverse((key, number))));
        }
        for _ in 0..limit {
            let Some(Reverse((key, number))) = next.pop() else {
                break;
            };
            let (place, hand) = (&mut reading.places[number], &mut hands[number]);
            let Some((_, message)) = hand.matches.pop_front() else {
                continue;
            };
            visit(&key, &message);
            place.after = Some(key);
            if hand.matches.is_empty() && hand.there_is_more {
                *hand = self.take_more(place, &filter, now, at_once);
            }
            next.extend(hand.first_key().map(|key| Reverse((key, number))));
        }
        for (place, hand) in reading.places.iter_mut().zip(&hands) {
            place.is_at_end = hand.matches.is_empty() && !hand.there_is_more;
        }
        !next.is_empty()
    }

    /// Visits every message that matches and has not expired at `now`, ordered level by level of the topic: a whole reading at once.
    pub fn matching(
        &self,
        topic_filter: &str,
        now: u64,
        visit: &mut dyn FnMut(&str, &Arc<M>),
    ) -> Snapshot {
        let (mut reading, snapshot) = self.begin_reading(topic_filter);
        while self.read_on(&mut reading, now, AT_ONCE_MAX, &mut |key, message| {
            visit(&topic_of(key), message);
        }) {}
        snapshot
    }

    fn take_more(&self, place: &Place, filter: &Filter<'_>, now: u64, at_once: usize) -> InHand<M> {
        let mut hand = InHand {
            matches: VecDeque::new(),
            there_is_more: false,
        };
        if place.is_at_end {
            return hand;
        }
        let bucket = read(&self.buckets[place.bucket]);
        bucket.matching(filter, place.after.as_deref(), &mut |key, entry| {
            if entry.sequence > place.sequence || entry.has_expired(now) {
                return ControlFlow::Continue(());
            }
            if hand.matches.len() == at_once {
                hand.there_is_more = true;
                return ControlFlow::Break(());
            }
            hand.matches
                .push_back((key.into(), Arc::clone(&entry.message)));
            ControlFlow::Continue(())
        });
        hand
    }
}

impl<M> InHand<M> {
    fn first_key(&self) -> Option<Box<[u8]>> {
        self.matches.front().map(|(key, _)| key.clone())
    }
}

/// A look into a bucket is a lock and a search: it is to bring more than one match, and not to keep publishers waiting.
const AT_ONCE_MIN: usize = 16;
const AT_ONCE_MAX: usize = 1024;
