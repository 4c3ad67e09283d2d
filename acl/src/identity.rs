//! Who asks: what is known of a client when it has said CONNECT.

use std::net::IpAddr;

/// A client as the rules see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The User Name it was let in with; `None` = anonymous.
    pub user: Option<Box<str>>,
    pub client_id: Box<str>,
    /// Where it connects from; `None` where that is no address, or not known.
    pub address: Option<IpAddr>,
    /// The names in its certificate: common name, and alternative names.
    pub certificate_names: Box<[Box<str>]>,
}

/// Which of the two names of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    User,
    ClientId,
}

impl Identity {
    pub fn new(user: Option<&str>, client_id: &str) -> Self {
        Self {
            user: user.map(Into::into),
            client_id: client_id.into(),
            address: None,
            certificate_names: Box::default(),
        }
    }

    /// The name with which nobody gets anything out of a pattern, as Mosquitto has it: it holds `+` or `#`.
    pub fn dangerous_name(&self) -> Option<Name> {
        let is_dangerous = |name: &str| name.contains(['+', '#']);
        if self.user.as_deref().is_some_and(is_dangerous) {
            Some(Name::User)
        } else if is_dangerous(&self.client_id) {
            Some(Name::ClientId)
        } else {
            None
        }
    }

    /// The text that stands in for `%u` or `%c`.
    pub(crate) fn name(&self, name: Name) -> Option<&str> {
        match name {
            Name::User => self.user.as_deref(),
            Name::ClientId => Some(&self.client_id),
        }
    }

    /// Whether a rule that grants something may hold this name: it is exactly one level, and an ordinary one.
    pub(crate) fn may_stand_in(&self, name: Name) -> bool {
        self.name(name)
            .is_some_and(|name| !name.contains(['+', '#', '/']))
    }
}
