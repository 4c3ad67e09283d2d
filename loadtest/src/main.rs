//! The command: arguments in, a report on standard output, errors on standard error with exit code 1.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use nightjar_loadtest::arguments::{Arguments, Command};
use nightjar_loadtest::scenario::Scenario;
use nightjar_loadtest::{engine, relay};

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Pubsub(arguments) => scenario(arguments.scenario(), arguments.common.json),
        Command::FanOut(arguments) => scenario(arguments.scenario(), arguments.common.json),
        Command::Relay(arguments) => {
            let seconds = Duration::from_secs_f64(arguments.seconds);
            relay::run(arguments.port, seconds).map_err(Into::into)
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nightjar-loadtest: {error}");
            ExitCode::FAILURE
        }
    }
}

fn scenario<E: std::error::Error + 'static>(
    scenario: Result<Scenario, E>,
    json: bool,
) -> Result<(), Box<dyn std::error::Error>> {
    let report = engine::run(&scenario?)?;
    if json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{report}");
    }
    Ok(())
}
