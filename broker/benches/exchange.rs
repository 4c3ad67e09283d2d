//! Micro-benchmarks of the exchange's two indexes: what one PUBLISH, SUBSCRIBE or retained message costs there, with few and with many
//! others present. Run with `cargo bench -p nightjar --bench exchange`. First it prints what a million filters and a million retained
//! topics take of resident memory (Linux only), then the times.

use std::hint::black_box;
use std::sync::Arc;

use divan::{Bencher, counter::ItemsCount};
use nightjar::exchange::retained::{RetainedLimits, RetainedStore};
use nightjar::exchange::subscriptions::{SessionId, SubscriptionIndex};

/// As large as the options of a subscription are likely to be.
type Subscription = [u64; 2];
type Index = SubscriptionIndex<Subscription, Arc<str>>;
type Store = RetainedStore<[u8; 64]>;

const FILTERS: [u32; 3] = [1, 1_000, 1_000_000];
const SEED: u64 = 1;

fn main() {
    memory();
    divan::main();
}

fn memory() {
    let report = |what: &str, before: Option<u64>| {
        if let (Some(before), Some(after)) = (before, resident_bytes()) {
            println!(
                "{what}: {} bytes each",
                after.saturating_sub(before) / 1_000_000
            );
        }
    };
    // All of it stays alive until the end, or the next would be built in memory that the last one left.
    let before = resident_bytes();
    let flat = flat(1_000_000);
    report(
        "1,000,000 filters `devices/N`, one subscription each",
        before,
    );
    let before = resident_bytes();
    let deep = deep(1_000_000);
    report(
        "1,000,000 filters `plant/N/sensors/temperature`, one subscription each",
        before,
    );
    let before = resident_bytes();
    let store = retained(1_000_000, &Arc::new([0; 64]));
    report(
        "1,000,000 retained topics `plant/N/state` without their messages",
        before,
    );
    drop((flat, deep, store));
}

/// Publish to one of n filters, of which exactly one matches.
#[divan::bench(args = FILTERS)]
fn match_one_of(bencher: Bencher<'_, '_>, filters: u32) {
    let index = flat(filters);
    let topics = topics(filters, |n| format!("devices/{n}"));
    measure_matching(bencher, &index, &topics);
}

/// The same topic again and again, as a publisher without a route cache would: all of it is in the CPU's cache.
#[divan::bench(args = FILTERS)]
fn match_same_of(bencher: Bencher<'_, '_>, filters: u32) {
    let index = flat(filters);
    measure_matching(bencher, &index, &[format!("devices/{}", filters / 2)]);
}

#[divan::bench(args = FILTERS)]
fn match_four_levels_of(bencher: Bencher<'_, '_>, filters: u32) {
    let index = deep(filters);
    let topics = topics(filters, |n| format!("plant/{n}/sensors/temperature"));
    measure_matching(bencher, &index, &topics);
}

/// With wildcards on the way: `+/+/sensors/#` and `plant/+/+/temperature` match as well.
#[divan::bench(args = FILTERS)]
fn match_with_wildcards_of(bencher: Bencher<'_, '_>, filters: u32) {
    let index = deep(filters);
    index.insert("+/+/sensors/#", session(0), [0, 0]);
    index.insert("plant/+/+/temperature", session(1), [0, 0]);
    let topics = topics(filters, |n| format!("plant/{n}/sensors/temperature"));
    measure_matching(bencher, &index, &topics);
}

#[divan::bench(args = FILTERS)]
fn match_nothing_of(bencher: Bencher<'_, '_>, filters: u32) {
    let index = flat(filters);
    measure_matching(bencher, &index, &["devices/none".to_owned()]);
}

#[divan::bench(args = [1_000, 100_000])]
fn match_subscribers_of_one_filter(bencher: Bencher<'_, '_>, subscribers: u32) {
    let index = Index::new(64, SEED);
    for n in 0..subscribers {
        index.insert("a/b", session(n), [0, 0]);
    }
    bencher
        .counter(ItemsCount::new(subscribers))
        .bench(|| count(&index, "a/b"));
}

/// What a cache hit costs instead of any of the above.
#[divan::bench]
fn token_is_current(bencher: Bencher<'_, '_>) {
    let index = flat(1_000);
    let token = index.token("devices/1");
    bencher.bench(|| index.is_current(black_box(&token)));
}

#[divan::bench(args = FILTERS)]
fn subscribe_and_unsubscribe_beside(bencher: Bencher<'_, '_>, filters: u32) {
    let index = flat(filters);
    bencher.bench(|| {
        index.insert("devices/other", session(0), [0, 0]);
        index.remove("devices/other", session(0))
    });
}

#[divan::bench(args = [100_000])]
fn subscribe_and_unsubscribe_at_a_filter_with(bencher: Bencher<'_, '_>, subscribers: u32) {
    let index = Index::new(64, SEED);
    for n in 0..subscribers {
        index.insert("a/b", session(2 * n), [0, 0]);
    }
    bencher.bench(|| {
        index.insert("a/b", session(77_777), [0, 0]);
        index.remove("a/b", session(77_777))
    });
}

#[divan::bench(args = FILTERS)]
fn retained_replace_one_of(bencher: Bencher<'_, '_>, topics_held: u32) {
    let message = Arc::new([0; 64]);
    let store = retained(topics_held, &message);
    let topics = topics(topics_held, |n| format!("plant/{n}/state"));
    let mut next = topics.iter().cycle();
    bencher.bench_local(|| {
        next.next()
            .map(|topic| store.store(topic, Arc::clone(&message), 64, None))
    });
}

#[divan::bench(args = FILTERS)]
fn retained_read_one_of(bencher: Bencher<'_, '_>, topics_held: u32) {
    let store = retained(topics_held, &Arc::new([0; 64]));
    let topics = topics(topics_held, |n| format!("plant/{n}/state"));
    let mut next = topics.iter().cycle();
    bencher.bench_local(|| next.next().map(|topic| read(&store, topic)));
}

#[divan::bench(args = ["#", "plant/#", "plant/+/state", "plant/+/none", "plant/5/#"])]
fn retained_read_from_100_000(bencher: Bencher<'_, '_>, topic_filter: &str) {
    let store = retained(100_000, &Arc::new([0; 64]));
    bencher.bench(|| read(&store, topic_filter));
}

fn measure_matching(bencher: Bencher<'_, '_>, index: &Index, topics: &[String]) {
    let mut next = topics.iter().cycle();
    bencher.bench_local(|| next.next().map(|topic| count(index, topic)));
}

fn count(index: &Index, topic: &str) -> u64 {
    let mut found = 0;
    index.matching(
        topic,
        &mut |_, subscription| found += subscription[0] + 1,
        &mut |_, _| {},
    );
    found
}

fn read(store: &Store, topic_filter: &str) -> u64 {
    let mut found = 0;
    black_box(store.matching(topic_filter, 0, &mut |_, message| {
        found += 1 + u64::from(message[0])
    }));
    found
}

fn flat(filters: u32) -> Index {
    filled(filters, |n| format!("devices/{n}"))
}

fn deep(filters: u32) -> Index {
    filled(filters, |n| format!("plant/{n}/sensors/temperature"))
}

fn filled(filters: u32, name: impl Fn(u32) -> String) -> Index {
    let index = Index::new(64, SEED);
    for n in 0..filters {
        index.insert(&name(n), session(n), [0, 0]);
    }
    index
}

fn retained(topics: u32, message: &Arc<[u8; 64]>) -> Store {
    let store = Store::new(
        64,
        SEED,
        RetainedLimits {
            count_max: u64::MAX,
            bytes_max: u64::MAX,
        },
    );
    for n in 0..topics {
        let stored = store.store(&format!("plant/{n}/state"), Arc::clone(message), 64, None);
        assert!(stored.is_ok(), "there is no bound");
    }
    store
}

/// Up to 4,096 names, spread so that one is rarely in the CPU's cache because of another.
fn topics(of: u32, name: impl Fn(u32) -> String) -> Vec<String> {
    (0..of.min(4096))
        .map(|n| name((u64::from(n) * 7_368_787 % u64::from(of)) as u32))
        .collect()
}

fn session(slot: u32) -> SessionId {
    SessionId {
        shard: 0,
        slot,
        generation: 0,
    }
}

fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}
