//! Everything an operator can choose, as one plain value.
//!
//! In: nothing; `Settings::default()` is what a bare `nightjar` does, and `config/toml.rs` and
//! `cli.rs` change fields of it. Out: the value that every room reads. Each field names its unit
//! and what happens at the limit; `docs/configuration.md` says the same to operators, and a test
//! in `config/toml.rs` compares the two. This file knows no file format, no clock and no socket.
//!
//! Where a field says "refused", the Reason Code is the one a 5.0 client sees; a 3.x client gets
//! the nearest thing its protocol has, which is the close of its Network Connection.

mod listener;
mod process;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

pub use listener::{
    AclSubscribe, CertificateName, Endpoint, IpNetwork, ListenerProtocol, ListenerSettings,
    ProtocolVersions, ProxyProtocol, SecuritySettings, TlsSettings,
};
pub use process::{LogDestination, LogFormat, LogSettings, LogTypes, ProcessSettings, RunAs};

use nightjar_codec::QoS;
use nightjar_storage::Durability;

/// The port of MQTT without TLS.
pub const DEFAULT_PORT: u16 = 1883;

/// Where metrics and health are served where nobody chose a place.
pub const DEFAULT_HTTP_LISTENER: SocketAddr =
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9884);

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    // Who may connect, and where.
    /// Where Network Connections are accepted. Never empty: a file that defines none gets the two loopback addresses, and
    /// `local_only` is true. Shared with every connection.
    pub listeners: Vec<Arc<ListenerSettings>>,
    /// True when nobody chose a listener, so that only this machine can connect. Not a key of the
    /// file; the start log and the default of `allow_anonymous` depend on it.
    pub local_only: bool,
    /// Who may come in, and what they may do, where a listener has no rules of its own. Not a key of the file: its fields are.
    /// Without a choice `allow_anonymous` is true in local-only mode, and false as soon as a listener is defined.
    pub security: SecuritySettings,
    /// Network Connections at the same time; 0 = as many as file descriptors allow. At the limit a
    /// new one is closed before anything is read from it.
    pub connections_max: u64,
    /// Seconds from accepting a Network Connection to its whole CONNECT, authentication included;
    /// then it is closed. At least 1.
    pub connect_timeout_seconds: u32,
    /// Seconds between two looks at the files of TLS listeners: what has changed is taken at the second look that finds it the same. 0 =
    /// only at a reload.
    pub certificate_watch_seconds: u32,
    /// Threads that compare passwords, beside the shards; they begin with the first password. Between 1 and 64.
    pub auth_threads: usize,
    /// Passwords that wait to be compared. At the limit a CONNECT with a password is refused with 0x89 (3.x: 3), and comes back
    /// later. At least 1.
    pub auth_queue_max: usize,
    /// Wrong passwords of one user from one address, and a quarter of those of one address, before further ones are refused
    /// unseen for a while that grows, or answered late; 0 = never. See `auth/backoff.rs`.
    pub auth_failures_max: u32,
    /// Whether the session of one user is refused to every other, with 0x87, where user names are checked. If not, whoever has the client id has the
    /// session, as in Mosquitto.
    pub session_bound_to_user: bool,
    /// Seconds that a client may be silent, sent as Server Keep Alive when the client asks for more
    /// or for none; 0 = the client's own Keep Alive holds. A 3.x client, which cannot be told, is
    /// refused.
    pub keep_alive_max: u16,
    /// Seconds that a stop may spend on telling clients and writing what is pending; then it stops
    /// anyway.
    pub shutdown_timeout_seconds: u32,

    // Threads.
    /// Shards, each one thread; `None` = as many as CPUs this process may use. Between 1 and 256.
    pub shards: Option<usize>,

    // Packets.
    /// Bytes of the largest Control Packet read from a client, header included; announced as
    /// Maximum Packet Size. A larger one: DISCONNECT 0x95 and close, before its body is read.
    pub max_packet_size: u32,
    /// Bytes of the largest payload that is passed on; 0 = what fits in `max_packet_size`. A larger one is acknowledged to a 3.x
    /// client, or refused with 0x83 to a 5.0 client, counted, and goes to nobody.
    pub payload_bytes_max: u32,
    /// Bytes of the largest packet read before CONNECT was accepted, and of what is kept unread
    /// while an authentication is pending. A larger one: close, before its body is read.
    pub pre_auth_packet_size_max: u32,
    /// Levels of a Topic Name or Topic Filter. More: DISCONNECT 0x90 or SUBACK 0x8F.
    pub topic_levels_max: u16,
    /// User Properties of one packet. More: DISCONNECT 0x97 and close.
    pub user_properties_max: u16,
    /// Topic Filters of one SUBSCRIBE or UNSUBSCRIBE. More: DISCONNECT 0x97 and close.
    pub topic_filters_max: u16,

    // What CONNACK offers.
    /// QoS 1 and 2 messages that a 5.0 client may have unacknowledged towards us; announced as
    /// Receive Maximum. More: DISCONNECT 0x93 (D22). Between 1 and 65,535.
    pub receive_maximum: u16,
    /// Topic Aliases a client may use towards us; announced as Topic Alias Maximum. 0 = none. A
    /// higher alias: DISCONNECT 0x94.
    pub topic_alias_maximum: u16,
    /// Topic Aliases we use towards a client, if it allows as many. At the limit topics are sent in
    /// full. 0 = none.
    pub topic_alias_maximum_outbound: u16,
    /// Highest QoS a client may publish with: 0, 1 or 2. Above: DISCONNECT 0x9B; a SUBSCRIBE is
    /// granted at most this.
    pub maximum_qos: u8,
    /// Whether retained messages are supported. If not: a PUBLISH or Will with RETAIN 1 is refused
    /// with 0x9A.
    pub retain_available: bool,
    /// Whether Topic Filters may hold `+` and `#`. If not: SUBACK 0xA2.
    pub wildcard_subscription_available: bool,
    /// Whether `$share/...` may be subscribed. If not: SUBACK 0x9E.
    pub shared_subscription_available: bool,
    /// Whether SUBSCRIBE may carry a Subscription Identifier. If not: DISCONNECT 0xA1.
    pub subscription_identifier_available: bool,
    /// Whether answers carry a Reason String that explains a refusal (D24).
    pub reason_strings: bool,

    // Sessions.
    /// Seconds, the longest Session Expiry Interval granted to a 5.0 client, which is told in
    /// CONNACK when it asked for more; `u32::MAX` = sessions may last for ever.
    pub session_expiry_interval_max: u32,
    /// Seconds a 3.x session with clean session 0 outlives its Network Connection; `u32::MAX` = for
    /// ever.
    pub v3_session_expiry_interval: u32,
    /// Sessions, connected or not. At the limit a CONNECT that needs a new one is refused with 0x97;
    /// an existing session can still be resumed.
    pub sessions_max: u64,
    /// Subscriptions of one session. At the limit a new one gets SUBACK 0x97; replacing one works.
    pub subscriptions_per_session_max: u32,
    /// Subscriptions of all sessions. At the limit a new one gets SUBACK 0x97.
    pub subscriptions_max: u64,
    /// Bytes of all Will Messages held. At the limit a CONNECT with a Will is refused with 0x97.
    pub will_bytes_max: u64,
    /// Seconds that the clients of a broker that was killed have to come back before their Wills are published; a longer Will
    /// Delay Interval holds. Whoever comes back is not mourned.
    pub will_restart_grace_seconds: u32,

    // Flow towards subscribers.
    /// QoS 1 and 2 messages sent to a client and not acknowledged; the client's Receive Maximum
    /// holds if it is lower. At the limit further messages wait in the session's queue. Between 1
    /// and 65,535.
    pub inflight_messages_max: u16,
    /// Bytes of the payloads of such messages; 0 = bound by their number only. At the limit further messages wait; one message
    /// may go beyond it.
    pub inflight_bytes_max: u64,
    /// Whether a message is delivered with the QoS of its subscription where that is higher than its own. Not as MQTT has it.
    pub upgrade_outgoing_qos: bool,
    /// Whether a client that matches by several subscriptions gets a copy for each, with its QoS and Subscription Identifier. If
    /// not, it gets one, at the highest QoS and with all Subscription Identifiers. Not for members of share groups, which get theirs anyway.
    pub copy_per_subscription: bool,
    /// Messages queued for one session; 0 = bound by bytes only. At the limit `queue_policy` holds.
    pub queue_messages_max: u64,
    /// Bytes queued for one session. At the limit `queue_policy` holds.
    pub queue_bytes_max: u64,
    /// Bytes queued for all sessions together. At the limit a new message is refused as by
    /// `queue_policy` `refuse`, or with `drop_newest` dropped; `drop_oldest` makes no room here and refuses.
    pub queue_total_bytes_max: u64,
    /// Bytes of one connected session's queue that are held in memory besides being in the store. What comes behind is read
    /// from the store when its turn comes; nothing is held for a session that is not connected. Without `persistence` all
    /// of a queue is in memory. 0 = everything that waits is read from the store.
    pub queue_memory_bytes_max: u64,
    /// The same for all sessions together.
    pub queue_memory_total_bytes_max: u64,
    /// What a full queue does with one more message (D1).
    pub queue_policy: QueuePolicy,
    /// Whether QoS 0 messages are queued for sessions that are not connected.
    pub queue_qos0: bool,
    /// Bytes waiting to be written to one Network Connection. At the limit QoS 0 messages for it
    /// are dropped and counted, and QoS 1 and 2 stay in the session's queue. A client is no longer
    /// read when, on top of this and of one packet of `max_packet_size`, 64 KiB of answers wait.
    pub send_buffer_bytes_max: u32,
    /// Bytes that all Network Connections together did not take when they were written. At the limit
    /// those that are behind get nothing more, as at `send_buffer_bytes_max`; the others go on.
    pub send_bytes_max: u64,
    /// Bytes of deliveries on their way from one shard to another, for each pair of shards. At the
    /// limit the sending shard stops reading from its publishers until what waits is back at the limit.
    pub mail_bytes_max: u64,

    // Flow from publishers.
    /// Bytes of packets that have arrived in part or wait for PUBRELs, over all Network Connections;
    /// each shard has its share. At the limit the connection with the most of them that makes no
    /// progress is closed (D19).
    pub receive_bytes_max: u64,
    /// QoS 2 messages that a 3.x session may leave without PUBREL. At the limit its PUBLISH waits
    /// (PUBREL is still read), at most `qos2_wait_seconds` (D22). At least 1.
    pub qos2_unreleased_max: u16,
    /// Bytes of those messages. At the limit as `qos2_unreleased_max`. As many bytes of PUBLISH
    /// packets may wait; then the connection is no longer read.
    pub qos2_unreleased_bytes_max: u64,
    /// Seconds a PUBLISH waits at either of those two limits; then the connection is closed.
    pub qos2_wait_seconds: u32,

    // Retained messages.
    /// Retained messages. At the limit one for a new topic is refused with 0x97; replacing and
    /// deleting work.
    pub retained_count_max: u64,
    /// Bytes of all retained messages, topics included. At the limit what would grow is refused with
    /// 0x97; replacing with fewer bytes and deleting work.
    pub retained_bytes_max: u64,

    /// Whether what is retained is kept from everybody while its publisher may not publish it any more.
    pub check_retain_source: bool,

    // What survives.
    /// Whether sessions, queued and retained messages are kept on disk. If not, an acknowledgement
    /// means "in memory". `--data` turns it on, `--ephemeral` and `-p` without a file turn it off.
    pub persistence: bool,
    /// Where they are kept; `None` = where this platform keeps such things, see `data.rs`. One
    /// process at a time may use it; a second one does not start.
    pub data_directory: Option<PathBuf>,
    /// A `mosquitto.db` whose sessions, queued and retained messages become the store at the first start, when there is no store
    /// yet; the file is left as it is. `None`, or a file that is not there: nothing is taken over.
    pub mosquitto_db: Option<PathBuf>,
    /// What an acknowledgement survives, where a listener does not say otherwise.
    pub durability: Durability,
    /// Seconds that what nobody waits for may be in memory only: what is retained at QoS 0 (D11), and all where the durability is
    /// `Memory`. It is written before its time where it is much: the names of the topics make 1 MiB, or all of it half of what may be
    /// pending. 1 to 86,400.
    pub write_behind_seconds: u32,
    /// Percent of the file system with the data directory that stays free; 0 = none. Below it the store takes nothing, as when
    /// it has failed, until there is room again. At most 50.
    pub disk_free_min: u8,
    /// Bytes of one shard that are not durable. Above it connections whose last PUBLISH needed the journal are not read, and
    /// above twice that those whose last packet did, until half of it is durable (D4). At least 1.
    pub journal_pending_bytes_max: u64,
    /// Seconds a client waits for an answer that depends on the journal while that makes no progress; then it is closed with
    /// 0x97 (CONNACK 0x88 where it has had none), and repeats what it asked for when it comes back. At least 1.
    pub journal_wait_seconds: u32,

    // The process, its log, and what it publishes of itself.
    /// Who the process is. Not a key of the file: its fields are.
    pub process: ProcessSettings,
    /// Which lines are written, where `log.types` does not say so kind by kind.
    pub log_level: LogLevel,
    /// Where log lines go and how they look. Not a key of the file: its fields are, with `log_` before them.
    pub log: LogSettings,
    /// Seconds between two publications of `$SYS`; 0 = none.
    pub sys_interval_seconds: u32,
    /// Whether `$CONTROL/broker/v1` is answered, to those whom a rule allows to publish there. If not, nobody may. What of a request is
    /// answered is bounded in `control.rs`.
    pub control_api: bool,
    /// Where metrics and health are served over HTTP, to whoever can reach it; `None` = nowhere. The default address may be
    /// taken, which is a warning; any other that cannot be opened stops the start. 16 connections at a time; one more is closed.
    pub http_listener: Option<SocketAddr>,
}

/// What a full queue does with one more message (D1).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum QueuePolicy {
    /// A full session is skipped and counted; if no matching session has room, the publisher gets
    /// 0x97 (a 3.x publisher no acknowledgement).
    #[default]
    Refuse,
    /// The new message is dropped for that session and counted, the publisher sees success.
    DropNewest,
    /// The oldest message that is not in flight makes room, and is counted.
    DropOldest,
}

/// Which log lines are written; each level includes those before it.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub enum LogLevel {
    None,
    Error,
    Warning,
    #[default]
    Information,
    Debug,
    /// Every packet. What `-v` asks for.
    All,
}

impl Settings {
    /// The two loopback listeners that a bare `nightjar`, or `nightjar -p PORT`, opens.
    pub fn loopback_listeners(port: u16) -> [Arc<ListenerSettings>; 2] {
        [
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
        ]
        .map(|address| {
            let endpoint = Endpoint::Tcp(SocketAddr::new(address, port));
            Arc::new(ListenerSettings::at(endpoint))
        })
    }

    /// Takes sockets that were opened for us in the place of the default ones. Nobody chose who may come in through them, so
    /// without a name that is only who is on this machine.
    pub fn listen_only_at(&mut self, endpoints: Vec<Endpoint>) {
        let listener = |endpoint: Endpoint| {
            let is_local = match &endpoint {
                Endpoint::Tcp(address) => address.ip().is_loopback(),
                Endpoint::Unix(_) => true,
            };
            let mut listener = ListenerSettings::at(endpoint);
            listener.allow_anonymous = (!is_local).then_some(false);
            Arc::new(listener)
        };
        self.listeners = endpoints.into_iter().map(listener).collect();
    }

    /// The QoS that a message with this one can be delivered with; its subscriptions may have a lower one.
    #[inline]
    pub fn outgoing_qos(&self, qos: QoS) -> QoS {
        if self.upgrade_outgoing_qos {
            QoS::ExactlyOnce
        } else {
            qos
        }
    }

    /// The listener that accepts at an endpoint.
    pub fn listener_at(&self, endpoint: &Endpoint) -> Option<&Arc<ListenerSettings>> {
        self.listeners
            .iter()
            .find(|listener| listener.endpoints.contains(endpoint))
    }

    /// True when nobody may ask what `control_api` tells: it takes a rule.
    pub fn tells_nobody(&self) -> bool {
        self.listeners.iter().all(|listener| {
            let security = listener.security.as_ref().unwrap_or(&self.security);
            security.acl_file.is_none()
        })
    }

    /// True when no client can be accepted: nobody without a name, and there are no names.
    pub fn refuses_everybody(&self) -> bool {
        self.listeners.iter().all(|listener| {
            let security = listener.security.as_ref().unwrap_or(&self.security);
            let anonymous = listener.allow_anonymous.unwrap_or(security.allow_anonymous);
            let has_names = listener.tls.as_ref().is_some_and(TlsSettings::names_users);
            !anonymous && !has_names && security.password_file.is_none()
        })
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listeners: Self::loopback_listeners(DEFAULT_PORT).into(),
            local_only: true,
            security: SecuritySettings::default(),
            connections_max: 0,
            connect_timeout_seconds: 10,
            certificate_watch_seconds: 1,
            auth_threads: 2,
            auth_queue_max: 1_000,
            auth_failures_max: 5,
            session_bound_to_user: true,
            keep_alive_max: 0,
            shutdown_timeout_seconds: 5,
            shards: None,
            max_packet_size: 2_000_000,
            payload_bytes_max: 0,
            pre_auth_packet_size_max: 65_536,
            topic_levels_max: 200,
            user_properties_max: 1_000,
            topic_filters_max: 10_000,
            receive_maximum: 20,
            topic_alias_maximum: 10,
            topic_alias_maximum_outbound: 10,
            maximum_qos: 2,
            retain_available: true,
            wildcard_subscription_available: true,
            shared_subscription_available: true,
            subscription_identifier_available: true,
            reason_strings: false,
            session_expiry_interval_max: u32::MAX,
            v3_session_expiry_interval: u32::MAX,
            sessions_max: 1_000_000,
            subscriptions_per_session_max: 100_000,
            subscriptions_max: 10_000_000,
            will_bytes_max: 256 * MIB,
            will_restart_grace_seconds: 30,
            inflight_messages_max: 10_000,
            inflight_bytes_max: 0,
            upgrade_outgoing_qos: false,
            copy_per_subscription: false,
            queue_messages_max: 0,
            queue_bytes_max: 256 * MIB,
            queue_total_bytes_max: 4_096 * MIB,
            queue_memory_bytes_max: MIB,
            queue_memory_total_bytes_max: 256 * MIB,
            queue_policy: QueuePolicy::Refuse,
            queue_qos0: false,
            send_buffer_bytes_max: 1_048_576,
            send_bytes_max: 512 * MIB,
            mail_bytes_max: 16 * MIB,
            receive_bytes_max: 256 * MIB,
            qos2_unreleased_max: 1_000,
            qos2_unreleased_bytes_max: 16 * MIB,
            qos2_wait_seconds: 60,
            retained_count_max: 1_000_000,
            retained_bytes_max: 1_024 * MIB,
            check_retain_source: true,
            persistence: true,
            data_directory: None,
            mosquitto_db: None,
            durability: Durability::Synced,
            write_behind_seconds: 1,
            disk_free_min: 5,
            journal_pending_bytes_max: 64 * MIB,
            journal_wait_seconds: 10,
            process: ProcessSettings::default(),
            log_level: LogLevel::Information,
            log: LogSettings::default(),
            sys_interval_seconds: 10,
            control_api: false,
            http_listener: Some(DEFAULT_HTTP_LISTENER),
        }
    }
}

const MIB: u64 = 1_048_576;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_broker_listens_on_loopback_only() {
        let settings = Settings::default();
        assert!(settings.local_only && settings.security.allow_anonymous);
        assert_eq!(settings.listeners.len(), 2);
        for listener in &settings.listeners {
            let [Endpoint::Tcp(address)] = listener.endpoints[..] else {
                panic!("{listener:?}");
            };
            assert!(address.ip().is_loopback());
            assert_eq!(address.port(), 1883);
        }
    }

    /// A 5.0 CONNACK shows these three; Mosquitto's clients and tests compare its bytes.
    #[test]
    fn connack_limits_are_those_of_mosquitto() {
        let settings = Settings::default();
        assert_eq!(settings.topic_alias_maximum, 10);
        assert_eq!(settings.max_packet_size, 2_000_000);
        assert_eq!(settings.receive_maximum, 20);
    }
}
