//! One TCP connection of a client: packets out, packets in, nothing that waits.
//!
//! It knows the codec and no rule of MQTT. What the broker had written before it was killed is read to the end, for it has been said.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use nightjar_codec::{Limits, Packet, ProtocolVersion, cut, decode};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

pub(crate) struct Link {
    stream: TcpStream,
    version: ProtocolVersion,
    received: Vec<u8>,
    /// Of `received`, what has been decoded.
    decoded: usize,
    unsent: Vec<u8>,
    /// Nothing more will be received.
    pub(crate) is_over: bool,
}

impl Link {
    /// `None` where nobody listens.
    pub(crate) fn open(port: u16, version: ProtocolVersion) -> Option<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).ok()?;
        // A port without a listener may be given to the very socket that asks for it, which then talks to itself.
        if stream.local_addr().ok()? == address {
            return None;
        }
        stream.set_nodelay(true).ok()?;
        stream.set_nonblocking(true).ok()?;
        Some(Self {
            stream,
            version,
            received: Vec::new(),
            decoded: 0,
            unsent: Vec::new(),
            is_over: false,
        })
    }

    pub(crate) fn send(&mut self, packet: &Packet) {
        packet
            .encode(self.version, &mut self.unsent)
            .expect("we make no packet that cannot be encoded");
    }

    /// Writes what the socket takes.
    pub(crate) fn flush(&mut self) {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(length) => {
                    self.unsent.drain(..length);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // Whatever was said to us before is still to be read.
                Err(_) => {
                    self.unsent.clear();
                    return;
                }
            }
        }
    }

    /// Reads what is there.
    pub(crate) fn fill(&mut self) {
        self.received.drain(..self.decoded);
        self.decoded = 0;
        let mut piece = [0; 64 << 10];
        // Bounded: a broker that writes faster than we read must not keep us from the others.
        while !self.is_over && self.received.len() < RECEIVED_BYTES_MAX {
            match self.stream.read(&mut piece) {
                Ok(0) => self.is_over = true,
                Ok(length) => self.received.extend_from_slice(&piece[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.is_over = true,
            }
        }
    }

    /// The next whole packet of what has been read.
    pub(crate) fn next_packet(&mut self) -> Option<Packet> {
        let rest = &self.received[self.decoded..];
        let (_, length) =
            cut(rest, &Limits::PROTOCOL).unwrap_or_else(|error| panic!("no packet: {error}"))?;
        let packet = decode(&rest[..length], self.version, &Limits::PROTOCOL)
            .unwrap_or_else(|error| panic!("not a packet of MQTT: {error}"));
        self.decoded += length;
        Some(packet)
    }

    pub(crate) fn poll_fd(&self) -> PollFd<'_> {
        let mut flags = PollFlags::IN;
        if !self.unsent.is_empty() {
            flags |= PollFlags::OUT;
        }
        PollFd::new(&self.stream, flags)
    }
}

/// Waits until one of them is ready.
pub(crate) fn wait_any(fds: &mut [PollFd<'_>], limit: Duration) {
    let limit = Timespec::try_from(limit).expect("a short time");
    // Interrupted is as good as ready: the caller looks at each of them.
    let _ = poll(fds, Some(&limit));
}

pub(crate) fn wait_readable(file: &impl AsFd, limit: Duration) -> bool {
    let mut fds = [PollFd::new(file, PollFlags::IN)];
    wait_any(&mut fds, limit);
    !fds[0].revents().is_empty()
}

const RECEIVED_BYTES_MAX: usize = 1 << 20;
