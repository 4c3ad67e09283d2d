//! Sees that the files of a TLS listener have changed, and has them read.
//!
//! Looks at what a path leads to every second or so: size, number and times of the file at its end. That sees what programs do that renew
//! certificates (a new file under the old name, a link that leads elsewhere, as Kubernetes changes its volumes), on every file system. What has
//! changed is read when it is found the same a moment later, so that a certificate and its key come together. In the same round it is looked
//! whether a certificate's time of grace is over, and whether somebody has set the clock.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use nightjar_certs::Files;

use super::tls::Current;
use crate::clock::{Clock, Now};
use crate::worker::Acceptors;

/// How the files of a listener looked.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Stamps(Vec<(PathBuf, Option<Stamp>)>);

/// What tells a file from another under the same path.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Stamp {
    device: u64,
    number: u64,
    size: u64,
    modified: (i64, i64),
    /// Also other rights: what could not be read may be readable.
    changed: (i64, i64),
}

impl Stamps {
    pub(crate) fn of(files: &Files) -> Self {
        let mut stamps = Vec::new();
        for path in files.paths() {
            if path.is_dir() {
                let entries = entries(path).unwrap_or_default();
                stamps.extend(entries.into_iter().map(|path| {
                    let stamp = stamp(&path);
                    (path, stamp)
                }));
            }
            stamps.push((path.to_owned(), stamp(path)));
        }
        Self(stamps)
    }
}

fn entries(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory)?.take(ENTRIES_MAX) {
        paths.push(entry?.path());
    }
    paths.sort();
    Ok(paths)
}

fn stamp(path: &Path) -> Option<Stamp> {
    let found = fs::metadata(path).ok()?;
    Some(Stamp {
        device: found.dev(),
        number: found.ino(),
        size: found.size(),
        modified: (found.mtime(), found.mtime_nsec()),
        changed: (found.ctime(), found.ctime_nsec()),
    })
}

/// Looks until the listener is gone.
pub(super) async fn watch(current: Weak<Current>, name: Box<str>, acceptors: Acceptors) {
    let clock = Clock::start();
    let mut last = clock.now();
    let mut next_look = last.monotonic;
    let mut seen: Option<Stamps> = None;
    loop {
        let is_settling = seen.is_some();
        tokio::time::sleep(if is_settling { SETTLED } else { ROUND }).await;
        let now = clock.now();
        let Some(current) = current.upgrade() else {
            acceptors.directory.certificates.note_ends(&name, &[]);
            return;
        };
        let (_, _, _, watch_seconds) = current.reading();
        let looks = watch_seconds > 0 && (is_settling || now.monotonic >= next_look);
        if looks {
            next_look = now.monotonic + u64::from(watch_seconds) * 1000;
        }
        let (before, there) = (seen.take(), acceptors.clone());
        // A file system that does not answer stops nobody's handshake.
        let round = tokio::task::spawn_blocking(move || {
            look_at_time(&current, last, now, &there);
            if looks {
                look_at_files(&current, before, &there)
            } else {
                before
            }
        });
        seen = round.await.unwrap_or_default();
        last = now;
    }
}

/// What is new, and has not been read.
fn look_at_files(
    current: &Arc<Current>,
    before: Option<Stamps>,
    acceptors: &Acceptors,
) -> Option<Stamps> {
    let (files, known, generation, _) = current.reading();
    let stamps = Stamps::of(&files);
    if stamps == known {
        return None;
    }
    if before.as_ref() != Some(&stamps) {
        return Some(stamps);
    }
    tracing::info!(
        "Listener {}: its files have changed, reading them.",
        current.name()
    );
    match current.read_again(files, stamps.clone()) {
        Ok(next) => {
            if current.take(next, Some(generation), acceptors) {
                current.look_at_signatures(acceptors);
            }
        }
        Err(error) => current.give_up(stamps, &error),
    }
    None
}

fn look_at_time(current: &Arc<Current>, last: Now, now: Now, acceptors: &Acceptors) {
    let seconds = |now: Now| now.wall / 1000;
    let passed = now.monotonic.saturating_sub(last.monotonic);
    let was_set = now.wall.abs_diff(last.wall.saturating_add(passed)) > CLOCK_SET_MILLISECONDS;
    let end = current
        .get()
        .next_end_of_replaced(seconds(last).saturating_sub(1));
    if was_set || end.is_some_and(|end| end < seconds(now)) {
        current.look_at_everybody(acceptors);
    }
    if seconds(now) / DAY_SECONDS != seconds(last) / DAY_SECONDS {
        current.warn_of_ends(seconds(now));
    }
}

const ROUND: Duration = Duration::from_secs(1);
/// A file that is found the same after this is whole.
const SETTLED: Duration = Duration::from_millis(250);
const CLOCK_SET_MILLISECONDS: u64 = 2_000;
const DAY_SECONDS: u64 = 86_400;
/// Of one directory.
const ENTRIES_MAX: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_file_under_the_same_path_is_seen_also_behind_a_link_to_a_directory() {
        let place = std::env::temp_dir().join(format!("nightjar-watch-{}", std::process::id()));
        let _ = fs::remove_dir_all(&place);
        for version in ["one", "two"] {
            fs::create_dir_all(place.join(version)).unwrap();
            fs::write(place.join(version).join("tls.crt"), "same").unwrap();
        }
        // As Kubernetes does it: the name is a link through a link that is exchanged.
        std::os::unix::fs::symlink("one", place.join("data")).unwrap();
        std::os::unix::fs::symlink("data/tls.crt", place.join("tls.crt")).unwrap();
        let files = Files {
            certificate_file: place.join("tls.crt"),
            ca_path: Some(place.clone()),
            ..Files::default()
        };
        let before = Stamps::of(&files);
        assert_eq!(Stamps::of(&files), before);
        std::os::unix::fs::symlink("two", place.join("new")).unwrap();
        fs::rename(place.join("new"), place.join("data")).unwrap();
        let after = Stamps::of(&files);
        assert_ne!(after, before);
        fs::remove_file(place.join("two/tls.crt")).unwrap();
        assert_ne!(Stamps::of(&files), after);
        fs::remove_dir_all(&place).unwrap();
    }
}
