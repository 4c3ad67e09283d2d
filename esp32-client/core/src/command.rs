//! Commands: what a message asks for, whether it is still to be done, and what is answered.
//!
//! A command is `{"id":7,"believerGuarantee":"RECEIPT_CONFIRMATION","command":"digitalWrite","currentTimestamp":1772021717684,
//! "data":{"pinNumber":13,"pinValue":true}}`; `command_id`, `action` and `expires_at` are understood, too. It is answered twice:
//! `{"id":7,"deliveryStatus":"DELIVERED"}` when it is taken, then `COMPLETED` or `COMPLETED_WITH_ERROR` with a `reason`. With the guarantee
//! `NO` nothing is answered.
//!
//! What is not done is answered, too, with `refused`: `duplicate` (with what became of it the first time), `expired`, `clock unknown`
//! (it has an expiry and the device does not know the time), `retained`, `malformed`. Ids are remembered up to a bound, the oldest
//! forgotten first, and only while there is power.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::time::Now;

/// What a device can do.
pub trait Actuator {
    /// Sets a pin high or low.
    ///
    /// # Errors
    /// Says in a word why not.
    fn digital_write(&mut self, pin: u8, level: bool) -> Result<(), Refusal>;

    /// Does any other command.
    ///
    /// # Errors
    /// Says in a word why not.
    fn other(&mut self, command: &str, data: &Value) -> Result<(), Refusal> {
        let _ = (command, data);
        Err(Refusal("unknown command"))
    }
}

/// Why a command was not done, in a few words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal(pub &'static str);

/// How commands went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Done.
    pub completed: u64,
    /// Tried, and failed.
    pub failed: u64,
    /// Came twice, and were done once.
    pub duplicate: u64,
    /// Came too late, or could not be judged.
    pub expired: u64,
    /// Could not be understood, or were retained.
    pub malformed: u64,
}

/// Remembers commands and decides about them.
#[derive(Debug)]
pub struct Commands {
    remembered: VecDeque<(Id, Status)>,
    ids_max: usize,
    age_max: Option<Duration>,
    tally: Tally,
}

/// What is to be answered, in this order; empty where nothing is.
pub type Answers = Vec<Vec<u8>>;

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged)]
enum Id {
    Number(i64),
    Text(Box<str>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum Status {
    Delivered,
    Completed,
    CompletedWithError,
}

#[derive(Deserialize)]
struct Request {
    #[serde(alias = "command_id")]
    id: Id,
    #[serde(default, rename = "believerGuarantee")]
    guarantee: Guarantee,
    #[serde(alias = "action")]
    command: Box<str>,
    #[serde(default, rename = "currentTimestamp")]
    current_timestamp: Option<u64>,
    #[serde(default, alias = "expiresAt")]
    expires_at: Option<Moment>,
    #[serde(default, alias = "params", alias = "parameters")]
    data: Value,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum Guarantee {
    No,
    #[default]
    ReceiptConfirmation,
    OnlyLast,
}

/// Milliseconds since 1970, or RFC 3339.
#[derive(Deserialize)]
#[serde(untagged)]
enum Moment {
    Millis(u64),
    Text(Box<str>),
}

#[derive(Serialize)]
struct Answer<'a> {
    id: &'a Id,
    #[serde(rename = "deliveryStatus")]
    delivery_status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DigitalWrite {
    pin_number: u8,
    pin_value: Level,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Level {
    Switch(bool),
    Number(u8),
}

impl Commands {
    /// Remembers `ids_max` commands; those older than `age_max` by their `currentTimestamp` are late.
    #[must_use]
    pub const fn new(ids_max: usize, age_max: Option<Duration>) -> Self {
        Self {
            remembered: VecDeque::new(),
            ids_max,
            age_max,
            tally: Tally {
                completed: 0,
                failed: 0,
                duplicate: 0,
                expired: 0,
                malformed: 0,
            },
        }
    }

    /// How commands went so far.
    #[must_use]
    pub const fn tally(&self) -> Tally {
        self.tally
    }

    /// Does what a message asks for, or does not.
    pub fn handle(
        &mut self,
        payload: &[u8],
        retain: bool,
        now: Now,
        actuator: &mut impl Actuator,
    ) -> Answers {
        let Some(request) = understand(payload) else {
            self.tally.malformed += 1;
            return id_of(payload).map_or_else(Vec::new, |id| {
                refusal(&id, Status::CompletedWithError, "malformed")
            });
        };
        let answers = self.decide(&request, retain, now, actuator);
        if request.guarantee == Guarantee::No {
            Vec::new()
        } else {
            answers
        }
    }

    fn decide(
        &mut self,
        request: &Request,
        retain: bool,
        now: Now,
        actuator: &mut impl Actuator,
    ) -> Answers {
        let id = &request.id;
        if let Some((_, status)) = self.remembered.iter().find(|(known, _)| known == id) {
            self.tally.duplicate += 1;
            return refusal(id, *status, "duplicate");
        }
        if retain {
            // A retained command would be done again by every device that starts.
            self.tally.malformed += 1;
            return refusal(id, Status::CompletedWithError, "retained");
        }
        if let Some(late) = self.lateness(request, now) {
            self.tally.expired += 1;
            self.remember(id.clone(), Status::CompletedWithError);
            return refusal(id, Status::CompletedWithError, late);
        }
        let result = run(request, actuator);
        let (status, reason) = match result {
            Ok(()) => (Status::Completed, None),
            Err(Refusal(reason)) => (Status::CompletedWithError, Some(reason)),
        };
        match result {
            Ok(()) => self.tally.completed += 1,
            Err(_) => self.tally.failed += 1,
        }
        self.remember(id.clone(), status);
        [
            answer(id, Status::Delivered, None, None),
            answer(id, status, None, reason),
        ]
        .into()
    }

    /// Why it is too late for a command, if it is.
    fn lateness(&self, request: &Request, now: Now) -> Option<&'static str> {
        let oldest = self
            .age_max
            .zip(request.current_timestamp)
            .map(|(age, sent)| {
                sent.saturating_add(u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
            });
        let expires = request
            .expires_at
            .as_ref()
            .map(|moment| moment.millis().unwrap_or(0));
        let ends = oldest.into_iter().chain(expires).min()?;
        match now.wall {
            None => Some("clock unknown"),
            Some(wall) if wall >= ends => Some("expired"),
            Some(_) => None,
        }
    }

    fn remember(&mut self, id: Id, status: Status) {
        while self.remembered.len() >= self.ids_max.max(1) {
            self.remembered.pop_front();
        }
        self.remembered.push_back((id, status));
    }
}

impl Moment {
    /// `None` for a text that is no time: such a command is over.
    fn millis(&self) -> Option<u64> {
        match self {
            Self::Millis(millis) => Some(*millis),
            Self::Text(text) => {
                let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
                u64::try_from(time.unix_timestamp_nanos() / 1_000_000).ok()
            }
        }
    }
}

fn run(request: &Request, actuator: &mut impl Actuator) -> Result<(), Refusal> {
    if &*request.command != "digitalWrite" {
        return actuator.other(&request.command, &request.data);
    }
    let write = DigitalWrite::deserialize(&request.data)
        .map_err(|_| Refusal("expected pinNumber and pinValue"))?;
    let level = match write.pin_value {
        Level::Switch(level) => level,
        Level::Number(0) => false,
        Level::Number(1) => true,
        Level::Number(_) => return Err(Refusal("expected true or false")),
    };
    actuator.digital_write(write.pin_number, level)
}

/// Reading JSON recurses, and the stack of a chip is small: what is nested deeper than any command is none.
fn understand(payload: &[u8]) -> Option<Request> {
    if nesting(payload) > NESTING_MAX {
        return None;
    }
    let request: Request = serde_json::from_slice(payload).ok()?;
    let short = match &request.id {
        Id::Number(_) => true,
        Id::Text(id) => id.len() <= ID_BYTES_MAX,
    };
    short.then_some(request)
}

/// The id of something that is no command, so that it can be answered.
fn id_of(payload: &[u8]) -> Option<Id> {
    #[derive(Deserialize)]
    struct Named {
        #[serde(alias = "command_id")]
        id: Id,
    }
    if nesting(payload) > NESTING_MAX {
        return None;
    }
    let named: Named = serde_json::from_slice(payload).ok()?;
    match &named.id {
        Id::Text(id) if id.len() > ID_BYTES_MAX => None,
        _ => Some(named.id),
    }
}

/// Brackets that are open at once, at most.
fn nesting(payload: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_text, mut escaped) = (0_usize, 0, false, false);
    for byte in payload {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'{' | b'[' if !in_text => depth += 1,
            b'}' | b']' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

fn refusal(id: &Id, status: Status, refused: &'static str) -> Answers {
    [answer(id, status, Some(refused), None)].into()
}

fn answer(
    id: &Id,
    delivery_status: Status,
    refused: Option<&'static str>,
    reason: Option<&'static str>,
) -> Vec<u8> {
    let answer = Answer {
        id,
        delivery_status,
        refused,
        reason,
    };
    // Writing plain fields to memory cannot fail.
    serde_json::to_vec(&answer).unwrap_or_default()
}

const NESTING_MAX: usize = 8;
const ID_BYTES_MAX: usize = 64;

#[cfg(test)]
mod tests;
