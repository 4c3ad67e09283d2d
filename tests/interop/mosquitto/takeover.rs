//! A person stops Mosquitto and starts us with the same configuration: what was kept there is here.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use harness::{Client, Connect, Running, TemporaryDirectory, binary, free_port, packet, program};

#[test]
fn what_mosquitto_kept_is_taken_over_once_and_its_file_is_left_as_it_is() {
    let Some(mosquitto) = program("mosquitto") else {
        return;
    };
    let directory = TemporaryDirectory::new("takeover");
    fs::create_dir(directory.path()).unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let conf = directory.path().join("mosquitto.conf");
    let text = format!(
        "listener {} 127.0.0.1\nallow_anonymous true\npersistence true\npersistence_location {}/\n",
        address.port(),
        directory.text()
    );
    fs::write(&conf, text).unwrap();
    let file = directory.path().join("mosquitto.db");

    // Two devices that are away, with what waits for them; one has not acknowledged what it was sent.
    let mut broker = start(&mosquitto, &conf);
    let mut old = open(address, &old_device());
    old.expect("20 02 00 00");
    old.send(&packet("82", "m1 s'a/#' 01 s'b/+' 02"));
    old.expect("90 04 m1 01 02");
    let mut new = open(address, &new_device());
    assert_eq!(new.receive_packet()[3], 0);
    new.send(&packet("82", "m1 00 s'a/#' 01"));
    new.expect("90 04 m1 00 01");
    let mut publisher = open(address, &Connect::v4("publisher"));
    publisher.expect("20 02 00 00");
    publisher.send(&packet("33", "s'a/kept' m1 'retained'"));
    publisher.expect("40 02 m1");
    old.expect_bytes(&packet("32", "s'a/kept' m1 'retained'"));
    assert_eq!(new.receive_packet()[0], 0x32);
    new.send(&packet("40", "m1"));
    new.disconnect();
    drop(old);
    broker.wait_for("Client old closed its connection.");
    for (first, topic, id) in [("32", "a/1", 2), ("34", "b/2", 3), ("32", "a/3", 4)] {
        publisher.send(&packet(first, &format!("s'{topic}' m{id} '{topic}'")));
        let answer = publisher.receive_packet();
        if answer[0] == 0x50 {
            publisher.send(&packet("62", &format!("m{id}")));
            assert_eq!(publisher.receive_packet()[0], 0x70);
        }
    }
    let (status, log) = broker.terminate();
    assert!(status.success(), "{log}");
    let written = fs::read(&file).unwrap();

    let broker = start(binary(), &conf);
    let mut client = open(address, &old_device());
    client.expect("20 02 01 00");
    let mut received: Vec<Vec<u8>> = (0..4).map(|_| client.receive_packet()).collect();
    // Again, with DUP; then what waited, in order, where there is one: of one QoS.
    assert_eq!(received.remove(0), packet("3a", "s'a/kept' m1 'retained'"));
    received.sort_by_key(|packet| packet[0]);
    let expected = [("a/1", 0x32), ("a/3", 0x32), ("b/2", 0x34)];
    for (message, (topic, first)) in received.iter().zip(expected) {
        let text = String::from_utf8_lossy(&message[4..7]).into_owned();
        assert_eq!((message[0], text.as_str()), (first, topic));
        let id = u16::from_be_bytes([message[7], message[8]]);
        let answer = if first == 0x34 { "50" } else { "40" };
        client.send(&packet(answer, &format!("m{id}")));
    }
    client.send(&packet("40", "m1"));
    assert_eq!(client.receive_packet()[0], 0x62);
    let mut reader = open(address, &Connect::v4("reader"));
    reader.expect("20 02 00 00");
    reader.send(&packet("82", "m1 s'a/kept' 00"));
    reader.expect("90 03 m1 00");
    reader.expect_bytes(&packet("31", "s'a/kept' 'retained'"));
    // The subscriptions are in force.
    reader.send(&packet("30", "s'a/live' 'x'"));
    client.expect_bytes(&packet("30", "s'a/live' 'x'"));
    client.send(&[0xe0, 0]);
    client.expect_close();
    let (status, log) = broker.terminate();
    assert!(status.success(), "{log}");
    assert!(log.contains("mosquitto.db"), "{log}");
    assert_eq!(fs::read(&file).unwrap(), written);

    // Once only: what was acknowledged since does not come again, and the other device has its session still.
    let broker = start(binary(), &conf);
    let mut client = open(address, &old_device());
    client.expect("20 02 01 00");
    // What it had not said PUBCOMP to.
    assert_eq!(client.receive_packet()[0], 0x62);
    client.expect_nothing_until_pingresp();
    let mut client = open(address, &new_device());
    let connack = client.receive_packet();
    assert_eq!((connack[2], connack[3]), (1, 0), "{connack:x?}");
    for topic in ["a/1", "a/3"] {
        let message = client.receive_packet();
        assert!(String::from_utf8_lossy(&message).contains(topic));
    }
    drop(broker);
    assert_eq!(fs::read(&file).unwrap(), written);
}

fn old_device() -> Connect {
    Connect::v4("old").clean(false)
}

fn new_device() -> Connect {
    Connect::v5("new").clean(false).properties("11 L6000")
}

fn open(address: SocketAddr, connect: &Connect) -> Client {
    let mut client = Client::open_at(address);
    client.send(&connect.bytes());
    client
}

fn start(program: &Path, conf: &Path) -> Running {
    let mut broker = Running::alone(Command::new(program).arg("-c").arg(conf));
    broker.wait_for(" running\n");
    broker
}
