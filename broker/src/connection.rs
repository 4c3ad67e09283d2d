//! A Network Connection's socket: read when there is something, write when the turn ends, close politely.
//!
//! What the bytes go through (`transport`) is opened first: a PROXY header, the upgrade to WebSocket. Knows no MQTT rule. Reading borrows the worker's buffer, so an idle connection owns none.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use nightjar_certs::Client;

use crate::door_counts::Counted;
use crate::identity::{ConnectionId, ShardId};
use crate::settings::ListenerSettings;
use crate::shard::Received;
use crate::transport::opening::{self, Opened};
use crate::transport::{Incoming, Peer, Transport};
use crate::worker::{Directory, Handover, Order, PanicStops, Worker};

/// An open socket and the task that reads it.
pub(crate) struct Socket {
    id: ConnectionId,
    transport: Transport,
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

/// A socket that was accepted on this thread.
pub(crate) struct Arrival {
    pub(crate) transport: Transport,
    pub(crate) peer: Peer,
    pub(crate) listener: Arc<ListenerSettings>,
    /// Who the client is by its certificate.
    pub(crate) client: Option<Arc<Client>>,
    pub(crate) counted: Counted,
}

impl Arrival {
    /// For another thread; `None`: it is closed.
    pub(crate) fn detach(self) -> Option<Handover> {
        match self.transport.detach() {
            Ok(stream) => Some(Handover {
                stream,
                peer: self.peer,
                listener: self.listener,
                client: self.client,
                counted: self.counted,
                is_opened: false,
            }),
            Err(error) => {
                tracing::debug!("Connection from {} failed: {error}", self.peer);
                None
            }
        }
    }

    /// Gives it to a worker. One that is gone is one that shuts down; the socket closes with the order.
    pub(crate) fn send_to(self, directory: &Directory, shard: ShardId) {
        if let Some(socket) = self.detach() {
            let unread = Vec::new();
            directory.send(shard, Order::Serve { socket, unread });
        }
    }
}

/// Takes a socket in. What comes before MQTT, and then MQTT, is read by a task of its own.
pub(crate) fn welcome(worker: &Rc<RefCell<Worker>>, socket: Handover, unread: &[u8]) {
    let Handover {
        stream,
        peer,
        listener,
        client,
        counted,
        is_opened,
    } = socket;
    let transport = match stream.attach() {
        Ok(transport) => transport,
        Err(error) => {
            tracing::warn!("A socket from {peer} could not be served: {error}");
            return;
        }
    };
    let arrival = Arrival {
        transport,
        peer,
        listener,
        client,
        counted,
    };
    if is_opened {
        serve(worker, arrival, unread);
    } else {
        receive(worker, arrival);
    }
}

/// Takes in a socket of this thread's runtime that nothing has been read from.
pub(crate) fn receive(worker: &Rc<RefCell<Worker>>, arrival: Arrival) {
    if !opening::is_needed(&arrival.listener) {
        serve(worker, arrival, &[]);
        return;
    }
    let worker = Rc::clone(worker);
    // A panic on the way to MQTT is this client's alone.
    tokio::task::spawn_local(async move {
        open(&worker, arrival).await;
    });
}

/// Reads what comes before MQTT, in as much time as there is for CONNECT.
async fn open(worker: &Rc<RefCell<Worker>>, arrival: Arrival) {
    let Arrival {
        transport,
        peer,
        listener,
        client,
        counted,
    } = arrival;
    let (patience, frame_bytes_max) = {
        let worker = worker.borrow();
        let settings = worker.shard.settings();
        let patience = Duration::from_secs(u64::from(settings.connect_timeout_seconds));
        (patience, u64::from(settings.max_packet_size) + HEAD_BYTES)
    };
    let opening = opening::open(transport, peer.clone(), &listener, frame_bytes_max);
    match tokio::time::timeout(patience, opening).await {
        Ok(Ok(Opened {
            transport,
            peer,
            unread,
            client: by_proxy,
        })) => {
            let client = by_proxy.or(client);
            let _panic_stops = PanicStops;
            let arrival = Arrival {
                transport,
                peer,
                listener,
                client,
                counted,
            };
            serve(worker, arrival, &unread);
        }
        Ok(Err(refused)) => {
            match refused {
                opening::Refused::Gone => tracing::debug!("{}", refused.line(&peer)),
                _ => tracing::info!("{}", refused.line(&peer)),
            }
            if let opening::Refused::Upgrade(_, transport) = refused {
                let _ = tokio::time::timeout(LINGER, transport.part()).await;
            }
        }
        Err(_) => tracing::info!("Connection from {peer} closed: it did not come to MQTT in time."),
    }
}

/// Gives the connection a place in the shard, and starts its task.
fn serve(worker: &Rc<RefCell<Worker>>, arrival: Arrival, unread: &[u8]) {
    let Arrival {
        transport,
        peer,
        listener,
        client,
        counted,
    } = arrival;
    let id = {
        let mut worker = worker.borrow_mut();
        let now = worker.now();
        let id = worker.shard.open(now, peer, &listener);
        if let Some(client) = &client {
            worker.shard.identify(now, id, client);
        }
        let place = id.slot as usize;
        if worker.sockets.len() <= place {
            worker.sockets.resize_with(place + 1, || None);
        }
        let old = worker.sockets[place].replace(Socket {
            id,
            transport,
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
    tokio::task::spawn_local(Serving {
        worker: Rc::clone(worker),
        stage: Stage::Open(id),
    });
}

/// The task of one connection. There is one for each, so it is as small as it can be, and its end is boxed.
struct Serving {
    worker: Rc<RefCell<Worker>>,
    stage: Stage,
}

enum Stage {
    Open(ConnectionId),
    Parting(Pin<Box<dyn Future<Output = ()>>>),
}

impl Future for Serving {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let _panic_stops = PanicStops;
        let Self { worker, stage } = &mut *self;
        if let Stage::Open(id) = *stage {
            let end = ready!(worker.borrow_mut().poll_connection(id, context));
            let End::Closed(socket) = end else {
                return Poll::Ready(());
            };
            worker.borrow_mut().lingering += 1;
            *stage = Stage::Parting(Box::pin(part(socket)));
        }
        if let Stage::Parting(parting) = stage {
            ready!(parting.as_mut().poll(context));
            worker.borrow_mut().lingering -= 1;
        }
        Poll::Ready(())
    }
}

/// A peer that goes on sending, or takes nothing, is not waited for.
async fn part(socket: Socket) {
    let _ = tokio::time::timeout(LINGER, socket.transport.part()).await;
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
                } else if self.shard.may_read(id) {
                    // Another shard took its mail between the two looks, and will not say so again.
                    continue;
                }
                return Poll::Pending;
            }
            let is_turn_full = self.shard.is_turn_full();
            if is_turn_full || self.shard.has_unread(id) {
                if !is_turn_full && self.take_bytes(id, 0) == Flow::Ended {
                    return Poll::Ready(End::Gone);
                }
                // The end of the turn comes first, and the others.
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            let Self {
                sockets,
                buffer,
                shard,
                ..
            } = self;
            let Some(Some(socket)) = sockets.get_mut(id.slot as usize) else {
                return Poll::Ready(End::Gone);
            };
            // What a client sends behind its CONNECT has to wait with it, so little of it is read.
            let size = match shard.is_serving(id) {
                true => buffer.len(),
                false => FIRST_READ.min(buffer.len()),
            };
            let buffer = buffer.get_mut(..size).unwrap_or_default();
            let (count, is_full) = match ready!(socket.transport.poll_read(context, buffer)) {
                Ok(Incoming::Bytes { count, is_full }) => (count, is_full),
                Ok(Incoming::Nothing) => (0, false),
                Ok(Incoming::End) if socket.transport.parts_politely() => return self.part(id),
                Ok(Incoming::End) | Err(_) => {
                    self.lose(id);
                    return Poll::Ready(End::Gone);
                }
            };
            if socket.transport.has_own_answer() && !socket.write_blocked {
                self.write_own_answer(id);
            }
            if count > 0 && self.take_bytes(id, count) == Flow::Ended {
                return Poll::Ready(End::Gone);
            }
            if is_full {
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
        let Received::Move(departure) = received else {
            return Flow::Continues;
        };
        let departure = *departure;
        if let Some(socket) = self.take_socket(id)
            && let Ok(stream) = socket.transport.detach()
        {
            self.hand_over(
                departure.home,
                Handover {
                    stream,
                    peer: departure.peer,
                    listener: departure.listener,
                    client: departure.client,
                    counted: socket.counted,
                    is_opened: true,
                },
                departure.unread,
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
        socket.transport.try_write(send, pool)
    }

    /// An answer of the transport waits. Where the socket takes no more, its own task writes it later.
    fn write_own_answer(&mut self, id: ConnectionId) {
        // What went wrong will be found by the next read.
        let is_done = self.try_write(id).unwrap_or(true);
        let now = self.now();
        self.shard.wrote(now, id);
        if let Some(socket) = self.socket(id) {
            socket.write_blocked = !is_done;
        }
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
            ready!(socket.transport.poll_write_ready(context))?;
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

    /// The peer said its last word, or one that ends the connection, and is to be answered.
    fn part(&mut self, id: ConnectionId) -> Poll<End> {
        let now = self.now();
        self.shard.closed(now, id);
        let socket = self.take_socket(id);
        self.after_input();
        Poll::Ready(socket.map_or(End::Gone, End::Closed))
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

/// Of a client that has not heard its CONNACK.
const FIRST_READ: usize = 64 * 1024;
const LINGER: Duration = Duration::from_millis(500);
/// Of the largest packet, its first byte and its Remaining Length.
const HEAD_BYTES: u64 = 5;
