//! PINGREQ and PINGRESP: two bytes, no body, the same in every version.

use alloc::vec::Vec;

use super::Packet;
use crate::error::{EncodeError, Misdeed};
use crate::frame::PacketType;
use crate::primitive::{Reader, Sink};

pub(super) fn decode(reader: &Reader<'_>, packet: Packet) -> Result<Packet, Misdeed> {
    if reader.is_empty() {
        Ok(packet)
    } else {
        Err(Misdeed::PingNotEmpty)
    }
}

pub(super) fn encode(packet_type: PacketType, out: &mut Vec<u8>) -> Result<usize, EncodeError> {
    out.put(&[packet_type.first_byte(), 0]);
    Ok(ENCODED_LENGTH)
}

pub(super) const ENCODED_LENGTH: usize = 2;
