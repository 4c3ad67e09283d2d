//! `nightjar store` through the program itself: what it does to a store that a broker made, what it prints, its exit codes, and
//! a backup while the broker works.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

mod ports;

use ports::free_port;

#[test]
fn a_store_is_checked_copied_moved_and_made_small_and_still_delivers() {
    let scratch = Scratch::new();
    let data = scratch.at("data");
    {
        let broker = Running::start(&data);
        Client::connect(&broker, "sleeper").subscribe("t/#");
        let mut publisher = Client::connect(&broker, "publisher");
        for number in 0..50 {
            publisher.publish("t/1", &format!("message {number}"), number == 0);
        }
        broker.terminate();
    }
    let output = well(&["check", "--data", text(&data)]);
    assert!(output.contains("nothing is wrong"), "{output}");
    assert!(
        output.contains("messages: 50, in 50 places of queues"),
        "{output}"
    );
    assert!(output.contains("retained messages: 1"), "{output}");

    let lines = scratch.at("lines.jsonl");
    well(&["export", "--data", text(&data), text(&lines)]);
    let to_output = well(&["export", "--data", text(&data)]);
    assert_eq!(fs::read_to_string(&lines).unwrap(), to_output);
    let moved = scratch.at("moved");
    let output = well(&["import", "--data", text(&moved), text(&lines)]);
    assert!(output.contains("messages: 50"), "{output}");
    assert_eq!(well(&["export", "--data", text(&moved)]), to_output);

    let backup = scratch.at("backup.redb");
    well(&["backup", "--data", text(&moved), text(&backup)]);
    let output = well(&["check", text(&backup)]);
    assert!(output.contains("nothing is wrong"), "{output}");
    assert_eq!(well(&["export", "--from", text(&backup)]), to_output);

    let output = well(&["compact", "--data", text(&moved)]);
    assert!(output.contains(" after"), "{output}");
    let output = well(&["repair", "--data", text(&moved)]);
    assert!(output.contains("nothing was changed"), "{output}");

    let broker = Running::start(&moved);
    let mut sleeper = Client::connect(&broker, "sleeper");
    for number in 0..50 {
        assert_eq!(sleeper.next_payload(), format!("message {number}"));
    }
}

#[test]
fn a_damaged_store_is_refused_until_it_is_repaired() {
    let scratch = Scratch::new();
    let data = scratch.at("data");
    {
        let broker = Running::start(&data);
        Client::connect(&broker, "sleeper").subscribe("t/#");
        let mut publisher = Client::connect(&broker, "publisher");
        for number in 0..50 {
            publisher.publish("t/1", &format!("message {number}"), false);
        }
        broker.terminate();
    }
    let file = data.join("nightjar.redb");
    let mut bytes = fs::read(&file).unwrap();
    // The payload is in the file in every version of the page; all of them are hit.
    let hit = hit_all(&mut bytes, b"message 17", b"message XX");
    assert!(hit > 0);
    fs::write(&file, &bytes).unwrap();
    let (code, output, error) = run(&["check", "--data", text(&data)]);
    assert_eq!(code, Some(1), "{error}");
    assert!(output.contains("problem"), "{output}");
    assert_eq!(fs::read(&file).unwrap(), bytes, "check has changed it");
    for command in [
        &["backup", "--data", text(&data), text(&scratch.at("b"))][..],
        &["export", "--data", text(&data)],
        &["compact", "--data", text(&data)],
    ] {
        let (code, _, error) = run(command);
        assert_eq!(code, Some(1), "{error}");
        assert!(error.contains("nightjar store repair"), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
        assert_eq!(
            fs::read(&file).unwrap(),
            bytes,
            "{command:?} has changed it"
        );
    }
    assert!(!scratch.at("b").exists());

    let output = well(&["repair", "--data", text(&data)]);
    assert!(output.contains("messages: 49"), "{output}");
    assert!(output.contains("not saved: 1 of messages"), "{output}");
    let aside = fs::read_dir(&data)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let aside: Vec<PathBuf> = aside
        .filter(|path| text(path).contains("redb.damaged-2"))
        .collect();
    assert_eq!(aside.len(), 1, "{aside:?}");
    assert!(output.contains(text(&aside[0])), "{output}");
    assert_eq!(fs::read(&aside[0]).unwrap(), bytes);

    let broker = Running::start(&data);
    let mut sleeper = Client::connect(&broker, "sleeper");
    for number in (0..50).filter(|number| *number != 17) {
        assert_eq!(sleeper.next_payload(), format!("message {number}"));
    }
}

#[test]
fn a_file_whose_pages_make_no_sense_is_reported_without_a_word_of_the_database() {
    let scratch = Scratch::new();
    let data = scratch.at("data");
    {
        let broker = Running::start(&data);
        Client::connect(&broker, "sleeper").subscribe("t/#");
        let mut publisher = Client::connect(&broker, "publisher");
        for number in 0..50 {
            publisher.publish("t/1", &format!("message {number}"), true);
        }
        broker.terminate();
    }
    let file = data.join("nightjar.redb");
    let mut bytes = fs::read(&file).unwrap();
    // The counts and offsets of every leaf.
    for page in bytes.chunks_mut(4096).skip(1).filter(|page| page[0] == 1) {
        page[3] ^= 0x40;
        page[7] ^= 0x02;
    }
    fs::write(&file, &bytes).unwrap();
    for command in ["check", "repair", "compact", "export"] {
        let (code, _, error) = run(&[command, "--data", text(&data)]);
        assert_eq!(code, Some(1), "{command}: {error}");
        assert!(error.lines().count() <= 1, "{command}: {error}");
        assert!(error.is_empty() || error.starts_with("Error: "), "{error}");
    }
    assert_eq!(fs::read(&file).unwrap(), bytes);
}

#[test]
fn a_backup_of_a_broker_at_work_is_consistent_and_has_what_was_acknowledged() {
    let scratch = Scratch::new();
    let data = scratch.at("data");
    // A broker that was killed leaves its socket behind.
    drop(Running::start(&data));
    assert!(data.join("nightjar.sock").exists());
    let broker = Running::start(&data);
    Client::connect(&broker, "sleeper").subscribe("t/#");
    let acknowledged = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let mut publisher = Client::connect(&broker, "publisher");
    let thread = {
        let (acknowledged, stop) = (Arc::clone(&acknowledged), Arc::clone(&stop));
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let number = acknowledged.load(Ordering::Relaxed);
                publisher.publish("t/1", &format!("message {number}"), number % 3 == 0);
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    for number in 0..4 {
        let (before, wanted) = (acknowledged.load(Ordering::Relaxed), number * 10);
        while acknowledged.load(Ordering::Relaxed) < before + wanted {
            std::thread::yield_now();
        }
        let at_least = acknowledged.load(Ordering::Relaxed);
        let backup = scratch.at(&format!("backup-{number}.redb"));
        let output = well(&["backup", "--data", text(&data), text(&backup)]);
        assert!(output.contains("sessions: 1"), "{output}");
        let output = well(&["check", text(&backup)]);
        assert!(output.contains("nothing is wrong"), "{output}");
        assert!(count(&output, "  messages: ") >= at_least, "{output}");
    }
    stop.store(true, Ordering::Relaxed);
    thread.join().unwrap();

    // The others say who has it.
    let holder = format!("(process {}) is in use", broker.child.id());
    for command in ["check", "repair", "compact", "export"] {
        let (code, output, error) = run(&[command, "--data", text(&data)]);
        assert_eq!((code, &*output), (Some(1), ""), "{error}");
        assert!(error.contains(&holder), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    let (code, _, error) = run(&["import", "--data", text(&data), text(&data)]);
    assert_eq!(code, Some(1), "{error}");

    // Whoever asks for something else, or for nothing, holds up nobody for long.
    let socket = data.join("nightjar.sock");
    let mut strange = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    strange
        .write_all(b"GET / HTTP/1.1\r\n\r\n\r\n\r\n")
        .unwrap();
    assert_eq!(strange.read(&mut [0; 16]).unwrap_or(0), 0);
    well(&["backup", "--data", text(&data), text(&scratch.at("last"))]);
    broker.terminate();
    assert!(!socket.exists(), "it is left behind");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(scratch.at("last")).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
    }
}

#[test]
fn a_data_directory_with_a_path_too_long_for_a_socket_says_so() {
    let scratch = Scratch::new();
    let data = scratch.at(&"long".repeat(30));
    let broker = Running::start(&data);
    assert!(
        broker.log.contains("Backups while the broker runs"),
        "{}",
        broker.log
    );
    let (code, _, error) = run(&["backup", "--data", text(&data), text(&scratch.at("b"))]);
    assert_eq!(code, Some(1));
    assert!(
        error.contains("the path of a socket has at most"),
        "{error}"
    );
}

#[test]
fn what_cannot_be_done_is_one_line_and_changes_nothing() {
    let scratch = Scratch::new();
    let data = scratch.at("data");
    let (code, _, error) = run(&["check", "--data", text(&data)]);
    let expected = format!(
        "Error: there is no store at {}",
        text(&data.join("nightjar.redb"))
    );
    assert_eq!((code, error.trim_end()), (Some(1), &*expected));
    assert!(!data.exists());

    fs::create_dir_all(&data).unwrap();
    let file = data.join("nightjar.redb");
    fs::write(&file, "a letter to my aunt").unwrap();
    for command in ["check", "repair", "compact", "export", "import"] {
        let mut arguments = vec![command, "--data", text(&data)];
        let lines = scratch.at("none.jsonl");
        if command == "import" {
            fs::write(&lines, "").unwrap();
            arguments.push(text(&lines));
        }
        let (code, _, error) = run(&arguments);
        assert_eq!(code, Some(1), "{command}: {error}");
        assert!(error.contains("is not a store of nightjar"), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
        assert_eq!(fs::read(&file).unwrap(), b"a letter to my aunt");
    }
    fs::remove_file(&file).unwrap();

    let lines = scratch.at("bad.jsonl");
    fs::write(
        &lines,
        "{\"type\":\"nightjar_export\",\"version\":1,\"message_id_max\":0,\"place_floor\":0}\n{}\n",
    )
    .unwrap();
    let (code, _, error) = run(&["import", "--data", text(&data), text(&lines)]);
    assert_eq!(code, Some(1));
    assert!(
        error.contains(&format!("{}, line 2: ", text(&lines))),
        "{error}"
    );
    assert!(!file.exists());

    drop(Running::start(&data));
    let taken = scratch.at("taken");
    fs::write(&taken, "mine").unwrap();
    for command in ["backup", "export"] {
        let (code, _, error) = run(&[command, "--data", text(&data), text(&taken)]);
        assert_eq!(code, Some(1));
        assert!(error.contains("is there already"), "{error}");
        let nowhere = scratch.at("no/such/place");
        let (code, _, error) = run(&[command, "--data", text(&data), text(&nowhere)]);
        assert_eq!(code, Some(1));
        assert!(error.contains("No such file"), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    assert_eq!(fs::read(&taken).unwrap(), b"mine");
}

#[test]
fn a_file_that_may_not_be_read_is_named() {
    use std::os::unix::fs::PermissionsExt;

    let scratch = Scratch::new();
    let data = scratch.at("data");
    drop(Running::start(&data));
    let file = data.join("nightjar.redb");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o0)).unwrap();
    let (code, _, error) = run(&["check", "--data", text(&data)]);
    if fs::File::open(&file).is_ok() {
        println!("not tested: this user may read everything");
        assert_eq!(code, Some(0), "{error}");
        return;
    }
    assert_eq!(code, Some(1));
    assert!(
        error.contains(text(&file)) && error.contains("denied"),
        "{error}"
    );
}

#[test]
fn wrong_usage_is_one_line_and_exit_3() {
    let cases: [(&[&str], &str); 5] = [
        (
            &[],
            "Error: what to do is missing; --help behind the command lists it.",
        ),
        (&["mend"], "Error: Unknown option 'mend'."),
        (
            &["backup"],
            "Error: <FILE> argument given, but its value is missing.",
        ),
        (&["check", "--all"], "Error: Unknown option '--all'."),
        (
            &["check", "-c", "/nonexistent"],
            "Error: Unable to open config file '/nonexistent'.",
        ),
    ];
    for (arguments, expected) in cases {
        let (code, output, error) = run(arguments);
        assert_eq!((code, &*output), (Some(3), ""), "{error}");
        assert!(error.starts_with(expected), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    let output = well(&["--help"]);
    for command in ["check", "repair", "compact", "backup", "export", "import"] {
        assert!(output.contains(command), "{output}");
    }
}

/// Exit code, standard output, standard error.
fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(env!("CARGO_BIN_EXE_nightjar"))
        .arg("store")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let words = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), words(stdout), words(stderr))
}

/// Standard output of a command that works; it has nothing to say on standard error, which is no terminal.
#[track_caller]
fn well(arguments: &[&str]) -> String {
    let (code, output, error) = run(arguments);
    assert_eq!((code, &*error), (Some(0), ""), "{arguments:?}\n{output}");
    output
}

fn count(output: &str, label: &str) -> u64 {
    let line = output.lines().find_map(|line| line.strip_prefix(label));
    let number = line.and_then(|line| line.split(',').next()).unwrap();
    number.parse().unwrap()
}

fn hit_all(bytes: &mut [u8], from: &[u8], to: &[u8]) -> usize {
    let mut hits = 0;
    for at in 0..bytes.len().saturating_sub(from.len()) {
        if &bytes[at..at + from.len()] == from {
            bytes[at..at + from.len()].copy_from_slice(to);
            hits += 1;
        }
    }
    hits
}

/// A client of 3.1.1 whose session stays, as little of one as is needed here.
struct Client {
    stream: TcpStream,
}

impl Client {
    fn connect(broker: &Running, client_id: &str) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", broker.port)).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        let keeps = client_id != "publisher";
        let mut body = vec![
            0,
            4,
            b'M',
            b'Q',
            b'T',
            b'T',
            4,
            if keeps { 0 } else { 2 },
            0,
            0,
        ];
        put_text(&mut body, client_id);
        send(&mut stream, 0x10, &body);
        let mut client = Self { stream };
        assert_eq!(client.packet().0, 0x20);
        client
    }

    fn subscribe(mut self, topic_filter: &str) {
        let mut body = vec![0, 1];
        put_text(&mut body, topic_filter);
        body.push(1);
        send(&mut self.stream, 0x82, &body);
        assert_eq!(self.packet().0, 0x90);
        send(&mut self.stream, 0xe0, &[]);
        // The broker has let go of it when it closes.
        assert_eq!(self.stream.read(&mut [0]).unwrap_or(0), 0);
    }

    /// Returns when it is acknowledged.
    fn publish(&mut self, topic: &str, payload: &str, retain: bool) {
        let mut body = Vec::new();
        put_text(&mut body, topic);
        body.extend_from_slice(&[0, 7]);
        body.extend_from_slice(payload.as_bytes());
        send(&mut self.stream, 0x32 | u8::from(retain), &body);
        assert_eq!(self.packet(), (0x40, vec![0, 7]));
    }

    fn next_payload(&mut self) -> String {
        let (first, body) = self.packet();
        assert_eq!(first & 0xf0, 0x30, "not a PUBLISH: {body:?}");
        let topic = usize::from(body[1]);
        let packet_id = [body[2 + topic], body[3 + topic]];
        send(&mut self.stream, 0x40, &packet_id);
        String::from_utf8(body[4 + topic..].to_vec()).unwrap()
    }

    fn packet(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 2];
        self.stream.read_exact(&mut head).unwrap();
        assert!(head[1] < 128, "everything here is short");
        let mut body = vec![0; usize::from(head[1])];
        self.stream.read_exact(&mut body).unwrap();
        (head[0], body)
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&u16::try_from(text.len()).unwrap().to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn send(stream: &mut TcpStream, first: u8, body: &[u8]) {
    let mut packet = vec![first, u8::try_from(body.len()).unwrap()];
    packet.extend_from_slice(body);
    stream.write_all(&packet).unwrap();
}

/// A directory that nothing else uses; gone with the value. Short, for sockets are in it.
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn new() -> Self {
        use std::sync::atomic::AtomicU32;
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("nightjar-store-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self { path }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.path.join(name)
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
    port: u16,
    log: String,
}

impl Running {
    fn start(data: &Path) -> Self {
        let port = free_port();
        let mut child = Command::new(env!("CARGO_BIN_EXE_nightjar"))
            .args(["-p", &port.to_string(), "--data", text(data)])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = String::new();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        while !log.ends_with(" running\n") && lines.read_line(&mut log).unwrap() > 0 {}
        assert!(log.ends_with(" running\n"), "{log}");
        // What it logs later goes where nobody reads: keep the pipe open for it.
        std::thread::spawn(move || lines.lines().for_each(drop));
        Self { child, port, log }
    }

    /// Ends it as an operator does.
    fn terminate(mut self) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").arg(&id).status().unwrap().success());
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
