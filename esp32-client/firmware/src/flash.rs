//! The two partitions of ours, found by name in the table that lies in flash.

use alloc::vec;
use alloc::vec::Vec;

use embedded_storage::nor_flash::{ErrorType, NorFlash, ReadNorFlash};
use esp_bootloader_esp_idf::partitions::{PARTITION_TABLE_MAX_LEN, read_partition_table};
use esp_hal::peripherals::FLASH;
use esp_storage::{FlashStorage, FlashStorageError};

/// What is in the partition `nightjar`, and the partition `readings`.
///
/// # Errors
///
/// In words: what is missing.
pub(crate) fn open(flash: FLASH<'static>) -> Result<(Vec<u8>, Partition), &'static str> {
    let mut flash = FlashStorage::new(flash);
    let mut table = vec![0; PARTITION_TABLE_MAX_LEN];
    let table = read_partition_table(&mut flash, &mut table)
        .map_err(|_| "flash has no valid partition table")?;
    let find = |name: &str| {
        table
            .iter()
            .find(|entry| entry.label_as_str() == name)
            .map(|entry| (entry.offset(), entry.len()))
    };
    let (start, length) = find("nightjar").ok_or("there is no partition nightjar")?;
    let length = usize::try_from(length.min(PROVISIONING_BYTES_MAX)).unwrap_or_default();
    let mut blob = vec![0; length];
    flash
        .read_nor(start, &mut blob)
        .map_err(|_| "the partition nightjar cannot be read")?;
    let (start, length) = find("readings").ok_or("there is no partition readings")?;
    Ok((
        blob,
        Partition {
            flash,
            start,
            length,
        },
    ))
}

/// A part of the flash, as if it were all of it.
#[derive(Debug)]
pub(crate) struct Partition {
    flash: FlashStorage<'static>,
    start: u32,
    length: u32,
}

impl Partition {
    /// Where `length` bytes at `offset` are in the flash.
    fn place(&self, offset: u32, length: usize) -> Result<u32, FlashStorageError> {
        let end = u32::try_from(length)
            .ok()
            .and_then(|length| offset.checked_add(length));
        match end {
            Some(end) if end <= self.length => Ok(self.start + offset),
            _ => Err(FlashStorageError::OutOfBounds),
        }
    }
}

impl ErrorType for Partition {
    type Error = FlashStorageError;
}

impl ReadNorFlash for Partition {
    const READ_SIZE: usize = FlashStorage::READ_SIZE;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), FlashStorageError> {
        let place = self.place(offset, bytes.len())?;
        self.flash.read_nor(place, bytes)
    }

    fn capacity(&self) -> usize {
        usize::try_from(self.length).unwrap_or_default()
    }
}

impl NorFlash for Partition {
    const WRITE_SIZE: usize = FlashStorage::WRITE_SIZE;
    const ERASE_SIZE: usize = FlashStorage::ERASE_SIZE;

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), FlashStorageError> {
        let place = self.place(offset, bytes.len())?;
        self.flash.write_nor(place, bytes)
    }

    fn erase(&mut self, from: u32, to: u32) -> Result<(), FlashStorageError> {
        let length = to.checked_sub(from).ok_or(FlashStorageError::OutOfBounds)?;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let place = self.place(from, length)?;
        self.flash.erase(place, place + (to - from))
    }
}

const PROVISIONING_BYTES_MAX: u32 = 16 * 1024;
