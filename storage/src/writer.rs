//! Group commit: one thread that makes durable whatever is pending.
//!
//! In come batches, from any thread, without waiting for the medium; out goes a durable mark that only moves forward, and
//! a call to everybody who asked to be told. There is no timer: while one group is on its way to the disk, what arrives
//! is the next group, so groups grow with the load and with the slowness of the disk.
//!
//! States of the medium, and who moves them:
//! ```text
//! Durable --commit fails--> Failed --medium opens again, and what was kept is committed--> Durable
//!                             ^ |
//!                             +-+ either fails, waits longer
//! Durable --the medium does not take a commit at this time--> Failed --it does, and what was kept is committed--> Durable
//! ```
//! What was taken is kept through a failure, in order (D5). A commit that failed may have got through all the same: the
//! medium says how many operations it holds when it is open again, and what is among them is not committed twice.
//! Nothing new is taken until the kept batches are durable. It knows nothing of what batches mean.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::engine::Options;
use crate::error::StorageError;
use crate::journal::{Full, JournalStatus, Lsn};
use crate::operation::Batch;

/// What a batch that is reported durable survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// A power cut.
    #[default]
    Synced,
    /// The end of this process, not that of the machine. A power cut may leave a store that has to be repaired.
    Written,
    /// Nothing: batches count as durable when they are appended, and are on disk some time later.
    Memory,
}

/// What the writer writes to.
pub(crate) trait Medium: Send + 'static {
    /// Whether a commit may be tried at this time. An error leaves everything as it is, and open.
    fn check(&mut self) -> Result<(), StorageError>;

    /// Makes the batches durable, together or not at all. `operations` is the count of all operations with them.
    fn commit(&mut self, batches: &[Batch], operations: u64) -> Result<(), StorageError>;

    /// Lets go of what has failed and opens it again. Gives how many operations it holds: `before`, or, where the commit
    /// that failed got through, `after` it. Anything else is an error, and nothing is written to it. What it counts is as
    /// durable as a commit when this returns.
    fn reopen(&mut self, before: u64, after: u64) -> Result<u64, StorageError>;
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
    /// How long a store that promises nothing gathers before it writes.
    write_behind: Duration,
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
    /// Operations since the journal began, and those of them that the medium has. The Lsn of the last one is their count.
    operations: u64,
    committed: u64,
    /// Where the last group ended that was given to the medium.
    last_tried: Lsn,
    idle: bool,
    /// The number of the group that is on its way to the medium.
    busy: Option<u64>,
    groups: u64,
    stop: Stop,
    /// Somebody waits for what is pending; until it is taken.
    is_flushed: bool,
    /// The thread is gone.
    has_ended: bool,
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
    /// How often the journal went from durable to failed, and how often the medium was opened again, in vain or not.
    pub failures: u64,
    pub reopened: u64,
    /// Bytes of batches that are not durable.
    pub pending_bytes: u64,
    /// The number of the commit that is on its way. Whoever sees the same number again later knows how long it takes.
    pub commit_on_its_way: Option<u64>,
}

impl Writer {
    /// Begins behind `operations` operations of earlier lives.
    pub(crate) fn start(
        mut medium: Box<dyn Medium>,
        operations: u64,
        options: &Options,
    ) -> std::io::Result<Self> {
        let state = State {
            pending: VecDeque::new(),
            pending_bytes: 0,
            status: JournalStatus::Durable(operations),
            operations,
            committed: operations,
            last_tried: operations,
            idle: false,
            busy: None,
            groups: 0,
            stop: Stop::No,
            has_ended: false,
            is_flushed: false,
            hold: None,
            counters: Counters::default(),
        };
        let shared = Arc::new(Shared {
            pending_bytes_max: options.pending_bytes_max,
            durability: options.durability,
            write_behind: options.write_behind,
            reopen_delay: options.reopen_delay,
            state: Mutex::new(state),
            work: Condvar::new(),
            settled: Condvar::new(),
            durable: AtomicU64::new(operations),
            healthy: AtomicBool::new(true),
            progress: Mutex::new(Arc::new(Vec::new())),
        });
        let of_thread = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("nightjar-store".into())
            .spawn(move || {
                let life = AssertUnwindSafe(|| of_thread.run(&mut *medium));
                if catch_unwind(life).is_err() {
                    // Nothing is acknowledged from here on, and nothing brings the thread back: the process has to end (D18).
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
            commit_on_its_way: state.busy,
            ..state.counters
        }
    }

    pub(crate) fn operations(&self) -> u64 {
        self.shared.lock().operations
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.shared.lock().has_ended
    }

    /// Returns when all that has been appended is durable, or the medium has failed.
    pub(crate) fn flush(&self) {
        let mut state = self.shared.lock();
        state.hold = None;
        state.is_flushed = !state.pending.is_empty();
        self.shared.wake(&mut state);
        let upto = state.operations;
        while state.committed < upto && !state.has_failed() {
            state = wait(&self.shared.settled, state);
        }
    }

    /// From here on nothing above `upto` becomes durable. Returns when everything up to it is.
    pub(crate) fn hold(&self, upto: Lsn) {
        let mut state = self.shared.lock();
        state.hold = Some(upto);
        self.shared.wake(&mut state);
        while (state.busy.is_some() || state.next_is_due()) && !state.has_failed() {
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
        if !self.healthy.load(Ordering::Acquire) {
            return Err(Full { batch }); // Offered again and again: nobody is to count its bytes each time.
        }
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
        let last = state.operations;
        state.pending_bytes += bytes;
        state.pending.push_back(Pending { last, bytes, batch });
        if self.durability == Durability::Memory {
            self.publish(last);
        }
        self.wake(&mut state);
        Ok(last)
    }

    /// The life of the thread.
    fn run(&self, medium: &mut dyn Medium) {
        while let Some(group) = self.next_group() {
            let mut is_broken = false;
            if self.attempt(medium, group, &mut is_broken).is_err()
                && !self.recover(medium, is_broken)
            {
                break;
            }
        }
        self.end();
    }

    /// Waits for work and takes all that is due. `None` when the thread is to end.
    fn next_group(&self) -> Option<Group> {
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
            if let Some(group) = state.take_due() {
                return Some(group);
            }
            state.idle = true;
            state = wait(&self.work, state);
            state.idle = false;
        }
    }

    /// Nobody waits for the disk: what comes in this time is written at once, unless it is much or somebody does.
    fn gather<'a>(&'a self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let full = self.pending_bytes_max / 2;
        let (state, _) = self
            .work
            .wait_timeout_while(state, self.write_behind, |state| {
                let is_much = state.pending_bytes >= full;
                state.stop == Stop::No && !is_much && !state.is_flushed && state.hold.is_none()
            })
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        state
    }

    /// Commits the group, or keeps it for when the medium works again. `is_broken` says which kind of error it was: whether
    /// the medium has to be opened again.
    fn attempt(
        &self,
        medium: &mut dyn Medium,
        group: Group,
        is_broken: &mut bool,
    ) -> Result<(), StorageError> {
        let committed = medium.check().and_then(|()| {
            let committed = medium.commit(&group.batches, group.last);
            *is_broken = committed.is_err();
            committed
        });
        match committed {
            Ok(()) => self.settle(group),
            Err(error) => {
                let mut state = self.lock();
                state.take_back(group);
                self.note_failure(&mut state, &error);
                drop(state);
                self.tell();
                return Err(error);
            }
        }
        Ok(())
    }

    fn settle(&self, group: Group) {
        {
            let mut state = self.lock();
            state.committed(&group);
            self.publish(group.last);
            self.note_success(&mut state);
        }
        self.tell();
    }

    /// Moves the mark, which runs ahead of the medium where nothing is promised. The lock is held.
    fn publish(&self, durable: Lsn) {
        let before = self.durable.load(Ordering::Relaxed);
        if self.durability == Durability::Memory && durable <= before {
            return;
        }
        assert!(durable > before, "the durable mark only moves forward");
        self.durable.store(durable, Ordering::Release);
    }

    fn note_success(&self, state: &mut State) {
        state.status = JournalStatus::Durable(self.durable.load(Ordering::Relaxed));
        self.healthy.store(true, Ordering::Release);
        self.settled.notify_all();
    }

    fn note_failure(&self, state: &mut State, error: &StorageError) {
        self.healthy.store(false, Ordering::Release);
        state.counters.failures += u64::from(!state.has_failed());
        state.status = JournalStatus::Failed {
            durable: self.durable.load(Ordering::Relaxed),
            reason: error.to_string().into(),
        };
        self.settled.notify_all();
    }

    fn give_up(&self, reason: &str) {
        {
            let mut state = self.lock();
            state.has_ended = true;
            let error = StorageError::Failed {
                reason: reason.into(),
            };
            self.note_failure(&mut state, &error);
        }
        self.end();
        self.tell();
    }

    fn end(&self) {
        let mut state = self.lock();
        state.stop = Stop::AtOnce;
        state.has_ended = true;
        state.busy = None;
        self.settled.notify_all();
    }

    /// Tries until the medium has what was kept. Gives false when the thread is to end first.
    fn recover(&self, medium: &mut dyn Medium, mut is_broken: bool) -> bool {
        let mut delay = self.reopen_delay;
        loop {
            let (state, _) = self
                .work
                .wait_timeout_while(self.lock(), delay, |state| state.stop == Stop::No)
                .unwrap_or_else(|poisoned| poisoned.into_inner());
            // At an orderly end what was kept gets a last chance.
            let is_last = state.stop == Stop::AfterPending;
            if state.stop == Stop::AtOnce {
                return false;
            }
            drop(state);
            match self.try_again(medium, &mut is_broken) {
                Ok(()) => return true,
                Err(_) if is_last => return false,
                Err(error) => self.note_failure(&mut self.lock(), &error),
            }
            delay = (delay * 2).min(self.reopen_delay * REOPEN_DELAY_GROWTH);
        }
    }

    /// Opens the medium if need be, and commits what was kept.
    fn try_again(&self, medium: &mut dyn Medium, is_broken: &mut bool) -> Result<(), StorageError> {
        if *is_broken {
            self.reopen(medium)?;
            *is_broken = false;
        }
        let due = self.lock().take_due();
        match due {
            Some(group) => self.attempt(medium, group, is_broken),
            None => {
                self.note_success(&mut self.lock());
                self.tell();
                Ok(())
            }
        }
    }

    fn reopen(&self, medium: &mut dyn Medium) -> Result<(), StorageError> {
        let (before, after) = {
            let mut state = self.lock();
            state.counters.reopened += 1;
            (state.committed, state.last_tried.max(state.committed))
        };
        let holds = medium.reopen(before, after)?;
        let mut state = self.lock();
        // The commit that failed got through: its batches are durable, and folded.
        if let Some(through) = state.take_group(|last| last <= holds) {
            assert!(through.last == holds, "a commit holds whole batches");
            state.committed(&through);
            self.publish(holds);
        }
        Ok(())
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
    batches: Vec<Batch>,
    /// Lsn of the last operation: as many operations the medium holds with it.
    last: Lsn,
    bytes: u64,
}

impl State {
    fn has_failed(&self) -> bool {
        matches!(self.status, JournalStatus::Failed { .. })
    }

    fn next_is_due(&self) -> bool {
        let next = self.pending.front();
        next.is_some_and(|next| self.hold.is_none_or(|hold| next.last <= hold))
    }

    fn take_due(&mut self) -> Option<Group> {
        let hold = self.hold;
        self.is_flushed = false;
        self.take_group(|last| hold.is_none_or(|hold| last <= hold))
    }

    /// Takes the batches from the front whose last Lsn is wanted. `None` where there is none.
    fn take_group(&mut self, is_wanted: impl Fn(Lsn) -> bool) -> Option<Group> {
        let mut group = Group {
            batches: Vec::new(),
            last: 0,
            bytes: 0,
        };
        while let Some(next) = self.pending.pop_front_if(|next| is_wanted(next.last)) {
            group.last = next.last;
            group.bytes += next.bytes;
            group.batches.push(next.batch);
        }
        if group.batches.is_empty() {
            return None;
        }
        self.groups += 1;
        self.busy = Some(self.groups);
        self.last_tried = group.last;
        Some(group)
    }

    /// Puts the group back where it came from: at the front, in order.
    fn take_back(&mut self, group: Group) {
        self.busy = None;
        let mut last = group.last;
        for batch in group.batches.into_iter().rev() {
            let operations = batch.len() as u64;
            let bytes = batch.bytes();
            self.pending.push_front(Pending { last, bytes, batch });
            last -= operations;
        }
    }

    /// The medium has the group.
    fn committed(&mut self, group: &Group) {
        self.busy = None;
        self.pending_bytes -= group.bytes;
        self.counters.commits += 1;
        self.counters.operations += group.last - self.committed;
        self.committed = group.last;
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

/// How many times the first delay the last one is: two seconds by default, less than the five in which an operator may
/// expect the store back.
const REOPEN_DELAY_GROWTH: u32 = 20;
