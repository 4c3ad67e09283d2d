//! The only place that tells time.
//!
//! In: the operating system's two clocks. Out: `Now`, a plain value that the worker takes once a
//! turn and hands to every room; the simulator makes its own. Deadlines are compared on
//! `monotonic`, which never jumps; `wall` is for people and for what outlives the process.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// One moment, on both clocks, in milliseconds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Now {
    /// Milliseconds since an arbitrary moment before the process began to serve; never goes back.
    pub monotonic: u64,
    /// Milliseconds since 1970-01-01 UTC; may jump either way when somebody sets the clock.
    pub wall: u64,
}

/// Reads the time. All shards share copies of one, so that their `monotonic` agree.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: Instant,
}

impl Clock {
    #[allow(clippy::disallowed_methods)]
    pub fn start() -> Self {
        Self {
            started: Instant::now(),
        }
    }

    pub fn now(&self) -> Now {
        Now {
            monotonic: MONOTONIC_START
                .saturating_add(milliseconds(self.started.elapsed().as_millis())),
            wall: wall(),
        }
    }
}

/// Milliseconds since 1970-01-01 UTC; 0 if the clock stands before it.
#[allow(clippy::disallowed_methods)]
pub fn wall() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| milliseconds(since.as_millis()))
}

fn milliseconds(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

/// Where `monotonic` begins: not 0, so that "a minute ago" can be subtracted from the first moment.
const MONOTONIC_START: u64 = 86_400_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn monotonic_never_goes_back_and_copies_agree() {
        let clock = Clock::start();
        let copy = clock;
        let mut before = clock.now();
        for _ in 0..1_000 {
            let now = copy.now();
            assert!(now.monotonic >= before.monotonic);
            before = now;
        }
        assert!(before.monotonic >= MONOTONIC_START);
    }

    #[test]
    fn wall_is_in_milliseconds_since_1970() {
        // 2020-01-01 and 2200-01-01: a value in seconds or microseconds lies outside.
        assert!((1_577_836_800_000..7_258_118_400_000).contains(&wall()));
    }
}
