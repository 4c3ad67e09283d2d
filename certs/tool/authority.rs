//! The authority: makes certificates and lists of what has been revoked. ECDSA with P-256 throughout: every TLS library has it, chips too.
//!
//! Comes in: names, times and random serial numbers as values. Goes out: DER and PEM. Only [`Authority::open`] reads files.

use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationListParams,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, PublicKeyData, RevocationReason, RevokedCertParams, SanType, SerialNumber,
};
use time::OffsetDateTime;

use crate::facts::Facts;
use crate::fault::Fault;
use crate::index::{Entry, Kind};
use crate::place::{self, Place};

/// Who signs.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Nothing may be valid for longer.
    not_after: Timestamp,
    /// What a server or a device sends along after its own certificate, as PEM; empty where the root signs itself.
    chain: String,
}

/// An authority that was just made: what is to be written.
pub(crate) struct Made {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// What a certificate is to say.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    pub(crate) kind: Kind,
    pub(crate) id: String,
    pub(crate) names: Vec<String>,
    pub(crate) site: Option<String>,
    pub(crate) tenant: Option<String>,
}

/// From when to when a certificate is valid.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Validity {
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
}

/// Makes a root and, if it is not to sign for servers and devices itself, an authority below it.
pub(crate) fn create(name: &str, issuing: bool, now: Timestamp) -> Result<Vec<Made>, Fault> {
    let key = new_key()?;
    let mut root = of_authority(name, u8::from(issuing))?;
    set_validity(&mut root, validity(now, ROOT_DAYS, None)?)?;
    let certificate = root.self_signed(&key).map_err(cannot)?;
    let mut made = vec![Made {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    }];
    if issuing {
        let own_key = new_key()?;
        let mut own = of_authority(&format!("{name} issuing"), 0)?;
        set_validity(&mut own, validity(now, ISSUING_DAYS, None)?)?;
        let root = Issuer::new(root, key);
        let certificate = own.signed_by(&own_key, &root).map_err(cannot)?;
        made.push(Made {
            certificate: certificate.pem(),
            key: own_key.serialize_pem(),
        });
    }
    Ok(made)
}

impl Authority {
    /// Reads the authority that signs here: the one below the root, where there is one.
    pub(crate) fn open(place: &Place) -> Result<Self, Fault> {
        let is_issuing = place.issuing_certificate().exists();
        let (certificate, key) = if is_issuing {
            (place.issuing_certificate(), place.issuing_key())
        } else {
            (place.root_certificate(), place.root_key())
        };
        let text = place::read_text(&certificate)?;
        let signer = KeyPair::from_pem(&place::read_text(&key)?)
            // What is wrong with a key is never said in the words of its content.
            .map_err(|_| Fault::file(&key, "this is not a private key in PEM"))?;
        let facts =
            Facts::from_bytes(text.as_bytes()).map_err(|why| Fault::file(&certificate, why))?;
        if facts.public_key_raw != signer.public_key_raw() {
            return Err(Fault::refused(format!(
                "{} is not the key of {}",
                key.display(),
                certificate.display()
            )));
        }
        let issuer = Issuer::from_ca_cert_pem(&text, signer)
            .map_err(|error| Fault::file(&certificate, error))?;
        Ok(Self {
            issuer,
            not_after: facts.not_after,
            chain: if is_issuing { text } else { String::new() },
        })
    }

    pub(crate) fn chain(&self) -> &str {
        &self.chain
    }

    /// Days from now, as asked for, or `usual` or until the authority's own certificate ends, whichever is shorter.
    pub(crate) fn validity(
        &self,
        now: Timestamp,
        asked: Option<u32>,
        usual: u32,
    ) -> Result<Validity, Fault> {
        if now >= self.not_after {
            return Err(Fault::refused(format!(
                "the authority's own certificate ended at {}",
                self.not_after
            )));
        }
        validity(now, asked.unwrap_or(usual), Some((self.not_after, asked)))
    }

    pub(crate) fn issue(
        &self,
        subject: &Subject,
        key: &impl PublicKeyData,
        validity: Validity,
    ) -> Result<(Certificate, Entry), Fault> {
        let serial = new_serial()?;
        let mut params = CertificateParams::default();
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.distinguished_name = subject.distinguished_name();
        params.subject_alt_names = subject.alternative_names()?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![match subject.kind {
            Kind::Server => ExtendedKeyUsagePurpose::ServerAuth,
            Kind::Device => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        set_validity(&mut params, validity)?;
        let certificate = params.signed_by(key, &self.issuer).map_err(cannot)?;
        let facts = Facts::from_der(certificate.der()).map_err(Fault::refused)?;
        let entry = Entry {
            serial: facts.serial,
            kind: subject.kind,
            id: subject.id.clone(),
            names: subject.names.clone(),
            site: subject.site.clone(),
            tenant: subject.tenant.clone(),
            not_before: facts.not_before,
            not_after: facts.not_after,
            certificate_sha256: facts.certificate_sha256,
            public_key_sha256: facts.public_key_sha256,
            revoked: None,
            replaced_by: None,
            grace_until: None,
        };
        Ok((certificate, entry))
    }

    /// The list of what has been revoked, signed, as PEM.
    pub(crate) fn revocation_list(
        &self,
        entries: &[Entry],
        number: u64,
        now: Timestamp,
        next: Timestamp,
    ) -> Result<String, Fault> {
        let mut revoked_certs = Vec::new();
        for entry in entries {
            let Some(void_from) = entry.void_from() else {
                continue;
            };
            let reason = match entry.revoked {
                Some(_) => RevocationReason::Unspecified,
                None => RevocationReason::Superseded,
            };
            revoked_certs.push(RevokedCertParams {
                serial_number: SerialNumber::from_slice(&bytes_of(&entry.serial)?),
                revocation_time: moment(void_from)?,
                reason_code: Some(reason),
                invalidity_date: None,
            });
        }
        let params = CertificateRevocationListParams {
            this_update: moment(now - CLOCKS_DIFFER)?,
            next_update: moment(next)?,
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.issuer).map_err(cannot)?;
        list.pem().map_err(cannot)
    }
}

impl Subject {
    fn distinguished_name(&self) -> DistinguishedName {
        let mut name = DistinguishedName::new();
        if let Some(tenant) = &self.tenant {
            name.push(DnType::OrganizationName, tenant.as_str());
        }
        if let Some(site) = &self.site {
            name.push(DnType::OrganizationalUnitName, site.as_str());
        }
        // A host name may be longer than a Common Name; clients look at the alternative names.
        if self.id.len() <= COMMON_NAME_BYTES_MAX {
            name.push(DnType::CommonName, self.id.as_str());
        }
        name
    }

    fn alternative_names(&self) -> Result<Vec<SanType>, Fault> {
        let plain = |text: String| {
            Ia5String::try_from(text.as_str())
                .map_err(|_| Fault::asked(format!("{text} is not ASCII")))
        };
        match self.kind {
            Kind::Device => Ok(vec![SanType::URI(plain(format!("device:{}", self.id))?)]),
            Kind::Server => self
                .names
                .iter()
                .map(|name| match name.parse::<IpAddr>() {
                    Ok(address) => Ok(SanType::IpAddress(address)),
                    Err(_) => plain(name.clone()).map(SanType::DnsName),
                })
                .collect(),
        }
    }
}

pub(crate) fn new_key() -> Result<KeyPair, Fault> {
    KeyPair::generate().map_err(cannot)
}

fn of_authority(name: &str, below: u8) -> Result<CertificateParams, Fault> {
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from_slice(&new_serial()?));
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn validity(
    now: Timestamp,
    days: u32,
    end: Option<(Timestamp, Option<u32>)>,
) -> Result<Validity, Fault> {
    let hours = i64::from(days) * 24;
    let mut not_after = now
        .checked_add(SignedDuration::from_hours(hours))
        .map_err(|_| Fault::asked(format!("{days} days is too long")))?;
    if let Some((end, asked)) = end
        && not_after > end
    {
        if asked.is_some() {
            return Err(Fault::asked(format!(
                "--days {days} is longer than the authority's own certificate, which ends at {end}"
            )));
        }
        not_after = end;
    }
    Ok(Validity {
        not_before: now - CLOCKS_DIFFER,
        not_after,
    })
}

fn set_validity(params: &mut CertificateParams, validity: Validity) -> Result<(), Fault> {
    params.not_before = moment(validity.not_before)?;
    params.not_after = moment(validity.not_after)?;
    Ok(())
}

fn moment(timestamp: Timestamp) -> Result<OffsetDateTime, Fault> {
    OffsetDateTime::from_unix_timestamp(timestamp.as_second())
        .map_err(|error| Fault::refused(error.to_string()))
}

/// 128 random bits: nobody can know a serial number before it is issued, and none comes twice.
fn new_serial() -> Result<[u8; 16], Fault> {
    let mut serial = [0; 16];
    getrandom::fill(&mut serial).map_err(|error| Fault::refused(error.to_string()))?;
    Ok(serial)
}

/// A few letters and digits that no other authority has.
pub(crate) fn random_name() -> Result<String, Fault> {
    let number = u128::from_be_bytes(new_serial()?);
    Ok(format!("{:08x}", number >> 96))
}

/// The bytes of a serial number that the index has in hexadecimal.
fn bytes_of(serial: &str) -> Result<Vec<u8>, Fault> {
    u128::from_str_radix(serial, 16)
        .map(|number| number.to_be_bytes().to_vec())
        .map_err(|_| Fault::refused(format!("{serial} in the index is not a serial number")))
}

fn cannot(error: rcgen::Error) -> Fault {
    Fault::refused(error.to_string())
}

/// RFC 5280, ub-common-name.
pub(crate) const COMMON_NAME_BYTES_MAX: usize = 64;

/// How far back a certificate is valid already: the clock of whoever looks at it first may be behind.
const CLOCKS_DIFFER: SignedDuration = SignedDuration::from_hours(1);

const ROOT_DAYS: u32 = 20 * 365;
const ISSUING_DAYS: u32 = 10 * 365;
