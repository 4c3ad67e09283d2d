//! The redb engine keeps the contract on a disk that loses what was not synced, promises what its durability says, and
//! tells of its progress.

mod support;

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use bytes::Bytes;
use nightjar_codec::QoS;
use nightjar_storage::contract::{
    Random, Subject, World, check_same, checkpoint_contract, full_contract, journal_contract,
    random_contract,
};
use nightjar_storage::{
    Batch, Checkpoint, Durability, Image, Journal, JournalStatus, Operation, Options, Owner,
    OwnerEntry, QueuedMessage, StorageError, StoredMessage,
};
use support::{OnDisk, SimulatedDisk};

#[test]
fn redb_engine_keeps_the_journal_contract() {
    journal_contract(|| OnDisk::new(quick()));
}

#[test]
fn redb_engine_keeps_the_checkpoint_contract() {
    checkpoint_contract(|| OnDisk::new(quick()));
}

#[test]
fn redb_engine_keeps_the_random_contract() {
    random_contract(|| OnDisk::new(quick()), 0..SEEDS);
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
fn what_nobody_waits_for_is_written_when_somebody_does() {
    let subject = OnDisk::new(Options {
        durability: Durability::Memory,
        write_behind: Duration::from_secs(86_400),
        ..Options::default()
    });
    let mut world = World::new();
    let mut random = Random(1);
    for commits in 1..4 {
        for _ in 0..10 {
            let batch = Batch(world.batch(&mut random));
            subject.append(batch).unwrap();
        }
        subject.engine.flush();
        assert_eq!(subject.engine.counters().commits, commits);
    }
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
    let kept = subject.append(Batch(world.batch(&mut Random(2)))).unwrap();
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
    assert!(subject.status().covers(kept), "{:?}", subject.status());
    assert_eq!(subject.engine.counters().failures, 1);
    assert!(!subject.engine.has_ended());
}

/// Nothing in the process can bring back what a thread had in hand that panicked: its owner has to know.
#[test]
fn the_end_of_the_stores_thread_is_told() {
    let subject = OnDisk::new(quick());
    let (sender, told) = channel();
    subject.engine.on_progress(Box::new(move || {
        let _ = sender.send(());
    }));
    let mut world = World::new();
    let mut random = Random(1);
    let mut batch = world.queue_for("a", &mut random);
    batch.extend(world.queue_for("a", &mut random));
    let durable = subject.append(Batch(batch)).unwrap();
    subject.engine.flush();
    assert!(!subject.engine.has_ended());

    // What no broker sends: it is an assertion of the index.
    let assign = |message_id| Operation::AssignPacketId {
        client_id: "a".into(),
        message_id,
        packet_id: 1,
    };
    let batch = Batch(vec![assign(1), assign(2)]);
    let lsn = subject.append(batch.clone()).unwrap();
    // The first commit may be told of behind the `flush` that has waited for it.
    while !subject.engine.has_ended() {
        told.recv_timeout(Duration::from_secs(30))
            .expect("told within 30 s");
    }
    let status = subject.status();
    assert!(
        matches!(&status, JournalStatus::Failed { reason, .. } if reason.contains("panicked")),
        "{status:?}"
    );
    assert!(status.covers(durable) && !status.covers(lsn));
    assert!(subject.append(batch).is_err(), "nothing is taken");
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

#[test]
fn the_use_of_the_file_tells_what_compacting_would_give_back() {
    let subject = OnDisk::new(Options::default());
    let mut world = World::new();
    world.padding_max = 20_000;
    let mut random = Random(1);
    for _ in 0..200 {
        let batch = world.queue_for("a", &mut random);
        subject.append(Batch(batch)).unwrap();
        subject.engine.flush();
    }
    let full = subject.engine.file_use().unwrap();
    assert_eq!(
        full.bytes,
        subject.disk.store_bytes().unwrap().len() as u64,
        "the length of the file"
    );
    assert!(
        full.used > 200 * 5_000 && full.used < full.bytes,
        "{full:?}"
    );
    let gone = Operation::DeleteSession {
        client_id: "a".into(),
    };
    subject.append(Batch(vec![gone])).unwrap();
    subject.engine.flush();
    let empty = subject.engine.file_use().unwrap();
    assert!(empty.used < full.used / 10, "{empty:?}");
    assert!(empty.free_percent() > 90, "{empty:?}");
}

/// Long queues, worked off in any order: blocks come and go, cursors pass over what was done before, gaps are closed.
#[test]
fn long_queues_worked_off_out_of_order_come_back_as_they_were() {
    for seed in 0..LONG_SEEDS {
        let mut random = Random(seed);
        let mut subject = OnDisk::new(Options::default());
        let mut model = Image::new();
        let owners = [
            Owner::session("a"),
            Owner::session("b"),
            Owner::group("g", "t/+"),
        ];
        let mut setup = World::new();
        let mut apply = |subject: &OnDisk, operations: Vec<Operation>| {
            operations
                .iter()
                .for_each(|operation| model.fold(operation));
            subject.append(Batch(operations)).unwrap();
            model.clone()
        };
        apply(&subject, setup.queue_for("a", &mut random));
        apply(&subject, setup.queue_for("b", &mut random));
        // In what order messages leave: from the front, from the end, anywhere, or all but the first.
        let order = seed % 4;
        let mut packet_id = 0;
        let mut next = 100;
        for _ in 0..ROUNDS {
            let mut operations = Vec::new();
            for _ in 0..random.below(150) {
                next += 1;
                let to = owners.iter().filter(|_| random.below(3) > 0);
                operations.push(enqueue(next, to));
            }
            let mut image = apply(&subject, operations);
            for owner in &owners {
                for _ in 0..random.below(130) {
                    let queue: Vec<QueuedMessage> = image.queue(owner, 0).collect();
                    let last = queue.len().saturating_sub(1);
                    let place = match order {
                        0 => 0,
                        1 => last,
                        2 => random.below(queue.len().max(1) as u64) as usize,
                        _ => 1,
                    };
                    let Some(queued) = queue.get(place.min(last)) else {
                        break;
                    };
                    let message_id = queued.message_id;
                    let mut operations = Vec::new();
                    if let Owner::Session(client_id) = owner
                        && queued.state.packet_id().is_none()
                        && random.below(3) == 0
                    {
                        packet_id += 1;
                        let client_id = client_id.clone();
                        operations.push(Operation::AssignPacketId {
                            client_id: client_id.clone(),
                            message_id,
                            packet_id,
                        });
                        if random.below(2) == 0 {
                            operations.push(Operation::Pubrec {
                                client_id,
                                packet_id,
                            });
                        }
                    } else {
                        let owner = owner.clone();
                        operations.push(Operation::Dequeue { owner, message_id });
                    }
                    image = apply(&subject, operations);
                }
            }
            subject.engine.flush();
            if random.below(2) == 0 {
                subject = subject.power_cut();
            }
            check_same(&subject, &image, &format!("seed {seed}"));
        }
        assert_eq!(subject.engine.check(), Ok(vec![]));
    }
}

/// So many that several threads read them, with ids that lie unevenly.
#[test]
fn a_long_store_is_read_in_parts_and_is_whole() {
    const MESSAGES: u64 = 60_000;
    let mut setup = World::new();
    let mut random = Random(1);
    let subject = OnDisk::new(Options::default());
    let owners = [Owner::session("a"), Owner::session("b")];
    let mut setups = setup.queue_for("a", &mut random);
    setups.extend(setup.queue_for("b", &mut random));
    subject.append(Batch(setups)).unwrap();
    subject.engine.flush();
    let before = owners
        .each_ref()
        .map(|owner| subject.outline(owner).unwrap().len());
    let mut expected: [Vec<u64>; 2] = Default::default();
    let mut next = 1_000;
    for number in 0..MESSAGES {
        next += if number % 1000 == 0 { 1_000_000 } else { 1 };
        let to = usize::from(number % 3 == 0);
        expected[to].push(next);
        let operation = enqueue(next, std::iter::once(&owners[to]));
        subject.append(Batch(vec![operation])).unwrap();
    }
    subject.engine.flush();
    let subject = Subject::power_cut(subject);
    for ((owner, expected), before) in owners.iter().zip(&expected).zip(before) {
        let outline = subject.outline(owner).unwrap();
        let ids = outline.iter().map(|entry| entry.message_id);
        assert!(ids.skip(before).eq(expected.iter().copied()));
        let last = &expected[expected.len() - 10..];
        let queued = subject.queued(owner, last, u64::MAX).unwrap();
        let ids: Vec<u64> = queued.iter().map(|queued| queued.message_id).collect();
        assert_eq!(ids, last);
    }
    assert_eq!(subject.message_id_max(), next);
}

fn enqueue<'a>(message_id: u64, owners: impl Iterator<Item = &'a Owner>) -> Operation {
    Operation::Enqueue {
        message: Arc::new(StoredMessage {
            message_id,
            topic: "t/1".into(),
            payload: message_id.to_string().into(),
            properties: Bytes::new(),
            qos: QoS::ExactlyOnce,
            retain: false,
            expires_at: None,
            sequence: 0,
            publisher: None,
            publisher_user: None,
        }),
        owners: owners
            .map(|owner| OwnerEntry {
                owner: owner.clone(),
                qos: QoS::ExactlyOnce,
                retain: false,
                subscription_identifiers: vec![],
            })
            .collect(),
    }
}

/// A store that is opened again soon after it has failed.
fn quick() -> Options {
    Options {
        reopen_delay: Duration::from_millis(1),
        ..Options::default()
    }
}

const SEEDS: u64 = 30;
const LONG_SEEDS: u64 = 8;
const ROUNDS: u64 = 12;
