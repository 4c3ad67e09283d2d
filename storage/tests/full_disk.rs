//! A real file system that runs full: a tmpfs of a few megabytes, filled until the store has no room, and given room again.
//!
//! It is mounted in a namespace of its own, for which no more than `unshare -rm` is needed; the test then runs itself in
//! there, with and without a floor for the free space. Where the kernel does not let it (no user namespaces for ordinary users), it says so and is skipped; under CI, with
//! the variable `CI` set, it fails. What the disk does that is full while it is written is simulated in `faults`.
//!
//! ```text
//! cargo test -p nightjar-storage --test full_disk                    10 times full
//! FULL_ROUNDS=100 cargo test -p nightjar-storage --test full_disk -- --nocapture
//! ```

#![cfg(target_os = "linux")]

mod support;

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use nightjar_storage::contract::{Random, World, check_same};
use nightjar_storage::{
    Batch, Checkpoint, Journal, JournalStatus, Lsn, Operation, Options, RedbEngine,
};
use support::{now, number_from_environment};

#[test]
fn a_small_file_system_filled_and_emptied_again_and_again() {
    if let Some(mounted) = std::env::var_os(MOUNTED) {
        return fill_and_empty(Path::new(&mounted));
    }
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("nightjar-full-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let itself = std::env::current_exe().unwrap();
    let outcome = Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-c"])
        .arg(format!(
            "mount -t tmpfs -o size={SIZE} none \"$0\" || exit {NOT_MOUNTED}; exec \"$@\""
        ))
        .arg(&directory)
        .arg(itself)
        .args(["--exact", "--nocapture"])
        .arg("a_small_file_system_filled_and_emptied_again_and_again")
        .env(MOUNTED, &directory)
        .output();
    fs::remove_dir(&directory).expect("the mount was another namespace's");
    let why = match outcome {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stdout);
            let complained = String::from_utf8_lossy(&output.stderr);
            if output.status.success() {
                assert!(said.contains("1 passed"), "nothing has run: {said}");
                print!("{said}");
                return;
            }
            // The code of a test that fails.
            assert!(
                output.status.code() != Some(101),
                "on a small tmpfs:\n{said}\n{complained}"
            );
            complained.into_owned()
        }
        Err(error) => error.to_string(),
    };
    let missing = format!(
        "NOT PROVED: a small tmpfs cannot be mounted; `unshare --map-root-user --mount` needs user namespaces \
         (sysctl kernel.unprivileged_userns_clone, user.max_user_namespaces): {why}"
    );
    assert!(std::env::var_os("CI").is_none(), "{missing}");
    eprintln!("{missing}");
}

/// Takes room, as much as there is and not above `BALLAST`.
fn put_ballast(path: &Path) -> usize {
    let mut file = fs::File::create(path).unwrap();
    let mut put = 0;
    while put < BALLAST {
        match file.write(&[1; 4096]) {
            Ok(written) => put += written,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::StorageFull);
                break;
            }
        }
    }
    put
}

/// The part that runs where the small file system is.
fn fill_and_empty(mounted: &Path) {
    let said = nightjar_storage::warnings(mounted);
    assert!(
        matches!(said.as_slice(), [only] if only.contains("tmpfs")),
        "{said:?}"
    );
    let rounds = number_from_environment("FULL_ROUNDS").unwrap_or(10);
    let ballast = mounted.join("ballast");
    let mut script = Script::open(&mounted.join("data"), 0);
    let mut slowest = Duration::ZERO;
    let mut taken = 0;
    for round in 0..rounds {
        let put = put_ballast(&ballast);
        assert!(
            put >= BALLAST / 4,
            "round {round}: the store gives nothing back"
        );
        taken += script.fill();
        let JournalStatus::Failed { durable, reason } = script.engine.status() else {
            panic!("round {round}: it is not full");
        };
        assert!(durable < script.last, "what has no room is not promised");
        if script.disk_free_min > 0 {
            assert!(reason.contains("disk_free_min"), "round {round}: {reason}");
            let read = script.engine.session("full");
            assert!(read.is_ok(), "round {round}: {read:?}");
        } else {
            assert!(reason.contains("space"), "round {round}: {reason}");
        }
        fs::remove_file(&ballast).unwrap();
        let room_since = now();
        script.wait_until_it_works();
        slowest = slowest.max(room_since.elapsed());
        check_same(&*script.engine, &script.world.latest, "with room again");
        if round % 5 == 4 {
            script = script.restarted();
            check_same(&*script.engine, &script.world.latest, "after a restart");
        }
        script.empty();
    }
    println!("{rounds} times full, {taken} batches taken, back within {slowest:?}");
    assert!(slowest < RECOVERY_MAX, "back only after {slowest:?}");
    assert_eq!(script.engine.check(), Ok(vec![]));
}

struct Script {
    directory: PathBuf,
    engine: Arc<RedbEngine>,
    disk_free_min: u8,
    progress: Receiver<()>,
    world: World,
    random: Random,
    /// The Lsn of the last batch that was taken.
    last: Lsn,
}

impl Script {
    fn open(directory: &Path, disk_free_min: u8) -> Self {
        let options = Options {
            disk_free_min,
            ..Options::default()
        };
        let engine = RedbEngine::open(directory, options).expect("there is room for a store");
        let (sender, progress) = channel();
        engine.on_progress(Box::new(move || {
            let _ = sender.send(());
        }));
        let mut world = World::new();
        world.padding_max = 50_000;
        Self {
            directory: directory.to_owned(),
            engine,
            disk_free_min,
            progress,
            world,
            random: Random(1),
            last: 0,
        }
    }

    /// Gives how many batches were taken before there was no room.
    fn fill(&mut self) -> u64 {
        for taken in 0..TAKEN_MAX {
            let before = self.world.latest.clone();
            let batch = self.world.queue_for("full", &mut self.random);
            match self.engine.append(Batch(batch)) {
                Ok(lsn) => self.last = lsn,
                Err(_) => {
                    self.world.latest = before;
                    return taken;
                }
            }
            self.engine.flush();
        }
        panic!("a small file system takes everything");
    }

    fn wait_until_it_works(&self) {
        while !self.engine.status().covers(self.last) {
            self.progress
                .recv_timeout(Duration::from_secs(30))
                .expect("it works again within 30 s");
        }
    }

    fn empty(&mut self) {
        let delete = Operation::DeleteSession {
            client_id: "full".into(),
        };
        self.world.latest.fold(&delete);
        self.last = self
            .engine
            .append(Batch(vec![delete]))
            .expect("there is room");
        self.wait_until_it_works();
        // The file gives back what is free at its end, some of it with each commit.
        for _ in 0..COMMITS_THAT_SHRINK {
            let batch = self.world.queue_for("small", &mut self.random);
            self.last = self.engine.append(Batch(batch)).expect("there is room");
            let delete = Operation::DeleteSession {
                client_id: "small".into(),
            };
            self.world.latest.fold(&delete);
            self.last = self
                .engine
                .append(Batch(vec![delete]))
                .expect("there is room");
            self.wait_until_it_works();
        }
    }

    /// With a floor if there was none, and without if there was one.
    fn restarted(self) -> Self {
        let Self {
            directory,
            engine,
            world,
            random,
            last,
            disk_free_min,
            progress: _,
        } = self;
        drop(engine);
        Self {
            world,
            random,
            last,
            ..Self::open(&directory, FLOOR - disk_free_min)
        }
    }
}

/// Where the small file system is, for the part that runs there.
const MOUNTED: &str = "NIGHTJAR_SMALL_FILE_SYSTEM";
/// Percent; more than one batch takes.
const FLOOR: u8 = 20;
const SIZE: &str = "12m";
const NOT_MOUNTED: i32 = 77;
/// What takes most of it while the store is filled.
const BALLAST: usize = 4 << 20;
/// Batches that no small file system has room for.
const TAKEN_MAX: u64 = 2000;
const COMMITS_THAT_SHRINK: usize = 8;
/// What an operator may expect.
const RECOVERY_MAX: Duration = Duration::from_secs(20);
