//! The redb engine keeps the contract, on a disk that loses what was not synced and on the real one, and says clearly
//! what it cannot open.

mod support;

use nightjar_storage::Options;
use nightjar_storage::contract::{
    checkpoint_contract, full_contract, journal_contract, random_contract,
};
use support::OnDisk;

#[test]
fn redb_engine_keeps_the_journal_contract() {
    journal_contract(|| OnDisk::new(Options::default()));
}

#[test]
fn redb_engine_keeps_the_checkpoint_contract() {
    checkpoint_contract(|| OnDisk::new(Options::default()));
}

#[test]
fn redb_engine_keeps_the_random_contract() {
    random_contract(|| OnDisk::new(Options::default()), 0..SEEDS);
}

#[test]
fn redb_engine_with_a_small_bound_is_full_in_time() {
    full_contract(|| {
        OnDisk::new(Options {
            pending_bytes_max: 10_000,
            ..Options::default()
        })
    });
}

const SEEDS: u64 = 30;
