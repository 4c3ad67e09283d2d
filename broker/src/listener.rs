//! Accepts connections and spreads them over the workers.
//!
//! One task for each listening socket. Where there is one worker only, it accepts on its own thread: a socket then meets one
//! runtime and no other thread. Where there are more, the main thread accepts. Where the process has no descriptor left,
//! accepting pauses; one descriptor is kept in reserve, so that the client that waits is told by a close instead of hanging
//! (D19).

pub mod tls;
mod watch;

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use listenfd::ListenFd;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::oneshot;

use crate::connection::{self, Arrival};
use crate::door_counts::{Counted, DoorCount};
use crate::identity::ShardId;
use crate::logging::NOTICE;
use crate::settings::{Endpoint, ListenerProtocol, ListenerSettings, Settings};
use crate::transport::unix::SocketFile;
use crate::transport::{Peer, Transport, tcp, unix};
use crate::worker::{Acceptors, Directory, Order, PanicStops, Worker};

use tls::Handshakes;

/// A listening socket.
pub struct Door {
    socket: ListeningSocket,
    /// `None`: a Unix socket.
    port: Option<u16>,
    endpoint: Endpoint,
    /// Connections of the listener, of all its endpoints.
    counts: Arc<DoorCount>,
    /// What it serves TLS with, the same for all its endpoints.
    tls: Option<Arc<tls::Current>>,
}

/// The same on this thread.
pub(crate) struct OpenDoor {
    socket: Attached,
    endpoint: Endpoint,
    counts: Arc<DoorCount>,
    tls: Option<Arc<tls::Current>>,
}

/// Between two runtimes.
enum ListeningSocket {
    Tcp(std::net::TcpListener),
    Unix {
        socket: std::os::unix::net::UnixListener,
        /// What its clients are called.
        path: Arc<str>,
        /// `None`: the service manager made it, and keeps it.
        file: Option<SocketFile>,
    },
}

/// On this thread's runtime.
enum Attached {
    Tcp(TcpListener),
    Unix {
        socket: UnixListener,
        path: Arc<str>,
        /// Removed when the door is closed.
        _file: Option<SocketFile>,
    },
}

/// Sockets that the service manager has opened for us.
pub struct Activated {
    tcp: Vec<std::net::TcpListener>,
    unix: Vec<std::os::unix::net::UnixListener>,
}

impl Activated {
    pub fn none() -> Self {
        Self {
            tcp: Vec::new(),
            unix: Vec::new(),
        }
    }

    /// Those of `LISTEN_FDS`.
    pub fn from_environment() -> io::Result<Self> {
        let mut given = ListenFd::from_env();
        let mut sockets = Self::none();
        for place in 0..given.len() {
            // It says what it is by being refused as what it is not.
            if let Ok(Some(socket)) = given.take_tcp_listener(place) {
                sockets.tcp.push(socket);
            } else if let Some(socket) = given.take_unix_listener(place)? {
                sockets.unix.push(socket);
            }
        }
        Ok(sockets)
    }

    pub fn is_empty(&self) -> bool {
        self.tcp.is_empty() && self.unix.is_empty()
    }

    /// Where they are.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        let tcp = self
            .tcp
            .iter()
            .filter_map(|socket| socket.local_addr().ok());
        let unix = self.unix.iter().filter_map(path_of);
        tcp.map(Endpoint::Tcp)
            .chain(unix.map(Endpoint::Unix))
            .collect()
    }

    /// One more, that is open already.
    pub fn add(&mut self, socket: std::net::TcpListener) {
        self.tcp.push(socket);
    }

    fn take_tcp(&mut self, address: SocketAddr) -> Option<std::net::TcpListener> {
        let is_it =
            |socket: &std::net::TcpListener| socket.local_addr().is_ok_and(|at| at == address);
        let place = self.tcp.iter().position(is_it)?;
        Some(self.tcp.swap_remove(place))
    }

    fn take_unix(&mut self, path: &Path) -> Option<std::os::unix::net::UnixListener> {
        let is_it = |socket: &std::os::unix::net::UnixListener| {
            path_of(socket).is_some_and(|at| at == path)
        };
        let place = self.unix.iter().position(is_it)?;
        Some(self.unix.swap_remove(place))
    }
}

fn path_of(socket: &std::os::unix::net::UnixListener) -> Option<PathBuf> {
    let address = socket.local_addr().ok()?;
    address.as_pathname().map(Path::to_owned)
}

/// Opens one endpoint of a listener, and says so. `counts` are those of all its endpoints; `tls` is what they serve with.
pub fn open(
    listener: &Arc<ListenerSettings>,
    endpoint: &Endpoint,
    counts: &Arc<DoorCount>,
    tls: Option<&Arc<tls::Current>>,
    given: &mut Activated,
) -> io::Result<Door> {
    let socket = open_socket(endpoint, listener, given)?;
    Ok(Door {
        port: socket.port(),
        socket,
        endpoint: endpoint.clone(),
        counts: Arc::clone(counts),
        tls: tls.map(Arc::clone),
    })
}

/// What is asked for and cannot be had is refused: nobody may speak in plain who was promised more.
pub fn check_is_served(listener: &ListenerSettings) -> io::Result<()> {
    let has_files = listener
        .tls
        .as_ref()
        .is_some_and(|tls| tls.certificate_file.is_some());
    let missing = if has_files && listener.proxy_protocol.is_some() {
        "a listener has either TLS or a PROXY header before it; the proxy in front speaks TLS"
    } else if listener.protocol == ListenerProtocol::HttpApi && listener.proxy_protocol.is_some() {
        "http_api is not served behind a PROXY header; leave proxy_protocol out"
    } else {
        return Ok(());
    };
    Err(io::Error::new(io::ErrorKind::Unsupported, missing))
}

fn open_socket(
    endpoint: &Endpoint,
    listener: &ListenerSettings,
    given: &mut Activated,
) -> io::Result<ListeningSocket> {
    let kind = match listener.protocol {
        ListenerProtocol::Mqtt => "",
        ListenerProtocol::WebSocket => "websockets ",
        ListenerProtocol::HttpApi => "http api ",
    };
    if let Some(directory) = &listener.http_directory {
        if directory.is_dir() {
            tracing::info!("Using http_dir {}", directory.display());
        } else {
            tracing::warn!(
                "http_dir {} is no directory that can be read: no files are served.",
                directory.display()
            );
        }
    }
    match endpoint {
        Endpoint::Tcp(address) => {
            let socket = match given.take_tcp(*address) {
                Some(socket) => {
                    socket.set_nonblocking(true)?;
                    tcp::do_not_delay(&socket)?;
                    socket
                }
                None => tcp::bind(*address, listener.bind_interface.as_deref())?,
            };
            let actual = socket.local_addr().unwrap_or(*address);
            let family = if actual.is_ipv4() { "ipv4" } else { "ipv6" };
            tracing::info!(
                address = %actual.ip(),
                "Opening {family} {kind}listen socket on port {}.",
                actual.port()
            );
            Ok(ListeningSocket::Tcp(socket))
        }
        Endpoint::Unix(path) => {
            let (socket, file) = match given.take_unix(path) {
                Some(socket) => {
                    socket.set_nonblocking(true)?;
                    (socket, None)
                }
                None => {
                    let (socket, file) = unix::bind(path)?;
                    (socket, Some(file))
                }
            };
            tracing::info!(
                "Opening unix {kind}listen socket on path {}.",
                path.display()
            );
            Ok(ListeningSocket::Unix {
                socket,
                path: name_of_clients(path),
                file,
            })
        }
    }
}

/// Whether an address cannot be had because the machine does not speak IPv6.
pub fn lacks_ipv6(endpoint: &Endpoint, error: &io::Error) -> bool {
    let is_general = matches!(endpoint, Endpoint::Tcp(SocketAddr::V6(address))
        if address.ip().is_unspecified() || address.ip().is_loopback());
    let unknown = rustix::io::Errno::AFNOSUPPORT.raw_os_error();
    is_general
        && (error.raw_os_error() == Some(unknown)
            || error.kind() == io::ErrorKind::AddrNotAvailable)
}

/// Of a path, what may stand in the log.
fn name_of_clients(path: &Path) -> Arc<str> {
    let path = path.to_string_lossy();
    path.escape_debug().collect::<String>().into()
}

/// Why accepting has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was told to.
    Closed,
    ByItself,
}

/// Accepts at `door` until the sender of `closed` is gone; the socket is closed when this returns.
pub async fn accept(
    door: Door,
    acceptors: Acceptors,
    handshakes: Option<Arc<Handshakes>>,
    closed: oneshot::Receiver<()>,
) -> Ended {
    if acceptors.shards == 1 {
        return accept_on_worker(door, acceptors, handshakes, closed).await;
    }
    let directory = Arc::clone(&acceptors.directory);
    let give = |arrival: Arrival, shard| arrival.send_to(&directory, shard);
    tokio::select! {
        _ = closed => Ended::Closed,
        () = accept_all(door, acceptors, handshakes, give) => Ended::ByItself,
    }
}

/// Accepts on the thread of the only worker.
async fn accept_on_worker(
    door: Door,
    acceptors: Acceptors,
    handshakes: Option<Arc<Handshakes>>,
    closed: oneshot::Receiver<()>,
) -> Ended {
    let (told, ended) = oneshot::channel();
    let directory = Arc::clone(&acceptors.directory);
    let begin = move |worker: &Rc<RefCell<Worker>>| {
        let worker = Rc::clone(worker);
        tokio::task::spawn_local(async move {
            let _panic_stops = PanicStops;
            let give = |arrival, _| connection::receive(&worker, arrival);
            let end = tokio::select! {
                _ = closed => Ended::Closed,
                () = accept_all(door, acceptors, handshakes, give) => Ended::ByItself,
            };
            // Where nobody listens, the broker has stopped.
            let _ = told.send(end);
        });
    };
    directory.send(ONLY, Order::Run(Box::new(begin)));
    // A worker that is gone has told nobody to close its doors.
    ended.await.unwrap_or(Ended::ByItself)
}

/// Accepts for ever. Gives each socket with the shard whose turn it is.
async fn accept_all(
    door: Door,
    acceptors: Acceptors,
    handshakes: Option<Arc<Handshakes>>,
    mut give: impl FnMut(Arrival, ShardId),
) {
    let Acceptors {
        directory,
        shards,
        settings,
    } = acceptors;
    let Door {
        socket,
        port,
        endpoint,
        counts,
        tls,
    } = door;
    let socket = match socket.attach() {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!("The listening socket {endpoint} cannot be waited for: {error}");
            return;
        }
    };
    let mut next: ShardId = 0;
    let take_in = |transport, peer| {
        // Those of the last reload.
        let settings = Arc::clone(&settings.borrow());
        let Some(listener) = settings.listener_at(&endpoint) else {
            return;
        };
        // A reload has made this socket another one's, and this task has not heard of it yet. Never in plain what is to have TLS.
        let is_http = listener.protocol == ListenerProtocol::HttpApi;
        if is_http || listener.speaks_tls() != tls.is_some() {
            return;
        }
        if let Some(limit) = full(&settings, listener, &directory, &counts) {
            counts.count_turned_away();
            tracing::info!("Connection from {peer} refused: {limit} is reached.");
            return;
        }
        if settings.log.connection_messages {
            log_accepted(&peer, port);
        }
        next = (next + 1) % shards;
        let arrival = Arrival {
            transport,
            peer,
            listener: Arc::clone(listener),
            client: None,
            counted: counts.count(),
        };
        match (&tls, &handshakes) {
            (None, _) => give(arrival, next),
            (Some(tls), Some(handshakes)) => {
                if let Some(socket) = arrival.detach() {
                    handshakes.begin(socket, tls, &directory, next);
                }
            }
            // Never in plain: the socket closes here.
            (Some(_), None) => drop(arrival),
        }
    };
    accept_from(&socket, take_in).await;
}

async fn accept_from(socket: &Attached, mut take_in: impl FnMut(Transport, Peer)) {
    let mut reserve = File::open("/dev/null").ok();
    let mut is_paused = false;
    let mut in_a_row = 0;
    loop {
        match socket.accept().await {
            Ok((transport, peer)) => {
                is_paused = false;
                take_in(transport, peer);
            }
            Err(error) if is_out_of_descriptors(&error) => {
                if !is_paused {
                    tracing::warn!("No file descriptor is left ({error}); accepting pauses.");
                    is_paused = true;
                }
                drop(reserve.take());
                refuse_those_who_wait(socket).await;
                reserve = File::open("/dev/null").ok();
                tokio::time::sleep(PAUSE).await;
            }
            // The peer was quicker than we were.
            Err(error) => tracing::debug!("Accepting failed: {error}"),
        }
        in_a_row += 1;
        if in_a_row == ACCEPTS_IN_A_ROW_MAX {
            in_a_row = 0;
            // Those who are in are served meanwhile.
            tokio::task::yield_now().await;
        }
    }
}

fn log_accepted(peer: &Peer, port: Option<u16>) {
    match port {
        Some(port) => tracing::info!(target: NOTICE, "New connection from {peer} on port {port}."),
        None => tracing::info!(target: NOTICE, "New connection from {peer}."),
    }
}

/// The name of the bound that leaves no room for one more.
fn full(
    settings: &Settings,
    listener: &ListenerSettings,
    directory: &Directory,
    counts: &DoorCount,
) -> Option<&'static str> {
    let all = settings.connections_max;
    let own = listener.connections_max;
    if all > 0 && directory.door_counts.clients() >= all {
        Some("connections_max")
    } else if own.is_some_and(|own| counts.open() >= own) {
        Some("connections_max of its listener")
    } else {
        None
    }
}

impl Door {
    /// The same socket again, for who may serve it in another way: the system opens no second one at its address. `None`: of a
    /// Unix socket, whose file goes with the first.
    pub fn same_socket(&self) -> io::Result<Option<std::net::TcpListener>> {
        match &self.socket {
            ListeningSocket::Tcp(socket) => socket.try_clone().map(Some),
            ListeningSocket::Unix { .. } => Ok(None),
        }
    }

    /// On this thread, for what is served without a worker.
    pub(crate) fn open_here(self) -> io::Result<OpenDoor> {
        Ok(OpenDoor {
            socket: self.socket.attach()?,
            endpoint: self.endpoint,
            counts: self.counts,
            tls: self.tls,
        })
    }
}

impl OpenDoor {
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(crate) fn tls(&self) -> Option<&tls::Current> {
        self.tls.as_deref()
    }

    pub(crate) async fn accept(&self) -> io::Result<(Transport, Peer)> {
        self.socket.accept().await
    }

    /// Counts one connection of the listener for as long as it lives. `None`: there is no room for one more.
    pub(crate) fn count(&self, connections_max: Option<u64>) -> Option<Counted> {
        if connections_max.is_some_and(|limit| self.counts.open() >= limit) {
            self.counts.count_turned_away();
            return None;
        }
        Some(self.counts.count())
    }
}

impl ListeningSocket {
    fn port(&self) -> Option<u16> {
        match self {
            Self::Tcp(socket) => socket.local_addr().ok().map(|address| address.port()),
            Self::Unix { .. } => None,
        }
    }

    /// Belongs to the runtime of this thread from here on.
    fn attach(self) -> io::Result<Attached> {
        Ok(match self {
            Self::Tcp(socket) => Attached::Tcp(TcpListener::from_std(socket)?),
            Self::Unix { socket, path, file } => Attached::Unix {
                socket: UnixListener::from_std(socket)?,
                path,
                _file: file,
            },
        })
    }
}

impl Attached {
    async fn accept(&self) -> io::Result<(Transport, Peer)> {
        match self {
            Self::Tcp(socket) => {
                let (stream, peer) = socket.accept().await?;
                Ok((tcp::accepted(stream), Peer::Address(peer)))
            }
            Self::Unix { socket, path, .. } => {
                let (stream, _) = socket.accept().await?;
                Ok((unix::accepted(stream), Peer::Path(Arc::clone(path))))
            }
        }
    }
}

/// Accepts and closes, one after the other. Polled once each, so nobody is waited for.
async fn refuse_those_who_wait(socket: &Attached) {
    for _ in 0..unix::BACKLOG {
        match tokio::time::timeout(Duration::ZERO, socket.accept()).await {
            Ok(Ok((stream, _))) => drop(stream),
            _ => return,
        }
    }
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

const ONLY: ShardId = 0;
const PAUSE: Duration = Duration::from_millis(250);
const ACCEPTS_IN_A_ROW_MAX: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Settings, TlsSettings};

    #[test]
    fn tls_without_a_certificate_is_refused_and_not_served_in_plain() {
        let listener = ListenerSettings {
            tls: Some(TlsSettings::default()),
            ..ListenerSettings::default()
        };
        let settings = Settings::default();
        assert!(tls::Current::prepare(&listener, &settings, None).is_err());
        let plain = ListenerSettings::default();
        let prepared = tls::Current::prepare(&plain, &settings, None);
        assert!(prepared.is_ok_and(|prepared| prepared.is_none()));
    }
}
