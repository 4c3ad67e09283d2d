//! One life of the broker: its shards, driven as the worker threads drive them, but when the world says so.
//!
//! In come what the network delivers and the time; out go bytes, closed sockets, connections on their way to their home
//! shard, and wake-ups. A turn takes in some of what has arrived, collects the mail of some shards, serves deadlines, ends,
//! and writes as much as the sockets take. Every packet in and out passes the model.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::IoSlice;
use std::sync::{Arc, Mutex, MutexGuard};

use nightjar::auth::backoff::Backoff;
use nightjar::auth::hash::{Cost, Hash};
use nightjar::auth::{Auth, PasswordFile, Passwords, Request, Submitted, Verifier};
use nightjar::clock::Now;
use nightjar::exchange::Exchange;
use nightjar::identity::{ConnectionId, ShardId};
use nightjar::settings::Settings;
use nightjar::shard::{
    Departure, PostOffice, Received, Shard, Shared, restore_groups_and_retained,
};
use nightjar_codec::{Packet, ProtocolVersion};
use nightjar_storage::{Journal, MemoryEngine};

use crate::log::log;
use crate::model::Model;
use crate::random::Random;
use crate::wire::{Splitter, describe};

/// What reaches a shard.
pub(crate) enum Input {
    Open {
        link: usize,
        client: usize,
    },
    Bytes {
        link: usize,
        piece: Vec<u8>,
    },
    Closed {
        link: usize,
    },
    /// A connection from another shard, with what was read of it.
    Moved {
        link: usize,
        client: usize,
        unread: Vec<u8>,
    },
}

/// What the world has to carry out.
pub(crate) enum Effect {
    ToClient {
        link: usize,
        piece: Vec<u8>,
    },
    Close {
        link: usize,
    },
    Move {
        link: usize,
        home: ShardId,
        unread: Vec<u8>,
        behind: Vec<Input>,
    },
    Wake(ShardId),
}

pub(crate) struct Broker {
    pub(crate) life: u32,
    pub(crate) shards: Vec<Shard>,
    shared: Shared,
    logins: Arc<Logins>,
    ends: BTreeMap<usize, End>,
    links: BTreeMap<(ShardId, ConnectionId), usize>,
    inputs: Vec<VecDeque<Input>>,
    /// Connections with bytes that the socket has not taken.
    unwritten: Vec<BTreeSet<usize>>,
    /// Shards that another has told of mail, or that have not taken all of it.
    has_mail: Vec<bool>,
    pub(crate) turn_at: Vec<Option<u64>>,
}

/// The broker's end of a connection.
struct End {
    client: usize,
    shard: ShardId,
    id: ConnectionId,
    version: ProtocolVersion,
    door: Splitter,
    sent: Splitter,
    /// Its CONNECT, while its password is being compared.
    login: Option<Packet>,
    /// What came while the shard did not read.
    unread: VecDeque<Vec<u8>>,
    /// What the shard has read and left for later.
    left: Vec<u8>,
    closed: bool,
}

/// Passwords that are being compared.
#[derive(Default)]
struct Logins(Mutex<Vec<Request>>);

impl Logins {
    fn waiting(&self) -> MutexGuard<'_, Vec<Request>> {
        self.0.lock().expect("nobody panics with it")
    }
}

impl Verifier for Logins {
    fn submit(&self, request: Request) -> Submitted {
        self.waiting().push(request);
        Submitted::Later
    }
}

/// Where the users of all clients stand, in the worlds that have users.
pub(crate) const PASSWORDS: &str = "passwords";
pub(crate) const PASSWORD: &[u8] = b"of everybody";

fn passwords(settings: &Settings) -> Arc<Passwords> {
    if settings.security.password_file.is_none() {
        return Arc::default();
    }
    let hash = Hash::make(Cost::Sha512, &[7; 12], PASSWORD);
    let users: String = (0..10).map(|index| format!("c{index}:{hash}\n")).collect();
    let file = PasswordFile::parse(users.as_bytes()).expect("these lines are good");
    let files = [(PASSWORDS.into(), Arc::new(file))];
    Arc::new(Passwords::new(files.into()))
}

/// How the present turn goes, as the seed has it.
struct Mood {
    inputs: usize,
    writes_little: bool,
}

impl Broker {
    pub(crate) fn start(
        life: u32,
        shards: ShardId,
        hash_seed: u64,
        settings: &Arc<Settings>,
        engine: Option<&MemoryEngine>,
        now: Now,
    ) -> Self {
        let logins = Arc::new(Logins::default());
        let shared = Shared {
            settings: Arc::clone(settings),
            exchange: Arc::new(Exchange::new(settings, shards, hash_seed)),
            post: Arc::new(PostOffice::new(shards, settings.mail_bytes_max)),
            methods: Arc::new([]),
            authorization: Default::default(),
            auth: Auth {
                passwords: passwords(settings),
                verifier: Arc::clone(&logins) as Arc<dyn Verifier>,
                backoff: Arc::new(Backoff::new(hash_seed, 5)),
            },
            journal: engine.map(|engine| Arc::new(engine.clone()) as Arc<dyn Journal>),
            hash_seed,
            client_id_seed: [u8::try_from(life % 256).expect("small"); 32],
        };
        if let Some(engine) = engine {
            restore_groups_and_retained(&shared, engine, now).expect("memory can be read");
        }
        let shards: Vec<Shard> = (0..shards)
            .map(|id| {
                let mut shard = Shard::new(id, shared.clone());
                if let Some(engine) = engine {
                    let checkpoint = Arc::new(engine.clone());
                    shard.restore(checkpoint, now).expect("memory can be read");
                }
                shard
            })
            .collect();
        let count = shards.len();
        let mut broker = Self {
            life,
            shards,
            shared,
            logins,
            ends: BTreeMap::new(),
            links: BTreeMap::new(),
            inputs: (0..count).map(|_| VecDeque::new()).collect(),
            unwritten: vec![BTreeSet::new(); count],
            has_mail: vec![false; count],
            turn_at: vec![None; count],
        };
        broker.shards[0].arm_sweep(now);
        broker
    }

    pub(crate) fn exchange(&self) -> &Exchange {
        &self.shared.exchange
    }

    /// What has arrived for a connection that is moving away.
    fn take_inputs_of(&mut self, link: usize) -> Vec<Input> {
        let mut taken = Vec::new();
        for inputs in &mut self.inputs {
            for input in std::mem::take(inputs) {
                match input {
                    Input::Bytes { link: of, .. } | Input::Closed { link: of } if of == link => {
                        taken.push(input);
                    }
                    other => inputs.push_back(other),
                }
            }
        }
        taken
    }

    pub(crate) fn arrives(&mut self, shard: usize, input: Input) {
        self.inputs[shard].push_back(input);
    }

    pub(crate) fn open_links(&self) -> Vec<usize> {
        self.ends.keys().copied().collect()
    }

    /// Nothing waits inside.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.inputs.iter().all(VecDeque::is_empty)
            && self.logins.waiting().is_empty()
            && self.unwritten.iter().all(BTreeSet::is_empty)
            && !self.has_mail.contains(&true)
            && self
                .shards
                .iter()
                .all(|shard| !shard.has_turn_to_end() && !shard.awaits_journal())
    }

    /// One turn of one shard. True: it should have another soon.
    pub(crate) fn turn(
        &mut self,
        place: usize,
        now: Now,
        random: &mut Random,
        model: &mut Model,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let waiting = self.inputs[place].len();
        let mood = Mood {
            inputs: if random.chance(70) {
                waiting
            } else {
                random.index(waiting + 1)
            },
            writes_little: random.chance(10),
        };
        for _ in 0..mood.inputs {
            if let Some(input) = self.inputs[place].pop_front() {
                self.take_in(place, input, now, model, effects);
            }
        }
        self.answer_logins(place, now, random, model);
        self.read_what_waited(place, now, model, effects);
        self.has_mail[place] = self.has_mail[place] && self.collect_mail(place, now, random);
        let shard = &mut self.shards[place];
        if shard.next_deadline().is_some_and(|at| at <= now.monotonic) && random.chance(90) {
            shard.tick(now);
        }
        shard.end_turn(now);
        for to in shard.take_wakes() {
            self.has_mail[usize::from(to)] = true;
            effects.push(Effect::Wake(to));
        }
        self.write(place, now, &mood, random, model, effects);
        self.check_ends(model);
        let is_here = |request: &Request| usize::from(request.shard) == place;
        self.has_mail[place]
            || self.logins.waiting().iter().any(is_here)
            || !self.inputs[place].is_empty()
            || !self.unwritten[place].is_empty()
            || self.shards[place].has_turn_to_end()
            || self.ends.values().any(|end| {
                usize::from(end.shard) == place && !(end.unread.is_empty() && end.left.is_empty())
            })
    }

    /// As a worker does, or that of some other shards only. True: there may be more, which nobody will say again.
    fn collect_mail(&mut self, place: usize, now: Now, random: &mut Random) -> bool {
        let count = self.shards.len();
        let shard = &mut self.shards[place];
        if random.chance(50) {
            return shard.collect_mail(now);
        }
        let mut is_left = false;
        for from in 0..count {
            if random.chance(75) {
                let from = ShardId::try_from(from).expect("few shards");
                shard.collect_mail_from(now, from);
            } else {
                is_left = true;
            }
        }
        is_left || shard.has_mail_left()
    }

    fn take_in(
        &mut self,
        place: usize,
        input: Input,
        now: Now,
        model: &mut Model,
        effects: &mut Vec<Effect>,
    ) {
        match input {
            Input::Open { link, client } => {
                self.open(place, link, client, now, model);
            }
            Input::Moved {
                link,
                client,
                unread,
            } => {
                log(|| format!("shard {place} takes over link {link}"));
                self.open(place, link, client, now, model);
                self.receive(link, &unread, now, model, effects);
            }
            Input::Bytes { link, piece } => {
                let Some(end) = self.ends.get_mut(&link) else {
                    return;
                };
                if usize::from(end.shard) != place {
                    return;
                }
                if !end.unread.is_empty() || !self.shards[place].may_read(end.id) {
                    self.shards[place].note_paused(now, end.id);
                    end.unread.push_back(piece);
                    return;
                }
                self.receive(link, &piece, now, model, effects);
            }
            Input::Closed { link } => {
                let Some(end) = self.ends.get_mut(&link) else {
                    return;
                };
                end.closed = true;
            }
        }
    }

    fn open(&mut self, place: usize, link: usize, client: usize, now: Now, model: &mut Model) {
        let shard = &mut self.shards[place];
        let id = shard.open(now, "simulated", &Arc::default());
        let shard = shard.id();
        model.opened(link, client);
        self.links.insert((shard, id), link);
        let end = End {
            client,
            shard,
            id,
            version: ProtocolVersion::V3_1_1,
            door: Splitter::default(),
            sent: Splitter::default(),
            login: None,
            unread: VecDeque::new(),
            left: Vec::new(),
            closed: false,
        };
        self.ends.insert(link, end);
    }

    /// Verdicts on passwords come when they come, in any order, and also for connections that are gone.
    fn answer_logins(&mut self, place: usize, now: Now, random: &mut Random, model: &mut Model) {
        let mut later = Vec::new();
        let waiting = std::mem::take(&mut *self.logins.waiting());
        for request in waiting {
            if usize::from(request.shard) != place || random.chance(50) {
                later.push(request);
                continue;
            }
            let id = request.connection;
            log(|| format!("shard {place} hears of the password of {}", request.user));
            self.shards[place].verified(now, id, request.verify());
            let Some(link) = self.links.get(&(request.shard, id)) else {
                continue;
            };
            let end = self.ends.get_mut(link);
            if let Some(connect) = end.and_then(|end| end.login.take()) {
                model.fed(*link, &connect);
            }
        }
        self.logins.waiting().extend(later);
    }

    /// Bytes that waited because the shard did not read, and the end of the connections that have closed.
    fn read_what_waited(
        &mut self,
        place: usize,
        now: Now,
        model: &mut Model,
        effects: &mut Vec<Effect>,
    ) {
        let here: Vec<usize> = self
            .ends
            .iter()
            .filter(|(_, end)| {
                let waits = !end.unread.is_empty() || !end.left.is_empty();
                usize::from(end.shard) == place && (end.closed || waits)
            })
            .map(|(link, _)| *link)
            .collect();
        for link in here {
            while let Some(end) = self.ends.get_mut(&link) {
                let shard = &self.shards[place];
                if shard.is_turn_full() || !shard.may_read(end.id) || shard.is_closing(end.id) {
                    break;
                }
                let piece = if end.left.is_empty() {
                    end.unread.pop_front()
                } else {
                    Some(Vec::new())
                };
                let Some(piece) = piece else {
                    break;
                };
                self.receive(link, &piece, now, model, effects);
            }
            if let Some(end) = self.ends.get(&link)
                && end.closed
                && (end.unread.is_empty() && end.left.is_empty()
                    || self.shards[place].is_closing(end.id))
            {
                log(|| format!("shard {place} sees link {link} closed"));
                self.shards[place].closed(now, end.id);
                model.ended(link);
                self.forget(link);
            }
        }
    }

    fn receive(
        &mut self,
        link: usize,
        piece: &[u8],
        now: Now,
        model: &mut Model,
        effects: &mut Vec<Effect>,
    ) {
        let Some(end) = self.ends.get_mut(&link) else {
            return;
        };
        let shard = &mut self.shards[usize::from(end.shard)];
        if shard.is_closing(end.id) {
            end.left.clear();
            return;
        }
        match shard.receive(now, end.id, piece) {
            Received::Continue => {
                model.heard(link);
                let of_end =
                    |request: &Request| (request.shard, request.connection) == (end.shard, end.id);
                let logs_in = end.login.is_none() && self.logins.waiting().iter().any(of_end);
                let mut read = std::mem::take(&mut end.left);
                read.extend_from_slice(piece);
                end.left = read.split_off(read.len() - shard.unread_bytes(end.id));
                for packet in end.door.feed(&read, end.version) {
                    if let Packet::Connect(connect) = &packet {
                        end.version = connect.protocol_version;
                    }
                    log(|| {
                        format!(
                            "shard {} takes in {}:{}",
                            end.shard,
                            end.client,
                            describe(&packet)
                        )
                    });
                    if logs_in && matches!(packet, Packet::Connect(_)) {
                        end.login = Some(packet);
                    } else {
                        model.fed(link, &packet);
                    }
                }
            }
            Received::Move(departure) => {
                let Departure { home, unread, .. } = *departure;
                log(|| format!("shard {} sends link {link} home to shard {home}", end.shard));
                let waited = end.unread.drain(..);
                let mut behind: Vec<Input> =
                    waited.map(|piece| Input::Bytes { link, piece }).collect();
                let closed = end.closed;
                behind.extend(self.take_inputs_of(link));
                if closed {
                    behind.push(Input::Closed { link });
                }
                effects.push(Effect::Move {
                    link,
                    home,
                    unread,
                    behind,
                });
                self.forget(link);
            }
        }
    }

    fn write(
        &mut self,
        place: usize,
        now: Now,
        mood: &Mood,
        random: &mut Random,
        model: &mut Model,
        effects: &mut Vec<Effect>,
    ) {
        let mut dirty = Vec::new();
        self.shards[place].take_dirty(&mut dirty);
        let mut links: Vec<usize> = std::mem::take(&mut self.unwritten[place])
            .into_iter()
            .collect();
        for id in dirty {
            let shard = self.shards[place].id();
            if let Some(link) = self.links.get(&(shard, id))
                && !links.contains(link)
            {
                links.push(*link);
            }
        }
        for link in &links {
            let id = self.ends[link].id;
            if self.shards[place].is_closing(id) {
                model.check_broker_closes(*link);
                model.ended(*link);
            }
        }
        for link in links {
            self.write_one(place, link, now, mood, random, model, effects);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one world")]
    fn write_one(
        &mut self,
        place: usize,
        link: usize,
        now: Now,
        mood: &Mood,
        random: &mut Random,
        model: &mut Model,
        effects: &mut Vec<Effect>,
    ) {
        let Some(end) = self.ends.get_mut(&link) else {
            return;
        };
        let shard = &mut self.shards[place];
        let Some((buffer, pool)) = shard.output(end.id) else {
            effects.push(Effect::Close { link });
            self.forget(link);
            return;
        };
        let mut bytes = Vec::with_capacity(buffer.len());
        let mut slices = [IoSlice::new(&[]); 16];
        let filled = buffer.slices(&mut slices);
        for slice in &slices[..filled] {
            bytes.extend_from_slice(slice);
        }
        if mood.writes_little {
            bytes.truncate(random.index(bytes.len() + 1));
        }
        buffer.advance(bytes.len(), pool);
        let is_empty = buffer.is_empty();
        if !bytes.is_empty() {
            for packet in end.sent.feed(&bytes, end.version) {
                log(|| {
                    format!(
                        "shard {place} writes to {}: {}",
                        end.client,
                        describe(&packet)
                    )
                });
                model.written(link, &packet);
            }
            shard.wrote(now, end.id);
            effects.push(Effect::ToClient { link, piece: bytes });
        }
        if !is_empty {
            self.unwritten[place].insert(link);
        } else if shard.is_closing(end.id) {
            shard.released(end.id);
            effects.push(Effect::Close { link });
            self.forget(link);
        }
    }

    fn forget(&mut self, link: usize) {
        if let Some(end) = self.ends.remove(&link) {
            self.links.remove(&(end.shard, end.id));
            self.unwritten[usize::from(end.shard)].remove(&link);
        }
    }

    /// A connection that is over is not served, and a client id is at one place.
    fn check_ends(&self, model: &Model) {
        for (link, end) in &self.ends {
            let shard = &self.shards[usize::from(end.shard)];
            let is_served = !shard.is_closing(end.id);
            assert!(
                !(is_served && model.has_ended(*link)),
                "violation: two connections for one client id: link {link} of c{} is served on [MQTT-3.1.4-3]",
                end.client
            );
            assert!(
                !(is_served && shard.may_read(end.id) && model.keep_alive_is_long_over(*link)),
                "violation: link {link} of c{} is silent for much more than its Keep Alive [MQTT-3.1.2-22]",
                end.client
            );
        }
    }

    /// No client id has two sessions.
    pub(crate) fn check_sessions(&self) {
        let mut client_ids = BTreeSet::new();
        for shard in &self.shards {
            shard.each_session(|session| {
                assert!(
                    client_ids.insert(session.receiver.client_id.to_string()),
                    "violation: two sessions for {}",
                    session.receiver.client_id
                );
            });
        }
    }

    /// Says goodbye to everybody (SIGTERM).
    pub(crate) fn shut_down(&mut self, now: Now, model: &mut Model) {
        for shard in &mut self.shards {
            shard.shut_down(now);
        }
        for link in self.ends.keys() {
            model.ended(*link);
        }
    }
}
