//! `connect`: how many connections a second a broker takes, and what each costs it while it says nothing.

use std::time::Duration;

use clap::Args;
use hdrhistogram::Histogram;
use nightjar_codec::ProtocolVersion;

use super::{Stage, WorkError, client_id, count, histogram, index};
use crate::arguments::{TargetArguments, connections, seconds};
use crate::connection::{Connection, PeerError};
use crate::fleet::{Crew, Fleet};
use crate::frame::{self, Frame};
use crate::packet::{self, SessionWish};
use crate::progress::Progress;
use crate::report::Latency;
use crate::sheet::{Measure, Sheet, Tally, Waiting};

#[derive(Debug, Args)]
pub struct ConnectArguments {
    /// Connections to open
    #[arg(short = 'n', long, default_value_t = 1_000, value_parser = connections())]
    pub connections: u32,
    /// Connections that wait for their CONNACK at the same time
    #[arg(long, default_value_t = 100, conflicts_with = "rate", value_parser = connections())]
    pub concurrency: u32,
    /// Connections per second, begun on time whatever is answered; the latency counts from when each was due
    #[arg(short, long, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub rate: Option<u64>,
    /// Seconds to stay connected and silent, before memory is read
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    pub idle: f64,
    #[command(flatten)]
    pub target: TargetArguments,
}

/// Connects, stays idle, closes.
pub fn run(arguments: &ConnectArguments, progress: &Progress) -> Result<Sheet, WorkError> {
    let total = u64::from(arguments.connections);
    let mut stage = Stage::new(&arguments.target, index(total), ANSWER_BYTES_MAX, progress)?;
    let mut callers = Callers::new(stage.target().protocol, total);
    let start = stage.now();
    if let Some(rate) = arguments.rate {
        let interval = Duration::from_nanos(1_000_000_000 / rate);
        stage.fleet.tick_every(interval)?;
    }
    let connected = stage.phase(
        &mut callers,
        ("connect", "connections"),
        total,
        |fleet, crew, now| {
            crew.call(fleet, |crew| match arguments.rate {
                // Number n is due at start + n / rate, however late it is begun.
                Some(rate) => {
                    let due = start + crew.begun * 1_000_000_000 / rate;
                    (due <= now).then_some(due)
                }
                None => {
                    (crew.begun - crew.settled() < u64::from(arguments.concurrency)).then_some(now)
                }
            })?;
            Ok(crew.settled())
        },
    )?;
    let rate = stage.per_second();
    let before = stage
        .last()
        .and_then(|phase| phase.broker_resident_kib_before);
    let idle = Duration::from_secs_f64(arguments.idle);
    stage.timed_phase(&mut callers, ("idle", ""), idle, |_, _, _| Ok(0))?;
    let after = stage.resident_kib()?;
    let idle_share = stage.last().and_then(|phase| phase.broker_core_share);
    stage.meter.begin().map_err(WorkError::Broker)?;
    for number in 0..index(total) {
        stage.fleet.close(number);
    }
    stage
        .meter
        .end("close", "connections", total)
        .map_err(WorkError::Broker)?;

    let losses = total - callers.accepted.min(total) + callers.lost_idle;
    let tally = Tally {
        sent: callers.begun,
        received: connected,
        losses,
        refused: callers.refused,
        ..Tally::default()
    };
    let pace = match arguments.rate {
        Some(rate) => format!("{rate} per second"),
        None => format!("{} at a time", arguments.concurrency),
    };
    let work = format!(
        "{total} connections, {pace}, then {} s idle",
        arguments.idle
    );
    let mut sheet = stage.sheet("connect", work, tally)?;
    let latency = Latency::of(&callers.latency);
    let mut measures = vec![
        Measure::higher("connects", "1/s", rate),
        Measure::lower("connect p50", "us", latency.p50),
        Measure::lower("connect p99", "us", latency.p99),
    ];
    let each = before
        .zip(after)
        .and_then(|(before, after)| super::grown_bytes_each(before, after, total));
    measures.extend(each.map(|each| Measure::lower("memory each", "bytes", each)));
    measures
        .extend(idle_share.map(|share| Measure::lower("idle CPU", "% of a core", share * 100.0)));
    sheet.measures.splice(0..0, measures);
    sheet
        .waiting
        .push(Waiting::of("CONNECT to CONNACK", &callers.latency));
    sheet.notes.extend(
        callers
            .last_error
            .map(|error| format!("last failure: {error}")),
    );
    Ok(sheet)
}

/// Everybody who calls.
#[derive(Debug)]
struct Callers {
    protocol: ProtocolVersion,
    /// By number, when the call was due.
    due: Vec<u64>,
    begun: u64,
    accepted: u64,
    refused: u64,
    /// Ended before their CONNACK.
    failed: u64,
    /// Ended after it.
    lost_idle: u64,
    latency: Histogram<u64>,
    last_error: Option<String>,
}

impl Callers {
    fn new(protocol: ProtocolVersion, total: u64) -> Self {
        Self {
            protocol,
            due: vec![ANSWERED; index(total)],
            begun: 0,
            accepted: 0,
            refused: 0,
            failed: 0,
            lost_idle: 0,
            latency: histogram(),
            last_error: None,
        }
    }

    fn settled(&self) -> u64 {
        self.accepted + self.refused + self.failed
    }

    /// Begins calls as long as `due` says when the next one is due.
    fn call(
        &mut self,
        fleet: &mut Fleet,
        due: impl Fn(&Self) -> Option<u64>,
    ) -> Result<(), WorkError> {
        while self.begun < count(self.due.len())
            && let Some(due) = due(self)
        {
            let number = index(self.begun);
            let id = client_id("c", number);
            let greeting = fleet.target().greeting(&id, u16::MAX, SessionWish::Clean);
            if let Some(place) = self.due.get_mut(number) {
                *place = due;
            }
            self.begun += 1;
            fleet.connect(number, &greeting)?;
        }
        Ok(())
    }
}

impl Crew for Callers {
    fn packet(
        &mut self,
        index: usize,
        frame: Frame<'_>,
        _: &mut Connection,
        now: u64,
    ) -> Result<(), WorkError> {
        if frame.packet_type() != frame::CONNACK {
            return Ok(());
        }
        match packet::read_connack(self.protocol, frame.bytes) {
            Ok(_) => {
                let due = self.due.get_mut(index);
                let due = due.map_or(now, |due| std::mem::replace(due, ANSWERED));
                self.latency
                    .saturating_record(now.saturating_sub(due).max(1));
                self.accepted += 1;
            }
            Err(refusal) => {
                self.refused += 1;
                self.last_error = Some(refusal.to_string());
            }
        }
        Ok(())
    }

    fn gone(&mut self, index: usize, error: PeerError) -> Result<(), WorkError> {
        let answered = self.due.get(index).is_none_or(|due| *due == ANSWERED);
        if answered {
            self.lost_idle += 1;
        } else {
            self.failed += 1;
        }
        self.last_error = Some(error.to_string());
        Ok(())
    }
}

const ANSWERED: u64 = u64::MAX;
const ANSWER_BYTES_MAX: usize = 4_096;
