//! One worker thread: a single-threaded runtime, the sockets of one shard, and the turns (D14).
//!
//! Every connection is a task that reads into the thread's one buffer and gives the bytes to the shard at once. The first
//! one that makes something to send wakes the flusher, which the run queue puts behind every task that is ready to read:
//! what happened until it runs is one turn. It ends the turn, then writes each touched connection once. Only a socket that
//! takes no more bytes makes its own task wait for room.

use std::cell::RefCell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Barrier};
use std::task::Waker;
use std::thread;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::LocalSet;

use nightjar_certs::Client;
use nightjar_storage::{Checkpoint, StorageError};

use crate::auth::Verdict;
use crate::certificates::Tally;
use crate::clock::{Clock, Now};
use crate::connection::{self, Socket};
use crate::door_counts::{Counted, DoorCounts};
use crate::identity::{ConnectionId, ShardId};
use crate::session::counters::Numbers;
use crate::settings::{ListenerSettings, Settings};
use crate::shard::{Received, Reloaded, Shard, Shared};
use crate::transport::{Detached, Peer};

/// How to reach the workers from other threads.
pub struct Directory {
    doors: Vec<Door>,
    /// Sockets of all workers, by their listeners.
    pub door_counts: DoorCounts,
    pub certificates: Tally,
}

struct Door {
    orders: mpsc::UnboundedSender<Order>,
    mail: Arc<Notify>,
    journal: Arc<Notify>,
    is_congested: AtomicBool,
}

/// What another thread asks of a worker.
pub enum Order {
    /// Serve this socket; `unread` was read from it already.
    Serve { socket: Handover, unread: Vec<u8> },
    /// Do this on the worker's thread.
    Run(Task),
    /// The verdict on a password that a connection of this worker waits for.
    Verified {
        connection: ConnectionId,
        verdict: Verdict,
    },
    /// Take other settings and users.
    Reload(Arc<Reloaded>),
    /// Part with every client whose certificate has been declared void.
    PartWithVoid,
    /// Give the journal what may wait. Dropping `done` says so.
    Save { done: mpsc::Sender<()> },
    /// Write who has subscribed to what into the log.
    LogSubscriptions,
    /// Publish every will and hand over the mail that makes. Dropping `done` says so.
    PublishWills { done: mpsc::Sender<()> },
    /// Tell what has been counted.
    Report {
        to: mpsc::Sender<(ShardId, Numbers)>,
    },
    /// Publish what the broker tells of itself: topics and payloads.
    PublishOwn { messages: Vec<(Box<str>, Box<str>)> },
    /// Say goodbye to everybody and stop when the last connection is gone.
    ShutDown { patience: Duration },
}

/// What a worker is to do once; it may start tasks there.
pub type Task = Box<dyn FnOnce(&Rc<RefCell<Worker>>) + Send>;

/// What the tasks that accept need to know.
#[derive(Clone)]
pub struct Acceptors {
    pub directory: Arc<Directory>,
    pub shards: ShardId,
    pub settings: watch::Receiver<Arc<Settings>>,
}

/// A socket between two runtimes.
pub struct Handover {
    pub stream: Detached,
    pub peer: Peer,
    pub listener: Arc<ListenerSettings>,
    /// Who the client is by its certificate.
    pub client: Option<Arc<Client>>,
    pub counted: Counted,
    /// What comes before MQTT has been read.
    pub is_opened: bool,
}

/// A worker's end of its door.
pub struct Doorway {
    orders: mpsc::UnboundedReceiver<Order>,
    mail: Arc<Notify>,
    journal: Arc<Notify>,
}

/// What the tasks of one worker share.
pub struct Worker {
    pub(crate) shard: Shard,
    pub(crate) sockets: Vec<Option<Socket>>,
    /// Tasks that wait until a peer has taken the last bytes of a connection that is gone.
    pub(crate) lingering: usize,
    pub(crate) buffer: Box<[u8]>,
    clock: Clock,
    directory: Arc<Directory>,
    flusher: Option<Waker>,
    flush_wanted: bool,
    dirty: Vec<ConnectionId>,
    /// Tasks that may not read while another shard is behind.
    pub(crate) congested: Vec<Waker>,
    timer: Rc<Notify>,
    timer_armed: Option<u64>,
}

impl Directory {
    pub fn new(shards: ShardId) -> (Self, Vec<Doorway>) {
        let mut doors = Vec::new();
        let mut doorways = Vec::new();
        for _ in 0..shards {
            // Bounded by the sockets there may be, one order each at a time, and by what the main thread asks one at a time.
            let (sender, receiver) = mpsc::unbounded_channel();
            let mail = Arc::new(Notify::new());
            let journal = Arc::new(Notify::new());
            doors.push(Door {
                orders: sender,
                mail: Arc::clone(&mail),
                journal: Arc::clone(&journal),
                is_congested: AtomicBool::new(false),
            });
            doorways.push(Doorway {
                orders: receiver,
                mail,
                journal,
            });
        }
        (
            Self {
                doors,
                door_counts: DoorCounts::default(),
                certificates: Tally::default(),
            },
            doorways,
        )
    }

    /// Gives an order; false when that worker is gone.
    pub fn send(&self, shard: ShardId, order: Order) -> bool {
        self.doors
            .get(usize::from(shard))
            .is_some_and(|door| door.orders.send(order).is_ok())
    }

    fn wake(&self, shard: ShardId) {
        if let Some(door) = self.doors.get(usize::from(shard)) {
            door.mail.notify_one();
        }
    }

    /// More is durable, or the journal has failed or works again: every shard looks.
    pub fn journal_moved(&self) {
        self.doors.iter().for_each(|door| door.journal.notify_one());
    }

    /// A shard has taken its mail: those who stopped reading because of it may go on.
    fn wake_congested(&self, shard: ShardId) {
        // The mail is taken before anybody is looked for who waits for that; `note_congested` has the other half.
        fence(Ordering::SeqCst);
        for (place, door) in self.doors.iter().enumerate() {
            if place != usize::from(shard) && door.is_congested.swap(false, Ordering::Relaxed) {
                door.mail.notify_one();
            }
        }
    }

    /// Some task of this shard waits for another shard to take its mail.
    fn note_congested(&self, shard: ShardId) {
        if let Some(door) = self.doors.get(usize::from(shard)) {
            door.is_congested.store(true, Ordering::Relaxed);
        }
        // Whoever waits says so before it looks at the mail for the last time.
        fence(Ordering::SeqCst);
    }
}

/// Held by every task that serves more than one connection, or one connection outside of `Worker::receive`: a panic in it
/// has struck what others depend on, and nobody would notice that the task is gone (D18).
pub(crate) struct PanicStops;

impl Drop for PanicStops {
    fn drop(&mut self) {
        if thread::panicking() {
            stop_process();
        }
    }
}

/// The supervisor starts us again; what was acknowledged is in the journal.
fn stop_process() -> ! {
    tracing::error!("A panic in a shared room: stopping, so that nothing more is acknowledged.");
    std::process::exit(EXIT_PANIC)
}

/// What a worker needs to start.
pub struct Start {
    pub runtime: Runtime,
    pub id: ShardId,
    pub shared: Shared,
    pub clock: Clock,
    pub directory: Arc<Directory>,
    pub doorway: Doorway,
    /// What is kept of earlier lives.
    pub checkpoint: Option<Arc<dyn Checkpoint>>,
    /// Told once, when the shard is ready to serve.
    pub ready: mpsc::UnboundedSender<Result<(), StorageError>>,
    /// Where every shard waits for the others when it has restored its sessions.
    pub restored: Arc<Barrier>,
    /// See `Shard::panic_on_publish_to`.
    pub panic_topic: Option<Box<str>>,
}

/// The runtime of one worker.
pub fn runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

/// Serves until told to shut down. Runs on its own thread.
pub fn run(start: Start) {
    let _panic_stops = PanicStops;
    let mut shard = Shard::new(start.id, start.shared);
    shard.panic_on_publish_to(start.panic_topic);
    if start.id == 0 {
        shard.arm_sweep(start.clock.now());
    }
    let restored = start
        .checkpoint
        .map_or(Ok(()), |store| shard.restore(store, start.clock.now()));
    let is_restored = restored.is_ok();
    // The main thread waits for it; where that is gone, nobody needs it.
    let _ = start.ready.send(restored);
    drop(start.ready);
    // A will that is due now is for subscribers on every shard, so none begins before all have theirs.
    start.restored.wait();
    if !is_restored {
        return;
    }
    let timer = Rc::new(Notify::new());
    let worker = Rc::new(RefCell::new(Worker {
        shard,
        sockets: Vec::new(),
        lingering: 0,
        buffer: vec![0; READ_BUFFER].into(),
        clock: start.clock,
        directory: start.directory,
        flusher: None,
        flush_wanted: false,
        dirty: Vec::new(),
        congested: Vec::new(),
        timer: Rc::clone(&timer),
        timer_armed: None,
    }));
    let tasks = LocalSet::new();
    tasks.spawn_local(connection::flush(Rc::clone(&worker)));
    tasks.spawn_local(serve_deadlines(Rc::clone(&worker), timer));
    tasks.spawn_local(collect_mail(
        Rc::clone(&worker),
        Arc::clone(&start.doorway.mail),
    ));
    tasks.spawn_local(follow_journal(
        Rc::clone(&worker),
        Arc::clone(&start.doorway.journal),
    ));
    tasks.block_on(&start.runtime, obey(worker, start.doorway.orders));
}

/// Takes orders until the one to stop has been carried out.
async fn obey(worker: Rc<RefCell<Worker>>, mut orders: mpsc::UnboundedReceiver<Order>) {
    while let Some(order) = orders.recv().await {
        match order {
            Order::Serve { socket, unread } => connection::welcome(&worker, socket, &unread),
            Order::Run(task) => task(&worker),
            Order::Verified {
                connection,
                verdict,
            } => worker.borrow_mut().verified(connection, verdict),
            Order::Report { to } => {
                let worker = worker.borrow();
                // Whoever asked and has gone does not want to know any more.
                let _ = to.try_send((worker.shard.id(), worker.shard.numbers()));
            }
            Order::PublishOwn { messages } => {
                let mut worker = worker.borrow_mut();
                let now = worker.now();
                for (topic, payload) in messages {
                    worker.shard.publish_own(now, &topic, payload.as_bytes());
                    if worker.shard.is_turn_full() {
                        worker.flush();
                    }
                }
                worker.after_input();
            }
            Order::Reload(reloaded) => {
                let mut worker = worker.borrow_mut();
                let now = worker.now();
                worker.shard.reload(now, &reloaded);
                worker.after_input();
            }
            Order::PartWithVoid => {
                let mut worker = worker.borrow_mut();
                let now = worker.now();
                worker.shard.part_with_void(now);
                worker.after_input();
            }
            Order::Save { done } => {
                let mut worker = worker.borrow_mut();
                worker.shard.save();
                worker.flush();
                worker.after_input();
                drop(done);
            }
            Order::LogSubscriptions => worker.borrow().shard.log_subscriptions(),
            Order::PublishWills { done } => {
                let mut worker = worker.borrow_mut();
                let now = worker.now();
                worker.shard.publish_wills(now);
                worker.flush();
                worker.after_input();
                drop(done);
            }
            Order::ShutDown { patience } => {
                {
                    let mut worker = worker.borrow_mut();
                    let now = worker.now();
                    // The wills of the other shards' clients.
                    while worker.shard.collect_mail(now) {
                        worker.flush();
                    }
                    worker.shard.shut_down(now);
                    worker.after_input();
                }
                let all_gone = async {
                    while worker.borrow().has_sockets() {
                        tokio::time::sleep(DRAIN_POLL).await;
                    }
                };
                if tokio::time::timeout(patience, all_gone).await.is_err() {
                    tracing::warn!(
                        "Some clients did not take their last bytes in time; closing them."
                    );
                }
                // What the last connections left for the journal.
                let mut worker = worker.borrow_mut();
                let now = worker.now();
                worker.end_turn(now);
                return;
            }
        }
    }
}

async fn collect_mail(worker: Rc<RefCell<Worker>>, mail: Arc<Notify>) {
    let _panic_stops = PanicStops;
    loop {
        mail.notified().await;
        let is_turn_full = {
            let mut worker = worker.borrow_mut();
            let now = worker.now();
            let is_turn_full = worker.shard.collect_mail(now);
            worker.look_at_congestion();
            // Whoever waited for this shard to catch up looks again.
            worker.directory.wake_congested(worker.shard.id());
            worker.after_input();
            is_turn_full
        };
        if is_turn_full {
            // Behind the end of this turn.
            mail.notify_one();
            tokio::task::yield_now().await;
        }
    }
}

/// What waits for the journal leaves with the next turn, which ends behind everybody who is ready to read.
async fn follow_journal(worker: Rc<RefCell<Worker>>, journal: Arc<Notify>) {
    let _panic_stops = PanicStops;
    loop {
        journal.notified().await;
        let mut worker = worker.borrow_mut();
        if worker.shard.awaits_journal() {
            worker.end_turn_soon();
        }
    }
}

async fn serve_deadlines(worker: Rc<RefCell<Worker>>, changed: Rc<Notify>) {
    let _panic_stops = PanicStops;
    loop {
        let wait = {
            let mut worker = worker.borrow_mut();
            let now = worker.now();
            worker.timer_armed = worker.shard.next_deadline();
            worker
                .timer_armed
                .map(|at| Duration::from_millis(at.saturating_sub(now.monotonic)))
        };
        let due = async {
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = due => {
                let mut worker = worker.borrow_mut();
                let now = worker.now();
                worker.shard.tick(now);
                worker.after_input();
            }
            () = changed.notified() => {}
        }
    }
}

impl Worker {
    /// Sockets that are open, or wait for their peers to take the last bytes.
    fn has_sockets(&self) -> bool {
        self.lingering > 0 || self.sockets.iter().any(Option::is_some)
    }

    pub(crate) fn now(&self) -> Now {
        self.clock.now()
    }

    /// After anything went into the shard: makes sure that the turn ends and that deadlines are kept.
    pub(crate) fn after_input(&mut self) {
        if self.shard.has_turn_to_end() {
            self.end_turn_soon();
        }
        let next = self.shard.next_deadline();
        if next.is_some() && (self.timer_armed.is_none() || next < self.timer_armed) {
            self.timer_armed = next;
            self.timer.notify_one();
        }
    }

    fn end_turn_soon(&mut self) {
        if !self.flush_wanted {
            self.flush_wanted = true;
            if let Some(flusher) = &self.flusher {
                flusher.wake_by_ref();
            }
        }
    }

    /// Gives bytes to the shard. A panic ends this connection only, unless it struck in a room that others share (D18).
    pub(crate) fn receive(&mut self, now: Now, id: ConnectionId, count: usize) -> Received {
        let Self { shard, buffer, .. } = self;
        let bytes = buffer.get(..count).unwrap_or_default();
        let received = catch_unwind(AssertUnwindSafe(|| shard.receive(now, id, bytes)));
        received.unwrap_or_else(|_| {
            if self.shard.panic_is_fatal() {
                stop_process();
            }
            tracing::error!("A panic while serving one connection; closing that connection.");
            self.shard.panicked(now, id);
            Received::Continue
        })
    }

    /// What `receive` does for bytes, for the verdict on a password.
    fn verified(&mut self, id: ConnectionId, verdict: Verdict) {
        let now = self.now();
        let shard = &mut self.shard;
        let done = catch_unwind(AssertUnwindSafe(|| shard.verified(now, id, verdict)));
        if done.is_err() {
            if self.shard.panic_is_fatal() {
                stop_process();
            }
            tracing::error!("A panic while serving one connection; closing that connection.");
            self.shard.panicked(now, id);
        }
        self.after_input();
    }

    /// This task may not read until another shard has taken its mail.
    pub(crate) fn wait_for_others(&mut self, waker: &Waker) {
        self.congested.push(waker.clone());
        self.look_at_congestion();
    }

    /// Lets tasks go on that wait for other shards, or asks to be woken when the next of those has taken its mail.
    fn look_at_congestion(&mut self) {
        if self.congested.is_empty() {
            return;
        }
        self.directory.note_congested(self.shard.id());
        if !self.shard.is_congested() {
            self.congested.drain(..).for_each(Waker::wake);
        }
    }

    pub(crate) fn wake_shard(&self, shard: ShardId) {
        self.directory.wake(shard);
    }

    pub(crate) fn hand_over(&self, home: ShardId, socket: Handover, unread: Vec<u8>) {
        // A worker that is gone is one that shuts down; the socket closes with the order.
        self.directory.send(home, Order::Serve { socket, unread });
    }

    /// Whether the flusher has something to do; remembers its waker.
    pub(crate) fn begin_flush(&mut self, waker: &Waker) -> bool {
        if self
            .flusher
            .as_ref()
            .is_none_or(|known| !known.will_wake(waker))
        {
            self.flusher = Some(waker.clone());
        }
        std::mem::take(&mut self.flush_wanted) || self.shard.has_turn_to_end()
    }

    /// Ends the turn; gives the connections to write.
    pub(crate) fn end_turn(&mut self, now: Now) -> Vec<ConnectionId> {
        self.shard.end_turn(now);
        for shard in self.shard.take_wakes() {
            self.wake_shard(shard);
        }
        let mut dirty = std::mem::take(&mut self.dirty);
        self.shard.take_dirty(&mut dirty);
        dirty
    }

    pub(crate) fn reuse(&mut self, dirty: Vec<ConnectionId>) {
        self.dirty = dirty;
    }
}

/// As a process that panicked.
const EXIT_PANIC: i32 = 101;
/// With a quarter of it, payloads of 1 KiB and QoS 1 pass at little more than half the rate.
const READ_BUFFER: usize = 256 * 1024;
const DRAIN_POLL: Duration = Duration::from_millis(5);
