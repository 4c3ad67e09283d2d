//! UNSUBSCRIBE and UNSUBACK: what is removed, and what still comes.

use crate::scenario::{SharedBroker, play};

static BROKER: SharedBroker = SharedBroker::plain();
static WITH_REASONS: SharedBroker = SharedBroker::with("reason_strings = true\n", &[]);

#[test]
fn mqtt_3_10_1_1_unsubscribe_flags_are_0010() {
    for first in ["a0", "a1", "a3", "a4", "a6", "aa"] {
        check(&format!(
            "a connect v5\n a > {first} m1 [] s'{{t}}'\n a < e0 81\n a close"
        ));
    }
}

#[test]
fn v3_mqtt_3_10_1_1_unsubscribe_flags_are_0010() {
    for first in ["a0", "a1", "a3", "a4", "a6", "aa"] {
        check(&format!("a connect v4\n a > {first} m1 s'{{t}}'\n a close"));
    }
}

#[test]
fn mqtt_3_10_3_1_filters_are_strings() {
    for filter in ["s2 c328", "s3 eda080", "s3 610062"] {
        check(&format!(
            "a connect v5\n a > a2 m1 [] {filter}\n a < e0 81\n a close"
        ));
    }
}

#[test]
fn v3_mqtt_3_10_3_1_filters_are_strings() {
    for filter in ["s2 c328", "s3 eda080"] {
        check(&format!("a connect v4\n a > a2 m1 {filter}\n a close"));
    }
}

/// 0x81 where the standard says protocol error, as the byte-exact exchanges demand (D20).
#[test]
fn mqtt_3_10_3_2_an_unsubscribe_without_filters_closes() {
    check("a connect v5\n a > a2 m1 []\n a < e0 81\n a close");
}

#[test]
fn v3_mqtt_3_10_3_2_an_unsubscribe_without_filters_closes() {
    check("a connect v4\n a > a2 m1\n a close");
}

/// The share name is part of the filter.
#[test]
fn mqtt_3_10_4_1_only_the_very_same_filter_is_removed() {
    check(
        "s connect v5
         s > 82 m1 [] s'{t}/a' 00 s'{t}/+' 00 s'$share/g/{t}/a' 00
         s < 90 m1 [] 00 00 00
         s > a2 m2 [] s'{t}/A' s'{t}/#' s'{t}/a/' s'$share/h/{t}/a' s'{t}/a' s'{t}/a'
         s < b0 m2 [] 11 11 11 11 00 11
         p connect v5
         p > 30 s'{t}/b' [] 'plus'
         s < 30 s'{t}/b' [] 'plus'
         s > a2 m3 [] s'{t}/+'
         s < b0 m3 [] 00
         p > 30 s'{t}/a' [] 'shared'
         s < 30 s'{t}/a' [] 'shared'
         s > a2 m4 [] s'$share/g/{t}/a'
         s < b0 m4 [] 00
         p > 30 s'{t}/a' [] 'none'
         p quiet
         s quiet",
    );
}

#[test]
fn v3_mqtt_3_10_4_1_only_the_very_same_filter_is_removed() {
    check(
        "s connect v4
         s > 82 m1 s'{t}/a' 00 s'{t}/b' 00
         s < 90 m1 00 00
         s > a2 m2 s'{t}/A' s'{t}/+' s'{t}/a/'
         s < b0 m2
         p connect v4
         p > 30 s'{t}/a' 'x'
         s < 30 s'{t}/a' 'x'
         s > a2 m3 s'{t}/a'
         s < b0 m3
         p > 30 s'{t}/a' 'no' ; 30 s'{t}/b' 'yes'
         s < 30 s'{t}/b' 'yes'",
    );
}

#[test]
fn mqtt_3_10_4_2_nothing_new_after_unsubscribe() {
    check(
        "s connect v5
         s > 82 m1 [] s'{t}/a' 01 s'{t}/b' 01
         s < 90 m1 [] 01 01
         s > a2 m2 [] s'{t}/a'
         s < b0 m2 [] 00
         p connect v5
         p => 32 s'{t}/a' m1 [] 'no' ; 32 s'{t}/b' m2 [] 'yes'
         s < 32 s'{t}/b' $a [] 'yes'
         s quiet",
    );
}

#[test]
fn v3_mqtt_3_10_4_2_nothing_new_after_unsubscribe() {
    check(
        "s connect v4
         s > 82 m1 s'{t}/a' 01 s'{t}/b' 01
         s < 90 m1 01 01
         s > a2 m2 s'{t}/a'
         s < b0 m2
         p connect v4
         p => 32 s'{t}/a' m1 'no' ; 32 s'{t}/b' m2 'yes'
         s < 32 s'{t}/b' $a 'yes'
         s quiet",
    );
}

#[test]
fn mqtt_3_10_4_3_what_was_sent_is_finished() {
    check(
        "s connect v5 clean=0 props(11 L60)
         s > 82 m1 [] s'{t}' 02
         s < 90 m1 [] 02
         p connect v5
         p => 34 s'{t}' m1 [] 'x'
         s < 34 s'{t}' $a [] 'x'
         s > a2 m2 [] s'{t}'
         s < b0 m2 [] 00
         s drop
         s connect v5 clean=0 present=1 props(11 L60)
         s < 3c s'{t}' $a [] 'x'
         s > 50 $a
         s < 62 $a
         s > 70 $a
         s quiet",
    );
}

#[test]
fn v3_mqtt_3_10_4_3_what_was_sent_is_finished() {
    check(
        "s connect v4 clean=0
         s > 82 m1 s'{t}' 01
         s < 90 m1 01
         p connect v4
         p => 32 s'{t}' m1 'x'
         s < 32 s'{t}' $a 'x'
         s > a2 m2 s'{t}'
         s < b0 m2
         s drop
         s connect v4 clean=0 present=1
         s < 3a s'{t}' $a 'x'
         s > 40 $a
         s quiet",
    );
}

#[test]
fn mqtt_3_10_4_4_unsubscribe_is_answered() {
    check(
        "a connect v5\n a > 82 m1 [] s'{t}' 00\n a < 90 m1 [] 00\n a > a2 m2 [] s'{t}'\n a < b0 m2 [] 00",
    );
}

#[test]
fn v3_mqtt_3_10_4_4_unsubscribe_is_answered_with_its_id() {
    check("a connect v4\n a > 82 m1 s'{t}' 00\n a < 90 m1 00\n a > a2 m4660 s'{t}'\n a < b0 m4660");
}

#[test]
fn mqtt_3_10_4_5_unsuback_comes_also_if_nothing_was_removed() {
    check("a connect v5\n a > a2 m4660 [] s'{t}'\n a < b0 m4660 [] 11");
}

#[test]
fn v3_mqtt_3_10_4_5_unsuback_comes_also_if_nothing_was_removed() {
    check("a connect v4\n a > a2 m4660 s'{t}'\n a < b0 m4660");
}

#[test]
fn mqtt_3_10_4_6_several_filters_are_removed_with_one_answer() {
    check(
        "s connect v5
         s > 82 m1 [] s'{t}/a' 00 s'{t}/b' 00 s'{t}/c' 00
         s < 90 m1 [] 00 00 00
         s > a2 m2 [] s'{t}/a' s'{t}/x' s'{t}/b'
         s < b0 m2 [] 00 11 00
         p connect v5
         p > 30 s'{t}/a' [] 'no' ; 30 s'{t}/b' [] 'no' ; 30 s'{t}/c' [] 'yes'
         s < 30 s'{t}/c' [] 'yes'",
    );
}

#[test]
fn v3_mqtt_3_10_4_6_several_filters_are_removed_with_one_answer() {
    check(
        "s connect v4
         s > 82 m1 s'{t}/a' 00 s'{t}/b' 00 s'{t}/c' 00
         s < 90 m1 00 00 00
         s > a2 m2 s'{t}/a' s'{t}/x' s'{t}/b'
         s < b0 m2
         p connect v4
         p > 30 s'{t}/a' 'no' ; 30 s'{t}/b' 'no' ; 30 s'{t}/c' 'yes'
         s < 30 s'{t}/c' 'yes'",
    );
}

#[test]
fn mqtt_3_11_2_1_unsuback_has_no_text_that_does_not_fit() {
    play(
        &WITH_REASONS,
        "a connect v5 props(27 L16)\n a > a2 m1 [] s'{t}'\n a < b0 m1 [] 11",
    );
}

#[test]
fn mqtt_3_11_2_2_unsuback_has_no_user_properties_that_do_not_fit() {
    play(
        &WITH_REASONS,
        "a connect v5 props(27 L16)\n a > a2 m1 [26 s'k' s'v'] s'{t}'\n a < b0 m1 [] 11",
    );
}

#[test]
fn mqtt_3_11_3_1_codes_are_in_the_order_of_the_filters() {
    check(
        "a connect v5
         a > 82 m1 [] s'{t}/b' 00 s'{t}/d' 00
         a < 90 m1 [] 00 00
         a > a2 m2 [] s'{t}/d' s'{t}/c' s'{t}/b' s'{t}/a'
         a < b0 m2 [] 00 11 00 11",
    );
}

#[test]
fn mqtt_3_11_3_2_unsuback_uses_the_codes_of_its_table() {
    check("a connect v5\n a > a2 m2 [] s'{t}' s'#'\n a < b0 m2 [] 11 11");
}

#[track_caller]
fn check(scenario: &str) {
    play(&BROKER, scenario);
}
