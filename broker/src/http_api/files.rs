//! Which file a path of a request means, and what is in it.
//!
//! In: the directory of a listener, and a path as a stranger wrote it. Out: bytes, or nothing: whatever lies outside of the
//! directory, also behind a link, begins with a dot, is no file or is too large. Directories are never listed.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

/// The file's bytes and what they are.
pub(super) async fn read(directory: &Path, path: &str) -> Option<(Vec<u8>, &'static str)> {
    let file = relative(path)?;
    let content_type = content_type(&file);
    let directory = directory.to_owned();
    // A disk may be slow.
    let reading = tokio::task::spawn_blocking(move || read_below(&directory, &file));
    let bytes = reading.await.ok().flatten()?;
    Some((bytes, content_type))
}

/// The file that a path names, below the directory. `None`: it is written in a way that no file of a site needs.
fn relative(path: &str) -> Option<PathBuf> {
    let is_plain = |part: &str| !part.starts_with('.') && !part.contains(['\\', '%', '\0', ':']);
    let mut file = PathBuf::new();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        if !is_plain(part) {
            return None;
        }
        file.push(part);
    }
    if path.ends_with('/') {
        file.push("index.html");
    }
    let is_below = file
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    is_below.then_some(file)
}

fn read_below(directory: &Path, file: &Path) -> Option<Vec<u8>> {
    let directory = directory.canonicalize().ok()?;
    let file = directory.join(file).canonicalize().ok()?;
    if !file.starts_with(&directory) {
        return None;
    }
    // No link any more, and none that took its place since; and nobody waits for the writer of a pipe.
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).ok()?;
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(&file)
        .ok()?;
    let metadata = opened.metadata().ok()?;
    if !metadata.is_file() || metadata.len() > FILE_BYTES_MAX {
        return None;
    }
    let mut bytes = Vec::new();
    opened.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

fn content_type(file: &Path) -> &'static str {
    match file.extension().and_then(|extension| extension.to_str()) {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js" | "mjs") => "text/javascript; charset=utf-8",
        Some("json" | "map") => super::JSON,
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("jpg" | "jpeg") => "image/jpeg",
        Some("ico") => "image/x-icon",
        Some("woff2") => "font/woff2",
        Some("txt") => super::TEXT,
        _ => "application/octet-stream",
    }
}

/// More is no part of a dashboard. With `CONNECTIONS_MAX` this is what all answers of a listener can take.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn no_path_leads_out_of_the_directory() {
        let named = |path: &str| relative(path).map(|file| file.to_string_lossy().into_owned());
        assert_eq!(named("/").as_deref(), Some("index.html"));
        assert_eq!(named("/css/site.css").as_deref(), Some("css/site.css"));
        assert_eq!(named("//css//").as_deref(), Some("css/index.html"));
        for path in [
            "/../etc/passwd",
            "/css/../../etc/passwd",
            "/%2e%2e/etc/passwd",
            "/..%2fetc/passwd",
            "/.htpasswd",
            "/css/..",
            "/..\\etc",
            "/c:/etc",
        ] {
            assert_eq!(named(path), None, "{path}");
        }
    }

    #[test]
    fn what_is_no_plain_file_of_the_directory_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let site = directory.path().join("site");
        std::fs::create_dir_all(site.join("folder")).unwrap();
        std::fs::write(directory.path().join("secret"), "secret").unwrap();
        std::fs::write(site.join("page"), "page").unwrap();
        symlink("../secret", site.join("out")).unwrap();
        symlink("..", site.join("up")).unwrap();
        symlink("page", site.join("in")).unwrap();
        symlink("loop", site.join("loop")).unwrap();
        let large = std::fs::File::create(site.join("large")).unwrap();
        large.set_len(FILE_BYTES_MAX + 1).unwrap();
        let pipe = site.join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let read = |file: &str| read_below(&site, Path::new(file));
        assert_eq!(read("page").as_deref(), Some(&b"page"[..]));
        assert_eq!(read("in").as_deref(), Some(&b"page"[..]));
        for file in [
            "out",
            "up/secret",
            "loop",
            "nothing",
            "folder",
            "large",
            "pipe",
            "page/x",
            "",
        ] {
            assert_eq!(read(file), None, "{file}");
        }
    }
}
