//! The same logins at Mosquitto and here: every combination of what is configured and what a client says, compared.

use std::fs;
use std::net::SocketAddr;

use harness::{Broker, Client, Connect, Mosquitto, TemporaryDirectory, hex, program};

use crate::world::{ALICE, IVY};

/// The answer without the properties of a success, which are not the same in all versions of Mosquitto, and whether the
/// connection is closed.
fn answer(address: SocketAddr, connect: &Connect) -> String {
    let mut client = Client::open_at(address);
    client.send(&connect.bytes());
    match client.try_receive_packet() {
        Ok(packet) if packet.get(3) == Some(&0) => "accepted".into(),
        Ok(packet) => {
            client.expect_close();
            format!("{}, then the close", hex(&packet))
        }
        Err(_) => {
            client.expect_close();
            "the close".into()
        }
    }
}

#[test]
fn every_login_is_answered_as_by_mosquitto() {
    let Some(mosquitto) = program("mosquitto") else {
        return;
    };
    let directory = TemporaryDirectory::new("compared");
    fs::create_dir(directory.path()).unwrap();
    let passwords = directory.path().join("passwd");
    fs::write(&passwords, format!("{ALICE}{IVY}")).unwrap();
    let names = [
        None,
        Some(""),
        Some("alice"),
        Some("Alice"),
        Some("ivy"),
        Some("zoe"),
        Some("alice "),
    ];
    let words = [None, Some(""), Some("secret"), Some("s"), Some("secret ")];
    let mut compared = 0;
    for has_file in [false, true] {
        for anonymous in [false, true] {
            let mut theirs = format!("allow_anonymous {anonymous}\n");
            let mut ours = format!("allow_anonymous = {anonymous}\nauth_failures_max = 0\n");
            if has_file {
                theirs += &format!("password_file {}\n", passwords.display());
                ours += &format!("password_file = {passwords:?}\n");
            }
            ours += "[[listeners]]\naddress = \"127.0.0.1:{port}\"\n";
            let theirs = Mosquitto::start(&mosquitto, directory.path(), &theirs);
            let ours = Broker::options().toml(&ours).start();
            for version in [3, 4, 5] {
                for name in names {
                    for word in words {
                        let mut connect = match version {
                            3 => Connect::v3("c"),
                            4 => Connect::v4("c"),
                            _ => Connect::v5("c"),
                        };
                        if let Some(name) = name {
                            connect = connect.username(name);
                        }
                        if let Some(word) = word {
                            connect = connect.password(word);
                        }
                        assert_eq!(
                            answer(ours.address(), &connect),
                            answer(theirs.address, &connect),
                            "version {version}, {name:?}, {word:?}, file {has_file}, anonymous {anonymous}"
                        );
                        compared += 1;
                    }
                }
            }
        }
    }
    assert_eq!(compared, 420);
}
