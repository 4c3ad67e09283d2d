//! `nightjar store`: what an operator does with a store.
//!
//! In: the arguments. Out: a report on standard output, progress on standard error if that is a terminal, or one line about
//! what went wrong; the exit code is `main.rs`'s (0, 1 for problems found or a failure, 3 for bad usage). What is
//! done to a store is the storage crate's; here it is found, and put into words.

pub(crate) mod mosquitto_db;
pub mod socket;

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, IsTerminal};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use nightjar_storage::{
    CheckReport, ClosedStore, CompactReport, Contents, Meter, RepairReport, StorageError,
};

use crate::cli::CliError;
use crate::{clock, config, data};

/// Look over, save, copy or move what is kept
#[derive(Args, Clone, Debug, Eq, PartialEq)]
#[command(
    disable_help_subcommand = true,
    after_help = "Exit codes: 0, 1 if problems are found or the work failed, 3 if an option is wrong. \
                  docs/store.md says more."
)]
pub struct StoreArguments {
    /// The store is in DIR; without it, where this platform keeps such things
    #[arg(long, value_name = "DIR", global = true)]
    pub data: Option<PathBuf>,

    /// The store is where the configuration FILE says
    #[arg(short = 'c', long, value_name = "FILE", global = true)]
    pub config_file: Option<PathBuf>,

    #[command(subcommand)]
    command: StoreCommand,
}

#[derive(Clone, Debug, Eq, PartialEq, Subcommand)]
enum StoreCommand {
    /// Read everything and say what is wrong with it; changes nothing
    Check {
        /// Check this file, a backup for one
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Make a store of what checks out, and set the damaged file aside; the broker must not run
    Repair,
    /// Give free space back to the file system; the broker must not run
    Compact,
    /// Write a consistent copy to FILE; the broker may run
    Backup {
        /// A file that is not there yet
        #[arg(value_name = "FILE")]
        out: PathBuf,
    },
    /// Write everything as JSON Lines to FILE or standard output; the broker must not run
    Export {
        /// A file that is not there yet
        #[arg(value_name = "FILE")]
        out: Option<PathBuf>,

        /// Export this store, a backup for one
        #[arg(long, value_name = "STORE")]
        from: Option<PathBuf>,
    },
    /// Make a store of the JSON Lines in FILE or from standard input, where there is none
    Import {
        /// The text, or what is named below; without it, standard input
        #[arg(value_name = "FILE")]
        input: Option<PathBuf>,

        /// FILE is a mosquitto.db, formats 3 to 6
        #[arg(long, requires = "input")]
        mosquitto_db: bool,
    },
}

/// A report, and whether all is well.
#[derive(Debug)]
pub struct Outcome {
    pub report: String,
    pub well: bool,
}

/// Why a command ended early; `main.rs` writes it behind `Error: `.
#[derive(Debug)]
#[non_exhaustive]
pub enum StoreError {
    /// The arguments or the configuration cannot be used.
    Usage(CliError),
    Store(StorageError),
    /// A line of an export cannot be taken.
    Import {
        file: PathBuf,
        error: StorageError,
    },
    /// There is no room for an import.
    NotEmpty {
        path: Box<str>,
    },
}

impl std::fmt::Display for StoreError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Usage(error) => error.fmt(formatter),
            Self::Store(error @ StorageError::InUse { .. }) => {
                write!(
                    formatter,
                    "{error}; stop the broker first, or work on what `nightjar store backup` writes"
                )
            }
            Self::Store(error @ StorageError::Corrupt { .. }) => {
                write!(
                    formatter,
                    "{error} (nightjar store repair saves what is whole)"
                )
            }
            Self::Store(error) => error.fmt(formatter),
            Self::Import { file, error } => {
                write!(
                    formatter,
                    "{}, {error}; nothing was imported",
                    file.display()
                )
            }
            Self::NotEmpty { path } => write!(
                formatter,
                "{path} holds something already, and was left as it is; import into another directory"
            ),
        }
    }
}

impl std::error::Error for StoreError {}

impl From<StorageError> for StoreError {
    fn from(error: StorageError) -> Self {
        Self::Store(error)
    }
}

/// Does what was asked.
pub fn run(arguments: StoreArguments) -> Result<Outcome, StoreError> {
    let directory = |arguments: &StoreArguments| -> Result<PathBuf, StoreError> {
        let mut chosen = arguments.data.clone();
        if chosen.is_none()
            && let Some(file) = &arguments.config_file
        {
            let settings = config::read(file)
                .map_err(|error| StoreError::Usage(CliError::Config(error)))?
                .settings;
            chosen = settings.data_directory;
        }
        Ok(data::directory(chosen.as_deref())?)
    };
    let mut bar = Bar::default();
    let outcome = match &arguments.command {
        StoreCommand::Check { file } => {
            let store = match file {
                Some(file) => ClosedStore::at(file)?,
                None => ClosedStore::lock(&directory(&arguments)?)?,
            };
            let report = store.check(&mut bar)?;
            bar.clear();
            Outcome {
                well: report.problems.count == 0,
                report: describe_check(&store.path().display().to_string(), &report),
            }
        }
        StoreCommand::Repair => {
            let store = ClosedStore::lock(&directory(&arguments)?)?;
            let path = store.path().display().to_string();
            let report = store.repair(&aside(clock::wall()), &mut bar)?;
            bar.clear();
            Outcome {
                report: describe_repair(&path, report.as_ref()),
                well: true,
            }
        }
        StoreCommand::Compact => {
            let store = ClosedStore::lock(&directory(&arguments)?)?;
            let path = store.path().display().to_string();
            let CompactReport { before, after } = store.compact(&mut bar)?;
            bar.clear();
            let (before, after) = (bytes(before), bytes(after));
            Outcome {
                report: format!("{path}: {before} before, {after} after.\n"),
                well: true,
            }
        }
        StoreCommand::Backup { out } => {
            let directory = directory(&arguments)?;
            let contents = match ClosedStore::lock(&directory) {
                Err(StorageError::InUse { .. }) => socket::backup(&directory, out, &mut bar)?,
                store => store?.backup(out, &mut bar)?,
            };
            bar.clear();
            Outcome {
                report: format!("{}:\n{}", out.display(), describe(&contents)),
                well: true,
            }
        }
        StoreCommand::Export { out, from } => {
            let store = match from {
                Some(file) => ClosedStore::at(file)?,
                None => ClosedStore::lock(&directory(&arguments)?)?,
            };
            let contents = export(&store, out.as_deref(), &mut bar)?;
            bar.clear();
            Outcome {
                report: match out {
                    Some(out) => format!("{}:\n{}", out.display(), describe(&contents)),
                    // What was exported is there already.
                    None => String::new(),
                },
                well: true,
            }
        }
        StoreCommand::Import {
            input: Some(file),
            mosquitto_db: true,
        } => {
            let directory = directory(&arguments)?;
            let imported = mosquitto_db::import(file, &directory, clock::wall(), &mut bar)?;
            bar.clear();
            Outcome {
                report: format!(
                    "{}:\n{}{}",
                    directory.display(),
                    describe(&imported.contents),
                    imported.left_out
                ),
                well: true,
            }
        }
        StoreCommand::Import { input, .. } => {
            let directory = directory(&arguments)?;
            let name = input
                .as_deref()
                .unwrap_or_else(|| Path::new("standard input"));
            let mut lines: Box<dyn BufRead> = match input {
                Some(file) => {
                    let opened = File::open(file).map_err(|error| file_error(file, &error))?;
                    Box::new(BufReader::new(opened))
                }
                None => Box::new(io::stdin().lock()),
            };
            let contents = ClosedStore::import(&directory, &mut lines, &mut bar);
            let contents = contents.map_err(|error| match error {
                StorageError::Line { .. } => StoreError::Import {
                    file: name.to_owned(),
                    error,
                },
                StorageError::Exists { path } => StoreError::NotEmpty { path },
                error => error.into(),
            })?;
            bar.clear();
            Outcome {
                report: format!("{}:\n{}", directory.display(), describe(&contents)),
                well: true,
            }
        }
    };
    Ok(outcome)
}

/// Writes the lines to a new file, which gets its name when it is whole, or to standard output.
fn export(
    store: &ClosedStore,
    out: Option<&Path>,
    meter: &mut dyn Meter,
) -> Result<Contents, StorageError> {
    let Some(out) = out else {
        let mut lines = BufWriter::new(io::stdout().lock());
        return store.export(&mut lines, Path::new("standard output"), meter);
    };
    if fs::symlink_metadata(out).is_ok() {
        return Err(StorageError::Exists {
            path: out.display().to_string().into(),
        });
    }
    let mut temporary = out.to_owned().into_os_string();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let written = write_export(store, &temporary, out, meter);
    if written.is_err() {
        // It may not have been made.
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn write_export(
    store: &ClosedStore,
    temporary: &Path,
    out: &Path,
    meter: &mut dyn Meter,
) -> Result<Contents, StorageError> {
    let failed = |error: io::Error| file_error(out, &error);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(temporary)
        .map_err(failed)?;
    let mut lines = BufWriter::with_capacity(256 << 10, file);
    let contents = store.export(&mut lines, out, meter)?;
    let file = lines
        .into_inner()
        .map_err(|error| failed(error.into_error()))?;
    file.sync_all().map_err(failed)?;
    fs::rename(temporary, out).map_err(failed)?;
    Ok(contents)
}

fn file_error(path: &Path, error: &io::Error) -> StorageError {
    StorageError::File {
        path: path.display().to_string().into(),
        reason: error.to_string().into(),
    }
}

fn describe_check(path: &str, report: &CheckReport) -> String {
    let mut text = String::new();
    let problems = &report.problems;
    match problems.count {
        0 => text += &format!("{path}: nothing is wrong.\n"),
        1 => text += &format!("{path}: 1 problem.\n"),
        count => text += &format!("{path}: {count} problems.\n"),
    }
    list_problems(&mut text, &problems.first, problems.count);
    text += &describe(&report.contents);
    let size = bytes(report.file_bytes);
    match report.free_bytes {
        Some(free) => {
            let share = free * 100 / report.file_bytes.max(1);
            let _ = writeln!(text, "  file: {size}, {share} % of it free");
        }
        None => {
            let _ = writeln!(text, "  file: {size}");
        }
    }
    if report.unneeded > 0 {
        let _ = writeln!(
            text,
            "  {} messages belong to nobody; the next start removes them",
            report.unneeded
        );
    }
    if problems.count > 0 {
        text += "The counts are of what is whole. nightjar store repair makes a store of it.\n";
    }
    text
}

fn describe_repair(path: &str, report: Option<&RepairReport>) -> String {
    let Some(report) = report else {
        return format!("{path}: nothing is wrong, nothing was changed.\n");
    };
    let mut text = format!("{path} was made anew. It holds:\n");
    text += &describe(&report.contents);
    let _ = writeln!(text, "What was wrong:");
    list_problems(&mut text, &report.problems.first, report.problems.count);
    for (table, count) in &report.dropped {
        let _ = writeln!(text, "  not saved: {count} of {table}");
    }
    if report.lost_pages > 0 {
        let _ = writeln!(
            text,
            "  {} parts of the file could not be read",
            report.lost_pages
        );
    }
    if report.stray > 0 {
        let _ = writeln!(
            text,
            "  {} rows were found without what led to them; they may be older than the last commit",
            report.stray
        );
    }
    if report.clock_lost {
        text += "  the clock of the store is lost: what was to expire may live longer\n";
    }
    let _ = writeln!(
        text,
        "The damaged file was kept as it was: {}",
        report.set_aside.display()
    );
    text
}

fn list_problems(text: &mut String, first: &[String], count: u64) {
    for problem in first {
        let _ = writeln!(text, "  {problem}");
    }
    let more = count.saturating_sub(first.len() as u64);
    if more > 0 {
        let _ = writeln!(text, "  and {more} more");
    }
}

fn describe(contents: &Contents) -> String {
    let Contents {
        sessions,
        subscriptions,
        groups,
        messages,
        queued,
        in_flight,
        received_qos2,
        retained,
    } = contents;
    format!(
        "  sessions: {sessions}, with {subscriptions} subscriptions\n  \
           share groups with a queue: {groups}\n  \
           messages: {messages}, in {queued} places of queues, {in_flight} of them in flight\n  \
           received QoS 2 packet ids: {received_qos2}\n  \
           retained messages: {retained}\n"
    )
}

fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut unit = "bytes";
    let mut tenths = u128::from(count) * 10;
    for larger in UNITS {
        if tenths < 10_240 {
            break;
        }
        tenths /= 1024;
        unit = larger;
    }
    if unit == "bytes" {
        format!("{count} bytes")
    } else {
        format!("{}.{} {unit}", tenths / 10, tenths % 10)
    }
}

/// What is added to the name of a damaged file: `damaged-20261120T190151Z`.
fn aside(wall: u64) -> String {
    let seconds = wall / 1000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days are counted from 1 March of the year 0, so that a leap day is the last of its year.
    let day = days + 719_468;
    let era = day / 146_097;
    let of_era = day % 146_097;
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    format!(
        "damaged-{:04}{month:02}{of_month:02}T{:02}{:02}{:02}Z",
        era * 400 + year + carry,
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

/// A bar on standard error, if somebody looks.
#[derive(Default)]
struct Bar {
    bar: Option<ProgressBar>,
    since: u64,
}

impl Bar {
    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Meter for Bar {
    fn begin(&mut self, work: &str, steps: u64) {
        self.clear();
        if !io::stderr().is_terminal() {
            return;
        }
        let bar = if steps > 0 {
            let style =
                ProgressStyle::with_template("{msg} {bar:40} {percent} % {pos}/{len} {eta}");
            ProgressBar::new(steps)
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        } else {
            ProgressBar::new_spinner()
        };
        bar.set_message(work.to_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        self.bar = Some(bar);
        self.since = 0;
    }

    fn advance(&mut self, steps: u64) {
        let Some(bar) = &self.bar else { return };
        // A lock for each row would be felt.
        self.since += steps;
        if self.since >= STEPS_TOGETHER {
            bar.inc(self.since);
            self.since = 0;
        }
    }
}

const STEPS_TOGETHER: u64 = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_damaged_file_has_the_date() {
        for (wall, expected) in [
            (0, "damaged-19700101T000000Z"),
            (951_782_400_000, "damaged-20000229T000000Z"),
            (1_795_201_311_999, "damaged-20261120T190151Z"),
            (4_107_542_399_000, "damaged-21000228T235959Z"),
            (4_107_542_400_000, "damaged-21000301T000000Z"),
        ] {
            assert_eq!(aside(wall), expected);
        }
    }

    #[test]
    fn sizes_are_in_units_that_can_be_read() {
        for (count, expected) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1024, "1.0 KiB"),
            (1_638_400, "1.5 MiB"),
            (1 << 40, "1.0 TiB"),
        ] {
            assert_eq!(bytes(count), expected);
        }
    }
}
