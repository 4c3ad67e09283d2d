//! Messages from the server: given out once, acknowledged when the application has done with them.
//!
//! QoS 1: PUBACK when acknowledged. QoS 2: the id is remembered with PUBLISH, PUBREC when acknowledged, and forgotten with PUBREL; the
//! same id before that is answered and not given out again. [MQTT-4.3.3-10]

use alloc::boxed::Box;

use bytes::Bytes;
use nightjar_codec::{Acknowledgement, Packet, PacketId, PacketType, Publish, QoS, ReasonCode};

use super::{Ended, Event, Session, State};
use crate::time::Instant;

/// An Application Message of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its topic.
    pub topic: Box<str>,
    /// Its payload.
    pub payload: Bytes,
    /// Whether the server had kept it: it may be old.
    pub retain: bool,
    /// Where an answer is to go; 5.0 only.
    pub response_topic: Option<Box<str>>,
    /// What an answer is to bear; 5.0 only.
    pub correlation_data: Option<Bytes>,
    /// What is owed to the server: `None` for QoS 0.
    pub receipt: Option<Receipt>,
}

/// An acknowledgement that is owed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the server waits for it"]
pub struct Receipt(PacketId);

impl Session {
    /// The message has been dealt with. Does nothing where the connection it came by is over: it comes again by the next.
    pub fn acknowledge(&mut self, receipt: Receipt, now: Instant) {
        let Receipt(packet_id) = receipt;
        if self.state != State::Online {
            return;
        }
        let Some(index) = self
            .unacknowledged
            .iter()
            .position(|(id, _)| *id == packet_id)
        else {
            return;
        };
        let Some((_, qos)) = self.unacknowledged.remove(index) else {
            return;
        };
        let acknowledgement = Acknowledgement::success(packet_id);
        let packet = if qos == QoS::AtLeastOnce {
            Packet::Puback(acknowledgement)
        } else {
            // Known from here on: before, the message would have to come again.
            self.unreleased.insert(packet_id);
            Packet::Pubrec(acknowledgement)
        };
        self.send(&packet, now);
    }

    pub(super) fn handle_publish(&mut self, publish: Publish, now: Instant) {
        if publish.properties.topic_alias.is_some() {
            // [MQTT-3.1.2-26]
            self.disconnect_with(ReasonCode::TopicAliasInvalid);
            return self.end(Ended::TopicAlias);
        }
        let receipt = match publish.packet_id {
            None => None,
            Some(packet_id) => {
                if publish.qos == QoS::ExactlyOnce && self.unreleased.contains(&packet_id) {
                    return self.send(&Packet::Pubrec(Acknowledgement::success(packet_id)), now);
                }
                if self.unacknowledged.iter().any(|(id, _)| *id == packet_id) {
                    // An id that is in use by a message that we have in hand.
                    self.disconnect_with(ReasonCode::ProtocolError);
                    return self.end(Ended::Unexpected(PacketType::Publish));
                }
                let held = self.unacknowledged.len() + self.unreleased.len();
                if held >= usize::from(self.settings.receive_maximum.get()) {
                    // [MQTT-3.3.4-9] is the server's to keep; 3.1.1 has no word for it, but our memory has an end.
                    self.disconnect_with(ReasonCode::ReceiveMaximumExceeded);
                    return self.end(Ended::ReceiveMaximumExceeded);
                }
                self.unacknowledged.push_back((packet_id, publish.qos));
                Some(Receipt(packet_id))
            }
        };
        self.events.push_back(Event::Message(Message {
            topic: publish.topic,
            payload: publish.payload,
            retain: publish.retain,
            response_topic: publish.properties.response_topic,
            correlation_data: publish.properties.correlation_data,
            receipt,
        }));
    }

    pub(super) fn handle_pubrel(&mut self, packet_id: PacketId, now: Instant) {
        let known = self.unreleased.remove(&packet_id);
        let reason_code = if known || !self.settings.version.is_v5() {
            ReasonCode::Success
        } else {
            ReasonCode::PacketIdentifierNotFound
        };
        // [MQTT-4.3.3-11]
        let pubcomp = Acknowledgement::with_reason(packet_id, reason_code);
        self.send(&Packet::Pubcomp(pubcomp), now);
    }
}
