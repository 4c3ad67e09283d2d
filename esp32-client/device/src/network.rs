//! From a name to a stream of bytes that only the right broker can read: address, TCP, TLS.

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::net::Ipv4Addr;

use embassy_net::dns::DnsQueryType;
use embassy_net::tcp::TcpSocket;
use embassy_net::{IpAddress, Stack};
use embassy_time::{Duration, with_timeout};
use log::info;
use mbedtls_rs::{Session, SessionError, TlsReference, TlsVersion};

use crate::identity::Identity;

/// Why there is no connection.
#[derive(Debug)]
#[non_exhaustive]
pub enum NoConnection {
    /// The name has no address, or nobody to ask for it answers.
    Address,
    /// Nobody listens there, or no answer came in time.
    Tcp,
    /// The handshake failed. The flags are those of mbedTLS for the broker's certificate.
    Tls {
        /// What mbedTLS says.
        error: SessionError,
        /// `MBEDTLS_X509_BADCERT_*`.
        certificate: u32,
    },
    /// The handshake took too long.
    Slow,
}

impl fmt::Display for NoConnection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address => formatter.write_str("no address of the broker"),
            Self::Tcp => formatter.write_str("the broker cannot be reached"),
            Self::Tls { error, certificate } => {
                write!(formatter, "TLS: {error:?}")?;
                let reasons = REASONS.iter().filter(|(flag, _)| certificate & flag != 0);
                // All bits are set where the handshake ended before the certificate was looked at.
                for (_, reason) in reasons.filter(|_| *certificate != u32::MAX) {
                    write!(formatter, ", the broker's certificate {reason}")?;
                }
                Ok(())
            }
            Self::Slow => formatter.write_str("TLS: the handshake took too long"),
        }
    }
}

impl core::error::Error for NoConnection {}

/// The memory of one TCP connection, used for one after another.
pub struct Buffers {
    received: Vec<u8>,
    sent: Vec<u8>,
}

impl Buffers {
    /// As large as a window that a sleeping radio fills, and no larger.
    pub fn new() -> Self {
        Self {
            received: vec![0; 4096],
            sent: vec![0; 2048],
        }
    }
}

impl Default for Buffers {
    fn default() -> Self {
        Self::new()
    }
}

/// Connects once.
///
/// # Errors
///
/// At the first step that fails.
pub async fn connect<'a>(
    stack: Stack<'a>,
    tls: TlsReference<'a>,
    identity: &'a Identity,
    (host, port): (&str, u16),
    buffers: &'a mut Buffers,
) -> Result<Session<'a, TcpSocket<'a>>, NoConnection> {
    let address = address_of(stack, host).await.ok_or(NoConnection::Address)?;
    let mut socket = TcpSocket::new(stack, &mut buffers.received, &mut buffers.sent);
    socket.set_timeout(Some(SILENCE_MAX));
    with_timeout(CONNECT_WITHIN, socket.connect((address, port)))
        .await
        .map_err(|_| NoConnection::Tcp)?
        .map_err(|_| NoConnection::Tcp)?;
    let config = identity.session();
    let refused = |error| NoConnection::Tls {
        error,
        certificate: u32::MAX,
    };
    let mut session = Session::new(tls, socket, &config).map_err(refused)?;
    match with_timeout(HANDSHAKE_WITHIN, session.connect()).await {
        Ok(Ok(())) => {
            let version = match session.tls_version() {
                Some(TlsVersion::Tls1_2) => "1.2",
                Some(TlsVersion::Tls1_3) => "1.3",
                None => "?",
            };
            info!("TLS {version} with {host}:{port}");
            Ok(session)
        }
        Ok(Err(error)) => Err(NoConnection::Tls {
            error,
            certificate: session.tls_verification_details(),
        }),
        Err(_) => Err(NoConnection::Slow),
    }
}

/// The first address of a name, or of an address itself.
pub(crate) async fn address_of(stack: Stack<'_>, host: &str) -> Option<Ipv4Addr> {
    if let Ok(address) = host.parse() {
        return Some(address);
    }
    let query = stack.dns_query(host, DnsQueryType::A);
    let answer = with_timeout(CONNECT_WITHIN, query).await.ok()?.ok()?;
    answer
        .iter()
        .map(|IpAddress::Ipv4(address)| *address)
        .next()
}

/// `MBEDTLS_X509_BADCERT_*` that a person can do something about.
const REASONS: [(u32, &str); 6] = [
    (0x01, "has expired"),
    (0x02, "has been revoked"),
    (0x04, "is not for this name"),
    (0x08, "is not of the authority"),
    (0x0200, "is not yet valid"),
    (0x1000, "is not for TLS servers"),
];

const CONNECT_WITHIN: Duration = Duration::from_secs(15);
/// On an ESP32-C3 without the hardware for it, two checks and one signature of ECDSA take about two seconds.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(30);
/// How long the other side may leave what was sent without an answer.
const SILENCE_MAX: Duration = Duration::from_secs(60);
