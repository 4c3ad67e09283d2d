//! The form of our own: roles, and who has them.
//!
//! ```toml
//! [roles.meter]
//! allow.publish = ["meters/%c/#"]
//! allow.read = ["commands/%c/#"]     # subscribe and receive
//! deny.publish = ["meters/%c/config"]
//!
//! [users]
//! gw_123 = ["meter"]
//!
//! [[assign]]                         # every condition that is given has to hold
//! roles = ["meter"]
//! certificates = ["*.meters.example"]
//! addresses = ["10.0.0.0/8"]
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;

use ipnet::IpNet;
use nightjar_codec::topic::validate_topic_filter;
use serde::Deserialize;
use toml::Spanned;

use crate::identity::Identity;
use crate::rule::{Action, Actions, Effect, Rule, Subject};
use crate::{Error, ErrorKind, Rules, Selection, new_trie};

/// Roles, and the conditions under which a client has them.
#[derive(Debug)]
pub(crate) struct Assignment {
    /// Place and name.
    pub(crate) roles: Vec<(u32, Box<str>)>,
    users: Option<Vec<Box<str>>>,
    anonymous: Option<bool>,
    client_ids: Option<Vec<Box<str>>>,
    addresses: Option<Vec<IpNet>>,
    certificates: Option<Vec<Box<str>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    roles: BTreeMap<Box<str>, Role>,
    #[serde(default)]
    users: BTreeMap<Box<str>, Vec<Spanned<Box<str>>>>,
    #[serde(default)]
    assign: Vec<Assign>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Role {
    #[serde(default)]
    allow: Lists,
    #[serde(default)]
    deny: Lists,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Lists {
    #[serde(default)]
    publish: Vec<Spanned<Box<str>>>,
    #[serde(default)]
    subscribe: Vec<Spanned<Box<str>>>,
    #[serde(default)]
    receive: Vec<Spanned<Box<str>>>,
    #[serde(default)]
    read: Vec<Spanned<Box<str>>>,
    #[serde(default)]
    all: Vec<Spanned<Box<str>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Assign {
    roles: Vec<Spanned<Box<str>>>,
    users: Option<Vec<Box<str>>>,
    anonymous: Option<bool>,
    client_ids: Option<Vec<Box<str>>>,
    addresses: Option<Vec<Spanned<Box<str>>>>,
    certificates: Option<Vec<Box<str>>>,
}

pub(crate) fn read(file: &str, text: &[u8]) -> Result<Rules, Vec<Error>> {
    let error = |line, kind| Error {
        file: file.into(),
        line,
        kind,
    };
    let text = std::str::from_utf8(text).map_err(|_| vec![error(None, ErrorKind::NotUtf8)])?;
    let line_of = |span: Range<usize>| line_at(text, span.start);
    let parsed: File = toml::from_str(text).map_err(|fault| {
        let kind = ErrorKind::Toml(fault.message().into());
        vec![error(fault.span().map(line_of), kind)]
    })?;
    let mut errors = Vec::new();
    let mut tries = Vec::new();
    let mut places: BTreeMap<Box<str>, u32> = BTreeMap::new();
    let mut rules = Vec::new();
    for (name, role) in &parsed.roles {
        places.insert(name.clone(), new_trie(&mut tries));
        for (effect, lists) in [(Effect::Allow, &role.allow), (Effect::Deny, &role.deny)] {
            let lists = [
                (&lists.publish, Actions::WRITE),
                (&lists.subscribe, Actions::only(Action::Subscribe)),
                (&lists.receive, Actions::only(Action::Receive)),
                (&lists.read, Actions::READ),
                (&lists.all, Actions::ALL),
            ];
            for (filters, actions) in lists {
                for filter in filters {
                    let line = line_of(filter.span());
                    let subject = Subject::Role(name.clone());
                    let filter = filter.get_ref();
                    if validate_topic_filter(filter).is_err() {
                        errors.push(error(Some(line), ErrorKind::InvalidFilter(filter.clone())));
                        continue;
                    }
                    rules.push(Rule::new(effect, actions, subject, filter, line, true));
                }
            }
        }
    }
    // What is explained is the first rule of the file that decides.
    rules.sort_by_key(|rule| rule.line);
    for (rule, number) in rules.iter().zip(0..) {
        if let Subject::Role(role) = &rule.subject
            && let Some(place) = places.get(role)
        {
            tries[*place as usize].insert(&rule.levels, number);
        }
    }
    let known_roles = |names: &[Spanned<Box<str>>], errors: &mut Vec<Error>| {
        let mut known = Vec::new();
        for name in names {
            match places.get(name.get_ref()) {
                Some(place) => known.push((*place, name.get_ref().clone())),
                None => errors.push(error(
                    Some(line_of(name.span())),
                    ErrorKind::UnknownRole(name.get_ref().clone()),
                )),
            }
        }
        known
    };
    let mut assignments = Vec::new();
    for (user, roles) in &parsed.users {
        assignments.push(Assignment {
            roles: known_roles(roles, &mut errors),
            users: Some(vec![user.clone()]),
            anonymous: None,
            client_ids: None,
            addresses: None,
            certificates: None,
        });
    }
    for assign in parsed.assign {
        let roles = known_roles(&assign.roles, &mut errors);
        let addresses = assign.addresses.map(|ranges| {
            let mut known = Vec::new();
            for range in ranges {
                match parse_range(range.get_ref()) {
                    Some(range) => known.push(range),
                    None => errors.push(error(
                        Some(line_of(range.span())),
                        ErrorKind::InvalidAddress(range.into_inner()),
                    )),
                }
            }
            known
        });
        assignments.push(Assignment {
            roles,
            users: assign.users,
            anonymous: assign.anonymous,
            client_ids: assign.client_ids,
            addresses,
            certificates: assign.certificates,
        });
    }
    if !errors.is_empty() {
        errors.sort_by_key(|error| error.line);
        return Err(errors);
    }
    Ok(Rules {
        file: file.into(),
        rules,
        tries,
        selection: Selection::Native { assignments },
        warnings: Vec::new(),
    })
}

/// The places of the roles this client has, in order.
pub(crate) fn roles(assignments: &[Assignment], identity: &Identity) -> Box<[u32]> {
    let mut places: Vec<u32> = assignments
        .iter()
        .filter(|assignment| assignment.holds_for(identity))
        .flat_map(|assignment| assignment.roles.iter().map(|(place, _)| *place))
        .collect();
    places.sort_unstable();
    places.dedup();
    places.into()
}

impl Assignment {
    pub(crate) fn asks_for_names_only(&self) -> bool {
        self.addresses.is_none() && self.certificates.is_none()
    }

    fn holds_for(&self, identity: &Identity) -> bool {
        let user = identity.user.as_deref();
        let has = |names: &[Box<str>], name: &str| names.iter().any(|known| **known == *name);
        self.users
            .as_ref()
            .is_none_or(|users| user.is_some_and(|user| has(users, user)))
            && self
                .anonymous
                .is_none_or(|anonymous| anonymous == user.is_none())
            && self
                .client_ids
                .as_ref()
                .is_none_or(|ids| has(ids, &identity.client_id))
            && self.addresses.as_ref().is_none_or(|ranges| {
                // A socket of both versions shows IPv4 clients as `::ffff:a.b.c.d`.
                let address = identity.address.map(|address| address.to_canonical());
                address.is_some_and(|address| ranges.iter().any(|range| range.contains(&address)))
            })
            && self.certificates.as_ref().is_none_or(|patterns| {
                let names = &identity.certificate_names;
                names
                    .iter()
                    .any(|name| patterns.iter().any(|pattern| is_named(pattern, name)))
            })
    }
}

/// `*.meters.example` is any one label before `.meters.example`; everything else is itself.
fn is_named(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix("*.") {
        Some(domain) => name
            .split_once('.')
            .is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(domain)),
        None => pattern == name,
    }
}

fn parse_range(text: &str) -> Option<IpNet> {
    text.parse()
        .ok()
        .or_else(|| Some(IpNet::from(text.parse::<IpAddr>().ok()?)))
}

fn line_at(text: &str, offset: usize) -> u32 {
    let before = text.as_bytes().iter().take(offset);
    let lines = before.filter(|&&byte| byte == b'\n').count();
    u32::try_from(lines).map_or(u32::MAX, |lines| lines + 1)
}
