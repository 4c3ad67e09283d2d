//! Devices with certificates, as a broker process and the clients of Mosquitto see them: what `nightjar-certs` makes, from both languages
//! of configuration.

mod attacks;
mod forger;
mod guest;
mod listeners;
mod matrix;
mod names;
mod renewal;
mod stalled;
mod swaps;
mod world;

use harness::{Broker, PATIENCE};
use rustix::process::{Pid, Signal, kill_process};

use world::{Authority, Language, VERSIONS, World, is_accepted};

#[test]
fn a_device_is_let_in_by_its_certificate_under_its_id() {
    for language in [Language::Toml, Language::MosquittoConf] {
        let mut world = World::new(language);
        for version in VERSIONS {
            let output = world.publish(version, Some("devices/gauge-7"));
            assert!(output.status.success(), "{version}: {output:?}");
        }
        world.broker.wait_for_log("u'gauge-7'");
    }
}

#[test]
fn t6_who_has_no_certificate_or_somebody_elses_is_refused_with_a_reason() {
    let other = Authority::new("other");
    for language in [Language::Toml, Language::MosquittoConf] {
        for version in VERSIONS {
            let mut world = World::new(language);
            let refused = [
                (None, "sent no certificates"),
                (Some("servers/localhost".into()), "extended key usage"),
                (Some(other.text("devices/gauge-7")), "UnknownIssuer"),
            ];
            for (client, reason) in refused {
                let output = world.publish(version, client.as_deref());
                assert!(!output.status.success(), "{version} {client:?}");
                world.broker.wait_for_log(reason);
            }
            assert!(!world.broker.log().contains("New client connected"));
        }
    }
}

#[test]
fn t6_a_device_that_is_revoked_is_refused_after_a_reload_and_the_others_are_not() {
    for language in [Language::Toml, Language::MosquittoConf] {
        let mut world = World::new(language);
        world.authority.run(&["device", "gauge-8"]);
        world.authority.run(&["revoke", "gauge-7"]);
        world.reload();
        for version in VERSIONS {
            let output = world.publish(version, Some("devices/gauge-7"));
            assert!(!output.status.success(), "{version}");
            let output = world.publish(version, Some("devices/gauge-8"));
            assert!(output.status.success(), "{version}: {output:?}");
        }
        world.broker.wait_for_log("Revoked");
        assert!(!world.broker.log().contains("u'gauge-7'"));
    }
}

#[test]
fn t6_a_session_of_tls_that_a_revoked_device_resumes_is_refused() {
    for version in ["tls1_2", "tls1_3"] {
        let mut world = World::new(Language::Toml);
        // CONNECT as `gauge-7`, and then the end of what is sent: the broker answers and says no more.
        let connect = b"\x10\x13\x00\x04MQTT\x04\x02\x00\x3c\x00\x07gauge-7";
        let session = world.authority.text("session");
        let first = world.s_client(version, &["-sess_out", &session], connect, is_accepted);
        world.broker.wait_for_log("u'gauge-7'");
        assert!(first.contains("\nNew, "), "{first}");
        let second = world.s_client(version, &["-sess_in", &session], connect, is_accepted);
        assert!(second.contains("\nReused, "), "{second}");
        world.authority.run(&["revoke", "gauge-7"]);
        world.reload();
        let third = world.s_client(version, &["-sess_in", &session], connect, is_accepted);
        world.broker.wait_for_log("Revoked");
        let log = world.broker.log();
        assert_eq!(log.matches("u'gauge-7'").count(), 2, "{third}\n{log}");
    }
}

/// A number of the environment: the full size of a test that CI runs smaller.
fn number(name: &str, usual: usize) -> usize {
    let text = std::env::var(name).ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// Asks for a reload, which is the broker's `number`th, and waits for it.
#[track_caller]
fn reload(broker: &mut Broker, number: usize) {
    let process_id = broker.process_id().expect("the broker is ours");
    let process_id = i32::try_from(process_id).ok().and_then(Pid::from_raw);
    kill_process(process_id.expect("it is a process id"), Signal::HUP)
        .expect("our child can be signalled");
    let is_done = || broker.log().matches("Config reloaded").count() >= number;
    harness::wait_until("the broker has reloaded", PATIENCE, is_done);
}
