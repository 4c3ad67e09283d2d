//! Who is this: password files, what is compared with them and where, and how often somebody may be wrong.
//!
//! In: the settings, and on CONNECT a user name and a password. Out: a verdict. Comparing costs milliseconds on purpose, so
//! a shard hands it to a [`Verifier`] and goes on; `pool.rs` does it on threads of its own and sends the verdict back as an
//! order. `hash.rs`, `password_file.rs`, `scram.rs` and `backoff.rs` are pure; `load.rs` reads files, and `passwd.rs` is the
//! command `nightjar passwd`. Knows no sessions and no topics.

pub mod backoff;
pub mod hash;
pub mod load;
pub mod passwd;
pub mod password_file;
pub mod pool;
pub mod scram;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use ::hmac::{Hmac, KeyInit, Mac};
use bytes::Bytes;
use sha2::Sha512;

use crate::identity::{ConnectionId, ShardId};
use crate::settings::{ListenerSettings, SecuritySettings, Settings};
use backoff::Backoff;
pub use hash::Hash;
pub use load::LoadError;
pub use password_file::{PasswordFile, Verdict};

/// What the shards of one broker know of its users, and who compares passwords for them.
#[derive(Clone)]
pub struct Auth {
    /// Swapped at a reload.
    pub passwords: Arc<Passwords>,
    pub verifier: Arc<dyn Verifier>,
    pub backoff: Arc<Backoff>,
}

/// Every password file that the settings name. Never changes; a reload makes another.
#[derive(Debug, Default)]
pub struct Passwords {
    files: BTreeMap<PathBuf, Arc<PasswordFile>>,
}

/// Whose word a listener takes for a user name.
#[derive(Clone, Debug)]
pub enum Users {
    /// No password file is configured: a user name is a claim that nobody looks at.
    Unchecked,
    File(Arc<PasswordFile>),
    /// One is configured and is not loaded: nobody comes in.
    Missing,
}

/// Compares passwords somewhere else than on a shard's thread, or at once where nobody waits.
pub trait Verifier: Send + Sync {
    fn submit(&self, request: Request) -> Submitted;
}

/// A password to compare, and who waits for the verdict.
pub struct Request {
    pub shard: ShardId,
    pub connection: ConnectionId,
    pub file: Arc<PasswordFile>,
    pub user: Box<str>,
    pub password: Bytes,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Submitted {
    Done(Verdict),
    /// The verdict comes as an order.
    Later,
    /// Too many wait already.
    Full,
}

/// Compares at once, on the caller's thread: for the simulation and for tests.
pub struct Inline;

impl Auth {
    /// Without users, comparing at once.
    pub fn inline(passwords: Arc<Passwords>) -> Self {
        Self {
            passwords,
            verifier: Arc::new(Inline),
            backoff: Arc::new(Backoff::new(0, 0)),
        }
    }
}

impl Default for Auth {
    fn default() -> Self {
        Self::inline(Arc::default())
    }
}

impl Passwords {
    pub fn new(files: BTreeMap<PathBuf, Arc<PasswordFile>>) -> Self {
        Self { files }
    }

    /// Where a listener looks up its users.
    pub fn users(&self, settings: &Settings, listener: &ListenerSettings) -> Users {
        match &security(settings, listener).password_file {
            None => Users::Unchecked,
            Some(path) => match self.files.get(path) {
                Some(file) => Users::File(Arc::clone(file)),
                None => Users::Missing,
            },
        }
    }

    /// Whether there is a user of this name in any file.
    pub fn know(&self, user: &str) -> bool {
        self.files.values().any(|file| file.user(user).is_some())
    }

    /// Users in all files.
    pub fn count(&self) -> usize {
        self.files.values().map(|file| file.len()).sum()
    }
}

/// The rules that hold on a listener.
pub fn security<'a>(
    settings: &'a Settings,
    listener: &'a ListenerSettings,
) -> &'a SecuritySettings {
    listener.security.as_ref().unwrap_or(&settings.security)
}

/// Whether a listener takes clients without a user name.
pub fn allows_anonymous(settings: &Settings, listener: &ListenerSettings) -> bool {
    listener
        .allow_anonymous
        .unwrap_or_else(|| security(settings, listener).allow_anonymous)
}

impl Request {
    pub fn verify(&self) -> Verdict {
        self.file.verify(&self.user, &self.password)
    }
}

impl Verifier for Inline {
    fn submit(&self, request: Request) -> Submitted {
        Submitted::Done(request.verify())
    }
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 64] {
    let mut mac = Hmac::<Sha512>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}
