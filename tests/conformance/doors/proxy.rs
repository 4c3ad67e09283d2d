//! The PROXY header: who is believed, what is refused, and whose address the log has.

use std::io::Write;

use harness::{Broker, Client, Connect, WebClient, bytes, upgrade_request};

use super::with_listener;

const V4_ADDRESSES: [u8; 12] = [192, 0, 2, 5, 127, 0, 0, 1, 0x18, 0x83, 0x04, 0xd2];

fn header_v2(command: u8, family: u8, content: &[u8]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend([0x20 | command, family]);
    header.extend((content.len() as u16).to_be_bytes());
    header.extend(content);
    header
}

/// Sends the header and CONNECT in pieces of `step` bytes, and expects CONNACK.
#[track_caller]
fn speak(broker: &Broker, header: &[u8], client_id: &str, step: usize) {
    let mut client = Client::open(broker);
    let all = [header, &Connect::v4(client_id).bytes()].concat();
    for piece in all.chunks(step) {
        client.send(piece);
    }
    client.expect("20 02 00 00");
}

#[track_caller]
fn expect_refusal(broker: &Broker, bytes: &[u8]) {
    let mut client = Client::open(broker);
    client.send(bytes);
    client.expect_close();
}

#[test]
fn the_client_is_who_the_header_says() {
    let mut v1 = with_listener("proxy_protocol = 1").start();
    speak(
        &v1,
        b"PROXY TCP4 192.0.2.5 127.0.0.1 6275 1234\r\n",
        "one",
        1000,
    );
    v1.wait_for_log("New client connected from 192.0.2.5:6275 as one ");
    speak(&v1, b"PROXY TCP6 2001:db8::7 ::1 6275 1234\r\n", "two", 1);
    v1.wait_for_log("New client connected from [2001:db8::7]:6275 as two ");
    speak(&v1, b"PROXY UNKNOWN\r\n", "three", 1000);
    v1.wait_for_log("New client connected from 127.0.0.1:");

    let mut v2 = with_listener("proxy_protocol = 2").start();
    speak(&v2, &header_v2(1, 0x11, &V4_ADDRESSES), "four", 1000);
    v2.wait_for_log("New client connected from 192.0.2.5:6275 as four ");
    speak(&v2, &header_v2(0, 0x00, &[]), "five", 1);
    v2.wait_for_log("New client connected from 127.0.0.1:");
}

#[test]
fn t13_what_is_no_header_is_closed_and_logged() {
    let overrun = [&V4_ADDRESSES[..], &[0x20, 0x00, 0x09, 0x01]].concat();
    let mut long = header_v2(1, 0x11, &V4_ADDRESSES);
    long[14..16].copy_from_slice(&[0xff, 0xff]);
    let mut v1 = with_listener("proxy_protocol = 1").start();
    let long_line = [
        &b"PROXY TCP4 192.0.2.5 127.0.0.1 6275 1234"[..],
        &[b' '; 70],
        b"\r\n",
    ]
    .concat();
    let cases = [
        Connect::v4("past the proxy").bytes(),
        b"PROXY TCP3 192.0.2.5 127.0.0.1 6275 1234\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.5 127.0.0.1 6275 0\r\n".to_vec(),
        b"PROXY TCP4 \r\n".to_vec(),
        long_line,
        header_v2(1, 0x11, &V4_ADDRESSES),
    ];
    for case in &cases {
        expect_refusal(&v1, case);
    }
    v1.wait_for_log("Connection rejected, corrupt PROXY header.");
    let mut v2 = with_listener("proxy_protocol = 2").start();
    let cases = [
        Connect::v4("past the proxy").bytes(),
        b"PROXY TCP4 192.0.2.5 127.0.0.1 6275 1234\r\n".to_vec(),
        long,
        header_v2(1, 0x11, &overrun),
        header_v2(1, 0x11, &V4_ADDRESSES[..11]),
        header_v2(1, 0x21, &V4_ADDRESSES),
        header_v2(3, 0x11, &V4_ADDRESSES),
    ];
    for case in &cases {
        expect_refusal(&v2, case);
    }
    v2.wait_for_log("Connection rejected, corrupt PROXY header.");
    speak(
        &v2,
        &header_v2(1, 0x11, &V4_ADDRESSES),
        "still served",
        1000,
    );
}

#[test]
fn t13_who_is_no_proxy_cannot_say_who_the_client_is() {
    let header = b"PROXY TCP4 192.0.2.5 127.0.0.1 6275 1234\r\n";
    let mut broker = with_listener("proxy_protocol = 1\nproxy_networks = [\"10.0.0.0/8\"]").start();
    expect_refusal(&broker, header);
    broker.wait_for_log("rejected, its address is not in proxy_networks.");
    assert!(!broker.log().contains("192.0.2.5"));
    let mut broker =
        with_listener("proxy_protocol = 1\nproxy_networks = [\"10.0.0.0/8\", \"127.0.0.1\"]")
            .start();
    speak(&broker, header, "trusted", 1000);
    broker.wait_for_log("New client connected from 192.0.2.5:6275 as trusted ");
    // Without the key there is no header: it is no CONNECT.
    let plain = with_listener("").start();
    expect_refusal(&plain, header);
}

#[test]
fn t13_a_header_that_does_not_end_is_closed_in_time() {
    let text = "allow_anonymous = true\nconnect_timeout_seconds = 1\n[[listeners]]\n\
                address = \"127.0.0.1:{port}\"\nproxy_protocol = 1\n";
    let mut broker = Broker::options().toml(text).start();
    let silent = Client::open(&broker);
    let half = Client::open(&broker);
    half.stream().write_all(b"PROXY TCP4 192.0.2.5").unwrap();
    broker.wait_for_log("closed: it did not come to MQTT in time.");
    for mut client in [silent, half] {
        client.expect_close();
    }
}

#[test]
fn a_listener_that_asks_for_tls_reads_it_in_the_header() {
    let mut broker = with_listener("proxy_protocol = 2\nproxy_requires_tls = true").start();
    let with = |flags: u8| {
        let content = [&V4_ADDRESSES[..], &[0x20, 0, 5, flags, 0, 0, 0, 0]].concat();
        header_v2(1, 0x11, &content)
    };
    speak(&broker, &with(0x01), "used TLS", 1000);
    for header in [with(0x00), header_v2(1, 0x11, &V4_ADDRESSES)] {
        expect_refusal(&broker, &header);
    }
    broker
        .wait_for_log("Connection from 192.0.2.5:6275 rejected, client did not connect using TLS.");
    // The proxy itself did not, either.
    expect_refusal(&broker, &header_v2(0, 0x00, &[]));
}

#[test]
fn the_header_comes_before_the_upgrade() {
    let mut broker = with_listener("protocol = \"websocket\"\nproxy_protocol = 1").start();
    let header = b"PROXY TCP4 192.0.2.5 127.0.0.1 6275 1234\r\n";
    let request = [
        &header[..],
        &upgrade_request("Sec-WebSocket-Protocol: mqtt\r\n"),
    ]
    .concat();
    let mut client = WebClient::request(broker.address(), &request);
    assert!(
        client.answer.starts_with("HTTP/1.1 101 "),
        "{}",
        client.answer
    );
    client.send(&Connect::v4("behind both").bytes());
    client.expect(&bytes("20 02 00 00"));
    broker.wait_for_log("New client connected from 192.0.2.5:6275 as behind both ");
}

#[test]
fn t13_a_certificate_is_what_a_proxy_says_that_has_verified_it() {
    let keys = "proxy_protocol = 2\nproxy_networks = [\"127.0.0.1\"]\n[listeners.tls]\nrequire_certificate = true\n\
                use_identity_as_username = true\nbind_client_id = true";
    let mut broker = with_listener(keys).start();
    let header = |flags: u8, verified: u8, name: &[u8]| {
        let name = [&[0x22, 0, name.len() as u8], name].concat();
        let ssl = [&[flags, 0, 0, 0, verified], &name[..]].concat();
        let ssl = [&[0x20, 0, ssl.len() as u8], &ssl[..]].concat();
        header_v2(1, 0x11, &[&V4_ADDRESSES[..], &ssl].concat())
    };
    speak(&broker, &header(3, 0, b"gauge-7"), "gauge-7", 1000);
    broker.wait_for_log("192.0.2.5:6275 as gauge-7 (p4, c1, k60, u'gauge-7')");
    // No certificate, one that was not verified, names that are none, no header of that kind.
    expect_refusal(&broker, &header(1, 0, b"gauge-7"));
    expect_refusal(&broker, &header(3, 1, b"gauge-7"));
    broker.wait_for_log("the proxy has verified none");
    for name in [&b""[..], b"a\0b", b"\xff", b"a/+"] {
        expect_refusal(&broker, &header(3, 0, name));
    }
    expect_refusal(&broker, &header_v2(1, 0x11, &V4_ADDRESSES));
    expect_refusal(&broker, &header_v2(0, 0x00, &[]));
    let mut other = Client::open(&broker);
    other.send(&[header(3, 0, b"gauge-7"), Connect::v4("gauge-8").bytes()].concat());
    other.expect("20 02 00 02");
}
