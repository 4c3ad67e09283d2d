//! Proofs of the keys of a listener: what they promise, by name.

use super::super::Slip;
use super::*;
use crate::settings::Settings;

const DOCUMENT: &str = include_str!("../../../../../docs/listeners.md");

fn parse(text: &str) -> Result<Settings, Slip> {
    let result = super::super::parse(text);
    result
        .map(|(settings, _)| settings)
        .map_err(|slips| slips.into_iter().next().unwrap())
}

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
    for Key { name: key, .. } in KEYS
        .iter()
        .filter(|key| !["address", "path"].contains(&key.name))
    {
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
        ("connections_max = 0", "connections_max:"),
        ("connections_max = -1", "connections_max:"),
        ("maximum_qos = 3", "maximum_qos: "),
        ("topic_alias_maximum = 65536", "topic_alias_maximum: "),
        (
            "protocol_versions = []",
            "protocol_versions: expected a list",
        ),
        (
            "protocol_versions = [\"4\"]",
            "protocol_versions: expected a list",
        ),
        ("proxy_protocol = 3", "proxy_protocol: 3 is out of range"),
        (
            "proxy_protocol = 1\nproxy_networks = [\"10.0.0.0/33\"]",
            "proxy_networks: expected",
        ),
        ("proxy_requires_tls = true", "needs proxy_protocol = 2"),
        ("proxy_networks = [\"::1\"]", "proxy_networks needs"),
        ("websocket_origins = [\"x\"]", "websocket_origins needs"),
        ("http_directory = \"x\"", "http_directory needs"),
        (
            "protocol = \"http_api\"\nproxy_protocol = 1",
            "not served behind a PROXY header",
        ),
        (
            "name = \"a\"\n[[listeners]]\naddress = \"127.0.0.1:2\"\nname = \"a\"",
            "two listeners are called 'a'",
        ),
        ("path = \"/run/x.sock\"", "not both"),
        (
            "proxy_protocol = 1\n[listeners.tls]\nrequire_certificate = true",
            "does not tell of certificates",
        ),
        (
            "proxy_protocol = 2\n[listeners.tls]\nrequire_certificate = true",
            "proxy_networks is needed",
        ),
        (
            "proxy_protocol = 2\nproxy_networks = [\"::1\"]\n[listeners.tls]\nca_file = \"a\"",
            "only require_certificate",
        ),
        (
            "[listeners.tls]\ncertificate_file = \"c\"\nkey_file = \"k\"\nbind_client_id = true",
            "need require_certificate",
        ),
    ];
    for (text, expected) in cases {
        let text = format!("[[listeners]]\naddress = \"127.0.0.1:1\"\n{text}");
        let message = parse(&text).unwrap_err().message;
        assert!(message.contains(expected), "{text}: {message}");
    }
    let long = format!("[[listeners]]\npath = \"/{}\"", "x".repeat(107));
    assert!(parse(&long).unwrap_err().message.contains("at most 107"));
}

#[test]
fn the_sections_of_a_listener_have_rows_and_take_their_keys() {
    let tls = TLS_KEYS.iter().map(|key| format!("| `tls.{}` |", key.name));
    let security = SECURITY_KEYS
        .iter()
        .map(|key| format!("| `security.{}` |", key.name));
    for row in tls.chain(security) {
        assert!(DOCUMENT.contains(&row), "docs/listeners.md lacks {row}");
    }
    // The names of the fields as Debug prints them, one a line.
    let shown = format!(
        "{:#?}{:#?}",
        TlsSettings::default(),
        SecuritySettings::default()
    );
    let fields = shown
        .lines()
        .filter_map(|line| line.trim_start().split_once(": "));
    for (field, _) in fields {
        let known = TLS_KEYS.iter().any(|key| key.name == field)
            || SECURITY_KEYS.iter().any(|key| key.name == field);
        assert!(known, "{field} has no key");
    }
    let listener = listener(
        "[listeners.tls]\ncertificate_file = \"c\"\nkey_file = \"k\"\nversion = \"tlsv1.3\"\n\
         [listeners.security]\npassword_file = \"p\"\nacl_subscribe = \"mosquitto\"\n",
    );
    assert_eq!(listener.tls.unwrap().version.as_deref(), Some("tlsv1.3"));
    let security = listener.security.unwrap();
    assert!(!security.allow_anonymous && security.password_file.is_some());
}

#[test]
fn all_faults_of_all_listeners_are_told_in_order() {
    let text = "zzz = 1\n[[listeners]]\naddress = \"x\"\nmaximum_qos = 7\n[listeners.tls]\nkey_file = \"k\"\n\
                [[listeners]]\nport = 1\n";
    let slips = super::super::parse(text).unwrap_err();
    let lines: Vec<usize> = slips
        .iter()
        .map(|slip| text[..slip.offset].lines().count())
        .collect();
    assert_eq!(lines, [0, 2, 3, 4, 6, 7], "{slips:?}");
}
