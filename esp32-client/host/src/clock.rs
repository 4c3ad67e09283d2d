//! The system's time, for the core and for mbedTLS. The only file that reads a clock.

#![allow(unsafe_code, clippy::disallowed_methods)]

use std::sync::OnceLock;
use std::time::{Duration, Instant as Moment, SystemTime, UNIX_EPOCH};

use mbedtls_rs::sys::hook::timer::{MbedtlsTimer, hook_timer};
use mbedtls_rs::sys::hook::wall_clock::{MbedtlsWallClock, hook_wall_clock};
use mbedtls_rs::sys::tm;
use nightjar_esp32_core::{Clock, Instant, Now, calendar};

/// The time since the start of the program, and that of the system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl SystemClock {
    fn since_start() -> u64 {
        static START: OnceLock<Moment> = OnceLock::new();
        let start = START.get_or_init(Moment::now);
        u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn unix_millis() -> Option<u64> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        u64::try_from(since.as_millis()).ok()
    }

    /// Gives mbedTLS the time: without it no certificate would be accepted.
    pub fn hook(self) {
        static CLOCK: ForMbedtls = ForMbedtls;
        // SAFETY: the clock is a static without state, so it is valid for ever and from every thread; mbedTLS is used only after this.
        unsafe {
            hook_timer(Some(&CLOCK));
            hook_wall_clock(Some(&CLOCK));
        }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Now {
        Now {
            monotonic: Instant::from_millis(Self::since_start()),
            wall: Self::unix_millis(),
        }
    }

    async fn wait_until(&self, deadline: Instant) {
        let left = deadline.since(self.now().monotonic);
        // Never longer than a day: what waits looks again.
        tokio::time::sleep(left.min(Duration::from_secs(86_400))).await;
    }
}

/// The same, by the names of mbedTLS.
struct ForMbedtls;

impl MbedtlsTimer for ForMbedtls {
    fn now(&self) -> i64 {
        i64::try_from(SystemClock::since_start()).unwrap_or(i64::MAX)
    }
}

impl MbedtlsWallClock for ForMbedtls {
    fn instant(&self) -> Option<tm> {
        let now = calendar(SystemClock::unix_millis()?)?;
        Some(tm {
            tm_sec: now.second.into(),
            tm_min: now.minute.into(),
            tm_hour: now.hour.into(),
            tm_mday: now.day.into(),
            tm_mon: i32::from(now.month) - 1,
            tm_year: now.year - 1900,
            tm_wday: now.weekday.into(),
            tm_yday: now.yearday.into(),
            tm_isdst: 0,
        })
    }
}
