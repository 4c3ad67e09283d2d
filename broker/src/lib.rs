//! Nightjar: an MQTT broker for 3.1, 3.1.1 and 5.0.
//!
//! Rooms, in the order in which a packet walks through them: `listener` accepts, `connection` reads and writes (through
//! `transport`: TCP, a Unix socket, WebSocket), `shard` is
//! the pump that everything one thread serves goes through, `session` is what MQTT asks of one client, `exchange` is where
//! messages meet subscriptions; `auth` says who somebody is. `session`, `exchange` and `shard` are pure: time comes in, nothing waits.

pub mod acl;
pub mod auth;
pub mod authorization;
pub mod certificates;
pub mod cli;
pub mod clock;
pub mod config;
pub mod connection;
pub mod control;
pub mod data;
pub mod door_counts;
pub mod doors;
pub mod exchange;
pub mod health;
pub mod http;
pub mod http_api;
pub mod identity;
pub mod listener;
pub mod logging;
pub mod manual;
pub mod message;
pub mod metrics;
pub mod process;
mod refusals;
pub mod reload;
pub mod server;
pub mod session;
pub mod settings;
pub mod shard;
pub mod store;
pub mod sys_topics;
pub mod transport;
pub mod worker;
