//! The pump, driven by hand: what one turn may make, read and keep.

use std::collections::BTreeSet;
use std::sync::Arc;

use nightjar::auth::Auth;
use nightjar::clock::Now;
use nightjar::exchange::Exchange;
use nightjar::identity::{ConnectionId, ShardId};
use nightjar::settings::Settings;
use nightjar::shard::{PostOffice, Received, Shard, Shared};

mod support;

use support::take;

const NOW: Now = Now {
    monotonic: 1_000,
    wall: 1_000_000,
};

/// Longer than one turn may be, and within what one connection's buffer takes.
#[test]
fn a_turn_that_has_made_enough_goes_on_in_the_next() {
    const SUBSCRIBERS: usize = 200;
    const MESSAGES: usize = 60;
    let mut shard = shard(0, 1);
    let subscribers: Vec<_> = (0..SUBSCRIBERS)
        .map(|number| subscriber(&mut shard, &format!("s{number}")))
        .collect();
    let publisher = connect(&mut shard, "p");
    let mut bytes = Vec::new();
    for _ in 0..MESSAGES {
        bytes.extend(publish(b't', &[b'x'; 1000]));
    }
    assert!(matches!(
        shard.receive(NOW, publisher, &bytes),
        Received::Continue
    ));
    assert!(shard.has_unread(publisher) && shard.has_turn_to_end());
    let mut lengths = vec![0; SUBSCRIBERS];
    let mut turns = 0;
    loop {
        shard.end_turn(NOW);
        let mut made = 0;
        for (subscriber, length) in subscribers.iter().zip(&mut lengths) {
            let count = take(&mut shard, NOW, *subscriber).len();
            made += count;
            *length += count;
        }
        assert!(made < 9 * 1024 * 1024, "{made} bytes in one turn");
        turns += 1;
        if !shard.has_unread(publisher) {
            break;
        }
        assert!(matches!(
            shard.receive(NOW, publisher, &[]),
            Received::Continue
        ));
    }
    assert!(turns > 1 && turns < 10, "{turns} turns");
    assert!(lengths.iter().all(|length| *length == bytes.len()));
}

#[test]
fn a_client_is_still_read_behind_one_large_delivery() {
    let mut shard = shard(0, 1);
    let subscriber = subscriber(&mut shard, "s");
    let publisher = connect(&mut shard, "p");
    shard.receive(NOW, publisher, &publish(b't', &vec![b'x'; 1_048_000]));
    shard.receive(NOW, publisher, &publish(b't', &vec![b'x'; 1_900_000]));
    assert!(shard.may_read(subscriber));
    // Answers have a bound all the same.
    let pings: Vec<u8> = [0xc0, 0].repeat(200_000);
    shard.receive(NOW, subscriber, &pings);
    assert!(!shard.may_read(subscriber));
}

#[test]
fn assigned_client_ids_are_of_this_shard_and_tell_nothing_of_each_other() {
    let mut ids = BTreeSet::new();
    for id in 0..4 {
        let mut shard = shard(id, 4);
        for _ in 0..50 {
            let connection = shard.open(NOW, "peer", &Arc::default());
            let received = shard.receive(NOW, connection, &connect_packet(""));
            assert!(matches!(received, Received::Continue));
            let connack = take(&mut shard, NOW, connection);
            let at = connack.windows(5).position(|text| text == b"auto-");
            let digits = &connack[at.unwrap() + 5..][..32];
            assert!(digits.iter().all(u8::is_ascii_hexdigit));
            assert!(ids.insert(digits[..8].to_vec()), "half of one is known");
        }
    }
}

fn shard(id: ShardId, shards: ShardId) -> Shard {
    let settings = Arc::new(Settings::default());
    Shard::new(
        id,
        Shared {
            exchange: Arc::new(Exchange::new(&settings, shards, 7)),
            post: Arc::new(PostOffice::new(shards, settings.mail_bytes_max)),
            methods: std::iter::empty().collect(),
            auth: Auth::default(),
            authorization: Default::default(),
            journal: None,
            hash_seed: 7,
            client_id_seed: [7; 32],
            settings,
        },
    )
}

fn connect(shard: &mut Shard, client_id: &str) -> ConnectionId {
    let id = shard.open(NOW, "peer", &Arc::default());
    let received = shard.receive(NOW, id, &connect_packet(client_id));
    assert!(matches!(received, Received::Continue));
    assert_eq!(
        take(shard, NOW, id).get(3),
        Some(&0),
        "a successful CONNACK"
    );
    id
}

fn subscriber(shard: &mut Shard, client_id: &str) -> ConnectionId {
    let id = connect(shard, client_id);
    shard.receive(NOW, id, &[0x82, 7, 0, 1, 0, 0, 1, b't', 0]);
    assert_eq!(take(shard, NOW, id), [0x90, 4, 0, 1, 0, 0]);
    id
}

fn connect_packet(client_id: &str) -> Vec<u8> {
    let mut packet = vec![0x10, 13 + client_id.len() as u8];
    packet.extend(b"\0\x04MQTT\x05\x02\0\0\0\0");
    packet.push(client_id.len() as u8);
    packet.extend(client_id.as_bytes());
    packet
}

fn publish(topic: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x30];
    let mut length = 4 + payload.len();
    while length > 127 {
        packet.push((length & 127) as u8 | 128);
        length >>= 7;
    }
    packet.push(length as u8);
    packet.extend([0, 1, topic, 0]);
    packet.extend(payload);
    packet
}
