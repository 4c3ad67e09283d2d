//! A directory of an authority, the program, and openssl.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

pub(crate) struct World {
    directory: TempDir,
}

impl World {
    /// No authority yet.
    pub(crate) fn empty() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    /// After `init`.
    #[track_caller]
    pub(crate) fn new(init: &[&str]) -> Self {
        let world = Self::empty();
        world.run(&[&["init"], init].concat());
        world
    }

    /// A broker for localhost and a device gauge-7.
    #[track_caller]
    pub(crate) fn inhabited(init: &[&str]) -> Self {
        let world = Self::new(init);
        world.run(&["server", "localhost"]);
        world.run(&["device", "gauge-7", "--site", "north", "--tenant", "Plant"]);
        world
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("certificates").join(name)
    }

    /// A path as an argument.
    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    #[track_caller]
    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    pub(crate) fn output(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_nightjar-certs"))
            .args(arguments)
            .arg("--dir")
            .arg(self.directory.path().join("certificates"))
            .output()
            .unwrap()
    }

    /// What it reports; it must go well.
    #[track_caller]
    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// What it complains of; it must end with this code and report nothing.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}: {complaint}"
        );
        assert!(output.stdout.is_empty(), "{arguments:?}");
        complaint
    }

    /// `list --json`.
    #[track_caller]
    pub(crate) fn list(&self) -> Vec<Value> {
        let text = self.run(&["list", "--json"]);
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Every file below the directory.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut directories = vec![self.path("")];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    directories.push(path);
                } else {
                    found.push(path);
                }
            }
        }
        found.sort();
        found
    }
}

/// What openssl prints on both; `Err` if it ends badly.
#[track_caller]
pub(crate) fn openssl(directory: &Path, arguments: &str) -> Result<String, String> {
    let output = Command::new("openssl")
        .args(arguments.split_whitespace())
        .current_dir(directory)
        .output()
        .expect("openssl is installed");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    if output.status.success() {
        Ok(text)
    } else {
        Err(text)
    }
}
