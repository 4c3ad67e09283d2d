//! Messages to the server: packet ids, the window, acknowledgements, and what is sent again after a reconnect.
//!
//! An entry of QoS 1 ends with PUBACK. One of QoS 2 becomes a release with PUBREC and ends with PUBCOMP.

use alloc::boxed::Box;

use bytes::Bytes;
use core::fmt;
use nightjar_codec::{
    Acknowledgement, Packet, PacketId, Publish, PublishProperties, QoS, ReasonCode, TopicName,
};

use super::{Event, Session, State};
use crate::time::Instant;

/// A message that is to be published.
#[derive(Clone, Debug)]
pub struct Publication {
    /// Its topic.
    pub topic: TopicName,
    /// Its payload.
    pub payload: Bytes,
    /// Its QoS; lowered to what the server supports.
    pub qos: QoS,
    /// Whether the server is to keep it; not where the server cannot.
    pub retain: bool,
    /// Correlation Data of a response; 5.0 only.
    pub correlation_data: Option<Bytes>,
    /// With what [`Event::Delivered`] and [`Event::Refused`] speak of it; `None` for no event.
    pub token: Option<u64>,
}

/// Why a message cannot be published now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishError {
    /// There is no connection, or CONNACK has not come.
    NotConnected,
    /// As many messages are in flight as may be, or as many bytes wait to be written: try again after the next event.
    Full,
    /// The server takes no packet of this size: it will never do.
    TooLarge,
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotConnected => "not connected",
            Self::Full => "too much in flight",
            Self::TooLarge => "larger than the server takes",
        })
    }
}

impl core::error::Error for PublishError {}

/// A message of QoS 1 or 2 that is not acknowledged.
#[derive(Debug)]
pub(super) struct InFlight {
    packet_id: PacketId,
    token: Option<u64>,
    /// `None`: PUBREC has come, PUBREL is what is sent.
    publish: Option<Box<Publish>>,
    /// Whether it was sent on the connection that there is.
    pub(super) on_this_connection: bool,
}

impl Session {
    /// Publishes a message. QoS 0 is delivered at once, as far as anybody can know; QoS 1 and 2 stay in flight over reconnects.
    ///
    /// # Errors
    /// Says why not now, or not at all; nothing was taken then.
    pub fn publish(&mut self, publication: Publication, now: Instant) -> Result<(), PublishError> {
        if self.state != State::Online {
            return Err(PublishError::NotConnected);
        }
        let qos = publication.qos.min(self.allowed.qos);
        let keeps = qos > QoS::AtMostOnce;
        if !self.can_publish(qos) {
            return Err(PublishError::Full);
        }
        let v5 = self.settings.version.is_v5();
        let publish = Publish {
            dup: false,
            qos,
            retain: publication.retain && self.allowed.retain,
            topic: publication.topic.as_str().into(),
            packet_id: keeps.then(|| self.free_packet_id()),
            properties: PublishProperties {
                correlation_data: publication.correlation_data.filter(|_| v5),
                ..PublishProperties::default()
            },
            payload: publication.payload,
        };
        if !self.fits(&publish) {
            return Err(PublishError::TooLarge);
        }
        let Some(packet_id) = publish.packet_id else {
            self.send(&Packet::Publish(publish), now);
            self.delivered(publication.token);
            return Ok(());
        };
        self.in_flight.push_back(InFlight {
            packet_id,
            token: publication.token,
            publish: Some(Box::new(publish)),
            on_this_connection: false,
        });
        self.pump(now);
        Ok(())
    }

    /// Whether [`Session::publish`] would take a message of this QoS that is not too large.
    #[must_use]
    pub fn can_publish(&self, qos: QoS) -> bool {
        let keeps = qos.min(self.allowed.qos) > QoS::AtMostOnce;
        self.state == State::Online
            && self.has_room()
            && (!keeps || self.in_flight.len() < usize::from(self.allowed.in_flight))
    }

    /// Messages of QoS 1 and 2 that are not acknowledged.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    pub(super) fn handle_puback(
        &mut self,
        packet_id: PacketId,
        reason_code: ReasonCode,
        now: Instant,
    ) {
        let Some(index) = self.position(packet_id) else {
            return;
        };
        let is_expected = |entry: &InFlight| entry.qos() == Some(QoS::AtLeastOnce);
        if self.in_flight.get(index).is_some_and(is_expected) {
            self.finish(index, reason_code);
            self.pump(now);
        } else {
            self.disconnect_with(ReasonCode::ProtocolError);
            self.end(super::Ended::Unexpected(nightjar_codec::PacketType::Puback));
        }
    }

    pub(super) fn handle_pubrec(
        &mut self,
        packet_id: PacketId,
        reason_code: ReasonCode,
        now: Instant,
    ) {
        let entry = self
            .position(packet_id)
            .and_then(|index| self.in_flight.get_mut(index).map(|entry| (index, entry)));
        let Some((index, entry)) = entry else {
            // The server has a message of a life that we have forgotten: it is to forget it, too.
            let answer =
                Acknowledgement::with_reason(packet_id, ReasonCode::PacketIdentifierNotFound);
            return self.send(&Packet::Pubrel(answer), now);
        };
        if entry.qos() == Some(QoS::AtLeastOnce) {
            self.disconnect_with(ReasonCode::ProtocolError);
            return self.end(super::Ended::Unexpected(nightjar_codec::PacketType::Pubrec));
        }
        if reason_code.is_error() {
            self.finish(index, reason_code);
            return self.pump(now);
        }
        // [MQTT-4.3.3-4] From here on the server owns it, and PUBLISH is never sent again.
        entry.publish = None;
        self.send(&Packet::Pubrel(Acknowledgement::success(packet_id)), now);
    }

    pub(super) fn handle_pubcomp(&mut self, packet_id: PacketId, now: Instant) {
        let Some(index) = self.position(packet_id) else {
            return;
        };
        if self
            .in_flight
            .get(index)
            .is_some_and(|entry| entry.publish.is_none())
        {
            self.finish(index, ReasonCode::Success);
            self.pump(now);
        } else {
            self.disconnect_with(ReasonCode::ProtocolError);
            self.end(super::Ended::Unexpected(
                nightjar_codec::PacketType::Pubcomp,
            ));
        }
    }

    /// The server has nothing of us: what it had released is done, all else is sent as if for the first time.
    pub(super) fn begin_anew(&mut self) {
        let mut index = 0;
        while let Some(entry) = self.in_flight.get_mut(index) {
            match &mut entry.publish {
                Some(publish) => {
                    publish.dup = false;
                    index += 1;
                }
                None => self.finish(index, ReasonCode::Success),
            }
        }
    }

    /// Sends what was not sent on this connection, in order, as far as the window and the buffer go. [MQTT-4.4.0-1]
    pub(super) fn pump(&mut self, now: Instant) {
        let mut sent = 0;
        let mut index = 0;
        while self.state == State::Online && self.has_room() && sent < self.allowed.in_flight {
            let Some(entry) = self.in_flight.get_mut(index) else {
                return;
            };
            if !entry.on_this_connection {
                let packet_id = entry.packet_id;
                let packet = match &entry.publish {
                    Some(publish) => Packet::Publish(Publish::clone(publish)),
                    None => Packet::Pubrel(Acknowledgement::success(packet_id)),
                };
                let length = packet.encoded_length(self.settings.version);
                if length > self.allowed.packet_bytes as usize {
                    // The server takes less than it took before. [MQTT-3.2.2-15]
                    self.finish(index, ReasonCode::PacketTooLarge);
                    continue;
                }
                entry.on_this_connection = true;
                // [MQTT-3.3.1-1]
                if let Some(publish) = &mut entry.publish {
                    publish.dup = true;
                }
                self.send(&packet, now);
            }
            sent += 1;
            index += 1;
        }
    }

    /// The next packet id that nothing in flight has.
    pub(super) fn free_packet_id(&mut self) -> PacketId {
        loop {
            let id = self.next_packet_id;
            self.next_packet_id = id.next();
            // Fewer are in use than there are, so that this ends.
            if self.position(id).is_none() && !self.requests.contains(&id) {
                return id;
            }
        }
    }

    fn position(&self, packet_id: PacketId) -> Option<usize> {
        self.in_flight
            .iter()
            .position(|entry| entry.packet_id == packet_id)
    }

    fn finish(&mut self, index: usize, reason_code: ReasonCode) {
        let token = self.in_flight.remove(index).and_then(|entry| entry.token);
        if reason_code.is_error() {
            self.events
                .extend(token.map(|token| Event::Refused(token, reason_code)));
        } else {
            self.delivered(token);
        }
    }

    fn delivered(&mut self, token: Option<u64>) {
        self.events.extend(token.map(Event::Delivered));
    }

    /// Whether the codec and the server take it.
    fn fits(&self, publish: &Publish) -> bool {
        let length = publish.encoded_length(self.settings.version);
        length <= PACKET_BYTES_MAX && length <= self.allowed.packet_bytes as usize
    }
}

impl InFlight {
    fn qos(&self) -> Option<QoS> {
        self.publish.as_ref().map(|publish| publish.qos)
    }
}

/// What four bytes of Remaining Length can say.
const PACKET_BYTES_MAX: usize = 268_435_455;
