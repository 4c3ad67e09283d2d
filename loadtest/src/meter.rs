//! Measures phases: how much was done in which time, at what cost to the generator and to a broker on this machine.
//!
//! Comes in: the begin and the end of each phase, and counts in between. Goes out: a `Phase` each, and samples of the
//! whole run for plots, at most `SAMPLES_MAX`: when they are too many, every second one goes and the interval doubles.

use std::io;
use std::time::Duration;

use serde::Serialize;

use crate::clock::{Clock, own_cpu_time};
use crate::process;
use crate::report::{SATURATED_ABOVE, Snapshot, Usage, float};

/// One measured part of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Phase {
    pub name: &'static str,
    /// What is counted.
    pub unit: &'static str,
    pub count: u64,
    pub seconds: f64,
    pub per_second: f64,
    pub generator_cpu_us_each: f64,
    /// Of its one thread's core, 0 to 1.
    pub generator_core_share: f64,
    /// Of the time, the generator was ready to run while others had the core.
    pub generator_waited_share: f64,
    /// The generator's share is above 0.9: the phase says more of the generator than of the broker.
    pub saturated: bool,
    pub broker_cpu_us_each: Option<f64>,
    /// In cores: above 1 with more than one busy thread.
    pub broker_core_share: Option<f64>,
    /// Of the time and summed over its threads, ready to run while others had the core.
    pub broker_waited_share: Option<f64>,
    pub broker_resident_kib_before: Option<u64>,
    pub broker_resident_kib: Option<u64>,
}

/// The state of a run at one moment.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Sample {
    /// Since the start of the run.
    pub seconds: f64,
    pub per_second: f64,
    pub broker_resident_kib: Option<u64>,
}

/// Takes the times.
#[derive(Debug)]
pub struct Meter {
    clock: Clock,
    broker_pid: Option<u32>,
    phases: Vec<Phase>,
    begun: Option<(Snapshot, Option<u64>)>,
    sampler: Sampler,
}

impl Meter {
    /// Nothing measured yet.
    #[must_use]
    pub fn new(clock: Clock, broker_pid: Option<u32>) -> Self {
        Self {
            clock,
            broker_pid,
            phases: Vec::new(),
            begun: None,
            sampler: Sampler::new(broker_pid),
        }
    }

    /// The broker is another process from here on.
    pub fn watch(&mut self, broker_pid: Option<u32>) {
        self.broker_pid = broker_pid;
        self.sampler.broker_pid = broker_pid;
    }

    /// A phase begins.
    pub fn begin(&mut self) -> io::Result<()> {
        let resident = resident(self.broker_pid)?;
        let snapshot = snapshot(&self.clock, self.broker_pid, 0)?;
        self.begun = Some((snapshot, resident));
        self.sampler.restart(self.clock.nanoseconds());
        Ok(())
    }

    /// Takes a sample if it is time for one; whether it did.
    #[inline]
    pub fn tick(&mut self, now: u64, count: u64) -> bool {
        self.sampler.tick(now, count)
    }

    /// A phase is over, `count` of its `unit` done.
    pub fn end(&mut self, name: &'static str, unit: &'static str, count: u64) -> io::Result<Phase> {
        let after = snapshot(&self.clock, self.broker_pid, count)?;
        let (before, resident_before) = self.begun.take().unwrap_or((after, None));
        let seconds = (after.at - before.at).as_secs_f64().max(1e-9);
        // Where nothing is counted, nothing costs anything each.
        let each = if count == 0 { 0.0 } else { 1e6 / float(count) };
        let generator = Usage::between(before.generator, after.generator);
        let broker = before.broker.zip(after.broker);
        let broker = broker.map(|(before, after)| Usage::between(before, after));
        let broker_waited = broker.map(|broker| broker.waited.as_secs_f64());
        let broker = broker.map(|broker| broker.cpu.as_secs_f64());
        let share = generator.cpu.as_secs_f64() / seconds;
        let phase = Phase {
            name,
            unit,
            count,
            seconds,
            per_second: float(count) / seconds,
            generator_cpu_us_each: generator.cpu.as_secs_f64() * each,
            generator_core_share: share,
            generator_waited_share: generator.waited.as_secs_f64() / seconds,
            saturated: share > SATURATED_ABOVE,
            broker_cpu_us_each: broker.map(|cpu| cpu * each),
            broker_core_share: broker.map(|cpu| cpu / seconds),
            broker_waited_share: broker_waited.map(|waited| waited / seconds),
            broker_resident_kib_before: resident_before,
            broker_resident_kib: resident(self.broker_pid)?,
        };
        self.phases.push(phase.clone());
        Ok(phase)
    }

    /// All phases and samples.
    #[must_use]
    pub fn finish(self) -> (Vec<Phase>, Vec<Sample>) {
        (self.phases, self.sampler.samples)
    }
}

/// Samples at regular intervals, few enough for a plot.
#[derive(Debug)]
pub struct Sampler {
    broker_pid: Option<u32>,
    interval: u64,
    due: u64,
    last: (u64, u64),
    pub samples: Vec<Sample>,
}

impl Sampler {
    /// No samples yet.
    #[must_use]
    pub fn new(broker_pid: Option<u32>) -> Self {
        Self {
            broker_pid,
            interval: INTERVAL_NANOSECONDS,
            due: 0,
            last: (0, 0),
            samples: Vec::new(),
        }
    }

    /// Counts begin at 0 again.
    pub fn restart(&mut self, now: u64) {
        self.last = (now, 0);
        self.due = now + self.interval;
    }

    /// Takes a sample if it is time for one; whether it did.
    #[inline]
    pub fn tick(&mut self, now: u64, count: u64) -> bool {
        if now < self.due {
            return false;
        }
        let (before, count_before) = self.last;
        let seconds = float(now - before) / 1e9;
        self.samples.push(Sample {
            seconds: float(now) / 1e9,
            per_second: float(count.saturating_sub(count_before)) / seconds.max(1e-9),
            // A broker that has gone is found out by the end of the phase.
            broker_resident_kib: resident(self.broker_pid).unwrap_or(None),
        });
        if self.samples.len() >= SAMPLES_MAX {
            let mut number = 0;
            self.samples.retain(|_| {
                number += 1;
                number % 2 == 0
            });
            self.interval *= 2;
        }
        self.last = (now, count);
        self.due = now + self.interval;
        true
    }
}

/// All counters at this moment.
pub fn snapshot(clock: &Clock, broker_pid: Option<u32>, count: u64) -> io::Result<Snapshot> {
    let usage = |pid| -> io::Result<Usage> {
        Ok(Usage {
            cpu: process::cpu_time(pid)?,
            waited: process::wait_time(pid)?,
        })
    };
    Ok(Snapshot {
        broker: broker_pid.map(usage).transpose()?,
        at: clock.elapsed(),
        done: count,
        generator: Usage {
            cpu: own_cpu_time(),
            waited: process::wait_time(std::process::id())?,
        },
    })
}

fn resident(broker_pid: Option<u32>) -> io::Result<Option<u64>> {
    let memory = broker_pid.map(process::memory).transpose()?;
    Ok(memory.map(|memory| memory.resident))
}

const INTERVAL_NANOSECONDS: u64 = Duration::from_millis(100).as_nanos() as u64;
const SAMPLES_MAX: usize = 1_024;

impl Phase {
    /// Both as one: what was done again and again is told once.
    pub fn absorb(&mut self, other: &Self) {
        let (own, others) = (self.seconds, other.seconds);
        let seconds = (own + others).max(1e-9);
        let count = self.count + other.count;
        let shared = |one: f64, two: f64| (one * own + two * others) / seconds;
        let each = |share: f64| share * seconds * 1e6 / float(count.max(1));
        let broker = self.broker_core_share.zip(other.broker_core_share);
        let broker = broker.map(|(one, two)| shared(one, two));
        let waited = self.broker_waited_share.zip(other.broker_waited_share);
        let generator = shared(self.generator_core_share, other.generator_core_share);
        *self = Self {
            name: self.name,
            unit: self.unit,
            count,
            seconds,
            per_second: float(count) / seconds,
            generator_cpu_us_each: each(generator),
            generator_core_share: generator,
            generator_waited_share: shared(
                self.generator_waited_share,
                other.generator_waited_share,
            ),
            saturated: generator > SATURATED_ABOVE,
            broker_cpu_us_each: broker.map(each),
            broker_core_share: broker,
            broker_waited_share: waited.map(|(one, two)| shared(one, two)),
            broker_resident_kib_before: self.broker_resident_kib_before,
            broker_resident_kib: self.broker_resident_kib.max(other.broker_resident_kib),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_run_has_no_more_samples_than_a_plot_needs() {
        let mut sampler = Sampler::new(None);
        sampler.restart(0);
        for step in 1..=100_000_u64 {
            sampler.tick(step * INTERVAL_NANOSECONDS, step * 50);
        }
        let samples = sampler.samples;
        assert!((SAMPLES_MAX / 2..=SAMPLES_MAX).contains(&samples.len()));
        assert!(samples.iter().all(|sample| sample.per_second == 500.0));
        assert!(samples.is_sorted_by(|one, next| one.seconds < next.seconds));
    }

    #[test]
    fn a_phase_counts_from_its_own_begin() {
        let mut meter = Meter::new(Clock::start(), Some(std::process::id()));
        meter.begin().unwrap();
        meter.end("first", "things", 10).unwrap();
        meter.begin().unwrap();
        let phase = meter.end("second", "things", 7).unwrap();
        assert_eq!((phase.count, phase.name), (7, "second"));
        assert!(phase.broker_resident_kib_before.unwrap() > 0);
        assert_eq!(meter.finish().0.len(), 2);
    }
}
