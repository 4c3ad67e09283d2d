//! Accepts connections and spreads them over the workers.
//!
//! One acceptor for each listening socket, on the main thread. Where the process has no descriptor left, accepting pauses;
//! one descriptor is kept in reserve, so that the client that waits is told by a close instead of hanging (D19).

pub mod tls;

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};

use crate::identity::ShardId;
use crate::logging::NOTICE;
use crate::settings::{Endpoint, ListenerProtocol, ListenerSettings, Settings};
use crate::transport::unix::SocketFile;
use crate::transport::{Detached, Peer, tcp, unix};
use crate::worker::{Directory, Handover, Order};

use tls::Handshakes;

/// A listening socket.
pub struct Door {
    socket: ListeningSocket,
    /// `None`: a Unix socket.
    port: Option<u16>,
    listener: Arc<ListenerSettings>,
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
        _file: SocketFile,
    },
}

/// Opens every endpoint of a listener, and says so.
pub fn open(listener: &Arc<ListenerSettings>) -> Result<Vec<Door>, (Endpoint, io::Error)> {
    let connections = Arc::default();
    let secure = tls::Current::load(listener)
        .map(|loaded| loaded.map(Arc::new))
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error));
    let open_one = |endpoint: &Endpoint| {
        check_is_served(listener)?;
        let tls = match &secure {
            Ok(tls) => tls.clone(),
            Err(error) => return Err(io::Error::new(error.kind(), error.to_string())),
        };
        let socket = open_socket(endpoint, listener)?;
        Ok(Door {
            port: socket.port(),
            socket,
            listener: Arc::clone(listener),
            connections: Arc::clone(&connections),
            tls,
        })
    };
    let opened = listener
        .endpoints
        .iter()
        .map(|endpoint| open_one(endpoint).map_err(|error: io::Error| (endpoint.clone(), error)));
    opened.collect()
}

/// What is asked for and cannot be had is refused: nobody may speak in plain who was promised more.
fn check_is_served(listener: &ListenerSettings) -> io::Result<()> {
    let missing = if listener.tls.is_some() && listener.proxy_protocol.is_some() {
        "a listener has either TLS or a PROXY header before it; the proxy in front speaks TLS"
    } else if listener.protocol == ListenerProtocol::HttpApi {
        "http_api is not served by this version; leave the listener out"
    } else {
        return Ok(());
    };
    Err(io::Error::new(io::ErrorKind::Unsupported, missing))
}

fn open_socket(endpoint: &Endpoint, listener: &ListenerSettings) -> io::Result<ListeningSocket> {
    let kind = match listener.protocol {
        ListenerProtocol::WebSocket => "websockets ",
        _ => "",
    };
    match endpoint {
        Endpoint::Tcp(address) => {
            let socket = tcp::bind(*address, listener.bind_interface.as_deref())?;
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
            let (socket, file) = unix::bind(path)?;
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

/// Of a path, what may stand in the log.
fn name_of_clients(path: &Path) -> Arc<str> {
    let path = path.to_string_lossy();
    path.escape_debug().collect::<String>().into()
}

/// Accepts for ever.
pub async fn accept(
    door: Door,
    directory: Arc<Directory>,
    shards: ShardId,
    settings: Arc<Settings>,
    handshakes: Option<Arc<Handshakes>>,
) {
    let connections_max = settings.connections_max;
    let patience = Duration::from_secs(u64::from(settings.connect_timeout_seconds));
    let mut reserve = File::open("/dev/null").ok();
    let mut is_paused = false;
    let mut next: ShardId = 0;
    loop {
        match door.socket.accept().await {
            Ok((stream, peer)) => {
                is_paused = false;
                if let Some(limit) = door.full(&directory, connections_max) {
                    directory.count_turned_away();
                    tracing::info!("Connection from {peer} refused: {limit} is reached.");
                    continue;
                }
                door.log_accepted(&peer);
                next = (next + 1) % shards;
                let socket = Handover {
                    stream,
                    peer,
                    listener: Arc::clone(&door.listener),
                    identity: None,
                    counted: directory.count(&door.connections),
                    is_opened: false,
                };
                if let (Some(tls), Some(handshakes)) = (&door.tls, &handshakes) {
                    handshakes.begin(socket, tls, patience, &directory, next);
                } else {
                    let unread = Vec::new();
                    directory.send(next, Order::Serve { socket, unread });
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
    fn full(&self, directory: &Directory, connections_max: u64) -> Option<&'static str> {
        let open = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let own = self.listener.connections_max;
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

    #[tokio::test]
    async fn tls_is_never_served_in_plain() {
        let listener = ListenerSettings {
            tls: Some(TlsSettings::default()),
            ..ListenerSettings::default()
        };
        let (_, error) = open(&Arc::new(listener)).err().expect("it is refused");
        assert!(error.to_string().starts_with("TLS comes with"), "{error}");
        assert!(open(&Arc::new(ListenerSettings::default())).is_ok());
    }
}
