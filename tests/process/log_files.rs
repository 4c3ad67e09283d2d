//! Where log lines go, and what logrotate does to their files.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use harness::{Client, Connect, Running, binary, packet};

use crate::world::{World, ping};

#[test]
fn log_files_are_opened_anew_at_sigrtmin_and_at_sighup() {
    for (signal, said) in [
        ("-RTMIN", "Log files are opened anew."),
        ("-HUP", "Config reloaded."),
    ] {
        let (world, file) = with_a_log_file();
        let broker = start(&world);
        wait_for(&file, " running");
        let old = world.directory.path().join("old");
        fs::rename(&file, &old).unwrap();
        ping(&mut world.connect(1));
        wait_for(&old, " as c1 (p5,");
        broker.signal(signal);
        wait_for(&file, said);
        ping(&mut world.connect(2));
        wait_for(&file, " as c2 (p5,");
        let rest = fs::read_to_string(&old).unwrap();
        assert!(!rest.contains(" as c2 (p5,"), "{rest}");
        let (status, said) = broker.terminate();
        assert!(status.success());
        assert_eq!(said, "", "all of it is in the file");
        wait_for(&file, " terminating");
    }
}

/// Debian's logrotate of mosquitto sends SIGHUP, and knows nothing of what else that asks for.
#[test]
fn log_files_are_opened_anew_where_a_reload_is_refused() {
    let (world, file) = with_a_log_file();
    let broker = start(&world);
    wait_for(&file, " running");
    let old = world.directory.path().join("old");
    fs::rename(&file, &old).unwrap();
    fs::write(world.file(), "nonsense = true\n").unwrap();
    broker.signal("-HUP");
    wait_for(&file, "The config was not reloaded");
    ping(&mut world.connect(1));
    wait_for(&file, " as c1 (p5,");
}

/// The file for logrotate as it is, but for its paths and for who is told.
#[test]
fn logrotate_takes_the_file_that_is_delivered_and_no_line_is_lost() {
    let Some(logrotate) = crate::installed::system_program("logrotate") else {
        return;
    };
    let (world, file) = with_a_log_file();
    let broker = start(&world);
    wait_for(&file, " running");
    let delivered = fs::read_to_string(crate::installed::deploy("logrotate")).unwrap();
    let tell = "systemctl kill --signal=RTMIN --kill-whom=main nightjar.service";
    let logs = world.directory.path().join("*.log");
    for part in [tell, "/var/log/nightjar/*.log"] {
        assert!(delivered.contains(part), "{delivered}");
    }
    let rules = delivered
        .replace(tell, &format!("kill -RTMIN {}", broker.id()))
        .replace("/var/log/nightjar/*.log", logs.to_str().unwrap());
    let rules_file = world.directory.path().join("logrotate");
    fs::write(&rules_file, rules).unwrap();
    let rotate = || {
        let state = world.directory.path().join("state");
        let output = Command::new(&logrotate)
            .arg("--force")
            .arg("--state")
            .args([&state, &rules_file])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    ping(&mut world.connect(1));
    wait_for(&file, " as c1 (p5,");
    rotate();
    wait_for(&file, "Log files are opened anew.");
    ping(&mut world.connect(2));
    wait_for(&file, " as c2 (p5,");
    let first = world.directory.path().join("nightjar.log.1");
    assert!(fs::read_to_string(&first).unwrap().contains(" as c1 (p5,"));
    // The second time the first is compressed; that it could be is what `rotate` looks at.
    rotate();
    wait_for(&file, "Log files are opened anew.");
    assert!(fs::read_to_string(&first).unwrap().contains(" as c2 (p5,"));
    assert!(world.directory.path().join("nightjar.log.2.gz").exists());
}

#[test]
fn lines_go_to_all_destinations_and_to_no_other() {
    let mut world = World::new("");
    let file = world.directory.path().join("a.log");
    world.write(&format!(
        "allow_anonymous = true\nlog_format = \"json\"\nlog_destinations = [\"stdout\", \"file:{}\"]\n",
        file.display()
    ));
    let mut command = Command::new(binary());
    command.arg("--ephemeral").arg("-c").arg(world.file());
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let mut lines = stdout.lines().map(Result::unwrap);
    let mut seen: Vec<String> = Vec::new();
    let running = lines.by_ref().find(|line| {
        seen.push(line.clone());
        line.contains(" running")
    });
    let line = running.unwrap_or_default();
    let object: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(object["level"], "information", "{line}");
    wait_for(&file, " running");
    let id = child.id().to_string();
    assert!(Command::new("kill").arg(id).status().unwrap().success());
    seen.extend(lines);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let in_file = fs::read_to_string(&file).unwrap();
    assert_eq!(in_file.lines().collect::<Vec<_>>(), seen);
}

/// `log_dest none` of a mosquitto.conf holds from the first line on.
#[test]
fn a_broker_that_is_told_to_log_nowhere_says_nothing() {
    let world = World::new("");
    let conf = world.directory.path().join("mosquitto.conf");
    let text = format!(
        "user root\nlistener {} 127.0.0.1\nallow_anonymous true\nlog_dest none\n",
        world.port
    );
    fs::write(&conf, text).unwrap();
    let broker = Running::alone(Command::new(binary()).arg("-c").arg(&conf));
    harness::wait_until("it listens", crate::world::LIMIT, || {
        std::net::TcpStream::connect((std::net::Ipv4Addr::LOCALHOST, world.port)).is_ok()
    });
    ping(&mut world.connect(1));
    let (status, said) = broker.terminate();
    assert!(status.success());
    assert_eq!(said, "");
}

/// As Mosquitto: one topic a kind of line, with the line as it is, without its time.
#[test]
fn lines_are_published_for_those_who_may_read_them() {
    let mut world = World::new("");
    world.write(
        "allow_anonymous = true\nlog_destinations = [\"stderr\", \"topic\"]\n\
         log_types = [\"error\", \"warning\", \"notice\", \"information\", \"subscribe\"]\n",
    );
    let _broker = world.start(&[]);
    let address = (std::net::Ipv4Addr::LOCALHOST, world.port).into();
    let mut reader = Client::open_at(address);
    reader.send(&Connect::v4("reader").bytes());
    reader.expect("20 02 00 00");
    reader.send(&packet("82", "m1 s'$SYS/broker/log/#' 00"));
    reader.expect("90 03 m1 00");
    let mut other = Client::open_at(address);
    other.send(&Connect::v4("other").bytes());
    other.expect("20 02 00 00");
    other.send(&packet("82", "m1 s'some/filter' 01"));
    other.expect("90 03 m1 01");
    let mut wanted = vec![
        ("$SYS/broker/log/N", "New client connected from 127.0.0.1:"),
        ("$SYS/broker/log/M/subscribe", "other 1 some/filter"),
    ];
    while !wanted.is_empty() {
        let packet = reader.receive_packet();
        assert_eq!(packet[0], 0x30);
        let text = String::from_utf8_lossy(&packet).into_owned();
        wanted.retain(|(topic, words)| !(text.contains(topic) && text.contains(words)));
    }
}

fn with_a_log_file() -> (World, std::path::PathBuf) {
    let mut world = World::new("");
    let file = world.directory.path().join("nightjar.log");
    world.write(&format!(
        "allow_anonymous = true\nlog_destinations = [\"file:{}\"]\n",
        file.display()
    ));
    (world, file)
}

/// Without waiting for a line: it says nothing here.
fn start(world: &World) -> Running {
    let mut command = Command::new(binary());
    command.arg("--ephemeral").arg("-c").arg(world.file());
    Running::alone(&mut command)
}

#[track_caller]
fn wait_for(file: &Path, words: &str) {
    harness::wait_until(words, crate::world::LIMIT, || {
        fs::read_to_string(file).is_ok_and(|text| text.contains(words))
    });
}
