//! A load generator for MQTT brokers that costs far less per message than the broker it measures.
//!
//! Comes in: a command (`arguments`). Goes out: an `outcome`. There are two kinds of scenario. Streams of messages
//! (`scenario`, reported by `report`): one thread opens every connection (`connection`), drives all of them from one
//! readiness loop (`engine`), and keeps the books per publisher and subscriber (`accounting`). What has several phases
//! (`work`, reported by `sheet`) opens and closes connections while it measures (`fleet`, `meter`) and knows the number
//! of its messages before (`ledger`). `transport` and `tls` are the
//! ways there: TCP, TLS, WebSocket. `frame` and `packet` are the few bytes of MQTT this needs, and `relay` is the
//! cheapest thing that looks like a broker: what the generator does against it is the generator's own ceiling.
//!
//! It deliberately does not check the protocol: a broker's conformance is the business of the tests.

pub mod accounting;
pub mod arguments;
pub mod clock;
pub mod compare;
pub mod connection;
pub mod engine;
pub mod fleet;
pub mod frame;
pub mod html;
pub mod ledger;
pub mod meter;
pub mod outcome;
pub mod packet;
pub mod plot;
pub mod poster;
pub mod process;
pub mod progress;
pub mod publisher;
pub mod relay;
pub mod report;
pub mod scenario;
pub mod sheet;
pub mod stamp;
pub mod subscriber;
pub mod tls;
pub mod transport;
pub mod work;
