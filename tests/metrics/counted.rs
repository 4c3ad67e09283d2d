//! What is counted is what happened: workloads that count for themselves.

use std::io::Write;
use std::process::{Command, Stdio};

use harness::{Client, Connect, PATIENCE, bytes, packet, wait_until};

use crate::Watched;

/// A client that knows what went through its socket.
struct Counting {
    client: Client,
    sent: u64,
    received: u64,
}

impl Counting {
    fn connect(watched: &Watched, client_id: &str) -> Self {
        let connect = Connect::v4(client_id);
        let sent = connect.bytes().len() as u64;
        let client = Client::connect(&watched.broker, &connect);
        let received = client.connack_body().len() as u64 + 2;
        Self {
            client,
            sent,
            received,
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.client.send(bytes);
        self.sent += bytes.len() as u64;
    }

    fn receive(&mut self, first_byte: u8) -> Vec<u8> {
        let packet = self.client.receive_packet();
        assert_eq!(packet[0], first_byte, "{packet:02x?}");
        self.received += packet.len() as u64;
        packet
    }
}

/// Those that came in through the one listener of `Watched`.
const CONNECTIONS: &str = "nightjar_connections{listener=\"front\",protocol=\"mqtt\"}";

#[test]
fn ten_thousand_messages_are_counted_to_the_last_byte() {
    const BATCH: u16 = 100;
    let watched = Watched::start("sys_interval_seconds = 0");
    let before = watched.metrics();
    let mut publisher = Counting::connect(&watched, "publisher");
    let mut subscriber = Counting::connect(&watched, "subscriber");
    subscriber.send(&packet("82", "m1 s'count/#' 01"));
    subscriber.receive(0x90);
    let payload = "x".repeat(100);
    // 40 batches of QoS 0, 40 of QoS 1, 20 of QoS 2.
    for batch in 0..100 {
        let qos = batch % 5 / 2;
        let mut burst = Vec::new();
        for id in 1..=BATCH {
            burst.extend(match qos {
                0 => packet("30", &format!("s'count/{id}' '{payload}'")),
                1 => packet("32", &format!("s'count/{id}' m{id} '{payload}'")),
                _ => packet("34", &format!("s'count/{id}' m{id} '{payload}'")),
            });
        }
        publisher.send(&burst);
        let mut releases = Vec::new();
        for id in 1..=BATCH {
            match qos {
                0 => {}
                1 => drop(publisher.receive(0x40)),
                _ => {
                    publisher.receive(0x50);
                    releases.extend(bytes(&format!("62 02 m{id}")));
                }
            }
        }
        if qos == 2 {
            publisher.send(&releases);
            (0..BATCH).for_each(|_| drop(publisher.receive(0x70)));
        }
        let mut acknowledgements = Vec::new();
        for _ in 0..BATCH {
            let first_byte = if qos == 0 { 0x30 } else { 0x32 };
            let message = subscriber.receive(first_byte);
            if qos > 0 {
                let at = 4 + usize::from(message[3]);
                acknowledgements.extend([0x40, 2, message[at], message[at + 1]]);
            }
        }
        subscriber.send(&acknowledgements);
    }
    for client in [&mut publisher, &mut subscriber] {
        client.send(&[0xc0, 0]);
        client.receive(0xd0);
    }
    let sheet = watched.metrics();
    let expected = [
        ("nightjar_messages_received_total{qos=\"0\"}", 4_000),
        ("nightjar_messages_received_total{qos=\"1\"}", 4_000),
        ("nightjar_messages_received_total{qos=\"2\"}", 2_000),
        ("nightjar_messages_delivered_total{qos=\"0\"}", 4_000),
        ("nightjar_messages_delivered_total{qos=\"1\"}", 6_000),
        ("nightjar_messages_delivered_total{qos=\"2\"}", 0),
        ("nightjar_messages_received_payload_bytes_total", 1_000_000),
        ("nightjar_messages_delivered_payload_bytes_total", 1_000_000),
        ("nightjar_packets_received_total{type=\"connect\"}", 2),
        ("nightjar_packets_received_total{type=\"publish\"}", 10_000),
        ("nightjar_packets_received_total{type=\"puback\"}", 6_000),
        ("nightjar_packets_received_total{type=\"pubrel\"}", 2_000),
        ("nightjar_packets_received_total{type=\"subscribe\"}", 1),
        ("nightjar_packets_received_total{type=\"pingreq\"}", 2),
        ("nightjar_packets_sent_total{type=\"connack\"}", 2),
        ("nightjar_packets_sent_total{type=\"publish\"}", 10_000),
        ("nightjar_packets_sent_total{type=\"puback\"}", 4_000),
        ("nightjar_packets_sent_total{type=\"pubrec\"}", 2_000),
        ("nightjar_packets_sent_total{type=\"pubcomp\"}", 2_000),
        ("nightjar_packets_sent_total{type=\"suback\"}", 1),
        ("nightjar_packets_sent_total{type=\"pingresp\"}", 2),
        (
            "nightjar_received_bytes_total{listener=\"front\"}",
            publisher.sent + subscriber.sent,
        ),
        (
            "nightjar_sent_bytes_total{listener=\"front\"}",
            publisher.received + subscriber.received,
        ),
        ("nightjar_connects_accepted_total", 2),
        (CONNECTIONS, 2),
        ("nightjar_sessions{state=\"connected\"}", 2),
        ("nightjar_sessions{state=\"offline\"}", 0),
        ("nightjar_subscriptions", 1),
        ("nightjar_queued_messages", 0),
        ("nightjar_inflight_messages{direction=\"inbound\"}", 0),
        ("nightjar_inflight_messages{direction=\"outbound\"}", 0),
        ("nightjar_silent_shards", 0),
    ];
    for (series, expected) in expected {
        assert_eq!(sheet.value(series), expected, "{series}");
    }
    let dropped = |sheet: &crate::Sheet| -> u64 {
        sheet
            .series()
            .iter()
            .filter(|series| series.starts_with("nightjar_messages_dropped_total"))
            .map(|series| sheet.value(series))
            .sum()
    };
    assert_eq!((dropped(&before), dropped(&sheet)), (0, 0));
    assert_eq!(before.series(), sheet.series());
}

#[test]
fn refusals_ends_and_drops_are_counted_by_their_reasons() {
    let watched = Watched::start("sys_interval_seconds = 0\nretained_count_max = 1");
    // An identifier of no characters with clean session 0: 0x02, which 5.0 calls 0x85.
    let mut refused = Client::open(&watched.broker);
    refused.send(&Connect::v4("").clean(false).bytes());
    refused.expect("20 02 00 02");
    refused.expect_close();
    let mut unknown = Client::open(&watched.broker);
    unknown.send(&Connect::v5("unknown").properties("15 s'X'").bytes());
    assert_eq!(unknown.receive_to_close()[3], 0x8c);
    let mut broken = Client::connect_v5(&watched.broker, "broken", "");
    broken.send_words("82 02 00 00");
    broken.receive_to_close();
    let mut kept = Client::connect(
        &watched.broker,
        &Connect::v5("kept").clean(true).properties("11 L600"),
    );
    kept.send(&packet("82", "m1 v0 s'a/#' 00 s'$share/g/b' 01"));
    kept.expect("90 05 m1 v0 00 01");
    let subscribed = watched.metrics();
    assert_eq!(subscribed.value("nightjar_subscriptions"), 2);
    assert_eq!(subscribed.value("nightjar_shared_subscriptions"), 1);
    assert_eq!(subscribed.value("nightjar_shared_subscription_groups"), 1);
    kept.disconnect();
    wait_until("it is away", PATIENCE, || {
        watched
            .metrics()
            .value("nightjar_sessions{state=\"offline\"}")
            == 1
    });
    let mut publisher = Client::connect_v5(&watched.broker, "publisher", "");
    publisher.send(&packet("30", "s'a/1' v0 'offline'"));
    publisher.send(&packet("30", "s'nobody' v0 'x'"));
    publisher.send(&packet("30", "s'$SYS/broker/x' v0 'forged'"));
    publisher.send(&packet("31", "s'r/1' v0 'kept'"));
    publisher.send(&packet("31", "s'r/2' v0 'too many'"));
    publisher.expect_nothing_until_pingresp();
    let sheet = watched.metrics();
    let expected = [
        (
            "nightjar_connections_refused_total{listener=\"front\",reason=\"client_identifier_not_valid\"}",
            1,
        ),
        (
            "nightjar_connections_refused_total{listener=\"front\",reason=\"bad_authentication_method\"}",
            1,
        ),
        (
            "nightjar_connections_closed_total{listener=\"front\",reason=\"refused\"}",
            1,
        ),
        // The first, whose CONNECT is not one of 3.1.1, and the one with packet id 0.
        (
            "nightjar_connections_closed_total{listener=\"front\",reason=\"protocol_error\"}",
            2,
        ),
        ("nightjar_protocol_errors_total", 2),
        (
            "nightjar_connections_closed_total{listener=\"front\",reason=\"disconnect\"}",
            1,
        ),
        ("nightjar_sessions{state=\"connected\"}", 1),
        ("nightjar_sessions{state=\"offline\"}", 1),
        ("nightjar_sessions_created_total", 3),
        ("nightjar_sessions_ended_total{reason=\"disconnect\"}", 1),
        (
            "nightjar_messages_dropped_total{reason=\"qos0_offline\"}",
            1,
        ),
        // 'x' and the two that were retained.
        (
            "nightjar_messages_dropped_total{reason=\"no_subscribers\"}",
            3,
        ),
        (
            "nightjar_messages_dropped_total{reason=\"not_authorized\"}",
            1,
        ),
        (
            "nightjar_messages_dropped_total{reason=\"retained_full\"}",
            1,
        ),
        ("nightjar_retained_messages", 1),
    ];
    for (series, expected) in expected {
        assert_eq!(sheet.value(series), expected, "{series}");
    }
}

#[test]
fn what_is_on_its_way_is_counted_until_it_is_acknowledged_or_its_session_ends() {
    let watched = Watched::start("sys_interval_seconds = 0");
    let on_their_way = |watched: &Watched| {
        let sheet = watched.metrics();
        let of = |direction| {
            sheet.value(&format!(
                "nightjar_inflight_messages{{direction=\"{direction}\"}}"
            ))
        };
        (of("inbound"), of("outbound"))
    };
    let mut subscriber = Client::connect_v4(&watched.broker, "subscriber");
    subscriber.send(&packet("82", "m1 s'a' 02"));
    subscriber.expect("90 03 m1 02");
    let kept = Connect::v4("kept").clean(false);
    let mut away = Client::connect(&watched.broker, &kept);
    away.send(&packet("82", "m1 s'a' 01"));
    away.expect("90 03 m1 01");
    let mut publisher = Client::connect_v4(&watched.broker, "publisher");
    publisher.send(&packet("34", "s'a' m7 'x'"));
    publisher.expect("50 02 m7");
    subscriber.expect_bytes(&packet("34", "s'a' m1 'x'"));
    away.expect_bytes(&packet("32", "s'a' m1 'x'"));
    assert_eq!(on_their_way(&watched), (1, 2));
    publisher.send(&bytes("62 02 m7"));
    publisher.expect("70 02 m7");
    subscriber.send(&bytes("50 02 m1"));
    subscriber.expect("62 02 m1");
    // Its PUBCOMP is missing.
    assert_eq!(on_their_way(&watched), (0, 2));
    drop(away);
    subscriber.send(&bytes("70 02 m1"));
    subscriber.expect_nothing_until_pingresp();
    // A session that can come back has what it has not acknowledged.
    assert_eq!(on_their_way(&watched), (0, 1));
    Client::connect(&watched.broker, &kept.clean(true)).disconnect();
    wait_until("the session is gone", PATIENCE, || {
        on_their_way(&watched) == (0, 0)
    });
}

#[test]
fn what_comes_in_through_a_listener_is_counted_there() {
    let watched = Watched::start(
        "sys_interval_seconds = 0\n[[listeners]]\naddress = \"127.0.0.1:{second_port}\"\nprotocol = \"websocket\"\n\
         connections_max = 1\nprotocol_versions = [\"5.0\"]\n",
    );
    let second = format!("127.0.0.1:{}", watched.broker.second_port);
    let connections =
        format!("nightjar_connections{{listener=\"{second}\",protocol=\"websocket\"}}");
    let of_second = |name: &str| format!("nightjar_{name}{{listener=\"{second}\"}}");
    let _one = Client::connect_v4(&watched.broker, "one");
    let address = second.parse().unwrap();
    let waiting = std::net::TcpStream::connect::<std::net::SocketAddr>(address).unwrap();
    wait_until("it is open", PATIENCE, || {
        watched.metrics().value(&connections) == 1
    });
    let _refused = std::net::TcpStream::connect::<std::net::SocketAddr>(address).unwrap();
    wait_until("it is turned away", PATIENCE, || {
        let turned_away = of_second("connections_turned_away_total");
        watched.metrics().value(&turned_away) == 1
    });
    drop(waiting);
    wait_until("it is closed", PATIENCE, || {
        watched.metrics().value(&connections) == 0
    });
    let mut old = harness::WebClient::request(address, &harness::upgrade_request(""));
    old.send(&Connect::v4("old").bytes());
    // Between the refusal and its answer the numbers may be asked for, too.
    old.expect(&bytes("20 02 00 01"));
    wait_until("it is refused", PATIENCE, || {
        let closed = format!(
            "nightjar_connections_closed_total{{listener=\"{second}\",reason=\"refused\"}}"
        );
        watched.metrics().value(&closed) == 1
    });
    let sheet = watched.metrics();
    let expected = [
        (CONNECTIONS, 1),
        ("nightjar_connections_opened_total{listener=\"front\"}", 2),
        (
            "nightjar_connections_turned_away_total{listener=\"front\"}",
            0,
        ),
        (&of_second("connections_opened_total"), 2),
        (
            &of_second("received_bytes_total"),
            Connect::v4("old").bytes().len() as u64,
        ),
        (&of_second("sent_bytes_total"), 4),
    ];
    for (series, expected) in expected {
        assert_eq!(sheet.value(series), expected, "{series}");
    }
}

#[test]
fn r19_no_client_and_no_topic_makes_a_series() {
    let watched = Watched::start("");
    let before = watched.metrics();
    for number in 0..300 {
        let client_id = format!("client-{number}-\"\\{{}}é");
        let mut client = Client::connect_v4(&watched.broker, &client_id);
        client.send(&packet("82", &format!("m1 s't/{number}/+' 00")));
        client.receive_packet();
        let topic = format!("t/{number}/\"\u{1F426}\\{{le=1}}");
        client.send(&packet("31", &format!("s'{topic}' 'x'")));
        client.receive_packet();
    }
    wait_until("all are gone", PATIENCE, || {
        watched.metrics().value(CONNECTIONS) == 0
    });
    let after = watched.metrics();
    assert_eq!(before.series(), after.series());
    assert!(after.0.len() < 32 * 1024, "{} bytes", after.0.len());
    let (_, exporter) = watched.get("/metrics/mosquitto");
    assert!(!exporter.contains("client-"), "{exporter}");
}

#[test]
fn the_numbers_of_the_exporter_are_those_of_the_broker() {
    let watched = Watched::start("");
    let mut client = Client::connect_v4(&watched.broker, "one");
    client.send(&packet("82", "m1 s'a' 00"));
    client.expect("90 03 m1 00");
    let (status, text) = watched.get("/metrics/mosquitto");
    assert_eq!(status, 200);
    for line in [
        "# TYPE broker_bytes_received counter",
        "# TYPE broker_publish_messages_dropped counter",
        "# TYPE broker_clients_connected gauge",
        "broker_clients_connected 1",
        "broker_subscriptions_count 1",
        "broker_messages_received 2",
        "broker_load_connections_1min 0",
        "# TYPE broker_retained_messages_count gauge",
        "# TYPE broker_uptime gauge",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    assert!(!text.contains("broker_version") && !text.contains("clients_active"));
}

/// The rules of Prometheus for names, and the judgement of its own tool where that is installed.
#[test]
fn names_are_as_prometheus_wants_them() {
    let directory = harness::TemporaryDirectory::new("metrics-names");
    let watched = Watched::start_with("", |options| {
        options.argument("--data").argument(directory.text())
    });
    let sheet = watched.metrics();
    let manual = include_str!("../../docs/metrics.md");
    for line in sheet.0.lines() {
        let Some(rest) = line.strip_prefix("# TYPE ") else {
            continue;
        };
        let (name, kind) = rest.split_once(' ').expect("a name and a type");
        assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
        let help = format!("# HELP {name} ");
        let help = sheet.0.lines().find_map(|line| line.strip_prefix(&help));
        assert!(
            help.is_some_and(|help| help.len() > 5),
            "{name} has no help"
        );
        assert!(manual.contains(name), "{name} is not in docs/metrics.md");
    }
    // What the dashboard asks for is there.
    let dashboard = include_str!("../../deploy/grafana.json");
    assert!(serde_json::from_str::<serde_json::Value>(dashboard).is_ok());
    for name in dashboard.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_') {
        if name.starts_with("nightjar_") || name.starts_with("process_") {
            assert!(
                sheet.0.contains(&format!("# TYPE {name} ")),
                "the dashboard asks for {name}"
            );
        }
    }
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = promtool else {
        let missing = "promtool (Debian's package prometheus) is not installed";
        assert!(std::env::var_os("CI").is_none(), "{missing}");
        eprintln!("SKIPPED: {missing}");
        return;
    };
    let mut stdin = promtool.stdin.take().expect("it is piped");
    stdin.write_all(sheet.0.as_bytes()).unwrap();
    drop(stdin);
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[test]
fn a_reload_that_fails_is_seen_until_one_works() {
    let directory = harness::TemporaryDirectory::new("metrics-reload");
    std::fs::create_dir(directory.path()).unwrap();
    let users = directory.path().join("users");
    std::fs::write(&users, "").unwrap();
    let watched = Watched::start(&format!("password_file = \"{}\"", users.display()));
    let successful = "nightjar_config_last_reload_successful";
    assert_eq!(watched.metrics().value(successful), 1);
    let process = i32::try_from(watched.broker.process_id().unwrap()).unwrap();
    let process = rustix::process::Pid::from_raw(process).unwrap();
    for (text, expected) in [("no line of a user\n", 0), ("", 1)] {
        std::fs::write(&users, text).unwrap();
        rustix::process::kill_process(process, rustix::process::Signal::HUP).unwrap();
        wait_until("the reload is told", PATIENCE, || {
            watched.metrics().value(successful) == expected
        });
    }
}
