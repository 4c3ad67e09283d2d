//! PUBLISH: what a publisher may send, and what reaches the subscribers.

use crate::scenario::{SharedBroker, play};

static BROKER: SharedBroker = SharedBroker::plain();

// Strings, lengths and flags, which every packet has.

#[test]
fn mqtt_1_5_4_1_ill_formed_utf_8_is_malformed() {
    for topic in [
        "s1 ff",
        "s3 61c328",
        "s3 eda080",
        "s3 edbfbf",
        "s2 c0af",
        "s4 f4908080",
    ] {
        malformed(&format!("30 {topic} [] 'x'"));
    }
    malformed("30 s'{t}' [08 s1 ff] 'x'");
    malformed("30 s'{t}' [26 s'k' s1 ff] 'x'");
}

#[test]
fn v3_mqtt_1_5_3_1_ill_formed_utf_8_closes() {
    for topic in ["s1 ff", "s3 61c328", "s3 eda080", "s2 c0af"] {
        closed_v4(&format!("30 {topic} 'x'"));
    }
}

/// [MQTT-4.7.3-2]
#[test]
fn mqtt_1_5_4_2_a_null_character_is_malformed() {
    malformed("30 s3 610062 [] 'x'");
    malformed("30 s'{t}' [03 s1 00] 'x'");
    malformed("30 s'{t}' [26 s1 00 s'v'] 'x'");
}

#[test]
fn mqtt_4_7_3_2_topics_and_filters_hold_no_null_character() {
    malformed("30 s3 610062 [] 'x'");
    malformed("82 m1 [] s3 610062 00");
    malformed("a2 m1 [] s3 610062");
}

/// [v3 MQTT-4.7.3-2]
#[test]
fn v3_mqtt_1_5_3_2_a_null_character_closes() {
    closed_v4("30 s3 610062 'x'");
    closed_v4("82 m1 s3 610062 00");
}

#[test]
fn v3_mqtt_4_7_3_2_topics_and_filters_hold_no_null_character() {
    closed_v4("30 s3 610062 'x'");
    closed_v4("82 m1 s3 610062 00");
    closed_v4("a2 m1 s3 610062");
}

/// The topic with the mark and the topic without it are two topics.
#[test]
fn mqtt_1_5_4_3_a_byte_order_mark_is_kept() {
    check(
        "s connect v5
         s > 82 m1 [] (efbbbf 'bom-{t}') 00 s'bom-{t}' 00
         s < 90 m1 [] 00 00
         p connect v5
         p > 30 s'plain' [] 'x' ; 30 (efbbbf 'bom-{t}') [] 'marked'
         s < 30 (efbbbf 'bom-{t}') [] 'marked'",
    );
}

#[test]
fn v3_mqtt_1_5_3_3_a_byte_order_mark_is_kept() {
    check(
        "s connect v4
         s > 82 m1 (efbbbf 'bom-{t}') 00 s'bom-{t}' 00
         s < 90 m1 00 00
         p connect v4
         p > 30 (efbbbf 'bom-{t}') 'marked'
         s < 30 (efbbbf 'bom-{t}') 'marked'
         s quiet",
    );
}

#[test]
fn mqtt_1_5_5_1_a_length_with_needless_bytes_is_refused() {
    check(
        "a connect v5
         a raw 30 8800 s4 'topi' 00 'x'
         a close?
         b connect v5
         b raw 82 8b00 m1 00 s5 'topic' 00
         b close?
         c connect v5
         c > 30 s'topic' 8000 'x'
         c < e0 81
         c close
         d connect v5
         d > 82 m1 [0b 8100] s'{t}' 00
         d < e0 81
         d close",
    );
}

#[test]
fn mqtt_1_5_7_1_both_strings_of_a_user_property_are_checked() {
    malformed("30 s'{t}' [26 s1 ff s'v'] 'x'");
    malformed("30 s'{t}' [26 s'k' s3 eda080] 'x'");
    malformed("82 m1 [26 s'k' s1 00] s'{t}' 00");
}

/// Wrong flags of PUBREL, DISCONNECT and AUTH are answered 0x82, as the byte-exact exchanges demand (D20).
#[test]
fn mqtt_2_1_3_1_reserved_flags_have_their_values() {
    for first in [
        "41", "42", "44", "48", "51", "58", "71", "80", "83", "a0", "a3",
    ] {
        malformed(&format!("{first} m1"));
    }
    malformed("c1");
    for packet in ["60 m1", "63 m1", "e1", "f1"] {
        protocol_error(packet);
    }
}

/// [v3 MQTT-2.2.2-1]
#[test]
fn v3_mqtt_2_2_2_2_wrong_flags_close() {
    for first in ["41", "48", "51", "60", "63", "71", "80", "83", "a0", "a3"] {
        closed_v4(&format!("{first} m1"));
    }
    closed_v4("c1");
    closed_v4("e1");
}

#[test]
fn v3_mqtt_2_2_2_1_reserved_flags_have_their_values() {
    check(
        "a connect v4
         a > 82 m1 s'{t}' 02
         a < 90 m1 02
         a > 34 s'{t}' m2 'x'
         a < 50 m2 | 34 s'{t}' $i 'x'
         a > 62 m2
         a < 70 m2
         a > 50 $i
         a < 62 $i
         a > 70 $i
         a > a2 m3 s'{t}'
         a < b0 m3
         a quiet",
    );
}

// Packet ids.

/// [v3 MQTT-2.3.1-5] is the same in 3.1.1.
#[test]
fn mqtt_2_2_1_2_a_qos_0_publish_has_no_packet_id() {
    check(
        "s connect v5
         s > 82 m1 [] s'{t}' 02
         s < 90 m1 [] 02
         p connect v5
         p > 30 s'{t}' [] 'x'
         s < 30 s'{t}' [] 'x'",
    );
}

#[test]
fn v3_mqtt_2_3_1_5_a_qos_0_publish_has_no_packet_id() {
    check(
        "s connect v4
         s > 82 m1 s'{t}' 02
         s < 90 m1 02
         p connect v4
         p > 30 s'{t}' 'x'
         s < 30 s'{t}' 'x'",
    );
}

/// SUBSCRIBE and UNSUBSCRIBE answer 0x81 here, as the byte-exact exchanges demand (D20).
#[test]
fn mqtt_2_2_1_3_packet_id_0_is_refused() {
    check("a connect v5\n a > 32 s'{t}' m0 [] 'x'\n a < e0 82\n a close");
    check("a connect v5\n a > 34 s'{t}' m0 [] 'x'\n a < e0 82\n a close");
    malformed("82 m0 [] s'{t}' 00");
    check("a connect v5\n a > a2 m0 [] s'{t}'\n a < e0 ..\n a close");
}

#[test]
fn v3_mqtt_2_3_1_1_packet_id_0_closes() {
    closed_v4("32 s'{t}' m0 'x'");
    closed_v4("34 s'{t}' m0 'x'");
    closed_v4("82 m0 s'{t}' 00");
    closed_v4("a2 m0 s'{t}'");
}

/// [MQTT-4.3.2-1] [MQTT-4.3.3-1]
#[test]
fn mqtt_2_2_1_4_ids_of_deliveries_are_not_0_and_not_in_use() {
    let ids = ids_in_flight("v5", "[]");
    assert!(!ids.contains(&0), "{ids:?}");
    assert_eq!(
        ids.iter().collect::<std::collections::BTreeSet<_>>().len(),
        ids.len(),
        "{ids:?}"
    );
}

#[test]
fn v3_mqtt_2_3_1_4_ids_of_deliveries_are_not_0_and_not_in_use() {
    let ids = ids_in_flight("v4", "");
    assert!(!ids.contains(&0), "{ids:?}");
    assert_eq!(
        ids.iter().collect::<std::collections::BTreeSet<_>>().len(),
        ids.len(),
        "{ids:?}"
    );
}

#[test]
fn mqtt_2_2_2_1_no_properties_are_a_length_of_0() {
    check(
        "a connect v5
         a > 82 m1 [] s'{t}' 00
         a < 90 m1 00 00
         a > 30 s'{t}' 00 'x'
         a < 30 s'{t}' 00 'x'
         a > a2 m2 00 s'{t}'
         a < b0 m2 00 00",
    );
}

// DUP, QoS, RETAIN.

#[test]
fn mqtt_3_3_1_2_dup_is_0_for_qos_0() {
    malformed("38 s'{t}' [] 'x'");
    check(
        "s connect v5
         s > 82 m1 [] s'{t}' 00
         s < 90 m1 [] 00
         p connect v5
         p => 3a s'{t}' m1 [] 'x'
         s < 30 s'{t}' [] 'x'",
    );
}

#[test]
fn v3_mqtt_3_3_1_2_dup_is_0_for_qos_0() {
    closed_v4("38 s'{t}' 'x'");
    check(
        "s connect v4
         s > 82 m1 s'{t}' 00
         s < 90 m1 00
         p connect v4
         p => 3a s'{t}' m1 'x'
         s < 30 s'{t}' 'x'",
    );
}

#[test]
fn mqtt_3_3_1_3_dup_is_not_handed_on() {
    check(
        "s connect v5
         s > 82 m1 [] s'{t}' 02
         s < 90 m1 [] 02
         p connect v5
         p => 3a s'{t}' m1 [] 'one'
         s < 32 s'{t}' $a [] 'one'
         p => 3c s'{t}' m2 [] 'two'
         s < 34 s'{t}' $b [] 'two'",
    );
}

#[test]
fn v3_mqtt_3_3_1_3_dup_is_not_handed_on() {
    check(
        "s connect v4
         s > 82 m1 s'{t}' 02
         s < 90 m1 02
         p connect v4
         p => 3a s'{t}' m1 'one'
         s < 32 s'{t}' $a 'one'
         p => 3c s'{t}' m2 'two'
         s < 34 s'{t}' $b 'two'",
    );
}

#[test]
fn mqtt_3_3_1_4_qos_3_is_malformed() {
    malformed("36 s'{t}' m1 [] 'x'");
    malformed("3e s'{t}' m1 [] 'x'");
}

#[test]
fn v3_mqtt_3_3_1_4_qos_3_closes() {
    closed_v4("36 s'{t}' m1 'x'");
}

// The topic name.

#[test]
fn mqtt_3_3_2_1_the_topic_name_comes_first_and_is_a_string() {
    malformed("30");
    malformed("30 s5 'four'");
    malformed("30 s2 c328 [] 'x'");
}

#[test]
fn v3_mqtt_3_3_2_1_the_topic_name_comes_first_and_is_a_string() {
    closed_v4("30");
    closed_v4("30 s5 'four'");
    closed_v4("30 s2 c328 'x'");
}

/// [MQTT-4.7.0-1]
#[test]
fn mqtt_3_3_2_2_a_wildcard_in_a_topic_name_closes() {
    for topic in ["+", "a/+/b", "#", "a/#", "a+b", "a#"] {
        malformed(&format!("30 s'{topic}' [] 'x'"));
        malformed(&format!("32 s'{topic}' m1 [] 'x'"));
    }
}

#[test]
fn mqtt_4_7_0_1_wildcards_are_for_filters_only() {
    malformed("30 s'{t}/+' [] 'x'");
    check("a connect v5\n a > 82 m1 [] s'{t}/+' 00\n a < 90 m1 [] 00");
}

/// [v3 MQTT-4.7.1-1]
#[test]
fn v3_mqtt_3_3_2_2_a_wildcard_in_a_topic_name_closes() {
    for topic in ["+", "a/+/b", "#", "a/#", "a+b"] {
        closed_v4(&format!("30 s'{topic}' 'x'"));
    }
}

#[test]
fn v3_mqtt_4_7_1_1_wildcards_are_for_filters_only() {
    closed_v4("30 s'{t}/+' 'x'");
    check("a connect v4\n a > 82 m1 s'{t}/+' 00\n a < 90 m1 00");
}

#[test]
fn mqtt_3_3_2_3_only_matching_topics_are_delivered() {
    check(
        "s connect v5
         s > 82 m1 [] s'{t}/+/c' 00 s'{t}/x/#' 00
         s < 90 m1 [] 00 00
         p connect v5
         p > 30 s'{t}' [] '1' ; 30 s'{t}/b' [] '2' ; 30 s'{t}/b/c/d' [] '3' ; 30 s'{t}/b/C' [] '4'
         p > 30 s'{t}/b/c' [] 'yes' ; 30 s'{t}//c' [] 'yes' ; 30 s'{t}/x' [] 'yes' ; 30 s'{t}/x/y/z' [] 'yes'
         s < 30 s'{t}/b/c' [] 'yes'
         s < 30 s'{t}//c' [] 'yes'
         s < 30 s'{t}/x' [] 'yes'
         s < 30 s'{t}/x/y/z' [] 'yes'",
    );
}

#[test]
fn v3_mqtt_3_3_2_3_only_matching_topics_are_delivered() {
    check(
        "s connect v4
         s > 82 m1 s'{t}/+/c' 00
         s < 90 m1 00
         p connect v4
         p > 30 s'{t}/b' '1' ; 30 s'{t}/b/c/d' '2' ; 30 s'{t}/b/c' 'yes'
         s < 30 s'{t}/b/c' 'yes'",
    );
}

/// In 5.0 0x81, as the byte-exact exchanges demand where there is no alias either (D20).
#[test]
fn mqtt_4_7_3_1_topics_and_filters_are_not_empty() {
    malformed("30 s'' [] 'x'");
    malformed("82 m1 [] s'' 00");
    malformed("a2 m1 [] s''");
}

#[test]
fn v3_mqtt_4_7_3_1_topics_and_filters_are_not_empty() {
    closed_v4("30 s'' 'x'");
    closed_v4("82 m1 s'' 00");
    closed_v4("a2 m1 s''");
}

/// A topic of the greatest length is a topic.
#[test]
fn mqtt_4_7_3_3_a_topic_may_have_65535_bytes() {
    longest_topic("v5", "[]");
}

#[test]
fn v3_mqtt_4_7_3_3_a_topic_may_have_65535_bytes() {
    longest_topic("v4", "");
}

#[test]
fn mqtt_4_7_3_4_topics_are_compared_as_they_are() {
    check(
        "s connect v5
         s > 82 m1 [] s'{t}/a' 00 s'{t}/A/' 00 s'/{t}' 00 s'{t}//b' 00 s'{t}/é' 00 s'{t}/ ' 00
         s < 90 m1 [] 00 00 00 00 00 00
         p connect v5
         p > 30 s'{t}/A' [] 'no' ; 30 s'{t}/a/' [] 'no' ; 30 s'{t}' [] 'no' ; 30 s'{t}/b' [] 'no'
         p > 30 s'{t}/e\u{301}' [] 'no' ; 30 s'{t}/' [] 'no' ; 30 s'{t}/é' [] 'yes'
         s < 30 s'{t}/é' [] 'yes'",
    );
}

#[test]
fn v3_mqtt_4_7_3_4_topics_are_compared_as_they_are() {
    check(
        "s connect v4
         s > 82 m1 s'{t}/a' 00 s'/{t}' 00 s'{t}/é' 00
         s < 90 m1 00 00 00
         p connect v4
         p > 30 s'{t}/A' 'no' ; 30 s'{t}/a/' 'no' ; 30 s'{t}' 'no' ; 30 s'{t}/e\u{301}' 'no' ; 30 s'{t}/é' 'yes'
         s < 30 s'{t}/é' 'yes'",
    );
}

// Properties.

#[test]
fn mqtt_3_3_2_4_payload_format_indicator_is_forwarded() {
    forwarded("01 01");
    forwarded("01 00");
}

#[test]
fn mqtt_3_3_2_13_a_response_topic_that_is_no_string_is_malformed() {
    malformed("30 s'{t}' [08 s2 c328] 'x'");
}

#[test]
fn mqtt_3_3_2_14_a_wildcard_in_a_response_topic_is_a_protocol_error() {
    for topic in ["a/+", "#", "a+b"] {
        check(&format!(
            "a connect v5\n a > 30 s'{{t}}' [08 s'{topic}'] 'x'\n a < e0 82\n a close"
        ));
    }
    check(
        "a open
         a > 10 s'MQTT' 05 06 k60 [] s'{t}' [08 s'a/#'] s'{t}' s'x'
         a < 20 00 82 00
         a close",
    );
}

#[test]
fn mqtt_3_3_2_15_response_topic_is_forwarded() {
    forwarded("08 s'answers/{t}'");
}

#[test]
fn mqtt_3_3_2_16_correlation_data_is_forwarded() {
    forwarded("09 s5 00ff017f80");
    forwarded("09 s0");
}

/// [MQTT-3.3.2-18]
#[test]
fn mqtt_3_3_2_17_user_properties_are_forwarded() {
    forwarded("26 s'' s'' 26 s'k' s'v' 26 s'k' s'v'");
}

#[test]
fn mqtt_3_3_2_18_user_properties_keep_their_order() {
    forwarded("26 s'z' s'1' 26 s'a' s'2' 26 s'z' s'3' 26 s'' s'4' 26 s'a' s'2'");
}

#[test]
fn mqtt_3_3_2_19_a_content_type_that_is_no_string_is_malformed() {
    malformed("30 s'{t}' [03 s2 c328] 'x'");
}

#[test]
fn mqtt_3_3_2_20_content_type_is_forwarded() {
    forwarded("03 s'application/json'");
}

// What is answered and what is delivered.

#[test]
fn mqtt_3_3_4_1_the_answer_follows_the_qos() {
    check(
        "p connect v5
         p > 30 s'{t}' [] 'x'
         p quiet
         p > 32 s'{t}' m1 [] 'x'
         p < 40 m1 10
         p > 34 s'{t}' m2 [] 'x'
         p < 50 m2
         p > 62 m2
         p < 70 m2",
    );
}

#[test]
fn v3_mqtt_3_3_4_1_the_answer_follows_the_qos() {
    check(
        "p connect v4
         p > 30 s'{t}' 'x'
         p quiet
         p > 32 s'{t}' m1 'x'
         p < 40 m1
         p > 34 s'{t}' m2 'x'
         p < 50 m2
         p > 62 m2
         p < 70 m2",
    );
}

#[test]
fn mqtt_3_3_4_6_a_subscription_identifier_from_a_client_is_a_protocol_error() {
    check("a connect v5\n a > 30 s'{t}' [0b v1] 'x'\n a < e0 82\n a close");
    check("a connect v5\n a > 32 s'{t}' m1 [0b v1] 'x'\n a < e0 82\n a close");
}

/// A `$share/...` topic is one that no client may publish to: the exchange ends well, and nobody hears of it.
#[test]
fn v3_mqtt_3_3_5_2_a_refused_publish_is_acknowledged() {
    check(
        "s connect v4
         s > 82 m1 s'{t}' 02
         s < 90 m1 02
         p connect v4
         p > 32 s'$share/g/{t}' m1 'x'
         p < 40 m1
         p > 34 s'$share/g/{t}' m2 'x'
         p < 50 m2
         p > 62 m2
         p < 70 m2
         p > 30 s'{t}' 'marker'
         s < 30 s'{t}' 'marker'",
    );
}

/// The same in 5.0, which has a word for it.
#[test]
fn mqtt_4_3_3_9_after_a_refusing_pubrec_the_id_is_free() {
    check(
        "s connect v5
         s > 82 m1 [] s'{t}' 02
         s < 90 m1 [] 02
         p connect v5
         p > 34 s'$share/g/{t}' m1 [] 'x'
         p < 50 m1 87
         p > 34 s'{t}' m1 [] 'new'
         p < 50 m1
         s < 34 s'{t}' $i [] 'new'
         p > 62 m1
         p < 70 m1",
    );
}

#[test]
fn mqtt_3_3_2_5_an_expired_message_is_not_delivered() {
    check(
        "s connect v5 clean=0 props(11 L60)
         s > 82 m1 [] s'{t}' 01
         s < 90 m1 [] 01
         s bye
         p connect v5
         p => 32 s'{t}' m1 [02 L1] 'short'
         p => 32 s'{t}' m2 [02 L60] 'long'
         wait 1500
         s connect v5 clean=0 present=1 props(11 L60)
         s < 32 s'{t}' $a [02 ~59] 'long'
         s quiet",
    );
}

/// To one who was there, one who was away, and one who came later; never above, never 0.
#[test]
fn mqtt_3_3_2_6_forwarded_expiry_is_what_is_left() {
    check(
        "s connect v5
         s > 82 m1 [] s'{t}' 00
         s < 90 m1 [] 00
         away connect v5 clean=0 props(11 L60)
         away > 82 m1 [] s'{t}' 01
         away < 90 m1 [] 01
         away bye
         p connect v5
         p => 33 s'{t}' m1 [02 L60] 'x'
         s < 30 s'{t}' [02 ~60] 'x'
         wait 1200
         away connect v5 clean=0 present=1 props(11 L60)
         away < 32 s'{t}' $a [02 ~59] 'x'
         later connect v5
         later > 82 m1 [] s'{t}' 00
         later < 90 m1 [] 00
         later < 31 s'{t}' [02 ~59] 'x'",
    );
}

// Order.

#[test]
fn mqtt_4_6_0_5_one_clients_messages_keep_their_order() {
    in_order("v5", "[]");
}

/// [MQTT-4.6.0-6] of a subscription with wildcards.
#[test]
fn mqtt_4_6_0_6_every_topic_is_ordered() {
    check(
        "s connect v5
         s > 82 m1 [] s'{t}/#' 01
         s < 90 m1 [] 01
         p connect v5
         p => 32 s'{t}/a' m1 [] '1' ; 32 s'{t}/a' m2 [] '2' ; 32 s'{t}/a' m3 [] '3'
         s < 32 s'{t}/a' $a [] '1'
         s < 32 s'{t}/a' $b [] '2'
         s < 32 s'{t}/a' $c [] '3'",
    );
}

/// [v3 MQTT-4.6.0-5]
#[test]
fn v3_mqtt_4_6_0_6_one_clients_messages_keep_their_order() {
    in_order("v4", "");
}

#[test]
fn v3_mqtt_4_6_0_5_every_topic_is_ordered() {
    check(
        "s connect v4
         s > 82 m1 s'{t}/+' 00
         s < 90 m1 00
         p connect v4
         p > 30 s'{t}/a' '1' ; 30 s'{t}/a' '2' ; 30 s'{t}/a' '3'
         s < 30 s'{t}/a' '1'
         s < 30 s'{t}/a' '2'
         s < 30 s'{t}/a' '3'",
    );
}

/// [v3 MQTT-4.5.0-1]
#[test]
fn mqtt_4_5_0_1_an_accepted_message_reaches_every_matching_session() {
    check(
        "a connect v5
         a > 82 m1 [] s'{t}' 00
         a < 90 m1 [] 00
         b connect v5
         b > 82 m1 [] s'{t}/#' 01
         b < 90 m1 [] 01
         away connect v5 clean=0 props(11 L60)
         away > 82 m1 [] s'{t}' 02
         away < 90 m1 [] 02
         away bye
         p connect v5
         p => 32 s'{t}' m1 [] 'x'
         a < 30 s'{t}' [] 'x'
         b < 32 s'{t}' $b [] 'x'
         away connect v5 clean=0 present=1 props(11 L60)
         away < 32 s'{t}' $d [] 'x'",
    );
}

#[test]
fn v3_mqtt_4_5_0_1_an_accepted_message_reaches_every_matching_session() {
    check(
        "a connect v4
         a > 82 m1 s'{t}' 00
         a < 90 m1 00
         away connect v4 clean=0
         away > 82 m1 s'{t}/#' 02
         away < 90 m1 02
         away bye
         p connect v4
         p => 34 s'{t}' m1 'x'
         a < 30 s'{t}' 'x'
         away connect v4 clean=0 present=1
         away < 34 s'{t}' $d 'x'",
    );
}

// Errors.

/// One of each kind; [MQTT-3.1.4-1] has those of CONNECT.
#[test]
fn mqtt_4_13_1_1_an_error_is_named_and_closes() {
    malformed("30 s'{t}' [02 01] 'x'");
    malformed("82 m1 [] s'{t}' 40");
    protocol_error("30 s'{t}' [01 01 01 01] 'x'");
    protocol_error("30 s'' [23 H1] 'x'");
    protocol_error("30 s'{t}' [11 L1] 'x'");
    protocol_error("20 00 00");
    protocol_error("90 m1 [] 00");
}

#[test]
fn mqtt_4_13_2_1_an_error_code_is_followed_by_the_close() {
    malformed("36 s'{t}' m1 [] 'x'");
    check("a open\n a > 10 s'MQTT' 05 02 k60 [21 H0] s'{t}'\n a < 20 00 82 00\n a close");
}

/// [v3 MQTT-4.8.0-2] in its widest sense: whoever errs is closed, nobody else.
#[test]
fn v3_mqtt_4_8_0_1_a_violation_closes_that_connection_only() {
    check(
        "b connect v4
         a connect v4
         a > 36 s'{t}' m1 'x'
         a close
         b quiet
         a connect v4
         a > 20 00 00
         a close
         a connect v4
         a > d0
         a close
         a connect v4
         a > f0
         a close
         b quiet",
    );
}

#[track_caller]
fn check(scenario: &str) {
    play(&BROKER, scenario);
}

#[track_caller]
fn malformed(packet: &str) {
    check(&format!(
        "a connect v5\n a > {packet}\n a < e0 81\n a close"
    ));
}

#[track_caller]
fn protocol_error(packet: &str) {
    check(&format!(
        "a connect v5\n a > {packet}\n a < e0 82\n a close"
    ));
}

#[track_caller]
fn closed_v4(packet: &str) {
    check(&format!("a connect v4\n a > {packet}\n a close"));
}

/// These properties reach one who is there, one who was away, one who comes later, and one by the will, as they were.
#[track_caller]
fn forwarded(properties: &str) {
    check(&format!(
        "s connect v5
         s > 82 m1 [] s'{{t}}' 00
         s < 90 m1 [] 00
         away connect v5 clean=0 props(11 L60)
         away > 82 m1 [] s'{{t}}' 01
         away < 90 m1 [] 01
         away bye
         p connect v5
         p => 33 s'{{t}}' m1 [{properties}] 'x'
         s < 30 s'{{t}}' [{properties}] 'x'
         away connect v5 clean=0 present=1 props(11 L60)
         away < 32 s'{{t}}' $a [{properties}] 'x'
         later connect v5
         later > 82 m1 [] s'{{t}}' 00
         later < 90 m1 [] 00
         later < 31 s'{{t}}' [{properties}] 'x'
         w connect v5 will({{t}} bye 0 0) wprops({properties})
         w drop
         s < 30 s'{{t}}' [{properties}] 'bye'"
    ));
}

/// Five messages of QoS 1 and 2 to one subscriber who acknowledges none; the packet ids they came with.
fn ids_in_flight(version: &str, properties: &str) -> Vec<u16> {
    let mut scenario = format!(
        "s connect {version}
         s > 82 m1 {properties} s'{{t}}' 02
         s < 90 m1 {properties} 02
         p connect {version}\n"
    );
    for (number, first) in ["32", "34", "32", "34", "32"].iter().enumerate() {
        scenario += &format!(
            "p => {first} s'{{t}}' m{number}1 {properties} 'x'
             s < {first} s'{{t}}' $id{number} {properties} 'x'\n"
        );
    }
    let captured = play(&BROKER, &scenario);
    captured
        .values()
        .map(|id| u16::from_be_bytes(*id))
        .collect()
}

#[track_caller]
fn longest_topic(version: &str, properties: &str) {
    let topic = "a".repeat(65_535);
    check(&format!(
        "s connect {version}
         s > 82 m1 {properties} s'{{t}}' 00 s'{topic}' 00
         s < 90 m1 {properties} 00 00
         p connect {version}
         p > 30 s'{topic}' {properties} 'x'
         s < 30 s'{topic}' {properties} 'x'"
    ));
}

#[track_caller]
fn in_order(version: &str, properties: &str) {
    let mut scenario = format!(
        "s connect {version}
         s > 82 m1 {properties} s'{{t}}' 02
         s < 90 m1 {properties} 02
         p connect {version}\n"
    );
    for (first, id) in [("30", ""), ("32", "m9")] {
        let publish = |number: usize| format!("{first} s'{{t}}' {id} {properties} 'n {number}'");
        let all: Vec<String> = (1..=15)
            .map(|number| publish(number).replace("m9", &format!("m{number}")))
            .collect();
        scenario += &format!("p > {}\n", all.join(" ; "));
        for number in 1..=15 {
            scenario += &format!(
                "s < {}\n",
                publish(number).replace("m9", &format!("$id{number}"))
            );
        }
    }
    check(&scenario);
}
