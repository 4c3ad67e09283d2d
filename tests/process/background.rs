//! `-d`, the pid file, and a log that is not flooded.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt;
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
    // Of each ten seconds, which are one where the machine is not busy: what was said and what was left out are all of them.
    loop {
        let log =
            broker.wait_for("more lines about refused connections from 127.0.0.1 were left out.");
        let said = log.matches("disconnected, not authorised").count();
        let left_out: Vec<usize> = log
            .lines()
            .filter_map(|line| line.split_once(": Warning: ")?.1.split_once(" more lines"))
            .map(|(count, _)| count.parse().unwrap())
            .collect();
        assert!(said <= 20 * (left_out.len() + 1), "{log}");
        let all = said + left_out.iter().sum::<usize>();
        assert!(all <= 300, "{log}");
        if all == 300 {
            break;
        }
    }
}

/// Root reads everything; who it becomes may not, and a reload is refused.
#[test]
fn files_that_the_new_user_cannot_read_are_warned_of_at_the_start() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("NOT PROVED: only root can become somebody else");
        return;
    }
    let world = World::new("");
    let at = |name: &str| world.directory.path().join(name);
    fs::set_permissions(world.directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for (name, mode) in [("passwd", 0o600), ("acl", 0o644)] {
        fs::write(at(name), "").unwrap();
        fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let conf = at("mosquitto.conf");
    let text = format!(
        "user nobody\nlistener {} 127.0.0.1\npassword_file {}\nacl_file {}\n",
        world.port,
        at("passwd").display(),
        at("acl").display()
    );
    fs::write(&conf, text).unwrap();
    fs::set_permissions(&conf, fs::Permissions::from_mode(0o644)).unwrap();
    let mut broker = harness::Running::alone(Command::new(binary()).arg("-c").arg(&conf));
    let log = broker.wait_for(" running");
    let warning = format!(
        "User nobody cannot read {}: every reload",
        at("passwd").display()
    );
    assert!(log.contains(&warning), "{log}");
    assert_eq!(log.matches("cannot read").count(), 1, "{log}");
    broker.signal("-HUP");
    broker.wait_for("The config was not reloaded: everything stays as it was.");
    fs::set_permissions(at("passwd"), fs::Permissions::from_mode(0o644)).unwrap();
    broker.signal("-HUP");
    broker.wait_for("Config reloaded.");
}
