//! CONNECT with and without user name and password. The answers are those of Mosquitto 2.0.11, probed case by case.

use std::time::Duration;

use harness::{Broker, Client, Connect, TemporaryDirectory, packet};

use crate::world::{ALICE, World, world, world_of};

/// A user whose password takes many seconds to compare.
const SLOW: &str = "u:$7$10000000$asUtNpDrKXxmU0NR$wqqxH8+ucvHlzspiYRYHBzU1dZHctQ2Fv7k2pnJJCzMpI8yKpN1UY/GdjUTaGYxFqipnFDIQjJQqx5ob73N8oQ==\n";

type Version = fn(&str) -> Connect;

fn versions() -> [Version; 3] {
    [
        |id| Connect::v3(id),
        |id| Connect::v4(id),
        |id| Connect::v5(id),
    ]
}

#[test]
fn the_right_password_comes_in_and_every_other_is_refused_with_one_code() {
    let world = world("");
    for version in versions() {
        world.accepts(&version("a").username("alice").password("secret"));
        world.accepts(&version("i").username("ivy").password("s"));
        for (user, password) in [
            ("alice", "Secret"),
            // Not with a NUL behind it: HMAC pads its key with those, so they are the same password in every broker.
            ("alice", "secret "),
            ("alice", "s"),
            ("alice", ""),
            ("Alice", "secret"),
            ("zoe", "secret"),
            ("alice:", "secret"),
        ] {
            world.refuses(&version("c").username(user).password(password));
        }
        world.refuses(&version("c").username("alice"));
        world.refuses(&version("c").username("zoe"));
        // An empty user name is none.
        world.refuses(&version("c").username("").password("secret"));
        world.refuses(&version("c").username(""));
        world.refuses(&version("c"));
    }
    world.refuses(&Connect::v5("c").password("secret"));
}

#[test]
fn with_allow_anonymous_whoever_names_nobody_comes_in_and_whoever_names_somebody_must_prove_it() {
    let world = world("allow_anonymous = true");
    for version in versions() {
        world.accepts(&version("c"));
        world.accepts(&version("c").username(""));
        world.accepts(&version("c").username("").password("x"));
        world.accepts(&version("c2").username("alice").password("secret"));
        world.refuses(&version("c").username("alice").password("x"));
        world.refuses(&version("c").username("alice"));
        world.refuses(&version("c").username("zoe").password("x"));
    }
    world.accepts(&Connect::v5("c").password("secret"));
}

#[test]
fn without_a_password_file_nobody_looks_at_user_names() {
    let broker = Broker::start();
    for version in versions() {
        for connect in [
            version("c"),
            version("c").username("alice").password("x"),
            version("c").username("alice"),
        ] {
            Client::connect(&broker, &connect).disconnect();
        }
    }
}

/// T20 [MQTT-3.1.4-6]
#[test]
fn what_follows_a_refused_connect_is_ignored() {
    let world = world("");
    let mut witness = world.accepts(&Connect::v4("w").username("alice").password("secret"));
    witness.send(&packet("82", "m1 s't' 00"));
    witness.expect("90 03 m1 00");
    let mut client = Client::open(&world.broker);
    let mut bytes = Connect::v4("c").username("alice").password("x").bytes();
    bytes.extend(packet("30", "s't' 'x'"));
    client.send(&bytes);
    assert_eq!(client.receive_to_close(), [0x20, 2, 0, 5]);
    witness.expect_nothing_until_pingresp();
}

/// T19: who is refused and does not go keeps nothing of the broker's.
#[test]
fn t19_after_a_refusal_the_connection_is_over_whatever_the_client_does() {
    let mut world = world("connections_max = 40\nlog_level = \"all\"");
    let mut kept = Vec::new();
    // Three times as many as there is room for, none of which closes its socket.
    for number in 0..120 {
        let id = format!("c{number}");
        let connect = Connect::v4(&id).username("alice").password("x").bytes();
        harness::wait_until("there is room again", harness::PATIENCE, || {
            let mut client = Client::open(&world.broker);
            client.send(&connect);
            let Ok(answer) = client.try_receive_packet() else {
                return false;
            };
            assert_eq!(answer, [0x20, 2, 0, 5]);
            client.expect_close();
            // What it goes on saying is heard by nobody.
            client.send(&packet("30", "s't' 'x'"));
            kept.push(client);
            true
        });
    }
    let alice = Connect::v4("c")
        .username("alice")
        .password("secret")
        .bytes();
    harness::wait_until("there is room again", harness::PATIENCE, || {
        let mut client = Client::open(&world.broker);
        client.send(&alice);
        client.try_receive_packet().is_ok()
    });
    world.broker.wait_for_log("New client connected from");
    let log = world.broker.log();
    assert!(!log.contains("Received PUBLISH"), "{log}");
}

/// What is sent right behind CONNECT waits for the verdict and is served then, in order.
#[test]
fn what_follows_an_accepted_connect_is_served() {
    let world = world("");
    let mut client = Client::open(&world.broker);
    let mut bytes = Connect::v4("c")
        .username("alice")
        .password("secret")
        .bytes();
    bytes.extend(packet("82", "m1 s't' 00"));
    bytes.extend(packet("30", "s't' 'x'"));
    bytes.extend([0xc0, 0]);
    client.send(&bytes);
    client.expect("20 02 00 00");
    client.expect("90 03 m1 00");
    client.expect_bytes(&packet("30", "s't' 'x'"));
    client.expect("d0 00");
}

/// D19: `pre_auth_packet_size_max` bounds what waits behind CONNECT.
#[test]
fn too_much_behind_a_connect_that_waits_ends_the_connection() {
    let world = world_of(SLOW, "pre_auth_packet_size_max = 100");
    let mut client = Client::open(&world.broker);
    let mut bytes = Connect::v4("c").username("u").password("x").bytes();
    bytes.extend(packet("30", &format!("s't' '{}'", "x".repeat(100))));
    client.send(&bytes);
    client.expect_close();
}

/// R21: comparing passwords does not hold up those who are served.
#[test]
fn messages_flow_while_passwords_are_compared() {
    let world = world_of(&format!("{SLOW}{ALICE}"), "shards = 1\nauth_threads = 1");
    let mut served = world.accepts(&Connect::v4("s").username("alice").password("secret"));
    let mut waiting = Client::open(&world.broker);
    waiting.send(&Connect::v4("c").username("u").password("x").bytes());
    served.send(&packet("82", "m1 s't' 00"));
    served.expect("90 03 m1 00");
    for _ in 0..20 {
        served.send(&packet("30", "s't' 'x'"));
        served.expect_bytes(&packet("30", "s't' 'x'"));
    }
    waiting.set_timeout(Duration::from_millis(1));
    waiting
        .try_receive_packet()
        .expect_err("the password is still being compared");
}

#[test]
fn a_full_queue_answers_that_the_server_is_busy() {
    let world = world_of(SLOW, "shards = 1\nauth_threads = 1\nauth_queue_max = 1");
    let login = |connect: Connect| {
        let mut client = Client::open(&world.broker);
        client.set_timeout(Duration::from_millis(50));
        client.send(&connect.username("u").password("x").bytes());
        client
    };
    // Who of these is told something, and the rest of them.
    let told = |clients: &mut Vec<Client>, count: usize| {
        let mut packets = Vec::new();
        harness::wait_until("enough of them are told", harness::PATIENCE, || {
            clients.retain_mut(|client| {
                let packet = client.try_receive_packet();
                packet.map(|packet| packets.push(packet)).is_err()
            });
            packets.len() >= count
        });
        packets
    };
    // One password is compared and one waits, for many seconds; in which order they are read is nobody's promise, nor whether the first
    // one is being compared already when the others are read.
    let mut new = (0..6)
        .map(|number| login(Connect::v5(format!("c{number}"))))
        .collect();
    let answers = told(&mut new, 4);
    assert!(
        answers.iter().all(|packet| packet[3] == 0x89),
        "{answers:?}"
    );
    assert!(!new.is_empty(), "all six are told");
    let mut old = (0..2)
        .map(|number| login(Connect::v4(format!("old{number}"))))
        .collect();
    assert_eq!(told(&mut old, 1)[0], [0x20, 2, 0, 3]);
}

#[test]
fn a_bad_password_file_stops_the_start_and_every_line_is_told() {
    let directory = TemporaryDirectory::new("bad-users");
    std::fs::create_dir(directory.path()).unwrap();
    let passwords = directory.path().join("passwd");
    std::fs::write(&passwords, format!("{ALICE}bob\n\ncarl:geheim\n{ALICE}")).unwrap();
    let config = directory.path().join("nightjar.toml");
    let text = format!("password_file = {passwords:?}\n[[listeners]]\naddress = \"127.0.0.1:0\"\n");
    std::fs::write(&config, text).unwrap();
    for test_only in [false, true] {
        let mut command = std::process::Command::new(harness::binary());
        command.arg("--ephemeral").arg("-c").arg(&config);
        if test_only {
            command.arg("--test-config");
        }
        let output = command.output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{told}");
        for line in [2, 4, 5] {
            assert!(told.contains(&format!("passwd:{line}: ")), "{told}");
        }
        assert!(!told.contains("geheim"), "{told}");
    }
}

/// A7: CVE-2018-12551 was a line without a name that let somebody in. Blank lines are none.
#[test]
fn a7_a_line_that_is_no_user_stops_the_start_and_lets_nobody_in() {
    let directory = TemporaryDirectory::new("bad-lines");
    std::fs::create_dir(directory.path()).unwrap();
    let passwords = directory.path().join("passwd");
    let config = directory.path().join("nightjar.toml");
    let hash = ALICE.trim_end().strip_prefix("alice").unwrap();
    std::fs::write(&config, format!("password_file = {passwords:?}\n")).unwrap();
    for line in [
        "user",
        "user:",
        ":",
        hash,
        ":secret",
        "user:$7$",
        "user:$7$101$a$b",
        "\u{0}",
    ] {
        std::fs::write(&passwords, format!("{ALICE}\n{line}\n")).unwrap();
        let output = std::process::Command::new(harness::binary())
            .args(["--test-config", "-c"])
            .arg(&config)
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{line:?}: {told}");
        assert!(told.contains("passwd:3: "), "{line:?}: {told}");
    }
    let world = world_of(&format!("\n{ALICE}\n\r\n# {ALICE}"), "");
    world.refuses(&Connect::v4("c").username("").password(""));
    world.refuses(&Connect::v4("c").username("").password("secret"));
    world.accepts(&Connect::v4("c").username("alice").password("secret"));
}

/// T3
#[test]
fn a_password_file_that_everybody_can_read_is_warned_of() {
    use std::os::unix::fs::PermissionsExt;
    for (mode, is_warned) in [(0o604, true), (0o640, false)] {
        let directory = TemporaryDirectory::new("modes");
        std::fs::create_dir(directory.path()).unwrap();
        let passwords = directory.path().join("passwd");
        std::fs::write(&passwords, ALICE).unwrap();
        std::fs::set_permissions(&passwords, std::fs::Permissions::from_mode(mode)).unwrap();
        let mut broker = Broker::options()
            .toml(&format!(
                "password_file = {passwords:?}\n[[listeners]]\naddress = \"127.0.0.1:{{port}}\"\n"
            ))
            .start();
        // What is said before that is there then.
        broker.wait_for_log(" running");
        let warning = "passwd has world readable permissions";
        assert_eq!(
            broker.log().contains(warning),
            is_warned,
            "{}",
            broker.log()
        );
    }
}

/// T17, and the words that people look for.
#[test]
fn every_refusal_has_one_line_without_the_password() {
    let mut world = world("log_level = \"all\"\nreason_strings = true\nallow_anonymous = false");
    let deeds = [
        (
            Connect::v5("c1").username("alice").password("geheim1"),
            "Client c1 [127.0.0.1:",
            "disconnected, not authorised (user 'alice': wrong password).",
        ),
        (
            Connect::v5("c2").username("zoe").password("geheim2"),
            "Client c2 [127.0.0.1:",
            "disconnected, not authorised (user 'zoe': unknown user).",
        ),
        (
            Connect::v5("c3"),
            "Client c3 [127.0.0.1:",
            "disconnected, not authorised (no user: no user name, and allow_anonymous is false).",
        ),
        // Who has no client id is called by the one that it would have got, as with Mosquitto.
        (
            Connect::v5("").username("bob").password("geheim4"),
            "Client auto-",
            "disconnected, not authorised (user 'bob': unknown user).",
        ),
        (
            Connect::v5("c4")
                .username("a\u{2028}\"b")
                .password("geheim3"),
            "Client c4 [127.0.0.1:",
            "unknown user).",
        ),
    ];
    let mut answers = Vec::new();
    for (connect, begin, end) in &deeds {
        let (_, answer) = world.answer(connect);
        answers.push(answer);
        let refusals = |broker: &Broker| {
            let log = broker.log();
            let is_it = |line: &&str| line.contains(begin) && line.contains(end);
            log.lines().filter(is_it).count()
        };
        harness::wait_until("the refusal is logged", harness::PATIENCE, || {
            refusals(&world.broker) > 0
        });
        assert_eq!(refusals(&world.broker), 1);
    }
    // What the client is told does not say which of the two was wrong.
    assert_eq!(answers[0], answers[1]);
    World::accepts(
        &world,
        &Connect::v5("c5").username("alice").password("secret"),
    );
    world.broker.wait_for_log("as c5 (p5, c1, k60, u'alice').");
    let log = world.broker.log();
    assert!(!log.contains("geheim") && !log.contains("secret"), "{log}");
}
