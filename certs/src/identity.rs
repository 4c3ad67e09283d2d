//! Who a client is, by the certificate it has proven to own.
//!
//! A name that can be read in two ways is no name: a certificate with two Common Names, an empty one, one that is not UTF-8 or
//! that holds U+0000 or another control character identifies nobody. Nor does one that stands for many, by a wildcard.

use std::fmt;

use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

/// The names in a client's certificate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Identity {
    /// The one Common Name of the subject.
    pub common_name: Option<Box<str>>,
    /// The subject as RFC 2253 writes it: last part first.
    pub subject: Box<str>,
    /// Subject Alternative Names that are names of hosts.
    pub dns_names: Vec<Box<str>>,
    /// Those that are URIs.
    pub uris: Vec<Box<str>>,
    /// The serial number, in hexadecimal.
    pub serial: Box<str>,
}

/// Why a certificate identifies nobody.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum IdentityFault {
    Unreadable,
    TwoCommonNames,
    /// Empty, not UTF-8, or with a control character.
    NotAName,
    /// A common name with `*`, or with one of MQTT's `+` and `#`.
    Wildcard,
}

impl fmt::Display for IdentityFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreadable => "the certificate cannot be read",
            Self::TwoCommonNames => "the certificate has more than one common name",
            Self::NotAName => "a name in the certificate is empty or not plain text",
            Self::Wildcard => "the common name of the certificate has a wildcard in it",
        })
    }
}

impl std::error::Error for IdentityFault {}

impl Identity {
    /// Reads the names of a certificate whose chain and dates were verified before.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, IdentityFault> {
        let (_, parsed) =
            X509Certificate::from_der(certificate).map_err(|_| IdentityFault::Unreadable)?;
        let subject = parsed.subject();
        let mut common_names = subject.iter_common_name();
        let common_name = common_names
            .next()
            .map(|name| of_one(name.as_str().ok()))
            .transpose()?;
        if common_names.next().is_some() {
            return Err(IdentityFault::TwoCommonNames);
        }
        let (mut dns_names, mut uris) = (Vec::new(), Vec::new());
        let extension = parsed
            .subject_alternative_name()
            .map_err(|_| IdentityFault::Unreadable)?;
        for name in extension
            .iter()
            .flat_map(|found| &found.value.general_names)
        {
            match name {
                GeneralName::DNSName(text) => dns_names.push(plain(Some(text))?),
                GeneralName::URI(text) => uris.push(plain(Some(text))?),
                _ => {}
            }
        }
        Ok(Self {
            common_name,
            subject: rfc_2253(&parsed)?,
            dns_names,
            uris,
            serial: parsed.raw_serial_as_string().into(),
        })
    }

    /// By the common name of a certificate that a proxy has verified.
    pub fn by_proxy(common_name: &[u8]) -> Result<Self, IdentityFault> {
        let name = of_one(std::str::from_utf8(common_name).ok())?;
        Ok(Self {
            subject: format!("CN={}", escaped(&name)).into(),
            common_name: Some(name),
            dns_names: Vec::new(),
            uris: Vec::new(),
            serial: Box::default(),
        })
    }

    /// Subject Alternative Names of both kinds.
    pub fn alternative_names(&self) -> impl Iterator<Item = &str> {
        let all = self.dns_names.iter().chain(&self.uris);
        all.map(|name| &**name)
    }

    /// The name of a host, where there is exactly one.
    pub fn dns_name(&self) -> Option<&str> {
        match &self.dns_names[..] {
            [only] => Some(only),
            _ => None,
        }
    }

    /// The ID of a URI `device:ID`, where there is exactly one.
    pub fn device(&self) -> Option<&str> {
        let ids = self
            .uris
            .iter()
            .filter_map(|uri| uri.strip_prefix("device:"));
        let mut ids = ids.filter(|id| !id.is_empty());
        ids.next().filter(|_| ids.next().is_none())
    }
}

fn rfc_2253(certificate: &X509Certificate<'_>) -> Result<Box<str>, IdentityFault> {
    let mut parts = Vec::new();
    for relative in certificate.subject().iter() {
        let mut of_one = Vec::new();
        for attribute in relative.iter() {
            let oid = attribute.attr_type().to_id_string();
            let kind = match oid.as_str() {
                "2.5.4.3" => "CN",
                "2.5.4.5" => "serialNumber",
                "2.5.4.6" => "C",
                "2.5.4.7" => "L",
                "2.5.4.8" => "ST",
                "2.5.4.9" => "street",
                "2.5.4.10" => "O",
                "2.5.4.11" => "OU",
                "0.9.2342.19200300.100.1.1" => "UID",
                "0.9.2342.19200300.100.1.25" => "DC",
                "1.2.840.113549.1.9.1" => "emailAddress",
                other => other,
            };
            let value = plain(attribute.as_str().ok())?;
            of_one.push(format!("{kind}={}", escaped(&value)));
        }
        parts.push(of_one.join("+"));
    }
    parts.reverse();
    Ok(parts.join(",").into())
}

/// RFC 2253, 2.4.
fn escaped(value: &str) -> String {
    let last = value.chars().count().saturating_sub(1);
    let mut text = String::with_capacity(value.len());
    for (place, character) in value.chars().enumerate() {
        let is_special = matches!(character, ',' | '+' | '"' | '\\' | '<' | '>' | ';')
            || character == '#' && place == 0
            || character == ' ' && (place == 0 || place == last);
        if is_special {
            text.push('\\');
        }
        text.push(character);
    }
    text
}

/// The name of one client, and not of many.
fn of_one(text: Option<&str>) -> Result<Box<str>, IdentityFault> {
    let name = plain(text)?;
    if name.contains(['*', '+', '#']) {
        return Err(IdentityFault::Wildcard);
    }
    Ok(name)
}

fn plain(text: Option<&str>) -> Result<Box<str>, IdentityFault> {
    let text = text.ok_or(IdentityFault::NotAName)?;
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err(IdentityFault::NotAName);
    }
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    use super::*;

    fn of(name: DistinguishedName, alternative: Vec<SanType>) -> Result<Identity, IdentityFault> {
        let mut params = CertificateParams::default();
        params.distinguished_name = name;
        params.subject_alt_names = alternative;
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        Identity::of(certificate.der())
    }

    fn named(parts: &[(DnType, &str)]) -> DistinguishedName {
        let mut name = DistinguishedName::new();
        for (kind, value) in parts {
            name.push(kind.clone(), *value);
        }
        name
    }

    #[test]
    fn names_are_those_of_the_certificate() {
        let name = named(&[
            (DnType::OrganizationName, "Plant, North"),
            (DnType::CommonName, "gauge-7"),
        ]);
        let uri = SanType::URI("device:gauge-7".try_into().unwrap());
        let identity = of(name, vec![uri]).unwrap();
        assert_eq!(identity.common_name.as_deref(), Some("gauge-7"));
        assert_eq!(&*identity.subject, "CN=gauge-7,O=Plant\\, North");
        assert_eq!(&*identity.uris[0], "device:gauge-7");
        assert_eq!(
            (identity.device(), identity.dns_name()),
            (Some("gauge-7"), None)
        );
    }

    #[test]
    fn of_two_alternative_names_none_is_the_name() {
        let uri = |text: &str| SanType::URI(text.try_into().unwrap());
        let dns = |text: &str| SanType::DnsName(text.try_into().unwrap());
        let identity = |names| of(named(&[(DnType::CommonName, "a")]), names).unwrap();
        let one = identity(vec![
            uri("https://x.example"),
            uri("device:a"),
            dns("a.example"),
        ]);
        assert_eq!(
            (one.device(), one.dns_name()),
            (Some("a"), Some("a.example"))
        );
        let two = identity(vec![uri("device:a"), uri("device:b"), dns("a"), dns("b")]);
        assert_eq!((two.device(), two.dns_name()), (None, None));
        assert_eq!(identity(vec![uri("device:")]).device(), None);
    }

    #[test]
    fn a_certificate_without_a_common_name_has_none() {
        let name = named(&[(DnType::OrganizationName, "Plant")]);
        assert_eq!(of(name, Vec::new()).unwrap().common_name, None);
    }

    #[test]
    fn t5_a_name_that_can_be_read_in_two_ways_identifies_nobody() {
        for text in ["", "admin\0.evil", "two\nlines"] {
            let name = named(&[(DnType::CommonName, text)]);
            assert_eq!(
                of(name, Vec::new()),
                Err(IdentityFault::NotAName),
                "{text:?}"
            );
        }
    }

    #[test]
    fn t5_a_name_that_stands_for_many_identifies_nobody() {
        for text in ["*", "*.plant.example", "+", "a/#"] {
            let name = named(&[(DnType::CommonName, text)]);
            assert_eq!(of(name, Vec::new()), Err(IdentityFault::Wildcard), "{text}");
        }
    }

    #[test]
    fn nothing_at_all_is_unreadable() {
        let nothing = CertificateDer::from(vec![0x30, 0x00]);
        assert_eq!(Identity::of(&nothing), Err(IdentityFault::Unreadable));
    }
}
