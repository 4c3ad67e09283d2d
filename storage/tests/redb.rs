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

const SEEDS: u64 = 30;
const LONG_SEEDS: u64 = 8;
const ROUNDS: u64 = 12;
