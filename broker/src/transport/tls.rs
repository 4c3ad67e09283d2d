//! TLS over a socket.
//!
//! In go bytes to be encrypted, out come bytes that were decrypted; the session is rustls's. It moves between threads with its socket. A
//! session holds at most [`UNSENT_MAX`] bytes that the peer has not taken; then no more is accepted, and the send buffer above
//! fills instead. Each piece that is handed over becomes records of its own, so a listener's `record_size` is kept by handing over pieces; the
//! records of a handshake are as long as they are, since clients with little memory cannot put a certificate together again.

use std::io::{self, IoSlice, Read, Write};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nightjar_certs::{Client, Listener};
use rustls::{
    AlertDescription, CertificateError, Error as TlsError, HandshakeKind, InvalidMessage,
    OtherError, ProtocolVersion, ServerConnection,
};

use super::Stream;

/// Keys and what is under way: all of TLS but the socket.
pub(crate) struct Session {
    connection: ServerConnection,
    /// Bytes in one record to the client at most; `None`: as many as a record has room for.
    record_size: Option<usize>,
}

/// A socket with TLS on it.
pub(crate) struct Secure {
    below: Stream,
    session: ServerConnection,
    record_size: Option<usize>,
}

/// How a handshake went.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Shaken {
    pub(crate) is_1_3: bool,
    pub(crate) was_resumed: bool,
}

/// Why a client that came with TLS does not come in.
pub(crate) enum Refused {
    /// In the words of the library.
    Handshake(String),
    /// No certificate, or one that is not accepted: the client has heard so by an alert.
    InHandshake(String),
    /// The same of a session that was resumed, or of a handshake that has been overtaken by a reload.
    Certificate(String),
    Gone,
}

/// A client that is turned away, and its socket where it waits for an answer.
pub(crate) struct Rejected {
    why: Refused,
    below: Option<Box<Stream>>,
}

impl Rejected {
    /// A socket that is closed upon bytes nobody has read takes the alert from the peer. So they are read, for a moment.
    pub(crate) async fn part(below: Option<Box<Stream>>) {
        if let Some(mut below) = below {
            let _ = tokio::time::timeout(LINGER, below.part()).await;
        }
    }

    pub(crate) fn split(self) -> (Refused, Option<Box<Stream>>) {
        (self.why, self.below)
    }
}

impl From<Refused> for Rejected {
    fn from(why: Refused) -> Self {
        Self { why, below: None }
    }
}

impl Secure {
    /// The whole handshake. The peer is told what is wrong, if anything is. `now`: the wall clock.
    pub(crate) async fn accept(
        below: Stream,
        listener: &Listener,
        record_size: Option<usize>,
        now: impl FnOnce() -> Duration,
    ) -> Result<(Self, Shaken, Option<Client>), Rejected> {
        let session = ServerConnection::new(listener.config().clone())
            .map_err(|error| Refused::Handshake(error.to_string()))?;
        let mut secure = Self {
            below,
            session,
            record_size,
        };
        secure.session.set_buffer_limit(Some(UNSENT_MAX));
        while secure.session.is_handshaking() {
            secure.flush().await.map_err(|_| Refused::Gone)?;
            if !secure.session.is_handshaking() {
                break;
            }
            let received = std::future::poll_fn(|context| secure.poll_receive(context)).await;
            match received {
                Ok(0) => return Err(Refused::Gone.into()),
                Ok(_) => {}
                Err(error) => {
                    // The alert, as far as the peer takes it.
                    let _ = secure.flush().await;
                    return Err(secure.reject(refusal(&error)));
                }
            }
        }
        secure.flush().await.map_err(|_| Refused::Gone)?;
        let shaken = Shaken {
            is_1_3: secure.session.protocol_version() == Some(ProtocolVersion::TLSv1_3),
            was_resumed: secure.session.handshake_kind() == Some(HandshakeKind::Resumed),
        };
        match secure.client(listener, shaken.was_resumed, now()) {
            Ok(client) => Ok((secure, shaken, client)),
            Err(refused) => {
                // There is no way to say more behind a handshake.
                secure.say_goodbye();
                let _ = secure.send();
                Err(secure.reject(refused))
            }
        }
    }

    fn reject(self, why: Refused) -> Rejected {
        let is_there = !matches!(why, Refused::Gone);
        Rejected {
            why,
            below: is_there.then(|| Box::new(self.below)),
        }
    }

    /// Who the client is, if it has a certificate. One that was seen in an earlier session is looked at again.
    fn client(
        &self,
        listener: &Listener,
        was_resumed: bool,
        now: Duration,
    ) -> Result<Option<Client>, Refused> {
        let refused = |reason: String| Refused::Certificate(reason);
        let Some(certificates) = self.session.peer_certificates() else {
            // A handshake would not have come to this; a session that was resumed is not believed.
            return match listener.requires_certificate() {
                true => Err(refused("there is none".into())),
                false => Ok(None),
            };
        };
        if was_resumed {
            listener
                .check_again(certificates, now)
                .map_err(|error| refused(error.to_string()))?;
        }
        let client = listener.client(certificates);
        client.map(Some).map_err(|fault| refused(fault.to_string()))
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
        let count = self.encrypt(bytes)?;
        self.send_written(count)
    }

    /// The same of several pieces, which share records.
    pub(crate) fn try_write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let Some(record_size) = self.record_size else {
            let count = self.session.writer().write_vectored(slices)?;
            return self.send_written(count);
        };
        let (mut all, mut rest) = (0, slices);
        while let Some(first) = rest.first() {
            let (mut together, mut bytes) = (1, first.len());
            for slice in rest.iter().skip(1) {
                if bytes + slice.len() > record_size {
                    break;
                }
                bytes += slice.len();
                together += 1;
            }
            let (now, later) = rest.split_at(together);
            let count = match now {
                [one] => self.encrypt(one)?,
                several => self.session.writer().write_vectored(several)?,
            };
            all += count;
            if count < bytes {
                break;
            }
            rest = later;
        }
        self.send_written(all)
    }

    fn encrypt(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(record_size) = self.record_size else {
            return self.session.writer().write(bytes);
        };
        let mut all = 0;
        for piece in bytes.chunks(record_size.max(1)) {
            let count = self.session.writer().write(piece)?;
            all += count;
            if count < piece.len() {
                break;
            }
        }
        Ok(all)
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
        let session = Session {
            connection: self.session,
            record_size: self.record_size,
        };
        (self.below, session)
    }

    pub(crate) fn join(below: Stream, session: Session) -> Self {
        Self {
            below,
            session: session.connection,
            record_size: session.record_size,
        }
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

/// A handshake that failed: whose fault it is, and in which words.
fn refusal(error: &io::Error) -> Refused {
    let Some(inner) = error.get_ref() else {
        return Refused::Gone;
    };
    match inner.downcast_ref() {
        None => Refused::Handshake(error.to_string()),
        Some(TlsError::InvalidCertificate(CertificateError::Other(OtherError(fault)))) => {
            Refused::InHandshake(fault.to_string())
        }
        Some(error @ (TlsError::InvalidCertificate(_) | TlsError::NoCertificatesPresented)) => {
            Refused::InHandshake(format!("{error}{}", in_plain_words(error)))
        }
        Some(error) => Refused::Handshake(format!("{error}{}", in_plain_words(error))),
    }
}

/// What an operator is to do about it, where the library's words do not say.
fn in_plain_words(error: &TlsError) -> &'static str {
    use AlertDescription::{
        BadCertificate, CertificateExpired, CertificateUnknown, InternalError, UnknownCA,
    };
    match error {
        TlsError::AlertReceived(UnknownCA) => {
            " (the client does not know the authority of this broker's certificate, so it needs that authority's certificate)"
        }
        TlsError::AlertReceived(CertificateExpired) => {
            " (to the client this broker's certificate is not valid now, so compare its dates with the client's clock)"
        }
        // The second is what mosquitto's clients say where the name is another.
        TlsError::AlertReceived(BadCertificate | InternalError | CertificateUnknown) => {
            " (the client does not accept this broker's certificate, which must hold the name by which it calls the broker)"
        }
        TlsError::InvalidCertificate(CertificateError::UnknownIssuer) => {
            " (it does not lead to an authority whose clients are let in)"
        }
        TlsError::InvalidCertificate(CertificateError::UnknownRevocationStatus) => {
            " (there is no list of revoked certificates of its authority)"
        }
        TlsError::InvalidCertificate(
            CertificateError::ExpiredRevocationList
            | CertificateError::ExpiredRevocationListContext { .. },
        ) => {
            " (the list of revoked certificates has ended: nobody is let in before there is a newer one, as `nightjar-certs crl` writes it)"
        }
        TlsError::InvalidMessage(InvalidMessage::InvalidContentType) => {
            " (this is no TLS, but may be MQTT without it)"
        }
        _ => "",
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

/// How long a peer that is refused has to take the alert.
const LINGER: Duration = Duration::from_millis(500);
/// Bytes that one session holds for a peer that does not take them.
const UNSENT_MAX: usize = 64 * 1024;
