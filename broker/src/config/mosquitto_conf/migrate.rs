//! What becomes of each line of a mosquitto.conf, and the nightjar.toml that means the same.

use super::{Fate, ReadLine, World, read_lines};
use crate::config::{ConfigError, Loaded, toml};
use std::fmt::Write;
use std::path::Path;

/// A nightjar.toml with the report in its comments.
pub(in crate::config) fn migrate(
    path: &Path,
    bytes: &[u8],
    world: &World<'_>,
) -> Result<String, ConfigError> {
    let (loaded, faults, lines) = read_lines(path, bytes, world);
    if !faults.is_empty() {
        return Err(ConfigError::Invalid(faults));
    }
    Ok(report(path, &lines, &loaded))
}

fn report(path: &Path, lines: &[ReadLine], loaded: &Loaded) -> String {
    let mut text = String::new();
    // Writing into a String cannot fail.
    let _ = writeln!(text, "# From {}. What became of its lines:", shown(path));
    let mut file = path;
    for line in lines {
        if *line.place.file != *file {
            file = &line.place.file;
            let _ = writeln!(text, "# {}:", shown(file));
        }
        let (word, reason) = match &line.fate {
            Fate::Same => ("same", None),
            Fate::Changed(reason) => ("changed", Some(reason)),
            Fate::Ignored(reason) | Fate::Lost(reason) => ("ignored", Some(reason)),
        };
        let _ = write!(text, "# {:>4} {word:<8} {}", line.place.line, line.text);
        if !line.key.is_empty() {
            let _ = write!(text, "  ->  {}", line.key);
        }
        if let Some(reason) = reason {
            let _ = write!(text, "  ({reason})");
        }
        text.push('\n');
    }
    for (title, notes) in [
        ("Look at this", &loaded.notes),
        ("Not in this version", &loaded.not_yet),
    ] {
        for note in notes {
            let _ = writeln!(text, "# {title}: {note}");
        }
    }
    if loaded.settings.max_packet_size == 2_000_000 {
        text.push_str(
            "# Note: packets above max_packet_size = 2000000 are refused. Mosquitto 2.1 does the same; 2.0 had no limit.\n",
        );
    }
    text.push('\n');
    text + &toml::write::changed(&loaded.settings)
}

fn shown(path: &Path) -> String {
    super::values::show(&path.display().to_string())
}
