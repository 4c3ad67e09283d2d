//! The command line, and the `Scenario` it stands for.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use nightjar_codec::{ProtocolVersion, QoS};

use crate::compare::CompareArguments;
use crate::connection::Target;
use crate::packet::Credentials;
use crate::scenario::{Pace, Receivers, Scenario};
use crate::stamp::STAMP_LENGTH;
use crate::subscriber::Links;
use crate::tls::{Tls, TlsError, TlsPlan};
use crate::transport::Layers;
use crate::work::connect::ConnectArguments;
use crate::work::durable::DurableArguments;
use crate::work::offline::OfflineArguments;
use crate::work::retained::RetainedArguments;
use crate::work::slow::SlowArguments;
use crate::work::storm::StormArguments;
use crate::work::wildcards::WildcardsArguments;

/// Sizes an MQTT broker: throughput, latency, losses and CPU per message.
#[derive(Debug, Parser)]
#[command(name = "nightjar-loadtest", version, after_help = EXAMPLES)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Publishers and subscribers, each pair on a topic of its own
    Pubsub(PubsubArguments),
    /// One publisher, many subscribers of its topic
    FanOut(FanOutArguments),
    /// Many publishers, one subscriber
    FanIn(FanInArguments),
    /// Publishes at a steady rate for long, and watches memory and latency
    Soak(SoakArguments),
    /// Opens connections as fast as they are taken, then stays idle: rate, and memory of each
    Connect(ConnectArguments),
    /// Breaks all connections at once and reconnects them
    Storm(StormArguments),
    /// Subscribes to a great many filters with wildcards, then publishes
    Wildcards(WildcardsArguments),
    /// Stores a great many retained messages, then asks for all of them
    Retained(RetainedArguments),
    /// Queues messages for clients that are away, then drains them
    Offline(OfflineArguments),
    /// Queues messages, kills a broker on this machine meanwhile, starts it again, and counts what was lost
    Durable(DurableArguments),
    /// Lets some subscribers stop reading
    Slow(SlowArguments),
    /// The same work on several brokers, in turns; starts them itself
    Compare(CompareArguments),
    /// A stand-in for a broker that only copies bytes: shows what the generator itself can do
    #[command(hide = true)]
    Relay(RelayArguments),
}

#[derive(Debug, Args)]
pub struct PubsubArguments {
    /// Publishing connections
    #[arg(short = 'P', long, default_value_t = 10, value_parser = connections())]
    pub publishers: u32,
    /// Subscribing connections; topics are shared out evenly where this differs from the publishers
    #[arg(short = 'S', long, value_parser = connections())]
    pub subscribers: Option<u32>,
    /// Messages per second of all publishers together, sent on time whatever arrives; reports latency
    #[arg(short, long, conflicts_with = "window", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub rate: Option<u64>,
    /// Messages a publisher may be ahead of its slowest subscriber
    #[arg(short, long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub window: u64,
    #[command(flatten)]
    pub common: CommonArguments,
}

#[derive(Debug, Args)]
pub struct FanOutArguments {
    /// Subscribing connections
    #[arg(short = 'S', long, default_value_t = 1_000, value_parser = connections())]
    pub subscribers: u32,
    /// Messages per second published, sent on time whatever arrives; reports latency
    #[arg(short, long, conflicts_with = "window", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub rate: Option<u64>,
    /// Messages the publisher may be ahead of its slowest subscriber
    #[arg(short, long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub window: u64,
    #[command(flatten)]
    pub common: CommonArguments,
}

#[derive(Debug, Args)]
pub struct FanInArguments {
    /// Publishing connections
    #[arg(short = 'P', long, default_value_t = 100, value_parser = connections())]
    pub publishers: u32,
    /// Subscribing connections, which share the publishers' topics out
    #[arg(short = 'S', long, default_value_t = 1, value_parser = connections())]
    pub subscribers: u32,
    /// Messages per second of all publishers together, sent on time whatever arrives; reports latency
    #[arg(short, long, conflicts_with = "window", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub rate: Option<u64>,
    /// Messages a publisher may be ahead of its slowest subscriber; all of them together wait for few connections, of
    /// which a broker may drop what is behind at QoS 0
    #[arg(short, long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub window: u64,
    #[command(flatten)]
    pub common: CommonArguments,
}

#[derive(Debug, Args)]
pub struct SoakArguments {
    /// Publishing connections
    #[arg(short = 'P', long, default_value_t = 10, value_parser = connections())]
    pub publishers: u32,
    /// Subscribing connections; topics are shared out evenly where this differs from the publishers
    #[arg(short = 'S', long, value_parser = connections())]
    pub subscribers: Option<u32>,
    /// Messages per second of all publishers together, sent on time whatever arrives
    #[arg(short, long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub rate: u64,
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub qos: u8,
    /// Payload bytes of a message, of which the first 20 identify it
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(STAMP_LENGTH as i64..=100_000_000))]
    pub payload: u32,
    /// Seconds in all
    #[arg(short, long, default_value_t = 600.0, value_parser = long_seconds)]
    pub duration: f64,
    /// Seconds of one round, which has a memory and a latency of its own
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    pub interval: f64,
    #[command(flatten)]
    pub target: TargetArguments,
}

/// What the publish and subscribe scenarios have in common.
#[derive(Debug, Args)]
pub struct CommonArguments {
    #[arg(short, long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub qos: u8,
    /// Payload bytes of a message, of which the first 20 identify it
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(STAMP_LENGTH as i64..=100_000_000))]
    pub payload: u32,
    /// Sessions of the subscribers; where they are kept, the publishers' acknowledgements are measured
    #[arg(long, value_enum, default_value_t = ReceiversArgument::Clean)]
    pub receivers: ReceiversArgument,
    /// Seconds before measuring
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    pub warmup: f64,
    /// Seconds of one measured round
    #[arg(short, long, default_value_t = 2.0, value_parser = seconds)]
    pub duration: f64,
    /// Measured rounds
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub rounds: u32,
    #[command(flatten)]
    pub target: TargetArguments,
}

/// Where the broker is, and what every scenario has in common.
#[derive(Clone, Debug, Args)]
pub struct TargetArguments {
    /// Host name or address of the broker
    #[arg(short = 'H', long, default_value = "127.0.0.1", help_heading = TARGET)]
    pub host: String,
    /// Port of the broker (default: 1883, with TLS 8883)
    #[arg(short, long, help_heading = TARGET)]
    pub port: Option<u16>,
    /// MQTT version
    #[arg(short = 'V', long, value_enum, default_value_t = ProtocolArgument::V3_1_1, help_heading = TARGET)]
    pub protocol: ProtocolArgument,
    #[arg(short, long, help_heading = TARGET)]
    pub username: Option<String>,
    #[arg(long, requires = "username", help_heading = TARGET)]
    pub password: Option<String>,
    /// TLS; the broker's certificate is verified against --ca
    #[arg(long, help_heading = TARGET)]
    pub tls: bool,
    /// PEM file of the certificates to trust; turns TLS on
    #[arg(long, value_name = "FILE", help_heading = TARGET)]
    pub ca: Option<PathBuf>,
    /// TLS without verifying the broker's certificate
    #[arg(long, conflicts_with = "ca", help_heading = TARGET)]
    pub insecure: bool,
    /// PEM file of the certificate to authenticate with (mTLS)
    #[arg(long, value_name = "FILE", requires = "key", help_heading = TARGET)]
    pub cert: Option<PathBuf>,
    /// PEM file of its private key
    #[arg(long, value_name = "FILE", requires = "cert", help_heading = TARGET)]
    pub key: Option<PathBuf>,
    /// WebSocket, with TLS if that is on
    #[arg(long, requires = "port", help_heading = TARGET)]
    pub ws: bool,
    /// Path of the WebSocket
    #[arg(long, default_value = "/mqtt", help_heading = TARGET)]
    pub ws_path: String,
    /// QoS 1 and 2: messages of a publisher without an acknowledgement, and Receive Maximum of the subscribers
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u16).range(1..=32_767), help_heading = TARGET)]
    pub in_flight: u16,
    #[arg(long, default_value = "loadtest", help_heading = TARGET)]
    pub topic_prefix: String,
    /// Seconds after which a phase ends, done or not
    #[arg(long, default_value_t = 120.0, value_parser = seconds, help_heading = TARGET)]
    pub timeout: f64,
    /// Scenarios of several phases: seconds without any progress after which what is under way counts as lost
    #[arg(long, default_value_t = 20.0, value_parser = seconds, help_heading = TARGET)]
    pub stall: f64,
    /// Process id of a broker on this machine, to report its CPU time and memory
    #[arg(long, help_heading = TARGET)]
    pub broker_pid: Option<u32>,
    #[command(flatten)]
    pub output: OutputArguments,
}

/// How to say what came out.
#[derive(Clone, Debug, Args)]
pub struct OutputArguments {
    /// Print one JSON object instead of a table
    #[arg(long, help_heading = OUTPUT)]
    pub json: bool,
    /// Also write a page with plots, one file that needs no other
    #[arg(long, value_name = "FILE", help_heading = OUTPUT)]
    pub html: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct RelayArguments {
    #[arg(short, long, default_value_t = 1883)]
    pub port: u16,
    /// Seconds after which it ends
    #[arg(long, default_value_t = 600.0, value_parser = seconds)]
    pub seconds: f64,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum ProtocolArgument {
    #[value(name = "3.1", aliases = ["31", "3", "mqttv31"])]
    V3_1,
    #[value(name = "3.1.1", aliases = ["311", "4", "mqttv311"])]
    V3_1_1,
    #[value(name = "5", aliases = ["5.0", "mqttv5"])]
    V5,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum ReceiversArgument {
    /// Sessions that end with their connections
    Clean,
    /// Sessions that are kept, of clients that stay connected
    Online,
    /// Sessions that are kept, of clients that are away, and come back after the last round to fetch everything
    Offline,
}

impl PubsubArguments {
    /// The scenario these arguments stand for.
    pub fn scenario(&self) -> Result<Scenario, ArgumentError> {
        let links = Links {
            publishers: count(self.publishers),
            subscribers: count(self.subscribers.unwrap_or(self.publishers)),
        };
        let pace = self.rate.map_or(Pace::Window(self.window), Pace::Rate);
        self.common.scenario("pubsub", links, pace)
    }
}

impl FanOutArguments {
    /// The scenario these arguments stand for.
    pub fn scenario(&self) -> Result<Scenario, ArgumentError> {
        let links = Links {
            publishers: 1,
            subscribers: count(self.subscribers),
        };
        let pace = self.rate.map_or(Pace::Window(self.window), Pace::Rate);
        self.common.scenario("fan-out", links, pace)
    }
}

impl FanInArguments {
    /// The scenario these arguments stand for.
    pub fn scenario(&self) -> Result<Scenario, ArgumentError> {
        let links = Links {
            publishers: count(self.publishers),
            subscribers: count(self.subscribers),
        };
        let pace = self.rate.map_or(Pace::Window(self.window), Pace::Rate);
        self.common.scenario("fan-in", links, pace)
    }
}

impl SoakArguments {
    /// The scenario these arguments stand for.
    pub fn scenario(&self) -> Result<Scenario, ArgumentError> {
        let round = self.interval.max(0.1).min(self.duration.max(0.1));
        let rounds = (self.duration / round).round().clamp(1.0, ROUNDS_MAX);
        Ok(Scenario {
            name: "soak",
            target: self.target.target()?,
            qos: QoS::from_u8(self.qos).expect("the parser allows 0 to 2"),
            payload_length: count(self.payload),
            links: Links {
                publishers: count(self.publishers),
                subscribers: count(self.subscribers.unwrap_or(self.publishers)),
            },
            receivers: Receivers::Clean,
            pace: Pace::Rate(self.rate),
            in_flight_max: self.target.in_flight,
            topic_prefix: self.target.prefix()?,
            warmup: Duration::from_secs_f64(1.0_f64.min(self.duration)),
            round: Duration::from_secs_f64(round),
            // Bounded above, so nothing is cut off.
            rounds: rounds as u32,
            broker_pid: self.target.broker_pid,
        })
    }
}

impl CommonArguments {
    fn scenario(
        &self,
        name: &'static str,
        links: Links,
        pace: Pace,
    ) -> Result<Scenario, ArgumentError> {
        Ok(Scenario {
            name,
            target: self.target.target()?,
            qos: QoS::from_u8(self.qos).expect("the parser allows 0 to 2"),
            payload_length: count(self.payload),
            links,
            receivers: match self.receivers {
                ReceiversArgument::Clean => Receivers::Clean,
                ReceiversArgument::Online => Receivers::Online,
                ReceiversArgument::Offline => Receivers::Offline,
            },
            pace,
            in_flight_max: self.target.in_flight,
            topic_prefix: self.target.prefix()?,
            warmup: Duration::from_secs_f64(self.warmup),
            round: Duration::from_secs_f64(self.duration),
            rounds: self.rounds,
            broker_pid: self.target.broker_pid,
        })
    }
}

impl TargetArguments {
    /// Where connections go.
    pub fn target(&self) -> Result<Target, ArgumentError> {
        let protocol = match self.protocol {
            ProtocolArgument::V3_1 => ProtocolVersion::V3_1,
            ProtocolArgument::V3_1_1 => ProtocolVersion::V3_1_1,
            ProtocolArgument::V5 => ProtocolVersion::V5,
        };
        let credentials = self.username.as_ref().map(|username| Credentials {
            username: username.clone(),
            password: self.password.clone(),
        });
        Ok(Target {
            credentials,
            layers: self.layers()?,
            ..Target::tcp(self.address()?, protocol)
        })
    }

    fn layers(&self) -> Result<Layers, ArgumentError> {
        if self.ws && !self.ws_path.starts_with('/') || self.ws_path.contains(char::is_whitespace) {
            return Err(ArgumentError::WebPath(self.ws_path.clone()));
        }
        let web_path = self.ws.then(|| self.ws_path.clone());
        if !self.is_secure() {
            return Ok(Layers {
                tls: None,
                web_path,
            });
        }
        if self.ca.is_none() && !self.insecure {
            return Err(ArgumentError::NobodyTrusted);
        }
        let identity = self.cert.as_deref().zip(self.key.as_deref());
        let tls = Tls::new(TlsPlan {
            host: &self.host,
            ca: self.ca.as_deref(),
            identity,
        })?;
        Ok(Layers {
            tls: Some(tls),
            web_path,
        })
    }

    fn is_secure(&self) -> bool {
        self.tls || self.insecure || self.ca.is_some() || self.cert.is_some()
    }

    fn address(&self) -> Result<SocketAddr, ArgumentError> {
        let unknown = || ArgumentError::UnknownHost(self.host.clone());
        let mut addresses = (self.host.as_str(), self.port())
            .to_socket_addrs()
            .map_err(|_| unknown())?;
        addresses.next().ok_or_else(unknown)
    }

    fn port(&self) -> u16 {
        let usual = if self.is_secure() { 8_883 } else { 1_883 };
        self.port.unwrap_or(usual)
    }

    /// What every topic begins with.
    pub fn prefix(&self) -> Result<String, ArgumentError> {
        let prefix = &self.topic_prefix;
        if prefix.is_empty() || prefix.len() > 1_000 || prefix.contains(['+', '#', '\0']) {
            return Err(ArgumentError::TopicPrefix(prefix.clone()));
        }
        Ok(prefix.clone())
    }
}

/// An argument that the parser could not judge.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum ArgumentError {
    UnknownHost(String),
    TopicPrefix(String),
    WebPath(String),
    /// TLS without anything to verify the broker by.
    NobodyTrusted,
    /// A broker on another machine cannot be killed.
    NotLocal,
    /// Who kills a broker must know how to start it again.
    NoRestart,
    /// The directory for a broker's data has something in it.
    DataInUse(PathBuf),
    TooMuch,
    Tls(TlsError),
}

impl From<TlsError> for ArgumentError {
    fn from(error: TlsError) -> Self {
        Self::Tls(error)
    }
}

impl fmt::Display for ArgumentError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownHost(host) => write!(out, "unknown host {host:?}"),
            Self::WebPath(path) => write!(out, "{path:?} is no path of a WebSocket"),
            Self::NobodyTrusted => write!(
                out,
                "TLS needs --ca FILE to verify the broker by, or --insecure to trust anybody"
            ),
            Self::NotLocal => out.write_str("only a broker on 127.0.0.1 can be killed and started"),
            Self::NoRestart => out.write_str(
                "--broker-pid is killed here: say with --restart how the broker is started again",
            ),
            Self::DataInUse(path) => write!(
                out,
                "{} is not empty: give a directory that is new or empty",
                path.display()
            ),
            Self::TooMuch => {
                out.write_str("messages x kills x sessions is more than can be counted")
            }
            Self::Tls(error) => error.fmt(out),
            Self::TopicPrefix(prefix) => write!(
                out,
                "topic prefix {prefix:?} is empty, longer than 1000 bytes or has a wildcard"
            ),
        }
    }
}

impl std::error::Error for ArgumentError {}

/// The range of a number of connections.
pub fn connections() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=100_000)
}

/// The range of a number of filters or messages.
pub fn filters() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=10_000_000)
}

/// Up to ten days, for what is left alone.
fn long_seconds(value: &str) -> Result<f64, String> {
    bounded_seconds(value, 864_000.0)
}

/// Up to a day.
pub fn seconds(value: &str) -> Result<f64, String> {
    bounded_seconds(value, 86_400.0)
}

fn bounded_seconds(value: &str, max: f64) -> Result<f64, String> {
    let seconds: f64 = value.parse().map_err(|_| "not a number".to_owned())?;
    if (0.0..=max).contains(&seconds) {
        Ok(seconds)
    } else {
        Err(format!("not between 0 and {max}"))
    }
}

fn count(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

const EXAMPLES: &str = "\
Examples:
  nightjar-loadtest pubsub -P 10 -q 1
  nightjar-loadtest pubsub -P 10 -q 1 --rate 10000
  nightjar-loadtest pubsub -P 100 -q 1 --in-flight 20 --receivers offline
  nightjar-loadtest fan-out -S 1000 --broker-pid $(pidof nightjar)
  nightjar-loadtest connect -n 10000 --broker-pid $(pidof nightjar)
  nightjar-loadtest soak --duration 86400 --html soak.html";
const TARGET: &str = "Target";
const OUTPUT: &str = "Output";
const ROUNDS_MAX: f64 = 100_000.0;

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn pubsub_defaults_to_loopback_and_as_many_subscribers_as_publishers() {
        let arguments = ["nightjar-loadtest", "pubsub", "-P", "7"];
        let Command::Pubsub(pubsub) = Arguments::try_parse_from(arguments).unwrap().command else {
            panic!("not pubsub");
        };
        let scenario = pubsub.scenario().unwrap();
        assert!(scenario.target.address.ip().is_loopback());
        assert_eq!(
            (scenario.links.publishers, scenario.links.subscribers),
            (7, 7)
        );
    }

    #[test]
    fn a_payload_too_short_for_its_stamp_is_refused() {
        let arguments = ["nightjar-loadtest", "pubsub", "--payload", "19"];
        assert!(Arguments::try_parse_from(arguments).is_err());
    }
}
