//! WebSocket for the harness: a client of raw frames, and a bridge that lets what speaks TCP speak WebSocket.
//!
//! Frames are made and read by hand here, as packets are in `client`: a test that used a library could not send what a
//! library does not send.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};

use crate::{Broker, PATIENCE, timeout};

/// A WebSocket, from its upgrade on; masks what it sends.
#[derive(Debug)]
pub struct WebClient {
    stream: TcpStream,
    /// Read behind the answer to the upgrade, or behind the last frame.
    unread: Vec<u8>,
    /// The answer to the upgrade.
    pub answer: String,
}

/// A frame of the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebFrame {
    /// FIN, reserved bits and opcode.
    pub first_byte: u8,
    pub payload: Vec<u8>,
}

impl WebClient {
    /// Upgrades with the subprotocol `mqtt`.
    #[track_caller]
    pub fn open(broker: &Broker) -> Self {
        let client = Self::request(
            broker.address(),
            &upgrade_request("Sec-WebSocket-Protocol: mqtt\r\n"),
        );
        assert!(
            client.answer.starts_with("HTTP/1.1 101 "),
            "{}",
            client.answer
        );
        client
    }

    /// Sends these bytes and reads the head of the answer; empty where the broker closes without one.
    #[track_caller]
    pub fn request(address: SocketAddr, request: &[u8]) -> Self {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).expect("the broker listens");
        stream.set_nodelay(true).expect("a socket can be told");
        stream
            .set_read_timeout(Some(timeout()))
            .expect("a timeout above zero is accepted");
        let mut client = Self {
            stream,
            unread: Vec::new(),
            answer: String::new(),
        };
        client.send_raw(request);
        client.answer = client.read_answer();
        client
    }

    /// Sends bytes as they are. That the broker has closed already is no error here.
    #[track_caller]
    pub fn send_raw(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Sends one masked frame. `first_byte`: FIN, reserved bits and opcode.
    #[track_caller]
    pub fn send_frame(&mut self, first_byte: u8, payload: &[u8]) {
        self.send_raw(&web_frame(first_byte, payload));
    }

    /// Sends bytes of MQTT in one binary frame.
    #[track_caller]
    pub fn send(&mut self, bytes: &[u8]) {
        self.send_frame(0x82, bytes);
    }

    /// The next frame. `None`: the broker has closed.
    #[track_caller]
    pub fn receive_frame(&mut self) -> Option<WebFrame> {
        loop {
            if let Some((frame, length)) = whole_frame(&self.unread) {
                self.unread.drain(..length);
                return Some(frame);
            }
            if !self.read_more() {
                return None;
            }
        }
    }

    /// The next frames must be binary and hold exactly these bytes of MQTT.
    #[track_caller]
    pub fn expect(&mut self, expected: &[u8]) {
        let mut received = Vec::new();
        while received.len() < expected.len() {
            let frame = self.receive_frame().expect("a frame, not the close");
            assert_eq!(frame.first_byte, 0x82, "{frame:02x?}");
            received.extend(frame.payload);
        }
        assert_eq!(received, expected);
    }

    /// The next frame must be Close with this code, and the end of the connection behind it.
    #[track_caller]
    pub fn expect_close(&mut self, code: u16) {
        let frame = self.receive_frame().expect("a frame, not the close");
        let expected = WebFrame {
            first_byte: 0x88,
            payload: code.to_be_bytes().to_vec(),
        };
        assert_eq!(frame, expected);
        assert_eq!(self.receive_frame(), None);
    }

    /// Whether the broker closes without a frame.
    #[track_caller]
    pub fn is_closed(&mut self) -> bool {
        self.receive_frame().is_none()
    }

    #[track_caller]
    fn read_answer(&mut self) -> String {
        loop {
            if let Some(end) = self
                .unread
                .windows(4)
                .position(|bytes| bytes == b"\r\n\r\n")
            {
                let head: Vec<u8> = self.unread.drain(..end + 4).collect();
                return String::from_utf8(head).expect("HTTP is text");
            }
            if !self.read_more() {
                return String::new();
            }
        }
    }

    /// False: the end of the connection.
    #[track_caller]
    fn read_more(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => false,
            Ok(count) => {
                self.unread.extend_from_slice(&buffer[..count]);
                true
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("silence; unread: {:02x?}", self.unread)
            }
            Err(_) => false,
        }
    }
}

/// A request for a WebSocket, with more header fields; each ends with `\r\n`.
pub fn upgrade_request(more: &str) -> Vec<u8> {
    format!(
        "GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
    )
    .into_bytes()
}

/// A masked frame. `first_byte`: FIN, reserved bits and opcode.
pub fn web_frame(first_byte: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = vec![first_byte];
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(length @ 0..=125), _) => frame.push(0x80 | length),
        (_, Ok(length)) => {
            frame.push(0x80 | 126);
            frame.extend(length.to_be_bytes());
        }
        _ => {
            frame.push(0x80 | 127);
            frame.extend((payload.len() as u64).to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(
        payload
            .iter()
            .zip(MASK.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    frame
}

/// The frame at the start, and its length in all.
fn whole_frame(bytes: &[u8]) -> Option<(WebFrame, usize)> {
    let (&first_byte, &second) = (bytes.first()?, bytes.get(1)?);
    assert_eq!(second & 0x80, 0, "a server does not mask");
    let (head, length) = match second {
        126 => (
            4,
            u64::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)),
        ),
        127 => (10, u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)),
        length => (2, u64::from(length)),
    };
    let end = head + usize::try_from(length).ok()?;
    let payload = bytes.get(head..end)?.to_vec();
    Some((
        WebFrame {
            first_byte,
            payload,
        },
        end,
    ))
}

/// Listens on TCP, and speaks WebSocket to `broker` for each connection: every read becomes a frame of its own. Ends with the
/// process.
#[track_caller]
pub fn bridge_to_web_socket(broker: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
    let address = listener
        .local_addr()
        .expect("a bound socket has an address");
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || carry(client, broker));
        }
    });
    address
}

fn carry(mut client: TcpStream, broker: SocketAddr) {
    let request = upgrade_request("Sec-WebSocket-Protocol: mqtt\r\n");
    let mut web = WebClient::request(broker, &request);
    let _ = client.set_nodelay(true);
    let _ = web.stream.set_read_timeout(None);
    let mut to_broker = web.stream.try_clone().expect("a socket can be shared");
    let mut from_client = client.try_clone().expect("a socket can be shared");
    std::thread::spawn(move || {
        let mut buffer = [0; 16 * 1024];
        while let Ok(count @ 1..) = from_client.read(&mut buffer) {
            if to_broker
                .write_all(&web_frame(0x82, &buffer[..count]))
                .is_err()
            {
                return;
            }
        }
        let _ = to_broker.write_all(&web_frame(0x88, &[]));
        let _ = to_broker.shutdown(Shutdown::Write);
    });
    while let Some(frame) = web.receive_frame() {
        let is_data = frame.first_byte == 0x82;
        if !is_data || client.write_all(&frame.payload).is_err() {
            break;
        }
    }
    let _ = client.shutdown(Shutdown::Both);
    let _ = web.stream.shutdown(Shutdown::Both);
}
