//! What a `mosquitto.db` holds, as the lines of an export (`docs/store-export.md`).
//!
//! Ids and places are given anew. What could not be delivered by any broker is left out and counted: what has expired, names that
//! MQTT does not allow, messages of which the file has no text, and QoS 0 messages that were queued. A QoS 2 message that was
//! received and not released was not yet routed by Mosquitto: it goes into the queues of those who would get it now, and its packet id is
//! remembered, so that it comes once.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nightjar_codec::packet::PublishRef;
use nightjar_codec::topic::{
    matches, parse_shared, validate_client_id, validate_topic_filter, validate_topic_name,
};
use nightjar_codec::{Limits, ProtocolVersion};
use serde_json::{Map, Value, json};

use super::{Client, Contents, Fault, Message, Queued, State, Subscription, read};

/// The lines, and what was left out.
#[derive(Debug)]
pub(super) struct Converted {
    pub(super) lines: Vec<u8>,
    /// What was left out, each with how often.
    pub(super) left_out: Vec<(&'static str, u64)>,
}

/// Turns a file into lines. `now`: milliseconds since 1970, by which things have expired.
pub(super) fn convert(file: &[u8], now: u64) -> Result<Converted, Fault> {
    Ok(of(read(file)?, now))
}

pub(super) fn of(contents: Contents, now: u64) -> Converted {
    let mut conversion = Conversion {
        now,
        left_out: BTreeMap::new(),
        sessions: BTreeMap::new(),
        messages: BTreeMap::new(),
        rows: BTreeMap::new(),
        next_id: 1,
    };
    let retained = conversion.take_in(contents);
    let mut lines = Vec::new();
    let written = conversion.write(&retained, &mut lines);
    written.expect("memory takes what is written to it");
    Converted {
        lines,
        left_out: conversion.left_out.into_iter().collect(),
    }
}

struct Conversion {
    now: u64,
    left_out: BTreeMap<&'static str, u64>,
    sessions: BTreeMap<String, Session>,
    /// By their ids in the file.
    messages: BTreeMap<u64, Message>,
    /// Messages that somebody is to get, by their new ids.
    rows: BTreeMap<u64, Row>,
    next_id: u64,
}

struct Session {
    client: Client,
    subscriptions: BTreeMap<String, Subscription>,
    received_packet_ids: BTreeSet<u16>,
    sent_packet_ids: BTreeSet<u16>,
    released: Vec<Value>,
    places: u64,
    /// Messages of the file it is to get, and under which new id.
    queued: BTreeMap<u64, u64>,
}

struct Row {
    store_id: u64,
    queues: BTreeMap<String, Value>,
}

impl Conversion {
    /// Gives the retained messages, by topic.
    fn take_in(&mut self, contents: Contents) -> BTreeMap<String, u64> {
        for client in contents.clients {
            self.take_client(client);
        }
        for subscription in contents.subscriptions {
            self.take_subscription(subscription);
        }
        for message in contents.messages {
            if validate_topic_name(&message.topic).is_err() || message.qos > 2 {
                self.leave_out(ILLEGAL);
            } else if message.expires_at > 0 && message.expires_at.saturating_mul(1000) <= self.now
            {
                self.leave_out(EXPIRED);
            } else {
                self.messages.insert(message.store_id, message);
            }
        }
        let mut new_ids = BTreeMap::new();
        for queued in contents.queued {
            self.take_queued(queued, &mut new_ids);
        }
        let mut retained = BTreeMap::new();
        for store_id in contents.retained {
            match self.messages.get(&store_id) {
                Some(message) => {
                    retained.insert(message.topic.clone(), store_id);
                }
                None => self.leave_out(WITHOUT_TEXT),
            }
        }
        retained
    }

    fn take_client(&mut self, client: Client) {
        let is_over = client.session_expiry_interval != u32::MAX
            && client.expires_at > 0
            && client.expires_at.saturating_mul(1000) <= self.now;
        if validate_client_id(&client.client_id).is_err() {
            self.leave_out(ILLEGAL);
        } else if is_over {
            self.leave_out(EXPIRED);
        } else {
            let session = Session {
                client,
                subscriptions: BTreeMap::new(),
                received_packet_ids: BTreeSet::new(),
                sent_packet_ids: BTreeSet::new(),
                released: Vec::new(),
                places: 0,
                queued: BTreeMap::new(),
            };
            self.sessions
                .insert(session.client.client_id.clone(), session);
        }
    }

    fn take_subscription(&mut self, subscription: Subscription) {
        let filter = &subscription.topic_filter;
        let is_legal = validate_topic_filter(filter).is_ok()
            && parse_shared(filter).is_ok()
            && subscription.qos <= 2
            && subscription.retain_handling <= 2;
        match self.sessions.get_mut(&subscription.client_id) {
            Some(session) if is_legal => {
                session.subscriptions.insert(filter.clone(), subscription);
            }
            // Of a session that has expired, or whose client id is none.
            None => self.leave_out(OF_NOBODY),
            Some(_) => self.leave_out(ILLEGAL),
        }
    }

    fn take_queued(&mut self, queued: Queued, new_ids: &mut BTreeMap<u64, u64>) {
        let Some(session) = self.sessions.get_mut(&queued.client_id) else {
            return self.leave_out(OF_NOBODY);
        };
        if !queued.is_inbound && queued.state == State::Released {
            if !session.sent_packet_ids.insert(queued.packet_id) || queued.packet_id == 0 {
                return self.leave_out(ILLEGAL);
            }
            session.places += 1;
            session.released.push(json!({
                "packet_id": queued.packet_id,
                "order": session.places,
                "message_id": self.next_id,
                "place": session.places,
            }));
            self.next_id += 1;
            return;
        }
        if !self.messages.contains_key(&queued.store_id) {
            return self.leave_out(WITHOUT_TEXT);
        }
        if queued.qos == 0 || queued.qos > 2 {
            return self.leave_out(QUEUED_QOS_0);
        }
        if !queued.is_inbound {
            return self.queue(&queued, new_ids);
        }
        let is_new = session.received_packet_ids.insert(queued.packet_id);
        if queued.packet_id == 0 || !is_new {
            return self.leave_out(ILLEGAL);
        }
        self.route(&queued, new_ids);
    }

    /// A message that was received, for those who would get it now.
    fn route(&mut self, received: &Queued, new_ids: &mut BTreeMap<u64, u64>) {
        let topic = self.messages[&received.store_id].topic.clone();
        let mut getting: BTreeMap<String, Queued> = BTreeMap::new();
        for (client_id, session) in &self.sessions {
            for subscription in session.subscriptions.values() {
                let filter = &subscription.topic_filter;
                let is_own = *client_id == received.client_id && subscription.no_local;
                let qos = subscription.qos.min(received.qos);
                // A share group has no queue of its own here, and choosing a member would be a guess.
                if filter.starts_with("$share/") || is_own || qos == 0 || !matches(filter, &topic) {
                    continue;
                }
                let copy = getting.entry(client_id.clone()).or_insert_with(|| Queued {
                    client_id: client_id.clone(),
                    store_id: received.store_id,
                    packet_id: 0,
                    qos: 0,
                    retain: false,
                    is_inbound: false,
                    state: State::Waiting,
                    subscription_identifiers: Vec::new(),
                });
                copy.qos = copy.qos.max(qos);
                copy.retain |= subscription.retain_as_published && received.retain;
                if subscription.subscription_identifier > 0 {
                    copy.subscription_identifiers
                        .push(subscription.subscription_identifier);
                }
            }
        }
        for copy in getting.into_values() {
            self.queue(&copy, new_ids);
        }
    }

    fn queue(&mut self, queued: &Queued, new_ids: &mut BTreeMap<u64, u64>) {
        let Some(session) = self.sessions.get_mut(&queued.client_id) else {
            return;
        };
        // One client may be owed one message twice, of two subscriptions; then it is two messages.
        let is_second = session.queued.contains_key(&queued.store_id);
        let known = new_ids.get(&queued.store_id).copied();
        let message_id = known.filter(|_| !is_second).unwrap_or_else(|| {
            let id = self.next_id;
            self.next_id += 1;
            new_ids.insert(queued.store_id, id);
            id
        });
        session.queued.insert(queued.store_id, message_id);
        session.places += 1;
        let mut entry = json!({
            "owner": { "client_id": queued.client_id },
            "place": session.places,
            "qos": queued.qos,
            "retain": queued.retain,
        });
        if !queued.subscription_identifiers.is_empty() {
            entry["subscription_identifiers"] = json!(queued.subscription_identifiers);
        }
        if queued.state == State::Sent
            && queued.packet_id > 0
            && session.sent_packet_ids.insert(queued.packet_id)
        {
            entry["sent"] = json!({ "packet_id": queued.packet_id, "order": session.places });
        }
        let row = self.rows.entry(message_id).or_insert_with(|| Row {
            store_id: queued.store_id,
            queues: BTreeMap::new(),
        });
        row.queues.insert(queued.client_id.clone(), entry);
    }

    fn write(&self, retained: &BTreeMap<String, u64>, out: &mut Vec<u8>) -> io::Result<()> {
        let mut lines = 0_u64;
        let mut put = |line: Value| {
            lines += 1;
            writeln!(out, "{line}")
        };
        let places = self.sessions.values().map(|session| session.places).max();
        put(json!({
            "type": "nightjar_export",
            "version": 1,
            "wall_clock": self.now,
            "message_id_max": self.next_id + retained.len() as u64,
            "place_floor": places.unwrap_or(0),
        }))?;
        for session in self.sessions.values() {
            put(session_line(session))?;
            for subscription in session.subscriptions.values() {
                put(subscription_line(subscription))?;
            }
        }
        for (message_id, row) in &self.rows {
            let mut line = message_line(*message_id, &self.messages[&row.store_id]);
            line.insert("type".into(), "message".into());
            line.insert("queues".into(), row.queues.values().cloned().collect());
            put(line.into())?;
        }
        for (number, store_id) in retained.values().enumerate() {
            let message_id = self.next_id + number as u64;
            let mut line = message_line(message_id, &self.messages[store_id]);
            line.insert("type".into(), "retained".into());
            line.insert("retain".into(), true.into());
            line.insert("retain_sequence".into(), (number as u64 + 1).into());
            put(line.into())?;
        }
        let end = json!({ "type": "end", "lines": lines });
        writeln!(out, "{end}")
    }

    fn leave_out(&mut self, what: &'static str) {
        *self.left_out.entry(what).or_default() += 1;
    }
}

fn session_line(session: &Session) -> Value {
    let client = &session.client;
    let never = client.session_expiry_interval == u32::MAX;
    let mut line = json!({
        "type": "session",
        "client_id": client.client_id,
        "protocol_version": if never { 4 } else { 5 },
        "session_expiry_interval": client.session_expiry_interval,
        "next_place": session.places + 1,
    });
    if !never && client.expires_at > 0 {
        line["expires_at"] = json!(client.expires_at.saturating_mul(1000));
    }
    if let Some(user) = &client.user {
        line["user"] = json!(user);
    }
    if !session.received_packet_ids.is_empty() {
        line["received_packet_ids"] = json!(session.received_packet_ids);
    }
    if !session.released.is_empty() {
        line["released"] = json!(session.released);
    }
    line
}

fn subscription_line(subscription: &Subscription) -> Value {
    let mut line = json!({
        "type": "subscription",
        "client_id": subscription.client_id,
        "topic_filter": subscription.topic_filter,
        "qos": subscription.qos,
        "no_local": subscription.no_local,
        "retain_as_published": subscription.retain_as_published,
        "retain_handling": subscription.retain_handling,
    });
    if subscription.subscription_identifier > 0 {
        line["subscription_identifier"] = json!(subscription.subscription_identifier);
    }
    line
}

fn message_line(message_id: u64, message: &Message) -> Map<String, Value> {
    let mut line = Map::new();
    let mut put = |name: &str, value: Value| line.insert(name.into(), value);
    put("message_id", message_id.into());
    put("topic", message.topic.as_str().into());
    put("qos", message.qos.into());
    put("retain", message.retain.into());
    if message.expires_at > 0 {
        put(
            "expires_at",
            (message.expires_at.saturating_mul(1000)).into(),
        );
    }
    if !message.publisher.is_empty() && validate_client_id(&message.publisher).is_ok() {
        put("publisher", message.publisher.as_str().into());
        if message.retain && !message.user.is_empty() {
            put("publisher_user", message.user.as_str().into());
        }
    }
    let properties = STANDARD.encode(forwardable(&message.properties));
    put("properties", properties.into());
    put("payload", STANDARD.encode(&message.payload).into());
    line
}

/// Those that are forwarded unchanged, as a PUBLISH would bring them; none where they are not legal.
fn forwardable(properties: &[u8]) -> Vec<u8> {
    let mut forwarded = Vec::new();
    let mut body = vec![0, 1, b't'];
    put_variable(properties.len(), &mut body);
    body.extend_from_slice(properties);
    let mut packet = vec![0x30];
    put_variable(body.len(), &mut packet);
    packet.extend(body);
    if let Ok(publish) = PublishRef::decode(&packet, ProtocolVersion::V5, &Limits::default(), "") {
        publish.properties.write_forwardable(&mut forwarded);
    }
    forwarded
}

fn put_variable(mut value: usize, out: &mut Vec<u8>) {
    loop {
        let byte = (value % 128) as u8;
        value /= 128;
        out.push(if value > 0 { byte | 0x80 } else { byte });
        if value == 0 {
            return;
        }
    }
}

const EXPIRED: &str = "expired";
const ILLEGAL: &str = "with names or numbers that MQTT does not allow";
const OF_NOBODY: &str = "of sessions that are not there";
const QUEUED_QOS_0: &str = "queued with QoS 0";
const WITHOUT_TEXT: &str = "whose message is not there";
