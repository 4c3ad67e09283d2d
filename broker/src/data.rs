//! Where the store lies, and what it promises: from settings to an open store.
//!
//! In: settings and the environment of the process. Out: the store, or `None` where nothing is to be kept. The two lines of
//! the log that say which of them it is, and what an acknowledgement is worth, are written here.

use std::borrow::Cow;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use etcetera::BaseStrategy;
use nightjar_storage::{
    Directory, Durability, Journal, JournalStatus, Meter, Options, RedbEngine, StorageError,
};

use crate::clock;
use crate::identity::ShardId;
use crate::settings::Settings;
use crate::store::mosquitto_db;

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
        write_behind: Duration::from_secs(u64::from(settings.write_behind_seconds)),
        disk_free_min: settings.disk_free_min,
        // The shards stop at their own bounds first; this one only stands behind them.
        pending_bytes_max: settings
            .journal_pending_bytes_max
            .saturating_mul(2 * u64::from(shards)),
        ..Options::default()
    };
    if let Some(file) = &settings.mosquitto_db {
        take_over(file, &directory)?;
    }
    let store = RedbEngine::open(&directory, options)?;
    tracing::info!(
        "Sessions, queued and retained messages are kept in {}.",
        store.path()
    );
    tracing::info!("{}", describe(options));
    for warning in nightjar_storage::warnings(&directory) {
        tracing::warn!("{warning}");
    }
    Ok(Some(store))
}

/// Mosquitto's file becomes the store, once: where there is a store already, it is that one that goes on (D26). A marker beside the
/// store says which file it was, so that a newer one is noticed.
fn take_over(file: &Path, directory: &Path) -> Result<(), StorageError> {
    let Ok(found) = fs::metadata(file) else {
        return Ok(()); // Nobody came from Mosquitto.
    };
    let marker = directory.join("mosquitto.db.imported");
    let seal = |checksum: &str| format!("{} bytes, SHA-256 {checksum}\n", found.len());
    if Directory::file_in(directory).exists() {
        let known = fs::read_to_string(&marker).unwrap_or_default();
        if !known.starts_with(&format!("{} bytes,", found.len())) {
            tracing::warn!(
                "{} is not read: there is a store in {} already.",
                file.display(),
                directory.display()
            );
        }
        return Ok(());
    }
    let checksum = mosquitto_db::checksum(file).map_err(|error| StorageError::File {
        path: file.display().to_string().into(),
        reason: error.to_string().into(),
    })?;
    let imported = mosquitto_db::import(file, directory, clock::wall(), &mut Silent)
        .map_err(|error| with_a_way_out(file, error))?;
    let contents = &imported.contents;
    tracing::info!(
        "Taken over from {}: {} sessions, {} subscriptions, {} queued messages, {} retained messages. It is left as it was.",
        file.display(),
        contents.sessions,
        contents.subscriptions,
        contents.queued,
        contents.retained
    );
    for line in imported.left_out.lines() {
        tracing::warn!("{}: {line}.", file.display());
    }
    if let Err(error) = fs::write(&marker, seal(&checksum)) {
        tracing::warn!("{} could not be written: {error}.", marker.display());
    }
    Ok(())
}

fn with_a_way_out(file: &Path, error: StorageError) -> StorageError {
    match error {
        StorageError::File { path, reason } if *path == *file.display().to_string() => {
            StorageError::File {
                path,
                reason: format!("{reason}; move it away to start without what is in it").into(),
            }
        }
        other => other,
    }
}

struct Silent;

impl Meter for Silent {
    fn begin(&mut self, _what: &str, _of: u64) {}
    fn advance(&mut self, _by: u64) {}
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

fn describe(options: Options) -> Cow<'static, str> {
    match options.durability {
        Durability::Synced => {
            "Durability is synced: what is acknowledged survives a power cut.".into()
        }
        Durability::Written => {
            "Durability is written: what is acknowledged survives the end of this process, but not that of the machine."
                .into()
        }
        Durability::Memory => format!(
            "Durability is memory: an acknowledgement promises nothing; messages are on disk at most {} s later.",
            options.write_behind.as_secs()
        )
        .into(),
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
