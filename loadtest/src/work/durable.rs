//! `durable`: a broker is killed while it queues messages for receivers that are away, started again, and held to what it has
//! acknowledged.
//!
//! Comes in: how to start the broker, how many messages and kills. Each kill is a SIGKILL while all publishers have messages
//! in flight, at a random moment between a tenth and nine tenths of the messages. What was acknowledged before it, to the
//! last byte that the broker's socket still gives, and does not come to a receiver afterwards, is lost. What was not
//! acknowledged may come or not. A message that comes twice is told; at QoS 1 it may.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use nightjar_codec::{ProtocolVersion, QoS};

use super::lifecycle::{Lifecycle, Recipe};
use super::offline::{end_sessions, leave};
use super::wildcards::put_stamp;
use super::{Arrival, Stage, WorkError, client_id, count, histogram, index};
use crate::arguments::{ArgumentError, TargetArguments, connections, filters};
use crate::connection::{Connection, PeerError, Target};
use crate::fleet::{Crew, Fleet};
use crate::frame::{self, Frame};
use crate::ledger::Ledger;
use crate::meter::Phase;
use crate::packet::{self, SessionWish};
use crate::poster::{self, Poster};
use crate::progress::Progress;
use crate::sheet::{Measure, Sheet, Tally, Waiting};
use crate::stamp::{STAMP_LENGTH, Stamp};

#[derive(Debug, Args)]
pub struct DurableArguments {
    /// Command that starts the broker, without a shell: {port}, {data}, {config}, {nightjar} and {mosquitto} are replaced
    /// (default: nightjar with everything kept)
    #[arg(long, value_name = "COMMAND", conflicts_with_all = ["restart", "broker_pid"])]
    pub start: Option<String>,
    /// File whose text becomes {config}, with the same replaced in it
    #[arg(long, value_name = "FILE", requires = "start")]
    pub config: Option<PathBuf>,
    /// Directory for {data}, new or empty; it stays (default: one below the system's for temporary files, removed at the end)
    #[arg(long, value_name = "DIR", conflicts_with = "restart")]
    pub data: Option<PathBuf>,
    /// Core to bind the broker to
    #[arg(long, value_name = "N", conflicts_with = "restart")]
    pub broker_core: Option<usize>,
    /// Kill the broker of --broker-pid, and start it again with this command, which may go on as the broker or end
    #[arg(long, value_name = "COMMAND", requires = "broker_pid")]
    pub restart: Option<String>,
    /// How often it is killed
    #[arg(short, long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub kills: u32,
    /// Messages before each kill, at most
    #[arg(short = 'n', long, default_value_t = 100_000, value_parser = filters())]
    pub messages: u32,
    /// Sessions that are away, of which each gets every message
    #[arg(short = 'S', long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub sessions: u32,
    /// Publishing connections
    #[arg(short = 'P', long, default_value_t = 100, value_parser = connections())]
    pub publishers: u32,
    /// Messages of a publisher without an acknowledgement
    #[arg(short, long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=32_767))]
    pub window: u16,
    /// Payload bytes of a message
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(STAMP_LENGTH as i64..=1_000_000))]
    pub payload: u32,
    #[command(flatten)]
    pub target: TargetArguments,
}

/// Queues, kills, starts and drains, again and again.
pub fn run(arguments: &DurableArguments, progress: &Progress) -> Result<Sheet, WorkError> {
    let work = Work::new(arguments)?;
    let mut lifecycle = lifecycle(arguments)?;
    let target = TargetArguments {
        port: lifecycle.own_port().or(arguments.target.port),
        broker_pid: lifecycle.pid(),
        ..arguments.target.clone()
    };
    let connections = work.sessions + work.publishers + 1;
    let packet_length_max = work.payload_length + work.prefix.len() + 1_024;
    let mut stage = Stage::new(&target, connections, packet_length_max, progress)?;
    let mut books = Books::new(&work);
    let (mut enqueues, mut drains) = (Vec::new(), Vec::new());
    let mut ready = histogram();
    let mut notes = Vec::new();
    for life in 0..work.kills {
        let mut crew = work.crew(&mut stage, life, &mut books)?;
        enqueues.extend(enqueue(&mut stage, &work, &mut crew)?);
        stage.watch(None)?;
        lifecycle.kill()?;
        end_of_life(&mut stage, &mut crew)?;
        let down = stage.now();
        lifecycle.start()?;
        stage.watch(lifecycle.pid())?;
        wait_until_served(&mut stage, work.sessions + work.publishers)?;
        ready.saturating_record((stage.now() - down).max(1));
        drains.extend(drain(&mut stage, &work, &mut crew)?);
        if crew.not_found > 0 {
            notes.push(format!(
                "kill {}: {} of {} sessions were gone",
                life + 1,
                crew.not_found,
                work.sessions
            ));
        }
        leave(&mut stage, work.sessions)?;
    }
    if lifecycle.own_port().is_none() {
        end_sessions(&mut stage, work.sessions)?;
        if let Some(pid) = lifecycle.pid() {
            notes.push(format!("the broker is process {pid} now"));
        }
    }
    notes.truncate(NOTES_MAX);
    let tally = books.tally(&work);
    let (enqueue, drain) = (merged(&enqueues), merged(&drains));
    let rate = |phase: &Option<Phase>| phase.as_ref().map_or(0.0, |phase| phase.per_second);
    let measures = [
        Measure::higher("enqueue", "msg/s", rate(&enqueue)),
        Measure::lower("ready", "ms", milliseconds(ready.value_at_quantile(0.5))),
        Measure::lower("ready at the latest", "ms", milliseconds(ready.max())),
        Measure::higher("drain", "msg/s", rate(&drain)),
    ];
    let mut sheet = stage.sheet("durable", work.to_string(), tally)?;
    sheet.measures.splice(0..0, measures);
    sheet.saturated = [&enqueue, &drain]
        .iter()
        .any(|phase| phase.as_ref().is_some_and(|phase| phase.saturated));
    sheet.phases = enqueue.into_iter().chain(drain).collect();
    sheet
        .waiting
        .push(Waiting::of("from start to ready", &ready));
    sheet.notes.extend(notes);
    Ok(sheet)
}

fn lifecycle(arguments: &DurableArguments) -> Result<Lifecycle, WorkError> {
    let target = &arguments.target;
    let address = target.target()?.address;
    if !address.ip().is_loopback() {
        return Err(ArgumentError::NotLocal.into());
    }
    match (target.broker_pid, &arguments.restart) {
        (Some(pid), Some(restart)) => Lifecycle::take(pid, restart, address),
        (Some(_), None) => Err(ArgumentError::NoRestart.into()),
        (None, _) => Lifecycle::start_own(Recipe {
            command: arguments.start.as_deref(),
            config: arguments.config.as_deref(),
            data: arguments.data.as_deref(),
            port: target.port,
            core: arguments.broker_core,
        }),
    }
}

/// The arguments, ready to be counted with.
#[derive(Debug)]
struct Work {
    kills: u64,
    /// Of one life.
    messages: u64,
    sessions: usize,
    publishers: usize,
    window: u16,
    in_flight: u16,
    payload_length: usize,
    prefix: String,
}

impl Work {
    fn new(arguments: &DurableArguments) -> Result<Self, WorkError> {
        let work = Self {
            kills: u64::from(arguments.kills),
            messages: u64::from(arguments.messages),
            sessions: index(u64::from(arguments.sessions)),
            publishers: index(u64::from(arguments.publishers)),
            window: arguments.window,
            in_flight: arguments.target.in_flight,
            payload_length: index(u64::from(arguments.payload)),
            prefix: arguments.target.prefix()?,
        };
        // A bit each.
        if work.kills * work.messages * (count(work.sessions) + 1) > BOOKED_MAX {
            return Err(ArgumentError::TooMuch.into());
        }
        Ok(work)
    }

    /// Lets everybody in who has a part in one life, and sends the receivers away again.
    fn crew<'a>(
        &self,
        stage: &mut Stage<'_>,
        life: u64,
        books: &'a mut Books,
    ) -> Result<Life<'a>, WorkError> {
        let filter = format!("{}/+", self.prefix);
        let mut arrival = Arrival::new(stage.target(), QoS::AtLeastOnce);
        for number in 0..self.sessions {
            let id = client_id("s", number);
            arrival.add(&id, self.in_flight, KEPT, Some(&filter));
        }
        for number in 0..self.publishers {
            arrival.add(&client_id("p", number), u16::MAX, SessionWish::Clean, None);
        }
        let allowed = arrival.run(stage)?;
        leave(stage, self.sessions)?;
        let protocol = stage.target().protocol;
        let mut poster = Poster::new(protocol, QoS::AtLeastOnce, self.window);
        poster.bound_in_flight(allowed.receive_maximum);
        Ok(Life {
            protocol,
            sessions: self.sessions,
            first: life * self.messages,
            posters: vec![poster; self.publishers],
            under_way: vec![BTreeMap::new(); self.publishers],
            books,
            is_killed: false,
            publishers_gone: 0,
            answered: 0,
            acknowledged: 0,
            arrived: 0,
            back: 0,
            not_found: 0,
        })
    }
}

impl std::fmt::Display for Work {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            out,
            "{} kills, each among {} messages of {} bytes, QoS 1, by {} for {} sessions that are away, window {}",
            self.kills,
            self.messages,
            self.payload_length,
            self.publishers,
            self.sessions,
            self.window
        )
    }
}

/// What was sent, acknowledged and received in all lives.
#[derive(Debug)]
struct Books {
    sent: u64,
    refused: u64,
    acknowledged: Ledger,
    /// By session.
    received: Vec<Ledger>,
}

impl Books {
    fn new(work: &Work) -> Self {
        let messages = work.kills * work.messages;
        let of_session = |_| Ledger::new(messages, work.publishers);
        Self {
            sent: 0,
            refused: 0,
            acknowledged: Ledger::new(messages, 0),
            received: (0..work.sessions).map(of_session).collect(),
        }
    }

    fn tally(&self, work: &Work) -> Tally {
        let sum = |of: fn(&Ledger) -> u64| self.received.iter().map(of).sum::<u64>();
        let missing = |books| self.acknowledged.missing_in(books);
        Tally {
            sent: self.sent,
            acknowledged: Some(self.acknowledged.received * count(work.sessions)),
            received: sum(|books| books.received),
            losses: self.received.iter().map(missing).sum(),
            duplicates: sum(|books| books.duplicates),
            reorderings: sum(|books| books.reorderings),
            strays: sum(|books| books.strays),
            refused: self.refused,
        }
    }
}

/// Publishes until the moment of the kill has come.
fn enqueue(
    stage: &mut Stage<'_>,
    work: &Work,
    crew: &mut Life<'_>,
) -> Result<Option<Phase>, WorkError> {
    let (tenth, most) = (work.messages / 10, work.messages * 8 / 10);
    let kill_at = tenth + random()? % (most + 1);
    // Any moment of the broker's, not always the one in which this thread has read an acknowledgement.
    let later = random()? % KILL_DELAY_MAX_NANOSECONDS;
    let mut kill_after = None;
    let end = crew.first + work.messages;
    let mut next = crew.first;
    let mut payload = vec![b'.'; work.payload_length];
    let topics: Vec<String> = (0..work.publishers)
        .map(|number| format!("{}/{number}", work.prefix))
        .collect();
    stage.phase(
        crew,
        ("enqueue", "messages"),
        work.messages,
        |fleet, crew, now| {
            if crew.answered >= kill_at {
                let kill_after = *kill_after.get_or_insert(now + later);
                fleet.over = now >= kill_after;
                if fleet.over {
                    return Ok(crew.acknowledged);
                }
            }
            let posters = crew.posters.iter_mut().zip(&mut crew.under_way);
            for ((publisher, (poster, under_way)), topic) in posters.enumerate().zip(&topics) {
                fleet.post(work.sessions + publisher, poster, |poster, connection| {
                    if next >= end {
                        return false;
                    }
                    put_stamp(&mut payload, publisher, next);
                    let packet_id = poster.post(connection, topic, &payload, false);
                    under_way.extend(packet_id.map(|id| (id.get(), next)));
                    next += 1;
                    next < end
                });
            }
            Ok(crew.acknowledged)
        },
    )?;
    crew.books.sent += next - crew.first;
    Ok(stage.last().cloned())
}

/// Reads what the broker had sent before it was killed: it counts as acknowledged too.
fn end_of_life(stage: &mut Stage<'_>, crew: &mut Life<'_>) -> Result<(), WorkError> {
    crew.is_killed = true;
    let publishers = count(crew.posters.len());
    stage.run(crew, "killed", publishers, |_, crew, _| {
        Ok(crew.publishers_gone)
    })?;
    crew.books.refused += crew
        .posters
        .iter()
        .map(|poster| poster.refused)
        .sum::<u64>();
    Ok(())
}

/// Waits until a client gets its CONNACK.
fn wait_until_served(stage: &mut Stage<'_>, place: usize) -> Result<(), WorkError> {
    let target = stage.target().clone();
    let mut probe = Probe::Absent;
    let served = stage.run(&mut probe, "starting", 1, |fleet, probe, _| {
        if *probe == Probe::Absent {
            *probe = Probe::Greeted;
            let greeting = target.greeting(&client_id("r", 0), u16::MAX, SessionWish::Clean);
            fleet.connect(place, &greeting)?;
        }
        Ok(u64::from(*probe == Probe::Served))
    })?;
    stage.fleet.close(place);
    if served == 0 {
        return Err(WorkError::Lifecycle(
            "the broker accepts connections again and serves nobody".to_owned(),
        ));
    }
    Ok(())
}

/// Lets the receivers come back and take what is theirs.
fn drain(
    stage: &mut Stage<'_>,
    work: &Work,
    crew: &mut Life<'_>,
) -> Result<Option<Phase>, WorkError> {
    let target = stage.target().clone();
    let sessions = count(work.sessions);
    let owed = crew.acknowledged;
    let mut begun = 0;
    stage.phase(
        crew,
        ("drain", "messages"),
        (owed * sessions).max(1),
        |fleet, crew: &mut Life<'_>, _| {
            return_all(fleet, work, &mut begun, crew.back, &target)?;
            let all_back = crew.back == sessions;
            // For a session that is gone there is nothing to wait for.
            fleet.over = all_back && crew.arrived + owed * crew.not_found >= owed * sessions;
            Ok(if all_back { crew.arrived } else { 0 })
        },
    )?;
    let phase = stage.last().cloned();
    stage.linger(crew)?;
    Ok(phase)
}

fn return_all(
    fleet: &mut Fleet,
    work: &Work,
    begun: &mut usize,
    back: u64,
    target: &Target,
) -> Result<(), WorkError> {
    while *begun < work.sessions && count(*begun) < back + RETURNING_MAX {
        let greeting = target.greeting(&client_id("s", *begun), work.in_flight, KEPT);
        fleet.connect(*begun, &greeting)?;
        *begun += 1;
    }
    Ok(())
}

/// From one start of the broker to the next.
#[derive(Debug)]
struct Life<'a> {
    protocol: ProtocolVersion,
    sessions: usize,
    /// Number of its first message.
    first: u64,
    posters: Vec<Poster>,
    /// By publisher and Packet Identifier: the messages that are not acknowledged.
    under_way: Vec<BTreeMap<u16, u64>>,
    books: &'a mut Books,
    is_killed: bool,
    publishers_gone: u64,
    /// Acknowledged or refused.
    answered: u64,
    acknowledged: u64,
    /// Acknowledged in this life, and now received.
    arrived: u64,
    /// Sessions with a CONNACK, and those of them that the broker did not know.
    back: u64,
    not_found: u64,
}

impl Life<'_> {
    fn acknowledge(&mut self, publisher: usize, frame: &Frame<'_>) -> Result<(), WorkError> {
        let packet_id = u16::from_be_bytes(frame.packet_id()?);
        let under_way = self.under_way.get_mut(publisher);
        let number = under_way.and_then(|under_way| under_way.remove(&packet_id));
        let Some(number) = number else {
            return Ok(());
        };
        self.answered += 1;
        if frame.acknowledgement_reason() < 0x80 {
            self.acknowledged += 1;
            self.books.acknowledged.book(None, number);
        }
        Ok(())
    }

    fn take(&mut self, session: usize, payload: &[u8]) {
        let Some((stamp, books)) = Stamp::read(payload).zip(self.books.received.get_mut(session))
        else {
            return;
        };
        let before = books.received;
        let stream = index(u64::from(stamp.publisher));
        books.book(Some(stream), stamp.sequence);
        let is_owed = stamp.sequence >= self.first && self.books.acknowledged.has(stamp.sequence);
        if books.received > before && is_owed {
            self.arrived += 1;
        }
    }
}

impl Crew for Life<'_> {
    fn packet(
        &mut self,
        index: usize,
        frame: Frame<'_>,
        connection: &mut Connection,
        _now: u64,
    ) -> Result<(), WorkError> {
        if let Some(publisher) = index.checked_sub(self.sessions) {
            if let Some(poster) = self.posters.get_mut(publisher)
                && frame.packet_type() == frame::PUBACK
            {
                poster.acknowledge(&frame, connection)?;
                self.acknowledge(publisher, &frame)?;
            }
            return Ok(());
        }
        match frame.packet_type() {
            frame::CONNACK => {
                let allowed = packet::read_connack(self.protocol, frame.bytes)?;
                self.back += 1;
                self.not_found += u64::from(!allowed.session_present);
            }
            frame::PUBLISH => {
                let version_5 = self.protocol.is_v5();
                self.take(index, frame.publish(version_5)?.payload);
                poster::answer(&frame, connection, version_5)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn gone(&mut self, index: usize, error: PeerError) -> Result<(), WorkError> {
        if self.is_killed && index >= self.sessions {
            self.publishers_gone += 1;
            return Ok(());
        }
        Err(WorkError::Peer { index, error })
    }
}

/// One client that asks whether it is served.
#[derive(Debug, Eq, PartialEq)]
enum Probe {
    Absent,
    Greeted,
    Served,
}

impl Crew for Probe {
    fn packet(
        &mut self,
        _: usize,
        frame: Frame<'_>,
        _: &mut Connection,
        _: u64,
    ) -> Result<(), WorkError> {
        if frame.packet_type() == frame::CONNACK {
            *self = Self::Served;
        }
        Ok(())
    }

    fn gone(&mut self, _: usize, _: PeerError) -> Result<(), WorkError> {
        // It may still be starting.
        *self = Self::Absent;
        Ok(())
    }
}

/// All of a kind as one.
fn merged(phases: &[Phase]) -> Option<Phase> {
    let (first, rest) = phases.split_first()?;
    let mut all = first.clone();
    for phase in rest {
        all.absorb(phase);
    }
    Some(all)
}

fn milliseconds(nanoseconds: u64) -> f64 {
    crate::report::float(nanoseconds) / 1e6
}

fn random() -> Result<u64, WorkError> {
    getrandom::u64().map_err(|error| WorkError::Io(error.into()))
}

const KEPT: SessionWish = SessionWish::Kept { seconds: 3_600 };
const BOOKED_MAX: u64 = 8_000_000_000;
const KILL_DELAY_MAX_NANOSECONDS: u64 = 2_000_000;
const NOTES_MAX: usize = 10;
const RETURNING_MAX: u64 = 100;
