//! The table of the keys of `nightjar.toml`: name, range and where a value goes.

use super::key::{Key, Kind, Unit, Written};
use crate::settings::{
    AclSubscribe, LogDestination, LogFormat, LogLevel, LogTypes, QueuePolicy, RunAs, Settings,
};
use nightjar_storage::Durability;

macro_rules! switch {
    ($field:ident) => {
        Key {
            name: stringify!($field),
            kind: Kind::Switch(|settings, on| settings.$field = on),
            get: |settings| Some(Written::Switch(settings.$field)),
        }
    };
}

macro_rules! number {
    ($field:ident, $unit:ident, $minimum:expr, $maximum:expr, $advice:expr) => {
        Key {
            name: stringify!($field),
            kind: Kind::Number {
                unit: Unit::$unit,
                minimum: $minimum,
                maximum: $maximum,
                advice: $advice,
                set: |settings, number| match number.try_into() {
                    Ok(number) => {
                        settings.$field = number;
                        true
                    }
                    Err(_) => false,
                },
            },
            get: |settings| {
                Some(Written::Number(
                    settings.$field.try_into().unwrap_or(u64::MAX),
                ))
            },
        }
    };
}

pub(super) const KEYS: &[Key<Settings>] = &[
    Key {
        name: "allow_anonymous",
        kind: Kind::Switch(|settings, on| settings.security.allow_anonymous = on),
        get: |settings| Some(Written::Switch(settings.security.allow_anonymous)),
    },
    number!(
        connections_max,
        Count,
        0,
        COUNT_MAX,
        "0 means as many as file descriptors allow"
    ),
    number!(
        connect_timeout_seconds,
        Seconds,
        1,
        HOUR,
        "without a limit, silent connections would fill the broker"
    ),
    number!(
        certificate_watch_seconds,
        Seconds,
        0,
        HOUR,
        "0 looks at the files at a reload only"
    ),
    number!(
        auth_threads,
        Count,
        1,
        64,
        "without one, no password could be compared"
    ),
    number!(
        auth_queue_max,
        Count,
        1,
        COUNT_MAX,
        "one that waits is the least"
    ),
    number!(
        auth_failures_max,
        Count,
        0,
        COUNT_MAX,
        "0 never refuses anybody unseen"
    ),
    switch!(session_bound_to_user),
    number!(
        keep_alive_max,
        Seconds,
        0,
        U16,
        "0 leaves the choice to the client"
    ),
    number!(
        shutdown_timeout_seconds,
        Seconds,
        0,
        HOUR,
        "0 stops at once"
    ),
    Key {
        name: "shards",
        kind: Kind::Number {
            unit: Unit::Count,
            minimum: 1,
            maximum: 256,
            advice: "leave the key out to use every CPU",
            set: |settings, number| {
                settings.shards = usize::try_from(number).ok();
                settings.shards.is_some()
            },
        },
        get: |settings| {
            settings
                .shards
                .and_then(|shards| u64::try_from(shards).ok())
                .map(Written::Number)
        },
    },
    number!(
        max_packet_size,
        Bytes,
        PACKET_MIN,
        PACKET_MAX,
        "MQTT has no larger packets, and with a smaller limit clients could not connect"
    ),
    number!(
        payload_bytes_max,
        Bytes,
        0,
        PACKET_MAX,
        "0 means what fits in max_packet_size"
    ),
    number!(
        pre_auth_packet_size_max,
        Bytes,
        PACKET_MIN,
        PACKET_MAX,
        "a CONNECT with its Will must fit"
    ),
    number!(
        topic_levels_max,
        Count,
        1,
        U16,
        "a topic of 65,535 bytes has no more levels"
    ),
    number!(
        user_properties_max,
        Count,
        0,
        U16,
        "0 refuses every packet with a User Property"
    ),
    number!(
        topic_filters_max,
        Count,
        1,
        U16,
        "one SUBSCRIBE holds at least one"
    ),
    number!(receive_maximum, Count, 1, U16, "MQTT does not allow 0"),
    number!(topic_alias_maximum, Count, 0, U16, "0 means none"),
    number!(topic_alias_maximum_outbound, Count, 0, U16, "0 means none"),
    number!(maximum_qos, Count, 0, 2, "MQTT has QoS 0, 1 and 2"),
    switch!(retain_available),
    switch!(wildcard_subscription_available),
    switch!(shared_subscription_available),
    switch!(subscription_identifier_available),
    switch!(reason_strings),
    number!(
        session_expiry_interval_max,
        Expiry,
        0,
        U32,
        "0 ends every session with its connection, \"never\" lets a client keep it for ever"
    ),
    number!(
        v3_session_expiry_interval,
        Expiry,
        0,
        U32,
        "0 ends every session with its connection, \"never\" keeps it for ever"
    ),
    number!(
        sessions_max,
        Count,
        1,
        COUNT_MAX,
        "with 0 no client could connect"
    ),
    number!(
        subscriptions_per_session_max,
        Count,
        1,
        COUNT_MAX,
        "with 0 no client could subscribe"
    ),
    number!(
        subscriptions_max,
        Count,
        1,
        TOTAL_COUNT_MAX,
        "with 0 no client could subscribe"
    ),
    number!(
        will_bytes_max,
        Bytes,
        1,
        BYTES_MAX,
        "with 0 no client could connect with a Will"
    ),
    number!(
        will_restart_grace_seconds,
        Seconds,
        0,
        HOUR,
        "0 publishes them at once, unless they ask for a delay"
    ),
    number!(
        inflight_messages_max,
        Count,
        1,
        U16,
        "0 would deliver nothing, and MQTT has 65,535 packet identifiers"
    ),
    number!(
        inflight_bytes_max,
        Bytes,
        0,
        BYTES_MAX,
        "0 is no bound by bytes"
    ),
    switch!(upgrade_outgoing_qos),
    switch!(copy_per_subscription),
    number!(
        queue_messages_max,
        Count,
        0,
        TOTAL_COUNT_MAX,
        "0 means bound by queue_bytes_max only"
    ),
    number!(
        queue_bytes_max,
        Bytes,
        1,
        BYTES_MAX,
        "a queue without a bound would end in a broker without memory"
    ),
    number!(
        queue_total_bytes_max,
        Bytes,
        1,
        BYTES_MAX,
        "a queue without a bound would end in a broker without memory"
    ),
    number!(
        queue_memory_bytes_max,
        Bytes,
        0,
        BYTES_MAX,
        "0 reads everything that waits from the store"
    ),
    number!(
        queue_memory_total_bytes_max,
        Bytes,
        0,
        BYTES_MAX,
        "0 reads everything that waits from the store"
    ),
    Key {
        name: "queue_policy",
        kind: Kind::Choice {
            words: &["refuse", "drop_newest", "drop_oldest"],
            set: |settings, word| {
                settings.queue_policy = match word {
                    "refuse" => QueuePolicy::Refuse,
                    "drop_newest" => QueuePolicy::DropNewest,
                    "drop_oldest" => QueuePolicy::DropOldest,
                    _ => return false,
                };
                true
            },
        },
        get: |settings| {
            let word = match settings.queue_policy {
                QueuePolicy::Refuse => "refuse",
                QueuePolicy::DropNewest => "drop_newest",
                QueuePolicy::DropOldest => "drop_oldest",
            };
            Some(Written::Text(word.into()))
        },
    },
    switch!(queue_qos0),
    number!(
        send_buffer_bytes_max,
        Bytes,
        BUFFER_MIN,
        GIB,
        "a connection needs room for what is being written"
    ),
    number!(
        send_bytes_max,
        Bytes,
        TOTAL_BUFFER_MIN,
        BYTES_MAX,
        "all connections share this room"
    ),
    number!(
        mail_bytes_max,
        Bytes,
        TOTAL_BUFFER_MIN,
        BYTES_MAX,
        "shards hand each other whole batches"
    ),
    number!(
        receive_bytes_max,
        Bytes,
        TOTAL_BUFFER_MIN,
        BYTES_MAX,
        "all connections share this room"
    ),
    number!(
        qos2_unreleased_max,
        Count,
        1,
        U16,
        "with 0 no 3.x client could publish with QoS 2"
    ),
    number!(
        qos2_unreleased_bytes_max,
        Bytes,
        TOTAL_BUFFER_MIN,
        BYTES_MAX,
        "one message must fit"
    ),
    number!(qos2_wait_seconds, Seconds, 0, HOUR, "0 closes at once"),
    number!(
        write_behind_seconds,
        Seconds,
        1,
        DAY,
        "the longer, the more a power cut takes of what was promised to nobody"
    ),
    number!(
        disk_free_min,
        Count,
        0,
        50,
        "percent of the file system; 0 fills it to the last byte"
    ),
    number!(
        journal_pending_bytes_max,
        Bytes,
        TOTAL_BUFFER_MIN,
        BYTES_MAX,
        "one message must fit"
    ),
    number!(
        journal_wait_seconds,
        Seconds,
        1,
        HOUR,
        "a disk may take its time"
    ),
    number!(
        retained_count_max,
        Count,
        1,
        TOTAL_COUNT_MAX,
        "retain_available = false turns retained messages off"
    ),
    number!(
        retained_bytes_max,
        Bytes,
        1,
        BYTES_MAX,
        "retain_available = false turns retained messages off"
    ),
    switch!(check_retain_source),
    switch!(persistence),
    Key {
        name: "data_directory",
        kind: Kind::Path(|settings, path| settings.data_directory = Some(path)),
        get: |settings| settings.data_directory.as_deref().map(Written::path),
    },
    Key {
        name: "mosquitto_db",
        kind: Kind::Path(|settings, path| settings.mosquitto_db = Some(path)),
        get: |settings| settings.mosquitto_db.as_deref().map(Written::path),
    },
    Key {
        name: "durability",
        kind: Kind::Choice {
            words: DURABILITIES,
            set: |settings, word| match durability(word) {
                Some(durability) => {
                    settings.durability = durability;
                    true
                }
                None => false,
            },
        },
        get: |settings| Some(Written::Text(durability_word(settings.durability).into())),
    },
    Key {
        name: "log_level",
        kind: Kind::Choice {
            words: &["none", "error", "warning", "information", "debug", "all"],
            set: |settings, word| {
                settings.log_level = match word {
                    "none" => LogLevel::None,
                    "error" => LogLevel::Error,
                    "warning" => LogLevel::Warning,
                    "information" => LogLevel::Information,
                    "debug" => LogLevel::Debug,
                    "all" => LogLevel::All,
                    _ => return false,
                };
                true
            },
        },
        get: |settings| {
            let word = match settings.log_level {
                LogLevel::None => "none",
                LogLevel::Error => "error",
                LogLevel::Warning => "warning",
                LogLevel::Information => "information",
                LogLevel::Debug => "debug",
                LogLevel::All => "all",
            };
            Some(Written::Text(word.into()))
        },
    },
    Key {
        name: "user",
        kind: Kind::Text {
            expected: "the name of a user",
            set: |settings, name| {
                settings.process.user = match name {
                    "" => return false,
                    "root" => RunAs::Unchanged,
                    MOSQUITTO_OR_NOBODY => RunAs::MosquittoOrNobody,
                    name => RunAs::User(name.into()),
                };
                true
            },
        },
        get: |settings| {
            let name = match &settings.process.user {
                RunAs::Unchanged => "root",
                RunAs::MosquittoOrNobody => MOSQUITTO_OR_NOBODY,
                RunAs::User(name) => name,
            };
            Some(Written::Text(name.into()))
        },
    },
    Key {
        name: "pid_file",
        kind: Kind::Path(|settings, path| settings.process.pid_file = Some(path)),
        get: |settings| settings.process.pid_file.as_deref().map(Written::path),
    },
    Key {
        name: "log_destinations",
        kind: Kind::List {
            expected: "a list of \"stderr\", \"stdout\", \"syslog\", \"topic\" and \"file:PATH\"",
            set: |settings, words| {
                let destinations: Option<Vec<_>> =
                    words.iter().map(|word| destination(word)).collect();
                destinations.is_some_and(|destinations| {
                    settings.log.destinations = destinations;
                    true
                })
            },
        },
        get: |settings| {
            let words = settings
                .log
                .destinations
                .iter()
                .map(|destination| match destination {
                    LogDestination::Stderr => "stderr".into(),
                    LogDestination::Stdout => "stdout".into(),
                    LogDestination::Syslog => "syslog".into(),
                    LogDestination::Topic => "topic".into(),
                    LogDestination::File(path) => format!("file:{}", path.display()),
                });
            Some(Written::List(words.collect()))
        },
    },
    Key {
        name: "log_types",
        kind: Kind::List {
            expected: "a list of \"error\", \"warning\", \"notice\", \"information\", \"debug\", \"subscribe\", \
                       \"unsubscribe\", \"websockets\" and \"internal\"",
            set: |settings, words| {
                let mut types = LogTypes::NONE;
                for word in words {
                    match types.by_name(word) {
                        Some(switch) => *switch = true,
                        None => return false,
                    }
                }
                settings.log.types = Some(types);
                true
            },
        },
        get: |settings| {
            let mut types = settings.log.types?;
            let names = LogTypes::NAMES.into_iter();
            let chosen = names.filter(|name| types.by_name(name).is_some_and(|switch| *switch));
            Some(Written::List(chosen.map(Into::into).collect()))
        },
    },
    Key {
        name: "log_timestamp",
        kind: Kind::Switch(|settings, on| settings.log.timestamp = on),
        get: |settings| Some(Written::Switch(settings.log.timestamp)),
    },
    Key {
        name: "log_timestamp_format",
        kind: Kind::Text {
            expected: "a format as of strftime, such as \"%Y-%m-%dT%H:%M:%S\"",
            set: |settings, text| {
                settings.log.timestamp_format = Some(text.into());
                !text.is_empty()
            },
        },
        get: |settings| {
            settings
                .log
                .timestamp_format
                .as_deref()
                .map(|text| Written::Text(text.into()))
        },
    },
    Key {
        name: "log_format",
        kind: Kind::Choice {
            words: &["text", "json"],
            set: |settings, word| {
                settings.log.format = match word {
                    "text" => LogFormat::Text,
                    "json" => LogFormat::Json,
                    _ => return false,
                };
                true
            },
        },
        get: |settings| {
            let word = match settings.log.format {
                LogFormat::Text => "text",
                LogFormat::Json => "json",
            };
            Some(Written::Text(word.into()))
        },
    },
    Key {
        name: "log_facility",
        kind: Kind::Choice {
            words: FACILITIES,
            set: |settings, word| {
                settings.log.facility = match word.strip_prefix("local") {
                    Some(number) => number.parse().ok(),
                    None => None,
                };
                FACILITIES.contains(&word)
            },
        },
        get: |settings| {
            let word = settings.log.facility.map(|number| format!("local{number}"));
            Some(Written::Text(word.unwrap_or_else(|| "daemon".into())))
        },
    },
    Key {
        name: "log_connection_messages",
        kind: Kind::Switch(|settings, on| settings.log.connection_messages = on),
        get: |settings| Some(Written::Switch(settings.log.connection_messages)),
    },
    number!(
        sys_interval_seconds,
        Seconds,
        0,
        U16,
        "0 publishes nothing of $SYS"
    ),
    switch!(control_api),
    Key {
        name: "http_listener",
        kind: Kind::Text {
            expected: "an address such as \"127.0.0.1:9884\", or \"off\"",
            set: |settings, text| {
                settings.http_listener = text.parse().ok();
                settings.http_listener.is_some() || text == "off"
            },
        },
        get: |settings| {
            let address = settings.http_listener.map(|address| address.to_string());
            Some(Written::Text(address.unwrap_or_else(|| "off".into())))
        },
    },
    Key {
        name: "password_file",
        kind: Kind::Path(|settings, path| settings.security.password_file = Some(path)),
        get: |settings| {
            settings
                .security
                .password_file
                .as_deref()
                .map(Written::path)
        },
    },
    Key {
        name: "acl_file",
        kind: Kind::Path(|settings, path| settings.security.acl_file = Some(path)),
        get: |settings| settings.security.acl_file.as_deref().map(Written::path),
    },
    Key {
        name: "acl_subscribe",
        kind: Kind::Choice {
            words: ACL_SUBSCRIBE,
            set: |settings, word| {
                acl_subscribe(word).is_some_and(|choice| {
                    settings.security.acl_subscribe = choice;
                    true
                })
            },
        },
        get: |settings| {
            Some(Written::Text(
                acl_subscribe_word(settings.security.acl_subscribe).into(),
            ))
        },
    },
    Key {
        name: "allow_zero_length_client_id",
        kind: Kind::Switch(|settings, on| settings.security.allow_zero_length_client_id = on),
        get: |settings| {
            Some(Written::Switch(
                settings.security.allow_zero_length_client_id,
            ))
        },
    },
    Key {
        name: "auto_id_prefix",
        kind: Kind::Text {
            expected: "text of at most 50 bytes",
            set: |settings, prefix| {
                settings.security.auto_id_prefix = prefix.into();
                prefix.len() <= 50
            },
        },
        get: |settings| {
            Some(Written::Text(
                settings.security.auto_id_prefix.clone().into(),
            ))
        },
    },
];

const FACILITIES: &[&str] = &[
    "daemon", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
];

fn destination(word: &str) -> Option<LogDestination> {
    Some(match word {
        "stderr" => LogDestination::Stderr,
        "stdout" => LogDestination::Stdout,
        "syslog" => LogDestination::Syslog,
        "topic" => LogDestination::Topic,
        word => {
            let path = word.strip_prefix("file:").filter(|path| !path.is_empty())?;
            LogDestination::File(path.into())
        }
    })
}

pub(super) const DURABILITIES: &[&str] = &["synced", "written", "memory"];

pub(super) fn durability(word: &str) -> Option<Durability> {
    match word {
        "synced" => Some(Durability::Synced),
        "written" => Some(Durability::Written),
        "memory" => Some(Durability::Memory),
        _ => None,
    }
}

pub(super) const U16: u64 = 65_535;
pub(super) const U32: u64 = 4_294_967_295;
const HOUR: u64 = 3_600;
const DAY: u64 = 24 * HOUR;
/// Things that are counted in 32 bits.
pub(super) const COUNT_MAX: u64 = U32;
/// Sums of such things. Far from overflow when two are added.
const TOTAL_COUNT_MAX: u64 = 1 << 40;
const GIB: u64 = 1 << 30;
/// 1 PiB: more than any machine has, and far from overflow when two are added.
pub(super) const BYTES_MAX: u64 = 1 << 50;
/// The shortest CONNECT of a 5.0 client fits, and Mosquitto has the same limit.
const PACKET_MIN: u64 = 20;
/// A fixed header of 5 bytes and the largest Remaining Length.
const PACKET_MAX: u64 = 268_435_460;
const BUFFER_MIN: u64 = 4_096;
const TOTAL_BUFFER_MIN: u64 = 65_536;

/// What a mosquitto.conf without `user` means.
const MOSQUITTO_OR_NOBODY: &str = "mosquitto|nobody";

pub(super) const ACL_SUBSCRIBE: &[&str] = &["strict", "mosquitto"];

pub(super) fn acl_subscribe(word: &str) -> Option<AclSubscribe> {
    match word {
        "strict" => Some(AclSubscribe::Strict),
        "mosquitto" => Some(AclSubscribe::Mosquitto),
        _ => None,
    }
}

pub(super) fn acl_subscribe_word(choice: AclSubscribe) -> &'static str {
    match choice {
        AclSubscribe::Strict => "strict",
        AclSubscribe::Mosquitto => "mosquitto",
    }
}

pub(super) fn durability_word(durability: Durability) -> &'static str {
    match durability {
        Durability::Synced => "synced",
        Durability::Written => "written",
        Durability::Memory => "memory",
    }
}
