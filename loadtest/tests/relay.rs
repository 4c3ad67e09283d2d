//! The generator against its own relay, in one process: every QoS, both versions, and what happens without a broker.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::thread;
use std::time::Duration;

use nightjar_codec::{ProtocolVersion, QoS};
use nightjar_loadtest::connection::{OpenError, Target};
use nightjar_loadtest::engine::{self, RunError};
use nightjar_loadtest::progress::Progress;
use nightjar_loadtest::relay::Relay;
use nightjar_loadtest::report::Report;
use nightjar_loadtest::scenario::{Pace, Receivers, Scenario};
use nightjar_loadtest::subscriber::Links;

#[test]
fn qos_0_arrives_once_and_in_order() {
    check(
        10,
        10,
        QoS::AtMostOnce,
        ProtocolVersion::V3_1_1,
        Pace::Window(100),
    );
    check(
        10,
        10,
        QoS::AtMostOnce,
        ProtocolVersion::V5,
        Pace::Window(100),
    );
}

#[test]
fn qos_1_arrives_once_and_in_order() {
    check(
        3,
        3,
        QoS::AtLeastOnce,
        ProtocolVersion::V3_1_1,
        Pace::Window(100),
    );
    check(
        3,
        3,
        QoS::AtLeastOnce,
        ProtocolVersion::V5,
        Pace::Window(100),
    );
}

#[test]
fn qos_2_arrives_once_and_in_order() {
    check(
        3,
        3,
        QoS::ExactlyOnce,
        ProtocolVersion::V3_1_1,
        Pace::Window(100),
    );
    check(
        3,
        3,
        QoS::ExactlyOnce,
        ProtocolVersion::V5,
        Pace::Window(100),
    );
}

#[test]
fn every_subscriber_of_a_fan_out_gets_everything() {
    let report = check(
        1,
        50,
        QoS::AtMostOnce,
        ProtocolVersion::V3_1_1,
        Pace::Window(100),
    );
    let received: u64 = report.rounds.iter().map(|round| round.done).sum();
    assert!(received <= report.sent * 50);
}

#[test]
fn a_rate_is_kept_and_its_latency_reported() {
    let report = check(
        2,
        2,
        QoS::AtLeastOnce,
        ProtocolVersion::V3_1_1,
        Pace::Rate(1_000),
    );
    // 0.1 s of warm-up and 2 x 0.2 s of rounds; rounds end late on a busy machine, never early.
    assert!((450..10_000).contains(&report.sent), "{}", report.sent);
    let latency = report.latency.unwrap();
    assert!(latency.p50 > 0.0 && latency.p50 <= latency.p99 && latency.p99 <= latency.max);
}

/// A broker that stands still holds up the messages that come due meanwhile, and each of them waited: not only the one
/// that was under way.
#[test]
fn a_stall_counts_for_every_message_that_was_due_in_it() {
    let mut relay = Relay::listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let address = relay.address().unwrap();
    thread::spawn(move || {
        serve_from_the_first_message(&mut relay, Duration::from_millis(600));
        thread::sleep(STALL);
        relay.serve(Duration::from_secs(60))
    });
    let scenario = Scenario {
        // With one message in flight nothing is sent during the stall: what is due then must count all the same.
        in_flight_max: 1,
        round: Duration::from_millis(1_000),
        ..scenario(
            address,
            1,
            1,
            QoS::AtLeastOnce,
            ProtocolVersion::V3_1_1,
            Pace::Rate(200),
        )
    };
    let report = engine::run(&scenario, &Progress::hidden()).unwrap();
    let latency = report.latency.unwrap();
    // Of 2 s, 0.8 s: of 0.4 of the messages the waiting is spread evenly over the stall, so that a tenth of all waited
    // for more than three quarters of it.
    let stall = STALL.as_micros() as f64;
    assert!(latency.max >= stall * 0.95, "{report}");
    assert!(latency.p90 >= stall * 0.6, "{report}");
    assert_eq!(report.losses, 0, "{report}");
}

/// What is due in the last moment of a round and comes after its end is not left out.
#[test]
fn a_stall_at_the_end_is_measured_to_its_end() {
    let mut relay = Relay::listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let address = relay.address().unwrap();
    let scenario = scenario(
        address,
        1,
        1,
        QoS::AtMostOnce,
        ProtocolVersion::V3_1_1,
        Pace::Rate(200),
    );
    // The run is over after 0.5 s, in the stall.
    thread::spawn(move || {
        serve_from_the_first_message(&mut relay, Duration::from_millis(300));
        thread::sleep(STALL);
        relay.serve(Duration::from_secs(60))
    });
    let report = engine::run(&scenario, &Progress::hidden()).unwrap();
    let latency = report.latency.unwrap();
    assert!(latency.max >= STALL.as_micros() as f64 * 0.9, "{report}");
}

const STALL: Duration = Duration::from_millis(800);

/// However long it takes until everybody is connected.
fn serve_from_the_first_message(relay: &mut Relay, duration: Duration) {
    while !relay.has_begun() {
        relay.serve(Duration::from_millis(1)).unwrap();
    }
    relay.serve(duration).unwrap();
}

#[test]
fn acknowledgements_are_counted_and_timed_where_sessions_are_kept() {
    for pace in [Pace::Window(100), Pace::Rate(1_000)] {
        let mut relay = Relay::listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let address = relay.address().unwrap();
        thread::spawn(move || relay.serve(Duration::from_secs(60)));
        let mut scenario = scenario(address, 3, 6, QoS::AtLeastOnce, ProtocolVersion::V5, pace);
        scenario.receivers = Receivers::Online;
        let report = engine::run(&scenario, &Progress::hidden()).unwrap();
        let done: u64 = report.rounds.iter().map(|round| round.done).sum();
        assert_eq!((report.counted, report.losses), ("acknowledged", 0));
        // Each message has two receivers, and counts once.
        assert!((1..=report.sent).contains(&done), "{report}");
        let latency = report.latency.unwrap();
        // Arrivals are not timed: a time of theirs would be in the books as one of no length.
        assert!(latency.p50 > 0.1 && latency.p99 <= latency.max);
    }
}

#[test]
fn what_a_broker_did_not_keep_for_who_was_away_is_lost() {
    let mut relay = Relay::listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let address = relay.address().unwrap();
    thread::spawn(move || relay.serve(Duration::from_secs(60)));
    let mut scenario = scenario(
        address,
        2,
        2,
        QoS::AtLeastOnce,
        ProtocolVersion::V3_1_1,
        Pace::Window(100),
    );
    scenario.receivers = Receivers::Offline;
    let report = engine::run(&scenario, &Progress::hidden()).unwrap();
    assert!(report.sent > 0);
    assert_eq!(report.losses, report.sent);
    assert_eq!(report.fetched.unwrap().messages, 0);
}

#[test]
fn a_refused_connection_says_so() {
    // Bound and dropped: nobody listens there.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let scenario = scenario(
        address,
        1,
        1,
        QoS::AtMostOnce,
        ProtocolVersion::V3_1_1,
        Pace::Window(1),
    );
    let error = engine::run(&scenario, &Progress::hidden()).unwrap_err();
    let RunError::Open { error: cause, .. } = &error else {
        panic!("{error}");
    };
    assert!(matches!(cause, OpenError::Refused { .. }), "{error}");
    assert!(error.to_string().contains("connection refused"), "{error}");
}

fn check(
    publishers: usize,
    subscribers: usize,
    qos: QoS,
    protocol: ProtocolVersion,
    pace: Pace,
) -> Report {
    let mut relay = Relay::listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let address = relay.address().unwrap();
    // It ends with the process at the latest.
    thread::spawn(move || relay.serve(Duration::from_secs(60)));
    let scenario = scenario(address, publishers, subscribers, qos, protocol, pace);
    let report = engine::run(&scenario, &Progress::hidden()).unwrap();
    // On a busy machine a round may pass in which nothing comes.
    assert!(report.rounds.iter().any(|round| round.done > 0));
    assert_eq!(
        (report.losses, report.duplicates, report.reorderings),
        (0, 0, 0),
        "{report}"
    );
    assert_eq!(
        (report.strays, report.refused, report.stalls),
        (0, 0, 0),
        "{report}"
    );
    report
}

fn scenario(
    address: SocketAddr,
    publishers: usize,
    subscribers: usize,
    qos: QoS,
    protocol: ProtocolVersion,
    pace: Pace,
) -> Scenario {
    Scenario {
        name: "test",
        target: Target::tcp(address, protocol),
        qos,
        payload_length: 64,
        links: Links {
            publishers,
            subscribers,
        },
        receivers: Receivers::Clean,
        pace,
        in_flight_max: 50,
        topic_prefix: "loadtest".to_owned(),
        warmup: Duration::from_millis(100),
        round: Duration::from_millis(200),
        rounds: 2,
        broker_pid: Some(std::process::id()),
    }
}
