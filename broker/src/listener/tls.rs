//! TLS for a listener: what it serves with, and the thread that does the handshakes.
//!
//! A handshake is a thousand times the work of a message, and after a power cut all devices come at once. So handshakes have a
//! thread of their own, which the scheduler weighs against the shards, and a shard gets a connection when its bytes are MQTT.
//!
//! **Renewal.** What a listener serves with is one value that takes the place of another at once. Handshakes that are under way go on with what
//! they began with, and are looked at once more with the new one at their end. Behind the exchange everybody who is in is looked at: who has been
//! revoked by list and date, which is cheap, and, only where the authorities are others, by signatures. Whoever is not good any more is marked
//! before the shards are told, so that a connection that is on its way between two shards is found as well.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::thread;
use std::time::Duration;

use jiff::Timestamp;
use nightjar_certs::{Client, Expiry, Files, Kind, Listener, LoadError, MinimumVersion};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use super::watch::{self, Stamps};
use crate::certificates::{Failure, Handshake};
use crate::clock::{self, Clock};
use crate::door_counts::Counted;
use crate::identity::ShardId;
use crate::refusals::Refusals;
use crate::settings::{ListenerSettings, Settings, TlsSettings};
use crate::shard::Throttle;
use crate::transport::tls::{Refused, Rejected, Shaken};
use crate::transport::{Peer, Stream, Transport};
use crate::worker::{Acceptors, Directory, Handover, Order};

/// What a listener serves with at the moment, and who is in by it.
#[derive(Debug)]
pub struct Current {
    /// What the listener is called.
    name: Box<str>,
    now: RwLock<Arc<Listener>>,
    clients: Mutex<Clients>,
    files: Mutex<Watched>,
}

/// Files that were read, to take the place of others.
#[derive(Debug)]
pub struct Next {
    listener: Arc<Listener>,
    files: Files,
    stamps: Stamps,
    watch_seconds: u32,
    warnings: Vec<String>,
    kept: Vec<LoadError>,
}

/// Clients with certificates that are in, or were a moment ago.
#[derive(Debug, Default)]
struct Clients {
    /// Bounded by the connections there may be: what is gone is swept out when it is as many as what is there.
    all: Vec<Weak<Client>>,
    sweep_at: usize,
    /// When it was last said that a certificate is used which another took the place of; no more of them than the file has.
    warned: HashMap<Box<str>, u64>,
}

#[derive(Debug)]
struct Watched {
    files: Files,
    /// As the files were when they were read.
    stamps: Stamps,
    /// Counts what was taken.
    generation: u64,
    watch_seconds: u32,
}

/// Whether all listeners could serve TLS with the files they name; gives what they would be warned of.
pub fn check(settings: &Settings) -> Result<Vec<String>, Vec<String>> {
    let mut warnings = Vec::new();
    let mut errors = Vec::new();
    for listener in &settings.listeners {
        let label = listener.label();
        match Current::prepare(listener, settings, None) {
            Ok(next) => {
                let of_files = next.into_iter().flat_map(|next| next.warnings);
                warnings.extend(of_files.map(|warning| format!("Listener {label}: {warning}.")));
            }
            Err(error) => errors.push(format!("Listener {label}: {error}.")),
        }
    }
    if errors.is_empty() {
        Ok(warnings)
    } else {
        Err(errors)
    }
}

impl Current {
    /// Reads the files of a listener; `None`: it has no TLS. Where it serves already and its files are the same ones, what cannot be used stays
    /// as it was.
    pub fn prepare(
        listener: &ListenerSettings,
        settings: &Settings,
        before: Option<&Self>,
    ) -> Result<Option<Next>, LoadError> {
        let tls = listener.tls.as_ref();
        let Some(tls) = tls.filter(|_| listener.speaks_tls()) else {
            return Ok(None);
        };
        let files = files_of(tls);
        // Before they are read: what changes meanwhile is seen later.
        let stamps = Stamps::of(&files);
        let before = before.filter(|before| before.watched().files.are_those_of(&files));
        let loaded = match before {
            Some(before) => before.get().renew(&files, wall()),
            None => Listener::load(&files),
        }?;
        Ok(Some(Next {
            listener: Arc::new(loaded.listener),
            files,
            stamps,
            watch_seconds: settings.certificate_watch_seconds,
            warnings: loaded.warnings,
            kept: loaded.kept,
        }))
    }

    pub fn new(listener: &ListenerSettings, next: Next) -> Self {
        let current = Self {
            name: listener.label(),
            now: RwLock::new(Arc::clone(&next.listener)),
            clients: Mutex::default(),
            files: Mutex::new(Watched {
                files: next.files.clone(),
                stamps: next.stamps.clone(),
                generation: 0,
                watch_seconds: next.watch_seconds,
            }),
        };
        current.say(&next);
        current
    }

    /// Serves with these from here on, and marks who is not good by list and date. `since`: only where nothing else was taken since then.
    /// True: the authorities are others, and everybody is to be looked at by signatures.
    pub fn take(&self, next: Next, since: Option<u64>, acceptors: &Acceptors) -> bool {
        let old = {
            let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
            if since.is_some_and(|since| since != files.generation) {
                return false;
            }
            files.generation += 1;
            files.files = next.files.clone();
            files.stamps = next.stamps.clone();
            files.watch_seconds = next.watch_seconds;
            let mut now = self.now.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *now, Arc::clone(&next.listener))
        };
        self.say(&next);
        let tally = &acceptors.directory.certificates;
        if !next.kept.is_empty() {
            tally.kept.fetch_add(1, Ordering::Relaxed);
        }
        self.note_ends(acceptors);
        self.look_at_everybody(acceptors);
        !next.listener.has_authorities_of(&old)
    }

    pub(super) fn get(&self) -> Arc<Listener> {
        Arc::clone(&self.now.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The files as they were read last, and what counts as one reading.
    pub(super) fn reading(&self) -> (Files, Stamps, u64, u32) {
        let watched = self.watched();
        (
            watched.files.clone(),
            watched.stamps.clone(),
            watched.generation,
            watched.watch_seconds,
        )
    }

    /// Reads the files again because they have changed.
    pub(super) fn read_again(&self, files: Files, stamps: Stamps) -> Result<Next, LoadError> {
        let watch_seconds = self.watched().watch_seconds;
        let loaded = self.get().renew(&files, wall())?;
        Ok(Next {
            listener: Arc::new(loaded.listener),
            files,
            stamps,
            watch_seconds,
            warnings: loaded.warnings,
            kept: loaded.kept,
        })
    }

    /// These files could not be used; the next look is for others.
    pub(super) fn give_up(&self, stamps: Stamps, error: &LoadError) {
        tracing::error!("Listener {}: {error}. What it had stays in use.", self.name);
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.stamps = stamps;
    }

    fn watched(&self) -> MutexGuard<'_, Watched> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, next: &Next) {
        if let Some(file) = &next.files.key_log_file {
            tracing::warn!(
                "The secrets of TLS connections are written to {}: whoever has it can read what is sent.",
                file.display()
            );
        }
        for warning in &next.warnings {
            tracing::warn!("Listener {}: {warning}.", self.name);
        }
        for error in &next.kept {
            tracing::error!(
                "Listener {}: {error}. The one before stays in use.",
                self.name
            );
        }
        for expiry in next.listener.expiries() {
            say_end(&self.name, expiry, clock::wall() / 1000);
        }
    }

    /// What ends within a month, said again.
    pub(super) fn warn_of_ends(&self, now: u64) {
        for expiry in self.get().expiries() {
            if expiry.not_after < now.saturating_add(SOON_SECONDS) {
                say_end(&self.name, expiry, now);
            }
        }
    }

    fn note_ends(&self, acceptors: &Acceptors) {
        let listener = self.get();
        let ends: Vec<(Kind, u64)> = listener
            .expiries()
            .map(|expiry| (expiry.what, expiry.not_after))
            .collect();
        let tally = &acceptors.directory.certificates;
        tally.note_ends(&self.name, &ends);
    }

    /// Marks those who are in and whose certificates are good no more by list or date, and has the shards part with them.
    pub(super) fn look_at_everybody(&self, acceptors: &Acceptors) {
        let (listener, now) = (self.get(), wall());
        let mut void = 0;
        for client in self.everybody() {
            if let Some(why) = listener.why_void(&client, now) {
                client.make_void(why);
                void += 1;
            }
        }
        self.part_with_void(void, acceptors);
    }

    /// The same for those whose chains lead to nobody any more who is trusted.
    pub(super) fn look_at_signatures(&self, acceptors: &Acceptors) {
        let (listener, now) = (self.get(), wall());
        for some in self.everybody().chunks(CHECKED_AT_ONCE) {
            let mut void = 0;
            for client in some {
                if let Some(why) = listener.why_untrusted(client, now) {
                    client.make_void(why);
                    void += 1;
                }
            }
            self.part_with_void(void, acceptors);
        }
    }

    /// Who is in and was not parted with yet.
    fn everybody(&self) -> Vec<Arc<Client>> {
        let clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let all = clients.all.iter().filter_map(Weak::upgrade);
        all.filter(|client| client.why_void().is_none()).collect()
    }

    fn part_with_void(&self, void: usize, acceptors: &Acceptors) {
        if void == 0 {
            return;
        }
        tracing::info!(
            "Listener {}: {void} connections end, their certificates are not good any more.",
            self.name
        );
        for shard in 0..acceptors.shards {
            acceptors.directory.send(shard, Order::PartWithVoid);
        }
    }

    /// A handshake is over. What was begun with other files is looked at with those of now; from here on the client is known.
    fn admit(
        &self,
        client: Option<&Arc<Client>>,
        began_with: &Arc<Listener>,
        peer: &Peer,
        directory: &Directory,
    ) -> Result<(), String> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let listener = self.get();
        let now = wall();
        let Some(client) = client else {
            let is_missing = listener.requires_certificate() && !began_with.requires_certificate();
            return if is_missing {
                Err("there is none, and certificates are required from now on".into())
            } else {
                Ok(())
            };
        };
        if !Arc::ptr_eq(&listener, began_with) {
            let why = listener.why_void(client, now);
            if let Some(why) = why.or_else(|| listener.why_untrusted(client, now)) {
                return Err(why.to_string());
            }
        }
        clients.add(client);
        if let Some(until) = listener.replaced_until(client) {
            directory
                .certificates
                .replaced_used
                .fetch_add(1, Ordering::Relaxed);
            clients.warn_of_replaced(client, until, now.as_secs(), peer);
        }
        Ok(())
    }
}

impl Clients {
    fn add(&mut self, client: &Arc<Client>) {
        if self.all.len() >= self.sweep_at {
            self.all.retain(|known| known.strong_count() > 0);
            self.sweep_at = (self.all.len() * 2).max(1024);
        }
        self.all.push(Arc::downgrade(client));
    }

    fn warn_of_replaced(&mut self, client: &Client, until: u64, now: u64, peer: &Peer) {
        let identity = client.identity();
        let last = self.warned.get(&identity.serial);
        if last.is_some_and(|last| now < last.saturating_add(WARN_AGAIN_SECONDS)) {
            return;
        }
        self.warned.insert(identity.serial.clone(), now);
        tracing::warn!(
            "{peer} ({}) uses certificate {}, which another took the place of; it is let in until {}.",
            identity.subject.escape_debug(),
            identity.serial,
            day(until)
        );
    }
}

fn files_of(tls: &TlsSettings) -> Files {
    Files {
        certificate_file: tls.certificate_file.clone().unwrap_or_default(),
        key_file: tls.key_file.clone().unwrap_or_default(),
        ca_file: tls.ca_file.clone(),
        ca_path: tls.ca_path.clone(),
        crl_file: tls.crl_file.clone(),
        replaced_file: tls.replaced_file.clone(),
        require_certificate: tls.require_certificate,
        ignore_client_dates: tls.disable_client_certificate_date_checks,
        minimum_version: match tls.version.as_deref() {
            Some("tlsv1.3") => MinimumVersion::Tls13,
            _ => MinimumVersion::Tls12,
        },
        ciphers: tls.ciphers.as_deref().map(Into::into),
        ciphers_tls_1_3: tls.ciphers_tls_1_3.as_deref().map(Into::into),
        prefer_aes: tls.prefer_aes,
        session_tickets: tls.session_tickets,
        session_cache_max: usize::try_from(tls.session_cache_max).unwrap_or(usize::MAX),
        key_log_file: tls.key_log_file.clone(),
    }
}

/// One line of each file: when what is in it ends. `now`: seconds since 1970.
fn say_end(listener: &str, expiry: &Expiry, now: u64) {
    let Expiry {
        what,
        path,
        not_before,
        not_after,
    } = expiry;
    let what = match what {
        Kind::Server => "the server's certificate",
        Kind::Authority => "an authority's certificate",
        Kind::RevocationList => "the list of revoked certificates",
    };
    let path = path.display();
    if *not_after < now {
        let end = day(*not_after);
        tracing::error!("Listener {listener}: {what} {path} has ended on {end}.");
    } else if now < *not_before {
        let begin = day(*not_before);
        tracing::warn!("Listener {listener}: {what} {path} is not valid before {begin}.");
    } else if *not_after == u64::MAX {
        tracing::debug!("Listener {listener}: {what} {path} has no end.");
    } else {
        let (end, days) = (day(*not_after), (not_after - now) / DAY_SECONDS);
        if not_after - now < SOON_SECONDS {
            tracing::warn!("Listener {listener}: {what} {path} ends on {end}, in {days} days.");
        } else {
            tracing::info!("Listener {listener}: {what} {path} ends on {end}, in {days} days.");
        }
    }
}

fn day(seconds: u64) -> String {
    let moment = i64::try_from(seconds).ok();
    let moment = moment.and_then(|seconds| Timestamp::from_second(seconds).ok());
    moment.map_or_else(|| "never".into(), |moment| moment.to_string())
}

fn wall() -> Duration {
    Duration::from_millis(clock::wall())
}

/// The thread that does handshakes, and watches the files. It ends when this is dropped.
#[derive(Debug)]
pub struct Handshakes {
    runtime: Handle,
    refusals: Arc<Refusals>,
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
            refusals: Arc::new(Refusals::new(
                Clock::start(),
                Throttle::new(REFUSALS_SAID_MAX),
            )),
            _end: end,
        })
    }

    /// Looks at the files of a listener from here on, for as long as it is there.
    pub fn watch(&self, current: &Arc<Current>, acceptors: &Acceptors) {
        current.note_ends(acceptors);
        let watching = watch::watch(
            Arc::downgrade(current),
            current.name().into(),
            acceptors.clone(),
        );
        self.runtime.spawn(watching);
    }

    /// Takes other files for a listener that serves.
    pub fn renew(&self, current: &Arc<Current>, next: Next, acceptors: &Acceptors) {
        if current.take(next, None, acceptors) {
            let (current, acceptors) = (Arc::clone(current), acceptors.clone());
            self.runtime
                .spawn_blocking(move || current.look_at_signatures(&acceptors));
        }
    }

    /// Makes the handshake, and gives the connection to a shard if that goes well.
    pub fn begin(
        &self,
        socket: Handover,
        current: &Arc<Current>,
        directory: &Arc<Directory>,
        shard: ShardId,
    ) {
        let current = Arc::clone(current);
        let directory = Arc::clone(directory);
        let refusals = Arc::clone(&self.refusals);
        self.runtime.spawn(async move {
            let peer = socket.peer.clone();
            let tls = socket.listener.tls.as_ref();
            let seconds = tls.map_or(1, |tls| tls.handshake_timeout_seconds.max(1));
            let patience = Duration::from_secs(u64::from(seconds));
            let began_with = current.get();
            let shaking = shake(socket, &began_with);
            let shaken = tokio::time::timeout(patience, shaking).await;
            let admitted = shaken.map(|shaken| {
                let (socket, how) = shaken?;
                current
                    .admit(socket.client.as_ref(), &began_with, &peer, &directory)
                    .map_err(|why| TurnedAway::from(Refused::Certificate(why)))?;
                Ok((socket, how))
            });
            let tally = &directory.certificates;
            let (refused, parting) = match admitted {
                Ok(Ok((socket, how))) => {
                    tally.count(Handshake::new(how.is_1_3, how.was_resumed));
                    let unread = Vec::new();
                    directory.send(shard, Order::Serve { socket, unread });
                    return;
                }
                Ok(Err((refused, parting))) => (Some(refused), parting),
                Err(_) => (None, None),
            };
            tally.count_failure(match &refused {
                Some(Refused::Gone) => Failure::Gone,
                Some(Refused::Handshake(_)) => Failure::Handshake,
                Some(Refused::InHandshake(_) | Refused::Certificate(_)) => Failure::Certificate,
                None => Failure::Timeout,
            });
            let reason = match refused {
                Some(Refused::Gone) => None,
                Some(Refused::Handshake(reason) | Refused::InHandshake(reason)) => {
                    Some(format!("rejected, the TLS handshake failed: {reason}"))
                }
                Some(Refused::Certificate(reason)) => Some(format!(
                    "rejected, its certificate is not accepted: {reason}"
                )),
                None => Some(format!("closed: no TLS handshake in {seconds} s")),
            };
            let said = async {
                match reason {
                    Some(reason) => {
                        let line = format!("Connection from {peer} {reason}.");
                        refusals.say(&peer, line).await;
                    }
                    None => {
                        tracing::debug!("Connection from {peer} closed in the TLS handshake.");
                    }
                }
            };
            let parted = async {
                if let Some(Parting { below, _counted }) = parting {
                    Rejected::part(below).await;
                }
            };
            tokio::join!(said, parted);
        });
    }
}

/// Why, and the rest of its connection.
type TurnedAway = (Refused, Option<Parting>);

/// A connection that has heard why it ends, or is about to.
struct Parting {
    below: Option<Box<Stream>>,
    /// It counts for as long as it has a socket.
    _counted: Counted,
}

impl From<Refused> for TurnedAway {
    fn from(why: Refused) -> Self {
        (why, None)
    }
}

/// Makes the handshake, where there is one to be made, on the thread of whoever calls, for somebody who does not stay.
pub(crate) async fn secure(
    transport: Transport,
    current: Option<&Current>,
) -> Result<(Transport, Option<Client>), Refused> {
    let Some(current) = current else {
        return Ok((transport, None));
    };
    let listener = current.get();
    match transport.secure(&listener, None, wall).await {
        Ok((transport, _, client)) => Ok((transport, client)),
        Err(rejected) => {
            let (why, below) = rejected.split();
            Rejected::part(below).await;
            Err(why)
        }
    }
}

async fn shake(socket: Handover, listener: &Listener) -> Result<(Handover, Shaken), TurnedAway> {
    let transport = socket.stream.attach().map_err(|_| Refused::Gone)?;
    let tls = socket.listener.tls.as_ref();
    let record_size = tls.and_then(|tls| tls.record_size).map(usize::from);
    let (transport, how, client) = match transport.secure(listener, record_size, wall).await {
        Ok(secured) => secured,
        Err(rejected) => {
            let (why, below) = rejected.split();
            let parting = Parting {
                below,
                _counted: socket.counted,
            };
            return Err((why, Some(parting)));
        }
    };
    let socket = Handover {
        stream: transport.detach().map_err(|_| Refused::Gone)?,
        client: client.map(Arc::new),
        ..socket
    };
    Ok((socket, how))
}

const DAY_SECONDS: u64 = 86_400;
/// What ends sooner is a warning.
const SOON_SECONDS: u64 = 30 * DAY_SECONDS;
/// A device that comes back all the time is warned of once in a while.
const WARN_AGAIN_SECONDS: u64 = 3_600;
/// Lines about one source in ten seconds: devices behind one address may all be refused at once, each with its own reason.
const REFUSALS_SAID_MAX: u32 = 200;
/// Chains whose signatures are checked before those that fail are parted with: a few thousandths of a second.
const CHECKED_AT_ONCE: usize = 256;
