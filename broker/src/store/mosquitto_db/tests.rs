//! What is read of a `mosquitto.db`, and that nothing in one can make the reader panic.

use super::*;
use serde_json::Value;

/// Written by Mosquitto 2.0.11.
const FORMAT_6: &[u8] = include_bytes!("samples/format-6.db");
/// A moment at which nothing of it has expired.
const NOW: u64 = 1_795_266_700_000;

#[test]
fn a_file_of_mosquitto_2_0_is_taken_over_whole() {
    let lines = lines_of(FORMAT_6, NOW);
    let sessions: Vec<&str> = of_type(&lines, "session", "client_id");
    assert_eq!(sessions, ["expnever", "sub311", "sub5"]);
    let sub5 = find(&lines, "session", "client_id", "sub5");
    assert_eq!(sub5["session_expiry_interval"], 86_400);
    assert_eq!(sub5["expires_at"], 1_795_353_045_000_u64);
    let filters: Vec<&str> = of_type(&lines, "subscription", "topic_filter");
    assert_eq!(filters, ["n/#", "q/#", "z/+", "q/+/x"]);
    let subscription = find(&lines, "subscription", "topic_filter", "q/+/x");
    assert_eq!(subscription["qos"], 2);
    assert_eq!(subscription["retain_as_published"], true);
    assert_eq!(subscription["subscription_identifier"], 77);

    let queued: Vec<(String, Vec<(&str, u64)>)> = lines
        .iter()
        .filter(|line| line["type"] == "message")
        .map(|line| (payload(line), queues(line)))
        .collect();
    assert_eq!(
        queued,
        [
            ("message 1".into(), vec![("sub311", 1), ("sub5", 1)]),
            ("message 2".into(), vec![("sub311", 2), ("sub5", 2)]),
            ("five".into(), vec![("sub311", 3), ("sub5", 3)]),
            ("x".repeat(300), vec![("sub311", 4)]),
        ]
    );
    let five = &lines.iter().find(|line| payload(line) == "five").unwrap();
    // User property k v, response topic r/t, correlation data abc.
    assert_eq!(
        decoded(&five["properties"]),
        b"\x26\0\x01k\0\x01v\x08\0\x03r/t\x09\0\x03abc"
    );
    assert_eq!(five["queues"][1]["subscription_identifiers"][0], 77);
    assert!(five["queues"][0].get("sent").is_none());

    let retained: Vec<&str> = of_type(&lines, "retained", "topic");
    assert_eq!(retained, ["home/empty/level", "home/retained"]);
    let expiring = find(&lines, "retained", "topic", "home/empty/level");
    assert_eq!(expiring["expires_at"], 1_795_271_645_000_u64);
}

#[test]
fn what_has_expired_is_left_out() {
    let later = NOW + 100_000_000;
    let converted = convert(FORMAT_6, later).unwrap();
    let lines = lines_of(FORMAT_6, later);
    assert_eq!(
        of_type(&lines, "session", "client_id"),
        ["expnever", "sub311"]
    );
    assert_eq!(of_type(&lines, "retained", "topic"), ["home/retained"]);
    assert!(
        converted.left_out.contains(&("expired", 2)),
        "{:?}",
        converted.left_out
    );
}

/// Every file cut anywhere, and every byte changed: refused or read, and never a panic.
#[test]
fn a_damaged_file_is_refused_or_read() {
    for length in 0..FORMAT_6.len() {
        let _ = convert(&FORMAT_6[..length], NOW);
    }
    for place in 0..FORMAT_6.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut file = FORMAT_6.to_vec();
            file[place] ^= flip;
            let _ = convert(&file, NOW);
        }
    }
    assert_eq!(convert(b"", NOW).unwrap_err(), Fault::NotOne);
    assert_eq!(convert(b"SQLite format 3", NOW).unwrap_err(), Fault::NotOne);
    let mut newer = FORMAT_6.to_vec();
    newer[22] = 7;
    assert_eq!(convert(&newer, NOW).unwrap_err(), Fault::Format(7));
    let cut = &FORMAT_6[..FORMAT_6.len() - 1];
    assert!(matches!(convert(cut, NOW), Err(Fault::Broken { .. })));
}

/// Mosquitto 1.6 wrote what 2.0 writes, but for the listener and the user of a client.
#[test]
fn format_5_is_format_6_without_users() {
    let mut file = FORMAT_6[..MAGIC.len() + 8].to_vec();
    *file.last_mut().unwrap() = 5;
    let mut rest = &FORMAT_6[MAGIC.len() + 8..];
    while let Some((head, after)) = rest.split_at_checked(8) {
        let length = u32::from_be_bytes(head[4..].try_into().unwrap()) as usize;
        let (body, after) = after.split_at(length);
        rest = after;
        let mut body = body.to_vec();
        if head[3] == 6 {
            let id_length = usize::from(u16::from_be_bytes([body[14], body[15]]));
            body.drain(16..24);
            body.truncate(16 + id_length);
        }
        file.extend_from_slice(&head[..4]);
        file.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
        file.extend(body);
    }
    let without_users = |mut lines: Vec<Value>| {
        for line in &mut lines {
            if line["type"] == "session" {
                line.as_object_mut().unwrap().remove("user");
            }
        }
        lines
    };
    let expected = without_users(lines_of(FORMAT_6, NOW));
    assert_eq!(without_users(lines_of(&file, NOW)), expected);
    assert!(expected.len() > 5);
}

#[test]
fn formats_3_and_4_have_their_texts_behind_their_lengths() {
    for format in [3_u8, 4] {
        let mut file = MAGIC.to_vec();
        file.extend([0, 0, 0, 0, 0, 0, 0, format]);
        let text = |text: &str| [&[0, text.len() as u8], text.as_bytes()].concat();
        let mut chunk = |kind: u8, parts: &[&[u8]]| {
            let body = parts.concat();
            file.extend([0, kind, 0, 0, 0, body.len() as u8]);
            file.extend(body);
        };
        chunk(1, &[&[1, 8], &[9, 0, 0, 0, 0, 0, 0, 0]]);
        let source: &[u8] = if format == 4 { &[0, 0, 7, 91] } else { &[] };
        let message = [&[5, 0, 0, 0, 0, 0, 0, 0][..], &text("source")[..], source].concat();
        chunk(
            2,
            &[
                &message,
                &[0, 1, 0, 2],
                &text("a/b"),
                &[1, 1],
                &[0, 0, 0, 2],
                b"hi",
            ],
        );
        chunk(6, &[&text("client"), &[0, 3], &[0; 8]]);
        let state_waiting_for_puback = 3;
        chunk(
            3,
            &[
                &text("client"),
                &[5, 0, 0, 0, 0, 0, 0, 0],
                &[0, 44, 1, 0, 1, state_waiting_for_puback, 0],
            ],
        );
        chunk(4, &[&[5, 0, 0, 0, 0, 0, 0, 0]]);
        chunk(5, &[&text("client"), &text("a/+"), &[1]]);
        let lines = lines_of(&file, NOW);
        assert_eq!(of_type(&lines, "session", "client_id"), ["client"]);
        assert_eq!(of_type(&lines, "subscription", "topic_filter"), ["a/+"]);
        let message = lines.iter().find(|line| line["type"] == "message").unwrap();
        assert_eq!(payload(message), "hi");
        assert_eq!(message["publisher"], "source");
        assert_eq!(message["queues"][0]["sent"]["packet_id"], 44);
        assert_eq!(of_type(&lines, "retained", "topic"), ["a/b"]);
    }
}

/// Mosquitto routes a QoS 2 message when it is released; whoever takes over has to know both that it was received and for whom.
#[test]
fn a_message_that_was_received_and_not_released_comes_once() {
    let mut contents = read(FORMAT_6).unwrap();
    let store_id = contents.messages[1].store_id;
    assert_eq!(contents.messages[1].payload, b"five");
    contents.queued.retain(|queued| queued.store_id != store_id);
    contents.queued.push(Queued {
        client_id: "expnever".into(),
        store_id,
        packet_id: 9,
        qos: 2,
        retain: false,
        is_inbound: true,
        state: State::Sent,
        subscription_identifiers: Vec::new(),
    });
    let lines = parsed(lines::of(contents, NOW).lines);
    let sender = find(&lines, "session", "client_id", "expnever");
    assert_eq!(sender["received_packet_ids"], serde_json::json!([9]));
    let five = lines.iter().find(|line| payload(line) == "five").unwrap();
    assert_eq!(queues(five), [("sub311", 4), ("sub5", 3)]);
    assert_eq!(five["queues"][0]["qos"], 1);
    assert_eq!(five["queues"][1]["qos"], 2);
}

#[test]
fn a_store_is_made_of_it() {
    struct Silent;
    impl Meter for Silent {
        fn begin(&mut self, _what: &str, _of: u64) {}
        fn advance(&mut self, _by: u64) {}
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("mosquitto.db");
    fs::write(&file, FORMAT_6).unwrap();
    let data = directory.path().join("data");
    let imported = import(&file, &data, NOW, &mut Silent).unwrap();
    assert_eq!(imported.contents.sessions, 3);
    assert_eq!(imported.contents.subscriptions, 4);
    assert_eq!(imported.contents.messages, 4);
    assert_eq!(imported.contents.queued, 7);
    assert_eq!(imported.contents.retained, 2);
    assert_eq!(imported.left_out, "");
    assert_eq!(fs::read(&file).unwrap(), FORMAT_6);
}

fn lines_of(file: &[u8], now: u64) -> Vec<Value> {
    parsed(convert(file, now).unwrap().lines)
}

fn parsed(lines: Vec<u8>) -> Vec<Value> {
    let text = String::from_utf8(lines).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn of_type<'a>(lines: &'a [Value], kind: &str, field: &str) -> Vec<&'a str> {
    lines
        .iter()
        .filter(|line| line["type"] == kind)
        .map(|line| line[field].as_str().unwrap())
        .collect()
}

fn find<'a>(lines: &'a [Value], kind: &str, field: &str, value: &str) -> &'a Value {
    lines
        .iter()
        .find(|line| line["type"] == kind && line[field] == value)
        .unwrap()
}

fn queues(line: &Value) -> Vec<(&str, u64)> {
    let queues = line["queues"].as_array().unwrap();
    queues
        .iter()
        .map(|queue| {
            let owner = queue["owner"]["client_id"].as_str().unwrap();
            (owner, queue["place"].as_u64().unwrap())
        })
        .collect()
}

fn payload(line: &Value) -> String {
    match &line["payload"] {
        Value::Null => String::new(),
        text => String::from_utf8(decoded(text)).unwrap(),
    }
}

fn decoded(text: &Value) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD
        .decode(text.as_str().unwrap())
        .unwrap()
}
