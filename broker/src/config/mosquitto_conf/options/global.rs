//! Options of the whole broker.

use super::{Kind, Opt, Scope};
use crate::config::mosquitto_conf::{Fate, Outcome, draft, plugin, values::show};
use crate::settings::{LogDestination, LogTypes, RunAs};
use std::path::PathBuf;

const SAME: Outcome = Ok(Fate::Same);

/// A row of a global option.
macro_rules! global {
    ($name:literal, $kind:expr, $key:literal, $set:expr) => {
        Opt {
            name: $name,
            scope: Scope::Global,
            kind: $kind,
            key: $key,
            set: $set,
        }
    };
}

const INT: Kind = Kind::Number(-I32, I32);
const I32: i64 = 2_147_483_647;
const U32: i64 = 4_294_967_295;
/// Bytes that `nightjar.toml` can say.
const BYTES_MAX: i64 = 1 << 50;
/// Of a payload and of a packet, by the protocol.
const MQTT_BYTES_MAX: i64 = 268_435_455;

pub(super) const OPTIONS: &[Opt] = &[
    // The process.
    global!("user", Kind::Text, "user", |draft, given| {
        draft.settings.process.user = match given.text() {
            "root" => RunAs::Unchanged,
            name => RunAs::User(name.into()),
        };
        SAME
    }),
    global!("pid_file", Kind::Text, "pid_file", |draft, given| {
        draft.settings.process.pid_file = Some(given.text().into());
        SAME
    }),
    // Listeners.
    global!("listener", Kind::Line, "listeners.address", draft::listener),
    global!(
        "port",
        Kind::Number(-I32, I32),
        "listeners.address",
        |draft, given| {
            let port = u16::try_from(given.number()).ok().filter(|port| *port != 0);
            let port = port.ok_or_else(|| {
                format!("Invalid 'port' value ({}). Use 1 to 65535.", given.number())
            })?;
            draft.open_default_listener().port = port;
            Ok(Fate::changed(
                "deprecated in Mosquitto; a listener of its own",
            ))
        }
    ),
    global!(
        "bind_address",
        Kind::Text,
        "listeners.address",
        |draft, given| {
            draft.open_default_listener().host = Some(given.text().into());
            Ok(Fate::changed(
                "deprecated in Mosquitto; a listener of its own",
            ))
        }
    ),
    global!("per_listener_settings", Kind::Switch, "", |draft, given| {
        if given.on() && draft.has_security() {
            return Err(
                "'per_listener_settings' must be set before any other security settings. Move it to the top of the file."
                    .into(),
            );
        }
        draft.per_listener = given.on();
        Ok(Fate::changed(
            "each listener has a section [listeners.security]",
        ))
    }),
    // Sessions and flow.
    global!(
        "max_inflight_messages",
        INT,
        "inflight_messages_max",
        |draft, given| {
            if given.number() > 65_535 {
                return Err(
                    "'max_inflight_messages' must be <= 65535. Write 0 for as many as MQTT allows."
                        .into(),
                );
            }
            let number = match given.clamped(u16::MAX) {
                0 => u16::MAX,
                number => number,
            };
            draft.settings.inflight_messages_max = number;
            draft.settings.receive_maximum = number;
            Ok(Fate::changed(
                "receive_maximum has the same number, as CONNACK says",
            ))
        }
    ),
    global!(
        "max_inflight_bytes",
        Kind::Number(0, i64::MAX),
        "inflight_bytes_max",
        |draft, given| {
            let bytes = given.number().min(BYTES_MAX);
            draft.settings.inflight_bytes_max = u64::try_from(bytes).unwrap_or(0);
            SAME
        }
    ),
    global!(
        "max_queued_messages",
        INT,
        "queue_messages_max",
        |draft, given| {
            draft.settings.queue_messages_max = given.clamped(u64::MAX);
            Ok(match draft.settings.queue_messages_max {
                0 => Fate::changed(
                    "no bound by number, but queue_bytes_max (256 MiB a session) holds",
                ),
                _ => Fate::Same,
            })
        }
    ),
    global!(
        "max_queued_bytes",
        Kind::Number(0, i64::MAX),
        "queue_bytes_max",
        |draft, given| {
            match given.number() {
                0 => Ok(Fate::changed(
                    "0 is no bound there; here 256 MiB a session hold",
                )),
                number => {
                    draft.settings.queue_bytes_max =
                        u64::try_from(number.min(BYTES_MAX)).unwrap_or(1);
                    SAME
                }
            }
        }
    ),
    global!(
        "queue_qos0_messages",
        Kind::Switch,
        "queue_qos0",
        |draft, given| {
            draft.settings.queue_qos0 = given.on();
            SAME
        }
    ),
    global!("max_keepalive", INT, "keep_alive_max", |draft, given| {
        let seconds = u16::try_from(given.number()).map_err(|_| {
            format!(
                "Invalid 'max_keepalive' value ({}). Use 0 to 65535 seconds.",
                given.number()
            )
        })?;
        draft.settings.keep_alive_max = seconds;
        SAME
    }),
    global!("max_packet_size", INT, "max_packet_size", |draft, given| {
        if given.number() < 20 {
            return Err(
                "'max_packet_size' must be >= 20. Smaller ones leave no room for a CONNECT.".into(),
            );
        }
        let bytes = given.number().min(MQTT_BYTES_MAX + 5);
        draft.settings.max_packet_size = u32::try_from(bytes).unwrap_or(u32::MAX);
        SAME
    }),
    global!(
        "message_size_limit",
        INT,
        "payload_bytes_max",
        |draft, given| {
            if !(0..=MQTT_BYTES_MAX).contains(&given.number()) {
                return Err(format!(
                    "Invalid 'message_size_limit' value ({}). Use 0 to {MQTT_BYTES_MAX} bytes.",
                    given.number()
                ));
            }
            draft.settings.payload_bytes_max = given.clamped(u32::MAX);
            SAME
        }
    ),
    global!(
        "memory_limit",
        Kind::Number(-i64::MAX, i64::MAX),
        "retained_bytes_max",
        |draft, given| {
            match given.number() {
                ..0 => Err(format!(
                    "Invalid 'memory_limit' value ({}). Use 0 or more bytes.",
                    given.number()
                )),
                0 => Ok(Fate::ignored("0 is no limit there either")),
                bytes => {
                    draft.memory_limit = u64::try_from(bytes).ok();
                    Ok(Fate::changed(
                        "shared out: a quarter each for retained messages and for queues in memory, an eighth each for what is being \
                         sent, received, and wills",
                    ))
                }
            }
        }
    ),
    global!("global_max_clients", INT, "sessions_max", |draft, given| {
        if given.number() > 0 {
            draft.settings.sessions_max = given.clamped(u64::MAX);
            return SAME;
        }
        Ok(Fate::changed("no limit there; here a million sessions"))
    }),
    global!(
        "global_max_connections",
        INT,
        "connections_max",
        |draft, given| {
            draft.settings.connections_max = given.clamped(u64::MAX);
            SAME
        }
    ),
    global!(
        "allow_duplicate_messages",
        Kind::Switch,
        "copy_per_subscription",
        |draft, given| {
            draft.settings.copy_per_subscription = given.on();
            SAME
        }
    ),
    global!(
        "upgrade_outgoing_qos",
        Kind::Switch,
        "upgrade_outgoing_qos",
        |draft, given| {
            draft.settings.upgrade_outgoing_qos = given.on();
            SAME
        }
    ),
    global!("set_tcp_nodelay", Kind::Switch, "", |_, given| {
        Ok(if given.on() {
            Fate::Same
        } else {
            Fate::ignored("TCP_NODELAY is always on")
        })
    }),
    global!(
        "persistent_client_expiration",
        Kind::Line,
        "session_expiry_interval_max",
        |draft, given| {
            let seconds = duration(given.text()).ok_or_else(|| {
                format!(
                    "Invalid 'persistent_client_expiration' duration in configuration ({}). \
                 Write a number and a unit: 30s, 12h, 14d, 2w, 1m or 1y.",
                    show(given.text())
                )
            })?;
            draft.settings.session_expiry_interval_max = seconds;
            draft.settings.v3_session_expiry_interval = seconds;
            Ok(Fate::changed("3.x and 5.0 have keys of their own"))
        }
    ),
    global!("clientid_prefixes", Kind::Text, "", |_, _| {
        Err("'clientid_prefixes' is not supported: it would let in everybody who should be kept out. \
             Use acl_file with patterns (%c), or remove the line.".into())
    }),
    // Retained messages.
    global!(
        "retain_available",
        Kind::Switch,
        "retain_available",
        |draft, given| {
            draft.settings.retain_available = given.on();
            SAME
        }
    ),
    global!(
        "retain_expiry_interval",
        Kind::Number(0, I32),
        "",
        |_, _| {
            Ok(Fate::ignored(
                "retained messages whose time is over are always looked for and removed",
            ))
        }
    ),
    global!(
        "check_retain_source",
        Kind::Switch,
        "check_retain_source",
        |draft, given| {
            draft.settings.check_retain_source = given.on();
            SAME
        }
    ),
    // What survives.
    global!(
        "persistence",
        Kind::Switch,
        "persistence",
        |draft, given| {
            draft.settings.persistence = given.on();
            Ok(if given.on() {
                Fate::changed("what is acknowledged is on disk first, not at the next autosave")
            } else {
                Fate::Same
            })
        }
    ),
    global!(
        "persistence_location",
        Kind::Text,
        "data_directory",
        |draft, given| {
            draft.location = Some(PathBuf::from(given.text()));
            SAME
        }
    ),
    global!("persistence_file", Kind::Text, "", |draft, given| {
        if given.text().contains('/') {
            return Err(format!(
                "Invalid 'persistence_file' value ({}). It is a name; the directory is persistence_location.",
                show(given.text())
            ));
        }
        draft.old_store = Some(given.text().into());
        Ok(Fate::changed(
            "it is read once, into the store nightjar.redb in persistence_location",
        ))
    }),
    global!(
        "autosave_interval",
        INT,
        "write_behind_seconds",
        |draft, given| {
            draft.autosave_interval = Some(given.number());
            Ok(Fate::changed(
                "what is acknowledged is on disk before that; what is retained at QoS 0 is so much later",
            ))
        }
    ),
    global!("autosave_on_changes", Kind::Switch, "", |draft, given| {
        draft.autosave_on_changes = given.on();
        Ok(Fate::ignored(
            "everything is on disk before it is acknowledged",
        ))
    }),
    global!("retry_interval", Kind::Any, "", |_, _| {
        Ok(Fate::ignored(
            "messages are sent again when a client comes back, as MQTT asks",
        ))
    }),
    // What it says of itself.
    global!(
        "connection_messages",
        Kind::Switch,
        "log_connection_messages",
        |draft, given| {
            draft.settings.log.connection_messages = given.on();
            SAME
        }
    ),
    global!("log_dest", Kind::Line, "log_destinations", log_dest),
    global!("log_type", Kind::Line, "log_types", |draft, given| {
        let word = given.words().next().unwrap_or_default();
        let types = draft.settings.log.types.get_or_insert(LogTypes::NONE);
        match word {
            "none" => *types = LogTypes::NONE,
            "all" => *types = LogTypes::ALL,
            word => match types.by_name(word) {
                Some(switch) => *switch = true,
                None => {
                    return Err(format!(
                        "Invalid 'log_type' value ({}). Use {}, none or all.",
                        show(word),
                        LogTypes::NAMES.join(", ")
                    ));
                }
            },
        }
        SAME
    }),
    global!(
        "log_timestamp",
        Kind::Switch,
        "log_timestamp",
        |draft, given| {
            draft.settings.log.timestamp = given.on();
            SAME
        }
    ),
    global!(
        "log_timestamp_format",
        Kind::Text,
        "log_timestamp_format",
        |draft, given| {
            draft.settings.log.timestamp_format = Some(given.text().into());
            SAME
        }
    ),
    global!("log_facility", INT, "log_facility", |draft, given| {
        let facility = u8::try_from(given.number())
            .ok()
            .filter(|number| *number <= 7);
        draft.settings.log.facility = Some(facility.ok_or_else(|| {
            format!(
                "Invalid 'log_facility' value ({}). Use 0 to 7 for local0 to local7.",
                given.number()
            )
        })?);
        SAME
    }),
    global!(
        "sys_interval",
        INT,
        "sys_interval_seconds",
        |draft, given| {
            if !(0..=65_535).contains(&given.number()) {
                return Err(format!(
                    "Invalid 'sys_interval' value ({}). Use 0 to 65535 seconds.",
                    given.number()
                ));
            }
            draft.settings.sys_interval_seconds = given.clamped(u32::MAX);
            SAME
        }
    ),
    global!("websockets_log_level", INT, "", |_, _| {
        Ok(Fate::ignored(
            "there is no libwebsockets here; see log_type websockets",
        ))
    }),
    global!("packet_buffer_size", INT, "", |_, given| {
        if !(0..=65_535).contains(&given.number()) {
            return Err(format!(
                "Packet buffer size must be between 0 and 65535 inclusive. It is {}.",
                given.number()
            ));
        }
        Ok(Fate::ignored("buffers have the size that is needed"))
    }),
    global!(
        "enable_control_api",
        Kind::Switch,
        "control_api",
        |draft, given| {
            draft.settings.control_api = given.on();
            SAME
        }
    ),
    // Plugins.
    global!("global_plugin", Kind::Line, "", |draft, given| {
        plugin::global(draft, given.text())
    }),
    global!("plugin_load", Kind::Line, "", |draft, given| plugin::load(
        draft, given
    )),
    Opt {
        name: "plugin",
        scope: Scope::Security,
        kind: Kind::Line,
        key: "",
        set: |draft, given| plugin::here(draft, given.text()),
    },
    Opt {
        name: "auth_plugin_deny_special_chars",
        scope: Scope::Plugin,
        kind: Kind::Switch,
        key: "",
        set: |_, _| {
            Ok(Fate::ignored(
                "no character of a user name or client id widens a rule here",
            ))
        },
    },
];

fn log_dest(
    draft: &mut draft::Draft,
    given: crate::config::mosquitto_conf::values::Given<'_>,
) -> Outcome {
    let (word, rest) = given
        .text()
        .split_once(' ')
        .unwrap_or_else(|| (given.text(), ""));
    let destination = match word {
        "none" => {
            draft.log_destinations = Some(Vec::new());
            return SAME;
        }
        "stdout" => LogDestination::Stdout,
        "stderr" => LogDestination::Stderr,
        "syslog" => LogDestination::Syslog,
        "topic" => LogDestination::Topic,
        "file" if rest.trim().is_empty() => {
            return Err(
                "Empty 'log_dest file' value in configuration. Write a path behind it.".into(),
            );
        }
        "file" => LogDestination::File(rest.trim().into()),
        "dlt" | "android" => {
            return Ok(Fate::lost(
                "this destination is not supported; the other ones are used",
            ));
        }
        word => {
            return Err(format!(
                "Invalid 'log_dest' value ({}). Use stdout, stderr, syslog, topic, none or file PATH.",
                show(word)
            ));
        }
    };
    let destinations = draft.log_destinations.get_or_insert_default();
    if let LogDestination::File(_) = destination
        && destinations
            .iter()
            .any(|known| matches!(known, LogDestination::File(_)))
    {
        return Err(
            "Duplicate 'log_dest file' value in configuration. Keep one of the two lines.".into(),
        );
    }
    if !destinations.contains(&destination) {
        destinations.push(destination);
    }
    SAME
}

/// A number and a unit, in seconds; `u32::MAX` is for ever.
fn duration(text: &str) -> Option<u32> {
    let unit = text.chars().last()?;
    let number = text.strip_suffix(unit)?;
    let number: i64 = number.parse().ok().filter(|number| *number > 0)?;
    let factor = match unit {
        's' => 1,
        'h' => 3_600,
        'd' => 86_400,
        'w' => 604_800,
        'm' => 30 * 86_400,
        'y' => 365 * 86_400,
        _ => return None,
    };
    // The largest number means for ever, which nobody wrote.
    let seconds = number.saturating_mul(factor).min(U32 - 1);
    u32::try_from(seconds).ok()
}
