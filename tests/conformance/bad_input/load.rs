//! W19 to W21: many broken packets, whole packets cut or glued, and panics.

use std::io::Write;

use harness::{Broker, Client, Connect, bytes, hex, packet, properties};

use crate::*;

#[test]
fn w19_rejected_packets_leave_no_memory_behind() {
    let rejected: usize = std::env::var("NIGHTJAR_TEST_REJECTED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(20_000);
    const GROWTH_MAX: u64 = 1 << 20;
    let long = "x".repeat(2000);
    // Each is refused after something in it was worth keeping.
    let before_connect = [
        packet(
            "10",
            &format!("s'MQTT' 05 06 k60 v0 s'{long}' v5 18 L5 s'will' H9999 'x'"),
        ),
        packet(
            "10",
            &format!(
                "s'MQTT' 05 06 k60 v0 s'id' {} s'w/#' s'{long}'",
                hex(&properties("18 L5 26 s'k' s'v'"))
            ),
        ),
        packet(
            "10",
            &format!("s'MQTT' 05 82 k60 v7 26 s'k' s'v' s'{long}' s3 ff ff ff"),
        ),
        packet("10", &format!("s'MQTT' 04 c2 k60 s'id' s'{long}'")),
        packet(
            "10",
            &format!(
                "s'MQTT' 05 02 k60 {} s'id'",
                hex(&properties("15 s'none' 16 s'data'"))
            ),
        ),
    ];
    let after_connect = [
        packet(
            "82",
            &format!("m1 v2 0b 05 s'{long}/+' 01 s'b/#' 02 s'c' 03"),
        ),
        packet(
            "82",
            &format!("m1 v0 s'$share/g/{long}' 01 s'$share/g/b' 05"),
        ),
        packet("a2", &format!("m1 v0 s'{long}' s'b' s0")),
        packet("33", &format!("s'{long}' m1 v4 01 01 01 01 'payload'")),
        packet("34", &format!("s'{long}' m1 v3 23 H0 'payload'")),
        packet("35", &format!("s't/#' m1 v0 '{long}'")),
        packet("e0", &format!("00 {}", hex(&properties("11 L10 11 L10")))),
        packet("10", &format!("s'MQTT' 05 02 k60 v0 s'{long}'")),
    ];
    let mut scene = Scene::start_quiet();
    let will = Connect::v5("rejected")
        .properties("11 L1")
        .will("will/delayed", "w", 1, false)
        .will_properties("18 L3600");
    let reject = |scene: &Scene, count: usize| {
        for index in 0..count {
            let kinds = before_connect.len() + after_connect.len();
            let kind = index % kinds;
            let mut client = match kind.checked_sub(before_connect.len()) {
                None => {
                    let mut client = Client::open(&scene.broker);
                    client.send(&before_connect[kind]);
                    client
                }
                Some(kind) if index % 2 == 0 => {
                    let mut client = Client::connect_v5(&scene.broker, "rejected", "");
                    client.send(&after_connect[kind]);
                    client
                }
                Some(kind) => {
                    let mut client = Client::connect(&scene.broker, &will);
                    client.send(&after_connect[kind]);
                    client
                }
            };
            client.receive_to_close();
        }
    };
    reject(&scene, rejected / 4);
    let before = scene.broker.resident_bytes();
    reject(&scene, rejected - rejected / 4);
    let growth = scene.broker.resident_bytes().saturating_sub(before);
    println!(
        "{growth} bytes of resident memory after {} more rejected packets",
        rejected - rejected / 4
    );
    if growth > GROWTH_MAX {
        scene.failures.push(format!(
            "{growth} bytes of resident memory after {rejected} rejected packets"
        ));
    }
    scene.finish();
}

#[test]
fn w20_packets_cut_anywhere_or_glued_together_mean_the_same() {
    let scene = Scene::start_quiet();
    let mut canary = Client::connect_v4(&scene.broker, "canary-of-cuts");
    for (version, script, expected) in [(4, SCRIPT_V4, EXPECTED_V4), (5, SCRIPT_V5, EXPECTED_V5)] {
        let script: Vec<u8> = script
            .iter()
            .flat_map(|(first_byte, body)| packet(first_byte, body))
            .collect();
        let mut expected: Vec<Vec<u8>> = expected
            .iter()
            .map(|(first_byte, body)| packet(first_byte, body))
            .collect();
        expected.sort();
        for cut in 0..script.len() {
            let mut client = Client::open(&scene.broker);
            let (before, after) = script.split_at(cut);
            client.send(before);
            // The broker answers after the cut has reached it.
            canary.expect_nothing_until_pingresp();
            client.send(after);
            check_transcript(client, &expected, &format!("{version}, cut at {cut}"));
        }
        let client = Client::open(&scene.broker);
        for byte in &script {
            client.stream().write_all(&[*byte]).unwrap();
            canary.expect_nothing_until_pingresp();
        }
        check_transcript(client, &expected, &format!("{version}, byte by byte"));
        let mut client = Client::open(&scene.broker);
        client.send(&script);
        check_transcript(client, &expected, &format!("{version}, whole"));
    }
    scene.finish();
}

#[test]
fn w20_ten_thousand_packets_in_one_segment_are_all_answered() {
    const PACKETS: usize = 10_000;
    let scene = Scene::start_quiet();
    let mut client = Client::connect_v4(&scene.broker, "glued");
    client.send(&bytes("c0 00").repeat(PACKETS));
    client.expect_bytes(&bytes("d0 00").repeat(PACKETS));
    client.send(&packet("82", "m1 s'glued' 00"));
    client.expect("90 03 00 01 00");
    let publish = packet("30", "s'glued' 'x'");
    client.send(&publish.repeat(PACKETS));
    client.expect_bytes(&publish.repeat(PACKETS));
    client.send(&packet("32", "s'elsewhere' m7 'x'").repeat(PACKETS));
    client.expect_bytes(&bytes("40 02 m7").repeat(PACKETS));
    scene.finish();
}

#[test]
fn w21_a_panic_ends_one_connection_and_no_other() {
    let options = Broker::options().environment("NIGHTJAR_TEST_PANIC_TOPIC", "panic/now");
    let mut scene = Scene::start_with(options, "#");
    for round in 0..20 {
        for connect in [Connect::v4("doomed"), Connect::v5("doomed")] {
            let properties = if connect.is_v5() { "v0" } else { "" };
            let mut client = Client::connect(&scene.broker, &connect);
            client.send(&packet("32", &format!("s'panic/now' m1 {properties} 'x'")));
            // No acknowledgement of a message that no one owns.
            if !matches!(
                client.try_receive_to_close().as_deref(),
                Ok([] | [0xe0, ..])
            ) {
                scene.failures.push(format!(
                    "round {round}: the connection that panicked was not closed"
                ));
            }
            scene.echo();
        }
    }
    assert!(scene.broker.is_alive(), "the process ended");
    // Without it the broker lacks the hook.
    scene.broker.wait_for_log("panic");
    scene.report();
}

/// D18: what others depend on may be half changed, so nothing more is acknowledged and the supervisor starts again.
#[test]
fn w21_a_panic_where_others_depend_on_it_ends_the_process() {
    // A will is published while its session is taken apart: by DISCONNECT, by the close of the socket, by a timer.
    for (name, delay, last) in [
        ("DISCONNECT with will", 0, "e0 01 04"),
        ("close", 0, ""),
        ("will delay", 1, "e0 01 04"),
    ] {
        let options = Broker::options().environment("NIGHTJAR_TEST_PANIC_TOPIC", "panic/now");
        let mut broker = options.start();
        let connect = Connect::v5("doomed").properties("11 L60");
        let connect = connect.will("panic/now", "x", 1, false);
        let connect = connect.will_properties(&format!("18 L{delay}"));
        let mut client = Client::connect(&broker, &connect);
        client.send(&bytes(last));
        if last.is_empty() {
            drop(client);
        }
        let status = broker.wait_for_exit();
        assert_eq!(status.code(), Some(101), "{name}:\n{}", broker.log());
        assert!(broker.log().contains("stopping"), "{name}");
    }
}

/// A QoS 2 PUBLISH that nobody took is no repeat when it comes again.
#[test]
fn w21_a_message_lost_in_a_panic_is_taken_when_it_is_sent_again() {
    let options = Broker::options().environment("NIGHTJAR_TEST_PANIC_TOPIC", "panic/now");
    let broker = options.start();
    let connect = Connect::v5("twice").clean(false).properties("11 L60");
    let mut client = Client::connect(&broker, &connect);
    client.send(&packet("34", "s'panic/now' m1 v0 'x'"));
    client.receive_to_close();
    let mut client = Client::connect(&broker, &connect);
    assert!(client.session_present());
    client.send(&packet("82", "m9 v0 s'taken' 00"));
    client.expect("90 04 m9 v0 00");
    client.send(&packet("3c", "s'taken' m1 v0 'x'"));
    client.expect("50 02 m1");
    client.expect_bytes(&packet("30", "s'taken' v0 'x'"));
}

/// What a client sends from CONNECT to DISCONNECT. Subscriptions at QoS 0: no answer of ours is needed.
const SCRIPT_V4: &[(&str, &str)] = &[
    ("10", "s'MQTT' 04 c6 k60 s'cut' s'wt' s'wp' s'us' s'pw'"),
    ("82", "m1 s'cut/+' 00 s'$share/g/cut/shared/x' 00"),
    ("30", "s'cut/a' 'zero'"),
    ("32", "s'cut/b' m2 'one'"),
    ("34", "s'cut/c' m3 'two'"),
    ("62", "m3"),
    ("30", "s'cut/shared/x' 'shared'"),
    ("a2", "m4 s'cut/+'"),
    ("30", "s'cut/a' 'unheard'"),
    ("c0", ""),
    ("e0", ""),
];
const EXPECTED_V4: &[(&str, &str)] = &[
    ("20", "00 00"),
    ("90", "m1 00 00"),
    ("30", "s'cut/a' 'zero'"),
    ("30", "s'cut/b' 'one'"),
    ("30", "s'cut/c' 'two'"),
    ("30", "s'cut/shared/x' 'shared'"),
    ("40", "m2"),
    ("50", "m3"),
    ("70", "m3"),
    ("b0", "m4"),
    ("d0", ""),
];
const SCRIPT_V5: &[(&str, &str)] = &[
    (
        "10",
        "s'MQTT' 05 c6 k60 v13 11 L0 26 s'pk' s'v' s'cut' v5 18 L5 s'wt' s'wp' s'us' s'pw'",
    ),
    ("82", "m1 v0 s'cut/+' 00"),
    ("82", "m5 v3 0b 8101 s'other/+' 2e"),
    ("30", "s'cut/a' v3 23 H1 'zero'"),
    ("30", "s0 v3 23 H1 'alias'"),
    ("32", "s'cut/b' m2 v12 03 s'ct' 26 s'p' s'q' 'one'"),
    ("34", "s'cut/c' m3 v0 'two'"),
    ("62", "m3 00 v0"),
    ("a2", "m4 v0 s'cut/+' s'none'"),
    ("c0", ""),
    ("e0", "00 v5 11 L0"),
];
const EXPECTED_V5: &[(&str, &str)] = &[
    ("20", "00 00 0b 22 00 0a 27 00 1e 84 80 21 00 14"),
    ("90", "m1 v0 00"),
    ("90", "m5 v0 02"),
    ("30", "s'cut/a' v0 'zero'"),
    ("30", "s'cut/a' v0 'alias'"),
    ("30", "s'cut/b' v12 03 s'ct' 26 s'p' s'q' 'one'"),
    ("30", "s'cut/c' v0 'two'"),
    ("40", "m2"),
    ("50", "m3"),
    ("70", "m3"),
    ("b0", "m4 v0 00 11"),
    ("d0", ""),
];

/// The packets received until the close, whatever their order: answers and deliveries may interleave as they like.
#[track_caller]
fn check_transcript(mut client: Client, expected: &[Vec<u8>], what: &str) {
    let mut received = Vec::new();
    while let Ok(packet) = client.try_receive_packet() {
        received.push(packet);
    }
    received.sort();
    let [expected, received] = [expected, &received]
        .map(|packets| packets.iter().map(|packet| hex(packet)).collect::<Vec<_>>());
    assert_eq!(received, expected, "{what}");
}
