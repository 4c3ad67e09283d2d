//! Many connections of a scenario that opens and closes them while it measures, driven by readiness from one thread.
//!
//! Comes in: what to connect with and what to send. Goes out: every packet received, to a `Crew`, which answers by
//! queueing bytes on the connection it came from; the fleet flushes once per read. A connection that ends is reported to
//! the crew and forgotten: whether that is an error is the scenario's to say. The hot path of `engine` is not here: this
//! one encodes every packet by itself.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use mio::event::Event;
use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::clock::{Clock, Ticker};
use crate::connection::{Connection, PeerError, Target};
use crate::frame::{self, Frame};
use crate::poster::Poster;
use crate::process;
use crate::work::WorkError;

/// Who looks after what the connections receive.
pub trait Crew {
    /// Takes one whole packet, which is no DISCONNECT; `now` is when the read returned, in nanoseconds.
    fn packet(
        &mut self,
        index: usize,
        frame: Frame<'_>,
        connection: &mut Connection,
        now: u64,
    ) -> Result<(), WorkError>;

    /// Connection `index` is no more.
    fn gone(&mut self, index: usize, error: PeerError) -> Result<(), WorkError>;
}

/// The connections, by number.
#[derive(Debug)]
pub struct Fleet {
    poll: Poll,
    pub clock: Clock,
    target: Target,
    members: Vec<Option<Member>>,
    readable: Vec<usize>,
    /// The same, of the turn before, empty: the two change places.
    spare: Vec<usize>,
    buffer: Vec<u8>,
    ticker: Option<Ticker>,
    /// There is more to send than the step that was just done has sent: the next turn does not wait.
    pub again: bool,
    /// The step that was just done waits for nothing more: its phase ends, however much is done.
    pub over: bool,
}

#[derive(Debug)]
struct Member {
    connection: Connection,
    /// Nothing is read from it.
    paused: bool,
}

impl Fleet {
    /// Room for `count` connections, which receive packets of at most `packet_length_max` bytes.
    pub fn new(target: &Target, count: usize, packet_length_max: usize) -> Result<Self, WorkError> {
        let needed = u64::try_from(count).unwrap_or(u64::MAX) + SPARE_DESCRIPTORS;
        let allowed = process::raise_descriptors(needed);
        if allowed < needed {
            return Err(WorkError::Descriptors { needed, allowed });
        }
        Ok(Self {
            poll: Poll::new()?,
            clock: Clock::start(),
            target: target.clone(),
            members: (0..count).map(|_| None).collect(),
            readable: Vec::new(),
            spare: Vec::new(),
            buffer: vec![0; READ_BYTES.max(2 * packet_length_max)],
            ticker: None,
            again: false,
            over: false,
        })
    }

    /// Where the connections go.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Begins to connect, and to send `greeting` as soon as that is possible.
    pub fn connect(&mut self, index: usize, greeting: &[u8]) -> Result<(), WorkError> {
        let stream = open(self.target.address, index)?;
        let mut connection = Connection::over(self.target.transport(stream)?);
        connection.register(self.poll.registry(), Token(index))?;
        connection.queue(greeting);
        // A connection that is refused is found out by its next read.
        let _ = connection.flush();
        if let Some(member) = self.members.get_mut(index) {
            *member = Some(Member {
                connection,
                paused: false,
            });
        }
        Ok(())
    }

    /// The connection, if it is open.
    #[inline]
    pub fn connection(&mut self, index: usize) -> Option<&mut Connection> {
        let member = self.members.get_mut(index)?.as_mut()?;
        Some(&mut member.connection)
    }

    /// Queues bytes and sends as far as the socket takes them.
    pub fn send(&mut self, index: usize, bytes: &[u8]) {
        if let Some(connection) = self.connection(index) {
            connection.queue(bytes);
            // A connection that has failed is found out by its next read.
            let _ = connection.flush();
        }
    }

    /// Lets `poster` send on connection `index` what `next` gives it, as far as the socket and the bound in flight allow.
    #[inline]
    pub fn post(
        &mut self,
        index: usize,
        poster: &mut Poster,
        mut next: impl FnMut(&mut Poster, &mut Connection) -> bool,
    ) {
        let Some(connection) = self.connection(index) else {
            return;
        };
        if connection.unsent() > 0 {
            return;
        }
        let mut more = true;
        let mut posted = 0;
        while more && posted < POSTED_MAX && poster.may_post(connection) {
            more = next(poster, connection);
            posted += 1;
        }
        // A connection that has failed is found out by its next read.
        let _ = connection.flush();
        let again = more && connection.unsent() == 0 && poster.may_post(connection);
        self.again |= again;
    }

    /// Closes with a DISCONNECT where the socket takes it.
    pub fn close(&mut self, index: usize) {
        self.send(index, &[frame::DISCONNECT, 0]);
        self.forget(index);
    }

    /// Closes as a crash does: with a reset, without a DISCONNECT.
    pub fn reset(&mut self, index: usize) {
        let connection = self.connection(index);
        if let Some(stream) = connection.and_then(Connection::stream) {
            // Where it is refused, the connection closes in order.
            let _ = socket2::SockRef::from(&*stream).set_linger(Some(Duration::ZERO));
        }
        self.forget(index);
    }

    /// Stops reading, or goes on with it.
    pub fn pause(&mut self, index: usize, paused: bool) {
        if let Some(Some(member)) = self.members.get_mut(index) {
            member.paused = paused;
            // What arrived meanwhile makes no further edge.
            if !paused && !std::mem::replace(&mut member.connection.queued, true) {
                self.readable.push(index);
            }
        }
    }

    /// Wakes the poll at least this often.
    pub fn tick_every(&mut self, interval: Duration) -> Result<(), WorkError> {
        let ticker = Ticker::every(interval.max(TICK_MIN))?;
        let registry = self.poll.registry();
        registry.register(&mut SourceFd(&ticker.raw_fd()), TICK, Interest::READABLE)?;
        self.ticker = Some(ticker);
        Ok(())
    }

    /// Waits until something is readable or writable, at most `timeout`, then reads each readable connection once.
    pub fn turn(
        &mut self,
        crew: &mut impl Crew,
        events: &mut Events,
        timeout: Duration,
    ) -> Result<(), WorkError> {
        let timeout = if self.readable.is_empty() && !self.again {
            timeout
        } else {
            Duration::ZERO
        };
        self.again = false;
        match self.poll.poll(events, Some(timeout)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            other => other?,
        }
        for event in events.iter() {
            if event.token() != TICK {
                self.mark(event);
            } else if let Some(ticker) = &self.ticker {
                ticker.acknowledge();
            }
        }
        let mut ready = std::mem::take(&mut self.spare);
        std::mem::swap(&mut ready, &mut self.readable);
        for index in ready.drain(..) {
            self.read(index, crew)?;
        }
        self.spare = ready;
        Ok(())
    }

    fn mark(&mut self, event: &Event) {
        let index = event.token().0;
        let Some(Some(member)) = self.members.get_mut(index) else {
            return;
        };
        let connection = &mut member.connection;
        if event.is_writable() && !connection.writable {
            connection.writable = true;
            // A connection that has failed is found out by its next read.
            let _ = connection.flush();
        }
        connection.read_closed |= event.is_read_closed();
        // Bytes that the layers over the socket hold make no event: any event is a reason to look.
        let readable = event.is_readable()
            || event.is_read_closed()
            || event.is_error()
            || connection.may_hold_input();
        if readable && !member.paused && !std::mem::replace(&mut connection.queued, true) {
            self.readable.push(index);
        }
    }

    fn read(&mut self, index: usize, crew: &mut impl Crew) -> Result<(), WorkError> {
        let Some(Some(member)) = self.members.get_mut(index) else {
            return Ok(());
        };
        if member.paused {
            member.connection.queued = false;
            return Ok(());
        }
        let now = self.clock.nanoseconds();
        match receive(index, &mut member.connection, &mut self.buffer, crew, now) {
            Ok(true) => {
                member.connection.queued = false;
                Ok(())
            }
            Ok(false) => {
                self.readable.push(index);
                Ok(())
            }
            Err(Ended::Peer(error)) => {
                self.forget(index);
                crew.gone(index, error)
            }
            Err(Ended::Work(error)) => Err(error),
        }
    }

    fn forget(&mut self, index: usize) {
        if let Some(member) = self.members.get_mut(index) {
            *member = None;
        }
    }
}

/// Why a read was the last.
enum Ended {
    Peer(PeerError),
    Work(WorkError),
}

impl<E: Into<PeerError>> From<E> for Ended {
    fn from(error: E) -> Self {
        Self::Peer(error.into())
    }
}

/// One read; whether it emptied the socket.
fn receive(
    index: usize,
    connection: &mut Connection,
    buffer: &mut [u8],
    crew: &mut impl Crew,
    now: u64,
) -> Result<bool, Ended> {
    let received = connection.receive(buffer)?;
    let input = buffer.get(..received.length).unwrap_or_default();
    let mut at = 0;
    while let Some(frame) = Frame::next(input.get(at..).unwrap_or_default())? {
        at += frame.length;
        if frame.packet_type() == frame::DISCONNECT {
            return Err(Ended::Peer(PeerError::Disconnected {
                reason_code: frame.body.first().copied().unwrap_or(0),
            }));
        }
        let taken = crew.packet(index, frame, connection, now);
        taken.map_err(Ended::Work)?;
    }
    connection.keep(input.get(at..).unwrap_or_default());
    connection.flush()?;
    Ok(received.drained)
}

/// Begins to connect; beyond what one address has ports for, a loopback target is called from several.
fn open(address: SocketAddr, index: usize) -> io::Result<TcpStream> {
    let kind = Type::STREAM.nonblocking();
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    // The last step of the handshake waits for CONNECT and goes with it: a segment less for both sides.
    socket.set_tcp_quickack(false)?;
    let from = index / CONNECTIONS_PER_ADDRESS;
    if from > 0 && address.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST) {
        let last = u8::try_from(from + 1).map_err(|_| io::ErrorKind::AddrNotAvailable)?;
        let source = SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0));
        socket.bind(&SockAddr::from(source))?;
    }
    match socket.connect(&SockAddr::from(address)) {
        Err(error) if error.raw_os_error() == Some(EINPROGRESS) => {}
        other => other?,
    }
    Ok(TcpStream::from_std(socket.into()))
}

const TICK: Token = Token(usize::MAX);
const TICK_MIN: Duration = Duration::from_micros(50);
/// Standard streams, the poll and the timer.
const SPARE_DESCRIPTORS: u64 = 16;
/// A publisher's share of one step.
const POSTED_MAX: usize = 1_000;
const READ_BYTES: usize = 65_536;
/// Well below the 28,000 ports that Linux hands out.
const CONNECTIONS_PER_ADDRESS: usize = 20_000;
const EINPROGRESS: i32 = rustix::io::Errno::INPROGRESS.raw_os_error();
