//! The pump: everything one worker thread serves, without the thread.
//!
//! In come bytes of a connection, mail of other shards, the time and the journal's progress; out go bytes in send buffers,
//! mail, and a batch for the journal. Nothing here awaits, reads a clock or touches a socket, so the code that runs in
//! production is the code that runs in the simulation.
//!
//! A **turn** (D14) is what happens between two polls of the driver: any number of `receive`, `collect_mail`, `tick` and
//! `closed`, then one `end_turn`, after which the driver writes every connection of `take_dirty` once. The driver loop:
//!
//! 1. `open` a connection, `receive` its bytes; `Received::Move` asks to hand it to its home shard (D13). While it
//!    `has_unread`, `receive` again in the next turn before more is read.
//! 2. `end_turn`; wake the shards of `take_wakes`; write the connections of `take_dirty`.
//! 3. When a connection `is_closing` and its bytes are written, close the socket and call `released`.
//! 4. `tick` at `next_deadline`; `collect_mail` when another shard woke this one.

mod authenticate;
mod authorize;
mod by_listener;
mod certificate;
mod close;
mod connect;
mod control;
mod copies;
mod groups;
mod log;
mod mail;
mod names;
mod ownership;
mod packet;
mod pages;
mod partial;
mod post;
mod pressure;
mod publish;
mod recovery;
mod reload;
mod retained;
mod routes;
mod slots;
mod subscribe;
mod throttle;
mod timers;
mod trace;
mod unwritten;

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use chacha20::ChaCha20Rng;
use chacha20::rand_core::SeedableRng;
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use nightjar_certs::Client;
use nightjar_codec::{Limits, ProtocolVersion, cut};
use nightjar_storage::{Checkpoint, Durability, Journal, StoredMessage};

use crate::auth::{Auth, Hash};
use crate::authorization::Authorization;
use crate::clock::Now;
use crate::exchange::Exchange;
use crate::exchange::delivery::Route;
use crate::identity::{ConnectionId, GroupId, Peer, SessionId, ShardId, Ticket};
use crate::session::Session;
use crate::session::authenticate::Methods;
use crate::session::counters::InflightGauges;
use crate::session::output::{Counters, FrameCache, JournalSink, Outputs};
use crate::session::queue::MemoryLimits;
use crate::session::quota::QueueLimits;
use crate::session::seldom::Seldom;
use crate::session::send_buffer::{BufferPool, SendBuffer};
use crate::settings::{ListenerSettings, Settings};
pub use authenticate::Refusal;
use authenticate::{Authenticating, Claimant, Login};
use authorize::Denials;
use by_listener::{ListenerPlace, Listeners};
use certificate::Certificate;
pub use close::Cause;
use groups::Handing;
pub use mail::{Mail, PostOffice};
use names::Names;
use ownership::{Appended, Progress, Waits};
use partial::WaitingPublishes;
use post::Incoming;
use pressure::{Needs, Pressure};
pub use recovery::restore_groups_and_retained;
pub use reload::Reloaded;
use retained::Readings;
use routes::RouteCache;
use slots::Slots;
pub(crate) use throttle::{Throttle, Verdict};
use timers::{Timer, Timers};
use unwritten::Unwritten;

/// What the shards of one broker share, and what each is told.
#[derive(Clone)]
pub struct Shared {
    pub settings: Arc<Settings>,
    pub exchange: Arc<Exchange>,
    pub post: Arc<PostOffice>,
    pub methods: Methods,
    /// Who may come in.
    pub auth: Auth,
    /// The rules of who may do what.
    pub authorization: Arc<Authorization>,
    /// `None`: nothing survives this process.
    pub journal: Option<Arc<dyn Journal>>,
    /// Nobody outside may know it: who does can make topics collide.
    pub hash_seed: u64,
    /// Of this process alone: client ids that nobody can guess are made of it.
    pub client_id_seed: [u8; 32],
}

/// One worker's share of the broker.
pub struct Shard {
    id: ShardId,
    shared: Shared,
    /// Where long queues are read from; there from `restore` on.
    checkpoint: Option<Arc<dyn Checkpoint>>,
    limits: Limits,
    pre_auth_limits: Limits,
    connections: Slots<Connection>,
    sessions: Slots<Session>,
    names: Names,
    session_timers: HashMap<SessionId, u64, FixedState>,
    routes: RouteCache,
    timers: Timers,
    sweep_armed: Option<u64>,
    /// How much is said about whom.
    throttle: Throttle,
    throttle_armed: Option<u64>,
    /// The share group the last sweep ended with.
    swept_group: Option<GroupId>,
    sinks: Sinks,
    listeners: Listeners,
    inflight_gauges: InflightGauges,
    /// What leaves when a ticket is durable, in ticket order.
    waiting: VecDeque<Waits>,
    /// QoS 2 messages among them that wait for their batch.
    held_publishes: usize,
    /// What share groups are handed when the journal has taken this turn's batch.
    handing_in: Vec<Handing>,
    unwritten: Unwritten,
    tickets: VecDeque<Appended>,
    pressure: Pressure,
    progress: Progress,
    /// What new subscriptions have still to be shown.
    retained_readings: HashMap<SessionId, Readings, FixedState>,
    /// Sessions whose end is on its way to the journal.
    deletions: HashMap<Arc<str>, Ticket, FixedState>,
    outgoing: Vec<Mail>,
    /// Letters behind a batch that the journal has not taken.
    held_mail: Vec<Mail>,
    incoming: Incoming,
    wakes: Vec<ShardId>,
    receive_bytes: u64,
    draining: bool,
    /// Sockets may come from listeners as they were.
    has_reloaded: bool,
    assigned_ids: ChaCha20Rng,
    denials: Denials,
    /// A PUBLISH to this topic panics, and so does a will: a test's way to see that only its connection ends, or the process
    /// where the panic strikes in what others depend on (D18).
    panic_topic: Option<Box<str>>,
    /// Between the first change of something that other sessions depend on and the last.
    in_shared_room: bool,
}

/// What a session may push into, lent for one call at a time.
struct Sinks {
    queue_limits: QueueLimits,
    frames: FrameCache,
    journal: JournalSink,
    counters: Counters,
    finished: Vec<(SessionId, GroupId)>,
    room_again: Vec<(SessionId, GroupId)>,
    given_back: Vec<(SessionId, GroupId, Arc<StoredMessage>)>,
    page_wanted: Vec<SessionId>,
    memory_limits: Option<MemoryLimits>,
    dirty: Vec<ConnectionId>,
    pool: BufferPool,
    /// Bytes that connections of this shard did not take when they were offered, and how many of them the exchange knows of.
    unsent: u64,
    unsent_told: u64,
    send_is_scarce: bool,
    /// Where an offline session's output goes; stays empty.
    nowhere: SendBuffer,
}

/// A Network Connection, from the shard's side.
pub struct Connection {
    id: ConnectionId,
    pub peer: Peer,
    phase: Phase,
    version: ProtocolVersion,
    /// As CONNECT said; for the CONNACK that refuses it.
    maximum_packet_size: u32,
    send: SendBuffer,
    /// The beginning of a packet whose rest has not come.
    partial: Seldom<Vec<u8>>,
    /// Read, and left for the next turn because this one has made enough already.
    unread: Seldom<Vec<u8>>,
    last_received: u64,
    timer: Option<u64>,
    /// Where its last PUBLISH led. Its client may publish there, under the rules in force.
    last_route: Option<Rc<Route>>,
    is_dirty: bool,
    /// CONNACK lies in `send` and waits for the journal, and so does everything behind it.
    is_corked: bool,
    /// Its listener's durability is `memory`: what it is told does not wait for the journal, whatever is written later.
    from_memory: bool,
    listener: Arc<ListenerSettings>,
    listener_place: ListenerPlace,
    /// Who the client is by its certificate. Boxed: few have one.
    certificate: Option<Box<Certificate>>,
    /// Until it is served.
    claimant: Option<Box<Claimant>>,
    /// What its user has proved to be that user with; for the next reload.
    credential: Option<Arc<Hash>>,
    needs: Needs,
    waiting_publishes: Seldom<WaitingPublishes>,
}

/// How far a connection has come.
enum Phase {
    /// CONNECT is awaited.
    Greeting,
    /// The server asked for more Authentication Data.
    Authenticating(Box<Authenticating>),
    /// A password is being compared; nothing is read meanwhile.
    Verifying {
        login: Box<Login>,
    },
    /// A refusal that waits for its time; nothing is read.
    Refusing {
        refusal: Refusal,
    },
    Serving {
        session: SessionId,
    },
    /// The last bytes are on their way; nothing more is read.
    Closing,
}

/// What the driver does after `receive`.
#[derive(Debug)]
pub enum Received {
    Continue,
    /// The client's session lives on another shard: hand over the socket. The connection is gone from this shard.
    Move(Box<Departure>),
}

/// What goes with a socket to the shard of its client's session.
#[derive(Debug)]
pub struct Departure {
    pub home: ShardId,
    pub unread: Vec<u8>,
    pub peer: Peer,
    pub listener: Arc<ListenerSettings>,
    pub client: Option<Arc<Client>>,
}

impl Shard {
    pub fn new(id: ShardId, shared: Shared) -> Self {
        let settings = &shared.settings;
        let (limits, pre_auth_limits) = reload::limits(settings);
        let hasher = FixedState::with_seed(shared.hash_seed);
        let journal = JournalSink {
            enabled: shared.journal.is_some(),
            ticket: 1,
            ..JournalSink::default()
        };
        let mut assigned_ids = ChaCha20Rng::from_seed(shared.client_id_seed);
        assigned_ids.set_stream(u64::from(id)); // No two shards draw the same.
        Self {
            id,
            limits,
            pre_auth_limits,
            connections: Slots::default(),
            sessions: Slots::default(),
            names: Names::new(hasher.clone()),
            session_timers: HashMap::with_hasher(hasher.clone()),
            checkpoint: None,
            routes: RouteCache::new(hasher.clone()),
            timers: Timers::default(),
            sweep_armed: None,
            throttle: Throttle::default(),
            throttle_armed: None,
            swept_group: None,
            sinks: Sinks {
                queue_limits: QueueLimits::from(&**settings),
                frames: FrameCache::default(),
                journal,
                counters: Counters::default(),
                finished: Vec::new(),
                room_again: Vec::new(),
                given_back: Vec::new(),
                page_wanted: Vec::new(),
                memory_limits: None,
                dirty: Vec::new(),
                pool: BufferPool::default(),
                unsent: 0,
                unsent_told: 0,
                send_is_scarce: false,
                nowhere: SendBuffer::default(),
            },
            listeners: Listeners::default(),
            inflight_gauges: InflightGauges::default(),
            waiting: VecDeque::new(),
            held_publishes: 0,
            handing_in: Vec::new(),
            unwritten: Unwritten::new(hasher.clone()),
            tickets: VecDeque::new(),
            pressure: Pressure::default(),
            progress: Progress::default(),
            retained_readings: HashMap::with_hasher(hasher.clone()),
            deletions: HashMap::with_hasher(hasher),
            outgoing: (0..shared.post.shards()).map(|_| Mail::default()).collect(),
            held_mail: (0..shared.post.shards()).map(|_| Mail::default()).collect(),
            incoming: Incoming::new(shared.post.shards()),
            wakes: Vec::new(),
            receive_bytes: 0,
            draining: false,
            has_reloaded: false,
            assigned_ids,
            denials: Denials::default(),
            panic_topic: None,
            in_shared_room: false,
            shared,
        }
    }

    /// See `panic_topic`. For tests only.
    pub fn panic_on_publish_to(&mut self, topic: Option<Box<str>>) {
        self.panic_topic = topic;
    }

    /// A connection that nothing is known of but its peer and where it came in.
    pub fn open(
        &mut self,
        now: Now,
        peer: impl Into<Peer>,
        listener: &Arc<ListenerSettings>,
    ) -> ConnectionId {
        let peer = peer.into();
        let current = self.current_listener(listener);
        let is_gone = current.is_none();
        let listener = &current.unwrap_or_else(|| Arc::clone(listener));
        let settings = &self.shared.settings;
        let durability = listener.durability.unwrap_or(settings.durability);
        let deadline = now.monotonic + u64::from(settings.connect_timeout_seconds) * 1000;
        let listener_place = self.listeners.place_of(listener);
        let (slot, generation) = self.connections.insert(|slot, generation| Connection {
            id: ConnectionId { slot, generation },
            peer,
            phase: Phase::Greeting,
            version: ProtocolVersion::V3_1_1,
            maximum_packet_size: u32::MAX,
            send: SendBuffer::default(),
            partial: Seldom::default(),
            unread: Seldom::default(),
            last_received: now.monotonic,
            timer: None,
            last_route: None,
            is_dirty: false,
            is_corked: false,
            from_memory: durability == Durability::Memory,
            listener: Arc::clone(listener),
            listener_place,
            certificate: None,
            claimant: None,
            credential: None,
            needs: Needs::default(),
            waiting_publishes: Seldom::default(),
        });
        let id = ConnectionId { slot, generation };
        self.arm_connection(id, Some(deadline));
        if is_gone {
            self.close(now, id, Cause::ListenerGone);
        }
        id
    }

    /// Bytes of a connection, cut anywhere. Where `has_unread` holds afterwards, call again after the end of the turn, be it
    /// with no bytes.
    pub fn receive(&mut self, now: Now, id: ConnectionId, bytes: &[u8]) -> Received {
        let Some(connection) = self.connections.get_mut(id.slot, id.generation) else {
            return Received::Continue;
        };
        connection.last_received = now.monotonic;
        let counters = self.listeners.at(connection.listener_place);
        counters.bytes_received += bytes.len() as u64;
        let mut unread = std::mem::take(&mut connection.unread);
        let mut rest = bytes;
        if !unread.is_nothing() {
            self.receive_bytes -= unread.len() as u64;
            unread.extend_from_slice(bytes);
            rest = &unread;
        }
        if !connection.partial.is_nothing() {
            match self.complete_partial(now, id, &mut rest) {
                Some(Received::Continue) => {}
                Some(moved) => return moved,
                None => return Received::Continue,
            }
        }
        loop {
            let Some(connection) = self.connections.get(id.slot, id.generation) else {
                return Received::Continue;
            };
            if connection.is_closing() {
                return Received::Continue;
            }
            let is_held = connection.is_held();
            if is_held && rest.len() > self.shared.settings.pre_auth_packet_size_max as usize {
                self.close(now, id, Cause::TooMuchBeforeConnack);
                return Received::Continue;
            }
            if (is_held || self.is_turn_full() || self.waits_for_room(connection))
                && !rest.is_empty()
            {
                self.keep_unread(now, id, rest);
                return Received::Continue;
            }
            if let Some(cause) = refuse_first_byte(connection, rest) {
                self.close(now, id, cause);
                return Received::Continue;
            }
            let limits = if connection.is_served() {
                &self.limits
            } else {
                &self.pre_auth_limits
            };
            match cut(rest, limits) {
                Ok(Some((_, length))) => {
                    let (packet, after) = rest.split_at(length);
                    if let Some(home) = self.handle_packet(now, id, packet) {
                        return self.move_away(id, home, rest);
                    }
                    rest = after;
                }
                Ok(None) => {
                    self.keep_partial(now, id, rest);
                    return Received::Continue;
                }
                Err(error) => {
                    self.close(now, id, Cause::Violation(error.into()));
                    return Received::Continue;
                }
            }
        }
    }

    /// What was received in this turn has made so much for others that it is to be written first (in all, for one receiver, or
    /// for another shard), or so much for the journal that it is to begin with it.
    pub fn is_turn_full(&self) -> bool {
        self.sinks.frames.turn_is_full
            || self.sinks.frames.turn_bytes >= TURN_BYTES_MAX
            || self.sinks.journal.turn_bytes >= BATCH_BYTES_MAX
    }

    /// The peer closed, or the socket failed.
    pub fn closed(&mut self, now: Now, id: ConnectionId) {
        self.close(now, id, Cause::PeerGone);
        self.released(id);
    }

    /// The socket of a closing connection is closed.
    pub fn released(&mut self, id: ConnectionId) {
        self.arm_connection(id, None);
        self.disarm_certificate(id);
        if let Some(mut connection) = self.connections.remove(id.slot, id.generation) {
            self.receive_bytes -= connection.received_bytes();
            connection.send.discard(&mut self.sinks.pool);
            let before = connection.send.note_unsent();
            self.sinks.unsent -= before as u64;
            self.sinks.counters.connections_behind -= u64::from(before > 0);
        }
    }

    /// Ends the turn: hands the batch to the journal and the mail to the other shards, and releases what has become
    /// durable.
    pub fn end_turn(&mut self, now: Now) {
        self.sinks.frames.turn_bytes = 0;
        self.sinks.frames.turn_is_full = false;
        self.sinks.journal.turn_bytes = 0;
        self.sinks.share_unsent(&self.shared);
        self.read_pages(now);
        self.give_groups_their_turn(now);
        let is_appended = self.append_batch(now);
        if is_appended && !self.handing_in.is_empty() {
            let handing = std::mem::take(&mut self.handing_in);
            self.hand_in(now, handing);
        }
        self.release_durable(now);
        self.hand_over_mail(is_appended);
        self.relieve(now);
        self.arm_patience();
    }

    /// Whether there is something for `end_turn` to do or for the driver to write.
    pub fn has_turn_to_end(&self) -> bool {
        !self.sinks.dirty.is_empty()
            || (!self.sinks.journal.batch.is_empty() || self.unwritten.is_due())
                && !self.progress.is_stuck
            || !self.sinks.finished.is_empty()
            || !self.sinks.room_again.is_empty()
            || !self.sinks.given_back.is_empty()
            || !self.sinks.page_wanted.is_empty()
            || !self.handing_in.is_empty() && !self.progress.is_stuck
            || self.sinks.unsent != self.sinks.unsent_told
            || self.is_turn_full()
            || self.outgoing.iter().any(|mail| !mail.is_empty())
    }

    /// Something waits for the journal.
    pub fn awaits_journal(&self) -> bool {
        !self.tickets.is_empty() || self.progress.is_stuck
    }

    /// Connections with bytes to write or to close; each is named once. `into` is emptied first.
    pub fn take_dirty(&mut self, into: &mut Vec<ConnectionId>) {
        if trace::is_on() {
            self.trace_sent();
        }
        into.clear();
        std::mem::swap(into, &mut self.sinks.dirty);
        for id in into.iter() {
            if let Some(connection) = self.connections.get_mut(id.slot, id.generation) {
                connection.is_dirty = false;
            }
        }
    }

    /// Shards with new mail.
    pub fn take_wakes(&mut self) -> Vec<ShardId> {
        std::mem::take(&mut self.wakes)
    }

    /// The bytes to write for a connection, and where its empty buffers go.
    pub fn output(&mut self, id: ConnectionId) -> Option<(&mut SendBuffer, &mut BufferPool)> {
        let connection = self.connections.get_mut(id.slot, id.generation)?;
        Some((&mut connection.send, &mut self.sinks.pool))
    }

    /// The driver wrote as much as the socket took. Where that was everything, a session with a queue may have room for
    /// more.
    pub fn wrote(&mut self, now: Now, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(id.slot, id.generation) else {
            return;
        };
        let before = connection.send.note_unsent();
        let left = connection.send.len();
        let counters = self.listeners.at(connection.listener_place);
        counters.bytes_sent += connection.send.take_written();
        if left > 0 || before > 0 {
            self.sinks.unsent += left as u64;
            self.sinks.unsent -= before as u64;
            let behind = &mut self.sinks.counters.connections_behind;
            *behind += u64::from(left > 0);
            *behind -= u64::from(before > 0);
        }
        if connection.send.is_behind() {
            return;
        }
        let Phase::Serving { session } = connection.phase else {
            return;
        };
        let waits = self
            .sessions
            .get(session.slot, session.generation)
            .is_some_and(Session::has_waiting);
        if waits {
            self.pump(now, session);
        }
    }

    /// The connection is done: once its bytes are written the socket is to be closed.
    pub fn is_closing(&self, id: ConnectionId) -> bool {
        self.connections
            .get(id.slot, id.generation)
            .is_none_or(Connection::is_closing)
    }

    /// Whether the driver may read from this connection now. False while the client does not take our answers to what it
    /// sends, and while this shard is behind.
    pub fn may_read(&self, id: ConnectionId) -> bool {
        let Some(connection) = self.connections.get(id.slot, id.generation) else {
            return false;
        };
        if connection.is_held() {
            return false; // D19
        }
        // A message is added as long as there is room, so the last may stand out by its whole size: that alone must not
        // keep a living client's PINGREQ from being read.
        let settings = &self.shared.settings;
        let messages_max =
            settings.send_buffer_bytes_max as usize + settings.max_packet_size as usize;
        let answers_max = messages_max.saturating_add(ANSWERS_BYTES_MAX);
        connection.send.len() < answers_max && !self.is_behind(connection)
    }

    /// We are the ones who do not read: another shard is too far behind (its mail is full), too much waits for the journal, or
    /// the client's own PUBLISH packets wait for PUBRELs above their bound.
    fn is_behind(&self, connection: &Connection) -> bool {
        let waiting_max = self.shared.settings.qos2_unreleased_bytes_max;
        connection.waiting_publishes.bytes >= waiting_max
            || self.waits_for_room(connection)
            || self.is_congested()
    }

    pub fn next_deadline(&self) -> Option<u64> {
        self.timers.next()
    }

    /// Serves every deadline that has passed.
    pub fn tick(&mut self, now: Now) {
        while let Some(timer) = self.timers.pop(now.monotonic) {
            match timer {
                Timer::Connection(id) => self.connection_due(now, id),
                Timer::Certificate(id) => self.certificate_due(now, id),
                Timer::Session(id) => self.session_due(now, id),
                Timer::Page(id) => self.read_page(now, id),
                Timer::Sweep => self.sweep(now),
                Timer::LeftOut => self.log_left_out(now),
                Timer::Journal => self.journal_due(now),
                Timer::Retained => self.retained_due(),
            }
        }
    }

    pub fn id(&self) -> ShardId {
        self.id
    }

    pub fn settings(&self) -> &Arc<Settings> {
        &self.shared.settings
    }

    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// A look at the sessions, for tests and numbers.
    pub fn each_session(&self, mut look: impl FnMut(&Session)) {
        self.sessions.iter().for_each(&mut look);
    }

    /// Whether a panic that was caught struck where other connections' state may be half done (D18).
    pub fn panic_is_fatal(&self) -> bool {
        self.in_shared_room
    }

    /// Makes a change that other sessions depend on: a panic on the way is fatal.
    fn in_shared_room<R>(&mut self, change: impl FnOnce(&mut Self) -> R) -> R {
        let outer = std::mem::replace(&mut self.in_shared_room, true);
        let result = change(self);
        self.in_shared_room = outer;
        result
    }

    /// A panic while this connection was served: it ends, nothing else does (D18).
    pub fn panicked(&mut self, now: Now, id: ConnectionId) {
        self.sinks.counters.panics += 1;
        if let Some(connection) = self.connections.get(id.slot, id.generation)
            && let Phase::Serving { session } = connection.phase
            && let Some(session) = self.sessions.get_mut(session.slot, session.generation)
        {
            session.unreleased.forget_unaccepted();
        }
        self.close(now, id, Cause::Panic);
    }

    /// The first step of stopping (D10): nobody new is let in, and every will is published, also one that would have waited.
    /// `end_turn` hands over what that makes for other shards; `shut_down` comes when every shard has done so.
    pub fn publish_wills(&mut self, now: Now) {
        self.draining = true;
        self.retained_due();
        let ids: Vec<SessionId> = self
            .sessions
            .iter()
            .filter(|session| session.will.is_some())
            .map(|session| session.id)
            .collect();
        for id in ids {
            let Some(session) = self.sessions.get_mut(id.slot, id.generation) else {
                continue;
            };
            session.will_fires_at = None;
            let Some(will) = session.will.take() else {
                continue;
            };
            let record = session.is_stored.then(|| session.record());
            if let Some(record) = record {
                self.sinks.journal.push(record);
            }
            self.arm_session(id);
            self.in_shared_room(|shard| shard.publish_will(now, id, &will));
        }
    }

    /// Stops serving: 5.0 clients hear 0x8B, sessions stay (D10).
    pub fn shut_down(&mut self, now: Now) {
        self.draining = true;
        self.retained_due();
        let ids: Vec<ConnectionId> = self
            .connections
            .iter()
            .map(|connection| connection.id)
            .collect();
        for id in ids {
            self.close(now, id, Cause::ShutDown);
        }
    }

    fn move_away(&mut self, id: ConnectionId, home: ShardId, unread: &[u8]) -> Received {
        let Some(connection) = self.connections.get(id.slot, id.generation) else {
            return Received::Continue;
        };
        // They are counted where they are read again.
        let counters = self.listeners.at(connection.listener_place);
        counters.bytes_received -= unread.len() as u64;
        let departure = Departure {
            home,
            unread: unread.to_vec(),
            peer: connection.peer.clone(),
            listener: Arc::clone(&connection.listener),
            client: connection.client().cloned(),
        };
        self.released(id);
        Received::Move(Box::new(departure))
    }

    fn arm_connection(&mut self, id: ConnectionId, deadline: Option<u64>) {
        if let Some(connection) = self.connections.get_mut(id.slot, id.generation) {
            self.timers
                .set(&mut connection.timer, deadline, Timer::Connection(id));
        }
    }

    /// The one deadline of a session: its delayed will or its end, whichever comes first.
    fn arm_session(&mut self, id: SessionId) {
        let deadline = self
            .sessions
            .get(id.slot, id.generation)
            .and_then(|session| {
                session
                    .will_fires_at
                    .into_iter()
                    .chain(session.expires_at)
                    .min()
            });
        let mut armed = self.session_timers.remove(&id);
        self.timers.set(&mut armed, deadline, Timer::Session(id));
        if let Some(armed) = armed {
            self.session_timers.insert(id, armed);
        }
    }
}

impl Connection {
    fn is_closing(&self) -> bool {
        matches!(self.phase, Phase::Closing)
    }

    /// Whether it is to come in is being settled elsewhere.
    fn is_held(&self) -> bool {
        matches!(self.phase, Phase::Verifying { .. } | Phase::Refusing { .. })
    }

    /// What counts against `receive_bytes_max`.
    fn received_bytes(&self) -> u64 {
        (self.partial.len() + self.unread.len()) as u64 + self.waiting_publishes.bytes
    }

    fn is_served(&self) -> bool {
        matches!(self.phase, Phase::Serving { .. })
    }

    #[inline]
    fn mark_dirty(&mut self, dirty: &mut Vec<ConnectionId>) {
        if !self.is_dirty && !self.is_corked {
            self.is_dirty = true;
            dirty.push(self.id);
        }
    }
}

impl Sinks {
    /// Adds this shard's part to what all shards have not sent, and looks whether that is too much.
    fn share_unsent(&mut self, shared: &Shared) {
        let total = &shared.exchange.send_bytes;
        if self.unsent != self.unsent_told {
            total.fetch_add(
                self.unsent.wrapping_sub(self.unsent_told),
                Ordering::Relaxed,
            );
            self.unsent_told = self.unsent;
        }
        self.send_is_scarce = total.load(Ordering::Relaxed) > shared.settings.send_bytes_max;
    }

    /// Lends everything for one call of a session whose connection's buffer is `send`.
    fn outputs<'a>(
        &'a mut self,
        now: Now,
        shared: &'a Shared,
        send: &'a mut SendBuffer,
    ) -> Outputs<'a> {
        Outputs {
            now: now.monotonic,
            settings: &shared.settings,
            queue_limits: self.queue_limits,
            totals: &shared.exchange.totals,
            send,
            pool: &mut self.pool,
            send_is_scarce: self.send_is_scarce,
            frames: &mut self.frames,
            journal: &mut self.journal,
            counters: &mut self.counters,
            finished: &mut self.finished,
            room_again: &mut self.room_again,
            given_back: &mut self.given_back,
            page_wanted: &mut self.page_wanted,
            memory_limits: self.memory_limits,
        }
    }

    /// The same for a session without a connection.
    fn outputs_nowhere<'a>(&'a mut self, now: Now, shared: &'a Shared) -> Outputs<'a> {
        Outputs {
            now: now.monotonic,
            settings: &shared.settings,
            queue_limits: self.queue_limits,
            totals: &shared.exchange.totals,
            send: &mut self.nowhere,
            pool: &mut self.pool,
            send_is_scarce: false,
            frames: &mut self.frames,
            journal: &mut self.journal,
            counters: &mut self.counters,
            finished: &mut self.finished,
            room_again: &mut self.room_again,
            given_back: &mut self.given_back,
            page_wanted: &mut self.page_wanted,
            memory_limits: self.memory_limits,
        }
    }
}

/// [MQTT-3.1.0-1]: known from the first byte, so nothing else is waited for.
fn refuse_first_byte(connection: &Connection, bytes: &[u8]) -> Option<Cause> {
    let first = *bytes.first()?;
    let greeting = matches!(connection.phase, Phase::Greeting);
    (greeting && first >> 4 != 1).then_some(Cause::NotConnect)
}

/// Bytes of answers that wait on top of messages before a client that does not take them is no longer read.
const ANSWERS_BYTES_MAX: usize = 64 * 1024;
/// One read of small messages for very many receivers stops being served at this many bytes of output.
const TURN_BYTES_MAX: usize = 8 * 1024 * 1024;
/// The same for the journal: it works on one batch while the next is made.
const BATCH_BYTES_MAX: u64 = 1024 * 1024;
