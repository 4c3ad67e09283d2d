//! What is kept: deep topics (R1), retained messages (R2, R3), subscriptions (R4), sessions (R5), wills (R6).

use harness::{Client, Connect, PATIENCE, bytes, hex, packet, wait_until};

use crate::{Scene, contains};

#[test]
fn r1_topics_of_65535_levels_are_harmless() {
    let scene = Scene::start("topic_levels_max = 65_535");
    let mut client = Client::connect_v5(&scene.broker, "deep", "");
    let topic = "/".repeat(65_534);
    let filters = [
        topic.clone(),
        "+/".repeat(32_767),
        format!("{}#", "/".repeat(30_000)),
        format!("{}#", "+/".repeat(30_000)),
    ];
    for (number, filter) in filters.iter().enumerate() {
        client.send(&packet("82", &format!("m{} v0 s'{filter}' 00", number + 1)));
        client.expect(&format!("90 04 m{} v0 00", number + 1));
    }
    client.send(&packet("33", &format!("s'{topic}' m9 v0 'x'")));
    client.expect_bytes(&packet("30", &format!("s'{topic}' v0 'x'")));
    client.expect("40 02 m9");
    let mut later = Client::connect_v4(&scene.broker, "later");
    later.send(&packet("82", &format!("m1 s'{}' 00", filters[3])));
    later.expect("90 03 m1 00");
    later.expect_bytes(&packet("31", &format!("s'{topic}' 'x'")));
    for (number, filter) in filters.iter().enumerate() {
        client.send(&packet("a2", &format!("m{} v0 s'{filter}'", number + 1)));
        client.expect(&format!("b0 04 m{} v0 00", number + 1));
    }
    later.send(&packet("a2", &format!("m2 s'{}'", filters[3])));
    later.expect("b0 02 m2");
    // Retained with an expiry, so that the sweep has to find it as well.
    client.send(&packet("33", &format!("s'{topic}' m9 v5 02 L1 'x'")));
    let puback = client.receive_packet();
    assert_eq!(puback[..4], bytes("40 03 m9"), "{}", hex(&puback));
    wait_until("the retained message expires", PATIENCE, || {
        later.send(&packet("82", "m2 s'#' 00"));
        let mut received = Vec::new();
        later.send(&bytes("c0 00"));
        while received.last() != Some(&bytes("d0 00")) {
            received.push(later.receive_packet());
        }
        received.len() == 2
    });
    scene.finish();
}

#[test]
fn r1_topics_deeper_than_configured_are_refused() {
    let scene = Scene::start("");
    let (deepest, too_deep) = ("/".repeat(199), "/".repeat(200));
    let mut client = Client::connect_v5(&scene.broker, "deep", "");
    client.send(&packet(
        "82",
        &format!("m1 v0 s'{deepest}' 00 s'{too_deep}' 00"),
    ));
    client.expect("90 05 m1 v0 00 8f");
    client.send(&packet("32", &format!("s'{deepest}' m1 v0 'x'")));
    client.expect_bytes(&packet("30", &format!("s'{deepest}' v0 'x'")));
    client.expect("40 02 m1");
    client.send(&packet("32", &format!("s'{too_deep}' m1 v0 'x'")));
    client.expect("e0 01 90");
    client.expect_close();
    let mut client = Client::connect_v4(&scene.broker, "deep");
    client.send(&packet("32", &format!("s'{too_deep}' m1 'x'")));
    client.expect_close();
    scene.finish();
}

#[test]
fn r2_the_retained_store_refuses_what_is_new_and_lets_the_old_be_changed() {
    for bound in ["retained_count_max = 10", "retained_bytes_max = 2000"] {
        let scene = Scene::start(bound);
        let mut client = Client::connect_v5(&scene.broker, "flood", "");
        let mut stored = 0;
        loop {
            client.send(&packet("33", &format!("s'r/{stored}' m1 v0 'payload'")));
            match client.receive_packet() {
                answer if answer == bytes("40 03 m1 10") => stored += 1,
                answer if answer == bytes("40 03 m1 97") => break,
                answer => panic!("{bound}: {}", hex(&answer)),
            }
            assert!(stored <= 15, "{bound}: no bound");
        }
        assert!(stored >= 5, "{bound}: full after {stored}");
        client.send(&packet("35", "s'r/new' m2 v0 'payload'"));
        client.expect("50 03 m2 97");
        // QoS 0 is not stored and nobody is told; the old can be replaced and deleted, and then there is room.
        client.send(&packet("31", "s'r/new' v0 'payload'"));
        client.send(&packet("33", "s'r/0' m3 v0 'PAYLOAD'"));
        client.expect("40 03 m3 10");
        client.send(&packet("33", "s'r/1' m4 v0"));
        client.expect("40 03 m4 10");
        client.send(&packet("33", "s'r/9' m5 v0 'payload'"));
        client.expect("40 03 m5 10");
        client.send(&packet("82", "m6 v0 s'r/new' 00 s'r/0' 00"));
        client.expect("90 05 m6 v0 00 00");
        client.expect_bytes(&packet("31", "s'r/0' v0 'PAYLOAD'"));
        client.expect_nothing_until_pingresp();
        scene.finish();
    }
}

#[test]
fn r3_asking_for_everything_retained_again_and_again_costs_a_bounded_queue() {
    let mut scene = Scene::start("queue_bytes_max = \"4 MiB\"");
    let mut publisher = Client::connect_v4(&scene.broker, "publisher");
    let payload = "x".repeat(1000);
    for number in 0..2000 {
        publisher.send(&packet("31", &format!("s'r/{number}' '{payload}'")));
    }
    publisher.expect_nothing_until_pingresp();
    let before = scene.broker.resident_bytes();
    let mut greedy = Client::connect_v4(&scene.broker, "greedy");
    for _ in 0..100 {
        greedy.send(&packet("82", "m1 s'r/#' 00").repeat(100));
        scene.echo();
    }
    let growth = scene.broker.resident_bytes().saturating_sub(before);
    assert!(
        growth < 16 << 20,
        "{growth} bytes for one client that does not read"
    );
    scene.finish();
}

#[test]
fn r4_subscriptions_are_bound_within_a_packet_and_over_all() {
    let scene = Scene::start("subscriptions_per_session_max = 100\nsubscriptions_max = 150");
    let subscribe = |client: &mut Client, prefix: &str, count: usize| {
        let filters: String = (0..count)
            .map(|number| format!("s'{prefix}/{number}' 00 "))
            .collect();
        client.send(&packet("82", &format!("m1 v0 {filters}")));
        let suback = client.receive_packet();
        let codes = &suback[suback.len() - count..];
        codes.iter().filter(|code| **code == 0x97).count()
    };
    let mut first = Client::connect_v5(&scene.broker, "first", "");
    assert_eq!(subscribe(&mut first, "a", 120), 20);
    assert_eq!(
        subscribe(&mut first, "a", 100),
        0,
        "replacing needs no room"
    );
    assert_eq!(subscribe(&mut first, "b", 1), 1);
    first.send(&packet("a2", "m2 v0 s'a/0'"));
    first.expect("b0 04 m2 v0 00");
    assert_eq!(subscribe(&mut first, "b", 2), 1);
    // The canaries have some of the 150, too.
    let mut second = Client::connect_v5(&scene.broker, "second", "");
    let refused = subscribe(&mut second, "c", 100);
    assert!((50..70).contains(&refused), "{refused} of 100 refused");
    first.disconnect();
    wait_until("room is given back", PATIENCE, || {
        subscribe(&mut second, "c", 90) == 0
    });
    scene.finish();
}

#[test]
fn r4_subscriptions_leave_no_memory_behind() {
    let scene = Scene::start("");
    let filters: Vec<String> = (0..20)
        .map(|block| {
            (0..500)
                .map(|number| format!("s'flood/{block}/{number}/+/x' 00 "))
                .collect()
        })
        .collect();
    let mut after_round = Vec::new();
    for _ in 0..4 {
        let mut client = Client::connect_v4(&scene.broker, "flood");
        for filters in &filters {
            client.send(&packet("82", &format!("m1 {filters}")));
            assert_eq!(client.receive_packet()[0], 0x90);
        }
        for filters in &filters[..10] {
            client.send(&packet(
                "a2",
                &format!("m1 {}", filters.replace(" 00 ", " ")),
            ));
            client.expect("b0 02 m1");
        }
        client.disconnect();
        after_round.push(scene.broker.resident_bytes());
    }
    let growth = after_round[3].saturating_sub(after_round[1]);
    assert!(growth < 1 << 20, "{after_round:?}");
    scene.finish();
}

#[test]
fn r5_sessions_are_bound_and_expire() {
    let scene = Scene::start(
        "sessions_max = 30\nsession_expiry_interval_max = \"1 s\"\nv3_session_expiry_interval = \"1 s\"",
    );
    let v5 = |number: usize| {
        let connect = Connect::v5(format!("hoard-{number}"));
        connect.clean(false).properties("11 L4294967295").bytes()
    };
    let v4 = |number: usize| Connect::v4(format!("hoard-{number}")).clean(false).bytes();
    for round in 0..2 {
        // None of them expires while it is connected, however long this takes.
        let mut accepted = Vec::new();
        for number in 0..40 {
            let mut client = Client::open(&scene.broker);
            let is_v5 = number % 2 == 0;
            client.send(&if is_v5 { v5(number) } else { v4(number) });
            let connack = client.receive_packet();
            let is_refused = connack
                == bytes(if is_v5 {
                    "20 03 00 97 00"
                } else {
                    "20 02 00 03"
                });
            if is_refused {
                client.expect_close();
                continue;
            }
            assert_eq!(connack[3], 0, "{}", hex(&connack));
            if is_v5 {
                assert!(
                    contains(&connack, &bytes("11 L1")),
                    "the client is told: {}",
                    hex(&connack)
                );
            }
            accepted.push(client);
        }
        // The canaries are sessions, too.
        assert!(
            (10..30).contains(&accepted.len()),
            "round {round}: {} accepted",
            accepted.len()
        );
        let mut known = Client::open(&scene.broker);
        known.send(&v5(0));
        assert_eq!(
            known.receive_packet()[2..4],
            [1, 0],
            "an existing session can be resumed"
        );
        known.disconnect();
        // The first of them was taken over.
        accepted.into_iter().skip(1).for_each(Client::disconnect);
        // All of them expire, and there is room again.
        wait_until("sessions expire", PATIENCE, || {
            let probes: Vec<(Client, bool)> = (0..15)
                .map(|number| {
                    let mut client = Client::open(&scene.broker);
                    client.send(&Connect::v5(format!("probe-{number}")).bytes());
                    let is_accepted = client.receive_packet()[3] == 0;
                    (client, is_accepted)
                })
                .collect();
            let all_are = probes.iter().all(|(_, is_accepted)| *is_accepted);
            for (client, _) in probes {
                client.leave();
            }
            all_are
        });
    }
    scene.finish();
}

#[test]
fn r5_client_ids_that_are_refused_leave_no_memory_behind() {
    let scene = Scene::without_canaries("keep_alive_max = 10\nshards = 2");
    let flood = |round: usize| {
        for number in 0..1500 {
            let client_id = format!("{round}-{number}-{}", "x".repeat(20_000));
            let mut client = Client::open(&scene.broker);
            client.send(&Connect::v4(client_id).keep_alive(60).bytes());
            client.expect("20 02 00 02");
        }
    };
    flood(0);
    let before = scene.broker.resident_bytes();
    flood(1);
    let growth = scene.broker.resident_bytes().saturating_sub(before);
    assert!(
        growth < 8 << 20,
        "{growth} bytes after 1,500 refused clients"
    );
    scene.finish();
}

#[test]
fn r6_wills_are_bound_in_total() {
    let scene = Scene::start("will_bytes_max = \"100 KiB\"");
    let connect = |name: &str| {
        let connect = Connect::v5(name).properties("11 L4294967295");
        let connect = connect.will("will", "x".repeat(60_000), 1, false);
        connect.will_properties("18 L4294967295")
    };
    let first = Client::connect(&scene.broker, &connect("first"));
    let refused = |name: &str| {
        let mut client = Client::open(&scene.broker);
        client.send(&connect(name).bytes());
        client.expect("20 03 00 97 00");
        client.expect_close();
    };
    refused("second");
    // It waits for its delay and still counts.
    first.leave();
    refused("second");
    let first = Client::connect(&scene.broker, &connect("first").clean(true));
    first.disconnect();
    Client::connect(&scene.broker, &connect("second")).disconnect();
    scene.finish();
}
