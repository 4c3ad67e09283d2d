//! An authority as `nightjar-certs` makes it, a broker that serves with it, and clients.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use harness::{Broker, PATIENCE, TemporaryDirectory, certs};

#[derive(Clone, Copy)]
pub(crate) enum Language {
    Toml,
    MosquittoConf,
}

pub(crate) const VERSIONS: [&str; 2] = ["tlsv1.2", "tlsv1.3"];

/// An authority with a server localhost and a device gauge-7.
pub(crate) struct Authority(TemporaryDirectory);

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let authority = Self(TemporaryDirectory::new(name));
        authority.run(&["init"]);
        authority.run(&["server", "localhost"]);
        authority.run(&["device", "gauge-7"]);
        authority
    }

    #[track_caller]
    pub(crate) fn run(&self, arguments: &[&str]) {
        let output = Command::new(certs())
            .args(arguments)
            .args(["--dir", self.0.text()])
            .output()
            .expect("nightjar-certs can be run");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }

    /// Serial numbers as the index has them, oldest first.
    pub(crate) fn serials(&self) -> Vec<String> {
        let index = fs::read_to_string(self.path("index.jsonl")).expect("there is an index");
        let serial = |line: &str| {
            let entry: serde_json::Value = serde_json::from_str(line).expect("it is JSON");
            entry["serial"].as_str().expect("it has one").to_owned()
        };
        index.lines().map(serial).collect()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        format!("{}/{name}", self.0.text())
    }
}

pub(crate) struct World {
    pub(crate) authority: Authority,
    pub(crate) broker: Broker,
}

impl World {
    pub(crate) fn new(language: Language) -> Self {
        let authority = Authority::new("authority");
        let options = Broker::options();
        let options = match language {
            Language::Toml => {
                let text = fs::read_to_string(authority.path("nightjar.toml"))
                    .expect("the tool writes a configuration");
                let everywhere = "address = [\"0.0.0.0:8883\", \"[::]:8883\"]";
                assert!(text.contains(everywhere), "{text}");
                options.toml(&text.replace(everywhere, "address = \"127.0.0.1:{port}\""))
            }
            // Who starts it as root gets another user by default, who could not read the keys at a reload.
            Language::MosquittoConf => options.mosquitto_conf(&format!(
                "user root\nlistener {{port}} 127.0.0.1\ncafile {}\ncertfile {}\nkeyfile {}\ncrlfile {}\nrequire_certificate true\nuse_identity_as_username true\n",
                authority.text("ca.crt"),
                authority.text("servers/localhost.crt"),
                authority.text("servers/localhost.key"),
                authority.text("ca.crl"),
            )),
        };
        let broker = options.start();
        Self { authority, broker }
    }

    /// The configuration of the tool, with more keys of `[listeners.tls]` and more of everything behind a line `---`.
    pub(crate) fn toml(more: &str) -> Self {
        Self::of(Authority::new("authority"), "", more)
    }

    /// The same, with more keys of `[[listeners]]`.
    pub(crate) fn of(authority: Authority, keys: &str, more: &str) -> Self {
        let text = fs::read_to_string(authority.path("nightjar.toml"))
            .expect("the tool writes a configuration");
        let everywhere = "address = [\"0.0.0.0:8883\", \"[::]:8883\"]";
        assert!(text.contains(everywhere), "{text}");
        let text = text.replace(
            everywhere,
            &format!("address = \"127.0.0.1:{{port}}\"\n{keys}"),
        );
        let (tls, rest) = more.split_once("---").unwrap_or((more, ""));
        let text = format!("http_listener = \"127.0.0.1:0\"\n{rest}\n{text}\n{tls}\n");
        let broker = Broker::options().toml(&text).start();
        Self { authority, broker }
    }

    /// A client that stays, with this certificate and client id, when the broker has let it in.
    #[track_caller]
    pub(crate) fn subscriber(&mut self, certificate: &str, client_id: &str) -> Subscriber {
        let file = |end: &str| self.authority.path(&format!("{certificate}.{end}"));
        let child = Command::new("mosquitto_sub")
            .args([
                "-h",
                "localhost",
                "-t",
                "a/#",
                "-V",
                "5",
                "-i",
                client_id,
                "-p",
            ])
            .arg(self.broker.port.to_string())
            .arg("--cafile")
            .arg(self.authority.path("ca.crt"))
            .arg("--cert")
            .arg(file("crt"))
            .arg("--key")
            .arg(file("key"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("mosquitto_sub is installed");
        let subscriber = Subscriber(child);
        self.broker.wait_for_log(&format!(" as {client_id} ("));
        subscriber
    }

    /// The sum of the numbers with these labels, and maybe others: `name{label="x"}`.
    #[track_caller]
    pub(crate) fn metric(&mut self, name: &str) -> u64 {
        self.broker.wait_for_log(" running");
        let log = self.broker.log();
        let (_, rest) = log
            .split_once("Opening http listen socket on ")
            .expect("the log says where");
        let address = rest.lines().next().unwrap_or_default();
        let mut stream = TcpStream::connect(address.trim_end_matches('.')).expect("it listens");
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: nightjar\r\n\r\n")
            .expect("it reads");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("it answers");
        let (name, labels) = name.split_once('{').unwrap_or((name, ""));
        let labels = labels.trim_end_matches('}').split(',');
        let values: Vec<u64> = text
            .lines()
            .filter(|line| {
                let rest = line.strip_prefix(name);
                let is_it = rest.is_some_and(|rest| rest.starts_with(['{', ' ']));
                is_it && labels.clone().all(|label| line.contains(label))
            })
            .filter_map(|line| line.rsplit_once(' ')?.1.parse().ok())
            .collect();
        assert!(!values.is_empty(), "no {name} in {text}");
        values.iter().sum()
    }

    /// Waits until `metric` is so much, and says what it is where it is not.
    #[track_caller]
    pub(crate) fn wait_for_metric(&mut self, name: &str, expected: u64) {
        let mut last = 0;
        let deadline = harness::now() + PATIENCE;
        while harness::now() < deadline {
            last = self.metric(name);
            if last == expected {
                return;
            }
        }
        assert_eq!(last, expected, "{name}");
    }

    /// The SHA-256 of the certificate that the server shows.
    pub(crate) fn server_fingerprint(&self) -> String {
        let script = "timeout 20 openssl s_client -connect \"$0\" </dev/null 2>/dev/null | openssl x509 -noout -fingerprint -sha256";
        let output = Command::new("sh")
            .args(["-c", script])
            .arg(format!("127.0.0.1:{}", self.broker.port))
            .output()
            .expect("openssl is installed");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// `mosquitto_pub`, by a version of TLS, with a certificate and its key.
    pub(crate) fn publish(&self, version: &str, client: Option<&str>) -> Output {
        let mut command = Command::new("timeout");
        command
            .args(["20", "mosquitto_pub", "-h", "localhost", "-q", "1"])
            .args(["-t", "a/b", "-m", "hello", "--tls-version", version, "-p"])
            .arg(self.broker.port.to_string())
            .arg("--cafile")
            .arg(self.authority.path("ca.crt"));
        if let Some(client) = client {
            // An absolute path stays one.
            command
                .arg("--cert")
                .arg(self.authority.path(&format!("{client}.crt")))
                .arg("--key")
                .arg(self.authority.path(&format!("{client}.key")));
        }
        command.output().expect("mosquitto_pub is installed")
    }

    /// What `openssl s_client` says, as gauge-7, when it sends these bytes and ends when that is enough.
    pub(crate) fn s_client(
        &self,
        version: &str,
        arguments: &[&str],
        bytes: &[u8],
        is_enough: impl Fn(&str) -> bool,
    ) -> String {
        let own = [
            "-connect",
            &format!("127.0.0.1:{}", self.broker.port),
            "-cert",
            &self.authority.text("devices/gauge-7.crt"),
            "-key",
            &self.authority.text("devices/gauge-7.key"),
        ];
        self.s_client_with(version, &[&own, arguments].concat(), bytes, is_enough)
    }

    /// The same of somebody else, or elsewhere.
    pub(crate) fn s_client_with(
        &self,
        version: &str,
        arguments: &[&str],
        bytes: &[u8],
        is_enough: impl Fn(&str) -> bool,
    ) -> String {
        let mut command = Command::new("timeout");
        command
            .args(["40", "openssl", "s_client"])
            .arg(format!("-{version}"))
            .args(["-no_ign_eof", "-CAfile"])
            .arg(self.authority.path("ca.crt"))
            .args(arguments);
        talk(&mut command, bytes, is_enough)
    }

    /// `mosquitto_pub` as gauge-7, with further arguments.
    pub(crate) fn publish_with(&self, arguments: &[&str]) -> Output {
        let message: &[&str] = if arguments.contains(&"-m") {
            &[]
        } else {
            &["-m", "hello"]
        };
        Command::new("timeout")
            .args(["20", "mosquitto_pub", "-h", "localhost", "-q", "1"])
            .args(["-t", "a/b", "-p"])
            .arg(self.broker.port.to_string())
            .arg("--cafile")
            .arg(self.authority.path("ca.crt"))
            .arg("--cert")
            .arg(self.authority.path("devices/gauge-7.crt"))
            .arg("--key")
            .arg(self.authority.path("devices/gauge-7.key"))
            .args(message)
            .args(arguments)
            .output()
            .expect("mosquitto_pub is installed")
    }

    #[track_caller]
    pub(crate) fn reload(&mut self) {
        crate::reload(&mut self.broker, 1);
    }
}

/// What a program says that is given these bytes. Its input stays open until it has said enough, or ends by itself: what is answered, a
/// ticket of TLS too, has to arrive first.
#[track_caller]
pub(crate) fn talk(
    command: &mut Command,
    bytes: &[u8],
    is_enough: impl Fn(&str) -> bool,
) -> String {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("openssl is installed");
    let mut input = child.stdin.take();
    // Who is refused may be gone already.
    let _ = input.as_mut().expect("it is piped").write_all(bytes);
    let mut output = child.stdout.take().expect("it is piped");
    let (mut said, mut piece) = (Vec::new(), [0; 4096]);
    while let Ok(count @ 1..) = output.read(&mut piece) {
        said.extend(&piece[..count]);
        if is_enough(&String::from_utf8_lossy(&said)) {
            input = None;
        }
    }
    drop(input);
    child.wait().expect("a child ends");
    String::from_utf8_lossy(&said).into_owned()
}

/// CONNACK of 3.1.1 with success is among what was said.
pub(crate) fn is_accepted(said: &str) -> bool {
    said.contains(" \x02\0\0")
}

/// A process of `mosquitto_sub`; dropping it kills it.
pub(crate) struct Subscriber(Child);

impl Drop for Subscriber {
    fn drop(&mut self) {
        // One that has ended cannot be killed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
