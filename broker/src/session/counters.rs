//! What happened on one shard, in plain numbers that only that shard's thread touches.
//!
//! In: additions, one a packet, message, connection or session. Out: a copy when the metrics room asks for one; `add` makes
//! one sum of the copies of all shards. Everything here only grows, but for the two fields that say otherwise.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use nightjar_codec::ReasonCode;

/// One shard's numbers, or the sum of several.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Control Packets from clients, by the type in their first four bits.
    pub packets_received: [u64; 16],
    /// Control Packets to clients but PUBLISH, which `messages_sent` has.
    pub packets_sent: [u64; 16],
    /// Application Messages by QoS: as their publishers sent them, without repeats and what was refused, and as they were sent
    /// to subscribers, repeats included.
    pub messages_received: [u64; 3],
    pub messages_sent: [u64; 3],
    /// Bytes of the payloads of these.
    pub payload_bytes_received: u64,
    pub payload_bytes_sent: u64,
    pub dropped_queue_full: u64,
    pub dropped_send_buffer_full: u64,
    pub dropped_too_large: u64,
    pub dropped_expired: u64,
    pub dropped_offline: u64,
    /// Messages that no subscription matched.
    pub dropped_no_subscribers: u64,
    /// Messages that their publisher may not publish.
    pub publishes_not_authorized: u64,
    /// Messages that a subscriber may not read, once for each such subscriber.
    pub deliveries_denied: u64,
    /// Topic Filters that were refused because not all of what they match may be read.
    pub subscribes_denied: u64,
    /// Wills, at CONNECT and when they were to be published.
    pub wills_denied: u64,
    pub retained_refused: u64,
    pub retained_unwritten: u64,
    /// Messages that were refused because the journal had failed.
    pub publishes_not_owned: u64,
    /// CONNECTs that were accepted, and the ends of what they began.
    pub connects_accepted: u64,
    pub disconnects: u64,
    pub sessions_created: u64,
    /// Sessions that ended, by [`SessionEnd`].
    pub sessions_ended: [u64; SessionEnd::ALL.len()],
    pub violations: u64,
    /// Passwords and proofs that were right, and wrong; refused unseen after too many failures; not compared because too many
    /// waited for that.
    pub logins_accepted: u64,
    pub logins_refused: u64,
    pub logins_unseen: u64,
    pub logins_busy: u64,
    /// CONNECTs whose client id is not the name in their certificate.
    pub client_ids_not_bound: u64,
    pub panics: u64,
    pub journal_refused: u64,
    /// How often a connection was not read because too much waited for the journal, and for how long in all (D4).
    pub connections_paused: u64,
    pub paused_milliseconds: u64,
    /// Goes down, too: connections that did not take what they were offered last.
    pub connections_behind: u64,
}

/// What went through the connections of one listener.
#[derive(Clone, Copy, Debug, Default)]
pub struct ByListener {
    /// Bytes of MQTT read from and written to sockets.
    pub bytes_received: u64,
    pub bytes_sent: u64,
    /// Connections that ended, by [`Closed`].
    pub closed: [u64; Closed::ALL.len()],
    /// CONNECTs that were refused, by the code that says why.
    pub refused: ByReason,
}

/// Everything that one shard counts, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Numbers {
    pub counters: Counters,
    /// By the names of the listeners.
    pub listeners: Vec<(Arc<str>, ByListener)>,
    /// QoS 1 and 2 messages sent to clients, and QoS 2 messages received from them, that are not acknowledged to the end.
    pub inflight_outbound: u64,
    pub inflight_inbound: u64,
}

/// A number of things that all sessions of one shard have together.
#[derive(Clone, Debug, Default)]
pub struct Gauge(Rc<Cell<u64>>);

/// What is on its way, of all sessions of one shard.
#[derive(Clone, Debug, Default)]
pub struct InflightGauges {
    pub outbound: Gauge,
    pub inbound: Gauge,
}

impl Gauge {
    #[inline]
    pub fn add(&self, count: usize) {
        self.0.set(self.0.get() + count as u64);
    }

    #[inline]
    pub fn take(&self, count: usize) {
        debug_assert!(self.0.get() >= count as u64, "less than nothing");
        self.0.set(self.0.get().saturating_sub(count as u64));
    }

    pub fn value(&self) -> u64 {
        self.0.get()
    }
}

impl ByListener {
    pub fn add(&mut self, other: &Self) {
        let Self {
            bytes_received,
            bytes_sent,
            closed,
            refused,
        } = other;
        self.bytes_received += bytes_received;
        self.bytes_sent += bytes_sent;
        add_each(&mut self.closed, closed);
        add_each(&mut self.refused.0, &refused.0);
    }
}

impl Numbers {
    /// Adds the numbers of another shard.
    pub fn add(&mut self, other: &Self) {
        self.counters.add(&other.counters);
        for (name, more) in &other.listeners {
            self.of_listener(name).add(more);
        }
        self.inflight_outbound += other.inflight_outbound;
        self.inflight_inbound += other.inflight_inbound;
    }

    /// Those of a listener, which begin here if they are new.
    pub fn of_listener(&mut self, name: &Arc<str>) -> &mut ByListener {
        let known = self.listeners.iter().position(|(known, _)| known == name);
        let place = known.unwrap_or(self.listeners.len());
        if known.is_none() {
            self.listeners
                .push((Arc::clone(name), ByListener::default()));
        }
        let (_, of_listener) = &mut self.listeners[place];
        of_listener
    }
}

impl Counters {
    /// One packet from a client.
    #[inline]
    pub fn count_received(&mut self, first_byte: u8) {
        // Four bits of a byte: never out of bounds, which the compiler sees.
        self.packets_received[usize::from(first_byte >> 4)] += 1;
    }

    /// One packet to a client that is no PUBLISH.
    #[inline]
    pub fn count_sent(&mut self, first_byte: u8) {
        self.packets_sent[usize::from(first_byte >> 4)] += 1;
    }

    /// Control Packets from clients, of every type.
    pub fn all_packets_received(&self) -> u64 {
        self.packets_received.iter().sum()
    }

    /// Control Packets to clients, of every type.
    pub fn all_packets_sent(&self) -> u64 {
        self.packets_sent.iter().chain(&self.messages_sent).sum()
    }

    /// Messages that were for a subscriber and did not get there.
    pub fn dropped_on_the_way(&self) -> u64 {
        self.dropped_queue_full
            + self.dropped_send_buffer_full
            + self.dropped_too_large
            + self.dropped_expired
            + self.dropped_offline
    }

    /// Clients that are connected and were accepted.
    pub fn clients_connected(&self) -> u64 {
        self.connects_accepted.saturating_sub(self.disconnects)
    }

    /// Adds the numbers of another shard.
    pub fn add(&mut self, other: &Self) {
        // Taken apart, so that a new field cannot be forgotten.
        let Self {
            packets_received,
            packets_sent,
            messages_received,
            messages_sent,
            payload_bytes_received,
            payload_bytes_sent,
            dropped_queue_full,
            dropped_send_buffer_full,
            dropped_too_large,
            dropped_expired,
            dropped_offline,
            dropped_no_subscribers,
            publishes_not_authorized,
            deliveries_denied,
            subscribes_denied,
            wills_denied,
            retained_refused,
            retained_unwritten,
            publishes_not_owned,
            connects_accepted,
            disconnects,
            sessions_created,
            sessions_ended,
            violations,
            logins_accepted,
            logins_refused,
            logins_unseen,
            logins_busy,
            client_ids_not_bound,
            panics,
            journal_refused,
            connections_paused,
            paused_milliseconds,
            connections_behind,
        } = other;
        add_each(&mut self.packets_received, packets_received);
        add_each(&mut self.packets_sent, packets_sent);
        add_each(&mut self.messages_received, messages_received);
        add_each(&mut self.messages_sent, messages_sent);
        add_each(&mut self.sessions_ended, sessions_ended);
        self.payload_bytes_received += payload_bytes_received;
        self.payload_bytes_sent += payload_bytes_sent;
        self.dropped_queue_full += dropped_queue_full;
        self.dropped_send_buffer_full += dropped_send_buffer_full;
        self.dropped_too_large += dropped_too_large;
        self.dropped_expired += dropped_expired;
        self.dropped_offline += dropped_offline;
        self.dropped_no_subscribers += dropped_no_subscribers;
        self.publishes_not_authorized += publishes_not_authorized;
        self.deliveries_denied += deliveries_denied;
        self.subscribes_denied += subscribes_denied;
        self.wills_denied += wills_denied;
        self.retained_refused += retained_refused;
        self.retained_unwritten += retained_unwritten;
        self.publishes_not_owned += publishes_not_owned;
        self.connects_accepted += connects_accepted;
        self.disconnects += disconnects;
        self.sessions_created += sessions_created;
        self.violations += violations;
        self.logins_accepted += logins_accepted;
        self.logins_refused += logins_refused;
        self.logins_unseen += logins_unseen;
        self.logins_busy += logins_busy;
        self.client_ids_not_bound += client_ids_not_bound;
        self.panics += panics;
        self.journal_refused += journal_refused;
        self.connections_paused += connections_paused;
        self.paused_milliseconds += paused_milliseconds;
        self.connections_behind += connections_behind;
    }
}

/// Why a connection ended, as coarse as a label has to be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Closed {
    /// DISCONNECT from the client.
    Disconnect,
    /// The client closed its connection, or it broke.
    Peer,
    KeepAlive,
    ConnectTimeout,
    TakenOver,
    Refused,
    /// After a reload it may not be here any more.
    NotAuthorized,
    /// Its certificate is not good any more.
    Certificate,
    ProtocolError,
    /// What was asked for could not be stored.
    NotStored,
    /// A bound of ours.
    Server,
    ShutDown,
    Panic,
}

impl Closed {
    /// With the words of the label.
    pub const ALL: [(Self, &str); 13] = [
        (Self::Disconnect, "disconnect"),
        (Self::Peer, "peer"),
        (Self::KeepAlive, "keep_alive"),
        (Self::ConnectTimeout, "connect_timeout"),
        (Self::TakenOver, "taken_over"),
        (Self::Refused, "refused"),
        (Self::NotAuthorized, "not_authorized"),
        (Self::Certificate, "certificate"),
        (Self::ProtocolError, "protocol_error"),
        (Self::NotStored, "not_stored"),
        (Self::Server, "server"),
        (Self::ShutDown, "shutdown"),
        (Self::Panic, "panic"),
    ];
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SessionEnd {
    /// With its connection.
    Disconnect,
    Expired,
    /// Its client began anew.
    CleanStart,
}

impl SessionEnd {
    /// With the words of the label.
    pub const ALL: [(Self, &str); 3] = [
        (Self::Disconnect, "disconnect"),
        (Self::Expired, "expired"),
        (Self::CleanStart, "clean_start"),
    ];
}

/// A number for each Reason Code that is an error.
#[derive(Clone, Copy, Debug)]
pub struct ByReason([u64; 128]);

impl ByReason {
    pub fn count(&mut self, reason_code: ReasonCode) {
        self.0[usize::from(reason_code.as_u8() & 0x7f)] += 1;
    }

    pub fn of(&self, reason_code: ReasonCode) -> u64 {
        self.0[usize::from(reason_code.as_u8() & 0x7f)]
    }
}

impl Default for ByReason {
    fn default() -> Self {
        Self([0; 128])
    }
}

fn add_each<const N: usize>(sum: &mut [u64; N], more: &[u64; N]) {
    for (sum, more) in sum.iter_mut().zip(more) {
        *sum += more;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_stand_where_their_numbers_are() {
        for (place, (closed, _)) in Closed::ALL.iter().enumerate() {
            assert_eq!(*closed as usize, place);
        }
        for (place, (end, _)) in SessionEnd::ALL.iter().enumerate() {
            assert_eq!(*end as usize, place);
        }
    }

    #[test]
    fn the_sum_of_two_shards_has_the_packets_of_both() {
        let mut one = Counters::default();
        one.count_received(0x10);
        one.count_received(0x3d);
        one.count_sent(0x20);
        one.messages_sent[2] = 3;
        let mut sum = one;
        sum.add(&one);
        assert_eq!((sum.all_packets_received(), sum.all_packets_sent()), (4, 8));
        assert_eq!(sum.packets_received[3], 2);
    }

    #[test]
    fn the_sum_of_two_shards_has_the_listeners_of_both() {
        let (here, there) = (Arc::from("here"), Arc::from("there"));
        let mut one = Numbers::default();
        let of_one = one.of_listener(&here);
        of_one.bytes_received = 3;
        of_one.refused.count(ReasonCode::NotAuthorized);
        let mut sum = Numbers::default();
        sum.of_listener(&there).bytes_received = 5;
        sum.add(&one);
        sum.add(&one);
        assert_eq!(sum.listeners.len(), 2);
        assert_eq!(sum.of_listener(&there).bytes_received, 5);
        let of_both = sum.of_listener(&here);
        assert_eq!(of_both.bytes_received, 6);
        assert_eq!(of_both.refused.of(ReasonCode::NotAuthorized), 2);
    }
}
