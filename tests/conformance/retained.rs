//! Retained messages: what stores and removes them, and who is sent them.

use crate::scenario::{SharedBroker, play};

static BROKER: SharedBroker = SharedBroker::plain();

#[test]
fn mqtt_3_3_1_5_a_retained_publish_replaces_the_one_before() {
    check(
        "p connect v5
         p > 31 s'{t}' [] 'one'
         p => 33 s'{t}' m1 [] 'two'
         s connect v5
         s > 82 m1 [] s'{t}' 02
         s < 90 m1 [] 02
         s < 33 s'{t}' $a [] 'two'
         s quiet",
    );
}

#[test]
fn v3_mqtt_3_3_1_5_a_retained_publish_is_stored_with_its_qos() {
    check(
        "p connect v4
         p => 35 s'{t}' m1 'two'
         s connect v4
         s > 82 m1 s'{t}' 02
         s < 90 m1 02
         s < 35 s'{t}' $a 'two'",
    );
}

#[test]
fn v3_mqtt_3_3_1_6_a_new_subscription_gets_the_last_retained_message() {
    check(
        "p connect v4
         p > 31 s'{t}/a' 'old' ; 31 s'{t}/a' 'new' ; 31 s'{t}/b/c' 'deep'
         p quiet
         s connect v4
         s > 82 m1 s'{t}/#' 00
         s < 90 m1 00
         s < 31 s'{t}/a' 'new' | 31 s'{t}/b/c' 'deep'
         s quiet",
    );
}

#[test]
fn v3_mqtt_3_3_1_7_a_retained_qos_0_publish_discards_the_one_before() {
    check(
        "p connect v4
         p > 33 s'{t}' m1 'one'
         p < 40 m1
         p > 31 s'{t}' 'zero'
         p quiet
         s connect v4
         s > 82 m1 s'{t}' 01
         s < 90 m1 01
         s < 31 s'{t}' 'zero'
         s quiet",
    );
}

/// [MQTT-3.3.1-7]: delivered to those who are there, like any other.
#[test]
fn mqtt_3_3_1_6_an_empty_one_removes_and_is_delivered() {
    check(
        "s connect v5
         s > 82 m1 [] s'{t}' 08
         s < 90 m1 [] 00
         p connect v5
         p > 31 s'{t}' [] 'kept'
         s < 31 s'{t}' [] 'kept'
         p > 31 s'{t}' []
         s < 31 s'{t}' []
         l connect v5
         l > 82 m1 [] s'{t}' 00
         l < 90 m1 [] 00
         l quiet",
    );
}

#[test]
fn mqtt_3_3_1_7_an_empty_message_is_never_retained() {
    check(
        "p connect v5
         p > 33 s'{t}' m1 [26 s'k' s'v']
         p < 40 m1 10
         s connect v5
         s > 82 m1 [] s'{t}' 01
         s < 90 m1 [] 01
         s quiet",
    );
}

#[test]
fn v3_mqtt_3_3_1_10_an_empty_one_removes_and_is_delivered() {
    check(
        "s connect v4
         s > 82 m1 s'{t}' 00
         s < 90 m1 00
         p connect v4
         p > 31 s'{t}' 'kept'
         s < 30 s'{t}' 'kept'
         p > 31 s'{t}'
         s < 30 s'{t}'
         l connect v4
         l > 82 m1 s'{t}' 00
         l < 90 m1 00
         l quiet",
    );
}

#[test]
fn v3_mqtt_3_3_1_11_an_empty_message_is_never_retained() {
    check(
        "p connect v4
         p => 33 s'{t}' m1
         s connect v4
         s > 82 m1 s'{t}' 01
         s < 90 m1 01
         s quiet",
    );
}

#[test]
fn mqtt_3_3_1_8_retain_0_leaves_it_alone() {
    check(
        "p connect v5
         p > 31 s'{t}/a' [] 'kept' ; 30 s'{t}/a' [] 'live' ; 30 s'{t}/a' [] ; 30 s'{t}/b' [] 'live'
         p quiet
         s connect v5
         s > 82 m1 [] s'{t}/#' 00
         s < 90 m1 [] 00
         s < 31 s'{t}/a' [] 'kept'
         s quiet",
    );
}

#[test]
fn v3_mqtt_3_3_1_12_retain_0_leaves_it_alone() {
    check(
        "p connect v4
         p > 31 s'{t}/a' 'kept' ; 30 s'{t}/a' 'live' ; 30 s'{t}/a' ; 30 s'{t}/b' 'live'
         p quiet
         s connect v4
         s > 82 m1 s'{t}/#' 00
         s < 90 m1 00
         s < 31 s'{t}/a' 'kept'
         s quiet",
    );
}

#[test]
fn mqtt_3_3_1_9_retain_handling_0_sends_at_every_subscribe() {
    check(
        "p connect v5
         p > 31 s'{t}/a' [] 'x' ; 31 s'{t}/b' [] 'y'
         p quiet
         s connect v5
         s > 82 m1 [] s'{t}/+' 00
         s < 90 m1 [] 00
         s < 31 s'{t}/a' [] 'x' | 31 s'{t}/b' [] 'y'
         s > 82 m2 [] s'{t}/+' 00
         s < 90 m2 [] 00
         s < 31 s'{t}/a' [] 'x' | 31 s'{t}/b' [] 'y'
         s quiet",
    );
}

/// After UNSUBSCRIBE it is a new one again.
#[test]
fn mqtt_3_3_1_10_retain_handling_1_sends_for_a_new_subscription() {
    check(
        "p connect v5
         p > 31 s'{t}' [] 'x'
         p quiet
         s connect v5
         s > 82 m1 [] s'{t}' 10
         s < 90 m1 [] 00
         s < 31 s'{t}' [] 'x'
         s > 82 m2 [] s'{t}' 11
         s < 90 m2 [] 01
         s quiet
         s > a2 m3 [] s'{t}'
         s < b0 m3 [] 00
         s > 82 m4 [] s'{t}' 10
         s < 90 m4 [] 00
         s < 31 s'{t}' [] 'x'",
    );
}

#[test]
fn mqtt_3_3_1_11_retain_handling_2_sends_none() {
    check(
        "p connect v5
         p > 31 s'{t}' [] 'x'
         p quiet
         s connect v5
         s > 82 m1 [] s'{t}' 20
         s < 90 m1 [] 00
         s quiet
         p > 30 s'{t}' [] 'live'
         s < 30 s'{t}' [] 'live'",
    );
}

#[test]
fn mqtt_3_3_1_12_retain_as_published_0_forwards_retain_0() {
    check(
        "s connect v5
         s > 82 m1 [] s'{t}' 01
         s < 90 m1 [] 01
         p connect v5
         p => 33 s'{t}' m1 [] 'x'
         s < 32 s'{t}' $a [] 'x'
         p > 31 s'{t}' [] 'y'
         s < 30 s'{t}' [] 'y'",
    );
}

#[test]
fn mqtt_3_3_1_13_retain_as_published_1_forwards_retain_as_it_was() {
    check(
        "s connect v5
         s > 82 m1 [] s'{t}' 09
         s < 90 m1 [] 01
         p connect v5
         p => 33 s'{t}' m1 [] 'x'
         s < 33 s'{t}' $a [] 'x'
         p > 30 s'{t}' [] 'y'
         s < 30 s'{t}' [] 'y'",
    );
}

/// The flag is that of the delivery, so it is kept for who was away.
#[test]
fn mqtt_3_3_1_13_the_flag_is_queued_with_the_message() {
    check(
        "s connect v5 clean=0 props(11 L60)
         s > 82 m1 [] s'{t}/rap' 09 s'{t}/plain' 01
         s < 90 m1 [] 01 01
         s bye
         p connect v5
         p => 33 s'{t}/rap' m1 [] 'x' ; 33 s'{t}/plain' m2 [] 'y'
         s connect v5 clean=0 present=1 props(11 L60)
         s < 33 s'{t}/rap' $a [] 'x'
         s < 32 s'{t}/plain' $b [] 'y'",
    );
}

#[test]
fn v3_mqtt_3_3_1_8_retain_is_1_for_what_a_new_subscription_brings() {
    check(
        "p connect v4
         p => 33 s'{t}' m1 'x'
         s connect v4
         s > 82 m1 s'{t}' 01
         s < 90 m1 01
         s < 33 s'{t}' $a 'x'
         s > 82 m2 s'{t}' 00
         s < 90 m2 00
         s < 31 s'{t}' 'x'",
    );
}

#[test]
fn v3_mqtt_3_3_1_9_retain_is_0_for_what_an_established_subscription_brings() {
    check(
        "s connect v4
         s > 82 m1 s'{t}' 01
         s < 90 m1 01
         p connect v4
         p => 33 s'{t}' m1 'x'
         s < 32 s'{t}' $a 'x'
         p > 31 s'{t}' 'y'
         s < 30 s'{t}' 'y'",
    );
}

/// An expired retained message is not sent, [MQTT-3.3.2-5].
#[test]
fn a_retained_message_expires() {
    check(
        "p connect v5
         p > 31 s'{t}' [02 L1] 'x'
         p quiet
         wait 1500
         s connect v5
         s > 82 m1 [] s'{t}' 00
         s < 90 m1 [] 00
         s quiet",
    );
}

#[track_caller]
fn check(scenario: &str) {
    play(&BROKER, scenario);
}
