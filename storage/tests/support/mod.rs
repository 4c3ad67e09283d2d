//! A disk in memory that does what disks do when they can: it loses, tears and reorders what was not synced, stops in the
//! middle of anything, refuses, and runs full. It lies below the real storage code.
//!
//! Faults it injects:
//! - the power goes at the n-th operation (`cut_after`): that one and all later ones fail and nothing more is written;
//! - what was written after the last sync is, sector by sector (512 bytes), there, not there, or torn in the middle, in any
//!   order, and lengths and names that were not synced may be as before (`after_power_cut`);
//! - a stretch of operations fails (`fail_at`, `fail_stretch`), every n-th one (`fail_every`), every n-th sync (`fail_every_sync`), or
//!   all writes until told otherwise (`refuse`);
//! - a sync that fails loses what it was to write: some sectors of it are on the platter, the others never will be, and all
//!   of them are still read back as they were written, until the power goes;
//! - there is room for so many bytes (`room`); a sync takes a while (`sync_delay`).

#![allow(dead_code, reason = "each test takes what it needs")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use nightjar_storage::contract::{Random, Subject};
use nightjar_storage::{
    Batch, Checkpoint, Disk, DiskFile, Full, Journal, JournalStatus, Lsn, MessageId, Operation,
    Options, Owner, QueueEntry, QueuedMessage, Record, RedbEngine, Room, Sequence, SessionRecord,
    StorageError, Table,
};

/// A disk with one directory. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct SimulatedDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    files: Vec<File>,
    /// Names as they are in memory, and as they are on the platter.
    names: BTreeMap<&'static str, usize>,
    durable_names: BTreeMap<&'static str, usize>,
    operations: u64,
    syncs: u64,
    cut_at: Option<u64>,
    fail: Range<u64>,
    fail_every: Option<u64>,
    fail_every_sync: Option<u64>,
    failures: u64,
    lost_syncs: u64,
    /// What the next failed sync loses hangs on it.
    chance: u64,
    refuse: bool,
    off: bool,
    room: Option<u64>,
    sync_delay: Duration,
}

#[derive(Clone, Debug, Default)]
struct File {
    current: Vec<u8>,
    durable: Vec<u8>,
    /// Since the last sync, in order.
    unsynced: Vec<Change>,
    /// Pages that take room.
    pages: BTreeSet<usize>,
}

#[derive(Clone, Debug)]
enum Change {
    Write { offset: usize, data: Vec<u8> },
    Length(usize),
}

#[derive(Debug)]
struct Handle {
    disk: SimulatedDisk,
    file: usize,
}

impl SimulatedDisk {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A disk that holds this and has it safe.
    pub(crate) fn with_store(bytes: Vec<u8>) -> Self {
        let disk = Self::new();
        {
            let mut state = disk.lock();
            state.files.push(File {
                current: bytes.clone(),
                durable: bytes,
                ..File::default()
            });
            state.names.insert(STORE, 0);
            state.durable_names.insert(STORE, 0);
        }
        disk
    }

    /// What is in the store's file at this moment.
    pub(crate) fn store_bytes(&self) -> Option<Vec<u8>> {
        let state = self.lock();
        let file = *state.names.get(STORE)?;
        Some(state.files[file].current.clone())
    }

    /// Operations of any kind so far.
    pub(crate) fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// Syncs of files so far.
    pub(crate) fn syncs(&self) -> u64 {
        self.lock().syncs
    }

    /// The power goes before the operation that is this many from now on.
    pub(crate) fn cut_after(&self, operations: u64) {
        let mut state = self.lock();
        state.cut_at = Some(state.operations + operations);
    }

    /// The operation with this number fails; the first is 1.
    pub(crate) fn fail_at(&self, operation: u64) {
        self.lock().fail = operation..operation + 1;
    }

    /// From the operation on that is this many from now, so many fail.
    pub(crate) fn fail_stretch(&self, after: u64, length: u64) {
        let mut state = self.lock();
        let first = state.operations + 1 + after;
        state.fail = first..first + length;
    }

    pub(crate) fn fail_every(&self, stride: Option<u64>) {
        self.lock().fail_every = stride;
    }

    pub(crate) fn fail_every_sync(&self, stride: Option<u64>) {
        self.lock().fail_every_sync = stride;
    }

    /// Nothing fails any more.
    pub(crate) fn heal(&self) {
        let mut state = self.lock();
        state.fail = 0..0;
        state.fail_every = None;
        state.fail_every_sync = None;
    }

    /// Operations that failed so far because a test said so.
    pub(crate) fn failures(&self) -> u64 {
        self.lock().failures
    }

    /// Syncs that failed and had something to lose.
    pub(crate) fn lost_syncs(&self) -> u64 {
        self.lock().lost_syncs
    }

    /// Whether the power is gone.
    pub(crate) fn is_off(&self) -> bool {
        self.lock().off
    }

    pub(crate) fn power_off(&self) {
        self.lock().off = true;
    }

    pub(crate) fn refuse(&self, refuse: bool) {
        self.lock().refuse = refuse;
    }

    /// Bytes that all files together may have.
    pub(crate) fn set_room(&self, room: Option<u64>) {
        self.lock().room = room;
    }

    /// Bytes that all files together take.
    pub(crate) fn taken(&self) -> u64 {
        self.lock().taken_bytes()
    }

    pub(crate) fn set_sync_delay(&self, delay: Duration) {
        self.lock().sync_delay = delay;
    }

    /// The disk as the next start finds it.
    pub(crate) fn after_power_cut(&self, random: &mut Random) -> Self {
        let mut state = self.lock();
        state.off = true;
        let mut names = state.durable_names.clone();
        if state.names != state.durable_names && random.below(2) == 0 {
            names = state.names.clone();
        }
        let mut files = Vec::new();
        let mut kept = BTreeMap::new();
        for (name, file) in names {
            kept.insert(name, files.len());
            let bytes = state.files[file].survive(random);
            files.push(File {
                current: bytes.clone(),
                durable: bytes,
                ..File::default()
            });
        }
        let survived = State {
            files,
            durable_names: kept.clone(),
            names: kept,
            ..State::default()
        };
        Self {
            state: Arc::new(Mutex::new(survived)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("the disk does not panic")
    }
}

impl State {
    /// One operation of the disk; `changes` says whether it is one that a disk without room or a broken one refuses.
    fn step(&mut self, changes: bool) -> io::Result<()> {
        if self.off {
            return Err(io::Error::other("the power is off"));
        }
        self.operations += 1;
        if self.cut_at.is_some_and(|at| self.operations > at) {
            self.off = true;
            return Err(io::Error::other("the power goes off"));
        }
        let is_its_turn = self
            .fail_every
            .is_some_and(|stride| self.operations.is_multiple_of(stride));
        if self.fail.contains(&self.operations) || is_its_turn {
            self.failures += 1;
            return Err(io::Error::other("a test said so"));
        }
        if self.refuse && changes {
            return Err(io::Error::other("a test refuses"));
        }
        Ok(())
    }

    fn taken_bytes(&self) -> u64 {
        let files = self.names.values();
        let pages: usize = files.map(|file| self.files[*file].pages.len()).sum();
        (pages * PAGE) as u64
    }

    fn step_sync(&mut self) -> io::Result<()> {
        self.step(true)?;
        match self.fail_every_sync {
            Some(stride) if self.syncs.is_multiple_of(stride) => {
                self.failures += 1;
                Err(io::Error::other("a test said so"))
            }
            _ => Ok(()),
        }
    }

    /// Makes the pages of a write the file's, if there is room for those that are not yet. A length alone takes no room.
    fn allocate(&self, file: usize, offset: usize, end: usize) -> io::Result<()> {
        let pages = offset / PAGE..end.div_ceil(PAGE);
        let file = &self.files[file];
        let new = pages.filter(|page| !file.pages.contains(page)).count();
        match self.room {
            Some(room) if self.taken_bytes() + (new * PAGE) as u64 > room => {
                Err(ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        }
    }
}

impl State {
    /// What a failed sync does to what it was to write.
    fn lose(&mut self, file: usize) {
        let mut random = Random(self.chance);
        self.chance = random.number();
        let file = &mut self.files[file];
        let (writes, lengths): (Vec<Change>, Vec<Change>) = std::mem::take(&mut file.unsynced)
            .into_iter()
            .partition(|change| matches!(change, Change::Write { .. }));
        self.lost_syncs += u64::from(!writes.is_empty());
        file.unsynced = writes;
        file.durable = file.survive(&mut random);
        // Lengths are the file system's own, which keeps them or stops.
        file.unsynced = lengths;
    }
}

impl File {
    /// What of the unsynced changes a power cut leaves.
    fn survive(&self, random: &mut Random) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        // Some cuts take everything, some nothing, most a part.
        let chance = random.pick(&[0, 1, 3, 5, 7, 9, 10]);
        let mut pieces = Vec::new();
        for change in &self.unsynced {
            match change {
                Change::Length(length) => {
                    if random.below(10) < chance {
                        bytes.resize(*length, 0);
                    }
                }
                Change::Write { offset, data } => {
                    let mut at = 0;
                    while at < data.len() {
                        let sector_end = (offset + at) / SECTOR * SECTOR + SECTOR;
                        let end = data.len().min(sector_end - offset);
                        pieces.push((offset + at, &data[at..end]));
                        at = end;
                    }
                }
            }
        }
        // Reordered: an earlier version of a sector may land on a later one.
        if random.below(4) == 0 {
            for index in (1..pieces.len()).rev() {
                pieces.swap(index, random.below(index as u64 + 1) as usize);
            }
        }
        for (offset, data) in pieces {
            if random.below(10) >= chance {
                continue;
            }
            let torn = random.below(16) == 0;
            let kept = if torn {
                random.below(data.len() as u64) as usize
            } else {
                data.len()
            };
            // What lies behind the length that survived is not there.
            let kept = kept.min(bytes.len().saturating_sub(offset));
            if kept > 0 {
                bytes[offset..offset + kept].copy_from_slice(&data[..kept]);
            }
        }
        bytes
    }
}

impl Disk for SimulatedDisk {
    fn path(&self) -> Box<str> {
        "a simulated disk".into()
    }

    fn open(&self) -> io::Result<Option<Box<dyn DiskFile>>> {
        let mut state = self.lock();
        state.step(false)?;
        let Some(file) = state.names.get(STORE).copied() else {
            return Ok(None);
        };
        state.step(true)?;
        state.durable_names = state.names.clone();
        Ok(Some(Box::new(Handle {
            disk: self.clone(),
            file,
        })))
    }

    fn create(&self) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.lock();
        state.step(true)?;
        let file = state.files.len();
        state.files.push(File::default());
        state.names.insert(TEMPORARY, file);
        Ok(Box::new(Handle {
            disk: self.clone(),
            file,
        }))
    }

    fn room(&self) -> io::Result<Option<Room>> {
        let state = self.lock();
        Ok(state.room.map(|bytes| Room {
            bytes,
            free: bytes.saturating_sub(state.taken_bytes()),
        }))
    }

    fn publish(&self) -> io::Result<()> {
        let mut state = self.lock();
        state.step(true)?;
        let file = state.names[TEMPORARY];
        state.files[file].sync();
        state.step(true)?;
        state.names.remove(TEMPORARY);
        state.names.insert(STORE, file);
        state.step(true)?;
        state.durable_names = state.names.clone();
        Ok(())
    }
}

impl File {
    fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            match change {
                Change::Write { offset, data } => {
                    self.durable[offset..offset + data.len()].copy_from_slice(&data);
                }
                Change::Length(length) => self.durable.resize(length, 0),
            }
        }
    }
}

impl DiskFile for Handle {
    fn len(&self) -> io::Result<u64> {
        let mut state = self.disk.lock();
        state.step(false)?;
        Ok(state.files[self.file].current.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.disk.lock();
        state.step(false)?;
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        let end = offset.saturating_add(out.len());
        let bytes = state.files[self.file].current.get(offset..end);
        out.copy_from_slice(bytes.ok_or(ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.disk.lock();
        state.step(true)?;
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        let end = offset + data.len();
        state.allocate(self.file, offset, end)?;
        if end > state.files[self.file].current.len() {
            let file = &mut state.files[self.file];
            file.current.resize(end, 0);
            file.unsynced.push(Change::Length(end));
        }
        let file = &mut state.files[self.file];
        file.current[offset..end].copy_from_slice(data);
        file.pages.extend(offset / PAGE..end.div_ceil(PAGE));
        file.unsynced.push(Change::Write {
            offset,
            data: data.to_vec(),
        });
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.lock();
        state.step(true)?;
        let len = usize::try_from(len).map_err(io::Error::other)?;
        let file = &mut state.files[self.file];
        file.current.resize(len, 0);
        file.pages.split_off(&len.div_ceil(PAGE));
        file.unsynced.push(Change::Length(len));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let delay = {
            let mut state = self.disk.lock();
            state.syncs += 1;
            if let Err(error) = state.step_sync() {
                if !state.off {
                    state.lose(self.file);
                }
                return Err(error);
            }
            state.files[self.file].sync();
            state.sync_delay
        };
        if !delay.is_zero() {
            std::thread::sleep(delay);
        }
        Ok(())
    }
}

/// The redb engine on a simulated disk, as the contract wants to handle it.
pub(crate) struct OnDisk {
    pub(crate) engine: RedbEngine,
    pub(crate) disk: SimulatedDisk,
    progress: Mutex<Receiver<()>>,
    options: Options,
    random: Random,
}

impl OnDisk {
    pub(crate) fn new(options: Options) -> Self {
        Self::open(SimulatedDisk::new(), options, Random(7)).expect("an empty disk takes a store")
    }

    pub(crate) fn open(
        disk: SimulatedDisk,
        options: Options,
        random: Random,
    ) -> Result<Self, StorageError> {
        let engine = RedbEngine::open_on(Box::new(disk.clone()), options)?;
        let (sender, progress) = channel();
        engine.on_progress(Box::new(move || {
            let _ = sender.send(());
        }));
        Ok(Self {
            engine,
            disk,
            progress: Mutex::new(progress),
            options,
            random,
        })
    }

    /// Waits until the state of the journal is another, and asks again and again, for where something else has to happen.
    pub(crate) fn wait_while(&self, unwanted: impl Fn(&JournalStatus) -> bool) {
        let progress = self.progress.lock().expect("nobody panics while waiting");
        let began = now();
        while unwanted(&self.engine.status()) {
            let _ = progress.recv_timeout(Duration::from_millis(1));
            assert!(began.elapsed() < WAIT_MAX, "the state does not move");
        }
    }

    /// Waits for a state of the journal.
    pub(crate) fn wait_for(&self, wanted: impl Fn(&JournalStatus) -> bool) {
        while !wanted(&self.engine.status()) {
            let progress = self.progress.lock().expect("nobody panics while waiting");
            progress
                .recv_timeout(WAIT_MAX)
                .expect("the state moves within 30 s");
        }
    }
}

impl Subject for OnDisk {
    fn hold(&mut self) {
        self.engine.hold(0);
    }

    fn settle(&mut self, upto: Lsn) {
        self.engine.hold(upto);
    }

    fn catch_up(&mut self) {}

    fn power_cut(mut self) -> Self {
        self.disk.power_off();
        self.engine.abandon();
        let disk = self.disk.after_power_cut(&mut self.random);
        drop(self.engine);
        let survivor = Self::open(disk, self.options, self.random);
        survivor.expect("what a power cut leaves can be opened")
    }

    fn fail(&mut self) {
        self.disk.refuse(true);
        self.engine.flush();
        self.wait_for(|status| matches!(status, JournalStatus::Failed { .. }));
    }

    fn reopen(&mut self) {
        self.disk.refuse(false);
        self.wait_for(|status| matches!(status, JournalStatus::Durable(_)));
        self.engine.hold(0);
    }
}

impl Journal for OnDisk {
    fn append(&self, batch: Batch) -> Result<Lsn, Full> {
        self.engine.append(batch)
    }

    fn status(&self) -> JournalStatus {
        self.engine.status()
    }

    fn recover(&mut self, visit: &mut dyn FnMut(Lsn, Operation)) -> Result<(), StorageError> {
        self.engine.recover(visit)
    }

    fn trim(&mut self, upto: Lsn) {
        self.engine.trim(upto);
    }
}

impl Checkpoint for OnDisk {
    fn apply(&mut self, operations: &[Operation], upto: Lsn) -> Result<(), StorageError> {
        self.engine.apply(operations, upto)
    }

    fn session(&self, client_id: &str) -> Result<Option<SessionRecord>, StorageError> {
        self.engine.session(client_id)
    }

    fn queue(
        &self,
        owner: &Owner,
        after: Sequence,
        limit: usize,
    ) -> Result<Vec<QueuedMessage>, StorageError> {
        self.engine.queue(owner, after, limit)
    }

    fn outline(&self, owner: &Owner) -> Result<Vec<QueueEntry>, StorageError> {
        self.engine.outline(owner)
    }

    fn queued(
        &self,
        owner: &Owner,
        message_ids: &[MessageId],
        bytes_max: u64,
    ) -> Result<Vec<QueuedMessage>, StorageError> {
        self.engine.queued(owner, message_ids, bytes_max)
    }

    fn groups(&self) -> Result<Vec<Owner>, StorageError> {
        self.engine.groups()
    }

    fn message_id_max(&self) -> MessageId {
        self.engine.message_id_max()
    }

    fn scan(&self, table: Table, visit: &mut dyn FnMut(Record)) -> Result<(), StorageError> {
        self.engine.scan(table, visit)
    }
}

/// For how long something takes that nobody simulates.
#[allow(clippy::disallowed_methods, reason = "a test measures itself")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// A number that an environment variable sets, for the long form of a test.
pub(crate) fn number_from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is not a number: {text}")),
    )
}

const WAIT_MAX: Duration = Duration::from_secs(30);
const STORE: &str = "nightjar.redb";
const TEMPORARY: &str = "nightjar.redb.new";
const SECTOR: usize = 512;
const PAGE: usize = 4096;

/// Undoes what the golden files are made by: pages that are not empty, each behind its number.
pub(crate) fn stretch(squeezed: &[u8]) -> Vec<u8> {
    let (length, mut rest) = squeezed.split_first_chunk().unwrap();
    let mut bytes = vec![0; u64::from_le_bytes(*length) as usize];
    while let Some((number, behind)) = rest.split_first_chunk() {
        let at = u32::from_le_bytes(*number) as usize * 512;
        let end = bytes.len().min(at + 512);
        let (page, behind) = behind.split_at(end - at);
        bytes[at..end].copy_from_slice(page);
        rest = behind;
    }
    bytes
}
