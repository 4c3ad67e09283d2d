//! The broker as a process that is killed again and again on one data directory.
//!
//! Comes in: where it keeps its data, and how it is to die. Goes out: its port, its log, and how it ended. It dies by our SIGKILL,
//! or by one that `strace` injects as it enters a chosen system call; `strace -D` traces from aside, so that our child is the broker
//! itself either way.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use harness::now;

use crate::link::wait_readable;

const SIGKILL: i32 = 9;

/// Where one run keeps everything it may have to show.
pub(crate) struct Place {
    pub(crate) directory: PathBuf,
    /// More lines of the configuration.
    pub(crate) settings: String,
}

impl Place {
    /// An empty directory below that of cargo for tests.
    pub(crate) fn new(name: &str, settings: &str) -> Self {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).expect("cargo's directory for tests is writable");
        Self {
            directory,
            settings: settings.to_owned(),
        }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// Keeps what the last two kills left on the disk, before the next start changes it.
    pub(crate) fn keep_what_was_left(&self) {
        let newest = self.directory.join("data-before-the-last-start");
        let older = self.directory.join("data-before-the-start-before");
        let _ = fs::remove_dir_all(&older);
        let _ = fs::rename(&newest, &older);
        let Ok(entries) = fs::read_dir(self.data()) else {
            return;
        };
        fs::create_dir_all(&newest).expect("the directory is writable");
        // There is a socket beside the files.
        let is_file = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|it| it.is_file());
        for entry in entries.flatten().filter(is_file) {
            fs::copy(entry.path(), newest.join(entry.file_name()))
                .expect("a file of the broker can be copied");
        }
    }

    pub(crate) fn data_bytes(&self) -> u64 {
        let entries = fs::read_dir(self.data()).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.metadata().ok())
            .map(|metadata| metadata.len())
            .sum()
    }
}

/// The system call at which `strace` kills.
#[derive(Clone, Debug)]
pub(crate) struct Trap {
    /// As `strace -e` names them, with commas.
    pub(crate) calls: &'static str,
    /// Of each thread, the how manieth.
    pub(crate) when: u64,
}

/// A broker that runs, or has just ended.
pub(crate) struct Broker {
    child: Child,
    /// Everything it wrote.
    pub(crate) log: String,
    log_file: File,
    stderr: std::process::ChildStderr,
    status: Option<ExitStatus>,
    stderr_is_open: bool,
    pub(crate) started: Instant,
    pub(crate) port: Option<u16>,
    /// When it said that it runs.
    pub(crate) running_since: Option<Instant>,
}

impl Broker {
    pub(crate) fn start(place: &Place, trap: Option<&Trap>) -> Self {
        let configuration = place.directory.join("nightjar.toml");
        let text = format!(
            "data_directory = \"{}\"\nallow_anonymous = true\nshards = 2\n{}\n[[listeners]]\naddress = \"127.0.0.1:0\"\n",
            place.data().display(),
            place.settings,
        );
        fs::write(&configuration, text).expect("the directory is writable");
        let mut command = match trap {
            None => Command::new(harness::binary()),
            Some(trap) => {
                let mut command = Command::new("strace");
                command
                    .args(["-D", "-f", "-qq", "-o", "/dev/null", "-e"])
                    .arg(format!("trace={}", trap.calls))
                    .arg("-e")
                    .arg(format!(
                        "inject={}:signal=SIGKILL:when={}",
                        trap.calls, trap.when
                    ))
                    .arg(harness::binary());
                command
            }
        };
        command
            .arg("-c")
            .arg(&configuration)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let started = now();
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let stderr = child.stderr.take().expect("stderr is piped");
        let log_file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(place.directory.join("broker.log"))
            .expect("the directory is writable");
        Self {
            child,
            log: String::new(),
            log_file,
            stderr,
            status: None,
            stderr_is_open: true,
            started,
            port: None,
            running_since: None,
        }
    }

    /// What to poll for `read_log`.
    pub(crate) fn stderr(&self) -> Option<&std::process::ChildStderr> {
        self.stderr_is_open.then_some(&self.stderr)
    }

    /// Reads what the log has more; call it when `stderr` is readable.
    pub(crate) fn read_log(&mut self) {
        let mut piece = [0; 16 << 10];
        match self.stderr.read(&mut piece) {
            Ok(0) | Err(_) => self.stderr_is_open = false,
            Ok(length) => {
                let _ = self.log_file.write_all(&piece[..length]);
                if self.log.len() < LOG_BYTES_MAX {
                    self.log
                        .push_str(&String::from_utf8_lossy(&piece[..length]));
                }
            }
        }
        if self.port.is_none() {
            self.port = self
                .log
                .split_once("Opening ipv4 listen socket on port ")
                .and_then(|(_, rest)| rest.split_once('.'))
                .and_then(|(port, _)| port.parse().ok());
        }
        if self.running_since.is_none() && self.log.contains(" running") {
            self.running_since = Some(now());
        }
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("our child can be waited for");
        }
        self.status.is_some()
    }

    /// False: it has ended instead. Bounded by a minute.
    pub(crate) fn wait_until_it_runs(&mut self) -> bool {
        let deadline = now() + Duration::from_secs(60);
        while self.running_since.is_none() && now() < deadline {
            if self.stderr_is_open && wait_readable(&self.stderr, Duration::from_millis(5)) {
                self.read_log();
            }
            if self.has_ended() {
                self.read_rest_of_log();
                break;
            }
        }
        self.running_since.is_some()
    }

    /// SIGKILL, now. True: it had not ended before.
    pub(crate) fn kill(&mut self) -> bool {
        let was_alive = !self.has_ended();
        let _ = self.child.kill();
        self.wait();
        was_alive
    }

    /// After the end: whether somebody killed it. It must not end in any other way.
    pub(crate) fn was_killed(&self) -> bool {
        self.status
            .is_some_and(|status| status.signal() == Some(SIGKILL))
    }

    fn wait(&mut self) {
        if self.status.is_none() {
            self.status = self.child.wait().ok();
        }
        let _ = writeln!(self.log_file, "-- {:?}", self.status);
    }

    /// The last words, bounded: a tracer that hangs on must not hang us.
    pub(crate) fn read_rest_of_log(&mut self) {
        let deadline = now() + Duration::from_secs(1);
        while self.stderr_is_open && now() < deadline {
            if wait_readable(&self.stderr, Duration::from_millis(100)) {
                self.read_log();
            }
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether `strace` can be used here; otherwise why not.
pub(crate) fn can_trace() -> Result<(), String> {
    let output = Command::new("strace")
        .args(["-D", "-f", "-qq", "-o", "/dev/null"])
        .args(["-e", "trace=write", "-e"])
        .args(["inject=write:signal=SIGKILL:when=1", "echo", "alive"])
        .output()
        .map_err(|error| format!("strace cannot be started: {error}"))?;
    if output.status.signal() == Some(SIGKILL) && output.stdout.is_empty() {
        return Ok(());
    }
    Err(format!(
        "strace may not trace, or does not kill (ptrace is forbidden?): {} {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    ))
}

const LOG_BYTES_MAX: usize = 1 << 20;
