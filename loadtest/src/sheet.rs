//! The result of a scenario of several phases: figures to compare, phases with what they cost, and what went wrong.
//!
//! Comes in: what a scenario has measured. Goes out: a table for a person (`Display`) and one JSON object for a program.
//! `Measure` is what `compare` compares; a `Report` of the publish and subscribe scenarios has them too.

use std::fmt;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::meter::{Phase, Sample};
use crate::process::Memory;
use crate::report::{Latency, float};

/// One figure of a run.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Measure {
    pub name: String,
    pub unit: String,
    pub value: f64,
    pub better: Better,
}

/// Which of two values of a measure is better.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    Higher,
    Lower,
}

impl Measure {
    /// More is better.
    #[must_use]
    pub fn higher(name: &str, unit: &str, value: f64) -> Self {
        Self {
            name: name.to_owned(),
            unit: unit.to_owned(),
            value,
            better: Better::Higher,
        }
    }

    /// Less is better.
    #[must_use]
    pub fn lower(name: &str, unit: &str, value: f64) -> Self {
        Self {
            better: Better::Lower,
            ..Self::higher(name, unit, value)
        }
    }
}

/// What became of messages, subscriptions or connections.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Tally {
    pub sent: u64,
    /// Only where what is not acknowledged may be lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acknowledged: Option<u64>,
    pub received: u64,
    /// Sent, or acknowledged where there are acknowledgements, and never received.
    pub losses: u64,
    pub duplicates: u64,
    pub reorderings: u64,
    /// Messages received that this run had not sent.
    pub strays: u64,
    /// Acknowledged with a Reason Code of failure.
    pub refused: u64,
}

/// Percentiles of one kind of waiting.
#[derive(Clone, Debug, Serialize)]
pub struct Waiting {
    pub name: &'static str,
    #[serde(flatten)]
    pub latency: Latency,
    /// Quantile and microseconds, for a plot.
    pub curve: Vec<(f64, f64)>,
}

impl Waiting {
    /// From a histogram of nanoseconds.
    #[must_use]
    pub fn of(name: &'static str, histogram: &Histogram<u64>) -> Self {
        Self {
            name,
            latency: Latency::of(histogram),
            curve: curve(histogram),
        }
    }
}

/// Everything a scenario has to say.
#[derive(Clone, Debug, Serialize)]
pub struct Sheet {
    pub scenario: &'static str,
    /// The work in one line.
    pub work: String,
    pub address: String,
    pub protocol: String,
    pub measures: Vec<Measure>,
    #[serde(flatten)]
    pub tally: Tally,
    pub phases: Vec<Phase>,
    pub waiting: Vec<Waiting>,
    pub notes: Vec<String>,
    /// In some phase the generator used over 90 % of its core.
    pub saturated: bool,
    pub broker_resident_kib: Option<u64>,
    pub broker_resident_peak_kib: Option<u64>,
    pub samples: Vec<Sample>,
}

impl Sheet {
    /// Memory of the broker at the end.
    pub fn set_memory(&mut self, memory: Option<Memory>) {
        self.broker_resident_kib = memory.map(|memory| memory.resident);
        self.broker_resident_peak_kib = memory.map(|memory| memory.resident_peak);
        let peak = memory.map(|memory| float(memory.resident_peak) / 1024.0);
        self.measures
            .extend(peak.map(|peak| Measure::lower("peak memory", "MiB", peak)));
    }
}

impl fmt::Display for Sheet {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "{}: {}, MQTT {}, {}",
            self.scenario, self.work, self.protocol, self.address
        )?;
        for measure in &self.measures {
            writeln!(
                out,
                "{:<22}{:>14} {}",
                measure.name,
                digits(measure.value),
                measure.unit
            )?;
        }
        for waiting in &self.waiting {
            let latency = &waiting.latency;
            writeln!(
                out,
                "{:<22}{:>14} us p50  (p90 {:.1}, p99 {:.1}, p99.9 {:.1}, max {:.1})",
                waiting.name,
                format!("{:.1}", latency.p50),
                latency.p90,
                latency.p99,
                latency.p999,
                latency.max
            )?;
        }
        let tally = &self.tally;
        let acknowledged = tally.acknowledged;
        let acknowledged =
            acknowledged.map_or(String::new(), |count| format!(", acknowledged {count}"));
        writeln!(
            out,
            "{:<22}{:>14}     sent {}{acknowledged}, received {}, duplicates {}, reorderings {}, strays {}, refused {}",
            "lost",
            tally.losses,
            tally.sent,
            tally.received,
            tally.duplicates,
            tally.reorderings,
            tally.strays,
            tally.refused
        )?;
        self.write_phases(out)?;
        for note in &self.notes {
            writeln!(out, "{note}")?;
        }
        Ok(())
    }
}

impl Sheet {
    fn write_phases(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "\n{:<12}{:>12} {:<14}{:>9}{:>13}  {:>17}  {:>17}  {:>12}",
            "phase",
            "count",
            "",
            "seconds",
            "per second",
            "generator us/core",
            "broker us/core",
            "broker KiB"
        )?;
        for phase in &self.phases {
            let broker = phase.broker_cpu_us_each.zip(phase.broker_core_share);
            let broker = broker.map_or(String::new(), |(each, share)| cost(each, share));
            writeln!(
                out,
                "{:<12}{:>12} {:<14}{:>9.3}{:>13.0}  {:>17}  {:>17}  {:>12}{}",
                phase.name,
                phase.count,
                phase.unit,
                phase.seconds,
                phase.per_second,
                cost(phase.generator_cpu_us_each, phase.generator_core_share),
                broker,
                phase.broker_resident_kib.unwrap_or(0),
                if phase.saturated {
                    "  <-- over 90 %: the generator may be the limit"
                } else {
                    ""
                }
            )?;
        }
        Ok(())
    }
}

/// About four significant digits.
#[must_use]
pub fn digits(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude >= 1000.0 || magnitude == 0.0 {
        format!("{value:.0}")
    } else if magnitude >= 100.0 {
        format!("{value:.1}")
    } else if magnitude >= 1.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.3}")
    }
}

/// Points of a percentile plot: denser towards the end, as far as there are values.
#[must_use]
pub fn curve(histogram: &Histogram<u64>) -> Vec<(f64, f64)> {
    let mut points = Vec::new();
    let mut beyond = 1.0;
    while float(histogram.len()) * beyond >= 1.0 && points.len() < CURVE_POINTS_MAX {
        let quantile = 1.0 - beyond;
        points.push((
            quantile,
            float(histogram.value_at_quantile(quantile)) / 1000.0,
        ));
        beyond *= 0.75;
    }
    points
}

fn cost(each: f64, share: f64) -> String {
    format!("{each:.3} / {:.0} %", share * 100.0)
}

const CURVE_POINTS_MAX: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_ends_where_the_values_do() {
        let mut histogram = Histogram::<u64>::new(3).unwrap();
        for value in 1..=1_000 {
            histogram.record(value * 1_000).unwrap();
        }
        let curve = curve(&histogram);
        let (quantile, microseconds) = curve[curve.len() - 1];
        assert!(quantile <= 0.999 && quantile > 0.998, "{quantile}");
        assert!((998.0..=1001.0).contains(&microseconds), "{microseconds}");
    }

    #[test]
    fn digits_keep_what_a_reader_compares() {
        let shown: Vec<String> = [123_456.7, 123.45, 1.234, 0.1234].map(digits).into();
        assert_eq!(shown, ["123457", "123.5", "1.23", "0.123"]);
    }
}
