//! Topic Aliases, both ways.

use crate::scenario::{SharedBroker, play};

static BROKER: SharedBroker = SharedBroker::plain();
static WITHOUT: SharedBroker = SharedBroker::with("topic_alias_maximum = 0\n", &[]);

#[test]
fn mqtt_3_1_2_26_no_outbound_alias_above_the_clients_maximum() {
    check(
        "s connect v5 props(22 H1)
         s > 82 m1 [] s'{t}/#' 00
         s < 90 m1 [] 00
         p connect v5
         p > 30 s'{t}/a' [] '1'
         s < 30 s'{t}/a' [23 H1] '1' or 30 s'{t}/a' [] '1'
         p > 30 s'{t}/b' [] '2'
         s < 30 s'{t}/b' [] '2' or 30 s'{t}/b' [23 H1] '2'
         p > 30 s'{t}/b' [] '3'
         s < 30 s'{t}/b' [] '3' or 30 s'' [23 H1] '3' or 30 s'{t}/b' [23 H1] '3'",
    );
}

#[test]
fn mqtt_3_1_2_27_no_outbound_alias_to_who_allows_none() {
    for properties in ["", "props(22 H0)"] {
        check(&format!(
            "s connect v5 {properties}
             s > 82 m1 [] s'{{t}}' 00
             s < 90 m1 [] 00
             p connect v5
             p > 30 s'{{t}}' [] '1' ; 30 s'{{t}}' [] '2' ; 30 s'{{t}}' [] '3'
             s < 30 s'{{t}}' [] '1'
             s < 30 s'{{t}}' [] '2'
             s < 30 s'{{t}}' [] '3'"
        ));
    }
}

/// An alias that is set stands for its topic from the second message on.
#[test]
fn mqtt_3_3_2_11_outbound_aliases_stand_for_their_topics() {
    check(
        "s connect v5 props(22 H5)
         s > 82 m1 [] s'{t}/#' 00
         s < 90 m1 [] 00
         p connect v5
         p > 30 s'{t}/a' [] '1'
         s < 30 s'{t}/a' [23 $a] '1' or 30 s'{t}/a' [] '1'
         p > 30 s'{t}/a' [] '2'
         s < 30 s'' [23 $a] '2' or 30 s'{t}/a' [23 $a] '2' or 30 s'{t}/a' [] '2'",
    );
}

/// Three bytes of alias may be more than the topic they stand for: then the topic goes out as it is.
#[test]
fn an_alias_never_makes_a_packet_too_large() {
    check(
        "s connect v5 props(22 H5 27 L22 21 H1)
         s > 82 m1 [] s'q' 01
         s < 90 m1 [] 01
         p connect v5
         p => 32 s'q' m1 [] '1'
         s < 32 s'q' $a [23 H1] '1'
         s > 40 $a
         p => 32 s'q' m2 [] '12345678901234'
         s < 32 s'q' $b [] '12345678901234'
         s > 40 $b
         p => 32 s'q' m3 [] '3'
         s < 32 s'' $c [23 H1] '3'
         s > 40 $c
         s quiet",
    );
}

#[test]
fn mqtt_3_3_2_7_aliases_end_with_their_connection() {
    check(
        "a connect v5 clean=0 props(11 L60)
         a > 30 s'{t}' [23 H1] 'x' ; 30 s'' [23 H1] 'y'
         a quiet
         a drop
         a connect v5 clean=0 present=1 props(11 L60)
         a > 30 s'' [23 H1] 'z'
         a < e0 82
         a close",
    );
}

#[test]
fn mqtt_3_3_2_8_an_alias_of_0_is_refused() {
    check("a connect v5\n a > 30 s'{t}' [23 H0] 'x'\n a < e0 94\n a close");
    // None is sent either: 3.1.2-26 looks at every alias that we send.
}

#[test]
fn mqtt_3_3_2_9_an_alias_above_the_maximum_is_refused() {
    check("a connect v5\n a > 30 s'{t}' [23 H11] 'x'\n a < e0 94\n a close");
    check("a connect v5\n a > 30 s'{t}' [23 H65535] 'x'\n a < e0 94\n a close");
}

/// [MQTT-3.2.2-17] for all ten; an alias may be set anew.
#[test]
fn mqtt_3_3_2_12_every_alias_up_to_the_maximum_is_accepted() {
    let mut scenario = String::from(
        "s connect v5
         s > 82 m1 [] s'{t}/#' 00
         s < 90 m1 [] 00
         p connect v5\n",
    );
    for alias in 1..=10 {
        scenario += &format!(
            "p > 30 s'{{t}}/{alias}' [23 H{alias}] 'set'\n s < 30 s'{{t}}/{alias}' [] 'set'\n"
        );
    }
    for alias in (1..=10).rev() {
        scenario +=
            &format!("p > 30 s'' [23 H{alias}] 'used'\n s < 30 s'{{t}}/{alias}' [] 'used'\n");
    }
    scenario += "p > 30 s'{t}/other' [23 H3] 'set'\n s < 30 s'{t}/other' [] 'set'\n";
    scenario += "p > 32 s'' m1 [23 H3] 'used'\n s < 30 s'{t}/other' [] 'used'\n";
    check(&scenario);
}

#[test]
fn mqtt_3_2_2_17_aliases_stay_within_our_maximum() {
    check(
        "a connect v5\n a > 30 s'{t}' [23 H10] 'x'\n a quiet\n a > 30 s'{t}' [23 H11] 'x'\n a < e0 94\n a close",
    );
}

#[test]
fn mqtt_3_2_2_18_without_a_maximum_any_alias_is_refused() {
    play(
        &WITHOUT,
        "a try v5\n a < 20 00 00 [27 L2000000 21 H20]\n a > 30 s'{t}' [23 H1] 'x'\n a < e0 94\n a close",
    );
}

/// No number of its own: an alias that was never set, without a topic.
#[test]
fn an_unknown_alias_is_a_protocol_error() {
    check("a connect v5\n a > 30 s'' [23 H5] 'x'\n a < e0 82\n a close");
}

#[track_caller]
fn check(scenario: &str) {
    play(&BROKER, scenario);
}
