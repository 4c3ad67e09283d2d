//! Queues that are longer than what is held of them in memory, driven by hand: what is held, in which order it comes, and
//! what becomes of it at a bound and over a restart.

use std::sync::Arc;

use nightjar::auth::Auth;
use nightjar::clock::Now;
use nightjar::exchange::Exchange;
use nightjar::identity::ConnectionId;
use nightjar::settings::{QueuePolicy, Settings};
use nightjar::shard::{PostOffice, Shard, Shared, restore_groups_and_retained};
use nightjar_codec::{Limits, Packet, ProtocolVersion, cut, decode};
use nightjar_storage::{Checkpoint, Journal, MemoryEngine, Owner};

mod support;

use support::take;

#[test]
fn a_long_queue_is_left_to_the_store_and_comes_in_order() {
    const MESSAGES: u32 = 100_000;
    let mut scene = Scene::new(Settings::default());
    scene.subscriber_that_left();
    scene.publish(0..MESSAGES);
    assert_eq!(scene.queued(), (MESSAGES as usize, 0), "queued, and held");
    assert_eq!(scene.reserved_messages(), u64::from(MESSAGES));
    let subscriber = scene.connect("s", 500);
    let mut expected = 0;
    while expected < MESSAGES {
        let (_, held) = scene.queued();
        assert!(held <= 1_000, "{held} messages are held");
        for (packet_id, number) in scene.hear(subscriber) {
            assert_eq!(number, expected);
            expected += 1;
            scene.send(subscriber, &puback(packet_id));
        }
    }
    scene.hear(subscriber);
    assert_eq!((scene.queued().0, scene.reserved_messages()), (0, 0));
    assert!(scene.stored().is_empty());
}

#[test]
fn what_waits_is_not_read_at_a_start_and_is_sent_after_it() {
    let mut scene = Scene::new(Settings::default());
    scene.subscriber_that_left();
    scene.publish(0..1_000);
    let subscriber = scene.connect("s", 10);
    // Ten are in flight and stay so.
    assert_eq!(scene.hear(subscriber).len(), 10);
    let bytes = scene.totals().1;
    scene.restart();
    assert_eq!(scene.queued(), (1_000, 0));
    assert_eq!(scene.totals(), (1_000, bytes));
    scene.publish(1_000..1_100);
    let subscriber = scene.connect("s", 200);
    let mut heard = Vec::new();
    while heard.len() < 1_100 {
        for (packet_id, number) in scene.hear(subscriber) {
            heard.push(number);
            scene.send(subscriber, &puback(packet_id));
        }
    }
    assert!(heard.iter().copied().eq(0..1_100));
}

#[test]
fn what_is_not_durable_yet_is_sent_when_it_is() {
    let mut scene = Scene::new(Settings::default());
    scene.subscriber_that_left();
    scene.publish(0..3);
    scene.engine.hold();
    scene.publish(3..6);
    let subscriber = scene.connect("s", 100);
    let before: Vec<u32> = scene.numbers(subscriber);
    assert_eq!(before, [0, 1, 2]);
    assert!(scene.numbers(subscriber).is_empty());
    scene.engine.release();
    assert_eq!(scene.numbers(subscriber), [3, 4, 5]);
}

#[test]
fn a_slow_client_gets_what_is_retained_behind_what_waits() {
    let mut scene = Scene::new(Settings {
        queue_memory_bytes_max: 300,
        ..Settings::default()
    });
    let subscriber = scene.connect("s", 1);
    scene.send(subscriber, &subscribe(b't'));
    scene.hear(subscriber);
    scene.publish_with(0x33, 0..1);
    scene.publish(1..7);
    scene.send(subscriber, &subscribe(b't'));
    let mut heard = Vec::new();
    for _ in 0..10 {
        for (packet_id, number) in scene.hear(subscriber) {
            heard.push(number);
            scene.send(subscriber, &puback(packet_id));
        }
    }
    assert_eq!(heard, [0, 1, 2, 3, 4, 5, 6, 0]);
}

#[test]
fn a_full_queue_drops_its_oldest_also_where_only_the_store_has_it() {
    let mut scene = Scene::new(Settings {
        queue_policy: QueuePolicy::DropOldest,
        queue_messages_max: 3,
        ..Settings::default()
    });
    scene.subscriber_that_left();
    scene.publish(0..5);
    assert_eq!(scene.queued(), (3, 0));
    assert_eq!(scene.reserved_messages(), 3);
    assert_eq!(scene.shard.counters().dropped_queue_full, 2);
    assert_eq!(scene.stored().len(), 3);
    let subscriber = scene.connect("s", 100);
    assert_eq!(scene.numbers(subscriber), [2, 3, 4]);
}

#[test]
fn what_has_expired_in_the_store_is_dropped_when_its_turn_comes() {
    let mut scene = Scene::new(Settings::default());
    scene.subscriber_that_left();
    scene.publish(0..2);
    let publisher = scene.publisher;
    let expiring = [
        0x32, 14, 0, 1, b't', 0, 9, 5, 2, 0, 0, 0, 1, b'x', b'x', b'x',
    ];
    scene.send(publisher, &expiring);
    scene.hear(publisher);
    scene.publish(2..4);
    scene.now.monotonic += 1_000;
    let subscriber = scene.connect("s", 100);
    assert_eq!(scene.numbers(subscriber), [0, 1, 2, 3]);
    assert_eq!(scene.shard.counters().dropped_expired, 1);
    assert_eq!(scene.stored().len(), 4);
}

#[test]
fn a_session_that_ends_gives_back_what_the_store_has_of_it() {
    let mut scene = Scene::new(Settings::default());
    scene.subscriber_that_left();
    scene.publish(0..50);
    let id = scene.shard.open(scene.now, "peer", &Arc::default());
    let mut clean = connect_packet("s", 100);
    clean[9] = 0x02;
    scene.send(id, &clean);
    assert!(scene.hear(id).is_empty());
    assert_eq!((scene.queued().0, scene.totals()), (0, (0, 0)));
    assert!(scene.stored().is_empty());
}

/// One shard in front of a store in memory, with a publisher.
struct Scene {
    settings: Arc<Settings>,
    exchange: Arc<Exchange>,
    shard: Shard,
    engine: MemoryEngine,
    publisher: ConnectionId,
    now: Now,
}

impl Scene {
    fn new(settings: Settings) -> Self {
        let settings = Arc::new(Settings {
            receive_maximum: u16::MAX,
            ..settings
        });
        let engine = MemoryEngine::new();
        let now = Now {
            monotonic: 1_000,
            wall: 1_000_000,
        };
        let (exchange, shard) = start(&settings, &engine, now);
        let mut scene = Self {
            settings,
            exchange,
            shard,
            engine,
            publisher: ConnectionId {
                slot: 0,
                generation: 0,
            },
            now,
        };
        scene.publisher = scene.connect("p", 100);
        scene
    }

    fn restart(&mut self) {
        self.engine = self.engine.crash();
        (self.exchange, self.shard) = start(&self.settings, &self.engine, self.now);
        self.publisher = self.connect("p", 100);
    }

    /// A 5.0 client whose session does not expire.
    fn connect(&mut self, client_id: &str, receive_maximum: u16) -> ConnectionId {
        let id = self.shard.open(self.now, "peer", &Arc::default());
        self.send(id, &connect_packet(client_id, receive_maximum));
        id
    }

    fn subscriber_that_left(&mut self) {
        let id = self.connect("s", 100);
        self.send(id, &subscribe(b't'));
        self.hear(id);
        self.shard.closed(self.now, id);
        self.shard.end_turn(self.now);
    }

    fn publish(&mut self, numbers: std::ops::Range<u32>) {
        self.publish_with(0x32, numbers);
    }

    fn publish_with(&mut self, first_byte: u8, numbers: std::ops::Range<u32>) {
        for number in numbers {
            let [high, low] = ((number % 60_000) as u16 + 1).to_be_bytes();
            let mut packet = vec![first_byte, 10, 0, 1, b't', high, low, 0];
            packet.extend(number.to_be_bytes());
            self.send(self.publisher, &packet);
            if number % 1_000 == 999 {
                self.hear(self.publisher);
            }
        }
        self.hear(self.publisher);
    }

    fn send(&mut self, id: ConnectionId, bytes: &[u8]) {
        self.shard.receive(self.now, id, bytes);
    }

    /// Ends turns until nothing is left to do; gives packet ids and numbers of what this client is sent.
    fn hear(&mut self, id: ConnectionId) -> Vec<(u16, u32)> {
        let mut bytes = Vec::new();
        for _ in 0..3 {
            self.shard.end_turn(self.now);
            bytes.extend(take(&mut self.shard, self.now, id));
        }
        let limits = Limits {
            packet_size_max: 1_000_000,
            user_properties_max: 10,
            topic_levels_max: 10,
            topic_filters_max: 10,
        };
        let mut rest = bytes.as_slice();
        let mut heard = Vec::new();
        while let Some((_, length)) = cut(rest, &limits).expect("well-formed packets") {
            let (packet, after) = rest.split_at(length);
            rest = after;
            let packet = decode(packet, ProtocolVersion::V5, &limits).expect("well-formed");
            if let Packet::Publish(publish) = packet {
                let number: [u8; 4] = publish.payload[..].try_into().expect("a number");
                let packet_id = publish.packet_id.expect("QoS 1").get();
                heard.push((packet_id, u32::from_be_bytes(number)));
            }
        }
        heard
    }

    fn numbers(&mut self, id: ConnectionId) -> Vec<u32> {
        let heard = self.hear(id);
        heard.into_iter().map(|(_, number)| number).collect()
    }

    /// Messages of the subscriber that are not finished, and those of them that wait in memory.
    fn queued(&self) -> (usize, usize) {
        let mut queued = (0, 0);
        self.shard.each_session(|session| {
            if &*session.receiver.client_id == "s" {
                queued = (session.queued_messages(), session.held_messages());
            }
        });
        queued
    }

    fn totals(&self) -> (u64, u64) {
        let totals = &self.exchange.totals;
        (totals.messages(), totals.bytes())
    }

    fn reserved_messages(&self) -> u64 {
        self.totals().0
    }

    fn stored(&self) -> Vec<u64> {
        let outline = self.engine.outline(&Owner::session("s"));
        let entries = outline.expect("memory can be read");
        entries.iter().map(|entry| entry.message_id).collect()
    }
}

fn start(settings: &Arc<Settings>, engine: &MemoryEngine, now: Now) -> (Arc<Exchange>, Shard) {
    let exchange = Arc::new(Exchange::new(settings, 1, 7));
    let shared = Shared {
        exchange: Arc::clone(&exchange),
        post: Arc::new(PostOffice::new(1, settings.mail_bytes_max)),
        methods: std::iter::empty().collect(),
        auth: Auth::default(),
        authorization: Default::default(),
        journal: Some(Arc::new(engine.clone()) as Arc<dyn Journal>),
        hash_seed: 7,
        client_id_seed: [7; 32],
        settings: Arc::clone(settings),
    };
    restore_groups_and_retained(&shared, engine, now).expect("memory can be read");
    let mut shard = Shard::new(0, shared);
    shard
        .restore(Arc::new(engine.clone()), now)
        .expect("memory can be read");
    (exchange, shard)
}

fn connect_packet(client_id: &str, receive_maximum: u16) -> Vec<u8> {
    let mut packet = vec![0x10, 21 + client_id.len() as u8];
    packet.extend(b"\0\x04MQTT\x05\0\0\0\x08\x11\xff\xff\xff\xff\x21");
    packet.extend(receive_maximum.to_be_bytes());
    packet.extend([0, client_id.len() as u8]);
    packet.extend(client_id.as_bytes());
    packet
}

fn subscribe(topic: u8) -> Vec<u8> {
    vec![0x82, 7, 0, 1, 0, 0, 1, topic, 1]
}

fn puback(packet_id: u16) -> [u8; 4] {
    let [high, low] = packet_id.to_be_bytes();
    [0x40, 2, high, low]
}
