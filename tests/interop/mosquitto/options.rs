//! Options that change what goes over the wire: the same packets to Mosquitto and to us on the same lines of a mosquitto.conf, and
//! every byte that comes back compared.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use harness::{Broker, Client, Connect, Mosquitto, TemporaryDirectory, packet, program};

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
fn play(
    address: SocketAddr,
    steps: &[Step],
    expected: Option<&[Vec<Vec<u8>>]>,
) -> Vec<Vec<Vec<u8>>> {
    let connect = |client_id: &str| {
        let mut client = Client::open_at(address);
        client.set_timeout(Duration::from_secs(10));
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
