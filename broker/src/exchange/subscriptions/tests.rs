//! Proofs of `subscriptions.rs`: what it promises, by name.

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
    for (share_name, topic_filter) in [("g2", "a/+"), ("g1", "a/+"), ("g1", "#"), ("g1", "a/b/c")] {
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
