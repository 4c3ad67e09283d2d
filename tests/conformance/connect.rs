//! CONNECT and CONNACK: what is accepted, what is refused and how, and how long silence is borne.

use crate::scenario::{SharedBroker, play};

static BROKER: SharedBroker = SharedBroker::plain();
static LIMITED: SharedBroker =
    SharedBroker::with("maximum_qos = 0\nretain_available = false\n", &[]);
static SHORT_KEEP_ALIVE: SharedBroker = SharedBroker::with("keep_alive_max = 1\n", &[]);
static SHORT_SESSIONS: SharedBroker = SharedBroker::with("session_expiry_interval_max = 5\n", &[]);
static CLOSED: SharedBroker = SharedBroker::with("allow_anonymous = false\n", &[]);

// The first packet, and only the first.

#[test]
fn mqtt_3_1_0_1_anything_but_connect_is_closed_without_a_byte() {
    check(
        "a open
         a > 30 s'{t}' 'x'
         a close
         b open
         b > c0
         b close
         c open
         c > 82 m1 [] s'{t}' 00
         c close
         d open
         d > f0 18 []
         d close",
    );
}

#[test]
fn v3_mqtt_3_1_0_1_anything_but_connect_is_closed_without_a_byte() {
    check("a open\n a > 32 s'{t}' m1 'x'\n a close");
}

#[test]
fn mqtt_3_1_0_2_a_second_connect_is_a_protocol_error_and_the_will_is_published() {
    check(
        "s connect v5
         s > 82 m1 [] s'{t}' 00
         s < 90 m1 [] 00
         a connect v5 will({t} gone 0 0)
         a > 10 s'MQTT' 05 02 k60 [] s'{t}a'
         a < e0 82
         a close
         s < 30 s'{t}' [] 'gone'",
    );
}

#[test]
fn v3_mqtt_3_1_0_2_a_second_connect_closes_and_the_will_is_published() {
    check(
        "s connect v4
         s > 82 m1 s'{t}' 00
         s < 90 m1 00
         a connect v4 will({t} gone 0 0)
         a > 10 s'MQTT' 04 02 k60 s'{t}a'
         a close
         s < 30 s'{t}' 'gone'",
    );
}

// Protocol name and version.

#[test]
fn mqtt_3_1_2_1_a_wrong_protocol_name_is_closed() {
    check(
        "a open
         a > 10 s'MQTU' 05 02 k60 [] s'{t}'
         a close
         b open
         b > 10 s'mqtt' 05 02 k60 [] s'{t}'
         b close",
    );
}

#[test]
fn v3_mqtt_3_1_2_1_a_wrong_protocol_name_is_closed() {
    check("a open\n a > 10 s'MQTU' 04 02 k60 s'{t}'\n a close");
}

/// [v3 MQTT-3.2.2-6]
#[test]
fn v3_mqtt_3_2_2_6_no_code_says_wrong_name_so_the_close_comes_alone() {
    check("a open\n a > 10 s'MQT' 04 02 k60 s'{t}'\n a close");
}

#[test]
fn mqtt_3_1_2_2_an_unknown_version_is_refused_with_0x84() {
    check(
        "a open
         a > 10 s'MQTT' 06 02 k60 [] s'{t}'
         a < 20 00 84 00
         a close
         b open
         b > 10 s'MQTT' 02 02 k60 [] s'{t}'
         b < 20 00 84 00
         b close",
    );
}

#[test]
fn v3_mqtt_3_1_2_2_levels_of_other_names_get_0x01_and_unknown_levels_0x84() {
    check(
        "a open
         a > 10 s'MQTT' 03 02 k60 s'{t}'
         a < 20 00 01
         a close
         b open
         b > 10 s'MQIsdp' 04 02 k60 s'{t}'
         b < 20 00 01
         b close
         c open
         c > 10 s'MQTT' 06 02 k60 s'{t}'
         c < 20 00 84 00
         c close",
    );
}

/// MQTT 3.1 itself, and the levels of bridges, whose bit 7 says so.
#[test]
fn the_old_protocol_and_bridge_levels_are_served() {
    check(
        "a connect v3
         a quiet
         b open
         b > 10 s'MQIsdp' 83 02 k60 s'{t}b'
         b < 20 00 00
         c open
         c > 10 s'MQTT' 84 02 k60 s'{t}c'
         c < 20 00 00",
    );
}

/// A session flag was no part of MQTT 3.1: the byte is reserved there.
#[test]
fn the_old_protocol_never_sees_a_session_flag() {
    check(
        "a connect v3 clean=0
         a bye
         a connect v3 clean=0
         a quiet",
    );
}

// Flags.

#[test]
fn mqtt_3_1_2_3_the_reserved_flag_must_be_0() {
    refused_v5("05 03 k60 [] s'{t}'");
}

#[test]
fn v3_mqtt_3_1_2_3_the_reserved_flag_must_be_0() {
    refused_v4("04 03 k60 s'{t}'");
}

#[test]
fn mqtt_3_1_2_9_a_will_without_topic_or_payload_is_malformed() {
    check(
        "a open
         a > 10 s'MQTT' 05 06 k60 [] s'{t}'
         a < 20 00 81 00
         a close
         b open
         b > 10 s'MQTT' 05 06 k60 [] s'{t}' [] s'p'
         b < 20 00 81 00
         b close",
    );
}

#[test]
fn v3_mqtt_3_1_2_9_a_will_without_topic_or_payload_is_closed() {
    refused_v4("04 06 k60 s'{t}'");
    refused_v4("04 06 k60 s'{t}' s'p'");
}

#[test]
fn mqtt_3_1_2_11_no_will_means_no_will_qos() {
    refused_v5("05 0a k60 [] s'{t}'");
    refused_v5("05 12 k60 [] s'{t}'");
}

#[test]
fn v3_mqtt_3_1_2_11_no_will_means_no_will_fields() {
    refused_v4("04 0a k60 s'{t}'");
    refused_v4("04 22 k60 s'{t}'");
    refused_v4("04 02 k60 s'{t}' s'topic' s'payload'");
}

#[test]
fn v3_mqtt_3_1_2_13_no_will_means_no_will_qos() {
    refused_v4("04 0a k60 s'{t}'");
    refused_v4("04 12 k60 s'{t}'");
}

#[test]
fn mqtt_3_1_2_12_a_will_qos_of_3_is_malformed() {
    refused_v5("05 1e k60 [] s'{t}' [] s'p' s'p'");
}

#[test]
fn v3_mqtt_3_1_2_14_a_will_qos_of_3_is_closed() {
    refused_v4("04 1e k60 s'{t}' s'p' s'p'");
}

#[test]
fn mqtt_3_1_2_13_no_will_means_no_will_retain() {
    refused_v5("05 22 k60 [] s'{t}'");
}

#[test]
fn v3_mqtt_3_1_2_15_no_will_means_no_will_retain() {
    refused_v4("04 22 k60 s'{t}'");
}

#[test]
fn mqtt_3_1_2_16_no_flag_no_user_name() {
    check("a open\n a > 10 s'MQTT' 05 02 k60 [] s'{t}' s'u'\n a < 20 00 81 00\n a close");
}

#[test]
fn v3_mqtt_3_1_2_18_no_flag_no_user_name() {
    refused_v4("04 02 k60 s'{t}' s'u'");
}

#[test]
fn mqtt_3_1_2_17_the_flag_needs_a_user_name() {
    refused_v5("05 82 k60 [] s'{t}'");
}

#[test]
fn v3_mqtt_3_1_2_19_the_flag_needs_a_user_name() {
    refused_v4("04 82 k60 s'{t}'");
}

#[test]
fn mqtt_3_1_2_18_no_flag_no_password() {
    check("a open\n a > 10 s'MQTT' 05 82 k60 [] s'{t}' s'u' s'p'\n a < 20 00 81 00\n a close");
}

#[test]
fn v3_mqtt_3_1_2_20_no_flag_no_password() {
    refused_v4("04 82 k60 s'{t}' s'u' s'p'");
}

#[test]
fn mqtt_3_1_2_19_the_flag_needs_a_password() {
    refused_v5("05 c2 k60 [] s'{t}' s'u'");
}

#[test]
fn v3_mqtt_3_1_2_21_the_flag_needs_a_password() {
    refused_v4("04 c2 k60 s'{t}' s'u'");
}

#[test]
fn v3_mqtt_3_1_2_22_no_password_without_a_user_name() {
    refused_v4("04 42 k60 s'{t}' s'p'");
}

/// [MQTT-3.1.2-18] as far as it differs from 3.1.1: here a password may stand alone.
#[test]
fn mqtt_3_1_2_19_a_password_without_a_user_name_is_legal() {
    check("a connect v5 pass=secret\n a quiet\n b connect v5 user=u pass=secret\n b quiet");
}

// The payload.

#[test]
fn mqtt_3_1_3_1_the_payload_is_read_in_its_order() {
    check(
        "s connect v5
         s > 82 m1 [] s'{t}' 01
         s < 90 m1 [] 01
         a connect v5 will({t} payload 1 0) wprops(03 s'type') user=u pass=p
         a drop
         s < 32 s'{t}' $i [03 s'type'] 'payload'",
    );
}

#[test]
fn v3_mqtt_3_1_3_1_the_payload_is_read_in_its_order() {
    check(
        "s connect v4
         s > 82 m1 s'{t}' 01
         s < 90 m1 01
         a connect v4 will({t} payload 1 0) user=u pass=p
         a drop
         s < 32 s'{t}' $i 'payload'",
    );
}

#[test]
fn mqtt_3_1_3_3_a_connect_without_client_id_is_malformed() {
    refused_v5("05 02 k60 []");
}

#[test]
fn v3_mqtt_3_1_3_3_a_connect_without_client_id_is_closed() {
    refused_v4("04 02 k60");
}

/// [MQTT-3.1.3-8]
#[test]
fn mqtt_3_1_3_4_a_client_id_that_is_no_string_gets_0x85() {
    client_id_gets_0x85("746f700000");
    client_id_gets_0x85("746feda080");
}

#[test]
fn mqtt_3_1_3_8_a_refused_client_id_gets_0x85() {
    client_id_gets_0x85("746f700170");
}

#[test]
fn v3_mqtt_3_1_3_4_a_client_id_that_is_no_string_is_closed() {
    refused_v4("04 02 k60 s5 746f700000");
    refused_v4("04 02 k60 s5 746feda080");
    refused_v4("04 02 k60 s2 c328");
}

/// [v3 MQTT-3.1.3-5]
#[test]
fn mqtt_3_1_3_5_ids_of_letters_and_digits_are_accepted() {
    for id in [
        "0",
        "abcdefghijklmnopqrstuvw",
        "xyzABCDEFGHIJKLMNOPQRST",
        "UVWXYZ0123456789",
    ] {
        check(&format!(
            "a connect v5 id={id}\n a quiet\n b connect v4 id={id}x\n b quiet"
        ));
    }
}

#[test]
fn v3_mqtt_3_1_3_5_ids_of_letters_and_digits_are_accepted() {
    check(
        "a connect v4 id=abcdefghijklmnopqrstuv4\n a quiet\n b connect v4 id=UVWXYZ01234567894\n b quiet",
    );
}

/// Longer ids than the standard asks for, and other characters, are allowed.
#[test]
fn long_client_ids_are_accepted() {
    let id = "a-b_c/d.".repeat(128);
    check(&format!("a connect v5 id={id}\n a quiet"));
}

#[test]
fn mqtt_3_1_3_11_a_will_topic_that_is_no_string_is_malformed() {
    for topic in ["s5 746f700000", "s5 746feda080"] {
        check(&format!(
            "a open\n a > 10 s'MQTT' 05 06 k60 [] s'{{t}}' [] {topic} s'p'\n a < 20 00 81 00\n a close"
        ));
    }
}

#[test]
fn v3_mqtt_3_1_3_10_a_will_topic_that_is_no_string_is_closed() {
    refused_v4("04 06 k60 s'{t}' s5 746f700000 s'p'");
    refused_v4("04 06 k60 s'{t}' s2 c328 s'p'");
}

#[test]
fn mqtt_3_1_3_12_a_user_name_that_is_no_string_is_malformed() {
    refused_v5("05 82 k60 [] s'{t}' s5 746f700000");
    refused_v5("05 82 k60 [] s'{t}' s5 746feda080");
}

#[test]
fn v3_mqtt_3_1_3_11_a_user_name_that_is_no_string_is_closed() {
    refused_v4("04 82 k60 s'{t}' s5 746f700000");
    refused_v4("04 82 k60 s'{t}' s2 c328");
}

// Response.

#[test]
fn mqtt_3_1_4_1_a_connect_of_wrong_form_is_closed() {
    check(
        "a open
         a > 10 s'MQTT' 05 02 k60 [22 H1 22 H1] s'{t}'
         a < 20 00 82 00
         a close
         b open
         b > 10 s'MQTT' 05 02 k60 [21 H0] s'{t}'
         b < 20 00 82 00
         b close
         c open
         c > 10 s'MQTT' 05 02 k60 [27 L0] s'{t}'
         c < 20 00 82 00
         c close
         d open
         d > 10 s'MQTT' 05 02 k60 [7f 01] s'{t}'
         d < 20 00 81 00
         d close",
    );
}

#[test]
fn v3_mqtt_3_1_4_1_a_connect_of_wrong_form_is_closed_without_connack() {
    refused_v4("04 02 k60 s'{t}' 00");
    refused_v4("04 02");
}

/// [MQTT-3.1.4-6] [MQTT-3.2.2-7] [MQTT-4.13.2-1]
#[test]
fn mqtt_3_1_4_2_a_client_without_credentials_is_refused() {
    play(&CLOSED, "a try v5\n a < 20 00 87 00\n a close");
}

/// [v3 MQTT-3.2.2-4]
#[test]
fn v3_mqtt_3_2_2_5_a_refusing_connack_is_followed_by_the_close() {
    play(&CLOSED, "a try v4\n a < 20 00 05\n a close");
    check("a open\n a > 10 s'MQTT' 04 00 k60 s0\n a < 20 00 02\n a close");
}

#[test]
fn v3_mqtt_3_2_2_4_a_refusing_connack_says_no_session() {
    check("a open\n a > 10 s'MQTT' 04 00 k60 s0\n a < 20 00 02\n a close");
}

/// [v3 MQTT-3.1.4-4] [v3 MQTT-3.2.0-1]
#[test]
fn v3_mqtt_3_1_4_4_an_accepted_connect_is_answered_by_connack_0() {
    check("a open\n a > 10 s'MQTT' 04 02 k60 s'{t}'\n a < 20 00 00\n a quiet");
}

#[test]
fn v3_mqtt_3_2_0_1_connack_comes_before_queued_messages() {
    check(
        "a connect v4 clean=0
         a > 82 m1 s'{t}' 01
         a < 90 m1 01
         a bye
         p connect v4
         p => 32 s'{t}' m1 'queued'
         a try v4 clean=0
         a < 20 01 00
         a < 32 s'{t}' $i 'queued'",
    );
}

/// [MQTT-3.2.2-1] [MQTT-3.2.2-8]
#[test]
fn mqtt_3_1_4_5_an_accepted_connect_is_answered_by_connack_0() {
    check("a open\n a > 10 s'MQTT' 05 02 k60 [] s'{t}'\n a < 20 00 00 ..\n a quiet");
}

#[test]
fn mqtt_3_1_4_6_nothing_after_a_refused_connect_is_processed() {
    check_pipelined("10 s'MQTT' 06 02 k60 [] s'{t}'", "20 00 84 00");
    check_pipelined("10 s'MQTT' 05 02 k60 [27 L0] s'{t}'", "20 00 82 00");
}

#[test]
fn v3_mqtt_3_1_4_5_nothing_after_a_refused_connect_is_processed() {
    check_pipelined("10 s'MQTT' 04 00 k60 s''", "20 00 02");
}

#[test]
fn mqtt_3_2_0_1_connack_comes_before_queued_messages() {
    check(
        "a connect v5 clean=0 props(11 L60)
         a > 82 m1 [] s'{t}' 01
         a < 90 m1 [] 01
         a bye
         p connect v5
         p => 32 s'{t}' m1 [] 'queued'
         a try v5 clean=0 props(11 L60)
         a < 20 01 00 ..
         a < 32 s'{t}' $i [] 'queued'",
    );
}

#[test]
fn mqtt_3_2_0_2_a_connection_sees_one_connack() {
    check(
        "a connect v5
         a > 10 s'MQTT' 05 02 k60 [] s'{t}a'
         a < e0 82
         a close",
    );
}

#[test]
fn mqtt_3_2_2_1_reserved_connack_flags_are_0() {
    check(
        "a connect v5 clean=0 props(11 L60)
         a bye
         a try v5 clean=0 props(11 L60)
         a < 20 01 00 ..",
    );
}

#[test]
fn mqtt_3_2_2_6_a_refusing_connack_says_no_session() {
    check(
        "a connect v5 clean=0 props(11 L60)
         a bye
         a open
         a > 10 s'MQTT' 05 00 k60 [27 L0] s'{t}a'
         a < 20 00 82 00
         a close",
    );
}

#[test]
fn mqtt_3_2_2_7_a_refusing_connack_is_followed_by_the_close() {
    check("a open\n a > 10 s'MQTT' 05 02 k60 [17 02] s'{t}'\n a < 20 00 82 00\n a close");
}

/// Every code the broker can be brought to send is one of the table of CONNACK.
#[test]
fn mqtt_3_2_2_8_connack_uses_the_codes_of_its_table() {
    check(
        "a try v5
         a < 20 00 00 ..
         b open
         b > 10 s'MQTT' 05 02 k60 [15 s'no such method'] s'{t}'
         b < 20 00 8c 00
         b close",
    );
}

// What CONNACK announces.

#[test]
fn mqtt_3_2_2_9_a_limited_maximum_qos_is_announced() {
    let connack = connack_properties(&LIMITED);
    assert_eq!(connack.get(&0x24), Some(&vec![0]), "Maximum QoS");
    assert_eq!(connack.get(&0x25), Some(&vec![0]), "Retain Available");
}

#[test]
fn mqtt_3_2_2_10_subscribe_is_accepted_whatever_the_maximum_qos() {
    play(
        &LIMITED,
        "a connect v5
         a > 82 m1 [] s'{t}' 02
         a < 90 m1 [] 00
         p connect v5
         p > 30 s'{t}' [] 'x'
         a < 30 s'{t}' [] 'x'",
    );
}

#[test]
fn mqtt_3_2_2_11_a_publish_above_the_maximum_qos_closes_with_0x9b() {
    play(
        &LIMITED,
        "a connect v5\n a > 32 s'{t}' m1 [] 'x'\n a < e0 9b\n a close",
    );
}

#[test]
fn mqtt_3_2_2_12_a_will_above_the_maximum_qos_is_refused() {
    play(
        &LIMITED,
        "a try v5 will({t} x 1 0)\n a < 20 00 9b 00\n a close",
    );
}

#[test]
fn mqtt_3_2_2_13_a_retained_will_is_refused_where_retain_is_unavailable() {
    play(
        &LIMITED,
        "a try v5 will({t} x 0 1)\n a < 20 00 9a 00\n a close",
    );
}

#[test]
fn mqtt_3_2_2_14_a_retained_publish_closes_with_0x9a() {
    play(
        &LIMITED,
        "a connect v5\n a > 31 s'{t}' [] 'x'\n a < e0 9a\n a close",
    );
}

/// The length alone says it: nothing of the body has to come.
#[test]
fn mqtt_3_2_2_15_a_packet_above_our_maximum_closes_with_0x95() {
    check("a connect v5\n a raw 30 r2000000\n a < e0 95\n a close");
}

/// No id of its own: who shortens the session expiry says so.
#[test]
fn a_shortened_session_expiry_is_announced() {
    play(
        &SHORT_SESSIONS,
        "a try v5 clean=0 props(11 L100)
         a < 20 00 00 ..",
    );
    let connack = connack_properties_of(&SHORT_SESSIONS, "11 L100");
    assert_eq!(connack.get(&0x11), Some(&vec![0, 0, 0, 5]));
    let connack = connack_properties_of(&SHORT_SESSIONS, "11 L5");
    assert_eq!(
        connack.get(&0x11),
        None,
        "what was granted as asked needs no word"
    );
}

#[test]
fn mqtt_3_1_2_28_no_response_information_unless_asked() {
    for properties in ["", "19 00"] {
        assert_eq!(connack_properties_of(&BROKER, properties).get(&0x1a), None);
    }
}

/// [MQTT-3.2.2-20]: 20 bytes are more than any CONNACK with a text needs.
#[test]
fn mqtt_3_2_2_19_connack_has_no_text_that_does_not_fit() {
    refusal_within("27 L5", "20 00 8c 00");
}

#[test]
fn mqtt_3_2_2_20_connack_has_no_user_properties_that_do_not_fit() {
    refusal_within("27 L6", "20 00 8c 00");
}

#[test]
fn mqtt_3_1_2_29_without_problem_information_no_text_is_sent() {
    let broker = &WITH_REASONS;
    play(
        broker,
        "a connect v5 props(17 00)
         a > 82 m1 [] s'$share//{t}' 00
         a < 90 m1 [] 8f
         a > a2 m2 [] s'{t}'
         a < b0 m2 [] 11
         a > 34 s'$share/{t}' m3 [] 'x'
         a < 50 m3 87",
    );
}

static WITH_REASONS: SharedBroker = SharedBroker::with("reason_strings = true\n", &[]);

// Keep alive.

#[test]
fn mqtt_3_1_2_22_silence_for_one_and_a_half_keep_alives_is_the_end() {
    check(
        "mark
         a connect v5 keep=1
         a < e0 8d
         a close
         after 1400",
    );
}

#[test]
fn v3_mqtt_3_1_2_24_silence_for_one_and_a_half_keep_alives_is_the_end_and_publishes_the_will() {
    check(
        "s connect v4
         s > 82 m1 s'{t}' 00
         s < 90 m1 00
         mark
         a connect v4 keep=1 will({t} gone 0 0)
         a close
         after 1400
         s < 30 s'{t}' 'gone'",
    );
}

#[test]
fn mqtt_3_2_2_22_the_clients_keep_alive_holds_while_it_speaks() {
    check(
        "a connect v5 keep=3
         wait 1600
         a quiet
         wait 1600
         a quiet
         wait 1600
         a quiet",
    );
    assert_eq!(
        connack_properties(&BROKER).get(&0x13),
        None,
        "no Server Keep Alive"
    );
}

/// The announced value is the one that counts, [MQTT-3.1.2-22] from the other side.
#[test]
fn the_server_keep_alive_is_announced_and_enforced() {
    assert_eq!(
        connack_properties(&SHORT_KEEP_ALIVE).get(&0x13),
        Some(&vec![0, 1])
    );
    play(
        &SHORT_KEEP_ALIVE,
        "mark\n a connect v5 keep=60\n a < e0 8d\n a close\n after 1400",
    );
}

#[track_caller]
fn check(scenario: &str) {
    play(&BROKER, scenario);
}

/// A CONNECT with this after its name is closed; 5.0 may get a CONNACK that refuses, never one that accepts.
#[track_caller]
fn refused_v5(words: &str) {
    check(&format!("a open\n a > 10 s'MQTT' {words}\n a refused"));
}

/// A CONNECT with this after its name is closed without a byte.
#[track_caller]
fn refused_v4(words: &str) {
    check(&format!("a open\n a > 10 s'MQTT' {words}\n a close"));
}

#[track_caller]
fn client_id_gets_0x85(bytes: &str) {
    check(&format!(
        "a open\n a > 10 s'MQTT' 05 02 k60 [] s5 {bytes}\n a < 20 00 85 00\n a close"
    ));
}

/// An unknown authentication method, refused to a client of this Maximum Packet Size.
#[track_caller]
fn refusal_within(properties: &str, connack: &str) {
    play(
        &WITH_REASONS,
        &format!(
            "a open\n a > 10 s'MQTT' 05 02 k60 [{properties} 15 s'none'] s'{{t}}'\n a < {connack}\n a close"
        ),
    );
}

/// `connect`, sent in one write with a PUBLISH, is answered by `connack` and the close; nobody gets the PUBLISH.
#[track_caller]
fn check_pipelined(connect: &str, connack: &str) {
    check(&format!(
        "s connect v4
         s > 82 m1 s'{{t}}' 00
         s < 90 m1 00
         a open
         a > {connect} ; 30 s'{{t}}' 'bad' ; 30 s'{{t}}' [] 'bad'
         a < {connack}
         a close
         s quiet"
    ));
}

fn connack_properties(broker: &SharedBroker) -> std::collections::BTreeMap<u8, Vec<u8>> {
    connack_properties_of(broker, "")
}

/// The properties of a CONNACK that have numbers, by identifier.
fn connack_properties_of(
    broker: &SharedBroker,
    properties: &str,
) -> std::collections::BTreeMap<u8, Vec<u8>> {
    let client_id = crate::scenario::unique_text();
    let client =
        broker.with_broker(|broker| harness::Client::connect_v5(broker, &client_id, properties));
    let mut rest = &client.connack_body()[3..];
    let mut found = std::collections::BTreeMap::new();
    while let Some((&identifier, after)) = rest.split_first() {
        let length = match identifier {
            0x24 | 0x25 | 0x28 | 0x29 | 0x2a => 1,
            0x13 | 0x21 | 0x22 => 2,
            0x11 | 0x27 => 4,
            0x12 | 0x15 | 0x16 | 0x1a | 0x1c | 0x1f => {
                2 + usize::from(u16::from_be_bytes([after[0], after[1]]))
            }
            other => panic!("CONNACK has property {other:#x}"),
        };
        assert!(
            found.insert(identifier, after[..length].to_vec()).is_none(),
            "property {identifier:#x} twice"
        );
        rest = &after[length..];
    }
    found
}
