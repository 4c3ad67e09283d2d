//! The official image's way: its file, and who the process becomes by its environment.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use harness::{Broker, Client, TemporaryDirectory, binary};
use rustix::process::geteuid;

/// The user and group of a process, each four times: real, effective, saved and for files.
fn identity(process_id: u32) -> (Vec<u32>, Vec<u32>, String) {
    let status = fs::read_to_string(format!("/proc/{process_id}/status")).unwrap();
    let line = |name: &str| {
        let found = status.lines().find_map(|line| line.strip_prefix(name));
        found.expect("Linux tells it").trim().to_owned()
    };
    let numbers = |text: &str| text.split('\t').map(|id| id.parse().unwrap()).collect();
    (
        numbers(&line("Uid:")),
        numbers(&line("Gid:")),
        line("Groups:"),
    )
}

#[test]
fn puid_and_pgid_are_who_it_becomes_and_umask_set_is_what_files_are_made_with() {
    if !geteuid().is_root() {
        eprintln!("SKIPPED: only root can become somebody else.");
        return;
    }
    let directory = TemporaryDirectory::new("image");
    fs::create_dir(directory.path()).unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let log = directory.path().join("mosquitto.log");
    let text = format!(
        "user mosquitto\nlistener {{port}} 127.0.0.1\nallow_anonymous true\npersistence true\npersistence_location {}\n\
         log_dest file {}\nlog_dest stderr\n",
        directory.text(),
        log.display()
    );
    for (group, expected) in [(Some("4322"), 4322), (None, 4321)] {
        let mut options = Broker::options()
            .mosquitto_conf(&text)
            .environment("PUID", "4321")
            .environment("UMASK_SET", "0077");
        if let Some(group) = group {
            options = options.environment("PGID", group);
        }
        let mut broker = options.start();
        Client::connect_v4(&broker, "one").expect_nothing_until_pingresp();
        let told = identity(broker.process_id().unwrap());
        assert_eq!(
            told,
            (vec![4321; 4], vec![expected; 4], expected.to_string())
        );
        for file in [log.clone(), directory.path().join("nightjar.redb")] {
            let metadata = fs::metadata(&file).unwrap();
            assert_eq!(metadata.uid(), 4321, "{}", file.display());
            let mode = metadata.permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{}", file.display());
        }
        assert_eq!(broker.terminate().code(), Some(0));
        for file in [log.clone(), directory.path().join("nightjar.redb")] {
            fs::remove_file(file).unwrap();
        }
    }
    let config = directory.path().join("mosquitto.conf");
    let listener = format!("listener 0 {}/mqtt.sock\n", directory.text());
    fs::write(&config, listener).unwrap();
    for (name, value) in [
        ("PUID", "x"),
        ("PUID", "-1"),
        ("PUID", "4294967296"),
        ("UMASK_SET", "8"),
    ] {
        let output = Command::new(binary())
            .arg("-c")
            .arg(&config)
            .env(name, value)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_ne!(output.status.code(), Some(0), "{name}={value}: {said}");
        assert!(said.contains(name), "{name}={value}: {said}");
    }
}
