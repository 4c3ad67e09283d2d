//! Drives every connection of a scenario from one thread, and measures.
//!
//! Comes in: a `Scenario`. Goes out: a `Report`, or the first thing that went wrong. A turn reads each readable
//! connection once, so that nobody waits for the busiest, then lets every publisher send what its pace allows; the clock
//! is read once per read and once per turn.
//!
//! Order of a run: open all connections (subscribers first), warm up, the measured rounds without a pause between them,
//! then drain: publishers stop and what is under way may arrive, until nothing has for a while. Every part is bounded in time.

use std::fmt;
use std::io;
use std::thread;
use std::time::Duration;

use hdrhistogram::Histogram;
use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nightjar_codec::QoS;

use crate::accounting::Totals;
use crate::clock::{Clock, Ticker};
use crate::connection::{Connection, OpenError, Opening, PeerError};
use crate::meter::{self, Sample, Sampler};
use crate::packet::{self, SessionWish};
use crate::process;
use crate::progress::Progress;
use crate::publisher::{PublishPlan, Publisher, Schedule};
use crate::report::{Report, Round, Snapshot};
use crate::scenario::{Pace, Receivers, Scenario};
use crate::subscriber::{Books, Subscriber};

/// Does the work and reports on it.
pub fn run(scenario: &Scenario, progress: &Progress) -> Result<Report, RunError> {
    let mut engine = Engine::open(scenario, progress)?;
    engine.measure()
}

struct Engine<'a> {
    scenario: &'a Scenario,
    progress: &'a Progress,
    clock: Clock,
    poll: Poll,
    /// Publishers have the tokens from 0, subscribers those behind them.
    publishers: Vec<Publisher>,
    subscribers: Vec<Subscriber>,
    /// Connections to read, by token.
    readable: Vec<usize>,
    /// The same, of the turn before, empty: the two change places.
    spare: Vec<usize>,
    buffer: Vec<u8>,
    books: Books,
    schedule: Option<Schedule>,
    ticker: Option<Ticker>,
    watch: Vec<Watch>,
    stalls: u64,
    in_flight_max: u16,
    packets_read: u64,
    /// By the broker, of all publishers.
    acknowledged: u64,
    rest_below: u64,
    sampler: Sampler,
    /// When the publishing began.
    began: u64,
}

/// How far a publisher's stream had come when it last moved.
#[derive(Clone, Copy, Debug, Default)]
struct Watch {
    progress: u64,
    since: u64,
    /// Messages up to here are given up for lost: the window counts from here.
    forgiven: u64,
}

impl<'a> Engine<'a> {
    fn open(scenario: &'a Scenario, progress: &'a Progress) -> Result<Self, RunError> {
        let links = scenario.links;
        if scenario.receivers.count_acknowledged() && scenario.qos == QoS::AtMostOnce {
            return Err(RunError::NothingAcknowledged);
        }
        let connections = links.publishers + links.subscribers;
        let needed = u64::try_from(connections).unwrap_or(u64::MAX) + SPARE_DESCRIPTORS;
        let allowed = process::raise_descriptors(needed);
        if allowed < needed {
            return Err(RunError::Descriptors { needed, allowed });
        }
        let poll = Poll::new()?;
        let clock = Clock::start();
        let in_time = |opened| {
            if clock.elapsed() < OPEN_MAX {
                Ok(())
            } else {
                Err(RunError::OpenTooSlow { opened })
            }
        };
        let protocol = scenario.target.protocol;
        progress.begin("connecting", u64::try_from(connections).unwrap_or(u64::MAX));
        let mut subscribers = Vec::with_capacity(links.subscribers);
        for index in 0..links.subscribers {
            let place = Place::Subscriber(index);
            in_time(index)?;
            progress.set(u64::try_from(index).unwrap_or(0), String::new());
            if scenario.receivers == Receivers::Offline {
                let opened = subscribe(scenario, index).and_then(Opening::close);
                opened.map_err(|error| RunError::Open { place, error })?;
                continue;
            }
            let (connection, _) = open(&poll, scenario, place)?;
            let version_5 = protocol.is_v5();
            subscribers.push(Subscriber::new(connection, &links, index, version_5));
        }
        let mut in_flight_max = scenario.in_flight_max;
        let mut publishers = Vec::with_capacity(links.publishers);
        for index in 0..links.publishers {
            let place = Place::Publisher(index);
            in_time(links.subscribers + index)?;
            let (connection, receive_maximum) = open(&poll, scenario, place)?;
            in_flight_max = in_flight_max.min(receive_maximum);
            let plan = PublishPlan {
                protocol,
                topic: &scenario.topic(index),
                index: u32::try_from(index).unwrap_or(u32::MAX),
                qos: scenario.qos,
                payload_length: scenario.payload_length,
                in_flight_max,
            };
            publishers.push(Publisher::new(connection, plan));
        }
        let packet_length_max = scenario.payload_length + scenario.topic_prefix.len() + 1024;
        Ok(Self {
            scenario,
            progress,
            clock,
            poll,
            publishers,
            subscribers,
            readable: Vec::new(),
            spare: Vec::new(),
            buffer: vec![0; READ_BYTES.max(2 * packet_length_max)],
            books: Books::new(links),
            schedule: None,
            ticker: None,
            watch: vec![Watch::default(); links.publishers],
            stalls: 0,
            in_flight_max,
            packets_read: 0,
            acknowledged: 0,
            rest_below: Self::rest_below(scenario),
            sampler: Sampler::new(scenario.broker_pid),
            began: 0,
        })
    }

    fn measure(&mut self) -> Result<Report, RunError> {
        self.start_ticker()?;
        let mut at = self.clock.nanoseconds();
        self.began = at;
        at += nanoseconds(self.scenario.warmup);
        let measured = self.scenario.round * self.scenario.rounds;
        let length = (self.scenario.warmup + measured).as_millis();
        let length = u64::try_from(length).unwrap_or(u64::MAX);
        self.progress.begin(self.scenario.name, length);
        if self.schedule.is_none() && self.scenario.receivers.count_acknowledged() {
            self.publishers.iter_mut().for_each(Publisher::keep_times);
        }
        self.publish_until(at)?;
        let mut rounds = Vec::new();
        let mut latency = Books::histogram();
        let mut before = self.snapshot()?;
        if self.scenario.receivers.count_acknowledged() {
            self.books.latency.reset();
        } else {
            self.books.measure_from(self.clock.nanoseconds());
        }
        for _ in 0..self.scenario.rounds {
            at += nanoseconds(self.scenario.round);
            self.publish_until(at)?;
            let after = self.snapshot()?;
            let mut round = Round::between(&before, &after);
            round.take_latency(&self.books.latency);
            round.broker_resident_kib = self.memory()?.map(|memory| memory.resident);
            add(&mut latency, &mut self.books.latency);
            rounds.push(round);
            before = after;
        }
        self.books.measure_until(self.clock.nanoseconds());
        self.ticker = None;
        self.drain(DRAIN_MAX)?;
        add(&mut latency, &mut self.books.latency);
        let fetched = self.fetch()?;
        let memory = self.memory()?;
        self.close()?;
        let refused = self.publishers.iter().map(|publisher| publisher.refused);
        let outcome = Outcome {
            totals: self.totals(),
            sent: self.publishers.iter().map(Publisher::sent).sum(),
            strays: self.books.strays,
            refused: refused.sum(),
            stalls: self.stalls,
            in_flight_max: self.in_flight_max,
            fetched,
            memory,
            samples: std::mem::take(&mut self.sampler.samples),
        };
        Ok(Report::new(self.scenario, rounds, outcome, &latency))
    }

    fn memory(&self) -> Result<Option<process::Memory>, RunError> {
        let memory = self.scenario.broker_pid.map(process::memory);
        memory.transpose().map_err(RunError::Broker)
    }

    fn start_ticker(&mut self) -> Result<(), RunError> {
        let Pace::Rate(rate) = self.scenario.pace else {
            return Ok(());
        };
        let interval = Duration::from_nanos(1_000_000_000 / rate.max(1)).max(TICK_MIN);
        self.schedule = Some(Schedule {
            start: self.clock.nanoseconds(),
            rate,
            publishers: u64::try_from(self.publishers.len()).unwrap_or(u64::MAX),
        });
        let ticker = Ticker::every(interval)?;
        let registry = self.poll.registry();
        registry.register(&mut SourceFd(&ticker.raw_fd()), TICK, Interest::READABLE)?;
        self.ticker = Some(ticker);
        Ok(())
    }

    fn publish_until(&mut self, end: u64) -> Result<(), RunError> {
        let mut events = Events::with_capacity(EVENTS_MAX);
        let mut watched = 0;
        loop {
            let now = self.clock.nanoseconds();
            if now >= end {
                return Ok(());
            }
            if now >= watched {
                self.watch(now);
                if self.sampler.tick(now, self.books.received) {
                    self.show(now);
                }
                watched = now + nanoseconds(WATCH_INTERVAL);
            }
            self.send(now)?;
            let before = self.packets_read;
            self.turn(&mut events)?;
            if self.packets_read - before < self.rest_below {
                // Not a poll: what arrives meanwhile wakes nobody, so the pause makes the broker's writes no dearer.
                thread::sleep(PAUSE);
            }
        }
    }

    fn show(&self, now: u64) {
        let rate = self.sampler.samples.last();
        let rate = rate.map_or(0.0, |sample| sample.per_second);
        let elapsed = Duration::from_nanos(now.saturating_sub(self.began));
        self.progress.set_time(elapsed, format!("{rate:.0} msg/s"));
    }

    /// How few packets in a turn are worth a pause, so that more of them come with the next read.
    ///
    /// A broker that writes every message by itself would otherwise cost the generator a turn per message, and its core
    /// would be the limit. A small part of what is under way leaves the broker enough to do meanwhile, whatever its speed;
    /// an open loop never pauses, because it measures latency.
    fn rest_below(scenario: &Scenario) -> u64 {
        let Pace::Window(window) = scenario.pace else {
            return 0;
        };
        let window = if scenario.qos > QoS::AtMostOnce {
            window.min(u64::from(scenario.in_flight_max))
        } else {
            window
        };
        let streams = u64::try_from(scenario.links.count()).unwrap_or(u64::MAX);
        (window.saturating_mul(streams) / REST_PART).min(REST_BELOW_MAX)
    }

    /// Lets every publisher send what its pace allows.
    #[inline]
    fn send(&mut self, now: u64) -> Result<(), RunError> {
        for (index, publisher) in self.publishers.iter_mut().enumerate() {
            let sent = match (self.scenario.pace, &self.schedule) {
                (Pace::Rate(_), Some(schedule)) => {
                    let number = u64::try_from(index).unwrap_or(u64::MAX);
                    let limit = schedule.due_count(number, now);
                    publisher.send(limit, now, Some((schedule, number)))
                }
                (Pace::Window(_), _) if self.scenario.receivers == Receivers::Offline => {
                    publisher.send(u64::MAX, now, None)
                }
                (Pace::Rate(limit) | Pace::Window(limit), _) => {
                    let forgiven = self.watch.get(index).map_or(0, |watch| watch.forgiven);
                    let progress = self.books.progress(index).max(forgiven);
                    publisher.send(progress + limit, now, None)
                }
            };
            sent.map_err(|error| RunError::peer(Place::Publisher(index), error))?;
        }
        Ok(())
    }

    /// Waits until something is readable, then reads each readable connection once.
    #[inline]
    fn turn(&mut self, events: &mut Events) -> Result<(), RunError> {
        let timeout = if self.readable.is_empty() {
            POLL_TIMEOUT
        } else {
            Duration::ZERO
        };
        match self.poll.poll(events, Some(timeout)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => other?,
        }
        for event in events.iter() {
            if event.token() != TICK {
                self.mark(event)?;
            } else if let Some(ticker) = &self.ticker {
                ticker.acknowledge();
            }
        }
        let mut ready = std::mem::take(&mut self.spare);
        std::mem::swap(&mut ready, &mut self.readable);
        for token in ready.drain(..) {
            let place = self.place(token);
            let drained = match place {
                Place::Publisher(index) => self.read_publisher(index),
                Place::Subscriber(index) => self.read_subscriber(index),
            };
            if !drained.map_err(|error| RunError::Peer { place, error })? {
                self.readable.push(token);
            } else if let Some(connection) = self.connection(place) {
                connection.queued = false;
            }
        }
        self.spare = ready;
        Ok(())
    }

    /// One read of a publisher's connection; whether that emptied it.
    #[inline]
    fn read_publisher(&mut self, index: usize) -> Result<bool, PeerError> {
        let Some(publisher) = self.publishers.get_mut(index) else {
            return Ok(true);
        };
        let received = publisher.connection.receive(&mut self.buffer)?;
        let input = self.buffer.get(..received.length).unwrap_or_default();
        let before = publisher.acknowledged();
        let used = publisher.acknowledge(input)?;
        self.acknowledged += publisher.acknowledged() - before;
        if self.scenario.receivers.count_acknowledged() {
            let number = u64::try_from(index).unwrap_or(u64::MAX);
            let schedule = self.schedule.as_ref().map(|schedule| (schedule, number));
            let (now, latency) = (self.clock.nanoseconds(), &mut self.books.latency);
            publisher.time_acknowledgements(before, now, schedule, latency);
        }
        self.packets_read += u64::try_from(used / ACKNOWLEDGEMENT_BYTES).unwrap_or(0);
        publisher
            .connection
            .keep(input.get(used..).unwrap_or_default());
        Ok(received.drained)
    }

    /// One read of a subscriber's connection; whether that emptied it.
    #[inline]
    fn read_subscriber(&mut self, index: usize) -> Result<bool, PeerError> {
        let Some(subscriber) = self.subscribers.get_mut(index) else {
            return Ok(true);
        };
        let received = subscriber.connection.receive(&mut self.buffer)?;
        let input = self.buffer.get(..received.length).unwrap_or_default();
        let now = if self.schedule.is_some() && !self.scenario.receivers.count_acknowledged() {
            self.clock.nanoseconds()
        } else {
            0
        };
        let received_before = self.books.received;
        let used = subscriber.take(input, &mut self.books, now)?;
        self.packets_read += self.books.received - received_before;
        subscriber
            .connection
            .keep(input.get(used..).unwrap_or_default());
        subscriber.connection.flush()?;
        Ok(received.drained)
    }

    /// Books what an event says of its connection.
    #[inline]
    fn mark(&mut self, event: &Event) -> Result<(), RunError> {
        let token = event.token().0;
        let place = self.place(token);
        let Some(connection) = self.connection(place) else {
            return Ok(());
        };
        if event.is_writable() && !connection.writable {
            connection.writable = true;
            let flushed = connection.flush();
            flushed.map_err(|error| RunError::peer(place, error))?;
        }
        if event.is_read_closed() {
            connection.read_closed = true;
        }
        // Bytes that the layers over the socket hold make no event: any event is a reason to look.
        if event.is_readable() || event.is_read_closed() || connection.may_hold_input() {
            let queued = std::mem::replace(&mut connection.queued, true);
            if !queued {
                self.readable.push(token);
            }
        }
        Ok(())
    }

    /// Gives up for lost what a publisher's window has waited for in vain, or the loop would stand still after it.
    fn watch(&mut self, now: u64) {
        if !matches!(self.scenario.pace, Pace::Window(_))
            || self.scenario.receivers == Receivers::Offline
        {
            return;
        }
        for (index, (watch, publisher)) in self.watch.iter_mut().zip(&self.publishers).enumerate() {
            let progress = self.books.progress(index);
            if progress != watch.progress || progress >= publisher.sent() {
                watch.progress = progress;
                watch.since = now;
            } else if now - watch.since > nanoseconds(STALL) {
                watch.forgiven = publisher.sent();
                watch.since = now;
                self.stalls += 1;
            }
        }
    }

    /// Sends nothing new and reads until everything has arrived, nothing has for a while, or time is up.
    fn drain(&mut self, longest: Duration) -> Result<(), RunError> {
        let mut events = Events::with_capacity(EVENTS_MAX);
        let end = self.clock.nanoseconds() + nanoseconds(longest);
        let mut came = (self.books.received, self.acknowledged);
        let mut moved = self.clock.nanoseconds();
        while !self.is_complete() {
            for (index, publisher) in self.publishers.iter_mut().enumerate() {
                let finished = publisher.send(0, 0, None);
                finished.map_err(|error| RunError::peer(Place::Publisher(index), error))?;
            }
            self.turn(&mut events)?;
            let now = self.clock.nanoseconds();
            if (self.books.received, self.acknowledged) != came {
                came = (self.books.received, self.acknowledged);
                moved = now;
            }
            if now > end || now - moved > nanoseconds(STALL) {
                break;
            }
        }
        Ok(())
    }

    fn is_complete(&self) -> bool {
        // Of receivers that are away, nothing can arrive.
        let are_away = self.subscribers.is_empty();
        self.publishers
            .iter()
            .enumerate()
            .all(|(index, publisher)| {
                publisher.is_settled()
                    && (are_away || self.books.progress(index) >= publisher.sent())
            })
    }

    /// Brings back the receivers that were away, and reads all that was queued for them.
    fn fetch(&mut self) -> Result<Option<Fetched>, RunError> {
        let scenario = self.scenario;
        if scenario.receivers != Receivers::Offline {
            return Ok(None);
        }
        let began = self.clock.elapsed();
        for index in 0..scenario.links.subscribers {
            let place = Place::Subscriber(index);
            let maximum = scenario.in_flight_max;
            let client_id = client_id(place);
            let opening = Opening::connect(&self.scenario.target, &client_id, maximum, KEPT)
                .map_err(|error| RunError::Open { place, error })?;
            let connection = register(&self.poll, opening, scenario.links.publishers + index)?;
            let version_5 = scenario.target.protocol.is_v5();
            let subscriber = Subscriber::new(connection, &scenario.links, index, version_5);
            self.subscribers.push(subscriber);
        }
        self.drain(FETCH_MAX)?;
        Ok(Some(Fetched {
            messages: self.books.received,
            time: self.clock.elapsed() - began,
        }))
    }

    fn totals(&self) -> Totals {
        self.books
            .totals(|index| self.publishers.get(index).map_or(0, Publisher::sent))
    }

    /// Says goodbye where the socket takes it; what is left over the kernel closes.
    fn close(&mut self) -> Result<(), RunError> {
        let publishers = self
            .publishers
            .iter_mut()
            .map(|publisher| &mut publisher.connection);
        let subscribers = self
            .subscribers
            .iter_mut()
            .map(|subscriber| &mut subscriber.connection);
        for connection in publishers.chain(subscribers) {
            // An error here would be one of a run that is over.
            let _ = connection.send(&packet::DISCONNECT);
        }
        if self.scenario.receivers == Receivers::Clean {
            return Ok(());
        }
        // Kept sessions would stay in the broker, and fill.
        for index in 0..self.scenario.links.subscribers {
            let place = Place::Subscriber(index);
            Opening::connect(
                &self.scenario.target,
                &client_id(place),
                1,
                SessionWish::Clean,
            )
            .and_then(Opening::close)
            .map_err(|error| RunError::Open { place, error })?;
        }
        Ok(())
    }

    fn snapshot(&self) -> Result<Snapshot, RunError> {
        let pid = self.scenario.broker_pid;
        let done = if self.scenario.receivers.count_acknowledged() {
            self.acknowledged
        } else {
            self.books.received
        };
        meter::snapshot(&self.clock, pid, done).map_err(RunError::Broker)
    }

    #[inline]
    fn place(&self, token: usize) -> Place {
        match token.checked_sub(self.publishers.len()) {
            None => Place::Publisher(token),
            Some(index) => Place::Subscriber(index),
        }
    }

    #[inline]
    fn connection(&mut self, place: Place) -> Option<&mut Connection> {
        match place {
            Place::Publisher(index) => {
                let publisher = self.publishers.get_mut(index);
                publisher.map(|publisher| &mut publisher.connection)
            }
            Place::Subscriber(index) => {
                let subscriber = self.subscribers.get_mut(index);
                subscriber.map(|subscriber| &mut subscriber.connection)
            }
        }
    }
}

/// What a run came to, apart from its rounds.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub totals: Totals,
    pub sent: u64,
    pub strays: u64,
    pub refused: u64,
    pub stalls: u64,
    /// What the publishers kept to, the broker's Receive Maximum included.
    pub in_flight_max: u16,
    pub fetched: Option<Fetched>,
    pub memory: Option<process::Memory>,
    pub samples: Vec<Sample>,
}

/// What was read by receivers that had been away.
#[derive(Clone, Copy, Debug)]
pub struct Fetched {
    pub messages: u64,
    /// From the first connect to the last message.
    pub time: Duration,
}

/// Which of the connections.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Place {
    Publisher(usize),
    Subscriber(usize),
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Publisher(index) => write!(out, "publisher {index}"),
            Self::Subscriber(index) => write!(out, "subscriber {index}"),
        }
    }
}

/// Why there is no report.
#[derive(Debug)]
#[non_exhaustive]
pub enum RunError {
    Open {
        place: Place,
        error: OpenError,
    },
    Peer {
        place: Place,
        error: PeerError,
    },
    OpenTooSlow {
        opened: usize,
    },
    MaximumQos {
        maximum_qos: QoS,
    },
    /// The scenario counts acknowledgements, and QoS 0 has none.
    NothingAcknowledged,
    Descriptors {
        needed: u64,
        allowed: u64,
    },
    Broker(io::Error),
    Io(io::Error),
}

impl RunError {
    fn peer(place: Place, error: io::Error) -> Self {
        Self::Peer {
            place,
            error: error.into(),
        }
    }
}

impl fmt::Display for RunError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open { place, error } => write!(out, "{place}: {error}"),
            Self::Peer { place, error } => write!(out, "{place}: {error}"),
            Self::OpenTooSlow { opened } => write!(
                out,
                "only {opened} connections were accepted in {} s",
                OPEN_MAX.as_secs()
            ),
            Self::MaximumQos { maximum_qos } => {
                write!(out, "the broker takes no QoS above {}", maximum_qos.as_u8())
            }
            Self::NothingAcknowledged => out.write_str(
                "with kept sessions acknowledgements are counted, and QoS 0 has none: use QoS 1 or 2",
            ),
            Self::Descriptors { needed, allowed } => write!(
                out,
                "{needed} open files are needed and {allowed} allowed (ulimit -n)"
            ),
            Self::Broker(error) => write!(out, "cannot read /proc of the broker's pid: {error}"),
            Self::Io(error) => write!(out, "the poll failed: {error}"),
        }
    }
}

impl std::error::Error for RunError {}

impl From<io::Error> for RunError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Connects, subscribes if it is a subscriber, and registers; also gives the broker's Receive Maximum.
fn open(poll: &Poll, scenario: &Scenario, place: Place) -> Result<(Connection, u16), RunError> {
    let target = &scenario.target;
    let attempt = || -> Result<(Opening, usize), OpenError> {
        Ok(match place {
            Place::Publisher(index) => {
                let (client_id, clean) = (client_id(place), SessionWish::Clean);
                (
                    Opening::connect(target, &client_id, u16::MAX, clean)?,
                    index,
                )
            }
            Place::Subscriber(index) => {
                let opening = subscribe(scenario, index)?;
                (opening, scenario.links.publishers + index)
            }
        })
    };
    let (opening, token) = attempt().map_err(|error| RunError::Open { place, error })?;
    let allowed = opening.allowed;
    if allowed.maximum_qos < scenario.qos {
        return Err(RunError::MaximumQos {
            maximum_qos: allowed.maximum_qos,
        });
    }
    let connection = register(poll, opening, token)?;
    Ok((connection, allowed.receive_maximum))
}

/// Connects a subscriber and subscribes to what it is to get.
fn subscribe(scenario: &Scenario, index: usize) -> Result<Opening, OpenError> {
    let session = match scenario.receivers {
        Receivers::Clean => SessionWish::Clean,
        Receivers::Online | Receivers::Offline => KEPT,
    };
    let client_id = client_id(Place::Subscriber(index));
    let mut opening = Opening::connect(
        &scenario.target,
        &client_id,
        scenario.in_flight_max,
        session,
    )?;
    for publisher in scenario.links.publishers_of(index) {
        opening.subscribe(&scenario.topic(publisher), scenario.qos)?;
    }
    Ok(opening)
}

fn register(poll: &Poll, opening: Opening, token: usize) -> io::Result<Connection> {
    let mut connection = opening.into_connection()?;
    connection.register(poll.registry(), Token(token))?;
    Ok(connection)
}

fn client_id(place: Place) -> String {
    let process = std::process::id();
    match place {
        Place::Publisher(index) => format!("loadtest-{process}-p{index}"),
        Place::Subscriber(index) => format!("loadtest-{process}-s{index}"),
    }
}

/// Moves what `from` has counted to `sum`.
fn add(sum: &mut Histogram<u64>, from: &mut Histogram<u64>) {
    sum.add(&*from).expect("both have the same bounds");
    from.reset();
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 2)
}

/// Longer than any run, and over some day where a broker is left with it.
const KEPT: SessionWish = SessionWish::Kept { seconds: 86_400 };
const TICK: Token = Token(usize::MAX);
const EVENTS_MAX: usize = 1024;
/// Standard streams, the poll and the timer.
const SPARE_DESCRIPTORS: u64 = 16;
/// Shared by all connections, so that it stays in the cache.
const READ_BYTES: usize = 65_536;
/// The length of a PUBACK without properties, and of its like.
const ACKNOWLEDGEMENT_BYTES: usize = 4;
/// A pause is worth it below this part of what is under way.
const REST_PART: u64 = 64;
const REST_BELOW_MAX: u64 = 256;
/// The kernel's timer slack adds 50 us.
const PAUSE: Duration = Duration::from_micros(10);
/// For all connections together.
const OPEN_MAX: Duration = Duration::from_secs(120);
const POLL_TIMEOUT: Duration = Duration::from_millis(20);
const WATCH_INTERVAL: Duration = Duration::from_millis(100);
/// Without any progress for so long, what is under way counts as lost.
const STALL: Duration = Duration::from_secs(2);
const DRAIN_MAX: Duration = Duration::from_secs(20);
/// Of queues that grew for as long as the rounds were.
const FETCH_MAX: Duration = Duration::from_secs(600);
/// A rate beyond this is sent in batches of what came due.
const TICK_MIN: Duration = Duration::from_micros(50);
