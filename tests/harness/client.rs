//! A blocking MQTT client made of raw bytes: it sends what it is given and reads exactly what is there.
//!
//! Methods named `try_*` return what went wrong; their short-named twins panic with it at the caller's line.

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::broker::Broker;
use crate::bytes::{bytes, hex};
use crate::connect::Connect;
use crate::{PATIENCE, now, timeout};

/// One TCP connection to a broker.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    timeout: Duration,
    /// The CONNACK that `connect` read; empty after `open`.
    pub connack: Vec<u8>,
}

/// What came where something else was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unexpected {
    /// Nothing, or too little, within the timeout; the connection is open.
    Silence { received: Vec<u8> },
    /// The connection was closed or reset first.
    Close { received: Vec<u8> },
    /// Other bytes.
    Bytes { received: Vec<u8> },
}

impl Client {
    /// A TCP connection on which nothing has been sent.
    #[track_caller]
    pub fn open(broker: &Broker) -> Self {
        Self::open_at(broker.address())
    }

    /// As `open`, to any address.
    #[track_caller]
    pub fn open_at(address: SocketAddr) -> Self {
        Self::try_open_at(address)
            .unwrap_or_else(|error| panic!("cannot connect to {address}: {error}"))
    }

    /// As `open_at`, with the error as a value.
    pub fn try_open_at(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream,
            timeout: timeout(),
            connack: Vec::new(),
        })
    }

    /// Opens, sends `connect` and reads the CONNACK, which must carry code 0.
    #[track_caller]
    pub fn connect(broker: &Broker, connect: &Connect) -> Self {
        let mut client = Self::open(broker);
        client.send(&connect.bytes());
        let connack = client.receive_packet();
        client.connack = connack;
        let is_success = client.connack[0] == 0x20 && client.connack_body().get(1) == Some(&0);
        assert!(
            is_success,
            "no success CONNACK but: {}",
            hex(&client.connack)
        );
        client
    }

    /// Connects with 3.1.1, clean.
    #[track_caller]
    pub fn connect_v4(broker: &Broker, client_id: &str) -> Self {
        Self::connect(broker, &Connect::v4(client_id))
    }

    /// Connects with 5.0, clean; `properties` are words without their length, `""` for none.
    #[track_caller]
    pub fn connect_v5(broker: &Broker, client_id: &str, properties: &str) -> Self {
        Self::connect(broker, &Connect::v5(client_id).properties(properties))
    }

    /// Whether the CONNACK said Session Present.
    pub fn session_present(&self) -> bool {
        self.connack_body().first() == Some(&1)
    }

    /// The CONNACK without its fixed header: flags, code, properties.
    pub fn connack_body(&self) -> &[u8] {
        let length_bytes = self
            .connack
            .iter()
            .skip(1)
            .take_while(|&&byte| byte & 0x80 != 0)
            .count()
            + 1;
        self.connack.get(1 + length_bytes..).unwrap_or_default()
    }

    /// Changes how long this client waits before it fails.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// Sends bytes. That the broker has closed already is no error here: the next read tells.
    #[track_caller]
    pub fn send(&mut self, bytes: &[u8]) {
        match self.stream.write_all(bytes) {
            Ok(()) => {}
            Err(error) if is_close(error.kind()) => {}
            Err(error) => panic!("cannot send {}: {error}", hex(bytes)),
        }
    }

    /// Sends the bytes that `words` stand for.
    #[track_caller]
    pub fn send_words(&mut self, words: &str) {
        self.send(&bytes(words));
    }

    /// The next `length` bytes.
    #[track_caller]
    pub fn receive_exactly(&mut self, length: usize) -> Vec<u8> {
        self.try_receive_exactly(length)
            .unwrap_or_else(|unexpected| panic!("expected {length} bytes, got {unexpected}"))
    }

    /// The next `length` bytes, or what came instead.
    pub fn try_receive_exactly(&mut self, length: usize) -> Result<Vec<u8>, Unexpected> {
        let deadline = now() + self.timeout;
        let mut received = vec![0; length];
        let mut filled = 0;
        while filled < length {
            match self.read_until(&mut received[filled..], deadline) {
                Event::Bytes(count) => filled += count,
                Event::Close => {
                    return Err(Unexpected::Close {
                        received: received[..filled].to_vec(),
                    });
                }
                Event::Silence => {
                    return Err(Unexpected::Silence {
                        received: received[..filled].to_vec(),
                    });
                }
            }
        }
        Ok(received)
    }

    /// The next whole packet: fixed header and as many bytes as it claims.
    #[track_caller]
    pub fn receive_packet(&mut self) -> Vec<u8> {
        self.try_receive_packet()
            .unwrap_or_else(|unexpected| panic!("expected a packet, got {unexpected}"))
    }

    /// The next whole packet, or what came instead.
    pub fn try_receive_packet(&mut self) -> Result<Vec<u8>, Unexpected> {
        let mut packet = self.try_receive_exactly(2)?;
        let mut remaining_length = usize::from(packet[1] & 0x7f);
        while packet[packet.len() - 1] & 0x80 != 0 {
            if packet.len() > 4 {
                return Err(Unexpected::Bytes { received: packet });
            }
            let byte = self.try_receive_exactly(1)?[0];
            remaining_length += usize::from(byte & 0x7f) << (7 * (packet.len() - 1));
            packet.push(byte);
        }
        packet.extend(self.try_receive_exactly(remaining_length)?);
        Ok(packet)
    }

    /// The next bytes must be those that `words` stand for.
    #[track_caller]
    pub fn expect(&mut self, words: &str) {
        self.expect_bytes(&bytes(words));
    }

    /// The next bytes must be `expected`.
    #[track_caller]
    pub fn expect_bytes(&mut self, expected: &[u8]) {
        if let Err(unexpected) = self.try_expect(expected) {
            panic!("\nexpected: {}\nactual:   {unexpected}\n", hex(expected));
        }
    }

    /// Whether the next bytes are `expected`.
    pub fn try_expect(&mut self, expected: &[u8]) -> Result<(), Unexpected> {
        let mut received = Vec::new();
        // Byte by byte in spirit: a wrong first byte is reported with all that came, not waited for.
        let deadline = now() + self.timeout;
        while received.len() < expected.len() {
            let mut buffer = vec![0; expected.len() - received.len()];
            match self.read_until(&mut buffer, deadline) {
                Event::Bytes(count) => received.extend_from_slice(&buffer[..count]),
                Event::Close => return Err(Unexpected::Close { received }),
                Event::Silence => return Err(Unexpected::Silence { received }),
            }
            if !expected.starts_with(&received) {
                received.extend(self.rest_already_there());
                return Err(Unexpected::Bytes { received });
            }
        }
        Ok(())
    }

    /// The next event must be the close of the connection (end of file or reset), with no byte before it.
    #[track_caller]
    pub fn expect_close(&mut self) {
        if let Err(unexpected) = self.try_expect_close() {
            panic!("\nexpected: the close of the connection\nactual:   {unexpected}\n");
        }
    }

    /// Whether the next event is the close of the connection.
    pub fn try_expect_close(&mut self) -> Result<(), Unexpected> {
        let mut buffer = [0; 256];
        match self.read_until(&mut buffer, now() + self.timeout) {
            Event::Close => Ok(()),
            Event::Silence => Err(Unexpected::Silence {
                received: Vec::new(),
            }),
            Event::Bytes(count) => Err(Unexpected::Bytes {
                received: buffer[..count].to_vec(),
            }),
        }
    }

    /// Every byte until the broker closes, which it must do within the timeout.
    #[track_caller]
    pub fn receive_to_close(&mut self) -> Vec<u8> {
        self.try_receive_to_close().unwrap_or_else(|unexpected| {
            panic!("expected the close of the connection, got {unexpected}")
        })
    }

    /// Every byte until the broker closes, or what came instead of the close.
    pub fn try_receive_to_close(&mut self) -> Result<Vec<u8>, Unexpected> {
        let mut received = Vec::new();
        if self.read_to_close(&mut received) {
            Ok(received)
        } else {
            Err(Unexpected::Silence { received })
        }
    }

    /// Sends PINGREQ; the next bytes must be the PINGRESP, so the broker had nothing else to say.
    #[track_caller]
    pub fn expect_nothing_until_pingresp(&mut self) {
        self.send(&[0xc0, 0]);
        self.expect("d0 00");
    }

    /// Closes our half of the connection and waits until the broker has closed its own: it has then dealt with all we sent.
    /// False if it did not within the timeout.
    pub fn leave(mut self) -> bool {
        let _ = self.stream.shutdown(Shutdown::Write);
        self.read_to_close(&mut Vec::new())
    }

    /// DISCONNECT (the normal one, both of 3.1.1 and 5.0), then waits for the broker's close.
    #[track_caller]
    pub fn disconnect(mut self) {
        self.send(&[0xe0, 0]);
        self.expect_close();
    }

    /// The socket, for what no method here does.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    fn read_to_close(&mut self, received: &mut Vec<u8>) -> bool {
        let deadline = now() + self.timeout;
        let mut buffer = [0; 4096];
        loop {
            match self.read_until(&mut buffer, deadline) {
                Event::Bytes(count) => received.extend_from_slice(&buffer[..count]),
                Event::Close => return true,
                Event::Silence => return false,
            }
        }
    }

    fn rest_already_there(&mut self) -> Vec<u8> {
        let mut buffer = [0; 256];
        match self.read_until(&mut buffer, now()) {
            Event::Bytes(count) => buffer[..count].to_vec(),
            Event::Close | Event::Silence => Vec::new(),
        }
    }

    fn read_until(&mut self, buffer: &mut [u8], deadline: Instant) -> Event {
        loop {
            // A timeout of zero would mean none.
            let left = deadline
                .saturating_duration_since(now())
                .max(Duration::from_millis(1));
            self.stream
                .set_read_timeout(Some(left))
                .expect("a timeout above zero is accepted");
            match self.stream.read(buffer) {
                Ok(0) => return Event::Close,
                Ok(count) => return Event::Bytes(count),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    return Event::Silence;
                }
                Err(error) if is_close(error.kind()) => return Event::Close,
                Err(error) => panic!("cannot read: {error}"),
            }
        }
    }
}

impl fmt::Display for Unexpected {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (received, then) = match self {
            Self::Silence { received } => (received, "then silence"),
            Self::Close { received } => (received, "then the close"),
            Self::Bytes { received } => (received, ""),
        };
        if received.is_empty() {
            return out.write_str(then.trim_start_matches("then "));
        }
        write!(out, "{} {then}", hex(received))
    }
}

fn is_close(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::ConnectionReset
            | ErrorKind::BrokenPipe
            | ErrorKind::ConnectionAborted
            | ErrorKind::NotConnected
    )
}

enum Event {
    Bytes(usize),
    Close,
    Silence,
}
