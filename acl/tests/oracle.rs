//! Random rules, clients, topics and filters, decided by the crate and by a matcher that knows nothing of tries: it puts the names
//! into each filter, and tries the filters one after the other. `TRIALS=10000000` is the long form, `SEED=n` one series again.

use std::sync::Arc;

use nightjar_acl::{Action, Identity, Rules};
use nightjar_codec::topic::matches;

#[test]
fn rules_decide_as_a_naive_matcher() {
    let number = |name: &str, otherwise| {
        std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
    };
    let trials: u64 = number("TRIALS", 100_000);
    let mut random = Random(number("SEED", 1) | 1);
    let mut done = 0;
    let mut allowed = 0_u64;
    let worlds = Topics::new();
    while done < trials {
        let file = File::random(&mut random);
        let rules = Arc::new(file.parse());
        for _ in 0..4 {
            let identity = random_identity(&mut random);
            let permissions = rules.permissions(identity.clone());
            for _ in 0..8 {
                let (action, topic) = match random.below(3) {
                    0 => (Action::Publish, random_topic(&mut random)),
                    1 => (Action::Receive, random_topic(&mut random)),
                    _ => (Action::Subscribe, random_filter(&mut random, &SUBSCRIBED)),
                };
                let ours = permissions.explain(action, &topic).is_allowed;
                let theirs = file.allows(&worlds, &identity, action, &topic);
                assert_eq!(
                    ours,
                    theirs,
                    "{action} {topic} as {identity:?} of {}",
                    file.text()
                );
                allowed += u64::from(ours);
                done += 1;
            }
        }
    }
    // Both answers are tried.
    assert!(
        allowed > trials / 10 && allowed < trials / 2,
        "{allowed} of {trials}"
    );
    println!("{done} decisions, {allowed} of them allowed");
}

/// A file of one of the two languages.
struct File {
    lines: Vec<Line>,
    is_native: bool,
}

struct Line {
    /// `None`: anonymous, or in the native form everybody who is not named.
    user: Option<&'static str>,
    is_pattern: bool,
    deny: bool,
    write: bool,
    subscribe: bool,
    receive: bool,
    filter: String,
}

impl File {
    fn random(random: &mut Random) -> Self {
        let is_native = random.below(2) == 0;
        let lines = (0..=random.below(6)).map(|_| {
            let deny = random.below(4) == 0;
            let is_pattern = random.below(2) == 0;
            let (write, read) = match random.below(3) {
                0 => (true, false),
                1 => (false, true),
                _ => (true, true),
            };
            let all = deny && !is_native;
            let levels: &[&str] = if is_pattern || is_native {
                &PATTERN
            } else {
                &PLAIN
            };
            Line {
                user: [None, Some("a"), Some("b"), Some("a/b")][random.below(4) as usize],
                is_pattern,
                deny,
                write: write || all,
                subscribe: read || all,
                receive: read || all,
                filter: if !deny && random.below(3) == 0 {
                    "#".into()
                } else {
                    random_filter(random, levels)
                },
            }
        });
        Self {
            lines: lines.collect(),
            is_native,
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        if self.is_native {
            for (number, line) in self.lines.iter().enumerate() {
                let effect = if line.deny { "deny" } else { "allow" };
                let list = match (line.write, line.receive) {
                    (true, true) => "all",
                    (true, false) => "publish",
                    _ => "read",
                };
                let condition = match (line.is_pattern, line.user) {
                    (true, _) => String::new(),
                    (false, None) => "anonymous = true\n".into(),
                    (false, Some(user)) => format!("users = [\"{user}\"]\n"),
                };
                text += &format!(
                    "[roles.r{number}]\n{effect}.{list} = [\"{}\"]\n[[assign]]\nroles = [\"r{number}\"]\n{condition}",
                    line.filter
                );
            }
            return text;
        }
        // The anonymous section comes first.
        for user in [None, Some("a"), Some("b"), Some("a/b")] {
            text += &user.map_or(String::new(), |user| format!("user {user}\n"));
            for line in self.lines.iter().filter(|line| line.user == user) {
                let keyword = if line.is_pattern { "pattern" } else { "topic" };
                let access = match (line.deny, line.write, line.receive) {
                    (true, ..) => "deny",
                    (false, true, true) => "readwrite",
                    (false, true, false) => "write",
                    _ => "read",
                };
                text += &format!("{keyword} {access} {}\n", line.filter);
            }
        }
        text
    }

    fn parse(&self) -> Rules {
        let name = if self.is_native { "a.toml" } else { "a" };
        Rules::parse(name, self.text().as_bytes())
            .unwrap_or_else(|errors| panic!("{errors:?} in {}", self.text()))
    }

    fn allows(&self, worlds: &Topics, identity: &Identity, action: Action, topic: &str) -> bool {
        let user = identity.user.as_deref();
        if self.is_native {
            let mine = |line: &&Line| line.is_pattern || line.user == user;
            let lines = self.lines.iter().filter(mine);
            return decide(worlds, lines, identity, action, topic, true).unwrap_or(false);
        }
        let own = |line: &&Line| !line.is_pattern && line.user == user;
        let lines = self.lines.iter().filter(own);
        if let Some(decided) = decide(worlds, lines, identity, action, topic, false) {
            return decided;
        }
        let is_dangerous = |name: &str| name.contains(['+', '#']);
        if user.is_some_and(is_dangerous) || is_dangerous(&identity.client_id) {
            return false;
        }
        let lines = self.lines.iter().filter(|line| line.is_pattern);
        decide(worlds, lines, identity, action, topic, true).unwrap_or(false)
    }
}

fn decide<'a>(
    worlds: &Topics,
    lines: impl Iterator<Item = &'a Line>,
    identity: &Identity,
    action: Action,
    topic: &str,
    with_names: bool,
) -> Option<bool> {
    let mut decided = None;
    for line in lines {
        let speaks = match action {
            Action::Publish => line.write,
            Action::Subscribe => line.subscribe,
            Action::Receive => line.receive,
        };
        if !speaks {
            continue;
        }
        let mut filter = line.filter.clone();
        let mut is_usable = true;
        if with_names {
            for (place, name) in [
                ("%u", identity.user.as_deref()),
                ("%c", Some(&*identity.client_id)),
            ] {
                if !filter.contains(place) {
                    continue;
                }
                let Some(name) = name else {
                    filter.clear();
                    break;
                };
                is_usable &= !name.contains(['+', '#', '/']);
                is_usable &= !topic.starts_with('$') || line.filter.starts_with('$');
                // What stands in for a name is not a wildcard.
                let name = name.replace('+', "\u{1}").replace('#', "\u{2}");
                filter = filter.replace(place, &name);
            }
        }
        if filter.is_empty() {
            continue;
        }
        let hits = match action {
            Action::Subscribe => worlds.covers(&filter, topic),
            _ => matches(&filter, topic),
        };
        if hits && line.deny {
            return Some(false);
        }
        if hits && is_usable {
            decided = Some(true);
        }
    }
    decided
}

/// All topics that can make a difference: every level that a rule may hold, and one that none holds.
struct Topics(Vec<String>);

impl Topics {
    fn new() -> Self {
        let levels = ["", "a", "b", "x-a", "x-b", "$s", "other"];
        let mut topics: Vec<String> = levels.map(String::from).into();
        let mut from = 0;
        for _ in 1..DEPTH {
            let end = topics.len();
            for place in from..end {
                for level in levels {
                    topics.push(format!("{}/{level}", topics[place]));
                }
            }
            from = end;
        }
        // The empty one is none, but `/#` is asked for as if it were: no rule but `#` and itself is to cover it.
        Self(topics)
    }

    /// Everything that `filter` matches is matched by `rule`.
    fn covers(&self, rule: &str, filter: &str) -> bool {
        // What no topic can hold is compared as it stands.
        if !filter.contains(['+', '#']) {
            return matches(rule, filter);
        }
        self.0
            .iter()
            .filter(|topic| matches(filter, topic))
            .all(|topic| matches(rule, topic))
    }
}

fn random_identity(random: &mut Random) -> Identity {
    let names = ["a", "b", "a/b", "", "+", "#", "$s", "a+", "b/#"];
    let mut name = || {
        // Mostly an ordinary one.
        let among = if random.below(3) == 0 { names.len() } else { 3 };
        names[random.below(among as u64) as usize]
    };
    let (user, client_id) = (name(), name());
    let is_anonymous = random.below(4) == 0;
    Identity::new((!is_anonymous).then_some(user), client_id)
}

fn random_topic(random: &mut Random) -> String {
    let levels = ["a", "b", "", "x-a", "$s", "other"];
    loop {
        let count = 1 + random.below(4);
        let topic: Vec<&str> = (0..count)
            .map(|_| levels[random.below(levels.len() as u64) as usize])
            .collect();
        let topic = topic.join("/");
        if !topic.is_empty() {
            return topic;
        }
    }
}

fn random_filter(random: &mut Random, levels: &[&str]) -> String {
    loop {
        let count = 1 + random.below(3);
        let mut filter: Vec<&str> = (0..count)
            .map(|_| levels[random.below(levels.len() as u64) as usize])
            .collect();
        if random.below(3) == 0 {
            filter.push("#");
        }
        let filter = filter.join("/");
        if !filter.is_empty() {
            return filter;
        }
    }
}

const SUBSCRIBED: [&str; 7] = ["a", "b", "+", "+", "", "x-a", "$s"];
const PLAIN: [&str; 6] = ["a", "b", "+", "", "x-a", "$s"];
const PATTERN: [&str; 8] = ["a", "%u", "+", "%c", "x-%u", "%u%c", "$s", "b"];
/// Levels of the longest topic: one more than a rule or filter has without its `#`.
const DEPTH: usize = 4;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % bound
    }
}
