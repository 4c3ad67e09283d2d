//! Proofs of `toml.rs`: what it promises, by name.

use super::key::{Key, Kind};
use super::keys::{U16, U32};
use super::*;
use crate::settings::{Endpoint, ListenerSettings, LogSettings};
use nightjar_storage::Durability;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The settings, or the first fault of the file.
fn parse(text: &str) -> Result<Settings, Slip> {
    match super::parse(text) {
        Ok((settings, _)) => Ok(settings),
        Err(slips) => Err(slips.into_iter().next().unwrap()),
    }
}

#[test]
fn every_key_can_be_set_and_changes_its_field() {
    for key in KEYS {
        let default = Settings::default();
        let changed = examples(key).into_iter().any(|value| {
            // With the pairs out of the way, so that only the key itself decides.
            let mut settings = default.clone();
            let table = format!("{} = {value}", key.name);
            let table = DeTable::parse(&table).unwrap();
            let taken = key.set(&mut settings, table.get_ref()[key.name].get_ref());
            // Lists have words of their own, and so has an address; one of the examples fits each.
            if !matches!(key.kind, Kind::List { .. }) && key.name != "http_listener" {
                taken
                    .clone()
                    .unwrap_or_else(|message| panic!("{} = {value}: {message}", key.name));
            }
            taken.is_ok() && settings != default
        });
        assert!(changed, "{} changes nothing", key.name);
    }
}

/// Every numeric key at 0, 1, its limits and beyond: taken, or refused by name with a range.
#[test]
fn numbers_at_their_limits_are_taken_or_refused_clearly() {
    let room = "receive_bytes_max = \"1 GiB\"\nqos2_unreleased_bytes_max = \"1 GiB\"\n";
    for key in KEYS {
        let Kind::Number {
            minimum, maximum, ..
        } = key.kind
        else {
            continue;
        };
        let others: String = room
            .lines()
            .filter(|line| !line.starts_with(key.name))
            .flat_map(|line| [line, "\n"])
            .collect();
        let small = "max_packet_size = 1000\n".repeat(usize::from(key.name != "max_packet_size"));
        let values = [
            0,
            1,
            minimum,
            maximum,
            maximum + 1,
            U16 + 1,
            U32 + 1,
            i64::MAX.unsigned_abs(),
            u64::MAX,
        ];
        for value in values {
            for text in [value.to_string(), format!("\"{value}\"")] {
                let result = parse(&format!("{small}{others}{} = {text}\n", key.name));
                let inside = (minimum..=maximum).contains(&value);
                match result {
                    Ok(_) => assert!(inside, "{} = {text} was taken", key.name),
                    Err(fault) => {
                        assert!(!inside, "{} = {text}: {fault:?}", key.name);
                        let message = &fault.message;
                        assert!(message.starts_with(&format!("{}: ", key.name)), "{message}");
                        assert!(message.contains("out of range, use "), "{message}");
                    }
                }
            }
        }
        let fault = parse(&format!("{} = -1", key.name)).unwrap_err();
        assert!(fault.message.contains("-1 is out of range"), "{fault:?}");
    }
}

/// The limits that the protocol sets, in numbers of their own.
#[test]
fn what_mqtt_does_not_allow_cannot_be_configured() {
    for line in [
        "maximum_qos = 3",
        "receive_maximum = 0",
        "receive_maximum = 65_536",
        "topic_alias_maximum = 65_536",
        "keep_alive_max = 65_536",
        "inflight_messages_max = 65_536",
        "max_packet_size = 0",
        "max_packet_size = 268_435_461",
        "session_expiry_interval_max = 4_294_967_296",
        "shards = 0",
        "shards = 257",
    ] {
        let message = parse(line).unwrap_err().message;
        assert!(message.contains("out of range"), "{line}: {message}");
    }
}

#[test]
fn sizes_and_times_may_be_text() {
    let settings = parse(
        "queue_bytes_max = \"256 MiB\"\nsend_bytes_max=\"1GB\"\nwill_bytes_max = 0x1_00\n\
         connect_timeout_seconds = \"2 min\"\nv3_session_expiry_interval = \"7 d\"\n\
         session_expiry_interval_max = \"never\"\nqos2_wait_seconds = \"10 s\"",
    )
    .unwrap();
    assert_eq!(settings.queue_bytes_max, 268_435_456);
    assert_eq!(settings.send_bytes_max, 1_000_000_000);
    assert_eq!(settings.will_bytes_max, 256);
    assert_eq!(settings.connect_timeout_seconds, 120);
    assert_eq!(settings.v3_session_expiry_interval, 604_800);
    assert_eq!(settings.session_expiry_interval_max, u32::MAX);
    assert_eq!(settings.qos2_wait_seconds, 10);
}

#[test]
fn a_wrong_unit_or_type_says_what_is_expected() {
    let cases = [
        ("queue_bytes_max = \"256 megs\"", "text such as \"64 KiB\""),
        ("queue_bytes_max = \"1.5 GiB\"", "found \"1.5 GiB\""),
        ("queue_bytes_max = \"\"", "expected bytes"),
        (
            "queue_bytes_max = \"99999999999999999999999 GiB\"",
            "expected bytes",
        ),
        (
            "queue_bytes_max = 99999999999999999999999999",
            "out of range",
        ),
        (
            "connect_timeout_seconds = \"500 ms\"",
            "text such as \"10 s\"",
        ),
        ("connect_timeout_seconds = 1.5", "found 1.5"),
        ("connect_timeout_seconds = \"never\"", "expected seconds"),
        ("shards = \"2 KiB\"", "a whole number"),
        ("allow_anonymous = 1", "expected true or false, found 1"),
        (
            "allow_anonymous = \"true\"",
            "expected true or false, found \"true\"",
        ),
        (
            "queue_policy = \"drop\"",
            "\"refuse\", \"drop_newest\", \"drop_oldest\"",
        ),
        ("log_level = {}", "found a value of type table"),
    ];
    for (text, expected) in cases {
        let message = parse(text).unwrap_err().message;
        assert!(message.contains(expected), "{text}: {message}");
    }
}

#[test]
fn an_unknown_key_gets_a_proposal() {
    let cases = [
        ("max_packetsize = 1", "did you mean 'max_packet_size'?"),
        ("listner = 1", "did you mean 'listeners'?"),
        ("max_queued_messages = 1", "here it is queue_messages_max"),
        ("plugin = \"x\"", "nightjar config migrate"),
        ("colour = \"red\"", "docs/configuration.md"),
        ("local_only = true", "unknown key 'local_only'"),
    ];
    for (text, expected) in cases {
        let message = parse(text).unwrap_err().message;
        assert!(message.contains(expected), "{text}: {message}");
    }
}

#[test]
fn the_first_fault_in_the_file_is_the_one_that_is_told() {
    let fault = parse("reason_strings = true\nzzz = 1\naaa = 1\n").unwrap_err();
    assert_eq!(fault.offset, 22);
    assert!(fault.message.contains("'zzz'"));
}

#[test]
fn a_listener_ends_local_only_mode_and_anonymous_access() {
    let settings = parse("[[listeners]]\naddress = \"0.0.0.0:1884\"\n").unwrap();
    assert!(!settings.local_only && !settings.security.allow_anonymous);
    assert_eq!(settings.listeners, [listener("0.0.0.0:1884")]);

    let settings = parse(
        "allow_anonymous = true\n[[listeners]]\naddress = \"[::1]:0\"\n\
         [[listeners]]\naddress = \"[::1]:0\"",
    )
    .unwrap();
    assert!(settings.security.allow_anonymous);
    assert_eq!(
        settings.listeners,
        [listener("[::1]:0"), listener("[::1]:0")]
    );

    let settings = parse("allow_anonymous = false").unwrap();
    assert!(settings.local_only && !settings.security.allow_anonymous);
}

#[test]
fn a_listener_that_cannot_be_is_refused() {
    let cases = [
        ("listeners = []", "write each as its own section"),
        ("listeners = 1883", "write each as its own section"),
        ("listeners = [1883]", "expected a section with an address"),
        ("[[listeners]]", "the address is missing"),
        (
            "[[listeners]]\naddress = 1883",
            "expected an IP address and a port",
        ),
        (
            "[[listeners]]\naddress = \"localhost:1883\"",
            "expected an IP address and a port",
        ),
        (
            "[[listeners]]\naddress = \"0.0.0.0:65536\"",
            "expected an IP address and a port",
        ),
        (
            "[[listeners]]\naddress = \"0.0.0.0:1\"\nport = 1",
            "unknown key 'port'",
        ),
        (
            "[[listeners]]\naddress = \"0.0.0.0:1\"\n[[listeners]]\naddress = \"0.0.0.0:1\"",
            "is there twice",
        ),
    ];
    for (text, expected) in cases {
        let message = parse(text).unwrap_err().message;
        assert!(message.contains(expected), "{text}: {message}");
    }
}

#[test]
fn bounds_that_exclude_each_other_are_refused() {
    let fault = parse("reason_strings = true\nreceive_bytes_max = \"1 MB\"\n").unwrap_err();
    assert_eq!(fault.offset, 22);
    assert!(fault.message.contains("max_packet_size"), "{fault:?}");
    let fault = parse("max_packet_size = \"64 MiB\"").unwrap_err();
    assert!(
        fault.message.contains("qos2_unreleased_bytes_max"),
        "{fault:?}"
    );
}

#[test]
fn every_field_has_a_key_and_a_row_in_the_manual() {
    let manual = include_str!("../../../../docs/configuration.md");
    let rows: BTreeSet<&str> = manual
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(name, _)| name)
        .collect();
    let keys: BTreeSet<&str> = KEYS
        .iter()
        .map(|key| key.name)
        .chain(["listeners"])
        .collect();
    assert_eq!(keys.len(), KEYS.len() + 1, "a key is there twice");

    let fields: BTreeSet<String> = fields().into_iter().collect();
    let fields: BTreeSet<&str> = fields.iter().map(String::as_str).collect();
    assert_eq!(fields, keys, "fields and keys");
    assert_eq!(rows, keys, "rows of docs/configuration.md and keys");
}

#[test]
fn the_manual_tells_the_defaults() {
    let manual = include_str!("../../../../docs/configuration.md");
    let mut lines = String::new();
    for line in manual.lines() {
        let mut cells = line.split('|').map(str::trim).skip(1);
        if let (Some(name), Some(default)) = (cells.next(), cells.next())
            && let Some(name) = name
                .strip_prefix('`')
                .and_then(|name| name.strip_suffix('`'))
            && name != "listeners"
            && let Some(value) = default
                .strip_prefix('`')
                .and_then(|value| value.strip_suffix('`'))
        {
            lines.push_str(&format!("{name} = {value}\n"));
        }
    }
    assert!(lines.lines().count() >= KEYS.len() - 8, "{lines}");
    let settings = parse(&lines).unwrap_or_else(|fault| panic!("{fault:?}"));
    assert_eq!(settings, Settings::default());
}

/// The example sets every key to its default, so that a line may be uncommented as it stands.
#[test]
fn the_example_file_is_valid_and_shows_defaults() {
    let example = include_str!("../../../../nightjar.toml.example");
    assert!(parse(example).is_ok());
    let uncommented: String = example
        .lines()
        .map(|line| {
            line.strip_prefix('#')
                .filter(|rest| !rest.starts_with(' '))
                .unwrap_or(line)
        })
        .flat_map(|line| [line, "\n"])
        .collect();
    let settings = parse(&uncommented).unwrap_or_else(|fault| panic!("{fault:?}"));
    let expected = Settings {
        listeners: settings.listeners.clone(),
        local_only: false,
        shards: settings.shards,
        data_directory: settings.data_directory.clone(),
        mosquitto_db: settings.mosquitto_db.clone(),
        process: settings.process.clone(),
        log: LogSettings {
            types: settings.log.types,
            timestamp_format: settings.log.timestamp_format.clone(),
            ..LogSettings::default()
        },
        ..Settings::default()
    };
    assert_eq!(
        settings,
        Settings {
            security: settings.security.clone(),
            ..expected
        }
    );
    for key in KEYS {
        assert!(
            uncommented
                .lines()
                .any(|line| line.starts_with(&format!("{} = ", key.name))),
            "{}",
            key.name
        );
    }
}

#[test]
fn a_listener_may_promise_less_or_more_than_the_default() {
    let text = "durability = \"written\"\n[[listeners]]\naddress = \"127.0.0.1:1\"\ndurability = \"memory\"\n\
                [[listeners]]\naddress = \"127.0.0.1:2\"\n";
    let settings = parse(text).unwrap();
    assert_eq!(settings.durability, Durability::Written);
    assert_eq!(settings.listeners[0].durability, Some(Durability::Memory));
    assert_eq!(settings.listeners[1].durability, None);
    let text = "[[listeners]]\naddress = \"127.0.0.1:1\"\ndurability = \"always\"\n";
    let fault = parse(text).unwrap_err();
    assert!(
        fault.message.contains("\"synced\", \"written\""),
        "{fault:?}"
    );
}

#[test]
fn an_empty_data_directory_is_refused() {
    for value in ["\"\"", "7", "true"] {
        let fault = parse(&format!("data_directory = {value}\n")).unwrap_err();
        assert!(fault.message.contains("expected a path"), "{fault:?}");
    }
}

/// The names of the fields as Debug prints them, one a line; those of the groups by themselves.
fn fields() -> Vec<String> {
    let shown = format!("{:#?}", Settings::default());
    let mut names = Vec::new();
    let mut group = "";
    for line in shown.lines() {
        let inner = line.trim_start_matches(' ');
        let depth = line.len() - inner.len();
        let Some((name, _)) = inner.split_once(": ") else {
            continue;
        };
        match (depth, group) {
            (4, _) => {
                group = name;
                if !["local_only", "security", "process", "log"].contains(&name) {
                    names.push(name.to_owned());
                }
            }
            (8, "security" | "process") => names.push(name.to_owned()),
            (8, "log") => names.push(format!("log_{name}")),
            _ => {}
        }
    }
    names
}

fn listener(address: &str) -> Arc<ListenerSettings> {
    Arc::new(ListenerSettings::at(Endpoint::Tcp(
        address.parse().unwrap(),
    )))
}

fn examples<T>(key: &Key<T>) -> Vec<String> {
    match &key.kind {
        Kind::Switch(_) => vec!["true".into(), "false".into()],
        Kind::Number {
            minimum, maximum, ..
        } => vec![minimum.to_string(), maximum.to_string()],
        Kind::Choice { words, .. } => words.iter().map(|word| format!("{word:?}")).collect(),
        Kind::Path(_) => vec!["\"/srv/mqtt\"".into()],
        Kind::Text { .. } => vec!["\"/srv/mqtt\"".into(), "\"off\"".into()],
        Kind::List { .. } => vec!["[\"error\"]".into(), "[\"stdout\"]".into()],
    }
}
