//! A load generator for MQTT brokers that costs far less per message than the broker it measures.
//!
//! Comes in: a scenario (`scenario`), from the command line (`arguments`). Goes out: a `report`. In between one thread
//! opens every connection (`connection`), drives all of them from one readiness loop (`engine`), and keeps the books
//! per publisher and subscriber (`accounting`). `frame` and `packet` are the few bytes of MQTT this needs, and `relay` is
//! the cheapest thing that looks like a broker: what the generator does against it is the generator's own ceiling.
//!
//! It deliberately does not check the protocol: a broker's conformance is the business of the tests.

pub mod accounting;
pub mod arguments;
pub mod clock;
pub mod connection;
pub mod engine;
pub mod frame;
pub mod packet;
pub mod process;
pub mod publisher;
pub mod relay;
pub mod report;
pub mod scenario;
pub mod stamp;
pub mod subscriber;
