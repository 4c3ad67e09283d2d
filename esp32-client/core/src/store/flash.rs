//! A ring on NOR flash: survives restarts, loss of power in the middle of a write or an erase, and flipped bits.
//!
//! The sectors are used in turn. Each begins with a header that carries what must outlive the sectors before it:
//!
//! ```text
//!  0  4  "NJR1"
//!  4  4  CRC-32 of 8 to 47
//!  8  8  number of the sector: one more than that of the sector used before
//! 16  8  the next sequence number when the sector was begun
//! 24  8  everything up to this number was released
//! 32  8  records that were evicted, ever
//! 40  8  the highest number that was evicted
//! ```
//!
//! Records follow, each beginning at a multiple of what the flash writes and reads at a time:
//!
//! ```text
//!  0  2  length of the value
//!  2  1  kind: 1 a record, 2 a mark: everything up to its number was released
//!  3  1  0x5a
//!  4  4  CRC-32 of the number of the sector, 0 to 3, and what follows 8
//!  8  8  sequence number
//! 16     value
//! ```
//!
//! All numbers are little-endian. A record whose CRC does not fit was torn or is damaged: reading goes on at the next place where one
//! fits. Nothing is written over what is not erased. Where the next sector holds what was not released, that is evicted and counted.
//! Releases are marked when nothing waits and at every eighth; after a loss of power what was released since may be read again.

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use embedded_storage::nor_flash::{NorFlash, NorFlashError};

use super::{Sequence, Store};

/// A ring on `F`: the whole of it, so give it a partition.
#[derive(Debug)]
pub struct FlashRing<F> {
    flash: F,
    /// By place; `None` where nothing valid is.
    sectors: Vec<Option<Sector>>,
    active: usize,
    next: Sequence,
    released: Sequence,
    /// What a mark on flash says.
    marked: Sequence,
    unmarked: u32,
    evicted: u64,
    evicted_through: Sequence,
    pending: u64,
    /// Where the last read ended: place of the sector and offset.
    hint: Option<(Sequence, usize, usize)>,
}

/// What is known of a sector without reading it.
#[derive(Clone, Copy, Debug)]
struct Sector {
    number: u64,
    /// Where the next record would be written.
    end: usize,
    last: Option<Sequence>,
}

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlashError<E> {
    /// The flash failed.
    Medium(E),
    /// There are fewer than two sectors, or they are of no size that this can use.
    Geometry,
    /// The record is longer than a sector has room for.
    TooLarge,
}

impl<E: fmt::Debug> fmt::Display for FlashError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Medium(error) => write!(f, "flash: {error:?}"),
            Self::Geometry => f.write_str("flash: expected two sectors or more"),
            Self::TooLarge => f.write_str("flash: the record is longer than a sector"),
        }
    }
}

impl<E: fmt::Debug> core::error::Error for FlashError<E> {}

impl<E> From<E> for FlashError<E>
where
    E: NorFlashError,
{
    fn from(error: E) -> Self {
        Self::Medium(error)
    }
}

impl<F: NorFlash> FlashRing<F> {
    /// Reads what is there; flash that holds nothing of ours is begun anew.
    ///
    /// # Errors
    /// The flash fails, or is too small.
    pub fn open(flash: F) -> Result<Self, FlashError<F::Error>> {
        let sectors = flash.capacity() / F::ERASE_SIZE;
        let odd =
            !HEADER_BYTES.is_multiple_of(Self::ALIGN) || !F::ERASE_SIZE.is_multiple_of(Self::ALIGN);
        if odd
            || !(2..=SECTORS_MAX).contains(&sectors)
            || F::ERASE_SIZE < HEADER_BYTES + 2 * RECORD_HEADER_BYTES
        {
            return Err(FlashError::Geometry);
        }
        let mut ring = Self {
            flash,
            sectors: vec![None; sectors],
            active: 0,
            next: Sequence::FIRST,
            released: Sequence::new(0),
            marked: Sequence::new(0),
            unmarked: 0,
            evicted: 0,
            evicted_through: Sequence::new(0),
            pending: 0,
            hint: None,
        };
        ring.recover()?;
        Ok(ring)
    }

    /// The flash, as it is.
    pub fn into_flash(self) -> F {
        self.flash
    }

    const ALIGN: usize = if F::WRITE_SIZE > F::READ_SIZE {
        F::WRITE_SIZE
    } else {
        F::READ_SIZE
    };

    fn recover(&mut self) -> Result<(), FlashError<F::Error>> {
        let mut newest: Option<Header> = None;
        let mut found: Vec<Sequence> = Vec::new();
        for place in 0..self.sectors.len() {
            let bytes = self.load(place, 0, F::ERASE_SIZE)?;
            let Some(header) = Header::read(&bytes) else {
                continue;
            };
            let mut sector = Sector {
                number: header.number,
                end: end_of(&bytes, Self::ALIGN),
                last: None,
            };
            let mut offset = HEADER_BYTES;
            while let Some(record) = Record::find(&bytes, offset, header.number, Self::ALIGN) {
                match record.kind {
                    Kind::Value => {
                        sector.last = sector.last.max(Some(record.sequence));
                        found.push(record.sequence);
                    }
                    Kind::Released => self.released = self.released.max(record.sequence),
                }
                offset = record.end;
            }
            // A value may end in bytes that look erased.
            sector.end = sector.end.max(offset);
            if let Some(slot) = self.sectors.get_mut(place) {
                *slot = Some(sector);
            }
            self.next = self.next.max(header.next);
            self.released = self.released.max(header.released);
            if newest.is_none_or(|newest| newest.number < header.number) {
                newest = Some(header);
                self.active = place;
            }
        }
        let Some(newest) = newest else {
            return self.begin(0);
        };
        self.evicted = newest.evicted;
        self.evicted_through = newest.evicted_through;
        found.sort_unstable();
        if let Some(last) = found.last() {
            self.next = self.next.max(last.next());
        }
        self.marked = self.released;
        found.retain(|sequence| *sequence > self.released);
        self.pending = count(found.len());
        // A sector may have been erased for a successor that has no header yet: what it held is gone, and nobody has counted it.
        let gone = self.released.max(self.evicted_through);
        let oldest = found.first().copied().unwrap_or(self.next);
        let missing = oldest.get().saturating_sub(gone.next().get());
        if missing > 0 {
            self.evicted = self.evicted.saturating_add(missing);
            self.evicted_through = Sequence::new(oldest.get().saturating_sub(1));
        }
        Ok(())
    }

    /// Begins the sector at `place`: what it held is gone.
    fn begin(&mut self, place: usize) -> Result<(), FlashError<F::Error>> {
        let number = self
            .sectors
            .iter()
            .flatten()
            .map(|sector| sector.number)
            .max();
        let (evicted, through) = self.live_in(place)?;
        let header = Header {
            number: number.unwrap_or(0).saturating_add(1),
            next: self.next,
            released: self.released,
            evicted: self.evicted.saturating_add(evicted),
            evicted_through: self.evicted_through.max(through),
        };
        let start = place * F::ERASE_SIZE;
        if let Some(slot) = self.sectors.get_mut(place) {
            *slot = None;
        }
        self.hint = None;
        self.evicted = header.evicted;
        self.evicted_through = header.evicted_through;
        self.pending = self.pending.saturating_sub(evicted);
        self.flash
            .erase(offset_of(start), offset_of(start + F::ERASE_SIZE))?;
        self.flash.write(offset_of(start), &header.bytes())?;
        if let Some(slot) = self.sectors.get_mut(place) {
            *slot = Some(Sector {
                number: header.number,
                end: HEADER_BYTES,
                last: None,
            });
        }
        self.active = place;
        self.marked = self.released;
        self.unmarked = 0;
        Ok(())
    }

    /// What of a sector was not released: how many, and the highest number.
    fn live_in(&mut self, place: usize) -> Result<(u64, Sequence), FlashError<F::Error>> {
        let Some(sector) = self.sector(place) else {
            return Ok((0, Sequence::new(0)));
        };
        if sector.last.is_none_or(|last| last <= self.released) {
            return Ok((0, Sequence::new(0)));
        }
        let bytes = self.load(place, 0, sector.end)?;
        let mut live = (0, Sequence::new(0));
        let mut offset = HEADER_BYTES;
        while let Some(record) = Record::find(&bytes, offset, sector.number, Self::ALIGN) {
            if record.kind == Kind::Value && record.sequence > self.released {
                live = (live.0 + 1, live.1.max(record.sequence));
            }
            offset = record.end;
        }
        Ok(live)
    }

    fn put(
        &mut self,
        kind: Kind,
        sequence: Sequence,
        value: &[u8],
    ) -> Result<(), FlashError<F::Error>> {
        let place = self.active;
        let Some(sector) = self.sectors.get_mut(place).and_then(Option::as_mut) else {
            return Err(FlashError::Geometry);
        };
        let bytes = record_bytes(kind, sequence, value, sector.number, Self::ALIGN);
        let start = place * F::ERASE_SIZE + sector.end;
        // Used, whatever becomes of the write: what may be half there is not written over.
        sector.end += bytes.len();
        self.flash.write(offset_of(start), &bytes)?;
        if kind == Kind::Value {
            sector.last = Some(sequence);
        }
        Ok(())
    }

    fn has_room(&self, length: usize) -> bool {
        self.sector(self.active).is_some_and(|sector| {
            sector.end + round_up(RECORD_HEADER_BYTES + length, Self::ALIGN) <= F::ERASE_SIZE
        })
    }

    fn successor(&self) -> usize {
        (self.active + 1) % self.sectors.len()
    }

    fn sector(&self, place: usize) -> Option<Sector> {
        self.sectors.get(place).copied().flatten()
    }

    /// Bytes `from` to `to` of a sector.
    fn load(
        &mut self,
        place: usize,
        from: usize,
        to: usize,
    ) -> Result<Vec<u8>, FlashError<F::Error>> {
        let mut bytes = vec![0; to - from];
        self.flash
            .read(offset_of(place * F::ERASE_SIZE + from), &mut bytes)?;
        Ok(bytes)
    }

    fn mark(&mut self) -> Result<(), FlashError<F::Error>> {
        if !self.has_room(0) {
            // The header of the next sector says it, if that can be begun without losing anything.
            let (live, _) = self.live_in(self.successor())?;
            return if live == 0 {
                self.begin(self.successor())
            } else {
                Ok(())
            };
        }
        self.put(Kind::Released, self.released, &[])?;
        self.marked = self.released;
        self.unmarked = 0;
        Ok(())
    }

    /// Reads on from an offset of a sector to the first record that is `from` or above.
    fn read_in(
        &mut self,
        place: usize,
        offset: usize,
        from: Sequence,
        into: &mut Vec<u8>,
    ) -> Result<Option<Sequence>, FlashError<F::Error>> {
        let Some(sector) = self.sector(place) else {
            return Ok(None);
        };
        let bytes = self.load(place, offset, sector.end.max(offset))?;
        let mut at = 0;
        while let Some(record) = Record::find(&bytes, at, sector.number, Self::ALIGN) {
            at = record.end;
            if record.kind == Kind::Value && record.sequence >= from {
                into.clear();
                into.extend_from_slice(record.value);
                self.hint = Some((record.sequence.next(), place, offset + at));
                return Ok(Some(record.sequence));
            }
        }
        Ok(None)
    }
}

impl<F: NorFlash> Store for FlashRing<F> {
    type Error = FlashError<F::Error>;

    fn next_sequence(&self) -> Sequence {
        self.next
    }

    fn append(&mut self, record: &[u8]) -> Result<Sequence, Self::Error> {
        if record.len() > self.record_bytes_max() {
            return Err(FlashError::TooLarge);
        }
        if !self.has_room(record.len()) {
            self.begin(self.successor())?;
        }
        let sequence = self.next;
        // Never given again, even where writing fails: the record may be there all the same.
        self.next = sequence.next();
        self.put(Kind::Value, sequence, record)?;
        self.pending += 1;
        Ok(sequence)
    }

    fn read(
        &mut self,
        from: Sequence,
        into: &mut Vec<u8>,
    ) -> Result<Option<Sequence>, Self::Error> {
        let from = from.max(self.released.next());
        if let Some((sequence, place, offset)) = self.hint
            && sequence == from
            && let Some(found) = self.read_in(place, offset, from, into)?
        {
            return Ok(Some(found));
        }
        for step in 1..=self.sectors.len() {
            let place = (self.active + step) % self.sectors.len();
            let last = self.sector(place).and_then(|sector| sector.last);
            if last.is_some_and(|last| last >= from)
                && let Some(found) = self.read_in(place, HEADER_BYTES, from, into)?
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn release(&mut self, through: Sequence) -> Result<(), Self::Error> {
        let through = through.min(Sequence::new(self.next.get().saturating_sub(1)));
        let mut value = Vec::new();
        let mut from = self.released.next();
        while from <= through
            && let Some(sequence) = self.read(from, &mut value)?
            && sequence <= through
        {
            self.pending = self.pending.saturating_sub(1);
            self.unmarked += 1;
            from = sequence.next();
        }
        self.released = self.released.max(through);
        if self.released > self.marked && (self.pending == 0 || self.unmarked >= MARK_EVERY) {
            self.mark()?;
        }
        Ok(())
    }

    fn evicted(&self) -> u64 {
        self.evicted
    }

    fn pending(&self) -> u64 {
        self.pending
    }

    fn record_bytes_max(&self) -> usize {
        (F::ERASE_SIZE - HEADER_BYTES - RECORD_HEADER_BYTES).min(usize::from(u16::MAX))
            / Self::ALIGN
            * Self::ALIGN
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    number: u64,
    next: Sequence,
    released: Sequence,
    evicted: u64,
    evicted_through: Sequence,
}

impl Header {
    fn bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let numbers = [
            self.number,
            self.next.get(),
            self.released.get(),
            self.evicted,
            self.evicted_through.get(),
        ];
        let (head, rest) = bytes.split_at_mut(8);
        for (slot, number) in rest.chunks_exact_mut(8).zip(numbers) {
            slot.copy_from_slice(&number.to_le_bytes());
        }
        let (magic, crc) = head.split_at_mut(4);
        magic.copy_from_slice(MAGIC);
        crc.copy_from_slice(&crc32fast::hash(rest).to_le_bytes());
        bytes
    }

    fn read(sector: &[u8]) -> Option<Self> {
        let header = sector.get(..HEADER_BYTES)?;
        let (crc, rest) = header.strip_prefix(MAGIC)?.split_first_chunk::<4>()?;
        if crc32fast::hash(rest) != u32::from_le_bytes(*crc) {
            return None;
        }
        let mut numbers = rest
            .as_chunks::<8>()
            .0
            .iter()
            .map(|bytes| u64::from_le_bytes(*bytes));
        Some(Self {
            number: numbers.next()?,
            next: Sequence::new(numbers.next()?),
            released: Sequence::new(numbers.next()?),
            evicted: numbers.next()?,
            evicted_through: Sequence::new(numbers.next()?),
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Value = 1,
    Released = 2,
}

struct Record<'a> {
    kind: Kind,
    sequence: Sequence,
    value: &'a [u8],
    /// Where the next one may begin.
    end: usize,
}

impl<'a> Record<'a> {
    /// The first valid record at `offset` or behind.
    fn find(bytes: &'a [u8], mut offset: usize, number: u64, align: usize) -> Option<Self> {
        while offset + RECORD_HEADER_BYTES <= bytes.len() {
            if let Some(record) = Self::at(bytes, offset, number, align) {
                return Some(record);
            }
            offset += align;
        }
        None
    }

    fn at(bytes: &'a [u8], offset: usize, number: u64, align: usize) -> Option<Self> {
        let (header, rest) = bytes
            .get(offset..)?
            .split_first_chunk::<RECORD_HEADER_BYTES>()?;
        let [low, high, kind, MARKER, crc @ .., _, _, _, _, _, _, _, _] = header else {
            return None;
        };
        let kind = match kind {
            1 => Kind::Value,
            2 => Kind::Released,
            _ => return None,
        };
        let length = usize::from(u16::from_le_bytes([*low, *high]));
        let value = rest.get(..length)?;
        let (start, sequence) = (header.first_chunk::<4>()?, header.last_chunk::<8>()?);
        if crc != &crc_of(number, *start, *sequence, value).to_le_bytes() {
            return None;
        }
        Some(Self {
            kind,
            sequence: Sequence::new(u64::from_le_bytes(*sequence)),
            value,
            end: round_up(offset + RECORD_HEADER_BYTES + length, align),
        })
    }
}

fn record_bytes(
    kind: Kind,
    sequence: Sequence,
    value: &[u8],
    number: u64,
    align: usize,
) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap_or(u16::MAX).to_le_bytes();
    let start = [length[0], length[1], kind as u8, MARKER];
    let sequence = sequence.get().to_le_bytes();
    let mut bytes = Vec::with_capacity(round_up(RECORD_HEADER_BYTES + value.len(), align));
    bytes.extend_from_slice(&start);
    bytes.extend_from_slice(&crc_of(number, start, sequence, value).to_le_bytes());
    bytes.extend_from_slice(&sequence);
    bytes.extend_from_slice(value);
    bytes.resize(round_up(bytes.len(), align), ERASED);
    bytes
}

fn crc_of(number: u64, start: [u8; 4], sequence: [u8; 8], value: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&number.to_le_bytes());
    hasher.update(&start);
    hasher.update(&sequence);
    hasher.update(value);
    hasher.finalize()
}

/// Behind the last byte that is not erased.
fn end_of(sector: &[u8], align: usize) -> usize {
    let used = sector
        .iter()
        .rposition(|byte| *byte != ERASED)
        .map_or(0, |last| last + 1);
    round_up(used.max(HEADER_BYTES), align)
}

const fn round_up(length: usize, align: usize) -> usize {
    length.next_multiple_of(align)
}

/// Flash of a chip is addressed with 32 bits; what is beyond fails as out of bounds.
fn offset_of(offset: usize) -> u32 {
    u32::try_from(offset).unwrap_or(u32::MAX)
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

const MAGIC: &[u8] = b"NJR1";
const HEADER_BYTES: usize = 48;
const RECORD_HEADER_BYTES: usize = 16;
const MARKER: u8 = 0x5a;
const ERASED: u8 = 0xff;
const SECTORS_MAX: usize = 4096;
const MARK_EVERY: u32 = 8;

pub mod memory;

#[cfg(test)]
mod tests;
