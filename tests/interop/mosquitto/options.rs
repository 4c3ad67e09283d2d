//! Options that change what goes over the wire: the same packets to Mosquitto and to us on the same lines of a mosquitto.conf, and
//! every byte that comes back compared.

use std::fs;
use std::net::SocketAddr;

use harness::{
    Broker, Client, Connect, Mosquitto, PATIENCE, TemporaryDirectory, packet, program, wait_until,
};
use rustix::process::{Pid, Signal, kill_process};

/// What the subscriber sends, then what the publisher does.
type Step = (Vec<u8>, Vec<u8>);

/// Plays the steps at both brokers with these lines in their files. Gives what the subscriber was sent in each step.
#[track_caller]
fn compare(name: &str, lines: &str, steps: &[Step]) -> Option<Vec<Vec<Vec<u8>>>> {
    let mosquitto = program("mosquitto")?;
    let directory = TemporaryDirectory::new(name);
    fs::create_dir(directory.path()).unwrap();
    let lines = format!("allow_anonymous true\n{lines}");
    let reference = Mosquitto::start(&mosquitto, directory.path(), &lines);
    let expected = play(reference.address, steps, None);
    let text = format!("user root\nlistener {{port}} 127.0.0.1\n{lines}\n");
    let broker = Broker::options().mosquitto_conf(&text).start();
    let ours = play(broker.address(), steps, Some(&expected));
    assert_eq!(ours, expected, "{lines}");
    Some(expected)
}

/// `expected`: as many packets are waited for in each step; without it whatever comes before the answer to a ping.
pub(crate) fn play(
    address: SocketAddr,
    steps: &[Step],
    expected: Option<&[Vec<Vec<u8>>]>,
) -> Vec<Vec<Vec<u8>>> {
    let connect = |client_id: &str| {
        let mut client = Client::open_at(address);
        client.send(&Connect::v4(client_id).bytes());
        client.expect("20 02 00 00");
        client
    };
    let (mut subscriber, mut publisher) = (connect("subscriber"), connect("publisher"));
    let mut heard = Vec::new();
    for (step, (from_subscriber, from_publisher)) in steps.iter().enumerate() {
        subscriber.send(from_subscriber);
        subscriber.send(&[0xc0, 0]);
        let mut packets = until_pingresp(&mut subscriber);
        publisher.send(from_publisher);
        publisher.send(&[0xc0, 0]);
        until_pingresp(&mut publisher);
        let count = expected.map_or(0, |expected| expected[step].len());
        while packets.len() < count {
            packets.push(subscriber.receive_packet());
        }
        subscriber.send(&[0xc0, 0]);
        packets.extend(until_pingresp(&mut subscriber));
        heard.push(packets);
    }
    heard
}

fn until_pingresp(client: &mut Client) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    loop {
        match client.receive_packet() {
            packet if packet == [0xd0, 0] => return packets,
            packet => packets.push(packet),
        }
    }
}

/// Several packets in a row.
fn all(packets: &[(&str, &str)]) -> Vec<u8> {
    let packets = packets.iter();
    packets
        .flat_map(|(first, words)| packet(first, words))
        .collect()
}

#[test]
fn upgrade_outgoing_qos_delivers_with_the_subscriptions_qos_as_mosquitto() {
    let steps = [
        (
            all(&[("82", "m1 s'zero' 00 s'one' 01 s'two' 02")]),
            all(&[
                ("30", "s'zero' '0'"),
                ("30", "s'one' '0'"),
                ("30", "s'two' '0'"),
                ("32", "s'zero' m1 '1'"),
                ("32", "s'one' m2 '1'"),
                ("32", "s'two' m3 '1'"),
                ("34", "s'one' m4 '2'"),
                ("62", "m4"),
                ("34", "s'two' m5 '2'"),
                ("62", "m5"),
                ("31", "s'kept' 'retained'"),
            ]),
        ),
        (all(&[("82", "m2 s'kept' 01")]), Vec::new()),
        (all(&[("82", "m3 s'kept' 02")]), Vec::new()),
    ];
    let heard = compare("upgrade", "upgrade_outgoing_qos true", &steps);
    // Without the option it is the lower of the two.
    let without = compare("no-upgrade", "upgrade_outgoing_qos false", &steps);
    assert!(heard.is_none() || heard != without);
}

/// As Mosquitto 2.1 does. 2.0 looks at the bytes only where a message would go out at once, and sends each of these when the next one comes.
#[test]
fn max_inflight_bytes_holds_back_what_comes_when_as_many_are_on_their_way() {
    let publishes: Vec<u8> = (1..=4)
        .flat_map(|id| packet("34", &format!("s'a' m{id} 'message{id}'")))
        .chain((1..=4).flat_map(|id| packet("62", &format!("m{id}"))))
        .collect();
    let steps = [
        (all(&[("82", "m1 s'a' 02")]), publishes),
        (packet("50", "m1"), Vec::new()),
        (packet("70", "m1"), Vec::new()),
        (all(&[("50", "m2"), ("50", "m3")]), Vec::new()),
        (all(&[("70", "m2"), ("70", "m3")]), Vec::new()),
    ];
    let message = |id: u8| packet("34", &format!("s'a' m{id} 'message{id}'"));
    let pubrel = |id: u8| packet("62", &format!("m{id}"));
    for (lines, first, later) in [
        // Two of eight bytes are sixteen; of fifteen the second one goes beyond.
        ("max_inflight_bytes 16", 2, 3),
        ("max_inflight_bytes 15", 2, 3),
        ("max_inflight_bytes 17", 3, 4),
        ("max_inflight_bytes 99\nmax_inflight_messages 2", 2, 3),
    ] {
        let mut expected = vec![vec![packet("90", "m1 02")], vec![pubrel(1)], Vec::new()];
        expected[0].extend((1..=first).map(message));
        expected[2].extend((first + 1..=later).map(message));
        expected.push(vec![pubrel(2), pubrel(3)]);
        expected.push((later + 1..=4).map(message).collect());
        let text =
            format!("user root\nlistener {{port}} 127.0.0.1\nallow_anonymous true\n{lines}\n");
        let broker = Broker::options().mosquitto_conf(&text).start();
        let ours = play(broker.address(), &steps, Some(&expected));
        assert_eq!(ours, expected, "{lines}");
    }
}

/// What is retained for `v`: topics, in their order.
fn retained(address: SocketAddr) -> Vec<String> {
    let mut client = named(address, "v");
    client.send(&packet("82", "m1 s'#' 00"));
    client.send(&[0xc0, 0]);
    let publishes = until_pingresp(&mut client).into_iter().skip(1);
    let mut topics: Vec<String> = publishes
        .map(|packet| String::from_utf8_lossy(&packet[4..4 + usize::from(packet[3])]).into_owned())
        .collect();
    topics.sort();
    topics
}

/// A client with this id and user name.
fn named(address: SocketAddr, name: &str) -> Client {
    let mut client = Client::open_at(address);
    client.send(&Connect::v4(name).username(name).bytes());
    client.expect("20 02 00 00");
    client
}

/// Its publisher loses the right to it, and gets it back: (then, and after that).
fn retained_over_reloads(
    address: SocketAddr,
    rules: &std::path::Path,
    reload: impl Fn(),
) -> [Vec<String>; 2] {
    let mut publisher = named(address, "u");
    publisher.send(&all(&[("31", "s'lost' 'x'"), ("31", "s'kept' 'x'")]));
    publisher.expect_nothing_until_pingresp();
    let mut other = named(address, "w");
    other.send(&all(&[("31", "s'mark/1' 'x'"), ("31", "s'mark/2' 'x'")]));
    other.expect_nothing_until_pingresp();
    assert_eq!(retained(address), ["kept", "lost"]);
    [(1, "write kept"), (2, "write #")].map(|(mark, right)| {
        let text = format!(
            "user u\ntopic {right}\nuser v\ntopic read lost\ntopic read kept\ntopic read mark/{mark}\nuser w\ntopic write mark/#\n"
        );
        fs::write(rules, text).unwrap();
        reload();
        let mark = format!("mark/{mark}");
        let mut told = Vec::new();
        wait_until("it is in force", PATIENCE, || {
            told = retained(address);
            told.contains(&mark)
        });
        told
    })
}

const RULES: &str =
    "user u\ntopic write #\nuser v\ntopic read lost\ntopic read kept\nuser w\ntopic write mark/#\n";

#[test]
fn a2_what_is_retained_is_hidden_while_its_publisher_may_not_publish_it_as_mosquitto_does() {
    let Some(mosquitto) = program("mosquitto") else {
        return;
    };
    for (value, hidden) in [("true", true), ("false", false)] {
        let directory = TemporaryDirectory::new("retain-source");
        fs::create_dir(directory.path()).unwrap();
        let rules = directory.path().join("acl");
        fs::write(&rules, RULES).unwrap();
        let lines = format!(
            "allow_anonymous true\ncheck_retain_source {value}\nacl_file {}",
            rules.display()
        );
        let reference = Mosquitto::start(&mosquitto, directory.path(), &lines);
        let expected = retained_over_reloads(reference.address, &rules, || reference.hang_up());
        assert_eq!(expected[0].contains(&"lost".to_owned()), !hidden);
        fs::write(&rules, RULES).unwrap();
        let text = format!("user root\nlistener {{port}} 127.0.0.1\n{lines}\n");
        let broker = Broker::options().mosquitto_conf(&text).start();
        let process = i32::try_from(broker.process_id().unwrap()).unwrap();
        let process = Pid::from_raw(process).unwrap();
        let ours = retained_over_reloads(broker.address(), &rules, || {
            kill_process(process, Signal::HUP).unwrap();
        });
        assert_eq!(ours, expected, "check_retain_source {value}");
    }
}

/// Who published it is known after a restart, too.
#[test]
fn a2_what_is_retained_stays_hidden_over_a_restart() {
    let directory = TemporaryDirectory::new("retain-restart");
    fs::create_dir(directory.path()).unwrap();
    let rules = directory.path().join("acl");
    let start = |text: &str| {
        fs::write(&rules, text).unwrap();
        let text = format!(
            "user root\nlistener {{port}} 127.0.0.1\nallow_anonymous true\nacl_file {}\npersistence true\n\
             persistence_location {}\n",
            rules.display(),
            directory.text()
        );
        Broker::options().mosquitto_conf(&text).start()
    };
    let mut broker = start("user u\ntopic write #\nuser v\ntopic read #\n");
    let mut publisher = named(broker.address(), "u");
    publisher.send(&all(&[("33", "s'a' m1 'x'"), ("33", "s'b' m2 'x'")]));
    publisher.expect("40 02 00 01");
    publisher.expect("40 02 00 02");
    assert_eq!(broker.terminate().code(), Some(0));
    let broker = start("user u\ntopic write b\nuser v\ntopic read #\n");
    assert_eq!(retained(broker.address()), ["b"]);
}
