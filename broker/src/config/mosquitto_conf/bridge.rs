//! Connections to other brokers, read and checked. What they say is not kept: this version has no bridges.

use super::draft::Draft;
use super::values::{Given, integer, show};
use super::{Fate, Outcome};
use crate::config::{Fault, Note, Place};

pub(super) struct Bridge {
    name: Box<str>,
    place: Place,
    has_address: bool,
    has_topic: bool,
}

impl Bridge {
    /// There is a line with this option, whatever it says.
    pub(super) fn is_not_without(&mut self, option: &str) {
        self.has_address |= option == "address";
        self.has_topic |= option == "topic";
    }

    /// What has to be there and is not.
    pub(super) fn check(&self, faults: &mut Vec<Fault>) {
        let mut fault = |message: &str| {
            faults.push(Fault {
                place: self.place.clone(),
                message: message.to_owned(),
            });
        };
        if !self.has_address {
            fault(
                "Invalid bridge configuration: no remote addresses defined. Write address HOST:PORT below connection.",
            );
        } else if !self.has_topic {
            fault(
                "Invalid bridge configuration: no topics defined. Write topic PATTERN below connection.",
            );
        }
    }

    pub(super) fn not_yet(&self) -> Note {
        Note {
            place: Some(self.place.clone()),
            text: format!(
                "connection '{}': bridges are not in this version. Without them messages would stay behind, \
                 so the broker does not start. Take the section out to start without it",
                show(&self.name)
            ),
        }
    }
}

/// What becomes of every line of a connection.
pub(super) fn read_only() -> Outcome {
    Ok(Fate::ignored("bridges are not in this version"))
}

/// `connection NAME`.
pub(super) fn connection(draft: &mut Draft, given: Given<'_>) -> Outcome {
    let name = given.text();
    if draft.bridges.iter().any(|bridge| &*bridge.name == name) {
        return Err(format!(
            "Duplicate bridge name '{}'. Give each connection its own.",
            show(name)
        ));
    }
    if draft.bridges.len() >= BRIDGES_MAX {
        return Err(format!("Too many connections. Use at most {BRIDGES_MAX}."));
    }
    draft.bridges.push(Bridge {
        name: name.into(),
        place: draft.place.clone(),
        has_address: false,
        has_topic: false,
    });
    read_only()
}

/// `address HOST[:PORT] ...`.
pub(super) fn address(draft: &mut Draft, given: Given<'_>) -> Outcome {
    let Some(bridge) = draft.bridge().filter(|bridge| !bridge.has_address) else {
        return Err(
            "Duplicate 'address' value in configuration. Write all addresses in one line.".into(),
        );
    };
    bridge.has_address = true;
    for word in given.words() {
        if let Some((_, port)) = word.rsplit_once(':') {
            let number = integer(port).filter(|port| (1..=65_535).contains(port));
            number.ok_or_else(|| {
                format!(
                    "Invalid 'port' value ({}) in address '{}'. Use 1 to 65535; an IPv6 address needs a port behind it.",
                    show(port),
                    show(word)
                )
            })?;
        }
    }
    read_only()
}

/// `topic PATTERN [DIRECTION [QOS [LOCAL REMOTE]]]`.
pub(super) fn topic(draft: &mut Draft, given: Given<'_>) -> Outcome {
    if let Some(bridge) = draft.bridge() {
        bridge.has_topic = true;
    }
    let parts = parts(given.text())?;
    let part = |index: usize| parts.get(index).map(String::as_str);
    match part(1) {
        None | Some("out" | "in" | "both") => {}
        Some(other) => {
            return Err(format!(
                "Invalid bridge topic direction '{}'. Use out, in or both.",
                show(other)
            ));
        }
    }
    match part(2) {
        None | Some("0" | "1" | "2") => {}
        Some(other) => {
            return Err(format!(
                "Invalid bridge QoS level '{}'. Use 0, 1 or 2.",
                show(other)
            ));
        }
    }
    for prefix in [part(3), part(4)].into_iter().flatten() {
        if prefix.contains(['+', '#']) {
            return Err(format!(
                "Invalid bridge topic prefix '{}'. It holds no wildcards.",
                show(prefix)
            ));
        }
    }
    let pattern = part(0).unwrap_or_default();
    if pattern.is_empty() {
        let both = [part(3), part(4)];
        let complete = both
            .iter()
            .all(|prefix| prefix.is_some_and(|prefix| !prefix.is_empty()));
        if !complete {
            return Err(
                "Invalid bridge remapping. An empty pattern needs a local and a remote topic."
                    .into(),
            );
        }
    }
    read_only()
}

/// Words, where one in quotes may hold spaces or nothing.
fn parts(text: &str) -> Result<Vec<String>, String> {
    let mut parts = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() && parts.len() < 6 {
        if let Some(quoted) = rest.strip_prefix('"') {
            let (part, behind) = quoted.split_once('"').ok_or_else(|| {
                let last = quoted.rsplit(' ').next().unwrap_or_default();
                format!(
                    "Missing closing quote in topic value ({}). Write \" behind it.",
                    show(last)
                )
            })?;
            parts.push(part.to_owned());
            rest = behind.trim_start();
        } else {
            let (part, behind) = rest.split_once(' ').unwrap_or((rest, ""));
            parts.push(part.to_owned());
            rest = behind.trim_start();
        }
    }
    // "" stands for nothing.
    Ok(parts)
}

/// `restart_timeout CONSTANT` or `restart_timeout BASE CAP [STABLE]`.
pub(super) fn restart_timeout(_draft: &mut Draft, given: Given<'_>) -> Outcome {
    let numbers = numbers("restart_timeout", given, 1..=3)?;
    if let [base, cap, ..] = numbers[..]
        && cap < base
    {
        return Err(format!(
            "backoff cap is lower than the base in restart_timeout. {cap} stands after {base}; write the smaller number first."
        ));
    }
    read_only()
}

/// `bridge_tcp_keepalive IDLE INTERVAL COUNT`.
pub(super) fn tcp_keepalive(_draft: &mut Draft, given: Given<'_>) -> Outcome {
    numbers("bridge_tcp_keepalive", given, 3..=3)?;
    read_only()
}

fn numbers(
    name: &str,
    given: Given<'_>,
    count: std::ops::RangeInclusive<usize>,
) -> Result<Vec<i64>, String> {
    let mut numbers = Vec::new();
    for word in given.words().take(*count.end()) {
        let number = integer(word).ok_or_else(|| {
            format!(
                "'{name}' value not a number. Write a whole number instead of '{}'.",
                show(word)
            )
        })?;
        if number < 0 {
            return Err(format!(
                "Invalid '{name}' value ({}). Use 0 or more.",
                show(word)
            ));
        }
        numbers.push(number);
    }
    if numbers.len() < *count.start() {
        return Err(format!(
            "Empty '{name}' value in configuration. Write {} numbers behind it.",
            count.start()
        ));
    }
    Ok(numbers)
}

const BRIDGES_MAX: usize = 1_000;
