//! TLS towards a broker: what to trust, who to be, and the one place of this crate that knows rustls.
//!
//! Comes in: file names of PEM files. Goes out: a `Secure`, which reads and writes like the socket below it. Every
//! connection makes a full handshake: sessions are not resumed, so that what is measured does not depend on the order.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mio::net::TcpStream;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme,
};

/// What the connections of a target trust, and as whom they come.
#[derive(Clone, Debug)]
pub struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

/// What a person asks for.
#[derive(Clone, Copy, Debug)]
pub struct TlsPlan<'a> {
    /// The name that the broker's certificate must have.
    pub host: &'a str,
    /// Certificates to trust; without it nothing is verified.
    pub ca: Option<&'a Path>,
    /// Certificate and key to authenticate with.
    pub identity: Option<(&'a Path, &'a Path)>,
}

impl Tls {
    /// Reads the files.
    pub fn new(plan: TlsPlan<'_>) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let invalid = |error: rustls::Error| TlsError::Config(error.to_string());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(invalid)?;
        let builder = match plan.ca {
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(path)? {
                    roots.add(certificate).map_err(invalid)?;
                }
                builder.with_root_certificates(roots)
            }
            None => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Anybody(provider))),
        };
        let mut config = match plan.identity {
            Some((chain, key)) => {
                let unreadable = |error| TlsError::pem(key, &error);
                let private_key = PrivateKeyDer::from_pem_file(key).map_err(unreadable)?;
                builder
                    .with_client_auth_cert(certificates(chain)?, private_key)
                    .map_err(invalid)?
            }
            None => builder.with_no_client_auth(),
        };
        config.resumption = Resumption::disabled();
        let name = match plan.host.parse::<IpAddr>() {
            Ok(address) => ServerName::from(address),
            Err(_) => ServerName::try_from(plan.host.to_owned())
                .map_err(|_| TlsError::Name(plan.host.to_owned()))?,
        };
        Ok(Self {
            config: Arc::new(config),
            name,
        })
    }
}

/// A socket with or without TLS over it.
#[derive(Debug)]
pub struct Secure {
    stream: TcpStream,
    session: Option<ClientConnection>,
}

impl Secure {
    /// The handshake begins with the first byte written or read.
    pub fn new(stream: TcpStream, tls: Option<&Tls>) -> io::Result<Self> {
        let session =
            tls.map(|tls| ClientConnection::new(Arc::clone(&tls.config), tls.name.clone()));
        let session = session.transpose().map_err(invalid_data)?;
        Ok(Self { stream, session })
    }

    /// The socket.
    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Something was accepted that the socket has not taken.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        let session = self.session.as_ref();
        session.is_some_and(|session| session.wants_write())
    }

    /// Sends what was accepted as far as the socket takes it; `WouldBlock` if that is not all.
    pub fn push(&mut self) -> io::Result<()> {
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        while session.wants_write() {
            session.write_tls(&mut self.stream)?;
        }
        Ok(())
    }
}

impl Read for Secure {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(session) = &mut self.session else {
            return self.stream.read(buffer);
        };
        loop {
            match session.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // A close without a goodbye is the broker's business, not a cut message: frames have lengths.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                other => return other,
            }
            if session.read_tls(&mut self.stream)? == 0 {
                return Ok(0);
            }
            let processed = session.process_new_packets();
            // An alert too is to be sent.
            while session.wants_write() {
                match session.write_tls(&mut self.stream) {
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
            processed.map_err(invalid_data)?;
        }
    }
}

impl Write for Secure {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.session.is_none() {
            return self.stream.write(bytes);
        }
        self.push()?;
        let session = self.session.as_mut();
        let accepted = session.map_or(Ok(0), |session| session.writer().write(bytes))?;
        if accepted == 0 && !bytes.is_empty() {
            // Full, because the handshake is not over.
            return Err(io::ErrorKind::WouldBlock.into());
        }
        match self.push() {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(accepted),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.push()
    }
}

/// Trusts everybody: for brokers of one's own, whose certificates nobody has signed.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unreadable = |error| TlsError::pem(path, &error);
    let certificates = CertificateDer::pem_file_iter(path).map_err(unreadable)?;
    let certificates: Result<Vec<_>, _> = certificates.collect();
    let certificates = certificates.map_err(unreadable)?;
    if certificates.is_empty() {
        return Err(TlsError::Empty(path.to_owned()));
    }
    Ok(certificates)
}

fn invalid_data(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Why there can be no TLS.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum TlsError {
    Pem { path: PathBuf, reason: String },
    Empty(PathBuf),
    Name(String),
    Config(String),
}

impl TlsError {
    fn pem(path: &Path, error: &rustls::pki_types::pem::Error) -> Self {
        Self::Pem {
            path: path.to_owned(),
            reason: error.to_string(),
        }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pem { path, reason } => write!(out, "cannot read {}: {reason}", path.display()),
            Self::Empty(path) => write!(out, "no certificate in {}", path.display()),
            Self::Name(name) => write!(out, "{name:?} is no name that a certificate can have"),
            Self::Config(reason) => write!(out, "no TLS with these certificates: {reason}"),
        }
    }
}

impl std::error::Error for TlsError {}
