//! Bytes to MQTT Control Packets and back, for 3.1 (`MQIsdp`), 3.1.1 and 5.0, and the names MQTT gives things.
//!
//! In: a slice that holds what has been received so far ([`cut`]), or one whole packet ([`decode`], [`PublishRef::decode`]),
//! and the caller's [`Limits`], which are checked before anything is allocated. Out: a [`Packet`], or a [`DecodeError`]
//! that knows the Reason Code the peer is to be told. No time, no sessions, no sockets: whether a packet is welcome now is for
//! the session to say. Nothing here panics or recurses on input.
//!
//! ```
//! use nightjar_codec::{Limits, Packet, ProtocolVersion, cut, decode};
//!
//! let limits = Limits::PROTOCOL;
//! let mut received: &[u8] = b"\xc0\x00\x30\x05\x00\x01ahi\x30";
//! let mut packets = Vec::new();
//! // `None`: what is left is the beginning of a packet, and more has to be received.
//! while let Some((_, length)) = cut(received, &limits)? {
//!     let (packet, rest) = received.split_at(length);
//!     packets.push(decode(packet, ProtocolVersion::V3_1_1, &limits)?);
//!     received = rest;
//! }
//! assert!(matches!(&packets[..], [Packet::Pingreq, Packet::Publish(_)]));
//! assert_eq!(received, b"\x30");
//! # Ok::<(), nightjar_codec::DecodeError>(())
//! ```
#![no_std]
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::cast_possible_truncation
    )
)]

extern crate alloc;

pub mod error;
pub mod frame;
pub mod packet;
mod primitive;
pub mod property;
pub mod reason_code;
pub mod topic;
pub mod version;

pub use error::{ConnectPart, DecodeError, EncodeError, Misdeed, Place};
pub use frame::{FixedHeader, Limits, PacketType, cut};
pub use packet::{
    Acknowledgement, AcknowledgementProperties, Auth, AuthProperties, Connack, ConnackProperties,
    Connect, ConnectProperties, Disconnect, DisconnectProperties, Packet, Publish, PublishHead,
    PublishProperties, PublishPropertiesRef, PublishRef, RetainHandling, Suback, SubackProperties,
    Subscribe, SubscribeFilter, SubscribeProperties, SubscriptionOptions, Unsuback,
    UnsubackProperties, Unsubscribe, UnsubscribeProperties, Will, WillProperties, decode,
    decode_acknowledgement_short, decode_bytes, decode_from_client,
};
pub use property::{PropertyId, UserProperties};
pub use reason_code::ReasonCode;
pub use topic::{ClientId, SharedFilter, TopicError, TopicFilter, TopicName};
pub use version::{PacketId, ProtocolVersion, QoS};
