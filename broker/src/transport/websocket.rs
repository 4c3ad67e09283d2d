//! WebSocket framing (RFC 6455) between a socket and the connection's own buffers.
//!
//! In come frames of the client, cut anywhere; out go the bytes of MQTT in them, unmasked where they lie. Frames and MQTT
//! packets have nothing to do with each other: one may hold parts of the other, in any number [MQTT-6.0.0-2]. The other way
//! what waits to be sent becomes binary frames, their heads written in front of the payloads without a copy. The heads of
//! frames are read and made by tungstenite; which frame may come when is decided here, because nothing is to be put together
//! in memory: what a client keeps us waiting for is the head of a frame, or a control frame, of at most 139 bytes.
//!
//! States of a connection: open; `farewell` set, by a violation, by the client's Close or by `say_goodbye`: nothing more is
//! read, and Close is the last frame that is written.

use std::io::{self, Cursor, IoSlice};
use std::task::{Context, Poll, ready};

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

use super::{Incoming, SLICES, Stream};
use crate::session::send_buffer::{BufferPool, SendBuffer};

/// One client's WebSocket, without its socket.
pub(crate) struct WebSocket {
    /// The longest frame a client may send.
    frame_bytes_max: u64,
    /// What was read and is not whole: the head of a frame, or a control frame. Behind the upgrade: all that came with it.
    partial: Vec<u8>,
    /// `partial` holds more than a part.
    is_primed: bool,
    /// The data frame whose payload is being read.
    frame: Option<Frame>,
    /// The next data frame goes on with a message.
    is_fragmented: bool,
    /// The last ping, to be answered. One is enough: who does not wait for the answer gets it to the newest.
    pong: Option<Vec<u8>>,
    /// Why we close, once we do.
    farewell: Option<CloseCode>,
    farewell_is_written: bool,
    /// The head of the frame that is being written, or a whole control frame.
    head: Vec<u8>,
    head_written: usize,
    /// Bytes of its payload that are not written.
    payload_left: usize,
}

struct Frame {
    left: u64,
    mask: [u8; 4],
}

impl WebSocket {
    /// `unread`: what came behind the upgrade request.
    pub(crate) fn new(frame_bytes_max: u64, unread: Vec<u8>) -> Self {
        Self {
            frame_bytes_max,
            is_primed: !unread.is_empty(),
            partial: unread,
            frame: None,
            is_fragmented: false,
            pong: None,
            farewell: None,
            farewell_is_written: false,
            head: Vec::new(),
            head_written: 0,
            payload_left: 0,
        }
    }

    pub(super) fn poll_read(
        &mut self,
        stream: &mut Stream,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<Incoming>> {
        if self.farewell.is_some() {
            return Poll::Ready(Ok(Incoming::End));
        }
        let kept = self.partial.len();
        let Some((front, rest)) = buffer.split_at_mut_checked(kept) else {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        };
        let mut read = 0;
        let room = rest.len();
        if !self.is_primed {
            read = ready!(stream.poll_read(context, rest))?;
            if read == 0 {
                return Poll::Ready(Ok(Incoming::End));
            }
        }
        front.copy_from_slice(&self.partial);
        self.partial.clear();
        if std::mem::take(&mut self.is_primed) {
            // What came with the upgrade may have been much; what is kept later is little.
            self.partial = Vec::new();
        }
        let count = self.decode(buffer, kept + read);
        Poll::Ready(Ok(match count {
            0 if self.farewell.is_some() => Incoming::End,
            0 => Incoming::Nothing,
            count => Incoming::Bytes {
                count,
                is_full: read == room,
            },
        }))
    }

    pub(super) fn has_own_answer(&self) -> bool {
        self.pong.is_some()
    }

    /// Close is written behind everything else.
    pub(super) fn say_goodbye(&mut self) {
        self.farewell.get_or_insert(CloseCode::Normal);
    }

    /// Writes as the socket takes it: the frame that was begun, then a pong, then the next frame of what waits.
    pub(super) fn try_write(
        &mut self,
        stream: &mut Stream,
        send: &mut SendBuffer,
        pool: &mut BufferPool,
    ) -> io::Result<bool> {
        loop {
            if self.head_written == self.head.len()
                && self.payload_left == 0
                && !self.begin_frame(send)
            {
                return stream.send_accepted();
            }
            let mut slices = [IoSlice::new(&[]); SLICES];
            let (first, rest) = slices.split_first_mut().expect("the array is not empty");
            let head = self.head.get(self.head_written..).unwrap_or_default();
            *first = IoSlice::new(head);
            let filled = send.slices_within(self.payload_left, rest) + 1;
            if head.is_empty() && filled == 1 {
                // The rest of a frame is gone with the connection's buffer; nothing can be said any more.
                return stream.send_accepted();
            }
            let offered = slices.get(..filled).unwrap_or_default();
            let count = match stream.try_write_vectored(offered) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            };
            let of_head = count.min(head.len());
            self.head_written += of_head;
            let of_payload = count - of_head;
            self.payload_left -= of_payload;
            send.advance(of_payload, pool);
        }
    }

    /// Makes the head of the next frame. False: there is nothing to be said.
    fn begin_frame(&mut self, send: &SendBuffer) -> bool {
        self.head.clear();
        self.head_written = 0;
        if let Some(payload) = self.pong.take() {
            self.put_head(OpCode::Control(Control::Pong), payload.len());
            self.head.extend_from_slice(&payload);
            return true;
        }
        if !send.is_empty() {
            self.payload_left = send.len().min(FRAME_BYTES);
            self.put_head(OpCode::Data(Data::Binary), self.payload_left);
            return true;
        }
        let Some(code) = self.farewell.filter(|_| !self.farewell_is_written) else {
            return false;
        };
        self.farewell_is_written = true;
        self.put_head(OpCode::Control(Control::Close), 2);
        self.head.extend_from_slice(&u16::from(code).to_be_bytes());
        true
    }

    fn put_head(&mut self, opcode: OpCode, length: usize) {
        let header = FrameHeader {
            opcode,
            ..FrameHeader::default()
        };
        header
            .format(length as u64, &mut self.head)
            .expect("a Vec takes every byte");
    }

    /// Takes the frames apart that lie in the first `count` bytes of `buffer`, and leaves their payload at its start. Gives
    /// the length of that.
    fn decode(&mut self, buffer: &mut [u8], count: usize) -> usize {
        let mut from = 0;
        let mut to = 0;
        while from < count && self.farewell.is_none() {
            if let Some(frame) = &mut self.frame {
                let here = usize::try_from(frame.left)
                    .unwrap_or(usize::MAX)
                    .min(count - from);
                buffer.copy_within(from..from + here, to);
                unmask(&mut buffer[to..to + here], frame.mask);
                frame.mask.rotate_left(here % 4);
                frame.left -= here as u64;
                if frame.left == 0 {
                    self.frame = None;
                }
                from += here;
                to += here;
                continue;
            }
            let rest = &mut buffer[from..count];
            match self.take_head(rest) {
                Ok(Some(length)) => from += length,
                Ok(None) => {
                    self.partial.extend_from_slice(rest);
                    break;
                }
                Err(code) => self.farewell = Some(code),
            }
        }
        to
    }

    /// Takes the head of a data frame, or a whole control frame, from the start of `bytes`. `None`: it is not all there.
    fn take_head(&mut self, bytes: &mut [u8]) -> Result<Option<usize>, CloseCode> {
        let mut cursor = Cursor::new(&*bytes);
        let parsed = FrameHeader::parse(&mut cursor).map_err(|_| CloseCode::Protocol)?;
        let Some((header, length)) = parsed else {
            return Ok(None);
        };
        let head = usize::try_from(cursor.position()).map_err(|_| CloseCode::Protocol)?;
        let Some(mask) = header.mask else {
            return Err(CloseCode::Protocol); // RFC 6455 5.1
        };
        if header.rsv1 || header.rsv2 || header.rsv3 {
            return Err(CloseCode::Protocol); // No extension was agreed on.
        }
        let control = match header.opcode {
            OpCode::Control(control) => control,
            OpCode::Data(data) => {
                match (data, self.is_fragmented) {
                    (Data::Binary, false) | (Data::Continue, true) => {}
                    (Data::Text, false) => return Err(CloseCode::Unsupported), // [MQTT-6.0.0-1]
                    _ => return Err(CloseCode::Protocol),
                }
                if length > self.frame_bytes_max {
                    return Err(CloseCode::Size);
                }
                self.is_fragmented = !header.is_final;
                self.frame = (length > 0).then_some(Frame { left: length, mask });
                return Ok(Some(head));
            }
        };
        let length = usize::try_from(length).map_err(|_| CloseCode::Protocol)?;
        if !header.is_final || length > CONTROL_BYTES_MAX {
            return Err(CloseCode::Protocol); // RFC 6455 5.5
        }
        let Some(payload) = bytes.get_mut(head..head + length) else {
            return Ok(None);
        };
        unmask(payload, mask);
        match control {
            Control::Ping => self.pong = Some(payload.to_vec()),
            Control::Close => return Err(answer_to_close(payload)),
            Control::Pong | Control::Reserved(_) => {}
        }
        Ok(Some(head + length))
    }
}

/// What Close is answered with: its own code, where that is one a client may send.
fn answer_to_close(payload: &[u8]) -> CloseCode {
    match *payload {
        [] => CloseCode::Normal,
        [first, second, ..] => {
            let code = CloseCode::from(u16::from_be_bytes([first, second]));
            if code.is_allowed() {
                code
            } else {
                CloseCode::Protocol
            }
        }
        [_] => CloseCode::Protocol,
    }
}

fn unmask(bytes: &mut [u8], mask: [u8; 4]) {
    let mut fours = bytes.chunks_exact_mut(4);
    for four in &mut fours {
        for (byte, mask) in four.iter_mut().zip(mask) {
            *byte ^= mask;
        }
    }
    for (byte, mask) in fours.into_remainder().iter_mut().zip(mask) {
        *byte ^= mask;
    }
}

/// What a client may have in one control frame (RFC 6455 5.5).
const CONTROL_BYTES_MAX: usize = 125;
/// The largest frame we send: a client may have to hold a whole one.
const FRAME_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: [u8; 4] = [0x11, 0x22, 0x33, 0x44];

    /// A masked frame. `first` is the first byte: FIN, reserved bits, opcode.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![first];
        match payload.len() {
            length @ 0..=125 => bytes.push(0x80 | length as u8),
            length => {
                bytes.push(0x80 | 126);
                bytes.extend((length as u16).to_be_bytes());
            }
        }
        bytes.extend(MASK);
        bytes.extend(
            payload
                .iter()
                .zip(MASK.iter().cycle())
                .map(|(byte, mask)| byte ^ mask),
        );
        bytes
    }

    /// What comes out of `bytes`, read `step` at a time, and why it ended.
    fn read(bytes: &[u8], step: usize) -> (Vec<u8>, Option<CloseCode>, WebSocket) {
        let mut web = WebSocket::new(1000, Vec::new());
        let mut out = Vec::new();
        for piece in bytes.chunks(step) {
            let mut buffer = std::mem::take(&mut web.partial);
            assert!(buffer.len() <= 139, "more is kept than a control frame");
            buffer.extend(piece);
            let count = buffer.len();
            let length = web.decode(&mut buffer, count);
            out.extend_from_slice(&buffer[..length]);
        }
        let farewell = web.farewell;
        (out, farewell, web)
    }

    #[test]
    fn payloads_come_out_whole_however_the_stream_is_cut() {
        let mut bytes = Vec::new();
        let long: Vec<u8> = (0..700_u16).map(|n| n as u8).collect();
        bytes.extend(frame(0x02, b"first "));
        bytes.extend(frame(0x89, b"ping in the middle"));
        bytes.extend(frame(0x00, b""));
        bytes.extend(frame(0x80, b"second"));
        bytes.extend(frame(0x82, b""));
        bytes.extend(frame(0x8a, b"pong nobody asked for"));
        bytes.extend(frame(0x82, &long));
        let expected = [b"first second", &long[..]].concat();
        for step in 1..=bytes.len() {
            let (out, farewell, web) = read(&bytes, step);
            assert_eq!(out, expected, "read {step} at a time");
            assert!(farewell.is_none());
            assert_eq!(web.pong.as_deref(), Some(&b"ping in the middle"[..]));
        }
    }

    #[test]
    fn each_broken_rule_has_its_code() {
        let unmasked = vec![0x82, 0x01, 0xc0];
        let endless = [&[0x82, 0xff, 0x7f][..], &[0xff; 7], &MASK].concat();
        let long_ping = frame(0x89, &[0; 126]);
        let cases = [
            (unmasked, CloseCode::Protocol),
            (frame(0x81, b"text"), CloseCode::Unsupported),
            (endless, CloseCode::Size),
            (frame(0x82, &[0; 1001]), CloseCode::Size),
            (frame(0xc2, b"compressed"), CloseCode::Protocol),
            (frame(0x83, b"reserved opcode"), CloseCode::Protocol),
            (frame(0x8b, b"reserved opcode"), CloseCode::Protocol),
            (frame(0x80, b"goes on with nothing"), CloseCode::Protocol),
            (
                [frame(0x02, b"a"), frame(0x82, b"b")].concat(),
                CloseCode::Protocol,
            ),
            (frame(0x09, b"a ping in parts"), CloseCode::Protocol),
            (long_ping, CloseCode::Protocol),
            (frame(0x88, &[0x03]), CloseCode::Protocol),
            (frame(0x88, &1005_u16.to_be_bytes()), CloseCode::Protocol),
            (frame(0x88, &1001_u16.to_be_bytes()), CloseCode::Away),
            (frame(0x88, b""), CloseCode::Normal),
        ];
        for (bytes, code) in cases {
            for step in [1, 2, bytes.len()] {
                let with_more = [&bytes[..], &frame(0x82, b"never read")].concat();
                let (out, farewell, _) = read(&with_more, step);
                assert_eq!(farewell, Some(code), "{bytes:02x?}");
                assert!(out.len() <= 1, "{out:02x?} behind {bytes:02x?}");
            }
        }
    }

    #[test]
    fn what_came_before_a_close_is_not_lost() {
        let bytes = [frame(0x82, b"DISCONNECT"), frame(0x88, b"")].concat();
        let (out, farewell, _) = read(&bytes, bytes.len());
        assert_eq!(out, b"DISCONNECT");
        assert_eq!(farewell, Some(CloseCode::Normal));
    }
}
