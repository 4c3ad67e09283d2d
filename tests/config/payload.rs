//! `message_size_limit`: the exchange goes on, the message goes to nobody.

use harness::{Broker, Client, Connect, packet};

#[test]
fn a_payload_above_message_size_limit_is_answered_and_passed_to_nobody() {
    let text = "listener {port} 127.0.0.1\nallow_anonymous true\nmessage_size_limit 4\n";
    let broker = Broker::options().mosquitto_conf(text).start();
    let mut new = Client::connect_v5(&broker, "new", "");
    new.send(&packet("82", "m1 v0 s't' 02"));
    new.expect("90 r4 m1 v0 02");
    // 5.0 hears why; the reason stands behind the packet id.
    new.send(&packet("32", "s't' m2 v0 'fives'"));
    new.expect("40 r3 m2 83");
    new.send(&packet("34", "s't' m3 v0 'fives'"));
    new.expect("50 r3 m3 83");
    new.send(&packet("30", "s't' v0 'fives'"));
    new.expect_nothing_until_pingresp();

    let mut old = Client::connect(&broker, &Connect::v4("old"));
    old.send(&packet("32", "s't' m4 'fives'"));
    old.expect("40 r2 m4");
    old.send(&packet("34", "s't' m5 'fives'"));
    old.expect("50 r2 m5");
    old.send(&packet("62", "m5"));
    old.expect("70 r2 m5");
    new.expect_nothing_until_pingresp();
    // Four bytes are within it.
    old.send(&packet("32", "s't' m6 'four'"));
    old.expect("40 r2 m6");
    assert!(!new.receive_packet().is_empty());
}
