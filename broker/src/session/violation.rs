//! What a peer can do wrong, named after the deed. One variant per broken MUST that the decoder cannot see, each with
//! the one Reason Code that answers it [MQTT-4.13.1-1].

use std::fmt;

use nightjar_codec::{DecodeError, ReasonCode};

/// The peer broke the protocol; its Network Connection is closed.
#[derive(Debug)]
#[non_exhaustive]
pub enum Violation {
    /// The bytes are no packet, or one that must not be.
    Decode(DecodeError),
    /// A second CONNECT [MQTT-3.1.0-2].
    SecondConnect,
    /// A packet that only a server sends.
    PacketForClients,
    /// AUTH although CONNECT named no Authentication Method [MQTT-4.12.0-6].
    AuthWithoutMethod,
    /// AUTH with another method than CONNECT named [MQTT-4.12.1-1].
    AuthMethodChanged,
    /// A Topic Alias above the announced maximum [MQTT-3.3.2-9].
    TopicAliasTooLarge,
    /// A Topic Alias that was never set on this connection.
    TopicAliasUnknown,
    /// A Subscription Identifier in a PUBLISH from a client [MQTT-3.3.4-6].
    SubscriptionIdentifierFromClient,
    /// A QoS above Maximum QoS [MQTT-3.2.2-11].
    QosNotSupported,
    /// RETAIN although Retain Available is 0 [MQTT-3.2.2-14].
    RetainNotSupported,
    /// More unacknowledged QoS 1 and 2 publishes than the announced Receive Maximum [MQTT-3.3.4-7].
    ReceiveMaximumExceeded,
    /// The same QoS 2 PUBLISH, DUP 0, for the third time on one connection (D21).
    RepeatedWithoutDup,
    /// The wrong acknowledgement for the QoS the packet id was sent with.
    WrongAcknowledgement,
    /// No Local on a shared subscription [MQTT-3.8.3-4].
    NoLocalOnShared,
    /// A Subscription Identifier although they are not available.
    SubscriptionIdentifierNotSupported,
    /// DISCONNECT raises a Session Expiry Interval of 0 (3.14.2.2.2).
    SessionExpiryFromZero,
    /// A 3.x client left more QoS 2 messages unreleased for longer than is allowed (D22).
    UnreleasedTooLong,
}

impl Violation {
    /// The code of the DISCONNECT that tells a 5.0 client.
    pub fn reason_code(&self) -> ReasonCode {
        match self {
            Self::Decode(error) => error.reason_code(),
            Self::TopicAliasTooLarge => ReasonCode::TopicAliasInvalid,
            Self::QosNotSupported => ReasonCode::QoSNotSupported,
            Self::RetainNotSupported => ReasonCode::RetainNotSupported,
            Self::ReceiveMaximumExceeded => ReasonCode::ReceiveMaximumExceeded,
            Self::SubscriptionIdentifierNotSupported => {
                ReasonCode::SubscriptionIdentifiersNotSupported
            }
            Self::UnreleasedTooLong => ReasonCode::QuotaExceeded,
            _ => ReasonCode::ProtocolError,
        }
    }
}

impl From<DecodeError> for Violation {
    fn from(error: DecodeError) -> Self {
        Self::Decode(error)
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Decode(error) => return error.fmt(f),
            Self::SecondConnect => "second CONNECT on one connection",
            Self::PacketForClients => "packet that only a server sends",
            Self::AuthWithoutMethod => "AUTH without an authentication method",
            Self::AuthMethodChanged => "AUTH with another authentication method",
            Self::TopicAliasTooLarge => "topic alias above the maximum",
            Self::TopicAliasUnknown => "topic alias that was never set",
            Self::SubscriptionIdentifierFromClient => "publish with a subscription identifier",
            Self::QosNotSupported => "QoS above the maximum",
            Self::RetainNotSupported => "retained publish where retain is not available",
            Self::ReceiveMaximumExceeded => "receive maximum exceeded",
            Self::RepeatedWithoutDup => "QoS 2 publish repeated without DUP",
            Self::WrongAcknowledgement => "acknowledgement does not fit the QoS of the packet id",
            Self::NoLocalOnShared => "no local on a shared subscription",
            Self::SubscriptionIdentifierNotSupported => {
                "subscription identifier where they are not available"
            }
            Self::SessionExpiryFromZero => "session expiry raised from 0 at DISCONNECT",
            Self::UnreleasedTooLong => "too many unreleased QoS 2 messages for too long",
        })
    }
}
