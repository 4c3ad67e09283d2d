//! Time as a value: what has passed since the start, and, once it is known, what a calendar says.
//!
//! The two are apart because only the first never jumps. Order, keep alive and waiting use the first; a reading carries the second
//! with a flag that says whether it was known.

use core::fmt;
use core::ops::Add;
use core::time::Duration;

use ::time::OffsetDateTime;

/// Milliseconds since the start of the device; never goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// Of a number of milliseconds since the start.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the start.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// What has passed since `earlier`; nothing if that is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(millis))
    }
}

impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.0)
    }
}

/// What every handler is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Since the start.
    pub monotonic: Instant,
    /// Milliseconds since 1970; `None` as long as nobody has told the device.
    pub wall: Option<u64>,
}

/// Where [`crate::driver`] has the time from, and how it waits.
#[allow(async_fn_in_trait)]
pub trait Clock {
    /// The time.
    fn now(&self) -> Now;

    /// Returns at `deadline` or soon after. Must be free of effects when it is dropped before.
    async fn wait_until(&self, deadline: Instant);
}

/// A point in time as a calendar has it, in UTC; what mbedTLS wants of a wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Calendar {
    /// For example 2026.
    pub year: i32,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 59.
    pub second: u8,
    /// Days since Sunday, 0 to 6.
    pub weekday: u8,
    /// Days since 1 January, 0 to 365.
    pub yearday: u16,
}

/// The calendar of a number of milliseconds since 1970; `None` where that is beyond the year 9999.
#[must_use]
pub fn calendar(unix_millis: u64) -> Option<Calendar> {
    let time = at(unix_millis)?;
    Some(Calendar {
        year: time.year(),
        month: u8::from(time.month()),
        day: time.day(),
        hour: time.hour(),
        minute: time.minute(),
        second: time.second(),
        weekday: time.weekday().number_days_from_sunday(),
        yearday: time.ordinal().saturating_sub(1),
    })
}

fn at(unix_millis: u64) -> Option<OffsetDateTime> {
    let seconds = i64::try_from(unix_millis / 1000).ok()?;
    OffsetDateTime::from_unix_timestamp(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leap_day_is_in_the_calendar() {
        let leap_day = calendar(1_709_210_096_789).unwrap();
        assert_eq!(
            leap_day,
            Calendar {
                year: 2024,
                month: 2,
                day: 29,
                hour: 12,
                minute: 34,
                second: 56,
                weekday: 4,
                yearday: 59,
            }
        );
    }

    #[test]
    fn a_time_that_no_calendar_has_is_none() {
        assert_eq!(calendar(u64::MAX), None);
    }

    #[test]
    fn adding_stops_at_the_end() {
        let end = Instant::from_millis(u64::MAX);
        assert_eq!(end + Duration::from_secs(1), end);
        assert_eq!(Instant::from_millis(1).since(end), Duration::ZERO);
    }
}
