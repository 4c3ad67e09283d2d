//! Topic Aliases, both directions (3.3.2.3.4). They live and die with the Network Connection [MQTT-3.3.2-7].

use std::num::NonZeroU16;
use std::sync::Arc;

use super::Violation;
use super::seldom::Seldom;

/// Aliases the client set for topics it publishes to.
#[derive(Debug, Default)]
pub struct InboundAliases {
    topics: Seldom<Vec<Option<Arc<str>>>>,
}

/// Aliases we set for topics we send. Given out first come, first served, up to the agreed maximum.
#[derive(Debug, Default)]
pub struct OutboundAliases {
    maximum: u16,
    topics: Seldom<Vec<Box<str>>>,
}

impl InboundAliases {
    /// The topic behind an alias.
    pub fn resolve(&self, alias: NonZeroU16, maximum: u16) -> Result<Arc<str>, Violation> {
        check(alias, maximum)?;
        self.topics
            .get(usize::from(alias.get()))
            .cloned()
            .flatten()
            .ok_or(Violation::TopicAliasUnknown)
    }

    /// Sets or replaces an alias. The table never holds more than `maximum` entries.
    pub fn set(&mut self, alias: NonZeroU16, maximum: u16, topic: &str) -> Result<(), Violation> {
        check(alias, maximum)?;
        let index = usize::from(alias.get());
        if self.topics.len() <= index {
            self.topics.resize(index + 1, None);
        }
        if let Some(slot) = self.topics.get_mut(index)
            && slot.as_deref() != Some(topic)
        {
            *slot = Some(topic.into());
        }
        Ok(())
    }
}

/// [MQTT-3.3.2-8] alias 0 is refused by the decoder; [MQTT-3.3.2-9] above the maximum here.
pub fn check(alias: NonZeroU16, maximum: u16) -> Result<(), Violation> {
    if alias.get() > maximum {
        Err(Violation::TopicAliasTooLarge)
    } else {
        Ok(())
    }
}

impl OutboundAliases {
    pub fn new(maximum: u16) -> Self {
        Self {
            maximum,
            topics: Seldom::default(),
        }
    }

    /// Takes back the alias that was given out last, because the packet that would have set it is not sent.
    pub fn forget_last(&mut self) {
        self.topics.pop();
    }

    /// The alias to send and whether the client knows it already, so that the topic may be left empty.
    /// `None`: the topic has no alias [MQTT-3.1.2-26].
    pub fn alias_for(&mut self, topic: &str) -> Option<(NonZeroU16, Known)> {
        if self.maximum == 0 {
            return None;
        }
        if let Some(index) = self.topics.iter().position(|known| &**known == topic) {
            return Some((alias_at(index)?, Known::Yes));
        }
        if self.topics.len() >= usize::from(self.maximum) {
            return None;
        }
        self.topics.push(topic.into());
        Some((alias_at(self.topics.len() - 1)?, Known::No))
    }
}

/// Whether the receiver has seen the alias before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Known {
    Yes,
    No,
}

fn alias_at(index: usize) -> Option<NonZeroU16> {
    NonZeroU16::new(u16::try_from(index).ok()?.checked_add(1)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outbound_aliases_stay_within_the_maximum() {
        let mut aliases = OutboundAliases::new(1);
        assert_eq!(
            aliases
                .alias_for("a")
                .map(|(alias, known)| (alias.get(), known)),
            Some((1, Known::No))
        );
        assert_eq!(
            aliases
                .alias_for("a")
                .map(|(alias, known)| (alias.get(), known)),
            Some((1, Known::Yes))
        );
        assert!(aliases.alias_for("b").is_none());
    }

    #[test]
    fn inbound_alias_may_be_set_again() {
        let mut aliases = InboundAliases::default();
        let two = NonZeroU16::new(2).unwrap();
        aliases.set(two, 10, "a").unwrap();
        aliases.set(two, 10, "b").unwrap();
        assert_eq!(&*aliases.resolve(two, 10).unwrap(), "b");
        assert!(matches!(
            aliases.resolve(NonZeroU16::new(1).unwrap(), 10),
            Err(Violation::TopicAliasUnknown)
        ));
        assert!(matches!(
            aliases.set(NonZeroU16::new(11).unwrap(), 10, "a"),
            Err(Violation::TopicAliasTooLarge)
        ));
    }
}
