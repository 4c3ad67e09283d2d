//! `compare` with real brokers that it starts itself, and what becomes of them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use clap::Parser;
use nightjar_loadtest::arguments::{Arguments, Command as Subcommand};
use nightjar_loadtest::compare::file::Plan;

#[test]
fn two_brokers_are_compared_in_turns() {
    let result = compare(
        r#"
title = "two"
rounds = 2
[[broker]]
name = "ours"
command = "'{ours}' -p {port} -q"
version = "'{ours}' --version"
[[broker]]
name = "mosquitto"
builtin = "mosquitto"
[[work]]
name = "stream"
run = "pubsub -P 2 -q 1 --warmup 0.1 -d 0.2 --rounds 1"
goal = { received = 0.0001 }
[[work]]
name = "queue"
run = "offline -n 500"
"#,
    );
    assert!(
        result.text.contains("| stream | received, msg/s |"),
        "{}",
        result.text
    );
    assert!(result.text.contains(": reached"), "{}", result.text);
    assert!(result.text.contains("- ours: nightjar"), "{}", result.text);
    // Neither void nor failed.
    assert!(
        !result.text.contains("void") && !result.text.contains("failed"),
        "{}",
        result.text
    );
    assert!(
        result.page.contains("<rect class=\"bar c1\""),
        "no bars in the page"
    );
}

#[test]
fn a_broker_that_loses_messages_has_a_void_row() {
    let result = compare(
        r#"
title = "void"
rounds = 1
[[broker]]
name = "forgetful"
builtin = "mosquitto"
config = "max_queued_messages 10"
[[work]]
name = "queue"
run = "offline -n 5000 --in-flight 5 --stall 2"
"#,
    );
    assert!(result.text.contains("forgetful: void"), "{}", result.text);
    assert!(result.text.contains("| void |"), "{}", result.text);
}

#[test]
fn the_relay_shows_the_ceiling_of_every_kind_of_row() {
    let result = compare(
        r#"
title = "ceiling"
rounds = 1
arguments = "--warmup 0.1 -d 0.2 --rounds 1"
[[broker]]
name = "relay"
builtin = "relay"
[[work]]
name = "pairs"
run = "pubsub -P 10 -q 0 --payload 1024"
[[work]]
name = "out"
run = "fan-out -S 20 -q 1"
[[work]]
name = "in"
run = "fan-in -P 20 -q 1"
"#,
    );
    for work in ["pairs", "out", "in"] {
        let row = format!("| {work} | received, msg/s |");
        assert!(result.text.contains(&row), "{}", result.text);
    }
    assert!(!result.text.contains("void"), "{}", result.text);
}

#[test]
fn a_broker_that_does_not_start_is_told() {
    let file = write(
        "title = \"t\"\nrounds = 1\n[[broker]]\nname = \"none\"\ncommand = \"false {port}\"\n[[work]]\nname = \"w\"\nrun = \"pubsub\"\n",
    );
    let output = command(&file).output().unwrap();
    std::fs::remove_file(&file).unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("none does not listen"), "{text}");
}

/// A broker that is killed is started by the work itself, with what the file says of it; one that forgets is told so.
#[test]
fn a_broker_is_killed_in_a_comparison() {
    let result = compare(
        r#"
title = "killed"
rounds = 1
[[broker]]
name = "keeps"
builtin = "nightjar"
config = """
persistence = true
data_directory = "{dir}"
"""
[[broker]]
name = "forgets"
builtin = "mosquitto"
[[work]]
name = "kill"
run = "durable -P 5 -n 3000 --kills 2"
"#,
    );
    assert!(
        result.text.contains("| kill | enqueue, msg/s |"),
        "{}",
        result.text
    );
    assert!(result.text.contains("forgets: void"), "{}", result.text);
    assert!(
        !result.text.contains("keeps: void") && !result.text.contains("failed"),
        "{}",
        result.text
    );
}

/// What ships must be readable, and every line of it a command that the generator takes.
#[test]
fn the_shipped_scenarios_are_valid() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut count = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let plan = Plan::read(&entry.unwrap().path()).unwrap();
        for work in &plan.work {
            let words = nightjar_loadtest::compare::file::words(&work.run).unwrap();
            let words = ["nightjar-loadtest".to_owned()].into_iter().chain(words);
            let arguments = Arguments::try_parse_from(words)
                .unwrap_or_else(|error| panic!("{}: {error}", work.name));
            assert!(!matches!(
                arguments.command,
                Subcommand::Compare(_) | Subcommand::Relay(_)
            ));
        }
        count += 1;
    }
    assert!(count >= 2);
}

struct Compared {
    text: String,
    page: String,
}

/// Runs it once and reads what it prints and writes.
fn compare(plan: &str) -> Compared {
    let ours = harness::binary().display().to_string();
    let file = write(&plan.replace("{ours}", &ours));
    let page = file.with_extension("html");
    let output = command(&file).arg("--html").arg(&page).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{errors}{text}");
    let compared = Compared {
        text,
        page: std::fs::read_to_string(&page).unwrap(),
    };
    for path in [&file, &page] {
        std::fs::remove_file(path).unwrap();
    }
    compared
}

fn command(file: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nightjar-loadtest"));
    command.arg("compare").arg(file);
    command
}

fn write(plan: &str) -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("nightjar-compare-{}-{number}.toml", std::process::id());
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, plan).unwrap();
    path
}
