//! `nightjar passwd`: makes and changes password files, with the options, prompts, messages and exit codes of `mosquitto_passwd`.
//!
//! In: the arguments, and passwords from the terminal or from standard input. Out: a file that was written whole or not at
//! all, readable to its owner (and to the group it had before), or one line for standard error. Lines of other users, blank
//! lines and comments stay as they are.
//!
//! The file is written beside its place and renamed. Where that cannot be (a directory that is not writable, a file that was
//! mounted into a container by itself, a second hard link that is to stay one), it is written in place. A symbolic link stays a
//! link, and what it points to is changed. What is no regular file is written to as it is.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use clap::Args;

use super::hash::{Cost, Hash, HashFault, ITERATIONS_MAX, PASSES_MAX, SALT_BYTES, SALT_BYTES_OLD};
use super::password_file::{self, DEFAULT_ITERATIONS, Fault};

/// Add a user to a password file, change a password, or delete a user
///
/// The file is that of mosquitto_passwd. Without -b the password is asked for twice, or read from standard input where that is
/// no terminal.
#[derive(Args, Clone, Debug, Eq, PartialEq)]
#[command(after_help = "Exit codes: 0 done, 1 not done, 2 the two passwords were not the same.")]
pub struct PasswdArguments {
    /// Make a new file; what was there is lost. With FILE - the line is printed
    #[arg(short = 'c')]
    create: bool,

    /// Take the password from the command line, where other users of this machine can see it
    #[arg(short = 'b')]
    batch: bool,

    /// Delete the user
    #[arg(short = 'D')]
    delete: bool,

    /// Hash the plain passwords of a file whose lines are user:password; lines with a hash stay
    #[arg(short = 'U')]
    upgrade: bool,

    /// sha512-pbkdf2 (the default), argon2id or sha512 (for Mosquitto before 2.0)
    #[arg(short = 'H', value_name = "HASH")]
    hash: Option<String>,

    /// How often the password is hashed (sha512-pbkdf2: 4096, argon2id: 1)
    #[arg(short = 'I', value_name = "ITERATIONS")]
    iterations: Option<String>,

    /// The password file
    file: Option<PathBuf>,

    /// The user
    user: Option<OsString>,

    /// The password, with -b
    #[arg(allow_hyphen_values = true)]
    password: Option<OsString>,
}

/// Why nothing was changed.
#[derive(Debug)]
#[non_exhaustive]
pub enum PasswdError {
    Usage(&'static str),
    Together(&'static str, &'static str),
    UnknownHash(String),
    Iterations,
    Passes,
    User(&'static str),
    UnknownUser(String),
    EmptyPassword,
    LongPassword,
    Mismatch,
    Corrupt { line: usize, fault: Fault },
    Open { file: PathBuf, error: io::Error },
    Write { file: PathBuf, error: io::Error },
    Prompt(io::Error),
    Random,
    NotHashed,
}

/// Carries the arguments out.
pub fn run(arguments: &PasswdArguments) -> Result<(), PasswdError> {
    let cost = Cost::of(arguments)?;
    let file = check_options(arguments)?;
    if arguments.upgrade {
        let lines = read_lines(file)?;
        return write_file(file, &upgrade(&lines, cost)?);
    }
    let user = user(arguments)?;
    let is_printed = file == Path::new("-");
    // What cannot be read or is wrong is told before anybody types a password.
    let mut lines = if arguments.create {
        Lines::default()
    } else {
        read_lines(file)?
    };
    if arguments.delete {
        if lines.remove(&user) == 0 {
            return Err(PasswdError::UnknownUser(user));
        }
        return write_file(file, &lines.text());
    }
    let password = password(arguments)?;
    let hash = make(cost, &password)?;
    lines.set(&user, &hash);
    if is_printed {
        return print(&lines.text());
    }
    write_file(file, &lines.text())
}

impl PasswdError {
    /// As that of `mosquitto_passwd`.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Mismatch => 2,
            _ => 1,
        }
    }
}

impl Cost {
    fn of(arguments: &PasswdArguments) -> Result<Self, PasswdError> {
        let iterations = match &arguments.iterations {
            None => None,
            Some(text) => match text.parse() {
                Ok(number @ 1..=ITERATIONS_MAX) => Some(number),
                _ => return Err(PasswdError::Iterations),
            },
        };
        match arguments.hash.as_deref() {
            None | Some("sha512-pbkdf2") => Ok(Self::Pbkdf2 {
                iterations: iterations.unwrap_or(DEFAULT_ITERATIONS),
            }),
            Some("sha512") => Ok(Self::Sha512),
            Some("argon2id") => match iterations.unwrap_or(1) {
                passes @ 1..=PASSES_MAX => Ok(Self::Argon2id {
                    kibibytes: ARGON2_KIBIBYTES,
                    passes,
                    lanes: 1,
                }),
                _ => Err(PasswdError::Passes),
            },
            Some(other) => Err(PasswdError::UnknownHash(other.to_owned())),
        }
    }
}

fn check_options(arguments: &PasswdArguments) -> Result<&Path, PasswdError> {
    let given = [
        ("-c", arguments.create),
        ("-b", arguments.batch),
        ("-D", arguments.delete),
        ("-U", arguments.upgrade),
    ];
    let together = [
        ("-c", "-D"),
        ("-b", "-D"),
        ("-c", "-U"),
        ("-b", "-U"),
        ("-D", "-U"),
    ];
    let is_given = |name| given.contains(&(name, true));
    for (one, other) in together {
        if is_given(one) && is_given(other) {
            return Err(PasswdError::Together(one, other));
        }
    }
    let file = arguments.file.as_deref();
    let file = file.ok_or(PasswdError::Usage("the password file is missing"))?;
    let is_named = arguments.user.is_some();
    match (is_named, arguments.upgrade) {
        (false, false) => return Err(PasswdError::Usage("the user is missing")),
        (true, true) => return Err(PasswdError::Usage("-U takes a file and nothing else")),
        _ => {}
    }
    match (arguments.password.is_some(), arguments.batch) {
        (false, true) => return Err(PasswdError::Usage("-b needs the password, too")),
        (true, false) => {
            return Err(PasswdError::Usage("a password is only taken with -b"));
        }
        _ => {}
    }
    if file == Path::new("-") && !arguments.create {
        return Err(PasswdError::Usage("FILE can be - with -c only"));
    }
    Ok(file)
}

fn user(arguments: &PasswdArguments) -> Result<String, PasswdError> {
    let user = arguments.user.clone().unwrap_or_default();
    let user = user
        .into_string()
        .map_err(|_| PasswdError::User("must be UTF-8 text"))?;
    if user.contains(':') {
        return Err(PasswdError::User("must not contain the ':' character"));
    }
    if user.starts_with('#') {
        return Err(PasswdError::User(
            "must not begin with '#', which makes a comment of its line",
        ));
    }
    match password_file::check_user(&user) {
        Ok(()) => Ok(user),
        Err(Fault::NoUser) => Err(PasswdError::User("must not be empty")),
        Err(Fault::UserTooLong) => {
            Err(PasswdError::User("must be less than 65536 characters long"))
        }
        Err(_) => Err(PasswdError::User("must not contain control characters")),
    }
}

fn password(arguments: &PasswdArguments) -> Result<Vec<u8>, PasswdError> {
    use std::os::unix::ffi::OsStringExt;
    let password = match &arguments.password {
        Some(password) => password.clone().into_vec(),
        None => {
            let password = ask("Password: ")?;
            if password.is_empty() {
                return Err(PasswdError::EmptyPassword);
            }
            if ask("Reenter password: ")? != password {
                return Err(PasswdError::Mismatch);
            }
            password
        }
    };
    if password.is_empty() {
        return Err(PasswdError::EmptyPassword);
    }
    if password.len() > PASSWORD_BYTES_MAX {
        return Err(PasswdError::LongPassword);
    }
    Ok(password)
}

/// One line, without echo where it is typed.
fn ask(prompt: &str) -> Result<Vec<u8>, PasswdError> {
    if io::stdin().is_terminal() {
        return rpassword::prompt_password(prompt)
            .map(String::into_bytes)
            .map_err(PasswdError::Prompt);
    }
    print!("{prompt}");
    let line = read_line().map_err(PasswdError::Prompt)?;
    println!();
    Ok(line)
}

/// Byte by byte: what comes behind the line is left for the next question.
fn read_line() -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut input = io::stdin().lock();
    let mut byte = [0];
    while line.len() <= PASSWORD_BYTES_MAX && input.read(&mut byte)? == 1 && byte != [b'\n'] {
        line.extend(byte);
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(line)
}

fn make(cost: Cost, password: &[u8]) -> Result<Hash, PasswdError> {
    let mut salt = [0; SALT_BYTES];
    getrandom::fill(&mut salt).map_err(|_| PasswdError::Random)?;
    // Mosquitto 2.0 reads no other salt than one of 12 bytes; nothing that writes argon2id is so old.
    let length = match cost {
        Cost::Argon2id { .. } => SALT_BYTES,
        Cost::Pbkdf2 { .. } | Cost::Sha512 => SALT_BYTES_OLD,
    };
    let hash = Hash::make(cost, salt.get(..length).unwrap_or(&salt), password);
    // Of what could not be derived for want of memory.
    if hash.verify(password) {
        Ok(hash)
    } else {
        Err(PasswdError::NotHashed)
    }
}

/// The lines of a file as they stand.
#[derive(Default)]
struct Lines(Vec<Vec<u8>>);

impl Lines {
    fn parse(bytes: &[u8]) -> Result<Self, PasswdError> {
        let mut lines: Vec<Vec<u8>> = bytes.split(|byte| *byte == b'\n').map(Into::into).collect();
        if lines.last().is_some_and(Vec::is_empty) {
            lines.pop();
        }
        for (number, line) in (1..).zip(&lines) {
            password_file::split_line(line).map_err(|fault| PasswdError::Corrupt {
                line: number,
                fault,
            })?;
        }
        Ok(Self(lines))
    }

    fn is_of(line: &[u8], user: &str) -> bool {
        matches!(password_file::split_line(line), Ok(Some((of, _))) if of == user)
    }

    fn remove(&mut self, user: &str) -> usize {
        let before = self.0.len();
        self.0.retain(|line| !Self::is_of(line, user));
        before - self.0.len()
    }

    /// In the place of the user's line, or at the end.
    fn set(&mut self, user: &str, hash: &Hash) {
        let line = format!("{user}:{hash}").into_bytes();
        let place = self.0.iter().position(|line| Self::is_of(line, user));
        match place {
            Some(place) => {
                self.remove(user);
                self.0.insert(place, line);
            }
            None => self.0.push(line),
        }
    }

    fn text(&self) -> Vec<u8> {
        let mut text = self.0.join(&b'\n');
        if !text.is_empty() {
            text.push(b'\n');
        }
        text
    }
}

fn upgrade(lines: &Lines, cost: Cost) -> Result<Vec<u8>, PasswdError> {
    let mut upgraded = Lines::default();
    for (number, line) in (1..).zip(&lines.0) {
        let corrupt = |fault| PasswdError::Corrupt {
            line: number,
            fault,
        };
        let Some((user, text)) = password_file::split_line(line).map_err(corrupt)? else {
            upgraded.0.push(line.clone());
            continue;
        };
        let looks_hashed = ["$6$", "$7$", "$argon2id$"]
            .iter()
            .any(|form| text.starts_with(form));
        match Hash::parse(text) {
            Ok(_) => upgraded.0.push(line.clone()),
            Err(fault) if looks_hashed || fault == HashFault::Missing => {
                let user = user.into();
                return Err(corrupt(Fault::Hash { user, fault }));
            }
            Err(_) => {
                let hash = make(cost, text.as_bytes())?;
                upgraded.0.push(format!("{user}:{hash}").into_bytes());
            }
        }
    }
    Ok(upgraded.text())
}

fn print(text: &[u8]) -> Result<(), PasswdError> {
    io::stdout()
        .write_all(text)
        .map_err(|error| PasswdError::Write {
            file: "standard output".into(),
            error,
        })
}

fn read_lines(file: &Path) -> Result<Lines, PasswdError> {
    let mut bytes = Vec::new();
    File::open(file)
        .and_then(|mut open| open.read_to_end(&mut bytes))
        .map_err(|error| PasswdError::Open {
            file: file.to_owned(),
            error,
        })?;
    Lines::parse(&bytes)
}

fn write_file(file: &Path, text: &[u8]) -> Result<(), PasswdError> {
    let in_file = |error| PasswdError::Write {
        file: file.to_owned(),
        error,
    };
    let old = match fs::metadata(file) {
        Ok(metadata) => Some(metadata),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(in_file(error)),
    };
    let Some(old) = old else {
        if fs::symlink_metadata(file).is_ok() {
            let nowhere = io::Error::new(io::ErrorKind::NotFound, "it is a link to nothing");
            return Err(in_file(nowhere));
        }
        return replace(file, text, None).map_err(in_file);
    };
    if !old.is_file() {
        return OpenOptions::new()
            .write(true)
            .open(file)
            .and_then(|mut open| open.write_all(text))
            .map_err(in_file);
    }
    let place = fs::canonicalize(file).map_err(in_file)?;
    if old.nlink() > 1 || replace(&place, text, Some(&old)).is_err() {
        return overwrite(&place, text).map_err(in_file);
    }
    Ok(())
}

/// All or nothing: beside its place, synced, renamed.
fn replace(place: &Path, text: &[u8], old: Option<&fs::Metadata>) -> io::Result<()> {
    let directory = match place.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let mut file = tempfile::Builder::new()
        .prefix(".passwd-")
        .permissions(Permissions::from_mode(OWNER_ONLY))
        .tempfile_in(directory)?;
    file.write_all(text)?;
    if let Some(old) = old {
        let new = file.as_file().metadata()?;
        if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
            // The broker may be another user than whoever changes its file.
            fchown(file.as_file(), Some(old.uid()), Some(old.gid()))?;
        }
        let mode = OWNER_ONLY | old.mode() & GROUP;
        file.as_file()
            .set_permissions(Permissions::from_mode(mode))?;
    }
    file.as_file().sync_all()?;
    file.persist(place).map_err(|error| error.error)?;
    File::open(directory)?.sync_all()
}

fn overwrite(place: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .truncate(true)
        .mode(OWNER_ONLY)
        .open(place)?;
    file.write_all(text)?;
    file.sync_all()
}

impl fmt::Display for PasswdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(what) => write!(f, "{what}; nightjar passwd --help"),
            Self::Together(one, other) => {
                write!(f, "{one} and {other} cannot be used together.")
            }
            Self::UnknownHash(name) => write!(f, "Unknown hash type '{name}'"),
            Self::Iterations => write!(
                f,
                "Number of iterations must be > 0, and at most {ITERATIONS_MAX}."
            ),
            Self::Passes => write!(
                f,
                "Number of iterations of argon2id must be at most {PASSES_MAX}."
            ),
            Self::User(what) => write!(f, "Username {what}."),
            Self::UnknownUser(user) => write!(
                f,
                "User {} not found in password file.",
                user.escape_debug()
            ),
            Self::EmptyPassword => f.write_str("Empty password."),
            Self::LongPassword => {
                write!(
                    f,
                    "Password must be at most {PASSWORD_BYTES_MAX} bytes long."
                )
            }
            Self::Mismatch => f.write_str("Passwords do not match."),
            Self::Corrupt { line, fault } => {
                write!(f, "Corrupt password file at line {line}. {fault}")
            }
            Self::Open { file, error } => write!(
                f,
                "Unable to open password file {}. {error}",
                file.display()
            ),
            Self::Write { file, error } => write!(
                f,
                "Unable to write password file {}. {error}",
                file.display()
            ),
            Self::Prompt(error) => write!(f, "The password could not be read. {error}"),
            Self::Random => f.write_str("The system gives no random numbers."),
            Self::NotHashed => f.write_str("The password could not be hashed; is there memory?"),
        }
    }
}

impl std::error::Error for PasswdError {}

/// What a string of MQTT may hold.
const PASSWORD_BYTES_MAX: usize = 65_535;
/// As Mosquitto 2.1.
const ARGON2_KIBIBYTES: u32 = 47_104;
const OWNER_ONLY: u32 = 0o600;
const GROUP: u32 = 0o060;
