//! Who may publish, subscribe and receive what.
//!
//! In: the text of a file, in Mosquitto's acl_file language or in a TOML form of our own, and who asks. Out: yes or no, and
//! which rule says so. [`Rules`] are immutable and shared; [`Permissions`] are what one client has of them, made at CONNECT, and
//! a question to them is one walk of a trie that allocates nothing. No clock, no file, no packet is known here.
//!
//! What no rule allows is denied. A deny wins over an allow of the same stage. Mosquitto's language has two stages: the rules of
//! the client's own user, then the patterns; the first that says anything decides. Ours has one: all roles of the client.
//!
//! `%u` and `%c` stand for the client's names, literally. A name with `+`, `#` or `/` never makes a rule with it grant
//! anything, and a name that begins with `$` never opens the broker's own topics. What is denied with names is denied as written.

mod acl_file;
mod identity;
mod lint;
mod native;
mod rule;
mod trie;

use std::collections::BTreeMap;
use std::fmt;
pub use std::net::IpAddr;
use std::sync::Arc;

use nightjar_codec::topic::parse_shared;

pub use identity::{Identity, Name};
pub use lint::lint;
use native::Assignment;
pub use rule::{Action, Actions, Effect, Rule, Subject};
use trie::{Found, Question, Trie};

/// All rules of one file.
#[derive(Debug)]
pub struct Rules {
    file: Box<str>,
    rules: Vec<Rule>,
    tries: Vec<Trie>,
    selection: Selection,
    /// What is odd, but no error.
    warnings: Vec<Warning>,
}

/// Which tries speak to whom.
#[derive(Debug)]
enum Selection {
    AclFile {
        anonymous: Option<u32>,
        users: BTreeMap<Box<str>, u32>,
        patterns: Option<u32>,
    },
    /// One trie a role, in the order of the roles.
    Native { assignments: Vec<Assignment> },
}

/// What one client may do.
#[derive(Clone, Debug)]
pub struct Permissions {
    rules: Arc<Rules>,
    identity: Arc<Identity>,
    /// Asked first, all of them together.
    first: Box<[u32]>,
    /// Asked where those say nothing.
    then: Option<u32>,
    /// A name that no pattern is good for.
    dangerous: Option<Name>,
    /// Denying rules whose names have a `/` in them for this client.
    spread: Option<Arc<Trie>>,
}

/// An answer and its reason.
#[derive(Clone, Copy, Debug)]
pub struct Explanation<'a> {
    pub is_allowed: bool,
    pub reason: Reason<'a>,
}

#[derive(Clone, Copy, Debug)]
pub enum Reason<'a> {
    Rule(&'a Rule),
    /// This rule would allow it, but the client's name cannot stand in for `%u` or `%c`.
    UnusableName(&'a Rule),
    /// There are patterns, and the client has a name with `+` or `#`.
    DangerousName(Name),
    /// No rule speaks of it.
    NoRule,
}

/// What is wrong with a file, or with one of its lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pub file: Box<str>,
    /// From 1.
    pub line: Option<u32>,
    pub kind: ErrorKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    NotUtf8,
    /// `topic` or `pattern` without anything.
    EmptyTopic,
    MissingUser,
    InvalidAccess(Box<str>),
    InvalidFilter(Box<str>),
    /// The first word is none that is known.
    InvalidLine(Box<str>),
    /// Of the TOML form: what the parser says.
    Toml(Box<str>),
    UnknownRole(Box<str>),
    InvalidAddress(Box<str>),
    /// The file could not be read.
    Unreadable(Box<str>),
}

/// What somebody may not have meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// From 1.
    pub line: u32,
    pub text: String,
}

impl Rules {
    /// Reads a file of this name: TOML where it ends in `.toml`, else Mosquitto's language.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(file: &str, text: &[u8]) -> Result<Self, Vec<Error>> {
        if file.ends_with(".toml") {
            native::read(file, text)
        } else {
            Self::parse_acl_file(file, text)
        }
    }

    /// Reads Mosquitto's language.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse_acl_file(file: &str, text: &[u8]) -> Result<Self, Vec<Error>> {
        let contents = acl_file::read(file, text);
        if !contents.errors.is_empty() {
            return Err(contents.errors);
        }
        let mut tries: Vec<Trie> = Vec::new();
        let mut users = BTreeMap::new();
        let (mut anonymous, mut patterns) = (None, None);
        for (rule, number) in contents.rules.iter().zip(0..) {
            let known = match &rule.subject {
                Subject::Anonymous => &mut anonymous,
                Subject::Everybody | Subject::Role(_) => &mut patterns,
                Subject::User(user) => users.entry(user.clone()).or_insert(None),
            };
            let place = *known.get_or_insert_with(|| new_trie(&mut tries));
            tries[place as usize].insert(&rule.levels, number);
        }
        let users = users
            .into_iter()
            .filter_map(|(user, trie)| Some((user, trie?)))
            .collect();
        Ok(Self {
            file: file.into(),
            rules: contents.rules,
            tries,
            selection: Selection::AclFile {
                anonymous,
                users,
                patterns,
            },
            warnings: contents.warnings,
        })
    }

    /// Rules that allow nobody anything.
    pub fn deny_all(file: &str) -> Self {
        Self {
            file: file.into(),
            rules: Vec::new(),
            tries: Vec::new(),
            selection: Selection::Native {
                assignments: Vec::new(),
            },
            warnings: Vec::new(),
        }
    }

    pub fn file(&self) -> &str {
        &self.file
    }

    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// What this client has of the rules.
    pub fn permissions(self: &Arc<Self>, identity: Identity) -> Permissions {
        let (first, then): (Box<[u32]>, _) = match &self.selection {
            Selection::AclFile {
                anonymous,
                users,
                patterns,
            } => {
                let own = match &identity.user {
                    None => *anonymous,
                    Some(user) => users.get(user).copied(),
                };
                (own.into_iter().collect(), *patterns)
            }
            Selection::Native { assignments } => (native::roles(assignments, &identity), None),
        };
        let has_slash = |name: Option<&str>| name.is_some_and(|name| name.contains('/'));
        let needs_spread =
            has_slash(identity.user.as_deref()) || has_slash(Some(&identity.client_id));
        Permissions {
            dangerous: identity.dangerous_name().filter(|_| then.is_some()),
            spread: needs_spread.then(|| Arc::new(self.spread(&identity, &first))),
            rules: Arc::clone(self),
            identity: Arc::new(identity),
            first,
            then,
        }
    }

    /// Whether user name and client id say everything that counts: no address and no certificate does.
    pub fn ask_for_names_only(&self) -> bool {
        match &self.selection {
            Selection::AclFile { .. } => true,
            Selection::Native { assignments } => {
                assignments.iter().all(Assignment::asks_for_names_only)
            }
        }
    }

    pub fn may_publish(self: &Arc<Self>, identity: &Identity, topic: &str) -> bool {
        self.permissions(identity.clone()).may_publish(topic)
    }

    pub fn may_subscribe(self: &Arc<Self>, identity: &Identity, filter: &str) -> bool {
        self.permissions(identity.clone()).may_subscribe(filter)
    }

    pub fn may_receive(self: &Arc<Self>, identity: &Identity, topic: &str) -> bool {
        self.permissions(identity.clone()).may_receive(topic)
    }

    /// What denies this client with names of more than one level.
    fn spread(&self, identity: &Identity, first: &[u32]) -> Trie {
        let mut trie = Trie::default();
        for (rule, number) in self.rules.iter().zip(0..) {
            if rule.effect == Effect::Deny
                && rule.has_names()
                && self.is_for(rule, first)
                && let Some(levels) = rule.expand(identity)
            {
                trie.insert(&levels, number);
            }
        }
        trie
    }

    /// A pattern, or a rule of one of these roles.
    fn is_for(&self, rule: &Rule, roles: &[u32]) -> bool {
        match (&rule.subject, &self.selection) {
            (Subject::Role(role), Selection::Native { assignments }) => assignments
                .iter()
                .flat_map(|assignment| &assignment.roles)
                .any(|(place, name)| name == role && roles.contains(place)),
            _ => true,
        }
    }
}

impl Permissions {
    /// Whether the client may publish to this Topic Name.
    #[inline]
    pub fn may_publish(&self, topic: &str) -> bool {
        self.explain(Action::Publish, topic).is_allowed
    }

    /// Whether the client may be given a message of this Topic Name.
    #[inline]
    pub fn may_receive(&self, topic: &str) -> bool {
        self.explain(Action::Receive, topic).is_allowed
    }

    /// Whether the client may subscribe to all that this Topic Filter matches: one rule allows all of it, and none denies all
    /// of it. What is denied in part is held back when it is delivered. Of a `$share/` filter the inner one counts.
    pub fn may_subscribe(&self, filter: &str) -> bool {
        self.explain(Action::Subscribe, filter).is_allowed
    }

    /// The same, with the reason.
    pub fn explain(&self, action: Action, topic: &str) -> Explanation<'_> {
        let topic = match action {
            Action::Subscribe => match parse_shared(topic) {
                Ok(Some((_, inner))) => inner,
                Ok(None) => topic,
                Err(_) => return Explanation::DENIED,
            },
            _ => topic,
        };
        // `+/#` and `#` match the same topics.
        let topic = match (action, topic) {
            (Action::Subscribe, "+/#") => "#",
            (_, topic) => topic,
        };
        let question = Question {
            action,
            topic,
            identity: &self.identity,
            rules: &self.rules.rules,
        };
        let mut unusable = None;
        let patterns = self.then.as_ref().map(std::slice::from_ref);
        let own = (&*self.first, patterns.is_none());
        for (stage, has_names) in [Some(own), patterns.map(|stage| (stage, true))]
            .into_iter()
            .flatten()
        {
            if let Some(name) = self.dangerous.filter(|_| has_names) {
                return Explanation {
                    is_allowed: false,
                    reason: Reason::DangerousName(name),
                };
            }
            let mut found = Found::default();
            for &trie in stage {
                if let Some(trie) = self.rules.tries.get(trie as usize) {
                    trie.find(&question, &mut found);
                }
            }
            if let Some(spread) = self.spread.as_ref().filter(|_| has_names) {
                spread.find(&question, &mut found);
            }
            if let Some(rule) = found.deny.or(found.allow).and_then(|rule| self.rule(rule)) {
                return Explanation {
                    is_allowed: found.deny.is_none(),
                    reason: Reason::Rule(rule),
                };
            }
            unusable = unusable.or(found.allow_but_for_name);
        }
        match unusable.and_then(|rule| self.rule(rule)) {
            Some(rule) => Explanation {
                is_allowed: false,
                reason: Reason::UnusableName(rule),
            },
            None => Explanation::DENIED,
        }
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    pub fn rules(&self) -> &Arc<Rules> {
        &self.rules
    }

    /// Both always give the same answers.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.rules, &other.rules)
            && self.first == other.first
            && self.then == other.then
            && self.identity.user == other.identity.user
            && self.identity.client_id == other.identity.client_id
    }

    fn rule(&self, number: u32) -> Option<&Rule> {
        self.rules.rules.get(number as usize)
    }
}

impl Explanation<'_> {
    const DENIED: Self = Self {
        is_allowed: false,
        reason: Reason::NoRule,
    };
}

fn new_trie(tries: &mut Vec<Trie>) -> u32 {
    tries.push(Trie::default());
    u32::try_from(tries.len() - 1).expect("a file has fewer users")
}

impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(rule) => write!(f, "line {}: {rule}", rule.line),
            Self::UnusableName(rule) => write!(
                f,
                "line {}: {rule}: the user name or client id cannot stand in for %u or %c, because it holds +, # or /, or \
                 begins with $",
                rule.line
            ),
            Self::DangerousName(Name::User) => {
                f.write_str("there are patterns, and the user name holds + or #")
            }
            Self::DangerousName(Name::ClientId) => {
                f.write_str("there are patterns, and the client id holds + or #")
            }
            Self::NoRule => f.write_str("no rule allows it"),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = &self.file;
        match &self.kind {
            ErrorKind::NotUtf8 => write!(f, "Text that is not UTF-8 in acl_file \"{file}\"")?,
            ErrorKind::EmptyTopic => write!(f, "Empty topic in acl_file \"{file}\"")?,
            ErrorKind::MissingUser => write!(f, "Missing username in acl_file \"{file}\"")?,
            ErrorKind::InvalidAccess(word) => write!(
                f,
                "Invalid topic access type \"{}\" in acl_file \"{file}\"",
                word.escape_debug()
            )?,
            ErrorKind::InvalidFilter(filter) => write!(
                f,
                "Invalid ACL topic \"{}\" in acl_file \"{file}\"",
                filter.escape_debug()
            )?,
            ErrorKind::InvalidLine(word) => write!(
                f,
                "Invalid line in acl_file \"{file}\": {}",
                word.escape_debug()
            )?,
            ErrorKind::Toml(text) => write!(f, "Invalid TOML in acl_file \"{file}\": {text}")?,
            ErrorKind::UnknownRole(role) => write!(
                f,
                "Unknown role \"{}\" in acl_file \"{file}\"",
                role.escape_debug()
            )?,
            ErrorKind::InvalidAddress(text) => write!(
                f,
                "Invalid address range \"{}\" in acl_file \"{file}\"",
                text.escape_debug()
            )?,
            ErrorKind::Unreadable(error) => {
                write!(f, "Unable to open acl_file \"{file}\": {error}")?;
            }
        }
        match self.line {
            Some(line) => write!(f, ", line {line}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}
