//! `$SYS/broker/...`: what the broker tells of itself over MQTT, with Mosquitto's names and in its formats.
//!
//! In: a report of the metrics room every `sys_interval_seconds`. Out: the topics whose text has changed, for shard 0 to publish
//! through the one door: retained, QoS 2, never stored (D11). A rate ("load") is an average a minute whose past fades away
//! with a period of 1, 5 or 15 minutes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use crate::cli::VERSION;
use crate::metrics::{ExportedTopic, Metrics, Report, exporter_text, resident_bytes};
use crate::session::counters::Counters;
use crate::worker::{Directory, Order};

/// What is published, and what was.
pub struct SysTopics {
    metrics: Arc<Metrics>,
    directory: Arc<Directory>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    loads: Loads,
    clients_maximum: u64,
    heap_maximum: u64,
    /// Topics with what was published last.
    published: BTreeMap<Box<str>, Box<str>>,
}

/// The averages, and what they were last made of.
#[derive(Default)]
struct Loads {
    last: Option<(u64, [u64; LOADS.len()])>,
    averages: [[f64; PERIODS.len()]; LOADS.len()],
}

impl SysTopics {
    pub fn new(metrics: Arc<Metrics>, directory: Arc<Directory>) -> Self {
        Self {
            metrics,
            directory,
            state: Mutex::default(),
        }
    }

    /// Publishes what has changed.
    pub async fn publish_changed(&self) {
        let report = self.metrics.report().await;
        if report.silent_shards > 0 {
            // A shard that does not keep up is not given more to do.
            return;
        }
        let messages = self.changed(&report);
        if !messages.is_empty() {
            // A worker that is gone is one that stops.
            self.directory.send(0, Order::PublishOwn { messages });
        }
    }

    /// Publishes for ever. At an interval of 0 nothing.
    pub async fn publish_every(self: Arc<Self>, seconds: u32) {
        if seconds == 0 {
            return;
        }
        let period = Duration::from_secs(u64::from(seconds));
        let mut interval = tokio::time::interval(period);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first is at once, and has been.
        interval.tick().await;
        loop {
            interval.tick().await;
            self.publish_changed().await;
        }
    }

    /// The same numbers under the names of the common mosquitto exporter.
    pub fn text(&self, report: &Report) -> String {
        let mut state = self.state();
        state.note_maxima(report);
        let values = state.values(report);
        drop(state);
        let exported = values
            .iter()
            .filter(|(topic, _)| !NOT_EXPORTED.contains(&&**topic))
            .map(|(topic, value)| ExportedTopic {
                topic,
                is_counter: EXPORTED_AS_COUNTERS.contains(&&**topic),
                value: number(value),
            });
        exporter_text(exported)
    }

    /// The topics whose value is a whole number, uptime among them.
    pub fn whole_numbers(&self, report: &Report) -> Vec<(Box<str>, i64)> {
        let values = self.state().values(report);
        let of = |(topic, text): (Box<str>, Box<str>)| {
            let number = text.strip_suffix(" seconds").unwrap_or(&text).parse();
            Some((topic, number.ok()?))
        };
        values.into_iter().filter_map(of).collect()
    }

    fn changed(&self, report: &Report) -> Vec<(Box<str>, Box<str>)> {
        let mut state = self.state();
        state.loads.update(report.at, sources(report));
        state.note_maxima(report);
        let values = state.values(report);
        values
            .into_iter()
            .filter(|(topic, value)| {
                let before = state.published.insert(topic.clone(), value.clone());
                before.as_ref() != Some(value)
            })
            .collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Numbers that were half changed are numbers still.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn note_maxima(&mut self, report: &Report) {
        self.clients_maximum = self.clients_maximum.max(report.sessions);
        self.heap_maximum = self.heap_maximum.max(resident_bytes().unwrap_or(0));
    }

    /// Every topic with its text.
    fn values(&self, report: &Report) -> Vec<(Box<str>, Box<str>)> {
        let counters = &report.counters;
        let connected = report.clients_connected();
        let offline = report.sessions.saturating_sub(connected);
        let retained = report.retained_messages + report.retained_own;
        let kept = retained + report.queued_messages;
        let plain_subscriptions = report
            .subscriptions
            .saturating_sub(report.shared_subscriptions);
        let [_, expired, _] = counters.sessions_ended;
        let numbers = [
            ("clients/total", report.sessions),
            ("clients/maximum", self.clients_maximum),
            ("clients/disconnected", offline),
            ("clients/inactive", offline),
            ("clients/connected", connected),
            ("clients/active", connected),
            ("clients/expired", expired),
            ("messages/stored", kept),
            ("messages/received", counters.all_packets_received()),
            ("messages/sent", counters.all_packets_sent()),
            ("store/messages/count", kept),
            (
                "store/messages/bytes",
                report.retained_bytes + report.queued_bytes,
            ),
            ("subscriptions/count", plain_subscriptions),
            ("shared_subscriptions/count", report.shared_subscriptions),
            ("retained messages/count", retained),
            ("bytes/received", report.bytes_received()),
            ("bytes/sent", report.bytes_sent()),
            ("publish/bytes/received", counters.payload_bytes_received),
            ("publish/bytes/sent", counters.payload_bytes_sent),
            ("publish/messages/received", publishes_received(counters)),
            ("publish/messages/sent", publishes_sent(counters)),
            ("publish/messages/dropped", counters.dropped_on_the_way()),
            ("packet/out/count", counters.connections_behind),
            ("packet/out/bytes", report.send_bytes),
            ("connections/socket/count", report.connections),
        ];
        let topic = |name: &str| format!("$SYS/broker/{name}").into_boxed_str();
        let mut values = vec![
            (topic("version"), format!("nightjar version {VERSION}")),
            (
                topic("uptime"),
                format!("{} seconds", report.uptime_milliseconds / 1000),
            ),
        ];
        values.extend(numbers.map(|(name, value)| (topic(name), value.to_string())));
        if let Some(resident) = resident_bytes() {
            values.push((topic("heap/current"), resident.to_string()));
            values.push((topic("heap/maximum"), self.heap_maximum.to_string()));
        }
        for (name, averages) in LOADS.iter().zip(&self.loads.averages) {
            for ((minutes, _), average) in PERIODS.iter().zip(averages) {
                let topic = topic(&format!("load/{name}/{minutes}min"));
                values.push((topic, format!("{average:.2}")));
            }
        }
        values
            .into_iter()
            .map(|(topic, text)| (topic, text.into()))
            .collect()
    }
}

impl Loads {
    /// `sources`: totals at `now`, milliseconds.
    fn update(&mut self, now: u64, sources: [u64; LOADS.len()]) {
        let Some((at, before)) = self.last.replace((now, sources)) else {
            return;
        };
        let seconds = now.saturating_sub(at) as f64 / 1000.0;
        if seconds <= 0.0 {
            return;
        }
        for ((averages, now), before) in self.averages.iter_mut().zip(sources).zip(before) {
            let a_minute = now.saturating_sub(before) as f64 * 60.0 / seconds;
            for (average, (_, period)) in averages.iter_mut().zip(PERIODS) {
                let kept = (-seconds / period).exp();
                *average = a_minute + kept * (*average - a_minute);
            }
        }
    }
}

/// What the loads are rates of, in the order of `LOADS`.
fn sources(report: &Report) -> [u64; LOADS.len()] {
    let counters = &report.counters;
    [
        counters.all_packets_received(),
        counters.all_packets_sent(),
        counters.dropped_on_the_way(),
        publishes_received(counters),
        publishes_sent(counters),
        report.bytes_received(),
        report.bytes_sent(),
        report.connections_opened(),
        counters.packets_received[usize::from(CONNECT)],
    ]
}

fn publishes_received(counters: &Counters) -> u64 {
    counters.packets_received[usize::from(PUBLISH)]
}

fn publishes_sent(counters: &Counters) -> u64 {
    counters.messages_sent.iter().sum()
}

/// The number that a text begins with.
fn number(text: &str) -> f64 {
    let end = text
        .find(|character: char| !character.is_ascii_digit() && character != '.')
        .unwrap_or(text.len());
    let digits = text.get(..end).unwrap_or_default();
    digits.parse().unwrap_or(0.0)
}

const CONNECT: u8 = nightjar_codec::PacketType::Connect as u8;
const PUBLISH: u8 = nightjar_codec::PacketType::Publish as u8;

const LOADS: [&str; 9] = [
    "messages/received",
    "messages/sent",
    "publish/dropped",
    "publish/received",
    "publish/sent",
    "bytes/received",
    "bytes/sent",
    "sockets",
    "connections",
];
/// Minutes, and the same in seconds.
const PERIODS: [(u32, f64); 3] = [(1, 60.0), (5, 300.0), (15, 900.0)];
/// What the exporter leaves out: no number, or there under another name.
const NOT_EXPORTED: [&str; 3] = [
    "$SYS/broker/version",
    "$SYS/broker/clients/active",
    "$SYS/broker/clients/inactive",
];
const EXPORTED_AS_COUNTERS: [&str; 9] = [
    "$SYS/broker/bytes/received",
    "$SYS/broker/bytes/sent",
    "$SYS/broker/messages/received",
    "$SYS/broker/messages/sent",
    "$SYS/broker/publish/bytes/received",
    "$SYS/broker/publish/bytes/sent",
    "$SYS/broker/publish/messages/received",
    "$SYS/broker/publish/messages/sent",
    "$SYS/broker/publish/messages/dropped",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn averages(loads: &Loads) -> [String; 3] {
        loads.averages[0].map(|average| format!("{average:.2}"))
    }

    fn at(value: u64) -> [u64; LOADS.len()] {
        let mut sources = [0; LOADS.len()];
        sources[0] = value;
        sources
    }

    /// What mosquitto 2.0.11 shows at an interval of 2 s after 27 bytes came in the first one, and after another interval
    /// without any.
    #[test]
    fn loads_fade_as_those_of_mosquitto() {
        let mut loads = Loads::default();
        loads.update(10_000, at(0));
        assert_eq!(averages(&loads), ["0.00", "0.00", "0.00"]);
        loads.update(12_000, at(27));
        assert_eq!(averages(&loads), ["26.55", "5.38", "1.80"]);
        loads.update(14_000, at(27));
        assert_eq!(averages(&loads), ["25.68", "5.35", "1.79"]);
    }

    #[test]
    fn a_steady_rate_is_what_every_period_comes_to() {
        let mut loads = Loads::default();
        for second in 0..10_000 {
            loads.update(second * 1000, at(second * 5));
        }
        assert_eq!(averages(&loads), ["300.00", "300.00", "300.00"]);
    }

    #[test]
    fn a_moment_that_has_not_passed_changes_nothing() {
        let mut loads = Loads::default();
        loads.update(10_000, at(0));
        loads.update(10_000, at(50));
        assert_eq!(averages(&loads), ["0.00", "0.00", "0.00"]);
    }

    #[test]
    fn the_number_of_a_text_is_what_it_begins_with() {
        assert_eq!(
            [number("12 seconds"), number("0.50"), number("x")],
            [12.0, 0.5, 0.0]
        );
    }
}
