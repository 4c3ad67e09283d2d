//! The scenario file of a comparison: which brokers, which work, on which cores.
//!
//! Comes in: TOML. Goes out: a `Plan` in which everything is known that can be known before a broker is started.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

/// A comparison.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    pub title: String,
    /// How often every broker does every work.
    #[serde(default = "default_rounds")]
    pub rounds: u32,
    /// One core for the broker and one for the generator.
    pub pin: Option<Pin>,
    /// Arguments of every run, behind its own.
    #[serde(default)]
    pub arguments: String,
    /// Commands that are run once before everything, to make what the rest needs in the directory `{made}`.
    #[serde(default)]
    pub prepare: Vec<String>,
    /// Of one run.
    #[serde(default = "default_timeout_seconds")]
    pub timeout_seconds: u64,
    /// The ratios are the first broker's to each of the others.
    #[serde(rename = "broker")]
    pub brokers: Vec<BrokerPlan>,
    pub work: Vec<WorkPlan>,
}

/// Numbers of cores.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    pub broker: usize,
    pub generator: usize,
}

/// A broker and how to start it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BrokerPlan {
    pub name: String,
    /// One whose command and configuration are known here.
    #[serde(default)]
    pub builtin: Option<Builtin>,
    /// `{port}`, `{config}`, `{dir}` and `{nightjar}` are replaced; no shell is involved.
    pub command: Option<String>,
    /// Text of the file `{config}`, in which the same is replaced.
    pub config: Option<String>,
    /// What a work adds to it.
    #[serde(skip)]
    pub config_of_work: String,
    /// A command whose first line of output tells the version.
    #[serde(rename = "version")]
    pub version_command: Option<String>,
}

/// Known here. The brokers have the same bounds: 1,000 messages in flight, queues unbounded, nothing on disk.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Builtin {
    Nightjar,
    Mosquitto,
    /// No broker: the cheapest thing the generator takes for one, which shows what the generator itself can do.
    Relay,
}

/// One work.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkPlan {
    pub name: String,
    /// Scenario and options of the generator, but for the target.
    pub run: String,
    /// By the name of a broker, lines behind its configuration.
    #[serde(default)]
    pub config: BTreeMap<String, String>,
    /// Per measure, the ratio of the first broker to the second that is wanted.
    #[serde(default)]
    pub goal: BTreeMap<String, f64>,
}

impl Plan {
    /// Reads and checks a file.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        let text = fs::read_to_string(path).map_err(|error| FileError::Read {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
        Self::parse(&text)
    }

    /// Checks the text of a file.
    pub fn parse(text: &str) -> Result<Self, FileError> {
        let plan: Self =
            toml::from_str(text).map_err(|error| FileError::Toml(error.to_string()))?;
        if plan.brokers.is_empty() || plan.brokers.len() > BROKERS_MAX || plan.work.is_empty() {
            return Err(FileError::Empty);
        }
        if !(1..=ROUNDS_MAX).contains(&plan.rounds) || plan.work.len() > WORK_MAX {
            return Err(FileError::TooMuch);
        }
        for broker in &plan.brokers {
            if broker.builtin.is_some() == broker.command.is_some() {
                return Err(FileError::Command(broker.name.clone()));
            }
            words(&broker.command())?;
        }
        if plan.prepare.len() > PREPARE_MAX {
            return Err(FileError::TooMuch);
        }
        for command in &plan.prepare {
            words(command)?;
        }
        for work in &plan.work {
            words(&work.run)?;
            let known = |name: &String| plan.brokers.iter().any(|broker| broker.name == *name);
            if let Some(name) = work.config.keys().find(|name| !known(name)) {
                return Err(FileError::Unknown(name.clone()));
            }
        }
        Ok(plan)
    }

    /// Puts the directory of what was prepared in the place of `{made}`.
    pub fn put_made(&mut self, directory: &Path) {
        let directory = directory.display().to_string();
        let put = |text: &mut String| *text = text.replace("{made}", &directory);
        self.prepare.iter_mut().for_each(put);
        put(&mut self.arguments);
        for broker in &mut self.brokers {
            broker.command.iter_mut().for_each(put);
            broker.config.iter_mut().for_each(put);
        }
        for work in &mut self.work {
            put(&mut work.run);
            work.config.values_mut().for_each(put);
        }
    }

    /// Leaves out what was not asked for.
    pub fn keep(&mut self, brokers: &[String], only: Option<&str>) -> Result<(), FileError> {
        let wanted = |name: &String| brokers.is_empty() || brokers.contains(name);
        self.brokers.retain(|broker| wanted(&broker.name));
        self.work
            .retain(|work| only.is_none_or(|only| work.name.contains(only)));
        if self.brokers.is_empty() || self.work.is_empty() {
            return Err(FileError::Empty);
        }
        Ok(())
    }
}

impl BrokerPlan {
    /// The same with what a work adds to its configuration.
    #[must_use]
    pub fn of_work(&self, work: &WorkPlan) -> Self {
        Self {
            config_of_work: work.config.get(&self.name).cloned().unwrap_or_default(),
            ..self.clone()
        }
    }

    /// Its command line, before anything is replaced.
    #[must_use]
    pub fn command(&self) -> String {
        let command = self.command.as_deref().unwrap_or_default();
        match self.builtin {
            None => command.to_owned(),
            Some(Builtin::Nightjar) => "{nightjar} -c {config}".to_owned(),
            Some(Builtin::Mosquitto) => "{mosquitto} -c {config}".to_owned(),
            Some(Builtin::Relay) => {
                format!("{{loadtest}} relay -p {{port}} --seconds {RELAY_SECONDS}")
            }
        }
    }

    /// The text of its configuration, before anything is replaced.
    #[must_use]
    pub fn config(&self) -> String {
        let own = self.config.as_deref().unwrap_or_default();
        let of_work = &self.config_of_work;
        match self.builtin {
            None | Some(Builtin::Relay) => format!("{own}{of_work}"),
            // Tables come last in TOML.
            Some(Builtin::Nightjar) => {
                let known = without(NIGHTJAR_CONFIG, own);
                format!("{known}{own}\n{NIGHTJAR_LISTENER}{of_work}")
            }
            Some(Builtin::Mosquitto) => {
                format!("{}{own}\n{of_work}", without(MOSQUITTO_CONFIG, own))
            }
        }
    }

    /// What it says of its version.
    #[must_use]
    pub fn version(&self, programs: Option<&Path>) -> Option<String> {
        let command = match self.builtin {
            None => self.version_command.clone()?,
            Some(Builtin::Nightjar) => "{nightjar} --version".to_owned(),
            Some(Builtin::Mosquitto) => "{mosquitto} -h".to_owned(),
            Some(Builtin::Relay) => "{loadtest} --version".to_owned(),
        };
        let words = words(&programs_replaced(&command, programs)).ok()?;
        let (program, arguments) = words.split_first()?;
        let output = Command::new(program).args(arguments).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().next().map(|line| line.trim().to_owned())
    }
}

/// The lines of `known` whose key has no line in `own`, which decides.
fn without(known: &str, own: &str) -> String {
    let key = |line: &str| {
        let end = line.find(|character: char| character == '=' || character.is_whitespace());
        line.get(..end.unwrap_or(line.len()))
            .unwrap_or_default()
            .to_owned()
    };
    let decided: Vec<String> = own.lines().map(|line| key(line.trim())).collect();
    let lines = known.lines().filter(|line| !decided.contains(&key(line)));
    lines.map(|line| format!("{line}\n")).collect()
}

/// Replaces the names of programs by where they are.
#[must_use]
pub fn programs_replaced(text: &str, programs: Option<&Path>) -> String {
    let ours = |name: &str| {
        let beside = programs.map(|directory| directory.join(name));
        let beside = beside.filter(|path| path.is_file());
        beside.unwrap_or_else(|| PathBuf::from(name))
    };
    // Debian keeps daemons out of the path of users.
    let daemon = Path::new("/usr/sbin/mosquitto");
    let mosquitto = if daemon.is_file() {
        daemon
    } else {
        Path::new("mosquitto")
    };
    let quoted = |path: &Path| format!("'{}'", path.display());
    // Where the system does not tell, the one in the path.
    let own = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("nightjar-loadtest"));
    text.replace("{nightjar}", &quoted(&ours("nightjar")))
        .replace("{certs}", &quoted(&ours("nightjar-certs")))
        .replace("{loadtest}", &quoted(&own))
        .replace("{mosquitto}", &quoted(mosquitto))
}

/// Cuts a command line at its blanks; single and double quotes keep theirs together.
pub fn words(line: &str) -> Result<Vec<String>, FileError> {
    let mut words = Vec::new();
    let mut word = None;
    let mut quote = None;
    for character in line.chars() {
        match quote {
            Some(end) if character == end => quote = None,
            None if character == '\'' || character == '"' => {
                quote = Some(character);
                word.get_or_insert_with(String::new);
            }
            None if character.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_with(String::new).push(character),
        }
    }
    if quote.is_some() {
        return Err(FileError::Quote(line.to_owned()));
    }
    words.extend(word);
    Ok(words)
}

/// What is wrong with a scenario file.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum FileError {
    Read { path: PathBuf, reason: String },
    Toml(String),
    Empty,
    TooMuch,
    Command(String),
    Quote(String),
    Unknown(String),
}

impl fmt::Display for FileError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { path, reason } => write!(out, "cannot read {}: {reason}", path.display()),
            Self::Toml(error) => write!(out, "the scenario file is not valid: {error}"),
            Self::Empty => write!(
                out,
                "there must be 1 to {BROKERS_MAX} brokers and at least one work (after --brokers and --only)"
            ),
            Self::TooMuch => write!(
                out,
                "there may be 1 to {ROUNDS_MAX} rounds and at most {WORK_MAX} works"
            ),
            Self::Command(name) => write!(
                out,
                "broker {name:?} needs either `builtin` or `command`, not both"
            ),
            Self::Unknown(name) => write!(
                out,
                "a work has a configuration for {name:?}, which is no broker of the file"
            ),
            Self::Quote(line) => write!(out, "a quote is not closed in {line:?}"),
        }
    }
}

impl std::error::Error for FileError {}

fn default_rounds() -> u32 {
    3
}

fn default_timeout_seconds() -> u64 {
    300
}

const BROKERS_MAX: usize = 16;
const ROUNDS_MAX: u32 = 100;
/// Longer than any run.
const RELAY_SECONDS: u32 = 3_600;
const WORK_MAX: usize = 1_000;
const PREPARE_MAX: usize = 100;

const NIGHTJAR_CONFIG: &str = "\
allow_anonymous = true
persistence = false
log_level = \"error\"
receive_maximum = 1_000
inflight_messages_max = 1_000
queue_bytes_max = \"4 GiB\"
send_buffer_bytes_max = \"512 MiB\"
retained_count_max = 10_000_000
";
const NIGHTJAR_LISTENER: &str = "\
[[listeners]]
address = \"127.0.0.1:{port}\"
";
const MOSQUITTO_CONFIG: &str = "\
listener {port} 127.0.0.1
allow_anonymous true
persistence false
max_inflight_messages 1000
max_queued_messages 0
set_tcp_nodelay true
log_dest none
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_keep_words_together() {
        let check = |line: &str, expected: &[&str]| assert_eq!(words(line).unwrap(), expected);
        check(" pubsub  -P 10 ", &["pubsub", "-P", "10"]);
        check("a 'b c' \"\" d'e f'g", &["a", "b c", "", "de fg"]);
        assert!(words("a 'b").is_err());
    }

    #[test]
    fn a_broker_has_one_way_to_be_started() {
        let parse = |broker: &str| {
            Plan::parse(&format!(
                "title = 't'\n[[broker]]\nname = 'b'\n{broker}\n[[work]]\nname = 'w'\nrun = 'pubsub'\n"
            ))
        };
        assert!(parse("builtin = 'nightjar'").is_ok());
        assert!(parse("command = 'x -p {port}'").is_ok());
        assert_eq!(parse("").unwrap_err(), FileError::Command("b".to_owned()));
        assert!(parse("builtin = 'nightjar'\ncommand = 'x'").is_err());
        assert!(matches!(
            parse("builtin = 'nonesuch'"),
            Err(FileError::Toml(_))
        ));
    }

    #[test]
    fn what_the_file_says_of_a_key_decides() {
        let own = "persistence = true\nreceive_maximum=5";
        let config = without(NIGHTJAR_CONFIG, own);
        assert!(!config.contains("persistence") && !config.contains("receive_maximum"));
        assert!(config.contains("allow_anonymous = true\n"));
        assert!(!without(MOSQUITTO_CONFIG, "max_queued_messages 10").contains("max_queued"));
    }

    #[test]
    fn a_work_adds_to_the_configuration_of_a_broker_of_the_file() {
        let parse = |name: &str| {
            Plan::parse(&format!(
                "title = 't'\nprepare = ['{{certs}} --dir {{made}} init']\n\
                 [[broker]]\nname = 'b'\nbuiltin = 'nightjar'\n\
                 [[work]]\nname = 'w'\nrun = 'connect --ca {{made}}/ca.crt'\n\
                 [work.config]\n{name} = 'x = \"{{made}}/y\"'\n"
            ))
        };
        let mut plan = parse("b").unwrap();
        plan.put_made(Path::new("/z"));
        assert_eq!(plan.prepare, ["{certs} --dir /z init"]);
        assert_eq!(plan.work[0].run, "connect --ca /z/ca.crt");
        let config = plan.brokers[0].of_work(&plan.work[0]).config();
        assert!(config.ends_with("\n[[listeners]]\naddress = \"127.0.0.1:{port}\"\nx = \"/z/y\""));
        assert_eq!(parse("c").unwrap_err(), FileError::Unknown("c".to_owned()));
    }

    #[test]
    fn nothing_left_is_an_error() {
        let text = "title = 't'\n[[broker]]\nname = 'b'\nbuiltin = 'nightjar'\n[[work]]\nname = 'one two'\nrun = 'pubsub'\n";
        let mut plan = Plan::parse(text).unwrap();
        plan.keep(&[], Some("two")).unwrap();
        assert_eq!(plan.work.len(), 1);
        assert_eq!(plan.keep(&["c".to_owned()], None), Err(FileError::Empty));
    }
}
