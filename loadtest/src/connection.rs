//! One Network Connection of the generator: opened and greeted blocking, then driven by readiness.
//!
//! The opening is sequential and blocking because it is not measured and because its errors can then say what happened.
//! Afterwards `receive` and `flush` never block. Readiness is edge-triggered: whoever drives a connection reads it again
//! until `Received::drained`, and writes again after it was told that the connection is writable.

use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream as StdTcpStream};
use std::time::Duration;

use mio::event::Source;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use nightjar_codec::{ProtocolVersion, QoS};

use crate::clock::Clock;
use crate::frame::{Frame, FrameError};
use crate::packet::{self, Allowed, Credentials, Greeting, Refusal, SessionWish};
use crate::transport::{Layers, Transport};

/// Where a connection goes, as whom, and how long it may take to get there.
#[derive(Clone, Debug)]
pub struct Target {
    pub address: SocketAddr,
    pub protocol: ProtocolVersion,
    pub credentials: Option<Credentials>,
    pub layers: Layers,
    pub timeout: Duration,
}

impl Target {
    /// Plain TCP to `address`.
    #[must_use]
    pub fn tcp(address: SocketAddr, protocol: ProtocolVersion) -> Self {
        Self {
            address,
            protocol,
            credentials: None,
            layers: Layers::default(),
            timeout: OPEN_TIMEOUT,
        }
    }

    /// The layers over a socket of this target; nothing is sent yet.
    pub fn transport(&self, stream: TcpStream) -> io::Result<Transport> {
        Transport::new(stream, &self.layers, &self.address.to_string())
    }

    /// The CONNECT of a client of this target.
    #[must_use]
    pub fn greeting(&self, client_id: &str, receive_maximum: u16, session: SessionWish) -> Vec<u8> {
        packet::connect(&Greeting {
            protocol: self.protocol,
            client_id,
            receive_maximum,
            credentials: self.credentials.as_ref(),
            session,
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tls, web) = (&self.layers.tls, &self.layers.web_path);
        match (tls.is_some(), web) {
            (false, None) => self.address.fmt(out),
            (true, None) => write!(out, "mqtts://{}", self.address),
            (false, Some(path)) => write!(out, "ws://{}{path}", self.address),
            (true, Some(path)) => write!(out, "wss://{}{path}", self.address),
        }
    }
}

/// A connection whose CONNECT was accepted, still blocking.
#[derive(Debug)]
pub struct Opening {
    transport: Transport,
    /// For one answer, however many reads it takes.
    timeout: Duration,
    protocol: ProtocolVersion,
    /// What the broker allows on this connection.
    pub allowed: Allowed,
}

impl Opening {
    /// Connects and waits for the CONNACK.
    pub fn connect(
        target: &Target,
        client_id: &str,
        receive_maximum: u16,
        session: SessionWish,
    ) -> Result<Self, OpenError> {
        let stream = StdTcpStream::connect_timeout(&target.address, target.timeout)
            .map_err(|error| OpenError::connect(target, error))?;
        let prepare = || -> io::Result<()> {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(target.timeout))?;
            stream.set_write_timeout(Some(target.timeout))
        };
        prepare().map_err(OpenError::Io)?;
        let transport = target.transport(TcpStream::from_std(stream));
        let mut opening = Self {
            transport: transport.map_err(OpenError::Io)?,
            timeout: target.timeout,
            protocol: target.protocol,
            allowed: Allowed::default(),
        };
        let request = target.greeting(client_id, receive_maximum, session);
        let answer = opening.exchange(&request, "CONNACK")?;
        opening.allowed = packet::read_connack(target.protocol, &answer)?;
        Ok(opening)
    }

    /// Subscribes to one Topic Filter and waits for the SUBACK.
    pub fn subscribe(&mut self, topic_filter: &str, qos: QoS) -> Result<(), OpenError> {
        let request = packet::subscribe(self.protocol, topic_filter, qos);
        let answer = self.exchange(&request, "SUBACK")?;
        packet::read_suback(self.protocol, &answer, qos)?;
        Ok(())
    }

    /// Says goodbye, so that what the session keeps is kept from here on.
    pub fn close(mut self) -> Result<(), OpenError> {
        self.transport
            .write_all(&packet::DISCONNECT)
            .map_err(OpenError::Io)
    }

    /// Ends the blocking part.
    pub fn into_connection(mut self) -> io::Result<Connection> {
        let stream = self.transport.stream();
        let stream = stream.ok_or(io::ErrorKind::NotConnected)?;
        rustix::io::ioctl_fionbio(&*stream, true)?;
        Ok(Connection::over(self.transport))
    }

    /// Sends `request` and reads exactly one packet.
    fn exchange(&mut self, request: &[u8], awaited: &'static str) -> Result<Vec<u8>, OpenError> {
        self.transport.write_all(request).map_err(OpenError::Io)?;
        let mut answer = Vec::new();
        // The answer is a few bytes long, and reading past it would need a place for the rest.
        let mut byte = [0];
        let clock = Clock::start();
        while Frame::next(&answer).map_err(Refusal::from)?.is_none() {
            if answer.len() >= ANSWER_BYTES_MAX {
                return Err(OpenError::AnswerTooLong);
            }
            if clock.elapsed() > self.timeout {
                return Err(OpenError::Timeout { awaited });
            }
            match self.transport.read(&mut byte) {
                Ok(0) => return Err(OpenError::Closed { awaited }),
                Ok(_) => answer.extend(byte),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_timeout(&error) => return Err(OpenError::Timeout { awaited }),
                Err(error) => return Err(OpenError::Io(error)),
            }
        }
        Ok(answer)
    }
}

/// A connection driven by readiness.
#[derive(Debug)]
pub struct Connection {
    transport: Transport,
    /// The start of a packet whose end has not arrived.
    partial: Vec<u8>,
    /// Bytes to send; everything before `unsent_at` is sent.
    unsent: Vec<u8>,
    unsent_at: usize,
    /// The peer has closed: the end of the stream is to be read even though no further edge will tell of it.
    pub read_closed: bool,
    /// Already in the list of connections to read.
    pub queued: bool,
    /// Cleared when a write found the socket full, set again by the poll.
    pub writable: bool,
}

/// What one `receive` did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Received {
    /// How much of the buffer is filled, from its start, with what was left over first.
    pub length: usize,
    /// Nothing more is there to read before the next edge.
    pub drained: bool,
}

impl Connection {
    /// A connection over plain TCP that has received nothing yet.
    #[must_use]
    pub fn new(stream: TcpStream) -> Self {
        Self::over(Transport::Tcp(stream))
    }

    /// A connection that has received nothing yet.
    #[must_use]
    pub fn over(transport: Transport) -> Self {
        Self {
            transport,
            partial: Vec::new(),
            unsent: Vec::new(),
            unsent_at: 0,
            read_closed: false,
            queued: false,
            writable: true,
        }
    }

    /// Wants to be told when it is readable or writable.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let stream = self.transport.stream();
        let stream = stream.ok_or(io::ErrorKind::NotConnected)?;
        stream.register(registry, token, Interest::READABLE | Interest::WRITABLE)
    }

    /// The socket; none after a handshake that failed.
    pub fn stream(&mut self) -> Option<&mut TcpStream> {
        self.transport.stream()
    }

    /// Bytes may be waiting above the socket, of which no event tells.
    #[must_use]
    pub fn may_hold_input(&self) -> bool {
        !self.transport.is_plain()
    }

    /// Puts what was left over and what one read returns into `buffer`.
    #[inline]
    pub fn receive(&mut self, buffer: &mut [u8]) -> Result<Received, io::Error> {
        let kept = self.partial.len();
        let Some((head, room)) = buffer.split_at_mut_checked(kept) else {
            return Err(too_large());
        };
        if room.is_empty() {
            return Err(too_large());
        }
        head.copy_from_slice(&self.partial);
        let read = self.transport.read(room);
        let plain = self.transport.is_plain();
        if !plain {
            // A handshake that went on lets more through, and an answer to it may have filled the socket.
            self.writable = !self.transport.is_blocked();
        }
        match read {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => {
                self.partial.clear();
                Ok(Received {
                    length: kept + length,
                    // A read that fills less than it could has emptied the socket; of the layers over it, only that
                    // there is nothing says that there is nothing.
                    drained: plain && length < room.len() && !self.read_closed,
                })
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Received {
                length: 0,
                drained: true,
            }),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Received {
                length: 0,
                drained: false,
            }),
            Err(error) => Err(error),
        }
    }

    /// Keeps the start of a packet for the next `receive`.
    #[inline]
    pub fn keep(&mut self, rest: &[u8]) {
        self.partial.extend_from_slice(rest);
    }

    /// Queues bytes, whole packets only.
    #[inline]
    pub fn queue(&mut self, bytes: &[u8]) {
        self.unsent.extend_from_slice(bytes);
    }

    /// Queues what `write` appends, whole packets only.
    #[inline]
    pub fn queue_with<T>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        write(&mut self.unsent)
    }

    /// Bytes queued and not sent.
    #[must_use]
    pub fn unsent(&self) -> usize {
        self.unsent.len() - self.unsent_at
    }

    /// Sends what is queued as far as the socket takes it.
    #[inline]
    pub fn flush(&mut self) -> io::Result<()> {
        if self.writable && !self.transport.is_plain() {
            self.write(&[])?;
        }
        while self.writable && self.unsent() > 0 {
            let rest = self.unsent.get(self.unsent_at..).unwrap_or_default();
            let written = self.transport.write(rest);
            self.unsent_at += self.written(written)?;
        }
        if self.unsent() == 0 {
            self.unsent.clear();
            self.unsent_at = 0;
        }
        Ok(())
    }

    /// Sends `bytes` without a copy where the socket takes them, else queues the rest.
    #[inline]
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while self.writable && self.unsent() == 0 && !rest.is_empty() {
            let sent = self.write(rest)?;
            rest = rest.get(sent..).unwrap_or_default();
        }
        self.queue(rest);
        Ok(())
    }

    /// One write: how much of `bytes` the socket took; `writable` is cleared if it was full.
    #[inline]
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Nothing to write is a wish to send what is held back.
        let written = if bytes.is_empty() {
            self.transport.push().map(|()| 0)
        } else {
            self.transport.write(bytes)
        };
        self.written(written)
    }

    /// The same of two pieces, of which the second may wait.
    #[inline]
    pub fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let written = self.transport.write_vectored(slices);
        self.written(written)
    }

    #[inline]
    fn written(&mut self, written: io::Result<usize>) -> io::Result<usize> {
        match written {
            Ok(length) => {
                if !self.transport.is_plain() {
                    self.writable = !self.transport.is_blocked();
                }
                Ok(length)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.writable = false;
                Ok(0)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            Err(error) => Err(error),
        }
    }
}

/// Why a connection could not be opened.
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    Refused {
        address: SocketAddr,
    },
    Connect {
        address: SocketAddr,
        error: io::Error,
    },
    Closed {
        awaited: &'static str,
    },
    Timeout {
        awaited: &'static str,
    },
    AnswerTooLong,
    Refusal(Refusal),
    Io(io::Error),
}

impl OpenError {
    fn connect(target: &Target, error: io::Error) -> Self {
        let address = target.address;
        if error.kind() == io::ErrorKind::ConnectionRefused {
            Self::Refused { address }
        } else {
            Self::Connect { address, error }
        }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { address } => {
                write!(out, "connection refused: no broker listens on {address}")
            }
            Self::Connect { address, error } => write!(out, "cannot connect to {address}: {error}"),
            Self::Closed { awaited } => {
                write!(
                    out,
                    "the broker closed the connection instead of sending {awaited}"
                )
            }
            Self::Timeout { awaited } => write!(out, "the broker did not send {awaited} in time"),
            Self::AnswerTooLong => write!(
                out,
                "the broker's answer is longer than {ANSWER_BYTES_MAX} bytes"
            ),
            Self::Refusal(refusal) => refusal.fmt(out),
            Self::Io(error) => write!(out, "the connection failed: {error}"),
        }
    }
}

impl std::error::Error for OpenError {}

impl From<Refusal> for OpenError {
    fn from(refusal: Refusal) -> Self {
        Self::Refusal(refusal)
    }
}

/// Why an open connection cannot go on.
#[derive(Debug)]
#[non_exhaustive]
pub enum PeerError {
    /// The broker sent DISCONNECT.
    Disconnected { reason_code: u8 },
    /// The broker sent something that is not MQTT.
    Frame(FrameError),
    /// The broker closed the connection, or it failed.
    Io(io::Error),
}

impl fmt::Display for PeerError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disconnected { reason_code } => {
                write!(
                    out,
                    "the broker sent DISCONNECT with code {reason_code:#04x}"
                )
            }
            Self::Frame(error) => write!(out, "the broker sent {error}"),
            Self::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                write!(out, "the broker closed the connection")
            }
            Self::Io(error) => write!(out, "the connection failed: {error}"),
        }
    }
}

impl std::error::Error for PeerError {}

impl From<FrameError> for PeerError {
    fn from(error: FrameError) -> Self {
        Self::Frame(error)
    }
}

impl From<io::Error> for PeerError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

fn too_large() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "the broker sent a packet larger than any that was published",
    )
}

const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_BYTES_MAX: usize = 65_536;
