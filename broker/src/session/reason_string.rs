//! Reason Strings: why something was refused, for people. Off by default (D24).
//!
//! A Reason String goes out only where the operator wants them, the client wants problem information (CONNACK and
//! DISCONNECT carry one in any case) [MQTT-3.1.2-29], and the packet still fits the client's Maximum Packet Size
//! [MQTT-3.2.2-19] [MQTT-3.4.2-2] [MQTT-3.9.2-1] [MQTT-3.14.2-3].

use std::fmt;

use nightjar_codec::{Packet, ProtocolVersion};

use crate::settings::Settings;

/// What decides whether a client gets Reason Strings.
#[derive(Clone, Copy, Debug)]
pub struct Audience {
    wanted: bool,
    version: ProtocolVersion,
    request_problem_information: bool,
    maximum_packet_size: u32,
}

impl Audience {
    pub fn new(
        settings: &Settings,
        version: ProtocolVersion,
        request_problem_information: bool,
        maximum_packet_size: u32,
    ) -> Self {
        Self {
            wanted: settings.reason_strings && version.is_v5(),
            version,
            request_problem_information,
            maximum_packet_size,
        }
    }

    /// Whether it is worth making the text.
    pub fn listens(&self) -> bool {
        self.wanted
    }

    /// Adds the text to the packet where all of the above allow it.
    pub fn explain(&self, packet: &mut Packet, text: impl fmt::Display) {
        if !self.wanted {
            return;
        }
        let always = matches!(packet, Packet::Connack(_) | Packet::Disconnect(_));
        let Some(place) =
            reason_string(packet).filter(|_| always || self.request_problem_information)
        else {
            return;
        };
        *place = Some(text.to_string().into());
        if packet.encoded_length(self.version) > self.maximum_packet_size as usize
            && let Some(place) = reason_string(packet)
        {
            *place = None;
        }
    }
}

/// Where a packet that refuses something keeps its Reason String.
fn reason_string(packet: &mut Packet) -> Option<&mut Option<Box<str>>> {
    match packet {
        Packet::Connack(packet) => Some(&mut packet.properties.reason_string),
        Packet::Disconnect(packet) => Some(&mut packet.properties.reason_string),
        Packet::Suback(packet) => Some(&mut packet.properties.reason_string),
        Packet::Puback(packet) | Packet::Pubrec(packet) => {
            Some(&mut packet.properties.reason_string)
        }
        _ => None,
    }
}
