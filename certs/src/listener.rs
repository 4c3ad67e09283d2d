//! What a listener serves with: its certificate, whom it trusts, and how sessions are resumed.
//!
//! **Resumption.** A resumed session brings the client's certificate from its first handshake, and rustls does not look at it again. Who
//! accepts a resumed session asks [`Listener::check_again`], so that a certificate which has expired or was revoked since is not let in.
//! Sessions that began under other rules are not resumed at all.
//!
//! Times are since 1970.
//!
//! **Renewal.** [`Listener::renew`] reads the files again. What cannot be read, or cannot be used, stays as it was: the certificate with its
//! key, the authorities, the list of what was revoked, each for itself.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{Ticketer, default_provider};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::{NoServerSessionStorage, ServerSessionMemoryCache};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, SupportedProtocolVersion};

use crate::ciphers;
use crate::client::{Client, Void};
use crate::files::{Expiry, Files, LoadError, MinimumVersion, Pair, unreadable};
use crate::identity::IdentityFault;
use crate::key_log::KeyLogFile;
use crate::trust::Trust;

/// What was read.
#[derive(Debug)]
pub struct Loaded {
    pub listener: Listener,
    /// What is asked for and not there, in words.
    pub warnings: Vec<String>,
    /// What could not be used, and stays as it was.
    pub kept: Vec<LoadError>,
}

/// Makes the TLS sessions of one listener.
#[derive(Clone, Debug)]
pub struct Listener {
    config: Arc<ServerConfig>,
    own: Arc<CertifiedKey>,
    own_expiry: Expiry,
    trust: Option<Arc<Trust>>,
    session_cache_max: usize,
}

/// A client's certificate is not trusted any more.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NotTrusted(String);

impl Listener {
    /// Reads the files: all of them or none.
    pub fn load(files: &Files) -> Result<Loaded, LoadError> {
        Self::make(files, None)
    }

    /// Reads the files again. What cannot be used stays as it was; a server's certificate that is not valid now takes the place of none that is.
    pub fn renew(&self, files: &Files, now: Duration) -> Result<Loaded, LoadError> {
        Self::make(files, Some((self, now)))
    }

    fn make(files: &Files, before: Option<(&Self, Duration)>) -> Result<Loaded, LoadError> {
        let mut kept = Vec::new();
        let (suites, warnings) = suites(files)?;
        let provider = Arc::new(CryptoProvider {
            cipher_suites: suites,
            ..default_provider()
        });
        let (own, own_expiry) = keep(
            own(files, &provider, before),
            before.map(|(before, _)| (Arc::clone(&before.own), before.own_expiry.clone())),
            &mut kept,
        )?;
        let trust = if files.require_certificate {
            let before = before.and_then(|(before, _)| before.trust.as_deref());
            Some(Arc::new(trust(files, &provider, before, &mut kept)?))
        } else {
            None
        };
        let versions: &[&SupportedProtocolVersion] = match files.minimum_version {
            MinimumVersion::Tls12 => &[&TLS13, &TLS12],
            MinimumVersion::Tls13 => &[&TLS13],
        };
        let builder = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(|error| LoadError::Config(error.to_string()))?;
        let builder = match &trust {
            Some(trust) => builder.with_client_cert_verifier(trust.verifier()),
            None => builder.with_no_client_auth(),
        };
        let resolver = Arc::new(SingleCertAndKey::from(Arc::clone(&own)));
        let mut config = builder.with_cert_resolver(resolver);
        let is_same_trust = |before: &Self| match (&before.trust, &trust) {
            (Some(before), Some(now)) => now.is_that_of(before),
            (None, None) => true,
            _ => false,
        };
        match before.filter(|(before, _)| is_same_trust(before)) {
            // Everybody who was connected may resume, also where the server has another certificate.
            Some((before, _)) if before.resumes_as(files) => {
                config
                    .session_storage
                    .clone_from(&before.config.session_storage);
                config.ticketer.clone_from(&before.config.ticketer);
            }
            // Devices come back all at once: most of them without a full handshake.
            _ => {
                config.session_storage = match files.session_cache_max {
                    0 => Arc::new(NoServerSessionStorage {}),
                    size => ServerSessionMemoryCache::new(size),
                };
                if files.session_tickets {
                    config.ticketer =
                        Ticketer::new().map_err(|error| LoadError::Config(error.to_string()))?;
                }
            }
        }
        config.ignore_client_order = files.prefer_aes;
        if let Some(path) = &files.key_log_file {
            let opened =
                KeyLogFile::open(path).map_err(|error| unreadable("key_log_file", path, &error))?;
            config.key_log = Arc::new(opened);
        }
        Ok(Loaded {
            listener: Self {
                config: Arc::new(config),
                own,
                own_expiry,
                trust,
                session_cache_max: files.session_cache_max,
            },
            warnings,
            kept,
        })
    }

    pub fn config(&self) -> &Arc<ServerConfig> {
        &self.config
    }

    /// Whether clients must have certificates.
    pub fn requires_certificate(&self) -> bool {
        self.trust.is_some()
    }

    /// Certificates and lists that are in use, each with its end.
    pub fn expiries(&self) -> impl Iterator<Item = &Expiry> {
        let of_clients = self.trust.iter().flat_map(|trust| trust.expiries());
        std::iter::once(&self.own_expiry).chain(of_clients)
    }

    /// Looks at a client's certificates as a full handshake would at this moment: chain, dates, revocation.
    pub fn check_again(
        &self,
        certificates: &[CertificateDer<'_>],
        now: Duration,
    ) -> Result<(), NotTrusted> {
        let Some(trust) = &self.trust else {
            return Ok(());
        };
        trust
            .verify(certificates, UnixTime::since_unix_epoch(now))
            .map_err(|error| NotTrusted(error.to_string()))
    }

    /// Whether what a client of this listener came with was withdrawn, as far as dates and lists say. Cheap.
    pub fn why_void(&self, client: &Client, now: Duration) -> Option<Void> {
        let now = UnixTime::since_unix_epoch(now);
        self.trust.as_ref()?.why_void(client, now)
    }

    /// Whether its chain leads to nobody who is trusted. Costs the check of a few signatures.
    pub fn why_untrusted(&self, client: &Client, now: Duration) -> Option<Void> {
        let now = UnixTime::since_unix_epoch(now);
        self.trust.as_ref()?.why_untrusted(client, now)
    }

    /// Whether clients of the other would be asked for the same authorities.
    pub fn has_authorities_of(&self, other: &Self) -> bool {
        match (&self.trust, &other.trust) {
            (Some(this), Some(other)) => this.has_authorities_of(other),
            (None, _) => true,
            (Some(_), None) => false,
        }
    }

    /// The client that has proven to own the first of these, which a handshake has verified.
    pub fn client(&self, chain: &[CertificateDer<'_>]) -> Result<Client, IdentityFault> {
        let looks_at_dates = self
            .trust
            .as_ref()
            .is_none_or(|trust| trust.looks_at_dates());
        Client::of(chain, looks_at_dates)
    }

    /// Until when a certificate is let in that another took the place of.
    pub fn replaced_until(&self, client: &Client) -> Option<u64> {
        let trust = self.trust.as_ref()?;
        trust.replaced.get(client.serial()).copied()
    }

    /// The first moment after this one from which on a certificate that was replaced is not let in.
    pub fn next_end_of_replaced(&self, after: u64) -> Option<u64> {
        let ends = self.trust.as_ref()?.replaced.values();
        ends.copied().filter(|end| *end >= after).min()
    }

    fn resumes_as(&self, files: &Files) -> bool {
        self.config.ticketer.enabled() == files.session_tickets
            && self.session_cache_max == files.session_cache_max
    }
}

fn suites(files: &Files) -> Result<(Vec<rustls::SupportedCipherSuite>, Vec<String>), LoadError> {
    let (suites, unknown) =
        ciphers::allowed(files.ciphers.as_deref(), files.ciphers_tls_1_3.as_deref());
    let mut warnings = Vec::new();
    if !unknown.is_empty() {
        warnings.push(format!(
            "these ciphers are not available and are left out: {}",
            unknown.join(", ")
        ));
    }
    if suites.is_empty() {
        return Err(LoadError::NoCiphers);
    }
    Ok((suites, warnings))
}

/// A value, or the one from before and a note that it stays.
fn keep<T>(
    read: Result<T, LoadError>,
    before: Option<T>,
    kept: &mut Vec<LoadError>,
) -> Result<T, LoadError> {
    match (read, before) {
        (Err(error), Some(before)) => {
            kept.push(error);
            Ok(before)
        }
        (read, _) => read,
    }
}

fn own(
    files: &Files,
    provider: &CryptoProvider,
    before: Option<(&Listener, Duration)>,
) -> Result<(Arc<CertifiedKey>, Expiry), LoadError> {
    let Pair { chain, key, expiry } = files.pair()?;
    let own = CertifiedKey::from_der(chain, key, provider)
        .map_err(|error| unreadable("keyfile", &files.key_file, &error))?;
    if let Some((before, now)) = before {
        let is_valid =
            |expiry: &Expiry| (expiry.not_before..=expiry.not_after).contains(&now.as_secs());
        if is_valid(&before.own_expiry) && !is_valid(&expiry) {
            let reason = "it is not valid now, and the one in use is";
            return Err(unreadable("certfile", &files.certificate_file, &reason));
        }
    }
    Ok((Arc::new(own), expiry))
}

fn trust(
    files: &Files,
    provider: &Arc<CryptoProvider>,
    before: Option<&Trust>,
    kept: &mut Vec<LoadError>,
) -> Result<Trust, LoadError> {
    let authorities = keep(
        files.authorities(),
        before.map(|before| before.authorities.clone()),
        kept,
    )?;
    let revoked = keep(
        files.revoked(),
        before.map(|before| before.revoked.clone()),
        kept,
    )?;
    let replaced = keep(
        files.replaced().map(Arc::new),
        before.map(|before| Arc::clone(&before.replaced)),
        kept,
    )?;
    let made = Trust::new(files, provider, authorities, revoked, replaced);
    keep(made, before.cloned(), kept)
}

impl fmt::Display for NotTrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotTrusted {}
