//! Options of listeners, and of who may come in.

use super::{Kind, Opt, Scope};
use crate::config::mosquitto_conf::draft::Family;
use crate::config::mosquitto_conf::{Fate, Outcome, plugin, values::show};
use crate::settings::{ListenerProtocol, ProtocolVersions, ProxyProtocol};

const SAME: Outcome = Ok(Fate::Same);

macro_rules! option {
    ($scope:ident, $name:literal, $kind:expr, $set:expr) => {
        Opt {
            name: $name,
            scope: Scope::$scope,
            kind: $kind,
            key: "",
            set: $set,
        }
    };
    ($scope:ident, $name:literal, $kind:expr, $key:expr, $set:expr) => {
        Opt {
            name: $name,
            scope: Scope::$scope,
            kind: $kind,
            key: $key,
            set: $set,
        }
    };
}

/// Text or a switch of `TlsSettings`, taken as it stands.
macro_rules! tls {
    (text $name:literal, $field:ident) => {
        option!(
            Door,
            $name,
            Kind::Text,
            concat!("listeners.tls.", stringify!($field)),
            |draft, given| {
                draft.listener().tls.$field = Some(given.text().into());
                SAME
            }
        )
    };
    (switch $name:literal, $field:ident) => {
        option!(
            Door,
            $name,
            Kind::Switch,
            concat!("listeners.tls.", stringify!($field)),
            |draft, given| {
                draft.listener().tls.$field = given.on();
                SAME
            }
        )
    };
}

const INT: Kind = Kind::Number(-2_147_483_647, 2_147_483_647);

pub(super) const OPTIONS: &[Opt] = &[
    option!(
        Door,
        "bind_interface",
        Kind::Text,
        "listeners.bind_interface",
        |draft, given| {
            if given.text().len() > 15 {
                return Err(format!(
                    "Invalid 'bind_interface' value ({}). The name of a device has at most 15 bytes.",
                    show(given.text())
                ));
            }
            draft.listener().settings.bind_interface = Some(given.text().into());
            SAME
        }
    ),
    option!(
        Door,
        "protocol",
        Kind::Line,
        "listeners.protocol",
        |draft, given| {
            let word = given.words().next().unwrap_or_default();
            draft.listener().settings.protocol = match word {
                "mqtt" => ListenerProtocol::Mqtt,
                "websockets" => ListenerProtocol::WebSocket,
                "http_api" => ListenerProtocol::HttpApi,
                word => {
                    return Err(format!(
                        "Invalid 'protocol' value ({}). Use mqtt, websockets or http_api.",
                        show(word)
                    ));
                }
            };
            SAME
        }
    ),
    option!(Door, "socket_domain", Kind::Line, |draft, given| {
        let word = given.words().next().unwrap_or_default();
        draft.listener().family = match word {
            "ipv4" => Family::V4,
            "ipv6" => Family::V6,
            word => {
                return Err(format!(
                    "Invalid 'socket_domain' value ({}) in configuration. Use ipv4 or ipv6.",
                    show(word)
                ));
            }
        };
        SAME
    }),
    option!(
        Listener,
        "mount_point",
        Kind::Text,
        "listeners.mount_point",
        |draft, given| {
            let prefix = given.text();
            if prefix.contains(['+', '#']) {
                return Err(format!(
                    "Invalid 'mount_point' value ({}). Does it contain a wildcard character?",
                    show(prefix)
                ));
            }
            if nightjar_codec::topic::validate_topic_name(prefix).is_err() {
                return Err(format!(
                    "Invalid 'mount_point' value ({}). It is no beginning of a topic.",
                    show(prefix)
                ));
            }
            draft.listener().settings.mount_point = Some(prefix.into());
            SAME
        }
    ),
    option!(
        Door,
        "max_connections",
        INT,
        "listeners.connections_max",
        |draft, given| {
            // Mosquitto has no bound where it is not above 0.
            let number = u64::try_from(given.number()).ok();
            draft.listener().settings.connections_max = number.filter(|number| *number > 0);
            SAME
        }
    ),
    option!(
        Door,
        "max_qos",
        INT,
        "listeners.maximum_qos",
        |draft, given| {
            let qos = u8::try_from(given.number()).ok().filter(|qos| *qos <= 2);
            let qos = qos.ok_or_else(|| {
                format!(
                    "'max_qos' must be between 0 and 2 inclusive. It is {}.",
                    given.number()
                )
            })?;
            draft.listener().settings.maximum_qos = Some(qos);
            SAME
        }
    ),
    option!(
        Door,
        "max_topic_alias",
        INT,
        "listeners.topic_alias_maximum",
        |draft, given| {
            let number = u16::try_from(given.number()).map_err(|_| {
                format!(
                    "Invalid 'max_topic_alias' value in configuration. It is {}; use 0 to 65535.",
                    given.number()
                )
            })?;
            draft.listener().settings.topic_alias_maximum = Some(number);
            SAME
        }
    ),
    option!(
        Listener,
        "max_topic_alias_broker",
        INT,
        "listeners.topic_alias_maximum_outbound",
        |draft, given| {
            let number = u16::try_from(given.number()).map_err(|_| {
            format!(
                "Invalid 'max_topic_alias_broker' value in configuration. It is {}; use 0 to 65535.",
                given.number()
            )
        })?;
            draft.listener().settings.topic_alias_maximum_outbound = Some(number);
            SAME
        }
    ),
    option!(
        Listener,
        "accept_protocol_versions",
        Kind::Line,
        "listeners.protocol_versions",
        |draft, given| {
            let mut versions = ProtocolVersions {
                v3_1: false,
                v3_1_1: false,
                v5: false,
            };
            for word in given
                .text()
                .split([' ', ',', '\t'])
                .filter(|word| !word.is_empty())
            {
                match word {
                    "3" => versions.v3_1 = true,
                    "4" => versions.v3_1_1 = true,
                    "5" => versions.v5 = true,
                    word => {
                        return Err(format!(
                            "Invalid 'accept_protocol_versions' value ({}). Use 3, 4 and 5, with commas between.",
                            show(word)
                        ));
                    }
                }
            }
            if !(versions.v3_1 || versions.v3_1_1 || versions.v5) {
                return Err(
                    "Empty 'accept_protocol_versions' value in configuration. Use 3, 4 and 5."
                        .into(),
                );
            }
            draft.listener().settings.protocol_versions = versions;
            SAME
        }
    ),
    option!(
        Door,
        "use_username_as_clientid",
        Kind::Switch,
        "listeners.use_username_as_client_id",
        |draft, given| {
            draft.listener().settings.use_username_as_client_id = given.on();
            SAME
        }
    ),
    option!(
        Listener,
        "listener_allow_anonymous",
        Kind::Switch,
        "listeners.allow_anonymous",
        |draft, given| {
            draft.listener().settings.allow_anonymous = Some(given.on());
            SAME
        }
    ),
    option!(
        Listener,
        "listener_auto_id_prefix",
        Kind::Text,
        "listeners.auto_id_prefix",
        |draft, given| {
            draft.listener().settings.auto_id_prefix =
                Some(prefix("listener_auto_id_prefix", given.text())?.into());
            SAME
        }
    ),
    option!(
        Listener,
        "enable_proxy_protocol",
        INT,
        "listeners.proxy_protocol",
        |draft, given| {
            draft.listener().settings.proxy_protocol = match given.number() {
                1 => Some(ProxyProtocol::V1),
                2 => Some(ProxyProtocol::V2),
                number => {
                    return Err(format!(
                        "Invalid 'enable_proxy_protocol' value ({number}). Use 1 or 2, or remove the line."
                    ));
                }
            };
            SAME
        }
    ),
    option!(
        Listener,
        "proxy_protocol_v2_require_tls",
        Kind::Switch,
        "listeners.proxy_requires_tls",
        |draft, given| {
            draft.listener().settings.proxy_requires_tls = given.on();
            SAME
        }
    ),
    option!(
        Listener,
        "websockets_origin",
        Kind::Line,
        "listeners.websocket_origins",
        |draft, given| {
            let origins = &mut draft.listener().settings.websocket_origins;
            if origins.len() >= 1_000 {
                return Err("Too many 'websockets_origin' values. Use at most 1000.".into());
            }
            origins.push(given.text().into());
            SAME
        }
    ),
    option!(
        Door,
        "http_dir",
        Kind::Text,
        "listeners.http_directory",
        |draft, given| {
            draft.listener().settings.http_directory = Some(given.text().into());
            SAME
        }
    ),
    option!(Listener, "plugin_use", Kind::Line, plugin::attach),
    // Who may come in.
    option!(
        Security,
        "allow_anonymous",
        Kind::Switch,
        "allow_anonymous",
        |draft, given| {
            draft.security().allow_anonymous = Some(given.on());
            SAME
        }
    ),
    option!(
        Security,
        "password_file",
        Kind::Text,
        "password_file",
        |draft, given| {
            draft.security().settings.password_file = Some(given.text().into());
            SAME
        }
    ),
    option!(
        Security,
        "acl_file",
        Kind::Text,
        "acl_file",
        |draft, given| {
            draft.security().settings.acl_file = Some(given.text().into());
            SAME
        }
    ),
    option!(
        Security,
        "allow_zero_length_clientid",
        Kind::Switch,
        "allow_zero_length_client_id",
        |draft, given| {
            draft.security().settings.allow_zero_length_client_id = given.on();
            SAME
        }
    ),
    option!(
        Security,
        "auto_id_prefix",
        Kind::Text,
        "auto_id_prefix",
        |draft, given| {
            draft.security().settings.auto_id_prefix =
                prefix("auto_id_prefix", given.text())?.into();
            SAME
        }
    ),
    option!(Security, "psk_file", Kind::Text, |_, _| Err(no_psk(
        "psk_file"
    ))),
    // TLS.
    tls!(text "cafile", ca_file),
    tls!(text "capath", ca_path),
    tls!(text "certfile", certificate_file),
    tls!(text "keyfile", key_file),
    tls!(text "crlfile", crl_file),
    tls!(text "ciphers", ciphers),
    tls!(text "ciphers_tls1.3", ciphers_tls_1_3),
    tls!(switch "require_certificate", require_certificate),
    tls!(switch "use_identity_as_username", use_identity_as_username),
    tls!(switch "use_subject_as_username", use_subject_as_username),
    tls!(switch "disable_client_cert_date_checks", disable_client_certificate_date_checks),
    option!(
        Door,
        "tls_version",
        Kind::Text,
        "listeners.tls.version",
        |draft, given| {
            let fate = match given.text() {
                "tlsv1.2" | "tlsv1.3" => Fate::Same,
                "tlsv1" | "tlsv1.1" => {
                    Fate::changed("1.2 and 1.3 only: older versions of TLS are not spoken")
                }
                word => {
                    return Err(format!(
                        "Invalid 'tls_version' value ({}). Use tlsv1.2 or tlsv1.3.",
                        show(word)
                    ));
                }
            };
            draft.listener().tls.version = Some(match fate {
                Fate::Same => given.text().into(),
                _ => "tlsv1.2".into(),
            });
            Ok(fate)
        }
    ),
    option!(Door, "dhparamfile", Kind::Text, |_, _| {
        Ok(Fate::ignored(
            "keys are exchanged by elliptic curves, which need no parameters",
        ))
    }),
    option!(Door, "tls_engine", Kind::Text, |_, _| Err(no_engine(
        "tls_engine"
    ))),
    option!(Door, "tls_engine_kpass_sha1", Kind::Text, |_, _| {
        Err(no_engine("tls_engine_kpass_sha1"))
    }),
    option!(
        Door,
        "tls_keyform",
        Kind::Text,
        |_, given| match given.text() {
            "pem" => SAME,
            "engine" => Err(no_engine("tls_keyform engine")),
            word => Err(format!(
                "Invalid 'tls_keyform' value ({}). Use pem.",
                show(word)
            )),
        }
    ),
    option!(Door, "psk_hint", Kind::Text, |_, _| Err(no_psk("psk_hint"))),
];

fn prefix<'a>(name: &str, text: &'a str) -> Result<&'a str, String> {
    if text.len() > 50 {
        return Err(format!(
            "'{name}' length must be <= 50. It is {}.",
            text.len()
        ));
    }
    Ok(text)
}

pub(super) fn no_psk(name: &str) -> String {
    format!(
        "'{name}' is not supported: TLS here has no pre-shared keys. Use certificates \
         (certfile, keyfile, require_certificate), or passwords over TLS."
    )
}

pub(super) fn no_engine(name: &str) -> String {
    format!(
        "'{name}' is not supported: there is no OpenSSL here, so it has no engines. \
         Keep the key in a PEM file (keyfile)."
    )
}
