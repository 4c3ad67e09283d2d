//! Which session a Client Identifier names. Only the places of sessions are kept; the identifiers are the sessions' own.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use super::slots::Slots;
use crate::identity::SessionId;
use crate::session::Session;

/// The sessions of one shard by name.
#[derive(Debug)]
pub(super) struct Names {
    slots: HashTable<u32>,
    hasher: FixedState,
}

impl Names {
    pub(super) fn new(hasher: FixedState) -> Self {
        Self {
            slots: HashTable::new(),
            hasher,
        }
    }

    pub(super) fn find(&self, sessions: &Slots<Session>, client_id: &str) -> Option<SessionId> {
        let hash = self.hasher.hash_one(client_id);
        let is_it = |slot: &u32| name_of(sessions, *slot) == Some(client_id);
        let slot = self.slots.find(hash, is_it)?;
        sessions.at(*slot).map(|session| session.id)
    }

    /// Adds a session whose name no other has.
    pub(super) fn add(&mut self, sessions: &Slots<Session>, id: SessionId) {
        let hasher = &self.hasher;
        let hash = |slot: &u32| hasher.hash_one(name_of(sessions, *slot).unwrap_or_default());
        self.slots.insert_unique(hash(&id.slot), id.slot, hash);
    }

    /// To be called while the session is still there.
    pub(super) fn forget(&mut self, sessions: &Slots<Session>, client_id: &str) {
        let hash = self.hasher.hash_one(client_id);
        let is_it = |slot: &u32| name_of(sessions, *slot) == Some(client_id);
        if let Ok(entry) = self.slots.find_entry(hash, is_it) {
            entry.remove();
        }
    }
}

fn name_of(sessions: &Slots<Session>, slot: u32) -> Option<&str> {
    sessions
        .at(slot)
        .map(|session| &*session.receiver.client_id)
}
