//! A device against a broker that is played by hand: order, nothing lost, bounds.

use std::collections::BTreeMap;
use std::string::String;

use nightjar_codec::{
    Acknowledgement, AcknowledgementProperties, Connack, Limits, Packet, PacketId, ProtocolVersion,
    Publish, PublishProperties, Suback, cut, decode,
};
use proptest::prelude::*;

use super::*;
use crate::command::Refusal;
use crate::store::flash::FlashRing;
use crate::store::flash::memory::MemoryFlash;
use crate::store::ram::RamStore;

const V5: ProtocolVersion = ProtocolVersion::V5;

#[test]
fn it_subscribes_says_that_it_is_there_and_leaves_a_will() {
    let mut world = World::new(RamStore::new(100, 10_000));
    world.device.open(world.now);
    let Some(Packet::Connect(connect)) = world.sent().pop() else {
        panic!("no CONNECT");
    };
    let will = connect.will.unwrap();
    assert_eq!(
        (&*will.topic, &will.payload[..], will.retain),
        ("devices/gauge-7/status", OFFLINE, true)
    );
    world.give(&Packet::Connack(accepted(false)));
    let sent = world.sent();
    assert!(
        matches!(&sent[0], Packet::Subscribe(subscribe) if &*subscribe.filters[0].topic_filter == "consumer/request/gauge-7")
    );
    assert!(
        matches!(&sent[1], Packet::Publish(publish) if publish.payload[..] == *ONLINE && publish.retain)
    );
    world.device.stop(world.now);
    let sent = world.sent();
    assert!(
        matches!(&sent[0], Packet::Publish(publish) if publish.payload[..] == *OFFLINE && publish.retain)
    );
    assert!(matches!(&sent[1], Packet::Disconnect(_)));
}

#[test]
fn readings_taken_offline_are_delivered_in_the_order_of_their_numbers_whatever_the_clock_does() {
    let mut world = World::new(RamStore::new(100, 100_000));
    for wall in [Some(2_000), None, Some(1_000), Some(0), Some(9_000_000)] {
        world.now.wall = wall;
        world.record();
    }
    world.connect(false);
    assert_eq!(world.deliver_all(), [1, 2, 3, 4, 5]);
    assert_eq!(world.device.counters().pending, 0);
}

#[test]
fn a_reading_stays_in_the_store_until_it_is_acknowledged() {
    let mut world = World::new(RamStore::new(100, 100_000));
    world.connect(false);
    world.record();
    let sent = world.readings();
    assert_eq!(world.device.counters().pending, 1);
    world.acknowledge(&sent[0].1);
    assert_eq!(world.device.counters().pending, 0);
    assert_eq!(world.device.counters().delivered, 1);
}

#[test]
fn after_a_restart_what_was_not_acknowledged_is_sent_again_under_its_number() {
    let mut world = World::new(FlashRing::open(MemoryFlash::<4096>::new(4)).unwrap());
    world.connect(false);
    for _ in 0..3 {
        world.record();
    }
    assert_eq!(world.readings().len(), 3);
    let flash = world.device.store.into_flash();
    let mut world = World::new(FlashRing::open(flash).unwrap());
    world.record();
    world.connect(true);
    assert_eq!(world.deliver_all(), [1, 2, 3, 4]);
}

#[test]
fn a_reading_that_the_broker_cannot_take_now_is_sent_again_before_those_behind_it() {
    let mut world = World::new(RamStore::new(100, 100_000));
    world.connect(false);
    for _ in 0..3 {
        world.record();
    }
    let sent = world.readings();
    world.refuse(&sent[0].1, ReasonCode::QuotaExceeded);
    for (_, id) in &sent[1..] {
        world.acknowledge(id);
    }
    assert_eq!(world.readings(), [], "not at once");
    assert_eq!(world.device.counters().pending, 3, "none is released");
    let due = world.device.deadline().unwrap();
    world.now.monotonic = due;
    assert_eq!(world.deliver_all(), [1, 2, 3]);
    assert_eq!(world.device.counters().deferred, 1);
    assert_eq!(world.device.counters().pending, 0);
}

#[test]
fn a_reading_that_is_refused_for_good_is_counted_and_does_not_stop_the_others() {
    let mut world = World::new(RamStore::new(100, 100_000));
    world.connect(false);
    world.record();
    world.record();
    let sent = world.readings();
    world.refuse(&sent[0].1, ReasonCode::NotAuthorized);
    world.acknowledge(&sent[1].1);
    let counters = world.device.counters();
    assert_eq!(
        (counters.refused, counters.delivered, counters.pending),
        (1, 1, 0)
    );
}

#[test]
fn a_reading_above_the_brokers_limit_is_counted_and_does_not_stop_the_others() {
    let mut world = World::new(RamStore::new(100, 100_000));
    world.record_value(&Value::from(&*"x".repeat(2000)));
    world.record();
    let mut connack = accepted(false);
    connack.properties.maximum_packet_size = core::num::NonZeroU32::new(600);
    world.connect_with(connack);
    assert_eq!(world.deliver_all(), [2]);
    assert_eq!(world.device.counters().refused, 1);
    assert_eq!(world.device.counters().pending, 0);
}

#[test]
fn a_full_store_evicts_the_oldest_and_counts_them() {
    let mut world = World::new(RamStore::new(5, 100_000));
    for _ in 0..8 {
        world.record();
    }
    world.connect(false);
    assert_eq!(world.deliver_all(), [4, 5, 6, 7, 8]);
    assert_eq!(world.device.counters().evicted, 3);
}

#[test]
fn names_that_are_no_part_of_a_topic_are_refused() {
    let mut world = World::new(RamStore::new(5, 1000));
    for name in ["", "a/+", "#", "a\0", &"x".repeat(65), &"x".repeat(300)] {
        let recorded = world.device.record(world.now, name, &Value::Whole(1));
        assert_eq!(recorded, Err(DeviceError::Name), "{name}");
    }
    let recorded = world
        .device
        .record(world.now, "text", &Value::from(&*"x".repeat(1000)));
    assert_eq!(recorded, Err(DeviceError::TooLarge));
    assert_eq!(world.device.counters().recorded, 0);
}

#[test]
fn a_command_is_answered_before_it_is_acknowledged() {
    let mut world = World::new(RamStore::new(5, 1000));
    world.connect(false);
    let message = command(1, "consumer/request/gauge-7");
    world.give(&Packet::Publish(message));
    let sent = world.sent();
    let answers: Vec<String> = sent.iter().filter_map(text_of).collect();
    assert_eq!(
        answers,
        [
            r#"consumer/response/gauge-7 {"id":1,"deliveryStatus":"DELIVERED"}"#,
            r#"consumer/response/gauge-7 {"id":1,"deliveryStatus":"COMPLETED"}"#
        ]
    );
    assert!(matches!(sent.last(), Some(Packet::Puback(_))));
}

#[test]
fn a_response_topic_and_its_correlation_data_are_used() {
    let mut world = World::new(RamStore::new(5, 1000));
    world.connect(false);
    let mut message = command(1, "consumer/request/gauge-7");
    message.properties.response_topic = Some("devices/commands/ack".into());
    message.properties.correlation_data = Some(Bytes::from_static(b"c1"));
    world.give(&Packet::Publish(message));
    let sent = world.sent();
    let Packet::Publish(answer) = &sent[0] else {
        panic!("{sent:?}");
    };
    assert_eq!(&*answer.topic, "devices/commands/ack");
    assert_eq!(
        answer.properties.correlation_data.as_deref(),
        Some(&b"c1"[..])
    );
}

#[test]
fn where_good_bye_cannot_be_written_the_will_says_it() {
    let mut world = World::with_qos(RamStore::new(100, 100_000), QoS::AtMostOnce);
    world.connect(false);
    // Nothing is written any more.
    for _ in 0..20 {
        world.record_value(&Value::from(&*"x".repeat(1000)));
    }
    assert_eq!(world.device.turn(world.now), None);
    assert!(world.device.outgoing().len() > 16_384);
    world.device.stop(world.now);
    let bytes = world.device.outgoing().to_vec();
    let farewell = |packet: &Packet| matches!(packet, Packet::Disconnect(_));
    assert!(!packets(&bytes).iter().any(farewell));
    assert_eq!(world.device.turn(world.now), Some(Ended::Asked));
}

#[test]
fn an_answer_above_the_brokers_limit_is_counted_and_the_command_acknowledged() {
    let mut world = World::new(RamStore::new(5, 1000));
    let mut connack = accepted(false);
    connack.properties.maximum_packet_size = core::num::NonZeroU32::new(200);
    world.connect_with(connack);
    let mut message = command(1, "consumer/request/gauge-7");
    message.properties.correlation_data = Some(vec![b'c'; 300].into());
    world.give(&Packet::Publish(message));
    assert_eq!(world.device.counters().answers_dropped, 2);
    assert!(matches!(world.sent()[..], [Packet::Puback(_)]));
}

#[test]
fn commands_are_acknowledged_in_their_order_while_the_window_is_closed() {
    let mut world = World::new(RamStore::new(100, 100_000));
    let mut connack = accepted(false);
    connack.properties.receive_maximum = NonZeroU16::new(1);
    world.connect_with(connack);
    for id in 1..=4 {
        world.give(&Packet::Publish(command(id, "consumer/request/gauge-7")));
    }
    let mut acknowledged = Vec::new();
    for _ in 0..100 {
        for packet in world.sent() {
            match packet {
                Packet::Publish(publish) => world.acknowledge(&publish.packet_id.unwrap()),
                Packet::Puback(puback) => acknowledged.push(puback.packet_id.get()),
                _ => {}
            }
        }
    }
    assert_eq!(acknowledged, [1, 2, 3, 4]);
    assert!(world.device.answers.is_empty());
}

#[test]
fn commands_of_qos_0_cannot_fill_the_memory() {
    let mut world = World::new(RamStore::new(5, 1000));
    let mut connack = accepted(false);
    connack.properties.receive_maximum = NonZeroU16::new(1);
    world.connect_with(connack);
    for id in 1..=200 {
        let mut message = command(id, "consumer/request/gauge-7");
        message.qos = QoS::AtMostOnce;
        message.packet_id = None;
        world.give(&Packet::Publish(message));
    }
    assert!(world.device.answers.len() <= ANSWERS_MAX + 2);
    assert!(world.device.counters().commands_dropped > 100);
}

#[test]
fn a_receipt_does_not_outlive_its_connection() {
    let mut world = World::new(RamStore::new(5, 1000));
    let mut connack = accepted(false);
    connack.properties.receive_maximum = NonZeroU16::new(1);
    world.connect_with(connack);
    world.give(&Packet::Publish(command(1, "consumer/request/gauge-7")));
    world.device.close();
    assert!(
        world
            .device
            .answers
            .iter()
            .all(|answer| answer.receipt.is_none())
    );
    assert!(
        !world.device.answers.is_empty(),
        "the answers are still owed"
    );
}

#[derive(Clone, Debug)]
enum Step {
    Record,
    /// The broker acknowledges the first of what it has, or refuses it for now.
    Acknowledge,
    Refuse,
    /// The connection goes; what was sent since then has not arrived.
    Cut,
    Reconnect(bool),
    /// The device loses its memory, the flash stays.
    Restart,
    Wait,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Record),
        6 => Just(Step::Acknowledge),
        1 => Just(Step::Refuse),
        1 => Just(Step::Cut),
        3 => any::<bool>().prop_map(Step::Reconnect),
        1 => Just(Step::Restart),
        2 => Just(Step::Wait),
    ]
}

proptest! {
    /// Whatever happens to connection, broker and power: each reading arrives, first arrivals are in order, and a repeat has the
    /// same number and the same payload.
    #[test]
    fn none_is_lost_and_order_is_kept(qos in 1_u8..3, steps in prop::collection::vec(step(), 1..100)) {
        let open = |flash| FlashRing::open(flash).unwrap();
        let qos = QoS::from_u8(qos).unwrap();
        let refused = steps.iter().any(|step| matches!(step, Step::Refuse));
        let mut world = World::with_qos(open(MemoryFlash::<4096>::new(64)), qos);
        let mut arrived: Vec<(u64, Bytes)> = Vec::new();
        let mut waiting: VecDeque<Publish> = VecDeque::new();
        let mut recorded = 0;
        let mut online = false;
        // In the end there is a broker that works.
        let ending = (0..400).map(|index| if index % 4 == 3 { Step::Wait } else { Step::Acknowledge });
        let ending = [Step::Reconnect(true)].into_iter().chain(ending);
        for step in steps.into_iter().chain(ending) {
            match step {
                Step::Record => {
                    world.record();
                    recorded += 1;
                }
                Step::Acknowledge | Step::Refuse => {
                    if let Some(publish) = waiting.pop_front().filter(|_| online) {
                        let number = number_of(&publish.payload);
                        let takes = matches!(step, Step::Acknowledge) || number.is_none();
                        let reason = if takes { ReasonCode::Success } else { ReasonCode::QuotaExceeded };
                        if let Some(number) = number.filter(|_| takes) {
                            arrived.push((number, publish.payload.clone()));
                        }
                        let answer = Acknowledgement::with_reason(publish.packet_id.unwrap(), reason);
                        world.give(&match publish.qos {
                            QoS::ExactlyOnce => Packet::Pubrec(answer),
                            _ => Packet::Puback(answer),
                        });
                    }
                }
                Step::Cut => {
                    world.device.close();
                    world.inbox.clear();
                    waiting.clear();
                    online = false;
                }
                Step::Reconnect(present) => {
                    world.device.close();
                    world.inbox.clear();
                    waiting.clear();
                    world.connect(present);
                    online = true;
                }
                Step::Restart => {
                    let flash = world.device.store.into_flash();
                    world = World::with_qos(open(flash), qos);
                    waiting.clear();
                    online = false;
                }
                Step::Wait => {
                    if let Some(due) = world.device.deadline() {
                        world.now.monotonic = due.min(world.now.monotonic + Duration::from_secs(2));
                    }
                }
            }
            for packet in world.sent() {
                match packet {
                    Packet::Publish(publish) => waiting.push_back(publish),
                    Packet::Pubrel(pubrel) => {
                        world.give(&Packet::Pubcomp(Acknowledgement::success(pubrel.packet_id)));
                    }
                    Packet::Pingreq => world.give(&Packet::Pingresp),
                    _ => {}
                }
            }
        }
        let mut first: Vec<u64> = Vec::new();
        let mut contents: BTreeMap<u64, Bytes> = BTreeMap::new();
        for (number, payload) in arrived {
            let known = contents.entry(number).or_insert_with(|| payload.clone());
            prop_assert_eq!(&*known, &payload, "one number, one reading");
            if !first.contains(&number) {
                first.push(number);
            }
        }
        let all: Vec<u64> = (1..=recorded).collect();
        // One that was refused lets those that were on their way with it pass.
        if !refused {
            prop_assert!(first.is_sorted(), "{first:?}");
        }
        first.sort_unstable();
        prop_assert_eq!(first, all);
        prop_assert_eq!(world.device.counters().pending, 0);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut world = World::new(RamStore::new(5, 1000));
        world.connect(false);
        for chunk in bytes.chunks(11) {
            world.device.receive(chunk);
            let _ = world.device.turn(world.now);
        }
    }

    #[test]
    fn no_record_of_a_store_makes_it_panic(records in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 1..10)) {
        let mut store = RamStore::new(100, 100_000);
        for record in &records {
            store.append(record).unwrap();
        }
        let mut world = World::new(store);
        world.connect(false);
        for _ in 0..20 {
            for packet in world.sent() {
                if let Packet::Publish(publish) = packet {
                    world.acknowledge(&publish.packet_id.unwrap());
                }
            }
        }
        prop_assert_eq!(world.device.counters().pending, 0);
    }
}

struct Board;

impl Actuator for Board {
    fn digital_write(&mut self, _pin: u8, _level: bool) -> Result<(), Refusal> {
        Ok(())
    }
}

/// A device and the broker's end of its connection.
struct World<S> {
    device: Device<S, Board>,
    now: Now,
    /// What has come to the broker and was not looked at.
    inbox: Vec<Packet>,
}

impl<S: Store> World<S> {
    fn new(store: S) -> Self {
        Self::with_qos(store, QoS::AtLeastOnce)
    }

    fn with_qos(store: S, qos: QoS) -> Self {
        let mut config = Config::of("gauge-7", "localhost", 8883).unwrap();
        config.telemetry_qos = qos;
        Self {
            device: Device::new(&config, store, Board, 77),
            now: Now::default(),
            inbox: Vec::new(),
        }
    }

    fn record(&mut self) {
        self.record_value(&Value::Whole(21));
    }

    fn record_value(&mut self, value: &Value) {
        self.device.record(self.now, "temperature", value).unwrap();
    }

    fn connect(&mut self, session_present: bool) {
        self.connect_with(accepted(session_present));
    }

    /// Connects, and answers SUBSCRIBE and the status; readings stay in the inbox.
    fn connect_with(&mut self, connack: Connack) {
        self.device.open(self.now);
        self.sent();
        self.give(&Packet::Connack(connack));
        for packet in self.sent() {
            match packet {
                Packet::Subscribe(subscribe) => {
                    let suback = Suback {
                        packet_id: subscribe.packet_id,
                        reason_codes: vec![ReasonCode::GrantedQoS1],
                        properties: AcknowledgementProperties::default(),
                    };
                    self.give(&Packet::Suback(suback));
                }
                Packet::Publish(publish) if *publish.topic == *"devices/gauge-7/status" => {
                    self.acknowledge(&publish.packet_id.unwrap());
                }
                other => self.inbox.push(other),
            }
        }
    }

    /// The broker says something, and the device does what follows.
    fn give(&mut self, packet: &Packet) {
        let mut bytes = Vec::new();
        packet.encode(V5, &mut bytes).unwrap();
        assert_eq!(self.device.receive(&bytes), bytes.len());
        assert_eq!(self.device.turn(self.now), None, "{packet:?}");
    }

    fn acknowledge(&mut self, id: &PacketId) {
        self.give(&Packet::Puback(Acknowledgement::success(*id)));
    }

    fn refuse(&mut self, id: &PacketId, reason_code: ReasonCode) {
        self.give(&Packet::Puback(Acknowledgement::with_reason(
            *id,
            reason_code,
        )));
    }

    /// What came since this was asked.
    fn sent(&mut self) -> Vec<Packet> {
        if let Some(ended) = self.device.turn(self.now) {
            assert_eq!(ended, Ended::Asked);
        }
        let bytes = self.device.outgoing().to_vec();
        self.device.written(bytes.len());
        self.inbox.extend(packets(&bytes));
        core::mem::take(&mut self.inbox)
    }

    /// Readings that came: number and packet id.
    fn readings(&mut self) -> Vec<(u64, PacketId)> {
        let sent = self.sent();
        let reading = |packet: &Packet| match packet {
            Packet::Publish(publish) => Some((number_of(&publish.payload)?, publish.packet_id?)),
            _ => None,
        };
        sent.iter().filter_map(reading).collect()
    }

    /// Acknowledges readings until none comes; their numbers.
    fn deliver_all(&mut self) -> Vec<u64> {
        let mut numbers = Vec::new();
        loop {
            let readings = self.readings();
            if readings.is_empty() {
                return numbers;
            }
            for (number, id) in readings {
                numbers.push(number);
                self.acknowledge(&id);
            }
        }
    }
}

fn packets(bytes: &[u8]) -> Vec<Packet> {
    let mut rest = bytes;
    let mut packets = Vec::new();
    while let Some((_, length)) = cut(rest, &Limits::PROTOCOL).unwrap() {
        let (packet, behind) = rest.split_at(length);
        packets.push(decode(packet, V5, &Limits::PROTOCOL).unwrap());
        rest = behind;
    }
    assert!(rest.is_empty());
    packets
}

fn number_of(payload: &[u8]) -> Option<u64> {
    let reading: serde_json::Value = serde_json::from_slice(payload).ok()?;
    reading["sequence"].as_u64()
}

fn text_of(packet: &Packet) -> Option<String> {
    match packet {
        Packet::Publish(publish) => {
            let payload = core::str::from_utf8(&publish.payload).unwrap();
            Some(format!("{} {payload}", publish.topic))
        }
        _ => None,
    }
}

fn accepted(session_present: bool) -> Connack {
    Connack {
        session_present,
        ..Connack::with_reason(ReasonCode::Success)
    }
}

fn command(id: u16, topic: &str) -> Publish {
    let payload = format!(
        r#"{{"id":{id},"command":"digitalWrite","data":{{"pinNumber":1,"pinValue":true}}}}"#
    );
    Publish {
        dup: false,
        qos: QoS::AtLeastOnce,
        retain: false,
        topic: topic.into(),
        packet_id: PacketId::new(id),
        properties: PublishProperties::default(),
        payload: payload.into(),
    }
}
