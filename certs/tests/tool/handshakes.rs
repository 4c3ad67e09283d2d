//! Whom a listener of the broker lets in that serves with what the tool made, and whom a client trusts.

use std::fs;
use std::sync::Arc;

use nightjar_certs::{Files, Identity, Listener};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, date_time_ymd};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConnection, SupportedProtocolVersion,
};

use crate::world::World;

#[test]
fn a_device_is_let_in_by_its_certificate_and_known_by_its_id() {
    everywhere(|world, version| {
        let name = shake(
            world,
            Some((world, "devices/gauge-7")),
            version,
            "localhost",
        )
        .unwrap();
        let identity = Identity::of(&name.unwrap()).unwrap();
        assert_eq!(identity.common_name.as_deref(), Some("gauge-7"));
        assert_eq!(&*identity.alternative_names[0], "device:gauge-7");
    });
}

#[test]
fn the_server_is_trusted_under_each_of_its_names_and_no_other() {
    everywhere(|world, version| {
        let device = Some((world, "devices/gauge-7"));
        for name in ["localhost", "127.0.0.1", "::1"] {
            shake(world, device, version, name).unwrap();
        }
        let refusal = shake(world, device, version, "example.com").unwrap_err();
        assert!(refusal.contains("NotValidForName"), "{refusal}");
    });
}

#[test]
fn t6_who_has_no_certificate_is_refused() {
    everywhere(|world, version| {
        let refusal = shake(world, None, version, "localhost").unwrap_err();
        assert!(refusal.contains("sent no certificates"), "{refusal}");
    });
}

#[test]
fn t6_a_revoked_device_is_refused_and_the_others_are_not() {
    everywhere(|world, version| {
        let name = format!("second-{version:?}");
        world.run(&["device", &name]);
        world.run(&["revoke", &name]);
        let of = format!("devices/{name}");
        let refusal = shake(world, Some((world, &of)), version, "localhost").unwrap_err();
        assert!(refusal.contains("Revoked"), "{refusal}");
        shake(
            world,
            Some((world, "devices/gauge-7")),
            version,
            "localhost",
        )
        .unwrap();
    });
}

#[test]
fn t6_after_a_renewal_both_certificates_are_good_until_one_is_revoked() {
    let world = World::inhabited(&[]);
    let old = world.list()[1]["serial"].as_str().unwrap().to_owned();
    world.run(&["renew", "gauge-7", "--new-key"]);
    let before = format!("devices/gauge-7.{old}");
    for of in [before.as_str(), "devices/gauge-7"] {
        shake(&world, Some((&world, of)), &TLS13, "localhost").unwrap();
    }
    world.run(&["revoke", &old]);
    shake(&world, Some((&world, &before)), &TLS13, "localhost").unwrap_err();
    shake(
        &world,
        Some((&world, "devices/gauge-7")),
        &TLS13,
        "localhost",
    )
    .unwrap();
    // Of an id: all.
    world.run(&["revoke", "gauge-7"]);
    shake(
        &world,
        Some((&world, "devices/gauge-7")),
        &TLS13,
        "localhost",
    )
    .unwrap_err();
}

#[test]
fn t6_an_expired_certificate_is_refused() {
    everywhere(|world, version| {
        forge(
            world,
            "devices/old",
            2020,
            ExtendedKeyUsagePurpose::ClientAuth,
        );
        let refusal = shake(world, Some((world, "devices/old")), version, "localhost").unwrap_err();
        assert!(refusal.contains("Expired"), "{refusal}");
    });
}

#[test]
fn t6_a_certificate_that_is_not_valid_yet_is_refused() {
    everywhere(|world, version| {
        forge(
            world,
            "devices/new",
            2090,
            ExtendedKeyUsagePurpose::ClientAuth,
        );
        let refusal = shake(world, Some((world, "devices/new")), version, "localhost").unwrap_err();
        assert!(refusal.contains("NotValidYet"), "{refusal}");
    });
}

#[test]
fn t6_a_servers_certificate_is_no_devices() {
    everywhere(|world, version| {
        let server = Some((world, "servers/localhost"));
        let refusal = shake(world, server, version, "localhost").unwrap_err();
        assert!(refusal.contains("Purpose"), "{refusal}");
    });
}

#[test]
fn t6_a_device_of_another_authority_is_refused() {
    let other = World::inhabited(&[]);
    everywhere(|world, version| {
        // It trusts our server, and has somebody else's certificate.
        let stranger = Some((&other, "devices/gauge-7"));
        let refusal = shake(world, stranger, version, "localhost").unwrap_err();
        assert!(refusal.contains("UnknownIssuer"), "{refusal}");
    });
}

fn everywhere(check: impl Fn(&World, &'static SupportedProtocolVersion)) {
    for init in [&[][..], &["--issuing"]] {
        let world = World::inhabited(init);
        for version in [&TLS12, &TLS13] {
            check(&world, version);
        }
    }
}

/// A handshake between a listener of this world and a client that trusts this world's root and has a certificate of some world. Gives
/// back what the listener knows the client by.
fn shake(
    world: &World,
    client: Option<(&World, &str)>,
    version: &'static SupportedProtocolVersion,
    name: &str,
) -> Result<Option<CertificateDer<'static>>, String> {
    let files = Files {
        certificate_file: world.path("servers/localhost.crt"),
        key_file: world.path("servers/localhost.key"),
        ca_file: Some(world.path("ca.crt")),
        crl_file: Some(world.path("ca.crl")),
        require_certificate: true,
        ..Files::default()
    };
    let listener = Listener::load(&files).unwrap().listener;
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_file(world.path("ca.crt")).unwrap();
    roots.add(root).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots);
    let config = match client {
        None => builder.with_no_client_auth(),
        Some((of, file)) => {
            let chain = CertificateDer::pem_file_iter(of.path(&format!("{file}.crt")))
                .unwrap()
                .collect::<Result<_, _>>()
                .unwrap();
            let key = PrivateKeyDer::from_pem_file(of.path(&format!("{file}.key"))).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut server = ServerConnection::new(Arc::clone(listener.config())).unwrap();
    // Each way in turn, as long as there is something to say.
    loop {
        let mut there = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut there).unwrap();
        }
        let mut unread = there.as_slice();
        while !unread.is_empty() {
            server.read_tls(&mut unread).unwrap();
            server
                .process_new_packets()
                .map_err(|error| format!("{error}: {error:?}"))?;
        }
        let mut back = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut back).unwrap();
        }
        let mut unread = back.as_slice();
        while !unread.is_empty() {
            client.read_tls(&mut unread).unwrap();
            client
                .process_new_packets()
                .map_err(|error| format!("{error}: {error:?}"))?;
        }
        if there.is_empty() && back.is_empty() {
            break;
        }
    }
    assert!(!server.is_handshaking() && !client.is_handshaking());
    let certificates = server.peer_certificates().unwrap_or_default();
    Ok(certificates.first().map(|own| own.clone().into_owned()))
}

/// A certificate of this world's authority that the tool would not make, valid for that year.
fn forge(world: &World, file: &str, year: i32, usage: ExtendedKeyUsagePurpose) {
    let signs = if world.path("issuing.crt").exists() {
        "issuing"
    } else {
        "ca"
    };
    let text = |name: String| String::from_utf8(world.read(&name)).unwrap();
    let signer = KeyPair::from_pem(&text(format!("{signs}.key"))).unwrap();
    let chain = text(format!("{signs}.crt"));
    let issuer = Issuer::from_ca_cert_pem(&chain, signer).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "forged");
    params.extended_key_usages = vec![usage];
    params.not_before = date_time_ymd(year, 1, 1);
    params.not_after = date_time_ymd(year, 12, 31);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    fs::write(
        world.path(&format!("{file}.crt")),
        certificate.pem() + &chain,
    )
    .unwrap();
    fs::write(world.path(&format!("{file}.key")), key.serialize_pem()).unwrap();
}
