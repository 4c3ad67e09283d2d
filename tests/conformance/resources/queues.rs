//! What waits: queues of sessions that are away (R7), of clients that do not read (R8), of publishers that do not release (R9), aliases
//! (R11), large payloads (R18), and mail between shards.

use std::io::{ErrorKind, Write};
use std::time::Duration;

use harness::{Client, Connect, PATIENCE, bytes, hex, now, packet, wait_until};

use crate::Scene;

#[test]
fn r7_a_full_queue_refuses_drops_the_newest_or_drops_the_oldest() {
    // What is received of 1 to 6, and what the publisher hears of the last three.
    for (policy, expected, code) in [
        ("refuse", "1 2 3", "97"),
        ("drop_newest", "1 2 3", "00"),
        ("drop_oldest", "4 5 6", "00"),
    ] {
        // A message costs 128 bytes, its topic and its payload.
        for bound in ["queue_messages_max = 3", "queue_bytes_max = 450"] {
            // What was acknowledged may be on its way from shard to shard when the subscriber comes back, and then its queue was not full.
            let scene = Scene::start(&format!("queue_policy = \"{policy}\"\nshards = 1\n{bound}"));
            let connect = Connect::v5("offline").clean(false).properties("11 L60");
            let mut subscriber = Client::connect(&scene.broker, &connect);
            subscriber.send(&packet("82", "m1 v0 s'q' 02"));
            subscriber.expect("90 04 m1 v0 02");
            subscriber.disconnect();
            let mut publisher = Client::connect_v5(&scene.broker, "publisher", "");
            for number in 1..=6 {
                let code = if number > 3 { code } else { "00" };
                let (first_byte, answer) = if number % 2 == 0 {
                    ("34", "50")
                } else {
                    ("32", "40")
                };
                publisher.send(&packet(
                    first_byte,
                    &format!("s'q' m{number} v0 '{number}'"),
                ));
                let short = format!("{answer} 02 m{number}");
                let long = format!("{answer} 03 m{number} {code}");
                publisher.expect(if code == "00" { &short } else { &long });
            }
            let mut subscriber = Client::connect(&scene.broker, &connect);
            let received: Vec<String> = std::iter::from_fn(|| subscriber.try_receive_packet().ok())
                .take(expected.split(' ').count())
                .map(|packet| String::from_utf8(packet[packet.len() - 1..].to_vec()).unwrap())
                .collect();
            assert_eq!(received.join(" "), expected, "{policy}, {bound}");
            subscriber.expect_nothing_until_pingresp();
            scene.finish();
        }
    }
}

#[test]
fn r7_the_total_bounds_every_session_and_one_with_room_is_enough() {
    let scene = Scene::start("queue_total_bytes_max = 900\nqueue_bytes_max = 450");
    for name in ["first", "second", "third"] {
        let connect = Connect::v5(name).clean(false).properties("11 L60");
        let mut subscriber = Client::connect(&scene.broker, &connect);
        subscriber.send(&packet("82", &format!("m1 v0 s'q/{name}' 01 s'q/all' 01")));
        subscriber.expect("90 05 m1 v0 01 01");
        subscriber.disconnect();
    }
    let mut publisher = Client::connect_v5(&scene.broker, "publisher", "");
    let mut publish = |name: &str, answer: &str| {
        publisher.send(&packet("32", &format!("s'q/{name}' m1 v0 'x'")));
        publisher.expect(answer);
    };
    for _ in 0..3 {
        publish("first", "40 02 m1");
    }
    publish("first", "40 03 m1 97");
    // The first has no room and is skipped, the others have.
    publish("all", "40 02 m1");
    publish("second", "40 02 m1");
    publish("third", "40 03 m1 97");
    scene.finish();
}

/// D1: 3.x cannot be told. No acknowledgement, then the close; what is sent again is taken once there is room.
#[test]
fn r7_a_3_1_1_publisher_that_is_refused_is_closed_and_loses_nothing() {
    let scene = Scene::start("queue_messages_max = 1");
    let connect = Connect::v4("offline").clean(false);
    let mut subscriber = Client::connect(&scene.broker, &connect);
    subscriber.send(&packet("82", "m1 s'q' 02"));
    subscriber.expect("90 03 m1 02");
    subscriber.disconnect();
    let publisher_connect = Connect::v4("publisher").clean(false);
    let mut publisher = Client::connect(&scene.broker, &publisher_connect);
    publisher.send(&packet("34", "s'q' m1 'first'"));
    publisher.expect("50 02 m1");
    publisher.send(&packet("34", "s'q' m2 'second'"));
    publisher.send(&bytes("62 02 m1"));
    publisher.expect("70 02 m1");
    publisher.expect_nothing_until_pingresp();
    publisher.expect_close();
    let mut subscriber = Client::connect(&scene.broker, &connect);
    let take = |subscriber: &mut Client, payload: &str| {
        let delivered = subscriber.receive_packet();
        let text = hex(&delivered);
        assert!(delivered.ends_with(payload.as_bytes()), "{text}");
        let packet_id = hex(&delivered[5..7]);
        subscriber.send(&bytes(&format!("50 02 {packet_id} 70 02 {packet_id}")));
        subscriber.expect(&format!("62 02 {packet_id}"));
    };
    take(&mut subscriber, "first");
    // Only now there is room for the second for sure.
    let mut publisher = Client::connect(&scene.broker, &publisher_connect);
    publisher.send(&packet("3c", "s'q' m2 'second'"));
    publisher.expect("50 02 m2");
    take(&mut subscriber, "second");
    scene.finish();
}

#[test]
fn r8_a_slow_reader_loses_qos_0_and_no_one_else_does() {
    let mut scene = Scene::start("send_buffer_bytes_max = \"64 KiB\"");
    let mut slow = scene.subscriber("slow", "flood");
    let mut fast = scene.subscriber("fast", "flood");
    let mut publisher = Client::connect_v4(&scene.broker, "publisher");
    let before = scene.broker.resident_bytes();
    let publish = packet("30", &format!("s'flood' '{}'", "x".repeat(8000)));
    const ROUNDS: usize = 1000;
    for _ in 0..ROUNDS {
        publisher.send(&publish.repeat(4));
        fast.expect_bytes(&publish.repeat(4));
    }
    let growth = scene.broker.resident_bytes().saturating_sub(before);
    assert!(
        growth < 8 << 20,
        "{growth} bytes of 32 MB for one slow reader"
    );
    scene.echo();
    // What it gets in the end are whole packets, fewer than were sent, and then it is served as before.
    slow.send(&bytes("c0 00"));
    let mut received = 0;
    loop {
        match slow.receive_packet() {
            packet if packet == publish => received += 1,
            packet if packet == bytes("d0 00") => break,
            packet => panic!("{}", hex(&packet[..20])),
        }
    }
    assert!(received < 4 * ROUNDS, "nothing was dropped");
    publisher.send(&publish);
    slow.expect_bytes(&publish);
    scene.finish();
}

#[test]
fn r8_slow_readers_are_bound_in_total_and_no_one_else_is() {
    // Without the bound in total each of them would take 4 MiB.
    // What one shard sends another is delivered in one turn, and the total is looked at between turns.
    let mut scene = Scene::start(
        "send_buffer_bytes_max = \"4 MiB\"\nsend_bytes_max = \"1 MiB\"\nmail_bytes_max = \"256 KiB\"\nshards = 2",
    );
    let slow: Vec<Client> = (0..8)
        .map(|number| scene.subscriber(&format!("slow-{number}"), "flood"))
        .collect();
    let mut fast = scene.subscriber("fast", "flood");
    let mut publisher = Client::connect_v4(&scene.broker, "publisher");
    let before = scene.broker.resident_bytes();
    // Below the size from which a payload is shared, so that what waits is memory.
    let publish = packet("30", &format!("s'flood' '{}'", "x".repeat(1000)));
    for _ in 0..500 {
        publisher.send(&publish.repeat(32));
        fast.expect_bytes(&publish.repeat(32));
    }
    let growth = scene.broker.resident_bytes().saturating_sub(before);
    assert!(growth < 16 << 20, "{growth} bytes for slow readers");
    // They go, and their part of the bound with them.
    drop(slow);
    scene.echo();
    scene.finish();
}

#[test]
fn r8_answers_to_a_client_that_does_not_read_are_bound() {
    let mut scene = Scene::start("send_buffer_bytes_max = \"64 KiB\"");
    let mut client = Client::connect_v4(&scene.broker, "deaf");
    let before = scene.broker.resident_bytes();
    let pings = bytes("c0 00").repeat(32 * 1024);
    client.stream().set_nonblocking(true).unwrap();
    // Until the broker reads no more: for a fifth of a second nothing was taken.
    let (mut sent, mut last_taken) = (0, now());
    while now().duration_since(last_taken) < Duration::from_millis(200) {
        match client.stream().write(&pings[sent % 2..]) {
            Ok(count) => {
                sent += count;
                last_taken = now();
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(error) => panic!("{error}"),
        }
        assert!(sent < 256 << 20, "the broker reads without end");
    }
    let growth = scene.broker.resident_bytes().saturating_sub(before);
    assert!(growth < 4 << 20, "{growth} bytes of answers");
    scene.echo();
    // It reads, and everything is answered.
    client.stream().set_nonblocking(false).unwrap();
    // They are two million.
    client.set_timeout(PATIENCE * 4);
    let answers = client.receive_exactly(sent / 2 * 2);
    assert!(answers.chunks(2).all(|answer| answer == [0xd0, 0]));
    if sent % 2 == 1 {
        client.send(&[0]);
        client.expect("d0 00");
    }
    client.expect_nothing_until_pingresp();
    scene.finish();
}

#[test]
fn r8_the_socket_of_a_slow_reader_is_given_back_when_it_is_closed() {
    let scene = Scene::start("");
    let before = scene.descriptors();
    // Two that do not read: one is taken over, one is silent for too long.
    let mut slow = Vec::new();
    for name in ["taken-over", "silent"] {
        let connect = Connect::v4(name).keep_alive(if name == "silent" { 1 } else { 0 });
        let mut client = Client::connect(&scene.broker, &connect);
        client.send(&packet("82", "m1 s'flood' 00"));
        client.expect("90 03 m1 00");
        slow.push(client);
    }
    let mut publisher = Client::connect_v4(&scene.broker, "publisher");
    let publish = packet("30", &format!("s'flood' '{}'", "x".repeat(100_000)));
    for _ in 0..150 {
        publisher.send(&publish);
    }
    publisher.expect_nothing_until_pingresp();
    publisher.disconnect();
    Client::connect_v4(&scene.broker, "taken-over").disconnect();
    wait_until("the sockets are closed", PATIENCE, || {
        scene.descriptors() <= before
    });
    drop(slow);
    scene.finish();
}

#[test]
fn r8_a_slow_reader_does_not_hold_up_a_stop() {
    let mut scene = Scene::start("shutdown_timeout_seconds = \"1 s\"");
    let _slow = scene.subscriber("slow", "flood");
    let mut publisher = Client::connect_v4(&scene.broker, "publisher");
    let publish = packet("30", &format!("s'flood' '{}'", "x".repeat(100_000)));
    for _ in 0..150 {
        publisher.send(&publish);
    }
    publisher.expect_nothing_until_pingresp();
    // It never takes what waits for it, and this has an end.
    assert_eq!(scene.broker.terminate().code(), Some(0));
}

/// D22: PUBLISH waits and PUBREL is read, however much was sent ahead.
#[test]
fn r9_unreleased_messages_of_3_1_1_wait_for_their_pubrels() {
    let scene = Scene::start("qos2_unreleased_max = 10\nqos2_wait_seconds = 1");
    let mut client = Client::connect_v4(&scene.broker, "ahead");
    let mut subscriber = scene.subscriber("subscriber", "ahead");
    const MESSAGES: u16 = 500;
    let payload = "x".repeat(2000);
    for number in 1..=MESSAGES {
        client.send(&packet("34", &format!("s'ahead' m{number} '{payload}'")));
    }
    for number in 1..=10 {
        client.expect(&format!("50 02 m{number}"));
    }
    client.expect_nothing_until_pingresp();
    for number in 1..=MESSAGES {
        client.send(&bytes(&format!("62 02 m{number}")));
        client.expect(&format!("70 02 m{number}"));
        // There is room for one more.
        if number + 10 <= MESSAGES {
            client.expect(&format!("50 02 m{}", number + 10));
        }
    }
    for _ in 1..=MESSAGES {
        subscriber.expect_bytes(&packet("30", &format!("s'ahead' '{payload}'")));
    }
    // Without any PUBREL it is closed after the configured wait.
    for number in 1..=11 {
        client.send(&packet("34", &format!("s'ahead' m{number} 'x'")));
    }
    for number in 1..=10 {
        client.expect(&format!("50 02 m{number}"));
    }
    client.expect_nothing_until_pingresp();
    client.expect_close();
    scene.finish();
}

#[test]
fn r11_outbound_aliases_stay_within_our_own_maximum() {
    let scene = Scene::start("");
    let mut subscriber = Client::connect_v5(&scene.broker, "greedy", "22 H65535");
    subscriber.send(&packet("82", "m1 v0 s'alias/#' 00"));
    subscriber.expect("90 04 m1 v0 00");
    let mut publisher = Client::connect_v4(&scene.broker, "publisher");
    for number in 1..=100 {
        publisher.send(&packet("30", &format!("s'alias/{number}' 'x'")));
        let section = if number <= 10 {
            format!("v3 23 H{number}")
        } else {
            "v0".to_owned()
        };
        subscriber.expect_bytes(&packet("30", &format!("s'alias/{number}' {section} 'x'")));
    }
    scene.finish();
}

#[test]
fn r18_a_large_payload_is_held_once_however_many_get_it() {
    const SUBSCRIBERS: usize = 100;
    let scene = Scene::start("");
    let subscribers: Vec<Client> = (0..SUBSCRIBERS)
        .map(|number| scene.subscriber(&format!("many-{number}"), "large"))
        .collect();
    let before = scene.broker.resident_bytes();
    let publish = packet("30", &format!("s'large' '{}'", "x".repeat(1_900_000)));
    let mut publisher = Client::connect_v4(&scene.broker, "publisher");
    for _ in 0..3 {
        publisher.send(&publish);
    }
    publisher.expect_nothing_until_pingresp();
    let growth = scene.broker.resident_bytes().saturating_sub(before);
    assert!(
        growth < 40 << 20,
        "{growth} bytes for 3 payloads of 1.9 MB to 100 clients"
    );
    for mut subscriber in subscribers {
        subscriber.expect_bytes(&publish);
    }
    scene.finish();
}

#[test]
fn shards_that_wait_for_each_other_deliver_everything_in_order() {
    const PUBLISHERS: usize = 4;
    const MESSAGES: usize = 400;
    // Nothing else is to wake a shard that was forgotten; and QoS 0 is not to be dropped for a reader that is slower than its shard.
    let scene = Scene::start(
        "shards = 4\nmail_bytes_max = \"64 KiB\"\nsys_interval_seconds = 0\nsend_buffer_bytes_max = \"16 MiB\"",
    );
    let mut subscribers: Vec<Client> = (0..8)
        .map(|number| {
            let mut client = Client::connect_v4(&scene.broker, &format!("subscriber-{number}"));
            client.send(&packet("82", "m1 s'cross/+' 00"));
            client.expect("90 03 m1 00");
            client
        })
        .collect();
    let address = scene.broker.address();
    let payload = "x".repeat(4000);
    let readers: Vec<_> = subscribers
        .drain(..)
        .map(|mut client| {
            std::thread::spawn(move || {
                let mut next = [0_usize; PUBLISHERS];
                for _ in 0..PUBLISHERS * MESSAGES {
                    let packet = client.receive_packet();
                    let topic_end = 5 + "cross/0".len();
                    let publisher = usize::from(packet[topic_end - 1] - b'0');
                    let number = String::from_utf8_lossy(&packet[topic_end..topic_end + 4]);
                    assert_eq!(number.parse(), Ok(next[publisher]));
                    next[publisher] += 1;
                }
            })
        })
        .collect();
    let writers: Vec<_> = (0..PUBLISHERS)
        .map(|publisher| {
            let payload = payload.clone();
            std::thread::spawn(move || {
                let mut client = Client::open_at(address);
                client.send(&Connect::v4(format!("publisher-{publisher}")).bytes());
                client.expect("20 02 00 00");
                for number in 0..MESSAGES {
                    let body = format!("s'cross/{publisher}' m1 '{number:04}{payload}'");
                    client.send(&packet("32", &body));
                }
                client.expect_bytes(&bytes("40 02 m1").repeat(MESSAGES));
            })
        })
        .collect();
    for thread in writers.into_iter().chain(readers) {
        thread.join().unwrap();
    }
    scene.finish();
}
