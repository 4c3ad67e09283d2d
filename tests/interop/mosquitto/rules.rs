//! One acl_file at both brokers: who may publish to what, and who is given what, over the wire.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;

use harness::{
    Broker, Client, Connect, Mosquitto, TemporaryDirectory, packet, program, text_with_length,
};

const RULES: &str = "\
topic read anon/#
topic write anon/+/in
topic deny anon/secret/#
  topic both
topic readwrite +/tail

# a comment
pattern readwrite own/%u/#
pattern deny own/%u/secret
user u1
topic readwrite a/+/c
topic deny a/x/c
topic a/y/#
topic write $x/u1
topic read +/+/tail
user u2
topic read #
topic deny a/#
topic write b/+/+
topic readwrite own/u2/secret
user  sp ace
topic read   spaced topic/x
pattern read cl/%c
pattern write dev/x-%c-y/+
pattern read both/%u/%c
pattern read $x/%u
pattern read for/all
pattern readwrite %u/leaf
user u1
topic write late/#
topic deny for/all
user root
topic readwrite #
topic readwrite $x/#
";

const CLIENTS: [(Option<&str>, &str); 10] = [
    (None, "c1"),
    (Some("u1"), "c1"),
    (Some("u1"), "dev-2"),
    (Some("u2"), "c1"),
    (Some("sp ace"), "c 1"),
    (Some("nobody"), "c1"),
    (Some("U1"), "c1"),
    (Some("#"), "c1"),
    (Some("+"), "c1"),
    (Some("u1"), "+"),
];

/// Names that Mosquitto 2.0 puts into patterns, levels and all, and we do not.
const STRICTER: [(Option<&str>, &str); 3] = [
    (Some("u1/deep"), "c1"),
    (Some("u2"), "c/1"),
    (Some("$x"), "c1"),
];

const TOPICS: [&str; 40] = [
    "anon",
    "anon/a",
    "anon/a/in",
    "anon/secret",
    "anon/secret/x",
    "anon/secret/in",
    "both",
    "x/tail",
    "/tail",
    "x/y/tail",
    "a",
    "a/b/c",
    "a/x/c",
    "a/y",
    "a/y/z",
    "a//c",
    "b/1/2",
    "b/1",
    "$x/u1",
    "$x/u2",
    "$x/tail",
    "spaced topic/x",
    "own/u1",
    "own/u1/x",
    "own/u1/secret",
    "own/u2/secret",
    "own/u2/x",
    "own/sp ace/x",
    "cl/c1",
    "cl/dev-2",
    "dev/x-c1-y/1",
    "dev/x-dev-2-y/1",
    "both/u1/c1",
    "for/all",
    "late/x",
    "cl/c 1",
    "own/u1/deep/x",
    "cl/c/1",
    "$x/leaf",
    "u1/leaf",
];

#[test]
fn hundreds_of_requests_are_decided_as_by_mosquitto_and_odd_names_open_less() {
    let Some((mosquitto, broker, _directory)) = both() else {
        return;
    };
    let mut compared = 0;
    let mut allowed = 0;
    for client in CLIENTS {
        let theirs = decisions(mosquitto.address, client);
        let ours = decisions(broker.address(), client);
        for (request, answer) in &theirs {
            assert_eq!(ours.get(request), Some(answer), "{client:?} {request:?}");
            compared += 1;
            allowed += u32::from(*answer);
        }
        assert_eq!(ours.len(), theirs.len());
    }
    assert!(compared >= 500, "{compared}");
    assert!(
        allowed > 60 && compared - allowed > 300,
        "{allowed} of {compared}"
    );
    println!("{compared} decisions are Mosquitto's, {allowed} of them allowed");
    // What is different is different in one direction.
    let mut different = 0;
    for client in STRICTER {
        let theirs = decisions(mosquitto.address, client);
        let ours = decisions(broker.address(), client);
        for (request, answer) in &theirs {
            assert!(
                *answer || !ours[request],
                "{client:?} {request:?}: we allow it"
            );
            different += u32::from(*answer != ours[request]);
        }
    }
    assert!(
        different > 0,
        "Mosquitto has changed, and docs/acl.md with it"
    );
}

fn both() -> Option<(Mosquitto, Broker, TemporaryDirectory)> {
    let program = program("mosquitto")?;
    let directory = TemporaryDirectory::new("rules");
    fs::create_dir(directory.path()).unwrap();
    let file = directory.path().join("acl");
    fs::write(&file, RULES).unwrap();
    let lines = format!("allow_anonymous true\nacl_file {}\n", file.display());
    let mosquitto = Mosquitto::start(&program, directory.path(), &lines);
    // With one shard nothing is on its way any more when a publish is acknowledged.
    let broker = Broker::options()
        .toml(&format!(
            "acl_file = {file:?}\nacl_subscribe = \"mosquitto\"\nshards = 1\n"
        ))
        .start();
    Some((mosquitto, broker, directory))
}

/// Whether each topic may be published to (`true`) and is received (`false`).
fn decisions(
    address: SocketAddr,
    (user, client_id): (Option<&str>, &str),
) -> BTreeMap<(bool, &'static str), bool> {
    let mut decided = BTreeMap::new();
    let mut client = connect(address, user, client_id);
    let filters: String = TOPICS
        .iter()
        .map(|topic| format!(" s'{topic}' 00"))
        .collect();
    client.send(&packet("82", &format!("m1 00{filters}")));
    assert_eq!(client.receive_packet()[0], 0x90);
    let mut root = connect(address, Some("root"), "root");
    for topic in &TOPICS {
        let code = publish(&mut root, topic);
        assert!(
            matches!(code, 0x00 | 0x10),
            "root may not publish to {topic}: {code:#x}"
        );
    }
    client.send(&[0xc0, 0]);
    let mut received = Vec::new();
    loop {
        let packet = client.receive_packet();
        match packet[0] {
            0xd0 => break,
            0x30 => received.push(packet),
            other => panic!("{other:#x}"),
        }
    }
    for topic in &TOPICS {
        let name = text_with_length(topic.as_bytes());
        let is_it = |packet: &Vec<u8>| packet[2..].starts_with(&name);
        decided.insert((false, *topic), received.iter().any(is_it));
    }
    client.send(&packet(
        "a2",
        &format!("m2 00{}", filters.replace("' 00", "'")),
    ));
    assert_eq!(client.receive_packet()[0], 0xb0);
    for topic in TOPICS {
        let code = publish(&mut client, topic);
        assert!(matches!(code, 0x00 | 0x10 | 0x87), "{topic}: {code:#x}");
        decided.insert((true, topic), code != 0x87);
    }
    client.disconnect();
    decided
}

fn connect(address: SocketAddr, user: Option<&str>, client_id: &str) -> Client {
    let mut connect = Connect::v5(client_id);
    if let Some(user) = user {
        connect = connect.username(user);
    }
    let mut client = Client::open_at(address);
    client.send(&connect.bytes());
    let connack = client.receive_packet();
    assert_eq!((connack[0], connack[3]), (0x20, 0), "{connack:x?}");
    client
}

/// The Reason Code of its PUBACK.
fn publish(client: &mut Client, topic: &str) -> u8 {
    client.send(&packet("32", &format!("s'{topic}' m7 00 'x'")));
    let puback = client.receive_packet();
    assert_eq!(puback[0], 0x40, "{puback:x?}");
    puback.get(4).copied().unwrap_or(0)
}
