//! Log lines on standard error, in the form that Mosquitto's users and their tools read.
//!
//! In: `tracing` events. Out: `1700000000: text`, one line an event, fields behind the text as
//! ` name=value`. What a client chose (a client id, a topic) may stand in a line, so control
//! characters are written as escapes and long lines are cut: nobody can forge a line, drive the
//! reader's terminal or fill the disk with 64 KiB names.

use crate::clock;
use crate::settings::LogLevel;
use std::fmt::{self, Write};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Sends the events of this process to standard error. The first call wins, later ones do nothing.
pub fn init(level: LogLevel) {
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(filter(level))
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .event_format(MosquittoStyle)
        .finish();
    // Fails only if a subscriber is there already, as when tests of one process each start a broker.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::None => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warning => LevelFilter::WARN,
        LogLevel::Information => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::All => LevelFilter::TRACE,
    }
}

struct MosquittoStyle;

impl<S, N> FormatEvent<S, N> for MosquittoStyle
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = Line::default();
        event.record(&mut line);
        let severity = match *event.metadata().level() {
            Level::ERROR => "Error: ",
            Level::WARN => "Warning: ",
            _ => "",
        };
        let seconds = clock::wall() / 1_000;
        writeln!(writer, "{seconds}: {severity}{}{}", line.text, line.fields)
    }
}

/// The parts of one line, already escaped.
#[derive(Default)]
struct Line {
    text: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing into a String cannot fail.
        let _ = if field.name() == "message" {
            write!(Escape(&mut self.text), "{value:?}")
        } else {
            write!(Escape(&mut self.fields), " {}={value:?}", field.name())
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let _ = if field.name() == "message" {
            write!(Escape(&mut self.text), "{value}")
        } else {
            write!(Escape(&mut self.fields), " {}={value:?}", field.name())
        };
    }
}

/// Passes text on with control characters and the characters that reorder a line as `\u{..}`.
struct Escape<'a>(&'a mut String);

impl Write for Escape<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            if self.0.len() >= LINE_BYTES_MAX {
                if !self.0.ends_with('…') {
                    self.0.push('…');
                }
                break;
            }
            let harmful = character.is_control()
                || matches!(character, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
            if harmful {
                write!(self.0, "{}", character.escape_unicode())?;
            } else {
                self.0.push(character);
            }
        }
        Ok(())
    }
}

/// Bytes of a line's text, and of its fields.
const LINE_BYTES_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::{Arc, Mutex};
    use tracing_subscriber::fmt::MakeWriter;

    #[test]
    fn a_line_is_epoch_seconds_then_text() {
        let lines = capture(LogLevel::Information, || {
            tracing::info!("nightjar version 1 starting")
        });
        let (seconds, text) = lines.split_once(": ").unwrap();
        assert_eq!(seconds.len(), 10);
        assert!(seconds.bytes().all(|byte| byte.is_ascii_digit()));
        assert_eq!(text, "nightjar version 1 starting\n");
    }

    #[test]
    fn fields_follow_the_text_and_warnings_say_so() {
        let lines = capture(LogLevel::Warning, || {
            tracing::warn!(queued = 7, name = "a b", "Queue full")
        });
        assert!(
            lines.ends_with(": Warning: Queue full queued=7 name=\"a b\"\n"),
            "{lines}"
        );
    }

    #[test]
    fn a_client_cannot_forge_a_line_or_send_escapes() {
        let lines = capture(LogLevel::Information, || {
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
        let lines = capture(LogLevel::Information, || {
            tracing::info!(name, "New client connected as {name}.");
        });
        assert_eq!(lines.lines().count(), 1);
        assert!(lines.len() < 3 * LINE_BYTES_MAX && lines.contains('…'));
    }

    #[test]
    fn each_level_holds_back_what_is_below_it() {
        let say = || {
            tracing::error!("1");
            tracing::warn!("2");
            tracing::info!("3");
            tracing::debug!("4");
            tracing::trace!("5");
        };
        let expected = [
            (LogLevel::None, 0),
            (LogLevel::Error, 1),
            (LogLevel::Warning, 2),
            (LogLevel::Information, 3),
            (LogLevel::Debug, 4),
            (LogLevel::All, 5),
        ];
        for (level, count) in expected {
            assert_eq!(capture(level, say).lines().count(), count, "{level:?}");
        }
    }

    fn capture(level: LogLevel, work: impl FnOnce()) -> String {
        let sink = Sink::default();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(filter(level))
            .with_ansi(false)
            .with_writer(sink.clone())
            .event_format(MosquittoStyle)
            .finish();
        tracing::subscriber::with_default(subscriber, work);
        let bytes = sink.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Sink {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }
}
