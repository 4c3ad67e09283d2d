//! DISCONNECT: what a client's does, and when and how we send one.

use crate::scenario::{SharedBroker, play};

static BROKER: SharedBroker = SharedBroker::plain();
static WITH_REASONS: SharedBroker = SharedBroker::with("reason_strings = true\n", &[]);

/// Before a CONNACK that accepts there is none, whatever happens.
#[test]
fn mqtt_3_14_0_1_no_disconnect_before_connack() {
    check(
        "a open
         a > 30 s'{t}' [] 'x'
         a close
         b open
         b > 10 s'MQTT' 05 02 k60 [21 H0] s'{t}'
         b < 20 00 82 00
         b close
         c open
         c raw 10 ff ff ff ff 7f
         c close",
    );
}

/// 0x82 where the standard says malformed, as the byte-exact exchanges demand (D20).
#[test]
fn mqtt_3_14_1_1_disconnect_flags_are_0() {
    for first in ["e1", "e2", "e4", "e8"] {
        check(&format!("a connect v5\n a > {first}\n a < e0 82\n a close"));
    }
}

/// And it is no DISCONNECT, so the will is published.
#[test]
fn v3_mqtt_3_14_1_1_disconnect_flags_are_0() {
    check(
        "s connect v4
         s > 82 m1 s'{t}' 00
         s < 90 m1 00
         a connect v4 will({t} gone 0 0)
         a > e1
         a close
         s < 30 s'{t}' 'gone'",
    );
}

/// The codes that a client can bring us to here.
#[test]
fn mqtt_3_14_2_1_disconnect_uses_the_codes_of_its_table() {
    for (packet, code) in [
        ("36 s'{t}' m1 [] 'x'", "81"),
        ("30 s'{t}' [01 01 01 01] 'x'", "82"),
        ("30 s'{t}' [23 H11] 'x'", "94"),
        ("82 m1 [] s'$share/g/{t}' 04", "82"),
    ] {
        check(&format!(
            "a connect v5\n a > {packet}\n a < e0 {code}\n a close"
        ));
    }
}

/// From the other side: a client that had none may not ask for a session now.
#[test]
fn mqtt_3_14_2_2_a_session_expiry_of_0_cannot_be_raised() {
    check("a connect v5\n a > e0 00 [11 L60]\n a < e0 82\n a close");
    check("a connect v5 props(11 L0)\n a > e0 00 [11 L1]\n a < e0 82\n a close");
    // What the server sends has none: the code stands alone in every answer of this file.
    check("a connect v5 props(11 L60)\n a > e1\n a < e0 82\n a close");
}

/// It may be changed otherwise, and 0 ends the session.
#[test]
fn disconnect_changes_the_session_expiry() {
    check(
        "a connect v5 clean=0 props(11 L60)
         a > e0 00 [11 L0]
         a close
         a connect v5 clean=0 props(11 L1)
         a > e0 00 [11 L60]
         a close
         wait 1500
         a connect v5 clean=0 present=1",
    );
}

#[test]
fn mqtt_3_14_2_3_disconnect_has_no_text_that_does_not_fit() {
    play(
        &WITH_REASONS,
        "a connect v5 props(27 L16)\n a > 36 s'{t}' m1 [] 'x'\n a < e0 81\n a close",
    );
}

#[test]
fn mqtt_3_14_2_4_disconnect_has_no_user_properties_that_do_not_fit() {
    play(
        &WITH_REASONS,
        "a connect v5 props(27 L16)\n a > 30 s'{t}' [01 01 01 01] 'x'\n a < e0 82\n a close",
    );
}

/// Deliveries that were on their way do not follow.
#[test]
fn mqtt_3_14_4_1_nothing_follows_a_disconnect() {
    check(
        "a connect v5
         a > 82 m1 [] s'{t}' 00
         a < 90 m1 [] 00
         a > 36 s'{t}' m1 [] 'x' ; c0 ; 30 s'{t}' [] 'x'
         a < e0 81
         a close",
    );
}

#[test]
fn mqtt_3_14_4_2_who_sends_disconnect_closes() {
    check("a connect v5\n a > 30 s'{t}' [0b v1] 'x'\n a < e0 82\n a close");
    check("a connect v5\n a > e0 00 []\n a close\n b connect v4\n b > e0\n b close");
}

#[test]
fn mqtt_3_14_4_3_disconnect_0x00_drops_the_will() {
    check(
        "s connect v5
         s > 82 m1 [] s'{t}' 00
         s < 90 m1 [] 00
         a connect v5 will({t} one 0 0)
         a > e0
         a close
         b connect v5 will({t} two 0 0)
         b > e0 00 []
         b close
         p connect v5
         p > 30 s'{t}' [] 'marker'
         s < 30 s'{t}' [] 'marker'
         s quiet",
    );
}

#[test]
fn v3_mqtt_3_14_4_3_disconnect_drops_the_will() {
    check(
        "s connect v4
         s > 82 m1 s'{t}' 00
         s < 90 m1 00
         a connect v4 will({t} no 0 0)
         a > e0
         a close
         p connect v4
         p > 30 s'{t}' 'marker'
         s < 30 s'{t}' 'marker'
         s quiet",
    );
}

#[track_caller]
fn check(scenario: &str) {
    play(&BROKER, scenario);
}
