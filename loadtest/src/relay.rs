//! The cheapest thing a generator takes for a broker: it copies the PUBLISHes of one connection to others.
//!
//! What the generator does against it is the generator's own ceiling, or this machine's. It keeps nothing, checks nothing,
//! takes a connection to publish to one topic only, and forwards packets unchanged with the publisher's Packet
//! Identifiers: it is no broker. Loopback only, bounded in time.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token};

use crate::clock::Clock;
use crate::connection::{Connection, PeerError};
use crate::frame::{self, Frame, FrameError};

/// Relays on loopback until `duration` is over.
pub fn run(port: u16, duration: Duration) -> io::Result<()> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    Relay::listen(address)?.serve(duration)
}

/// The relay and all its connections.
#[derive(Debug)]
pub struct Relay {
    poll: Poll,
    listener: TcpListener,
    /// By token; a closed connection leaves its place empty.
    peers: Vec<Option<Peer>>,
    /// Topic Filter, compared literally, to tokens.
    subscribers: BTreeMap<Vec<u8>, Vec<usize>>,
    readable: Vec<usize>,
    /// Who was given something in this turn, more than once if it was often.
    touched: Vec<usize>,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Peer {
    connection: Connection,
    version_5: bool,
    /// Who gets what this connection publishes, from its first PUBLISH on.
    receivers: Option<Vec<usize>>,
}

impl Relay {
    /// Listens; port 0 lets the system choose.
    pub fn listen(address: SocketAddr) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut listener = TcpListener::bind(address)?;
        poll.registry()
            .register(&mut listener, LISTENER, Interest::READABLE)?;
        Ok(Self {
            poll,
            listener,
            peers: Vec::new(),
            subscribers: BTreeMap::new(),
            readable: Vec::new(),
            touched: Vec::new(),
            buffer: vec![0; READ_BYTES],
        })
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Something has been published.
    pub fn has_begun(&self) -> bool {
        let mut peers = self.peers.iter().flatten();
        peers.any(|peer| peer.receivers.is_some())
    }

    /// Relays until `duration` is over.
    pub fn serve(&mut self, duration: Duration) -> io::Result<()> {
        let clock = Clock::start();
        let mut events = Events::with_capacity(1024);
        let mut ready = Vec::new();
        while clock.elapsed() < duration {
            let timeout = if self.readable.is_empty() {
                Duration::from_millis(50)
            } else {
                Duration::ZERO
            };
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            }
            for event in events.iter() {
                if event.token() == LISTENER {
                    self.accept()?;
                    continue;
                }
                let token = event.token().0;
                let Some(Some(peer)) = self.peers.get_mut(token) else {
                    continue;
                };
                let connection = &mut peer.connection;
                connection.read_closed |= event.is_read_closed();
                if event.is_writable() && !connection.writable {
                    connection.writable = true;
                    // A failed connection is found out by its next read.
                    let _ = connection.flush();
                }
                let readable = event.is_readable() || event.is_read_closed();
                if readable && !std::mem::replace(&mut connection.queued, true) {
                    self.readable.push(token);
                }
            }
            std::mem::swap(&mut ready, &mut self.readable);
            for token in ready.drain(..) {
                match self.read(token) {
                    Ok(true) => {
                        if let Some(Some(peer)) = self.peers.get_mut(token) {
                            peer.connection.queued = false;
                        }
                    }
                    Ok(false) => self.readable.push(token),
                    Err(_) => self.close(token),
                }
            }
            self.flush();
        }
        Ok(())
    }

    /// Writes what the turn has brought, to each receiver in one piece.
    fn flush(&mut self) {
        for token in self.touched.drain(..) {
            if let Some(Some(peer)) = self.peers.get_mut(token) {
                // A failed connection is found out by its next read.
                let _ = peer.connection.flush();
            }
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let mut stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            stream.set_nodelay(true)?;
            let interest = Interest::READABLE | Interest::WRITABLE;
            let token = Token(self.peers.len());
            self.poll
                .registry()
                .register(&mut stream, token, interest)?;
            self.peers.push(Some(Peer {
                connection: Connection::new(stream),
                version_5: false,
                receivers: None,
            }));
        }
    }

    /// One read of a connection; whether that emptied it.
    fn read(&mut self, token: usize) -> Result<bool, PeerError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let done = self.read_into(token, &mut buffer);
        self.buffer = buffer;
        done
    }

    fn read_into(&mut self, token: usize, buffer: &mut [u8]) -> Result<bool, PeerError> {
        let Some(Some(peer)) = self.peers.get_mut(token) else {
            return Ok(true);
        };
        let received = peer.connection.receive(buffer)?;
        let input = buffer.get(..received.length).unwrap_or_default();
        let mut at = 0;
        // PUBLISHes that follow one another go out in one piece.
        let mut publishes = 0..0;
        while let Some(frame) = Frame::next(input.get(at..).unwrap_or_default())? {
            if frame.packet_type() == frame::PUBLISH {
                if publishes.end != at {
                    self.forward(token, input.get(publishes).unwrap_or_default());
                    publishes = at..at;
                }
                publishes.end = at + frame.length;
            }
            self.answer(token, frame)?;
            at += frame.length;
        }
        self.forward(token, input.get(publishes).unwrap_or_default());
        if let Some(Some(peer)) = self.peers.get_mut(token) {
            peer.connection.keep(input.get(at..).unwrap_or_default());
            peer.connection.flush()?;
        }
        Ok(received.drained)
    }

    #[inline]
    fn answer(&mut self, token: usize, frame: Frame<'_>) -> Result<(), PeerError> {
        let Some(Some(peer)) = self.peers.get_mut(token) else {
            return Ok(());
        };
        let connection = &mut peer.connection;
        match frame.packet_type() {
            frame::PUBLISH => {
                if peer.receivers.is_none() {
                    let topic = frame.publish(peer.version_5)?.topic;
                    let receivers = self.subscribers.get(topic);
                    peer.receivers = Some(receivers.cloned().unwrap_or_default());
                }
                let reply = match frame.first & 0x06 {
                    0 => return Ok(()),
                    0x02 => frame::PUBACK,
                    _ => frame::PUBREC,
                };
                let [high, low] = frame.publish(peer.version_5)?.packet_id;
                connection.queue(&[reply, 2, high, low]);
            }
            frame::PUBREC => {
                let [high, low] = frame.packet_id()?;
                connection.queue(&[frame::PUBREL | 2, 2, high, low]);
            }
            frame::PUBREL => {
                let [high, low] = frame.packet_id()?;
                connection.queue(&[frame::PUBCOMP, 2, high, low]);
            }
            frame::CONNECT => {
                peer.version_5 = frame.body.get(6) == Some(&5);
                if peer.version_5 {
                    connection.queue(&[frame::CONNACK, 3, 0, 0, 0]);
                } else {
                    connection.queue(&[frame::CONNACK, 2, 0, 0]);
                }
            }
            frame::SUBSCRIBE => {
                let too_short = FrameError::TooShort { first: frame.first };
                let properties = usize::from(peer.version_5);
                let filter = frame.body.get(4 + properties..).and_then(|rest| {
                    let (_options, filter) = rest.split_last()?;
                    Some((filter, rest.last()?))
                });
                let (filter, qos) = filter.ok_or(too_short)?;
                let [high, low] = frame.packet_id()?;
                if peer.version_5 {
                    connection.queue(&[frame::SUBACK, 4, high, low, 0, qos & 3]);
                } else {
                    connection.queue(&[frame::SUBACK, 3, high, low, qos & 3]);
                }
                let tokens = self.subscribers.entry(filter.to_vec()).or_default();
                tokens.push(token);
            }
            frame::PINGREQ => connection.queue(&[frame::PINGRESP, 0]),
            frame::DISCONNECT => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            _ => {}
        }
        Ok(())
    }

    #[inline]
    fn forward(&mut self, token: usize, publishes: &[u8]) {
        if publishes.is_empty() {
            return;
        }
        let Some(Some(peer)) = self.peers.get_mut(token) else {
            return;
        };
        let receivers = peer.receivers.take();
        for receiver in receivers.as_deref().unwrap_or_default() {
            if let Some(Some(peer)) = self.peers.get_mut(*receiver)
                && peer.connection.unsent() < UNSENT_BYTES_MAX
            {
                peer.connection.queue(publishes);
                self.touched.push(*receiver);
            }
        }
        if let Some(Some(peer)) = self.peers.get_mut(token) {
            peer.receivers = receivers;
        }
    }

    fn close(&mut self, token: usize) {
        if let Some(place) = self.peers.get_mut(token) {
            *place = None;
        }
        for tokens in self.subscribers.values_mut() {
            tokens.retain(|other| *other != token);
        }
    }
}

const LISTENER: Token = Token(usize::MAX);
const READ_BYTES: usize = 262_144;
/// A receiver further behind than this loses what comes.
const UNSENT_BYTES_MAX: usize = 16 * 1024 * 1024;
