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

/// QoS 0 is dropped for clients that do not keep up, never because one turn brought more than a send buffer takes.
#[test]
fn a_turn_ends_when_the_send_buffer_of_a_client_that_keeps_up_is_half_full() {
    let mut shard = shard(0, 1);
    let subscriber = subscriber(&mut shard, "s");
    let bytes = publish(b't', &[b'x'; 1000]).repeat(300);
    let publishers: Vec<_> = (0..10)
        .map(|number| connect(&mut shard, &format!("p{number}")))
        .collect();
    for publisher in &publishers {
        shard.receive(NOW, *publisher, &bytes);
    }
    assert!(shard.is_turn_full());
    let mut received = 0;
    while shard.has_turn_to_end() {
        received += write_turn(&mut shard, subscriber).len();
        for publisher in &publishers {
            shard.receive(NOW, *publisher, &[]);
        }
    }
    assert_eq!(received, publishers.len() * bytes.len());
}

/// Who takes nothing does not hold up the others: their turns are as long as ever.
#[test]
fn a_client_that_does_not_keep_up_ends_no_turn() {
    let mut shard = shard(0, 1);
    let subscriber = subscriber(&mut shard, "s");
    let publisher = connect(&mut shard, "p");
    let bytes = publish(b't', &[b'x'; 1000]).repeat(1_100);
    shard.receive(NOW, publisher, &bytes);
    assert!(shard.is_turn_full());
    for _ in 0..2 {
        shard.end_turn(NOW);
        shard.wrote(NOW, subscriber);
        shard.receive(NOW, publisher, &[]);
    }
    shard.receive(NOW, publisher, &bytes);
    assert!(!shard.is_turn_full() && !shard.has_unread(publisher));
}

#[test]
fn mail_is_delivered_as_far_as_a_turn_has_room_and_in_order() {
    let mut shards = shards(2, &Settings::default());
    let subscriber = subscriber_here(&mut shards[0]);
    let publisher = connect_here(&mut shards[1]);
    let mut sent = Vec::new();
    for number in 0..3_000 {
        let packet = publish(b't', format!("{number:01000}").as_bytes());
        shards[1].receive(NOW, publisher, &packet);
        shards[1].end_turn(NOW);
        sent.extend(packet);
    }
    let mut received = Vec::new();
    let mut turns = 0;
    let mut is_more = true;
    while is_more {
        is_more = shards[0].collect_mail(NOW);
        let bytes = write_turn(&mut shards[0], subscriber);
        assert!(bytes.len() <= HALF + bytes.len() / 100, "{}", bytes.len());
        received.extend(bytes);
        turns += 1;
    }
    assert!(!shards[0].has_turn_to_end());
    assert!(turns > 5, "{turns}");
    assert!(received == sent, "what was sent, in order");
}

#[test]
fn mail_that_a_full_turn_leaves_in_its_box_is_asked_for_again() {
    let mut shards = shards(3, &Settings::default());
    let subscriber = subscriber_here(&mut shards[0]);
    let publishers = [1, 2].map(|place: usize| connect_here(&mut shards[place]));
    let large = publish(b't', &[b'-'; 1000]).repeat(1_000);
    for (from, letter) in [(1, b'a'), (2, b'b'), (1, b'c'), (2, b'd')] {
        // A client of this shard fills the turn, and only then the mail comes.
        shards[0].receive(NOW, subscriber, &large);
        assert!(shards[0].is_turn_full());
        shards[from].receive(NOW, publishers[from - 1], &publish(b't', &[letter]));
        shards[from].end_turn(NOW);
        assert_eq!(shards[from].take_wakes(), [0]);
        let mut received = Vec::new();
        while shards[0].collect_mail(NOW) {
            received.extend(write_turn(&mut shards[0], subscriber));
        }
        received.extend(write_turn(&mut shards[0], subscriber));
        assert!(received.contains(&letter), "{}", char::from(letter));
        while shards[0].has_unread(subscriber) {
            shards[0].receive(NOW, subscriber, &[]);
            write_turn(&mut shards[0], subscriber);
        }
    }
}

#[test]
fn no_shard_waits_until_the_mail_of_another_is_at_its_end() {
    let mut shards = shards(3, &Settings::default());
    let subscriber = subscriber_here(&mut shards[0]);
    let publishers = [1, 2].map(|place: usize| connect_here(&mut shards[place]));
    let mut seen = [false; 2];
    for _ in 0..4 {
        for (place, publisher) in [1, 2].into_iter().zip(publishers) {
            let packet = publish(b't', &[b'0' + place as u8; 1000]).repeat(1_000);
            shards[place].receive(NOW, publisher, &packet);
            shards[place].end_turn(NOW);
        }
        assert!(shards[0].collect_mail(NOW), "more than a turn has room for");
        let bytes = write_turn(&mut shards[0], subscriber);
        for (place, seen) in [b'1', b'2'].into_iter().zip(&mut seen) {
            *seen |= bytes.contains(&place);
        }
    }
    assert_eq!(seen, [true; 2]);
}

#[test]
fn a_turn_ends_when_it_has_made_as_much_mail_as_may_be_under_way() {
    let settings = Settings {
        mail_bytes_max: 64 * 1024,
        ..Settings::default()
    };
    let mut shards = shards(2, &settings);
    let _subscriber = subscriber_here(&mut shards[0]);
    let publisher = connect_here(&mut shards[1]);
    shards[1].receive(NOW, publisher, &publish(b't', &[b'x'; 1000]).repeat(200));
    assert!(shards[1].is_turn_full() && shards[1].has_unread(publisher));
}

/// Or each of a thousand publishers would keep one of a busy subscriber's buffers.
#[test]
fn who_is_sent_nothing_owns_no_send_buffer() {
    let mut shard = shard(0, 1);
    let subscriber = subscriber(&mut shard, "s");
    let publisher = connect(&mut shard, "p");
    for _ in 0..3 {
        shard.receive(NOW, publisher, &publish(b't', &[b'x'; 1000]).repeat(60));
        assert_eq!(write_turn(&mut shard, subscriber).len(), 60 * 1007);
        let puback = [0x40, 2, 0, 9];
        shard.receive(NOW, subscriber, &puback);
    }
    for id in [publisher, subscriber] {
        let (send, _) = shard.output(id).expect("it is open");
        assert_eq!(send.capacity(), 0);
    }
}

#[test]
fn a_client_is_still_read_behind_one_large_delivery() {
    let mut shard = shard(0, 1);
    let subscriber = subscriber(&mut shard, "s");
    let publisher = connect(&mut shard, "p");
    for size in [1_048_000, 1_900_000] {
        shard.receive(NOW, publisher, &publish(b't', &vec![b'x'; size]));
        shard.end_turn(NOW);
        shard.wrote(NOW, subscriber);
    }
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

/// Of the default `send_buffer_bytes_max`.
const HALF: usize = 512 * 1024;

/// Ends the turn and takes what it made for `id`.
fn write_turn(shard: &mut Shard, id: ConnectionId) -> Vec<u8> {
    shard.end_turn(NOW);
    shard.take_dirty(&mut Vec::new());
    take(shard, NOW, id)
}

fn shard(id: ShardId, shards: ShardId) -> Shard {
    let settings = Arc::new(Settings::default());
    Shard::new(id, shared(shards, &settings))
}

/// All of one broker.
fn shards(count: ShardId, settings: &Settings) -> Vec<Shard> {
    let settings = Arc::new(settings.clone());
    let shared = shared(count, &settings);
    let shards = (0..count).map(|id| Shard::new(id, shared.clone()));
    shards.collect()
}

fn shared(shards: ShardId, settings: &Arc<Settings>) -> Shared {
    Shared {
        exchange: Arc::new(Exchange::new(settings, shards, 7)),
        post: Arc::new(PostOffice::new(shards, settings.mail_bytes_max)),
        methods: std::iter::empty().collect(),
        auth: Auth::default(),
        authorization: Default::default(),
        journal: None,
        hash_seed: 7,
        client_id_seed: [7; 32],
        settings: Arc::clone(settings),
    }
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

/// The first of some clients whose sessions live in this shard.
fn connect_here(shard: &mut Shard) -> ConnectionId {
    let mut client_ids = (0..).map(|number| format!("c{number}"));
    let connection = client_ids.find_map(|client_id| {
        let id = shard.open(NOW, "peer", &Arc::default());
        let received = shard.receive(NOW, id, &connect_packet(&client_id));
        matches!(received, Received::Continue).then_some(id)
    });
    let id = connection.expect("the names do not end");
    take(shard, NOW, id);
    id
}

fn subscriber(shard: &mut Shard, client_id: &str) -> ConnectionId {
    let id = connect(shard, client_id);
    subscribe(shard, id)
}

fn subscriber_here(shard: &mut Shard) -> ConnectionId {
    let id = connect_here(shard);
    subscribe(shard, id)
}

fn subscribe(shard: &mut Shard, id: ConnectionId) -> ConnectionId {
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
