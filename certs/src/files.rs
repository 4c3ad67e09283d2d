//! The files of a listener, read: certificates, keys, lists of what was revoked or replaced.
//!
//! In: paths as an operator wrote them. Out: their content, checked as far as each file can be checked alone; or the file and the reason.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

/// The files and choices of one listener, as its operator wrote them.
#[derive(Clone, Debug, Eq, PartialEq)]
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
    /// Which certificates were replaced by others, and until when each of them is let in.
    pub replaced_file: Option<PathBuf>,
    /// A client without a certificate is refused.
    pub require_certificate: bool,
    /// From when to when a client's certificate is valid does not matter.
    pub ignore_client_dates: bool,
    pub minimum_version: MinimumVersion,
    /// OpenSSL's names of suites for TLS 1.2, with colons between them; `None`: all there are.
    pub ciphers: Option<String>,
    /// The same for TLS 1.3.
    pub ciphers_tls_1_3: Option<String>,
    /// Our order of suites decides, in which AES comes first; else the client's.
    pub prefer_aes: bool,
    /// Clients may resume with a ticket that they keep for us.
    pub session_tickets: bool,
    /// Sessions kept for clients without tickets; 0: none.
    pub session_cache_max: usize,
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

/// A certificate that is in use here, and when that ends.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Expiry {
    pub what: Kind,
    pub path: PathBuf,
    /// Seconds since 1970.
    pub not_before: u64,
    /// Of the first in the file that ends.
    pub not_after: u64,
}

/// What a file is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// The server's own.
    Server,
    /// Those that clients' certificates lead to.
    Authority,
    /// A list of what was revoked.
    RevocationList,
}

/// The first certificate of a server with what is between it and its root, and its key.
pub(crate) struct Pair {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
    pub(crate) expiry: Expiry,
}

/// Whom clients' certificates may lead to.
#[derive(Clone, Debug)]
pub(crate) struct Authorities {
    pub(crate) certificates: Vec<CertificateDer<'static>>,
    pub(crate) expiries: Vec<Expiry>,
}

/// What has been revoked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Revoked {
    pub(crate) lists: Vec<CertificateRevocationListDer<'static>>,
    /// Issuer and serial number as they stand in a certificate.
    pub(crate) serials: HashSet<SerialOfIssuer>,
    pub(crate) expiry: Option<Expiry>,
}

/// Who issued a certificate, and its number there.
pub(crate) type SerialOfIssuer = (Box<[u8]>, Box<[u8]>);

/// Serial numbers of certificates that others have taken the place of, each with the moment until which it is let in.
pub(crate) type Replaced = HashMap<Box<[u8]>, u64>;

impl Default for Files {
    fn default() -> Self {
        Self {
            certificate_file: PathBuf::new(),
            key_file: PathBuf::new(),
            ca_file: None,
            ca_path: None,
            crl_file: None,
            replaced_file: None,
            require_certificate: false,
            ignore_client_dates: false,
            minimum_version: MinimumVersion::default(),
            ciphers: None,
            ciphers_tls_1_3: None,
            prefer_aes: true,
            session_tickets: true,
            session_cache_max: 20_000,
            key_log_file: None,
        }
    }
}

impl Files {
    /// All paths that are read, a directory among them as the directory.
    pub fn paths(&self) -> Vec<&Path> {
        let own = [Some(&self.certificate_file), Some(&self.key_file)];
        let of_clients = [
            &self.ca_file,
            &self.ca_path,
            &self.crl_file,
            &self.replaced_file,
        ];
        let of_clients = of_clients.into_iter().map(Option::as_ref);
        let all = own.into_iter().chain(of_clients);
        all.flatten().map(PathBuf::as_path).collect()
    }

    /// The same files as another's, whatever else is chosen.
    pub fn are_those_of(&self, other: &Self) -> bool {
        self.paths() == other.paths() && self.require_certificate == other.require_certificate
    }

    pub(crate) fn pair(&self) -> Result<Pair, LoadError> {
        let chain = certificates("certfile", &self.certificate_file)?;
        let key = PrivateKeyDer::from_pem_file(&self.key_file).map_err(|error| {
            let reason = match &error {
                pem::Error::NoItemsFound => {
                    "there is no private key in it that can be read; one with a passphrase cannot"
                        .to_owned()
                }
                error => in_words(error),
            };
            unreadable("keyfile", &self.key_file, &reason)
        })?;
        let expiry = expiry(Kind::Server, "certfile", &self.certificate_file, &chain)?;
        Ok(Pair { chain, key, expiry })
    }

    pub(crate) fn authorities(&self) -> Result<Authorities, LoadError> {
        let mut all = Authorities {
            certificates: Vec::new(),
            expiries: Vec::new(),
        };
        let mut add = |found: Vec<CertificateDer<'static>>, expiry| {
            // A directory has each of them under two names.
            let known = all.certificates.len();
            for certificate in found {
                if !all.certificates.contains(&certificate) {
                    all.certificates.push(certificate);
                }
            }
            if all.certificates.len() > known {
                all.expiries.push(expiry);
            }
        };
        if let Some(file) = &self.ca_file {
            let found = certificates("cafile", file)?;
            let expiry = expiry(Kind::Authority, "cafile", file, &found)?;
            add(found, expiry);
        }
        if let Some(directory) = &self.ca_path {
            for file in files_in(directory)? {
                // What is no certificate is nobody's authority: as OpenSSL has it, and such directories are made for that.
                let found = certificates("capath", &file);
                let found = found.and_then(|found| {
                    let expiry = expiry(Kind::Authority, "capath", &file, &found)?;
                    Ok((found, expiry))
                });
                if let Ok((found, expiry)) = found {
                    add(found, expiry);
                }
            }
        }
        if all.certificates.is_empty() {
            return Err(LoadError::NoAuthorities);
        }
        Ok(all)
    }

    /// `None`: nothing is asked about revocation.
    pub(crate) fn revoked(&self) -> Result<Option<Revoked>, LoadError> {
        let Some(file) = &self.crl_file else {
            return Ok(None);
        };
        let fault = |error: &dyn fmt::Display| unreadable("crlfile", file, error);
        let lists = CertificateRevocationListDer::pem_file_iter(file)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| fault(&in_words(&error)))?;
        if lists.is_empty() {
            return Err(fault(&"there is no list in it"));
        }
        let mut revoked = Revoked::default();
        for list in &lists {
            let (_, parsed) = CertificateRevocationList::from_der(list)
                .map_err(|_| fault(&"this is not a list of revoked certificates"))?;
            let issuer: Box<[u8]> = parsed.issuer().as_raw().into();
            for entry in parsed.iter_revoked_certificates() {
                let serial = without_zeros(entry.raw_serial()).into();
                revoked.serials.insert((issuer.clone(), serial));
            }
            let this_update = seconds(parsed.last_update().timestamp());
            let next_update = parsed.next_update().map(|next| seconds(next.timestamp()));
            let known = revoked.expiry.get_or_insert_with(|| Expiry {
                what: Kind::RevocationList,
                path: file.clone(),
                not_before: this_update,
                not_after: u64::MAX,
            });
            known.not_after = known.not_after.min(next_update.unwrap_or(u64::MAX));
        }
        revoked.lists = lists;
        Ok(Some(revoked))
    }

    /// One line each: the serial number in hexadecimal, the moment, and what may follow is for people.
    pub(crate) fn replaced(&self) -> Result<Replaced, LoadError> {
        let Some(file) = &self.replaced_file else {
            return Ok(Replaced::default());
        };
        let fault = |error: &dyn fmt::Display| unreadable("replaced_file", file, error);
        let text = std::fs::read_to_string(file).map_err(|error| fault(&error))?;
        let lines = text.lines().enumerate();
        let lines = lines
            .filter(|(_, line)| !line.trim().is_empty() && !line.trim_start().starts_with('#'));
        lines
            .map(|(number, line)| {
                read_replaced(line).ok_or_else(|| {
                    fault(&format!(
                        "line {}: expected a serial number in hexadecimal and a moment such as 2027-01-31T00:00:00Z",
                        number + 1
                    ))
                })
            })
            .collect()
    }
}

fn read_replaced(line: &str) -> Option<(Box<[u8]>, u64)> {
    let mut words = line.split_whitespace();
    let serial = words.next()?;
    // Whole bytes; a sign is none of the digits.
    let padding = "0".repeat(serial.len() % 2);
    let digits = [padding.as_bytes(), serial.as_bytes()].concat();
    let bytes: Option<Vec<u8>> = digits
        .chunks(2)
        .map(|pair| {
            let pair = std::str::from_utf8(pair).ok()?;
            let pair = pair.strip_prefix('+').map_or(Some(pair), |_| None)?;
            u8::from_str_radix(pair, 16).ok()
        })
        .collect();
    let until: Timestamp = words.next()?.parse().ok()?;
    let bytes = bytes?;
    let serial = without_zeros(&bytes);
    (!serial.is_empty()).then(|| (serial.into(), seconds(until.as_second())))
}

/// A serial number as everybody writes it; DER has a zero before some.
pub(crate) fn without_zeros(serial: &[u8]) -> &[u8] {
    let zeros = serial.iter().take_while(|byte| **byte == 0).count();
    serial.get(zeros..).unwrap_or_default()
}

fn certificates(
    what: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, LoadError> {
    let found = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unreadable(what, path, &in_words(&error)))?;
    if found.is_empty() {
        return Err(unreadable(what, path, &"there is no certificate in it"));
    }
    Ok(found)
}

fn expiry(
    kind: Kind,
    what: &'static str,
    path: &Path,
    certificates: &[CertificateDer<'_>],
) -> Result<Expiry, LoadError> {
    let mut all = Expiry {
        what: kind,
        path: path.to_owned(),
        not_before: 0,
        not_after: u64::MAX,
    };
    for certificate in certificates {
        let (_, parsed) = X509Certificate::from_der(certificate)
            .map_err(|_| unreadable(what, path, &"this is not a certificate"))?;
        let validity = parsed.validity();
        all.not_before = all.not_before.max(seconds(validity.not_before.timestamp()));
        all.not_after = all.not_after.min(seconds(validity.not_after.timestamp()));
    }
    Ok(all)
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

pub(crate) fn unreadable(what: &'static str, path: &Path, reason: &dyn fmt::Display) -> LoadError {
    LoadError::File {
        what,
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

/// The library tells bytes of the file, as numbers.
fn in_words(error: &pem::Error) -> String {
    match error {
        pem::Error::Io(error) => error.to_string(),
        pem::Error::MissingSectionEnd { .. } => {
            "it is cut off: the END line of a section is missing".to_owned()
        }
        pem::Error::IllegalSectionStart { .. } => "a BEGIN line in it is broken".to_owned(),
        other => other.to_string(),
    }
}

/// Before 1970 is 1970.
pub(crate) fn seconds(since_1970: i64) -> u64 {
    u64::try_from(since_1970).unwrap_or(0)
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { what, path, reason } => {
                write!(f, "{what} {} cannot be used: {reason}", path.display())?;
                if reason.contains("Permission denied") {
                    f.write_str("; the user that the broker runs as must be able to read it")?;
                }
                Ok(())
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

impl Kind {
    /// The words of a label.
    pub fn word(self) -> &'static str {
        match self {
            Self::Server => "certificate",
            Self::Authority => "ca",
            Self::RevocationList => "crl",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_about_a_replaced_certificate_has_its_serial_number_and_a_moment() {
        let line = read_replaced("  0A1b 2027-01-31T00:00:00Z gauge-7");
        assert_eq!(line, Some((vec![0x0a, 0x1b].into(), 1_801_353_600)));
        for line in [
            "0a1b",
            "0a1b tomorrow",
            "xy 2027-01-31T00:00:00Z",
            "0 2027-01-31T00:00:00Z",
        ] {
            assert_eq!(read_replaced(line), None, "{line}");
        }
    }
}
