//! What one packet costs: `cargo bench -p nightjar-codec`.
//!
//! Decode and encode of the packets of the hot path (a PUBLISH of 64 bytes, its acknowledgement) beside the owned values, and the
//! match of one filter.

use divan::{Bencher, black_box};
use nightjar_codec::topic::matches;
use nightjar_codec::{
    Limits, Packet, PacketId, ProtocolVersion, Publish, PublishHead, PublishProperties, PublishRef,
    QoS, cut, decode, decode_acknowledgement_short,
};

fn main() {
    divan::main();
}

const VERSIONS: [ProtocolVersion; 2] = [ProtocolVersion::V3_1_1, ProtocolVersion::V5];
const LIMITS: Limits = Limits {
    packet_size_max: 2_000_000,
    user_properties_max: 1_000,
    topic_levels_max: 200,
    topic_filters_max: 1_000,
};
const TOPIC: &str = "site/7/line/3/temperature";

#[divan::bench(args = VERSIONS)]
fn decode_publish_view_known_topic(bencher: Bencher<'_, '_>, version: ProtocolVersion) {
    let packet = encoded(version, QoS::AtLeastOnce);
    bencher.bench_local(|| view(&packet, version, TOPIC));
}

#[divan::bench(args = VERSIONS)]
fn decode_publish_view_new_topic(bencher: Bencher<'_, '_>, version: ProtocolVersion) {
    let packet = encoded(version, QoS::AtLeastOnce);
    bencher.bench_local(|| view(&packet, version, ""));
}

#[divan::bench(args = VERSIONS)]
fn cut_and_decode_publish_view(bencher: Bencher<'_, '_>, version: ProtocolVersion) {
    let packet = encoded(version, QoS::AtMostOnce);
    bencher.bench_local(|| {
        let (_, length) = cut(black_box(&packet), &LIMITS).ok()??;
        view(packet.get(..length)?, version, TOPIC)
    });
}

#[divan::bench(args = VERSIONS)]
fn decode_publish_owned(bencher: Bencher<'_, '_>, version: ProtocolVersion) {
    let packet = encoded(version, QoS::AtLeastOnce);
    bencher.bench_local(|| decode(black_box(&packet), version, &LIMITS));
}

#[divan::bench]
fn decode_publish_view_with_properties(bencher: Bencher<'_, '_>) {
    let mut publish = publish(QoS::AtLeastOnce);
    publish.properties.message_expiry_interval = Some(60);
    publish.properties.content_type = Some("application/json".into());
    publish.properties.user_properties = vec![("name".into(), "value".into())];
    let mut packet = Vec::new();
    publish.encode(ProtocolVersion::V5, &mut packet).unwrap();
    bencher.bench_local(|| view(&packet, ProtocolVersion::V5, TOPIC));
}

#[divan::bench(args = VERSIONS)]
fn encode_publish_head(bencher: Bencher<'_, '_>, version: ProtocolVersion) {
    let mut out = Vec::with_capacity(256);
    bencher.bench_local(|| {
        out.clear();
        let head = PublishHead {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain: false,
            topic: black_box(TOPIC),
            packet_id: PacketId::new(7),
            subscription_identifiers: &[],
            message_expiry_interval: None,
            topic_alias: None,
            forwardable_properties: &[],
            payload_length: 64,
        };
        head.encode(version, &mut out)
    });
}

#[divan::bench(args = VERSIONS)]
fn encode_publish_owned(bencher: Bencher<'_, '_>, version: ProtocolVersion) {
    let publish = publish(QoS::AtLeastOnce);
    let mut out = Vec::with_capacity(256);
    bencher.bench_local(|| {
        out.clear();
        black_box(&publish).encode(version, &mut out)
    });
}

#[divan::bench]
fn decode_puback_short(bencher: Bencher<'_, '_>) {
    bencher.bench_local(|| decode_acknowledgement_short(black_box(&[0x40, 2, 0, 7])));
}

#[divan::bench]
fn decode_puback_owned(bencher: Bencher<'_, '_>) {
    bencher.bench_local(|| decode(black_box(&[0x40, 2, 0, 7]), ProtocolVersion::V5, &LIMITS));
}

#[divan::bench]
fn encode_puback(bencher: Bencher<'_, '_>) {
    let packet = decode(&[0x40, 2, 0, 7], ProtocolVersion::V5, &LIMITS).unwrap();
    let mut out = Vec::with_capacity(64);
    bencher.bench_local(|| {
        out.clear();
        black_box(&packet).encode(ProtocolVersion::V5, &mut out)
    });
}

#[divan::bench]
fn decode_connect(bencher: Bencher<'_, '_>) {
    let connect = b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x01a";
    bencher.bench_local(|| decode(black_box(connect), ProtocolVersion::V5, &LIMITS));
}

#[divan::bench(args = [TOPIC, "site/+/line/+/temperature", "site/7/#", "site/8/#", "+/+/+/+/humidity"])]
fn match_topic(bencher: Bencher<'_, '_>, filter: &str) {
    bencher.bench_local(|| matches(black_box(filter), black_box(TOPIC)));
}

/// As the shard uses it: looked at where it is, not moved.
#[inline(always)]
fn view(packet: &[u8], version: ProtocolVersion, known_topic: &str) -> Option<usize> {
    let publish = PublishRef::decode_on_known_topic(
        black_box(packet),
        version,
        &LIMITS,
        black_box(known_topic),
    )
    .ok()?;
    Some(black_box(&publish).payload.len())
}

fn encoded(version: ProtocolVersion, qos: QoS) -> Vec<u8> {
    let mut out = Vec::new();
    Packet::Publish(publish(qos))
        .encode(version, &mut out)
        .unwrap();
    out
}

fn publish(qos: QoS) -> Publish {
    Publish {
        dup: false,
        qos,
        retain: false,
        topic: TOPIC.into(),
        packet_id: PacketId::new(7).filter(|_| qos > QoS::AtMostOnce),
        properties: PublishProperties::default(),
        payload: vec![b'x'; 64].into(),
    }
}
