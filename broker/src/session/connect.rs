//! CONNECT (3.1): what a client may ask for, and what CONNACK tells it.

use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;

use bytes::Bytes;
use nightjar_codec::packet::{Connack, ConnackProperties, Connect};
use nightjar_codec::{ProtocolVersion, QoS, ReasonCode};

use super::authorize::{Access, Entry};
use super::publish::may_publish_to;
use super::terms::Terms;
use super::will::Will;
use super::{LinkParameters, send_window};
use crate::identity::ConnectionId;
use crate::settings::{ListenerSettings, SecuritySettings, Settings};

/// A CONNECT that may be served. Whose session it gets is the shard's business.
pub struct Admitted {
    pub version: ProtocolVersion,
    pub clean_start: bool,
    pub user: Option<Box<str>>,
    pub will: Option<Box<Will>>,
    /// Where it comes in, and what it may do there; the shard finds both.
    pub entry: Option<Entry>,
    pub access: Option<Arc<Access>>,
    pub link: LinkParameters,
    /// The last step of an authentication method, for CONNACK.
    pub authentication_data: Option<Bytes>,
    /// Told in CONNACK.
    properties: ConnackProperties,
}

/// Whether a client id is to be assigned, and whether the client hears of it.
pub fn needs_client_id(connect: &Connect, security: &SecuritySettings) -> Result<bool, ReasonCode> {
    if !connect.client_id.is_empty() {
        return Ok(false);
    }
    match connect.protocol_version {
        // As Mosquitto says it.
        ProtocolVersion::V5 if !security.allow_zero_length_client_id => {
            Err(ReasonCode::UnspecifiedError)
        }
        ProtocolVersion::V5 => Ok(true), // [MQTT-3.1.3-6]
        // [v3 MQTT-3.1.3-8]: without an id there is nothing to come back to.
        ProtocolVersion::V3_1_1 if connect.clean_start && security.allow_zero_length_client_id => {
            Ok(true)
        }
        ProtocolVersion::V3_1_1 | ProtocolVersion::V3_1 => {
            Err(ReasonCode::ClientIdentifierNotValid)
        }
    }
}

/// Checks everything in a CONNECT that does not depend on other sessions. Who sent it is settled by then. Consumes the will.
pub fn admit(
    connect: &mut Connect,
    connection: ConnectionId,
    settings: &Settings,
    listener: &ListenerSettings,
) -> Result<Admitted, ReasonCode> {
    let version = connect.protocol_version;
    let terms = Terms::new(settings, listener);
    let mut will = connect
        .will
        .take()
        .map(|will| Box::new(Will::from_connect(will)));
    if let Some(will) = &mut will {
        if will.qos as u8 > terms.maximum_qos {
            return Err(ReasonCode::QoSNotSupported); // [MQTT-3.2.2-12]
        }
        if will.retain && !settings.retain_available {
            return Err(ReasonCode::RetainNotSupported); // [MQTT-3.2.2-13]
        }
        if !may_publish_to(&will.topic) {
            return Err(ReasonCode::NotAuthorized);
        }
        if terms.is_mounted() {
            let whole = terms.mounted_topic(&will.topic);
            will.topic = (&*whole.ok_or(ReasonCode::TopicNameInvalid)?).into();
        }
    }
    let asked = &connect.properties;
    let mut properties = ConnackProperties::default();
    let keep_alive = admit_keep_alive(connect, settings, &mut properties)?;
    let expiry_interval = if version.is_v5() {
        let asked = asked.session_expiry_interval.unwrap_or(0);
        let granted = asked.min(settings.session_expiry_interval_max);
        if granted != asked {
            properties.session_expiry_interval = Some(granted); // 3.2.2.3.2
        }
        granted
    } else if connect.clean_start {
        0
    } else {
        settings.v3_session_expiry_interval
    };
    if version.is_v5() {
        announce(settings, &terms, &mut properties);
    }
    let link = LinkParameters {
        connection,
        clean_start: connect.clean_start,
        keep_alive,
        receive_maximum: send_window(asked.receive_maximum.map(NonZeroU16::get), settings),
        maximum_packet_size: asked.maximum_packet_size.map_or(u32::MAX, NonZeroU32::get),
        topic_alias_maximum: asked
            .topic_alias_maximum
            .unwrap_or(0)
            .min(terms.topic_alias_maximum_outbound),
        request_problem_information: asked.request_problem_information.unwrap_or(true),
        authentication_method: asked.authentication_method.clone(),
        expiry_interval,
        terms,
    };
    Ok(Admitted {
        version,
        clean_start: connect.clean_start,
        user: connect.username.take(),
        will,
        entry: None,
        access: None,
        link,
        authentication_data: None,
        properties,
    })
}

impl Admitted {
    /// The successful CONNACK.
    pub fn connack(&self, session_present: bool, assigned_client_id: Option<&str>) -> Connack {
        let mut properties = self.properties.clone();
        if self.version.is_v5() {
            properties.assigned_client_identifier = assigned_client_id.map(Into::into); // [MQTT-3.2.2-16]
            properties.authentication_method = self.link.authentication_method.clone();
            properties.authentication_data = self.authentication_data.clone();
        }
        Connack {
            // 3.1 has no Session Present: the byte is reserved there.
            session_present: session_present && self.version != ProtocolVersion::V3_1,
            reason_code: ReasonCode::Success,
            properties,
        }
    }
}

/// The CONNACK that refuses; Session Present is 0 [MQTT-3.2.2-6]. 3.x has a few codes only, and where none of them fits the
/// client is closed without one [v3 MQTT-3.2.2-6].
pub fn refusal(reason_code: ReasonCode, version: ProtocolVersion) -> Option<Connack> {
    let reason_code = match reason_code {
        ReasonCode::QuotaExceeded | ReasonCode::ServerBusy if !version.is_v5() => {
            ReasonCode::ServerUnavailable
        }
        other => other,
    };
    let can_be_said = version.is_v5() || reason_code.to_connect_return_code().is_some();
    can_be_said.then(|| Connack {
        session_present: false,
        reason_code,
        properties: ConnackProperties::default(),
    })
}

fn admit_keep_alive(
    connect: &Connect,
    settings: &Settings,
    properties: &mut ConnackProperties,
) -> Result<u16, ReasonCode> {
    let maximum = settings.keep_alive_max;
    if maximum == 0 || (1..=maximum).contains(&connect.keep_alive) {
        return Ok(connect.keep_alive);
    }
    if !connect.protocol_version.is_v5() {
        // 3.x has no way to say it, so such a client is refused, as Mosquitto does.
        return Err(ReasonCode::ClientIdentifierNotValid);
    }
    properties.server_keep_alive = Some(maximum); // [MQTT-3.1.2-21]
    Ok(maximum)
}

/// What every 5.0 client is told of our limits.
fn announce(settings: &Settings, terms: &Terms, properties: &mut ConnackProperties) {
    properties.topic_alias_maximum =
        (terms.topic_alias_maximum > 0).then_some(terms.topic_alias_maximum);
    properties.maximum_packet_size = NonZeroU32::new(settings.max_packet_size);
    properties.receive_maximum = NonZeroU16::new(settings.receive_maximum);
    properties.maximum_qos = match terms.maximum_qos {
        0 => Some(QoS::AtMostOnce),
        1 => Some(QoS::AtLeastOnce),
        _ => None,
    };
    properties.retain_available = (!settings.retain_available).then_some(false);
    properties.wildcard_subscription_available =
        (!settings.wildcard_subscription_available).then_some(false);
    properties.subscription_identifier_available =
        (!settings.subscription_identifier_available).then_some(false);
    properties.shared_subscription_available =
        (!settings.shared_subscription_available).then_some(false);
}
