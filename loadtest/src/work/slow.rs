//! `slow`: some readers stop reading. The others should not notice, and the broker should not grow without end.
//!
//! Three phases: everybody reads; the slow ones do not; they read again. The publishers' window counts the healthy
//! readers only. What the slow ones miss at QoS 0 a broker may drop, and is reported apart from losses; what is lost to a
//! healthy reader, or at QoS 1 and 2 to a slow one that stayed connected, is a loss.

use std::time::Duration;

use clap::Args;
use nightjar_codec::QoS;

use super::wildcards::put_stamp;
use super::{Arrival, Stage, WorkError, client_id, count, index};
use crate::accounting::{Anomalies, Totals};
use crate::arguments::{TargetArguments, connections, seconds};
use crate::connection::{Connection, PeerError};
use crate::fleet::{Crew, Fleet};
use crate::frame::{self, Frame};
use crate::packet::SessionWish;
use crate::poster::{self, Poster};
use crate::progress::Progress;
use crate::report::float;
use crate::sheet::{Measure, Sheet, Tally};
use crate::stamp::{STAMP_LENGTH, Stamp};

#[derive(Debug, Args)]
pub struct SlowArguments {
    /// Subscribers that read all the time
    #[arg(short = 'S', long, default_value_t = 10, value_parser = connections())]
    pub subscribers: u32,
    /// Subscribers that stop reading for a while
    #[arg(long, default_value_t = 10, value_parser = connections())]
    pub slow: u32,
    /// Messages the publisher may be ahead of its slowest healthy subscriber
    #[arg(short, long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub window: u64,
    #[arg(short, long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub qos: u8,
    /// Payload bytes of a message
    #[arg(long, default_value_t = 1_024, value_parser = clap::value_parser!(u32).range(STAMP_LENGTH as i64..=1_000_000))]
    pub payload: u32,
    /// Seconds of each phase
    #[arg(short, long, default_value_t = 2.0, value_parser = seconds)]
    pub duration: f64,
    #[command(flatten)]
    pub target: TargetArguments,
}

/// Reads, stops, reads again.
pub fn run(arguments: &SlowArguments, progress: &Progress) -> Result<Sheet, WorkError> {
    let healthy = index(u64::from(arguments.subscribers));
    let readers = healthy + index(u64::from(arguments.slow));
    let payload_length = index(u64::from(arguments.payload));
    let qos = QoS::from_u8(arguments.qos).expect("the parser allows 0 to 2");
    let prefix = arguments.target.prefix()?;
    let topic = format!("{prefix}/slow");
    let in_flight = arguments.target.in_flight;
    let mut stage = Stage::new(
        &arguments.target,
        readers + 1,
        payload_length + prefix.len() + 1_024,
        progress,
    )?;
    let mut arrival = Arrival::new(stage.target(), qos);
    for number in 0..readers {
        let id = client_id("s", number);
        arrival.add(&id, in_flight, SessionWish::Clean, Some(&topic));
    }
    arrival.add(&client_id("p", 0), u16::MAX, SessionWish::Clean, None);
    let allowed = arrival.run(&mut stage)?;

    let protocol = stage.target().protocol;
    let mut poster = Poster::new(protocol, qos, in_flight);
    poster.bound_in_flight(allowed.receive_maximum);
    let mut crew = Readers {
        version_5: protocol.is_v5(),
        qos,
        readers: (0..readers).map(|_| Reader::default()).collect(),
        healthy,
        poster,
        topic,
        payload: vec![b'.'; payload_length],
        window: arguments.window,
        received: 0,
        received_healthy: 0,
    };
    let duration = Duration::from_secs_f64(arguments.duration);
    let unit = "deliveries";
    stage.timed_phase(&mut crew, ("all read", unit), duration, |fleet, crew, _| {
        crew.publish(fleet);
        Ok(crew.received_healthy)
    })?;
    let rate_before = stage.per_second();
    for number in healthy..readers {
        stage.fleet.pause(number, true);
    }
    let before = crew.received_healthy;
    stage.timed_phase(
        &mut crew,
        ("some stop", unit),
        duration,
        |fleet, crew, _| {
            crew.publish(fleet);
            Ok(crew.received_healthy - before)
        },
    )?;
    let rate_meanwhile = stage.per_second();
    let grown = stage.last().and_then(|phase| {
        Some(
            phase
                .broker_resident_kib?
                .saturating_sub(phase.broker_resident_kib_before?),
        )
    });
    for number in healthy..readers {
        stage.fleet.pause(number, false);
    }
    // Nothing new is published: everybody reads what is there until nothing comes any more.
    let mut last = (stage.now(), 0);
    let before = crew.received;
    stage.meter.begin().map_err(WorkError::Broker)?;
    stage.run(&mut crew, "catch up", u64::MAX, |_, crew, now| {
        let received = crew.received - before;
        if received != last.1 {
            last = (now, received);
        }
        let quiet = now - last.0 > QUIET_NANOSECONDS;
        Ok(if quiet || crew.is_complete() {
            u64::MAX
        } else {
            received
        })
    })?;
    let ended = stage.meter.end("catch up", unit, crew.received - before);
    ended.map_err(WorkError::Broker)?;
    for number in 0..=readers {
        stage.fleet.close(number);
    }

    let sent = crew.poster.sent;
    let of = |readers: &[Reader]| {
        let mut totals = Totals::default();
        for reader in readers {
            totals.add(reader.anomalies.totals(reader.next, sent));
        }
        totals
    };
    let (well, slow) = crew.readers.split_at(healthy);
    let (of_well, of_slow) = (of(well), of(slow));
    let connected = slow.iter().filter(|reader| reader.gone.is_none()).count();
    let gone = slow.len() - connected;
    // A session ends with its connection here, so that one the broker closed has no claim any more.
    let of_connected: Vec<Totals> = slow
        .iter()
        .filter(|reader| reader.gone.is_none())
        .map(|reader| reader.anomalies.totals(reader.next, sent))
        .collect();
    let missed = of_slow.losses;
    let losses_slow: u64 = of_connected.iter().map(|totals| totals.losses).sum();
    let owed = if qos > QoS::AtMostOnce {
        losses_slow
    } else {
        0
    };
    let tally = Tally {
        sent,
        received: of_well.received + of_slow.received,
        losses: of_well.losses + owed,
        duplicates: of_well.duplicates + of_slow.duplicates,
        reorderings: of_well.reorderings + of_slow.reorderings,
        refused: crew.poster.refused,
        ..Tally::default()
    };
    let error = slow.iter().find_map(|reader| reader.gone.clone());
    let work = format!(
        "1 -> {healthy} + {} slow, {} bytes, QoS {}, window {}",
        arguments.slow, arguments.payload, arguments.qos, arguments.window
    );
    let mut sheet = stage.sheet("slow", work, tally)?;
    let ratio = 100.0 * rate_meanwhile / rate_before.max(1.0);
    let mut measures = vec![
        Measure::higher("all read", "msg/s", rate_before),
        Measure::higher("while some stop", "msg/s", rate_meanwhile),
        Measure::higher("kept up", "%", ratio),
    ];
    let grown = grown.map(|kib| Measure::lower("growth meanwhile", "MiB", float(kib) / 1024.0));
    measures.extend(grown);
    sheet.measures.splice(0..0, measures);
    sheet.notes.push(format!(
        "the slow readers missed {missed} of {} messages; the broker closed {gone} of {} connections",
        sent * count(slow.len()),
        slow.len()
    ));
    sheet
        .notes
        .extend(error.map(|error| format!("a slow reader's end: {error}")));
    Ok(sheet)
}

#[derive(Debug)]
struct Readers {
    version_5: bool,
    qos: QoS,
    readers: Vec<Reader>,
    /// The first so many never stop.
    healthy: usize,
    poster: Poster,
    topic: String,
    payload: Vec<u8>,
    window: u64,
    received: u64,
    received_healthy: u64,
}

#[derive(Debug, Default)]
struct Reader {
    next: u64,
    anomalies: Anomalies,
    /// Why the broker has closed the connection.
    gone: Option<String>,
}

impl Readers {
    fn publish(&mut self, fleet: &mut Fleet) {
        let slowest = self
            .readers
            .iter()
            .take(self.healthy)
            .map(|reader| reader.next)
            .min();
        let limit = slowest.unwrap_or(0) + self.window;
        let (topic, payload) = (&self.topic, &mut self.payload);
        fleet.post(
            self.readers.len(),
            &mut self.poster,
            |poster, connection| {
                if poster.sent >= limit {
                    return false;
                }
                put_stamp(payload, 0, poster.sent);
                poster.post(connection, topic, payload, false);
                poster.sent < limit
            },
        );
    }

    fn is_complete(&self) -> bool {
        let sent = self.poster.sent;
        let all = |reader: &Reader| reader.gone.is_some() || reader.next >= sent;
        // At QoS 0 the last message may have been dropped, or arrived behind a gap.
        self.qos > QoS::AtMostOnce && self.poster.is_settled() && self.readers.iter().all(all)
    }
}

impl Crew for Readers {
    fn packet(
        &mut self,
        index: usize,
        frame: Frame<'_>,
        connection: &mut Connection,
        _now: u64,
    ) -> Result<(), WorkError> {
        let Some(reader) = self.readers.get_mut(index) else {
            self.poster.acknowledge(&frame, connection)?;
            return Ok(());
        };
        match frame.packet_type() {
            frame::PUBLISH => {
                if let Some(stamp) = Stamp::read(frame.publish(self.version_5)?.payload) {
                    reader.next = if stamp.sequence == reader.next {
                        reader.next + 1
                    } else {
                        reader.anomalies.unexpected(reader.next, stamp.sequence)
                    };
                    self.received += 1;
                    self.received_healthy += u64::from(index < self.healthy);
                }
                poster::answer(&frame, connection, self.version_5)?;
            }
            frame::PUBREL => poster::answer(&frame, connection, false)?,
            _ => {}
        }
        Ok(())
    }

    fn gone(&mut self, index: usize, error: PeerError) -> Result<(), WorkError> {
        match self.readers.get_mut(index) {
            Some(reader) if index >= self.healthy => {
                reader.gone = Some(error.to_string());
                Ok(())
            }
            _ => Err(WorkError::Peer { index, error }),
        }
    }
}

const QUIET_NANOSECONDS: u64 = 1_000_000_000;
