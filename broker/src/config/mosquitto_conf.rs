//! From a mosquitto.conf to `Settings`.
//!
//! In: the bytes of the file, and a `World` that tells environment variables and resolves host names. Out: `Loaded`, or all
//! faults of the file and of those it includes. `options.rs` is the table of every option; `draft.rs` is what was said so far,
//! and how it becomes `Settings`; `migrate.rs` writes what became of each line. Nothing outside this file and its folder knows
//! Mosquitto's options.
//!
//! The grammar is Mosquitto's: a line is a comment only if its very first character is `#`; a switch and a number are the next
//! word, whatever comes behind; text is the rest of the line. `${NAME}` in a value is that environment variable, `$${` is `${`.

mod bridge;
mod draft;
pub(super) mod migrate;
mod options;
mod plugin;
mod values;

#[cfg(test)]
mod tests;

use super::{FAULTS_MAX, Fault, Loaded, Note, Place};
use draft::Draft;
use options::{Kind, Opt, Scope};
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What the reader asks of the system besides files.
pub(super) struct World<'a> {
    pub(super) variable: &'a dyn Fn(&str) -> Option<String>,
    pub(super) resolve: &'a dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>>,
}

/// Reads the text of the main file; what it includes is read from the disk.
pub(super) fn read(path: &Path, bytes: &[u8], world: &World<'_>) -> Result<Loaded, Vec<Fault>> {
    let (loaded, faults, _) = read_lines(path, bytes, world);
    if faults.is_empty() {
        Ok(loaded)
    } else {
        Err(faults)
    }
}

/// Whether the first line that says something is a bare word and a value, without `=` or `[`.
pub(super) fn looks_like_one(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim);
    let first = lines.find(|line| !line.is_empty() && !line.starts_with('#'));
    first.is_some_and(|line| {
        let mut words = line.split_whitespace();
        let name = words.next().unwrap_or_default();
        let is_name = name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        is_name && words.next().is_some_and(|word| !word.starts_with('='))
    })
}

/// What a name of mosquitto.conf is called in nightjar.toml, as part of a sentence.
pub(super) fn name_here(name: &str) -> Option<String> {
    let Some(options::Row::Known(option)) = options::find(name) else {
        return None;
    };
    Some(match option.key {
        "" => "it is an option of mosquitto.conf: `nightjar config migrate FILE` writes such a file as TOML".into(),
        key => format!("here it is {key}"),
    })
}

/// The same, with what became of each line.
fn read_lines(path: &Path, bytes: &[u8], world: &World<'_>) -> (Loaded, Vec<Fault>, Vec<ReadLine>) {
    let mut reader = Reader {
        world,
        draft: Draft::new(),
        faults: Vec::new(),
        notes: Vec::new(),
        lines: Vec::new(),
        files: 1,
        bytes_left: BYTES_MAX,
    };
    reader.file(path, bytes, false);
    let Reader {
        draft,
        mut faults,
        mut notes,
        lines,
        ..
    } = reader;
    let (settings, sources, not_yet) = draft.finish(world, &mut faults, &mut notes);
    faults.sort_by(|left, right| {
        let order = |fault: &Fault| {
            (
                *fault.place.file != *path,
                fault.place.file.clone(),
                fault.place.line,
            )
        };
        order(left).cmp(&order(right))
    });
    faults.truncate(FAULTS_MAX);
    let loaded = Loaded {
        settings,
        notes,
        not_yet,
        sources,
    };
    (loaded, faults, lines)
}

/// A line that says something, and what became of it.
struct ReadLine {
    place: Place,
    text: String,
    fate: Fate,
    /// The key of nightjar.toml that it became, where there is one.
    key: &'static str,
}

/// What becomes of a line.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Fate {
    /// It means here what it means there.
    Same,
    /// It holds, with this difference.
    Changed(String),
    /// It is read and does nothing here, and nobody loses anything by it.
    Ignored(String),
    /// It is read and does nothing here, and somebody may miss it: said at every start.
    Lost(String),
}

impl Fate {
    fn changed(text: &str) -> Self {
        Self::Changed(text.to_owned())
    }

    fn ignored(text: &str) -> Self {
        Self::Ignored(text.to_owned())
    }

    fn lost(text: &str) -> Self {
        Self::Lost(text.to_owned())
    }
}

type Outcome = Result<Fate, String>;

struct Reader<'a> {
    world: &'a World<'a>,
    draft: Draft,
    faults: Vec<Fault>,
    notes: Vec<Note>,
    lines: Vec<ReadLine>,
    files: usize,
    bytes_left: usize,
}

impl Reader<'_> {
    fn file(&mut self, path: &Path, bytes: &[u8], included: bool) {
        let path: Arc<Path> = path.into();
        for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            if self.faults.len() >= FAULTS_MAX {
                return;
            }
            // A comment is one only from the first column on. [mosquitto.conf]
            if matches!(line.first(), None | Some(b'#' | b'\r')) {
                continue;
            }
            let place = Place {
                file: Arc::clone(&path),
                line: index + 1,
            };
            if let Err(message) = self.line(&place, line, included) {
                self.faults.push(Fault { place, message });
            }
        }
    }

    fn line(&mut self, place: &Place, line: &[u8], included: bool) -> Result<(), String> {
        let line = std::str::from_utf8(line)
            .map_err(|_| "This line is not UTF-8 text. Save the file as UTF-8.".to_owned())?;
        let line = line.trim_matches(values::is_space);
        let (name, rest) = line.split_once(values::is_space).unwrap_or((line, ""));
        if name.is_empty() {
            return Ok(());
        }
        if line.contains('\0') {
            return Err("This line holds a zero byte. Remove it.".into());
        }
        let rest = values::expand(rest.trim_matches(values::is_space), self.world.variable)?;
        if name == "include_dir" {
            return self.include(place, line, &rest, included);
        }
        let (fate, key) = self.option(place, name, &rest)?;
        if let Fate::Lost(text) = &fate {
            self.notes.push(Note {
                place: Some(place.clone()),
                text: format!("'{}' has no effect: {text}", values::show(name)),
            });
        }
        if !key.is_empty() && !key.starts_with("listeners") {
            self.draft.sources.insert(key, place.clone());
        }
        self.lines.push(ReadLine {
            place: place.clone(),
            text: values::without_secret(name, line),
            fate,
            key,
        });
        Ok(())
    }

    fn option(
        &mut self,
        place: &Place,
        name: &str,
        rest: &str,
    ) -> Result<(Fate, &'static str), String> {
        self.draft.place = place.clone();
        if let Some(prefix) = ["plugin_opt_", "auth_opt_"]
            .into_iter()
            .find(|prefix| name.starts_with(prefix))
        {
            values::check_length(name, rest)?;
            let fate = plugin::option(&mut self.draft, name, prefix, rest)?;
            return Ok((fate, ""));
        }
        let option = options::find(name).ok_or_else(|| unknown(name))?;
        if let options::Row::Removed(reason) = option {
            return Ok((Fate::lost(reason), ""));
        }
        let options::Row::Known(option) = option else {
            return Err(unknown(name));
        };
        self.scope(name, option)?;
        let given = values::check_length(name, rest)
            .and_then(|()| values::read(option, name, rest))
            .inspect_err(|_| {
                // A line that is wrong is not missing as well.
                if let Some(bridge) = self.draft.bridge() {
                    bridge.is_not_without(option.name);
                }
            })?;
        if option.kind == Kind::Text && !self.draft.first(option, name) {
            return Err(format!(
                "Duplicate '{name}' value in configuration. Keep one of the two lines."
            ));
        }
        let fate = (option.set)(&mut self.draft, given)?;
        Ok((fate, option.key))
    }

    /// What has to come before the option has come.
    fn scope(&mut self, name: &str, option: &Opt) -> Result<(), String> {
        let needs = |what: &str, line: &str| {
            format!(
                "The '{name}' option requires {what} to be defined first. Put it below a line '{line}'."
            )
        };
        match option.scope {
            Scope::Global => Ok(()),
            Scope::Listener if self.draft.has_listener() => Ok(()),
            Scope::Security if !self.draft.per_listener || self.draft.has_listener() => Ok(()),
            Scope::Listener | Scope::Security => Err(needs("a listener", "listener PORT")),
            Scope::Door => {
                // Mosquitto stays in local-only mode when only these two are chosen.
                if !self.draft.has_listener() && !["protocol", "socket_domain"].contains(&name) {
                    self.draft.open_default_listener();
                }
                Ok(())
            }
            Scope::Bridge if self.draft.bridge().is_some() => Ok(()),
            Scope::Bridge => Err(needs("a bridge", "connection NAME")),
            Scope::Plugin if !self.draft.plugins.is_empty() => Ok(()),
            Scope::Plugin => Err(needs("plugin/global_plugin/plugin_load", "plugin PATH")),
        }
    }

    /// Every `*.conf` of a directory, in the order of the bytes of their names; from the main file only.
    fn include(
        &mut self,
        place: &Place,
        line: &str,
        directory: &str,
        included: bool,
    ) -> Result<(), String> {
        if directory.is_empty() {
            return Err("Empty 'include_dir' value in configuration. Name a directory.".into());
        }
        let mut fate = Fate::changed("what the files hold stands in this one file");
        let mut files = Vec::new();
        if included {
            let reason = "only the main file includes others, as in Mosquitto";
            self.notes.push(Note {
                place: Some(place.clone()),
                text: format!("'include_dir' has no effect: {reason}"),
            });
            fate = Fate::lost(reason);
        } else {
            files = configuration_files(Path::new(directory)).map_err(|error| {
                format!(
                    "Unable to open include_dir '{}'. {error}",
                    values::show(directory)
                )
            })?;
        }
        self.lines.push(ReadLine {
            place: place.clone(),
            text: line.to_owned(),
            fate,
            key: "",
        });
        self.files += files.len();
        if self.files > FILES_MAX {
            return Err(format!(
                "include_dir '{}' has more than {FILES_MAX} files.",
                values::show(directory)
            ));
        }
        for file in files {
            match read_bounded(&file, self.bytes_left) {
                Ok(bytes) => {
                    self.bytes_left -= bytes.len();
                    self.file(&file, &bytes, true);
                }
                Err(error) => self.faults.push(Fault {
                    place: place.clone(),
                    message: format!("Unable to open config file '{}'. {error}", file.display()),
                }),
            }
        }
        Ok(())
    }
}

fn configuration_files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in directory.read_dir()?.take(ENTRIES_MAX) {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        // Mosquitto compares the last five bytes, so a file that is called `.conf` is none.
        if name.len() > 5 && name.ends_with(b".conf") {
            files.push(path);
        }
    }
    files.sort_by(|left, right| {
        let bytes = |path: &PathBuf| path.as_os_str().as_encoded_bytes().to_vec();
        bytes(left).cmp(&bytes(right))
    });
    Ok(files)
}

fn read_bounded(path: &Path, limit: usize) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let bound = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    std::fs::File::open(path)
        .and_then(|file| file.take(bound).read_to_end(&mut bytes))
        .map_err(|error| error.to_string())?;
    if bytes.len() > limit {
        return Err(format!(
            "All files together are larger than {BYTES_MAX} bytes."
        ));
    }
    Ok(bytes)
}

fn unknown(name: &str) -> String {
    let shown = values::show(name);
    if name.starts_with('#') {
        return format!(
            "Unknown configuration variable '{shown}'. A comment begins in the first column."
        );
    }
    match options::nearest(name) {
        Some(known) => {
            format!("Unknown configuration variable '{shown}'. Did you mean '{known}'?")
        }
        None => format!(
            "Unknown configuration variable '{shown}'. docs/mosquitto.md lists the options."
        ),
    }
}

/// Files of one configuration, and entries of a directory that are looked at.
const FILES_MAX: usize = 1_000;
const ENTRIES_MAX: usize = 100_000;
/// Bytes of all included files together.
const BYTES_MAX: usize = 4 << 20;
