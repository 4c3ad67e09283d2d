//! What the guide has a person type (`guide.sh`), at Mosquitto and here: its files unchanged, on Debian's paths and ports.
//!
//! Each broker is in a network of its own and sees its own `/etc/mosquitto`. What every command printed and how it ended is compared
//! word by word; of the brokers' logs, every line that Mosquitto writes.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::{TemporaryDirectory, binary, certs, program};

use crate::log::{self, Line};

#[test]
fn the_commands_of_the_guide_give_mosquittos_answers() {
    let Some(mosquitto) = program("mosquitto") else {
        return;
    };
    let Some(namespaces) = namespaces() else {
        return;
    };
    let directory = TemporaryDirectory::new("guide");
    make_open(directory.path());
    let certificates = directory.path().join("certificates");
    for arguments in [&["init"][..], &["server", "broker.example.com"]] {
        let output = Command::new(certs())
            .args(arguments)
            .arg("--dir")
            .arg(&certificates)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    // Each uses the password file that the other one's tool has made.
    let own_tool = format!("{} passwd", binary().display());
    let runs = [
        (mosquitto.as_path(), own_tool.as_str()),
        (binary(), "mosquitto_passwd"),
    ];
    let [theirs, ours] = std::thread::scope(|scope| {
        let threads = runs.map(|(broker, passwd)| {
            let (directory, certificates) = (directory.path(), &certificates);
            scope.spawn(move || play_guide(namespaces, broker, passwd, certificates, directory))
        });
        threads.map(|thread| thread.join().unwrap())
    });
    let names = |run: &BTreeMap<String, String>| run.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&theirs), names(&ours));
    assert!(theirs.len() > 40, "{theirs:#?}");
    for (name, said) in &theirs {
        match name.strip_prefix("broker-") {
            None => assert_eq!(lines(&ours[name]), lines(said), "{name}"),
            Some(_) => compare_logs(name, said, &ours[name]),
        }
    }
}

/// Without what they say of their insides; nothing may be warned of that Mosquitto does not warn of.
fn compare_logs(name: &str, theirs: &str, ours: &str) {
    assert!(theirs.ends_with("exit 0\n"), "{name}: {theirs}");
    assert!(ours.ends_with("exit 0\n"), "{name}: {ours}");
    let kinds = |log: &str| {
        // Of a connection whose handshake fails at once Mosquitto says no more than that.
        let is_told = |kind: &String| !name.ends_with("-tls.log") || !kind.starts_with("New conn");
        let kinds = log::lines(log).filter_map(Line::kind).filter(is_told);
        let mut kinds: Vec<String> = kinds.collect();
        // Whose end is noticed first is not settled.
        kinds.sort();
        kinds
    };
    let (their_kinds, our_kinds) = (kinds(theirs), kinds(ours));
    assert!(their_kinds.len() > 5, "{name}: {theirs}");
    assert_eq!(our_kinds, their_kinds, "{name}:\n{theirs}\n{ours}");
    for line in ours.lines().filter(|line| line.contains("Warning: ")) {
        let deserved = [
            // What this is played on, and by whom.
            " is on tmpfs: ",
            "The broker runs as root.",
        ];
        let deserved = deserved.iter().any(|words| line.contains(words));
        assert!(deserved, "{name}: {line}");
    }
    assert!(!ours.contains("Error: "), "{name}: {ours}");
}

/// Where a question ends and the complaint begins is a matter of taste.
fn lines(said: &str) -> Vec<String> {
    let said = said.replace("password: Error", "password: \nError");
    said.lines()
        .map(|line| line.trim_end().to_owned())
        .filter(|line| !line.is_empty())
        .collect()
}

/// What every step said, by its name.
fn play_guide(
    namespaces: &[&str],
    broker: &Path,
    passwd: &str,
    certificates: &Path,
    directory: &Path,
) -> BTreeMap<String, String> {
    let name = broker.file_name().unwrap().to_str().unwrap();
    let out = directory.join(name);
    make_open(&out);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("interop");
    let output = Command::new("timeout")
        .args(["--kill-after", "5", "90", "unshare"])
        .args(namespaces)
        .arg(folder.join("mosquitto/guide.sh"))
        .arg(broker)
        .arg(passwd)
        .arg(folder.join("configs/guide"))
        .args([certificates, &out])
        .output()
        .unwrap();
    assert!(output.status.success(), "{name}: {output:?}");
    let read = |path: PathBuf| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
    fs::read_dir(&out)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), read(entry.path())))
        .collect()
}

/// What `unshare` needs to be told to make them; or a loud way out.
fn namespaces() -> Option<&'static [&'static str]> {
    const ROOT: &[&str] = &["--mount", "--net", "--pid", "--fork", "--kill-child"];
    const ANYBODY: &[&str] = &[
        "--map-root-user",
        "--mount",
        "--net",
        "--pid",
        "--fork",
        "--kill-child",
    ];
    let works = |options: &&&[&str]| {
        let script = "ip link set lo up && mount -t tmpfs none /run && stdbuf -oL true";
        let mut command = Command::new("unshare");
        command.args(**options).args(["sh", "-c", script]);
        command.output().is_ok_and(|output| output.status.success())
    };
    let found = [ROOT, ANYBODY].iter().find(works).copied();
    if found.is_none() {
        assert!(
            std::env::var_os("CI").is_none(),
            "unshare, ip and user namespaces are needed where CI is set"
        );
        eprintln!("SKIPPED: without `unshare --mount --net` the guide cannot be played.");
    }
    found
}

/// Whoever the broker becomes may look there.
fn make_open(path: &Path) {
    fs::create_dir(path).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}
