//! PUBACK, PUBREC, PUBREL, PUBCOMP: the exchanges of QoS 1 and 2, in both directions.

use crate::scenario::{SharedBroker, play};

static BROKER: SharedBroker = SharedBroker::plain();
static WITH_REASONS: SharedBroker = SharedBroker::with("reason_strings = true\n", &[]);

// As receiver.

/// [MQTT-4.3.2-4] [MQTT-4.3.3-8] [MQTT-4.3.3-11]
#[test]
fn mqtt_2_2_1_5_acknowledgements_carry_the_id_of_their_publish() {
    check(
        "s connect v5
         s > 82 m1 [] s'{t}' 00
         s < 90 m1 [] 00
         p connect v5
         p > 32 s'{t}' m1234 [] 'x'
         p < 40 m1234
         p > 34 s'{t}' m65535 [] 'x'
         p < 50 m65535
         p > 62 m65535
         p < 70 m65535",
    );
}

#[test]
fn v3_mqtt_2_3_1_6_acknowledgements_carry_the_id_of_their_publish() {
    check(
        "p connect v4
         p > 32 s'{t}' m1234 'x'
         p < 40 m1234
         p > 34 s'{t}' m65535 'x'
         p < 50 m65535
         p > 62 m65535
         p < 70 m65535",
    );
}

#[test]
fn mqtt_4_3_2_4_puback_has_the_id_of_its_publish() {
    check(
        "p connect v5\n p > 32 s'{t}' m258 [] 'x' ; 32 s'{t}' m2 [] 'x'\n p < 40 m258 10\n p < 40 m2 10",
    );
}

/// [MQTT-4.3.2-2] from the receiver's side: DUP changes nothing once PUBACK was sent.
#[test]
fn mqtt_4_3_2_5_after_puback_the_id_is_a_new_message() {
    check(
        "s connect v5
         s > 82 m1 [] s'{t}' 01
         s < 90 m1 [] 01
         p connect v5
         p > 32 s'{t}' m1 [] 'one'
         p < 40 m1
         p > 3a s'{t}' m1 [] 'two'
         p < 40 m1
         s < 32 s'{t}' $a [] 'one'
         s < 32 s'{t}' $b [] 'two'",
    );
}

#[test]
fn v3_mqtt_4_3_2_2_after_puback_the_id_is_a_new_message() {
    check(
        "s connect v4
         s > 82 m1 s'{t}' 01
         s < 90 m1 01
         p connect v4
         p > 32 s'{t}' m7 'one'
         p < 40 m7
         p > 3a s'{t}' m7 'one'
         p < 40 m7
         s < 32 s'{t}' $a 'one'
         s < 32 s'{t}' $b 'one'",
    );
}

#[test]
fn mqtt_4_3_3_8_pubrec_has_the_id_of_its_publish() {
    check(
        "p connect v5\n p > 34 s'{t}' m258 [] 'x' ; 34 s'{t}' m2 [] 'x'\n p < 50 m258\n p < 50 m2",
    );
}

#[test]
fn mqtt_4_3_3_10_repeats_are_acknowledged_and_delivered_once() {
    check(
        "s connect v5
         s > 82 m1 [] s'{t}' 02
         s < 90 m1 [] 02
         p connect v5
         p > 34 s'{t}' m1 [] 'x'
         p < 50 m1
         s < 34 s'{t}' $a [] 'x'
         p > 3c s'{t}' m1 [] 'x'
         p < 50 m1
         p > 3c s'{t}' m1 [] 'x'
         p < 50 m1
         p > 3c s'{t}' m1 [] 'x'
         p < 50 m1
         p > 3c s'{t}' m1 [] 'x'
         p < 50 m1
         p > 34 s'{t}' m1 [] 'other'
         p < 50 m1
         s quiet
         p > 62 m1
         p < 70 m1
         s quiet",
    );
}

/// [MQTT-4.3.3-10], what D21 takes away from it: not with DUP=0 for the third time.
#[test]
fn mqtt_4_3_3_10_a_third_identical_publish_without_dup_closes() {
    check(
        "p connect v5
         p > 34 s'{t}' m1 [] 'x'
         p < 50 m1
         p > 34 s'{t}' m1 [] 'x'
         p < 50 m1
         p > 34 s'{t}' m1 [] 'x'
         p < e0 82
         p close",
    );
}

#[test]
fn v3_mqtt_4_3_3_2_repeats_are_acknowledged_and_delivered_once() {
    check(
        "s connect v4
         s > 82 m1 s'{t}' 02
         s < 90 m1 02
         p connect v4
         p > 34 s'{t}' m1 'x'
         p < 50 m1
         p > 3c s'{t}' m1 'x'
         p < 50 m1
         p > 3c s'{t}' m1 'x'
         p < 50 m1
         p > 62 m1
         p < 70 m1
         p > 34 s'{t}' m1 'new'
         p < 50 m1
         p > 62 m1
         p < 70 m1
         s < 34 s'{t}' $a 'x'
         s < 34 s'{t}' $b 'new'
         s quiet",
    );
}

/// The id is remembered with the session, so a repeat on the next connection is a repeat.
#[test]
fn v3_mqtt_4_3_3_2_a_repeat_after_a_reconnect_is_delivered_once() {
    check(
        "s connect v4
         s > 82 m1 s'{t}' 02
         s < 90 m1 02
         p connect v4 clean=0
         p > 34 s'{t}' m1 'x'
         p < 50 m1
         s < 34 s'{t}' $a 'x'
         p drop
         p connect v4 clean=0 present=1
         p > 3c s'{t}' m1 'x'
         p < 50 m1
         p > 62 m1
         p < 70 m1
         s quiet",
    );
}

#[test]
fn mqtt_4_3_3_11_pubrel_is_answered_with_its_id() {
    check(
        "p connect v5
         p > 34 s'{t}' m1 [] 'x' ; 34 s'{t}' m2 [] 'x'
         p < 50 m1
         p < 50 m2
         p > 62 m2
         p < 70 m2
         p > 62 m1
         p < 70 m1",
    );
}

/// The byte-exact exchanges say success for a PUBREL of nothing, as after a lost PUBCOMP.
#[test]
fn mqtt_4_3_3_11_a_repeated_pubrel_is_answered_again() {
    check(
        "p connect v5
         p > 34 s'{t}' m1 [] 'x'
         p < 50 m1
         p > 62 m1
         p < 70 m1
         p > 62 m1
         p < 70 m1",
    );
}

#[test]
fn mqtt_4_3_3_12_after_pubcomp_the_id_is_a_new_message() {
    check(
        "s connect v5
         s > 82 m1 [] s'{t}' 02
         s < 90 m1 [] 02
         p connect v5
         p > 34 s'{t}' m1 [] 'x'
         p < 50 m1
         p > 62 m1
         p < 70 m1
         p > 3c s'{t}' m1 [] 'x'
         p < 50 m1
         p > 62 m1
         p < 70 m1
         s < 34 s'{t}' $a [] 'x'
         s < 34 s'{t}' $b [] 'x'",
    );
}

/// [MQTT-4.3.3-13]: our half of the exchange, though no one can get the message any more.
#[test]
fn mqtt_4_3_3_13_an_expired_message_still_ends_its_exchange() {
    check(
        "p connect v5
         p > 34 s'{t}' m1 [02 L1] 'x'
         p < 50 m1
         wait 1200
         p > 3c s'{t}' m1 [02 L1] 'x'
         p < 50 m1
         p > 62 m1
         p < 70 m1",
    );
}

/// 0x82 where the standard says malformed, as the byte-exact exchanges demand (D20).
#[test]
fn mqtt_3_6_1_1_pubrel_flags_are_0010() {
    for first in ["60", "61", "63", "64", "66", "6a"] {
        check(&format!(
            "a connect v5\n a > {first} m1\n a < e0 82\n a close"
        ));
    }
}

#[test]
fn v3_mqtt_3_6_1_1_pubrel_flags_are_0010() {
    for first in ["60", "61", "63", "64", "66", "6a"] {
        check(&format!("a connect v4\n a > {first} m1\n a close"));
    }
}

// Reason codes.

/// The codes that a PUBACK can be brought to carry here: success, no matching subscribers, not authorized.
#[test]
fn mqtt_3_4_2_1_puback_uses_the_codes_of_its_table() {
    check(
        "s connect v5
         s > 82 m1 [] s'{t}' 00
         s < 90 m1 [] 00
         p connect v5
         p > 32 s'{t}' m1 [] 'x'
         p < 40 m1
         p > 32 s'{t}/nobody' m2 [] 'x'
         p < 40 m2 10
         p > 32 s'$share/g/{t}' m3 [] 'x'
         p < 40 m3 87",
    );
}

#[test]
fn mqtt_3_5_2_1_pubrec_uses_the_codes_of_its_table() {
    check(
        "p connect v5
         p > 34 s'{t}' m1 [] 'x'
         p < 50 m1
         p > 34 s'$share/g/{t}' m2 [] 'x'
         p < 50 m2 87",
    );
}

#[test]
fn mqtt_3_6_2_1_pubrel_uses_the_codes_of_its_table() {
    delivery_qos_2("s > 50 $a\n s < 62 $a\n s > 70 $a\n s quiet");
    // An unknown PUBREC is answered with success, as the byte-exact exchanges demand.
    check("a connect v5\n a > 50 m77\n a < 62 m77\n a quiet");
}

#[test]
fn mqtt_3_7_2_1_pubcomp_uses_the_codes_of_its_table() {
    check("a connect v5\n a > 62 m77\n a < 70 m77\n a quiet");
}

/// A reason string would take these packets over 16 bytes.
#[test]
fn mqtt_3_4_2_2_puback_has_no_text_that_does_not_fit() {
    within_16_bytes("32 s'x' m1 []", "40 m1 10");
}

#[test]
fn mqtt_3_4_2_3_puback_has_no_user_properties_that_do_not_fit() {
    within_16_bytes("32 s'$share/g/t' m1 []", "40 m1 87");
}

#[test]
fn mqtt_3_5_2_2_pubrec_has_no_text_that_does_not_fit() {
    within_16_bytes("34 s'$share/g/t' m1 []", "50 m1 87");
}

#[test]
fn mqtt_3_5_2_3_pubrec_has_no_user_properties_that_do_not_fit() {
    within_16_bytes("34 s'x' m1 []", "50 m1");
}

#[test]
fn mqtt_3_6_2_2_pubrel_has_no_text_that_does_not_fit() {
    within_16_bytes("50 m9", "62 m9");
}

#[test]
fn mqtt_3_6_2_3_pubrel_has_no_user_properties_that_do_not_fit() {
    within_16_bytes("50 m9 00 [26 s'k' s'v']", "62 m9");
}

#[test]
fn mqtt_3_7_2_2_pubcomp_has_no_text_that_does_not_fit() {
    within_16_bytes("62 m9", "70 m9");
}

#[test]
fn mqtt_3_7_2_3_pubcomp_has_no_user_properties_that_do_not_fit() {
    within_16_bytes("62 m9 00 [26 s'k' s'v']", "70 m9");
}

// As sender.

#[test]
fn mqtt_4_3_1_1_qos_0_is_sent_with_dup_0() {
    check(
        "s connect v5
         s > 82 m1 [] s'{t}' 00
         s < 90 m1 [] 00
         p connect v5
         p => 34 s'{t}' m1 [] 'x'
         s < 30 s'{t}' [] 'x'",
    );
}

#[test]
fn v3_mqtt_4_3_1_1_qos_0_is_sent_with_dup_0() {
    check(
        "s connect v4
         s > 82 m1 s'{t}' 00
         s < 90 m1 00
         p connect v4
         p => 32 s'{t}' m1 'x'
         s < 30 s'{t}' 'x'",
    );
}

#[test]
fn mqtt_4_3_2_1_a_new_message_gets_an_unused_id() {
    let ids = play(
        &BROKER,
        "s connect v5
         s > 82 m1 [] s'{t}' 01
         s < 90 m1 [] 01
         p connect v5
         p => 32 s'{t}' m1 [] 'x' ; 32 s'{t}' m2 [] 'y'
         s < 32 s'{t}' $a [] 'x'
         s < 32 s'{t}' $b [] 'y'",
    );
    assert_ne!(ids["a"], ids["b"]);
}

#[test]
fn mqtt_4_3_3_1_a_new_message_gets_an_unused_id() {
    let ids = play(
        &BROKER,
        "s connect v5
         s > 82 m1 [] s'{t}' 02
         s < 90 m1 [] 02
         p connect v5
         p => 34 s'{t}' m1 [] 'x' ; 34 s'{t}' m2 [] 'y'
         s < 34 s'{t}' $a [] 'x'
         s < 34 s'{t}' $b [] 'y'",
    );
    assert_ne!(ids["a"], ids["b"]);
}

#[test]
fn mqtt_4_3_2_2_a_new_message_is_sent_with_dup_0() {
    delivery_qos_1("s quiet");
}

#[test]
fn mqtt_4_3_3_2_a_new_message_is_sent_with_dup_0() {
    delivery_qos_2("s quiet");
}

/// Open until PUBACK: sent again on the next connection, and not after it.
#[test]
fn mqtt_4_3_2_3_qos_1_is_open_until_puback() {
    delivery_qos_1(
        "s drop
         s connect v5 clean=0 present=1 props(11 L60)
         s < 3a s'{t}' $a [] 'x'
         s > 40 $a
         s quiet
         s drop
         s connect v5 clean=0 present=1 props(11 L60)
         s quiet",
    );
}

#[test]
fn v3_mqtt_4_3_2_1_qos_1_is_open_until_puback() {
    check(
        "s connect v4 clean=0
         s > 82 m1 s'{t}' 01
         s < 90 m1 01
         p connect v4
         p => 32 s'{t}' m1 'x'
         s < 32 s'{t}' $a 'x'
         s drop
         s connect v4 clean=0 present=1
         s < 3a s'{t}' $a 'x'
         s > 40 $a
         s quiet
         s drop
         s connect v4 clean=0 present=1
         s quiet",
    );
}

#[test]
fn mqtt_4_3_3_3_qos_2_is_open_until_pubrec() {
    delivery_qos_2(
        "s drop
         s connect v5 clean=0 present=1 props(11 L60)
         s < 3c s'{t}' $a [] 'x'
         s > 50 $a
         s < 62 $a",
    );
}

#[test]
fn mqtt_4_3_3_4_pubrec_is_answered_with_pubrel_of_its_id() {
    delivery_qos_2("s > 50 $a\n s < 62 $a\n s > 50 $a\n s < 62 $a\n s > 70 $a\n s quiet");
}

/// [MQTT-4.3.3-6]
#[test]
fn mqtt_4_3_3_5_pubrel_is_open_until_pubcomp() {
    delivery_qos_2(
        "s > 50 $a
         s < 62 $a
         s drop
         s connect v5 clean=0 present=1 props(11 L60)
         s < 62 $a
         s > 70 $a
         s quiet
         s drop
         s connect v5 clean=0 present=1 props(11 L60)
         s quiet",
    );
}

#[test]
fn mqtt_4_3_3_6_no_publish_again_after_pubrel() {
    delivery_qos_2(
        "s > 50 $a
         s < 62 $a
         s drop
         s connect v5 clean=0 present=1 props(11 L60)
         s < 62 $a
         s quiet",
    );
}

#[test]
fn v3_mqtt_4_3_3_1_the_exchange_of_qos_2_goes_on_where_it_stopped() {
    check(
        "s connect v4 clean=0
         s > 82 m1 s'{t}' 02
         s < 90 m1 02
         p connect v4
         p => 34 s'{t}' m1 'x'
         s < 34 s'{t}' $a 'x'
         s drop
         s connect v4 clean=0 present=1
         s < 3c s'{t}' $a 'x'
         s > 50 $a
         s < 62 $a
         s drop
         s connect v4 clean=0 present=1
         s < 62 $a
         s > 70 $a
         s quiet
         s drop
         s connect v4 clean=0 present=1
         s quiet",
    );
}

/// Sent once with an expiry of 1 s, it is sent again though that has passed.
#[test]
fn mqtt_4_3_3_7_expiry_does_not_stop_what_was_sent() {
    check(
        "s connect v5 clean=0 props(11 L60)
         s > 82 m1 [] s'{t}' 02
         s < 90 m1 [] 02
         p connect v5
         p => 34 s'{t}' m1 [02 L2] 'x'
         s < 34 s'{t}' $a [02 ~2] 'x'
         s drop
         wait 2200
         s connect v5 clean=0 present=1 props(11 L60)
         s < 3c s'{t}' $a ..
         s > 50 $a
         s < 62 $a
         s > 70 $a
         s quiet",
    );
}

/// [MQTT-4.4.0-2] for PUBREC: no PUBREL either.
#[test]
fn mqtt_4_4_0_2_a_refusal_ends_the_delivery() {
    delivery_qos_1(
        "s > 40 $a 80 []
         s drop
         s connect v5 clean=0 present=1 props(11 L60)
         s quiet",
    );
    delivery_qos_2(
        "s > 50 $a 97 []
         s quiet
         s drop
         s connect v5 clean=0 present=1 props(11 L60)
         s quiet",
    );
}

#[test]
fn mqtt_2_2_1_6_suback_and_unsuback_carry_the_id_of_their_request() {
    check(
        "a connect v5
         a > 82 m4660 [] s'{t}' 00
         a < 90 m4660 [] 00
         a > a2 m65535 [] s'{t}'
         a < b0 m65535 [] 00",
    );
}

#[test]
fn v3_mqtt_2_3_1_7_suback_and_unsuback_carry_the_id_of_their_request() {
    check(
        "a connect v4
         a > 82 m4660 s'{t}' 00
         a < 90 m4660 00
         a > a2 m65535 s'{t}'
         a < b0 m65535",
    );
}

/// [v3 MQTT-4.6.0-3]: the order that clients owe us, kept by us as well.
#[test]
fn v3_mqtt_4_6_0_2_pubacks_are_in_the_order_of_the_publishes() {
    check(
        "p connect v4
         p > 32 s'{t}' m3 'x' ; 32 s'{t}' m1 'x' ; 32 s'{t}' m2 'x'
         p < 40 m3
         p < 40 m1
         p < 40 m2",
    );
}

#[test]
fn v3_mqtt_4_6_0_3_pubrecs_are_in_the_order_of_the_publishes() {
    check(
        "p connect v4
         p > 34 s'{t}' m3 'x' ; 34 s'{t}' m1 'x' ; 34 s'{t}' m2 'x'
         p < 50 m3
         p < 50 m1
         p < 50 m2",
    );
}

#[test]
fn v3_mqtt_4_6_0_4_pubrels_are_in_the_order_of_the_pubrecs() {
    check(
        "s connect v4
         s > 82 m1 s'{t}' 02
         s < 90 m1 02
         p connect v4
         p => 34 s'{t}' m1 'x' ; 34 s'{t}' m2 'y' ; 34 s'{t}' m3 'z'
         s < 34 s'{t}' $a 'x'
         s < 34 s'{t}' $b 'y'
         s < 34 s'{t}' $c 'z'
         s > 50 $b ; 50 $c ; 50 $a
         s < 62 $b
         s < 62 $c
         s < 62 $a",
    );
}

#[track_caller]
fn check(scenario: &str) {
    play(&BROKER, scenario);
}

/// Subscriber `s` of a resumable session has been sent a message with packet id `$a`; then these steps.
#[track_caller]
fn delivery_qos_1(steps: &str) {
    check(&format!(
        "s connect v5 clean=0 props(11 L60)
         s > 82 m1 [] s'{{t}}' 01
         s < 90 m1 [] 01
         p connect v5
         p => 32 s'{{t}}' m1 [] 'x'
         s < 32 s'{{t}}' $a [] 'x'
         {steps}"
    ));
}

/// As `delivery_qos_1`.
#[track_caller]
fn delivery_qos_2(steps: &str) {
    check(&format!(
        "s connect v5 clean=0 props(11 L60)
         s > 82 m1 [] s'{{t}}' 02
         s < 90 m1 [] 02
         p connect v5
         p => 34 s'{{t}}' m1 [] 'x'
         s < 34 s'{{t}}' $a [] 'x'
         {steps}"
    ));
}

/// With reason strings on, a client that takes 16 bytes at most, as many as its CONNACK has, sends `packet` and gets `answer`.
#[track_caller]
fn within_16_bytes(packet: &str, answer: &str) {
    play(
        &WITH_REASONS,
        &format!("a connect v5 props(27 L16)\n a > {packet}\n a < {answer}"),
    );
}
