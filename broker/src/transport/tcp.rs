//! TCP: a listening socket as a listener's settings ask for it.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use super::{Detached, DetachedStream};

/// Opens a listening socket. An IPv6 address listens for IPv6 only. `device`: only what comes in there.
pub(crate) fn bind(address: SocketAddr, device: Option<&str>) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if let Some(device) = device {
        bind_device(&socket, device)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(super::unix::BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// An accepted socket, ready to be served.
pub(crate) fn accepted(stream: TcpStream) -> io::Result<Detached> {
    // We write once a turn, so there is nothing for the kernel to wait for.
    stream.set_nodelay(true)?;
    Ok(Detached {
        stream: DetachedStream::Tcp(stream.into_std()?),
        web: None,
    })
}

#[cfg(target_os = "linux")]
fn bind_device(socket: &Socket, device: &str) -> io::Result<()> {
    socket.bind_device(Some(device.as_bytes()))
}

#[cfg(not(target_os = "linux"))]
fn bind_device(_socket: &Socket, _device: &str) -> io::Result<()> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "bind_interface is possible on Linux only",
    ))
}
