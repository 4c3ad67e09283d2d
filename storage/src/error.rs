//! What can go wrong in the world below the store. A value, never a panic: disks fail.

use std::fmt;

/// Why an engine could not read or write what it keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StorageError {
    /// The medium refused; what is durable stays so, but this handle takes nothing any more (D5).
    Failed { reason: Box<str> },
    /// What was read back is not what was written.
    Corrupt { what: Box<str> },
    /// Another process has the store open.
    InUse { path: Box<str> },
    /// What is at the store's place is not a store of this program. It was not changed.
    Foreign { path: Box<str>, why: Box<str> },
    /// There is no store at this place.
    Missing { path: Box<str> },
    /// There is something at the place where a new file was to be made. It was not changed.
    Exists { path: Box<str> },
    /// A line of an export cannot be taken.
    Line { number: u64, what: Box<str> },
    /// A file or directory of the store cannot be used.
    File { path: Box<str>, reason: Box<str> },
}

impl fmt::Display for StorageError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed { reason } => write!(formatter, "the store failed: {reason}"),
            Self::Corrupt { what } => write!(formatter, "the store is corrupt: {what}"),
            Self::InUse { path } => write!(formatter, "{path} is in use by another process"),
            Self::Foreign { path, why } => write!(
                formatter,
                "{path} is not a store of nightjar and was left as it is: {why}"
            ),
            Self::Missing { path } => write!(formatter, "there is no store at {path}"),
            Self::Exists { path } => {
                write!(formatter, "{path} is there already, and was left as it is")
            }
            Self::Line { number, what } => write!(formatter, "line {number}: {what}"),
            Self::File { path, reason } => write!(formatter, "{path}: {reason}"),
        }
    }
}

impl std::error::Error for StorageError {}
