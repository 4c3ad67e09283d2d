//! Conformance: what the OASIS standards demand of a server, each statement by raw bytes over TCP against the running broker.
//!
//! One file a chapter of behaviour, named as in `broker/src/session/`. A test is named after its statement: `mqtt_3_3_1_2_...` is
//! [MQTT-3.3.1-2] of 5.0, `v3_mqtt_3_3_1_9_...` is [v3 MQTT-3.3.1-9] of 3.1.1. `statements.toml` names every statement with its tests,
//! and `tests/tidy` keeps it true. A test is a scenario, the words of which `scenario.rs` explains.

mod acknowledge;
mod auth;
mod authorize;
mod connect;
mod control;
mod disconnect;
mod durable;
mod flow_control;
mod ping;
mod publish;
mod retained;
mod scenario;
mod session;
mod shared;
mod subscribe;
mod topic_alias;
mod unsubscribe;
mod will;
