//! The time of day, once somebody has told it: what mbedTLS holds the dates of certificates against.
//!
//! Until [`Clock::set`] there is none, and mbedTLS takes every certificate for expired and not yet valid at once.

use core::cell::Cell;

use critical_section::Mutex;
use embassy_time::{Duration, Instant, Timer};
use mbedtls_rs::sys::hook::timer::MbedtlsTimer;
use mbedtls_rs::sys::hook::wall_clock::MbedtlsWallClock;
use mbedtls_rs::sys::{mbedtls_ms_time_t, tm};
use nightjar_esp32_core::{self as device, Now, calendar};

/// The one clock of the chip. Firmware hooks it into mbedTLS before anything else uses that.
pub static CLOCK: Clock = Clock {
    told: Mutex::new(Cell::new(None)),
};

/// Time since power on, which never jumps, and, once somebody has told, when that was.
pub struct Clock {
    told: Mutex<Cell<Option<Told>>>,
}

#[derive(Clone, Copy)]
struct Told {
    /// Milliseconds from 1970 to power on.
    started: u64,
    /// When that was told, since power on.
    at: Instant,
}

impl Clock {
    /// Takes `seconds` since 1970 for now. Refuses what cannot be: a time before this was written, or in another century.
    pub fn set(&self, seconds: u64) -> bool {
        let plausible = (EARLIEST..LATEST).contains(&seconds);
        if plausible {
            let at = Instant::now();
            let started = (seconds * 1000).saturating_sub(at.as_millis());
            let told = Told { started, at };
            critical_section::with(|cs| self.told.borrow(cs).set(Some(told)));
        }
        plausible
    }

    /// How long the chip has been running.
    pub fn since_power_on(&self) -> Duration {
        Instant::now() - Instant::MIN
    }

    /// Milliseconds since 1970, if somebody has told.
    pub fn wall(&self) -> Option<u64> {
        Some(self.told()?.started + self.since_power_on().as_millis())
    }

    /// Whether it has been told, and less than `seconds` ago.
    pub fn is_fresh(&self, seconds: u64) -> bool {
        self.told()
            .is_some_and(|told| told.at.elapsed().as_secs() < seconds)
    }

    fn told(&self) -> Option<Told> {
        critical_section::with(|cs| self.told.borrow(cs).get())
    }
}

impl MbedtlsTimer for Clock {
    fn now(&self) -> mbedtls_ms_time_t {
        mbedtls_ms_time_t::try_from(self.since_power_on().as_millis())
            .unwrap_or(mbedtls_ms_time_t::MAX)
    }
}

impl MbedtlsWallClock for Clock {
    fn instant(&self) -> Option<tm> {
        let now = calendar(self.wall()?)?;
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

impl device::Clock for Clock {
    fn now(&self) -> Now {
        Now {
            monotonic: device::Instant::from_millis(self.since_power_on().as_millis()),
            wall: self.wall(),
        }
    }

    async fn wait_until(&self, deadline: device::Instant) {
        Timer::at(Instant::MIN + Duration::from_millis(deadline.as_millis())).await;
    }
}

/// 2026-01-01.
const EARLIEST: u64 = 1_767_225_600;
/// 2100-01-01.
const LATEST: u64 = 4_102_444_800;
