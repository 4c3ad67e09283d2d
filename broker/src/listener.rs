//! Accepts connections and spreads them over the workers.
//!
//! One acceptor for all listeners' sockets, on the main thread. Where the process has no descriptor left, accepting pauses;
//! one descriptor is kept in reserve, so that the client that waits is told by a close instead of hanging (D19).

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use crate::identity::ShardId;
use crate::settings::ListenerSettings;
use crate::worker::{Directory, Handover, Order};

/// Opens a listening socket. An IPv6 address listens for IPv6 only.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts for ever.
pub async fn accept(
    socket: TcpListener,
    listener: Arc<ListenerSettings>,
    directory: Arc<Directory>,
    shards: ShardId,
    connections_max: u64,
) {
    let mut reserve = File::open("/dev/null").ok();
    let mut is_paused = false;
    let mut next: ShardId = 0;
    loop {
        match socket.accept().await {
            Ok((stream, peer)) => {
                is_paused = false;
                if connections_max > 0
                    && directory.connections.load(Ordering::Relaxed) >= connections_max
                {
                    tracing::debug!("Connection from {peer} refused: connections_max is reached.");
                    continue;
                }
                next = (next + 1) % shards;
                if let Err(error) = give(stream, peer, &listener, &directory, next) {
                    tracing::debug!("Connection from {peer} failed: {error}");
                }
            }
            Err(error) if is_out_of_descriptors(&error) => {
                if !is_paused {
                    tracing::warn!("No file descriptor is left ({error}); accepting pauses.");
                    is_paused = true;
                }
                drop(reserve.take());
                refuse_those_who_wait(&socket).await;
                reserve = File::open("/dev/null").ok();
                tokio::time::sleep(PAUSE).await;
            }
            // The peer was quicker than we were.
            Err(error) => tracing::debug!("Accepting failed: {error}"),
        }
    }
}

/// Accepts and closes, one after the other. Polled once each, so nobody is waited for.
async fn refuse_those_who_wait(listener: &TcpListener) {
    for _ in 0..BACKLOG {
        match tokio::time::timeout(Duration::ZERO, listener.accept()).await {
            Ok(Ok((stream, _))) => drop(stream),
            _ => return,
        }
    }
}

fn give(
    stream: TcpStream,
    peer: SocketAddr,
    listener: &Arc<ListenerSettings>,
    directory: &Directory,
    shard: ShardId,
) -> io::Result<()> {
    // We write once a turn, so there is nothing for the kernel to wait for.
    stream.set_nodelay(true)?;
    let socket = Handover {
        stream: stream.into_std()?,
        peer,
        listener: Arc::clone(listener),
        counted: directory.count(),
    };
    directory.send(
        shard,
        Order::Serve {
            socket,
            unread: Vec::new(),
        },
    );
    Ok(())
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

const BACKLOG: i32 = 4096;
const PAUSE: Duration = Duration::from_millis(250);
