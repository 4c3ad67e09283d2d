//! Unix sockets: a listening one in the file system, and its file's beginning and end.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixStream;

use super::{Stream, Transport};

/// The file of a listening socket; removed when this goes, unless another has taken its place meanwhile.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

/// Opens a listening socket at `path`. What lies there is replaced where it is a socket that nobody listens on. Who may
/// connect is what the umask leaves of the file's mode.
pub(crate) fn bind(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    let address = SockAddr::unix(path)?;
    remove_stale(path, &address)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address)?;
    socket.listen(BACKLOG)?;
    let metadata = fs::symlink_metadata(path)?;
    let file = SocketFile {
        path: path.to_owned(),
        device: metadata.dev(),
        inode: metadata.ino(),
    };
    Ok((socket.into(), file))
}

/// An accepted socket, ready to be served.
pub(crate) fn accepted(stream: UnixStream) -> Transport {
    Transport {
        stream: Stream::Unix(stream),
        web: None,
    }
}

fn remove_stale(path: &Path, address: &SockAddr) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !metadata.file_type().is_socket() {
        let message = "something that is not a socket lies there";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A listener whose backlog is full must not hold up the start.
    probe.set_nonblocking(true)?;
    match probe.connect(address) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => Err(io::ErrorKind::AddrInUse.into()),
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == (self.device, self.inode));
        if is_ours {
            let _ = fs::remove_file(&self.path);
        }
    }
}

pub(crate) const BACKLOG: i32 = 4096;

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream as StdUnixStream;

    use super::*;

    fn directory(name: &str) -> PathBuf {
        let path =
            std::env::temp_dir().join(format!("nightjar-unix-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        path
    }

    #[test]
    fn a_live_socket_is_refused_a_stale_one_replaced_a_file_left_alone() {
        let directory = directory("bind");
        let path = directory.join("mqtt.sock");
        let (listener, file) = bind(&path).unwrap();
        assert!(StdUnixStream::connect(&path).is_ok());
        let refused = bind(&path).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        // As a process that was killed leaves it.
        drop(listener);
        assert!(path.exists());
        std::mem::forget(file);
        let (second, second_file) = bind(&path).unwrap();
        drop(second);
        drop(second_file);
        assert!(!path.exists());

        let (_third, third_file) = bind(&path).unwrap();
        let (_other, other_file) = bind(&directory.join("other.sock")).unwrap();
        fs::rename(directory.join("other.sock"), &path).unwrap();
        drop(third_file);
        assert!(path.exists(), "the file of another socket was removed");
        drop(other_file);
        fs::remove_file(&path).unwrap();

        fs::write(&path, "notes").unwrap();
        assert!(bind(&path).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "notes");
        fs::remove_dir_all(&directory).unwrap();
    }
}
