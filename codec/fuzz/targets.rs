//! Fuzz targets as plain functions: any bytes in, a panic where the codec breaks a promise.
//!
//! The seeded mutator of `tests/fuzz.rs` drives them on stable, cargo-fuzz (`fuzz_targets/`) where a nightly toolchain is. The
//! first byte of the data chooses the protocol version, the rest is what a peer sends.

use bytes::Bytes;
use nightjar_codec::topic::{
    levels, matches, parse_shared, validate_topic_filter, validate_topic_name,
};
use nightjar_codec::{
    DecodeError, FixedHeader, Limits, Packet, PacketType, ProtocolVersion, PublishRef, cut, decode,
    decode_acknowledgement_short, decode_bytes, decode_from_client,
};

/// Cuts and decodes a stream: never a panic, never more bytes than there are, and the same answer from all ways in.
pub(crate) fn decode_any(data: &[u8]) {
    let Some((version, stream)) = split_version(data) else {
        return;
    };
    let mut rest = stream;
    loop {
        let whole = match cut(rest, &LIMITS) {
            Ok(Some((header, length))) => {
                assert_eq!(length, header.packet_length());
                assert_eq!(FixedHeader::read(rest), Ok(Some(header)));
                length
            }
            Ok(None) => break,
            Err(error) => {
                check_error(&error);
                break;
            }
        };
        let (packet, behind) = rest.split_at(whole);
        // Less than the whole is never enough.
        assert_eq!(cut(&packet[..whole - 1], &LIMITS), Ok(None));
        decode_one(packet, version);
        rest = behind;
    }
    // As if somebody had cut it wrongly.
    let _ = decode(stream, version, &LIMITS).map_err(|error| check_error(&error));
}

/// What was decoded is encoded to something that is decoded to the same.
pub(crate) fn decode_then_encode_then_decode(data: &[u8]) {
    let Some((version, packet)) = split_version(data) else {
        return;
    };
    let Ok(first) = decode(packet, version, &LIMITS) else {
        return;
    };
    let mut bytes = Vec::new();
    let length = first
        .encode(version, &mut bytes)
        .expect("what was decoded can be encoded");
    assert_eq!(length, bytes.len());
    assert_eq!(length, first.encoded_length(version));
    let wide = Limits::PROTOCOL;
    assert_eq!(decode(&bytes, version, &wide), Ok(first));
    // Encoding is at least as short as what came, but for Property Lengths that were left out.
    assert!(bytes.len() <= packet.len() + 1);
}

/// The borrowed view of a PUBLISH and the value of it give the same, be it an error.
pub(crate) fn publish_ref_agrees(data: &[u8]) {
    let Some((version, packet)) = split_version(data) else {
        return;
    };
    if packet.first().map(|byte| byte >> 4) != Some(PacketType::Publish as u8) {
        return;
    }
    let view = PublishRef::decode(packet, version, &LIMITS, "");
    let value = match decode(packet, version, &LIMITS) {
        Ok(Packet::Publish(publish)) => publish,
        Ok(other) => panic!("a PUBLISH was decoded to {other:?}"),
        Err(error) => {
            assert_eq!(view.err(), Some(error));
            return;
        }
    };
    let view = view.expect("the value was decoded");
    assert_eq!(
        (view.topic, view.payload, view.packet_id, view.qos),
        (
            &*value.topic,
            &value.payload[..],
            value.packet_id,
            value.qos
        )
    );
    // A topic that is known already changes nothing.
    for known_topic in [view.topic, "another/topic"] {
        let again = PublishRef::decode(packet, version, &LIMITS, known_topic).unwrap();
        assert_eq!((again.topic, again.payload), (view.topic, view.payload));
        let again =
            PublishRef::decode_on_known_topic(packet, version, &LIMITS, known_topic).unwrap();
        assert_eq!((again.topic, again.payload), (view.topic, view.payload));
    }
    let mut forwarded = Vec::new();
    view.properties.write_forwardable(&mut forwarded);
    assert!(forwarded.len() <= view.properties.raw.len());
    assert_eq!(
        view.properties.user_properties().count(),
        value.properties.user_properties.len()
    );
    assert_eq!(
        view.properties
            .subscription_identifiers()
            .collect::<Vec<_>>(),
        value.properties.subscription_identifiers
    );
}

/// Valid filters match valid names as the rules say, level by level. The data is a filter, a line feed and a name.
pub(crate) fn topic_match_agrees(data: &[u8]) {
    let Ok(text) = core::str::from_utf8(data) else {
        return;
    };
    let (filter, name) = text.split_once('\n').unwrap_or((text, "a/b"));
    let shared = parse_shared(filter);
    if let Ok(Some((share_name, inner))) = shared {
        assert_eq!(format!("$share/{share_name}/{inner}"), filter);
        assert_eq!(validate_topic_filter(inner), Ok(()));
    }
    assert!(levels(filter) <= filter.len() + 1);
    if validate_topic_filter(filter).is_err() || validate_topic_name(name).is_err() {
        return;
    }
    assert_eq!(
        matches(filter, name),
        slow_match(filter, name),
        "{filter} {name}"
    );
}

fn decode_one(packet: &[u8], version: ProtocolVersion) {
    let shared = Bytes::copy_from_slice(packet);
    let copied = decode(packet, version, &LIMITS);
    assert_eq!(copied, decode_bytes(&shared, version, &LIMITS));
    match &copied {
        Ok(packet) => {
            let from_server = matches!(
                packet.packet_type(),
                PacketType::Connack
                    | PacketType::Suback
                    | PacketType::Unsuback
                    | PacketType::Pingresp
            );
            assert_eq!(
                decode_from_client(&shared, version, &LIMITS).is_err(),
                from_server
            );
        }
        Err(error) => {
            check_error(error);
            assert!(decode_from_client(&shared, version, &LIMITS).is_err());
        }
    }
    if let Some((packet_type, packet_id)) = decode_acknowledgement_short(packet) {
        let Ok(
            Packet::Puback(value)
            | Packet::Pubrec(value)
            | Packet::Pubrel(value)
            | Packet::Pubcomp(value),
        ) = copied
        else {
            panic!("{packet_type} in short, and not at length");
        };
        assert_eq!(packet_id, value.packet_id);
    }
}

fn check_error(error: &DecodeError) {
    assert!(error.reason_code().is_error());
    // A CONNACK goes out exactly for an error in CONNECT that is not silent.
    assert!(!(error.is_silent() && error.connack_version().is_some()));
    assert!(!error.to_string().is_empty());
}

fn split_version(data: &[u8]) -> Option<(ProtocolVersion, &[u8])> {
    let (&first, rest) = data.split_first()?;
    let version = match first % 3 {
        0 => ProtocolVersion::V5,
        1 => ProtocolVersion::V3_1_1,
        _ => ProtocolVersion::V3_1,
    };
    Some((version, rest))
}

fn slow_match(filter: &str, topic: &str) -> bool {
    let filter: Vec<_> = filter.split('/').collect();
    let topic: Vec<_> = topic.split('/').collect();
    if topic[0].starts_with('$') && ["+", "#"].contains(&filter[0]) {
        return false;
    }
    let (fixed, open) = match filter.split_last() {
        Some((&"#", fixed)) => (fixed, true),
        _ => (&filter[..], false),
    };
    let long_enough = if open {
        topic.len() >= fixed.len()
    } else {
        topic.len() == fixed.len()
    };
    long_enough
        && fixed
            .iter()
            .zip(&topic)
            .all(|(filter, topic)| *filter == "+" || filter == topic)
}

/// Small enough that the mutator meets them.
const LIMITS: Limits = Limits {
    packet_size_max: 100_000,
    user_properties_max: 8,
    topic_levels_max: 64,
    topic_filters_max: 8,
};
