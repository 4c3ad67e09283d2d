//! A backup while the broker runs: a Unix socket in the data directory, over which it sends a copy of its store.
//!
//! In: a connection of somebody who may read the store's file, for the socket has the same mode; one line that says what is
//! wanted. Out: the store at one moment. A thread of its own does it, so that no shard waits; one copy at a time, nobody is
//! waited for longer than `PATIENCE` and nothing is sent for longer than `SENDING_MAX`, for while a moment is held
//! the file cannot use the room of what is deleted. What the bytes mean is the storage crate's.

use std::fs;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nightjar_storage::{Contents, Meter, RedbEngine, StorageError, receive_snapshot};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::clock::Clock;

/// Sends copies of the store to whoever asks. Ends, and is gone from the directory, when it is dropped.
#[derive(Debug)]
pub struct SnapshotSocket {
    path: PathBuf,
    listening: Socket,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl SnapshotSocket {
    /// Listens in the data directory of the store. Whoever calls has the store's lock, so a socket that is there is left over.
    pub fn open(store: &Arc<RedbEngine>, directory: &Path) -> io::Result<Self> {
        let path = directory.join(SOCKET_NAME);
        let address = SockAddr::unix(&path).map_err(|_| too_long(&path))?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listening = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        listening.bind(&address)?;
        // Before it listens nobody can connect.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        listening.listen(BACKLOG)?;
        let listener = UnixListener::from(OwnedFd::from(listening.try_clone()?));
        let stop = Arc::new(AtomicBool::new(false));
        let (store, stopped) = (Arc::downgrade(store), Arc::clone(&stop));
        let thread = thread::Builder::new()
            .name("nightjar-backup".into())
            .spawn(move || serve(&listener, &store, &stopped))?;
        Ok(Self {
            path,
            listening,
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for SnapshotSocket {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Either of the two wakes the thread, on one system or another.
        let _ = self.listening.shutdown(Shutdown::Both);
        let _ = UnixStream::connect(&self.path);
        let _ = fs::remove_file(&self.path);
        if let Some(thread) = self.thread.take() {
            // It has said what it had to say.
            let _ = thread.join();
        }
    }
}

/// Asks the broker that has the store in this directory for a copy, and makes a new store of it.
pub fn backup(
    directory: &Path,
    out: &Path,
    meter: &mut dyn Meter,
) -> Result<Contents, StorageError> {
    let path = directory.join(SOCKET_NAME);
    let failed = |error: io::Error| StorageError::File {
        path: path.display().to_string().into(),
        reason: format!("the broker that has the store cannot be asked for a copy: {error}").into(),
    };
    // The library's own words for it are about a constant.
    SockAddr::unix(&path).map_err(|_| failed(too_long(&path)))?;
    let mut stream = UnixStream::connect(&path).map_err(failed)?;
    stream
        .set_read_timeout(Some(ANSWER_PATIENCE))
        .map_err(failed)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
    stream.write_all(REQUEST).map_err(failed)?;
    receive_snapshot(
        &mut BufReader::with_capacity(BUFFER_BYTES, stream),
        out,
        meter,
    )
}

fn serve(listener: &UnixListener, store: &Weak<RedbEngine>, stop: &AtomicBool) {
    loop {
        let accepted = listener.accept();
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                tracing::warn!("Backups are not possible any more: {error}.");
                return;
            }
        };
        let Some(store) = store.upgrade() else { return };
        match send(&stream, &store, stop) {
            Ok(()) => tracing::info!("A backup of the store was sent."),
            Err(error) => tracing::warn!("A backup of the store was not finished: {error}."),
        }
    }
}

fn send(
    mut stream: &UnixStream,
    store: &RedbEngine,
    stop: &AtomicBool,
) -> Result<(), StorageError> {
    let failed = |error: io::Error| StorageError::Failed {
        reason: format!("whoever asked has gone: {error}").into(),
    };
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
    let mut request = [0; REQUEST.len()];
    stream.read_exact(&mut request).map_err(failed)?;
    if request != *REQUEST {
        return Err(failed(io::ErrorKind::InvalidData.into()));
    }
    let clock = Clock::start();
    let until = clock.now().monotonic.saturating_add(SENDING_MAX);
    let go_on = || !stop.load(Ordering::Relaxed) && clock.now().monotonic < until;
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, stream);
    store.send_snapshot(&mut out, &go_on)
}

fn too_long(path: &Path) -> io::Error {
    let length = path.as_os_str().len();
    io::Error::other(format!(
        "{} has {length} bytes, and the path of a socket has at most about 100",
        path.display()
    ))
}

const SOCKET_NAME: &str = "nightjar.sock";
const REQUEST: &[u8; 20] = b"nightjar snapshot 1\n";
const BACKLOG: i32 = 2;
const BUFFER_BYTES: usize = 256 << 10;
/// For the other side to read or write something.
const PATIENCE: Duration = Duration::from_secs(10);
/// For the broker to begin, another copy before it included.
const ANSWER_PATIENCE: Duration = Duration::from_secs(60);
/// Milliseconds for one copy.
const SENDING_MAX: u64 = 3_600_000;
