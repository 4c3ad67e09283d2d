//! `$SYS`: retain, QoS, who may write there. Names and formats are compared with Mosquitto's in `tests/interop/mosquitto/sys.rs`.

use harness::{Broker, Client, Connect, PATIENCE, bytes, packet, wait_until};

use crate::Watched;

/// Reads PUBLISH packets of QoS 2 until the answer to a PINGREQ; gives topic, text and first byte of each. Answers none of them.
fn read_all(client: &mut Client) -> Vec<(String, String, u8)> {
    client.send(&bytes("c0 00"));
    let mut found = Vec::new();
    loop {
        let packet = client.receive_packet();
        if packet[0] == 0xd0 {
            return found;
        }
        if packet[0] >> 4 != 3 {
            continue;
        }
        // Short packets: one or two bytes of Remaining Length.
        let body = if packet[1] < 0x80 {
            &packet[2..]
        } else {
            &packet[3..]
        };
        let length = usize::from(u16::from_be_bytes([body[0], body[1]]));
        let topic = String::from_utf8(body[2..2 + length].to_vec()).unwrap();
        let ids = if packet[0] & 6 > 0 { 2 } else { 0 };
        let text = String::from_utf8(body[2 + length + ids..].to_vec()).unwrap();
        found.push((topic, text, packet[0]));
    }
}

#[test]
fn they_are_retained_at_qos_2_and_published_when_they_change() {
    let watched = Watched::start("sys_interval_seconds = 1");
    let mut client = Client::connect_v4(&watched.broker, "reader");
    client.send(&packet(
        "82",
        "m1 s'$SYS/broker/uptime' 02 s'$SYS/broker/version' 02",
    ));
    client.expect("90 04 m1 02 02");
    let first = read_all(&mut client);
    // QoS 2 and RETAIN, as Mosquitto sends them.
    let retained: Vec<_> = first.iter().filter(|(_, _, byte)| *byte == 0x35).collect();
    assert_eq!(retained.len(), 2, "{first:?}");
    assert!(first.iter().any(|(topic, text, _)| {
        topic.ends_with("/version") && text.starts_with("nightjar version ")
    }));
    let mut live = Vec::new();
    wait_until("two more", PATIENCE, || {
        live.extend(read_all(&mut client));
        live.len() >= 2
    });
    // Only what has changed, and without RETAIN.
    for (topic, text, byte) in &live {
        assert_eq!((&**topic, *byte), ("$SYS/broker/uptime", 0x34), "{text}");
        assert!(text.ends_with(" seconds"), "{text}");
    }
}

#[test]
fn an_interval_of_0_publishes_nothing() {
    let watched = Watched::start("sys_interval_seconds = 0");
    let mut client = Client::connect_v4(&watched.broker, "reader");
    client.send(&packet("82", "m1 s'$SYS/#' 02"));
    client.expect("90 03 m1 02");
    client.expect_nothing_until_pingresp();
}

/// The bounds of retained messages are for those of clients, and `#` is not for `$SYS`.
#[test]
fn they_count_against_no_bound_and_wildcards_pass_them_by() {
    let watched = Watched::start("sys_interval_seconds = 1\nretained_count_max = 1");
    let mut client = Client::connect_v4(&watched.broker, "reader");
    client.send(&packet("33", "s'a' m1 'kept'"));
    client.expect("40 02 m1");
    client.send(&packet("82", "m2 s'#' 00 s'+/broker/#' 00"));
    client.expect("90 04 m2 00 00");
    client.expect_bytes(&packet("31", "s'a' 'kept'"));
    client.expect_nothing_until_pingresp();
    client.send(&packet(
        "82",
        "m3 s'$SYS/broker/retained messages/count' 00",
    ));
    client.expect("90 03 m3 00");
    // The first one was made when there were none yet.
    wait_until("they count themselves", PATIENCE, || {
        let found = read_all(&mut client);
        let last = found.last().map(|(_, text, _)| text.parse::<u64>());
        matches!(last, Some(Ok(count)) if count > 40)
    });
    assert_eq!(watched.metrics().value("nightjar_retained_messages"), 1);
}

/// A11, `$SYS`: nobody but the broker writes there, whatever the QoS, retained or as a will.
#[test]
fn a11_clients_cannot_publish_below_sys() {
    let watched = Watched::start("sys_interval_seconds = 0");
    let mut reader = Client::connect_v4(&watched.broker, "reader");
    reader.send(&packet("82", "m1 s'$SYS/#' 02"));
    reader.expect("90 03 m1 02");
    let mut writer = Client::connect_v5(&watched.broker, "writer", "");
    for (number, topic) in ["$SYS", "$SYS/", "$SYS/broker/uptime", "$SYS/broker/x/y"]
        .into_iter()
        .enumerate()
    {
        let id = number + 1;
        writer.send(&packet("33", &format!("s'{topic}' m{id} v0 'forged'")));
        writer.expect(&format!("40 03 m{id} 87"));
        writer.send(&packet("31", &format!("s'{topic}' v0 'forged'")));
    }
    writer.expect_nothing_until_pingresp();
    reader.expect_nothing_until_pingresp();
    let mut late = Client::connect_v4(&watched.broker, "late");
    late.send(&packet("82", "m1 s'$SYS/#' 02"));
    late.expect("90 03 m1 02");
    late.expect_nothing_until_pingresp();
}

/// D11: neither the retained store on disk nor the queue of a session that is away has any of it.
#[test]
fn d11_nothing_of_it_is_stored() {
    let directory = harness::TemporaryDirectory::new("sys-stored");
    let mut watched = Watched::start_with("sys_interval_seconds = 1", |options| {
        options.argument("--data").argument(directory.text())
    });
    let kept = Connect::v4("kept").clean(false);
    let mut client = Client::connect(&watched.broker, &kept);
    client.send(&packet(
        "82",
        "m1 s'$SYS/broker/uptime' 00 s'$SYS/broker/bytes/#' 02",
    ));
    client.expect("90 04 m1 00 02");
    // A session that survives the process shares no QoS 2 exchange with it that the store does not know.
    let mut live = Vec::new();
    wait_until("a change of it", PATIENCE, || {
        live.extend(read_all(&mut client));
        live.retain(|(topic, _, byte)| topic.contains("/bytes/") && byte & 1 == 0);
        !live.is_empty()
    });
    assert!(live.iter().all(|(_, _, byte)| *byte == 0x32), "{live:?}");
    // Acknowledged by nobody: what is in flight is its own, what comes when it is away is nobody's.
    drop(client);
    wait_until("it is away", PATIENCE, || {
        watched
            .metrics()
            .value("nightjar_sessions{state=\"offline\"}")
            == 1
    });
    let queued = watched.metrics().value("nightjar_queued_messages");
    let uptime = |watched: &Watched| {
        let (_, text) = watched.get("/metrics/mosquitto");
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("broker_uptime "));
        line.and_then(|value| value.parse::<u64>().ok()).unwrap()
    };
    let then = uptime(&watched);
    wait_until("three intervals", PATIENCE, || uptime(&watched) >= then + 3);
    let later = watched.metrics();
    assert_eq!(later.value("nightjar_queued_messages"), queued);
    watched.broker.terminate();
    let mut again: Broker = Broker::options()
        .toml("allow_anonymous = true\nsys_interval_seconds = 0\nhttp_listener = \"off\"\n[[listeners]]\naddress = \"127.0.0.1:{port}\"\n")
        .argument("--data")
        .argument(directory.text())
        .start();
    let mut reader = Client::connect_v4(&again, "reader");
    reader.send(&packet("82", "m1 s'$SYS/#' 02"));
    reader.expect("90 03 m1 02");
    reader.expect_nothing_until_pingresp();
    again.terminate();
}
