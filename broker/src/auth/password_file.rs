//! A password file: `user:hash` lines as `mosquitto_passwd` writes them.
//!
//! In: the bytes of a file. Out: the users, or every line that is wrong, with its number: a file with one bad line is not
//! used at all, because a line that is passed over is a user who cannot come in, or one who should not. Blank lines, and
//! lines that begin with `#`, are skipped. Knows no file system and no clock.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use sha2::{Digest, Sha512};

use super::hash::{Cost, Hash, HashFault, KEY_BYTES, SALT_BYTES, SALT_BYTES_OLD};
use super::hmac;

/// The users of one file. Never changes; a reload makes another.
pub struct PasswordFile {
    users: BTreeMap<Box<str>, Arc<Hash>>,
    /// What a user name that is not here is compared with.
    nobody: Arc<Hash>,
    /// Makes salts for names that are not here.
    salt_key: [u8; 64],
}

/// A line that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineFault {
    /// Counted from 1.
    pub line: usize,
    pub fault: Fault,
}

/// What is wrong with a line. The line itself is not told: it may hold a password.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    NotUtf8,
    NoColon,
    NoUser,
    UserTooLong,
    UserUnprintable,
    Repeated { user: Box<str>, first: usize },
    Hash { user: Box<str>, fault: HashFault },
}

/// What became of a user name and a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Accepted,
    WrongPassword,
    UnknownUser,
}

impl PasswordFile {
    /// Reads the bytes of a file; all faults at once.
    pub fn parse(bytes: &[u8]) -> Result<Self, Vec<LineFault>> {
        let mut users: BTreeMap<Box<str>, (usize, Arc<Hash>)> = BTreeMap::new();
        let mut faults = Vec::new();
        for (number, line) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
            let read = match parse_line(line) {
                Ok(Some(read)) => read,
                Ok(None) => continue,
                Err(fault) => {
                    faults.push(LineFault {
                        line: number,
                        fault,
                    });
                    continue;
                }
            };
            let (user, hash) = read;
            if let Some((first, _)) = users.get(user) {
                faults.push(LineFault {
                    line: number,
                    fault: Fault::Repeated {
                        user: user.into(),
                        first: *first,
                    },
                });
                continue;
            }
            users.insert(user.into(), (number, Arc::new(hash)));
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(Self::of_users(
            users
                .into_iter()
                .map(|(user, (_, hash))| (user, hash))
                .collect(),
        ))
    }

    fn of_users(users: BTreeMap<Box<str>, Arc<Hash>>) -> Self {
        let mut counts: BTreeMap<(Cost, usize), usize> = BTreeMap::new();
        for hash in users.values() {
            *counts.entry((hash.cost(), hash.salt().len())).or_default() += 1;
        }
        let commonest = counts.iter().max_by_key(|(_, count)| **count);
        let (cost, salt_bytes) = commonest.map_or(DEFAULT, |(kind, _)| *kind);
        // Secret, and the same after a restart: a salt that changes would tell that nobody has it.
        let mut digest = Sha512::new().chain_update(b"nightjar: salts of nobody");
        if let Some(first) = users.values().next() {
            digest.update(first.key());
        }
        let salt_key: [u8; 64] = digest.finalize().into();
        let salt = hmac(&salt_key, &[b"salt"]);
        let key: [u8; KEY_BYTES] = hmac(&salt_key, &[b"key"]);
        let salt = salt.get(..salt_bytes).unwrap_or(&salt);
        Self {
            nobody: Arc::new(Hash::nobodys(cost, salt, &key)),
            users,
            salt_key,
        }
    }

    /// The hash of a user.
    pub fn user(&self, user: &str) -> Option<&Arc<Hash>> {
        self.users.get(user)
    }

    pub fn len(&self) -> usize {
        self.users.len()
    }

    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// Whether this user has this password. A name that is not here costs as much as most that are (T1).
    pub fn verify(&self, user: &str, password: &[u8]) -> Verdict {
        let known = self.users.get(user);
        let matches = known.unwrap_or(&self.nobody).verify(password);
        match (known, matches) {
            (Some(_), true) => Verdict::Accepted,
            (Some(_), false) => Verdict::WrongPassword,
            (None, _) => Verdict::UnknownUser,
        }
    }

    /// What SCRAM tells a client about a name that is not here, the same each time: salt and iterations.
    pub fn salt_of_nobody(&self, user: &str) -> (Box<[u8]>, u32) {
        let scram = self.users.values().find_map(|hash| match hash.cost() {
            Cost::Pbkdf2 { iterations } => Some((iterations, hash.salt().len())),
            _ => None,
        });
        let (iterations, salt_bytes) = match self.nobody.cost() {
            Cost::Pbkdf2 { iterations } => (iterations, self.nobody.salt().len()),
            _ => scram.unwrap_or((DEFAULT_ITERATIONS, SALT_BYTES)),
        };
        let salt = hmac(&self.salt_key, &[b"user", user.as_bytes()]);
        (salt.iter().take(salt_bytes).copied().collect(), iterations)
    }
}

/// A user and its hash; `None` for a line that says nothing.
pub fn parse_line(line: &[u8]) -> Result<Option<(&str, Hash)>, Fault> {
    let Some((user, text)) = split_line(line)? else {
        return Ok(None);
    };
    match Hash::parse(text) {
        Ok(hash) => Ok(Some((user, hash))),
        Err(fault) => Err(Fault::Hash {
            user: user.into(),
            fault,
        }),
    }
}

/// A user and what stands behind the colon; `None` for a line that says nothing.
pub fn split_line(line: &[u8]) -> Result<Option<(&str, &str)>, Fault> {
    let line = line.trim_ascii_end();
    if line.trim_ascii().is_empty() || line.first() == Some(&b'#') {
        return Ok(None);
    }
    let line = std::str::from_utf8(line).map_err(|_| Fault::NotUtf8)?;
    let (user, text) = line.split_once(':').ok_or(Fault::NoColon)?;
    check_user(user)?;
    Ok(Some((user, text)))
}

/// Whether a file may name such a user.
pub fn check_user(user: &str) -> Result<(), Fault> {
    if user.is_empty() {
        return Err(Fault::NoUser);
    }
    if user.len() > USER_BYTES_MAX {
        return Err(Fault::UserTooLong);
    }
    if user.chars().any(|c| c.is_control() || c == '\u{feff}') {
        return Err(Fault::UserUnprintable);
    }
    Ok(())
}

impl fmt::Display for LineFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.fault)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotUtf8 => f.write_str("not UTF-8 text"),
            Self::NoColon => f.write_str("no colon; a line is user:hash"),
            Self::NoUser => f.write_str("the user name before the colon is missing"),
            Self::UserTooLong => f.write_str("the user name is longer than 65,535 bytes"),
            Self::UserUnprintable => f.write_str(
                "the user name has a control character or a byte order mark, which no client can send",
            ),
            Self::Repeated { user, first } => write!(
                f,
                "user '{}' is in line {first} already; which of the two passwords is right?",
                user.escape_debug()
            ),
            Self::Hash { user, fault } => {
                write!(f, "user '{}': {fault}", user.escape_debug())
            }
        }
    }
}

/// Without the users' hashes.
impl fmt::Debug for PasswordFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PasswordFile")
            .field("users", &self.users.len())
            .finish_non_exhaustive()
    }
}

/// What a string of MQTT may hold.
const USER_BYTES_MAX: usize = 65_535;
/// What `nightjar passwd` chooses: the least that clients of SCRAM accept (RFC 7677, 4).
pub const DEFAULT_ITERATIONS: u32 = 4096;
const DEFAULT: (Cost, usize) = (
    Cost::Pbkdf2 {
        iterations: DEFAULT_ITERATIONS,
    },
    SALT_BYTES_OLD,
);

#[cfg(test)]
mod tests {
    use super::*;

    fn line(user: &str, iterations: u32, password: &str) -> String {
        let hash = Hash::make(Cost::Pbkdf2 { iterations }, &[3; 12], password.as_bytes());
        format!("{user}:{hash}\n")
    }

    #[test]
    fn blank_lines_and_comments_are_skipped_and_line_ends_may_be_of_windows() {
        let text = format!(
            "# users\r\n\n  \t\n{}#x\n{}",
            line("a", 1, "1").replace('\n', "\r\n"),
            line("b", 1, "2").trim_end()
        );
        let file = PasswordFile::parse(text.as_bytes()).unwrap();
        assert_eq!(file.len(), 2);
        assert_eq!(file.verify("a", b"1"), Verdict::Accepted);
        assert_eq!(file.verify("a", b"2"), Verdict::WrongPassword);
        assert_eq!(file.verify("b", b"2"), Verdict::Accepted);
        assert_eq!(file.verify("c", b"2"), Verdict::UnknownUser);
        assert_eq!(file.verify("", b""), Verdict::UnknownUser);
    }

    /// A7: CVE-2018-12551 was such a line.
    #[test]
    fn every_bad_line_is_told_with_its_number_and_without_its_text() {
        let good = line("a", 1, "1");
        let text = format!(
            "user\n{good}user:\n:hash\n:\nx:geheim\n{good}y\u{1}:{}\nz:$7$1$a$b\n",
            good.trim_start_matches("a:").trim_end()
        );
        let faults = PasswordFile::parse(text.as_bytes()).unwrap_err();
        let told: Vec<String> = faults.iter().map(ToString::to_string).collect();
        let lines: Vec<usize> = faults.iter().map(|fault| fault.line).collect();
        assert_eq!(lines, [1, 3, 4, 5, 6, 7, 8, 9], "{told:#?}");
        assert!(!told.join("\n").contains("geheim"), "{told:#?}");
        assert!(told[5].contains("'a' is in line 2 already"), "{told:#?}");
        assert!(PasswordFile::parse(b"\xff:x").is_err());
    }

    #[test]
    fn an_empty_file_has_no_users_and_lets_nobody_in() {
        let file = PasswordFile::parse(b"").unwrap();
        assert!(file.is_empty());
        assert_eq!(file.verify("a", b""), Verdict::UnknownUser);
    }

    #[test]
    fn who_is_not_there_costs_as_much_as_most_who_are() {
        let text = [line("a", 2, ""), line("b", 9, ""), line("c", 9, "")].concat();
        let file = PasswordFile::parse(text.as_bytes()).unwrap();
        assert_eq!(file.nobody.cost(), Cost::Pbkdf2 { iterations: 9 });
        assert_eq!(file.nobody.salt().len(), 12);
    }

    #[test]
    fn the_salt_of_nobody_is_the_same_after_a_restart_and_differs_by_user() {
        let text = line("a", 7, "1");
        let [file, again] = [(); 2].map(|()| PasswordFile::parse(text.as_bytes()).unwrap());
        let (salt, iterations) = file.salt_of_nobody("x");
        assert_eq!((salt.len(), iterations), (12, 7));
        assert_eq!(again.salt_of_nobody("x"), (salt.clone(), 7));
        assert_ne!(file.salt_of_nobody("y").0, salt);
    }
}
