//! Every option of Mosquitto's, every key of ours and every flag with a value that is missing, over-long, negative or no number: one clear
//! error and exit code 3, or it is legal there; never a panic.

use std::path::Path;
use std::process::Output;

use harness::TemporaryDirectory;

use crate::started::{file, nightjar, stderr};

/// The 141 words, by what they take. `true` or `false`:
const SWITCHES: &str = "allow_anonymous allow_duplicate_messages allow_zero_length_clientid auth_plugin_deny_special_chars \
    autosave_on_changes bridge_attempt_unsubscribe bridge_insecure bridge_outgoing_retain bridge_require_ocsp \
    bridge_tls_use_os_certs check_retain_source cleansession connection_messages disable_client_cert_date_checks \
    enable_control_api listener_allow_anonymous local_cleansession log_timestamp notifications notifications_local_only \
    per_listener_settings persistence proxy_protocol_v2_require_tls queue_qos0_messages require_certificate retain_available \
    retained_persistence round_robin set_tcp_nodelay try_private upgrade_outgoing_qos use_identity_as_username \
    use_subject_as_username use_username_as_clientid";
/// A number that is not negative, or a word out of a few:
const NUMBERS_AND_WORDS: &str = "accept_protocol_versions bridge_max_topic_alias bridge_protocol_version bridge_receive_maximum \
    bridge_reload_type bridge_session_expiry_interval bridge_tcp_keepalive bridge_tcp_user_timeout bridge_tls_version \
    enable_proxy_protocol listener log_dest log_facility log_type max_inflight_bytes max_keepalive max_packet_size max_qos \
    max_queued_bytes max_topic_alias max_topic_alias_broker maximum_qos memory_limit message_size_limit packet_buffer_size \
    persistent_client_expiration port protocol restart_timeout retain_expiry_interval socket_domain start_type sys_interval \
    tls_version websockets_headers_size";
/// A number that may be negative, which is "none", or as Mosquitto lets it be:
const NUMBERS_BELOW_ZERO: &str = "autosave_interval bridge_max_packet_size global_max_clients global_max_connections idle_timeout \
    keepalive_interval max_connections max_inflight_messages max_queued_messages threshold websockets_log_level";
/// Text that may say anything, such as the path of a file that is looked for when it is needed:
const TEXTS: &str = "acl_file address addresses auth_opt_ auto_id_prefix bind_interface bridge_alpn bridge_bind_address bridge_cafile \
    bridge_capath bridge_certfile bridge_ciphers bridge_ciphers_tls1.3 bridge_keyfile cafile capath ciphers ciphers_tls1.3 clientid crlfile dhparamfile http_dir \
    listener_auto_id_prefix local_clientid local_password local_username log_timestamp_format mount_point notification_topic \
    password persistence_file persistence_location pid_file plugin_opt_ remote_clientid remote_password remote_username topic \
    user username websockets_origin";
/// What is looked at or looked for at once, or is refused whatever it says:
const REFUSED: &str = "auth_plugin bind_address bridge_identity bridge_psk certfile clientid_prefixes connection global_plugin \
    include_dir keyfile password_file plugin plugin_load plugin_use psk_file psk_hint tls_engine tls_engine_kpass_sha1 \
    tls_keyform";
/// Read by nobody since Mosquitto 1.5:
const IGNORED: &str = "retry_interval";

#[test]
fn every_option_of_mosquitto_with_a_bad_value_is_one_error_and_exit_code_3() {
    let directory = TemporaryDirectory::new("bad-values");
    let rules = file(&directory, "acl", "topic a\n");
    let long = "x".repeat(100_000);
    let mut words = 0;
    // Missing, over-long, negative, not a number.
    for (options, is_legal) in [
        (SWITCHES, [false, false, false, false]),
        (NUMBERS_AND_WORDS, [false, false, false, false]),
        (NUMBERS_BELOW_ZERO, [false, false, true, false]),
        (TEXTS, [false, false, true, true]),
        (REFUSED, [false, false, false, false]),
        (IGNORED, [true, false, true, true]),
    ] {
        for option in options.split_whitespace() {
            words += 1;
            for (value, is_legal) in ["", &long, "-1", "nonsense"].into_iter().zip(is_legal) {
                let name = match option {
                    "plugin_opt_" | "auth_opt_" => format!("{option}x"),
                    _ => option.to_owned(),
                };
                let after = match option {
                    "address" | "addresses" => "topic #\n",
                    "topic" => "address h:1\n",
                    _ => "address h:1\ntopic #\n",
                };
                let text = format!(
                    "listener 1883 127.0.0.1\nconnection c\nplugin mosquitto_acl_file.so\nplugin_opt_acl_file {}\n{name} {value}\n{after}",
                    rules.display()
                );
                let path = file(&directory, "mosquitto.conf", &text);
                let output = nightjar(&["--test-config", "-c", path.to_str().unwrap()]);
                let what = format!("{name} {value:.20}");
                if is_legal {
                    assert_eq!(output.status.code(), Some(0), "{what}: {}", stderr(&output));
                } else {
                    is_one_error(&output, &what);
                }
            }
        }
    }
    assert_eq!(words, 141);
}

/// Each key of `docs/`, of the broker and of a listener.
#[test]
fn every_key_of_ours_with_a_bad_value_is_one_error_and_exit_code_3() {
    let directory = TemporaryDirectory::new("bad-keys");
    let long = format!("\"{}\"", "x".repeat(100_000));
    let of_broker = keys("configuration.md");
    let of_listener = keys("listeners.md");
    assert!(of_broker.len() >= 70 && of_listener.len() >= 38);
    let of_broker = of_broker.iter().map(|key| (key.as_str(), ""));
    let of_listener = of_listener.iter().map(|key| match key.split_once('.') {
        Some(("tls", key)) => (key, "[listeners.tls]\n"),
        Some((_, key)) => (key, "[listeners.security]\n"),
        None => (key.as_str(), "[[listeners]]\n"),
    });
    let mut legal = Vec::new();
    for (key, section) in of_broker.chain(of_listener) {
        for bad in [
            "",
            "-1",
            "1e9",
            "99999999999999999999",
            "\"\"",
            &long,
            "[{}]",
            "{ a = 1 }",
        ] {
            let text = in_section(section, key) + &format!("{key} = {bad}\n");
            let path = file(&directory, "nightjar.toml", &text);
            let output = nightjar(&["--test-config", "-c", path.to_str().unwrap()]);
            if output.status.code() == Some(0) {
                legal.push(format!("{key} = {bad:.20}"));
            } else {
                is_one_error(&output, &format!("{section}{key} = {bad:.20}"));
            }
        }
    }
    legal.sort();
    legal.dedup();
    assert_eq!(legal, ["auto_id_prefix = \"\""]);
}

/// The keys of the tables of a document: what stands alone in a first column.
fn keys(document: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let text = std::fs::read_to_string(path.join(document)).unwrap();
    let is_key = |key: &&str| {
        let is_of_key = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        key.bytes()
            .all(|byte| is_of_key(byte) || b"_.".contains(&byte))
    };
    text.lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` |"))
        .map(|(key, _)| key)
        .filter(is_key)
        .map(str::to_owned)
        .collect()
}

/// What has to stand before a key, so that nothing else is wrong.
fn in_section(section: &str, key: &str) -> String {
    const LISTENER: &str = "[[listeners]]\naddress = \"127.0.0.1:1883\"\n";
    const FILES: [&str; 2] = ["certificate_file", "key_file"];
    match section.trim() {
        "" => String::new(),
        "[[listeners]]" if ["address", "path"].contains(&key) => section.to_owned(),
        "[[listeners]]" => {
            let needs = match key {
                "websocket_origins" => "protocol = \"websocket\"\n",
                "http_directory" => "protocol = \"http_api\"\n",
                "proxy_requires_tls" | "proxy_networks" => "proxy_protocol = 2\n",
                _ => "",
            };
            format!("{LISTENER}{needs}")
        }
        "[listeners.tls]" => {
            let files = FILES.iter().filter(|file| **file != key);
            let files = files.map(|file| format!("{file} = \"x\"\n"));
            format!("{LISTENER}{section}{}", files.collect::<String>())
        }
        _ => format!("{LISTENER}{section}"),
    }
}

/// Each flag that takes a value.
#[test]
fn every_flag_with_a_bad_value_is_one_error_and_exit_code_3() {
    let long = "x".repeat(100_000);
    let flags = [
        "-c",
        "--config-file",
        "-p",
        "--port",
        "--data",
        "--http-listener",
        "--tls-keylog",
    ];
    for flag in flags {
        let output = nightjar(&[flag]);
        is_one_error(&output, flag);
        for value in [&long, "-1", "nonsense", ""] {
            let arguments: &[&str] = &[flag, value, "--test-config"];
            let output = nightjar(arguments);
            is_one_error(&output, &format!("{flag} {value:.20}"));
        }
    }
    for flag in [
        "-d",
        "--daemon",
        "-v",
        "--verbose",
        "-q",
        "--quiet",
        "--ephemeral",
        "--test-config",
    ] {
        let output = nightjar(&[&format!("{flag}=1"), "--test-config"]);
        is_one_error(&output, flag);
    }
}

#[track_caller]
fn is_one_error(output: &Output, what: &str) {
    let said = stderr(output);
    assert_eq!(output.status.code(), Some(3), "{what}: {said:.2000}");
    let errors: Vec<&str> = said
        .lines()
        .filter(|line| line.starts_with("Error: "))
        .collect();
    assert_eq!(errors.len(), 1, "{what}: {said:.2000}");
    assert!(errors[0].len() < 600, "{what}: {said:.2000}");
    assert!(!said.contains("panicked"), "{what}: {said:.2000}");
    assert!(output.stdout.is_empty(), "{what}");
}
