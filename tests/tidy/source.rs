//! The files of this repository, as text: found, read, and stripped of comments.

use std::fs;
use std::path::{Path, PathBuf};

/// One text file of the repository.
pub(crate) struct SourceFile {
    /// Path from the root, with `/` between its parts.
    pub(crate) path: String,
    pub(crate) text: String,
}

impl SourceFile {
    pub(crate) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// True for a file under `room` or the file `room.rs`.
    pub(crate) fn is_in(&self, room: &str) -> bool {
        self.path
            .strip_prefix(room)
            .is_some_and(|rest| rest.starts_with('/') || rest == ".rs")
    }

    /// Lines with their numbers from 1, without `//` comments. A `//` inside a string starts a comment too: rules here look for
    /// names, which do not stand behind one.
    pub(crate) fn code_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text
            .lines()
            .enumerate()
            .map(|(index, line)| (index + 1, line.split("//").next().unwrap_or_default()))
    }

    /// As `code_lines`, up to the unit tests, which stand last in a file.
    pub(crate) fn shipped_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code_lines()
            .take_while(|(_, line)| line.trim() != "#[cfg(test)]")
    }
}

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every text file of the repository in the order of their paths, without what is built or downloaded.
pub(crate) fn files() -> Vec<SourceFile> {
    let mut found = Vec::new();
    visit(&root(), "", &mut found);
    found.sort_by(|one, other| one.path.cmp(&other.path));
    assert!(
        found.iter().any(|file| file.path == "tests/tidy/main.rs"),
        "the root is not where it should be"
    );
    found
}

/// Fails with every broken place on a line of its own.
#[track_caller]
pub(crate) fn none_of(rule: &str, broken: &[String]) {
    assert!(broken.is_empty(), "{rule}:\n  {}", broken.join("\n  "));
}

/// Whether `word` stands in `line` with no letter, digit or underscore around it.
pub(crate) fn names(line: &str, word: &str) -> bool {
    let part_of_a_name = |character: char| character.is_alphanumeric() || character == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(part_of_a_name) && !after.is_some_and(part_of_a_name)
    })
}

fn visit(directory: &Path, prefix: &str, found: &mut Vec<SourceFile>) {
    const SKIPPED: [&str; 6] = [
        ".git",
        "target",
        "node_modules",
        "__pycache__",
        "corpus",
        "artifacts",
    ];
    let entries = fs::read_dir(directory).expect("a directory of the repository can be read");
    for entry in entries.map(|entry| entry.expect("its entries can be read")) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{prefix}{name}");
        let kind = entry.file_type().expect("an entry has a type");
        if kind.is_dir() && !SKIPPED.contains(&name.as_str()) && !name.starts_with("target") {
            visit(&entry.path(), &format!("{path}/"), found);
        } else if kind.is_file() {
            // What is not UTF-8 is no source.
            if let Ok(text) = fs::read_to_string(entry.path()) {
                found.push(SourceFile { path, text });
            }
        }
    }
}
