//! How many lines one source may put in the log.
//!
//! Whoever is refused may try again at once, and as often as the network carries: what is said about each try is bounded by
//! source, and what was left out is counted and said in one line (R20).

use std::collections::BTreeMap;

/// The sources that were spoken of lately, by one shard or by the thread of handshakes.
#[derive(Debug)]
pub(crate) struct Throttle {
    /// About one source in one window.
    lines_max: u32,
    sources: BTreeMap<Box<str>, Source>,
}

#[derive(Debug)]
struct Source {
    /// Broker clock at which its next time begins.
    until: u64,
    said: u32,
    left_out: u64,
}

/// What a throttle says of one more line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Say,
    /// It is the first that is left out: at this time `left_out` has something to say.
    LeaveOutUntil(u64),
    LeaveOut,
}

impl Default for Throttle {
    fn default() -> Self {
        Self::new(LINES_MAX)
    }
}

impl Throttle {
    pub(crate) fn new(lines_max: u32) -> Self {
        Self {
            lines_max,
            sources: BTreeMap::new(),
        }
    }

    /// One more line about the address of `peer`.
    pub(crate) fn admit(&mut self, now: u64, peer: &str) -> Verdict {
        let mut address = address_of(peer);
        if !self.sources.contains_key(address) && self.sources.len() >= SOURCES_MAX {
            self.sources
                .retain(|_, source| source.until > now || source.left_out > 0);
            if self.sources.len() >= SOURCES_MAX {
                address = MANY;
            }
        }
        if !self.sources.contains_key(address) {
            self.sources.insert(address.into(), Source::new(now));
        }
        let Some(source) = self.sources.get_mut(address) else {
            return Verdict::LeaveOut;
        };
        if source.until <= now && source.left_out == 0 {
            *source = Source::new(now);
        }
        if source.said < self.lines_max {
            source.said += 1;
            return Verdict::Say;
        }
        source.left_out += 1;
        if source.left_out == 1 {
            Verdict::LeaveOutUntil(source.until)
        } else {
            Verdict::LeaveOut
        }
    }

    /// Sources whose time is up, and how many lines about them were left out. They begin anew.
    pub(crate) fn left_out(&mut self, now: u64) -> Vec<(Box<str>, u64)> {
        let mut told = Vec::new();
        self.sources.retain(|address, source| {
            if source.until > now {
                return true;
            }
            if source.left_out > 0 {
                told.push((address.clone(), source.left_out));
            }
            false
        });
        told
    }

    /// When `left_out` has something to say next.
    pub(super) fn next(&self) -> Option<u64> {
        self.sources
            .values()
            .filter(|source| source.left_out > 0)
            .map(|source| source.until)
            .min()
    }
}

impl Source {
    fn new(now: u64) -> Self {
        Self {
            until: now + WINDOW_MILLISECONDS,
            said: 0,
            left_out: 0,
        }
    }
}

/// Without the port, which is another for each try.
fn address_of(peer: &str) -> &str {
    match peer.rsplit_once(':') {
        Some((address, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => address,
        _ => peer,
    }
}

/// Lines about one source in one window, on each shard.
pub(super) const LINES_MAX: u32 = 20;
pub(super) const WINDOW_MILLISECONDS: u64 = 10_000;
/// Sources that are told apart.
const SOURCES_MAX: usize = 1024;
/// All others together.
const MANY: &str = "other addresses";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_has_its_lines_and_the_rest_is_counted() {
        let mut throttle = Throttle::default();
        for port in 0..LINES_MAX {
            assert_eq!(throttle.admit(0, &format!("[::1]:{port}")), Verdict::Say);
        }
        assert_eq!(
            throttle.admit(5, "[::1]:9"),
            Verdict::LeaveOutUntil(WINDOW_MILLISECONDS)
        );
        assert_eq!(throttle.admit(6, "[::1]:9"), Verdict::LeaveOut);
        assert_eq!(throttle.admit(7, "10.0.0.1:9"), Verdict::Say, "another");
        assert_eq!(throttle.next(), Some(WINDOW_MILLISECONDS));
        assert!(throttle.left_out(WINDOW_MILLISECONDS - 1).is_empty());
        let told = throttle.left_out(WINDOW_MILLISECONDS);
        assert_eq!(told, [("[::1]".into(), 2)]);
        assert_eq!(throttle.next(), None);
        assert_eq!(throttle.admit(WINDOW_MILLISECONDS, "[::1]:1"), Verdict::Say);
    }

    #[test]
    fn many_sources_share_what_is_left() {
        let mut throttle = Throttle::default();
        let mut said = 0;
        for number in 0..100_000 {
            let verdict = throttle.admit(1, &format!("address-{number}:1"));
            said += u64::from(verdict == Verdict::Say);
        }
        assert_eq!(said, SOURCES_MAX as u64 + u64::from(LINES_MAX));
        assert_eq!(throttle.sources.len(), SOURCES_MAX + 1);
        let told = throttle.left_out(1 + WINDOW_MILLISECONDS);
        assert_eq!(told, [(MANY.into(), 100_000 - said)]);
    }
}
