//! The contract, run on the engines of this crate, and on engines that are broken on purpose: a contract that lets one
//! of those pass proves nothing.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use nightjar_codec::QoS;
use nightjar_storage::contract::{
    Subject, checkpoint_contract, full_contract, journal_contract, random_contract,
};
use nightjar_storage::{
    Batch, Checkpoint, Full, Journal, JournalStatus, Lsn, MemoryEngine, MessageId, Operation,
    Owner, QueueEntry, QueuedMessage, Record, Sequence, SessionRecord, StorageError, StoredMessage,
    Table,
};

#[test]
fn memory_engine_keeps_the_contract() {
    every_contract(MemoryEngine::new);
}

#[test]
fn memory_engine_with_a_separate_checkpoint_keeps_the_contract() {
    every_contract(|| MemoryEngine::new().with_separate_checkpoint());
}

#[test]
fn a_disk_that_wrote_more_than_it_said_keeps_the_contract() {
    every_contract(|| Faulty::new(Fault::KeepsOneBatchMore));
}

#[test]
fn a_bounded_memory_engine_keeps_the_contract() {
    full_contract(|| MemoryEngine::new().with_pending_bytes_max(PENDING_BYTES_MAX));
}

#[test]
fn the_wrapper_alone_breaks_nothing() {
    every_contract(|| Faulty::new(Fault::None));
    full_contract(|| Faulty::bounded(Fault::None));
}

#[test]
fn every_broken_engine_is_found() {
    let missed: Vec<Fault> = Fault::BROKEN
        .into_iter()
        .filter(|fault| {
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                every_contract(|| Faulty::new(*fault));
                full_contract(|| Faulty::bounded(*fault));
            }));
            outcome.is_ok()
        })
        .collect();
    assert!(
        missed.is_empty(),
        "the contract lets these pass: {missed:?}"
    );
}

fn every_contract<E: Subject>(make: impl Fn() -> E) {
    journal_contract(&make);
    checkpoint_contract(&make);
    random_contract(&make, 0..SEEDS);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// Allowed: the power cut came after a write and before its report.
    KeepsOneBatchMore,
    SaysDurableAtAppend,
    MarkGoesBack,
    LosesDurable,
    TearsBatches,
    GivesLsnsAgain,
    GivesFirstLsnOfBatch,
    TakesWhileFailed,
    EatsRefusedBatch,
    NeverFull,
    CoversWhileFailed,
    ForgetsWhatItHadTaken,
    CommitsAgainWhatGotThrough,
    RecoversBackwards,
    RecoversWhatWasTrimmed,
    AppliesAgain,
    ForgetsDequeue,
    ForgetsPubrec,
    ForgetsPacketId,
    ForgetsReceived,
    ForgetsDeletedSession,
    ForgetsDeletedGroup,
    ForgetsSecondOwner,
    ForgetsSubscriptionIdentifiers,
    ForgetsClock,
    LowersQos,
    HidesMessage,
    KeepsOrphan,
    SortsQueueByMessageId,
    ReadsQueueFromItsBegin,
    ReadsQueueWithoutLimit,
    ReadsQueueByPrefix,
    OutlinesWithoutOrder,
    SkipsWhatIsNotThere,
    PicksInTheOrderOfTheQueue,
    PicksWithoutLimit,
    ForgetsHighestId,
}

impl Fault {
    const BROKEN: [Self; 36] = [
        Self::SaysDurableAtAppend,
        Self::MarkGoesBack,
        Self::LosesDurable,
        Self::TearsBatches,
        Self::GivesLsnsAgain,
        Self::GivesFirstLsnOfBatch,
        Self::TakesWhileFailed,
        Self::EatsRefusedBatch,
        Self::NeverFull,
        Self::CoversWhileFailed,
        Self::ForgetsWhatItHadTaken,
        Self::CommitsAgainWhatGotThrough,
        Self::RecoversBackwards,
        Self::RecoversWhatWasTrimmed,
        Self::AppliesAgain,
        Self::ForgetsDequeue,
        Self::ForgetsPubrec,
        Self::ForgetsPacketId,
        Self::ForgetsReceived,
        Self::ForgetsDeletedSession,
        Self::ForgetsDeletedGroup,
        Self::ForgetsSecondOwner,
        Self::ForgetsSubscriptionIdentifiers,
        Self::ForgetsClock,
        Self::LowersQos,
        Self::HidesMessage,
        Self::KeepsOrphan,
        Self::SortsQueueByMessageId,
        Self::ReadsQueueFromItsBegin,
        Self::ReadsQueueWithoutLimit,
        Self::ReadsQueueByPrefix,
        Self::OutlinesWithoutOrder,
        Self::SkipsWhatIsNotThere,
        Self::PicksInTheOrderOfTheQueue,
        Self::PicksWithoutLimit,
        Self::ForgetsHighestId,
    ];
}

/// The memory engine with one thing wrong.
struct Faulty {
    inner: MemoryEngine,
    fault: Fault,
    last: AtomicU64,
    /// The oldest batch that is not durable.
    waiting: Mutex<Option<Batch>>,
    settled: AtomicU64,
    restarted: AtomicBool,
}

impl Faulty {
    fn new(fault: Fault) -> Self {
        Self::around(MemoryEngine::new().with_separate_checkpoint(), fault)
    }

    fn bounded(fault: Fault) -> Self {
        let bytes = if fault == Fault::NeverFull {
            u64::MAX
        } else {
            PENDING_BYTES_MAX
        };
        Self::around(MemoryEngine::new().with_pending_bytes_max(bytes), fault)
    }

    fn around(inner: MemoryEngine, fault: Fault) -> Self {
        Self {
            inner,
            fault,
            last: AtomicU64::new(0),
            waiting: Mutex::new(None),
            settled: AtomicU64::new(0),
            restarted: AtomicBool::new(false),
        }
    }

    fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    /// What the engine writes in place of what it was given.
    fn write(&self, operation: Operation) -> Operation {
        let nothing = Operation::DeleteRetained {
            topic: "nothing is retained here".into(),
        };
        match (self.fault, operation) {
            (Fault::ForgetsDequeue, Operation::Dequeue { .. })
            | (Fault::ForgetsPubrec, Operation::Pubrec { .. })
            | (Fault::ForgetsPacketId, Operation::AssignPacketId { .. })
            | (Fault::ForgetsReceived, Operation::ReceivedQos2 { .. })
            | (Fault::ForgetsDeletedSession, Operation::DeleteSession { .. })
            | (Fault::ForgetsDeletedGroup, Operation::DeleteGroup { .. })
            | (Fault::ForgetsClock, Operation::PutClock(_)) => nothing,
            (fault, Operation::Enqueue { message, owners }) => {
                let mut owners = owners.to_vec();
                match fault {
                    Fault::ForgetsSecondOwner => owners.truncate(1),
                    Fault::ForgetsSubscriptionIdentifiers => {
                        owners
                            .iter_mut()
                            .for_each(|entry| entry.subscription_identifiers.clear());
                    }
                    Fault::LowersQos => owners
                        .iter_mut()
                        .for_each(|entry| entry.qos = QoS::AtMostOnce),
                    _ => {}
                }
                let owners = owners.into();
                Operation::Enqueue { message, owners }
            }
            (_, operation) => operation,
        }
    }
}

impl Journal for Faulty {
    fn append(&self, batch: Batch) -> Result<Lsn, Full> {
        let length = batch.len() as u64;
        let given = batch.clone();
        let mut written = Batch(
            batch
                .0
                .into_iter()
                .map(|operation| self.write(operation))
                .collect(),
        );
        if self.is(Fault::TearsBatches) && written.len() > 1 {
            self.inner.append(Batch(vec![written.0.remove(0)]))?;
        }
        match self.inner.append(written) {
            Ok(0) => Ok(0),
            Ok(lsn) => {
                self.waiting.lock().unwrap().get_or_insert(given);
                self.last.store(lsn, Ordering::Relaxed);
                match self.fault {
                    Fault::GivesLsnsAgain if self.restarted.load(Ordering::Relaxed) => Ok(lsn - 1),
                    Fault::GivesFirstLsnOfBatch => Ok(lsn + 1 - length),
                    _ => Ok(lsn),
                }
            }
            Err(_) if self.is(Fault::TakesWhileFailed) => {
                Ok(self.last.load(Ordering::Relaxed) + length)
            }
            Err(_) if self.is(Fault::EatsRefusedBatch) => Err(Full {
                batch: Batch::new(),
            }),
            Err(_) => Err(Full { batch: given }),
        }
    }

    fn status(&self) -> JournalStatus {
        match (self.fault, self.inner.status()) {
            (Fault::SaysDurableAtAppend, JournalStatus::Durable(_)) => {
                JournalStatus::Durable(self.last.load(Ordering::Relaxed))
            }
            (Fault::MarkGoesBack, JournalStatus::Durable(_)) => {
                JournalStatus::Durable(self.settled.load(Ordering::Relaxed))
            }
            (Fault::CoversWhileFailed, JournalStatus::Failed { reason, .. }) => {
                let durable = self.last.load(Ordering::Relaxed);
                JournalStatus::Failed { durable, reason }
            }
            (_, status) => status,
        }
    }

    fn recover(&mut self, visit: &mut dyn FnMut(Lsn, Operation)) -> Result<(), StorageError> {
        let mut operations = Vec::new();
        self.inner
            .recover(&mut |lsn, operation| operations.push((lsn, operation)))?;
        if self.is(Fault::RecoversBackwards) {
            operations.reverse();
        }
        operations
            .into_iter()
            .for_each(|(lsn, operation)| visit(lsn, operation));
        Ok(())
    }

    fn trim(&mut self, upto: Lsn) {
        if !self.is(Fault::RecoversWhatWasTrimmed) {
            self.inner.trim(upto);
        }
    }
}

impl Checkpoint for Faulty {
    fn apply(&mut self, operations: &[Operation], upto: Lsn) -> Result<(), StorageError> {
        // Further on with every call, so that nothing was ever applied before.
        let shift = if self.is(Fault::AppliesAgain) {
            self.last.fetch_add(1000, Ordering::Relaxed)
        } else {
            0
        };
        self.inner.apply(operations, upto + shift)
    }

    fn session(&self, client_id: &str) -> Result<Option<SessionRecord>, StorageError> {
        self.inner.session(client_id)
    }

    fn queue(
        &self,
        owner: &Owner,
        after: Sequence,
        limit: usize,
    ) -> Result<Vec<QueuedMessage>, StorageError> {
        let mut queue = match self.fault {
            Fault::ReadsQueueFromItsBegin => self.inner.queue(owner, 0, limit)?,
            Fault::ReadsQueueWithoutLimit => self.inner.queue(owner, after, usize::MAX)?,
            _ => self.inner.queue(owner, after, limit)?,
        };
        if self.is(Fault::SortsQueueByMessageId) {
            queue.sort_by_key(|queued| queued.message_id);
        }
        if self.is(Fault::ReadsQueueByPrefix) && *owner == Owner::session("a") {
            queue.extend(self.inner.queue(&Owner::session("aa"), after, limit)?);
        }
        Ok(queue)
    }

    fn outline(&self, owner: &Owner) -> Result<Vec<QueueEntry>, StorageError> {
        let mut entries = self.inner.outline(owner)?;
        if self.is(Fault::OutlinesWithoutOrder) {
            entries.reverse();
        }
        Ok(entries)
    }

    fn queued(
        &self,
        owner: &Owner,
        message_ids: &[MessageId],
        bytes_max: u64,
    ) -> Result<Vec<QueuedMessage>, StorageError> {
        match self.fault {
            Fault::SkipsWhatIsNotThere => {
                let each = message_ids.chunks(1);
                let found = each.map(|id| self.inner.queued(owner, id, bytes_max));
                Ok(found.collect::<Result<Vec<_>, _>>()?.concat())
            }
            Fault::PicksInTheOrderOfTheQueue => {
                let mut queued = self.inner.queued(owner, message_ids, bytes_max)?;
                queued.sort_by_key(|queued| queued.sequence);
                Ok(queued)
            }
            Fault::PicksWithoutLimit => self.inner.queued(owner, message_ids, u64::MAX),
            _ => self.inner.queued(owner, message_ids, bytes_max),
        }
    }

    fn message_id_max(&self) -> MessageId {
        match self.fault {
            Fault::ForgetsHighestId => self.inner.message_id_max().saturating_sub(1),
            _ => self.inner.message_id_max(),
        }
    }

    fn scan(&self, table: Table, visit: &mut dyn FnMut(Record)) -> Result<(), StorageError> {
        let mut hidden = self.is(Fault::HidesMessage) && table == Table::Messages;
        self.inner.scan(table, &mut |record| {
            if !std::mem::take(&mut hidden) {
                visit(record);
            }
        })?;
        if self.is(Fault::KeepsOrphan) && table == Table::Messages {
            visit(Record::Message {
                message: orphan(),
                owners: 0,
            });
        }
        Ok(())
    }
}

impl Subject for Faulty {
    fn hold(&mut self) {
        self.inner.hold();
    }

    fn settle(&mut self, upto: Lsn) {
        *self.waiting.lock().unwrap() = None;
        self.settled.store(upto, Ordering::Relaxed);
        self.inner.settle(upto);
    }

    fn catch_up(&mut self) {
        // Not `inner.catch_up()`: the faults are in `recover`, `apply` and `trim` of this one.
        let mut operations = Vec::new();
        self.recover(&mut |lsn, operation| operations.push((lsn, operation)))
            .unwrap();
        let mut upto = None;
        for (lsn, operation) in operations {
            self.apply(&[operation], lsn).unwrap();
            upto = Some(lsn);
        }
        if let Some(upto) = upto {
            self.trim(upto);
        }
    }

    fn power_cut(self) -> Self {
        let inner = match self.fault {
            Fault::LosesDurable => MemoryEngine::new().with_separate_checkpoint(),
            Fault::KeepsOneBatchMore | Fault::TearsBatches => self.inner.crash_keeping(1),
            _ => self.inner.crash(),
        };
        let restarted = Self::around(inner, self.fault);
        restarted.restarted.store(true, Ordering::Relaxed);
        restarted
    }

    fn fail(&mut self) {
        self.inner.fail("a test said so");
    }

    fn reopen(&mut self) {
        match self.fault {
            Fault::ForgetsWhatItHadTaken => self.inner = self.inner.crash(),
            _ => self.inner.reopen(),
        }
        if self.is(Fault::CommitsAgainWhatGotThrough)
            && let Some(batch) = self.waiting.lock().unwrap().take()
        {
            self.inner.append(batch).unwrap();
        }
        self.inner.hold();
    }
}

fn orphan() -> Arc<StoredMessage> {
    Arc::new(StoredMessage {
        message_id: u64::MAX - 1,
        topic: "t".into(),
        payload: Default::default(),
        properties: Default::default(),
        qos: QoS::AtLeastOnce,
        retain: false,
        expires_at: None,
        sequence: 0,
        publisher: None,
        publisher_user: None,
    })
}

const PENDING_BYTES_MAX: u64 = 10_000;
/// Seeded lives for each engine.
const SEEDS: u64 = 30;
