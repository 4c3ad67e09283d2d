//! Bad input: whatever a peer sends, its own connection ends as the standard says, nothing is allocated because of a claim, and no
//! other client notices.
//!
//! Comes in: packets that must not be sent, before CONNECT, after a 3.1.1 and after a 5.0 CONNECT, in raw bytes. Goes out: the exact
//! answer (nothing before the close, or the reason code in a DISCONNECT or CONNACK). Every test ends with the same questions: does the
//! process live, do other clients still echo within a second, did nothing reach a subscriber to `#`, is there no panic in the log.
//! Where a byte-exact exchange and the standard's letter differ, the exchange decides the code.
//!
//! Environment: `NIGHTJAR_TEST_REJECTED` is the number of rejected packets in the leak test (default 20,000).

use std::io::Write;
use std::time::Duration;

use harness::{
    Broker, Client, Connect, Options, bytes, hex, packet, properties, raise_file_limit,
    text_with_length,
};

// Answers: what may stand before the close.
const SILENT: &str = "";
const MALFORMED: &str = "e0 01 81";
const PROTOCOL_ERROR: &str = "e0 01 82";
const CONNACK_MALFORMED: &str = "20 03 00 81 00";
const CONNACK_PROTOCOL_ERROR: &str = "20 03 00 82 00";
const CONNACK_CLIENT_ID: &str = "20 03 00 85 00";

#[test]
fn w1_a_claimed_length_above_the_limit_closes_at_once() {
    let mut scene = Scene::start();
    // Before CONNECT the first byte tells, or the claim itself.
    for words in [
        "10 ff ff ff 7f",
        "10 r100000",
        "80",
        "30",
        "82",
        "c0",
        "00",
        "80 ff ff ff 7f",
        "30 ff ff ff 7f",
    ] {
        scene.first(words, &bytes(words), &[SILENT]);
    }
    for words in [
        "30 ff ff ff 7f",
        "32 r2000001",
        "82 ff ff ff 7f",
        "a2 ff ff ff 7f",
    ] {
        scene.v4(words, &bytes(words), &[SILENT]);
        scene.v5(words, &bytes(words), &["e0 01 95"]);
    }
    scene.finish();
}

#[test]
fn w1_nothing_is_allocated_because_of_a_claimed_length() {
    const SOCKETS: usize = 1000;
    const RESIDENT_BYTES_MAX: u64 = 10 * 1024;
    raise_file_limit();
    let mut failures = Vec::new();
    // Refused at once; a CONNECT below the bound before CONNECT; a PUBLISH and a SUBSCRIBE below the bound after it.
    for (connected, claim) in [
        (false, "10 ff ff ff 7f"),
        (false, "80 ff ff ff 7f"),
        (false, "30 ff ff ff 7f"),
        (false, "10 r65000 s'MQTT' 04 02 k60 s64000"),
        (true, "30 r1999000 s'a/b'"),
        (true, "82 r1999000 m1 s'a/b' 00"),
    ] {
        // A process of its own for each: freed memory would hide what the next one takes.
        let mut scene = Scene::start();
        scene.echo();
        let before = scene.broker.resident_bytes();
        let mut held = Vec::with_capacity(SOCKETS);
        for _ in 0..SOCKETS {
            let mut client = if connected {
                scene.connected_v4()
            } else {
                Client::open(&scene.broker)
            };
            client.send(&bytes(claim));
            held.push(client);
        }
        scene.echo();
        let growth = scene.broker.resident_bytes().saturating_sub(before) / SOCKETS as u64;
        println!("{claim}: {growth} bytes a socket");
        if growth > RESIDENT_BYTES_MAX {
            failures.push(format!(
                "{claim}: {growth} bytes of resident memory a socket"
            ));
        }
        scene.finish();
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn w2_a_variable_byte_integer_of_five_bytes_is_malformed() {
    let mut scene = Scene::start();
    scene.first("Remaining Length", &bytes("10 80 80 80 80 01"), &[SILENT]);
    scene.first(
        "Remaining Length, fifth byte not yet sent",
        &bytes("10 ff ff ff ff"),
        &[SILENT],
    );
    for first_byte in [
        "30", "32", "40", "50", "62", "70", "82", "a2", "c0", "e0", "f0",
    ] {
        for length in ["80 80 80 80 01", "ff ff ff ff"] {
            let sent = bytes(&format!("{first_byte} {length}"));
            scene.first(first_byte, &sent, &[SILENT]);
            scene.v4(first_byte, &sent, &[SILENT]);
            scene.v5(first_byte, &sent, &[SILENT]);
        }
    }
    inner_variable_byte_integer(&mut scene, "80 80 80 80 01");
    scene.finish();
}

#[test]
fn w3_a_variable_byte_integer_longer_than_needed_is_malformed() {
    let mut scene = Scene::start();
    for words in ["c0 80 00", "e0 80 00", "40 82 00 m1", "30 85 80 00 s'abc'"] {
        scene.first(words, &bytes(words), &[SILENT]);
        scene.v4(words, &bytes(words), &[SILENT]);
        scene.v5(words, &bytes(words), &[SILENT, MALFORMED]);
    }
    scene.first(
        "CONNECT",
        &bytes("10 8d 00 s'MQTT' 04 02 k60 s'a'"),
        &[SILENT],
    );
    inner_variable_byte_integer(&mut scene, "80 00");
    scene.finish();
}

/// `length`, which is malformed, as Property Length of each packet and as Subscription Identifier.
fn inner_variable_byte_integer(scene: &mut Scene, length: &str) {
    let connect = packet("10", &format!("s'MQTT' 05 02 k60 {length} s'a'"));
    scene.first("Property Length of CONNECT", &connect, &[CONNACK_MALFORMED]);
    let will = packet(
        "10",
        &format!("s'MQTT' 05 06 k60 v0 s'a' {length} s't' s'p'"),
    );
    scene.first("Property Length of the will", &will, &[CONNACK_MALFORMED]);
    for (first_byte, body) in [
        ("30", "s't' LENGTH 'payload'"),
        ("32", "s't' m1 LENGTH 'payload'"),
        ("40", "m1 00 LENGTH"),
        ("50", "m1 00 LENGTH"),
        ("62", "m1 00 LENGTH"),
        ("70", "m1 00 LENGTH"),
        ("82", "m1 LENGTH s't' 00"),
        ("a2", "m1 LENGTH s't'"),
        ("e0", "00 LENGTH"),
    ] {
        scene.v5(
            body,
            &packet(first_byte, &body.replace("LENGTH", length)),
            &[MALFORMED],
        );
    }
    let identifier = hex(&properties(&format!("0b {length}")));
    scene.v5(
        "Subscription Identifier",
        &packet("82", &format!("m1 {identifier} s't' 00")),
        &[MALFORMED],
    );
}

#[test]
fn w4_a_packet_that_ends_before_a_required_field_is_malformed() {
    let mut scene = Scene::start();
    scene.v5(
        "SUBSCRIBE without options",
        &bytes("82 08 00 01 00 00 03 61 2f 62"),
        &[MALFORMED],
    );
    scene.v5(
        "PUBLISH QoS 1 without packet id",
        &bytes("32 05 00 03 61 2f 62"),
        &[MALFORMED],
    );
    let connect_v4 = "s'MQTT' 04 c6 k60 s'id' s'wt' s'wp' s'us' s'pw'";
    let connect_v5 = "s'MQTT' 05 c6 k60 v5 11 L60 s'id' v5 18 L5 s'wt' s'wp' s'us' s'pw'";
    for sent in shortened("10", connect_v4, &[]) {
        scene.first("a shortened CONNECT of 3.1.1", &sent, &[SILENT]);
    }
    for sent in shortened("10", connect_v5, &[]) {
        scene.first(
            "a shortened CONNECT of 5.0",
            &sent,
            &[SILENT, CONNACK_MALFORMED],
        );
    }
    // The lengths at which a shorter body is a packet of its own.
    for (first_byte, body, valid) in [
        ("30", "s'a/b'", &[][..]),
        ("32", "s'a/b' m1", &[]),
        ("34", "s'a/b' m1", &[]),
        ("40", "m1", &[]),
        ("50", "m1", &[]),
        ("62", "m1", &[]),
        ("70", "m1", &[]),
        ("82", "m1 s'a/b' 01", &[]),
        ("a2", "m1 s'a/b'", &[]),
    ] {
        for sent in shortened(first_byte, body, valid) {
            scene.v4(body, &sent, &[SILENT]);
        }
    }
    for (first_byte, body, valid) in [
        ("30", "s'a/b' v7 26 s'p' s'q'", &[][..]),
        ("32", "s'a/b' m1 v7 26 s'p' s'q'", &[]),
        ("34", "s'a/b' m1 v5 02 L100", &[]),
        ("40", "m1 00 v7 26 s'p' s'q'", &[2, 3]),
        ("50", "m1 00 v7 26 s'p' s'q'", &[2, 3]),
        ("62", "m1 00 v7 26 s'p' s'q'", &[2, 3]),
        ("70", "m1 00 v7 26 s'p' s'q'", &[2, 3]),
        ("82", "m1 v2 0b 01 s'a/b' 01", &[]),
        ("a2", "m1 v7 26 s'p' s'q' s'a/b'", &[]),
        ("e0", "00 v5 11 L10", &[0, 1]),
    ] {
        for sent in shortened(first_byte, body, valid) {
            scene.v5(body, &sent, &[MALFORMED]);
        }
    }
    scene.finish();
}

/// `body` cut at every length but those of `valid`, each with the Remaining Length that it then has.
fn shortened(first_byte: &str, body: &str, valid: &[usize]) -> Vec<Vec<u8>> {
    let body = bytes(body);
    let lengths = (0..body.len()).filter(|length| !valid.contains(length));
    lengths
        .map(|length| packet(first_byte, &hex(&body[..length])))
        .collect()
}

#[test]
fn w5_a_length_inside_that_does_not_fit_the_packet_is_malformed() {
    let mut scene = Scene::start();
    let connect_v4 = "[4]'MQTT' 04 c6 k60 [2]'id' [2]'wt' [2]'wp' [2]'us' [2]'pw'";
    let connect_v5 =
        "[4]'MQTT' 05 c6 k60 v5 11 L60 [2]'id' v5 18 L5 [2]'wt' [2]'wp' [2]'us' [2]'pw'";
    let connect_v5_strings = "s'MQTT' 05 02 k60 v9 26 [2]'pk' [2]'pv' s'id'";
    for sent in with_wrong_lengths("10", connect_v4) {
        scene.first("a wrong length in a CONNECT of 3.1.1", &sent, &[SILENT]);
    }
    for sent in with_wrong_lengths("10", connect_v5)
        .into_iter()
        .chain(with_wrong_lengths("10", connect_v5_strings))
    {
        // A client id that swallows what follows it holds a control character.
        let answers = [SILENT, CONNACK_MALFORMED, CONNACK_CLIENT_ID];
        scene.first("a wrong length in a CONNECT of 5.0", &sent, &answers);
    }
    for length in ["00", "06", "04", "ff 7f", "ff ff ff 7f"] {
        let connect = packet("10", &format!("s'MQTT' 05 02 k60 {length} 11 L60 s'id'"));
        scene.first(
            "a wrong Property Length of CONNECT",
            &connect,
            &[CONNACK_MALFORMED],
        );
        for (first_byte, body) in [
            ("32", "s'a/b' m1 LENGTH 02 L60"),
            ("82", "m1 LENGTH 0b 80808001 s'a/b' 01"),
            ("40", "m1 00 LENGTH 1f s'rs'"),
            ("e0", "00 LENGTH 11 L60"),
        ] {
            // With a length of 0 what follows is the payload of a PUBLISH.
            if (first_byte, length) != ("32", "00") {
                scene.v5(
                    body,
                    &packet(first_byte, &body.replace("LENGTH", length)),
                    &[MALFORMED],
                );
            }
        }
    }
    for (first_byte, body) in [
        ("30", "[3]'a/b'"),
        ("82", "m1 [3]'a/b' 01"),
        ("a2", "m1 [3]'a/b'"),
    ] {
        for sent in with_wrong_lengths(first_byte, body) {
            scene.v4(body, &sent, &[SILENT]);
        }
    }
    for (first_byte, body) in [
        ("82", "m1 v0 [3]'a/b' 01"),
        ("a2", "m1 v0 [3]'a/b'"),
        ("32", "s'a/b' m1 v9 26 [2]'pk' [2]'pv'"),
        ("32", "s'a/b' m1 v5 03 [2]'ct'"),
        ("32", "s'a/b' m1 v5 09 [2]'cd'"),
        ("e0", "00 v5 1f [2]'rs'"),
    ] {
        for sent in with_wrong_lengths(first_byte, body) {
            scene.v5(body, &sent, &[MALFORMED]);
        }
    }
    for sent in with_wrong_lengths("32", "s'a/b' m1 v5 08 [2]'rt'") {
        // Of length 0 it is an empty response topic with a stray byte behind it: either may be seen first.
        scene.v5(
            "a wrong length of the response topic",
            &sent,
            &[MALFORMED, PROTOCOL_ERROR],
        );
    }
    scene.finish();
}

/// Each `[n]` of the template in turn becomes n + 1, 65,535 and 0; the others stay n.
fn with_wrong_lengths(first_byte: &str, template: &str) -> Vec<Vec<u8>> {
    let parts: Vec<&str> = template.split(['[', ']']).collect();
    let mut out = Vec::new();
    for wrong in (1..parts.len()).step_by(2) {
        for value in [parts[wrong].parse::<u16>().unwrap() + 1, u16::MAX, 0] {
            let words = parts.iter().enumerate().map(|(index, part)| match index {
                _ if index == wrong => format!("H{value} "),
                _ if index % 2 == 1 => format!("H{part} "),
                _ => (*part).to_owned(),
            });
            out.push(packet(first_byte, &words.collect::<String>()));
        }
    }
    out
}

#[test]
fn w6_reserved_flag_bits_close() {
    let mut scene = Scene::start();
    scene.first(
        "1f",
        &bytes("1f0f00044d5154540402000a0003636964"),
        &[SILENT],
    );
    for flags in 1..16 {
        let mut connect = Connect::v4("flags").bytes();
        connect[0] |= flags;
        scene.first("CONNECT of 3.1.1 with flags", &connect, &[SILENT]);
        let mut connect = Connect::v5("flags").bytes();
        connect[0] |= flags;
        scene.first(
            "CONNECT of 5.0 with flags",
            &connect,
            &[SILENT, CONNACK_MALFORMED],
        );
    }
    // Type, right flags, a body of 3.1.1 and of 5.0, the answer in 5.0.
    for (packet_type, right, v4, v5, answer) in [
        (0x00, None, "", "", PROTOCOL_ERROR),
        (0x20, None, "00 00", "00 00 00", PROTOCOL_ERROR),
        (0x40, Some(0), "m1", "m1", MALFORMED),
        (0x50, Some(0), "m1", "m1", MALFORMED),
        (0x60, Some(2), "m1", "m1", PROTOCOL_ERROR),
        (0x70, Some(0), "m1", "m1", MALFORMED),
        (0x80, Some(2), "m1 s'p' 00", "m1 v0 s'p' 00", MALFORMED),
        (0x90, Some(0), "m1 00", "m1 v0 00", MALFORMED),
        (0xa0, Some(2), "m1 s'p'", "m1 v0 s'p'", MALFORMED),
        (0xb0, Some(0), "m1", "m1 v0 00", MALFORMED),
        (0xc0, Some(0), "", "", MALFORMED),
        (0xd0, Some(0), "", "", MALFORMED),
        (0xe0, Some(0), "", "", PROTOCOL_ERROR),
        (0xf0, None, "", "", PROTOCOL_ERROR),
    ] {
        for flags in (0..16).filter(|flags| right != Some(*flags)) {
            let first_byte = hex(&[packet_type | flags]);
            scene.first(&first_byte, &packet(&first_byte, v4), &[SILENT]);
            scene.v4(&first_byte, &packet(&first_byte, v4), &[SILENT]);
            scene.v5(&first_byte, &packet(&first_byte, v5), &[answer]);
        }
    }
    // PUBLISH: QoS 3, and DUP with QoS 0.
    for first_byte in ["36", "37", "3e", "3f", "38", "39"] {
        scene.v4(
            first_byte,
            &packet(first_byte, "s't' m1 'payload'"),
            &[SILENT],
        );
        scene.v5(
            first_byte,
            &packet(first_byte, "s't' m1 v0 'payload'"),
            &[MALFORMED],
        );
    }
    scene.finish();
}

#[test]
fn w7_packets_that_only_a_server_sends_close() {
    let mut scene = Scene::start();
    for words in [
        "20 02 00 00",
        "90 03 00 01 00",
        "b0 02 00 01",
        "d0 00",
        "00 00",
        "f0 00",
    ] {
        scene.first(words, &bytes(words), &[SILENT]);
        scene.v4(words, &bytes(words), &[SILENT]);
    }
    for words in [
        "20 03 00 00 00",
        "90 04 00 01 00 00",
        "b0 04 00 01 00 00",
        "d0 00",
        "00 00",
    ] {
        scene.first(words, &bytes(words), &[SILENT]);
        scene.v5(words, &bytes(words), &[PROTOCOL_ERROR]);
    }
    // AUTH is refused on a connection that began without an authentication method.
    for words in [
        "f0 00",
        "f0 02 00 00",
        "f0 02 18 00",
        "f0 06 18 04 15 s'x'",
        "f0 06 19 04 15 s'x'",
    ] {
        scene.first(words, &bytes(words), &[SILENT]);
        scene.v5(words, &bytes(words), &[PROTOCOL_ERROR]);
    }
    scene.finish();
}

#[test]
fn w8_a_first_packet_that_is_not_connect_closes_and_nothing_is_sent() {
    let mut scene = Scene::start();
    for (first_byte, v4, v5) in [
        ("30", "s'canary/x' 'p'", "s'canary/x' v0 'p'"),
        ("31", "s'canary/x' 'p'", "s'canary/x' v0 'p'"),
        ("32", "s'canary/x' m1 'p'", "s'canary/x' m1 v0 'p'"),
        ("40", "m1", "m1"),
        ("50", "m1", "m1"),
        ("62", "m1", "m1 00"),
        ("70", "m1", "m1"),
        ("82", "m1 s'#' 00", "m1 v0 s'#' 00"),
        ("a2", "m1 s'#'", "m1 v0 s'#'"),
        ("c0", "", ""),
        ("e0", "", "00"),
        ("f0", "", "18 v4 15 s'x'"),
    ] {
        scene.first(first_byte, &packet(first_byte, v4), &[SILENT]);
        scene.first(first_byte, &packet(first_byte, v5), &[SILENT]);
        // A CONNECT behind it in the same segment changes nothing.
        let both = [packet(first_byte, v4), Connect::v4("late").bytes()].concat();
        scene.first("followed by CONNECT", &both, &[SILENT]);
    }
    scene.finish();
}

#[test]
fn w9_a_second_connect_closes_and_publishes_the_will() {
    let mut scene = Scene::start();
    for (connect, answer) in [
        (Connect::v4("twice"), SILENT),
        (Connect::v5("twice"), PROTOCOL_ERROR),
    ] {
        let connect = connect.will("will/of/twice", "gone", 0, false);
        let mut client = Client::connect(&scene.broker, &connect);
        client.send(&connect.bytes());
        scene.check_close("a second CONNECT", client, &connect.bytes(), &[answer]);
        scene
            .watcher
            .expect_bytes(&packet("30", "s'will/of/twice' 'gone'"));
        scene.v4(
            "a second CONNECT of the other version",
            &Connect::v5("other").bytes(),
            &[SILENT],
        );
        scene.v5(
            "a second CONNECT of the other version",
            &Connect::v4("other").bytes(),
            &[PROTOCOL_ERROR],
        );
    }
    let (v4, v5) = (Connect::v4("a").bytes(), Connect::v5("a").bytes());
    scene.first(
        "twice in one segment, 3.1.1",
        &v4.repeat(2),
        &["20 02 00 00"],
    );
    let connack = "20 0e 00 00 0b 22 00 0a 27 00 1e 84 80 21 00 14 e0 01 82";
    scene.first("twice in one segment, 5.0", &v5.repeat(2), &[connack]);
    scene.finish();
}

#[test]
fn w10_connect_flags_that_do_not_match_the_payload_close() {
    let mut scene = Scene::start();
    for (what, flags, rest) in [
        ("reserved bit", "01", "s'id'"),
        ("reserved bit with clean session", "03", "s'id'"),
        ("will QoS without will", "0a", "s'id'"),
        ("will QoS 2 without will", "12", "s'id'"),
        ("will QoS 3 without will", "1a", "s'id'"),
        ("will QoS 3 without will, not clean", "18", "s'id'"),
        ("will retain without will", "22", "s'id'"),
        ("will retain without will, not clean", "20", "s'id'"),
        ("will QoS 3", "1e", "s'id' s'wt' s'wp'"),
        ("user name flag without user name", "82", "s'id'"),
        ("both flags without either", "c2", "s'id'"),
        ("both flags without password", "c2", "s'id' s'us'"),
        ("user name without flag", "02", "s'id' s'us'"),
        ("password without flag", "82", "s'id' s'us' s'pw'"),
        ("bytes after the payload", "02", "s'id' 00"),
        ("will without will flag", "02", "s'id' s'wt' s'wp'"),
        ("will flag without will", "06", "s'id'"),
        ("will flag without will payload", "06", "s'id' s'wt'"),
    ] {
        scene.first(
            what,
            &packet("10", &format!("s'MQTT' 04 {flags} k60 {rest}")),
            &[SILENT],
        );
        // In 5.0 the will has properties of its own.
        let rest = rest.replace("s'wt'", "v0 s'wt'");
        let sent = packet("10", &format!("s'MQTT' 05 {flags} k60 v0 {rest}"));
        scene.first(what, &sent, &[SILENT, CONNACK_MALFORMED]);
    }
    let password_alone = packet("10", "s'MQTT' 04 42 k60 s'id' s'pw'");
    scene.first(
        "password without user name [v3 MQTT-3.1.2-22]",
        &password_alone,
        &[SILENT],
    );
    for client_id in ["a", ""] {
        let words = format!("102700044d515454 0406b19c s'{client_id}'");
        scene.first(
            "a Remaining Length beyond the fields",
            &[bytes(&words), vec![b'x'; 39]].concat(),
            &[SILENT],
        );
    }
    scene.finish();
}

/// Byte sequences that are not UTF-8, or are the null character.
const NOT_UTF_8: [&str; 12] = [
    "00",          // U+0000
    "c0 80",       // U+0000 in two bytes
    "c1 bf",       // U+007F in two bytes
    "e0 80 af",    // U+002F in three bytes
    "ed a0 80",    // U+D800
    "ed bf bf",    // U+DFFF
    "f4 90 80 80", // above U+10FFFF
    "f5 80 80 80", // no lead byte
    "ff",          // no lead byte
    "80",          // no lead byte
    "e2 82",       // ends in the middle
    "ce 'a'",      // a lead byte without its follower
];

#[test]
fn w11_text_that_is_not_utf_8_is_malformed_wherever_it_stands() {
    let mut scene = Scene::start();
    for sequence in NOT_UTF_8 {
        let text = hex(&text_with_length(&bytes(&format!("'ab' {sequence}"))));
        let name = |place: &str| format!("{sequence} in {place}");

        for (place, v4, v5, answer) in [
            (
                "client id",
                "02 k60 TEXT",
                "02 k60 v0 TEXT",
                CONNACK_CLIENT_ID,
            ),
            (
                "user name",
                "82 k60 s'id' TEXT",
                "82 k60 v0 s'id' TEXT",
                SILENT,
            ),
            (
                "will topic",
                "06 k60 s'id' TEXT s'p'",
                "06 k60 v0 s'id' v0 TEXT s'p'",
                CONNACK_MALFORMED,
            ),
        ] {
            let (v4, v5) = (v4.replace("TEXT", &text), v5.replace("TEXT", &text));
            scene.first(
                &name(place),
                &packet("10", &format!("s'MQTT' 04 {v4}")),
                &[SILENT],
            );
            scene.first(
                &name(place),
                &packet("10", &format!("s'MQTT' 05 {v5}")),
                &[answer],
            );
        }
        for section in ["26 TEXT s'v'", "26 s'k' TEXT", "15 TEXT"] {
            let section = hex(&properties(&section.replace("TEXT", &text)));
            let connect = packet("10", &format!("s'MQTT' 05 02 k60 {section} s'id'"));
            scene.first(&name("a CONNECT property"), &connect, &[CONNACK_MALFORMED]);
        }
        for section in ["26 TEXT s'v'", "26 s'k' TEXT", "03 TEXT", "08 TEXT"] {
            let section = hex(&properties(&section.replace("TEXT", &text)));
            let connect = packet(
                "10",
                &format!("s'MQTT' 05 06 k60 v0 s'id' {section} s't' s'p'"),
            );
            scene.first(&name("a will property"), &connect, &[CONNACK_MALFORMED]);
            scene.v5(
                &name("a PUBLISH property"),
                &packet("30", &format!("s't' {section} 'x'")),
                &[MALFORMED],
            );
        }
        for (place, first_byte, v4, v5) in [
            ("topic name", "30", "TEXT 'x'", "TEXT v0 'x'"),
            ("topic filter", "82", "m1 TEXT 00", "m1 v0 TEXT 00"),
            (
                "second topic filter",
                "82",
                "m1 s'a' 00 TEXT 00",
                "m1 v0 s'a' 00 TEXT 00",
            ),
            ("topic filter to leave", "a2", "m1 TEXT", "m1 v0 TEXT"),
        ] {
            scene.v4(
                &name(place),
                &packet(first_byte, &v4.replace("TEXT", &text)),
                &[SILENT],
            );
            scene.v5(
                &name(place),
                &packet(first_byte, &v5.replace("TEXT", &text)),
                &[MALFORMED],
            );
        }
        for (place, first_byte, before, section) in [
            ("user property of SUBSCRIBE", "82", "m1", "26 TEXT s'v'"),
            ("user property of UNSUBSCRIBE", "a2", "m1", "26 s'k' TEXT"),
            ("reason string of PUBACK", "40", "m1 00", "1f TEXT"),
            ("reason string of PUBREC", "50", "m1 00", "1f TEXT"),
            ("reason string of PUBREL", "62", "m1 00", "1f TEXT"),
            ("reason string of PUBCOMP", "70", "m1 00", "1f TEXT"),
            ("reason string of DISCONNECT", "e0", "00", "1f TEXT"),
        ] {
            let section = hex(&properties(&section.replace("TEXT", &text)));
            let after = match first_byte {
                "82" => "s't' 00",
                "a2" => "s't'",
                _ => "",
            };
            let sent = packet(first_byte, &format!("{before} {section} {after}"));
            scene.v5(&name(place), &sent, &[MALFORMED]);
        }
    }
    scene.finish();
}

#[test]
fn w11_control_characters_are_refused_in_names() {
    let mut scene = Scene::start();
    // U+0001, U+001F, U+007F, U+0080, U+009F
    for sequence in ["01", "1f", "7f", "c2 80", "c2 9f"] {
        let text = hex(&text_with_length(&bytes(&format!("'ab' {sequence} 'c'"))));
        for (v4, v5, first_byte) in [
            ("TEXT 'x'", "TEXT v0 'x'", "30"),
            ("m1 TEXT 00", "m1 v0 TEXT 00", "82"),
            ("m1 TEXT", "m1 v0 TEXT", "a2"),
        ] {
            scene.v4(
                sequence,
                &packet(first_byte, &v4.replace("TEXT", &text)),
                &[SILENT],
            );
            scene.v5(
                sequence,
                &packet(first_byte, &v5.replace("TEXT", &text)),
                &[MALFORMED],
            );
        }
        scene.first(
            sequence,
            &packet("10", &format!("s'MQTT' 04 02 k60 {text}")),
            &[SILENT],
        );
        scene.first(
            sequence,
            &packet("10", &format!("s'MQTT' 05 02 k60 v0 {text}")),
            &[CONNACK_CLIENT_ID],
        );
    }
    scene.finish();
}

#[test]
fn w11_noncharacters_are_treated_alike_everywhere() {
    let mut scene = Scene::start_quiet();
    let mut seen = Vec::new();
    // U+FDD0, U+FFFE, U+FFFF, U+1FFFF
    for sequence in ["ef b7 90", "ef bf be", "ef bf bf", "f0 9f bf bf"] {
        let text = hex(&text_with_length(&bytes(&format!("'ab' {sequence} 'c'"))));
        for (v4, v5, first_byte) in [
            ("TEXT 'x'", "TEXT v0 'x'", "30"),
            ("m1 TEXT 00", "m1 v0 TEXT 00", "82"),
            ("m1 TEXT", "m1 v0 TEXT", "a2"),
            ("s'MQTT' 04 02 k60 TEXT", "s'MQTT' 05 02 k60 v0 TEXT", "10"),
        ] {
            for (version, body) in [(4, v4), (5, v5)] {
                let mut client = match (first_byte, version) {
                    ("10", _) => Client::open(&scene.broker),
                    (_, 4) => scene.connected_v4(),
                    _ => scene.connected_v5(),
                };
                client.send(&packet(first_byte, &body.replace("TEXT", &text)));
                client.send(&bytes("c0 00"));
                let is_refused = client.try_receive_to_close().is_ok();
                seen.push((is_refused, format!("{sequence} in {version} {first_byte}")));
            }
        }
    }
    assert!(
        seen.iter().all(|(is_refused, _)| *is_refused == seen[0].0),
        "refused here and there: {seen:?}"
    );
    scene.finish();
}

#[test]
fn w11_a_byte_order_mark_and_bytes_in_binary_fields_are_kept() {
    let scene = Scene::start_quiet();
    let mut client = Client::connect_v5(&scene.broker, "bom", "");
    client.send(&packet("82", "m1 v0 s4 efbbbf 't' 00"));
    client.expect("90 r4 m1 v0 00");
    let publish = packet("30", "s4 efbbbf 't' v9 09 s6 00 ff c0 80 ed a0 'x' 00 ff");
    client.send(&publish);
    client.expect_bytes(&publish);
    let mut plain = Client::connect_v4(&scene.broker, "plain");
    plain.send(&packet("30", "s't' 'without the mark'"));
    client.expect_nothing_until_pingresp();
    scene.finish();
}

#[test]
fn w12_an_empty_topic_name_closes() {
    let mut scene = Scene::start();
    for words in [
        "30 02 00 00",
        "31 02 00 00",
        "32 04 00 00 m1",
        "34 04 00 00 m1",
        "30 r9 s0 'payload'",
    ] {
        scene.v4(words, &bytes(words), &[SILENT]);
    }
    for words in [
        "30 03 00 00 00",
        "31 03 00 00 00",
        "32 05 00 00 m1 00",
        "34 05 00 00 m1 00",
    ] {
        scene.v5(words, &bytes(words), &[MALFORMED]);
    }
    // An alias that was never set resolves to nothing.
    scene.v5(
        "unknown alias",
        &packet("30", "s0 v3 23 H1 'x'"),
        &[PROTOCOL_ERROR],
    );
    scene.finish();
}

#[test]
fn w13_a_wildcard_in_a_topic_name_closes() {
    let mut scene = Scene::start();
    scene.v4("#", &bytes("30 03 00 01 23"), &[SILENT]);
    scene.v4("+", &bytes("30 03 00 01 2b"), &[SILENT]);
    for topic in ["#", "+", "a/#", "a/+", "+/a", "a+", "a#b", "$share/g/#"] {
        for first_byte in ["30", "31"] {
            scene.v4(
                topic,
                &packet(first_byte, &format!("s'{topic}' 'x'")),
                &[SILENT],
            );
            scene.v5(
                topic,
                &packet(first_byte, &format!("s'{topic}' v0 'x'")),
                &[MALFORMED, "e0 01 90"],
            );
        }
        scene.v4(
            topic,
            &packet("32", &format!("s'{topic}' m1 'x'")),
            &[SILENT],
        );
        scene.v5(
            topic,
            &packet("32", &format!("s'{topic}' m1 v0 'x'")),
            &[MALFORMED, "e0 01 90"],
        );
    }
    scene.finish();
}

#[test]
fn w14_an_invalid_topic_filter_is_refused_and_leaves_nothing_behind() {
    let mut scene = Scene::start_quiet();
    for filter in [
        "a/#/b",
        "a#",
        "+a",
        "a+",
        "#a",
        "##",
        "++",
        "a/+b/c",
        "",
        "#/",
        "/#/",
        "$share",
        "$share/",
        "$share/g",
        "$share/ab",
        "$share/g/",
        "$share//t",
        "$share/+/t",
        "$share/#/t",
        "$share/g#/t",
        "$share/g+/t",
        "$share/g/a#",
        "$share/g/a/#/b",
    ] {
        // `$share` and what follows it without a second slash are ordinary names to a reader of 3.1.1.
        let shared = filter.starts_with("$share");
        let mut open = Vec::new();
        for (version, first_byte, body, accepted) in [
            (
                4,
                "82",
                format!("m1 s'{filter}' 01"),
                if shared {
                    vec!["90 03 00 01 80", "90 03 00 01 01"]
                } else {
                    vec!["90 03 00 01 80"]
                },
            ),
            (4, "a2", format!("m1 s'{filter}'"), vec!["b0 02 00 01"]),
            (
                5,
                "82",
                format!("m1 v0 s'{filter}' 01"),
                vec!["90 04 00 01 00 8f"],
            ),
            (
                5,
                "a2",
                format!("m1 v0 s'{filter}'"),
                vec!["b0 04 00 01 00 8f", "b0 04 00 01 00 11"],
            ),
        ] {
            let mut client = if version == 4 {
                scene.connected_v4()
            } else {
                scene.connected_v5()
            };
            client.send(&packet(first_byte, &body));
            let answer = client.try_receive_packet();
            let is_right = match &answer {
                Ok(answer) if answer[0] == 0xe0 => {
                    let closed = client.try_expect_close().is_ok();
                    version == 5
                        && closed
                        && ["e0 01 81", "e0 01 8f"]
                            .iter()
                            .any(|words| *answer == bytes(words))
                }
                Ok(answer) => accepted.iter().any(|words| *answer == bytes(words)),
                Err(harness::Unexpected::Close { received }) => version == 4 && received.is_empty(),
                Err(_) => false,
            };
            if !is_right {
                scene
                    .failures
                    .push(format!("{version}: {first_byte} {filter:?}: {answer:?}"));
            }
            open.push((version, first_byte, client, answer));
        }
        // Whatever was refused matches nothing, and whoever publishes what it resembles is safe.
        let mut publisher = scene.connected_v4();
        for topic in [
            "a",
            "a/b",
            "a/x/b",
            "ab",
            "t",
            "g",
            "/",
            "$share",
            "$share/g",
            "$share/ab",
        ] {
            publisher.send(&packet("30", &format!("s'{topic}' 'x'")));
        }
        // Publishing to `$share` may end this client; either way the broker has read it all.
        publisher.leave();
        for (version, first_byte, mut client, answer) in open {
            let refused = answer
                .as_ref()
                .is_ok_and(|answer| answer[0] != 0xe0 && answer.last() != Some(&1));
            if refused && first_byte == "82" {
                client.send(&bytes("c0 00"));
                if let Err(unexpected) = client.try_expect(&bytes("d0 00")) {
                    scene.failures.push(format!(
                        "{version}: after the refused {filter:?}: {unexpected}"
                    ));
                }
            }
        }
    }
    scene.finish();
}

#[test]
fn w15_packet_id_0_closes() {
    let mut scene = Scene::start();
    for (first_byte, v4, v5, answer) in [
        ("32", "s't' m0 'x'", "s't' m0 v0 'x'", PROTOCOL_ERROR),
        ("34", "s't' m0 'x'", "s't' m0 v0 'x'", PROTOCOL_ERROR),
        ("40", "m0", "m0", PROTOCOL_ERROR),
        ("50", "m0", "m0", PROTOCOL_ERROR),
        ("62", "m0", "m0", PROTOCOL_ERROR),
        ("70", "m0", "m0", PROTOCOL_ERROR),
        ("82", "m0 s't' 00", "m0 v0 s't' 00", MALFORMED),
        ("a2", "m0 s't'", "m0 v0 s't'", MALFORMED),
    ] {
        scene.v4(v4, &packet(first_byte, v4), &[SILENT]);
        scene.v5(v5, &packet(first_byte, v5), &[answer]);
    }
    scene.finish();
}

#[test]
fn w16_properties_that_must_not_be_there_close() {
    let mut scene = Scene::start();
    let connect = |section: &str| {
        packet(
            "10",
            &format!("s'MQTT' 05 02 k60 {} s'id'", hex(&properties(section))),
        )
    };
    for section in [
        "11 L60", "21 H10", "27 L1000", "22 H10", "19 00", "17 01", "15 s'x'",
    ] {
        scene.first(
            section,
            &connect(&format!("{section} {section}")),
            &[CONNACK_PROTOCOL_ERROR],
        );
    }
    for section in [
        "17 02",
        "19 02",
        "17 ff",
        "21 0000",
        "27 00000000",
        "16 s'data without method'",
    ] {
        scene.first(section, &connect(section), &[CONNACK_PROTOCOL_ERROR]);
    }
    // Of other packets: legal bytes that are not allowed here.
    for section in [
        "01 01", "02 L1", "03 s'x'", "08 s'x'", "09 s'x'", "0b 01", "12 s'x'", "13 H1", "18 L1",
        "1a s'x'", "1c s'x'", "1f s'x'", "23 H1", "24 01", "25 01", "28 01", "29 01", "2a 01",
    ] {
        scene.first(section, &connect(section), &[CONNACK_PROTOCOL_ERROR]);
    }
    // Unknown identifiers, also in two bytes, and values cut short.
    for section in [
        "00",
        "04 00",
        "05",
        "0a",
        "2b 01",
        "7f 00",
        "ff 01",
        "80 01 00",
        "11",
        "11 00",
        "11 000000",
        "21",
        "21 00",
        "27 0000",
        "22 00",
        "17",
        "19",
        "26",
        "26 s'k'",
        "26 s5 'k'",
        "15 00",
        "15 s9 'x'",
    ] {
        scene.first(section, &connect(section), &[CONNACK_MALFORMED]);
    }

    let publish = |section: &str| packet("30", &format!("s't' {} 'x'", hex(&properties(section))));
    for section in ["01 01", "02 L60", "23 H1", "08 s'x'", "09 s'x'", "03 s'x'"] {
        scene.v5(
            section,
            &publish(&format!("{section} {section}")),
            &[PROTOCOL_ERROR],
        );
    }
    for section in [
        "01 02",
        "0b 00",
        "0b 01",
        "11 L1",
        "12 s'x'",
        "13 H1",
        "15 s'x'",
        "16 s'x'",
        "17 01",
        "18 L1",
        "19 01",
        "1a s'x'",
        "1c s'x'",
        "1f s'x'",
        "21 H1",
        "22 H1",
        "24 01",
        "25 01",
        "27 L1",
        "28 01",
        "29 01",
        "2a 01",
        "08 s'a/#'",
        "08 s'+'",
    ] {
        scene.v5(section, &publish(section), &[PROTOCOL_ERROR]);
    }
    for section in ["23 H0", "23 H11", "23 H65535"] {
        scene.v5(section, &publish(section), &["e0 01 94"]);
    }
    for section in [
        "00",
        "04 00",
        "2b 01",
        "7f",
        "01",
        "02 0000",
        "23 01",
        "03 s9 'x'",
        "0b 80",
    ] {
        scene.v5(section, &publish(section), &[MALFORMED]);
    }

    let subscribe =
        |section: &str| packet("82", &format!("m1 {} s't' 00", hex(&properties(section))));
    scene.v5("0b 00", &subscribe("0b 00"), &[PROTOCOL_ERROR]);
    scene.v5("0b twice", &subscribe("0b 01 0b 02"), &[PROTOCOL_ERROR]);
    for section in [
        "01 01", "11 L1", "23 H1", "1f s'x'", "00", "7f", "0b", "0b 80 00",
    ] {
        scene.v5(section, &subscribe(section), &[MALFORMED]);
        let unsubscribe = packet("a2", &format!("m1 {} s't'", hex(&properties(section))));
        scene.v5(section, &unsubscribe, &[MALFORMED]);
    }
    for first_byte in ["40", "50", "62", "70"] {
        let acknowledgement =
            |section: &str| packet(first_byte, &format!("m1 00 {}", hex(&properties(section))));
        scene.v5(
            first_byte,
            &acknowledgement("1f s'x' 1f s'x'"),
            &[PROTOCOL_ERROR],
        );
        scene.v5(
            first_byte,
            &acknowledgement("11 L1"),
            &[MALFORMED, PROTOCOL_ERROR],
        );
        scene.v5(first_byte, &acknowledgement("7f"), &[MALFORMED]);
        scene.v5(first_byte, &acknowledgement("1f s9 'x'"), &[MALFORMED]);
    }
    let disconnect = |section: &str| packet("e0", &format!("00 {}", hex(&properties(section))));
    scene.v5(
        "DISCONNECT 11 twice",
        &disconnect("11 L0 11 L0"),
        &[PROTOCOL_ERROR],
    );
    scene.v5(
        "DISCONNECT 21",
        &disconnect("21 H1"),
        &[MALFORMED, PROTOCOL_ERROR],
    );
    scene.v5("DISCONNECT 7f", &disconnect("7f"), &[MALFORMED]);
    scene.finish();
}

#[test]
fn w17_no_topic_filters_closes() {
    let mut scene = Scene::start();
    for first_byte in ["82", "a2"] {
        scene.v4(first_byte, &packet(first_byte, "m1"), &[SILENT]);
        scene.v5(first_byte, &packet(first_byte, "m1 v0"), &[MALFORMED]);
        scene.v5(
            first_byte,
            &packet(first_byte, "m1 v7 26 s'p' s'q'"),
            &[MALFORMED],
        );
    }
    scene.finish();
}

#[test]
fn w18_reserved_subscription_options_close() {
    let mut scene = Scene::start();
    for options in (0..=255_u8).filter(|options| options & 0xfc != 0 || options & 3 == 3) {
        scene.v4(
            &format!("{options:02x}"),
            &packet("82", &format!("m1 s't' {options:02x}")),
            &[SILENT],
        );
    }
    for options in (0..=255_u8)
        .filter(|options| options & 0xc0 != 0 || options & 3 == 3 || options & 0x30 == 0x30)
    {
        scene.v5(
            &format!("{options:02x}"),
            &packet("82", &format!("m1 v0 s't' {options:02x}")),
            &[MALFORMED],
        );
    }
    scene.v4(
        "the second filter",
        &packet("82", "m1 s'a' 00 s't' 03"),
        &[SILENT],
    );
    scene.v5(
        "the second filter",
        &packet("82", "m1 v0 s'a' 00 s't' c0"),
        &[MALFORMED],
    );
    scene.finish();
}

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
    client.set_timeout(Duration::from_secs(10));
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
    assert!(
        scene.broker.log().contains("panic"),
        "no panic was injected: the broker lacks the hook"
    );
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

/// A broker, clients that must not notice anything, and what went wrong so far.
struct Scene {
    broker: Broker,
    canaries: Vec<Client>,
    /// Subscribed to everything: it sees the canaries and nothing else.
    watcher: Client,
    beats: u32,
    failures: Vec<String>,
    client_ids: u32,
}

impl Scene {
    fn start() -> Self {
        Self::start_with(Broker::options(), "#")
    }

    /// For tests whose own messages are valid: the watcher sees only the canaries.
    fn start_quiet() -> Self {
        Self::start_with(Broker::options(), "canary/#")
    }

    fn start_with(options: Options, watched: &str) -> Self {
        // As many that every shard has one.
        const CANARIES: usize = 8;
        let broker = options.start();
        let canaries = (0..CANARIES).map(|index| {
            let mut canary = Client::connect_v4(&broker, &format!("canary-{index}"));
            canary.send(&packet("82", &format!("m1 s'canary/{index}' 00")));
            canary.expect("90 03 00 01 00");
            canary
        });
        let canaries = canaries.collect();
        let mut watcher = Client::connect_v4(&broker, "watcher");
        watcher.send(&packet("82", &format!("m1 s'{watched}' 00")));
        watcher.expect("90 03 00 01 00");
        Self {
            broker,
            canaries,
            watcher,
            beats: 0,
            failures: Vec::new(),
            client_ids: 0,
        }
    }

    /// On a new connection.
    fn first(&mut self, what: &str, sent: &[u8], answers: &[&str]) {
        let client = Client::open(&self.broker);
        self.send_and_check(&format!("before CONNECT: {what}"), client, sent, answers);
    }

    /// After a 3.1.1 CONNECT.
    fn v4(&mut self, what: &str, sent: &[u8], answers: &[&str]) {
        let client = self.connected_v4();
        self.send_and_check(&format!("3.1.1: {what}"), client, sent, answers);
    }

    /// After a 5.0 CONNECT.
    fn v5(&mut self, what: &str, sent: &[u8], answers: &[&str]) {
        let client = self.connected_v5();
        self.send_and_check(&format!("5.0: {what}"), client, sent, answers);
    }

    fn connected_v4(&mut self) -> Client {
        self.client_ids += 1;
        Client::connect_v4(&self.broker, &format!("bad-{}", self.client_ids))
    }

    fn connected_v5(&mut self) -> Client {
        self.client_ids += 1;
        Client::connect_v5(&self.broker, &format!("bad-{}", self.client_ids), "")
    }

    fn send_and_check(&mut self, what: &str, mut client: Client, sent: &[u8], answers: &[&str]) {
        client.send(sent);
        self.check_close(what, client, sent, answers);
    }

    /// Exactly one of `answers`, then the close.
    fn check_close(&mut self, what: &str, mut client: Client, sent: &[u8], answers: &[&str]) {
        let received = client.try_receive_to_close();
        let is_right = received
            .as_ref()
            .is_ok_and(|received| answers.iter().any(|answer| *received == bytes(answer)));
        if !is_right {
            let received = match received {
                Ok(received) => format!("[{}] and the close", hex(&received)),
                Err(unexpected) => format!("[{unexpected}], no close"),
            };
            let answers = answers.join("] or [");
            self.failures.push(format!("{what}\n  sent     {}\n  expected [{answers}] and the close\n  received {received}", hex(sent)));
        }
    }

    /// Every canary hears itself within a second, and the watcher hears the canaries and nothing else.
    #[track_caller]
    fn echo(&mut self) {
        for (index, canary) in self.canaries.iter_mut().enumerate() {
            self.beats += 1;
            let publish = packet("30", &format!("s'canary/{index}' 'beat {}'", self.beats));
            canary.send(&publish);
            canary.expect_bytes(&publish);
            self.watcher.expect_bytes(&publish);
        }
    }

    /// The questions that every test ends with.
    #[track_caller]
    fn finish(mut self) {
        assert!(self.broker.is_alive(), "the process ended");
        assert!(
            !self.broker.log().contains("panicked"),
            "a panic in the log"
        );
        self.report();
        self.echo();
    }

    #[track_caller]
    fn report(&self) {
        let shown: Vec<&str> = self.failures.iter().take(40).map(String::as_str).collect();
        assert!(
            shown.is_empty(),
            "{} went otherwise:\n{}",
            self.failures.len(),
            shown.join("\n")
        );
    }
}
