//! What a certificate says, read for people: the reverse of `authority.rs`, for certificates of others too.

use std::net::IpAddr;

use jiff::Timestamp;
use nightjar_certs::Identity;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use sha2::{Digest, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::revocation_list::CertificateRevocationList;

use crate::index::serial_from;

/// One certificate.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) der: Vec<u8>,
    pub(crate) subject: String,
    pub(crate) issuer: String,
    /// As in the index.
    pub(crate) serial: String,
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
    pub(crate) alternative_names: Vec<String>,
    pub(crate) is_authority: bool,
    /// What it may be used for.
    pub(crate) uses: Vec<&'static str>,
    pub(crate) key: String,
    /// SubjectPublicKeyInfo.
    pub(crate) public_key: Vec<u8>,
    pub(crate) public_key_raw: Vec<u8>,
    pub(crate) certificate_sha256: String,
    pub(crate) public_key_sha256: String,
}

impl Facts {
    /// Reads the first certificate of a PEM file, or DER.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        if let Some(Ok(der)) = CertificateDer::pem_slice_iter(bytes).next() {
            return Self::from_der(&der);
        }
        if bytes.first() == Some(&0x30) {
            return Self::from_der(bytes);
        }
        Err("there is no certificate in it".into())
    }

    pub(crate) fn from_der(der: &[u8]) -> Result<Self, String> {
        let (rest, parsed) =
            X509Certificate::from_der(der).map_err(|_| "this is not a certificate".to_owned())?;
        if !rest.is_empty() {
            return Err("there is something behind the certificate".into());
        }
        let of = |seconds: i64| {
            Timestamp::from_second(seconds).map_err(|error| format!("a date in it: {error}"))
        };
        // In the words of the broker, where the broker could read it.
        let subject = Identity::of(&CertificateDer::from(der)).map_or_else(
            |_| parsed.subject().to_string(),
            |found| found.subject.into(),
        );
        let key = match parsed.public_key().parsed() {
            Ok(PublicKey::EC(point)) => format!("ECDSA, {} bits", point.key_size()),
            Ok(PublicKey::RSA(key)) => format!("RSA, {} bits", key.key_size()),
            _ => format!("algorithm {}", parsed.public_key().algorithm.algorithm),
        };
        let public_key = parsed.public_key().raw;
        Ok(Self {
            der: der.to_vec(),
            subject,
            issuer: parsed.issuer().to_string(),
            serial: serial_from(&parsed.raw_serial_as_string()),
            not_before: of(parsed.validity().not_before.timestamp())?,
            not_after: of(parsed.validity().not_after.timestamp())?,
            alternative_names: alternative_names(&parsed),
            is_authority: parsed.is_ca(),
            uses: uses(&parsed),
            key,
            public_key: public_key.to_vec(),
            public_key_raw: parsed.public_key().subject_public_key.data.to_vec(),
            certificate_sha256: sha256(der),
            public_key_sha256: sha256(public_key),
        })
    }
}

/// The number of a list of revoked certificates and the moment at which it ends, if it can be read.
pub(crate) fn revocation_list(pem: &[u8]) -> Option<(u64, Timestamp)> {
    let der = CertificateRevocationListDer::pem_slice_iter(pem)
        .next()?
        .ok()?;
    let (_, list) = CertificateRevocationList::from_der(&der).ok()?;
    let number = list.crl_number()?;
    let next = list.next_update()?.timestamp();
    Some((
        u64::try_from(number).ok()?,
        Timestamp::from_second(next).ok()?,
    ))
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(64);
    for byte in Sha256::digest(bytes) {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn alternative_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    let names = extension.value.general_names.iter();
    names
        .map(|name| match name {
            GeneralName::DNSName(text) => format!("DNS:{}", text.escape_default()),
            GeneralName::URI(text) => format!("URI:{}", text.escape_default()),
            GeneralName::RFC822Name(text) => format!("email:{}", text.escape_default()),
            GeneralName::IPAddress(bytes) => address(bytes),
            _ => "another kind of name".into(),
        })
        .collect()
}

fn address(bytes: &[u8]) -> String {
    let address = match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).map(IpAddr::from),
        _ => <[u8; 16]>::try_from(bytes).map(IpAddr::from),
    };
    address.map_or_else(|_| "IP:?".into(), |address| format!("IP:{address}"))
}

fn uses(certificate: &X509Certificate<'_>) -> Vec<&'static str> {
    let mut uses = Vec::new();
    for extension in certificate.extensions() {
        if let ParsedExtension::ExtendedKeyUsage(found) = extension.parsed_extension() {
            let known = [
                (found.server_auth, "server"),
                (found.client_auth, "client"),
                (found.any, "anything"),
            ];
            uses.extend(known.iter().filter(|(is, _)| *is).map(|(_, word)| *word));
        }
    }
    uses
}
