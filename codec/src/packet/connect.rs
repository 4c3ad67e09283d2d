//! CONNECT: the first packet, which says the version of all that follow.
//!
//! Its errors carry the part of the packet in which they were met, because what the client is told depends on it
//! (`DecodeError::connack_version`).

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;

use crate::error::{ConnectPart, DecodeError, EncodeError, Misdeed, Place};
use crate::frame::{Limits, PacketType};
use crate::primitive::{
    Blobs, Body, Properties, Reader, Sink, encode, encoded_length, put_properties,
};
use crate::property::{self, PropertyId, PutProperty, UserProperties, Value};
use crate::topic::{levels, validate_topic_name};
use crate::version::{ProtocolVersion, QoS};

/// CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    /// The version of the connection.
    pub protocol_version: ProtocolVersion,
    /// Whether the client is a bridge, which says so with bit 7 of the Protocol Level.
    pub bridge: bool,
    /// Clean Start; before 5.0 Clean Session.
    pub clean_start: bool,
    /// Keep Alive, in seconds; 0 for none.
    pub keep_alive: u16,
    /// Client Identifier; empty where the server is to choose one.
    pub client_id: Box<str>,
    /// The Will Message.
    pub will: Option<Will>,
    /// User Name.
    pub username: Option<Box<str>>,
    /// Password, which is binary.
    pub password: Option<Bytes>,
    /// 5.0 only.
    pub properties: ConnectProperties,
}

/// Properties of CONNECT.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectProperties {
    /// Session Expiry Interval, in seconds.
    pub session_expiry_interval: Option<u32>,
    /// Receive Maximum.
    pub receive_maximum: Option<NonZeroU16>,
    /// Maximum Packet Size, in bytes.
    pub maximum_packet_size: Option<NonZeroU32>,
    /// Topic Alias Maximum.
    pub topic_alias_maximum: Option<u16>,
    /// Request Response Information.
    pub request_response_information: Option<bool>,
    /// Request Problem Information.
    pub request_problem_information: Option<bool>,
    /// User Properties.
    pub user_properties: UserProperties,
    /// Authentication Method.
    pub authentication_method: Option<Box<str>>,
    /// Authentication Data, only beside a method.
    pub authentication_data: Option<Bytes>,
}

/// The Will Message of a CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
    /// A valid Topic Name.
    pub topic: Box<str>,
    /// Its payload.
    pub payload: Bytes,
    /// Its QoS.
    pub qos: QoS,
    /// Its RETAIN flag.
    pub retain: bool,
    /// 5.0 only.
    pub properties: WillProperties,
}

/// Properties of the Will Message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WillProperties {
    /// Will Delay Interval, in seconds.
    pub will_delay_interval: Option<u32>,
    /// Payload Format Indicator.
    pub payload_format_indicator: Option<bool>,
    /// Message Expiry Interval, in seconds.
    pub message_expiry_interval: Option<u32>,
    /// Content Type.
    pub content_type: Option<Box<str>>,
    /// Response Topic: not empty, no wildcards.
    pub response_topic: Option<Box<str>>,
    /// Correlation Data.
    pub correlation_data: Option<Bytes>,
    /// User Properties.
    pub user_properties: UserProperties,
}

impl Connect {
    /// Appends the packet, in its own version, and gives its length; appends nothing on error.
    ///
    /// # Errors
    /// A field or the whole is too long.
    pub fn encode(
        &self,
        _version: ProtocolVersion,
        out: &mut Vec<u8>,
    ) -> Result<usize, EncodeError> {
        encode(
            PacketType::Connect.first_byte(),
            self,
            self.protocol_version,
            out,
        )
    }

    /// The length that [`Connect::encode`] would give.
    #[must_use]
    pub fn encoded_length(&self, _version: ProtocolVersion) -> usize {
        encoded_length(self, self.protocol_version)
    }
}

pub(super) fn decode(
    flags: u8,
    reader: Reader<'_>,
    blobs: Blobs<'_>,
    limits: &Limits,
) -> Result<Connect, DecodeError> {
    let mut decoder = Decoder {
        reader,
        blobs,
        limits,
        part: ConnectPart::Header,
        version: None,
    };
    decoder
        .connect(flags)
        .map_err(|misdeed| DecodeError::new(misdeed, Place::Connect(decoder.part, decoder.version)))
}

struct Decoder<'a> {
    reader: Reader<'a>,
    blobs: Blobs<'a>,
    limits: &'a Limits,
    /// Where we are, for the error.
    part: ConnectPart,
    /// Known once the Protocol Level is read.
    version: Option<ProtocolVersion>,
}

impl Decoder<'_> {
    fn connect(&mut self, fixed_header_flags: u8) -> Result<Connect, Misdeed> {
        let (version, bridge) = self.protocol()?;
        self.version = Some(version);
        let connect_flags = self.reader.u8()?;
        // 3.1 calls the flags of the fixed header and bit 0 of the Connect Flags unused, and its clients set them.
        if version != ProtocolVersion::V3_1 {
            // [MQTT-2.1.3-1]
            if fixed_header_flags != 0 {
                return Err(Misdeed::InvalidFlags);
            }
            // [MQTT-3.1.2-3]
            if connect_flags & FLAG_RESERVED != 0 {
                return Err(Misdeed::ReservedConnectFlag);
            }
        }
        check_connect_flags(connect_flags, version)?;
        let keep_alive = self.reader.u16()?;

        self.part = ConnectPart::Properties;
        let properties = if version.is_v5() {
            self.connect_properties()?
        } else {
            ConnectProperties::default()
        };

        self.part = ConnectPart::ClientId;
        let clean_start = connect_flags & FLAG_CLEAN_START != 0;
        let client_id = self.client_id(version, clean_start)?;

        self.part = ConnectPart::Will;
        let will = if connect_flags & FLAG_WILL == 0 {
            None
        } else {
            Some(self.will(connect_flags, version)?)
        };

        self.part = ConnectPart::UserName;
        let username = if connect_flags & FLAG_USER_NAME == 0 {
            None
        } else {
            Some(self.reader.string()?.into())
        };

        self.part = ConnectPart::Password;
        let password = if connect_flags & FLAG_PASSWORD == 0 {
            None
        } else {
            Some(self.blobs.blob(self.reader.binary()?))
        };

        self.part = ConnectPart::End;
        self.reader.end()?;
        Ok(Connect {
            protocol_version: version,
            bridge,
            clean_start,
            keep_alive,
            client_id,
            will,
            username,
            password,
            properties,
        })
    }

    fn protocol(&mut self) -> Result<(ProtocolVersion, bool), Misdeed> {
        let name = self.reader.binary()?;
        // [MQTT-3.1.2-1]
        if name != b"MQTT" && name != b"MQIsdp" {
            return Err(Misdeed::UnknownProtocolName);
        }
        let level = self.reader.u8()?;
        let version = match (name, level & !BRIDGE_BIT) {
            (b"MQIsdp", 3) => ProtocolVersion::V3_1,
            (b"MQTT", 4) => ProtocolVersion::V3_1_1,
            (b"MQTT", 5) => ProtocolVersion::V5,
            // [MQTT-3.1.2-2]
            _ => return Err(Misdeed::UnsupportedProtocolVersion(level)),
        };
        Ok((version, level & BRIDGE_BIT != 0))
    }

    fn client_id(
        &mut self,
        version: ProtocolVersion,
        clean_start: bool,
    ) -> Result<Box<str>, Misdeed> {
        let client_id = self.reader.string()?;
        let may_be_empty = match version {
            // 3.1 wants 1 to 23 characters; more than 23 are taken from everybody.
            ProtocolVersion::V3_1 => false,
            // [v3 MQTT-3.1.3-7] [v3 MQTT-3.1.3-8]
            ProtocolVersion::V3_1_1 => clean_start,
            // [MQTT-3.1.3-6]
            ProtocolVersion::V5 => true,
        };
        if client_id.is_empty() && !may_be_empty {
            return Err(Misdeed::EmptyClientId);
        }
        Ok(client_id.into())
    }

    fn will(&mut self, connect_flags: u8, version: ProtocolVersion) -> Result<Will, Misdeed> {
        let qos =
            QoS::from_u8((connect_flags >> WILL_QOS_SHIFT) & 0b11).ok_or(Misdeed::InvalidQoS)?;
        let properties = if version.is_v5() {
            self.will_properties()?
        } else {
            WillProperties::default()
        };
        let topic = self.reader.string()?;
        validate_topic_name(topic)?;
        if topic.starts_with("$CONTROL/") {
            return Err(Misdeed::ReservedWillTopic);
        }
        if levels(topic) > usize::from(self.limits.topic_levels_max) {
            return Err(Misdeed::TooManyTopicLevels);
        }
        let payload = self.blobs.blob(self.reader.binary()?);
        Ok(Will {
            topic: topic.into(),
            payload,
            qos,
            retain: connect_flags & FLAG_WILL_RETAIN != 0,
            properties,
        })
    }

    fn connect_properties(&mut self) -> Result<ConnectProperties, Misdeed> {
        use PropertyId as P;
        use property::{boolean, non_zero_u16, non_zero_u32, once};
        let mut properties = ConnectProperties::default();
        let mut reader = self.reader.properties()?;
        while !reader.is_empty() {
            let (id, value) = property::read(&mut reader)?;
            match (id, value) {
                (P::SessionExpiryInterval, Value::FourByte(value)) => {
                    once(&mut properties.session_expiry_interval, id, value)?;
                }
                (P::ReceiveMaximum, Value::TwoByte(value)) => {
                    once(
                        &mut properties.receive_maximum,
                        id,
                        non_zero_u16(id, value)?,
                    )?;
                }
                (P::MaximumPacketSize, Value::FourByte(value)) => {
                    let value = non_zero_u32(id, value)?;
                    once(&mut properties.maximum_packet_size, id, value)?;
                }
                (P::TopicAliasMaximum, Value::TwoByte(value)) => {
                    once(&mut properties.topic_alias_maximum, id, value)?;
                }
                (P::RequestResponseInformation, Value::Byte(value)) => {
                    let value = boolean(id, value)?;
                    once(&mut properties.request_response_information, id, value)?;
                }
                (P::RequestProblemInformation, Value::Byte(value)) => {
                    let value = boolean(id, value)?;
                    once(&mut properties.request_problem_information, id, value)?;
                }
                (P::AuthenticationMethod, Value::Text(value)) => {
                    once(&mut properties.authentication_method, id, value.into())?;
                }
                (P::AuthenticationData, Value::Binary(value)) => {
                    let value = self.blobs.blob(value);
                    once(&mut properties.authentication_data, id, value)?;
                }
                (_, Value::Pair(name, value)) => property::push_user_property(
                    &mut properties.user_properties,
                    name,
                    value,
                    self.limits,
                )?,
                _ => return Err(Misdeed::PropertyNotAllowed(id)),
            }
        }
        // 3.1.2.11.10
        if properties.authentication_data.is_some() && properties.authentication_method.is_none() {
            return Err(Misdeed::AuthenticationDataWithoutMethod);
        }
        Ok(properties)
    }

    fn will_properties(&mut self) -> Result<WillProperties, Misdeed> {
        use PropertyId as P;
        use property::{boolean, once};
        let mut properties = WillProperties::default();
        let mut reader = self.reader.properties()?;
        while !reader.is_empty() {
            let (id, value) = property::read(&mut reader)?;
            match (id, value) {
                (P::WillDelayInterval, Value::FourByte(value)) => {
                    once(&mut properties.will_delay_interval, id, value)?;
                }
                (P::PayloadFormatIndicator, Value::Byte(value)) => {
                    let value = boolean(id, value)?;
                    once(&mut properties.payload_format_indicator, id, value)?;
                }
                (P::MessageExpiryInterval, Value::FourByte(value)) => {
                    once(&mut properties.message_expiry_interval, id, value)?;
                }
                (P::ContentType, Value::Text(value)) => {
                    once(&mut properties.content_type, id, value.into())?;
                }
                (P::ResponseTopic, Value::Text(value)) => {
                    let value = property::response_topic(value)?;
                    once(&mut properties.response_topic, id, value.into())?;
                }
                (P::CorrelationData, Value::Binary(value)) => {
                    let value = self.blobs.blob(value);
                    once(&mut properties.correlation_data, id, value)?;
                }
                (_, Value::Pair(name, value)) => property::push_user_property(
                    &mut properties.user_properties,
                    name,
                    value,
                    self.limits,
                )?,
                _ => return Err(Misdeed::PropertyNotAllowed(id)),
            }
        }
        Ok(properties)
    }
}

fn check_connect_flags(flags: u8, version: ProtocolVersion) -> Result<(), Misdeed> {
    let will_qos = (flags >> WILL_QOS_SHIFT) & 0b11;
    if flags & FLAG_WILL == 0 {
        // [MQTT-3.1.2-11] [MQTT-3.1.2-13] [v3 MQTT-3.1.2-13] [v3 MQTT-3.1.2-15]
        if will_qos != 0 || flags & FLAG_WILL_RETAIN != 0 {
            return Err(Misdeed::WillFlagsWithoutWill);
        }
    } else if will_qos == 3 {
        // [MQTT-3.1.2-12] [v3 MQTT-3.1.2-14]
        return Err(Misdeed::InvalidQoS);
    }
    // [v3 MQTT-3.1.2-22] 5.0 allows it.
    if !version.is_v5() && flags & FLAG_PASSWORD != 0 && flags & FLAG_USER_NAME == 0 {
        return Err(Misdeed::PasswordWithoutUserName);
    }
    Ok(())
}

impl Connect {
    fn connect_flags(&self) -> u8 {
        let mut flags = 0;
        if self.clean_start {
            flags |= FLAG_CLEAN_START;
        }
        if let Some(will) = &self.will {
            flags |= FLAG_WILL | will.qos.as_u8() << WILL_QOS_SHIFT;
            if will.retain {
                flags |= FLAG_WILL_RETAIN;
            }
        }
        if self.username.is_some() {
            flags |= FLAG_USER_NAME;
        }
        if self.password.is_some() {
            flags |= FLAG_PASSWORD;
        }
        flags
    }
}

impl Body for Connect {
    fn write(&self, version: ProtocolVersion, sink: &mut impl Sink) {
        sink.put_string(version.name());
        let bridge = if self.bridge { BRIDGE_BIT } else { 0 };
        sink.put_u8(version.level() | bridge);
        sink.put_u8(self.connect_flags());
        sink.put_u16(self.keep_alive);
        if version.is_v5() {
            put_properties(sink, &self.properties);
        }
        sink.put_string(&self.client_id);
        if let Some(will) = &self.will {
            if version.is_v5() {
                put_properties(sink, &will.properties);
            }
            sink.put_string(&will.topic);
            sink.put_binary(&will.payload);
        }
        if let Some(username) = &self.username {
            sink.put_string(username);
        }
        if let Some(password) = &self.password {
            sink.put_binary(password);
        }
    }
}

impl Properties for ConnectProperties {
    fn write(&self, sink: &mut impl Sink) {
        use PropertyId as P;
        sink.property_u32(P::SessionExpiryInterval, self.session_expiry_interval);
        sink.property_u16(P::ReceiveMaximum, self.receive_maximum.map(NonZeroU16::get));
        sink.property_u32(
            P::MaximumPacketSize,
            self.maximum_packet_size.map(NonZeroU32::get),
        );
        sink.property_u16(P::TopicAliasMaximum, self.topic_alias_maximum);
        sink.property_bool(
            P::RequestResponseInformation,
            self.request_response_information,
        );
        sink.property_bool(
            P::RequestProblemInformation,
            self.request_problem_information,
        );
        sink.property_text(
            P::AuthenticationMethod,
            self.authentication_method.as_deref(),
        );
        sink.property_binary(P::AuthenticationData, self.authentication_data.as_deref());
        sink.user_properties(&self.user_properties);
    }
}

impl Properties for WillProperties {
    fn write(&self, sink: &mut impl Sink) {
        use PropertyId as P;
        sink.property_u32(P::WillDelayInterval, self.will_delay_interval);
        sink.property_bool(P::PayloadFormatIndicator, self.payload_format_indicator);
        sink.property_u32(P::MessageExpiryInterval, self.message_expiry_interval);
        sink.property_text(P::ContentType, self.content_type.as_deref());
        sink.property_text(P::ResponseTopic, self.response_topic.as_deref());
        sink.property_binary(P::CorrelationData, self.correlation_data.as_deref());
        sink.user_properties(&self.user_properties);
    }
}

const FLAG_RESERVED: u8 = 0b0000_0001;
const FLAG_CLEAN_START: u8 = 0b0000_0010;
const FLAG_WILL: u8 = 0b0000_0100;
const WILL_QOS_SHIFT: u8 = 3;
const FLAG_WILL_RETAIN: u8 = 0b0010_0000;
const FLAG_PASSWORD: u8 = 0b0100_0000;
const FLAG_USER_NAME: u8 = 0b1000_0000;
/// Bridges set bit 7 of the Protocol Level (0x83, 0x84), and Mosquitto's do so by default.
const BRIDGE_BIT: u8 = 0b1000_0000;
