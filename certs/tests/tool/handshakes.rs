//! Whom a listener of the broker lets in that serves with what the tool made, and whom a client trusts.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nightjar_certs::{Client, Files, Identity, Listener, Void};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, date_time_ymd};
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConnection,
    SupportedCipherSuite, SupportedProtocolVersion,
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
        assert_eq!(identity.device(), Some("gauge-7"));
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

#[test]
fn t6_who_is_in_is_void_when_revoked_and_nobody_else_is() {
    for init in [&[][..], &["--issuing"]] {
        let world = World::inhabited(init);
        world.run(&["device", "gauge-8"]);
        let before = listener(&world);
        let clients = ["gauge-7", "gauge-8"].map(|name| client(&world, &before, name));
        world.run(&["revoke", "gauge-7"]);
        let after = before.renew(&files(&world), now()).unwrap();
        assert_eq!(after.kept, []);
        let after = after.listener;
        assert!(after.has_authorities_of(&before));
        let void = clients
            .each_ref()
            .map(|client| after.why_void(client, now()));
        assert_eq!(void, [Some(Void::Revoked), None]);
        let void = clients
            .each_ref()
            .map(|client| after.why_untrusted(client, now()));
        assert_eq!(void, [Some(Void::Revoked), None]);
    }
}

#[test]
fn t6_a_replaced_certificate_is_let_in_until_its_time_is_over() {
    let world = World::inhabited(&[]);
    let file = files(&world);
    let old = client(&world, &listener(&world), "gauge-7");
    world.run(&["renew", "gauge-7", "--new-key", "--grace-days", "3"]);
    let serial = world.list()[1]["serial"].as_str().unwrap().to_owned();
    let before = format!("devices/gauge-7.{serial}");
    let before = Some((&world, before.as_str()));
    shake(&world, before, &TLS13, "localhost").unwrap();
    let now_listener = listener(&world);
    let until = now_listener.replaced_until(&old).unwrap();
    let days = (until - now().as_secs()).div_ceil(86_400);
    assert_eq!(days, 3);
    assert_eq!(now_listener.why_void(&old, now()), None);
    let later = now() + Duration::from_secs(4 * 86_400);
    assert_eq!(now_listener.why_void(&old, later), Some(Void::Replaced));
    assert_eq!(
        now_listener.next_end_of_replaced(now().as_secs()),
        Some(until)
    );
    let new = client(&world, &now_listener, "gauge-7");
    assert_eq!(now_listener.replaced_until(&new), None);
    // Its time is over: whatever the list of revoked ones says.
    let path = file.replaced_file.unwrap();
    fs::write(&path, format!("{serial} 2020-01-01T00:00:00Z\n")).unwrap();
    let refusal = shake(&world, before, &TLS13, "localhost").unwrap_err();
    assert!(refusal.contains("Revoked"), "{refusal}");
    let device = Some((&world, "devices/gauge-7"));
    shake(&world, device, &TLS13, "localhost").unwrap();
}

#[test]
fn what_cannot_be_used_at_a_renewal_stays_as_it_was_and_the_rest_is_taken() {
    let world = World::inhabited(&[]);
    let files = files(&world);
    let before = listener(&world);
    let own = |listener: &Listener| {
        let server = shake_at(
            listener,
            &config(&world, Some((&world, "devices/gauge-7")), &TLS13),
            "localhost",
        );
        server.map(drop)
    };
    own(&before).unwrap();
    let kept = |files: &Files| {
        let renewed = before.renew(files, now()).unwrap();
        let kept: Vec<String> = renewed.kept.iter().map(ToString::to_string).collect();
        (renewed.listener, kept.join("\n"))
    };
    assert_eq!(kept(&files).1, "");
    // One after the other: a key that is another's, no CRL, no CA, no file of replaced ones.
    let whole = |name: &str| fs::read(world.path(name)).unwrap();
    for (name, what) in [
        ("servers/localhost.key", "keyfile"),
        ("servers/localhost.crt", "certfile"),
        ("ca.crl", "crlfile"),
        ("ca.crt", "cafile"),
        ("ca.replaced", "replaced_file"),
    ] {
        let good = whole(name);
        let bad = match name {
            "servers/localhost.key" => whole("devices/gauge-7.key"),
            _ => b"what is this".to_vec(),
        };
        fs::write(world.path(name), bad).unwrap();
        let (listener, kept) = kept(&files);
        assert!(kept.contains(what) && kept.lines().count() == 1, "{kept}");
        // What a start would not take.
        Listener::load(&files).unwrap_err();
        fs::write(world.path(name), good).unwrap();
        own(&listener).unwrap();
    }
    // The key cannot be read any more, and a device is revoked.
    fs::remove_file(world.path("servers/localhost.key")).unwrap();
    world.run(&["revoke", "gauge-7"]);
    let (listener, kept) = kept(&files);
    assert!(kept.contains("keyfile"), "{kept}");
    assert!(own(&listener).unwrap_err().contains("Revoked"));
}

#[test]
fn a_certificate_that_is_over_takes_the_place_of_none_that_is_good() {
    let world = World::inhabited(&[]);
    let before = listener(&world);
    forge(
        &world,
        "servers/localhost",
        2020,
        ExtendedKeyUsagePurpose::ServerAuth,
    );
    let renewed = before.renew(&files(&world), now()).unwrap();
    assert!(renewed.kept[0].to_string().contains("not valid now"));
    // At a start it is the only one.
    listener(&world);
}

#[test]
fn who_is_in_stays_when_a_list_has_ended_and_goes_with_the_authority() {
    let world = World::inhabited(&[]);
    let other = World::inhabited(&[]);
    let before = listener(&world);
    let device = client(&world, &before, "gauge-7");
    let in_two_years = now() + Duration::from_secs(2 * 365 * 86_400);
    assert_eq!(before.why_untrusted(&device, in_two_years), None);
    assert_eq!(before.why_void(&device, in_two_years), None);
    let chain = vec![CertificateDer::from_pem_file(world.path("devices/gauge-7.crt")).unwrap()];
    assert!(before.check_again(&chain, in_two_years).is_err());
    for name in ["ca.crt", "ca.crl"] {
        fs::copy(other.path(name), world.path(name)).unwrap();
    }
    let after = before.renew(&files(&world), now()).unwrap().listener;
    assert!(!after.has_authorities_of(&before));
    assert_eq!(after.why_void(&device, now()), None);
    let why = after.why_untrusted(&device, now());
    assert!(matches!(why, Some(Void::Untrusted(_))), "{why:?}");
}

#[test]
fn dates_of_clients_do_not_matter_where_that_is_asked_for() {
    let world = &World::inhabited(&[]);
    let files = Files {
        ignore_client_dates: true,
        ..files(world)
    };
    let listener = Listener::load(&files).unwrap().listener;
    for (version, year) in [(&TLS12, 2020), (&TLS13, 2020), (&TLS12, 2090)] {
        forge(
            world,
            "devices/old",
            year,
            ExtendedKeyUsagePurpose::ClientAuth,
        );
        let of_client = config(world, Some((world, "devices/old")), version);
        shake_at(&listener, &of_client, "localhost").unwrap();
        let old = client(world, &listener, "old");
        assert_eq!(old.not_after(), u64::MAX);
        assert_eq!(listener.why_void(&old, now()), None);
    }
}

#[test]
fn sessions_are_resumed_unless_somebody_else_is_trusted() {
    for version in [&TLS12, &TLS13] {
        for session_tickets in [true, false] {
            let world = World::inhabited(&[]);
            world.run(&["device", "gauge-8"]);
            let files = Files {
                session_tickets,
                ..files(&world)
            };
            let of_client = config(&world, Some((&world, "devices/gauge-7")), version);
            let was_resumed = |listener: &Listener| {
                let server = shake_at(listener, &of_client, "localhost").unwrap();
                server.handshake_kind() == Some(HandshakeKind::Resumed)
            };
            let first = Listener::load(&files).unwrap().listener;
            assert!(!was_resumed(&first) && was_resumed(&first));
            // A new certificate of the server.
            world.run(&["renew", "localhost"]);
            let second = first.renew(&files, now()).unwrap().listener;
            assert!(was_resumed(&second));
            world.run(&["revoke", "gauge-8"]);
            let third = second.renew(&files, now()).unwrap().listener;
            assert!(!was_resumed(&third) && was_resumed(&third));
        }
    }
}

#[test]
fn aes_is_preferred_unless_the_client_is_to_choose() {
    let world = World::inhabited(&[]);
    for version in [&TLS12, &TLS13] {
        let mut provider = default_provider();
        // What it likes best comes first.
        let is_chacha = |suite: &SupportedCipherSuite| format!("{suite:?}").contains("CHACHA20");
        provider
            .cipher_suites
            .sort_by_key(|suite| !is_chacha(suite));
        let of_client = config_with(provider, &world, Some((&world, "devices/gauge-7")), version);
        for prefer_aes in [true, false] {
            let files = Files {
                prefer_aes,
                ..files(&world)
            };
            let listener = Listener::load(&files).unwrap().listener;
            let server = shake_at(&listener, &of_client, "localhost").unwrap();
            let suite = server.negotiated_cipher_suite().unwrap();
            assert_eq!(is_chacha(&suite), !prefer_aes, "{suite:?}");
        }
    }
}

#[test]
fn t5_a_certificate_with_two_names_is_refused_in_the_handshake() {
    everywhere(|world, version| {
        forge_named(world, "devices/two", 2030, &["gauge-7", "admin"]);
        let refusal = shake(world, Some((world, "devices/two")), version, "localhost").unwrap_err();
        assert!(refusal.contains("TwoCommonNames"), "{refusal}");
    });
}

fn client(world: &World, listener: &Listener, name: &str) -> Client {
    let file = world.path(&format!("devices/{name}.crt"));
    let chain: Vec<CertificateDer<'_>> = CertificateDer::pem_file_iter(file)
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    listener.client(&chain).unwrap()
}

fn listener(world: &World) -> Listener {
    Listener::load(&files(world)).unwrap().listener
}

fn files(world: &World) -> Files {
    Files {
        certificate_file: world.path("servers/localhost.crt"),
        key_file: world.path("servers/localhost.key"),
        ca_file: Some(world.path("ca.crt")),
        crl_file: Some(world.path("ca.crl")),
        replaced_file: Some(world.path("ca.replaced")),
        require_certificate: true,
        ..Files::default()
    }
}

/// Since 1970.
#[allow(clippy::disallowed_methods)]
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
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
    let of_client = config(world, client, version);
    let server = shake_at(&listener(world), &of_client, name)?;
    let certificates = server.peer_certificates().unwrap_or_default();
    Ok(certificates.first().map(|own| own.clone().into_owned()))
}

/// A client that trusts this world's root and has a certificate of some world.
fn config(
    world: &World,
    client: Option<(&World, &str)>,
    version: &'static SupportedProtocolVersion,
) -> Arc<ClientConfig> {
    config_with(default_provider(), world, client, version)
}

fn config_with(
    provider: CryptoProvider,
    world: &World,
    client: Option<(&World, &str)>,
    version: &'static SupportedProtocolVersion,
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_file(world.path("ca.crt")).unwrap();
    roots.add(root).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots);
    Arc::new(match client {
        None => builder.with_no_client_auth(),
        Some((of, file)) => {
            let chain = CertificateDer::pem_file_iter(of.path(&format!("{file}.crt")))
                .unwrap()
                .collect::<Result<_, _>>()
                .unwrap();
            let key = PrivateKeyDer::from_pem_file(of.path(&format!("{file}.key"))).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    })
}

fn shake_at(
    listener: &Listener,
    config: &Arc<ClientConfig>,
    name: &str,
) -> Result<ServerConnection, String> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::clone(config), name).unwrap();
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
    Ok(server)
}

/// A certificate of this world's authority that the tool would not make, valid for that year.
fn forge(world: &World, file: &str, year: i32, usage: ExtendedKeyUsagePurpose) {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "forged");
    params.extended_key_usages = vec![usage];
    params.not_before = date_time_ymd(year, 1, 1);
    params.not_after = date_time_ymd(year, 12, 31);
    sign(world, file, params);
}

fn forge_named(world: &World, file: &str, until: i32, names: &[&str]) {
    let mut params = CertificateParams::default();
    for (place, name) in names.iter().enumerate() {
        // Of one kind a name has one; the same kind under its number is another to the library.
        let kind = match place {
            0 => DnType::CommonName,
            _ => DnType::CustomDnType(vec![2, 5, 4, 3]),
        };
        params.distinguished_name.push(kind, *name);
    }
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.not_after = date_time_ymd(until, 12, 31);
    sign(world, file, params);
}

fn sign(world: &World, file: &str, params: CertificateParams) {
    let signs = if world.path("issuing.crt").exists() {
        "issuing"
    } else {
        "ca"
    };
    let text = |name: String| String::from_utf8(world.read(&name)).unwrap();
    let signer = KeyPair::from_pem(&text(format!("{signs}.key"))).unwrap();
    let chain = text(format!("{signs}.crt"));
    let issuer = Issuer::from_ca_cert_pem(&chain, signer).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    fs::write(
        world.path(&format!("{file}.crt")),
        certificate.pem() + &chain,
    )
    .unwrap();
    fs::write(world.path(&format!("{file}.key")), key.serialize_pem()).unwrap();
}
