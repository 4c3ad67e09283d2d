//! The keys of a `[[listeners]]` section.
//!
//! In: one section. Out: `ListenerSettings`, or the first fault with its place. `KEYS` is the whole list; a key has the
//! name of its field in `ListenerSettings`, but for `address` and `path`, which are its endpoint. `docs/listeners.md` has a
//! row for each, which a test compares.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use ::toml::Spanned;
use ::toml::de::{DeTable, DeValue};

use super::keys::durability;
use super::{Fault, found};
use crate::settings::{
    DEFAULT_PORT, Endpoint, IpNetwork, ListenerProtocol, ListenerSettings, ProtocolVersions,
    ProxyProtocol,
};

/// `[[listeners]]`, at least one, each endpoint once.
pub(super) fn listeners(value: &Spanned<DeValue<'_>>) -> Result<Vec<Arc<ListenerSettings>>, Fault> {
    let tables = value.get_ref().as_array().filter(|list| !list.is_empty());
    let tables = tables.ok_or_else(|| {
        let message = format!(
            "write each as its own section: [[listeners]], then address = \"0.0.0.0:{DEFAULT_PORT}\"; \
             without any, the broker serves this machine only"
        );
        fault(value.span().start, message)
    })?;
    let mut listeners: Vec<Arc<ListenerSettings>> = Vec::with_capacity(tables.len());
    for table in tables.iter() {
        let offset = table.span().start;
        let entries = table.get_ref().as_table().ok_or_else(|| {
            let message = format!(
                "expected a section with an address, found {}",
                found(table.get_ref())
            );
            fault(offset, message)
        })?;
        let (endpoint, endpoint_offset) = endpoint(entries, offset)?;
        // Port 0 is a different port each time.
        let may_repeat = matches!(endpoint, Endpoint::Tcp(address) if address.port() == 0);
        let mut known = listeners.iter().flat_map(|known| &known.endpoints);
        if !may_repeat && known.any(|known| *known == endpoint) {
            return Err(fault(endpoint_offset, format!("{endpoint} is there twice")));
        }
        let mut listener = ListenerSettings::at(endpoint);
        for (key, value) in entries {
            let name: &str = key.get_ref();
            if ENDPOINT_KEYS.contains(&name) {
                continue;
            }
            let known = KEYS.iter().find(|known| known.0 == name);
            let (_, expected, set) =
                known.ok_or_else(|| fault(key.span().start, unknown_key(name)))?;
            if set(&mut listener, value.get_ref()).is_none() {
                let message = format!(
                    "{name}: expected {expected}, found {}",
                    found(value.get_ref())
                );
                return Err(fault(value.span().start, message));
            }
        }
        check_together(&listener).map_err(|message| fault(offset, message))?;
        listeners.push(Arc::new(listener));
    }
    Ok(listeners)
}

/// `address` or `path`, one of the two.
fn endpoint(entries: &DeTable<'_>, offset: usize) -> Result<(Endpoint, usize), Fault> {
    match (entries.get("address"), entries.get("path")) {
        (Some(address), None) => {
            let start = address.span().start;
            let parsed: Option<SocketAddr> =
                text(address.get_ref()).and_then(|text| text.parse().ok());
            let parsed = parsed.ok_or_else(|| {
                let message = format!(
                    "expected an IP address and a port, such as \"127.0.0.1:{DEFAULT_PORT}\", \
                     \"0.0.0.0:{DEFAULT_PORT}\" (every IPv4 address) or \"[::]:{DEFAULT_PORT}\" (every IPv6 address), \
                     found {}",
                    found(address.get_ref())
                );
                fault(start, message)
            })?;
            Ok((Endpoint::Tcp(parsed), start))
        }
        (None, Some(path)) => {
            let start = path.span().start;
            let parsed = text(path.get_ref()).filter(|text| {
                (1..=UNIX_PATH_BYTES_MAX).contains(&text.len()) && !text.contains('\0')
            });
            let parsed = parsed.ok_or_else(|| {
                let message = format!(
                    "path: expected a path of at most {UNIX_PATH_BYTES_MAX} bytes for a Unix socket, found {}",
                    found(path.get_ref())
                );
                fault(start, message)
            })?;
            Ok((Endpoint::Unix(parsed.into()), start))
        }
        (Some(_), Some(path)) => Err(fault(
            path.span().start,
            "a listener has an address or a path, not both".into(),
        )),
        (None, None) => Err(fault(offset, "the address is missing".into())),
    }
}

/// A key, what it takes, and where it goes. `None`: the value is not what it takes.
type Key = (
    &'static str,
    &'static str,
    fn(&mut ListenerSettings, &DeValue<'_>) -> Option<()>,
);

const ENDPOINT_KEYS: &[&str] = &["address", "path"];

const KEYS: &[Key] = &[
    ("name", "a text", |listener, value| {
        listener.name = Some(text(value)?.into());
        Some(())
    }),
    (
        "protocol",
        "one of \"mqtt\", \"websocket\", \"http_api\"",
        |listener, value| {
            listener.protocol = match text(value)? {
                "mqtt" => ListenerProtocol::Mqtt,
                "websocket" | "websockets" => ListenerProtocol::WebSocket,
                "http_api" => ListenerProtocol::HttpApi,
                _ => return None,
            };
            Some(())
        },
    ),
    (
        "bind_interface",
        "the name of a network device",
        |listener, value| {
            let device = text(value)?;
            (1..=15).contains(&device.len()).then_some(())?;
            listener.bind_interface = Some(device.into());
            Some(())
        },
    ),
    ("durability", DURABILITY_WORDS, |listener, value| {
        listener.durability = Some(durability(text(value)?)?);
        Some(())
    }),
    (
        "mount_point",
        "the beginning of a topic, without + and #, such as \"house/\"",
        |listener, value| {
            let prefix = text(value)?;
            nightjar_codec::topic::validate_topic_name(prefix).ok()?;
            listener.mount_point = Some(prefix.into());
            Some(())
        },
    ),
    (
        "connections_max",
        "a number from 1 to 4294967295",
        |listener, value| {
            listener.connections_max = Some(number(value, 1, u32::MAX.into())?);
            Some(())
        },
    ),
    ("maximum_qos", "0, 1 or 2", |listener, value| {
        listener.maximum_qos = u8::try_from(number(value, 0, 2)?).ok();
        Some(())
    }),
    (
        "topic_alias_maximum",
        "a number from 0 to 65535",
        |listener, value| {
            listener.topic_alias_maximum = Some(number_u16(value)?);
            Some(())
        },
    ),
    (
        "topic_alias_maximum_outbound",
        "a number from 0 to 65535",
        |listener, value| {
            listener.topic_alias_maximum_outbound = Some(number_u16(value)?);
            Some(())
        },
    ),
    (
        "protocol_versions",
        "a list of \"3.1\", \"3.1.1\", \"5.0\", at least one",
        |listener, value| {
            let mut versions = ProtocolVersions {
                v3_1: false,
                v3_1_1: false,
                v5: false,
            };
            for word in texts(value)? {
                match word {
                    "3.1" => versions.v3_1 = true,
                    "3.1.1" => versions.v3_1_1 = true,
                    "5.0" => versions.v5 = true,
                    _ => return None,
                }
                listener.protocol_versions = versions;
            }
            (versions.v3_1 || versions.v3_1_1 || versions.v5).then_some(())
        },
    ),
    (
        "use_username_as_client_id",
        "true or false",
        |listener, value| {
            listener.use_username_as_client_id = value.as_bool()?;
            Some(())
        },
    ),
    ("proxy_protocol", "1 or 2", |listener, value| {
        listener.proxy_protocol = Some(match number(value, 1, 2)? {
            1 => ProxyProtocol::V1,
            _ => ProxyProtocol::V2,
        });
        Some(())
    }),
    ("proxy_requires_tls", "true or false", |listener, value| {
        listener.proxy_requires_tls = value.as_bool()?;
        Some(())
    }),
    (
        "proxy_networks",
        "a list of address ranges such as \"10.0.0.0/8\" or \"192.0.2.7\"",
        |listener, value| {
            listener.proxy_networks = texts(value)?
                .into_iter()
                .map(network)
                .collect::<Option<Vec<_>>>()?;
            Some(())
        },
    ),
    (
        "websocket_origins",
        "a list of origins such as \"https://site.example\"",
        |listener, value| {
            listener.websocket_origins = texts(value)?.into_iter().map(Into::into).collect();
            Some(())
        },
    ),
    ("http_directory", "a path", |listener, value| {
        listener.http_directory = Some(PathBuf::from(text(value)?));
        Some(())
    }),
    ("allow_anonymous", "true or false", |listener, value| {
        listener.allow_anonymous = Some(value.as_bool()?);
        Some(())
    }),
    (
        "auto_id_prefix",
        "a text of at most 50 bytes",
        |listener, value| {
            let prefix = text(value)?;
            (prefix.len() <= 50).then_some(())?;
            listener.auto_id_prefix = Some(prefix.into());
            Some(())
        },
    ),
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
    } else if listener.bind_interface.is_some()
        && matches!(listener.endpoints[..], [Endpoint::Unix(_)])
    {
        "bind_interface needs an address, not a path"
    } else {
        return Ok(());
    };
    Err(message.into())
}

fn fault(offset: usize, message: String) -> Fault {
    Fault {
        offset,
        message: format!("listeners: {message}"),
    }
}

fn unknown_key(name: &str) -> String {
    let known: Vec<&str> = ENDPOINT_KEYS
        .iter()
        .copied()
        .chain(KEYS.iter().map(|key| key.0))
        .collect();
    format!(
        "unknown key '{name}'; a listener has an address, such as \"0.0.0.0:{DEFAULT_PORT}\", and may have: {}",
        known[1..].join(", ")
    )
}

fn text<'a>(value: &'a DeValue<'_>) -> Option<&'a str> {
    value.as_str()
}

fn texts<'a>(value: &'a DeValue<'_>) -> Option<Vec<&'a str>> {
    let list = value.as_array()?;
    list.iter().map(|member| text(member.get_ref())).collect()
}

fn number(value: &DeValue<'_>, minimum: u64, maximum: u64) -> Option<u64> {
    let integer = value.as_integer()?;
    let digits = integer.as_str().replace('_', "");
    let number = u64::from_str_radix(&digits, integer.radix()).ok()?;
    (minimum..=maximum).contains(&number).then_some(number)
}

fn number_u16(value: &DeValue<'_>) -> Option<u16> {
    u16::try_from(number(value, 0, u16::MAX.into())?).ok()
}

/// `ADDRESS/BITS`, or an address alone.
fn network(text: &str) -> Option<IpNetwork> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let bits_max = if address.is_ipv4() { 32 } else { 128 };
    let prefix_bits = bits.map_or(Some(bits_max), |bits| bits.parse().ok())?;
    (prefix_bits <= bits_max).then_some(IpNetwork {
        address,
        prefix_bits,
    })
}

const DURABILITY_WORDS: &str = "one of \"synced\", \"written\", \"memory\"";
/// What the system has room for in the address of a socket.
const UNIX_PATH_BYTES_MAX: usize = 107;

#[cfg(test)]
mod tests {
    use super::super::keys::DURABILITIES;
    use super::super::parse;
    use super::*;

    const DOCUMENT: &str = include_str!("../../../../docs/listeners.md");

    fn listener(text: &str) -> ListenerSettings {
        let text = format!("[[listeners]]\naddress = \"127.0.0.1:1\"\n{text}");
        let settings = parse(&text).unwrap_or_else(|fault| panic!("{text}: {}", fault.message));
        (*settings.listeners[0]).clone()
    }

    #[test]
    fn every_key_of_a_listener_changes_its_field() {
        let examples = [
            "name = \"inside\"",
            "protocol = \"websocket\"",
            "bind_interface = \"lo\"",
            "durability = \"memory\"",
            "mount_point = \"house/\"",
            "connections_max = 1_000",
            "maximum_qos = 1",
            "topic_alias_maximum = 0",
            "topic_alias_maximum_outbound = 65535",
            "protocol_versions = [\"3.1.1\", \"5.0\"]",
            "use_username_as_client_id = true",
            "proxy_protocol = 2",
            "proxy_protocol = 2\nproxy_requires_tls = true",
            "proxy_protocol = 1\nproxy_networks = [\"10.0.0.0/8\", \"::1\"]",
            "protocol = \"websocket\"\nwebsocket_origins = [\"https://site.example\"]",
            "protocol = \"http_api\"\nhttp_directory = \"/srv/www\"",
            "allow_anonymous = true",
            "auto_id_prefix = \"a-\"",
        ];
        for (key, _, _) in KEYS {
            let own = |example: &&&str| {
                let last = example.lines().last().unwrap_or_default();
                last.starts_with(&format!("{key} = "))
            };
            let example = examples.iter().find(own);
            let example = example.unwrap_or_else(|| panic!("no example of {key}"));
            let others = example.lines().rev().skip(1).collect::<Vec<_>>().join("\n");
            assert_ne!(
                listener(example),
                listener(&others),
                "{key} changes nothing"
            );
            assert!(
                DOCUMENT.contains(&format!("| `{key}` |")),
                "docs/listeners.md lacks {key}"
            );
        }
        assert_eq!(
            DURABILITY_WORDS,
            format!("one of \"{}\"", DURABILITIES.join("\", \""))
        );
    }

    #[test]
    fn a_unix_socket_has_a_path() {
        let settings = parse("[[listeners]]\npath = \"/run/nightjar.sock\"\n").unwrap();
        let expected = [Endpoint::Unix("/run/nightjar.sock".into())];
        assert_eq!(settings.listeners[0].endpoints, expected);
    }

    #[test]
    fn what_a_listener_cannot_be_is_refused_with_the_key() {
        let cases = [
            ("protocol = \"mqttsn\"", "protocol: expected one of"),
            (
                "mount_point = \"a/#\"",
                "mount_point: expected the beginning",
            ),
            ("mount_point = \"\"", "mount_point: expected the beginning"),
            ("connections_max = 0", "connections_max: expected a number"),
            ("connections_max = -1", "connections_max: expected a number"),
            ("maximum_qos = 3", "maximum_qos: expected 0, 1 or 2"),
            ("maximum_qos = \"1\"", "maximum_qos: expected 0, 1 or 2"),
            (
                "topic_alias_maximum = 65536",
                "topic_alias_maximum: expected",
            ),
            (
                "protocol_versions = []",
                "protocol_versions: expected a list",
            ),
            (
                "protocol_versions = [\"4\"]",
                "protocol_versions: expected a list",
            ),
            ("proxy_protocol = 3", "proxy_protocol: expected 1 or 2"),
            (
                "proxy_protocol = 1\nproxy_networks = [\"10.0.0.0/33\"]",
                "proxy_networks: expected",
            ),
            ("proxy_requires_tls = true", "needs proxy_protocol = 2"),
            ("proxy_networks = [\"::1\"]", "proxy_networks needs"),
            ("websocket_origins = [\"x\"]", "websocket_origins needs"),
            ("http_directory = \"x\"", "http_directory needs"),
            ("path = \"/run/x.sock\"", "not both"),
        ];
        for (text, expected) in cases {
            let text = format!("[[listeners]]\naddress = \"127.0.0.1:1\"\n{text}");
            let message = parse(&text).unwrap_err().message;
            assert!(message.contains(expected), "{text}: {message}");
        }
        let long = format!("[[listeners]]\npath = \"/{}\"", "x".repeat(107));
        assert!(parse(&long).unwrap_err().message.contains("at most 107"));
    }
}
