//! Receive Maximum and Maximum Packet Size, both ways.

use crate::scenario::{SharedBroker, play};

static BROKER: SharedBroker = SharedBroker::plain();

/// Twenty are announced; PUBREC does not make room, PUBCOMP does.
#[test]
fn mqtt_3_3_4_7_more_than_our_receive_maximum_closes_with_0x93() {
    check(&format!(
        "{}\n p > 34 s'{{t}}' m21 [] 'x'\n p < e0 93\n p close",
        twenty_unreleased()
    ));
    check(&format!(
        "{}\n p > 32 s'{{t}}' m21 [] 'x'\n p < e0 93\n p close",
        twenty_unreleased()
    ));
    check(&format!(
        "{}
         p > 62 m1
         p < 70 m1
         p > 34 s'{{t}}' m21 [] 'x'
         p < 50 m21
         p quiet
         p > 34 s'{{t}}' m22 [] 'x'
         p < e0 93
         p close",
        twenty_unreleased()
    ));
}

/// A repeat is no further one, and QoS 0 does not count.
#[test]
fn repeats_and_qos_0_do_not_count_against_our_receive_maximum() {
    check(&format!(
        "{}\n p > 3c s'{{t}}' m20 [] 'x'\n p < 50 m20\n p > 30 s'{{t}}' [] 'x'\n p quiet",
        twenty_unreleased()
    ));
}

/// 3.1.1 knows no such limit: nobody is closed for it (D22).
#[test]
fn v3_clients_are_not_closed_for_unreleased_messages() {
    let mut scenario = String::from("p connect v4\n");
    for number in 1..=30 {
        scenario += &format!("p > 34 s'{{t}}' m{number} 'x'\n p < 50 m{number}\n");
    }
    check(&(scenario + "p quiet"));
}

/// [MQTT-4.9.0-1] [MQTT-4.9.0-2]
#[test]
fn mqtt_3_3_4_9_the_clients_receive_maximum_is_never_passed() {
    check(&format!(
        "{WINDOW_OF_2}
         s > 40 $a
         s < 34 s'{{t}}' $c [] '3'
         s quiet
         s > 50 $b
         s < 62 $b
         s quiet
         s > 70 $b
         s < 32 s'{{t}}' $d [] '4'
         s quiet"
    ));
}

/// A refusing PUBREC makes room at once.
#[test]
fn a_refusing_pubrec_makes_room() {
    check(&format!(
        "{WINDOW_OF_2}\n s > 50 $b 80\n s < 34 s'{{t}}' $c [] '3'\n s quiet"
    ));
}

#[test]
fn mqtt_3_3_4_10_at_zero_quota_only_publish_waits() {
    check(&format!(
        "{WINDOW_OF_2}
         s > 82 m2 [] s'{{t}}/other' 01
         s < 90 m2 [] 01
         s > a2 m3 [] s'{{t}}/other'
         s < b0 m3 [] 00
         s quiet"
    ));
}

#[test]
fn mqtt_4_9_0_1_the_first_quota_is_not_above_the_receive_maximum() {
    check(
        "s connect v5 props(21 H1)
         s > 82 m1 [] s'{t}' 01
         s < 90 m1 [] 01
         p connect v5
         p => 32 s'{t}' m1 [] '1' ; 32 s'{t}' m2 [] '2'
         s < 32 s'{t}' $a [] '1'
         s quiet
         s > 40 $a
         s < 32 s'{t}' $b [] '2'",
    );
}

/// QoS 0 does not wait.
#[test]
fn mqtt_4_9_0_2_at_zero_quota_no_qos_1_or_2_leaves() {
    check(&format!(
        "{WINDOW_OF_2}\n p > 30 s'{{t}}' [] 'zero'\n s < 30 s'{{t}}' [] 'zero'\n s quiet"
    ));
}

/// What the client sends is served: PUBLISH of its own, too.
#[test]
fn mqtt_4_9_0_3_at_zero_quota_all_else_is_served() {
    check(&format!(
        "{WINDOW_OF_2}
         s > 32 s'{{t}}/own' m9 [] 'x'
         s < 40 m9 10
         s > 34 s'{{t}}/own' m10 [] 'x'
         s < 50 m10
         s > 62 m10
         s < 70 m10
         s quiet"
    ));
}

/// [MQTT-3.1.2-25]: it is skipped, its place in the window is free, and the next one comes.
#[test]
fn mqtt_3_1_2_24_nothing_above_the_clients_maximum_packet_size_is_sent() {
    let long = "x".repeat(80);
    check(&format!(
        "s connect v5 props(27 L60)
         s > 82 m1 [] s'{{t}}' 02
         s < 90 m1 [] 02
         p connect v5
         p > 30 s'{{t}}' [] '{long}' ; 30 s'{{t}}' [] 'short'
         s < 30 s'{{t}}' [] 'short'
         p => 32 s'{{t}}' m1 [26 s'key' s'{long}'] 'x'
         s quiet"
    ));
}

#[test]
fn mqtt_3_1_2_25_what_is_too_large_counts_as_delivered() {
    let long = "x".repeat(80);
    let mut scenario = String::from(
        "s connect v5 clean=0 props(11 L60 27 L60 21 H2)
         s > 82 m1 [] s'{t}' 02
         s < 90 m1 [] 02
         p connect v5\n",
    );
    for number in 1..=5 {
        scenario += &format!("p => 34 s'{{t}}' m{number} [] '{long}'\n");
    }
    scenario += "p => 32 s'{t}' m6 [] 'one' ; 34 s'{t}' m7 [] 'two'
         s < 32 s'{t}' $a [] 'one'
         s < 34 s'{t}' $b [] 'two'
         s > 40 $a ; 50 $b
         s < 62 $b
         s > 70 $b
         s drop
         s connect v5 clean=0 present=1 props(11 L60)
         s quiet";
    check(&scenario);
}

#[test]
fn mqtt_3_3_4_7_releasing_what_is_not_known_opens_no_room() {
    check(&format!(
        "{}p > 62 m999\n p < 70 m999\n p > 32 s'{{t}}' m21 [] 'x'\n p < e0 93\n p close",
        twenty_unreleased()
    ));
}

/// A queued and a retained message are measured as well.
#[test]
fn queued_and_retained_messages_are_measured() {
    let long = "x".repeat(80);
    check(&format!(
        "s connect v5 clean=0 props(11 L60)
         s > 82 m1 [] s'{{t}}' 01
         s < 90 m1 [] 01
         s bye
         p connect v5
         p => 33 s'{{t}}' m1 [] '{long}'
         p => 32 s'{{t}}' m2 [] 'short'
         s connect v5 clean=0 present=1 props(11 L60 27 L60)
         s < 32 s'{{t}}' $a [] 'short'
         s > 82 m2 [] s'{{t}}' 01
         s < 90 m2 [] 01
         s quiet"
    ));
}

/// Subscriber `s` with Receive Maximum 2, four messages published (QoS 1, 2, 2, 1), two of them sent.
const WINDOW_OF_2: &str = "s connect v5 props(21 H2)
    s > 82 m1 [] s'{t}' 02
    s < 90 m1 [] 02
    p connect v5
    p => 32 s'{t}' m1 [] '1' ; 34 s'{t}' m2 [] '2' ; 34 s'{t}' m3 [] '3' ; 32 s'{t}' m4 [] '4'
    s < 32 s'{t}' $a [] '1'
    s < 34 s'{t}' $b [] '2'
    s quiet";

#[track_caller]
fn check(scenario: &str) {
    play(&BROKER, scenario);
}

fn twenty_unreleased() -> String {
    let mut scenario = String::from("p connect v5\n");
    for number in 1..=20 {
        scenario += &format!("p > 34 s'{{t}}' m{number} [] 'x'\n p < 50 m{number}\n");
    }
    scenario
}
