//! Group commit: one thread that makes durable whatever is pending.
//!
//! In come batches, from any thread, without waiting for the medium; out goes a durable mark that only moves forward, and
//! a call to everybody who asked to be told. There is no timer: while one group is on its way to the disk, what arrives
//! is the next group, so groups grow with the load and with the slowness of the disk.
//!
//! States of the medium, and who moves them:
//! ```text
//! Durable --commit fails--> Failed --medium opens again--> Reopened --first commit--> Durable
//!                             ^ |                              |
//!                             +-+ opening fails, waits longer  +--commit fails--> Failed
//! ```
//! What was pending when the medium failed is dropped, for nobody was promised it. It knows nothing of what batches mean.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::engine::Options;
use crate::error::StorageError;
use crate::journal::{Full, JournalStatus, Lsn, epoch, first_lsn_of};
use crate::operation::Batch;

/// What a batch that is reported durable survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// A power cut.
    #[default]
    Synced,
    /// The end of this process, not that of the machine. A power cut may leave a store that has to be repaired.
    Written,
    /// Nothing: batches count as durable when they are appended, and are on disk about a second later.
    Memory,
}

/// What the writer writes to.
pub(crate) trait Medium: Send + 'static {
    /// Makes the batches durable, together or not at all. `operations` is the count of all operations with them.
    fn commit(&mut self, batches: &[Batch], operations: u64) -> Result<(), StorageError>;

    /// Lets go of what has failed and opens it again, as it was after the last commit.
    fn reopen(&mut self, operations: u64) -> Result<(), StorageError>;
}

/// Called when the durable mark or the state has moved. Must not block.
pub type Progress = Box<dyn Fn() + Send + Sync>;

/// The thread and what it shares with those who append. Ends the thread when it is dropped, after what is pending.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    pending_bytes_max: u64,
    durability: Durability,
    reopen_delay: Duration,
    state: Mutex<State>,
    /// The thread waits here for work.
    work: Condvar,
    /// Whoever waits for the thread waits here.
    settled: Condvar,
    durable: AtomicU64,
    /// The status is `Durable` and can be had without the lock.
    healthy: AtomicBool,
    progress: Mutex<Arc<Vec<Progress>>>,
}

struct State {
    pending: VecDeque<Pending>,
    /// Of everything that is not durable, the group on its way included.
    pending_bytes: u64,
    status: JournalStatus,
    epoch: u16,
    /// Operations since the journal began, those included that were lost.
    operations: u64,
    idle: bool,
    busy: bool,
    stop: Stop,
    /// Nothing above this is committed; a lever for tests.
    hold: Option<Lsn>,
    counters: Counters,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stop {
    No,
    AfterPending,
    AtOnce,
}

struct Pending {
    last: Lsn,
    bytes: u64,
    batch: Batch,
}

/// What the writer has done since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub commits: u64,
    pub operations: u64,
    pub failures: u64,
    pub reopened: u64,
    /// Bytes of batches that are not durable.
    pub pending_bytes: u64,
}

impl Writer {
    /// Begins behind `operations` operations of earlier lives.
    pub(crate) fn start(
        mut medium: Box<dyn Medium>,
        operations: u64,
        options: &Options,
    ) -> std::io::Result<Self> {
        let durable = first_lsn_of(0, operations);
        let state = State {
            pending: VecDeque::new(),
            pending_bytes: 0,
            status: JournalStatus::Durable(durable),
            epoch: 0,
            operations,
            idle: false,
            busy: false,
            stop: Stop::No,
            hold: None,
            counters: Counters::default(),
        };
        let shared = Arc::new(Shared {
            pending_bytes_max: options.pending_bytes_max,
            durability: options.durability,
            reopen_delay: options.reopen_delay,
            state: Mutex::new(state),
            work: Condvar::new(),
            settled: Condvar::new(),
            durable: AtomicU64::new(durable),
            healthy: AtomicBool::new(true),
            progress: Mutex::new(Arc::new(Vec::new())),
        });
        let of_thread = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("nightjar-store".into())
            .spawn(move || {
                let life = AssertUnwindSafe(|| of_thread.run(&mut *medium));
                if catch_unwind(life).is_err() {
                    // Nothing is acknowledged from here on; whether the process goes on is for its owner to say (D18).
                    of_thread.give_up("the thread of the store has panicked");
                }
            })?;
        Ok(Self {
            shared,
            thread: Mutex::new(Some(thread)),
        })
    }

    pub(crate) fn append(&self, batch: Batch) -> Result<Lsn, Full> {
        self.shared.append(batch)
    }

    pub(crate) fn status(&self) -> JournalStatus {
        // The mark is written before the flag, so it is at least as new as what the flag speaks of.
        if self.shared.healthy.load(Ordering::Acquire) {
            return JournalStatus::Durable(self.shared.durable.load(Ordering::Acquire));
        }
        self.shared.lock().status.clone()
    }

    pub(crate) fn on_progress(&self, progress: Progress) {
        let mut registered = lock(&self.shared.progress);
        // Rare, and the thread may be calling the old ones: nobody is to wait for the other.
        let mut all = Vec::with_capacity(registered.len() + 1);
        let earlier = Arc::clone(&registered);
        all.push(progress);
        all.push(Box::new(move || earlier.iter().for_each(|call| call())));
        *registered = Arc::new(all);
    }

    pub(crate) fn counters(&self) -> Counters {
        let state = self.shared.lock();
        Counters {
            pending_bytes: state.pending_bytes,
            ..state.counters
        }
    }

    pub(crate) fn operations(&self) -> u64 {
        self.shared.lock().operations
    }

    /// Returns when nothing is pending, or the medium has failed.
    pub(crate) fn flush(&self) {
        let mut state = self.shared.lock();
        state.hold = None;
        self.shared.wake(&mut state);
        while (state.busy || !state.pending.is_empty()) && !state.has_failed() {
            state = wait(&self.shared.settled, state);
        }
    }

    /// From here on nothing above `upto` becomes durable. Returns when everything up to it is.
    pub(crate) fn hold(&self, upto: Lsn) {
        let mut state = self.shared.lock();
        state.hold = Some(upto);
        self.shared.wake(&mut state);
        while (state.busy || state.next_is_due()) && !state.has_failed() {
            state = wait(&self.shared.settled, state);
        }
    }

    /// Lets everything become durable again.
    pub(crate) fn release(&self) {
        let mut state = self.shared.lock();
        state.hold = None;
        self.shared.wake(&mut state);
    }

    /// Ends the thread; what is pending is dropped.
    pub(crate) fn abandon(&self) {
        self.stop(Stop::AtOnce);
    }

    fn stop(&self, stop: Stop) {
        {
            let mut state = self.shared.lock();
            state.hold = None;
            if state.stop == Stop::No {
                state.stop = stop;
            }
            self.shared.work.notify_all();
        }
        if let Some(thread) = lock(&self.thread).take() {
            // A panic was told by the status already.
            let _ = thread.join();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop(Stop::AfterPending);
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Writer")
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn append(&self, batch: Batch) -> Result<Lsn, Full> {
        let bytes = batch.bytes();
        let mut state = self.lock();
        if state.has_failed() || state.stop != Stop::No {
            return Err(Full { batch });
        }
        if batch.is_empty() {
            return Ok(0);
        }
        // A batch that is larger than the bound by itself must pass some time.
        if state.pending_bytes > 0
            && state.pending_bytes.saturating_add(bytes) > self.pending_bytes_max
        {
            return Err(Full { batch });
        }
        state.operations += batch.len() as u64;
        let last = first_lsn_of(state.epoch, state.operations);
        state.pending_bytes += bytes;
        state.pending.push_back(Pending { last, bytes, batch });
        if self.durability == Durability::Memory {
            self.publish(&mut state, last);
        }
        self.wake(&mut state);
        Ok(last)
    }

    /// The life of the thread.
    fn run(&self, medium: &mut dyn Medium) {
        let mut delay = self.reopen_delay;
        while let Some((batches, group)) = self.next_group() {
            match medium.commit(&batches, group.operations) {
                Ok(()) => {
                    delay = self.reopen_delay;
                    self.settle(&group);
                }
                Err(error) => {
                    self.fail(&error);
                    if !self.reopen(medium, &mut delay) {
                        break;
                    }
                }
            }
        }
        let mut state = self.lock();
        state.stop = Stop::AtOnce;
        self.settled.notify_all();
    }

    /// Waits for work and takes all that is due. `None` when the thread is to end.
    fn next_group(&self) -> Option<(Vec<Batch>, Group)> {
        let mut state = self.lock();
        if self.durability == Durability::Memory {
            state = self.gather(state);
        }
        loop {
            match state.stop {
                Stop::AtOnce => return None,
                Stop::AfterPending if state.pending.is_empty() => return None,
                _ => {}
            }
            if state.next_is_due() {
                return Some(state.take_group());
            }
            state.idle = true;
            state = wait(&self.work, state);
            state.idle = false;
        }
    }

    /// Nobody waits for the disk: a second's worth is written at once, unless it is much.
    fn gather<'a>(&'a self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let full = self.pending_bytes_max / 2;
        let (state, _) = self
            .work
            .wait_timeout_while(state, MEMORY_DELAY, |state| {
                state.stop == Stop::No && state.pending_bytes < full && state.hold.is_none()
            })
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        state
    }

    fn settle(&self, group: &Group) {
        {
            let mut state = self.lock();
            state.busy = false;
            state.pending_bytes -= group.bytes;
            state.counters.commits += 1;
            state.counters.operations += group.count;
            self.publish(&mut state, group.last);
            self.settled.notify_all();
        }
        self.tell();
    }

    fn publish(&self, state: &mut State, durable: Lsn) {
        let before = self.durable.load(Ordering::Relaxed);
        if self.durability == Durability::Memory && durable <= before {
            return;
        }
        assert!(durable > before, "the durable mark only moves forward");
        self.durable.store(durable, Ordering::Release);
        state.status = JournalStatus::Durable(durable);
        self.healthy.store(true, Ordering::Release);
    }

    fn fail(&self, error: &StorageError) {
        {
            let mut state = self.lock();
            state.busy = false;
            state.pending.clear();
            state.pending_bytes = 0;
            state.counters.failures += 1;
            self.healthy.store(false, Ordering::Release);
            state.status = JournalStatus::Failed {
                durable: self.durable.load(Ordering::Relaxed),
                reason: error.to_string().into(),
            };
            self.settled.notify_all();
        }
        self.tell();
    }

    fn give_up(&self, reason: &str) {
        self.fail(&StorageError::Failed {
            reason: reason.into(),
        });
        let mut state = self.lock();
        state.stop = Stop::AtOnce;
        self.settled.notify_all();
    }

    /// Tries until the medium opens. Gives false when the thread is to end first.
    fn reopen(&self, medium: &mut dyn Medium, delay: &mut Duration) -> bool {
        loop {
            let (state, _) = self
                .work
                .wait_timeout_while(self.lock(), *delay, |state| state.stop == Stop::No)
                .unwrap_or_else(|poisoned| poisoned.into_inner());
            if state.stop != Stop::No {
                return false;
            }
            let (operations, next) = (state.operations, state.epoch.checked_add(1));
            drop(state);
            // Shorter than the five seconds in which an operator may expect the store back.
            *delay = (*delay * 2).min(REOPEN_DELAY_MAX);
            let Some(next) = next else {
                self.fail(&StorageError::Failed {
                    reason: "it has failed 65,535 times; restart the broker".into(),
                });
                continue;
            };
            match medium.reopen(operations) {
                Ok(()) => {
                    let mut state = self.lock();
                    state.epoch = next;
                    state.status = JournalStatus::Reopened { epoch: next };
                    state.counters.reopened += 1;
                    self.settled.notify_all();
                    drop(state);
                    self.tell();
                    return true;
                }
                Err(error) => {
                    let mut state = self.lock();
                    state.status = JournalStatus::Failed {
                        durable: self.durable.load(Ordering::Relaxed),
                        reason: error.to_string().into(),
                    };
                }
            }
        }
    }

    fn tell(&self) {
        let registered = Arc::clone(&lock(&self.progress));
        registered.iter().for_each(|call| call());
    }

    fn wake(&self, state: &mut State) {
        // A wake-up costs a system call, and a busy thread looks for itself.
        if state.idle || self.durability == Durability::Memory {
            state.idle = false;
            self.work.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// What of the pending is on its way to the disk.
struct Group {
    last: Lsn,
    bytes: u64,
    /// Operations in it, and with all before it.
    count: u64,
    operations: u64,
}

impl State {
    fn has_failed(&self) -> bool {
        matches!(self.status, JournalStatus::Failed { .. })
    }

    fn next_is_due(&self) -> bool {
        let next = self.pending.front();
        next.is_some_and(|next| self.hold.is_none_or(|hold| next.last <= hold))
    }

    fn take_group(&mut self) -> (Vec<Batch>, Group) {
        let mut batches = Vec::new();
        let mut group = Group {
            last: 0,
            bytes: 0,
            count: 0,
            operations: 0,
        };
        while self.next_is_due()
            && let Some(next) = self.pending.pop_front()
        {
            group.last = next.last;
            group.bytes += next.bytes;
            group.count += next.batch.len() as u64;
            batches.push(next.batch);
        }
        group.operations = group.last - first_lsn_of(epoch(group.last), 0);
        self.busy = true;
        (batches, group)
    }
}

/// A panic while one of these locks was held can only be an assertion of this file; the state is as good as it was.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn wait<'a, T>(condition: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condition
        .wait(guard)
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

const REOPEN_DELAY_MAX: Duration = Duration::from_secs(2);
/// How long a store that promises nothing gathers before it writes.
const MEMORY_DELAY: Duration = Duration::from_secs(1);
