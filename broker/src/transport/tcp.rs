//! TCP: a listening socket as a listener's settings ask for it.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::TcpStream;

use super::{Stream, Transport};

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
    let socket = socket.into();
    do_not_delay(&socket)?;
    Ok(socket)
}

/// We write once a turn, so there is nothing for the kernel to wait for. What is accepted inherits it.
pub(crate) fn do_not_delay(socket: &TcpListener) -> io::Result<()> {
    SockRef::from(socket).set_tcp_nodelay(true)
}

/// An accepted socket, ready to be served.
pub(crate) fn accepted(stream: TcpStream) -> Transport {
    Transport {
        stream: Stream::Tcp(stream),
        web: None,
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_accepted_socket_does_not_wait_for_more_to_send() {
        let listener = bind(([127, 0, 0, 1], 0).into(), None).unwrap();
        let address = listener.local_addr().unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let _client = TcpStream::connect(address).await.unwrap();
        let (socket, _) = listener.accept().await.unwrap();
        assert!(socket.nodelay().unwrap());
    }
}
