//! What a key of `nightjar.toml` is: a name, the values it takes, where they go and how they are written again.

use super::keys::{BYTES_MAX, U32};
use crate::config::NAME_LENGTH_MAX;
use ::toml::de::DeValue;
use std::path::PathBuf;

/// One key of a table that fills a `T`.
pub(super) struct Key<T> {
    pub(super) name: &'static str,
    pub(super) kind: Kind<T>,
    /// The value as it is written; `None` where nothing was chosen.
    pub(super) get: fn(&T) -> Option<Written>,
}

pub(super) enum Kind<T> {
    Switch(fn(&mut T, bool)),
    Number {
        unit: Unit,
        minimum: u64,
        maximum: u64,
        /// Said when a value is outside the range.
        advice: &'static str,
        /// False if the number does not fit the field.
        set: fn(&mut T, u64) -> bool,
    },
    Choice {
        words: &'static [&'static str],
        set: fn(&mut T, &str) -> bool,
    },
    Path(fn(&mut T, PathBuf)),
    Text {
        expected: &'static str,
        /// False if the text is not what is expected.
        set: fn(&mut T, &str) -> bool,
    },
    /// One text, or a list of them.
    List {
        expected: &'static str,
        /// False if a word is not what is expected.
        set: fn(&mut T, &[&str]) -> bool,
    },
}

/// A value as it stands in a file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Written {
    Switch(bool),
    Number(u64),
    Text(String),
    List(Vec<String>),
}

#[derive(Clone, Copy, Eq, PartialEq)]
pub(super) enum Unit {
    Count,
    Bytes,
    Seconds,
    /// Seconds, or "never" for `u32::MAX`.
    Expiry,
}

impl<T> Key<T> {
    pub(super) fn set(&self, settings: &mut T, value: &DeValue<'_>) -> Result<(), String> {
        if has_long_text(value) {
            return Err(format!(
                "text is longer than {TEXT_BYTES_MAX} bytes, found {}",
                found(value)
            ));
        }
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
                let words: Option<Vec<&str>> = match value.as_array() {
                    Some(list) => list.iter().map(|word| word.get_ref().as_str()).collect(),
                    None => value.as_str().map(|word| vec![word]),
                };
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

fn has_long_text(value: &DeValue<'_>) -> bool {
    let is_long = |value: &DeValue<'_>| {
        value
            .as_str()
            .is_some_and(|text| text.len() > TEXT_BYTES_MAX)
    };
    let list = value.as_array();
    is_long(value) || list.is_some_and(|list| list.iter().any(|word| is_long(word.get_ref())))
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

impl Written {
    /// As TOML.
    pub(super) fn to_toml(&self) -> String {
        let text = |text: &str| ::toml::Value::from(text).to_string();
        match self {
            Self::Switch(on) => on.to_string(),
            Self::Number(number) => number.to_string(),
            Self::Text(word) => text(word),
            Self::List(words) => {
                let words: Vec<String> = words.iter().map(|word| text(word)).collect();
                format!("[{}]", words.join(", "))
            }
        }
    }

    pub(super) fn path(path: &std::path::Path) -> Self {
        Self::Text(path.display().to_string())
    }
}

/// A value as a person would point at it.
pub(super) fn found(value: &DeValue<'_>) -> String {
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

/// No path is longer, and nothing else has to be.
const TEXT_BYTES_MAX: usize = 4_096;
