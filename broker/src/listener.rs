//! Accepts connections and spreads them over the workers.
//!
//! One acceptor for each listening socket, on the main thread. Where the process has no descriptor left, accepting pauses;
//! one descriptor is kept in reserve, so that the client that waits is told by a close instead of hanging (D19).

pub mod tls;

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use listenfd::ListenFd;
use tokio::net::{TcpListener, UnixListener};

use crate::identity::ShardId;
use crate::logging::NOTICE;
use crate::settings::{Endpoint, ListenerProtocol, ListenerSettings};
use crate::transport::unix::SocketFile;
use crate::transport::{Detached, Peer, tcp, unix};
use crate::worker::{Acceptors, Directory, Handover, Order};

use tls::Handshakes;

/// A listening socket.
pub struct Door {
    socket: ListeningSocket,
    /// `None`: a Unix socket.
    port: Option<u16>,
    endpoint: Endpoint,
    /// Open connections of the listener, of all its endpoints.
    connections: Arc<AtomicU64>,
    /// What it serves TLS with, the same for all its endpoints.
    tls: Option<Arc<tls::Current>>,
}

enum ListeningSocket {
    Tcp(TcpListener),
    Unix {
        socket: UnixListener,
        /// What its clients are called.
        path: Arc<str>,
        /// Removed when the door is closed.
        /// `None`: the service manager made it, and keeps it.
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

/// Opens one endpoint of a listener, and says so. `connections` counts what all its endpoints have accepted; `tls` is what
/// they serve with.
pub fn open(
    listener: &Arc<ListenerSettings>,
    endpoint: &Endpoint,
    connections: &Arc<AtomicU64>,
    tls: Option<&Arc<tls::Current>>,
    given: &mut Activated,
) -> io::Result<Door> {
    let socket = open_socket(endpoint, listener, given)?;
    Ok(Door {
        port: socket.port(),
        socket,
        endpoint: endpoint.clone(),
        connections: Arc::clone(connections),
        tls: tls.map(Arc::clone),
    })
}

/// What is asked for and cannot be had is refused: nobody may speak in plain who was promised more.
pub fn check_is_served(listener: &ListenerSettings) -> io::Result<()> {
    let missing = if listener.tls.is_some() && listener.proxy_protocol.is_some() {
        "a listener has either TLS or a PROXY header before it; the proxy in front speaks TLS"
    } else if listener.protocol == ListenerProtocol::HttpApi {
        "http_api is not served by this version; leave the listener out"
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
        ListenerProtocol::WebSocket => "websockets ",
        _ => "",
    };
    match endpoint {
        Endpoint::Tcp(address) => {
            let socket = match given.take_tcp(*address) {
                Some(socket) => {
                    socket.set_nonblocking(true)?;
                    TcpListener::from_std(socket)?
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
                    (UnixListener::from_std(socket)?, None)
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
                _file: file,
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

/// Accepts for ever.
pub async fn accept(door: Door, acceptors: Acceptors, handshakes: Option<Arc<Handshakes>>) {
    let Acceptors {
        directory,
        shards,
        settings,
    } = acceptors;
    let mut reserve = File::open("/dev/null").ok();
    let mut is_paused = false;
    let mut next: ShardId = 0;
    loop {
        match door.socket.accept().await {
            Ok((stream, peer)) => {
                is_paused = false;
                // Those of the last reload.
                let settings = Arc::clone(&settings.borrow());
                let Some(listener) = settings.listener_at(&door.endpoint) else {
                    continue;
                };
                if let Some(limit) = door.full(listener, &directory, settings.connections_max) {
                    directory.count_turned_away();
                    tracing::info!("Connection from {peer} refused: {limit} is reached.");
                    continue;
                }
                if settings.log.connection_messages {
                    door.log_accepted(&peer);
                }
                next = (next + 1) % shards;
                let socket = Handover {
                    stream,
                    peer,
                    listener: Arc::clone(listener),
                    identity: None,
                    counted: directory.count(&door.connections),
                    is_opened: false,
                };
                let seconds = u64::from(settings.connect_timeout_seconds);
                match (&door.tls, &handshakes) {
                    (None, _) => {
                        let unread = Vec::new();
                        directory.send(next, Order::Serve { socket, unread });
                    }
                    (Some(tls), Some(handshakes)) => {
                        let patience = Duration::from_secs(seconds);
                        handshakes.begin(socket, tls, patience, &directory, next);
                    }
                    // Never in plain: the socket closes here.
                    (Some(_), None) => drop(socket),
                }
            }
            Err(error) if is_out_of_descriptors(&error) => {
                if !is_paused {
                    tracing::warn!("No file descriptor is left ({error}); accepting pauses.");
                    is_paused = true;
                }
                drop(reserve.take());
                refuse_those_who_wait(&door.socket).await;
                reserve = File::open("/dev/null").ok();
                tokio::time::sleep(PAUSE).await;
            }
            // The peer was quicker than we were.
            Err(error) => tracing::debug!("Accepting failed: {error}"),
        }
    }
}

impl Door {
    fn log_accepted(&self, peer: &Peer) {
        match self.port {
            Some(port) => {
                tracing::info!(target: NOTICE, "New connection from {peer} on port {port}.");
            }
            None => tracing::info!(target: NOTICE, "New connection from {peer}."),
        }
    }

    pub fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// The name of the bound that leaves no room for one more.
    fn full(
        &self,
        listener: &ListenerSettings,
        directory: &Directory,
        connections_max: u64,
    ) -> Option<&'static str> {
        let open = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let own = listener.connections_max;
        if connections_max > 0 && open(&directory.connections) >= connections_max {
            Some("connections_max")
        } else if own.is_some_and(|own| open(&self.connections) >= own) {
            Some("connections_max of its listener")
        } else {
            None
        }
    }
}

impl ListeningSocket {
    fn port(&self) -> Option<u16> {
        match self {
            Self::Tcp(socket) => socket.local_addr().ok().map(|address| address.port()),
            Self::Unix { .. } => None,
        }
    }

    async fn accept(&self) -> io::Result<(Detached, Peer)> {
        match self {
            Self::Tcp(socket) => {
                let (stream, peer) = socket.accept().await?;
                Ok((tcp::accepted(stream)?, Peer::Address(peer)))
            }
            Self::Unix { socket, path, .. } => {
                let (stream, _) = socket.accept().await?;
                Ok((unix::accepted(stream)?, Peer::Path(Arc::clone(path))))
            }
        }
    }
}

/// Accepts and closes, one after the other. Polled once each, so nobody is waited for.
async fn refuse_those_who_wait(socket: &ListeningSocket) {
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

const PAUSE: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::TlsSettings;

    #[test]
    fn tls_without_a_certificate_is_refused_and_not_served_in_plain() {
        let listener = ListenerSettings {
            tls: Some(TlsSettings::default()),
            ..ListenerSettings::default()
        };
        assert!(tls::Current::load(&listener).is_err());
        let plain = ListenerSettings::default();
        assert!(tls::Current::load(&plain).is_ok_and(|loaded| loaded.is_none()));
    }
}
