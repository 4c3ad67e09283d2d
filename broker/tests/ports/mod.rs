//! Ports for the brokers of these tests.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};

use socket2::{Domain, Socket, Type};

/// Free on both loopback addresses. It is not of the range that the system gives to outgoing connections, nor one that another test of this
/// program has.
pub(crate) fn free_port() -> u16 {
    static COUNT: AtomicU16 = AtomicU16::new(0);
    let first = u16::try_from(std::process::id() % 28).expect("it is below 28") * 100;
    loop {
        let port = 2_000 + (first + COUNT.fetch_add(1, Ordering::Relaxed)) % 2_800;
        let v4 = try_to_bind((Ipv4Addr::LOCALHOST, port).into());
        // Where there is no IPv6, nobody has it there.
        let v6 = try_to_bind((Ipv6Addr::LOCALHOST, port).into());
        let is_taken = |error: &std::io::Error| error.kind() == ErrorKind::AddrInUse;
        if v4.is_ok() && !v6.as_ref().is_err_and(is_taken) {
            return port;
        }
    }
}

/// As a listener would, but without listening: a process that another test starts at this moment has a copy of the socket until it has
/// become another program, and one that listens would keep the broker from the port for so long.
fn try_to_bind(address: SocketAddr) -> std::io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}
