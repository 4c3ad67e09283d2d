//! Power cuts under the real storage code: what was acknowledged is there afterwards, and what is there is one of the
//! states the store has had, whole batches at a time.
//!
//! The power goes before any operation of the disk: while the store is made, while it is read at a start, and while it is
//! written. (There is one format, so nothing is upgraded yet.) What was not synced is lost, torn or reordered sector by sector. In some lives the disk fails before the power
//! goes, and what a failed sync was to write is lost though it can be read back: the store recovers, goes on, and is cut off
//! in the middle of that, too.
//!
//! ```text
//! cargo test --release -p nightjar-storage --test power_loss                1,000 cuts
//! CUTS=100000 cargo test --release -p nightjar-storage --test power_loss
//! SEED=123 cargo test -p nightjar-storage --test power_loss                 the one life of that seed, again
//! ```

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use nightjar_storage::contract::{Random, World, check_integrity, check_same, is_same};
use nightjar_storage::{
    Batch, Durability, Image, Journal, JournalStatus, Lsn, Options, RedbEngine,
};
use support::{SimulatedDisk, number_from_environment};

#[test]
fn nothing_acknowledged_is_lost_by_power_cuts() {
    let cuts_wanted = number_from_environment("CUTS").unwrap_or(1000);
    let tally = match number_from_environment("SEED") {
        Some(seed) => live(seed, Acknowledge::WhenDurable),
        None => live_side_by_side(cuts_wanted),
    };
    println!("{tally:?}");
    if tally.cuts >= 1000 {
        for (what, count) in [
            ("first creation", tally.during_creation),
            ("opening", tally.during_opening),
            ("writing", tally.during_writing),
            ("losing what was appended", tally.lost_batches),
            ("keeping what was not acknowledged", tally.kept_batches),
            ("a life with failed syncs", tally.lost_syncs),
            ("a life that has recovered", tally.recoveries),
        ] {
            assert!(count > 0, "no cut fell into {what}");
        }
    }
}

/// One life after the other, on some threads, for a life mostly waits: for the store's thread, and to open it again.
fn live_side_by_side(cuts_wanted: u64) -> Tally {
    let (next, broken) = (AtomicU64::new(0), AtomicBool::new(false));
    let sum = Mutex::new(Tally::default());
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while !broken.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed * CUTS_OF_A_LIFE >= cuts_wanted {
                        return;
                    }
                    let life =
                        catch_unwind(AssertUnwindSafe(|| live(seed, Acknowledge::WhenDurable)));
                    let Ok(life) = life else {
                        broken.store(true, Ordering::Relaxed);
                        panic!("replay with SEED={seed}");
                    };
                    let mut sum = sum.lock().expect("adding does not panic");
                    let before = sum.cuts;
                    sum.add(&life);
                    if before / 10_000 < sum.cuts / 10_000 {
                        println!("{sum:?}");
                    }
                }
            });
        }
    });
    sum.into_inner().expect("adding does not panic")
}

/// The proof proves something only if it finds a store that acknowledges too early.
#[test]
fn acknowledging_at_append_is_found_out() {
    let found = (0..50)
        .any(|seed| catch_unwind(AssertUnwindSafe(|| live(seed, Acknowledge::AtAppend))).is_err());
    assert!(
        found,
        "50 lives did not find acknowledgements that come before the disk"
    );
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Acknowledge {
    WhenDurable,
    AtAppend,
}

#[derive(Debug, Default)]
struct Tally {
    cuts: u64,
    during_creation: u64,
    during_opening: u64,
    during_writing: u64,
    acknowledged: u64,
    lost_batches: u64,
    kept_batches: u64,
    lost_syncs: u64,
    recoveries: u64,
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.cuts += other.cuts;
        self.during_creation += other.during_creation;
        self.during_opening += other.during_opening;
        self.during_writing += other.during_writing;
        self.acknowledged += other.acknowledged;
        self.lost_batches += other.lost_batches;
        self.kept_batches += other.kept_batches;
        self.lost_syncs += other.lost_syncs;
        self.recoveries += other.recoveries;
    }
}

/// One disk, some cuts, and a model that knows every state the store may be in.
fn live(seed: u64, acknowledge: Acknowledge) -> Tally {
    let mut random = Random(seed);
    let mut tally = Tally::default();
    let mut disk = SimulatedDisk::new();
    let mut world = World::new();
    world.padding_max = random.pick(&[10, 300, 9000]);
    // The first is safe, each further one has one batch more.
    let mut possible: Vec<(Lsn, Image)> = vec![(0, Image::new())];
    let mut created = false;
    for _ in 0..CUTS_OF_A_LIFE {
        // An opening takes some dozens of operations, a commit about as many.
        let opening = random.below(60);
        disk.cut_after(if random.below(3) == 0 {
            opening
        } else {
            u64::MAX / 2
        });
        match RedbEngine::open_on(Box::new(disk.clone()), options()) {
            Ok(engine) => {
                created = true;
                disk.cut_after(u64::MAX / 2);
                let state = possible
                    .iter()
                    .position(|(_, image)| is_same(&engine, image));
                let Some(state) = state else {
                    check_same(&engine, &possible[0].1, "after a power cut");
                    unreachable!("what is safe is one of the states");
                };
                check_integrity(&engine);
                tally.kept_batches += state as u64;
                tally.lost_batches += (possible.len() - 1 - state) as u64;
                possible = vec![(0, possible.swap_remove(state).1)];
                world.latest = possible[0].1.clone();
                let operations = random.pick(&[20, 60, 300, 1500]);
                disk.cut_after(random.below(operations));
                match random.below(6) {
                    0 => {
                        let after = random.below(operations);
                        disk.fail_stretch(after, random.pick(&[1, 1, 1, 3, 10]));
                    }
                    // Opening takes some syncs, and so does each commit.
                    1..=2 => disk.fail_every_sync(Some(2 + random.below(20))),
                    _ => {}
                }
                tally.acknowledged += work(
                    &engine,
                    &disk,
                    &mut world,
                    &mut possible,
                    &mut random,
                    acknowledge,
                );
                tally.during_writing += 1;
                disk.power_off();
                assert!(!engine.has_ended(), "the thread of the store has panicked");
                engine.abandon();
                tally.lost_syncs += disk.lost_syncs();
                tally.recoveries += engine.counters().reopened;
            }
            Err(error) => {
                assert!(disk.is_off(), "a store does not open: {error}");
                tally.during_opening += u64::from(created);
                tally.during_creation += u64::from(!created);
            }
        }
        tally.cuts += 1;
        disk = disk.after_power_cut(&mut random);
    }
    // The end of every life: what is left opens, is one of the states, and is sound.
    let engine = RedbEngine::open_on(Box::new(disk), options()).expect("it opens");
    if !possible.iter().any(|(_, image)| is_same(&engine, image)) {
        check_same(&engine, &possible[0].1, "at the end");
    }
    assert_eq!(engine.check(), Ok(vec![]));
    tally
}

/// Appends until the power goes. What is acknowledged is taken out of what may be lost. Gives how many batches were.
fn work(
    engine: &RedbEngine,
    disk: &SimulatedDisk,
    world: &mut World,
    possible: &mut Vec<(Lsn, Image)>,
    random: &mut Random,
    acknowledge: Acknowledge,
) -> u64 {
    let mut acknowledged = 0;
    let (sender, progress) = channel();
    engine.on_progress(Box::new(move || {
        let _ = sender.send(());
    }));
    engine.hold(0);
    for _ in 0..GROUPS_MAX {
        for _ in 0..=random.below(6) {
            let batch = world.batch(random);
            match engine.append(Batch(batch)) {
                Ok(lsn) => possible.push((lsn, world.latest.clone())),
                Err(_) => {
                    // Nothing of it was taken.
                    world.latest = possible
                        .last()
                        .map(|(_, image)| image.clone())
                        .unwrap_or_default();
                    break;
                }
            }
        }
        // Some of what waits becomes durable, all of it mostly.
        let last = possible.len() - 1;
        let upto = if random.below(4) == 0 {
            random.below(last as u64 + 1) as usize
        } else {
            last
        };
        engine.hold(possible[upto].0);
        let status = engine.status();
        let safe = possible
            .iter()
            .rposition(|(lsn, _)| match acknowledge {
                Acknowledge::WhenDurable => status.covers(*lsn),
                Acknowledge::AtAppend => true,
            })
            .unwrap_or(0);
        acknowledged += safe as u64;
        possible.drain(..safe);
        while !disk.is_off() && matches!(engine.status(), JournalStatus::Failed { .. }) {
            // The power may go, and nobody tells of that.
            let _ = progress.recv_timeout(Duration::from_millis(1));
        }
        if disk.is_off() {
            break;
        }
    }
    acknowledged
}

fn options() -> Options {
    Options {
        durability: Durability::Synced,
        // Small enough that pages are written before their commit, too.
        cache_bytes: 64 << 10,
        reopen_delay: Duration::from_millis(1),
        ..Options::default()
    }
}

const THREADS: usize = 4;
const CUTS_OF_A_LIFE: u64 = 12;
/// Groups that are committed between two cuts at most.
const GROUPS_MAX: u64 = 60;
