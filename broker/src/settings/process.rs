//! What an operator can choose for the process itself, and for what it says.
//!
//! These follow Mosquitto's options of the same names; `docs/configuration.md` has the rows.

use std::path::PathBuf;

/// Who the process is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ProcessSettings {
    /// Whom a process that was started as root becomes once its listeners are open and its files read. Another process
    /// stays who it is.
    pub user: RunAs,
    /// Where the process id is written, and removed from at the end. A file that cannot be written stops the start.
    pub pid_file: Option<PathBuf>,
}

/// Whom a process that was started as root becomes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum RunAs {
    /// It stays root.
    #[default]
    Unchanged,
    /// `mosquitto`, or `nobody` where there is no such user. What a mosquitto.conf without `user` means.
    MosquittoOrNobody,
    /// A user that has to exist.
    User(Box<str>),
}

/// What is logged, where and how. `Settings::log_level` says how much, where `types` does not.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LogSettings {
    /// Where lines go, each to all of them; empty = nowhere.
    pub destinations: Vec<LogDestination>,
    /// The kinds of lines that are written; `None` = those of `log_level`. `-v` and `-q` override both.
    pub types: Option<LogTypes>,
    /// Whether a line begins with its time.
    pub timestamp: bool,
    /// As strftime; `None` = seconds since 1970.
    pub timestamp_format: Option<Box<str>>,
    /// The form of a line.
    pub format: LogFormat,
    /// The facility of syslog: 0 to 7 are local0 to local7; `None` = daemon.
    pub facility: Option<u8>,
    /// Whether there is a line for each client that connects or disconnects.
    pub connection_messages: bool,
}

/// Where log lines go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum LogDestination {
    Stderr,
    Stdout,
    Syslog,
    /// `$SYS/broker/log/+`.
    Topic,
    /// Opened for appending, and anew at SIGHUP.
    File(PathBuf),
}

/// Mosquitto's kinds of log lines.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LogTypes {
    pub error: bool,
    pub warning: bool,
    pub notice: bool,
    pub information: bool,
    pub debug: bool,
    pub subscribe: bool,
    pub unsubscribe: bool,
    pub websockets: bool,
    pub internal: bool,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LogFormat {
    /// `TIME: text`, as Mosquitto writes it.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl LogTypes {
    pub const NONE: Self = Self {
        error: false,
        warning: false,
        notice: false,
        information: false,
        debug: false,
        subscribe: false,
        unsubscribe: false,
        websockets: false,
        internal: false,
    };

    pub const ALL: Self = Self {
        error: true,
        warning: true,
        notice: true,
        information: true,
        debug: true,
        subscribe: true,
        unsubscribe: true,
        websockets: true,
        internal: true,
    };

    /// The words for the kinds, in Mosquitto's order.
    pub const NAMES: [&'static str; 9] = [
        "error",
        "warning",
        "notice",
        "information",
        "debug",
        "subscribe",
        "unsubscribe",
        "websockets",
        "internal",
    ];

    /// The switch of a kind, by one of `NAMES`.
    pub fn by_name(&mut self, name: &str) -> Option<&mut bool> {
        Some(match name {
            "error" => &mut self.error,
            "warning" => &mut self.warning,
            "notice" => &mut self.notice,
            "information" => &mut self.information,
            "debug" => &mut self.debug,
            "subscribe" => &mut self.subscribe,
            "unsubscribe" => &mut self.unsubscribe,
            "websockets" => &mut self.websockets,
            "internal" => &mut self.internal,
            _ => return None,
        })
    }
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            destinations: vec![LogDestination::Stderr],
            types: None,
            timestamp: true,
            timestamp_format: None,
            format: LogFormat::Text,
            facility: None,
            connection_messages: true,
        }
    }
}
