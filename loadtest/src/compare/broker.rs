//! A broker as a child process: started on a free port, waited for, and stopped when it is dropped.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use socket2::{Domain, Socket, Type};

use super::CompareError;
use super::file::{self, BrokerPlan};
use crate::clock::Clock;

/// A directory for what the processes write, removed at the end.
#[derive(Debug)]
pub struct Scratch {
    directory: PathBuf,
}

impl Scratch {
    /// A new one, empty.
    pub fn new() -> io::Result<Self> {
        let name = format!("nightjar-loadtest-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        // What a process with our id left behind.
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory)?;
        Ok(Self { directory })
    }

    /// A file in it.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// An empty directory in it.
    pub fn emptied(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.path(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path)?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is left to the system.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// How to start one broker, once or again: with the same port, configuration and directory.
#[derive(Debug)]
pub struct Launch {
    name: String,
    words: Vec<String>,
    log: PathBuf,
    pub port: u16,
    core: Option<usize>,
}

impl Launch {
    /// Writes the configuration; everything in it and in the command is replaced from here on.
    pub fn new(
        plan: &BrokerPlan,
        programs: Option<&Path>,
        scratch: &Scratch,
        directory: &Path,
        port: u16,
        core: Option<usize>,
    ) -> Result<Self, CompareError> {
        // Without an extension: brokers may tell what it is by its first line, and none is misled by its name.
        let config = scratch.path("broker-configuration");
        let directory = directory.display().to_string();
        let replaced = |text: &str| {
            file::programs_replaced(text, programs)
                .replace("{port}", &port.to_string())
                .replace("{config}", &config.display().to_string())
                .replace("{dir}", &directory)
                .replace("{data}", &directory)
        };
        fs::write(&config, replaced(&plan.config()))?;
        Ok(Self {
            name: plan.name.clone(),
            words: file::words(&replaced(&plan.command()))?,
            log: scratch.path("broker.log"),
            port,
            core,
        })
    }

    /// Starts it and waits until it accepts connections.
    pub fn start(&self) -> Result<Running, CompareError> {
        let (program, arguments) = self.words.split_first().ok_or(file::FileError::Empty)?;
        let output = File::create(&self.log)?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let child = pinned(self.core, || command.spawn());
        let child = child.map_err(|error| CompareError::Start {
            program: program.clone(),
            error,
        })?;
        let mut running = Running {
            child,
            port: self.port,
        };
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        if listens(address, || Ok(running.child.try_wait()?.is_none()))? {
            return Ok(running);
        }
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        Err(CompareError::Silent {
            name: self.name.clone(),
            log: log.lines().last().unwrap_or("nothing").to_owned(),
        })
    }
}

/// A broker that listens.
#[derive(Debug)]
pub struct Running {
    child: Child,
    pub port: u16,
}

impl Running {
    /// Starts one on a free port with an empty directory.
    pub fn start(
        plan: &BrokerPlan,
        programs: Option<&Path>,
        scratch: &Scratch,
        core: Option<usize>,
    ) -> Result<Self, CompareError> {
        let directory = scratch.emptied("broker")?;
        Launch::new(plan, programs, scratch, &directory, free_port()?, core)?.start()
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to end, and ends it where it does not.
    pub fn stop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        // A process that cannot be asked is ended below.
        let _ = pid.map(|pid| kill_process(pid, Signal::TERM));
        if !matches!(wait(&mut self.child, STOP_MAX), Ok(Some(_))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    /// Ends it at once, without a word to it: SIGKILL. It is gone when this returns.
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Waits until `address` accepts; false if its process is not `alive` any more or it takes too long.
pub fn listens(
    address: SocketAddr,
    mut alive: impl FnMut() -> io::Result<bool>,
) -> io::Result<bool> {
    let clock = Clock::start();
    while clock.elapsed() < START_MAX && alive()? {
        let stream = TcpStream::connect_timeout(&address, START_MAX);
        // Where nobody listens yet, the system may choose that port for the connection, which is connected to itself then.
        if stream.is_ok_and(|stream| stream.local_addr().is_ok_and(|own| own != address)) {
            return Ok(true);
        }
        thread::sleep(PAUSE);
    }
    Ok(false)
}

/// Waits for the end of a process; `None` if it takes longer.
pub fn wait(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let clock = Clock::start();
    loop {
        let status = child.try_wait()?;
        if status.is_some() || clock.elapsed() > limit {
            return Ok(status);
        }
        thread::sleep(PAUSE);
    }
}

/// Does `spawn` bound to one core, which the process it starts inherits.
pub fn pinned<T>(core: Option<usize>, spawn: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let Some(core) = core else {
        return spawn();
    };
    if core >= CpuSet::MAX_CPU {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let before = sched_getaffinity(None)?;
    let mut one = CpuSet::new();
    one.set(core);
    sched_setaffinity(None, &one)?;
    let spawned = spawn();
    sched_setaffinity(None, &before)?;
    spawned
}

/// A port of loopback that nobody listens on. Nor do we: a process that another thread starts at this moment has a copy of the socket until it
/// has become another program.
pub fn free_port() -> io::Result<u16> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    let address = socket.local_addr()?.as_socket();
    address
        .map(|address| address.port())
        .ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

const START_MAX: Duration = Duration::from_secs(20);
const STOP_MAX: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(2);
