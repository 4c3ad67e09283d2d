//! What to do: who publishes and subscribes how much, against what, for how long.

use std::time::Duration;

use nightjar_codec::QoS;

use crate::connection::Target;
use crate::subscriber::Links;

/// One piece of work, complete.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub name: &'static str,
    pub target: Target,
    pub qos: QoS,
    pub payload_length: usize,
    pub links: Links,
    pub receivers: Receivers,
    pub pace: Pace,
    /// QoS 1 and 2 messages of one publisher without an acknowledgement, and the Receive Maximum of subscribers (5.0).
    pub in_flight_max: u16,
    pub topic_prefix: String,
    pub warmup: Duration,
    pub round: Duration,
    pub rounds: u32,
    /// A broker on this machine, whose CPU time and memory are to be read.
    pub broker_pid: Option<u32>,
}

/// What sessions the subscribers have, and where they are while messages are published.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Receivers {
    /// Clean sessions, connected: what they receive is measured.
    Clean,
    /// Sessions that are kept, connected: the publishers' acknowledgements are measured.
    Online,
    /// Sessions that are kept, away: the publishers' acknowledgements are measured, then all that was queued is fetched.
    Offline,
}

impl Receivers {
    /// Whether a message counts when its publisher gets the last acknowledgement, not when it arrives.
    #[must_use]
    pub fn count_acknowledged(self) -> bool {
        self != Self::Clean
    }
}

/// What holds a publisher back.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Pace {
    /// Closed loop: at most this many messages ahead of its slowest subscriber, where that is connected.
    Window(u64),
    /// Open loop: this many messages per second of all publishers together, whatever arrives.
    Rate(u64),
}

impl Scenario {
    /// The topic of one publisher.
    #[must_use]
    pub fn topic(&self, publisher: usize) -> String {
        format!("{}/{publisher}", self.topic_prefix)
    }
}
