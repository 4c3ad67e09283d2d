//! Devices with certificates, as a broker process and the clients of Mosquitto see them: what `nightjar-certs` makes, from both languages
//! of configuration.

mod attacks;
mod forger;
mod guest;
mod matrix;
mod stalled;
mod swaps;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use harness::{Broker, TemporaryDirectory, certs};
use rustix::process::{Pid, Signal, kill_process};

#[test]
fn a_device_is_let_in_by_its_certificate_under_its_id() {
    for language in [Language::Toml, Language::MosquittoConf] {
        let mut world = World::new(language);
        for version in VERSIONS {
            let output = world.publish(version, Some("devices/gauge-7"));
            assert!(output.status.success(), "{version}: {output:?}");
        }
        world.broker.wait_for_log("u'gauge-7'");
    }
}

#[test]
fn t6_who_has_no_certificate_or_somebody_elses_is_refused_with_a_reason() {
    let other = Authority::new("other");
    for language in [Language::Toml, Language::MosquittoConf] {
        for version in VERSIONS {
            let mut world = World::new(language);
            let refused = [
                (None, "sent no certificates"),
                (Some("servers/localhost".into()), "extended key usage"),
                (Some(other.text("devices/gauge-7")), "UnknownIssuer"),
            ];
            for (client, reason) in refused {
                let output = world.publish(version, client.as_deref());
                assert!(!output.status.success(), "{version} {client:?}");
                world.broker.wait_for_log(reason);
            }
            assert!(!world.broker.log().contains("New client connected"));
        }
    }
}

#[test]
fn t6_a_device_that_is_revoked_is_refused_after_a_reload_and_the_others_are_not() {
    for language in [Language::Toml, Language::MosquittoConf] {
        let mut world = World::new(language);
        world.authority.run(&["device", "gauge-8"]);
        world.authority.run(&["revoke", "gauge-7"]);
        world.reload();
        for version in VERSIONS {
            let output = world.publish(version, Some("devices/gauge-7"));
            assert!(!output.status.success(), "{version}");
            let output = world.publish(version, Some("devices/gauge-8"));
            assert!(output.status.success(), "{version}: {output:?}");
        }
        world.broker.wait_for_log("Revoked");
        assert!(!world.broker.log().contains("u'gauge-7'"));
    }
}

#[test]
fn t6_a_session_of_tls_that_a_revoked_device_resumes_is_refused() {
    for version in ["tls1_2", "tls1_3"] {
        let mut world = World::new(Language::Toml);
        // CONNECT as `gauge-7`, and then the end of what is sent: the broker answers and says no more.
        let connect = b"\x10\x13\x00\x04MQTT\x04\x02\x00\x3c\x00\x07gauge-7";
        let session = world.authority.text("session");
        let first = world.s_client(version, &["-sess_out", &session], connect);
        world.broker.wait_for_log("u'gauge-7'");
        assert!(first.contains("\nNew, "), "{first}");
        let second = world.s_client(version, &["-sess_in", &session], connect);
        assert!(second.contains("\nReused, "), "{second}");
        world.authority.run(&["revoke", "gauge-7"]);
        world.reload();
        let third = world.s_client(version, &["-sess_in", &session], connect);
        world.broker.wait_for_log("Revoked");
        let log = world.broker.log();
        assert_eq!(log.matches("u'gauge-7'").count(), 2, "{third}\n{log}");
    }
}

#[derive(Clone, Copy)]
enum Language {
    Toml,
    MosquittoConf,
}

const VERSIONS: [&str; 2] = ["tlsv1.2", "tlsv1.3"];

/// An authority with a server localhost and a device gauge-7.
struct Authority(TemporaryDirectory);

impl Authority {
    fn new(name: &str) -> Self {
        let authority = Self(TemporaryDirectory::new(name));
        authority.run(&["init"]);
        authority.run(&["server", "localhost"]);
        authority.run(&["device", "gauge-7"]);
        authority
    }

    #[track_caller]
    fn run(&self, arguments: &[&str]) {
        let output = Command::new(certs())
            .args(arguments)
            .args(["--dir", self.0.text()])
            .output()
            .expect("nightjar-certs can be run");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        format!("{}/{name}", self.0.text())
    }
}

struct World {
    authority: Authority,
    broker: Broker,
}

impl World {
    fn new(language: Language) -> Self {
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

    /// `mosquitto_pub`, by a version of TLS, with a certificate and its key.
    fn publish(&self, version: &str, client: Option<&str>) -> Output {
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

    /// What `openssl s_client` says, as gauge-7, when it sends these bytes and then ends.
    fn s_client(&self, version: &str, arguments: &[&str], bytes: &[u8]) -> String {
        let input = self.authority.path("input");
        fs::write(&input, bytes).expect("the directory is ours");
        // The input stays open for a moment after its bytes: what is answered, a ticket too, has to arrive first.
        let script = "(cat \"$0\"; sleep 1) | timeout 20 openssl s_client \"$@\"";
        let output = Command::new("sh")
            .args(["-c", script])
            .arg(&input)
            .arg(format!("-{version}"))
            .args(["-no_ign_eof", "-connect"])
            .arg(format!("127.0.0.1:{}", self.broker.port))
            .arg("-CAfile")
            .arg(self.authority.path("ca.crt"))
            .arg("-cert")
            .arg(self.authority.path("devices/gauge-7.crt"))
            .arg("-key")
            .arg(self.authority.path("devices/gauge-7.key"))
            .args(arguments)
            .output()
            .expect("openssl is installed");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    #[track_caller]
    fn reload(&mut self) {
        reload(&mut self.broker, 1);
    }
}

/// A number of the environment: the full size of a test that CI runs smaller.
fn number(name: &str, usual: usize) -> usize {
    let text = std::env::var(name).ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// Asks for a reload, which is the broker's `number`th, and waits for it.
#[track_caller]
fn reload(broker: &mut Broker, number: usize) {
    let process_id = broker.process_id().expect("the broker is ours");
    let process_id = i32::try_from(process_id).ok().and_then(Pid::from_raw);
    kill_process(process_id.expect("it is a process id"), Signal::HUP)
        .expect("our child can be signalled");
    let is_done = || broker.log().matches("Config reloaded").count() >= number;
    harness::wait_until("the broker has reloaded", Duration::from_secs(20), is_done);
}
