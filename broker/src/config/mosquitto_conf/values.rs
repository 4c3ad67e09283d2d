//! The values of one line: switches, numbers and text, and how they are shown to people.

use super::options::{Kind, Opt};

/// A value, read as its option wants it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Given<'a> {
    Switch(bool),
    Number(i64),
    Text(&'a str),
}

impl<'a> Given<'a> {
    pub(super) fn on(self) -> bool {
        matches!(self, Self::Switch(true))
    }

    pub(super) fn number(self) -> i64 {
        match self {
            Self::Number(number) => number,
            Self::Switch(_) | Self::Text(_) => 0,
        }
    }

    /// The number, with whatever is negative as 0 and whatever is too large as the largest.
    pub(super) fn clamped<T: TryFrom<i64>>(self, largest: T) -> T {
        T::try_from(self.number().max(0)).unwrap_or(largest)
    }

    pub(super) fn text(self) -> &'a str {
        match self {
            Self::Text(text) => text,
            Self::Switch(_) | Self::Number(_) => "",
        }
    }

    pub(super) fn words(self) -> impl Iterator<Item = &'a str> {
        self.text().split(is_space).filter(|word| !word.is_empty())
    }
}

pub(super) fn is_space(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\r' | '\x0b' | '\x0c')
}

/// Reads what stands behind the name.
pub(super) fn read<'a>(option: &Opt, name: &str, rest: &'a str) -> Result<Given<'a>, String> {
    if rest.is_empty() && option.kind != Kind::Any {
        let title = if name == "listener" {
            "listener port"
        } else {
            name
        };
        let wanted = match option.kind {
            Kind::Switch => "Write true or false behind it.",
            Kind::Number(..) => "Write a number behind it.",
            Kind::Text | Kind::Line | Kind::Any => "Write a value behind it, or remove the line.",
        };
        return Err(format!("Empty '{title}' value in configuration. {wanted}"));
    }
    let word = rest.split(is_space).next().unwrap_or_default();
    match option.kind {
        Kind::Switch => match word {
            "true" | "1" => Ok(Given::Switch(true)),
            "false" | "0" => Ok(Given::Switch(false)),
            _ => Err(format!(
                "Invalid '{name}' value ({}). Write true or false.",
                show(word)
            )),
        },
        Kind::Number(minimum, maximum) => {
            let number = integer(word).ok_or_else(|| {
                format!(
                    "'{name}' value not a number. Write a whole number instead of '{}'.",
                    show(word)
                )
            })?;
            if (minimum..=maximum).contains(&number) {
                Ok(Given::Number(number))
            } else {
                Err(format!(
                    "Invalid '{name}' value ({}). Use {minimum} to {maximum}.",
                    show(word)
                ))
            }
        }
        Kind::Text if rest.len() > TEXT_BYTES_MAX => Err(format!(
            "Invalid '{name}' value ({}). It is longer than {TEXT_BYTES_MAX} bytes.",
            show(rest)
        )),
        Kind::Text | Kind::Line | Kind::Any => Ok(Given::Text(rest)),
    }
}

/// No value is longer than a topic can be.
pub(super) fn check_length(name: &str, rest: &str) -> Result<(), String> {
    if rest.len() > LINE_BYTES_MAX {
        return Err(format!(
            "Invalid '{}' value ({}). It is longer than {LINE_BYTES_MAX} bytes.",
            show(name),
            show(rest)
        ));
    }
    Ok(())
}

/// A whole word as strtol reads it with base 0: `0x` is hexadecimal, a leading 0 octal. What is out of range is at the limit.
pub(super) fn integer(word: &str) -> Option<i64> {
    let (negative, digits) = match word.as_bytes().first()? {
        b'-' => (true, word.get(1..)?),
        b'+' => (false, word.get(1..)?),
        _ => (false, word),
    };
    let (radix, digits) = match digits.get(..2) {
        Some("0x" | "0X") => (16, digits.get(2..)?),
        _ if digits.len() > 1 && digits.starts_with('0') => (8, digits.get(1..)?),
        _ => (10, digits),
    };
    let is_number = !digits.is_empty() && digits.chars().all(|digit| digit.is_digit(radix));
    is_number.then(|| {
        let number = i64::from_str_radix(digits, radix).unwrap_or(i64::MAX);
        if negative { -number } else { number }
    })
}

/// Puts environment variables in the place of `${NAME}`.
pub(super) fn expand(
    value: &str,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<String, String> {
    let mut expanded = String::with_capacity(value.len());
    let mut rest = value;
    while let Some(at) = rest.find("${") {
        let (before, after) = rest.split_at(at);
        let after = after.get(2..).unwrap_or_default();
        if let Some(before) = before.strip_suffix('$') {
            expanded.push_str(before);
            expanded.push_str("${");
            rest = after;
            continue;
        }
        expanded.push_str(before);
        let Some((name, behind)) = after.split_once('}').filter(|(name, _)| is_variable(name))
        else {
            expanded.push_str("${");
            rest = after;
            continue;
        };
        let content = variable(name).ok_or_else(|| {
            format!(
                "The environment variable '{}' is not set. Set it, or write $${{...}} if the text is meant as it stands.",
                show(name)
            )
        })?;
        expanded.push_str(content.trim_end_matches(['\n', '\r']));
        if expanded.len() > VALUE_BYTES_MAX || expanded.contains(['\n', '\0']) {
            return Err(format!(
                "The environment variable '{}' has more than one line or is too long.",
                show(name)
            ));
        }
        rest = behind;
    }
    expanded.push_str(rest);
    Ok(expanded)
}

fn is_variable(name: &str) -> bool {
    let mut letters = name.bytes();
    letters
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && letters.all(|letter| letter.is_ascii_alphanumeric() || letter == b'_')
}

/// Words of the file as they may stand in a message: not long, and without what drives a terminal.
pub(super) fn show(words: &str) -> String {
    let mut shown: String = words
        .chars()
        .take(SHOWN_MAX)
        .flat_map(|letter| {
            let harmful = letter.is_control()
                || matches!(letter, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
            if harmful {
                letter.escape_unicode().collect::<Vec<_>>()
            } else {
                vec![letter]
            }
        })
        .collect();
    if words.chars().nth(SHOWN_MAX).is_some() {
        shown.push('…');
    }
    shown
}

/// A line as it may be printed: what may be a secret is left out.
pub(super) fn without_secret(name: &str, line: &str) -> String {
    let secret = [
        "password",
        "remote_password",
        "local_password",
        "bridge_psk",
    ]
    .contains(&name)
        || name.starts_with("plugin_opt_")
        || name.starts_with("auth_opt_");
    if secret && !name.ends_with("_file") {
        format!("{name} ***")
    } else {
        show_line(line)
    }
}

fn show_line(line: &str) -> String {
    line.chars()
        .filter(|letter| !letter.is_control())
        .take(LINE_SHOWN_MAX)
        .collect()
}

const SHOWN_MAX: usize = 64;
const LINE_SHOWN_MAX: usize = 160;
/// Of paths and names.
const TEXT_BYTES_MAX: usize = 4_096;
/// Of what may hold several things.
const LINE_BYTES_MAX: usize = 65_535;
/// Of a value with its variables in place.
const VALUE_BYTES_MAX: usize = 65_536;
