//! WebSocket: upgrades, frames and close codes, in raw bytes.

use std::io::Write;
use std::net::TcpStream;

use harness::{Broker, Connect, WebClient, bytes, upgrade_request, web_frame};

use super::with_listener;

const CONNACK_V4: &str = "20 02 00 00";

fn start(keys: &str) -> Broker {
    with_listener(&format!("protocol = \"websocket\"\n{keys}")).start()
}

fn connected(broker: &Broker, client_id: &str) -> WebClient {
    let mut client = WebClient::open(broker);
    client.send(&Connect::v4(client_id).bytes());
    client.expect(&bytes(CONNACK_V4));
    client
}

/// The status of the answer, and whether the broker closed behind it.
#[track_caller]
fn refused(broker: &Broker, request: &[u8]) -> String {
    let mut client = WebClient::request(broker.address(), request);
    assert!(client.is_closed());
    client.answer.lines().next().unwrap_or_default().to_owned()
}

#[test]
fn an_upgrade_names_the_subprotocol_and_any_path_is_served() {
    let broker = start("");
    let answer = |request: &[u8]| WebClient::request(broker.address(), request).answer;
    let mqtt = answer(&upgrade_request("Sec-WebSocket-Protocol: mqtt\r\n"));
    assert!(
        mqtt.starts_with("HTTP/1.1 101 ") && mqtt.contains("\r\nSec-WebSocket-Protocol: mqtt\r\n"),
        "{mqtt}"
    );
    assert!(
        mqtt.contains("\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"),
        "{mqtt}"
    );
    let old = answer(&upgrade_request("Sec-WebSocket-Protocol: mqttv3.1\r\n"));
    assert!(
        old.contains("\r\nSec-WebSocket-Protocol: mqttv3.1\r\n"),
        "{old}"
    );
    let none = answer(&upgrade_request(""));
    assert!(
        none.starts_with("HTTP/1.1 101 ") && !none.contains("Sec-WebSocket-Protocol"),
        "{none}"
    );
    let text = String::from_utf8(upgrade_request("")).unwrap();
    let elsewhere = answer(text.replace("/mqtt", "/../../any?path=1").as_bytes());
    assert!(elsewhere.starts_with("HTTP/1.1 101 "), "{elsewhere}");
}

#[test]
fn t12_a_request_that_is_no_upgrade_gets_an_http_error_and_no_file() {
    let mut broker = start("");
    let status = |request: &[u8]| refused(&broker, request);
    let traversal = b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n";
    assert_eq!(status(traversal), "HTTP/1.1 426 Upgrade Required");
    assert_eq!(
        status(b"PUT / HTTP/1.1\r\nHost: x\r\n\r\n"),
        "HTTP/1.1 405 Method Not Allowed"
    );
    assert_eq!(
        status(&upgrade_request("Sec-WebSocket-Protocol: chat\r\n")),
        "HTTP/1.1 400 Bad Request"
    );
    let huge = format!("X: {}\r\n", "y".repeat(100 * 1024));
    assert_eq!(
        status(&upgrade_request(&huge)),
        "HTTP/1.1 431 Request Header Fields Too Large"
    );
    let many = "X: y\r\n".repeat(1_000);
    assert_eq!(
        status(&upgrade_request(&many)),
        "HTTP/1.1 431 Request Header Fields Too Large"
    );
    // MQTT without WebSocket, and TLS.
    assert_eq!(
        status(&Connect::v4("plain").bytes()),
        "HTTP/1.1 400 Bad Request"
    );
    assert_eq!(
        status(&bytes("16 03 01 00 05 01 00 00 01 00")),
        "HTTP/1.1 400 Bad Request"
    );
    broker.wait_for_log("rejected, no WebSocket upgrade was asked for.");
    connected(&broker, "still served");
}

#[test]
fn t12_a_request_that_does_not_end_is_closed_in_time() {
    let text = "allow_anonymous = true\nconnect_timeout_seconds = 1\n[[listeners]]\n\
                address = \"127.0.0.1:{port}\"\nprotocol = \"websocket\"\n";
    let mut broker = Broker::options().toml(text).start();
    let mut slow = TcpStream::connect(broker.address()).unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\nHost: ").unwrap();
    broker.wait_for_log("closed: it did not come to MQTT in time.");
    slow.set_read_timeout(Some(harness::PATIENCE)).unwrap();
    match std::io::Read::read(&mut slow, &mut [0; 8]) {
        Ok(count) => assert_eq!(count, 0),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
}

#[test]
fn t10_only_the_origins_of_the_list_come_in() {
    let mut broker =
        start("websocket_origins = [\"https://good.example\", \"http://localhost:8080\"]");
    let forbidden = "HTTP/1.1 403 Forbidden";
    let long = format!("Origin: https://good.example{}\r\n", "x".repeat(300));
    let cases = [
        "",
        "Origin: https://evil.example\r\n",
        "Origin: https://good.example.evil.example\r\n",
        "Origin: https://good.example:8443\r\n",
        "Origin: null\r\n",
        "Origin: https://good.example\r\nOrigin: https://evil.example\r\n",
        "Origin: https://good.example\r\norigin: https://good.example\r\n",
        &long,
    ];
    for more in cases {
        assert_eq!(
            refused(&broker, &upgrade_request(more)),
            forbidden,
            "{more}"
        );
    }
    broker.wait_for_log("rejected, Origin is not in websocket_origins.");
    for origin in ["https://good.example", "http://localhost:8080"] {
        let request = upgrade_request(&format!("Origin: {origin}\r\n"));
        let answer = WebClient::request(broker.address(), &request).answer;
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    }
}

#[test]
fn t11_what_breaks_the_rules_of_frames_gets_its_close_code() {
    let broker = start("");
    let endless = [&[0x82, 0xff, 0x7f][..], &[0xff; 7], &[1, 2, 3, 4]].concat();
    let two_gigabytes = [&[0x82, 0xff, 0, 0, 0, 0, 0x80, 0, 0, 0][..], &[1, 2, 3, 4]].concat();
    let cases: [(&str, Vec<u8>, u16); 12] = [
        ("unmasked", vec![0x82, 0x02, 0xc0, 0x00], 1002),
        ("unmasked and empty", vec![0x82, 0x00], 1002),
        ("text", web_frame(0x81, b"hello"), 1003),
        ("empty text", web_frame(0x81, b""), 1003),
        ("2^63 bytes", endless, 1009),
        ("2 GiB", two_gigabytes, 1009),
        ("compressed", web_frame(0xc2, &[0; 20]), 1002),
        ("a reserved opcode", web_frame(0x83, b""), 1002),
        ("a part of nothing", web_frame(0x80, b"x"), 1002),
        (
            "a message in a message",
            [web_frame(0x02, b""), web_frame(0x82, b"")].concat(),
            1002,
        ),
        ("a ping in parts", web_frame(0x09, b"x"), 1002),
        ("a long ping", web_frame(0x89, &[0; 126]), 1002),
    ];
    for (what, frames, code) in &cases {
        let mut client = connected(&broker, "breaks rules");
        client.send_raw(frames);
        client.expect_close(*code);
        let mut early = WebClient::open(&broker);
        early.send_raw(frames);
        early.expect_close(*code);
        assert!(!what.is_empty());
    }
    let mut within = connected(&broker, "within");
    let mut largest = bytes("30 fc 88 7a s1 't'");
    largest.resize(2_000_000, 0);
    within.send(&largest);
    within.send(&[0xc0, 0]);
    within.expect(&[0xd0, 0]);
}

#[test]
fn t11_frames_and_packets_have_nothing_to_do_with_each_other() {
    let broker = start("");
    let mut client = WebClient::open(&broker);
    let connect = Connect::v4("cut").bytes();
    // CONNECT in frames of one byte, with empty frames, pings and pongs between them, and in parts of one message.
    for (place, byte) in connect.iter().enumerate() {
        client.send_frame(if place == 0 { 0x02 } else { 0x00 }, &[*byte]);
        client.send_frame(0x00, b"");
        client.send_frame(0x8a, b"nobody asked");
    }
    client.send_frame(0x80, b"");
    client.expect(&bytes(CONNACK_V4));
    // Many packets in one frame, cut anywhere.
    let all = [
        bytes("82 r6 m1 s1 't' 01"),
        bytes("30 r4 s1 't' 'a'"),
        bytes("c0 00"),
        bytes("30 r4 s1 't' 'b'"),
    ]
    .concat();
    let expected = [
        bytes("90 r3 m1 01"),
        bytes("30 r4 s1 't' 'a'"),
        bytes("d0 00"),
        bytes("30 r4 s1 't' 'b'"),
    ]
    .concat();
    for cut in 0..=all.len() {
        client.send_raw(&[web_frame(0x82, &all[..cut]), web_frame(0x82, &all[cut..])].concat());
        client.expect(&expected);
    }
    // Empty messages say nothing.
    client.send(b"");
    client.send(&[0xc0, 0]);
    client.expect(&[0xd0, 0]);
}

#[test]
fn a_large_message_comes_in_frames_that_are_bounded() {
    let broker = start("");
    let mut client = connected(&broker, "large");
    client.send(&bytes("82 r6 m1 s1 't' 00"));
    client.expect(&bytes("90 r3 m1 00"));
    let payload: Vec<u8> = (0..1_000_000_u32).map(|n| n as u8).collect();
    let mut publish = bytes("s1 't'");
    publish.extend(&payload);
    let mut whole = vec![0x30];
    whole.extend(harness::variable_byte_integer(publish.len() as u64));
    whole.extend(publish);
    client.send(&whole);
    let mut received = Vec::new();
    while received.len() < whole.len() {
        let frame = client.receive_frame().unwrap();
        assert_eq!(frame.first_byte, 0x82);
        assert!(frame.payload.len() <= 65_536, "{}", frame.payload.len());
        received.extend(frame.payload);
    }
    assert!(received == whole);
}

#[test]
fn pings_are_answered_and_a_flood_of_them_is_bounded() {
    let broker = start("");
    let mut client = connected(&broker, "pings");
    client.send_frame(0x89, b"are you there");
    let pong = client.receive_frame().unwrap();
    assert_eq!(
        (pong.first_byte, &pong.payload[..]),
        (0x8a, &b"are you there"[..])
    );
    // 20 MB of pings that are answered as they are read, or left out; no answer is kept but the last.
    let before = broker.resident_bytes();
    let flood = web_frame(0x89, &[7; 125]).repeat(1_000);
    let mut reader = connected(&broker, "reads nothing");
    for _ in 0..150 {
        reader.send_raw(&flood);
    }
    client.send(&[0xc0, 0]);
    client.expect(&[0xd0, 0]);
    let grown = broker.resident_bytes().saturating_sub(before);
    assert!(grown < 4 << 20, "{grown} bytes more");
}

#[test]
fn the_end_is_said_with_a_close_frame() {
    let broker = start("");
    let mut client = connected(&broker, "leaves");
    client.send(&[0xe0, 0]);
    client.expect_close(1000);
    // With Close in the same segment: DISCONNECT comes first, so there is no will.
    let mut watcher = connected(&broker, "watcher");
    watcher.send(&bytes("82 r9 m1 s4 'will' 00"));
    watcher.expect(&bytes("90 r3 m1 00"));
    let with_will = Connect::v4("has a will")
        .will("will", "gone", 0, false)
        .bytes();
    let mut client = WebClient::open(&broker);
    client.send(&with_will);
    client.expect(&bytes(CONNACK_V4));
    client.send_raw(
        &[
            web_frame(0x82, &[0xe0, 0]),
            web_frame(0x88, &1000_u16.to_be_bytes()),
        ]
        .concat(),
    );
    client.expect_close(1000);
    // Close alone is no DISCONNECT.
    let mut client = WebClient::open(&broker);
    client.send(&with_will);
    client.expect(&bytes(CONNACK_V4));
    client.send_frame(0x88, &1001_u16.to_be_bytes());
    client.expect_close(1001);
    watcher.expect(&bytes("30 r10 s4 'will' 'gone'"));
    // What a client did wrong in MQTT is said in MQTT.
    let mut client = WebClient::open(&broker);
    client.send(&Connect::v5("wrong").bytes());
    assert!(client.receive_frame().is_some());
    client.send(&[0x00, 0x00]);
    client.expect(&bytes("e0 01 82"));
    client.expect_close(1000);
}

#[test]
fn forwarded_addresses_are_believed_from_proxies_only() {
    let request =
        upgrade_request("Sec-WebSocket-Protocol: mqtt\r\nX-Forwarded-For: 6.6.6.6, 192.0.2.77\r\n");
    let speak = |broker: &Broker| {
        let mut client = WebClient::request(broker.address(), &request);
        client.send(&Connect::v4("forwarded").bytes());
        client.expect(&bytes(CONNACK_V4));
    };
    let mut trusting = start("proxy_networks = [\"127.0.0.0/8\"]");
    speak(&trusting);
    trusting.wait_for_log("New client connected from 192.0.2.77:");
    for keys in ["", "proxy_networks = [\"10.0.0.0/8\"]"] {
        let mut other = start(keys);
        speak(&other);
        other.wait_for_log("New client connected from 127.0.0.1:");
    }
}
