//! The keys of `nightjar.toml`.
//!
//! In: the text of the file. Out: `Settings`, or the first fault with its place. `KEYS` is the
//! whole list: a key has the name of its field in `Settings`, and `docs/configuration.md` has a row
//! for each (a test compares the three). Sizes are bytes or text such as "256 MiB", times are
//! seconds or text such as "10 s". A key that is not in the list is refused, so a misspelt bound
//! is never silently absent.

use super::Fault;
use crate::settings::{DEFAULT_PORT, ListenerSettings, LogLevel, QueuePolicy, Settings};
use ::toml::Spanned;
use ::toml::de::{DeTable, DeValue};
use std::net::SocketAddr;

/// Reads the text of a file.
pub(super) fn parse(text: &str) -> Result<Settings, Fault> {
    let table = DeTable::parse(text).map_err(|error| syntax_fault(text, &error))?;
    let mut entries: Vec<_> = table.get_ref().iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);

    let mut settings = Settings::default();
    let mut anonymous_chosen = false;
    for (key, value) in entries {
        let offset = key.span().start;
        let name = key.get_ref().as_ref();
        let place = |message| Fault { offset, message };
        if name == "listeners" {
            settings.listeners = listeners(value)?;
            settings.local_only = false;
        } else {
            let known = KEYS
                .iter()
                .find(|known| known.name == name)
                .ok_or_else(|| place(unknown_key(name)))?;
            known
                .set(&mut settings, value.get_ref())
                .map_err(|message| place(format!("{name}: {message}")))?;
            anonymous_chosen |= name == "allow_anonymous";
        }
    }
    if !settings.local_only && !anonymous_chosen {
        settings.allow_anonymous = false;
    }
    check_together(&settings).map_err(|(name, message)| Fault {
        // The key may be absent, when the other one made the pair impossible.
        offset: table
            .get_ref()
            .get_key_value(name)
            .map_or(0, |(key, _)| key.span().start),
        message: format!("{name}: {message}"),
    })?;
    Ok(settings)
}

/// One key, the values it takes, and where they go.
struct Key {
    name: &'static str,
    kind: Kind,
}

enum Kind {
    Switch(fn(&mut Settings, bool)),
    Number {
        unit: Unit,
        minimum: u64,
        maximum: u64,
        /// Said when a value is outside the range.
        advice: &'static str,
        /// False if the number does not fit the field.
        set: fn(&mut Settings, u64) -> bool,
    },
    Choice {
        words: &'static [&'static str],
        set: fn(&mut Settings, &str) -> bool,
    },
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Unit {
    Count,
    Bytes,
    Seconds,
    /// Seconds, or "never" for `u32::MAX`.
    Expiry,
}

macro_rules! switch {
    ($field:ident) => {
        Key {
            name: stringify!($field),
            kind: Kind::Switch(|settings, on| settings.$field = on),
        }
    };
}

macro_rules! number {
    ($field:ident, $unit:ident, $minimum:expr, $maximum:expr, $advice:expr) => {
        Key {
            name: stringify!($field),
            kind: Kind::Number {
                unit: Unit::$unit,
                minimum: $minimum,
                maximum: $maximum,
                advice: $advice,
                set: |settings, number| match number.try_into() {
                    Ok(number) => {
                        settings.$field = number;
                        true
                    }
                    Err(_) => false,
                },
            },
        }
    };
}

const KEYS: &[Key] = &[
    switch!(allow_anonymous),
    number!(
        connections_max,
        Count,
        0,
        COUNT_MAX,
        "0 means as many as file descriptors allow"
    ),
    number!(
        connect_timeout_seconds,
        Seconds,
        1,
        HOUR,
        "without a limit, silent connections would fill the broker"
    ),
    number!(
        keep_alive_max,
        Seconds,
        0,
        U16,
        "0 leaves the choice to the client"
    ),
    number!(
        shutdown_timeout_seconds,
        Seconds,
        0,
        HOUR,
        "0 stops at once"
    ),
    Key {
        name: "shards",
        kind: Kind::Number {
            unit: Unit::Count,
            minimum: 1,
            maximum: 256,
            advice: "leave the key out to use every CPU",
            set: |settings, number| {
                settings.shards = usize::try_from(number).ok();
                settings.shards.is_some()
            },
        },
    },
    number!(
        max_packet_size,
        Bytes,
        PACKET_MIN,
        PACKET_MAX,
        "MQTT has no larger packets, and with a smaller limit clients could not connect"
    ),
    number!(
        pre_auth_packet_size_max,
        Bytes,
        PACKET_MIN,
        PACKET_MAX,
        "a CONNECT with its Will must fit"
    ),
    number!(
        topic_levels_max,
        Count,
        1,
        U16,
        "a topic of 65,535 bytes has no more levels"
    ),
    number!(
        user_properties_max,
        Count,
        0,
        U16,
        "0 refuses every packet with a User Property"
    ),
    number!(
        topic_filters_max,
        Count,
        1,
        U16,
        "one SUBSCRIBE holds at least one"
    ),
    number!(receive_maximum, Count, 1, U16, "MQTT does not allow 0"),
    number!(topic_alias_maximum, Count, 0, U16, "0 means none"),
    number!(topic_alias_maximum_outbound, Count, 0, U16, "0 means none"),
    number!(maximum_qos, Count, 0, 2, "MQTT has QoS 0, 1 and 2"),
    switch!(retain_available),
    switch!(wildcard_subscription_available),
    switch!(shared_subscription_available),
    switch!(subscription_identifier_available),
    switch!(reason_strings),
    number!(
        session_expiry_interval_max,
        Expiry,
        0,
        U32,
        "0 ends every session with its connection, \"never\" lets a client keep it for ever"
    ),
    number!(
        v3_session_expiry_interval,
        Expiry,
        0,
        U32,
        "0 ends every session with its connection, \"never\" keeps it for ever"
    ),
    number!(
        sessions_max,
        Count,
        1,
        COUNT_MAX,
        "with 0 no client could connect"
    ),
    number!(
        subscriptions_per_session_max,
        Count,
        1,
        COUNT_MAX,
        "with 0 no client could subscribe"
    ),
    number!(
        subscriptions_max,
        Count,
        1,
        TOTAL_COUNT_MAX,
        "with 0 no client could subscribe"
    ),
    number!(
        will_bytes_max,
        Bytes,
        1,
        BYTES_MAX,
        "with 0 no client could connect with a Will"
    ),
    number!(
        inflight_messages_max,
        Count,
        1,
        U16,
        "0 would deliver nothing, and MQTT has 65,535 packet identifiers"
    ),
    number!(
        queue_messages_max,
        Count,
        0,
        TOTAL_COUNT_MAX,
        "0 means bound by queue_bytes_max only"
    ),
    number!(
        queue_bytes_max,
        Bytes,
        1,
        BYTES_MAX,
        "a queue without a bound would end in a broker without memory"
    ),
    number!(
        queue_total_bytes_max,
        Bytes,
        1,
        BYTES_MAX,
        "a queue without a bound would end in a broker without memory"
    ),
    Key {
        name: "queue_policy",
        kind: Kind::Choice {
            words: &["refuse", "drop_newest", "drop_oldest"],
            set: |settings, word| {
                settings.queue_policy = match word {
                    "refuse" => QueuePolicy::Refuse,
                    "drop_newest" => QueuePolicy::DropNewest,
                    "drop_oldest" => QueuePolicy::DropOldest,
                    _ => return false,
                };
                true
            },
        },
    },
    switch!(queue_qos0),
    number!(
        send_buffer_bytes_max,
        Bytes,
        BUFFER_MIN,
        GIB,
        "a connection needs room for what is being written"
    ),
    number!(
        send_bytes_max,
        Bytes,
        TOTAL_BUFFER_MIN,
        BYTES_MAX,
        "all connections share this room"
    ),
    number!(
        mail_bytes_max,
        Bytes,
        TOTAL_BUFFER_MIN,
        BYTES_MAX,
        "shards hand each other whole batches"
    ),
    number!(
        receive_bytes_max,
        Bytes,
        TOTAL_BUFFER_MIN,
        BYTES_MAX,
        "all connections share this room"
    ),
    number!(
        qos2_unreleased_max,
        Count,
        1,
        U16,
        "with 0 no 3.x client could publish with QoS 2"
    ),
    number!(
        qos2_unreleased_bytes_max,
        Bytes,
        TOTAL_BUFFER_MIN,
        BYTES_MAX,
        "one message must fit"
    ),
    number!(qos2_wait_seconds, Seconds, 0, HOUR, "0 closes at once"),
    number!(
        retained_count_max,
        Count,
        1,
        TOTAL_COUNT_MAX,
        "retain_available = false turns retained messages off"
    ),
    number!(
        retained_bytes_max,
        Bytes,
        1,
        BYTES_MAX,
        "retain_available = false turns retained messages off"
    ),
    Key {
        name: "log_level",
        kind: Kind::Choice {
            words: &["none", "error", "warning", "information", "debug", "all"],
            set: |settings, word| {
                settings.log_level = match word {
                    "none" => LogLevel::None,
                    "error" => LogLevel::Error,
                    "warning" => LogLevel::Warning,
                    "information" => LogLevel::Information,
                    "debug" => LogLevel::Debug,
                    "all" => LogLevel::All,
                    _ => return false,
                };
                true
            },
        },
    },
];

const U16: u64 = 65_535;
const U32: u64 = 4_294_967_295;
const HOUR: u64 = 3_600;
/// Things that are counted in 32 bits.
const COUNT_MAX: u64 = U32;
/// Sums of such things. Far from overflow when two are added.
const TOTAL_COUNT_MAX: u64 = 1 << 40;
const GIB: u64 = 1 << 30;
/// 1 PiB: more than any machine has, and far from overflow when two are added.
const BYTES_MAX: u64 = 1 << 50;
/// The shortest CONNECT of a 5.0 client fits, and Mosquitto has the same limit.
const PACKET_MIN: u64 = 20;
/// A fixed header of 5 bytes and the largest Remaining Length.
const PACKET_MAX: u64 = 268_435_460;
const BUFFER_MIN: u64 = 4_096;
const TOTAL_BUFFER_MIN: u64 = 65_536;

impl Key {
    fn set(&self, settings: &mut Settings, value: &DeValue<'_>) -> Result<(), String> {
        match &self.kind {
            Kind::Switch(set) => {
                let on = value
                    .as_bool()
                    .ok_or_else(|| format!("expected true or false, found {}", found(value)))?;
                set(settings, on);
                Ok(())
            }
            Kind::Choice { words, set } => {
                let chosen = value.as_str().is_some_and(|word| set(settings, word));
                chosen.then_some(()).ok_or_else(|| {
                    let words = words.join("\", \"");
                    format!("expected one of \"{words}\", found {}", found(value))
                })
            }
            Kind::Number {
                unit,
                minimum,
                maximum,
                advice,
                set,
            } => {
                let number = unit.read(value)?;
                let fits = (i128::from(*minimum)..=i128::from(*maximum)).contains(&number)
                    && u64::try_from(number).is_ok_and(|number| set(settings, number));
                fits.then_some(()).ok_or_else(|| {
                    format!(
                        "{} is out of range, use {} to {} ({advice})",
                        found(value),
                        unit.show(*minimum),
                        unit.show(*maximum),
                    )
                })
            }
        }
    }
}

impl Unit {
    /// The number of bytes, seconds or things that a value means.
    fn read(self, value: &DeValue<'_>) -> Result<i128, String> {
        let expected = || format!("expected {}, found {}", self.examples(), found(value));
        if let Some(integer) = value.as_integer() {
            return i128::from_str_radix(integer.as_str(), integer.radix()).map_err(|_| expected());
        }
        let text = value.as_str().ok_or_else(expected)?.trim();
        if self == Self::Expiry && text == "never" {
            return Ok(U32.into());
        }
        let end_of_digits = text
            .find(|character: char| !character.is_ascii_digit())
            .unwrap_or(text.len());
        let (digits, suffix) = text.split_at(end_of_digits);
        let factor = self
            .suffixes()
            .iter()
            .find(|(known, _)| *known == suffix.trim_start())
            .map(|(_, factor)| *factor)
            .ok_or_else(expected)?;
        let number: u64 = digits.parse().map_err(|_| expected())?;
        Ok(i128::from(number) * i128::from(factor))
    }

    fn suffixes(self) -> &'static [(&'static str, u64)] {
        match self {
            Self::Count => &[("", 1)],
            Self::Bytes => &[
                ("", 1),
                ("B", 1),
                ("kB", 1_000),
                ("KB", 1_000),
                ("MB", 1_000_000),
                ("GB", 1_000_000_000),
                ("TB", 1_000_000_000_000),
                ("KiB", 1 << 10),
                ("MiB", 1 << 20),
                ("GiB", 1 << 30),
                ("TiB", 1 << 40),
            ],
            Self::Seconds | Self::Expiry => &[
                ("", 1),
                ("s", 1),
                ("min", 60),
                ("h", 3_600),
                ("d", 86_400),
                ("w", 604_800),
            ],
        }
    }

    fn examples(self) -> &'static str {
        match self {
            Self::Count => "a whole number",
            Self::Bytes => "bytes as a whole number, or text such as \"64 KiB\" or \"256 MiB\"",
            Self::Seconds => "seconds as a whole number, or text such as \"10 s\" or \"5 min\"",
            Self::Expiry => {
                "seconds as a whole number, or text such as \"1 h\", \"7 d\" or \"never\""
            }
        }
    }

    fn show(self, number: u64) -> String {
        match self {
            Self::Count => number.to_string(),
            Self::Bytes if number == BYTES_MAX => "1024 TiB".into(),
            Self::Bytes => format!("{number} bytes"),
            Self::Expiry if number == U32 => "\"never\"".into(),
            Self::Seconds | Self::Expiry => format!("{number} s"),
        }
    }
}

/// `[[listeners]]`, at least one, each address once.
fn listeners(value: &Spanned<DeValue<'_>>) -> Result<Vec<ListenerSettings>, Fault> {
    let fault = |offset, message: String| Fault {
        offset,
        message: format!("listeners: {message}"),
    };
    let tables = value.get_ref().as_array().filter(|list| !list.is_empty());
    let tables = tables.ok_or_else(|| {
        let message = format!(
            "write each as its own section: [[listeners]], then address = \"0.0.0.0:{DEFAULT_PORT}\"; \
             without any, the broker serves this machine only"
        );
        fault(value.span().start, message)
    })?;
    let mut listeners: Vec<ListenerSettings> = Vec::with_capacity(tables.len());
    for table in tables.iter() {
        let offset = table.span().start;
        let entries = table.get_ref().as_table().ok_or_else(|| {
            let message = format!(
                "expected a section with an address, found {}",
                found(table.get_ref())
            );
            fault(offset, message)
        })?;
        if let Some(key) = entries.keys().find(|key| key.get_ref() != "address") {
            let message = format!(
                "unknown key '{}'; a listener has an address, such as \"0.0.0.0:{DEFAULT_PORT}\"",
                key.get_ref()
            );
            return Err(fault(key.span().start, message));
        }
        let address = entries
            .get("address")
            .ok_or_else(|| fault(offset, "the address is missing".into()))?;
        let parsed: Option<SocketAddr> = address
            .get_ref()
            .as_str()
            .and_then(|text| text.parse().ok());
        let parsed = parsed.ok_or_else(|| {
            let message = format!(
                "expected an IP address and a port, such as \"127.0.0.1:{DEFAULT_PORT}\", \
                 \"0.0.0.0:{DEFAULT_PORT}\" (every IPv4 address) or \"[::]:{DEFAULT_PORT}\" (every IPv6 address), \
                 found {}",
                found(address.get_ref())
            );
            fault(address.span().start, message)
        })?;
        // Port 0 is a different port each time.
        if parsed.port() != 0 && listeners.iter().any(|known| known.address == parsed) {
            let message = format!("{parsed} is there twice");
            return Err(fault(address.span().start, message));
        }
        listeners.push(ListenerSettings { address: parsed });
    }
    Ok(listeners)
}

/// Pairs of bounds that cannot both hold. Gives the key to blame.
fn check_together(settings: &Settings) -> Result<(), (&'static str, String)> {
    let packet = u64::from(settings.max_packet_size);
    let bounds = [
        ("receive_bytes_max", settings.receive_bytes_max),
        (
            "qos2_unreleased_bytes_max",
            settings.qos2_unreleased_bytes_max,
        ),
    ];
    for (name, bound) in bounds {
        if bound < packet {
            let message = format!(
                "{bound} bytes have no room for one packet of max_packet_size ({packet} bytes); \
                 raise this or lower that"
            );
            return Err((name, message));
        }
    }
    Ok(())
}

fn syntax_fault(text: &str, error: &::toml::de::Error) -> Fault {
    let message = if looks_like_mosquitto_conf(text) {
        "this looks like a mosquitto.conf, which this version cannot read; write it as TOML, \
         docs/configuration.md lists the keys and their names in Mosquitto"
            .into()
    } else {
        format!("not TOML: {}", error.message().replace('\n', ", "))
    };
    Fault {
        offset: error.span().map_or(0, |span| span.start),
        message,
    }
}

/// Whether the first line that says something is a bare word and a value, without `=` or `[`.
fn looks_like_mosquitto_conf(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim);
    let first = lines.find(|line| !line.is_empty() && !line.starts_with('#'));
    first.is_some_and(|line| {
        let mut words = line.split_whitespace();
        let name = words.next().unwrap_or_default();
        let is_name = name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        is_name && words.next().is_some_and(|word| !word.starts_with('='))
    })
}

fn unknown_key(name: &str) -> String {
    if let Some((_, ours)) = MOSQUITTO_NAMES.iter().find(|(theirs, _)| *theirs == name) {
        return format!("unknown key '{name}'; here it is {ours}");
    }
    if NOT_YET.contains(&name) {
        return format!("unknown key '{name}'; this version does not have it yet");
    }
    let names = KEYS.iter().map(|key| key.name).chain(["listeners"]);
    let nearest = names
        .map(|known| (distance(known, name), known))
        .min()
        .filter(|(distance, _)| *distance <= 3);
    match nearest {
        Some((_, known)) => format!("unknown key '{name}', did you mean '{known}'?"),
        None => format!("unknown key '{name}'; docs/configuration.md lists the keys"),
    }
}

/// Options of mosquitto.conf that exist here under another name.
const MOSQUITTO_NAMES: &[(&str, &str)] = &[
    ("listener", "[[listeners]] with address = \"IP:PORT\""),
    ("port", "[[listeners]] with address = \"IP:PORT\""),
    ("bind_address", "[[listeners]] with address = \"IP:PORT\""),
    ("log_type", "log_level"),
    ("max_connections", "connections_max"),
    ("global_max_connections", "connections_max"),
    ("global_max_clients", "sessions_max"),
    ("max_inflight_messages", "inflight_messages_max"),
    ("max_keepalive", "keep_alive_max"),
    ("max_qos", "maximum_qos"),
    ("max_queued_bytes", "queue_bytes_max"),
    ("max_queued_messages", "queue_messages_max"),
    ("max_topic_alias", "topic_alias_maximum"),
    ("max_topic_alias_broker", "topic_alias_maximum_outbound"),
    ("message_size_limit", "max_packet_size"),
    (
        "persistent_client_expiration",
        "session_expiry_interval_max and v3_session_expiry_interval",
    ),
    ("queue_qos0_messages", "queue_qos0"),
];

/// Options of mosquitto.conf that people will look for first.
const NOT_YET: &[&str] = &[
    "acl_file",
    "bridge",
    "cafile",
    "certfile",
    "connection",
    "include_dir",
    "keyfile",
    "log_dest",
    "password_file",
    "per_listener_settings",
    "persistence",
    "persistence_location",
    "pid_file",
    "plugin",
    "protocol",
    "require_certificate",
    "sys_interval",
    "user",
];

/// How many letters must be added, removed or replaced to make `left` of `right`.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().take(NAME_LENGTH_MAX).collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (above, letter) in left.chars().take(NAME_LENGTH_MAX).enumerate() {
        let mut diagonal = above;
        let mut last = above + 1;
        for (cell, other) in row.iter_mut().skip(1).zip(&right) {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = *cell;
            last = replaced.min(*cell + 1).min(last + 1);
            *cell = last;
        }
        if let Some(first) = row.first_mut() {
            *first = above + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

const NAME_LENGTH_MAX: usize = 64;

/// A value as a person would point at it.
fn found(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!(
            "{:?}",
            text.chars().take(NAME_LENGTH_MAX).collect::<String>()
        ),
        DeValue::Boolean(on) => on.to_string(),
        DeValue::Integer(integer) => integer.to_string(),
        DeValue::Float(float) => float.to_string(),
        other => format!("a value of type {}", other.type_str()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_key_can_be_set_and_changes_its_field() {
        for key in KEYS {
            let default = Settings::default();
            let changed = examples(key).into_iter().any(|value| {
                // With the pairs out of the way, so that only the key itself decides.
                let mut settings = default.clone();
                let table = format!("{} = {value}", key.name);
                let table = DeTable::parse(&table).unwrap();
                key.set(&mut settings, table.get_ref()[key.name].get_ref())
                    .unwrap_or_else(|message| panic!("{} = {value}: {message}", key.name));
                settings != default
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
            let small =
                "max_packet_size = 1000\n".repeat(usize::from(key.name != "max_packet_size"));
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
            ("password_file = \"x\"", "does not have it yet"),
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
    fn a_mosquitto_conf_is_recognised() {
        for text in [
            "# mine\nlistener 1883\nallow_anonymous true\n",
            "include_dir /etc/x",
        ] {
            let message = parse(text).unwrap_err().message;
            assert!(message.contains("mosquitto.conf"), "{message}");
        }
        let message = parse("allow_anonymous = yes").unwrap_err().message;
        assert!(message.starts_with("not TOML: "), "{message}");
    }

    #[test]
    fn a_listener_ends_local_only_mode_and_anonymous_access() {
        let settings = parse("[[listeners]]\naddress = \"0.0.0.0:1884\"\n").unwrap();
        assert!(!settings.local_only && !settings.allow_anonymous);
        assert_eq!(settings.listeners, [listener("0.0.0.0:1884")]);

        let settings = parse(
            "allow_anonymous = true\n[[listeners]]\naddress = \"[::1]:0\"\n\
             [[listeners]]\naddress = \"[::1]:0\"",
        )
        .unwrap();
        assert!(settings.allow_anonymous);
        assert_eq!(
            settings.listeners,
            [listener("[::1]:0"), listener("[::1]:0")]
        );

        let settings = parse("allow_anonymous = false").unwrap();
        assert!(settings.local_only && !settings.allow_anonymous);
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
        let manual = include_str!("../../../docs/configuration.md");
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

        // The names of the fields as Debug prints them, one a line.
        let shown = format!("{:#?}", Settings::default());
        let fields: BTreeSet<&str> = shown
            .lines()
            .filter_map(|line| line.strip_prefix("    ")?.split_once(": "))
            .map(|(name, _)| name)
            .filter(|name| !name.starts_with(' ') && *name != "local_only")
            .collect();
        assert_eq!(fields, keys, "fields and keys");
        assert_eq!(rows, keys, "rows of docs/configuration.md and keys");
    }

    #[test]
    fn the_manual_tells_the_defaults() {
        let manual = include_str!("../../../docs/configuration.md");
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
        assert!(lines.lines().count() >= KEYS.len() - 2, "{lines}");
        let settings = parse(&lines).unwrap_or_else(|fault| panic!("{fault:?}"));
        assert_eq!(settings, Settings::default());
    }

    /// The example sets every key to its default, so that a line may be uncommented as it stands.
    #[test]
    fn the_example_file_is_valid_and_shows_defaults() {
        let example = include_str!("../../../nightjar.toml.example");
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
            ..Settings::default()
        };
        assert_eq!(
            settings,
            Settings {
                allow_anonymous: settings.allow_anonymous,
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

    fn listener(address: &str) -> ListenerSettings {
        ListenerSettings {
            address: address.parse().unwrap(),
        }
    }

    fn examples(key: &Key) -> Vec<String> {
        match &key.kind {
            Kind::Switch(_) => vec!["true".into(), "false".into()],
            Kind::Number {
                minimum, maximum, ..
            } => vec![minimum.to_string(), maximum.to_string()],
            Kind::Choice { words, .. } => words.iter().map(|word| format!("{word:?}")).collect(),
        }
    }
}
