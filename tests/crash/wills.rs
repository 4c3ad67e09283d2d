//! Which wills are owed, which may come, and which must not (D10).
//!
//! A will is known to be kept once something that was sent after its CONNACK has been acknowledged as durable; from then on it is owed
//! if its connection ends without DISCONNECT, were it by the end of the broker. In the same way a DISCONNECT, or a resumption, is known
//! to be kept, and from then on the will must not come. What was not known to be kept when the broker was killed may go either way.

use std::collections::{BTreeMap, BTreeSet};

use nightjar_codec::{Publish, QoS};

use crate::model::violated;

#[derive(Default)]
pub(crate) struct Wills {
    wills: BTreeMap<u64, Will>,
    next: u64,
    /// The first that was not there at the last rest.
    settled: u64,
    /// Receivers that get every will.
    observers: Vec<usize>,
    /// Those of them that have never subscribed: what is published before that comes to nobody.
    not_there: BTreeSet<usize>,
}

struct Will {
    topic: String,
    qos: QoS,
    fate: Fate,
    /// Receiver and the connection it came over.
    seen: BTreeMap<usize, u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// CONNECT is sent.
    Unknown,
    /// CONNACK came when the model was at this place.
    Kept { place: u64 },
    /// The connection has ended without DISCONNECT, while it was known to be kept or before the broker was killed.
    Owed,
    /// DISCONNECT is sent, and nothing known of it.
    Going,
    /// The broker has closed after DISCONNECT, or has resumed the session, at this place.
    Cancelled { place: u64 },
    /// As `Cancelled`, and it is known to be kept.
    Forbidden,
    /// It may come.
    Open,
}

impl Wills {
    pub(crate) fn observe(&mut self, receiver: usize) {
        self.observers.push(receiver);
        self.not_there.insert(receiver);
    }

    pub(crate) fn subscribed(&mut self, receiver: usize) {
        self.not_there.remove(&receiver);
    }

    /// A will is about to be sent with CONNECT; its number.
    pub(crate) fn make(&mut self, topic: impl Fn(u64) -> String, qos: QoS) -> u64 {
        self.next += 1;
        let will = Will {
            topic: topic(self.next),
            qos,
            fate: Fate::Unknown,
            seen: BTreeMap::new(),
        };
        self.wills.insert(self.next, will);
        self.next
    }

    pub(crate) fn accepted(&mut self, number: u64, place: u64) {
        self.set(number, Fate::Kept { place });
    }

    /// Our end of the connection is gone without DISCONNECT, and the broker alive.
    pub(crate) fn dropped(&mut self, number: u64) {
        let fate = match self.wills[&number].fate {
            // The broker is there to publish it; if it is killed before it has, `killed` decides.
            kept @ Fate::Kept { .. } if self.not_there.is_empty() => kept,
            _ => Fate::Open,
        };
        self.set(number, fate);
    }

    pub(crate) fn disconnecting(&mut self, number: u64) {
        self.set(number, Fate::Going);
    }

    pub(crate) fn cancelled(&mut self, number: u64, place: u64) {
        if self.wills[&number].seen.is_empty() {
            self.set(number, Fate::Cancelled { place });
        }
    }

    /// It is not known any more whether it is to come.
    pub(crate) fn give_up(&mut self, number: u64) {
        self.set(number, Fate::Open);
    }

    /// Whether it would have been published if nothing had happened since.
    pub(crate) fn is_owed(&self, number: u64) -> bool {
        self.wills
            .get(&number)
            .is_some_and(|will| will.fate == Fate::Owed && will.seen.is_empty())
    }

    /// The broker was killed; `is_durable` of a place.
    pub(crate) fn killed(&mut self, is_durable: impl Fn(u64) -> bool) {
        for will in self.wills.values_mut() {
            will.fate = match will.fate {
                Fate::Kept { place } if is_durable(place) => Fate::Owed,
                Fate::Cancelled { place } if is_durable(place) => Fate::Forbidden,
                Fate::Unknown | Fate::Kept { .. } | Fate::Going | Fate::Cancelled { .. } => {
                    Fate::Open
                }
                fate => fate,
            };
        }
    }

    /// True: it had come before.
    pub(crate) fn arrived(
        &mut self,
        number: u64,
        receiver: usize,
        connection: u64,
        once: bool,
        publish: &Publish,
    ) -> bool {
        let Some(will) = self.wills.get_mut(&number) else {
            violated!("will {number} came again, or long after it was due");
        };
        if will.topic != publish.topic.as_ref() || publish.qos > will.qos {
            violated!(
                "will {number} came on {} with {:?}",
                publish.topic,
                publish.qos
            );
        }
        match will.fate {
            Fate::Unknown => violated!("will {number} came before CONNACK"),
            Fate::Cancelled { .. } | Fate::Forbidden if will.seen.is_empty() => {
                violated!("will {number} came after DISCONNECT, or after its client was back")
            }
            _ => {}
        }
        match will.seen.insert(receiver, connection) {
            None => false,
            Some(before) if once || before == connection => {
                violated!("will {number} came twice")
            }
            Some(_) => true,
        }
    }

    /// Wills that have to be seen, or not to be seen, before the books can be closed.
    pub(crate) fn are_pending(&self) -> bool {
        let decided = |will: &Will| {
            matches!(
                will.fate,
                Fate::Owed | Fate::Forbidden | Fate::Cancelled { .. } | Fate::Open
            )
        };
        self.wills
            .range(self.settled..)
            .any(|(_, will)| decided(will))
    }

    /// Those that are owed and have not come to all observers; without those of clients that are still there.
    pub(crate) fn missing(&self, still_connected: &BTreeSet<u64>) -> Vec<String> {
        let mut missing = Vec::new();
        for (number, will) in &self.wills {
            let is_owed = match will.fate {
                Fate::Owed => true,
                // Its connection was dropped, and the broker was not killed since.
                Fate::Kept { .. } => !still_connected.contains(number),
                _ => false,
            };
            let unseen = self
                .observers
                .iter()
                .filter(|it| !will.seen.contains_key(it));
            if is_owed && unseen.count() > 0 {
                missing.push(format!("will {number} ({:?})", will.fate));
            }
        }
        missing
    }

    /// Those that were settled at the rest before are forgotten. Wills of connections that are open stay.
    pub(crate) fn settle(&mut self) {
        let undecided =
            |will: &Will| matches!(will.fate, Fate::Unknown | Fate::Kept { .. } | Fate::Going);
        let settled = self.settled;
        self.wills
            .retain(|number, will| *number >= settled || (undecided(will) && will.seen.is_empty()));
        self.settled = self.next + 1;
    }

    fn set(&mut self, number: u64, fate: Fate) {
        if let Some(will) = self.wills.get_mut(&number) {
            will.fate = fate;
        }
    }
}
