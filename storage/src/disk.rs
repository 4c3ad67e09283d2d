//! The one file of the store and the directory it lies in, as narrow as the store needs them, so that a test can put a
//! disk below that loses, tears and refuses.
//!
//! A new file is written under a temporary name and becomes the store by `publish`, so that a power cut while it is made
//! leaves no half of a store behind.

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use crate::error::StorageError;

/// Where the store lies. One process has it at a time.
pub trait Disk: fmt::Debug + Send + Sync + 'static {
    /// What messages call the place.
    fn path(&self) -> Box<str>;

    /// Opens the store's file; `None` if there is none. A file that is given here is there after a power cut, too: the sync of
    /// the `publish` that made it may have failed.
    fn open(&self) -> io::Result<Option<Box<dyn DiskFile>>>;

    /// Makes an empty file under a temporary name. What a failed attempt left there is lost.
    fn create(&self) -> io::Result<Box<dyn DiskFile>>;

    /// Makes the file of `create` the store's, durably. It was synced and is closed.
    fn publish(&self) -> io::Result<()>;

    /// How much room there is. `None` where nobody can tell.
    fn room(&self) -> io::Result<Option<Room>> {
        Ok(None)
    }
}

/// Bytes of a file system: all that its users may have together, and what of it is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    pub bytes: u64,
    pub free: u64,
}

impl Room {
    /// A file system without bytes is not full: some that are made up by the kernel say so.
    pub fn free_percent(&self) -> u64 {
        let percent = u128::from(self.free) * 100;
        let percent = percent.checked_div(u128::from(self.bytes)).unwrap_or(100);
        u64::try_from(percent.min(100)).expect("not above 100")
    }
}

/// A file that is read and written at offsets.
pub trait DiskFile: fmt::Debug + Send + Sync + 'static {
    fn len(&self) -> io::Result<u64>;

    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Fills `out` or fails.
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// New bytes are zero.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Returns when everything written survives a power cut.
    fn sync(&self) -> io::Result<()>;
}

/// A directory of the file system, locked for this process as long as the value lives.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    /// Never read: the lock goes when it is closed.
    _lock: File,
}

impl Directory {
    /// Makes the directory if it is missing, and takes it for this process.
    pub fn lock(path: &Path) -> Result<Self, StorageError> {
        make_directory(path).map_err(|error| file_error(path, &error))?;
        let lock_path = path.join(LOCK_NAME);
        let mut lock =
            open_private(&lock_path, true).map_err(|error| file_error(&lock_path, &error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StorageError::InUse {
                    path: in_use(&path.join(FILE_NAME), &mut lock),
                });
            }
            Err(TryLockError::Error(error)) => return Err(file_error(&lock_path, &error)),
        }
        // Only for the message to others; without it the lock holds all the same.
        let _ = lock.set_len(0);
        let _ = write!(lock, "{}", std::process::id());
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// Where the store of a data directory is.
    pub fn file_in(path: &Path) -> PathBuf {
        path.join(FILE_NAME)
    }

    fn file(&self) -> PathBuf {
        Self::file_in(&self.path)
    }

    fn temporary(&self) -> PathBuf {
        self.path.join(TEMPORARY_NAME)
    }
}

impl Disk for Directory {
    fn path(&self) -> Box<str> {
        self.file().display().to_string().into()
    }

    fn open(&self) -> io::Result<Option<Box<dyn DiskFile>>> {
        match OpenOptions::new().read(true).write(true).open(self.file()) {
            Ok(file) => {
                sync_directory(&self.path)?;
                Ok(Some(Box::new(file)))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn create(&self) -> io::Result<Box<dyn DiskFile>> {
        let file = open_private(&self.temporary(), true)?;
        file.set_len(0)?;
        Ok(Box::new(file))
    }

    fn publish(&self) -> io::Result<()> {
        File::open(self.temporary())?.sync_all()?;
        fs::rename(self.temporary(), self.file())?;
        sync_directory(&self.path)
    }

    #[cfg(unix)]
    fn room(&self) -> io::Result<Option<Room>> {
        let found = rustix::fs::statvfs(&self.path)?;
        // What is kept for root counts as neither.
        let blocks = found.f_blocks.saturating_sub(found.f_bfree) + found.f_bavail;
        Ok(Some(Room {
            bytes: blocks.saturating_mul(found.f_frsize),
            free: found.f_bavail.saturating_mul(found.f_frsize),
        }))
    }
}

/// What an operator should know about the file system that this directory is on. Empty if there is nothing.
pub fn warnings(directory: &Path) -> Vec<String> {
    #[cfg(target_os = "linux")]
    if let Ok(found) = rustix::fs::statfs(directory) {
        // The numbers of the kernel have 32 bits; the field is wider on some machines, and signed.
        #[allow(
            clippy::cast_sign_loss,
            clippy::cast_possible_truncation,
            reason = "a magic number"
        )]
        let kind = found.f_type as u32;
        return FILE_SYSTEMS
            .iter()
            .filter(|(number, _, _)| *number == kind)
            .map(|(_, name, why)| format!("{} is on {name}: {why}.", directory.display()))
            .collect();
    }
    let _ = directory;
    Vec::new()
}

impl DiskFile for File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    #[cfg(unix)]
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self, out, offset)
    }

    #[cfg(unix)]
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(self, data, offset)
    }

    #[cfg(windows)]
    fn read(&self, mut offset: u64, mut out: &mut [u8]) -> io::Result<()> {
        while !out.is_empty() {
            match std::os::windows::fs::FileExt::seek_read(self, out, offset)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                read => {
                    offset += read as u64;
                    out = out.get_mut(read..).unwrap_or_default();
                }
            }
        }
        Ok(())
    }

    #[cfg(windows)]
    fn write(&self, mut offset: u64, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            match std::os::windows::fs::FileExt::seek_write(self, data, offset)? {
                0 => return Err(ErrorKind::WriteZero.into()),
                written => {
                    offset += written as u64;
                    data = data.get(written..).unwrap_or_default();
                }
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        Self::set_len(self, len)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

fn file_error(path: &Path, error: &io::Error) -> StorageError {
    let way_out = match error.kind() {
        ErrorKind::PermissionDenied => {
            "; the directory and what is in it must belong to the user that this program runs as"
        }
        _ => "",
    };
    StorageError::File {
        path: path.display().to_string().into(),
        reason: format!("{error}{way_out}").into(),
    }
}

/// The path, with the process id that the holder of the lock wrote into it.
fn in_use(path: &Path, lock: &mut File) -> Box<str> {
    let mut holder = String::new();
    // Ten digits are the longest process id; more is not ours.
    match lock.take(11).read_to_string(&mut holder) {
        Ok(1..=10) => format!("{} (process {holder})", path.display()).into(),
        _ => path.display().to_string().into(),
    }
}

fn make_directory(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Opens or makes a file that nobody else may read.
pub(crate) fn open_private(path: &Path, create: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create(create)
        .truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// A rename survives a power cut only when the directory is synced.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    File::open(path)?.sync_all()?;
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}

/// File systems that do not keep what they are given, or are not known to, by their number in `statfs`.
#[cfg(target_os = "linux")]
const FILE_SYSTEMS: [(u32, &str, &str); 8] = [
    (0x0102_1994, "tmpfs", IN_MEMORY),
    (0x8584_58f6, "ramfs", IN_MEMORY),
    (0x0000_6969, "NFS", ON_NETWORK),
    (0x0000_517b, "SMB", ON_NETWORK),
    (0xff53_4d42, "CIFS", ON_NETWORK),
    (0xfe53_4d42, "SMB 2", ON_NETWORK),
    (
        0x794c_7630,
        "overlay",
        "a container's own layer, which is gone when the container is removed; mount a volume there",
    ),
    (
        0x6573_5546,
        "FUSE",
        "whether a sync reaches a disk is up to the program behind it",
    ),
];
#[cfg(target_os = "linux")]
const IN_MEMORY: &str = "it is gone when the machine is switched off, whatever was acknowledged";
#[cfg(target_os = "linux")]
const ON_NETWORK: &str =
    "locks and syncs there depend on the server, and each commit waits for the network";

const FILE_NAME: &str = "nightjar.redb";
const TEMPORARY_NAME: &str = "nightjar.redb.new";
const LOCK_NAME: &str = "nightjar.lock";
