//! Scenarios: what several clients say and hear, one step a line, played against one broker.
//!
//! ```text
//! s connect v5 props(21 H2)         connects as client "s"; success and Session Present 0 are checked
//! s > 82 m1 [] s'{t}' 01            sends: first byte, then the body; the Remaining Length is worked out
//! s < 90 m1 [] 01                   the next packet must be this
//! p connect v4
//! p => 32 s'{t}' m7 'hello'
//! s < 32 s'{t}' $a [] 'hello'       $a holds the two bytes found here (a packet id) ...
//! s > 40 $a                         ... and stands for them from then on
//! s quiet                           PINGREQ is answered, and nothing came before the answer
//! ```
//!
//! | step | means |
//! |---|---|
//! | `connect VERSION OPTIONS` | CONNECT and a successful CONNACK; options below |
//! | `try VERSION OPTIONS` | CONNECT; the answer is for the next steps |
//! | `open` | a TCP connection |
//! | `> WORDS` / `raw WORDS` | sends a packet / bytes as they stand; `> WORDS ; WORDS` several packets in one write |
//! | `=> WORDS` | publishes: sends a PUBLISH and completes its exchange, which must end well, with a ping behind QoS 0; `; WORDS` for the next one |
//! | `< WORDS` | receives this packet; `WORDS \| WORDS` these packets in any order; `WORDS or WORDS` one of the two |
//! | `close` | the broker closes, without a further byte |
//! | `close?` | the same, or a DISCONNECT with an error before |
//! | `refused` | the broker closes; if it says something before, that is a CONNACK with an error |
//! | `quiet` | nothing is there to be received |
//! | `drop` | the connection ends without DISCONNECT, and the broker has seen it |
//! | `bye` | DISCONNECT 0x00, and the broker has closed |
//! | `wait MS` | time passes, where time is what is tested |
//! | `kill`, `stop` | the broker ends by SIGKILL or SIGTERM, every connection with it, and starts anew where it kept what it kept |
//! | `rules LINE ; LINE` | the broker's acl_file has these lines now, which it sees when it starts anew |
//! | `mark`, `after MS` | notes the time; at least so much has passed since |
//!
//! Words are those of `harness::bytes`, and: `[...]` its content with its length before it (a property section), `(...)` the same with
//! two bytes of length (a string), `$name` as above,
//! `~N` four bytes that hold a number from 1 to N, `..` whatever follows, `{t}` a text that no other scenario has, used for topics.
//! Options: `clean=0 keep=N id=TEXT present=1 props(WORDS) will(TOPIC PAYLOAD QOS RETAIN) wprops(WORDS) user=TEXT pass=TEXT`.
//! The client id is `{t}` and the client's name, unless given.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use harness::{
    Broker, Client, Connect, Options, TemporaryDirectory, bytes, hex, now, variable_byte_integer,
};

/// One broker for the scenarios of one file that run at the same time; it ends when none of them runs.
pub(crate) struct SharedBroker {
    toml: &'static str,
    environment: &'static [(&'static str, &'static str)],
    running: Mutex<Weak<Running>>,
}

struct Running {
    address: SocketAddr,
    broker: Mutex<Broker>,
}

impl SharedBroker {
    /// A bare broker.
    pub(crate) const fn plain() -> Self {
        Self::with("", &[])
    }

    /// A broker with settings and environment variables.
    pub(crate) const fn with(
        toml: &'static str,
        environment: &'static [(&'static str, &'static str)],
    ) -> Self {
        Self {
            toml,
            environment,
            running: Mutex::new(Weak::new()),
        }
    }

    /// Gives the broker to `use_it`, to the exclusion of others who ask for it this way.
    pub(crate) fn with_broker<T>(&self, use_it: impl FnOnce(&Broker) -> T) -> T {
        let running = self.running();
        let broker = running
            .broker
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        use_it(&broker)
    }

    /// The broker, started if it does not run.
    fn running(&self) -> Arc<Running> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(started) = running.upgrade() {
            return started;
        }
        let mut options = Broker::options();
        if !self.toml.is_empty() {
            options = options.toml(self.toml);
        }
        for (name, value) in self.environment {
            options = options.environment(name, value);
        }
        let broker = options.start();
        let started = Arc::new(Running {
            address: broker.address(),
            broker: Mutex::new(broker),
        });
        *running = Arc::downgrade(&started);
        started
    }
}

/// Plays `scenario`; panics at the first step that goes otherwise. Gives what was captured.
#[track_caller]
pub(crate) fn play(broker: &SharedBroker, scenario: &str) -> BTreeMap<String, [u8; 2]> {
    let running = broker.running();
    play_on(Stage::at(running.address), scenario)
}

/// The same on a broker of its own that keeps what survives. `toml` is its configuration.
#[track_caller]
pub(crate) fn play_kept(toml: &str, scenario: &str) {
    let directory = TemporaryDirectory::new("data");
    let options = Broker::options()
        .argument("--data")
        .argument(directory.text());
    let options = match toml {
        "" => options,
        toml => options.toml(toml),
    };
    let broker = options.clone().start();
    let mut stage = Stage::at(broker.address());
    stage.kept = Some(Kept {
        broker,
        options,
        _directory: directory,
    });
    play_on(stage, scenario);
}

/// The same with an acl_file of these lines.
#[track_caller]
pub(crate) fn play_with_rules(rules: &str, toml: &str, scenario: &str) {
    let directory = TemporaryDirectory::new("rules");
    std::fs::create_dir(directory.path()).expect("the temporary directory is writable");
    let unique = unique_text();
    let file = directory.path().join("acl");
    write_rules(&file, &unique, rules);
    let data = directory.path().join("data");
    let options = Broker::options()
        .argument("--data")
        .argument(data.to_str().expect("the temporary directory is UTF-8"))
        .toml(&format!("acl_file = {file:?}\n{toml}"));
    let broker = options.clone().start();
    let mut stage = Stage::at(broker.address());
    stage.unique = unique;
    stage.rules = Some(file);
    stage.kept = Some(Kept {
        broker,
        options,
        _directory: directory,
    });
    play_on(stage, scenario);
}

fn write_rules(file: &Path, unique: &str, rules: &str) {
    let lines: Vec<String> = rules
        .split(['\n', ';'])
        .map(|line| line.trim().replace("{t}", unique) + "\n")
        .collect();
    std::fs::write(file, lines.concat()).expect("the temporary directory is writable");
}

#[track_caller]
fn play_on(mut stage: Stage, scenario: &str) -> BTreeMap<String, [u8; 2]> {
    let unique = stage.unique.clone();
    let scenario = scenario.replace("{t}", &unique);
    for (index, line) in scenario.lines().enumerate() {
        let line = line.split(" ## ").next().unwrap_or_default().trim();
        if line.is_empty() || line.starts_with("##") {
            continue;
        }
        if let Err(error) = stage.step(line) {
            panic!(
                "\nline {} of the scenario: {line}\n{error}\nthe whole scenario:\n{scenario}\n",
                index + 1
            );
        }
    }
    stage.captured
}

/// A text that no other scenario has; lower-case letters and digits.
pub(crate) fn unique_text() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!(
        "t{}n{}",
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    )
}

struct Stage {
    address: SocketAddr,
    unique: String,
    clients: BTreeMap<String, Client>,
    captured: BTreeMap<String, [u8; 2]>,
    mark: Instant,
    kept: Option<Kept>,
    /// The broker's acl_file.
    rules: Option<PathBuf>,
}

/// A broker that is started again on its data directory.
struct Kept {
    broker: Broker,
    options: Options,
    _directory: TemporaryDirectory,
}

enum Piece {
    Bytes(Vec<u8>),
    Captured(String),
    NumberUpTo(u32),
    Rest,
}

impl Stage {
    fn at(address: SocketAddr) -> Self {
        Self {
            address,
            unique: unique_text(),
            clients: BTreeMap::new(),
            captured: BTreeMap::new(),
            mark: now(),
            kept: None,
            rules: None,
        }
    }

    fn start_again(&mut self, end: impl FnOnce(&mut Broker)) {
        let kept = self
            .kept
            .as_mut()
            .expect("the scenario is one of play_kept");
        end(&mut kept.broker);
        self.clients.clear();
        kept.broker = kept.options.clone().start();
        self.address = kept.broker.address();
    }

    fn step(&mut self, line: &str) -> Result<(), String> {
        let (first, rest) = split_word(line);
        match first {
            "wait" => std::thread::sleep(milliseconds(rest)),
            "mark" => self.mark = now(),
            "after" if self.mark.elapsed() < milliseconds(rest) => {
                return Err(format!("only {:?} have passed", self.mark.elapsed()));
            }
            "after" => {}
            "rules" => {
                let file = self
                    .rules
                    .as_deref()
                    .expect("a scenario of play_with_rules");
                write_rules(file, &self.unique, rest);
            }
            "kill" => self.start_again(Broker::kill),
            "stop" => self.start_again(|broker| {
                broker.terminate();
            }),
            name => {
                let (verb, rest) = split_word(rest);
                self.client_step(name, verb, rest)?;
            }
        }
        Ok(())
    }

    fn client_step(&mut self, name: &str, verb: &str, rest: &str) -> Result<(), String> {
        match verb {
            "connect" => self.connect(name, rest),
            "try" | "open" => {
                let mut client = Client::open_at(self.address);
                client.set_timeout(PATIENCE);
                if verb == "try" {
                    client.send(&self.connect_packet(name, rest).bytes());
                }
                self.clients.insert(name.to_owned(), client);
                Ok(())
            }
            "raw" => {
                let bytes = self.to_send(rest)?;
                self.client(name).send(&bytes);
                Ok(())
            }
            ">" => {
                let mut packets = Vec::new();
                for words in rest.split(" ; ") {
                    packets.extend(with_remaining_length(self.to_send(words)?));
                }
                self.client(name).send(&packets);
                Ok(())
            }
            "=>" => rest
                .split(" ; ")
                .try_for_each(|words| self.publish(name, words)),
            "<" => self.receive(name, rest),
            "close?" => {
                let received = self.client(name).receive_to_close();
                let is_closing =
                    received.is_empty() || matches!(received[..], [0xe0, 1, 0x80..=0xff]);
                is_closing
                    .then_some(())
                    .ok_or_else(|| format!("received: {}", hex(&received)))
            }
            "close" => self
                .client(name)
                .try_expect_close()
                .map_err(|unexpected| format!("received: {unexpected}")),
            "quiet" => {
                self.client(name).send(&[0xc0, 0]);
                self.receive(name, "d0")
            }
            "refused" => {
                let received = self.client(name).receive_to_close();
                let is_refusal =
                    received.is_empty() || matches!(received[..], [0x20, _, 0, 1..=0xff, ..]);
                is_refusal
                    .then_some(())
                    .ok_or_else(|| format!("received: {}", hex(&received)))
            }
            "drop" => {
                let client = self.clients.remove(name).expect("the client is connected");
                client
                    .leave()
                    .then_some(())
                    .ok_or_else(|| "the broker did not close its half".to_owned())
            }
            "bye" => {
                self.client(name).send(&[0xe0, 0]);
                let mut client = self.clients.remove(name).expect("the client is connected");
                client
                    .try_expect_close()
                    .map_err(|unexpected| format!("received: {unexpected}"))
            }
            other => panic!("unknown step: {other}"),
        }
    }

    fn connect(&mut self, name: &str, options: &str) -> Result<(), String> {
        let connect = self.connect_packet(name, options);
        let mut client = Client::open_at(self.address);
        client.set_timeout(PATIENCE);
        client.send(&connect.bytes());
        let received = client
            .try_receive_packet()
            .map_err(|unexpected| format!("received: {unexpected}"))?;
        client.connack = received;
        let expected = [u8::from(options.contains("present=1")), 0];
        let is_success = client.connack[0] == 0x20 && client.connack_body().starts_with(&expected);
        if !is_success {
            return Err(format!("received: {}", hex(&client.connack)));
        }
        self.clients.insert(name.to_owned(), client);
        Ok(())
    }

    fn connect_packet(&self, name: &str, options: &str) -> Connect {
        let (version, mut rest) = split_word(options);
        let default_id = format!("{}{name}", self.unique);
        let mut client_id = default_id.as_str();
        // The id comes first in the making of the packet, so it is looked for first.
        for option in options.split_whitespace() {
            client_id = option.strip_prefix("id=").unwrap_or(client_id);
        }
        let mut connect = match version {
            "v3" => Connect::v3(client_id),
            "v4" => Connect::v4(client_id),
            "v5" => Connect::v5(client_id),
            other => panic!("unknown version: {other}"),
        };
        while !rest.is_empty() {
            if let Some((option, after)) = rest
                .split_once('(')
                .filter(|(option, _)| !option.contains(' '))
            {
                let (content, after) = after
                    .split_once(')')
                    .expect("an option's bracket is closed");
                connect = match option {
                    "props" => connect.properties(content),
                    "wprops" => connect.will_properties(content),
                    "will" => with_will(connect, content),
                    other => panic!("unknown option: {other}"),
                };
                rest = after.trim_start();
                continue;
            }
            let (option, after) = split_word(rest);
            let (key, value) = option.split_once('=').expect("key=value");
            connect = match key {
                "clean" => connect.clean(value == "1"),
                "keep" => connect.keep_alive(value.parse().expect("seconds")),
                "user" => connect.username(value),
                "pass" => connect.password(value),
                "id" | "present" => connect,
                other => panic!("unknown option: {other}"),
            };
            rest = after;
        }
        connect
    }

    fn client(&mut self, name: &str) -> &mut Client {
        self.clients
            .get_mut(name)
            .unwrap_or_else(|| panic!("no client {name}"))
    }

    fn to_send(&self, words: &str) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        for piece in pieces(words) {
            match piece {
                Piece::Bytes(bytes) => out.extend(bytes),
                Piece::Captured(name) => {
                    out.extend(self.captured.get(&name).ok_or("nothing was captured")?)
                }
                Piece::NumberUpTo(_) | Piece::Rest => panic!("only what is received can be open"),
            }
        }
        Ok(out)
    }

    fn publish(&mut self, name: &str, words: &str) -> Result<(), String> {
        let body = self.to_send(words)?;
        let (qos, topic_length) = (
            (body[0] >> 1) & 3,
            usize::from(u16::from_be_bytes([body[1], body[2]])),
        );
        let id = if qos == 0 {
            String::new()
        } else {
            hex(&body[3 + topic_length..5 + topic_length])
        };
        self.client(name).send(&with_remaining_length(body));
        match qos {
            0 => {
                self.client(name).send(&[0xc0, 0]);
                self.receive(name, "d0")
            }
            1 => self.receive(name, &format!("40 {id} or 40 {id} 00 or 40 {id} 10")),
            _ => {
                self.receive(name, &format!("50 {id} or 50 {id} 00 or 50 {id} 10"))?;
                let pubrel = with_remaining_length(self.to_send(&format!("62 {id}"))?);
                self.client(name).send(&pubrel);
                self.receive(name, &format!("70 {id} or 70 {id} 00"))
            }
        }
    }

    fn receive(&mut self, name: &str, words: &str) -> Result<(), String> {
        let mut expected: Vec<&str> = words.split(" | ").collect();
        while !expected.is_empty() {
            let received = self
                .client(name)
                .try_receive_packet()
                .map_err(|unexpected| format!("received: {unexpected}"))?;
            let found = expected
                .iter()
                .position(|words| self.matches(&received, words));
            let at = found.ok_or_else(|| format!("received: {}", hex(&received)))?;
            expected.remove(at);
        }
        Ok(())
    }

    /// Whether `packet` is what one of the alternatives in `words` says; what that captures is kept.
    fn matches(&mut self, packet: &[u8], words: &str) -> bool {
        words
            .split(" or ")
            .any(|words| self.matches_one(packet, words))
    }

    fn matches_one(&mut self, packet: &[u8], words: &str) -> bool {
        let length_bytes = packet
            .iter()
            .skip(1)
            .take_while(|byte| **byte & 0x80 != 0)
            .count()
            + 1;
        let mut rest = [&packet[..1], &packet[1 + length_bytes..]].concat();
        let mut captured = self.captured.clone();
        for piece in pieces(words) {
            let wanted = match &piece {
                Piece::Rest => {
                    rest.clear();
                    continue;
                }
                _ => piece.length(),
            };
            if rest.len() < wanted {
                return false;
            }
            let actual: Vec<u8> = rest.drain(..wanted).collect();
            let fits = match piece {
                Piece::Bytes(bytes) => bytes == actual,
                Piece::Captured(name) => {
                    let actual = [actual[0], actual[1]];
                    *captured.entry(name).or_insert(actual) == actual
                }
                Piece::NumberUpTo(most) => {
                    let number = u32::from_be_bytes([actual[0], actual[1], actual[2], actual[3]]);
                    (1..=most).contains(&number)
                }
                Piece::Rest => true,
            };
            if !fits {
                return false;
            }
        }
        self.captured = captured;
        rest.is_empty()
    }
}

impl Piece {
    fn length(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Captured(_) => 2,
            Self::NumberUpTo(_) => 4,
            Self::Rest => panic!("what is open has no length"),
        }
    }
}

/// A packet from its first byte and its body.
fn with_remaining_length(mut packet: Vec<u8>) -> Vec<u8> {
    let body = packet.split_off(1);
    packet.extend(variable_byte_integer(body.len() as u64));
    packet.extend(body);
    packet
}

fn with_will(connect: Connect, content: &str) -> Connect {
    let words: Vec<&str> = content.split(' ').collect();
    let [topic, payload, qos, retain] = words[..] else {
        panic!("will(TOPIC PAYLOAD QOS RETAIN)")
    };
    connect.will(topic, payload, qos.parse().expect("a QoS"), retain == "1")
}

fn pieces(words: &str) -> Vec<Piece> {
    let mut rest = words.trim();
    let mut sections = vec![Vec::new()];
    while !rest.is_empty() {
        let word = next_word(rest);
        rest = rest[word.len()..].trim_start();
        let last = sections.len() - 1;
        if word == "[" || word == "(" {
            sections.push(Vec::new());
        } else if word == "]" || word == ")" {
            let inside: Vec<Piece> = sections.pop().expect("brackets are in pairs");
            let length = inside.iter().map(Piece::length).sum::<usize>();
            let outside = sections.last_mut().expect("brackets are in pairs");
            outside.push(Piece::Bytes(match word {
                "]" => variable_byte_integer(length as u64),
                _ => bytes(&format!("H{length}")),
            }));
            outside.extend(inside);
        } else if word == ".." {
            sections[last].push(Piece::Rest);
        } else if let Some(name) = word.strip_prefix('$') {
            sections[last].push(Piece::Captured(name.to_owned()));
        } else if let Some(most) = word.strip_prefix('~') {
            sections[last].push(Piece::NumberUpTo(most.parse().expect("a number")));
        } else {
            sections[last].push(Piece::Bytes(bytes(word)));
        }
    }
    assert_eq!(sections.len(), 1, "brackets are in pairs: {words}");
    sections.pop().unwrap_or_default()
}

/// The first word of `rest`: a bracket, a quoted text with what stands before its quote, or up to a space or bracket.
fn next_word(rest: &str) -> &str {
    if rest.starts_with(BRACKETS) {
        return &rest[..1];
    }
    let end = rest
        .find(|part| part == ' ' || part == '\'' || BRACKETS.contains(&part))
        .unwrap_or(rest.len());
    if rest[end..].starts_with('\'') {
        let length = rest[end + 1..].find('\'').expect("a quote is closed");
        return &rest[..end + length + 2];
    }
    &rest[..end]
}

fn split_word(line: &str) -> (&str, &str) {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    (word, rest.trim_start())
}

fn milliseconds(text: &str) -> Duration {
    Duration::from_millis(text.parse().expect("milliseconds"))
}

const BRACKETS: [char; 4] = ['[', ']', '(', ')'];

/// How long a client waits before a scenario fails; no scenario that passes waits for it.
const PATIENCE: Duration = harness::PATIENCE;
