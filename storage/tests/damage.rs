//! Files that are not what they were, or never were a store: found out at the start or harmless, never a panic, never a
//! wrong payload, and nothing is overwritten. And the one file that has to stay readable for ever.
//!
//! ```text
//! cargo test -p nightjar-storage --test damage                   300 flipped bits
//! FLIPS=10000 cargo test --release -p nightjar-storage --test damage
//! WRITE_GOLDEN=1 cargo test -p nightjar-storage --test damage    writes the golden file of a new format version
//! ```

mod support;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use nightjar_codec::{ProtocolVersion, QoS, RetainHandling};
use nightjar_storage::contract::{Random, World, check_integrity, check_same, is_same};
use nightjar_storage::{
    Batch, Checkpoint, ClockRecord, Image, Journal, JournalStatus, Operation, Options, Owner,
    OwnerEntry, RedbEngine, SessionRecord, StorageError, StoredMessage, SubscriptionRecord, Table,
    WillRecord,
};
use support::{OnDisk, SimulatedDisk, number_from_environment, stretch};

#[test]
fn a_flipped_bit_is_found_out_or_harmless() {
    let flips = number_from_environment("FLIPS").unwrap_or(300);
    let (bytes, model) = some_store();
    // Most of a small database is empty; flips there are harmless and prove little.
    let used: Vec<usize> = (0..bytes.len() / PAGE)
        .filter(|page| {
            let page = &bytes[page * PAGE..(page + 1) * PAGE];
            page.iter().any(|byte| *byte != 0)
        })
        .collect();
    let mut random = Random(number_from_environment("SEED").unwrap_or(1));
    let (mut found, mut harmless) = (0, 0);
    for flip in 0..flips {
        let mut bytes = bytes.clone();
        let page = random.pick(&used);
        let at = page * PAGE + random.below(PAGE as u64) as usize;
        let bit = random.below(8);
        bytes[at] ^= 1 << bit;
        match live_on(bytes, &model, flip) {
            Outcome::Found => found += 1,
            Outcome::Harmless => harmless += 1,
            Outcome::Wrong => panic!("flip {flip}: bit {bit} of byte {at} makes a wrong answer"),
        }
    }
    println!("{found} found out, {harmless} harmless");
    assert!(found > flips / 10, "hardly any of the flips hit anything");
}

#[test]
fn a_file_that_is_cut_short_is_found_out_or_harmless() {
    let (bytes, model) = some_store();
    for part in 0..20 {
        let mut bytes = bytes.clone();
        bytes.truncate(bytes.len() * part / 20);
        assert!(
            !matches!(live_on(bytes, &model, 1), Outcome::Wrong),
            "{part} of 20 parts make a wrong answer"
        );
    }
}

#[test]
fn what_is_not_a_store_is_refused_and_left_as_it_is() {
    for (bytes, why) in [
        (Vec::new(), "too short"),
        (b"red".to_vec(), "too short"),
        (
            b"a letter to my aunt, which is longer than any magic number".to_vec(),
            "begin",
        ),
        (vec![0; 100_000], "begin"),
    ] {
        let directory = Directory::new("foreign");
        let path = directory.0.join("nightjar.redb");
        fs::write(&path, &bytes).unwrap();
        let error = RedbEngine::open(&directory.0, Options::default()).unwrap_err();
        assert!(matches!(error, StorageError::Foreign { .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.contains(why) && text.contains(&*path.to_string_lossy()),
            "{text}"
        );
        assert_eq!(fs::read(&path).unwrap(), bytes, "it was changed");
    }
}

#[test]
fn a_second_process_is_refused_with_the_path() {
    let directory = Directory::new("twice");
    let first = RedbEngine::open(&directory.0, Options::default()).unwrap();
    let error = RedbEngine::open(&directory.0, Options::default()).unwrap_err();
    assert!(matches!(error, StorageError::InUse { .. }), "{error}");
    let path = directory.0.join("nightjar.redb");
    assert!(
        error.to_string().contains(&*path.to_string_lossy()),
        "{error}"
    );
    assert!(
        error.to_string().contains(&std::process::id().to_string()),
        "{error}"
    );
    drop(first);
    RedbEngine::open(&directory.0, Options::default()).expect("the first one has let go");
}

#[cfg(unix)]
#[test]
fn nobody_else_may_read_the_store() {
    use std::os::unix::fs::PermissionsExt;

    let directory = Directory::new("private");
    let inner = directory.0.join("data");
    drop(RedbEngine::open(&inner, Options::default()).unwrap());
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(inner.clone()), 0o700);
    for entry in fs::read_dir(&inner).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(path.clone()), 0o600, "{}", path.display());
    }
}

#[test]
fn a_store_in_a_directory_is_there_at_the_next_start() {
    let directory = Directory::new("restart");
    let model = {
        let engine = RedbEngine::open(&directory.0, Options::default()).unwrap();
        let mut world = World::new();
        let mut random = Random(5);
        for _ in 0..100 {
            engine.append(Batch(world.batch(&mut random))).unwrap();
        }
        // Dropped without a flush: what was appended is written on the way out.
        world.latest
    };
    let engine = RedbEngine::open(&directory.0, Options::default()).unwrap();
    check_same(&*engine, &model, "after a restart");
    assert_eq!(engine.check(), Ok(vec![]));
}

#[test]
fn a_store_of_format_1_is_read_for_ever() {
    let path = PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/golden/format-1.redb.pages"
    ));
    let mut model = Image::new();
    golden_operations()
        .iter()
        .for_each(|operation| model.fold(operation));
    if std::env::var_os("WRITE_GOLDEN").is_some() {
        let disk = SimulatedDisk::new();
        let subject = OnDisk::open(disk.clone(), Options::default(), Random(1)).unwrap();
        subject.append(Batch(golden_operations())).unwrap();
        subject.engine.flush();
        drop(subject);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, squeeze(&disk.store_bytes().unwrap())).unwrap();
    }
    let bytes = stretch(&fs::read(&path).unwrap());
    let disk = SimulatedDisk::with_store(bytes);
    let subject = OnDisk::open(disk, Options::default(), Random(1)).unwrap();
    check_same(&subject, &model, "the golden file");
    check_integrity(&subject);
    assert_eq!(subject.engine.check(), Ok(vec![]));
    assert_eq!(subject.engine.message_id_max(), 1_000_001);
}

enum Outcome {
    Found,
    Harmless,
    Wrong,
}

/// Opens a damaged store, works with it and opens it again: damage to what says which pages are free shows late.
fn live_on(bytes: Vec<u8>, model: &Image, seed: u64) -> Outcome {
    let disk = SimulatedDisk::with_store(bytes);
    match read_all(disk.clone(), model) {
        Outcome::Harmless => {}
        outcome => return outcome,
    }
    let Ok(engine) = RedbEngine::open_on(Box::new(disk.clone()), Options::default()) else {
        return Outcome::Found;
    };
    let mut world = World::new();
    world.latest = model.clone();
    world.padding_max = 2000;
    // Ids above those that are in use.
    world.skip_message_ids(10_000);
    let mut random = Random(seed);
    for _ in 0..20 {
        for _ in 0..10 {
            if engine.append(Batch(world.batch(&mut random))).is_err() {
                return Outcome::Found;
            }
            engine.flush();
        }
        assert!(!engine.has_ended(), "the thread of the store has panicked");
        if matches!(engine.status(), JournalStatus::Failed { .. }) {
            return Outcome::Found;
        }
    }
    drop(engine);
    read_all(disk, &world.latest)
}

/// Opens a damaged store and reads everything in it.
fn read_all(disk: SimulatedDisk, model: &Image) -> Outcome {
    let Ok(engine) = RedbEngine::open_on(Box::new(disk), Options::default()) else {
        return Outcome::Found;
    };
    for table in Table::ALL {
        if engine.scan(table, &mut |_| {}).is_err() {
            return Outcome::Found;
        }
    }
    if is_same(&engine, model) {
        Outcome::Harmless
    } else {
        Outcome::Wrong
    }
}

/// A store with something in every table, as a running broker leaves it when it is killed.
fn some_store() -> (Vec<u8>, Image) {
    let subject = OnDisk::new(Options::default());
    let mut world = World::new();
    world.padding_max = 400;
    let mut random = Random(11);
    for _ in 0..400 {
        let batch = world.batch(&mut random);
        subject.append(Batch(batch)).unwrap();
        // One by one, so that the same seed makes the same bytes.
        subject.engine.flush();
    }
    for _ in 0..200 {
        subject
            .append(Batch(world.queue_for("e", &mut random)))
            .unwrap();
        subject.engine.flush();
    }
    subject.engine.flush();
    let mut empty = Vec::new();
    for table in Table::ALL {
        let mut rows = 0;
        subject.scan(table, &mut |_| rows += 1).unwrap();
        if rows == 0 {
            empty.push(table);
        }
    }
    assert_eq!(empty, [], "nothing is in these tables");
    (subject.disk.store_bytes().unwrap(), world.latest)
}

/// One of everything, with every optional field there and not there.
fn golden_operations() -> Vec<Operation> {
    let will = WillRecord {
        topic: "will/topic".into(),
        payload: Bytes::from_static(b"\x00\xff"),
        properties: Bytes::from_static(&[1, 1]),
        qos: QoS::AtLeastOnce,
        retain: true,
        message_expiry_interval: Some(60),
        delay: 5,
        fires_at: Some(123_456_789),
    };
    let full = SessionRecord {
        protocol_version: ProtocolVersion::V5,
        session_expiry_interval: u32::MAX,
        expires_at: Some(1 << 40),
        will: Some(will),
        user: Some("user".into()),
    };
    let plain = SessionRecord {
        protocol_version: ProtocolVersion::V3_1,
        session_expiry_interval: 0,
        expires_at: None,
        will: None,
        user: None,
    };
    let subscription = |qos, identifier| SubscriptionRecord {
        qos,
        no_local: qos == QoS::AtMostOnce,
        retain_as_published: qos == QoS::ExactlyOnce,
        retain_handling: RetainHandling::SendIfNew,
        subscription_identifier: identifier,
    };
    let message = |message_id, expires_at, publisher: Option<&str>| {
        Arc::new(StoredMessage {
            message_id,
            topic: "golden/topic".into(),
            payload: vec![b'g'; 300].into(),
            properties: Bytes::from_static(&[38, 0, 1, b'k', 0, 1, b'v']),
            qos: QoS::ExactlyOnce,
            retain: true,
            expires_at,
            sequence: 77,
            publisher: publisher.map(Into::into),
            publisher_user: None,
        })
    };
    let to = |owner: &Owner, identifiers: &[u32]| OwnerEntry {
        owner: owner.clone(),
        qos: QoS::ExactlyOnce,
        retain: false,
        subscription_identifiers: identifiers.to_vec(),
    };
    let (full_id, plain_id) = (Owner::session("full"), Owner::session("plain"));
    let group = Owner::group("share", "golden/+");
    let mut operations = vec![
        Operation::PutSession {
            client_id: "full".into(),
            session: full,
        },
        Operation::PutSession {
            client_id: "plain".into(),
            session: plain,
        },
        Operation::PutSubscription {
            client_id: "full".into(),
            topic_filter: "golden/#".into(),
            subscription: subscription(QoS::ExactlyOnce, Some(268_435_455)),
        },
        Operation::PutSubscription {
            client_id: "plain".into(),
            topic_filter: "$share/share/golden/+".into(),
            subscription: subscription(QoS::AtMostOnce, None),
        },
        Operation::ReceivedQos2 {
            client_id: "plain".into(),
            packet_id: 65_535,
        },
        Operation::PutRetained {
            message: message(1_000_001, None, None),
        },
        Operation::PutClock(ClockRecord {
            broker: 5,
            wall: 1_700_000_000_000,
        }),
    ];
    let many: Vec<u32> = (1..=40).collect();
    for message_id in 1..=9 {
        let publisher = (message_id % 2 == 0).then_some("publisher");
        operations.push(Operation::Enqueue {
            message: message(message_id, (message_id == 3).then_some(9), publisher),
            owners: [to(&full_id, &[7]), to(&plain_id, &many), to(&group, &[])].into(),
        });
    }
    for (packet_id, message_id) in (10..).zip(1..=4) {
        operations.push(Operation::AssignPacketId {
            client_id: "full".into(),
            message_id,
            packet_id,
        });
    }
    operations.push(Operation::Pubrec {
        client_id: "full".into(),
        packet_id: 11,
    });
    for message_id in [1, 4, 6] {
        operations.push(Operation::Dequeue {
            owner: full_id.clone(),
            message_id,
        });
    }
    // One of these came from the group and goes back, the others were done before.
    operations.push(Operation::Dequeue {
        owner: plain_id.clone(),
        message_id: 2,
    });
    operations.push(Operation::Transfer {
        message_id: 2,
        from: group.clone(),
        to: to(&plain_id, &[3]),
    });
    operations.push(Operation::Dequeue {
        owner: full_id.clone(),
        message_id: 5,
    });
    operations.push(Operation::Transfer {
        message_id: 5,
        from: group,
        to: to(&full_id, &[]),
    });
    operations
}

/// The pages that are not empty, each behind its number.
fn squeeze(bytes: &[u8]) -> Vec<u8> {
    let mut squeezed = (bytes.len() as u64).to_le_bytes().to_vec();
    for (number, page) in (0_u32..).zip(bytes.chunks(512)) {
        if page.iter().any(|byte| *byte != 0) {
            squeezed.extend_from_slice(&number.to_le_bytes());
            squeezed.extend_from_slice(page);
        }
    }
    squeezed
}

/// A directory of its own, gone at the end.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("nightjar-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const PAGE: usize = 4096;
