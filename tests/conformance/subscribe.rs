//! SUBSCRIBE and SUBACK: which filters are taken, what is granted, and what it brings.

use crate::scenario::{SharedBroker, play};

static BROKER: SharedBroker = SharedBroker::plain();
static WITH_REASONS: SharedBroker = SharedBroker::with("reason_strings = true\n", &[]);
static WITHOUT_WILDCARDS: SharedBroker =
    SharedBroker::with("wildcard_subscription_available = false\n", &[]);
static COPY_EACH: SharedBroker = SharedBroker::with("copy_per_subscription = true\n", &[]);

/// For the one test that subscribes to everything.
static ALONE: SharedBroker = SharedBroker::with("queue_qos0 = false\n", &[]);

#[test]
fn mqtt_3_8_1_1_subscribe_flags_are_0010() {
    for first in ["80", "81", "83", "84", "86", "8a"] {
        check(&format!(
            "a connect v5\n a > {first} m1 [] s'{{t}}' 00\n a < e0 81\n a close"
        ));
    }
}

#[test]
fn v3_mqtt_3_8_1_1_subscribe_flags_are_0010() {
    for first in ["80", "81", "83", "84", "86", "8a"] {
        check(&format!(
            "a connect v4\n a > {first} m1 s'{{t}}' 00\n a close"
        ));
    }
}

#[test]
fn mqtt_3_8_3_1_filters_are_strings() {
    for filter in ["s2 c328", "s3 eda080", "s3 610062"] {
        check(&format!(
            "a connect v5\n a > 82 m1 [] {filter} 00\n a < e0 81\n a close"
        ));
    }
}

#[test]
fn v3_mqtt_3_8_3_1_filters_are_strings() {
    for filter in ["s2 c328", "s3 eda080"] {
        check(&format!("a connect v4\n a > 82 m1 {filter} 00\n a close"));
    }
}

/// 0x81 where the standard says protocol error, as the byte-exact exchanges demand (D20).
#[test]
fn mqtt_3_8_3_2_a_subscribe_without_filters_closes() {
    check("a connect v5\n a > 82 m1 []\n a < e0 81\n a close");
}

#[test]
fn v3_mqtt_3_8_3_3_a_subscribe_without_filters_closes() {
    check("a connect v4\n a > 82 m1\n a close");
}

#[test]
fn v3_mqtt_3_8_3_2_without_wildcards_such_filters_are_refused() {
    play(
        &WITHOUT_WILDCARDS,
        "a connect v4
         a > 82 m1 s'{t}/#' 01 s'{t}' 01 s'{t}/+' 00
         a < 90 m1 80 01 80
         b connect v5
         b > 82 m1 [] s'{t}/#' 01 s'{t}' 01
         b < 90 m1 [] a2 01",
    );
}

#[test]
fn mqtt_3_8_3_3_no_local_keeps_own_messages_away() {
    check(
        "a connect v5
         a > 82 m1 [] s'{t}' 04
         a < 90 m1 [] 00
         b connect v5
         b > 82 m1 [] s'{t}' 00
         b < 90 m1 [] 00
         a > 30 s'{t}' [] 'own'
         b < 30 s'{t}' [] 'own'
         b > 30 s'{t}' [] 'other'
         a < 30 s'{t}' [] 'other'
         a quiet",
    );
}

/// The client id is what counts, so the rule holds for a session that was away.
#[test]
fn mqtt_3_8_3_3_no_local_holds_for_a_resumed_session() {
    check(
        "a connect v5 clean=0 props(11 L60)
         a > 82 m1 [] s'{t}' 05
         a < 90 m1 [] 01
         a bye
         a connect v5 clean=0 present=1 props(11 L60)
         a > 32 s'{t}' m2 [] 'own'
         a < 40 m2 ..
         a quiet",
    );
}

#[test]
fn mqtt_3_8_3_5_reserved_option_bits_are_malformed() {
    for options in ["03", "30", "40", "80", "c0"] {
        check(&format!(
            "a connect v5\n a > 82 m1 [] s'{{t}}' {options}\n a < e0 81\n a close"
        ));
    }
}

#[test]
fn v3_mqtt_3_8_3_4_reserved_bits_and_qos_3_close() {
    for options in ["03", "04", "08", "10", "20", "40", "80"] {
        check(&format!(
            "a connect v4\n a > 82 m1 s'{{t}}' {options}\n a close"
        ));
    }
}

/// [MQTT-3.8.4-2]
#[test]
fn mqtt_3_8_4_1_subscribe_is_answered() {
    check("a connect v5\n a > 82 m1 [] s'{t}' 00\n a < 90 m1 [] 00");
}

#[test]
fn mqtt_3_8_4_2_suback_has_the_packet_id() {
    check(
        "a connect v5\n a > 82 m65535 [] s'{t}' 00 ; 82 m1 [] s'{t}' 01\n a < 90 m65535 [] 00\n a < 90 m1 [] 01",
    );
}

/// [v3 MQTT-3.8.4-2]
#[test]
fn v3_mqtt_3_8_4_1_subscribe_is_answered() {
    check("a connect v4\n a > 82 m1 s'{t}' 00\n a < 90 m1 00");
}

#[test]
fn v3_mqtt_3_8_4_2_suback_has_the_packet_id() {
    check(
        "a connect v4\n a > 82 m65535 s'{t}' 00 ; 82 m1 s'{t}' 01\n a < 90 m65535 00\n a < 90 m1 01",
    );
}

/// All options are those of the second: QoS, No Local, retain as published, identifier.
#[test]
fn mqtt_3_8_4_3_the_same_filter_replaces_the_subscription() {
    check(
        "s connect v5
         s > 82 m1 [0b v7] s'{t}' 0e
         s < 90 m1 [] 02
         s > 82 m2 [0b v8] s'{t}' 01
         s < 90 m2 [] 01
         p connect v5
         p => 35 s'{t}' m1 [] 'x'
         s < 32 s'{t}' $a [0b v8] 'x'
         s > 30 s'{t}' [] 'own'
         s < 30 s'{t}' [0b v8] 'own'
         s > 82 m3 [] s'{t}' 00
         s < 90 m3 [] 00
         s < 31 s'{t}' [] 'x'
         p => 32 s'{t}' m2 [] 'y'
         s < 30 s'{t}' [] 'y'
         s quiet",
    );
}

#[test]
fn mqtt_3_8_4_4_replacing_resends_retained_and_loses_nothing() {
    check(
        "p connect v5
         p => 33 s'{t}' m1 [] 'kept'
         s connect v5
         s > 82 m1 [] s'{t}' 01
         s < 90 m1 [] 01
         s < 33 s'{t}' $a [] 'kept'
         p => 32 s'{t}' m2 [] 'one'
         s > 82 m2 [] s'{t}' 01
         s < 32 s'{t}' $b [] 'one' | 90 m2 [] 01 | 33 s'{t}' $c [] 'kept'
         p => 32 s'{t}' m3 [] 'two'
         s < 32 s'{t}' $d [] 'two'",
    );
}

#[test]
fn v3_mqtt_3_8_4_3_the_same_filter_replaces_the_subscription_and_resends_retained() {
    check(
        "p connect v4
         p => 33 s'{t}' m1 'kept'
         s connect v4
         s > 82 m1 s'{t}' 02
         s < 90 m1 02
         s < 33 s'{t}' $a 'kept'
         p => 34 s'{t}' m2 'flying'
         s < 34 s'{t}' $b 'flying'
         s > 82 m2 s'{t}' 00
         s < 90 m2 00
         s < 31 s'{t}' 'kept'
         s > 50 $b
         s < 62 $b
         s > 70 $b
         p > 30 s'{t}' 'live'
         s < 30 s'{t}' 'live'
         s quiet",
    );
}

/// [MQTT-3.8.4-6] [MQTT-3.9.3-1]
#[test]
fn mqtt_3_8_4_5_several_filters_are_several_subscriptions() {
    check(
        "p connect v5
         p > 31 s'{t}/b' [] 'kept'
         p quiet
         s connect v5
         s > 82 m1 [] s'{t}/a' 00 s'{t}/b' 01 s'{t}/c' 02 s'{t}/a' 01
         s < 90 m1 [] 00 01 02 01
         s < 31 s'{t}/b' [] 'kept'
         p => 34 s'{t}/a' m1 [] 'x' ; 34 s'{t}/b' m2 [] 'x' ; 34 s'{t}/c' m3 [] 'x'
         s < 32 s'{t}/a' $a [] 'x'
         s < 32 s'{t}/b' $b [] 'x'
         s < 34 s'{t}/c' $c [] 'x'",
    );
}

/// [v3 MQTT-3.8.4-5] [v3 MQTT-3.9.3-1]
#[test]
fn v3_mqtt_3_8_4_4_several_filters_are_several_subscriptions() {
    check(
        "s connect v4
         s > 82 m1 s'{t}/a' 00 s'{t}/b' 01 s'{t}/c' 02
         s < 90 m1 00 01 02
         p connect v4
         p => 34 s'{t}/a' m1 'x' ; 34 s'{t}/b' m2 'x' ; 34 s'{t}/c' m3 'x'
         s < 30 s'{t}/a' 'x'
         s < 32 s'{t}/b' $b 'x'
         s < 34 s'{t}/c' $c 'x'",
    );
}

#[test]
fn mqtt_3_8_4_6_suback_has_a_code_for_each_filter() {
    check(
        "a connect v5
         a > 82 m1 [] s'{t}/1' 00 s'$share//x' 01 s'{t}/2' 02 s'{t}/3' 01 s'$share/g' 00
         a < 90 m1 [] 00 8f 02 01 8f",
    );
}

#[test]
fn v3_mqtt_3_8_4_5_suback_has_a_code_for_each_filter() {
    check("a connect v4\n a > 82 m1 s'{t}/1' 02 s'{t}/2' 00 s'{t}/3' 01\n a < 90 m1 02 00 01");
}

#[test]
fn mqtt_3_8_4_7_each_code_is_the_granted_qos_or_a_failure() {
    check(
        "a connect v5\n a > 82 m1 [] s'{t}/1' 01 s'{t}/2' 02 s'{t}/3' 00\n a < 90 m1 [] 01 02 00",
    );
}

#[test]
fn mqtt_3_8_4_8_delivery_is_at_the_lower_qos() {
    check(
        "s connect v5
         s > 82 m1 [] s'{t}/0' 00 s'{t}/1' 01 s'{t}/2' 02
         s < 90 m1 [] 00 01 02
         p connect v5
         p => 34 s'{t}/0' m1 [] 'x'
         s < 30 s'{t}/0' [] 'x'
         p => 34 s'{t}/1' m2 [] 'x'
         s < 32 s'{t}/1' $a [] 'x'
         p > 30 s'{t}/2' [] 'x'
         s < 30 s'{t}/2' [] 'x'
         p => 32 s'{t}/2' m3 [] 'x'
         s < 32 s'{t}/2' $b [] 'x'
         p => 35 s'{t}/r' m4 [] 'kept'
         s > 82 m2 [] s'{t}/r' 01
         s < 90 m2 [] 01
         s < 33 s'{t}/r' $c [] 'kept'",
    );
}

#[test]
fn v3_mqtt_3_8_4_6_delivery_is_at_the_lower_qos() {
    check(
        "s connect v4
         s > 82 m1 s'{t}/0' 00 s'{t}/1' 01 s'{t}/2' 02
         s < 90 m1 00 01 02
         p connect v4
         p => 34 s'{t}/0' m1 'x'
         s < 30 s'{t}/0' 'x'
         p => 34 s'{t}/1' m2 'x'
         s < 32 s'{t}/1' $a 'x'
         p => 32 s'{t}/2' m3 'x'
         s < 32 s'{t}/2' $b 'x'",
    );
}

/// The other half of the next two, and of their like in other files: where it fits, a refusal is explained (D24).
#[test]
fn reason_strings_explain_refusals_when_they_are_on() {
    let suback = WITH_REASONS.with_broker(|broker| {
        let mut client = harness::Client::connect_v5(broker, &crate::scenario::unique_text(), "");
        client.send(&harness::packet("82", "m1 v0 s'$share//x' 00"));
        client.receive_packet()
    });
    let (head, rest) = suback.split_at(4);
    assert_eq!(head[..1], [0x90]);
    let length = usize::from(rest[0]);
    assert!(
        length > 3 && rest[1] == 0x1f,
        "no reason string in {}",
        harness::hex(&suback)
    );
    assert_eq!(rest[1 + length..], [0x8f]);
}

#[test]
fn mqtt_3_9_2_1_suback_has_no_text_that_does_not_fit() {
    play(
        &WITH_REASONS,
        "a connect v5 props(27 L16)\n a > 82 m1 [] s'$share//x' 00\n a < 90 m1 [] 8f",
    );
}

#[test]
fn mqtt_3_9_2_2_suback_has_no_user_properties_that_do_not_fit() {
    play(
        &WITH_REASONS,
        "a connect v5 props(27 L16)\n a > 82 m1 [26 s'k' s'v'] s'{t}' 00\n a < 90 m1 [] 00",
    );
}

#[test]
fn mqtt_3_9_3_1_codes_are_in_the_order_of_the_filters() {
    check(
        "a connect v5\n a > 82 m1 [] s'{t}/z' 02 s'{t}/a' 00 s'{t}/m' 01 s'{t}/a' 02\n a < 90 m1 [] 02 00 01 02",
    );
}

#[test]
fn v3_mqtt_3_9_3_1_codes_are_in_the_order_of_the_filters() {
    check(
        "a connect v4\n a > 82 m1 s'{t}/z' 02 s'{t}/a' 00 s'{t}/m' 01 s'{t}/a' 02\n a < 90 m1 02 00 01 02",
    );
}

#[test]
fn mqtt_3_9_3_2_suback_uses_the_codes_of_its_table() {
    check("a connect v5\n a > 82 m1 [] s'{t}' 01 s'$share//x' 01\n a < 90 m1 [] 01 8f");
    play(
        &WITHOUT_WILDCARDS,
        "a connect v5\n a > 82 m1 [] s'#' 01\n a < 90 m1 [] a2",
    );
}

/// [v3 MQTT-3.8.4-5]: 0x80 for that one alone, and its retained message does not come.
#[test]
fn v3_mqtt_3_9_3_2_a_refused_filter_gets_0x80_and_the_connection_stays() {
    play(
        &WITHOUT_WILDCARDS,
        "p connect v4
         p > 31 s'{t}/a' 'kept'
         p quiet
         s connect v4
         s > 82 m1 s'{t}/+' 01 s'{t}/b' 01
         s < 90 m1 80 01
         p > 30 s'{t}/a' 'no' ; 30 s'{t}/b' 'yes'
         s < 30 s'{t}/b' 'yes'
         s quiet",
    );
}

// Filters.

#[test]
fn mqtt_4_7_1_1_the_multi_level_wildcard_stands_alone_and_last() {
    invalid_filters("v5", "[]", &["#/a", "a/#/b", "a#", "a/b#", "##"]);
    check(
        "s connect v5
         s > 82 m1 [] s'{t}/#' 00
         s < 90 m1 [] 00
         p connect v5
         p > 30 s'{t}' [] '1' ; 30 s'{t}x' [] 'no' ; 30 s'{t}/' [] '2' ; 30 s'{t}/a/b/c' [] '3'
         s < 30 s'{t}' [] '1'
         s < 30 s'{t}/' [] '2'
         s < 30 s'{t}/a/b/c' [] '3'",
    );
}

#[test]
fn mqtt_4_7_1_2_the_single_level_wildcard_fills_a_level() {
    invalid_filters("v5", "[]", &["a+", "+a", "a/+b", "a/b+/c", "++"]);
    check(
        "s connect v5
         s > 82 m1 [] s'+/{t}/+' 00
         s < 90 m1 [] 00
         p connect v5
         p > 30 s'{t}/a' [] 'no' ; 30 s'a/{t}' [] 'no' ; 30 s'a/{t}/b/c' [] 'no' ; 30 s'a/{t}/b' [] '1' ; 30 s'/{t}/' [] '2'
         s < 30 s'a/{t}/b' [] '1'
         s < 30 s'/{t}/' [] '2'",
    );
}

#[test]
fn v3_mqtt_4_7_1_2_the_multi_level_wildcard_stands_alone_and_last() {
    invalid_filters("v4", "", &["#/a", "a/#/b", "a#"]);
    check(
        "s connect v4
         s > 82 m1 s'{t}/#' 00
         s < 90 m1 00
         p connect v4
         p > 30 s'{t}' '1' ; 30 s'{t}x' 'no' ; 30 s'{t}/a/b' '2'
         s < 30 s'{t}' '1'
         s < 30 s'{t}/a/b' '2'",
    );
}

#[test]
fn v3_mqtt_4_7_1_3_the_single_level_wildcard_fills_a_level() {
    invalid_filters("v4", "", &["a+", "a/+b", "a/b+/c"]);
    check(
        "s connect v4
         s > 82 m1 s'+/{t}/+' 00
         s < 90 m1 00
         p connect v4
         p > 30 s'a/{t}' 'no' ; 30 s'a/{t}/b' '1' ; 30 s'/{t}/' '2'
         s < 30 s'a/{t}/b' '1'
         s < 30 s'/{t}/' '2'",
    );
}

#[test]
fn mqtt_4_7_2_1_a_leading_wildcard_does_not_match_a_leading_dollar() {
    play(
        &ALONE,
        "s connect v5
         s > 82 m1 [] s'#' 00 s'+/{t}' 00 s'$share/g/#' 00
         s < 90 m1 [] 00 00 00
         d connect v5
         d > 82 m1 [] s'$my/{t}' 00 s'$my/#' 00
         d < 90 m1 [] 00 00
         p connect v5
         p > 30 s'$my/{t}' [] 'hidden'
         d < 30 s'$my/{t}' [] 'hidden'
         p > 30 s'{t}' [] 'seen'
         s < 30 s'{t}' [] 'seen'
         s < 30 s'{t}' [] 'seen'
         s quiet",
    );
}

#[test]
fn v3_mqtt_4_7_2_1_a_leading_wildcard_does_not_match_a_leading_dollar() {
    check(
        "s connect v4
         s > 82 m1 s'+/{t}' 00
         s < 90 m1 00
         d connect v4
         d > 82 m1 s'$my/+' 00
         d < 90 m1 00
         p connect v4
         p > 30 s'$my/{t}' 'hidden'
         d < 30 s'$my/{t}' 'hidden'
         p > 30 s'my/{t}' 'seen'
         s < 30 s'my/{t}' 'seen'",
    );
}

// Overlapping subscriptions and their identifiers.

#[test]
fn mqtt_3_3_4_2_overlapping_subscriptions_deliver_once_at_the_highest_qos() {
    check(
        "s connect v5
         s > 82 m1 [] s'{t}/a' 00 s'{t}/+' 02 s'{t}/#' 01
         s < 90 m1 [] 00 02 01
         p connect v5
         p => 34 s'{t}/a' m1 [] 'x'
         s < 34 s'{t}/a' $a [] 'x'
         s quiet",
    );
}

#[test]
fn v3_mqtt_3_3_5_1_overlapping_subscriptions_deliver_once_at_the_highest_qos() {
    check(
        "s connect v4
         s > 82 m1 s'{t}/a' 00 s'{t}/+' 02 s'{t}/#' 01
         s < 90 m1 00 02 01
         p connect v4
         p => 34 s'{t}/a' m1 'x'
         s < 34 s'{t}/a' $a 'x'
         s quiet",
    );
}

/// [MQTT-3.3.4-4]
#[test]
fn mqtt_3_3_4_3_all_identifiers_of_overlapping_subscriptions_are_sent() {
    check(
        "s connect v5
         s > 82 m1 [0b v1] s'{t}/a' 00
         s < 90 m1 [] 00
         s > 82 m2 [0b v268435455] s'{t}/+' 01
         s < 90 m2 [] 01
         s > 82 m3 [] s'{t}/#' 00
         s < 90 m3 [] 00
         p connect v5
         p => 32 s'{t}/a' m1 [] 'x'
         s < 32 s'{t}/a' $a [0b v1 0b v268435455] 'x' or 32 s'{t}/a' $a [0b v268435455 0b v1] 'x'
         s quiet",
    );
}

#[test]
fn mqtt_3_3_4_4_one_copy_carries_the_identifiers_of_all_matches() {
    check(
        "p connect v5
         p > 31 s'{t}' [] 'kept'
         p quiet
         s connect v5
         s > 82 m1 [0b v128] s'{t}' 08
         s < 90 m1 [] 00
         s < 31 s'{t}' [0b v128] 'kept'
         s > 82 m2 [0b v129] s'{t}' 08
         s < 90 m2 [] 00
         s < 31 s'{t}' [0b v129] 'kept'
         p > 30 s'{t}' [] 'live'
         s < 30 s'{t}' [0b v129] 'live'
         s > 82 m3 [] s'{t}' 28
         s < 90 m3 [] 00
         p > 30 s'{t}' [] 'none'
         s < 30 s'{t}' [] 'none'",
    );
}

#[test]
fn mqtt_3_3_4_5_each_of_several_copies_carries_its_own_identifier() {
    play(
        &COPY_EACH,
        "s connect v5
         s > 82 m1 [0b v1] s'{t}/a' 00
         s < 90 m1 [] 00
         s > 82 m2 [0b v268435455] s'{t}/+' 01
         s < 90 m2 [] 01
         p connect v5
         p => 32 s'{t}/a' m1 [] 'x'
         s < 30 s'{t}/a' [0b v1] 'x' | 32 s'{t}/a' $a [0b v268435455] 'x'
         s quiet",
    );
}

#[track_caller]
fn check(scenario: &str) {
    play(&BROKER, scenario);
}

/// In 5.0 SUBACK 0x8F or a close for malformed; before it the connection is closed, as the byte-exact exchanges demand.
#[track_caller]
fn invalid_filters(version: &str, properties: &str, filters: &[&str]) {
    for filter in filters {
        let answer = if version == "v5" {
            "a < 90 m1 [] 8f"
        } else {
            "a close"
        };
        check(&format!(
            "a connect {version}\n a > 82 m1 {properties} s'{filter}' 00\n {answer}"
        ));
    }
}
