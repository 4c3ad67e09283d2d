//! Guessing passwords (T1, T2).

use std::time::Duration;

use harness::{Connect, now};

use crate::world::world;

fn login(user: &str, password: &str) -> Connect {
    Connect::v4("c").username(user).password(password)
}

/// T2
#[test]
fn whoever_is_wrong_too_often_is_refused_unseen_and_nobody_else_is() {
    let mut world = world("auth_failures_max = 3");
    world.accepts(&login("ivy", "s"));
    for _ in 0..4 {
        world.refuses(&login("alice", "x"));
    }
    world
        .broker
        .wait_for_log("Too many failed logins from 127.0.0.1:");
    // For a second the right password is not looked at either.
    world.refuses(&login("alice", "secret"));
    world
        .broker
        .wait_for_log("(user 'alice': too many failures, refused unseen)");
    for _ in 0..10 {
        world.accepts(&login("ivy", "s"));
    }
    harness::wait_until("alice may come in again", Duration::from_secs(5), || {
        world.answer(&login("alice", "secret")).1.replace(' ', "") == "20020000"
    });
}

/// T1, coarsely: the fine comparison is that of `Hash`, which has one path.
#[test]
fn an_unknown_user_takes_as_long_as_a_wrong_password() {
    let users = "u:$7$20000$asUtNpDrKXxmU0NR$wqqxH8+ucvHlzspiYRYHBzU1dZHctQ2Fv7k2pnJJCzMpI8yKpN1UY/GdjUTaGYxFqipnFDIQjJQqx5ob73N8oQ==\n";
    let world = crate::world::world_of(users, "");
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..30 {
        let which = round % 2;
        let begun = now();
        world.refuses(&login(["u", "zoe"][which], "x"));
        times[which].push(begun.elapsed());
    }
    let [known, unknown] = times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2].as_secs_f64()
    });
    let ratio = known / unknown;
    assert!((0.5..2.0).contains(&ratio), "{known} s and {unknown} s");
}
