//! TLS over a socket.
//!
//! In go bytes to be encrypted, out come bytes that were decrypted; the session is rustls's. It moves between threads with its socket. A
//! session holds at most [`UNSENT_MAX`] bytes that the peer has not taken; then no more is accepted, and the send buffer above
//! fills instead.

use std::io::{self, IoSlice, Read, Write};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nightjar_certs::{Identity, Listener};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::{HandshakeKind, ServerConnection};

use super::Stream;

/// Keys and what is under way: all of TLS but the socket.
pub(crate) type Session = ServerConnection;

/// A socket with TLS on it.
pub(crate) struct Secure {
    below: Stream,
    session: Session,
}

/// Why a client that came with TLS does not come in.
pub(crate) enum Refused {
    /// In the words of the library.
    Handshake(String),
    Certificate(String),
    Gone,
}

impl Secure {
    /// The whole handshake. The peer is told what is wrong, if anything is. `now`: the wall clock.
    pub(crate) async fn accept(
        below: Stream,
        listener: &Listener,
        now: Duration,
    ) -> Result<(Self, Option<Identity>), Refused> {
        let session = ServerConnection::new(listener.config().clone())
            .map_err(|error| Refused::Handshake(error.to_string()))?;
        let mut secure = Self { below, session };
        secure.session.set_buffer_limit(Some(UNSENT_MAX));
        while secure.session.is_handshaking() {
            secure.flush().await.map_err(|_| Refused::Gone)?;
            if !secure.session.is_handshaking() {
                break;
            }
            let received = std::future::poll_fn(|context| secure.poll_receive(context)).await;
            match received {
                Ok(0) => return Err(Refused::Gone),
                Ok(_) => {}
                Err(error) => {
                    // The alert, as far as the peer takes it.
                    let _ = secure.flush().await;
                    return Err(match error.kind() {
                        io::ErrorKind::InvalidData => Refused::Handshake(error.to_string()),
                        _ => Refused::Gone,
                    });
                }
            }
        }
        secure.flush().await.map_err(|_| Refused::Gone)?;
        let identity = secure.identity(listener, now)?;
        Ok((secure, identity))
    }

    /// Who the client is, if it has a certificate. One that was seen in an earlier session is looked at again.
    fn identity(&self, listener: &Listener, now: Duration) -> Result<Option<Identity>, Refused> {
        let Some(certificates) = self.session.peer_certificates() else {
            return Ok(None);
        };
        let refused = |reason: String| Refused::Certificate(reason);
        if self.session.handshake_kind() == Some(HandshakeKind::Resumed) {
            listener
                .check_again(certificates, UnixTime::since_unix_epoch(now))
                .map_err(|error| refused(error.to_string()))?;
        }
        let own: Option<&CertificateDer<'_>> = certificates.first();
        own.map(|own| Identity::of(own).map_err(|fault| refused(fault.to_string())))
            .transpose()
    }

    /// Decrypted bytes; 0 at the end.
    pub(crate) fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            match self.session.reader().read(buffer) {
                Ok(count) => return Poll::Ready(Ok(count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // The peer closed without a word, as many devices do.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Poll::Ready(Ok(0));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
            let received = ready!(self.poll_receive(context));
            if self.session.wants_write() {
                // An alert, or the answer to a change of keys.
                self.send()?;
            }
            received?;
        }
    }

    /// Takes bytes to encrypt, as many as there is room for.
    pub(crate) fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.session.writer().write(bytes)?;
        self.send_written(count)
    }

    /// The same of several pieces, which share records.
    pub(crate) fn try_write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let count = self.session.writer().write_vectored(slices)?;
        self.send_written(count)
    }

    fn send_written(&mut self, count: usize) -> io::Result<usize> {
        self.send()?;
        // Nobody asks with nothing.
        if count == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(count)
    }

    /// Writes what is encrypted. False: the socket did not take all of it.
    pub(crate) fn send(&mut self) -> io::Result<bool> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut Writing(&mut self.below)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    pub(crate) fn say_goodbye(&mut self) {
        self.session.send_close_notify();
    }

    pub(crate) fn below(&self) -> &Stream {
        &self.below
    }

    pub(crate) fn below_mut(&mut self) -> &mut Stream {
        &mut self.below
    }

    /// The same session on a socket of another runtime.
    pub(crate) fn split(self) -> (Stream, Session) {
        (self.below, self.session)
    }

    pub(crate) fn join(below: Stream, session: Session) -> Self {
        Self { below, session }
    }

    async fn flush(&mut self) -> io::Result<()> {
        while !self.send()? {
            self.below.writable().await?;
        }
        Ok(())
    }

    /// Reads once from the socket and lets the session work on it. `InvalidData`: what the peer sent is not TLS as it should be.
    fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut socket = Reading {
            below: &mut self.below,
            context,
        };
        let count = match self.session.read_tls(&mut socket) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
            Err(error) => return Poll::Ready(Err(error)),
        };
        let worked = self.session.process_new_packets();
        Poll::Ready(match worked {
            Ok(_) => Ok(count),
            Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        })
    }
}

struct Reading<'a, 'b> {
    below: &'a mut Stream,
    context: &'a mut Context<'b>,
}

impl Read for Reading<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.below.poll_read(self.context, buffer) {
            Poll::Ready(result) => result,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

struct Writing<'a>(&'a mut Stream);

impl Write for Writing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Bytes that one session holds for a peer that does not take them.
const UNSENT_MAX: usize = 64 * 1024;
