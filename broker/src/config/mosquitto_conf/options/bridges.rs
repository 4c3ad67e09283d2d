//! Options of bridges. They are read and checked; this version has no bridges, so a file with one does not start a broker.

use super::listeners::no_psk;
use super::{Kind, Opt, Scope};
use crate::config::mosquitto_conf::{Fate, Outcome, bridge, values::show};

macro_rules! bridge {
    ($name:literal, $kind:expr) => {
        bridge!($name, $kind, |_, _| bridge::read_only())
    };
    ($name:literal, $kind:expr, $set:expr) => {
        Opt {
            name: $name,
            scope: Scope::Bridge,
            kind: $kind,
            key: "",
            set: $set,
        }
    };
    (one of $name:literal, $words:expr) => {
        bridge!($name, Kind::Line, |_, given| {
            let words: &[&str] = &$words;
            let word = given.words().next().unwrap_or_default();
            if words.contains(&word) {
                return bridge::read_only();
            }
            Err(format!(
                "Invalid '{}' value ({}). Use {}.",
                $name,
                show(word),
                words.join(", ")
            ))
        })
    };
}

const I32: i64 = 2_147_483_647;

pub(super) const OPTIONS: &[Opt] = &[
    Opt {
        name: "connection",
        scope: Scope::Global,
        kind: Kind::Line,
        key: "",
        set: bridge::connection,
    },
    bridge!("address", Kind::Line, bridge::address),
    bridge!("topic", Kind::Line, bridge::topic),
    bridge!("remote_username", Kind::Text),
    bridge!("remote_password", Kind::Text),
    bridge!("remote_clientid", Kind::Text),
    bridge!("local_clientid", Kind::Text),
    bridge!("local_username", Kind::Text),
    bridge!("local_password", Kind::Text),
    bridge!("cleansession", Kind::Switch),
    bridge!("local_cleansession", Kind::Switch),
    bridge!(one of "bridge_protocol_version", ["mqttv31", "mqttv311", "mqttv50"]),
    bridge!("try_private", Kind::Switch),
    bridge!("notifications", Kind::Switch),
    bridge!("notifications_local_only", Kind::Switch),
    bridge!("notification_topic", Kind::Text),
    bridge!(one of "start_type", ["automatic", "lazy", "once"]),
    bridge!(
        "idle_timeout",
        Kind::Number(-I32, I32),
        |_, given| at_least(given.number(), 1)
    ),
    bridge!("threshold", Kind::Number(-I32, I32), |_, given| at_least(
        given.number(),
        1
    )),
    bridge!(
        "keepalive_interval",
        Kind::Number(-I32, 65_535),
        |_, given| at_least(given.number(), 5)
    ),
    bridge!("restart_timeout", Kind::Line, bridge::restart_timeout),
    bridge!("round_robin", Kind::Switch),
    bridge!("bridge_attempt_unsubscribe", Kind::Switch),
    bridge!("bridge_bind_address", Kind::Text),
    bridge!(
        "bridge_max_packet_size",
        Kind::Number(-I32, I32),
        |_, given| at_least(given.number(), 0)
    ),
    bridge!("bridge_max_topic_alias", Kind::Number(0, 65_535)),
    bridge!("bridge_outgoing_retain", Kind::Switch),
    bridge!("bridge_receive_maximum", Kind::Number(1, 65_535)),
    bridge!(
        "bridge_session_expiry_interval",
        Kind::Number(0, 4_294_967_295)
    ),
    bridge!("bridge_tcp_keepalive", Kind::Line, bridge::tcp_keepalive),
    bridge!("bridge_tcp_user_timeout", Kind::Number(0, I32)),
    bridge!(one of "bridge_reload_type", ["lazy", "immediate"]),
    bridge!("bridge_cafile", Kind::Text),
    bridge!("bridge_capath", Kind::Text),
    bridge!("bridge_certfile", Kind::Text),
    bridge!("bridge_keyfile", Kind::Text),
    bridge!("bridge_insecure", Kind::Switch),
    bridge!(one of "bridge_tls_version", ["tlsv1.2", "tlsv1.3", "tlsv1.1", "tlsv1"]),
    bridge!("bridge_tls_use_os_certs", Kind::Switch),
    bridge!("bridge_alpn", Kind::Text),
    bridge!("bridge_ciphers", Kind::Text),
    bridge!("bridge_ciphers_tls1.3", Kind::Text),
    bridge!("bridge_require_ocsp", Kind::Switch),
    bridge!("bridge_identity", Kind::Text, |_, _| Err(no_psk(
        "bridge_identity"
    ))),
    bridge!("bridge_psk", Kind::Text, |_, _| Err(no_psk("bridge_psk"))),
];

/// What is too low is raised, as Mosquitto does.
fn at_least(number: i64, minimum: i64) -> Outcome {
    if number < minimum {
        return Ok(Fate::Changed(format!("too low; {minimum} is used")));
    }
    bridge::read_only()
}
