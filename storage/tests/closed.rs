//! Stores that no broker has open: looked over without a change, copied, made small, and saved when they are damaged.
//!
//! ```text
//! FLIPS=3000 cargo test --release -p nightjar-storage --test closed      damaged stores that are repaired (40)
//! ```

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use nightjar_storage::contract::{Random, World, check_integrity, check_same};
use nightjar_storage::{
    Batch, Checkpoint, ClosedStore, Image, Journal, Operation, Options, Record, RedbEngine,
    StorageError, Table,
};
use support::number_from_environment;

#[test]
fn a_store_is_looked_over_and_left_as_it_is() {
    let directory = Directory::new("check");
    directory.make_store(300);
    let before = fs::read(directory.store()).unwrap();
    let report = ClosedStore::lock(&directory.0)
        .unwrap()
        .check(&mut ())
        .unwrap();
    assert_eq!(report.problems.first, [""; 0]);
    assert_eq!(report.problems.count, 0);
    assert_eq!(report.file_bytes, before.len() as u64);
    assert!(report.free_bytes.unwrap() < report.file_bytes);
    assert_eq!(fs::read(directory.store()).unwrap(), before);
    let contents = report.contents;
    let engine = RedbEngine::open(&directory.0, Options::default()).unwrap();
    for (table, count) in [
        (Table::Sessions, contents.sessions),
        (Table::Subscriptions, contents.subscriptions),
        (Table::Messages, contents.messages),
        (Table::Queues, contents.queued),
        (Table::ReceivedQos2, contents.received_qos2),
        (Table::Retained, contents.retained),
    ] {
        let (mut rows, mut in_flight) = (0, 0);
        engine
            .scan(table, &mut |record| {
                rows += 1;
                if let Record::Queued { queued, .. } = record {
                    in_flight += u64::from(queued.state.packet_id().is_some());
                    // Past its PUBREC it is no message any more.
                    rows -= u64::from(queued.state.message().is_none());
                }
            })
            .unwrap();
        assert_eq!(count, rows, "{table:?}");
        if table == Table::Queues {
            assert_eq!(contents.in_flight, in_flight);
        }
    }
}

#[test]
fn a_store_that_was_killed_is_looked_over_and_left_as_it_is() {
    let directory = Directory::new("killed");
    let killed = Directory::new("killed-copy");
    let engine = RedbEngine::open(&directory.0, Options::default()).unwrap();
    let model = live(&engine, 200);
    engine.flush();
    // A file that is copied while it is open is one that was never closed.
    fs::copy(directory.store(), killed.store()).unwrap();
    drop(engine);
    let before = fs::read(killed.store()).unwrap();
    let report = ClosedStore::lock(&killed.0)
        .unwrap()
        .check(&mut ())
        .unwrap();
    assert_eq!(report.problems.first, [""; 0]);
    assert_eq!(fs::read(killed.store()).unwrap(), before);
    let engine = RedbEngine::open(&killed.0, Options::default()).unwrap();
    check_same(&*engine, &model, "after it was looked over");
}

#[test]
fn a_backup_is_a_store_with_the_same_content() {
    let directory = Directory::new("backup");
    let model = directory.make_store(300);
    let copy = Directory::new("backup-copy");
    let store = ClosedStore::lock(&directory.0).unwrap();
    let contents = store.backup(&copy.store(), &mut ()).unwrap();
    assert_eq!(contents, store.check(&mut ()).unwrap().contents);
    assert_eq!(
        store.backup(&copy.store(), &mut ()),
        Err(StorageError::Exists {
            path: copy.store().display().to_string().into()
        })
    );
    let names: Vec<_> = fs::read_dir(&copy.0).unwrap().collect();
    assert_eq!(names.len(), 1, "{names:?}");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(copy.store()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    assert_eq!(
        ClosedStore::at(&copy.store())
            .unwrap()
            .check(&mut ())
            .unwrap()
            .problems
            .count,
        0
    );
    let engine = RedbEngine::open(&copy.0, Options::default()).unwrap();
    check_same(&*engine, &model, "the backup");
}

#[test]
fn a_compact_store_is_small_and_has_the_same_content() {
    let directory = Directory::new("compact");
    let model = directory.make_store(600);
    let report = ClosedStore::lock(&directory.0)
        .unwrap()
        .compact(&mut ())
        .unwrap();
    assert!(report.after < report.before, "{report:?}");
    assert_eq!(fs::metadata(directory.store()).unwrap().len(), report.after);
    let engine = RedbEngine::open(&directory.0, Options::default()).unwrap();
    check_same(&*engine, &model, "after it was made small");
}

#[test]
fn a_store_without_a_fault_is_not_repaired() {
    let directory = Directory::new("whole");
    directory.make_store(100);
    let before = fs::read(directory.store()).unwrap();
    let store = ClosedStore::lock(&directory.0).unwrap();
    assert_eq!(store.repair("damaged", &mut ()), Ok(None));
    assert_eq!(fs::read(directory.store()).unwrap(), before);
}

#[test]
fn a_repaired_store_has_everything_that_was_not_hit() {
    let flips = number_from_environment("FLIPS").unwrap_or(40);
    let directory = Directory::new("flipped");
    directory.make_store(400);
    let whole = fs::read(directory.store()).unwrap();
    let original = all_records(&directory.0);
    let used: Vec<usize> = (0..whole.len() / PAGE)
        .filter(|page| whole[page * PAGE..][..PAGE].iter().any(|byte| *byte != 0))
        .collect();
    let mut random = Random(number_from_environment("SEED").unwrap_or(3));
    let (mut repaired, mut most_lost) = (0, 0);
    for flip in 0..flips {
        let damaged = Directory::new("flipped-copy");
        let mut bytes = whole.clone();
        let at = random.pick(&used) * PAGE + random.below(PAGE as u64) as usize;
        let bit = random.below(8);
        bytes[at] ^= 1 << bit;
        fs::write(damaged.store(), &bytes).unwrap();
        let context = format!("flip {flip}: bit {bit} of byte {at}");
        let found = ClosedStore::lock(&damaged.0).unwrap().check(&mut ());
        assert_eq!(fs::read(damaged.store()).unwrap(), bytes, "{context}");
        let report = ClosedStore::lock(&damaged.0)
            .unwrap()
            .repair("damaged", &mut ())
            .unwrap_or_else(|error| panic!("{context}: {error}"));
        let problems = found.unwrap().problems;
        assert_eq!(
            report.is_some(),
            problems.count > 0,
            "{context}: {problems:?}"
        );
        let Some(report) = report else { continue };
        repaired += 1;
        assert_eq!(fs::read(&report.set_aside).unwrap(), bytes, "{context}");
        let saved = all_records(&damaged.0);
        if report.stray == 0 {
            // Without what says how far a session has come, it is given again what it had.
            let again = |table: &(&str, u64)| ["cursors", "blocks"].contains(&table.0);
            let again = report.dropped.iter().any(again);
            let wrong: Vec<&String> = saved
                .difference(&original)
                .filter(|record| !again || !record.starts_with("Queued"))
                .collect();
            assert!(wrong.is_empty(), "{context}: {report:?}\n{wrong:?}");
        }
        let lost = original.difference(&saved).count();
        most_lost = lost.max(most_lost);
        // What stands in one page, and what is queued for one session.
        assert!(
            lost < original.len() / 3,
            "{context}: {lost} of {}: {report:?}",
            original.len()
        );
    }
    println!(
        "{repaired} of {flips} repaired, at most {most_lost} of {} records lost",
        original.len()
    );
    assert!(
        repaired > flips / 10,
        "hardly any of the flips hit anything"
    );
}

#[test]
fn what_is_exported_and_imported_is_exported_as_the_same_bytes() {
    let golden = Directory::new("export-golden");
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/golden/format-1.redb.pages"
    );
    fs::write(golden.store(), support::stretch(&fs::read(path).unwrap())).unwrap();
    let lived = Directory::new("export-lived");
    lived.make_store(200);
    let empty = Directory::new("export-empty");
    drop(RedbEngine::open(&empty.0, Options::default()).unwrap());
    for (directory, same_clock) in [(golden, false), (lived, false), (empty, true)] {
        let exported = export(&directory.0);
        let imported = Directory::new("export-imported");
        let contents = ClosedStore::import(&imported.0, &mut exported.as_slice(), &mut ()).unwrap();
        let first = ClosedStore::lock(&directory.0).unwrap();
        assert_eq!(contents, first.check(&mut ()).unwrap().contents);
        drop(first);
        let again = export(&imported.0);
        assert!(
            exported == again,
            "{}\n{}",
            String::from_utf8_lossy(&exported),
            String::from_utf8_lossy(&again)
        );
        let (one, other) = (all_records(&directory.0), all_records(&imported.0));
        if same_clock {
            assert_eq!(one, other);
        }
        assert_eq!(one.len(), other.len());
    }
}

#[test]
fn a_store_that_holds_something_is_not_imported_over() {
    let directory = Directory::new("import-over");
    directory.make_store(20);
    let exported = export(&directory.0);
    let before = fs::read(directory.store()).unwrap();
    let error = ClosedStore::import(&directory.0, &mut exported.as_slice(), &mut ()).unwrap_err();
    assert!(matches!(error, StorageError::Exists { .. }), "{error}");
    assert_eq!(fs::read(directory.store()).unwrap(), before);
    let empty = Directory::new("import-over-empty");
    drop(RedbEngine::open(&empty.0, Options::default()).unwrap());
    ClosedStore::import(&empty.0, &mut exported.as_slice(), &mut ()).unwrap();
    assert!(export(&empty.0) == exported);
}

#[test]
fn a_line_that_cannot_be_is_named_and_nothing_is_imported() {
    let whole = [
        r#"{"type":"nightjar_export","version":1,"wall_clock":1700000000000,"message_id_max":9,"place_floor":0}"#,
        r#"{"type":"session","client_id":"a","protocol_version":5,"session_expiry_interval":60,"received_packet_ids":[1,300],"released":[{"packet_id":7,"order":2,"message_id":2,"place":2}],"next_place":5}"#,
        r#"{"type":"subscription","client_id":"a","topic_filter":"t/#","qos":1,"no_local":false,"retain_as_published":false,"retain_handling":0}"#,
        r#"{"type":"group","share_name":"g","topic_filter":"t","next_place":2}"#,
        r#"{"type":"message","message_id":3,"topic":"t/1","qos":1,"retain":false,"properties":"","payload":"aGVsbG8=","queues":[{"owner":{"client_id":"a"},"place":3,"qos":1,"retain":false,"sent":{"packet_id":8,"order":3}},{"owner":{"share_name":"g","topic_filter":"t"},"place":1,"qos":1,"retain":false}]}"#,
        r#"{"type":"retained","topic":"t/1","message_id":9,"qos":1,"retain":true,"retain_sequence":4,"properties":"","payload":""}"#,
        r#"{"type":"end","lines":6}"#,
    ];
    let import = |lines: &[String]| {
        let directory = Directory::new("import-bad");
        let text = lines.join("\n");
        let result = ClosedStore::import(&directory.0, &mut text.as_bytes(), &mut ());
        assert_eq!(result.is_ok(), directory.store().exists());
        assert!(!directory.0.join("nightjar.redb.new").exists());
        result
    };
    let whole = whole.map(String::from);
    let contents = import(&whole).unwrap();
    assert_eq!((contents.messages, contents.queued), (1, 2));
    assert_eq!((contents.in_flight, contents.received_qos2), (2, 2));
    for (line, from, to, expected) in [
        (
            1,
            "\"version\":1",
            "\"version\":2",
            "version 2 of the format",
        ),
        (2, "{", "", "expected"),
        (
            2,
            "\"client_id\":\"a\"",
            "\"client_id\":\"\"",
            "client_id: empty",
        ),
        (
            2,
            "protocol_version\":5",
            "protocol_version\":6",
            "6 is no protocol_version",
        ),
        (2, "[1,300]", "[1,1]", "packet id 1 is 0 or there twice"),
        (
            2,
            "place\":2",
            "place\":5",
            "place 5 is not between 0 and next_place 5",
        ),
        (
            2,
            "\"next_place",
            "\"next_plaice",
            "unknown field `next_plaice`",
        ),
        (3, "\"a\"", "\"b\"", "must come behind its session"),
        (3, "t/#", "t/#/u", "topic_filter: "),
        (3, "qos\":1", "qos\":3", "3 is no QoS"),
        (
            4,
            "\"g\"",
            "\"g/h\"",
            "share_name or topic_filter cannot be",
        ),
        (5, "aGVsbG8=", "aGVsbG8", "this is not base64"),
        (
            5,
            "properties\":\"\"",
            "properties\":\"AQE=AQE=\"",
            "this is not base64",
        ),
        (
            5,
            "properties\":\"\"",
            "properties\":\"IwAB\"",
            "properties: no topic alias",
        ),
        (
            5,
            "properties\":\"\"",
            "properties\":\"/w==\"",
            "properties: ",
        ),
        (5, "topic\":\"t/1\"", "topic\":\"t/+\"", "topic: "),
        (
            5,
            "{\"client_id\":\"a\"}",
            "{\"client_id\":\"z\"}",
            "has no session or group line",
        ),
        (
            5,
            "packet_id\":8",
            "packet_id\":7",
            "packet id 7 is 0 or in use twice",
        ),
        (
            5,
            "place\":3",
            "place\":2",
            "place 2 of a queue is taken twice",
        ),
        (6, "retained", "group", ""),
        (
            7,
            "6",
            "5",
            "5 lines were written before this one, 6 are there",
        ),
    ] {
        let mut lines = whole.clone();
        let changed = lines[line - 1].replacen(from, to, 1);
        assert_ne!(changed, lines[line - 1], "{from}");
        lines[line - 1] = changed;
        let error = import(&lines).unwrap_err();
        assert!(
            matches!(&error, StorageError::Line { number, .. } if *number == line as u64),
            "{from}: {error}"
        );
        assert!(error.to_string().contains(expected), "{from}: {error}");
    }
    for lines in 0..whole.len() {
        let error = import(&whole[..lines]).unwrap_err();
        assert!(error.to_string().contains("the end is missing"), "{error}");
    }
    let error = import(&whole[1..]).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("must be that of type nightjar_export"),
        "{error}"
    );
    let mut lines = whole.to_vec();
    lines.push("{}".into());
    assert!(
        import(&lines)
            .unwrap_err()
            .to_string()
            .contains("behind the end")
    );
}

#[test]
fn what_is_not_a_store_is_refused_and_left_as_it_is() {
    let directory = Directory::new("strange");
    let missing = ClosedStore::lock(&directory.0.join("nothing")).unwrap_err();
    assert!(matches!(missing, StorageError::Missing { .. }), "{missing}");
    assert!(!directory.0.join("nothing").exists(), "it was made");
    for bytes in [
        b"".to_vec(),
        b"a letter to my aunt".to_vec(),
        vec![7; 10_000],
    ] {
        fs::write(directory.store(), &bytes).unwrap();
        let store = ClosedStore::lock(&directory.0).unwrap();
        let foreign = |error| matches!(error, StorageError::Foreign { .. });
        assert!(foreign(store.check(&mut ()).unwrap_err()));
        assert!(foreign(
            store.backup(&directory.0.join("b"), &mut ()).unwrap_err()
        ));
        assert!(foreign(store.repair("damaged", &mut ()).unwrap_err()));
        let store = ClosedStore::lock(&directory.0).unwrap();
        assert!(foreign(store.compact(&mut ()).unwrap_err()));
        assert_eq!(fs::read(directory.store()).unwrap(), bytes);
    }
    fs::remove_file(directory.store()).unwrap();
    directory.make_store(10);
    let _engine = RedbEngine::open(&directory.0, Options::default()).unwrap();
    let in_use = ClosedStore::lock(&directory.0).unwrap_err();
    assert!(matches!(in_use, StorageError::InUse { .. }), "{in_use}");
}

fn export(path: &Path) -> Vec<u8> {
    let mut lines = Vec::new();
    ClosedStore::lock(path)
        .unwrap()
        .export(&mut lines, Path::new("memory"), &mut ())
        .unwrap();
    lines
}

/// Everything in the store of a directory, in words, one for each record.
fn all_records(path: &Path) -> BTreeSet<String> {
    let engine = RedbEngine::open(path, Options::default()).unwrap();
    check_integrity(&*engine);
    let mut records = BTreeSet::new();
    for table in Table::ALL {
        engine
            .scan(table, &mut |record| {
                // How many own a message changes when one of them is lost; queues say it better.
                let record = match record {
                    Record::Message { message, .. } => Record::Message { message, owners: 0 },
                    Record::Clock(_) => return,
                    other => other,
                };
                records.insert(format!("{record:?}"));
            })
            .unwrap();
    }
    records
}

/// Works with the store, and gives what it should hold.
fn live(engine: &RedbEngine, batches: u32) -> Image {
    let mut world = World::new();
    world.padding_max = 400;
    let mut random = Random(5);
    for batch in 0..batches {
        engine.append(Batch(world.batch(&mut random))).unwrap();
        if batch % 10 == 0 {
            engine.flush();
        }
    }
    for _ in 0..batches {
        for operations in [world.queue_for("e", &mut random), world.batch(&mut random)] {
            engine.append(Batch(operations)).unwrap();
        }
    }
    // So many that trees have branches.
    for number in 0..batches {
        let client_id = format!("another-client-with-a-name-{number}");
        engine
            .append(Batch(world.queue_for(&client_id, &mut random)))
            .unwrap();
    }
    let clock = vec![Operation::PutClock(nightjar_storage::ClockRecord {
        broker: 5_000,
        wall: 1_700_000_000_000,
    })];
    clock
        .iter()
        .for_each(|operation| world.latest.fold(operation));
    engine.append(Batch(clock)).unwrap();
    world.latest
}

/// A directory of its own, gone at the end.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("nightjar-closed-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn store(&self) -> PathBuf {
        self.0.join("nightjar.redb")
    }

    fn make_store(&self, batches: u32) -> Image {
        let engine = RedbEngine::open(&self.0, Options::default()).unwrap();
        live(&engine, batches)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const PAGE: usize = 4096;
