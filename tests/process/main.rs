//! The broker as a process of its system: signals, reload, the background, the service manager, log files, exit codes.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use harness::{TemporaryDirectory, binary};

#[test]
fn a_reload_under_1000_clients_disconnects_nobody() {
    let mut world = World::new("allow_anonymous = true\nconnections_max = 2000\n");
    let mut broker = world.start(&[]);
    let mut clients: Vec<TcpStream> = (0..1000).map(|number| world.greet(number)).collect();
    clients.iter_mut().for_each(accepted);
    world.write("allow_anonymous = true\nconnections_max = 3000\nqueue_messages_max = 7\n");
    broker.signal("-HUP");
    broker.wait_for("Config reloaded.");
    for client in &mut clients {
        client.write_all(b"\xc0\0").unwrap();
    }
    for client in &mut clients {
        let mut answer = [0; 2];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [0xd0, 0]);
    }
}

#[test]
fn t18_a_bad_file_keeps_everything_as_it_was_and_names_the_line() {
    let mut world = World::new("allow_anonymous = true\n");
    let mut broker = world.start(&[]);
    let mut client = world.connect(1);
    world.write("allow_anonymous = false\nnonsense = 1\n");
    broker.signal("-HUP");
    let log = broker.wait_for("The config was not reloaded: everything stays as it was.");
    assert!(log.contains("unknown key 'nonsense'"), "{log}");
    let place = format!("{}:2", world.file().display());
    assert!(log.contains(&place), "{log}");
    ping(&mut client);
    // Anonymous clients are still let in.
    ping(&mut world.connect(2));
}

#[test]
fn r17_a_reload_without_a_descriptor_left_keeps_the_old_rules() {
    let mut world = World::new("allow_anonymous = false\n");
    let binary = binary().display();
    let script = format!("ulimit -n 48; exec {binary} -c {}", world.file().display());
    let mut broker = Running::of(Command::new("sh").args(["-c", &script]));
    broker.wait_for(" running");
    let mut waiting = Vec::new();
    for _ in 0..60 {
        waiting.push(TcpStream::connect((Ipv4Addr::LOCALHOST, world.port)).unwrap());
    }
    broker.wait_for("No file descriptor is left");
    world.write("allow_anonymous = true\n");
    broker.signal("-HUP");
    broker.wait_for("Reloading config.");
    drop(waiting);
    // Whether the reload found a descriptor or not, it is all of it or nothing.
    let log = broker.wait_for("onfig ");
    let is_open = log.contains("Config reloaded.");
    let mut answer = [0; 4];
    // Until those who left have made room, whoever comes is closed.
    wait_until(|| {
        let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, world.port)).unwrap();
        client.set_read_timeout(Some(LIMIT)).unwrap();
        client.write_all(&connect(1)).is_ok() && client.read_exact(&mut answer).is_ok()
    });
    assert_eq!(answer[3], if is_open { 0 } else { 0x87 }, "{log}");
}

/// One shard accepts on its own thread, several have it done for them.
#[test]
fn listeners_come_and_go_with_a_reload() {
    for shards in [1, 2] {
        let settings = format!("allow_anonymous = true\nshards = {shards}\n");
        let mut world = World::new(&settings);
        let mut broker = world.start(&[]);
        let old = world.port;
        world.port = free_port();
        world.write(&settings);
        broker.signal("-HUP");
        broker.wait_for("Config reloaded.");
        ping(&mut world.connect(1));
        assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, old)).is_err());
        // A port that was given up can be had again.
        world.port = old;
        world.write(&settings);
        broker.signal("-HUP");
        broker.wait_for("Config reloaded.");
        ping(&mut world.connect(1));
        broker.signal("-TERM");
        broker.wait_for(" terminating");
        assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, old)).is_err());
    }
}

#[test]
fn in_the_background_it_answers_when_it_serves_and_its_pid_file_goes_with_it() {
    let mut world = World::new("");
    let pid_file = world.directory.path().join("pid");
    world.write(&format!(
        "allow_anonymous = true\npid_file = \"{}\"\n",
        pid_file.display()
    ));
    let output = Command::new(binary())
        .args(["--ephemeral", "-d", "-c"])
        .arg(world.file())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains(" running\n"), "{said}");
    let id = fs::read_to_string(&pid_file).unwrap().trim().to_owned();
    ping(&mut world.connect(1));
    // A second one cannot serve, and says so to who waits.
    let second = Command::new(binary())
        .args(["--ephemeral", "-d", "-c"])
        .arg(world.file())
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains("Error: Address already in use"), "{said}");
    assert!(
        Command::new("kill")
            .args(["-TERM", &id])
            .status()
            .unwrap()
            .success()
    );
    wait_until(|| !pid_file.exists());
}

#[test]
fn the_service_manager_is_told_what_happens() {
    let mut world = World::new("allow_anonymous = true\n");
    let path = world.directory.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(LIMIT)).unwrap();
    let mut command = Command::new(binary());
    command.args(["--ephemeral", "-c"]).arg(world.file());
    command
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "300000");
    let broker = Running::of(&mut command);
    wait_for_notice(&manager, "READY=1");
    wait_for_notice(&manager, "WATCHDOG=1");
    world.write("allow_anonymous = true\nconnections_max = 9\n");
    broker.signal("-HUP");
    wait_for_notice(&manager, "RELOADING=1");
    wait_for_notice(&manager, "READY=1");
    broker.signal("-TERM");
    wait_for_notice(&manager, "STOPPING=1");
}

#[test]
fn r20_refusals_do_not_flood_the_log_and_what_is_left_out_is_counted() {
    let world = World::new("allow_anonymous = false\nshards = 1\n");
    let mut broker = world.start(&[]);
    for number in 0..300 {
        let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, world.port)).unwrap();
        client.set_read_timeout(Some(LIMIT)).unwrap();
        client.write_all(&connect(number)).unwrap();
        client.read_to_end(&mut Vec::new()).unwrap();
    }
    let log = broker.wait_for("more lines about refused connections from 127.0.0.1 were left out.");
    let lines = log.matches("disconnected, not authorised").count();
    assert_eq!(lines, 20);
    assert!(log.contains(": Warning: 280 more lines"), "{log}");
}

/// Arguments that mosquitto refuses, and what is refused there is refused here with the same exit code.
#[test]
fn exit_codes_are_those_of_mosquitto() {
    let Some(mosquitto) = mosquitto() else { return };
    let cases: [&[&str]; 6] = [
        &["--bogus"],
        &["-c"],
        &["-c", "/nonexistent/x.conf"],
        &["-p"],
        &["-p", "0"],
        &["-p", "words"],
    ];
    for arguments in cases {
        let theirs = Command::new(&mosquitto).args(arguments).output().unwrap();
        let ours = Command::new(binary()).args(arguments).output().unwrap();
        assert_eq!(theirs.status.code(), Some(3), "{arguments:?}");
        assert_eq!(code_and_text(&ours).0, Some(3), "{arguments:?}");
        assert!(
            code_and_text(&ours).1.starts_with("Error: "),
            "{arguments:?}"
        );
    }
    // On both loopback addresses: mosquitto goes on with the one that is free.
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let _both = TcpListener::bind((Ipv6Addr::LOCALHOST, port)).unwrap();
    let port = port.to_string();
    for program in [mosquitto.as_path(), binary()] {
        let output = Command::new(program).args(["-p", &port]).output().unwrap();
        let (code, text) = code_and_text(&output);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains("Error: Address already in use"), "{text}");
    }
}

/// The same client against both: each line that tools look for is in both logs.
#[test]
fn log_lines_have_the_words_of_mosquitto() {
    let Some(mosquitto) = mosquitto() else { return };
    let mut world = World::new("allow_anonymous = true\n");
    let ours = {
        let mut broker = world.start(&[]);
        exercise(&world, &mut broker)
    };
    world.port = free_port();
    let conf = world.directory.path().join("mosquitto.conf");
    let text = format!("listener {} 127.0.0.1\nallow_anonymous true\n", world.port);
    fs::write(&conf, text).unwrap();
    let theirs = {
        let mut broker = Running::of(Command::new(mosquitto).arg("-c").arg(conf));
        broker.wait_for(" running");
        exercise(&world, &mut broker)
    };
    for words in [
        " starting",
        "Config loaded from ",
        "Opening ipv4 listen socket on port ",
        " running",
        ": New connection from 127.0.0.1:",
        " on port ",
        ": New client connected from 127.0.0.1:",
        " as c1 (p",
        ", c1, k60).",
        ": Client c1 disconnected.",
        ": Client c2 closed its connection.",
        ": Client c3 already connected, closing old connection.",
        ": Reloading config.",
        " terminating",
    ] {
        assert!(
            theirs.contains(words),
            "mosquitto does not say {words}:\n{theirs}"
        );
        assert!(ours.contains(words), "{words} is missing:\n{ours}");
    }
}

fn exercise(world: &World, broker: &mut Running) -> String {
    let mut first = world.connect(1);
    first.write_all(b"\xe0\0").unwrap();
    broker.wait_for("Client c1 disconnected.");
    drop(world.connect(2));
    broker.wait_for("Client c2 closed its connection.");
    let _old = world.connect(3);
    let _new = world.connect(3);
    broker.wait_for("already connected, closing old connection.");
    broker.signal("-HUP");
    broker.wait_for("Reloading config.");
    broker.signal("-TERM");
    broker.wait_for(" terminating")
}

/// A directory with a configuration, and the port in it.
struct World {
    directory: TemporaryDirectory,
    port: u16,
}

impl World {
    fn new(toml: &str) -> Self {
        let directory = TemporaryDirectory::new("process");
        fs::create_dir(directory.path()).unwrap();
        let mut world = Self {
            directory,
            port: free_port(),
        };
        world.write(toml);
        world
    }

    fn write(&mut self, toml: &str) {
        let text = format!(
            "{toml}http_listener = \"off\"\n[[listeners]]\naddress = \"127.0.0.1:{}\"\n",
            self.port
        );
        fs::write(self.file(), text).unwrap();
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("nightjar.toml")
    }

    fn start(&self, arguments: &[&str]) -> Running {
        let mut command = Command::new(binary());
        command.arg("-c").arg(self.file()).args(arguments);
        if !arguments.contains(&"--data") {
            command.arg("--ephemeral");
        }
        let mut broker = Running::of(&mut command);
        broker.wait_for(" running");
        broker
    }

    /// A client `cNUMBER` that is let in.
    fn connect(&self, number: u16) -> TcpStream {
        let mut stream = self.greet(number);
        accepted(&mut stream);
        stream
    }

    /// A client `cNUMBER` that has not heard yet.
    fn greet(&self, number: u16) -> TcpStream {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.write_all(&connect(number)).unwrap();
        stream
    }
}

/// Reads a CONNACK with success.
fn accepted(stream: &mut TcpStream) {
    let mut head = [0; 2];
    stream.read_exact(&mut head).unwrap();
    let mut rest = vec![0; usize::from(head[1])];
    stream.read_exact(&mut rest).unwrap();
    assert_eq!((head[0], rest[1]), (0x20, 0), "CONNACK with success");
}

/// CONNECT of 5.0, keep alive 60, client id `cNUMBER`.
fn connect(number: u16) -> Vec<u8> {
    let id = format!("c{number}");
    let length = u8::try_from(13 + id.len()).unwrap();
    let mut packet = vec![0x10, length];
    packet.extend_from_slice(b"\0\x04MQTT\x05\x02\0\x3c\0\0");
    packet.push(u8::try_from(id.len()).unwrap());
    packet.extend_from_slice(id.as_bytes());
    packet
}

#[track_caller]
fn ping(client: &mut TcpStream) {
    client.write_all(b"\xc0\0").unwrap();
    let mut answer = [0; 2];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [0xd0, 0]);
}

/// A process and what it says on standard error; killed when it goes.
struct Running {
    child: Child,
    lines: Receiver<String>,
    log: String,
    seen: usize,
}

impl Running {
    fn of(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
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
        Self {
            child,
            lines,
            log: String::new(),
            seen: 0,
        }
    }

    /// Waits for words behind those that were waited for before; gives the whole log.
    #[track_caller]
    fn wait_for(&mut self, words: &str) -> String {
        loop {
            if let Some(place) = self.log[self.seen..].find(words) {
                self.seen += place + words.len();
                return self.log.clone();
            }
            match self.lines.recv_timeout(LIMIT) {
                Ok(line) => {
                    self.log.push_str(&line);
                    self.log.push('\n');
                }
                Err(_) => panic!("{words} is missing in:\n{}", self.log),
            }
        }
    }

    fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args([signal, &id])
                .status()
                .unwrap()
                .success()
        );
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[track_caller]
fn wait_for_notice(manager: &UnixDatagram, expected: &str) {
    let mut buffer = [0; 4096];
    loop {
        let length = manager
            .recv(&mut buffer)
            .unwrap_or_else(|_| panic!("no {expected}"));
        let text = String::from_utf8_lossy(&buffer[..length]);
        if text.lines().any(|line| line == expected) {
            return;
        }
    }
}

#[track_caller]
fn wait_until(mut is_so: impl FnMut() -> bool) {
    for _ in 0..LIMIT.as_millis() / 10 {
        if is_so() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("it did not come to that");
}

/// The real one; without it the comparison is left out, loudly, and on CI it fails.
fn mosquitto() -> Option<PathBuf> {
    let found = [
        "/usr/sbin/mosquitto",
        "/usr/local/sbin/mosquitto",
        "/opt/homebrew/sbin/mosquitto",
    ]
    .map(PathBuf::from)
    .into_iter()
    .find(|path| Path::exists(path));
    if found.is_none() {
        assert!(
            std::env::var_os("CI").is_none(),
            "mosquitto is not installed"
        );
        eprintln!("NOT COMPARED: mosquitto is not installed");
    }
    found
}

fn code_and_text(output: &Output) -> (Option<i32>, String) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), text)
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

const LIMIT: Duration = Duration::from_secs(20);
