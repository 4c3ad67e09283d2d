//! Certificates of clients: the names that are taken from them, and the end of a connection whose certificate is good no more.
//!
//! In: who has proven to own which certificate, as it was verified elsewhere, and that some have become void since. A certificate ends for its
//! connection when its time is over, to the second, without anybody saying so: each has a timer.

use std::sync::Arc;

use nightjar_certs::{Client, Void};
use nightjar_codec::packet::Connect;

use super::{Cause, Connection, Refusal, Shard, Timer};
use crate::clock::Now;
use crate::identity::ConnectionId;
use crate::settings::{ListenerSettings, TlsSettings};

/// The certificate of a connection's client.
pub(super) struct Certificate {
    client: Arc<Client>,
    /// When it ends.
    timer: Option<u64>,
}

impl Shard {
    /// Who the client of a connection is, by the certificate it has proven to own. To be called behind `open`.
    pub fn identify(&mut self, now: Now, id: ConnectionId, client: &Arc<Client>) {
        let Some(connection) = self.connections.get_mut(id.slot, id.generation) else {
            return;
        };
        connection.certificate = Some(Box::new(Certificate {
            client: Arc::clone(client),
            timer: None,
        }));
        match client.why_void() {
            // While it was on its way from one shard to another.
            Some(void) => self.close(now, id, Cause::Certificate(void.clone())),
            None => self.arm_certificate(now, id),
        }
    }

    /// Ends every connection whose certificate has been declared void.
    pub fn part_with_void(&mut self, now: Now) {
        let void = self.connections.iter().filter_map(|connection| {
            let void = connection.client()?.why_void()?;
            (!connection.is_closing()).then(|| (connection.id, void.clone()))
        });
        let void: Vec<(ConnectionId, Void)> = void.collect();
        for (id, void) in void {
            self.close(now, id, Cause::Certificate(void));
        }
    }

    /// The time of a certificate is over, unless somebody has set the clock back.
    pub(super) fn certificate_due(&mut self, now: Now, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(id.slot, id.generation) else {
            return;
        };
        let Some(certificate) = &mut connection.certificate else {
            return;
        };
        certificate.timer = None;
        if certificate.client.not_after() < now.wall / 1000 {
            if !connection.is_closing() {
                self.close(now, id, Cause::Certificate(Void::Expired));
            }
        } else {
            self.arm_certificate(now, id);
        }
    }

    fn arm_certificate(&mut self, now: Now, id: ConnectionId) {
        let connection = self.connections.get_mut(id.slot, id.generation);
        let Some(certificate) = connection.and_then(|one| one.certificate.as_mut()) else {
            return;
        };
        let ends = certificate.client.not_after();
        // It is valid in its last second, too.
        let deadline = (ends < u64::MAX).then(|| {
            let over = ends.saturating_add(1).saturating_mul(1000);
            let left = over.saturating_sub(now.wall).max(1);
            now.monotonic.saturating_add(left)
        });
        let timer = Timer::Certificate(id);
        self.timers.set(&mut certificate.timer, deadline, timer);
    }

    pub(super) fn disarm_certificate(&mut self, id: ConnectionId) {
        let connection = self.connections.get_mut(id.slot, id.generation);
        if let Some(certificate) = connection.and_then(|one| one.certificate.as_mut()) {
            let timer = Timer::Certificate(id);
            self.timers.set(&mut certificate.timer, None, timer);
        }
    }

    /// Where the listener binds client ids to certificates: who says nothing has the name of its certificate, and who says another is not let
    /// in. True: the id is that of the certificate because the client had none.
    pub(super) fn bind_client_id(
        &self,
        id: ConnectionId,
        listener: &ListenerSettings,
        connect: &mut Connect,
    ) -> Result<bool, Cause> {
        let Some(tls) = listener.tls.as_ref().filter(|tls| tls.bind_client_id) else {
            return Ok(false);
        };
        let Some(connection) = self.connections.get(id.slot, id.generation) else {
            return Ok(false);
        };
        let client = connection.client();
        let name = client.and_then(|client| tls.identity_in(client.identity()));
        let name = name.ok_or(Cause::NotAuthorised(Refusal::NoCertificate))?;
        if connect.client_id.is_empty() {
            connect.client_id = name.into();
            return Ok(true);
        }
        if *connect.client_id != *name {
            return Err(Cause::NotAuthorised(Refusal::NotItsClientId));
        }
        Ok(false)
    }
}

impl Connection {
    /// Who the client is by its certificate.
    pub(super) fn client(&self) -> Option<&Arc<Client>> {
        self.certificate
            .as_ref()
            .map(|certificate| &certificate.client)
    }

    /// The user name, where the listener takes it from certificates.
    pub(super) fn user_by_certificate(&self, tls: &TlsSettings) -> Result<&str, Cause> {
        let client = self.client();
        let name = client.and_then(|client| tls.user_in(client.identity()));
        name.ok_or(Cause::NotAuthorised(Refusal::NoCertificate))
    }
}
