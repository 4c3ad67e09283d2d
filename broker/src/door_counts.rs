//! How many sockets each listener has open, has opened, and turned away.
//!
//! Shared by all threads, touched once or twice in the life of a socket. Listeners are known by their names, so what was counted
//! stays when one is closed and opened again; there are as many as were ever in the configuration.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::settings::{ListenerProtocol, ListenerSettings};

/// The counts of all listeners.
#[derive(Debug, Default)]
pub struct DoorCounts(Mutex<Vec<Arc<DoorCount>>>);

/// The counts of one listener, of all its endpoints.
#[derive(Debug)]
pub struct DoorCount {
    /// As the metrics call it.
    pub name: Box<str>,
    pub protocol: ListenerProtocol,
    open: AtomicU64,
    opened: AtomicU64,
    turned_away: AtomicU64,
}

/// Counts one open socket for as long as it lives.
#[derive(Debug)]
pub struct Counted(Arc<DoorCount>);

impl DoorCounts {
    /// Those of this listener.
    pub fn of(&self, listener: &ListenerSettings) -> Arc<DoorCount> {
        let name = listener.label();
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = counts
            .iter()
            .find(|count| *count.name == *name && count.protocol == listener.protocol);
        if let Some(known) = known {
            return Arc::clone(known);
        }
        let count = Arc::new(DoorCount {
            name,
            protocol: listener.protocol,
            open: AtomicU64::new(0),
            opened: AtomicU64::new(0),
            turned_away: AtomicU64::new(0),
        });
        counts.push(Arc::clone(&count));
        count
    }

    pub fn all(&self) -> Vec<Arc<DoorCount>> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.clone()
    }

    /// Open connections of MQTT, of all listeners.
    pub fn clients(&self) -> u64 {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_clients = counts.iter().filter(|count| count.is_for_clients());
        of_clients.map(|count| count.open()).sum()
    }
}

impl DoorCount {
    pub fn count(self: &Arc<Self>) -> Counted {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.opened.fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(self))
    }

    /// A socket was closed before anything was read from it.
    pub fn count_turned_away(&self) {
        self.turned_away.fetch_add(1, Ordering::Relaxed);
    }

    pub fn is_for_clients(&self) -> bool {
        self.protocol != ListenerProtocol::HttpApi
    }

    pub fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    pub fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    pub fn turned_away(&self) -> u64 {
        self.turned_away.load(Ordering::Relaxed)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_that_comes_back_goes_on_counting() {
        let counts = DoorCounts::default();
        let named = |name: &str| ListenerSettings {
            name: Some(name.into()),
            ..ListenerSettings::default()
        };
        let first = counts.of(&named("a")).count();
        let second = counts.of(&named("b")).count();
        drop(first);
        let _third = counts.of(&named("a")).count();
        let told = counts.all();
        let told: Vec<_> = told.iter().map(|of| (of.open(), of.opened())).collect();
        assert_eq!(told, [(1, 2), (1, 1)]);
        assert_eq!(counts.clients(), 2);
        drop(second);
        assert_eq!(counts.clients(), 1);
    }
}
