//! The rows of a damaged database, read from its pages without redb, which opens a file only if all of it is whole.
//!
//! Comes in: a file. Goes out: every row that can be found, by table; whether its checksum fits is for the caller to say, unless
//! the page around it makes no sense. It knows the file format of redb 4, as far as finding rows needs it:
//!
//! ```text
//! file:    super header (1 page) | regions of pages
//! header:  magic (9) | flags: bit 0 the slot in force (1) | 2 | page size u32 | region header pages u32 | region data pages u32
//! slot:    at 64 and 192: 8 bytes, then the root of the tree of tables: page u64 | checksum (16) | rows u64
//! page u64: bits 0-19 index in the region, 20-39 region, 59-63 order: it is 2^order pages long and so aligned
//! leaf:    1 | 0 | rows u16 | end of each key u32, unless of fixed size | end of each value u32 | keys | values
//! branch:  2 | 0 | keys u16 | 4 | checksum of each child (16) | page of each child u64 | end of each key u32 ... | keys
//! ```
//! A child of a branch has the keys above the key before it, up to its own. What a damaged branch led to is looked for
//! in all pages that nothing leads to. Rows found there fit their checksums, but may be older than the last commit.

use std::cell::Cell;
use std::collections::BTreeMap;

use ::redb::TableHandle;
use hashbrown::HashSet;

use super::REDB_MAGIC;
use super::rows::{Definition, RowSource, Visit, definition};
use crate::disk::DiskFile;
use crate::error::StorageError;
use crate::record::{self, CursorRecord, StoreRecord, Tag};

/// The pages of a database file, and where its tables begin.
#[derive(Debug)]
pub(crate) struct Pages {
    file: Box<dyn DiskFile>,
    length: u64,
    region: Region,
    /// By table.
    roots: BTreeMap<Tag, Root>,
    stray: Cell<u64>,
    lost: Cell<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Region {
    header_pages: u64,
    data_pages: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Root {
    Empty,
    At(u64),
}

/// A part of a tree: keys above `after`, up to `upto`.
#[derive(Clone, Debug, Default)]
struct Part {
    after: Option<Vec<u8>>,
    upto: Option<Vec<u8>>,
}

/// What was met on the way through a tree.
#[derive(Debug, Default)]
struct Way {
    /// Where the pages begin that were looked at.
    seen: HashSet<u64>,
    /// What pages that cannot be read would have held.
    lost: Vec<Part>,
}

/// Where the page of a row begins, and the row if it is to be compared with others.
type Stray = (u64, Box<[u8]>);

enum Keys {
    Any,
    Numbers,
}

impl Pages {
    /// Looks for the tables of a file. `path` is what messages call it.
    pub(crate) fn open(file: Box<dyn DiskFile>, path: Box<str>) -> Result<Self, StorageError> {
        let failed = |error: std::io::Error| StorageError::File {
            path: path.clone(),
            reason: error.to_string().into(),
        };
        let length = file.len().map_err(failed)?;
        let mut header = vec![0; HEADER_BYTES.min(usize::try_from(length).unwrap_or(usize::MAX))];
        file.read(0, &mut header).map_err(failed)?;
        if !header.starts_with(&REDB_MAGIC) && !is_nearly(&header) {
            return Err(StorageError::Foreign {
                path,
                why: "it does not begin like one".into(),
            });
        }
        let mut pages = Self {
            file,
            length,
            region: Region::of(&header),
            roots: BTreeMap::new(),
            stray: Cell::new(0),
            lost: Cell::new(0),
        };
        let in_force = header.get(FLAGS).is_some_and(|flags| flags & 1 != 0);
        let slots = if in_force { [1, 0] } else { [0, 1] };
        let [first, second] = slots.map(|slot: usize| {
            number_at(&header, SLOTS + slot * SLOT_BYTES + ROOT_IN_SLOT)
                .map(|root| pages.tables(root))
                .unwrap_or_default()
        });
        // The other slot is the commit before.
        pages.roots = if second.len() > first.len() {
            second
        } else {
            first
        };
        Ok(pages)
    }

    /// Rows that nothing leads to any more; they may be older than the last commit.
    pub(crate) fn stray(&self) -> u64 {
        self.stray.get()
    }

    /// Pages that could not be read.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.get()
    }

    fn tables(&self, root: u64) -> BTreeMap<Tag, Root> {
        let mut tables = BTreeMap::new();
        let mut way = Way::default();
        let visited = self.walk(root, &Keys::Any, None, &mut way, &mut |name, row| {
            let named = |table: &Tag| match definition(*table) {
                Definition::Keyed(definition) => definition.name().as_bytes() == name,
                Definition::Numbered(definition) => definition.name().as_bytes() == name,
            };
            let table = Tag::ALL.into_iter().find(named);
            // Kind (1), rows (8), whether there is a root (1), its page (8).
            if let (Some(table), Some(root)) = (table, number_at(row, 10)) {
                let root = match row.get(9) {
                    Some(0) => Root::Empty,
                    _ => Root::At(root),
                };
                tables.insert(table, root);
            }
            Ok(())
        });
        // Only `visit` gives errors.
        debug_assert!(visited.is_ok(), "{visited:?}");
        tables
    }

    /// Goes through a tree from left to right.
    fn walk(
        &self,
        root: u64,
        keys: &Keys,
        table: Option<Tag>,
        way: &mut Way,
        visit: &mut Visit<'_>,
    ) -> Result<(), StorageError> {
        let mut open = vec![(root, Part::default())];
        while let Some((number, part)) = open.pop() {
            let page = self
                .region
                .place(number)
                .filter(|(start, _)| way.seen.insert(*start));
            let page = page.and_then(|(start, length)| self.page(start, length));
            let Some(page) = page else {
                way.lost.push(part);
                continue;
            };
            if page.first() != Some(&BRANCH) {
                let rows = leaf(&page, keys, table);
                if rows.is_empty() {
                    way.lost.push(part);
                }
                for (key, row) in rows {
                    visit(&key, row)?;
                }
                continue;
            }
            let Some(children) = branch(&page, keys) else {
                way.lost.push(part);
                continue;
            };
            let mut after = part.after;
            let mut found = Vec::with_capacity(children.len());
            for (child, upto) in children {
                let upto = upto.or_else(|| part.upto.clone());
                found.push((
                    child,
                    Part {
                        after,
                        upto: upto.clone(),
                    },
                ));
                after = upto;
            }
            open.extend(found.into_iter().rev());
        }
        Ok(())
    }

    /// Rows of a table in pages that no table leads to, if their keys are in one of the parts.
    fn stray_rows(&self, table: Tag, way: &Way, visit: &mut Visit<'_>) -> Result<(), StorageError> {
        let keys = Keys::of(table);
        let mut found: BTreeMap<Box<[u8]>, Stray> = BTreeMap::new();
        let mut start = PAGE;
        while start < self.length {
            if !way.seen.contains(&start)
                && let Some(page) = self.leaf_at(start)
            {
                for (key, row) in leaf(&page, &keys, Some(table)) {
                    if !record::is_whole(table, &key, row)
                        || !way.lost.iter().any(|part| part.has(&key))
                    {
                        continue;
                    }
                    // Of small rows that say how far something has come the furthest counts; the others are not held.
                    let held = if is_progress(table) { row } else { &[] };
                    match found.get(&*key) {
                        Some((_, before)) if !is_further(table, &key, row, before) => {}
                        _ => {
                            found.insert(key.into(), (start, held.into()));
                        }
                    }
                }
            }
            start += PAGE;
        }
        let mut at = None;
        for (key, (start, _)) in found {
            if at.as_ref().is_none_or(|(of, _)| *of != start) {
                at = self.leaf_at(start).map(|page| (start, page));
            }
            let Some((_, page)) = &at else { continue };
            let rows = leaf(page, &keys, Some(table));
            if let Some((_, row)) = rows.into_iter().find(|(found, _)| **found == *key) {
                self.stray.set(self.stray.get() + 1);
                visit(&key, row)?;
            }
        }
        Ok(())
    }

    /// What may be a leaf, as long as it says it is.
    fn leaf_at(&self, start: u64) -> Option<Vec<u8>> {
        let mut page = self.page(start, PAGE)?;
        if page.first() != Some(&LEAF) {
            return None;
        }
        let end = Keys::ENDS
            .iter()
            .filter_map(|keys| leaf_end(&page, keys))
            .max()?;
        let length = (end as u64).next_multiple_of(PAGE).min(STRAY_PAGE_MAX);
        if length > PAGE {
            page = self.page(start, length.min(self.length - start))?;
        }
        Some(page)
    }

    fn page(&self, start: u64, length: u64) -> Option<Vec<u8>> {
        let end = start.checked_add(length)?;
        if length == 0 || end > self.length {
            return None;
        }
        let mut page = vec![0; usize::try_from(length).ok()?];
        self.file.read(start, &mut page).ok()?;
        Some(page)
    }
}

impl RowSource for Pages {
    /// What a damaged file says of its rows is not to be believed.
    fn rows(&self, _: Tag) -> Result<Option<u64>, StorageError> {
        Ok(None)
    }

    fn each(&self, table: Tag, visit: &mut Visit<'_>) -> Result<(), StorageError> {
        let mut way = Way::default();
        match self.roots.get(&table) {
            Some(Root::Empty) => {}
            Some(Root::At(root)) => {
                self.walk(*root, &Keys::of(table), Some(table), &mut way, visit)?;
            }
            None => way.lost.push(Part::default()),
        }
        if way.lost.is_empty() {
            return Ok(());
        }
        self.lost.set(self.lost.get() + way.lost.len() as u64);
        self.stray_rows(table, &way, visit)
    }
}

impl Region {
    /// As the header says, unless it makes no sense.
    fn of(header: &[u8]) -> Self {
        let header_pages = u32_at(header, REGION).unwrap_or(u32::MAX);
        let data_pages = u32_at(header, REGION + 4).unwrap_or(0);
        if header_pages > REGION_PAGES || !data_pages.is_power_of_two() || data_pages > REGION_PAGES
        {
            return Self {
                header_pages: 0,
                data_pages: u64::from(REGION_PAGES),
            };
        }
        Self {
            header_pages: u64::from(header_pages),
            data_pages: u64::from(data_pages),
        }
    }

    /// Where a page begins in the file, and how long it is.
    fn place(self, page: u64) -> Option<(u64, u64)> {
        let order = page >> 59;
        if order > ORDER_MAX {
            return None;
        }
        let index = page & (0xf_ffff >> order);
        let region = (page >> 20) & 0xf_ffff;
        let length = PAGE << order;
        let before = region * (self.header_pages + self.data_pages) + self.header_pages + 1;
        Some((before * PAGE + index * length, length))
    }
}

impl Part {
    fn has(&self, key: &[u8]) -> bool {
        self.after.as_deref().is_none_or(|after| key > after)
            && self.upto.as_deref().is_none_or(|upto| key <= upto)
    }
}

impl Keys {
    const ENDS: [Self; 2] = [Self::Any, Self::Numbers];

    fn of(table: Tag) -> Self {
        match definition(table) {
            Definition::Keyed(_) => Self::Any,
            Definition::Numbered(_) => Self::Numbers,
        }
    }

    /// As it is in checksums: redb keeps numbers the other way round.
    fn read(&self, key: &[u8]) -> Vec<u8> {
        let mut key = key.to_vec();
        if matches!(self, Self::Numbers) {
            key.reverse();
        }
        key
    }
}

/// The rows of a leaf. If not one fits its checksum, the count of rows may be what is damaged.
fn leaf<'a>(page: &'a [u8], keys: &Keys, table: Option<Tag>) -> Vec<(Vec<u8>, &'a [u8])> {
    let Some(count) = u16_at(page, 2) else {
        return Vec::new();
    };
    let rows = leaf_of(page, keys, count);
    let Some(table) = table else { return rows };
    let fits = |rows: &[(Vec<u8>, &[u8])]| {
        let mut rows = rows.iter();
        rows.any(|(key, row)| record::is_whole(table, key, row))
    };
    if fits(&rows) {
        return rows;
    }
    let others = (0..16).map(|bit| leaf_of(page, keys, count ^ (1 << bit)));
    others.into_iter().find(|rows| fits(rows)).unwrap_or(rows)
}

fn leaf_of<'a>(page: &'a [u8], keys: &Keys, count: u16) -> Vec<(Vec<u8>, &'a [u8])> {
    let count = usize::from(count);
    let (key_ends, value_ends, mut key_start) = leaf_layout(keys, count);
    if count == 0 || key_start > page.len() {
        return Vec::new();
    }
    let mut rows = Vec::with_capacity(count);
    let key_end = |n: usize| match keys {
        Keys::Any => u32_at(page, key_ends + 4 * n).map(|end| end as usize),
        Keys::Numbers => Some(value_ends + 4 * count + 8 * (n + 1)),
    };
    let mut value_start = key_end(count - 1);
    for n in 0..count {
        let (key_upto, value_upto) = (key_end(n), u32_at(page, value_ends + 4 * n));
        let value_upto = value_upto.map(|end| end as usize);
        let key = key_upto.and_then(|end| page.get(key_start..end));
        let value = value_start
            .zip(value_upto)
            .and_then(|(start, end)| page.get(start..end));
        if let (Some(key), Some(value)) = (key, value) {
            rows.push((keys.read(key), value));
        }
        key_start = key_upto.unwrap_or(usize::MAX);
        value_start = value_upto;
    }
    rows
}

/// Where the ends of keys, the ends of values, and the keys begin.
fn leaf_layout(keys: &Keys, count: usize) -> (usize, usize, usize) {
    match keys {
        Keys::Any => (4, 4 + 4 * count, 4 + 8 * count),
        Keys::Numbers => (4, 4, 4 + 4 * count),
    }
}

/// Where the last value of a leaf ends.
fn leaf_end(page: &[u8], keys: &Keys) -> Option<u32> {
    let count = usize::from(u16_at(page, 2)?);
    let (_, value_ends, _) = leaf_layout(keys, count);
    u32_at(page, value_ends + 4 * count.checked_sub(1)?)
}

/// The children of a branch, each with the last key it may have; `None` if it makes no sense.
fn branch(page: &[u8], keys: &Keys) -> Option<Vec<(u64, Option<Vec<u8>>)>> {
    let count = usize::from(u16_at(page, 2)?);
    let pages = 8 + 16 * (count + 1);
    let ends = pages + 8 * (count + 1);
    let mut start = match keys {
        Keys::Any => ends + 4 * count,
        Keys::Numbers => ends,
    };
    let mut children = Vec::with_capacity(count + 1);
    let mut before: Option<Vec<u8>> = None;
    for n in 0..count {
        let end = match keys {
            Keys::Any => u32_at(page, ends + 4 * n)? as usize,
            Keys::Numbers => start + 8,
        };
        let key = keys.read(page.get(start..end)?);
        if before.is_some_and(|before| before >= key) {
            return None;
        }
        before = Some(key.clone());
        children.push((number_at(page, pages + 8 * n)?, Some(key)));
        start = end;
    }
    if count == 0 {
        return None;
    }
    children.push((number_at(page, pages + 8 * count)?, None));
    Some(children)
}

/// Whether one of two rows says more than the other of how far something has come.
fn is_further(table: Tag, key: &[u8], row: &[u8], before: &[u8]) -> bool {
    match table {
        Tag::Store => {
            let operations = |row| StoreRecord::read(row).map_or(0, |store| store.operations);
            operations(row) > operations(before)
        }
        Tag::Cursor => {
            let Ok(owner) = <[u8; 8]>::try_from(key).map(u64::from_be_bytes) else {
                return false;
            };
            let head = |row| CursorRecord::read(owner, row).map_or(0, |cursor| cursor.head);
            head(row) > head(before)
        }
        _ => true,
    }
}

fn is_progress(table: Tag) -> bool {
    matches!(table, Tag::Store | Tag::Cursor)
}

/// The magic number with a few bits flipped.
fn is_nearly(header: &[u8]) -> bool {
    let wrong: u32 = header
        .iter()
        .zip(REDB_MAGIC)
        .map(|(one, other)| (one ^ other).count_ones())
        .sum();
    header.len() >= HEADER_BYTES && wrong <= 2
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let (number, _) = bytes.get(at..)?.split_first_chunk()?;
    Some(u16::from_le_bytes(*number))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let (number, _) = bytes.get(at..)?.split_first_chunk()?;
    Some(u32::from_le_bytes(*number))
}

fn number_at(bytes: &[u8], at: usize) -> Option<u64> {
    let (number, _) = bytes.get(at..)?.split_first_chunk()?;
    Some(u64::from_le_bytes(*number))
}

const PAGE: u64 = 4096;
const HEADER_BYTES: usize = 320;
const FLAGS: usize = 9;
const REGION: usize = 16;
const SLOTS: usize = 64;
const SLOT_BYTES: usize = 128;
const ROOT_IN_SLOT: usize = 8;
const LEAF: u8 = 1;
const BRANCH: u8 = 2;
/// Pages in a region: 4 GiB.
const REGION_PAGES: u32 = 1 << 20;
const ORDER_MAX: u64 = 20;
/// The largest page that is read where nothing says how long it is.
const STRAY_PAGE_MAX: u64 = 512 << 20;
