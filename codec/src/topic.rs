//! Topic Names, Topic Filters, Shared Subscriptions and Client Identifiers: which strings they are, and which filter matches
//! which name.
//!
//! Nothing is normalized [MQTT-4.7.3-4], nothing recurses: a topic of 65,535 slashes is a topic.

use alloc::boxed::Box;
use core::fmt;

use crate::primitive::has_only_allowed_characters;

/// Why a string is not a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TopicError {
    /// No characters. [MQTT-4.7.3-1]
    Empty,
    /// More than 65,535 bytes. [MQTT-4.7.3-3]
    TooLong,
    /// U+0000 [MQTT-4.7.3-2], a control character or a non-character.
    ForbiddenCharacter,
    /// `+` or `#` in a Topic Name. [MQTT-3.3.2-2]
    WildcardInTopicName,
    /// `+` or `#` that is not a level of its own, or `#` before the last level. [MQTT-4.7.1-1] [MQTT-4.7.1-2]
    MisplacedWildcard,
    /// `$share` without share name or without Topic Filter, or a share name with a wildcard. [MQTT-4.8.2-1] [MQTT-4.8.2-2]
    InvalidShare,
}

impl fmt::Display for TopicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "empty",
            Self::TooLong => "longer than 65535 bytes",
            Self::ForbiddenCharacter => "forbidden character",
            Self::WildcardInTopicName => "wildcard in a topic name",
            Self::MisplacedWildcard => "misplaced wildcard",
            Self::InvalidShare => "invalid shared subscription",
        })
    }
}

impl core::error::Error for TopicError {}

macro_rules! checked_str {
    ($(#[$doc:meta])* $name:ident, $check:path) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Box<str>);

        impl $name {
            /// Takes a string that is one.
            ///
            /// # Errors
            /// Says why the string is none.
            pub fn parse(value: &str) -> Result<Self, TopicError> {
                $check(value)?;
                Ok(Self(value.into()))
            }

            /// The string.
            #[inline]
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl core::ops::Deref for $name {
            type Target = str;

            #[inline]
            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl core::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

checked_str! {
    /// A Topic Name: where an Application Message is published.
    TopicName, validate_topic_name
}
checked_str! {
    /// A Topic Filter, which may hold wildcards; a Shared Subscription's whole `$share/...` is one too.
    TopicFilter, validate_topic_filter
}
checked_str! {
    /// A Client Identifier, which is not empty.
    ClientId, validate_client_id
}

/// The two parts of a Shared Subscription, as they stand in its Topic Filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedFilter<'a> {
    /// The name of the group.
    pub share_name: &'a str,
    /// The filter that messages must match.
    pub topic_filter: &'a str,
}

impl<'a> SharedFilter<'a> {
    /// See [`parse_shared`].
    ///
    /// # Errors
    /// Those of [`parse_shared`].
    pub fn parse(topic_filter: &'a str) -> Result<Option<Self>, TopicError> {
        Ok(
            parse_shared(topic_filter)?.map(|(share_name, topic_filter)| Self {
                share_name,
                topic_filter,
            }),
        )
    }
}

/// Whether a string is a Topic Name.
///
/// # Errors
/// Says why not.
#[inline]
pub fn validate_topic_name(topic_name: &str) -> Result<(), TopicError> {
    check_string(topic_name)?;
    // [MQTT-3.3.2-2]
    if has_wildcard(topic_name) {
        return Err(TopicError::WildcardInTopicName);
    }
    Ok(())
}

/// Whether a string is a Topic Filter. What follows `$share/` is for [`parse_shared`].
///
/// # Errors
/// Says why not.
pub fn validate_topic_filter(topic_filter: &str) -> Result<(), TopicError> {
    check_string(topic_filter)?;
    if !has_wildcard(topic_filter) {
        return Ok(());
    }
    let mut levels = topic_filter.split('/');
    while let Some(level) = levels.next() {
        let misplaced = match level {
            "+" => false,
            // [MQTT-4.7.1-1]
            "#" => levels.next().is_some(),
            // [MQTT-4.7.1-2]
            _ => has_wildcard(level),
        };
        if misplaced {
            return Err(TopicError::MisplacedWildcard);
        }
    }
    Ok(())
}

/// Whether a string may be a Client Identifier. One of no characters is for the server to replace before.
///
/// # Errors
/// Says why not.
pub fn validate_client_id(client_id: &str) -> Result<(), TopicError> {
    check_string(client_id)
}

/// Splits `$share/{share name}/{filter}`; `None` for a filter that is not shared.
///
/// # Errors
/// A filter that begins with `$share` and has no share name, a share name with a wildcard, no filter behind it, or one that is
/// none.
pub fn parse_shared(topic_filter: &str) -> Result<Option<(&str, &str)>, TopicError> {
    let Some(rest) = topic_filter.strip_prefix("$share") else {
        return Ok(None);
    };
    let Some(rest) = rest.strip_prefix('/') else {
        // `$shared/a` is a filter like any other.
        return if rest.is_empty() {
            Err(TopicError::InvalidShare)
        } else {
            Ok(None)
        };
    };
    let (share_name, inner) = rest.split_once('/').ok_or(TopicError::InvalidShare)?;
    // [MQTT-4.8.2-1] [MQTT-4.8.2-2]
    if share_name.is_empty() || has_wildcard(share_name) || inner.is_empty() {
        return Err(TopicError::InvalidShare);
    }
    validate_topic_filter(inner)?;
    Ok(Some((share_name, inner)))
}

/// Whether a Topic Name matches a Topic Filter; both must be valid, and a shared filter without its `$share/{name}/`.
#[inline]
#[must_use]
pub fn matches(topic_filter: &str, topic_name: &str) -> bool {
    let (filter, topic) = (topic_filter.as_bytes(), topic_name.as_bytes());
    // Most filters are the name itself.
    if filter == topic {
        return true;
    }
    // [MQTT-4.7.2-1]
    if topic.first() == Some(&b'$') && matches!(filter.first(), Some(b'+' | b'#')) {
        return false;
    }
    let mut filter = filter.iter();
    let mut topic = topic.iter();
    loop {
        match filter.next() {
            Some(b'+') => {
                // The level may be empty; its slash, or the end, is left for the next turn.
                let rest = topic.as_slice();
                let level = rest.iter().take_while(|&&byte| byte != b'/').count();
                topic = rest.get(level..).unwrap_or_default().iter();
            }
            Some(b'#') => return true,
            // `a/#` matches `a` too [MQTT-4.7.1-1]: at the end of the name, all that may be left of the filter is `/#`.
            Some(&expected) => match topic.next() {
                Some(&byte) if byte == expected => {}
                Some(_) => return false,
                None => return expected == b'/' && filter.as_slice() == b"#",
            },
            None => return topic.as_slice().is_empty(),
        }
    }
}

/// The number of levels of a topic, at least 1.
#[must_use]
pub fn levels(topic: &str) -> usize {
    1 + topic.bytes().filter(|&byte| byte == b'/').count()
}

/// Whether a topic holds `+` or `#` anywhere.
#[inline]
#[must_use]
pub fn has_wildcard(topic: &str) -> bool {
    topic
        .bytes()
        .fold(false, |found, byte| found | (byte == b'+') | (byte == b'#'))
}

#[inline]
fn check_string(value: &str) -> Result<(), TopicError> {
    if value.is_empty() {
        return Err(TopicError::Empty);
    }
    if value.len() > usize::from(u16::MAX) {
        return Err(TopicError::TooLong);
    }
    if !has_only_allowed_characters(value) {
        return Err(TopicError::ForbiddenCharacter);
    }
    Ok(())
}
