//! Files that are wrong: exit code 3, every fault at once, and nothing on the way.

use harness::TemporaryDirectory;

use crate::started::{Verdict, file, free_port, nightjar, stderr, try_to_start};

#[test]
fn every_fault_of_a_mosquitto_conf_is_told_at_once_with_exit_code_3() {
    let directory = TemporaryDirectory::new("faults");
    let text = "allow_anonymous maybe\nlistener 70000\nzork 1\nmax_packet_size -3\nplugin /x/go-auth.so\npsk_hint x\n";
    let path = file(&directory, "mosquitto.conf", text);
    let path = path.to_str().unwrap();
    for arguments in [
        &["-c", path][..],
        &["-c", path, "--test-config"],
        &["config", "migrate", path],
        &["config", "show", "-c", path],
    ] {
        let output = nightjar(arguments);
        assert_eq!(output.status.code(), Some(3), "{arguments:?}");
        let said = stderr(&output);
        for line in 1..=6 {
            let place = format!("\nError found at {path}:{line}.\n");
            assert_eq!(said.matches(&place).count(), 1, "{place}{said}");
        }
        assert!(
            said.starts_with("Error: Invalid 'allow_anonymous' value (maybe)."),
            "{said}"
        );
        assert_eq!(said.matches("Error: ").count(), 6, "{said}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn every_fault_of_a_nightjar_toml_is_told_at_once_with_exit_code_3() {
    let directory = TemporaryDirectory::new("faults");
    let text = "zork = 1\nmaximum_qos = 3\n[[listeners]]\naddress = \"nowhere\"\nport = 3\n";
    let path = file(&directory, "nightjar.toml", text);
    let output = nightjar(&["-c", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(3));
    let said = stderr(&output);
    for line in [1, 2, 4, 5] {
        assert!(
            said.contains(&format!("Error found at {}:{line}.\n", path.display())),
            "{said}"
        );
    }
}

#[test]
fn certificates_that_cannot_be_used_are_told_of_all_listeners_by_test_config() {
    let directory = TemporaryDirectory::new("faults");
    let text = "listener 8883\ncertfile /none/a.crt\nkeyfile /none/a.key\nlistener 8884\ncertfile /none/b.crt\nkeyfile /none/b.key\n";
    let path = file(&directory, "mosquitto.conf", text);
    let output = nightjar(&["-c", path.to_str().unwrap(), "--test-config"]);
    assert_eq!(output.status.code(), Some(3));
    let said = stderr(&output);
    for part in ["8883: certfile /none/a.crt ", "8884: certfile /none/b.crt "] {
        assert_eq!(said.matches(part).count(), 1, "{part}: {said}");
    }
    assert_eq!(said.matches("Error: Listener ").count(), 2, "{said}");
}

/// In words, and without the numbers of its bytes.
#[test]
fn a_certificate_that_is_cut_off_is_told_as_that() {
    let directory = TemporaryDirectory::new("faults");
    let cut = "-----BEGIN CERTIFICATE-----\nMIIB\n";
    let certificate = file(&directory, "cut.crt", cut);
    let text = format!(
        "listener 8883\ncertfile {0}\nkeyfile {0}\n",
        certificate.display()
    );
    let path = directory.path().join("mosquitto.conf");
    std::fs::write(&path, text).unwrap();
    let output = nightjar(&["-c", path.to_str().unwrap(), "--test-config"]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(
        said.contains("cut.crt cannot be used: it is cut off"),
        "{said}"
    );
    assert!(!said.contains("[45"), "{said}");
}

/// A bridge is checked, and no broker starts without it.
#[test]
fn what_this_version_cannot_be_is_right_but_does_not_start() {
    let directory = TemporaryDirectory::new("faults");
    let cases = [(
        "connection up\naddress host.example\ntopic # out 1\nremote_password geheim\n",
        ":1: connection 'up': bridges are not in this version",
    )];
    for (text, expected) in cases {
        let path = file(&directory, "mosquitto.conf", text);
        let checked = nightjar(&["--test-config", "-c", path.to_str().unwrap()]);
        assert_eq!(checked.status.code(), Some(0), "{}", stderr(&checked));
        assert!(String::from_utf8_lossy(&checked.stdout).contains(expected));
        let Verdict::Refused { code, log } = try_to_start(harness::binary(), &path, free_port())
        else {
            panic!("a broker runs on {text}");
        };
        assert_eq!(code, Some(3), "{log}");
        assert!(log.contains(expected) && !log.contains("geheim"), "{log}");
    }
}

#[test]
fn the_example_is_a_file_that_can_be_used() {
    let directory = TemporaryDirectory::new("faults");
    let example = nightjar(&["config", "example"]);
    let path = file(
        &directory,
        "nightjar.toml",
        &String::from_utf8_lossy(&example.stdout),
    );
    let checked = nightjar(&["--test-config", "-c", path.to_str().unwrap()]);
    assert_eq!(checked.status.code(), Some(0), "{}", stderr(&checked));
    let toml = nightjar(&["config", "migrate", path.to_str().unwrap()]);
    assert_eq!(toml.status.code(), Some(3));
    assert!(stderr(&toml).contains("not a mosquitto.conf"));
}
