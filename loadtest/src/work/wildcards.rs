//! `wildcards`: a great many filters with wildcards, then messages of which each matches exactly one of them.
//!
//! Half of the filters end in a literal level behind `+`, half in `#`; a thousand share the level before.

use clap::Args;
use nightjar_codec::{PacketId, QoS};

use super::{Arrival, Stage, WorkError, client_id, count, index};
use crate::arguments::{TargetArguments, connections, filters};
use crate::connection::{Connection, PeerError, Target};
use crate::fleet::{Crew, Fleet};
use crate::frame::{self, Frame};
use crate::ledger::Ledger;
use crate::packet::{self, SessionWish};
use crate::poster::{self, Poster};
use crate::progress::Progress;
use crate::sheet::{Measure, Sheet, Tally};
use crate::stamp::{STAMP_LENGTH, Stamp};

#[derive(Debug, Args)]
pub struct WildcardsArguments {
    /// Topic Filters of all subscribers together
    #[arg(short, long, default_value_t = 100_000, value_parser = filters())]
    pub filters: u32,
    /// Subscribing connections, which share the filters out
    #[arg(short = 'S', long, default_value_t = 100, value_parser = connections())]
    pub subscribers: u32,
    /// Filters in one SUBSCRIBE
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub per_packet: u32,
    /// Publishing connections
    #[arg(short = 'P', long, default_value_t = 10, value_parser = connections())]
    pub publishers: u32,
    /// Messages published, each matching one filter
    #[arg(short = 'n', long, default_value_t = 500_000, value_parser = filters())]
    pub messages: u32,
    /// Messages published and not yet received, all together
    #[arg(short, long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub window: u64,
    #[arg(short, long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub qos: u8,
    /// Payload bytes of a message
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(STAMP_LENGTH as i64..=1_000_000))]
    pub payload: u32,
    #[command(flatten)]
    pub target: TargetArguments,
}

/// Subscribes, then publishes.
pub fn run(arguments: &WildcardsArguments, progress: &Progress) -> Result<Sheet, WorkError> {
    let subscribers = index(u64::from(arguments.subscribers));
    let publishers = index(u64::from(arguments.publishers));
    let payload_length = index(u64::from(arguments.payload));
    let qos = QoS::from_u8(arguments.qos).expect("the parser allows 0 to 2");
    let prefix = arguments.target.prefix()?;
    let mut stage = Stage::new(
        &arguments.target,
        subscribers + publishers,
        payload_length + prefix.len() + 1_024,
        progress,
    )?;
    let in_flight = arguments.target.in_flight;
    let mut arrival = Arrival::new(stage.target(), qos);
    for number in 0..subscribers {
        arrival.add(&client_id("s", number), in_flight, SessionWish::Clean, None);
    }
    for number in 0..publishers {
        arrival.add(&client_id("p", number), u16::MAX, SessionWish::Clean, None);
    }
    let allowed = arrival.run(&mut stage)?;

    let filters = u64::from(arguments.filters);
    let messages = u64::from(arguments.messages);
    let target = stage.target().clone();
    let mut poster = Poster::new(target.protocol, qos, in_flight);
    poster.bound_in_flight(allowed.receive_maximum);
    let mut crew = Filters {
        subscribers,
        qos,
        prefix,
        asked: vec![0; subscribers],
        waiting: vec![0; subscribers],
        granted: 0,
        posters: vec![poster; publishers],
        books: Ledger::new(messages, publishers * subscribers),
        next: 0,
        target,
    };
    let per_packet = u64::from(arguments.per_packet);
    let granted = stage.phase(
        &mut crew,
        ("subscribe", "filters"),
        filters,
        |fleet, crew, _| {
            crew.subscribe(fleet, filters, per_packet);
            Ok(crew.granted)
        },
    )?;
    let subscribe_rate = stage.per_second();
    let bytes_each = stage.grown_bytes_each(filters);
    if granted < filters {
        return Err(WorkError::NotIn {
            arrived: granted,
            total: filters,
        });
    }
    let payload = vec![b'.'; payload_length];
    stage.phase(
        &mut crew,
        ("publish", "messages"),
        messages,
        |fleet, crew, _| {
            crew.publish(fleet, filters, messages, arguments.window, &payload);
            Ok(crew.books.received)
        },
    )?;
    let publish_rate = stage.per_second();
    stage.linger(&mut crew)?;
    for number in 0..subscribers + publishers {
        stage.fleet.close(number);
    }

    let books = &crew.books;
    let tally = Tally {
        sent: crew.next,
        received: books.received,
        losses: messages - books.received,
        duplicates: books.duplicates,
        reorderings: books.reorderings,
        strays: books.strays,
        refused: crew.posters.iter().map(|poster| poster.refused).sum(),
        ..Tally::default()
    };
    let work = format!(
        "{filters} filters of {subscribers} subscribers, {per_packet} a SUBSCRIBE; {messages} messages of {publishers} publishers, QoS {}, window {}",
        arguments.qos, arguments.window
    );
    let mut sheet = stage.sheet("wildcards", work, tally)?;
    let mut measures = vec![Measure::higher("subscribes", "1/s", subscribe_rate)];
    measures.extend(bytes_each.map(|each| Measure::lower("memory each", "bytes", each)));
    measures.push(Measure::higher("matching publishes", "1/s", publish_rate));
    sheet.measures.splice(0..0, measures);
    Ok(sheet)
}

#[derive(Debug)]
struct Filters {
    target: Target,
    subscribers: usize,
    qos: QoS,
    prefix: String,
    /// Per subscriber, how many of its filters it has asked for.
    asked: Vec<u64>,
    /// Per subscriber, SUBSCRIBEs without a SUBACK.
    waiting: Vec<u32>,
    granted: u64,
    posters: Vec<Poster>,
    books: Ledger,
    /// The number of the next message.
    next: u64,
}

impl Filters {
    /// Filter number n belongs to subscriber n % subscribers.
    fn filter(&self, number: u64) -> String {
        let (prefix, row) = (&self.prefix, number / 1_000);
        if number.is_multiple_of(2) {
            format!("{prefix}/r{row}/+/d{number}")
        } else {
            format!("{prefix}/r{row}/d{number}/#")
        }
    }

    fn subscribe(&mut self, fleet: &mut Fleet, filters: u64, per_packet: u64) {
        let step = count(self.subscribers);
        for subscriber in 0..self.subscribers {
            let first = count(subscriber);
            let own = filters.saturating_sub(first).div_ceil(step);
            let asked = self.asked.get(subscriber).copied().unwrap_or(own);
            let waiting = self.waiting.get(subscriber).copied().unwrap_or(0);
            if asked >= own || waiting >= SUBSCRIBES_WAITING_MAX {
                continue;
            }
            let behind = (asked + per_packet).min(own);
            let names = (asked..behind).map(|number| self.filter(first + number * step));
            // A few wait for their SUBACK at the same time, each with a Packet Identifier of its own.
            let packet_id = u16::try_from(asked / per_packet % 1_000 + 1).ok();
            let packet_id = packet_id.and_then(PacketId::new).unwrap_or(PacketId::MIN);
            let bytes = packet::subscribe_all(self.target.protocol, packet_id, names, self.qos);
            fleet.send(subscriber, &bytes);
            fleet.again |= behind < own && waiting + 1 < SUBSCRIBES_WAITING_MAX;
            if let Some(asked) = self.asked.get_mut(subscriber) {
                *asked = behind;
            }
            if let Some(waiting) = self.waiting.get_mut(subscriber) {
                *waiting += 1;
            }
        }
    }

    fn publish(
        &mut self,
        fleet: &mut Fleet,
        filters: u64,
        messages: u64,
        window: u64,
        filler: &[u8],
    ) {
        let (mut next, limit) = (self.next, messages.min(self.books.received + window));
        let (prefix, first) = (&self.prefix, self.subscribers);
        let mut topic = String::new();
        let mut payload = filler.to_vec();
        // Everybody's share of what is allowed, so that all publishers take part.
        let share = (limit - next.min(limit)).div_ceil(count(self.posters.len()));
        for (publisher, poster) in self.posters.iter_mut().enumerate() {
            let end = limit.min(next + share);
            fleet.post(first + publisher, poster, |poster, connection| {
                if next >= end {
                    return false;
                }
                // Far apart, as the topics of many devices are.
                let number = next.wrapping_mul(SPREAD) % filters;
                topic.clear();
                let row = number / 1_000;
                let written = if number.is_multiple_of(2) {
                    write(&mut topic, format_args!("{prefix}/r{row}/x/d{number}"))
                } else {
                    write(&mut topic, format_args!("{prefix}/r{row}/d{number}/x/y"))
                };
                debug_assert!(written.is_ok());
                put_stamp(&mut payload, publisher, next);
                poster.post(connection, &topic, &payload, false);
                next += 1;
                next < end
            });
        }
        self.next = next;
    }
}

impl Crew for Filters {
    fn packet(
        &mut self,
        index: usize,
        frame: Frame<'_>,
        connection: &mut Connection,
        _now: u64,
    ) -> Result<(), WorkError> {
        if let Some(poster) = index.checked_sub(self.subscribers) {
            if let Some(poster) = self.posters.get_mut(poster) {
                poster.acknowledge(&frame, connection)?;
            }
            return Ok(());
        }
        match frame.packet_type() {
            frame::SUBACK => {
                let granted = packet::read_suback(self.target.protocol, frame.bytes, self.qos)?;
                self.granted += count(granted);
                if let Some(waiting) = self.waiting.get_mut(index) {
                    *waiting = waiting.saturating_sub(1);
                }
            }
            frame::PUBLISH => {
                let version_5 = self.target.protocol.is_v5();
                let stamp = Stamp::read(frame.publish(version_5)?.payload);
                match stamp {
                    Some(stamp) => {
                        let publisher = super::index(u64::from(stamp.publisher));
                        let stream = publisher * self.subscribers + index;
                        self.books.book(Some(stream), stamp.sequence);
                    }
                    None => self.books.strays += 1,
                }
                poster::answer(&frame, connection, version_5)?;
            }
            frame::PUBREL => poster::answer(&frame, connection, false)?,
            _ => {}
        }
        Ok(())
    }

    fn gone(&mut self, index: usize, error: PeerError) -> Result<(), WorkError> {
        Err(WorkError::Peer { index, error })
    }
}

/// Writes publisher and number over the start of `payload`.
pub(super) fn put_stamp(payload: &mut [u8], publisher: usize, sequence: u64) {
    let stamp = Stamp {
        publisher: u32::try_from(publisher).unwrap_or(u32::MAX),
        sequence,
        due: 0,
    };
    if let Some(start) = payload.first_chunk_mut::<STAMP_LENGTH>() {
        *start = stamp.bytes();
    }
}

fn write(out: &mut String, text: std::fmt::Arguments<'_>) -> std::fmt::Result {
    std::fmt::Write::write_fmt(out, text)
}

const SUBSCRIBES_WAITING_MAX: u32 = 4;
/// A prime, so that every filter gets its turn.
const SPREAD: u64 = 7_919;
