//! The command line, and the `Scenario` it stands for.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use nightjar_codec::{ProtocolVersion, QoS};

use crate::scenario::{Pace, Scenario};
use crate::stamp::STAMP_LENGTH;
use crate::subscriber::Links;

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
pub struct CommonArguments {
    /// Host name or address of the broker
    #[arg(short = 'H', long, default_value = "127.0.0.1")]
    pub host: String,
    #[arg(short, long, default_value_t = 1883)]
    pub port: u16,
    /// MQTT version
    #[arg(short = 'V', long, value_enum, default_value_t = ProtocolArgument::V3_1_1)]
    pub protocol: ProtocolArgument,
    #[arg(short, long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub qos: u8,
    /// Payload bytes of a message, of which the first 20 identify it
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(STAMP_LENGTH as i64..=100_000_000))]
    pub payload: u32,
    /// QoS 1 and 2: messages of a publisher without an acknowledgement, and Receive Maximum of the subscribers
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u16).range(1..=32_767))]
    pub in_flight: u16,
    #[arg(long, default_value = "loadtest")]
    pub topic_prefix: String,
    /// Seconds before measuring
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    pub warmup: f64,
    /// Seconds of one measured round
    #[arg(short, long, default_value_t = 2.0, value_parser = seconds)]
    pub duration: f64,
    /// Measured rounds
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub rounds: u32,
    /// Process id of a broker on this machine, to report its CPU time and memory
    #[arg(long)]
    pub broker_pid: Option<u32>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
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

impl CommonArguments {
    fn scenario(
        &self,
        name: &'static str,
        links: Links,
        pace: Pace,
    ) -> Result<Scenario, ArgumentError> {
        Ok(Scenario {
            name,
            address: self.address()?,
            protocol: match self.protocol {
                ProtocolArgument::V3_1 => ProtocolVersion::V3_1,
                ProtocolArgument::V3_1_1 => ProtocolVersion::V3_1_1,
                ProtocolArgument::V5 => ProtocolVersion::V5,
            },
            qos: QoS::from_u8(self.qos).expect("the parser allows 0 to 2"),
            payload_length: count(self.payload),
            links,
            pace,
            in_flight_max: self.in_flight,
            topic_prefix: self.topic_prefix()?,
            warmup: Duration::from_secs_f64(self.warmup),
            round: Duration::from_secs_f64(self.duration),
            rounds: self.rounds,
            broker_pid: self.broker_pid,
        })
    }

    fn address(&self) -> Result<SocketAddr, ArgumentError> {
        let unknown = || ArgumentError::UnknownHost(self.host.clone());
        let mut addresses = (self.host.as_str(), self.port)
            .to_socket_addrs()
            .map_err(|_| unknown())?;
        addresses.next().ok_or_else(unknown)
    }

    fn topic_prefix(&self) -> Result<String, ArgumentError> {
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
}

impl fmt::Display for ArgumentError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownHost(host) => write!(out, "unknown host {host:?}"),
            Self::TopicPrefix(prefix) => write!(
                out,
                "topic prefix {prefix:?} is empty, longer than 1000 bytes or has a wildcard"
            ),
        }
    }
}

impl std::error::Error for ArgumentError {}

fn connections() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=100_000)
}

fn seconds(value: &str) -> Result<f64, String> {
    let seconds: f64 = value.parse().map_err(|_| "not a number".to_owned())?;
    if (0.0..=86_400.0).contains(&seconds) {
        Ok(seconds)
    } else {
        Err("not between 0 and 86400".to_owned())
    }
}

fn count(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

const EXAMPLES: &str = "\
Examples:
  nightjar-loadtest pubsub -P 10 -q 1
  nightjar-loadtest pubsub -P 10 -q 1 --rate 10000
  nightjar-loadtest fan-out -S 1000 --broker-pid $(pidof nightjar)";

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
        assert!(scenario.address.ip().is_loopback());
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
