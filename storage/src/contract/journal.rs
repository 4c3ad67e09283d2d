//! What a journal promises: order, the durable mark, power cuts, and what happens when the medium fails.

use super::*;

/// What a journal promises, on an engine without a tight bound.
pub fn journal_contract<E: Subject>(make: impl Fn() -> E) {
    lsns_ascend_and_those_of_a_batch_are_consecutive(make());
    an_empty_batch_takes_no_place(make());
    nothing_is_durable_before_the_medium_has_it(make());
    the_durable_mark_only_moves_forward(make());
    what_is_durable_survives_a_power_cut(make());
    a_batch_survives_whole_or_not_at_all(make());
    lsns_are_not_given_again_after_a_power_cut(make());
    a_failed_journal_takes_nothing_and_keeps_what_was_durable(make());
    a_journal_that_works_again_makes_durable_what_it_had_taken(make());
    a_journal_may_fail_many_times(make());
    recovery_after_a_trim_starts_behind_it(make());
}

/// What a journal with a bound promises; `make` gives an engine that holds some hundred operations at most.
pub fn full_contract<E: Subject>(make: impl Fn() -> E) {
    let mut engine = make();
    engine.hold();
    engine.settle(append(&engine, vec![put_session("a")]));

    let mut model = Image::new();
    model.fold(&put_session("a"));
    let mut last = 0;
    let mut refused = None;
    for message_id in 1..=FULL_AFTER_OPERATIONS_MAX {
        let batch = Batch(vec![enqueue(message_id, &[to("a")])]);
        match engine.append(batch.clone()) {
            Ok(lsn) => {
                last = lsn;
                batch.0.iter().for_each(|operation| model.fold(operation));
            }
            Err(full) => {
                assert_eq!(full.batch, batch, "a refused batch is given back as it was");
                refused = Some(full.batch);
                break;
            }
        }
    }
    let refused = refused.expect("a journal with a bound refuses when nothing becomes durable");
    assert!(last > 0, "a journal takes at least one batch");

    engine.settle(last);
    assert!(
        engine.status().covers(last),
        "a full journal still becomes durable"
    );
    engine.catch_up();
    check_same(&engine, &model, "a refused batch leaves no trace");

    let lsn = append(&engine, refused.0.clone());
    engine.settle(lsn);
    refused.0.iter().for_each(|operation| model.fold(operation));
    engine.catch_up();
    check_same(
        &engine,
        &model,
        "there is room again when the medium has caught up",
    );
}

fn lsns_ascend_and_those_of_a_batch_are_consecutive<E: Subject>(engine: E) {
    let first = append(&engine, vec![put_session("a")]);
    assert!(first > 0, "0 is before the first");
    let second = append(
        &engine,
        vec![put_session("b"), put_session("c"), put_session("d")],
    );
    assert_eq!(
        second,
        first + 3,
        "append gives the Lsn of the last operation of the batch"
    );
}

fn an_empty_batch_takes_no_place<E: Subject>(mut engine: E) {
    engine.hold();
    let first = append(&engine, vec![put_session("a")]);
    assert_eq!(
        append(&engine, vec![]),
        0,
        "an empty batch waits for nothing"
    );
    assert!(engine.status().covers(0), "0 is always durable");
    assert_eq!(
        append(&engine, vec![put_session("b")]),
        first + 1,
        "an empty batch takes no place"
    );
}

fn nothing_is_durable_before_the_medium_has_it<E: Subject>(mut engine: E) {
    engine.hold();
    let first = append(&engine, vec![put_session("a")]);
    let second = append(&engine, vec![put_session("b")]);
    assert!(!engine.status().covers(first), "a held medium has nothing");
    engine.settle(first);
    assert!(engine.status().covers(first), "settled");
    assert!(
        !engine.status().covers(second),
        "the second batch is not settled"
    );
}

fn the_durable_mark_only_moves_forward<E: Subject>(mut engine: E) {
    engine.hold();
    let lsns: Vec<Lsn> = (0..20)
        .map(|n| append(&engine, vec![put_session(&format!("c{n}"))]))
        .collect();
    let mut mark = 0;
    // Some are settled again, which must not move the mark back.
    for index in [0, 1, 5, 3, 0, 9, 9, 19, 4] {
        engine.settle(lsns[index]);
        let JournalStatus::Durable(durable) = engine.status() else {
            panic!("a healthy journal is durable")
        };
        assert!(
            durable >= mark,
            "the durable mark went back from {mark} to {durable}"
        );
        assert!(durable >= lsns[index], "settled");
        mark = durable;
    }
}

fn what_is_durable_survives_a_power_cut<E: Subject>(mut engine: E) {
    engine.hold();
    let mut model = Image::new();
    let operations = vec![
        put_session("a"),
        enqueue(1, &[to("a")]),
        enqueue(2, &[to("a")]),
    ];
    operations
        .iter()
        .for_each(|operation| model.fold(operation));
    let lsn = append(&engine, operations);
    engine.settle(lsn);
    let engine = reopened(engine);
    check_same(&engine, &model, "a durable batch survives");
    assert!(
        matches!(engine.status(), JournalStatus::Durable(durable) if durable >= lsn),
        "and stays durable"
    );
}

fn a_batch_survives_whole_or_not_at_all<E: Subject>(mut engine: E) {
    engine.hold();
    append(
        &engine,
        (0..50).map(|n| put_session(&format!("c{n}"))).collect(),
    );
    let engine = reopened(engine);
    let mut sessions = 0;
    scan(&engine, Table::Sessions, |_| sessions += 1);
    assert!(
        sessions == 0 || sessions == 50,
        "{sessions} of 50 operations of one batch survived"
    );
}

fn lsns_are_not_given_again_after_a_power_cut<E: Subject>(mut engine: E) {
    engine.hold();
    let durable = append(&engine, vec![put_session("a")]);
    engine.settle(durable);
    let lost = append(&engine, vec![put_session("b")]);
    let engine = reopened(engine);
    let next = append(&engine, vec![put_session("c")]);
    assert!(
        next > lost,
        "Lsn {lost} was given before the power cut, {next} after it"
    );
}

fn a_failed_journal_takes_nothing_and_keeps_what_was_durable<E: Subject>(mut engine: E) {
    engine.hold();
    let kept = append(&engine, vec![put_session("a")]);
    engine.settle(kept);
    let waiting = append(&engine, vec![put_session("b")]);
    engine.fail();
    let status = engine.status();
    assert!(
        matches!(status, JournalStatus::Failed { durable, .. } if durable == kept),
        "{status:?}"
    );
    assert!(status.covers(kept), "what was durable stays so");
    assert!(
        !status.covers(waiting),
        "what was not durable is not promised"
    );
    let batch = Batch(vec![put_session("c")]);
    let refused = engine
        .append(batch.clone())
        .expect_err("a failed journal takes nothing");
    assert_eq!(
        refused.batch, batch,
        "a refused batch is given back as it was"
    );

    let engine = reopened(engine);
    assert!(
        engine.session("a").unwrap().is_some(),
        "what was durable is there after the failure"
    );
    assert!(
        engine.session("c").unwrap().is_none(),
        "what was refused is not"
    );
}

fn a_journal_that_works_again_makes_durable_what_it_had_taken<E: Subject>(mut engine: E) {
    let mut model = Image::new();
    engine.hold();
    let kept = append(&engine, vec![put_session("a"), enqueue(1, &[to("a")])]);
    engine.settle(kept);
    let first = append(&engine, vec![enqueue(2, &[to("a")]), put_session("b")]);
    // Were the first one committed twice, what this one removes would be back.
    let second = append(&engine, vec![dequeue(&Owner::session("a"), 2)]);
    engine.fail();
    engine.reopen();
    let JournalStatus::Durable(durable) = engine.status() else {
        panic!("{:?}", engine.status())
    };
    assert!(durable >= kept, "the durable mark went back");

    let next = append(&engine, vec![put_session("c")]);
    assert_eq!(next, second + 1, "Lsns go on");
    engine.settle(second);
    assert!(
        engine.status().covers(first) && engine.status().covers(second),
        "what was taken becomes durable"
    );
    assert!(!engine.status().covers(next), "the second batch is settled");
    engine.settle(next);
    assert!(engine.status().covers(next), "the journal works again");
    engine.catch_up();
    for operation in [
        put_session("a"),
        enqueue(1, &[to("a")]),
        put_session("b"),
        put_session("c"),
    ] {
        model.fold(&operation);
    }
    check_same(&engine, &model, "everything taken is there, and once");
}

fn a_journal_may_fail_many_times<E: Subject>(mut engine: E) {
    let mut model = Image::new();
    engine.hold();
    let mut last = append(&engine, vec![put_session("a")]);
    engine.settle(last);
    model.fold(&put_session("a"));
    for message_id in 1..=FAILURES {
        last = append(&engine, vec![enqueue(message_id, &[to("a")])]);
        model.fold(&enqueue(message_id, &[to("a")]));
        if message_id % 2 == 0 {
            let batch = vec![dequeue(&Owner::session("a"), message_id - 1)];
            batch.iter().for_each(|operation| model.fold(operation));
            last = append(&engine, batch);
        }
        engine.fail();
        engine.reopen();
    }
    engine.settle(last);
    assert!(engine.status().covers(last), "the journal works again");
    engine.catch_up();
    check_same(&engine, &model, "after many failures");
    let engine = reopened(engine);
    check_same(&engine, &model, "and after a power cut behind them");
}

fn recovery_after_a_trim_starts_behind_it<E: Subject>(mut engine: E) {
    engine.hold();
    let first = append(&engine, vec![put_session("a"), put_session("b")]);
    engine.settle(first);
    engine.catch_up();
    let second = append(&engine, vec![put_session("c"), put_session("d")]);
    engine.settle(second);
    let mut recovered = Vec::new();
    engine
        .recover(&mut |lsn, operation| recovered.push((lsn, operation)))
        .unwrap();
    assert!(
        recovered.iter().all(|(lsn, _)| *lsn > first),
        "trimmed operations came back: {recovered:?}"
    );
    assert!(
        recovered.is_sorted_by_key(|(lsn, _)| *lsn),
        "operations are recovered in order"
    );
    engine.catch_up();
    let mut model = Image::new();
    ["a", "b", "c", "d"]
        .iter()
        .for_each(|client_id| model.fold(&put_session(client_id)));
    check_same(
        &engine,
        &model,
        "the trimmed part is in the checkpoint, the rest in the journal",
    );
}

/// A journal that has taken this many small batches without one becoming durable has no bound.
const FULL_AFTER_OPERATIONS_MAX: u64 = 100_000;
/// How often a journal fails in one life of the test.
const FAILURES: u64 = 6;
