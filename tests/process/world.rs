//! A directory with a configuration, the broker that is started on it, and clients by hand.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use harness::{Running, TemporaryDirectory, binary, free_port};

/// A directory with a configuration, and the port in it.
pub(crate) struct World {
    pub(crate) directory: TemporaryDirectory,
    pub(crate) port: u16,
}

impl World {
    pub(crate) fn new(toml: &str) -> Self {
        let directory = TemporaryDirectory::new("process");
        fs::create_dir(directory.path()).unwrap();
        let mut world = Self {
            directory,
            port: free_port(),
        };
        world.write(toml);
        world
    }

    pub(crate) fn write(&mut self, toml: &str) {
        let text = format!(
            "{toml}http_listener = \"off\"\n[[listeners]]\naddress = \"127.0.0.1:{}\"\n",
            self.port
        );
        fs::write(self.file(), text).unwrap();
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.directory.path().join("nightjar.toml")
    }

    pub(crate) fn start(&self, arguments: &[&str]) -> Running {
        let mut command = Command::new(binary());
        command.arg("-c").arg(self.file()).args(arguments);
        if !arguments.contains(&"--data") {
            command.arg("--ephemeral");
        }
        let mut broker = Running::alone(&mut command);
        broker.wait_for(" running");
        broker
    }

    /// A client `cNUMBER` that is let in.
    pub(crate) fn connect(&self, number: u16) -> TcpStream {
        let mut stream = self.greet(number);
        accepted(&mut stream);
        stream
    }

    /// A client `cNUMBER` that has not heard yet.
    pub(crate) fn greet(&self, number: u16) -> TcpStream {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.write_all(&connect(number)).unwrap();
        stream
    }
}

/// Reads a CONNACK with success.
pub(crate) fn accepted(stream: &mut TcpStream) {
    let mut head = [0; 2];
    stream.read_exact(&mut head).unwrap();
    let mut rest = vec![0; usize::from(head[1])];
    stream.read_exact(&mut rest).unwrap();
    assert_eq!((head[0], rest[1]), (0x20, 0), "CONNACK with success");
}

/// CONNECT of 5.0, keep alive 60, client id `cNUMBER`.
pub(crate) fn connect(number: u16) -> Vec<u8> {
    let id = format!("c{number}");
    let length = u8::try_from(13 + id.len()).unwrap();
    let mut packet = vec![0x10, length];
    packet.extend_from_slice(b"\0\x04MQTT\x05\x02\0\x3c\0\0");
    packet.push(u8::try_from(id.len()).unwrap());
    packet.extend_from_slice(id.as_bytes());
    packet
}

#[track_caller]
pub(crate) fn ping(client: &mut TcpStream) {
    client.write_all(b"\xc0\0").unwrap();
    let mut answer = [0; 2];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [0xd0, 0]);
}

pub(crate) const LIMIT: Duration = harness::PATIENCE;
