//! A store as text, and back: JSON Lines, one record a line, so that people and other programs can read and make it.
//!
//! ```text
//! nightjar_export, then sessions by client id, each with its subscriptions by topic filter, then share groups,
//! messages by id, each with the queues that hold it, retained messages by topic, end
//! ```
//! Comes in: a store that was looked over, or lines. Goes out: lines, or the rows of a new store. The same store always makes the
//! same lines, and a store that was imported makes the lines it was made of. Times are wall clock in the lines; in the
//! store that is made of them the broker clock shows what the wall clock showed at the last commit before the export.

mod import;
mod line;

use std::io::{self, Write};
use std::path::Path;

use self::line::{
    CameFrom, Encoded, End, Group, Header, Level, Line, Message, Queued, Released, Retained, Sent,
    Session, Subscription, Will,
};
use crate::closed::ClosedStore;
use crate::error::StorageError;
use crate::operation::{ClockRecord, Owner, SessionRecord, StoredMessage};
use crate::record::{self, Broken, MessageRow, OwnerNumber, Tag};
use crate::redb::{RowSource, Snapshot};
use crate::survey::{Contents, Holder, Meter, Owned, Survey, read_number};

impl ClosedStore {
    /// Writes everything as lines. `out_name` is what messages call the place they are written to. A store with problems is
    /// not exported.
    pub fn export(
        &self,
        out: &mut dyn Write,
        out_name: &Path,
        meter: &mut dyn Meter,
    ) -> Result<Contents, StorageError> {
        let (_database, snapshot) = self.open()?;
        let survey = Survey::of(&snapshot, meter)?;
        if let Some(problem) = survey.problems.first.first() {
            return Err(StorageError::Corrupt {
                what: problem.as_str().into(),
            });
        }
        let contents = survey.contents;
        meter.begin(
            "exporting",
            contents.sessions + contents.messages + contents.retained,
        );
        let mut lines = Lines {
            out,
            out_name,
            count: 0,
            times: Times::to_wall(survey.clock()),
        };
        let store = survey.store_record();
        lines.put(&Line::NightjarExport(Header {
            version: VERSION,
            wall_clock: store.clock.map(|clock| clock.wall),
            message_id_max: store.message_id_max,
            place_floor: store.number_floor,
        }))?;
        for (owner, number) in survey.owners() {
            let Some(owned) = survey.owner(number) else {
                continue;
            };
            lines.owner(&snapshot, owner, number, owned)?;
            meter.advance(1);
        }
        snapshot.each(Tag::Message, &mut |key, row| {
            let (listed, message) = read_number(key)
                .and_then(|id| MessageRow::open(id, row)?.read())
                .map_err(broken)?;
            let holders = survey.holders(message.message_id, listed);
            // What nobody is to get is not there at the next start either.
            if !holders.is_empty() {
                lines.message(message, &holders)?;
                meter.advance(1);
            }
            Ok(())
        })?;
        snapshot.each(Tag::Retained, &mut |key, row| {
            lines.retained(record::read_retained(key, row).map_err(broken)?)?;
            meter.advance(1);
            Ok(())
        })?;
        let count = lines.count;
        lines.put(&Line::End(End { lines: count }))?;
        lines.out.flush().map_err(|error| lines.failed(&error))?;
        Ok(contents)
    }
}

/// Lines on their way out.
struct Lines<'a> {
    out: &'a mut dyn Write,
    out_name: &'a Path,
    count: u64,
    times: Times,
}

impl Lines<'_> {
    fn put(&mut self, line: &Line) -> Result<(), StorageError> {
        let written = serde_json::to_writer(&mut *self.out, line)
            .map_err(io::Error::from)
            .and_then(|()| self.out.write_all(b"\n"));
        self.count += 1;
        written.map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &io::Error) -> StorageError {
        crate::closed::file_error(self.out_name, error)
    }

    fn owner(
        &mut self,
        snapshot: &Snapshot,
        owner: &Owner,
        number: OwnerNumber,
        owned: &Owned,
    ) -> Result<(), StorageError> {
        let client_id = match owner {
            Owner::Session(client_id) => client_id,
            Owner::Group {
                share_name,
                topic_filter,
            } => {
                return self.put(&Line::Group(Group {
                    share_name: share_name.clone(),
                    topic_filter: topic_filter.clone(),
                    next_place: owned.next,
                }));
            }
        };
        let Some(session) = snapshot.session(client_id)? else {
            return Ok(());
        };
        let mut received = Vec::new();
        snapshot.each_of(Tag::Received, number, &mut |key, row| {
            let (_, group) = record::read_owned_key(key).map_err(broken)?;
            let words = record::read_received(key, row).map_err(broken)?;
            let first =
                u16::try_from(group).map_err(|_| broken(Broken("its number is too large")))?;
            let ids = (0..=u8::MAX).filter(|bit| {
                let word = words
                    .get(usize::from(bit / 64))
                    .copied()
                    .unwrap_or_default();
                word & (1 << (bit % 64)) != 0
            });
            received.extend(ids.map(|bit| (first << 8) | u16::from(bit)));
            Ok(())
        })?;
        let line = self.session(client_id, session, received, owned);
        self.put(&line)?;
        snapshot.each_of(Tag::Subscription, number, &mut |key, row| {
            let (_, topic_filter) = record::read_owned_text_key(key).map_err(broken)?;
            let subscription = record::read_subscription(key, row).map_err(broken)?;
            self.put(&Line::Subscription(Subscription {
                client_id: (&**client_id).into(),
                topic_filter,
                qos: Level(subscription.qos),
                no_local: subscription.no_local,
                retain_as_published: subscription.retain_as_published,
                retain_handling: subscription.retain_handling as u8,
                subscription_identifier: subscription.subscription_identifier,
            }))
        })
    }

    fn session(
        &self,
        client_id: &str,
        session: SessionRecord,
        received_packet_ids: Vec<u16>,
        owned: &Owned,
    ) -> Line {
        let released = owned.flights.values().filter(|flight| flight.released);
        Line::Session(Box::new(Session {
            client_id: client_id.into(),
            protocol_version: session.protocol_version.level(),
            session_expiry_interval: session.session_expiry_interval,
            expires_at: self.times.of(session.expires_at),
            user: session.user,
            will: session.will.map(|will| Will {
                topic: will.topic,
                qos: Level(will.qos),
                retain: will.retain,
                will_delay_interval: will.delay,
                message_expiry_interval: will.message_expiry_interval,
                publish_at: self.times.of(will.fires_at),
                properties: Encoded(will.properties),
                payload: Encoded(will.payload),
            }),
            received_packet_ids,
            released: released
                .map(|flight| Released {
                    packet_id: flight.packet_id,
                    order: flight.order,
                    message_id: flight.message_id,
                    place: flight.number,
                })
                .collect(),
            next_place: owned.next,
        }))
    }

    fn message(
        &mut self,
        message: StoredMessage,
        holders: &[Holder<'_>],
    ) -> Result<(), StorageError> {
        let queues = holders.iter().map(|holder| Queued {
            owner: (&holder.owned.name).into(),
            place: holder.entry.number,
            qos: Level(holder.entry.qos),
            retain: holder.entry.retain,
            subscription_identifiers: holder.entry.subscription_identifiers.clone(),
            sent: holder.flight.map(|flight| Sent {
                packet_id: flight.packet_id,
                order: flight.order,
            }),
            came_from: holder.came_from.map(|(owner, place)| CameFrom {
                owner: owner.into(),
                place: *place,
            }),
        });
        let line = Line::Message(Box::new(Message {
            message_id: message.message_id,
            topic: message.topic,
            qos: Level(message.qos),
            retain: message.retain,
            expires_at: self.times.of(message.expires_at),
            publisher: message.publisher,
            publisher_user: message.publisher_user,
            retain_sequence: message.sequence,
            properties: Encoded(message.properties),
            payload: Encoded(message.payload),
            queues: queues.collect(),
        }));
        self.put(&line)
    }

    fn retained(&mut self, message: StoredMessage) -> Result<(), StorageError> {
        let line = Line::Retained(Box::new(Retained {
            topic: message.topic,
            message_id: message.message_id,
            qos: Level(message.qos),
            retain: message.retain,
            expires_at: self.times.of(message.expires_at),
            publisher: message.publisher,
            publisher_user: message.publisher_user,
            retain_sequence: message.sequence,
            properties: Encoded(message.properties),
            payload: Encoded(message.payload),
        }));
        self.put(&line)
    }
}

/// From the broker clock to the wall clock.
#[derive(Clone, Copy)]
struct Times {
    ahead: i128,
}

impl Times {
    fn to_wall(clock: Option<ClockRecord>) -> Self {
        let ahead = clock.map_or(0, |clock| i128::from(clock.wall) - i128::from(clock.broker));
        Self { ahead }
    }

    fn of(self, time: Option<u64>) -> Option<u64> {
        let time = i128::from(time?) + self.ahead;
        Some(u64::try_from(time.max(0)).unwrap_or(u64::MAX))
    }
}

/// A row that fitted a moment ago.
fn broken(broken: Broken) -> StorageError {
    StorageError::Corrupt {
        what: broken.to_string().into(),
    }
}

/// Of the lines; raised when their fields change.
const VERSION: u32 = 1;
