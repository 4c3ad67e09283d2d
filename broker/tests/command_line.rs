//! The command line through the program itself: what it prints, where, and its exit code.
//!
//! A start that succeeds is on a loopback port that was free a moment before; nothing else listens.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

mod ports;

use ports::free_port;

#[test]
fn help_and_version_go_to_standard_output_and_exit_0() {
    for argument in ["-h", "--help"] {
        let output = finished(&[argument]);
        assert_eq!(output.status.code(), Some(0), "{argument}");
        assert!(text(&output.stdout).contains("Usage: nightjar [OPTIONS]"));
        assert_eq!(text(&output.stderr), "", "{argument}");
    }
    let output = finished(&["--version"]);
    assert_eq!(output.status.code(), Some(0));
    let expected = format!("nightjar {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(text(&output.stdout), expected);
}

#[test]
fn a_wrong_argument_is_one_line_on_standard_error_and_exit_3() {
    let cases: [(&[&str], &str); 7] = [
        (&["--x"], "Error: Unknown option '--x'."),
        (&["-v", "-x"], "Error: Unknown option '-x'."),
        (
            &["-c"],
            "Error: --config-file argument given, but its value is missing.",
        ),
        (
            &["-p"],
            "Error: --port argument given, but its value is missing.",
        ),
        (&["-p", "0"], "Error: Invalid port specified (0)."),
        (&["-p", "70000"], "Error: Invalid port specified (70000)."),
        (&["--test-config"], "Error: --test-config needs -c FILE."),
    ];
    for (arguments, expected) in cases {
        assert_refused(arguments, expected);
    }
}

#[test]
fn a_wrong_configuration_names_its_line_and_exits_3() {
    let missing = "/nonexistent/nightjar.toml";
    assert_refused(
        &["-c", missing],
        &format!("Error: Unable to open config file '{missing}'."),
    );

    let file = TemporaryFile::with("reason_strings = true\nmax_packetsize = 1\n");
    for arguments in [
        &["-c", file.name()][..],
        &["-c", file.name(), "--test-config"],
    ] {
        let output = finished(arguments);
        assert_eq!(output.status.code(), Some(3), "{arguments:?}");
        // One fault is two lines, in Mosquitto's words: what is wrong, and where.
        let expected = format!(
            "Error: unknown key 'max_packetsize', did you mean 'max_packet_size'?\nError found at {}:2.\n",
            file.name()
        );
        assert_eq!(text(&output.stderr), expected, "{arguments:?}");
    }
}

#[test]
fn a_good_configuration_can_be_tested_without_a_start() {
    let file = TemporaryFile::with("[[listeners]]\naddress = \"127.0.0.1:1\"\n");
    let output = finished(&["-c", file.name(), "--test-config"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).contains("is OK"));
}

#[test]
fn a_port_opens_both_loopback_addresses_and_the_log_says_who_can_connect() {
    let port = free_port();
    let mut broker = Running::start(&["-p", &port.to_string()]);
    let log = broker.log_until_it_runs();
    for expected in [
        " starting",
        "Starting in local only mode.",
        "Anonymous access is allowed, because only this machine can reach the broker.",
    ] {
        assert!(log.contains(expected), "{expected} is missing in:\n{log}");
    }
    for line in log.lines() {
        let (seconds, _) = line.split_once(": ").expect("a line is `seconds: text`");
        assert!(seconds.parse::<u64>().is_ok(), "{line}");
    }
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok());
    assert!(TcpStream::connect((Ipv6Addr::LOCALHOST, port)).is_ok());
}

#[test]
fn a_port_is_ignored_when_the_file_defines_a_listener() {
    let (listener, ignored) = (free_port(), free_port());
    let file = TemporaryFile::with(&format!(
        "[[listeners]]\naddress = \"127.0.0.1:{listener}\"\n"
    ));
    let mut broker = Running::start(&["-c", file.name(), "-p", &ignored.to_string()]);
    let log = broker.log_until_it_runs();
    assert!(
        log.contains(&format!("Config loaded from {}.", file.name())),
        "{log}"
    );
    assert!(log.contains("Every client will be refused"), "{log}");
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, listener)).is_ok());
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, ignored)).is_err());
}

#[test]
fn quiet_says_nothing() {
    let port = free_port();
    let mut broker = Running::start(&["-q", "-p", &port.to_string()]);
    broker.wait_until_it_accepts(port);
    broker.terminate();
    assert_eq!(broker.rest_of_log(), "");
}

#[test]
fn a_port_in_use_exits_1_and_names_it() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = finished(&["-p", &port]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(
        text(&output.stderr).contains(&port),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn sigterm_and_sigint_say_goodbye_and_exit_0() {
    for signal in ["-TERM", "-INT"] {
        let port = free_port();
        let mut broker = Running::start(&["-p", &port.to_string()]);
        broker.log_until_it_runs();
        // One that has not said a word yet, one of 3.1.1, one of 5.0.
        let mut silent = connected(port, &[]);
        let mut v4 = connected(port, b"\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01a");
        let mut v5 = connected(port, b"\x10\x0e\0\x04MQTT\x05\x02\0\x3c\0\0\x01b");
        let mut connack = [0; 4];
        v4.read_exact(&mut connack).unwrap();
        assert_eq!(connack, [0x20, 2, 0, 0]);
        let mut connack = [0; 16];
        v5.read_exact(&mut connack).unwrap();
        assert_eq!(connack[..4], [0x20, 14, 0, 0]);
        assert_eq!(broker.signal(signal), Some(0), "{signal}");
        for (client, farewell) in [
            (&mut silent, &[][..]),
            (&mut v4, &[]),
            (&mut v5, &[0xe0, 1, 0x8b]),
        ] {
            let mut received = Vec::new();
            client.read_to_end(&mut received).unwrap();
            assert_eq!(received, farewell, "{signal}");
        }
        let log = broker.rest_of_log();
        assert!(log.contains(" terminating"), "{log}");
    }
}

fn connected(port: u16, greeting: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.write_all(greeting).unwrap();
    stream
}

/// Runs to the end, which comes at once unless the program wrongly starts to serve.
fn finished(arguments: &[&str]) -> Output {
    let mut child = spawn(arguments);
    let limit = Watchdog::over(&child);
    let mut output = Output {
        status: child.wait().unwrap(),
        stdout: Vec::new(),
        stderr: Vec::new(),
    };
    drop(limit);
    child
        .stdout
        .take()
        .unwrap()
        .read_to_end(&mut output.stdout)
        .unwrap();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_end(&mut output.stderr)
        .unwrap();
    output
}

#[track_caller]
fn assert_refused(arguments: &[&str], expected: &str) {
    let output = finished(arguments);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{arguments:?}: {message}");
    assert!(message.starts_with(expected), "{arguments:?}: {message}");
    assert_eq!(message.lines().count(), 1, "{message}");
    assert_eq!(text(&output.stdout), "", "{arguments:?}");
}

fn spawn(arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_nightjar"))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// A broker that serves; killed when it goes out of scope.
struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    fn start(arguments: &[&str]) -> Self {
        let mut child = spawn(arguments);
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = channel();
        // Ends with the process, which holds the other end of the pipe.
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { child, lines }
    }

    #[track_caller]
    fn log_until_it_runs(&mut self) -> String {
        let mut log = String::new();
        while !log.ends_with(" running\n") {
            let line = self
                .lines
                .recv_timeout(LIMIT)
                .unwrap_or_else(|_| panic!("not running after:\n{log}"));
            log.push_str(&line);
            log.push('\n');
        }
        log
    }

    #[track_caller]
    fn wait_until_it_accepts(&mut self, port: u16) {
        // There is no line to wait for when the log is off.
        for _ in 0..LIMIT.as_millis() / 10 {
            if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("nothing accepts on port {port}");
    }

    fn terminate(&mut self) {
        assert_eq!(self.signal("-TERM"), Some(0));
    }

    fn signal(&mut self, signal: &str) -> Option<i32> {
        let process_id = self.child.id().to_string();
        let sent = Command::new("kill").args([signal, &process_id]).status();
        assert!(sent.unwrap().success());
        let _limit = Watchdog::over(&self.child);
        self.child.wait().unwrap().code()
    }

    fn rest_of_log(&mut self) -> String {
        self.lines.iter().collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Kills a child that outlives `LIMIT`, so that no wait is without an end.
struct Watchdog {
    _stop: std::sync::mpsc::Sender<()>,
}

impl Watchdog {
    fn over(child: &Child) -> Self {
        let process_id = child.id().to_string();
        let (_stop, stopped) = channel::<()>();
        std::thread::spawn(move || {
            use std::sync::mpsc::RecvTimeoutError::Timeout;
            if stopped.recv_timeout(LIMIT) == Err(Timeout) {
                let _ = Command::new("kill").args(["-KILL", &process_id]).status();
            }
        });
        Self { _stop }
    }
}

const LIMIT: Duration = Duration::from_secs(30);

/// Removed when it goes out of scope.
struct TemporaryFile(PathBuf);

impl TemporaryFile {
    fn with(content: &str) -> Self {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("nightjar-command-line-{}-{number}.toml", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, content).unwrap();
        Self(path)
    }

    fn name(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
