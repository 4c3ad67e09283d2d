//! `offline`: messages queue up for sessions whose clients are away, then the clients come back and drain them.
//!
//! Comes in: how many sessions, publishers and messages. Every session gets every message, so that many sessions make a
//! large queue fast. What was acknowledged to the publishers and never arrived is a loss.

use clap::Args;
use nightjar_codec::QoS;

use super::wildcards::put_stamp;
use super::{Arrival, Stage, WorkError, client_id, count, index};
use crate::arguments::{TargetArguments, connections, filters};
use crate::connection::{Connection, PeerError};
use crate::fleet::Crew;
use crate::frame::{self, Frame};
use crate::ledger::Ledger;
use crate::packet::{self, SessionWish};
use crate::poster::{self, Poster};
use crate::progress::Progress;
use crate::sheet::{Measure, Sheet, Tally};
use crate::stamp::{STAMP_LENGTH, Stamp};

#[derive(Debug, Args)]
pub struct OfflineArguments {
    /// Messages published while the clients are away
    #[arg(short = 'n', long, default_value_t = 50_000, value_parser = filters())]
    pub messages: u32,
    /// Sessions, of which each gets every message
    #[arg(short = 'S', long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub sessions: u32,
    /// Publishing connections
    #[arg(short = 'P', long, default_value_t = 10, value_parser = connections())]
    pub publishers: u32,
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    pub qos: u8,
    /// Payload bytes of a message
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(STAMP_LENGTH as i64..=1_000_000))]
    pub payload: u32,
    #[command(flatten)]
    pub target: TargetArguments,
}

/// Subscribes and leaves, publishes, comes back.
pub fn run(arguments: &OfflineArguments, progress: &Progress) -> Result<Sheet, WorkError> {
    let sessions = index(u64::from(arguments.sessions));
    let publishers = index(u64::from(arguments.publishers));
    let payload_length = index(u64::from(arguments.payload));
    let messages = u64::from(arguments.messages);
    let qos = QoS::from_u8(arguments.qos).expect("the parser allows 1 and 2");
    let prefix = arguments.target.prefix()?;
    let filter = format!("{prefix}/+");
    let in_flight = arguments.target.in_flight;
    let session = SessionWish::Kept { seconds: 3_600 };
    let mut stage = Stage::new(
        &arguments.target,
        sessions + publishers,
        payload_length + prefix.len() + 1_024,
        progress,
    )?;

    let mut arrival = Arrival::new(stage.target(), qos);
    for number in 0..sessions {
        arrival.add(&client_id("s", number), in_flight, session, Some(&filter));
    }
    for number in 0..publishers {
        arrival.add(&client_id("p", number), u16::MAX, SessionWish::Clean, None);
    }
    let allowed = arrival.run(&mut stage)?;
    leave(&mut stage, sessions)?;
    let protocol = stage.target().protocol;
    let mut poster = Poster::new(protocol, qos, in_flight);
    poster.bound_in_flight(allowed.receive_maximum);
    let mut crew = Queue {
        version_5: protocol.is_v5(),
        sessions,
        posters: vec![poster; publishers],
        books: (0..sessions)
            .map(|_| Ledger::new(messages, publishers))
            .collect(),
        acknowledged: 0,
        received: 0,
        resumed: 0,
    };
    let payload = vec![b'.'; payload_length];
    let topics: Vec<String> = (0..publishers)
        .map(|number| format!("{prefix}/{number}"))
        .collect();
    let mut next = 0;
    stage.phase(
        &mut crew,
        ("enqueue", "messages"),
        messages,
        |fleet, crew, _| {
            let mut payload = payload.clone();
            for (publisher, poster) in crew.posters.iter_mut().enumerate() {
                fleet.post(sessions + publisher, poster, |poster, connection| {
                    if next >= messages {
                        return false;
                    }
                    put_stamp(&mut payload, publisher, next);
                    let topic = topics.get(publisher).map_or("", String::as_str);
                    poster.post(connection, topic, &payload, false);
                    next += 1;
                    next < messages
                });
            }
            Ok(crew.acknowledged)
        },
    )?;
    let enqueue_rate = stage.per_second();
    let refused: u64 = crew.posters.iter().map(|poster| poster.refused).sum();
    let taken = crew.acknowledged - refused;
    let bytes_each = stage.grown_bytes_each(taken * count(sessions));

    let target = stage.target().clone();
    let expected = taken * count(sessions);
    let mut back = 0;
    stage.phase(
        &mut crew,
        ("drain", "messages"),
        expected,
        |fleet, crew, _| {
            while back < sessions && count(back) < crew.resumed + RETURNING_MAX {
                fleet.connect(
                    back,
                    &target.greeting(&client_id("s", back), in_flight, session),
                )?;
                back += 1;
            }
            Ok(crew.received)
        },
    )?;
    let drain_rate = stage.per_second();
    stage.linger(&mut crew)?;
    let books = &crew.books;
    let sum = |of: fn(&Ledger) -> u64| books.iter().map(of).sum::<u64>();
    let tally = Tally {
        sent: next,
        received: sum(|books| books.received),
        losses: expected.saturating_sub(sum(|books| books.received)),
        duplicates: sum(|books| books.duplicates),
        reorderings: sum(|books| books.reorderings),
        strays: sum(|books| books.strays),
        refused,
        ..Tally::default()
    };
    let resumed = crew.resumed;
    end_sessions(&mut stage, sessions)?;
    for number in 0..sessions + publishers {
        stage.fleet.close(number);
    }
    let work = format!(
        "{messages} messages of {} bytes, QoS {}, by {publishers} for {sessions} sessions, in flight {in_flight}",
        arguments.payload, arguments.qos
    );
    let mut sheet = stage.sheet("offline", work, tally)?;
    let mut measures = vec![
        Measure::higher("enqueue", "msg/s", enqueue_rate),
        Measure::higher("drain", "msg/s", drain_rate),
    ];
    measures.extend(bytes_each.map(|each| Measure::lower("memory each", "bytes", each)));
    sheet.measures.splice(0..0, measures);
    if resumed < count(sessions) {
        sheet.notes.push(format!(
            "only {resumed} of {sessions} sessions were still there"
        ));
    }
    Ok(sheet)
}

/// The clients of the first `sessions` connections leave, and their sessions stay.
pub(super) fn leave(stage: &mut Stage<'_>, sessions: usize) -> Result<(), WorkError> {
    // The broker closes when it has taken note, and only then does it queue: [MQTT-3.14.4-3].
    let mut leaving = Leaving::default();
    for number in 0..sessions {
        stage.fleet.send(number, &packet::DISCONNECT);
    }
    let all = count(sessions);
    stage.run(&mut leaving, "leaving", all, |_, crew, _| Ok(crew.left))?;
    Ok(())
}

/// A session ends when its client connects with a clean start and leaves.
pub(super) fn end_sessions(stage: &mut Stage<'_>, sessions: usize) -> Result<(), WorkError> {
    let mut arrival = Arrival::new(stage.target(), QoS::AtMostOnce);
    for number in 0..sessions {
        stage.fleet.close(number);
        arrival.add(&client_id("s", number), u16::MAX, SessionWish::Clean, None);
    }
    arrival.run(stage)?;
    Ok(())
}

/// Sessions on their way out.
#[derive(Debug, Default)]
struct Leaving {
    left: u64,
}

impl Crew for Leaving {
    fn packet(
        &mut self,
        _: usize,
        _: Frame<'_>,
        _: &mut Connection,
        _: u64,
    ) -> Result<(), WorkError> {
        Ok(())
    }

    fn gone(&mut self, _: usize, _: PeerError) -> Result<(), WorkError> {
        self.left += 1;
        Ok(())
    }
}

#[derive(Debug)]
struct Queue {
    version_5: bool,
    sessions: usize,
    posters: Vec<Poster>,
    books: Vec<Ledger>,
    acknowledged: u64,
    received: u64,
    resumed: u64,
}

impl Crew for Queue {
    fn packet(
        &mut self,
        index: usize,
        frame: Frame<'_>,
        connection: &mut Connection,
        _now: u64,
    ) -> Result<(), WorkError> {
        if let Some(publisher) = index.checked_sub(self.sessions) {
            if let Some(poster) = self.posters.get_mut(publisher) {
                let before = poster.acknowledged;
                poster.acknowledge(&frame, connection)?;
                self.acknowledged += poster.acknowledged - before;
            }
            return Ok(());
        }
        match frame.packet_type() {
            frame::CONNACK => self.resumed += u64::from(frame.body.first() == Some(&1)),
            frame::PUBLISH => {
                let fields = frame.publish(self.version_5)?;
                if let (Some(stamp), Some(books)) =
                    (Stamp::read(fields.payload), self.books.get_mut(index))
                {
                    let before = books.received;
                    let stream = super::index(u64::from(stamp.publisher));
                    books.book(Some(stream), stamp.sequence);
                    self.received += books.received - before;
                }
                poster::answer(&frame, connection, self.version_5)?;
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

const RETURNING_MAX: u64 = 100;
