//! Adapter: rumqttc, 3.1.1 and 5.0. The conversation with the runner is described in `driver.py`.
//!
//! Comes in: requests as JSON lines on stdin. Goes out: answers and events as JSON lines on stdout. One task polls each event loop;
//! it never polls again after an error, because that would reconnect.

use std::collections::{HashMap, VecDeque};
use std::io::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS as QosV5;
use rumqttc::v5::mqttbytes::v5 as packet_v5;
use rumqttc::{Outgoing, QoS, v5};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::sync::oneshot;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let clients: Arc<Mutex<HashMap<String, Arc<Handle>>>> = Arc::default();
    while let Ok(Some(line)) = lines.next_line().await {
        let request: Value = serde_json::from_str(&line).expect("the runner writes JSON");
        let clients = Arc::clone(&clients);
        tokio::spawn(async move {
            let id = request["id"].clone();
            match handle(&clients, &request).await {
                Ok(answer) => say(&json!({ "id": id, "ok": answer })),
                Err(error) => say(&json!({ "id": id, "error": error })),
            }
        });
    }
}

async fn handle(
    clients: &Mutex<HashMap<String, Arc<Handle>>>,
    request: &Value,
) -> Result<Value, String> {
    let name = request["client"].as_str().unwrap_or_default().to_owned();
    let op = request["op"].as_str().unwrap_or_default();
    if op == "hello" {
        return Ok(json!({}));
    }
    if op == "connect" {
        let (client, answer) = Handle::connect(&name, request).await?;
        clients.lock().unwrap().insert(name, client);
        return Ok(answer);
    }
    let client = clients.lock().unwrap().get(&name).cloned();
    let client = client.ok_or("no such client")?;
    match op {
        "subscribe" => client.subscribe(request).await,
        "unsubscribe" => client.unsubscribe(request).await,
        "publish_many" => client.publish_many(request).await,
        "disconnect" => client.disconnect().await,
        other => Err(format!("unknown op {other}")),
    }
}

/// One client, and who waits for which of its acknowledgements.
struct Handle {
    client: AnyClient,
    waiting: Mutex<Waiting>,
}

enum AnyClient {
    V4(rumqttc::AsyncClient),
    V5(v5::AsyncClient),
}

type Answer = oneshot::Sender<Result<Value, String>>;

/// rumqttc tells the packet id of what it sent in an event, in the order in which it was asked.
#[derive(Default)]
struct Waiting {
    connack: Option<Answer>,
    disconnected: Option<Answer>,
    asked: VecDeque<Answer>,
    sent: HashMap<u16, Answer>,
    ended: bool,
}

impl Handle {
    async fn connect(name: &str, request: &Value) -> Result<(Arc<Self>, Value), String> {
        let (connack, connected) = oneshot::channel();
        let waiting = Mutex::new(Waiting {
            connack: Some(connack),
            ..Waiting::default()
        });
        let client = if request["protocol_version"] == 5 {
            let (client, event_loop) = v5::AsyncClient::new(options_v5(request), CHANNEL);
            let client = Arc::new(Self {
                client: AnyClient::V5(client),
                waiting,
            });
            tokio::spawn(poll_v5(name.to_owned(), Arc::clone(&client), event_loop));
            client
        } else {
            let (client, event_loop) = rumqttc::AsyncClient::new(options_v4(request), CHANNEL);
            let client = Arc::new(Self {
                client: AnyClient::V4(client),
                waiting,
            });
            tokio::spawn(poll_v4(name.to_owned(), Arc::clone(&client), event_loop));
            client
        };
        let answer = connected.await.map_err(text)??;
        Ok((client, answer))
    }

    async fn subscribe(&self, request: &Value) -> Result<Value, String> {
        let filters = request["filters"].as_array().cloned().unwrap_or_default();
        let answer = self.ask()?;
        match &self.client {
            AnyClient::V4(client) => {
                let filters = filters.iter().map(|filter| {
                    rumqttc::SubscribeFilter::new(string(filter, "topic_filter"), qos(filter))
                });
                client.subscribe_many(filters).await.map_err(text)?;
            }
            AnyClient::V5(client) => {
                let filters = filters.iter().map(|filter| packet_v5::Filter {
                    path: string(filter, "topic_filter"),
                    qos: qos_v5(filter),
                    nolocal: filter["no_local"] == true,
                    preserve_retain: filter["retain_as_published"] == true,
                    retain_forward_rule: match filter["retain_handling"].as_u64() {
                        Some(1) => packet_v5::RetainForwardRule::OnNewSubscribe,
                        Some(2) => packet_v5::RetainForwardRule::Never,
                        _ => packet_v5::RetainForwardRule::OnEverySubscribe,
                    },
                });
                let properties = packet_v5::SubscribeProperties {
                    id: request["subscription_identifier"]
                        .as_u64()
                        .and_then(|id| id.try_into().ok()),
                    user_properties: Vec::new(),
                };
                client
                    .subscribe_many_with_properties(filters, properties)
                    .await
                    .map_err(text)?;
            }
        }
        Ok(json!({ "reason_codes": answer.await.map_err(text)?? }))
    }

    async fn unsubscribe(&self, request: &Value) -> Result<Value, String> {
        for filter in request["filters"].as_array().into_iter().flatten() {
            let filter = filter.as_str().unwrap_or_default();
            let answer = self.ask()?;
            match &self.client {
                AnyClient::V4(client) => client.unsubscribe(filter).await.map_err(text)?,
                AnyClient::V5(client) => client.unsubscribe(filter).await.map_err(text)?,
            }
            answer.await.map_err(text)??;
        }
        Ok(json!({}))
    }

    async fn publish_many(&self, request: &Value) -> Result<Value, String> {
        let mut answers = Vec::new();
        for message in request["messages"].as_array().into_iter().flatten() {
            let (topic, payload) = (string(message, "topic"), payload(message));
            let retain = message["retain"] == true;
            answers.push(self.ask()?);
            match &self.client {
                AnyClient::V4(client) => client
                    .publish(topic, qos(message), retain, payload)
                    .await
                    .map_err(text)?,
                AnyClient::V5(client) => {
                    let properties = publish_properties(&message["properties"]);
                    client
                        .publish_with_properties(
                            topic,
                            qos_v5(message),
                            retain,
                            payload,
                            properties,
                        )
                        .await
                        .map_err(text)?;
                }
            }
        }
        for answer in answers {
            answer.await.map_err(text)??;
        }
        Ok(json!({}))
    }

    async fn disconnect(&self) -> Result<Value, String> {
        let (answer, disconnected) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock().unwrap();
            if waiting.ended {
                return Ok(json!({}));
            }
            waiting.disconnected = Some(answer);
        }
        match &self.client {
            AnyClient::V4(client) => client.disconnect().await.map_err(text)?,
            AnyClient::V5(client) => client.disconnect().await.map_err(text)?,
        }
        disconnected.await.map_err(text)?
    }

    /// A place in the queue of those who wait for an acknowledgement.
    fn ask(&self) -> Result<oneshot::Receiver<Result<Value, String>>, String> {
        let (answer, acknowledged) = oneshot::channel();
        let mut waiting = self.waiting.lock().unwrap();
        if waiting.ended {
            return Err("connection ended".to_owned());
        }
        waiting.asked.push_back(answer);
        Ok(acknowledged)
    }

    fn sent(&self, packet_id: u16) {
        let mut waiting = self.waiting.lock().unwrap();
        let Some(answer) = waiting.asked.pop_front() else {
            return;
        };
        if packet_id == 0 {
            // QoS 0 has nothing to wait for.
            let _ = answer.send(Ok(json!(null)));
        } else {
            waiting.sent.insert(packet_id, answer);
        }
    }

    fn acknowledged(&self, packet_id: u16, answer: Result<Value, String>) {
        if let Some(waiting) = self.waiting.lock().unwrap().sent.remove(&packet_id) {
            let _ = waiting.send(answer);
        }
    }

    fn connected(&self, answer: Value) {
        if let Some(waiting) = self.waiting.lock().unwrap().connack.take() {
            let _ = waiting.send(Ok(answer));
        }
    }

    /// The end of the connection answers everybody.
    fn end(&self, name: &str, reason_code: Option<u8>, detail: &str) {
        let mut waiting = self.waiting.lock().unwrap();
        waiting.ended = true;
        if let Some(answer) = waiting.disconnected.take() {
            let _ = answer.send(Ok(json!({})));
        }
        let rest: Vec<Answer> = waiting.asked.drain(..).collect();
        let sent: Vec<Answer> = waiting.sent.drain().map(|(_, answer)| answer).collect();
        for answer in waiting.connack.take().into_iter().chain(rest).chain(sent) {
            let _ = answer.send(Err(format!("connection ended: {detail}")));
        }
        say(
            &json!({ "event": "closed", "client": name, "reason_code": reason_code, "detail": detail }),
        );
    }
}

async fn poll_v4(name: String, handle: Arc<Handle>, mut event_loop: rumqttc::EventLoop) {
    use rumqttc::{Event, Packet};
    loop {
        match event_loop.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(connack))) => handle.connected(json!({
                "session_present": connack.session_present,
                "reason_code": connack.code as u8,
            })),
            Ok(Event::Incoming(Packet::Publish(publish))) => say(&json!({
                "event": "message",
                "client": name,
                "topic": publish.topic,
                "payload": to_hex(&publish.payload),
                "qos": publish.qos as u8,
                "retain": publish.retain,
                "dup": publish.dup,
            })),
            Ok(Event::Incoming(Packet::SubAck(suback))) => {
                let codes: Vec<u8> = suback
                    .return_codes
                    .iter()
                    .map(|code| match code {
                        rumqttc::SubscribeReasonCode::Success(qos) => *qos as u8,
                        rumqttc::SubscribeReasonCode::Failure => 0x80,
                    })
                    .collect();
                handle.acknowledged(suback.pkid, Ok(json!(codes)));
            }
            Ok(Event::Incoming(Packet::UnsubAck(unsuback))) => {
                handle.acknowledged(unsuback.pkid, Ok(json!(null)));
            }
            Ok(Event::Incoming(Packet::PubAck(puback))) => {
                handle.acknowledged(puback.pkid, Ok(json!(null)));
            }
            Ok(Event::Incoming(Packet::PubComp(pubcomp))) => {
                handle.acknowledged(pubcomp.pkid, Ok(json!(null)));
            }
            Ok(Event::Outgoing(
                Outgoing::Publish(packet_id)
                | Outgoing::Subscribe(packet_id)
                | Outgoing::Unsubscribe(packet_id),
            )) => handle.sent(packet_id),
            Ok(Event::Outgoing(Outgoing::Disconnect)) => {
                drop(event_loop);
                return handle.end(&name, None, "disconnected");
            }
            Ok(_) => {}
            Err(error) => return handle.end(&name, None, &error.to_string()),
        }
    }
}

async fn poll_v5(name: String, handle: Arc<Handle>, mut event_loop: v5::EventLoop) {
    use packet_v5::Packet;
    use rumqttc::v5::{ConnectionError, Event, StateError};
    // The event of an aliased PUBLISH has an empty topic: its user has to know the alias.
    let mut topic_aliases = HashMap::new();
    loop {
        match event_loop.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(connack))) => {
                let properties = connack.properties.unwrap_or(NO_CONNACK_PROPERTIES);
                handle.connected(json!({
                    "session_present": connack.session_present,
                    "reason_code": connack.code as u8,
                    "properties": {
                        "assigned_client_id": properties.assigned_client_identifier,
                        "maximum_packet_size": properties.max_packet_size,
                    },
                }));
            }
            Ok(Event::Incoming(Packet::Publish(publish))) => {
                let mut topic = String::from_utf8_lossy(&publish.topic).into_owned();
                let properties = publish.properties.unwrap_or_default();
                if let Some(alias) = properties.topic_alias {
                    if topic.is_empty() {
                        topic = topic_aliases.get(&alias).cloned().unwrap_or_default();
                    } else {
                        topic_aliases.insert(alias, topic.clone());
                    }
                }
                say(&json!({
                    "event": "message",
                    "client": name,
                    "topic": topic,
                    "payload": to_hex(&publish.payload),
                    "qos": publish.qos as u8,
                    "retain": publish.retain,
                    "dup": publish.dup,
                    "properties": told(&properties),
                }));
            }
            Ok(Event::Incoming(Packet::SubAck(suback))) => {
                let codes: Vec<u8> = suback
                    .return_codes
                    .iter()
                    .map(|code| match code {
                        packet_v5::SubscribeReasonCode::Success(qos) => *qos as u8,
                        _ => 0x80,
                    })
                    .collect();
                handle.acknowledged(suback.pkid, Ok(json!(codes)));
            }
            Ok(Event::Incoming(Packet::UnsubAck(unsuback))) => {
                handle.acknowledged(unsuback.pkid, Ok(json!(null)));
            }
            Ok(Event::Incoming(Packet::PubAck(puback))) => {
                let answer = match puback.reason {
                    packet_v5::PubAckReason::Success
                    | packet_v5::PubAckReason::NoMatchingSubscribers => Ok(json!(null)),
                    refused => Err(format!("refused with {refused:?}")),
                };
                handle.acknowledged(puback.pkid, answer);
            }
            Ok(Event::Incoming(Packet::PubRec(pubrec))) => {
                use packet_v5::PubRecReason::{NoMatchingSubscribers, Success};
                if !matches!(pubrec.reason, Success | NoMatchingSubscribers) {
                    let error = format!("refused with {:?}", pubrec.reason);
                    handle.acknowledged(pubrec.pkid, Err(error));
                }
            }
            Ok(Event::Incoming(Packet::PubComp(pubcomp))) => {
                handle.acknowledged(pubcomp.pkid, Ok(json!(null)));
            }
            Ok(Event::Outgoing(
                Outgoing::Publish(packet_id)
                | Outgoing::Subscribe(packet_id)
                | Outgoing::Unsubscribe(packet_id),
            )) => handle.sent(packet_id),
            Ok(Event::Outgoing(Outgoing::Disconnect)) => {
                drop(event_loop);
                return handle.end(&name, None, "disconnected");
            }
            Ok(_) => {}
            Err(error) => {
                let reason_code = match &error {
                    ConnectionError::MqttState(StateError::ServerDisconnect {
                        reason_code,
                        ..
                    }) => Some(*reason_code as u8),
                    _ => None,
                };
                return handle.end(&name, reason_code, &error.to_string());
            }
        }
    }
}

fn options_v4(request: &Value) -> rumqttc::MqttOptions {
    let mut options = rumqttc::MqttOptions::new(
        string(request, "client_id"),
        string(request, "host"),
        port(request),
    );
    options
        .set_keep_alive(keep_alive(request))
        .set_clean_session(request["clean_start"] != false)
        .set_max_packet_size(PACKET_SIZE_MAX, PACKET_SIZE_MAX);
    if let Some(username) = request["username"].as_str() {
        options.set_credentials(username, string(request, "password"));
    }
    if let Some(will) = request.get("will").filter(|will| will.is_object()) {
        let retain = will["retain"] == true;
        let will = rumqttc::LastWill::new(string(will, "topic"), payload(will), qos(will), retain);
        options.set_last_will(will);
    }
    options
}

fn options_v5(request: &Value) -> v5::MqttOptions {
    let mut options = v5::MqttOptions::new(
        string(request, "client_id"),
        string(request, "host"),
        port(request),
    );
    options
        .set_keep_alive(keep_alive(request))
        .set_clean_start(request["clean_start"] != false)
        .set_connect_properties(packet_v5::ConnectProperties {
            session_expiry_interval: number(request, "session_expiry_interval"),
            receive_maximum: number(request, "receive_maximum"),
            max_packet_size: number(request, "maximum_packet_size").or(Some(PACKET_SIZE_MAX_V5)),
            topic_alias_max: number(request, "topic_alias_maximum"),
            request_response_info: None,
            request_problem_info: None,
            user_properties: pairs(&request["user_properties"]),
            authentication_method: None,
            authentication_data: None,
        });
    // Without it rumqttc reserves memory for 65,535 messages a client.
    options.set_outgoing_inflight_upper_limit(100);
    if let Some(username) = request["username"].as_str() {
        options.set_credentials(username, string(request, "password"));
    }
    if let Some(will) = request.get("will").filter(|will| will.is_object()) {
        let given = &will["properties"];
        let properties = packet_v5::LastWillProperties {
            delay_interval: number(given, "will_delay_interval"),
            payload_format_indicator: number(given, "payload_format_indicator"),
            message_expiry_interval: number(given, "message_expiry_interval"),
            content_type: given["content_type"].as_str().map(str::to_owned),
            response_topic: given["response_topic"].as_str().map(str::to_owned),
            correlation_data: None,
            user_properties: pairs(&given["user_properties"]),
        };
        let retain = will["retain"] == true;
        let will = packet_v5::LastWill::new(
            string(will, "topic"),
            payload(will),
            qos_v5(will),
            retain,
            Some(properties),
        );
        options.set_last_will(will);
    }
    options
}

fn publish_properties(given: &Value) -> packet_v5::PublishProperties {
    packet_v5::PublishProperties {
        payload_format_indicator: number(given, "payload_format_indicator"),
        message_expiry_interval: number(given, "message_expiry_interval"),
        topic_alias: number(given, "topic_alias"),
        response_topic: given["response_topic"].as_str().map(str::to_owned),
        correlation_data: given["correlation_data"]
            .as_str()
            .map(|hex| from_hex(hex).into()),
        user_properties: pairs(&given["user_properties"]),
        subscription_identifiers: Vec::new(),
        content_type: given["content_type"].as_str().map(str::to_owned),
    }
}

/// The properties of a received PUBLISH, in the names of `driver.py`; only those that were there.
fn told(properties: &packet_v5::PublishProperties) -> Value {
    let mut told = Map::new();
    let mut tell = |name: &str, value: Value| {
        if !value.is_null() {
            told.insert(name.to_owned(), value);
        }
    };
    tell(
        "payload_format_indicator",
        json!(properties.payload_format_indicator),
    );
    tell(
        "message_expiry_interval",
        json!(properties.message_expiry_interval),
    );
    tell("topic_alias", json!(properties.topic_alias));
    tell("response_topic", json!(properties.response_topic));
    tell("content_type", json!(properties.content_type));
    let correlation_data = properties
        .correlation_data
        .as_ref()
        .map(|data| to_hex(data));
    tell("correlation_data", json!(correlation_data));
    if !properties.user_properties.is_empty() {
        tell("user_properties", json!(properties.user_properties));
    }
    if !properties.subscription_identifiers.is_empty() {
        tell(
            "subscription_identifiers",
            json!(properties.subscription_identifiers),
        );
    }
    Value::Object(told)
}

fn say(said: &Value) {
    let mut stdout = std::io::stdout().lock();
    // The runner that does not read any more has ended.
    let _ = writeln!(stdout, "{said}");
    let _ = stdout.flush();
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn string(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_default().to_owned()
}

fn number<N: TryFrom<u64>>(value: &Value, name: &str) -> Option<N> {
    value[name]
        .as_u64()
        .and_then(|number| number.try_into().ok())
}

fn port(request: &Value) -> u16 {
    number(request, "port").expect("the runner gives a port")
}

fn keep_alive(request: &Value) -> Duration {
    Duration::from_secs(request["keep_alive"].as_u64().unwrap_or(60))
}

fn pairs(value: &Value) -> Vec<(String, String)> {
    serde_json::from_value(value.clone()).unwrap_or_default()
}

fn qos(value: &Value) -> QoS {
    match value["qos"].as_u64() {
        Some(1) => QoS::AtLeastOnce,
        Some(2) => QoS::ExactlyOnce,
        _ => QoS::AtMostOnce,
    }
}

fn qos_v5(value: &Value) -> QosV5 {
    match value["qos"].as_u64() {
        Some(1) => QosV5::AtLeastOnce,
        Some(2) => QosV5::ExactlyOnce,
        _ => QosV5::AtMostOnce,
    }
}

fn payload(value: &Value) -> Vec<u8> {
    from_hex(value["payload"].as_str().unwrap_or_default())
}

fn from_hex(hex: &str) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).expect("hexadecimal text");
    hex.as_bytes()
        .chunks_exact(2)
        .map(|pair| u8::try_from(digit(pair[0]) * 16 + digit(pair[1])).expect("two digits"))
        .collect()
}

fn to_hex(bytes: &[u8]) -> String {
    let digits = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| {
            [
                digits[usize::from(byte >> 4)],
                digits[usize::from(byte & 15)],
            ]
        })
        .map(char::from)
        .collect()
}

const CHANNEL: usize = 1000;
const PACKET_SIZE_MAX: usize = 16 << 20;
const PACKET_SIZE_MAX_V5: u32 = 16 << 20;

/// What a CONNACK without properties says.
const NO_CONNACK_PROPERTIES: packet_v5::ConnAckProperties = packet_v5::ConnAckProperties {
    session_expiry_interval: None,
    receive_max: None,
    max_qos: None,
    retain_available: None,
    max_packet_size: None,
    assigned_client_identifier: None,
    topic_alias_max: None,
    reason_string: None,
    user_properties: Vec::new(),
    wildcard_subscription_available: None,
    subscription_identifiers_available: None,
    shared_subscription_available: None,
    server_keep_alive: None,
    response_information: None,
    server_reference: None,
    authentication_method: None,
    authentication_data: None,
};
