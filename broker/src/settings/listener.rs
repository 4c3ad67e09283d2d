//! What an operator can choose for one listener, and who may come in through it.
//!
//! A field that is `None` follows the broker's own setting. Both configuration readers (`config/`) fill these; a connection
//! carries its listener's value from `accept` to the session.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use nightjar_certs::Identity;
use nightjar_storage::Durability;

/// One door: where it is, what is spoken there, and how those are treated who come through it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ListenerSettings {
    /// What it is called in the log and in metrics; `None` = its first endpoint.
    pub name: Option<Box<str>>,
    /// Where connections are accepted; never empty. Several where one host name or "every address" means several sockets.
    pub endpoints: Vec<Endpoint>,
    /// What is spoken.
    pub protocol: ListenerProtocol,
    /// The network device to bind to, by name; wins over the address. Linux, and the right to do so.
    pub bind_interface: Option<Box<str>>,
    /// What an acknowledgement to a client of this listener survives; `None` = as `durability` says.
    /// The store is kept as the strictest listener asks; `memory` acknowledges without waiting.
    pub durability: Option<Durability>,
    /// Put before every topic of this listener's clients, and taken off what they are sent. No wildcards.
    pub mount_point: Option<Box<str>>,
    /// Network Connections of this listener at the same time; `None` = no bound of its own. At the limit a new one is closed
    /// before anything is read from it.
    pub connections_max: Option<u64>,
    /// Highest QoS for its clients; the lower of this and the broker's holds.
    pub maximum_qos: Option<u8>,
    /// Topic Aliases its clients may use towards us; `None` = the broker's.
    pub topic_alias_maximum: Option<u16>,
    /// Topic Aliases we use towards its clients; `None` = the broker's.
    pub topic_alias_maximum_outbound: Option<u16>,
    /// The protocol versions it accepts; another gets 0x84, or the close.
    pub protocol_versions: ProtocolVersions,
    /// Whether the User Name takes the place of the Client Identifier. A CONNECT without one is refused with 0x87.
    pub use_username_as_client_id: bool,
    /// The PROXY header that comes before everything; a connection without it, or from outside `proxy_networks`, is closed.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Whether a version 2 header must say that the client used TLS.
    pub proxy_requires_tls: bool,
    /// Who may send a PROXY header; empty = whoever reaches the listener.
    pub proxy_networks: Vec<IpNetwork>,
    /// The values of Origin that a WebSocket may come from; empty = any.
    pub websocket_origins: Vec<Box<str>>,
    /// Directory of files that an `http_api` listener serves.
    pub http_directory: Option<PathBuf>,
    /// TLS on this listener; `None` = plain. See `speaks_tls`.
    pub tls: Option<TlsSettings>,
    /// Who may come in; `None` = as the broker's own `security` says.
    pub security: Option<SecuritySettings>,
    /// As `security.allow_anonymous`, for this listener alone.
    pub allow_anonymous: Option<bool>,
    /// What client ids begin with that we make up; `None` = as in `security`.
    pub auto_id_prefix: Option<Box<str>>,
}

/// Where a listener accepts.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Endpoint {
    /// Port 0 lets the operating system choose, and the log says which one it was.
    Tcp(SocketAddr),
    /// The path of a Unix socket. What lies there and is a socket that nobody listens on is replaced.
    Unix(PathBuf),
}

/// What is spoken on a listener.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum ListenerProtocol {
    #[default]
    Mqtt,
    WebSocket,
    /// Mosquitto's `http_api`: versions, listeners and `$SYS` as JSON.
    HttpApi,
}

/// Which of 3.1, 3.1.1 and 5.0 are accepted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ProtocolVersions {
    pub v3_1: bool,
    pub v3_1_1: bool,
    pub v5: bool,
}

/// The two forms of the PROXY header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ProxyProtocol {
    V1,
    V2,
}

/// An address range, such as 10.0.0.0/8.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct IpNetwork {
    pub address: IpAddr,
    pub prefix_bits: u8,
}

/// Who may come in, and what they may do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SecuritySettings {
    /// Whether a CONNECT without a User Name is accepted. Refused with 0x87 (Not authorized).
    pub allow_anonymous: bool,
    /// `user:hash` lines in the format of mosquitto_passwd.
    pub password_file: Option<PathBuf>,
    /// Rules in Mosquitto's acl_file language.
    pub acl_file: Option<PathBuf>,
    /// What a SUBSCRIBE to something that may not be read is answered.
    pub acl_subscribe: AclSubscribe,
    /// Whether an empty Client Identifier is accepted, where the protocol allows one.
    pub allow_zero_length_client_id: bool,
    /// What client ids begin with that we make up; at most 50 bytes.
    pub auto_id_prefix: Box<str>,
}

/// What a SUBSCRIBE to something that may not be read is answered.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum AclSubscribe {
    /// As Mosquitto: it is granted, and what may not be read is not delivered.
    Mosquitto,
    /// 0x87 (3.1.1: 0x80), and a line in the log.
    #[default]
    Strict,
}

/// TLS as a file asks for it. Paths are as written; the files are read when the listener opens, and again at a reload.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TlsSettings {
    pub certificate_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    pub ca_file: Option<PathBuf>,
    /// Directory of CA certificates.
    pub ca_path: Option<PathBuf>,
    pub crl_file: Option<PathBuf>,
    /// Certificates that others took the place of, each with the moment until which it is let in; its use is warned of.
    pub replaced_file: Option<PathBuf>,
    pub require_certificate: bool,
    pub use_identity_as_username: bool,
    pub use_subject_as_username: bool,
    /// Which name of a certificate is the identity.
    pub identity_from: CertificateName,
    /// Whether the Client Identifier must be the identity. Another is refused with 0x85; who has none gets the identity.
    pub bind_client_id: bool,
    /// As written: `tlsv1.2`, `tlsv1.3`.
    pub version: Option<Box<str>>,
    /// OpenSSL's names, as written.
    pub ciphers: Option<Box<str>>,
    pub ciphers_tls_1_3: Option<Box<str>>,
    /// Whether our order of ciphers decides, in which AES comes first; else the client's.
    pub prefer_aes: bool,
    pub disable_client_certificate_date_checks: bool,
    /// Where the secrets of its connections are written, for whoever has to read captured traffic; `None` = nowhere.
    pub key_log_file: Option<PathBuf>,
    /// Seconds from accepting a connection to the end of its handshake; then it is closed. At least 1.
    pub handshake_timeout_seconds: u32,
    /// Bytes of MQTT in one TLS record to a client at most; `None` = 16 KiB, the most there can be. The handshake's own records are as
    /// long as they are: clients with small buffers fail on certificates in pieces.
    pub record_size: Option<u16>,
    /// Whether clients may come back with a ticket that they keep for us, valid for 12 hours at most.
    pub session_tickets: bool,
    /// TLS sessions kept for clients without tickets, a few hundred bytes each; at the limit the oldest go. 0 = none.
    pub session_cache_max: u32,
}

/// Which name of a client's certificate is its identity.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum CertificateName {
    /// The Common Name, as Mosquitto has it.
    #[default]
    CommonName,
    /// The Subject Alternative Name of a host.
    Dns,
    /// The ID of the Subject Alternative Name `device:ID`.
    Uri,
}

impl ListenerSettings {
    /// A listener at one endpoint with nothing else chosen.
    pub fn at(endpoint: Endpoint) -> Self {
        Self {
            name: None,
            endpoints: vec![endpoint],
            protocol: ListenerProtocol::Mqtt,
            bind_interface: None,
            durability: None,
            mount_point: None,
            connections_max: None,
            maximum_qos: None,
            topic_alias_maximum: None,
            topic_alias_maximum_outbound: None,
            protocol_versions: ProtocolVersions::ALL,
            use_username_as_client_id: false,
            proxy_protocol: None,
            proxy_requires_tls: false,
            proxy_networks: Vec::new(),
            websocket_origins: Vec::new(),
            http_directory: None,
            tls: None,
            security: None,
            allow_anonymous: None,
            auto_id_prefix: None,
        }
    }
}

impl ListenerSettings {
    /// Whether TLS is spoken here. Behind a PROXY header the proxy does, and `tls` says what is asked of the certificates it has verified.
    pub fn speaks_tls(&self) -> bool {
        self.tls.is_some() && self.proxy_protocol.is_none()
    }

    /// What the listener is called in the log and in metrics.
    pub fn label(&self) -> Box<str> {
        match (&self.name, self.endpoints.first()) {
            (Some(name), _) => name.clone(),
            (None, Some(endpoint)) => endpoint.to_string().into(),
            (None, None) => Box::default(),
        }
    }
}

impl Default for TlsSettings {
    fn default() -> Self {
        Self {
            certificate_file: None,
            key_file: None,
            ca_file: None,
            ca_path: None,
            crl_file: None,
            replaced_file: None,
            require_certificate: false,
            use_identity_as_username: false,
            use_subject_as_username: false,
            identity_from: CertificateName::CommonName,
            bind_client_id: false,
            version: None,
            ciphers: None,
            ciphers_tls_1_3: None,
            prefer_aes: true,
            disable_client_certificate_date_checks: false,
            key_log_file: None,
            handshake_timeout_seconds: 10,
            record_size: None,
            session_tickets: true,
            session_cache_max: 20_000,
        }
    }
}

impl TlsSettings {
    /// What of it has a meaning where a proxy speaks TLS, whose header tells a common name.
    pub fn behind_a_proxy(&self) -> Self {
        Self {
            require_certificate: self.require_certificate,
            use_identity_as_username: self.use_identity_as_username,
            bind_client_id: self.bind_client_id,
            ..Self::default()
        }
    }

    /// The one name in a client's certificate that the listener goes by.
    pub fn identity_in<'a>(&self, names: &'a Identity) -> Option<&'a str> {
        match self.identity_from {
            CertificateName::CommonName => names.common_name.as_deref(),
            CertificateName::Dns => names.dns_name(),
            CertificateName::Uri => names.device(),
        }
    }

    /// The user name by a client's certificate, where names are taken from there.
    pub fn user_in<'a>(&self, names: &'a Identity) -> Option<&'a str> {
        let name = if self.use_identity_as_username {
            self.identity_in(names)
        } else {
            Some(&*names.subject)
        };
        name.filter(|name| !name.is_empty())
    }

    /// Whether clients are who their certificates say.
    pub fn names_users(&self) -> bool {
        self.use_identity_as_username || self.use_subject_as_username
    }
}

impl Default for ListenerSettings {
    /// This machine only, at a port of the system's choice.
    fn default() -> Self {
        let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        Self::at(Endpoint::Tcp(address))
    }
}

impl Endpoint {
    /// Of a listener that has none.
    pub fn unknown() -> Self {
        Self::Tcp(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0))
    }
}

impl ProtocolVersions {
    pub const ALL: Self = Self {
        v3_1: true,
        v3_1_1: true,
        v5: true,
    };
}

impl IpNetwork {
    /// Whether the address lies in the range. An IPv4 address in the form of an IPv6 one is the IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let host_bits = 32_u32.saturating_sub(self.prefix_bits.into());
                let differing = network.to_bits() ^ address.to_bits();
                differing.checked_shr(host_bits).unwrap_or(0) == 0
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let host_bits = 128_u32.saturating_sub(self.prefix_bits.into());
                let differing = network.to_bits() ^ address.to_bits();
                differing.checked_shr(host_bits).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl Default for SecuritySettings {
    fn default() -> Self {
        Self {
            allow_anonymous: true,
            password_file: None,
            acl_file: None,
            acl_subscribe: AclSubscribe::Strict,
            allow_zero_length_client_id: true,
            auto_id_prefix: "auto-".into(),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_contains_its_addresses_and_no_others() {
        let network = |address: &str, prefix_bits| IpNetwork {
            address: address.parse().unwrap(),
            prefix_bits,
        };
        let contains =
            |network: IpNetwork, address: &str| network.contains(address.parse().unwrap());
        assert!(contains(network("10.0.0.0", 8), "10.255.0.1"));
        assert!(contains(network("10.0.0.0", 8), "::ffff:10.1.2.3"));
        assert!(!contains(network("10.0.0.0", 8), "11.0.0.0"));
        assert!(contains(network("0.0.0.0", 0), "203.0.113.9"));
        assert!(!contains(network("0.0.0.0", 0), "::1"));
        assert!(contains(network("192.0.2.7", 32), "192.0.2.7"));
        assert!(!contains(network("192.0.2.7", 32), "192.0.2.6"));
        assert!(contains(network("2001:db8::", 32), "2001:db8:1::1"));
        assert!(!contains(network("2001:db8::", 32), "2001:db9::1"));
        assert!(contains(network("::", 0), "::1"));
    }
}
