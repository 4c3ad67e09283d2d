//! Who may ask: users, passwords and rules are those of the listener, as for its clients.
//!
//! In: the header `Authorization: Basic ...`, the client's certificate, and the path. Out: yes or no. A path is asked of the
//! rules as a topic to be read by the client id `http-api`, as in Mosquitto. Passwords are compared on threads that may block,
//! as many at a time as `auth_threads`, and who was wrong too often is refused unseen, as with MQTT.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::HeaderValue;
use tokio::sync::Semaphore;

use super::Asker;
use crate::auth::backoff::Backoff;
use crate::auth::{PasswordFile, Users, Verdict, allows_anonymous};
use crate::clock::Clock;
use crate::refusals::Refusals;
use crate::session::authorize::{Access, Entry};
use crate::shard::Throttle;
use crate::transport::Peer;

/// The one at the door.
pub(super) struct Guard {
    backoff: Arc<Backoff>,
    clock: Clock,
    comparing: Semaphore,
    refusals: Arc<Refusals>,
}

impl Guard {
    pub(super) fn new(backoff: Arc<Backoff>, clock: Clock, threads: usize) -> Self {
        Self {
            backoff,
            clock,
            comparing: Semaphore::new(threads.max(1)),
            refusals: Arc::new(Refusals::new(clock, Throttle::default())),
        }
    }

    pub(super) async fn lets_in(
        &self,
        asker: &Asker,
        credentials: Option<&HeaderValue>,
        path: &str,
    ) -> bool {
        let user = match self.user(asker, credentials).await {
            Ok(user) => user,
            Err((user, reason)) => {
                let user = user.as_deref().map(str::escape_debug);
                let user = user.map_or_else(|| "none".into(), |user| format!("'{user}'"));
                let line = format!(
                    "Client {CLIENT_ID} [{}] disconnected, not authorised (user {user}: {reason}).",
                    asker.peer,
                );
                self.say(&asker.peer, line);
                return false;
            }
        };
        let in_force = &asker.in_force;
        let rules = in_force
            .authorization
            .rules_for(&in_force.settings, &asker.listener);
        let entry = Entry {
            address: asker.peer.ip(),
            certificate: asker.client.clone(),
            listener: Arc::clone(&asker.listener),
        };
        let access = Access::find(rules.as_ref(), user.as_deref(), CLIENT_ID, &entry);
        access.is_none_or(|access| access.may_receive(path))
    }

    /// Who asks, `None` without a name; or why that one is not let in.
    async fn user(
        &self,
        asker: &Asker,
        credentials: Option<&HeaderValue>,
    ) -> Result<Option<String>, (Option<String>, &'static str)> {
        let in_force = &asker.in_force;
        let settings = &in_force.settings;
        if let Some(tls) = asker.listener.tls.as_ref().filter(|tls| tls.names_users()) {
            let client = asker.client.as_ref();
            let name = client.and_then(|client| tls.user_in(client.identity()));
            let name = name.filter(|name| !name.is_empty());
            return match name {
                Some(name) => Ok(Some(name.into())),
                None => Err((None, "no certificate with a name")),
            };
        }
        let anonymous = allows_anonymous(settings, &asker.listener);
        let given = credentials.and_then(basic);
        let Some((user, password)) = given.filter(|(user, _)| !user.is_empty()) else {
            return match anonymous {
                true => Ok(None),
                false => Err((None, "no user name")),
            };
        };
        match in_force.passwords.users(settings, &asker.listener) {
            Users::File(file) => self.compare(asker, file, user, password).await.map(Some),
            Users::Unchecked if anonymous => Ok(Some(user)),
            Users::Unchecked | Users::Missing => Err((Some(user), "no password_file")),
        }
    }

    async fn compare(
        &self,
        asker: &Asker,
        file: Arc<PasswordFile>,
        user: String,
        password: Vec<u8>,
    ) -> Result<String, (Option<String>, &'static str)> {
        let peer = asker.peer.to_string();
        let now = || self.clock.now().monotonic;
        if self.backoff.refuses(now(), &peer, &user) {
            return Err((Some(user), "too many failures"));
        }
        // As many wait as there are connections.
        let Ok(_turn) = self.comparing.acquire().await else {
            return Err((Some(user), "the broker stops"));
        };
        let name = user.clone();
        let comparing = tokio::task::spawn_blocking(move || file.verify(&name, &password));
        let reason = match comparing.await {
            Ok(Verdict::Accepted) => {
                self.backoff.succeeded(now(), &peer, &user);
                return Ok(user);
            }
            Ok(Verdict::UnknownUser) => "unknown user",
            Ok(Verdict::WrongPassword) | Err(_) => "wrong password",
        };
        let penalty = self.backoff.failed(now(), &peer, &user);
        tokio::time::sleep(std::time::Duration::from_millis(penalty.delay_milliseconds)).await;
        Err((Some(user), reason))
    }

    /// A line about one who is not let in, who is not kept waiting for it.
    pub(super) fn say(&self, peer: &Peer, line: String) {
        let (refusals, peer) = (Arc::clone(&self.refusals), peer.clone());
        tokio::spawn(async move { refusals.say(&peer, line).await });
    }
}

/// User and password of `Basic BASE64`.
fn basic(header: &HeaderValue) -> Option<(String, Vec<u8>)> {
    let text = header.to_str().ok()?;
    let (scheme, encoded) = text.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let mut user = STANDARD.decode(encoded.trim()).ok()?;
    let colon = user.iter().position(|byte| *byte == b':')?;
    let password = user.split_off(colon + 1);
    user.pop();
    Some((String::from_utf8(user).ok()?, password))
}

const CLIENT_ID: &str = "http-api";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn basic_credentials_are_user_and_password_and_nothing_else_is() {
        let of = |text: &str| basic(&HeaderValue::from_str(text).unwrap());
        let alice = Some(("alice".into(), b"a:b".to_vec()));
        assert_eq!(of("Basic YWxpY2U6YTpi"), alice);
        assert_eq!(of("basic  YWxpY2U6YTpi "), alice);
        assert_eq!(of("Basic Og=="), Some((String::new(), Vec::new())));
        for text in [
            "",
            "Basic",
            "Basic !",
            "Basic YWxpY2U=",
            "Bearer YWxpY2U6YTpi",
            "Basic /zph",
        ] {
            assert_eq!(of(text), None, "{text}");
        }
    }
}
