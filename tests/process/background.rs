//! `-d`, the pid file, and a log that is not flooded.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::Command;

use harness::binary;

use crate::world::{LIMIT, World, connect, ping};

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
    harness::wait_until("the pid file goes", LIMIT, || !pid_file.exists());
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
