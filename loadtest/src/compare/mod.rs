//! `compare`: the same work on several brokers, in turns, so that a disturbance of the machine hits all of them.
//!
//! Comes in: a scenario file (`file`). Goes out: a `Comparison` (`table`). Every run has a broker of its own, started for it
//! and stopped after it (`broker`), and a generator process of its own, so that neither has anything left over from the run
//! before. In each round the brokers take turns in the other direction. A run that lost a message is void.

pub mod broker;
pub mod file;
pub mod table;

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use clap::Args;
use serde::Deserialize;

use self::broker::{Running, Scratch, pinned, wait};
use self::file::{BrokerPlan, FileError, Plan, WorkPlan};
use self::table::{Comparison, Row, Run};
use crate::arguments::OutputArguments;
use crate::progress::Progress;
use crate::sheet::Measure;

#[derive(Debug, Args)]
pub struct CompareArguments {
    /// Scenario file: brokers and work, see docs/loadtest.md
    pub file: PathBuf,
    /// How often every broker does every work, instead of what the file says
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: Option<u32>,
    /// Only the work whose name contains this
    #[arg(long, value_name = "TEXT")]
    pub only: Option<String>,
    /// Only these brokers, by name
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub brokers: Vec<String>,
    /// Bind neither brokers nor the generator to a core, whatever the file says
    #[arg(long)]
    pub unpinned: bool,
    /// Directory of the program `{nightjar}` (default: where this program is, then PATH)
    #[arg(long, value_name = "DIR")]
    pub programs: Option<PathBuf>,
    #[command(flatten)]
    pub output: OutputArguments,
}

/// Does all the work; `generator` is this program.
pub fn run(
    arguments: &CompareArguments,
    generator: &Path,
    progress: &Progress,
) -> Result<Comparison, CompareError> {
    let mut plan = Plan::read(&arguments.file)?;
    plan.rounds = arguments.rounds.unwrap_or(plan.rounds);
    if arguments.unpinned {
        plan.pin = None;
    }
    plan.keep(&arguments.brokers, arguments.only.as_deref())?;
    let programs = arguments.programs.as_deref().or_else(|| generator.parent());
    let scratch = Scratch::new()?;
    plan.put_made(&scratch.emptied("made")?);
    for command in &plan.prepare {
        prepare(command, programs)?;
    }
    let runs = plan.work.len() * plan.brokers.len();
    let runs = u64::try_from(runs).unwrap_or(u64::MAX) * u64::from(plan.rounds);
    progress.begin("comparing", runs);
    let mut done = 0;
    let mut rows = Vec::new();
    for work in &plan.work {
        let mut row = Row::new(work, plan.brokers.len());
        for round in 0..plan.rounds {
            let mut order: Vec<(usize, &BrokerPlan)> = plan.brokers.iter().enumerate().collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for (number, broker) in order {
                progress.set(done, format!("{}, {}", work.name, broker.name));
                let run = one(&plan, work, broker, generator, programs, &scratch);
                row.add(number, run.map_err(|error| error.to_string()));
                done += 1;
            }
        }
        rows.push(row);
    }
    let names = plan.brokers.iter().map(|broker| {
        let version = broker.version(programs).unwrap_or_default();
        (broker.name.clone(), version)
    });
    Ok(Comparison {
        title: plan.title.clone(),
        pinned: plan.pin.is_some(),
        rounds: plan.rounds,
        brokers: names.collect(),
        rows,
    })
}

/// Runs one of the commands that come before everything.
fn prepare(command: &str, programs: Option<&Path>) -> Result<(), CompareError> {
    let words = file::words(&file::programs_replaced(command, programs))?;
    let (program, arguments) = words.split_first().ok_or(FileError::Empty)?;
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output();
    let output = output.map_err(|error| CompareError::Start {
        program: program.clone(),
        error,
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(CompareError::Preparation {
        command: command.to_owned(),
        said: said.lines().last().unwrap_or("nothing").to_owned(),
    })
}

/// One work on one broker, once.
fn one(
    plan: &Plan,
    work: &WorkPlan,
    broker: &BrokerPlan,
    generator: &Path,
    programs: Option<&Path>,
    scratch: &Scratch,
) -> Result<Run, CompareError> {
    let broker = &broker.of_work(work);
    let pin = plan.pin.as_ref();
    let words = file::words(&work.run)?;
    let core = pin.map(|pin| pin.broker);
    // That one kills its broker, and so must start it.
    let starts_it = words.first().is_some_and(|scenario| scenario == "durable");
    let mut running = (!starts_it)
        .then(|| Running::start(broker, programs, scratch, core))
        .transpose()?;
    let path = scratch.path("generator.json");
    let errors = scratch.path("generator.log");
    let mut command = Command::new(generator);
    command
        .args(words)
        .args(file::words(&plan.arguments)?)
        .args(["--host", "127.0.0.1", "--json"])
        .stdin(Stdio::null())
        // A file and not a pipe, which would be full before anybody reads it.
        .stdout(File::create(&path)?)
        .stderr(File::create(&errors)?);
    if let Some(running) = &running {
        command.args(["--port", &running.port.to_string()]);
        command.args(["--broker-pid", &running.pid().to_string()]);
    } else {
        let start = file::programs_replaced(&broker.command(), programs);
        let config = scratch.path("durable-configuration");
        fs::write(&config, file::programs_replaced(&broker.config(), programs))?;
        command
            .args(["--start", &start])
            .arg("--config")
            .arg(config);
        command.args(core.map(|core| format!("--broker-core={core}")));
    }
    let mut child = pinned(pin.map(|pin| pin.generator), || command.spawn())?;
    let status = wait(&mut child, Duration::from_secs(plan.timeout_seconds));
    let Some(status) = status? else {
        child.kill()?;
        child.wait()?;
        return Err(CompareError::TooLong(plan.timeout_seconds));
    };
    if let Some(running) = &mut running {
        running.stop();
    }
    if !status.success() && status.code() != Some(i32::from(LOST)) {
        let message = fs::read_to_string(&errors).unwrap_or_default();
        let line = message.lines().last().unwrap_or("no message");
        let line = line.strip_prefix("nightjar-loadtest: ").unwrap_or(line);
        return Err(CompareError::Generator(line.to_owned()));
    }
    let result: GeneratorResult = serde_json::from_str(&fs::read_to_string(&path)?)
        .map_err(|error| CompareError::Result(error.to_string()))?;
    Ok(result.run())
}

/// The exit code of a run that came to a result, which is that messages were lost.
pub const LOST: u8 = 3;

/// What is read of the generator's JSON.
#[derive(Debug, Deserialize)]
struct GeneratorResult {
    measures: Vec<Measure>,
    losses: u64,
    generator: Option<ProcessPart>,
    broker: Option<ProcessPart>,
    #[serde(default)]
    phases: Vec<PhasePart>,
}

#[derive(Debug, Deserialize)]
struct ProcessPart {
    core_share: f64,
    waited_share: f64,
}

/// What is read of a phase.
#[derive(Debug, Deserialize)]
struct PhasePart {
    seconds: f64,
    generator_core_share: f64,
    generator_waited_share: f64,
    broker_waited_share: Option<f64>,
}

impl GeneratorResult {
    fn run(self) -> Run {
        let waited_share = self.waited_share();
        let of_phases = self.phases.iter().map(|phase| phase.generator_core_share);
        let of_whole = self.generator.iter().map(|part| part.core_share);
        Run {
            measures: self.measures,
            losses: self.losses,
            generator_core_share: of_phases.chain(of_whole).fold(0.0, f64::max),
            waited_share,
        }
    }

    fn waited_share(&self) -> f64 {
        if self.phases.is_empty() {
            let parts = self.generator.iter().chain(&self.broker);
            return parts.map(|part| part.waited_share).sum();
        }
        let seconds: f64 = self.phases.iter().map(|phase| phase.seconds).sum();
        let waited = self.phases.iter().map(|phase| {
            let broker = phase.broker_waited_share.unwrap_or(0.0);
            (phase.generator_waited_share + broker) * phase.seconds
        });
        waited.sum::<f64>() / seconds.max(1e-9)
    }
}

/// Why nothing, or one run, came to nothing.
#[derive(Debug)]
#[non_exhaustive]
pub enum CompareError {
    File(FileError),
    /// The program of a broker cannot be started.
    Start {
        program: String,
        error: io::Error,
    },
    /// It does not listen.
    Silent {
        name: String,
        log: String,
    },
    /// A command of `prepare` has failed.
    Preparation {
        command: String,
        said: String,
    },
    TooLong(u64),
    Generator(String),
    Result(String),
    Io(io::Error),
}

impl fmt::Display for CompareError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(error) => error.fmt(out),
            Self::Start { program, error } => write!(out, "cannot start {program}: {error}"),
            Self::Silent { name, log } => {
                write!(out, "{name} does not listen on its port; it said: {log}")
            }
            Self::Preparation { command, said } => write!(out, "{command:?} has failed: {said}"),
            Self::TooLong(seconds) => write!(out, "the run was not over after {seconds} s"),
            Self::Generator(message) => out.write_str(message),
            Self::Result(error) => write!(out, "the generator's result cannot be read: {error}"),
            Self::Io(error) => error.fmt(out),
        }
    }
}

impl std::error::Error for CompareError {}

impl From<FileError> for CompareError {
    fn from(error: FileError) -> Self {
        Self::File(error)
    }
}

impl From<io::Error> for CompareError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}
