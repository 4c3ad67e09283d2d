//! Kills: the real broker is killed, started again on what it left, and held to its word by clients that remember all of it.
//!
//! ```sh
//! cargo test -p nightjar-tests --test crash --release -- --nocapture             # 20 kills
//! KILLS=2000 SEED=7 cargo test -p nightjar-tests --test crash --release -- --nocapture
//! ```
//!
//! Load is on it all the time: publishers of QoS 1 and 2, subscribers that are there, slow, or away, share groups, retained messages that
//! are set and cleared, wills, messages that expire, sessions that begin anew, 3.1.1 and 5.0. A kill comes at a random moment, during
//! start, or at a chosen system call (`strace` injects it). `SEED` decides when and where each kill is meant to come and what the clients
//! have in mind; which bytes the broker had written by then is chance, and is different every time.
//!
//! Checked on every message, every acknowledgement, every CONNACK: nothing acknowledged is missing, QoS 2 once, order, sessions and
//! subscriptions are there. At rest, every few kills and at the end: everything owed has come, wills, retained messages as the last
//! acknowledgement left them. After a failure the directory that is named holds the last events, the log, and the data as it was found
//! by the last two starts.

mod broker;
mod guests;
mod link;
mod member;
mod model;
#[path = "../simulation/random.rs"]
mod random;
mod trace;
mod wills;
mod world;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use broker::{Broker, Place, Trap, can_trace};
use harness::now;
use random::Random;
use world::{Death, World};

#[test]
fn what_was_acknowledged_survives_kills() {
    let kills: u32 = number("KILLS").unwrap_or(20);
    let seed = number("SEED").unwrap_or_else(|| u64::from(std::process::id()));
    let traces = may_trace();
    let place = Place::new(&format!("crash-kills-{seed}"), &settings());
    let mut plan = Random::new(seed ^ 0x6b69_6c6c);
    let mut world = World::new(place, seed);
    let began = now();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        for kill in 1..=kills {
            let death = choose(&mut plan, traces);
            world.live_and_die(&death);
            if kill % REST_EVERY == 0 || kill == kills || kill == 5 {
                world.rest();
            }
            if kill % 100 == 0 {
                println!(
                    "{kill} kills, {:.0} s, {} KiB on disk: {:?}",
                    (now() - began).as_secs_f64(),
                    world.place.data_bytes() / 1024,
                    world.model.counts
                );
            }
        }
    }));
    println!(
        "SEED={seed}: {:?} in {:.1} s, {:?}, {} KiB on disk",
        world.tally,
        (now() - began).as_secs_f64(),
        world.model.counts,
        world.place.data_bytes() / 1024,
    );
    let directory = world.place.directory.clone();
    if let Err(violation) = outcome {
        let _ = fs::write(directory.join("events.log"), world.events());
        drop(world);
        let kept = directory.with_file_name(format!("crash-kills-failed-{seed}"));
        let _ = fs::remove_dir_all(&kept);
        let _ = fs::rename(&directory, &kept);
        println!(
            "SEED={seed}: events, log and data are kept in {}",
            kept.display()
        );
        resume_unwind(violation);
    }
    drop(world);
    let _ = fs::remove_dir_all(directory);
}

/// Nothing of the first start is half done for the second one.
#[test]
fn a_first_start_killed_at_any_system_call_is_repeated() {
    if !may_trace() {
        return;
    }
    let place = Place::new(&format!("crash-first-{}", std::process::id()), "");
    let mut kills = 0;
    for calls in [
        "openat",
        "mkdir,mkdirat,rename,renameat,renameat2,link,linkat,unlink,unlinkat",
        "ftruncate,fallocate",
        "pwrite64,write",
        "fdatasync,fsync",
        "pread64",
    ] {
        // Until a start no longer comes to that many; bounded, for a start is short.
        for when in 1..200 {
            let _ = fs::remove_dir_all(place.data());
            let mut broker = Broker::start(&place, Some(&Trap { calls, when }));
            let runs = broker.wait_until_it_runs();
            broker.kill();
            if runs {
                break;
            }
            assert!(broker.was_killed(), "{calls} {when}:\n{}", broker.log);
            kills += 1;
            let mut broker = Broker::start(&place, None);
            let runs = broker.wait_until_it_runs();
            assert!(runs, "after a kill at {calls} {when}:\n{}", broker.log);
            broker.kill();
        }
    }
    println!("{kills} kills of a first start");
    assert!(
        kills > 10,
        "the system calls of a start are not those that are traced"
    );
    let _ = fs::remove_dir_all(&place.directory);
}

/// How the next one dies.
fn choose(plan: &mut Random, traces: bool) -> Death {
    let milliseconds = Duration::from_millis;
    match plan.below(100) {
        0..10 => Death::Starting(Duration::from_micros(plan.between(0, 60_000))),
        10..13 => Death::Running(milliseconds(plan.between(1_000, 1_600))),
        13..40 if traces => {
            let (calls, most) = *plan.pick(&[
                ("fdatasync", 60),
                ("pwrite64", 400),
                ("pwrite64,fdatasync,ftruncate,fsync", 60),
                ("writev,sendto,sendmsg", 600),
                ("recvfrom,read", 1_000),
                ("pread64", 200),
                ("openat,rename,ftruncate", 30),
                ("epoll_wait,futex", 1_000),
            ]);
            // As often early as late: the first calls are those of the start.
            let magnitude = plan.between(1, 5);
            let most = (most * magnitude * magnitude / 25).max(1);
            Death::At(Trap {
                calls,
                when: plan.between(1, most),
            })
        }
        40..60 => Death::Running(milliseconds(plan.between(0, 300))),
        _ => Death::Serving(milliseconds(plan.between(10, 250))),
    }
}

/// Without `strace` this proves less: CI does not take it, elsewhere it is said.
fn may_trace() -> bool {
    match can_trace() {
        Ok(()) => true,
        Err(reason) if std::env::var_os("CI").is_some() => panic!("{reason}"),
        Err(reason) => {
            println!("!! NO KILLS AT SYSTEM CALLS: {reason}");
            false
        }
    }
}

/// The wills of those who were connected come soon after the kill, not after half a minute.
fn settings() -> String {
    "will_restart_grace_seconds = 1\n".to_owned()
}

fn number<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

/// Kills from one rest to the next.
const REST_EVERY: u32 = 50;
