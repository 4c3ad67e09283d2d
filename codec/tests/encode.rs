//! The exact bytes of what we send, where more than one form would be legal, and what cannot be put into bytes at all.

use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;
use nightjar_codec::{
    Acknowledgement, Auth, AuthProperties, Connack, ConnackProperties, Disconnect, EncodeError,
    Packet, PacketId, PacketType, ProtocolVersion, Publish, PublishHead, PublishProperties, QoS,
    ReasonCode, Suback, SubackProperties, Subscribe, SubscribeProperties, Unsuback,
};

const V3_1: ProtocolVersion = ProtocolVersion::V3_1;
const V3: ProtocolVersion = ProtocolVersion::V3_1_1;
const V5: ProtocolVersion = ProtocolVersion::V5;

/// As Mosquitto 2.1 answers a CONNECT of 5.0 in its default configuration.
#[test]
fn the_default_connack_is_that_of_mosquitto_byte_for_byte() {
    let connack = Connack {
        session_present: false,
        reason_code: ReasonCode::Success,
        properties: ConnackProperties {
            topic_alias_maximum: Some(10),
            maximum_packet_size: NonZeroU32::new(2_000_000),
            receive_maximum: NonZeroU16::new(20),
            ..ConnackProperties::default()
        },
    };
    check(
        &Packet::Connack(connack.clone()),
        V5,
        "20 0e 00 00 0b 22 00 0a 27 00 1e 84 80 21 00 14",
    );
    check(&Packet::Connack(connack), V3, "20 02 00 00");
}

#[test]
fn v3_mqtt_3_2_2_a_refusal_is_written_as_the_return_code_of_the_same_meaning() {
    for (reason_code, return_code) in [
        (ReasonCode::UnsupportedProtocolVersion, 1),
        (ReasonCode::ClientIdentifierNotValid, 2),
        (ReasonCode::ServerUnavailable, 3),
        (ReasonCode::BadUserNameOrPassword, 4),
        (ReasonCode::NotAuthorized, 5),
    ] {
        let connack = Packet::Connack(Connack::with_reason(reason_code));
        check(&connack, V3, &format!("20 02 00 0{return_code}"));
        check(
            &connack,
            V5,
            &format!("20 03 00 {:02x} 00", reason_code.as_u8()),
        );
    }
    // [v3 MQTT-3.2.2-6] No code fits: closed without CONNACK.
    let banned = ReasonCode::Banned;
    refuse(
        &Packet::Connack(Connack::with_reason(banned)),
        V3,
        EncodeError::ReasonCodeNotInVersion(banned),
    );
}

#[test]
fn v3_1_does_not_know_session_present() {
    let connack = Packet::Connack(Connack {
        session_present: true,
        ..Connack::with_reason(ReasonCode::Success)
    });
    check(&connack, V3_1, "20 02 00 00");
    check(&connack, V3, "20 02 01 00");
}

#[test]
fn acknowledgements_take_the_shortest_form_that_says_all() {
    let id = PacketId::new(0x1234).unwrap();
    for (packet_type, first) in [
        (PacketType::Puback, "40"),
        (PacketType::Pubrec, "50"),
        (PacketType::Pubrel, "62"),
        (PacketType::Pubcomp, "70"),
    ] {
        let bytes = |version, acknowledgement: &Acknowledgement| {
            let mut out = Vec::new();
            acknowledgement
                .encode(packet_type, version, &mut out)
                .unwrap();
            out
        };
        let mut acknowledgement = Acknowledgement::success(id);
        for version in [V3_1, V3, V5] {
            assert_eq!(
                bytes(version, &acknowledgement),
                hex(&format!("{first} 02 12 34"))
            );
        }
        acknowledgement.reason_code = ReasonCode::PacketIdentifierNotFound;
        assert_eq!(
            bytes(V3, &acknowledgement),
            hex(&format!("{first} 02 12 34"))
        );
        assert_eq!(
            bytes(V5, &acknowledgement),
            hex(&format!("{first} 03 12 34 92"))
        );
        acknowledgement.properties.reason_string = Some("".into());
        let expected = format!("{first} 07 12 34 92 03 1f 00 00");
        assert_eq!(bytes(V5, &acknowledgement), hex(&expected));
        acknowledgement.reason_code = ReasonCode::Success;
        let expected = format!("{first} 07 12 34 00 03 1f 00 00");
        assert_eq!(bytes(V5, &acknowledgement), hex(&expected));
    }
}

#[test]
fn disconnect_and_auth_take_the_shortest_form_that_says_all() {
    let disconnect = |reason_code| Packet::Disconnect(Disconnect::with_reason(reason_code));
    check(&disconnect(ReasonCode::Success), V5, "e0 00");
    check(&disconnect(ReasonCode::ProtocolError), V5, "e0 01 82");
    check(&disconnect(ReasonCode::ProtocolError), V3, "e0 00");
    let auth = |reason_code| {
        Packet::Auth(Auth {
            reason_code,
            properties: AuthProperties::default(),
        })
    };
    check(&auth(ReasonCode::Success), V5, "f0 00");
    check(&auth(ReasonCode::ContinueAuthentication), V5, "f0 02 18 00");
    refuse(
        &auth(ReasonCode::Success),
        V3,
        EncodeError::PacketNotInVersion,
    );
}

#[test]
fn v3_mqtt_3_9_3_2_every_error_in_suback_is_0x80_and_unsuback_has_no_codes() {
    let suback = Packet::Suback(Suback {
        packet_id: PacketId::MIN,
        reason_codes: vec![ReasonCode::GrantedQoS2, ReasonCode::NotAuthorized],
        properties: SubackProperties::default(),
    });
    check(&suback, V3, "90 04 00 01 02 80");
    check(&suback, V5, "90 05 00 01 00 02 87");
    let unsuback = Packet::Unsuback(Unsuback {
        packet_id: PacketId::MIN,
        reason_codes: vec![ReasonCode::NoSubscriptionExisted],
        properties: SubackProperties::default(),
    });
    check(&unsuback, V3, "b0 02 00 01");
    check(&unsuback, V5, "b0 04 00 01 00 11");
}

#[test]
fn the_head_of_a_publish_is_what_comes_before_the_payload() {
    let head = PublishHead {
        dup: true,
        qos: QoS::AtLeastOnce,
        retain: true,
        topic: "a",
        packet_id: PacketId::new(9),
        subscription_identifiers: &[1, 268_435_455],
        message_expiry_interval: Some(5),
        topic_alias: NonZeroU16::new(7),
        forwardable_properties: &[0x01, 0x01],
        payload_length: 3,
    };
    let mut out = Vec::new();
    assert_eq!(head.encode(V5, &mut out), Some(5));
    let expected = "3b 1a 00 01 61 00 09 11 23 00 07 02 00 00 00 05 01 01 0b 01 0b ff ff ff 7f";
    assert_eq!(out, hex(expected));
    assert_eq!(head.encoded_length(V5), out.len() + 3);
    out.clear();
    assert_eq!(head.encode(V3, &mut out), Some(5));
    assert_eq!(out, hex("3b 08 00 01 61 00 09"));
    let head = PublishHead {
        dup: false,
        qos: QoS::AtMostOnce,
        ..head
    };
    out.clear();
    assert_eq!(head.encode(V3, &mut out), None);
    assert_eq!(out, hex("31 06 00 01 61"));
}

#[test]
fn lengths_grow_at_their_borders() {
    for (payload_length, header_length) in [
        (0, 2),
        (124, 2),
        (125, 3),
        (16_380, 3),
        (16_381, 4),
        (2_097_148, 4),
        (2_097_149, 5),
    ] {
        let publish = publish("a", payload_length);
        let mut out = Vec::new();
        publish.encode(V3, &mut out).unwrap();
        assert_eq!(out.len(), header_length + 3 + payload_length);
        let (header, length) = nightjar_codec::cut(&out, &nightjar_codec::Limits::PROTOCOL)
            .unwrap()
            .unwrap();
        assert_eq!((header.header_length, length), (header_length, out.len()));
    }
}

#[test]
fn what_does_not_fit_is_refused_and_nothing_is_written() {
    refuse(
        &publish(&"t".repeat(65_536), 0),
        V3,
        EncodeError::FieldTooLong,
    );
    refuse(&publish("t", 268_435_456), V3, EncodeError::PacketTooLarge);
    let mut without_id = publish("t", 1);
    if let Packet::Publish(publish) = &mut without_id {
        publish.qos = QoS::AtLeastOnce;
    }
    refuse(&without_id, V5, EncodeError::NoPacketId);
    let mut identifier = publish("t", 1);
    if let Packet::Publish(publish) = &mut identifier {
        publish.properties.subscription_identifiers = vec![268_435_456];
    }
    refuse(&identifier, V5, EncodeError::SubscriptionIdentifierTooLarge);
    let subscribe = Packet::Subscribe(Subscribe {
        packet_id: PacketId::MIN,
        properties: SubscribeProperties::default(),
        filters: Vec::new(),
    });
    refuse(&subscribe, V5, EncodeError::NoTopicFilters);
}

#[test]
fn packet_ids_wrap_around_zero() {
    assert_eq!(PacketId::new(0), None);
    assert_eq!(PacketId::MIN.next(), PacketId::new(2).unwrap());
    assert_eq!(PacketId::MAX.next(), PacketId::MIN);
}

#[test]
fn every_reason_code_is_its_byte() {
    let mut known = 0;
    for byte in 0..=u8::MAX {
        match ReasonCode::try_from(byte) {
            Ok(code) => {
                assert_eq!(code.as_u8(), byte);
                assert_eq!(code.is_error(), byte >= 0x80);
                known += 1;
            }
            Err(unknown) => assert_eq!(unknown, byte),
        }
    }
    // Table 2-6 of 5.0.
    assert_eq!(known, 43);
    assert_eq!(ReasonCode::ALL.len(), known);
}

fn publish(topic: &str, payload_length: usize) -> Packet {
    Packet::Publish(Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: topic.into(),
        packet_id: None,
        properties: PublishProperties::default(),
        payload: Bytes::from(vec![b'x'; payload_length]),
    })
}

fn check(packet: &Packet, version: ProtocolVersion, expected: &str) {
    let mut out = Vec::new();
    let length = packet.encode(version, &mut out).unwrap();
    assert_eq!(out, hex(expected), "{packet:?} in {version}");
    assert_eq!(length, out.len());
    assert_eq!(packet.encoded_length(version), out.len());
}

fn refuse(packet: &Packet, version: ProtocolVersion, error: EncodeError) {
    let mut out = b"before".to_vec();
    assert_eq!(packet.encode(version, &mut out), Err(error));
    assert_eq!(out, b"before");
}

fn hex(text: &str) -> Vec<u8> {
    text.split_whitespace()
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect()
}
