//! The pump before and after a crash, driven by hand in virtual time: wills, retained messages, the clock and the end of
//! sessions.

use std::io::IoSlice;
use std::sync::Arc;

use nightjar::auth::Auth;
use nightjar::clock::{Now, resumed_at};
use nightjar::exchange::Exchange;
use nightjar::identity::ConnectionId;
use nightjar::settings::Settings;
use nightjar::shard::{PostOffice, Shard, Shared, restore_groups_and_retained};
use nightjar_storage::{Image, Journal, MemoryEngine};

const DECADES: i64 = 68 * 31_557_600_000;

#[test]
fn d10_after_a_crash_the_will_of_a_clean_session_is_published_and_the_session_is_gone() {
    let mut life = Life::first();
    life.connect("dies", Clean::Yes, 0, Some(0));
    life = life.crash(0);
    assert_eq!(life.image().session_expiry("dies"), Some(0));
    let watcher = life.connect("watcher", Clean::Yes, 0, None);
    life.send(watcher, &subscribe(b"w"));
    life.pass(GRACE - 1);
    assert!(!life.hears(watcher, b"will"));
    life.pass(1);
    assert!(life.hears(watcher, b"will"));
    life.turn();
    assert_eq!(life.image().session_expiry("dies"), None);
    assert_eq!(life.shard.sessions(), 1);
}

#[test]
fn d10_who_comes_back_after_a_crash_has_its_will_deleted_and_no_session() {
    let mut life = Life::first();
    life.connect("dies", Clean::Yes, 0, Some(0));
    life = life.crash(0);
    let watcher = life.connect("watcher", Clean::Yes, 0, None);
    life.send(watcher, &subscribe(b"w"));
    let back = life.open("dies", Clean::No, 60, None);
    assert_eq!(life.hear(back)[2], 0, "session present");
    life.pass(2 * GRACE);
    assert!(!life.hears(watcher, b"will"));
}

#[test]
fn d10_a_will_delay_that_is_longer_than_the_grace_holds_also_over_two_crashes() {
    let mut life = Life::first();
    life.connect("dies", Clean::No, 1000, Some(100));
    life = life.crash(0);
    life.pass(40_000);
    life = life.crash(10_000);
    let watcher = life.connect("watcher", Clean::Yes, 0, None);
    life.send(watcher, &subscribe(b"w"));
    life.pass(49_000);
    assert!(!life.hears(watcher, b"will"));
    life.pass(1_000);
    assert!(life.hears(watcher, b"will"));
}

#[test]
fn a_client_without_a_will_and_without_a_session_costs_no_disk() {
    let mut life = Life::first();
    let client = life.connect("c", Clean::Yes, 0, None);
    life.send(client, &subscribe(b"t"));
    life.send(client, &publish(0x30, b"t", b"x"));
    life.pass(300_000);
    life.send(client, &[0xe0, 0]);
    life.turn();
    assert!(life.image() == Image::new());
    assert!(life.engine.pending().is_empty());
}

#[test]
fn d11_a_retained_qos_0_message_is_written_within_a_second_and_only_the_last() {
    let mut life = Life::first();
    life.engine.hold();
    let client = life.connect("c", Clean::Yes, 0, None);
    for payload in [b"1", b"2", b"3"] {
        life.send(client, &publish(0x31, b"r", payload));
        life.turn();
    }
    assert!(life.engine.pending().is_empty());
    life.pass(1_000);
    assert_eq!(life.engine.pending().len(), 1);
    life.engine.commit_all();
    assert_eq!(life.image().retained().count(), 1);
    assert!(life.image().retained().all(|one| *one.payload == *b"3"));
    life.send(client, &publish(0x31, b"r", b""));
    life.send(
        client,
        &publish(0x31, b"$SYS/broker/connection/b/state", b"1"),
    );
    life.pass(1_000);
    life.engine.commit_all();
    assert_eq!(life.image().retained().count(), 0);
}

#[test]
fn a_retained_qos_0_message_waits_as_long_as_write_behind_seconds_says_and_no_acknowledgement_does()
{
    let mut life = Life::with(Settings {
        write_behind_seconds: 1_800,
        ..settings()
    });
    life.engine.hold();
    let client = life.connect("c", Clean::Yes, 0, None);
    life.send(client, &publish(0x31, b"r", b"1"));
    life.pass(1_799_999);
    assert!(life.engine.pending().is_empty());
    life.send(client, &publish_qos1(0x33, b"s", b"1"));
    life.turn();
    assert_eq!(life.engine.pending().len(), 1, "QoS 1 at once");
    life.engine.commit_all();
    assert_eq!(life.image().retained().count(), 1);
    life.pass(1);
    life.engine.commit_all();
    assert_eq!(life.image().retained().count(), 2);
}

#[test]
fn d11_what_is_retained_at_qos_0_is_written_before_the_broker_stops() {
    let mut life = Life::first();
    let client = life.connect("c", Clean::Yes, 0, None);
    life.send(client, &publish(0x31, b"r", b"1"));
    life.turn();
    assert_eq!(life.image().retained().count(), 0);
    life.shard.publish_wills(life.now);
    life.shard.shut_down(life.now);
    life.turn();
    assert_eq!(life.image().retained().count(), 1);
}

#[test]
fn d11_of_two_shards_that_retain_one_topic_the_last_has_the_last_word_whoever_appends_last() {
    let mut life = Life::first();
    let mut other = life.another_shard();
    let client = life.connect("c", Clean::Yes, 0, None);
    let there = other.connect("d", Clean::Yes, 0, None);
    life.send(client, &publish_qos1(0x33, b"r", b"older"));
    other.send(there, &publish_qos1(0x33, b"r", b"newer"));
    other.turn();
    life.turn();
    let image = life.image();
    let kept: Vec<_> = image.retained().map(|one| one.payload.clone()).collect();
    assert_eq!(kept, [&b"newer"[..]]);
}

#[test]
fn d12_the_expiry_of_an_offline_session_is_the_same_moment_after_a_restart() {
    for (version, clean, seconds) in [(5, Clean::No, 100), (4, Clean::No, 100)] {
        let mut life = Life::with(Settings {
            v3_session_expiry_interval: 100,
            ..settings()
        });
        life.version = version;
        let client = life.connect("c", clean, seconds, None);
        life.send(client, &[0xe0, 0]);
        life.pass(30_000);
        life = life.crash(20_000);
        life.pass(30_000);
        life = life.crash(10_000);
        life.pass(9_999);
        assert_eq!(life.shard.sessions(), 1);
        life.pass(1);
        assert_eq!(life.shard.sessions(), 0);
        assert_eq!(life.image().session_expiry("c"), None);
    }
}

#[test]
fn d12_a_wall_clock_that_is_set_while_the_broker_is_up_moves_no_deadline() {
    // Not before 2020: a wall clock that stands there is one that nobody has set.
    for jump in [DECADES, -DECADES / 14] {
        let mut life = Life::first();
        let client = life.connect("c", Clean::No, 100, None);
        life.send(client, &[0xe0, 0]);
        life.pass(10_000);
        life.now.wall = life.now.wall.saturating_add_signed(jump);
        life.pass(10_000);
        assert_eq!(life.shard.sessions(), 1, "it has not expired");
        // The store has heard of it, so the next start is not misled.
        life = life.crash(0);
        life.pass(79_999);
        assert_eq!(life.shard.sessions(), 1, "it has not expired");
        life.pass(1);
        assert_eq!(life.shard.sessions(), 0, "and is not immortal");
    }
}

#[test]
fn d12_a_start_in_1970_and_ntp_later_move_no_deadline() {
    let mut life = Life::first();
    let client = life.connect("c", Clean::No, 100, None);
    life.send(client, &[0xe0, 0]);
    life.turn();
    life.pass(10_000);
    let real = life.now.wall;
    life = life.crash_with_wall(20_000);
    life.pass(10_000);
    life.now.wall = real + 60_000;
    life.pass(10_000);
    life = life.crash(0);
    // The ten seconds behind the last commit of the first life are lost: no clock tells of them.
    life.pass(79_999);
    assert_eq!(life.shard.sessions(), 1);
    life.pass(1);
    assert_eq!(life.shard.sessions(), 0);
}

const GRACE: u64 = 30_000;
const HASH_SEED: u64 = 1;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Clean {
    Yes,
    No,
}

/// What a test wants to know of a session.
trait Sessions {
    fn session_expiry(&self, client_id: &str) -> Option<u32>;
}

impl Sessions for Image {
    fn session_expiry(&self, client_id: &str) -> Option<u32> {
        self.session(client_id)
            .map(|session| session.session_expiry_interval)
    }
}

/// One process, of one shard.
struct Life {
    shard: Shard,
    shared: Shared,
    engine: MemoryEngine,
    now: Now,
    version: u8,
}

fn settings() -> Settings {
    Settings {
        will_restart_grace_seconds: 30,
        ..Settings::default()
    }
}

impl Life {
    fn first() -> Self {
        Self::with(settings())
    }

    fn with(settings: Settings) -> Self {
        let engine = MemoryEngine::new();
        Self::start(settings, engine, 1_800_000_000_000)
    }

    fn start(settings: Settings, engine: MemoryEngine, wall: u64) -> Self {
        let settings = Arc::new(settings);
        let shared = Shared {
            exchange: Arc::new(Exchange::new(&settings, 1, HASH_SEED)),
            post: Arc::new(PostOffice::new(1, settings.mail_bytes_max)),
            methods: Arc::new([]),
            auth: Auth::default(),
            authorization: Default::default(),
            journal: Some(Arc::new(engine.clone()) as Arc<dyn Journal>),
            hash_seed: HASH_SEED,
            client_id_seed: [1; 32],
            settings,
        };
        let now = Now {
            monotonic: resumed_at(engine.image().clock(), wall),
            wall,
        };
        restore_groups_and_retained(&shared, &engine, now).unwrap();
        let mut shard = Shard::new(0, shared.clone());
        shard.restore(Arc::new(engine.clone()), now).unwrap();
        shard.arm_sweep(now);
        let mut life = Self {
            shard,
            shared,
            engine,
            now,
            version: 5,
        };
        life.turn();
        life
    }

    /// A second shard of the same broker, as far as these tests need one.
    fn another_shard(&self) -> Self {
        Self {
            shard: Shard::new(0, self.shared.clone()),
            shared: self.shared.clone(),
            engine: self.engine.clone(),
            now: self.now,
            version: 5,
        }
    }

    /// The process dies, and another starts so many milliseconds later.
    fn crash(self, away: u64) -> Self {
        let wall = self.now.wall + away;
        self.crash_with_wall(wall)
    }

    fn crash_with_wall(self, wall: u64) -> Self {
        let version = self.version;
        let settings = (*self.shared.settings).clone();
        let mut next = Self::start(settings, self.engine.crash(), wall);
        next.version = version;
        next
    }

    fn image(&self) -> Image {
        self.engine.image()
    }

    /// Time passes on both clocks, and every deadline is kept.
    fn pass(&mut self, milliseconds: u64) {
        let until = self.now.monotonic + milliseconds;
        loop {
            let next = self.shard.next_deadline().unwrap_or(u64::MAX).min(until);
            let step = next.saturating_sub(self.now.monotonic);
            self.now.monotonic += step;
            self.now.wall += step;
            self.shard.tick(self.now);
            self.turn();
            if next == until {
                return;
            }
        }
    }

    fn turn(&mut self) {
        self.shard.end_turn(self.now);
        while self.shard.has_turn_to_end() {
            self.shard.end_turn(self.now);
            let mut dirty = Vec::new();
            self.shard.take_dirty(&mut dirty);
        }
    }

    fn open(&mut self, id: &str, clean: Clean, expiry: u32, will: Option<u32>) -> ConnectionId {
        let connection = self.shard.open(self.now, "peer", &Arc::default());
        let packet = connect_packet(self.version, id, clean, expiry, will);
        self.send(connection, &packet);
        connection
    }

    fn connect(&mut self, id: &str, clean: Clean, expiry: u32, will: Option<u32>) -> ConnectionId {
        let connection = self.open(id, clean, expiry, will);
        let connack = self.hear(connection);
        assert_eq!(connack[3], 0, "{id} is let in");
        connection
    }

    fn send(&mut self, connection: ConnectionId, bytes: &[u8]) {
        self.shard.receive(self.now, connection, bytes);
    }

    fn hear(&mut self, connection: ConnectionId) -> Vec<u8> {
        self.turn();
        let Some((buffer, pool)) = self.shard.output(connection) else {
            return Vec::new();
        };
        let mut bytes = Vec::new();
        while !buffer.is_empty() {
            let mut slices = [IoSlice::new(&[]); 16];
            let filled = buffer.slices(&mut slices);
            let before = bytes.len();
            for slice in &slices[..filled] {
                bytes.extend_from_slice(slice);
            }
            buffer.advance(bytes.len() - before, pool);
        }
        bytes
    }

    fn hears(&mut self, connection: ConnectionId, payload: &[u8]) -> bool {
        let heard = self.hear(connection);
        heard.windows(payload.len()).any(|bytes| bytes == payload)
    }
}

/// `will`: its delay in seconds; it goes to `w`.
fn connect_packet(version: u8, id: &str, clean: Clean, expiry: u32, will: Option<u32>) -> Vec<u8> {
    let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', version];
    let flags = if clean == Clean::Yes { 2 } else { 0 };
    body.push(flags | if will.is_some() { 4 } else { 0 });
    body.extend([0, 0]);
    if version == 5 {
        body.extend([5, 17]);
        body.extend(expiry.to_be_bytes());
    }
    body.extend([0, u8::try_from(id.len()).unwrap()]);
    body.extend(id.as_bytes());
    if let Some(delay) = will {
        body.extend([5, 24]);
        body.extend(delay.to_be_bytes());
        body.extend(b"\x00\x01w\x00\x04will");
    }
    framed(0x10, &body)
}

fn subscribe(filter: &[u8]) -> Vec<u8> {
    let mut body = vec![0, 1, 0, 0, u8::try_from(filter.len()).unwrap()];
    body.extend(filter);
    body.push(0);
    framed(0x82, &body)
}

fn publish(first: u8, topic: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut body = vec![0, u8::try_from(topic.len()).unwrap()];
    body.extend(topic);
    body.push(0);
    body.extend(payload);
    framed(first, &body)
}

fn publish_qos1(first: u8, topic: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut body = vec![0, u8::try_from(topic.len()).unwrap()];
    body.extend(topic);
    body.extend([0, 7, 0]);
    body.extend(payload);
    framed(first, &body)
}

fn framed(first: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![first, u8::try_from(body.len()).unwrap()];
    packet.extend(body);
    packet
}
