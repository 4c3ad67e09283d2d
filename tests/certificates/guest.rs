//! A client with TLS that tells how it was received: an alert by its number, MQTT, or neither.
//!
//! Comes in: papers, a version, a port. Goes out: what the broker did. Sessions are kept, so that a second visit resumes the first where the
//! broker allows it.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use harness::{Connect, timeout, upgrade_request, web_frame};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, Tls12Resumption};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind, SignatureScheme,
    StreamOwned, SupportedProtocolVersion,
};
use socket2::{Domain, Socket, Type};

use crate::forger::Papers;

/// What lies over TLS.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Door {
    Tcp,
    Web,
    /// Where a web browser is answered.
    Http,
}

/// One client, as often as it comes.
#[derive(Clone)]
pub(crate) struct Guest {
    config: Arc<ClientConfig>,
}

/// How a client was received.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Reception {
    /// CONNACK with code 0, or any answer in HTTP.
    In { resumed: bool },
    /// CONNACK with another one.
    Refused { code: u8 },
    /// A fatal alert, before any byte of MQTT.
    Alert(u8),
    /// The end of the connection without a word about why.
    Close(String),
}

/// A connection, and what came of it. It stays open for as long as this is kept.
pub(crate) struct Visit {
    pub(crate) reception: Reception,
    /// As the broker's log has it.
    pub(crate) address: SocketAddr,
    client_id: String,
    pub(crate) stream: StreamOwned<ClientConnection, TcpStream>,
}

impl Guest {
    pub(crate) fn new(version: &'static SupportedProtocolVersion, papers: Option<&Papers>) -> Self {
        Self::resuming(version, papers, Tls12Resumption::SessionIdOrTickets)
    }

    /// Which of the two ways to resume that TLS 1.2 has.
    pub(crate) fn resuming(
        version: &'static SupportedProtocolVersion,
        papers: Option<&Papers>,
        tls12: Tls12Resumption,
    ) -> Self {
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[version])
            .expect("the provider has suites for it")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Trusting));
        let mut config = match papers {
            Some(Papers(key)) => {
                let resolver = SingleCertAndKey::from(Arc::clone(key));
                builder.with_client_cert_resolver(Arc::new(resolver))
            }
            None => builder.with_no_client_auth(),
        };
        config.resumption = Resumption::in_memory_sessions(32).tls12_resumption(tls12);
        Self {
            config: Arc::new(config),
        }
    }

    /// Would say something before the handshake is over, if it may.
    pub(crate) fn sending_early(
        version: &'static SupportedProtocolVersion,
        papers: Option<&Papers>,
    ) -> Self {
        let mut guest = Self::new(version, papers);
        Arc::make_mut(&mut guest.config).enable_early_data = true;
        guest
    }

    /// Names protocols (ALPN).
    pub(crate) fn asking_for(
        version: &'static SupportedProtocolVersion,
        papers: Option<&Papers>,
        protocols: &[&str],
    ) -> Self {
        let mut guest = Self::new(version, papers);
        let names = protocols.iter().map(|name| name.as_bytes().to_vec());
        Arc::make_mut(&mut guest.config).alpn_protocols = names.collect();
        guest
    }

    /// Its side of TLS, without a socket.
    pub(crate) fn client(&self) -> ClientConnection {
        let name = ServerName::try_from("localhost").expect("it is a name");
        ClientConnection::new(Arc::clone(&self.config), name).expect("the configuration is sound")
    }

    /// Connects with 3.1.1, each time under a Client Identifier of its own: one that somebody else has just had may still be theirs.
    #[track_caller]
    pub(crate) fn visit(&self, port: u16, door: Door) -> Visit {
        static VISITS: AtomicU32 = AtomicU32::new(1);
        let number = VISITS.fetch_add(1, Ordering::Relaxed);
        let client_id = format!("papers-{number}");
        let mut visit = self.visit_with(port, door, &Connect::v4(&client_id));
        visit.client_id = client_id;
        visit
    }

    #[track_caller]
    pub(crate) fn visit_with(&self, port: u16, door: Door, connect: &Connect) -> Visit {
        let client = self.client();
        let socket = connect_from_elsewhere(port).expect("the broker listens");
        socket.set_nodelay(true).expect("a socket can be told");
        socket
            .set_read_timeout(Some(timeout().max(harness::PATIENCE)))
            .expect("a timeout above zero is accepted");
        let address = socket.local_addr().expect("it is connected");
        let mut stream = StreamOwned::new(client, socket);
        let reception =
            converse(&mut stream, door, connect).unwrap_or_else(|error| why(&mut stream, &error));
        Visit {
            reception,
            address,
            client_id: String::new(),
            stream,
        }
    }
}

impl Visit {
    /// The line of the log about somebody who came in by `visit`, under this name.
    pub(crate) fn line(&self, user: &str) -> String {
        let (address, client_id) = (self.address, &self.client_id);
        format!("New client connected from {address} as {client_id} (p4, c1, k60, u'{user}').")
    }
}

/// From an address of this machine that nobody has had: the system gives ports again, and a line of the log is to be of one visit.
fn connect_from_elsewhere(port: u16) -> io::Result<TcpStream> {
    static VISITS: AtomicU32 = AtomicU32::new(1);
    let number = VISITS.fetch_add(1, Ordering::Relaxed);
    let own = Ipv4Addr::from_bits(Ipv4Addr::new(127, 1, 0, 0).to_bits() + number);
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((own, 0)).into())?;
    socket.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
    Ok(socket.into())
}

fn converse(
    stream: &mut StreamOwned<ClientConnection, TcpStream>,
    door: Door,
    connect: &Connect,
) -> io::Result<Reception> {
    let mut connack = [0; 4];
    match door {
        Door::Tcp => {
            stream.write_all(&connect.bytes())?;
            stream.read_exact(&mut connack)?;
        }
        Door::Web => {
            let request = upgrade_request("Sec-WebSocket-Protocol: mqtt\r\n");
            stream.write_all(&request)?;
            let mut answer = Vec::new();
            while !answer.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte)?;
                answer.extend(byte);
            }
            assert!(answer.starts_with(b"HTTP/1.1 101 "), "{answer:?}");
            stream.write_all(&web_frame(0x82, &connect.bytes()))?;
            let mut frame = [0; 6];
            stream.read_exact(&mut frame)?;
            assert_eq!(frame[..2], [0x82, 4], "a frame with a CONNACK");
            connack.copy_from_slice(&frame[2..]);
        }
        Door::Http => {
            stream.write_all(b"GET /api/v1/version HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
            let mut version = [0; 9];
            stream.read_exact(&mut version)?;
            assert_eq!(&version, b"HTTP/1.1 ");
            connack = [0x20, 2, 0, 0];
        }
    }
    let resumed = stream.conn.handshake_kind() == Some(HandshakeKind::Resumed);
    Ok(match connack {
        [0x20, 2, _, 0] => Reception::In { resumed },
        [0x20, 2, _, code] => Reception::Refused { code },
        other => panic!("no CONNACK: {other:?}"),
    })
}

/// The alert, where there was one.
fn why(stream: &mut StreamOwned<ClientConnection, TcpStream>, error: &io::Error) -> Reception {
    if let Some(alert) = alert(error) {
        return Reception::Alert(alert);
    }
    // What could not be written says nothing; what the broker said before waits to be read.
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Err(later) => alert(&later).map_or_else(
            || Reception::Close(format!("{error}, then {later}")),
            Reception::Alert,
        ),
        Ok(_) => Reception::Close(format!("{error}, then the end")),
    }
}

/// The number of the alert that an error is about.
fn alert(error: &io::Error) -> Option<u8> {
    match error.get_ref()?.downcast_ref()? {
        rustls::Error::AlertReceived(alert) => Some(u8::from(*alert)),
        _ => None,
    }
}

/// It is not the broker's certificate that is looked at here.
#[derive(Debug)]
struct Trusting;

impl ServerCertVerifier for Trusting {
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
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
