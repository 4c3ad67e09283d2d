//! `$CONTROL/broker/v1`: who may ask the broker, what it answers, and that nobody else hears it.

use std::fs;

use harness::{Broker, Client, Connect, TemporaryDirectory, bytes, free_port, hex, packet};
use serde_json::{Value, json};

use crate::scenario::play_with_rules;

/// `root` may ask and read; `mute` may ask, and read everything but what is answered.
const RULES: &str = "user root; topic readwrite $CONTROL/broker/#; topic readwrite #; \
    user mute; topic write $CONTROL/broker/v1; topic read #; \
    user curious; topic read $CONTROL/#; topic readwrite #";
const ON: &str = "control_api = true\nacl_subscribe = \"mosquitto\"\n";

#[test]
fn a_mosquitto_conf_with_enable_control_api_tells_its_listeners() {
    let directory = TemporaryDirectory::new("control");
    fs::create_dir(directory.path()).unwrap();
    let (rules, socket) = (directory.path().join("acl"), directory.path().join("s"));
    fs::write(&rules, "topic readwrite $CONTROL/broker/#\n").unwrap();
    let web = free_port();
    let broker = Broker::options()
        .mosquitto_conf(&format!(
            "enable_control_api true\nallow_anonymous true\nacl_file {}\nlistener {{port}} 127.0.0.1\n\
             listener {web} 127.0.0.1\nprotocol websockets\nlistener 0 {}\n",
            rules.display(),
            socket.display()
        ))
        .start();
    assert!(!broker.log().contains("enable_control_api"));
    let mut client = Client::connect_v4(&broker, "c");
    client.send(&packet("82", "m1 s'$CONTROL/broker/#' 00"));
    client.expect("90 03 m1 00");
    let listeners = json!([
        { "port": broker.port, "protocol": "mqtt", "bind-address": "127.0.0.1", "tls": false },
        { "port": web, "protocol": "mqtt+websockets", "bind-address": "127.0.0.1", "tls": false },
        { "port": 0, "protocol": "mqtt", "socket-path": socket.to_str().unwrap(), "tls": false },
    ]);
    for (request, response) in [
        (
            json!({ "commands": [{ "command": "listListeners", "correlationData": "x" }] }),
            json!({ "command": "listListeners", "data": { "listeners": listeners }, "correlationData": "x" }),
        ),
        (
            json!({ "commands": [{ "command": "listPlugins" }] }),
            json!({ "command": "listPlugins", "data": { "plugins": [] } }),
        ),
        (
            json!({ "commands": [{ "command": "deleteAll" }] }),
            json!({ "command": "deleteAll", "error": "Unknown command" }),
        ),
        (
            json!({ "commands": [[[]]] }),
            json!({ "command": "Unknown command", "error": "Command not an object" }),
        ),
    ] {
        let told = ask(&mut client, &request.to_string());
        assert_eq!(told, json!({ "responses": [response] }), "{request}");
    }
    for (request, error) in [
        ("{", "Payload not valid JSON".to_owned()),
        (&*" ".repeat(16_385), "Payload too large".to_owned()),
        (
            &*format!("{{\"commands\":[0{}]}}", ",0".repeat(16)),
            "Too many commands".to_owned(),
        ),
    ] {
        assert_eq!(ask(&mut client, request)["responses"][0]["error"], error);
    }
    client.expect_nothing_until_pingresp();
}

/// The response is QoS 0, whatever the QoS of the request and of the subscription.
#[test]
fn who_asks_is_answered_alone_and_acknowledged() {
    let told = r#"{"responses":[{"command":"x","error":"Unknown command"}]}"#;
    let answer = format!("s'$CONTROL/broker/v1/response' [] {}", hex(told.as_bytes()));
    let ask = hex(br#"{"commands":[{"command":"x"}]}"#);
    let request = "s'$CONTROL/broker/v1'";
    play_with_rules(
        RULES,
        ON,
        &format!(
            "o connect v5 user=root
             o > 82 m1 [] s'$CONTROL/broker/#' 02 s'#' 02
             o < 90 m1 [] 02 02
             a connect v5 user=root
             a > 82 m1 [] s'$CONTROL/broker/v1/response' 06
             a < 90 m1 [] 02
             a > 31 {request} [] {ask}
             a < 30 {answer}
             a > 32 {request} m2 [] {ask}
             a < 30 {answer}
             a < 40 m2
             a > 34 {request} m3 [] {ask}
             a < 30 {answer}
             a < 50 m3
             a > 3c {request} m3 [] {ask}
             a < 50 m3
             a > 62 m3
             a < 70 m3
             a > 30 {request} [23 H1] {ask} ; 30 s'' [23 H1] {ask}
             a < 30 {answer}
             a < 30 {answer}
             a quiet
             o quiet
             n connect v5 user=root
             n > 32 {request} m1 [] {ask}
             n < 40 m1
             n > 82 m2 [] s'$CONTROL/broker/#' 00
             n < 90 m2 [] 00
             n quiet"
        ),
    );
}

#[test]
fn who_may_not_ask_or_not_read_hears_nothing() {
    let request = "s'$CONTROL/broker/v1' m2 [] '{}'";
    let subscribe = "82 m1 [] s'$CONTROL/broker/v1/response' 00";
    play_with_rules(
        RULES,
        ON,
        &format!(
            "c connect v5 user=curious
             c > {subscribe}
             c < 90 m1 [] 00
             c > 32 {request}
             c < 40 m2 87
             c quiet
             m connect v5 user=mute
             m > {subscribe}
             m < 90 m1 [] 00
             m > 32 {request}
             m < 40 m2
             m quiet
             r connect v5 user=root
             r > 32 s'$CONTROL/broker/v1/response' m1 [] 'x' ; 32 s'$CONTROL/broker/v2' m2 [] 'x'
             r < 40 m1 87
             r < 40 m2 87
             r > 32 s'$CONTROL/broker/v1/' m3 [] 'x' ; 32 s'$CONTROL' m4 [] 'x'
             r < 40 m3 87
             r < 40 m4 87"
        ),
    );
}

#[test]
fn without_the_option_or_without_rules_nobody_may_ask() {
    let request = packet("32", "s'$CONTROL/broker/v1' m1 00 '{}'");
    let scenario = "a connect v5 user=root
                    a > 32 s'$CONTROL/broker/v1' m1 [] '{}'
                    a < 40 m1 87";
    play_with_rules(RULES, "", scenario);
    let mut broker = Broker::options().toml("control_api = true\n").start();
    broker.wait_for_log("Nobody may publish to $CONTROL/broker/v1");
    let mut client = Client::connect(&broker, &Connect::v5("c"));
    client.send(&request);
    client.expect_bytes(&bytes("40 03 m1 87"));
}

/// Below a mount point the topic is another one.
#[test]
fn a_client_below_a_mount_point_does_not_ask_the_broker() {
    let directory = TemporaryDirectory::new("control");
    fs::create_dir(directory.path()).unwrap();
    let rules = directory.path().join("acl");
    fs::write(&rules, "topic readwrite #\ntopic readwrite $CONTROL/#\n").unwrap();
    let broker = Broker::options()
        .toml(&format!(
            "control_api = true\nallow_anonymous = true\nacl_file = {rules:?}\n[[listeners]]\n\
             address = \"127.0.0.1:{{port}}\"\nmount_point = \"m/\"\n"
        ))
        .start();
    let mut client = Client::connect(&broker, &Connect::v5("c"));
    client.send(&packet("32", "s'$CONTROL/broker/v1' m1 00 '{}'"));
    client.expect("40 03 m1 87");
}

/// The response to a request of QoS 0.
#[track_caller]
fn ask(client: &mut Client, request: &str) -> Value {
    let topic = "$CONTROL/broker/v1";
    client.send(&packet("30", &format!("s'{topic}' '{request}'")));
    let response = client.receive_packet();
    let json = response.iter().position(|byte| *byte == b'{').unwrap();
    let topic = format!("{topic}/response");
    assert!(response[..json].ends_with(topic.as_bytes()));
    serde_json::from_slice(&response[json..]).unwrap()
}
