//! A world: clock, network, clients, broker, disk, and the faults that happen to them. Its seed decides all of it.
//!
//! Faults it injects:
//! - network: delay, bytes in arbitrary pieces, cuts with and without what was under way, ends that never hear of it;
//! - clients: slow acknowledgements, silence, the same client id from a second connection, more QoS 2 than the broker likes;
//! - shards: turns at any time and in any order, stalls, mail that is collected late, sockets that take few bytes,
//!   connections that take long to reach their home shard;
//! - disk: commits late and in part, appends refused, power cuts (with more on disk than was said), failures that end or do not;
//! - clocks: the wall clock set forth and back by decades, and to 1970, while the broker is up and while it is not;
//! - process: crash, orderly stop, start with another number of shards and other hash seeds.
//!
//! A world goes through four parts: life with faults; healing, in which everybody comes back and answers; rest, when what
//! was promised must have been kept; and the end, in which every session ends and nothing may be left.

mod chance;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nightjar::clock::{Now, resumed_at};
use nightjar::identity::ShardId;
use nightjar::settings::Settings;
use nightjar_storage::contract::check_integrity;
use nightjar_storage::{Journal, JournalStatus, MemoryEngine, Owner};

use crate::broker::{Broker, Effect, Input, PASSWORDS};
use crate::client::{Asked, Client, Kind, Phase};
use crate::log::{log, set_now};
use crate::model::{ClientFacts, Model};
use crate::random::Random;

enum Event {
    Open {
        link: usize,
    },
    BytesToBroker {
        link: usize,
        piece: Vec<u8>,
    },
    ClosedToBroker {
        link: usize,
    },
    BytesToClient {
        link: usize,
        piece: Vec<u8>,
    },
    ClosedToClient {
        link: usize,
    },
    Arrived {
        life: u32,
        link: usize,
        home: ShardId,
        unread: Vec<u8>,
    },
    Turn {
        life: u32,
        shard: usize,
    },
    Disk,
    Act {
        client: usize,
    },
    Fault,
    Start,
    Reopen,
    Crash,
}

/// One connection, from the network's side.
struct Link {
    client: usize,
    life: u32,
    shard: usize,
    /// Nothing overtakes within one direction.
    to_broker_at: u64,
    to_client_at: u64,
    cut: bool,
    /// On its way to this shard.
    moving: bool,
    /// What came while it was.
    behind: Vec<Event>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    Life,
    Healing,
    Ending,
}

/// What kind of world the seed has chosen.
struct Climate {
    crashes: bool,
    clock_is_set: bool,
    disk_faults: bool,
    disk_fails: DiskFails,
    disk_delay: u64,
    network_delay: u64,
    busy: u64,
    lasts: u64,
}

/// What happens when the medium fails. `DISK=crash`, `DISK=reopen` and `DISK=never` ask for one; otherwise the seed decides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum DiskFails {
    Never,
    AndThenTheProcess,
    AndIsReopened,
}

impl DiskFails {
    fn of(seed: u64) -> Self {
        match std::env::var("DISK").as_deref() {
            Ok("crash") => Self::AndThenTheProcess,
            Ok("reopen") => Self::AndIsReopened,
            Ok("never") => Self::Never,
            _ => match seed % 4 {
                1 => Self::AndThenTheProcess,
                2 => Self::AndIsReopened,
                _ => Self::Never,
            },
        }
    }
}

pub(crate) struct World {
    random: Random,
    now: u64,
    events: BTreeMap<(u64, u64), Event>,
    next_event: u64,
    part: Part,
    climate: Climate,
    settings: Arc<Settings>,
    broker: Option<Broker>,
    engine: Option<MemoryEngine>,
    life: u32,
    /// Broker clock and world clock at the start of this life.
    started: (u64, u64),
    /// Milliseconds.
    wall_is_off: i64,
    links: Vec<Link>,
    clients: Vec<Client>,
    model: Model,
    disk_stalls_until: u64,
}

impl World {
    /// Lives through the whole world. Panics with the sentence that was broken.
    pub(crate) fn run(seed: u64) -> Summary {
        let mut world = Self::new(seed);
        world.live();
        world.heal();
        world.check_at_rest();
        world.end();
        Summary {
            messages: world.model.messages(),
            lives: world.life,
            links: world.links.len(),
        }
    }

    fn new(seed: u64) -> Self {
        set_now(START);
        let mut random = Random::new(seed);
        let has_journal = random.chance(80);
        let climate = Climate {
            crashes: random.chance(60),
            clock_is_set: random.chance(20),
            disk_faults: has_journal && random.chance(30),
            disk_fails: DiskFails::of(seed),
            disk_delay: *random.pick(&[2, 20, 200]),
            network_delay: *random.pick(&[1, 10, 100]),
            busy: *random.pick(&[30, 100, 300]),
            lasts: random.between(5_000, 20_000),
        };
        let settings = Settings {
            inflight_messages_max: *random.pick(&[1, 3, 20, 1000]),
            qos2_unreleased_max: *random.pick(&[2, 1000, 1000]),
            journal_pending_bytes_max: *random.pick(&[300, 3000, 1 << 20]),
            mail_bytes_max: *random.pick(&[300, 1 << 20, 1 << 20]),
            send_buffer_bytes_max: *random.pick(&[600, 1 << 20, 1 << 20]),
            queue_qos0: random.chance(20),
            queue_memory_bytes_max: *random.pick(&[0, 400, 1 << 20]),
            queue_memory_total_bytes_max: *random.pick(&[1000, 1 << 20]),
            will_restart_grace_seconds: *random.pick(&[0, 2, 30]),
            ..Settings::default()
        };
        let mut settings = settings;
        if random.chance(40) {
            // Everybody has to log in, which takes its time.
            settings.security.allow_anonymous = false;
            settings.security.password_file = Some(PASSWORDS.into());
        }
        let count = random.between(2, 6);
        let clients: Vec<Client> = (0..count)
            .map(|index| Client::new(usize::try_from(index).expect("few"), &mut random))
            .collect();
        let facts = clients
            .iter()
            .map(|client| ClientFacts {
                is_v5: client.is_v5(),
                is_durable: client.kind == Kind::Durable,
                overruns: !client.is_v5() && settings.qos2_unreleased_max < 50,
                takes_all: client.maximum_packet_size.is_none(),
            })
            .collect();
        let mut world = Self {
            random,
            now: START,
            events: BTreeMap::new(),
            next_event: 0,
            part: Part::Life,
            climate,
            settings: Arc::new(settings),
            broker: None,
            engine: has_journal.then(MemoryEngine::manual),
            life: 0,
            started: (0, START),
            wall_is_off: 0,
            links: Vec::new(),
            clients,
            model: Model::new(facts, has_journal),
            disk_stalls_until: 0,
        };
        world.start_broker();
        for client in 0..world.clients.len() {
            let wait = world.random.below(500);
            world.after(wait, Event::Act { client });
        }
        world.after(5, Event::Disk);
        let wait = world.random.between(200, 3000);
        world.after(wait, Event::Fault);
        world
    }

    fn live(&mut self) {
        let until = START + self.climate.lasts;
        self.run_until(until);
    }

    /// Everything works, everybody comes back and answers, nobody has anything new to say.
    fn heal(&mut self) {
        log(|| "healing begins".into());
        self.part = Part::Healing;
        self.disk_stalls_until = 0;
        if self.broker.is_none() {
            self.start_broker();
        }
        self.reopen();
        for link in 0..self.links.len() {
            let client = self.links[link].client;
            if self.clients[client].link != Some(link) {
                self.after(1, Event::ClosedToBroker { link });
            }
        }
        let mut until = self.now + HEALING;
        self.run_until(until);
        // A long queue through a narrow window takes its time.
        let patience = until + PATIENCE;
        while !self.is_at_rest() && until < patience {
            until += 5_000;
            self.run_until(until);
        }
    }

    fn is_at_rest(&self) -> bool {
        let broker = self.broker.as_ref().expect("it was started");
        let mut waiting = 0;
        for shard in &broker.shards {
            shard.each_session(|session| waiting += session.queued_messages());
        }
        waiting == 0 && broker.is_at_rest() && self.clients.iter().all(Client::is_idle)
    }

    fn check_at_rest(&mut self) {
        for client in &self.clients {
            assert!(
                client.is_idle() && client.phase == Phase::Online,
                "violation: {} has not come to rest: {}",
                client.name,
                client.unfinished()
            );
        }
        let broker = self.broker.as_ref().expect("it was started");
        assert!(
            broker.is_at_rest(),
            "violation: the broker has not come to rest"
        );
        broker.check_sessions();
        self.model.now = self.now;
        self.model.check_at_rest();
        for shard in &broker.shards {
            shard.each_session(|session| {
                let client = self
                    .clients
                    .iter()
                    .find(|client| client.name == *session.receiver.client_id);
                let filters = session
                    .subscriptions
                    .keys()
                    .map(ToString::to_string)
                    .collect();
                if let Some(client) = client {
                    self.model.check_subscriptions(client.index, &filters);
                }
                assert!(
                    session.queued_messages() == 0,
                    "violation: {} has {} messages that wait, though it is online and idle",
                    session.receiver.client_id,
                    session.queued_messages()
                );
            });
        }
        let totals = &broker.exchange().totals;
        assert!(
            totals.messages() == 0 && totals.bytes() == 0,
            "violation: nothing waits, but {} messages of {} bytes are reserved",
            totals.messages(),
            totals.bytes()
        );
        assert!(
            totals.held_bytes() == 0,
            "violation: nothing waits, but {} bytes are held",
            totals.held_bytes()
        );
        self.check_disk_at_rest();
    }

    /// The disk says what memory says.
    fn check_disk_at_rest(&self) {
        let (Some(engine), Some(broker)) = (&self.engine, &self.broker) else {
            return;
        };
        check_integrity(engine);
        if self.model.journal_has_failed {
            return;
        }
        let image = engine.image();
        let mut resumable = BTreeMap::new();
        // Sessions that end with their connection: what is stored of them goes then.
        let mut ending = BTreeSet::new();
        for shard in &broker.shards {
            shard.each_session(|session| {
                let client_id = session.receiver.client_id.to_string();
                if session.is_resumable() {
                    let filters: BTreeSet<String> = session
                        .subscriptions
                        .keys()
                        .map(ToString::to_string)
                        .collect();
                    resumable.insert(client_id, filters);
                } else {
                    ending.insert(Owner::Session(client_id.into()));
                }
            });
        }
        let owner = image.owners().find(|owner| !ending.contains(owner));
        let first = owner.and_then(|owner| image.queue(owner, 0).next());
        assert!(
            owner.is_none(),
            "violation: nothing waits, but the store has messages for {owner:?}: {first:?}"
        );
        let stored: BTreeMap<String, BTreeSet<String>> = image
            .sessions()
            .filter(|(client_id, _)| !ending.contains(&Owner::Session((*client_id).into())))
            .map(|(client_id, _)| {
                let filters = image.subscriptions(client_id);
                let filters = filters.map(|(filter, _)| filter.to_owned()).collect();
                (client_id.to_owned(), filters)
            })
            .collect();
        assert!(
            stored == resumable,
            "violation: the store has {stored:?}, memory has {resumable:?}"
        );
        for client in &self.clients {
            if ending.contains(&Owner::Session(client.name.as_str().into())) {
                continue;
            }
            let unreleased: Vec<u16> = image.received_qos2(&client.name).collect();
            assert!(
                unreleased.is_empty(),
                "violation: {} has released everything, the store knows {unreleased:?}",
                client.name
            );
        }
        let retained = image.retained().count() as u64;
        assert!(
            retained == broker.exchange().retained.len(),
            "violation: {retained} retained messages in the store, {} in memory",
            broker.exchange().retained.len()
        );
    }

    /// Every session ends; nothing may be left of any.
    fn end(&mut self) {
        log(|| "the end begins".into());
        self.part = Part::Ending;
        for client in 0..self.clients.len() {
            let asked = match self.clients[client].is_v5() {
                true => Asked::LastTime,
                false => Asked::NothingKept,
            };
            self.open_link(client, asked);
        }
        let until = self.now + 5_000;
        self.run_until(until);
        for client in 0..self.clients.len() {
            self.clients[client].disconnect(true, false);
            self.flush(client);
            self.clients[client].lost();
        }
        let until = self.now + 20_000;
        self.run_until(until);
        let broker = self.broker.as_ref().expect("it was started");
        let exchange = broker.exchange();
        let left = [
            ("sessions", exchange.sessions.value()),
            ("subscriptions", exchange.subscription_count.value()),
            ("bytes of wills", exchange.will_bytes.value()),
            ("queued messages", exchange.totals.messages()),
            ("queued bytes", exchange.totals.bytes()),
            (
                "subscriptions in the index",
                exchange.subscriptions.len() as u64,
            ),
            (
                "connections",
                broker
                    .shards
                    .iter()
                    .map(|shard| shard.connections() as u64)
                    .sum(),
            ),
        ];
        for (name, value) in left {
            assert!(value == 0, "violation: at the end {value} {name} are left");
        }
        if let Some(engine) = &self.engine {
            check_integrity(engine);
            let image = engine.image();
            assert!(
                self.model.journal_has_failed
                    || image.sessions().next().is_none() && image.owners().next().is_none(),
                "violation: at the end the store has {:?} {:?}",
                image.sessions().next(),
                image.owners().next()
            );
        }
    }

    fn run_until(&mut self, until: u64) {
        while let Some(((at, _), _)) = self.events.first_key_value() {
            if *at > until {
                break;
            }
            let ((at, _), event) = self.events.pop_first().expect("there is a first");
            self.now = at;
            self.model.now = at;
            set_now(at);
            self.happen(event);
        }
        self.now = until;
        self.model.now = until;
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Open { link } => self.reach_broker(link, Event::Open { link }),
            Event::BytesToBroker { link, piece } => {
                if !self.links[link].cut {
                    self.reach_broker(link, Event::BytesToBroker { link, piece });
                }
            }
            Event::ClosedToBroker { link } => {
                self.reach_broker(link, Event::ClosedToBroker { link });
            }
            Event::BytesToClient { link, piece } => self.reach_client(link, Some(&piece)),
            Event::ClosedToClient { link } => self.reach_client(link, None),
            Event::Arrived {
                life,
                link,
                home,
                unread,
            } => self.arrived(life, link, home, unread),
            Event::Turn { life, shard } => self.turn(life, shard),
            Event::Disk => self.disk(),
            Event::Act { client } => self.act(client),
            Event::Fault => self.fault(),
            Event::Start => {
                if self.broker.is_none() {
                    self.start_broker();
                }
            }
            Event::Reopen => self.reopen(),
            Event::Crash => self.crash(),
        }
    }

    fn reach_broker(&mut self, link: usize, event: Event) {
        let Some(broker) = self
            .broker
            .as_mut()
            .filter(|one| one.life == self.links[link].life)
        else {
            if matches!(event, Event::Open { .. }) {
                self.after(1, Event::ClosedToClient { link });
            }
            return;
        };
        if self.links[link].moving {
            self.links[link].behind.push(event);
            return;
        }
        let shard = self.links[link].shard;
        let input = match event {
            Event::Open { link } => Input::Open {
                link,
                client: self.links[link].client,
            },
            Event::BytesToBroker { link, piece } => Input::Bytes { link, piece },
            Event::ClosedToBroker { link } => Input::Closed { link },
            _ => return,
        };
        broker.arrives(shard, input);
        self.wake(shard);
    }

    /// A connection has come to its home shard.
    fn arrived(&mut self, life: u32, link: usize, home: ShardId, unread: Vec<u8>) {
        let Some(broker) = self.broker.as_mut().filter(|one| one.life == life) else {
            return;
        };
        let shard = usize::from(home);
        let client = self.links[link].client;
        self.links[link].moving = false;
        self.links[link].shard = shard;
        let moved = Input::Moved {
            link,
            client,
            unread,
        };
        broker.arrives(shard, moved);
        for event in std::mem::take(&mut self.links[link].behind) {
            self.reach_broker(link, event);
        }
        self.wake(shard);
    }

    fn wake(&mut self, shard: usize) {
        let delay = match self.random.below(100) {
            0 if self.part == Part::Life => self.random.between(50, 2000),
            0..60 => 0,
            _ => self.random.below(5),
        };
        self.turn_after(shard, delay);
    }

    fn turn_after(&mut self, shard: usize, delay: u64) {
        let at = self.now + delay;
        let Some(broker) = self.broker.as_mut() else {
            return;
        };
        if broker.turn_at[shard].is_none_or(|planned| planned > at) {
            broker.turn_at[shard] = Some(at);
            let life = broker.life;
            self.after(delay, Event::Turn { life, shard });
        }
    }

    fn turn(&mut self, life: u32, shard: usize) {
        let now = self.clock();
        let Some(broker) = self.broker.as_mut().filter(|one| one.life == life) else {
            return;
        };
        if broker.turn_at[shard] != Some(self.now) {
            return;
        }
        broker.turn_at[shard] = None;
        let mut effects = Vec::new();
        let again = broker.turn(shard, now, &mut self.random, &mut self.model, &mut effects);
        let deadline = broker.shards[shard].next_deadline();
        for effect in effects {
            self.carry_out(effect);
        }
        if again {
            let delay = self.random.between(1, 5);
            self.turn_after(shard, delay);
        }
        if let Some(deadline) = deadline {
            let late = self.random.below(20);
            let deadline = self.in_world(deadline);
            self.turn_after(shard, (deadline + late).saturating_sub(self.now).max(1));
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::ToClient { link, piece } => self.send_to_client(link, piece),
            Effect::Close { link } => {
                let at = self.links[link].to_client_at.max(self.now) + 1;
                self.at(at, Event::ClosedToClient { link });
            }
            Effect::Move {
                link,
                home,
                unread,
                behind,
            } => {
                self.links[link].moving = true;
                for input in behind {
                    let event = match input {
                        Input::Bytes { link, piece } => Event::BytesToBroker { link, piece },
                        _ => Event::ClosedToBroker { link },
                    };
                    self.links[link].behind.push(event);
                }
                let life = self.life;
                let delay = self.random.below(30);
                self.after(
                    delay,
                    Event::Arrived {
                        life,
                        link,
                        home,
                        unread,
                    },
                );
            }
            Effect::Wake(shard) => self.wake(usize::from(shard)),
        }
    }

    fn send_to_client(&mut self, link: usize, piece: Vec<u8>) {
        for piece in self.pieces(piece) {
            let delay = self.network_delay();
            let at = (self.now + delay).max(self.links[link].to_client_at);
            self.links[link].to_client_at = at;
            self.at(at, Event::BytesToClient { link, piece });
        }
    }

    fn send_to_broker(&mut self, link: usize, bytes: Vec<u8>) {
        for piece in self.pieces(bytes) {
            let delay = self.network_delay();
            let at = (self.now + delay).max(self.links[link].to_broker_at);
            self.links[link].to_broker_at = at;
            self.at(at, Event::BytesToBroker { link, piece });
        }
    }

    fn pieces(&mut self, mut bytes: Vec<u8>) -> Vec<Vec<u8>> {
        let mut pieces = Vec::new();
        while !bytes.is_empty() && self.random.chance(20) {
            let rest = bytes.split_off(self.random.index(bytes.len()) + 1);
            pieces.push(bytes);
            bytes = rest;
        }
        if !bytes.is_empty() {
            pieces.push(bytes);
        }
        pieces
    }

    fn network_delay(&mut self) -> u64 {
        if self.part == Part::Life && self.random.chance(1) {
            return self.random.below(1500);
        }
        self.random.below(self.climate.network_delay + 1)
    }

    /// Bytes, or the end of the connection, have come to the client.
    fn reach_client(&mut self, link: usize, piece: Option<&[u8]>) {
        let client = self.links[link].client;
        if self.clients[client].link != Some(link) || self.links[link].cut {
            return;
        }
        let stays = match piece {
            Some(piece) => self.clients[client].receive(self.now, piece, &mut self.model),
            None => false,
        };
        if stays {
            let one = &mut self.clients[client];
            if !one.is_slow || self.part != Part::Life {
                one.acknowledge(usize::MAX);
            }
            self.flush(client);
        } else {
            log(|| format!("c{client} has lost link {link}"));
            self.clients[client].lost();
            self.close_link(link);
        }
    }

    /// The client's socket closes: the broker hears of it behind what was under way.
    fn close_link(&mut self, link: usize) {
        let at = self.links[link].to_broker_at.max(self.now) + 1;
        self.links[link].to_broker_at = at;
        self.at(at, Event::ClosedToBroker { link });
    }

    fn flush(&mut self, client: usize) {
        let bytes = std::mem::take(&mut self.clients[client].out);
        if bytes.is_empty() {
            return;
        }
        self.clients[client].last_sent = self.now;
        if let Some(link) = self.clients[client].link {
            self.send_to_broker(link, bytes);
        }
    }

    fn open_link(&mut self, client: usize, asked: Asked) {
        let link = self.links.len();
        let shards = self.broker.as_ref().map_or(1, |broker| broker.shards.len());
        let shard = self.random.index(shards);
        let delay = self.network_delay();
        self.links.push(Link {
            client,
            life: self.life,
            shard,
            to_broker_at: self.now + delay,
            to_client_at: self.now,
            cut: false,
            moving: false,
            behind: Vec::new(),
        });
        let before = self.clients[client].link;
        log(|| format!("c{client} opens link {link} to shard {shard}, asks {asked:?}"));
        self.clients[client].connect(self.now, link, asked, &mut self.model, &mut self.random);
        if let Some(before) = before
            && (self.part != Part::Life || self.random.chance(50))
        {
            self.close_link(before);
        }
        self.after(delay, Event::Open { link });
        // What is certain of the session may be said before CONNACK comes.
        let starts_anew = matches!(asked, Asked::CleanStart)
            || asked == Asked::Usual && self.clients[client].kind == Kind::Clean;
        if starts_anew && self.part == Part::Life && self.random.chance(40) {
            self.clients[client].subscribe(&mut self.random);
            self.clients[client].publish(self.now, false, &mut self.model, &mut self.random);
        }
        self.flush(client);
    }

    fn clock(&self) -> Now {
        let (broker, world) = self.started;
        Now {
            monotonic: broker + self.now - world,
            wall: self.wall(),
        }
    }

    fn wall(&self) -> u64 {
        (WALL + self.now).saturating_add_signed(self.wall_is_off)
    }

    /// A moment of the broker clock, on the clock of the world.
    fn in_world(&self, at: u64) -> u64 {
        let (broker, world) = self.started;
        (at + world).saturating_sub(broker)
    }

    fn after(&mut self, delay: u64, event: Event) {
        self.at(self.now + delay, event);
    }

    fn at(&mut self, at: u64, event: Event) {
        self.next_event += 1;
        self.events.insert((at, self.next_event), event);
    }
}

/// How much happened in a world.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) messages: usize,
    pub(crate) lives: u32,
    pub(crate) links: usize,
}

impl Summary {
    pub(crate) fn add(&mut self, other: Self) {
        self.messages += other.messages;
        self.lives += other.lives;
        self.links += other.links;
    }
}

/// Milliseconds on the simulated clock when a world begins.
const START: u64 = 100_000;
const WALL: u64 = 1_700_000_000_000;
/// Longer than any will delay and its grace after a restart.
const HEALING: u64 = 75_000;
/// How long everything may take to drain.
const PATIENCE: u64 = 1_000_000;
