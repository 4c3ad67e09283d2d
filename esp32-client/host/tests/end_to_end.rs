//! The device against a real broker: what `nightjar-certs` makes, `nightjar-device`, and mosquitto's clients as the other side.
//!
//! The broker's programs are those of the workspace above (`cargo build -p nightjar -p nightjar-certs`), or the ones that NIGHTJAR_BIN and
//! NIGHTJAR_CERTS_BIN name. Every test has a broker of its own, on a port of its own, in a folder of its own.

mod world;

use std::collections::BTreeSet;

use serde_json::Value;
use world::{Running, World, wait_for};

/// TLS and MQTT versions, each with the other.
const VERSIONS: [(&str, &str); 4] = [
    ("1.3", "5"),
    ("1.2", "5"),
    ("1.3", "3.1.1"),
    ("1.2", "3.1.1"),
];

#[test]
fn a_device_with_its_certificate_publishes_and_says_when_it_comes_and_goes() {
    let world = World::new(&[]);
    let broker = world.broker();
    for (tls, mqtt) in VERSIONS {
        let watcher = world.watch("devices/#");
        let device = world.device(&[
            "--tls", tls, "--mqtt", mqtt, "--every", "20", "--count", "5",
        ]);
        assert_eq!(device.wait(), 0, "{}", device.log());
        assert!(
            device.log().contains(&format!("with TLS {tls}")),
            "{}",
            device.log()
        );
        watcher.lines_until("devices/gauge-7/status {\"state\":\"offline\"}");
        // That is of QoS 0, which may pass the readings.
        wait_for("all readings", || sequences(&watcher.messages()).len() >= 5);
        let lines = watcher.messages();
        assert!(
            lines.contains(&"devices/gauge-7/status {\"state\":\"online\"}".to_owned()),
            "{lines:?}"
        );
        assert_eq!(sequences(&lines), [1, 2, 3, 4, 5], "TLS {tls}, MQTT {mqtt}");
        let level = if mqtt == "5" { "p5" } else { "p4" };
        let line = format!("as gauge-7 ({level}, c0, k60, u'gauge-7')");
        wait_for(&line, || broker.log().contains(&line));
    }
}

#[test]
fn an_authority_between_the_root_and_the_device_is_shown_to_the_broker() {
    let world = World::new(&["--issuing"]);
    let _broker = world.broker();
    for tls in ["1.2", "1.3"] {
        let device = world.device(&["--tls", tls, "--every", "20", "--count", "1"]);
        assert_eq!(device.wait(), 0, "{}", device.log());
    }
}

#[test]
fn a_device_without_a_certificate_is_refused_and_the_log_says_why() {
    let world = World::new(&[]);
    let broker = world.broker();
    for tls in ["1.2", "1.3"] {
        let device = world.device(&["--once", "--no-certificate", "--tls", tls]);
        assert_eq!(device.wait(), 1, "{}", device.log());
        assert!(device.log().contains("delivered: 0"), "{}", device.log());
    }
    let refused = |log: &str| log.matches("peer sent no certificates").count();
    wait_for("two refusals in the log", || refused(&broker.log()) == 2);
}

#[test]
fn a_revoked_device_is_refused_and_the_log_says_why() {
    let world = World::new(&[]);
    let broker = world.broker();
    let before = world.device(&["--every", "20", "--count", "1"]);
    assert_eq!(before.wait(), 0, "{}", before.log());
    world.certs(&["revoke", "gauge-7"]);
    broker.reload();
    for tls in ["1.2", "1.3"] {
        let device = world.device(&["--once", "--tls", tls]);
        assert_eq!(device.wait(), 1, "{}", device.log());
    }
    wait_for("two refusals in the log", || {
        broker.log().to_lowercase().matches("revoked").count() >= 2
    });
}

#[test]
fn a_device_does_not_talk_to_a_broker_that_another_authority_vouches_for() {
    let world = World::new(&[]);
    let other = World::new(&[]);
    let _broker = other.broker();
    let address = format!("localhost:{}", other.port());
    let device = world.device(&["--once", "--broker", &address]);
    assert_eq!(device.wait(), 1);
    assert!(
        device
            .log()
            .contains("nobody the device trusts has signed it"),
        "{}",
        device.log()
    );
}

#[test]
fn a_device_does_not_talk_to_a_broker_of_another_name() {
    let world = World::new(&[]);
    world.certs(&["server", "other.example.com", "--force"]);
    let broker = world.broker_with("other.example.com");
    let device = world.device(&["--once"]);
    assert_eq!(device.wait(), 1);
    assert!(
        device.log().contains("it is for another name"),
        "{}",
        device.log()
    );
    drop(broker);
}

#[test]
fn readings_go_on_while_the_broker_is_killed_and_none_is_lost() {
    for mqtt in ["5", "3.1.1"] {
        none_is_lost(&World::new(&[]), mqtt);
    }
}

#[test]
fn with_qos_2_none_is_lost_either() {
    for mqtt in ["5", "3.1.1"] {
        none_is_lost(&World::with_settings("telemetry_qos = 2\n"), mqtt);
    }
}

#[track_caller]
fn none_is_lost(world: &World, mqtt: &str) {
    let mut broker = world.broker();
    // A session that the broker keeps, so that nothing passes unseen while this side connects anew.
    let mut watchers = vec![world.watch_durably("devices/gauge-7/telemetry/#")];
    let count = 300;
    let device = world.device(&[
        "--mqtt",
        mqtt,
        "--every",
        "10",
        "--count",
        &count.to_string(),
    ]);
    for least in [60, 140, 220] {
        wait_for("readings", || seen(&watchers).len() >= least);
        broker.kill();
        // It may end by itself or connect again; one at a time is to see what comes.
        watchers.last().unwrap().terminate();
        broker = world.broker();
        watchers.push(world.watch_durably("devices/gauge-7/telemetry/#"));
    }
    assert_eq!(device.wait(), 0, "{}", device.log());
    wait_for("the last reading", || seen(&watchers).contains(&count));
    let numbers = seen(&watchers);
    // A number that comes twice is the same reading twice.
    let lines: BTreeSet<String> = watchers.iter().flat_map(Running::messages).collect();
    assert_eq!(u64::try_from(lines.len()).unwrap(), count, "MQTT {mqtt}");
    let mut known = BTreeSet::new();
    let first_times: Vec<u64> = numbers
        .into_iter()
        .filter(|number| known.insert(*number))
        .collect();
    let expected: Vec<u64> = (1..=count).collect();
    assert_eq!(first_times, expected, "order and completeness, MQTT {mqtt}");
    // On a busy machine it may be done before the last of the kills is.
    let connections = device.log().matches("connected to").count();
    assert!(connections >= 2, "{}", device.log());
}

#[test]
fn commands_of_qos_2_are_done_once_each() {
    let world = World::with_settings("command_qos = 2\n");
    let _broker = world.broker();
    let watcher = world.watch("#");
    let device = world.device(&[]);
    watcher.lines_until("devices/gauge-7/status {\"state\":\"online\"}");
    for id in 1..=5 {
        let body = format!(
            "{{\"id\":{id},\"command\":\"digitalWrite\",\"data\":{{\"pinNumber\":{id},\"pinValue\":true}}}}"
        );
        world.publish("consumer/request/gauge-7", &body);
    }
    let lines = watcher.lines_until("{\"id\":5,\"deliveryStatus\":\"COMPLETED\"}");
    let answers = lines
        .iter()
        .filter(|line| line.starts_with("consumer/response/"));
    assert_eq!(answers.count(), 10, "two for each: {lines:?}");
    assert_eq!(
        device.log().matches("is high").count(),
        5,
        "{}",
        device.log()
    );
}

#[test]
fn readings_survive_the_device_that_is_killed_with_them() {
    let world = World::new(&[]);
    let store = world.text("readings.flash");
    // Nobody is there to take them.
    let device = world.device(&["--every", "10", "--store", &store]);
    let kept = || {
        let bytes = std::fs::read(&store).unwrap_or_default();
        let name = b"uptime_ms";
        bytes
            .windows(name.len())
            .filter(|part| part == name)
            .count()
    };
    // Each has the name more than once.
    wait_for("readings in the store", || kept() > 30);
    device.kill();
    let _broker = world.broker();
    let watcher = world.watch("devices/gauge-7/telemetry/#");
    let device = world.device(&["--every", "10", "--count", "1", "--store", &store]);
    assert_eq!(device.wait(), 0, "{}", device.log());
    let log = device.log();
    let delivered = log.split_once(" delivered: ").expect("it is counted").1;
    let delivered = delivered
        .split(',')
        .next()
        .and_then(|count| count.parse().ok());
    let delivered: usize = delivered.expect("it is a number");
    assert!(delivered > 5, "{log}");
    wait_for("what was delivered", || {
        sequences(&watcher.messages()).len() >= delivered
    });
    let numbers = sequences(&watcher.messages());
    assert!(
        numbers.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "{numbers:?}"
    );
    assert_eq!(numbers.first(), Some(&1));
}

#[test]
fn a_command_is_acknowledged_done_and_not_done_twice() {
    let world = World::new(&[]);
    let _broker = world.broker();
    for (mqtt, first_id) in [("5", 10), ("3.1.1", 20)] {
        let watcher = world.watch("#");
        let pins = world.folder(&format!("pins-{first_id}"));
        let device = world.device(&["--mqtt", mqtt, "--pins", &pins.display().to_string()]);
        watcher.lines_until("devices/gauge-7/status {\"state\":\"online\"}");
        let command = |id: u64, more: &str| {
            let body = format!(
                "{{\"id\":{id},\"command\":\"digitalWrite\",\"data\":{{\"pinNumber\":13,\"pinValue\":true}}{more}}}"
            );
            world.publish("consumer/request/gauge-7", &body);
        };
        let answer = |id: u64, rest: &str| {
            watcher.lines_until(&format!(
                "consumer/response/gauge-7 {{\"id\":{id},\"deliveryStatus\":{rest}}}"
            ));
        };
        command(first_id, "");
        answer(first_id, "\"DELIVERED\"");
        answer(first_id, "\"COMPLETED\"");
        let pin = pins.join("pin-13");
        assert_eq!(std::fs::read_to_string(&pin).unwrap(), "1\n");
        std::fs::remove_file(&pin).unwrap();
        command(first_id, "");
        answer(first_id, "\"COMPLETED\",\"refused\":\"duplicate\"");
        command(first_id + 1, ",\"expires_at\":1700000000000");
        answer(
            first_id + 1,
            "\"COMPLETED_WITH_ERROR\",\"refused\":\"expired\"",
        );
        assert!(
            !pin.exists(),
            "neither the duplicate nor the late one was done"
        );
        drop(device);
    }
}

#[test]
fn a_command_for_a_device_that_is_away_waits_for_it() {
    let world = World::new(&[]);
    let _broker = world.broker();
    let first = world.device(&["--every", "20", "--count", "1"]);
    assert_eq!(first.wait(), 0, "{}", first.log());
    let body =
        "{\"id\":1,\"command\":\"digitalWrite\",\"data\":{\"pinNumber\":4,\"pinValue\":true}}";
    world.publish("consumer/request/gauge-7", body);
    let watcher = world.watch("consumer/response/#");
    let _device = world.device(&[]);
    watcher.lines_until("consumer/response/gauge-7 {\"id\":1,\"deliveryStatus\":\"COMPLETED\"}");
}

#[test]
fn a_device_that_is_killed_is_said_to_be_offline() {
    let world = World::new(&[]);
    let _broker = world.broker();
    let watcher = world.watch("devices/gauge-7/status");
    let device = world.device(&[]);
    watcher.lines_until("devices/gauge-7/status {\"state\":\"online\"}");
    device.kill();
    watcher.lines_until("devices/gauge-7/status {\"state\":\"offline\"}");
}

/// The numbers of the readings that one watcher after the other has seen.
fn seen(watchers: &[Running]) -> Vec<u64> {
    let lines: Vec<String> = watchers.iter().flat_map(Running::messages).collect();
    sequences(&lines)
}

fn sequences(lines: &[String]) -> Vec<u64> {
    lines
        .iter()
        .filter_map(|line| line.split_once("/telemetry/"))
        .filter_map(|(_, rest)| rest.split_once(' '))
        .filter_map(|(_, payload)| serde_json::from_str::<Value>(payload).ok())
        .filter_map(|reading| reading["sequence"].as_u64())
        .collect()
}
