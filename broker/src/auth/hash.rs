//! One password hash, in the forms that `mosquitto_passwd` writes.
//!
//! In: the text behind `user:`, and a password to compare. Out: a parsed hash, its text again, or whether the password is
//! the right one, in a time that depends on the form alone. Knows no users, no files and no clock.
//!
//! | Text | What it is |
//! |---|---|
//! | `$7$ITERATIONS$SALT$KEY` | PBKDF2-HMAC-SHA512; base64 with padding; salt of 12 (Mosquitto 2.0) or 64 bytes (2.1) |
//! | `$6$SALT$DIGEST` | SHA-512 of password and salt (Mosquitto 1.x); the same salts |
//! | `$argon2id$v=19$m=KIB,t=PASSES,p=LANES$SALT$KEY` | Argon2id as a PHC string; base64 without padding |

use std::fmt;

use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use sha2::{Digest, Sha512};
use subtle::ConstantTimeEq;

/// A password hash.
#[derive(Clone, PartialEq, Eq)]
pub struct Hash {
    cost: Cost,
    salt: Box<[u8]>,
    key: Box<[u8]>,
}

/// What a hash costs to compare with: two of the same cost take the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cost {
    Sha512,
    Pbkdf2 {
        iterations: u32,
    },
    Argon2id {
        kibibytes: u32,
        passes: u32,
        lanes: u32,
    },
}

/// Why a text is no hash. Says nothing of what stands there: it may be a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HashFault {
    Missing,
    UnknownForm,
    Parts,
    Cost,
    Salt,
    Key,
}

impl Hash {
    /// Reads the text behind `user:`.
    pub fn parse(text: &str) -> Result<Self, HashFault> {
        if text.is_empty() {
            return Err(HashFault::Missing);
        }
        let mut parts = text.split('$');
        if parts.next() != Some("") {
            return Err(HashFault::UnknownForm);
        }
        let form = parts.next().unwrap_or_default();
        let rest: Vec<&str> = parts.take(PARTS_MAX + 1).collect();
        match (form, &rest[..]) {
            ("7", [iterations, salt, key]) => Self::of_mosquitto(
                Cost::Pbkdf2 {
                    iterations: number(iterations, 1, ITERATIONS_MAX)?,
                },
                salt,
                key,
            ),
            ("6", [salt, digest]) => Self::of_mosquitto(Cost::Sha512, salt, digest),
            ("argon2id", ["v=19", cost, salt, key]) => Self::of_argon2id(cost, salt, key),
            ("6" | "7" | "argon2id", _) => Err(HashFault::Parts),
            _ => Err(HashFault::UnknownForm),
        }
    }

    /// Hashes a password.
    pub fn make(cost: Cost, salt: &[u8], password: &[u8]) -> Self {
        let mut key = vec![0; KEY_BYTES].into_boxed_slice();
        derive(cost, salt, password, &mut key);
        Self {
            cost,
            salt: salt.into(),
            key,
        }
    }

    /// One that no password is known for, which costs as much as any other with the same cost.
    pub fn nobodys(cost: Cost, salt: &[u8], key: &[u8; KEY_BYTES]) -> Self {
        Self {
            cost,
            salt: salt.into(),
            key: (*key).into(),
        }
    }

    /// Whether this is the password. Compares in constant time.
    pub fn verify(&self, password: &[u8]) -> bool {
        let mut key = vec![0; self.key.len()];
        derive(self.cost, &self.salt, password, &mut key) && bool::from(key.ct_eq(&self.key))
    }

    pub fn cost(&self) -> Cost {
        self.cost
    }

    pub fn salt(&self) -> &[u8] {
        &self.salt
    }

    /// What is kept of the password. A secret; for `$7$` it is the SaltedPassword of SCRAM-SHA-512 (RFC 5802, 3).
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    fn of_mosquitto(cost: Cost, salt: &str, key: &str) -> Result<Self, HashFault> {
        let salt = STANDARD.decode(salt).map_err(|_| HashFault::Salt)?;
        let key = STANDARD.decode(key).map_err(|_| HashFault::Key)?;
        if ![SALT_BYTES_OLD, SALT_BYTES].contains(&salt.len()) {
            return Err(HashFault::Salt);
        }
        if key.len() != KEY_BYTES {
            return Err(HashFault::Key);
        }
        Ok(Self {
            cost,
            salt: salt.into(),
            key: key.into(),
        })
    }

    fn of_argon2id(cost: &str, salt: &str, key: &str) -> Result<Self, HashFault> {
        let named = |text: Option<&str>, name: &str, maximum| {
            let text = text.and_then(|text| text.strip_prefix(name));
            number(text.ok_or(HashFault::Cost)?, 1, maximum)
        };
        let mut costs = cost.split(',');
        let kibibytes = named(costs.next(), "m=", KIBIBYTES_MAX)?;
        let passes = named(costs.next(), "t=", PASSES_MAX)?;
        let lanes = named(costs.next(), "p=", LANES_MAX)?;
        if costs.next().is_some() || kibibytes < 8 * lanes {
            return Err(HashFault::Cost);
        }
        let salt = STANDARD_NO_PAD.decode(salt).map_err(|_| HashFault::Salt)?;
        let key = STANDARD_NO_PAD.decode(key).map_err(|_| HashFault::Key)?;
        if !(8..=SALT_BYTES).contains(&salt.len()) {
            return Err(HashFault::Salt);
        }
        if !(16..=KEY_BYTES).contains(&key.len()) {
            return Err(HashFault::Key);
        }
        Ok(Self {
            cost: Cost::Argon2id {
                kibibytes,
                passes,
                lanes,
            },
            salt: salt.into(),
            key: key.into(),
        })
    }
}

/// Fills `key`; false where it could not, of which the parser leaves only a want of memory.
fn derive(cost: Cost, salt: &[u8], password: &[u8], key: &mut [u8]) -> bool {
    match cost {
        Cost::Sha512 => {
            let digest = Sha512::new()
                .chain_update(password)
                .chain_update(salt)
                .finalize();
            key.iter_mut()
                .zip(digest)
                .for_each(|(key, byte)| *key = byte);
            true
        }
        Cost::Pbkdf2 { iterations } => {
            pbkdf2::pbkdf2_hmac::<Sha512>(password, salt, iterations, key);
            true
        }
        Cost::Argon2id {
            kibibytes,
            passes,
            lanes,
        } => Params::new(kibibytes, passes, lanes, Some(key.len()))
            .map(|params| Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
            .and_then(|argon2| argon2.hash_password_into(password, salt, key))
            .is_ok(),
    }
}

fn number(text: &str, minimum: u32, maximum: u32) -> Result<u32, HashFault> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse()
        .ok()
        .filter(|number| is_plain && (minimum..=maximum).contains(number))
        .ok_or(HashFault::Cost)
}

/// The text behind `user:`.
impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cost {
            Cost::Sha512 => {
                let (salt, key) = (STANDARD.encode(&self.salt), STANDARD.encode(&self.key));
                write!(f, "$6${salt}${key}")
            }
            Cost::Pbkdf2 { iterations } => {
                let (salt, key) = (STANDARD.encode(&self.salt), STANDARD.encode(&self.key));
                write!(f, "$7${iterations}${salt}${key}")
            }
            Cost::Argon2id {
                kibibytes,
                passes,
                lanes,
            } => {
                let salt = STANDARD_NO_PAD.encode(&self.salt);
                let key = STANDARD_NO_PAD.encode(&self.key);
                write!(
                    f,
                    "$argon2id$v=19$m={kibibytes},t={passes},p={lanes}${salt}${key}"
                )
            }
        }
    }
}

/// Without salt and key: this may reach a log.
impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hash")
            .field("cost", &self.cost)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for HashFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "the hash is missing",
            Self::UnknownForm => {
                "no hash of a known form ($7$, $6$ or $argon2id$); for a plain password run nightjar passwd -U on the file"
            }
            Self::Parts => "the hash has not the parts of its form",
            Self::Cost => "the iterations, or what it costs else, are not a number in range",
            Self::Salt => "the salt is not base64 of 12 or 64 bytes (argon2id: 8 to 64)",
            Self::Key => "the hash is not base64 of 64 bytes (argon2id: 16 to 64)",
        })
    }
}

/// Bytes of a salt that Mosquitto 2.0 makes, and 2.1.
pub const SALT_BYTES_OLD: usize = 12;
pub const SALT_BYTES: usize = 64;
pub const KEY_BYTES: usize = 64;
const PARTS_MAX: usize = 4;
/// Ten seconds of one thread, about: a line with more was written to keep the broker busy.
pub const ITERATIONS_MAX: u32 = 10_000_000;
const KIBIBYTES_MAX: u32 = 1_048_576;
pub const PASSES_MAX: u32 = 64;
const LANES_MAX: u32 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    /// Each written by mosquitto_passwd 2.0.11, or by the reference implementation of Argon2.
    const WRITTEN: [&str; 2] = [
        "$7$101$NgCDY8EHqFnJqyfC$1fpYV0ua1btAeQe4XXRlAyzTgC8x7aGq/Qk7E4R3h/YNNXnm7dXUX/kaYPggtfqX0Sc7jycnNCSqdbt269jKUg==",
        "$6$0wC4HF9uZaqNG0Nb$Fb1q0YW9wMrE1dzR24E+qLXnlCq/WdaXF9e7ZgEshCltD6W0ppISXGlQczOSaIIUSXl4l4XC3KPdPSYdLHmH+Q==",
    ];

    #[test]
    fn what_mosquitto_wrote_is_read_verified_and_written_the_same() {
        for (text, password) in WRITTEN.into_iter().zip(["secret", "s"]) {
            let hash = Hash::parse(text).unwrap();
            assert_eq!(hash.to_string(), text);
            assert!(hash.verify(password.as_bytes()));
            for wrong in ["", "Secret", "secret ", "S"] {
                assert!(!hash.verify(wrong.as_bytes()), "{wrong:?}");
            }
        }
    }

    #[test]
    fn every_form_and_salt_survives_the_round_trip() {
        let costs = [
            Cost::Sha512,
            Cost::Pbkdf2 { iterations: 3 },
            Cost::Argon2id {
                kibibytes: 64,
                passes: 1,
                lanes: 1,
            },
        ];
        for cost in costs {
            for salt in [&[7; SALT_BYTES_OLD][..], &[7; SALT_BYTES]] {
                let made = Hash::make(cost, salt, b"p\0w");
                let read = Hash::parse(&made.to_string()).unwrap();
                assert!(read == made && read.verify(b"p\0w") && !read.verify(b"p"));
            }
        }
    }

    #[test]
    fn what_is_no_hash_is_refused_with_its_reason() {
        let salt = STANDARD.encode([1; 12]);
        let key = STANDARD.encode([1; 64]);
        let cases = [
            (String::new(), HashFault::Missing),
            ("plain".into(), HashFault::UnknownForm),
            ("$".into(), HashFault::UnknownForm),
            (format!("$8${salt}${key}"), HashFault::UnknownForm),
            (format!("$7${salt}${key}"), HashFault::Parts),
            (format!("$7$101${salt}${key}$"), HashFault::Parts),
            (format!("$7$0${salt}${key}"), HashFault::Cost),
            (format!("$7$-1${salt}${key}"), HashFault::Cost),
            (format!("$7$+1${salt}${key}"), HashFault::Cost),
            (format!("$7$99999999999${salt}${key}"), HashFault::Cost),
            (
                format!("$7$1${}${key}", STANDARD.encode([1; 13])),
                HashFault::Salt,
            ),
            (format!("$7$1$!${key}"), HashFault::Salt),
            (format!("$7$1${salt}${salt}"), HashFault::Key),
            (format!("$6${salt}$!"), HashFault::Key),
            (
                format!("$argon2id$v=18$m=64,t=1,p=1${salt}${salt}"),
                HashFault::Parts,
            ),
            (
                format!("$argon2id$v=19$m=64,t=1${salt}${salt}"),
                HashFault::Cost,
            ),
            (
                format!("$argon2id$v=19$m=64,t=1,p=9${salt}${salt}"),
                HashFault::Cost,
            ),
            (
                format!("$argon2id$v=19$m=9999999,t=1,p=1${salt}${salt}"),
                HashFault::Cost,
            ),
        ];
        for (text, fault) in cases {
            assert_eq!(Hash::parse(&text), Err(fault), "{text}");
        }
    }

    #[test]
    fn debug_output_shows_no_secret() {
        let hash = Hash::parse(WRITTEN[0]).unwrap();
        assert_eq!(
            format!("{hash:?}"),
            "Hash { cost: Pbkdf2 { iterations: 101 }, .. }"
        );
    }
}
