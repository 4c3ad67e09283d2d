//! What comes before MQTT: the PROXY header, then the upgrade to WebSocket.
//!
//! In: a socket as it was accepted. Out: one on which MQTT is spoken, the bytes that were read beyond, and who the client
//! is; or a line for the log that says why not. Whoever calls gives it a time.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use nightjar_certs::{Client, Identity};

use super::proxy::{self, V2_BYTES_MAX};
use super::upgrade::{self, HEAD_BYTES_MAX, Refusal};
use super::websocket::WebSocket;
use super::{Peer, Transport};
use crate::settings::{ListenerProtocol, ListenerSettings};

/// Whether anything comes before MQTT on this listener.
pub(crate) fn is_needed(listener: &ListenerSettings) -> bool {
    listener.proxy_protocol.is_some() || listener.protocol == ListenerProtocol::WebSocket
}

/// Why a connection does not come to MQTT.
pub(crate) enum Refused {
    /// Not an address of `proxy_networks`.
    NotAProxy,
    CorruptHeader,
    WithoutTls(Peer),
    /// No certificate of the client, or one that is no name.
    Certificate(Peer, String),
    Upgrade(Refusal, Box<Transport>),
    /// The client left.
    Gone,
}

/// An open connection.
pub(crate) struct Opened {
    pub(crate) transport: Transport,
    pub(crate) peer: Peer,
    /// Bytes of MQTT, or of frames already given to the WebSocket.
    pub(crate) unread: Vec<u8>,
    /// Who the client is by a certificate that a proxy has verified.
    pub(crate) client: Option<Arc<Client>>,
}

/// Reads what comes first, and answers it.
pub(crate) async fn open(
    mut transport: Transport,
    mut peer: Peer,
    listener: &ListenerSettings,
    frame_bytes_max: u64,
) -> Result<Opened, Refused> {
    let trusted = &listener.proxy_networks;
    let is_trusted = |peer: &Peer| {
        peer.ip()
            .is_none_or(|ip| trusted.iter().any(|network| network.contains(ip)))
    };
    let socket_peer = peer.clone();
    let mut bytes = Vec::new();
    let mut client = None;
    if let Some(version) = listener.proxy_protocol {
        if !trusted.is_empty() && !is_trusted(&peer) {
            return Err(Refused::NotAProxy);
        }
        let told = loop {
            match proxy::read(version, &bytes) {
                Ok(Some(told)) => break told,
                Ok(None) => read_more(&mut transport, &mut bytes, V2_BYTES_MAX).await?,
                Err(proxy::Corrupt) => return Err(Refused::CorruptHeader),
            }
        };
        bytes.drain(..told.length);
        if let Some(client) = told.client {
            peer = Peer::Address(client);
        }
        if listener.proxy_requires_tls && !told.used_tls {
            return Err(Refused::WithoutTls(peer));
        }
        match certified(listener, &told) {
            Ok(certified) => client = certified.map(Arc::new),
            Err(reason) => return Err(Refused::Certificate(peer, reason)),
        }
    }
    if listener.protocol != ListenerProtocol::WebSocket {
        return Ok(Opened {
            transport,
            peer,
            unread: bytes,
            client,
        });
    }
    let upgrade = loop {
        match upgrade::read(&bytes, &listener.websocket_origins, trusted) {
            Ok(Some(upgrade)) => break upgrade,
            Ok(None) => read_more(&mut transport, &mut bytes, HEAD_BYTES_MAX).await?,
            Err(refusal) => {
                // A peer that does not take the answer does not get it.
                let _ = transport
                    .stream
                    .write_all(refusal.answer().as_bytes())
                    .await;
                return Err(Refused::Upgrade(refusal, Box::new(transport)));
            }
        }
    };
    transport
        .stream
        .write_all(upgrade.answer.as_bytes())
        .await?;
    bytes.drain(..upgrade.length);
    // Only what a proxy says that we were told to trust.
    if let Some(client) = upgrade.forwarded_for
        && !trusted.is_empty()
        && is_trusted(&socket_peer)
    {
        let port = match peer {
            Peer::Address(address) => address.port(),
            Peer::Path(_) => 0,
        };
        peer = Peer::Address(SocketAddr::new(client, port));
    }
    transport.web = Some(Box::new(WebSocket::new(frame_bytes_max, bytes)));
    Ok(Opened {
        transport,
        peer,
        unread: Vec::new(),
        client,
    })
}

/// Who the client is by the certificate that it showed to the proxy.
fn certified(listener: &ListenerSettings, told: &proxy::Told) -> Result<Option<Client>, String> {
    let Some(tls) = &listener.tls else {
        return Ok(None);
    };
    if tls.require_certificate && !told.has_certificate {
        return Err("the proxy has verified none".into());
    }
    let Some(name) = &told.common_name else {
        return Ok(None);
    };
    let identity = Identity::by_proxy(name).map_err(|fault| fault.to_string())?;
    // How long it is valid is the proxy's affair.
    Ok(Some(Client::named(identity, u64::MAX)))
}

async fn read_more(
    transport: &mut Transport,
    bytes: &mut Vec<u8>,
    bytes_max: usize,
) -> Result<(), Refused> {
    let known = bytes.len();
    let room = bytes_max.saturating_sub(known).clamp(1, READ_BYTES);
    bytes.resize(known + room, 0);
    let place = bytes.get_mut(known..).unwrap_or_default();
    let count = transport.stream.read(place).await?;
    bytes.truncate(known + count);
    if count == 0 {
        Err(Refused::Gone)
    } else {
        Ok(())
    }
}

impl From<io::Error> for Refused {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

impl Refused {
    /// The line for the log, in Mosquitto's words where it has some.
    pub(crate) fn line(&self, peer: &Peer) -> impl fmt::Display {
        match self {
            Self::NotAProxy => {
                format!("Connection from {peer} rejected, its address is not in proxy_networks.")
            }
            Self::CorruptHeader => {
                format!("Connection rejected, corrupt PROXY header. It came from {peer}.")
            }
            Self::WithoutTls(client) => {
                format!("Connection from {client} rejected, client did not connect using TLS.")
            }
            Self::Certificate(client, reason) => format!(
                "Connection from {client} rejected, its certificate is not accepted: {reason}."
            ),
            Self::Upgrade(refusal, _) => {
                format!("Connection from {peer} rejected, {}.", refusal.reason())
            }
            Self::Gone => format!("Connection from {peer} closed before it came to MQTT."),
        }
    }
}

const READ_BYTES: usize = 2048;
