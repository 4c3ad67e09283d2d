//! What was configured: the keys of `config.toml`, which `nightjar-certs device --esp` writes, and a default for each that it does not.
//!
//! An unknown key or a value out of range is refused: a device that runs with half of its settings is harder to find than one that
//! says at its start what is wrong.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use core::fmt;
use core::num::NonZeroU16;
use core::time::Duration;

use nightjar_codec::{ClientId, ProtocolVersion, QoS, TopicFilter, TopicName};
use serde::Deserialize;

use crate::flat_toml;
use crate::telemetry::Format;

/// The settings of a device.
#[derive(Clone, Debug)]
pub struct Config {
    /// `device_id`: Client Identifier and part of the topics.
    pub device_id: ClientId,
    /// `site`, which is told with each reading.
    pub site: Option<Box<str>>,
    /// `tenant`, which is told with each reading.
    pub tenant: Option<Box<str>>,
    /// `broker_host`: must be a name in the broker's certificate.
    pub broker_host: Box<str>,
    /// `broker_port`.
    pub broker_port: u16,
    /// `ntp_server`: who tells the time before certificates can be checked.
    pub ntp_server: Box<str>,
    /// `mqtt_version`: "5" (default) or "3.1.1".
    pub mqtt_version: ProtocolVersion,
    /// `keep_alive_seconds`, 5 to 65,535; 60.
    pub keep_alive_seconds: u16,
    /// `session_expiry_seconds`: how long the broker keeps commands for a device that is away, a week; 5.0 only.
    pub session_expiry_seconds: u32,
    /// `status_topic`: retained, `{"state":"online"}` or `{"state":"offline"}`; `devices/ID/status`.
    pub status_topic: TopicName,
    /// `telemetry_topic`: the name of what was measured is put behind it; `devices/ID/telemetry`.
    pub telemetry_topic: TopicName,
    /// `telemetry_qos`: 0, 1 (default) or 2.
    pub telemetry_qos: QoS,
    /// `telemetry_format`: "json" (default) or "text".
    pub telemetry_format: Format,
    /// `command_topic`: a Topic Filter; `consumer/request/ID`.
    pub command_topic: TopicFilter,
    /// `response_topic`, for commands that do not name one; `consumer/response/ID`.
    pub response_topic: TopicName,
    /// `command_qos`: 0, 1 (default) or 2.
    pub command_qos: QoS,
    /// `command_age_seconds_max`: a command is late above this age, by its `currentTimestamp`; 0 (default) for any age.
    pub command_age_max: Option<Duration>,
    /// `command_ids_max`: commands that are remembered, to tell when one comes twice; 64, at most 1,024.
    pub command_ids_max: usize,
    /// `in_flight_max`: readings that are sent and not acknowledged; 8, at most 64.
    pub in_flight_max: NonZeroU16,
    /// `packet_bytes_max`: larger packets of the broker end the connection; 8,192, at least 256.
    pub packet_bytes_max: u32,
    /// `retry_seconds_min`: the longest first wait after a failure; 1.
    pub retry_min: Duration,
    /// `retry_seconds_max`: the longest wait; 60.
    pub retry_max: Duration,
}

/// What is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl core::error::Error for ConfigError {}

impl Config {
    /// Reads the text of a `config.toml`.
    ///
    /// # Errors
    /// Names the first key that is unknown, missing or out of range.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let values = flat_toml::parse(text).map_err(ConfigError)?;
        let file: File = serde_json::from_value(serde_json::Value::Object(values))
            .map_err(|error| ConfigError(error.to_string()))?;
        file.into_config()
    }

    /// The settings of a device that has only a name and a broker.
    ///
    /// # Errors
    /// The name is no Client Identifier, or cannot be a level of a topic.
    pub fn of(device_id: &str, broker_host: &str, broker_port: u16) -> Result<Self, ConfigError> {
        let file = File {
            device_id: device_id.into(),
            broker_host: broker_host.into(),
            broker_port,
            ..File::default()
        };
        file.into_config()
    }
}

/// The file as it is written. The fingerprints are for people.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    device_id: String,
    site: Option<Box<str>>,
    tenant: Option<Box<str>>,
    broker_host: Box<str>,
    broker_port: u16,
    #[serde(rename = "ca_sha256")]
    _ca_sha256: Option<String>,
    #[serde(rename = "certificate_sha256")]
    _certificate_sha256: Option<String>,
    ntp_server: Option<Box<str>>,
    mqtt_version: Option<String>,
    keep_alive_seconds: Option<u16>,
    session_expiry_seconds: Option<u32>,
    status_topic: Option<String>,
    telemetry_topic: Option<String>,
    telemetry_qos: Option<u8>,
    telemetry_format: Option<String>,
    command_topic: Option<String>,
    response_topic: Option<String>,
    command_qos: Option<u8>,
    command_age_seconds_max: Option<u32>,
    command_ids_max: Option<u16>,
    in_flight_max: Option<u16>,
    packet_bytes_max: Option<u32>,
    retry_seconds_min: Option<u16>,
    retry_seconds_max: Option<u16>,
}

impl File {
    fn into_config(self) -> Result<Config, ConfigError> {
        let id = &self.device_id;
        if id.contains(['/', '+', '#']) {
            return Err(out_of_range("device_id", "a level of a topic"));
        }
        if self.broker_host.is_empty() || self.broker_host.contains('\0') {
            return Err(out_of_range("broker_host", "a name or an address"));
        }
        if self.broker_port == 0 {
            return Err(out_of_range("broker_port", "1 to 65535"));
        }
        let topic = |key: &str, given: &Option<String>, default: String| {
            let topic = given.as_ref().unwrap_or(&default);
            TopicName::parse(topic).map_err(|error| ConfigError(format!("{key}: {error}")))
        };
        let command_topic = self
            .command_topic
            .unwrap_or_else(|| format!("consumer/request/{id}"));
        let retry_min = self.retry_seconds_min.unwrap_or(1);
        let retry_max = self.retry_seconds_max.unwrap_or(60);
        if retry_min == 0 || retry_max < retry_min {
            return Err(out_of_range(
                "retry_seconds_max",
                "not below retry_seconds_min, which is not 0",
            ));
        }
        let age = self.command_age_seconds_max.unwrap_or(0);
        Ok(Config {
            status_topic: topic(
                "status_topic",
                &self.status_topic,
                format!("devices/{id}/status"),
            )?,
            telemetry_topic: topic(
                "telemetry_topic",
                &self.telemetry_topic,
                format!("devices/{id}/telemetry"),
            )?,
            response_topic: topic(
                "response_topic",
                &self.response_topic,
                format!("consumer/response/{id}"),
            )?,
            command_topic: TopicFilter::parse(&command_topic)
                .map_err(|error| ConfigError(format!("command_topic: {error}")))?,
            device_id: ClientId::parse(id)
                .map_err(|error| ConfigError(format!("device_id: {error}")))?,
            site: self.site,
            tenant: self.tenant,
            broker_host: self.broker_host,
            broker_port: self.broker_port,
            ntp_server: self.ntp_server.unwrap_or_else(|| "pool.ntp.org".into()),
            mqtt_version: match self.mqtt_version.as_deref() {
                None | Some("5" | "5.0") => ProtocolVersion::V5,
                Some("3.1.1") => ProtocolVersion::V3_1_1,
                Some(_) => return Err(out_of_range("mqtt_version", "\"5\" or \"3.1.1\"")),
            },
            keep_alive_seconds: within(
                "keep_alive_seconds",
                self.keep_alive_seconds,
                60,
                5,
                u16::MAX,
            )?,
            session_expiry_seconds: self.session_expiry_seconds.unwrap_or(7 * 24 * 60 * 60),
            telemetry_qos: qos("telemetry_qos", self.telemetry_qos)?,
            telemetry_format: match self.telemetry_format.as_deref() {
                None | Some("json") => Format::Json,
                Some("text") => Format::Text,
                Some(_) => return Err(out_of_range("telemetry_format", "\"json\" or \"text\"")),
            },
            command_qos: qos("command_qos", self.command_qos)?,
            command_age_max: (age > 0).then(|| Duration::from_secs(age.into())),
            command_ids_max: within("command_ids_max", self.command_ids_max, 64, 1, 1024)?.into(),
            in_flight_max: NonZeroU16::new(within("in_flight_max", self.in_flight_max, 8, 1, 64)?)
                .unwrap_or(NonZeroU16::MIN),
            packet_bytes_max: within(
                "packet_bytes_max",
                self.packet_bytes_max,
                8192,
                256,
                1 << 20,
            )?,
            retry_min: Duration::from_secs(retry_min.into()),
            retry_max: Duration::from_secs(retry_max.into()),
        })
    }
}

fn within<T: PartialOrd + fmt::Display>(
    key: &str,
    given: Option<T>,
    default: T,
    least: T,
    most: T,
) -> Result<T, ConfigError> {
    let value = given.unwrap_or(default);
    if value < least || value > most {
        return Err(out_of_range(key, &format!("{least} to {most}")));
    }
    Ok(value)
}

fn qos(key: &str, given: Option<u8>) -> Result<QoS, ConfigError> {
    QoS::from_u8(given.unwrap_or(1)).ok_or_else(|| out_of_range(key, "0, 1 or 2"))
}

fn out_of_range(key: &str, expected: &str) -> ConfigError {
    ConfigError(format!("{key}: expected {expected}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str =
        "device_id = \"gauge-7\"\nbroker_host = \"broker.example.com\"\nbroker_port = 8883\n";

    #[test]
    fn what_the_tool_writes_is_enough() {
        let text =
            format!("{LEAST}site = \"paris\"\nca_sha256 = \"aa\"\ncertificate_sha256 = \"bb\"\n");
        let config = Config::parse(&text).unwrap();
        assert_eq!(&*config.device_id, "gauge-7");
        assert_eq!(config.broker_port, 8883);
        assert_eq!(config.mqtt_version, ProtocolVersion::V5);
        assert_eq!(&*config.status_topic, "devices/gauge-7/status");
        assert_eq!(&*config.command_topic, "consumer/request/gauge-7");
        assert_eq!(config.command_age_max, None);
    }

    #[test]
    fn each_mistake_is_refused_by_name() {
        for (line, named) in [
            ("colour = 1", "colour"),
            ("keep_alive_seconds = 4", "keep_alive_seconds"),
            ("telemetry_qos = 3", "telemetry_qos"),
            ("telemetry_format = \"xml\"", "telemetry_format"),
            ("mqtt_version = \"4\"", "mqtt_version"),
            ("status_topic = \"a/#\"", "status_topic"),
            ("command_topic = \"a/#/b\"", "command_topic"),
            ("in_flight_max = 0", "in_flight_max"),
            ("in_flight_max = 65", "in_flight_max"),
            ("command_ids_max = 1025", "command_ids_max"),
            ("packet_bytes_max = 255", "packet_bytes_max"),
            ("retry_seconds_min = 61", "retry_seconds_max"),
        ] {
            let error = Config::parse(&format!("{LEAST}{line}\n")).unwrap_err();
            assert!(error.to_string().contains(named), "{line}: {error}");
        }
        assert!(
            Config::parse("")
                .unwrap_err()
                .to_string()
                .contains("device_id")
        );
        for id in ["a/b", "+", "#", "", "a\0"] {
            assert!(Config::of(id, "host", 1).is_err(), "{id:?}");
        }
        assert!(Config::of("a", "", 1).is_err());
        assert!(Config::of("a", "host", 0).is_err());
    }
}
