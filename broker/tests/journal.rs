//! The pump and its journal, driven by hand in virtual time: who waits for it, who does not, and for how long.

use std::collections::BTreeMap;
use std::sync::Arc;

use nightjar::auth::Auth;
use nightjar::clock::Now;
use nightjar::exchange::Exchange;
use nightjar::identity::ConnectionId;
use nightjar::settings::{ListenerSettings, Settings};
use nightjar::shard::{PostOffice, Shard, Shared};
use nightjar_storage::{Durability, Journal, MemoryEngine};

mod support;

use support::take;

#[test]
fn a_connection_that_is_told_from_memory_does_not_wait_for_the_journal() {
    let mut scene = Scene::new(Settings::default());
    let waits = scene.connect("waits", 60);
    let shard = &mut scene.shard;
    let from_memory = ListenerSettings {
        durability: Some(Durability::Memory),
        ..ListenerSettings::default()
    };
    let hurries = shard.open(scene.now, "peer", &Arc::new(from_memory));
    shard.receive(scene.now, hurries, &connect_packet("hurries", 60));
    assert_eq!(scene.turn(hurries)[..4], [0x20, 14, 0, 0]);
    scene.engine.hold();
    for connection in [hurries, waits] {
        scene.send(connection, &subscribe(1, b't', 2));
        scene.send(connection, &publish(0x32, 2, b't', b"x"));
        scene.send(connection, &publish(0x34, 3, b't', b"x"));
        scene.send(connection, &[0x62, 2, 0, 3]);
    }
    let told = scene.turn(hurries);
    assert_eq!(told[..6], [0x90, 4, 0, 1, 0, 2]);
    for answer in [&[0x40, 2, 0, 2], &[0x50, 2, 0, 3], &[0x70, 2, 0, 3]] {
        let place = told.windows(4).position(|bytes| bytes == answer);
        assert!(place.is_some(), "{answer:02x?} in {told:02x?}");
    }
    assert!(!scene.turn(waits).contains(&0x90));
    assert!(
        !scene.engine.pending().is_empty(),
        "it is written all the same"
    );
    scene.engine.release();
    let told = scene.turn(waits);
    assert!(told.windows(6).any(|bytes| bytes == [0x90, 4, 0, 1, 0, 2]));
    assert!(told.windows(4).any(|bytes| bytes == [0x40, 2, 0, 2]));
}

/// D23: of two copies for one session the journal is concerned with one only, whichever comes first.
#[test]
fn an_acknowledgement_waits_for_the_copies_too() {
    for kept in [b't', b'+'] {
        let mut scene = Scene::new(Settings {
            copy_per_subscription: true,
            ..Settings::default()
        });
        let offline = scene.connect("offline", 0);
        for (packet_id, filter) in (1..).zip([b't', b'+']) {
            let qos = u8::from(filter == kept);
            scene.send(offline, &subscribe(packet_id, filter, qos));
        }
        scene.turn(offline);
        scene.shard.closed(scene.now, offline);
        let publisher = scene.connect("publisher", 0);
        scene.send(publisher, &publish(0x32, 1, b't', b"x"));
        assert_eq!(scene.turn(publisher), [0x40, 2, 0, 1]);
        scene.engine.hold();
        scene.send(publisher, &publish(0x32, 2, b't', b"x"));
        assert!(scene.turn(publisher).is_empty(), "{}", char::from(kept));
        scene.engine.release();
        assert_eq!(scene.turn(publisher), [0x40, 2, 0, 2]);
        assert_eq!(scene.queued("offline"), 2);
    }
}

/// D4: the disk answers five seconds late, publishers send as fast as they may.
#[test]
fn flushes_that_come_late_slow_publishers_down_and_nothing_else() {
    const BOUND: u64 = 100_000;
    const MESSAGES: u16 = 3_000;
    const PUBLISHERS: usize = 5;
    const LATE: u64 = 5_000;
    let mut scene = Scene::new(Settings {
        journal_pending_bytes_max: BOUND,
        receive_maximum: 1_000,
        ..Settings::default()
    });
    scene.offline_subscriber();
    // It asks for nothing that the journal has to keep, and does not wait for those who do.
    let free = scene.connect("free", 2);
    scene.send(free, &subscribe(1, b'f', 0));
    scene.turn(free);
    let mut publishers: Vec<Publisher> = (0..PUBLISHERS)
        .map(|number| Publisher::new(scene.connect(&format!("p{number}"), 2)))
        .collect();
    scene.engine.hold();
    let mut appended: BTreeMap<u64, u64> = BTreeMap::new();
    let mut most = 0;
    while publishers.iter().any(|one| one.acknowledged < MESSAGES) {
        scene.now.monotonic += 100;
        assert!(scene.now.monotonic < 3_600_000, "an hour is enough");
        for one in &mut publishers {
            one.say(MESSAGES, scene.now.monotonic);
            one.is_read(&mut scene);
            assert!(!scene.shard.is_closing(one.id), "nobody is disconnected");
        }
        assert!(scene.shard.may_read(free), "the others go on");
        scene.send(free, &[0x30, 5, 0, 1, b'f', 0, b'x']);
        assert!(!scene.turn(free).is_empty());
        for lsn in scene.engine.pending() {
            let since = *appended.entry(lsn).or_insert(scene.now.monotonic);
            if since + LATE <= scene.now.monotonic {
                scene.engine.commit(lsn);
            }
        }
        scene.shard.end_turn(scene.now);
        scene.shard.tick(scene.now);
        most = most.max(scene.shard.journal_pending_bytes());
        for one in &mut publishers {
            let told = take(&mut scene.shard, scene.now, one.id);
            one.hear(&told);
        }
    }
    // Each publisher is known as one with its first message.
    let bound = BOUND..BOUND + 1_000 * PUBLISHERS as u64;
    assert!(bound.contains(&most), "{most} bytes waited");
    let counters = scene.shard.counters();
    assert!(counters.connections_paused >= PUBLISHERS as u64);
    assert!(counters.paused_milliseconds > LATE);
    scene.engine.release();
    let mut queued = 0;
    scene
        .shard
        .each_session(|session| queued += session.queued_messages());
    assert_eq!(
        queued,
        PUBLISHERS * usize::from(MESSAGES),
        "nothing is lost"
    );
}

/// The journal works on the first part while the next is made.
#[test]
fn one_read_that_makes_much_for_the_journal_is_handed_over_in_parts() {
    const MESSAGES: u16 = 40;
    let mut scene = Scene::new(Settings {
        receive_maximum: 100,
        ..Settings::default()
    });
    scene.offline_subscriber();
    let publisher = scene.connect("p", 0);
    scene.engine.hold();
    let payload = vec![b'x'; 60_000];
    let read: Vec<u8> = (1..=MESSAGES)
        .flat_map(|packet_id| publish(0x32, packet_id, b't', &payload))
        .collect();
    scene.send(publisher, &read);
    let mut parts = 1;
    while scene.shard.has_unread(publisher) {
        scene.shard.end_turn(scene.now);
        assert_eq!(scene.engine.pending().len(), parts);
        assert!(parts < 10, "a turn takes more than a message");
        parts += 1;
        scene.send(publisher, &[]);
    }
    scene.engine.release();
    let told = scene.turn(publisher);
    assert_eq!(parts, 3);
    assert_eq!(told.len(), 4 * usize::from(MESSAGES));
    assert_eq!(scene.queued("offline"), usize::from(MESSAGES));
}

#[test]
fn a_failed_journal_refuses_what_it_would_have_to_keep_and_nothing_of_it_is_remembered() {
    let mut scene = Scene::new(Settings::default());
    scene.offline_subscriber();
    let listener = scene.connect("listener", 0);
    scene.send(listener, &subscribe(1, b'f', 0));
    scene.turn(listener);
    let publisher = scene.connect("p", 0);
    scene.engine.fail("a test");
    scene.shard.end_turn(scene.now);
    for (first_byte, topic) in [(0x32, b't'), (0x34, b't'), (0x33, b'r'), (0x34, b'n')] {
        scene.send(publisher, &publish(first_byte, 7, topic, b"x"));
        let answer = if first_byte & 6 == 2 { 0x40 } else { 0x50 };
        assert_eq!(scene.turn(publisher), [answer, 3, 0, 7, 0x97]);
    }
    scene.send(publisher, &[0x30, 5, 0, 1, b'f', 0, b'x']);
    assert_eq!(scene.turn(listener), [0x30, 5, 0, 1, b'f', 0, b'x']);
    // Nobody is to keep it.
    scene.send(publisher, &publish(0x32, 8, b'f', b"x"));
    assert_eq!(scene.turn(publisher), [0x40, 2, 0, 8]);
    assert_eq!(scene.queued("offline"), 0);
    scene.engine.reopen();
    scene.engine.release();
    scene.shard.end_turn(scene.now);
    // The same packet id is a new message.
    scene.send(publisher, &publish(0x34, 7, b't', b"x"));
    assert_eq!(scene.turn(publisher), [0x50, 2, 0, 7]);
    assert_eq!(scene.queued("offline"), 1);
    assert_eq!(scene.engine.image().retained().count(), 0);
}

#[test]
fn who_waits_for_a_journal_that_has_failed_is_closed_in_time_and_nothing_comes_twice() {
    let mut scene = Scene::new(Settings::default());
    scene.offline_subscriber();
    let [publisher, releaser, patient] =
        ["publisher", "releaser", "patient"].map(|name| scene.connect(name, 0));
    let other = scene.connect("other", 0);
    scene.shard.closed(scene.now, other);
    scene.shard.end_turn(scene.now);
    scene.engine.hold();
    scene.send(publisher, &publish(0x34, 7, b't', b"x"));
    scene.shard.end_turn(scene.now);
    scene.engine.fail("a test");
    scene.shard.end_turn(scene.now);
    scene.send(releaser, &[0x62, 2, 0, 9]);
    scene.send(patient, &[0xc0, 0]);
    let returns = scene.shard.open(scene.now, "peer", &Arc::default());
    let mut clean = connect_packet("other", 0);
    clean[9] = 2;
    scene.send(returns, &clean);
    assert_eq!(scene.turn(publisher), [0; 0]);
    let mut dirty = Vec::new();
    scene.shard.take_dirty(&mut dirty);
    assert!(!dirty.contains(&returns), "CONNACK waits");
    scene.pass(9_999);
    assert!(!scene.shard.is_closing(publisher));
    scene.pass(1);
    assert_eq!(scene.turn(publisher), [0xe0, 1, 0x97]);
    assert_eq!(scene.turn(releaser), [0xe0, 1, 0x97]);
    assert_eq!(scene.turn(returns), [0x20, 3, 0, 0x88, 0]);
    assert!(!scene.shard.is_closing(patient));
    scene.engine.reopen();
    scene.engine.release();
    scene.turn(patient);
    let publisher = scene.connect("publisher", 0);
    scene.send(publisher, &publish(0x3c, 7, b't', b"x"));
    assert_eq!(scene.turn(publisher), [0x50, 2, 0, 7]);
    assert_eq!(scene.queued("offline"), 1);
}

#[test]
fn a_3x_publisher_that_was_refused_says_nothing_more_that_counts() {
    let mut scene = Scene::new(Settings::default());
    scene.offline_subscriber();
    let publisher = scene.shard.open(scene.now, "peer", &Arc::default());
    let connect = [
        0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0, 1, b'p',
    ];
    scene.send(publisher, &connect);
    assert_eq!(scene.turn(publisher), [0x20, 2, 0, 0]);
    scene.engine.fail("a test");
    scene.shard.end_turn(scene.now);
    scene.send(publisher, &[0x32, 6, 0, 1, b't', 0, 1, b'1']);
    assert_eq!(scene.turn(publisher), [0; 0]);
    scene.engine.reopen();
    scene.engine.release();
    scene.shard.end_turn(scene.now);
    // Taken now, it would come before the first.
    scene.send(publisher, &[0x32, 6, 0, 1, b't', 0, 2, b'2']);
    assert_eq!(scene.turn(publisher), [0; 0]);
    assert_eq!(scene.queued("offline"), 0);
    scene.pass(5_000);
    assert!(scene.shard.is_closing(publisher));
}

#[test]
fn a_subscription_that_has_no_room_is_not_written() {
    let mut scene = Scene::new(Settings {
        subscriptions_max: 1,
        ..Settings::default()
    });
    let client = scene.connect("c", 0);
    for (packet_id, topic, code) in [(1, b'a', 1), (2, b'b', 0x97), (3, b'a', 1)] {
        scene.send(client, &subscribe(packet_id, topic, 1));
        assert_eq!(scene.turn(client), [0x90, 4, 0, packet_id, 0, code]);
        assert_eq!(scene.engine.image().subscriptions("c").count(), 1);
    }
    scene.send(client, &unsubscribe(4, b'a'));
    scene.turn(client);
    scene.send(client, &subscribe(5, b'b', 1));
    assert_eq!(scene.turn(client), [0x90, 4, 0, 5, 0, 1]);
}

/// In memory the subscription is gone with the first one. In the store it is not, and would be back after a power cut.
#[test]
fn an_unsubscribe_is_answered_behind_the_deletion_that_an_earlier_one_waits_for() {
    let mut scene = Scene::new(Settings::default());
    let client = scene.connect("c", 0);
    scene.send(client, &subscribe(1, b't', 1));
    scene.turn(client);
    scene.engine.hold();
    for packet_id in [2, 3] {
        scene.send(client, &unsubscribe(packet_id, b't'));
        assert_eq!(scene.turn(client), [0; 0]);
        assert_eq!(scene.engine.image().subscriptions("c").count(), 1);
    }
    scene.engine.commit_all();
    assert_eq!(scene.engine.image().subscriptions("c").count(), 0);
    let told = scene.turn(client);
    assert_eq!(told, [0xb0, 4, 0, 2, 0, 0, 0xb0, 4, 0, 3, 0, 0x11]);
    // Nothing waits by now.
    scene.send(client, &unsubscribe(4, b't'));
    assert_eq!(scene.turn(client), [0xb0, 4, 0, 4, 0, 0x11]);
}

/// Publishes with QoS 1 as fast as Receive Maximum allows, and says PINGREQ when it has nothing to say.
struct Publisher {
    id: ConnectionId,
    sent: u16,
    acknowledged: u16,
    spoke_at: u64,
    /// What the broker has not read.
    socket: Vec<u8>,
    heard: Vec<u8>,
}

impl Publisher {
    fn new(id: ConnectionId) -> Self {
        Self {
            id,
            sent: 0,
            acknowledged: 0,
            spoke_at: 0,
            socket: Vec::new(),
            heard: Vec::new(),
        }
    }

    fn say(&mut self, messages: u16, now: u64) {
        let before = self.socket.len();
        while self.sent < messages && self.sent < self.acknowledged + 1_000 {
            self.sent += 1;
            self.socket
                .extend(publish(0x32, self.sent, b't', &[b'x'; 500]));
        }
        if self.socket.len() == before && now >= self.spoke_at + 1_000 {
            self.socket.extend([0xc0, 0]);
        }
        if self.socket.len() > before {
            self.spoke_at = now;
        }
    }

    /// As the thread reads that serves it.
    fn is_read(&mut self, scene: &mut Scene) {
        if !scene.shard.may_read(self.id) {
            scene.shard.note_paused(scene.now, self.id);
        } else if scene.shard.has_unread(self.id) {
            scene.send(self.id, &[]);
        } else {
            let count = self.socket.len().min(65_536);
            let bytes: Vec<u8> = self.socket.drain(..count).collect();
            if !bytes.is_empty() {
                scene.send(self.id, &bytes);
            }
        }
    }

    fn hear(&mut self, bytes: &[u8]) {
        self.heard.extend_from_slice(bytes);
        while self.heard.len() >= 2 && self.heard.len() >= 2 + usize::from(self.heard[1]) {
            let length = 2 + usize::from(self.heard[1]);
            if self.heard[0] == 0x40 {
                assert_eq!(length, 4, "a success");
                self.acknowledged += 1;
            }
            self.heard.drain(..length);
        }
    }
}

/// One shard in front of a store in memory.
struct Scene {
    shard: Shard,
    engine: MemoryEngine,
    now: Now,
}

impl Scene {
    fn new(settings: Settings) -> Self {
        let settings = Arc::new(settings);
        let engine = MemoryEngine::new();
        let shard = Shard::new(
            0,
            Shared {
                exchange: Arc::new(Exchange::new(&settings, 1, 7)),
                post: Arc::new(PostOffice::new(1, settings.mail_bytes_max)),
                methods: std::iter::empty().collect(),
                auth: Auth::default(),
                authorization: Default::default(),
                journal: Some(Arc::new(engine.clone()) as Arc<dyn Journal>),
                hash_seed: 7,
                client_id_seed: [7; 32],
                settings,
            },
        );
        let now = Now {
            monotonic: 1_000,
            wall: 1_000_000,
        };
        Self { shard, engine, now }
    }

    /// A 5.0 client whose session does not expire.
    fn connect(&mut self, client_id: &str, keep_alive: u8) -> ConnectionId {
        let id = self.shard.open(self.now, "peer", &Arc::default());
        self.send(id, &connect_packet(client_id, keep_alive));
        assert_eq!(self.turn(id).get(3), Some(&0), "a successful CONNACK");
        id
    }

    /// A client that is away, and owns what is published to `t`.
    fn offline_subscriber(&mut self) {
        let offline = self.connect("offline", 0);
        self.send(offline, &subscribe(1, b't', 2));
        self.turn(offline);
        self.shard.closed(self.now, offline);
        self.shard.end_turn(self.now);
    }

    fn queued(&self, client_id: &str) -> usize {
        let mut queued = None;
        self.shard.each_session(|session| {
            if *session.receiver.client_id == *client_id {
                queued = Some(session.queued_messages());
            }
        });
        queued.expect("the session is there")
    }

    fn pass(&mut self, milliseconds: u64) {
        self.now.monotonic += milliseconds;
        self.shard.tick(self.now);
        self.shard.end_turn(self.now);
    }

    fn send(&mut self, id: ConnectionId, bytes: &[u8]) {
        self.shard.receive(self.now, id, bytes);
    }

    /// Ends the turn; gives what this connection is written.
    fn turn(&mut self, id: ConnectionId) -> Vec<u8> {
        self.shard.end_turn(self.now);
        self.shard.end_turn(self.now);
        take(&mut self.shard, self.now, id)
    }
}

fn connect_packet(client_id: &str, keep_alive: u8) -> Vec<u8> {
    let mut packet = vec![0x10, 18 + client_id.len() as u8];
    packet.extend(b"\0\x04MQTT\x05\0\0");
    packet.extend([keep_alive, 5, 0x11, 0xff, 0xff, 0xff, 0xff]);
    packet.extend([0, client_id.len() as u8]);
    packet.extend(client_id.as_bytes());
    packet
}

fn subscribe(packet_id: u8, topic: u8, qos: u8) -> Vec<u8> {
    vec![0x82, 7, 0, packet_id, 0, 0, 1, topic, qos]
}

fn unsubscribe(packet_id: u8, topic: u8) -> Vec<u8> {
    vec![0xa2, 6, 0, packet_id, 0, 0, 1, topic]
}

fn publish(first_byte: u8, packet_id: u16, topic: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![first_byte];
    let mut length = 6 + payload.len();
    while length > 127 {
        packet.push((length & 127) as u8 | 128);
        length >>= 7;
    }
    packet.push(length as u8);
    packet.extend([0, 1, topic]);
    packet.extend(packet_id.to_be_bytes());
    packet.push(0);
    packet.extend(payload);
    packet
}
