//! One rule: what it is about, what it says, and where it stands in its file.

use std::fmt;

use crate::identity::{Identity, Name};

/// What a client wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Publish,
    Subscribe,
    Receive,
}

/// A set of actions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Actions(u8);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    Allow,
    Deny,
}

/// Whom a rule is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    Anonymous,
    User(Box<str>),
    /// `pattern`: every client, named or not.
    Everybody,
    Role(Box<str>),
}

#[derive(Clone, Debug)]
pub struct Rule {
    pub effect: Effect,
    pub actions: Actions,
    pub subject: Subject,
    /// As written.
    pub filter: Box<str>,
    /// From 1.
    pub line: u32,
    pub(crate) levels: Box<[Level]>,
    pub(crate) uses: Uses,
}

/// Which names a filter holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Uses {
    pub(crate) user: bool,
    pub(crate) client_id: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Literal(Box<str>),
    Plus,
    Hash,
    /// A level with `%u` or `%c` in it.
    Template(Template),
}

pub(crate) type Template = Box<[Piece]>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Text(Box<str>),
    Name(Name),
}

impl Actions {
    pub const NONE: Self = Self(0);
    pub const WRITE: Self = Self(1);
    pub const READ: Self = Self(2 | 4);
    pub const ALL: Self = Self(7);

    pub fn only(action: Action) -> Self {
        Self(match action {
            Action::Publish => 1,
            Action::Subscribe => 2,
            Action::Receive => 4,
        })
    }

    #[inline]
    pub fn contains(self, action: Action) -> bool {
        self.0 & Self::only(action).0 != 0
    }

    pub fn overlaps(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub(crate) fn is_within(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }
}

impl Rule {
    /// `with_names`: `%u` and `%c` stand for names.
    pub(crate) fn new(
        effect: Effect,
        actions: Actions,
        subject: Subject,
        filter: &str,
        line: u32,
        with_names: bool,
    ) -> Self {
        let mut uses = Uses::default();
        let levels = filter
            .split('/')
            .map(|level| match level {
                "+" => Level::Plus,
                "#" => Level::Hash,
                level if with_names && has_name(level) => Level::Template(pieces(level, &mut uses)),
                level => Level::Literal(level.into()),
            })
            .collect();
        Self {
            effect,
            actions,
            subject,
            filter: filter.into(),
            line,
            levels,
            uses,
        }
    }

    /// It holds `%u` or `%c`.
    pub fn has_names(&self) -> bool {
        self.uses.user || self.uses.client_id
    }

    /// Whether the rule may grant something of this topic or filter to this client. What it denies, it denies literally.
    #[inline]
    pub(crate) fn may_grant(&self, identity: &Identity, topic: &str) -> bool {
        if !self.has_names() {
            return true;
        }
        // A name never opens the topics of the broker: their `$` has to stand in the rule.
        (!topic.starts_with('$') || self.filter.starts_with('$'))
            && (!self.uses.user || identity.may_stand_in(Name::User))
            && (!self.uses.client_id || identity.may_stand_in(Name::ClientId))
    }

    /// The levels with the client's names in their places, cut at their slashes. `None`: a name is missing.
    pub(crate) fn expand(&self, identity: &Identity) -> Option<Vec<Level>> {
        let mut levels = Vec::with_capacity(self.levels.len());
        for level in &self.levels {
            let Level::Template(template) = level else {
                levels.push(level.clone());
                continue;
            };
            let mut text = String::new();
            for piece in template {
                match piece {
                    Piece::Text(piece) => text.push_str(piece),
                    Piece::Name(name) => text.push_str(identity.name(*name)?),
                }
            }
            levels.extend(text.split('/').map(|level| Level::Literal(level.into())));
        }
        Some(levels)
    }

    /// Whether everything `other` matches is matched by this one, whoever asks.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        let dollar = |rule: &Self| rule.filter.starts_with('$');
        let mut mine = self.levels.iter();
        let mut theirs = other.levels.iter();
        if dollar(other) && !dollar(self) {
            return false;
        }
        loop {
            match (mine.next(), theirs.next()) {
                (Some(Level::Hash), _) => return true,
                (None, None) => return true,
                (None, Some(_)) | (Some(_), None) | (Some(_), Some(Level::Hash)) => return false,
                (Some(Level::Plus), Some(_)) => {}
                (Some(mine), Some(theirs)) if mine == theirs => {}
                _ => return false,
            }
        }
    }
}

/// Whether a level of a topic is what the template says, with the client's names in it.
pub(crate) fn is_template_of(template: &[Piece], identity: &Identity, level: &str) -> bool {
    let mut rest = level;
    for piece in template {
        let expected = match piece {
            Piece::Text(text) => Some(&**text),
            Piece::Name(name) => identity.name(*name),
        };
        match expected.and_then(|expected| rest.strip_prefix(expected)) {
            Some(after) => rest = after,
            None => return false,
        }
    }
    rest.is_empty()
}

fn has_name(level: &str) -> bool {
    level.contains("%u") || level.contains("%c")
}

fn pieces(level: &str, uses: &mut Uses) -> Template {
    let mut pieces = Vec::new();
    let mut text = String::new();
    let mut rest = level;
    while let Some(first) = rest.chars().next() {
        let name = match rest.get(..2) {
            Some("%u") => Some(Name::User),
            Some("%c") => Some(Name::ClientId),
            _ => None,
        };
        let Some(name) = name else {
            text.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        if !text.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut text).into()));
        }
        uses.user |= name == Name::User;
        uses.client_id |= name == Name::ClientId;
        pieces.push(Piece::Name(name));
        rest = &rest[2..];
    }
    if !text.is_empty() {
        pieces.push(Piece::Text(text.into()));
    }
    pieces.into()
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let effect = match self.effect {
            Effect::Allow => "allow",
            Effect::Deny => "deny",
        };
        let actions = match self.actions {
            Actions::ALL => "everything",
            Actions::READ => "read",
            Actions(1) => "publish",
            Actions(2) => "subscribe",
            Actions(4) => "receive",
            _ => "some",
        };
        write!(f, "{effect} {actions} {} for {}", self.filter, self.subject)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("clients without a user name"),
            Self::User(user) => write!(f, "user {}", user.escape_debug()),
            Self::Everybody => f.write_str("everybody"),
            Self::Role(role) => write!(f, "role {}", role.escape_debug()),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
            Self::Receive => "receive",
        })
    }
}
