//! The command line, as Mosquitto's users type it.
//!
//! In: the arguments. Out: what to do, with the configuration file already read, or one line for
//! standard error; `main.rs` prints and exits (0, or `EXIT_INVALID`). Mosquitto's rules: `-p`
//! opens loopback listeners and is ignored when the file defines a listener; `-v` and `-q` override
//! the file's log level, and `-q` overrides `-v`.

use crate::acl::AclArguments;
use crate::auth::passwd::PasswdArguments;
use crate::auth::{LoadError, Passwords};
use crate::authorization::{self, Authorization};
use crate::config::command::ConfigArguments;
use crate::config::{self, ConfigError, Note};
use crate::listener::tls;
use crate::manual::{self, CompletionsArguments, ManArguments};
use crate::settings::{LogLevel, Settings};
use crate::store::StoreArguments;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgAction, CommandFactory, Parser, Subcommand};
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// Reads the arguments, the program's own name first, and the configuration file they name.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Invocation, CliError> {
    let given: Vec<OsString> = arguments.into_iter().collect();
    let arguments = given.clone();
    let is_passwd = arguments.get(1).is_some_and(|word| word == "passwd");
    // The names of users and topics have bounds of their own.
    let has_names = is_passwd || arguments.get(1).is_some_and(|word| word == "acl");
    let long = given
        .iter()
        .find(|argument| argument.len() > ARGUMENT_BYTES_MAX);
    if let Some(long) = long.filter(|_| !has_names) {
        let begin: String = long.to_string_lossy().chars().take(40).collect();
        return Err(CliError::Other(format!(
            "An argument is longer than {ARGUMENT_BYTES_MAX} bytes: '{}...'.",
            begin.escape_debug()
        )));
    }
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) if is_passwd => {
            return explain(&error).map_err(|error| CliError::Passwd(error.to_string()));
        }
        Err(error) => return explain(&error),
    };
    if let Some(Command::Passwd(passwd)) = arguments.command {
        return Ok(Invocation::Passwd(Box::new(passwd)));
    }
    if let Some(Command::Store(mut store)) = arguments.command {
        // Before the command they mean the same.
        store.data = store.data.or(arguments.data);
        store.config_file = store.config_file.or(arguments.config_file);
        return Ok(Invocation::Store(Box::new(store)));
    }
    if let Some(Command::Acl(acl)) = arguments.command {
        let acl = acl.with_config_file(arguments.config_file);
        return Ok(Invocation::Acl(Box::new(acl)));
    }
    if let Some(Command::Config(command)) = arguments.command {
        let text = config::command::run(&command).map_err(CliError::Config)?;
        return Ok(Invocation::Print(text));
    }
    match arguments.command {
        Some(Command::Man(man)) => {
            let page = manual::page(&man, Arguments::command());
            let missing = || CliError::Other("There is no such command.".into());
            return Ok(Invocation::Print(page.ok_or_else(missing)?));
        }
        Some(Command::Completions(completions)) => {
            let script = manual::completions(&completions, Arguments::command());
            return Ok(Invocation::Print(script));
        }
        _ => {}
    }
    let ports = ports(&arguments.port)?;
    let mut start = Start {
        settings: Settings::default(),
        config_file: arguments.config_file,
        ports_ignored: false,
        daemon: arguments.daemon,
        tls_keylog: arguments.tls_keylog.is_some(),
        arguments: given,
        notes: Vec::new(),
    };
    let mut not_yet = Vec::new();
    if let Some(path) = &start.config_file {
        let loaded = config::read(path).map_err(CliError::Config)?;
        start.settings = loaded.settings;
        start.notes = loaded.notes;
        not_yet = loaded.not_yet;
    }
    if arguments.test_config {
        Passwords::load(&start.settings).map_err(CliError::Passwords)?;
        Authorization::load(&start.settings).map_err(CliError::Rules)?;
        let of_tls = tls::check(&start.settings).map_err(CliError::Tls)?;
        return match start.config_file {
            Some(path) => {
                let notes = start.notes.iter().chain(&not_yet).map(ToString::to_string);
                let mut text: String = notes
                    .chain(of_tls)
                    .map(|note| format!("Warning: {note}\n"))
                    .collect();
                text.push_str(&format!("Configuration file '{}' is OK.\n", path.display()));
                Ok(Invocation::Print(text))
            }
            None => Err(CliError::NothingToTest),
        };
    }
    if !not_yet.is_empty() {
        return Err(CliError::Config(ConfigError::NotYet(not_yet)));
    }
    match (arguments.data, arguments.ephemeral) {
        (Some(_), true) => return Err(CliError::KeepOrNot),
        (Some(directory), false) => {
            start.settings.persistence = true;
            start.settings.data_directory = Some(directory);
        }
        (None, true) => start.settings.persistence = false,
        // Mosquitto's quick start: several may run side by side.
        (None, false) if start.config_file.is_none() && !ports.is_empty() => {
            start.settings.persistence = false;
        }
        (None, false) => {}
    }
    match arguments.http_listener.as_deref() {
        Some("off") => start.settings.http_listener = None,
        Some(text) => {
            let address = text.parse().map_err(|_| {
                CliError::Other(format!(
                    "Invalid --http-listener ({text}). Use an address such as 127.0.0.1:9884, or off."
                ))
            })?;
            start.settings.http_listener = Some(address);
        }
        // Several quick starts may run side by side.
        None if start.config_file.is_none() && !ports.is_empty() => {
            start.settings.http_listener = None;
        }
        None => {}
    }
    if !ports.is_empty() {
        if start.settings.local_only {
            let listeners = ports.iter().copied().flat_map(Settings::loopback_listeners);
            start.settings.listeners = listeners.collect();
        } else {
            start.ports_ignored = true;
        }
    }
    if let Some(file) = &arguments.tls_keylog {
        for listener in &mut start.settings.listeners {
            if listener.tls.is_some()
                && let Some(tls) = &mut Arc::make_mut(listener).tls
            {
                tls.key_log_file = Some(file.clone());
            }
        }
    }
    if arguments.verbose {
        start.settings.log_level = LogLevel::All;
        start.settings.log.types = None;
    }
    if arguments.quiet {
        start.settings.log_level = LogLevel::None;
        start.settings.log.types = None;
    }
    Ok(Invocation::Run(Box::new(start)))
}

/// What the arguments ask for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Invocation {
    /// Serve until told to stop.
    Run(Box<Start>),
    /// Work on a store and exit.
    Store(Box<StoreArguments>),
    /// Change a password file and exit.
    Passwd(Box<PasswdArguments>),
    /// Say what the rules say and exit.
    Acl(Box<AclArguments>),
    /// Write this to standard output and exit with 0.
    Print(String),
}

/// A broker about to start.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Start {
    pub settings: Settings,
    pub config_file: Option<PathBuf>,
    /// `-p` was given, but the file defines listeners.
    pub ports_ignored: bool,
    /// `-d`: in the background.
    pub daemon: bool,
    /// `--tls-keylog` was given.
    pub tls_keylog: bool,
    /// All of them, for the next reload.
    pub arguments: Vec<OsString>,
    /// What of the file has no effect.
    pub notes: Vec<Note>,
}

impl Start {
    /// Writes the first lines of the log. Call it once `logging::init` was called.
    pub fn log(&self) {
        tracing::info!("nightjar version {VERSION} starting");
        if let Some(path) = &self.config_file {
            tracing::info!("Config loaded from {}.", path.display());
        } else {
            tracing::info!("Using default config.");
        }
        if self.tls_keylog {
            tracing::warn!("--tls-keylog has no effect in this version: no secrets are written.");
        }
        for note in &self.notes {
            tracing::warn!("{note}");
        }
        if self.ports_ignored {
            tracing::warn!("-p is ignored: the configuration file defines the listeners.");
        }
        for line in describe_start(&self.settings) {
            tracing::info!("{line}");
        }
        if self.settings.refuses_everybody() {
            tracing::warn!(
                "Every client will be refused: allow_anonymous is false, and no password_file says who \
                 the users are. To accept everybody who can reach the listeners: allow_anonymous = true"
            );
        }
        if self.settings.control_api && self.settings.tells_nobody() {
            tracing::warn!(
                "Nobody may publish to $CONTROL/broker/v1: it takes a rule of an acl_file, and there is none."
            );
        }
    }
}

/// What the settings mean for the person who started the broker, one log line each.
pub fn describe_start(settings: &Settings) -> Vec<String> {
    let mut lines = Vec::new();
    if settings.local_only {
        let addresses: Vec<String> = settings
            .listeners
            .iter()
            .flat_map(|listener| &listener.endpoints)
            .map(ToString::to_string)
            .collect();
        lines.push(format!(
            "Starting in local only mode. Connections will only be possible from clients running \
             on this machine ({}).",
            addresses.join(", ")
        ));
        if settings.security.allow_anonymous {
            lines.push(
                "Anonymous access is allowed, because only this machine can reach the broker."
                    .into(),
            );
        }
        lines.push(
            "To serve other machines, define [[listeners]] in a configuration file (-c FILE); \
             anonymous access then needs allow_anonymous = true."
                .into(),
        );
    } else if settings.security.allow_anonymous {
        lines.push("Anonymous access is allowed to everybody who can reach the listeners.".into());
    }
    lines
}

/// Why the broker does not start; `main.rs` writes it behind `Error: `.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum CliError {
    UnknownOption(String),
    MissingValue(String),
    GivenTwice(String),
    InvalidPort(String),
    RepeatedPort(u16),
    TooManyPorts,
    NothingToTest,
    KeepOrNot,
    Other(String),
    Config(ConfigError),
    Passwords(Vec<LoadError>),
    Rules(Vec<nightjar_acl::Error>),
    /// Certificates, keys and what goes with them, of each listener that cannot use them.
    Tls(Vec<String>),
    /// An argument of `passwd`, which has exit codes of its own.
    Passwd(String),
}

impl fmt::Display for CliError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownOption(option) => write!(formatter, "Unknown option '{option}'."),
            Self::MissingValue(option) => {
                write!(
                    formatter,
                    "{option} argument given, but its value is missing."
                )
            }
            Self::GivenTwice(option) => write!(formatter, "{option} is given twice."),
            Self::InvalidPort(text) => write!(
                formatter,
                "Invalid port specified ({text}). Use a number from 1 to 65535."
            ),
            Self::RepeatedPort(port) => write!(formatter, "Port {port} is given twice."),
            Self::TooManyPorts => write!(
                formatter,
                "Only {PORTS_MAX} ports can be specified on the command line."
            ),
            Self::NothingToTest => write!(formatter, "--test-config needs -c FILE."),
            Self::KeepOrNot => write!(
                formatter,
                "--data keeps what --ephemeral would forget; give one of them."
            ),
            Self::Other(text) | Self::Passwd(text) => formatter.write_str(text),
            Self::Config(error) => error.fmt(formatter),
            Self::Rules(errors) => authorization::write_errors(errors, formatter),
            Self::Passwords(errors) => {
                let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
                formatter.write_str(&lines.join("\nError: "))
            }
            Self::Tls(lines) => formatter.write_str(&lines.join("\nError: ")),
        }
    }
}

impl CliError {
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Passwd(_) => 1,
            _ => EXIT_INVALID,
        }
    }
}

impl std::error::Error for CliError {}

/// Exit code for an argument or a configuration that cannot be used, as Mosquitto's.
pub const EXIT_INVALID: u8 = 3;

pub const VERSION: &str = env!("CARGO_PKG_VERSION");

const PORTS_MAX: usize = 10;
/// No path is longer.
const ARGUMENT_BYTES_MAX: usize = 4_096;

/// An MQTT broker for 3.1, 3.1.1 and 5.0. Without options it serves this machine only, on port 1883
/// of 127.0.0.1 and ::1, to anonymous clients too.
#[derive(Parser)]
#[command(
    name = "nightjar",
    bin_name = "nightjar",
    version = VERSION,
    disable_version_flag = true,
    disable_help_subcommand = true,
    after_help = "Exit codes: 0 after SIGTERM or SIGINT, 1 if the broker cannot start or go on, \
                  3 if an option or the configuration is wrong."
)]
struct Arguments {
    /// Read the configuration from FILE: a mosquitto.conf, or TOML where it is called *.toml
    #[arg(short = 'c', long, value_name = "FILE")]
    config_file: Option<PathBuf>,

    /// Listen on port N of 127.0.0.1 and ::1; up to 10 times; ignored if FILE defines a listener
    #[arg(short = 'p', long, value_name = "N", action = ArgAction::Append)]
    port: Vec<String>,

    /// Keep sessions, queued and retained messages in DIR; overrides FILE. Without it, and without
    /// -p, they are kept where this platform keeps such things
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,

    /// Keep nothing: all is gone when the process ends; overrides FILE. -p without FILE implies it
    #[arg(long)]
    ephemeral: bool,

    /// Serve metrics and health over HTTP at ADDR, or with "off" nowhere; overrides FILE. -p without
    /// FILE implies off
    #[arg(long, value_name = "ADDR")]
    http_listener: Option<String>,

    /// Go on in the background when it serves
    #[arg(short = 'd', long, overrides_with = "daemon")]
    daemon: bool,

    /// Append the secrets of TLS connections to FILE, for whoever has to read captured traffic: as
    /// SSLKEYLOGFILE of other programs
    #[arg(long, value_name = "FILE")]
    tls_keylog: Option<PathBuf>,

    /// Log everything, every packet too; overrides FILE
    #[arg(short = 'v', long, overrides_with = "verbose")]
    verbose: bool,

    /// Log nothing; overrides FILE and -v
    #[arg(short = 'q', long, overrides_with = "quiet")]
    quiet: bool,

    /// Check FILE and exit
    #[arg(long)]
    test_config: bool,

    /// Print the version and exit
    #[arg(long, action = ArgAction::Version)]
    version: Option<bool>,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    Store(StoreArguments),
    Passwd(PasswdArguments),
    Config(ConfigArguments),
    Acl(AclArguments),
    Man(ManArguments),
    Completions(CompletionsArguments),
}

fn ports(given: &[String]) -> Result<Vec<u16>, CliError> {
    if given.len() > PORTS_MAX {
        return Err(CliError::TooManyPorts);
    }
    let mut ports = Vec::with_capacity(given.len());
    for text in given {
        let port = text.parse().ok().filter(|port: &u16| *port != 0);
        let port = port.ok_or_else(|| CliError::InvalidPort(text.clone()))?;
        if ports.contains(&port) {
            return Err(CliError::RepeatedPort(port));
        }
        ports.push(port);
    }
    Ok(ports)
}

/// What clap could not or need not read further.
fn explain(error: &clap::Error) -> Result<Invocation, CliError> {
    let argument = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(argument)) => argument.clone(),
        _ => String::new(),
    };
    // clap names an option with its value: `--port <N>`.
    let option = argument.split([' ', '=']).next().unwrap_or_default();
    Err(match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            return Ok(Invocation::Print(error.to_string()));
        }
        ErrorKind::UnknownArgument => CliError::UnknownOption(argument),
        ErrorKind::InvalidSubcommand => match error.get(ContextKind::InvalidSubcommand) {
            Some(ContextValue::String(word)) => CliError::UnknownOption(word.clone()),
            _ => CliError::UnknownOption(argument),
        },
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            CliError::Other("what to do is missing; --help behind the command lists it.".into())
        }
        ErrorKind::MissingRequiredArgument => match error.get(ContextKind::InvalidArg) {
            Some(ContextValue::Strings(missing)) => CliError::MissingValue(missing.join(" ")),
            _ => CliError::MissingValue(argument),
        },
        ErrorKind::InvalidValue => CliError::MissingValue(option.to_owned()),
        ErrorKind::ArgumentConflict => CliError::GivenTwice(option.to_owned()),
        _ => {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            CliError::Other(line.trim_start_matches("error: ").to_owned())
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn no_argument_means_loopback_1883_for_both_ip_versions() {
        let start = run(&[]);
        assert_eq!(start.settings, Settings::default());
        assert_eq!(addresses(&start), ["127.0.0.1:1883", "[::1]:1883"]);
    }

    #[test]
    fn metrics_are_served_where_nothing_else_was_chosen_and_not_at_a_quick_start() {
        let served = |arguments: &[&str]| run(arguments).settings.http_listener;
        let chosen = "127.0.0.1:9999".parse().ok();
        assert_eq!(served(&[]), Settings::default().http_listener);
        assert_eq!(served(&["-p", "1884"]), None);
        assert_eq!(
            served(&["-p", "1884", "--http-listener", "127.0.0.1:9999"]),
            chosen
        );
        assert_eq!(served(&["--http-listener", "off"]), None);
        assert!(parse(["nightjar", "--http-listener", "9884"].map(Into::into)).is_err());
    }

    #[test]
    fn ports_open_loopback_listeners() {
        let start = run(&["-p", "1884", "--port", "1885", "--port=1886", "-p1887"]);
        assert_eq!(start.settings.listeners.len(), 8);
        assert_eq!(
            addresses(&start)[..4],
            [
                "127.0.0.1:1884",
                "[::1]:1884",
                "127.0.0.1:1885",
                "[::1]:1885"
            ]
        );
        assert!(start.settings.local_only && start.settings.security.allow_anonymous);
    }

    #[test]
    fn ten_ports_are_the_most() {
        let arguments =
            |count: u16| -> Vec<String> { (1..=count).map(|port| format!("-p{port}")).collect() };
        let ten = arguments(10);
        let ten: Vec<&str> = ten.iter().map(String::as_str).collect();
        assert_eq!(run(&ten).settings.listeners.len(), 20);
        let eleven = arguments(11);
        let eleven: Vec<&str> = eleven.iter().map(String::as_str).collect();
        assert_eq!(
            refused(&eleven),
            "Only 10 ports can be specified on the command line."
        );
    }

    #[test]
    fn a_port_that_cannot_be_is_refused() {
        for port in ["0", "65536", "x", "", "1883x", "18 83"] {
            let message = refused(&["-p", port]);
            assert!(
                message.starts_with(&format!("Invalid port specified ({port}).")),
                "{message}"
            );
        }
        assert_eq!(refused(&["-p", "7", "-p", "7"]), "Port 7 is given twice.");
    }

    #[test]
    fn verbose_and_quiet_override_the_file() {
        assert_eq!(run(&["-v"]).settings.log_level, LogLevel::All);
        assert_eq!(run(&["--verbose", "-v"]).settings.log_level, LogLevel::All);
        assert_eq!(run(&["--quiet"]).settings.log_level, LogLevel::None);
        assert_eq!(run(&["-q", "-v"]).settings.log_level, LogLevel::None);
        with_file("log_level = \"error\"", |file| {
            assert_eq!(run(&["-c", file]).settings.log_level, LogLevel::Error);
            assert_eq!(run(&["-c", file, "-v"]).settings.log_level, LogLevel::All);
        });
    }

    #[test]
    fn a_bare_broker_keeps_everything_and_a_quick_start_nothing() {
        assert!(run(&[]).settings.persistence);
        assert_eq!(run(&[]).settings.data_directory, None);
        assert!(!run(&["-p", "1884"]).settings.persistence);
        assert!(!run(&["--ephemeral"]).settings.persistence);
        let kept = run(&["-p", "1884", "--data", "d"]).settings;
        assert!(kept.persistence);
        assert_eq!(kept.data_directory.as_deref(), Some(Path::new("d")));
        let both = refused(&["--data", "d", "--ephemeral"]);
        assert!(both.contains("give one of them"), "{both}");
        with_file("persistence = false\ndata_directory = \"a\"\n", |file| {
            assert!(!run(&["-c", file]).settings.persistence);
            let kept = run(&["-c", file, "--data", "b"]).settings;
            assert!(kept.persistence);
            assert_eq!(kept.data_directory.as_deref(), Some(Path::new("b")));
        });
        with_file("reason_strings = true\n", |file| {
            assert!(run(&["-c", file, "-p", "1884"]).settings.persistence);
            assert!(!run(&["-c", file, "--ephemeral"]).settings.persistence);
        });
    }

    #[test]
    fn help_and_version_are_printed() {
        for argument in ["-h", "--help"] {
            let Ok(Invocation::Print(text)) = parsed(&[argument]) else {
                panic!("{argument} did not print");
            };
            for option in [
                "-c, --config-file <FILE>",
                "-p, --port <N>",
                "--data <DIR>",
                "--ephemeral",
                "-v",
                "-q",
                "--test-config",
                "--version",
            ] {
                assert!(text.contains(option), "{option} is missing in:\n{text}");
            }
        }
        let expected = Invocation::Print(format!("nightjar {}\n", env!("CARGO_PKG_VERSION")));
        assert_eq!(parsed(&["--version"]), Ok(expected));
    }

    #[test]
    fn an_unknown_option_is_named_as_mosquitto_does() {
        assert_eq!(refused(&["--x"]), "Unknown option '--x'.");
        assert_eq!(refused(&["-v", "-x"]), "Unknown option '-x'.");
        assert_eq!(refused(&["file.conf"]), "Unknown option 'file.conf'.");
        assert_eq!(refused(&["-V"]), "Unknown option '-V'.");
    }

    #[test]
    fn a_missing_value_names_the_option() {
        for option in ["-c", "--config-file", "-p", "--port"] {
            let long = if option.ends_with('p') || option.ends_with("port") {
                "--port"
            } else {
                "--config-file"
            };
            assert_eq!(
                refused(&[option]),
                format!("{long} argument given, but its value is missing.")
            );
        }
    }

    #[test]
    fn two_configuration_files_are_refused() {
        assert_eq!(
            refused(&["-c", "a", "-c", "b"]),
            "--config-file is given twice."
        );
    }

    #[test]
    fn odd_uses_of_flags_are_one_line() {
        for arguments in [
            &["-v=1"][..],
            &["--test-config=yes"],
            &["--test-config", "--test-config"],
        ] {
            assert_eq!(refused(arguments).lines().count(), 1, "{arguments:?}");
        }
    }

    #[test]
    fn a_port_is_ignored_when_the_file_defines_a_listener() {
        with_file("[[listeners]]\naddress = \"127.0.0.1:1999\"\n", |file| {
            for arguments in [["-c", file, "-p", "1884"], ["-p", "1884", "-c", file]] {
                let start = run(&arguments);
                assert_eq!(addresses(&start), ["127.0.0.1:1999"]);
                assert!(start.ports_ignored && !start.settings.local_only);
                assert_eq!(start.config_file.as_deref(), Some(Path::new(file)));
            }
        });
        with_file("reason_strings = true\n", |file| {
            let start = run(&["-c", file, "-p", "1884"]);
            assert_eq!(addresses(&start), ["127.0.0.1:1884", "[::1]:1884"]);
            assert!(start.settings.reason_strings && !start.ports_ignored);
        });
    }

    #[test]
    fn a_configuration_can_be_tested_alone() {
        with_file("reason_strings = true\n", |file| {
            let expected = format!("Configuration file '{file}' is OK.\n");
            assert_eq!(
                parsed(&["--test-config", "-c", file]),
                Ok(Invocation::Print(expected))
            );
        });
        with_file("nonsense\n", |file| {
            let message = refused(&["-c", file, "--test-config"]);
            assert!(
                message.ends_with(&format!("Error found at {file}:1.")),
                "{message}"
            );
        });
        assert_eq!(refused(&["--test-config"]), "--test-config needs -c FILE.");
    }

    #[test]
    fn the_start_says_who_can_connect() {
        let text = describe_start(&Settings::default()).join("\n");
        assert!(text.contains("Starting in local only mode."), "{text}");
        assert!(text.contains("127.0.0.1:1883, [::1]:1883"), "{text}");
        assert!(
            text.contains("Anonymous access is allowed, because only this machine"),
            "{text}"
        );

        let open = Settings {
            local_only: false,
            ..Settings::default()
        };
        let text = describe_start(&open).join("\n");
        assert!(text.contains("allowed to everybody"), "{text}");
        assert!(!text.contains("local only"), "{text}");
        assert!(!open.refuses_everybody());

        let mut closed = open;
        closed.security.allow_anonymous = false;
        assert!(!describe_start(&closed).join("\n").contains("nonymous"));
        assert!(closed.refuses_everybody());
    }

    fn parsed(arguments: &[&str]) -> Result<Invocation, CliError> {
        parse(
            std::iter::once(&"nightjar")
                .chain(arguments)
                .map(OsString::from),
        )
    }

    fn run(arguments: &[&str]) -> Start {
        match parsed(arguments) {
            Ok(Invocation::Run(start)) => *start,
            other => panic!("{arguments:?}: {other:?}"),
        }
    }

    fn refused(arguments: &[&str]) -> String {
        match parsed(arguments) {
            Err(error) => error.to_string(),
            other => panic!("{arguments:?}: {other:?}"),
        }
    }

    fn addresses(start: &Start) -> Vec<String> {
        let listeners = start.settings.listeners.iter();
        listeners
            .flat_map(|listener| &listener.endpoints)
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn the_manual_and_the_completions_know_every_command() {
        for (arguments, wanted) in [
            (&["man"][..], "\\-\\-ephemeral"),
            (&["man", "store", "backup"], "nightjar\\-store\\-backup"),
            (&["man", "passwd"], "nightjar\\-passwd"),
            (&["completions", "bash"], "test-config"),
            (&["completions", "zsh"], "#compdef nightjar"),
            (&["completions", "fish"], "complete -c nightjar"),
        ] {
            match parsed(arguments) {
                Ok(Invocation::Print(text)) => assert!(text.contains(wanted), "{text}"),
                other => panic!("{arguments:?}: {other:?}"),
            }
        }
        assert_eq!(refused(&["man", "stroe"]), "There is no such command.");
    }

    fn with_file(content: &str, check: impl FnOnce(&str)) {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("nightjar-cli-{}-{number}.toml", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, content).unwrap();
        check(path.to_str().unwrap());
        std::fs::remove_file(&path).unwrap();
    }
}
