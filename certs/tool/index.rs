//! What was issued: one line of JSON for each certificate, oldest first, in a file beside the authority.
//!
//! A certificate is in the index before it is in any file, so that none is out there which cannot be revoked.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::fault::Fault;
use crate::place::{self, Over, Place, Readers};

/// Who a certificate is for.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    Server,
    Device,
}

/// One certificate.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    /// In hexadecimal, small letters, no zeros before it.
    pub(crate) serial: String,
    pub(crate) kind: Kind,
    /// A device's own; the first name of a server.
    pub(crate) id: String,
    /// Names and addresses of a server.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) names: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) site: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tenant: Option<String>,
    #[serde(with = "seconds")]
    pub(crate) not_before: Timestamp,
    #[serde(with = "seconds")]
    pub(crate) not_after: Timestamp,
    pub(crate) certificate_sha256: String,
    pub(crate) public_key_sha256: String,
    #[serde(
        default,
        with = "maybe_seconds",
        skip_serializing_if = "Option::is_none"
    )]
    pub(crate) revoked: Option<Timestamp>,
    /// The serial number of the certificate that was made to take its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) replaced_by: Option<String>,
    /// Until when it is let in beside the one that took its place, where that is before its end.
    #[serde(
        default,
        with = "maybe_seconds",
        skip_serializing_if = "Option::is_none"
    )]
    pub(crate) grace_until: Option<Timestamp>,
}

/// What can be said of a certificate at a moment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Status {
    Valid,
    /// Still valid, but there is a newer one.
    Replaced,
    Expired,
    Revoked,
}

impl Status {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Replaced => "replaced",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

impl Entry {
    /// When it became void, or will be: somebody said so, or the time beside the one that took its place is over.
    pub(crate) fn void_from(&self) -> Option<Timestamp> {
        self.revoked.into_iter().chain(self.grace_until).min()
    }

    pub(crate) fn is_void(&self, now: Timestamp) -> bool {
        self.void_from().is_some_and(|from| from <= now)
    }

    pub(crate) fn status(&self, now: Timestamp) -> Status {
        if self.is_void(now) {
            Status::Revoked
        } else if self.not_after < now {
            Status::Expired
        } else if self.replaced_by.is_some() {
            Status::Replaced
        } else {
            Status::Valid
        }
    }
}

/// All that was issued.
#[derive(Debug)]
pub(crate) struct Index {
    pub(crate) entries: Vec<Entry>,
    /// Where the newest of each id stands.
    newest: BTreeMap<(Kind, String), usize>,
}

impl Index {
    pub(crate) fn load(place: &Place) -> Result<Self, Fault> {
        let path = place.index();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(Fault::refused(format!(
                    "there is no authority in {}; `nightjar-certs init` makes one, --dir names another directory",
                    place.root().display()
                )));
            }
            Err(error) => return Err(Fault::file(&path, error)),
        };
        let entries: Vec<Entry> = text
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.trim().is_empty())
            .map(|(number, line)| {
                serde_json::from_str(line)
                    .map_err(|error| Fault::file(&path, format!("line {}: {error}", number + 1)))
            })
            .collect::<Result<_, _>>()?;
        let places = entries.iter().enumerate();
        let newest = places
            .map(|(place, entry)| ((entry.kind, entry.id.clone()), place))
            .collect();
        Ok(Self { entries, newest })
    }

    pub(crate) fn empty() -> Self {
        Self {
            entries: Vec::new(),
            newest: BTreeMap::new(),
        }
    }

    pub(crate) fn save(&self, place: &Place) -> Result<(), Fault> {
        let path = place.index();
        let mut text = String::new();
        for entry in &self.entries {
            text += &serde_json::to_string(entry).map_err(|error| Fault::file(&path, error))?;
            text.push('\n');
        }
        place::write(&path, text.as_bytes(), Readers::Owner, Over::Anything)
    }

    /// Puts a certificate in, and notes of the one that it takes the place of that it does.
    pub(crate) fn add(&mut self, entry: Entry) {
        let name = (entry.kind, entry.id.clone());
        let before = self.newest.insert(name, self.entries.len());
        if let Some(older) = before.and_then(|place| self.entries.get_mut(place)) {
            older.replaced_by = Some(entry.serial.clone());
        }
        self.entries.push(entry);
    }

    /// The certificates of an id, or the one with this serial number, oldest first. A device and a server may have the same name; then
    /// nobody can know who is meant.
    pub(crate) fn find(&self, wanted: &str) -> Result<Vec<usize>, Fault> {
        let places = |matches: &dyn Fn(&Entry) -> bool| -> Vec<usize> {
            let entries = self.entries.iter().enumerate();
            entries
                .filter(|(_, entry)| matches(entry))
                .map(|(place, _)| place)
                .collect()
        };
        let found = places(&|entry| entry.id == wanted);
        let kinds = |kind| found.iter().any(|place| self.at(*place).kind == kind);
        if kinds(Kind::Server) && kinds(Kind::Device) {
            return Err(Fault::asked(format!(
                "{wanted} is the name of a server and the id of a device; give the serial number that `list` shows"
            )));
        }
        if !found.is_empty() {
            return Ok(found);
        }
        let serial = serial_from(wanted);
        let found = places(&|entry| entry.serial == serial);
        if found.is_empty() {
            return Err(Fault::refused(format!(
                "{wanted} is no id and no serial number in the index; `nightjar-certs list` shows them"
            )));
        }
        Ok(found)
    }

    pub(crate) fn at(&self, place: usize) -> &Entry {
        &self.entries[place]
    }
}

/// A serial number as the index has it, however it was written: `0A:1B`, `0a1b`.
pub(crate) fn serial_from(text: &str) -> String {
    let plain: String = text
        .chars()
        .filter(|character| *character != ':')
        .collect::<String>()
        .to_ascii_lowercase();
    plain.trim_start_matches('0').to_owned()
}

mod seconds {
    use jiff::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(
        moment: &Timestamp,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(moment)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Timestamp, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

mod maybe_seconds {
    use jiff::Timestamp;
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        moment: &Option<Timestamp>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match moment {
            Some(moment) => super::seconds::serialize(moment, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Timestamp>, D::Error> {
        super::seconds::deserialize(deserializer).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::serial_from;

    #[test]
    fn a_serial_number_is_the_same_however_it_is_written() {
        for text in ["0A:1B", "a1b", "0A1B", "00:0a:1b"] {
            assert_eq!(serial_from(text), "a1b");
        }
    }
}
