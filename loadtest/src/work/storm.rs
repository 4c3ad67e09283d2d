//! `storm`: all connections break at once and everybody comes back at once, as after a network failure.
//!
//! The waiting counts from the moment of the storm, for everybody: that some were not let through earlier is part of it.

use clap::Args;
use hdrhistogram::Histogram;
use nightjar_codec::QoS;

use super::{Arrival, Stage, WorkError, client_id, count, histogram, index};
use crate::arguments::{TargetArguments, connections};
use crate::connection::{Connection, PeerError};
use crate::fleet::Crew;
use crate::frame::{self, Frame};
use crate::packet::{self, SessionWish};
use crate::progress::Progress;
use crate::report::{Spread, float};
use crate::sheet::{Measure, Sheet, Tally, Waiting};

#[derive(Debug, Args)]
pub struct StormArguments {
    /// Connections, each with one subscription
    #[arg(short = 'n', long, default_value_t = 1_000, value_parser = connections())]
    pub connections: u32,
    /// Connections that are on their way in at the same time
    #[arg(long, default_value_t = 200, value_parser = connections())]
    pub concurrency: u32,
    /// Storms
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub rounds: u32,
    /// The broker keeps the sessions, so that nobody has to subscribe again
    #[arg(long)]
    pub persistent: bool,
    #[command(flatten)]
    pub target: TargetArguments,
}

/// Connects all, then breaks and reconnects them.
pub fn run(arguments: &StormArguments, progress: &Progress) -> Result<Sheet, WorkError> {
    let total = u64::from(arguments.connections);
    let mut stage = Stage::new(&arguments.target, index(total), 4_096, progress)?;
    let session = if arguments.persistent {
        SessionWish::Kept { seconds: 600 }
    } else {
        SessionWish::Clean
    };
    let prefix = arguments.target.prefix()?;
    let filter = |number: usize| format!("{prefix}/{number}");
    let mut arrival = Arrival::new(stage.target(), QoS::AtMostOnce);
    for number in 0..index(total) {
        let id = client_id("r", number);
        arrival.add(&id, u16::MAX, session, Some(&filter(number)));
    }
    arrival.run(&mut stage)?;

    let target = stage.target().clone();
    let mut returning = Returning {
        target: target.clone(),
        subscribes: (0..index(total))
            .map(|number| packet::subscribe(target.protocol, &filter(number), QoS::AtMostOnce))
            .collect(),
        back: Vec::new(),
        storm: 0,
        done: 0,
        failed: 0,
        resumed: 0,
        waiting: histogram(),
        last_error: None,
    };
    let greetings: Vec<Vec<u8>> = (0..index(total))
        .map(|number| target.greeting(&client_id("r", number), u16::MAX, session))
        .collect();
    let mut rates = Vec::new();
    for _ in 0..arguments.rounds {
        for number in 0..index(total) {
            stage.fleet.reset(number);
        }
        returning.storm = stage.now();
        returning.back = vec![false; index(total)];
        let before = returning.done;
        let mut begun = 0;
        stage.phase(
            &mut returning,
            ("storm", "connections"),
            total,
            |fleet, crew, _| {
                let done = crew.done - before;
                while begun < total && begun - done < u64::from(arguments.concurrency) {
                    let greeting = greetings.get(index(begun)).map(Vec::as_slice);
                    fleet.connect(index(begun), greeting.unwrap_or_default())?;
                    begun += 1;
                }
                Ok(done)
            },
        )?;
        rates.push(stage.per_second());
    }
    if arguments.persistent {
        // Sessions that nobody needs any more end with a clean connection.
        let mut arrival = Arrival::new(stage.target(), QoS::AtMostOnce);
        for number in 0..index(total) {
            stage.fleet.close(number);
            arrival.add(&client_id("r", number), u16::MAX, SessionWish::Clean, None);
        }
        arrival.run(&mut stage)?;
    }
    for number in 0..index(total) {
        stage.fleet.close(number);
    }

    let expected = total * u64::from(arguments.rounds);
    let back = returning.done - returning.failed;
    let tally = Tally {
        sent: expected,
        received: back,
        losses: expected - back.min(expected),
        ..Tally::default()
    };
    let kept = if arguments.persistent {
        "kept"
    } else {
        "clean"
    };
    let work = format!(
        "{total} connections with {kept} sessions, {} at a time, {} storms",
        arguments.concurrency, arguments.rounds
    );
    let mut sheet = stage.sheet("storm", work, tally)?;
    let waiting = Waiting::of("storm to back", &returning.waiting);
    let measures = [
        Measure::higher("reconnects", "1/s", Spread::of(rates.into_iter()).median),
        Measure::lower("back p50", "ms", waiting.latency.p50 / 1000.0),
        Measure::lower("back last", "ms", waiting.latency.max / 1000.0),
        Measure::higher(
            "sessions found again",
            "%",
            float(returning.resumed) * 100.0 / float(expected),
        ),
    ];
    sheet.measures.splice(0..0, measures);
    sheet.waiting.push(waiting);
    sheet.notes.extend(
        returning
            .last_error
            .map(|error| format!("last failure: {error}")),
    );
    Ok(sheet)
}

#[derive(Debug)]
struct Returning {
    target: crate::connection::Target,
    subscribes: Vec<Vec<u8>>,
    back: Vec<bool>,
    /// When it broke.
    storm: u64,
    /// Back or failed, all storms together.
    done: u64,
    failed: u64,
    resumed: u64,
    waiting: Histogram<u64>,
    last_error: Option<String>,
}

impl Returning {
    fn back(&mut self, index: usize, now: u64) {
        if let Some(back) = self.back.get_mut(index)
            && !std::mem::replace(back, true)
        {
            self.done += 1;
            self.waiting
                .saturating_record((now - self.storm.min(now)).max(1));
        }
    }

    fn fail(&mut self, index: usize, error: String) {
        self.last_error = Some(error);
        if let Some(back) = self.back.get_mut(index)
            && !std::mem::replace(back, true)
        {
            self.done += 1;
            self.failed += 1;
        }
    }
}

impl Crew for Returning {
    fn packet(
        &mut self,
        index: usize,
        frame: Frame<'_>,
        connection: &mut Connection,
        now: u64,
    ) -> Result<(), WorkError> {
        match frame.packet_type() {
            frame::CONNACK => match packet::read_connack(self.target.protocol, frame.bytes) {
                Ok(allowed) if allowed.session_present => {
                    self.resumed += 1;
                    self.back(index, now);
                }
                Ok(_) => {
                    let subscribe = self.subscribes.get(index).map(Vec::as_slice);
                    connection.queue(subscribe.unwrap_or_default());
                }
                Err(refusal) => self.fail(index, refusal.to_string()),
            },
            frame::SUBACK => self.back(index, now),
            _ => {}
        }
        Ok(())
    }

    fn gone(&mut self, index: usize, error: PeerError) -> Result<(), WorkError> {
        // Once back, it was counted; a connection that then breaks by itself is a failure of its own.
        let was_back = self.back.get(index).copied().unwrap_or(false);
        self.fail(index, error.to_string());
        self.failed += u64::from(was_back);
        debug_assert!(self.done <= count(self.back.len()) * 1_000);
        Ok(())
    }
}
