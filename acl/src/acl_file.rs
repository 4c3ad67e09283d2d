//! Mosquitto's acl_file, line by line.
//!
//! `user NAME`, `topic [read|write|readwrite|deny] FILTER`, `pattern [read|write|readwrite|deny] FILTER`. What stands before
//! the first `user` is for clients without a user name; a `pattern` is for everybody wherever it stands. Words are divided by
//! spaces, not by tabs; `#` begins a comment in the first column only.

use nightjar_codec::topic::validate_topic_filter;

use crate::rule::{Actions, Effect, Rule, Subject};
use crate::{Error, ErrorKind, Warning};

/// What is in the file, in its order.
pub(crate) struct Contents {
    pub(crate) rules: Vec<Rule>,
    pub(crate) warnings: Vec<Warning>,
    pub(crate) errors: Vec<Error>,
}

/// Reads a whole file; an error of one line does not hide those of the next.
pub(crate) fn read(file: &str, text: &[u8]) -> Contents {
    let mut contents = Contents {
        rules: Vec::new(),
        warnings: Vec::new(),
        errors: Vec::new(),
    };
    let mut subject = Subject::Anonymous;
    for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
        let number = u32::try_from(index).map_or(u32::MAX, |index| index + 1);
        let read = std::str::from_utf8(line)
            .map_err(|_| ErrorKind::NotUtf8)
            .and_then(|line| read_line(line, number, &mut subject, &mut contents));
        if let Err(kind) = read {
            contents.errors.push(Error {
                file: file.into(),
                line: Some(number),
                kind,
            });
        }
    }
    contents
}

fn read_line(
    line: &str,
    number: u32,
    subject: &mut Subject,
    contents: &mut Contents,
) -> Result<(), ErrorKind> {
    let line = line.trim_end_matches(is_space);
    if line.starts_with('#') {
        return Ok(());
    }
    let Some((keyword, rest)) = next_word(line) else {
        return Ok(());
    };
    match keyword {
        "topic" => {
            let rule = read_rule(rest, subject.clone(), number, false)?;
            contents.rules.push(rule);
        }
        "pattern" => {
            let rule = read_rule(rest, Subject::Everybody, number, true)?;
            if !rule.has_names() {
                contents.warnings.push(Warning {
                    line: number,
                    text: format!(
                        "ACL pattern '{}' does not contain '%c' or '%u'.",
                        rule.filter
                    ),
                });
            }
            contents.rules.push(rule);
        }
        "user" => {
            let name = rest.trim_matches(is_space);
            if name.is_empty() {
                return Err(ErrorKind::MissingUser);
            }
            *subject = Subject::User(name.into());
        }
        other => return Err(ErrorKind::InvalidLine(other.into())),
    }
    Ok(())
}

fn read_rule(rest: &str, subject: Subject, line: u32, with_names: bool) -> Result<Rule, ErrorKind> {
    let (first, rest) = next_word(rest).ok_or(ErrorKind::EmptyTopic)?;
    let filter = rest.trim_matches(is_space);
    let (effect, actions, filter) = if filter.is_empty() {
        (Effect::Allow, Actions::ALL, first)
    } else {
        match first {
            "read" => (Effect::Allow, Actions::READ, filter),
            "write" => (Effect::Allow, Actions::WRITE, filter),
            "readwrite" => (Effect::Allow, Actions::ALL, filter),
            "deny" => (Effect::Deny, Actions::ALL, filter),
            other => return Err(ErrorKind::InvalidAccess(other.into())),
        }
    };
    validate_topic_filter(filter).map_err(|_| ErrorKind::InvalidFilter(filter.into()))?;
    Ok(Rule::new(
        effect, actions, subject, filter, line, with_names,
    ))
}

/// The next word and what is behind the one space that ends it.
fn next_word(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start_matches(' ');
    if text.is_empty() {
        return None;
    }
    Some(text.split_once(' ').unwrap_or((text, "")))
}

fn is_space(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}
