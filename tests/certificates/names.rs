//! Names in certificates: who a client is by its own, and that its client id is no other.

use crate::world::{Authority, World};

#[test]
fn t5_a_client_id_that_is_not_the_name_in_the_certificate_is_refused_logged_and_counted() {
    let mut world = World::toml("bind_client_id = true");
    let own = world.publish_with(&["-i", "gauge-7"]);
    assert!(own.status.success(), "{own:?}");
    for (version, reason) in [
        ("5", "Client Identifier not valid"),
        ("311", "identifier rejected"),
    ] {
        let other = world.publish_with(&["-V", version, "-i", "gauge-8"]);
        assert!(!other.status.success());
        let said = String::from_utf8_lossy(&other.stderr).into_owned();
        assert!(said.contains(reason), "{said}");
    }
    world
        .broker
        .wait_for_log("the client id is not the name in its certificate");
    world.wait_for_metric("nightjar_certificates_client_id_refused_total", 2);
    let refused = "nightjar_connections_refused_total{reason=\"client_identifier_not_valid\"}";
    world.wait_for_metric(refused, 2);
}

#[test]
fn who_has_no_client_id_gets_the_name_in_its_certificate() {
    let mut world = World::toml("bind_client_id = true\nidentity_from = \"uri\"");
    // CONNECT of 5.0 and of 3.1.1 with an empty client id.
    for connect in [
        &b"\x10\x0d\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x00"[..],
        b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00",
    ] {
        // CONNACK of either version, with success.
        let is_in = |said: &str| said.starts_with(' ') && said.len() >= 4;
        world.s_client("tls1_3", &["-quiet"], connect, is_in);
    }
    world.broker.wait_for_log(" as gauge-7 (p5");
    world.broker.wait_for_log(" as gauge-7 (p4");
}

#[test]
fn the_identity_is_the_name_that_was_chosen() {
    for (from, expected) in [("common_name", true), ("uri", true), ("dns", false)] {
        let mut world = World::toml(&format!("identity_from = \"{from}\""));
        let output = world.publish_with(&["-i", "any"]);
        assert_eq!(output.status.success(), expected, "{from}: {output:?}");
        world.broker.wait_for_log(if expected {
            "u'gauge-7'"
        } else {
            "no certificate with a name"
        });
    }
}

#[test]
fn a_user_name_beside_a_certificate_does_not_become_the_client_id() {
    let authority = Authority::new("authority");
    let mut world = World::of(authority, "use_username_as_client_id = true", "");
    let output = world.publish_with(&["-u", "somebody-else", "-i", "any"]);
    assert!(output.status.success(), "{output:?}");
    world.broker.wait_for_log(" as gauge-7 (");
}
