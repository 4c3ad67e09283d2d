//! What survives a power cut.
//!
//! Comes in: batches of [`Operation`]s, plain values that say what changed for a session, a queue or a retained message.
//! Goes out: a durable mark that releases acknowledgements ([`Journal`]), and after a restart the sessions, queues and
//! retained messages that those operations add up to ([`Checkpoint`]).
//! Does not know: Network Connections, packets, topic matching, clocks, or how much is too much for a session.
//!
//! In walking order: `operation` is the vocabulary, `journal` and `checkpoint` are the two promises an engine makes,
//! `image` is what operations add up to, `memory` is the engine that keeps both promises in memory,
//! `contract` is the test suite that every engine must pass. The engine that keeps them on a disk: `record` is bytes, `index`
//! is what it holds in memory of who owns what, `writer` is group commit, `disk` is the file, `redb` is the
//! database in it, and `engine` joins them.

mod checkpoint;
mod closed;
pub mod contract;
mod disk;
mod engine;
mod error;
mod export;
mod image;
mod index;
mod journal;
mod memory;
mod operation;
mod record;
mod redb;
mod snapshot;
mod survey;
mod writer;

pub use checkpoint::{
    Checkpoint, QueueEntry, QueuePhase, QueuedMessage, QueuedState, Record, Sequence, Table,
};
pub use closed::{CheckReport, ClosedStore, CompactReport, RepairReport};
pub use disk::{Directory, Disk, DiskFile, Room, warnings};
pub use engine::{FileUse, Options, RedbEngine};
pub use error::StorageError;
pub use image::Image;
pub use journal::{Full, Journal, JournalStatus, Lsn, restore};
pub use memory::MemoryEngine;
pub use operation::{
    Batch, ClockRecord, MessageId, Operation, Owner, OwnerEntry, SessionRecord, StoredMessage,
    SubscriptionRecord, WillRecord,
};
pub use snapshot::receive_snapshot;
pub use survey::{Contents, Meter, Problems};
pub use writer::{Counters, Durability, Progress};
