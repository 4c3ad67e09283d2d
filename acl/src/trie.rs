//! Rules by the levels of their filters.
//!
//! Each node is reached by one way only, so a walk visits a node once at most, and its cost is bounded by the rules that are
//! alike, not by the topic. `%u` and `%c` are compared in place with the name of the client that asks: one trie serves every
//! client, and a name is never read as a wildcard. Nothing is allocated on a walk unless very many rules overlap.

use std::collections::BTreeMap;

use smallvec::SmallVec;

use crate::identity::Identity;
use crate::rule::{Action, Effect, Level, Rule, Template, is_template_of};

/// Numbers of rules, arranged by their filters.
#[derive(Debug)]
pub(crate) struct Trie {
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    literals: BTreeMap<Box<str>, u32>,
    plus: Option<u32>,
    templates: Vec<(Template, u32)>,
    /// Rules that end here.
    here: Vec<u32>,
    /// Rules that end in `#` below this.
    below: Vec<u32>,
}

/// The first rules, by their place in the file, that speak for and against.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Found {
    pub(crate) deny: Option<u32>,
    pub(crate) allow: Option<u32>,
    /// It would allow, were it not for the client's name.
    pub(crate) allow_but_for_name: Option<u32>,
}

/// What is looked up.
#[derive(Clone, Copy)]
pub(crate) struct Question<'a> {
    pub(crate) action: Action,
    /// A Topic Name; to subscribe, a Topic Filter. A rule then speaks of it where it matches all that the filter does.
    pub(crate) topic: &'a str,
    pub(crate) identity: &'a Identity,
    pub(crate) rules: &'a [Rule],
}

impl Default for Trie {
    fn default() -> Self {
        Self {
            nodes: vec![Node::default()],
        }
    }
}

impl Trie {
    pub(crate) fn insert(&mut self, levels: &[Level], rule: u32) {
        // `+/#` and `#` match the same topics.
        let levels = match levels {
            [Level::Plus, Level::Hash] => &levels[1..],
            levels => levels,
        };
        let mut at = 0;
        for level in levels {
            let next = u32::try_from(self.nodes.len()).expect("a file has fewer levels");
            let node = &mut self.nodes[at];
            let child = match level {
                Level::Hash => {
                    node.below.push(rule);
                    return;
                }
                Level::Plus => *node.plus.get_or_insert(next),
                Level::Literal(level) => *node.literals.entry(level.clone()).or_insert(next),
                Level::Template(template) => {
                    let known = node.templates.iter().find(|(known, _)| known == template);
                    match known.map(|(_, child)| *child) {
                        Some(child) => child,
                        None => {
                            node.templates.push((template.clone(), next));
                            next
                        }
                    }
                }
            };
            if child == next {
                self.nodes.push(Node::default());
            }
            at = child as usize;
        }
        self.nodes[at].here.push(rule);
    }

    /// Adds to `found` what the rules say.
    pub(crate) fn find(&self, question: &Question<'_>, found: &mut Found) {
        let topic = question.topic;
        // [MQTT-4.7.2-1]: no wildcard at the beginning matches `$`.
        let wild_at_root = !topic.starts_with('$');
        // A node, and where its next level begins; `None`: behind the last.
        let mut waiting: SmallVec<[(u32, Option<usize>); 16]> = SmallVec::new();
        waiting.push((0, Some(0)));
        while let Some((id, place)) = waiting.pop() {
            let Some(node) = self.nodes.get(id as usize) else {
                continue;
            };
            let is_root = id == 0;
            if !is_root || wild_at_root {
                found.consider(&node.below, question);
            }
            let Some(rest) = place.and_then(|place| topic.get(place..)) else {
                found.consider(&node.here, question);
                continue;
            };
            let length = rest.bytes().take_while(|&byte| byte != b'/').count();
            let level = rest.get(..length).unwrap_or_default();
            let next = (length < rest.len()).then_some(topic.len() - rest.len() + length + 1);
            let is_filter = question.action == Action::Subscribe;
            if is_filter && level == "#" {
                continue; // Only `#` matches all that it does.
            }
            if !is_root || wild_at_root {
                waiting.extend(node.plus.map(|child| (child, next)));
            }
            if is_filter && level == "+" {
                continue;
            }
            waiting.extend(node.literals.get(level).map(|child| (*child, next)));
            for (template, child) in &node.templates {
                if is_template_of(template, question.identity, level) {
                    waiting.push((*child, next));
                }
            }
        }
    }
}

impl Found {
    fn consider(&mut self, numbers: &[u32], question: &Question<'_>) {
        for &number in numbers {
            let Some(rule) = question.rules.get(number as usize) else {
                continue;
            };
            if !rule.actions.contains(question.action) {
                continue;
            }
            let place = match rule.effect {
                Effect::Deny => &mut self.deny,
                Effect::Allow if rule.may_grant(question.identity, question.topic) => {
                    &mut self.allow
                }
                Effect::Allow => &mut self.allow_but_for_name,
            };
            *place = Some(place.map_or(number, |before| before.min(number)));
        }
    }
}
