//! What survives SIGKILL: everything that was acknowledged, byte for byte where the standard asks for it. Each scenario has a
//! broker of its own, which is killed at a known point; `tests/crash` kills at unknown ones.
//!
//! A subscriber's PUBACK is written lazily (D2), so where a scenario needs it to be on disk, a SUBACK behind it says so.

use crate::scenario::play_kept;

#[test]
fn an_acknowledged_message_survives_the_broker() {
    check(
        "s connect v4 clean=0
         s > 82 m1 s'{t}/#' 01
         s < 90 m1 01
         s bye
         p connect v4
         p => 32 s'{t}/a' m7 'first'
         p => 34 s'{t}/b' m8 'second'
         kill
         s connect v4 clean=0 present=1
         s < 32 s'{t}/a' $a 'first'
         s < 32 s'{t}/b' $b 'second'
         s > 40 $a
         s > 40 $b
         s > 82 m2 s'{t}/#' 01
         s < 90 m2 01
         kill
         s connect v4 clean=0 present=1
         s quiet",
    );
}

/// Order, sizes and the properties that are forwarded.
#[test]
fn a_queue_survives_in_its_order_with_its_properties() {
    check(
        "s connect v5 clean=0 props(11 L600)
         s > 82 m1 [0b v7] s'{t}' 01
         s < 90 m1 [] 01
         s bye
         p connect v5
         p => 32 s'{t}' m1 [03 s'text' 26 s'k' s'v'] 'one' ; 32 s'{t}' m2 [] '' ; 32 s'{t}' m3 [01 01] 'three'
         kill
         s connect v5 clean=0 present=1 props(11 L600)
         s < 32 s'{t}' $a [0b v7 03 s'text' 26 s'k' s'v'] 'one' or 32 s'{t}' $a [03 s'text' 26 s'k' s'v' 0b v7] 'one'
         s < 32 s'{t}' $b [0b v7] ''
         s < 32 s'{t}' $c [0b v7 01 01] 'three' or 32 s'{t}' $c [01 01 0b v7] 'three'",
    );
}

#[test]
fn a_qos_2_message_that_was_received_is_not_received_again() {
    check(
        "s connect v5 clean=0 props(11 L600)
         s > 82 m1 [] s'{t}' 02
         s < 90 m1 [] 02
         s bye
         p connect v5 clean=0 props(11 L600)
         p > 34 s'{t}' m5 [] 'once'
         p < 50 m5
         kill
         p connect v5 clean=0 present=1 props(11 L600)
         p > 3c s'{t}' m5 [] 'once'
         p < 50 m5
         p > 62 m5
         p < 70 m5
         kill
         p connect v5 clean=0 present=1 props(11 L600)
         p > 62 m5
         p < 70 m5 92 or 70 m5
         s connect v5 clean=0 present=1 props(11 L600)
         s < 34 s'{t}' $a [] 'once'
         s > 50 $a
         s < 62 $a
         s > 70 $a
         s quiet",
    );
}

#[test]
fn mqtt_4_4_0_1_an_exchange_with_a_subscriber_goes_on_where_it_was() {
    check(
        "s connect v4 clean=0
         s > 82 m1 s'{t}' 02
         s < 90 m1 02
         p connect v4
         p => 34 s'{t}' m1 'x'
         s < 34 s'{t}' $a 'x'
         kill
         s connect v4 clean=0 present=1
         s < 3c s'{t}' $a 'x'
         s > 50 $a
         s < 62 $a
         kill
         s connect v4 clean=0 present=1
         s < 62 $a
         s > 70 $a
         s quiet",
    );
}

#[test]
fn subscriptions_survive_with_their_options() {
    check(
        "s connect v5 clean=0 props(11 L600)
         s > 82 m1 [0b v9] s'{t}/+' 0d
         s < 90 m1 [] 01
         s > 82 m2 [] s'{t}/gone' 01
         s < 90 m2 [] 01
         s > a2 m3 [] s'{t}/gone'
         s < b0 m3 [] 00
         kill
         s connect v5 clean=0 present=1 props(11 L600)
         s > 32 s'{t}/mine' m1 [] 'no local'
         s < 40 m1 10 or 40 m1
         p connect v5
         p => 33 s'{t}/a' m1 [] 'as published'
         s < 33 s'{t}/a' $a [0b v9] 'as published'
         p => 32 s'{t}/gone' m2 [] 'once'
         s < 32 s'{t}/gone' $b [0b v9] 'once'
         s quiet",
    );
}

#[test]
fn retained_messages_survive_and_deleted_ones_stay_deleted() {
    check(
        "p connect v5
         p => 33 s'{t}/kept' m1 [] 'old' ; 33 s'{t}/kept' m2 [] 'new' ; 35 s'{t}/two' m3 [] '2'
         p => 33 s'{t}/gone' m4 [] 'x' ; 33 s'{t}/gone' m5 [] ''
         kill
         s connect v5
         s > 82 m1 [] s'{t}/#' 02
         s < 90 m1 [] 02
         s < 33 s'{t}/kept' $a [] 'new' | 35 s'{t}/two' $b [] '2'
         s quiet",
    );
}

#[test]
fn mqtt_3_1_2_4_a_discarded_session_stays_discarded() {
    check(
        "s connect v4 clean=0
         s > 82 m1 s'{t}' 01
         s < 90 m1 01
         s bye
         s connect v4 clean=1
         kill
         s connect v4 clean=0
         p connect v4
         p => 32 s'{t}' m1 'nobody'
         s quiet",
    );
}

#[test]
fn a_share_group_keeps_its_queue_while_all_members_are_away() {
    check(
        "s connect v5 clean=0 props(11 L600)
         s > 82 m1 [] s'$share/g/{t}' 01
         s < 90 m1 [] 01
         s bye
         p connect v5
         p => 32 s'{t}' m1 [] 'one' ; 32 s'{t}' m2 [] 'two'
         kill
         s connect v5 clean=0 present=1 props(11 L600)
         s < 32 s'{t}' $a [] 'one'
         s > 40 $a
         s < 32 s'{t}' $b [] 'two'
         s > 40 $b
         s > 82 m2 [] s'{t}/other' 01
         s < 90 m2 [] 01
         kill
         s connect v5 clean=0 present=1 props(11 L600)
         s quiet",
    );
}

/// [MQTT-3.3.2-6]: the time the broker was away counts.
#[test]
fn messages_expire_while_the_broker_is_away() {
    check(
        "s connect v5 clean=0 props(11 L600)
         s > 82 m1 [] s'{t}' 01
         s < 90 m1 [] 01
         s bye
         p connect v5
         p => 32 s'{t}' m1 [02 L1] 'short' ; 32 s'{t}' m2 [02 L90] 'long'
         wait 1200
         kill
         s connect v5 clean=0 present=1 props(11 L600)
         s < 32 s'{t}' $a [02 ~89] 'long'
         s quiet",
    );
}

/// D10: after a kill nobody knows how the connection ended, so it ended without DISCONNECT; a client that is back is alive.
#[test]
fn wills_are_published_after_a_kill_unless_their_client_comes_back() {
    play_kept(
        "will_restart_grace_seconds = 3\n",
        "s connect v4 clean=0
         s > 82 m1 s'{t}/#' 01
         s < 90 m1 01
         s bye
         a connect v4 clean=1 will({t}/a gone 1 0)
         b connect v5 clean=0 props(11 L600) will({t}/b gone 1 0)
         c connect v4 clean=0 will({t}/c gone 1 0)
         d connect v4 will({t}/d gone 1 0)
         d bye
         c > 82 m1 s'{t}/none' 01
         c < 90 m1 01
         b > 82 m1 [] s'{t}/none' 01
         b < 90 m1 [] 01
         a > 32 s'{t}/none' m1 'on disk'
         a < 40 m1
         kill
         b connect v5 clean=0 present=1 props(11 L600) will({t}/b gone 1 0)
         s connect v4 clean=0 present=1
         s < 32 s'{t}/none' $x 'on disk'
         s < 32 s'{t}/a' $y 'gone' | 32 s'{t}/c' $z 'gone'
         s quiet",
    );
}

/// [MQTT-3.1.2-23]
#[test]
fn a_session_expires_while_the_broker_is_away() {
    check(
        "a connect v5 clean=0 props(11 L1)
         b connect v5 clean=0 props(11 L90)
         a > 82 m1 [] s'{t}' 01
         a < 90 m1 [] 01
         b > 82 m1 [] s'{t}' 01
         b < 90 m1 [] 01
         a bye
         b bye
         kill
         wait 1200
         a connect v5 clean=0 props(11 L1)
         b connect v5 clean=0 present=1 props(11 L90)",
    );
}

#[test]
fn a_stop_keeps_what_a_kill_keeps_and_publishes_wills() {
    check(
        "s connect v4 clean=0
         s > 82 m1 s'{t}/#' 01
         s < 90 m1 01
         s bye
         w connect v4 will({t}/will gone 1 1)
         p connect v4
         p => 32 s'{t}/a' m1 'kept'
         stop
         s connect v4 clean=0 present=1
         s < 32 s'{t}/a' $a 'kept'
         s < 32 s'{t}/will' $b 'gone'
         n connect v4
         n > 82 m1 s'{t}/will' 01
         n < 90 m1 01
         n < 33 s'{t}/will' $c 'gone'",
    );
}

#[track_caller]
fn check(scenario: &str) {
    play_kept("", scenario);
}
