//! NOR flash in a file: what is recorded survives the program, as it survives the chip's.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use embedded_storage::nor_flash::{
    ErrorType, NorFlash, NorFlashErrorKind, ReadNorFlash, check_erase, check_read, check_write,
};

/// A file of whole sectors, written four bytes at a time.
#[derive(Debug)]
pub struct FileFlash {
    file: File,
    bytes: usize,
}

impl FileFlash {
    /// Opens a file, or makes one of erased sectors.
    ///
    /// # Errors
    /// The system does not allow it.
    pub fn open(path: &Path, sectors: usize) -> io::Result<Self> {
        let mut options = File::options();
        let file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        let bytes = sectors.max(2) * SECTOR_BYTES;
        let there = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
        if there == 0 {
            file.write_all_at(&vec![0xff; bytes], 0)?;
            return Ok(Self { file, bytes });
        }
        let bytes = there / SECTOR_BYTES * SECTOR_BYTES;
        Ok(Self { file, bytes })
    }
}

impl ErrorType for FileFlash {
    type Error = NorFlashErrorKind;
}

impl ReadNorFlash for FileFlash {
    const READ_SIZE: usize = 4;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), NorFlashErrorKind> {
        check_read(self, offset, bytes.len())?;
        self.file
            .read_exact_at(bytes, offset.into())
            .map_err(|_| NorFlashErrorKind::Other)
    }

    fn capacity(&self) -> usize {
        self.bytes
    }
}

impl NorFlash for FileFlash {
    const WRITE_SIZE: usize = 4;
    const ERASE_SIZE: usize = SECTOR_BYTES;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), NorFlashErrorKind> {
        check_erase(self, from, to)?;
        let erased = vec![0xff; (to - from) as usize];
        self.file
            .write_all_at(&erased, from.into())
            .map_err(|_| NorFlashErrorKind::Other)
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), NorFlashErrorKind> {
        check_write(self, offset, bytes.len())?;
        let mut cells = vec![0; bytes.len()];
        self.read(offset, &mut cells)?;
        // Writing clears bits and sets none, here too, so that what works here works there.
        for (cell, byte) in cells.iter_mut().zip(bytes) {
            *cell &= byte;
        }
        self.file
            .write_all_at(&cells, offset.into())
            .map_err(|_| NorFlashErrorKind::Other)
    }
}

/// What an ESP32 erases at a time.
pub const SECTOR_BYTES: usize = 4096;

#[cfg(test)]
mod tests {
    use nightjar_esp32_core::{FlashRing, Sequence, Store};

    use super::*;

    #[test]
    fn a_ring_in_a_file_is_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("readings");
        let open = || FlashRing::open(FileFlash::open(&path, 4).unwrap()).unwrap();
        let mut ring = open();
        ring.append(b"one").unwrap();
        ring.append(b"two").unwrap();
        ring.release(Sequence::FIRST).unwrap();
        drop(ring);
        let mut ring = open();
        let mut value = Vec::new();
        // A release may be forgotten, a record not.
        ring.read(Sequence::new(2), &mut value).unwrap();
        assert_eq!(value, b"two");
        assert_eq!(ring.next_sequence(), Sequence::new(3));
    }

    #[test]
    fn writing_sets_no_bit_that_was_cleared() {
        let folder = tempfile::tempdir().unwrap();
        let mut flash = FileFlash::open(&folder.path().join("flash"), 2).unwrap();
        flash.write(0, &[0x0f; 4]).unwrap();
        flash.write(0, &[0xf0; 4]).unwrap();
        let mut cells = [0xaa; 4];
        flash.read(0, &mut cells).unwrap();
        assert_eq!(cells, [0; 4]);
        assert!(flash.write(2, &[0; 4]).is_err(), "not aligned");
        assert!(flash.read(2 * 4096, &mut cells).is_err(), "behind its end");
    }
}
