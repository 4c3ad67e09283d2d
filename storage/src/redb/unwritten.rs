//! A file that is read and never written: what would be written stays in memory.
//!
//! A database wants to write when it is opened, and a disk that has failed or is full does not take it. Behind this the last
//! commit can be read all the same. It holds the pages that opening and closing write, which are few; nobody commits here.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard};

use crate::disk::DiskFile;

#[derive(Debug)]
pub(crate) struct Unwritten {
    file: Box<dyn DiskFile>,
    changes: Mutex<Changes>,
}

#[derive(Debug)]
struct Changes {
    len: u64,
    /// Bytes of the file that are still to be seen: what was cut off once is zero afterwards.
    seen: u64,
    /// By page number.
    pages: BTreeMap<u64, Box<[u8; PAGE]>>,
}

impl Unwritten {
    pub(crate) fn new(file: Box<dyn DiskFile>) -> io::Result<Self> {
        let len = file.len()?;
        let changes = Changes {
            len,
            seen: len,
            pages: BTreeMap::new(),
        };
        Ok(Self {
            file,
            changes: Mutex::new(changes),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Changes> {
        self.changes
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// A page as it is in the file; zero where the file ends.
    fn page(&self, number: u64, seen: u64) -> io::Result<Box<[u8; PAGE]>> {
        let mut page = Box::new([0; PAGE]);
        let start = number * PAGE as u64;
        let there = seen.saturating_sub(start).min(PAGE as u64);
        let there = usize::try_from(there).map_err(io::Error::other)?;
        if let Some(part) = page.get_mut(..there).filter(|part| !part.is_empty()) {
            self.file.read(start, part)?;
        }
        Ok(page)
    }
}

impl DiskFile for Unwritten {
    fn len(&self) -> io::Result<u64> {
        Ok(self.lock().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let changes = self.lock();
        let end = offset.saturating_add(out.len() as u64);
        if end > changes.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let is_changed = changes
            .pages
            .range(offset / PAGE as u64..end.div_ceil(PAGE as u64))
            .next()
            .is_some();
        if !is_changed && end <= changes.seen {
            drop(changes);
            return self.file.read(offset, out);
        }
        for (number, within, part) in parts(offset, out.len()) {
            let out = out.get_mut(part).unwrap_or_default();
            let read = match changes.pages.get(&number) {
                Some(page) => page
                    .get(within.clone())
                    .map(|page| out.copy_from_slice(page)),
                None => {
                    let page = self.page(number, changes.seen)?;
                    page.get(within.clone())
                        .map(|page| out.copy_from_slice(page))
                }
            };
            read.expect("a part lies in its page");
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut changes = self.lock();
        changes.len = changes.len.max(offset.saturating_add(data.len() as u64));
        let (seen, held) = (changes.seen, changes.pages.len());
        if held > PAGES_MAX {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        for (number, within, part) in parts(offset, data.len()) {
            let page = match changes.pages.entry(number) {
                Entry::Occupied(page) => page.into_mut(),
                Entry::Vacant(place) => place.insert(self.page(number, seen)?),
            };
            let data = data.get(part).unwrap_or_default();
            page.get_mut(within)
                .expect("a part lies in its page")
                .copy_from_slice(data);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut changes = self.lock();
        if len < changes.len {
            changes.seen = changes.seen.min(len);
            changes.pages.split_off(&len.div_ceil(PAGE as u64));
            let rest = usize::try_from(len % PAGE as u64).map_err(io::Error::other)?;
            let last = changes.pages.get_mut(&(len / PAGE as u64));
            if let Some(rest) = last.and_then(|page| page.get_mut(rest..)) {
                rest.fill(0);
            }
        }
        changes.len = len;
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

/// The pages of a stretch: number, what of the page, and what of the stretch.
fn parts(offset: u64, length: usize) -> impl Iterator<Item = (u64, Range<usize>, Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == length {
            return None;
        }
        let at = offset + done as u64;
        let within = usize::try_from(at % PAGE as u64).expect("below the size of a page");
        let here = (PAGE - within).min(length - done);
        let part = (at / PAGE as u64, within..within + here, done..done + here);
        done += here;
        Some(part)
    })
}

const PAGE: usize = 4096;
/// 256 MiB: a list of the free pages of more than any disk.
const PAGES_MAX: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Fixed(Vec<u8>);

    impl DiskFile for Fixed {
        fn len(&self) -> io::Result<u64> {
            Ok(self.0.len() as u64)
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            let offset = offset as usize;
            out.copy_from_slice(&self.0[offset..offset + out.len()]);
            Ok(())
        }

        fn write(&self, _offset: u64, _data: &[u8]) -> io::Result<()> {
            panic!("it is written")
        }

        fn set_len(&self, _len: u64) -> io::Result<()> {
            panic!("its length is changed")
        }

        fn sync(&self) -> io::Result<()> {
            panic!("it is synced")
        }
    }

    #[test]
    fn what_is_written_is_read_back_and_the_file_is_as_it_was() {
        let mut expected: Vec<u8> = (0..20_000_u32).map(|at| at as u8 | 1).collect();
        let file = Unwritten::new(Box::new(Fixed(expected.clone()))).unwrap();
        for (offset, length) in [(0, 320), (4000, 200), (12_288, 4096), (19_990, 6000)] {
            let data = vec![0xee; length];
            file.write(offset as u64, &data).unwrap();
            expected.resize(expected.len().max(offset + length), 0);
            expected[offset..offset + length].copy_from_slice(&data);
        }
        assert_eq!(file.len().unwrap(), expected.len() as u64);
        for (offset, length) in [(0, expected.len()), (5000, 300), (8192, 4096), (4096, 1)] {
            let mut read = vec![0; length];
            file.read(offset as u64, &mut read).unwrap();
            assert!(read == expected[offset..offset + length], "{offset}");
        }
        assert!(file.read(expected.len() as u64, &mut [0]).is_err());
        file.sync().unwrap();
    }
}
