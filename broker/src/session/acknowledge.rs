//! PUBACK, PUBREC, PUBREL and PUBCOMP from the client (3.4 to 3.7), and the bytes of ours.

use std::sync::Arc;

use nightjar_codec::topic::parse_shared;
use nightjar_codec::{PacketId, ProtocolVersion, ReasonCode};
use nightjar_storage::{MessageId, Operation, Owner};

use super::inflight::State;
use super::output::Outputs;
use super::publish::Kind;
use super::{Session, Violation};
use crate::identity::{GroupId, Origin};

impl Session {
    /// [MQTT-4.3.2-5]: the exchange is over, the id is free.
    pub fn handle_puback(
        &mut self,
        packet_id: PacketId,
        out: &mut Outputs<'_>,
    ) -> Result<(), Violation> {
        match self.inflight.find(packet_id).map(|entry| entry.state) {
            Some(State::AwaitPuback) => self.finish(packet_id, out),
            Some(_) => return Err(Violation::WrongAcknowledgement),
            // An id that is not in use, as after a session that ended: nothing to do.
            None => {}
        }
        Ok(())
    }

    /// PUBREC is answered with PUBREL as often as it comes; one that refuses ends the exchange [MQTT-4.3.3-9].
    pub fn handle_pubrec(
        &mut self,
        packet_id: PacketId,
        reason_code: ReasonCode,
        out: &mut Outputs<'_>,
    ) -> Result<(), Violation> {
        let durable_session = self.is_resumable();
        let Some(entry) = self.inflight.find(packet_id) else {
            // D20: an id that is not in use is answered as if it were, unless the client refuses what it names.
            if !reason_code.is_error() {
                write_short(PUBREL, packet_id, ReasonCode::Success, self.version, out);
            }
            return Ok(());
        };
        match entry.state {
            State::AwaitPubrec if reason_code.is_error() => self.finish(packet_id, out),
            State::AwaitPubrec => {
                entry.state = State::AwaitPubcomp;
                if let Some(kept) = entry.kept.take() {
                    self.receiver.budget.release_if(kept.reserved, out.totals);
                }
                let ticket = if durable_session {
                    let client_id = Arc::clone(&self.receiver.client_id);
                    out.journal.push(Operation::Pubrec {
                        client_id,
                        packet_id: packet_id.get(),
                    })
                } else {
                    None
                };
                // D2: the phase is durable before PUBREL says so.
                entry.hold = ticket;
                if ticket.is_some() {
                    out.journal.held.push((self.id, packet_id));
                } else {
                    write_short(PUBREL, packet_id, ReasonCode::Success, self.version, out);
                }
            }
            State::AwaitPubcomp if entry.hold.is_none() => {
                write_short(PUBREL, packet_id, ReasonCode::Success, self.version, out);
            }
            State::AwaitPubcomp => {}
            State::AwaitPuback | State::Done => return Err(Violation::WrongAcknowledgement),
        }
        Ok(())
    }

    /// [MQTT-4.3.3-12]: after PUBCOMP the same id is a new message.
    pub fn handle_pubrel(&mut self, packet_id: PacketId, out: &mut Outputs<'_>) {
        // [MQTT-3.3.4-7]: a release of nothing gives nothing of our Receive Maximum back.
        let kind = if self.unreleased.remove(packet_id) {
            Kind::Pubcomp
        } else {
            Kind::PubcompOfNothing
        };
        if let Some(link) = self.link.as_mut()
            && link.rarities.unreleased_full_since.is_some()
        {
            link.rarities.unreleased_full_since = None;
        }
        // Also where the id is not known here: the release of an earlier connection may not have lasted.
        let ticket = if self.is_resumable() {
            let client_id = Arc::clone(&self.receiver.client_id);
            out.journal.push(Operation::ReleaseQos2 {
                client_id,
                packet_id: packet_id.get(),
            })
        } else {
            None
        };
        // D20: an unknown id is answered with success, as for a PUBCOMP that was lost.
        self.acknowledge(kind, packet_id, ReasonCode::Success, ticket, out);
    }

    pub fn handle_pubcomp(
        &mut self,
        packet_id: PacketId,
        out: &mut Outputs<'_>,
    ) -> Result<(), Violation> {
        match self.inflight.find(packet_id).map(|entry| entry.state) {
            Some(State::AwaitPubcomp) => self.finish(packet_id, out),
            Some(_) => return Err(Violation::WrongAcknowledgement),
            None => {}
        }
        Ok(())
    }

    /// Ends an exchange: id free, quota open, message gone from budget and store.
    pub(super) fn finish(&mut self, packet_id: PacketId, out: &mut Outputs<'_>) {
        let Some(entry) = self.inflight.finish(packet_id) else {
            return;
        };
        // [MQTT-3.3.4-9]: a PUBREL of an earlier connection took nothing from this one's window.
        if let Some(link) = self.link.as_mut().filter(|_| entry.counted) {
            link.open_send_quota();
        }
        if let Some(kept) = &entry.kept {
            self.receiver.budget.release_if(kept.reserved, out.totals);
        }
        match (entry.origin, entry.state) {
            (Origin::Direct, _) => self.dequeue(entry.message_id, out),
            (Origin::Group(group), State::AwaitPuback) => {
                self.finish_for_group(group, entry.message_id, out)
            }
            (Origin::Group(group), _) => {
                // QoS 2 became the member's own when it was sent (D8).
                self.dequeue(entry.message_id, out);
                out.finished.push((self.id, group));
            }
        }
    }

    /// The session no longer owns the message.
    pub(super) fn dequeue(&self, message_id: MessageId, out: &mut Outputs<'_>) {
        if message_id != 0 && self.is_resumable() && out.journal.enabled {
            let owner = Owner::Session(Arc::clone(&self.receiver.client_id));
            out.journal.push(Operation::Dequeue { owner, message_id });
        }
    }

    /// A message that a share group gave is done with; the group may give the next one.
    pub(super) fn finish_for_group(
        &self,
        group: GroupId,
        message_id: MessageId,
        out: &mut Outputs<'_>,
    ) {
        if message_id != 0
            && out.journal.enabled
            && let Some(owner) = self.group_owner(group)
        {
            out.journal.push(Operation::Dequeue { owner, message_id });
        }
        out.finished.push((self.id, group));
    }

    /// A share group this session is a member of, as the store names it.
    pub(super) fn group_owner(&self, group: GroupId) -> Option<Owner> {
        let (filter, _) = self
            .subscriptions
            .iter()
            .find(|(_, subscription)| subscription.group == Some(group))?;
        let (share_name, topic_filter) = parse_shared(filter).ok().flatten()?;
        Some(Owner::Group {
            share_name: share_name.into(),
            topic_filter: topic_filter.into(),
        })
    }
}

/// An acknowledgement in its shortest form: 5.0 leaves a success code out [MQTT-3.4.2-1].
pub fn write_short(
    first_byte: u8,
    packet_id: PacketId,
    reason_code: ReasonCode,
    version: ProtocolVersion,
    out: &mut Outputs<'_>,
) {
    let [high, low] = packet_id.get().to_be_bytes();
    out.counters.count_sent(first_byte);
    let send = out.buffer();
    if version.is_v5() && reason_code != ReasonCode::Success {
        send.extend(&[first_byte, 3, high, low, reason_code.as_u8()]);
    } else {
        send.extend(&[first_byte, 2, high, low]);
    }
}

/// First byte of PUBREL, its flags included [MQTT-3.6.1-1].
pub const PUBREL: u8 = 0x62;
