//! The table of Mosquitto's options: what each needs before it, what it holds, and what it does to the draft.

mod bridges;
mod global;
mod listeners;

use super::Outcome;
use super::draft::Draft;
use super::values::Given;
use crate::config::distance;

/// One option.
pub(super) struct Opt {
    pub(super) name: &'static str,
    pub(super) scope: Scope,
    pub(super) kind: Kind,
    /// The key of nightjar.toml that it becomes; empty where there is none, or more than one.
    pub(super) key: &'static str,
    pub(super) set: fn(&mut Draft, Given<'_>) -> Outcome,
}

/// What has to be defined before an option, and what it belongs to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Scope {
    Global,
    /// The listener above it.
    Listener,
    /// The listener above it; without one, the default listener, which it opens.
    Door,
    /// The broker, or with `per_listener_settings true` the listener above it.
    Security,
    /// The connection above it.
    Bridge,
    /// The plugin above it.
    Plugin,
}

/// How the value is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    /// The next word: true, false, 1 or 0.
    Switch,
    /// The next word, between these.
    Number(i64, i64),
    /// The rest of the line, once.
    Text,
    /// The rest of the line, read by the option itself; may come again.
    Line,
    /// Not looked at.
    Any,
}

/// What a name stands for.
pub(super) enum Row {
    Known(&'static Opt),
    /// An option of versions long ago, with what to say about it.
    Removed(&'static str),
}

pub(super) fn find(name: &str) -> Option<Row> {
    let name = ALIASES
        .iter()
        .find(|(alias, _)| *alias == name)
        .map_or(name, |(_, name)| name);
    if let Some(option) = all().find(|option| option.name == name) {
        return Some(Row::Known(option));
    }
    REMOVED
        .contains(&name)
        .then_some(Row::Removed("Mosquitto has removed it; remove the line"))
}

pub(super) fn all() -> impl Iterator<Item = &'static Opt> {
    let tables = [global::OPTIONS, listeners::OPTIONS, bridges::OPTIONS];
    tables.into_iter().flatten()
}

/// The known name that a mistaken one was probably meant to be.
pub(super) fn nearest(name: &str) -> Option<&'static str> {
    all()
        .map(|option| (distance(option.name, name), option.name))
        .min()
        .filter(|(distance, known)| *distance <= 3 && *distance * 2 < known.len())
        .map(|(_, known)| known)
}

/// Other names of options.
pub(super) const ALIASES: &[(&str, &str)] = &[
    ("addresses", "address"),
    ("auth_plugin", "plugin"),
    ("clientid", "remote_clientid"),
    ("maximum_qos", "max_qos"),
    ("password", "remote_password"),
    ("retained_persistence", "persistence"),
    ("username", "remote_username"),
    ("websockets_headers_size", "packet_buffer_size"),
];

/// Options that Mosquitto had before 1.5.
pub(super) const REMOVED: &[&str] = &[
    "ffdc_output",
    "max_log_entries",
    "store_clean_interval",
    "trace_level",
    "trace_output",
];
