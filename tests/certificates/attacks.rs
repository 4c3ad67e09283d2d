//! T4 to T9 of the catalogue of attacks, as far as `matrix.rs` (whose certificate is good, where and when) and `stalled.rs` (T8: handshakes
//! without end) do not have them.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use harness::{Broker, Connect, binary};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConnection, SupportedProtocolVersion};
use time::OffsetDateTime;

use crate::forger::{DAY, Draft, Forger, Papers, REVOKED};
use crate::guest::{Door, Guest, Reception, Visit};
use crate::world::talk;

#[test]
fn t4_at_no_kind_of_listener_is_a_certificate_left_unlooked_at() {
    let mut world = World::new("");
    let (good, others) = (
        world.papers(),
        world.forger.other.sign(&Draft::named("gauge-7")),
    );
    for door in [Door::Tcp, Door::Web, Door::Http] {
        for version in VERSIONS {
            let come = |papers: Option<&Papers>| {
                let guest = Guest::new(version, papers);
                guest.visit(world.port(door), door).reception
            };
            assert_eq!(come(Some(&good)), Reception::In { resumed: false });
            assert_eq!(
                come(Some(&others)),
                Reception::Alert(UNKNOWN_CA),
                "{door:?}"
            );
            assert_eq!(
                come(None),
                Reception::Alert(CERTIFICATE_REQUIRED),
                "{door:?}"
            );
        }
    }
    world.broker.wait_for_log_times("New client connected", 4);
}

#[test]
fn t6_when_the_list_of_the_revoked_has_ended_nobody_comes_in() {
    let mut world = World::new("");
    let ended = OffsetDateTime::now_utc() - Duration::from_secs(60);
    let list = world.forger.trusted.revocation_list(&[REVOKED], ended);
    world.forger.write("ca.crl", &list);
    world.reload(1);
    let papers = world.papers();
    for version in VERSIONS {
        let visit = Guest::new(version, Some(&papers)).visit(world.broker.port, Door::Tcp);
        assert_eq!(visit.reception, Reception::Alert(UNKNOWN_CA));
        world
            .broker
            .wait_for_log(&format!("Connection from {} rejected", visit.address));
    }
    world.broker.wait_for_log("revocation list");
    // One of an authority that nobody has heard of says nothing about ours.
    let end = OffsetDateTime::now_utc() + DAY;
    let list = world.forger.other.revocation_list(&[REVOKED], end);
    world.forger.write("ca.crl", &list);
    world.reload(2);
    let visit = Guest::new(&TLS13, Some(&papers)).visit(world.broker.port, Door::Tcp);
    assert_eq!(visit.reception, Reception::Alert(UNKNOWN_CA));
    world.forger.revoke(&[REVOKED]);
    world.reload(3);
    let visit = Guest::new(&TLS13, Some(&papers)).visit(world.broker.port, Door::Tcp);
    assert_eq!(visit.reception, Reception::In { resumed: false });
}

#[test]
fn t7_versions_before_1_2_are_refused() {
    let world = World::new("");
    for version in ["-tls1", "-tls1_1"] {
        let said = world.s_client(&[version, "-cipher", "ALL:@SECLEVEL=0"], b"");
        // Protocol version, or handshake failure: no suite is so old.
        let alerts = ["SSL alert number 70", "SSL alert number 40"];
        assert!(alerts.iter().any(|alert| said.contains(alert)), "{said}");
    }
    // A ClientHello of SSL 3.0, and one of SSL 2.0.
    let mut ssl_3 = vec![0x16, 3, 0, 0, 45, 1, 0, 0, 41, 3, 0];
    ssl_3.extend([7; 32]);
    ssl_3.extend([0, 0, 2, 0, 0x2f, 1, 0]);
    let ssl_2 = [0x80, 0x2e, 1, 0, 2, 0, 0x15, 0, 0, 0, 0x10, 1, 0, 0x80];
    for hello in [&ssl_3[..], &ssl_2] {
        let answer = world.exchange(hello);
        assert!(
            answer.is_empty() || answer.starts_with(&[0x15, 3]),
            "{answer:02x?}"
        );
    }
}

#[test]
fn t7_where_1_3_is_the_lowest_version_nothing_lower_is_spoken() {
    let world = World::new("version = \"tlsv1.3\"\n");
    let papers = world.papers();
    for door in [Door::Tcp, Door::Web, Door::Http] {
        let come = |version| {
            let guest = Guest::new(version, Some(&papers));
            guest.visit(world.port(door), door).reception
        };
        assert_eq!(come(&TLS12), Reception::Alert(PROTOCOL_VERSION), "{door:?}");
        assert_eq!(come(&TLS13), Reception::In { resumed: false }, "{door:?}");
    }
}

#[test]
fn t7_nothing_is_negotiated_again_and_nothing_is_compressed() {
    let world = World::new("");
    let (certificate, key) = world.forger.trusted.pem_of(&Draft::named("gauge-7"));
    world.forger.write("client.pem", &(certificate + &key));
    // `R` at the beginning of a line makes s_client ask for it.
    let said = world.s_client(&["-tls1_2", "-comp", "-legacy_renegotiation"], b"R\n");
    assert!(said.contains("RENEGOTIATING"), "{said}");
    assert!(said.contains("no renegotiation"), "{said}");
    assert!(said.contains("Compression: NONE"), "{said}");
    let again = Guest::new(&TLS12, Some(&world.papers())).visit(world.broker.port, Door::Tcp);
    assert_eq!(again.reception, Reception::In { resumed: false });
}

#[test]
fn t7_nothing_is_taken_before_the_handshake_and_what_was_recorded_is_worth_nothing() {
    let mut world = World::new("");
    let guest = Guest::sending_early(&TLS13, Some(&world.papers()));
    let first = guest.visit(world.broker.port, Door::Tcp);
    assert_eq!(first.reception, Reception::In { resumed: false });
    world.broker.wait_for_log("New client connected");
    // The ticket allows no early data, so the client has no place to put any.
    let mut client = guest.client();
    assert!(client.early_data().is_none());
    // A conversation that resumes, as somebody on the way sees it.
    let stream = world.connect();
    let mut recording = Recording {
        stream,
        sent: Vec::new(),
    };
    let connect = Connect::v4("replayed").bytes();
    let mut tls = rustls::Stream::new(&mut client, &mut recording);
    tls.write_all(&connect).expect("the broker listens");
    let mut connack = [0; 4];
    tls.read_exact(&mut connack).expect("the broker answers");
    assert_eq!(connack, [0x20, 2, 0, 0]);
    world.broker.wait_for_log("as replayed");
    for _ in 0..3 {
        let answer = world.exchange(&recording.sent);
        assert!(!answer.is_empty(), "its first message is as good as any");
    }
    let log = world.broker.log();
    assert_eq!(log.matches("as replayed").count(), 1, "{log}");
}

#[test]
fn t8_odd_extensions_are_answered_or_refused_and_cost_nothing() {
    let world = World::new("");
    let hello = world.hello(&TLS13);
    let name = |name: &[u8]| [&[0], &length(name)[..], name].concat();
    let list = |names: &[Vec<u8>]| {
        let names = names.concat();
        [&length(&names)[..], &names].concat()
    };
    let protocol = |byte: u8| [&[255], &[byte; 255][..]].concat();
    let (sni, alpn, padding, unknown) = (0, 16, 21, 0xfafa);
    let extensions: Vec<(u16, Vec<u8>)> = vec![
        (sni, list(&[name(&[b'a'; 16_384])])),
        (sni, list(&[name(&[b'a'; 254])])),
        (sni, list(&[name(b"localhost"), name(b"evil.example")])),
        (sni, list(&[name(b"")])),
        (sni, list(&[name(b"admin\0.evil")])),
        (sni, list(&[name(b"127.0.0.1")])),
        (sni, list(&[])),
        (sni, vec![0xff, 0xff, 0]),
        (sni, Vec::new()),
        (alpn, list(&(0..100).map(protocol).collect::<Vec<_>>())),
        (alpn, list(&[vec![0]])),
        (alpn, list(&[])),
        (padding, vec![0; 60_000]),
        (unknown, vec![0; 60_000]),
    ];
    let before = world.broker.resident_bytes();
    for (kind, content) in extensions {
        let odd = with_extension(&hello, kind, &content);
        for record_bytes in [16_384, 1_000] {
            let answer = world.exchange(&records(&odd, record_bytes));
            let is_tls = matches!(answer.first(), Some(0x15 | 0x16));
            assert!(is_tls, "{kind}, {} bytes: {answer:02x?}", content.len());
        }
    }
    // A message that claims to be as long as one can be, and one byte in each record.
    let claim = [&[1, 0xff, 0xff, 0xff], &[0; 60_000][..]].concat();
    let answer = world.exchange(&records(&claim, 16_384));
    assert!(matches!(answer.first(), None | Some(0x15)), "{answer:02x?}");
    world.exchange(&records(&hello, 1));
    let grown = world.broker.resident_bytes().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes more");
    world.is_well();
}

#[test]
fn t8_a_name_or_a_protocol_that_is_asked_for_changes_nothing() {
    let mut world = World::new("");
    let papers = world.papers();
    for version in VERSIONS {
        for protocols in [&["mqtt"][..], &["h2", "http/1.1"], &["x-amzn-mqtt-ca"]] {
            let guest = Guest::asking_for(version, Some(&papers), protocols);
            let visit = guest.visit(world.broker.port, Door::Tcp);
            assert_eq!(visit.reception, Reception::In { resumed: false });
            let line = visit.line("gauge-7");
            world.broker.wait_for_log(&line);
        }
    }
}

#[test]
fn t8_a_chain_of_a_megabyte_is_not_read_to_its_end() {
    let world = World::new("");
    let papers = world.papers().with_others_behind(100, 10_000);
    let before = world.broker.resident_bytes();
    for door in [Door::Tcp, Door::Web, Door::Http] {
        for version in VERSIONS {
            for _ in 0..5 {
                let visit = Guest::new(version, Some(&papers)).visit(world.port(door), door);
                // Somebody who goes on sending may be cut off before the alert is read.
                let is_out = matches!(visit.reception, Reception::Alert(_) | Reception::Close(_));
                assert!(is_out, "{:?}", visit.reception);
            }
        }
    }
    // Many that fit, and lead nowhere: looking for a way among them has an end.
    let stranger = world.forger.other.sign(&Draft::named("gauge-7"));
    let papers = stranger.with_others_behind(100, 100);
    let visit = Guest::new(&TLS13, Some(&papers)).visit(world.broker.port, Door::Tcp);
    assert!(
        matches!(visit.reception, Reception::Alert(_)),
        "{:?}",
        visit.reception
    );
    let grown = world.broker.resident_bytes().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes more");
    world.is_well();
}

#[test]
fn t9_a_key_that_was_shared_before_is_no_way_past_certificates() {
    let world = World::new("");
    let psk = [
        "-psk",
        "00112233445566778899aabbccddeeff",
        "-psk_identity",
        "gauge-7",
    ];
    // TLS 1.2 has suites for it, of which the broker has none.
    let said = world.s_client(&[&["-tls1_2", "-cipher", "PSK"][..], &psk].concat(), b"");
    assert!(said.contains("SSL alert number 40"), "{said}");
    // In TLS 1.3 it is passed over, and a certificate is asked for.
    let said = world.s_client(
        &[&["-tls1_3"][..], &psk].concat(),
        b"\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01a",
    );
    assert!(said.contains("SSL alert number 116"), "{said}");
    assert!(!world.broker.log().contains("New client connected"));
}

#[test]
fn t9_a_configuration_with_shared_keys_does_not_start_without_them() {
    let forger = Forger::new();
    for option in ["psk_file /tmp/keys", "psk_hint hint"] {
        let conf = forger.path("mosquitto.conf");
        let text = format!("listener 0 127.0.0.1\n{option}\n");
        std::fs::write(&conf, text).expect("the directory is ours");
        let output = Command::new(binary())
            .arg("-c")
            .arg(&conf)
            .stdin(Stdio::null())
            .output()
            .expect("the broker can be run");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{option}");
        assert!(said.contains("no pre-shared keys"), "{said}");
    }
}

struct World {
    forger: Forger,
    broker: Broker,
    http_port: u16,
}

impl World {
    /// A broker that asks for certificates, on all kinds of listeners. `more`: keys of each one's TLS.
    fn new(more: &str) -> Self {
        let forger = Forger::new();
        let strict = format!("{}use_identity_as_username = true\n{more}", forger.strict());
        let toml = format!(
            "allow_anonymous = true\n\
             [[listeners]]\naddress = \"127.0.0.1:0\"\nprotocol = \"http_api\"\n{strict}\
             [[listeners]]\naddress = \"127.0.0.1:{{second_port}}\"\nprotocol = \"websocket\"\n{strict}\
             [[listeners]]\naddress = \"127.0.0.1:{{port}}\"\n{strict}"
        );
        let mut broker = Broker::options().toml(&toml).start();
        broker.wait_for_log("http api listen socket on port ");
        let log = broker.log();
        let (_, port) = log
            .split_once("http api listen socket on port ")
            .expect("it was waited for");
        let port = port.split('.').next().and_then(|port| port.parse().ok());
        Self {
            forger,
            broker,
            http_port: port.expect("it is a port"),
        }
    }

    fn port(&self, door: Door) -> u16 {
        match door {
            Door::Tcp => self.broker.port,
            Door::Web => self.broker.second_port,
            Door::Http => self.http_port,
        }
    }

    fn papers(&self) -> Papers {
        self.forger.trusted.sign(&Draft::named("gauge-7"))
    }

    #[track_caller]
    fn is_well(&self) {
        let visit: Visit =
            Guest::new(&TLS13, Some(&self.papers())).visit(self.broker.port, Door::Tcp);
        assert_eq!(visit.reception, Reception::In { resumed: false });
        assert!(!self.broker.log().contains("panic"));
    }

    #[track_caller]
    fn reload(&mut self, number: usize) {
        crate::reload(&mut self.broker, number);
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.broker.port));
        let stream = stream.expect("the broker listens");
        stream
            .set_read_timeout(Some(harness::PATIENCE))
            .expect("a timeout above zero is accepted");
        stream
    }

    /// What comes for these bytes and the end, up to the end. The broker must close, whatever they are.
    #[track_caller]
    fn exchange(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = self.connect();
        // It need not read all of it.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        if let Err(error) = stream.read_to_end(&mut answer) {
            let kind = error.kind();
            assert_eq!(kind, std::io::ErrorKind::ConnectionReset, "{answer:02x?}");
        }
        answer
    }

    /// The message with which a client begins.
    fn hello(&self, version: &'static SupportedProtocolVersion) -> Vec<u8> {
        let mut client: ClientConnection = Guest::new(version, None).client();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).expect("it is memory");
        // Without the head of its record.
        bytes.split_off(5)
    }

    /// What `openssl s_client` says, who comes with the certificate of `client.pem` where there is one.
    fn s_client(&self, arguments: &[&str], bytes: &[u8]) -> String {
        let papers = self.forger.path("client.pem");
        let mut command = Command::new("sh");
        command
            .args(["-c", "exec timeout 40 openssl s_client \"$@\" 2>&1", "-"])
            .args(["-connect", &format!("127.0.0.1:{}", self.broker.port)])
            .args(arguments);
        if papers.exists() {
            command.arg("-cert").arg(&papers).arg("-key").arg(&papers);
        }
        // It ends by itself where it is refused.
        talk(&mut command, bytes, |said| {
            said.contains("no renegotiation")
        })
    }
}

/// Keeps what is written.
struct Recording {
    stream: TcpStream,
    sent: Vec<u8>,
}

impl Read for Recording {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.stream.read(buffer)
    }
}

impl Write for Recording {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.stream.write(bytes)?;
        self.sent.extend(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A ClientHello with this extension, in the place of the one that it has of the kind.
fn with_extension(hello: &[u8], kind: u16, content: &[u8]) -> Vec<u8> {
    let number = |at: usize| usize::from(u16::from_be_bytes([hello[at], hello[at + 1]]));
    // Kind and length, version, random; then the session id, suites and methods of compression.
    let mut at = 4 + 2 + 32;
    at += 1 + usize::from(hello[at]);
    at += 2 + number(at);
    at += 1 + usize::from(hello[at]);
    let fixed = &hello[4..at];
    at += 2;
    let mut extensions = Vec::new();
    while at < hello.len() {
        let end = at + 4 + number(at + 2);
        if number(at) != usize::from(kind) {
            extensions.extend(&hello[at..end]);
        }
        at = end;
    }
    extensions.extend(kind.to_be_bytes());
    extensions.extend(length(content));
    extensions.extend(content);
    let body = [fixed, &length(&extensions), &extensions].concat();
    let size = u32::try_from(body.len())
        .expect("it is small")
        .to_be_bytes();
    [&[1], &size[1..], &body].concat()
}

/// A message of the handshake in records of so many bytes.
fn records(message: &[u8], bytes: usize) -> Vec<u8> {
    let record = |part: &[u8]| [&[0x16, 3, 1], &length(part)[..], part].concat();
    message.chunks(bytes).flat_map(record).collect()
}

fn length(bytes: &[u8]) -> [u8; 2] {
    let length = u16::try_from(bytes.len());
    length.expect("two bytes tell the length").to_be_bytes()
}

const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];
const UNKNOWN_CA: u8 = 48;
const PROTOCOL_VERSION: u8 = 70;
const CERTIFICATE_REQUIRED: u8 = 116;
