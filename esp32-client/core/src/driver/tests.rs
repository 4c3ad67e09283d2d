//! The driver over a wire in memory, under a clock that is set by hand: nothing here waits.

use core::cell::Cell;
use core::future::poll_fn;
use core::pin::{Pin, pin};
use core::task::Poll;
use std::rc::Rc;

use embassy_futures::poll_once;
use embedded_io_async::{ErrorKind, ErrorType};
use nightjar_codec::{Connack, Limits, Packet, ProtocolVersion, ReasonCode, cut, decode};

use super::*;
use crate::command::Refusal;
use crate::config::Config;
use crate::store::ram::RamStore;
use crate::telemetry::Value;
use crate::time::Now;

/// The connection of a bench, being served: a future that borrows from it.
macro_rules! serve_on {
    ($bench:ident, $served:ident) => {
        let mut transport = $bench.wire.clone();
        let mut $served = pin!(serve(
            &$bench.device,
            &$bench.doorbell,
            &mut transport,
            &$bench.clock
        ));
    };
}

#[test]
fn what_is_recorded_is_sent_when_the_bell_rings() {
    let bench = Bench::new();
    serve_on!(bench, served);
    bench.accept(served.as_mut());
    assert!(matches!(
        bench.run(served.as_mut())[..],
        [Packet::Subscribe(_), Packet::Publish(_)]
    ));
    bench
        .device
        .borrow_mut()
        .record(bench.clock.now(), "door", &Value::Switch(true))
        .unwrap();
    assert_eq!(bench.run(served.as_mut()), [], "nobody has told the driver");
    bench.doorbell.ring();
    let sent = bench.run(served.as_mut());
    assert!(
        matches!(&sent[..], [Packet::Publish(publish)] if publish.topic.ends_with("telemetry/door"))
    );
}

#[test]
fn a_quiet_connection_is_kept_alive_and_a_dead_one_left() {
    let bench = Bench::new();
    serve_on!(bench, served);
    bench.accept(served.as_mut());
    bench.run(served.as_mut());
    bench.clock.pass(45);
    assert_eq!(bench.run(served.as_mut()), [Packet::Pingreq]);
    bench.clock.pass(20);
    assert_eq!(
        poll_once(served.as_mut()),
        Poll::Ready(Ok(Ended::NoPingresp))
    );
}

#[test]
fn the_end_of_the_stream_ends_it() {
    let bench = Bench::new();
    serve_on!(bench, served);
    bench.accept(served.as_mut());
    bench.wire.0.state.set(Line::Closed);
    assert_eq!(poll_once(served.as_mut()), Poll::Ready(Ok(Ended::Closed)));
    assert!(!bench.device.borrow().is_online());
}

#[test]
fn an_error_of_the_transport_is_given_to_the_caller() {
    let bench = Bench::new();
    serve_on!(bench, served);
    bench.wire.0.state.set(Line::Broken);
    assert_eq!(
        poll_once(served.as_mut()),
        Poll::Ready(Err(ErrorKind::ConnectionReset))
    );
}

#[test]
fn a_write_that_is_stuck_is_given_up() {
    let bench = Bench::new();
    serve_on!(bench, served);
    bench.wire.0.state.set(Line::Stuck);
    assert!(poll_once(served.as_mut()).is_pending());
    bench.clock.pass(30);
    assert_eq!(
        poll_once(served.as_mut()),
        Poll::Ready(Ok(Ended::WriteTimeout))
    );
}

#[test]
fn a_refusal_is_told_with_its_reason() {
    let bench = Bench::new();
    serve_on!(bench, served);
    bench.run(served.as_mut());
    bench.give(&Packet::Connack(Connack::with_reason(
        ReasonCode::NotAuthorized,
    )));
    let refused = Ended::Refused(ReasonCode::NotAuthorized);
    assert_eq!(poll_once(served.as_mut()), Poll::Ready(Ok(refused)));
}

#[test]
fn stop_says_good_bye_before_it_ends() {
    let bench = Bench::new();
    serve_on!(bench, served);
    bench.accept(served.as_mut());
    bench.run(served.as_mut());
    bench.device.borrow_mut().stop(bench.clock.now());
    bench.doorbell.ring();
    assert_eq!(poll_once(served.as_mut()), Poll::Ready(Ok(Ended::Asked)));
    assert!(matches!(
        bench.sent()[..],
        [Packet::Publish(_), Packet::Disconnect(_)]
    ));
}

#[test]
fn what_comes_while_it_is_stopped_does_no_harm() {
    let bench = Bench::new();
    serve_on!(bench, served);
    bench.accept(served.as_mut());
    bench.run(served.as_mut());
    bench.device.borrow_mut().stop(bench.clock.now());
    bench.give(&Packet::Pingresp);
    assert_eq!(poll_once(served.as_mut()), Poll::Ready(Ok(Ended::Asked)));
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Good,
    /// Nothing can be written.
    Stuck,
    /// The peer has closed it.
    Closed,
    Broken,
}

#[derive(Clone)]
struct Wire(Rc<Ends>);

struct Ends {
    state: Cell<Line>,
    to_device: RefCell<Vec<u8>>,
    to_broker: RefCell<Vec<u8>>,
}

impl ErrorType for Wire {
    type Error = ErrorKind;
}

impl Read for Wire {
    async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ErrorKind> {
        poll_fn(|_| {
            let mut bytes = self.0.to_device.borrow_mut();
            match self.0.state.get() {
                Line::Broken => Poll::Ready(Err(ErrorKind::ConnectionReset)),
                Line::Closed if bytes.is_empty() => Poll::Ready(Ok(0)),
                _ if bytes.is_empty() => Poll::Pending,
                _ => {
                    let count = bytes.len().min(buffer.len());
                    buffer[..count].copy_from_slice(&bytes[..count]);
                    bytes.drain(..count);
                    Poll::Ready(Ok(count))
                }
            }
        })
        .await
    }
}

impl Write for Wire {
    /// Three bytes at a time, so that the rest has to be written, too.
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, ErrorKind> {
        poll_fn(|_| match self.0.state.get() {
            Line::Stuck => Poll::Pending,
            Line::Broken => Poll::Ready(Err(ErrorKind::ConnectionReset)),
            Line::Good | Line::Closed => {
                let count = bytes.len().min(3);
                self.0.to_broker.borrow_mut().extend(&bytes[..count]);
                Poll::Ready(Ok(count))
            }
        })
        .await
    }

    async fn flush(&mut self) -> Result<(), ErrorKind> {
        Ok(())
    }
}

#[derive(Default)]
struct HandClock(Cell<Now>);

impl HandClock {
    fn pass(&self, seconds: u64) {
        let mut now = self.0.get();
        now.monotonic = now.monotonic + Duration::from_secs(seconds);
        self.0.set(now);
    }
}

impl Clock for HandClock {
    fn now(&self) -> Now {
        self.0.get()
    }

    async fn wait_until(&self, deadline: Instant) {
        poll_fn(|_| {
            if self.0.get().monotonic >= deadline {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }
}

struct Board;

impl Actuator for Board {
    fn digital_write(&mut self, _pin: u8, _level: bool) -> Result<(), Refusal> {
        Ok(())
    }
}

struct Bench {
    device: RefCell<Device<RamStore, Board>>,
    doorbell: Doorbell,
    clock: HandClock,
    wire: Wire,
}

impl Bench {
    fn new() -> Self {
        let config = Config::of("gauge-7", "localhost", 8883).unwrap();
        let ends = Ends {
            state: Cell::new(Line::Good),
            to_device: RefCell::default(),
            to_broker: RefCell::default(),
        };
        Self {
            device: RefCell::new(Device::new(&config, RamStore::new(10, 1000), Board, 1)),
            doorbell: Doorbell::new(),
            clock: HandClock::default(),
            wire: Wire(Rc::new(ends)),
        }
    }

    fn accept(&self, served: Pin<&mut impl Future<Output = Result<Ended, ErrorKind>>>) {
        let sent = self.run(served);
        assert!(matches!(sent[..], [Packet::Connect(_)]));
        self.give(&Packet::Connack(Connack::with_reason(ReasonCode::Success)));
    }

    /// Lets the driver do what it can; what it has sent.
    fn run(&self, served: Pin<&mut impl Future<Output = Result<Ended, ErrorKind>>>) -> Vec<Packet> {
        assert!(poll_once(served).is_pending());
        self.sent()
    }

    fn give(&self, packet: &Packet) {
        packet
            .encode(ProtocolVersion::V5, &mut self.wire.0.to_device.borrow_mut())
            .unwrap();
    }

    fn sent(&self) -> Vec<Packet> {
        let mut bytes = self.wire.0.to_broker.borrow_mut();
        let mut packets = Vec::new();
        while let Some((_, length)) = cut(&bytes, &Limits::PROTOCOL).unwrap() {
            let packet: Vec<u8> = bytes.drain(..length).collect();
            packets.push(decode(&packet, ProtocolVersion::V5, &Limits::PROTOCOL).unwrap());
        }
        packets
    }
}
