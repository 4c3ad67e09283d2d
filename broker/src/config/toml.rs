//! The keys of `nightjar.toml`.
//!
//! In: the text of the file. Out: `Settings`, or the first fault with its place. `KEYS` is the
//! whole list: a key has the name of its field in `Settings`, and `docs/configuration.md` has a row
//! for each (a test compares the three). Sizes are bytes or text such as "256 MiB", times are
//! seconds or text such as "10 s". A key that is not in the list is refused, so a misspelt bound
//! is never silently absent.

mod keys;
mod listeners;

use keys::{BYTES_MAX, KEYS, U32};

use super::Fault;
use crate::settings::Settings;
use ::toml::de::{DeTable, DeValue};
use std::path::PathBuf;

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
            settings.listeners = listeners::listeners(value)?;
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
    Text {
        expected: &'static str,
        /// False if the text is not what is expected.
        set: fn(&mut Settings, &str) -> bool,
    },
    List {
        expected: &'static str,
        /// False if a word is not what is expected.
        set: fn(&mut Settings, &[&str]) -> bool,
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
                let path =
                    path.ok_or_else(|| format!("expected a path, found {}", found(value)))?;
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
            Kind::Text { expected, set } => {
                let taken = value.as_str().is_some_and(|text| set(settings, text));
                taken
                    .then_some(())
                    .ok_or_else(|| format!("expected {expected}, found {}", found(value)))
            }
            Kind::List { expected, set } => {
                let refused = || format!("expected {expected}, found {}", found(value));
                let list = value.as_array().ok_or_else(refused)?;
                let words: Option<Vec<&str>> =
                    list.iter().map(|word| word.get_ref().as_str()).collect();
                let words = words.ok_or_else(refused)?;
                set(settings, &words).then_some(()).ok_or_else(refused)
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
    ("connection_messages", "log_connection_messages"),
    ("log_dest", "log_destinations"),
    ("log_type", "log_types or log_level"),
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
    ("message_size_limit", "payload_bytes_max"),
    (
        "persistent_client_expiration",
        "session_expiry_interval_max and v3_session_expiry_interval",
    ),
    ("persistence_location", "data_directory"),
    ("queue_qos0_messages", "queue_qos0"),
    ("sys_interval", "sys_interval_seconds"),
];

/// Options of mosquitto.conf that people will look for first.
const NOT_YET: &[&str] = &[
    "bridge",
    "cafile",
    "certfile",
    "connection",
    "include_dir",
    "keyfile",
    "per_listener_settings",
    "plugin",
    "protocol",
    "require_certificate",
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
