//! The words of one log line, escaped and cut.

use std::fmt::{self, Write};

use tracing::field::{Field, Visit};

/// The parts of one line, already escaped.
#[derive(Default)]
pub(super) struct Line {
    pub(super) text: String,
    /// Each with a space before it.
    pub(super) fields: String,
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
            if self.0.len() >= BYTES_MAX {
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
pub(super) const BYTES_MAX: usize = 1024;
