//! All clients, the broker they talk to, and what happens from one kill to the next.
//!
//! One thread: whoever's socket is ready is heard, then everybody may act. So the model hears events in the order in which this
//! process saw them, and that is the only order it relies on.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use harness::now;
use nightjar_codec::{ProtocolVersion, QoS};
use rustix::event::{PollFd, PollFlags};

use crate::broker::{Broker, Place, Trap};
use crate::guests::{Reader, WILL_DELAY_SECONDS, WILL_GRACE, WillHolder};
use crate::link::wait_any;
use crate::member::{Member, Traits, Turn};
use crate::model::{Kind, Model, violated};
use crate::random::Random;
use crate::trace::Event;

/// How the broker is to die.
#[derive(Clone, Debug)]
pub(crate) enum Death {
    /// So long after its start.
    Starting(Duration),
    /// So long after it said that it runs.
    Running(Duration),
    /// So long after everybody was served.
    Serving(Duration),
    /// As it enters a system call.
    At(Trap),
}

pub(crate) struct World {
    pub(crate) place: Place,
    pub(crate) model: Model,
    random: Random,
    cast: Cast,
    broker: Option<Broker>,
    budget: u32,
    readers: u64,
    is_resting: bool,
    /// Every session is there with its subscription: from here on every message is owed to those that it is for.
    is_assembled: bool,
    pub(crate) tally: Tally,
}

/// What this run has done to the broker.
#[derive(Default, Debug)]
pub(crate) struct Tally {
    pub(crate) kills: u32,
    pub(crate) while_starting: u32,
    pub(crate) at_system_calls: u32,
    pub(crate) rests: u32,
    pub(crate) longest_start: Duration,
}

impl World {
    pub(crate) fn new(place: Place, seed: u64) -> Self {
        let mut model = Model::new();
        let cast = Cast {
            members: members(&mut model),
            holders: Vec::new(),
            reader: None,
        };
        Self {
            place,
            model,
            random: Random::new(seed),
            cast,
            broker: None,
            budget: 0,
            readers: 0,
            is_resting: false,
            is_assembled: false,
            tally: Tally::default(),
        }
    }

    /// Starts the broker, lets everybody loose on it, and lets it die.
    pub(crate) fn live_and_die(&mut self, death: &Death) {
        self.is_resting = false;
        self.budget = u32::try_from(self.random.between(50, 1_500)).expect("a small number");
        if self.broker.is_none() {
            let trap = match death {
                Death::At(trap) => Some(trap),
                _ => None,
            };
            self.start(trap);
        }
        for member in &mut self.cast.members {
            member.away =
                self.is_assembled && member.traits.comes_and_goes && self.random.chance(40);
        }
        let mut reader_comes = self.random.chance(30);
        let mut holders_to_come = self.random.below(4);
        let began = now();
        let mut served_since = None;
        let by_itself = loop {
            if self.turn() {
                break true;
            }
            let broker = self.broker.as_mut().expect("it was started");
            // After a rest it has been running for a while.
            let running_since = broker.running_since.map(|since| since.max(began));
            if served_since.is_none()
                && self
                    .cast
                    .members
                    .iter()
                    .all(|it| it.away || it.is_serving())
            {
                served_since = Some(now());
            }
            let is_due = match death {
                Death::Serving(after) => served_since.is_some_and(|since| now() > since + *after),
                Death::Starting(after) => now() > broker.started.max(began) + *after,
                Death::Running(after) => running_since.is_some_and(|since| now() > since + *after),
                Death::At(_) => running_since.is_some_and(|since| now() > since + TRAP_PATIENCE),
            };
            if is_due {
                break !broker.kill();
            }
            let Some(port) = broker.port else { continue };
            if reader_comes && self.cast.reader.is_none() {
                reader_comes = false;
                self.let_reader_in(port);
            }
            if holders_to_come > 0 && self.random.chance(10) {
                holders_to_come -= 1;
                self.with_turn(|world, turn| {
                    let mut holder = WillHolder::new(turn);
                    holder.connect(port, turn);
                    world.holders.push(holder);
                });
            }
            if self.is_assembled {
                self.let_some_leave();
            }
        };
        self.bury(death, by_itself);
    }

    /// Everything that is owed is delivered, and the books are closed.
    pub(crate) fn rest(&mut self) {
        self.tally.rests += 1;
        self.is_resting = true;
        self.budget = 0;
        if self.broker.is_none() {
            self.start(None);
        }
        self.cast
            .members
            .iter_mut()
            .for_each(|member| member.away = false);
        self.until("what was acknowledged", |world| {
            let busy = world
                .cast
                .members
                .iter()
                .filter(|member| !member.is_at_rest());
            let mut waiting: Vec<String> = busy.map(Member::describe).collect();
            waiting.extend(world.model.missing());
            waiting
        });
        if self.model.wills.are_pending() {
            let delay = WILL_GRACE.max(Duration::from_secs(WILL_DELAY_SECONDS.into()));
            let since = self.broker.as_ref().and_then(|broker| broker.running_since);
            let due = since.expect("members are served") + delay;
            let due = due.max(now() + Duration::from_millis(100));
            self.until("the time of wills", |_| match now() < due {
                true => vec!["time".to_owned()],
                false => Vec::new(),
            });
            self.until("wills", |world| {
                let connected = world
                    .cast
                    .holders
                    .iter()
                    .filter(|holder| holder.is_connected());
                let connected: BTreeSet<u64> = connected.map(|holder| holder.will).collect();
                world.model.wills.missing(&connected)
            });
        }
        let port = self.broker.as_ref().and_then(|broker| broker.port);
        self.cast.reader = None;
        self.let_reader_in(port.expect("it is served"));
        self.until("what is retained", |world| match &world.cast.reader {
            Some(reader) if reader.is_complete() => Vec::new(),
            Some(reader) => reader.missing().iter().map(|it| (*it).to_owned()).collect(),
            None => vec!["the reader has lost its connection".to_owned()],
        });
        self.cast.reader = None;
        self.model.settle();
    }

    fn let_reader_in(&mut self, port: u16) {
        self.readers += 1;
        let number = self.readers;
        self.cast.reader = self.with_turn(|_, turn| Reader::open(port, number, turn));
    }

    fn start(&mut self, trap: Option<&Trap>) {
        self.place.keep_what_was_left();
        let broker = Broker::start(&self.place, trap);
        self.say(format!("the broker is started, trap {trap:?}"));
        self.broker = Some(broker);
    }

    /// Turns until nothing is waited for; bounded.
    fn until(&mut self, what: &str, waiting: impl Fn(&Self) -> Vec<String>) {
        let deadline = now() + REST_PATIENCE;
        loop {
            if self.turn() {
                violated!("the broker has ended by itself");
            }
            let waiting = waiting(self);
            if waiting.is_empty() && self.is_served() {
                return;
            }
            if now() > deadline {
                violated!(
                    "{what} has not come within {REST_PATIENCE:?}:\n  {}",
                    waiting.join("\n  ")
                );
            }
        }
    }

    fn is_served(&self) -> bool {
        self.cast.members.iter().all(Member::is_serving)
    }

    /// Hears everybody whose socket is ready, then lets everybody act. True: the broker has ended.
    fn turn(&mut self) -> bool {
        self.wait();
        let broker = self.broker.as_mut().expect("a turn needs a broker");
        if let Some(stderr) = broker.stderr()
            && crate::link::wait_readable(stderr, Duration::ZERO)
        {
            broker.read_log();
        }
        if now() > broker.started + START_PATIENCE && broker.running_since.is_none() {
            violated!("the broker does not start:\n{}", broker.log);
        }
        let has_ended = broker.has_ended();
        let port = broker.port;
        let is_young = now() - broker.started < WILL_GRACE / 3;
        if let Some(since) = broker.running_since {
            self.tally.longest_start = self.tally.longest_start.max(since - broker.started);
        }
        self.with_turn(|world, turn| {
            for member in &mut world.members {
                member.receive(turn);
                member.act(turn);
            }
            for holder in &mut world.holders {
                holder.receive(turn);
                holder.act(turn);
            }
            if let Some(reader) = &mut world.reader {
                reader.receive(turn);
            }
        });
        if has_ended {
            return true;
        }
        self.look_for_closes();
        let mut members = self.cast.members.iter();
        self.is_assembled = self.is_assembled || members.all(Member::is_known);
        let Some(port) = port else { return false };
        self.with_turn(|world, turn| {
            for member in &mut world.members {
                if member.link.is_none() && !member.away {
                    member.connect(port, turn);
                }
            }
            for holder in &mut world.holders {
                if holder.is_returning() && holder.link.is_none() && is_young {
                    holder.connect(port, turn);
                }
            }
        });
        if self
            .cast
            .reader
            .as_ref()
            .is_some_and(|reader| reader.is_complete() && !self.is_resting)
        {
            self.cast.reader = None;
        }
        self.cast.holders.retain(|holder| !holder.is_gone());
        false
    }

    fn wait(&self) {
        let broker = self.broker.as_ref().expect("a turn needs a broker");
        let links = self.cast.members.iter().filter_map(|it| it.link.as_ref());
        let links = links.chain(self.cast.holders.iter().filter_map(|it| it.link.as_ref()));
        let links = links.chain(self.cast.reader.iter().filter_map(|it| it.link.as_ref()));
        let links = links.filter(|link| !link.is_over);
        let mut fds: Vec<PollFd<'_>> = links.map(crate::link::Link::poll_fd).collect();
        if let Some(stderr) = broker.stderr() {
            fds.push(PollFd::new(stderr, PollFlags::IN));
        }
        wait_any(&mut fds, Duration::from_millis(1));
    }

    /// The broker closes no connection of ours but after DISCONNECT; but it may have been killed this moment.
    fn look_for_closes(&mut self) {
        let is_over = |link: &Option<crate::link::Link>| link.as_ref().is_some_and(|it| it.is_over);
        let reader = self.cast.reader.as_ref();
        let any = self.cast.members.iter().any(|it| is_over(&it.link))
            || self.cast.holders.iter().any(|it| is_over(&it.link))
            || reader.is_some_and(|it| is_over(&it.link));
        if !any {
            return;
        }
        let members = self.cast.members.iter().filter(|it| is_over(&it.link));
        let holders = self.cast.holders.iter();
        let holders = holders.filter(|it| is_over(&it.link) && !it.is_leaving());
        let mut closed: Vec<String> = members.map(|it| it.traits.id.clone()).collect();
        closed.extend(holders.map(|it| format!("will-{}", it.will)));
        if reader.is_some_and(|it| is_over(&it.link)) {
            closed.push("reader".to_owned());
        }
        // The end of a process closes its sockets before its parent can know of it, on a busy machine long before.
        let broker = self.broker.as_mut().expect("a turn needs a broker");
        let deadline = now() + END_PATIENCE;
        while !broker.has_ended() && !closed.is_empty() && now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        if broker.has_ended() {
            return;
        }
        if !closed.is_empty() {
            violated!("the broker lives, and has closed the connections of {closed:?}");
        }
        self.with_turn(|world, turn| {
            for holder in &mut world.holders {
                if is_over(&holder.link) {
                    holder.handle_close(turn);
                }
            }
        });
    }

    /// Now and then somebody goes, or comes.
    fn let_some_leave(&mut self) {
        if !self.random.chance(2) {
            return;
        }
        let index = self.random.index(self.cast.members.len());
        let politely = self.random.chance(50);
        self.with_turn(|world, turn| {
            let member = &mut world.members[index];
            if member.link.is_none() {
                member.away = false;
            } else if member.is_serving() {
                member.leave(turn, politely);
                member.away = member.traits.comes_and_goes && turn.random.chance(50);
            }
        });
    }

    /// The broker is dead: hears its last words, and lets everybody know.
    fn bury(&mut self, death: &Death, by_itself: bool) {
        let mut broker = self.broker.take().expect("it was started");
        broker.kill();
        broker.read_rest_of_log();
        let is_trapped = matches!(death, Death::At(_));
        if !broker.was_killed() || (by_itself && !is_trapped) {
            violated!("the broker has ended by itself:\n{}", broker.log);
        }
        if broker.log.contains("panicked") {
            violated!("the broker has panicked:\n{}", broker.log);
        }
        self.tally.kills += 1;
        if broker.running_since.is_none() {
            self.tally.while_starting += 1;
        }
        self.tally.at_system_calls += u32::from(by_itself);
        let started = broker.started;
        drop(broker);
        self.with_turn_since(started, |world, turn| {
            for member in &mut world.members {
                // Bounded: nobody writes any more.
                while member.link.as_ref().is_some_and(|link| !link.is_over) {
                    member.receive(turn);
                }
                member.receive(turn);
                member.forget_link();
            }
            for holder in &mut world.holders {
                while holder.link.as_ref().is_some_and(|link| !link.is_over) {
                    holder.receive(turn);
                }
                holder.receive(turn);
            }
        });
        self.model.killed();
        self.with_turn_since(started, |world, turn| {
            for holder in &mut world.holders {
                holder.handle_kill(turn);
            }
        });
        self.cast.holders.retain(|holder| !holder.is_gone());
        self.cast.reader = None;
        self.say(format!("the broker is dead ({death:?})"));
    }

    fn with_turn<T>(&mut self, use_it: impl FnOnce(&mut Cast, &mut Turn<'_>) -> T) -> T {
        let started = self
            .broker
            .as_ref()
            .map_or_else(now, |broker| broker.started);
        self.with_turn_since(started, use_it)
    }

    fn with_turn_since<T>(
        &mut self,
        broker_started: Instant,
        use_it: impl FnOnce(&mut Cast, &mut Turn<'_>) -> T,
    ) -> T {
        let mut turn = Turn {
            now: now(),
            broker_started,
            model: &mut self.model,
            random: &mut self.random,
            budget: &mut self.budget,
            is_resting: self.is_resting || !self.is_assembled,
        };
        use_it(&mut self.cast, &mut turn)
    }

    fn say(&mut self, text: String) {
        self.model.trace.add(now(), Event::Said(text));
    }

    /// What happened last, one line an event.
    pub(crate) fn events(&self) -> String {
        let receivers = self.model.receivers.iter().map(|it| it.name.clone());
        let receivers: Vec<String> = receivers.collect();
        let streams = self.model.streams.iter().map(|it| it.topic.clone());
        let streams: Vec<String> = streams.collect();
        self.model.trace.lines(&receivers, &streams)
    }
}

/// Everybody who is not the broker.
struct Cast {
    members: Vec<Member>,
    holders: Vec<WillHolder>,
    reader: Option<Reader>,
}

/// Who plays, and in which streams.
fn members(model: &mut Model) -> Vec<Member> {
    use ProtocolVersion::{V3_1_1, V5};
    use QoS::{AtLeastOnce, ExactlyOnce};
    let mut members = Vec::new();
    for (index, version) in [V5, V3_1_1, V5, V3_1_1].into_iter().enumerate() {
        let mut streams = Vec::new();
        for qos in [AtLeastOnce, ExactlyOnce] {
            let level = format!("p{index}/q{}", qos.as_u8());
            let mut add = |topic: &str, kind, expiry: Option<u32>| {
                let expiry = expiry.filter(|_| version.is_v5());
                streams.push(model.add_stream(format!("{topic}/{level}"), qos, kind, expiry));
            };
            add("load/a", Kind::Load, None);
            add("load/b", Kind::Load, Some(3_600));
            add("load/c", Kind::Load, None);
            if version.is_v5() {
                add("expiring", Kind::Expiring, Some(1));
            }
            add("retained/alone", Kind::Retained, None);
            add("retained/owned", Kind::Retained, None);
            add("churn", Kind::Churn, None);
        }
        members.push(Traits {
            id: format!("publisher-{index}"),
            version,
            filter: format!("control/{index}"),
            qos: AtLeastOnce,
            receiver: None,
            receive_maximum: None,
            is_slow: false,
            comes_and_goes: false,
            churns: false,
            streams,
        });
    }
    let subscriber = |id: &str, version, filter: &str, qos| Traits {
        id: id.to_owned(),
        version,
        filter: filter.to_owned(),
        qos,
        receiver: None,
        receive_maximum: None,
        is_slow: false,
        comes_and_goes: false,
        churns: false,
        streams: Vec::new(),
    };
    let slow = |traits| Traits {
        is_slow: true,
        ..traits
    };
    let flighty = |traits| Traits {
        comes_and_goes: true,
        ..traits
    };
    let narrow = |traits| Traits {
        receive_maximum: Some(7),
        ..traits
    };
    let churning = |traits| Traits {
        churns: true,
        ..traits
    };
    let alone = [
        subscriber("online-v3-q1", V3_1_1, "load/#", AtLeastOnce),
        subscriber("online-v5-q2", V5, "load/#", ExactlyOnce),
        slow(subscriber("slow-v3-q2", V3_1_1, "load/#", ExactlyOnce)),
        slow(narrow(subscriber("slow-v5-q1", V5, "load/#", AtLeastOnce))),
        flighty(subscriber(
            "flighty-v3-q2",
            V3_1_1,
            "load/+/p0/#",
            ExactlyOnce,
        )),
        flighty(subscriber("flighty-v5-q1", V5, "load/+/p1/#", AtLeastOnce)),
        flighty(slow(narrow(subscriber(
            "flighty-v5-q2",
            V5,
            "load/+/p2/#",
            ExactlyOnce,
        )))),
        flighty(subscriber(
            "flighty-v3-q1",
            V3_1_1,
            "load/+/p3/#",
            AtLeastOnce,
        )),
        flighty(subscriber("late-v5-q2", V5, "expiring/#", ExactlyOnce)),
        flighty(subscriber("late-v3-q1", V3_1_1, "expiring/#", AtLeastOnce)),
        flighty(subscriber(
            "owner-v5-q2",
            V5,
            "retained/owned/#",
            ExactlyOnce,
        )),
        churning(subscriber("churning-v5-q2", V5, "churn/p0/#", ExactlyOnce)),
        churning(subscriber(
            "churning-v3-q1",
            V3_1_1,
            "churn/p1/#",
            AtLeastOnce,
        )),
        subscriber("observer-v5-q2", V5, "will/#", ExactlyOnce),
        subscriber("observer-v3-q1", V3_1_1, "will/#", AtLeastOnce),
    ];
    for traits in alone {
        let receiver = model.add_receiver(&traits.id, &traits.filter, traits.qos, traits.churns);
        if traits.filter == "will/#" {
            model.wills.observe(receiver);
        }
        members.push(Traits {
            receiver: Some(receiver),
            ..traits
        });
    }
    for qos in [AtLeastOnce, ExactlyOnce] {
        let name = format!("group-q{}", qos.as_u8());
        let filter = format!("$share/{name}/load/#");
        let receiver = model.add_receiver(&name, &filter, qos, false);
        for (index, version) in [V5, V3_1_1, V5].into_iter().enumerate() {
            let member = subscriber(&format!("{name}-{index}"), version, &filter, qos);
            members.push(Traits {
                receiver: Some(receiver),
                ..if index == 0 {
                    slow(narrow(member))
                } else {
                    flighty(member)
                }
            });
        }
    }
    members.into_iter().map(Member::new).collect()
}

/// A trap that was not stepped on by then never will be.
const TRAP_PATIENCE: Duration = Duration::from_millis(400);

const START_PATIENCE: Duration = Duration::from_secs(60);

const END_PATIENCE: Duration = Duration::from_secs(20);

const REST_PATIENCE: Duration = Duration::from_secs(60);
