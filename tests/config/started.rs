//! A program that is started on a file, and what it says.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

pub(crate) use harness::free_port;
use harness::{TemporaryDirectory, binary, now};

/// Runs `nightjar` to its end.
#[track_caller]
pub(crate) fn nightjar(arguments: &[&str]) -> Output {
    Command::new(binary())
        .args(arguments)
        .output()
        .expect("the broker's program can be run")
}

/// Standard error, as text.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A file of its own in a directory of its own.
pub(crate) fn file(directory: &TemporaryDirectory, name: &str, text: &str) -> PathBuf {
    let path = directory.path().join(name);
    let parent = path.parent().expect("a file has a directory");
    std::fs::create_dir_all(parent).expect("the temporary directory is writable");
    std::fs::write(&path, text).expect("the temporary directory is writable");
    path
}

/// What a broker does with a file, and what it has said to standard error.
#[derive(Debug)]
pub(crate) enum Verdict {
    Runs { log: String },
    Refused { code: Option<i32>, log: String },
}

/// Starts a broker on a file, and ends it as soon as somebody can connect to the port.
#[track_caller]
pub(crate) fn try_to_start(program: &Path, file: &Path, port: u16) -> Verdict {
    let mut child = Command::new(program)
        .arg("-c")
        .arg(file)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the broker's program can be run");
    let stderr = child.stderr.take().expect("stderr is a pipe");
    let (say, said) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            if say.send(line).is_err() {
                return;
            }
        }
    });
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let deadline = now() + Duration::from_secs(20);
    let mut log = String::new();
    loop {
        // A line is an event; whoever logs elsewhere is asked now and then.
        match said.recv_timeout(Duration::from_millis(10)) {
            Ok(line) => log = log + &line + "\n",
            Err(RecvTimeoutError::Timeout) if TcpStream::connect(address).is_ok() => {
                let _ = child.kill();
                let _ = child.wait();
                return Verdict::Runs { log };
            }
            Err(RecvTimeoutError::Timeout) if now() < deadline => {}
            Err(_) => break,
        }
    }
    // The end of stderr is the end of the process, or it hangs.
    let _ = child.kill();
    let code = child.wait().expect("a child ends").code();
    Verdict::Refused { code, log }
}
