//! How long to wait before the next attempt: twice as long each time up to a bound, and a random part of it, so that ten thousand
//! devices whose broker restarts do not come back in the same second.

use core::time::Duration;

/// The waiting times of one device. Random bits are given by the caller.
#[derive(Clone, Debug)]
pub struct Backoff {
    least: Duration,
    most: Duration,
    attempts: u32,
}

impl Backoff {
    /// The first wait is at most `least`, none is longer than `most`.
    #[must_use]
    pub const fn new(least: Duration, most: Duration) -> Self {
        Self {
            least,
            most,
            attempts: 0,
        }
    }

    /// The next wait: between a half and the whole of what the number of attempts allows.
    pub fn next(&mut self, random: u32) -> Duration {
        let doublings = self.attempts.min(DOUBLINGS_MAX);
        self.attempts = self.attempts.saturating_add(1);
        let whole = self
            .least
            .saturating_mul(1 << doublings)
            .min(self.most.max(self.least));
        let half = whole / 2;
        half + half.mul_f64(f64::from(random) / f64::from(u32::MAX))
    }

    /// After a success: the next wait is a first one.
    pub const fn reset(&mut self) {
        self.attempts = 0;
    }

    /// Attempts since the last success.
    #[must_use]
    pub const fn attempts(&self) -> u32 {
        self.attempts
    }
}

const DOUBLINGS_MAX: u32 = 16;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_wait_is_never_above_the_bound_and_never_below_half_of_the_first(
            least in 1_u64..10_000,
            most in 1_u64..10_000_000,
            randoms in prop::collection::vec(any::<u32>(), 1..200),
        ) {
            let mut backoff = Backoff::new(Duration::from_millis(least), Duration::from_millis(most));
            for random in randoms {
                let wait = backoff.next(random);
                prop_assert!(wait <= Duration::from_millis(most.max(least)));
                prop_assert!(wait >= Duration::from_millis(least) / 2);
            }
        }
    }

    #[test]
    fn waits_double_and_start_again_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        let waits: std::vec::Vec<u64> = (0..8).map(|_| backoff.next(u32::MAX).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        backoff.reset();
        assert_eq!(backoff.next(u32::MAX), Duration::from_secs(1));
    }

    #[test]
    fn two_devices_do_not_wait_equally_long() {
        let wait =
            |random| Backoff::new(Duration::from_secs(1), Duration::from_secs(60)).next(random);
        assert_ne!(wait(1), wait(u32::MAX / 2));
    }

    #[test]
    fn attempts_without_end_do_not_overflow() {
        let mut backoff = Backoff::new(Duration::MAX, Duration::MAX);
        backoff.attempts = u32::MAX;
        let _ = backoff.next(0);
        assert_eq!(backoff.attempts(), u32::MAX);
    }
}
