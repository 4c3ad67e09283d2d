//! What holds for the clients of one listener, where that differs from the broker's own settings.
//!
//! In: settings and the listener's. Out: the values that a session looks at, and topics with the mount point and without.
//! Between the client and the session topics are as the client knows them; behind that they are whole.

use std::sync::Arc;

use nightjar_codec::topic::parse_shared;

use crate::settings::{ListenerSettings, Settings};

/// Agreed on by coming in through a listener.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Highest QoS a client may publish with, and is granted.
    pub maximum_qos: u8,
    /// Topic Aliases the client may use.
    pub topic_alias_maximum: u16,
    /// Topic Aliases we may use, if the client allows as many.
    pub topic_alias_maximum_outbound: u16,
    mount_point: Option<Arc<str>>,
}

impl Terms {
    pub fn new(settings: &Settings, listener: &ListenerSettings) -> Self {
        let own = |own: Option<u16>, general| own.unwrap_or(general);
        Self {
            maximum_qos: listener
                .maximum_qos
                .map_or(settings.maximum_qos, |own| own.min(settings.maximum_qos)),
            topic_alias_maximum: own(listener.topic_alias_maximum, settings.topic_alias_maximum),
            topic_alias_maximum_outbound: own(
                listener.topic_alias_maximum_outbound,
                settings.topic_alias_maximum_outbound,
            ),
            mount_point: listener.mount_point.as_deref().map(Into::into),
        }
    }

    #[inline]
    pub fn is_mounted(&self) -> bool {
        self.mount_point.is_some()
    }

    /// A client's topic with the mount point before it. `None`: too long to be a topic.
    pub fn mounted_topic(&self, topic: &str) -> Option<Arc<str>> {
        let mount_point = self.mount_point.as_deref().unwrap_or_default();
        let whole = [mount_point, topic].concat();
        (whole.len() <= TOPIC_BYTES_MAX).then(|| whole.into())
    }

    /// A client's topic filter with the mount point before it; of a shared one before what is shared. One that is none is
    /// left as it is: whoever grants it will refuse it.
    pub fn mount_filter(&self, filter: &mut Box<str>) {
        let Some(mount_point) = &self.mount_point else {
            return;
        };
        *filter = match parse_shared(filter) {
            Ok(None) => [mount_point, &**filter].concat().into(),
            Ok(Some((share_name, inner))) => {
                format!("$share/{share_name}/{mount_point}{inner}").into()
            }
            Err(_) => return,
        };
    }

    /// The topic as the client knows it. `None`: it lies outside of the mount point, and is not for this client.
    #[inline]
    pub fn topic_of_client<'t>(&self, topic: &'t str) -> Option<&'t str> {
        match &self.mount_point {
            None => Some(topic),
            Some(mount_point) => topic
                .strip_prefix(&**mount_point)
                .filter(|rest| !rest.is_empty()),
        }
    }
}

/// A UTF-8 String of MQTT has no room for more.
const TOPIC_BYTES_MAX: usize = 65_535;

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(mount_point: &str) -> Terms {
        let listener = ListenerSettings {
            mount_point: Some(mount_point.into()),
            ..ListenerSettings::default()
        };
        Terms::new(&Settings::default(), &listener)
    }

    #[test]
    fn the_mount_point_is_put_before_and_taken_off() {
        let terms = terms("house/");
        assert_eq!(terms.mounted_topic("door").as_deref(), Some("house/door"));
        assert_eq!(terms.topic_of_client("house/door"), Some("door"));
        assert_eq!(terms.topic_of_client("garden/door"), None);
        assert_eq!(terms.topic_of_client("house/"), None);
        assert_eq!(terms.mounted_topic(&"x".repeat(65_530)), None);
    }

    #[test]
    fn filters_are_mounted_inside_of_a_share() {
        let terms = terms("house/");
        let cases = [
            ("#", "house/#"),
            ("+/state", "house/+/state"),
            ("$SYS/#", "house/$SYS/#"),
            ("$share/group/#", "$share/group/house/#"),
            ("$share/group/$share/x/y", "$share/group/house/$share/x/y"),
            ("$share/group", "$share/group"),
            ("$shared/x", "house/$shared/x"),
        ];
        for (filter, expected) in cases {
            let mut filter: Box<str> = filter.into();
            terms.mount_filter(&mut filter);
            assert_eq!(&*filter, expected);
        }
    }

    #[test]
    fn the_lower_maximum_qos_holds_and_the_listeners_aliases() {
        let settings = Settings {
            maximum_qos: 1,
            ..Settings::default()
        };
        let with = |maximum_qos| {
            let listener = ListenerSettings {
                maximum_qos,
                topic_alias_maximum: Some(100),
                ..ListenerSettings::default()
            };
            Terms::new(&settings, &listener)
        };
        assert_eq!(with(Some(2)).maximum_qos, 1);
        assert_eq!(with(Some(0)).maximum_qos, 0);
        assert_eq!(with(None).maximum_qos, 1);
        assert_eq!(with(None).topic_alias_maximum, 100);
        assert_eq!(with(None).topic_alias_maximum_outbound, 10);
    }
}
