//! Asks a time server (SNTP) until it has told the time. It is believed: who can forge its answers can make a certificate last longer
//! than it should, and nothing else.

use core::net::{IpAddr, SocketAddr};

use embassy_net::Stack;
use embassy_net::udp::{PacketMetadata, UdpSocket};
use embassy_time::{Duration, Timer, with_timeout};
use log::{info, warn};
use sntpc::{NtpContext, NtpTimestampGenerator};
use sntpc_net_embassy::UdpSocketWrapper;

use crate::clock::CLOCK;
use crate::network::address_of;

/// Returns when [`CLOCK`] has been told the time, however long that takes. A clock that was told within a day is not asked for again,
/// and one that was told before goes on if nobody answers.
pub async fn synchronize(stack: Stack<'_>, server: &str) {
    if CLOCK.is_fresh(FRESH_SECONDS) {
        return;
    }
    let mut wait = WAIT_MIN;
    while !ask(stack, server).await && CLOCK.wall().is_none() {
        Timer::after(wait).await;
        wait = (wait * 2).min(WAIT_MAX);
    }
}

/// One question; whether it was answered with a time that can be.
async fn ask(stack: Stack<'_>, server: &str) -> bool {
    let (host, port) = host_and_port(server);
    let Some(address) = address_of(stack, host).await else {
        warn!("time: no address of {host}");
        return false;
    };
    let (mut received, mut sent) = ([0; 128], [0; 128]);
    let (mut arrivals, mut departures) = ([PacketMetadata::EMPTY; 2], [PacketMetadata::EMPTY; 2]);
    let mut socket = UdpSocket::new(
        stack,
        &mut arrivals,
        &mut received,
        &mut departures,
        &mut sent,
    );
    if socket.bind(0).is_err() {
        return false;
    }
    let server = SocketAddr::new(IpAddr::V4(address), port);
    let socket = UdpSocketWrapper::new(socket);
    let question = sntpc::get_time(server, &socket, NtpContext::new(Asked::default()));
    match with_timeout(ANSWER_WITHIN, question).await {
        Ok(Ok(answer)) => {
            let seconds = u64::from(answer.sec());
            let taken = CLOCK.set(seconds);
            if taken {
                info!("time: {seconds} seconds since 1970");
            } else {
                warn!("time: {seconds} seconds since 1970 cannot be");
            }
            taken
        }
        Ok(Err(error)) => {
            warn!("time: {error:?}");
            false
        }
        Err(_) => {
            warn!("time: no answer");
            false
        }
    }
}

/// `host` or `host:port`.
fn host_and_port(server: &str) -> (&str, u16) {
    server
        .rsplit_once(':')
        .and_then(|(host, port)| Some((host, port.parse().ok()?)))
        .unwrap_or((server, PORT))
}

/// When a question was asked. The clock need not be right for that: the answer repeats it, and the era of 136 years follows from it.
#[derive(Clone, Copy, Default)]
struct Asked {
    millis: u64,
    micros: u32,
}

impl NtpTimestampGenerator for Asked {
    fn init(&mut self) {
        self.millis = CLOCK
            .wall()
            .unwrap_or_else(|| ABOUT_NOW + CLOCK.since_power_on().as_millis());
        self.micros = u32::try_from(CLOCK.since_power_on().as_micros() % 1000).unwrap_or(0);
    }

    fn timestamp_sec(&self) -> u64 {
        self.millis / 1000
    }

    fn timestamp_subsec_micros(&self) -> u32 {
        u32::try_from(self.millis % 1000).unwrap_or(0) * 1000 + self.micros
    }
}

const PORT: u16 = 123;
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const WAIT_MIN: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(60);
const FRESH_SECONDS: u64 = 24 * 60 * 60;
/// 2026-01-01, in milliseconds.
const ABOUT_NOW: u64 = 1_767_225_600_000;
