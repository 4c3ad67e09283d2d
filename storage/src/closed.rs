//! A store that no broker has open, and what can be done with it: look over, copy, make small, save what is left, export.
//!
//! Comes in: the data directory, or a store's file anywhere. Goes out: reports, and new files. The store's own file is never
//! written: it is read through [`Unwritten`], which keeps to itself what the database below writes when it opens. A new file is
//! made beside under a temporary name, looked over, synced and renamed.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::disk::{Directory, Disk, DiskFile};
use crate::engine::Options;
use crate::error::StorageError;
use crate::record::Tag;
use crate::redb::{Database, Pages, RowSource, Snapshot, Unwritten, build};
use crate::survey::{Contents, Meter, Problems, Survey, Verdict};

/// A store that this process alone has, or a file that is read while nobody writes it.
#[derive(Debug)]
pub struct ClosedStore {
    file: PathBuf,
    /// The data directory, locked; none for a file elsewhere.
    _directory: Option<Directory>,
}

/// What a store holds, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckReport {
    pub contents: Contents,
    pub problems: Problems,
    pub file_bytes: u64,
    /// Of them, those that hold nothing; `compact` gives them back. Not known of a store that does not open.
    pub free_bytes: Option<u64>,
    /// Messages that nobody is to get any more; the next start removes them.
    pub unneeded: u64,
}

/// What became of a damaged store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepairReport {
    /// What is in the new store.
    pub contents: Contents,
    /// What was wrong with the old one.
    pub problems: Problems,
    /// Rows that could not stay, by table.
    pub dropped: Vec<(&'static str, u64)>,
    /// Pages that could not be read at all.
    pub lost_pages: u64,
    /// Rows that nothing led to any more; they may be older than the last commit.
    pub stray: u64,
    /// The clocks of the store are lost: what was to expire counts from an unknown time.
    pub clock_lost: bool,
    /// Where the damaged file is.
    pub set_aside: PathBuf,
}

/// Bytes of a file before and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactReport {
    pub before: u64,
    pub after: u64,
}

impl ClosedStore {
    /// Takes the store in the data directory for this process.
    pub fn lock(data: &Path) -> Result<Self, StorageError> {
        let file = Directory::file_in(data);
        // Nothing is made where there is no store.
        require(&file)?;
        let directory = Directory::lock(data)?;
        Ok(Self {
            file,
            _directory: Some(directory),
        })
    }

    /// A store's file outside of a data directory: a backup.
    pub fn at(file: &Path) -> Result<Self, StorageError> {
        require(file)?;
        Ok(Self {
            file: file.to_owned(),
            _directory: None,
        })
    }

    pub fn path(&self) -> &Path {
        &self.file
    }

    /// Reads everything, and says what is wrong with it.
    pub fn check(&self, meter: &mut dyn Meter) -> Result<CheckReport, StorageError> {
        let file_bytes = self
            .open_file()?
            .len()
            .map_err(|error| self.failed(&error))?;
        let (survey, problem, used) = match self.open() {
            Ok((_database, snapshot)) => match Survey::of(&snapshot, meter) {
                Ok(survey) => (survey, None, snapshot.used().ok()),
                Err(error) => (self.survey_pages(meter)?.0, Some(error), None),
            },
            Err(error @ StorageError::Corrupt { .. }) => {
                (self.survey_pages(meter)?.0, Some(error), None)
            }
            Err(error) => return Err(error),
        };
        let mut problems = Problems::default();
        if let Some(problem) = problem {
            problems.add(problem.to_string());
        }
        problems.extend(survey.problems);
        Ok(CheckReport {
            contents: survey.contents,
            problems,
            file_bytes,
            free_bytes: used.map(|used| file_bytes.saturating_sub(used)),
            unneeded: survey.unneeded,
        })
    }

    /// Writes a copy to a new file. A store with problems is not copied.
    pub fn backup(&self, out: &Path, meter: &mut dyn Meter) -> Result<Contents, StorageError> {
        let (_database, snapshot) = self.open()?;
        let new = NewFile::beside(out)?;
        copy(&snapshot, &new, meter)?;
        new.finish(meter)
    }

    /// Writes the store anew without what is free in it, and puts it in the place of the old one.
    pub fn compact(self, meter: &mut dyn Meter) -> Result<CompactReport, StorageError> {
        let length = |of: &Self| -> Result<u64, StorageError> {
            of.open_file()?.len().map_err(|error| of.failed(&error))
        };
        let before = length(&self)?;
        {
            let (_database, snapshot) = self.open()?;
            let new = NewFile::in_place_of(&self.file);
            copy(&snapshot, &new, meter)?;
            new.finish(meter)?;
        }
        let after = length(&self)?;
        Ok(CompactReport { before, after })
    }

    /// Makes a store of every row that checks out and whose company is there, sets the damaged file aside under the name
    /// that `aside` is added to, and puts the new one in its place. `None` if nothing is wrong.
    pub fn repair(
        self,
        aside: &str,
        meter: &mut dyn Meter,
    ) -> Result<Option<RepairReport>, StorageError> {
        if let Ok((_database, snapshot)) = self.open()
            && let Ok(survey) = Survey::of(&snapshot, meter)
            && survey.problems.count == 0
        {
            return Ok(None);
        }
        let (survey, pages) = self.survey_pages(meter)?;
        if survey.rows.values().sum::<u64>() == survey.bad.values().sum::<u64>() {
            return Err(StorageError::Corrupt {
                what: "not one row of it can be read; restore a backup".into(),
            });
        }
        let (lost_pages, stray) = (pages.lost(), pages.stray());
        let new = NewFile::in_place_of(&self.file);
        build(&new, |writer| {
            meter.begin("writing", survey.rows.values().sum());
            for table in Tag::ALL {
                pages.each(table, &mut |key, row| {
                    meter.advance(1);
                    match survey.verdict(table, key, row) {
                        Verdict::Keep => writer.put(table, key, row),
                        Verdict::Replace(row) => writer.put(table, key, &row),
                        Verdict::Drop => Ok(()),
                    }
                })?;
            }
            let mut row = Vec::new();
            survey.store_record().write(&mut row);
            writer.put(Tag::Store, crate::record::STORE_KEY, &row)
        })?;
        drop(pages);
        let contents = new.look_over(meter)?;
        let set_aside = self.set_aside(aside)?;
        new.publish().map_err(|error| self.failed(&error))?;
        let mut dropped = Vec::new();
        for table in Tag::ALL {
            let of = |counts: &std::collections::BTreeMap<Tag, u64>| {
                counts.get(&table).copied().unwrap_or_default()
            };
            let count = of(&survey.bad) + of(&survey.dangling);
            if count > 0 {
                dropped.push((table.name(), count));
            }
        }
        Ok(Some(RepairReport {
            contents,
            dropped,
            lost_pages,
            stray,
            clock_lost: survey.clock().is_none(),
            problems: survey.problems,
            set_aside,
        }))
    }

    /// The database, and all of it at one moment. Nothing is written to the file.
    pub(crate) fn open(&self) -> Result<(Database, Snapshot), StorageError> {
        let database = Database::open_or_create(self, &Options::default())?;
        let snapshot = database.read()?;
        Ok((database, snapshot))
    }

    fn survey_pages(&self, meter: &mut dyn Meter) -> Result<(Survey, Pages), StorageError> {
        let path = self.file.display().to_string();
        let pages = Pages::open(Box::new(self.open_file()?), path.into())?;
        let survey = Survey::of(&pages, meter)?;
        Ok((survey, pages))
    }

    /// Gives the damaged file a second name, so that at no moment there is no store in its place.
    fn set_aside(&self, aside: &str) -> Result<PathBuf, StorageError> {
        for number in 1..SET_ASIDE_MAX {
            let mut name = self.file.clone().into_os_string();
            name.push(format!(".{aside}"));
            if number > 1 {
                name.push(format!("-{number}"));
            }
            let name = PathBuf::from(name);
            match fs::hard_link(&self.file, &name) {
                Ok(()) => return Ok(name),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                // Not every file system has second names.
                Err(_) if !name.exists() => {
                    fs::rename(&self.file, &name).map_err(|error| self.failed(&error))?;
                    return Ok(name);
                }
                Err(_) => {}
            }
        }
        Err(StorageError::Exists {
            path: self.file.display().to_string().into(),
        })
    }

    fn open_file(&self) -> Result<File, StorageError> {
        File::open(&self.file).map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &io::Error) -> StorageError {
        file_error(&self.file, error)
    }
}

/// How the database below finds the file: as one that it may write to as it likes.
impl Disk for ClosedStore {
    fn path(&self) -> Box<str> {
        self.file.display().to_string().into()
    }

    fn open(&self) -> io::Result<Option<Box<dyn DiskFile>>> {
        let file = Unwritten::new(Box::new(File::open(&self.file)?))?;
        Ok(Some(Box::new(file)))
    }

    fn create(&self) -> io::Result<Box<dyn DiskFile>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn publish(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// A store that is being made. It is gone again if it is not published.
#[derive(Debug)]
pub(crate) struct NewFile {
    temporary: PathBuf,
    file: PathBuf,
}

impl NewFile {
    /// A file where there is none.
    pub(crate) fn beside(file: &Path) -> Result<Self, StorageError> {
        if fs::symlink_metadata(file).is_ok() {
            return Err(StorageError::Exists {
                path: file.display().to_string().into(),
            });
        }
        Ok(Self::in_place_of(file))
    }

    pub(crate) fn in_place_of(file: &Path) -> Self {
        let mut temporary = file.to_owned().into_os_string();
        temporary.push(".new");
        Self {
            temporary: temporary.into(),
            file: file.to_owned(),
        }
    }

    /// Reads what was written, and refuses it if anything is wrong.
    pub(crate) fn look_over(&self, meter: &mut dyn Meter) -> Result<Contents, StorageError> {
        let (_database, snapshot) = ClosedStore::at(&self.temporary)?.open()?;
        let survey = Survey::of(&snapshot, meter)?;
        match survey.problems.first.first() {
            None => Ok(survey.contents),
            Some(problem) => Err(StorageError::Corrupt {
                what: problem.as_str().into(),
            }),
        }
    }

    /// Looks it over and gives it its name.
    pub(crate) fn finish(&self, meter: &mut dyn Meter) -> Result<Contents, StorageError> {
        let contents = self.look_over(meter)?;
        self.publish()
            .map_err(|error| file_error(&self.file, &error))?;
        Ok(contents)
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        // It is not there if it was published.
        let _ = fs::remove_file(&self.temporary);
    }
}

impl Disk for NewFile {
    fn path(&self) -> Box<str> {
        self.temporary.display().to_string().into()
    }

    fn open(&self) -> io::Result<Option<Box<dyn DiskFile>>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn create(&self) -> io::Result<Box<dyn DiskFile>> {
        let file = crate::disk::open_private(&self.temporary, true)?;
        file.set_len(0)?;
        Ok(Box::new(file))
    }

    fn publish(&self) -> io::Result<()> {
        File::open(&self.temporary)?.sync_all()?;
        fs::rename(&self.temporary, &self.file)?;
        let directory = self.file.parent().filter(|parent| *parent != Path::new(""));
        crate::disk::sync_directory(directory.unwrap_or_else(|| Path::new(".")))
    }
}

/// Copies every row as it is.
fn copy(
    snapshot: &dyn RowSource,
    new: &NewFile,
    meter: &mut dyn Meter,
) -> Result<(), StorageError> {
    build(new, |writer| {
        let mut rows = 0;
        for table in Tag::ALL {
            rows += snapshot.rows(table)?.unwrap_or(0);
        }
        meter.begin("copying", rows);
        for table in Tag::ALL {
            snapshot.each(table, &mut |key, row| {
                meter.advance(1);
                writer.put(table, key, row)
            })?;
        }
        Ok(())
    })
}

fn require(file: &Path) -> Result<(), StorageError> {
    match fs::metadata(file) {
        Ok(metadata) if metadata.is_file() => Ok(()),
        Ok(_) => Err(StorageError::Foreign {
            path: file.display().to_string().into(),
            why: "it is not a file".into(),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(StorageError::Missing {
            path: file.display().to_string().into(),
        }),
        Err(error) => Err(file_error(file, &error)),
    }
}

pub(crate) fn file_error(path: &Path, error: &io::Error) -> StorageError {
    StorageError::File {
        path: path.display().to_string().into(),
        reason: error.to_string().into(),
    }
}

/// Repairs on one day that find a name for the damaged file.
const SET_ASIDE_MAX: u32 = 1000;
