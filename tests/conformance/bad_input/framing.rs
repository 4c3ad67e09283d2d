//! W1 to W9: lengths, flags and packet types that do not fit, and packets at the wrong time.

use harness::{Client, Connect, bytes, hex, packet, properties, raise_file_limit};

use crate::*;

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
