//! `$CONTROL/broker/v1`: what the broker tells of itself to clients, in Mosquitto's words.
//!
//! In: the payload of a request and the settings in force. Out: the payload of its response, always one. Nothing can be changed
//! here. Who may ask is decided in `session/publish.rs`, who hears the response in `shard/control.rs`.
//!
//! ```text
//! {"commands":[{"command":"listPlugins","correlationData":"x"}]}
//! {"responses":[{"command":"listPlugins","data":{"plugins":[]},"correlationData":"x"}]}
//! ```

use serde_json::{Value, json};

use crate::settings::{Endpoint, ListenerProtocol, ListenerSettings, Settings};

pub const REQUEST_TOPIC: &str = "$CONTROL/broker/v1";
pub const RESPONSE_TOPIC: &str = "$CONTROL/broker/v1/response";

/// Answers each command in its place, up to one that is none.
pub fn answer(request: &[u8], settings: &Settings) -> Vec<u8> {
    let mut responses = Vec::new();
    let result = match commands(request) {
        Ok(commands) => commands.iter().try_for_each(|command| {
            responses.push(execute(command, settings)?);
            Ok(())
        }),
        Err(error) => Err(refusal(UNKNOWN, error)),
    };
    responses.extend(result.err());
    let payload = json!({ "responses": responses });
    payload.to_string().into_bytes()
}

fn commands(request: &[u8]) -> Result<Vec<Value>, &'static str> {
    if request.len() > REQUEST_BYTES_MAX {
        return Err("Payload too large");
    }
    // serde_json refuses what is nested deeper than 128 levels.
    let mut request: Value =
        serde_json::from_slice(request).map_err(|_| "Payload not valid JSON")?;
    match request.get_mut("commands").map(Value::take) {
        Some(Value::Array(commands)) if commands.len() > COMMANDS_MAX => Err("Too many commands"),
        Some(Value::Array(commands)) => Ok(commands),
        _ => Err("Invalid/missing commands"),
    }
}

/// `Err`: the response to what is no command; those behind it are not looked at.
fn execute(command: &Value, settings: &Settings) -> Result<Value, Value> {
    if !command.is_object() {
        return Err(refusal(UNKNOWN, "Command not an object"));
    }
    let Some(Value::String(name)) = command.get("command") else {
        return Err(refusal(UNKNOWN, "Missing command"));
    };
    let correlation_data = command.get("correlationData");
    if correlation_data.is_some_and(|data| !data.is_string()) {
        return Err(refusal(name, "Invalid correlationData data type."));
    }
    let mut response = if name.eq_ignore_ascii_case("listListeners") {
        let listeners: Vec<_> = settings.listeners.iter().map(|it| describe(it)).collect();
        json!({ "command": "listListeners", "data": { "listeners": listeners } })
    } else if name.eq_ignore_ascii_case("listPlugins") {
        json!({ "command": "listPlugins", "data": { "plugins": [] } })
    } else {
        refusal(name, UNKNOWN)
    };
    if let Some(correlation_data) = correlation_data {
        response["correlationData"] = correlation_data.clone();
    }
    Ok(response)
}

fn describe(listener: &ListenerSettings) -> Value {
    let protocol = match listener.protocol {
        ListenerProtocol::Mqtt => "mqtt",
        ListenerProtocol::WebSocket => "mqtt+websockets",
        ListenerProtocol::HttpApi => "httpapi",
    };
    let mut told = json!({ "port": 0, "protocol": protocol, "tls": listener.speaks_tls() });
    match listener.endpoints.first() {
        Some(Endpoint::Tcp(address)) => {
            told["port"] = address.port().into();
            if !address.ip().is_unspecified() {
                told["bind-address"] = address.ip().to_string().into();
            }
        }
        Some(Endpoint::Unix(path)) => told["socket-path"] = path.to_string_lossy().into(),
        None => {}
    }
    told
}

fn refusal(command: &str, error: &str) -> Value {
    json!({ "command": command, "error": error })
}

/// The error of a command that is not known, and the name of one that has none.
const UNKNOWN: &str = "Unknown command";
/// A request is read whole, by a thread that serves clients.
const REQUEST_BYTES_MAX: usize = 16 * 1024;
/// Each may be answered with all listeners.
const COMMANDS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_command_is_answered_with_an_error_and_ends_the_request() {
        let many = format!(r#"{{"commands":[{}{{}}]}}"#, "{},".repeat(COMMANDS_MAX));
        let long = " ".repeat(REQUEST_BYTES_MAX + 1);
        let deep = format!(r#"{{"commands":{}"#, "[".repeat(10_000));
        for (request, command, error) in [
            ("", UNKNOWN, "Payload not valid JSON"),
            ("not valid json", UNKNOWN, "Payload not valid JSON"),
            (&*deep, UNKNOWN, "Payload not valid JSON"),
            (&*long, UNKNOWN, "Payload too large"),
            ("{}", UNKNOWN, "Invalid/missing commands"),
            ("[]", UNKNOWN, "Invalid/missing commands"),
            (r#"{"commands":{}}"#, UNKNOWN, "Invalid/missing commands"),
            (&*many, UNKNOWN, "Too many commands"),
            (r#"{"commands":[1]}"#, UNKNOWN, "Command not an object"),
            (r#"{"commands":[{}]}"#, UNKNOWN, "Missing command"),
            (
                r#"{"commands":[{"command":1}]}"#,
                UNKNOWN,
                "Missing command",
            ),
            (
                r#"{"commands":[{"command":"listListeners","correlationData":true},{"command":"x"}]}"#,
                "listListeners",
                "Invalid correlationData data type.",
            ),
            (r#"{"commands":[{"command":"x"}]}"#, "x", "Unknown command"),
        ] {
            let expected = json!({ "responses": [{ "command": command, "error": error }] });
            assert_eq!(answered(request), expected, "{request}");
        }
    }

    #[test]
    fn commands_are_answered_in_their_order_with_what_they_are_correlated_by() {
        let request = r#"{"commands":[
            {"command":"LISTPLUGINS","correlationData":"a"},
            {"command":"nothing","correlationData":"b"},
            {"command":"listListeners"}]}"#;
        let listener = |address: &str| json!({ "port": 1883, "protocol": "mqtt", "bind-address": address, "tls": false });
        let expected = json!({ "responses": [
            { "command": "listPlugins", "data": { "plugins": [] }, "correlationData": "a" },
            { "command": "nothing", "error": "Unknown command", "correlationData": "b" },
            { "command": "listListeners", "data": { "listeners": [listener("127.0.0.1"), listener("::1")] } },
        ] });
        assert_eq!(answered(request), expected);
    }

    fn answered(request: &str) -> Value {
        serde_json::from_slice(&answer(request.as_bytes(), &Settings::default())).unwrap()
    }
}
