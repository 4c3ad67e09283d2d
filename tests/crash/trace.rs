//! The last events of a run, for whoever has to find out what went wrong.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::time::Instant;

use harness::now;

pub(crate) struct Trace {
    began: Instant,
    events: VecDeque<(Instant, Event)>,
}

pub(crate) enum Event {
    Sent {
        stream: usize,
        number: u64,
    },
    SentAgain {
        stream: usize,
        number: u64,
    },
    Acknowledged {
        stream: usize,
        number: u64,
    },
    Delivered {
        receiver: usize,
        stream: usize,
        number: u64,
        dup: bool,
        packet_id: u16,
        connection: u64,
    },
    Said(String),
}

impl Trace {
    pub(crate) fn new() -> Self {
        Self {
            began: now(),
            events: VecDeque::new(),
        }
    }

    pub(crate) fn add(&mut self, at: Instant, event: Event) {
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back((at, event));
    }

    /// One line an event; receivers and streams by the names given.
    pub(crate) fn lines(&self, receivers: &[String], streams: &[String]) -> String {
        let mut lines = String::new();
        let unnamed = "will".to_owned();
        let topic = |stream: &usize| streams.get(*stream).unwrap_or(&unnamed);
        for (at, event) in &self.events {
            let seconds = (*at - self.began).as_secs_f64();
            let _ = write!(lines, "{seconds:>11.6} ");
            let _ = match event {
                Event::Sent { stream, number } => {
                    writeln!(lines, "sent {number} {}", topic(stream))
                }
                Event::SentAgain { stream, number } => {
                    writeln!(lines, "sent {number} {} again", topic(stream))
                }
                Event::Acknowledged { stream, number } => {
                    writeln!(lines, "acknowledged {number} {}", topic(stream))
                }
                Event::Delivered {
                    receiver,
                    stream,
                    number,
                    dup,
                    packet_id,
                    connection,
                } => writeln!(
                    lines,
                    "delivered {number} {} to {} id {packet_id} dup {} connection {connection}",
                    topic(stream),
                    receivers[*receiver],
                    u8::from(*dup),
                ),
                Event::Said(text) => writeln!(lines, "{text}"),
            };
        }
        lines
    }
}

const EVENTS_MAX: usize = 400_000;
