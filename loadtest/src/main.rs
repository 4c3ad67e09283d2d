//! The command: arguments in, a report on standard output, errors on standard error with exit code 1, and exit code 3 if a
//! broker has lost what it had acknowledged.

use std::error::Error;
use std::fmt::Display;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use nightjar_loadtest::arguments::{Arguments, Command, OutputArguments};
use nightjar_loadtest::compare::{self, CompareArguments};
use nightjar_loadtest::progress::Progress;
use nightjar_loadtest::{html, outcome, relay};
use serde::Serialize;

fn main() -> ExitCode {
    match run(&Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("nightjar-loadtest: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> Result<ExitCode, Box<dyn Error>> {
    match command {
        Command::Relay(arguments) => {
            let seconds = Duration::from_secs_f64(arguments.seconds);
            relay::run(arguments.port, seconds)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Compare(arguments) => {
            compare(arguments)?;
            Ok(ExitCode::SUCCESS)
        }
        scenario => play(scenario),
    }
}

fn play(command: &Command) -> Result<ExitCode, Box<dyn Error>> {
    let progress = Progress::on_terminal();
    let played = outcome::play(command, &progress);
    progress.finish();
    let Some((played, output)) = played.zip(outcome::output(command)) else {
        return Ok(ExitCode::SUCCESS);
    };
    let outcome = played?;
    write(&outcome, || html::page(&outcome), output)?;
    // Elsewhere a loss may be the result that is looked for: what is full, or too slow.
    if matches!(command, Command::Durable(_)) && outcome.losses() > 0 {
        eprintln!(
            "nightjar-loadtest: {} messages that were acknowledged are lost",
            outcome.losses()
        );
        return Ok(ExitCode::from(compare::LOST));
    }
    Ok(ExitCode::SUCCESS)
}

fn compare(arguments: &CompareArguments) -> Result<(), Box<dyn Error>> {
    let progress = Progress::on_terminal();
    let compared = compare::run(arguments, &std::env::current_exe()?, &progress);
    progress.finish();
    let comparison = compared?;
    write(&comparison, || comparison.page(), &arguments.output)?;
    if comparison.has_results() {
        Ok(())
    } else {
        Err("no run came to a result".into())
    }
}

fn write(
    result: &(impl Serialize + Display),
    page: impl FnOnce() -> String,
    output: &OutputArguments,
) -> Result<(), Box<dyn Error>> {
    if let Some(path) = &output.html {
        std::fs::write(path, page())
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    if output.json {
        println!("{}", serde_json::to_string(result)?);
    } else {
        print!("{result}");
    }
    Ok(())
}
