//! PUBLISH from the client (3.3): alias, limits, QoS 2 seen before, and the acknowledgement when it is owned.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use nightjar_codec::packet::PublishRef;
use nightjar_codec::{
    Acknowledgement, AcknowledgementProperties, Packet, PacketId, ProtocolVersion, QoS, ReasonCode,
};
use nightjar_storage::Operation;

use super::counters::Gauge;
use super::output::Outputs;
use super::reason_string::Audience;
use super::seldom::Seldom;
use super::{AcknowledgementFifo, Session, Violation, WaitingAcknowledgement};
use crate::control;
use crate::identity::Ticket;
use crate::settings::Settings;

/// What a PUBLISH asks the shard to do.
pub enum Inbound {
    /// Give it to the exchange under this topic, then call `handle_accepted`.
    Publish {
        topic: ResolvedTopic,
        receipt: Receipt,
    },
    /// A request to the broker itself: answer it, then call `handle_accepted`.
    Control { receipt: Receipt },
    /// A repeat that was answered, or will be when what it repeats is durable.
    Answered,
    /// Not now, after an earlier one was refused; it will come again.
    Refused,
    /// The client may not publish there: acknowledged negatively where the version can, never forwarded.
    Denied { topic: ResolvedTopic },
    /// Leave it unread: the client has too much unreleased (D22).
    Wait,
}

/// The topic after alias resolution.
pub enum ResolvedTopic {
    /// As in the packet.
    InPacket,
    Aliased(Arc<str>),
    /// Below the listener's mount point.
    Mounted(Arc<str>),
}

impl ResolvedTopic {
    /// The topic itself; `in_packet` is what stands in the packet.
    #[inline]
    pub fn name<'a>(&'a self, in_packet: &'a str) -> &'a str {
        match self {
            Self::InPacket => in_packet,
            Self::Aliased(topic) | Self::Mounted(topic) => topic,
        }
    }
}

/// What is owed to the publisher once the message is owned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Receipt {
    None,
    Puback(PacketId),
    Pubrec(PacketId),
}

/// Inbound QoS 2 packet ids between PUBLISH and PUBREL.
#[derive(Debug, Default)]
pub struct UnreleasedQos2 {
    /// Nothing goes through it in its order. Ids are the client's choice, but there are few of them: no seed is needed.
    ids: Seldom<HashMap<PacketId, Unreleased, FixedState>>,
    bytes: u64,
    /// Has as many of every session.
    gauge: Gauge,
}

#[derive(Debug)]
struct Unreleased {
    /// Fingerprint of topic and payload, to tell a repeat from another message under the same id (D21).
    fingerprint: u64,
    /// How often the identical packet came with DUP 0 on this connection.
    without_dup: u8,
    bytes: u64,
    /// PUBREC leaves once this is durable.
    ticket: Option<Ticket>,
    reason_code: ReasonCode,
    /// The exchange has it: a repeat is one. False only while the PUBLISH is being served.
    accepted: bool,
}

impl Drop for UnreleasedQos2 {
    fn drop(&mut self) {
        self.gauge.take(self.ids.len());
    }
}

impl UnreleasedQos2 {
    pub fn counted_in(gauge: Gauge) -> Self {
        let mut none = Self::default();
        none.gauge = gauge;
        none
    }

    pub fn len(&self) -> usize {
        self.ids.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    pub fn contains(&self, packet_id: PacketId) -> bool {
        self.ids.contains_key(&packet_id)
    }

    /// Puts back an id read from the store.
    pub fn restore(&mut self, packet_id: PacketId) {
        let unreleased = Unreleased {
            fingerprint: 0,
            without_dup: 0,
            bytes: 0,
            ticket: None,
            reason_code: ReasonCode::Success,
            accepted: true,
        };
        self.insert(packet_id, unreleased);
    }

    fn insert(&mut self, packet_id: PacketId, unreleased: Unreleased) {
        self.bytes += unreleased.bytes;
        self.gauge.add(1);
        if let Some(replaced) = self.ids.insert(packet_id, unreleased) {
            self.bytes -= replaced.bytes;
            self.gauge.take(1);
        }
    }

    /// What was begun and not taken by the exchange is not known: its repeat is a new message.
    pub fn forget_unaccepted(&mut self) {
        if self.ids.is_empty() {
            return;
        }
        self.ids.retain(|_, unreleased| {
            if !unreleased.accepted {
                self.bytes -= unreleased.bytes;
                self.gauge.take(1);
            }
            unreleased.accepted
        });
    }

    /// D21 counts repeats within one connection.
    pub fn forget_repeats(&mut self) {
        if self.ids.is_empty() {
            return;
        }
        for unreleased in self.ids.values_mut() {
            unreleased.without_dup = 0;
        }
    }

    pub(super) fn remove(&mut self, packet_id: PacketId) -> bool {
        if self.ids.is_empty() {
            return false;
        }
        let removed = self.ids.remove(&packet_id);
        self.bytes -= removed.as_ref().map_or(0, |unreleased| unreleased.bytes);
        self.gauge.take(usize::from(removed.is_some()));
        removed.is_some()
    }

    fn is_full(&self, settings: &Settings) -> bool {
        self.ids.len() >= usize::from(settings.qos2_unreleased_max)
            || self.bytes >= settings.qos2_unreleased_bytes_max
    }
}

impl Session {
    /// Checks one PUBLISH in the order of the rooms: resolve, validate, authorize. May push PUBACK or PUBREC. `allowed_topic`: one
    /// that this client was found to be allowed under the rules in force.
    // Inlined for certain: its result, returned through memory in small pieces, costs a tenth of the QoS 0 path.
    #[inline(always)]
    pub fn handle_publish(
        &mut self,
        publish: &PublishRef<'_>,
        allowed_topic: &str,
        out: &mut Outputs<'_>,
    ) -> Result<Inbound, Violation> {
        let link = self.link.as_mut().expect("a packet comes over a link");
        if publish.properties.has_subscription_identifier {
            return Err(Violation::SubscriptionIdentifierFromClient); // [MQTT-3.3.4-6]
        }
        let alias_maximum = link.terms.topic_alias_maximum;
        let topic = match publish.properties.topic_alias {
            Some(alias) if publish.topic.is_empty() => {
                ResolvedTopic::Aliased(link.inbound_aliases.resolve(alias, alias_maximum)?)
            }
            Some(alias) => {
                super::topic_alias::check(alias, alias_maximum)?;
                ResolvedTopic::InPacket
            }
            None => ResolvedTopic::InPacket,
        };
        if publish.qos as u8 > link.terms.maximum_qos {
            return Err(Violation::QosNotSupported); // [MQTT-3.2.2-11]
        }
        if publish.retain && !out.settings.retain_available {
            return Err(Violation::RetainNotSupported); // [MQTT-3.2.2-14]
        }
        let name = topic.name(publish.topic);
        let is_denied = match &self.access {
            None => false,
            // What is known to be allowed is a whole topic. A repeat of what is owned already is answered as that was.
            Some(access) => {
                (link.terms.is_mounted() || name != allowed_topic)
                    && !access.may_publish(name)
                    && publish.packet_id.is_none_or(|packet_id| {
                        publish.qos != QoS::ExactlyOnce || !self.unreleased.contains(packet_id)
                    })
            }
        };
        if is_denied || !may_publish_to(name) {
            if self.may_ask_broker(name, out.settings) {
                return self.handle_control(publish, out);
            }
            out.counters.publishes_not_authorized += 1;
            self.refuse(publish, ReasonCode::NotAuthorized, out)?;
            return Ok(Inbound::Denied { topic });
        }
        if let (Some(alias), ResolvedTopic::InPacket) = (publish.properties.topic_alias, &topic) {
            // Only after it was found to be allowed: a refused publish sets no alias.
            link.inbound_aliases
                .set(alias, alias_maximum, publish.topic)?;
        }
        let topic = if link.terms.is_mounted() {
            match link.terms.mounted_topic(name) {
                Some(whole) => ResolvedTopic::Mounted(whole),
                None => {
                    self.refuse(publish, ReasonCode::TopicNameInvalid, out)?;
                    return Ok(Inbound::Refused);
                }
            }
        } else {
            topic
        };
        let bound = u64::from(out.settings.payload_bytes_max);
        if bound != 0 && publish.payload.len() as u64 > bound {
            out.counters.dropped_too_large += 1;
            self.refuse(publish, ReasonCode::ImplementationSpecificError, out)?;
            return Ok(Inbound::Refused);
        }
        let name = topic.name(publish.topic);
        if link.rarities.refused_at.is_some() && publish.qos > QoS::AtMostOnce {
            // It will come again behind the one that was refused, in the order in which it was sent [MQTT-4.6.0-1].
            return Ok(Inbound::Refused);
        }
        let receipt = match (publish.qos, publish.packet_id) {
            (QoS::AtLeastOnce, Some(packet_id)) => {
                self.count_unacknowledged(out.settings)?;
                Receipt::Puback(packet_id)
            }
            (QoS::ExactlyOnce, Some(packet_id)) => {
                if let Some(settled) = self.begin_qos2(packet_id, publish, name, out)? {
                    return Ok(settled);
                }
                Receipt::Pubrec(packet_id)
            }
            _ => Receipt::None,
        };
        out.counters.messages_received[publish.qos as usize] += 1;
        out.counters.payload_bytes_received += publish.payload.len() as u64;
        Ok(Inbound::Publish { topic, receipt })
    }

    /// Remembers the packet id of a QoS 2 message. `Some`: there is no message to serve, or not yet.
    fn begin_qos2(
        &mut self,
        packet_id: PacketId,
        publish: &PublishRef<'_>,
        topic: &str,
        out: &mut Outputs<'_>,
    ) -> Result<Option<Inbound>, Violation> {
        if self.unreleased.contains(packet_id) {
            return self.handle_repeat(packet_id, publish, topic, out).map(Some);
        }
        if !self.version.is_v5() && self.unreleased.is_full(out.settings) {
            return Ok(Some(Inbound::Wait));
        }
        self.count_unacknowledged(out.settings)?;
        let unreleased = Unreleased {
            fingerprint: fingerprint(topic, publish.payload),
            without_dup: u8::from(!publish.dup),
            bytes: publish.payload.len() as u64,
            ticket: None,
            reason_code: ReasonCode::Success,
            accepted: false,
        };
        self.unreleased.insert(packet_id, unreleased);
        Ok(None)
    }

    /// What the broker is asked needs a rule that allows it, where other topics need none without an acl_file. Below a mount
    /// point this topic is another.
    #[cold]
    fn may_ask_broker(&self, topic: &str, settings: &Settings) -> bool {
        let is_mounted = self
            .link
            .as_ref()
            .is_some_and(|link| link.terms.is_mounted());
        is_control_request(topic, settings)
            && !is_mounted
            && self
                .access
                .as_ref()
                .is_some_and(|access| access.may_publish(topic))
    }

    /// A request to the broker itself is counted and acknowledged as every PUBLISH; the exchange does not see it.
    #[cold]
    fn handle_control(
        &mut self,
        publish: &PublishRef<'_>,
        out: &mut Outputs<'_>,
    ) -> Result<Inbound, Violation> {
        let link = self.link.as_mut().expect("a packet comes over a link");
        if let Some(alias) = publish.properties.topic_alias
            && !publish.topic.is_empty()
        {
            let maximum = link.terms.topic_alias_maximum;
            link.inbound_aliases.set(alias, maximum, publish.topic)?;
        }
        if link.rarities.refused_at.is_some() && publish.qos > QoS::AtMostOnce {
            return Ok(Inbound::Refused);
        }
        let receipt = match (publish.qos, publish.packet_id) {
            (QoS::AtLeastOnce, Some(packet_id)) => {
                self.count_unacknowledged(out.settings)?;
                Receipt::Puback(packet_id)
            }
            (QoS::ExactlyOnce, Some(packet_id)) => {
                let topic = control::REQUEST_TOPIC;
                if let Some(settled) = self.begin_qos2(packet_id, publish, topic, out)? {
                    return Ok(settled);
                }
                Receipt::Pubrec(packet_id)
            }
            _ => Receipt::None,
        };
        out.counters.messages_received[publish.qos as usize] += 1;
        out.counters.payload_bytes_received += publish.payload.len() as u64;
        Ok(Inbound::Control { receipt })
    }

    /// The exchange owns the message, or has refused it (`reason_code` of 0x80 or more).
    /// `ticket`: the batch that makes it true; `None`: it is true already.
    pub fn handle_accepted(
        &mut self,
        receipt: Receipt,
        reason_code: ReasonCode,
        mut ticket: Option<Ticket>,
        out: &mut Outputs<'_>,
    ) {
        match receipt {
            Receipt::None => {}
            Receipt::Puback(packet_id) => {
                self.acknowledge(Kind::Puback, packet_id, reason_code, ticket, out);
            }
            Receipt::Pubrec(packet_id) => {
                if reason_code.is_error() {
                    self.unreleased.remove(packet_id);
                } else {
                    if self.is_resumable() {
                        let client_id = Arc::clone(&self.receiver.client_id);
                        ticket = out.journal.push(Operation::ReceivedQos2 {
                            client_id,
                            packet_id: packet_id.get(),
                        });
                    }
                    if let Some(unreleased) = self.unreleased.ids.get_mut(&packet_id) {
                        unreleased.ticket = ticket;
                        unreleased.reason_code = reason_code;
                        unreleased.accepted = true;
                    }
                }
                self.acknowledge(Kind::Pubrec, packet_id, reason_code, ticket, out);
            }
        }
    }

    /// A PUBLISH that is not forwarded. 5.0 hears why; 3.x gets the positive acknowledgement [v3 MQTT-3.3.5-2].
    fn refuse(
        &mut self,
        publish: &PublishRef<'_>,
        reason_code: ReasonCode,
        out: &mut Outputs<'_>,
    ) -> Result<(), Violation> {
        let reason_code = if self.version.is_v5() {
            reason_code
        } else {
            ReasonCode::Success
        };
        match (publish.qos, publish.packet_id) {
            (QoS::AtLeastOnce, Some(packet_id)) => {
                self.count_unacknowledged(out.settings)?;
                self.acknowledge(Kind::Puback, packet_id, reason_code, None, out);
            }
            (QoS::ExactlyOnce, Some(packet_id)) => {
                self.count_unacknowledged(out.settings)?;
                self.acknowledge(Kind::Pubrec, packet_id, reason_code, None, out);
            }
            _ => {}
        }
        Ok(())
    }

    /// PUBREC for every repeat before PUBREL, one delivery [MQTT-4.3.3-10]; D21 has the one exception.
    fn handle_repeat(
        &mut self,
        packet_id: PacketId,
        publish: &PublishRef<'_>,
        topic: &str,
        out: &mut Outputs<'_>,
    ) -> Result<Inbound, Violation> {
        let Some(unreleased) = self.unreleased.ids.get_mut(&packet_id) else {
            return Ok(Inbound::Answered);
        };
        if !publish.dup && unreleased.fingerprint == fingerprint(topic, publish.payload) {
            unreleased.without_dup = unreleased.without_dup.saturating_add(1);
            if unreleased.without_dup > 2 {
                return Err(Violation::RepeatedWithoutDup);
            }
        }
        let (ticket, reason_code) = (unreleased.ticket, unreleased.reason_code);
        let ticket = ticket.filter(|ticket| !out.journal.is_durable(*ticket));
        self.acknowledge(Kind::Pubrec, packet_id, reason_code, ticket, out);
        Ok(Inbound::Answered)
    }

    fn count_unacknowledged(&mut self, settings: &Settings) -> Result<(), Violation> {
        let v5 = self.version.is_v5();
        let Some(link) = self.link.as_mut() else {
            return Ok(());
        };
        if v5 && link.unacknowledged >= settings.receive_maximum {
            return Err(Violation::ReceiveMaximumExceeded); // [MQTT-3.3.4-7]
        }
        link.unacknowledged = link.unacknowledged.saturating_add(1);
        Ok(())
    }

    /// Sends an acknowledgement, or puts it behind what it waits for. An acknowledgement without a ticket of its own
    /// waits only for those before it in its FIFO (D3).
    pub(super) fn acknowledge(
        &mut self,
        kind: Kind,
        packet_id: PacketId,
        reason_code: ReasonCode,
        ticket: Option<Ticket>,
        out: &mut Outputs<'_>,
    ) {
        let version = self.version;
        let Some(link) = self.link.as_mut() else {
            return;
        };
        let fifo = match kind {
            Kind::Puback => &mut link.pubacks,
            Kind::Pubrec => &mut link.pubrecs,
            Kind::Pubcomp | Kind::PubcompOfNothing => &mut link.pubcomps,
        };
        let ticket = ticket.into_iter().chain(fifo.last_ticket()).max();
        let waits = ticket.filter(|ticket| !out.journal.is_durable(*ticket));
        match waits.filter(|_| !link.from_memory) {
            Some(ticket) => {
                link.unheard_refusals += u32::from(reason_code == ReasonCode::QuotaExceeded);
                fifo.push(WaitingAcknowledgement {
                    kind,
                    ticket,
                    packet_id,
                    reason_code,
                });
            }
            None => {
                kind.write(
                    packet_id,
                    reason_code,
                    link.audience(version, out.settings),
                    version,
                    out,
                );
                kind.count_sent(reason_code, &mut link.unacknowledged);
            }
        }
    }

    /// Sends every acknowledgement whose batch is durable, in order.
    pub fn release_acknowledgements(&mut self, out: &mut Outputs<'_>) {
        let version = self.version;
        let Some(link) = self.link.as_mut() else {
            return;
        };
        let audience = link.audience(version, out.settings);
        for fifo in [&mut link.pubacks, &mut link.pubrecs, &mut link.pubcomps] {
            while let Some(first) = fifo.next_durable(out) {
                let kind = first.kind;
                let is_refusal = first.reason_code == ReasonCode::QuotaExceeded;
                link.unheard_refusals -= u32::from(is_refusal);
                kind.write(first.packet_id, first.reason_code, audience, version, out);
                kind.count_sent(first.reason_code, &mut link.unacknowledged);
            }
        }
    }
}

/// The acknowledgements we send to a publisher.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Puback,
    Pubrec,
    Pubcomp,
    /// Answers a PUBREL whose id we did not know.
    PubcompOfNothing,
}

impl Kind {
    fn write(
        self,
        packet_id: PacketId,
        reason_code: ReasonCode,
        audience: Audience,
        version: ProtocolVersion,
        out: &mut Outputs<'_>,
    ) {
        if reason_code.is_error() && audience.listens() {
            out.counters.count_sent(self.first_byte());
            self.write_explained(packet_id, reason_code, audience, version, out);
            return;
        }
        let first_byte = self.first_byte();
        super::acknowledge::write_short(first_byte, packet_id, reason_code, version, out);
    }

    fn first_byte(self) -> u8 {
        match self {
            Self::Puback => 0x40,
            Self::Pubrec => 0x50,
            Self::Pubcomp | Self::PubcompOfNothing => 0x70,
        }
    }

    fn write_explained(
        self,
        packet_id: PacketId,
        reason_code: ReasonCode,
        audience: Audience,
        version: ProtocolVersion,
        out: &mut Outputs<'_>,
    ) {
        let acknowledgement = Acknowledgement {
            packet_id,
            reason_code,
            properties: AcknowledgementProperties::default(),
        };
        let mut packet = match self {
            Self::Puback => Packet::Puback(acknowledgement),
            Self::Pubrec => Packet::Pubrec(acknowledgement),
            Self::Pubcomp | Self::PubcompOfNothing => Packet::Pubcomp(acknowledgement),
        };
        audience.explain(&mut packet, reason_code);
        let encoded = out.buffer().append(|bytes| packet.encode(version, bytes));
        debug_assert!(
            encoded.is_ok(),
            "an acknowledgement does not encode: {encoded:?}"
        );
    }

    /// Where the publisher's use of our Receive Maximum ends: PUBACK, PUBCOMP, or a PUBREC that refuses.
    fn count_sent(self, reason_code: ReasonCode, unacknowledged: &mut u16) {
        let ends = match self {
            Self::Puback | Self::Pubcomp => true,
            Self::Pubrec => reason_code.is_error(),
            Self::PubcompOfNothing => false,
        };
        if ends {
            *unacknowledged = unacknowledged.saturating_sub(1);
        }
    }
}

impl AcknowledgementFifo {
    fn next_durable(&mut self, out: &Outputs<'_>) -> Option<WaitingAcknowledgement> {
        let waiting = self.0.as_mut()?;
        let durable = waiting
            .front()
            .is_some_and(|first| out.journal.is_durable(first.ticket));
        if durable { waiting.pop_front() } else { None }
    }

    /// What the youngest of them waits for.
    pub(crate) fn last_ticket(&self) -> Option<Ticket> {
        let waiting = self.0.as_ref()?;
        waiting.back().map(|last| last.ticket)
    }

    fn push(&mut self, acknowledgement: WaitingAcknowledgement) {
        let waiting = self.0.get_or_insert_default();
        waiting.push_back(acknowledgement);
    }
}

/// `$SYS`, `$CONTROL` and `$share` belong to the broker; other topics that begin with `$` are ordinary topics. Bridges tell
/// the state of their connection below `$SYS/broker/connection/`, as they do with Mosquitto.
pub fn may_publish_to(topic: &str) -> bool {
    if !topic.starts_with('$') {
        return true;
    }
    let below = |root: &str| {
        topic
            .strip_prefix(root)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let bridge_state = topic.starts_with("$SYS/broker/connection/") && topic.ends_with("/state");
    bridge_state || !RESERVED.iter().any(|root| below(root))
}

/// Whether the broker itself is asked something there, if the rules allow it.
pub fn is_control_request(topic: &str, settings: &Settings) -> bool {
    settings.control_api && topic == control::REQUEST_TOPIC
}

const RESERVED: [&str; 3] = ["$SYS", "$CONTROL", "$share"];

fn fingerprint(topic: &str, payload: &[u8]) -> u64 {
    // Fixed seeds: the same bytes have the same fingerprint in every run. A collision merely closes a connection that
    // repeats itself without DUP.
    let mut hasher = FixedState::with_seed(0).build_hasher();
    hasher.write(topic.as_bytes());
    hasher.write(payload);
    hasher.finish()
}
