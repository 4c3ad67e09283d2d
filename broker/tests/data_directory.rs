//! Where the program keeps what survives: which directory, who may read it, and what stops a start.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

mod ports;

use ports::free_port;

#[test]
fn the_directory_is_made_and_is_nobody_elses_business() {
    let data = Scratch::new();
    let directory = data.path.join("made/for/it");
    let broker = Running::start(&["--data", text(&directory)], &[]);
    assert!(
        broker.log.contains(text(&directory.join("nightjar.redb"))),
        "{}",
        broker.log
    );
    assert!(
        broker.log.contains("survives a power cut"),
        "{}",
        broker.log
    );
    for (path, mode) in [
        ("", 0o700),
        ("nightjar.redb", 0o600),
        ("nightjar.lock", 0o600),
    ] {
        let found = fs::metadata(directory.join(path))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(found & 0o777, mode, "{path}");
    }
}

#[test]
fn a_second_broker_on_the_same_directory_is_refused() {
    let data = Scratch::new();
    let first = Running::start(&["--data", text(&data.path)], &[]);
    let (code, message) = refused(&["--data", text(&data.path)], &[]);
    assert_eq!(code, Some(1));
    let holder = format!(
        "(process {}) is in use by another process",
        first.child.id()
    );
    assert!(message.contains(&holder), "{message}");
    // The one that runs is not disturbed, and when it is gone the next one may.
    drop(first);
    Running::start(&["--data", text(&data.path)], &[]);
}

#[test]
fn a_file_that_is_no_store_is_left_as_it_is() {
    let data = Scratch::new();
    fs::create_dir_all(&data.path).unwrap();
    let file = data.path.join("nightjar.redb");
    for content in [&b"not a store"[..], &[7; 100_000]] {
        fs::write(&file, content).unwrap();
        let (code, message) = refused(&["--data", text(&data.path)], &[]);
        assert_eq!(code, Some(1), "{message}");
        assert!(
            message.contains("Error: ") && message.contains(text(&file)),
            "{message}"
        );
        assert_eq!(fs::read(&file).unwrap(), content);
    }
}

#[test]
fn a_directory_that_cannot_be_is_one_message() {
    let data = Scratch::new();
    fs::write(&data.path, "a file").unwrap();
    let (code, message) = refused(&["--data", text(&data.path)], &[]);
    assert_eq!(code, Some(1));
    assert!(message.contains(text(&data.path)), "{message}");
    fs::remove_file(&data.path).unwrap();
}

#[test]
fn the_directory_of_the_service_manager_is_taken_where_nobody_chose() {
    let data = Scratch::new();
    let broker = Running::start_bare(&[("STATE_DIRECTORY", text(&data.path))]);
    assert!(
        broker.log.contains(text(&data.path.join("nightjar.redb"))),
        "{}",
        broker.log
    );
    assert!(data.path.join("nightjar.redb").exists());
}

#[test]
fn nothing_is_kept_by_a_quick_start_or_when_told_so() {
    let data = Scratch::new();
    let environment = [("STATE_DIRECTORY", text(&data.path))];
    for arguments in [&[][..], &["--ephemeral"]] {
        let broker = Running::start(arguments, &environment);
        assert!(broker.log.contains("Persistence is off"), "{}", broker.log);
        assert!(!data.path.exists());
    }
}

/// A path that nothing else uses; gone with the value.
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn new() -> Self {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("nightjar-data-{}-{number}", std::process::id());
        Self {
            path: std::env::temp_dir().join(name),
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// A broker that serves; killed with the value. Its log up to "running".
struct Running {
    child: Child,
    log: String,
}

impl Running {
    fn start(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let port = free_port().to_string();
        let mut all = vec!["-p", &port];
        all.extend(arguments);
        Self::started(&all, environment)
    }

    /// Without `-p`, which would keep nothing: the listener is in a file.
    fn start_bare(environment: &[(&str, &str)]) -> Self {
        let file = Scratch::new();
        let listener = format!("[[listeners]]\naddress = \"127.0.0.1:{}\"\n", free_port());
        fs::write(&file.path, listener).unwrap();
        let running = Self::started(&["-c", text(&file.path)], environment);
        fs::remove_file(&file.path).unwrap();
        running
    }

    fn started(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let (child, log) = run(arguments, environment);
        assert!(log.ends_with(" running\n"), "{log}");
        Self { child, log }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Exit code and log of a broker that does not start.
fn refused(arguments: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let port = free_port().to_string();
    let mut all = vec!["-p", &port];
    all.extend(arguments);
    let (mut child, log) = run(&all, environment);
    if log.ends_with(" running\n") {
        let _ = child.kill();
        panic!("it started:\n{log}");
    }
    (child.wait().unwrap().code(), log)
}

/// Reads the log until the broker runs or has ended; either comes, so there is nothing to wait for in vain.
fn run(arguments: &[&str], environment: &[(&str, &str)]) -> (Child, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_nightjar"))
        .args(arguments)
        .env_remove("STATE_DIRECTORY")
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = String::new();
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    while !log.ends_with(" running\n") && lines.read_line(&mut log).unwrap() > 0 {}
    // What it logs later goes where nobody reads: keep the pipe open for it.
    std::thread::spawn(move || lines.lines().for_each(drop));
    (child, log)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
