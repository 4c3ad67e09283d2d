//! CONNECT: from the first packet to a session that is served. Who the client is, is settled in `authenticate.rs` on the way.
//!
//! The shard that accepted the socket reads CONNECT; if the client id lives elsewhere the connection goes there before
//! anything is answered (D13). On the home shard takeover is plain sequence: the old connection ends, then the new one is
//! attached, then CONNACK [MQTT-3.1.4-3].

use std::num::NonZeroU32;
use std::sync::Arc;

use bytes::Bytes;
use chacha20::rand_core::Rng;
use nightjar_codec::packet::Connect;
use nightjar_codec::{Packet, ProtocolVersion, ReasonCode, decode_from_client};

use super::authenticate::{Claimant, Refusal};
use super::{Cause, Phase, Shard};
use crate::clock::Now;
use crate::identity::{ConnectionId, SessionId, ShardId};
use crate::session::Session;
use crate::session::connect::{Admitted, admit, needs_client_id};
use crate::session::counters::SessionEnd;
use crate::settings::ListenerSettings;

impl Shard {
    /// The first packet. `Ok(Some)`: its client id lives on that shard.
    pub(super) fn greet(
        &mut self,
        now: Now,
        id: ConnectionId,
        packet: &[u8],
    ) -> Result<Option<ShardId>, Cause> {
        let version = ProtocolVersion::V3_1_1;
        let decoded = decode_from_client(
            &Bytes::copy_from_slice(packet),
            version,
            &self.pre_auth_limits,
        )
        .map_err(|error| Cause::Violation(error.into()))?;
        let Packet::Connect(mut connect) = decoded else {
            return Err(Cause::NotConnect);
        };
        if let Some(connection) = self.connections.get_mut(id.slot, id.generation) {
            connection.version = connect.protocol_version;
            connection.maximum_packet_size = connect
                .properties
                .maximum_packet_size
                .map_or(u32::MAX, NonZeroU32::get);
            connection.claimant = Some(Box::new(Claimant {
                client_id: connect.client_id.clone(),
                user: connect.username.clone(),
            }));
        }
        if self.draining {
            return Err(Cause::Refused(ReasonCode::ServerUnavailable));
        }
        let listener = self.check_listener(id, &connect)?;
        let security = listener.security.as_ref();
        let security = security.unwrap_or(&self.shared.settings.security);
        let assigned = needs_client_id(&connect, security).map_err(Cause::Refused)?;
        if listener.use_username_as_client_id {
            connect.client_id = self.proven_username(id, &listener, &connect)?;
        }
        let is_bound = self.bind_client_id(id, &listener, &mut connect)?;
        let is_made_up = assigned && !is_bound && !listener.use_username_as_client_id;
        if is_made_up {
            let prefix = listener.auto_id_prefix.clone();
            let prefix = prefix.unwrap_or_else(|| security.auto_id_prefix.clone());
            connect.client_id = self.new_client_id(&prefix);
        }
        if assigned
            && let Some(connection) = self.connections.get_mut(id.slot, id.generation)
            && let Some(claimant) = &mut connection.claimant
        {
            claimant.client_id.clone_from(&connect.client_id);
        }
        let home = self
            .shared
            .exchange
            .home(&connect.client_id, is_made_up.then_some(self.id));
        if home != self.id {
            return Ok(Some(home));
        }
        if super::trace::is_on() {
            self.trace_received(id, packet);
        }
        let method = connect.properties.authentication_method.clone();
        let result = match method {
            None => self.log_in(now, id, connect, assigned),
            Some(method) => self.begin_authentication(now, id, connect, &method, assigned),
        };
        result.map(|()| None)
    }

    /// The user name that takes the place of the client id. What a certificate says is not for the client to say.
    fn proven_username(
        &self,
        id: ConnectionId,
        listener: &ListenerSettings,
        connect: &Connect,
    ) -> Result<Box<str>, Cause> {
        let connection = self.connections.get(id.slot, id.generation);
        let connection = connection.ok_or(Cause::PeerGone)?;
        let by_certificate = listener.tls.as_ref().filter(|tls| tls.names_users());
        if let Some(tls) = by_certificate {
            return connection.user_by_certificate(tls).map(Into::into);
        }
        // An empty User Name is none.
        let username = connect.username.as_deref().filter(|name| !name.is_empty());
        let username = username.ok_or(Cause::Refused(ReasonCode::NotAuthorized))?;
        Ok(username.into())
    }

    /// What the listener does not let in, whoever it is.
    fn check_listener(
        &self,
        id: ConnectionId,
        connect: &Connect,
    ) -> Result<Arc<ListenerSettings>, Cause> {
        let connection = self.connections.get(id.slot, id.generation);
        let listener = connection.map(|connection| Arc::clone(&connection.listener));
        let listener = listener.ok_or(Cause::PeerGone)?;
        if !accepts_version(&listener, connect.protocol_version) {
            return Err(Cause::Refused(ReasonCode::UnsupportedProtocolVersion));
        }
        Ok(listener)
    }

    /// Who the client is has been settled: find or make its session, attach, answer.
    pub(super) fn start_serving(
        &mut self,
        now: Now,
        id: ConnectionId,
        mut connect: Connect,
        assigned: bool,
        authentication_data: Option<Bytes>,
    ) -> Result<(), Cause> {
        let settings = Arc::clone(&self.shared.settings);
        let Some(connection) = self.connections.get(id.slot, id.generation) else {
            return Ok(());
        };
        let listener = Arc::clone(&connection.listener);
        let mut admitted = admit(&mut connect, id, &settings, &listener).map_err(Cause::Refused)?;
        admitted.authentication_data = authentication_data;
        if !self.authorize(now, id, &connect.client_id, &mut admitted) {
            return Err(Cause::Refused(ReasonCode::NotAuthorized));
        }
        let answer = admitted.connack(false, assigned.then_some(&*connect.client_id));
        if answer.encoded_length(admitted.version) > admitted.link.maximum_packet_size as usize {
            return Err(Cause::Unanswerable); // [MQTT-3.1.2-24]
        }
        let existing = self.names.find(&self.sessions, &connect.client_id);
        if let Some(existing) = existing {
            let session = self.sessions.get(existing.slot, existing.generation);
            let user = admitted.user.as_deref();
            if session.is_some_and(|session| self.is_others(&settings, &listener, session, user)) {
                // It is neither resumed nor ended.
                return Err(Cause::NotAuthorised(Refusal::OthersSession));
            }
            self.take_over(now, existing);
        }
        self.in_shared_room(|shard| {
            shard.take_session(now, id, &connect.client_id, admitted, assigned)
        })
    }

    /// Finds or makes the session and attaches the connection to it.
    fn take_session(
        &mut self,
        now: Now,
        id: ConnectionId,
        client_id: &str,
        admitted: Admitted,
        assigned: bool,
    ) -> Result<(), Cause> {
        // The old connection may have been the session's end.
        let existing = self.names.find(&self.sessions, client_id);
        let will_cost = admitted.will.as_ref().map_or(0, |will| will.cost());
        let will_bytes = &self.shared.exchange.will_bytes;
        let replaced_cost = existing
            .and_then(|existing| self.sessions.get(existing.slot, existing.generation))
            .and_then(|session| session.will.as_ref())
            .map_or(0, |will| will.cost());
        if will_cost <= replaced_cost {
            // It takes the place of one that is given back below.
            will_bytes.take_anyway(will_cost);
        } else if !will_bytes.take(will_cost) {
            return Err(Cause::Refused(ReasonCode::QuotaExceeded));
        }
        let is_over = self.cancel_will_of_lost_connection(existing);
        let resumed = existing.filter(|_| !admitted.clean_start && !is_over);
        if let Some(existing) = existing
            && resumed.is_none()
        {
            self.end_session(now, existing, SessionEnd::CleanStart); // [MQTT-3.1.2-4]
        }
        let session = match resumed {
            Some(session) => session,
            None if !self.shared.exchange.sessions.take(1) => {
                self.shared.exchange.will_bytes.give_back(will_cost);
                return Err(Cause::Refused(ReasonCode::QuotaExceeded));
            }
            None => self.new_session(client_id, &admitted),
        };
        let present = resumed.is_some();
        self.attach(
            now,
            id,
            session,
            admitted,
            present,
            assigned.then_some(client_id),
        );
        Ok(())
    }

    /// What is left of a session that ended with the last process is its will, and its client is back before that was due
    /// (D10). True: there is nothing else of it.
    fn cancel_will_of_lost_connection(&mut self, existing: Option<SessionId>) -> bool {
        let session = existing.and_then(|id| self.sessions.get_mut(id.slot, id.generation));
        let Some(session) = session.filter(|session| session.is_over()) else {
            return false;
        };
        if let Some(will) = session.will.take() {
            self.shared.exchange.will_bytes.give_back(will.cost());
        }
        true
    }

    fn attach(
        &mut self,
        now: Now,
        id: ConnectionId,
        session_id: SessionId,
        mut admitted: Admitted,
        present: bool,
        assigned: Option<&str>,
    ) {
        let connack = admitted.connack(present, assigned);
        let will = admitted.will.take();
        let Some(session) = self
            .sessions
            .get_mut(session_id.slot, session_id.generation)
        else {
            return;
        };
        session.version = admitted.version;
        session.user = admitted.user.take();
        // A resumed session's delayed will is deleted by the new connection [MQTT-3.1.3-9].
        if let Some(old) = std::mem::replace(&mut session.will, will) {
            self.shared.exchange.will_bytes.give_back(old.cost());
        }
        self.take_access(session_id, &mut admitted);
        let Some(session) = self
            .sessions
            .get_mut(session_id.slot, session_id.generation)
        else {
            return;
        };
        let window = u32::from(admitted.link.receive_maximum);
        session.attach(admitted.link);
        self.sinks.counters.connects_accepted += 1;
        let connection = self.connections.get(id.slot, id.generation);
        if let (Some(link), Some(connection)) = (session.link.as_mut(), connection) {
            link.from_memory = connection.from_memory;
        }
        let silence = session.link.as_ref().and_then(|link| link.silence_max());
        let resumable = session.is_resumable();
        // Of a session that ends with its connection, the will: nobody waits for either (D10).
        let is_kept = self.sinks.journal.enabled && (resumable || session.will.is_some());
        let record = is_kept.then(|| session.record());
        session.is_stored |= record.is_some();
        let client_id = Arc::clone(&session.receiver.client_id);
        let groups: Vec<_> = session
            .subscriptions
            .values()
            .filter_map(|subscription| subscription.group)
            .collect();
        if let Some(connection) = self.connections.get_mut(id.slot, id.generation) {
            connection.claimant = None;
            connection.phase = Phase::Serving {
                session: session_id,
            };
        }
        self.arm_connection(id, silence.map(|silence| now.monotonic + silence));
        self.arm_session(session_id);
        if let Some(record) = record {
            self.sinks.journal.push(record);
        }
        // D2: a session of this client id that has ended is gone for good before CONNACK says so; a new one waits for nothing.
        // What else is said to the client until then stays behind CONNACK [MQTT-3.2.0-1].
        if let Some(ticket) = self.deletions.get(&client_id).copied().filter(|_| !present) {
            self.cork(now, id, ticket);
        }
        self.write_packet(id, &Packet::Connack(connack));
        self.pump(now, session_id);
        for group in groups {
            let Some(group) = self.shared.exchange.group_by_id(group) else {
                continue;
            };
            let given = group.online(session_id, window, resumable, &self.shared.exchange.totals);
            self.carry_out(now, given);
        }
        self.log_connected(id, session_id);
    }

    fn new_session(&mut self, client_id: &str, admitted: &Admitted) -> SessionId {
        let client_id: Arc<str> = client_id.into();
        let shard = self.id;
        let gauges = &self.inflight_gauges;
        let (slot, generation) = self.sessions.insert(|slot, generation| {
            let id = SessionId {
                shard,
                slot,
                generation,
            };
            Session::new(
                id,
                Arc::clone(&client_id),
                admitted.version,
                admitted.link.expiry_interval,
                gauges,
            )
        });
        let id = SessionId {
            shard,
            slot,
            generation,
        };
        self.sinks.counters.sessions_created += 1;
        self.shared.exchange.settle(&client_id, shard);
        self.names.add(&self.sessions, id);
        id
    }

    /// An id nobody else has and nobody can guess [MQTT-3.1.3-6]: who knew it could take the session over. It is one that
    /// this shard is the home of, so that the sessions here are all there is to compare with.
    fn new_client_id(&mut self, prefix: &str) -> Box<str> {
        loop {
            let id = format!(
                "{prefix}{:016X}{:016X}",
                self.assigned_ids.next_u64(),
                self.assigned_ids.next_u64()
            );
            let is_ours = self.shared.exchange.home(&id, None) == self.id;
            if is_ours && self.names.find(&self.sessions, &id).is_none() {
                return id.into();
            }
        }
    }
}

/// Whether a listener lets in who speaks this version.
pub(super) fn accepts_version(listener: &ListenerSettings, version: ProtocolVersion) -> bool {
    let versions = listener.protocol_versions;
    match version {
        ProtocolVersion::V3_1 => versions.v3_1,
        ProtocolVersion::V3_1_1 => versions.v3_1_1,
        ProtocolVersion::V5 => versions.v5,
    }
}
