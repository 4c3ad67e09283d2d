//! TLS, mTLS and WebSocket against Debian's mosquitto: streams and scenarios of several phases get through each of them, and
//! whoever is not to be trusted does not.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Parser;
use nightjar_loadtest::arguments::Arguments;
use nightjar_loadtest::compare::broker::{Running, Scratch};
use nightjar_loadtest::compare::file::BrokerPlan;
use nightjar_loadtest::outcome::{self, Outcome};
use nightjar_loadtest::progress::Progress;

#[test]
fn every_way_to_a_broker_is_taken() {
    let certificates = Certificates::new();
    let (ca, cert, key) = (
        certificates.path("ca.pem"),
        certificates.path("client.pem"),
        certificates.path("client.key"),
    );
    let [tls, mutual, web, secure_web] = free_ports();
    let (_scratch, _broker) = start([tls, mutual, web, secure_web], &certificates);
    let ways = [
        format!("--ca {ca} --port {tls}"),
        format!("--tls --insecure --port {tls}"),
        format!("--ca {ca} --cert {cert} --key {key} --port {mutual}"),
        format!("--ws --port {web}"),
        format!("--ws --ca {ca} --port {secure_web}"),
    ];
    let work = [
        "pubsub -P 3 -q 0 --payload 2000 --warmup 0.1 -d 0.3 --rounds 1 --window 50",
        "pubsub -P 2 -q 2 -V 5 --warmup 0.1 -d 0.3 --rounds 1",
        "connect -n 30 --idle 0.05",
        "retained -n 300 -P 2 -q 1",
        "offline -n 500 -P 2",
    ];
    for way in &ways {
        for work in work {
            let outcome = play(&format!("{work} {way}"))
                .unwrap_or_else(|error| panic!("{work} {way}: {error}"));
            assert_eq!(outcome.losses(), 0, "{outcome}");
            assert!(outcome.measures()[0].value > 0.0, "{outcome}");
        }
    }

    let strangers = Certificates::new();
    let stranger = strangers.path("ca.pem");
    let refused = |way: String| play(&format!("pubsub -P 1 --rounds 1 {way}")).unwrap_err();
    let error = refused(format!("--ca {stranger} --port {tls}"));
    assert!(error.to_lowercase().contains("certificate"), "{error}");
    refused(format!("--ca {ca} --port {mutual}"));
    refused(format!("--port {tls} --tls"));
    refused(format!("--ws --port {tls}"));
}

fn play(line: &str) -> Result<Outcome, String> {
    let words = ["nightjar-loadtest"].into_iter().chain(line.split(' '));
    let arguments = Arguments::try_parse_from(words).map_err(|error| error.to_string())?;
    let played = outcome::play(&arguments.command, &Progress::hidden()).unwrap();
    played.map_err(|error| error.to_string())
}

fn start(ports: [u16; 4], certificates: &Certificates) -> (Scratch, Running) {
    let [tls, mutual, web, secure_web] = ports;
    let (ca, cert, key) = (
        certificates.path("ca.pem"),
        certificates.path("server.pem"),
        certificates.path("server.key"),
    );
    let secure = format!("cafile {ca}\ncertfile {cert}\nkeyfile {key}\n");
    // As root it would give up the right to read the key.
    let config = format!(
        "user root\nallow_anonymous true\nmax_queued_messages 0\nmax_inflight_messages 1000\nlistener {{port}} 127.0.0.1\n\
         listener {tls} 127.0.0.1\n{secure}\
         listener {mutual} 127.0.0.1\n{secure}require_certificate true\n\
         listener {web} 127.0.0.1\nprotocol websockets\n\
         listener {secure_web} 127.0.0.1\nprotocol websockets\n{secure}"
    );
    let plan = BrokerPlan {
        name: "mosquitto".to_owned(),
        builtin: None,
        command: Some("{mosquitto} -c {config}".to_owned()),
        config: Some(config),
        version_command: None,
        config_of_work: String::new(),
    };
    let scratch = Scratch::new().unwrap();
    let running = Running::start(&plan, None, &scratch, None).unwrap();
    (scratch, running)
}

fn free_ports<const N: usize>() -> [u16; N] {
    [(); N].map(|()| harness::free_port())
}

/// A certificate authority, a server and a client of it, made anew: nothing in the repository can expire.
struct Certificates {
    directory: PathBuf,
}

impl Certificates {
    fn new() -> Self {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("nightjar-certificates-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(
            directory.join("names"),
            "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n",
        )
        .unwrap();
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
        openssl(
            &directory,
            &format!(
                "req -x509 {key} -keyout ca.key -out ca.pem -subj /CN=authority-{number} -days 2"
            ),
        );
        for name in ["server", "client"] {
            openssl(
                &directory,
                &format!("req {key} -keyout {name}.key -out {name}.csr -subj /CN={name}"),
            );
            openssl(
                &directory,
                &format!(
                    "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out {name}.pem -days 2 -extfile names"
                ),
            );
        }
        Self { directory }
    }

    fn path(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn openssl(directory: &Path, line: &str) {
    let mut command = Command::new("openssl");
    command.args(line.split(' ')).current_dir(directory);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {line}: {errors}");
}
