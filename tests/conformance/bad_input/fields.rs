//! W10 to W18: what stands in a packet and must not.

use harness::{Client, bytes, hex, packet, properties, text_with_length};

use crate::*;

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
