//! `log_dest syslog`, as who reads `/dev/log` sees it: from Mosquitto and from us.
//!
//! Both run where another `/dev/log` is in the place of the system's: a mount namespace of their own.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;

use harness::{Client, Connect, Running, TemporaryDirectory, binary, free_port, program};

use crate::world::LIMIT;

#[test]
fn syslog_gets_the_lines_with_their_severity_from_the_facility_that_was_asked_for() {
    let works = unshared("true").output();
    if !works.is_ok_and(|output| output.status.success()) {
        assert!(
            std::env::var_os("CI").is_none(),
            "unshare is needed where CI is set"
        );
        eprintln!("NOT PROVED: without `unshare --mount` there is no /dev/log of our own.");
        return;
    }
    let ours = lines_of(binary());
    // local1 is 17; notice 5, informational 6.
    for (number, words) in [
        (17 * 8 + 5, "New client connected from 127.0.0.1:"),
        (17 * 8 + 6, " running"),
    ] {
        let begin = format!("<{number}>");
        let found = ours
            .iter()
            .any(|line| line.starts_with(&begin) && line.contains(words));
        assert!(found, "{begin} {words}: {ours:#?}");
    }
    let Some(mosquitto) = program("mosquitto") else {
        return;
    };
    // The same kinds of lines with the same priority, each under its program's name.
    let theirs = lines_of(&mosquitto);
    for words in [
        "New connection from",
        "New client connected from",
        " running",
    ] {
        assert_eq!(
            priorities(&ours, words),
            priorities(&theirs, words),
            "{words}: {ours:#?} {theirs:#?}"
        );
    }
    assert!(
        ours.iter().all(|line| line.contains(" nightjar[")),
        "{ours:#?}"
    );
    assert!(
        theirs.iter().all(|line| line.contains(" mosquitto[")),
        "{theirs:#?}"
    );
}

/// The numbers before the lines that have these words.
fn priorities(lines: &[String], words: &str) -> BTreeSet<String> {
    let lines = lines.iter().filter(|line| line.contains(words));
    lines
        .filter_map(|line| line.split_once('>').map(|(number, _)| number.to_owned()))
        .collect()
}

/// What a broker says to syslog while a client comes.
fn lines_of(broker: &Path) -> Vec<String> {
    let directory = TemporaryDirectory::new("syslog");
    let devices = directory.path().join("dev");
    fs::create_dir_all(&devices).unwrap();
    for path in [directory.path(), &devices] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let log = UnixDatagram::bind(devices.join("log")).unwrap();
    fs::set_permissions(devices.join("log"), fs::Permissions::from_mode(0o666)).unwrap();
    log.set_read_timeout(Some(LIMIT)).unwrap();
    let port = free_port();
    let conf = directory.path().join("mosquitto.conf");
    let text = format!(
        "user root\nlistener {port} 127.0.0.1\nallow_anonymous true\nlog_dest syslog\nlog_facility 1\n"
    );
    fs::write(&conf, text).unwrap();
    let mut command = unshared(
        "for device in null urandom; do touch \"$1/$device\"; mount --bind /dev/$device \"$1/$device\"; done
         mount --rbind \"$1\" /dev && exec \"$2\" -c \"$3\"",
    );
    let broker = Running::alone(command.arg(&devices).arg(broker).arg(&conf));
    let mut lines = Vec::new();
    let mut client = None;
    loop {
        let mut buffer = [0; 4096];
        let length = log.recv(&mut buffer).unwrap_or_else(|error| {
            panic!("{error}: {lines:#?}");
        });
        let line = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let (is_running, is_over) = (line.contains(" running"), line.contains(" connected from"));
        lines.push(line);
        if is_running {
            let mut new = Client::open_at((std::net::Ipv4Addr::LOCALHOST, port).into());
            new.send(&Connect::v4("c").bytes());
            client = Some(new);
        }
        if is_over {
            drop(client);
            drop(broker);
            return lines;
        }
    }
}

/// `sh` in a mount namespace of its own; the arguments behind are `$1` and so on.
fn unshared(script: &str) -> Command {
    let mut command = Command::new("unshare");
    // Who is root needs no other user names, and keeps those that there are.
    if !rustix::process::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    command.args(["--mount", "sh", "-c", script, "-"]);
    command
}
