//! The fifteen Control Packets: a value for each, and the two ways between it and its bytes.
//!
//! In: one whole packet (from [`crate::cut`]), the version of the connection, the caller's limits. Out: a `Packet` that owns
//! its strings, and whose payloads share the packet's memory where it was given as `Bytes`. What is read here is known to be
//! well formed and to hold nothing that the standard forbids in any session; whether it fits this session is not known.

mod acknowledge;
mod auth;
mod connack;
mod connect;
mod disconnect;
mod ping;
mod publish;
mod suback;
mod subscribe;
mod unsuback;
mod unsubscribe;

use alloc::boxed::Box;
use alloc::vec::Vec;

use bytes::Bytes;

pub use acknowledge::{Acknowledgement, AcknowledgementProperties, decode_acknowledgement_short};
pub use auth::{Auth, AuthProperties};
pub use connack::{Connack, ConnackProperties};
pub use connect::{Connect, ConnectProperties, Will, WillProperties};
pub use disconnect::{Disconnect, DisconnectProperties};
pub use publish::{Publish, PublishHead, PublishProperties, PublishPropertiesRef, PublishRef};
pub use suback::{Suback, SubackProperties};
pub use subscribe::{
    RetainHandling, Subscribe, SubscribeFilter, SubscribeProperties, SubscriptionOptions,
};
pub use unsuback::{Unsuback, UnsubackProperties};
pub use unsubscribe::{Unsubscribe, UnsubscribeProperties};

use crate::error::{DecodeError, EncodeError, Misdeed, Place};
use crate::frame::{FixedHeader, Limits, PacketType, check_length};
use crate::primitive::{Blobs, Reader, check_flags};
use crate::version::ProtocolVersion;

/// Any Control Packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// CONNECT.
    Connect(Box<Connect>),
    /// CONNACK.
    Connack(Connack),
    /// PUBLISH.
    Publish(Publish),
    /// PUBACK.
    Puback(Acknowledgement),
    /// PUBREC.
    Pubrec(Acknowledgement),
    /// PUBREL.
    Pubrel(Acknowledgement),
    /// PUBCOMP.
    Pubcomp(Acknowledgement),
    /// SUBSCRIBE.
    Subscribe(Subscribe),
    /// SUBACK.
    Suback(Suback),
    /// UNSUBSCRIBE.
    Unsubscribe(Unsubscribe),
    /// UNSUBACK.
    Unsuback(Unsuback),
    /// PINGREQ.
    Pingreq,
    /// PINGRESP.
    Pingresp,
    /// DISCONNECT.
    Disconnect(Disconnect),
    /// AUTH.
    Auth(Auth),
}

/// Decodes exactly one whole packet; strings and payloads are copied.
///
/// CONNECT says its own version, so `version` counts for the others only.
///
/// # Errors
/// Says what is wrong with the packet, or that it is above a limit.
pub fn decode(
    packet: &[u8],
    version: ProtocolVersion,
    limits: &Limits,
) -> Result<Packet, DecodeError> {
    decode_with(packet, Blobs::Copied, version, limits)
}

/// Decodes exactly one whole packet; payloads and binary data share the memory of `packet`.
///
/// # Errors
/// Those of [`decode`].
pub fn decode_bytes(
    packet: &Bytes,
    version: ProtocolVersion,
    limits: &Limits,
) -> Result<Packet, DecodeError> {
    decode_with(packet, Blobs::Shared(packet), version, limits)
}

/// As [`decode_bytes`], for a server: what only a server sends is refused before its body is looked at.
///
/// # Errors
/// Those of [`FixedHeader::check_from_client`] and of [`decode`].
pub fn decode_from_client(
    packet: &Bytes,
    version: ProtocolVersion,
    limits: &Limits,
) -> Result<Packet, DecodeError> {
    if let Some(header) = FixedHeader::read(packet)? {
        check_length(&header, limits)?;
        header.check_from_client()?;
    }
    decode_bytes(packet, version, limits)
}

fn decode_with(
    packet: &[u8],
    blobs: Blobs<'_>,
    version: ProtocolVersion,
    limits: &Limits,
) -> Result<Packet, DecodeError> {
    let (header, packet_type, body) = open(packet, limits)?;
    if packet_type == PacketType::Connect {
        return connect::decode(header.flags, body, blobs, limits)
            .map(|connect| Packet::Connect(Box::new(connect)));
    }
    decode_body(packet_type, header.flags, body, blobs, version, limits)
        .map_err(|misdeed| DecodeError::new(misdeed, Place::Packet(packet_type)))
}

/// Every packet but CONNECT.
fn decode_body(
    packet_type: PacketType,
    flags: u8,
    mut reader: Reader<'_>,
    blobs: Blobs<'_>,
    version: ProtocolVersion,
    limits: &Limits,
) -> Result<Packet, Misdeed> {
    if packet_type == PacketType::Auth && !version.is_v5() {
        return Err(Misdeed::PacketNotInVersion);
    }
    if packet_type != PacketType::Publish {
        check_flags(packet_type, flags, version)?;
    }
    let reader = &mut reader;
    let acknowledgement =
        |reader: &mut Reader<'_>| Acknowledgement::decode(packet_type, reader, version, limits);
    let packet = match packet_type {
        PacketType::Connack => Packet::Connack(Connack::decode(reader, blobs, version, limits)?),
        PacketType::Publish => {
            Packet::Publish(Publish::decode(flags, reader, blobs, version, limits)?)
        }
        PacketType::Puback => Packet::Puback(acknowledgement(reader)?),
        PacketType::Pubrec => Packet::Pubrec(acknowledgement(reader)?),
        PacketType::Pubrel => Packet::Pubrel(acknowledgement(reader)?),
        PacketType::Pubcomp => Packet::Pubcomp(acknowledgement(reader)?),
        PacketType::Subscribe => Packet::Subscribe(Subscribe::decode(reader, version, limits)?),
        PacketType::Suback => Packet::Suback(Suback::decode(reader, version, limits)?),
        PacketType::Unsubscribe => {
            Packet::Unsubscribe(Unsubscribe::decode(reader, version, limits)?)
        }
        PacketType::Unsuback => Packet::Unsuback(Unsuback::decode(reader, version, limits)?),
        PacketType::Pingreq => ping::decode(reader, Packet::Pingreq)?,
        PacketType::Pingresp => ping::decode(reader, Packet::Pingresp)?,
        PacketType::Disconnect => Packet::Disconnect(Disconnect::decode(reader, version, limits)?),
        PacketType::Auth => Packet::Auth(Auth::decode(reader, blobs, limits)?),
        // Decoded by `connect::decode`, which places its errors itself.
        PacketType::Connect => return Err(Misdeed::PacketNotInVersion),
    };
    reader.end()?;
    Ok(packet)
}

/// Splits a whole packet into its fixed header and its body.
#[inline(always)]
fn open<'a>(
    packet: &'a [u8],
    limits: &Limits,
) -> Result<(FixedHeader, PacketType, Reader<'a>), DecodeError> {
    let Some(header) = FixedHeader::read(packet)? else {
        let packet_type = packet
            .first()
            .and_then(|byte| PacketType::from_u8(byte >> 4));
        return Err(DecodeError::new(
            Misdeed::UnexpectedEnd,
            Place::FixedHeader(packet_type),
        ));
    };
    let packet_type = header.packet_type()?;
    check_length(&header, limits)?;
    let body = packet.get(header.header_length..).unwrap_or_default();
    let remaining_length = header.remaining_length as usize;
    if body.len() != remaining_length {
        let misdeed = if body.len() < remaining_length {
            Misdeed::UnexpectedEnd
        } else {
            Misdeed::TrailingBytes
        };
        return Err(DecodeError::new(
            misdeed,
            Place::FixedHeader(Some(packet_type)),
        ));
    }
    Ok((header, packet_type, Reader::new(body)))
}

impl Packet {
    /// The type of the packet.
    #[must_use]
    pub const fn packet_type(&self) -> PacketType {
        match self {
            Self::Connect(_) => PacketType::Connect,
            Self::Connack(_) => PacketType::Connack,
            Self::Publish(_) => PacketType::Publish,
            Self::Puback(_) => PacketType::Puback,
            Self::Pubrec(_) => PacketType::Pubrec,
            Self::Pubrel(_) => PacketType::Pubrel,
            Self::Pubcomp(_) => PacketType::Pubcomp,
            Self::Subscribe(_) => PacketType::Subscribe,
            Self::Suback(_) => PacketType::Suback,
            Self::Unsubscribe(_) => PacketType::Unsubscribe,
            Self::Unsuback(_) => PacketType::Unsuback,
            Self::Pingreq => PacketType::Pingreq,
            Self::Pingresp => PacketType::Pingresp,
            Self::Disconnect(_) => PacketType::Disconnect,
            Self::Auth(_) => PacketType::Auth,
        }
    }

    /// Appends the packet and gives its length; appends nothing on error. CONNECT is written in its own version.
    ///
    /// # Errors
    /// A field or the whole is too long, or the version has no such packet or reason.
    pub fn encode(
        &self,
        version: ProtocolVersion,
        out: &mut Vec<u8>,
    ) -> Result<usize, EncodeError> {
        match self {
            Self::Connect(packet) => packet.encode(version, out),
            Self::Connack(packet) => packet.encode(version, out),
            Self::Publish(packet) => packet.encode(version, out),
            Self::Puback(packet)
            | Self::Pubrec(packet)
            | Self::Pubrel(packet)
            | Self::Pubcomp(packet) => packet.encode(self.packet_type(), version, out),
            Self::Subscribe(packet) => packet.encode(version, out),
            Self::Suback(packet) => packet.encode(version, out),
            Self::Unsubscribe(packet) => packet.encode(version, out),
            Self::Unsuback(packet) => packet.encode(version, out),
            Self::Pingreq | Self::Pingresp => ping::encode(self.packet_type(), out),
            Self::Disconnect(packet) => packet.encode(version, out),
            Self::Auth(packet) => packet.encode(version, out),
        }
    }

    /// The length that [`Packet::encode`] would give.
    #[must_use]
    pub fn encoded_length(&self, version: ProtocolVersion) -> usize {
        match self {
            Self::Connect(packet) => packet.encoded_length(version),
            Self::Connack(packet) => packet.encoded_length(version),
            Self::Publish(packet) => packet.encoded_length(version),
            Self::Puback(packet)
            | Self::Pubrec(packet)
            | Self::Pubrel(packet)
            | Self::Pubcomp(packet) => packet.encoded_length(version),
            Self::Subscribe(packet) => packet.encoded_length(version),
            Self::Suback(packet) => packet.encoded_length(version),
            Self::Unsubscribe(packet) => packet.encoded_length(version),
            Self::Unsuback(packet) => packet.encoded_length(version),
            Self::Pingreq | Self::Pingresp => ping::ENCODED_LENGTH,
            Self::Disconnect(packet) => packet.encoded_length(version),
            Self::Auth(packet) => packet.encoded_length(version),
        }
    }
}

/// The pair of methods that every packet has whose type is fixed.
macro_rules! encode_methods {
    ($packet:ident, $packet_type:expr) => {
        impl $packet {
            /// Appends the packet and gives its length; appends nothing on error.
            ///
            /// # Errors
            /// A field or the whole is too long, or the version has no such packet or reason.
            pub fn encode(
                &self,
                version: $crate::version::ProtocolVersion,
                out: &mut alloc::vec::Vec<u8>,
            ) -> Result<usize, $crate::error::EncodeError> {
                $crate::primitive::encode($packet_type.first_byte(), self, version, out)
            }

            /// The length that `encode` would give.
            #[must_use]
            pub fn encoded_length(&self, version: $crate::version::ProtocolVersion) -> usize {
                $crate::primitive::encoded_length(self, version)
            }
        }
    };
}
use encode_methods;
