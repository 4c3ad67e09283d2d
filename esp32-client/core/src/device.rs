//! The whole device but for its wires: takes readings, publishes them in order, says that it is there, and does what it is told.
//!
//! In: [`Device::record`], [`Device::open`] and [`Device::close`] for a connection, [`Device::receive`], [`Device::turn`] with the time. Out:
//! [`Device::outgoing`], and what the [`Store`] and the [`Actuator`] are asked to do.
//!
//! A reading gets its number when it is recorded and stays in the store until the broker has acknowledged it. The cursor goes through
//! the store in order; what is in flight is in the session. A reading that the broker cannot take now is waited for, so that order holds:
//! everything from there on is sent again.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use alloc::{format, vec};
use core::fmt;
use core::num::NonZeroU16;
use core::time::Duration;

use bytes::Bytes;
use nightjar_codec::{
    QoS, ReasonCode, RetainHandling, SubscribeFilter, SubscriptionOptions, TopicName, Will,
    WillProperties,
};

use crate::backoff::Backoff;
use crate::command::{Actuator, Commands, Tally};
use crate::config::Config;
use crate::session::{
    Ended, Event, Message, Publication, PublishError, Receipt, Session, Settings,
};
use crate::store::{Sequence, Store};
use crate::telemetry::{self, Value};
use crate::time::{Instant, Now};

/// A device.
#[derive(Debug)]
pub struct Device<S, A> {
    config: Config,
    session: Session,
    store: S,
    actuator: A,
    commands: Commands,
    backoff: Backoff,
    /// The next reading to publish.
    cursor: Sequence,
    /// Readings that the session has, in order.
    sending: VecDeque<Sending>,
    /// The broker takes no readings for now: when to try again.
    paused_until: Option<Instant>,
    pauses: Backoff,
    answers: VecDeque<Answer>,
    to_subscribe: bool,
    to_announce: bool,
    counters: Counters,
    scratch: Vec<u8>,
}

/// What happened, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Readings that were recorded since the start.
    pub recorded: u64,
    /// Readings that the broker acknowledged since the start; one that had to be sent twice counts twice.
    pub delivered: u64,
    /// Readings that were pushed out by newer ones before they were delivered, ever.
    pub evicted: u64,
    /// Readings that wait, those in flight included.
    pub pending: u64,
    /// Readings that the broker refused for good.
    pub refused: u64,
    /// Times that the broker refused a reading for now.
    pub deferred: u64,
    /// Connections that the broker accepted.
    pub connections: u64,
    /// Of them, those for which the broker had kept the session.
    pub resumed: u64,
    /// Subscriptions that the broker refused.
    pub subscriptions_refused: u64,
    /// Times that the store failed.
    pub store_faults: u64,
    /// QoS 0 commands that came while too many answers waited.
    pub commands_dropped: u64,
    /// Answers that are larger than the broker takes.
    pub answers_dropped: u64,
    /// What became of commands.
    pub commands: Tally,
}

/// Why a reading was not recorded.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceError<E> {
    /// The name of what was measured cannot be part of a topic, or is longer than 64 bytes.
    Name,
    /// It is longer than the store takes.
    TooLarge,
    /// The store failed.
    Store(E),
}

impl<E: fmt::Debug> fmt::Display for DeviceError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name => {
                f.write_str("the name of a reading must be a part of a topic, of 64 bytes or less")
            }
            Self::TooLarge => f.write_str("the reading is longer than the store takes"),
            Self::Store(error) => write!(f, "the store: {error:?}"),
        }
    }
}

impl<E: fmt::Debug> core::error::Error for DeviceError<E> {}

#[derive(Debug)]
struct Sending {
    sequence: Sequence,
    outcome: Option<Outcome>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    Deferred,
}

/// An answer to a command, and the acknowledgement of the message that brought it, which leaves behind the answer.
#[derive(Debug)]
struct Answer {
    publication: Option<Publication>,
    receipt: Option<Receipt>,
}

impl<S: Store, A: Actuator> Device<S, A> {
    /// A device that is about to start. `random`: any 32 random bits.
    #[must_use]
    pub fn new(config: &Config, store: S, actuator: A, random: u32) -> Self {
        let mut settings = Settings::new(config.device_id.clone(), config.mqtt_version);
        settings.keep_alive_seconds = config.keep_alive_seconds;
        settings.session_expiry_seconds = config.session_expiry_seconds;
        settings.in_flight_max = config.in_flight_max;
        settings.receive_maximum = RECEIVE_MAXIMUM;
        settings.packet_bytes_max = config.packet_bytes_max;
        settings.will = Some(Will {
            topic: config.status_topic.as_str().into(),
            payload: Bytes::from_static(OFFLINE),
            qos: QoS::AtLeastOnce,
            retain: true,
            properties: WillProperties::default(),
        });
        Self {
            session: Session::new(settings, random),
            store,
            actuator,
            commands: Commands::new(config.command_ids_max, config.command_age_max),
            backoff: Backoff::new(config.retry_min, config.retry_max),
            cursor: Sequence::FIRST,
            sending: VecDeque::new(),
            paused_until: None,
            pauses: Backoff::new(config.retry_min, config.retry_max),
            answers: VecDeque::new(),
            to_subscribe: false,
            to_announce: false,
            counters: Counters::default(),
            scratch: Vec::new(),
            config: config.clone(),
        }
    }

    /// Takes a reading: numbers it and puts it into the store, whether there is a connection or not. Ring the
    /// [`crate::Doorbell`] afterwards.
    ///
    /// # Errors
    /// The name or the length is not possible, or the store failed.
    pub fn record(
        &mut self,
        now: Now,
        metric: &str,
        value: &Value,
    ) -> Result<Sequence, DeviceError<S::Error>> {
        let name_bytes = u8::try_from(metric.len())
            .ok()
            .filter(|bytes| *bytes <= NAME_BYTES_MAX);
        let name_bytes = name_bytes.ok_or(DeviceError::Name)?;
        TopicName::parse(metric).map_err(|_| DeviceError::Name)?;
        let mut record = vec![name_bytes];
        record.extend_from_slice(metric.as_bytes());
        record.extend(telemetry::encode(
            &self.config,
            self.store.next_sequence(),
            metric,
            value,
            now,
        ));
        if record.len() > self.store.record_bytes_max() {
            return Err(DeviceError::TooLarge);
        }
        let sequence = self.store.append(&record).map_err(|error| {
            self.counters.store_faults += 1;
            DeviceError::Store(error)
        })?;
        self.counters.recorded += 1;
        Ok(sequence)
    }

    /// There is a connection.
    pub fn open(&mut self, now: Now) {
        self.forget_receipts();
        self.session.open(now.monotonic);
    }

    /// There is no connection any more.
    pub fn close(&mut self) {
        self.forget_receipts();
        self.session.close();
        self.to_subscribe = false;
        self.to_announce = false;
    }

    /// Takes bytes of the broker and gives their number; see [`Session::receive`].
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        self.session.receive(bytes)
    }

    /// Whether there is room for [`crate::session::READ_BYTES_MAX`] bytes.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        self.session.wants_input()
    }

    /// Does everything that can be done now. `Some` when the connection is over: write what is outgoing, then close it.
    pub fn turn(&mut self, now: Now) -> Option<Ended> {
        self.session.handle_time(now.monotonic);
        loop {
            self.pump(now.monotonic);
            match self.session.poll(now.monotonic)? {
                Event::Ended(ended) => return Some(ended),
                event => self.handle(event, now),
            }
        }
    }

    /// When [`Device::turn`] has something to do though nothing came.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let paused = self.paused_until.filter(|_| self.session.is_online());
        self.session.deadline().into_iter().chain(paused).min()
    }

    /// Bytes to write.
    #[must_use]
    pub fn outgoing(&self) -> &[u8] {
        self.session.outgoing()
    }

    /// The first `count` outgoing bytes were written.
    pub fn written(&mut self, count: usize) {
        self.session.written(count);
    }

    /// Says good-bye: the status becomes offline, and the connection ends when that is written. Ring the [`crate::Doorbell`]
    /// afterwards.
    pub fn stop(&mut self, now: Now) {
        // QoS 0 needs no room in the window, and DISCONNECT is behind it. Where it cannot be written the will says it.
        let offline = self.status(OFFLINE, QoS::AtMostOnce);
        match self.session.publish(offline, now.monotonic) {
            Ok(()) => self.session.disconnect(),
            Err(_) => self.session.part(),
        }
    }

    /// How long to wait before the next connection is tried.
    pub fn retry_after(&mut self, random: u32) -> Duration {
        self.backoff.next(random)
    }

    /// Whether the broker has accepted the connection that there is.
    #[must_use]
    pub fn is_online(&self) -> bool {
        self.session.is_online()
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters {
            evicted: self.store.evicted(),
            pending: self.store.pending(),
            commands: self.commands.tally(),
            ..self.counters
        }
    }

    /// What commands act on.
    pub fn actuator(&mut self) -> &mut A {
        &mut self.actuator
    }

    fn handle(&mut self, event: Event, now: Now) {
        match event {
            Event::Connected { session_present } => {
                self.counters.connections += 1;
                self.counters.resumed += u64::from(session_present);
                self.backoff.reset();
                self.to_subscribe = true;
                self.to_announce = true;
            }
            Event::Message(message) => self.handle_command(message, now),
            Event::Delivered(token) => {
                self.counters.delivered += 1;
                self.pauses.reset();
                self.settle(Sequence::new(token), Outcome::Done);
            }
            Event::Refused(token, reason_code) if is_for_now(reason_code) => {
                self.counters.deferred += 1;
                let wait = self.pauses.next(u32::MAX);
                self.paused_until = Some(now.monotonic + wait);
                self.settle(Sequence::new(token), Outcome::Deferred);
            }
            Event::Refused(token, _) => {
                self.counters.refused += 1;
                self.settle(Sequence::new(token), Outcome::Done);
            }
            Event::Subscribed(reason_codes) => {
                let refused = reason_codes.iter().filter(|code| code.is_error()).count();
                self.counters.subscriptions_refused += u64::try_from(refused).unwrap_or(u64::MAX);
            }
            Event::Unsubscribed | Event::Ended(_) => {}
        }
    }

    fn handle_command(&mut self, message: Message, now: Now) {
        // With QoS 1 and 2 the Receive Maximum is the bound.
        if message.receipt.is_none() && self.answers.len() >= ANSWERS_MAX {
            self.counters.commands_dropped += 1;
            return;
        }
        let payloads =
            self.commands
                .handle(&message.payload, message.retain, now, &mut self.actuator);
        let asked_for = message
            .response_topic
            .and_then(|topic| TopicName::parse(&topic).ok());
        let topic = asked_for.unwrap_or_else(|| self.config.response_topic.clone());
        for payload in payloads {
            self.answers.push_back(Answer {
                publication: Some(Publication {
                    topic: topic.clone(),
                    payload: payload.into(),
                    qos: self.config.command_qos,
                    retain: false,
                    correlation_data: message.correlation_data.clone(),
                    token: None,
                }),
                receipt: None,
            });
        }
        if message.receipt.is_some() {
            self.answers.push_back(Answer {
                publication: None,
                receipt: message.receipt,
            });
        }
    }

    /// Gives the session what it takes, the most urgent first.
    fn pump(&mut self, now: Instant) {
        if !self.session.is_online() {
            return;
        }
        if self.to_subscribe {
            self.to_subscribe = !self.subscribe(now);
        }
        if self.to_announce {
            let online = self.status(ONLINE, QoS::AtLeastOnce);
            self.to_announce = self.session.publish(online, now) == Err(PublishError::Full);
        }
        self.pump_answers(now);
        self.pump_readings(now);
    }

    fn pump_answers(&mut self, now: Instant) {
        while let Some(answer) = self.answers.front() {
            if let Some(publication) = &answer.publication {
                match self.session.publish(publication.clone(), now) {
                    Err(PublishError::Full) => return,
                    Err(_) => self.counters.answers_dropped += 1,
                    Ok(()) => {}
                }
            }
            let receipt = self.answers.pop_front().and_then(|answer| answer.receipt);
            if let Some(receipt) = receipt {
                self.session.acknowledge(receipt, now);
            }
        }
    }

    fn pump_readings(&mut self, now: Instant) {
        if let Some(until) = self.paused_until {
            // What is in flight comes first: all of it from the one that was refused is sent again.
            if now < until || self.sending.iter().any(|sending| sending.outcome.is_none()) {
                return;
            }
            self.paused_until = None;
            if let Some(first) = self.sending.front() {
                self.cursor = first.sequence;
            }
            self.sending.clear();
        }
        while self.session.can_publish(self.config.telemetry_qos) {
            let mut record = core::mem::take(&mut self.scratch);
            let found = self.store.read(self.cursor, &mut record);
            let publication = match found {
                Ok(Some(sequence)) => {
                    self.cursor = sequence.next();
                    self.sending.push_back(Sending {
                        sequence,
                        outcome: None,
                    });
                    self.publication(sequence, &record)
                }
                Ok(None) => return self.scratch = record,
                Err(_) => {
                    self.counters.store_faults += 1;
                    return self.scratch = record;
                }
            };
            self.scratch = record;
            let taken = publication.and_then(|publication| {
                let token = publication.token?;
                self.session.publish(publication, now).err().map(|_| token)
            });
            if let Some(token) = taken {
                // Larger than the broker takes, for `can_publish` was asked.
                self.counters.refused += 1;
                self.settle(Sequence::new(token), Outcome::Done);
            }
        }
    }

    /// `None` for a record that is none: it has come from somewhere else.
    fn publication(&mut self, sequence: Sequence, record: &[u8]) -> Option<Publication> {
        let parsed = parse_record(record).and_then(|(metric, payload)| {
            let topic =
                TopicName::parse(&format!("{}/{metric}", self.config.telemetry_topic)).ok()?;
            Some((topic, payload))
        });
        let Some((topic, payload)) = parsed else {
            self.counters.store_faults += 1;
            self.settle(sequence, Outcome::Done);
            return None;
        };
        Some(Publication {
            topic,
            payload: Bytes::copy_from_slice(payload),
            qos: self.config.telemetry_qos,
            retain: false,
            correlation_data: None,
            token: Some(sequence.get()),
        })
    }

    /// A reading has come to its end; what is delivered from the oldest on is released.
    fn settle(&mut self, sequence: Sequence, outcome: Outcome) {
        let sending = self
            .sending
            .iter_mut()
            .find(|sending| sending.sequence == sequence);
        if let Some(sending) = sending {
            sending.outcome = Some(outcome);
        }
        let mut through = None;
        while let Some(sending) = self.sending.front()
            && sending.outcome == Some(Outcome::Done)
        {
            through = Some(sending.sequence);
            self.sending.pop_front();
        }
        if let Some(through) = through
            && self.store.release(through).is_err()
        {
            self.counters.store_faults += 1;
        }
    }

    fn subscribe(&mut self, now: Instant) -> bool {
        let filter = SubscribeFilter {
            topic_filter: self.config.command_topic.as_str().into(),
            options: SubscriptionOptions {
                qos: self.config.command_qos,
                // No command is retained; 3.1.1 ignores this.
                retain_handling: if self.session.is_v5() {
                    RetainHandling::DoNotSend
                } else {
                    RetainHandling::Send
                },
                ..SubscriptionOptions::default()
            },
        };
        self.session.subscribe(vec![filter], now)
    }

    fn status(&self, state: &'static [u8], qos: QoS) -> Publication {
        Publication {
            topic: self.config.status_topic.clone(),
            payload: Bytes::from_static(state),
            qos,
            retain: true,
            correlation_data: None,
            token: None,
        }
    }

    /// An acknowledgement belongs to the connection that its message came by.
    fn forget_receipts(&mut self) {
        self.answers.retain_mut(|answer| {
            answer.receipt = None;
            answer.publication.is_some()
        });
    }
}

fn parse_record(record: &[u8]) -> Option<(Box<str>, &[u8])> {
    let (name_bytes, rest) = record.split_first()?;
    let (name, payload) = rest.split_at_checked(usize::from(*name_bytes))?;
    Some((core::str::from_utf8(name).ok()?.into(), payload))
}

/// Whether a reading that was refused may be taken later.
const fn is_for_now(reason_code: ReasonCode) -> bool {
    matches!(
        reason_code,
        ReasonCode::UnspecifiedError
            | ReasonCode::ImplementationSpecificError
            | ReasonCode::QuotaExceeded
    )
}

const ONLINE: &[u8] = br#"{"state":"online"}"#;
const OFFLINE: &[u8] = br#"{"state":"offline"}"#;
const NAME_BYTES_MAX: u8 = 64;
/// Answers that wait while QoS 0 commands are still taken.
const ANSWERS_MAX: usize = 32;
const RECEIVE_MAXIMUM: NonZeroU16 = NonZeroU16::MIN.saturating_add(7);

#[cfg(test)]
mod tests;
