//! Real clients with certificates that `nightjar-certs` made: mosquitto_pub and mosquitto_sub, paho, and mqtt.js, over TCP and WebSocket, TLS 1.2
//! and 1.3. Who has a good one comes in by its name; who has none, or a revoked one, does not, and the log says why.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use harness::{Broker, TemporaryDirectory, certs};

#[test]
fn mosquitto_pub_and_sub_come_in_by_their_certificates() {
    let mut world = World::new();
    for (number, version) in ["tlsv1.2", "tlsv1.3"].into_iter().enumerate() {
        let topic = format!("m/{number}");
        let come = |program: &str, client: Option<&str>, more: &[&str]| {
            let mut command = world.command(program, client, &["--cert", "--key"]);
            command
                .args(["-h", "localhost", "-p", &world.broker.port.to_string()])
                .arg("--cafile")
                .arg(world.path("ca.crt"))
                .args(["--tls-version", version, "-q", "1", "-t", &topic])
                .args(more);
            world.run(command)
        };
        let sent = come("mosquitto_pub", Some("gauge-7"), &["-r", "-m", "hello"]);
        assert!(sent.status.success(), "{sent:?}");
        let received = come("mosquitto_sub", Some("gauge-7"), &["-C", "1", "-W", "10"]);
        assert_eq!(received.stdout, b"hello\n", "{received:?}");
        for client in [None, Some("gauge-8")] {
            let refused = come("mosquitto_pub", client, &["-m", "hello"]);
            assert!(!refused.status.success(), "{client:?}");
        }
    }
    world.broker.wait_for_log("u'gauge-7'");
    world.expect_refusals(4);
}

#[test]
fn paho_and_mqtt_js_come_in_by_their_certificates_over_tcp_and_web_socket() {
    let mut world = World::new();
    let python = home().join("venv/bin/python");
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("interop/certificates");
    let python = python.to_str().expect("the path is UTF-8");
    let come = |world: &World, arguments: [&str; 4], script: &str, client: Option<&str>| {
        let mut command = world.command(arguments[0], None, &[]);
        command
            .env("NIGHTJAR_INTEROP_NODE", home().join("node"))
            .arg(scripts.join(script))
            .args(&arguments[1..])
            .arg(world.path("ca.crt"));
        for kind in ["crt", "key"] {
            command.args(client.map(|client| world.path(&format!("devices/{client}.{kind}"))));
        }
        world.run(command)
    };
    let ports = [world.broker.port, world.broker.second_port].map(|port| port.to_string());
    let (tcp, web) = (ports[0].as_str(), ports[1].as_str());
    let mut clients = Vec::new();
    for version in ["TLSv1_2", "TLSv1_3"] {
        clients.push(([python, tcp, "tcp", version], "paho_client.py"));
        clients.push(([python, web, "websockets", version], "paho_client.py"));
    }
    for version in ["TLSv1.2", "TLSv1.3"] {
        clients.push((["node", "mqtts", tcp, version], "mqttjs_client.mjs"));
        clients.push((["node", "wss", web, version], "mqttjs_client.mjs"));
    }
    let mut refused = 0;
    for (arguments, script) in clients {
        let output = come(&world, arguments, script, Some("gauge-7"));
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        for client in [None, Some("gauge-8")] {
            let output = come(&world, arguments, script, client);
            assert!(!output.status.success(), "{arguments:?} {client:?}");
            refused += 1;
        }
    }
    world
        .broker
        .wait_for_log("as paho (p5, c1, k60, u'gauge-7')");
    world
        .broker
        .wait_for_log("as mqttjs (p5, c1, k60, u'gauge-7')");
    world.expect_refusals(refused);
}

struct World {
    directory: TemporaryDirectory,
    broker: Broker,
}

impl World {
    /// An authority with two devices, of which the second one is revoked, and a broker that asks for certificates.
    fn new() -> Self {
        let directory = TemporaryDirectory::new("certificates");
        let tool = |arguments: &[&str]| {
            let output = Command::new(certs())
                .args(arguments)
                .args(["--dir", directory.text()])
                .output()
                .expect("nightjar-certs can be run");
            assert!(output.status.success(), "{arguments:?}: {output:?}");
        };
        tool(&["init"]);
        tool(&["server", "localhost"]);
        tool(&["device", "gauge-7"]);
        tool(&["device", "gauge-8"]);
        tool(&["revoke", "gauge-8"]);
        let text = fs::read_to_string(directory.path().join("nightjar.toml"));
        let text = text.expect("the tool writes a configuration");
        let everywhere = "address = [\"0.0.0.0:8883\", \"[::]:8883\"]";
        assert!(text.contains(everywhere), "{text}");
        let (_, listener) = text.split_once("[[listeners]]").expect("it has a listener");
        let web = "address = \"127.0.0.1:{second_port}\"\nprotocol = \"websocket\"";
        let toml = format!(
            "{}\n[[listeners]]{}",
            text.replace(everywhere, "address = \"127.0.0.1:{port}\""),
            listener.replace(everywhere, web)
        );
        Self {
            broker: Broker::options().toml(&toml).start(),
            directory,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A client that is ended where it does not end by itself.
    fn command(&self, program: &str, client: Option<&str>, options: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.args(["60", program]);
        if let Some(client) = client {
            for (option, kind) in options.iter().zip(["crt", "key"]) {
                let file = self.path(&format!("devices/{client}.{kind}"));
                command.arg(option).arg(file);
            }
        }
        command
    }

    #[track_caller]
    fn run(&self, mut command: Command) -> Output {
        let output = command.output().expect("coreutils has timeout");
        let code = output.status.code();
        // 127: no such program. 126 and 124 are its neighbours.
        assert!(
            !matches!(code, Some(124 | 126 | 127)),
            "{command:?}: {output:?}; tests/interop/setup.sh installs the clients"
        );
        output
    }

    /// As many lines say why somebody does not come in.
    #[track_caller]
    fn expect_refusals(&mut self, count: usize) {
        for reason in ["sent no certificates", "Revoked"] {
            self.broker.wait_for_log_times(reason, count / 2);
        }
    }
}

/// What `setup.sh` fills.
fn home() -> PathBuf {
    let given = std::env::var_os("NIGHTJAR_INTEROP_HOME").map(PathBuf::from);
    given.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/interop"))
}
