//! The keys of `nightjar.toml`.
//!
//! In: the text of the file. Out: `Settings`, or the first fault with its place. `KEYS` is the
//! whole list: a key has the name of its field in `Settings`, and `docs/configuration.md` has a row
//! for each (a test compares the three). Sizes are bytes or text such as "256 MiB", times are
//! seconds or text such as "10 s". A key that is not in the list is refused, so a misspelt bound
//! is never silently absent.

use super::Fault;
use crate::settings::{DEFAULT_PORT, Endpoint, ListenerSettings, LogLevel, QueuePolicy, Settings};
use ::toml::Spanned;
use ::toml::de::{DeTable, DeValue};
use nightjar_storage::Durability;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

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
        settings.security.allow_anonymous = false;
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
    Path(fn(&mut Settings, PathBuf)),
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
    Key {
        name: "allow_anonymous",
        kind: Kind::Switch(|settings, on| settings.security.allow_anonymous = on),
    },
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
        will_restart_grace_seconds,
        Seconds,
        0,
        HOUR,
        "0 publishes them at once, unless they ask for a delay"
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
    number!(
        queue_memory_bytes_max,
        Bytes,
        0,
        BYTES_MAX,
        "0 reads everything that waits from the store"
    ),
    number!(
        queue_memory_total_bytes_max,
        Bytes,
        0,
        BYTES_MAX,
        "0 reads everything that waits from the store"
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
        disk_free_min,
        Count,
        0,
        50,
        "percent of the file system; 0 fills it to the last byte"
    ),
    number!(
        journal_pending_bytes_max,
        Bytes,
        TOTAL_BUFFER_MIN,
        BYTES_MAX,
        "one message must fit"
    ),
    number!(
        journal_wait_seconds,
        Seconds,
        1,
        HOUR,
        "a disk may take its time"
    ),
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
    switch!(persistence),
    Key {
        name: "data_directory",
        kind: Kind::Path(|settings, path| settings.data_directory = Some(path)),
    },
    Key {
        name: "durability",
        kind: Kind::Choice {
            words: DURABILITIES,
            set: |settings, word| match durability(word) {
                Some(durability) => {
                    settings.durability = durability;
                    true
                }
                None => false,
            },
        },
    },
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

const DURABILITIES: &[&str] = &["synced", "written", "memory"];

fn durability(word: &str) -> Option<Durability> {
    match word {
        "synced" => Some(Durability::Synced),
        "written" => Some(Durability::Written),
        "memory" => Some(Durability::Memory),
        _ => None,
    }
}

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
            Kind::Path(set) => {
                let path = value.as_str().filter(|text| !text.is_empty());
                let path = path.ok_or_else(|| {
                    format!("expected the path of a directory, found {}", found(value))
                })?;
                set(settings, path.into());
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
fn listeners(value: &Spanned<DeValue<'_>>) -> Result<Vec<Arc<ListenerSettings>>, Fault> {
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
    let mut listeners: Vec<Arc<ListenerSettings>> = Vec::with_capacity(tables.len());
    for table in tables.iter() {
        let offset = table.span().start;
        let entries = table.get_ref().as_table().ok_or_else(|| {
            let message = format!(
                "expected a section with an address, found {}",
                found(table.get_ref())
            );
            fault(offset, message)
        })?;
        let is_known = |name: &str| ["address", "durability"].contains(&name);
        if let Some(key) = entries.keys().find(|key| !is_known(key.get_ref())) {
            let message = format!(
                "unknown key '{}'; a listener has an address, such as \"0.0.0.0:{DEFAULT_PORT}\", \
                 and may have a durability",
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
        let endpoint = Endpoint::Tcp(parsed);
        if parsed.port() != 0
            && listeners
                .iter()
                .any(|known| known.endpoints.contains(&endpoint))
        {
            let message = format!("{parsed} is there twice");
            return Err(fault(address.span().start, message));
        }
        let durability = match entries.get("durability") {
            None => None,
            Some(value) => {
                let known = value.get_ref().as_str().and_then(durability);
                Some(known.ok_or_else(|| {
                    let message = format!(
                        "expected one of \"{}\", found {}",
                        DURABILITIES.join("\", \""),
                        found(value.get_ref())
                    );
                    fault(value.span().start, message)
                })?)
            }
        };
        listeners.push(Arc::new(ListenerSettings {
            durability,
            ..ListenerSettings::at(endpoint)
        }));
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
    ("persistence_location", "data_directory"),
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
mod tests;
