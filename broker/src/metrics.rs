//! What is counted, collected from all shards and written for Prometheus (`families.rs`).
//!
//! In: each shard's plain numbers, which it copies when it is asked (nothing is shared or locked on a message's way), and what
//! the exchange, the store and the process know. Out: one `Report`, and its text. Labels are fixed: no client, no topic,
//! nothing that anybody outside can choose (R19). `docs/metrics.md` has a row for every name.

mod families;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use nightjar_codec::{PacketType, ReasonCode};
use nightjar_storage::{Journal, JournalStatus, RedbEngine};
use prometheus::proto::MetricFamily;
use tokio::sync::{Mutex, mpsc};

use crate::certificates::{Failure, Handshake, Tally};
use crate::cli::VERSION;
use crate::clock::{Clock, Now};
use crate::door_counts::DoorCount;
use crate::exchange::Exchange;
use crate::identity::ShardId;
use crate::session::counters::{ByListener, Closed, Counters, Numbers, SessionEnd};
use crate::settings::ListenerProtocol;
use crate::worker::{Directory, Order};
use families::{Families, Kind, words};

/// The content type of what `text` gives.
pub const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Where the numbers are collected.
pub struct Metrics {
    directory: Arc<Directory>,
    exchange: Arc<Exchange>,
    /// Not held: the store closes when the server lets go of it.
    store: Option<Weak<RedbEngine>>,
    clock: Clock,
    started: Now,
    reloads: Reloads,
    shards: Mutex<Shards>,
}

/// How the last reload of the configuration ended; the start counts as one.
struct Reloads {
    has_failed: AtomicBool,
    /// Seconds since 1970 of the last that did not fail.
    succeeded_at: AtomicU64,
}

/// What the shards said last.
struct Shards {
    answers: mpsc::Receiver<(ShardId, Numbers)>,
    to: mpsc::Sender<(ShardId, Numbers)>,
    each: Vec<Answer>,
    /// By listener. A connection that moves is for a moment counted by neither shard: the sum does not go back for that.
    bytes_received: BTreeMap<Arc<str>, u64>,
}

#[derive(Clone, Default)]
struct Answer {
    numbers: Numbers,
    /// It was asked, and has not answered.
    is_awaited: bool,
}

/// Everything at one moment.
#[derive(Debug)]
pub struct Report {
    /// The sum of all shards.
    pub counters: Counters,
    /// Shards that did not answer in time; their last numbers are in the sum.
    pub silent_shards: usize,
    /// When it was made: milliseconds of the broker clock.
    pub at: u64,
    pub uptime_milliseconds: u64,
    /// Seconds since 1970.
    pub started_at: u64,
    /// Open ones of clients.
    pub connections: u64,
    pub listeners: Vec<ListenerReport>,
    /// QoS 1 and 2 messages sent to clients, and QoS 2 messages received, that are not acknowledged to the end.
    pub inflight_outbound: u64,
    pub inflight_inbound: u64,
    pub sessions: u64,
    pub subscriptions: u64,
    pub shared_subscriptions: u64,
    pub share_groups: u64,
    pub retained_messages: u64,
    /// `$SYS`, which is in memory only and in no bound.
    pub retained_own: u64,
    pub retained_bytes: u64,
    pub queued_messages: u64,
    pub queued_bytes: u64,
    pub queued_memory_bytes: u64,
    pub send_bytes: u64,
    pub will_bytes: u64,
    pub certificates: CertificatesReport,
    pub store: Option<StoreReport>,
    pub reload_failed: bool,
    /// Seconds since 1970.
    pub reloaded_at: u64,
}

/// What came in through one listener.
#[derive(Debug)]
pub struct ListenerReport {
    pub name: Box<str>,
    pub protocol: ListenerProtocol,
    pub open: u64,
    pub opened: u64,
    pub turned_away: u64,
    counted: ByListener,
}

/// What is known of TLS.
#[derive(Clone, Debug)]
pub struct CertificatesReport {
    handshakes: [u64; Handshake::ALL.len()],
    failures: [u64; Failure::ALL.len()],
    replaced_used: u64,
    kept: u64,
    /// Listener, kind, end.
    ends: Vec<(Box<str>, &'static str, u64)>,
}

/// What the store says of itself.
#[derive(Clone, Copy, Debug)]
pub struct StoreReport {
    counters: nightjar_storage::Counters,
    has_failed: bool,
    file_bytes: u64,
}

impl Metrics {
    pub fn new(
        directory: Arc<Directory>,
        exchange: Arc<Exchange>,
        store: Option<&Arc<RedbEngine>>,
        clock: Clock,
        shards: ShardId,
    ) -> Self {
        let count = usize::from(shards);
        let started = clock.now();
        // A shard is asked again only when it has answered, so there is always room.
        let (to, answers) = mpsc::channel(count.max(1));
        Self {
            directory,
            exchange,
            store: store.map(Arc::downgrade),
            clock,
            started,
            reloads: Reloads {
                has_failed: AtomicBool::new(false),
                succeeded_at: AtomicU64::new(started.wall / 1000),
            },
            shards: Mutex::new(Shards {
                answers,
                to,
                each: vec![Answer::default(); count],
                bytes_received: BTreeMap::new(),
            }),
        }
    }

    /// The configuration was read again, in vain or not.
    pub fn note_reload(&self, succeeded: bool) {
        let reloads = &self.reloads;
        reloads.has_failed.store(!succeeded, Ordering::Relaxed);
        if succeeded {
            let now = self.clock.now().wall / 1000;
            reloads.succeeded_at.store(now, Ordering::Relaxed);
        }
    }

    /// Asks every shard, and waits for the answers as long as that is worth it.
    pub async fn report(&self) -> Report {
        let mut shards = self.shards.lock().await;
        shards.ask(&self.directory);
        // A shard that does not answer is one that stops, or has an enormous turn.
        let _ = tokio::time::timeout(PATIENCE, shards.hear()).await;
        let numbers = shards.sum();
        let silent_shards = shards.each.iter().filter(|each| each.is_awaited).count();
        drop(shards);
        let now = self.clock.now();
        let exchange = &self.exchange;
        Report {
            connections: self.directory.door_counts.clients(),
            listeners: self.listeners(&numbers),
            counters: numbers.counters,
            inflight_outbound: numbers.inflight_outbound,
            inflight_inbound: numbers.inflight_inbound,
            silent_shards,
            at: now.monotonic,
            uptime_milliseconds: now.monotonic.saturating_sub(self.started.monotonic),
            started_at: self.started.wall / 1000,
            sessions: exchange.sessions.value(),
            subscriptions: exchange.subscription_count.value(),
            shared_subscriptions: exchange.shared_subscriptions.load(Ordering::Relaxed),
            share_groups: exchange.group_count() as u64,
            retained_messages: exchange.retained.len(),
            retained_own: exchange.retained.own(),
            retained_bytes: exchange.retained.bytes(),
            queued_messages: exchange.totals.messages(),
            queued_bytes: exchange.totals.bytes(),
            queued_memory_bytes: exchange.totals.held_bytes(),
            send_bytes: exchange.send_bytes.load(Ordering::Relaxed),
            will_bytes: exchange.will_bytes.value(),
            certificates: CertificatesReport::of(&self.directory.certificates),
            store: self.store_report(),
            reload_failed: self.reloads.has_failed.load(Ordering::Relaxed),
            reloaded_at: self.reloads.succeeded_at.load(Ordering::Relaxed),
        }
    }

    fn listeners(&self, numbers: &Numbers) -> Vec<ListenerReport> {
        let of = |count: Arc<DoorCount>| {
            let known = numbers.listeners.iter();
            let counted = known
                .filter(|(name, _)| count.is_for_clients() && **name == *count.name)
                .map(|(_, counted)| *counted)
                .next();
            ListenerReport {
                name: count.name.clone(),
                protocol: count.protocol,
                open: count.open(),
                opened: count.opened(),
                turned_away: count.turned_away(),
                counted: counted.unwrap_or_default(),
            }
        };
        let counts = self.directory.door_counts.all();
        counts.into_iter().map(of).collect()
    }

    fn store_report(&self) -> Option<StoreReport> {
        let store = self.store.as_ref()?.upgrade()?;
        let file = std::fs::metadata(&*store.path());
        Some(StoreReport {
            counters: store.counters(),
            has_failed: matches!(store.status(), JournalStatus::Failed { .. }),
            file_bytes: file.map_or(0, |file| file.len()),
        })
    }
}

impl Shards {
    fn ask(&mut self, directory: &Directory) {
        while let Ok(late) = self.answers.try_recv() {
            self.take(late);
        }
        for (shard, answer) in (0..).zip(&mut self.each) {
            let to = self.to.clone();
            answer.is_awaited = answer.is_awaited || directory.send(shard, Order::Report { to });
        }
    }

    async fn hear(&mut self) {
        while self.each.iter().any(|each| each.is_awaited) {
            let Some(answer) = self.answers.recv().await else {
                return;
            };
            self.take(answer);
        }
    }

    /// What all of them said last.
    fn sum(&mut self) -> Numbers {
        let mut sum = Numbers::default();
        for answer in &self.each {
            sum.add(&answer.numbers);
        }
        for (name, counted) in &mut sum.listeners {
            let before = self.bytes_received.entry(Arc::clone(name)).or_default();
            counted.bytes_received = counted.bytes_received.max(*before);
            *before = counted.bytes_received;
        }
        sum
    }

    fn take(&mut self, (shard, numbers): (ShardId, Numbers)) {
        if let Some(answer) = self.each.get_mut(usize::from(shard)) {
            *answer = Answer {
                numbers,
                is_awaited: false,
            };
        }
    }
}

impl Report {
    /// Sessions whose clients are connected.
    pub fn clients_connected(&self) -> u64 {
        self.counters.clients_connected().min(self.sessions)
    }

    /// Connections of clients that were ever opened.
    pub fn connections_opened(&self) -> u64 {
        self.clients().map(|listener| listener.opened).sum()
    }

    pub fn bytes_received(&self) -> u64 {
        self.clients()
            .map(|listener| listener.counted.bytes_received)
            .sum()
    }

    pub fn bytes_sent(&self) -> u64 {
        self.clients()
            .map(|listener| listener.counted.bytes_sent)
            .sum()
    }

    /// The listeners of clients.
    fn clients(&self) -> impl Iterator<Item = &ListenerReport> {
        let listeners = self.listeners.iter();
        listeners.filter(|listener| listener.protocol != ListenerProtocol::HttpApi)
    }

    /// As Prometheus reads it. `commit_pending`: milliseconds the present commit has been on its way.
    pub fn text(&self, commit_pending: u64) -> String {
        let mut families = Families::default();
        self.describe_broker(&mut families);
        self.describe_listeners(&mut families);
        self.describe_traffic(&mut families);
        self.describe_state(&mut families);
        self.certificates
            .describe(&mut families, self.counters.client_ids_not_bound);
        if let Some(store) = &self.store {
            store.describe(&mut families, commit_pending);
        }
        families.text(process_families())
    }

    fn describe_broker(&self, out: &mut Families) {
        let counters = &self.counters;
        out.labelled(
            Kind::Gauge,
            "build_info",
            "Always 1; the version is in the label.",
            "version",
            [(VERSION, 1)],
        );
        out.gauge(
            "start_time_seconds",
            "When the broker started, in seconds since 1970.",
            self.started_at,
        );
        out.gauge(
            "config_last_reload_successful",
            "1 if the configuration could be read when it was last, else 0.",
            u64::from(!self.reload_failed),
        );
        out.gauge(
            "config_last_reload_timestamp_seconds",
            "When the configuration in force was read, in seconds since 1970.",
            self.reloaded_at,
        );
        out.gauge(
            "silent_shards",
            "Shards that did not tell their numbers in time; their last ones are used.",
            self.silent_shards as u64,
        );
        out.counter(
            "connects_accepted_total",
            "CONNECT packets that were answered with success.",
            counters.connects_accepted,
        );
        out.labelled(
            Kind::Counter,
            "logins_total",
            "Passwords and proofs of clients, by what became of them.",
            "result",
            [
                ("accepted", counters.logins_accepted),
                ("refused", counters.logins_refused),
                ("unseen", counters.logins_unseen),
                ("busy", counters.logins_busy),
            ],
        );
        out.counter(
            "protocol_errors_total",
            "Connections that were closed because the client broke the protocol.",
            counters.violations,
        );
        out.counter(
            "panics_total",
            "Faults of the broker that cost one connection each.",
            counters.panics,
        );
    }

    fn describe_listeners(&self, out: &mut Families) {
        let mut gauge = Vec::new();
        let mut opened = Vec::new();
        let mut turned_away = Vec::new();
        for listener in &self.listeners {
            let name = ("listener", &*listener.name);
            let labels = [name, ("protocol", protocol(listener.protocol))];
            gauge.push(Kind::Gauge.metric(&labels, listener.open as f64));
            opened.push(Kind::Counter.metric(&[name], listener.opened as f64));
            turned_away.push(Kind::Counter.metric(&[name], listener.turned_away as f64));
        }
        out.own(Kind::Gauge, "connections", "Open connections.", gauge);
        out.own(
            Kind::Counter,
            "connections_opened_total",
            "Connections that were accepted by a listener.",
            opened,
        );
        out.own(
            Kind::Counter,
            "connections_turned_away_total",
            "Connections closed before anything was read, because there were too many.",
            turned_away,
        );
        let errors = ReasonCode::ALL.iter().filter(|code| code.is_error());
        let errors: Vec<_> = errors.map(|code| (label(*code), *code)).collect();
        let [mut refused, mut closed, mut received, mut sent] = [const { Vec::new() }; 4];
        for listener in self.clients() {
            let name = ("listener", &*listener.name);
            let counted = &listener.counted;
            for (label, code) in &errors {
                let labels = [name, ("reason", &**label)];
                refused.push(Kind::Counter.metric(&labels, counted.refused.of(*code) as f64));
            }
            for (reason, value) in words(&Closed::ALL, &counted.closed) {
                closed.push(Kind::Counter.metric(&[name, ("reason", reason)], value as f64));
            }
            received.push(Kind::Counter.metric(&[name], counted.bytes_received as f64));
            sent.push(Kind::Counter.metric(&[name], counted.bytes_sent as f64));
        }
        let families = [
            (
                "connections_refused_total",
                "Connections that ended before their CONNECT was accepted, by the MQTT 5.0 reason.",
                refused,
            ),
            (
                "connections_closed_total",
                "Connections that ended, by why.",
                closed,
            ),
            (
                "received_bytes_total",
                "Bytes of MQTT from clients.",
                received,
            ),
            (
                "sent_bytes_total",
                "Bytes of MQTT written to clients.",
                sent,
            ),
        ];
        for (name, help, metrics) in families {
            if !metrics.is_empty() {
                out.own(Kind::Counter, name, help, metrics);
            }
        }
    }

    fn describe_traffic(&self, out: &mut Families) {
        let counters = &self.counters;
        let mut sent = counters.packets_sent;
        sent[usize::from(PacketType::Publish as u8)] = counters.messages_sent.iter().sum();
        out.labelled(
            Kind::Counter,
            "packets_received_total",
            "Control packets from clients.",
            "type",
            PACKETS.map(|(packet, word)| (word, counters.packets_received[packet as usize])),
        );
        out.labelled(
            Kind::Counter,
            "packets_sent_total",
            "Control packets to clients.",
            "type",
            PACKETS.map(|(packet, word)| (word, sent[packet as usize])),
        );
        let by_qos = |values: &[u64; 3]| [("0", values[0]), ("1", values[1]), ("2", values[2])];
        out.labelled(
            Kind::Counter,
            "messages_received_total",
            "Messages from publishers, without repeats and what was refused to them.",
            "qos",
            by_qos(&counters.messages_received),
        );
        out.labelled(
            Kind::Counter,
            "messages_delivered_total",
            "Messages sent to subscribers, repeats after a reconnect included.",
            "qos",
            by_qos(&counters.messages_sent),
        );
        out.counter(
            "messages_received_payload_bytes_total",
            "Bytes of the payloads of messages received.",
            counters.payload_bytes_received,
        );
        out.counter(
            "messages_delivered_payload_bytes_total",
            "Bytes of the payloads of messages delivered.",
            counters.payload_bytes_sent,
        );
        out.labelled(
            Kind::Counter,
            "messages_dropped_total",
            "Messages that did not get to a subscriber, or that nobody wanted or was allowed to send, by why.",
            "reason",
            [
                ("queue_full", counters.dropped_queue_full),
                ("send_buffer_full", counters.dropped_send_buffer_full),
                ("too_large", counters.dropped_too_large),
                ("expired", counters.dropped_expired),
                ("qos0_offline", counters.dropped_offline),
                ("no_subscribers", counters.dropped_no_subscribers),
                ("not_authorized", counters.publishes_not_authorized),
                ("not_stored", counters.publishes_not_owned),
                ("retained_full", counters.retained_refused),
            ],
        );
        out.labelled(
            Kind::Counter,
            "authorization_denied_total",
            "What the rules did not allow: messages to publish, topic filters to subscribe, messages to one subscriber, wills.",
            "action",
            [
                ("publish", counters.publishes_not_authorized),
                ("subscribe", counters.subscribes_denied),
                ("receive", counters.deliveries_denied),
                ("will", counters.wills_denied),
            ],
        );
        out.counter(
            "connections_paused_total",
            "How often a connection was not read because too much waited for the store.",
            counters.connections_paused,
        );
        out.seconds(
            Kind::Counter,
            "connections_paused_seconds_total",
            "For how long, all connections together.",
            counters.paused_milliseconds,
        );
    }

    fn describe_state(&self, out: &mut Families) {
        let counters = &self.counters;
        let connected = self.clients_connected();
        out.labelled(
            Kind::Gauge,
            "sessions",
            "Sessions, by whether their clients are connected.",
            "state",
            [
                ("connected", connected),
                ("offline", self.sessions.saturating_sub(connected)),
            ],
        );
        out.labelled(
            Kind::Gauge,
            "inflight_messages",
            "Messages that are on their way and not acknowledged to the end: QoS 1 and 2 to clients, QoS 2 from them.",
            "direction",
            [
                ("outbound", self.inflight_outbound),
                ("inbound", self.inflight_inbound),
            ],
        );
        out.counter(
            "sessions_created_total",
            "Sessions that began.",
            counters.sessions_created,
        );
        out.labelled(
            Kind::Counter,
            "sessions_ended_total",
            "Sessions that ended, by why.",
            "reason",
            words(&SessionEnd::ALL, &counters.sessions_ended),
        );
        let gauges = [
            (
                "subscriptions",
                "Subscriptions of all sessions, shared ones included.",
                self.subscriptions,
            ),
            (
                "shared_subscriptions",
                "Of these, the shared ones.",
                self.shared_subscriptions,
            ),
            (
                "shared_subscription_groups",
                "Groups of shared subscriptions.",
                self.share_groups,
            ),
            (
                "retained_messages",
                "Retained messages of clients.",
                self.retained_messages,
            ),
            (
                "retained_bytes",
                "What they count for in retained_bytes_max.",
                self.retained_bytes,
            ),
            (
                "queued_messages",
                "Messages kept for sessions and share groups, waiting or not acknowledged yet.",
                self.queued_messages,
            ),
            (
                "queued_bytes",
                "What they count for in queue_total_bytes_max.",
                self.queued_bytes,
            ),
            (
                "queued_memory_bytes",
                "Of these, what is in memory besides being in the store.",
                self.queued_memory_bytes,
            ),
            (
                "send_buffer_bytes",
                "Bytes that clients did not take when they were written.",
                self.send_bytes,
            ),
            (
                "connections_behind",
                "Clients that did not take everything when it was written.",
                counters.connections_behind,
            ),
            ("will_bytes", "Bytes of all wills.", self.will_bytes),
        ];
        for (name, help, value) in gauges {
            out.gauge(name, help, value);
        }
    }
}

impl CertificatesReport {
    fn of(tally: &Tally) -> Self {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Self {
            handshakes: tally.handshakes(),
            failures: tally.failures(),
            replaced_used: count(&tally.replaced_used),
            kept: count(&tally.kept),
            ends: tally.ends(),
        }
    }

    fn describe(&self, out: &mut Families, client_ids_not_bound: u64) {
        let handshakes = Handshake::ALL.iter().zip(self.handshakes);
        let handshakes = handshakes.map(|((_, [version, resumed]), value)| {
            let labels = [("version", *version), ("resumed", *resumed)];
            Kind::Counter.metric(&labels, value as f64)
        });
        out.own(
            Kind::Counter,
            "tls_handshakes_total",
            "TLS handshakes that went well.",
            handshakes.collect(),
        );
        out.labelled(
            Kind::Counter,
            "tls_handshake_failures_total",
            "TLS handshakes that did not, by why.",
            "reason",
            words(&Failure::ALL, &self.failures),
        );
        out.counter(
            "tls_files_kept_total",
            "How often a certificate, key or list could not be used and the one before stayed in use.",
            self.kept,
        );
        out.counter(
            "certificates_replaced_used_total",
            "Clients that came with a certificate another took the place of.",
            self.replaced_used,
        );
        out.counter(
            "certificates_client_id_refused_total",
            "Clients whose client id is not the name in their certificate.",
            client_ids_not_bound,
        );
        let ends = self.ends.iter().map(|(listener, kind, end)| {
            let labels = [("listener", &**listener), ("kind", *kind)];
            Kind::Gauge.metric(&labels, *end as f64)
        });
        let ends: Vec<_> = ends.collect();
        // A family without a number is none.
        if !ends.is_empty() {
            out.own(
                Kind::Gauge,
                "certificate_expiry_timestamp_seconds",
                "When the first certificate or list of a listener ends, in seconds since 1970.",
                ends,
            );
        }
    }
}

impl StoreReport {
    fn describe(&self, out: &mut Families, commit_pending: u64) {
        let counters = &self.counters;
        let totals = [
            ("store_commits_total", "Commits.", counters.commits),
            (
                "store_operations_total",
                "Operations in them.",
                counters.operations,
            ),
            (
                "store_failures_total",
                "How often the store has failed.",
                counters.failures,
            ),
            (
                "store_reopened_total",
                "How often it was opened again after that, in vain or not.",
                counters.reopened,
            ),
        ];
        for (name, help, value) in totals {
            out.counter(name, help, value);
        }
        out.gauge(
            "store_failed",
            "1 while the store has failed, else 0.",
            u64::from(self.has_failed),
        );
        out.gauge(
            "store_pending_bytes",
            "Bytes that were given to the store and are not on disk.",
            counters.pending_bytes,
        );
        out.gauge("store_size_bytes", "Size of its file.", self.file_bytes);
        out.seconds(
            Kind::Gauge,
            "store_commit_pending_seconds",
            "For how long the present commit has been on its way, to the second.",
            commit_pending,
        );
    }
}

/// One number under its name in the common mosquitto exporter, which makes names of topics.
pub struct ExportedTopic<'a> {
    pub topic: &'a str,
    pub is_counter: bool,
    pub value: f64,
}

/// The text of the common mosquitto exporter.
pub fn exporter_text<'a>(topics: impl IntoIterator<Item = ExportedTopic<'a>>) -> String {
    let mut families = Families::default();
    for exported in topics {
        let name = exported.topic.trim_start_matches("$SYS/");
        let name = name.replace(['/', ' '], "_");
        let kind = if exported.is_counter {
            Kind::Counter
        } else {
            Kind::Gauge
        };
        let metric = kind.metric(&[], exported.value);
        families.push(kind, name, exported.topic, vec![metric]);
    }
    families.text(Vec::new())
}

/// Resident memory of this process; `None` where the system does not tell.
pub fn resident_bytes() -> Option<u64> {
    let families = process_families();
    let family = families
        .iter()
        .find(|family| family.name() == "process_resident_memory_bytes")?;
    let value = family.get_metric().first()?.get_gauge().get_value();
    // A number of bytes: whole, and never below 0.
    (value > 0.0).then_some(value as u64)
}

#[cfg(target_os = "linux")]
fn process_families() -> Vec<MetricFamily> {
    use prometheus::core::Collector;
    prometheus::process_collector::ProcessCollector::for_self().collect()
}

#[cfg(not(target_os = "linux"))]
fn process_families() -> Vec<MetricFamily> {
    Vec::new()
}

fn protocol(protocol: ListenerProtocol) -> &'static str {
    match protocol {
        ListenerProtocol::Mqtt => "mqtt",
        ListenerProtocol::WebSocket => "websocket",
        ListenerProtocol::HttpApi => "http_api",
    }
}

/// "not authorized (0x87)" as `not_authorized`.
fn label(reason_code: ReasonCode) -> String {
    let text = reason_code.to_string();
    let words = text.split(" (").next().unwrap_or_default();
    words.to_ascii_lowercase().replace([' ', '-'], "_")
}

const PACKETS: [(PacketType, &str); 15] = [
    (PacketType::Connect, "connect"),
    (PacketType::Connack, "connack"),
    (PacketType::Publish, "publish"),
    (PacketType::Puback, "puback"),
    (PacketType::Pubrec, "pubrec"),
    (PacketType::Pubrel, "pubrel"),
    (PacketType::Pubcomp, "pubcomp"),
    (PacketType::Subscribe, "subscribe"),
    (PacketType::Suback, "suback"),
    (PacketType::Unsubscribe, "unsubscribe"),
    (PacketType::Unsuback, "unsuback"),
    (PacketType::Pingreq, "pingreq"),
    (PacketType::Pingresp, "pingresp"),
    (PacketType::Disconnect, "disconnect"),
    (PacketType::Auth, "auth"),
];
/// How long shards have to answer.
const PATIENCE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_exporter_calls_a_topic_is_its_text_with_underscores() {
        let text = exporter_text([
            ExportedTopic {
                topic: "$SYS/broker/retained messages/count",
                is_counter: false,
                value: 7.0,
            },
            ExportedTopic {
                topic: "$SYS/broker/bytes/received",
                is_counter: true,
                value: 1.5e10,
            },
        ]);
        assert_eq!(
            text,
            "# HELP broker_retained_messages_count $SYS/broker/retained messages/count\n\
             # TYPE broker_retained_messages_count gauge\n\
             broker_retained_messages_count 7\n\
             # HELP broker_bytes_received $SYS/broker/bytes/received\n\
             # TYPE broker_bytes_received counter\n\
             broker_bytes_received 15000000000\n"
        );
    }

    #[test]
    fn every_reason_has_a_label_of_its_own() {
        let labels: std::collections::BTreeSet<String> =
            ReasonCode::ALL.iter().map(|code| label(*code)).collect();
        assert_eq!(labels.len(), ReasonCode::ALL.len());
        assert!(labels.iter().all(|label| {
            label
                .bytes()
                .all(|byte| byte == b'_' || byte.is_ascii_alphanumeric())
        }));
    }
}
