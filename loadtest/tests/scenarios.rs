//! Every scenario for a moment against our broker, in both versions of the protocol: nothing is lost, and every figure
//! that a comparison needs is there.

use clap::Parser;
use harness::Broker;
use nightjar_loadtest::arguments::Arguments;
use nightjar_loadtest::outcome::{self, Outcome, PlayError};
use nightjar_loadtest::progress::Progress;

#[test]
fn pubsub() {
    check(
        "pubsub -P 3 --warmup 0.1 -d 0.2 --rounds 2 -q 1",
        &["received", "broker CPU", "peak memory"],
    );
}

#[test]
fn fan_out() {
    check(
        "fan-out -S 50 --warmup 0.1 -d 0.2 --rounds 2",
        &["received"],
    );
}

#[test]
fn fan_in() {
    check("fan-in -P 20 --warmup 0.1 -d 0.2 --rounds 2", &["received"]);
}

#[test]
fn soak() {
    let outcome = check(
        "soak -d 1 --interval 0.25 --rate 500",
        &["latency p50", "latency p99"],
    );
    let Outcome::Report(report) = outcome else {
        panic!("not a report");
    };
    assert_eq!(report.rounds.len(), 4);
    let rounds = &report.rounds;
    assert!(
        rounds
            .iter()
            .all(|round| round.broker_resident_kib.is_some())
    );
    // On a busy machine a round may pass in which nothing comes.
    assert!(rounds.iter().any(|round| round.latency_p99.is_some()));
}

#[test]
fn connect() {
    check(
        "connect -n 200 --idle 0.1",
        &["connects", "connect p99", "memory each", "idle CPU"],
    );
}

#[test]
fn connect_at_a_rate() {
    let outcome = check("connect -n 100 --rate 400 --idle 0.1", &["connects"]);
    let rate = outcome.measures()[0].value;
    // The last of 100 is due after 99/400 s; a busy machine is later, never earlier.
    assert!(rate <= 405.0, "{outcome}");
}

#[test]
fn storm() {
    check(
        "storm -n 100 --rounds 2",
        &["reconnects", "back p50", "back last"],
    );
}

#[test]
fn storm_of_kept_sessions() {
    let outcome = check(
        "storm -n 100 --rounds 2 --persistent",
        &["sessions found again"],
    );
    let again = outcome
        .measures()
        .iter()
        .find(|measure| measure.name == "sessions found again");
    assert_eq!(again.unwrap().value, 100.0, "{outcome}");
}

#[test]
fn wildcards() {
    check(
        "wildcards -f 2500 -S 7 -P 3 -n 5000 -q 1",
        &["subscribes", "memory each", "matching publishes"],
    );
}

#[test]
fn retained() {
    check(
        "retained -n 2500 -P 3",
        &["stores", "memory each", "first delivered", "last delivered"],
    );
    check("retained -n 2500 -P 3 -q 2", &["deliveries"]);
}

#[test]
fn offline() {
    check(
        "offline -n 2000 -S 3 -P 3",
        &["enqueue", "drain", "memory each"],
    );
    check("offline -n 2000 -S 3 -P 3 -q 2", &["drain"]);
}

#[test]
fn slow() {
    check(
        "slow -S 3 --slow 3 -d 0.3",
        &["all read", "while some stop", "kept up", "growth meanwhile"],
    );
    check("slow -S 3 --slow 3 -d 0.3 -q 1", &["kept up"]);
}

#[test]
fn a_message_that_the_broker_drops_is_a_loss() {
    let broker = Broker::options()
        .toml("allow_anonymous = true\nqueue_messages_max = 100\nqueue_policy = \"drop_newest\"\n[[listeners]]\naddress = \"127.0.0.1:{port}\"\n")
        .start();
    let outcome = play("offline -n 1000 --stall 2", &broker, "3.1.1").unwrap();
    assert!(outcome.losses() >= 800, "{outcome}");
}

/// Plays it in both versions; gives the outcome of the second.
fn check(command: &str, measures: &[&str]) -> Outcome {
    let broker = Broker::start();
    let mut last = None;
    for version in ["3.1.1", "5"] {
        let outcome = play(command, &broker, version).unwrap();
        let (losses, shown) = (outcome.losses(), outcome.to_string());
        assert_eq!(losses, 0, "{shown}");
        let names: Vec<&str> = outcome
            .measures()
            .iter()
            .map(|measure| measure.name.as_str())
            .collect();
        for name in measures {
            assert!(names.contains(name), "no {name} in {names:?}");
        }
        let finite = |measure: &nightjar_loadtest::sheet::Measure| measure.value.is_finite();
        assert!(outcome.measures().iter().all(finite), "{shown}");
        let json = serde_json::to_value(&outcome).unwrap();
        for counter in ["losses", "duplicates", "strays", "refused"] {
            assert_eq!(json[counter], 0, "{counter}: {shown}");
        }
        let page = nightjar_loadtest::html::page(&outcome);
        assert!(page.contains("<svg") && page.contains("</html>"));
        for foreign in ["http", "src=", "url(", "@import", "NaN", "inf\""] {
            assert!(!page.contains(foreign), "{foreign} in the page");
        }
        last = Some(outcome);
    }
    last.unwrap()
}

fn play(command: &str, broker: &Broker, version: &str) -> Result<Outcome, PlayError> {
    let (port, pid) = (
        broker.port.to_string(),
        broker.process_id().unwrap().to_string(),
    );
    let words = ["nightjar-loadtest"].into_iter().chain(command.split(' '));
    let target = ["--port", &port, "--broker-pid", &pid, "--protocol", version];
    let arguments = Arguments::try_parse_from(words.chain(target)).unwrap();
    outcome::play(&arguments.command, &Progress::hidden()).unwrap()
}
