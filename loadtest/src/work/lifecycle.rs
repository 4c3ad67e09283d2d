//! A broker on this machine that is killed and started again.
//!
//! Comes in: how to start it, or the process id of one that runs and how to start that again. Goes out: its process id, after
//! each start another. One that was started here is stopped at the end; one that was there before is left running.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::WorkError;
use crate::arguments::ArgumentError;
use crate::clock::Clock;
use crate::compare::CompareError;
use crate::compare::broker::{Launch, Running, Scratch, free_port, listens};
use crate::compare::file::{BrokerPlan, Builtin, words};

/// The broker.
#[derive(Debug)]
pub enum Lifecycle {
    Own(Own),
    Theirs(Theirs),
}

/// Started here, with a port and a directory of its own.
#[derive(Debug)]
pub struct Own {
    launch: Launch,
    running: Option<Running>,
    /// Removed after the broker has ended.
    _scratch: Scratch,
}

/// Was there before.
#[derive(Debug)]
pub struct Theirs {
    address: SocketAddr,
    /// None where a command started it that has ended.
    pid: Option<u32>,
    restart: Vec<String>,
    child: Option<Child>,
}

/// How to start a broker of our own.
#[derive(Clone, Copy, Debug)]
pub struct Recipe<'a> {
    /// None: nightjar.
    pub command: Option<&'a str>,
    /// Text of `{config}`.
    pub config: Option<&'a Path>,
    /// None: one that is removed afterwards.
    pub data: Option<&'a Path>,
    pub port: Option<u16>,
    pub core: Option<usize>,
}

impl Lifecycle {
    /// Starts a broker.
    pub fn start_own(recipe: Recipe<'_>) -> Result<Self, WorkError> {
        let scratch = Scratch::new()?;
        let config = recipe.config.map(fs::read_to_string).transpose()?;
        let plan = BrokerPlan {
            name: "the broker".to_owned(),
            builtin: recipe.command.is_none().then_some(Builtin::Nightjar),
            command: recipe.command.map(str::to_owned),
            config: config.or_else(|| recipe.command.is_none().then(|| KEEPS.to_owned())),
            version_command: None,
            config_of_work: String::new(),
        };
        let data = match recipe.data {
            Some(path) => claimed(path)?,
            None => scratch.emptied("data")?,
        };
        let port = recipe.port.map_or_else(free_port, Ok)?;
        let beside = std::env::current_exe()?;
        let programs = beside.parent();
        let launch = Launch::new(&plan, programs, &scratch, &data, port, recipe.core)?;
        Ok(Self::Own(Own {
            running: Some(launch.start()?),
            launch,
            _scratch: scratch,
        }))
    }

    /// Takes charge of one that runs.
    pub fn take(pid: u32, restart: &str, address: SocketAddr) -> Result<Self, WorkError> {
        let restart = words(restart).map_err(CompareError::File)?;
        if restart.is_empty() {
            return Err(ArgumentError::NoRestart.into());
        }
        Ok(Self::Theirs(Theirs {
            address,
            pid: Some(pid),
            restart,
            child: None,
        }))
    }

    /// The process id, where it is known.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        match self {
            Self::Own(own) => own.running.as_ref().map(Running::pid),
            Self::Theirs(theirs) => theirs.pid,
        }
    }

    /// The port of one that was started here.
    #[must_use]
    pub fn own_port(&self) -> Option<u16> {
        match self {
            Self::Own(own) => Some(own.launch.port),
            Self::Theirs(_) => None,
        }
    }

    /// SIGKILL. It is gone when this returns.
    pub fn kill(&mut self) -> Result<(), WorkError> {
        match self {
            Self::Own(own) => {
                if let Some(mut running) = own.running.take() {
                    running.kill()?;
                }
                Ok(())
            }
            Self::Theirs(theirs) => theirs.kill(),
        }
    }

    /// Starts it again and waits until it accepts connections.
    pub fn start(&mut self) -> Result<(), WorkError> {
        match self {
            Self::Own(own) => {
                own.running = Some(own.launch.start()?);
                Ok(())
            }
            Self::Theirs(theirs) => theirs.start(),
        }
    }
}

impl Theirs {
    fn kill(&mut self) -> Result<(), WorkError> {
        let number = self.pid.take().ok_or_else(|| {
            WorkError::Lifecycle(
                "the command of --restart has ended, so that the broker's process id is not known: one kill only"
                    .to_owned(),
            )
        })?;
        let pid = i32::try_from(number).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let killed = kill_process(pid, Signal::KILL);
        killed.map_err(|error| {
            WorkError::Lifecycle(format!("cannot kill process {number}: {error}"))
        })?;
        if let Some(mut child) = self.child.take() {
            child.wait()?;
        }
        let clock = Clock::start();
        while is_alive(number) {
            if clock.elapsed() > END_MAX {
                let reason = format!("process {number} does not end");
                return Err(WorkError::Lifecycle(reason));
            }
            thread::sleep(PAUSE);
        }
        Ok(())
    }

    fn start(&mut self) -> Result<(), WorkError> {
        let (program, arguments) = self.restart.split_first().expect("checked when taken");
        let mut command = Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut child = command.spawn().map_err(|error| CompareError::Start {
            program: program.clone(),
            error,
        })?;
        // A command that ends well has asked somebody else to start it.
        let may_come = || Ok(child.try_wait()?.is_none_or(|status| status.success()));
        if !listens(self.address, may_come)? {
            let reason = format!("after {program} nobody listens on {}", self.address);
            return Err(WorkError::Lifecycle(reason));
        }
        if child.try_wait()?.is_none() {
            self.pid = Some(child.id());
            self.child = Some(child);
        }
        Ok(())
    }
}

/// A directory that is there and empty when this returns.
fn claimed(path: &Path) -> Result<PathBuf, WorkError> {
    fs::create_dir_all(path)?;
    if fs::read_dir(path)?.next().is_some() {
        return Err(ArgumentError::DataInUse(path.to_owned()).into());
    }
    Ok(path.canonicalize()?)
}

/// Whether the process still runs; one that only waits for its parent to take note does not.
fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').map(|(_, fields)| fields.trim_start());
    state.is_some_and(|state| !state.starts_with(['Z', 'X']))
}

/// What the default broker is told besides.
const KEEPS: &str = "persistence = true\ndata_directory = \"{data}\"\n";
const END_MAX: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(2);
