//! `--tls-keylog`: what a program that reads captured traffic needs, and who may read it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use harness::{Broker, TemporaryDirectory, certs};

#[test]
fn the_secrets_in_the_file_are_those_that_the_client_has() {
    let directory = TemporaryDirectory::new("doors-keys");
    for command in [&["init"][..], &["server", "localhost"]] {
        let done = Command::new(certs())
            .args(command)
            .args(["--dir", directory.text()])
            .output()
            .unwrap();
        assert!(done.status.success(), "{done:?}");
    }
    let path = |name: &str| directory.path().join(name).display().to_string();
    let text = format!(
        "user root\nlistener {{port}} 127.0.0.1\nallow_anonymous true\ncertfile {}\nkeyfile {}\n",
        path("servers/localhost.crt"),
        path("servers/localhost.key")
    );
    let (ours, theirs) = (path("ours.log"), path("theirs.log"));
    let mut broker = Broker::options()
        .mosquitto_conf(&text)
        .argument("--tls-keylog")
        .argument(&ours)
        .start();
    broker.wait_for_log("The secrets of TLS connections are written to ");
    for version in ["-tls1_2", "-tls1_3"] {
        let done = Command::new("openssl")
            .args(["s_client", version, "-keylogfile", &theirs, "-connect"])
            .arg(format!("127.0.0.1:{}", broker.port))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(done.status.success(), "{done:?}");
    }
    let lines = |file: &str| -> BTreeSet<String> {
        let text = fs::read_to_string(file).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(str::to_lowercase).collect()
    };
    // The client may be gone before the broker has written its last line.
    let theirs_has = lines(&theirs);
    assert!(theirs_has.len() >= 5, "{theirs_has:?}");
    harness::wait_until("both have written the same", harness::PATIENCE, || {
        lines(&ours) == theirs_has
    });
    let mode = fs::metadata(&ours).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_file_that_cannot_be_written_stops_the_start() {
    let directory = TemporaryDirectory::new("doors-keys-no");
    for command in [&["init"][..], &["server", "localhost"]] {
        let done = Command::new(certs())
            .args(command)
            .args(["--dir", directory.text()])
            .output()
            .unwrap();
        assert!(done.status.success(), "{done:?}");
    }
    let config = directory.path().join("mosquitto.conf");
    let text = format!(
        "user root\nlistener 0 {0}/tls.sock\ncertfile {0}/servers/localhost.crt\nkeyfile {0}/servers/localhost.key\n",
        directory.text()
    );
    fs::write(&config, text).unwrap();
    let output = Command::new(harness::binary())
        .arg("-c")
        .arg(&config)
        .args(["--tls-keylog", "/nonexistent/keys"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("/nonexistent/keys"), "{said}");
}
