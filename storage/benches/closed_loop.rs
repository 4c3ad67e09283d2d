//! How fast the store makes messages durable, alone: publishes a second and the time until a publish is durable.
//!
//! One thread stands for a shard. It keeps a number of publishes in flight, appends in one batch whatever the last commit
//! has released, and dequeues each message a fixed number of publishes later, as its receiver would acknowledge it.
//!
//! ```text
//! cargo bench -p nightjar-storage                      all scenarios, 5 seconds each
//! SECONDS=20 BENCH_DIR=/mnt/card cargo bench -p nightjar-storage --bench closed_loop fan-out
//! ```

#![allow(clippy::disallowed_methods, reason = "a benchmark tells time")]

use std::collections::VecDeque;
use std::env;
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use nightjar_codec::{ProtocolVersion, QoS};
use nightjar_storage::{
    Batch, Durability, Journal, JournalStatus, Lsn, Operation, Options, Owner, OwnerEntry,
    RedbEngine, SessionRecord, StoredMessage,
};

struct Scenario {
    name: &'static str,
    /// Publishes that wait for durability at any time.
    in_flight: usize,
    receivers: usize,
    /// Each publish goes to this many of them.
    owners: usize,
    /// The receiver's acknowledgement comes this many publishes later.
    dequeue_after: usize,
    /// Each copy gets a packet id before it is dequeued.
    online: bool,
    durability: Durability,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let short = arguments.iter().any(|argument| argument == "--test");
    let wanted: Vec<&String> = arguments
        .iter()
        .filter(|argument| !argument.starts_with("--"))
        .collect();
    let seconds = env::var("SECONDS")
        .ok()
        .map_or(Ok(5), |text| text.parse())?;
    let time = if short {
        Duration::from_millis(50)
    } else {
        Duration::from_secs(seconds)
    };
    println!(
        "{:<40} {:>12} {:>9} {:>9} {:>9} {:>8} {:>9}",
        "scenario", "publishes/s", "p50 ms", "p99 ms", "p99.9 ms", "commits", "cpu us/p"
    );
    for scenario in scenarios() {
        if wanted.is_empty()
            || wanted
                .iter()
                .any(|wanted| scenario.name.contains(&***wanted))
        {
            run(&scenario, time)?;
        }
    }
    Ok(())
}

fn scenarios() -> Vec<Scenario> {
    let one_each = Scenario {
        name: "100 x 20 in flight, offline receivers",
        in_flight: 2000,
        receivers: 100,
        owners: 1,
        dequeue_after: 4000,
        online: false,
        durability: Durability::Synced,
    };
    vec![
        Scenario {
            name: "100 x 20 in flight, online receivers",
            dequeue_after: 2000,
            online: true,
            ..one_each
        },
        Scenario {
            name: "100 x 20 in flight, receivers at once",
            dequeue_after: 100,
            online: true,
            ..one_each
        },
        Scenario {
            name: "100 x 20 in flight, written only",
            durability: Durability::Written,
            ..one_each
        },
        Scenario {
            name: "1 in flight",
            in_flight: 1,
            ..one_each
        },
        Scenario {
            name: "fan-out to 1,000, 100 in flight",
            in_flight: 100,
            receivers: 1000,
            owners: 1000,
            dequeue_after: 200,
            ..one_each
        },
        Scenario {
            name: "400,000 queued, 100 x 20 in flight",
            dequeue_after: 400_000,
            ..one_each
        },
        one_each,
    ]
}

fn run(scenario: &Scenario, time: Duration) -> Result<(), Box<dyn Error>> {
    let directory = env::var_os("BENCH_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from)
        .join(format!("nightjar-bench-{}", std::process::id()));
    let options = Options {
        durability: scenario.durability,
        ..Options::default()
    };
    let engine = RedbEngine::open(&directory, options)?;
    let (sender, progress) = channel();
    engine.on_progress(Box::new(move || {
        let _ = sender.send(());
    }));
    let mut load = Load::new(scenario, &engine, progress)?;
    // Until messages are dequeued as fast as they come.
    let warm = scenario.dequeue_after + scenario.in_flight;
    load.publish_until(|load| load.published >= warm as u64)?;
    load.latencies.clear();
    let commits = engine.counters().commits;
    let (began, cpu) = (Instant::now(), cpu_time());
    let before = load.acknowledged;
    load.publish_until(|_| began.elapsed() >= time)?;
    let (elapsed, cpu) = (began.elapsed().as_secs_f64(), cpu_time() - cpu);
    let publishes = (load.acknowledged - before).max(1) as f64;
    let mut latencies = std::mem::take(&mut load.latencies);
    latencies.sort_unstable();
    let at = |part: f64| {
        let index = (latencies.len() as f64 * part) as usize;
        let nanoseconds = latencies.get(index.min(latencies.len().saturating_sub(1)));
        nanoseconds.copied().unwrap_or(0) as f64 / 1e6
    };
    println!(
        "{:<40} {:>12.0} {:>9.2} {:>9.2} {:>9.2} {:>8} {:>9.2}",
        scenario.name,
        publishes / elapsed,
        at(0.5),
        at(0.99),
        at(0.999),
        engine.counters().commits - commits,
        cpu * 1e6 / publishes,
    );
    drop(load);
    drop(engine);
    std::fs::remove_dir_all(directory)?;
    Ok(())
}

struct Load<'a> {
    scenario: &'a Scenario,
    engine: &'a RedbEngine,
    progress: Receiver<()>,
    payload: Bytes,
    topics: Vec<Box<str>>,
    client_ids: Vec<Arc<str>>,
    published: u64,
    acknowledged: u64,
    /// Lsn, publishes and the time of batches that are not durable.
    waiting: VecDeque<(Lsn, u64, Instant)>,
    /// Messages that their receivers have not acknowledged.
    owned: VecDeque<u64>,
    next_packet_id: u16,
    latencies: Vec<u64>,
}

impl<'a> Load<'a> {
    fn new(
        scenario: &'a Scenario,
        engine: &'a RedbEngine,
        progress: Receiver<()>,
    ) -> Result<Self, Box<dyn Error>> {
        let sessions = (0..scenario.receivers).map(|receiver| Operation::PutSession {
            client_id: client_id(receiver),
            session: SessionRecord {
                protocol_version: ProtocolVersion::V5,
                session_expiry_interval: u32::MAX,
                expires_at: None,
                will: None,
                user: None,
            },
        });
        engine.append(Batch(sessions.collect()))?;
        engine.flush();
        Ok(Self {
            scenario,
            engine,
            progress,
            payload: vec![b'x'; 256].into(),
            topics: (0..100)
                .map(|publisher| format!("bench/publisher/{publisher}").into())
                .collect(),
            client_ids: (0..scenario.receivers).map(client_id).collect(),
            published: 0,
            acknowledged: 0,
            waiting: VecDeque::new(),
            owned: VecDeque::new(),
            next_packet_id: 0,
            latencies: Vec::new(),
        })
    }

    fn publish_until(&mut self, done: impl Fn(&Self) -> bool) -> Result<(), Box<dyn Error>> {
        while !done(self) {
            let room = self.scenario.in_flight as u64 - (self.published - self.acknowledged);
            if room > 0 {
                let batch = self.batch(room);
                let lsn = self.engine.append(batch)?;
                self.waiting.push_back((lsn, room, Instant::now()));
            }
            self.progress.recv_timeout(Duration::from_secs(60))?;
            while self.progress.try_recv().is_ok() {}
            let status = self.engine.status();
            if let JournalStatus::Failed { reason, .. } = &status {
                return Err(reason.to_string().into());
            }
            while let Some((lsn, publishes, at)) = self.waiting.front().copied()
                && status.covers(lsn)
            {
                self.waiting.pop_front();
                self.acknowledged += publishes;
                let nanoseconds = u64::try_from(at.elapsed().as_nanos())?;
                self.latencies.extend(std::iter::repeat_n(
                    nanoseconds,
                    usize::try_from(publishes)?,
                ));
            }
        }
        Ok(())
    }

    /// This many publishes, and what their receivers have acknowledged meanwhile.
    fn batch(&mut self, publishes: u64) -> Batch {
        let mut operations = Vec::new();
        for _ in 0..publishes {
            self.published += 1;
            let message_id = self.published;
            let first = usize::try_from(message_id).unwrap_or(0);
            let message = Arc::new(StoredMessage {
                message_id,
                topic: self.topics[first % self.topics.len()].clone(),
                payload: self.payload.clone(),
                properties: Bytes::new(),
                qos: QoS::AtLeastOnce,
                retain: false,
                expires_at: None,
                sequence: 0,
                publisher: None,
                publisher_user: None,
            });
            let owners = (first..first + self.scenario.owners)
                .map(|receiver| OwnerEntry {
                    owner: Owner::Session(
                        self.client_ids[receiver % self.scenario.receivers].clone(),
                    ),
                    qos: QoS::AtLeastOnce,
                    retain: false,
                    subscription_identifiers: Vec::new(),
                })
                .collect();
            operations.push(Operation::Enqueue { message, owners });
            if self.scenario.online {
                // Far fewer are in flight than there are ids.
                self.next_packet_id = self.next_packet_id % u16::MAX + 1;
                operations.push(Operation::AssignPacketId {
                    client_id: self.client_ids[first % self.scenario.receivers].clone(),
                    message_id,
                    packet_id: self.next_packet_id,
                });
            }
            self.owned.push_back(message_id);
            if self.owned.len() > self.scenario.dequeue_after
                && let Some(message_id) = self.owned.pop_front()
            {
                let first = usize::try_from(message_id).unwrap_or(0);
                operations.extend((first..first + self.scenario.owners).map(|receiver| {
                    Operation::Dequeue {
                        owner: Owner::Session(
                            self.client_ids[receiver % self.scenario.receivers].clone(),
                        ),
                        message_id,
                    }
                }));
            }
        }
        Batch(operations)
    }
}

fn client_id(receiver: usize) -> Arc<str> {
    format!("receiver-{receiver}").into()
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
