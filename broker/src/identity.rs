//! Short names for things that several rooms point at. Plain numbers, so that no room has to hold another's values.

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
