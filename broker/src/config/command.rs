//! `nightjar config`: an example to begin with, what a file means, and a mosquitto.conf as TOML.

use super::{ConfigError, Format, bytes_of, mosquitto_conf, read, resolve, toml};
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Show an example, show what is in force, or write a mosquitto.conf as nightjar.toml.
#[derive(Args, Clone, Debug, Eq, PartialEq)]
pub struct ConfigArguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Clone, Debug, Eq, PartialEq, Subcommand)]
enum What {
    /// Print a nightjar.toml with every key, its default and what it means
    Example,
    /// Print every key that is in force, with the line of FILE that says so
    Show {
        /// The configuration file, in either language
        #[arg(short = 'c', long, value_name = "FILE")]
        config_file: PathBuf,
    },
    /// Say what becomes of each line of a mosquitto.conf, and print the nightjar.toml that means the same
    Migrate {
        /// The mosquitto.conf
        file: PathBuf,
    },
}

/// The text for standard output.
pub fn run(arguments: &ConfigArguments) -> Result<String, ConfigError> {
    match &arguments.what {
        What::Example => Ok(EXAMPLE.into()),
        What::Show { config_file } => {
            let loaded = read(config_file)?;
            let mut text = String::new();
            for note in loaded.notes.iter().chain(&loaded.not_yet) {
                text.push_str(&format!("# {note}\n"));
            }
            Ok(text + &toml::write::all(&loaded.settings, &loaded.sources))
        }
        What::Migrate { file } => {
            let bytes = bytes_of(file)?;
            if Format::of(file, &bytes) == Format::Toml {
                return Err(ConfigError::Unreadable {
                    file: file.clone(),
                    reason: "It is not a mosquitto.conf. A nightjar.toml needs no migration."
                        .into(),
                });
            }
            let world = mosquitto_conf::World {
                variable: &|name| std::env::var(name).ok(),
                resolve: &resolve,
            };
            mosquitto_conf::migrate::migrate(file, &bytes, &world)
        }
    }
}

const EXAMPLE: &str = include_str!("../../../nightjar.toml.example");
