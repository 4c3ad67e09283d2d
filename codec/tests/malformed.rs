//! Bad input (attacks.md, section 1): each case is refused with the code that the standard or the byte vectors demand, as early as
//! the bytes allow, and without allocating what a length claims.

use bytes::Bytes;
use nightjar_codec::{
    DecodeError, FixedHeader, Limits, Misdeed, Packet, PacketType, Place, PropertyId,
    ProtocolVersion, PublishRef, ReasonCode, cut, decode, decode_from_client,
};

const V3: ProtocolVersion = ProtocolVersion::V3_1_1;
const V5: ProtocolVersion = ProtocolVersion::V5;
const LIMITS: Limits = Limits {
    packet_size_max: 2_000_000,
    user_properties_max: 3,
    topic_levels_max: 8,
    topic_filters_max: 4,
};

#[test]
fn w1_a_claimed_length_above_the_limit_is_refused_with_the_header() {
    for first in [0x10, 0x30, 0x82] {
        let error = cut(&[first, 0xff, 0xff, 0xff, 0x7f], &LIMITS).unwrap_err();
        assert_eq!(error.misdeed, Misdeed::PacketTooLarge);
        assert_eq!(error.reason_code(), ReasonCode::PacketTooLarge);
        // Before CONNECT is read there is no form to answer in.
        assert_eq!(error.is_silent(), first == 0x10);
    }
    // Exactly the limit is taken.
    let limits = Limits {
        packet_size_max: 10,
        ..LIMITS
    };
    assert_eq!(cut(&[0x30, 8], &limits), Ok(None));
    assert!(cut(&[0x30, 9], &limits).is_err());
}

#[test]
fn w2_a_fifth_length_byte_is_refused_at_the_fourth() {
    for first in [0x10, 0x30, 0xc0] {
        assert_eq!(cut(&[first, 0x80, 0x80, 0x80], &LIMITS), Ok(None));
        let error = cut(&[first, 0x80, 0x80, 0x80, 0x80], &LIMITS).unwrap_err();
        assert_eq!(error.misdeed, Misdeed::VariableByteIntegerTooLong);
        assert!(error.is_silent());
    }
    // In Property Length and Subscription Identifier.
    check(
        V5,
        "82 0b 00 01 80 80 80 80 01 00 01 61 00",
        Misdeed::VariableByteIntegerTooLong,
        0x81,
    );
    check(
        V5,
        "82 0c 00 01 06 0b 80 80 80 80 01 00 01 61",
        Misdeed::VariableByteIntegerTooLong,
        0x81,
    );
}

#[test]
fn w3_an_over_long_length_is_malformed() {
    check(V5, "c0 80 00", Misdeed::VariableByteIntegerNotMinimal, 0x81);
    check(V5, "30 81 00", Misdeed::VariableByteIntegerNotMinimal, 0x81);
    check(
        V5,
        "82 08 00 01 80 00 00 01 61 00",
        Misdeed::VariableByteIntegerNotMinimal,
        0x81,
    );
}

#[test]
fn w4_a_packet_that_ends_before_a_required_field_is_malformed() {
    // No options byte, no packet id, no topic.
    check(
        V5,
        "82 08 00 01 00 00 03 61 2f 62",
        Misdeed::UnexpectedEnd,
        0x81,
    );
    check(V3, "32 05 00 03 61 2f 62", Misdeed::UnexpectedEnd, 0x81);
    check(V5, "32 05 00 03 61 2f 62", Misdeed::UnexpectedEnd, 0x81);
    check(V5, "30 01 00", Misdeed::UnexpectedEnd, 0x81);
    check(V5, "30 00", Misdeed::UnexpectedEnd, 0x81);
}

#[test]
fn w5_a_length_inside_that_is_larger_than_the_packet_is_malformed() {
    for packet in [
        "30 05 ff ff 61 00 61",
        "30 05 00 04 61 00 61",
        "30 06 00 01 61 7f 01 01",
        "30 06 00 01 61 03 01 01",
        "82 07 00 01 00 ff ff 61 00",
        "82 07 00 01 7f 00 01 61 00",
        "40 05 00 01 00 02 1f",
        "30 09 00 01 61 05 09 ff ff 01 01",
        "30 09 00 01 61 05 26 00 01 61 ff",
    ] {
        check(V5, packet, Misdeed::UnexpectedEnd, 0x81);
    }
    let error = fails(V5, "10 0e 00 04 4d 51 54 54 05 02 00 3c 00 ff ff 61");
    assert_eq!(error.misdeed, Misdeed::UnexpectedEnd);
    assert_eq!(error.connack_version(), Some(V5));
}

#[test]
fn w6_reserved_flags_are_refused_in_every_packet() {
    for packet_type in (1..=15_u8).map(|bits| PacketType::from_u8(bits).unwrap()) {
        if packet_type == PacketType::Publish {
            continue;
        }
        let right = match packet_type {
            PacketType::Pubrel | PacketType::Subscribe | PacketType::Unsubscribe => 2,
            _ => 0,
        };
        for flags in (0..16).filter(|&flags| flags != right) {
            let mut packet = valid(packet_type);
            assert!(decode(&packet, V5, &LIMITS).is_ok(), "{packet_type}");
            packet[0] = (packet[0] & 0xf0) | flags;
            let error = decode(&packet, V5, &LIMITS).unwrap_err();
            assert_eq!(
                error.misdeed,
                Misdeed::InvalidFlags,
                "{packet_type} {flags}"
            );
        }
    }
    // 3.1 alone lets its clients set DUP where the other flags say QoS 1.
    let again = hex("8a 06 00 01 00 01 61 00");
    assert!(decode(&again, ProtocolVersion::V3_1, &LIMITS).is_ok());
    assert!(decode(&again, V3, &LIMITS).is_err());
}

#[test]
fn w7_what_only_a_server_sends_is_a_protocol_error_from_a_client() {
    for packet in [
        "20 03 00 00 00",
        "90 04 00 01 00 00",
        "b0 04 00 01 00 00",
        "d0 00",
    ] {
        let packet = Bytes::from(hex(packet));
        let error = decode_from_client(&packet, V5, &LIMITS).unwrap_err();
        assert_eq!(error.misdeed, Misdeed::PacketFromServer);
        assert_eq!(error.reason_code(), ReasonCode::ProtocolError);
        assert!(decode(&packet, V5, &LIMITS).is_ok(), "a client takes it");
    }
    check(V5, "00 00", Misdeed::ReservedPacketType, 0x82);
    assert_eq!(
        cut(&[0x05], &LIMITS).unwrap_err().misdeed,
        Misdeed::ReservedPacketType
    );
    for packet in ["f0 00", "f0 02 18 00"] {
        check(V3, packet, Misdeed::PacketNotInVersion, 0x82);
    }
}

#[test]
fn w10_connect_flags_must_fit_the_payload() {
    let header = "00 04 4d 51 54 54 04";
    for (flags, misdeed) in [
        ("01", Misdeed::ReservedConnectFlag),
        ("18", Misdeed::WillFlagsWithoutWill),
        ("20", Misdeed::WillFlagsWithoutWill),
        ("1e", Misdeed::InvalidQoS),
        ("42", Misdeed::PasswordWithoutUserName),
        ("c2", Misdeed::UnexpectedEnd),
        ("82", Misdeed::UnexpectedEnd),
        ("06", Misdeed::UnexpectedEnd),
    ] {
        let error = fails(V3, &format!("10 0d {header} {flags} 00 3c 00 01 61"));
        assert_eq!(error.misdeed, misdeed, "{flags}");
        assert!(error.is_silent(), "3.1.1 has no code for it");
    }
    let trailing = fails(V3, &format!("10 0e {header} 02 00 3c 00 01 61 00"));
    assert_eq!(trailing.misdeed, Misdeed::TrailingBytes);
    // 5.0 allows a Password alone.
    let password = hex("10 11 00 04 4d 51 54 54 05 42 00 3c 00 00 01 61 00 01 70");
    assert!(decode(&password, V5, &LIMITS).is_ok());
}

#[test]
fn w11_bad_strings_are_refused_wherever_a_string_is() {
    let bad: [&[u8]; 11] = [
        b"\xed\xa0\x80",
        b"\xed\xbf\xbf",
        b"\xc0\x80",
        b"\xf5\x80\x80\x80",
        b"\xf4\x90\x80\x80",
        b"\xff",
        b"\xe2\x82",
        b"a\0",
        b"a\x1f",
        b"\xc2\x9f",
        b"\xef\xbf\xbf",
    ];
    let bom = b"\xef\xbb\xbfa".as_slice();
    for string in bad.into_iter().chain([bom]) {
        for (packet_type, prefix, suffix) in STRING_POSITIONS {
            let mut body = hex(prefix);
            body.extend_from_slice(&u16::try_from(string.len()).unwrap().to_be_bytes());
            body.extend_from_slice(string);
            body.extend(hex(suffix));
            let packet = with_properties(packet_type, body);
            let result = decode(&packet, V5, &LIMITS);
            if string == bom {
                assert!(
                    result.is_ok(),
                    "{packet_type} {prefix} {packet:02x?}: {result:?}"
                );
                continue;
            }
            let error = result.expect_err(&format!("{packet_type} {prefix} {string:02x?}"));
            assert!(
                matches!(
                    error.misdeed,
                    Misdeed::NotUtf8 | Misdeed::ForbiddenCharacter
                ),
                "{packet_type} {prefix} {string:02x?}: {error:?}"
            );
            let code =
                if error.place == Place::Connect(nightjar_codec::ConnectPart::ClientId, Some(V5)) {
                    ReasonCode::ClientIdentifierNotValid
                } else {
                    ReasonCode::MalformedPacket
                };
            assert_eq!(error.reason_code(), code);
        }
    }
}

/// Where a string stands: the packet's body before its length and behind it. A body that begins with `P` has its property length
/// put in.
const STRING_POSITIONS: [(PacketType, &str, &str); 13] = [
    // Client Identifier, Will Topic, User Name.
    (PacketType::Connect, "00 04 4d 51 54 54 05 02 00 3c 00", ""),
    (
        PacketType::Connect,
        "00 04 4d 51 54 54 05 06 00 3c 00 00 01 61 00",
        "00 00",
    ),
    (
        PacketType::Connect,
        "00 04 4d 51 54 54 05 82 00 3c 00 00 01 61",
        "",
    ),
    // Topic Name, Topic Filters.
    (PacketType::Publish, "", "00"),
    (PacketType::Subscribe, "00 01 00", "00"),
    (PacketType::Unsubscribe, "00 01 00", ""),
    // Content Type, Response Topic, and both halves of a User Property.
    (PacketType::Publish, "00 01 61 ff 03", ""),
    (PacketType::Publish, "00 01 61 ff 08", ""),
    (PacketType::Publish, "00 01 61 ff 26", "00 00"),
    (PacketType::Publish, "00 01 61 ff 26 00 00", ""),
    // Reason String, Server Reference, Authentication Method.
    (PacketType::Puback, "00 01 00 ff 1f", ""),
    (PacketType::Disconnect, "00 ff 1c", ""),
    (PacketType::Auth, "18 ff 15", ""),
];

/// The fixed header, and the Property Length in the place of `ff`.
fn with_properties(packet_type: PacketType, mut body: Vec<u8>) -> Vec<u8> {
    let marker = match packet_type {
        PacketType::Publish if body.get(..3) == Some(&[0, 1, 0x61]) => Some(3),
        PacketType::Puback => Some(3),
        PacketType::Disconnect | PacketType::Auth => Some(1),
        _ => None,
    };
    if let Some(at) = marker.filter(|&at| body[at] == 0xff) {
        body[at] = u8::try_from(body.len() - at - 1).unwrap();
    }
    let flags = match packet_type {
        PacketType::Subscribe | PacketType::Unsubscribe => 2,
        _ => 0,
    };
    let mut packet = vec![
        (packet_type as u8) << 4 | flags,
        u8::try_from(body.len()).unwrap(),
    ];
    packet.extend(body);
    packet
}

#[test]
fn w12_w13_a_topic_name_is_neither_empty_nor_a_filter() {
    check(V3, "30 02 00 00", Misdeed::EmptyTopicName, 0x81);
    // Not [MQTT-3.3.2-8]'s 0x82: the byte vectors want 0x81.
    check(V5, "30 03 00 00 00", Misdeed::EmptyTopicName, 0x81);
    check(V5, "30 04 00 01 23 00", Misdeed::WildcardInTopicName, 0x81);
    check(V3, "30 03 00 01 2b", Misdeed::WildcardInTopicName, 0x81);
    assert!(decode(&hex("30 06 00 00 03 23 00 01"), V5, &LIMITS).is_ok());
}

#[test]
fn w14_a_bad_filter_closes_3_1_1_and_is_for_suback_in_5_0() {
    for filter in ["a/#/b", "a#", "+a", "#/"] {
        let body = |properties: &[u8]| {
            let mut body = vec![0, 1];
            body.extend_from_slice(properties);
            body.extend_from_slice(&u16::try_from(filter.len()).unwrap().to_be_bytes());
            body.extend_from_slice(filter.as_bytes());
            body.push(0);
            let mut packet = vec![0x82, u8::try_from(body.len()).unwrap()];
            packet.extend(body);
            packet
        };
        let error = decode(&body(&[]), V3, &LIMITS).unwrap_err();
        assert_eq!(error.misdeed, Misdeed::InvalidTopicFilter, "{filter}");
        assert!(decode(&body(&[0]), V5, &LIMITS).is_ok(), "{filter}");
    }
    for version in [V3, V5] {
        let empty = if version == V3 {
            "82 05 00 01 00 00 00"
        } else {
            "82 06 00 01 00 00 00 00"
        };
        check(version, empty, Misdeed::EmptyTopicFilter, 0x81);
    }
}

#[test]
fn w15_packet_id_0_is_refused() {
    // The byte vectors want 0x81 for SUBSCRIBE and UNSUBSCRIBE.
    check(
        V5,
        "82 07 00 00 00 00 01 61 00",
        Misdeed::PacketIdZero,
        0x81,
    );
    check(V5, "a2 06 00 00 00 00 01 61", Misdeed::PacketIdZero, 0x81);
    check(V5, "32 06 00 01 61 00 00 00", Misdeed::PacketIdZero, 0x82);
    for first in ["40", "50", "62", "70"] {
        check(
            V5,
            &format!("{first} 02 00 00"),
            Misdeed::PacketIdZero,
            0x82,
        );
    }
}

#[test]
fn w16_properties_are_checked() {
    use PropertyId as P;
    let connect = |properties: &str| {
        let properties = hex(properties);
        let mut packet = hex("10 00 00 04 4d 51 54 54 05 02 00 3c");
        packet.push(u8::try_from(properties.len()).unwrap());
        packet.extend(properties);
        packet.extend(hex("00 01 61"));
        packet[1] = u8::try_from(packet.len() - 2).unwrap();
        decode(&packet, V5, &LIMITS).unwrap_err()
    };
    for (properties, misdeed, code) in [
        (
            "11 00 00 00 01 11 00 00 00 01",
            Misdeed::DuplicateProperty(P::SessionExpiryInterval),
            0x82,
        ),
        (
            "19 01 19 01",
            Misdeed::DuplicateProperty(P::RequestResponseInformation),
            0x82,
        ),
        (
            "17 02",
            Misdeed::InvalidPropertyValue(P::RequestProblemInformation),
            0x82,
        ),
        (
            "19 02",
            Misdeed::InvalidPropertyValue(P::RequestResponseInformation),
            0x82,
        ),
        (
            "21 00 00",
            Misdeed::InvalidPropertyValue(P::ReceiveMaximum),
            0x82,
        ),
        (
            "27 00 00 00 00",
            Misdeed::InvalidPropertyValue(P::MaximumPacketSize),
            0x82,
        ),
        ("23 00 00", Misdeed::PropertyNotAllowed(P::TopicAlias), 0x82),
        ("04 00", Misdeed::UnknownProperty, 0x81),
        ("80 00 00", Misdeed::VariableByteIntegerNotMinimal, 0x81),
        ("11 00 00 00", Misdeed::UnexpectedEnd, 0x81),
        (
            "16 00 01 61",
            Misdeed::AuthenticationDataWithoutMethod,
            0x82,
        ),
    ] {
        let error = connect(properties);
        assert_eq!(error.misdeed, misdeed, "{properties}");
        assert_eq!(error.reason_code().as_u8(), code, "{properties}");
        assert_eq!(error.connack_version(), Some(V5));
    }
    check(
        V5,
        "30 07 00 01 61 03 23 00 00",
        Misdeed::TopicAliasZero,
        0x94,
    );
    check(
        V5,
        "30 06 00 01 61 02 0b 00",
        Misdeed::InvalidPropertyValue(P::SubscriptionIdentifier),
        0x82,
    );
    // [MQTT-3.3.2-14], of a Will too.
    check(
        V5,
        "30 08 00 01 61 04 08 00 01 2b",
        Misdeed::InvalidPropertyValue(P::ResponseTopic),
        0x82,
    );
}

#[test]
fn w17_w18_filters_and_their_options_are_checked() {
    check(V3, "82 02 00 01", Misdeed::NoTopicFilters, 0x81);
    check(V5, "82 03 00 01 00", Misdeed::NoTopicFilters, 0x81);
    check(V5, "a2 03 00 01 00", Misdeed::NoTopicFilters, 0x81);
    for options in ["03", "30", "40", "80", "c0"] {
        let packet = format!("82 07 00 01 00 00 01 61 {options}");
        check(V5, &packet, Misdeed::InvalidSubscriptionOptions, 0x81);
    }
    for options in ["03", "04", "08", "10", "80"] {
        let packet = format!("82 06 00 01 00 01 61 {options}");
        check(V3, &packet, Misdeed::InvalidSubscriptionOptions, 0x81);
    }
    // [MQTT-3.8.3-4]
    let no_local = "82 10 00 01 00 00 0a 24 73 68 61 72 65 2f 70 2f 70 04";
    check(V5, no_local, Misdeed::NoLocalOnSharedSubscription, 0x82);
}

#[test]
fn the_callers_limits_are_kept() {
    let filters = "00 01 61 00 ".repeat(5);
    check(
        V5,
        &format!("82 17 00 01 00 {filters}"),
        Misdeed::TooManyTopicFilters,
        0x97,
    );
    let properties = "26 00 00 00 00 ".repeat(4);
    check(
        V5,
        &format!("30 18 00 01 61 14 {properties}"),
        Misdeed::TooManyUserProperties,
        0x97,
    );
    check(
        V5,
        &format!("40 18 00 01 00 14 {properties}"),
        Misdeed::TooManyUserProperties,
        0x97,
    );
    check(
        V5,
        &format!("30 0b 00 08 {} 00", "2f ".repeat(8)),
        Misdeed::TooManyTopicLevels,
        0x90,
    );
    assert!(
        decode(
            &hex(&format!("30 0a 00 07 {} 00", "2f ".repeat(7))),
            V5,
            &LIMITS
        )
        .is_ok()
    );
}

#[test]
fn mqtt_3_1_2_2_an_unknown_level_is_answered_in_the_form_it_may_understand() {
    let answer = |name: &str, level: u8| {
        let mut packet = vec![0x10, 0, 0, u8::try_from(name.len()).unwrap()];
        packet.extend_from_slice(name.as_bytes());
        packet.extend_from_slice(&[level, 2, 0, 60, 0, 1, b'a']);
        packet[1] = u8::try_from(packet.len() - 2).unwrap();
        let error = decode(&packet, V5, &LIMITS).unwrap_err();
        assert_eq!(error.reason_code(), ReasonCode::UnsupportedProtocolVersion);
        let mut answer = Vec::new();
        let connack = nightjar_codec::Connack::with_reason(error.reason_code());
        connack
            .encode(error.connack_version().unwrap(), &mut answer)
            .unwrap();
        answer
    };
    for (name, level) in [
        ("MQTT", 2),
        ("MQTT", 6),
        ("MQIsdp", 2),
        ("MQIsdp", 6),
        ("MQTT", 0),
    ] {
        assert_eq!(answer(name, level), [0x20, 3, 0, 0x84, 0], "{name} {level}");
    }
    for (name, level) in [("MQTT", 3), ("MQIsdp", 4), ("MQIsdp", 0x84)] {
        assert_eq!(answer(name, level), [0x20, 2, 0, 1], "{name} {level}");
    }
}

#[test]
fn a_bridge_says_so_with_bit_7_of_the_level() {
    for (packet, version) in [
        (
            "10 0f 00 06 4d 51 49 73 64 70 83 02 00 3c 00 01 61",
            ProtocolVersion::V3_1,
        ),
        ("10 0d 00 04 4d 51 54 54 84 02 00 3c 00 01 61", V3),
        ("10 0d 00 04 4d 51 54 54 04 02 00 3c 00 01 61", V3),
    ] {
        let packet = hex(packet);
        let Ok(Packet::Connect(connect)) = decode(&packet, V5, &LIMITS) else {
            panic!("a CONNECT");
        };
        assert_eq!(connect.protocol_version, version);
        assert_eq!(
            connect.bridge,
            packet.iter().any(|&byte| byte & 0xf0 == 0x80)
        );
    }
}

/// W1: a claimed length is never taken for bytes.
#[test]
fn w1_a_packet_that_is_not_all_there_is_not_begun() {
    let header = FixedHeader::read(&[0x30, 0xff, 0xff, 0xff, 0x7f])
        .unwrap()
        .unwrap();
    assert_eq!(header.packet_length(), 268_435_460);
    let wide = Limits::PROTOCOL;
    assert_eq!(cut(&[0x30, 0xff, 0xff, 0xff, 0x7f], &wide), Ok(None));
    // Whoever hands over less than a whole packet is told, and nothing is made of it.
    let error = decode(&[0x30, 0xff, 0xff, 0xff, 0x7f, 0, 1], V3, &wide).unwrap_err();
    assert_eq!(error.misdeed, Misdeed::UnexpectedEnd);
    let error =
        PublishRef::decode(&[0x30, 0xff, 0xff, 0xff, 0x7f, 0, 1], V3, &wide, "").unwrap_err();
    assert_eq!(error.misdeed, Misdeed::UnexpectedEnd);
}

/// A valid packet of each type, in 5.0.
fn valid(packet_type: PacketType) -> Vec<u8> {
    hex(match packet_type {
        PacketType::Connect => "10 0e 00 04 4d 51 54 54 05 02 00 3c 00 00 01 61",
        PacketType::Connack => "20 03 00 00 00",
        PacketType::Publish => "30 05 00 01 61 00 62",
        PacketType::Puback => "40 02 00 01",
        PacketType::Pubrec => "50 02 00 01",
        PacketType::Pubrel => "62 02 00 01",
        PacketType::Pubcomp => "70 02 00 01",
        PacketType::Subscribe => "82 07 00 01 00 00 01 61 00",
        PacketType::Suback => "90 04 00 01 00 00",
        PacketType::Unsubscribe => "a2 06 00 01 00 00 01 61",
        PacketType::Unsuback => "b0 04 00 01 00 00",
        PacketType::Pingreq => "c0 00",
        PacketType::Pingresp => "d0 00",
        PacketType::Disconnect => "e0 00",
        PacketType::Auth => "f0 00",
    })
}

fn check(version: ProtocolVersion, packet: &str, misdeed: Misdeed, code: u8) {
    let error = fails(version, packet);
    assert_eq!(error.misdeed, misdeed, "{packet}");
    assert_eq!(error.reason_code().as_u8(), code, "{packet}: {error}");
}

fn fails(version: ProtocolVersion, packet: &str) -> DecodeError {
    decode(&hex(packet), version, &LIMITS).expect_err(packet)
}

fn hex(text: &str) -> Vec<u8> {
    text.split_whitespace()
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect()
}
