//! Every Reason Code of MQTT 5.0, which packets may carry it, and the Return Codes that 3.1 and 3.1.1 have in its place.

use core::fmt;

use crate::frame::PacketType;

macro_rules! reason_codes {
    ($($(#[$doc:meta])* $name:ident = $value:literal, $text:literal;)*) => {
        /// A Reason Code. 3.1.1 Return Codes are mapped to and from the code of the same meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        #[non_exhaustive]
        pub enum ReasonCode { $($(#[$doc])* $name = $value,)* }

        impl ReasonCode {
            /// Every code, in ascending order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The code of a byte; `None` for a byte that 5.0 gives no meaning.
            #[must_use]
            pub const fn from_u8(value: u8) -> Option<Self> {
                match value { $($value => Some(Self::$name),)* _ => None }
            }

            const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

reason_codes! {
    /// Success; also Normal disconnection and Granted QoS 0.
    Success = 0x00, "success";
    /// The subscription is granted with Maximum QoS 1.
    GrantedQoS1 = 0x01, "granted QoS 1";
    /// The subscription is granted with Maximum QoS 2.
    GrantedQoS2 = 0x02, "granted QoS 2";
    /// DISCONNECT, and the Will Message is to be published all the same.
    DisconnectWithWillMessage = 0x04, "disconnect with Will Message";
    /// The message was accepted and nobody is subscribed.
    NoMatchingSubscribers = 0x10, "no matching subscribers";
    /// UNSUBSCRIBE of a filter that was not subscribed.
    NoSubscriptionExisted = 0x11, "no subscription existed";
    /// AUTH: another step is to follow.
    ContinueAuthentication = 0x18, "continue authentication";
    /// AUTH: the client begins to authenticate again.
    ReAuthenticate = 0x19, "re-authenticate";
    /// An error that is none of the others.
    UnspecifiedError = 0x80, "unspecified error";
    /// Bytes that do not form a packet.
    MalformedPacket = 0x81, "malformed packet";
    /// A well-formed packet that is forbidden.
    ProtocolError = 0x82, "protocol error";
    /// Valid, but not accepted by this server.
    ImplementationSpecificError = 0x83, "implementation specific error";
    /// The Protocol Level is not served.
    UnsupportedProtocolVersion = 0x84, "unsupported protocol version";
    /// The Client Identifier is not allowed.
    ClientIdentifierNotValid = 0x85, "client identifier not valid";
    /// User name or password not accepted.
    BadUserNameOrPassword = 0x86, "bad user name or password";
    /// Not authorized.
    NotAuthorized = 0x87, "not authorized";
    /// The server is not available.
    ServerUnavailable = 0x88, "server unavailable";
    /// The server is busy; try again later.
    ServerBusy = 0x89, "server busy";
    /// Banned by administrative action.
    Banned = 0x8A, "banned";
    /// The server is shutting down.
    ServerShuttingDown = 0x8B, "server shutting down";
    /// The Authentication Method is not supported or not the current one.
    BadAuthenticationMethod = 0x8C, "bad authentication method";
    /// Nothing was received for 1.5 times the Keep Alive.
    KeepAliveTimeout = 0x8D, "keep alive timeout";
    /// Another connection uses the same Client Identifier.
    SessionTakenOver = 0x8E, "session taken over";
    /// The Topic Filter is well formed but not accepted.
    TopicFilterInvalid = 0x8F, "topic filter invalid";
    /// The Topic Name is well formed but not accepted.
    TopicNameInvalid = 0x90, "topic name invalid";
    /// The Packet Identifier is in use.
    PacketIdentifierInUse = 0x91, "packet identifier in use";
    /// The Packet Identifier is not known.
    PacketIdentifierNotFound = 0x92, "packet identifier not found";
    /// More than Receive Maximum publications were in flight.
    ReceiveMaximumExceeded = 0x93, "receive maximum exceeded";
    /// The Topic Alias is 0 or above the maximum.
    TopicAliasInvalid = 0x94, "topic alias invalid";
    /// The packet is above the Maximum Packet Size.
    PacketTooLarge = 0x95, "packet too large";
    /// The rate of messages is too high.
    MessageRateTooHigh = 0x96, "message rate too high";
    /// An imposed limit is exceeded.
    QuotaExceeded = 0x97, "quota exceeded";
    /// Closed by administrative action.
    AdministrativeAction = 0x98, "administrative action";
    /// The payload is not what its Payload Format Indicator says.
    PayloadFormatInvalid = 0x99, "payload format invalid";
    /// RETAIN is not supported.
    RetainNotSupported = 0x9A, "retain not supported";
    /// The QoS is above the Maximum QoS.
    QoSNotSupported = 0x9B, "QoS not supported";
    /// The client should use another server for now.
    UseAnotherServer = 0x9C, "use another server";
    /// The client should use another server from here on.
    ServerMoved = 0x9D, "server moved";
    /// Shared Subscriptions are not supported.
    SharedSubscriptionsNotSupported = 0x9E, "shared subscriptions not supported";
    /// The rate of connections is too high.
    ConnectionRateExceeded = 0x9F, "connection rate exceeded";
    /// The maximum connection time of this connection is over.
    MaximumConnectTime = 0xA0, "maximum connect time";
    /// Subscription Identifiers are not supported.
    SubscriptionIdentifiersNotSupported = 0xA1, "subscription identifiers not supported";
    /// Wildcard Subscriptions are not supported.
    WildcardSubscriptionsNotSupported = 0xA2, "wildcard subscriptions not supported";
}

impl ReasonCode {
    /// The number as it stands on the wire of 5.0.
    #[inline]
    #[must_use]
    pub const fn as_u8(self) -> u8 {
        self as u8
    }

    /// Whether the operation failed, that is, the code is 0x80 or above.
    #[inline]
    #[must_use]
    pub const fn is_error(self) -> bool {
        self as u8 >= 0x80
    }

    /// Whether 5.0 lists this code for that packet (either direction).
    #[must_use]
    pub const fn is_allowed_in(self, packet_type: PacketType) -> bool {
        let code = self as u8;
        match packet_type {
            PacketType::Connack => matches!(
                code,
                0x00 | 0x80..=0x8A | 0x8C | 0x90 | 0x95 | 0x97 | 0x99..=0x9D | 0x9F
            ),
            PacketType::Puback | PacketType::Pubrec => matches!(
                code,
                0x00 | 0x10 | 0x80 | 0x83 | 0x87 | 0x90 | 0x91 | 0x97 | 0x99
            ),
            PacketType::Pubrel | PacketType::Pubcomp => matches!(code, 0x00 | 0x92),
            PacketType::Suback => matches!(
                code,
                0x00..=0x02 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91 | 0x97 | 0x9E | 0xA1 | 0xA2
            ),
            PacketType::Unsuback => {
                matches!(code, 0x00 | 0x11 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91)
            }
            // 0x8C is in table 2.4 for DISCONNECT (a failed re-authentication), though not in 3.14.2.1.
            PacketType::Disconnect => matches!(
                code,
                0x00 | 0x04 | 0x80..=0x83 | 0x87 | 0x89 | 0x8B..=0x90 | 0x93..=0xA2
            ),
            PacketType::Auth => matches!(code, 0x00 | 0x18 | 0x19),
            PacketType::Connect
            | PacketType::Publish
            | PacketType::Subscribe
            | PacketType::Unsubscribe
            | PacketType::Pingreq
            | PacketType::Pingresp => false,
        }
    }

    /// The Connect Return Code of 3.1 and 3.1.1 with this meaning; `None` where there is none, and the connection is to be
    /// closed without CONNACK. [v3 MQTT-3.2.2-6]
    #[must_use]
    pub const fn to_connect_return_code(self) -> Option<u8> {
        match self {
            Self::Success => Some(0),
            Self::UnsupportedProtocolVersion => Some(1),
            Self::ClientIdentifierNotValid => Some(2),
            Self::ServerUnavailable => Some(3),
            Self::BadUserNameOrPassword => Some(4),
            Self::NotAuthorized => Some(5),
            _ => None,
        }
    }

    /// The code with the meaning of a Connect Return Code of 3.1 and 3.1.1.
    #[must_use]
    pub const fn from_connect_return_code(return_code: u8) -> Option<Self> {
        match return_code {
            0 => Some(Self::Success),
            1 => Some(Self::UnsupportedProtocolVersion),
            2 => Some(Self::ClientIdentifierNotValid),
            3 => Some(Self::ServerUnavailable),
            4 => Some(Self::BadUserNameOrPassword),
            5 => Some(Self::NotAuthorized),
            _ => None,
        }
    }
}

impl TryFrom<u8> for ReasonCode {
    type Error = u8;

    /// Gives the byte back where it has no meaning.
    fn try_from(value: u8) -> Result<Self, u8> {
        Self::from_u8(value).ok_or(value)
    }
}

impl fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (0x{:02x})", self.text(), self.as_u8())
    }
}
