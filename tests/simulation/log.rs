//! What happened in a world, in words; kept only when a seed is replayed, because writing it costs more than the world.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

thread_local! {
    static EVENTS: RefCell<VecDeque<String>> = const { RefCell::new(VecDeque::new()) };
    static WANTED: Cell<usize> = const { Cell::new(0) };
    static NOW: Cell<u64> = const { Cell::new(0) };
    /// Every line mixed into one number, so that two runs can be compared.
    static DIGEST: Cell<u64> = const { Cell::new(0) };
}

/// Keeps the last `lines` from here on; 0 keeps none.
pub(crate) fn keep(lines: usize) {
    WANTED.set(lines);
    DIGEST.set(0);
    EVENTS.with_borrow_mut(VecDeque::clear);
}

pub(crate) fn set_now(now: u64) {
    NOW.set(now);
}

/// One event. `words` is only asked where somebody will read it.
pub(crate) fn log(words: impl FnOnce() -> String) {
    if WANTED.get() == 0 {
        return;
    }
    let now = NOW.get();
    let line = format!("{:>6}.{:03}  {}", now / 1000, now % 1000, words());
    let mut digest = DIGEST.get();
    for byte in line.bytes() {
        digest = (digest ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    DIGEST.set(digest);
    EVENTS.with_borrow_mut(|events| {
        if events.len() == WANTED.get() {
            events.pop_front();
        }
        events.push_back(line);
    });
}

/// The last lines, oldest first.
pub(crate) fn last() -> Vec<String> {
    EVENTS.with_borrow(|events| events.iter().cloned().collect())
}

pub(crate) fn digest() -> u64 {
    DIGEST.get()
}
