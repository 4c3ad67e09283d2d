//! What the broker tells of itself, read from outside: `/metrics`, `/livez` and `/readyz` over HTTP, and `$SYS` over MQTT.
//!
//! Comes in: a real broker and what clients do with it. Goes out: its own numbers, compared with what the clients counted. HTTP is
//! spoken by hand, so that broken requests can be sent, too.

mod counted;
mod http;
mod sys_topics;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use harness::{Broker, Options};

/// A broker with an HTTP listener, and where that is.
struct Watched {
    broker: Broker,
    http: SocketAddr,
}

impl Watched {
    /// `toml`: further keys.
    #[track_caller]
    fn start(toml: &str) -> Self {
        Self::start_with(toml, |options| options)
    }

    #[track_caller]
    fn start_with(toml: &str, more: impl FnOnce(Options) -> Options) -> Self {
        let toml = format!(
            "http_listener = \"127.0.0.1:0\"\nallow_anonymous = true\n{toml}\n\
             [[listeners]]\nname = \"front\"\naddress = \"127.0.0.1:{{port}}\"\n"
        );
        let mut broker = more(Broker::options().toml(&toml)).start();
        broker.wait_for_log(" running");
        let log = broker.log();
        let (_, rest) = log
            .split_once("Opening http listen socket on ")
            .expect("the log says where");
        let address = rest.lines().next().unwrap_or_default();
        let http = address
            .trim_end_matches('.')
            .parse()
            .expect("an address and a full stop");
        Self { broker, http }
    }

    /// Status and body.
    #[track_caller]
    fn get(&self, path: &str) -> (u16, String) {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: nightjar\r\n\r\n"))
    }

    #[track_caller]
    fn ask(&self, request: &str) -> (u16, String) {
        let mut stream = self.open();
        stream.write_all(request.as_bytes()).unwrap();
        let answer = read_to_end(&mut stream);
        let (head, body) = answer
            .split_once("\r\n\r\n")
            .unwrap_or_else(|| panic!("no head in {answer:?}"));
        let status = head.split(' ').nth(1).unwrap_or_default();
        (status.parse().expect("a status"), body.to_owned())
    }

    fn open(&self) -> TcpStream {
        let stream = TcpStream::connect(self.http).expect("the HTTP listener accepts");
        stream.set_read_timeout(Some(harness::PATIENCE)).unwrap();
        stream
    }

    #[track_caller]
    fn metrics(&self) -> Sheet {
        let (status, body) = self.get("/metrics");
        assert_eq!(status, 200, "{body}");
        Sheet(body)
    }
}

/// The text of `/metrics`.
struct Sheet(String);

impl Sheet {
    /// The number of a series, labels included: `name{label="text"}`.
    #[track_caller]
    fn value(&self, series: &str) -> u64 {
        let line = self
            .0
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        let value = line.unwrap_or_else(|| panic!("no {series} in\n{}", self.0));
        value
            .parse()
            .unwrap_or_else(|_| panic!("{series} is {value}"))
    }

    /// The names and labels of all series.
    fn series(&self) -> Vec<&str> {
        self.0
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.rsplit_once(' '))
            .map(|(series, _)| series)
            .collect()
    }
}

/// What comes until the other side closes, politely or not.
fn read_to_end(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => bytes.extend_from_slice(&piece[..count]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => panic!("neither bytes nor a close: {error}"),
        }
    }
    String::from_utf8(bytes).expect("text")
}
