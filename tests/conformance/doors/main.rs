//! The doors: what listeners are asked for, what comes before MQTT, and what is refused there.
//!
//! `http_api` is Mosquitto's, `key_log` what a listener to captured traffic needs, `options` is what holds for the clients of one listener, `web_socket` the upgrade and the frames in raw bytes, `proxy` the
//! PROXY header, `unix` the socket in the file system. Each against the running broker.

mod http_api;
mod key_log;
mod options;
mod proxy;
mod unix;
mod web_socket;

use harness::{Broker, Options};

/// A broker with one listener on `{port}` that has these keys, and lets everybody in. Its shard accepts by itself; the brokers of
/// `options` have as many shards as there are CPUs.
fn with_listener(keys: &str) -> Options {
    let text = format!(
        "allow_anonymous = true\nshards = 1\n[[listeners]]\naddress = \"127.0.0.1:{{port}}\"\n{keys}\n"
    );
    Broker::options().toml(&text)
}
