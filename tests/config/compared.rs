//! What Mosquitto takes we take, and what it refuses we refuse, in its words; asked of the real one where it is installed.
//!
//! It is of version 2.0, which does not know the options of 2.1 and writes names without quotes; where a later version, or
//! safety, asks for something else, the row says so.

use std::path::Path;

use harness::{TemporaryDirectory, binary};

use crate::started::{Verdict, file, free_port, try_to_start};

const MOSQUITTO: &str = "/usr/sbin/mosquitto";

enum Expected {
    /// Both run, or both refuse with the same exit code and first words.
    Same,
    /// Both refuse; 2.1 has other words, or we have.
    OtherWords,
    /// It runs there and is refused here, for this reason.
    Stricter(&'static str),
}
use Expected::{OtherWords, Same, Stricter};

/// `L` stands for a line with a listener, `|` for the end of a line.
const CASES: &[(&str, Expected)] = &[
    ("L", Same),
    ("L|allow_anonymous true # yes", Same),
    ("L|allow_anonymous", Same),
    ("L|allow_anonymous TRUE", Same),
    ("L|allow_anonymous maybe", Same),
    ("L|max_packet_size", Same),
    ("L|max_packet_size 3", OtherWords),
    ("L|max_packet_size x", OtherWords),
    ("L|max_packet_size 4096 behind", Same),
    ("L|max_inflight_messages 70000", Same),
    ("L|max_inflight_messages -1", Same),
    (
        "L|max_inflight_messages 12x",
        Stricter("2.1 wants a whole number"),
    ),
    ("L|max_queued_messages -1", Same),
    (
        "L|max_queued_bytes -1",
        Stricter("a bound below nothing is a mistake"),
    ),
    ("L|max_keepalive 70000", Same),
    ("L|message_size_limit 300000000", Same),
    ("L|memory_limit -1", Same),
    ("L|sys_interval -1", Same),
    ("L|sys_interval 70000", Same),
    ("L|autosave_interval -5", Same),
    (
        "L|autosave_interval x",
        Stricter("2.1 wants a whole number"),
    ),
    ("L|retry_interval nonsense", Same),
    ("L|pid_file", Same),
    ("L|user", Same),
    ("L|log_facility 9", Same),
    ("L|log_type zork", Same),
    ("L|log_dest zork", Same),
    ("L|log_dest", Same),
    ("L|log_dest file", OtherWords),
    ("L|zork 3", OtherWords),
    ("L| # not a comment", OtherWords),
    ("L|   ", Same),
    ("L|password_file", Same),
    ("L|acl_file", Same),
    ("L|include_dir", Same),
    ("L|include_dir /nonexistent", Same),
    ("L|max_qos 3", Same),
    ("L|maximum_qos 1", Same),
    ("L|max_topic_alias 70000", Same),
    ("L|max_connections -1", Same),
    ("L|mount_point a/+", OtherWords),
    ("L|mount_point a/", Same),
    ("L|mount_point", Same),
    ("L|protocol zork", Same),
    ("L|protocol mqtt", Same),
    ("L|socket_domain zork", OtherWords),
    ("L|socket_domain ipv4", Same),
    ("L|use_username_as_clientid false", Same),
    ("L|bind_interface lo", Same),
    ("mount_point a/", OtherWords),
    ("listener", OtherWords),
    ("listener 70000", Same),
    ("listener -1", Same),
    ("listener 0", Same),
    ("listener x", OtherWords),
    ("port 0", Same),
    ("bind_address", OtherWords),
    ("L|pid_file a|pid_file b", Same),
    ("L|persistent_client_expiration 2w", Same),
    ("L|persistent_client_expiration 3", OtherWords),
    ("L|persistent_client_expiration 0d", OtherWords),
    ("L|persistence true|persistence false", Same),
    ("L|auth_plugin_deny_special_chars true", OtherWords),
    ("L|plugin_opt_x 3", OtherWords),
    ("L|trace_output stdout", Stricter("")),
    ("address h", OtherWords),
    ("topic #", OtherWords),
    ("connection", Same),
    ("connection a", Same),
    ("connection a|connection a", OtherWords),
    ("connection a|address 127.0.0.1:x|topic #", OtherWords),
    ("connection a|address 127.0.0.1|topic # zork", Same),
    ("connection a|address 127.0.0.1|topic # out 3", Same),
    (
        "connection a|address 127.0.0.1|topic \"\" out 1 \"\" x",
        Same,
    ),
    (
        "connection a|address 127.0.0.1|topic #|start_type manual",
        OtherWords,
    ),
    (
        "connection a|address 127.0.0.1|topic #|restart_timeout 9 3",
        Same,
    ),
    (
        "connection a|address 127.0.0.1|topic #|bridge_protocol_version mqttv9",
        Same,
    ),
    (
        "L|certfile /x",
        Stricter("TLS was meant, and would not be there"),
    ),
];

#[test]
fn the_real_mosquitto_agrees_on_what_is_right_and_wrong() {
    if !Path::new(MOSQUITTO).exists() {
        eprintln!("{MOSQUITTO} is not installed; nothing was compared");
        return;
    }
    let directory = TemporaryDirectory::new("compared");
    for (text, expected) in CASES {
        let port = free_port();
        let listener = format!("listener {port} 127.0.0.1");
        let text: Vec<&str> = text
            .split('|')
            .map(|line| if line == "L" { &listener } else { line })
            .collect();
        let path = file(&directory, "mosquitto.conf", &(text.join("\n") + "\n"));
        let theirs = try_to_start(Path::new(MOSQUITTO), &path, port);
        let ours = try_to_start(binary(), &path, port);
        match (expected, &theirs, &ours) {
            (Same, Verdict::Runs { .. }, Verdict::Runs { .. }) => {}
            // They warn of nothing and refuse; we warn and run.
            (Stricter(""), Verdict::Refused { .. }, Verdict::Runs { .. }) => {}
            (Stricter(reason), Verdict::Runs { .. }, Verdict::Refused { code, .. })
                if !reason.is_empty() =>
            {
                assert_eq!(*code, Some(3), "{text:?}");
            }
            (
                Same | OtherWords,
                Verdict::Refused {
                    code: their_code,
                    log: their_log,
                },
                Verdict::Refused { code, log },
            ) => {
                assert_eq!(code, their_code, "{text:?}\n{their_log}{log}");
                let (their_first, first) = (first_words(their_log), first_words(log));
                if matches!(expected, Same) {
                    assert!(
                        first.starts_with(&their_first),
                        "{text:?}\n{their_first}\n{first}"
                    );
                }
                let place = their_log
                    .lines()
                    .find_map(|line| line.split_once("Error found at "));
                if let Some((_, place)) = place {
                    assert!(
                        log.contains(&format!("Error found at {place}\n")),
                        "{their_log}{log}"
                    );
                }
            }
            _ => panic!("{text:?}\nMosquitto: {theirs:?}\nhere: {ours:?}"),
        }
    }
}

/// The first line that tells an error, without the time and without quotes.
fn first_words(log: &str) -> String {
    let line = log.lines().find_map(|line| line.split_once("Error: "));
    let words = line.map_or("", |(_, words)| words);
    words.replace(['\'', '"'], "").trim_end().to_owned()
}
