//! What a peer did wrong (`Misdeed`), where in the bytes (`Place`), and from both what it is to be told.
//!
//! The Reason Codes follow the standard except where the byte-exact exchanges of Mosquitto demand others (D20). All those
//! exceptions are in [`DecodeError::reason_code`], [`DecodeError::is_silent`] and [`DecodeError::connack_version`], each
//! with its comment, and nowhere else.

use core::fmt;

use crate::frame::PacketType;
use crate::property::PropertyId;
use crate::reason_code::ReasonCode;
use crate::topic::TopicError;
use crate::version::ProtocolVersion;

/// Why bytes are not an acceptable packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeError {
    /// What is wrong.
    pub misdeed: Misdeed,
    /// Where it is wrong.
    pub place: Place,
}

/// What is wrong with a packet: one variant for each deed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Misdeed {
    /// Packet type 0.
    ReservedPacketType,
    /// A Variable Byte Integer with a fifth byte.
    VariableByteIntegerTooLong,
    /// A Variable Byte Integer with more bytes than it needs. [MQTT-1.5.5-1]
    VariableByteIntegerNotMinimal,
    /// The whole packet has more bytes than the caller's limit.
    PacketTooLarge,
    /// The low four bits of the first byte are not those of the packet type.
    InvalidFlags,
    /// PINGREQ or PINGRESP with a Remaining Length above 0.
    PingNotEmpty,
    /// AUTH before 5.0.
    PacketNotInVersion,
    /// A packet that only a server sends.
    PacketFromServer,
    /// A field does not fit in what is left of the packet or of the properties.
    UnexpectedEnd,
    /// Bytes after the last field.
    TrailingBytes,
    /// A string that is not UTF-8. [MQTT-1.5.4-1]
    NotUtf8,
    /// A string with U+0000 [MQTT-1.5.4-2], a control character or a non-character.
    ForbiddenCharacter,
    /// Packet Identifier 0.
    PacketIdZero,
    /// QoS 3.
    InvalidQoS,
    /// DUP with QoS 0. [MQTT-3.3.1-2]
    DupWithQoS0,
    /// A Topic Name of no characters, and no Topic Alias.
    EmptyTopicName,
    /// A Topic Name with `+` or `#`. [MQTT-3.3.2-2]
    WildcardInTopicName,
    /// A topic with more levels than the caller's limit.
    TooManyTopicLevels,
    /// A Will Topic below `$CONTROL/`.
    ReservedWillTopic,
    /// A Topic Filter of no characters.
    EmptyTopicFilter,
    /// A Topic Filter with a misplaced wildcard, where the packet has no code to say so.
    InvalidTopicFilter,
    /// SUBSCRIBE or UNSUBSCRIBE without a Topic Filter. [MQTT-3.8.3-2] [MQTT-3.10.3-2]
    NoTopicFilters,
    /// More Topic Filters than the caller's limit.
    TooManyTopicFilters,
    /// Subscription Options with reserved bits, QoS 3 or Retain Handling 3. [MQTT-3.8.3-5]
    InvalidSubscriptionOptions,
    /// No Local on a Shared Subscription. [MQTT-3.8.3-4]
    NoLocalOnSharedSubscription,
    /// A property identifier that 5.0 does not know.
    UnknownProperty,
    /// A property that does not belong in this packet.
    PropertyNotAllowed(PropertyId),
    /// A property given twice that may be given once.
    DuplicateProperty(PropertyId),
    /// A property whose value is forbidden.
    InvalidPropertyValue(PropertyId),
    /// Topic Alias 0. [MQTT-3.3.2-8]
    TopicAliasZero,
    /// More User Properties than the caller's limit.
    TooManyUserProperties,
    /// Authentication Data without Authentication Method.
    AuthenticationDataWithoutMethod,
    /// A Reason Code that this packet may not carry.
    InvalidReasonCode(u8),
    /// CONNACK flags with reserved bits, or Session Present beside an error.
    InvalidConnackFlags,
    /// A Protocol Name that is neither `MQTT` nor `MQIsdp`.
    UnknownProtocolName,
    /// A Protocol Level that does not exist, or not with that name.
    UnsupportedProtocolVersion(u8),
    /// The reserved Connect Flag is 1. [MQTT-3.1.2-3]
    ReservedConnectFlag,
    /// Will QoS or Will Retain without Will Flag. [MQTT-3.1.2-11] [MQTT-3.1.2-13]
    WillFlagsWithoutWill,
    /// Password without User Name, before 5.0. [v3 MQTT-3.1.2-22]
    PasswordWithoutUserName,
    /// A Client Identifier of no characters where the server may not assign one.
    EmptyClientId,
}

/// Where in the bytes a misdeed was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the fixed header of this packet type, `None` for type 0.
    FixedHeader(Option<PacketType>),
    /// In the body of a packet that is not CONNECT.
    Packet(PacketType),
    /// In the body of CONNECT; the version is `None` where it was not yet known.
    Connect(ConnectPart, Option<ProtocolVersion>),
}

/// The fields of CONNECT, in the order of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectPart {
    /// Fixed header flags, Protocol Name, Protocol Level, Connect Flags, Keep Alive.
    Header,
    /// Connect properties.
    Properties,
    /// Client Identifier.
    ClientId,
    /// Will properties, Will Topic, Will Payload.
    Will,
    /// User Name.
    UserName,
    /// Password.
    Password,
    /// Behind the last field.
    End,
}

impl DecodeError {
    pub(crate) const fn new(misdeed: Misdeed, place: Place) -> Self {
        Self { misdeed, place }
    }

    /// The Reason Code that the peer is told, if it is told anything.
    ///
    /// 0x81 is what cannot be parsed, 0x82 what can be parsed and is forbidden; the exceptions stand first.
    #[must_use]
    pub const fn reason_code(&self) -> ReasonCode {
        use PacketType as T;
        use ReasonCode as R;
        match (self.misdeed, self.place) {
            // The byte vectors answer wrong flags with 0x82 for CONNACK, PUBREL, DISCONNECT and AUTH, though
            // [MQTT-2.1.3-1] calls them malformed for all packets.
            (
                Misdeed::InvalidFlags,
                Place::Packet(T::Connack | T::Pubrel | T::Disconnect | T::Auth),
            ) => R::ProtocolError,
            // The byte vectors answer Packet Identifier 0 with 0x81 for SUBSCRIBE and UNSUBSCRIBE, with 0x82 for the others.
            (Misdeed::PacketIdZero, Place::Packet(T::Subscribe | T::Unsubscribe)) => {
                R::MalformedPacket
            }
            // The byte vectors answer a property that does not belong in SUBSCRIBE or UNSUBSCRIBE with 0x81, in the
            // other packets with 0x82.
            (Misdeed::PropertyNotAllowed(_), Place::Packet(T::Subscribe | T::Unsubscribe)) => {
                R::MalformedPacket
            }
            // The byte vectors answer these with 0x81, the standard's text says 0x82: no topic and no alias
            // (3.3.2.3.4), no filters [MQTT-3.8.3-2] [MQTT-3.10.3-2].
            (Misdeed::EmptyTopicName | Misdeed::NoTopicFilters, _) => R::MalformedPacket,
            // The byte vectors answer a Client Identifier that is not a good string with 0x85, other strings with 0x81.
            (
                Misdeed::NotUtf8 | Misdeed::ForbiddenCharacter,
                Place::Connect(ConnectPart::ClientId, _),
            ) => R::ClientIdentifierNotValid,
            // The byte vectors answer a Will Topic below `$CONTROL/` with 0x81, not 0x90.
            (Misdeed::ReservedWillTopic, _) => R::MalformedPacket,

            (
                Misdeed::VariableByteIntegerTooLong
                | Misdeed::VariableByteIntegerNotMinimal
                | Misdeed::InvalidFlags
                | Misdeed::PingNotEmpty
                | Misdeed::UnexpectedEnd
                | Misdeed::TrailingBytes
                | Misdeed::NotUtf8
                | Misdeed::ForbiddenCharacter
                | Misdeed::InvalidQoS
                | Misdeed::DupWithQoS0
                | Misdeed::WildcardInTopicName
                | Misdeed::EmptyTopicFilter
                | Misdeed::InvalidTopicFilter
                | Misdeed::InvalidSubscriptionOptions
                | Misdeed::UnknownProperty
                | Misdeed::InvalidConnackFlags
                | Misdeed::UnknownProtocolName
                | Misdeed::ReservedConnectFlag
                | Misdeed::WillFlagsWithoutWill,
                _,
            ) => R::MalformedPacket,
            (
                Misdeed::ReservedPacketType
                | Misdeed::PacketNotInVersion
                | Misdeed::PacketFromServer
                | Misdeed::PacketIdZero
                | Misdeed::NoLocalOnSharedSubscription
                | Misdeed::PropertyNotAllowed(_)
                | Misdeed::DuplicateProperty(_)
                | Misdeed::InvalidPropertyValue(_)
                | Misdeed::AuthenticationDataWithoutMethod
                | Misdeed::InvalidReasonCode(_)
                | Misdeed::PasswordWithoutUserName,
                _,
            ) => R::ProtocolError,
            (Misdeed::PacketTooLarge, _) => R::PacketTooLarge,
            (Misdeed::TopicAliasZero, _) => R::TopicAliasInvalid,
            (Misdeed::TooManyTopicLevels, _) => R::TopicNameInvalid,
            (Misdeed::TooManyTopicFilters | Misdeed::TooManyUserProperties, _) => R::QuotaExceeded,
            (Misdeed::UnsupportedProtocolVersion(_), _) => R::UnsupportedProtocolVersion,
            (Misdeed::EmptyClientId, _) => R::ClientIdentifierNotValid,
        }
    }

    /// Whether the connection is closed with no byte sent, even to a 5.0 client. (A 3.1 or 3.1.1 client is never told, except
    /// by the CONNACK of [`Self::connack_version`].)
    #[must_use]
    pub const fn is_silent(&self) -> bool {
        match (self.misdeed, self.place) {
            (_, Place::Connect(..)) => self.connack_version().is_none(),
            // Before CONNECT is read its version is not known, so there is no form to answer in.
            (_, Place::FixedHeader(Some(PacketType::Connect))) => true,
            // The byte vectors want a five-byte Remaining Length and a PINGREQ or PINGRESP with a body closed without a word.
            (Misdeed::VariableByteIntegerTooLong, Place::FixedHeader(_))
            | (Misdeed::PingNotEmpty, _) => true,
            // The byte vectors want a DISCONNECT that gives no reason we know closed without a word: the client is going anyway.
            (Misdeed::InvalidReasonCode(_), Place::Packet(PacketType::Disconnect)) => true,
            _ => false,
        }
    }

    /// For an error in CONNECT: the version in which a CONNACK with [`Self::reason_code`] is to be encoded before the connection
    /// is closed, or `None` where nothing is sent.
    #[must_use]
    pub const fn connack_version(&self) -> Option<ProtocolVersion> {
        let Place::Connect(part, version) = self.place else {
            return None;
        };
        match (self.misdeed, version) {
            // [MQTT-3.1.2-2] A level that exists, with the name of another (`MQTT` 3, `MQIsdp` 4), is answered `20 02 00 01` in the
            // byte vectors; a level that does not exist (2, 6) `20 03 00 84 00`.
            (Misdeed::UnsupportedProtocolVersion(level), _) => match level & 0x7f {
                3 | 4 => Some(ProtocolVersion::V3_1_1),
                _ => Some(ProtocolVersion::V5),
            },
            // [v3 MQTT-3.1.3-8]
            (Misdeed::EmptyClientId, Some(version)) => Some(version),
            // The byte vectors want 5.0 told of errors in the properties, the Client Identifier, the Will and behind the last field,
            // and not of those in the header, the User Name and the Password.
            (_, Some(ProtocolVersion::V5)) => match part {
                ConnectPart::Header | ConnectPart::UserName | ConnectPart::Password => None,
                ConnectPart::Properties
                | ConnectPart::ClientId
                | ConnectPart::Will
                | ConnectPart::End => Some(ProtocolVersion::V5),
            },
            // [v3 MQTT-3.1.4-1] No Connect Return Code fits.
            _ => None,
        }
    }
}

impl From<TopicError> for Misdeed {
    fn from(error: TopicError) -> Self {
        match error {
            TopicError::Empty => Self::EmptyTopicName,
            // Two bytes of length cannot say it; only a string from elsewhere can be so long.
            TopicError::TooLong => Self::TooManyTopicLevels,
            TopicError::ForbiddenCharacter => Self::ForbiddenCharacter,
            TopicError::WildcardInTopicName => Self::WildcardInTopicName,
            TopicError::MisplacedWildcard | TopicError::InvalidShare => Self::InvalidTopicFilter,
        }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Place::FixedHeader(None) => write!(f, "{}", self.misdeed),
            Place::FixedHeader(Some(packet_type)) => {
                write!(f, "{} in the fixed header of {packet_type}", self.misdeed)
            }
            Place::Packet(packet_type) => write!(f, "{} in {packet_type}", self.misdeed),
            Place::Connect(part, _) => write!(f, "{} in CONNECT ({part:?})", self.misdeed),
        }
    }
}

impl core::error::Error for DecodeError {}

impl fmt::Display for Misdeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ReservedPacketType => "reserved packet type 0",
            Self::VariableByteIntegerTooLong => "variable byte integer of more than four bytes",
            Self::VariableByteIntegerNotMinimal => {
                "variable byte integer longer than its value needs"
            }
            Self::PacketTooLarge => "packet above the maximum packet size",
            Self::InvalidFlags => "invalid flags",
            Self::PingNotEmpty => "ping with a body",
            Self::PacketNotInVersion => "packet type of a later protocol version",
            Self::PacketFromServer => "packet that only a server sends",
            Self::UnexpectedEnd => "field beyond the end",
            Self::TrailingBytes => "bytes behind the last field",
            Self::NotUtf8 => "string that is not UTF-8",
            Self::ForbiddenCharacter => "forbidden character in a string",
            Self::PacketIdZero => "packet identifier 0",
            Self::InvalidQoS => "QoS 3",
            Self::DupWithQoS0 => "DUP with QoS 0",
            Self::EmptyTopicName => "empty topic name",
            Self::WildcardInTopicName => "wildcard in a topic name",
            Self::TooManyTopicLevels => "too many topic levels",
            Self::ReservedWillTopic => "will topic below $CONTROL/",
            Self::EmptyTopicFilter => "empty topic filter",
            Self::InvalidTopicFilter => "invalid topic filter",
            Self::NoTopicFilters => "no topic filters",
            Self::TooManyTopicFilters => "too many topic filters",
            Self::InvalidSubscriptionOptions => "invalid subscription options",
            Self::NoLocalOnSharedSubscription => "No Local on a shared subscription",
            Self::UnknownProperty => "unknown property",
            Self::PropertyNotAllowed(property) => {
                return write!(f, "property {property} not allowed");
            }
            Self::DuplicateProperty(property) => return write!(f, "second property {property}"),
            Self::InvalidPropertyValue(property) => {
                return write!(f, "invalid value of property {property}");
            }
            Self::TopicAliasZero => "topic alias 0",
            Self::TooManyUserProperties => "too many user properties",
            Self::AuthenticationDataWithoutMethod => {
                "authentication data without authentication method"
            }
            Self::InvalidReasonCode(code) => return write!(f, "invalid reason code 0x{code:02x}"),
            Self::InvalidConnackFlags => "invalid CONNACK flags",
            Self::UnknownProtocolName => "unknown protocol name",
            Self::UnsupportedProtocolVersion(level) => {
                return write!(f, "unsupported protocol level {level}");
            }
            Self::ReservedConnectFlag => "reserved connect flag",
            Self::WillFlagsWithoutWill => "will QoS or will retain without will flag",
            Self::PasswordWithoutUserName => "password without user name",
            Self::EmptyClientId => "empty client identifier",
        })
    }
}

/// Why a packet cannot be put into bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EncodeError {
    /// A string or binary field has more than 65,535 bytes.
    FieldTooLong,
    /// The Remaining Length would be above 268,435,455.
    PacketTooLarge,
    /// AUTH before 5.0.
    PacketNotInVersion,
    /// A Reason Code that has no counterpart in the version: the connection is to be closed without CONNACK.
    ReasonCodeNotInVersion(ReasonCode),
    /// A Subscription Identifier above 268,435,455.
    SubscriptionIdentifierTooLarge,
    /// A PUBLISH of QoS 1 or 2 without Packet Identifier.
    NoPacketId,
    /// SUBSCRIBE or UNSUBSCRIBE without Topic Filter.
    NoTopicFilters,
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FieldTooLong => "field of more than 65535 bytes",
            Self::PacketTooLarge => "packet of more than 268435455 bytes",
            Self::PacketNotInVersion => "packet type of a later protocol version",
            Self::ReasonCodeNotInVersion(code) => {
                return write!(f, "no such reason in this protocol version: {code}");
            }
            Self::SubscriptionIdentifierTooLarge => "subscription identifier above 268435455",
            Self::NoPacketId => "no packet identifier with QoS above 0",
            Self::NoTopicFilters => "no topic filters",
        })
    }
}

impl core::error::Error for EncodeError {}
