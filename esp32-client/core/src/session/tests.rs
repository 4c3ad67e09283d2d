//! The session against a server that is played by hand, and against one that does anything.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::num::{NonZeroU16, NonZeroU32};
use core::time::Duration;

use nightjar_codec::{
    Acknowledgement, AcknowledgementProperties, Connack, Disconnect, Limits, Packet, PacketId,
    ProtocolVersion, Publish, PublishProperties, QoS, ReasonCode, Suback, SubscribeFilter,
    SubscriptionOptions, TopicName, cut, decode,
};
use proptest::prelude::*;

use super::*;

const V3: ProtocolVersion = ProtocolVersion::V3_1_1;
const V5: ProtocolVersion = ProtocolVersion::V5;
const START: Instant = Instant::from_millis(1_000);

#[test]
fn connect_says_who_comes_and_what_it_takes() {
    for version in [V3, V5] {
        let mut pair = Pair::new(version);
        pair.session.open(START);
        let Some(Packet::Connect(connect)) = pair.sent().pop() else {
            panic!("no CONNECT");
        };
        assert_eq!(&*connect.client_id, "gauge-7");
        assert_eq!((connect.clean_start, connect.keep_alive), (false, 60));
        let maximum = connect.properties.receive_maximum;
        assert_eq!(maximum.is_some(), version.is_v5());
    }
}

#[test]
fn a_refused_connect_ends_with_the_reason() {
    let mut pair = Pair::new(V3);
    pair.session.open(START);
    pair.sent();
    let refusal = Connack::with_reason(ReasonCode::NotAuthorized);
    let ended = Event::Ended(Ended::Refused(ReasonCode::NotAuthorized));
    assert_eq!(pair.give(&Packet::Connack(refusal)), [ended]);
    assert_eq!(pair.sent(), []);
}

#[test]
fn qos_1_ends_with_puback() {
    let mut pair = Pair::online(V5);
    pair.publish(QoS::AtLeastOnce, 1);
    let id = id_of(&pair.sent());
    assert_eq!(pair.session.in_flight(), 1);
    assert_eq!(
        pair.give(&Packet::Puback(Acknowledgement::success(id))),
        [Event::Delivered(1)]
    );
    assert_eq!(pair.session.in_flight(), 0);
}

#[test]
fn qos_2_goes_through_its_four_packets() {
    let mut pair = Pair::online(V3);
    pair.publish(QoS::ExactlyOnce, 1);
    let id = id_of(&pair.sent());
    assert_eq!(pair.give(&Packet::Pubrec(Acknowledgement::success(id))), []);
    assert_eq!(pair.sent(), [Packet::Pubrel(Acknowledgement::success(id))]);
    assert_eq!(
        pair.give(&Packet::Pubcomp(Acknowledgement::success(id))),
        [Event::Delivered(1)]
    );
}

#[test]
fn qos_0_is_delivered_when_it_is_written() {
    let mut pair = Pair::online(V5);
    pair.publish(QoS::AtMostOnce, 1);
    assert_eq!(pair.poll(), [Event::Delivered(1)]);
    assert_eq!(pair.session.in_flight(), 0);
}

#[test]
fn a_refusal_comes_with_its_reason() {
    let mut pair = Pair::online(V5);
    pair.publish(QoS::AtLeastOnce, 1);
    pair.publish(QoS::ExactlyOnce, 2);
    let ids = ids_of(&pair.sent());
    let refused =
        |index: usize| Acknowledgement::with_reason(ids[index], ReasonCode::QuotaExceeded);
    let expected = |token| [Event::Refused(token, ReasonCode::QuotaExceeded)];
    assert_eq!(pair.give(&Packet::Puback(refused(0))), expected(1));
    assert_eq!(pair.give(&Packet::Pubrec(refused(1))), expected(2));
}

#[test]
fn mqtt_4_4_0_1_what_is_in_flight_is_sent_again_in_order_with_dup() {
    let mut pair = Pair::online(V5);
    for token in 1..=3 {
        pair.publish(QoS::ExactlyOnce, token);
    }
    let ids = ids_of(&pair.sent());
    pair.give(&Packet::Pubrec(Acknowledgement::success(ids[0])));
    pair.sent();
    pair.reconnect(true);
    let again = pair.sent();
    assert_eq!(again[0], Packet::Pubrel(Acknowledgement::success(ids[0])));
    let publishes: Vec<(bool, Option<PacketId>)> = again[1..].iter().map(dup_and_id).collect();
    assert_eq!(publishes, [(true, Some(ids[1])), (true, Some(ids[2]))]);
}

#[test]
fn mqtt_3_2_2_5_what_the_server_has_forgotten_is_sent_anew() {
    let mut pair = Pair::online(V3);
    for token in 1..=3 {
        pair.publish(QoS::ExactlyOnce, token);
    }
    let ids = ids_of(&pair.sent());
    pair.give(&Packet::Pubrec(Acknowledgement::success(ids[0])));
    pair.sent();
    // The first one was the server's already; what it did with it is its own.
    assert_eq!(
        pair.reconnect(false),
        [
            Event::Connected {
                session_present: false
            },
            Event::Delivered(1)
        ]
    );
    let publishes: Vec<bool> = pair
        .sent()
        .iter()
        .map(|packet| dup_and_id(packet).0)
        .collect();
    assert_eq!(publishes, [false, false]);
}

#[test]
fn mqtt_4_3_3_10_a_qos_2_message_is_given_out_once() {
    for version in [V3, V5] {
        let mut pair = Pair::online(version);
        let message = publish_of(QoS::ExactlyOnce, 9, 1);
        let events = pair.give(&message);
        let receipt = receipt_of(&events);
        pair.session.acknowledge(receipt, START);
        let pubrec = [Packet::Pubrec(Acknowledgement::success(id(9)))];
        assert_eq!(pair.sent(), pubrec);
        assert_eq!(pair.give(&message), [], "the same again");
        assert_eq!(pair.sent(), pubrec);
        pair.reconnect(true);
        assert_eq!(
            pair.give(&message),
            [],
            "the same again on another connection"
        );
        assert_eq!(pair.sent(), pubrec);
        pair.give(&Packet::Pubrel(Acknowledgement::success(id(9))));
        assert_eq!(
            pair.sent(),
            [Packet::Pubcomp(Acknowledgement::success(id(9)))]
        );
        assert_eq!(pair.give(&message).len(), 1, "the id is free");
    }
}

#[test]
fn an_unacknowledged_message_comes_again_on_the_next_connection() {
    let mut pair = Pair::online(V5);
    let message = publish_of(QoS::ExactlyOnce, 9, 1);
    let stale = receipt_of(&pair.give(&message));
    pair.reconnect(true);
    pair.session.acknowledge(stale, START);
    assert_eq!(pair.sent(), [], "it belongs to the connection that is over");
    assert_eq!(pair.give(&message).len(), 1);
}

#[test]
fn a_release_of_something_unknown_is_answered() {
    let release = Packet::Pubrel(Acknowledgement::success(id(9)));
    for (version, reason) in [
        (V3, ReasonCode::Success),
        (V5, ReasonCode::PacketIdentifierNotFound),
    ] {
        let mut pair = Pair::online(version);
        pair.give(&release);
        assert_eq!(
            pair.sent(),
            [Packet::Pubcomp(Acknowledgement::with_reason(id(9), reason))]
        );
    }
}

#[test]
fn the_servers_receive_maximum_holds() {
    let mut pair = Pair::new(V5);
    let mut connack = accepted(false);
    connack.properties.receive_maximum = NonZeroU16::new(2);
    pair.open_with(connack);
    assert_eq!(pair.try_publish(QoS::AtLeastOnce, 1), Ok(()));
    assert_eq!(pair.try_publish(QoS::ExactlyOnce, 2), Ok(()));
    assert_eq!(
        pair.try_publish(QoS::AtLeastOnce, 3),
        Err(PublishError::Full)
    );
    assert!(!pair.session.can_publish(QoS::AtLeastOnce));
    assert_eq!(
        pair.try_publish(QoS::AtMostOnce, 4),
        Ok(()),
        "QoS 0 needs no window"
    );
    let ids = ids_of(&pair.sent());
    pair.give(&Packet::Puback(Acknowledgement::success(ids[0])));
    assert_eq!(pair.try_publish(QoS::AtLeastOnce, 3), Ok(()));
}

#[test]
fn a_window_that_has_shrunk_holds_for_what_is_sent_again() {
    let mut pair = Pair::online(V5);
    for token in 1..=4 {
        pair.publish(QoS::AtLeastOnce, token);
    }
    pair.sent();
    pair.session.close();
    let mut connack = accepted(true);
    connack.properties.receive_maximum = NonZeroU16::new(1);
    pair.open_with(connack);
    for token in 1..=4 {
        let sent = pair.sent();
        assert_eq!(sent.len(), 1, "one at a time");
        let acknowledged = Packet::Puback(Acknowledgement::success(id_of(&sent)));
        assert_eq!(pair.give(&acknowledged), [Event::Delivered(token)]);
    }
}

#[test]
fn the_servers_maximum_packet_size_holds() {
    let mut pair = Pair::new(V5);
    let mut connack = accepted(false);
    connack.properties.maximum_packet_size = NonZeroU32::new(64);
    pair.open_with(connack);
    let mut large = publication(QoS::AtLeastOnce, 1);
    large.payload = vec![b'x'; 64].into();
    assert_eq!(
        pair.session.publish(large, START),
        Err(PublishError::TooLarge)
    );
    assert_eq!(pair.try_publish(QoS::AtLeastOnce, 2), Ok(()));
}

#[test]
fn a_message_that_has_become_too_large_is_given_back() {
    let mut pair = Pair::online(V5);
    let mut large = publication(QoS::AtLeastOnce, 1);
    large.payload = vec![b'x'; 64].into();
    pair.session.publish(large, START).unwrap();
    pair.publish(QoS::AtLeastOnce, 2);
    pair.sent();
    pair.session.close();
    let mut connack = accepted(true);
    connack.properties.maximum_packet_size = NonZeroU32::new(64);
    let events = pair.open_with(connack);
    assert!(
        events.contains(&Event::Refused(1, ReasonCode::PacketTooLarge)),
        "{events:?}"
    );
    assert_eq!(pair.sent().len(), 1);
}

#[test]
fn maximum_qos_and_retain_available_hold() {
    let mut pair = Pair::new(V5);
    let mut connack = accepted(false);
    connack.properties.maximum_qos = Some(QoS::AtLeastOnce);
    connack.properties.retain_available = Some(false);
    pair.open_with(connack);
    let mut wanted = publication(QoS::ExactlyOnce, 1);
    wanted.retain = true;
    pair.session.publish(wanted, START).unwrap();
    let sent = pair.sent();
    let [Packet::Publish(publish)] = &sent[..] else {
        panic!("{sent:?}");
    };
    assert_eq!((publish.qos, publish.retain), (QoS::AtLeastOnce, false));
}

#[test]
fn silence_is_broken_by_pingreq_and_ends_without_an_answer() {
    let mut pair = Pair::online(V5);
    let due = pair.session.deadline().unwrap();
    assert_eq!(due, START + Duration::from_secs(45));
    pair.session.handle_time(due);
    assert_eq!(pair.sent(), [Packet::Pingreq]);
    pair.session.handle_time(due + Duration::from_secs(19));
    assert_eq!(pair.poll(), []);
    pair.session.handle_time(due + Duration::from_secs(20));
    assert_eq!(pair.poll(), [Event::Ended(Ended::NoPingresp)]);
}

#[test]
fn pingresp_keeps_the_connection() {
    let mut pair = Pair::online(V5);
    let due = pair.session.deadline().unwrap();
    pair.session.handle_time(due);
    pair.sent();
    pair.give(&Packet::Pingresp);
    assert_eq!(pair.session.deadline(), Some(due + Duration::from_secs(45)));
}

#[test]
fn the_servers_keep_alive_counts() {
    let mut pair = Pair::new(V5);
    let mut connack = accepted(false);
    connack.properties.server_keep_alive = Some(8);
    pair.open_with(connack);
    assert_eq!(
        pair.session.deadline(),
        Some(START + Duration::from_secs(6))
    );
}

#[test]
fn a_server_that_says_nothing_to_connect_is_left() {
    let mut pair = Pair::new(V5);
    pair.session.open(START);
    let due = pair.session.deadline().unwrap();
    assert_eq!(due, START + Duration::from_secs(20));
    pair.session.handle_time(due);
    assert_eq!(pair.poll(), [Event::Ended(Ended::NoConnack)]);
}

#[test]
fn a_packet_above_our_limit_ends_the_connection_before_it_is_there() {
    let mut pair = Pair::online(V5);
    pair.session.receive(&[0x30, 0xff, 0xff, 0x7f]);
    let events = pair.poll();
    assert!(
        matches!(&events[..], [Event::Ended(Ended::Malformed(_))]),
        "{events:?}"
    );
    let sent = pair.sent();
    let too_large = Disconnect::with_reason(ReasonCode::PacketTooLarge);
    assert_eq!(sent, [Packet::Disconnect(too_large)]);
}

#[test]
fn more_user_properties_or_levels_than_any_message_needs_end_the_connection() {
    let property = (Box::from("name"), Box::from("value"));
    for (properties, levels, taken) in [(16, 64, true), (17, 1, false), (1, 65, false)] {
        let mut pair = Pair::online(V5);
        let Packet::Publish(mut publish) = publish_of(QoS::AtMostOnce, 1, 0) else {
            unreachable!();
        };
        publish.properties.user_properties = vec![property.clone(); properties];
        publish.topic = vec!["a"; levels].join("/").into();
        let events = pair.give(&Packet::Publish(publish));
        let message = matches!(events[..], [Event::Message(_)]);
        assert_eq!(message, taken, "{properties} {levels}");
        assert_eq!(
            matches!(events[..], [Event::Ended(Ended::Malformed(_))]),
            !taken
        );
    }
}

#[test]
fn more_messages_than_announced_end_the_connection() {
    for version in [V3, V5] {
        let mut pair = Pair::online(version);
        let most = pair.session.settings.receive_maximum.get();
        for number in 1..=most {
            assert_eq!(pair.give(&publish_of(QoS::AtLeastOnce, number, 0)).len(), 1);
        }
        let events = pair.give(&publish_of(QoS::ExactlyOnce, most + 1, 0));
        assert_eq!(events, [Event::Ended(Ended::ReceiveMaximumExceeded)]);
    }
}

#[test]
fn a_topic_alias_ends_the_connection() {
    let mut pair = Pair::online(V5);
    let Packet::Publish(mut publish) = publish_of(QoS::AtMostOnce, 1, 0) else {
        unreachable!();
    };
    publish.properties.topic_alias = NonZeroU16::new(1);
    assert_eq!(
        pair.give(&Packet::Publish(publish)),
        [Event::Ended(Ended::TopicAlias)]
    );
}

#[test]
fn what_a_server_never_sends_ends_the_connection() {
    let acknowledgement = Acknowledgement::success(id(1));
    let suback = Suback {
        packet_id: id(1),
        reason_codes: vec![ReasonCode::Success],
        properties: AcknowledgementProperties::default(),
    };
    for packet in [
        Packet::Connack(accepted(false)),
        Packet::Pingreq,
        Packet::Suback(suback),
    ] {
        let mut pair = Pair::online(V5);
        let events = pair.give(&packet);
        assert!(
            matches!(events[..], [Event::Ended(Ended::Unexpected(_))]),
            "{packet:?}"
        );
    }
    // An acknowledgement of something that is over does no harm; one of the wrong kind does.
    let mut pair = Pair::online(V5);
    assert_eq!(pair.give(&Packet::Puback(acknowledgement)), []);
    pair.publish(QoS::ExactlyOnce, 1);
    let id = id_of(&pair.sent());
    let events = pair.give(&Packet::Puback(Acknowledgement::success(id)));
    assert!(matches!(events[..], [Event::Ended(Ended::Unexpected(_))]));
}

#[test]
fn before_connack_nothing_else_is_taken() {
    let mut pair = Pair::new(V5);
    pair.session.open(START);
    assert_eq!(
        pair.try_publish(QoS::AtMostOnce, 1),
        Err(PublishError::NotConnected)
    );
    let events = pair.give(&publish_of(QoS::AtMostOnce, 1, 0));
    assert!(matches!(events[..], [Event::Ended(Ended::Unexpected(_))]));
}

#[test]
fn the_servers_disconnect_ends_with_its_reason() {
    let mut pair = Pair::online(V5);
    let going = Disconnect::with_reason(ReasonCode::ServerShuttingDown);
    let ended = Event::Ended(Ended::ByServer(ReasonCode::ServerShuttingDown));
    assert_eq!(pair.give(&Packet::Disconnect(going)), [ended]);
}

#[test]
fn disconnect_is_written_behind_everything_else() {
    let mut pair = Pair::online(V3);
    pair.publish(QoS::AtMostOnce, 1);
    pair.session.disconnect();
    let sent = pair.sent();
    assert!(
        matches!(sent[..], [Packet::Publish(_), Packet::Disconnect(_)]),
        "{sent:?}"
    );
    assert!(pair.poll().contains(&Event::Ended(Ended::Asked)));
}

#[test]
fn a_subscription_is_answered_and_requests_are_bounded() {
    let mut pair = Pair::online(V5);
    let filters = || {
        vec![SubscribeFilter {
            topic_filter: "a/#".into(),
            options: SubscriptionOptions::default(),
        }]
    };
    for _ in 0..REQUESTS_MAX {
        assert!(pair.session.subscribe(filters(), START));
    }
    assert!(!pair.session.subscribe(filters(), START));
    let sent = pair.sent();
    let Packet::Subscribe(subscribe) = &sent[0] else {
        panic!("{sent:?}");
    };
    let suback = Suback {
        packet_id: subscribe.packet_id,
        reason_codes: vec![ReasonCode::GrantedQoS1],
        properties: AcknowledgementProperties::default(),
    };
    let answered = [Event::Subscribed(vec![ReasonCode::GrantedQoS1])];
    assert_eq!(pair.give(&Packet::Suback(suback)), answered);
    assert!(pair.session.unsubscribe(vec!["a/#".into()], START));
}

#[test]
fn what_waits_to_be_written_is_bounded_and_stops_the_input() {
    let mut pair = Pair::online(V5);
    while pair.try_publish(QoS::AtMostOnce, 1) == Ok(()) {}
    let waiting = pair.session.outgoing().len();
    let bound = pair.session.settings.outgoing_bytes_max;
    assert!((bound..bound + 100).contains(&waiting), "{waiting}");
    pair.poll();
    assert!(!pair.session.wants_input());
    let mut bytes = Vec::new();
    publish_of(QoS::AtMostOnce, 1, 0)
        .encode(V5, &mut bytes)
        .unwrap();
    pair.session.receive(&bytes);
    assert_eq!(pair.poll(), [], "not before something is written");
    pair.sent();
    assert_eq!(pair.poll().len(), 1);
}

#[test]
fn what_was_received_is_bounded() {
    let mut pair = Pair::online(V5);
    let bound = pair.session.received_max();
    assert_eq!(pair.session.receive(&vec![0; bound + 1]), bound);
    assert_eq!(pair.session.receive(&[0]), 0);
}

#[test]
fn packet_ids_begin_anywhere_and_skip_what_is_in_use() {
    let mut session = Session::new(settings(V5), 0xffff);
    assert_eq!(session.free_packet_id(), PacketId::MAX);
    assert_eq!(session.free_packet_id(), PacketId::MIN);
    let mut session = Session::new(settings(V5), 0);
    assert_eq!(session.free_packet_id(), PacketId::MIN);
    let mut pair = Pair::online(V5);
    pair.publish(QoS::AtLeastOnce, 1);
    let used = id_of(&pair.sent());
    pair.session.next_packet_id = used;
    assert_ne!(pair.session.free_packet_id(), used);
}

/// A message of the server, an acknowledgement of any kind with any id, nonsense, a broken connection, or something of our own.
#[derive(Clone, Debug)]
enum Step {
    Bytes(Vec<u8>),
    Acknowledge(u8, u16),
    Answer,
    Publish(u8),
    Message(u8, u16),
    Reconnect(bool),
    Time(u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => prop::collection::vec(any::<u8>(), 0..40).prop_map(Step::Bytes),
        1 => (0_u8..4, 1_u16..12).prop_map(|(kind, id)| Step::Acknowledge(kind, id)),
        6 => Just(Step::Answer),
        4 => (0_u8..3).prop_map(Step::Publish),
        2 => (0_u8..3, 1_u16..6).prop_map(|(qos, id)| Step::Message(qos, id)),
        2 => any::<bool>().prop_map(Step::Reconnect),
        1 => (0_u32..100_000).prop_map(Step::Time),
    ]
}

proptest! {
    /// Whatever a server does: no panic, bounds hold, tokens end once, order of what is delivered is that of publishing.
    #[test]
    fn nothing_a_server_does_breaks_a_bound(
        v5 in any::<bool>(),
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut pair = Pair::new(if v5 { V5 } else { V3 });
        let mut now = START;
        let mut token = 0;
        let mut ended = BTreeSet::new();
        pair.session.open(now);
        for step in steps {
            let mut events = Vec::new();
            match step {
                Step::Bytes(bytes) => { pair.session.receive(&bytes); }
                Step::Acknowledge(kind, number) => {
                    let acknowledgement = Acknowledgement::success(id(number));
                    let packet = match kind {
                        0 => Packet::Puback(acknowledgement),
                        1 => Packet::Pubrec(acknowledgement),
                        2 => Packet::Pubrel(acknowledgement),
                        _ => Packet::Pubcomp(acknowledgement),
                    };
                    events = pair.give(&packet);
                }
                Step::Answer => events = pair.answer(),
                Step::Publish(qos) => {
                    token += 1;
                    let qos = QoS::from_u8(qos).unwrap();
                    if pair.try_publish(qos, token).is_err() {
                        token -= 1;
                    }
                }
                Step::Message(qos, number) => {
                    events = pair.give(&publish_of(QoS::from_u8(qos).unwrap(), number, 0));
                }
                Step::Reconnect(session_present) => {
                    events = pair.reconnect(session_present);
                }
                Step::Time(millis) => {
                    now = now + Duration::from_millis(millis.into());
                    pair.session.handle_time(now);
                }
            }
            events.extend(pair.poll());
            for event in events {
                match event {
                    Event::Delivered(token) | Event::Refused(token, _) => {
                        prop_assert!(ended.insert(token), "{} ended twice", token);
                    }
                    Event::Message(message) => {
                        if let Some(receipt) = message.receipt {
                            pair.session.acknowledge(receipt, now);
                        }
                    }
                    _ => {}
                }
            }
            let session = &pair.session;
            let maximum = usize::from(session.settings.receive_maximum.get());
            prop_assert!(session.in_flight.len() <= usize::from(session.settings.in_flight_max.get()));
            prop_assert!(session.unreleased.len() <= maximum);
            prop_assert!(session.unacknowledged.len() <= maximum);
            prop_assert!(session.requests.len() <= REQUESTS_MAX);
            prop_assert!(session.received.len() <= session.received_max());
            prop_assert!(session.outgoing.len() <= session.settings.outgoing_bytes_max + 8192);
        }
        // A server that behaves gets everything in the end.
        pair.reconnect(false);
        for _ in 0..100 {
            for event in pair.answer() {
                if let Event::Delivered(token) | Event::Refused(token, _) = event {
                    prop_assert!(ended.insert(token), "{} ended twice", token);
                }
            }
        }
        prop_assert_eq!(pair.session.in_flight(), 0);
    }

    #[test]
    fn no_bytes_make_it_panic(v5 in any::<bool>(), bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut pair = Pair::online(if v5 { V5 } else { V3 });
        for chunk in bytes.chunks(7) {
            pair.session.receive(chunk);
            pair.poll();
        }
    }

    #[test]
    fn packets_may_come_in_any_pieces(cut in 1_usize..20) {
        let mut pair = Pair::online(V5);
        let mut bytes = Vec::new();
        for number in 1..=5 {
            publish_of(QoS::AtLeastOnce, number, 30).encode(V5, &mut bytes).unwrap();
        }
        let mut messages = 0;
        for piece in bytes.chunks(cut) {
            pair.session.receive(piece);
            messages += pair.poll().len();
        }
        prop_assert_eq!(messages, 5);
    }
}

/// A session and the server's end of its connection.
struct Pair {
    session: Session,
    version: ProtocolVersion,
    /// What the server has yet to answer.
    unanswered: Vec<Packet>,
}

impl Pair {
    fn new(version: ProtocolVersion) -> Self {
        Self {
            session: Session::new(settings(version), 1),
            version,
            unanswered: Vec::new(),
        }
    }

    fn online(version: ProtocolVersion) -> Self {
        let mut pair = Self::new(version);
        pair.open_with(accepted(false));
        pair
    }

    /// Opens, accepts; gives what has happened.
    fn open_with(&mut self, connack: Connack) -> Vec<Event> {
        self.session.open(START);
        self.sent();
        self.unanswered.clear();
        self.give(&Packet::Connack(connack))
    }

    fn reconnect(&mut self, session_present: bool) -> Vec<Event> {
        self.session.close();
        self.open_with(accepted(session_present))
    }

    fn give(&mut self, packet: &Packet) -> Vec<Event> {
        let mut bytes = Vec::new();
        packet.encode(self.version, &mut bytes).unwrap();
        self.session.receive(&bytes);
        self.poll()
    }

    fn poll(&mut self) -> Vec<Event> {
        core::iter::from_fn(|| self.session.poll(START)).collect()
    }

    /// Answers what was sent, as a server that behaves.
    fn answer(&mut self) -> Vec<Event> {
        let sent = self.sent();
        self.unanswered.extend(sent);
        let mut events = Vec::new();
        for packet in core::mem::take(&mut self.unanswered) {
            let answer = match packet {
                Packet::Publish(publish) => match (publish.qos, publish.packet_id) {
                    (QoS::AtLeastOnce, Some(id)) => Packet::Puback(Acknowledgement::success(id)),
                    (_, Some(id)) => Packet::Pubrec(Acknowledgement::success(id)),
                    _ => continue,
                },
                Packet::Pubrel(release) => {
                    Packet::Pubcomp(Acknowledgement::success(release.packet_id))
                }
                Packet::Connect(_) => Packet::Connack(accepted(true)),
                Packet::Pingreq => Packet::Pingresp,
                _ => continue,
            };
            events.extend(self.give(&answer));
        }
        events
    }

    /// Takes what is outgoing, as packets.
    fn sent(&mut self) -> Vec<Packet> {
        let bytes = self.session.outgoing().to_vec();
        self.session.written(bytes.len());
        let mut rest = &bytes[..];
        let mut packets = Vec::new();
        while let Some((_, length)) = cut(rest, &Limits::PROTOCOL).unwrap() {
            let (packet, behind) = rest.split_at(length);
            packets.push(decode(packet, self.version, &Limits::PROTOCOL).unwrap());
            rest = behind;
        }
        assert!(rest.is_empty());
        packets
    }

    fn publish(&mut self, qos: QoS, token: u64) {
        self.try_publish(qos, token).unwrap();
    }

    fn try_publish(&mut self, qos: QoS, token: u64) -> Result<(), PublishError> {
        self.session.publish(publication(qos, token), START)
    }
}

fn settings(version: ProtocolVersion) -> Settings {
    Settings::new(ClientId::parse("gauge-7").unwrap(), version)
}

fn accepted(session_present: bool) -> Connack {
    Connack {
        session_present,
        ..Connack::with_reason(ReasonCode::Success)
    }
}

fn publication(qos: QoS, token: u64) -> Publication {
    Publication {
        topic: TopicName::parse("a/b").unwrap(),
        payload: Bytes::from_static(b"reading"),
        qos,
        retain: false,
        correlation_data: None,
        token: Some(token),
    }
}

fn publish_of(qos: QoS, number: u16, payload_bytes: usize) -> Packet {
    Packet::Publish(Publish {
        dup: false,
        qos,
        retain: false,
        topic: Box::from("consumer/request/gauge-7"),
        packet_id: (qos > QoS::AtMostOnce).then(|| id(number)),
        properties: PublishProperties::default(),
        payload: vec![b'x'; payload_bytes].into(),
    })
}

fn id(number: u16) -> PacketId {
    PacketId::new(number).unwrap()
}

fn ids_of(packets: &[Packet]) -> Vec<PacketId> {
    packets
        .iter()
        .filter_map(|packet| dup_and_id(packet).1)
        .collect()
}

#[track_caller]
fn id_of(packets: &[Packet]) -> PacketId {
    ids_of(packets)[0]
}

#[track_caller]
fn dup_and_id(packet: &Packet) -> (bool, Option<PacketId>) {
    match packet {
        Packet::Publish(publish) => (publish.dup, publish.packet_id),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn receipt_of(events: &[Event]) -> Receipt {
    match events {
        [Event::Message(message)] => message.receipt.unwrap(),
        other => panic!("{other:?}"),
    }
}
