//! Proofs of `retained.rs`: what it promises, by name.

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
                    assert!(store.len() <= limits.count_max && store.bytes() <= limits.bytes_max);
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
                    let all_is_published = finished.load(Ordering::Acquire) == TOPICS.len() as u64;
                    let topic_filter = ["+/x", "a/x", "#", "b/+"][slot as usize % 4];
                    let session = SessionId {
                        shard,
                        slot,
                        generation: 0,
                    };
                    let (live, delivered) = mpsc::channel();
                    index.insert(topic_filter, session, live);
                    let mut last: BTreeMap<String, u64> = BTreeMap::new();
                    let mut skipped: BTreeMap<&str, u64> = BTreeMap::new();
                    let snapshot = store.matching(topic_filter, 0, &mut |topic, value| {
                        assert_eq!(last.insert(topic.to_owned(), **value), None);
                    });
                    // A few live messages are enough; none comes once all is published.
                    for _ in 0..10 {
                        let next = delivered.recv_timeout(std::time::Duration::from_millis(10));
                        let Ok((topic, sequence, value)) = next else {
                            break;
                        };
                        let before = last.get(topic).copied();
                        if snapshot.covers(topic, sequence) {
                            // It was read, or it changed before it could be: then the change comes.
                            assert!(
                                before.is_none_or(|before| before >= value),
                                "{value} of {topic} was skipped, {before:?} was read"
                            );
                            skipped.insert(topic, value);
                            continue;
                        }
                        let known = before.max(skipped.get(topic).copied());
                        assert!(
                            known.is_none_or(|known| value == known + 1),
                            "{topic_filter} was given {value} of {topic} after {known:?}"
                        );
                        last.insert(topic.to_owned(), value);
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
