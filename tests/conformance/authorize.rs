//! Authorization: what the rules of an acl_file do to CONNECT, PUBLISH, SUBSCRIBE and to every way of being given a message.
//!
//! Named after the attacks they are: what must not come is followed by something that must, so that a late leak is seen.

use harness::{Broker, TemporaryDirectory};

use crate::scenario::play_with_rules;

/// Anonymous clients may do everything to `ok/...`; user `root` everything.
const OK: &str = "topic readwrite ok/#; user root; topic readwrite #";
const FILTERS: &str = "acl_subscribe = \"mosquitto\"\n";

#[test]
fn what_may_not_be_published_gets_0x87_and_goes_nowhere() {
    check(
        OK,
        "s connect v5 user=root
         s > 82 m1 [] s'#' 02
         s < 90 m1 [] 02
         a connect v5
         a > 30 s'no' [] 'lost'
         a > 32 s'no' m1 [] 'lost' ; 34 s'no' m2 [] 'lost' ; 33 s'no' m3 [] 'lost'
         a < 40 m1 87
         a < 50 m2 87
         a < 40 m3 87
         a => 32 s'ok/1' m4 [] 'x'
         s < 32 s'ok/1' $a [] 'x'
         s quiet
         a > 34 s'ok/2' m2 [] 'y'
         a < 50 m2
         a > 62 m2
         a < 70 m2
         s < 34 s'ok/2' $b [] 'y'",
    );
}

/// 3.x has no way to say it, and hears what it would hear of success [v3 MQTT-3.3.5-2].
#[test]
fn what_a_3_x_client_may_not_publish_is_acknowledged_and_goes_nowhere() {
    check(
        OK,
        "s connect v4 user=root
         s > 82 m1 s'#' 02
         s < 90 m1 02
         a connect v4
         a > 30 s'no' 'lost'
         a => 32 s'no' m1 'lost' ; 34 s'no' m2 'lost' ; 33 s'no' m3 'lost' ; 32 s'ok/1' m4 'x'
         s < 32 s'ok/1' $a 'x'
         s quiet
         n connect v4 user=root
         n > 82 m1 s'#' 00
         n < 90 m1 00
         n quiet",
    );
}

#[test]
fn a1_a_will_that_may_not_be_published_is_refused_at_connect() {
    for topic in ["no", "admin/cmd", "$SYS/x", "okk", "$share/a/b"] {
        check(
            OK,
            &format!(
                "s connect v5 user=root
                 s > 82 m1 [] s'#' 00
                 s < 90 m1 [] 00
                 a try v5 will({topic} gone 0 0)
                 a < 20 00 87 00
                 a close
                 b try v4 will({topic} gone 0 0)
                 b < 20 00 05
                 b close
                 c connect v5 will(ok/w gone 0 0)
                 c drop
                 s < 30 s'ok/w' [] 'gone'
                 s quiet"
            ),
        );
    }
}

/// As at Mosquitto it is no will that anybody may have.
#[test]
fn a1_a_will_for_the_broker_itself_is_no_connect() {
    check(
        OK,
        "a try v5 user=root will($CONTROL/x gone 0 0)
         a refused
         b try v4 user=root will($CONTROL/broker/v1 gone 0 0)
         b refused",
    );
}

#[test]
fn a1_a_refused_will_leaves_the_session_of_its_client_id_alone() {
    check(
        OK,
        "a connect v5 props(11 L60) id={t}same
         b try v5 id={t}same will(no gone 0 0)
         b < 20 00 87 00
         a quiet",
    );
}

#[test]
fn a1_a_will_is_checked_again_when_it_fires() {
    for (revoke, heard) in [
        ("rules user root; topic readwrite #", "wait 4500"),
        ("", "s < 30 s'ok/w' [] 'gone'"),
    ] {
        check_on(
            "will_restart_grace_seconds = 3\n",
            OK,
            &format!(
                "a connect v5 props(11 L60) will(ok/w gone 1 0) wprops(18 L1)
                 a => 33 s'ok/r' m1 [] 'durable, and so is all before it'
                 {revoke}
                 kill
                 s connect v5 user=root
                 s > 82 m1 [] s'ok/w' 00
                 s < 90 m1 [] 00
                 {heard}
                 s quiet"
            ),
        );
    }
}

#[test]
fn a2_a_retained_message_is_not_given_to_who_may_not_read_it_any_more() {
    check_on(
        FILTERS,
        OK,
        "p connect v5 user=root
         p => 33 s'ok/r' m1 [] 'secret' ; 33 s'also' m1 [] 'public'
         s connect v5
         s > 82 m1 [] s'ok/r' 01
         s < 90 m1 [] 01
         s < 33 s'ok/r' $a [] 'secret'
         s > 40 $a
         rules topic read also; user root; topic readwrite #
         stop
         t connect v5
         t > 82 m1 [] s'#' 01
         t < 90 m1 [] 01
         t < 33 s'also' $b [] 'public'
         t quiet",
    );
}

#[test]
fn a2_what_waits_in_a_queue_is_not_given_to_who_may_not_read_it_any_more() {
    for (first, second, dup) in [("32", "32", ""), ("34", "34", "")] {
        check_on(
            FILTERS,
            OK,
            &format!(
                "s connect v5 props(11 L600)
                 s > 82 m1 [] s'ok/#' 02
                 s < 90 m1 [] 02
                 s bye
                 p connect v5 user=root
                 p => {first} s'ok/secret' m1 [] 'one' ; {second} s'ok/public' m2 [] 'two'
                 {dup}
                 rules topic read ok/public
                 stop
                 s connect v5 clean=0 present=1 props(11 L600)
                 s < {second} s'ok/public' $a [] 'two'
                 s quiet"
            ),
        );
    }
}

#[test]
fn a2_what_is_in_flight_is_not_sent_again_to_who_may_not_read_it_any_more() {
    check_on(
        FILTERS,
        OK,
        "s connect v5 props(11 L600)
         s > 82 m1 [] s'ok/#' 02
         s < 90 m1 [] 02
         p connect v5 user=root
         p => 32 s'ok/secret' m1 [] 'one' ; 34 s'ok/secret' m2 [] 'two' ; 32 s'ok/public' m3 [] 'three'
         s < 32 s'ok/secret' $a [] 'one'
         s < 34 s'ok/secret' $b [] 'two' | 32 s'ok/public' $c [] 'three'
         s drop
         rules topic read ok/public
         stop
         s connect v5 clean=0 present=1 props(11 L600)
         s < 3a s'ok/public' $c [] 'three'
         s quiet
         s drop
         rules topic read ok/#
         stop
         s connect v5 clean=0 present=1 props(11 L600)
         s < 3a s'ok/public' $c [] 'three'
         s quiet",
    );
}

#[test]
fn a2_a_subscription_from_before_gives_nothing_that_may_not_be_read() {
    check(
        OK,
        "s connect v5 props(11 L600)
         s > 82 m1 [] s'ok/#' 01
         s < 90 m1 [] 01
         s bye
         rules topic read ok/public; user root; topic readwrite #
         stop
         p connect v5 user=root
         p => 32 s'ok/secret' m1 [] 'while it is away' ; 32 s'ok/public' m2 [] 'a'
         s connect v5 clean=0 present=1 props(11 L600)
         s < 32 s'ok/public' $a [] 'a'
         p => 32 s'ok/secret' m1 [] 'live' ; 30 s'ok/secret' [] 'live' ; 32 s'ok/public' m2 [] 'b'
         s < 32 s'ok/public' $b [] 'b'
         s quiet",
    );
}

/// Names that a careless substitution would read as filters, expressions or other people's subtrees.
#[test]
fn a4_names_never_widen_a_pattern() {
    let rules = "pattern readwrite %u/#; pattern read by/%c; user root; topic readwrite #; topic readwrite $x/#";
    for (user, own) in [
        ("#", None),
        ("+", None),
        ("a/b", None),
        ("a/#", None),
        (".*", Some(".*/x")),
        ("$SYS", None),
        ("$x", None),
    ] {
        let own = own.map_or(String::new(), |own| {
            format!("a > 32 s'{own}' m9 [] 'own'\n a < 32 s'{own}' $own [] 'own' | 40 m9")
        });
        check_on(
            FILTERS,
            rules,
            &format!(
                "a connect v5 user={user}
                 a > 82 m1 [] s'#' 01 s'$x/#' 01
                 a < 90 m1 [] 01 01
                 p connect v5 user=root
                 p => 32 s'x' m1 [] '1' ; 32 s'x/y' m1 [] '2' ; 32 s'a/b' m1 [] '3' ; 32 s'a/b/c' m1 [] '4' ; 32 s'/x' m1 [] '5'
                 p => 32 s'$x/y' m1 [] '6' ; 32 s'by/z' m1 [] '7' ; 32 s'ab/x' m1 [] '8'
                 a > 32 s'x/y' m2 [] 'no' ; 32 s'a/b/c' m3 [] 'no' ; 32 s'$x/y' m4 [] 'no' ; 32 s'ab/x' m5 [] 'no'
                 a < 40 m2 87
                 a < 40 m3 87
                 a < 40 m4 87
                 a < 40 m5 87
                 {own}
                 a quiet"
            ),
        );
    }
}

#[test]
fn a4_a_client_id_with_wildcards_matches_no_pattern() {
    for id in ["#", "+", "a/b"] {
        check_on(
            FILTERS,
            "pattern readwrite by/%c/#; user root; topic readwrite #",
            &format!(
                "a connect v5 id={id}
                 a > 82 m1 [] s'#' 00
                 a < 90 m1 [] 00
                 a > 32 s'by/a/b' m1 [] 'no' ; 32 s'by/x' m2 [] 'no'
                 a < 40 m1 87
                 a < 40 m2 87
                 p connect v5 user=root
                 p => 32 s'by/a/b' m1 [] '1' ; 32 s'by/x' m1 [] '2'
                 a quiet
                 b connect v5 id=plain
                 b > 82 m1 [] s'by/plain/#' 00
                 b < 90 m1 [] 00
                 b > 30 s'by/plain/x' [] 'own'
                 b < 30 s'by/plain/x' [] 'own'
                 a quiet"
            ),
        );
    }
}

#[test]
fn a5_a_client_without_a_user_name_gets_nothing_out_of_a_pattern_with_one() {
    check_on(
        FILTERS,
        "pattern readwrite %u; pattern readwrite %u/#; pattern readwrite of/%c",
        "a connect v5 id=mine
         a > 82 m1 [] s'#' 00
         a < 90 m1 [] 00
         a > 32 s'u' m1 [] 'no' ; 32 s'/x' m2 [] 'no' ; 32 s'%u' m3 [] 'no' ; 32 s'of/mine' m4 [] 'yes'
         a < 40 m1 87
         a < 40 m2 87
         a < 40 m3 87
         a < 30 s'of/mine' [] 'yes' | 40 m4
         a quiet",
    );
}

#[test]
fn a6_a_file_without_rules_allows_nothing() {
    for rules in ["", "\n\n", "# nothing;# but comments", "user root"] {
        check_on(
            FILTERS,
            rules,
            "a connect v5 user=root
             a > 82 m1 [] s'#' 00
             a < 90 m1 [] 00
             a > 32 s'x' m1 [] 'no' ; 33 s'y' m2 [] 'no'
             a < 40 m1 87
             a < 40 m2 87
             a quiet",
        );
    }
}

#[test]
fn a6_a_file_that_is_missing_or_wrong_is_a_broker_that_does_not_start() {
    let directory = TemporaryDirectory::new("acl");
    std::fs::create_dir(directory.path()).unwrap();
    let file = directory.path().join("acl");
    let refused = |expected: &[&str]| {
        let output = std::process::Command::new(harness::binary())
            .args(["--ephemeral", "-c"])
            .arg(directory.path().join("toml"))
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(3), "{said}");
        for line in expected {
            assert!(said.contains(line), "no {line:?} in {said}");
        }
    };
    std::fs::write(
        directory.path().join("toml"),
        format!("acl_file = {file:?}\n"),
    )
    .unwrap();
    refused(&["Unable to open acl_file"]);
    std::fs::write(&file, "topic a\ntopic reed b\nuser\npattern a#\nbogus\n").unwrap();
    refused(&[
        "Error: Invalid topic access type \"reed\" in acl_file",
        ", line 2\n",
        "Error: Missing username in acl_file",
        ", line 3\n",
        "Error: Invalid ACL topic \"a#\" in acl_file",
        ", line 4\n",
        "Error: Invalid line in acl_file",
        ": bogus, line 5\n",
    ]);
}

/// CVE-2018-12550 was an empty file that allowed everything, CVE-2017-7652 a reload that left nothing of the rules.
#[test]
fn a6_at_a_reload_no_rules_allow_nothing_and_a_file_that_cannot_be_read_changes_nothing() {
    let directory = TemporaryDirectory::new("acl");
    std::fs::create_dir(directory.path()).unwrap();
    let file = directory.path().join("acl");
    std::fs::write(&file, "topic t\n").unwrap();
    let mut broker = Broker::options()
        .toml(&format!("acl_file = {file:?}\nshards = 1\n"))
        .start();
    let mut client = harness::Client::connect_v5(&broker, "c", "");
    let mut may_publish = || {
        client.send_words("32 07 s't' m1 00 'x'");
        client.receive_packet().get(4) != Some(&0x87)
    };
    let process_id = broker.process_id().and_then(|id| i32::try_from(id).ok());
    let process_id = process_id.and_then(rustix::process::Pid::from_raw).unwrap();
    let reload = |broker: &mut Broker, said: &str, times: usize| {
        rustix::process::kill_process(process_id, rustix::process::Signal::HUP).unwrap();
        harness::wait_until(said, harness::PATIENCE, || {
            broker.log().matches(said).count() == times
        });
    };
    assert!(may_publish());
    // Missing, and a directory, which root cannot read either.
    std::fs::remove_file(&file).unwrap();
    reload(&mut broker, "The config was not reloaded", 1);
    assert!(may_publish());
    std::fs::create_dir(&file).unwrap();
    reload(&mut broker, "The config was not reloaded", 2);
    assert!(may_publish());
    std::fs::remove_dir(&file).unwrap();
    std::fs::write(&file, "# nothing\n\n").unwrap();
    reload(&mut broker, "Config reloaded.", 1);
    assert!(!may_publish());
}

#[test]
fn a8_a_shared_subscription_is_judged_by_its_inner_filter() {
    let rules = "topic read a/#; user root; topic readwrite #";
    check(
        rules,
        "s connect v5
         s > 82 m1 [] s'$share/g/secret' 00 s'$share/g/#' 00 s'$share/a/+' 00 s'$share/g/a/#' 00
         s < 90 m1 [] 87 87 87 00
         p connect v5 user=root
         p => 30 s'secret' [] 'no' ; 30 s'a/b' [] 'yes'
         s < 30 s'a/b' [] 'yes'
         s quiet",
    );
    check_on(
        FILTERS,
        rules,
        "s connect v5
         s > 82 m1 [] s'$share/g/#' 01
         s < 90 m1 [] 01
         p connect v5 user=root
         p => 30 s'secret' [] 'no' ; 32 s'secret' m1 [] 'no' ; 34 s'secret' m1 [] 'no' ; 32 s'a/b' m1 [] 'yes'
         s < 32 s'a/b' $a [] 'yes'
         s quiet",
    );
}

/// What one member may not read goes to another, and is not lost.
#[test]
fn a8_a_share_group_gives_nobody_what_he_may_not_read() {
    check_on(
        FILTERS,
        "topic read a/#; user root; topic readwrite #",
        "r connect v5 user=root
         r > 82 m1 [] s'$share/g/#' 01
         r < 90 m1 [] 01
         s connect v5
         s > 82 m1 [] s'$share/g/#' 01
         s < 90 m1 [] 01
         p connect v5 user=root
         p => 32 s'x' m1 [] '1' ; 32 s'x' m1 [] '2' ; 32 s'x' m1 [] '3'
         r < 32 s'x' $a [] '1'
         r < 32 s'x' $b [] '2'
         r < 32 s'x' $c [] '3'
         s quiet",
    );
}

/// One who does not acknowledge, or is away, holds up nobody who may read something else.
#[test]
fn a8_what_waits_for_a_member_who_may_read_it_lets_others_pass() {
    check_on(
        FILTERS,
        "topic read a/#; user root; topic readwrite #",
        "r connect v5 user=root props(21 H1)
         r > 82 m1 [] s'$share/g/#' 01
         r < 90 m1 [] 01
         s connect v5
         s > 82 m1 [] s'$share/g/#' 01
         s < 90 m1 [] 01
         p connect v5 user=root
         p => 32 s'x' m1 [] '1' ; 32 s'x' m2 [] '2' ; 32 s'a/b' m3 [] '3' ; 32 s'x' m4 [] '4' ; 32 s'a/b' m5 [] '5'
         r < 32 s'x' $a [] '1'
         s < 32 s'a/b' $b [] '3'
         s < 32 s'a/b' $c [] '5'
         r > 40 $a
         r < 32 s'x' $d [] '2'
         r > 40 $d
         r < 32 s'x' $e [] '4'
         s quiet",
    );
}

#[test]
fn a9_a_filter_that_is_broader_than_the_rules_is_refused() {
    check(
        "topic read a/b; user root; topic readwrite #",
        "p connect v5 user=root
         p => 33 s'a/c' m1 [] 'retained' ; 33 s'a/b' m1 [] 'mine'
         s connect v5
         s > 82 m1 [] s'#' 00 s'+/+' 00 s'a/+' 00 s'a/#' 00 s'a/b/#' 00 s'$SYS/#' 00
         s < 90 m1 [] 87 87 87 87 87 87
         t connect v4
         t > 82 m1 s'#' 00 s'a/+' 01 s'a/b' 01
         t < 90 m1 80 80 01
         t < 33 s'a/b' $a 'mine'
         p => 30 s'a/c' [] 'no' ; 30 s'a/b' [] 'yes'
         t < 30 s'a/b' 'yes'
         s quiet
         t quiet",
    );
}

#[test]
fn a9_as_with_mosquitto_it_is_granted_and_filtered() {
    check_on(
        FILTERS,
        "topic read a/b; user root; topic readwrite #",
        "p connect v5 user=root
         p => 33 s'a/c' m1 [] 'retained' ; 33 s'a/b' m1 [] 'mine'
         s connect v4
         s > 82 m1 s'#' 00 s'+/+' 00 s'a/+' 01
         s < 90 m1 00 00 01
         s < 31 s'a/b' 'mine'
         s < 31 s'a/b' 'mine'
         s < 33 s'a/b' $a 'mine'
         p => 30 s'a/c' [] 'no' ; 30 s'x' [] 'no' ; 30 s'a/b' [] 'yes'
         s < 30 s'a/b' 'yes'
         s quiet",
    );
}

#[test]
fn a10_a_deny_wins_wherever_it_overlaps() {
    check(
        "topic deny a/+/secret; topic readwrite a/#; topic readwrite a/x/secret; user root; topic readwrite #",
        "p connect v5 user=root
         s connect v5
         s > 82 m1 [] s'a/#' 00 s'a/+/secret' 00 s'a/x/secret' 00
         s < 90 m1 [] 00 87 87
         p => 30 s'a/x/secret' [] 'no' ; 30 s'a/y/secret' [] 'no' ; 30 s'a/x/y' [] 'yes'
         s < 30 s'a/x/y' [] 'yes'
         s > 32 s'a/x/secret' m1 [] 'no' ; 32 s'a/x/secret/y' m2 [] 'yes'
         s < 40 m1 87
         s < 30 s'a/x/secret/y' [] 'yes' | 40 m2
         s quiet",
    );
}

#[test]
fn a11_the_brokers_own_topics_are_not_for_clients_whatever_the_rules_say() {
    check(
        "topic readwrite #; topic readwrite $SYS/#; topic readwrite $CONTROL/#; topic readwrite $share/#; topic readwrite $mine/#",
        "a connect v5
         a > 32 s'$SYS/broker/x' m1 [] 'x' ; 33 s'$SYS' m2 [] 'x' ; 32 s'$CONTROL/x' m3 [] 'x' ; 32 s'$share/a/b' m4 [] 'x'
         a < 40 m1 87
         a < 40 m2 87
         a < 40 m3 87
         a < 40 m4 87
         a > 82 m5 [] s'#' 00 s'$mine/#' 00 s'$other/#' 00
         a < 90 m5 [] 00 00 87
         a > 32 s'$other' m6 [] 'x' ; 32 s'$' m7 [] 'x' ; 32 s'$mine/x' m8 [] 'x'
         a < 40 m6 87
         a < 40 m7 87
         a < 30 s'$mine/x' [] 'x' | 40 m8
         a quiet",
    );
}

#[test]
fn a12_an_alias_is_judged_by_the_topic_it_stands_for_and_a_refused_publish_sets_none() {
    check(
        OK,
        "s connect v5 user=root
         s > 82 m1 [] s'#' 00
         s < 90 m1 [] 00
         a connect v5
         a > 32 s'ok/1' m1 [23 H1] 'one'
         a < 40 m1
         s < 30 s'ok/1' [] 'one'
         a > 32 s'no' m2 [23 H1] 'lost'
         a < 40 m2 87
         a > 32 s'' m3 [23 H1] 'two'
         a < 40 m3
         s < 30 s'ok/1' [] 'two'
         a > 32 s'no' m4 [23 H2] 'lost'
         a < 40 m4 87
         a > 32 s'' m5 [23 H2] 'lost'
         a close?
         s quiet",
    );
}

#[test]
fn a16_nothing_flows_along_a_subscription_that_was_refused() {
    check(
        "topic readwrite ok/#; user root; topic readwrite #",
        "p connect v5 user=root
         p => 33 s'no' m1 [] 'retained'
         s connect v5 props(11 L600)
         s > 82 m1 [] s'no' 01 s'ok/#' 01
         s < 90 m1 [] 87 01
         s quiet
         p => 32 s'no' m1 [] 'live' ; 32 s'ok/1' m1 [] 'a'
         s < 32 s'ok/1' $a [] 'a'
         s > 40 $a
         s bye
         p => 32 s'no' m1 [] 'queued' ; 32 s'ok/1' m1 [] 'b'
         stop
         s connect v5 clean=0 present=1 props(11 L600)
         s < 32 s'ok/1' $b [] 'b'
         s quiet",
    );
}

/// A15: from the signal on nobody is served by what was decided before; a file that is wrong changes nothing.
#[test]
fn a15_a_reload_takes_effect_for_who_is_connected() {
    let directory = TemporaryDirectory::new("acl");
    std::fs::create_dir(directory.path()).unwrap();
    let file = directory.path().join("acl");
    std::fs::write(&file, "topic t\n").unwrap();
    let mut broker = Broker::options()
        .toml(&format!(
            "acl_file = {file:?}\nacl_subscribe = \"mosquitto\"\nshards = 1\n"
        ))
        .start();
    let mut publisher = harness::Client::connect_v5(&broker, "p", "");
    let mut subscriber = harness::Client::connect_v5(&broker, "s", "");
    subscriber.send_words("82 07 m1 00 s't' 00");
    subscriber.expect("90 04 m1 00 00");
    let mut publish = |payload: &str| {
        publisher.send_words(&format!("32 07 s't' m1 00 '{payload}'"));
        publisher.receive_packet().get(4).copied().unwrap_or(0)
    };
    assert_eq!(publish("1"), 0);
    subscriber.expect("30 05 s't' 00 '1'");
    let process_id = broker.process_id().and_then(|id| i32::try_from(id).ok());
    let process_id = process_id.and_then(rustix::process::Pid::from_raw).unwrap();
    let reload = |rules: &str| {
        std::fs::write(&file, rules).unwrap();
        rustix::process::kill_process(process_id, rustix::process::Signal::HUP).unwrap();
    };
    reload("topic reed t\n");
    broker.wait_for_log("Invalid topic access type \"reed\"");
    assert_eq!(publish("2"), 0);
    subscriber.expect("30 05 s't' 00 '2'");
    let limit = harness::PATIENCE;
    reload("topic deny t\n");
    harness::wait_until("the publisher is refused", limit, || publish("3") == 0x87);
    reload("topic write t\n");
    harness::wait_until("the publisher is let in", limit, || publish("4") != 0x87);
    assert_ne!(publish("4"), 0x87);
    reload("topic t\n");
    subscriber.set_timeout(limit);
    harness::wait_until("the subscriber may read again", limit, || {
        assert_ne!(publish("5"), 0x87);
        subscriber.send_words("c0 00");
        let mut has_read = false;
        loop {
            let packet = subscriber.receive_packet();
            match packet.last() {
                Some(b'3') => {} // On its way before the signal.
                Some(b'4') => panic!("it was not to be read"),
                Some(b'5') => has_read = true,
                _ => return has_read,
            }
        }
    });
}

/// What the broker adds to a message is the broker's to add: a Subscription Identifier in a client's PUBLISH is a Protocol Error, and a
/// User Property is the publisher's whatever it is called, none of them added or taken away.
#[test]
fn a17_a_publisher_cannot_say_what_the_broker_says() {
    check(
        OK,
        "s connect v5 user=root
         s > 82 m1 [0b v7] s'ok/#' 01
         s < 90 m1 [] 01
         a connect v5
         a > 32 s'ok/1' m1 [0b v9] 'forged'
         a < e0 82
         a close
         b connect v5
         b => 32 s'ok/2' m1 [26 s'client_id' s'root' 26 s'username' s'root' 26 s'$SYS/user' s'root'] 'x'
         s < 32 s'ok/2' $a [26 s'client_id' s'root' 26 s'username' s'root' 26 s'$SYS/user' s'root' 0b v7] 'x'
         s quiet",
    );
}

/// Rules speak of whole topics, as in Mosquitto; a client cannot name one that is outside of its mount point.
#[test]
fn rules_are_about_topics_with_their_mount_point() {
    check_on(
        "allow_anonymous = true\n[[listeners]]\naddress = \"127.0.0.1:{port}\"\nmount_point = \"house/\"\n",
        "topic readwrite house/door; user root; topic readwrite #",
        "s connect v5 user=root
         s > 82 m1 [] s'#' 00
         s < 90 m1 [] 00
         a connect v5 will(door gone 0 0)
         a > 82 m1 [] s'door' 00 s'house/door' 00 s'$share/g/door' 00 s'$share/g/#' 00
         a < 90 m1 [] 00 87 00 87
         a > 32 s'door' m1 [] 'x'
         a < 40 m1 | 30 s'door' [] 'x' | 30 s'door' [] 'x'
         s < 30 s'door' [] 'x'
         a > 32 s'house/door' m2 [] 'no' ; 32 s'house/door' m3 [] 'no'
         a < 40 m2 87
         a < 40 m3 87
         a drop
         s < 30 s'door' [] 'gone'
         s quiet",
    );
}

#[test]
fn what_is_denied_is_logged_with_who_and_why_but_not_without_end() {
    let directory = TemporaryDirectory::new("acl");
    std::fs::create_dir(directory.path()).unwrap();
    let file = directory.path().join("acl");
    std::fs::write(&file, "topic read ok\n").unwrap();
    let mut broker = Broker::options()
        .toml(&format!("acl_file = {file:?}\n"))
        .start();
    let mut subscriber = harness::Client::connect_v5(&broker, "you", "");
    subscriber.send_words("82 08 m1 00 s'no' 00");
    subscriber.expect("90 04 m1 00 87");
    broker.wait_for_log("Denied SUBSCRIBE from you ('no'), user none, address 127.0.0.1:");
    let connect = harness::Connect::v5("me").username("us'er");
    let mut client = harness::Client::connect(&broker, &connect);
    for _ in 0..500 {
        client.send_words("32 08 s'no' m1 00 'x'");
        client.expect("40 03 m1 87");
    }
    broker.wait_for_log("Denied PUBLISH from me (d0, q1, r0, m1, 'no', ... (1 bytes)), user 'us\\'er', address 127.0.0.1:");
    let lines = broker.log().matches("Denied PUBLISH").count();
    assert!(lines <= 200, "{lines} lines for 500 refusals");
}

#[track_caller]
fn check(rules: &str, scenario: &str) {
    check_on("", rules, scenario);
}

#[track_caller]
fn check_on(toml: &str, rules: &str, scenario: &str) {
    play_with_rules(rules, toml, scenario);
}
