//! NOR flash in memory, for tests and for machines without a chip: it can be cut off in the middle of a write or an erase.

use alloc::vec;
use alloc::vec::Vec;

use embedded_storage::nor_flash::{
    ErrorType, NorFlash, NorFlashErrorKind, ReadNorFlash, check_erase, check_read, check_write,
};

/// `SECTORS` sectors of `SECTOR` bytes, written four bytes at a time as that of an ESP32.
#[derive(Clone, Debug)]
pub struct MemoryFlash<const SECTOR: usize> {
    bytes: Vec<u8>,
    /// Steps of four bytes that are still done before the power goes.
    power: Option<usize>,
}

impl<const SECTOR: usize> MemoryFlash<SECTOR> {
    /// Erased flash.
    #[must_use]
    pub fn new(sectors: usize) -> Self {
        Self {
            bytes: vec![0xff; sectors * SECTOR],
            power: None,
        }
    }

    /// After that many steps of four bytes, written or erased, everything fails, until the power is back.
    pub const fn cut_power_after(&mut self, steps: usize) {
        self.power = Some(steps);
    }

    /// The power is back; what was half done stays half done.
    pub const fn restore_power(&mut self) {
        self.power = None;
    }

    /// What is on it.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Does what is left of a change while there is power.
    fn step(&mut self) -> Result<(), NorFlashErrorKind> {
        match &mut self.power {
            None => Ok(()),
            Some(0) => Err(NorFlashErrorKind::Other),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }
}

impl<const SECTOR: usize> ErrorType for MemoryFlash<SECTOR> {
    type Error = NorFlashErrorKind;
}

impl<const SECTOR: usize> ReadNorFlash for MemoryFlash<SECTOR> {
    const READ_SIZE: usize = 4;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), NorFlashErrorKind> {
        check_read(self, offset, bytes.len())?;
        if self.power == Some(0) {
            return Err(NorFlashErrorKind::Other);
        }
        let from = self.bytes.get(offset as usize..).unwrap_or_default();
        for (to, from) in bytes.iter_mut().zip(from) {
            *to = *from;
        }
        Ok(())
    }

    fn capacity(&self) -> usize {
        self.bytes.len()
    }
}

impl<const SECTOR: usize> NorFlash for MemoryFlash<SECTOR> {
    const WRITE_SIZE: usize = 4;
    const ERASE_SIZE: usize = SECTOR;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), NorFlashErrorKind> {
        check_erase(self, from, to)?;
        for offset in (from as usize..to as usize).step_by(4) {
            self.step()?;
            let word = self.bytes.get_mut(offset..offset + 4);
            word.ok_or(NorFlashErrorKind::OutOfBounds)?.fill(0xff);
        }
        Ok(())
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), NorFlashErrorKind> {
        check_write(self, offset, bytes.len())?;
        for (index, word) in bytes.chunks(4).enumerate() {
            self.step()?;
            let start = offset as usize + index * 4;
            let cells = self.bytes.get_mut(start..start + word.len());
            // Writing clears bits and sets none.
            for (cell, byte) in cells
                .ok_or(NorFlashErrorKind::OutOfBounds)?
                .iter_mut()
                .zip(word)
            {
                *cell &= byte;
            }
        }
        Ok(())
    }
}
