//! `durable` with real brokers that it kills: what is kept, what is not, and that both are told.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use harness::Broker;
use serde_json::Value;

#[test]
fn a_broker_that_keeps_what_it_acknowledges_loses_nothing() {
    for version in ["3.1.1", "5"] {
        let start = format!("'{}' -p {{port}} --data {{data}}", ours());
        let (output, result) = durable(&["--start", &start, "-V", version]);
        assert!(output.status.success(), "{output:?}");
        let number = |name: &str| result[name].as_u64().unwrap();
        assert_eq!(number("losses"), 0, "{result}");
        assert_eq!((number("strays"), number("refused")), (0, 0), "{result}");
        // Each kill comes between a tenth and nine tenths of what is to be sent, and every acknowledged message arrives at
        // both sessions.
        let (sent, acknowledged) = (number("sent"), number("acknowledged"));
        assert!(acknowledged >= 2 * 600 && sent <= 6_000, "{result}");
        assert!(number("received") >= acknowledged, "{result}");
        let measures = result["measures"].as_array().unwrap();
        let names: Vec<&str> = measures
            .iter()
            .filter_map(|measure| measure["name"].as_str())
            .collect();
        for name in ["enqueue", "ready", "drain"] {
            assert!(names.contains(&name), "{names:?}");
        }
    }
}

#[test]
fn a_broker_that_forgets_is_found_out_by_number_and_exit_code() {
    let start = format!("'{}' -p {{port}} --ephemeral", ours());
    let (output, result) = durable(&["--start", &start]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert_eq!(result["losses"], result["acknowledged"], "{result}");
    assert!(result["losses"].as_u64().unwrap() >= 1_200, "{result}");
    let note = result["notes"][0].as_str().unwrap();
    assert_eq!(note, "kill 1: 2 of 2 sessions were gone");
}

#[test]
fn a_broker_that_runs_is_killed_and_started_by_the_command_given() {
    let data = directory("theirs");
    let (broker, port) = running(&data);
    let restart = format!("'{}' -p {port} --data '{}'", ours(), data.display());
    let pid = broker.process_id().unwrap().to_string();
    let target = ["--broker-pid", &pid, "--port", &port.to_string()].map(str::to_owned);
    let mut arguments: Vec<&str> = target.iter().map(String::as_str).collect();
    let (refused, _) = durable(&arguments);
    assert!(!refused.status.success(), "killed without a way back");
    arguments.extend(["--restart", &restart]);
    let (output, result) = durable(&arguments);
    // What it leaves running is this test's to end.
    let note = result["notes"][0].as_str().unwrap_or_default();
    let number = note
        .split(' ')
        .find_map(|word| word.parse::<u32>().ok())
        .unwrap();
    let ended = Command::new("kill").arg(number.to_string()).status();
    assert!(ended.unwrap().success());
    assert!(output.status.success(), "{output:?}");
    assert_eq!(result["losses"], 0, "{result}");
    drop(broker);
    fs::remove_dir_all(&data).unwrap();
}

#[test]
fn a_directory_in_use_is_left_alone() {
    let data = directory("in-use");
    fs::write(data.join("precious"), "mine").unwrap();
    let place = data.display().to_string();
    let (output, _) = durable(&["--data", &place, "--start", "false"]);
    assert!(!output.status.success());
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains("is not empty"), "{message}");
    assert_eq!(fs::read_dir(&data).unwrap().count(), 1);
    fs::remove_dir_all(&data).unwrap();
}

/// Two kills, each among 3,000 messages at most, for two sessions.
fn durable(arguments: &[&str]) -> (Output, Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nightjar-loadtest"));
    command.args([
        "durable", "-n", "3000", "-P", "5", "-S", "2", "--kills", "2",
    ]);
    let output = command.arg("--json").args(arguments).output().unwrap();
    let result = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output, result)
}

fn running(data: &Path) -> (Broker, u16) {
    let broker = Broker::options()
        .toml(&format!(
            "allow_anonymous = true\npersistence = true\ndata_directory = \"{}\"\n[[listeners]]\naddress = \"127.0.0.1:{{port}}\"\n",
            data.display()
        ))
        .start();
    let port = broker.port;
    (broker, port)
}

fn directory(name: &str) -> PathBuf {
    let name = format!("nightjar-durable-{}-{name}", std::process::id());
    let path = std::env::temp_dir().join(name);
    fs::create_dir_all(&path).unwrap();
    path
}

fn ours() -> String {
    harness::binary().display().to_string()
}
