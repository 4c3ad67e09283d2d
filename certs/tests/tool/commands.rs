//! What commands report, remember, refuse and never do.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::thread;

use serde_json::Value;

use crate::world::{World, openssl};

#[test]
fn three_commands_make_what_a_broker_and_a_device_need() {
    let world = World::empty();
    world.run(&["init"]);
    world.run(&["server", "localhost"]);
    world.run(&["device", "gauge-7"]);
    let configuration = String::from_utf8(world.read("nightjar.toml")).unwrap();
    for name in [
        "servers/localhost.crt",
        "servers/localhost.key",
        "ca.crt",
        "ca.crl",
    ] {
        assert!(configuration.contains(&format!("= \"{}\"", world.text(name))));
    }
    assert!(configuration.contains("require_certificate = true"));
    let names: Vec<_> = world
        .list()
        .iter()
        .map(|entry| entry["id"].clone())
        .collect();
    assert_eq!(names, ["localhost", "gauge-7"]);
}

#[test]
fn without_an_authority_everything_says_how_to_make_one() {
    let world = World::empty();
    for arguments in [
        &["server", "localhost"][..],
        &["device", "gauge-7"],
        &["renew", "gauge-7"],
        &["revoke", "gauge-7"],
        &["crl"],
        &["list"],
        &["show", "gauge-7"],
    ] {
        let complaint = world.fails(1, arguments);
        assert!(complaint.contains("nightjar-certs init"), "{complaint}");
    }
    assert!(!world.path("").exists());
}

#[test]
fn an_authority_is_never_written_over() {
    let world = World::inhabited(&[]);
    let before = (world.read("ca.key"), world.read("ca.crt"));
    world.fails(1, &["init"]);
    world.fails(3, &["init", "--force"]);
    assert_eq!(before, (world.read("ca.key"), world.read("ca.crt")));
}

#[test]
fn nothing_is_written_over_unless_it_is_asked_for() {
    for (arguments, stem) in [
        (&["device", "gauge-7"][..], "devices/gauge-7"),
        (&["server", "localhost"], "servers/localhost"),
    ] {
        let world = World::inhabited(&[]);
        let (certificate, key) = (format!("{stem}.crt"), format!("{stem}.key"));
        let before = (world.read(&certificate), world.read(&key));
        let complaint = world.fails(1, arguments);
        assert!(complaint.contains("--force"), "{complaint}");
        assert_eq!((world.read(&certificate), world.read(&key)), before);
        assert_eq!(world.list().len(), 2);
        // One of the two is enough.
        fs::remove_file(world.path(&certificate)).unwrap();
        world.fails(1, arguments);
        assert_eq!(world.read(&key), before.1);

        world.run(&[arguments, &["--force"]].concat());
        assert!(world.read(&certificate) != before.0 && world.read(&key) != before.1);
        let list = world.list();
        let replaced = list.iter().filter(|entry| entry["status"] == "replaced");
        assert_eq!(replaced.count(), 1);
    }
}

#[test]
fn keys_are_their_owners_and_never_printed() {
    let world = World::empty();
    let mut reports = String::new();
    for arguments in [
        &["init", "--issuing"][..],
        &["server", "localhost"],
        &["device", "gauge-7", "--esp"],
        &["renew", "gauge-7", "--new-key"],
        &["list"],
        &["list", "--json"],
        &["show", "gauge-7"],
        &["fingerprint", "gauge-7"],
        &["revoke", "gauge-7"],
    ] {
        reports += &world.run(arguments);
    }
    let mut secrets = 0;
    for file in world.files() {
        let bytes = fs::read(&file).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        let is_secret = text.contains("PRIVATE KEY") || file.ends_with("key.der");
        let mode = fs::metadata(&file).unwrap().permissions().mode() & 0o777;
        if is_secret {
            secrets += 1;
            assert_eq!(mode, 0o600, "{}", file.display());
            for line in text.lines().filter(|line| line.len() > 20) {
                assert!(!reports.contains(line), "{}", file.display());
            }
        }
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        assert!(!name.starts_with(".new-"), "{name} is left over");
    }
    // Root, issuing, server, device twice, and for the chip DER and the header.
    assert_eq!(secrets, 7);
    assert!(!reports.contains("PRIVATE"));
    // A file that holds a key is not shown either.
    let complaint = world.fails(1, &["show", &world.text("ca.key")]);
    assert!(complaint.contains("no certificate in it"), "{complaint}");
}

#[test]
fn a_renewal_keeps_the_key_unless_a_new_one_is_asked_for() {
    let world = World::inhabited(&[]);
    let of = |place: usize, field: &str| world.list()[place][field].clone();
    let key = world.read("devices/gauge-7.key");
    world.run(&["renew", "gauge-7", "--days", "100"]);
    assert_eq!(of(1, "public_key_sha256"), of(2, "public_key_sha256"));
    assert_ne!(of(1, "serial"), of(2, "serial"));
    assert_eq!(of(1, "status"), "replaced");
    assert_eq!(of(2, "site"), "north");
    assert_eq!(world.read("devices/gauge-7.key"), key);

    world.run(&["renew", "gauge-7", "--new-key"]);
    assert_ne!(of(2, "public_key_sha256"), of(3, "public_key_sha256"));
    assert_ne!(world.read("devices/gauge-7.key"), key);
    let kept = format!("devices/gauge-7.{}.key", of(2, "serial").as_str().unwrap());
    assert_eq!(world.read(&kept), key);

    // By serial number, in the way that openssl writes it; of a server, too.
    let serial = of(0, "serial").as_str().unwrap().to_uppercase();
    world.run(&["renew", &serial]);
    assert_eq!(of(4, "names"), of(0, "names"));
    let complaint = world.fails(1, &["renew", &serial]);
    assert!(complaint.contains("newer certificate"), "{complaint}");
}

#[test]
fn a_certificate_is_replaced_with_a_time_of_grace_and_then_it_is_void() {
    let world = World::inhabited(&[]);
    let replaced = |world: &World| {
        let text = String::from_utf8(world.read("ca.replaced")).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(ToOwned::to_owned).collect::<Vec<String>>()
    };
    assert!(replaced(&world).is_empty());
    world.run(&["renew", "gauge-7"]);
    let entry = |place: usize| world.list()[place].clone();
    // Without a time of grace it is good until its end.
    let (serial, end) = (&entry(1)["serial"], &entry(1)["not_after"]);
    let line = |serial: &Value, until: &Value| {
        format!(
            "{} {} gauge-7",
            serial.as_str().unwrap(),
            until.as_str().unwrap()
        )
    };
    assert_eq!(replaced(&world), [line(serial, end)]);
    world.run(&["renew", "gauge-7", "--grace-days", "0"]);
    assert_eq!(entry(2)["status"], "revoked");
    assert_eq!(
        replaced(&world)[1],
        line(&entry(2)["serial"], &entry(2)["grace_until"])
    );
    // The list says so, too, from the next time on that it is written.
    world.run(&["crl"]);
    let text = openssl(&world.path(""), "crl -noout -text -in ca.crl").unwrap();
    assert!(text.contains("Superseded"), "{text}");
    world.run(&["revoke", "gauge-7"]);
    assert_eq!(replaced(&world).len(), 1, "{:?}", replaced(&world));
}

#[test]
fn what_a_chip_gets_is_renewed_and_what_somebody_has_added_stays() {
    for init in [&[][..], &["--issuing"]] {
        let world = World::inhabited(init);
        world.run(&["device", "a", "--esp"]);
        let text = |name: &str| String::from_utf8(world.read(name)).unwrap();
        let add = |name: &str, line: &str| {
            fs::write(world.path(name), format!("{}{line}", text(name))).unwrap();
        };
        add("esp/a/nightjar_device.h", "#define MINE 1\n");
        add("esp/a/config.toml", "pin = 13\n");
        let (old_certificate, old_key) = (text("devices/a.crt"), text("devices/a.key"));
        world.run(&["renew", "a"]);
        world.run(&["renew", "a", "--new-key"]);
        let header = text("esp/a/nightjar_device.h");
        let has = |pem: &str| {
            let quoted = pem.lines().map(|line| format!("\"{line}\\n\""));
            header.contains(&quoted.collect::<Vec<String>>().join(" \\\n  "))
        };
        assert!(has(&text("devices/a.crt")) && has(&text("devices/a.key")) && has(&text("ca.crt")));
        assert!(!has(&old_certificate) && !has(&old_key));
        assert!(header.ends_with("#define MINE 1\n") && header.matches("#define").count() == 9);
        let config = text("esp/a/config.toml");
        let sha256 = world.run(&["fingerprint", "a"]);
        let sha256 = sha256.lines().next().unwrap().rsplit_once(' ').unwrap().1;
        assert!(
            config.contains(&format!("certificate_sha256 = \"{sha256}\"\n")),
            "{config}"
        );
        assert!(config.ends_with("pin = 13\n"));
    }
}

#[test]
fn a_certificate_is_renewed_without_its_key() {
    let world = World::inhabited(&[]);
    fs::remove_file(world.path("devices/gauge-7.key")).unwrap();
    world.run(&["renew", "gauge-7"]);
    assert!(!world.path("devices/gauge-7.key").exists());
    world.run(&["revoke", "gauge-7"]);
    let complaint = world.fails(1, &["renew", "gauge-7"]);
    assert!(complaint.contains("revoked"), "{complaint}");
}

#[test]
fn a_renewal_that_was_cut_off_is_made_again() {
    let world = World::inhabited(&[]);
    let before = world.read("devices/gauge-7.crt");
    world.run(&["renew", "gauge-7"]);
    // As if it had ended after the index was written.
    fs::write(world.path("devices/gauge-7.crt"), before).unwrap();
    world.run(&["renew", "gauge-7"]);
    let list = world.list();
    let status: Vec<_> = list.iter().map(|entry| entry["status"].clone()).collect();
    assert_eq!(status, ["valid", "replaced", "replaced", "valid"]);
    assert_eq!(list[1]["public_key_sha256"], list[3]["public_key_sha256"]);
    // What is no certificate of this device is not renewed as one.
    fs::write(
        world.path("devices/gauge-7.crt"),
        world.read("servers/localhost.crt"),
    )
    .unwrap();
    let complaint = world.fails(1, &["renew", "gauge-7"]);
    assert!(
        complaint.contains("no certificate of device gauge-7"),
        "{complaint}"
    );
}

#[test]
fn an_init_that_was_cut_off_is_told_apart_from_an_authority() {
    let world = World::new(&[]);
    fs::remove_file(world.path("index.jsonl")).unwrap();
    let complaint = world.fails(1, &["init"]);
    assert!(complaint.contains("cut off"), "{complaint}");
}

#[test]
fn the_root_key_is_not_needed_where_another_signs() {
    let world = World::new(&["--issuing"]);
    fs::remove_file(world.path("ca.key")).unwrap();
    world.run(&["server", "localhost"]);
    world.run(&["device", "gauge-7"]);
    world.run(&["revoke", "gauge-7"]);
    world.run(&["crl"]);
}

#[test]
fn a_batch_makes_what_is_missing() {
    let world = World::new(&[]);
    world.run(&["device", "gauge-1"]);
    let file = world.text("devices.csv");
    fs::write(
        &file,
        "id, tenant,site\n# the old hall\ngauge-1,,\ngauge-2, Plant, north\n\"gauge-3\",\"A, Co\",\n",
    )
    .unwrap();
    let report = world.run(&["batch", &file]);
    assert!(report.starts_with("Made 2 certificates"), "{report}");
    assert!(report.contains("1 were there already"), "{report}");
    let list = world.list();
    assert_eq!(list[1]["site"], "north");
    assert_eq!(list[2]["tenant"], "A, Co");
    assert!(list[2].get("site").is_none());
    let report = world.run(&["batch", &file]);
    assert!(report.starts_with("Made 0 certificates"), "{report}");
    assert_eq!(world.list().len(), 3);
}

#[test]
fn a_batch_with_faults_tells_all_of_them_and_makes_nothing() {
    let world = World::new(&[]);
    let file = world.text("devices.csv");
    fs::write(
        &file,
        "id,site\ngauge-1,north\nbad/id,\ngauge-1,\none,two,three\n",
    )
    .unwrap();
    let complaint = world.fails(3, &["batch", &file]);
    for part in [
        "line 3: \"bad/id\"",
        "line 4: gauge-1 is there twice",
        "line: 5",
    ] {
        assert!(complaint.contains(part), "{part} in {complaint}");
    }
    assert!(world.list().is_empty());
    fs::write(&file, "name\ngauge-1\n").unwrap();
    let complaint = world.fails(3, &["batch", &file]);
    assert!(complaint.contains("column \"name\""), "{complaint}");
}

#[test]
fn what_makes_no_sense_is_refused_with_3() {
    let world = World::new(&[]);
    let long = "x".repeat(65);
    for arguments in [
        &["device", ""][..],
        &["device", "../escape"],
        &["device", ".hidden"],
        &["device", "a/b"],
        &["device", "admin\u{1}"],
        &["device", "sensor+"],
        &["device", "#"],
        &["device", "größe"],
        &["device", &long],
        &["device", "a", "--site", ""],
        &["device", "a", "--days", "0"],
        &["device", "a", "--days", "10000"],
        &["device", "a", "--esp"],
        &["server", "under score"],
        &["server", "a..b"],
        &["server", "localhost", "--ip", "300.1.1.1"],
        &["server"],
        &["unknown"],
        &[],
    ] {
        let complaint = world.fails(3, arguments);
        assert!(!complaint.is_empty());
    }
    assert!(world.list().is_empty());
    for arguments in [
        &["revoke", "nobody"][..],
        &["renew", "nobody"],
        &["show", "nobody"],
    ] {
        let complaint = world.fails(1, arguments);
        assert!(complaint.contains("nobody"), "{complaint}");
    }
    let help = world.output(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
}

#[test]
fn a_name_of_both_a_server_and_a_device_must_be_told_apart_by_serial() {
    let world = World::new(&[]);
    world.run(&["server", "both"]);
    world.run(&["device", "both"]);
    let complaint = world.fails(3, &["revoke", "both"]);
    assert!(complaint.contains("serial number"), "{complaint}");
    let serial = world.list()[1]["serial"].as_str().unwrap().to_owned();
    world.run(&["revoke", &serial]);
    assert_eq!(world.list()[0]["status"], "valid");
    assert_eq!(world.list()[1]["status"], "revoked");
}

#[test]
fn runs_at_the_same_time_lose_nothing() {
    let world = World::new(&[]);
    thread::scope(|scope| {
        for number in 0..8 {
            let world = &world;
            scope.spawn(move || world.run(&["device", &format!("gauge-{number}")]));
        }
    });
    let mut ids: Vec<_> = world
        .list()
        .iter()
        .map(|entry| entry["id"].as_str().unwrap().to_owned())
        .collect();
    ids.sort();
    let expected: Vec<_> = (0..8).map(|number| format!("gauge-{number}")).collect();
    assert_eq!(ids, expected);
}

#[test]
fn a_damaged_index_or_a_wrong_key_is_named_and_left_as_it_is() {
    let world = World::inhabited(&[]);
    let index = world.read("index.jsonl");
    fs::write(
        world.path("index.jsonl"),
        [&index[..], b"{\"serial\": 7}\n"].concat(),
    )
    .unwrap();
    let complaint = world.fails(1, &["device", "gauge-8"]);
    assert!(complaint.contains("index.jsonl: line 3"), "{complaint}");
    assert!(!world.path("devices/gauge-8.crt").exists());
    fs::write(world.path("index.jsonl"), &index).unwrap();
    fs::write(world.path("ca.key"), world.read("devices/gauge-7.key")).unwrap();
    let complaint = world.fails(1, &["device", "gauge-8"]);
    assert!(complaint.contains("is not the key of"), "{complaint}");
    assert_eq!(world.read("index.jsonl"), index);
}

#[test]
fn a_certificate_of_somebody_else_is_shown_and_forges_nothing() {
    let world = World::new(&[]);
    let mut params = rcgen::CertificateParams::default();
    let name = "evil\u{1b}[2J\nstatus                valid";
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    fs::write(world.path("other.der"), certificate.der()).unwrap();
    let report = world.run(&["show", &world.text("other.der")]);
    assert!(report.contains("evil"), "{report}");
    assert!(
        !report.contains('\u{1b}') && !report.contains("\nstatus"),
        "{report}"
    );
    assert!(report.contains("not in the index"), "{report}");
}
