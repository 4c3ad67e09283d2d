//! SCRAM-SHA-512 over MQTT 5.0. The client's side is written here from RFC 5802 and shares no code with the broker's.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use harness::{Client, Connect, hex, packet, properties};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha512};

use crate::world::{ALICE, World, world};

/// The client's side of one exchange.
struct Scram {
    password: &'static str,
    bare: String,
    server_signature: String,
}

impl Scram {
    fn of(user: &str, password: &'static str) -> Self {
        Self {
            password,
            bare: format!("n={user},r=fyko+d2lbbFgONRv9qkxdawL"),
            server_signature: String::new(),
        }
    }

    fn first(&self) -> String {
        format!("n,,{}", self.bare)
    }

    fn last(&mut self, server_first: &[u8]) -> String {
        let server_first = std::str::from_utf8(server_first).unwrap();
        let attributes: BTreeMap<&str, &str> = server_first
            .split(',')
            .map(|attribute| attribute.split_once('=').unwrap())
            .collect();
        assert!(attributes["r"].starts_with("fyko+d2lbbFgONRv9qkxdawL"));
        let salt = STANDARD.decode(attributes["s"]).unwrap();
        let mut salted = [0; 64];
        let iterations = attributes["i"].parse().unwrap();
        pbkdf2::pbkdf2_hmac::<Sha512>(self.password.as_bytes(), &salt, iterations, &mut salted);
        let client_key = mac(&salted, "Client Key");
        let without_proof = format!("c=biws,r={}", attributes["r"]);
        let message = format!("{},{server_first},{without_proof}", self.bare);
        let signature = mac(&Sha512::digest(client_key), &message);
        let proof: Vec<u8> = client_key
            .iter()
            .zip(signature)
            .map(|(a, b)| a ^ b)
            .collect();
        let server = mac(&mac(&salted, "Server Key"), &message);
        self.server_signature = format!("v={}", STANDARD.encode(server));
        format!("{without_proof},p={}", STANDARD.encode(proof))
    }
}

fn mac(key: &[u8], message: &str) -> [u8; 64] {
    let mut mac = Hmac::<Sha512>::new_from_slice(key).unwrap();
    mac.update(message.as_bytes());
    mac.finalize().into_bytes().into()
}

fn connect(data: &str) -> Connect {
    Connect::v5("c").properties(&format!("15 s'SCRAM-SHA-512' 16 s'{data}'"))
}

fn auth(code: &str, data: &str) -> Vec<u8> {
    let section = properties(&format!("15 s'SCRAM-SHA-512' 16 s'{data}'"));
    packet("f0", &format!("{code} {}", hex(&section)))
}

/// The Authentication Data of an AUTH or CONNACK packet; its properties begin at this place.
fn data(packet: &[u8], begin: usize) -> Vec<u8> {
    let mut rest = &packet[begin..];
    while let Some((id, after)) = rest.split_first() {
        let length = match id {
            0x22 | 0x13 | 0x21 => 2,
            0x11 | 0x27 => 4,
            0x24 | 0x25 | 0x28 | 0x29 | 0x2a => 1,
            _ => 2 + usize::from(u16::from_be_bytes([after[0], after[1]])),
        };
        if *id == 0x16 {
            return after[2..length].to_vec();
        }
        rest = &after[length..];
    }
    panic!("no Authentication Data in {}", hex(packet));
}

/// Up to the answer to the proof.
fn play(world: &World, scram: &mut Scram, connect: &Connect) -> (Client, Vec<u8>) {
    let mut client = Client::open(&world.broker);
    client.send(&connect.bytes());
    let asked = client.receive_packet();
    // f0 length(1 or 2) 18 length(1 or 2) properties
    let begin = asked.iter().position(|byte| *byte == 0x15).unwrap();
    assert_eq!(asked[0], 0xf0, "{}", hex(&asked));
    let last = scram.last(&data(&asked, begin));
    client.send(&auth("18", &last));
    let answer = client.receive_packet();
    (client, answer)
}

fn log_in(world: &World, scram: &mut Scram, connect: &Connect) -> Client {
    let (client, connack) = play(world, scram, connect);
    // 20 length 00 00 length properties
    assert_eq!((connack[0], connack[3]), (0x20, 0), "{}", hex(&connack));
    let begin = connack.iter().position(|byte| *byte == 0x22).unwrap();
    let signature = String::from_utf8(data(&connack, begin)).unwrap();
    assert_eq!(signature, scram.server_signature);
    client
}

#[test]
fn whoever_knows_the_password_comes_in_and_sees_that_the_broker_knows_it() {
    let mut world = world("");
    for (user, password) in [("alice", "secret"), ("ivy", "s")] {
        let mut scram = Scram::of(user, password);
        let connect = connect(&scram.first());
        let mut client = log_in(&world, &mut scram, &connect);
        client.expect_nothing_until_pingresp();
        world.broker.wait_for_log(&format!("u'{user}'"));
    }
}

#[test]
fn a_wrong_password_and_an_unknown_user_are_refused_alike() {
    let world = world("");
    for (user, password) in [("alice", "Secret"), ("zoe", "secret")] {
        let mut scram = Scram::of(user, password);
        let connect = connect(&scram.first());
        let (mut client, answer) = play(&world, &mut scram, &connect);
        assert_eq!(answer, [0x20, 3, 0, 0x87, 0]);
        client.expect_close();
    }
}

#[test]
fn a_user_name_beside_it_must_be_the_same_user() {
    let world = world("");
    let mut scram = Scram::of("alice", "secret");
    let same = connect(&scram.first()).username("alice");
    log_in(&world, &mut scram, &same);
    let mut client = Client::open(&world.broker);
    client.send(&connect(&scram.first()).username("ivy").bytes());
    client.expect("20 03 00 87 00");
    client.expect_close();
}

#[test]
fn what_is_no_scram_is_refused() {
    let world = world("");
    for first in [
        "",
        "x",
        "p=tls-unique,,n=alice,r=abc",
        "n,a=ivy,n=alice,r=abc",
    ] {
        let mut client = Client::open(&world.broker);
        client.send(&connect(first).bytes());
        client.expect("20 03 00 87 00");
        client.expect_close();
    }
}

/// [MQTT-4.12.0-1]
#[test]
fn without_users_it_is_not_offered() {
    let broker = harness::Broker::start();
    let mut client = Client::open(&broker);
    client.send(&connect("n,,n=alice,r=abc").bytes());
    client.expect("20 03 00 8c 00");
    client.expect_close();
}

/// [MQTT-4.12.1-1] [MQTT-4.12.1-2]
#[test]
fn who_is_connected_can_prove_it_again_and_be_nobody_else() {
    let world = world("");
    let mut scram = Scram::of("alice", "secret");
    let connect = connect(&scram.first());
    let mut client = log_in(&world, &mut scram, &connect);
    client.send(&auth("19", &scram.first()));
    let asked = client.receive_packet();
    let begin = asked.iter().position(|byte| *byte == 0x15).unwrap();
    let last = scram.last(&data(&asked, begin));
    client.send(&auth("18", &last));
    let proved = client.receive_packet();
    let begin = proved.iter().position(|byte| *byte == 0x15).unwrap();
    assert_eq!(data(&proved, begin), scram.server_signature.as_bytes());
    client.expect_nothing_until_pingresp();

    let mut ivy = Scram::of("ivy", "s");
    client.send(&auth("19", &ivy.first()));
    let asked = client.receive_packet();
    let begin = asked.iter().position(|byte| *byte == 0x15).unwrap();
    let last = ivy.last(&data(&asked, begin));
    client.send(&auth("18", &last));
    client.expect("e0 01 87");
    client.expect_close();
}

#[test]
fn guessing_by_scram_is_held_up_as_guessing_by_password() {
    let mut world = crate::world::world_of(ALICE, "auth_failures_max = 2");
    for _ in 0..3 {
        let mut scram = Scram::of("alice", "x");
        let connect = connect(&scram.first());
        play(&world, &mut scram, &connect);
    }
    world.broker.wait_for_log("Too many failed logins");
    world.refuses(&Connect::v5("c").username("alice").password("secret"));
    let mut client = Client::open(&world.broker);
    client.send(&connect(&Scram::of("alice", "secret").first()).bytes());
    client.expect("20 03 00 87 00");
}
