//! DISCONNECT from the client (3.14).

use nightjar_codec::ReasonCode;
use nightjar_codec::packet::Disconnect;

use super::{Session, Violation};
use crate::settings::Settings;

/// Whether the Will Message is deleted or published when a Network Connection closes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WillFate {
    /// The client said goodbye.
    Delete,
    /// Anything else.
    Publish,
}

impl Session {
    /// May change the Session Expiry Interval, but not from 0 to anything else (3.14.2.2.2).
    pub fn handle_disconnect(
        &mut self,
        disconnect: &Disconnect,
        settings: &Settings,
    ) -> Result<WillFate, Violation> {
        if let Some(interval) = disconnect.properties.session_expiry_interval {
            let at_connect = self
                .link
                .as_ref()
                .map_or(0, |link| link.expiry_interval_at_connect);
            if at_connect == 0 && interval != 0 {
                return Err(Violation::SessionExpiryFromZero);
            }
            self.expiry_interval = interval.min(settings.session_expiry_interval_max);
        }
        // [MQTT-3.14.4-3]
        Ok(if disconnect.reason_code == ReasonCode::Success {
            WillFate::Delete
        } else {
            WillFate::Publish
        })
    }
}
