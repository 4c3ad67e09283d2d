//! Short names for things that several rooms point at. Plain numbers, so that no room has to hold another's values.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// A shard: one worker thread and what lives on it.
pub type ShardId = u16;

/// A session's place: the shard it lives on for life (D13) and its slot there. The generation makes a stale id harmless.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionId {
    pub shard: ShardId,
    pub slot: u32,
    pub generation: u32,
}

/// A Network Connection's place on the shard that serves it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnectionId {
    pub slot: u32,
    pub generation: u32,
}

/// A share group, named once for the life of the process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct GroupId(pub u64);

/// On whose behalf a session holds a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// The session's own subscriptions.
    Direct,
    /// A share group gave it; the group gets it back when the session goes before acknowledging (D8).
    Group(GroupId),
}

/// Counts the batches a shard hands to the journal. What waits for a ticket may leave once that batch is durable.
pub type Ticket = u64;

/// Who is at the other end, as far as the socket or a trusted proxy tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    Address(SocketAddr),
    /// A Unix socket has no addresses of clients: they are called by the listener's path.
    Path(Arc<str>),
}

impl Peer {
    /// Its address and port, where it has them.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Address(address) => Some(*address),
            Self::Path(_) => None,
        }
    }

    /// The address that means the same everywhere: an IPv4 address in an IPv6 one is an IPv4 address.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Address(address) => Some(address.ip().to_canonical()),
            Self::Path(_) => None,
        }
    }
}

impl From<&str> for Peer {
    fn from(text: &str) -> Self {
        text.parse()
            .map_or_else(|_| Self::Path(text.into()), Self::Address)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Path(path) => f.write_str(path),
        }
    }
}
