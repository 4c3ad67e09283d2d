//! The journal: what makes an acknowledgement true.
//!
//! A batch is appended, gets its place in the order of all batches at once, and becomes durable some time later; the
//! durable mark tells how far. Whoever waits for a batch keeps the Lsn that [`Journal::append`] gave and compares it
//! with [`JournalStatus::covers`].
//!
//! States (D5): `Durable` -> `Failed` (nothing is taken, whatever waits above the mark must be refused) -> `Reopened`
//! (a new epoch, nothing durable in it yet) -> `Durable`. A shard that looks rarely may miss `Failed` and `Reopened`;
//! the epoch inside the Lsn tells it that what it waits for is not covered and never will be.
//!
//! ```text
//! Lsn   63        48 47                                             0
//!       | epoch     | number of operations since the journal began   |
//! ```

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
    /// Nothing above `durable` is promised and nothing is taken any more.
    Failed { durable: Lsn, reason: Box<str> },
    /// The journal works again; nothing has become durable in the new epoch yet. What was appended in an earlier epoch
    /// and was not durable when it failed is not promised.
    Reopened { epoch: u16 },
}

impl JournalStatus {
    /// Whether the batch whose `append` gave this Lsn is known to be durable.
    pub fn covers(&self, lsn: Lsn) -> bool {
        match self {
            _ if lsn == 0 => true,
            Self::Durable(durable) | Self::Failed { durable, .. } => {
                lsn <= *durable && epoch(lsn) == epoch(*durable)
            }
            Self::Reopened { .. } => false,
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

/// How many times the journal had been opened before this Lsn was given.
pub fn epoch(lsn: Lsn) -> u16 {
    u16::try_from(lsn >> EPOCH_SHIFT).expect("48 bits are shifted out, so 16 are left")
}

/// The Lsn before the first one of `epoch`, `operations` into the life of the journal.
pub fn first_lsn_of(epoch: u16, operations: u64) -> Lsn {
    assert!(
        operations < 1 << EPOCH_SHIFT,
        "a journal of {operations} operations has run out of Lsns"
    );
    (u64::from(epoch) << EPOCH_SHIFT) | operations
}

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
        // `apply` takes operations with consecutive Lsns; where an epoch ends, or enough has come together, a run ends.
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

/// Bits of an Lsn below the epoch: 2^48 operations are 89 years at 100,000 a second.
const EPOCH_SHIFT: u32 = 48;
/// Operations that are held in memory at once while the journal is replayed.
const REPLAY_OPERATIONS_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_lsn_of_a_lost_epoch_is_never_covered() {
        let waiting = first_lsn_of(0, 7);
        assert!(JournalStatus::Durable(first_lsn_of(0, 7)).covers(waiting));
        assert!(!JournalStatus::Durable(first_lsn_of(0, 6)).covers(waiting));
        assert!(
            !JournalStatus::Failed {
                durable: first_lsn_of(0, 6),
                reason: "".into()
            }
            .covers(waiting)
        );
        assert!(!JournalStatus::Reopened { epoch: 1 }.covers(waiting));
        assert!(!JournalStatus::Durable(first_lsn_of(1, 9)).covers(waiting));
    }

    #[test]
    fn later_epochs_sort_behind_earlier_ones() {
        assert!(first_lsn_of(1, 0) > first_lsn_of(0, (1 << EPOCH_SHIFT) - 1));
        assert_eq!(epoch(first_lsn_of(u16::MAX, 12)), u16::MAX);
    }
}
