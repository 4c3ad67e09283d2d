//! The harness: starts the real `nightjar` binary and talks to it in raw bytes.
//!
//! Comes in: what a test wants the broker started with, and bytes written by hand. Goes out: bytes, exactly as the broker sent them.
//! It deliberately does not know the codec: a test that decoded with the code under test could not see that code's mistakes.
//!
//! ```no_run
//! use harness::{Broker, Client, bytes, packet};
//!
//! let broker = Broker::start();                          // real process, OS-chosen loopback port, killed on drop
//! let mut client = Client::connect_v5(&broker, "id", ""); // CONNECT sent, success CONNACK read (`client.connack` holds its bytes)
//! client.send(&bytes("82 r7 m1 v0 s1 'p' 01"));          // the payload language of the byte-exact exchanges, see `bytes`
//! client.expect("90 r4 m1 v0 01");                       // exactly these bytes, within `timeout()`
//! client.send(&packet("32", "s'p' m1 v0 'hello'"));      // `packet` works out the Remaining Length; s'p' = length and text
//! assert_eq!(client.receive_packet(), bytes("32 r11 s1 'p' m1 v0 'hello'"));
//! client.expect("40 r2 m1");
//! client.expect_nothing_until_pingresp();                // PINGREQ; the next bytes must be the PINGRESP
//! client.send(&bytes("e0 00"));
//! client.expect_close();                                 // end of file or reset, and not one byte before it
//! ```
//!
//! | want | use |
//! |---|---|
//! | a broker with arguments, TOML (`-c`), environment | `Broker::options().argument("-v").toml("..").environment("K", "V").start()`; `{port}` in the TOML is replaced |
//! | a mosquitto.conf instead | `Broker::options().mosquitto_conf("listener {port} 127.0.0.1")` |
//! | its port, pid, memory, log | `broker.port`, `.process_id()`, `.resident_bytes()`, `.log()`, `.wait_for_log("text")` |
//! | SIGTERM and the exit status | `broker.terminate()`; bounded |
//! | a TCP connection and nothing else | `Client::open(&broker)` |
//! | CONNECT with anything in it | `Connect::v5("id").keep_alive(10).clean(false).properties("11 L60").will("t", "payload", 1, false).bytes()` |
//! | ... sent, with the CONNACK read | `Client::connect(&broker, &connect)` (panics unless its code is 0) |
//! | a property section | `properties("11 L60 26 s'k' s'v'")` = length and bytes; as words: `packet("30", &format!("s't' {} 'x'", hex(&properties("01 01"))))` |
//! | every byte up to the close | `client.receive_to_close()` |
//! | frames of WebSocket | `WebClient::open(&broker)`, `.send(bytes)`, `.send_frame(0x89, ..)`, `.expect_close(1002)`; `bridge_to_web_socket` for what speaks TCP |
//! | Mosquitto beside it | `Mosquitto::start(&program("mosquitto")?, directory, "acl_file ...")`, `.address` |
//! | any program, by what it says | `Running::alone(&mut command)`, `.wait_for("words")`, `.signal("-HUP")`, `.terminate()` |
//! | thousands of sockets | `raise_file_limit()` first |
//! | longer waits (keep alive, will delay) | `client.set_timeout(Duration::from_secs(3))` |
//! | waiting for something that is not a byte | `wait_until("what", Duration, \|\| condition)` |
//!
//! Environment: `NIGHTJAR_BIN` (another binary; Mosquitto's understands `-p` as well), `NIGHTJAR_TEST_ADDR` (a broker that is already
//! running, for tests that need no options; `NIGHTJAR_TEST_PID` lets them read its memory), `NIGHTJAR_TEST_TIMEOUT_MS` (default 20000: a busy machine is no fault).

mod broker;
mod bytes;
mod client;
mod connect;
mod mosquitto;
mod running;
mod web;

pub use broker::{Broker, Options, TemporaryDirectory, binary, certs};
pub use bytes::{
    bytes, hex, packet, parse_bytes, properties, text_with_length, variable_byte_integer,
};
pub use client::{Client, Unexpected};
pub use connect::Connect;
pub use mosquitto::{Mosquitto, program};
pub use running::Running;
pub use web::{WebClient, WebFrame, bridge_to_web_socket, upgrade_request, web_frame};

use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::net::UnixListener;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long a test waits for bytes or for the close of a connection before it fails.
pub fn timeout() -> Duration {
    let milliseconds = std::env::var("NIGHTJAR_TEST_TIMEOUT_MS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(20_000);
    Duration::from_millis(milliseconds)
}

/// Longer than anything takes on a busy machine: the limit for `wait_until` where the time itself is not what is tested.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The present moment; tests run in real time, so the harness has its own clock.
#[allow(
    clippy::disallowed_methods,
    reason = "tests measure a process from outside and do not share the broker's clock"
)]
pub fn now() -> Instant {
    Instant::now()
}

/// Lets this process and the brokers it starts open as many files as the system allows.
pub fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("a soft limit may be raised to the hard one");
}

/// A loopback port that nobody has. It is not of the range that the system gives to outgoing connections, nor of the ports of another
/// test program that runs at the same time, so nobody gets it by chance until it is used.
pub fn free_port() -> u16 {
    static OWN: OnceLock<(u32, Option<UnixListener>)> = OnceLock::new();
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let (block, _) = OWN.get_or_init(own_ports);
    loop {
        let next = COUNT.fetch_add(1, Ordering::Relaxed) % PORTS_OF_A_PROGRAM;
        let port = 10_000 + block * PORTS_OF_A_PROGRAM + next;
        let port = u16::try_from(port).expect("it is below 32,000");
        let v4 = try_to_bind((Ipv4Addr::LOCALHOST, port).into());
        // Where there is no IPv6, nobody has it there.
        let v6 = try_to_bind((Ipv6Addr::LOCALHOST, port).into());
        let is_taken = |error: &std::io::Error| error.kind() == ErrorKind::AddrInUse;
        if v4.is_ok() && !v6.as_ref().is_err_and(is_taken) {
            return port;
        }
    }
}

/// As a listener would, but without listening: a process that another thread starts at this moment has a copy of the socket until it has
/// become another program, and one that listens would keep a broker from the port for so long.
fn try_to_bind(address: SocketAddr) -> std::io::Result<()> {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}

/// A part of the ports, and the socket by whose name others see that it is taken, for as long as this process lives.
fn own_ports() -> (u32, Option<UnixListener>) {
    let first = std::process::id() % PROGRAMS_MAX;
    let blocks = (0..PROGRAMS_MAX).map(|number| (first + number) % PROGRAMS_MAX);
    let mut reserved = blocks.filter_map(|block| Some((block, Some(reserve(block)?))));
    reserved.next().unwrap_or((first, None))
}

#[cfg(target_os = "linux")]
fn reserve(block: u32) -> Option<UnixListener> {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::SocketAddr;
    let name = format!("nightjar-tests-ports-{block}");
    let address = SocketAddr::from_abstract_name(name).ok()?;
    UnixListener::bind_addr(&address).ok()
}

/// Elsewhere there is no name that goes with its process.
#[cfg(not(target_os = "linux"))]
fn reserve(_block: u32) -> Option<UnixListener> {
    None
}

const PORTS_OF_A_PROGRAM: u32 = 500;
const PROGRAMS_MAX: u32 = 44;

/// Polls `condition` until it holds; for state that has no event (the memory of a process). Panics after `limit`.
#[track_caller]
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let deadline = now() + limit;
    while !condition() {
        assert!(now() < deadline, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
