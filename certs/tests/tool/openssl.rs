//! What is made is what openssl understands.

use crate::world::{World, openssl};

#[test]
fn what_an_authority_made_verifies_against_its_root() {
    for init in [&[][..], &["--issuing"]] {
        let world = World::inhabited(init);
        let verify = |purpose: &str, file: &str| {
            // What stands behind a certificate in its file is what is sent along with it.
            let arguments = format!(
                "verify -x509_strict -purpose {purpose} -CAfile ca.crt -untrusted {file} {file}"
            );
            openssl(&world.path(""), &arguments)
        };
        verify("sslserver", "servers/localhost.crt").unwrap();
        verify("sslclient", "devices/gauge-7.crt").unwrap();
        verify("sslserver", "devices/gauge-7.crt").unwrap_err();
        verify("sslclient", "servers/localhost.crt").unwrap_err();
    }
}

#[test]
fn a_certificate_says_what_was_asked_for() {
    let world = World::inhabited(&[]);
    let text =
        |file: &str| openssl(&world.path(""), &format!("x509 -noout -text -in {file}")).unwrap();
    let device = text("devices/gauge-7.crt");
    for part in [
        "Subject: O = Plant, OU = north, CN = gauge-7",
        "URI:device:gauge-7",
        "TLS Web Client Authentication",
        "CA:FALSE",
        "NIST CURVE: P-256",
    ] {
        assert!(device.contains(part), "{part} in {device}");
    }
    let server = text("servers/localhost.crt");
    for part in [
        "DNS:localhost, IP Address:127.0.0.1, IP Address:0:0:0:0:0:0:0:1",
        "TLS Web Server Authentication",
    ] {
        assert!(server.contains(part), "{part} in {server}");
    }
    let root = text("ca.crt");
    for part in ["CA:TRUE, pathlen:0", "Certificate Sign, CRL Sign"] {
        assert!(root.contains(part), "{part} in {root}");
    }
}

#[test]
fn names_and_addresses_are_told_apart() {
    let world = World::new(&[]);
    world.run(&[
        "server",
        "*.example.com",
        "192.0.2.7",
        "--ip",
        "2001:db8::1",
    ]);
    let text = openssl(
        &world.path(""),
        "x509 -noout -ext subjectAltName -in servers/_.example.com.crt",
    )
    .unwrap();
    let names = "DNS:*.example.com, IP Address:192.0.2.7, IP Address:2001:DB8:0:0:0:0:0:1";
    assert!(text.contains(names), "{text}");
}

#[test]
fn a_certificate_is_valid_from_an_hour_ago_for_the_days_that_were_asked_for() {
    let world = World::new(&[]);
    world.run(&["device", "gauge-7", "--days", "10"]);
    let ends_within = |seconds: u64| {
        let arguments = format!("x509 -noout -checkend {seconds} -in devices/gauge-7.crt");
        openssl(&world.path(""), &arguments).is_err()
    };
    assert!(!ends_within(10 * 86_400 - 600));
    assert!(ends_within(10 * 86_400));
    let hour_ago = "verify -CAfile ca.crt -attime";
    let list = world.list();
    let begin = list[0]["not_before"].as_str().unwrap();
    let seconds = seconds_of(&world, begin);
    let at = |moment: u64| format!("{hour_ago} {moment} devices/gauge-7.crt");
    openssl(&world.path(""), &at(seconds + 60)).unwrap();
    openssl(&world.path(""), &at(seconds - 60)).unwrap_err();
    let now = seconds_of(&world, "now");
    assert!((3_590..3_720).contains(&(now - seconds)), "{begin}");
}

#[test]
fn the_list_of_revoked_certificates_is_openssls() {
    for init in [&[][..], &["--issuing"]] {
        let world = World::inhabited(init);
        let signer = if init.is_empty() {
            "ca.crt"
        } else {
            "issuing.crt"
        };
        let list = || {
            openssl(
                &world.path(""),
                &format!("crl -in ca.crl -noout -text -CAfile {signer}"),
            )
            .unwrap()
        };
        let verify = || {
            openssl(
                &world.path(""),
                "verify -crl_check -CAfile ca.crt -untrusted devices/gauge-7.crt -CRLfile ca.crl devices/gauge-7.crt",
            )
        };
        let empty = list();
        assert!(empty.contains("verify OK"), "{empty}");
        assert!(empty.contains("No Revoked Certificates"), "{empty}");
        assert!(empty.contains("Next Update"), "{empty}");
        verify().unwrap();

        world.run(&["revoke", "gauge-7"]);
        let serial = world.list()[1]["serial"].as_str().unwrap().to_uppercase();
        let with_one = list();
        assert!(with_one.contains("verify OK"), "{with_one}");
        assert!(
            with_one.contains(&format!("Serial Number: {serial}"))
                || with_one.contains(&format!("Serial Number: 0{serial}")),
            "{with_one}"
        );
        let refusal = verify().unwrap_err();
        assert!(refusal.contains("certificate revoked"), "{refusal}");
        assert!(number(&with_one) > number(&empty));
    }
}

#[test]
fn fingerprints_are_openssls() {
    let world = World::inhabited(&[]);
    let own = world.run(&["fingerprint", "gauge-7"]);
    let certificate = openssl(
        &world.path(""),
        "x509 -noout -fingerprint -sha256 -in devices/gauge-7.crt",
    )
    .unwrap();
    let (_, hex) = certificate.trim().split_once('=').unwrap();
    assert!(own.contains(&hex.replace(':', "").to_lowercase()), "{own}");
    openssl(
        &world.path(""),
        "pkey -in devices/gauge-7.key -pubout -outform DER -out public.der",
    )
    .unwrap();
    let key = openssl(&world.path(""), "dgst -sha256 -r public.der").unwrap();
    let hex = key.split_whitespace().next().unwrap();
    assert!(own.contains(&format!("public key   {hex}")), "{own}");
    assert_eq!(
        own,
        world.run(&["fingerprint", &world.text("devices/gauge-7.crt")])
    );
}

#[test]
fn a_chip_gets_the_same_as_der() {
    let world = World::new(&["--issuing"]);
    world.run(&["server", "broker.example.com"]);
    let report = world.run(&["device", "gauge-7", "--esp", "--site", "a \"b\" c"]);
    assert!(report.contains('█'), "{report}");
    let same = |pem: &str, der: &str| {
        let arguments = format!("x509 -in {pem} -outform DER -out compared.der");
        openssl(&world.path(""), &arguments).unwrap();
        assert_eq!(world.read("compared.der"), world.read(der), "{der}");
    };
    same("devices/gauge-7.crt", "esp/gauge-7/certificate.der");
    same("ca.crt", "esp/gauge-7/ca.der");
    same("issuing.crt", "esp/gauge-7/issuing.der");
    let public = |key: &str| openssl(&world.path(""), &format!("pkey -pubout {key}")).unwrap();
    assert_eq!(
        public("-in devices/gauge-7.key"),
        public("-inform DER -in esp/gauge-7/key.der")
    );
    let toml = String::from_utf8(world.read("esp/gauge-7/config.toml")).unwrap();
    for line in [
        "broker_host = \"broker.example.com\"",
        "broker_port = 8883",
        "site = \"a \\\"b\\\" c\"",
    ] {
        assert!(toml.contains(line), "{toml}");
    }
    let header = String::from_utf8(world.read("esp/gauge-7/nightjar_device.h")).unwrap();
    assert!(header.contains("#define NIGHTJAR_DEVICE_ID \"gauge-7\""));
    assert!(header.contains("  \"-----BEGIN PRIVATE KEY-----\\n\""));
    let picture = String::from_utf8(world.read("esp/gauge-7/qr.svg")).unwrap();
    assert!(picture.contains("<svg"));
}

#[test]
fn a_blob_to_flash_has_it_all_and_follows_a_renewal() {
    let world = World::new(&["--issuing"]);
    world.run(&["server", "broker.example.com"]);
    std::fs::write(world.path("wifi"), "correct horse\n").unwrap();
    let password = world.text("wifi");
    let more = "ntp_server = \"time.example\"\n";
    std::fs::write(world.path("more.toml"), more).unwrap();
    let arguments = [
        "device",
        "gauge-7",
        "--esp",
        "--esp-config",
        &world.text("more.toml"),
        "--wifi",
        "barn",
        "--wifi-password-file",
        &password,
    ];
    let report = world.run(&arguments);
    assert!(!report.contains("correct horse"), "{report}");
    let contains = |name: &str| {
        let blob = world.read("esp/gauge-7/provisioning.bin");
        let part = world.read(name);
        blob.windows(part.len()).any(|window| window == part)
    };
    let files = [
        "key.der",
        "certificate.der",
        "ca.der",
        "issuing.der",
        "config.toml",
    ];
    for file in files {
        assert!(contains(&format!("esp/gauge-7/{file}")), "{file}");
    }
    let blob = world.read("esp/gauge-7/provisioning.bin");
    assert!(
        world
            .read("esp/gauge-7/config.toml")
            .ends_with(more.as_bytes())
    );
    let end = b"\x06\0\x04\0barn\x07\0\x0d\0correct horse";
    assert!(blob.ends_with(end));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let path = world.path("esp/gauge-7/provisioning.bin");
        let mode = std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    world.run(&["renew", "gauge-7", "--new-key"]);
    assert_ne!(world.read("esp/gauge-7/provisioning.bin"), blob);
    for file in files {
        assert!(contains(&format!("esp/gauge-7/{file}")), "{file}");
    }
}

#[track_caller]
fn number(list: &str) -> u64 {
    let (_, rest) = list.split_once("X509v3 CRL Number:").unwrap();
    rest.split_whitespace().next().unwrap().parse().unwrap()
}

/// Seconds since 1970 of a moment, by date(1).
#[track_caller]
fn seconds_of(world: &World, moment: &str) -> u64 {
    let output = std::process::Command::new("date")
        .args(["-u", "-d", moment, "+%s"])
        .current_dir(world.path(""))
        .output()
        .unwrap();
    String::from_utf8(output.stdout)
        .unwrap()
        .trim()
        .parse()
        .unwrap()
}
