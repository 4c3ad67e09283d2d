//! `provisioning.bin`: all that an ESP32 has to know, as one blob that is flashed as it is.
//!
//! `esp32-client/core/src/provisioning.rs` reads it and draws its bytes. In: numbered entries. Out: the blob; and from a blob its entries.

use crate::fault::Fault;

pub(crate) const CONFIG: u8 = 1;
pub(crate) const KEY: u8 = 2;
pub(crate) const CERTIFICATE: u8 = 3;
pub(crate) const ROOT: u8 = 4;
pub(crate) const ISSUING: u8 = 5;
pub(crate) const WIFI_NAME: u8 = 6;
pub(crate) const WIFI_PASSWORD: u8 = 7;

pub(crate) type Entries = Vec<(u8, Vec<u8>)>;

pub(crate) fn write(entries: &Entries) -> Result<Vec<u8>, Fault> {
    let too_long = |_| Fault::refused("an entry of provisioning.bin is longer than 65535 bytes");
    let mut body = Vec::new();
    for (kind, value) in entries {
        let length = u16::try_from(value.len()).map_err(too_long)?;
        body.extend([*kind, 0]);
        body.extend(length.to_le_bytes());
        body.extend(value);
    }
    let length = u32::try_from(body.len()).map_err(too_long)?;
    let mut blob = MAGIC.to_vec();
    blob.extend(length.to_le_bytes());
    blob.extend(crc32fast::hash(&body).to_le_bytes());
    blob.extend(body);
    Ok(blob)
}

/// `None` for what is no such blob, or is damaged.
pub(crate) fn read(blob: &[u8]) -> Option<Entries> {
    let (length, rest) = blob.strip_prefix(MAGIC)?.split_first_chunk::<4>()?;
    let (crc, body) = rest.split_first_chunk::<4>()?;
    let mut rest = body.get(..usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    if crc32fast::hash(rest) != u32::from_le_bytes(*crc) {
        return None;
    }
    let mut entries = Entries::new();
    while !rest.is_empty() {
        let (&[kind, _, low, high], behind) = rest.split_first_chunk::<4>()?;
        let (value, behind) =
            behind.split_at_checked(usize::from(u16::from_le_bytes([low, high])))?;
        entries.push((kind, value.to_vec()));
        rest = behind;
    }
    Some(entries)
}

const MAGIC: &[u8] = b"NJPROV1\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back() {
        let entries = vec![(CONFIG, b"a".to_vec()), (KEY, Vec::new())];
        let mut blob = write(&entries).unwrap();
        assert_eq!(read(&blob), Some(entries));
        *blob.last_mut().unwrap() ^= 1;
        assert_eq!(read(&blob), None);
    }

    #[test]
    fn an_entry_that_two_bytes_cannot_count_is_refused() {
        assert!(write(&vec![(CONFIG, vec![0; 65_536])]).is_err());
    }
}
