//! How often somebody may be wrong (T2).
//!
//! Three things are counted: failures of one user from one address, of one address, and of one user. In: the time, a peer
//! and a user name. Out: whether a CONNECT is looked at, and how long its refusal waits. Nobody pays for others:
//!
//! - One user from one address who was wrong more than `failures_max` times is refused without being looked at, for a second
//!   at first, then twice as long each time, at most a minute.
//! - So is an address that was wrong four times as often, for at most ten seconds, but not who has come in from there before:
//!   behind one address there may be a thousand devices and one that is set up wrongly.
//! - A user whose password is tried from many addresses is always looked at, or anybody could lock it out; a wrong answer
//!   then waits for a second.
//!
//! What was counted is halved every ten minutes. The table is bounded: what was touched longest ago goes first. It keeps
//! keyed hashes, so that a long user name costs as little as a short one.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};

use foldhash::fast::FixedState;

/// Shared by all shards; looked at once for each CONNECT with a password.
pub struct Backoff {
    failures_max: u32,
    hasher: FixedState,
    table: Mutex<Table>,
}

/// What a failure brings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Penalty {
    /// How long the refusal waits.
    pub delay_milliseconds: u64,
    /// For how long others like it are refused unseen. Only told where a line is due in the log.
    pub refused_milliseconds: Option<u64>,
}

#[derive(Default)]
struct Table {
    entries: BTreeMap<Key, Entry>,
    /// The same keys by the time they were touched.
    ages: BTreeSet<(u64, Key)>,
    warned_at: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key(Kind, u64);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Pair,
    Address,
    User,
}

#[derive(Clone, Copy, Default)]
struct Entry {
    failures: u32,
    halved_at: u64,
    touched: u64,
    refused_until: u64,
    /// This user has come in from this address.
    is_known: bool,
}

impl Backoff {
    /// `failures_max` 0 never refuses.
    pub fn new(hash_seed: u64, failures_max: u32) -> Self {
        Self {
            failures_max,
            hasher: FixedState::with_seed(hash_seed),
            table: Mutex::default(),
        }
    }

    /// Whether this user at this peer is to be refused unseen.
    pub fn refuses(&self, now: u64, peer: &str, user: &str) -> bool {
        if self.failures_max == 0 {
            return false;
        }
        let (pair, address, _) = self.keys(peer, user);
        let table = self.table();
        let is_refused =
            |entry: Option<&Entry>| entry.is_some_and(|entry| now < entry.refused_until);
        let known_pair = table.entries.get(&pair);
        is_refused(known_pair)
            || is_refused(table.entries.get(&address))
                && !known_pair.is_some_and(|entry| entry.is_known)
    }

    /// This user at this peer was wrong.
    pub fn failed(&self, now: u64, peer: &str, user: &str) -> Penalty {
        if self.failures_max == 0 {
            return Penalty::default();
        }
        let (pair, address, user) = self.keys(peer, user);
        let many = self.failures_max.saturating_mul(MANY);
        let mut table = self.table();
        let of_pair = table.count(now, pair, self.failures_max, PAIR_MILLISECONDS_MAX);
        let of_address = table.count(now, address, many, ADDRESS_MILLISECONDS_MAX);
        let user_is_tried = table.count(now, user, many, 0) > 0;
        let refused = of_pair.max(of_address);
        let is_due = refused > 0
            && table
                .warned_at
                .is_none_or(|at| now.saturating_sub(at) >= WARNING_MILLISECONDS);
        if is_due {
            table.warned_at = Some(now);
        }
        Penalty {
            delay_milliseconds: if user_is_tried { DELAY_MILLISECONDS } else { 0 },
            refused_milliseconds: is_due.then_some(refused),
        }
    }

    /// This user at this peer was right: what was counted against the two together is forgotten.
    pub fn succeeded(&self, now: u64, peer: &str, user: &str) {
        if self.failures_max == 0 {
            return;
        }
        let (pair, _, _) = self.keys(peer, user);
        let mut table = self.table();
        let entry = table.touch(now, pair);
        entry.failures = 0;
        entry.refused_until = 0;
        entry.is_known = true;
    }

    fn keys(&self, peer: &str, user: &str) -> (Key, Key, Key) {
        let address = Address::of(peer);
        (
            Key(Kind::Pair, self.hasher.hash_one((&address, user))),
            Key(Kind::Address, self.hasher.hash_one(&address)),
            Key(Kind::User, self.hasher.hash_one(user)),
        )
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Counts one failure; for how long that refuses, 0 if it does not.
    fn count(&mut self, now: u64, key: Key, free: u32, milliseconds_max: u64) -> u64 {
        let entry = self.touch(now, key);
        entry.failures = entry.failures.saturating_add(1);
        let Some(above) = entry.failures.checked_sub(free + 1) else {
            return 0;
        };
        if milliseconds_max == 0 {
            return 1;
        }
        let milliseconds = (FIRST_MILLISECONDS << above.min(16)).min(milliseconds_max);
        entry.refused_until = now + milliseconds;
        milliseconds
    }

    fn touch(&mut self, now: u64, key: Key) -> &mut Entry {
        if !self.entries.contains_key(&key) {
            while self.entries.len() >= ENTRIES_MAX
                && let Some((_, oldest)) = self.ages.pop_first()
            {
                self.entries.remove(&oldest);
            }
        }
        let entry = self.entries.entry(key).or_insert_with(|| Entry {
            halved_at: now,
            touched: now,
            ..Entry::default()
        });
        self.ages.remove(&(entry.touched, key));
        self.ages.insert((now, key));
        entry.touched = now;
        let halvings = now.saturating_sub(entry.halved_at) / HALVING_MILLISECONDS;
        entry.failures = entry
            .failures
            .checked_shr(u32::try_from(halvings).unwrap_or(u32::MAX))
            .unwrap_or(0);
        entry.halved_at += halvings * HALVING_MILLISECONDS;
        entry
    }
}

/// What one attacker has: an IPv4 address, or the /64 of an IPv6 address. A peer without either is one of its kind.
#[derive(Hash)]
enum Address<'a> {
    Ip(u64),
    Other(&'a str),
}

impl<'a> Address<'a> {
    fn of(peer: &'a str) -> Self {
        let Ok(address) = peer.parse::<SocketAddr>() else {
            return Self::Other(peer);
        };
        match address.ip().to_canonical() {
            IpAddr::V4(address) => Self::Ip(u64::from(u32::from(address))),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                let network = [a, b, c, d].map(u64::from);
                Self::Ip(network.iter().fold(0, |all, part| all << 16 | part))
            }
        }
    }
}

const MANY: u32 = 4;
const FIRST_MILLISECONDS: u64 = 1000;
const PAIR_MILLISECONDS_MAX: u64 = 60_000;
const ADDRESS_MILLISECONDS_MAX: u64 = 10_000;
const DELAY_MILLISECONDS: u64 = 1000;
const WARNING_MILLISECONDS: u64 = 1000;
const HALVING_MILLISECONDS: u64 = 600_000;
const ENTRIES_MAX: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    const EVIL: &str = "192.0.2.1:4000";
    const GOOD: &str = "192.0.2.2:4000";

    #[test]
    fn one_user_from_one_address_is_refused_ever_longer_and_never_more_than_a_minute() {
        let backoff = Backoff::new(1, 5);
        for _ in 0..5 {
            backoff.failed(0, EVIL, "alice");
            assert!(!backoff.refuses(0, EVIL, "alice"));
        }
        let mut now = 0;
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            backoff.failed(now, EVIL, "alice");
            assert!(backoff.refuses(now + seconds * 1000 - 1, EVIL, "alice"));
            // Another port is the same attacker.
            assert!(backoff.refuses(now, "192.0.2.1:9", "alice"));
            now += seconds * 1000;
            assert!(!backoff.refuses(now, EVIL, "alice"));
        }
    }

    #[test]
    fn nobody_else_is_refused() {
        let backoff = Backoff::new(1, 5);
        backoff.succeeded(0, EVIL, "neighbour");
        for _ in 0..1000 {
            backoff.failed(0, EVIL, "alice");
        }
        assert!(backoff.refuses(0, EVIL, "alice"));
        assert!(!backoff.refuses(0, GOOD, "alice"));
        assert!(!backoff.refuses(0, GOOD, "bob"));
        assert!(!backoff.refuses(0, EVIL, "neighbour"));
    }

    #[test]
    fn an_address_that_tries_many_users_is_refused_for_seconds() {
        let backoff = Backoff::new(1, 5);
        for number in 0..21 {
            assert!(!backoff.refuses(0, EVIL, "new"));
            backoff.failed(0, EVIL, &format!("user{number}"));
        }
        assert!(backoff.refuses(999, EVIL, "new"));
        assert!(!backoff.refuses(1000, EVIL, "new"));
    }

    #[test]
    fn a_user_that_is_tried_from_everywhere_is_looked_at_and_wrong_answers_wait() {
        let backoff = Backoff::new(1, 5);
        let mut penalty = Penalty::default();
        for host in 0..100 {
            penalty = backoff.failed(0, &format!("198.51.100.{host}:1"), "alice");
        }
        assert_eq!(penalty.delay_milliseconds, 1000);
        assert!(!backoff.refuses(0, GOOD, "alice"));
    }

    #[test]
    fn the_warning_comes_once_a_second_at_most() {
        let backoff = Backoff::new(1, 1);
        let warned: Vec<u64> = (0..3000)
            .filter(|now| {
                let user = format!("user{}", now % 50);
                let penalty = backoff.failed(*now, EVIL, &user);
                penalty.refused_milliseconds.is_some()
            })
            .collect();
        assert_eq!(warned.len(), 3, "{warned:?}");
    }

    #[test]
    fn being_right_ends_it_and_time_halves_it() {
        let backoff = Backoff::new(1, 5);
        for _ in 0..10 {
            backoff.failed(0, EVIL, "alice");
            backoff.failed(0, EVIL, "bob");
        }
        backoff.succeeded(20_000, EVIL, "alice");
        assert!(!backoff.refuses(0, EVIL, "alice"));
        let later = 2 * HALVING_MILLISECONDS;
        backoff.failed(later, EVIL, "bob");
        assert!(!backoff.refuses(later, EVIL, "bob"));
    }

    #[test]
    fn the_table_is_bounded_and_the_oldest_goes() {
        let backoff = Backoff::new(1, 1);
        for _ in 0..9 {
            backoff.failed(0, GOOD, "bob");
        }
        for number in 0..ENTRIES_MAX as u64 {
            backoff.failed(number + 1, EVIL, &format!("user{number}"));
        }
        let table = backoff.table();
        assert_eq!(table.entries.len(), ENTRIES_MAX);
        assert_eq!(table.ages.len(), ENTRIES_MAX);
        drop(table);
        assert!(!backoff.refuses(1, GOOD, "bob"));
    }

    #[test]
    fn an_ipv6_network_is_one_attacker() {
        let backoff = Backoff::new(1, 1);
        for host in 0..5 {
            backoff.failed(0, &format!("[2001:db8:0:1::{host}]:1"), "alice");
        }
        assert!(backoff.refuses(0, "[2001:db8:0:1:ffff::9]:7", "alice"));
        assert!(!backoff.refuses(0, "[2001:db8:0:2::1]:7", "alice"));
    }

    #[test]
    fn nothing_is_counted_where_it_is_turned_off() {
        let backoff = Backoff::new(1, 0);
        for _ in 0..1000 {
            assert_eq!(backoff.failed(0, EVIL, "alice"), Penalty::default());
        }
        assert!(!backoff.refuses(0, EVIL, "alice"));
    }
}
