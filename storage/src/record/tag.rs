//! The tables of the store, by the numbers they have in checksums.

/// Which table a record belongs to; part of its checksum. The numbers are part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub(crate) enum Tag {
    Store = 1,
    Session = 2,
    Group = 3,
    Cursor = 4,
    Block = 5,
    Moved = 6,
    Message = 7,
    Subscription = 8,
    Received = 9,
    Retained = 10,
}

impl Tag {
    /// By their numbers.
    pub(crate) const BY_NUMBER: [Self; 10] = [
        Self::Store,
        Self::Session,
        Self::Group,
        Self::Cursor,
        Self::Block,
        Self::Moved,
        Self::Message,
        Self::Subscription,
        Self::Received,
        Self::Retained,
    ];

    /// In an order in which a row only points to rows before it; messages are last, for their owners say who needs them.
    pub(crate) const ALL: [Self; 10] = [
        Self::Store,
        Self::Session,
        Self::Group,
        Self::Cursor,
        Self::Block,
        Self::Moved,
        Self::Received,
        Self::Subscription,
        Self::Retained,
        Self::Message,
    ];

    /// What messages call the rows of the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Session => "sessions",
            Self::Group => "groups",
            Self::Cursor => "cursors",
            Self::Block => "blocks",
            Self::Moved => "moved",
            Self::Message => "messages",
            Self::Subscription => "subscriptions",
            Self::Received => "received",
            Self::Retained => "retained",
        }
    }
}
