//! The generator against its own relay, in one process: every QoS, both versions, and what happens without a broker.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::thread;
use std::time::Duration;

use nightjar_codec::{ProtocolVersion, QoS};
use nightjar_loadtest::connection::OpenError;
use nightjar_loadtest::engine::{self, RunError};
use nightjar_loadtest::relay::Relay;
use nightjar_loadtest::report::Report;
use nightjar_loadtest::scenario::{Pace, Scenario};
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
    let received: u64 = report.rounds.iter().map(|round| round.received).sum();
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
    let error = engine::run(&scenario).unwrap_err();
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
    let report = engine::run(&scenario).unwrap();
    assert!(report.rounds.iter().all(|round| round.received > 0));
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
        address,
        protocol,
        qos,
        payload_length: 64,
        links: Links {
            publishers,
            subscribers,
        },
        pace,
        in_flight_max: 50,
        topic_prefix: "loadtest".to_owned(),
        warmup: Duration::from_millis(100),
        round: Duration::from_millis(200),
        rounds: 2,
        broker_pid: Some(std::process::id()),
    }
}
