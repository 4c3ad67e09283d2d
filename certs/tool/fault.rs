//! What goes wrong, for people: one sentence each, and an exit code.

use std::fmt;
use std::path::Path;

/// Why a command did not do what was asked.
#[derive(Debug)]
pub(crate) enum Fault {
    /// What was asked for makes no sense; exit code 3.
    Asked(String),
    /// The system or what lies there does not allow it; exit code 1.
    Refused(String),
}

impl Fault {
    pub(crate) fn asked(message: impl Into<String>) -> Self {
        Self::Asked(message.into())
    }

    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self::Refused(message.into())
    }

    /// A file that cannot be read, written or understood.
    pub(crate) fn file(path: &Path, reason: impl fmt::Display) -> Self {
        Self::Refused(format!("{}: {reason}", path.display()))
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Asked(_) => 3,
            Self::Refused(_) => 1,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked(message) | Self::Refused(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for Fault {}
