//! The listening sockets that are open, each with the task that accepts there.
//!
//! A change is prepared first, where it may fail and changes nothing, and then made, where it cannot fail.

use std::io;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::door_counts::DoorCounts;
use crate::http_api::{self, Api};
use crate::listener::tls::{Current, Handshakes, Next};
use crate::listener::{self, Activated, Door, Ended};
use crate::settings::{Endpoint, ListenerProtocol, ListenerSettings, Settings};
use crate::worker::Acceptors;

/// What is open.
pub struct Doors {
    open: Vec<Open>,
    /// One for each open socket, and each that is being closed.
    tasks: JoinSet<Ended>,
    /// There as soon as a listener has TLS.
    handshakes: Option<Arc<Handshakes>>,
}

struct Open {
    place: Place,
    /// For another one in its place.
    socket: Option<std::net::TcpListener>,
    tls: Option<Arc<Current>>,
    /// Closes it by going. `None`: prepared only.
    closer: Option<oneshot::Sender<()>>,
}

/// What makes a socket another one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    endpoint: Endpoint,
    interface: Option<Box<str>>,
    has_tls: bool,
    protocol: ListenerProtocol,
}

impl Place {
    /// Whether another listens at the same address.
    fn is_at(&self, other: &Self) -> bool {
        (&self.endpoint, &self.interface) == (&other.endpoint, &other.interface)
    }
}

/// Sockets that were opened, and what they are for.
pub struct Prepared {
    doors: Vec<(Open, Door)>,
    wanted: Vec<Place>,
    /// What open sockets serve with, and what they are to serve with.
    renewed: Vec<(Arc<Current>, Next)>,
    /// What sockets that are not open yet will serve with.
    begun: Vec<Arc<Current>>,
    handshakes: Option<Arc<Handshakes>>,
}

impl Doors {
    pub fn new() -> Self {
        Self {
            open: Vec::new(),
            tasks: JoinSet::new(),
            handshakes: None,
        }
    }

    /// Opens what these settings ask for and is not open, and reads certificates again. On an error nothing has changed.
    pub fn prepare(
        &self,
        settings: &Settings,
        given: &mut Activated,
        counts: &DoorCounts,
    ) -> Result<Prepared, (Endpoint, io::Error)> {
        let mut prepared = Prepared {
            doors: Vec::new(),
            wanted: Vec::new(),
            renewed: Vec::new(),
            begun: Vec::new(),
            handshakes: self.handshakes.clone(),
        };
        for listener in &settings.listeners {
            let counts = counts.of(listener);
            let tls = self.prepare_tls(listener, settings, &mut prepared)?;
            let tls = tls.as_ref();
            for endpoint in &listener.endpoints {
                let fail = |error| (endpoint.clone(), error);
                // One that is open may be asked for what it cannot do.
                listener::check_is_served(listener).map_err(fail)?;
                let place = Place {
                    endpoint: endpoint.clone(),
                    interface: listener.bind_interface.clone(),
                    has_tls: tls.is_some(),
                    protocol: listener.protocol,
                };
                prepared.wanted.push(place.clone());
                if self.open.iter().any(|open| open.place == place) {
                    continue;
                }
                // TLS or the protocol changes where somebody listens already.
                let same = self.open.iter().find(|open| open.place.is_at(&place));
                if let Some(socket) = same.and_then(|open| open.socket.as_ref()) {
                    given.add(socket.try_clone().map_err(fail)?);
                }
                let door = match listener::open(listener, endpoint, &counts, tls, given) {
                    // "Every address" and both loopback addresses include those of a protocol that a machine may not have.
                    Err(error)
                        if (settings.local_only || listener.endpoints.len() > 1)
                            && listener::lacks_ipv6(endpoint, &error) =>
                    {
                        tracing::warn!("{endpoint} is left out, there is no IPv6 here: {error}.");
                        continue;
                    }
                    opened => opened.map_err(fail)?,
                };
                let open = Open {
                    place,
                    socket: door.same_socket().map_err(fail)?,
                    tls: tls.map(Arc::clone),
                    closer: None,
                };
                prepared.doors.push((open, door));
            }
        }
        Ok(prepared)
    }

    /// What a listener serves TLS with: what it has, of which the files are read again, or something new.
    fn prepare_tls(
        &self,
        listener: &ListenerSettings,
        settings: &Settings,
        prepared: &mut Prepared,
    ) -> Result<Option<Arc<Current>>, (Endpoint, io::Error)> {
        let fail = |error| {
            let endpoint = listener.endpoints.first().cloned();
            (endpoint.unwrap_or_else(Endpoint::unknown), error)
        };
        let serves = |open: &&Open| listener.endpoints.contains(&open.place.endpoint);
        let current = self
            .open
            .iter()
            .filter(serves)
            .find_map(|open| open.tls.clone());
        let next = Current::prepare(listener, settings, current.as_deref()).map_err(|error| {
            fail(io::Error::new(
                io::ErrorKind::InvalidInput,
                error.to_string(),
            ))
        })?;
        let Some(next) = next else { return Ok(None) };
        if prepared.handshakes.is_none() {
            prepared.handshakes = Some(Arc::new(Handshakes::start().map_err(fail)?));
        }
        Ok(Some(match current {
            Some(current) => {
                prepared.renewed.push((Arc::clone(&current), next));
                current
            }
            None => {
                let current = Arc::new(Current::new(listener, next));
                prepared.begun.push(Arc::clone(&current));
                current
            }
        }))
    }

    /// Closes what is not wanted any more, and accepts at what was opened.
    pub fn commit(&mut self, prepared: Prepared, acceptors: &Acceptors, api: &Arc<Api>) {
        self.handshakes = prepared.handshakes;
        if let Some(handshakes) = &self.handshakes {
            for (current, next) in prepared.renewed {
                handshakes.renew(&current, next, acceptors);
            }
            for current in &prepared.begun {
                handshakes.watch(current, acceptors);
            }
        }
        self.open.retain(|open| {
            let is_wanted = prepared.wanted.contains(&open.place);
            if !is_wanted {
                tracing::info!("Closing listen socket {}.", open.place.endpoint);
            }
            is_wanted
        });
        for (mut open, door) in prepared.doors {
            let (closer, closed) = oneshot::channel();
            match open.place.protocol {
                ListenerProtocol::HttpApi => {
                    self.tasks
                        .spawn(http_api::accept(door, Arc::clone(api), closed));
                }
                ListenerProtocol::Mqtt | ListenerProtocol::WebSocket => {
                    let handshakes = self.handshakes.clone();
                    let accept = listener::accept(door, acceptors.clone(), handshakes, closed);
                    self.tasks.spawn(accept);
                }
            }
            open.closer = Some(closer);
            self.open.push(open);
        }
    }

    /// Waits until accepting has ended somewhere without having been told to.
    pub async fn ended(&mut self) {
        loop {
            match self.tasks.join_next().await {
                Some(Ok(Ended::Closed)) => {}
                Some(_) => return,
                None => std::future::pending().await,
            }
        }
    }

    /// Closes all, and waits until that is done.
    pub async fn close(&mut self) {
        self.open.clear();
        while self.tasks.join_next().await.is_some() {}
    }
}

impl Default for Doors {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{ListenerSettings, TlsSettings};

    #[tokio::test]
    async fn tls_is_never_served_in_plain() {
        let prepare = |listener| {
            let settings = Settings {
                listeners: vec![Arc::new(listener)],
                ..Settings::default()
            };
            Doors::new().prepare(&settings, &mut Activated::none(), &DoorCounts::default())
        };
        let without_files = ListenerSettings {
            tls: Some(TlsSettings::default()),
            ..ListenerSettings::default()
        };
        assert!(prepare(without_files).is_err());
        assert!(prepare(ListenerSettings::default()).is_ok());
    }
}
