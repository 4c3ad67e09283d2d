//! What share groups decide: turns, windows, what comes back, and members who may not read the same.

use super::*;
use crate::session::authorize::{Access, Entry};
use nightjar_codec::RetainHandling;

const LIMITS: QueueLimits = QueueLimits {
    messages_max: 0,
    bytes_max: 0,
    total_bytes_max: 0,
    policy: QueuePolicy::Refuse,
};

fn id(slot: u32) -> SessionId {
    SessionId {
        shard: 0,
        slot,
        generation: 0,
    }
}

fn group() -> Arc<ShareGroup> {
    Arc::new(ShareGroup::new(GroupId(1), "g", "t"))
}

fn join(
    group: &Arc<ShareGroup>,
    slot: u32,
    window: Option<u32>,
    totals: &QueueTotals,
) -> Vec<Assignment> {
    let receiver = Arc::new(Receiver::new("c".into(), true));
    group
        .join(id(slot), &subscription(), &receiver, window, totals)
        .expect("the group is open")
}

fn subscription() -> Subscription {
    Subscription {
        qos: QoS::AtLeastOnce,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::Send,
        subscription_identifier: None,
        group: None,
    }
}

fn offer(group: &Arc<ShareGroup>, payload: &[u8], totals: &QueueTotals) -> Option<u32> {
    match group.offer(
        &MessageRef::new("t", payload, &[], QoS::AtLeastOnce),
        totals,
        &LIMITS,
    ) {
        Offer::Assigned(assignment) => Some(assignment.session.slot),
        Offer::Queued { .. } | Offer::NoMember | Offer::Dropped => None,
    }
}

#[test]
fn members_take_turns_and_the_offline_ones_are_left_out() {
    let (group, totals) = (group(), QueueTotals::default());
    join(&group, 1, Some(10), &totals);
    join(&group, 2, None, &totals);
    join(&group, 3, Some(10), &totals);
    let turns: Vec<_> = (0..4).map(|_| offer(&group, b"x", &totals)).collect();
    assert_eq!(turns, [Some(1), Some(3), Some(1), Some(3)]);
}

#[test]
fn a_message_waits_until_a_window_opens() {
    let (group, totals) = (group(), QueueTotals::default());
    join(&group, 1, Some(1), &totals);
    assert_eq!(offer(&group, b"1", &totals), Some(1));
    assert_eq!(offer(&group, b"2", &totals), None);
    assert_eq!(group.queued(), 1);
    let next = group.finished(id(1), &totals);
    assert_eq!(
        next.iter()
            .map(|next| &*next.message.payload)
            .collect::<Vec<_>>(),
        [b"2"]
    );
    assert_eq!(totals.messages(), 0);
}

#[test]
fn what_a_member_leaves_goes_to_another_in_front_of_what_waits() {
    let (group, totals) = (group(), QueueTotals::default());
    join(&group, 1, Some(1), &totals);
    offer(&group, b"1", &totals);
    offer(&group, b"2", &totals);
    let first = Arc::new(StoredMessage {
        message_id: 0,
        topic: "t".into(),
        payload: bytes::Bytes::from_static(b"1"),
        properties: bytes::Bytes::new(),
        qos: QoS::AtLeastOnce,
        retain: false,
        expires_at: None,
        sequence: 0,
        publisher: None,
        publisher_user: None,
    });
    assert!(
        group
            .gone(id(1), false, [first].into_iter(), &totals)
            .given
            .is_empty()
    );
    let given = join(&group, 2, Some(5), &totals);
    assert_eq!(
        given
            .iter()
            .map(|given| &*given.message.payload)
            .collect::<Vec<_>>(),
        [b"1", b"2"]
    );
}

fn message(message_id: MessageId) -> Arc<StoredMessage> {
    let mut message = MessageRef::new("t", b"x", &[], QoS::AtLeastOnce);
    message.message_id = message_id;
    Arc::clone(message.stored())
}

fn slots(decided: &Decided) -> Vec<u32> {
    let given = decided.given.iter();
    given.map(|given| given.session.slot).collect()
}

#[test]
fn what_is_accepted_is_shown_to_nobody_before_it_is_handed_in() {
    let (group, totals) = (group(), QueueTotals::default());
    join(&group, 1, Some(1), &totals);
    let stored = message(7);
    let cost = stored_cost(&stored);
    assert_eq!(group.accept("t", cost, &totals, &LIMITS), Acceptance::Taken);
    assert!(group.finished(id(1), &totals).is_empty());
    assert!(join(&group, 2, Some(1), &totals).is_empty());
    assert_eq!(totals.messages(), 1);
    assert_eq!(slots(&group.hand_in(stored, &totals, &LIMITS)), [1]);
    assert_eq!(totals.messages(), 0);
}

#[test]
fn what_is_accepted_takes_room_unless_a_member_has_some() {
    let (group, totals) = (group(), QueueTotals::default());
    let limits = QueueLimits {
        messages_max: 1,
        ..LIMITS
    };
    assert_eq!(group.accept("t", 1, &totals, &limits), Acceptance::NoMember);
    join(&group, 1, None, &totals);
    assert_eq!(group.accept("t", 1, &totals, &limits), Acceptance::Taken);
    assert_eq!(group.accept("t", 1, &totals, &limits), Acceptance::NoRoom);
    join(&group, 2, Some(5), &totals);
    assert_eq!(group.accept("t", 1, &totals, &limits), Acceptance::Taken);
}

#[test]
fn the_last_member_leaves_and_everything_is_named_that_nobody_will_get() {
    let (group, totals) = (group(), QueueTotals::default());
    join(&group, 1, None, &totals);
    let accept = || group.accept("t", stored_cost(&message(1)), &totals, &LIMITS);
    for message_id in [1, 2] {
        assert_eq!(accept(), Acceptance::Taken);
        let decided = group.hand_in(message(message_id), &totals, &LIMITS);
        assert!(decided.given.is_empty() && decided.dropped.is_empty());
    }
    assert_eq!(accept(), Acceptance::Taken);
    let decided = group.gone(id(1), true, [message(9)].into_iter(), &totals);
    assert_eq!(decided.dropped, [9, 1, 2]);
    // Late for a group that is empty, or closed since.
    assert!(group.close_if_empty());
    let decided = group.hand_in(message(3), &totals, &LIMITS);
    assert_eq!(decided.dropped, [3]);
    assert_eq!((totals.messages(), totals.bytes()), (0, 0));
}

#[test]
fn with_drop_oldest_what_is_handed_in_takes_the_place_of_what_waits_longest() {
    let (group, totals) = (group(), QueueTotals::default());
    let limits = QueueLimits {
        messages_max: 1,
        policy: QueuePolicy::DropOldest,
        ..LIMITS
    };
    join(&group, 1, None, &totals);
    let mut dropped = Vec::new();
    for message_id in 1..=3 {
        let stored = message(message_id);
        let accepted = group.accept("t", stored_cost(&stored), &totals, &limits);
        assert_eq!(accepted, Acceptance::Taken);
        dropped.extend(group.hand_in(stored, &totals, &limits).dropped);
    }
    assert_eq!((dropped, group.queued()), (vec![1, 2], 1));
}

/// A member that may read what the rules say of a user.
fn join_with(
    group: &Arc<ShareGroup>,
    slot: u32,
    rules: &str,
    window: Option<u32>,
    totals: &QueueTotals,
) -> (Arc<Receiver>, Vec<Assignment>) {
    let receiver = Arc::new(Receiver::new("c".into(), true));
    receiver.set_access(access(rules));
    let given = group.join(id(slot), &subscription(), &receiver, window, totals);
    (receiver, given.expect("the group is open"))
}

fn access(rules: &str) -> Option<Arc<Access>> {
    let rules = nightjar_acl::Rules::parse("acl", rules.as_bytes()).unwrap();
    let entry = Entry {
        address: None,
        certificate: None,
        listener: Arc::default(),
    };
    Access::find(Some(&Arc::new(rules)), None, "c", &entry)
}

/// Publishes to a topic; gives the members that were given something, with its topic.
fn offer_to(
    group: &Arc<ShareGroup>,
    topic: &str,
    payload: &[u8],
    totals: &QueueTotals,
) -> Vec<(u32, String)> {
    let message = MessageRef::new(topic, payload, &[], QoS::AtLeastOnce);
    match group.offer(&message, totals, &LIMITS) {
        Offer::Assigned(assignment) => told(&[assignment]),
        Offer::Queued { given, .. } => told(&given),
        Offer::NoMember | Offer::Dropped => Vec::new(),
    }
}

fn told(given: &[Assignment]) -> Vec<(u32, String)> {
    let told = |given: &Assignment| {
        let payload = String::from_utf8_lossy(&given.message.payload);
        let text = format!("{} {payload}", given.message.topic);
        (given.session.slot, text)
    };
    given.iter().map(told).collect()
}

fn to(slot: u32, text: &str) -> (u32, String) {
    (slot, text.to_owned())
}

#[test]
fn what_waits_for_a_member_who_may_read_it_holds_up_nobody_else() {
    let (group, totals) = (group(), QueueTotals::default());
    // The first may read everything and is away, or has no room; the second may read b only.
    join_with(&group, 1, "topic read #", None, &totals);
    join_with(&group, 2, "topic read b", Some(10), &totals);
    assert_eq!(offer_to(&group, "a", b"1", &totals), []);
    assert_eq!(offer_to(&group, "b", b"2", &totals), [to(2, "b 2")]);
    let accepted = group.accept("b", 1, &totals, &LIMITS);
    assert_eq!(accepted, Acceptance::Taken);
    let mut message = MessageRef::new("b", b"3", &[], QoS::AtLeastOnce);
    message.message_id = 3;
    let decided = group.hand_in(Arc::clone(message.stored()), &totals, &LIMITS);
    assert_eq!(told(&decided.given), [to(2, "b 3")]);
    assert_eq!(group.queued(), 1);
    let given = group.online(id(1), 1, true, &totals);
    assert_eq!(told(&given), [to(1, "a 1")]);
    // Its window is full, and it says no more.
    assert_eq!(offer_to(&group, "a", b"4", &totals), []);
    assert_eq!(offer_to(&group, "b", b"5", &totals), [to(2, "b 5")]);
    assert_eq!(told(&group.finished(id(1), &totals)), [to(1, "a 4")]);
    assert_eq!((group.queued(), totals.messages()), (0, 0));
}

#[test]
fn a_full_queue_for_one_member_refuses_nothing_that_another_takes_at_once() {
    let (group, totals) = (group(), QueueTotals::default());
    let limits = QueueLimits {
        messages_max: 1,
        ..LIMITS
    };
    join_with(&group, 1, "topic read a", None, &totals);
    join_with(&group, 2, "topic read b", Some(10), &totals);
    assert_eq!(group.accept("a", 1, &totals, &limits), Acceptance::Taken);
    assert_eq!(group.accept("a", 1, &totals, &limits), Acceptance::NoRoom);
    assert_eq!(group.accept("b", 1, &totals, &limits), Acceptance::Taken);
}

#[test]
fn each_topic_keeps_its_order_whoever_has_room_when() {
    let (group, totals) = (group(), QueueTotals::default());
    join_with(&group, 1, "topic read a\ntopic read b", None, &totals);
    join_with(&group, 2, "topic read b\ntopic read c", None, &totals);
    for (topic, payload) in [
        ("a", b"1"),
        ("b", b"2"),
        ("c", b"3"),
        ("a", b"4"),
        ("c", b"5"),
    ] {
        assert_eq!(offer_to(&group, topic, payload, &totals), []);
    }
    let given = group.online(id(2), 2, true, &totals);
    assert_eq!(told(&given), [to(2, "b 2"), to(2, "c 3")]);
    // It goes, and gives back what it has not acknowledged: that comes first again.
    let returned: Vec<_> = given.into_iter().map(|given| given.message).collect();
    let decided = group.gone(id(2), false, returned.into_iter(), &totals);
    assert!(decided.given.is_empty());
    let given = group.online(id(1), 10, true, &totals);
    assert_eq!(told(&given), [to(1, "b 2"), to(1, "a 1"), to(1, "a 4")]);
    let given = group.online(id(2), 10, true, &totals);
    assert_eq!(told(&given), [to(2, "c 3"), to(2, "c 5")]);
    assert_eq!((group.queued(), totals.messages()), (0, 0));
}

#[test]
fn other_rights_and_the_last_who_may_read_it_leaving_are_noticed() {
    let (group, totals) = (group(), QueueTotals::default());
    let (_, _) = join_with(&group, 1, "topic read a", None, &totals);
    let (second, _) = join_with(&group, 2, "topic read b", Some(10), &totals);
    assert_eq!(offer_to(&group, "a", b"1", &totals), []);
    assert_eq!(offer_to(&group, "b", b"2", &totals), [to(2, "b 2")]);
    second.set_access(access("topic read a"));
    assert_eq!(told(&group.rights_changed(&totals)), [to(2, "a 1")]);
    second.set_access(access("topic read b"));
    assert_eq!(offer_to(&group, "a", b"3", &totals), []);
    // Nobody may read it any more: whoever is there gets it, and its session drops it.
    let decided = group.gone(id(1), true, std::iter::empty(), &totals);
    assert_eq!(told(&decided.given), [to(2, "a 3")]);
    assert_eq!(group.queued(), 0);
}
