//! The broker as a process: built once, started on an OS-chosen loopback port, watched, and killed when the test is over.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use crate::{PATIENCE, free_port, now};

/// A running broker; dropping it kills the process.
#[derive(Debug)]
pub struct Broker {
    /// The port it listens on.
    pub port: u16,
    /// What `{second_port}` of its configuration stands for.
    pub second_port: u16,
    address: SocketAddr,
    process: Option<Process>,
}

/// How a broker is to be started.
#[derive(Clone, Debug, Default)]
pub struct Options {
    arguments: Vec<String>,
    toml: Option<String>,
    /// What the file of that text is called; how it ends decides the language.
    file_name: Option<&'static str>,
    environment: Vec<(String, String)>,
}

impl Broker {
    /// Starts a broker with no options but its port, or attaches to the one of `NIGHTJAR_TEST_ADDR`.
    #[track_caller]
    pub fn start() -> Self {
        Self::options().start()
    }

    /// Options to be filled before `start`.
    pub fn options() -> Options {
        Options::default()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The process; `NIGHTJAR_TEST_PID` for a broker that was running already.
    pub fn process_id(&self) -> Option<u32> {
        match &self.process {
            Some(process) => Some(process.child.id()),
            None => std::env::var("NIGHTJAR_TEST_PID").ok()?.parse().ok(),
        }
    }

    /// Resident memory of the process, as the kernel counts it.
    #[track_caller]
    pub fn resident_bytes(&self) -> u64 {
        let process_id = self
            .process_id()
            .expect("NIGHTJAR_TEST_PID names the broker of NIGHTJAR_TEST_ADDR");
        let status = std::fs::read_to_string(format!("/proc/{process_id}/status"))
            .expect("the broker is alive");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .expect("Linux tells VmRSS");
        let kibibytes: u64 = line
            .trim()
            .trim_end_matches(" kB")
            .parse()
            .expect("VmRSS is a number");
        kibibytes * 1024
    }

    /// Whether the process runs. True for a broker that we did not start.
    pub fn is_alive(&mut self) -> bool {
        self.process
            .as_mut()
            .is_none_or(|process| matches!(process.child.try_wait(), Ok(None)))
    }

    /// All that it wrote to stderr until now.
    pub fn log(&self) -> String {
        self.process
            .as_ref()
            .map(|process| process.log.lock().unwrap().clone())
            .unwrap_or_default()
    }

    /// Waits until `text` stands in the log; bounded.
    #[track_caller]
    pub fn wait_for_log(&mut self, text: &str) {
        self.wait_for_lines(text, 1);
    }

    /// Waits until `text` stands in the log `count` times; bounded, and more often is wrong too.
    #[track_caller]
    pub fn wait_for_log_times(&mut self, text: &str, count: usize) {
        let found = self.wait_for_lines(text, count);
        assert_eq!(found, count, "{text:?} in the log:\n{}", self.log());
    }

    #[track_caller]
    fn wait_for_lines(&mut self, text: &str, count: usize) -> usize {
        let deadline = now() + PATIENCE;
        let mut more = true;
        loop {
            let found = self.log().matches(text).count();
            if found >= count {
                return found;
            }
            assert!(
                more,
                "{text:?} stands in the log {found} times:\n{}",
                self.log()
            );
            let process = self
                .process
                .as_mut()
                .expect("only a broker that we started has a log");
            let left = deadline.saturating_duration_since(now());
            more = process.lines.recv_timeout(left).is_ok();
        }
    }

    /// Waits until the process ends by itself; bounded.
    #[track_caller]
    pub fn wait_for_exit(&mut self) -> ExitStatus {
        self.process
            .as_mut()
            .expect("only a broker that we started can be waited for")
            .wait(PATIENCE)
            .unwrap_or_else(|| panic!("still running after {PATIENCE:?}:\n{}", self.log()))
    }

    /// Sends SIGKILL and waits for the end of the process: nothing of it runs any more.
    #[track_caller]
    pub fn kill(&mut self) {
        let process = self
            .process
            .as_mut()
            .expect("only a broker that we started can be killed");
        process.child.kill().expect("our child can be killed");
        process.child.wait().expect("a killed child ends");
    }

    /// Sends SIGTERM and waits for the end of the process; bounded.
    #[track_caller]
    pub fn terminate(&mut self) -> ExitStatus {
        let process = self
            .process
            .as_mut()
            .expect("only a broker that we started can be terminated");
        let process_id = i32::try_from(process.child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        let process_id = process_id.expect("a child's process id is positive");
        rustix::process::kill_process(process_id, rustix::process::Signal::TERM)
            .expect("our child can be signalled");
        process
            .wait(PATIENCE)
            .unwrap_or_else(|| panic!("still running {PATIENCE:?} after SIGTERM:\n{}", self.log()))
    }
}

impl Options {
    /// Adds a command-line argument.
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Configuration text, written to a file and passed with `-c`; `{port}` stands for the chosen port, `{second_port}`
    /// for another that was free.
    pub fn toml(mut self, text: &str) -> Self {
        self.toml = Some(text.to_owned());
        self
    }

    /// The text of a mosquitto.conf, passed with `-c`; `{port}` stands for the chosen port.
    pub fn mosquitto_conf(mut self, text: &str) -> Self {
        self.toml = Some(text.to_owned());
        self.file_name = Some("mosquitto.conf");
        self
    }

    /// Adds an environment variable.
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts the broker and waits until it accepts connections.
    #[track_caller]
    pub fn start(self) -> Broker {
        let is_plain =
            self.arguments.is_empty() && self.toml.is_none() && self.environment.is_empty();
        if let (true, Ok(address)) = (is_plain, std::env::var("NIGHTJAR_TEST_ADDR")) {
            let address: SocketAddr = address.parse().expect("NIGHTJAR_TEST_ADDR is host:port");
            return Broker {
                port: address.port(),
                second_port: 0,
                address,
                process: None,
            };
        }
        // The port is free when we ask for it and may be taken when the broker binds it: then another is tried.
        for _ in 0..5 {
            match self.start_once() {
                Ok(broker) => return broker,
                Err(log) if log.to_ascii_lowercase().contains("address already in use") => {}
                Err(log) => panic!("the broker did not start:\n{log}"),
            }
        }
        panic!("no free port in five attempts");
    }

    fn start_once(&self) -> Result<Broker, String> {
        let (port, second_port) = (free_port(), free_port());
        let mut command = Command::new(binary());
        let mut toml_file = None;
        if let Some(toml) = &self.toml {
            let file = TemporaryFile::new(
                self.file_name.unwrap_or("nightjar.toml"),
                &toml
                    .replace("{port}", &port.to_string())
                    .replace("{second_port}", &second_port.to_string()),
            );
            command.arg("-c").arg(&file.path);
            toml_file = Some(file);
        }
        // A configuration that names its own listener needs no -p.
        if !self
            .toml
            .as_ref()
            .is_some_and(|toml| toml.contains("{port}"))
        {
            command.args(["-p", &port.to_string()]);
        }
        // Brokers of several tests run side by side; who wants to find something again names the directory.
        let keeps = self.arguments.iter().any(|argument| argument == "--data")
            || self
                .toml
                .as_ref()
                .is_some_and(|toml| toml.contains("data_directory"));
        // A mosquitto.conf keeps nothing unless it says so.
        if !keeps && self.file_name.is_none() {
            command.arg("--ephemeral");
        }
        command
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        let mut process = Process::start(command, toml_file);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        process.wait_until_it_listens(address)?;
        Ok(Broker {
            port,
            second_port,
            address,
            process: Some(process),
        })
    }
}

/// The child, its log as it grows, and one event a line.
#[derive(Debug)]
struct Process {
    child: Child,
    log: Arc<Mutex<String>>,
    lines: Receiver<()>,
    _toml_file: Option<TemporaryFile>,
}

impl Process {
    fn start(mut command: Command, toml_file: Option<TemporaryFile>) -> Self {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let stderr = BufReader::new(child.stderr.take().expect("stderr is piped"));
        let log = Arc::new(Mutex::new(String::new()));
        let (line_read, lines) = channel();
        let log_of_thread = Arc::clone(&log);
        // Ends with the process, which holds the other end of the pipe.
        std::thread::spawn(move || {
            for line in stderr.split(b'\n').map_while(Result::ok) {
                let mut log = log_of_thread.lock().unwrap();
                if log.len() < LOG_BYTES_MAX {
                    let _ = writeln!(log, "{}", String::from_utf8_lossy(&line));
                }
                drop(log);
                let _ = line_read.send(());
            }
        });
        Self {
            child,
            log,
            lines,
            _toml_file: toml_file,
        }
    }

    /// Tries to connect after each line of the log, and now and then for a broker that says nothing.
    fn wait_until_it_listens(&mut self, address: SocketAddr) -> Result<(), String> {
        let deadline = now() + PATIENCE;
        loop {
            let is_over = matches!(
                self.lines.recv_timeout(Duration::from_millis(20)),
                Err(RecvTimeoutError::Disconnected)
            );
            if is_over {
                let _ = self.child.wait();
                return Err(self.log.lock().unwrap().clone());
            }
            if TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok() {
                return Ok(());
            }
            if now() > deadline {
                return Err(format!(
                    "nothing listens on {address}\n{}",
                    self.log.lock().unwrap()
                ));
            }
        }
    }

    /// The end of stderr is the event; the exit status follows at once.
    fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = now() + limit;
        loop {
            let left = deadline.saturating_duration_since(now());
            match self.lines.recv_timeout(left) {
                Ok(()) => {}
                Err(RecvTimeoutError::Disconnected) => return self.child.wait().ok(),
                Err(RecvTimeoutError::Timeout) => return None,
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log.lock().unwrap();
            let shown: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("end of the broker's log:");
            shown.iter().rev().for_each(|line| eprintln!("  {line}"));
        }
    }
}

#[derive(Debug)]
struct TemporaryFile {
    path: PathBuf,
}

impl TemporaryFile {
    fn new(name: &str, text: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!(
            "nightjar-tests-{}-{count}-{name}",
            std::process::id()
        ));
        std::fs::write(&path, text).expect("the temporary directory is writable");
        Self { path }
    }
}

/// A directory that nothing else uses; gone with what is in it when the value goes, unless the test failed.
#[derive(Debug)]
pub struct TemporaryDirectory {
    path: PathBuf,
}

impl TemporaryDirectory {
    /// The directory does not exist yet; its parent does.
    pub fn new(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("nightjar-tests-{}-{count}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        Self { path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    #[track_caller]
    pub fn text(&self) -> &str {
        self.path
            .to_str()
            .expect("the temporary directory is UTF-8")
    }
}

impl Drop for TemporaryDirectory {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("left for a look: {}", self.path.display());
            return;
        }
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The broker's binary: that of `NIGHTJAR_BIN`, or the one beside this test, which cargo brings up to date once a process.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        std::env::var_os("NIGHTJAR_BIN").map_or_else(|| build("nightjar"), PathBuf::from)
    })
}

/// The program `nightjar-certs`, built once a process.
pub fn certs() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| build("nightjar-certs"))
}

/// Builds a package's program of the same name.
fn build(package: &str) -> PathBuf {
    // <target>/<profile>/deps/<test>
    let test = std::env::current_exe().expect("a test knows its own path");
    let directory = test
        .ancestors()
        .nth(2)
        .expect("tests lie two directories below the target directory");
    let target = directory
        .parent()
        .expect("the profile's directory lies in the target directory");
    let profile = match directory.file_name().and_then(|name| name.to_str()) {
        None | Some("debug") => "dev",
        Some(other) => other,
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args([
        "build",
        "--quiet",
        "-p",
        package,
        "--bin",
        package,
        "--profile",
        profile,
        "--target-dir",
    ]);
    command.arg(target);
    command.args([
        "--manifest-path",
        concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"),
    ]);
    // What cargo tells this test of its package is not for another: build scripts that look at it would run again, and all that
    // depends on them would be built again, now and after this test.
    for (name, _) in std::env::vars_os() {
        let name_text = name.to_string_lossy();
        if name_text.starts_with("CARGO_PKG_") || name_text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    let status = command.status().expect("cargo can be run");
    assert!(status.success(), "{package} does not build");
    // A name of this test's own: another build may replace the binary while this test starts brokers from it.
    let name = test.file_name().expect("a test has a name");
    let own = directory.join(format!("{package}-of-{}", name.display()));
    let _ = std::fs::remove_file(&own);
    std::fs::hard_link(directory.join(package), &own).expect("it was just built");
    own
}

/// A broker that logs without end must not fill the test's memory.
const LOG_BYTES_MAX: usize = 4 << 20;
