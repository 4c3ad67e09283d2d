//! Lines of the log about those who are refused outside of the shards, bounded by source (R20).

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Clock;
use crate::shard::{Throttle, Verdict};
use crate::transport::Peer;

/// What was said about whom lately.
#[derive(Debug)]
pub(crate) struct Refusals {
    clock: Clock,
    throttle: Mutex<Throttle>,
}

impl Refusals {
    pub(crate) fn new(clock: Clock, throttle: Throttle) -> Self {
        Self {
            clock,
            throttle: Mutex::new(throttle),
        }
    }

    /// Says it, or, when the time of that source is over, how many lines were left out.
    pub(crate) async fn say(&self, peer: &Peer, line: String) {
        let now = self.clock.now().monotonic;
        let verdict = self.throttle().admit(now, &peer.to_string());
        match verdict {
            Verdict::Say => tracing::info!("{line}"),
            Verdict::LeaveOut => {}
            Verdict::LeaveOutUntil(until) => {
                tokio::time::sleep(Duration::from_millis(until.saturating_sub(now))).await;
                let left_out = self.throttle().left_out(self.clock.now().monotonic);
                for (address, lines) in left_out {
                    tracing::warn!(
                        "{lines} more lines about refused connections from {address} were left out."
                    );
                }
            }
        }
    }

    fn throttle(&self) -> MutexGuard<'_, Throttle> {
        self.throttle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
