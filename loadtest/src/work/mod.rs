//! The scenarios of several phases: each connects, does one thing after the other, and says what each cost.
//!
//! Comes in: the arguments of a scenario. Goes out: a `Sheet`. What they share is here: a `Stage` holds the connections
//! (`fleet`) and the meter, and runs one phase until everything is done, nothing has moved for `--stall`, or time is up.
//! What is missing then is a loss in the sheet, not an error.

pub mod connect;
pub mod durable;
pub mod lifecycle;
pub mod offline;
pub mod retained;
pub mod slow;
pub mod storm;
pub mod wildcards;

use std::fmt;
use std::io;
use std::time::Duration;

use hdrhistogram::Histogram;
use mio::Events;
use nightjar_codec::QoS;

use crate::arguments::{ArgumentError, TargetArguments};
use crate::compare::CompareError;
use crate::connection::{PeerError, Target};
use crate::fleet::{Crew, Fleet};
use crate::frame::{Frame, FrameError};
use crate::meter::{Meter, Phase};
use crate::packet::{self, Allowed, Refusal, SessionWish};
use crate::process::{self, Memory};
use crate::progress::Progress;
use crate::sheet::{Sheet, Tally};

/// Where a scenario takes place.
#[derive(Debug)]
pub struct Stage<'a> {
    pub fleet: Fleet,
    meter: Meter,
    progress: &'a Progress,
    events: Events,
    broker_pid: Option<u32>,
    /// Of those that ran before the one that is watched.
    peak_kib_before: u64,
    timeout: Duration,
    /// Without any progress for so long, what is under way counts as lost.
    stall: Duration,
    last: Option<Phase>,
}

impl<'a> Stage<'a> {
    /// Room for `connections`, which receive packets of at most `packet_length_max` bytes.
    pub fn new(
        arguments: &TargetArguments,
        connections: usize,
        packet_length_max: usize,
        progress: &'a Progress,
    ) -> Result<Self, WorkError> {
        let target = arguments.target()?;
        let fleet = Fleet::new(&target, connections, packet_length_max)?;
        Ok(Self {
            meter: Meter::new(fleet.clock, arguments.broker_pid),
            fleet,
            progress,
            events: Events::with_capacity(EVENTS_MAX),
            broker_pid: arguments.broker_pid,
            peak_kib_before: 0,
            timeout: Duration::from_secs_f64(arguments.timeout),
            stall: Duration::from_secs_f64(arguments.stall),
            last: None,
        })
    }

    /// The broker ends, or is another process from here on; the peak of its memory is that of all of them.
    pub fn watch(&mut self, broker_pid: Option<u32>) -> Result<(), WorkError> {
        let memory = self.broker_pid.map(process::memory).transpose();
        let peak = memory.map_err(WorkError::Broker)?.unwrap_or_default();
        self.peak_kib_before = self.peak_kib_before.max(peak.resident_peak);
        self.broker_pid = broker_pid;
        self.meter.watch(broker_pid);
        Ok(())
    }

    /// The target of all connections.
    #[must_use]
    pub fn target(&self) -> &Target {
        self.fleet.target()
    }

    /// Nanoseconds since the start.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.fleet.clock.nanoseconds()
    }

    /// Runs and measures one phase.
    ///
    /// `step` sends what may be sent and tells how much is done; the phase ends when that is `total`, or early as told in
    /// the head of this file. Returns how much was done.
    pub fn phase<C: Crew>(
        &mut self,
        crew: &mut C,
        (name, unit): (&'static str, &'static str),
        total: u64,
        step: impl FnMut(&mut Fleet, &mut C, u64) -> Result<u64, WorkError>,
    ) -> Result<u64, WorkError> {
        self.meter.begin().map_err(WorkError::Broker)?;
        let done = self.run(crew, name, total, step)?;
        let phase = self
            .meter
            .end(name, unit, done)
            .map_err(WorkError::Broker)?;
        self.last = Some(phase);
        Ok(done)
    }

    /// The same without measuring: for what comes before and after.
    pub fn run<C: Crew>(
        &mut self,
        crew: &mut C,
        name: &'static str,
        total: u64,
        mut step: impl FnMut(&mut Fleet, &mut C, u64) -> Result<u64, WorkError>,
    ) -> Result<u64, WorkError> {
        self.progress.begin(name, total);
        let began = self.now();
        let mut moved = (began, 0);
        let mut wait = Duration::ZERO;
        loop {
            let now = self.now();
            let done = step(&mut self.fleet, crew, now)?;
            let over = std::mem::take(&mut self.fleet.over);
            if done >= total || over {
                return Ok(done);
            }
            if done != moved.1 {
                moved = (now, done);
            }
            if now - moved.0 > nanoseconds(self.stall) || now - began > nanoseconds(self.timeout) {
                return Ok(done);
            }
            if self.meter.tick(now, done) {
                self.progress.set(done, done.to_string());
            }
            self.fleet.turn(crew, &mut self.events, wait)?;
            wait = POLL_TIMEOUT;
        }
    }

    /// Runs and measures what lasts `duration` and then is over; `step` tells how much is done in it.
    pub fn timed_phase<C: Crew>(
        &mut self,
        crew: &mut C,
        (name, unit): (&'static str, &'static str),
        duration: Duration,
        mut step: impl FnMut(&mut Fleet, &mut C, u64) -> Result<u64, WorkError>,
    ) -> Result<u64, WorkError> {
        self.meter.begin().map_err(WorkError::Broker)?;
        self.progress.begin(
            name,
            u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
        );
        let began = self.now();
        let done = loop {
            let now = self.now();
            let done = step(&mut self.fleet, crew, now)?;
            let elapsed = Duration::from_nanos(now - began);
            if elapsed >= duration {
                break done;
            }
            if self.meter.tick(now, done) {
                self.progress.set_time(elapsed, format!("{done} {unit}"));
            }
            let rest = (duration - elapsed).min(POLL_TIMEOUT);
            // Rounded up: a timeout below a millisecond would spin.
            let rest = rest.max(Duration::from_millis(1));
            self.fleet.turn(crew, &mut self.events, rest)?;
        };
        let phase = self
            .meter
            .end(name, unit, done)
            .map_err(WorkError::Broker)?;
        self.last = Some(phase);
        Ok(done)
    }

    /// Goes on reading for a moment, unmeasured: a second copy of a message would come right behind the first.
    pub fn linger<C: Crew>(&mut self, crew: &mut C) -> Result<(), WorkError> {
        let end = self.now() + nanoseconds(LINGER);
        while self.now() < end {
            self.fleet.turn(crew, &mut self.events, POLL_TIMEOUT)?;
        }
        Ok(())
    }

    /// The phase measured last.
    #[must_use]
    pub fn last(&self) -> Option<&Phase> {
        self.last.as_ref()
    }

    /// Things per second in the phase measured last.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        self.last.as_ref().map_or(0.0, |phase| phase.per_second)
    }

    /// Bytes by which the broker grew in the phase measured last, for each of `count` things.
    #[must_use]
    pub fn grown_bytes_each(&self, count: u64) -> Option<f64> {
        let phase = self.last.as_ref()?;
        grown_bytes_each(
            phase.broker_resident_kib_before?,
            phase.broker_resident_kib?,
            count,
        )
    }

    /// Memory of the broker, KiB.
    pub fn resident_kib(&self) -> Result<Option<u64>, WorkError> {
        let memory = self.broker_pid.map(process::memory).transpose();
        Ok(memory
            .map_err(WorkError::Broker)?
            .map(|memory| memory.resident))
    }

    /// Writes the sheet.
    pub fn sheet(
        self,
        scenario: &'static str,
        work: String,
        tally: Tally,
    ) -> Result<Sheet, WorkError> {
        let memory = self.broker_pid.map(process::memory).transpose();
        let memory = memory.map_err(WorkError::Broker)?.map(|memory| Memory {
            resident_peak: memory.resident_peak.max(self.peak_kib_before),
            ..memory
        });
        let target = self.fleet.target();
        let (address, protocol) = (target.to_string(), target.protocol.to_string());
        let (phases, samples) = self.meter.finish();
        let mut sheet = Sheet {
            scenario,
            work,
            address,
            protocol,
            measures: Vec::new(),
            tally,
            saturated: phases.iter().any(|phase| phase.saturated),
            phases,
            waiting: Vec::new(),
            notes: Vec::new(),
            broker_resident_kib: None,
            broker_resident_peak_kib: None,
            samples,
        };
        sheet.set_memory(memory);
        Ok(sheet)
    }
}

/// Connections that only come in, and subscribe if they are to: the crew of every opening.
#[derive(Debug)]
pub struct Arrival {
    greetings: Vec<Vec<u8>>,
    /// What each sends behind its CONNECT; empty: nothing.
    subscribes: Vec<Vec<u8>>,
    qos: QoS,
    target: Target,
    at: Vec<Arriving>,
    pub arrived: u64,
    pub allowed: Allowed,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Arriving {
    Absent,
    Greeted,
    Subscribing,
    Present,
}

impl Arrival {
    /// Nobody yet.
    #[must_use]
    pub fn new(target: &Target, qos: QoS) -> Self {
        Self {
            greetings: Vec::new(),
            subscribes: Vec::new(),
            qos,
            target: target.clone(),
            at: Vec::new(),
            arrived: 0,
            allowed: Allowed::default(),
        }
    }

    /// One more connection, with the number that comes next.
    pub fn add(
        &mut self,
        client_id: &str,
        receive_maximum: u16,
        session: SessionWish,
        topic_filter: Option<&str>,
    ) {
        let greeting = self.target.greeting(client_id, receive_maximum, session);
        self.greetings.push(greeting);
        let protocol = self.target.protocol;
        let subscribe = topic_filter.map(|filter| packet::subscribe(protocol, filter, self.qos));
        self.subscribes.push(subscribe.unwrap_or_default());
        self.at.push(Arriving::Absent);
    }

    /// Opens all of them, unmeasured; every one must get in. Returns what the broker allows.
    pub fn run(mut self, stage: &mut Stage<'_>) -> Result<Allowed, WorkError> {
        let total = count(self.at.len());
        let mut next = 0;
        let arrived = stage.run(&mut self, "connecting", total, |fleet, crew, _| {
            while next < crew.at.len() && count(next) < crew.arrived + CONNECTING_MAX {
                let greeting = crew.greetings.get(next).map(Vec::as_slice);
                fleet.connect(next, greeting.unwrap_or_default())?;
                crew.set(next, Arriving::Greeted);
                next += 1;
            }
            Ok(crew.arrived)
        })?;
        if arrived < total {
            return Err(WorkError::NotIn { arrived, total });
        }
        Ok(self.allowed)
    }

    fn set(&mut self, index: usize, state: Arriving) {
        if let Some(at) = self.at.get_mut(index) {
            *at = state;
        }
    }
}

impl Crew for Arrival {
    fn packet(
        &mut self,
        index: usize,
        frame: Frame<'_>,
        connection: &mut crate::connection::Connection,
        _now: u64,
    ) -> Result<(), WorkError> {
        match self.at.get(index) {
            Some(Arriving::Greeted) => {
                let allowed = packet::read_connack(self.target.protocol, frame.bytes)?;
                if allowed.maximum_qos < self.qos {
                    return Err(WorkError::MaximumQos(allowed.maximum_qos));
                }
                self.allowed = allowed;
                let subscribe = self.subscribes.get(index).map(Vec::as_slice);
                match subscribe.filter(|bytes| !bytes.is_empty()) {
                    Some(bytes) => {
                        connection.queue(bytes);
                        self.set(index, Arriving::Subscribing);
                    }
                    None => {
                        self.set(index, Arriving::Present);
                        self.arrived += 1;
                    }
                }
            }
            Some(Arriving::Subscribing) if frame.packet_type() == crate::frame::SUBACK => {
                packet::read_suback(self.target.protocol, frame.bytes, self.qos)?;
                self.set(index, Arriving::Present);
                self.arrived += 1;
            }
            _ => {}
        }
        Ok(())
    }

    fn gone(&mut self, index: usize, error: PeerError) -> Result<(), WorkError> {
        Err(WorkError::Peer { index, error })
    }
}

/// Why a scenario could not be played.
#[derive(Debug)]
#[non_exhaustive]
pub enum WorkError {
    Argument(ArgumentError),
    Descriptors {
        needed: u64,
        allowed: u64,
    },
    Peer {
        index: usize,
        error: PeerError,
    },
    Refusal(Refusal),
    MaximumQos(QoS),
    NotIn {
        arrived: u64,
        total: u64,
    },
    Broker(io::Error),
    /// The broker does not come back, or cannot be killed.
    Lifecycle(String),
    Io(io::Error),
}

impl fmt::Display for WorkError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Argument(error) => error.fmt(out),
            Self::Descriptors { needed, allowed } => write!(
                out,
                "{needed} open files are needed and {allowed} allowed (ulimit -n)"
            ),
            Self::Peer { index, error } => write!(out, "connection {index}: {error}"),
            Self::Refusal(refusal) => refusal.fmt(out),
            Self::MaximumQos(qos) => write!(out, "the broker takes no QoS above {}", qos.as_u8()),
            Self::NotIn { arrived, total } => {
                write!(out, "only {arrived} of {total} connections came in")
            }
            Self::Broker(error) => write!(out, "cannot read /proc of the broker's pid: {error}"),
            Self::Lifecycle(reason) => out.write_str(reason),
            Self::Io(error) => write!(out, "the system refused: {error}"),
        }
    }
}

impl std::error::Error for WorkError {}

impl From<ArgumentError> for WorkError {
    fn from(error: ArgumentError) -> Self {
        Self::Argument(error)
    }
}

impl From<Refusal> for WorkError {
    fn from(refusal: Refusal) -> Self {
        Self::Refusal(refusal)
    }
}

impl From<CompareError> for WorkError {
    fn from(error: CompareError) -> Self {
        Self::Lifecycle(error.to_string())
    }
}

impl From<FrameError> for WorkError {
    fn from(error: FrameError) -> Self {
        Self::Refusal(Refusal::Frame(error))
    }
}

impl From<io::Error> for WorkError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A client id that no other run on this machine has at the same time.
#[must_use]
pub fn client_id(role: &str, index: usize) -> String {
    format!("loadtest-{}-{role}{index}", std::process::id())
}

/// A histogram of nanoseconds, up to ten minutes.
#[must_use]
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, WAIT_MAX_NANOSECONDS, 3).expect("the bounds are valid")
}

/// Counts are what a person types and messages are numbered with.
#[must_use]
pub fn count(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

/// For indices of what was counted by a `u64`.
#[must_use]
pub fn index(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

fn grown_bytes_each(before_kib: u64, after_kib: u64, count: u64) -> Option<f64> {
    let grown = crate::report::float(after_kib.saturating_sub(before_kib)) * 1024.0;
    (count > 0).then(|| grown / crate::report::float(count))
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 2)
}

const EVENTS_MAX: usize = 1024;
/// The backlog of most listeners is 128 or more.
const CONNECTING_MAX: u64 = 100;
const LINGER: Duration = Duration::from_millis(100);
const POLL_TIMEOUT: Duration = Duration::from_millis(20);
const WAIT_MAX_NANOSECONDS: u64 = 600_000_000_000;
