//! The HTTP listener by itself: what it answers, whom it does not wait for, and where it is.

use std::io::Write;
use std::net::TcpListener;
use std::process::{Command, Stdio};

use harness::{Broker, TemporaryDirectory, binary};

use crate::{Watched, read_to_end};

#[test]
fn it_answers_four_paths_and_get_only() {
    let watched = Watched::start("");
    for (path, status) in [
        ("/livez", 200),
        ("/readyz", 200),
        ("/metrics", 200),
        ("/metrics/mosquitto", 200),
        ("/metrics?name=x", 200),
        ("/", 404),
        ("/metrics/", 404),
        ("/debug/pprof", 404),
        ("/metrics/../livez", 404),
    ] {
        assert_eq!(watched.get(path).0, status, "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "TRACE"] {
        let request = format!("{method} /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(watched.ask(&request).0, 405, "{method}");
    }
}

#[test]
fn the_store_is_in_the_metrics_where_there_is_one() {
    let directory = TemporaryDirectory::new("metrics-store");
    let watched = Watched::start_with("", |options| {
        options.argument("--data").argument(directory.text())
    });
    let sheet = watched.metrics();
    assert_eq!(sheet.value("nightjar_store_failed"), 0);
    assert_eq!(sheet.value("nightjar_store_failures_total"), 0);
    assert!(sheet.value("nightjar_store_size_bytes") > 0);
    assert_eq!(watched.get("/readyz"), (200, "ok\n".to_owned()));
    drop(watched);
    let without = Watched::start("");
    assert!(!without.metrics().0.contains("nightjar_store_"));
}

#[test]
fn t16_nobody_is_waited_for_and_nothing_large_is_read() {
    let watched = Watched::start("");
    // A header that never ends.
    let mut large = watched.open();
    let endless = format!("GET /metrics HTTP/1.1\r\nX: {}", "x".repeat(64 * 1024));
    let _ = large.write_all(endless.as_bytes());
    let answer = read_to_end(&mut large);
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431"),
        "{answer}"
    );
    // No bytes of HTTP at all.
    let mut garbage = watched.open();
    garbage.write_all(&[0x10, 0x0c, 0, 4, b'M', b'Q']).unwrap();
    // It may be closed already.
    let _ = garbage.write_all(b"\r\n\r\n");
    let answer = read_to_end(&mut garbage);
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 400"),
        "{answer}"
    );
    // Whoever says nothing keeps nobody out: there is room for sixteen of them, and they are closed.
    let mut silent: Vec<_> = (0..15).map(|_| watched.open()).collect();
    assert_eq!(watched.get("/livez").0, 200);
    for stream in &mut silent {
        read_to_end(stream);
    }
    assert_eq!(watched.get("/livez").0, 200);
}

#[test]
fn t16_it_is_on_loopback_unless_somebody_says_otherwise_and_is_no_reason_not_to_start() {
    // Ours or that of another broker: the default address is in use.
    let _taken = TcpListener::bind("127.0.0.1:9884");
    let mut broker = Broker::options()
        .toml("allow_anonymous = true\n[[listeners]]\naddress = \"127.0.0.1:{port}\"\n")
        .start();
    broker.wait_for_log("Metrics are not served: 127.0.0.1:9884 cannot be opened");
    broker.wait_for_log(" running");
}

#[test]
fn an_address_that_was_chosen_and_cannot_be_opened_stops_the_start() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let directory = TemporaryDirectory::new("metrics-taken");
    std::fs::create_dir(directory.path()).unwrap();
    let file = directory.path().join("nightjar.toml");
    let text = format!("http_listener = \"{address}\"\n[[listeners]]\naddress = \"127.0.0.1:0\"\n");
    std::fs::write(&file, text).unwrap();
    let output = Command::new(binary())
        .args(["--ephemeral", "-c"])
        .arg(&file)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(
        error.contains(&format!("Error: Address already in use ({address}).")),
        "{error}"
    );
}

#[test]
fn the_quick_start_of_mosquitto_opens_no_other_port() {
    let mut broker = Broker::options().argument("-v").start();
    broker.wait_for_log(" running");
    let log = broker.log();
    assert!(!log.contains("http") && !log.contains("9884"), "{log}");
}
