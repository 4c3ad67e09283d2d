//! The properties of MQTT 5.0: their identifiers, the type of each, and reading one of them.
//!
//! Which property belongs in which packet is said by the packet's own file, in a `match` over what `read` gives.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::num::{NonZeroU16, NonZeroU32};

use crate::error::{EncodeError, Misdeed};
use crate::frame::{Limits, REMAINING_LENGTH_MAX};
use crate::primitive::{Reader, Sink};

/// User Properties, in the order in which they came. [MQTT-3.3.2-18]
pub type UserProperties = Vec<(Box<str>, Box<str>)>;

macro_rules! property_ids {
    ($($(#[$doc:meta])* $name:ident = $value:literal, $kind:ident, $text:literal;)*) => {
        /// The identifier of a property.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum PropertyId { $($(#[$doc])* $name = $value,)* }

        impl PropertyId {
            /// Every property, in ascending order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The property of an identifier; `None` for one that 5.0 does not know.
            #[inline]
            #[must_use]
            pub const fn from_u32(value: u32) -> Option<Self> {
                match value { $($value => Some(Self::$name),)* _ => None }
            }

            #[inline]
            const fn kind(self) -> Kind {
                match self { $(Self::$name => Kind::$kind,)* }
            }

            /// The name of the standard.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

#[derive(Clone, Copy)]
enum Kind {
    Byte,
    TwoByte,
    FourByte,
    Variable,
    Text,
    Binary,
    Pair,
}

property_ids! {
    /// Whether the payload is text: PUBLISH, Will.
    PayloadFormatIndicator = 0x01, Byte, "Payload Format Indicator";
    /// Lifetime of the message in seconds: PUBLISH, Will.
    MessageExpiryInterval = 0x02, FourByte, "Message Expiry Interval";
    /// What the payload is: PUBLISH, Will.
    ContentType = 0x03, Text, "Content Type";
    /// Where an answer is to go: PUBLISH, Will.
    ResponseTopic = 0x08, Text, "Response Topic";
    /// What an answer is to bear: PUBLISH, Will.
    CorrelationData = 0x09, Binary, "Correlation Data";
    /// The subscription that a message is sent for: PUBLISH, SUBSCRIBE.
    SubscriptionIdentifier = 0x0B, Variable, "Subscription Identifier";
    /// Seconds that a session outlives its connection: CONNECT, CONNACK, DISCONNECT.
    SessionExpiryInterval = 0x11, FourByte, "Session Expiry Interval";
    /// The Client Identifier that the server chose: CONNACK.
    AssignedClientIdentifier = 0x12, Text, "Assigned Client Identifier";
    /// The Keep Alive that the server chose: CONNACK.
    ServerKeepAlive = 0x13, TwoByte, "Server Keep Alive";
    /// Name of the method: CONNECT, CONNACK, AUTH.
    AuthenticationMethod = 0x15, Text, "Authentication Method";
    /// What the method says: CONNECT, CONNACK, AUTH.
    AuthenticationData = 0x16, Binary, "Authentication Data";
    /// Whether reasons may be explained: CONNECT.
    RequestProblemInformation = 0x17, Byte, "Request Problem Information";
    /// Seconds between the close and the Will: Will.
    WillDelayInterval = 0x18, FourByte, "Will Delay Interval";
    /// Whether Response Information is wanted: CONNECT.
    RequestResponseInformation = 0x19, Byte, "Request Response Information";
    /// From which a Response Topic can be made: CONNACK.
    ResponseInformation = 0x1A, Text, "Response Information";
    /// Another server to use: CONNACK, DISCONNECT.
    ServerReference = 0x1C, Text, "Server Reference";
    /// A reason for people: all acknowledgements, DISCONNECT, AUTH.
    ReasonString = 0x1F, Text, "Reason String";
    /// Publications that may be in flight: CONNECT, CONNACK.
    ReceiveMaximum = 0x21, TwoByte, "Receive Maximum";
    /// The highest Topic Alias: CONNECT, CONNACK.
    TopicAliasMaximum = 0x22, TwoByte, "Topic Alias Maximum";
    /// A number in place of the Topic Name: PUBLISH.
    TopicAlias = 0x23, TwoByte, "Topic Alias";
    /// The highest QoS that the server supports: CONNACK.
    MaximumQoS = 0x24, Byte, "Maximum QoS";
    /// Whether RETAIN is supported: CONNACK.
    RetainAvailable = 0x25, Byte, "Retain Available";
    /// A name and a value, for the application: every packet.
    UserProperty = 0x26, Pair, "User Property";
    /// The largest packet that is accepted: CONNECT, CONNACK.
    MaximumPacketSize = 0x27, FourByte, "Maximum Packet Size";
    /// Whether wildcards are supported: CONNACK.
    WildcardSubscriptionAvailable = 0x28, Byte, "Wildcard Subscription Available";
    /// Whether Subscription Identifiers are supported: CONNACK.
    SubscriptionIdentifierAvailable = 0x29, Byte, "Subscription Identifier Available";
    /// Whether Shared Subscriptions are supported: CONNACK.
    SharedSubscriptionAvailable = 0x2A, Byte, "Shared Subscription Available";
}

impl fmt::Display for PropertyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The value of one property, by its type on the wire.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value<'a> {
    Byte(u8),
    TwoByte(u16),
    FourByte(u32),
    Variable(u32),
    Text(&'a str),
    Binary(&'a [u8]),
    Pair(&'a str, &'a str),
}

/// Reads one property.
///
/// The value is read before anybody asks whether the property belongs here: a property that is both cut short and out of
/// place is malformed.
#[inline]
pub(crate) fn read<'a>(reader: &mut Reader<'a>) -> Result<(PropertyId, Value<'a>), Misdeed> {
    let id =
        PropertyId::from_u32(reader.variable_byte_integer()?).ok_or(Misdeed::UnknownProperty)?;
    let value = match id.kind() {
        Kind::Byte => Value::Byte(reader.u8()?),
        Kind::TwoByte => Value::TwoByte(reader.u16()?),
        Kind::FourByte => Value::FourByte(reader.u32()?),
        Kind::Variable => Value::Variable(reader.variable_byte_integer()?),
        Kind::Text => Value::Text(reader.string()?),
        Kind::Binary => Value::Binary(reader.binary()?),
        Kind::Pair => Value::Pair(reader.string()?, reader.string()?),
    };
    Ok((id, value))
}

/// Fills a property that may be given once.
#[inline]
pub(crate) fn once<T>(slot: &mut Option<T>, id: PropertyId, value: T) -> Result<(), Misdeed> {
    if slot.is_some() {
        return Err(Misdeed::DuplicateProperty(id));
    }
    *slot = Some(value);
    Ok(())
}

pub(crate) fn boolean(id: PropertyId, value: u8) -> Result<bool, Misdeed> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Misdeed::InvalidPropertyValue(id)),
    }
}

pub(crate) fn non_zero_u16(id: PropertyId, value: u16) -> Result<NonZeroU16, Misdeed> {
    NonZeroU16::new(value).ok_or(Misdeed::InvalidPropertyValue(id))
}

pub(crate) fn non_zero_u32(id: PropertyId, value: u32) -> Result<NonZeroU32, Misdeed> {
    NonZeroU32::new(value).ok_or(Misdeed::InvalidPropertyValue(id))
}

/// A Response Topic is a Topic Name: not empty, no wildcards. [MQTT-3.3.2-14]
pub(crate) fn response_topic(value: &str) -> Result<&str, Misdeed> {
    if value.is_empty() || value.contains(['+', '#']) {
        return Err(Misdeed::InvalidPropertyValue(PropertyId::ResponseTopic));
    }
    Ok(value)
}

pub(crate) fn push_user_property(
    properties: &mut UserProperties,
    name: &str,
    value: &str,
    limits: &Limits,
) -> Result<(), Misdeed> {
    if properties.len() >= usize::from(limits.user_properties_max) {
        return Err(Misdeed::TooManyUserProperties);
    }
    properties.push((name.into(), value.into()));
    Ok(())
}

/// How one property is written; nothing is, where there is no value.
pub(crate) trait PutProperty: Sink + Sized {
    #[inline]
    fn property_bool(&mut self, id: PropertyId, value: Option<bool>) {
        if let Some(value) = value {
            self.put(&[id as u8, u8::from(value)]);
        }
    }

    #[inline]
    fn property_u16(&mut self, id: PropertyId, value: Option<u16>) {
        if let Some(value) = value {
            self.put_u8(id as u8);
            self.put_u16(value);
        }
    }

    #[inline]
    fn property_u32(&mut self, id: PropertyId, value: Option<u32>) {
        if let Some(value) = value {
            self.put_u8(id as u8);
            self.put_u32(value);
        }
    }

    #[inline]
    fn property_binary(&mut self, id: PropertyId, value: Option<&[u8]>) {
        if let Some(value) = value {
            self.put_u8(id as u8);
            self.put_binary(value);
        }
    }

    #[inline]
    fn property_text(&mut self, id: PropertyId, value: Option<&str>) {
        self.property_binary(id, value.map(str::as_bytes));
    }

    #[inline]
    fn property_subscription_identifier(&mut self, value: u32) {
        if value > REMAINING_LENGTH_MAX {
            return self.fail(EncodeError::SubscriptionIdentifierTooLarge);
        }
        self.put_u8(PropertyId::SubscriptionIdentifier as u8);
        self.put_variable_byte_integer(value);
    }

    fn user_properties(&mut self, properties: &[(Box<str>, Box<str>)]) {
        for (name, value) in properties {
            self.put_u8(PropertyId::UserProperty as u8);
            self.put_string(name);
            self.put_string(value);
        }
    }
}

impl<S: Sink> PutProperty for S {}
