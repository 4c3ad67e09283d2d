//! Who gets a topic, remembered by a shard for the topics it has met.

use std::rc::Rc;

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use crate::exchange::Exchange;
use crate::exchange::delivery::Route;
use crate::identity::ShardId;

/// Routes by topic, as long as they hold.
pub(super) struct RouteCache {
    routes: HashMap<Box<str>, Rc<Route>, FixedState>,
    /// Deliveries in all cached routes, and bytes of their topics: what the cache really weighs.
    deliveries: usize,
    topic_bytes: usize,
}

impl RouteCache {
    pub(super) fn new(hasher: FixedState) -> Self {
        Self {
            routes: HashMap::with_hasher(hasher),
            deliveries: 0,
            topic_bytes: 0,
        }
    }

    /// Who gets this topic on this shard.
    pub(super) fn get(&mut self, topic: &str, exchange: &Exchange, shard: ShardId) -> Rc<Route> {
        if let Some(route) = self.routes.get(topic)
            && route.is_current(exchange)
        {
            return Rc::clone(route);
        }
        if self.routes.len() >= ROUTES_MAX
            || self.deliveries >= DELIVERIES_MAX
            || self.topic_bytes >= TOPIC_BYTES_MAX
        {
            self.routes.clear();
            self.deliveries = 0;
            self.topic_bytes = 0;
        }
        let route = Rc::new(Route::resolve(exchange, topic, shard));
        self.deliveries += route.len();
        self.topic_bytes += topic.len();
        if let Some(old) = self.routes.insert(topic.into(), Rc::clone(&route)) {
            self.deliveries -= old.len();
            self.topic_bytes -= topic.len();
        }
        route
    }
}

const ROUTES_MAX: usize = 16 * 1024;
const DELIVERIES_MAX: usize = 1024 * 1024;
const TOPIC_BYTES_MAX: usize = 4 * 1024 * 1024;
