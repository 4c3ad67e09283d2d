//! The journal: what makes an acknowledgement true.
//!
//! A batch is appended, gets its place in the order of all batches at once, and becomes durable some time later; the
//! durable mark tells how far. Whoever waits for a batch keeps the Lsn that [`Journal::append`] gave and compares it
//! with [`JournalStatus::covers`].
//!
//! States (D5): `Durable` -> `Failed` -> `Durable`. While it has failed nothing is taken, and what was taken before is
//! kept: it becomes durable, in order, when the medium works again. An Lsn that was given is never given up but with the
//! process; whoever waits for it waits, or leaves.
//!
//! An Lsn is the number of operations since the journal began, that one included.

use std::fmt;

use crate::checkpoint::Checkpoint;
use crate::error::StorageError;
use crate::operation::{Batch, Operation};

/// The place of one operation in the journal; 0 is before the first.
pub type Lsn = u64;

/// What makes an acknowledgement true. Lsns are assigned in append order; the durable mark only moves forward.
pub trait Journal: Send + Sync {
    /// Takes the batch and gives the Lsn of its last operation; the operations have consecutive Lsns. An empty batch
    /// takes no place and gives 0, which is always durable. Never waits for the medium.
    fn append(&self, batch: Batch) -> Result<Lsn, Full>;

    /// How far the journal is durable, or that it has failed.
    fn status(&self) -> JournalStatus;

    /// Visits, in order, every durable operation that was not trimmed. For use after opening, before the first append.
    fn recover(&mut self, visit: &mut dyn FnMut(Lsn, Operation)) -> Result<(), StorageError>;

    /// Forgets the operations up to here; the checkpoint has them.
    fn trim(&mut self, upto: Lsn);
}

/// What the journal promises at this moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JournalStatus {
    /// Everything up to this Lsn survives.
    Durable(Lsn),
    /// Nothing is taken, and nothing above `durable` is promised until the medium works again.
    Failed { durable: Lsn, reason: Box<str> },
}

impl JournalStatus {
    /// Whether the batch whose `append` gave this Lsn is known to be durable.
    pub fn covers(&self, lsn: Lsn) -> bool {
        match self {
            Self::Durable(durable) | Self::Failed { durable, .. } => lsn <= *durable,
        }
    }
}

/// The journal takes nothing at this moment: too much of it waits to become durable, or it has failed (the status
/// tells). Gives the batch back, of which nothing was taken.
#[derive(Clone, PartialEq, Eq)]
pub struct Full {
    pub batch: Batch,
}

impl fmt::Debug for Full {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Full {{ operations: {} }}", self.batch.len())
    }
}

impl fmt::Display for Full {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "the journal has no room for a batch of {} operations",
            self.batch.len()
        )
    }
}

impl std::error::Error for Full {}

/// Brings the checkpoint up to everything the journal still holds; from here on the checkpoint alone is the truth.
///
/// This is what a start does before anything is read. Gives the last Lsn that was replayed.
pub fn restore(
    journal: &mut dyn Journal,
    checkpoint: &mut dyn Checkpoint,
) -> Result<Option<Lsn>, StorageError> {
    let mut run: Vec<Operation> = Vec::new();
    let mut last: Option<Lsn> = None;
    let mut failed = Ok(());
    journal.recover(&mut |lsn, operation| {
        if failed.is_err() {
            return;
        }
        // `apply` takes operations with consecutive Lsns; where some are missing, or enough has come together, a run ends.
        if let Some(previous) = last
            && (previous + 1 != lsn || run.len() == REPLAY_OPERATIONS_MAX)
        {
            failed = checkpoint.apply(&run, previous);
            run.clear();
        }
        run.push(operation);
        last = Some(lsn);
    })?;
    failed?;
    if let Some(last) = last {
        checkpoint.apply(&run, last)?;
    }
    Ok(last)
}

/// Operations that are held in memory at once while the journal is replayed.
const REPLAY_OPERATIONS_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_journal_covers_what_was_durable_and_no_more() {
        let failed = JournalStatus::Failed {
            durable: 6,
            reason: "".into(),
        };
        for status in [JournalStatus::Durable(6), failed] {
            assert!(status.covers(0));
            assert!(status.covers(6));
            assert!(!status.covers(7));
        }
    }
}
