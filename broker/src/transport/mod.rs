//! What the bytes of a Network Connection go through: a socket, and WebSocket over it where the listener asks for it.
//!
//! In come bytes of MQTT to be sent, out go bytes of MQTT that were received. A `Transport` belongs to one runtime;
//! `Detached` is the same between two (D13). Plain TCP is a branch away from the socket. Which calls exist on which system,
//! what a PROXY header says and how an HTTP request becomes a WebSocket is known in here only. Nothing here knows MQTT.

mod foreign;
pub(crate) mod opening;
mod proxy;
pub(crate) mod tcp;
pub(crate) mod tls;
pub(crate) mod unix;
mod upgrade;
mod websocket;

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nightjar_certs::{Client, Listener};
use socket2::SockRef;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

pub use crate::identity::Peer;
use crate::session::send_buffer::{BufferPool, SendBuffer};
use tls::Secure;
use websocket::WebSocket;

/// An open connection on this thread's runtime.
pub struct Transport {
    stream: Stream,
    /// Boxed: plain connections do not pay for it.
    web: Option<Box<WebSocket>>,
}

/// The same between two runtimes.
pub struct Detached {
    stream: DetachedStream,
    web: Option<Box<WebSocket>>,
}

/// The socket itself.
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// Boxed: plain connections do not pay for it.
    Tls(Box<Secure>),
}

enum DetachedStream {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
    Tls(Box<Self>, Box<tls::Session>),
}

/// What a read brought.
pub(crate) enum Incoming {
    /// Bytes of MQTT, at the start of the buffer.
    Bytes {
        count: usize,
        /// The buffer was filled: there may be more.
        is_full: bool,
    },
    /// Nothing of MQTT: a ping, or a part of a frame's head.
    Nothing,
    /// The peer has said its last word, or one that ends the connection.
    End,
}

impl Transport {
    /// Reads once into `buffer`.
    #[inline]
    pub(crate) fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<Incoming>> {
        let Some(web) = &mut self.web else {
            let size = buffer.len();
            let count = ready!(self.stream.poll_read(context, buffer))?;
            return Poll::Ready(Ok(match count {
                0 => Incoming::End,
                count => Incoming::Bytes {
                    count,
                    is_full: count == size,
                },
            }));
        };
        web.poll_read(&mut self.stream, context, buffer)
    }

    /// Writes as much of `send` as the socket takes. True: everything is written.
    #[inline]
    pub(crate) fn try_write(
        &mut self,
        send: &mut SendBuffer,
        pool: &mut BufferPool,
    ) -> io::Result<bool> {
        if let Some(web) = &mut self.web {
            return web.try_write(&mut self.stream, send, pool);
        }
        while !send.is_empty() {
            let result = match send.as_single() {
                Some(bytes) => self.stream.try_write(bytes),
                None => {
                    let mut slices = [IoSlice::new(&[]); SLICES];
                    let filled = send.slices(&mut slices);
                    self.stream
                        .try_write_vectored(slices.get(..filled).unwrap_or_default())
                }
            };
            match result {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => send.advance(count, pool),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        self.stream.send_accepted()
    }

    /// Ready when the socket takes bytes again.
    pub(crate) fn poll_write_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_write_ready(context)
    }

    /// There is an answer of the transport itself to be written, such as to a ping.
    #[inline]
    pub(crate) fn has_own_answer(&self) -> bool {
        self.web.as_ref().is_some_and(|web| web.has_own_answer())
    }

    /// The peer is to hear why, so the socket is not just dropped.
    pub(crate) fn parts_politely(&self) -> bool {
        self.web.is_some() || matches!(self.stream, Stream::Tls(_))
    }

    /// Sends FIN behind the last bytes and reads what the peer still says, so that the kernel does not reset the connection
    /// and take our last bytes from the peer. Whoever calls gives it a time.
    pub(crate) async fn part(mut self) {
        if let Some(web) = &mut self.web {
            web.say_goodbye();
            let (mut nothing, mut pool) = (SendBuffer::default(), BufferPool::default());
            while let Ok(false) = web.try_write(&mut self.stream, &mut nothing, &mut pool) {
                if self.stream.writable().await.is_err() {
                    return;
                }
            }
        }
        self.stream.part().await;
    }

    /// The same connection with TLS on it, and who the client is by its certificate. `now`: the wall clock.
    pub(crate) async fn secure(
        self,
        listener: &Listener,
        record_size: Option<usize>,
        now: impl FnOnce() -> Duration,
    ) -> Result<(Self, tls::Shaken, Option<Client>), tls::Rejected> {
        let secure = Secure::accept(self.stream, listener, record_size, now);
        let (secure, shaken, client) = secure.await?;
        let transport = Self {
            stream: Stream::Tls(Box::new(secure)),
            web: self.web,
        };
        Ok((transport, shaken, client))
    }

    pub(crate) fn detach(self) -> io::Result<Detached> {
        Ok(Detached {
            stream: self.stream.detach()?,
            web: self.web,
        })
    }
}

impl Detached {
    /// Belongs to the runtime of this thread from here on.
    pub(crate) fn attach(self) -> io::Result<Transport> {
        Ok(Transport {
            stream: self.stream.attach()?,
            web: self.web,
        })
    }
}

impl DetachedStream {
    fn attach(self) -> io::Result<Stream> {
        Ok(match self {
            Self::Tcp(stream) => Stream::Tcp(TcpStream::from_std(stream)?),
            Self::Unix(stream) => Stream::Unix(UnixStream::from_std(stream)?),
            Self::Tls(below, session) => {
                Stream::Tls(Box::new(Secure::join(below.attach()?, *session)))
            }
        })
    }
}

impl Stream {
    fn detach(self) -> io::Result<DetachedStream> {
        Ok(match self {
            Self::Tcp(stream) => DetachedStream::Tcp(stream.into_std()?),
            Self::Unix(stream) => DetachedStream::Unix(stream.into_std()?),
            Self::Tls(secure) => {
                let (below, session) = secure.split();
                DetachedStream::Tls(Box::new(below.detach()?), Box::new(session))
            }
        })
    }

    #[inline]
    fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut read = ReadBuf::new(buffer);
        match self {
            Self::Tcp(stream) => ready!(Pin::new(stream).poll_read(context, &mut read))?,
            Self::Unix(stream) => ready!(Pin::new(stream).poll_read(context, &mut read))?,
            Self::Tls(secure) => return secure.poll_read(context, buffer),
        }
        Poll::Ready(Ok(read.filled().len()))
    }

    fn poll_write_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_write_ready(context),
            Self::Unix(stream) => stream.poll_write_ready(context),
            Self::Tls(secure) => secure.below().poll_write_ready(context),
        }
    }

    /// What was accepted and is not in the socket yet. False: the socket takes no more now.
    #[inline]
    fn send_accepted(&mut self) -> io::Result<bool> {
        match self {
            Self::Tcp(_) | Self::Unix(_) => Ok(true),
            Self::Tls(secure) => secure.send(),
        }
    }

    async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        std::future::poll_fn(|context| self.poll_read(context, buffer)).await
    }

    #[inline]
    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Unix(stream) => stream.try_write(bytes),
            Self::Tls(secure) => secure.try_write(bytes),
        }
    }

    #[inline]
    fn try_write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write_vectored(slices),
            Self::Unix(stream) => stream.try_write_vectored(slices),
            Self::Tls(secure) => secure.try_write_vectored(slices),
        }
    }

    async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.writable().await,
            Self::Unix(stream) => stream.writable().await,
            Self::Tls(secure) => Box::pin(secure.below().writable()).await,
        }
    }

    async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.writable().await?;
            match self.try_write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The last words of TLS, where there is any.
    fn say_goodbye(&mut self) {
        if let Self::Tls(secure) = self {
            secure.say_goodbye();
        }
    }

    /// FIN.
    fn shut_down_writing(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => SockRef::from(stream).shutdown(Shutdown::Write),
            Self::Unix(stream) => SockRef::from(stream).shutdown(Shutdown::Write),
            Self::Tls(secure) => secure.below().shut_down_writing(),
        }
    }

    /// FIN, then whatever still comes is read and forgotten.
    async fn part(&mut self) {
        let shut = match self {
            Self::Tcp(_) | Self::Unix(_) => self.shut_down_writing(),
            Self::Tls(secure) => {
                secure.say_goodbye();
                while let Ok(false) = secure.send() {
                    if Box::pin(secure.below().writable()).await.is_err() {
                        return;
                    }
                }
                return Box::pin(secure.below_mut().part()).await;
            }
        };
        if shut.is_err() {
            return;
        }
        let mut ignored = [0; 1024];
        for _ in 0..PARTING_READS {
            match self.read(&mut ignored).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }
}

const SLICES: usize = 64;
const PARTING_READS: usize = 256;
