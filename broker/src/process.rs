//! What the operating system sees of the broker: in the background, its process id, its user, its service manager.
//!
//! In: `ProcessSettings` and the environment. Nothing here knows MQTT. Whatever changes who the process is happens before it has
//! a second thread, because a thread keeps what it had.

use std::ffi::CString;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, User, geteuid, initgroups, setgid, setgroups, setuid};
use sd_notify::NotifyState;

use crate::settings::RunAs;

/// Why the process cannot be who it should be.
#[derive(Debug)]
#[non_exhaustive]
pub enum ProcessError {
    PidFile { path: PathBuf, error: io::Error },
    UnknownUser(String),
    NotANumber { name: &'static str, value: String },
    Drop { name: String, error: io::Error },
    Daemon(io::Error),
}

/// Starts this program again in a session of its own and says what it says until it serves, or has failed: whoever waits for
/// this process knows which. A fork would need code that the compiler cannot check; a new process needs none.
pub fn run_in_background() -> ExitCode {
    match start_in_background() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("Error: {}", ProcessError::Daemon(error));
            ExitCode::FAILURE
        }
    }
}

fn start_in_background() -> io::Result<ExitCode> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(BACKGROUND, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(stderr) = child.stderr.take() {
        for line in BufReader::new(stderr).split(b'\n') {
            let line = line?;
            if line == SERVING.as_bytes() {
                return Ok(ExitCode::SUCCESS);
            }
            let mut whole = line;
            whole.push(b'\n');
            io::stderr().write_all(&whole)?;
        }
    }
    let code = child.wait()?.code();
    Ok(code
        .and_then(|code| u8::try_from(code).ok())
        .map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Whether this process is the one that `run_in_background` started.
pub fn is_in_background() -> bool {
    std::env::var_os(BACKGROUND).is_some()
}

/// Leaves the terminal. To be called before anything else.
pub fn leave_terminal() {
    // It fails only for who leads a process group already, which a child just started does not.
    let _ = rustix::process::setsid();
}

/// Tells the process that waits that this one serves. From here on nobody reads standard error.
pub fn note_serving_in_background() {
    let null = OpenOptions::new().read(true).write(true).open("/dev/null");
    let _ = writeln!(io::stderr(), "{SERVING}");
    if let Ok(null) = null {
        let _ = rustix::stdio::dup2_stderr(&null);
    }
}

/// A file with the id of this process, for as long as it lives.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
}

impl PidFile {
    /// Writes a new file and puts it in the place of an old one: what the path leads to is never written through.
    pub fn write(path: &Path) -> Result<Self, ProcessError> {
        let fail = |error| ProcessError::PidFile {
            path: path.to_owned(),
            error,
        };
        let id = std::process::id();
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{id}"));
        let new = PathBuf::from(name);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        // Whoever may write it may have another process killed, whatever the umask.
        options
            .mode(0o644)
            .open(&new)
            .and_then(|mut file| writeln!(file, "{id}"))
            .and_then(|()| fs::rename(&new, path))
            .map_err(|error| {
                let _ = fs::remove_file(&new);
                fail(error)
            })?;
        Ok(Self {
            path: path.to_owned(),
        })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let id = std::process::id().to_string();
        // Another may have taken its place.
        if fs::read_to_string(&self.path).is_ok_and(|text| text.trim() == id) {
            // Who has dropped its rights may not be allowed to; the next start replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The user that a process started as root is about to become.
#[derive(Debug)]
pub struct Becoming {
    name: String,
    /// `None`: ids from the environment, without a name and without groups.
    account: Option<CString>,
    pub user: Uid,
    pub group: Gid,
}

/// Whom this process has to become; `None`: it stays who it is. `PUID` and `PGID` win over the settings.
pub fn becoming(run_as: &RunAs) -> Result<Option<Becoming>, ProcessError> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    if let Some(user) = id_from_environment("PUID")? {
        let group = id_from_environment("PGID")?.unwrap_or(user);
        return Ok(Some(Becoming {
            name: user.to_string(),
            account: None,
            user: Uid::from_raw(user),
            group: Gid::from_raw(group),
        }));
    }
    let names: &[&str] = match run_as {
        RunAs::Unchanged => &[],
        RunAs::MosquittoOrNobody => &["mosquitto", "nobody"],
        RunAs::User(name) => &[name],
    };
    if names.is_empty() || names == ["root"] {
        return Ok(None);
    }
    let user = names
        .iter()
        .find_map(|name| User::from_name(name).ok().flatten())
        .ok_or_else(|| ProcessError::UnknownUser(names.join("' or '")))?;
    let account = CString::new(user.name.as_str()).ok();
    Ok(Some(Becoming {
        name: user.name,
        account,
        user: user.uid,
        group: user.gid,
    }))
}

impl Becoming {
    /// By name, or by number where it has none.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Gives up root for good: groups, group and user. To be called before the second thread.
    pub fn become_user(&self) -> Result<(), ProcessError> {
        let groups = match &self.account {
            Some(account) => initgroups(account, self.group),
            None => setgroups(&[self.group]),
        };
        let done = groups
            .and_then(|()| setgid(self.group))
            .and_then(|()| setuid(self.user))
            .map_err(io::Error::from);
        // Whoever can be root again has not given it up.
        let done = done.and_then(|()| {
            if !self.user.is_root() && setuid(Uid::from_raw(0)).is_ok() {
                Err(io::Error::other("root can be had back"))
            } else {
                Ok(())
            }
        });
        done.map_err(|error| ProcessError::Drop {
            name: self.name.clone(),
            error,
        })?;
        tracing::info!("Running as user {} (id {}).", self.name, self.user);
        Ok(())
    }
}

/// Says so where a process is root and stays it.
pub fn warn_of_root() {
    if geteuid().is_root() {
        tracing::warn!(
            "The broker runs as root. It does not need to: user = \"NAME\" makes it someone else."
        );
    }
}

fn id_from_environment(name: &'static str) -> Result<Option<u32>, ProcessError> {
    let Some(value) = std::env::var_os(name) else {
        return Ok(None);
    };
    let value = value.to_string_lossy().into_owned();
    value
        .parse()
        .map(Some)
        .map_err(|_| ProcessError::NotANumber { name, value })
}

/// The umask that `UMASK_SET` asks for, in octal, as the common container images have it.
pub fn set_umask() -> Result<(), ProcessError> {
    let Some(value) = std::env::var_os("UMASK_SET") else {
        return Ok(());
    };
    let value = value.to_string_lossy().into_owned();
    let mode = u32::from_str_radix(&value, 8)
        .ok()
        .and_then(Mode::from_bits);
    match mode {
        Some(mode) => {
            umask(mode);
            Ok(())
        }
        None => Err(ProcessError::NotANumber {
            name: "UMASK_SET",
            value,
        }),
    }
}

/// The signal that asks for log files to be opened anew. C libraries keep the first ones for themselves.
pub fn first_realtime_signal() -> i32 {
    nix::libc::SIGRTMIN()
}

/// Tells the service manager, where there is one.
pub fn notify(state: Notice<'_>) {
    let mut told = vec![];
    match state {
        Notice::Ready => told.push(NotifyState::Ready),
        Notice::Stopping => told.push(NotifyState::Stopping),
        Notice::Watchdog => told.push(NotifyState::Watchdog),
        Notice::Reloading => {
            told.push(NotifyState::Reloading);
            told.extend(NotifyState::monotonic_usec_now());
        }
        Notice::Reloaded(status) => {
            told.push(NotifyState::Ready);
            told.push(NotifyState::Status(status));
        }
    }
    if let Err(error) = sd_notify::notify(&told) {
        tracing::debug!("The service manager was not told: {error}.");
    }
}

/// What the service manager is told.
#[derive(Clone, Copy, Debug)]
pub enum Notice<'a> {
    Ready,
    Reloading,
    /// And what came of it.
    Reloaded(&'a str),
    Stopping,
    Watchdog,
}

/// Within which time the service manager wants to hear `Watchdog`.
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

impl fmt::Display for ProcessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // The first words are Mosquitto's.
            Self::PidFile { path, error } => {
                write!(f, "Unable to write pid file {}: {error}", path.display())
            }
            Self::UnknownUser(name) => write!(
                f,
                "Unable to drop privileges to '{name}' because this user does not exist."
            ),
            Self::NotANumber { name, value } => {
                write!(f, "{name} in the environment is not a number ({value}).")
            }
            Self::Drop { name, error } => write!(f, "cannot become user '{name}': {error}"),
            Self::Daemon(error) => write!(f, "cannot start in the background: {error}"),
        }
    }
}

impl std::error::Error for ProcessError {}

/// In the environment of a process that was started to stay in the background.
const BACKGROUND: &str = "NIGHTJAR_BACKGROUND";
/// What that process says last to the one that waits. A log line cannot be this: control characters are escaped.
const SERVING: &str = "\u{6}serving";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_replaces_what_lies_there_and_goes_with_its_process() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("target");
        let path = directory.path().join("pid");
        fs::write(&target, "keep").unwrap();
        std::os::unix::fs::symlink(&target, &path).unwrap();
        let file = PidFile::write(&path).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("{}\n", std::process::id()));
        assert_eq!(fs::read_to_string(&target).unwrap(), "keep");
        drop(file);
        assert!(!path.exists());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_pid_file_of_another_process_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pid");
        let file = PidFile::write(&path).unwrap();
        fs::write(&path, "1\n").unwrap();
        drop(file);
        assert!(path.exists());
        let missing = directory.path().join("missing/pid");
        let error = PidFile::write(&missing).unwrap_err().to_string();
        assert!(error.starts_with("Unable to write pid file "), "{error}");
    }
}
