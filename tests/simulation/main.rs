//! The production session, exchange and shard code in simulated worlds: seeded clock, network, clients, disk and crashes, and
//! a model of what must be true.
//!
//! `SEEDS=n` says how many worlds (200 where nothing is said), `SEED=n` replays one and prints what happened in it last
//! (`LINES=n`: how much of it), `ALL=1` goes on after a failure and lists every seed that fails, `DISK=reopen|crash|never` says what
//! happens to a disk that fails in every world.
//!
//! In walking order: `world` decides what happens, `broker` drives the shards, `client` is an honest client, `model` knows
//! what must be true, `wire` turns bytes into packets, `log` remembers, `random` is where all chance comes from.

mod broker;
mod client;
mod log;
mod model;
mod random;
mod wire;
mod world;

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use world::{Summary, World};

#[test]
fn what_was_promised_is_kept_in_every_world() {
    if let Some(seed) = number("SEED") {
        return replay(seed);
    }
    let worlds = number("SEEDS").unwrap_or(200);
    let all = std::env::var_os("ALL").is_some();
    let next = AtomicU64::new(1);
    let failed: Mutex<BTreeMap<u64, String>> = Mutex::default();
    let total: Mutex<Summary> = Mutex::default();
    std::panic::set_hook(Box::new(|_| {}));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let enough = !all && !failed.lock().expect("no panic in there").is_empty();
                    if seed > worlds || enough {
                        return;
                    }
                    match catch_unwind(AssertUnwindSafe(|| World::run(seed))) {
                        Ok(summary) => total.lock().expect("no panic in there").add(summary),
                        Err(cause) => {
                            let mut failed = failed.lock().expect("no panic in there");
                            failed.insert(seed, sentence(&*cause));
                        }
                    }
                }
            });
        }
    });
    let _ = std::panic::take_hook();
    let failed = failed.into_inner().expect("no panic in there");
    if all {
        for (seed, cause) in &failed {
            println!("seed {seed}: {cause}");
        }
    }
    if let Some(seed) = failed.keys().next() {
        replay(*seed);
    }
    println!(
        "{worlds} worlds: {:?}",
        total.into_inner().expect("no panic in there")
    );
}

#[test]
fn a_seed_decides_everything() {
    for seed in [3, 5, 8] {
        let digests = [0, 1].map(|_| {
            log::keep(1);
            let _ = catch_unwind(AssertUnwindSafe(|| World::run(seed)));
            log::digest()
        });
        log::keep(0);
        assert_eq!(
            digests[0], digests[1],
            "seed {seed} gives two different runs"
        );
    }
}

/// Runs one world again and says what happened in it.
fn replay(seed: u64) {
    log::keep(lines());
    let outcome = catch_unwind(AssertUnwindSafe(|| World::run(seed)));
    let lines = log::last();
    log::keep(0);
    if let Err(cause) = outcome {
        let cause = sentence(&*cause);
        eprintln!("{}", lines.join("\n"));
        panic!(
            "seed {seed}: {cause}\nreplay: SEED={seed} cargo test -p nightjar-tests --test simulation"
        );
    }
}

/// What a panic said.
fn sentence(cause: &(dyn Any + Send)) -> String {
    let owned = cause.downcast_ref::<String>().cloned();
    let fixed = cause.downcast_ref::<&str>().map(ToString::to_string);
    owned.or(fixed).unwrap_or_default()
}

/// How many events of a failing world are printed.
fn lines() -> usize {
    number("LINES").map_or(50, |lines| usize::try_from(lines).unwrap_or(50))
}

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name}={value} is not a number")),
    )
}
