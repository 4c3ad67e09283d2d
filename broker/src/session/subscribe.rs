//! SUBSCRIBE and UNSUBSCRIBE (3.8, 3.10), as far as one session can judge them. The exchange does the rest.

use nightjar_codec::packet::{Subscribe, SubscribeFilter};
use nightjar_codec::topic::{self, validate_topic_filter};
use nightjar_codec::{QoS, ReasonCode, RetainHandling};
use nightjar_storage::SubscriptionRecord;

use super::{Session, Violation};
use crate::identity::GroupId;
use crate::settings::Settings;

/// One subscription of a session. Its topic filter, as subscribed, is the key it is kept under.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// Granted, which may be lower than asked.
    pub qos: QoS,
    pub no_local: bool,
    pub retain_as_published: bool,
    pub retain_handling: RetainHandling,
    pub subscription_identifier: Option<u32>,
    /// The share group it joins, once it has.
    pub group: Option<GroupId>,
}

impl Subscription {
    pub fn record(&self) -> SubscriptionRecord {
        SubscriptionRecord {
            qos: self.qos,
            no_local: self.no_local,
            retain_as_published: self.retain_as_published,
            retain_handling: self.retain_handling,
            subscription_identifier: self.subscription_identifier,
        }
    }

    pub fn from_record(record: &SubscriptionRecord) -> Self {
        Self {
            qos: record.qos,
            no_local: record.no_local,
            retain_as_published: record.retain_as_published,
            retain_handling: record.retain_handling,
            subscription_identifier: record.subscription_identifier,
            group: None,
        }
    }

    /// The Reason Code that grants it.
    pub fn granted(&self) -> ReasonCode {
        match self.qos {
            QoS::AtMostOnce => ReasonCode::Success,
            QoS::AtLeastOnce => ReasonCode::GrantedQoS1,
            QoS::ExactlyOnce => ReasonCode::GrantedQoS2,
        }
    }
}

impl Session {
    /// What a SUBSCRIBE may not contain at all; nothing of it is done then.
    pub fn check_subscribe(
        &self,
        subscribe: &Subscribe,
        settings: &Settings,
    ) -> Result<(), Violation> {
        if subscribe.properties.subscription_identifier.is_some()
            && !settings.subscription_identifier_available
        {
            return Err(Violation::SubscriptionIdentifierNotSupported);
        }
        let no_local_on_shared = |filter: &SubscribeFilter| {
            filter.options.no_local && filter.topic_filter.starts_with("$share/")
        };
        if subscribe.filters.iter().any(no_local_on_shared) {
            return Err(Violation::NoLocalOnShared); // [MQTT-3.8.3-4]
        }
        Ok(())
    }

    /// What is granted for one topic filter, or the code that refuses it [MQTT-3.9.3-1]. `added` counts those of the same
    /// packet that are new to the session.
    pub fn grant(
        &self,
        filter: &SubscribeFilter,
        subscription_identifier: Option<u32>,
        added: &mut usize,
        settings: &Settings,
    ) -> Result<Subscription, ReasonCode> {
        let shared = topic::parse_shared(&filter.topic_filter)
            .map_err(|_| ReasonCode::TopicFilterInvalid)?;
        let inner = shared.map_or(&*filter.topic_filter, |(_, inner)| inner);
        validate_topic_filter(inner).map_err(|_| ReasonCode::TopicFilterInvalid)?;
        if inner.split('/').count() > usize::from(settings.topic_levels_max) {
            return Err(ReasonCode::TopicFilterInvalid);
        }
        if shared.is_some() && !settings.shared_subscription_available {
            return Err(ReasonCode::SharedSubscriptionsNotSupported);
        }
        if !settings.wildcard_subscription_available && inner.contains(['+', '#']) {
            return Err(ReasonCode::WildcardSubscriptionsNotSupported);
        }
        let is_new = !self.subscriptions.contains_key(&filter.topic_filter);
        if is_new {
            let count = self.subscriptions.len() + *added;
            if count >= settings.subscriptions_per_session_max as usize {
                return Err(ReasonCode::QuotaExceeded);
            }
            *added += 1;
        }
        let maximum_qos = self
            .link
            .as_ref()
            .map_or(settings.maximum_qos, |link| link.terms.maximum_qos);
        let maximum = match maximum_qos {
            0 => QoS::AtMostOnce,
            1 => QoS::AtLeastOnce,
            _ => QoS::ExactlyOnce,
        };
        Ok(Subscription {
            qos: filter.options.qos.min(maximum),
            no_local: filter.options.no_local,
            retain_as_published: filter.options.retain_as_published,
            retain_handling: filter.options.retain_handling,
            subscription_identifier,
            group: None,
        })
    }
}
