//! A Network Connection's socket: read when there is something, write when the turn ends, close politely.
//!
//! Knows no MQTT rule. Reading borrows the worker's buffer, so an idle connection owns none.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::{Shutdown, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::net::TcpStream;

use crate::identity::ConnectionId;
use crate::settings::ListenerSettings;
use crate::shard::Received;
use crate::worker::{Counted, Handover, PanicStops, Worker};

/// An open socket and the task that reads it.
pub(crate) struct Socket {
    id: ConnectionId,
    stream: TcpStream,
    peer: SocketAddr,
    listener: Arc<ListenerSettings>,
    counted: Counted,
    reader: Option<Waker>,
    /// The socket took no more bytes; its own task waits until it does.
    write_blocked: bool,
    /// Its task waits until the shard wants to read from it again.
    paused: bool,
}

/// How a connection's task ended.
enum End {
    /// Every byte is written; the socket is to be closed without losing them.
    Closed(Socket),
    /// The peer is gone, or the socket went to another worker.
    Gone,
}

/// Takes a socket in and starts its task.
pub(crate) fn serve(worker: &Rc<RefCell<Worker>>, socket: Handover, unread: &[u8]) {
    let Handover {
        stream,
        peer,
        listener,
        counted,
    } = socket;
    let stream = match TcpStream::from_std(stream) {
        Ok(stream) => stream,
        Err(error) => {
            tracing::warn!("A socket from {peer} could not be served: {error}");
            return;
        }
    };
    let id = {
        let mut worker = worker.borrow_mut();
        let now = worker.now();
        let id = worker.shard.open(now, &peer.to_string(), &listener);
        let place = id.slot as usize;
        if worker.sockets.len() <= place {
            worker.sockets.resize_with(place + 1, || None);
        }
        let old = worker.sockets[place].replace(Socket {
            id,
            stream,
            peer,
            listener,
            counted,
            reader: None,
            write_blocked: false,
            paused: false,
        });
        if let Some(reader) = old.and_then(|old| old.reader) {
            // The shard gave up a connection that did not take its last bytes; its task ends now that its socket is gone.
            reader.wake();
        }
        id
    };
    if !unread.is_empty() {
        let mut worker = worker.borrow_mut();
        let mut rest = unread;
        while !rest.is_empty() {
            let count = rest.len().min(worker.buffer.len());
            let (piece, after) = rest.split_at(count);
            worker.buffer[..count].copy_from_slice(piece);
            rest = after;
            if worker.take_bytes(id, count) == Flow::Ended {
                return;
            }
        }
    }
    worker.borrow_mut().after_input();
    let worker = Rc::clone(worker);
    tokio::task::spawn_local(async move {
        let _panic_stops = PanicStops;
        let end = poll_fn(|context| worker.borrow_mut().poll_connection(id, context)).await;
        if let End::Closed(socket) = end {
            worker.borrow_mut().lingering += 1;
            // Boxed, so that the task of an open connection does not carry its end.
            Box::pin(linger(socket)).await;
            worker.borrow_mut().lingering -= 1;
        }
    });
}

/// The task behind all readers: ends turns and writes. Never finishes.
pub(crate) async fn flush(worker: Rc<RefCell<Worker>>) {
    let _panic_stops = PanicStops;
    poll_fn(|context| {
        let mut worker = worker.borrow_mut();
        if worker.begin_flush(context.waker()) {
            worker.flush();
            worker.after_input();
        }
        Poll::Pending
    })
    .await
}

/// Sends FIN behind the last bytes and reads what the peer still says, so that the kernel does not reset the connection
/// and take our last bytes from the peer.
async fn linger(socket: Socket) {
    let mut stream = socket.stream;
    if SockRef::from(&stream).shutdown(Shutdown::Write).is_err() {
        return;
    }
    let drain = async {
        let mut ignored = [0; 1024];
        for _ in 0..LINGER_READS {
            match stream.read(&mut ignored).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    };
    // A peer that goes on sending is not waited for.
    let _ = tokio::time::timeout(LINGER, drain).await;
}

/// Whether a connection's task goes on.
#[derive(PartialEq, Eq)]
enum Flow {
    Continues,
    Ended,
}

impl Worker {
    fn poll_connection(&mut self, id: ConnectionId, context: &mut Context<'_>) -> Poll<End> {
        loop {
            let Some(socket) = self.socket(id) else {
                return Poll::Ready(End::Gone);
            };
            if socket
                .reader
                .as_ref()
                .is_none_or(|known| !known.will_wake(context.waker()))
            {
                socket.reader = Some(context.waker().clone());
            }
            if socket.write_blocked {
                match self.poll_write(id, context) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(_)) => {
                        self.lose(id);
                        return Poll::Ready(End::Gone);
                    }
                    Poll::Pending => {}
                }
            }
            if self.shard.is_closing(id) {
                return self.poll_close(id);
            }
            if !self.shard.may_read(id) {
                if let Some(socket) = self.socket(id) {
                    socket.paused = true;
                }
                let now = self.now();
                self.shard.note_paused(now, id);
                if self.shard.is_congested() {
                    self.wait_for_others(context.waker());
                }
                return Poll::Pending;
            }
            if self.shard.has_unread(id) {
                if !self.shard.is_turn_full() && self.take_bytes(id, 0) == Flow::Ended {
                    return Poll::Ready(End::Gone);
                }
                // The end of the turn comes first, and the others.
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            let Self {
                sockets, buffer, ..
            } = self;
            let Some(Some(socket)) = sockets.get_mut(id.slot as usize) else {
                return Poll::Ready(End::Gone);
            };
            let mut read = ReadBuf::new(buffer);
            let result = ready!(Pin::new(&mut socket.stream).poll_read(context, &mut read));
            let count = read.filled().len();
            if result.is_err() || count == 0 {
                self.lose(id);
                return Poll::Ready(End::Gone);
            }
            let was_full = count == self.buffer.len();
            if self.take_bytes(id, count) == Flow::Ended {
                return Poll::Ready(End::Gone);
            }
            if was_full {
                // More is waiting; the others come first.
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }

    /// Gives what was read to the shard, and the socket to another worker where its session lives there.
    fn take_bytes(&mut self, id: ConnectionId, count: usize) -> Flow {
        let now = self.now();
        let received = self.receive(now, id, count);
        self.after_input();
        let Received::Move { home, unread } = received else {
            return Flow::Continues;
        };
        if let Some(socket) = self.take_socket(id)
            && let Ok(stream) = socket.stream.into_std()
        {
            self.hand_over(
                home,
                Handover {
                    stream,
                    peer: socket.peer,
                    listener: socket.listener,
                    counted: socket.counted,
                },
                unread,
            );
        }
        Flow::Ended
    }

    /// Ends the turn and writes what it made. What a full socket leaves is written by its own task.
    pub(crate) fn flush(&mut self) {
        let now = self.now();
        let dirty = self.end_turn(now);
        for id in &dirty {
            let Some(socket) = self.socket(*id) else {
                continue;
            };
            if socket.write_blocked {
                // A peer that takes nothing more must not keep its socket past the time it had for its last bytes. And what it
                // does not take is no reason not to read from it.
                let may_read = self.shard.may_read(*id);
                let resumes = self
                    .socket(*id)
                    .is_some_and(|socket| may_read && std::mem::take(&mut socket.paused));
                if resumes || self.shard.is_closing(*id) {
                    self.wake_reader(*id);
                }
                self.shard.wrote(now, *id);
                continue;
            }
            match self.try_write(*id) {
                Ok(true) => {
                    self.shard.wrote(now, *id);
                    let paused = self
                        .socket(*id)
                        .is_some_and(|socket| std::mem::take(&mut socket.paused));
                    if paused || self.shard.is_closing(*id) {
                        self.wake_reader(*id);
                    }
                }
                Ok(false) => {
                    self.shard.wrote(now, *id);
                    if let Some(socket) = self.socket(*id) {
                        socket.write_blocked = true;
                    }
                    self.wake_reader(*id);
                }
                Err(_) => {
                    // Its task ends when it finds the socket gone; the socket holds its waker, so it is woken first.
                    self.wake_reader(*id);
                    self.lose(*id);
                }
            }
        }
        self.reuse(dirty);
    }

    /// Writes without waiting. True: everything is written.
    fn try_write(&mut self, id: ConnectionId) -> io::Result<bool> {
        let Self { sockets, shard, .. } = self;
        let Some(Some(socket)) = sockets.get_mut(id.slot as usize) else {
            return Ok(true);
        };
        let Some((send, pool)) = shard.output(id) else {
            return Ok(true);
        };
        while !send.is_empty() {
            let result = match send.as_single() {
                Some(bytes) => socket.stream.try_write(bytes),
                None => {
                    let mut slices = [IoSlice::new(&[]); SLICES];
                    let filled = send.slices(&mut slices);
                    socket
                        .stream
                        .try_write_vectored(slices.get(..filled).unwrap_or_default())
                }
            };
            match result {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => send.advance(count, pool),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Writes as the socket has room, and asks to be woken when it has more.
    fn poll_write(&mut self, id: ConnectionId, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let is_done = self.try_write(id)?;
            let now = self.now();
            self.shard.wrote(now, id);
            self.after_input();
            if is_done {
                if let Some(socket) = self.socket(id) {
                    socket.write_blocked = false;
                }
                return Poll::Ready(Ok(()));
            }
            let Some(socket) = self.socket(id) else {
                return Poll::Ready(Ok(()));
            };
            ready!(socket.stream.poll_write_ready(context))?;
        }
    }

    /// A connection that is done: once its bytes are written, the socket goes to `linger`.
    fn poll_close(&mut self, id: ConnectionId) -> Poll<End> {
        let waits = self
            .shard
            .output(id)
            .is_some_and(|(send, _)| !send.is_empty());
        if waits {
            return Poll::Pending;
        }
        self.shard.released(id);
        self.after_input();
        match self.take_socket(id) {
            Some(socket) => Poll::Ready(End::Closed(socket)),
            None => Poll::Ready(End::Gone),
        }
    }

    /// The peer is gone.
    fn lose(&mut self, id: ConnectionId) {
        let now = self.now();
        self.shard.closed(now, id);
        self.take_socket(id);
        self.after_input();
    }

    fn wake_reader(&mut self, id: ConnectionId) {
        if let Some(reader) = self.socket(id).and_then(|socket| socket.reader.as_ref()) {
            reader.wake_by_ref();
        }
    }

    fn socket(&mut self, id: ConnectionId) -> Option<&mut Socket> {
        self.sockets
            .get_mut(id.slot as usize)?
            .as_mut()
            .filter(|socket| socket.id == id)
    }

    fn take_socket(&mut self, id: ConnectionId) -> Option<Socket> {
        self.sockets
            .get_mut(id.slot as usize)?
            .take_if(|socket| socket.id == id)
    }
}

const SLICES: usize = 64;
const LINGER: Duration = Duration::from_millis(500);
const LINGER_READS: usize = 256;
