//! What a listener serves with: its certificate, whom it trusts, and how sessions are resumed.
//!
//! **Resumption.** A resumed session brings the client's certificate from its first handshake, and rustls does not look at it again. Who
//! accepts a resumed session asks [`Listener::check_again`], so that a certificate which has expired or was revoked since is not let in.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{Ticketer, default_provider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ServerSessionMemoryCache, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};

use crate::ciphers;
use crate::key_log::KeyLogFile;

/// The files and choices of one listener, as its operator wrote them.
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// The server's certificate, and those between it and the root.
    pub certificate_file: PathBuf,
    /// Its key: PKCS 8, PKCS 1 or SEC 1, not encrypted.
    pub key_file: PathBuf,
    /// Certificates that clients' certificates must lead to.
    pub ca_file: Option<PathBuf>,
    /// Directory of such certificates.
    pub ca_path: Option<PathBuf>,
    /// What has been revoked.
    pub crl_file: Option<PathBuf>,
    /// A client without a certificate is refused.
    pub require_certificate: bool,
    pub minimum_version: MinimumVersion,
    /// OpenSSL's names of suites for TLS 1.2, with colons between them; `None`: all there are.
    pub ciphers: Option<String>,
    /// The same for TLS 1.3.
    pub ciphers_tls_1_3: Option<String>,
    /// Where the secrets of connections are written.
    pub key_log_file: Option<PathBuf>,
}

/// The lowest version of TLS that is spoken.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum MinimumVersion {
    #[default]
    Tls12,
    Tls13,
}

/// What was read.
#[derive(Debug)]
pub struct Loaded {
    pub listener: Listener,
    /// What is asked for and not there, in words.
    pub warnings: Vec<String>,
}

/// Makes the TLS sessions of one listener.
#[derive(Clone, Debug)]
pub struct Listener {
    config: Arc<ServerConfig>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
}

/// A client's certificate is not trusted any more.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NotTrusted(String);

/// Why a listener cannot be served.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum LoadError {
    File {
        /// What the file is for, in the words of the option.
        what: &'static str,
        path: PathBuf,
        reason: String,
    },
    /// Certificates are required, and there is nothing they could lead to.
    NoAuthorities,
    /// No cipher suite is left.
    NoCiphers,
    Config(String),
}

impl Listener {
    /// Reads the files.
    pub fn load(files: &Files) -> Result<Loaded, LoadError> {
        let mut warnings = Vec::new();
        let chain = certificates("certfile", &files.certificate_file)?;
        let key = PrivateKeyDer::from_pem_file(&files.key_file)
            .map_err(|error| unreadable("keyfile", &files.key_file, &error))?;
        let (suites, unknown) =
            ciphers::allowed(files.ciphers.as_deref(), files.ciphers_tls_1_3.as_deref());
        if !unknown.is_empty() {
            warnings.push(format!(
                "these ciphers are not available and are left out: {}",
                unknown.join(", ")
            ));
        }
        if suites.is_empty() {
            return Err(LoadError::NoCiphers);
        }
        let provider = Arc::new(CryptoProvider {
            cipher_suites: suites,
            ..default_provider()
        });
        let versions: &[&SupportedProtocolVersion] = match files.minimum_version {
            MinimumVersion::Tls12 => &[&TLS13, &TLS12],
            MinimumVersion::Tls13 => &[&TLS13],
        };
        let verifier = if files.require_certificate {
            Some(verifier(files, &provider)?)
        } else {
            None
        };
        let builder = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(|error| LoadError::Config(error.to_string()))?;
        let builder = match &verifier {
            Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(|error| LoadError::Config(error.to_string()))?;
        // Devices come back all at once: most of them without a full handshake.
        config.session_storage = ServerSessionMemoryCache::new(SESSIONS_KEPT);
        config.ticketer = Ticketer::new().map_err(|error| LoadError::Config(error.to_string()))?;
        // Our suites are in the order we want where the client has no better reason than its own list.
        config.ignore_client_order = true;
        if let Some(path) = &files.key_log_file {
            let opened = KeyLogFile::open(path).map_err(|error| LoadError::File {
                what: "key_log_file",
                path: path.clone(),
                reason: error.to_string(),
            })?;
            config.key_log = Arc::new(opened);
        }
        Ok(Loaded {
            listener: Self {
                config: Arc::new(config),
                verifier,
            },
            warnings,
        })
    }

    pub fn config(&self) -> &Arc<ServerConfig> {
        &self.config
    }

    /// Whether clients must have certificates.
    pub fn requires_certificate(&self) -> bool {
        self.verifier.is_some()
    }

    /// Looks at a client's certificates as a full handshake would at this moment: chain, dates, revocation.
    pub fn check_again(
        &self,
        certificates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), NotTrusted> {
        let Some(verifier) = &self.verifier else {
            return Ok(());
        };
        let Some((own, between)) = certificates.split_first() else {
            return Err(NotTrusted("there is no certificate".into()));
        };
        verifier
            .verify_client_cert(own, between, now)
            .map(drop)
            .map_err(|error| NotTrusted(error.to_string()))
    }
}

fn verifier(
    files: &Files,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, LoadError> {
    let mut authorities = RootCertStore::empty();
    let mut add = |what, path: &Path| {
        for certificate in certificates(what, path)? {
            authorities
                .add(certificate)
                .map_err(|error| unreadable(what, path, &error))?;
        }
        Ok(())
    };
    if let Some(file) = &files.ca_file {
        add("cafile", file)?;
    }
    if let Some(directory) = &files.ca_path {
        for file in files_in(directory)? {
            add("capath", &file)?;
        }
    }
    if authorities.is_empty() {
        return Err(LoadError::NoAuthorities);
    }
    let mut builder =
        WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), Arc::clone(provider));
    if let Some(file) = &files.crl_file {
        let read = |error: &dyn fmt::Display| unreadable("crlfile", file, error);
        let lists = CertificateRevocationListDer::pem_file_iter(file)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| read(&error))?;
        if lists.is_empty() {
            return Err(read(&"there is no list in it"));
        }
        // As OpenSSL's CRL_CHECK: the client's own certificate, by a list of its issuer that is still valid.
        builder = builder
            .with_crls(lists)
            .only_check_end_entity_revocation()
            .enforce_revocation_expiration();
    }
    builder
        .build()
        .map(|verifier| verifier as Arc<dyn ClientCertVerifier>)
        .map_err(|error| LoadError::Config(error.to_string()))
}

fn certificates(
    what: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, LoadError> {
    let found = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unreadable(what, path, &error))?;
    if found.is_empty() {
        return Err(unreadable(what, path, &"there is no certificate in it"));
    }
    Ok(found)
}

/// The files of a directory that hold certificates, by name.
fn files_in(directory: &Path) -> Result<Vec<PathBuf>, LoadError> {
    let unreadable = |error: std::io::Error| unreadable("capath", directory, &error);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let is_certificate = path
            .extension()
            .and_then(|extension| extension.to_str())
            .is_some_and(|extension| {
                // What c_rehash makes ends with a number.
                matches!(extension, "pem" | "crt" | "cer")
                    || extension.bytes().all(|byte| byte.is_ascii_digit())
            });
        if is_certificate && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn unreadable(what: &'static str, path: &Path, reason: &dyn fmt::Display) -> LoadError {
    LoadError::File {
        what,
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { what, path, reason } => {
                write!(f, "{what} {} cannot be used: {reason}", path.display())
            }
            Self::NoAuthorities => f.write_str(
                "require_certificate needs a cafile or capath: the certificates that clients' certificates must lead to",
            ),
            Self::NoCiphers => f.write_str("none of the ciphers is available"),
            Self::Config(reason) => f.write_str(reason),
        }
    }
}

impl std::error::Error for LoadError {}

impl fmt::Display for NotTrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotTrusted {}

/// Sessions of TLS 1.2 clients without tickets that can be resumed; a few hundred bytes each.
const SESSIONS_KEPT: usize = 20_000;
