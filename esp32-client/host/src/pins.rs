//! Pins as files of a folder: `digitalWrite` writes `pin-13`, and every other file is a sensor whose first line is read.

use std::fs;
use std::path::PathBuf;

use nightjar_esp32_core::{Actuator, Refusal, Value};

/// The pins of a computer; without a folder they are lines of the log.
#[derive(Debug, Default)]
pub struct Pins {
    folder: Option<PathBuf>,
}

impl Pins {
    /// Pins in a folder, or in the log.
    #[must_use]
    pub const fn new(folder: Option<PathBuf>) -> Self {
        Self { folder }
    }

    /// What the sensors say, in the order of their names.
    #[must_use]
    pub fn readings(&self) -> Vec<(String, Value)> {
        let entries = self
            .folder
            .as_ref()
            .and_then(|folder| fs::read_dir(folder).ok());
        let mut readings: Vec<(String, Value)> = entries
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                if name.starts_with("pin-") {
                    return None;
                }
                let text = fs::read_to_string(entry.path()).ok()?;
                Some((name, value_of(text.lines().next()?)))
            })
            .collect();
        readings.sort_by(|(one, _), (other, _)| one.cmp(other));
        readings
    }
}

impl Actuator for Pins {
    fn digital_write(&mut self, pin: u8, level: bool) -> Result<(), Refusal> {
        eprintln!("pin {pin} is {}", if level { "high" } else { "low" });
        let Some(folder) = &self.folder else {
            return Ok(());
        };
        let text = if level { "1\n" } else { "0\n" };
        fs::write(folder.join(format!("pin-{pin}")), text)
            .map_err(|_| Refusal("the pin cannot be written"))
    }
}

fn value_of(text: &str) -> Value {
    if let Ok(whole) = text.parse::<i64>() {
        return Value::Whole(whole);
    }
    match (text.parse::<f64>(), text) {
        (Ok(number), _) if number.is_finite() => Value::Number(number),
        (_, "true") => Value::Switch(true),
        (_, "false") => Value::Switch(false),
        _ => Value::from(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_sensors_and_pins() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("b", "21.5\n"),
            ("a", "true"),
            ("c", "open\nmore"),
            ("d", "-3"),
            ("e", ""),
        ] {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let mut pins = Pins::new(Some(folder.path().to_owned()));
        pins.digital_write(4, true).unwrap();
        assert_eq!(
            fs::read_to_string(folder.path().join("pin-4")).unwrap(),
            "1\n"
        );
        let expected = [
            ("a".to_owned(), Value::Switch(true)),
            ("b".to_owned(), Value::Number(21.5)),
            ("c".to_owned(), Value::from("open")),
            ("d".to_owned(), Value::Whole(-3)),
        ];
        assert_eq!(pins.readings(), expected);
    }
}
