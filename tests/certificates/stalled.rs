//! Handshakes that do not come to an end: cut off at every byte, given up at any of them, or dripping. They cost little and end in time, and who
//! is in notices nothing.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::time::Duration;

use harness::{Broker, Connect, now, raise_file_limit, wait_until};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConnection, SupportedProtocolVersion};

use crate::forger::{Draft, Forger};
use crate::guest::{Door, Guest, Reception, Visit};
use crate::number;

#[test]
fn t8_a_handshake_that_is_cut_off_at_any_byte_is_nobodys_loss() {
    let mut world = World::new("connect_timeout_seconds = 60\n");
    let mut inside = world.inside();
    let (files, mut count) = (world.open_files(), 0);
    for version in [&TLS12, &TLS13] {
        for (flight, length) in world.flights(version).into_iter().enumerate() {
            for end in 0..length {
                let mut half = Half::new(&world, version);
                half.send(flight, end);
                half.cut_off();
                count += 1;
            }
            ping(&mut inside);
        }
    }
    assert!(
        count > 1000,
        "two flights of two versions are more: {count}"
    );
    let all_are_gone = || world.open_files() <= files;
    wait_until("their sockets are closed", PATIENCE, all_are_gone);
    world.broker.wait_for_log_times("New client connected", 1);
    let log = world.broker.log();
    assert!(!log.contains("panic"), "{log}");
    let late = world.guest(&TLS12).visit(world.broker.port, Door::Tcp);
    assert_eq!(late.reception, Reception::In { resumed: false });
}

#[test]
fn t8_stalled_handshakes_need_little_memory_and_hinder_nobody() {
    let count = number("STALLED", 2000);
    raise_file_limit();
    let world = World::with(
        "connect_timeout_seconds = 600\n",
        "handshake_timeout_seconds = 600\n",
    );
    let mut inside = world.inside();
    let versions = [&TLS12, &TLS13];
    let lengths = versions.map(|version| world.flights(version));
    let before = world.broker.resident_bytes();
    let mut halves = Vec::new();
    for number in 0..count {
        let which = number % 2;
        let mut half = Half::new(&world, versions[which]);
        // Everywhere between nothing at all and all but one byte.
        let flight = number / 2 % 2;
        let length = lengths[which][flight];
        half.send(flight, (number / 4 * 7919) % length);
        halves.push(half);
        if number % 200 == 0 {
            ping(&mut inside);
        }
    }
    let each = world.broker.resident_bytes().saturating_sub(before) / count as u64;
    eprintln!("{count} stalled handshakes: {each} bytes each");
    assert!(each < 100 * 1024, "{each} bytes each");
    for version in versions {
        for door in [Door::Tcp, Door::Web] {
            let late = world.guest(version).visit(world.port(door), door);
            assert_eq!(late.reception, Reception::In { resumed: false });
        }
    }
    ping(&mut inside);
    // Nobody was closed to make room.
    for half in &mut halves {
        half.stream
            .set_nonblocking(true)
            .expect("a socket can be told");
        let mut byte = [0];
        loop {
            match half.stream.read(&mut byte) {
                Ok(0) => panic!("closed before its time"),
                Ok(_) => {}
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    break;
                }
            }
        }
    }
}

#[test]
fn t8_a_handshake_has_so_much_time_in_all_however_it_is_spent() {
    let mut world = World::with(
        "connect_timeout_seconds = 4\n",
        "handshake_timeout_seconds = 4\n",
    );
    let began = now();
    let mut halves = Vec::new();
    for version in [&TLS12, &TLS13] {
        for (flight, length) in world.flights(version).into_iter().enumerate() {
            // A signature may be shorter by a few bytes the next time.
            for end in [0, 1, 5, 6, length / 2, length - 9] {
                let mut half = Half::new(&world, version);
                half.send(flight, end);
                halves.push(half);
            }
        }
    }
    // The first says a byte now and then.
    let mut dripping = Half::new(&world, &TLS13);
    let bytes = dripping.next_flight();
    let mut sent = 0;
    while sent < bytes.len() && dripping.stream.write_all(&bytes[sent..=sent]).is_ok() {
        sent += 1;
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(sent < bytes.len(), "it was let say all of it");
    assert!(began.elapsed() >= Duration::from_secs(4));
    for half in &mut halves {
        half.expect_close();
    }
    // Who is through with it, and then says nothing, has no more time either.
    let mut silent = Half::new(&world, &TLS13);
    silent.send(1, usize::MAX);
    silent.expect_close();
    world
        .broker
        .wait_for_log_times("no TLS handshake in 4 s", halves.len() + 1);
}

/// A client that stops in the middle of its handshake.
struct Half {
    stream: TcpStream,
    client: ClientConnection,
}

impl Half {
    fn new(world: &World, version: &'static SupportedProtocolVersion) -> Self {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, world.broker.port));
        let stream = stream.expect("the broker listens");
        stream.set_nodelay(true).expect("a socket can be told");
        stream
            .set_read_timeout(Some(PATIENCE))
            .expect("a timeout above zero is accepted");
        Self {
            stream,
            client: world.guest(version).client(),
        }
    }

    /// All flights before this one, and so many bytes of it.
    #[track_caller]
    fn send(&mut self, flight: usize, bytes: usize) {
        for _ in 0..flight {
            let whole = self.next_flight();
            self.stream.write_all(&whole).expect("the broker listens");
            self.read_answer();
        }
        let part = self.next_flight();
        let part = part.get(..bytes).unwrap_or(&part);
        self.stream.write_all(part).expect("the broker listens");
    }

    fn next_flight(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut bytes).expect("it is memory");
        }
        bytes
    }

    #[track_caller]
    fn read_answer(&mut self) {
        let version_1_3 = |client: &ClientConnection| {
            client.protocol_version() == Some(rustls::ProtocolVersion::TLSv1_3)
        };
        while !self.client.wants_write()
            || version_1_3(&self.client) && self.client.is_handshaking()
        {
            let count = self.client.read_tls(&mut self.stream);
            assert!(count.expect("the broker answers") > 0, "the broker closed");
            let state = self.client.process_new_packets();
            state.expect("the broker speaks TLS");
        }
    }

    /// The end of what is said: the broker must leave, too.
    #[track_caller]
    fn cut_off(mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
        self.expect_close();
    }

    #[track_caller]
    fn expect_close(&mut self) {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
    }
}

struct World {
    /// Its files are the broker's.
    _forger: Forger,
    broker: Broker,
    papers: crate::forger::Papers,
}

impl World {
    fn new(settings: &str) -> Self {
        Self::with(settings, "")
    }

    /// With keys of both sections about TLS.
    fn with(settings: &str, tls: &str) -> Self {
        let forger = Forger::new();
        let broker = Broker::options()
            .toml(&format!(
                "{settings}allow_anonymous = true\n\
                 [[listeners]]\naddress = \"127.0.0.1:{{second_port}}\"\nprotocol = \"websocket\"\n{strict}{tls}\
                 [[listeners]]\naddress = \"127.0.0.1:{{port}}\"\n{strict}{tls}",
                strict = forger.strict()
            ))
            .start();
        let papers = forger.trusted.sign(&Draft::named("gauge-7"));
        Self {
            _forger: forger,
            broker,
            papers,
        }
    }

    fn port(&self, door: Door) -> u16 {
        match door {
            Door::Tcp => self.broker.port,
            Door::Web => self.broker.second_port,
            Door::Http => unreachable!("it has no such listener"),
        }
    }

    fn guest(&self, version: &'static SupportedProtocolVersion) -> Guest {
        Guest::new(version, Some(&self.papers))
    }

    /// A client that is in, under a name of its own.
    fn inside(&self) -> Visit {
        let connect = Connect::v4("inside").keep_alive(0);
        self.guest(&TLS13)
            .visit_with(self.broker.port, Door::Tcp, &connect)
    }

    /// How long the two flights of a client are.
    fn flights(&self, version: &'static SupportedProtocolVersion) -> [usize; 2] {
        let mut half = Half::new(self, version);
        let first = half.next_flight();
        half.stream.write_all(&first).expect("the broker listens");
        half.read_answer();
        [first.len(), half.next_flight().len()]
    }

    /// Descriptors of the broker's process.
    fn open_files(&self) -> usize {
        let process_id = self.broker.process_id().expect("the broker is ours");
        let files = fs::read_dir(format!("/proc/{process_id}/fd"));
        files.expect("the broker is alive").count()
    }
}

#[track_caller]
fn ping(visit: &mut Visit) {
    assert_eq!(visit.reception, Reception::In { resumed: false });
    visit.stream.write_all(&[0xc0, 0]).expect("it is open");
    let mut answer = [0; 2];
    visit.stream.read_exact(&mut answer).expect("it is open");
    assert_eq!(answer, [0xd0, 0]);
}

const PATIENCE: Duration = harness::PATIENCE;
