//! Plays the decode-level half of the byte-exact exchanges in `../shared/conformance/mosquitto-vectors` (see FORMAT.md there).
//!
//! For each exchange: every packet that is sent but the last decodes; the last decodes too, or fails with exactly the answer that
//! the exchange demands. Left out, and said so, where the folder is not there. Exchanges whose answer depends on the session are
//! listed below; their packets must decode.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use nightjar_codec::{
    Connack, DecodeError, Limits, Packet, PacketType, Place, ProtocolVersion, cut,
    decode_from_client,
};
use serde_json::Value;

/// The last packet is well formed, and refused for what the session knows: `(group, name)`.
const SESSION_LEVEL: &[(&str, &str)] = &[
    // Nobody is authenticating.
    ("v5.0   AUTH", "F0 long"),
    // A second CONNECT.
    ("v3.1.1 CONNECT", "10 [MQTT-3.1.0-2]"),
    ("v3.1.1 CONNECT", "duplicate CONNECT"),
    // The CONNACK is above the client's Maximum Packet Size.
    ("v5.0   CONNECT", "tiny max packet"),
    (
        "v5.0   CONNECT EXTENDED AUTH",
        "unsupported authentication method",
    ),
    // From 0 to another Session Expiry Interval.
    ("v5.0   DISCONNECT", "E0 non-zero session expiry"),
    // The acknowledgement is not the one that the message awaits.
    ("v3.1.1 FLOW", "QoS 1 PUBLISH-PUBREC"),
    ("v3.1.1 FLOW", "QoS 1 PUBLISH-PUBCOMP"),
    ("v3.1.1 FLOW", "QoS 2 PUBLISH-PUBACK"),
    ("v3.1.1 FLOW", "QoS 2 PUBLISH-PUBCOMP"),
    ("v3.1.1 FLOW", "QoS 2 PUBLISH-PUBREC-PUBREL-PUBACK"),
    ("v5.0   FLOW", "QoS 1 PUBLISH-PUBREC"),
    ("v5.0   FLOW", "QoS 1 PUBLISH-PUBCOMP"),
    ("v5.0   FLOW", "QoS 2 PUBLISH-PUBACK"),
    ("v5.0   FLOW", "QoS 2 PUBLISH-PUBCOMP"),
    ("v5.0   FLOW", "QoS 2 PUBLISH-PUBREC-PUBREL-PUBACK"),
    // The third of the same.
    ("v3.1.1 PUBLISH", "34 QoS 2 Dup flow*3"),
    ("v5.0   PUBLISH", "34 QoS 2 Dup flow*3"),
    // The Topic Alias is above what we announced, or means nothing yet.
    (
        "v5.0   PUBLISH ALLOWED PROPERTIES",
        "topic alias > max topic alias",
    ),
    (
        "v5.0   PUBLISH ALLOWED PROPERTIES",
        "topic-alias (two byte integer) no topic",
    ),
    // Two Subscription Identifiers are fine from a server, and none is from a client.
    (
        "v5.0   PUBLISH DISALLOWED PROPERTIES",
        "2*subscription-identifier=1 (variable byte integer)",
    ),
];

#[test]
fn decoding_answers_as_the_byte_exact_exchanges_demand() {
    let Some(folder) = vectors() else {
        println!("left out: ../shared/conformance/mosquitto-vectors is not there");
        return;
    };
    let mut outcome = Outcome::default();
    for file in json_files(&folder) {
        let text = std::fs::read_to_string(&file).unwrap();
        let groups: Value = serde_json::from_str(&text).unwrap();
        for group in groups.as_array().unwrap() {
            for test in group["tests"].as_array().unwrap() {
                outcome.play(&Exchange::parse(group, test));
            }
        }
    }
    println!(
        "{} exchanges: {} judged, {} whose first packet is not CONNECT, {} without a packet, {} of the session",
        outcome.total, outcome.judged, outcome.not_connect, outcome.empty, outcome.session_level
    );
    assert!(
        outcome.failures.is_empty(),
        "{} differ:\n{}",
        outcome.failures.len(),
        outcome.failures.join("\n")
    );
    assert_eq!(outcome.total, 1826);
    assert_eq!(
        outcome.session_level,
        SESSION_LEVEL.len(),
        "a session-level exchange that no longer exists is listed"
    );
}

#[derive(Default)]
struct Outcome {
    total: usize,
    judged: usize,
    not_connect: usize,
    empty: usize,
    session_level: usize,
    failures: Vec<String>,
}

impl Outcome {
    fn play(&mut self, exchange: &Exchange) {
        self.total += 1;
        let Some((last, earlier)) = exchange.sends.split_last() else {
            self.empty += 1;
            return;
        };
        if !exchange.connected && exchange.sends[0][0] >> 4 != PacketType::Connect as u8 {
            // Before CONNECT the first byte decides; nothing is decoded.
            self.not_connect += 1;
            return;
        }
        self.judged += 1;
        for packet in earlier {
            if let Err(error) = decode_all(packet, exchange.version) {
                self.fail(exchange, &format!("an earlier packet failed: {error:?}"));
            }
        }
        let is_connect = last[0] >> 4 == PacketType::Connect as u8 && !exchange.connected;
        let session_level =
            SESSION_LEVEL.contains(&(exchange.group.as_str(), exchange.name.as_str()));
        let decoded = decode_all(last, exchange.version);
        if session_level {
            self.session_level += 1;
            if let Err(error) = decoded {
                self.fail(exchange, &format!("listed as session-level: {error:?}"));
            }
            return;
        }
        let verdict = match decoded {
            Ok(packet) => judge_success(exchange, &packet),
            Err(error) if is_connect => judge_connect_error(exchange, &error),
            Err(error) => judge_error(exchange, &error),
        };
        if let Err(difference) = verdict {
            self.fail(exchange, &difference);
        }
    }

    fn fail(&mut self, exchange: &Exchange, difference: &str) {
        self.failures.push(format!(
            "(\"{}\", \"{}\") {:02x?} -> {:02x?} closed={}: {difference}",
            exchange.group, exchange.name, exchange.sends, exchange.answers, exchange.closed
        ));
    }
}

fn judge_success(exchange: &Exchange, packet: &Packet) -> Result<(), String> {
    let refused = match exchange.answers.first().map(Vec::as_slice) {
        Some([0xe0, ..]) => true,
        Some([0x20, _, _, code, ..]) => *code != 0,
        _ => false,
    };
    // A valid DISCONNECT is followed by the close.
    let closes = exchange.closed && packet.packet_type() != PacketType::Disconnect;
    if refused || closes {
        return Err(format!("decoded, but is to be refused: {packet:?}"));
    }
    Ok(())
}

fn judge_connect_error(exchange: &Exchange, error: &DecodeError) -> Result<(), String> {
    let mut answer = Vec::new();
    if let Some(version) = error.connack_version() {
        Connack::with_reason(error.reason_code())
            .encode(version, &mut answer)
            .unwrap();
    }
    assert_eq!(answer.is_empty(), error.is_silent());
    check_answer(exchange, error, answer)
}

fn judge_error(exchange: &Exchange, error: &DecodeError) -> Result<(), String> {
    let answer = if error.is_silent() || !exchange.version.is_v5() {
        vec![]
    } else {
        vec![0xe0, 1, error.reason_code().as_u8()]
    };
    check_answer(exchange, error, answer)
}

fn check_answer(exchange: &Exchange, error: &DecodeError, answer: Vec<u8>) -> Result<(), String> {
    let demanded = exchange.answers.concat();
    if exchange.closed && demanded == answer {
        Ok(())
    } else {
        Err(format!("{error:?} answers {answer:02x?}"))
    }
}

/// Every packet of one `send`; the error of the first that fails, also where it is known before the packet is whole.
fn decode_all(bytes: &[u8], version: ProtocolVersion) -> Result<Packet, DecodeError> {
    let limits = Limits {
        packet_size_max: 2_000_000,
        ..Limits::PROTOCOL
    };
    let mut rest = Bytes::copy_from_slice(bytes);
    let mut decoded = None;
    while !rest.is_empty() {
        let Some((_, length)) = cut(&rest, &limits)? else {
            // More is sent than one packet, and the first of them was accepted.
            break;
        };
        decoded = Some(decode_from_client(
            &rest.split_to(length),
            version,
            &limits,
        )?);
    }
    Ok(decoded.expect("a packet that is never complete would wait for ever"))
}

struct Exchange {
    group: String,
    name: String,
    version: ProtocolVersion,
    connected: bool,
    closed: bool,
    sends: Vec<Vec<u8>>,
    /// What is received after the last `send`.
    answers: Vec<Vec<u8>>,
}

impl Exchange {
    fn parse(group: &Value, test: &Value) -> Self {
        let setting = |key: &str| test.get(key).or_else(|| group.get(key));
        let flag = |key: &str| setting(key).is_none_or(|value| value.as_bool().unwrap());
        let version = match setting("ver").map_or(4, |value| value.as_u64().unwrap()) {
            3 => ProtocolVersion::V3_1,
            4 => ProtocolVersion::V3_1_1,
            5 => ProtocolVersion::V5,
            other => panic!("version {other}"),
        };
        let mut exchange = Self {
            group: group["group"].as_str().unwrap().into(),
            name: test["name"].as_str().unwrap().into(),
            version,
            connected: flag("connect"),
            closed: flag("expect_disconnect"),
            sends: Vec::new(),
            answers: Vec::new(),
        };
        for message in test["msgs"].as_array().unwrap() {
            match message["type"].as_str().unwrap() {
                "send" => {
                    exchange.sends.push(payload(message));
                    exchange.answers.clear();
                }
                "recv" => exchange.answers.push(payload(message)),
                _ => {}
            }
        }
        exchange
    }
}

/// The little language of FORMAT.md.
fn payload(message: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = message["payload"].as_str().unwrap();
    loop {
        rest = rest.trim_start();
        if rest.is_empty() {
            return out;
        }
        if let Some(text) = rest.strip_prefix('\'') {
            let (text, behind) = text.split_once('\'').unwrap();
            out.extend_from_slice(text.as_bytes());
            rest = behind;
            continue;
        }
        let (word, behind) = rest.split_once(' ').unwrap_or((rest, ""));
        rest = behind;
        let (kind, digits) = word.split_at(1);
        match kind {
            "i" => out.push(digits.parse().unwrap()),
            "H" | "k" | "m" | "s" => {
                out.extend_from_slice(&digits.parse::<u16>().unwrap().to_be_bytes());
            }
            "L" => out.extend_from_slice(&digits.parse::<u32>().unwrap().to_be_bytes()),
            "v" | "r" => variable_byte_integer(digits.parse().unwrap(), &mut out),
            _ => {
                for pair in word.as_bytes().chunks(2) {
                    let pair = std::str::from_utf8(pair).unwrap();
                    out.push(u8::from_str_radix(pair, 16).unwrap());
                }
            }
        }
    }
}

fn variable_byte_integer(mut value: u64, out: &mut Vec<u8>) {
    loop {
        let byte = (value % 128) as u8;
        value /= 128;
        if value == 0 {
            return out.push(byte);
        }
        out.push(byte | 0x80);
    }
}

/// The folder beside the repository.
fn vectors() -> Option<PathBuf> {
    let folder =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/conformance/mosquitto-vectors");
    folder.is_dir().then_some(folder)
}

fn json_files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "json")
        })
        .collect();
    files.sort();
    files
}

/// Places are part of the contract: the vectors cannot tell them apart, the broker's log can.
#[test]
fn an_error_says_where_it_was_met() {
    let packet = Bytes::from_static(&[0x82, 0x02, 0x00, 0x01]);
    let error =
        decode_from_client(&packet, ProtocolVersion::V3_1_1, &Limits::PROTOCOL).unwrap_err();
    assert_eq!(error.place, Place::Packet(PacketType::Subscribe));
}
