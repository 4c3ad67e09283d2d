//! Requests to `$CONTROL/broker/v1`: from a client that may ask, answered to that client alone.
//!
//! What is said is `crate::control`'s business. The response goes along the client's own subscription to the response topic, on its
//! terms and if the client may read it; without one nobody hears it. It is QoS 0 and nothing of it is kept.

use nightjar_codec::packet::PublishRef;
use nightjar_codec::{QoS, ReasonCode};

use super::Shard;
use super::publish::NOT_OWNED;
use crate::clock::Now;
use crate::control;
use crate::identity::{ConnectionId, Origin, SessionId};
use crate::message::MessageRef;
use crate::session::deliver::Grant;
use crate::session::publish::Receipt;

impl Shard {
    /// The session has found that its client may ask. The response is sent before the acknowledgement, as Mosquitto does.
    #[cold]
    pub(super) fn answer_control(
        &mut self,
        now: Now,
        id: ConnectionId,
        session_id: SessionId,
        publish: &PublishRef<'_>,
        receipt: Receipt,
    ) {
        let route = self.route(control::RESPONSE_TOPIC);
        let mut request =
            MessageRef::new(control::REQUEST_TOPIC, publish.payload, &[], publish.qos);
        request.publisher = Some(session_id);
        if self.cannot_own(&request, &route, receipt, id) {
            self.sinks.counters.publishes_not_owned += 1;
            self.acknowledge(now, id, session_id, receipt, NOT_OWNED);
            return;
        }
        let mut deliveries = route.local.iter();
        let own = deliveries.find(|delivery| delivery.session == session_id);
        if let Some(terms) = own.and_then(|own| own.terms_for(None)) {
            let response = control::answer(publish.payload, &self.shared.settings);
            let message = MessageRef::new(control::RESPONSE_TOPIC, &response, &[], QoS::AtMostOnce);
            let grant = Grant {
                qos: terms.qos,
                retain: false,
                subscription_identifiers: &terms.subscription_identifiers,
                origin: Origin::Direct,
                reserved: 0,
            };
            self.sinks.frames.begin(1);
            self.deliver_to(now, &message, session_id, &grant);
        }
        let (Some(connection), Some(session)) = (
            self.connections.get_mut(id.slot, id.generation),
            self.sessions
                .get_mut(session_id.slot, session_id.generation),
        ) else {
            return;
        };
        let mut out = self.sinks.outputs(now, &self.shared, &mut connection.send);
        session.handle_accepted(receipt, ReasonCode::Success, None, &mut out);
        connection.mark_dirty(&mut self.sinks.dirty);
        self.note_waiting_acknowledgements(now, id);
    }
}
