//! What the hot paths cost in instructions: whole turns of the pump, driven by hand, without sockets and clocks.
//!
//! `instructions NAME ROUNDS` plays one path so many rounds. `instructions.sh` runs it twice under callgrind, with one number
//! of rounds and with twice that, so that what is left of the difference is the path alone, and compares it with what
//! `instructions.toml` says. Seconds of this program mean nothing.

use std::io::IoSlice;
use std::process::ExitCode;
use std::sync::Arc;

use nightjar::auth::Auth;
use nightjar::clock::Now;
use nightjar::exchange::Exchange;
use nightjar::identity::ConnectionId;
use nightjar::settings::Settings;
use nightjar::shard::{PostOffice, Shard, Shared};
use nightjar_storage::{Journal, MemoryEngine};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (name, rounds) = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--list"] => {
            for path in PATHS {
                println!("{} {}", path.name, path.messages);
            }
            return ExitCode::SUCCESS;
        }
        [name, rounds] => (name.to_owned(), rounds.parse().unwrap_or(1)),
        // As a benchmark among others: every path once.
        _ => (String::new(), 1),
    };
    let mut known = false;
    for path in PATHS {
        if name.is_empty() || path.name == name {
            known = true;
            (path.play)(rounds);
        }
    }
    if !known {
        eprintln!("no path is called {name}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

struct Path {
    name: &'static str,
    /// Messages delivered in one round.
    messages: usize,
    play: fn(usize),
}

const PATHS: &[Path] = &[
    Path {
        name: "qos0",
        messages: READ,
        play: |rounds| pairs(rounds, 0, None),
    },
    Path {
        name: "qos1",
        messages: READ,
        play: |rounds| pairs(rounds, 1, None),
    },
    Path {
        name: "qos2",
        messages: READ,
        play: |rounds| pairs(rounds, 2, None),
    },
    Path {
        name: "qos0_fan_out",
        messages: FAN_OUT * FAN_OUT_READ,
        play: |rounds| fan_out(rounds, 0),
    },
    Path {
        name: "qos1_fan_out",
        messages: FAN_OUT * FAN_OUT_READ,
        play: |rounds| fan_out(rounds, 1),
    },
    Path {
        name: "qos1_durable",
        messages: READ,
        play: |rounds| pairs(rounds, 1, Some(Arc::new(MemoryEngine::new()))),
    },
];

/// One publisher, one subscriber; a read of `READ` messages, then everything that follows from it.
fn pairs(rounds: usize, qos: u8, journal: Option<Arc<dyn Journal>>) {
    let is_durable = journal.is_some();
    let mut world = World::new(journal);
    let subscriber = world.subscriber("s", qos, is_durable);
    let publisher = world.connect("p", false);
    let mut read = Vec::new();
    for packet_id in 1..=READ as u16 {
        publish(qos, packet_id, &mut read);
    }
    for _ in 0..rounds {
        world.say(publisher, &read);
        let mut received = 0;
        // What one says makes the other answer, until nobody has anything to say.
        loop {
            let to_subscriber = world.hear(subscriber);
            let to_publisher = world.hear(publisher);
            if to_subscriber.is_empty() && to_publisher.is_empty() {
                break;
            }
            let mut answers = Vec::new();
            received += answer(&to_subscriber, &mut answers);
            world.say(subscriber, &answers);
            let mut answers = Vec::new();
            answer(&to_publisher, &mut answers);
            world.say(publisher, &answers);
        }
        assert_eq!(received, READ, "every message was delivered");
    }
}

/// One publisher, many subscribers of its topic.
fn fan_out(rounds: usize, qos: u8) {
    let mut world = World::new(None);
    let subscribers: Vec<ConnectionId> = (0..FAN_OUT)
        .map(|number| world.subscriber(&format!("s{number:03}"), qos, false))
        .collect();
    let publisher = world.connect("p", false);
    let mut read = Vec::new();
    for packet_id in 1..=FAN_OUT_READ as u16 {
        publish(qos, packet_id, &mut read);
    }
    for _ in 0..rounds {
        world.say(publisher, &read);
        let mut received = 0;
        for subscriber in &subscribers {
            let heard = world.hear(*subscriber);
            let mut answers = Vec::new();
            received += answer(&heard, &mut answers);
            world.say(*subscriber, &answers);
        }
        world.hear(publisher);
        assert_eq!(received, FAN_OUT * FAN_OUT_READ);
    }
}

struct World {
    shard: Shard,
}

impl World {
    fn new(journal: Option<Arc<dyn Journal>>) -> Self {
        let settings = Arc::new(Settings::default());
        let shard = Shard::new(
            0,
            Shared {
                exchange: Arc::new(Exchange::new(&settings, 1, 7)),
                post: Arc::new(PostOffice::new(1, settings.mail_bytes_max)),
                methods: std::iter::empty().collect(),
                auth: Auth::default(),
                authorization: Default::default(),
                journal,
                hash_seed: 7,
                client_id_seed: [7; 32],
                settings,
            },
        );
        Self { shard }
    }

    fn connect(&mut self, client_id: &str, is_durable: bool) -> ConnectionId {
        let id = self.shard.open(NOW, "peer", &Arc::default());
        let mut packet = vec![0x10, 12 + client_id.len() as u8];
        packet.extend(b"\0\x04MQTT\x04");
        packet.extend([if is_durable { 0 } else { 2 }, 0, 0, 0]);
        packet.push(client_id.len() as u8);
        packet.extend(client_id.as_bytes());
        self.say(id, &packet);
        assert_eq!(self.hear(id), [0x20, 2, 0, 0]);
        id
    }

    fn subscriber(&mut self, client_id: &str, qos: u8, is_durable: bool) -> ConnectionId {
        let id = self.connect(client_id, is_durable);
        let mut packet = vec![0x82, 5 + TOPIC.len() as u8, 0, 1, 0, TOPIC.len() as u8];
        packet.extend(TOPIC);
        packet.push(qos);
        self.say(id, &packet);
        assert_eq!(self.hear(id), [0x90, 3, 0, 1, qos]);
        id
    }

    /// One read and the end of its turn.
    fn say(&mut self, id: ConnectionId, bytes: &[u8]) {
        self.shard.receive(NOW, id, bytes);
        // The journal in memory is durable at once: the second end releases what the first has appended.
        self.shard.end_turn(NOW);
        self.shard.end_turn(NOW);
    }

    /// All that waits to be written.
    fn hear(&mut self, id: ConnectionId) -> Vec<u8> {
        let mut bytes = Vec::new();
        while let Some((send, pool)) = self.shard.output(id)
            && !send.is_empty()
        {
            let mut slices = [IoSlice::new(&[]); 64];
            let filled = send.slices(&mut slices);
            let before = bytes.len();
            for slice in &slices[..filled] {
                bytes.extend_from_slice(slice);
            }
            send.advance(bytes.len() - before, pool);
        }
        let mut dirty = Vec::new();
        self.shard.take_dirty(&mut dirty);
        self.shard.wrote(NOW, id);
        bytes
    }
}

fn publish(qos: u8, packet_id: u16, out: &mut Vec<u8>) {
    let id_length = if qos > 0 { 2 } else { 0 };
    out.push(0x30 | qos << 1);
    out.push((2 + TOPIC.len() + id_length + PAYLOAD.len()) as u8);
    out.extend([0, TOPIC.len() as u8]);
    out.extend(TOPIC);
    if qos > 0 {
        out.extend(packet_id.to_be_bytes());
    }
    out.extend(PAYLOAD);
}

/// What a client answers to what it hears. Gives the number of messages; every packet here is short.
fn answer(heard: &[u8], out: &mut Vec<u8>) -> usize {
    let mut messages = 0;
    let mut rest = heard;
    while let [first, length, ..] = *rest {
        let (packet, after) = rest.split_at(2 + usize::from(length));
        rest = after;
        let id = match first >> 4 {
            3 => {
                messages += 1;
                let at = 4 + TOPIC.len();
                [packet[at], packet[at + 1]]
            }
            _ => [packet[2], packet[3]],
        };
        let kind = match first {
            0x32 => 0x40,
            0x34 => 0x50,
            0x50 => 0x62,
            0x62 => 0x70,
            _ => continue,
        };
        out.extend([kind, 2, id[0], id[1]]);
    }
    messages
}

const NOW: Now = Now {
    monotonic: 90_000_000,
    wall: 1_800_000_000_000,
};
const TOPIC: &[u8] = b"plant/7/line/3/temperature";
const PAYLOAD: &[u8] = &[b'x'; 64];
/// Messages of one read.
const READ: usize = 100;
const FAN_OUT: usize = 100;
const FAN_OUT_READ: usize = 10;
