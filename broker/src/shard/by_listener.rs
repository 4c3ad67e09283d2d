//! What the connections of each listener did, in numbers.
//!
//! A connection knows the place of its listener here, so counting is an addition.

use std::sync::Arc;

use super::Shard;
use crate::session::counters::{ByListener, Counters, Numbers};
use crate::settings::ListenerSettings;

/// The listeners that connections of this shard came in through, in the order of their first one.
#[derive(Default)]
pub(super) struct Listeners(Vec<(Arc<str>, ByListener)>);

/// Where a listener stands in `Listeners`.
#[derive(Clone, Copy)]
pub(super) struct ListenerPlace(u32);

impl Listeners {
    pub(super) fn place_of(&mut self, listener: &ListenerSettings) -> ListenerPlace {
        let name = listener.label();
        let known = self.0.iter().position(|(known, _)| **known == *name);
        let place = known.unwrap_or_else(|| {
            self.0.push((name.into(), ByListener::default()));
            self.0.len() - 1
        });
        ListenerPlace(u32::try_from(place).expect("a broker has fewer than 4 billion listeners"))
    }

    #[inline]
    pub(super) fn at(&mut self, place: ListenerPlace) -> &mut ByListener {
        // Places are given out by this, and nothing is ever removed.
        let (_, of_listener) = &mut self.0[place.0 as usize];
        of_listener
    }
}

impl Shard {
    /// What was counted here.
    pub fn counters(&self) -> &Counters {
        &self.sinks.counters
    }

    /// All of it, for the metrics.
    pub fn numbers(&self) -> Numbers {
        Numbers {
            counters: self.sinks.counters,
            listeners: self.listeners.0.clone(),
            inflight_outbound: self.inflight_gauges.outbound.value(),
            inflight_inbound: self.inflight_gauges.inbound.value(),
        }
    }
}
