//! How long a start takes with a million queued messages, and how long it takes to read ten of them.
//!
//! ```text
//! cargo bench -p nightjar-storage --bench open
//! MESSAGES=10000000 SESSIONS=1000 cargo bench -p nightjar-storage --bench open
//! ```

#![allow(clippy::disallowed_methods, reason = "a benchmark tells time")]

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use nightjar_codec::{ProtocolVersion, QoS};
use nightjar_storage::{
    Batch, Checkpoint, Journal, Operation, Options, Owner, OwnerEntry, RedbEngine, SessionRecord,
    StoredMessage,
};

fn main() -> Result<(), Box<dyn Error>> {
    let short = env::args().any(|argument| argument == "--test");
    let number = |name: &str, usual| env::var(name).map_or(Ok(usual), |text| text.parse::<u64>());
    let messages = number("MESSAGES", if short { 1000 } else { 1_000_000 })?;
    let sessions = number("SESSIONS", 100)?;
    let directory = env::var_os("BENCH_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from)
        .join(format!("nightjar-open-{}", std::process::id()));

    let began = Instant::now();
    fill(&directory, messages, sessions)?;
    println!(
        "{messages} messages for {sessions} sessions written in {:.2?}",
        began.elapsed()
    );
    let bytes = std::fs::metadata(directory.join("nightjar.redb"))?.len();
    println!("the file has {} MiB", bytes >> 20);

    for what in ["as it was left", "once more"] {
        let (before, cpu) = (resident_kib(), cpu_time());
        let began = Instant::now();
        let engine = RedbEngine::open(&directory, Options::default())?;
        println!(
            "opened {what} in {:.2?} ({:.2} s of processor time), {} MiB of memory",
            began.elapsed(),
            cpu_time() - cpu,
            resident_kib().saturating_sub(before) >> 10
        );
        let mut times: Vec<_> = (0..sessions.min(1000))
            .map(|session| {
                let owner = Owner::Session(client_id(session));
                let began = Instant::now();
                let read = engine.queue(&owner, 0, 10).map(|queue| queue.len());
                (began.elapsed(), read)
            })
            .collect();
        times.sort_by_key(|(time, _)| *time);
        if times
            .iter()
            .any(|(_, read)| *read != Ok(10.min(messages as usize / sessions as usize)))
        {
            return Err("a queue is not what was written".into());
        }
        println!(
            "ten messages of one session read in {:.2?} (median), {:.2?} (slowest)",
            times[times.len() / 2].0,
            times[times.len() - 1].0
        );
    }
    std::fs::remove_dir_all(directory)?;
    Ok(())
}

fn fill(directory: &Path, messages: u64, sessions: u64) -> Result<(), Box<dyn Error>> {
    let engine = RedbEngine::open(directory, Options::default())?;
    let put = (0..sessions).map(|session| Operation::PutSession {
        client_id: client_id(session),
        session: SessionRecord {
            protocol_version: ProtocolVersion::V5,
            session_expiry_interval: u32::MAX,
            expires_at: None,
            will: None,
            user: None,
        },
    });
    engine.append(Batch(put.collect()))?;
    let payload: Bytes = vec![b'x'; 256].into();
    for first in (1..=messages).step_by(10_000) {
        let batch = (first..=messages.min(first + 9999)).map(|message_id| Operation::Enqueue {
            message: Arc::new(StoredMessage {
                message_id,
                topic: "bench/topic".into(),
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
                owner: Owner::Session(client_id(message_id % sessions)),
                qos: QoS::AtLeastOnce,
                retain: false,
                subscription_identifiers: Vec::new(),
            }]
            .into(),
        });
        engine.append(Batch(batch.collect()))?;
        engine.flush();
    }
    // As a killed process leaves it.
    engine.abandon();
    std::mem::forget(engine);
    std::fs::remove_file(directory.join("nightjar.lock"))?;
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
