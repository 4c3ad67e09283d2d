//! A disk that fails, runs full or stands still: nothing is acknowledged that is not kept, the store recovers by itself
//! with everything it had taken, and memory stays within its bound.
//!
//! ```text
//! cargo test -p nightjar-storage --test faults               some operations of the disk fail; 20 full disks
//! FAULTS=1 FULL_ROUNDS=100 cargo test --release -p nightjar-storage --test faults
//!                                                            every single operation fails once, every k-th one fails for
//!                                                            k = 1 to 2,000, every k-th sync; 100 full disks
//! ```

mod support;

use std::time::Duration;

use nightjar_storage::contract::{Random, Subject, World, check_integrity, check_same, is_same};
use nightjar_storage::{
    Batch, Checkpoint, Image, Journal, JournalStatus, Lsn, Operation, Options, StorageError, Table,
};
use support::{OnDisk, SimulatedDisk, now, number_from_environment};

#[test]
fn no_failed_operation_of_the_disk_makes_a_wrong_acknowledgement() {
    let mut tally = Tally::default();
    // Each one while the store is made and opened, for those are few and each is another case.
    for operation in (1..OPENING).chain((OPENING..).step_by(stride())) {
        let disk = SimulatedDisk::new();
        disk.fail_at(operation);
        let script = Script::new(operation);
        let ends_at_failure = operation % 2 == 0;
        script.run(&disk, ends_at_failure, || {});
        if disk.failures() == 0 {
            tally.script = disk.operations();
            break;
        }
        tally.add(&disk);
    }
    println!("one operation at a time: {tally:?}");
    assert!(
        tally.failures > 10 && tally.lost_syncs > 0,
        "the script has too few operations to prove anything: {tally:?}"
    );
}

/// Every k-th operation fails, opening again and committing again included, until the cause goes away.
#[test]
fn failures_that_come_back_again_and_again_make_no_wrong_acknowledgement() {
    let strides = (1..OPENING)
        .step_by(stride().div_ceil(8))
        .chain((OPENING..=2000).step_by(stride()));
    let mut tally = Tally::default();
    for k in strides {
        fail_for_a_while(k, &mut tally, |disk| disk.fail_every(Some(k)));
    }
    println!("every k-th operation: {tally:?}");
    assert!(
        tally.failures > 100 && tally.lost_syncs > 0,
        "hardly anything has failed: {tally:?}"
    );
}

#[test]
fn syncs_that_fail_again_and_again_make_no_wrong_acknowledgement() {
    let mut tally = Tally::default();
    for k in (1..SYNCS).step_by(stride().div_ceil(20)) {
        fail_for_a_while(k, &mut tally, |disk| disk.fail_every_sync(Some(k)));
    }
    println!("every k-th sync: {tally:?}");
    assert!(
        tally.lost_syncs > 50,
        "hardly any sync has lost anything: {tally:?}"
    );
}

/// The script, on a disk that begins to fail when the store is there.
fn fail_for_a_while(seed: u64, tally: &mut Tally, begin: impl Fn(&SimulatedDisk)) {
    let disk = SimulatedDisk::new();
    // A new store would never come to be.
    drop(OnDisk::open(disk.clone(), options(), Random(1)).expect("an empty disk"));
    let begun = disk.operations();
    begin(&disk);
    Script::new(seed).run(&disk, false, || {
        if disk.operations() > begun + FAULTY_OPERATIONS {
            disk.heal();
        }
    });
    tally.script = disk.operations() - begun;
    tally.add(&disk);
}

#[test]
fn a_full_disk_refuses_and_recovers_when_there_is_room() {
    let disk = SimulatedDisk::new();
    let subject = OnDisk::open(disk.clone(), no_floor(), Random(1)).expect("an empty disk");
    let mut script = Script::new(1);
    let rounds = number_from_environment("FULL_ROUNDS").unwrap_or(20);
    let mut slowest = Duration::ZERO;
    for round in 0..rounds {
        disk.set_room(Some(4 << 20));
        let mut taken = 0;
        while script.fill(&subject).is_ok() {
            taken += 1;
            assert!(taken < 2000, "a disk without room takes everything");
        }
        let safe = script.safe(&subject.engine.status());
        script.possible.drain(..safe);
        disk.set_room(Some(6 << 20));
        let room_since = now();
        subject.wait_for(|status| matches!(status, JournalStatus::Durable(_)));
        slowest = slowest.max(room_since.elapsed());
        script.check_nothing_is_lost(&subject);
        assert!(
            script.group(&subject).is_ok(),
            "round {round}: there is room"
        );
        assert!(
            script.empty(&subject).is_ok(),
            "round {round}: there is room"
        );
    }
    println!("{rounds} times full, back within {slowest:?}");
    assert!(slowest < RECOVERY_MAX, "back only after {slowest:?}");
    script.finish(subject);
}

#[test]
fn a_disk_that_has_little_room_is_not_filled_and_can_be_read() {
    let disk = SimulatedDisk::new();
    let options = Options {
        disk_free_min: 90,
        ..options()
    };
    let subject = OnDisk::open(disk.clone(), options, Random(1)).expect("an empty disk");
    let mut script = Script::new(1);
    disk.set_room(Some(800 << 20));
    script.group(&subject).expect("there is room");
    disk.set_room(Some(5 * disk.taken()));
    script.group(&subject).expect_err("there is little room");
    let JournalStatus::Failed { reason, .. } = subject.engine.status() else {
        panic!("{:?}", subject.engine.status());
    };
    assert!(reason.contains("disk_free_min is 90"), "{reason}");
    assert!(subject.session("a").is_ok(), "it can be read");
    assert_eq!(subject.engine.counters().failures, 1);

    disk.set_room(Some(800 << 20));
    subject.wait_for(|status| matches!(status, JournalStatus::Durable(_)));
    script.check_nothing_is_lost(&subject);
    assert_eq!(subject.engine.counters().reopened, 0, "nothing was broken");
    script.finish(subject);
}

#[test]
fn a_store_that_cannot_be_written_is_read_as_it_was_after_the_last_commit() {
    let disk = SimulatedDisk::new();
    let subject = OnDisk::open(disk.clone(), no_floor(), Random(1)).expect("an empty disk");
    let mut script = Script::new(1);
    for _ in 0..20 {
        script.group(&subject).expect("there is room");
    }
    disk.set_room(Some(disk.taken()));
    while script.fill(&subject).is_ok() {}
    let safe = script.safe(&subject.engine.status());
    script.possible.drain(..safe);
    // Not while it is being opened; between two attempts.
    let began = now();
    let records = loop {
        if let Ok(records) = count_records(&subject) {
            break records;
        }
        assert!(began.elapsed() < RECOVERY_MAX, "it cannot be read");
        std::thread::yield_now();
    };
    let expected: Vec<usize> = Table::ALL
        .iter()
        .map(|table| script.possible[0].1.records(*table).count())
        .collect();
    assert_eq!(records, expected, "of each table");
    assert!(matches!(subject.status(), JournalStatus::Failed { .. }));
    disk.set_room(None);
    subject.wait_for(|status| matches!(status, JournalStatus::Durable(_)));
    script.check_nothing_is_lost(&subject);
    script.finish(subject);
}

#[test]
fn a_commit_that_takes_long_can_be_seen() {
    let disk = SimulatedDisk::new();
    let subject = OnDisk::open(disk.clone(), options(), Random(1)).expect("an empty disk");
    assert_eq!(subject.engine.counters().commit_on_its_way, None);
    disk.set_sync_delay(Duration::from_millis(200));
    let mut script = Script::new(1);
    let batch = script.world.batch(&mut script.random);
    script.append(&subject, batch).expect("there is room");
    let began = now();
    let number = loop {
        if let Some(number) = subject.engine.counters().commit_on_its_way {
            break number;
        }
        assert!(began.elapsed() < RECOVERY_MAX, "never seen");
        std::thread::yield_now();
    };
    script.settle(&subject).expect("a slow disk works");
    assert_eq!(subject.engine.counters().commit_on_its_way, None);
    let batch = script.world.batch(&mut script.random);
    script.append(&subject, batch).expect("there is room");
    let next = loop {
        if let Some(next) = subject.engine.counters().commit_on_its_way {
            break next;
        }
        assert!(began.elapsed() < RECOVERY_MAX, "never seen");
        std::thread::yield_now();
    };
    assert!(next > number, "each commit has its number");
}

#[test]
fn a_disk_that_stands_still_fills_the_bound_and_no_more() {
    let disk = SimulatedDisk::new();
    let bound = 100_000;
    let subject = OnDisk::open(
        disk.clone(),
        Options {
            pending_bytes_max: bound,
            ..options()
        },
        Random(1),
    )
    .expect("an empty disk");
    disk.set_sync_delay(Duration::from_millis(50));
    let mut world = World::new();
    let mut random = Random(3);
    let (mut last, mut refused) = (0, 0);
    let mut batch = Batch(world.batch(&mut random));
    for _ in 0..20_000 {
        batch = match subject.append(batch) {
            Ok(lsn) => {
                last = lsn;
                Batch(world.batch(&mut random))
            }
            Err(full) => {
                refused += 1;
                full.batch
            }
        };
        let pending = subject.engine.counters().pending_bytes;
        assert!(pending <= bound, "{pending} bytes are pending");
        if refused > 1000 {
            break;
        }
    }
    assert!(refused > 0, "a disk that stands still is never full");
    subject.engine.flush();
    assert!(
        subject.status().covers(last),
        "what was taken becomes durable"
    );
}

fn count_records(checkpoint: &impl Checkpoint) -> Result<Vec<usize>, StorageError> {
    let count = |table: &Table| {
        let mut records = 0;
        checkpoint.scan(*table, &mut |_| records += 1)?;
        Ok(records)
    };
    Table::ALL.iter().map(count).collect()
}

/// Groups of batches, and every state the store may be in.
struct Script {
    world: World,
    random: Random,
    possible: Vec<(Lsn, Image)>,
}

impl Script {
    fn new(seed: u64) -> Self {
        let mut world = World::new();
        world.padding_max = 2000;
        Self {
            world,
            random: Random(seed),
            possible: vec![(0, Image::new())],
        }
    }

    /// Runs the whole script over a disk that fails, and cuts the power behind it; or at once when it has failed, while what
    /// was taken is not committed again. `heal` is called after each group, and while the store is down.
    fn run(mut self, disk: &SimulatedDisk, ends_at_failure: bool, heal: impl Fn()) {
        // The first opening may be what fails. Then a later one does not.
        let subject = (0..OPENINGS_MAX)
            .find_map(|_| {
                heal();
                OnDisk::open(disk.clone(), options(), Random(1)).ok()
            })
            .expect("a disk takes a store when the failures are over");
        for _ in 0..GROUPS {
            let outcome = self.group(&subject);
            heal();
            if outcome.is_ok() {
                continue;
            }
            let safe = self.safe(&subject.engine.status());
            self.possible.drain(..safe);
            if ends_at_failure {
                break;
            }
            subject.wait_while(|status| {
                heal();
                matches!(status, JournalStatus::Failed { .. })
            });
        }
        if !ends_at_failure {
            disk.heal();
            subject.wait_for(|status| matches!(status, JournalStatus::Durable(_)));
            subject.engine.flush();
            self.check_nothing_is_lost(&subject);
        }
        assert!(!subject.engine.has_ended(), "the thread has panicked");
        self.finish(subject);
    }

    /// Queues something large.
    fn fill(&mut self, subject: &OnDisk) -> Result<(), ()> {
        self.world.padding_max = 50_000;
        let batch = self.world.queue_for("full", &mut self.random);
        self.append(subject, batch)?;
        self.settle(subject)
    }

    fn empty(&mut self, subject: &OnDisk) -> Result<(), ()> {
        let delete = Operation::DeleteSession {
            client_id: "full".into(),
        };
        self.world.latest.fold(&delete);
        self.append(subject, vec![delete])?;
        self.settle(subject)
    }

    /// Appends some batches and waits for them.
    fn group(&mut self, subject: &OnDisk) -> Result<(), ()> {
        for _ in 0..=self.random.below(10) {
            let batch = self.world.batch(&mut self.random);
            self.append(subject, batch)?;
        }
        self.settle(subject)
    }

    fn append(&mut self, subject: &OnDisk, batch: Vec<Operation>) -> Result<(), ()> {
        let Ok(lsn) = subject.append(Batch(batch)) else {
            // Nothing of it was taken.
            let last = self.possible.last().expect("one state at least");
            self.world.latest = last.1.clone();
            return Err(());
        };
        self.possible.push((lsn, self.world.latest.clone()));
        Ok(())
    }

    fn settle(&mut self, subject: &OnDisk) -> Result<(), ()> {
        subject.engine.flush();
        let status = subject.engine.status();
        if matches!(status, JournalStatus::Durable(_))
            && self.safe(&status) + 1 == self.possible.len()
        {
            let safe = self.safe(&status);
            self.possible.drain(..safe);
            return Ok(());
        }
        Err(())
    }

    /// The newest state that is promised.
    fn safe(&self, status: &JournalStatus) -> usize {
        self.possible
            .iter()
            .rposition(|(lsn, _)| status.covers(*lsn))
            .unwrap_or(0)
    }

    /// After a failure everything that was taken is durable.
    fn check_nothing_is_lost(&mut self, subject: &OnDisk) {
        let status = subject.engine.status();
        let (last, image) = self.possible.pop().expect("one state at least");
        assert!(status.covers(last), "{last} was taken, {status:?}");
        check_same(subject, &image, "after a failure");
        self.possible = vec![(last, image)];
    }

    /// After a power cut the store is in one of the possible states.
    fn take_up(&mut self, subject: &OnDisk) {
        let state = self
            .possible
            .iter()
            .position(|(_, image)| is_same(subject, image));
        let Some(state) = state else {
            check_same(subject, &self.possible[0].1, "after a power cut");
            unreachable!("what is safe is one of the states");
        };
        self.possible = vec![(0, self.possible.swap_remove(state).1)];
        self.world.latest = self.possible[0].1.clone();
    }

    fn finish(mut self, subject: OnDisk) {
        let subject = subject.power_cut();
        self.take_up(&subject);
        check_integrity(&subject);
        assert_eq!(subject.engine.check(), Ok(vec![]));
    }
}

#[derive(Debug, Default)]
struct Tally {
    /// Operations of the disk that the last script made.
    script: u64,
    failures: u64,
    lost_syncs: u64,
}

impl Tally {
    fn add(&mut self, disk: &SimulatedDisk) {
        self.failures += disk.failures();
        self.lost_syncs += disk.lost_syncs();
    }
}

fn stride() -> usize {
    let stride = number_from_environment("FAULTS").unwrap_or(61);
    usize::try_from(stride).expect("a stride fits")
}

/// With the delays that a broker has.
fn no_floor() -> Options {
    Options {
        cache_bytes: 64 << 10,
        disk_free_min: 0,
        ..Options::default()
    }
}

fn options() -> Options {
    Options {
        cache_bytes: 64 << 10,
        reopen_delay: Duration::from_millis(1),
        ..Options::default()
    }
}

/// Operations of the disk until a new store is open, and some more.
const OPENING: u64 = 60;
/// With six batches of two and a half operations each: a script of some 2,000 operations of the disk.
const GROUPS: u64 = 100;
/// Operations of the disk after which its failures are over.
const FAULTY_OPERATIONS: u64 = 2000;
/// Syncs until a script has had its share of failures, opening included.
const SYNCS: u64 = 150;
/// More attempts to open a store than a disk lets fail.
const OPENINGS_MAX: usize = 5000;
/// What an operator may expect.
const RECOVERY_MAX: Duration = Duration::from_secs(20);
