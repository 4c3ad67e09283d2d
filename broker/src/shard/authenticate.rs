//! Who a client is: passwords and AUTH, between CONNECT and the session.
//!
//! Nothing here touches a session before it is settled who asks for it, so a login that fails changes nothing (A3). A
//! password is compared elsewhere: its connection is `Verifying` until `verified` brings the verdict, and is not read
//! meanwhile (D19). A wrong user and a wrong password are answered alike (T1); only the log tells them apart.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use chacha20::rand_core::Rng;
use nightjar_codec::packet::{Auth, AuthProperties, Connect};
use nightjar_codec::{Packet, ReasonCode, decode_from_client};

use super::{Cause, Phase, Shard};
use crate::auth::{PasswordFile, Passwords, Request, Submitted, Users, Verdict, allows_anonymous};
use crate::clock::Now;
use crate::identity::{ConnectionId, SessionId};
use crate::session::authenticate::{Exchange as Authentication, Ground, Step, Success};
use crate::session::{Session, Violation};
use crate::settings::{ListenerSettings, Settings};

/// A CONNECT whose password is being compared.
pub(super) struct Login {
    connect: Box<Connect>,
    /// Its client id is one we made up, which CONNACK tells.
    assigned: bool,
    user: Box<str>,
    file: Arc<PasswordFile>,
}

/// What a CONNECT said of its sender, kept until it is served: for the log.
pub(super) struct Claimant {
    pub(super) client_id: Box<str>,
    pub(super) user: Option<Box<str>>,
}

/// Why somebody is not let in. For the log: the client hears "not authorised", or that this client id is not for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    Anonymous,
    NoUsers,
    NoPassword,
    WrongPassword,
    UnknownUser,
    TooManyFailures,
    /// The password file was changed while its password was compared.
    Reloaded,
    /// The session of that client id belongs to another user.
    OthersSession,
    /// The listener takes a name from a certificate, and there is none, or it has no name.
    NoCertificate,
    /// The client id is not the name in the certificate.
    NotItsClientId,
    /// SCRAM, or another method, has failed.
    Method,
}

impl Refusal {
    /// What the client hears.
    pub(super) fn reason_code(self) -> ReasonCode {
        match self {
            Self::NotItsClientId => ReasonCode::ClientIdentifierNotValid,
            _ => ReasonCode::NotAuthorized,
        }
    }
}

/// A CONNECT that waits for the end of an exchange.
pub(super) struct Authenticating {
    connect: Box<Connect>,
    /// Its client id is one we made up, which CONNACK tells.
    assigned: bool,
    exchange: Authentication,
}

impl Shard {
    /// CONNECT without an authentication method.
    pub(super) fn log_in(
        &mut self,
        now: Now,
        id: ConnectionId,
        mut connect: Box<Connect>,
        assigned: bool,
    ) -> Result<(), Cause> {
        let settings = Arc::clone(&self.shared.settings);
        let Some(connection) = self.connections.get(id.slot, id.generation) else {
            return Ok(());
        };
        let listener = Arc::clone(&connection.listener);
        let anonymous = allows_anonymous(&settings, &listener);
        let password = connect.password.take();
        if let Some(tls) = listener.tls.as_ref().filter(|tls| tls.names_users()) {
            // Whoever proves a name by certificate needs no password for it, and no other name.
            connect.username = Some(connection.user_by_certificate(tls)?.into());
            return self.start_serving(now, id, *connect, assigned, None);
        }
        // An empty user name is none, as in Mosquitto.
        let user = connect.username.take().filter(|user| !user.is_empty());
        let Some(user) = user else {
            return if anonymous {
                self.start_serving(now, id, *connect, assigned, None)
            } else {
                Err(Cause::NotAuthorised(Refusal::Anonymous))
            };
        };
        let file = match self.shared.auth.passwords.users(&settings, &listener) {
            Users::File(file) => file,
            Users::Unchecked if anonymous => {
                connect.username = Some(user);
                return self.start_serving(now, id, *connect, assigned, None);
            }
            Users::Unchecked | Users::Missing => {
                return Err(Cause::NotAuthorised(Refusal::NoUsers));
            }
        };
        let Some(password) = password else {
            return Err(Cause::NotAuthorised(Refusal::NoPassword));
        };
        self.check_failures(now, id, &user)?;
        let request = Request {
            shard: self.id,
            connection: id,
            file: Arc::clone(&file),
            user: user.clone(),
            password,
        };
        let login = Box::new(Login {
            connect,
            assigned,
            user,
            file,
        });
        match self.shared.auth.verifier.submit(request) {
            Submitted::Done(verdict) => self.conclude(now, id, *login, verdict),
            Submitted::Later => {
                if let Some(connection) = self.connections.get_mut(id.slot, id.generation) {
                    connection.phase = Phase::Verifying { login };
                }
                Ok(())
            }
            Submitted::Full => {
                self.sinks.counters.logins_busy += 1;
                Err(Cause::Refused(ReasonCode::ServerBusy))
            }
        }
    }

    /// The verdict on a password. The connection may be gone meanwhile.
    pub fn verified(&mut self, now: Now, id: ConnectionId, verdict: Verdict) {
        let Some(connection) = self.connections.get_mut(id.slot, id.generation) else {
            return;
        };
        if !matches!(connection.phase, Phase::Verifying { .. }) {
            return;
        }
        let Phase::Verifying { login } = std::mem::replace(&mut connection.phase, Phase::Greeting)
        else {
            return;
        };
        let pushed = self.sinks.journal.pushed;
        let concluded = self.conclude(now, id, *login, verdict);
        self.note_needs(id, false, pushed);
        if let Err(cause) = concluded {
            self.close(now, id, cause);
        }
    }

    fn conclude(
        &mut self,
        now: Now,
        id: ConnectionId,
        login: Login,
        verdict: Verdict,
    ) -> Result<(), Cause> {
        let Login {
            mut connect,
            assigned,
            user,
            file,
        } = login;
        let refusal = match verdict {
            Verdict::Accepted => {
                self.note_success(now, id, &user);
                let success = Success {
                    data: None,
                    credential: file.user(&user).cloned(),
                    user: Some(user),
                };
                connect.username = None;
                return self.let_in(now, id, connect, assigned, success);
            }
            Verdict::WrongPassword => Refusal::WrongPassword,
            Verdict::UnknownUser => Refusal::UnknownUser,
        };
        self.refuse_login(now, id, &user, refusal)
    }

    /// Whoever has proved to be somebody gets a session, if that still is somebody.
    fn let_in(
        &mut self,
        now: Now,
        id: ConnectionId,
        mut connect: Box<Connect>,
        assigned: bool,
        success: Success,
    ) -> Result<(), Cause> {
        self.check_credential(id, &success)?;
        if let Some(connection) = self.connections.get_mut(id.slot, id.generation) {
            connection.credential = success.credential;
        }
        if success.user.is_some() {
            connect.username = success.user;
        }
        self.start_serving(now, id, *connect, assigned, success.data)
    }

    /// Whether a session belongs to somebody else than this user of this listener (A3). Where names are claims that nobody checks,
    /// they protect nothing from each other, and the client id is the session as in Mosquitto. What belongs to a user who has
    /// proved who he is, is not for a claim either (A14).
    pub(super) fn is_others(
        &self,
        settings: &Settings,
        listener: &ListenerSettings,
        session: &Session,
        user: Option<&str>,
    ) -> bool {
        // Who was nobody yet may become somebody: that is how a broker gets its first users.
        let Some(owner) = session.user.as_deref() else {
            return false;
        };
        if !settings.session_bound_to_user {
            return false;
        }
        if self.checks_users(settings, listener) {
            return user != Some(owner);
        }
        match &session.entry {
            Some(entry) => self.checks_users(settings, &entry.listener),
            // It came from the store, which does not know.
            None => {
                let listeners = &settings.listeners;
                self.shared.auth.passwords.know(owner)
                    || listeners
                        .iter()
                        .any(|listener| takes_names_from_certificates(listener))
            }
        }
    }

    fn checks_users(&self, settings: &Settings, listener: &ListenerSettings) -> bool {
        let users = self.shared.auth.passwords.users(settings, listener);
        takes_names_from_certificates(listener) || !matches!(users, Users::Unchecked)
    }

    /// The file may have been reloaded on the way: what was proved with the old one must hold in the new one.
    fn check_credential(&self, id: ConnectionId, success: &Success) -> Result<(), Cause> {
        let Some(connection) = self.connections.get(id.slot, id.generation) else {
            return Ok(());
        };
        let settings = &self.shared.settings;
        let (Some(user), Some(credential)) = (&success.user, &success.credential) else {
            return if allows_anonymous(settings, &connection.listener) {
                Ok(())
            } else {
                Err(Cause::NotAuthorised(Refusal::Anonymous))
            };
        };
        match self
            .shared
            .auth
            .passwords
            .users(settings, &connection.listener)
        {
            Users::File(file) if file.user(user) == Some(credential) => Ok(()),
            _ => Err(Cause::NotAuthorised(Refusal::Reloaded)),
        }
    }

    /// Refuses unseen whoever was wrong too often (T2).
    fn check_failures(&mut self, now: Now, id: ConnectionId, user: &str) -> Result<(), Cause> {
        let Some(connection) = self.connections.get(id.slot, id.generation) else {
            return Ok(());
        };
        let backoff = &self.shared.auth.backoff;
        if backoff.refuses(now.monotonic, &connection.peer.to_string(), user) {
            self.sinks.counters.logins_unseen += 1;
            return Err(Cause::NotAuthorised(Refusal::TooManyFailures));
        }
        Ok(())
    }

    fn note_success(&mut self, now: Now, id: ConnectionId, user: &str) {
        self.sinks.counters.logins_accepted += 1;
        if let Some(connection) = self.connections.get(id.slot, id.generation) {
            let backoff = &self.shared.auth.backoff;
            backoff.succeeded(now.monotonic, &connection.peer.to_string(), user);
        }
    }

    /// Counts a failure; the refusal may have to wait.
    fn refuse_login(
        &mut self,
        now: Now,
        id: ConnectionId,
        user: &str,
        refusal: Refusal,
    ) -> Result<(), Cause> {
        self.sinks.counters.logins_refused += 1;
        let Some(connection) = self.connections.get_mut(id.slot, id.generation) else {
            return Ok(());
        };
        let peer = &connection.peer.to_string();
        let penalty = self.shared.auth.backoff.failed(now.monotonic, peer, user);
        if let Some(milliseconds) = penalty.refused_milliseconds {
            tracing::warn!(
                "Too many failed logins from {peer}, the last as user '{}': more like it are refused unseen for {} s.",
                user.escape_debug(),
                milliseconds.div_ceil(1000)
            );
        }
        if penalty.delay_milliseconds == 0 {
            return Err(Cause::NotAuthorised(refusal));
        }
        connection.phase = Phase::Refusing { refusal };
        self.arm_connection(id, Some(now.monotonic + penalty.delay_milliseconds));
        Ok(())
    }

    /// CONNECT with an authentication method.
    pub(super) fn begin_authentication(
        &mut self,
        now: Now,
        id: ConnectionId,
        mut connect: Box<Connect>,
        method: &str,
        assigned: bool,
    ) -> Result<(), Cause> {
        let Some(exchange) = self.new_authentication(id, method) else {
            return Err(Cause::Refused(ReasonCode::BadAuthenticationMethod)); // [MQTT-4.12.0-1]
        };
        let data = connect.properties.authentication_data.take();
        self.step(now, id, connect, assigned, exchange, data)
    }

    /// AUTH before CONNACK; DISCONNECT is the only other packet a client may send now [MQTT-3.1.2-30].
    pub(super) fn continue_authentication(
        &mut self,
        now: Now,
        id: ConnectionId,
        packet: &[u8],
    ) -> Result<(), Cause> {
        let Some(connection) = self.connections.get_mut(id.slot, id.generation) else {
            return Ok(());
        };
        let packet = decode_from_client(
            &Bytes::copy_from_slice(packet),
            connection.version,
            &self.pre_auth_limits,
        )
        .map_err(|error| Cause::Violation(error.into()))?;
        let phase = std::mem::replace(&mut connection.phase, Phase::Greeting);
        let Phase::Authenticating(under_way) = phase else {
            return Ok(());
        };
        let Authenticating {
            connect,
            assigned,
            exchange,
        } = *under_way;
        let auth = match packet {
            Packet::Auth(auth) if auth.reason_code == ReasonCode::ContinueAuthentication => auth,
            Packet::Disconnect(_) => return Err(Cause::PeerGone),
            _ => return Err(Cause::Refused(ReasonCode::ProtocolError)),
        };
        if auth.properties.authentication_method.as_deref() != Some(&*exchange.method) {
            return Err(Cause::Refused(ReasonCode::ProtocolError)); // [MQTT-4.12.0-5]
        }
        let data = auth.properties.authentication_data;
        self.step(now, id, connect, assigned, exchange, data)
    }

    fn step(
        &mut self,
        now: Now,
        id: ConnectionId,
        connect: Box<Connect>,
        assigned: bool,
        mut exchange: Authentication,
        data: Option<Bytes>,
    ) -> Result<(), Cause> {
        let step = exchange.step(data.as_deref());
        if let Some(connection) = self.connections.get_mut(id.slot, id.generation)
            && let Some(claimant) = &mut connection.claimant
            && let Some(user) = exchange.user()
        {
            claimant.user = Some(user.into());
        }
        let user = exchange.user().unwrap_or_default();
        // A User Name beside the method's own is a claim that nothing proves.
        let claimed = connect.username.as_deref().unwrap_or_default();
        let is_other = !user.is_empty() && !claimed.is_empty() && claimed != user;
        match step {
            _ if is_other => Err(Cause::NotAuthorised(Refusal::Method)),
            Step::Success(success) => {
                if success.user.is_some() {
                    self.note_success(now, id, user);
                }
                self.let_in(now, id, connect, assigned, *success)
            }
            Step::Failure(_) if !user.is_empty() => {
                let user: Box<str> = user.into();
                self.refuse_login(now, id, &user, Refusal::Method)
            }
            Step::Failure(ReasonCode::NotAuthorized) => Err(Cause::NotAuthorised(Refusal::Method)),
            Step::Failure(reason_code) => Err(Cause::Refused(reason_code)),
            Step::Continue(data) => {
                if !user.is_empty() {
                    self.check_failures(now, id, user)?;
                }
                let asked = auth_packet(
                    ReasonCode::ContinueAuthentication,
                    &exchange.method,
                    Some(data),
                );
                if let Some(connection) = self.connections.get_mut(id.slot, id.generation) {
                    connection.phase = Phase::Authenticating(Box::new(Authenticating {
                        connect,
                        assigned,
                        exchange,
                    }));
                }
                self.write_packet(id, &asked);
                Ok(())
            }
        }
    }

    /// AUTH while connected: re-authentication [MQTT-4.12.1-1].
    pub(super) fn handle_auth(
        &mut self,
        id: ConnectionId,
        session_id: SessionId,
        auth: &Auth,
    ) -> Result<(), Cause> {
        let Some(link) = self
            .sessions
            .get_mut(session_id.slot, session_id.generation)
            .and_then(|session| session.link.as_mut())
        else {
            return Ok(());
        };
        let Some(method) = link.rarities.authentication_method.clone() else {
            return Err(Cause::Violation(Violation::AuthWithoutMethod)); // [MQTT-4.12.0-6]
        };
        if auth.properties.authentication_method.as_deref() != Some(&*method) {
            return Err(Cause::Violation(Violation::AuthMethodChanged));
        }
        let mut exchange = match (auth.reason_code, link.rarities.reauthentication.take()) {
            (ReasonCode::ReAuthenticate, None) => self
                .new_authentication(id, &method)
                .ok_or(Cause::Server(ReasonCode::NotAuthorized))?,
            (ReasonCode::ContinueAuthentication, Some(exchange)) => exchange,
            _ => return Err(Cause::Violation(Violation::AuthWithoutMethod)),
        };
        let step = exchange.step(auth.properties.authentication_data.as_deref());
        let (reason_code, data) = match step {
            Step::Success(success) => {
                self.confirm(id, session_id, &success)?;
                (ReasonCode::Success, success.data)
            }
            Step::Continue(data) => {
                if let Some(link) = self
                    .sessions
                    .get_mut(session_id.slot, session_id.generation)
                    .and_then(|session| session.link.as_mut())
                {
                    link.rarities.reauthentication = Some(exchange);
                }
                (ReasonCode::ContinueAuthentication, Some(data))
            }
            // [MQTT-4.12.1-2]
            Step::Failure(reason_code) => return Err(Cause::Server(reason_code)),
        };
        self.write_packet(id, &auth_packet(reason_code, &method, data));
        Ok(())
    }

    /// Re-authentication proves once more who the client is; it makes nobody of it that it was not.
    fn confirm(
        &mut self,
        id: ConnectionId,
        session: SessionId,
        success: &Success,
    ) -> Result<(), Cause> {
        let session = self.sessions.get(session.slot, session.generation);
        let user = session.and_then(|session| session.user.as_deref());
        let is_same = success.user.is_none() || success.user.as_deref() == user;
        if !is_same || self.check_credential(id, success).is_err() {
            return Err(Cause::Server(ReasonCode::NotAuthorized));
        }
        if let Some(connection) = self.connections.get_mut(id.slot, id.generation)
            && success.credential.is_some()
        {
            connection.credential.clone_from(&success.credential);
        }
        Ok(())
    }

    fn new_authentication(&mut self, id: ConnectionId, method: &str) -> Option<Authentication> {
        let connection = self.connections.get(id.slot, id.generation)?;
        let passwords = &self.shared.auth.passwords;
        let mut nonce = [0; 24];
        self.assigned_ids.fill_bytes(&mut nonce);
        // Where the certificate says who somebody is, no password says otherwise.
        let users = if takes_names_from_certificates(&connection.listener) {
            Users::Unchecked
        } else {
            passwords.users(&self.shared.settings, &connection.listener)
        };
        let ground = Ground { users, nonce };
        Authentication::begin(&self.shared.methods, method, &ground)
    }

    /// After a reload: takes the new users, and closes every connection that would not be let in any more, or whose
    /// password is another. The settings that hold are those that the shard has by then.
    pub fn reauthenticate_all(&mut self, now: Now, passwords: Arc<Passwords>) {
        self.shared.auth.passwords = passwords;
        let settings = Arc::clone(&self.shared.settings);
        let mut over = Vec::new();
        for connection in self.connections.iter() {
            let Phase::Serving { session } = connection.phase else {
                continue;
            };
            let session = self.sessions.get(session.slot, session.generation);
            let user = session.and_then(|session| session.user.as_deref());
            let users = self
                .shared
                .auth
                .passwords
                .users(&settings, &connection.listener);
            let anonymous = allows_anonymous(&settings, &connection.listener);
            let may_stay = match (user, users) {
                // Its certificate was looked at when it came; no password file has a say in it.
                (Some(_), _) if takes_names_from_certificates(&connection.listener) => {
                    connection.certificate.is_some()
                }
                (Some(user), Users::File(file)) => {
                    connection.credential.is_some()
                        && file.user(user) == connection.credential.as_ref()
                }
                (Some(_), Users::Missing) => false,
                (Some(_), Users::Unchecked) | (None, _) => anonymous,
            };
            if !may_stay {
                over.push(connection.id);
            }
        }
        for id in over {
            self.close(now, id, Cause::NoLongerAuthorised);
        }
    }
}

fn takes_names_from_certificates(listener: &ListenerSettings) -> bool {
    listener.tls.as_ref().is_some_and(|tls| tls.names_users())
}

fn auth_packet(
    reason_code: ReasonCode,
    method: &str,
    authentication_data: Option<Bytes>,
) -> Packet {
    Packet::Auth(Auth {
        reason_code,
        properties: AuthProperties {
            authentication_method: Some(method.into()),
            authentication_data,
            ..AuthProperties::default()
        },
    })
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoCertificate => {
                "no certificate with a name, and the listener takes the user or the client id from it"
            }
            Self::NotItsClientId => {
                "the client id is not the name in its certificate, see bind_client_id"
            }
            Self::Anonymous => "no user name, and allow_anonymous is false",
            Self::NoUsers => "no password_file says who that is, and allow_anonymous is false",
            Self::NoPassword => "no password",
            Self::WrongPassword => "wrong password",
            Self::UnknownUser => "unknown user",
            Self::TooManyFailures => "too many failures, refused unseen",
            Self::Reloaded => "the password file has just been changed",
            Self::OthersSession => {
                "the session of this client id belongs to another user, see session_bound_to_user"
            }
            Self::Method => "the authentication method's proof failed",
        })
    }
}
