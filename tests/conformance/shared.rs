//! Shared subscriptions.

use crate::scenario::{SharedBroker, play};

static BROKER: SharedBroker = SharedBroker::plain();
static QUEUES_OF_TWO: SharedBroker = SharedBroker::with("queue_messages_max = 2\n", &[]);
/// Where nothing is on its way between shards any more when a ping is answered.
static QUEUES_OF_TWO_ON_ONE_SHARD: SharedBroker =
    SharedBroker::with("queue_messages_max = 2\nshards = 1\n", &[]);
static DROPS_OLDEST: SharedBroker = SharedBroker::with(
    "queue_policy = \"drop_oldest\"\nqueue_messages_max = 2\n",
    &[],
);

#[test]
fn mqtt_3_8_3_4_no_local_on_a_shared_subscription_is_a_protocol_error() {
    check("a connect v5\n a > 82 m1 [] s'$share/g/{t}' 04\n a < e0 82\n a close");
    check("a connect v5\n a > 82 m1 [] s'{t}' 00 s'$share/g/{t}' 05\n a < e0 82\n a close");
}

/// [MQTT-4.8.2-2]: refused, and nothing is stored.
#[test]
fn mqtt_4_8_2_1_a_shared_filter_has_a_share_name() {
    for filter in ["$share", "$share/", "$share//{t}", "$share//"] {
        refused(filter);
    }
}

#[test]
fn mqtt_4_8_2_2_a_share_name_has_no_wildcard_and_is_followed_by_a_filter() {
    for filter in [
        "$share/g",
        "$share/g/",
        "$share/+/{t}",
        "$share/#/{t}",
        "$share/g#/{t}",
        "$share/g+/{t}",
        "$share/#",
    ] {
        refused(filter);
    }
}

/// One member gets each message, at its own QoS.
#[test]
fn mqtt_4_8_2_3_each_members_granted_qos_holds() {
    check(
        "a connect v5
         a > 82 m1 [] s'$share/g/{t}' 00
         a < 90 m1 [] 00
         p connect v5
         p => 34 s'{t}' m1 [] 'one'
         a < 30 s'{t}' [] 'one'
         a > a2 m2 [] s'$share/g/{t}'
         a < b0 m2 [] 00
         b connect v5
         b > 82 m1 [] s'$share/g/{t}' 01
         b < 90 m1 [] 01
         p => 34 s'{t}' m2 [] 'two'
         b < 32 s'{t}' $b [] 'two'
         a quiet",
    );
}

/// Four messages, two members: each message comes once.
#[test]
fn each_message_goes_to_one_member() {
    check(
        "a connect v5
         a > 82 m1 [] s'$share/g/{t}' 00
         a < 90 m1 [] 00
         b connect v5
         b > 82 m1 [] s'$share/g/{t}' 00
         b < 90 m1 [] 00
         c connect v5
         c > 82 m1 [] s'$share/h/{t}' 00 s'{t}' 00
         c < 90 m1 [] 00 00
         p connect v5
         p > 30 s'{t}' [] '1' ; 30 s'{t}' [] '2'
         a < 30 s'{t}' [] '1' or 30 s'{t}' [] '2'
         b < 30 s'{t}' [] '1' or 30 s'{t}' [] '2'
         a quiet
         b quiet
         c < 30 s'{t}' [] '1' | 30 s'{t}' [] '1' | 30 s'{t}' [] '2' | 30 s'{t}' [] '2'
         c quiet",
    );
}

/// What is retained goes to no member of a group.
#[test]
fn a_shared_subscription_brings_no_retained_messages() {
    check(
        "p connect v5
         p > 31 s'{t}' [] 'kept'
         p quiet
         a connect v5
         a > 82 m1 [] s'$share/g/{t}' 00
         a < 90 m1 [] 00
         a > 82 m2 [] s'$share/g/{t}' 00
         a < 90 m2 [] 00
         a quiet",
    );
}

#[test]
fn mqtt_3_3_4_3_a_shared_subscription_has_its_identifier() {
    check(
        "a connect v5
         a > 82 m1 [0b v9] s'$share/g/{t}' 00
         a < 90 m1 [] 00
         p connect v5
         p > 30 s'{t}' [] 'x'
         a < 30 s'{t}' [0b v9] 'x'",
    );
}

/// A was sent it and left before PUBREC; it is A's, though B is there.
#[test]
fn mqtt_4_8_2_4_a_qos_2_delivery_is_finished_with_the_same_member() {
    check(
        "a connect v5 clean=0 props(11 L60)
         a > 82 m1 [] s'$share/g/{t}' 02
         a < 90 m1 [] 02
         p connect v5
         p => 34 s'{t}' m1 [] 'x'
         a < 34 s'{t}' $a [] 'x'
         b connect v5
         b > 82 m1 [] s'$share/g/{t}' 02
         b < 90 m1 [] 02
         a drop
         b quiet
         a connect v5 clean=0 present=1 props(11 L60)
         a < 3c s'{t}' $a [] 'x'
         a > 50 $a
         a < 62 $a
         a > 70 $a
         b quiet",
    );
}

#[test]
fn mqtt_4_8_2_5_it_dies_with_the_session() {
    check(
        "a connect v5
         a > 82 m1 [] s'$share/g/{t}' 02
         a < 90 m1 [] 02
         p connect v5
         p => 34 s'{t}' m1 [] 'x'
         a < 34 s'{t}' $a [] 'x'
         b connect v5
         b > 82 m1 [] s'$share/g/{t}' 02
         b < 90 m1 [] 02
         a drop
         p > 30 s'{t}' [] 'next'
         b < 30 s'{t}' [] 'next'
         b quiet",
    );
}

/// QoS 1 goes on to another member when the first leaves without PUBACK (D8).
#[test]
fn an_unacknowledged_qos_1_message_goes_to_another_member() {
    check(
        "a connect v5
         a > 82 m1 [] s'$share/g/{t}' 01
         a < 90 m1 [] 01
         p connect v5
         p => 32 s'{t}' m1 [] 'x'
         a < 32 s'{t}' $a [] 'x'
         b connect v5
         b > 82 m1 [] s'$share/g/{t}' 01
         b < 90 m1 [] 01
         a drop
         b < 32 s'{t}' $b [] 'x' or 3a s'{t}' $b [] 'x'",
    );
}

#[test]
fn mqtt_4_8_2_6_a_members_refusal_discards_the_message() {
    check(
        "a connect v5
         a > 82 m1 [] s'$share/g/{t}' 02
         a < 90 m1 [] 02
         p connect v5
         p => 32 s'{t}' m1 [] 'one'
         a < 32 s'{t}' $a [] 'one'
         p => 34 s'{t}' m2 [] 'two'
         a < 34 s'{t}' $b [] 'two'
         b connect v5
         b > 82 m1 [] s'$share/g/{t}' 02
         b < 90 m1 [] 02
         a > 40 $a 80 [] ; 50 $b 97 []
         a quiet
         a drop
         p > 30 s'{t}' [] 'next'
         b < 30 s'{t}' [] 'next'
         b quiet",
    );
}

/// A message goes to a member who is there, not to one who is away.
#[test]
fn members_who_are_there_come_first() {
    check(
        "a connect v5 clean=0 props(11 L60)
         a > 82 m1 [] s'$share/g/{t}' 01
         a < 90 m1 [] 01
         b connect v5
         b > 82 m1 [] s'$share/g/{t}' 01
         b < 90 m1 [] 01
         a bye
         p connect v5
         p => 32 s'{t}' m1 [] '1' ; 32 s'{t}' m2 [] '2' ; 32 s'{t}' m3 [] '3'
         b < 32 s'{t}' $a [] '1'
         b < 32 s'{t}' $b [] '2'
         b < 32 s'{t}' $c [] '3'",
    );
}

/// With all members away the group keeps it for the first who returns (D8).
#[test]
fn the_group_keeps_messages_for_members_who_return() {
    check(
        "a connect v5 clean=0 props(11 L60)
         a > 82 m1 [] s'$share/g/{t}' 01
         a < 90 m1 [] 01
         b connect v5 clean=0 props(11 L60)
         b > 82 m1 [] s'$share/g/{t}' 01
         b < 90 m1 [] 01
         a bye
         b bye
         p connect v5
         p => 32 s'{t}' m1 [] 'x'
         b connect v5 clean=0 present=1 props(11 L60)
         b < 32 s'{t}' $a [] 'x'
         b > 40 $a
         a connect v5 clean=0 present=1 props(11 L60)
         a quiet",
    );
}

/// A member's queue has a bound also for what groups give it: two wait there, one in its group, until there is room or
/// another member.
#[test]
fn what_a_member_has_no_room_for_stays_with_its_group() {
    let groups = |code: &str| {
        ["g1", "g2", "g3", "g4"]
            .map(|name| format!("s'$share/{name}/{{t}}' {code}"))
            .join(" ")
    };
    let start = format!(
        "a connect v5 props(21 H1)
         a > 82 m1 [] {groups}
         a < 90 m1 [] 01 01 01 01
         p connect v5
         p => 32 s'{{t}}' m1 [] 'x'
         a < 32 s'{{t}}' $a [] 'x'
         a quiet",
        groups = groups("01")
    );
    let take_two = "
         a > 40 $a
         a < 32 s'{t}' $b [] 'x'
         a > 40 $b
         a < 32 s'{t}' $c [] 'x'
         a > 40 $c";
    play(
        &QUEUES_OF_TWO,
        &format!("{start}{take_two}\n a < 32 s'{{t}}' $d [] 'x'\n a > 40 $d\n a quiet"),
    );
    let join = format!(
        "
         b connect v5
         b > 82 m1 [] {}
         b < 90 m1 [] 01 01 01 01
         b < 32 s'{{t}}' $e [] 'x'
         b quiet",
        groups("01")
    );
    play(
        &QUEUES_OF_TWO,
        &format!("{start}{join}{take_two}\n a quiet"),
    );
}

/// QoS 0 of a group has to wait behind QoS 0 of the member's own, and a full queue has no room for it.
#[test]
fn qos_0_from_a_group_does_not_pass_the_bound_of_a_members_queue() {
    play(
        &QUEUES_OF_TWO_ON_ONE_SHARD,
        "p connect v5
         p => 33 s'{t}/r/1' m1 [] 'r' ; 33 s'{t}/r/2' m2 [] 'r' ; 31 s'{t}/r/3' [] 'r'
         a connect v5 props(21 H1)
         a > 82 m1 [] s'$share/g/{t}/q' 00 s'{t}/r/+' 01
         a < 90 m1 [] 00 01
         a < 33 s'{t}/r/1' $a [] 'r'
         p > 30 s'{t}/q' [] 'dropped'
         p quiet
         a quiet
         a > 40 $a
         a < 33 s'{t}/r/2' $b [] 'r'
         a < 31 s'{t}/r/3' [] 'r'
         a > 40 $b
         a quiet
         p > 30 s'{t}/q' [] 'next'
         a < 30 s'{t}/q' [] 'next'",
    );
}

/// What waits longest in a group's queue makes room, as in a session's.
#[test]
fn a_full_group_drops_the_oldest_where_the_policy_says_so() {
    play(
        &DROPS_OLDEST,
        "a connect v5 clean=0 props(11 L60)
         a > 82 m1 [] s'$share/g/{t}' 01
         a < 90 m1 [] 01
         a bye
         p connect v5
         p => 32 s'{t}' m1 [] '1' ; 32 s'{t}' m2 [] '2' ; 32 s'{t}' m3 [] '3' ; 32 s'{t}' m4 [] '4'
         a connect v5 clean=0 present=1 props(11 L60)
         a < 32 s'{t}' $a [] '3'
         a < 32 s'{t}' $b [] '4'
         a quiet",
    );
}

/// [MQTT-3.3.2-5]: it expired in the group's queue; the member gets the one behind it.
#[test]
fn an_expired_message_of_a_group_is_not_sent() {
    check(
        "a connect v5 props(21 H1)
         a > 82 m1 [] s'$share/g/{t}' 01
         a < 90 m1 [] 01
         p connect v5
         p => 32 s'{t}' m1 [] '1' ; 32 s'{t}' m2 [02 L1] '2' ; 32 s'{t}' m3 [] '3'
         a < 32 s'{t}' $a [] '1'
         wait 1100
         a > 40 $a
         a < 32 s'{t}' $b [] '3'
         a > 40 $b
         a quiet",
    );
}

/// A member that joins with its window in use has all of it once that is free again.
#[test]
fn a_member_that_joins_in_mid_flight_has_its_whole_window() {
    check(
        "a connect v5 props(21 H2)
         a > 82 m1 [] s'{t}/own' 01
         a < 90 m1 [] 01
         p connect v5
         p => 32 s'{t}/own' m1 [] '1' ; 32 s'{t}/own' m2 [] '2'
         a < 32 s'{t}/own' $a [] '1'
         a < 32 s'{t}/own' $b [] '2'
         a > 82 m2 [] s'$share/g/{t}' 01
         a < 90 m2 [] 01
         a > 40 $a ; 40 $b
         a quiet
         p => 32 s'{t}' m1 [] '3' ; 32 s'{t}' m2 [] '4'
         a < 32 s'{t}' $c [] '3'
         a < 32 s'{t}' $d [] '4'",
    );
}

#[track_caller]
fn check(scenario: &str) {
    play(&BROKER, scenario);
}

/// SUBACK 0x8F, and no subscription: an UNSUBSCRIBE finds none, and what it would have matched does not come.
#[track_caller]
fn refused(filter: &str) {
    check(&format!(
        "a connect v5
         a > 82 m1 [] s'{filter}' 01
         a < 90 m1 [] 8f
         p connect v5
         p > 32 s'{{t}}' m1 [] 'x'
         p < 40 m1 10
         a quiet"
    ));
}
