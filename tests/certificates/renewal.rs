//! Certificates and lists that change under a broker: what it takes, whom it parts with, and who stays.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use harness::{PATIENCE, wait_until};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair};

use crate::world::{Authority, World};

#[test]
fn t6_who_is_in_and_is_revoked_goes_with_the_reload_and_the_others_stay() {
    let mut world = World::toml("---certificate_watch_seconds = 0");
    world.authority.run(&["device", "gauge-8"]);
    let _seven = world.subscriber("devices/gauge-7", "seven");
    let _eight = world.subscriber("devices/gauge-8", "eight");
    world.authority.run(&["revoke", "gauge-7"]);
    world.reload();
    world
        .broker
        .wait_for_log("disconnected, not authorised (user 'gauge-7': its certificate was revoked)");
    assert!(!world.publish_with(&[]).status.success());
    world.broker.wait_for_log("the TLS handshake failed: ");
    world.broker.wait_for_log("Revoked");
    world.wait_for_metric(
        "nightjar_connections_closed_total{reason=\"certificate\"}",
        1,
    );
    world.wait_for_metric("nightjar_sessions{state=\"connected\"}", 1);
    assert!(!world.broker.log().contains("Client eight"));
}

#[test]
fn t6_a_list_that_changes_is_read_without_a_signal() {
    let mut world = World::toml("");
    let _seven = world.subscriber("devices/gauge-7", "seven");
    world.authority.run(&["revoke", "gauge-7"]);
    wait_until("the revoked device is parted with", PATIENCE, || {
        world.broker.log().contains("its certificate was revoked")
    });
}

#[test]
fn a_certificate_behind_links_is_exchanged_and_nobody_is_disturbed() {
    let authority = Authority::new("authority");
    // As Kubernetes mounts a secret: names are links through one link, and that is exchanged.
    let place = authority.path("secret");
    let put = |version: &str| {
        let inside = place.join(version);
        fs::create_dir_all(&inside).unwrap();
        for end in ["crt", "key"] {
            let file = authority.path(&format!("servers/localhost.{end}"));
            fs::copy(file, inside.join(format!("tls.{end}"))).unwrap();
        }
        symlink(version, place.join("new")).unwrap();
        fs::rename(place.join("new"), place.join("data")).unwrap();
    };
    put("one");
    for end in ["crt", "key"] {
        symlink(format!("data/tls.{end}"), place.join(format!("tls.{end}"))).unwrap();
    }
    let settings = authority.path("nightjar.toml");
    let text = fs::read_to_string(&settings).unwrap();
    let text = text.replace("servers/localhost.", "secret/tls.");
    fs::write(settings, text).unwrap();
    authority.run(&["renew", "localhost", "--new-key"]);
    let mut world = World::of(authority, "", "");
    let _seven = world.subscriber("devices/gauge-7", "seven");
    let before = world.server_fingerprint();
    assert!(before.contains("ingerprint="), "{before}");
    let authority = &world.authority;
    let place = authority.path("secret");
    fs::create_dir_all(place.join("two")).unwrap();
    for end in ["crt", "key"] {
        let file = authority.path(&format!("servers/localhost.{end}"));
        fs::copy(file, place.join("two").join(format!("tls.{end}"))).unwrap();
    }
    symlink("two", place.join("new")).unwrap();
    fs::rename(place.join("new"), place.join("data")).unwrap();
    wait_until("the new certificate is shown", PATIENCE, || {
        let now = world.server_fingerprint();
        now.contains("ingerprint=") && now != before
    });
    assert!(world.publish_with(&[]).status.success());
    assert!(!world.broker.log().contains("Client seven"));
    assert_eq!(world.metric("nightjar_tls_files_kept_total"), 0);
}

#[test]
fn a_bad_file_changes_nothing_and_does_not_stop_the_rest() {
    let mut world = World::toml("---certificate_watch_seconds = 0");
    let _seven = world.subscriber("devices/gauge-7", "seven");
    let before = world.server_fingerprint();
    fs::write(world.authority.path("servers/localhost.crt"), "nonsense").unwrap();
    world.authority.run(&["device", "gauge-8"]);
    world.authority.run(&["revoke", "gauge-7"]);
    world.reload();
    world.broker.wait_for_log("The one before stays in use");
    world.broker.wait_for_log("its certificate was revoked");
    assert_eq!(world.server_fingerprint(), before);
    assert!(
        world
            .publish("tlsv1.3", Some("devices/gauge-8"))
            .status
            .success()
    );
    world.wait_for_metric("nightjar_tls_files_kept_total", 1);
}

/// Only root can give up being root.
#[test]
fn a_key_that_cannot_be_read_any_more_does_not_stop_a_reload() {
    if !rustix::process::getuid().is_root() {
        eprintln!("skipped: not root");
        return;
    }
    let authority = Authority::new("authority");
    for directory in ["", "servers", "devices"] {
        fs::set_permissions(authority.path(directory), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut world = World::of(
        authority,
        "",
        "---user = \"nobody\"\ncertificate_watch_seconds = 0",
    );
    let _seven = world.subscriber("devices/gauge-7", "seven");
    world.authority.run(&["renew", "localhost"]);
    world.authority.run(&["revoke", "gauge-7"]);
    world.reload();
    world.broker.wait_for_log("localhost.key cannot be used");
    world.broker.wait_for_log("its certificate was revoked");
}

#[test]
fn t6_who_is_in_goes_when_its_certificate_ends() {
    let mut world = World::toml("---certificate_watch_seconds = 0");
    let end = now() + 15;
    forge(&world.authority, "devices/short", &["short"], end);
    let _short = world.subscriber("devices/short", "short");
    // Until then, and as long again.
    wait_until("the certificate has ended", PATIENCE * 2, || {
        world.broker.log().contains("its certificate has expired")
    });
    assert!(now() > end);
    assert!(
        !world
            .publish("tlsv1.2", Some("devices/short"))
            .status
            .success()
    );
    world.broker.wait_for_log("certificate expired");
}

#[test]
fn a_device_that_uses_a_replaced_certificate_is_warned_of_until_its_time_is_over() {
    let mut world = World::toml("");
    let serial = world.authority.serials()[1].clone();
    world
        .authority
        .run(&["renew", "gauge-7", "--new-key", "--grace-days", "3"]);
    let of_old = format!("devices/gauge-7.{serial}");
    world.reload();
    let _old = world.subscriber(&of_old, "old");
    let _new = world.subscriber("devices/gauge-7", "new");
    world
        .broker
        .wait_for_log_times("which another took the place of", 1);
    world.wait_for_metric("nightjar_certificates_replaced_used_total", 1);
    let over = format!("{serial} 2020-01-01T00:00:00Z gauge-7\n");
    fs::write(world.authority.path("ca.replaced"), over).unwrap();
    wait_until("the time for both is over", PATIENCE, || {
        world.broker.log().contains("the time for both is over")
    });
    assert!(!world.broker.log().contains("Client new"));
}

#[test]
fn when_certificates_end_is_told() {
    let mut world = World::toml("");
    world.broker.wait_for_log("localhost.crt ends on ");
    world.broker.wait_for_log("ca.crl ends on ");
    let port = world.broker.port;
    let end = |world: &mut World, kind: &str| {
        let labels = format!("listener=\"127.0.0.1:{port}\",kind=\"{kind}\"");
        world.metric(&format!(
            "nightjar_certificate_expiry_timestamp_seconds{{{labels}}}"
        ))
    };
    let days = |seconds: u64| (seconds - now()).div_ceil(86_400);
    assert_eq!(days(end(&mut world, "certificate")), 825);
    assert_eq!(days(end(&mut world, "crl")), 365);
    assert!(days(end(&mut world, "ca")) > 7_000);
    // One that ends soon is a warning.
    world.authority.run(&["renew", "localhost", "--days", "5"]);
    world.reload();
    world.broker.wait_for_log("Warning: Listener");
    wait_until("the new one is in use", PATIENCE, || {
        days(end(&mut world, "certificate")) == 5
    });
}

/// A certificate of this authority that the tool would not make.
pub(crate) fn forge(authority: &Authority, file: &str, names: &[&str], not_after: u64) {
    let text = |name: &str| fs::read_to_string(authority.path(name)).unwrap();
    let key = KeyPair::from_pem(&text("ca.key")).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&text("ca.crt"), key).unwrap();
    let mut params = CertificateParams::default();
    for name in names {
        params.distinguished_name.push(DnType::CommonName, *name);
    }
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let not_after = i64::try_from(not_after).unwrap();
    params.not_after = time::OffsetDateTime::from_unix_timestamp(not_after).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    fs::write(authority.path(&format!("{file}.crt")), certificate.pem()).unwrap();
    fs::write(authority.path(&format!("{file}.key")), key.serialize_pem()).unwrap();
}

/// Seconds since 1970.
#[allow(clippy::disallowed_methods)]
fn now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.unwrap().as_secs()
}
