//! Topic Names, Topic Filters and matching: the standard's examples, and a slow matcher written another way.

mod common;

use nightjar_codec::topic::{
    levels, matches, parse_shared, validate_topic_filter, validate_topic_name,
};
use nightjar_codec::{ClientId, SharedFilter, TopicError, TopicFilter, TopicName};
use proptest::prelude::*;

/// 4.7.1, 4.7.2 and 4.7.3, as far as they give examples.
const MATCHING: &[(&str, &str, bool)] = &[
    ("sport/tennis/player1/#", "sport/tennis/player1", true),
    (
        "sport/tennis/player1/#",
        "sport/tennis/player1/ranking",
        true,
    ),
    (
        "sport/tennis/player1/#",
        "sport/tennis/player1/score/wimbledon",
        true,
    ),
    ("sport/tennis/player1/#", "sport/tennis/player10", false),
    ("sport/#", "sport", true),
    ("#", "a", true),
    ("#", "/", true),
    ("#", "/a", true),
    ("sport/tennis/+", "sport/tennis/player1", true),
    ("sport/tennis/+", "sport/tennis/player1/ranking", false),
    ("sport/+", "sport", false),
    ("sport/+", "sport/", true),
    ("+/+", "/finance", true),
    ("/+", "/finance", true),
    ("+", "/finance", false),
    ("+", "a", true),
    ("+/#", "a", true),
    ("+/#", "a/b/c", true),
    ("a/+/c", "a//c", true),
    ("a/+/c", "a/b/d", false),
    ("a/+/#", "a", false),
    ("a/b", "a/b/c", false),
    ("a/b/c", "a/b", false),
    ("a", "a/", false),
    ("a/", "a", false),
    ("/a", "a", false),
    ("A", "a", false),
    ("a//b", "a/b", false),
    ("é", "e\u{301}", false),
    // [MQTT-4.7.2-1]
    ("#", "$SYS/a", false),
    ("+/a", "$SYS/a", false),
    ("$SYS/#", "$SYS/a", true),
    ("$SYS/#", "$SYS", true),
    ("$SYS/monitor/+", "$SYS/monitor/Clients", true),
    ("a/#", "a/$SYS", true),
    ("a/+", "a/$SYS", true),
];

#[test]
fn mqtt_4_7_examples_match_as_the_standard_says() {
    for &(filter, topic, expected) in MATCHING {
        assert_eq!(matches(filter, topic), expected, "{filter} {topic}");
        assert_eq!(
            slow_match(filter, topic),
            expected,
            "slow: {filter} {topic}"
        );
    }
}

proptest! {
    #![proptest_config(common::cases(5_000))]

    #[test]
    fn matching_agrees_with_a_slow_matcher(
        filter in "(\\$|[ab]{0,2}|\\+)(/(\\$|[ab]{0,2}|\\+)){0,5}(/#)?",
        topic in "\\$?[ab]{0,2}(/\\$?[ab]{0,2}){0,5}",
    ) {
        prop_assert_eq!(matches(&filter, &topic), slow_match(&filter, &topic));
    }

    #[test]
    fn a_name_matches_itself_and_all_prefixes_with_a_hash(topic in common::topic_name()) {
        prop_assert!(matches(&topic, &topic));
        for (at, _) in topic.match_indices('/').filter(|&(at, _)| at > 0) {
            let filter = format!("{}/#", &topic[..at]);
            prop_assert!(matches(&filter, &topic));
        }
    }

    #[test]
    fn generated_topics_are_valid(name in common::topic_name(), filter in common::topic_filter()) {
        prop_assert_eq!(validate_topic_name(&name), Ok(()));
        prop_assert_eq!(validate_topic_filter(&filter), Ok(()));
    }
}

#[test]
fn sixty_five_thousand_slashes_are_a_topic() {
    let slashes = "/".repeat(65_535);
    let hash = "/".repeat(65_534) + "#";
    assert_eq!(validate_topic_name(&slashes), Ok(()));
    assert_eq!(validate_topic_filter(&hash), Ok(()));
    assert_eq!(levels(&slashes), 65_536);
    assert!(matches(&slashes, &slashes));
    assert!(matches(&hash, &slashes));
    assert!(matches(&("+/".repeat(32_767) + "#"), &slashes));
    assert_eq!(
        validate_topic_name(&(slashes + "/")),
        Err(TopicError::TooLong)
    );
}

#[test]
fn mqtt_4_7_3_names_and_filters_are_checked() {
    use TopicError::{Empty, ForbiddenCharacter, MisplacedWildcard, WildcardInTopicName};
    for (name, expected) in [
        ("a", Ok(())),
        ("/", Ok(())),
        ("a b", Ok(())),
        ("\u{feff}", Ok(())),
        ("𪛔", Ok(())),
        ("", Err(Empty)),
        ("a\0", Err(ForbiddenCharacter)),
        ("a\u{1}", Err(ForbiddenCharacter)),
        ("a\u{1f}", Err(ForbiddenCharacter)),
        ("a\u{7f}", Err(ForbiddenCharacter)),
        ("a\u{9f}", Err(ForbiddenCharacter)),
        ("a\u{ffff}", Err(ForbiddenCharacter)),
        ("a\u{fdd0}", Err(ForbiddenCharacter)),
        ("a+", Err(WildcardInTopicName)),
        ("#", Err(WildcardInTopicName)),
    ] {
        assert_eq!(TopicName::parse(name).map(drop), expected, "{name:?}");
    }
    for (filter, expected) in [
        ("#", Ok(())),
        ("+", Ok(())),
        ("+/+/#", Ok(())),
        ("/#", Ok(())),
        ("a//b", Ok(())),
        ("", Err(Empty)),
        ("a#", Err(MisplacedWildcard)),
        ("#/", Err(MisplacedWildcard)),
        ("a/#/b", Err(MisplacedWildcard)),
        ("+a", Err(MisplacedWildcard)),
        ("a+/b", Err(MisplacedWildcard)),
        ("a/++", Err(MisplacedWildcard)),
        ("a\0", Err(ForbiddenCharacter)),
    ] {
        assert_eq!(TopicFilter::parse(filter).map(drop), expected, "{filter:?}");
    }
    assert_eq!(ClientId::parse("").map(drop), Err(Empty));
    assert_eq!(ClientId::parse("c 1").unwrap().as_str(), "c 1");
}

#[test]
fn mqtt_4_8_2_shared_subscriptions_are_taken_apart() {
    let shared = |filter| SharedFilter::parse(filter).unwrap();
    assert_eq!(shared("a/b"), None);
    assert_eq!(shared("$shared/b"), None);
    assert_eq!(shared("a/$share/b"), None);
    for (filter, share_name, topic_filter) in [
        ("$share/g/a", "g", "a"),
        ("$share/g//", "g", "/"),
        ("$share/g/+/#", "g", "+/#"),
        ("$share/g/$SYS/#", "g", "$SYS/#"),
    ] {
        let expected = SharedFilter {
            share_name,
            topic_filter,
        };
        assert_eq!(shared(filter), Some(expected), "{filter}");
    }
    for filter in [
        "$share",
        "$share/",
        "$share/g",
        "$share/g/",
        "$share//t",
        "$share/+/t",
        "$share/g#/t",
        "$share/g/a#",
    ] {
        assert!(parse_shared(filter).is_err(), "{filter}");
    }
}

/// Level by level, on vectors.
fn slow_match(filter: &str, topic: &str) -> bool {
    let filter: Vec<_> = filter.split('/').collect();
    let topic: Vec<_> = topic.split('/').collect();
    if topic[0].starts_with('$') && ["+", "#"].contains(&filter[0]) {
        return false;
    }
    let (fixed, open) = match filter.split_last() {
        Some((&"#", fixed)) => (fixed, true),
        _ => (&filter[..], false),
    };
    let enough = if open {
        topic.len() >= fixed.len()
    } else {
        topic.len() == fixed.len()
    };
    enough
        && fixed
            .iter()
            .zip(&topic)
            .all(|(filter, topic)| *filter == "+" || filter == topic)
}
