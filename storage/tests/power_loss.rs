//! Power cuts under the real storage code: what was acknowledged is there afterwards, and what is there is one of the
//! states the store has had, whole batches at a time.
//!
//! The power goes before any operation of the disk: while the store is made, while it is read at a start, and while it is
//! written. What was not synced is lost, torn or reordered sector by sector.
//!
//! ```text
//! cargo test --release -p nightjar-storage --test power_loss                1,000 cuts
//! CUTS=100000 cargo test --release -p nightjar-storage --test power_loss
//! SEED=123 cargo test -p nightjar-storage --test power_loss                 the one life of that seed, again
//! ```

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};

use nightjar_storage::contract::{Random, World, check_integrity, check_same, is_same};
use nightjar_storage::{
    Batch, Durability, Image, Journal, JournalStatus, Lsn, Options, RedbEngine,
};
use support::{SimulatedDisk, number_from_environment};

#[test]
fn nothing_acknowledged_is_lost_by_power_cuts() {
    let cuts_wanted = number_from_environment("CUTS").unwrap_or(1000);
    let seeds: Box<dyn Iterator<Item = u64>> = match number_from_environment("SEED") {
        Some(seed) => Box::new(std::iter::once(seed)),
        None => Box::new(0..),
    };
    let mut tally = Tally::default();
    for seed in seeds {
        let life = catch_unwind(AssertUnwindSafe(|| live(seed, Acknowledge::WhenDurable)));
        match life {
            Ok(life) => tally.add(&life),
            Err(_) => panic!("replay with SEED={seed}"),
        }
        if tally.cuts >= cuts_wanted {
            break;
        }
    }
    println!("{tally:?}");
    if cuts_wanted >= 1000 {
        for (what, count) in [
            ("first creation", tally.during_creation),
            ("opening", tally.during_opening),
            ("writing", tally.during_writing),
            ("losing what was appended", tally.lost_batches),
            ("keeping what was not acknowledged", tally.kept_batches),
        ] {
            assert!(count > 0, "no cut fell into {what}");
        }
    }
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
                engine.abandon();
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
        if disk.is_off() || matches!(status, JournalStatus::Failed { .. }) {
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
        ..Options::default()
    }
}

const CUTS_OF_A_LIFE: u64 = 12;
/// Groups that are committed between two cuts at most.
const GROUPS_MAX: u64 = 60;
