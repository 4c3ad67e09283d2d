//! AUTH: extended authentication and re-authentication, with the method that only debug builds have: the server says `challenge`, the
//! client must say `response`.

use harness::{Client, Connect, hex, packet};

use crate::scenario::{SharedBroker, play};

static BROKER: SharedBroker = SharedBroker::with("", &[("NIGHTJAR_TEST_AUTH_METHOD", "1")]);
static PLAIN: SharedBroker = SharedBroker::plain();
static WITH_REASONS: SharedBroker = SharedBroker::with(
    "reason_strings = true\n",
    &[("NIGHTJAR_TEST_AUTH_METHOD", "1")],
);

#[test]
fn mqtt_3_1_2_30_only_auth_and_disconnect_until_connack() {
    for packet in ["30 s'{t}' [] 'x'", "82 m1 [] s'{t}' 00", "c0", "62 m1"] {
        check(&format!("{CHALLENGED}\n a > {packet}\n a refused"));
    }
    check(&format!("{CHALLENGED}\n a > e0\n a close"));
}

/// 0x82 where the standard says malformed, as the byte-exact exchanges demand (D20).
#[test]
fn mqtt_3_15_1_1_auth_flags_are_0() {
    for first in ["f1", "f2", "f4", "f8"] {
        check(&format!(
            "{AUTHENTICATED}\n a > {first} 19 [15 s'test-challenge']\n a < e0 82\n a close"
        ));
    }
}

#[test]
fn mqtt_3_15_2_1_auth_uses_the_codes_of_its_table() {
    for code in ["00", "01", "18", "1a", "80"] {
        check(&format!(
            "{AUTHENTICATED}\n a > f0 {code} [15 s'test-challenge']\n a close?"
        ));
    }
}

#[test]
fn mqtt_3_15_2_2_auth_has_no_text_that_does_not_fit() {
    fits_37_bytes();
}

#[test]
fn mqtt_3_15_2_3_auth_has_no_user_properties_that_do_not_fit() {
    fits_37_bytes();
}

#[test]
fn mqtt_4_12_0_1_an_unknown_method_is_refused() {
    check("a try v5 props(15 s'unknown')\n a < 20 00 8c 00\n a close");
    play(
        &PLAIN,
        "a try v5 props(15 s'test-challenge')\n a < 20 00 8c 00\n a close",
    );
}

/// [MQTT-4.12.0-5]
#[test]
fn mqtt_4_12_0_2_more_is_asked_with_auth_0x18() {
    check(CHALLENGED);
}

#[test]
fn mqtt_4_12_0_3_more_is_answered_with_auth_0x18() {
    check(AUTHENTICATED);
    for code in ["00", "19"] {
        check(&format!(
            "{CHALLENGED}\n a > f0 {code} [15 s'test-challenge' 16 s'response']\n a refused"
        ));
    }
}

#[test]
fn mqtt_4_12_0_4_a_wrong_answer_is_refused() {
    check(&format!(
        "{CHALLENGED}\n a > f0 18 [15 s'test-challenge' 16 s'wrong']\n a < 20 00 87 00\n a close"
    ));
    check(&format!(
        "{CHALLENGED}\n a > f0 18 [15 s'test-challenge']\n a < 20 00 87 00\n a close"
    ));
}

/// Another method, or none, in the answer is an error.
#[test]
fn mqtt_4_12_0_5_the_method_stays_the_same() {
    check(AUTHENTICATED);
    check(&format!(
        "{CHALLENGED}\n a > f0 18 [15 s'other' 16 s'response']\n a refused"
    ));
    check(&format!(
        "{CHALLENGED}\n a > f0 18 [16 s'response']\n a refused"
    ));
}

/// [MQTT-3.2.2-16]
#[test]
fn an_assigned_client_id_is_told_after_a_challenge_too() {
    BROKER.with_broker(|broker| {
        let mut client = Client::open(broker);
        client.send(&Connect::v5("").properties("15 s'test-challenge'").bytes());
        assert_eq!(client.receive_packet().first(), Some(&0xf0));
        client.send(&packet("f0", "18 1c 15 s'test-challenge' 16 s'response'"));
        let connack = client.receive_packet();
        assert!(
            connack.windows(5).any(|text| text == b"auto-"),
            "{}",
            hex(&connack)
        );
    });
}

/// Its CONNACK is the usual one, byte for byte.
#[test]
fn mqtt_4_12_0_6_who_names_no_method_sees_none() {
    check("a try v5\n a < 20 00 00 [22 H10 27 L2000000 21 H20]\n a quiet");
}

#[test]
fn mqtt_4_12_0_7_auth_from_who_named_no_method_is_a_protocol_error() {
    check("a connect v5\n a > f0 19 [15 s'test-challenge']\n a < e0 82\n a close");
    check("a connect v5\n a > f0 18 [15 s'test-challenge']\n a < e0 82\n a close");
    check("a connect v5\n a > f0\n a < e0 82\n a close");
}

#[test]
fn mqtt_4_12_1_1_re_authentication_keeps_the_method() {
    check(&format!(
        "{AUTHENTICATED}
         a > f0 19 [15 s'test-challenge']
         a < f0 18 [15 s'test-challenge' 16 s'challenge']
         a > c0
         a < d0
         a > f0 18 [15 s'test-challenge' 16 s'response']
         a < f0 00 [15 s'test-challenge']
         a quiet"
    ));
    check(&format!(
        "{AUTHENTICATED}\n a > f0 19 [15 s'other']\n a < e0 82\n a close"
    ));
}

#[test]
fn mqtt_4_12_1_2_a_failed_re_authentication_closes() {
    check(&format!(
        "s connect v5
         s > 82 m1 [] s'{{t}}' 00
         s < 90 m1 [] 00
         {AUTHENTICATED}
         a > f0 19 [15 s'test-challenge']
         a < f0 18 [15 s'test-challenge' 16 s'challenge']
         a > f0 18 [15 s'test-challenge' 16 s'wrong']
         a < e0 87
         a close"
    ));
}

/// AUTH is a packet of 5.0 only.
#[test]
fn auth_before_5_0_closes() {
    check("a connect v4\n a > f0\n a close");
}

const CHALLENGED: &str = "a try v5 props(15 s'test-challenge')
    a < f0 18 [15 s'test-challenge' 16 s'challenge']";

const AUTHENTICATED: &str = "a try v5 props(15 s'test-challenge')
    a < f0 18 [15 s'test-challenge' 16 s'challenge']
    a > f0 18 [15 s'test-challenge' 16 s'response']
    a < 20 00 00 [22 H10 15 s'test-challenge' 27 L2000000 21 H20]
    a quiet";

#[track_caller]
fn check(scenario: &str) {
    play(&BROKER, scenario);
}

/// The challenge has 33 bytes; with reason strings on and a client that takes 37 at most, it has them still.
#[track_caller]
fn fits_37_bytes() {
    play(
        &WITH_REASONS,
        "a try v5 props(15 s'test-challenge' 27 L37)
         a < f0 18 [15 s'test-challenge' 16 s'challenge']
         a > f0 18 [15 s'test-challenge' 16 s'response']
         a < 20 00 00 ..",
    );
}
