//! Makes certificates, above all those that nobody should have: names that can be read in two ways, weak keys, chains without end.
//!
//! Comes in: what is to be wrong. Goes out: a chain and a key as rustls takes them, and PEM files for a broker. It knows no broker.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use harness::TemporaryDirectory;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, PublicKeyData, RevokedCertParams, SanType, SerialNumber, SigningKey as _,
    SubjectPublicKeyInfo,
};
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{SignatureAlgorithm, SignatureScheme};
use time::OffsetDateTime;

/// Two authorities of which the broker trusts one, and files for its configuration.
pub(crate) struct Forger {
    directory: TemporaryDirectory,
    pub(crate) trusted: Authority,
    pub(crate) other: Authority,
    /// Called as the trusted one is, with another key.
    pub(crate) namesake: Authority,
}

/// Who signs.
pub(crate) struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// What a client comes with.
#[derive(Clone, Debug)]
pub(crate) struct Papers(pub(crate) Arc<CertifiedKey>);

/// A client's certificate before it is signed; what is not said is as it should be.
pub(crate) struct Draft {
    pub(crate) names: Vec<(DnType, String)>,
    pub(crate) from: OffsetDateTime,
    pub(crate) to: OffsetDateTime,
    pub(crate) purpose: ExtendedKeyUsagePurpose,
    pub(crate) alternative: Vec<SanType>,
    pub(crate) serial: u64,
}

impl Draft {
    pub(crate) fn named(name: &str) -> Self {
        let now = OffsetDateTime::now_utc();
        Self {
            names: vec![(DnType::CommonName, name.to_owned())],
            from: now - DAY,
            to: now + DAY,
            purpose: ExtendedKeyUsagePurpose::ClientAuth,
            alternative: Vec::new(),
            serial: 7,
        }
    }

    fn params(&self) -> CertificateParams {
        let mut params = CertificateParams::default();
        let mut name = DistinguishedName::new();
        for (kind, value) in &self.names {
            name.push(kind.clone(), value.as_str());
        }
        params.distinguished_name = name;
        params.not_before = self.from;
        params.not_after = self.to;
        params.serial_number = Some(SerialNumber::from(self.serial));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![self.purpose.clone()];
        params.subject_alt_names.clone_from(&self.alternative);
        params
    }
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = key();
        let certificate = params.self_signed(&key).expect("rcgen signs");
        Self {
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    pub(crate) fn sign(&self, draft: &Draft) -> Papers {
        let key = key();
        Papers::new(vec![self.der(draft, &key)], &key)
    }

    /// The certificate with some bytes in the place of others, signed as it stands then.
    pub(crate) fn sign_patched(&self, draft: &Draft, from: &[u8], to: &[u8]) -> Papers {
        assert_eq!(from.len(), to.len(), "lengths stand in the certificate");
        let key = key();
        let whole = self.der(draft, &key);
        let (content, _) = element(&whole, Part::Content);
        let (signed, rest) = element(content, Part::Whole);
        let (algorithm, _) = element(rest, Part::Whole);
        let place = signed.windows(from.len()).position(|bytes| bytes == from);
        let place = place.expect("the certificate holds what is to be replaced");
        let mut signed = signed.to_vec();
        signed[place..place + to.len()].copy_from_slice(to);
        let signature = self.issuer.key().sign(&signed).expect("the key signs");
        let signature = [&[0], &signature[..]].concat();
        let content = [&signed, algorithm, &sequence(0x03, &signature)].concat();
        Papers::new(vec![sequence(0x30, &content).into()], &key)
    }

    /// For a key of RSA, which signs by a program: the library refuses to touch a weak one.
    pub(crate) fn sign_rsa(
        &self,
        draft: &Draft,
        bits: u32,
        directory: &TemporaryDirectory,
    ) -> Papers {
        let key = directory.path().join(format!("rsa-{bits}.key"));
        openssl(&[
            "genpkey",
            "-algorithm",
            "RSA",
            "-pkeyopt",
            &format!("rsa_keygen_bits:{bits}"),
            "-out",
            key.to_str().expect("it is ours"),
        ]);
        let public = openssl(&["pkey", "-pubout", "-in", key.to_str().expect("it is ours")]);
        let public = String::from_utf8(public).expect("PEM is text");
        let public = SubjectPublicKeyInfo::from_pem(&public).expect("openssl wrote it");
        let certificate = self.der(draft, &public);
        Papers(Arc::new(CertifiedKey::new(
            vec![certificate],
            Arc::new(ForeignKey(key)),
        )))
    }

    /// A list of what was revoked, good for a day from now or a day ago.
    pub(crate) fn revocation_list(&self, serials: &[u64], next_update: OffsetDateTime) -> String {
        let now = OffsetDateTime::now_utc();
        let revoked_certs = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: now - DAY,
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: now - 2 * DAY,
            next_update,
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked_certs.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.issuer).expect("rcgen signs");
        list.pem().expect("it is written")
    }

    /// A certificate for localhost, and its key.
    pub(crate) fn server(&self) -> (String, String) {
        let mut draft = Draft::named("localhost");
        draft.purpose = ExtendedKeyUsagePurpose::ServerAuth;
        let name = "localhost".try_into().expect("it is ASCII");
        draft.alternative = vec![SanType::DnsName(name)];
        self.pem_of(&draft)
    }

    /// A certificate and its key, for programs.
    pub(crate) fn pem_of(&self, draft: &Draft) -> (String, String) {
        let key = key();
        let certificate = draft.params().signed_by(&key, &self.issuer);
        let certificate = certificate.expect("rcgen signs");
        (certificate.pem(), key.serialize_pem())
    }

    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    fn der(&self, draft: &Draft, key: &impl PublicKeyData) -> CertificateDer<'static> {
        let certificate = draft.params().signed_by(key, &self.issuer);
        certificate.expect("rcgen signs").der().clone()
    }
}

impl Papers {
    fn new(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Self {
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("rcgen wrote it");
        let key = any_supported_type(&key).expect("it is ECDSA");
        Self(Arc::new(CertifiedKey::new(chain, key)))
    }

    /// Nobody but its own key has signed it.
    pub(crate) fn self_signed(draft: &Draft) -> Self {
        let key = key();
        let certificate = draft.params().self_signed(&key).expect("rcgen signs");
        Self::new(vec![certificate.der().clone()], &key)
    }

    /// The same with so many others behind it, each with so many bytes in it that nobody knows what to do with.
    pub(crate) fn with_others_behind(&self, count: usize, bytes: usize) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 1], vec![0; bytes]);
        params.custom_extensions = vec![extension];
        let other = params.self_signed(&key()).expect("rcgen signs");
        let mut chain = self.0.cert.clone();
        chain.extend(std::iter::repeat_n(other.der().clone(), count));
        Self(Arc::new(CertifiedKey::new(chain, Arc::clone(&self.0.key))))
    }
}

impl Forger {
    pub(crate) fn new() -> Self {
        let directory = TemporaryDirectory::new("forger");
        fs::create_dir(directory.path()).expect("the directory is new");
        let forger = Self {
            directory,
            trusted: Authority::new("The Authority"),
            other: Authority::new("Another Authority"),
            namesake: Authority::new("The Authority"),
        };
        let (certificate, key) = forger.trusted.server();
        forger.write("server.crt", &certificate);
        forger.write("server.key", &key);
        forger.write("ca.crt", forger.trusted.pem());
        forger.write("other.crt", forger.other.pem());
        forger.revoke(&[REVOKED]);
        forger
    }

    /// What is revoked from here on, for who reads it again.
    pub(crate) fn revoke(&self, serials: &[u64]) {
        let end = OffsetDateTime::now_utc() + DAY;
        self.write("ca.crl", &self.trusted.revocation_list(serials, end));
    }

    /// As a person does who knows how: complete at once.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let draft = self.path(&format!("{name}.new"));
        fs::write(&draft, text).expect("the directory is ours");
        fs::rename(draft, self.path(name)).expect("the directory is ours");
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn directory(&self) -> &TemporaryDirectory {
        &self.directory
    }

    /// The section of a listener that asks for a certificate of the trusted authority.
    pub(crate) fn strict(&self) -> String {
        let crl = self.path("ca.crl");
        format!(
            "{}ca_file = {:?}\ncrl_file = {crl:?}\nrequire_certificate = true\n",
            self.open(),
            self.path("ca.crt")
        )
    }

    /// The section of a listener that asks for a certificate of the other authority.
    pub(crate) fn strict_about_others(&self) -> String {
        let others = self.path("other.crt");
        format!(
            "{}ca_file = {others:?}\nrequire_certificate = true\n",
            self.open()
        )
    }

    /// The section of a listener that asks for no certificate.
    pub(crate) fn open(&self) -> String {
        let (certificate, key) = (self.path("server.crt"), self.path("server.key"));
        format!("[listeners.tls]\ncertificate_file = {certificate:?}\nkey_file = {key:?}\n")
    }
}

/// A key in a file.
struct ForeignKey(PathBuf);

impl fmt::Debug for ForeignKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the key of {}", self.0.display())
    }
}

impl SigningKey for ForeignKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered
            .contains(&SCHEME)
            .then(|| Box::new(Self(self.0.clone())) as Box<dyn Signer>)
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::RSA
    }
}

impl Signer for ForeignKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let file = self.0.with_extension("message");
        fs::write(&file, message).expect("the directory is ours");
        Ok(openssl(&[
            "pkeyutl",
            "-sign",
            "-rawin",
            "-digest",
            "sha256",
            "-pkeyopt",
            "rsa_padding_mode:pss",
            "-pkeyopt",
            "rsa_pss_saltlen:digest",
            "-inkey",
            self.0.to_str().expect("it is ours"),
            "-in",
            file.to_str().expect("it is ours"),
        ]))
    }

    fn scheme(&self) -> SignatureScheme {
        SCHEME
    }
}

#[track_caller]
fn openssl(arguments: &[&str]) -> Vec<u8> {
    let output = Command::new("openssl")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("openssl is installed");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    output.stdout
}

fn key() -> KeyPair {
    KeyPair::generate().expect("there is randomness")
}

enum Part {
    Content,
    Whole,
}

/// The first element of some DER, and what is behind it.
fn element(bytes: &[u8], part: Part) -> (&[u8], &[u8]) {
    let (head, length) = match usize::from(bytes[1]) {
        short @ 0..0x80 => (2, short),
        count => {
            let count = count & 0x7f;
            let length = bytes[2..2 + count].iter();
            let length = length.fold(0, |length, byte| length << 8 | usize::from(*byte));
            (2 + count, length)
        }
    };
    let (whole, rest) = bytes.split_at(head + length);
    match part {
        Part::Content => (&whole[head..], rest),
        Part::Whole => (whole, rest),
    }
}

/// One element of DER; long form of its length.
fn sequence(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len())
        .expect("it is small")
        .to_be_bytes();
    let start = length.iter().position(|byte| *byte != 0).unwrap_or(3);
    let length = match &length[start..] {
        [short @ 0..0x80] => vec![*short],
        long => {
            let count = u8::try_from(long.len()).expect("at most 4");
            [&[0x80 | count], long].concat()
        }
    };
    [&[tag], &length[..], content].concat()
}

const SCHEME: SignatureScheme = SignatureScheme::RSA_PSS_SHA256;
/// The serial number that every list of the forger has.
pub(crate) const REVOKED: u64 = 13;
pub(crate) const DAY: Duration = Duration::from_secs(86_400);
