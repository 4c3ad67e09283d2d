//! The keys of `nightjar.toml`.
//!
//! In: the text of the file. Out: `Loaded`, or every fault with its place. `keys.rs` is the whole list: a key has the name of
//! its field in `Settings`, and `docs/configuration.md` has a row for each (a test compares the three); `listeners.rs` has
//! those of a listener. Sizes are bytes or text such as "256 MiB", times are seconds or text such as "10 s". A key that is
//! not in the list is refused, so a misspelt bound is never silently absent. `write.rs` goes the other way.

mod key;
mod keys;
mod listeners;
pub(super) mod write;

use super::{FAULTS_MAX, Fault, Loaded, Place, Sources, distance, mosquitto_conf};
use crate::settings::Settings;
use ::toml::de::DeTable;
use keys::KEYS;
use std::path::Path;
use std::sync::Arc;

/// Reads the bytes of a file.
pub(super) fn read(path: &Path, bytes: &[u8]) -> Result<Loaded, Vec<Fault>> {
    let file: Arc<Path> = path.into();
    let place = |text: &[u8], offset| Place {
        file: Arc::clone(&file),
        line: line_at(text, offset),
    };
    let text = std::str::from_utf8(bytes).map_err(|error| {
        vec![Fault {
            place: place(bytes, error.valid_up_to()),
            message: "not UTF-8 text; save the file as UTF-8".into(),
        }]
    })?;
    let (settings, offsets) = parse(text).map_err(|slips| {
        let slips = slips.into_iter().take(FAULTS_MAX);
        let faults = slips.map(|slip| Fault {
            place: place(bytes, slip.offset),
            message: slip.message,
        });
        faults.collect::<Vec<_>>()
    })?;
    let sources = offsets.into_iter();
    Ok(Loaded {
        settings,
        notes: Vec::new(),
        not_yet: Vec::new(),
        sources: sources
            .map(|(key, offset)| (key, place(bytes, offset)))
            .collect::<Sources>(),
    })
}

/// A fault, and where in the text it stands.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Slip {
    offset: usize,
    message: String,
}

/// Which key was said where.
type Offsets = Vec<(&'static str, usize)>;

fn parse(text: &str) -> Result<(Settings, Offsets), Vec<Slip>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        return Err(errors.iter().map(syntax_slip).collect());
    }
    let mut entries: Vec<_> = table.get_ref().iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);

    let mut settings = Settings::default();
    let mut offsets = Offsets::new();
    let mut slips = Vec::new();
    for (key, value) in entries {
        let offset = key.span().start;
        let name = key.get_ref().as_ref();
        if name == "listeners" {
            settings.listeners = listeners::read(value, &mut slips);
            settings.local_only = false;
            offsets.push(("listeners", offset));
            continue;
        }
        let result = match KEYS.iter().find(|known| known.name == name) {
            None => Err(unknown_key(name)),
            Some(known) => {
                offsets.push((known.name, offset));
                let result = known.set(&mut settings, value.get_ref());
                result.map_err(|message| format!("{name}: {message}"))
            }
        };
        slips.extend(result.err().map(|message| Slip { offset, message }));
    }
    if !settings.local_only && !offsets.iter().any(|(key, _)| *key == "allow_anonymous") {
        settings.security.allow_anonymous = false;
    }
    let misfits = misfits(&settings).into_iter();
    slips.extend(misfits.map(|(name, message)| {
        Slip {
            // The key may be absent, when the other one made the pair impossible.
            offset: table
                .get_ref()
                .get_key_value(name)
                .map_or(0, |(key, _)| key.span().start),
            message: format!("{name}: {message}"),
        }
    }));
    if slips.is_empty() {
        Ok((settings, offsets))
    } else {
        slips.sort_by_key(|slip| slip.offset);
        Err(slips)
    }
}

/// Pairs of bounds that cannot both hold, by the key to blame.
fn misfits(settings: &Settings) -> Vec<(&'static str, String)> {
    let packet = u64::from(settings.max_packet_size);
    let bounds = [
        ("receive_bytes_max", settings.receive_bytes_max),
        (
            "qos2_unreleased_bytes_max",
            settings.qos2_unreleased_bytes_max,
        ),
    ];
    let too_small = bounds.into_iter().filter(|(_, bound)| *bound < packet);
    too_small
        .map(|(name, bound)| {
            let message = format!(
                "{bound} bytes have no room for one packet of max_packet_size ({packet} bytes); \
                 raise this or lower that"
            );
            (name, message)
        })
        .collect()
}

fn syntax_slip(error: &::toml::de::Error) -> Slip {
    Slip {
        offset: error.span().map_or(0, |span| span.start),
        message: format!("not TOML: {}", error.message().replace('\n', ", ")),
    }
}

fn line_at(text: &[u8], offset: usize) -> usize {
    let before = text.get(..offset).unwrap_or(text);
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}

fn unknown_key(name: &str) -> String {
    if let Some(ours) = mosquitto_conf::name_here(name) {
        return format!("unknown key '{name}'; {ours}");
    }
    let names = KEYS.iter().map(|key| key.name).chain(["listeners"]);
    match nearest(name, names) {
        Some(known) => format!("unknown key '{name}', did you mean '{known}'?"),
        None => format!("unknown key '{name}'; docs/configuration.md lists the keys"),
    }
}

fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|known| (distance(known, name), known))
        .min()
        .filter(|(distance, _)| *distance <= 3)
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests;
