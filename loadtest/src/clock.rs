//! The only room that reads a clock: time since the start of the process, its CPU time, and a timer for fixed rates.
//!
//! The timer is a timerfd and not the timeout of the poll, which counts in milliseconds: at 10,000 messages per second
//! they are 100 us apart.
#![allow(
    clippy::disallowed_methods,
    reason = "this is the room that tells time"
)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};

/// Monotonic time, counted from the clock's creation.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// Starts counting.
    #[must_use]
    pub fn start() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    /// Time since the start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Nanoseconds since the start: enough for 584 years.
    #[must_use]
    pub fn nanoseconds(&self) -> u64 {
        u64::try_from(self.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// CPU time, user and system, that this process has used.
#[must_use]
pub fn own_cpu_time() -> Duration {
    let spent = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(
        u64::try_from(spent.tv_sec).unwrap_or(0),
        u32::try_from(spent.tv_nsec).unwrap_or(0),
    )
}

/// A file descriptor that becomes readable at regular intervals.
#[derive(Debug)]
pub struct Ticker {
    timer: OwnedFd,
}

impl Ticker {
    /// Ticks every `interval`, which is raised to one microsecond if it is shorter.
    pub fn every(interval: Duration) -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK)?;
        let interval = interval.max(Duration::from_micros(1));
        let interval = Timespec {
            tv_sec: i64::try_from(interval.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(interval.subsec_nanos()),
        };
        timerfd_settime(
            &timer,
            TimerfdTimerFlags::empty(),
            &Itimerspec {
                it_interval: interval,
                it_value: interval,
            },
        )?;
        Ok(Self { timer })
    }

    /// Takes note of a tick: the kernel arms the next one only when this one is read.
    pub fn acknowledge(&self) {
        // Nothing to read yet is the only error there can be, and then the timer is armed.
        let _ = rustix::io::read(&self.timer, &mut [0; 8]);
    }

    /// For registration with the poll.
    #[must_use]
    pub fn raw_fd(&self) -> RawFd {
        self.timer.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use mio::unix::SourceFd;
    use mio::{Events, Interest, Poll, Token};

    use super::*;

    #[test]
    fn ticks_go_on_after_the_first() {
        let mut poll = Poll::new().unwrap();
        let ticker = Ticker::every(Duration::from_millis(1)).unwrap();
        poll.registry()
            .register(
                &mut SourceFd(&ticker.raw_fd()),
                Token(0),
                Interest::READABLE,
            )
            .unwrap();
        let mut events = Events::with_capacity(1);
        for tick in 0..3 {
            let bound = Duration::from_secs(10);
            poll.poll(&mut events, Some(bound)).unwrap();
            assert!(!events.is_empty(), "tick {tick}");
            ticker.acknowledge();
        }
    }
}
