//! `[[listeners]]`, with its sections `[listeners.tls]` and `[listeners.security]`.
//!
//! In: one section. Out: `ListenerSettings`, and every fault with its place. A key has the name of its field, but for `address`
//! and `path`, which are the endpoints. `docs/listeners.md` has a row for each, which a test compares.

use super::key::{Key, Kind, Unit, Written, found};
use super::keys::{
    ACL_SUBSCRIBE, COUNT_MAX, DURABILITIES, U16, acl_subscribe, acl_subscribe_word, durability,
    durability_word,
};
use super::{Slip, nearest};
use crate::settings::{
    CertificateName, DEFAULT_PORT, Endpoint, IpNetwork, ListenerProtocol, ListenerSettings,
    ProtocolVersions, ProxyProtocol, SecuritySettings, TlsSettings,
};
use ::toml::Spanned;
use ::toml::de::{DeTable, DeValue};
use std::net::SocketAddr;
use std::sync::Arc;

/// At least one, each address once.
pub(super) fn read(
    value: &Spanned<DeValue<'_>>,
    slips: &mut Vec<Slip>,
) -> Vec<Arc<ListenerSettings>> {
    let mut slip = |offset, message: String| {
        slips.push(Slip {
            offset,
            message: format!("listeners: {message}"),
        });
    };
    let tables = value.get_ref().as_array().filter(|list| !list.is_empty());
    let Some(tables) = tables else {
        let message = format!(
            "write each as its own section: [[listeners]], then address = \"0.0.0.0:{DEFAULT_PORT}\"; \
             without any, the broker serves this machine only"
        );
        slip(value.span().start, message);
        return Vec::new();
    };
    let mut listeners: Vec<Arc<ListenerSettings>> = Vec::with_capacity(tables.len());
    for table in tables.iter() {
        let offset = table.span().start;
        let Some(entries) = table.get_ref().as_table() else {
            let message = format!(
                "expected a section with an address, found {}",
                found(table.get_ref())
            );
            slip(offset, message);
            continue;
        };
        let listener = listener(entries, &mut slip);
        match (entries.get("address"), entries.get("path")) {
            (None, None) => slip(offset, "the address is missing".into()),
            (Some(_), Some(path)) => slip(
                path.span().start,
                "a listener has an address or a path, not both".into(),
            ),
            _ => {}
        }
        if let Err(message) = check_together(&listener) {
            slip(offset, message);
        }
        let is_named = |known: &&Arc<ListenerSettings>| known.name == listener.name;
        if let (Some(name), Some(_)) = (&listener.name, listeners.iter().find(is_named)) {
            slip(offset, format!("two listeners are called '{name}'"));
        }
        for endpoint in &listener.endpoints {
            // Port 0 is a different port each time.
            let any_port = matches!(endpoint, Endpoint::Tcp(address) if address.port() == 0);
            let known = listeners.iter().flat_map(|listener| &listener.endpoints);
            if !any_port && known.into_iter().any(|known| known == endpoint) {
                let offset = entries
                    .get("address")
                    .or_else(|| entries.get("path"))
                    .map_or(offset, |address| address.span().start);
                slip(offset, format!("{endpoint} is there twice"));
            }
        }
        listeners.push(Arc::new(listener));
    }
    listeners
}

fn listener(entries: &DeTable<'_>, slip: &mut impl FnMut(usize, String)) -> ListenerSettings {
    let mut listener = ListenerSettings::default();
    listener.endpoints.clear();
    let sections = ["tls", "security"];
    fill(&mut listener, KEYS, &sections, entries, slip);
    if let Some(section) = entries.get("tls") {
        let tls = listener.tls.insert(TlsSettings::default());
        match section.get_ref().as_table() {
            Some(entries) => fill(tls, TLS_KEYS, &[], entries, slip),
            None => slip(section.span().start, "tls: expected a section".into()),
        }
        if !tls.require_certificate && (tls.bind_client_id || tls.replaced_file.is_some()) {
            slip(
                section.span().start,
                "tls: bind_client_id and replaced_file need require_certificate = true".into(),
            );
        }
        let behind_a_proxy = tls.behind_a_proxy();
        match listener.proxy_protocol {
            None => {}
            Some(ProxyProtocol::V1) => slip(
                section.span().start,
                "tls: with proxy_protocol = 1 the proxy speaks TLS, and does not tell of certificates".into(),
            ),
            Some(ProxyProtocol::V2) if *tls != behind_a_proxy => slip(
                section.span().start,
                "tls: the proxy speaks TLS; with proxy_protocol = 2 only require_certificate, use_identity_as_username \
                 and bind_client_id have a meaning"
                    .into(),
            ),
            // Whoever reaches the listener otherwise may claim to be anybody.
            Some(ProxyProtocol::V2) if listener.proxy_networks.is_empty() => slip(
                section.span().start,
                "tls: proxy_networks is needed, to say whose word on certificates is believed".into(),
            ),
            Some(ProxyProtocol::V2) => {}
        }
        // A key whose value is wrong is not missing as well.
        let is_missing = |key| {
            let entries = section.get_ref().as_table();
            entries.is_some_and(|entries| entries.get(key).is_none())
        };
        let has_proxy = listener.proxy_protocol.is_some();
        if !has_proxy && (is_missing("certificate_file") || is_missing("key_file")) {
            slip(
                section.span().start,
                "tls: certificate_file and key_file are both needed".into(),
            );
        }
    }
    if let Some(section) = entries.get("security") {
        let security = listener.security.insert(of_a_listener());
        match section.get_ref().as_table() {
            Some(entries) => fill(security, SECURITY_KEYS, &[], entries, slip),
            None => slip(section.span().start, "security: expected a section".into()),
        }
    }
    listener
}

/// What a section `[listeners.security]` without keys means.
pub(super) fn of_a_listener() -> SecuritySettings {
    SecuritySettings {
        allow_anonymous: false,
        ..SecuritySettings::default()
    }
}

fn fill<T>(
    target: &mut T,
    keys: &[Key<T>],
    sections: &[&str],
    entries: &DeTable<'_>,
    slip: &mut impl FnMut(usize, String),
) {
    for (key, value) in entries.iter() {
        let name = key.get_ref().as_ref();
        if sections.contains(&name) {
            continue;
        }
        let result = match keys.iter().find(|known| known.name == name) {
            Some(known) => known
                .set(target, value.get_ref())
                .map_err(|message| format!("{name}: {message}")),
            None => Err(unknown(name, keys)),
        };
        if let Err(message) = result {
            slip(key.span().start, message);
        }
    }
}

fn unknown<T>(name: &str, keys: &[Key<T>]) -> String {
    match nearest(name, keys.iter().map(|key| key.name)) {
        Some(known) => format!("unknown key '{name}', did you mean '{known}'?"),
        None => format!("unknown key '{name}'; docs/configuration.md lists the keys"),
    }
}

macro_rules! switch {
    ($field:ident) => {
        Key {
            name: stringify!($field),
            kind: Kind::Switch(|target, on| target.$field = on),
            get: |target| Some(Written::Switch(target.$field)),
        }
    };
}

/// A number that may be left out.
macro_rules! number {
    ($field:ident, $minimum:expr, $maximum:expr, $advice:literal) => {
        Key {
            name: stringify!($field),
            kind: Kind::Number {
                unit: Unit::Count,
                minimum: $minimum,
                maximum: $maximum,
                advice: $advice,
                set: |target, number| match number.try_into() {
                    Ok(number) => {
                        target.$field = Some(number);
                        true
                    }
                    Err(_) => false,
                },
            },
            get: |target| target.$field.map(|number| Written::Number(number.into())),
        }
    };
}

/// A number that is always there.
macro_rules! plain_number {
    ($field:ident, $unit:ident, $minimum:expr, $maximum:expr, $advice:literal) => {
        Key {
            name: stringify!($field),
            kind: Kind::Number {
                unit: Unit::$unit,
                minimum: $minimum,
                maximum: $maximum,
                advice: $advice,
                set: |target, number| match number.try_into() {
                    Ok(number) => {
                        target.$field = number;
                        true
                    }
                    Err(_) => false,
                },
            },
            get: |target| Some(Written::Number(target.$field.into())),
        }
    };
}

/// Text that may be left out.
macro_rules! text {
    ($field:ident, $expected:literal) => {
        text!($field, $expected, |text| !text.is_empty())
    };
    ($field:ident, $expected:literal, $fits:expr) => {
        Key {
            name: stringify!($field),
            kind: Kind::Text {
                expected: $expected,
                set: |target, text| {
                    let fits: fn(&str) -> bool = $fits;
                    target.$field = Some(text.into());
                    fits(text)
                },
            },
            get: |target| {
                let text = target.$field.as_deref();
                text.map(|text| Written::Text(text.into()))
            },
        }
    };
}

macro_rules! path {
    ($field:ident) => {
        Key {
            name: stringify!($field),
            kind: Kind::Path(|target, path| target.$field = Some(path)),
            get: |target| target.$field.as_deref().map(Written::path),
        }
    };
}

pub(super) const KEYS: &[Key<ListenerSettings>] = &[
    Key {
        name: "address",
        kind: Kind::List {
            expected: "an IP address and a port, such as \"127.0.0.1:1883\", \"0.0.0.0:1883\" (every IPv4 address) or \
                       \"[::]:1883\" (every IPv6 address), or a list of them",
            set: |listener, words| {
                let addresses = words.iter().map(|word| word.parse().ok());
                let addresses: Option<Vec<SocketAddr>> = addresses.collect();
                let addresses = addresses.unwrap_or_default();
                listener
                    .endpoints
                    .extend(addresses.iter().copied().map(Endpoint::Tcp));
                !addresses.is_empty()
            },
        },
        get: |listener| {
            let endpoints = listener.endpoints.iter();
            let addresses = endpoints.filter_map(|endpoint| match endpoint {
                Endpoint::Tcp(address) => Some(address.to_string()),
                Endpoint::Unix(_) => None,
            });
            let mut words: Vec<String> = addresses.collect();
            match words.len() {
                0 => None,
                1 => words.pop().map(Written::Text),
                _ => Some(Written::List(words)),
            }
        },
    },
    Key {
        name: "path",
        kind: Kind::Text {
            expected: "a path of at most 107 bytes for a Unix socket",
            set: |listener, path| {
                listener.endpoints.push(Endpoint::Unix(path.into()));
                (1..=UNIX_PATH_BYTES_MAX).contains(&path.len()) && !path.contains('\0')
            },
        },
        get: |listener| {
            let mut endpoints = listener.endpoints.iter();
            endpoints.find_map(|endpoint| match endpoint {
                Endpoint::Tcp(_) => None,
                Endpoint::Unix(path) => Some(Written::path(path)),
            })
        },
    },
    text!(name, "a name"),
    Key {
        name: "protocol",
        kind: Kind::Choice {
            words: &["mqtt", "websocket", "http_api"],
            set: |listener, word| {
                listener.protocol = match word {
                    "mqtt" => ListenerProtocol::Mqtt,
                    "websocket" | "websockets" => ListenerProtocol::WebSocket,
                    "http_api" => ListenerProtocol::HttpApi,
                    _ => return false,
                };
                true
            },
        },
        get: |listener| {
            let word = match listener.protocol {
                ListenerProtocol::Mqtt => "mqtt",
                ListenerProtocol::WebSocket => "websocket",
                ListenerProtocol::HttpApi => "http_api",
            };
            Some(Written::Text(word.into()))
        },
    },
    text!(bind_interface, "the name of a network device", |text| {
        (1..=15).contains(&text.len())
    }),
    Key {
        name: "durability",
        kind: Kind::Choice {
            words: DURABILITIES,
            set: |listener, word| {
                listener.durability = durability(word);
                listener.durability.is_some()
            },
        },
        get: |listener| {
            let word = listener.durability.map(durability_word);
            word.map(|word| Written::Text(word.into()))
        },
    },
    text!(
        mount_point,
        "the beginning of a topic, without + and #, such as \"house/\"",
        |text| nightjar_codec::topic::validate_topic_name(text).is_ok()
    ),
    number!(
        connections_max,
        1,
        COUNT_MAX,
        "leave it out for no bound of its own"
    ),
    number!(maximum_qos, 0, 2, "MQTT has QoS 0, 1 and 2"),
    number!(topic_alias_maximum, 0, U16, "0 means none"),
    number!(topic_alias_maximum_outbound, 0, U16, "0 means none"),
    Key {
        name: "protocol_versions",
        kind: Kind::List {
            expected: "a list of \"3.1\", \"3.1.1\" and \"5.0\"",
            set: |listener, words| {
                let mut versions = ProtocolVersions {
                    v3_1: false,
                    v3_1_1: false,
                    v5: false,
                };
                for word in words {
                    match *word {
                        "3.1" => versions.v3_1 = true,
                        "3.1.1" => versions.v3_1_1 = true,
                        "5.0" => versions.v5 = true,
                        _ => return false,
                    }
                }
                listener.protocol_versions = versions;
                !words.is_empty()
            },
        },
        get: |listener| {
            let versions = listener.protocol_versions;
            let words = [
                (versions.v3_1, "3.1"),
                (versions.v3_1_1, "3.1.1"),
                (versions.v5, "5.0"),
            ];
            let words = words.into_iter().filter(|(on, _)| *on);
            Some(Written::List(words.map(|(_, word)| word.into()).collect()))
        },
    },
    switch!(use_username_as_client_id),
    Key {
        name: "proxy_protocol",
        kind: Kind::Number {
            unit: Unit::Count,
            minimum: 1,
            maximum: 2,
            advice: "the header has two versions",
            set: |listener, number| {
                listener.proxy_protocol = Some(match number {
                    1 => ProxyProtocol::V1,
                    _ => ProxyProtocol::V2,
                });
                true
            },
        },
        get: |listener| {
            let version = listener.proxy_protocol.map(|version| match version {
                ProxyProtocol::V1 => 1,
                ProxyProtocol::V2 => 2,
            });
            version.map(Written::Number)
        },
    },
    switch!(proxy_requires_tls),
    Key {
        name: "proxy_networks",
        kind: Kind::List {
            expected: "a list of address ranges, such as \"10.0.0.0/8\"",
            set: |listener, words| {
                let networks: Option<Vec<IpNetwork>> =
                    words.iter().map(|word| network(word)).collect();
                let known = networks.is_some();
                listener.proxy_networks = networks.unwrap_or_default();
                known
            },
        },
        get: |listener| {
            let networks = listener.proxy_networks.iter();
            let words =
                networks.map(|network| format!("{}/{}", network.address, network.prefix_bits));
            Some(Written::List(words.collect()))
        },
    },
    Key {
        name: "websocket_origins",
        kind: Kind::List {
            expected: "a list of origins, such as \"https://site.example\"",
            set: |listener, words| {
                listener.websocket_origins = words.iter().map(|word| (*word).into()).collect();
                words.iter().all(|word| !word.is_empty())
            },
        },
        get: |listener| {
            let words = listener.websocket_origins.iter();
            Some(Written::List(words.map(|word| word.to_string()).collect()))
        },
    },
    path!(http_directory),
    Key {
        name: "allow_anonymous",
        kind: Kind::Switch(|listener, on| listener.allow_anonymous = Some(on)),
        get: |listener| listener.allow_anonymous.map(Written::Switch),
    },
    text!(auto_id_prefix, "text of at most 50 bytes", |text| text
        .len()
        <= 50),
];

pub(super) const TLS_KEYS: &[Key<TlsSettings>] = &[
    path!(certificate_file),
    path!(key_file),
    path!(ca_file),
    path!(ca_path),
    path!(crl_file),
    path!(replaced_file),
    switch!(require_certificate),
    switch!(use_identity_as_username),
    switch!(use_subject_as_username),
    Key {
        name: "identity_from",
        kind: Kind::Choice {
            words: &["common_name", "dns", "uri"],
            set: |tls, word| {
                tls.identity_from = match word {
                    "common_name" => CertificateName::CommonName,
                    "dns" => CertificateName::Dns,
                    "uri" => CertificateName::Uri,
                    _ => return false,
                };
                true
            },
        },
        get: |tls| {
            let word = match tls.identity_from {
                CertificateName::CommonName => "common_name",
                CertificateName::Dns => "dns",
                CertificateName::Uri => "uri",
            };
            Some(Written::Text(word.into()))
        },
    },
    switch!(bind_client_id),
    text!(version, "\"tlsv1.2\" or \"tlsv1.3\"", |text| {
        ["tlsv1.2", "tlsv1.3"].contains(&text)
    }),
    text!(ciphers, "names of ciphers as OpenSSL has them"),
    text!(ciphers_tls_1_3, "names of ciphers as OpenSSL has them"),
    switch!(prefer_aes),
    switch!(disable_client_certificate_date_checks),
    path!(key_log_file),
    plain_number!(
        handshake_timeout_seconds,
        Seconds,
        1,
        3_600,
        "without a limit, silent connections would fill the broker"
    ),
    number!(
        record_size,
        256,
        16_384,
        "a record of TLS has room for 16384 bytes"
    ),
    switch!(session_tickets),
    plain_number!(
        session_cache_max,
        Count,
        0,
        10_000_000,
        "each takes a few hundred bytes; 0 keeps none"
    ),
];

pub(super) const SECURITY_KEYS: &[Key<SecuritySettings>] = &[
    switch!(allow_anonymous),
    path!(password_file),
    path!(acl_file),
    Key {
        name: "acl_subscribe",
        kind: Kind::Choice {
            words: ACL_SUBSCRIBE,
            set: |security, word| {
                acl_subscribe(word).is_some_and(|choice| {
                    security.acl_subscribe = choice;
                    true
                })
            },
        },
        get: |security| {
            let word = acl_subscribe_word(security.acl_subscribe);
            Some(Written::Text(word.into()))
        },
    },
    switch!(allow_zero_length_client_id),
    Key {
        name: "auto_id_prefix",
        kind: Kind::Text {
            expected: "text of at most 50 bytes",
            set: |security, text| {
                security.auto_id_prefix = text.into();
                text.len() <= 50
            },
        },
        get: |security| Some(Written::Text(security.auto_id_prefix.to_string())),
    },
];

/// What would be a key without effect.
fn check_together(listener: &ListenerSettings) -> Result<(), String> {
    let proxy = listener.proxy_protocol;
    let is_web = listener.protocol == ListenerProtocol::WebSocket;
    let message = if listener.proxy_requires_tls && proxy != Some(ProxyProtocol::V2) {
        "proxy_requires_tls needs proxy_protocol = 2: only its header tells"
    } else if !listener.proxy_networks.is_empty() && proxy.is_none() && !is_web {
        "proxy_networks needs proxy_protocol, or protocol = \"websocket\""
    } else if !listener.websocket_origins.is_empty() && !is_web {
        "websocket_origins needs protocol = \"websocket\""
    } else if listener.http_directory.is_some() && listener.protocol != ListenerProtocol::HttpApi {
        "http_directory needs protocol = \"http_api\""
    } else if listener.protocol == ListenerProtocol::HttpApi && proxy.is_some() {
        "protocol = \"http_api\" is not served behind a PROXY header"
    } else if listener.bind_interface.is_some()
        && matches!(listener.endpoints[..], [Endpoint::Unix(_)])
    {
        "bind_interface needs an address, not a path"
    } else {
        return Ok(());
    };
    Err(message.into())
}

fn network(word: &str) -> Option<IpNetwork> {
    let (address, bits) = word.split_once('/').unwrap_or((word, ""));
    let address: std::net::IpAddr = address.parse().ok()?;
    let widest = if address.is_ipv4() { 32 } else { 128 };
    let prefix_bits = match bits {
        "" if !word.contains('/') => widest,
        bits => bits.parse().ok().filter(|bits| *bits <= widest)?,
    };
    Some(IpNetwork {
        address,
        prefix_bits,
    })
}

/// What the system has room for in the address of a socket.
const UNIX_PATH_BYTES_MAX: usize = 107;

#[cfg(test)]
mod tests;
