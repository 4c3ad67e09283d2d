//! How long a start takes with a million queued messages, from the closed store to shards that may serve.
//!
//! ```text
//! cargo bench -p nightjar --bench start
//! MESSAGES=10000000 SESSIONS=1000 cargo bench -p nightjar --bench start
//! ```
//! The store is left behind as a killed process leaves it, in `BENCH_DIR` or the target directory, and its pages are in the
//! cache of the operating system. Each session has one subscription.

#![allow(clippy::disallowed_methods, reason = "a benchmark tells time")]

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use bytes::Bytes;
use nightjar::auth::Auth;
use nightjar::clock::Now;
use nightjar::exchange::Exchange;
use nightjar::identity::ShardId;
use nightjar::settings::Settings;
use nightjar::shard::{PostOffice, Shard, Shared, restore_groups_and_retained};
use nightjar_codec::{ProtocolVersion, QoS, RetainHandling};
use nightjar_storage::{
    Batch, Checkpoint, Journal, Operation, Options, Owner, OwnerEntry, RedbEngine, SessionRecord,
    StoredMessage, SubscriptionRecord,
};

fn main() -> Result<(), Box<dyn Error>> {
    let short = env::args().any(|argument| argument == "--test");
    let number = |name: &str| {
        env::var(name)
            .ok()
            .map(|text| text.parse::<u64>())
            .transpose()
    };
    let messages = number("MESSAGES")?.unwrap_or(if short { 1_000 } else { 1_000_000 });
    let sessions = match number("SESSIONS")? {
        Some(sessions) => vec![sessions],
        None if short => vec![10],
        None => vec![1, 1_000, 100_000],
    };
    for sessions in sessions {
        let directory = env::var_os("BENCH_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from)
            .join(format!("nightjar-start-{}", std::process::id()));
        fill(&directory, messages, sessions)?;
        println!("{messages} messages of 256 bytes for {sessions} sessions");
        for _ in 0..if short { 1 } else { 3 } {
            start(&directory, messages)?;
        }
        std::fs::remove_dir_all(directory)?;
    }
    Ok(())
}

fn start(directory: &Path, messages: u64) -> Result<(), Box<dyn Error>> {
    let (began, cpu) = (Instant::now(), cpu_time());
    let engine = RedbEngine::open(directory, Options::default())?;
    let opened = began.elapsed();
    let settings = Arc::new(Settings::default());
    let shards = thread::available_parallelism().map_or(1, |threads| threads.get());
    let shards = ShardId::try_from(shards)?;
    let exchange = Arc::new(Exchange::new(&settings, shards, 7));
    let shared = Shared {
        exchange: Arc::clone(&exchange),
        post: Arc::new(PostOffice::new(shards, settings.mail_bytes_max)),
        methods: std::iter::empty().collect(),
        auth: Auth::default(),
        authorization: Default::default(),
        journal: Some(Arc::clone(&engine) as Arc<dyn Journal>),
        hash_seed: 7,
        client_id_seed: [7; 32],
        settings,
    };
    let now = Now {
        monotonic: 1_000,
        wall: 1_000_000,
    };
    restore_groups_and_retained(&shared, &*engine, now)?;
    let mut held = 0;
    thread::scope(|scope| {
        let restoring: Vec<_> = (0..shards)
            .map(|id| {
                let shared = shared.clone();
                let checkpoint = Arc::clone(&engine) as Arc<dyn Checkpoint>;
                scope.spawn(move || {
                    let mut shard = Shard::new(id, shared);
                    shard.restore(checkpoint, now)?;
                    let mut held = 0;
                    shard.each_session(|session| held += session.held_messages());
                    Ok::<_, nightjar_storage::StorageError>(held)
                })
            })
            .collect();
        for shard in restoring {
            held += shard.join().map_err(|_| "a shard panicked")??;
        }
        Ok::<_, Box<dyn Error>>(())
    })?;
    println!(
        "  ready after {:.2?}, {:.2?} of it to open the store ({:.2} s of processor time); {} MiB of memory",
        began.elapsed(),
        opened,
        cpu_time() - cpu,
        resident_kib() >> 10
    );
    if exchange.totals.messages() != messages || held != 0 {
        return Err("what is queued is not what was written".into());
    }
    Ok(())
}

fn fill(directory: &Path, messages: u64, sessions: u64) -> Result<(), Box<dyn Error>> {
    let engine = RedbEngine::open(directory, Options::default())?;
    for session in 0..sessions {
        let put = Operation::PutSession {
            client_id: client_id(session),
            session: SessionRecord {
                protocol_version: ProtocolVersion::V5,
                session_expiry_interval: u32::MAX,
                expires_at: None,
                will: None,
                user: None,
            },
        };
        let subscribe = Operation::PutSubscription {
            client_id: (&*client_id(session)).into(),
            topic_filter: format!("bench/{session}").into(),
            subscription: SubscriptionRecord {
                qos: QoS::AtLeastOnce,
                no_local: false,
                retain_as_published: false,
                retain_handling: RetainHandling::Send,
                subscription_identifier: None,
            },
        };
        append(&engine, vec![put, subscribe])?;
    }
    let payload: Bytes = vec![b'x'; 256].into();
    for first in (1..=messages).step_by(10_000) {
        let batch = (first..=messages.min(first + 9_999)).map(|message_id| {
            let session = message_id % sessions;
            Operation::Enqueue {
                message: Arc::new(StoredMessage {
                    message_id,
                    topic: format!("bench/{session}").into(),
                    payload: payload.clone(),
                    properties: Bytes::new(),
                    qos: QoS::AtLeastOnce,
                    retain: false,
                    expires_at: None,
                    sequence: 0,
                    publisher: None,
                    publisher_user: None,
                }),
                owners: [OwnerEntry {
                    owner: Owner::Session(client_id(session)),
                    qos: QoS::AtLeastOnce,
                    retain: false,
                    subscription_identifiers: Vec::new(),
                }]
                .into(),
            }
        });
        append(&engine, batch.collect())?;
    }
    engine.flush();
    // As a killed process leaves it.
    engine.abandon();
    std::mem::forget(engine);
    std::fs::remove_file(directory.join("nightjar.lock"))?;
    Ok(())
}

fn append(engine: &RedbEngine, operations: Vec<Operation>) -> Result<(), Box<dyn Error>> {
    if let Err(full) = engine.append(Batch(operations)) {
        engine.flush();
        engine.append(full.batch)?;
    }
    Ok(())
}

fn client_id(session: u64) -> Arc<str> {
    format!("receiver-{session}").into()
}

/// Seconds of processor time of this process, where the system tells.
fn cpu_time() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split(' ').collect();
    let ticks = |index: usize| -> f64 {
        let field = fields.get(index).and_then(|field| field.parse().ok());
        field.unwrap_or(0.0)
    };
    // utime and stime, in hundredths of a second.
    (ticks(12) + ticks(13)) / 100.0
}

/// Memory of this process, where the system tells.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.unwrap_or(0)
}
