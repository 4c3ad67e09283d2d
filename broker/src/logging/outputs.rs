//! Where log lines go, and the form they have there.
//!
//! Nothing here may log: the caller holds the log. What goes wrong is said on standard error, once.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, fchown};
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use nix::unistd::{Gid, Uid};
use syslog::{Facility, Formatter3164, Logger, LoggerBackend};

use super::Kind;
use super::line::Line;
use super::topic::TopicLines;
use crate::settings::{LogDestination, LogFormat, LogSettings};

/// The destinations, open.
#[derive(Default)]
pub(super) struct Outputs {
    stderr: bool,
    stdout: bool,
    files: Vec<LogFile>,
    syslog: Option<Syslog>,
    topic: Option<Arc<TopicLines>>,
    timestamp: bool,
    timestamp_format: Option<Box<str>>,
    format: LogFormat,
    owner: Option<(Uid, Gid)>,
}

struct LogFile {
    path: PathBuf,
    /// `None`: it cannot be written, and standard error gets its lines.
    file: Option<File>,
}

struct Syslog {
    facility: Facility,
    /// `None`: nobody listens; asked for again with the next line.
    socket: Option<Logger<LoggerBackend, Formatter3164>>,
}

impl Outputs {
    pub(super) fn open(settings: &LogSettings, topic: &Arc<TopicLines>) -> Self {
        let mut outputs = Self {
            timestamp: settings.timestamp,
            timestamp_format: settings.timestamp_format.clone(),
            format: settings.format,
            ..Self::default()
        };
        for destination in &settings.destinations {
            match destination {
                LogDestination::Stderr => outputs.stderr = true,
                LogDestination::Stdout => outputs.stdout = true,
                LogDestination::Topic => outputs.topic = Some(Arc::clone(topic)),
                LogDestination::Syslog => {
                    outputs.syslog = Some(Syslog::new(settings.facility));
                }
                LogDestination::File(path) => {
                    outputs.files.push(LogFile {
                        path: path.clone(),
                        file: None,
                    });
                }
            }
        }
        outputs.reopen();
        if let Some(syslog) = &mut outputs.syslog
            && let Err(error) = syslog.connect()
        {
            complain(&format!("Syslog cannot be reached ({error})."));
        }
        outputs
    }

    pub(super) fn reopen(&mut self) {
        for file in &mut self.files {
            // The old one is closed first, so that its descriptor is there for the new one.
            file.file = None;
            match file.open() {
                Ok(opened) => {
                    if let Some((user, group)) = self.owner {
                        give(&opened, user, group);
                    }
                    file.file = Some(opened);
                }
                // The first words are Mosquitto's.
                Err(error) => complain(&format!(
                    "Unable to open log file {} for writing: {error}. Its lines go to standard error.",
                    file.path.display()
                )),
            }
        }
    }

    pub(super) fn give_to(&mut self, user: Uid, group: Gid) {
        for file in self.files.iter().filter_map(|file| file.file.as_ref()) {
            give(file, user, group);
        }
    }

    pub(super) fn owner(&self) -> Option<(Uid, Gid)> {
        self.owner
    }

    pub(super) fn set_owner(&mut self, owner: Option<(Uid, Gid)>) {
        self.owner = owner;
    }

    pub(super) fn write(&mut self, wall: u64, kind: Kind, line: &Line) {
        let text = format!("{}{}{}", severity(kind), line.text, line.fields);
        if let Some(topic) = &self.topic {
            topic.push(kind, &text);
        }
        if let Some(syslog) = &mut self.syslog {
            syslog.write(kind, &text);
        }
        if !self.stderr && !self.stdout && self.files.is_empty() {
            return;
        }
        let whole = match self.format {
            LogFormat::Text if self.timestamp => format!("{}: {text}\n", self.time(wall)),
            LogFormat::Text => format!("{text}\n"),
            LogFormat::Json => self.json(wall, kind, line),
        };
        let mut to_stderr = self.stderr;
        for file in &mut self.files {
            to_stderr |= match &mut file.file {
                Some(opened) => opened.write_all(whole.as_bytes()).is_err(),
                None => true,
            };
        }
        // Whoever reads them may be gone: a broker does not stop for that.
        if to_stderr {
            let _ = io::stderr().write_all(whole.as_bytes());
        }
        if self.stdout {
            let mut stdout = io::stdout().lock();
            let _ = stdout.write_all(whole.as_bytes());
            let _ = stdout.flush();
        }
    }

    fn time(&self, wall: u64) -> String {
        let formatted = self.timestamp_format.as_ref().and_then(|format| {
            let time = timestamp(wall).to_zoned(TimeZone::system());
            jiff::fmt::strtime::format(&**format, &time).ok()
        });
        formatted.unwrap_or_else(|| (wall / 1000).to_string())
    }

    fn json(&self, wall: u64, kind: Kind, line: &Line) -> String {
        let mut object = serde_json::Map::new();
        if self.timestamp {
            let time = match self.timestamp_format {
                Some(_) => self.time(wall),
                None => format!("{:.3}", timestamp(wall)),
            };
            object.insert("time".into(), time.into());
        }
        object.insert("level".into(), kind.name().into());
        object.insert("message".into(), line.text.as_str().into());
        if !line.fields.is_empty() {
            object.insert("fields".into(), line.fields.trim_start().into());
        }
        format!("{}\n", serde_json::Value::from(object))
    }
}

impl LogFile {
    fn open(&self) -> io::Result<File> {
        // Client ids and addresses are nobody else's business.
        OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o640)
            .open(&self.path)
    }
}

impl Syslog {
    fn new(facility: Option<u8>) -> Self {
        Self {
            facility: match facility {
                Some(0) => Facility::LOG_LOCAL0,
                Some(1) => Facility::LOG_LOCAL1,
                Some(2) => Facility::LOG_LOCAL2,
                Some(3) => Facility::LOG_LOCAL3,
                Some(4) => Facility::LOG_LOCAL4,
                Some(5) => Facility::LOG_LOCAL5,
                Some(6) => Facility::LOG_LOCAL6,
                Some(7) => Facility::LOG_LOCAL7,
                _ => Facility::LOG_DAEMON,
            },
            socket: None,
        }
    }

    fn connect(&mut self) -> Result<(), syslog::Error> {
        let formatter = Formatter3164 {
            facility: self.facility,
            hostname: None,
            process: "nightjar".into(),
            pid: std::process::id(),
        };
        self.socket = Some(syslog::unix(formatter)?);
        Ok(())
    }

    /// A line that syslog does not take is lost, as it is with syslog(3).
    fn write(&mut self, kind: Kind, text: &str) {
        if self.socket.is_none() && self.connect().is_err() {
            return;
        }
        let Some(socket) = &mut self.socket else {
            return;
        };
        let written = match kind {
            Kind::Error => socket.err(text),
            Kind::Warning => socket.warning(text),
            Kind::Notice | Kind::Subscribe | Kind::Unsubscribe => socket.notice(text),
            Kind::Information => socket.info(text),
            Kind::Debug | Kind::Packet | Kind::WebSockets => socket.debug(text),
        };
        if written.is_err() {
            self.socket = None;
        }
    }
}

fn severity(kind: Kind) -> &'static str {
    match kind {
        Kind::Error => "Error: ",
        Kind::Warning => "Warning: ",
        _ => "",
    }
}

fn timestamp(wall: u64) -> Timestamp {
    i64::try_from(wall)
        .ok()
        .and_then(|wall| Timestamp::from_millisecond(wall).ok())
        .unwrap_or(Timestamp::UNIX_EPOCH)
}

fn give(file: &File, user: Uid, group: Gid) {
    if let Err(error) = fchown(file, Some(user.as_raw()), Some(group.as_raw())) {
        complain(&format!("A log file keeps its owner: {error}."));
    }
}

fn complain(text: &str) {
    let seconds = crate::clock::wall() / 1000;
    let _ = writeln!(io::stderr(), "{seconds}: Warning: {text}");
}
