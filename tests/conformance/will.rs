//! Wills: which closes publish one, when, and with what in it.

use harness::{Client, Connect, packet};

use crate::scenario::{SharedBroker, play};

static BROKER: SharedBroker = SharedBroker::plain();

#[test]
fn mqtt_3_1_2_7_the_will_is_stored_with_the_session() {
    check_v5("a connect v5 will({t} gone 0 0)\n a drop\n s < 30 s'{t}' [] 'gone'");
}

/// It is published by every end but DISCONNECT 0x00: of the connection, by an error, by a takeover, by DISCONNECT 0x04.
#[test]
fn mqtt_3_1_2_8_the_will_is_published_after_the_close() {
    check_v5("a connect v5 will({t} gone 1 0)\n a drop\n s < 32 s'{t}' $a [] 'gone'");
    check_v5(
        "a connect v5 will({t} gone 1 0)\n a > 36 s'{t}' m1 [] 'x'\n a < e0 81\n a close\n s < 32 s'{t}' $a [] 'gone'",
    );
    check_v5("a connect v5 will({t} gone 1 0)\n a > e0 04\n a close\n s < 32 s'{t}' $a [] 'gone'");
    check_v5(
        "a connect v5 will({t} gone 1 0)\n a > e0 80 []\n a close\n s < 32 s'{t}' $a [] 'gone'",
    );
}

#[test]
fn mqtt_3_1_2_8_a_takeover_publishes_the_will() {
    check_v5(
        "a connect v5 will({t} gone 1 0) id={t}same
         b connect v5 id={t}same
         a < e0 8e
         a close
         s < 32 s'{t}' $a [] 'gone'",
    );
}

#[test]
fn v3_mqtt_3_1_2_8_the_will_is_published_when_the_connection_ends() {
    check_v4("a connect v4 will({t} gone 1 0)\n a drop\n s < 32 s'{t}' $a 'gone'");
    check_v4(
        "a connect v4 will({t} gone 1 0)\n a > 36 s'{t}' m1 'x'\n a close\n s < 32 s'{t}' $a 'gone'",
    );
    check_v4(
        "a connect v4 will({t} gone 1 0) id={t}same\n b connect v4 id={t}same\n a close\n s < 32 s'{t}' $a 'gone'",
    );
}

/// Not before the delay.
#[test]
fn mqtt_3_1_2_8_the_will_waits_for_its_delay() {
    check_v5(
        "a connect v5 props(11 L60) will({t} gone 0 0) wprops(18 L1)
         mark
         a drop
         s < 30 s'{t}' [] 'gone'
         after 900",
    );
}

/// The session ends before the delay does: with the connection, after its expiry, or by a clean start.
#[test]
fn mqtt_3_1_2_8_the_end_of_the_session_ends_the_wait() {
    check_v5(
        "a connect v5 will({t} gone 0 0) wprops(18 L60)
         a drop
         s < 30 s'{t}' [] 'gone'",
    );
    check_v5(
        "a connect v5 props(11 L1) will({t} gone 0 0) wprops(18 L60)
         mark
         a drop
         s < 30 s'{t}' [] 'gone'
         after 900",
    );
    check_v5(
        "a connect v5 props(11 L60) will({t} gone 0 0) wprops(18 L60) id={t}same
         a drop
         s quiet
         a connect v5 clean=1 id={t}same
         s < 30 s'{t}' [] 'gone'",
    );
}

/// A resumed session cancels it, also when the new connection takes the old one over.
#[test]
fn mqtt_3_1_3_9_resuming_cancels_the_will() {
    check_v5(
        "a connect v5 clean=0 props(11 L60) will({t} gone 0 0) wprops(18 L2)
         a drop
         a connect v5 clean=0 present=1 props(11 L60)
         wait 2500
         s quiet",
    );
    check_v5(
        "a connect v5 clean=0 props(11 L60) will({t} gone 0 0) wprops(18 L2) id={t}same
         b connect v5 clean=0 present=1 props(11 L60) id={t}same
         a < e0 8e
         a close
         wait 2500
         s quiet",
    );
}

/// Published once, at whatever end: not again when the session ends as well.
#[test]
fn mqtt_3_1_2_10_a_will_is_published_once() {
    check_v5(
        "a connect v5 clean=0 props(11 L2) will({t} gone 0 0)
         a drop
         s < 30 s'{t}' [] 'gone'
         a connect v5 clean=0 present=1 props(11 L2)
         a drop
         wait 2500
         s quiet",
    );
    check_v5(
        "a connect v5 clean=0 props(11 L60) will({t} gone 0 0)
         a bye
         a connect v5 clean=0 present=1 props(11 L60)
         a drop
         s quiet",
    );
}

#[test]
fn v3_mqtt_3_1_2_10_a_will_is_published_once() {
    check_v4(
        "a connect v4 clean=0 will({t} gone 0 0)
         a drop
         s < 30 s'{t}' 'gone'
         a connect v4 clean=0 present=1
         a drop
         s quiet",
    );
    check_v4(
        "a connect v4 clean=0 will({t} gone 0 0)
         a bye
         a connect v4 clean=0 present=1
         a drop
         s quiet",
    );
}

#[test]
fn v3_mqtt_3_1_2_12_no_will_no_message() {
    check_v4("a connect v4\n a drop\n s quiet");
}

#[test]
fn mqtt_3_1_2_9_the_will_fields_are_used() {
    check_v5("a connect v5 will({t} gone 2 0)\n a drop\n s < 34 s'{t}' $a [] 'gone'");
}

#[test]
fn mqtt_3_1_2_14_a_will_without_retain_is_not_retained() {
    check_v5(
        "a connect v5 will({t} gone 0 0)
         a drop
         s < 30 s'{t}' [] 'gone'
         l connect v5
         l > 82 m1 [] s'{t}' 00
         l < 90 m1 [] 00
         l quiet",
    );
}

#[test]
fn v3_mqtt_3_1_2_16_a_will_without_retain_is_not_retained() {
    check_v4(
        "a connect v4 will({t} gone 0 0)
         a drop
         s < 30 s'{t}' 'gone'
         l connect v4
         l > 82 m1 s'{t}' 00
         l < 90 m1 00
         l quiet",
    );
}

#[test]
fn mqtt_3_1_2_15_a_will_with_retain_is_retained() {
    check_v5(
        "a connect v5 will({t} gone 1 1)
         a drop
         s < 32 s'{t}' $a [] 'gone'
         l connect v5
         l > 82 m1 [] s'{t}' 01
         l < 90 m1 [] 01
         l < 33 s'{t}' $b [] 'gone'",
    );
}

#[test]
fn v3_mqtt_3_1_2_17_a_will_with_retain_is_retained() {
    check_v4(
        "a connect v4 will({t} gone 1 1)
         a drop
         s < 32 s'{t}' $a 'gone'
         l connect v4
         l > 82 m1 s'{t}' 01
         l < 90 m1 01
         l < 33 s'{t}' $b 'gone'",
    );
}

#[test]
fn mqtt_3_1_3_10_the_user_properties_of_a_will_keep_their_order() {
    check_v5(
        "a connect v5 will({t} gone 0 0) wprops(26 s'z' s'1' 26 s'a' s'2' 26 s'z' s'1' 26 s'' s'')
         a drop
         s < 30 s'{t}' [26 s'z' s'1' 26 s'a' s'2' 26 s'z' s'1' 26 s'' s''] 'gone'",
    );
}

/// The expiry of a will begins when it is published, [MQTT-3.3.2-6].
#[test]
fn a_will_carries_its_expiry() {
    check_v5(
        "a connect v5 will({t} gone 0 1) wprops(02 L60)
         a drop
         s < 30 s'{t}' [02 ~60] 'gone'
         l connect v5
         l > 82 m1 [] s'{t}' 00
         l < 90 m1 [] 00
         l < 31 s'{t}' [02 ~60] 'gone'",
    );
}

/// Stopping the broker is no DISCONNECT of the client's.
#[test]
fn stopping_tells_5_0_clients() {
    let mut broker = harness::Broker::options().argument("-v").start();
    let mut client = Client::connect_v5(&broker, "a", "");
    let mut old = Client::connect_v4(&broker, "b");
    assert!(broker.terminate().success(), "SIGTERM ends with status 0");
    client.expect("e0 01 8b");
    client.expect_close();
    old.expect_close();
}

/// Whichever shards the clients live on, and whether a will would have waited or not.
#[test]
fn stopping_publishes_every_will_to_everybody() {
    const CLIENTS: usize = 12;
    let mut broker = harness::Broker::options().toml("shards = 4\n").start();
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let mut connect = Connect::v5(format!("client-{number}"))
            .properties("11 L600")
            .will("will", format!("{number:02}"), 0, false);
        if number % 2 == 0 {
            connect = connect.will_properties("18 L600");
        }
        let mut client = Client::connect(&broker, &connect);
        client.send(&packet("82", "m1 00 s'will' 00"));
        client.expect("90 04 m1 00 00");
        clients.push(client);
    }
    // Who has gone already has a will that waits.
    drop(clients.swap_remove(0));
    assert!(broker.terminate().success(), "SIGTERM ends with status 0");
    for mut client in clients {
        let mut wills = std::collections::BTreeSet::new();
        for _ in 0..CLIENTS {
            wills.insert(client.receive_packet());
        }
        assert_eq!(wills.len(), CLIENTS);
        assert!(wills.iter().all(|will| will.first() == Some(&0x30)));
        client.expect("e0 01 8b");
        client.expect_close();
    }
}

#[track_caller]
fn check(scenario: &str) {
    play(&BROKER, scenario);
}

/// With `s` subscribed to `{t}` at QoS 2.
#[track_caller]
fn check_v5(steps: &str) {
    check(&format!(
        "s connect v5\n s > 82 m1 [] s'{{t}}' 02\n s < 90 m1 [] 02\n {steps}"
    ));
}

/// As `check_v5`.
#[track_caller]
fn check_v4(steps: &str) {
    check(&format!(
        "s connect v4\n s > 82 m1 s'{{t}}' 02\n s < 90 m1 02\n {steps}"
    ));
}
