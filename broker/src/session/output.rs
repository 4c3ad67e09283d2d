//! Where a session puts what it wants done: bytes for its client, operations for the store, numbers for the metrics.
//! The shard owns all of it and lends it for one call (D15).

use std::sync::Arc;

use bytes::Bytes;
use nightjar_codec::packet::PublishHead;
use nightjar_codec::{PacketId, ProtocolVersion, QoS};
use nightjar_storage::{Batch, Operation, StoredMessage};

pub use super::counters::Counters;
use super::queue::MemoryLimits;
use super::quota::{QueueLimits, QueueTotals};
use super::send_buffer::{BufferPool, SHARE_FROM, SHARE_WITH_NOBODY_FROM, SendBuffer};
use crate::identity::{GroupId, SessionId, Ticket};
use crate::message::{MessageRef, remaining_expiry_seconds};
use crate::settings::Settings;

/// What one call may use. `send` is the buffer of the session's own connection.
pub struct Outputs<'a> {
    /// Broker clock, milliseconds.
    pub now: u64,
    pub settings: &'a Settings,
    pub queue_limits: QueueLimits,
    pub totals: &'a QueueTotals,
    /// How much of a queue is held that the store has, too; `None` where there is no store to read from.
    pub memory_limits: Option<MemoryLimits>,
    pub send: &'a mut SendBuffer,
    /// Where an empty send buffer gets its memory; see [`Outputs::buffer`].
    pub pool: &'a mut BufferPool,
    /// All send buffers together are at their bound.
    pub send_is_scarce: bool,
    pub frames: &'a mut FrameCache,
    pub journal: &'a mut JournalSink,
    pub counters: &'a mut Counters,
    /// Share groups whose message a session is done with; they may give it the next one.
    pub finished: &'a mut Vec<(SessionId, GroupId)>,
    /// Share groups that a session with a full queue sent back to, now that it has room.
    pub room_again: &'a mut Vec<(SessionId, GroupId)>,
    /// Sessions that need the next page of their queue from the store.
    pub page_wanted: &'a mut Vec<SessionId>,
    /// What share groups gave and get back, because something that only this session can have needs the room.
    pub given_back: &'a mut Vec<(SessionId, GroupId, Arc<StoredMessage>)>,
}

impl Outputs<'_> {
    /// The send buffer, for something that is put in it now: one that is left empty keeps no memory.
    #[inline]
    pub fn buffer(&mut self) -> &mut SendBuffer {
        self.send.borrow_from(self.pool);
        self.send
    }

    /// Whether another message may go to the send buffer. Where room is scarce, connections that are behind get none and
    /// those that keep up go on.
    #[inline]
    pub fn has_send_room(&self) -> bool {
        self.send.len() < self.settings.send_buffer_bytes_max as usize
            && !(self.send_is_scarce && self.send.is_behind())
    }
}

/// The batch of this turn, and the ticket whoever depends on it waits for.
#[derive(Debug, Default)]
pub struct JournalSink {
    /// False: nothing survives this process, and nobody waits.
    pub enabled: bool,
    pub batch: Vec<Operation>,
    /// What the batch counts for in the bound of the journal.
    pub batch_bytes: u64,
    /// Bytes of all operations ever pushed; whoever compares it learns whether there was one.
    pub pushed: u64,
    /// Bytes of the operations pushed in this turn.
    pub turn_bytes: u64,
    /// The ticket the batch will get.
    pub ticket: Ticket,
    /// Everything up to this ticket is durable.
    pub durable: Ticket,
    /// QoS 2 exchanges that wait for this turn's batch.
    pub held: Vec<(SessionId, PacketId)>,
}

impl JournalSink {
    /// Adds an operation to this turn's batch; gives what to wait for.
    pub fn push(&mut self, operation: Operation) -> Option<Ticket> {
        if !self.enabled {
            return None;
        }
        let bytes = operation.bytes();
        self.count(bytes);
        self.batch.push(operation);
        Some(self.ticket)
    }

    /// Counts what will be added when the batch is appended.
    pub fn count(&mut self, bytes: u64) {
        self.batch_bytes += bytes;
        self.pushed = self.pushed.wrapping_add(bytes);
        self.turn_bytes += bytes;
    }

    pub fn is_durable(&self, ticket: Ticket) -> bool {
        !self.enabled || ticket <= self.durable
    }

    pub fn take_batch(&mut self) -> Batch {
        self.batch_bytes = 0;
        Batch(std::mem::take(&mut self.batch))
    }
}

/// What is the same in the frame for every receiver of one kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct FrameKey {
    version_5: bool,
    qos: QoS,
    retain: bool,
}

/// The last encoded frame of the message that is being delivered, so that a thousand receivers of the same kind cost one
/// encoding and a thousand copies with their packet ids patched in.
#[derive(Debug, Default)]
pub struct FrameCache {
    /// Bytes of PUBLISH packets made in this turn, for all connections.
    pub turn_bytes: usize,
    /// One connection's send buffer, or the mail for one shard, holds so much of this turn that the turn is to end.
    pub turn_is_full: bool,
    /// A message with more than one receiver; a single one is encoded straight into its buffer.
    pub worthwhile: bool,
    key: Option<FrameKey>,
    frame: Vec<u8>,
    packet_id_at: usize,
    payload: Option<Bytes>,
}

/// One PUBLISH as one receiver gets it.
pub struct Sending<'a> {
    pub version: ProtocolVersion,
    pub dup: bool,
    pub qos: QoS,
    pub retain: bool,
    pub packet_id: Option<PacketId>,
    pub subscription_identifiers: &'a [u32],
}

impl FrameCache {
    /// Notes that `written` bytes of a PUBLISH went to `send`, of which no more than `bytes_max` may wait. What one turn makes for a
    /// client that keeps up must not overrun that: half of it ends the turn, and so does what is no longer worth its memory.
    #[inline]
    pub fn count(&mut self, written: usize, send: &SendBuffer, bytes_max: usize) {
        self.turn_bytes += written;
        self.turn_is_full |= send.unoffered() > (bytes_max / 2).min(RECEIVER_TURN_BYTES_MAX);
    }

    /// Forget the last message.
    pub fn begin(&mut self, receivers: usize) {
        self.worthwhile = receivers > 1;
        self.key = None;
        self.payload = None;
    }

    /// Appends the PUBLISH to `send`. Takes the frame of the receiver before where it is the same but for the packet id.
    pub fn send(
        &mut self,
        message: &MessageRef<'_>,
        sending: &Sending<'_>,
        now: u64,
        send: &mut SendBuffer,
    ) {
        let key = FrameKey {
            version_5: sending.version.is_v5(),
            qos: sending.qos,
            retain: sending.retain,
        };
        let plain = !sending.dup && sending.subscription_identifiers.is_empty();
        if !self.worthwhile || !plain {
            self.append_head(message, sending, now, send);
            return;
        }
        if self.key != Some(key) {
            self.frame.clear();
            let head = head(message, sending, now);
            self.packet_id_at = head.encode(sending.version, &mut self.frame).unwrap_or(0);
            if message.payload.len() < SHARE_FROM {
                self.frame.extend_from_slice(message.payload);
            }
            self.key = Some(key);
        }
        send.append(|out| {
            let start = out.len();
            out.extend_from_slice(&self.frame);
            if let Some(packet_id) = sending.packet_id
                && let Some(place) =
                    out.get_mut(start + self.packet_id_at..start + self.packet_id_at + 2)
            {
                place.copy_from_slice(&packet_id.get().to_be_bytes());
            }
        });
        if message.payload.len() >= SHARE_FROM {
            send.share(self.shared_payload(message));
        }
    }

    fn append_head(
        &mut self,
        message: &MessageRef<'_>,
        sending: &Sending<'_>,
        now: u64,
        send: &mut SendBuffer,
    ) {
        send.append(|out| head(message, sending, now).encode(sending.version, out));
        self.append_payload(message, send);
    }

    /// The payload behind a head: copied where it is small, shared where it is not. To be shared it needs bytes of its own,
    /// so a single receiver of a message that nobody keeps gets the one copy straight into its buffer.
    pub fn append_payload(&mut self, message: &MessageRef<'_>, send: &mut SendBuffer) {
        let share_from = if self.worthwhile || message.is_stored() {
            SHARE_FROM
        } else {
            SHARE_WITH_NOBODY_FROM
        };
        if message.payload.len() < share_from {
            send.extend(message.payload);
        } else {
            send.share(self.shared_payload(message));
        }
    }

    fn shared_payload(&mut self, message: &MessageRef<'_>) -> Bytes {
        self.payload
            .get_or_insert_with(|| message.shared_payload())
            .clone()
    }
}

/// The head of a PUBLISH without Topic Alias, which only a connection that agreed to them adds.
pub fn head<'a>(message: &MessageRef<'a>, sending: &Sending<'a>, now: u64) -> PublishHead<'a> {
    PublishHead {
        dup: sending.dup,
        qos: sending.qos,
        retain: sending.retain,
        topic: message.topic,
        packet_id: sending.packet_id,
        subscription_identifiers: sending.subscription_identifiers,
        message_expiry_interval: remaining_expiry_seconds(message.expires_at, now),
        topic_alias: None,
        forwardable_properties: message.properties,
        payload_length: message.payload.len(),
    }
}

/// A longer write is no cheaper by the byte.
const RECEIVER_TURN_BYTES_MAX: usize = 1024 * 1024;
