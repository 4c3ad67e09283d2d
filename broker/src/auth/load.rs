//! Reads the password files that the settings name: all of them, or none and every fault in all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::password_file::{LineFault, PasswordFile};
use super::{Passwords, security};
use crate::settings::Settings;

/// Why the users could not be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LoadError {
    Unreadable { file: PathBuf, reason: String },
    Line { file: PathBuf, fault: LineFault },
}

impl Passwords {
    /// Reads every password file of the settings. On an error nothing is loaded, and whoever has an older snapshot keeps it.
    pub fn load(settings: &Settings) -> Result<Arc<Self>, Vec<LoadError>> {
        let listeners = settings
            .listeners
            .iter()
            .filter_map(|listener| security(settings, listener).password_file.as_ref());
        let paths: BTreeSet<&PathBuf> = listeners
            .chain(settings.security.password_file.as_ref())
            .collect();
        let mut files = BTreeMap::new();
        let mut errors = Vec::new();
        for path in paths {
            match load_file(path) {
                Ok(file) => {
                    files.insert(path.clone(), Arc::new(file));
                }
                Err(of_file) => errors.extend(of_file),
            }
        }
        if errors.is_empty() {
            Ok(Arc::new(Self::new(files)))
        } else {
            Err(errors)
        }
    }
}

fn load_file(path: &Path) -> Result<PasswordFile, Vec<LoadError>> {
    let bytes = read(path).map_err(|reason| {
        vec![LoadError::Unreadable {
            file: path.to_owned(),
            reason,
        }]
    })?;
    PasswordFile::parse(&bytes).map_err(|faults| {
        let of_line = |fault| LoadError::Line {
            file: path.to_owned(),
            fault,
        };
        faults.into_iter().map(of_line).collect()
    })
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    if metadata.is_dir() {
        return Err("it is a directory".into());
    }
    if metadata.permissions().mode() & WORLD_READABLE != 0 {
        // T3; the first sentence is Mosquitto's.
        tracing::warn!(
            "File {} has world readable permissions. Whoever can log in to this machine can try passwords against it: chmod 0600.",
            path.display()
        );
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("it is larger than {FILE_BYTES_MAX} bytes"));
    }
    Ok(bytes)
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // The first sentence is Mosquitto's.
            Self::Unreadable { file, reason } => {
                write!(
                    f,
                    "Unable to open password file \"{}\". {reason}",
                    file.display()
                )?;
                if reason.contains("Permission denied") {
                    f.write_str(". The user that the broker runs as must be able to read it")?;
                }
                Ok(())
            }
            Self::Line { file, fault } => write!(
                f,
                "Invalid line in password file {}:{}: {}",
                file.display(),
                fault.line,
                fault.fault
            ),
        }
    }
}

impl std::error::Error for LoadError {}

const WORLD_READABLE: u32 = 0o004;
/// A million users and more; whatever is larger was named by mistake.
const FILE_BYTES_MAX: u64 = 268_435_456;
