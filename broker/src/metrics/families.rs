//! Families of metrics and how they are written: the one place that knows the crate of that name.

use prometheus::TextEncoder;
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

#[derive(Clone, Copy, Eq, PartialEq)]
pub(super) enum Kind {
    Counter,
    Gauge,
}

impl Kind {
    pub(super) fn metric(self, labels: &[(&str, &str)], value: f64) -> Metric {
        let pair = |(name, text): &(&str, &str)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).into());
            pair.set_value((*text).into());
            pair
        };
        let mut metric = Metric::from_label(labels.iter().map(pair).collect());
        match self {
            Self::Counter => {
                let mut counter = Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            }
            Self::Gauge => {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
        }
        metric
    }
}

/// Families in the making.
#[derive(Default)]
pub(super) struct Families(Vec<MetricFamily>);

impl Families {
    pub(super) fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.own(
            Kind::Counter,
            name,
            help,
            vec![Kind::Counter.metric(&[], value as f64)],
        );
    }

    pub(super) fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.own(
            Kind::Gauge,
            name,
            help,
            vec![Kind::Gauge.metric(&[], value as f64)],
        );
    }

    pub(super) fn seconds(&mut self, kind: Kind, name: &str, help: &str, milliseconds: u64) {
        let seconds = milliseconds as f64 / 1000.0;
        self.own(kind, name, help, vec![kind.metric(&[], seconds)]);
    }

    pub(super) fn labelled<'a>(
        &mut self,
        kind: Kind,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (&'a str, u64)>,
    ) {
        let metrics = values
            .into_iter()
            .map(|(text, value)| kind.metric(&[(label, text)], value as f64))
            .collect();
        self.own(kind, name, help, metrics);
    }

    pub(super) fn own(&mut self, kind: Kind, name: &str, help: &str, metrics: Vec<Metric>) {
        self.push(kind, format!("nightjar_{name}"), help, metrics);
    }

    pub(super) fn push(&mut self, kind: Kind, name: String, help: &str, metrics: Vec<Metric>) {
        let mut family = MetricFamily::default();
        family.set_name(name);
        family.set_help(help.into());
        family.set_field_type(match kind {
            Kind::Counter => MetricType::COUNTER,
            Kind::Gauge => MetricType::GAUGE,
        });
        family.set_metric(metrics);
        self.0.push(family);
    }

    pub(super) fn text(mut self, more: Vec<MetricFamily>) -> String {
        self.0.extend(more);
        let encoded = TextEncoder::new().encode_to_string(&self.0);
        debug_assert!(encoded.is_ok(), "{encoded:?}");
        encoded.unwrap_or_default()
    }
}

/// Labels and the numbers that stand at their places.
pub(super) fn words<'a, L, const N: usize>(
    labels: &'a [(L, &'static str); N],
    values: &'a [u64; N],
) -> impl Iterator<Item = (&'a str, u64)> {
    labels
        .iter()
        .zip(values)
        .map(|((_, word), value)| (*word, *value))
}
