//! A second opinion: mqttbytes 0.6 and mqttbytes-ng 0.7, both ways, and the table of what they are known to see differently.
//!
//! What we encode they decode to the same fields; what they encode of it we decode to the packet that we began with. Reason Codes,
//! whose names differ, are compared by that second step. 3.1 is not compared: neither of them speaks it.

mod common;

use std::num::{NonZeroU16, NonZeroU32};

use bytes::{Bytes, BytesMut};
use nightjar_codec::{
    AcknowledgementProperties, ConnackProperties, ConnectProperties, DisconnectProperties, Limits,
    Packet, PacketId, ProtocolVersion, PublishProperties, QoS, ReasonCode, RetainHandling,
    SubscribeProperties, SubscriptionOptions, UnsubscribeProperties, UserProperties, Will,
    WillProperties, decode,
};
use proptest::prelude::*;

const V3: ProtocolVersion = ProtocolVersion::V3_1_1;
const V5: ProtocolVersion = ProtocolVersion::V5;

proptest! {
    #![proptest_config(common::cases(1_500))]

    #[test]
    fn mqttbytes_agrees_in_3_1_1(packet in common::packet(V3)) {
        agree(&packet, V3, old::v4_read, old::v4_view, old::v4_write)?;
    }

    #[test]
    fn mqttbytes_agrees_in_5_0(packet in common::packet(V5)) {
        agree(&packet, V5, old::v5_read, old::v5_view, old::v5_write)?;
    }

    #[test]
    fn mqttbytes_ng_agrees_in_3_1_1(packet in common::packet(V3)) {
        agree(&packet, V3, ng::v4_read, ng::v4_view, ng::v4_write)?;
    }

    #[test]
    fn mqttbytes_ng_agrees_in_5_0(packet in common::packet(V5)) {
        agree(&packet, V5, ng::v5_read, ng::v5_view, ng::v5_write)?;
    }
}

/// Ours to theirs, field by field, and theirs back to ours.
fn agree<P>(
    packet: &Packet,
    version: ProtocolVersion,
    read: fn(&[u8]) -> Result<P, String>,
    view: fn(P, &Packet) -> Packet,
    write: fn(&P) -> Result<Vec<u8>, String>,
) -> Result<(), TestCaseError> {
    let mut packet = packet.clone();
    if !comparable(&mut packet, version) {
        return Ok(());
    }
    let mut ours = Vec::new();
    packet.encode(version, &mut ours).unwrap();
    let theirs = read(&ours)
        .map_err(|error| TestCaseError::fail(format!("{error} for {ours:02x?} {packet:?}")))?;
    let back = write(&theirs)
        .map_err(|error| TestCaseError::fail(format!("writing {packet:?}: {error}")))?;
    prop_assert_eq!(&view(theirs, &packet), &packet);
    prop_assert_eq!(
        decode(&back, version, &Limits::PROTOCOL),
        Ok(packet),
        "{:02x?}",
        back
    );
    Ok(())
}

/// Leaves out what they cannot express; the table below has a row for each that is a matter of right and wrong.
fn comparable(packet: &mut Packet, version: ProtocolVersion) -> bool {
    match packet {
        Packet::Connect(connect) => {
            // They do not know bridges, and their login is two strings that are not both empty.
            connect.bridge = false;
            if connect.username.as_deref().is_none_or(str::is_empty) {
                connect.username = None;
                connect.password = None;
            }
            connect.password = connect
                .username
                .as_ref()
                .map(|_| Bytes::from_static(b"secret"));
            true
        }
        // A length of 0 or 1 in 5.0, and 0x8C.
        Packet::Disconnect(disconnect) => {
            if version.is_v5() && disconnect.properties == DisconnectProperties::default() {
                disconnect.properties.session_expiry_interval = Some(9);
            }
            disconnect.reason_code != ReasonCode::BadAuthenticationMethod
        }
        // mqttbytes writes a CONNACK of 5.0 without properties as one of 3.1.1.
        Packet::Connack(connack) => {
            if version.is_v5() && connack.properties == ConnackProperties::default() {
                connack.properties.server_keep_alive = Some(9);
            }
            true
        }
        // Neither of them reads AUTH, and mqttbytes-ng does not let anybody make one.
        Packet::Auth(_) => false,
        _ => true,
    }
}

/// How each of us takes a packet: true is accepted.
struct Disagreement {
    what: &'static str,
    version: ProtocolVersion,
    packet: &'static str,
    /// Ours, mqttbytes', mqttbytes-ng's. At least one differs, or the row is to go.
    accepted: (bool, bool, bool),
}

#[rustfmt::skip]
const DISAGREEMENTS: &[Disagreement] = &[
    row("SUBSCRIBE with flags 0", V3, "80 06 00 01 00 01 61 00", (false, true, true)),
    row("SUBSCRIBE with flags 0", V5, "80 07 00 01 00 00 01 61 00", (false, true, true)),
    row("PINGREQ with flags", V3, "c1 00", (false, true, true)),
    row("CONNECT with flags", V3, "1f 0d 00 04 4d 51 54 54 04 02 00 3c 00 01 61", (false, true, true)),
    row("PUBLISH to a wildcard", V3, "30 03 00 01 2b", (false, true, true)),
    row("PUBLISH to a wildcard", V5, "30 04 00 01 23 00", (false, true, true)),
    row("PUBLISH to a topic with U+0000", V3, "30 04 00 02 61 00", (false, true, true)),
    row("PUBLISH to a topic with U+0001", V5, "30 05 00 02 61 01 00", (false, true, true)),
    row("PUBLISH to no topic", V3, "30 02 00 00", (false, true, true)),
    row("PUBLISH to no topic, and no alias", V5, "30 03 00 00 00", (false, true, true)),
    row("PUBLISH with DUP and QoS 0", V3, "38 03 00 01 61", (false, true, true)),
    row("PUBLISH with Topic Alias 0", V5, "30 07 00 01 61 03 23 00 00", (false, true, true)),
    row("PUBLISH with two Topic Aliases", V5, "30 0a 00 01 61 06 23 00 01 23 00 01", (false, true, true)),
    row("PUBLISH with Payload Format Indicator 2", V5, "30 06 00 01 61 02 01 02", (false, true, true)),
    row("PUBLISH with Subscription Identifier 0", V5, "30 06 00 01 61 02 0b 00", (false, true, true)),
    row("PUBLISH with a wildcard in the Response Topic", V5, "30 08 00 01 61 04 08 00 01 2b", (false, true, true)),
    row("PUBLISH with an over-long Property Length", V5, "30 05 00 01 61 80 00", (false, true, true)),
    row("SUBSCRIBE without filters", V3, "82 02 00 01", (false, true, false)),
    row("SUBSCRIBE without filters", V5, "82 03 00 01 00", (false, true, false)),
    row("SUBSCRIBE with an empty filter", V3, "82 05 00 01 00 00 00", (false, true, true)),
    row("SUBSCRIBE to `a#`", V3, "82 07 00 01 00 02 61 23 00", (false, true, true)),
    row("SUBSCRIBE with reserved option bits", V3, "82 06 00 01 00 01 61 80", (false, true, true)),
    row("SUBSCRIBE with reserved option bits", V5, "82 07 00 01 00 00 01 61 c0", (false, true, true)),
    row("SUBSCRIBE with packet id 0", V3, "82 06 00 00 00 01 61 00", (false, true, true)),
    row("SUBSCRIBE with No Local on a share", V5, "82 10 00 01 00 00 0a 24 73 68 61 72 65 2f 70 2f 70 04", (false, true, true)),
    row("SUBSCRIBE with two Subscription Identifiers", V5, "82 0b 00 01 04 0b 01 0b 02 00 01 61 00", (false, true, true)),
    row("SUBSCRIBE with Subscription Identifier 0", V5, "82 09 00 01 02 0b 00 00 01 61 00", (false, true, true)),
    row("UNSUBSCRIBE without filters", V3, "a2 02 00 01", (false, true, true)),
    row("PUBACK with packet id 0", V3, "40 02 00 00", (false, true, true)),
    row("PUBACK with a byte too many", V3, "40 03 00 01 00", (false, true, true)),
    row("CONNECT with the reserved flag", V3, "10 0d 00 04 4d 51 54 54 04 03 00 3c 00 01 61", (false, true, true)),
    row("CONNECT with trailing bytes", V3, "10 0e 00 04 4d 51 54 54 04 02 00 3c 00 01 61 00", (false, true, true)),
    row("CONNECT with a Password and no User Name", V3, "10 10 00 04 4d 51 54 54 04 42 00 3c 00 01 61 00 01 70", (false, true, true)),
    row("CONNECT with no Client Identifier and no clean session", V3, "10 0c 00 04 4d 51 54 54 04 00 00 3c 00 00", (false, true, true)),
    row("CONNECT with a binary Password", V3, "10 13 00 04 4d 51 54 54 04 c2 00 3c 00 01 61 00 01 75 00 01 ff", (true, false, false)),
    row("CONNECT of a bridge", V3, "10 0d 00 04 4d 51 54 54 84 02 00 3c 00 01 61", (true, false, false)),
    row("CONNECT of 3.1", V3, "10 0f 00 06 4d 51 49 73 64 70 03 02 00 3c 00 01 61", (true, false, false)),
    row("CONNECT with two Session Expiry Intervals", V5, "10 18 00 04 4d 51 54 54 05 02 00 3c 0a 11 00 00 00 01 11 00 00 00 01 00 01 61", (false, true, true)),
    row("CONNECT with Receive Maximum 0", V5, "10 11 00 04 4d 51 54 54 05 02 00 3c 03 21 00 00 00 01 61", (false, true, true)),
    row("CONNECT with Authentication Data and no method", V5, "10 12 00 04 4d 51 54 54 05 02 00 3c 04 16 00 01 61 00 01 61", (false, true, true)),
    row("CONNACK with reserved flags", V3, "20 02 02 00", (false, true, true)),
    row("CONNACK with Session Present beside an error", V3, "20 02 01 05", (false, true, true)),
    row("DISCONNECT of length 0", V5, "e0 00", (true, false, true)),
    row("DISCONNECT of length 1", V5, "e0 01 04", (true, false, false)),
    row("DISCONNECT with 0x8C", V5, "e0 02 8c 00", (true, false, false)),
    row("DISCONNECT with a body", V3, "e0 01 00", (false, true, true)),
    row("AUTH", V5, "f0 02 18 00", (true, false, false)),
    row("AUTH of length 0", V5, "f0 00", (true, false, false)),
    row("PINGREQ with an over-long length", V3, "c0 80 00", (false, true, true)),
    row("PINGREQ with a body", V3, "c0 01 00", (false, true, true)),
];

const fn row(
    what: &'static str,
    version: ProtocolVersion,
    packet: &'static str,
    accepted: (bool, bool, bool),
) -> Disagreement {
    Disagreement {
        what,
        version,
        packet,
        accepted,
    }
}

#[test]
fn the_known_disagreements_are_still_there() {
    let mut changed = Vec::new();
    for row in DISAGREEMENTS {
        let packet = hex(row.packet);
        let ours = decode(&packet, row.version, &Limits::PROTOCOL).is_ok();
        let (theirs, ngs) = if row.version == V5 {
            (old::v5_read(&packet).is_ok(), ng::v5_read(&packet).is_ok())
        } else {
            (old::v4_read(&packet).is_ok(), ng::v4_read(&packet).is_ok())
        };
        let now = (ours, theirs, ngs);
        if now != row.accepted || (theirs == ours && ngs == ours) {
            changed.push(format!(
                "{} ({}, {}): {now:?}",
                row.what, row.version, row.packet
            ));
        }
    }
    assert!(changed.is_empty(), "{}", changed.join("\n"));
}

/// Why `comparable` gives every CONNACK of 5.0 a property.
#[test]
fn mqttbytes_still_writes_a_connack_of_5_0_without_property_length() {
    let bytes = old::v5_write(&old::v5_read(&[0x20, 3, 0, 0, 0]).unwrap()).unwrap();
    assert_eq!(bytes, [0x20, 2, 0, 0]);
}

fn user(properties: Vec<(String, String)>) -> UserProperties {
    properties
        .into_iter()
        .map(|(name, value)| (name.into(), value.into()))
        .collect()
}

fn id(value: u16) -> PacketId {
    PacketId::new(value).unwrap()
}

fn text(value: Option<String>) -> Option<Box<str>> {
    value.map(Into::into)
}

fn flag(value: Option<u8>) -> Option<bool> {
    value.map(|value| {
        assert!(value < 2);
        value == 1
    })
}

/// A topic is a `String` in one of them and `Bytes` in the other.
trait Text {
    fn boxed(self) -> Box<str>;
}

impl Text for String {
    fn boxed(self) -> Box<str> {
        self.into()
    }
}

impl Text for Bytes {
    fn boxed(self) -> Box<str> {
        std::str::from_utf8(&self).unwrap().into()
    }
}

/// What is spelled the same in both of them.
macro_rules! views {
    ($lib:ident, $WillProperties:ident, $Filter:ident) => {
        fn qos($lib: $lib::QoS) -> QoS {
            QoS::from_u8($lib as u8).unwrap()
        }

        pub(super) fn v4_view(theirs: $lib::v4::Packet, like: &Packet) -> Packet {
            use $lib::v4::Packet as P;
            let mut packet = like.clone();
            match (theirs, &mut packet) {
                (P::Connect(theirs), Packet::Connect(ours)) => {
                    ours.keep_alive = theirs.keep_alive;
                    ours.client_id = theirs.client_id.boxed();
                    ours.clean_start = theirs.clean_session;
                    ours.will = theirs.last_will.map(|will| Will {
                        topic: will.topic.boxed(),
                        payload: will.message,
                        qos: qos(will.qos),
                        retain: will.retain,
                        properties: WillProperties::default(),
                    });
                    ours.username = theirs
                        .login
                        .as_ref()
                        .map(|login| login.username.clone().into());
                    ours.password = theirs.login.map(|login| login.password.into());
                }
                (P::ConnAck(theirs), Packet::Connack(ours)) => {
                    ours.session_present = theirs.session_present;
                }
                (P::Publish(theirs), Packet::Publish(ours)) => {
                    ours.dup = theirs.dup;
                    ours.qos = qos(theirs.qos);
                    ours.retain = theirs.retain;
                    ours.topic = theirs.topic.boxed();
                    ours.packet_id = PacketId::new(theirs.pkid);
                    ours.payload = theirs.payload;
                }
                (P::PubAck(theirs), Packet::Puback(ours)) => ours.packet_id = id(theirs.pkid),
                (P::PubRec(theirs), Packet::Pubrec(ours)) => ours.packet_id = id(theirs.pkid),
                (P::PubRel(theirs), Packet::Pubrel(ours)) => ours.packet_id = id(theirs.pkid),
                (P::PubComp(theirs), Packet::Pubcomp(ours)) => ours.packet_id = id(theirs.pkid),
                (P::Subscribe(theirs), Packet::Subscribe(ours)) => {
                    ours.packet_id = id(theirs.pkid);
                    assert_eq!(theirs.filters.len(), ours.filters.len());
                    for (filter, ours) in theirs.filters.into_iter().zip(&mut ours.filters) {
                        ours.topic_filter = filter.path.boxed();
                        ours.options.qos = qos(filter.qos);
                    }
                }
                (P::SubAck(theirs), Packet::Suback(ours)) => ours.packet_id = id(theirs.pkid),
                (P::Unsubscribe(theirs), Packet::Unsubscribe(ours)) => {
                    ours.packet_id = id(theirs.pkid);
                    ours.topic_filters = theirs.topics.into_iter().map(Text::boxed).collect();
                }
                (P::UnsubAck(theirs), Packet::Unsuback(ours)) => ours.packet_id = id(theirs.pkid),
                (P::PingReq, Packet::Pingreq)
                | (P::PingResp, Packet::Pingresp)
                | (P::Disconnect, Packet::Disconnect(_)) => {}
                (theirs, _) => panic!("another packet: {theirs:?}"),
            }
            packet
        }

        /// All packets but CONNECT and the pings, which the two spell differently.
        fn v5_view_common(theirs: $lib::v5::Packet, like: &Packet) -> Packet {
            use $lib::v5::Packet as P;
            let mut packet = like.clone();
            macro_rules! acknowledgement {
                ($theirs:ident, $ours:ident) => {{
                    $ours.packet_id = id($theirs.pkid);
                    $ours.properties = $theirs.properties.map_or_else(Default::default, |p| {
                        AcknowledgementProperties {
                            reason_string: text(p.reason_string),
                            user_properties: user(p.user_properties),
                        }
                    });
                }};
            }
            match (theirs, &mut packet) {
                (P::ConnAck(theirs), Packet::Connack(ours)) => {
                    ours.session_present = theirs.session_present;
                    ours.properties = theirs.properties.map_or_else(Default::default, connack);
                }
                (P::Publish(theirs), Packet::Publish(ours)) => {
                    ours.dup = theirs.dup;
                    ours.qos = qos(theirs.qos);
                    ours.retain = theirs.retain;
                    ours.topic = theirs.topic.boxed();
                    ours.packet_id = PacketId::new(theirs.pkid);
                    ours.payload = theirs.payload;
                    ours.properties = theirs.properties.map_or_else(Default::default, publish);
                }
                (P::PubAck(theirs), Packet::Puback(ours)) => acknowledgement!(theirs, ours),
                (P::PubRec(theirs), Packet::Pubrec(ours)) => acknowledgement!(theirs, ours),
                (P::PubRel(theirs), Packet::Pubrel(ours)) => acknowledgement!(theirs, ours),
                (P::PubComp(theirs), Packet::Pubcomp(ours)) => acknowledgement!(theirs, ours),
                (P::SubAck(theirs), Packet::Suback(ours)) => acknowledgement!(theirs, ours),
                (P::UnsubAck(theirs), Packet::Unsuback(ours)) => acknowledgement!(theirs, ours),
                (P::Subscribe(theirs), Packet::Subscribe(ours)) => {
                    ours.packet_id = id(theirs.pkid);
                    ours.properties =
                        theirs
                            .properties
                            .map_or_else(Default::default, |p| SubscribeProperties {
                                subscription_identifier: p.id.map(|id| u32::try_from(id).unwrap()),
                                user_properties: user(p.user_properties),
                            });
                    assert_eq!(theirs.filters.len(), ours.filters.len());
                    for (filter, ours) in theirs.filters.into_iter().zip(&mut ours.filters) {
                        ours.options = options(&filter);
                        ours.topic_filter = filter.path.boxed();
                    }
                }
                (P::Unsubscribe(theirs), Packet::Unsubscribe(ours)) => {
                    ours.packet_id = id(theirs.pkid);
                    ours.topic_filters = theirs.filters.into_iter().map(Text::boxed).collect();
                    ours.properties = theirs.properties.map_or_else(Default::default, |p| {
                        UnsubscribeProperties {
                            user_properties: user(p.user_properties),
                        }
                    });
                }
                (P::Disconnect(theirs), Packet::Disconnect(ours)) => {
                    // The only Reason Codes that are numbers in both of them.
                    ours.reason_code = ReasonCode::from_u8(theirs.reason_code as u8).unwrap();
                    ours.properties =
                        theirs
                            .properties
                            .map_or_else(Default::default, |p| DisconnectProperties {
                                session_expiry_interval: p.session_expiry_interval,
                                server_reference: text(p.server_reference),
                                reason_string: text(p.reason_string),
                                user_properties: user(p.user_properties),
                            });
                }
                (theirs, _) => panic!("another packet: {theirs:?}"),
            }
            packet
        }

        fn options(filter: &$lib::v5::$Filter) -> SubscriptionOptions {
            use $lib::v5::RetainForwardRule as R;
            SubscriptionOptions {
                qos: qos(filter.qos),
                no_local: filter.nolocal,
                retain_as_published: filter.preserve_retain,
                retain_handling: match filter.retain_forward_rule {
                    R::OnEverySubscribe => RetainHandling::Send,
                    R::OnNewSubscribe => RetainHandling::SendIfNew,
                    R::Never => RetainHandling::DoNotSend,
                },
            }
        }

        fn will(will: $lib::v5::LastWill) -> Will {
            Will {
                topic: will.topic.boxed(),
                payload: will.message,
                qos: qos(will.qos),
                retain: will.retain,
                properties: will
                    .properties
                    .map_or_else(Default::default, |p| WillProperties {
                        will_delay_interval: p.delay_interval,
                        payload_format_indicator: flag(p.payload_format_indicator),
                        message_expiry_interval: p.message_expiry_interval,
                        content_type: text(p.content_type),
                        response_topic: text(p.response_topic),
                        correlation_data: p.correlation_data,
                        user_properties: user(p.user_properties),
                    }),
            }
        }

        fn connect(p: $lib::v5::ConnectProperties) -> ConnectProperties {
            ConnectProperties {
                session_expiry_interval: p.session_expiry_interval,
                receive_maximum: p.receive_maximum.and_then(NonZeroU16::new),
                maximum_packet_size: p.max_packet_size.and_then(NonZeroU32::new),
                topic_alias_maximum: p.topic_alias_max,
                request_response_information: flag(p.request_response_info),
                request_problem_information: flag(p.request_problem_info),
                user_properties: user(p.user_properties),
                authentication_method: text(p.authentication_method),
                authentication_data: p.authentication_data,
            }
        }

        fn connack(p: $lib::v5::ConnAckProperties) -> ConnackProperties {
            ConnackProperties {
                session_expiry_interval: p.session_expiry_interval,
                assigned_client_identifier: text(p.assigned_client_identifier),
                server_keep_alive: p.server_keep_alive,
                topic_alias_maximum: p.topic_alias_max,
                maximum_packet_size: p.max_packet_size.and_then(NonZeroU32::new),
                receive_maximum: p.receive_max.and_then(NonZeroU16::new),
                maximum_qos: p.max_qos.and_then(QoS::from_u8),
                retain_available: flag(p.retain_available),
                wildcard_subscription_available: flag(p.wildcard_subscription_available),
                subscription_identifier_available: flag(p.subscription_identifiers_available),
                shared_subscription_available: flag(p.shared_subscription_available),
                response_information: text(p.response_information),
                server_reference: text(p.server_reference),
                authentication_method: text(p.authentication_method),
                authentication_data: p.authentication_data,
                reason_string: text(p.reason_string),
                user_properties: user(p.user_properties),
            }
        }

        fn publish(p: $lib::v5::PublishProperties) -> PublishProperties {
            PublishProperties {
                payload_format_indicator: flag(p.payload_format_indicator),
                message_expiry_interval: p.message_expiry_interval,
                topic_alias: p.topic_alias.and_then(NonZeroU16::new),
                response_topic: text(p.response_topic),
                correlation_data: p.correlation_data,
                content_type: text(p.content_type),
                subscription_identifiers: p
                    .subscription_identifiers
                    .into_iter()
                    .map(|id| u32::try_from(id).unwrap())
                    .collect(),
                user_properties: user(p.user_properties),
            }
        }
    };
}

mod old {
    use super::*;

    views!(mqttbytes, WillProperties, SubscribeFilter);

    pub(super) fn v4_read(bytes: &[u8]) -> Result<mqttbytes::v4::Packet, String> {
        mqttbytes::v4::read(&mut BytesMut::from(bytes), usize::MAX).map_err(|e| format!("{e:?}"))
    }

    pub(super) fn v5_read(bytes: &[u8]) -> Result<mqttbytes::v5::Packet, String> {
        mqttbytes::v5::read(&mut BytesMut::from(bytes), usize::MAX).map_err(|e| format!("{e:?}"))
    }

    pub(super) fn v5_view(theirs: mqttbytes::v5::Packet, like: &Packet) -> Packet {
        use mqttbytes::v5::Packet as P;
        match (theirs, like) {
            (P::PingReq, Packet::Pingreq) | (P::PingResp, Packet::Pingresp) => like.clone(),
            (P::Connect(theirs), Packet::Connect(ours)) => {
                let mut ours = ours.clone();
                ours.keep_alive = theirs.keep_alive;
                ours.client_id = theirs.client_id.boxed();
                ours.clean_start = theirs.clean_session;
                ours.will = theirs.last_will.map(will);
                ours.username = theirs
                    .login
                    .as_ref()
                    .map(|login| login.username.clone().into());
                ours.password = theirs.login.map(|login| login.password.into());
                ours.properties = theirs.properties.map_or_else(Default::default, connect);
                Packet::Connect(ours)
            }
            (theirs, _) => v5_view_common(theirs, like),
        }
    }

    macro_rules! write {
        ($version:ident, $packet:ident, $disconnect:pat => $write_disconnect:expr) => {{
            use mqttbytes::$version::{Packet as P, PingReq, PingResp};
            let mut out = BytesMut::new();
            let written = match $packet {
                P::Connect(packet) => packet.write(&mut out),
                P::ConnAck(packet) => packet.write(&mut out),
                P::Publish(packet) => packet.write(&mut out),
                P::PubAck(packet) => packet.write(&mut out),
                P::PubRec(packet) => packet.write(&mut out),
                P::PubRel(packet) => packet.write(&mut out),
                P::PubComp(packet) => packet.write(&mut out),
                P::Subscribe(packet) => packet.write(&mut out),
                P::SubAck(packet) => packet.write(&mut out),
                P::Unsubscribe(packet) => packet.write(&mut out),
                P::UnsubAck(packet) => packet.write(&mut out),
                P::PingReq => PingReq.write(&mut out),
                P::PingResp => PingResp.write(&mut out),
                $disconnect => $write_disconnect(&mut out),
            };
            written.map_err(|e| format!("{e:?}"))?;
            Ok(out.to_vec())
        }};
    }

    pub(super) fn v4_write(packet: &mqttbytes::v4::Packet) -> Result<Vec<u8>, String> {
        write!(v4, packet, P::Disconnect => |out| mqttbytes::v4::Disconnect.write(out))
    }

    pub(super) fn v5_write(packet: &mqttbytes::v5::Packet) -> Result<Vec<u8>, String> {
        write!(v5, packet, P::Disconnect(packet) => |out| packet.write(out))
    }
}

mod ng {
    use super::*;

    views!(mqttbytes_ng, LastWillProperties, Filter);

    pub(super) fn v4_read(bytes: &[u8]) -> Result<mqttbytes_ng::v4::Packet, String> {
        mqttbytes_ng::v4::Packet::read(&mut BytesMut::from(bytes), usize::MAX)
            .map_err(|e| format!("{e:?}"))
    }

    pub(super) fn v4_write(packet: &mqttbytes_ng::v4::Packet) -> Result<Vec<u8>, String> {
        let mut out = BytesMut::new();
        packet
            .write(&mut out, usize::MAX)
            .map_err(|e| format!("{e:?}"))?;
        Ok(out.to_vec())
    }

    pub(super) fn v5_read(bytes: &[u8]) -> Result<mqttbytes_ng::v5::Packet, String> {
        mqttbytes_ng::v5::Packet::read(&mut BytesMut::from(bytes), None)
            .map_err(|e| format!("{e:?}"))
    }

    pub(super) fn v5_write(packet: &mqttbytes_ng::v5::Packet) -> Result<Vec<u8>, String> {
        let mut out = BytesMut::new();
        packet.write(&mut out, None).map_err(|e| format!("{e:?}"))?;
        Ok(out.to_vec())
    }

    pub(super) fn v5_view(theirs: mqttbytes_ng::v5::Packet, like: &Packet) -> Packet {
        use mqttbytes_ng::v5::Packet as P;
        match (theirs, like) {
            (P::PingReq(_), Packet::Pingreq) | (P::PingResp(_), Packet::Pingresp) => like.clone(),
            (P::Connect(theirs, last_will, login), Packet::Connect(ours)) => {
                let mut ours = ours.clone();
                ours.keep_alive = theirs.keep_alive;
                ours.client_id = theirs.client_id.boxed();
                ours.clean_start = theirs.clean_start;
                ours.will = last_will.map(will);
                ours.username = login.as_ref().map(|login| login.username.clone().into());
                ours.password = login.map(|login| login.password.into());
                ours.properties = theirs.properties.map_or_else(Default::default, connect);
                Packet::Connect(ours)
            }
            (theirs, _) => v5_view_common(theirs, like),
        }
    }
}

fn hex(text: &str) -> Vec<u8> {
    text.split_whitespace()
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect()
}
