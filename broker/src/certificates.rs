//! What is known of TLS in numbers: handshakes, and when certificates end. For metrics and the log.
//!
//! In: what listeners did. Out: the same, for whoever asks. Knows no key, no client and no MQTT.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use nightjar_certs::Kind;

/// Counted since the start. Handshakes are rare enough for atomics.
#[derive(Debug, Default)]
pub struct Tally {
    handshakes: [AtomicU64; Handshake::ALL.len()],
    failures: [AtomicU64; Failure::ALL.len()],
    /// Clients that came with a certificate another took the place of.
    pub replaced_used: AtomicU64,
    /// Reloads of a listener's files of which a part could not be used.
    pub kept: AtomicU64,
    ends: Mutex<BTreeMap<(Box<str>, &'static str), u64>>,
}

/// What became of a handshake that went well.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Handshake {
    Tls12,
    Tls12Resumed,
    Tls13,
    Tls13Resumed,
}

/// Why a handshake did not.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Failure {
    /// What was sent is no TLS that we speak, or the client did not like ours.
    Handshake,
    /// The client's certificate is not accepted.
    Certificate,
    /// The client closed.
    Gone,
    Timeout,
}

impl Handshake {
    /// With the words of the labels: the version of TLS, and whether a session was resumed.
    pub const ALL: [(Self, [&str; 2]); 4] = [
        (Self::Tls12, ["1.2", "false"]),
        (Self::Tls12Resumed, ["1.2", "true"]),
        (Self::Tls13, ["1.3", "false"]),
        (Self::Tls13Resumed, ["1.3", "true"]),
    ];

    pub fn new(is_1_3: bool, was_resumed: bool) -> Self {
        match (is_1_3, was_resumed) {
            (false, false) => Self::Tls12,
            (false, true) => Self::Tls12Resumed,
            (true, false) => Self::Tls13,
            (true, true) => Self::Tls13Resumed,
        }
    }
}

impl Failure {
    /// With the words of the label.
    pub const ALL: [(Self, &str); 4] = [
        (Self::Handshake, "handshake"),
        (Self::Certificate, "certificate"),
        (Self::Gone, "gone"),
        (Self::Timeout, "timeout"),
    ];
}

impl Tally {
    pub fn count(&self, handshake: Handshake) {
        if let Some(counter) = self.handshakes.get(handshake as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub fn count_failure(&self, failure: Failure) {
        if let Some(counter) = self.failures.get(failure as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub fn handshakes(&self) -> [u64; Handshake::ALL.len()] {
        self.handshakes
            .each_ref()
            .map(|counter| counter.load(Ordering::Relaxed))
    }

    pub fn failures(&self) -> [u64; Failure::ALL.len()] {
        self.failures
            .each_ref()
            .map(|counter| counter.load(Ordering::Relaxed))
    }

    /// The first end of each kind that a listener has now, in seconds since 1970; none: it is gone.
    pub fn note_ends(&self, listener: &str, ends: &[(Kind, u64)]) {
        let mut all = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(known, _), _| &**known != listener);
        for (kind, end) in ends {
            let end_of_kind = all.entry((listener.into(), kind.word())).or_insert(*end);
            *end_of_kind = (*end_of_kind).min(*end);
        }
    }

    /// Listener, kind and end, for all listeners.
    pub fn ends(&self) -> Vec<(Box<str>, &'static str, u64)> {
        let all = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter()
            .map(|((listener, kind), end)| (listener.clone(), *kind, *end))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_stand_where_their_numbers_are() {
        for (place, (handshake, _)) in Handshake::ALL.iter().enumerate() {
            assert_eq!(*handshake as usize, place);
        }
        for (place, (failure, _)) in Failure::ALL.iter().enumerate() {
            assert_eq!(*failure as usize, place);
        }
    }

    #[test]
    fn the_first_end_of_a_kind_is_told_and_what_a_listener_has_no_more_is_forgotten() {
        let tally = Tally::default();
        tally.note_ends(
            "a",
            &[
                (Kind::Authority, 9),
                (Kind::Authority, 5),
                (Kind::Server, 7),
            ],
        );
        tally.note_ends("b", &[(Kind::Server, 1)]);
        let told = |tally: &Tally| {
            let ends = tally.ends();
            let told = ends
                .iter()
                .map(|(name, kind, end)| format!("{name} {kind} {end}"));
            told.collect::<Vec<String>>()
        };
        assert_eq!(
            told(&tally),
            ["a ca 5", "a certificate 7", "b certificate 1"]
        );
        tally.note_ends("a", &[]);
        assert_eq!(told(&tally), ["b certificate 1"]);
    }
}
