//! SIGUSR1 and SIGUSR2. SIGHUP is in `reload.rs`, SIGRTMIN in `log_files.rs`.

use std::io::{Read, Write};

use harness::packet;

use crate::world::{World, ping};

/// QoS 0 is nobody's until it is written, a second later or when somebody asks.
#[test]
fn after_sigusr1_everything_is_on_disk() {
    let world = World::new("allow_anonymous = true\nshards = 2\n");
    let data = world.directory.path().join("data");
    let arguments = ["--data", data.to_str().unwrap()];
    let mut broker = world.start(&arguments);
    let mut client = world.connect(1);
    client.write_all(&packet("31", "s't' 00 'kept'")).unwrap();
    ping(&mut client);
    broker.signal("-USR1");
    let log = broker.wait_for("Saved.");
    let file = data.join("nightjar.redb");
    let words = format!("Saving in-memory database to {}.", file.display());
    assert!(log.contains(&words), "{log}");
    broker.kill();
    let _broker = world.start(&arguments);
    let mut client = world.connect(2);
    client.write_all(&packet("82", "m1 00 s't' 00")).unwrap();
    let mut answer = [0; 6];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(answer[0], 0x90);
    let expected = packet("31", "s't' 00 'kept'");
    let mut received = vec![0; expected.len()];
    client.read_exact(&mut received).unwrap();
    assert_eq!(received, expected);
}

#[test]
fn sigusr1_without_a_store_says_that_nothing_is_saved() {
    let world = World::new("allow_anonymous = true\n");
    let mut broker = world.start(&[]);
    broker.signal("-USR1");
    broker.wait_for("Nothing is saved: persistence is off.");
    ping(&mut world.connect(1));
}

#[test]
fn sigusr2_describes_every_subscription_in_the_log() {
    let world = World::new("allow_anonymous = true\nshards = 2\n");
    let mut broker = world.start(&[]);
    let mut clients = Vec::new();
    for number in 0..8 {
        let mut client = world.connect(number);
        let filter = format!("m1 00 s'of/{number}/+' 01 s'$share/g/s{number}' 02");
        client.write_all(&packet("82", &filter)).unwrap();
        let mut answer = [0; 7];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(answer[0], 0x90);
        clients.push(client);
    }
    broker.signal("-USR2");
    let lines: Vec<String> = (0..8)
        .flat_map(|number| {
            [
                format!(": Subscriptions of shard {}: ", number % 2),
                format!(":     c{number} 1 of/{number}/+\n"),
                format!(":     c{number} 2 $share/g/s{number}\n"),
            ]
        })
        .collect();
    broker.wait_for_each(lines.iter().map(String::as_str));
}
