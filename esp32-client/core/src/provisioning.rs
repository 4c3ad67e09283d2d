//! The provisioning partition: who the device is, its key, and whom it trusts, as one blob.
//!
//! `nightjar-certs device ID --esp` writes it as `provisioning.bin`, and it is flashed as it is:
//!
//! ```text
//!  0  8  "NJPROV1\n"
//!  8  4  length of what follows 16, little-endian
//! 12  4  CRC-32 of that
//! 16     entries: kind (1 byte), 0 (1 byte), length (2 bytes, little-endian), value
//! ```
//!
//! Kinds: 1 `config.toml`, 2 key (PKCS#8 DER), 3 certificate (DER), 4 the root (DER), 5 the issuing authority (DER), 6 name and
//! 7 password of the Wi-Fi. 1 to 4 must be there, each at most once. What follows the blob, `0xff` of erased flash, is ignored.

use alloc::string::String;
use alloc::vec::Vec;
use core::{fmt, str};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// What the partition says, where it lies.
#[derive(Clone, Copy)]
pub struct Provisioning<'a> {
    /// For [`crate::Config::parse`].
    pub config: &'a str,
    /// The device's private key, PKCS#8 DER.
    pub key: &'a [u8],
    /// The device's certificate, DER.
    pub certificate: &'a [u8],
    /// The root that the device trusts, DER.
    pub ca: &'a [u8],
    /// The authority that signed the certificate where it was not the root, DER.
    pub issuing: Option<&'a [u8]>,
    /// The network that the device is to join.
    pub wifi: Option<Wifi<'a>>,
}

/// A Wi-Fi network.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Wifi<'a> {
    /// Its name.
    pub ssid: &'a str,
    /// Empty for an open network.
    pub password: &'a str,
}

/// Why a partition is none of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProvisioningError {
    /// It does not begin with the magic bytes: nothing was flashed there.
    Absent,
    /// It ends before its length says.
    Truncated,
    /// The CRC does not fit.
    Damaged,
    /// An entry that is not known here.
    UnknownEntry(u8),
    /// An entry that is there twice.
    DuplicateEntry(u8),
    /// An entry that must be there is not.
    MissingEntry(u8),
    /// A text that is not UTF-8.
    NotText(u8),
}

impl fmt::Display for ProvisioningError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("no provisioning partition: flash provisioning.bin"),
            Self::Truncated => f.write_str("the provisioning partition is cut short"),
            Self::Damaged => f.write_str("the provisioning partition is damaged"),
            Self::UnknownEntry(kind) => write!(f, "unknown entry {kind} in the provisioning"),
            Self::DuplicateEntry(kind) => write!(f, "entry {kind} twice in the provisioning"),
            Self::MissingEntry(kind) => write!(f, "no entry {kind} in the provisioning"),
            Self::NotText(kind) => write!(f, "entry {kind} of the provisioning is no text"),
        }
    }
}

impl core::error::Error for ProvisioningError {}

impl fmt::Debug for Provisioning<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Provisioning")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Wifi<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wifi")
            .field("ssid", &self.ssid)
            .finish_non_exhaustive()
    }
}

impl<'a> Provisioning<'a> {
    /// Reads a partition.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn parse(partition: &'a [u8]) -> Result<Self, ProvisioningError> {
        let body = body(partition)?;
        let mut values: [Option<&'a [u8]>; KINDS] = [None; KINDS];
        let mut rest = body;
        while !rest.is_empty() {
            let (kind, value, behind) = entry(rest)?;
            let slot = usize::from(kind)
                .checked_sub(1)
                .and_then(|index| values.get_mut(index))
                .ok_or(ProvisioningError::UnknownEntry(kind))?;
            if slot.replace(value).is_some() {
                return Err(ProvisioningError::DuplicateEntry(kind));
            }
            rest = behind;
        }
        let [config, key, certificate, ca, issuing, ssid, password] = values;
        let must =
            |value: Option<&'a [u8]>, kind| value.ok_or(ProvisioningError::MissingEntry(kind));
        let text =
            |value, kind| str::from_utf8(value).map_err(|_| ProvisioningError::NotText(kind));
        let wifi = match ssid {
            None => None,
            Some(ssid) => Some(Wifi {
                ssid: text(ssid, 6)?,
                password: text(password.unwrap_or_default(), 7)?,
            }),
        };
        Ok(Self {
            config: text(must(config, 1)?, 1)?,
            key: must(key, 2)?,
            certificate: must(certificate, 3)?,
            ca: must(ca, 4)?,
            issuing,
            wifi,
        })
    }

    /// The certificate and, behind it, that of the issuing authority, as PEM with a NUL at the end: mbedTLS reads a chain in no
    /// other form.
    #[must_use]
    pub fn certificate_chain_pem(&self) -> Vec<u8> {
        let mut pem = pem_of(self.certificate);
        if let Some(issuing) = self.issuing {
            pem += &pem_of(issuing);
        }
        pem.push('\0');
        pem.into_bytes()
    }
}

fn body(partition: &[u8]) -> Result<&[u8], ProvisioningError> {
    let rest = partition
        .strip_prefix(MAGIC)
        .ok_or(ProvisioningError::Absent)?;
    let (length, rest) = rest
        .split_first_chunk::<4>()
        .ok_or(ProvisioningError::Truncated)?;
    let (crc, rest) = rest
        .split_first_chunk::<4>()
        .ok_or(ProvisioningError::Truncated)?;
    let body = usize::try_from(u32::from_le_bytes(*length))
        .ok()
        .and_then(|length| rest.get(..length))
        .ok_or(ProvisioningError::Truncated)?;
    if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        return Err(ProvisioningError::Damaged);
    }
    Ok(body)
}

fn entry(rest: &[u8]) -> Result<(u8, &[u8], &[u8]), ProvisioningError> {
    let (&[kind, _, low, high], rest) = rest
        .split_first_chunk::<4>()
        .ok_or(ProvisioningError::Truncated)?;
    rest.split_at_checked(usize::from(u16::from_le_bytes([low, high])))
        .map(|(value, behind)| (kind, value, behind))
        .ok_or(ProvisioningError::Truncated)
}

fn pem_of(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for (index, character) in text.chars().enumerate() {
        if index > 0 && index % 64 == 0 {
            pem.push('\n');
        }
        pem.push(character);
    }
    pem += "\n-----END CERTIFICATE-----\n";
    pem
}

const MAGIC: &[u8] = b"NJPROV1\n";
const KINDS: usize = 7;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn blob(entries: &[(u8, &[u8])]) -> Vec<u8> {
        let mut body = Vec::new();
        for (kind, value) in entries {
            body.extend([*kind, 0]);
            body.extend(u16::try_from(value.len()).unwrap().to_le_bytes());
            body.extend_from_slice(value);
        }
        let mut blob = MAGIC.to_vec();
        blob.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
        blob.extend(crc32fast::hash(&body).to_le_bytes());
        blob.extend(body);
        blob
    }

    const WHOLE: &[(u8, &[u8])] = &[
        (1, b"device_id = \"a\""),
        (2, b"key"),
        (3, b"certificate"),
        (4, b"ca"),
        (5, b"issuing"),
        (6, b"net"),
        (7, b"secret"),
    ];

    #[test]
    fn what_was_written_is_read_with_erased_flash_behind_it() {
        let mut flash = blob(WHOLE);
        flash.extend([0xff; 100]);
        let read = Provisioning::parse(&flash).unwrap();
        assert_eq!(read.config, "device_id = \"a\"");
        assert_eq!(read.key, b"key");
        assert_eq!(read.certificate, b"certificate");
        assert_eq!(read.ca, b"ca");
        assert_eq!(read.issuing, Some(&b"issuing"[..]));
        let wifi = read.wifi.unwrap();
        assert_eq!((wifi.ssid, wifi.password), ("net", "secret"));
    }

    #[test]
    fn neither_key_nor_password_is_in_the_debug_output() {
        let flash = blob(WHOLE);
        let read = Provisioning::parse(&flash).unwrap();
        let text = std::format!("{read:?} {:?}", read.wifi);
        assert!(!text.contains("secret") && !text.contains("107, 101, 121"));
    }

    #[test]
    fn a_partition_that_lacks_something_is_refused() {
        let without = |kind: u8| {
            let entries: Vec<_> = WHOLE
                .iter()
                .copied()
                .filter(|entry| entry.0 != kind)
                .collect();
            Provisioning::parse(&blob(&entries)).map(|_| ())
        };
        for kind in 1..=4 {
            assert_eq!(without(kind), Err(ProvisioningError::MissingEntry(kind)));
        }
        for kind in 5..=7 {
            assert_eq!(without(kind), Ok(()));
        }
    }

    #[test]
    fn unknown_and_double_entries_are_refused() {
        let with = |entry: (u8, &[u8])| {
            let entries = [WHOLE, &[entry]].concat();
            Provisioning::parse(&blob(&entries)).map(|_| ())
        };
        assert_eq!(with((8, b"")), Err(ProvisioningError::UnknownEntry(8)));
        assert_eq!(with((0, b"")), Err(ProvisioningError::UnknownEntry(0)));
        assert_eq!(with((2, b"")), Err(ProvisioningError::DuplicateEntry(2)));
    }

    #[test]
    fn erased_flash_is_absent() {
        let read = Provisioning::parse(&[0xff; 4096]).map(|_| ());
        assert_eq!(read, Err(ProvisioningError::Absent));
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_found_out() {
        let whole = blob(WHOLE);
        for length in 0..whole.len() {
            assert!(Provisioning::parse(&whole[..length]).is_err(), "{length}");
        }
        for bit in 0..whole.len() * 8 {
            let mut broken = whole.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            assert!(Provisioning::parse(&broken).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_chain_is_two_certificates_and_a_nul() {
        let flash = blob(WHOLE);
        let pem = Provisioning::parse(&flash).unwrap().certificate_chain_pem();
        let text = std::str::from_utf8(&pem).unwrap();
        assert_eq!(text.matches("BEGIN CERTIFICATE").count(), 2);
        assert!(text.ends_with("-----END CERTIFICATE-----\n\0"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut flash = MAGIC.to_vec();
            flash.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
            flash.extend(crc32fast::hash(&body).to_le_bytes());
            flash.extend(&body);
            let _ = Provisioning::parse(&flash);
            let _ = Provisioning::parse(&body);
        }
    }
}
