//! From a configuration file to `Settings`, or to one message that says where and what to do.
//!
//! In: a path. Out: `Loaded`, complete and checked, or every fault of the file. `toml.rs` knows the keys of nightjar.toml, and
//! `mosquitto_conf.rs` the options of mosquitto.conf; this file knows how a file is read, which of the two it is, and how a
//! fault in it is told.

pub mod command;
mod mosquitto_conf;
mod toml;

use crate::settings::Settings;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Reads and checks a configuration file that the broker is to run with.
pub fn load(path: &Path) -> Result<Settings, ConfigError> {
    let loaded = read(path)?;
    match loaded.not_yet.is_empty() {
        true => Ok(loaded.settings),
        false => Err(ConfigError::NotYet(loaded.not_yet)),
    }
}

/// Reads and checks a configuration file, whether this version can run with it or not.
pub fn read(path: &Path) -> Result<Loaded, ConfigError> {
    let bytes = bytes_of(path)?;
    match Format::of(path, &bytes) {
        Format::MosquittoConf => {
            let world = mosquitto_conf::World {
                variable: &|name| std::env::var(name).ok(),
                resolve: &resolve,
            };
            mosquitto_conf::read(path, &bytes, &world)
        }
        Format::Toml => toml::read(path, &bytes),
    }
    .map_err(ConfigError::Invalid)
}

/// What a configuration file says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Loaded {
    pub settings: Settings,
    /// What has no effect, for the person who expects one. Said at the start.
    pub notes: Vec<Note>,
    /// What this version does not have, and without which the broker would not be what the file describes. A file with
    /// some is right, but no broker starts with it.
    pub not_yet: Vec<Note>,
    /// Where each key was said last, by its name in nightjar.toml.
    pub sources: Sources,
}

/// Places by the names of keys.
pub type Sources = BTreeMap<&'static str, Place>;

/// A line of a file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Place {
    pub file: Arc<Path>,
    pub line: usize,
}

/// Something to tell about a line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Note {
    pub place: Option<Place>,
    pub text: String,
}

/// Something wrong with a line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fault {
    pub place: Place,
    pub message: String,
}

/// What is wrong with a configuration file, in words for the person who wrote it.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum ConfigError {
    Unreadable {
        file: PathBuf,
        reason: String,
    },
    /// At least one, in the order of the lines.
    Invalid(Vec<Fault>),
    /// At least one thing that this version does not have.
    NotYet(Vec<Note>),
}

/// The two languages.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Format {
    Toml,
    MosquittoConf,
}

impl Format {
    fn of(path: &Path, bytes: &[u8]) -> Self {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("toml") => Self::Toml,
            Some("conf") => Self::MosquittoConf,
            _ if mosquitto_conf::looks_like_one(&String::from_utf8_lossy(bytes)) => {
                Self::MosquittoConf
            }
            _ => Self::Toml,
        }
    }
}

fn bytes_of(path: &Path) -> Result<Vec<u8>, ConfigError> {
    let unreadable = |reason: String| ConfigError::Unreadable {
        file: path.to_owned(),
        reason,
    };
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| unreadable(error.to_string()))?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > FILE_BYTES_MAX {
        return Err(unreadable(format!(
            "it is larger than {FILE_BYTES_MAX} bytes"
        )));
    }
    Ok(bytes)
}

fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok((host, port).to_socket_addrs()?.collect())
}

impl Place {
    fn nowhere() -> Self {
        Self {
            file: Path::new("").into(),
            line: 0,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.file.display(), self.line)
    }
}

impl fmt::Display for Note {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(formatter, "{place}: {}.", self.text),
            None => write!(formatter, "{}.", self.text),
        }
    }
}

impl fmt::Display for ConfigError {
    /// Several lines, of which each but the first begins as `main.rs` begins that one, or as Mosquitto tells a place.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // The first sentence is Mosquitto's, word for word: scripts look for it.
            Self::Unreadable { file, reason } => write!(
                formatter,
                "Unable to open config file '{}'. {reason}",
                file.display()
            ),
            Self::Invalid(faults) => {
                for (index, Fault { place, message }) in faults.iter().enumerate() {
                    let lead = if index == 0 { "" } else { "\nError: " };
                    // As does the second: `Error found at FILE:LINE.`
                    write!(formatter, "{lead}{message}\nError found at {place}.")?;
                }
                if faults.len() >= FAULTS_MAX {
                    write!(
                        formatter,
                        "\nError: Too many faults; the rest is not looked at."
                    )?;
                }
                Ok(())
            }
            Self::NotYet(notes) => {
                for (index, note) in notes.iter().enumerate() {
                    let lead = if index == 0 { "" } else { "\nError: " };
                    write!(formatter, "{lead}{note}")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for ConfigError {}

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

/// A configuration is written by hand; whatever is larger was named by mistake (a device, a log).
const FILE_BYTES_MAX: u64 = 1_048_576;

/// Faults that are told of one configuration. Whoever has more has mixed up his files.
const FAULTS_MAX: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_is_told_in_the_words_of_mosquitto() {
        let error = load(Path::new("/nonexistent/nightjar.toml")).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("Unable to open config file '/nonexistent/nightjar.toml'. "),
            "{error}"
        );
    }

    #[test]
    fn a_directory_and_an_endless_file_are_refused() {
        for path in ["/", "/dev/zero"] {
            assert!(matches!(
                load(Path::new(path)),
                Err(ConfigError::Unreadable { .. })
            ));
        }
    }

    #[test]
    fn an_error_names_file_and_line() {
        let file = TemporaryFile::with(b"reason_strings = true\n\nmax_packetsize = 3\n");
        let error = load(&file.0).unwrap_err().to_string();
        assert!(error.starts_with("unknown key 'max_packetsize'"), "{error}");
        let place = format!("\nError found at {}:3.", file.0.display());
        assert!(error.ends_with(&place), "{error}");
    }

    #[test]
    fn text_that_is_not_utf_8_is_refused_with_its_line() {
        let file = TemporaryFile::with(b"# caf\xc3\xa9\n# caf\xe9\n");
        assert_eq!(
            load(&file.0).unwrap_err(),
            ConfigError::Invalid(vec![Fault {
                place: Place {
                    file: file.0.as_path().into(),
                    line: 2,
                },
                message: "not UTF-8 text; save the file as UTF-8".into(),
            }])
        );
    }

    #[test]
    fn an_empty_file_is_a_bare_broker() {
        let file = TemporaryFile::with(b"");
        assert_eq!(load(&file.0).unwrap(), Settings::default());
    }

    /// Removed when it goes out of scope.
    struct TemporaryFile(PathBuf);

    impl TemporaryFile {
        fn with(content: &[u8]) -> Self {
            use std::sync::atomic::{AtomicU32, Ordering};
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("nightjar-config-{}-{number}.toml", std::process::id());
            let path = std::env::temp_dir().join(name);
            std::fs::write(&path, content).unwrap();
            Self(path)
        }
    }

    impl Drop for TemporaryFile {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }
}
