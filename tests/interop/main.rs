//! Real clients against the real broker: starts it, lets `run.py` drive mosquitto_pub/sub/rr, paho, aiomqtt, gmqtt, mqtt.js and rumqttc,
//! and asks it to stop afterwards.
//!
//! Comes in: the folder that `setup.sh` fills. Goes out: one line a case, `N passed, N failed`. A missing client is a failure that says
//! what to install. What the clients do is written in `cases.py`; this file knows none of it.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use harness::Broker;

#[test]
fn every_client_passes_every_case_it_can_run() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("interop");
    // A broker that was running already has no WebSocket that we know of.
    let is_given = std::env::var_os("NIGHTJAR_TEST_ADDR").is_some();
    let mut broker = if is_given {
        Broker::start()
    } else {
        Broker::options().toml(LISTENERS).start()
    };
    let mut runner = Command::new("python3");
    runner
        .arg(folder.join("run.py"))
        .args(["--addr", &broker.address().to_string()])
        .args(["--rumqttc", env!("CARGO_BIN_EXE_interop-rumqttc")])
        .stdin(Stdio::null());
    if !is_given {
        runner.args(["--ws-addr", &format!("127.0.0.1:{}", broker.second_port)]);
    }
    let (code, output) = run(runner);
    // `println!` and not the child's own stdout: cargo shows it when the test fails.
    println!("{output}");
    assert!(
        code != Some(MISSING),
        "the clients are not installed: run tests/interop/setup.sh, which also says what it needs from the system\n{}",
        missing(&output),
    );
    assert_eq!(code, Some(0), "{}", failures(&output));
    if broker.process_id().is_some() && std::env::var_os("NIGHTJAR_TEST_ADDR").is_none() {
        assert!(broker.terminate().success(), "{}", broker.log());
    }
}

/// The exit code and all that the command wrote; bounded by `RUN_MAX`.
fn run(mut command: Command) -> (Option<i32>, String) {
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let child = child.unwrap_or_else(|error| panic!("python3 is needed: {error}"));
    let process_id = i32::try_from(child.id())
        .ok()
        .and_then(rustix::process::Pid::from_raw)
        .expect("a child's process id is positive");
    let (ended, end) = channel();
    std::thread::spawn(move || ended.send(child.wait_with_output()));
    let output = match end.recv_timeout(RUN_MAX) {
        Ok(output) => output.expect("the output of a child can be read"),
        Err(RecvTimeoutError::Timeout) => {
            // SIGTERM lets the runner end its clients.
            let _ = rustix::process::kill_process(process_id, rustix::process::Signal::TERM);
            panic!("the interop runner did not end in {RUN_MAX:?}");
        }
        Err(RecvTimeoutError::Disconnected) => unreachable!("the thread sends before it ends"),
    };
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    (output.status.code(), text)
}

fn missing(output: &str) -> String {
    lines_with(output, "missing for ")
}

fn failures(output: &str) -> String {
    lines_with(output, "failed")
}

fn lines_with(output: &str, word: &str) -> String {
    let lines: Vec<&str> = output.lines().filter(|line| line.contains(word)).collect();
    lines.join("\n")
}

const LISTENERS: &str = r#"
allow_anonymous = true
[[listeners]]
address = "127.0.0.1:{second_port}"
protocol = "websocket"
[[listeners]]
address = "127.0.0.1:{port}"
"#;

/// Longer than `run.py` allows itself.
const RUN_MAX: Duration = Duration::from_secs(660);

/// The exit code of `run.py` when a client is not installed.
const MISSING: i32 = 3;
