//! A publisher: a block of PUBLISH packets, encoded once, of which each round through it patches only what differs.
//!
//! Comes in: how many messages may have been sent in all (`limit`), and the acknowledgements that a read returned. Goes
//! out: bytes. The block is written straight to the socket; while a part of it is unsent nothing in it is touched.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::ops::Range;

use hdrhistogram::Histogram;
use nightjar_codec::{ProtocolVersion, QoS};

use crate::connection::{Connection, PeerError};
use crate::frame::{self, Frame};
use crate::packet::Pattern;
use crate::stamp::{DUE_AT, SEQUENCE_AT, Stamp};

/// One publishing connection.
#[derive(Debug)]
pub struct Publisher {
    pub connection: Connection,
    block: Vec<u8>,
    /// The part of the block that is patched and not sent.
    unsent: Range<usize>,
    packet_length: usize,
    packet_id_at: Option<usize>,
    payload_at: usize,
    /// PUBRELs to send.
    releases: Vec<u8>,
    in_flight_max: u64,
    next_packet_id: u16,
    sent: u64,
    acknowledged: u64,
    /// Messages behind the last of a stretch, and when that was handed to the socket; kept while a closed loop is timed.
    times: Option<VecDeque<(u64, u64)>>,
    /// Acknowledgements with a Reason Code of 0x80 or above.
    pub refused: u64,
}

/// What a publisher sends.
#[derive(Clone, Copy, Debug)]
pub struct PublishPlan<'a> {
    pub protocol: ProtocolVersion,
    pub topic: &'a str,
    pub index: u32,
    pub qos: QoS,
    pub payload_length: usize,
    /// QoS 1 and 2 messages without an acknowledgement.
    pub in_flight_max: u16,
}

/// When messages are due in an open loop: number `n` of publisher `index` at `start + (n * publishers + index) / rate`.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    pub start: u64,
    pub rate: u64,
    pub publishers: u64,
}

impl Schedule {
    /// The due time of a message in nanoseconds.
    #[inline]
    fn due(&self, index: u64, sequence: u64) -> u64 {
        let position = u128::from(sequence * self.publishers + index);
        let offset = position * 1_000_000_000 / u128::from(self.rate);
        self.start + u64::try_from(offset).unwrap_or(u64::MAX / 2)
    }

    /// How many messages of publisher `index` are due at `now`.
    #[inline]
    #[must_use]
    pub fn due_count(&self, index: u64, now: u64) -> u64 {
        let elapsed = u128::from(now.saturating_sub(self.start));
        let positions =
            u64::try_from(elapsed * u128::from(self.rate) / 1_000_000_000).unwrap_or(u64::MAX / 2);
        if positions < index {
            0
        } else {
            (positions - index) / self.publishers + 1
        }
    }
}

impl Publisher {
    /// Encodes the block.
    #[must_use]
    pub fn new(connection: Connection, plan: PublishPlan<'_>) -> Self {
        let stamp = Stamp {
            publisher: plan.index,
            sequence: 0,
            due: 0,
        };
        let payload = stamp.payload(plan.payload_length);
        let pattern = Pattern::publish(plan.protocol, plan.topic, plan.qos, &payload);
        let packet_length = pattern.bytes.len();
        let count = (BLOCK_BYTES / packet_length).clamp(1, BLOCK_PACKETS_MAX);
        Self {
            connection,
            packet_length,
            block: pattern.bytes.repeat(count),
            unsent: 0..0,
            packet_id_at: pattern.packet_id_at,
            payload_at: pattern.payload_at,
            releases: Vec::new(),
            in_flight_max: u64::from(plan.in_flight_max),
            next_packet_id: 1,
            sent: 0,
            acknowledged: 0,
            times: None,
            refused: 0,
        }
    }

    /// From here on, the time of each message is remembered until it is acknowledged.
    pub fn keep_times(&mut self) {
        self.times = Some(VecDeque::new());
    }

    /// QoS 1 and 2 messages that got their last acknowledgement.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Records how long the messages up to the last acknowledged one waited, of which `before` were booked earlier.
    /// Acknowledgements come in the order of their messages [MQTT-4.6.0-2].
    #[inline]
    pub fn time_acknowledgements(
        &mut self,
        before: u64,
        now: u64,
        schedule: Option<(&Schedule, u64)>,
        latency: &mut Histogram<u64>,
    ) {
        if let Some((schedule, index)) = schedule {
            for sequence in before..self.acknowledged {
                let due = schedule.due(index, sequence);
                latency.saturating_record(now.saturating_sub(due).max(1));
            }
            return;
        }
        let Some(times) = &mut self.times else { return };
        let mut from = before;
        while let Some((behind, at)) = times.front().copied()
            && from < self.acknowledged
        {
            let upto = behind.min(self.acknowledged);
            latency.saturating_record_n(now.saturating_sub(at).max(1), upto.saturating_sub(from));
            from = upto;
            if upto == behind {
                times.pop_front();
            }
        }
    }

    /// Messages handed to the connection so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Whether every QoS 1 or 2 message has its last acknowledgement (always so at QoS 0), and all bytes are out.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let acknowledged = self.packet_id_at.is_none() || self.acknowledged >= self.sent;
        acknowledged && self.unsent.is_empty() && self.releases.is_empty()
    }

    /// Sends until `limit` messages are sent in all, the in-flight bound is reached, or the socket is full.
    #[inline]
    pub fn send(
        &mut self,
        limit: u64,
        now: u64,
        schedule: Option<(&Schedule, u64)>,
    ) -> io::Result<()> {
        let limit = if self.packet_id_at.is_some() {
            limit.min(self.acknowledged + self.in_flight_max)
        } else {
            limit
        };
        loop {
            if self.unsent.is_empty() && self.sent < limit {
                self.fill(limit - self.sent, schedule);
                if let Some(times) = &mut self.times {
                    times.push_back((self.sent, now));
                }
            }
            if !self.connection.writable || (self.unsent.is_empty() && self.releases.is_empty()) {
                return Ok(());
            }
            self.write()?;
        }
    }

    /// Books the acknowledgements in `input` and returns how much of it was whole packets.
    #[inline]
    pub fn acknowledge(&mut self, input: &[u8]) -> Result<usize, PeerError> {
        let mut at = 0;
        while let Some(frame) = Frame::next(input.get(at..).unwrap_or_default())? {
            at += frame.length;
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
                    self.releases
                        .extend_from_slice(&[frame::PUBREL | 2, 2, high, low]);
                }
                frame::DISCONNECT => {
                    return Err(PeerError::Disconnected {
                        reason_code: frame.body.first().copied().unwrap_or(0),
                    });
                }
                _ => {}
            }
        }
        Ok(at)
    }

    /// Patches up to `count` packets at the start of the block, which becomes the unsent part.
    #[inline]
    fn fill(&mut self, count: u64, schedule: Option<(&Schedule, u64)>) {
        let mut length = 0;
        let mut sequence = self.sent;
        let behind = self.sent.saturating_add(count);
        for packet in self.block.chunks_exact_mut(self.packet_length) {
            if sequence == behind {
                break;
            }
            if let Some(at) = self.packet_id_at {
                put(packet, at, self.next_packet_id.to_be_bytes());
                self.next_packet_id = self.next_packet_id.checked_add(1).unwrap_or(1);
            }
            put(
                packet,
                self.payload_at + SEQUENCE_AT,
                sequence.to_be_bytes(),
            );
            if let Some((schedule, index)) = schedule {
                let due = schedule.due(index, sequence);
                put(packet, self.payload_at + DUE_AT, due.to_be_bytes());
            }
            sequence += 1;
            length += self.packet_length;
        }
        self.sent = sequence;
        self.unsent = 0..length;
    }

    #[inline]
    fn write(&mut self) -> io::Result<()> {
        let block = self.block.get(self.unsent.clone()).unwrap_or_default();
        // The block first: it may have been cut in the middle of a packet.
        let length = if self.releases.is_empty() {
            self.connection.write(block)?
        } else {
            let slices = [IoSlice::new(block), IoSlice::new(&self.releases)];
            self.connection.write_vectored(&slices)?
        };
        let of_block = length.min(block.len());
        self.unsent.start += of_block;
        self.releases.drain(..length - of_block);
        Ok(())
    }
}

#[inline]
fn put<const N: usize>(packet: &mut [u8], at: usize, value: [u8; N]) {
    if let Some(place) = packet.get_mut(at..at + N) {
        place.copy_from_slice(&value);
    }
}

/// Large enough that a write's fixed cost vanishes, small enough that ten publishers' blocks stay in the L2 cache.
const BLOCK_BYTES: usize = 65_536;
const BLOCK_PACKETS_MAX: usize = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_due_in_turn_across_publishers() {
        let schedule = Schedule {
            start: 100,
            rate: 1_000_000,
            publishers: 2,
        };
        let due: Vec<u64> = (0..2)
            .flat_map(|sequence| (0..2).map(move |index| schedule.due(index, sequence)))
            .collect();
        assert_eq!(due, [100, 1_100, 2_100, 3_100]);
    }

    #[test]
    fn due_count_agrees_with_due() {
        let schedule = Schedule {
            start: 5,
            rate: 3_333,
            publishers: 3,
        };
        for index in 0..3 {
            for sequence in 0..50 {
                let due = schedule.due(index, sequence);
                // Both are rounded down, so at the nanosecond itself either answer would do.
                assert!(schedule.due_count(index, due + 1) > sequence);
                assert!(schedule.due_count(index, due - due.min(1)) <= sequence + 1);
            }
        }
    }
}
