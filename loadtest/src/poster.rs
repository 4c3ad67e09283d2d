//! A publisher of the scenarios of several phases: encodes each PUBLISH by itself and keeps to its bound in flight.

use nightjar_codec::{PacketId, ProtocolVersion, PublishHead, QoS};

use crate::connection::Connection;
use crate::frame::{self, Frame};
use crate::work::WorkError;

/// What one publishing connection has sent and got acknowledged.
#[derive(Clone, Debug)]
pub struct Poster {
    protocol: ProtocolVersion,
    qos: QoS,
    in_flight_max: u64,
    next_packet_id: PacketId,
    pub sent: u64,
    /// QoS 1 and 2: exchanges that are over.
    pub acknowledged: u64,
    /// Of these, with a Reason Code of 0x80 or above.
    pub refused: u64,
}

impl Poster {
    /// Nothing sent yet.
    #[must_use]
    pub fn new(protocol: ProtocolVersion, qos: QoS, in_flight_max: u16) -> Self {
        Self {
            protocol,
            qos,
            in_flight_max: u64::from(in_flight_max),
            next_packet_id: PacketId::MIN,
            sent: 0,
            acknowledged: 0,
            refused: 0,
        }
    }

    /// Keeps to the broker's Receive Maximum too.
    pub fn bound_in_flight(&mut self, receive_maximum: u16) {
        self.in_flight_max = self.in_flight_max.min(u64::from(receive_maximum));
    }

    /// Whether one more message may be queued.
    #[inline]
    #[must_use]
    pub fn may_post(&self, connection: &Connection) -> bool {
        connection.unsent() < UNSENT_BYTES_MAX
            && (self.qos == QoS::AtMostOnce || self.sent - self.acknowledged < self.in_flight_max)
    }

    /// Whether all that was sent has its last acknowledgement.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.qos == QoS::AtMostOnce || self.acknowledged >= self.sent
    }

    /// Queues one message; the Packet Identifier it got, if its QoS has them.
    #[inline]
    pub fn post(
        &mut self,
        connection: &mut Connection,
        topic: &str,
        payload: &[u8],
        retain: bool,
    ) -> Option<PacketId> {
        let packet_id = (self.qos > QoS::AtMostOnce).then_some(self.next_packet_id);
        if packet_id.is_some() {
            let next = PacketId::new(self.next_packet_id.get().wrapping_add(1));
            self.next_packet_id = next.unwrap_or(PacketId::MIN);
        }
        let head = PublishHead {
            dup: false,
            qos: self.qos,
            retain,
            topic,
            packet_id,
            subscription_identifiers: &[],
            message_expiry_interval: None,
            topic_alias: None,
            forwardable_properties: &[],
            payload_length: payload.len(),
        };
        connection.queue_with(|out| {
            head.encode(self.protocol, out);
            out.extend_from_slice(payload);
        });
        self.sent += 1;
        packet_id
    }

    /// Books an acknowledgement and answers a PUBREC; whether the packet was one.
    #[inline]
    pub fn acknowledge(
        &mut self,
        frame: &Frame<'_>,
        connection: &mut Connection,
    ) -> Result<bool, WorkError> {
        match frame.packet_type() {
            frame::PUBACK | frame::PUBCOMP => {
                self.acknowledged += 1;
                self.refused += u64::from(frame.acknowledgement_reason() >= 0x80);
            }
            frame::PUBREC if frame.acknowledgement_reason() >= 0x80 => {
                // [MQTT-4.3.3-4]: an exchange refused here gets no PUBREL.
                self.acknowledged += 1;
                self.refused += 1;
            }
            frame::PUBREC => {
                let [high, low] = frame.packet_id()?;
                connection.queue(&[frame::PUBREL | 2, 2, high, low]);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// The answer of a receiver to a PUBLISH or PUBREL, queued; QoS 0 has none.
#[inline]
pub fn answer(
    frame: &Frame<'_>,
    connection: &mut Connection,
    version_5: bool,
) -> Result<(), WorkError> {
    if frame.packet_type() == frame::PUBREL {
        let [high, low] = frame.packet_id()?;
        connection.queue(&[frame::PUBCOMP, 2, high, low]);
        return Ok(());
    }
    let fields = frame.publish(version_5)?;
    let [high, low] = fields.packet_id;
    match fields.qos {
        0 => {}
        1 => connection.queue(&[frame::PUBACK, 2, high, low]),
        _ => connection.queue(&[frame::PUBREC, 2, high, low]),
    }
    Ok(())
}

/// Enough that the socket is never empty, little enough to stay in the cache.
const UNSENT_BYTES_MAX: usize = 65_536;
