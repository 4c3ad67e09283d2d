//! `retained`: stores a great many retained messages, each on a topic of its own, then asks for all of them at once.

use clap::Args;
use nightjar_codec::QoS;

use super::wildcards::put_stamp;
use super::{Arrival, Stage, WorkError, client_id, count, index};
use crate::arguments::{TargetArguments, connections, filters};
use crate::connection::{Connection, PeerError};
use crate::fleet::{Crew, Fleet};
use crate::frame::{self, Frame};
use crate::ledger::Ledger;
use crate::packet::{self, SessionWish};
use crate::poster::{self, Poster};
use crate::progress::Progress;
use crate::report::float;
use crate::sheet::{Measure, Sheet, Tally};
use crate::stamp::{STAMP_LENGTH, Stamp};

#[derive(Debug, Args)]
pub struct RetainedArguments {
    /// Retained messages, each on a topic of its own
    #[arg(short = 'n', long, default_value_t = 100_000, value_parser = filters())]
    pub messages: u32,
    /// Publishing connections
    #[arg(short = 'P', long, default_value_t = 10, value_parser = connections())]
    pub publishers: u32,
    /// QoS of the messages and of the subscription
    #[arg(short, long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub qos: u8,
    /// Payload bytes of a message
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(STAMP_LENGTH as i64..=1_000_000))]
    pub payload: u32,
    /// Leave the messages on the broker
    #[arg(long)]
    pub keep: bool,
    #[command(flatten)]
    pub target: TargetArguments,
}

/// Stores, subscribes, deletes.
pub fn run(arguments: &RetainedArguments, progress: &Progress) -> Result<Sheet, WorkError> {
    let publishers = index(u64::from(arguments.publishers));
    let payload_length = index(u64::from(arguments.payload));
    let qos = QoS::from_u8(arguments.qos).expect("the parser allows 0 to 2");
    let prefix = arguments.target.prefix()?;
    let mut stage = Stage::new(
        &arguments.target,
        publishers + 1,
        payload_length + prefix.len() + 1_024,
        progress,
    )?;
    let in_flight = arguments.target.in_flight;
    let mut arrival = Arrival::new(stage.target(), qos);
    for number in 0..publishers {
        arrival.add(&client_id("p", number), u16::MAX, SessionWish::Clean, None);
    }
    arrival.add(&client_id("s", 0), in_flight, SessionWish::Clean, None);
    let allowed = arrival.run(&mut stage)?;

    let messages = u64::from(arguments.messages);
    let protocol = stage.target().protocol;
    let mut poster = Poster::new(protocol, qos, in_flight);
    poster.bound_in_flight(allowed.receive_maximum);
    let mut crew = Shelf {
        version_5: protocol.is_v5(),
        prefix,
        posters: vec![poster; publishers],
        pinged: vec![false; publishers],
        through: 0,
        next: 0,
        acknowledged: 0,
        books: Ledger::new(messages, 0),
        first: None,
        last: None,
        granted: false,
    };
    let payload = vec![b'.'; payload_length];
    crew.publish_all(&mut stage, "store", messages, &payload)?;
    let store_rate = stage.per_second();
    let bytes_each = stage.grown_bytes_each(messages);
    let refused = crew.refused();

    let began = stage.now();
    let filter = format!("{}/#", crew.prefix);
    let subscribe = packet::subscribe(protocol, &filter, qos);
    let mut subscribed = false;
    stage.phase(
        &mut crew,
        ("deliver", "messages"),
        messages - refused,
        |fleet, crew, _| {
            if !std::mem::replace(&mut subscribed, true) {
                fleet.send(publishers, &subscribe);
            }
            Ok(crew.books.received)
        },
    )?;
    let milliseconds = |at: Option<u64>| at.map(|at| float(at.saturating_sub(began)) / 1e6);
    let (first, last) = (milliseconds(crew.first), milliseconds(crew.last));
    let delivery_rate = stage.per_second();
    stage.fleet.close(publishers);
    if !arguments.keep {
        crew.publish_all(&mut stage, "delete", messages, &[])?;
    }
    for number in 0..publishers {
        stage.fleet.close(number);
    }

    let books = &crew.books;
    let tally = Tally {
        sent: messages,
        received: books.received,
        losses: messages
            - refused.min(messages)
            - books.received.min(messages - refused.min(messages)),
        duplicates: books.duplicates,
        strays: books.strays,
        refused,
        ..Tally::default()
    };
    let work = format!(
        "{messages} topics, {} bytes, QoS {}, stored by {publishers}, read by 1",
        arguments.payload, arguments.qos
    );
    let mut sheet = stage.sheet("retained", work, tally)?;
    let mut measures = vec![Measure::higher("stores", "1/s", store_rate)];
    measures.extend(bytes_each.map(|each| Measure::lower("memory each", "bytes", each)));
    measures.extend(first.map(|first| Measure::lower("first delivered", "ms", first)));
    measures.extend(last.map(|last| Measure::lower("last delivered", "ms", last)));
    measures.push(Measure::higher("deliveries", "1/s", delivery_rate));
    sheet.measures.splice(0..0, measures);
    Ok(sheet)
}

#[derive(Debug)]
struct Shelf {
    version_5: bool,
    prefix: String,
    posters: Vec<Poster>,
    /// Has sent everything and, at QoS 0, a PINGREQ behind it.
    pinged: Vec<bool>,
    /// Publishers whose messages the broker has all taken.
    through: u64,
    next: u64,
    acknowledged: u64,
    books: Ledger,
    first: Option<u64>,
    last: Option<u64>,
    granted: bool,
}

impl Shelf {
    /// Publishes to every topic and waits until the broker has taken all of it: at QoS 0 a PINGREQ behind the last
    /// message is what it answers.
    fn publish_all(
        &mut self,
        stage: &mut Stage<'_>,
        name: &'static str,
        messages: u64,
        filler: &[u8],
    ) -> Result<(), WorkError> {
        self.next = 0;
        self.through = 0;
        self.acknowledged = 0;
        self.pinged.fill(false);
        stage.phase(self, (name, "messages"), messages, |fleet, crew, _| {
            crew.publish(fleet, messages, filler);
            let all = crew.through == count(crew.posters.len());
            // The last word is the broker's: without it nobody knows that it has everything.
            Ok(if all {
                messages
            } else {
                crew.next.max(crew.acknowledged).min(messages - 1)
            })
        })?;
        Ok(())
    }

    fn publish(&mut self, fleet: &mut Fleet, messages: u64, filler: &[u8]) {
        let mut next = self.next;
        let mut payload = filler.to_vec();
        for (publisher, poster) in self.posters.iter_mut().enumerate() {
            fleet.post(publisher, poster, |poster, connection| {
                if next >= messages {
                    return false;
                }
                let topic = format!("{}/{}/{next}", self.prefix, next / 1_000);
                put_stamp(&mut payload, publisher, next);
                poster.post(connection, &topic, &payload, true);
                next += 1;
                next < messages
            });
            let Some(pinged) = self.pinged.get_mut(publisher) else {
                continue;
            };
            if next >= messages && poster.is_settled() && !*pinged {
                *pinged = true;
                fleet.send(publisher, &[frame::PINGREQ, 0]);
            }
        }
        self.next = next;
    }

    fn refused(&self) -> u64 {
        self.posters.iter().map(|poster| poster.refused).sum()
    }
}

impl Crew for Shelf {
    fn packet(
        &mut self,
        index: usize,
        frame: Frame<'_>,
        connection: &mut Connection,
        now: u64,
    ) -> Result<(), WorkError> {
        if let Some(poster) = self.posters.get_mut(index) {
            if poster.acknowledge(&frame, connection)? {
                self.acknowledged += 1;
            } else if frame.packet_type() == frame::PINGRESP {
                self.through += 1;
            }
            return Ok(());
        }
        match frame.packet_type() {
            frame::PUBLISH => {
                let fields = frame.publish(self.version_5)?;
                match Stamp::read(fields.payload) {
                    Some(stamp) => self.books.book(None, stamp.sequence),
                    None => self.books.strays += 1,
                }
                self.first.get_or_insert(now);
                self.last = Some(now);
                poster::answer(&frame, connection, self.version_5)?;
            }
            frame::PUBREL => poster::answer(&frame, connection, false)?,
            frame::SUBACK => self.granted = true,
            _ => {}
        }
        Ok(())
    }

    fn gone(&mut self, index: usize, error: PeerError) -> Result<(), WorkError> {
        Err(WorkError::Peer { index, error })
    }
}
