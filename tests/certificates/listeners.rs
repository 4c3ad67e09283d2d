//! TLS as a listener speaks it: over WebSocket and Unix sockets, its deadline, its records, its ciphers.

use std::io::Read;
use std::net::TcpStream;

use harness::{timeout, upgrade_request};

use crate::world::{Authority, World, is_accepted};

const VERSIONS: [&str; 2] = ["tls1_2", "tls1_3"];
const CONNECT: &[u8] = b"\x10\x13\x00\x04MQTT\x04\x02\x00\x3c\x00\x07gauge-7";

#[test]
fn t4_a_web_socket_needs_the_certificate_that_its_listener_asks_for() {
    let authority = Authority::new("authority");
    let mut world = World::of(authority, "protocol = \"websocket\"", "");
    let request = upgrade_request("Sec-WebSocket-Protocol: mqtt\r\n");
    let target = format!("127.0.0.1:{}", world.broker.port);
    for version in VERSIONS {
        let is_in = |said: &str| said.contains("101 Switching Protocols");
        let own = world.s_client(version, &[], &request, is_in);
        assert!(own.contains("101 Switching Protocols"), "{own}");
        let none = world.s_client_with(version, &["-connect", &target], &request, is_in);
        assert!(!none.contains("101 "), "{none}");
    }
    world.broker.wait_for_log("sent no certificates");
    let failures = "nightjar_tls_handshake_failures_total{reason=\"certificate\"}";
    world.wait_for_metric(failures, 2);
}

#[test]
fn a_unix_socket_speaks_tls() {
    let authority = Authority::new("authority");
    let path = authority.text("mqtt.sock");
    let more = format!(
        "[[listeners]]\npath = \"{path}\"\n[listeners.tls]\ncertificate_file = \"{}\"\nkey_file = \"{}\"\n\
         ca_file = \"{}\"\nrequire_certificate = true\nuse_identity_as_username = true\n",
        authority.text("servers/localhost.crt"),
        authority.text("servers/localhost.key"),
        authority.text("ca.crt"),
    );
    let (certificate, key) = (
        authority.text("devices/gauge-7.crt"),
        authority.text("devices/gauge-7.key"),
    );
    let mut world = World::of(authority, "", &more);
    let own = ["-unix", &path, "-cert", &certificate, "-key", &key];
    world.s_client_with("tls1_3", &own, CONNECT, is_accepted);
    world
        .broker
        .wait_for_log(" as gauge-7 (p4, c1, k60, u'gauge-7')");
}

#[test]
fn a_handshake_that_takes_too_long_is_cut_off() {
    let mut world = World::toml("handshake_timeout_seconds = 1");
    let mut silent = TcpStream::connect(world.broker.address()).unwrap();
    silent.set_read_timeout(Some(timeout())).unwrap();
    assert_eq!(silent.read(&mut [0; 16]).unwrap_or(0), 0);
    world.broker.wait_for_log("no TLS handshake in 1 s");
    let failures = "nightjar_tls_handshake_failures_total{reason=\"timeout\"}";
    world.wait_for_metric(failures, 1);
}

#[test]
fn records_of_mqtt_are_as_short_as_was_chosen_and_nothing_is_missing() {
    let world = World::toml("record_size = 512");
    let payload = "x".repeat(3_000);
    let sent = world.publish_with(&["-r", "-m", &payload]);
    assert!(sent.status.success(), "{sent:?}");
    for version in VERSIONS {
        let subscribe = b"\x82\x08\x00\x01\x00\x03a/b\x00";
        let bytes = [CONNECT, subscribe].concat();
        // What was decrypted stands between the lines about records.
        let is_all = |heard: &str| heard.matches('x').count() >= 3_000;
        let heard = world.s_client(version, &["-msg"], &bytes, is_all);
        assert!(is_all(&heard), "{heard}");
        let lengths = application_records(&heard);
        // The encryption adds at most 24 bytes to each.
        assert!(
            lengths.iter().all(|length| *length <= 512 + 24),
            "{lengths:?}"
        );
        assert!(lengths.iter().sum::<usize>() > 3_000, "{lengths:?}");
    }
}

/// Lengths of the records that came and held data, as `-msg` shows them. In 1.3 all look the same from outside, and what is in them is
/// shown behind.
fn application_records(heard: &str) -> Vec<usize> {
    let tells_content = heard.contains("InnerContent");
    let mut lengths = Vec::new();
    let mut last = 0;
    for shown in heard.split("<<< ").skip(1) {
        let (title, rest) = shown.split_once('\n').unwrap_or_default();
        let bytes = rest.lines().next().unwrap_or_default();
        let bytes = bytes.split_whitespace();
        let bytes = bytes.map_while(|byte| usize::from_str_radix(byte, 16).ok());
        let bytes: Vec<usize> = bytes.collect();
        if title.contains("InnerContent") && bytes[..] == [0x17] {
            lengths.push(last);
        } else if let (true, [0x17, _, _, high, low]) = (title.contains("RecordHeader"), &bytes[..])
        {
            last = high * 256 + low;
            if !tells_content {
                lengths.push(last);
            }
        }
    }
    lengths
}

#[test]
fn ciphers_that_are_not_there_are_named_and_the_others_hold() {
    let mut world = World::toml("ciphers = \"ECDHE-ECDSA-AES128-GCM-SHA256:DHE-RSA-AES256-SHA\"");
    world
        .broker
        .wait_for_log("these ciphers are not available and are left out: DHE-RSA-AES256-SHA");
    let own = world.s_client("tls1_2", &[], CONNECT, is_accepted);
    assert!(
        own.contains("Cipher is ECDHE-ECDSA-AES128-GCM-SHA256"),
        "{own}"
    );
}

/// Debian's directory has each certificate under its name and under its hash, and a bundle beside them.
#[test]
fn authorities_come_from_a_directory() {
    let authority = Authority::new("authority");
    let place = authority.path("authorities");
    std::fs::create_dir(&place).unwrap();
    std::fs::copy(authority.path("ca.crt"), place.join("own.pem")).unwrap();
    std::os::unix::fs::symlink("own.pem", place.join("1234abcd.0")).unwrap();
    std::fs::write(place.join("readme.pem"), "nothing").unwrap();
    let settings = authority.path("nightjar.toml");
    let text = std::fs::read_to_string(&settings).unwrap();
    let line = text
        .lines()
        .find(|line| line.starts_with("ca_file"))
        .unwrap();
    let text = text.replace(line, &format!("ca_path = \"{}\"", place.display()));
    std::fs::write(settings, text).unwrap();
    let world = World::of(authority, "", "");
    let output = world.publish_with(&[]);
    assert!(output.status.success(), "{output:?}");
}
