//! Sessions: when they begin and end, what they keep, who takes them over, and what is sent again when one is resumed.

use crate::scenario::{SharedBroker, play};

static BROKER: SharedBroker = SharedBroker::plain();
/// Where nothing is on its way between shards any more when a ping is answered.
static ONE_SHARD: SharedBroker = SharedBroker::with("shards = 1\n", &[]);

// Beginning.

/// The first two rows of four: with and without a session, clean.
#[test]
fn mqtt_3_1_2_4_clean_start_discards_the_session() {
    check(
        "a connect v5 clean=0 props(11 L60)
         a > 82 m1 [] s'{t}' 01
         a < 90 m1 [] 01
         a bye
         p connect v5
         p => 32 s'{t}' m1 [] 'queued'
         a connect v5 clean=1 props(11 L60)
         a quiet
         p > 30 s'{t}' [] 'x'
         p quiet
         a quiet
         a bye
         a connect v5 clean=0 present=1 props(11 L60)
         a quiet",
    );
}

#[test]
fn mqtt_3_1_2_5_clean_start_0_resumes_the_session() {
    check(
        "a connect v5 clean=0 props(11 L60)
         a > 82 m1 [0b v5] s'{t}' 01
         a < 90 m1 [] 01
         a bye
         p connect v5
         p => 32 s'{t}' m1 [] 'queued'
         a connect v5 clean=0 present=1 props(11 L60)
         a < 32 s'{t}' $a [0b v5] 'queued'
         p > 30 s'{t}' [] 'live'
         a < 30 s'{t}' [0b v5] 'live'",
    );
}

#[test]
fn mqtt_3_1_2_6_clean_start_0_without_a_session_makes_one() {
    check(
        "a connect v5 clean=0 props(11 L60)
         a bye
         a connect v5 clean=0 present=1 props(11 L60)",
    );
}

/// [v3 MQTT-3.2.2-2]
#[test]
fn v3_mqtt_3_1_2_4_clean_session_0_is_kept_and_resumed() {
    check(
        "a connect v4 clean=0
         a > 82 m1 s'{t}' 00
         a < 90 m1 00
         a drop
         a connect v4 clean=0 present=1
         p connect v4
         p > 30 s'{t}' 'x'
         a < 30 s'{t}' 'x'",
    );
}

#[test]
fn v3_mqtt_3_1_2_5_qos_1_and_2_are_stored_for_the_absent() {
    play(
        &ONE_SHARD,
        "a connect v4 clean=0
         a > 82 m1 s'{t}' 02
         a < 90 m1 02
         a drop
         p connect v4
         p => 32 s'{t}' m1 'one' ; 34 s'{t}' m2 'two' ; 30 s'{t}' 'zero'
         a connect v4 clean=0 present=1
         a < 32 s'{t}' $a 'one'
         a < 34 s'{t}' $b 'two'
         a quiet",
    );
}

/// [v3 MQTT-3.1.4-3]: it discards what was, and is not there afterwards.
/// Payloads of a size that is shared between receivers.
#[test]
fn what_waited_comes_each_with_its_own_payload() {
    let (one, two) = ("1".repeat(1500), "2".repeat(1500));
    check(&format!(
        "a connect v4 clean=0
         a > 82 m1 s'{{t}}' 01
         a < 90 m1 01
         a drop
         p connect v4
         p => 32 s'{{t}}' m1 '{one}' ; 32 s'{{t}}' m2 '{two}'
         a connect v4 clean=0 present=1
         a < 32 s'{{t}}' $a '{one}'
         a < 32 s'{{t}}' $b '{two}'"
    ));
}

#[test]
fn v3_mqtt_3_1_2_6_clean_session_1_starts_anew_and_leaves_nothing() {
    check(
        "a connect v4 clean=0
         a > 82 m1 s'{t}' 01
         a < 90 m1 01
         a bye
         a connect v4 clean=1
         p connect v4
         p > 30 s'{t}' 'x'
         p quiet
         a quiet
         a > 82 m1 s'{t}' 01
         a < 90 m1 01
         a bye
         a connect v4 clean=0
         p > 30 s'{t}' 'x'
         p quiet
         a quiet",
    );
}

#[test]
fn v3_mqtt_3_1_4_3_clean_session_is_carried_out() {
    check("a connect v4 clean=0\n a bye\n a connect v4 clean=1\n a bye\n a connect v4 clean=0");
}

#[test]
fn mqtt_3_1_4_4_clean_start_is_carried_out() {
    check(
        "a connect v5 clean=0 props(11 L60)
         a bye
         a connect v5 clean=1 props(11 L60)
         a bye
         a connect v5 clean=0 present=1 props(11 L60)",
    );
}

#[test]
fn v3_mqtt_3_1_2_7_retained_messages_survive_the_session() {
    check(
        "a connect v4
         a > 31 s'{t}' 'kept'
         a bye
         s connect v4
         s > 82 m1 s'{t}' 00
         s < 90 m1 00
         s < 31 s'{t}' 'kept'",
    );
}

#[test]
fn mqtt_3_2_2_2_clean_start_1_says_no_session() {
    check("a connect v5 clean=0 props(11 L60)\n a bye\n a connect v5 clean=1");
}

#[test]
fn mqtt_3_2_2_3_clean_start_0_says_whether_there_was_one() {
    check(
        "a connect v5 clean=0
         a bye
         a connect v5 clean=0 props(11 L60)
         a bye
         a connect v5 clean=0 present=1 props(11 L60)",
    );
}

#[test]
fn v3_mqtt_3_2_2_1_clean_session_1_says_no_session() {
    check("a connect v4 clean=0\n a bye\n a connect v4 clean=1");
}

#[test]
fn v3_mqtt_3_2_2_2_a_stored_session_is_said() {
    check(
        "a connect v4 clean=0\n a bye\n a connect v4 clean=0 present=1\n a drop\n a connect v4 clean=0 present=1",
    );
}

#[test]
fn v3_mqtt_3_2_2_3_no_stored_session_is_said() {
    check("a connect v4 clean=0\n b connect v4 clean=1\n b bye\n b connect v4 clean=0");
}

/// A session made by one version of the protocol serves the other.
#[test]
fn a_session_crosses_versions() {
    check(
        "a connect v4 clean=0
         a > 82 m1 s'{t}' 01
         a < 90 m1 01
         a bye
         p connect v5
         p => 32 s'{t}' m1 [26 s'k' s'v'] 'x'
         a connect v5 clean=0 present=1 props(11 L60)
         a < 32 s'{t}' $a [26 s'k' s'v'] 'x'
         a > 40 $a
         a bye
         p => 32 s'{t}' m2 [26 s'k' s'v'] 'y'
         a connect v4 clean=0 present=1
         a < 32 s'{t}' $b 'y'",
    );
}

// Client ids.

#[test]
fn mqtt_3_1_3_2_the_client_id_names_the_session() {
    check(
        "a connect v5 clean=0 props(11 L60)
         a bye
         b connect v5 clean=0 props(11 L60)
         b bye
         a connect v5 clean=0 present=1 props(11 L60)",
    );
}

#[test]
fn v3_mqtt_3_1_3_2_the_client_id_names_the_session() {
    check(
        "a connect v4 clean=0\n a bye\n b connect v4 clean=0\n b bye\n a connect v4 clean=0 present=1",
    );
}

/// [MQTT-3.1.3-7] [MQTT-3.2.2-16]
#[test]
fn mqtt_3_1_3_6_an_empty_client_id_is_replaced() {
    let ids: std::collections::BTreeSet<Vec<u8>> =
        (0..5).map(|_| assigned_client_id(true)).collect();
    assert_eq!(ids.len(), 5, "each is unique");
}

/// With clean start 0 too, and the id works on the next connection.
#[test]
fn mqtt_3_1_3_7_an_assigned_client_id_is_returned_and_works() {
    let client_id = assigned_client_id(false);
    let connect = harness::Connect::v5(&client_id)
        .clean(false)
        .properties("11 L60");
    assert!(
        BROKER
            .with_broker(|broker| harness::Client::connect(broker, &connect))
            .session_present()
    );
}

#[test]
fn mqtt_3_2_2_16_an_assigned_client_id_is_not_in_use() {
    let first = assigned_client_id(false);
    let second = assigned_client_id(true);
    assert_ne!(first, second);
}

#[test]
fn v3_mqtt_3_1_3_6_an_empty_client_id_is_replaced() {
    check(
        "a connect v4 id=
         a > 82 m1 s'{t}' 00
         a < 90 m1 00
         b connect v4 id=
         b > 30 s'{t}' 'x'
         a < 30 s'{t}' 'x'
         a quiet
         b quiet",
    );
}

/// [v3 MQTT-3.1.3-7] [v3 MQTT-3.1.3-9]
#[test]
fn v3_mqtt_3_1_3_8_an_empty_client_id_needs_a_clean_session() {
    check("a try v4 id= clean=0\n a < 20 00 02\n a close");
}

#[test]
fn v3_mqtt_3_1_3_7_an_empty_client_id_goes_with_clean_session_1() {
    check("a connect v4 id= clean=1\n a quiet\n b try v4 id= clean=0\n b < 20 00 02\n b close");
}

/// MQTT 3.1 has no empty id at all.
#[test]
fn v3_mqtt_3_1_3_9_a_refused_client_id_gets_0x02() {
    check("a try v3 id= clean=1\n a < 20 00 02\n a close");
}

// Takeover.

#[test]
fn mqtt_3_1_4_3_the_second_connection_takes_over() {
    check(
        "a connect v5 clean=0 props(11 L60) id={t}same
         a > 82 m1 [] s'{t}' 01
         a < 90 m1 [] 01
         p connect v5
         p => 32 s'{t}' m1 [] 'x'
         a < 32 s'{t}' $a [] 'x'
         b connect v5 clean=0 present=1 props(11 L60) id={t}same
         a < e0 8e
         a close
         b < 3a s'{t}' $a [] 'x'
         b > 40 $a
         c connect v5 clean=1 id={t}same
         b < e0 8e
         b close
         c quiet",
    );
}

#[test]
fn v3_mqtt_3_1_4_2_the_second_connection_ends_the_first() {
    check(
        "a connect v4 id={t}same
         b connect v4 id={t}same
         a close
         b quiet
         c connect v5 id={t}same
         b close
         c quiet",
    );
}

// Ending.

#[test]
fn mqtt_3_1_2_23_a_session_outlives_its_connection() {
    check(
        "a connect v5 clean=0 props(11 L4)
         a > 82 m1 [] s'{t}' 01
         a < 90 m1 [] 01
         wait 4200
         a drop
         p connect v5
         p => 32 s'{t}' m1 [] 'x'
         wait 800
         a connect v5 clean=0 present=1 props(11 L60)
         a < 32 s'{t}' $a [] 'x'",
    );
}

#[test]
fn mqtt_4_1_0_1_a_session_is_kept_while_connected() {
    check(
        "a connect v5 clean=0 props(11 L1)
         a > 82 m1 [] s'{t}' 00
         a < 90 m1 [] 00
         wait 1500
         p connect v5
         p > 30 s'{t}' [] 'x'
         a < 30 s'{t}' [] 'x'",
    );
}

#[test]
fn mqtt_4_1_0_2_a_session_goes_when_it_has_expired() {
    check(
        "a connect v5 clean=0 props(11 L1)
         a drop
         wait 2000
         a connect v5 clean=0 props(11 L0)
         a drop
         a connect v5 clean=0",
    );
}

/// [v3 MQTT-4.1.0-2]
#[test]
fn v3_mqtt_4_1_0_1_state_is_kept_as_long_as_the_session() {
    check(
        "a connect v4 clean=0
         a > 82 m1 s'{t}' 01
         a < 90 m1 01
         a drop
         p connect v4
         p => 32 s'{t}' m1 'x'
         a connect v4 clean=0 present=1
         a < 32 s'{t}' $a 'x'
         a drop
         a connect v4 clean=0 present=1
         a < 3a s'{t}' $a 'x'",
    );
}

#[test]
fn v3_mqtt_4_1_0_2_a_session_lasts_as_long_as_its_connection() {
    check(
        "a connect v4 clean=1
         a > 82 m1 s'{t}' 00
         a < 90 m1 00
         wait 1200
         p connect v4
         p > 30 s'{t}' 'x'
         a < 30 s'{t}' 'x'",
    );
}

// Sent again.

#[test]
fn mqtt_3_3_1_1_dup_is_1_on_a_repeated_delivery() {
    check(
        "s connect v5 clean=0 props(11 L60)
         s > 82 m1 [] s'{t}' 02
         s < 90 m1 [] 02
         p connect v5
         p => 32 s'{t}' m1 [] 'one'
         s < 32 s'{t}' $a [] 'one'
         p => 34 s'{t}' m2 [] 'two'
         s < 34 s'{t}' $b [] 'two'
         s drop
         s connect v5 clean=0 present=1 props(11 L60)
         s < 3a s'{t}' $a [] 'one'
         s < 3c s'{t}' $b [] 'two'",
    );
}

#[test]
fn v3_mqtt_3_3_1_1_dup_is_1_on_a_repeated_delivery() {
    check(
        "s connect v4 clean=0
         s > 82 m1 s'{t}' 02
         s < 90 m1 02
         p connect v4
         p => 32 s'{t}' m1 'one'
         s < 32 s'{t}' $a 'one'
         p => 34 s'{t}' m2 'two'
         s < 34 s'{t}' $b 'two'
         s drop
         s connect v4 clean=0 present=1
         s < 3a s'{t}' $a 'one'
         s < 3c s'{t}' $b 'two'",
    );
}

/// With the original ids, in the original order, PUBREL too, before what is new; and at no other time.
#[test]
fn mqtt_4_4_0_1_a_resumed_session_resends_in_order() {
    check(
        "s connect v5 clean=0 props(11 L60 21 H10)
         s > 82 m1 [] s'{t}' 02
         s < 90 m1 [] 02
         p connect v5
         p => 34 s'{t}' m1 [] 'a' ; 32 s'{t}' m2 [] 'b' ; 34 s'{t}' m3 [] 'c' ; 32 s'{t}' m4 [] 'd'
         s < 34 s'{t}' $a [] 'a'
         s < 32 s'{t}' $b [] 'b'
         s < 34 s'{t}' $c [] 'c'
         s < 32 s'{t}' $d [] 'd'
         s > 50 $a
         s < 62 $a
         wait 1200
         s quiet
         s drop
         p => 32 s'{t}' m5 [] 'e'
         s connect v5 clean=0 present=1 props(11 L60 21 H10)
         s < 62 $a
         s < 3a s'{t}' $b [] 'b'
         s < 3c s'{t}' $c [] 'c'
         s < 3a s'{t}' $d [] 'd'
         s < 32 s'{t}' $e [] 'e'
         s > 70 $a
         s quiet",
    );
}

/// [v3 MQTT-4.6.0-1]
#[test]
fn v3_mqtt_4_4_0_1_a_resumed_session_resends_in_order() {
    check(
        "s connect v4 clean=0
         s > 82 m1 s'{t}' 02
         s < 90 m1 02
         p connect v4
         p => 32 s'{t}' m1 'a' ; 34 s'{t}' m2 'b' ; 32 s'{t}' m3 'c'
         s < 32 s'{t}' $a 'a'
         s < 34 s'{t}' $b 'b'
         s < 32 s'{t}' $c 'c'
         s > 50 $b
         s < 62 $b
         s drop
         p => 32 s'{t}' m4 'd'
         s connect v4 clean=0 present=1
         s < 3a s'{t}' $a 'a'
         s < 62 $b
         s < 3a s'{t}' $c 'c'
         s < 32 s'{t}' $d 'd'",
    );
}

#[test]
fn v3_mqtt_4_6_0_1_what_is_resent_keeps_its_order() {
    check(
        "s connect v4 clean=0
         s > 82 m1 s'{t}' 02
         s < 90 m1 02
         p connect v4
         p => 32 s'{t}' m1 'a' ; 32 s'{t}' m2 'b' ; 34 s'{t}' m3 'c' ; 34 s'{t}' m4 'd'
         s < 32 s'{t}' $a 'a'
         s < 32 s'{t}' $b 'b'
         s < 34 s'{t}' $c 'c'
         s < 34 s'{t}' $d 'd'
         s drop
         s connect v4 clean=0 present=1
         s < 3a s'{t}' $a 'a'
         s < 3a s'{t}' $b 'b'
         s < 3c s'{t}' $c 'c'
         s < 3c s'{t}' $d 'd'",
    );
}

/// Queued while away, in order, and those published while the queue is being sent come after it.
#[test]
fn the_queue_comes_before_what_is_new() {
    let mut scenario = String::from(
        "s connect v5 clean=0 props(11 L60)
         s > 82 m1 [] s'{t}' 01
         s < 90 m1 [] 01
         s bye
         p connect v5\n",
    );
    for number in 1..=15 {
        scenario += &format!("p > 32 s'{{t}}' m{number} [] 'n {number}'\n p < 40 m{number}\n");
    }
    scenario += "s connect v5 clean=0 present=1 props(11 L60 21 H3)\n p > 32 s'{t}' m16 [] 'n 16'\n p < 40 m16\n";
    for number in 1..=16 {
        scenario += &format!("s < 32 s'{{t}}' $id{number} [] 'n {number}'\n s > 40 $id{number}\n");
    }
    check(&scenario);
}

/// [v3 MQTT-4.8.0-2]: there is no error but a violation that a client can bring about; a connection that breaks is the nearest one.
#[test]
fn v3_mqtt_4_8_0_2_a_broken_connection_is_closed_and_its_session_kept() {
    check(
        "a connect v4 clean=0
         a > 82 m1 s'{t}' 01
         a < 90 m1 01
         a raw 32 0a 00
         a drop
         a connect v4 clean=0 present=1
         p connect v4
         p > 30 s'{t}' 'x'
         a < 30 s'{t}' 'x'",
    );
}

#[track_caller]
fn check(scenario: &str) {
    play(&BROKER, scenario);
}

/// The id of a session that an empty client id got, kept for a minute.
fn assigned_client_id(clean: bool) -> Vec<u8> {
    let connect = harness::Connect::v5("").clean(clean).properties("11 L60");
    let client = BROKER.with_broker(|broker| harness::Client::connect(broker, &connect));
    assert!(!client.session_present());
    let properties = &client.connack_body()[3..];
    let at = properties
        .iter()
        .position(|&byte| byte == 0x12)
        .expect("Assigned Client Identifier");
    let length = usize::from(u16::from_be_bytes([properties[at + 1], properties[at + 2]]));
    let client_id = properties[at + 3..at + 3 + length].to_vec();
    assert!(!client_id.is_empty());
    client.disconnect();
    client_id
}
