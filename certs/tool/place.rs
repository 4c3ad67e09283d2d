//! Where the files of one authority lie, and how they are written: whole or not at all, and over nothing that is there unless asked.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use tempfile::Builder;

use crate::fault::Fault;

/// The directory of one authority.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    root: PathBuf,
}

/// Who may read a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Readers {
    /// Certificates, lists.
    Everybody,
    /// Keys, and what contains one.
    Owner,
}

/// Whether a file may take the place of another.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Over {
    Nothing,
    Anything,
}

impl Over {
    pub(crate) fn forced(force: bool) -> Self {
        if force { Self::Anything } else { Self::Nothing }
    }
}

/// One run at a time changes what is here; the lock goes with this.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Place {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The certificate everybody trusts.
    pub(crate) fn root_certificate(&self) -> PathBuf {
        self.root.join("ca.crt")
    }

    pub(crate) fn root_key(&self) -> PathBuf {
        self.root.join("ca.key")
    }

    /// Of the authority between the root and everybody else, where there is one.
    pub(crate) fn issuing_certificate(&self) -> PathBuf {
        self.root.join("issuing.crt")
    }

    pub(crate) fn issuing_key(&self) -> PathBuf {
        self.root.join("issuing.key")
    }

    pub(crate) fn revocation_list(&self) -> PathBuf {
        self.root.join("ca.crl")
    }

    /// Certificates that others took the place of, for the broker.
    pub(crate) fn replaced_list(&self) -> PathBuf {
        self.root.join("ca.replaced")
    }

    pub(crate) fn index(&self) -> PathBuf {
        self.root.join("index.jsonl")
    }

    /// A configuration of the broker that serves with what is here.
    pub(crate) fn broker_configuration(&self) -> PathBuf {
        self.root.join("nightjar.toml")
    }

    pub(crate) fn directory(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The directory as the broker is to be told of it, wherever it is started.
    pub(crate) fn absolute(&self) -> PathBuf {
        fs::canonicalize(&self.root).unwrap_or_else(|_| self.root.clone())
    }

    /// Waits until no other run changes anything here.
    pub(crate) fn lock(&self) -> Result<Lock, Fault> {
        let path = self.root.join("lock");
        let file = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(|error| Fault::file(&path, error))?;
        file.lock().map_err(|error| Fault::file(&path, error))?;
        Ok(Lock { _file: file })
    }
}

/// Makes a directory with all above it; only its owner may look into it.
pub(crate) fn make_directory(path: &Path) -> Result<(), Fault> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o755);
    builder
        .create(path)
        .map_err(|error| Fault::file(path, error))
}

/// Fails where one of the files is there already.
pub(crate) fn must_be_absent(paths: &[&Path]) -> Result<(), Fault> {
    match paths.iter().find(|path| path.symlink_metadata().is_ok()) {
        Some(path) => Err(Fault::refused(format!(
            "{} is there already, nothing was made; --force writes over it",
            path.display()
        ))),
        None => Ok(()),
    }
}

/// Writes a file under a temporary name, and gives it its own when it is whole and on disk.
pub(crate) fn write(path: &Path, bytes: &[u8], readers: Readers, over: Over) -> Result<(), Fault> {
    let fault = |error: std::io::Error| Fault::file(path, error);
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or_else(|| Path::new("."));
    // Made for its owner alone; what everybody may read is opened up when it has its content.
    let mut file = Builder::new()
        .prefix(".new-")
        .tempfile_in(directory)
        .map_err(fault)?;
    file.write_all(bytes).map_err(fault)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = match readers {
            Readers::Everybody => 0o644,
            Readers::Owner => 0o600,
        };
        file.as_file()
            .set_permissions(fs::Permissions::from_mode(mode))
            .map_err(fault)?;
    }
    #[cfg(not(unix))]
    let _ = readers;
    file.as_file().sync_all().map_err(fault)?;
    let written = match over {
        Over::Nothing => file.persist_noclobber(path),
        Over::Anything => file.persist(path),
    };
    written.map_err(|error| fault(error.error))?;
    #[cfg(unix)]
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(fault)?;
    Ok(())
}

pub(crate) fn read_text(path: &Path) -> Result<String, Fault> {
    fs::read_to_string(path).map_err(|error| Fault::file(path, error))
}
