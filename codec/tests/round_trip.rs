//! Whatever is encoded is decoded to the same value, in every version; whole, in pieces, and by way of the borrowed view.

mod common;

use bytes::Bytes;
use nightjar_codec::{
    AuthProperties, Limits, Packet, PacketId, PacketType, ProtocolVersion, Publish, PublishHead,
    PublishRef, QoS, cut, decode, decode_acknowledgement_short, decode_bytes,
};
use proptest::prelude::*;

const LIMITS: Limits = Limits::PROTOCOL;

fn any_packet() -> impl Strategy<Value = (ProtocolVersion, Packet)> {
    common::version()
        .prop_flat_map(|version| common::packet(version).prop_map(move |packet| (version, packet)))
}

proptest! {
    #![proptest_config(common::cases(2_000))]

    #[test]
    fn every_packet_survives_the_wire((version, packet) in any_packet()) {
        let bytes = encode(&packet, version);
        prop_assert_eq!(bytes.len(), packet.encoded_length(version));
        prop_assert_eq!(decode(&bytes, version, &LIMITS), Ok(packet.clone()));
        prop_assert_eq!(decode_bytes(&Bytes::from(bytes), version, &LIMITS), Ok(packet));
    }

    #[test]
    fn encoding_appends_behind_what_is_there((version, packet) in any_packet()) {
        let mut out = b"before".to_vec();
        let length = packet.encode(version, &mut out).unwrap();
        prop_assert_eq!(&out[..6], b"before");
        prop_assert_eq!(&out[6..], &encode(&packet, version)[..]);
        prop_assert_eq!(out.len(), 6 + length);
    }

    #[test]
    fn the_view_of_a_publish_agrees_with_the_value(
        (version, publish) in publish(),
        known in any::<bool>(),
    ) {
        let bytes = encode(&Packet::Publish(publish.clone()), version);
        let known_topic = if known { &*publish.topic } else { "other/topic" };
        let view = PublishRef::decode(&bytes, version, &LIMITS, known_topic).unwrap();
        check_view(&view, &publish);
        let view =
            PublishRef::decode_on_known_topic(&bytes, version, &LIMITS, known_topic).unwrap();
        check_view(&view, &publish);
    }

    #[test]
    fn a_forwarded_head_is_decoded_to_what_was_forwarded(
        (version, publish) in publish(),
        dup in any::<bool>(),
        expiry in prop::option::of(any::<u32>()),
    ) {
        let bytes = encode(&Packet::Publish(publish.clone()), version);
        let view = PublishRef::decode(&bytes, version, &LIMITS, "").unwrap();
        let mut forwardable = Vec::new();
        view.properties.write_forwardable(&mut forwardable);
        if let Some(raw) = view.properties.forwardable() {
            prop_assert_eq!(raw, &forwardable[..]);
        }
        let mut expected = publish.clone();
        expected.dup = dup && publish.qos > QoS::AtMostOnce;
        if version.is_v5() {
            expected.properties.message_expiry_interval = expiry;
            expected.properties.subscription_identifiers = vec![7, 300];
        }
        let head = PublishHead {
            dup: expected.dup,
            qos: publish.qos,
            retain: publish.retain,
            topic: &publish.topic,
            packet_id: publish.packet_id,
            subscription_identifiers: &[7, 300],
            message_expiry_interval: expiry,
            topic_alias: publish.properties.topic_alias,
            forwardable_properties: &forwardable,
            payload_length: publish.payload.len(),
        };
        let mut out = Vec::new();
        let offset = head.encode(version, &mut out);
        prop_assert_eq!(out.len() + publish.payload.len(), head.encoded_length(version));
        if let Some(offset) = offset {
            // The id is where the caller was told to patch it.
            let id = PacketId::new(0xabcd).unwrap();
            out[offset..offset + 2].copy_from_slice(&id.get().to_be_bytes());
            expected.packet_id = Some(id);
        }
        out.extend_from_slice(&publish.payload);
        prop_assert_eq!(decode(&out, version, &LIMITS), Ok(Packet::Publish(expected)));
    }

    #[test]
    fn the_short_form_of_an_acknowledgement_agrees_with_decode((version, packet) in any_packet()) {
        let bytes = encode(&packet, version);
        let short = decode_acknowledgement_short(&bytes);
        let expected = match &packet {
            Packet::Puback(ack) | Packet::Pubrec(ack) | Packet::Pubrel(ack) | Packet::Pubcomp(ack)
                if bytes.len() == 4 =>
            {
                Some((packet.packet_type(), ack.packet_id))
            }
            _ => None,
        };
        prop_assert_eq!(short, expected);
    }
}

proptest! {
    #![proptest_config(common::cases(300))]

    /// W20: one byte a segment, or all packets in one.
    #[test]
    fn a_packet_cut_at_every_byte_needs_more_and_then_is_the_same(
        (version, packet) in any_packet(),
        behind in prop::collection::vec(any::<u8>(), 0..4),
    ) {
        let bytes = encode(&packet, version);
        for length in 0..bytes.len() {
            prop_assert_eq!(cut(&bytes[..length], &LIMITS), Ok(None), "at {}", length);
        }
        let mut stream = bytes.clone();
        stream.extend_from_slice(&behind);
        let (header, length) = cut(&stream, &LIMITS).unwrap().expect("a whole packet");
        prop_assert_eq!(length, bytes.len());
        prop_assert_eq!(header.packet_length(), bytes.len());
        prop_assert_eq!(header.packet_type(), Ok(packet.packet_type()));
        prop_assert_eq!(decode(&stream[..length], version, &LIMITS), Ok(packet));
    }

    /// W4, W5: a packet whose last bytes are missing, with the Remaining Length that says so, is refused; never accepted as the
    /// same packet, never a panic.
    #[test]
    fn a_packet_that_ends_early_is_not_taken_for_the_whole((version, packet) in any_packet()) {
        let bytes = encode(&packet, version);
        // An AUTH without properties is taken without their length too.
        prop_assume!(!matches!(&packet, Packet::Auth(auth) if auth.properties == AuthProperties::default()));
        let (header, _) = cut(&bytes, &LIMITS).unwrap().unwrap();
        let body = &bytes[header.header_length..];
        for length in 0..body.len() {
            let mut short = vec![bytes[0]];
            put_variable_byte_integer(length, &mut short);
            short.extend_from_slice(&body[..length]);
            prop_assert_ne!(decode(&short, version, &LIMITS), Ok(packet.clone()));
        }
    }
}

#[test]
fn coalesced_packets_are_cut_one_by_one() {
    let version = ProtocolVersion::V5;
    let packet = Packet::Pingreq;
    let stream = encode(&packet, version).repeat(10_000);
    let mut rest = &stream[..];
    let mut count = 0;
    while let Some((_, length)) = cut(rest, &LIMITS).unwrap() {
        assert_eq!(
            decode(&rest[..length], version, &LIMITS),
            Ok(Packet::Pingreq)
        );
        rest = &rest[length..];
        count += 1;
    }
    assert_eq!(count, 10_000);
    assert!(rest.is_empty());
}

#[test]
fn a_payload_shares_the_memory_of_its_packet() {
    let packet = Bytes::from_static(b"\x30\x0a\x00\x01tpayload");
    let Ok(Packet::Publish(publish)) = decode_bytes(&packet, ProtocolVersion::V3_1_1, &LIMITS)
    else {
        panic!("a PUBLISH");
    };
    assert_eq!(publish.payload.as_ptr(), packet[5..].as_ptr());
    assert_eq!(&publish.payload[..], b"payload");
}

fn publish() -> impl Strategy<Value = (ProtocolVersion, Publish)> {
    common::version().prop_flat_map(|version| {
        common::publish(version).prop_map(move |publish| (version, publish))
    })
}

fn check_view(view: &PublishRef<'_>, publish: &Publish) {
    assert_eq!(
        (
            view.dup,
            view.qos,
            view.retain,
            view.topic,
            view.packet_id,
            view.payload
        ),
        (
            publish.dup,
            publish.qos,
            publish.retain,
            &*publish.topic,
            publish.packet_id,
            &publish.payload[..]
        )
    );
    let (theirs, ours) = (&view.properties, &publish.properties);
    assert_eq!(
        theirs.payload_format_indicator,
        ours.payload_format_indicator
    );
    assert_eq!(theirs.message_expiry_interval, ours.message_expiry_interval);
    assert_eq!(theirs.topic_alias, ours.topic_alias);
    assert_eq!(theirs.response_topic, ours.response_topic.as_deref());
    assert_eq!(theirs.correlation_data, ours.correlation_data.as_deref());
    assert_eq!(theirs.content_type, ours.content_type.as_deref());
    let user_properties: Vec<_> = ours
        .user_properties
        .iter()
        .map(|(n, v)| (&**n, &**v))
        .collect();
    assert_eq!(
        theirs.user_properties().collect::<Vec<_>>(),
        user_properties
    );
    assert_eq!(
        theirs.subscription_identifiers().collect::<Vec<_>>(),
        ours.subscription_identifiers
    );
    assert_eq!(
        theirs.has_subscription_identifier,
        !ours.subscription_identifiers.is_empty()
    );
}

fn encode(packet: &Packet, version: ProtocolVersion) -> Vec<u8> {
    let mut out = Vec::new();
    let length = packet.encode(version, &mut out).unwrap();
    assert_eq!(length, out.len());
    out
}

fn put_variable_byte_integer(mut value: usize, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The fast path must not take for short what has other flags or an id of 0.
#[test]
fn the_short_form_takes_nothing_else() {
    for bytes in [
        &[0x41, 2, 0, 1][..],
        &[0x60, 2, 0, 1],
        &[0x62, 2, 0, 0],
        &[0x40, 3, 0, 1],
        &[0x40, 2, 0],
        &[0x40, 2, 0, 1, 0],
        &[0x30, 2, 0, 1],
    ] {
        assert_eq!(decode_acknowledgement_short(bytes), None, "{bytes:02x?}");
    }
    assert_eq!(
        decode_acknowledgement_short(&[0x62, 2, 1, 2]),
        Some((PacketType::Pubrel, PacketId::new(0x102).unwrap()))
    );
}
