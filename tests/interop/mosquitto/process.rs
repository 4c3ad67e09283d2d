//! Exit codes, and the lines of the log.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use harness::{Client, Connect, Running, TemporaryDirectory, binary, free_port, packet, program};

use crate::log::{self, Line};

/// Arguments that Mosquitto refuses, and what is refused there is refused here with the same exit code.
#[test]
fn exit_codes_are_those_of_mosquitto() {
    let Some(mosquitto) = program("mosquitto") else {
        return;
    };
    let cases: [&[&str]; 8] = [
        &["--bogus"],
        &["-z"],
        &["-c"],
        &["-c", "/nonexistent/x.conf"],
        &["-p"],
        &["-p", "0"],
        &["-p", "70000"],
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
    // On both loopback addresses: Mosquitto goes on with the one that is free.
    let port = free_port();
    let _v4 = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    let _v6 = TcpListener::bind((Ipv6Addr::LOCALHOST, port)).unwrap();
    let port = port.to_string();
    for program in [mosquitto.as_path(), binary()] {
        let output = Command::new(program).args(["-p", &port]).output().unwrap();
        let (code, text) = code_and_text(&output);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains("Error: Address already in use"), "{text}");
    }
    for signal in ["-TERM", "-INT"] {
        for program in [mosquitto.as_path(), binary()] {
            let port = free_port();
            let mut broker = Running::alone(Command::new(program).args(["-p", &port.to_string()]));
            wait_until_it_runs(&mut broker);
            // Somebody is connected.
            let mut client = Client::open_at((Ipv4Addr::LOCALHOST, port).into());
            client.send(&Connect::v4("c").bytes());
            client.expect("20 02 00 00");
            broker.signal(signal);
            let (status, log) = broker.wait();
            assert_eq!(status.code(), Some(0), "{}: {log}", program.display());
        }
    }
}

/// The same clients at both, with everything logged: every line of Mosquitto's is here, and no other one, but for those that each
/// says of its insides.
#[test]
fn the_lines_of_the_log_are_mosquittos() {
    let Some(mosquitto) = program("mosquitto") else {
        return;
    };
    let [theirs, ours] = [mosquitto.as_path(), binary()].map(exercise);
    let kinds = |log: &str| {
        let mut kinds: Vec<String> = log::lines(log).filter_map(Line::kind).collect();
        kinds.sort();
        kinds
    };
    let (their_kinds, our_kinds) = (kinds(&theirs), kinds(&ours));
    assert!(their_kinds.len() > 50, "{theirs}");
    assert_eq!(our_kinds, their_kinds, "{theirs}\n{ours}");
}

/// The log of a broker that has met clients of many kinds.
fn exercise(program: &Path) -> String {
    let directory = TemporaryDirectory::new("lines");
    fs::create_dir(directory.path()).unwrap();
    // Started as root it becomes somebody else, who must be able to read.
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let port = free_port();
    let conf = directory.path().join("mosquitto.conf");
    let text = format!("listener {port} 127.0.0.1\nallow_anonymous true\nlog_type all\n");
    fs::write(&conf, text).unwrap();
    let mut broker = Running::alone(Command::new(program).arg("-c").arg(&conf));
    wait_until_it_runs(&mut broker);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));

    // A client of 3.1.1 that does everything.
    let mut first = open(address, &Connect::v4("c1"));
    first.expect("20 02 00 00");
    first.send(&packet("82", "m1 s'a/#' 02 s'b' 00"));
    first.expect("90 04 m1 02 00");
    first.send(&packet("30", "s'a/b' 'zero'"));
    first.expect_bytes(&packet("30", "s'a/b' 'zero'"));
    first.send(&packet("32", "s'b' m2 'one'"));
    let mut both = [first.receive_packet(), first.receive_packet()];
    both.sort();
    assert_eq!(both, [packet("30", "s'b' 'one'"), packet("40", "m2")]);
    // Mosquitto hands on at PUBREL what we hand on at PUBLISH.
    first.send(&packet("34", "s'a/c' m3 'two'"));
    let mut received = vec![first.receive_packet()];
    while !received.contains(&packet("50", "m3")) {
        received.push(first.receive_packet());
    }
    first.send(&packet("62", "m3"));
    while received.len() < 3 {
        received.push(first.receive_packet());
    }
    for expected in [packet("34", "s'a/c' m1 'two'"), packet("70", "m3")] {
        assert!(received.contains(&expected), "{received:02x?}");
    }
    first.send(&packet("50", "m1"));
    first.expect("62 02 m1");
    first.send(&packet("70", "m1"));
    first.send(&packet("a2", "m4 s'b'"));
    first.expect("b0 02 m4");
    first.expect_nothing_until_pingresp();
    first.send(&[0xe0, 0]);
    broker.wait_for("Client c1 disconnected.");

    // One that goes without a word, and whose will is heard.
    let mut witness = open(address, &Connect::v5("witness"));
    assert_eq!(witness.receive_packet()[3], 0);
    witness.send(&packet("82", "m1 00 s'will' 01"));
    witness.expect("90 04 m1 00 01");
    let mut second = open(address, &Connect::v4("c2").will("will", "gone", 1, false));
    second.expect("20 02 00 00");
    drop(second);
    broker.wait_for("Client c2 closed its connection.");
    witness.expect_bytes(&packet("32", "s'will' m1 00 'gone'"));
    witness.send(&packet("40", "m1"));
    witness.expect_nothing_until_pingresp();

    // Two with the same name.
    let mut old = open(address, &Connect::v4("c3"));
    old.expect("20 02 00 00");
    let mut new = open(address, &Connect::v4("c3"));
    new.expect("20 02 00 00");
    old.expect_close();

    // One that is silent for too long, one that breaks the protocol, and one that is not a client at all.
    let mut silent = open(address, &Connect::v4("c4").keep_alive(1));
    silent.expect("20 02 00 00");
    silent.expect_close();
    let mut wrong = open(address, &Connect::v4("c5"));
    wrong.expect("20 02 00 00");
    wrong.send(&packet("30", "s'a/+' 'x'"));
    wrong.expect_close();

    // A session that is kept, and what waits in it.
    let kept = Connect::v4("c6").clean(false);
    let mut away = open(address, &kept);
    away.expect("20 02 00 00");
    away.send(&packet("82", "m1 s'kept' 01"));
    away.expect("90 03 m1 01");
    away.send(&[0xe0, 0]);
    broker.wait_for("Client c6 disconnected.");
    new.send(&packet("33", "s'kept' m1 'x'"));
    new.expect("40 02 m1");
    let mut back = open(address, &kept);
    back.expect("20 02 01 00");
    back.expect_bytes(&packet("32", "s'kept' m1 'x'"));
    back.send(&packet("40", "m1"));
    back.expect_nothing_until_pingresp();

    broker.signal("-HUP");
    broker.wait_for("Reloading config.");
    // What was begun before is over when the next one is answered.
    new.expect_nothing_until_pingresp();
    for client in [&mut witness, &mut new, &mut back] {
        client.send(&[0xe0, 0]);
        client.expect_close();
    }
    let (status, log) = broker.terminate();
    assert!(status.success(), "{log}");
    log
}

fn open(address: SocketAddr, connect: &Connect) -> Client {
    let mut client = Client::open_at(address);
    client.send(&connect.bytes());
    client
}

fn wait_until_it_runs(broker: &mut Running) {
    broker.wait_for(" starting");
    // Both have these words in a sentence about local only mode.
    while !broker.wait_for(" running").ends_with(" running\n") {}
}

fn code_and_text(output: &Output) -> (Option<i32>, String) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), text)
}
