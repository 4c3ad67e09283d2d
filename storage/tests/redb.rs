//! The redb engine keeps the contract on a disk that loses what was not synced, promises what its durability says, and
//! tells of its progress.

mod support;

use std::sync::mpsc::channel;
use std::time::Duration;

use nightjar_storage::contract::{
    Random, Subject, World, check_same, checkpoint_contract, full_contract, journal_contract,
    random_contract,
};
use nightjar_storage::{
    Batch, Checkpoint, Durability, Journal, JournalStatus, Operation, Options, StorageError,
};
use support::{OnDisk, SimulatedDisk};

#[test]
fn redb_engine_keeps_the_journal_contract() {
    journal_contract(|| OnDisk::new(Options::default()));
}

#[test]
fn redb_engine_keeps_the_checkpoint_contract() {
    checkpoint_contract(|| OnDisk::new(Options::default()));
}

#[test]
fn redb_engine_keeps_the_random_contract() {
    random_contract(|| OnDisk::new(Options::default()), 0..SEEDS);
}

#[test]
fn redb_engine_with_a_small_bound_is_full_in_time() {
    full_contract(|| {
        OnDisk::new(Options {
            pending_bytes_max: 10_000,
            ..Options::default()
        })
    });
}

#[test]
fn without_durability_a_batch_counts_at_once_and_is_written_later() {
    let options = Options {
        durability: Durability::Memory,
        ..Options::default()
    };
    let subject = OnDisk::new(options);
    let mut world = World::new();
    let mut random = Random(1);
    for _ in 0..50 {
        let lsn = subject.append(Batch(world.batch(&mut random))).unwrap();
        assert!(subject.status().covers(lsn), "nobody waits for the disk");
    }
    let disk = subject.disk.clone();
    // An orderly end writes what is pending.
    drop(subject);
    let subject = OnDisk::open(disk, options, Random(1)).unwrap();
    check_same(&subject, &world.latest, "after an orderly end");
}

#[test]
fn written_only_never_syncs_and_survives_the_end_of_the_process() {
    let options = Options {
        durability: Durability::Written,
        ..Options::default()
    };
    let subject = OnDisk::new(options);
    let syncs = subject.disk.syncs();
    let mut world = World::new();
    let mut random = Random(1);
    for _ in 0..50 {
        subject.append(Batch(world.batch(&mut random))).unwrap();
    }
    subject.engine.flush();
    assert_eq!(subject.disk.syncs(), syncs, "a sync");
    // What the operating system has is there for the next process.
    let bytes = subject.disk.store_bytes().unwrap();
    subject.engine.abandon();
    let disk = SimulatedDisk::with_store(bytes);
    let subject = OnDisk::open(disk, options, Random(1)).unwrap();
    check_same(&subject, &world.latest, "after a kill");
}

#[test]
fn whoever_asked_is_told_of_every_step_of_the_journal() {
    let subject = OnDisk::new(Options::default());
    let (sender, receiver) = channel();
    for _ in 0..2 {
        let sender = sender.clone();
        subject.engine.on_progress(Box::new(move || {
            let _ = sender.send(());
        }));
    }
    let told = |count: usize| {
        for _ in 0..count {
            receiver
                .recv_timeout(Duration::from_secs(30))
                .expect("told within 30 s");
        }
    };
    let mut world = World::new();
    let lsn = subject.append(Batch(world.batch(&mut Random(1)))).unwrap();
    told(2);
    assert!(subject.status().covers(lsn));

    subject.disk.refuse(true);
    subject.append(Batch(world.batch(&mut Random(2)))).unwrap();
    told(2);
    assert!(matches!(subject.status(), JournalStatus::Failed { .. }));
    assert!(
        matches!(
            subject.session("a"),
            Err(StorageError::Failed { .. }) | Ok(_)
        ),
        "a read has an answer"
    );

    subject.disk.refuse(false);
    told(2);
    assert!(matches!(subject.status(), JournalStatus::Reopened { .. }));
    assert_eq!(subject.engine.counters().failures, 1);
}

#[test]
fn message_ids_go_on_above_every_one_that_was_stored() {
    let mut world = World::new();
    world.skip_message_ids(1_000_000);
    let subject = OnDisk::new(Options::default());
    let operations = world.queue_for("a", &mut Random(1));
    let lsn = subject.append(Batch(operations)).unwrap();
    let gone = Operation::DeleteSession {
        client_id: "a".into(),
    };
    subject.append(Batch(vec![gone])).unwrap();
    subject.engine.flush();
    assert!(subject.status().covers(lsn));
    let subject = Subject::power_cut(subject);
    assert_eq!(subject.engine.message_id_max(), 1_000_001);
}

const SEEDS: u64 = 30;
