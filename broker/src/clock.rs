//! The only place that tells time.
//!
//! In: the operating system's two clocks, and what the store kept of them. Out: `Now`, a plain value that the worker takes
//! once a turn and hands to every room; the simulator makes its own. Deadlines are compared on `monotonic`, the broker clock,
//! which never jumps while the process lives and goes on where it stood when the process starts again (D12); `wall` is for
//! people, and tells how long the process was away.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use nightjar_storage::ClockRecord;

/// One moment, on both clocks, in milliseconds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Now {
    /// Milliseconds of the broker clock: since an arbitrary moment before the first start; never goes back.
    pub monotonic: u64,
    /// Milliseconds since 1970-01-01 UTC; may jump either way when somebody sets the clock.
    pub wall: u64,
}

/// Reads the time. All shards share copies of one, so that their `monotonic` agree.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: Instant,
    /// What the broker clock showed then.
    from: u64,
}

impl Clock {
    pub fn start() -> Self {
        Self::resume(None)
    }

    /// Goes on from what the store kept, if it kept anything (D12).
    #[allow(clippy::disallowed_methods)]
    pub fn resume(stored: Option<ClockRecord>) -> Self {
        Self {
            started: Instant::now(),
            from: resumed_at(stored, wall()),
        }
    }

    pub fn now(&self) -> Now {
        Now {
            monotonic: self
                .from
                .saturating_add(milliseconds(self.started.elapsed().as_millis())),
            wall: wall(),
        }
    }
}

/// What the broker clock shows at a start: what it showed at the last commit, and the time that has passed since then as far
/// as the wall clock can tell (D12). One that was set back, or stands where a machine without a battery starts, tells nothing.
pub fn resumed_at(stored: Option<ClockRecord>, wall: u64) -> u64 {
    let Some(stored) = stored else {
        return MONOTONIC_START;
    };
    let away = match stored.wall {
        WALL_PLAUSIBLE_FROM.. => wall.saturating_sub(stored.wall),
        _ => 0,
    };
    stored.broker.max(MONOTONIC_START).saturating_add(away)
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
/// 2020-01-01: a wall clock before this was not set yet.
const WALL_PLAUSIBLE_FROM: u64 = 1_577_836_800_000;

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

    const YEAR: u64 = 31_557_600_000;
    const TODAY: u64 = 1_780_000_000_000;

    fn stored(broker: u64, wall: u64) -> Option<ClockRecord> {
        Some(ClockRecord { broker, wall })
    }

    #[test]
    fn d12_the_broker_clock_goes_on_by_the_time_the_process_was_away() {
        let before = MONOTONIC_START + 5_000;
        assert_eq!(resumed_at(stored(before, TODAY), TODAY + 700), before + 700);
        let clock = Clock::resume(stored(before, wall() - 60_000));
        assert!(clock.now().monotonic >= before + 60_000);
    }

    #[test]
    fn d12_a_first_start_begins_where_a_minute_ago_exists() {
        assert_eq!(resumed_at(None, TODAY), MONOTONIC_START);
        assert_eq!(resumed_at(None, 0), MONOTONIC_START);
    }

    #[test]
    fn d12_a_wall_clock_that_was_set_back_before_the_start_takes_nothing_away() {
        let before = MONOTONIC_START + 5_000;
        for back in [1, 1_000, YEAR, 68 * YEAR] {
            let wall = TODAY.saturating_sub(back);
            assert_eq!(resumed_at(stored(before, TODAY), wall), before);
        }
    }

    #[test]
    fn d12_a_start_in_1970_and_ntp_before_the_next_expire_nothing() {
        let before = MONOTONIC_START + 5_000;
        // Boot without a battery: the wall clock says nothing about how long it was.
        let booted = resumed_at(stored(before, TODAY), 12_000);
        assert_eq!(booted, before);
        // Committed in 1970, started again when NTP has set the clock: 56 years have not passed.
        assert_eq!(
            resumed_at(stored(booted + 30_000, 42_000), TODAY),
            booted + 30_000
        );
    }

    #[test]
    fn d12_the_broker_clock_ends_nowhere() {
        assert_eq!(resumed_at(stored(u64::MAX, TODAY), u64::MAX), u64::MAX);
    }

    #[test]
    fn wall_is_in_milliseconds_since_1970() {
        // 2020-01-01 and 2200-01-01: a value in seconds or microseconds lies outside.
        assert!((1_577_836_800_000..7_258_118_400_000).contains(&wall()));
    }
}
