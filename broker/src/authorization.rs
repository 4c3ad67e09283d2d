//! The rules in force: every `acl_file` of the settings, read once, and which listener's clients they are for.
//!
//! In: settings. Out: a snapshot that is never changed; a reload makes another and takes it only where every file is right. Shards
//! share it and make of it, at CONNECT, what one client may do.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nightjar_acl::{Error, ErrorKind, Rules};

use crate::settings::{ListenerSettings, SecuritySettings, Settings};

/// All rules, by their files. The default has none: everybody may do everything.
#[derive(Debug, Default)]
pub struct Authorization {
    files: Vec<(PathBuf, Arc<Rules>)>,
}

impl Authorization {
    /// Says what in the files is not what its author will have meant.
    pub fn log_warnings(&self) {
        for rules in self.files() {
            for warning in rules.warnings() {
                tracing::warn!("{} ({}, line {})", warning.text, rules.file(), warning.line);
            }
        }
    }

    /// Reads every `acl_file` that the settings name.
    ///
    /// # Errors
    /// Everything that is wrong with any of them.
    pub fn load(settings: &Settings) -> Result<Self, Vec<Error>> {
        let mut files: Vec<(PathBuf, Arc<Rules>)> = Vec::new();
        let mut errors = Vec::new();
        let listeners = settings.listeners.iter();
        let own = listeners.filter_map(|listener| listener.security.as_ref());
        for security in std::iter::once(&settings.security).chain(own) {
            let Some(path) = &security.acl_file else {
                continue;
            };
            if files.iter().any(|(known, _)| known == path) {
                continue;
            }
            match read(path) {
                Ok(rules) => files.push((path.clone(), Arc::new(rules))),
                Err(faults) => errors.extend(faults),
            }
        }
        errors.dedup();
        if errors.is_empty() {
            Ok(Self { files })
        } else {
            Err(errors)
        }
    }

    /// There are no rules at all.
    pub fn is_off(&self) -> bool {
        self.files.is_empty()
    }

    /// The rules for clients of this listener; `None`: they may do everything.
    pub fn rules_for(
        &self,
        settings: &Settings,
        listener: &ListenerSettings,
    ) -> Option<Arc<Rules>> {
        let path = security_of(settings, listener).acl_file.as_ref()?;
        let known = self.files.iter().find(|(known, _)| known == path);
        // A file that was never read allows nothing.
        Some(known.map_or_else(
            || Arc::new(Rules::deny_all(&path.to_string_lossy())),
            |(_, rules)| Arc::clone(rules),
        ))
    }

    /// Every file and what it says.
    pub fn files(&self) -> impl Iterator<Item = &Arc<Rules>> {
        self.files.iter().map(|(_, rules)| rules)
    }
}

/// Who may come in through this listener, and what they may do.
pub fn security_of<'a>(
    settings: &'a Settings,
    listener: &'a ListenerSettings,
) -> &'a SecuritySettings {
    listener.security.as_ref().unwrap_or(&settings.security)
}

/// All of them, one a line, each behind `Error: `; the first is behind the caller's.
pub fn write_errors(errors: &[Error], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (place, error) in errors.iter().enumerate() {
        let lead = if place > 0 { "\nError: " } else { "" };
        write!(f, "{lead}{error}")?;
    }
    Ok(())
}

/// Reads one file of rules.
///
/// # Errors
/// Everything that is wrong with it.
pub fn read(path: &Path) -> Result<Rules, Vec<Error>> {
    let file = path.to_string_lossy();
    let text = fs::read(path).map_err(|error| {
        vec![Error {
            file: (&*file).into(),
            line: None,
            kind: ErrorKind::Unreadable(error.to_string().into()),
        }]
    })?;
    Rules::parse(&file, &text)
}
