//! Any packet of any version, for the property tests: `packet(version)` gives values that can be written and read back as they are.
// Each test program uses its part.
#![allow(dead_code)]

use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;
use nightjar_codec::{
    Acknowledgement, AcknowledgementProperties, Auth, AuthProperties, Connack, ConnackProperties,
    Connect, ConnectProperties, Disconnect, DisconnectProperties, Packet, PacketId, PacketType,
    ProtocolVersion, Publish, PublishProperties, QoS, ReasonCode, RetainHandling, Suback,
    Subscribe, SubscribeFilter, SubscribeProperties, SubscriptionOptions, Unsuback, Unsubscribe,
    UnsubscribeProperties, UserProperties, Will, WillProperties,
};
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

pub(crate) const VERSIONS: [ProtocolVersion; 3] = [
    ProtocolVersion::V3_1,
    ProtocolVersion::V3_1_1,
    ProtocolVersion::V5,
];

/// So many cases. A failure prints its packet, and becomes a test of its own; no file is kept.
pub(crate) fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(cases)
    }
}

pub(crate) fn version() -> impl Strategy<Value = ProtocolVersion> {
    prop::sample::select(&VERSIONS[..])
}

pub(crate) fn packet(version: ProtocolVersion) -> BoxedStrategy<Packet> {
    let acknowledgement = move |packet_type| acknowledgement(packet_type, version);
    let mut packets = vec![
        connect(version)
            .prop_map(|p| Packet::Connect(Box::new(p)))
            .boxed(),
        connack(version).prop_map(Packet::Connack).boxed(),
        publish(version).prop_map(Packet::Publish).boxed(),
        acknowledgement(PacketType::Puback)
            .prop_map(Packet::Puback)
            .boxed(),
        acknowledgement(PacketType::Pubrec)
            .prop_map(Packet::Pubrec)
            .boxed(),
        acknowledgement(PacketType::Pubrel)
            .prop_map(Packet::Pubrel)
            .boxed(),
        acknowledgement(PacketType::Pubcomp)
            .prop_map(Packet::Pubcomp)
            .boxed(),
        subscribe(version).prop_map(Packet::Subscribe).boxed(),
        suback(version).prop_map(Packet::Suback).boxed(),
        unsubscribe(version).prop_map(Packet::Unsubscribe).boxed(),
        unsuback(version).prop_map(Packet::Unsuback).boxed(),
        Just(Packet::Pingreq).boxed(),
        Just(Packet::Pingresp).boxed(),
        disconnect(version).prop_map(Packet::Disconnect).boxed(),
    ];
    if version.is_v5() {
        packets.push(auth().prop_map(Packet::Auth).boxed());
    }
    prop::strategy::Union::new(packets).boxed()
}

pub(crate) fn connect(version: ProtocolVersion) -> impl Strategy<Value = Connect> {
    let properties = v5_only(version, connect_properties());
    (
        any::<bool>(),
        any::<bool>(),
        any::<u16>(),
        text(),
        of(will(version)),
        of(text()),
        of(binary()),
        properties,
    )
        .prop_map(
            move |(
                bridge,
                clean_start,
                keep_alive,
                client_id,
                will,
                username,
                password,
                properties,
            )| {
                let may_be_empty =
                    version.is_v5() || (version == ProtocolVersion::V3_1_1 && clean_start);
                let client_id = if client_id.is_empty() && !may_be_empty {
                    "c".into()
                } else {
                    client_id
                };
                let password = password.filter(|_| version.is_v5() || username.is_some());
                Connect {
                    protocol_version: version,
                    bridge,
                    clean_start,
                    keep_alive,
                    client_id,
                    will,
                    username,
                    password,
                    properties,
                }
            },
        )
}

fn connect_properties() -> impl Strategy<Value = ConnectProperties> {
    (
        of(any::<u32>()),
        of(any::<NonZeroU16>()),
        of(any::<NonZeroU32>()),
        of(any::<u16>()),
        of(any::<bool>()),
        of(any::<bool>()),
        user_properties(),
        of(text()),
        of(binary()),
    )
        .prop_map(
            |(session_expiry, receive, size, alias, response, problem, user, method, data)| {
                ConnectProperties {
                    session_expiry_interval: session_expiry,
                    receive_maximum: receive,
                    maximum_packet_size: size,
                    topic_alias_maximum: alias,
                    request_response_information: response,
                    request_problem_information: problem,
                    user_properties: user,
                    authentication_data: data.filter(|_| method.is_some()),
                    authentication_method: method,
                }
            },
        )
}

fn will(version: ProtocolVersion) -> impl Strategy<Value = Will> {
    let properties = (
        of(any::<u32>()),
        of(any::<bool>()),
        of(any::<u32>()),
        of(text()),
        of(topic_name()),
        of(binary()),
        user_properties(),
    )
        .prop_map(
            |(delay, format, expiry, content_type, response_topic, data, user)| WillProperties {
                will_delay_interval: delay,
                payload_format_indicator: format,
                message_expiry_interval: expiry,
                content_type,
                response_topic,
                correlation_data: data,
                user_properties: user,
            },
        );
    (
        topic_name(),
        binary(),
        qos(),
        any::<bool>(),
        v5_only(version, properties),
    )
        .prop_map(|(topic, payload, qos, retain, properties)| Will {
            topic,
            payload,
            qos,
            retain,
            properties,
        })
}

pub(crate) fn connack(version: ProtocolVersion) -> impl Strategy<Value = Connack> {
    let reason_code = if version.is_v5() {
        reason_code(PacketType::Connack).boxed()
    } else {
        (0..=5_u8)
            .prop_map(|code| ReasonCode::from_connect_return_code(code).unwrap())
            .boxed()
    };
    (
        any::<bool>(),
        reason_code,
        v5_only(version, connack_properties()),
    )
        .prop_map(move |(session_present, reason_code, properties)| Connack {
            session_present: session_present
                && !reason_code.is_error()
                && version != ProtocolVersion::V3_1,
            reason_code,
            properties,
        })
}

fn connack_properties() -> impl Strategy<Value = ConnackProperties> {
    let flag = || of(any::<bool>());
    let numbers = (
        of(any::<u32>()),
        of(any::<u16>()),
        of(any::<u16>()),
        of(any::<NonZeroU32>()),
        of(any::<NonZeroU16>()),
        of(prop_oneof![Just(QoS::AtMostOnce), Just(QoS::AtLeastOnce)]),
    );
    let flags = (flag(), flag(), flag(), flag());
    let texts = (
        of(text()),
        of(text()),
        of(text()),
        of(text()),
        of(binary()),
        of(text()),
        user_properties(),
    );
    (numbers, flags, texts).prop_map(|(numbers, flags, texts)| ConnackProperties {
        session_expiry_interval: numbers.0,
        server_keep_alive: numbers.1,
        topic_alias_maximum: numbers.2,
        maximum_packet_size: numbers.3,
        receive_maximum: numbers.4,
        maximum_qos: numbers.5,
        retain_available: flags.0,
        wildcard_subscription_available: flags.1,
        subscription_identifier_available: flags.2,
        shared_subscription_available: flags.3,
        assigned_client_identifier: texts.0,
        response_information: texts.1,
        server_reference: texts.2,
        authentication_method: texts.3,
        authentication_data: texts.4,
        reason_string: texts.5,
        user_properties: texts.6,
    })
}

pub(crate) fn publish(version: ProtocolVersion) -> impl Strategy<Value = Publish> {
    (
        any::<bool>(),
        qos(),
        any::<bool>(),
        topic_name(),
        packet_id(),
        v5_only(version, publish_properties()),
        payload(),
        any::<bool>(),
    )
        .prop_map(
            |(dup, qos, retain, topic, packet_id, properties, payload, leave_out)| {
                let by_alias = leave_out && properties.topic_alias.is_some();
                Publish {
                    dup: dup && qos > QoS::AtMostOnce,
                    qos,
                    retain,
                    topic: if by_alias { "".into() } else { topic },
                    packet_id: (qos > QoS::AtMostOnce).then_some(packet_id),
                    properties,
                    payload,
                }
            },
        )
}

fn publish_properties() -> impl Strategy<Value = PublishProperties> {
    (
        of(any::<bool>()),
        of(any::<u32>()),
        of(any::<NonZeroU16>()),
        of(topic_name()),
        of(binary()),
        of(text()),
        vec(subscription_identifier(), 0..3),
        user_properties(),
    )
        .prop_map(
            |(format, expiry, alias, response_topic, data, content_type, ids, user)| {
                PublishProperties {
                    payload_format_indicator: format,
                    message_expiry_interval: expiry,
                    topic_alias: alias,
                    response_topic,
                    correlation_data: data,
                    content_type,
                    subscription_identifiers: ids,
                    user_properties: user,
                }
            },
        )
}

pub(crate) fn acknowledgement(
    packet_type: PacketType,
    version: ProtocolVersion,
) -> impl Strategy<Value = Acknowledgement> {
    let reason_code = if version.is_v5() {
        reason_code(packet_type).boxed()
    } else {
        Just(ReasonCode::Success).boxed()
    };
    (
        packet_id(),
        reason_code,
        acknowledgement_properties(version),
    )
        .prop_map(|(packet_id, reason_code, properties)| Acknowledgement {
            packet_id,
            reason_code,
            properties,
        })
}

fn acknowledgement_properties(
    version: ProtocolVersion,
) -> impl Strategy<Value = AcknowledgementProperties> {
    let properties =
        (of(text()), user_properties()).prop_map(|(reason_string, user_properties)| {
            AcknowledgementProperties {
                reason_string,
                user_properties,
            }
        });
    v5_only(version, properties)
}

pub(crate) fn subscribe(version: ProtocolVersion) -> impl Strategy<Value = Subscribe> {
    let properties = (of(subscription_identifier()), user_properties()).prop_map(
        |(subscription_identifier, user_properties)| SubscribeProperties {
            subscription_identifier,
            user_properties,
        },
    );
    let filter = (topic_filter(), options(version)).prop_map(|(topic_filter, options)| {
        let no_local = options.no_local && !topic_filter.starts_with("$share/");
        SubscribeFilter {
            topic_filter,
            options: SubscriptionOptions {
                no_local,
                ..options
            },
        }
    });
    (packet_id(), v5_only(version, properties), vec(filter, 1..4)).prop_map(
        |(packet_id, properties, filters)| Subscribe {
            packet_id,
            properties,
            filters,
        },
    )
}

fn options(version: ProtocolVersion) -> impl Strategy<Value = SubscriptionOptions> {
    let retain_handling = prop_oneof![
        Just(RetainHandling::Send),
        Just(RetainHandling::SendIfNew),
        Just(RetainHandling::DoNotSend)
    ];
    (qos(), any::<bool>(), any::<bool>(), retain_handling).prop_map(
        move |(qos, no_local, retain_as_published, retain_handling)| {
            let options = SubscriptionOptions {
                qos,
                no_local,
                retain_as_published,
                retain_handling,
            };
            if version.is_v5() {
                options
            } else {
                SubscriptionOptions {
                    qos,
                    ..SubscriptionOptions::default()
                }
            }
        },
    )
}

pub(crate) fn suback(version: ProtocolVersion) -> impl Strategy<Value = Suback> {
    let reason_code = if version.is_v5() {
        reason_code(PacketType::Suback).boxed()
    } else {
        prop::sample::select(vec![0_u8, 1, 2, 0x80])
            .prop_map(|code| ReasonCode::from_u8(code).unwrap())
            .boxed()
    };
    (
        packet_id(),
        vec(reason_code, 1..4),
        acknowledgement_properties(version),
    )
        .prop_map(|(packet_id, reason_codes, properties)| Suback {
            packet_id,
            reason_codes,
            properties,
        })
}

pub(crate) fn unsubscribe(version: ProtocolVersion) -> impl Strategy<Value = Unsubscribe> {
    let properties =
        user_properties().prop_map(|user_properties| UnsubscribeProperties { user_properties });
    (
        packet_id(),
        v5_only(version, properties),
        vec(topic_filter(), 1..4),
    )
        .prop_map(|(packet_id, properties, topic_filters)| Unsubscribe {
            packet_id,
            properties,
            topic_filters,
        })
}

pub(crate) fn unsuback(version: ProtocolVersion) -> impl Strategy<Value = Unsuback> {
    let codes = if version.is_v5() { 1..4 } else { 0..1 };
    (
        packet_id(),
        vec(reason_code(PacketType::Unsuback), codes),
        acknowledgement_properties(version),
    )
        .prop_map(|(packet_id, reason_codes, properties)| Unsuback {
            packet_id,
            reason_codes,
            properties,
        })
}

pub(crate) fn disconnect(version: ProtocolVersion) -> impl Strategy<Value = Disconnect> {
    let properties = (of(any::<u32>()), of(text()), of(text()), user_properties()).prop_map(
        |(session_expiry_interval, server_reference, reason_string, user_properties)| {
            DisconnectProperties {
                session_expiry_interval,
                server_reference,
                reason_string,
                user_properties,
            }
        },
    );
    let value =
        (reason_code(PacketType::Disconnect), properties).prop_map(|(reason_code, properties)| {
            Disconnect {
                reason_code,
                properties,
            }
        });
    if version.is_v5() {
        value.boxed()
    } else {
        Just(Disconnect::with_reason(ReasonCode::Success)).boxed()
    }
}

pub(crate) fn auth() -> impl Strategy<Value = Auth> {
    (
        reason_code(PacketType::Auth),
        of(text()),
        of(binary()),
        of(text()),
        user_properties(),
    )
        .prop_map(
            |(reason_code, method, data, reason_string, user_properties)| Auth {
                reason_code,
                properties: AuthProperties {
                    authentication_data: data.filter(|_| method.is_some()),
                    authentication_method: method,
                    reason_string,
                    user_properties,
                },
            },
        )
}

pub(crate) fn reason_code(packet_type: PacketType) -> impl Strategy<Value = ReasonCode> {
    let codes: Vec<_> = ReasonCode::ALL
        .iter()
        .copied()
        .filter(|code| code.is_allowed_in(packet_type))
        .collect();
    prop::sample::select(codes)
}

pub(crate) fn topic_name() -> impl Strategy<Value = Box<str>> {
    prop_oneof![
        "[ -~&&[^+#]]{1,24}",
        "(/|a|é|\u{1f70f}|\u{feff}|\\$){1,9}",
        "[a-c/]{120,140}"
    ]
    .prop_map(|topic: String| {
        let topic: String = topic.chars().filter(|&c| is_plain(c)).collect();
        if topic.is_empty() || topic.starts_with("$CONTROL/") {
            "t".into()
        } else {
            topic.into()
        }
    })
}

pub(crate) fn topic_filter() -> impl Strategy<Value = Box<str>> {
    prop_oneof![
        topic_name().boxed(),
        "([a-b]?|\\+)(/([a-b]?|\\+)){0,4}(/#)?"
            .prop_map(|filter: String| if filter.is_empty() {
                "#".into()
            } else {
                filter.into()
            })
            .boxed(),
        "\\$share/[a-z]{1,3}/(a|\\+)(/#)?"
            .prop_map(|filter: String| filter.into())
            .boxed(),
    ]
}

pub(crate) fn text() -> impl Strategy<Value = Box<str>> {
    prop_oneof![
        Just(String::new()),
        "[ -~]{0,20}",
        ".{0,12}",
        "[a-z]{126,130}"
    ]
    .prop_map(|text: String| {
        text.chars()
            .filter(|&c| is_plain(c))
            .collect::<String>()
            .into()
    })
}

/// What the codec takes in a string.
fn is_plain(character: char) -> bool {
    !character.is_control()
        && !('\u{fdd0}'..='\u{fdef}').contains(&character)
        && (u32::from(character) & 0xfffe) != 0xfffe
}

pub(crate) fn binary() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

fn payload() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        8 => vec(any::<u8>(), 0..200).boxed(),
        1 => vec(any::<u8>(), 16_300..16_400).boxed(),
    ]
    .prop_map(Bytes::from)
}

fn user_properties() -> impl Strategy<Value = UserProperties> {
    vec((text(), text()), 0..3)
}

fn subscription_identifier() -> impl Strategy<Value = u32> {
    prop_oneof![
        1..=127_u32,
        Just(128),
        Just(16_383),
        Just(16_384),
        Just(2_097_151),
        Just(2_097_152),
        Just(268_435_455)
    ]
}

fn qos() -> impl Strategy<Value = QoS> {
    prop_oneof![
        Just(QoS::AtMostOnce),
        Just(QoS::AtLeastOnce),
        Just(QoS::ExactlyOnce)
    ]
}

pub(crate) fn packet_id() -> impl Strategy<Value = PacketId> {
    (1..=u16::MAX).prop_map(|id| PacketId::new(id).unwrap())
}

fn v5_only<T, S>(version: ProtocolVersion, strategy: S) -> BoxedStrategy<T>
where
    T: Default + Clone + core::fmt::Debug + 'static,
    S: Strategy<Value = T> + 'static,
{
    if version.is_v5() {
        // None at all is the usual case, and has its own short forms.
        prop_oneof![1 => Just(T::default()), 3 => strategy].boxed()
    } else {
        Just(T::default()).boxed()
    }
}
