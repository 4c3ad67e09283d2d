//! Guessing passwords (T1, T2).

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use harness::{Broker, Connect, PATIENCE, now, wait_until};

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
    // For a second, and twice as long each time, the right password is not looked at either. A machine that took longer than that to ask
    // has let it in, and what was counted is forgotten.
    wait_until("the right password is refused unseen", PATIENCE, || {
        let code = world.answer(&login("alice", "secret")).1.replace(' ', "");
        if code == "20020000" {
            (0..4).for_each(|_| world.refuses(&login("alice", "x")));
        }
        code != "20020000"
    });
    world
        .broker
        .wait_for_log("(user 'alice': too many failures, refused unseen)");
    for _ in 0..10 {
        world.accepts(&login("ivy", "s"));
    }
    wait_until("alice may come in again", PATIENCE, || {
        world.answer(&login("alice", "secret")).1.replace(' ', "") == "20020000"
    });
}

/// T2: however many come at once.
#[test]
fn t2_a_thousand_wrong_passwords_from_one_address_are_hardly_looked_at() {
    let mut world = world("auth_failures_max = 5\nhttp_listener = \"127.0.0.1:{second_port}\"");
    world.broker.wait_for_log(" running");
    for number in 0..1000 {
        let user = ["alice", "ivy", "zoe"][number % 3];
        world.refuses(&login(user, &format!("guess {number}")));
    }
    let mut page = TcpStream::connect((Ipv4Addr::LOCALHOST, world.broker.second_port)).unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    page.write_all(request).unwrap();
    let mut text = String::new();
    page.read_to_string(&mut text).unwrap();
    let count = |result: &str| -> u64 {
        let begin = format!("nightjar_logins_total{{result=\"{result}\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&begin));
        line.and_then(|number| number.parse().ok())
            .unwrap_or_else(|| panic!("no {begin} in {text}"))
    };
    assert_eq!((count("accepted"), count("busy")), (0, 0));
    // How many were compared depends on how long it took: a few at first, and one each time that a pause is over.
    let (compared, unseen) = (count("refused"), count("unseen"));
    assert_eq!(compared + unseen, 1000);
    assert!(unseen > 800, "{unseen} of 1000 were refused unseen");
}

/// T1, coarsely: the fine comparison is that of `Hash`, which has one path. What is compared is the time of the processor, which a busy
/// machine does not change. `ROUNDS=4000` is the long form, on a machine that does nothing else: then no difference may be seen that
/// chance would show in less than one of a hundred trials.
#[test]
fn an_unknown_user_takes_as_long_as_a_wrong_password() {
    let users = "u:$7$20000$asUtNpDrKXxmU0NR$wqqxH8+ucvHlzspiYRYHBzU1dZHctQ2Fv7k2pnJJCzMpI8yKpN1UY/GdjUTaGYxFqipnFDIQjJQqx5ob73N8oQ==\n";
    let world = crate::world::world_of(users, "");
    let mut times = [Vec::new(), Vec::new()];
    let mut ticks = [0, 0];
    let rounds = std::env::var("ROUNDS").map_or(60, |rounds| rounds.parse().unwrap());
    for round in 0..rounds {
        let which = round % 2;
        let (begun, before) = (now(), processor_ticks(&world.broker));
        world.refuses(&login(["u", "zoe"][which], "x"));
        times[which].push(begun.elapsed());
        ticks[which] += processor_ticks(&world.broker) - before;
    }
    if rounds >= 1000 {
        let z = mann_whitney(&times);
        println!("z = {z}");
        assert!(
            z.abs() < 2.576,
            "known and unknown users can be told apart: z = {z}"
        );
    }
    let [known, unknown] = ticks.map(|ticks| ticks as f64);
    assert!(known > 10.0, "{known} ticks are too few to compare");
    let ratio = known / unknown;
    assert!(
        (0.5..2.0).contains(&ratio),
        "{known} and {unknown} hundredths of a second"
    );
}

/// User and system time of the process, a hundred ticks a second.
fn processor_ticks(broker: &Broker) -> u64 {
    let process_id = broker.process_id().expect("the broker is ours");
    let stat = std::fs::read_to_string(format!("/proc/{process_id}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let fields: Vec<&str> = fields.split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// How far the ranks of the first lie from where chance would put them, in standard deviations.
fn mann_whitney([first, second]: &[Vec<Duration>; 2]) -> f64 {
    let mut all: Vec<(Duration, bool)> = first.iter().map(|time| (*time, true)).collect();
    all.extend(second.iter().map(|time| (*time, false)));
    all.sort_unstable();
    let ranks = all
        .iter()
        .zip(1_u32..)
        .filter(|((_, is_first), _)| *is_first);
    let sum: f64 = ranks.map(|(_, rank)| f64::from(rank)).sum();
    let (n, m) = (first.len() as f64, second.len() as f64);
    let expected = n * (n + m + 1.0) / 2.0;
    let deviation = (n * m * (n + m + 1.0) / 12.0).sqrt();
    (sum - expected) / deviation
}
