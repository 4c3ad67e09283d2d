//! QoS 1 and 2 messages between our PUBLISH and the last acknowledgement of it, in the order they were sent.
//!
//! Packet ids are given out one after the other, so the window is a ring: an entry's place is its id's distance from the
//! first one. What is acknowledged out of order stays as `Done` until everything before it is gone. At 65,535 entries,
//! holes included, nothing more is sent [MQTT-2.2.1-4].

use std::collections::VecDeque;
use std::sync::Arc;

use nightjar_codec::{PacketId, QoS};
use nightjar_storage::{MessageId, StoredMessage};

use super::counters::Gauge;
use crate::identity::{Origin, Ticket};

/// What this exchange waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// QoS 1 sent.
    AwaitPuback,
    /// QoS 2 sent.
    AwaitPubrec,
    /// PUBREC seen: the message is the client's, only the id is still ours.
    AwaitPubcomp,
    /// Finished, but something before it is not.
    Done,
}

/// A message a session keeps, with how it is to be sent.
#[derive(Clone, Debug)]
pub struct Kept {
    pub message: Arc<StoredMessage>,
    pub qos: QoS,
    pub retain: bool,
    pub subscription_identifiers: Box<[u32]>,
    pub origin: Origin,
    /// Bytes taken from the session's budget, 0 for none.
    pub reserved: u64,
}

/// One exchange.
#[derive(Debug)]
pub struct Entry {
    pub state: State,
    /// Kept where the session can come back or a share group wants it back; else the bytes are on their way and that is all.
    pub kept: Option<Box<Kept>>,
    pub origin: Origin,
    /// What the store calls it, 0 where the store does not know it.
    pub message_id: MessageId,
    /// Leaves once this is durable (D2: the packet id of QoS 2 before PUBLISH, PUBREC before PUBREL).
    pub hold: Option<Ticket>,
    /// It was on the wire once, on this connection or an earlier one.
    pub sent_before: bool,
    /// Its PUBLISH was sent on the present connection, so its end opens the client's window.
    pub counted: bool,
    /// Bytes of its payload.
    pub bytes: u32,
}

impl Entry {
    fn done() -> Self {
        Self {
            state: State::Done,
            kept: None,
            origin: Origin::Direct,
            message_id: 0,
            hold: None,
            sent_before: true,
            counted: false,
            bytes: 0,
        }
    }
}

#[derive(Debug)]
pub struct Inflight {
    first: u16,
    next: u16,
    entries: VecDeque<Entry>,
    /// Entries that are not `Done`. All four numbers are in one word: every session has them.
    live: u16,
    /// Entries before this one have been sent on the present connection.
    unsent: u16,
    /// Of the payloads of those that are live.
    bytes: u64,
    /// Has `live` of every session.
    gauge: Gauge,
}

impl Default for Inflight {
    fn default() -> Self {
        Self::counted_in(Gauge::default())
    }
}

impl Drop for Inflight {
    fn drop(&mut self) {
        self.gauge.take(self.len());
    }
}

impl Inflight {
    pub fn counted_in(gauge: Gauge) -> Self {
        Self {
            first: 1,
            next: 1,
            entries: VecDeque::new(),
            live: 0,
            bytes: 0,
            unsent: 0,
            gauge,
        }
    }

    /// Forgets every exchange.
    pub fn clear(&mut self) {
        *self = Self::counted_in(self.gauge.clone());
    }

    /// Exchanges that are not finished.
    pub fn len(&self) -> usize {
        usize::from(self.live)
    }

    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// Bytes of the payloads of exchanges that are not finished.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn is_full(&self) -> bool {
        self.entries.len() >= usize::from(u16::MAX)
    }

    /// Begins an exchange under the next packet id. The caller has checked `is_full` and sends it in order.
    pub fn begin(&mut self, entry: Entry) -> PacketId {
        debug_assert!(!self.is_full(), "no packet id is free");
        let packet_id = self.next;
        if self.entries.is_empty() {
            self.first = packet_id;
            self.unsent = 0;
        }
        if usize::from(self.unsent) == self.entries.len() {
            self.unsent += 1;
        }
        self.next = successor(packet_id);
        self.bytes += u64::from(entry.bytes);
        self.entries.push_back(entry);
        self.live += 1;
        self.gauge.add(1);
        PacketId::new(packet_id).expect("the ring holds 1 to 65,535")
    }

    pub fn find(&mut self, packet_id: PacketId) -> Option<&mut Entry> {
        let place = distance(self.first, packet_id.get());
        self.entries
            .get_mut(place)
            .filter(|entry| entry.state != State::Done)
    }

    /// Ends an exchange.
    pub fn finish(&mut self, packet_id: PacketId) -> Option<Entry> {
        let place = distance(self.first, packet_id.get());
        let entry = self
            .entries
            .get_mut(place)
            .filter(|entry| entry.state != State::Done)?;
        let finished = std::mem::replace(entry, Entry::done());
        self.live -= 1;
        self.bytes -= u64::from(finished.bytes);
        self.gauge.take(1);
        while self
            .entries
            .front()
            .is_some_and(|entry| entry.state == State::Done)
        {
            self.entries.pop_front();
            self.first = successor(self.first);
            self.unsent = self.unsent.saturating_sub(1);
        }
        Some(finished)
    }

    /// A new connection: everything is sent again, from the first on [MQTT-4.4.0-1].
    pub fn rewind(&mut self) {
        self.unsent = 0;
        for entry in &mut self.entries {
            entry.counted = false;
        }
    }

    /// The next exchange that the present connection has not seen.
    pub fn next_unsent(&mut self) -> Option<(PacketId, &mut Entry)> {
        while self
            .entries
            .get(usize::from(self.unsent))
            .is_some_and(|entry| entry.state == State::Done)
        {
            self.unsent += 1;
        }
        let packet_id = PacketId::new(advance(self.first, usize::from(self.unsent)))?;
        self.entries
            .get_mut(usize::from(self.unsent))
            .map(|entry| (packet_id, entry))
    }

    pub fn has_unsent(&mut self) -> bool {
        self.next_unsent().is_some()
    }

    pub fn mark_sent(&mut self) {
        self.unsent += 1;
    }

    /// Every unfinished exchange, in order.
    pub fn iter(&self) -> impl Iterator<Item = (PacketId, &Entry)> {
        self.entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| entry.state != State::Done)
            .filter_map(|(place, entry)| Some((PacketId::new(advance(self.first, place))?, entry)))
    }

    /// The same, to change them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (PacketId, &mut Entry)> {
        let first = self.first;
        self.entries
            .iter_mut()
            .enumerate()
            .filter(|(_, entry)| entry.state != State::Done)
            .filter_map(move |(place, entry)| Some((PacketId::new(advance(first, place))?, entry)))
    }

    /// Puts back an exchange read from the store. In the order in which they were begun.
    pub fn restore(&mut self, packet_id: PacketId, entry: Entry) {
        let packet_id = packet_id.get();
        if self.entries.is_empty() {
            self.first = packet_id;
            self.next = packet_id;
        }
        while self.next != packet_id && !self.is_full() {
            self.entries.push_back(Entry::done());
            self.next = successor(self.next);
        }
        self.bytes += u64::from(entry.bytes);
        self.entries.push_back(entry);
        self.next = successor(packet_id);
        self.live = self.live.saturating_add(1);
        self.gauge.add(1);
        self.unsent = 0;
    }
}

fn successor(packet_id: u16) -> u16 {
    if packet_id == u16::MAX {
        1
    } else {
        packet_id + 1
    }
}

/// Steps from `first` to `packet_id` around the ring of 1..=65,535.
fn distance(first: u16, packet_id: u16) -> usize {
    if packet_id >= first {
        usize::from(packet_id - first)
    } else {
        usize::from(u16::MAX - first) + usize::from(packet_id)
    }
}

fn advance(first: u16, steps: usize) -> u16 {
    let place = (usize::from(first) - 1 + steps) % usize::from(u16::MAX);
    u16::try_from(place + 1).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry {
            state: State::AwaitPuback,
            sent_before: false,
            ..Entry::done()
        }
    }

    #[test]
    fn packet_ids_go_round_the_ring_without_0_and_without_reuse() {
        let mut inflight = Inflight::default();
        for expected in (1..=u16::MAX).chain(1..=10) {
            let packet_id = inflight.begin(entry());
            assert_eq!(packet_id.get(), expected);
            assert!(inflight.finish(packet_id).is_some());
            assert!(inflight.finish(packet_id).is_none());
        }
    }

    #[test]
    fn an_id_in_flight_is_never_given_out_again() {
        let mut inflight = Inflight::default();
        let first = inflight.begin(entry());
        for _ in 1..u16::MAX {
            let packet_id = inflight.begin(entry());
            inflight.finish(packet_id);
        }
        assert!(inflight.is_full());
        inflight.finish(first);
        assert!(!inflight.is_full() && inflight.is_empty());
        assert_eq!(inflight.begin(entry()).get(), 1);
    }

    #[test]
    fn rewinding_sends_what_is_unfinished_in_the_original_order() {
        let mut inflight = Inflight::default();
        let ids: Vec<_> = (0..4).map(|_| inflight.begin(entry())).collect();
        assert!(!inflight.has_unsent());
        inflight.finish(ids[1]);
        inflight.rewind();
        let mut again = Vec::new();
        while let Some((packet_id, _)) = inflight.next_unsent() {
            again.push(packet_id);
            inflight.mark_sent();
        }
        assert_eq!(again, [ids[0], ids[2], ids[3]]);
    }

    #[test]
    fn restoring_keeps_ids_and_order_across_the_end_of_the_ring() {
        let mut inflight = Inflight::default();
        for id in [65_534, 2, 3] {
            inflight.restore(PacketId::new(id).unwrap(), entry());
        }
        let ids: Vec<_> = inflight.iter().map(|(id, _)| id.get()).collect();
        assert_eq!(ids, [65_534, 2, 3]);
        assert_eq!(inflight.begin(entry()).get(), 4);
    }
}
