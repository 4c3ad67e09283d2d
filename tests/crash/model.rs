//! What the clients know, and therefore what the broker owes them.
//!
//! Messages belong to streams: one topic, one publisher, one QoS, numbered from 1; a payload says which stream and number it is, and
//! the rest of it follows from these two, so that a wrong byte is seen. A publisher repeats what was not acknowledged until it is, so a
//! stream has no holes for whoever is subscribed to it all the time: the next message that was never seen is the one after the last.
//! A message that is lost, or comes out of its order, is found when the next one comes, or at rest, when nothing is on its way.
//!
//! What may come twice: a QoS 1 message that its publisher has sent again, and one that its subscriber was sent over an earlier Network
//! Connection. A QoS 2 message never does.

macro_rules! violated {
    ($($words:tt)*) => { panic!("VIOLATED: {}", format!($($words)*)) };
}
pub(crate) use violated;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use nightjar_codec::topic::{matches, parse_shared};
use nightjar_codec::{Publish, QoS};

use crate::trace::{Event, Trace};
use crate::wills::Wills;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Somebody durable is always subscribed.
    Load,
    /// Expires in a second: whether it arrives is chance, that it does not arrive late is checked.
    Expiring,
    /// With RETAIN; now and then an empty payload.
    Retained,
    /// Its one subscriber comes and goes.
    Churn,
}

pub(crate) struct Stream {
    pub(crate) topic: String,
    pub(crate) qos: QoS,
    pub(crate) kind: Kind,
    pub(crate) expiry: Option<u32>,
    /// The number of the first message of `sent`.
    base: u64,
    sent: VecDeque<Sent>,
    /// The highest number that was acknowledged.
    pub(crate) acknowledged: u64,
    /// The last number at the rest before.
    settled: u64,
}

struct Sent {
    first_at: Instant,
    last_at: Instant,
    /// Place among everything sent, at first.
    place: u64,
    times: u32,
    is_acknowledged: bool,
    /// An empty payload, which names no stream.
    clears: bool,
}

/// Who messages are counted for: a session, or a share group.
pub(crate) struct Receiver {
    pub(crate) name: String,
    pub(crate) qos: QoS,
    trackers: BTreeMap<usize, Tracker>,
}

enum Tracker {
    Session(Steady),
    Churning(Steady, Churn),
    Group(Group),
}

/// A subscriber's place in one stream.
#[derive(Default)]
struct Steady {
    highest: u64,
    connection: u64,
    last_of_connection: u64,
}

/// Which numbers a subscriber that comes and goes must have, and must not have.
#[derive(Default)]
struct Churn {
    required_from: Option<u64>,
    /// Sent after UNSUBACK; up to what was acknowledged when it subscribed again.
    forbidden: Option<(u64, Option<u64>)>,
}

/// What the members of a share group have had between them.
#[derive(Default)]
struct Group {
    all_up_to: u64,
    beyond: BTreeSet<u64>,
}

#[derive(Default, Debug)]
pub(crate) struct Counts {
    pub(crate) published: u64,
    pub(crate) acknowledged: u64,
    pub(crate) resent: u64,
    pub(crate) delivered: u64,
    pub(crate) repeated: u64,
    pub(crate) repeated_without_dup: u64,
    pub(crate) retained_read: u64,
    pub(crate) wills: u64,
    pub(crate) resumed: u64,
}

pub(crate) struct Model {
    pub(crate) streams: Vec<Stream>,
    pub(crate) receivers: Vec<Receiver>,
    pub(crate) wills: Wills,
    pub(crate) trace: Trace,
    pub(crate) counts: Counts,
    places: u64,
    /// Of the messages that were sent once and had a durable owner, the last that was acknowledged: everything the broker had
    /// taken to its journal before that is on the disk.
    durable_place: u64,
}

impl Model {
    pub(crate) fn new() -> Self {
        Self {
            streams: Vec::new(),
            receivers: Vec::new(),
            wills: Wills::default(),
            trace: Trace::new(),
            counts: Counts::default(),
            places: 0,
            durable_place: 0,
        }
    }

    pub(crate) fn add_stream(
        &mut self,
        topic: String,
        qos: QoS,
        kind: Kind,
        expiry: Option<u32>,
    ) -> usize {
        self.streams.push(Stream {
            topic,
            qos,
            kind,
            expiry,
            base: 1,
            sent: VecDeque::new(),
            acknowledged: 0,
            settled: 0,
        });
        self.streams.len() - 1
    }

    /// A durable receiver of all streams that `filter` matches; streams first.
    pub(crate) fn add_receiver(
        &mut self,
        name: &str,
        filter: &str,
        qos: QoS,
        churns: bool,
    ) -> usize {
        let shared = parse_shared(filter).expect("a filter of ours is a filter");
        let inner = shared.map_or(filter, |(_, inner)| inner);
        let matching = |stream: &&Stream| matches(inner, &stream.topic);
        let trackers = self.streams.iter().enumerate();
        let trackers = trackers.filter(|(_, stream)| matching(stream));
        let trackers = trackers.map(|(index, _)| {
            let tracker = match (shared, churns) {
                (Some(_), _) => Tracker::Group(Group::default()),
                (None, true) => Tracker::Churning(Steady::default(), Churn::default()),
                (None, false) => Tracker::Session(Steady::default()),
            };
            (index, tracker)
        });
        self.receivers.push(Receiver {
            name: name.to_owned(),
            qos,
            trackers: trackers.collect(),
        });
        self.receivers.len() - 1
    }

    /// The next message of a stream is sent; gives its number.
    pub(crate) fn sent(&mut self, now: Instant, stream: usize, clears: bool) -> u64 {
        self.places += 1;
        self.counts.published += 1;
        self.streams[stream].sent.push_back(Sent {
            first_at: now,
            last_at: now,
            place: self.places,
            times: 1,
            is_acknowledged: false,
            clears,
        });
        let number = self.streams[stream].last();
        self.trace.add(now, Event::Sent { stream, number });
        number
    }

    pub(crate) fn sent_again(&mut self, now: Instant, stream: usize, number: u64) {
        self.counts.resent += 1;
        self.trace.add(now, Event::SentAgain { stream, number });
        let sent = self.streams[stream].get_mut(number);
        let sent = sent.expect("what is not acknowledged is not forgotten");
        sent.last_at = now;
        sent.times += 1;
    }

    /// PUBACK or PUBREC.
    pub(crate) fn acknowledged(&mut self, now: Instant, stream: usize, number: u64) {
        self.counts.acknowledged += 1;
        self.trace.add(now, Event::Acknowledged { stream, number });
        let of = &mut self.streams[stream];
        of.acknowledged = of.acknowledged.max(number);
        let kind = of.kind;
        let sent = of.get_mut(number);
        let sent = sent.expect("what is not acknowledged is not forgotten");
        sent.is_acknowledged = true;
        if sent.times == 1 && kind == Kind::Load {
            self.durable_place = self.durable_place.max(sent.place);
        }
    }

    /// What the broker has just told us is on the disk as soon as a message beyond this place is.
    pub(crate) fn place(&self) -> u64 {
        self.places
    }

    /// The broker was killed, and all that it had said has been heard.
    pub(crate) fn killed(&mut self) {
        let durable = self.durable_place;
        self.wills.killed(|place| durable > place);
    }

    /// An Application Message has come to a receiver, and not as the repeat of a QoS 2 PUBLISH.
    pub(crate) fn delivered(
        &mut self,
        now: Instant,
        receiver: usize,
        who: &str,
        connection: u64,
        publish: &Publish,
    ) {
        if publish.retain {
            violated!("{who}: RETAIN 1 on {} outside a SUBSCRIBE", publish.topic);
        }
        self.counts.delivered += 1;
        let qos = self.receivers[receiver].qos;
        let Some((stream, number)) = read_payload(&publish.payload) else {
            if publish.payload.is_empty() && self.clears(&publish.topic) {
                return;
            }
            violated!(
                "{who}: a payload that nobody has sent, on {}",
                publish.topic
            );
        };
        self.trace.add(
            now,
            Event::Delivered {
                receiver,
                stream,
                number,
                dup: publish.dup,
                packet_id: publish.packet_id.map_or(0, |id| id.get()),
                connection,
            },
        );
        if stream == WILLS {
            let once = qos.min(publish.qos) == QoS::ExactlyOnce;
            let is_repeat = self
                .wills
                .arrived(number, receiver, connection, once, publish);
            self.counts.wills += u64::from(!is_repeat);
            return;
        }
        let Some(of) = self.streams.get(stream) else {
            violated!("{who}: a payload of no stream");
        };
        let name = format_args!("{who}: {number} of {}", of.topic).to_string();
        if publish.topic.as_ref() != of.topic {
            violated!("{name} came on topic {}", publish.topic);
        }
        if publish.qos != qos.min(of.qos) {
            violated!("{name} came with QoS {:?}", publish.qos);
        }
        if number > of.last() {
            violated!("{name} came before it was sent");
        }
        let is_repeated = of.is_repeated(number);
        let once = publish.qos == QoS::ExactlyOnce;
        if let Some(sent) = of.get(number) {
            check_expiry(&name, now, of, sent, publish);
        }
        let is_forgotten = number < of.base;
        let Some(tracker) = self.receivers[receiver].trackers.get_mut(&stream) else {
            violated!("{name} was not subscribed to");
        };
        let was_there = match tracker {
            Tracker::Group(group) => group.take(number),
            Tracker::Session(steady) => {
                steady.take(&name, number, connection, is_repeated, |passed| {
                    of.is_owed(passed)
                })
            }
            Tracker::Churning(steady, churn) => {
                if churn.forbids(number) {
                    violated!("{name} was sent after UNSUBACK, or not subscribed to");
                }
                steady.take(&name, number, connection, is_repeated, |passed| {
                    churn.requires(passed) && of.is_owed(passed)
                })
            }
        };
        if was_there {
            if once {
                violated!("{name} came twice with QoS 2");
            }
            if is_forgotten {
                violated!("{name} came again long after it was acknowledged");
            }
            self.counts.repeated += 1;
            self.counts.repeated_without_dup += u64::from(!publish.dup && !is_repeated);
        }
    }

    fn clears(&self, topic: &str) -> bool {
        let mut streams = self.streams.iter();
        streams.any(|stream| stream.topic == topic && stream.kind == Kind::Retained)
    }

    /// SUBSCRIBE is sent: what was not sent yet may come.
    pub(crate) fn subscribing(&mut self, receiver: usize) {
        for (stream, tracker) in &mut self.receivers[receiver].trackers {
            if let Tracker::Churning(_, churn) = tracker
                && let Some((_, to @ None)) = &mut churn.forbidden
            {
                *to = Some(self.streams[*stream].acknowledged);
            }
        }
    }

    /// SUBACK has come: what is sent from now on must come.
    pub(crate) fn subscribed(&mut self, receiver: usize) {
        self.wills.subscribed(receiver);
        for (stream, tracker) in &mut self.receivers[receiver].trackers {
            if let Tracker::Churning(_, churn) = tracker {
                churn.required_from = Some(self.streams[*stream].last() + 1);
            }
        }
    }

    /// UNSUBSCRIBE, or CONNECT with clean start, is sent: nothing must come.
    pub(crate) fn unsubscribing(&mut self, receiver: usize) {
        for tracker in self.receivers[receiver].trackers.values_mut() {
            if let Tracker::Churning(_, churn) = tracker {
                churn.required_from = None;
            }
        }
    }

    /// UNSUBACK, or CONNACK of the new session, has come: what is sent from now on must not come.
    pub(crate) fn unsubscribed(&mut self, receiver: usize) {
        for (stream, tracker) in &mut self.receivers[receiver].trackers {
            if let Tracker::Churning(_, churn) = tracker {
                churn.forbidden = Some((self.streams[*stream].last() + 1, None));
            }
        }
    }

    /// What was acknowledged and has not come; empty at rest.
    pub(crate) fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for receiver in &self.receivers {
            for (index, tracker) in &receiver.trackers {
                let stream = &self.streams[*index];
                let owed = |number: &u64| match tracker {
                    Tracker::Session(_) => stream.is_owed(*number),
                    Tracker::Churning(_, churn) => {
                        churn.requires(*number) && stream.is_owed(*number)
                    }
                    Tracker::Group(group) => {
                        !group.beyond.contains(number) && stream.is_owed(*number)
                    }
                };
                let from = match tracker {
                    Tracker::Session(steady) | Tracker::Churning(steady, _) => steady.highest,
                    Tracker::Group(group) => group.all_up_to,
                };
                let numbers: Vec<u64> = (from + 1..=stream.last()).filter(owed).collect();
                if let (Some(first), Some(last)) = (numbers.first(), numbers.last()) {
                    missing.push(format!(
                        "{}: {} messages of {} (QoS {}), {first} to {last}",
                        receiver.name,
                        numbers.len(),
                        stream.topic,
                        stream.qos.as_u8(),
                    ));
                }
            }
        }
        missing
    }

    /// At rest: what was settled at the rest before is forgotten, and may not come again.
    pub(crate) fn settle(&mut self) {
        for stream in &mut self.streams {
            // The last one stays: a retained topic is as it left it.
            while stream.base < stream.settled && stream.sent.pop_front().is_some() {
                stream.base += 1;
            }
            stream.settled = stream.last();
        }
        // Who did not wait for them cannot say that they come late.
        self.wills.settle();
    }

    /// Of each retained topic the last acknowledged message: what is read from now on is not older.
    pub(crate) fn retained_floors(&self) -> BTreeMap<String, Floor> {
        let mut floors = BTreeMap::new();
        for (index, stream) in self.streams.iter().enumerate() {
            if stream.kind == Kind::Retained {
                let from = stream.acknowledged;
                let clears = |number| stream.get(number).is_some_and(|sent| sent.clears);
                let is_there = from > 0 && !(from..=stream.last()).any(clears);
                floors.insert(
                    stream.topic.clone(),
                    Floor {
                        stream: index,
                        number: from,
                        must_be_there: is_there,
                    },
                );
            }
        }
        floors
    }
}

/// What a retained topic may hold at least.
#[derive(Clone, Debug)]
pub(crate) struct Floor {
    pub(crate) stream: usize,
    pub(crate) number: u64,
    pub(crate) must_be_there: bool,
}

impl Stream {
    pub(crate) fn last(&self) -> u64 {
        self.base + self.sent.len() as u64 - 1
    }

    fn get(&self, number: u64) -> Option<&Sent> {
        let index = number.checked_sub(self.base)?;
        self.sent.get(usize::try_from(index).ok()?)
    }

    fn get_mut(&mut self, number: u64) -> Option<&mut Sent> {
        let index = number.checked_sub(self.base)?;
        self.sent.get_mut(usize::try_from(index).ok()?)
    }

    /// Its publisher has sent it more than once.
    fn is_repeated(&self, number: u64) -> bool {
        self.get(number).is_some_and(|sent| sent.times > 1) && self.qos == QoS::AtLeastOnce
    }

    /// Whether who is subscribed to it has a right to it: always, for the publisher goes on until it is acknowledged.
    fn is_owed(&self, number: u64) -> bool {
        self.kind != Kind::Expiring && self.get(number).is_some_and(|sent| !sent.clears)
    }
}

impl Steady {
    /// True: it had come before.
    fn take(
        &mut self,
        name: &str,
        number: u64,
        connection: u64,
        is_repeated: bool,
        is_owed: impl Fn(u64) -> bool,
    ) -> bool {
        if self.connection != connection {
            self.connection = connection;
            self.last_of_connection = 0;
        }
        if number <= self.last_of_connection && !is_repeated {
            violated!(
                "{name} came twice over one connection, or after {}",
                self.last_of_connection
            );
        }
        self.last_of_connection = number;
        if number <= self.highest {
            return true;
        }
        let lost: Vec<u64> = (self.highest + 1..number).filter(|n| is_owed(*n)).collect();
        if !lost.is_empty() {
            violated!(
                "{name} came, but {} before it have not: {:?}",
                lost.len(),
                &lost[..lost.len().min(10)]
            );
        }
        self.highest = number;
        false
    }
}

impl Churn {
    fn requires(&self, number: u64) -> bool {
        self.required_from.is_some_and(|from| number >= from)
    }

    fn forbids(&self, number: u64) -> bool {
        self.forbidden
            .is_some_and(|(from, to)| number >= from && to.is_none_or(|to| number <= to))
    }
}

impl Group {
    fn take(&mut self, number: u64) -> bool {
        if number <= self.all_up_to || !self.beyond.insert(number) {
            return true;
        }
        while self.beyond.remove(&(self.all_up_to + 1)) {
            self.all_up_to += 1;
        }
        false
    }
}

/// [MQTT-3.3.2-5] [MQTT-3.3.2-6]
fn check_expiry(name: &str, now: Instant, stream: &Stream, sent: &Sent, publish: &Publish) {
    let Some(expiry) = stream.expiry else {
        return;
    };
    let since_last = now - sent.last_at;
    // What was on its way when it expired may be sent again.
    if !publish.dup && since_last > Duration::from_secs(expiry.into()) + SLACK {
        violated!("{name} came {since_last:?} after it was sent, and expires in {expiry} s");
    }
    if let Some(left) = publish.properties.message_expiry_interval {
        let longest = Duration::from_secs(expiry.into()).saturating_sub(since_last) + SLACK;
        let shortest =
            Duration::from_secs(expiry.into()).saturating_sub(now - sent.first_at + SLACK);
        let left = Duration::from_secs(left.into());
        if left > longest || left < shortest {
            violated!(
                "{name} has {left:?} left of {expiry} s, and was first sent {:?} ago, last {since_last:?}",
                now - sent.first_at
            );
        }
    }
}

/// The payload of a message; `length` bytes, but as many as the numbers need.
pub(crate) fn payload(stream: usize, number: u64, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length.max(HEADER));
    let stream = u16::try_from(stream).expect("there are few streams");
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(&number.to_be_bytes());
    let filling = bytes.len()..length;
    bytes.extend(filling.map(|index| filler(stream, number, index)));
    bytes
}

/// Stream and number of a payload that is whole.
pub(crate) fn read_payload(bytes: &[u8]) -> Option<(usize, u64)> {
    let (stream, rest) = bytes.split_first_chunk::<2>()?;
    let (number, rest) = rest.split_first_chunk::<8>()?;
    let (stream, number) = (u16::from_be_bytes(*stream), u64::from_be_bytes(*number));
    let is_whole = (HEADER..)
        .zip(rest)
        .all(|(index, byte)| *byte == filler(stream, number, index));
    is_whole.then_some((stream.into(), number))
}

#[allow(clippy::cast_possible_truncation, reason = "any byte will do")]
fn filler(stream: u16, number: u64, index: usize) -> u8 {
    (number.wrapping_mul(31) + u64::from(stream) + index as u64) as u8
}

/// The stream of all wills, each with a number of its own.
pub(crate) const WILLS: usize = u16::MAX as usize;

const HEADER: usize = 10;

/// Seconds are what expiry is counted in, and this machine has other things to do.
const SLACK: Duration = Duration::from_millis(2_500);
