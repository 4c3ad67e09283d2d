//! From a configuration file to `Settings`, or to one message that says where and what to do.
//!
//! In: a path. Out: `Settings`, complete and checked. `toml.rs` knows the keys of the file; this
//! file knows how it is read and how a fault in it is told.

mod toml;

use crate::settings::Settings;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Reads and checks a configuration file.
pub fn load(path: &Path) -> Result<Settings, ConfigError> {
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
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let before = error.as_bytes().get(..valid).unwrap_or_default();
        ConfigError::Invalid {
            file: path.to_owned(),
            line: line_at(before, valid),
            message: "not UTF-8 text; save the file as UTF-8".into(),
        }
    })?;
    toml::parse(&text).map_err(|fault| ConfigError::Invalid {
        file: path.to_owned(),
        line: line_at(text.as_bytes(), fault.offset),
        message: fault.message,
    })
}

/// What is wrong with a configuration file, in words for the person who wrote it.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum ConfigError {
    Unreadable {
        file: PathBuf,
        reason: String,
    },
    Invalid {
        file: PathBuf,
        line: usize,
        message: String,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // The first sentence is Mosquitto's, word for word: scripts look for it.
            Self::Unreadable { file, reason } => write!(
                formatter,
                "Unable to open config file '{}'. {reason}",
                file.display()
            ),
            Self::Invalid {
                file,
                line,
                message,
            } => write!(formatter, "{}:{line}: {message}", file.display()),
        }
    }
}

impl std::error::Error for ConfigError {}

/// A fault and where in the text it stands.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Fault {
    offset: usize,
    message: String,
}

fn line_at(text: &[u8], offset: usize) -> usize {
    let before = text.get(..offset).unwrap_or(text);
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}

/// A configuration is written by hand; whatever is larger was named by mistake (a device, a log).
const FILE_BYTES_MAX: u64 = 1_048_576;

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
        let expected = format!("{}:3: unknown key 'max_packetsize'", file.0.display());
        assert!(error.starts_with(&expected), "{error}");
    }

    #[test]
    fn text_that_is_not_utf_8_is_refused_with_its_line() {
        let file = TemporaryFile::with(b"# caf\xc3\xa9\n# caf\xe9\n");
        assert_eq!(
            load(&file.0).unwrap_err(),
            ConfigError::Invalid {
                file: file.0.clone(),
                line: 2,
                message: "not UTF-8 text; save the file as UTF-8".into(),
            }
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
