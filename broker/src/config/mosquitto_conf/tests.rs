//! Proofs of the reader of mosquitto.conf: what it promises, by name.

use super::options::{ALIASES, REMOVED};
use super::*;
use crate::config::{ConfigError, toml};
use crate::settings::{
    AclSubscribe, Endpoint, ListenerProtocol, ListenerSettings, LogDestination, LogTypes,
    QueuePolicy, RunAs, Settings,
};
use std::collections::BTreeSet;

#[test]
fn the_table_has_the_141_words_of_mosquitto() {
    let mut words: BTreeSet<&str> = options::all().map(|option| option.name).collect();
    assert_eq!(
        words.len(),
        options::all().count(),
        "an option is there twice"
    );
    words.extend(ALIASES.iter().map(|(alias, _)| *alias));
    // Read beside the table: the first goes to other files, the others have no end of their own.
    words.extend(["include_dir", "plugin_opt_", "auth_opt_"]);
    assert_eq!(words.len(), 141, "{words:#?}");
    for (alias, name) in ALIASES {
        assert!(options::all().any(|option| option.name == *name), "{alias}");
    }
}

#[test]
fn an_empty_file_is_local_only_with_the_bounds_of_mosquitto() {
    let settings = settings("# nothing\n\n   \r\n");
    assert!(settings.local_only && settings.security.allow_anonymous);
    assert_eq!(settings.listeners, Settings::default().listeners);
    assert_eq!(settings.inflight_messages_max, 20);
    assert_eq!(settings.receive_maximum, 20);
    assert_eq!(settings.queue_messages_max, 1_000);
    assert_eq!(settings.queue_policy, QueuePolicy::DropNewest);
    assert_eq!(settings.max_packet_size, 2_000_000);
    assert_eq!(settings.sys_interval_seconds, 10);
    assert_eq!(settings.http_listener, None);
    assert_eq!(settings.topic_alias_maximum, 10);
    assert!(!settings.persistence && !settings.queue_qos0);
    assert_eq!(settings.security.acl_subscribe, AclSubscribe::Mosquitto);
    assert_eq!(settings.process.user, RunAs::MosquittoOrNobody);
}

#[test]
fn a_listener_ends_local_only_mode_and_anonymous_access() {
    let one = settings("listener 1883\n");
    assert!(!one.local_only && !one.security.allow_anonymous);
    assert_eq!(endpoints(&one), ["0.0.0.0:1883", "[::]:1883"]);
    assert!(
        settings("listener 1883\nallow_anonymous true\n")
            .security
            .allow_anonymous
    );
    let closed = settings("allow_anonymous false\n");
    assert!(closed.local_only && !closed.security.allow_anonymous);
}

#[test]
fn the_second_word_of_a_listener_is_where_it_is() {
    let cases = [
        ("listener 1883 127.0.0.1", &["127.0.0.1:1883"][..]),
        ("listener 1883 ::1", &["[::1]:1883"]),
        ("listener 1883 [::1]", &["[::1]:1883"]),
        (
            "listener 1883 both.test",
            &["192.0.2.1:1883", "[2001:db8::1]:1883"],
        ),
        (
            "listener 1883 both.test\nsocket_domain ipv4",
            &["192.0.2.1:1883"],
        ),
        (
            "listener 1883 both.test\nsocket_domain ipv6",
            &["[2001:db8::1]:1883"],
        ),
        ("listener 1883\nsocket_domain ipv4", &["0.0.0.0:1883"]),
        ("listener 1883 # all", &["0.0.0.0:1883", "[::]:1883"]),
        ("listener 1883 127.0.0.1 # one", &["127.0.0.1:1883"]),
        ("listener 0x75b 127.0.0.1", &["127.0.0.1:1883"]),
        ("listener 03533 127.0.0.1", &["127.0.0.1:1883"]),
        ("listener 0 /run/mqtt.sock", &["/run/mqtt.sock"]),
        ("port 1884\nbind_address 127.0.0.1", &["127.0.0.1:1884"]),
        ("bind_address 127.0.0.1", &["127.0.0.1:1883"]),
        ("max_connections 10", &["0.0.0.0:1883", "[::]:1883"]),
        (
            "port 1884\nbind_address 127.0.0.1\nlistener 1885 127.0.0.1\nmax_connections 3",
            &["127.0.0.1:1884", "127.0.0.1:1885"],
        ),
    ];
    for (text, expected) in cases {
        let settings = settings(text);
        assert!(!settings.local_only, "{text}");
        assert_eq!(endpoints(&settings), expected, "{text}");
    }
    for text in ["protocol mqtt", "socket_domain ipv4"] {
        assert!(settings(text).local_only, "{text}");
    }
}

#[test]
fn a_line_is_read_as_mosquitto_reads_it() {
    let text = "allow_anonymous true # behind a switch\r\n\
                max_keepalive 0x10 # behind a number\n\
                listener   1883   127.0.0.1  \n\
                persistence_location  /var/lib/my data/ \n\
                queue_qos0_messages 1\n";
    let settings = settings(text);
    assert!(settings.security.allow_anonymous && settings.queue_qos0);
    assert_eq!(settings.keep_alive_max, 16);
    assert_eq!(endpoints(&settings), ["127.0.0.1:1883"]);
    assert_eq!(
        settings.data_directory.as_deref(),
        Some(Path::new("/var/lib/my data/"))
    );
    let fault = fault(" # not a comment\n");
    assert!(
        fault.contains("Unknown configuration variable '#'"),
        "{fault}"
    );
    let fault = self::fault("user a\nuser b\n");
    assert!(
        fault.starts_with("Duplicate 'user' value in configuration."),
        "{fault}"
    );
    // The last switch and the last number win.
    let settings =
        self::settings("persistence true\npersistence false\nmax_keepalive 7\nmax_keepalive 8\n");
    assert!(!settings.persistence && settings.keep_alive_max == 8);
}

#[test]
fn options_belong_to_the_listener_above_them() {
    let settings = settings(
        "listener 1883 127.0.0.1\nmax_connections 7\nmax_qos 1\nmount_point home/\nuse_username_as_clientid true\n\
         connection other\naddress example.org\ntopic #\n\
         accept_protocol_versions 4, 5\nlistener_allow_anonymous true\n\
         listener 8080 127.0.0.1\nprotocol websockets\nwebsockets_origin https://a.example\nwebsockets_origin https://b.example\n\
         enable_proxy_protocol 2\nmax_topic_alias 3\nmax_topic_alias_broker 4\nlistener_auto_id_prefix x-\n",
    );
    let [first, second] = &settings.listeners[..] else {
        panic!("{:?}", settings.listeners);
    };
    assert_eq!(first.connections_max, Some(7));
    assert_eq!(first.maximum_qos, Some(1));
    assert_eq!(first.mount_point.as_deref(), Some("home/"));
    assert!(first.use_username_as_client_id && !first.protocol_versions.v3_1);
    assert_eq!(first.allow_anonymous, Some(true));
    assert_eq!(second.protocol, ListenerProtocol::WebSocket);
    assert_eq!(second.websocket_origins.len(), 2);
    assert_eq!(second.connections_max, None);
    assert_eq!(second.topic_alias_maximum, Some(3));
    assert_eq!(second.topic_alias_maximum_outbound, Some(4));
    assert!(second.proxy_protocol.is_some() && second.auto_id_prefix.is_some());
}

#[test]
fn per_listener_settings_give_each_listener_its_own_users() {
    let settings = settings(
        "per_listener_settings true\nlistener 1883 127.0.0.1\nallow_anonymous true\n\
         listener 1884 127.0.0.1\npassword_file p\nacl_file a\nauto_id_prefix y\n",
    );
    let [open, closed] = &settings.listeners[..] else {
        panic!("{:?}", settings.listeners);
    };
    let open = open.security.as_ref().unwrap();
    let closed = closed.security.as_ref().unwrap();
    assert!(open.allow_anonymous && open.password_file.is_none());
    assert!(!closed.allow_anonymous && !settings.security.allow_anonymous);
    assert_eq!(closed.password_file.as_deref(), Some(Path::new("p")));
    assert_eq!(closed.acl_subscribe, AclSubscribe::Mosquitto);
    assert_eq!(&*closed.auto_id_prefix, "y");
    let fault = fault("per_listener_settings true\nallow_anonymous true\n");
    assert!(
        fault.contains("'allow_anonymous' option requires a listener"),
        "{fault}"
    );
    let fault = self::fault("password_file x\nper_listener_settings true\n");
    assert!(
        fault.contains("before any other security settings"),
        "{fault}"
    );
}

#[test]
fn log_options_add_up() {
    let settings = settings(
        "log_dest none\nlog_dest stdout\nlog_dest topic\nlog_dest file /a b\nlog_type error\nlog_type subscribe\n",
    );
    assert_eq!(
        settings.log.destinations,
        [
            LogDestination::Stdout,
            LogDestination::Topic,
            LogDestination::File("/a b".into())
        ]
    );
    let types = LogTypes {
        error: true,
        subscribe: true,
        ..LogTypes::NONE
    };
    assert_eq!(settings.log.types, Some(types));
    assert_eq!(
        self::settings("log_type all").log.types,
        Some(LogTypes::ALL)
    );
    assert_eq!(self::settings("log_dest none").log.destinations, []);
}

#[test]
fn the_store_is_where_persistence_location_says() {
    let place = |text| settings(text).data_directory;
    assert_eq!(
        place("persistence true\npersistence_location /p/"),
        Some("/p".into())
    );
    assert_eq!(place("persistence true"), Some(".".into()));
    assert_eq!(place("persistence false"), None);
    let variable =
        |name: &str| (name == "MOSQUITTO_PERSISTENCE_LOCATION").then(|| "/env".to_owned());
    let world = World {
        variable: &variable,
        resolve: &resolve,
    };
    let text = b"persistence true\npersistence_location /p/\n";
    let loaded = read(Path::new("m.conf"), text, &world).unwrap();
    assert_eq!(loaded.settings.data_directory, Some("/env".into()));
}

#[test]
fn the_database_of_mosquitto_is_taken_over_from_where_it_is() {
    let file = |text| settings(text).mosquitto_db;
    assert_eq!(
        file("persistence true\npersistence_location /p/\n"),
        Some("/p/mosquitto.db".into())
    );
    assert_eq!(
        file("persistence true\npersistence_file old.db\npersistence_location /p\n"),
        Some("/p/old.db".into())
    );
    assert_eq!(file("persistence false\npersistence_location /p\n"), None);
}

#[test]
fn a_large_packet_has_room() {
    let settings = settings("max_packet_size 268435455\n");
    assert!(settings.qos2_unreleased_bytes_max >= 268_435_455);
    assert!(settings.receive_bytes_max >= 268_435_455);
}

#[test]
fn variables_are_put_in_their_place() {
    let settings =
        settings("persistence_location /data/${NAME}/${NAME}\npassword_file $${NAME}/$x${\n");
    assert_eq!(settings.data_directory, Some("/data/value/value".into()));
    assert_eq!(settings.security.password_file, Some("${NAME}/$x${".into()));
    let fault = fault("persistence_location ${UNKNOWN}\n");
    assert!(fault.contains("variable 'UNKNOWN' is not set"), "{fault}");
    // What stands in a variable is a value and nothing else.
    let fault = self::fault("persistence_location ${LINES}\n");
    assert!(fault.contains("more than one line"), "{fault}");
}

#[test]
fn shipped_plugins_are_the_options_they_replace() {
    let settings = settings(
        "plugin /usr/lib/mosquitto_password_file.so\nplugin_opt_password_file /p\n\
         global_plugin C:/x/mosquitto_acl_file.dll\nauth_opt_acl_file /a\n",
    );
    assert_eq!(settings.security.password_file, Some("/p".into()));
    assert_eq!(settings.security.acl_file, Some("/a".into()));

    let settings = self::settings(
        "allow_anonymous true\nplugin_load users /l/mosquitto_password_file.so\nplugin_opt_password_file /p\n\
         listener 1 127.0.0.1\nplugin_use users\nlistener 2 127.0.0.1\n",
    );
    let [with, without] = &settings.listeners[..] else {
        panic!("{:?}", settings.listeners);
    };
    let with = with.security.as_ref().unwrap();
    assert_eq!(with.password_file, Some("/p".into()));
    assert!(with.allow_anonymous && without.security.is_none());

    let settings = self::settings(
        "plugin mosquitto_persist_sqlite.so\nplugin_opt_db_file /d/x.sqlite3\nplugin_opt_sync normal\nplugin_opt_page_size 4096\n",
    );
    assert!(settings.persistence);
    assert_eq!(settings.data_directory, Some("/d".into()));
}

#[test]
fn foreign_plugins_are_refused_by_name() {
    let cases = [
        (
            "mosquitto_dynamic_security.so",
            "Dynamic security is not in this version",
        ),
        (
            "/mosquitto/go-auth.so",
            "go-auth plugin is not in this version",
        ),
        ("mosquitto_sparkplug_aware.so", "Sparkplug"),
        (
            "/opt/mine.so",
            "Plugins made for Mosquitto cannot be loaded",
        ),
    ];
    for (file, expected) in cases {
        let text =
            format!("plugin {file}\nplugin_opt_secret x\nauth_plugin_deny_special_chars false\n");
        let faults = faults(&text);
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(
            faults[0].contains(expected) && faults[0].contains(file),
            "{faults:?}"
        );
    }
}

#[test]
fn the_words_of_mosquitto_begin_each_message() {
    let l = "listener 1883 127.0.0.1\n";
    let cases = [
        (
            "unknown_option unknown",
            "Unknown configuration variable 'unknown_option'",
        ),
        ("user", "Empty 'user' value in configuration."),
        ("user  ", "Empty 'user' value in configuration."),
        (
            "memory_limit",
            "Empty 'memory_limit' value in configuration.",
        ),
        ("memory_limit -1", "Invalid 'memory_limit' value (-1)."),
        (
            "accept_protocol_versions 3",
            "The 'accept_protocol_versions' option requires a listener to be defined first.",
        ),
        (
            "L accept_protocol_versions",
            "Empty 'accept_protocol_versions' value in configuration.",
        ),
        (
            "allow_anonymous falst",
            "Invalid 'allow_anonymous' value (falst).",
        ),
        (
            "autosave_interval string",
            "'autosave_interval' value not a number.",
        ),
        ("listener", "Empty 'listener port' value in configuration."),
        ("listener 100000", "Invalid 'port' value (100000)."),
        (
            "listener 0",
            "A listener with port 0 must provide a Unix socket path.",
        ),
        (
            "mount_point test/",
            "The 'mount_point' option requires a listener to be defined first.",
        ),
        (
            "L mount_point test/+/",
            "Invalid 'mount_point' value (test/+/). Does it contain a wildcard character?",
        ),
        ("L protocol test", "Invalid 'protocol' value (test)."),
        (
            "plugin_opt_inval string",
            "The 'plugin_opt_inval' option requires plugin/global_plugin/plugin_load to be defined first.",
        ),
        (
            "threshold 10",
            "The 'threshold' option requires a bridge to be defined first.",
        ),
        ("connection", "Empty 'connection' value in configuration."),
        (
            "connection just-name",
            "Invalid bridge configuration: no remote addresses defined.",
        ),
        (
            "connection a\naddress localhost",
            "Invalid bridge configuration: no topics defined.",
        ),
        (
            "connection a\ntopic \"missing quote",
            "Missing closing quote in topic value (quote).",
        ),
        (
            "maximum_qos 3",
            "'max_qos' must be between 0 and 2 inclusive.",
        ),
        (
            "max_inflight_messages 65536",
            "'max_inflight_messages' must be <= 65535.",
        ),
        ("max_packet_size 19", "'max_packet_size' must be >= 20."),
        (
            "message_size_limit 556000000",
            "Invalid 'message_size_limit' value (556000000).",
        ),
        ("max_keepalive -1", "Invalid 'max_keepalive' value (-1)."),
        (
            "L max_topic_alias 65536",
            "Invalid 'max_topic_alias' value in configuration.",
        ),
        (
            "L listener_auto_id_prefix",
            "Empty 'listener_auto_id_prefix' value in configuration.",
        ),
        (
            "websockets_headers_size -1",
            "Packet buffer size must be between 0 and 65535 inclusive.",
        ),
        (
            "sys_interval 65536",
            "Invalid 'sys_interval' value (65536).",
        ),
        (
            "connection a\naddress h\ntopic # zork",
            "Invalid bridge topic direction 'zork'.",
        ),
        (
            "connection a\naddress h\ntopic # out 3",
            "Invalid bridge QoS level '3'.",
        ),
        ("log_dest zork", "Invalid 'log_dest' value (zork)."),
        (
            "include_dir /nonexistent",
            "Unable to open include_dir '/nonexistent'.",
        ),
    ];
    for (text, expected) in cases {
        let text = text.replace("L ", l);
        let message = fault(&text);
        assert!(message.starts_with(expected), "{text}: {message}");
    }
    let long = format!("{l}listener_auto_id_prefix {}", "a".repeat(51));
    assert!(fault(&long).starts_with("'listener_auto_id_prefix' length must be <= 50."));
}

/// Missing, endless, negative, not a number, and what drives a terminal: taken, or one fault, never a panic.
#[test]
fn every_option_with_every_bad_value_is_taken_or_one_clear_fault() {
    let endless = "9".repeat(100_000);
    let long = "x".repeat(100_000);
    let bad = [
        "",
        "-1",
        "-99999999999999999999",
        "1e9",
        "nonsense",
        "\u{1b}[2J\u{202e}",
        "\"",
        "0x",
        "${",
        &endless,
        &long,
    ];
    let before = "listener 1883 127.0.0.1\nconnection c\nplugin mosquitto_acl_file.so\nplugin_opt_acl_file a\n";
    let after = "address h:1\ntopic #\n";
    let names = options::all().map(|option| option.name);
    let names = names
        .chain(ALIASES.iter().map(|(alias, _)| *alias))
        .chain(REMOVED.iter().copied());
    for name in names.chain(["include_dir", "plugin_opt_", "plugin_opt_x", "auth_opt_x"]) {
        for value in bad {
            let after = match name {
                "address" | "addresses" => "topic #\n",
                "topic" => "address h:1\n",
                _ => after,
            };
            let text = format!("{before}{name} {value}\n{after}");
            let faults = faults(&text);
            assert!(faults.len() <= 1, "{name} {value:.20}: {faults:?}");
            for fault in &faults {
                assert!(fault.len() < 600, "{name}: {} bytes", fault.len());
                assert!(
                    !fault.contains(['\u{1b}', '\u{202e}', '\n']),
                    "{name}: {fault:?}"
                );
            }
        }
        if let Some(options::Row::Known(option)) = options::find(name) {
            if option.kind != Kind::Any {
                let fault = fault(&format!("{before}{name}\n"));
                assert!(fault.contains("Empty '"), "{name}: {fault}");
            }
            if matches!(option.kind, Kind::Number(..)) {
                let fault = fault(&format!("{before}{name} nonsense\n"));
                assert!(fault.contains("not a number"), "{name}: {fault}");
            }
            if option.kind == Kind::Switch {
                let fault = fault(&format!("{before}{name} yes\n"));
                assert!(
                    fault.contains("value (yes). Write true or false."),
                    "{name}: {fault}"
                );
            }
        }
    }
}

#[test]
fn removed_options_warn_and_do_not_stop_the_start() {
    for name in REMOVED {
        let loaded = loaded(&format!("{name} 3\n")).unwrap();
        assert_eq!(loaded.notes.len(), 1);
        assert!(
            loaded.notes[0].to_string().starts_with("m.conf:1: "),
            "{:?}",
            loaded.notes
        );
    }
}

#[test]
fn all_faults_of_a_file_are_told_up_to_a_hundred() {
    let error = loaded("a 1\nallow_anonymous x\n\nlistener 1 nohost.test\npid_file\n").unwrap_err();
    let lines: Vec<usize> = error.iter().map(|fault| fault.place.line).collect();
    assert_eq!(lines, [1, 2, 4, 5]);
    let text = ConfigError::Invalid(error).to_string();
    assert!(
        text.contains("\nError found at m.conf:2.\nError: "),
        "{text}"
    );
    assert_eq!(faults(&"x 1\n".repeat(10_000)).len(), 100);
}

#[test]
fn what_is_not_text_is_a_fault_of_its_line() {
    let world = World {
        variable: &variable,
        resolve: &resolve,
    };
    let faults = read(
        Path::new("m.conf"),
        b"user a\n\xff\xfe 1\npid_file a\0b\n",
        &world,
    )
    .unwrap_err();
    assert_eq!(faults.len(), 2);
    assert!(faults[0].message.contains("UTF-8") && faults[1].message.contains("zero byte"));
}

#[test]
fn a_bridge_is_checked_and_keeps_the_broker_from_starting() {
    let loaded = loaded("connection up\naddress example.org [::1]:1884\ntopic sensors/# out 1 \"\" site/\nremote_password geheim\n").unwrap();
    assert_eq!(loaded.not_yet.len(), 1);
    let text = loaded.not_yet[0].to_string();
    assert!(
        text.starts_with("m.conf:1: connection 'up': bridges are not in this version"),
        "{text}"
    );
    assert!(loaded.notes.is_empty());
}

#[test]
fn half_of_tls_is_refused_and_all_of_it_is_kept() {
    for half in ["certfile c", "keyfile k", "require_certificate true"] {
        let fault = fault(&format!("listener 8883 127.0.0.1\n{half}\n"));
        assert!(fault.contains("would not use TLS"), "{fault}");
    }
    let settings = settings(
        "listener 8883 127.0.0.1\ncafile a\ncertfile c\nkeyfile k\nrequire_certificate true\ntls_version tlsv1.1\n",
    );
    let tls = settings.listeners[0].tls.as_ref().unwrap();
    assert!(tls.require_certificate && tls.version.as_deref() == Some("tlsv1.2"));
    let fault = fault("listener 8883 127.0.0.1\ncertfile c\nkeyfile k\nenable_proxy_protocol 1\n");
    assert!(fault.contains("cannot be on one listener"), "{fault}");
}

#[test]
fn behind_a_proxy_a_certificate_is_what_the_proxy_says() {
    let listener =
        "listener 8883 127.0.0.1\nrequire_certificate true\nuse_identity_as_username true\n";
    let text = format!("{listener}enable_proxy_protocol 2\ncafile a\n");
    let loaded = loaded(&text).unwrap();
    let listener_settings = &loaded.settings.listeners[0];
    let tls = listener_settings.tls.as_ref().unwrap();
    assert!(tls.require_certificate && tls.use_identity_as_username && tls.ca_file.is_none());
    assert!(!listener_settings.speaks_tls());
    let notes: Vec<String> = loaded.notes.iter().map(ToString::to_string).collect();
    assert!(
        notes.concat().contains("TLS options that have no effect"),
        "{notes:?}"
    );
    let first = fault(&format!("{listener}enable_proxy_protocol 1\n"));
    assert!(first.contains("would not use TLS"), "{first}");
    let subject = format!("{listener}enable_proxy_protocol 2\nuse_subject_as_username true\n");
    assert!(fault(&subject).contains("the common name only"));
}

#[test]
fn included_files_come_in_the_order_of_their_names_and_include_nothing() {
    let directory = std::env::temp_dir().join(format!("nightjar-include-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    for (name, text) in [
        ("b.conf", "max_keepalive 2\n"),
        ("B.conf", "max_keepalive 1\nlistener 1883 127.0.0.1\n"),
        ("a.txt", "nonsense\n"),
        (".conf", "nonsense\n"),
        ("c.conf", "include_dir /nonexistent\nmount_point x/\n"),
    ] {
        std::fs::write(directory.join(name), text).unwrap();
    }
    let loaded = loaded(&format!(
        "max_keepalive 9\ninclude_dir {}\n",
        directory.display()
    ))
    .unwrap();
    assert_eq!(loaded.settings.keep_alive_max, 2);
    // A section goes on in the next file.
    assert_eq!(
        loaded.settings.listeners[0].mount_point.as_deref(),
        Some("x/")
    );
    assert_eq!(loaded.notes.len(), 1, "{:?}", loaded.notes);
    assert!(
        loaded.sources["keep_alive_max"]
            .to_string()
            .ends_with("b.conf:1")
    );
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn an_autosave_interval_is_how_long_what_nobody_waits_for_may_wait() {
    let seconds = |text: &str| settings(text).write_behind_seconds;
    assert_eq!(seconds("persistence true\n"), 1);
    assert_eq!(seconds("autosave_interval 1800\n"), 1_800);
    // Not before the end, in Mosquitto.
    assert_eq!(seconds("autosave_interval 0\n"), 86_400);
    assert_eq!(seconds("autosave_interval -5\n"), 86_400);
    assert_eq!(seconds("autosave_interval 99999999\n"), 86_400);
    // Then it counts changes.
    assert_eq!(
        seconds("autosave_interval 1800\nautosave_on_changes true\n"),
        1
    );
}

#[test]
fn a_memory_limit_is_shared_out_and_lifts_no_other_bound() {
    let shared = |text: &str| {
        let settings = settings(text);
        [
            settings.retained_bytes_max,
            settings.queue_total_bytes_max,
            settings.queue_memory_total_bytes_max,
            settings.will_bytes_max,
            settings.send_bytes_max,
            settings.receive_bytes_max,
        ]
    };
    let mib = 1 << 20;
    assert_eq!(
        shared("memory_limit 67108864"),
        [16 * mib, 16 * mib, 16 * mib, 8 * mib, 8 * mib, 8 * mib]
    );
    // Queues that are on disk may be longer.
    let kept = shared("memory_limit 67108864\npersistence true");
    assert_eq!((kept[1], kept[2]), (4096 * mib, 16 * mib));
    // One packet and one connection find room whatever is said.
    let least = shared("memory_limit 1");
    assert_eq!(least[..4], [1, 1, 1, 1]);
    assert_eq!(least[4], 65_536);
    assert_eq!(least[5], 2_000_000);
    assert_eq!(shared("memory_limit 0"), shared(""));
}

/// The TOML that is written means what the file meant, option by option and all together.
#[test]
fn a_migrated_file_has_the_same_settings() {
    let values: &[(&str, &str)] = &[
        ("user", "root"),
        ("pid_file", "/run/x"),
        ("port", "1884"),
        ("bind_address", "127.0.0.1"),
        ("max_inflight_messages", "0"),
        ("max_queued_messages", "0"),
        ("max_queued_bytes", "99999999999999999"),
        ("max_inflight_bytes", "100"),
        ("memory_limit", "1000000"),
        ("upgrade_outgoing_qos", "true"),
        ("queue_qos0_messages", "true"),
        ("max_keepalive", "60"),
        ("max_packet_size", "268435455"),
        ("message_size_limit", "1000"),
        ("global_max_clients", "7"),
        ("global_max_connections", "8"),
        ("persistent_client_expiration", "14d"),
        ("retain_available", "false"),
        ("check_retain_source", "false"),
        ("persistence", "true"),
        ("persistence_location", "/p q\"'\\"),
        ("connection_messages", "false"),
        ("log_dest", "file /x y"),
        ("log_type", "all"),
        ("log_type", "none"),
        ("log_timestamp", "false"),
        ("log_timestamp_format", "%Y \"x\""),
        ("log_facility", "3"),
        ("sys_interval", "0"),
        ("enable_control_api", "true"),
        ("allow_anonymous", "false"),
        ("password_file", "p"),
        ("acl_file", "a"),
        ("allow_zero_length_clientid", "false"),
        ("auto_id_prefix", "z"),
        ("bind_interface", "lo"),
        ("protocol", "websockets"),
        ("socket_domain", "ipv4"),
        ("max_connections", "0"),
        ("max_connections", "2147483647"),
        ("max_qos", "0"),
        ("max_topic_alias", "0"),
        ("use_username_as_clientid", "true"),
    ];
    let of_listener: &[(&str, &str)] = &[
        ("mount_point", "m/"),
        ("max_topic_alias_broker", "5"),
        ("accept_protocol_versions", "5"),
        ("listener_allow_anonymous", "true"),
        ("listener_auto_id_prefix", "q"),
        ("enable_proxy_protocol", "1"),
        ("proxy_protocol_v2_require_tls", "true"),
        ("websockets_origin", "https://a.example"),
        ("http_dir", "/w"),
        ("cafile", "c"),
        ("capath", "d"),
        ("crlfile", "e"),
        ("require_certificate", "true"),
        ("use_identity_as_username", "true"),
        ("use_subject_as_username", "true"),
        ("ciphers", "X"),
        ("ciphers_tls1.3", "Y"),
        ("tls_version", "tlsv1.3"),
        ("disable_client_cert_date_checks", "true"),
    ];
    let base = settings("");
    let mut all = String::new();
    for (name, value) in values {
        let text = format!("{name} {value}\n");
        let changes = settings(&text) != base || ["socket_domain"].contains(name);
        assert!(changes, "{name} {value} changes nothing");
        same_after_migration(&text);
        if !all.contains(&format!("{name} ")) {
            all.push_str(&text);
        }
    }
    let listener = "listener 1999 127.0.0.1\n";
    for (name, value) in of_listener {
        let lead = match *name {
            "websockets_origin" => "protocol websockets\n",
            "http_dir" => "protocol http_api\n",
            "proxy_protocol_v2_require_tls" => "enable_proxy_protocol 2\n",
            "mount_point" | "enable_proxy_protocol" => "",
            name if options::all()
                .any(|option| option.name == name && option.key.contains(".tls.")) =>
            {
                "certfile c\nkeyfile k\n"
            }
            _ => "",
        };
        let text = format!("{listener}{lead}{name} {value}\n");
        assert_ne!(
            settings(&text),
            settings(&format!("{listener}{lead}")),
            "{name}"
        );
        same_after_migration(&text);
    }
    same_after_migration(&format!(
        "{all}{listener}mount_point x\nlistener 0 /s.sock\nlistener 9 both.test\n"
    ));
    same_after_migration(
        "per_listener_settings true\nlistener 1 127.0.0.1\nallow_anonymous true\nacl_file a\nlistener 2\n",
    );
}

/// Every option that does something says so in the test above.
fn same_after_migration(text: &str) {
    let world = World {
        variable: &variable,
        resolve: &resolve,
    };
    let path = Path::new("m.conf");
    let expected = settings(text);
    let migrated = migrate::migrate(path, text.as_bytes(), &world).unwrap();
    let read = toml::read(Path::new("nightjar.toml"), migrated.as_bytes());
    let read = read.unwrap_or_else(|faults| panic!("{text}\n{migrated}\n{faults:?}"));
    assert_eq!(read.settings, expected, "{text}\n{migrated}");
}

#[test]
fn migration_tells_each_line_and_no_secret() {
    let text = "# c\npersistence true\nretry_interval 20\nautosave_interval 9\nlog_dest dlt\n\
                connection b\naddress h\ntopic #\nremote_password geheim\nlistener 1883 127.0.0.1\n";
    let world = World {
        variable: &variable,
        resolve: &resolve,
    };
    let report = migrate::migrate(Path::new("m.conf"), text.as_bytes(), &world).unwrap();
    for expected in [
        "#    2 changed  persistence true  ->  persistence",
        "#    3 ignored  retry_interval 20",
        "#    5 ignored  log_dest dlt",
        "#    9 ignored  remote_password ***",
        "#   10 same     listener 1883 127.0.0.1  ->  listeners.address",
        "# Look at this: m.conf:5: 'log_dest' has no effect",
        "# Not in this version: m.conf:6: connection 'b'",
    ] {
        assert!(report.contains(expected), "{expected}\n{report}");
    }
    assert!(!report.contains("geheim"));
}

fn settings(text: &str) -> Settings {
    loaded(text)
        .unwrap_or_else(|faults| panic!("{text}\n{faults:?}"))
        .settings
}

fn loaded(text: &str) -> Result<Loaded, Vec<Fault>> {
    let world = World {
        variable: &variable,
        resolve: &resolve,
    };
    read(Path::new("m.conf"), text.as_bytes(), &world)
}

fn faults(text: &str) -> Vec<String> {
    let faults = loaded(text).err().unwrap_or_default();
    faults.into_iter().map(|fault| fault.message).collect()
}

/// The only one.
#[track_caller]
fn fault(text: &str) -> String {
    let mut faults = faults(text);
    let sections = faults.len() > 1;
    faults.retain(|fault| !sections || !fault.starts_with("Invalid bridge configuration"));
    assert_eq!(faults.len(), 1, "{text}: {faults:?}");
    faults.remove(0)
}

fn endpoints(settings: &Settings) -> Vec<String> {
    let listeners = settings.listeners.iter();
    listeners
        .flat_map(|listener: &Arc<ListenerSettings>| &listener.endpoints)
        .map(Endpoint::to_string)
        .collect()
}

fn variable(name: &str) -> Option<String> {
    match name {
        "NAME" => Some("value".into()),
        "LINES" => Some("a\nlistener 1".into()),
        _ => None,
    }
}

/// No test asks a name server.
fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let addresses: &[&str] = match host {
        "both.test" => &["192.0.2.1", "2001:db8::1"],
        "nohost.test" => return Err(io::Error::other("no such host")),
        address => &[address],
    };
    let addresses = addresses.iter().map(|address| {
        let address = address.parse::<std::net::IpAddr>();
        address
            .map(|address| SocketAddr::new(address, port))
            .map_err(io::Error::other)
    });
    addresses.collect()
}
