//! What the bytes of a connection go through: TCP, or TLS and WebSocket over it.
//!
//! Comes in and goes out: bytes of MQTT. Everything here works on a blocking socket, while a connection is opened, and on
//! one that does not block. Plain TCP is a branch away from the socket; the layers copy, and hold back what the socket does
//! not take: then `is_blocked`, and `push` goes on with it.

use std::io::{self, IoSlice, Read, Write};

use mio::net::TcpStream;
use tungstenite::handshake::client::generate_key;
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::Role;
use tungstenite::{Bytes, Error, Message, WebSocket};

use crate::tls::{Secure, Tls};

/// What lies over TCP.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    pub tls: Option<Tls>,
    /// WebSocket: the path to ask for.
    pub web_path: Option<String>,
}

/// The way to a broker.
#[derive(Debug)]
pub enum Transport {
    Tcp(TcpStream),
    Tls(Box<Secure>),
    Web(Box<Web>),
}

impl Transport {
    /// Puts the layers over a socket; nothing is sent yet. `host` is what the broker is asked as.
    pub fn new(stream: TcpStream, layers: &Layers, host: &str) -> io::Result<Self> {
        if layers.tls.is_none() && layers.web_path.is_none() {
            return Ok(Self::Tcp(stream));
        }
        let secure = Secure::new(stream, layers.tls.as_ref())?;
        Ok(match &layers.web_path {
            None => Self::Tls(Box::new(secure)),
            Some(path) => Self::Web(Box::new(Web::new(secure, host, path))),
        })
    }

    /// The socket; none after a handshake that failed.
    pub fn stream(&mut self) -> Option<&mut TcpStream> {
        match self {
            Self::Tcp(stream) => Some(stream),
            Self::Tls(secure) => Some(secure.stream()),
            Self::Web(web) => web.stream(),
        }
    }

    /// There is nothing but the socket, so that what a read leaves behind makes the next event.
    #[inline]
    #[must_use]
    pub fn is_plain(&self) -> bool {
        matches!(self, Self::Tcp(_))
    }

    /// Something was accepted that the socket has not taken, or nothing can be sent yet.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        match self {
            Self::Tcp(_) => false,
            Self::Tls(secure) => secure.is_blocked(),
            Self::Web(web) => web.is_blocked(),
        }
    }

    /// Sends what was held back; `WouldBlock` if that is not all.
    #[inline]
    pub fn push(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(_) => Ok(()),
            Self::Tls(secure) => secure.push(),
            Self::Web(web) => web.push(),
        }
    }
}

impl Read for Transport {
    #[inline]
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Tls(secure) => secure.read(buffer),
            Self::Web(web) => web.read(buffer),
        }
    }
}

impl Write for Transport {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Tls(secure) => secure.write(bytes),
            Self::Web(web) => web.write(bytes),
        }
    }

    #[inline]
    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if let Self::Tcp(stream) = self {
            return stream.write_vectored(slices);
        }
        let first = slices.iter().find(|slice| !slice.is_empty());
        first.map_or(Ok(0), |slice| self.write(slice))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.push()
    }
}

/// A WebSocket, from its opening handshake on.
#[derive(Debug)]
pub struct Web {
    state: State,
    /// A message that was read in part.
    message: Bytes,
    /// Frames that the layer below has not taken.
    held_back: bool,
}

#[derive(Debug)]
enum State {
    Opening(Opening),
    Open(WebSocket<Secure>),
    /// The handshake failed.
    Closed,
}

/// The HTTP request and what has come of the answer.
#[derive(Debug)]
struct Opening {
    secure: Secure,
    request: Vec<u8>,
    sent: usize,
    answer: Vec<u8>,
    accept: String,
}

impl Web {
    fn new(secure: Secure, host: &str, path: &str) -> Self {
        let key = generate_key();
        // [MQTT-6.0.0-3]: the subprotocol is "mqtt".
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
        );
        let opening = Opening {
            secure,
            request: request.into_bytes(),
            sent: 0,
            answer: Vec::new(),
            accept: derive_accept_key(key.as_bytes()),
        };
        Self {
            state: State::Opening(opening),
            message: Bytes::new(),
            held_back: false,
        }
    }

    fn stream(&mut self) -> Option<&mut TcpStream> {
        match &mut self.state {
            State::Opening(opening) => Some(opening.secure.stream()),
            State::Open(socket) => Some(socket.get_mut().stream()),
            State::Closed => None,
        }
    }

    fn is_blocked(&self) -> bool {
        self.held_back || !matches!(self.state, State::Open(_))
    }

    fn push(&mut self) -> io::Result<()> {
        let socket = self.open()?;
        let pushed = socket.flush().map_err(io_error);
        self.held_back = pushed.is_err();
        pushed
    }

    /// The socket once the handshake is over; goes on with it until then.
    fn open(&mut self) -> io::Result<&mut WebSocket<Secure>> {
        if let State::Opening(opening) = &mut self.state {
            let end = opening.exchange()?;
            let State::Opening(opening) = std::mem::replace(&mut self.state, State::Closed) else {
                return Err(io::ErrorKind::NotConnected.into());
            };
            self.state = State::Open(opening.finish(end)?);
        }
        match &mut self.state {
            State::Open(socket) => Ok(socket),
            _ => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.message.is_empty() {
            match self.open()?.read() {
                Ok(Message::Binary(message)) => self.message = message,
                Ok(Message::Close(_)) => return Ok(0),
                Ok(_) => {}
                Err(error) => {
                    let error = io_error(error);
                    return if error.kind() == io::ErrorKind::UnexpectedEof {
                        Ok(0)
                    } else {
                        Err(error)
                    };
                }
            }
        }
        let length = self.message.len().min(buffer.len());
        let part = self.message.split_to(length);
        if let Some(place) = buffer.get_mut(..length) {
            place.copy_from_slice(&part);
        }
        Ok(length)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.push()?;
        let part = bytes.get(..MESSAGE_BYTES_MAX).unwrap_or(bytes);
        let message = Message::Binary(Bytes::copy_from_slice(part));
        let socket = self.open()?;
        let sent = socket.write(message).and_then(|()| socket.flush());
        match sent.map_err(io_error) {
            Ok(()) => {}
            // It is in the buffer all the same.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.held_back = true,
            Err(error) => return Err(error),
        }
        Ok(part.len())
    }
}

impl Opening {
    /// Sends the request and reads until the head of the answer is there; tells where it ends.
    fn exchange(&mut self) -> io::Result<usize> {
        while let Some(rest) = self
            .request
            .get(self.sent..)
            .filter(|rest| !rest.is_empty())
        {
            self.sent += self.secure.write(rest)?;
        }
        self.secure.push()?;
        loop {
            if let Some(end) = self
                .answer
                .windows(4)
                .position(|window| window == b"\r\n\r\n")
            {
                return Ok(end + 4);
            }
            if self.answer.len() > ANSWER_BYTES_MAX {
                return Err(refused("the answer to the WebSocket handshake has no end"));
            }
            let mut part = [0; 1_024];
            let length = self.secure.read(&mut part)?;
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.answer
                .extend_from_slice(part.get(..length).unwrap_or_default());
        }
    }

    fn finish(self, end: usize) -> io::Result<WebSocket<Secure>> {
        let (head, rest) = self.answer.split_at_checked(end).unwrap_or_default();
        let head = String::from_utf8_lossy(head);
        let mut lines = head.lines();
        let status = lines.next().unwrap_or_default();
        if status.split_ascii_whitespace().nth(1) != Some("101") {
            return Err(refused(&format!("the broker refused WebSocket: {status}")));
        }
        let fields = lines.filter_map(|line| line.split_once(':'));
        let mut accepts =
            fields.filter(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-accept"));
        if !accepts.any(|(_, value)| value.trim() == self.accept) {
            return Err(refused("the broker's Sec-WebSocket-Accept is wrong"));
        }
        let rest = rest.to_vec();
        Ok(WebSocket::from_partially_read(
            self.secure,
            rest,
            Role::Client,
            None,
        ))
    }
}

fn io_error(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        Error::ConnectionClosed | Error::AlreadyClosed => io::ErrorKind::UnexpectedEof.into(),
        Error::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake) => {
            io::ErrorKind::UnexpectedEof.into()
        }
        other => io::Error::new(io::ErrorKind::InvalidData, other),
    }
}

fn refused(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.to_owned())
}

const MESSAGE_BYTES_MAX: usize = 65_536;
const ANSWER_BYTES_MAX: usize = 16_384;
