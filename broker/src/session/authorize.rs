//! What the session's client may do, as it was found at CONNECT or at the last reload of the rules.
//!
//! Rules speak of topics as the client knows them, without its listener's mount point; everything behind the session has them
//! whole. A session that came from the store has no rules until its client is there: nobody knows from where that will be. Until
//! then nothing is sent to it, and what is queued is looked at when it is to be sent.

use std::sync::Arc;

use nightjar_acl::{Identity, IpAddr, Permissions, Rules};
use nightjar_codec::topic::parse_shared;
use nightjar_storage::MessageId;

use super::Session;
use super::deliver::Grant;
use super::output::Outputs;
use crate::settings::ListenerSettings;

/// Where the client of a session came in last.
#[derive(Clone, Debug)]
pub struct Entry {
    pub address: Option<IpAddr>,
    /// What its certificate says, where it has proven to own one.
    pub certificate: Option<Arc<nightjar_certs::Client>>,
    pub listener: Arc<ListenerSettings>,
}

/// What one client has of the rules, and how it names topics.
#[derive(Debug)]
pub struct Access {
    permissions: Permissions,
    mount_point: Option<Box<str>>,
}

impl Access {
    /// `None`: there are no rules.
    pub fn find(
        rules: Option<&Arc<Rules>>,
        user: Option<&str>,
        client_id: &str,
        entry: &Entry,
    ) -> Option<Arc<Self>> {
        let rules = rules?;
        let mut identity = Identity::new(user, client_id);
        identity.address = entry.address;
        if let Some(certificate) = &entry.certificate {
            let certificate = certificate.identity();
            let names = certificate.common_name.as_deref().into_iter();
            let names = names.chain(certificate.alternative_names());
            identity.certificate_names = names.map(Into::into).collect();
        }
        Some(Arc::new(Self {
            permissions: rules.permissions(identity),
            mount_point: entry.listener.mount_point.clone(),
        }))
    }

    /// A topic as the client says it. Rules are about whole topics, as Mosquitto's are.
    #[inline]
    pub fn may_publish(&self, topic: &str) -> bool {
        match &self.mount_point {
            None => self.permissions.may_publish(topic),
            Some(mount_point) => self
                .permissions
                .may_publish(&format!("{mount_point}{topic}")),
        }
    }

    /// The same of a whole topic.
    pub fn may_publish_whole(&self, topic: &str) -> bool {
        self.permissions.may_publish(topic)
    }

    /// A whole topic.
    #[inline]
    pub fn may_receive(&self, topic: &str) -> bool {
        self.permissions.may_receive(topic)
    }

    /// A whole topic filter; of a shared one what is shared counts.
    pub fn may_subscribe(&self, topic_filter: &str) -> bool {
        match parse_shared(topic_filter) {
            Ok(Some((_, inner))) => self.permissions.may_subscribe(inner),
            Ok(None) => self.permissions.may_subscribe(topic_filter),
            Err(_) => false,
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        self.permissions.is_same(&other.permissions) && self.mount_point == other.mount_point
    }
}

impl Session {
    /// Takes what its client may do from here on. True: that is not what it was.
    pub fn set_access(&mut self, access: Option<Arc<Access>>) -> bool {
        let is_same = match (&self.access, &access) {
            (None, None) => true,
            (Some(old), Some(new)) => old.is_same(new),
            _ => false,
        };
        self.access.clone_from(&access);
        if !is_same {
            self.receiver.set_access(access);
        }
        !is_same
    }

    /// A will's topic, which is whole.
    pub fn may_publish_will(&self, topic: &str) -> bool {
        match &self.access {
            None => true,
            Some(access) => access.may_publish_whole(topic),
        }
    }

    #[inline]
    pub fn may_receive(&self, topic: &str) -> bool {
        match &self.access {
            None => true,
            Some(access) => access.may_receive(topic),
        }
    }

    pub fn may_subscribe(&self, topic_filter: &str) -> bool {
        match &self.access {
            None => true,
            Some(access) => access.may_subscribe(topic_filter),
        }
    }

    /// The message is not for this client, whatever was reserved for it. Counted, and gone from the store.
    pub(crate) fn deny_delivery(
        &self,
        message_id: MessageId,
        grant: &Grant<'_>,
        out: &mut Outputs<'_>,
    ) {
        out.counters.deliveries_denied += 1;
        self.drop_delivery(message_id, grant, out);
    }
}
