//! What a checkpoint promises: what each operation leaves behind, said as small cases without the help of [`Image`].

use super::*;

/// What a checkpoint promises.
pub fn checkpoint_contract<E: Subject>(make: impl Fn() -> E) {
    for case in cases() {
        let mut engine = make();
        run(&mut engine, case.operations.clone());
        check_integrity(&engine);
        check_case(&engine, &case);
        let engine = reopened(engine);
        check_integrity(&engine);
        check_case(&engine, &case);
    }
    a_queue_is_read_in_pages(make());
    messages_are_read_by_their_ids(make());
    what_is_not_durable_is_not_read(make());
    operations_applied_again_change_nothing(make());
    messages_of_others_do_not_show_in_a_queue(make());
    the_order_of_sending_again_is_kept(make());
    a_second_put_replaces_the_first(make());
    every_field_of_every_record_is_kept(make());
}

/// What is left of some operations, said without the help of [`Image`].
struct Case {
    proves: &'static str,
    operations: Vec<Operation>,
    /// Each owner's queue: message ids in order with `w`aiting, `s`ent or `r`eleased and the packet id.
    queues: Vec<(Owner, &'static [&'static str])>,
    sessions: &'static [&'static str],
    subscriptions: &'static [(&'static str, &'static str)],
    received_qos2: &'static [(&'static str, u16)],
    messages: &'static [MessageId],
    retained: &'static [(&'static str, MessageId)],
}

impl Case {
    fn new(proves: &'static str, operations: Vec<Operation>) -> Self {
        Self {
            proves,
            operations,
            queues: vec![],
            sessions: &[],
            subscriptions: &[],
            received_qos2: &[],
            messages: &[],
            retained: &[],
        }
    }
}

fn cases() -> Vec<Case> {
    let (a, b, g) = (
        Owner::session("a"),
        Owner::session("b"),
        Owner::group("g", "t/+"),
    );
    let group = || {
        vec![
            put_session("a"),
            put_session("b"),
            enqueue(1, &[to_group()]),
            enqueue(2, &[to_group()]),
        ]
    };
    vec![
        Case {
            queues: vec![(a.clone(), &["1 w", "2 w", "3 w"]), (b.clone(), &["2 w"])],
            sessions: &["a", "b"],
            messages: &[1, 2, 3],
            ..Case::new(
                "a queue keeps the order of its messages and a message is stored once",
                vec![
                    put_session("a"),
                    put_session("b"),
                    enqueue(1, &[to("a")]),
                    enqueue(2, &[to("b"), to("a")]),
                    enqueue(3, &[to("a")]),
                ],
            )
        },
        Case {
            queues: vec![(a.clone(), &["9 w", "4 w"])],
            sessions: &["a"],
            messages: &[4, 9],
            ..Case::new(
                "the order of a queue is that of enqueueing, not of message ids",
                vec![
                    put_session("a"),
                    enqueue(9, &[to("a")]),
                    enqueue(4, &[to("a")]),
                ],
            )
        },
        Case {
            queues: vec![(b.clone(), &["1 w"])],
            sessions: &["a", "b"],
            messages: &[1],
            ..Case::new(
                "a message stays until its last owner is done, and a second dequeue changes nothing",
                vec![
                    put_session("a"),
                    put_session("b"),
                    enqueue(1, &[to("a"), to("b")]),
                    enqueue(2, &[to("a")]),
                    dequeue(&a, 1),
                    dequeue(&a, 1),
                    dequeue(&a, 2),
                    dequeue(&a, 2),
                ],
            )
        },
        Case {
            queues: vec![(a.clone(), &["2 w"])],
            sessions: &["a"],
            messages: &[2],
            ..Case::new(
                "a message for a session that is not stored is dropped",
                vec![
                    put_session("a"),
                    enqueue(1, &[to("gone")]),
                    enqueue(2, &[to("gone"), to("a")]),
                ],
            )
        },
        Case {
            queues: vec![(b.clone(), &["1 w"])],
            sessions: &["b"],
            subscriptions: &[("b", "t")],
            received_qos2: &[("b", 5)],
            messages: &[1],
            ..Case::new(
                "a deleted session takes everything of its own with it and nothing of others",
                vec![
                    put_session("a"),
                    put_session("b"),
                    put_subscription("a", "t"),
                    put_subscription("b", "t"),
                    enqueue(1, &[to("a"), to("b")]),
                    enqueue(2, &[to("a")]),
                    enqueue(3, &[to("a")]),
                    assign("a", 2, 7),
                    assign("a", 3, 8),
                    pubrec("a", 8),
                    received("a", 4),
                    received("b", 5),
                    delete_session("a"),
                    delete_session("a"),
                ],
            )
        },
        Case {
            sessions: &["a"],
            ..Case::new(
                "a session that is created again starts empty",
                vec![
                    put_session("a"),
                    put_subscription("a", "t"),
                    enqueue(1, &[to("a")]),
                    assign("a", 1, 7),
                    received("a", 4),
                    delete_session("a"),
                    put_session("a"),
                ],
            )
        },
        Case {
            queues: vec![(a.clone(), &["1 s7", "2 w"])],
            sessions: &["a"],
            subscriptions: &[("a", "t")],
            received_qos2: &[("a", 4)],
            messages: &[1, 2],
            ..Case::new(
                "a replaced session record leaves what the session owns",
                vec![
                    put_session("a"),
                    put_subscription("a", "t"),
                    enqueue(1, &[to("a")]),
                    enqueue(2, &[to("a")]),
                    assign("a", 1, 7),
                    received("a", 4),
                    put_session("a"),
                ],
            )
        },
        Case {
            sessions: &["a"],
            subscriptions: &[("a", "$share/g/t"), ("a", "u")],
            ..Case::new(
                "subscriptions are kept by filter as subscribed",
                vec![
                    put_session("a"),
                    put_subscription("a", "t"),
                    put_subscription("a", "u"),
                    put_subscription("a", "$share/g/t"),
                    put_subscription("a", "u"),
                    Operation::DeleteSubscription {
                        client_id: "a".into(),
                        topic_filter: "t".into(),
                    },
                    Operation::DeleteSubscription {
                        client_id: "a".into(),
                        topic_filter: "t".into(),
                    },
                    put_subscription("gone", "t"),
                ],
            )
        },
        Case {
            queues: vec![(a.clone(), &["1 r7", "2 s8", "3 w"])],
            sessions: &["a"],
            messages: &[2, 3],
            ..Case::new(
                "after PUBREC the packet id is kept and the message is not",
                vec![
                    put_session("a"),
                    enqueue(1, &[to("a")]),
                    enqueue(2, &[to("a")]),
                    enqueue(3, &[to("a")]),
                    assign("a", 1, 7),
                    assign("a", 2, 8),
                    pubrec("a", 7),
                    pubrec("a", 7),
                ],
            )
        },
        Case {
            queues: vec![(a.clone(), &["2 s7"])],
            sessions: &["a"],
            messages: &[2],
            ..Case::new(
                "a dequeue frees the packet id for the next message",
                vec![
                    put_session("a"),
                    enqueue(1, &[to("a")]),
                    enqueue(2, &[to("a")]),
                    assign("a", 1, 7),
                    pubrec("a", 7),
                    dequeue(&a, 1),
                    assign("a", 2, 7),
                ],
            )
        },
        Case {
            queues: vec![(a.clone(), &["1 s9"])],
            sessions: &["a"],
            messages: &[1],
            ..Case::new(
                "a message that is sent under another packet id keeps only that one",
                vec![
                    put_session("a"),
                    enqueue(1, &[to("a")]),
                    assign("a", 1, 7),
                    assign("a", 1, 9),
                    pubrec("a", 7),
                ],
            )
        },
        Case {
            sessions: &["a", "b"],
            received_qos2: &[("a", 2), ("a", 65_535), ("b", 1)],
            ..Case::new(
                "received packet ids are a set for each session",
                vec![
                    put_session("a"),
                    put_session("b"),
                    received("a", 1),
                    received("a", 2),
                    received("a", 2),
                    received("a", 65_535),
                    received("b", 1),
                    Operation::ReleaseQos2 {
                        client_id: "a".into(),
                        packet_id: 1,
                    },
                    Operation::ReleaseQos2 {
                        client_id: "a".into(),
                        packet_id: 1,
                    },
                ],
            )
        },
        Case {
            queues: vec![(g.clone(), &["2 w"]), (a.clone(), &["3 w", "1 s7"])],
            sessions: &["a", "b"],
            messages: &[1, 2, 3],
            ..Case::new(
                "a message that a group gives to a member goes to the end of the member's queue",
                [
                    group(),
                    vec![
                        enqueue(3, &[to("a")]),
                        transfer(1, &g, to("a")),
                        assign("a", 1, 7),
                    ],
                ]
                .concat(),
            )
        },
        Case {
            queues: vec![(g.clone(), &["1 w", "2 w", "3 w"])],
            sessions: &["a", "b"],
            messages: &[1, 2, 3],
            ..Case::new(
                "messages that come back to a group get their places back",
                [
                    group(),
                    vec![
                        transfer(1, &g, to("a")),
                        transfer(2, &g, to("b")),
                        assign("a", 1, 7),
                        enqueue(3, &[to_group()]),
                        transfer(2, &b, to_group()),
                        transfer(1, &a, to_group()),
                    ],
                ]
                .concat(),
            )
        },
        Case {
            queues: vec![(g.clone(), &["1 w", "2 w"])],
            sessions: &["a", "b"],
            messages: &[1, 2],
            ..Case::new(
                "the place in the group is remembered from member to member",
                [
                    group(),
                    vec![
                        transfer(1, &g, to("a")),
                        transfer(1, &a, to("b")),
                        transfer(1, &b, to_group()),
                    ],
                ]
                .concat(),
            )
        },
        Case {
            queues: vec![(g.clone(), &["2 w"]), (a.clone(), &["1 r7"])],
            sessions: &["a", "b"],
            messages: &[2],
            ..Case::new(
                "[MQTT-4.8.2-4] a QoS 2 message past its PUBREC stays with its session",
                [
                    group(),
                    vec![
                        transfer(1, &g, to("a")),
                        assign("a", 1, 7),
                        pubrec("a", 7),
                        transfer(1, &a, to_group()),
                    ],
                ]
                .concat(),
            )
        },
        Case {
            queues: vec![(g.clone(), &["1 w", "2 w"])],
            sessions: &["a", "b"],
            messages: &[1, 2],
            ..Case::new(
                "a message is not given to a session that is not stored",
                [
                    group(),
                    vec![transfer(1, &g, to("gone")), transfer(9, &g, to("a"))],
                ]
                .concat(),
            )
        },
        Case {
            queues: vec![(a.clone(), &["1 w"])],
            sessions: &["a", "b"],
            messages: &[1],
            ..Case::new(
                "a deleted group takes its queue with it, not what its members were given",
                [
                    group(),
                    vec![
                        transfer(1, &g, to("a")),
                        Operation::DeleteGroup {
                            share_name: "g".into(),
                            topic_filter: "t/+".into(),
                        },
                    ],
                ]
                .concat(),
            )
        },
        Case {
            sessions: &["a"],
            messages: &[],
            retained: &[("t", 3), ("u", 2)],
            ..Case::new(
                "one message is retained for a topic, and it does not depend on queues",
                vec![
                    put_session("a"),
                    retain("t", 1),
                    retain("u", 2),
                    retain("t", 3),
                    retain("v", 4),
                    enqueue(2, &[to("a")]),
                    dequeue(&a, 2),
                    Operation::DeleteRetained { topic: "v".into() },
                    Operation::DeleteRetained { topic: "v".into() },
                ],
            )
        },
    ]
}

fn check_case(checkpoint: &impl Checkpoint, case: &Case) {
    let mut queues: BTreeMap<Owner, Vec<String>> = BTreeMap::new();
    let mut sessions = Vec::new();
    let mut subscriptions = Vec::new();
    let mut received_qos2 = Vec::new();
    let mut messages = Vec::new();
    let mut retained = Vec::new();
    for table in Table::ALL {
        scan(checkpoint, table, |record| match record {
            Record::Session { client_id, .. } => sessions.push(client_id),
            Record::Subscription {
                client_id,
                topic_filter,
                ..
            } => subscriptions.push((client_id, topic_filter)),
            Record::Queued { owner, queued } => {
                queues.entry(owner).or_default().push(brief(&queued))
            }
            Record::ReceivedQos2 {
                client_id,
                packet_id,
            } => received_qos2.push((client_id, packet_id)),
            Record::Message { message, .. } => messages.push(message.message_id),
            Record::Retained { message } => {
                retained.push((message.topic.clone(), message.message_id))
            }
            Record::Clock(_) => {}
        });
    }
    let proves = case.proves;
    let strings = |expected: &[&str]| expected.iter().map(ToString::to_string).collect::<Vec<_>>();
    let expected: BTreeMap<Owner, Vec<String>> = case
        .queues
        .iter()
        .map(|(owner, queue)| (owner.clone(), strings(queue)))
        .collect();
    assert_eq!(queues, expected, "queues: {proves}");
    for (owner, queue) in &expected {
        let read: Vec<String> = checkpoint
            .queue(owner, 0, 100)
            .unwrap()
            .iter()
            .map(brief)
            .collect();
        assert_eq!(
            read, *queue,
            "the queue of {owner:?} read by itself: {proves}"
        );
    }
    assert!(
        sessions
            .iter()
            .map(|id| &**id)
            .eq(case.sessions.iter().copied()),
        "{sessions:?}: {proves}"
    );
    for client_id in ["a", "b", "gone"] {
        let stored = checkpoint.session(client_id).unwrap().is_some();
        assert_eq!(
            stored,
            case.sessions.contains(&client_id),
            "session {client_id}: {proves}"
        );
    }
    let subscribed = subscriptions
        .iter()
        .map(|(client_id, topic_filter)| (&**client_id, &**topic_filter));
    assert!(
        subscribed.eq(case.subscriptions.iter().copied()),
        "{subscriptions:?}: {proves}"
    );
    let received = received_qos2
        .iter()
        .map(|(client_id, packet_id)| (&**client_id, *packet_id));
    assert!(
        received.eq(case.received_qos2.iter().copied()),
        "{received_qos2:?}: {proves}"
    );
    assert_eq!(messages, case.messages, "messages: {proves}");
    let kept = retained
        .iter()
        .map(|(topic, message_id)| (&**topic, *message_id));
    assert!(
        kept.eq(case.retained.iter().copied()),
        "{retained:?}: {proves}"
    );
}

fn brief(queued: &QueuedMessage) -> String {
    let state = match queued.state {
        QueuedState::Waiting(_) => "w".to_owned(),
        QueuedState::Sent { packet_id, .. } => format!("s{packet_id}"),
        QueuedState::Released { packet_id, .. } => format!("r{packet_id}"),
    };
    format!("{} {state}", queued.message_id)
}

fn a_queue_is_read_in_pages<E: Subject>(mut engine: E) {
    let mut operations = vec![put_session("a"), put_session("b")];
    for message_id in 1..=10 {
        operations.push(enqueue(message_id, &[to("a")]));
        operations.push(enqueue(100 + message_id, &[to("b")]));
    }
    operations.push(dequeue(&Owner::session("a"), 5));
    run(&mut engine, operations);

    let mut read = Vec::new();
    let mut after = 0;
    loop {
        let page = engine.queue(&Owner::session("a"), after, 4).unwrap();
        assert!(page.len() <= 4, "a page is longer than its limit");
        let Some(last) = page.last() else { break };
        assert!(last.sequence > after, "a page begins behind the one before");
        after = last.sequence;
        read.extend(page.into_iter().map(|queued| queued.message_id));
        assert!(read.len() <= 10, "pages repeat themselves");
    }
    assert_eq!(read, [1, 2, 3, 4, 6, 7, 8, 9, 10]);
    assert!(
        engine.queue(&Owner::session("a"), 0, 0).unwrap().is_empty(),
        "a limit of 0"
    );
    assert!(
        engine
            .queue(&Owner::session("a"), Sequence::MAX, 4)
            .unwrap()
            .is_empty(),
        "behind the end"
    );
    assert!(
        engine
            .queue(&Owner::session("gone"), 0, 4)
            .unwrap()
            .is_empty(),
        "nobody's queue"
    );
}

fn messages_are_read_by_their_ids<E: Subject>(mut engine: E) {
    let a = Owner::session("a");
    let mut operations = vec![put_session("a"), put_session("b")];
    operations.extend((1..=9).map(|message_id| enqueue(message_id, &[to("a")])));
    operations.push(enqueue(10, &[to("b")]));
    operations.push(dequeue(&a, 5));
    run(&mut engine, operations);

    let ids = |wanted: &[MessageId], bytes_max| -> Vec<MessageId> {
        let queued = engine.queued(&a, wanted, bytes_max).unwrap();
        queued.iter().map(|queued| queued.message_id).collect()
    };
    assert_eq!(ids(&[], u64::MAX), [0; 0]);
    assert_eq!(ids(&[7, 2, 9], u64::MAX), [7, 2, 9]);
    assert_eq!(
        ids(&[3, 4, 5, 6], u64::MAX),
        [3, 4],
        "nothing behind a hole"
    );
    assert_eq!(ids(&[10], u64::MAX), [0; 0], "another's message");
    let one = engine
        .outline(&a)
        .unwrap()
        .first()
        .map_or(0, |entry| entry.bytes);
    assert!(one > 0, "a message has a size");
    assert_eq!(ids(&[1, 2, 3, 4], 0), [1], "the first in any case");
    assert_eq!(ids(&[1, 2, 3, 4], u64::from(one) * 3 - 1), [1, 2]);
    assert_eq!(ids(&[1, 2, 3, 4], u64::from(one) * 3), [1, 2, 3]);
    let nobody = Owner::session("gone");
    assert_eq!(engine.queued(&nobody, &[1], u64::MAX).unwrap(), []);
    assert_eq!(engine.outline(&nobody).unwrap(), []);
}

fn what_is_not_durable_is_not_read<E: Subject>(mut engine: E) {
    let a = Owner::session("a");
    run(&mut engine, vec![put_session("a"), enqueue(1, &[to("a")])]);
    engine.hold();
    let lsn = append(&engine, vec![enqueue(2, &[to("a")])]);
    let read = |engine: &E| engine.queued(&a, &[1, 2], u64::MAX).unwrap().len();
    assert_eq!((read(&engine), engine.outline(&a).unwrap().len()), (1, 1));
    engine.settle(lsn);
    engine.catch_up();
    assert_eq!((read(&engine), engine.outline(&a).unwrap().len()), (2, 2));
}

fn messages_of_others_do_not_show_in_a_queue<E: Subject>(mut engine: E) {
    // Names that are prefixes of each other, and a group that is called like a session.
    let owners = [
        Owner::session("a"),
        Owner::session("aa"),
        Owner::session("a/"),
        Owner::group("a", "a"),
        Owner::group("a", "aa"),
        Owner::group("aa", "a"),
        Owner::group("a", "#"),
    ];
    let mut operations = vec![put_session("a"), put_session("aa"), put_session("a/")];
    for (message_id, owner) in (1..).zip(&owners) {
        operations.push(enqueue(message_id, &[entry(owner.clone())]));
    }
    run(&mut engine, operations);
    for (message_id, owner) in (1..).zip(&owners) {
        let queue: Vec<MessageId> = engine
            .queue(owner, 0, 100)
            .unwrap()
            .iter()
            .map(|queued| queued.message_id)
            .collect();
        assert_eq!(queue, [message_id], "the queue of {owner:?}");
    }
}

fn the_order_of_sending_again_is_kept<E: Subject>(mut engine: E) {
    let mut operations = vec![put_session("a")];
    operations.extend((1..=5).map(|message_id| enqueue(message_id, &[to("a")])));
    // Sent in another order than queued, and PUBREC comes in yet another one.
    operations.extend([
        assign("a", 3, 30),
        assign("a", 1, 10),
        assign("a", 4, 40),
        assign("a", 2, 20),
    ]);
    operations.extend([pubrec("a", 10), pubrec("a", 40)]);
    // Given again for a message that was sent: sent once more, behind the others.
    operations.push(assign("a", 3, 31));
    run(&mut engine, operations);
    let engine = reopened(engine);
    let mut sent = Vec::new();
    let mut released = Vec::new();
    for queued in engine.queue(&Owner::session("a"), 0, 100).unwrap() {
        match queued.state {
            QueuedState::Waiting(message) => assert_eq!(message.message_id, 5),
            QueuedState::Sent {
                packet_id, order, ..
            } => sent.push((order, packet_id)),
            QueuedState::Released { packet_id, order } => released.push((order, packet_id)),
        }
    }
    sent.sort_unstable();
    released.sort_unstable();
    let packet_ids = |sorted: &[(u64, u16)]| {
        sorted
            .iter()
            .map(|(_, packet_id)| *packet_id)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        packet_ids(&sent),
        [20, 31],
        "[MQTT-4.6.0-1] PUBLISH is sent again in the order of the first time"
    );
    assert_eq!(
        packet_ids(&released),
        [10, 40],
        "[MQTT-4.6.0-4] PUBREL follows the order of PUBREC"
    );
}

fn a_second_put_replaces_the_first<E: Subject>(mut engine: E) {
    let Operation::PutSession { client_id, session } = put_session("a") else {
        unreachable!()
    };
    let session = SessionRecord {
        expires_at: Some(9),
        ..session
    };
    let Operation::PutSubscription { subscription, .. } = put_subscription("a", "t") else {
        unreachable!()
    };
    let subscription = SubscriptionRecord {
        no_local: true,
        ..subscription
    };
    let operations = vec![
        put_session("a"),
        put_subscription("a", "t"),
        Operation::PutSession {
            client_id,
            session: session.clone(),
        },
        Operation::PutSubscription {
            client_id: "a".into(),
            topic_filter: "t".into(),
            subscription: subscription.clone(),
        },
    ];
    run(&mut engine, operations);
    assert_eq!(engine.session("a").unwrap(), Some(session));
    scan(&engine, Table::Subscriptions, |record| {
        let Record::Subscription {
            subscription: stored,
            ..
        } = record
        else {
            panic!("{record:?}")
        };
        assert_eq!(stored, subscription);
    });
}

fn operations_applied_again_change_nothing<E: Subject>(mut engine: E) {
    let operations = vec![
        put_session("a"),
        enqueue(1, &[to("a")]),
        enqueue(2, &[to("a")]),
        assign("a", 1, 7),
        dequeue(&Owner::session("a"), 1),
        assign("a", 2, 7),
        pubrec("a", 7),
        enqueue(3, &[to("a")]),
    ];
    let mut model = Image::new();
    operations
        .iter()
        .for_each(|operation| model.fold(operation));
    let lsn = run(&mut engine, operations.clone());
    engine.apply(&operations, lsn).unwrap();
    check_same(&engine, &model, "a whole replay");
    engine.apply(&operations[5..], lsn).unwrap();
    check_same(&engine, &model, "a replay of the last three");
    engine.apply(&operations[..5], lsn - 3).unwrap();
    check_same(&engine, &model, "a replay of the first five");
}

fn every_field_of_every_record_is_kept<E: Subject>(mut engine: E) {
    let full_will = WillRecord {
        topic: "w".into(),
        payload: Bytes::from_static(b"\0will\xff"),
        properties: Bytes::from_static(&[1, 1]),
        qos: QoS::ExactlyOnce,
        retain: true,
        message_expiry_interval: Some(u32::MAX),
        delay: 5,
        fires_at: Some(u64::MAX),
    };
    let full_session = SessionRecord {
        protocol_version: ProtocolVersion::V5,
        session_expiry_interval: u32::MAX,
        expires_at: Some(1),
        will: Some(full_will),
        user: Some("".into()),
    };
    let full_subscription = SubscriptionRecord {
        qos: QoS::AtMostOnce,
        no_local: true,
        retain_as_published: true,
        retain_handling: RetainHandling::DoNotSend,
        subscription_identifier: Some(268_435_455),
    };
    let full_message = Arc::new(StoredMessage {
        message_id: u64::MAX,
        topic: "ü/€".into(),
        payload: Bytes::from_static(&[0, 255]),
        properties: Bytes::from_static(&[38, 0, 1, b'k', 0, 1, b'v']),
        qos: QoS::ExactlyOnce,
        retain: true,
        expires_at: Some(0),
        sequence: 77,
        publisher: Some("p".into()),
        publisher_user: Some("u".into()),
    });
    let full_entry = OwnerEntry {
        owner: Owner::session("a"),
        qos: QoS::AtLeastOnce,
        retain: true,
        subscription_identifiers: vec![3, 1, 2],
    };
    let clock = ClockRecord {
        broker: 12,
        wall: u64::MAX,
    };
    let operations = vec![
        Operation::PutSession {
            client_id: "a".into(),
            session: full_session.clone(),
        },
        Operation::PutSubscription {
            client_id: "a".into(),
            topic_filter: "#".into(),
            subscription: full_subscription.clone(),
        },
        Operation::Enqueue {
            message: Arc::clone(&full_message),
            owners: [full_entry].into(),
        },
        Operation::PutRetained {
            message: Arc::clone(&full_message),
        },
        Operation::PutClock(ClockRecord { broker: 1, wall: 1 }),
        Operation::PutClock(clock),
    ];
    run(&mut engine, operations);
    let engine = reopened(engine);

    let rows = |table| {
        let mut rows = Vec::new();
        scan(&engine, table, |record| rows.push(record));
        rows
    };
    assert_eq!(engine.session("a").unwrap(), Some(full_session.clone()));
    assert_eq!(
        rows(Table::Sessions),
        [Record::Session {
            client_id: "a".into(),
            session: full_session
        }]
    );
    let subscription = full_subscription;
    assert_eq!(
        rows(Table::Subscriptions),
        [Record::Subscription {
            client_id: "a".into(),
            topic_filter: "#".into(),
            subscription
        }]
    );
    assert_eq!(
        rows(Table::Messages),
        [Record::Message {
            message: Arc::clone(&full_message),
            owners: 1
        }]
    );
    assert_eq!(
        rows(Table::Retained),
        [Record::Retained {
            message: Arc::clone(&full_message)
        }]
    );
    assert_eq!(rows(Table::Clock), [Record::Clock(clock)]);
    let queue = engine.queue(&Owner::session("a"), 0, 2).unwrap();
    let [queued] = queue.as_slice() else {
        panic!("one message, not {queue:?}")
    };
    assert_eq!(queued.state, QueuedState::Waiting(full_message));
    assert_eq!((queued.qos, queued.retain), (QoS::AtLeastOnce, true));
    assert_eq!(queued.subscription_identifiers, [3, 1, 2]);
    assert_eq!(queued.came_from, None);
}
