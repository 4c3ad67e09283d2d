//! From a command of the command line to what came out of it, whichever kind of scenario it is.

use std::fmt;

use serde::Serialize;

use crate::arguments::{ArgumentError, Command, OutputArguments};
use crate::engine::{self, RunError};
use crate::progress::Progress;
use crate::report::Report;
use crate::scenario::Scenario;
use crate::sheet::{Measure, Sheet};
use crate::work::{WorkError, connect, durable, offline, retained, slow, storm, wildcards};

/// What came out of a scenario.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Outcome {
    /// Of publishers and subscribers at a steady pace.
    Report(Box<Report>),
    /// Of a scenario of several phases.
    Sheet(Box<Sheet>),
}

/// Plays the scenario of a command; `None` if it is none.
pub fn play(command: &Command, progress: &Progress) -> Option<Result<Outcome, PlayError>> {
    let report = |scenario: Result<Scenario, ArgumentError>| -> Result<Outcome, PlayError> {
        let report = engine::run(&scenario?, progress)?;
        Ok(Outcome::Report(Box::new(report)))
    };
    let sheet = |sheet: Result<Sheet, WorkError>| -> Result<Outcome, PlayError> {
        Ok(Outcome::Sheet(Box::new(sheet?)))
    };
    Some(match command {
        Command::Pubsub(it) => report(it.scenario()),
        Command::FanOut(it) => report(it.scenario()),
        Command::FanIn(it) => report(it.scenario()),
        Command::Soak(it) => report(it.scenario()),
        Command::Connect(it) => sheet(connect::run(it, progress)),
        Command::Storm(it) => sheet(storm::run(it, progress)),
        Command::Wildcards(it) => sheet(wildcards::run(it, progress)),
        Command::Retained(it) => sheet(retained::run(it, progress)),
        Command::Offline(it) => sheet(offline::run(it, progress)),
        Command::Slow(it) => sheet(slow::run(it, progress)),
        Command::Durable(it) => sheet(durable::run(it, progress)),
        Command::Compare(_) | Command::Relay(_) => return None,
    })
}

/// How the outcome of a command is to be printed; `None` if it has none.
#[must_use]
pub fn output(command: &Command) -> Option<&OutputArguments> {
    let target = match command {
        Command::Pubsub(it) => &it.common.target,
        Command::FanOut(it) => &it.common.target,
        Command::FanIn(it) => &it.common.target,
        Command::Soak(it) => &it.target,
        Command::Connect(it) => &it.target,
        Command::Storm(it) => &it.target,
        Command::Wildcards(it) => &it.target,
        Command::Retained(it) => &it.target,
        Command::Offline(it) => &it.target,
        Command::Slow(it) => &it.target,
        Command::Durable(it) => &it.target,
        Command::Compare(_) | Command::Relay(_) => return None,
    };
    Some(&target.output)
}

impl Outcome {
    /// The figures to compare.
    #[must_use]
    pub fn measures(&self) -> &[Measure] {
        match self {
            Self::Report(report) => &report.measures,
            Self::Sheet(sheet) => &sheet.measures,
        }
    }

    /// Messages, connections or subscriptions that were lost.
    #[must_use]
    pub fn losses(&self) -> u64 {
        match self {
            Self::Report(report) => report.losses,
            Self::Sheet(sheet) => sheet.tally.losses,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Report(report) => report.fmt(out),
            Self::Sheet(sheet) => sheet.fmt(out),
        }
    }
}

/// Why nothing came out.
#[derive(Debug)]
#[non_exhaustive]
pub enum PlayError {
    Run(RunError),
    Work(WorkError),
}

impl fmt::Display for PlayError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run(error) => error.fmt(out),
            Self::Work(error) => error.fmt(out),
        }
    }
}

impl std::error::Error for PlayError {}

impl From<RunError> for PlayError {
    fn from(error: RunError) -> Self {
        Self::Run(error)
    }
}

impl From<WorkError> for PlayError {
    fn from(error: WorkError) -> Self {
        Self::Work(error)
    }
}

impl From<ArgumentError> for PlayError {
    fn from(error: ArgumentError) -> Self {
        Self::Work(error.into())
    }
}
