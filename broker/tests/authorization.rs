//! New rules while clients are connected: what was found before is not believed any more, on every shard.

use std::fs;
use std::io::IoSlice;
use std::path::PathBuf;
use std::sync::Arc;

use nightjar::authorization::Authorization;
use nightjar::clock::Now;
use nightjar::exchange::Exchange;
use nightjar::identity::{ConnectionId, ShardId};
use nightjar::settings::{AclSubscribe, Settings};
use nightjar::shard::{PostOffice, Received, Shard, Shared};

const NOW: Now = Now {
    monotonic: 1,
    wall: 1_700_000_000_000,
};

/// Two shards with one exchange, and the file of their rules.
struct World {
    shards: [Shard; 2],
    settings: Arc<Settings>,
    file: PathBuf,
    clients: u32,
}

impl World {
    fn new(name: &str, rules: &str) -> Self {
        let file =
            std::env::temp_dir().join(format!("nightjar-rules-{}-{name}", std::process::id()));
        fs::write(&file, rules).unwrap();
        let mut settings = Settings::default();
        settings.security.acl_file = Some(file.clone());
        settings.security.acl_subscribe = AclSubscribe::Mosquitto;
        let settings = Arc::new(settings);
        let exchange = Arc::new(Exchange::new(&settings, 2, 7));
        let post = Arc::new(PostOffice::new(2, settings.mail_bytes_max));
        let authorization = Arc::new(Authorization::load(&settings).unwrap());
        let shard = |id: ShardId| {
            let shared = Shared {
                exchange: Arc::clone(&exchange),
                post: Arc::clone(&post),
                methods: Default::default(),
                auth: Default::default(),
                authorization: Arc::clone(&authorization),
                journal: None,
                hash_seed: 7,
                client_id_seed: [7; 32],
                settings: Arc::clone(&settings),
            };
            Shard::new(id, shared)
        };
        Self {
            shards: [shard(0), shard(1)],
            settings,
            file,
            clients: 0,
        }
    }

    fn reload(&mut self, rules: &str) {
        fs::write(&self.file, rules).unwrap();
        let authorization = Arc::new(Authorization::load(&self.settings).unwrap());
        for shard in &mut self.shards {
            shard.replace_rules(Arc::clone(&authorization));
        }
    }

    /// An id whose home is this shard.
    fn connect(&mut self, shard: usize, properties: &[u8]) -> ConnectionId {
        for _ in 0..100 {
            self.clients += 1;
            let client_id = format!("c{}", self.clients);
            let shard = &mut self.shards[shard];
            let id = shard.open(NOW, "127.0.0.1:5", &Arc::default());
            let mut packet = b"\0\x04MQTT\x05\x02\0\0".to_vec();
            packet.push(properties.len() as u8);
            packet.extend(properties);
            packet.extend([0, client_id.len() as u8]);
            packet.extend(client_id.as_bytes());
            packet.splice(0..0, [0x10, packet.len() as u8]);
            if matches!(shard.receive(NOW, id, &packet), Received::Continue) {
                assert_eq!(take(shard, id).get(3), Some(&0), "a successful CONNACK");
                return id;
            }
        }
        panic!("no client id lives there");
    }

    fn send(&mut self, shard: usize, id: ConnectionId, packet: &[u8]) -> Vec<u8> {
        self.shards[shard].receive(NOW, id, packet);
        for shard in &mut self.shards {
            shard.end_turn(NOW);
        }
        for shard in &mut self.shards {
            assert!(!shard.collect_mail(NOW));
        }
        take(&mut self.shards[shard], id)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.file);
    }
}

fn take(shard: &mut Shard, id: ConnectionId) -> Vec<u8> {
    shard.end_turn(NOW);
    let Some((send, pool)) = shard.output(id) else {
        return Vec::new();
    };
    let mut slices = [IoSlice::new(&[]); 64];
    let count = send.slices(&mut slices);
    let bytes: Vec<u8> = slices[..count]
        .iter()
        .flat_map(|slice| slice.to_vec())
        .collect();
    send.advance(bytes.len(), pool);
    bytes
}

fn publish(qos: u8, payload: u8) -> Vec<u8> {
    match qos {
        0 => vec![0x30, 5, 0, 1, b't', 0, payload],
        _ => vec![0x30 | qos << 1, 7, 0, 1, b't', 0, 9, 0, payload],
    }
}

#[test]
fn a_subscriber_gets_nothing_along_a_route_from_before_the_reload() {
    for (publisher_at, subscriber_at) in [(0, 0), (0, 1), (1, 0)] {
        let mut world = World::new(&format!("live{publisher_at}{subscriber_at}"), "topic t\n");
        let subscriber = world.connect(subscriber_at, &[]);
        let publisher = world.connect(publisher_at, &[]);
        world.send(
            subscriber_at,
            subscriber,
            &[0x82, 7, 0, 1, 0, 0, 1, b't', 0],
        );
        let received = |world: &mut World, payload| {
            world.send(publisher_at, publisher, &publish(0, payload));
            take(&mut world.shards[subscriber_at], subscriber)
        };
        assert_eq!(received(&mut world, b'1'), publish(0, b'1'));
        world.reload("topic write t\n");
        assert_eq!(received(&mut world, b'2'), [0; 0]);
        world.reload("topic readwrite #\n");
        assert_eq!(received(&mut world, b'3'), publish(0, b'3'));
        let denied = |shard: &Shard| shard.counters().deliveries_denied;
        assert_eq!(world.shards.iter().map(denied).sum::<u64>(), 1);
    }
}

#[test]
fn a_publisher_is_refused_on_the_topic_it_published_to_before_the_reload() {
    let mut world = World::new("publish", "topic t\n");
    let publisher = world.connect(0, &[]);
    assert_eq!(
        world.send(0, publisher, &publish(1, b'1')),
        [0x40, 3, 0, 9, 0x10]
    );
    assert_eq!(
        world.send(0, publisher, &publish(1, b'2')),
        [0x40, 3, 0, 9, 0x10]
    );
    world.reload("topic read t\n");
    assert_eq!(
        world.send(0, publisher, &publish(1, b'3')),
        [0x40, 3, 0, 9, 0x87]
    );
    assert_eq!(
        world.send(0, publisher, &publish(2, b'4')),
        [0x50, 3, 0, 9, 0x87]
    );
    world.reload("topic t\n");
    assert_eq!(
        world.send(0, publisher, &publish(1, b'5')),
        [0x40, 3, 0, 9, 0x10]
    );
    assert_eq!(world.shards[0].counters().publishes_not_authorized, 2);
}

/// A Receive Maximum of 1: the second message waits behind the first.
#[test]
fn what_waits_for_the_window_is_asked_for_again_when_it_is_sent() {
    let mut world = World::new("window", "topic t\n");
    let subscriber = world.connect(0, &[0x21, 0, 1]);
    let publisher = world.connect(0, &[]);
    world.send(0, subscriber, &[0x82, 7, 0, 1, 0, 0, 1, b't', 1]);
    world.send(0, publisher, &publish(1, b'1'));
    world.send(0, publisher, &publish(1, b'2'));
    let first = take(&mut world.shards[0], subscriber);
    assert_eq!(first.last(), Some(&b'1'));
    world.reload("topic write t\n");
    let puback = [0x40, 2, first[5], first[6]];
    assert_eq!(world.send(0, subscriber, &puback), [0; 0]);
    assert_eq!(world.shards[0].counters().deliveries_denied, 1);
    // Nothing of it is left in the queue.
    world.reload("topic t\n");
    world.send(0, publisher, &publish(1, b'3'));
    assert_eq!(take(&mut world.shards[0], subscriber).last(), Some(&b'3'));
}

#[test]
fn a_bad_file_is_told_whole_and_changes_nothing() {
    let world = World::new("bad", "topic t\n");
    fs::write(&world.file, "topic\nuser\n").unwrap();
    let errors = Authorization::load(&world.settings).unwrap_err();
    let lines: Vec<_> = errors.iter().map(|error| error.line).collect();
    assert_eq!(lines, [Some(1), Some(2)]);
}
