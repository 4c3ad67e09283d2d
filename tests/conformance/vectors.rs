//! The byte-exact exchanges: every one played over TCP against one broker, and over WebSocket against another.
//!
//! Comes in: the files of `../shared/conformance/mosquitto-vectors` (their format: `FORMAT.md` there) and a running broker. Goes out: a
//! list of the exchanges that went otherwise, with the bytes expected and received. The files are not part of the project: where they
//! are not present, the test says so and plays nothing.
//!
//! Order: within a file as it stands. Files whose exchanges touch what clients share (topics, client ids of their own) are played one
//! after the other, the rest beside them.
//!
//! Environment: `VECTORS_FILTER` plays only exchanges whose "<file>: <group>: <name>" contains it; `VECTORS_DIR` names another folder.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use harness::{Broker, Client, Connect, Unexpected, bridge_to_web_socket, bytes, hex, parse_bytes};
use serde_json::Value;

#[test]
fn every_byte_exact_exchange_goes_as_written() {
    play_all(Broker::start(), |broker| broker.address());
}

#[test]
fn every_byte_exact_exchange_goes_as_written_over_web_socket() {
    let broker = Broker::options().toml(WEB_SOCKET).start();
    play_all(broker, |broker| bridge_to_web_socket(broker.address()));
}

fn play_all(mut broker: Broker, address: impl Fn(&Broker) -> SocketAddr) {
    let directory = directory();
    if !directory.is_dir() {
        println!(
            "left out: the byte-exact exchanges are not present in {}",
            directory.display()
        );
        return;
    }
    let files = read_files(&directory);
    let count: usize = files.iter().map(|file| file.exchanges.len()).sum();
    let groups: usize = files.iter().map(|file| file.groups).sum();
    let filter = std::env::var("VECTORS_FILTER").unwrap_or_default();
    if filter.is_empty() {
        assert_eq!(
            (count, groups),
            (1826, 69),
            "exchanges and groups in {}",
            directory.display()
        );
    }

    let outcomes = play_files(&files, address(&broker), &filter);
    assert!(broker.is_alive(), "the broker ended:\n{}", broker.log());

    let failures: Vec<&String> = outcomes
        .values()
        .flat_map(|outcome| &outcome.failures)
        .collect();
    failures.iter().for_each(|failure| println!("{failure}"));
    for (file, outcome) in &outcomes {
        println!(
            "{file}: {} of {} right",
            outcome.played - outcome.failures.len(),
            outcome.played
        );
    }
    let played: usize = outcomes.values().map(|outcome| outcome.played).sum();
    println!("total: {} of {played} right", played - failures.len());
    assert!(played > 0, "no exchange matches VECTORS_FILTER={filter}");
    assert!(
        failures.is_empty(),
        "{} of {played} exchanges went otherwise",
        failures.len()
    );
}

#[test]
fn a_broker_that_says_nothing_fails_every_exchange() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    // Connections are accepted by the kernel and never read.
    for exchange in own_exchanges() {
        assert!(play(&exchange, address).is_err(), "{}", exchange.name);
    }
    drop(listener);
}

#[test]
fn a_broker_that_closes_at_once_fails_every_exchange_that_expects_bytes() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let exchanges = own_exchanges();
    let connections = exchanges.len();
    let server = std::thread::spawn(move || (0..connections).for_each(|_| drop(listener.accept())));
    for exchange in exchanges {
        let expects_only_close = !exchange.connect
            && exchange
                .steps
                .iter()
                .all(|step| matches!(step, Step::Send(_)));
        assert_eq!(
            play(&exchange, address).is_ok(),
            expects_only_close,
            "{}",
            exchange.name
        );
    }
    server.join().unwrap();
}

const WEB_SOCKET: &str = "allow_anonymous = true\n[[listeners]]\naddress = \"127.0.0.1:{port}\"\nprotocol = \"websocket\"\n";

/// One file, in the order in which it is to be played.
struct File {
    name: String,
    groups: usize,
    exchanges: Vec<Exchange>,
}

struct Exchange {
    group: String,
    name: String,
    version: u64,
    connect: bool,
    expect_disconnect: bool,
    steps: Vec<Step>,
}

enum Step {
    Send(Vec<u8>),
    Receive(Vec<u8>),
    ExternalPublish {
        topic: String,
        qos: u8,
        payload: Vec<u8>,
    },
}

#[derive(Default)]
struct Outcome {
    played: usize,
    failures: Vec<String>,
}

/// Plays each lane of files in a thread of its own.
fn play_files(files: &[File], address: SocketAddr, filter: &str) -> BTreeMap<String, Outcome> {
    let (shared, apart): (Vec<&File>, Vec<&File>) =
        files.iter().partition(|file| file.touches_shared_state());
    let lanes = std::iter::once(shared).chain(apart.into_iter().map(|file| vec![file]));
    let outcomes = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for lane in lanes {
            let outcomes = &outcomes;
            scope.spawn(move || {
                for file in lane {
                    let outcome = play_file(file, address, filter);
                    outcomes.lock().unwrap().insert(file.name.clone(), outcome);
                }
            });
        }
    });
    outcomes.into_inner().unwrap()
}

fn play_file(file: &File, address: SocketAddr, filter: &str) -> Outcome {
    let mut outcome = Outcome::default();
    for exchange in &file.exchanges {
        let title = format!("{}: {}: {}", file.name, exchange.group, exchange.name);
        if !title.contains(filter) {
            continue;
        }
        outcome.played += 1;
        if let Err(failure) = play(exchange, address) {
            outcome.failures.push(format!("FAILED {title}\n{failure}"));
        }
    }
    outcome
}

/// Plays one exchange on a new connection; the error tells the step and the bytes.
fn play(exchange: &Exchange, address: SocketAddr) -> Result<(), String> {
    let mut client =
        Client::try_open_at(address).map_err(|error| format!("  cannot connect: {error}"))?;
    if exchange.connect {
        let client_id = format!("{} {}", exchange.group, exchange.name);
        let (connect, connack) = match exchange.version {
            3 => (Connect::v3(client_id), "20 02 00 00"),
            4 => (Connect::v4(client_id), "20 02 00 00"),
            _ => (
                Connect::v5(client_id),
                "20 0e 00 00 0b 22 00 0a 27 00 1e 84 80 21 00 14",
            ),
        };
        client.send(&connect.bytes());
        let expected = bytes(connack);
        client
            .try_expect(&expected)
            .map_err(|unexpected| report("CONNECT", &expected, &unexpected))?;
    }
    let mut sent = "nothing".to_owned();
    for step in &exchange.steps {
        match step {
            Step::Send(bytes) => {
                client.send(bytes);
                sent = hex(bytes);
            }
            Step::Receive(expected) => {
                client
                    .try_expect(expected)
                    .map_err(|unexpected| report(&sent, expected, &unexpected))?;
            }
            Step::ExternalPublish {
                topic,
                qos,
                payload,
            } => {
                publish_as_helper(address, topic, *qos, payload)?;
                sent = format!("a PUBLISH by another client to {topic}");
            }
        }
    }
    if exchange.expect_disconnect {
        return client.try_expect_close().map_err(|unexpected| {
            format!("  after {sent}\n  expected the close\n  received {unexpected}")
        });
    }
    client.send(&[0xc0, 0]);
    let expected = [0xd0, 0];
    client
        .try_expect(&expected)
        .map_err(|unexpected| report(&format!("{sent}, PINGREQ"), &expected, &unexpected))?;
    // The next exchange must not meet this one's subscriptions or will.
    if client.leave() {
        Ok(())
    } else {
        Err("  the broker does not close after our end of file".to_owned())
    }
}

fn report(sent: &str, expected: &[u8], unexpected: &Unexpected) -> String {
    format!(
        "  after {sent}\n  expected {}\n  received {unexpected}",
        hex(expected)
    )
}

/// Another 3.1.1 client publishes and completes the exchange of its QoS.
fn publish_as_helper(
    address: SocketAddr,
    topic: &str,
    qos: u8,
    payload: &[u8],
) -> Result<(), String> {
    let mut helper = Client::try_open_at(address)
        .map_err(|error| format!("  the helper cannot connect: {error}"))?;
    let packet_id = if qos > 0 { "m1" } else { "" };
    let mut publish = bytes(&format!("s'{topic}' {packet_id}"));
    publish.extend_from_slice(payload);
    let mut packet = vec![0x30 | (qos << 1)];
    packet.extend(harness::variable_byte_integer(publish.len() as u64));
    packet.extend(publish);

    let mut exchanges = vec![(Connect::v4("helper").bytes(), "20 02 00 00")];
    match qos {
        0 => exchanges.push((packet, "")),
        1 => exchanges.push((packet, "40 02 m1")),
        _ => exchanges.extend([(packet, "50 02 m1"), (bytes("62 02 m1"), "70 02 m1")]),
    }
    for (sent, answer) in exchanges {
        helper.send(&sent);
        let expected = bytes(answer);
        helper.try_expect(&expected).map_err(|unexpected| {
            report(&format!("helper's {}", hex(&sent)), &expected, &unexpected)
        })?;
    }
    helper.send(&[0xe0, 0]);
    helper
        .try_expect_close()
        .map_err(|unexpected| format!("  after the helper's DISCONNECT: {unexpected}"))
}

impl File {
    /// CONNECTs of its own (client ids, wills), PUBLISHes and SUBSCRIBEs can meet those of another file.
    fn touches_shared_state(&self) -> bool {
        let mut steps = self.exchanges.iter().flat_map(|exchange| &exchange.steps);
        steps.any(|step| match step {
            Step::Send(bytes) => matches!(bytes.first().map(|byte| byte >> 4), Some(1 | 3 | 8)),
            Step::Receive(_) => false,
            Step::ExternalPublish { .. } => true,
        })
    }
}

fn directory() -> PathBuf {
    let default =
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/conformance/mosquitto-vectors");
    std::env::var_os("VECTORS_DIR").map_or_else(default, PathBuf::from)
}

fn read_files(directory: &Path) -> Vec<File> {
    let entries = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = entries
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "json")
        })
        .collect();
    paths.sort();
    paths.iter().map(|path| read_file(path)).collect()
}

fn read_file(path: &Path) -> File {
    let name = path.file_stem().unwrap().to_string_lossy().into_owned();
    let text = std::fs::read_to_string(path).unwrap();
    let groups: Vec<Value> =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
    let exchanges = groups.iter().flat_map(read_group).collect();
    File {
        name,
        groups: groups.len(),
        exchanges,
    }
}

fn read_group(group: &Value) -> Vec<Exchange> {
    let tests = group["tests"].as_array().unwrap().iter();
    let enabled = tests.filter(|test| {
        !setting(test, group, "disable", &Value::Bool(false))
            .as_bool()
            .unwrap()
    });
    enabled.map(|test| read_exchange(test, group)).collect()
}

fn read_exchange(test: &Value, group: &Value) -> Exchange {
    let name = test["name"].as_str().unwrap().to_owned();
    let steps = test["msgs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| read_step(step, &name))
        .collect();
    Exchange {
        group: group["group"].as_str().unwrap().to_owned(),
        version: setting(test, group, "ver", &Value::from(4))
            .as_u64()
            .unwrap(),
        connect: setting(test, group, "connect", &Value::Bool(true))
            .as_bool()
            .unwrap(),
        expect_disconnect: setting(test, group, "expect_disconnect", &Value::Bool(true))
            .as_bool()
            .unwrap(),
        name,
        steps,
    }
}

fn read_step(step: &Value, name: &str) -> Step {
    let payload = step["payload"].as_str().unwrap();
    let words = || parse_bytes(payload).unwrap_or_else(|error| panic!("{name}: {error}"));
    match step["type"].as_str().unwrap() {
        "send" => Step::Send(words()),
        "recv" => Step::Receive(words()),
        "external_publish" => Step::ExternalPublish {
            topic: step["topic"].as_str().unwrap().to_owned(),
            qos: u8::try_from(step["qos"].as_u64().unwrap()).unwrap(),
            payload: payload.as_bytes().to_vec(),
        },
        other => panic!("{name}: unknown step {other}"),
    }
}

/// What the test says, else its group, else the default.
fn setting<'a>(test: &'a Value, group: &'a Value, key: &str, default: &'a Value) -> &'a Value {
    test.get(key).or_else(|| group.get(key)).unwrap_or(default)
}

/// A few exchanges of each kind, to prove the runner itself.
fn own_exchanges() -> Vec<Exchange> {
    let exchange = |name: &str, connect, expect_disconnect, steps| Exchange {
        group: "own".to_owned(),
        name: name.to_owned(),
        version: 4,
        connect,
        expect_disconnect,
        steps,
    };
    vec![
        exchange("ping", true, false, vec![]),
        exchange(
            "close after a bad packet",
            true,
            true,
            vec![Step::Send(bytes("00 r0"))],
        ),
        exchange(
            "close of a first packet",
            false,
            true,
            vec![Step::Send(bytes("00 r0"))],
        ),
        exchange(
            "answer",
            false,
            false,
            vec![Step::Send(bytes("c0 00")), Step::Receive(bytes("d0 00"))],
        ),
    ]
}
