//! The files that people have: each starts a broker, without a warning that it has not deserved, and serves.

use std::cell::Cell;
use std::fmt::Write;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::{Broker, Client, TemporaryDirectory, binary};

use crate::started::{Verdict, free_port, nightjar, stderr, try_to_start};

/// What a file is warned of, where it has deserved it; no name is any file.
const DESERVED: &[(&str, &str)] = &[
    // It asks for it.
    ("home-assistant-addon.conf", "runs as root"),
    // A machine in a box has no syslog.
    ("openhab-1.x.conf", "Syslog cannot be reached"),
    // Another test's broker has the port of the metrics.
    ("", "127.0.0.1:9884"),
];

#[test]
fn every_file_that_people_have_starts_without_an_undeserved_warning() {
    for name in names() {
        let moved = Moved::new(&name);
        let checked = nightjar(&["--test-config", "-c", moved.text()]);
        let said = String::from_utf8_lossy(&checked.stdout).into_owned();
        assert!(checked.status.success(), "{name}: {}", stderr(&checked));
        let warnings = said.lines().filter(|line| line.starts_with("Warning: "));
        for warning in warnings {
            let deserved = DESERVED
                .iter()
                .any(|(file, text)| *file == name && warning.contains(text));
            assert!(deserved, "{name}: {warning}");
        }
        match try_to_start(binary(), &moved.main, moved.port.get()) {
            Verdict::Runs { log } => {
                for warning in log.lines().filter(|line| line.contains("Warning: ")) {
                    let deserved = DESERVED.iter().any(|(file, text)| {
                        (file.is_empty() || *file == name) && warning.contains(text)
                    });
                    assert!(deserved, "{name}: {warning}");
                }
            }
            Verdict::Refused { code, log } => panic!("{name}: exit {code:?}\n{log}"),
        }
    }
}

/// `config migrate` writes a file that the broker takes, too, and that says the same of itself.
#[test]
fn every_file_that_people_have_can_be_migrated() {
    for name in names() {
        let moved = Moved::new(&name);
        let migrated = nightjar(&["config", "migrate", moved.text()]);
        assert!(migrated.status.success(), "{name}: {}", stderr(&migrated));
        let toml = moved.directory.path().join("nightjar.toml");
        fs::write(&toml, &migrated.stdout).unwrap();
        let show = |file: &str| {
            let shown = nightjar(&["config", "show", "-c", file]);
            assert!(shown.status.success(), "{name}: {}", stderr(&shown));
            let text = String::from_utf8(shown.stdout).unwrap();
            let values = text.lines().filter(|line| !line.starts_with('#'));
            let values = values.map(|line| line.split(" # ").next().unwrap_or_default().trim_end());
            values.collect::<Vec<_>>().join("\n")
        };
        assert_eq!(show(moved.text()), show(toml.to_str().unwrap()), "{name}");
    }
}

#[test]
fn a_quick_start_file_serves_its_first_client() {
    let text = "listener {port} 127.0.0.1 # here\nallow_anonymous true\n";
    let mut broker = Broker::options().mosquitto_conf(text).start();
    let mut client = Client::connect_v5(&broker, "first", "");
    client.expect_nothing_until_pingresp();
    broker.wait_for_log("Config loaded from ");
    broker.wait_for_log(" running");
    assert!(!broker.log().contains("local only"), "{}", broker.log());
    assert_eq!(broker.terminate().code(), Some(0));
}

/// The names of the files, or of directories with several.
fn names() -> Vec<String> {
    let entries = fs::read_dir(configs()).expect("tests/interop/configs is there");
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert!(names.len() >= 12, "{names:?}");
    names
}

fn configs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("interop/configs")
}

/// A copy whose ports are free, and whose absolute paths lead into a directory of its own.
struct Moved {
    directory: TemporaryDirectory,
    main: PathBuf,
    /// Of the first listener.
    port: Cell<u16>,
}

impl Moved {
    fn new(name: &str) -> Self {
        let directory = TemporaryDirectory::new("configs");
        let source = configs().join(name);
        let moved = Self {
            main: directory.path().join("mosquitto.conf"),
            directory,
            port: Cell::new(0),
        };
        make_directory(moved.directory.path());
        if source.is_dir() {
            moved.copy(&source.join("mosquitto.conf"), &moved.main);
            let included = moved.directory.path().join("etc/mosquitto/conf.d");
            make_directory(&included);
            for entry in fs::read_dir(source.join("conf.d")).unwrap() {
                let entry = entry.unwrap();
                moved.copy(&entry.path(), &included.join(entry.file_name()));
            }
            fs::copy(
                source.join("acl"),
                moved.directory.path().join("etc/mosquitto/acl"),
            )
            .unwrap();
        } else {
            moved.copy(&source, &moved.main);
        }
        moved
    }

    fn text(&self) -> &str {
        self.main.to_str().unwrap()
    }

    fn copy(&self, from: &Path, to: &Path) {
        let mut text = String::new();
        for line in fs::read_to_string(from).unwrap().lines() {
            let words: Vec<String> = match line.starts_with('#') {
                true => vec![line.to_owned()],
                false => line
                    .split(' ')
                    .enumerate()
                    .map(|(at, word)| self.word(line, at, word))
                    .collect(),
            };
            writeln!(text, "{}", words.join(" ")).unwrap();
        }
        // A file without a listener would take Mosquitto's own port.
        if from.ends_with("debian.conf") {
            writeln!(text, "listener {} 127.0.0.1", self.new_port()).unwrap();
        }
        fs::write(to, text).unwrap();
    }

    fn new_port(&self) -> u16 {
        let port = free_port();
        if self.port.get() == 0 {
            self.port.set(port);
        }
        port
    }

    fn word(&self, line: &str, at: usize, word: &str) -> String {
        let option = line.split(' ').next().unwrap_or_default();
        if at == 1 && ["listener", "port"].contains(&option) && word != "0" {
            return self.new_port().to_string();
        }
        if !word.starts_with('/') || option.ends_with("plugin") {
            return word.to_owned();
        }
        let path = self.directory.path().join(word.trim_start_matches('/'));
        if option == "include_dir" || option == "persistence_location" || option == "http_dir" {
            make_directory(&path);
        } else {
            make_directory(path.parent().unwrap());
        }
        if ["password_file", "plugin_opt_password_file"].contains(&option) {
            let done = Command::new(binary())
                .args(["passwd", "-c", "-b"])
                .arg(&path)
                .args(["gw_123", "geheim"])
                .output()
                .unwrap();
            assert!(done.status.success(), "{done:?}");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            // Whom a broker that is started as root becomes; who is not root stays who he is.
            let owner = ["mosquitto", "nobody"].iter().find(|owner| {
                let mut chown = Command::new("chown");
                let output = chown.arg(owner).arg(&path).output();
                output.is_ok_and(|output| output.status.success())
            });
            assert!(owner.is_some() || !rustix::process::geteuid().is_root());
        }
        if ["acl_file", "plugin_opt_acl_file"].contains(&option) && !path.exists() {
            fs::write(&path, "topic readwrite open/#\nuser gw_123\ntopic #\n").unwrap();
        }
        path.to_str().unwrap().to_owned()
    }
}

/// Whoever the broker becomes may write there.
fn make_directory(path: &Path) {
    fs::create_dir_all(path).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
}
