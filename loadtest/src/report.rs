//! What a run came to, for a person and for a program.
//!
//! Comes in: the rounds' counters and the books. Goes out: `Report`, which prints as a short table (`Display`) and
//! serializes as one JSON object. CPU time per message is per message *received*, or *acknowledged* where that is counted,
//! over all measured rounds.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::engine::Outcome;
use crate::meter::Sample;
use crate::scenario::{Pace, Scenario};
use crate::sheet::{Measure, curve};

/// All counters at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot {
    pub at: Duration,
    /// Messages received, or acknowledged.
    pub done: u64,
    pub generator: Usage,
    pub broker: Option<Usage>,
}

/// What a process has used up to a moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    pub cpu: Duration,
    /// Ready to run while others had the core.
    pub waited: Duration,
}

/// One measured interval.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Round {
    pub seconds: f64,
    pub done: u64,
    pub per_second: f64,
    pub generator_cpu_seconds: f64,
    pub generator_waited_seconds: f64,
    pub broker_cpu_seconds: Option<f64>,
    pub broker_waited_seconds: Option<f64>,
    pub broker_resident_kib: Option<u64>,
    /// Microseconds, of an open loop: of what arrived in this round.
    pub latency_p50: Option<f64>,
    pub latency_p99: Option<f64>,
}

impl Round {
    /// The interval between two moments.
    #[must_use]
    pub fn between(before: &Snapshot, after: &Snapshot) -> Self {
        let seconds = (after.at - before.at).as_secs_f64();
        let done = after.done - before.done;
        let generator = Usage::between(before.generator, after.generator);
        let broker = before.broker.zip(after.broker);
        let broker = broker.map(|(before, after)| Usage::between(before, after));
        Self {
            seconds,
            done,
            per_second: float(done) / seconds,
            generator_cpu_seconds: generator.cpu.as_secs_f64(),
            generator_waited_seconds: generator.waited.as_secs_f64(),
            broker_cpu_seconds: broker.map(|broker| broker.cpu.as_secs_f64()),
            broker_waited_seconds: broker.map(|broker| broker.waited.as_secs_f64()),
            broker_resident_kib: None,
            latency_p50: None,
            latency_p99: None,
        }
    }

    /// Takes over the percentiles, if there are any.
    pub fn take_latency(&mut self, histogram: &Histogram<u64>) {
        if !histogram.is_empty() {
            let latency = Latency::of(histogram);
            self.latency_p50 = Some(latency.p50);
            self.latency_p99 = Some(latency.p99);
        }
    }
}

impl Usage {
    /// What was used between two moments; threads that ended meanwhile may make the sum smaller.
    #[must_use]
    pub fn between(before: Self, after: Self) -> Self {
        Self {
            cpu: after.cpu.saturating_sub(before.cpu),
            waited: after.waited.saturating_sub(before.waited),
        }
    }
}

/// The result of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub scenario: &'static str,
    pub address: String,
    pub protocol: String,
    pub qos: u8,
    pub publishers: usize,
    pub subscribers: usize,
    pub payload_bytes: usize,
    pub window: Option<u64>,
    pub rate: Option<u64>,
    /// At QoS 1 and 2, with the broker's Receive Maximum taken into account.
    pub in_flight_max: u16,
    /// "received" or "acknowledged".
    pub counted: &'static str,
    pub per_second: Spread,
    pub sent: u64,
    pub losses: u64,
    pub duplicates: u64,
    pub reorderings: u64,
    /// Messages received that this run had not sent.
    pub strays: u64,
    /// Messages acknowledged with a Reason Code of failure.
    pub refused: u64,
    /// How often a window was given up for lost.
    pub stalls: u64,
    /// Read after the rounds by receivers that were away.
    pub fetched: Option<Fetched>,
    pub latency: Option<Latency>,
    pub generator: Generator,
    pub broker: Option<Broker>,
    pub measures: Vec<Measure>,
    pub rounds: Vec<Round>,
    pub samples: Vec<Sample>,
    /// Quantile and microseconds, for a plot.
    pub latency_curve: Vec<(f64, f64)>,
}

/// Median, lowest and highest of the rounds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

/// What was queued for receivers that were away, and how fast they got it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Fetched {
    pub messages: u64,
    /// From the first connect to the last message.
    pub seconds: f64,
    pub per_second: f64,
}

/// Microseconds from when a message was due to be sent (in a closed loop: was sent) to when it arrived or was acknowledged.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Latency {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

/// What the generator itself used.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Generator {
    pub cpu_us_per_message: f64,
    /// Of its one thread's core, 0 to 1.
    pub core_share: f64,
    /// Of the time, ready to run while others had the core.
    pub waited_share: f64,
    /// The share is above 0.9: the row says more of the generator than of the broker.
    pub saturated: bool,
}

/// What the broker used.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Broker {
    pub pid: u32,
    pub cpu_us_per_message: f64,
    /// In cores: above 1 with more than one busy thread.
    pub core_share: f64,
    /// Of the time and summed over its threads, ready to run while others had the core.
    pub waited_share: f64,
    pub resident_kib: u64,
    pub resident_peak_kib: u64,
}

impl Report {
    /// Sums up.
    #[must_use]
    pub fn new(
        scenario: &Scenario,
        rounds: Vec<Round>,
        outcome: Outcome,
        latency: &Histogram<u64>,
    ) -> Self {
        let seconds: f64 = rounds.iter().map(|round| round.seconds).sum();
        let done: u64 = rounds.iter().map(|round| round.done).sum();
        let messages = float(done.max(1));
        let generator: f64 = rounds.iter().map(|round| round.generator_cpu_seconds).sum();
        let generator_waited = rounds.iter().map(|round| round.generator_waited_seconds);
        let broker: Option<f64> = rounds.iter().map(|round| round.broker_cpu_seconds).sum();
        let broker_waited = rounds
            .iter()
            .filter_map(|round| round.broker_waited_seconds);
        let broker_waited: f64 = broker_waited.sum();
        let (window, rate) = match scenario.pace {
            Pace::Window(window) => (Some(window), None),
            Pace::Rate(rate) => (None, Some(rate)),
        };
        let mut report = Self {
            scenario: scenario.name,
            address: scenario.target.to_string(),
            protocol: scenario.target.protocol.to_string(),
            qos: scenario.qos.as_u8(),
            publishers: scenario.links.publishers,
            subscribers: scenario.links.subscribers,
            payload_bytes: scenario.payload_length,
            window,
            rate,
            in_flight_max: outcome.in_flight_max,
            counted: if scenario.receivers.count_acknowledged() {
                "acknowledged"
            } else {
                "received"
            },
            per_second: Spread::of(rounds.iter().map(|round| round.per_second)),
            sent: outcome.sent,
            losses: outcome.totals.losses,
            duplicates: outcome.totals.duplicates,
            reorderings: outcome.totals.reorderings,
            strays: outcome.strays,
            refused: outcome.refused,
            stalls: outcome.stalls,
            fetched: outcome.fetched.map(|fetched| Fetched {
                messages: fetched.messages,
                seconds: fetched.time.as_secs_f64(),
                per_second: float(fetched.messages) / fetched.time.as_secs_f64(),
            }),
            latency: (!latency.is_empty()).then(|| Latency::of(latency)),
            generator: Generator {
                cpu_us_per_message: generator * 1e6 / messages,
                core_share: generator / seconds,
                waited_share: generator_waited.sum::<f64>() / seconds,
                saturated: generator / seconds > SATURATED_ABOVE,
            },
            broker: scenario.broker_pid.zip(broker).zip(outcome.memory).map(
                |((pid, cpu), memory)| Broker {
                    pid,
                    cpu_us_per_message: cpu * 1e6 / messages,
                    core_share: cpu / seconds,
                    waited_share: broker_waited / seconds,
                    resident_kib: memory.resident,
                    resident_peak_kib: memory.resident_peak,
                },
            ),
            measures: Vec::new(),
            rounds,
            samples: outcome.samples,
            latency_curve: curve(latency),
        };
        report.measures = report.measures();
        report
    }

    fn measures(&self) -> Vec<Measure> {
        let mut measures = Vec::new();
        let rate = self.per_second.median;
        match &self.latency {
            // What comes in an open loop is what was asked for.
            Some(latency) if self.rate.is_some() => {
                measures.push(Measure::lower("latency p50", "us", latency.p50));
                measures.push(Measure::lower("latency p99", "us", latency.p99));
            }
            _ => measures.push(Measure::higher(self.counted, "msg/s", rate)),
        }
        if let Some(broker) = &self.broker {
            let cpu = broker.cpu_us_per_message;
            let peak = float(broker.resident_peak_kib) / 1024.0;
            measures.push(Measure::lower("broker CPU", "s per M msg", cpu));
            measures.push(Measure::lower("peak memory", "MiB", peak));
        }
        measures.extend(
            self.growth()
                .map(|growth| Measure::lower("growth", "MiB/h", growth)),
        );
        measures
    }

    /// How fast the broker's memory grows, between the middle of the first and of the last quarter of the rounds: MiB an
    /// hour, for runs that are long enough to tell.
    fn growth(&self) -> Option<f64> {
        let quarter = self.rounds.len() / 4;
        let mean = |rounds: &[Round]| -> Option<f64> {
            let all: Option<Vec<u64>> = rounds
                .iter()
                .map(|round| round.broker_resident_kib)
                .collect();
            Some(all?.iter().map(|kib| float(*kib)).sum::<f64>() / rounds.len() as f64)
        };
        let (first, last) = (
            self.rounds.get(..quarter)?,
            self.rounds.get(self.rounds.len() - quarter..)?,
        );
        let between = self
            .rounds
            .get(quarter / 2..self.rounds.len() - quarter / 2)?;
        let seconds: f64 = between.iter().map(|round| round.seconds).sum();
        if quarter == 0 || seconds < GROWTH_SECONDS_MIN {
            return None;
        }
        Some((mean(last)? - mean(first)?) / 1024.0 / (seconds / 3600.0))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pace = match (self.window, self.rate) {
            (_, Some(rate)) => format!("{rate} msg/s"),
            (window, _) => format!("window {}", window.unwrap_or(0)),
        };
        writeln!(
            out,
            "{} {} -> {}, QoS {}, {} bytes, {pace}, MQTT {}, {}",
            self.scenario,
            self.publishers,
            self.subscribers,
            self.qos,
            self.payload_bytes,
            self.protocol,
            self.address
        )?;
        let rate = &self.per_second;
        writeln!(
            out,
            "{:<12}{:>12.0} msg/s  (median of {}; min {:.0}, max {:.0})",
            self.counted,
            rate.median,
            self.rounds.len(),
            rate.min,
            rate.max
        )?;
        writeln!(
            out,
            "lost        {:>12}        duplicates {}, reorderings {}, strays {}, refused {}, stalls {}",
            self.losses, self.duplicates, self.reorderings, self.strays, self.refused, self.stalls
        )?;
        if let Some(fetched) = &self.fetched {
            writeln!(
                out,
                "fetched     {:>12}        in {:.2} s, {:.0} msg/s, by the receivers that were away",
                fetched.messages, fetched.seconds, fetched.per_second
            )?;
        }
        if let Some(latency) = &self.latency {
            writeln!(
                out,
                "latency     {:>12.1} us p50  (p90 {:.1}, p99 {:.1}, p99.9 {:.1}, max {:.1})",
                latency.p50, latency.p90, latency.p99, latency.p999, latency.max
            )?;
        }
        writeln!(
            out,
            "generator   {:>12.3} CPU us per message, {:.0} % of its core{}{}",
            self.generator.cpu_us_per_message,
            self.generator.core_share * 100.0,
            waited(self.generator.waited_share),
            if self.generator.saturated {
                "  <-- over 90 %: the generator, not the broker, may be the limit"
            } else {
                ""
            }
        )?;
        for measure in &self.measures {
            if measure.name == "growth" {
                writeln!(out, "growth      {:>12.1} MiB an hour", measure.value)?;
            }
        }
        if let Some(broker) = &self.broker {
            writeln!(
                out,
                "broker      {:>12.3} CPU us per message, {:.0} % of a core{}, {} KiB resident (peak {})",
                broker.cpu_us_per_message,
                broker.core_share * 100.0,
                waited(broker.waited_share),
                broker.resident_kib,
                broker.resident_peak_kib
            )?;
        }
        Ok(())
    }
}

impl Spread {
    /// Of at least one value.
    #[must_use]
    pub fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(0.0);
        let middle = values.len() / 2;
        Self {
            median: if values.len() % 2 == 1 {
                at(middle)
            } else {
                f64::midpoint(at(middle.saturating_sub(1)), at(middle))
            },
            min: at(0),
            max: at(values.len().saturating_sub(1)),
        }
    }
}

impl Latency {
    /// Of a histogram of nanoseconds.
    #[must_use]
    pub fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| float(histogram.value_at_quantile(quantile)) / 1000.0;
        Self {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: float(histogram.max()) / 1000.0,
        }
    }
}

/// Worth a word only where a neighbour took a noticeable part.
fn waited(share: f64) -> String {
    if share > 0.02 {
        format!(" (and waited {:.0} % for it)", share * 100.0)
    } else {
        String::new()
    }
}

/// Counters stay far below 2^53, where every integer is exact.
#[must_use]
pub fn float(value: u64) -> f64 {
    value as f64
}

/// Of the generator's core: what is measured beyond says more of the generator than of the broker.
pub const SATURATED_ABOVE: f64 = 0.9;
/// Memory settles first.
const GROWTH_SECONDS_MIN: f64 = 60.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_two() {
        let odd = Spread::of([3.0, 1.0, 2.0].into_iter());
        assert_eq!((odd.median, odd.min, odd.max), (2.0, 1.0, 3.0));
        let even = Spread::of([4.0, 1.0, 2.0, 3.0].into_iter());
        assert_eq!(even.median, 2.5);
    }

    fn usage(seconds: u64) -> Usage {
        Usage {
            cpu: Duration::from_secs(seconds),
            waited: Duration::ZERO,
        }
    }

    #[test]
    fn a_round_is_the_difference_of_two_snapshots() {
        let before = Snapshot {
            at: Duration::from_secs(1),
            done: 100,
            generator: usage(1),
            broker: Some(usage(5)),
        };
        let after = Snapshot {
            at: Duration::from_secs(3),
            done: 1_100,
            generator: usage(2),
            broker: Some(usage(6)),
        };
        let round = Round::between(&before, &after);
        assert_eq!((round.done, round.per_second), (1_000, 500.0));
        assert_eq!(round.generator_cpu_seconds, 1.0);
        assert_eq!(round.broker_cpu_seconds, Some(1.0));
    }
}
