//! PINGREQ and PINGRESP.

use crate::scenario::{SharedBroker, play};

static BROKER: SharedBroker = SharedBroker::plain();

#[test]
fn mqtt_3_12_4_1_pingreq_is_answered() {
    check("a connect v5\n a > c0\n a < d0\n a > c0 ; c0 ; c0\n a < d0\n a < d0\n a < d0");
}

#[test]
fn v3_mqtt_3_12_4_1_pingreq_is_answered() {
    check("a connect v4\n a > c0\n a < d0\n b connect v3\n b > c0\n b < d0");
}

/// PINGRESP is for clients to receive.
#[test]
fn pingresp_from_a_client_closes() {
    check("a connect v4\n a > d0\n a close\n b connect v5\n b > d0\n b close?");
}

#[track_caller]
fn check(scenario: &str) {
    play(&BROKER, scenario);
}
