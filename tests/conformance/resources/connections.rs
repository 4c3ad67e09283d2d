//! What it takes to be connected: packets that cost time (R12), deadlines (R13, R14), storms (R15, R16), descriptors (R17), log lines
//! (R20), and parts of packets.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use harness::{
    Client, Connect, PATIENCE, Unexpected, bytes, hex, now, packet, raise_file_limit,
    variable_byte_integer, wait_until,
};

use crate::{Scene, contains};

#[test]
fn r12_user_properties_without_end_are_refused_quickly() {
    let mut scene = Scene::start("");
    // `hex` would cut what is so long: the packets are put together from bytes.
    let many = |first_byte: u8, before: &str, count: usize, after: &str| {
        let section = bytes("26 0000 0000").repeat(count);
        let length = variable_byte_integer(section.len() as u64);
        let body = [bytes(before), length, section, bytes(after)].concat();
        [
            vec![first_byte],
            variable_byte_integer(body.len() as u64),
            body,
        ]
        .concat()
    };
    let connect = many(0x10, "s'MQTT' 05 02 k60", 12_000, "s'id'");
    let publish = many(0x30, "s't'", 390_000, "'x'");
    let subscribe = many(0x82, "m1", 390_000, "s't' 00");
    for _ in 0..5 {
        let mut client = Client::open(&scene.broker);
        client.send(&connect);
        client.expect("20 03 00 97 00");
        client.expect_close();
        for sent in [&publish, &subscribe] {
            let mut client = Client::connect_v5(&scene.broker, "bomb", "");
            client.send(sent);
            client.expect("e0 01 97");
            client.expect_close();
        }
        scene.echo();
    }
    scene.finish();
}

#[test]
fn r13_connect_has_a_deadline_however_it_is_spread() {
    let scene = Scene::start("connect_timeout_seconds = \"1 s\"");
    let begun = now();
    let mut silent = Client::open(&scene.broker);
    let mut slow = Client::open(&scene.broker);
    // A byte now and then, for as long as it may.
    let connect = Connect::v5("slow".repeat(100)).bytes();
    let mut said = 0;
    while said < connect.len() && slow.stream().write_all(&connect[said..=said]).is_ok() {
        said += 1;
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(said < connect.len(), "it was let say all of it");
    for client in [&mut silent, &mut slow] {
        client.expect_close();
    }
    assert!(now().duration_since(begun) >= Duration::from_secs(1));
    scene.finish();
}

#[test]
fn r14_keep_alive_has_a_maximum_where_it_is_configured() {
    let scene = Scene::without_canaries("keep_alive_max = 1");
    for keep_alive in [0, 2, 60, 65_535] {
        let connect = Connect::v5("v5").keep_alive(keep_alive);
        let client = Client::connect(&scene.broker, &connect);
        assert!(
            contains(&client.connack, &bytes("13 H1")),
            "{}",
            hex(&client.connack)
        );
        let mut client = Client::open(&scene.broker);
        client.send(&Connect::v4("v4").keep_alive(keep_alive).bytes());
        client.expect("20 02 00 02");
        client.expect_close();
    }
    let mut client = Client::connect(&scene.broker, &Connect::v5("v5").keep_alive(0));
    client.expect("e0 01 8d");
    client.expect_close();
    scene.finish();
}

#[test]
fn r15_a_storm_of_connections_leaves_nothing_behind() {
    const CLIENTS: usize = 400;
    raise_file_limit();
    let mut scene = Scene::start("");
    let before = scene.descriptors();
    for round in 0..5 {
        let clients: Vec<Client> = (0..CLIENTS)
            .map(|number| {
                let mut client = Client::open(&scene.broker);
                client.send(&Connect::v4(format!("storm-{number}")).bytes());
                client
            })
            .collect();
        scene.echo();
        for mut client in clients {
            client.expect("20 02 00 00");
            // Some say goodbye, some are cut off with unread data on the way.
            if round % 2 == 0 {
                client.send(&bytes("e0 00"));
            } else {
                client.send(&bytes("c0 00"));
            }
        }
    }
    wait_until("all sockets are closed", PATIENCE, || {
        scene.descriptors() <= before
    });
    scene.finish();
}

/// One shard accepts on its own thread, several have it done for them.
#[test]
fn r15_one_connection_too_many_is_closed_and_no_one_else() {
    for shards in [1, 2] {
        one_connection_too_many(shards);
    }
}

fn one_connection_too_many(shards: u32) {
    let mut scene = Scene::start(&format!("connections_max = 10\nshards = {shards}"));
    let mut accepted = Vec::new();
    let come = |accepted: &mut Vec<Client>| {
        let mut client = Client::open(&scene.broker);
        client.send(&Connect::v4(format!("many-{}", accepted.len())).bytes());
        match client.try_receive_packet() {
            Ok(_) => accepted.push(client),
            Err(unexpected) => assert!(matches!(unexpected, Unexpected::Close { .. })),
        }
    };
    // The connection by which the harness has seen that it listens is one until its close is noticed.
    wait_until("four are in, beside six canaries", PATIENCE, || {
        come(&mut accepted);
        accepted.len() == 4
    });
    for _ in 0..10 {
        come(&mut accepted);
    }
    assert_eq!(accepted.len(), 4, "six canaries are connected as well");
    scene.echo();
    accepted.pop().unwrap().disconnect();
    wait_until("there is room again", PATIENCE, || {
        let mut client = Client::open(&scene.broker);
        client.send(&Connect::v4("again").bytes());
        client.try_receive_packet().is_ok()
    });
    scene.finish();
}

#[test]
fn r16_many_clients_with_one_id_lose_nothing_and_one_is_left() {
    const CLIENTS: usize = 40;
    const MESSAGES: usize = 300;
    let scene = Scene::start("shards = 4");
    let connect = Connect::v4("the-one").clean(false);
    let mut first = Client::connect(&scene.broker, &connect);
    first.send(&packet("82", "m1 s'storm' 01"));
    first.expect("90 03 m1 01");
    let received = Arc::new(Mutex::new(BTreeSet::new()));
    let stop = Arc::new(AtomicBool::new(false));
    let address = scene.broker.address();
    let threads: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (connect, received, stop) =
                (connect.clone(), Arc::clone(&received), Arc::clone(&stop));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let mut client = Client::open_at(address);
                    client.set_timeout(Duration::from_secs(1));
                    client.send(&connect.bytes());
                    receive_and_acknowledge(&mut client, &received);
                }
            })
        })
        .collect();
    let mut publisher = Client::connect_v4(&scene.broker, "publisher");
    for number in 0..MESSAGES {
        publisher.send(&packet("32", &format!("s'storm' m1 'message {number}'")));
        publisher.expect("40 02 m1");
    }
    stop.store(true, Ordering::Relaxed);
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
    let mut last = Client::connect(&scene.broker, &connect);
    assert!(last.session_present());
    let missing = || -> Vec<usize> {
        let received = received.lock().unwrap();
        (0..MESSAGES)
            .filter(|number| !received.contains(format!("message {number}").as_bytes()))
            .collect()
    };
    // What was acknowledged to others may come again to this one, and behind it comes what waits.
    last.set_timeout(Duration::from_millis(300));
    let deadline = now() + PATIENCE;
    while !missing().is_empty() && now() < deadline {
        receive_and_acknowledge(&mut last, &received);
    }
    assert!(
        missing().is_empty(),
        "acknowledged and lost: {:?}",
        missing()
    );
    last.set_timeout(PATIENCE);
    last.send(&bytes("c0 00"));
    while last.receive_packet() != bytes("d0 00") {}
    drop(first);
    scene.finish();
}

/// Until the broker closes, or says nothing for as long as the client waits.
fn receive_and_acknowledge(client: &mut Client, received: &Mutex<BTreeSet<Vec<u8>>>) {
    while let Ok(packet) = client.try_receive_packet() {
        if packet[0] & 0xf0 == 0x30 {
            let packet_id = [packet[9], packet[10]];
            received.lock().unwrap().insert(packet[11..].to_vec());
            client.send(&[&[0x40, 2][..], &packet_id].concat());
        }
    }
}

#[test]
fn r17_without_descriptors_accepting_pauses_and_nobody_hangs() {
    for shards in [1, 2] {
        without_descriptors(shards);
    }
}

fn without_descriptors(shards: u32) {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let mut scene = Scene::start(&format!("shards = {shards}"));
    let process_id = i32::try_from(scene.broker.process_id().unwrap()).unwrap();
    let limit = Some(scene.descriptors() as u64 + 20);
    let limit = Rlimit {
        current: limit,
        maximum: limit,
    };
    prlimit(Pid::from_raw(process_id), Resource::Nofile, limit).unwrap();
    let mut accepted = Vec::new();
    let mut closed = 0;
    for number in 0..60 {
        let mut client = Client::open(&scene.broker);
        client.send(&Connect::v4(format!("many-{number}")).bytes());
        match client.try_receive_packet() {
            Ok(_) => accepted.push(client),
            Err(Unexpected::Close { .. }) => closed += 1,
            Err(unexpected) => panic!("neither served nor closed: {unexpected}"),
        }
    }
    assert!(
        accepted.len() >= 15 && closed >= 30,
        "{} and {closed}",
        accepted.len()
    );
    let before = scene.processor_ticks();
    let waiting: Vec<Client> = (0..5).map(|_| Client::open(&scene.broker)).collect();
    std::thread::sleep(Duration::from_millis(1000));
    let ticks = scene.processor_ticks() - before;
    assert!(ticks < 20, "{ticks} of 100 ticks: it spins");
    scene.echo();
    scene.broker.wait_for_log("accepting pauses");
    let warnings = scene.broker.log().matches("accepting pauses").count();
    assert!((1..5).contains(&warnings), "{warnings} warnings");
    drop((accepted, waiting));
    wait_until("clients are accepted again", PATIENCE, || {
        let mut client = Client::open(&scene.broker);
        client.send(&Connect::v4("again").bytes());
        client.try_receive_packet().is_ok()
    });
    scene.finish();
}

#[test]
fn r20_a_client_can_neither_forge_nor_flood_the_log() {
    let mut scene = Scene::start("");
    for client_id in [
        "x\n2026 admin logged in",
        "x\r\n1700000000: forged",
        "\u{1b}[2J",
    ] {
        let mut client = Client::open(&scene.broker);
        client.send(&Connect::v4(client_id).bytes());
        client.expect_close();
        let mut client = Client::open(&scene.broker);
        client.send(&Connect::v4("named").username(client_id).bytes());
        let _ = client.try_receive_packet();
    }
    // Legal everywhere, and not to be printed as it stands.
    let reordered = "x\u{202e}\u{2028}2026 forged";
    Client::connect_v4(&scene.broker, reordered).disconnect();
    Client::connect_v4(&scene.broker, &"long".repeat(15_000)).disconnect();
    scene.broker.wait_for_log("forged");
    scene.broker.wait_for_log("longlong");
    let log = scene.broker.log();
    for line in log.lines() {
        let seconds = line.split_once(": ").map_or("", |(seconds, _)| seconds);
        assert!(
            seconds.len() == 10 && seconds.parse::<u64>().is_ok(),
            "{line}"
        );
        assert!(line.len() < 2048, "a line of {} bytes", line.len());
        assert!(
            !line.contains(['\u{1b}', '\u{202e}', '\u{2028}', '\r']),
            "{line}"
        );
    }
    scene.finish();
}

/// D19
#[test]
fn the_largest_part_of_a_packet_that_makes_no_progress_is_closed_first() {
    let scene = Scene::start("receive_bytes_max = \"2 MB\"\nshards = 1");
    let publish = packet("32", &format!("s'part' m1 v0 '{}'", "x".repeat(1_500_000)));
    let mut parts = Vec::new();
    for (name, part) in [("idle", 900_000), ("small", 50_000)] {
        let mut client = Client::connect_v5(&scene.broker, name, "");
        client.send(&publish[..part]);
        parts.push(client);
    }
    std::thread::sleep(Duration::from_millis(1200));
    // Larger than the idle one, but on its way.
    let mut busy = Client::connect_v5(&scene.broker, "busy", "");
    for piece in publish.chunks(100_000) {
        busy.send(piece);
    }
    busy.expect("40 03 m1 10");
    parts[0].expect("e0 01 97");
    parts[0].expect_close();
    parts[1].send(&publish[50_000..]);
    parts[1].expect("40 03 m1 10");
    scene.finish();
}
