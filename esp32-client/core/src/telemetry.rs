//! A reading as it goes over the wire. It is made when it is taken, so it says what was known then: its sequence number, how long the
//! device had been up, and the time of day only if somebody had told it.
//!
//! As JSON `{"device_id":"gauge-7","sequence":12,"metric":"temperature","value":21.5,"uptime_ms":81200,"clock":"known",
//! "ts":"2026-11-21T16:00:00.250Z"}`; `"clock":"unknown"` has no `ts`. `site` and `tenant` are there where they were configured.
//! As text `12 21.5`: sequence and value.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::config::Config;
use crate::store::Sequence;
use crate::time::{Now, calendar};
use serde::{Serialize, Serializer};

/// How a reading is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// An object of JSON.
    Json,
    /// Sequence number and value, with a space between.
    Text,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A number; one that is not finite is written as `null`.
    Number(f64),
    /// A whole number.
    Whole(i64),
    /// On or off.
    Switch(bool),
    /// A word.
    Text(Box<str>),
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Number(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Whole(value)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Switch(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.into())
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(value) => value.fmt(f),
            Self::Whole(value) => value.fmt(f),
            Self::Switch(value) => value.fmt(f),
            Self::Text(value) => value.fmt(f),
        }
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(value) => value.serialize(serializer),
            Self::Whole(value) => value.serialize(serializer),
            Self::Switch(value) => value.serialize(serializer),
            Self::Text(value) => value.serialize(serializer),
        }
    }
}

#[derive(Serialize)]
struct Reading<'a> {
    device_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    site: Option<&'a str>,
    sequence: u64,
    metric: &'a str,
    value: &'a Value,
    uptime_ms: u64,
    clock: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ts: Option<String>,
}

/// The payload of one reading.
#[must_use]
pub fn encode(
    config: &Config,
    sequence: Sequence,
    metric: &str,
    value: &Value,
    now: Now,
) -> Vec<u8> {
    if config.telemetry_format == Format::Text {
        return format!("{sequence} {value}").into_bytes();
    }
    let ts = now.wall.and_then(rfc3339);
    let reading = Reading {
        device_id: &config.device_id,
        tenant: config.tenant.as_deref(),
        site: config.site.as_deref(),
        sequence: sequence.get(),
        metric,
        value,
        uptime_ms: now.monotonic.as_millis(),
        clock: if ts.is_some() { "known" } else { "unknown" },
        ts,
    };
    // Writing plain fields to memory cannot fail.
    serde_json::to_vec(&reading).unwrap_or_default()
}

/// By hand, for `time` formats with `std` only.
fn rfc3339(unix_millis: u64) -> Option<String> {
    let time = calendar(unix_millis)?;
    Some(format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        time.year,
        time.month,
        time.day,
        time.hour,
        time.minute,
        time.second,
        unix_millis % 1000
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::time::Instant;

    fn config(format: Format) -> Config {
        let mut config = Config::of("gauge-7", "localhost", 8883).unwrap();
        config.telemetry_format = format;
        config.site = Some("paris".into());
        config
    }

    fn json(value: &Value, now: Now) -> serde_json::Value {
        let payload = encode(
            &config(Format::Json),
            Sequence::new(12),
            "temperature",
            value,
            now,
        );
        serde_json::from_slice(&payload).unwrap()
    }

    const NOW: Now = Now {
        monotonic: Instant::from_millis(81_200),
        wall: Some(1_795_276_800_250),
    };

    #[test]
    fn a_reading_says_who_what_and_when() {
        let reading = json(&Value::Number(21.5), NOW);
        assert_eq!(
            reading,
            serde_json::json!({
                "device_id": "gauge-7", "site": "paris", "sequence": 12, "metric": "temperature", "value": 21.5,
                "uptime_ms": 81_200, "clock": "known", "ts": "2026-11-21T16:00:00.250Z",
            })
        );
    }

    #[test]
    fn without_a_clock_there_is_no_time_and_the_reading_says_so() {
        let reading = json(&Value::Whole(1), Now { wall: None, ..NOW });
        assert_eq!(reading["clock"], "unknown");
        assert_eq!(reading.get("ts"), None);
    }

    #[test]
    fn a_value_that_is_not_finite_is_null() {
        assert_eq!(
            json(&Value::Number(f64::NAN), NOW)["value"],
            serde_json::Value::Null
        );
    }

    #[test]
    fn plain_text_is_sequence_and_value() {
        let payload = encode(
            &config(Format::Text),
            Sequence::new(3),
            "door",
            &Value::Switch(true),
            NOW,
        );
        assert_eq!(payload, b"3 true");
    }

    proptest! {
        #[test]
        fn every_word_comes_back_from_json(word in ".*", wall in any::<Option<u64>>()) {
            let now = Now { wall, ..NOW };
            let reading = json(&Value::from(&*word), now);
            prop_assert_eq!(reading["value"].as_str(), Some(&*word));
        }
    }
}
