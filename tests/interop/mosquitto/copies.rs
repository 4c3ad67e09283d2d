//! A copy for each of several subscriptions that match (`allow_duplicate_messages true`, `copy_per_subscription`).

use std::fs;

use harness::{Broker, Client, Connect, Mosquitto, TemporaryDirectory, packet, program};

use crate::options::play;

#[test]
fn each_matching_subscription_gets_its_copy_as_with_mosquitto() {
    let Some(mosquitto) = program("mosquitto") else {
        return;
    };
    let steps = [(
        packet("82", "m1 s'a/b' 00 s'a/+' 01 s'a/#' 02 s'b' 02"),
        [
            packet("30", "s'a/b' '0'"),
            packet("32", "s'a/b' m1 '1'"),
            packet("34", "s'a/b' m2 '2'"),
            packet("62", "m2"),
            packet("32", "s'a/c' m3 'two match'"),
            packet("32", "s'b' m4 'one matches'"),
        ]
        .concat(),
    )];
    let directory = TemporaryDirectory::new("copies");
    fs::create_dir(directory.path()).unwrap();
    for (value, copies) in [("true", 3 + 3 + 3 + 2 + 1), ("false", 5)] {
        let lines = format!("allow_anonymous true\nallow_duplicate_messages {value}\n");
        let text = format!("user root\nlistener {{port}} 127.0.0.1\n{lines}");
        let reference = Mosquitto::start(&mosquitto, directory.path(), &lines);
        let expected = play(reference.address, &steps, None);
        let broker = Broker::options().mosquitto_conf(&text).start();
        let ours = play(broker.address(), &steps, Some(&expected));
        assert_eq!(
            publishes(&ours).len(),
            copies,
            "{value}: {}",
            publishes(&ours).join(", ")
        );
        // Which of them comes first is nobody's promise. Where one copy goes out, ours has the highest QoS [v3 MQTT-3.3.5-1].
        if value == "true" {
            assert_eq!(publishes(&ours), publishes(&expected));
        }
    }
}

/// QoS, topic and payload of each PUBLISH, sorted.
fn publishes(heard: &[Vec<Vec<u8>>]) -> Vec<String> {
    let mut all: Vec<String> = heard
        .concat()
        .iter()
        .filter(|packet| packet[0] & 0xf0 == 0x30)
        .map(|packet| {
            let (qos, topic_end) = ((packet[0] >> 1) & 3, 4 + usize::from(packet[3]));
            let topic = String::from_utf8_lossy(&packet[4..topic_end]);
            let payload = &packet[topic_end + if qos > 0 { 2 } else { 0 }..];
            format!("{qos} {topic} {}", String::from_utf8_lossy(payload))
        })
        .collect();
    all.sort();
    all
}

/// On both shards, with the publisher on one of them: what was acknowledged was owned, every copy of it.
#[test]
fn copies_for_clients_that_are_away_are_acknowledged_when_they_survive_a_kill() {
    let directory = TemporaryDirectory::new("kept-copies");
    let data = directory.text().to_owned();
    let start = || {
        Broker::options()
            .argument("--data")
            .argument(&data)
            .toml("allow_anonymous = true\nshards = 2\ncopy_per_subscription = true\n[[listeners]]\naddress = \"127.0.0.1:{port}\"\n")
            .start()
    };
    let come = |broker: &Broker, client_id: &str| {
        let connect = Connect::v5(client_id).clean(false).properties("11 L3600");
        Client::connect(broker, &connect)
    };
    let ids: Vec<String> = (0..6).map(|number| format!("away-{number}")).collect();
    let mut broker = start();
    for id in &ids {
        let mut client = come(&broker, id);
        for (identifier, filter) in [(1, "s't/a' 01"), (2, "s't/+' 02"), (3, "s't/#' 00")] {
            client.send(&packet(
                "82",
                &format!("m{identifier} 02 0b v{identifier} {filter}"),
            ));
            assert_eq!(client.receive_packet()[0], 0x90);
        }
        client.disconnect();
    }
    let mut publisher = Client::connect_v5(&broker, "publisher", "");
    publisher.send(&packet("32", "s't/a' m1 00 'x'"));
    publisher.expect("40 02 00 01");
    publisher.send(&packet("34", "s't/a' m2 00 'y'"));
    publisher.expect("50 02 00 02");
    broker.kill();

    let broker = start();
    let mut publisher = Client::connect_v5(&broker, "publisher", "");
    for id in &ids {
        let mut client = come(&broker, id);
        assert!(client.session_present(), "{id}");
        assert_eq!(
            copies(&mut client, 4),
            ["x of 1 at 1", "x of 2 at 1", "y of 1 at 1", "y of 2 at 2"],
            "{id}"
        );
        publisher.send(&packet("30", "s't/a' 00 'z'"));
        let all = ["z of 1 at 0", "z of 2 at 0", "z of 3 at 0"];
        assert_eq!(copies(&mut client, 3), all, "{id}");
        client.expect_nothing_until_pingresp();
        client.disconnect();
    }
}

/// Payload, Subscription Identifier and QoS of the next PUBLISH packets, sorted.
fn copies(client: &mut Client, count: usize) -> Vec<String> {
    let mut copies: Vec<String> = (0..count)
        .map(|_| {
            let packet = client.receive_packet();
            let qos = (packet[0] >> 1) & 3;
            let rest = &packet[4 + usize::from(packet[3]) + if qos > 0 { 2 } else { 0 }..];
            let [2, 0x0b, identifier, payload @ ..] = rest else {
                panic!("not one Subscription Identifier: {packet:x?}");
            };
            let payload = String::from_utf8_lossy(payload);
            format!("{payload} of {identifier} at {qos}")
        })
        .collect();
    copies.sort();
    copies
}
