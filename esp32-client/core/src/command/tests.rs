//! What is answered to which message, and what is done.

use std::format;
use std::string::String;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::time::Instant;

const NOW: Now = Now {
    monotonic: Instant::from_millis(5_000),
    wall: Some(1_795_276_800_000),
};

#[test]
fn a_command_is_acknowledged_and_its_result_told() {
    let mut device = Bench::new();
    let answers = device.hear(r#"{"id":7,"believerGuarantee":"RECEIPT_CONFIRMATION","command":"digitalWrite","currentTimestamp":1795276799000,"data":{"pinNumber":13,"pinValue":true}}"#);
    assert_eq!(
        answers,
        [
            r#"{"id":7,"deliveryStatus":"DELIVERED"}"#,
            r#"{"id":7,"deliveryStatus":"COMPLETED"}"#
        ]
    );
    assert_eq!(device.board.done, [(13, true)]);
}

#[test]
fn names_of_other_systems_are_understood() {
    let mut device = Bench::new();
    let answers = device.hear(r#"{"command_id":"c-1","action":"digitalWrite","expires_at":"2026-11-21T16:00:01Z","params":{"pinNumber":2,"pinValue":0}}"#);
    assert_eq!(
        answers.last().unwrap(),
        r#"{"id":"c-1","deliveryStatus":"COMPLETED"}"#
    );
    assert_eq!(device.board.done, [(2, false)]);
}

#[test]
fn a_command_that_fails_says_why() {
    let mut device = Bench::new();
    for (data, reason) in [
        (
            r#""digitalWrite","data":{"pinNumber":99,"pinValue":true}"#,
            "no such pin",
        ),
        (
            r#""digitalWrite","data":{"pinNumber":1}"#,
            "expected pinNumber and pinValue",
        ),
        (
            r#""digitalWrite","data":{"pinNumber":300,"pinValue":true}"#,
            "expected pinNumber and pinValue",
        ),
        (
            r#""digitalWrite","data":{"pinNumber":1,"pinValue":2}"#,
            "expected true or false",
        ),
        (r#""selfDestruct""#, "unknown command"),
    ] {
        device.next += 1;
        let answers = device.hear(&format!(r#"{{"id":{},"command":{data}}}"#, device.next));
        let expected = format!(
            r#"{{"id":{},"deliveryStatus":"COMPLETED_WITH_ERROR","reason":"{reason}"}}"#,
            device.next
        );
        assert_eq!(answers.last(), Some(&expected));
    }
    assert_eq!(device.commands.tally().failed, 5);
    assert!(device.board.done.is_empty());
}

#[test]
fn a_duplicate_is_answered_with_what_became_of_it_and_not_done_again() {
    let mut device = Bench::new();
    device.hear(&write(7, 13));
    assert_eq!(
        device.hear(&write(7, 13)),
        [r#"{"id":7,"deliveryStatus":"COMPLETED","refused":"duplicate"}"#]
    );
    device.hear(&write(8, 99));
    assert_eq!(
        device.hear(&write(8, 99)),
        [r#"{"id":8,"deliveryStatus":"COMPLETED_WITH_ERROR","refused":"duplicate"}"#]
    );
    assert_eq!(device.board.done.len(), 1);
    assert_eq!(device.commands.tally().duplicate, 2);
}

#[test]
fn only_so_many_ids_are_remembered_the_oldest_forgotten_first() {
    let mut device = Bench::new();
    for id in 1..=5 {
        device.hear(&write(id, 1));
    }
    assert_eq!(device.commands.remembered.len(), 4);
    device.hear(&write(5, 1));
    assert_eq!(device.board.done.len(), 5, "remembered");
    device.hear(&write(1, 1));
    assert_eq!(device.board.done.len(), 6, "forgotten");
}

#[test]
fn a_late_command_is_refused() {
    let mut device = Bench::new();
    let late = |id: u64, member: &str| {
        format!(
            r#"{{"id":{id},"command":"digitalWrite",{member},"data":{{"pinNumber":1,"pinValue":true}}}}"#
        )
    };
    let expired = |id: u64| {
        format!(r#"{{"id":{id},"deliveryStatus":"COMPLETED_WITH_ERROR","refused":"expired"}}"#)
    };
    for (id, member) in [
        (1, r#""expiresAt":1795276800000"#),
        (2, r#""expires_at":"2026-11-21T15:59:59Z""#),
        (3, r#""expires_at":"soon""#),
        (4, r#""currentTimestamp":1795276700000"#),
    ] {
        assert_eq!(device.hear(&late(id, member)), [expired(id)], "{member}");
    }
    assert!(device.board.done.is_empty());
    let in_time = [
        (5, r#""expiresAt":1795276800001"#),
        (6, r#""currentTimestamp":1795276770000"#),
        // A clock that runs ahead is not late.
        (7, r#""currentTimestamp":18446744073709551615"#),
    ];
    for (id, member) in in_time {
        assert_eq!(device.hear(&late(id, member)).len(), 2, "{member}");
    }
}

#[test]
fn without_a_clock_nothing_that_expires_is_done() {
    let mut device = Bench::new();
    device.now.wall = None;
    let answers = device.hear(r#"{"id":1,"command":"digitalWrite","expires_at":1,"data":{"pinNumber":1,"pinValue":true}}"#);
    assert_eq!(
        answers,
        [r#"{"id":1,"deliveryStatus":"COMPLETED_WITH_ERROR","refused":"clock unknown"}"#]
    );
    assert_eq!(
        device.hear(&write(2, 1)).len(),
        2,
        "what does not expire is done"
    );
}

#[test]
fn a_retained_command_is_refused() {
    let mut device = Bench::new();
    let answers = device
        .commands
        .handle(write(1, 1).as_bytes(), true, NOW, &mut device.board);
    assert_eq!(
        texts(answers),
        [r#"{"id":1,"deliveryStatus":"COMPLETED_WITH_ERROR","refused":"retained"}"#]
    );
    assert!(device.board.done.is_empty());
}

#[test]
fn where_nobody_waits_nothing_is_answered() {
    let mut device = Bench::new();
    let answers = device.hear(r#"{"id":1,"believerGuarantee":"NO","command":"digitalWrite","data":{"pinNumber":1,"pinValue":true}}"#);
    assert!(answers.is_empty());
    assert_eq!(device.board.done.len(), 1);
}

#[test]
fn what_is_no_command_is_counted_and_answered_if_it_has_an_id() {
    let mut device = Bench::new();
    let malformed = r#"{"id":1,"deliveryStatus":"COMPLETED_WITH_ERROR","refused":"malformed"}"#;
    assert_eq!(device.hear(r#"{"id":1}"#), [malformed]);
    let long = format!(r#"{{"id":"{}","command":"digitalWrite"}}"#, "x".repeat(65));
    let deep = format!(
        r#"{{"id":1,"command":"x","data":{}{}}}"#,
        "[".repeat(4000),
        "]".repeat(4000)
    );
    for nothing in [
        "",
        "{}",
        "[]",
        "on",
        r#"{"id":1.5,"command":"x"}"#,
        &long,
        &deep,
    ] {
        assert!(device.hear(nothing).is_empty(), "{nothing}");
    }
    assert_eq!(device.commands.tally().malformed, 8);
    assert!(device.commands.remembered.is_empty());
}

proptest! {
    #[test]
    fn no_message_makes_it_panic(payload in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut device = Bench::new();
        let _ = device.commands.handle(&payload, false, NOW, &mut device.board);
    }

    #[test]
    fn a_command_is_done_once_as_long_as_it_is_remembered(ids in prop::collection::vec(1_u64..5, 1..50)) {
        let mut device = Bench::new();
        for id in &ids {
            device.hear(&write(*id, 1));
        }
        let mut known = ids;
        known.sort_unstable();
        known.dedup();
        prop_assert_eq!(device.board.done.len(), known.len());
    }

    #[test]
    fn nesting_is_what_brackets_say(depth in 0_usize..100) {
        let text = format!("{}\"[[\\\"[\"{}", "[".repeat(depth), "]".repeat(depth));
        prop_assert_eq!(nesting(text.as_bytes()), depth);
    }
}

struct Bench {
    commands: Commands,
    board: Board,
    now: Now,
    next: u64,
}

#[derive(Default)]
struct Board {
    done: Vec<(u8, bool)>,
}

impl Actuator for Board {
    fn digital_write(&mut self, pin: u8, level: bool) -> Result<(), Refusal> {
        if pin > 48 {
            return Err(Refusal("no such pin"));
        }
        self.done.push((pin, level));
        Ok(())
    }
}

impl Bench {
    fn new() -> Self {
        Self {
            commands: Commands::new(4, Some(Duration::from_secs(60))),
            board: Board::default(),
            now: NOW,
            next: 0,
        }
    }

    fn hear(&mut self, payload: &str) -> Vec<String> {
        let answers = self
            .commands
            .handle(payload.as_bytes(), false, self.now, &mut self.board);
        texts(answers)
    }
}

fn write(id: u64, pin: u8) -> String {
    format!(
        r#"{{"id":{id},"command":"digitalWrite","data":{{"pinNumber":{pin},"pinValue":true}}}}"#
    )
}

fn texts(answers: Answers) -> Vec<String> {
    let text = |answer: Vec<u8>| String::from_utf8(answer).unwrap();
    answers.into_iter().map(text).collect()
}
