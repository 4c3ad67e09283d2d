//! Log lines in the form that Mosquitto's users and their tools read, and where they go.
//!
//! In: `tracing` events and `LogSettings`. Out: `1700000000: text`, one line an event, fields behind the text as ` name=value`,
//! to every destination that was chosen. What a client chose (a client id, a topic) may stand in a line, so control characters
//! are written as escapes and long lines are cut: nobody can forge a line, drive the reader's terminal or fill the disk with
//! 64 KiB names.
//!
//! An event's kind is one of Mosquitto's: what its `target` says (`NOTICE`, `SUBSCRIBE`, ...), else what its level says. Whether
//! a kind is written is asked once for each place in the source, and again when the settings change.

mod line;
mod outputs;
mod topic;

use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use nix::unistd::{Gid, Uid};
use tracing::level_filters::LevelFilter;
use tracing::span;
use tracing::{Event, Level, Metadata, Subscriber};

use crate::clock;
use crate::settings::{LogLevel, LogSettings, LogTypes, Settings};
use line::Line;
use outputs::Outputs;
pub use topic::TopicLines;

/// Target of lines that a person wants to see and need not act on: who comes, who goes.
pub const NOTICE: &str = "notice";
/// Target of a line for each subscription.
pub const SUBSCRIBE: &str = "subscribe";
/// Target of a line for each subscription that ends.
pub const UNSUBSCRIBE: &str = "unsubscribe";
/// Target of what happens below MQTT on a WebSocket.
pub const WEBSOCKETS: &str = "websockets";

/// Sends the events of this process where the settings say. The first call wins; a later one is as `apply`.
pub fn init(settings: &Settings) {
    let log = LOG.get_or_init(|| Log::new(settings));
    if tracing::subscriber::set_global_default(log.clone()).is_err() {
        apply(settings);
    }
}

/// Takes other settings, and opens files anew.
pub fn apply(settings: &Settings) {
    if let Some(log) = LOG.get() {
        log.apply(settings);
        tracing::callsite::rebuild_interest_cache();
    }
}

/// Opens files anew: they were moved away.
pub fn reopen() {
    if let Some(log) = LOG.get() {
        log.outputs().reopen();
    }
}

/// Gives the log files to whom the process is about to become, so that they can be opened anew.
pub fn give_files_to(user: Uid, group: Gid) {
    if let Some(log) = LOG.get() {
        log.outputs().give_to(user, group);
    }
}

/// The lines for `$SYS/broker/log/+`; there when `init` was called.
pub fn topic_lines() -> Option<Arc<TopicLines>> {
    LOG.get().map(|log| Arc::clone(&log.0.topic))
}

static LOG: OnceLock<Log> = OnceLock::new();

/// Mosquitto's kinds of lines, and the packets that its `debug` includes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Error,
    Warning,
    Notice,
    Information,
    Debug,
    Packet,
    Subscribe,
    Unsubscribe,
    WebSockets,
}

impl Kind {
    fn of(metadata: &Metadata<'_>) -> Self {
        match metadata.target() {
            NOTICE => Self::Notice,
            SUBSCRIBE => Self::Subscribe,
            UNSUBSCRIBE => Self::Unsubscribe,
            WEBSOCKETS => Self::WebSockets,
            _ => match *metadata.level() {
                Level::ERROR => Self::Error,
                Level::WARN => Self::Warning,
                Level::INFO => Self::Information,
                Level::DEBUG => Self::Debug,
                Level::TRACE => Self::Packet,
            },
        }
    }

    const fn bit(self) -> u16 {
        1 << self as u16
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Notice => "notice",
            Self::Information => "information",
            Self::Debug | Self::Packet => "debug",
            Self::Subscribe => "subscribe",
            Self::Unsubscribe => "unsubscribe",
            Self::WebSockets => "websockets",
        }
    }
}

#[derive(Clone)]
struct Log(Arc<Inner>);

struct Inner {
    /// The kinds that are written, one bit each.
    kinds: AtomicU16,
    outputs: Mutex<Outputs>,
    topic: Arc<TopicLines>,
}

impl Log {
    fn new(settings: &Settings) -> Self {
        let topic = Arc::new(TopicLines::default());
        Self(Arc::new(Inner {
            kinds: AtomicU16::new(kinds(settings)),
            outputs: Mutex::new(Outputs::open(&settings.log, &topic)),
            topic,
        }))
    }

    fn apply(&self, settings: &Settings) {
        self.0.kinds.store(kinds(settings), Ordering::Relaxed);
        let mut outputs = self.outputs();
        // The old files are closed first: the same file may be in both, and there may be no descriptor to spare.
        let owner = outputs.owner();
        *outputs = Outputs::default();
        *outputs = Outputs::open(&settings.log, &self.0.topic);
        outputs.set_owner(owner);
    }

    /// A panic while a line was written leaves at worst half a line.
    fn outputs(&self) -> std::sync::MutexGuard<'_, Outputs> {
        self.0
            .outputs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.0.kinds.load(Ordering::Relaxed) & Kind::of(metadata).bit() != 0
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(most_detailed(self.0.kinds.load(Ordering::Relaxed)))
    }

    fn event(&self, event: &Event<'_>) {
        let kind = Kind::of(event.metadata());
        let mut line = Line::default();
        event.record(&mut line);
        self.outputs().write(clock::wall(), kind, &line);
    }

    // The program has no spans.
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// The kinds that are written.
fn kinds(settings: &Settings) -> u16 {
    let LogSettings {
        destinations,
        types,
        ..
    } = &settings.log;
    if destinations.is_empty() {
        return 0;
    }
    let bits = |kinds: &[Kind]| kinds.iter().fold(0, |bits, kind| bits | kind.bit());
    let Some(types) = types else {
        let error = bits(&[Kind::Error]);
        let warning = error | bits(&[Kind::Warning]);
        let information = warning | bits(&[Kind::Notice, Kind::Information]);
        let debug = information
            | bits(&[
                Kind::Debug,
                Kind::Subscribe,
                Kind::Unsubscribe,
                Kind::WebSockets,
            ]);
        return match settings.log_level {
            LogLevel::None => 0,
            LogLevel::Error => error,
            LogLevel::Warning => warning,
            LogLevel::Information => information,
            LogLevel::Debug => debug,
            LogLevel::All => debug | bits(&[Kind::Packet]),
        };
    };
    let LogTypes {
        error,
        warning,
        notice,
        information,
        debug,
        subscribe,
        unsubscribe,
        websockets,
        internal: _, // Mosquitto's own; nothing here is of that kind.
    } = *types;
    [
        (error, Kind::Error),
        (warning, Kind::Warning),
        (notice, Kind::Notice),
        (information, Kind::Information),
        (debug, Kind::Debug),
        (debug, Kind::Packet),
        (subscribe, Kind::Subscribe),
        (unsubscribe, Kind::Unsubscribe),
        (websockets, Kind::WebSockets),
    ]
    .into_iter()
    .filter(|(on, _)| *on)
    .fold(0, |bits, (_, kind)| bits | kind.bit())
}

/// Events above this level are not looked at.
fn most_detailed(kinds: u16) -> LevelFilter {
    let has = |some: &[Kind]| some.iter().any(|kind| kinds & kind.bit() != 0);
    if has(&[Kind::Packet]) {
        LevelFilter::TRACE
    } else if has(&[
        Kind::Debug,
        Kind::Subscribe,
        Kind::Unsubscribe,
        Kind::WebSockets,
    ]) {
        LevelFilter::DEBUG
    } else if has(&[Kind::Information, Kind::Notice]) {
        LevelFilter::INFO
    } else if has(&[Kind::Warning]) {
        LevelFilter::WARN
    } else if has(&[Kind::Error]) {
        LevelFilter::ERROR
    } else {
        LevelFilter::OFF
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{LogDestination, LogFormat};
    use std::path::PathBuf;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn a_line_is_epoch_seconds_then_text() {
        let lines = at_level(LogLevel::Information, || {
            tracing::info!("nightjar version 1 starting")
        });
        let (seconds, text) = lines.split_once(": ").unwrap();
        assert_eq!(seconds.len(), 10);
        assert!(seconds.bytes().all(|byte| byte.is_ascii_digit()));
        assert_eq!(text, "nightjar version 1 starting\n");
    }

    #[test]
    fn fields_follow_the_text_and_warnings_say_so() {
        let lines = at_level(LogLevel::Warning, || {
            tracing::warn!(queued = 7, name = "a b", "Queue full")
        });
        assert!(
            lines.ends_with(": Warning: Queue full queued=7 name=\"a b\"\n"),
            "{lines}"
        );
    }

    #[test]
    fn a_client_cannot_forge_a_line_or_send_escapes() {
        let lines = at_level(LogLevel::Information, || {
            let client_id = "x\n1700000000: forged\u{1b}[2J\u{202e}";
            tracing::info!("New client connected as {client_id}");
            tracing::info!(client_id, "again");
        });
        assert_eq!(lines.lines().count(), 2);
        assert!(!lines.contains('\u{1b}') && !lines.contains('\u{202e}'));
        assert!(lines.contains("x\\u{a}1700000000: forged\\u{1b}[2J"));
    }

    #[test]
    fn a_long_name_is_cut() {
        let name = "long".repeat(10_000);
        let lines = at_level(LogLevel::Information, || {
            tracing::info!(name, "New client connected as {name}.");
        });
        assert_eq!(lines.lines().count(), 1);
        assert!(lines.len() < 3 * line::BYTES_MAX && lines.contains('…'));
    }

    fn say() {
        tracing::error!("1");
        tracing::warn!("2");
        tracing::info!(target: NOTICE, "3");
        tracing::info!("4");
        tracing::debug!(target: SUBSCRIBE, "5");
        tracing::debug!(target: UNSUBSCRIBE, "6");
        tracing::debug!(target: WEBSOCKETS, "7");
        tracing::debug!("8");
        tracing::trace!("9");
    }

    #[test]
    fn each_level_holds_back_what_is_below_it() {
        let expected = [
            (LogLevel::None, ""),
            (LogLevel::Error, "1"),
            (LogLevel::Warning, "12"),
            (LogLevel::Information, "1234"),
            (LogLevel::Debug, "12345678"),
            (LogLevel::All, "123456789"),
        ];
        for (level, numbers) in expected {
            assert_eq!(digits(&at_level(level, say)), numbers, "{level:?}");
        }
    }

    #[test]
    fn each_type_is_written_alone() {
        let expected = [
            ("error", "1"),
            ("warning", "2"),
            ("notice", "3"),
            ("information", "4"),
            ("subscribe", "5"),
            ("unsubscribe", "6"),
            ("websockets", "7"),
            ("debug", "89"),
            ("internal", ""),
        ];
        for (name, numbers) in expected {
            let mut types = LogTypes::NONE;
            *types.by_name(name).unwrap() = true;
            let lines = capture(
                |settings| {
                    settings.log.types = Some(types);
                    settings.log.timestamp = false;
                },
                say,
            );
            assert_eq!(digits(&lines), numbers, "{name}: {lines}");
        }
    }

    #[test]
    fn the_time_may_be_written_otherwise_or_not_at_all() {
        let bare = capture(
            |settings| settings.log.timestamp = false,
            || tracing::info!("text"),
        );
        assert_eq!(bare, "text\n");
        let dated = capture(
            |settings| settings.log.timestamp_format = Some("%Y-%m-%dT%H:%M:%S".into()),
            || tracing::info!("text"),
        );
        assert_eq!(dated.len(), "2026-11-21T13:00:00: text\n".len(), "{dated}");
        assert!(dated.starts_with("20") && dated.ends_with(": text\n"));
        // Nothing that a person writes there costs the line.
        let odd = capture(
            |settings| settings.log.timestamp_format = Some("%!".into()),
            || tracing::info!("text"),
        );
        assert!(odd.ends_with(": text\n"), "{odd}");
    }

    #[test]
    fn json_is_one_object_a_line() {
        let lines = capture(
            |settings| settings.log.format = LogFormat::Json,
            || {
                tracing::info!(target: NOTICE, peer = "a\"b", "say \"{}\"", "x\ny");
                tracing::warn!(count = 3, "two");
            },
        );
        let objects: Vec<serde_json::Value> = lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(objects[0]["level"], "notice");
        assert_eq!(objects[0]["message"], "say \"x\\u{a}y\"");
        assert_eq!(objects[1]["level"], "warning");
        assert_eq!(objects[1]["fields"], "count=3");
        assert!(objects[1]["time"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn lines_for_the_topic_are_bounded_and_never_those_of_packets() {
        let settings = Settings {
            log_level: LogLevel::All,
            log: LogSettings {
                destinations: vec![LogDestination::Topic],
                ..LogSettings::default()
            },
            ..Settings::default()
        };
        let log = Log::new(&settings);
        tracing::subscriber::with_default(log.clone(), || {
            say();
            for _ in 0..10_000 {
                tracing::info!("more");
            }
        });
        let lines = log.0.topic.take();
        let topics: Vec<&str> = lines.iter().map(|(topic, _)| &**topic).collect();
        assert_eq!(
            topics[..6],
            ["E", "W", "N", "I", "M/subscribe", "M/unsubscribe"]
                .map(|last| format!("$SYS/broker/log/{last}"))
        );
        assert_eq!(&*lines[2].1, "3");
        assert_eq!(lines.len(), topic::LINES_MAX + 1);
        let (topic, text) = lines.last().unwrap();
        assert_eq!(&**topic, "$SYS/broker/log/W");
        assert_eq!(
            &**text,
            &*format!("{} log lines were left out.", 10_006 - topic::LINES_MAX)
        );
        assert!(log.0.topic.take().is_empty());
    }

    #[test]
    fn a_file_that_cannot_be_opened_costs_no_line_of_the_others() {
        let missing = PathBuf::from("/nonexistent/nightjar.log");
        let lines = capture(
            |settings| {
                let destinations = &mut settings.log.destinations;
                destinations.insert(0, LogDestination::File(missing));
            },
            || tracing::info!("text"),
        );
        assert!(lines.ends_with(": text\n"), "{lines}");
    }

    fn digits(lines: &str) -> String {
        lines
            .lines()
            .map(|line| line.rsplit(": ").next().unwrap())
            .collect()
    }

    fn at_level(level: LogLevel, work: impl FnOnce()) -> String {
        capture(|settings| settings.log_level = level, work)
    }

    /// What is written to a file.
    fn capture(choose: impl FnOnce(&mut Settings), work: impl FnOnce()) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("nightjar-logging-{}-{number}.log", std::process::id());
        let path = std::env::temp_dir().join(name);
        let mut settings = Settings::default();
        settings.log.destinations = vec![LogDestination::File(path.clone())];
        choose(&mut settings);
        tracing::subscriber::with_default(Log::new(&settings), work);
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let _ = std::fs::remove_file(&path);
        text
    }
}
