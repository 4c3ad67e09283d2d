//! Where the store lies, and what it promises: from settings to an open store.
//!
//! In: settings and the environment of the process. Out: the store, or `None` where nothing is to be kept. The two lines of
//! the log that say which of them it is, and what an acknowledgement is worth, are written here.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use etcetera::BaseStrategy;
use nightjar_storage::{Durability, Journal, JournalStatus, Options, RedbEngine, StorageError};

use crate::identity::ShardId;
use crate::settings::Settings;

/// Opens the store that the settings ask for, or makes one.
pub fn open(settings: &Settings, shards: ShardId) -> Result<Option<Arc<RedbEngine>>, StorageError> {
    if !settings.persistence {
        tracing::info!(
            "Persistence is off: sessions, queued and retained messages do not survive a restart, and an \
             acknowledgement means that the message is in memory."
        );
        return Ok(None);
    }
    let directory = directory(settings.data_directory.as_deref())?;
    let options = Options {
        durability: strictest(settings),
        disk_free_min: settings.disk_free_min,
        // The shards stop at their own bounds first; this one only stands behind them.
        pending_bytes_max: settings
            .journal_pending_bytes_max
            .saturating_mul(2 * u64::from(shards)),
        ..Options::default()
    };
    let store = RedbEngine::open(&directory, options)?;
    tracing::info!(
        "Sessions, queued and retained messages are kept in {}.",
        store.path()
    );
    tracing::info!("{}", describe(options.durability));
    for warning in nightjar_storage::warnings(&directory) {
        tracing::warn!("{warning}");
    }
    Ok(Some(store))
}

/// From here on every move of the store calls `wake`, and what its operator should know is logged: that it has failed, that
/// it works again. Where it is gone for good the process ends (D18).
pub fn watch(store: &Arc<RedbEngine>, wake: impl Fn() + Send + Sync + 'static) {
    // The store holds this call, so the call must not hold the store.
    let watched = Arc::downgrade(store);
    let has_failed = AtomicBool::new(false);
    store.on_progress(Box::new(move || {
        wake();
        let Some(store) = watched.upgrade() else {
            return;
        };
        match store.status() {
            JournalStatus::Durable(_) => {
                if has_failed.swap(false, Ordering::Relaxed) {
                    tracing::info!("The store works again, and everything it took is on disk.");
                }
            }
            JournalStatus::Failed { reason, .. } => {
                if store.has_ended() {
                    tracing::error!("The store has ended ({reason}): stopping.");
                    std::process::exit(EXIT_STORE_ENDED);
                }
                if !has_failed.swap(true, Ordering::Relaxed) {
                    tracing::error!(
                        "Nothing that needs the store is acknowledged until it works again: {reason}. \
                         It is tried every two seconds or sooner."
                    );
                }
            }
        }
    }));
}

/// Never returns: says once when the disk is slower than anybody should wait for, and at the beginning when the file has
/// become much larger than what is in it (D27).
pub async fn look_after(store: Arc<RedbEngine>) {
    let looked_at = Arc::clone(&store);
    let file_use = tokio::task::spawn_blocking(move || looked_at.file_use()).await;
    if let Ok(Ok(file_use)) = file_use
        && file_use.free_percent() > FREE_IN_FILE_HINT
        && file_use.bytes > FILE_BYTES_HINT
    {
        tracing::info!(
            "{} % of {} ({} bytes) is free; `nightjar store compact` gives it back while the broker is stopped.",
            file_use.free_percent(),
            store.path(),
            file_use.bytes
        );
    }
    let mut slow = None;
    loop {
        let before = store.counters().commit_on_its_way;
        tokio::time::sleep(SLOW_COMMIT).await;
        let now = store.counters().commit_on_its_way;
        if now.is_some() && now == before && slow != now {
            slow = now;
            tracing::warn!(
                "The disk has taken more than {} s for one commit; acknowledgements that need it wait.",
                SLOW_COMMIT.as_secs()
            );
        }
    }
}

/// The directory that was chosen, or the one this platform keeps such things in.
pub fn directory(chosen: Option<&Path>) -> Result<PathBuf, StorageError> {
    if let Some(chosen) = chosen {
        return Ok(chosen.to_owned());
    }
    // One path, or several with colons between them where a unit names several; the first is ours.
    if let Some(state) = env::var_os("STATE_DIRECTORY")
        && let Some(first) = env::split_paths(&state).find(|path| path.is_absolute())
    {
        return Ok(first);
    }
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from(DIRECTORY_OF_ROOT));
    }
    etcetera::choose_base_strategy()
        .map(|strategy| strategy.data_dir().join("nightjar"))
        .map_err(|error| StorageError::File {
            path: "the data directory".into(),
            reason: format!("{error}; choose one with --data DIR, or --ephemeral to keep nothing")
                .into(),
        })
}

/// What the store must keep so that every listener's promise is true.
pub fn strictest(settings: &Settings) -> Durability {
    let strictness = |durability: &Durability| match durability {
        Durability::Memory => 0,
        Durability::Written => 1,
        Durability::Synced => 2,
    };
    settings
        .listeners
        .iter()
        .map(|listener| listener.durability.unwrap_or(settings.durability))
        .max_by_key(strictness)
        .unwrap_or(settings.durability)
}

fn describe(durability: Durability) -> &'static str {
    match durability {
        Durability::Synced => "Durability is synced: what is acknowledged survives a power cut.",
        Durability::Written => {
            "Durability is written: what is acknowledged survives the end of this process, but not that of the machine."
        }
        Durability::Memory => {
            "Durability is memory: an acknowledgement promises nothing; messages are on disk about a second later."
        }
    }
}

/// As a process that panicked; the supervisor starts it again.
const EXIT_STORE_ENDED: i32 = 101;
const SLOW_COMMIT: Duration = Duration::from_secs(10);
const FREE_IN_FILE_HINT: u64 = 50;
/// A smaller file is not worth a word.
const FILE_BYTES_HINT: u64 = 64 << 20;
const DIRECTORY_OF_ROOT: &str = "/var/lib/nightjar";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::ListenerSettings;

    #[test]
    fn the_store_is_kept_as_the_strictest_listener_asks() {
        let listener = |durability| {
            Arc::new(ListenerSettings {
                durability,
                ..ListenerSettings::default()
            })
        };
        let with = |default, listeners: &[Option<Durability>]| {
            strictest(&Settings {
                durability: default,
                listeners: listeners.iter().map(|own| listener(*own)).collect(),
                ..Settings::default()
            })
        };
        use Durability::{Memory, Synced, Written};
        assert_eq!(with(Synced, &[None]), Synced);
        assert_eq!(with(Synced, &[Some(Memory), Some(Written)]), Written);
        assert_eq!(with(Memory, &[None, Some(Synced)]), Synced);
        assert_eq!(with(Memory, &[None]), Memory);
    }

    #[test]
    fn a_directory_that_was_chosen_is_the_one() {
        assert_eq!(
            directory(Some(Path::new("here"))).unwrap(),
            Path::new("here")
        );
    }
}
