//! Lines on their way to `$SYS/broker/log/+`.
//!
//! Publishing a line may make lines, which are published: what one message makes for every subscriber (packets, `debug`) is never
//! among them, as with Mosquitto, and the rest is bounded.

use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use super::Kind;

/// Lines that wait to be published.
#[derive(Default)]
pub struct TopicLines {
    waiting: Mutex<Waiting>,
    changed: Notify,
}

#[derive(Default)]
struct Waiting {
    lines: Vec<(Box<str>, Box<str>)>,
    left_out: u64,
}

impl TopicLines {
    pub(super) fn push(&self, kind: Kind, text: &str) {
        let Some(last) = last_level(kind) else { return };
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.lines.len() < LINES_MAX {
            waiting
                .lines
                .push((format!("{ROOT}{last}").into(), text.into()));
        } else {
            waiting.left_out += 1;
        }
        drop(waiting);
        self.changed.notify_one();
    }

    /// Waits until there is something to take.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Topics and lines, oldest first.
    pub fn take(&self) -> Vec<(Box<str>, Box<str>)> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let Waiting {
            mut lines,
            left_out,
        } = std::mem::take(&mut *waiting);
        if left_out > 0 {
            lines.push((
                format!("{ROOT}W").into(),
                format!("{left_out} log lines were left out.").into(),
            ));
        }
        lines
    }
}

/// `None`: never published.
const fn last_level(kind: Kind) -> Option<&'static str> {
    Some(match kind {
        Kind::Error => "E",
        Kind::Warning => "W",
        Kind::Notice => "N",
        Kind::Information => "I",
        Kind::Subscribe => "M/subscribe",
        Kind::Unsubscribe => "M/unsubscribe",
        Kind::Debug | Kind::Packet | Kind::WebSockets => return None,
    })
}

const ROOT: &str = "$SYS/broker/log/";
/// Lines that wait; those behind them are counted and left out.
pub(super) const LINES_MAX: usize = 1000;
