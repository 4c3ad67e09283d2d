//! From settings to a broker that runs, and from a signal to one that has stopped.

use std::fmt;
use std::io;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use nightjar_storage::{Checkpoint, Journal, JournalStatus, RedbEngine, StorageError};

use crate::auth::backoff::Backoff;
use crate::auth::pool::Pool;
use crate::auth::scram::ScramSha512;
use crate::auth::{Auth, LoadError, Passwords};
use crate::authorization::{self, Authorization};
use crate::clock::Clock;
use crate::data;
use crate::exchange::Exchange;
use crate::health::Health;
use crate::http::{self, HttpServer, Pages, Rooms};
use crate::identity::ShardId;
use crate::listener::{self, tls::Handshakes};
use crate::metrics::Metrics;
use crate::session::authenticate::{ChallengeMethod, Method, Methods};
use crate::settings::{Endpoint, Settings};
use crate::shard::{PostOffice, Shared, restore_groups_and_retained};
use crate::store::socket::SnapshotSocket;
use crate::sys_topics::SysTopics;
use crate::worker::{self, Directory, Order};

/// Why the broker could not start or go on.
#[derive(Debug)]
#[non_exhaustive]
pub enum ServerError {
    /// An address could not be listened on.
    Listen {
        endpoint: Endpoint,
        error: io::Error,
    },
    /// The runtime or a thread could not be made.
    Start(io::Error),
    /// Password files could not be used.
    Passwords(Vec<LoadError>),
    /// What is kept could not be opened or read.
    Store(StorageError),
    /// A file of rules cannot be used.
    Rules(Vec<nightjar_acl::Error>),
}

/// Serves until SIGTERM or SIGINT.
pub fn run(settings: Settings) -> Result<(), ServerError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ServerError::Start)?;
    raise_descriptor_limit();
    runtime.block_on(serve(Arc::new(settings)))
}

async fn serve(settings: Arc<Settings>) -> Result<(), ServerError> {
    let passwords = Passwords::load(&settings).map_err(ServerError::Passwords)?;
    let rules_in_force = Authorization::load(&settings).map_err(ServerError::Rules)?;
    for rules in rules_in_force.files() {
        for warning in rules.warnings() {
            tracing::warn!("{} ({}, line {})", warning.text, rules.file(), warning.line);
        }
    }
    let mut doors = Vec::new();
    for listener in &settings.listeners {
        let opened = listener::open(listener);
        doors.extend(opened.map_err(|(endpoint, error)| ServerError::Listen { endpoint, error })?);
    }
    let http =
        http::bind(settings.http_listener).map_err(|(address, error)| ServerError::Listen {
            endpoint: Endpoint::Tcp(address),
            error,
        })?;
    let health = Arc::new(Health::default());
    let pages = Arc::new(Pages::new(Arc::clone(&health)));
    let shards = shard_count(&settings);
    // From here on there are other threads, and the process is who it will be.
    let http = http
        .map(|socket| HttpServer::start(socket, Arc::clone(&pages)))
        .transpose()
        .map_err(ServerError::Start)?;
    let store = data::open(&settings, shards).map_err(ServerError::Store)?;
    let backups = store
        .as_ref()
        .and_then(|store| open_backups(store, &settings));
    let mut terminate = signal(SignalKind::terminate()).map_err(ServerError::Start)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServerError::Start)?;

    let (directory, doorways) = Directory::new(shards);
    let directory = Arc::new(directory);
    let hash_seed = random_seed().map_err(ServerError::Start)?;
    let shared = Shared {
        exchange: Arc::new(Exchange::new(&settings, shards, hash_seed)),
        post: Arc::new(PostOffice::new(shards, settings.mail_bytes_max)),
        methods: methods(),
        auth: Auth {
            passwords,
            verifier: Arc::new(password_pool(&settings, &directory)),
            backoff: Arc::new(Backoff::new(hash_seed, settings.auth_failures_max)),
        },
        authorization: Arc::new(rules_in_force),
        journal: store.clone().map(|store| store as Arc<dyn Journal>),
        hash_seed,
        client_id_seed: random_bytes().map_err(ServerError::Start)?,
        settings: Arc::clone(&settings),
    };
    let clock = Clock::resume(store.as_ref().and_then(|store| store.clock()));
    if let Some(store) = &store {
        restore_groups_and_retained(&shared, &**store, clock.now()).map_err(ServerError::Store)?;
        let directory = Arc::clone(&directory);
        data::watch(store, move || directory.journal_moved());
    }
    let (ready, mut all_ready) = mpsc::unbounded_channel();
    let restored = Arc::new(Barrier::new(usize::from(shards)));
    let mut threads = Vec::new();
    for (id, doorway) in (0..shards).zip(doorways) {
        let start = worker::Start {
            runtime: worker::runtime().map_err(ServerError::Start)?,
            id,
            shared: shared.clone(),
            clock,
            directory: Arc::clone(&directory),
            doorway,
            checkpoint: store.clone().map(|store| store as Arc<dyn Checkpoint>),
            ready: ready.clone(),
            restored: Arc::clone(&restored),
            panic_topic: test_hook("NIGHTJAR_TEST_PANIC_TOPIC").map(Into::into),
        };
        let thread = thread::Builder::new()
            .name(format!("shard-{id}"))
            .spawn(move || worker::run(start));
        threads.push(thread.map_err(ServerError::Start)?);
    }
    drop(ready);
    // Nobody is let in before everything is back in its place.
    while let Some(restored) = all_ready.recv().await {
        restored.map_err(ServerError::Store)?;
    }
    let metrics = Arc::new(Metrics::new(
        Arc::clone(&directory),
        Arc::clone(&shared.exchange),
        store.as_ref(),
        clock,
        shards,
    ));
    let sys_topics = Arc::new(SysTopics::new(Arc::clone(&metrics), Arc::clone(&directory)));
    if settings.sys_interval_seconds > 0 {
        sys_topics.publish_changed().await;
    }
    // Ends with the runtime.
    tokio::spawn(Arc::clone(&sys_topics).publish_every(settings.sys_interval_seconds));
    // Set once; nobody else does.
    let _ = pages.rooms.set(Rooms {
        metrics,
        sys_topics,
    });
    let handshakes = doors
        .iter()
        .any(listener::Door::has_tls)
        .then(Handshakes::start)
        .transpose()
        .map_err(ServerError::Start)?
        .map(Arc::new);
    let mut accepting = JoinSet::new();
    for door in doors {
        accepting.spawn(listener::accept(
            door,
            Arc::clone(&directory),
            shards,
            Arc::clone(&settings),
            handshakes.clone(),
        ));
    }
    if let Some(store) = &store {
        health.watch(store);
        // Ends with the runtime.
        tokio::spawn(data::look_after(Arc::clone(store)));
    }
    health.serving();
    tracing::info!("nightjar version {} running", crate::cli::VERSION);

    tokio::select! {
        _ = terminate.recv() => tracing::info!("Shutting down (SIGTERM)."),
        _ = interrupt.recv() => tracing::info!("Shutting down (SIGINT)."),
        Some(_) = accepting.join_next() => tracing::error!("Accepting has ended; shutting down."),
    }
    health.stopping();
    // Nobody is let in to a house that is being closed: the ports are free from here on.
    accepting.shutdown().await;
    let patience = Duration::from_secs(u64::from(settings.shutdown_timeout_seconds));
    // A will of one shard's client may be for a client of another, so all are published before anybody has to go.
    let (done, mut all_done) = mpsc::channel::<()>(1);
    for id in 0..shards {
        directory.send(id, Order::PublishWills { done: done.clone() });
    }
    drop(done);
    // Nothing is sent: it ends when the last worker has let go of it.
    if tokio::time::timeout(patience, all_done.recv())
        .await
        .is_err()
    {
        tracing::warn!("Some wills were not published in time.");
    }
    for id in 0..shards {
        directory.send(id, Order::ShutDown { patience });
    }
    for thread in threads {
        // A worker that panicked has said so.
        let _ = thread.join();
    }
    drop(backups);
    if let Some(store) = store {
        finish(&store)?;
    }
    drop(http);
    tracing::info!("nightjar version {} terminating", crate::cli::VERSION);
    Ok(())
}

/// A broker without it still does everything else.
fn open_backups(store: &Arc<RedbEngine>, settings: &Settings) -> Option<SnapshotSocket> {
    let directory = data::directory(settings.data_directory.as_deref()).ok()?;
    SnapshotSocket::open(store, &directory)
        .inspect_err(|error| {
            tracing::warn!("Backups while the broker runs are not possible: {error}.")
        })
        .ok()
}

/// What nobody waited for is on disk before the process ends.
fn finish(store: &RedbEngine) -> Result<(), ServerError> {
    store.flush();
    match store.status() {
        JournalStatus::Failed { reason, .. } => {
            Err(ServerError::Store(StorageError::Failed { reason }))
        }
        JournalStatus::Durable(_) => Ok(()),
    }
}

/// As many as the CPUs this process may use, affinity and cgroup honoured, unless the settings say otherwise.
fn shard_count(settings: &Settings) -> ShardId {
    let count = settings
        .shards
        .unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
    ShardId::try_from(count.clamp(1, SHARDS_MAX)).unwrap_or(1)
}

/// Every connection is a descriptor: take as many as the hard limit allows (D19).
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, raised)
    {
        tracing::warn!(
            "The limit of open files stays at {:?}: {error}",
            limit.current
        );
        return;
    }
    let number = limit
        .maximum
        .map_or_else(|| "unlimited".to_owned(), |maximum| maximum.to_string());
    tracing::debug!("Open files: at most {number}.");
}

fn random_seed() -> io::Result<u64> {
    random_bytes().map(u64::from_le_bytes)
}

fn random_bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(bytes)
}

/// Compares passwords and sends each verdict to the worker that waits for it.
fn password_pool(settings: &Settings, directory: &Arc<Directory>) -> Pool {
    let directory = Arc::downgrade(directory);
    Pool::new(
        settings.auth_threads,
        settings.auth_queue_max,
        move |shard, connection, verdict| {
            if let Some(directory) = directory.upgrade() {
                directory.send(
                    shard,
                    Order::Verified {
                        connection,
                        verdict,
                    },
                );
            }
        },
    )
}

/// SCRAM, where a listener has users; and the test method where a test asks for it.
fn methods() -> Methods {
    let test: Option<Arc<dyn Method>> = test_hook("NIGHTJAR_TEST_AUTH_METHOD")
        .map(|_| Arc::new(ChallengeMethod) as Arc<dyn Method>);
    let scram = Arc::new(ScramSha512) as Arc<dyn Method>;
    std::iter::once(scram).chain(test).collect()
}

/// Hooks for tests are there in debug builds only.
fn test_hook(name: &str) -> Option<String> {
    if cfg!(debug_assertions) {
        std::env::var(name).ok()
    } else {
        None
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen { endpoint, error } => write!(f, "cannot listen on {endpoint}: {error}"),
            Self::Start(error) => write!(f, "cannot start: {error}"),
            Self::Passwords(errors) => {
                let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
                f.write_str(&lines.join("\nError: "))
            }
            Self::Store(error) => error.fmt(f),
            Self::Rules(errors) => authorization::write_errors(errors, f),
        }
    }
}

impl std::error::Error for ServerError {}

const SHARDS_MAX: usize = 256;
