//! Whom a listener lets in: authorities, what was revoked, what was replaced; asked at a handshake, and about those who are in.
//!
//! **At a handshake** everything is asked: the chain, the dates, a list of its issuer that is still valid, and that its names can be read in
//! one way only. **Of those who are in** it is asked whether something was withdrawn from them: a list that has ended, or that says nothing
//! of their issuer, is no reason to part with everybody at once, since who comes anew is refused by it and somebody will notice.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

use crate::client::{Client, Void};
use crate::files::{
    Authorities, Expiry, Files, LoadError, Replaced, Revoked, seconds, unreadable, without_zeros,
};
use crate::identity::Identity;

/// What holds for the clients of one listener.
#[derive(Clone, Debug)]
pub(crate) struct Trust {
    pub(crate) authorities: Authorities,
    pub(crate) revoked: Option<Revoked>,
    pub(crate) replaced: Arc<Replaced>,
    ignores_dates: bool,
    at_handshake: Arc<Verifier>,
    of_those_who_are_in: Arc<Verifier>,
}

impl Trust {
    pub(crate) fn new(
        files: &Files,
        provider: &Arc<CryptoProvider>,
        authorities: Authorities,
        revoked: Option<Revoked>,
        replaced: Arc<Replaced>,
    ) -> Result<Self, LoadError> {
        let mut roots = RootCertStore::empty();
        for certificate in &authorities.certificates {
            let added = roots.add(certificate.clone());
            // Of a directory what can be used.
            if let (Err(error), Some(file)) = (added, &files.ca_file)
                && files.ca_path.is_none()
            {
                return Err(unreadable("cafile", file, &error));
            }
        }
        if roots.is_empty() {
            return Err(LoadError::NoAuthorities);
        }
        let roots = Arc::new(roots);
        let verifier = |is_handshake: bool| {
            let mut builder = WebPkiClientVerifier::builder_with_provider(
                Arc::clone(&roots),
                Arc::clone(provider),
            );
            if let Some(revoked) = &revoked {
                // As OpenSSL's CRL_CHECK: the client's own certificate, by a list of its issuer that is still valid.
                builder = builder
                    .with_crls(revoked.lists.iter().cloned())
                    .only_check_end_entity_revocation();
                if !is_handshake {
                    builder = builder.allow_unknown_revocation_status();
                } else if !files.ignore_client_dates {
                    builder = builder.enforce_revocation_expiration();
                }
            }
            let chains = builder
                .build()
                .map_err(|error| match (&files.crl_file, error) {
                    (Some(file), error @ rustls::server::VerifierBuilderError::InvalidCrl(_)) => {
                        unreadable("crlfile", file, &error)
                    }
                    (_, error) => LoadError::Config(error.to_string()),
                })?;
            Ok(Arc::new(Verifier {
                chains,
                ignores_dates: files.ignore_client_dates,
                replaced: Arc::clone(&replaced),
            }))
        };
        Ok(Self {
            at_handshake: verifier(true)?,
            of_those_who_are_in: verifier(false)?,
            authorities,
            revoked,
            replaced,
            ignores_dates: files.ignore_client_dates,
        })
    }

    pub(crate) fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::clone(&self.at_handshake) as Arc<dyn ClientCertVerifier>
    }

    /// Whether sessions that began under the other may be resumed under this.
    pub(crate) fn is_that_of(&self, other: &Self) -> bool {
        let lists = |trust: &Self| trust.revoked.as_ref().map(|revoked| revoked.lists.clone());
        self.has_authorities_of(other)
            && lists(self) == lists(other)
            && self.replaced == other.replaced
            && self.ignores_dates == other.ignores_dates
    }

    pub(crate) fn has_authorities_of(&self, other: &Self) -> bool {
        self.authorities.certificates == other.authorities.certificates
    }

    /// Everything that a full handshake asks.
    pub(crate) fn verify(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Error> {
        verify(&self.at_handshake, chain, now)
    }

    /// What costs no signature: dates, and lists.
    pub(crate) fn why_void(&self, client: &Client, now: UnixTime) -> Option<Void> {
        let is_revoked = |revoked: &Revoked| revoked.serials.contains(&client.serial_of_issuer());
        if self.revoked.as_ref().is_some_and(is_revoked) {
            Some(Void::Revoked)
        } else if client.not_after() < now.as_secs() {
            Some(Void::Expired)
        } else if is_over(&self.replaced, client.serial(), now) {
            Some(Void::Replaced)
        } else {
            None
        }
    }

    /// Whether its chain leads to an authority of now.
    pub(crate) fn why_untrusted(&self, client: &Client, now: UnixTime) -> Option<Void> {
        match verify(&self.of_those_who_are_in, client.chain(), now) {
            Ok(()) => None,
            Err(Error::InvalidCertificate(CertificateError::Revoked)) => Some(Void::Revoked),
            Err(Error::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. },
            )) => Some(Void::Expired),
            Err(error) => Some(Void::Untrusted(error.to_string().into())),
        }
    }

    pub(crate) fn looks_at_dates(&self) -> bool {
        !self.ignores_dates
    }

    pub(crate) fn expiries(&self) -> impl Iterator<Item = &Expiry> {
        let of_lists = self.revoked.iter().flat_map(|revoked| &revoked.expiry);
        self.authorities.expiries.iter().chain(of_lists)
    }
}

fn verify(verifier: &Verifier, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Error> {
    let Some((own, between)) = chain.split_first() else {
        return Err(Error::NoCertificatesPresented);
    };
    verifier.verify_client_cert(own, between, now).map(drop)
}

/// Certificates that the library would take, or refuse in words that nobody can use.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Unfit {
    /// Bits of RSA.
    WeakKey(usize),
    /// Certificates, the client's own among them.
    LongChain(usize),
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WeakKey(bits) => write!(
                f,
                "its key is weak: {bits} bits of RSA, and {RSA_BITS_MIN} are needed"
            ),
            Self::LongChain(count) => {
                write!(
                    f,
                    "its chain has {count} certificates, and {CHAIN_MAX} may be there"
                )
            }
        }
    }
}

impl std::error::Error for Unfit {}

fn unfit(fault: impl std::error::Error + Send + Sync + 'static) -> Error {
    CertificateError::Other(OtherError(Arc::new(fault))).into()
}

/// The library's verifier, and what it does not ask.
#[derive(Debug)]
struct Verifier {
    chains: Arc<dyn ClientCertVerifier>,
    ignores_dates: bool,
    replaced: Arc<Replaced>,
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chains.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        own: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if between.len() >= CHAIN_MAX {
            return Err(unfit(Unfit::LongChain(between.len() + 1)));
        }
        let moment = if self.ignores_dates {
            within(own, between, now)
        } else {
            now
        };
        let verified = self.chains.verify_client_cert(own, between, moment)?;
        // Behind the signatures: nobody has this read who was not given a certificate.
        let (_, parsed) = X509Certificate::from_der(own)
            .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        if is_over(&self.replaced, without_zeros(parsed.raw_serial()), now) {
            return Err(Error::InvalidCertificate(CertificateError::Revoked));
        }
        if let Ok(PublicKey::RSA(key)) = parsed.public_key().parsed()
            && key.key_size() < RSA_BITS_MIN
        {
            return Err(unfit(Unfit::WeakKey(key.key_size())));
        }
        Identity::of(own).map(|_| verified).map_err(unfit)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

fn is_over(replaced: &Replaced, serial: &[u8], now: UnixTime) -> bool {
    let until = replaced.get(serial);
    until.is_some_and(|until| *until < now.as_secs())
}

/// The moment nearest to now at which all of these are valid; if there is none, its own is.
fn within(own: &CertificateDer<'_>, between: &[CertificateDer<'_>], now: UnixTime) -> UnixTime {
    let validity = |certificate: &CertificateDer<'_>| {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let validity = parsed.validity();
        let moments = [validity.not_before, validity.not_after];
        Some(moments.map(|moment| seconds(moment.timestamp())))
    };
    let [mut from, mut to] = validity(own).unwrap_or([0, u64::MAX]);
    for [begin, end] in between.iter().filter_map(validity) {
        // What is sent along may not be needed, as a root.
        if begin.max(from) <= end.min(to) {
            (from, to) = (begin.max(from), end.min(to));
        }
    }
    UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs().max(from).min(to)))
}

/// Certificates of one client. The library follows six between its own and the authority; the whole chain is in each ticket that it gets.
const CHAIN_MAX: usize = 16;
/// What the library signs and verifies with.
const RSA_BITS_MIN: usize = 2048;
