//! Whether the broker lives, and whether it is ready to take what it is given.
//!
//! In: how far the process has come, the store, the time. Out: a reason for not being ready, or none. Lives as long as it
//! answers at all; is ready from when clients are let in until it stops, while the journal works and no commit takes for
//! ever (D27). Knows no HTTP.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use nightjar_storage::{Journal, JournalStatus, RedbEngine};

/// How the process is.
#[derive(Debug, Default)]
pub struct Health {
    phase: AtomicU8,
    /// Not held: the store closes when the server lets go of it.
    store: OnceLock<Weak<RedbEngine>>,
    commit: Mutex<Option<Commit>>,
}

/// The commit that was on its way when somebody looked last.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Commit {
    number: u64,
    /// When it was seen first, milliseconds.
    seen_at: u64,
}

impl Health {
    /// There is a store, and being ready depends on it.
    pub fn watch(&self, store: &Arc<RedbEngine>) {
        // There is one store in a process's life.
        let _ = self.store.set(Arc::downgrade(store));
    }

    /// Clients are let in.
    pub fn serving(&self) {
        self.phase.store(SERVING, Ordering::Relaxed);
    }

    /// Nobody is let in any more.
    pub fn stopping(&self) {
        self.phase.store(STOPPING, Ordering::Relaxed);
    }

    /// The store, as long as it is open.
    pub fn store(&self) -> Option<Arc<RedbEngine>> {
        self.store.get()?.upgrade()
    }

    /// Called every second or so: notes which commit is on its way.
    pub fn look(&self, now: u64) {
        if let Some(store) = self.store() {
            self.note(store.counters().commit_on_its_way, now);
        }
    }

    /// For how long the present commit has been on its way, in milliseconds and as precise as `look` is called often.
    pub fn commit_pending(&self, now: u64) -> u64 {
        let commit = self.commit.lock().unwrap_or_else(PoisonError::into_inner);
        commit.map_or(0, |commit| now.saturating_sub(commit.seen_at))
    }

    /// `None`: it is ready.
    pub fn why_not_ready(&self, now: u64) -> Option<&'static str> {
        match self.phase.load(Ordering::Relaxed) {
            SERVING => {}
            STOPPING => return Some("the broker stops"),
            _ => return Some("the broker starts"),
        }
        let failed = self
            .store()
            .is_some_and(|store| matches!(store.status(), JournalStatus::Failed { .. }));
        if failed {
            return Some("the store has failed");
        }
        (self.commit_pending(now) > COMMIT_MILLISECONDS_MAX)
            .then_some("the disk has taken more than 10 s for one commit")
    }

    fn note(&self, number: Option<u64>, now: u64) {
        let mut commit = self.commit.lock().unwrap_or_else(PoisonError::into_inner);
        if commit.map(|commit| commit.number) != number {
            *commit = number.map(|number| Commit {
                number,
                seen_at: now,
            });
        }
    }
}

const SERVING: u8 = 1;
const STOPPING: u8 = 2;
/// D27.
const COMMIT_MILLISECONDS_MAX: u64 = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_ready_between_start_and_stop() {
        let health = Health::default();
        assert_eq!(health.why_not_ready(0), Some("the broker starts"));
        health.serving();
        assert_eq!(health.why_not_ready(0), None);
        health.stopping();
        assert_eq!(health.why_not_ready(0), Some("the broker stops"));
    }

    #[test]
    fn d27_a_commit_that_is_on_its_way_for_more_than_10_s_is_not_ready() {
        let health = Health::default();
        health.serving();
        health.note(Some(7), 1_000);
        health.note(Some(7), 9_000);
        assert_eq!(health.why_not_ready(11_000), None);
        assert!(health.why_not_ready(11_001).is_some());
        assert_eq!(health.commit_pending(11_001), 10_001);
        // The next one has its own ten seconds, and none is none.
        health.note(Some(8), 12_000);
        assert_eq!(health.why_not_ready(12_000), None);
        health.note(None, 13_000);
        assert_eq!(health.commit_pending(60_000), 0);
    }
}
