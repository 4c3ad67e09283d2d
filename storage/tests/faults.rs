//! A disk that fails, runs full or stands still: nothing is acknowledged that is not kept, the store recovers by itself,
//! and memory stays within its bound.
//!
//! ```text
//! cargo test -p nightjar-storage --test faults               every 61st operation of the disk fails, one at a time; 20 full disks
//! FAULTS=1 FULL_ROUNDS=100 cargo test --release -p nightjar-storage --test faults     every single one, 100 full disks
//! ```

mod support;

use std::time::Duration;

use nightjar_storage::contract::{Random, World, check_integrity, check_same, is_same};
use nightjar_storage::{Batch, Image, Journal, JournalStatus, Lsn, Operation, Options};
use support::{OnDisk, SimulatedDisk, number_from_environment};

#[test]
fn no_failed_operation_of_the_disk_makes_a_wrong_acknowledgement() {
    let stride = number_from_environment("FAULTS").unwrap_or(61);
    let mut failures = 0;
    let stride = usize::try_from(stride).expect("a stride fits");
    // Each one while the store is made and opened, for those are few and each is another case.
    for operation in (1..OPENING).chain((OPENING..).step_by(stride)) {
        let disk = SimulatedDisk::new();
        disk.fail_at(operation);
        let script = Script::new(operation);
        script.run(&disk);
        if !disk.has_failed() {
            break;
        }
        failures += 1;
    }
    println!("{failures} operations failed, one at a time");
    assert!(
        failures > 10,
        "the script has too few operations to prove anything"
    );
}

#[test]
fn a_full_disk_refuses_and_recovers_when_there_is_room() {
    let disk = SimulatedDisk::new();
    let subject = OnDisk::open(disk.clone(), options(), Random(1)).expect("an empty disk");
    let mut script = Script::new(1);
    let rounds = number_from_environment("FULL_ROUNDS").unwrap_or(20);
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
        subject.wait_for(|status| matches!(status, JournalStatus::Reopened { .. }));
        script.take_up(&subject);
        assert!(
            script.group(&subject).is_ok(),
            "round {round}: there is room"
        );
        assert!(
            script.empty(&subject).is_ok(),
            "round {round}: there is room"
        );
    }
    script.finish(subject);
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
    for _ in 0..20_000 {
        match subject.append(Batch(world.batch(&mut random))) {
            Ok(lsn) => last = lsn,
            Err(_) => refused += 1,
        }
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

    /// Runs the whole script over a disk that fails once, and cuts the power behind it.
    fn run(mut self, disk: &SimulatedDisk) {
        // The first opening may be what fails. Then the next one does not.
        let subject = OnDisk::open(disk.clone(), options(), Random(1))
            .or_else(|_| OnDisk::open(disk.clone(), options(), Random(1)))
            .expect("a disk that failed once takes a store");
        for _ in 0..GROUPS {
            if self.group(&subject).is_err() {
                let safe = self.safe(&subject.engine.status());
                self.possible.drain(..safe);
                subject.wait_for(|status| !matches!(status, JournalStatus::Failed { .. }));
                self.take_up(&subject);
            }
        }
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
        let lsn = subject.append(Batch(batch)).map_err(|_| ())?;
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

    /// After a failure the store is in one of the possible states; goes on from there.
    fn take_up(&mut self, subject: &OnDisk) {
        let state = self
            .possible
            .iter()
            .position(|(_, image)| is_same(subject, image));
        let Some(state) = state else {
            check_same(subject, &self.possible[0].1, "after a failure");
            unreachable!("what is safe is one of the states");
        };
        self.possible = vec![(0, self.possible.swap_remove(state).1)];
        self.world.latest = self.possible[0].1.clone();
    }

    fn finish(mut self, subject: OnDisk) {
        let subject = nightjar_storage::contract::Subject::power_cut(subject);
        self.take_up(&subject);
        check_integrity(&subject);
        assert_eq!(subject.engine.check(), Ok(vec![]));
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
/// With six batches of two and a half operations each: a script of some 1,500 operations.
const GROUPS: u64 = 100;
