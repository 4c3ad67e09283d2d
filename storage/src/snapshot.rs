//! A copy of a store that is in use, sent as bytes: written by the process that has it, read by another that makes a new file.
//!
//! Comes in: the store at one moment, or the bytes. Goes out: the bytes, or a new store that was looked over. The moment is that
//! of one read transaction, so that nothing points to what is not there, whatever is written meanwhile.
//!
//! ```text
//! "nightjar snapshot 1\n" | rows u64 | row ... | 0 | rows u64
//! row:  table u8 | length of the key u32 | length of the value u32 | key | value        numbers little-endian
//! ```
//! A reader that does not see the end knows that the copy is not whole.

use std::io::{self, Read, Write};
use std::path::Path;

use crate::closed::{NewFile, file_error};
use crate::engine::RedbEngine;
use crate::error::StorageError;
use crate::record::Tag;
use crate::redb::{RowSource, build};
use crate::survey::{Contents, Meter};

impl RedbEngine {
    /// Writes what is durable at this moment. Commits go on meanwhile; the file cannot reuse the pages of this moment until it
    /// is done. `go_on` is asked before each row.
    pub fn send_snapshot(
        &self,
        out: &mut dyn Write,
        go_on: &dyn Fn() -> bool,
    ) -> Result<(), StorageError> {
        let snapshot = self.snapshot()?;
        let failed = |error: io::Error| StorageError::Failed {
            reason: format!("the copy cannot be sent: {error}").into(),
        };
        let mut expected = 0;
        for table in Tag::ALL {
            expected += snapshot.rows(table)?.unwrap_or(0);
        }
        out.write_all(MAGIC).map_err(failed)?;
        out.write_all(&expected.to_le_bytes()).map_err(failed)?;
        let mut rows: u64 = 0;
        for table in Tag::ALL {
            snapshot.each(table, &mut |key, row| {
                if !go_on() {
                    return Err(failed(io::ErrorKind::Interrupted.into()));
                }
                rows += 1;
                send_row(out, table, key, row).map_err(failed)
            })?;
        }
        out.write_all(&[0]).map_err(failed)?;
        out.write_all(&rows.to_le_bytes()).map_err(failed)?;
        out.flush().map_err(failed)
    }
}

/// Makes a new store at `out` of what `send_snapshot` writes.
pub fn receive_snapshot(
    input: &mut dyn Read,
    out: &Path,
    meter: &mut dyn Meter,
) -> Result<Contents, StorageError> {
    let new = NewFile::beside(out)?;
    let failed = |error: io::Error| StorageError::Failed {
        reason: format!("the copy broke off: {error}").into(),
    };
    let mut magic = [0; MAGIC.len()];
    input.read_exact(&mut magic).map_err(failed)?;
    if magic != *MAGIC {
        return Err(StorageError::Failed {
            reason: "the process that has it speaks another version".into(),
        });
    }
    build(&new, |writer| {
        meter.begin("copying", read_number(input).map_err(failed)?);
        let mut rows: u64 = 0;
        let (mut key, mut row) = (Vec::new(), Vec::new());
        while let Some(table) = read_row(input, &mut key, &mut row).map_err(failed)? {
            writer.put(table, &key, &row)?;
            rows += 1;
            meter.advance(1);
        }
        if read_number(input).map_err(failed)? == rows {
            return Ok(());
        }
        Err(failed(io::ErrorKind::InvalidData.into()))
    })
    .map_err(|error| match error {
        StorageError::File { reason, .. } => {
            file_error(out, &io::Error::other(String::from(reason)))
        }
        other => other,
    })?;
    new.finish(meter)
}

fn send_row(out: &mut dyn Write, table: Tag, key: &[u8], row: &[u8]) -> io::Result<()> {
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).map_err(io::Error::other);
    out.write_all(&[table as u8])?;
    out.write_all(&length(key)?.to_le_bytes())?;
    out.write_all(&length(row)?.to_le_bytes())?;
    out.write_all(key)?;
    out.write_all(row)
}

/// `None` at the end.
fn read_row(input: &mut dyn Read, key: &mut Vec<u8>, row: &mut Vec<u8>) -> io::Result<Option<Tag>> {
    let mut number = [0];
    input.read_exact(&mut number)?;
    if number == [0] {
        return Ok(None);
    }
    let known = |table: &Tag| [*table as u8] == number;
    let table = Tag::BY_NUMBER.into_iter().find(known);
    let table = table.ok_or(io::ErrorKind::InvalidData)?;
    let mut lengths = [0; 8];
    input.read_exact(&mut lengths)?;
    let [a, b, c, d, e, f, g, h] = lengths;
    for (into, length) in [
        (key, u32::from_le_bytes([a, b, c, d])),
        (row, u32::from_le_bytes([e, f, g, h])),
    ] {
        into.clear();
        // Nothing is made room for that does not come.
        let read = input.take(u64::from(length)).read_to_end(into)?;
        if read as u64 != u64::from(length) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(Some(table))
}

fn read_number(input: &mut dyn Read) -> io::Result<u64> {
    let mut number = [0; 8];
    input.read_exact(&mut number)?;
    Ok(u64::from_le_bytes(number))
}

const MAGIC: &[u8; 20] = b"nightjar snapshot 1\n";
