//! A folder with an authority, a broker on a port of its own, and programs whose output is kept; all of them end with the test.

use std::cell::RefCell;
use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// An authority with the devices `gauge-7` and `watcher`.
pub(crate) struct World {
    folder: TempDir,
    port: u16,
}

/// A program and what it says.
pub(crate) struct Running {
    child: RefCell<Child>,
    log: PathBuf,
}

impl World {
    #[track_caller]
    pub(crate) fn new(init: &[&str]) -> Self {
        Self::made(init, "")
    }

    /// With more keys in the device's `config.toml`.
    #[track_caller]
    pub(crate) fn with_settings(settings: &str) -> Self {
        Self::made(&[], settings)
    }

    #[track_caller]
    fn made(init: &[&str], settings: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let world = Self {
            folder,
            port: free_port(),
        };
        let port = world.port;
        world.certs(&[&["init"], init].concat());
        world.certs(&["server", "localhost"]);
        let port = port.to_string();
        let file = world.text("more.toml");
        fs::write(&file, settings).unwrap();
        world.certs(&[
            "device",
            "gauge-7",
            "--esp",
            "--port",
            &port,
            "--esp-config",
            &file,
        ]);
        world.certs(&["device", "watcher"]);
        world
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir(&path).unwrap();
        path
    }

    #[track_caller]
    pub(crate) fn certs(&self, arguments: &[&str]) {
        let output = Command::new(program("NIGHTJAR_CERTS_BIN", "nightjar-certs"))
            .args(arguments)
            .current_dir(self.folder.path())
            .output()
            .expect("nightjar-certs can be started");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {complaint}");
    }

    pub(crate) fn broker(&self) -> Running {
        self.broker_with("localhost")
    }

    /// A broker that serves with the certificate of a name.
    #[track_caller]
    pub(crate) fn broker_with(&self, name: &str) -> Running {
        let certificates = self.path("certificates");
        let at = |file: &str| certificates.join(file).display().to_string();
        let text = format!(
            "http_listener = \"off\"\n\n[[listeners]]\naddress = [\"127.0.0.1:{port}\", \"[::1]:{port}\"]\n\n[listeners.tls]\n\
             certificate_file = \"{}\"\nkey_file = \"{}\"\nca_file = \"{}\"\ncrl_file = \"{}\"\nrequire_certificate = true\n\
             use_identity_as_username = true\n",
            at(&format!("servers/{name}.crt")),
            at(&format!("servers/{name}.key")),
            at("ca.crt"),
            at("ca.crl"),
            port = self.port
        );
        fs::write(self.path("nightjar.toml"), text).unwrap();
        let mut command = Command::new(program("NIGHTJAR_BIN", "nightjar"));
        command.args([
            "-c",
            &self.text("nightjar.toml"),
            "--data",
            &self.text("data"),
        ]);
        let broker = self.start(command, "broker");
        wait_for("the broker", || {
            let ended = broker.child.borrow_mut().try_wait();
            assert!(ended.unwrap().is_none(), "{}", broker.log());
            TcpStream::connect(("127.0.0.1", self.port)).is_ok()
        });
        broker
    }

    pub(crate) fn device(&self, arguments: &[&str]) -> Running {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nightjar-device"));
        command
            .arg(self.path("certificates/esp/gauge-7"))
            .args(arguments);
        self.start(command, "device")
    }

    /// Sees what is published from now on.
    #[track_caller]
    pub(crate) fn watch(&self, filter: &str) -> Running {
        let mut command = self.mosquitto("mosquitto_sub");
        command.args(["-v", "-q", "2", "-t", filter]);
        self.subscriber(command)
    }

    /// Sees everything, though the broker may be away at times.
    #[track_caller]
    pub(crate) fn watch_durably(&self, filter: &str) -> Running {
        let mut command = self.mosquitto("mosquitto_sub");
        command.args([
            "-v", "-q", "1", "-c", "-i", "watcher", "-V", "5", "-x", "3600", "-t", filter,
        ]);
        self.subscriber(command)
    }

    #[track_caller]
    pub(crate) fn publish(&self, topic: &str, payload: &str) {
        let mut command = self.mosquitto("mosquitto_pub");
        let output = command
            .args(["-q", "2", "-t", topic, "-m", payload])
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Waits until it has subscribed: `-d` says so.
    #[track_caller]
    fn subscriber(&self, mut command: Command) -> Running {
        command.arg("-d");
        let watcher = self.start(command, "watcher");
        wait_for("the subscription", || {
            watcher.log().contains("received SUBACK")
        });
        watcher
    }

    fn mosquitto(&self, program: &str) -> Command {
        // Line by line, though nobody reads it at a terminal.
        let mut command = Command::new("stdbuf");
        command.args(["-oL", program]);
        let certificates = self.path("certificates");
        command.args(["-h", "localhost", "-p", &self.port.to_string()]);
        for (option, file) in [
            ("--cafile", "ca.crt"),
            ("--cert", "devices/watcher.crt"),
            ("--key", "devices/watcher.key"),
        ] {
            command.arg(option).arg(certificates.join(file));
        }
        command
    }

    fn start(&self, mut command: Command, name: &str) -> Running {
        let log = (0..)
            .map(|number| self.path(&format!("{name}-{number}.log")))
            .find(|path| !path.exists())
            .unwrap();
        let out = File::create(&log).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Running {
            child: RefCell::new(child),
            log,
        }
    }
}

impl Running {
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap()).into_owned()
    }

    /// Its exit code.
    #[track_caller]
    pub(crate) fn wait(&self) -> i32 {
        let mut code = None;
        wait_for("the end of the program", || {
            code = self.child.borrow_mut().try_wait().unwrap();
            code.is_some()
        });
        code.and_then(|code| code.code()).unwrap_or(-1)
    }

    pub(crate) fn kill(&self) {
        self.child.borrow_mut().kill().unwrap();
        self.child.borrow_mut().wait().unwrap();
    }

    /// Asks it to end, as a person would, and waits until it has. One that has ended already is no matter.
    pub(crate) fn terminate(&self) {
        let id = self.child.borrow().id().to_string();
        let _ = Command::new("kill").args(["-TERM", &id]).status();
        wait_for("the end of a program that was asked to end", || {
            self.child.borrow_mut().try_wait().unwrap().is_some()
        });
    }

    pub(crate) fn reload(&self) {
        let reloads = || self.log().matches("Config reloaded.").count();
        let before = reloads();
        let id = self.child.borrow().id().to_string();
        assert!(
            Command::new("kill")
                .args(["-HUP", &id])
                .status()
                .unwrap()
                .success()
        );
        wait_for("the reload", || reloads() > before);
    }

    /// What it has printed of messages, up to a line that has `end` in it.
    #[track_caller]
    pub(crate) fn lines_until(&self, end: &str) -> Vec<String> {
        wait_for(end, || {
            self.messages().iter().any(|line| line.contains(end))
        });
        self.messages()
    }

    /// Without what `-d` adds.
    pub(crate) fn messages(&self) -> Vec<String> {
        let log = self.log();
        let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let is_message =
            |line: &&str| line.starts_with("devices/") || line.starts_with("consumer/");
        whole
            .lines()
            .filter(is_message)
            .map(str::to_owned)
            .collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let child = self.child.get_mut();
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Longer than anything takes on a busy machine.
#[track_caller]
#[expect(
    clippy::disallowed_methods,
    reason = "a test waits for other processes"
)]
pub(crate) fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "waited in vain for {what}"
        );
        sleep(Duration::from_millis(20));
    }
}

/// A loopback port that nobody has. It is not of the range that the system gives to outgoing connections: one of those could have it when
/// the broker wants it, and who tries to connect to it before that could even be connected to itself.
fn free_port() -> u16 {
    static COUNT: AtomicU16 = AtomicU16::new(0);
    // Tests of one process have different ones; those of others begin elsewhere.
    let first = u16::try_from(std::process::id() % 100).expect("it is below 100") * 40;
    loop {
        let port = 5_000 + (first + COUNT.fetch_add(1, Ordering::Relaxed)) % 4_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn program(variable: &str, name: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return path.into();
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target =
        std::env::var_os("NIGHTJAR_TARGET").map_or_else(|| root.join("target"), PathBuf::from);
    let built = ["debug", "release"].map(|profile| target.join(profile).join(name));
    let found = built.into_iter().find(|path| path.exists());
    found.unwrap_or_else(|| {
        panic!(
            "build the broker first: cargo build -p nightjar -p nightjar-certs, or set {variable}"
        )
    })
}
