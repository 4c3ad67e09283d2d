//! From settings to a broker that runs, and from a signal to one that has stopped.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use tokio::signal::unix::{self, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

use nightjar_storage::{Checkpoint, Journal, JournalStatus, RedbEngine, StorageError};

use crate::auth::backoff::Backoff;
use crate::auth::pool::Pool;
use crate::auth::scram::ScramSha512;
use crate::auth::{Auth, LoadError, Passwords};
use crate::authorization::{self, Authorization};
use crate::cli::Start;
use crate::clock::Clock;
use crate::data;
use crate::doors::Doors;
use crate::exchange::Exchange;
use crate::health::Health;
use crate::http::{self, HttpServer, Pages, Rooms};
use crate::http_api::Api;
use crate::identity::ShardId;
use crate::listener::Activated;
use crate::logging;
use crate::metrics::Metrics;
use crate::process::{self, Becoming, Notice, PidFile, ProcessError};
use crate::reload::Reloader;
use crate::session::authenticate::{ChallengeMethod, Method, Methods};
use crate::settings::{Endpoint, Settings};
use crate::shard::{PostOffice, Reloaded, Shared, restore_groups_and_retained};
use crate::store::socket::SnapshotSocket;
use crate::sys_topics::SysTopics;
use crate::worker::{self, Acceptors, Directory, Order};

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
    /// The process could not become who it should be.
    Process(ProcessError),
    /// Password files could not be used.
    Passwords(Vec<LoadError>),
    /// What is kept could not be opened or read.
    Store(StorageError),
    /// A file of rules cannot be used.
    Rules(Vec<nightjar_acl::Error>),
}

/// Serves until SIGTERM or SIGINT.
pub fn run(start: Start) -> Result<(), ServerError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ServerError::Start)?;
    raise_descriptor_limit();
    make_room_for_descriptors();
    runtime.block_on(serve(start))
}

async fn serve(start: Start) -> Result<(), ServerError> {
    // First: a signal that comes before it is expected ends the process.
    let mut signals = Signals::new().map_err(ServerError::Start)?;
    let mut settings = start.settings;
    let mut given = Activated::from_environment().map_err(ServerError::Start)?;
    if settings.local_only && !given.is_empty() {
        settings.listen_only_at(given.endpoints());
    }
    let settings = Arc::new(settings);
    let passwords = Passwords::load(&settings).map_err(ServerError::Passwords)?;
    let rules_in_force = Authorization::load(&settings).map_err(ServerError::Rules)?;
    rules_in_force.log_warnings();
    let shards = shard_count(&settings);
    let (directory, doorways) = Directory::new(shards);
    let directory = Arc::new(directory);
    let mut doors = Doors::new();
    let opened = doors
        .prepare(&settings, &mut given, &directory.door_counts)
        .map_err(|(endpoint, error)| ServerError::Listen { endpoint, error })?;
    for endpoint in given.endpoints() {
        tracing::warn!(
            "The service manager's socket {endpoint} belongs to no listener; closing it."
        );
    }
    drop(given);
    let http =
        http::bind(settings.http_listener).map_err(|(address, error)| ServerError::Listen {
            endpoint: Endpoint::Tcp(address),
            error,
        })?;
    let health = Arc::new(Health::default());
    let pages = Arc::new(Pages::new(Arc::clone(&health)));
    let pid_file = settings.process.pid_file.as_deref().map(PidFile::write);
    let pid_file = pid_file.transpose().map_err(ServerError::Process)?;
    match process::becoming(&settings.process.user).map_err(ServerError::Process)? {
        Some(becoming) => {
            logging::give_files_to(becoming.user, becoming.group);
            becoming.become_user().map_err(ServerError::Process)?;
            warn_of_unreadable(&settings, start.config_file.as_deref(), &becoming);
        }
        None => process::warn_of_root(),
    }
    // From here on there are other threads, and the process is who it will be.
    let http = http
        .map(|socket| HttpServer::start(socket, Arc::clone(&pages)))
        .transpose()
        .map_err(ServerError::Start)?;
    let store = data::open(&settings, shards).map_err(ServerError::Store)?;
    let backups = store
        .as_ref()
        .and_then(|store| open_backups(store, &settings));

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
        metrics: Arc::clone(&metrics),
        sys_topics: Arc::clone(&sys_topics),
    });
    let (settings_now, settings_later) = watch::channel(Arc::clone(&settings));
    let (in_force, in_force_later) = watch::channel(Arc::new(Reloaded {
        settings: Arc::clone(&settings),
        passwords: Arc::clone(&shared.auth.passwords),
        authorization: Arc::clone(&shared.authorization),
    }));
    let api = Arc::new(Api::new(
        Arc::clone(&metrics),
        sys_topics,
        in_force_later,
        Arc::clone(&shared.auth.backoff),
        clock,
    ));
    let reloader = Reloader {
        arguments: start.arguments,
        settings: settings_now,
        acceptors: Acceptors {
            directory: Arc::clone(&directory),
            shards,
            settings: settings_later,
        },
        exchange: Arc::clone(&shared.exchange),
        in_force,
        api,
    };
    doors.commit(opened, &reloader.acceptors, &reloader.api);
    if let Some(store) = &store {
        health.watch(store);
        // Ends with the runtime.
        tokio::spawn(data::look_after(Arc::clone(store)));
    }
    health.serving();
    tracing::info!("nightjar version {} running", crate::cli::VERSION);

    process::notify(Notice::Ready);
    if start.daemon {
        process::note_serving_in_background();
    }
    // Both end with the runtime.
    tokio::spawn(publish_log(Arc::clone(&directory)));
    tokio::spawn(feed_watchdog(Arc::clone(&metrics)));

    loop {
        let signal = tokio::select! {
            signal = signals.next() => signal,
            () = doors.ended() => {
                tracing::error!("Accepting has ended; shutting down.");
                break;
            }
        };
        match signal {
            Signal::Stop(name) => {
                tracing::info!("Shutting down ({name}).");
                break;
            }
            Signal::Reload => metrics.note_reload(reload(&reloader, &mut doors)),
            Signal::Save => {
                tokio::spawn(save(Arc::clone(&directory), shards, store.clone()));
            }
            Signal::Describe => {
                for id in 0..shards {
                    directory.send(id, Order::LogSubscriptions);
                }
            }
            Signal::ReopenLog => {
                logging::reopen();
                tracing::info!("Log files are opened anew.");
            }
        }
    }
    let settings = Arc::clone(&reloader.settings.borrow());
    process::notify(Notice::Stopping);
    health.stopping();
    // Nobody is let in to a house that is being closed: the ports are free from here on.
    let patience = Duration::from_secs(u64::from(settings.shutdown_timeout_seconds));
    if tokio::time::timeout(patience, doors.close()).await.is_err() {
        tracing::warn!("Some listening sockets were not closed in time.");
    }
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
    drop(pid_file);
    tracing::info!("nightjar version {} terminating", crate::cli::VERSION);
    Ok(())
}

/// Whether that could be done.
fn reload(reloader: &Reloader, doors: &mut Doors) -> bool {
    process::notify(Notice::Reloading);
    tracing::info!("Reloading config.");
    let result = reloader.reload(doors);
    match &result {
        Ok(()) => {
            tracing::info!("Config reloaded.");
            process::notify(Notice::Reloaded("Config reloaded."));
        }
        Err(error) => {
            // Who rotates the log tells so with this signal, too, and has nothing to do with what is wrong.
            logging::reopen();
            for line in error.to_string().lines() {
                tracing::error!("{line}");
            }
            tracing::error!("The config was not reloaded: everything stays as it was.");
            process::notify(Notice::Reloaded("The config was not reloaded."));
        }
    }
    result.is_ok()
}

/// Everything that is kept is on disk when it has been said.
async fn save(directory: Arc<Directory>, shards: ShardId, store: Option<Arc<RedbEngine>>) {
    let Some(store) = store else {
        tracing::info!("Nothing is saved: persistence is off.");
        return;
    };
    tracing::info!("Saving in-memory database to {}.", store.path());
    let (done, mut all_done) = mpsc::channel::<()>(1);
    for id in 0..shards {
        directory.send(id, Order::Save { done: done.clone() });
    }
    drop(done);
    // Nothing is sent: it ends when the last worker has let go of it.
    let _ = all_done.recv().await;
    let flushed = tokio::task::spawn_blocking(move || finish(&store)).await;
    match flushed {
        Ok(Ok(())) => tracing::info!("Saved."),
        Ok(Err(error)) => tracing::error!("Not saved: {error}."),
        Err(_) => {}
    }
}

/// Brings log lines to `$SYS/broker/log/+`.
async fn publish_log(directory: Arc<Directory>) {
    let Some(lines) = logging::topic_lines() else {
        return;
    };
    loop {
        lines.changed().await;
        let messages = lines.take();
        if !messages.is_empty() {
            directory.send(0, Order::PublishOwn { messages });
        }
        // Publishing may make lines: what that adds up to is bounded by time as well.
        tokio::time::sleep(LOG_PAUSE).await;
    }
}

/// Tells the service manager that the broker is alive, as long as every shard answers.
async fn feed_watchdog(metrics: Arc<Metrics>) {
    let Some(limit) = process::watchdog() else {
        return;
    };
    let mut interval = tokio::time::interval(limit / 3);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        match metrics.report().await.silent_shards {
            0 => process::notify(Notice::Watchdog),
            silent => tracing::warn!(
                "{silent} shards do not answer; the watchdog is not told that all is well."
            ),
        }
    }
}

/// What a signal asks for.
enum Signal {
    Stop(&'static str),
    Reload,
    Save,
    Describe,
    ReopenLog,
}

/// The signals that have a meaning here.
struct Signals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
    reload: unix::Signal,
    save: unix::Signal,
    describe: unix::Signal,
    reopen: unix::Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            reload: signal(SignalKind::hangup())?,
            save: signal(SignalKind::user_defined1())?,
            describe: signal(SignalKind::user_defined2())?,
            reopen: signal(SignalKind::from_raw(process::first_realtime_signal()))?,
        })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::Stop("SIGTERM"),
            _ = self.interrupt.recv() => Signal::Stop("SIGINT"),
            _ = self.reload.recv() => Signal::Reload,
            _ = self.save.recv() => Signal::Save,
            _ = self.describe.recv() => Signal::Describe,
            _ = self.reopen.recv() => Signal::ReopenLog,
        }
    }
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

/// Whoever was root has read everything, and cannot again: better said at the start than when a reload is refused.
fn warn_of_unreadable(settings: &Settings, config_file: Option<&Path>, becoming: &Becoming) {
    let mut files: BTreeSet<&Path> = config_file.into_iter().collect();
    let mut of_tls = BTreeSet::new();
    let listeners = || settings.listeners.iter();
    let security = listeners().filter_map(|listener| listener.security.as_ref());
    for security in security.chain([&settings.security]) {
        files.extend(security.password_file.as_deref());
        files.extend(security.acl_file.as_deref());
    }
    for tls in listeners().filter_map(|listener| listener.tls.as_ref()) {
        let paths = [
            &tls.certificate_file,
            &tls.key_file,
            &tls.ca_file,
            &tls.crl_file,
        ];
        of_tls.extend(paths.into_iter().filter_map(|path| path.as_deref()));
    }
    let is_unreadable = |file: &&&Path| {
        File::open(file).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    };
    let user = becoming.name();
    for file in files.iter().filter(is_unreadable) {
        tracing::warn!(
            "User {user} cannot read {}: every reload will be refused until that is changed, with chown for example.",
            file.display()
        );
    }
    for file in of_tls.iter().filter(is_unreadable) {
        tracing::warn!(
            "User {user} cannot read {}: what is in it now stays in use at every reload, until that is changed, with chown for \
             example.",
            file.display()
        );
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

/// Lets the kernel's table of our descriptors grow while there is one thread only. Later each doubling stops whoever accepts for
/// 10 ms and more, until every CPU has been seen not to look into the old one.
fn make_room_for_descriptors() {
    use rustix::process::{Resource, getrlimit};
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let last = i32::try_from(allowed.min(DESCRIPTORS_AHEAD).saturating_sub(1));
    // Where it cannot be done, it is done when it is needed.
    let _ = last.map(|last| rustix::io::fcntl_dupfd_cloexec(io::stderr(), last));
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
            // The first words are Mosquitto's.
            Self::Listen { endpoint, error } => {
                match error.raw_os_error() {
                    Some(code) => write!(f, "{} ({endpoint}).", Errno::from_raw(code).desc())?,
                    None => write!(f, "cannot listen on {endpoint}: {error}")?,
                }
                match (error.kind(), endpoint) {
                    (io::ErrorKind::AddrInUse, Endpoint::Tcp(address)) => write!(
                        f,
                        " Another program listens there, such as a mosquitto that was not stopped: `ss -ltnp sport = :{}` says which.",
                        address.port()
                    ),
                    _ => Ok(()),
                }
            }
            Self::Start(error) => write!(f, "cannot start: {error}"),
            Self::Process(error) => error.fmt(f),
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
/// 8 bytes of the kernel's memory each.
const DESCRIPTORS_AHEAD: u64 = 32_768;
/// Between two publications of log lines.
const LOG_PAUSE: Duration = Duration::from_millis(100);
