//! Mosquitto itself, as the reference that answers are compared with: found, started, and ended with the value.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::{PATIENCE, free_port, wait_until};

/// A program of Mosquitto's, or a loud way out.
pub fn program(name: &str) -> Option<PathBuf> {
    let found = ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"]
        .iter()
        .map(|directory| Path::new(directory).join(name))
        .find(|path| path.exists());
    if found.is_none() {
        assert!(
            std::env::var_os("CI").is_none(),
            "{name} is needed where CI is set"
        );
        eprintln!("SKIPPED: {name} is not installed, so nothing is compared with it.");
    }
    found
}

/// A running Mosquitto, which ends with the value.
#[derive(Debug)]
pub struct Mosquitto {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Mosquitto {
    /// With one listener, and these lines.
    pub fn start(program: &Path, directory: &Path, lines: &str) -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let config = directory.join(format!("mosquitto-{}.conf", address.port()));
        let text = format!("listener {} 127.0.0.1\n{lines}\n", address.port());
        fs::write(&config, text).unwrap();
        // Started as root it becomes somebody else, who must be able to read.
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
        let child = Command::new(program)
            .arg("-c")
            .arg(&config)
            .stderr(Stdio::null())
            .spawn();
        let running = Self {
            child: child.unwrap(),
            address,
        };
        wait_until("mosquitto listens", PATIENCE, || {
            TcpStream::connect(address).is_ok()
        });
        running
    }
}

impl Mosquitto {
    /// Lets it read its files again.
    pub fn hang_up(&self) {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(id.expect("it is a process id"), Signal::HUP).expect("it is our child");
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
