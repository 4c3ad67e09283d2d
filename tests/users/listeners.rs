//! Listeners with users of their own (A14): who comes in where, what he may do there, and whose session is whose.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use harness::{Broker, Client, Connect, TemporaryDirectory, free_port, hex, packet};

use crate::world::{ALICE, IVY};

/// Four doors of one house: alice's, one for everybody, one that nobody said anything about, ivy's and everybody's.
struct House {
    broker: Broker,
    doors: [SocketAddr; 4],
    directory: TemporaryDirectory,
}

#[derive(Clone, Copy, Debug)]
enum Language {
    Toml,
    MosquittoConf,
}

impl House {
    fn new(language: Language) -> Self {
        let directory = TemporaryDirectory::new("doors");
        fs::create_dir(directory.path()).unwrap();
        for (name, text) in [
            ("alice", ALICE),
            ("ivy", IVY),
            ("own", "user alice\ntopic own/#\n"),
            ("open", "pattern readwrite open/#\n"),
            ("both", "pattern readwrite open/#\nuser ivy\ntopic own/#\n"),
        ] {
            fs::write(directory.path().join(name), text).unwrap();
        }
        Self::start(language, directory)
    }

    fn start(language: Language, directory: TemporaryDirectory) -> Self {
        let ports = [free_port(), free_port(), free_port(), free_port()];
        let text = match language {
            Language::Toml => toml(directory.path(), &ports),
            Language::MosquittoConf => mosquitto_conf(directory.path(), &ports),
        };
        let options = Broker::options().argument("-v");
        let mut broker = match language {
            Language::Toml => options.toml(&text).start(),
            Language::MosquittoConf => options.mosquitto_conf(&text).start(),
        };
        broker.wait_for_log("version 0.1.0 running");
        let doors = ports.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        Self {
            broker,
            doors,
            directory,
        }
    }

    fn again(mut self, language: Language) -> Self {
        self.broker.terminate();
        Self::start(language, self.directory)
    }
}

/// The file says `{port}` for a fifth listener, which the harness waits for.
fn toml(directory: &Path, ports: &[u16; 4]) -> String {
    let file = |name: &str| format!("{:?}", directory.join(name));
    let listener = |port: u16| format!("[[listeners]]\naddress = \"127.0.0.1:{port}\"\n");
    [
        format!("data_directory = {}\n", file("data")),
        "auth_failures_max = 0\n[[listeners]]\naddress = \"127.0.0.1:{port}\"\n".to_owned(),
        listener(ports[0]),
        format!(
            "[listeners.security]\npassword_file = {}\nacl_file = {}\nacl_subscribe = \"mosquitto\"\n",
            file("alice"),
            file("own")
        ),
        listener(ports[1]),
        format!(
            "[listeners.security]\nallow_anonymous = true\nacl_file = {}\nacl_subscribe = \"mosquitto\"\n",
            file("open")
        ),
        listener(ports[2]),
        listener(ports[3]),
        format!(
            "[listeners.security]\nallow_anonymous = true\npassword_file = {}\nacl_file = {}\nacl_subscribe = \"mosquitto\"\n",
            file("ivy"),
            file("both")
        ),
    ]
    .concat()
}

fn mosquitto_conf(directory: &Path, ports: &[u16; 4]) -> String {
    let file = |name: &str| directory.join(name).display().to_string();
    [
        format!(
            "user root\npersistence true\npersistence_location {}/\n",
            directory.display()
        ),
        "per_listener_settings true\nlistener {port} 127.0.0.1\n".to_owned(),
        format!("listener {} 127.0.0.1\n", ports[0]),
        format!(
            "password_file {}\nacl_file {}\n",
            file("alice"),
            file("own")
        ),
        format!("listener {} 127.0.0.1\n", ports[1]),
        format!("allow_anonymous true\nacl_file {}\n", file("open")),
        format!("listener {} 127.0.0.1\n", ports[2]),
        format!("listener {} 127.0.0.1\n", ports[3]),
        format!(
            "allow_anonymous true\npassword_file {}\nacl_file {}\n",
            file("ivy"),
            file("both")
        ),
    ]
    .concat()
}

/// CONNECT, and whether the answer is a success.
fn try_to_connect(door: SocketAddr, connect: &Connect) -> Option<Client> {
    let mut client = Client::open_at(door);
    client.send(&connect.bytes());
    client.connack = client.receive_packet();
    assert_eq!(client.connack[0], 0x20, "{}", hex(&client.connack));
    (client.connack_body()[1] == 0).then_some(client)
}

const LOGINS: [(&str, Option<(&str, &str)>); 5] = [
    ("nobody", None),
    ("alice", Some(("alice", "secret"))),
    ("ivy", Some(("ivy", "s"))),
    ("not alice", Some(("alice", "wrong"))),
    ("not ivy", Some(("ivy", "secret"))),
];

fn of(client_id: &str, login: Option<(&str, &str)>) -> Connect {
    let connect = Connect::v5(client_id).clean(false).properties("11 L600");
    match login {
        Some((user, password)) => connect.username(user).password(password),
        None => connect,
    }
}

#[test]
fn a14_each_listener_has_its_own_users_and_rules_and_without_any_nobody_comes_in() {
    for language in [Language::Toml, Language::MosquittoConf] {
        let house = House::new(language);
        // For each of the logins: alice's door, the open one, the silent one, ivy's.
        let expected = [
            [false, true, false, true],
            [true, true, false, false],
            [false, true, false, true],
            [false, true, false, false],
            [false, true, false, false],
        ];
        for ((name, login), row) in LOGINS.iter().zip(expected) {
            for ((place, door), is_let_in) in house.doors.iter().enumerate().zip(row) {
                let id = format!("{name}-{place}");
                let client = try_to_connect(*door, &of(&id, *login));
                let what = format!("{language:?} {name} at door {place}");
                assert_eq!(client.is_some(), is_let_in, "{what}");
                let Some(mut client) = client else { continue };
                // The rules are those of the door, not of the user's other doors.
                let own = *name == "alice" && place == 0 || *name == "ivy" && place == 3;
                for (topic, expected) in [("open/x", place == 1 || place == 3), ("own/x", own)] {
                    client.send(&packet("32", &format!("s'{topic}' m1 00 'x'")));
                    let puback = client.receive_packet();
                    let is_allowed = puback.get(4) != Some(&0x87);
                    assert_eq!(is_allowed, expected, "{what}: {topic}");
                }
            }
        }
    }
}

/// A session that was made by a user who proved who he is, with a message in its queue, and who comes for it by other doors, before and
/// after a restart.
#[test]
fn a14_a_session_is_not_to_be_had_by_another_door() {
    for language in [Language::Toml, Language::MosquittoConf] {
        let mut house = House::new(language);
        let [own, open, silent, _] = house.doors;
        let alice = of("device", Some(("alice", "secret")));
        let mut client = try_to_connect(own, &alice).unwrap();
        client.send(&packet("82", "m1 00 s'own/#' 01"));
        client.expect("90 04 m1 00 01");
        client.disconnect();
        let mut publisher = try_to_connect(own, &of("p", Some(("alice", "secret")))).unwrap();
        publisher.send(&packet("32", "s'own/x' m1 00 'kept'"));
        assert_eq!(publisher.receive_packet()[0], 0x40);
        for round in 0..2 {
            let [own, open, silent, both] = if round == 0 {
                [own, open, silent, house.doors[3]]
            } else {
                house.doors
            };
            for (name, login) in LOGINS {
                for door in [open, silent, both] {
                    for clean in [false, true] {
                        let connect = of("device", login).clean(clean);
                        let client = try_to_connect(door, &connect);
                        assert!(client.is_none(), "{language:?} {round} {name} {door}");
                    }
                }
            }
            if round == 0 {
                house = house.again(language);
            } else {
                let mut client = try_to_connect(own, &alice).unwrap();
                assert!(client.session_present());
                let message = client.receive_packet();
                assert_eq!(message, packet("32", "s'own/x' m1 00 'kept'"));
            }
        }
        house.broker.wait_for_log("belongs to another user");
    }
}

/// Names that nobody checks protect nothing from each other, as in Mosquitto.
#[test]
fn where_names_are_claims_the_client_id_is_the_session() {
    let house = House::new(Language::Toml);
    let open = house.doors[1];
    drop(try_to_connect(open, &of("device", Some(("bob", "x")))).unwrap());
    let client = try_to_connect(open, &of("device", Some(("carl", "x")))).unwrap();
    assert!(client.session_present());
    // Even one that is a user's elsewhere: it was only said.
    drop(try_to_connect(open, &of("other", Some(("alice", "x")))).unwrap());
    let client = try_to_connect(open, &of("other", None)).unwrap();
    assert!(client.session_present());
}
