//! Plugins, known by the names of their files. Those that Mosquitto ships and that an option can replace become that option;
//! what else there is cannot run here, and is refused with what to use.

use super::draft::Draft;
use super::values::{Given, show};
use super::{Fate, Outcome};
use crate::config::Place;
use crate::settings::SecuritySettings;
use std::path::{Path, PathBuf};

/// One that can be replaced, or that was refused.
pub(super) struct Plugin {
    pub(super) purpose: Purpose,
    pub(super) target: Target,
    /// Of users or of rules.
    pub(super) file: Option<PathBuf>,
    pub(super) place: Place,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Purpose {
    PasswordFile,
    AclFile,
    Store,
    /// Refused; its options are not looked at.
    Unknown,
}

/// For whom it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Target {
    Broker,
    Listener(usize),
    /// The listeners that name it with `plugin_use`.
    Whoever(Box<str>),
}

/// `plugin PATH`: the broker's, or with per_listener_settings the listener's.
pub(super) fn here(draft: &mut Draft, path: &str) -> Outcome {
    let target = draft
        .security_holder()
        .map_or(Target::Broker, Target::Listener);
    add(draft, path, target)
}

/// `global_plugin PATH`.
pub(super) fn global(draft: &mut Draft, path: &str) -> Outcome {
    add(draft, path, Target::Broker)
}

/// `plugin_load NAME PATH`.
pub(super) fn load(draft: &mut Draft, given: Given<'_>) -> Outcome {
    let text = given.text();
    let (name, path) = text
        .split_once(' ')
        .ok_or("Empty 'plugin_load' value in configuration. Write a name and a path.")?;
    add(draft, path.trim(), Target::Whoever(name.into()))
}

/// `plugin_use NAME`.
pub(super) fn attach(draft: &mut Draft, given: Given<'_>) -> Outcome {
    let name = given.words().next().unwrap_or_default();
    let place = draft.place.clone();
    draft.listener().plugins.push((name.into(), place));
    Ok(Fate::changed(
        "the listener has a section [listeners.security]",
    ))
}

/// `plugin_opt_NAME VALUE`.
pub(super) fn option(draft: &mut Draft, name: &str, prefix: &str, value: &str) -> Outcome {
    let key = name.strip_prefix(prefix).unwrap_or_default();
    let Some(plugin) = draft.plugins.last_mut() else {
        return Err(format!(
            "The '{}' option requires plugin/global_plugin/plugin_load to be defined first. \
             Put it below a line 'plugin PATH'.",
            show(name)
        ));
    };
    if key.is_empty() {
        return Err(format!(
            "Invalid '{prefix}' config option. Write {prefix}NAME VALUE."
        ));
    }
    if value.is_empty() {
        return Err(format!(
            "Empty '{}' value in configuration. Write a value behind it, or remove the line.",
            show(key)
        ));
    }
    match (plugin.purpose, key) {
        (Purpose::PasswordFile, "password_file") | (Purpose::AclFile, "acl_file") => {
            plugin.file = Some(value.into());
            Ok(Fate::Changed(format!("it is {key}")))
        }
        (Purpose::Store, "db_file") => {
            let directory = Path::new(value).parent().unwrap_or_else(|| Path::new("."));
            draft.location.get_or_insert_with(|| directory.to_owned());
            Ok(Fate::changed(
                "the store is nightjar.redb in the same directory",
            ))
        }
        (
            Purpose::Store,
            "sync" | "flush_period" | "page_size" | "cache_size" | "vacuum_period",
        ) => Ok(Fate::ignored(
            "everything is on disk before it is acknowledged",
        )),
        (Purpose::Unknown, _) => Ok(Fate::ignored("the plugin is refused")),
        _ => Ok(Fate::lost("this option of the plugin is not known here")),
    }
}

fn add(draft: &mut Draft, path: &str, target: Target) -> Outcome {
    let file = path.rsplit('/').next().unwrap_or_default();
    let stem = file
        .strip_suffix(".so")
        .or_else(|| file.strip_suffix(".dll"))
        .unwrap_or(file);
    let (purpose, outcome) = match stem {
        "mosquitto_password_file" => (
            Purpose::PasswordFile,
            Ok(Fate::changed("it is the option password_file")),
        ),
        "mosquitto_acl_file" => (
            Purpose::AclFile,
            Ok(Fate::changed("it is the option acl_file")),
        ),
        "mosquitto_persist_sqlite" => {
            draft.settings.persistence = true;
            (
                Purpose::Store,
                Ok(Fate::changed("persistence is on, in a store of our own")),
            )
        }
        stem => (Purpose::Unknown, Err(refusal(path, stem))),
    };
    if draft.plugins.len() >= PLUGINS_MAX {
        return Err(format!("Too many plugins. Use at most {PLUGINS_MAX}."));
    }
    draft.plugins.push(Plugin {
        purpose,
        target,
        file: None,
        place: draft.place.clone(),
    });
    outcome
}

fn refusal(path: &str, stem: &str) -> String {
    let shown = show(path);
    let what = match stem {
        "mosquitto_dynamic_security" => {
            "Dynamic security is not in this version. Use password_file and acl_file, and reload with SIGHUP."
        }
        "mosquitto_sparkplug_aware" => {
            "Sparkplug certificates on $sparkplug are not in this version. Without the plugin clients work as before."
        }
        stem if stem.contains("go-auth") => {
            "The go-auth plugin is not in this version, nor what it does (users and rules from files, HTTP, JWT or \
             databases). Use password_file and acl_file."
        }
        _ => {
            "Plugins made for Mosquitto cannot be loaded. Use password_file and acl_file for users and rules, and \
             nightjar.toml for the rest."
        }
    };
    format!("Unable to load plugin '{shown}'. {what}")
}

impl Purpose {
    /// The option without which it does nothing.
    pub(super) fn needs(self) -> Option<&'static str> {
        match self {
            Self::PasswordFile => Some("plugin_opt_password_file"),
            Self::AclFile => Some("plugin_opt_acl_file"),
            Self::Store | Self::Unknown => None,
        }
    }

    pub(super) fn apply(self, security: &mut SecuritySettings, path: &Path) {
        match self {
            Self::PasswordFile => security.password_file = Some(path.to_owned()),
            Self::AclFile => security.acl_file = Some(path.to_owned()),
            Self::Store | Self::Unknown => {}
        }
    }
}

const PLUGINS_MAX: usize = 100;
