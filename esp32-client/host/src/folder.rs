//! The folder that `nightjar-certs device ID --esp` writes: `certificates/esp/ID`.

use std::path::Path;
use std::{fs, io};

/// The provisioning blob of a device.
///
/// # Errors
/// The file cannot be read.
pub fn provisioning(folder: &Path) -> io::Result<Vec<u8>> {
    let path = folder.join("provisioning.bin");
    fs::read(&path).map_err(|error| {
        let hint = "made by nightjar-certs device ID --esp";
        io::Error::new(
            error.kind(),
            format!("{}: {error} ({hint})", path.display()),
        )
    })
}
