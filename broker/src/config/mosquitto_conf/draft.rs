//! What the lines have said so far, and how it becomes `Settings`.

use super::World;
use super::bridge::Bridge;
use super::options::{Opt, Scope};
use super::plugin::{Plugin, Purpose, Target};
use super::values::{Given, show};
use super::{Fate, Outcome};
use crate::config::{Fault, Note, Place, Sources};
use crate::settings::{
    AclSubscribe, DEFAULT_PORT, Endpoint, ListenerProtocol, ListenerSettings, LogDestination,
    ProxyProtocol, QueuePolicy, RunAs, SecuritySettings, Settings, TlsSettings,
};
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

pub(super) struct Draft {
    pub(super) settings: Settings,
    /// The line that is being read.
    pub(super) place: Place,
    pub(super) per_listener: bool,
    /// persistence_location.
    pub(super) location: Option<PathBuf>,
    /// persistence_file.
    pub(super) old_store: Option<PathBuf>,
    /// In seconds; where `autosave_on_changes`, in changes.
    pub(super) autosave_interval: Option<i64>,
    pub(super) autosave_on_changes: bool,
    /// In bytes.
    pub(super) memory_limit: Option<u64>,
    /// None until the first log_dest: it replaces the default.
    pub(super) log_destinations: Option<Vec<LogDestination>>,
    pub(super) plugins: Vec<Plugin>,
    pub(super) bridges: Vec<Bridge>,
    pub(super) sources: Sources,
    security: Security,
    /// What options without a listener above them belong to.
    default_listener: Option<Listener>,
    listeners: Vec<Listener>,
    /// The options of which each holder has one already.
    texts: BTreeSet<(Holder, &'static str)>,
}

/// Whose an option is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Holder {
    Broker,
    DefaultListener,
    Listener(usize),
    Bridge(usize),
}

/// A listener on its way.
pub(super) struct Listener {
    pub(super) settings: ListenerSettings,
    pub(super) tls: TlsSettings,
    pub(super) port: u16,
    /// A host name or an address; a path where the port is 0.
    pub(super) host: Option<Box<str>>,
    pub(super) family: Family,
    /// Names of loaded plugins.
    pub(super) plugins: Vec<(Box<str>, Place)>,
    /// What these are for.
    found: Vec<(Purpose, PathBuf)>,
    security: Security,
    place: Place,
    /// Whether an option asked for it that ends local-only mode.
    wanted: bool,
}

/// Which addresses of a host are used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Family {
    Both,
    V4,
    V6,
}

#[derive(Clone)]
pub(super) struct Security {
    pub(super) allow_anonymous: Option<bool>,
    pub(super) settings: SecuritySettings,
    touched: bool,
}

/// `listener PORT [HOST or path]`.
pub(super) fn listener(draft: &mut Draft, given: Given<'_>) -> Outcome {
    let mut words = given.words();
    let word = words.next().unwrap_or_default();
    let port = super::values::integer(word);
    let port = port.ok_or_else(|| {
        format!(
            "'listener port' value not a number. Write a port instead of '{}'.",
            show(word)
        )
    })?;
    let port = u16::try_from(port).map_err(|_| {
        format!(
            "Invalid 'port' value ({port}). Use 1 to 65535, or 0 and the path of a Unix socket."
        )
    })?;
    let host = words.next().filter(|word| !word.starts_with('#'));
    if port == 0 && host.is_none() {
        return Err(
            "A listener with port 0 must provide a Unix socket path. Write listener 0 PATH.".into(),
        );
    }
    if draft.listeners.len() >= LISTENERS_MAX {
        return Err(format!("Too many listeners. Use at most {LISTENERS_MAX}."));
    }
    let mut listener = Listener::new(draft.place.clone());
    listener.port = port;
    listener.host = host.map(Into::into);
    draft.listeners.push(listener);
    Ok(Fate::Same)
}

impl Draft {
    /// What an empty mosquitto.conf means.
    pub(super) fn new() -> Self {
        let mut settings = Settings {
            inflight_messages_max: 20,
            queue_messages_max: 1_000,
            queue_policy: QueuePolicy::DropNewest,
            persistence: false,
            // Whoever starts such a file expects the ports in it and no other.
            http_listener: None,
            ..Settings::default()
        };
        settings.security = Security::new().settings;
        settings.process.user = RunAs::MosquittoOrNobody;
        Self {
            settings,
            place: Place::nowhere(),
            per_listener: false,
            location: None,
            memory_limit: None,
            autosave_interval: None,
            autosave_on_changes: false,
            old_store: None,
            log_destinations: None,
            plugins: Vec::new(),
            bridges: Vec::new(),
            sources: Sources::new(),
            security: Security::new(),
            default_listener: None,
            listeners: Vec::new(),
            texts: BTreeSet::new(),
        }
    }

    pub(super) fn has_listener(&self) -> bool {
        !self.listeners.is_empty()
    }

    /// Whether an option was given that `per_listener_settings` would give to a listener.
    pub(super) fn has_security(&self) -> bool {
        self.security.touched
    }

    /// The listener that options belong to now.
    pub(super) fn listener(&mut self) -> &mut Listener {
        let place = self.place.clone();
        match self.listeners.last_mut() {
            Some(listener) => listener,
            None => self
                .default_listener
                .get_or_insert_with(|| Listener::new(place)),
        }
    }

    /// The one that `port` and `bind_address` describe, whatever listener stands above.
    pub(super) fn open_default_listener(&mut self) -> &mut Listener {
        let place = self.place.clone();
        let listener = self
            .default_listener
            .get_or_insert_with(|| Listener::new(place));
        listener.wanted = true;
        listener
    }

    pub(super) fn security(&mut self) -> &mut Security {
        let security = if self.per_listener {
            &mut self.listener().security
        } else {
            &mut self.security
        };
        security.touched = true;
        security
    }

    pub(super) fn bridge(&mut self) -> Option<&mut Bridge> {
        self.bridges.last_mut()
    }

    /// The number of the listener that security options belong to now; none where they are the broker's.
    pub(super) fn security_holder(&self) -> Option<usize> {
        if self.per_listener {
            self.listeners.len().checked_sub(1)
        } else {
            None
        }
    }

    /// Whether this is the first time that its holder is given an option that is text.
    pub(super) fn first(&mut self, option: &Opt, name: &str) -> bool {
        let listener = match self.listeners.len() {
            0 => Holder::DefaultListener,
            count => Holder::Listener(count),
        };
        let holder = match option.scope {
            _ if name == "bind_address" => Holder::DefaultListener,
            Scope::Global | Scope::Plugin => Holder::Broker,
            Scope::Listener | Scope::Door => listener,
            Scope::Security if self.per_listener => listener,
            Scope::Security => Holder::Broker,
            Scope::Bridge => Holder::Bridge(self.bridges.len()),
        };
        self.texts.insert((holder, option.name))
    }

    /// The settings, where they come from, and what this version cannot do.
    pub(super) fn finish(
        mut self,
        world: &World<'_>,
        faults: &mut Vec<Fault>,
        notes: &mut Vec<Note>,
    ) -> (Settings, Sources, Vec<Note>) {
        self.use_plugins(faults);
        let mut not_yet = Vec::new();
        for bridge in &self.bridges {
            bridge.check(faults);
            not_yet.push(bridge.not_yet());
        }
        self.place_of_the_store(world);
        self.write_behind();
        if let Some(destinations) = self.log_destinations.take() {
            self.settings.log.destinations = destinations;
        }
        self.share_out_memory();
        self.make_room_for_one_packet();

        let mut listeners: Vec<Listener> = Vec::new();
        listeners.extend(self.default_listener.take().filter(Listener::is_wanted));
        listeners.append(&mut self.listeners);
        self.settings.local_only = listeners.is_empty();
        let anonymous = self.security.allow_anonymous;
        self.settings.security = self.security.settings;
        self.settings.security.allow_anonymous = anonymous.unwrap_or(self.settings.local_only);
        let mut finished = Vec::new();
        for listener in listeners {
            let place = listener.place.clone();
            let own = listener.own_security(self.per_listener, &self.settings.security);
            match listener.finish(own, world, notes) {
                Ok(settings) => finished.push(Arc::new(settings)),
                Err(message) => faults.push(Fault { place, message }),
            }
        }
        if !finished.is_empty() {
            self.settings.listeners = finished;
        }
        (self.settings, self.sources, not_yet)
    }

    /// What shipped plugins do is done by the options that they replace.
    fn use_plugins(&mut self, faults: &mut Vec<Fault>) {
        for plugin in &self.plugins {
            let Some(option) = plugin.purpose.needs() else {
                continue;
            };
            let Some(path) = &plugin.file else {
                faults.push(Fault {
                    place: plugin.place.clone(),
                    message: format!("This plugin needs its file. Write {option} PATH below it."),
                });
                continue;
            };
            match &plugin.target {
                Target::Broker => plugin.purpose.apply(&mut self.security.settings, path),
                Target::Listener(number) => {
                    if let Some(listener) = self.listeners.get_mut(*number) {
                        plugin.purpose.apply(&mut listener.security.settings, path);
                    }
                }
                Target::Whoever(name) => {
                    for listener in &mut self.listeners {
                        if listener.plugins.iter().any(|(used, _)| used == name) {
                            listener.found.push((plugin.purpose, path.clone()));
                        }
                    }
                }
            }
        }
        for (name, place) in self.listeners.iter().flat_map(|listener| &listener.plugins) {
            let is_loaded = |plugin: &Plugin| plugin.target == Target::Whoever(name.clone());
            if !self.plugins.iter().any(is_loaded) {
                faults.push(Fault {
                    place: place.clone(),
                    message: format!(
                        "Invalid 'plugin_use' value ({}). There is no 'plugin_load {} PATH' above it.",
                        show(name),
                        show(name)
                    ),
                });
            }
        }
    }

    fn place_of_the_store(&mut self, world: &World<'_>) {
        // The environment has the last word, as in Mosquitto.
        let variable = (world.variable)("MOSQUITTO_PERSISTENCE_LOCATION");
        let location = variable
            .filter(|path| !path.is_empty())
            .map(PathBuf::from)
            .or_else(|| self.location.take());
        self.settings.data_directory = match location {
            None if self.settings.persistence => Some(".".into()),
            location => location,
        };
        if let (true, Some(directory)) = (self.settings.persistence, &self.settings.data_directory)
        {
            let file = self.old_store.take();
            let file = file.unwrap_or_else(|| "mosquitto.db".into());
            self.settings.mosquitto_db = Some(directory.join(file));
        }
    }

    /// What `autosave_interval` leaves to say, where a PUBLISH is acknowledged on disk. 0 is "at the end" there.
    fn write_behind(&mut self) {
        if let (Some(interval), false) = (self.autosave_interval, self.autosave_on_changes) {
            let seconds = u32::try_from(interval).ok().filter(|seconds| *seconds > 0);
            self.settings.write_behind_seconds = seconds.unwrap_or(DAY).min(DAY);
        }
    }

    /// Of `memory_limit`; what an option of its own bounds lower stays there.
    fn share_out_memory(&mut self) {
        let Some(limit) = self.memory_limit else {
            return;
        };
        let (quarter, eighth) = ((limit / 4).max(1), (limit / 8).max(1));
        let settings = &mut self.settings;
        let lower = |bound: &mut u64, to: u64| *bound = (*bound).min(to);
        lower(&mut settings.retained_bytes_max, quarter);
        lower(&mut settings.queue_memory_total_bytes_max, quarter);
        if !settings.persistence {
            lower(&mut settings.queue_total_bytes_max, quarter);
            lower(&mut settings.queue_bytes_max, quarter);
        }
        lower(&mut settings.will_bytes_max, eighth);
        lower(&mut settings.send_bytes_max, eighth.max(TOTAL_BUFFER_MIN));
        lower(
            &mut settings.receive_bytes_max,
            eighth.max(TOTAL_BUFFER_MIN),
        );
    }

    /// Mosquitto has no bounds of its own for these two.
    fn make_room_for_one_packet(&mut self) {
        let packet = u64::from(self.settings.max_packet_size);
        let settings = &mut self.settings;
        settings.receive_bytes_max = settings.receive_bytes_max.max(packet);
        settings.qos2_unreleased_bytes_max = settings.qos2_unreleased_bytes_max.max(packet);
    }
}

impl Listener {
    fn new(place: Place) -> Self {
        let mut settings = ListenerSettings::default();
        settings.endpoints.clear();
        Self {
            settings,
            tls: TlsSettings::default(),
            port: DEFAULT_PORT,
            host: None,
            family: Family::Both,
            plugins: Vec::new(),
            found: Vec::new(),
            security: Security::new(),
            place,
            wanted: false,
        }
    }

    /// Of the default listener. Mosquitto stays in local-only mode when only its protocol or its family is chosen.
    fn is_wanted(&self) -> bool {
        self.wanted || self.settings.protocol != ListenerProtocol::Mqtt
    }

    fn own_security(
        &self,
        per_listener: bool,
        of_the_broker: &SecuritySettings,
    ) -> Option<SecuritySettings> {
        let mut own = if per_listener {
            SecuritySettings {
                allow_anonymous: self.security.allow_anonymous.unwrap_or(false),
                ..self.security.settings.clone()
            }
        } else if self.found.is_empty() {
            return None;
        } else {
            of_the_broker.clone()
        };
        for (purpose, path) in &self.found {
            purpose.apply(&mut own, path);
        }
        Some(own)
    }

    fn finish(
        mut self,
        security: Option<SecuritySettings>,
        world: &World<'_>,
        notes: &mut Vec<Note>,
    ) -> Result<ListenerSettings, String> {
        self.settings.security = security;
        self.settings.tls = self.tls(notes)?;
        self.settings.endpoints = self.endpoints(world)?;
        self.leave_out_what_has_no_effect(notes);
        Ok(self.settings)
    }

    fn leave_out_what_has_no_effect(&mut self, notes: &mut Vec<Note>) {
        let settings = &mut self.settings;
        let mut note = |text: &str| {
            notes.push(Note {
                place: Some(self.place.clone()),
                text: format!("this listener has {text}"),
            });
        };
        let is_web = settings.protocol == ListenerProtocol::WebSocket;
        if !is_web && !settings.websocket_origins.is_empty() {
            settings.websocket_origins.clear();
            note("a 'websockets_origin', which has no effect without 'protocol websockets'");
        }
        if settings.protocol != ListenerProtocol::HttpApi && settings.http_directory.is_some() {
            settings.http_directory = None;
            note("an 'http_dir', which has no effect without 'protocol http_api'");
        }
        if settings.protocol == ListenerProtocol::HttpApi && settings.proxy_protocol.is_some() {
            settings.proxy_protocol = None;
            note("an 'enable_proxy_protocol', which has no effect with 'protocol http_api'");
        }
        if settings.proxy_protocol != Some(ProxyProtocol::V2) && settings.proxy_requires_tls {
            settings.proxy_requires_tls = false;
            note(
                "'proxy_protocol_v2_require_tls true', which has no effect without 'enable_proxy_protocol 2'",
            );
        }
        if matches!(settings.endpoints[..], [Endpoint::Unix(_)])
            && settings.bind_interface.is_some()
        {
            settings.bind_interface = None;
            note("a 'bind_interface', which has no effect on a Unix socket");
        }
    }

    /// TLS is on where there is a certificate with its key.
    fn tls(&mut self, notes: &mut Vec<Note>) -> Result<Option<TlsSettings>, String> {
        let tls = std::mem::take(&mut self.tls);
        match (&tls.certificate_file, &tls.key_file) {
            (Some(_), Some(_)) if self.settings.proxy_protocol.is_some() => Err(
                "'enable_proxy_protocol' and TLS cannot be on one listener: the proxy ends TLS. Remove one of them."
                    .into(),
            ),
            (Some(_), Some(_)) => Ok(Some(tls)),
            (Some(_), None) => Err(
                "This listener has a 'certfile' but no 'keyfile', so it would not use TLS. Add the key, or remove the certificate."
                    .into(),
            ),
            (None, Some(_)) => Err(
                "This listener has a 'keyfile' but no 'certfile', so it would not use TLS. Add the certificate, or remove the key."
                    .into(),
            ),
            (None, None)
                if self.settings.proxy_protocol == Some(ProxyProtocol::V2)
                    && (tls.require_certificate || tls.names_users()) =>
            {
                self.tls_of_proxy(tls, notes).map(Some)
            }
            (None, None) if tls.require_certificate => Err(
                "This listener has 'require_certificate true' but no 'certfile' and 'keyfile', so it would not use TLS. \
                 Add them, or remove the line."
                    .into(),
            ),
            (None, None) => {
                if tls != TlsSettings::default() {
                    notes.push(Note {
                        place: Some(self.place.clone()),
                        text: "this listener has TLS options but no certfile and keyfile: it does not use TLS".into(),
                    });
                }
                Ok(None)
            }
        }
    }

    /// What is asked of certificates that a proxy has verified.
    fn tls_of_proxy(&self, tls: TlsSettings, notes: &mut Vec<Note>) -> Result<TlsSettings, String> {
        if tls.use_subject_as_username {
            return Err(
                "'use_subject_as_username' is not possible with 'enable_proxy_protocol': the proxy tells the common name \
                 only. Use 'use_identity_as_username'."
                    .into(),
            );
        }
        let mut note = |text: &str| {
            notes.push(Note {
                place: Some(self.place.clone()),
                text: format!("this listener {text}"),
            });
        };
        let meant = tls.behind_a_proxy();
        if tls != meant {
            note(
                "has TLS options that have no effect: with 'enable_proxy_protocol 2' the proxy speaks TLS",
            );
        }
        note(
            "believes whoever reaches it about certificates: let nobody but the proxy reach it, or write proxy_networks in a nightjar.toml",
        );
        Ok(meant)
    }

    fn endpoints(&self, world: &World<'_>) -> Result<Vec<Endpoint>, String> {
        let host = self.host.as_deref();
        if self.port == 0 {
            let path = host.unwrap_or_default();
            if path.len() > 107 {
                return Err(format!(
                    "The path of a Unix socket has at most 107 bytes; '{}' is longer.",
                    show(path)
                ));
            }
            return Ok(vec![Endpoint::Unix(path.into())]);
        }
        let addresses = match host {
            None => vec![
                SocketAddr::from((Ipv4Addr::UNSPECIFIED, self.port)),
                SocketAddr::from((Ipv6Addr::UNSPECIFIED, self.port)),
            ],
            Some(host) => {
                let bare = host.trim_start_matches('[').trim_end_matches(']');
                (world.resolve)(bare, self.port).map_err(|error| {
                    format!(
                        "Unable to resolve the host '{}' of this listener: {error}. Write an IP address, or a name that this machine knows.",
                        show(host)
                    )
                })?
            }
        };
        let mut endpoints = Vec::new();
        for address in addresses {
            let endpoint = Endpoint::Tcp(address);
            let fits = match self.family {
                Family::Both => true,
                Family::V4 => address.is_ipv4(),
                Family::V6 => address.is_ipv6(),
            };
            if fits && !endpoints.contains(&endpoint) {
                endpoints.push(endpoint);
            }
        }
        if endpoints.is_empty() {
            return Err(format!(
                "The host '{}' has no address of the chosen 'socket_domain'.",
                show(host.unwrap_or_default())
            ));
        }
        Ok(endpoints)
    }
}

impl Security {
    fn new() -> Self {
        Self {
            allow_anonymous: None,
            settings: SecuritySettings {
                acl_subscribe: AclSubscribe::Mosquitto,
                ..SecuritySettings::default()
            },
            touched: false,
        }
    }
}

/// More is a mistake: each is a socket, and has its own counters.
const LISTENERS_MAX: usize = 1_000;
/// Less is no room for one connection.
const TOTAL_BUFFER_MIN: u64 = 65_536;
/// Of `autosave_interval`; in seconds.
const DAY: u32 = 86_400;
