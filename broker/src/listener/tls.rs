//! TLS for a listener: its files, and the thread that does the handshakes.
//!
//! A handshake is a thousand times the work of a message, and after a power cut all devices come at once. So handshakes have a
//! thread of their own, which the scheduler weighs against the shards, and a shard gets a connection when its bytes are MQTT.

use std::io;
use std::sync::{Arc, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use nightjar_certs::{Files, Identity, Listener, LoadError, MinimumVersion};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::clock;
use crate::identity::ShardId;
use crate::settings::{ListenerSettings, TlsSettings};
use crate::transport::Transport;
use crate::transport::tls::Refused;
use crate::worker::{Directory, Handover, Order};

/// What a listener serves with at the moment; a reload puts another in its place.
#[derive(Debug)]
pub struct Current(RwLock<Arc<Listener>>);

impl Current {
    /// Reads the files of a listener; `None`: it has no TLS.
    pub fn load(listener: &ListenerSettings) -> Result<Option<Self>, LoadError> {
        let Some(settings) = &listener.tls else {
            return Ok(None);
        };
        Ok(Some(Self(RwLock::new(Arc::new(load(settings)?)))))
    }

    /// Goes on with what another has loaded.
    pub fn replace_by(&self, other: &Self) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = other.get();
    }

    fn get(&self) -> Arc<Listener> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn load(settings: &TlsSettings) -> Result<Listener, LoadError> {
    let files = Files {
        certificate_file: settings.certificate_file.clone().unwrap_or_default(),
        key_file: settings.key_file.clone().unwrap_or_default(),
        ca_file: settings.ca_file.clone(),
        ca_path: settings.ca_path.clone(),
        crl_file: settings.crl_file.clone(),
        require_certificate: settings.require_certificate,
        minimum_version: match settings.version.as_deref() {
            Some("tlsv1.3") => MinimumVersion::Tls13,
            _ => MinimumVersion::Tls12,
        },
        ciphers: settings.ciphers.as_deref().map(Into::into),
        ciphers_tls_1_3: settings.ciphers_tls_1_3.as_deref().map(Into::into),
        key_log_file: settings.key_log_file.clone(),
    };
    if let Some(file) = &files.key_log_file {
        tracing::warn!(
            "The secrets of TLS connections are written to {}: whoever has it can read what is sent.",
            file.display()
        );
    }
    let loaded = Listener::load(&files)?;
    for warning in loaded.warnings {
        tracing::warn!("{}: {warning}.", files.certificate_file.display());
    }
    Ok(loaded.listener)
}

/// The thread that does handshakes. It ends when this is dropped.
#[derive(Debug)]
pub struct Handshakes {
    runtime: Handle,
    _end: oneshot::Sender<()>,
}

impl Handshakes {
    pub fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel::<()>();
        thread::Builder::new()
            .name("handshakes".into())
            .spawn(move || {
                // An error is the end as well: the sender is gone.
                let _ = runtime.block_on(ended);
            })?;
        Ok(Self {
            runtime: handle,
            _end: end,
        })
    }

    /// Makes the handshake, and gives the connection to a shard if that goes well.
    pub fn begin(
        &self,
        socket: Handover,
        current: &Current,
        patience: Duration,
        directory: &Arc<Directory>,
        shard: ShardId,
    ) {
        let listener = current.get();
        let directory = Arc::clone(directory);
        self.runtime.spawn(async move {
            let peer = socket.peer.clone();
            match tokio::time::timeout(patience, shake(socket, &listener)).await {
                Ok(Ok(socket)) => {
                    let unread = Vec::new();
                    directory.send(shard, Order::Serve { socket, unread });
                }
                Ok(Err(Refused::Gone)) => {
                    tracing::debug!("Connection from {peer} closed in the TLS handshake.");
                }
                Ok(Err(Refused::Handshake(reason))) => {
                    tracing::info!(
                        "Connection from {peer} rejected, the TLS handshake failed: {reason}."
                    );
                }
                Ok(Err(Refused::Certificate(reason))) => {
                    tracing::info!(
                        "Connection from {peer} rejected, its certificate is not accepted: {reason}."
                    );
                }
                Err(_) => {
                    tracing::info!(
                        "Connection from {peer} closed: no TLS handshake in {} s.",
                        patience.as_secs()
                    );
                }
            }
        });
    }
}

/// Makes the handshake, where there is one to be made, on the thread of whoever calls.
pub(crate) async fn secure(
    transport: Transport,
    current: Option<&Current>,
) -> Result<(Transport, Option<Identity>), Refused> {
    let Some(current) = current else {
        return Ok((transport, None));
    };
    let now = Duration::from_millis(clock::wall());
    transport.secure(&current.get(), now).await
}

async fn shake(socket: Handover, listener: &Listener) -> Result<Handover, Refused> {
    let transport = socket.stream.attach().map_err(|_| Refused::Gone)?;
    let now = Duration::from_millis(clock::wall());
    let (transport, identity) = transport.secure(listener, now).await?;
    Ok(Handover {
        stream: transport.detach().map_err(|_| Refused::Gone)?,
        identity: identity.map(Arc::new),
        ..socket
    })
}
