//! A subscriber: follows the stream of packets, books each message and acknowledges by the batch.
//!
//! Comes in: what a read returned. Goes out: entries in `Books`, and acknowledgements queued on the connection, which its
//! driver flushes once per read.

use hdrhistogram::Histogram;

use crate::accounting::{Anomalies, Totals};
use crate::connection::{Connection, PeerError};
use crate::frame::{self, Frame};
use crate::stamp::Stamp;

/// Which subscriber gets the messages of which publisher.
///
/// With at least as many subscribers as publishers, subscriber `s` gets those of publisher `s % publishers`; with fewer,
/// the messages of publisher `p` go to subscriber `p % subscribers`. Either way there are as many streams as the larger number.
#[derive(Clone, Copy, Debug)]
pub struct Links {
    pub publishers: usize,
    pub subscribers: usize,
}

impl Links {
    /// How many streams there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.publishers.max(self.subscribers)
    }

    /// The publishers whose messages `subscriber` gets.
    #[must_use]
    pub fn publishers_of(&self, subscriber: usize) -> Vec<usize> {
        if self.subscribers >= self.publishers {
            vec![subscriber % self.publishers]
        } else {
            (subscriber..self.publishers)
                .step_by(self.subscribers)
                .collect()
        }
    }

    /// The streams of `publisher`, which are adjacent.
    #[must_use]
    pub fn streams_of(&self, publisher: usize) -> std::ops::Range<usize> {
        let share = self.subscribers / self.publishers;
        let extra = self.subscribers % self.publishers;
        if self.subscribers < self.publishers {
            return publisher..publisher + 1;
        }
        let start = publisher * share + publisher.min(extra);
        start..start + share + usize::from(publisher < extra)
    }

    fn route(&self, subscriber: usize) -> Route {
        if self.subscribers >= self.publishers {
            let publisher = subscriber % self.publishers;
            Route::One {
                publisher: u32::try_from(publisher).unwrap_or(u32::MAX),
                stream: self.streams_of(publisher).start + subscriber / self.publishers,
            }
        } else {
            Route::Many {
                subscriber,
                links: *self,
            }
        }
    }
}

/// From the publisher in a stamp to the stream it belongs to.
#[derive(Clone, Copy, Debug)]
enum Route {
    One { publisher: u32, stream: usize },
    Many { subscriber: usize, links: Links },
}

impl Route {
    #[inline]
    fn stream(&self, publisher: u32) -> Option<usize> {
        match self {
            Self::One {
                publisher: own,
                stream,
            } => (*own == publisher).then_some(*stream),
            Self::Many { subscriber, links } => {
                let publisher = usize::try_from(publisher).ok()?;
                (publisher < links.publishers && publisher % links.subscribers == *subscriber)
                    .then_some(publisher)
            }
        }
    }
}

/// What all subscribers together have received.
#[derive(Debug)]
pub struct Books {
    links: Links,
    /// Per stream, the sequence number expected next.
    next: Vec<u64>,
    anomalies: Vec<Anomalies>,
    /// All messages, duplicates included.
    pub received: u64,
    /// Messages that are not ours: without a stamp or of a publisher that this subscriber did not ask for.
    pub strays: u64,
    /// Nanoseconds from when a message was due to when it arrived, of the messages due while it was measured: those that
    /// come late do not fall out because the measuring is over.
    pub latency: Histogram<u64>,
    measured_from: u64,
    measured_for: u64,
}

impl Books {
    /// Empty books for `links`.
    #[must_use]
    pub fn new(links: Links) -> Self {
        Self {
            links,
            next: vec![0; links.count()],
            anomalies: (0..links.count()).map(|_| Anomalies::default()).collect(),
            received: 0,
            strays: 0,
            latency: Self::histogram(),
            measured_from: 0,
            measured_for: 0,
        }
    }

    /// An empty histogram of latencies.
    #[must_use]
    pub fn histogram() -> Histogram<u64> {
        Histogram::new_with_bounds(1, LATENCY_MAX_NANOSECONDS, 3).expect("the bounds are valid")
    }

    /// From `now` on, what is due is measured.
    pub fn measure_from(&mut self, now: u64) {
        self.measured_from = now;
        self.measured_for = FOREVER;
    }

    /// What is due from `now` on is not measured; what was due before still is.
    pub fn measure_until(&mut self, now: u64) {
        self.measured_for = now - self.measured_from.min(now);
    }

    /// Up to which of `publisher`'s messages its slowest subscriber has come.
    #[inline]
    #[must_use]
    pub fn progress(&self, publisher: usize) -> u64 {
        let streams = self.next.get(self.links.streams_of(publisher));
        let slowest = streams.unwrap_or_default().iter().min();
        slowest.copied().unwrap_or(0)
    }

    /// Closes the books; `sent` tells how many messages a publisher has sent.
    #[must_use]
    pub fn totals(&self, sent: impl Fn(usize) -> u64) -> Totals {
        let mut totals = Totals::default();
        for publisher in 0..self.links.publishers {
            let sent = sent(publisher);
            let streams = self.links.streams_of(publisher);
            let next = self.next.get(streams.clone()).unwrap_or_default();
            let anomalies = self.anomalies.get(streams).unwrap_or_default();
            for (next, anomalies) in next.iter().zip(anomalies) {
                totals.add(anomalies.totals(*next, sent));
            }
        }
        totals
    }

    #[inline]
    fn book(&mut self, route: &Route, payload: &[u8], now: u64) {
        self.received += 1;
        let Some(stamp) = Stamp::read(payload) else {
            self.strays += 1;
            return;
        };
        let stream = route.stream(stamp.publisher);
        let place = stream.and_then(|stream| Some((stream, self.next.get_mut(stream)?)));
        let Some((stream, next)) = place else {
            self.strays += 1;
            return;
        };
        if stamp.sequence == *next {
            *next += 1;
        } else if let Some(anomalies) = self.anomalies.get_mut(stream) {
            *next = anomalies.unexpected(*next, stamp.sequence);
        }
        // Without a due time it is 0, which is far behind when it wraps.
        if stamp.due.wrapping_sub(self.measured_from) < self.measured_for {
            self.latency
                .saturating_record(now.saturating_sub(stamp.due).max(1));
        }
    }
}

/// One subscribing connection.
#[derive(Debug)]
pub struct Subscriber {
    pub connection: Connection,
    route: Route,
    version_5: bool,
}

impl Subscriber {
    /// Subscriber number `index` of `links`.
    #[must_use]
    pub fn new(connection: Connection, links: &Links, index: usize, version_5: bool) -> Self {
        Self {
            connection,
            route: links.route(index),
            version_5,
        }
    }

    /// Books the messages in `input`, queues their acknowledgements, and returns how much of it was whole packets.
    #[inline]
    pub fn take(&mut self, input: &[u8], books: &mut Books, now: u64) -> Result<usize, PeerError> {
        let mut at = 0;
        while let Some(frame) = Frame::next(input.get(at..).unwrap_or_default())? {
            at += frame.length;
            match frame.packet_type() {
                frame::PUBLISH => {
                    let fields = frame.publish(self.version_5)?;
                    books.book(&self.route, fields.payload, now);
                    let [high, low] = fields.packet_id;
                    match fields.qos {
                        0 => {}
                        1 => self.connection.queue(&[frame::PUBACK, 2, high, low]),
                        _ => self.connection.queue(&[frame::PUBREC, 2, high, low]),
                    }
                }
                frame::PUBREL => {
                    let [high, low] = frame.packet_id()?;
                    self.connection.queue(&[frame::PUBCOMP, 2, high, low]);
                }
                frame::DISCONNECT => {
                    return Err(PeerError::Disconnected {
                        reason_code: frame.body.first().copied().unwrap_or(0),
                    });
                }
                _ => {}
            }
        }
        Ok(at)
    }
}

/// 146 years.
const FOREVER: u64 = u64::MAX / 4;
const LATENCY_MAX_NANOSECONDS: u64 = 60_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    /// Every stream has one subscriber and one publisher, and `streams_of` and `route` agree on it.
    fn check(publishers: usize, subscribers: usize) {
        let links = Links {
            publishers,
            subscribers,
        };
        let mut streams = Vec::new();
        for subscriber in 0..subscribers {
            let route = links.route(subscriber);
            for publisher in links.publishers_of(subscriber) {
                let stream = route.stream(u32::try_from(publisher).unwrap()).unwrap();
                assert!(links.streams_of(publisher).contains(&stream));
                streams.push(stream);
            }
            for stranger in 0..publishers {
                if !links.publishers_of(subscriber).contains(&stranger) {
                    assert_eq!(route.stream(u32::try_from(stranger).unwrap()), None);
                }
            }
        }
        streams.sort_unstable();
        assert_eq!(streams, (0..links.count()).collect::<Vec<_>>());
    }

    #[test]
    fn every_stream_has_one_publisher_and_one_subscriber() {
        for (publishers, subscribers) in [(1, 1), (10, 10), (1, 1000), (100, 1), (3, 8), (8, 3)] {
            check(publishers, subscribers);
        }
    }

    fn book(books: &mut Books, publisher: u32, sequence: u64) {
        let stamp = Stamp {
            publisher,
            sequence,
            due: 0,
        };
        let route = books.links.route(0);
        books.book(&route, &stamp.payload(64), 0);
    }

    #[test]
    fn books_tell_losses_from_strays() {
        let mut books = Books::new(Links {
            publishers: 1,
            subscribers: 1,
        });
        for sequence in [0, 1, 3] {
            book(&mut books, 0, sequence);
        }
        book(&mut books, 9, 0);
        let route = books.links.route(0);
        books.book(&route, b"short", 0);
        let totals = books.totals(|_| 6);
        assert_eq!((books.strays, books.progress(0)), (2, 4));
        assert_eq!((totals.received, totals.losses), (3, 3));
    }

    #[test]
    fn progress_is_that_of_the_slowest_subscriber() {
        let links = Links {
            publishers: 1,
            subscribers: 2,
        };
        let mut books = Books::new(links);
        book(&mut books, 0, 0);
        assert_eq!(books.progress(0), 0);
        let stamp = Stamp {
            publisher: 0,
            sequence: 0,
            due: 0,
        };
        books.book(&links.route(1), &stamp.payload(20), 0);
        assert_eq!(books.progress(0), 1);
    }
}
