//! A reload: the configuration is read again, and all of it is taken or nothing.
//!
//! `prepare` reads, checks and opens; it may fail and then has changed nothing. `commit` cannot fail. What cannot change while
//! the broker runs keeps its value, and what clients were promised is not taken back; both are said in the log.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::sync::Arc;

use tokio::sync::watch;

use crate::auth::{LoadError, Passwords};
use crate::authorization::{self, Authorization};
use crate::cli::{self, CliError, Invocation};
use crate::config::Note;
use crate::doors::{Doors, Prepared};
use crate::exchange::Exchange;
use crate::http_api::Api;
use crate::listener::Activated;
use crate::logging;
use crate::settings::{Endpoint, Settings};
use crate::shard::Reloaded;
use crate::worker::{Acceptors, Order};

/// What is reloaded, and from where.
pub(crate) struct Reloader {
    /// As the process was started with them.
    pub arguments: Vec<OsString>,
    pub settings: watch::Sender<Arc<Settings>>,
    pub acceptors: Acceptors,
    pub exchange: Arc<Exchange>,
    /// What those have who ask over HTTP.
    pub in_force: watch::Sender<Arc<Reloaded>>,
    pub api: Arc<Api>,
}

/// Why nothing was changed.
#[derive(Debug)]
pub(crate) enum ReloadError {
    Configuration(CliError),
    NotToRun,
    Passwords(Vec<LoadError>),
    Rules(Vec<nightjar_acl::Error>),
    Listen {
        endpoint: Endpoint,
        error: io::Error,
    },
}

struct Next {
    reloaded: Arc<Reloaded>,
    doors: Prepared,
    notes: Vec<Note>,
    kept: Vec<&'static str>,
    promised: Vec<&'static str>,
}

impl Reloader {
    /// Reads everything again and takes it.
    pub(crate) fn reload(&self, doors: &mut Doors) -> Result<(), ReloadError> {
        let next = self.prepare(doors)?;
        self.commit(doors, next);
        Ok(())
    }

    fn prepare(&self, doors: &Doors) -> Result<Next, ReloadError> {
        let start = match cli::parse(self.arguments.iter().cloned()) {
            Ok(Invocation::Run(start)) => start,
            Ok(_) => return Err(ReloadError::NotToRun),
            Err(error) => return Err(ReloadError::Configuration(error)),
        };
        let mut settings = start.settings;
        let old = Arc::clone(&self.settings.borrow());
        let kept = keep_what_cannot_change(&old, &mut settings);
        let promised = keep_promises(&old, &mut settings);
        let passwords = Passwords::load(&settings).map_err(ReloadError::Passwords)?;
        let authorization = Authorization::load(&settings).map_err(ReloadError::Rules)?;
        let doors = doors
            .prepare(
                &settings,
                &mut Activated::none(),
                &self.acceptors.directory.door_counts,
            )
            .map_err(|(endpoint, error)| ReloadError::Listen { endpoint, error })?;
        Ok(Next {
            reloaded: Arc::new(Reloaded {
                settings: Arc::new(settings),
                passwords,
                authorization: Arc::new(authorization),
            }),
            doors,
            notes: start.notes,
            kept,
            promised,
        })
    }

    fn commit(&self, doors: &mut Doors, next: Next) {
        let settings = &next.reloaded.settings;
        logging::apply(settings);
        next.reloaded.authorization.log_warnings();
        for note in &next.notes {
            tracing::warn!("{note}");
        }
        if !next.kept.is_empty() {
            tracing::warn!(
                "Changed in the configuration, and only taken at the next start: {}.",
                next.kept.join(", ")
            );
        }
        if !next.promised.is_empty() {
            tracing::warn!(
                "Lowered in the configuration, and only taken at the next start, because connected clients were told \
                 otherwise: {}.",
                next.promised.join(", ")
            );
        }
        self.exchange.apply(settings);
        self.settings.send_replace(Arc::clone(settings));
        self.in_force.send_replace(Arc::clone(&next.reloaded));
        // The shards come first: whoever is accepted from here on is measured by what they have.
        for shard in 0..self.acceptors.shards {
            let order = Order::Reload(Arc::clone(&next.reloaded));
            self.acceptors.directory.send(shard, order);
        }
        doors.commit(next.doors, &self.acceptors, &self.api);
    }
}

/// Names what was to change and cannot.
fn keep_what_cannot_change(old: &Settings, new: &mut Settings) -> Vec<&'static str> {
    let mut kept = Vec::new();
    macro_rules! keep {
        ($($($field:ident).+ as $name:literal),* $(,)?) => {
            $(
                if old.$($field).+ != new.$($field).+ {
                    new.$($field).+ = old.$($field).+.clone();
                    kept.push($name);
                }
            )*
        };
    }
    keep!(
        shards as "shards",
        persistence as "persistence",
        data_directory as "data_directory",
        durability as "durability",
        write_behind_seconds as "write_behind_seconds",
        disk_free_min as "disk_free_min",
        mail_bytes_max as "mail_bytes_max",
        http_listener as "http_listener",
        auth_threads as "auth_threads",
        auth_queue_max as "auth_queue_max",
        auth_failures_max as "auth_failures_max",
        sys_interval_seconds as "sys_interval_seconds",
        process.user as "user",
        process.pid_file as "pid_file",
    );
    kept
}

/// Names what CONNACK has promised and was to become less.
fn keep_promises(old: &Settings, new: &mut Settings) -> Vec<&'static str> {
    let mut kept = Vec::new();
    macro_rules! keep {
        ($($field:ident),* $(,)?) => {
            $(
                if new.$field < old.$field {
                    new.$field = old.$field;
                    kept.push(stringify!($field));
                }
            )*
        };
    }
    keep!(
        max_packet_size,
        receive_maximum,
        topic_alias_maximum,
        maximum_qos,
        retain_available,
        wildcard_subscription_available,
        shared_subscription_available,
        subscription_identifier_available,
    );
    kept
}

impl fmt::Display for ReloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Configuration(error) => error.fmt(f),
            Self::NotToRun => f.write_str("the arguments ask for something else"),
            Self::Passwords(errors) => {
                let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
                f.write_str(&lines.join("; "))
            }
            Self::Rules(errors) => authorization::write_errors(errors, f),
            Self::Listen { endpoint, error } => {
                write!(f, "cannot listen on {endpoint}: {error}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_change_keeps_its_value_and_is_named() {
        let old = Settings::default();
        let mut new = Settings {
            shards: Some(7),
            connections_max: 5,
            ..Settings::default()
        };
        new.process.pid_file = Some("/x".into());
        assert_eq!(
            keep_what_cannot_change(&old, &mut new),
            ["shards", "pid_file"]
        );
        assert_eq!(new.shards, None);
        assert_eq!(new.process, old.process);
        assert_eq!(new.connections_max, 5);
    }

    #[test]
    fn a_promise_to_clients_may_become_more_and_not_less() {
        let old = Settings::default();
        let mut new = Settings {
            receive_maximum: old.receive_maximum - 1,
            retain_available: false,
            topic_alias_maximum: old.topic_alias_maximum + 1,
            ..Settings::default()
        };
        assert_eq!(
            keep_promises(&old, &mut new),
            ["receive_maximum", "retain_available"]
        );
        assert_eq!(new.receive_maximum, old.receive_maximum);
        assert!(new.retain_available);
        assert_eq!(new.topic_alias_maximum, old.topic_alias_maximum + 1);
    }
}
