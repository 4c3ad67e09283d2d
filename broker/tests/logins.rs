//! Logins at the pump: verdicts that come late or for nobody, reloads on the way, and who may stay after one.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use nightjar::auth::backoff::Backoff;
use nightjar::auth::hash::Cost;
use nightjar::auth::{Auth, Hash, PasswordFile, Passwords, Request, Submitted, Verdict, Verifier};
use nightjar::clock::Now;
use nightjar::exchange::Exchange;
use nightjar::identity::ConnectionId;
use nightjar::settings::{CertificateName, ListenerSettings, Settings, TlsSettings};
use nightjar::shard::{PostOffice, Shard, Shared};
use nightjar_certs::{Client, Identity, Void};

mod support;

use support::take;

/// Keeps what it is asked, until the test has it answered.
#[derive(Default)]
struct Slow(Mutex<Vec<Request>>);

impl Verifier for Slow {
    fn submit(&self, request: Request) -> Submitted {
        self.0.lock().unwrap().push(request);
        Submitted::Later
    }
}

struct World {
    shard: Shard,
    slow: Arc<Slow>,
}

/// Seconds since 1970, at the beginning.
const WALL: u64 = 1_600_000_000;
const CONNACK: [u8; 4] = [0x20, 2, 0, 0];
const REFUSED: [u8; 4] = [0x20, 2, 0, 5];

#[test]
fn a_connection_is_not_read_while_its_password_is_compared() {
    let mut world = world(&[("alice", "1")], |_| {});
    let id = world.log_in("c", "alice", "1");
    assert!(!world.shard.may_read(id));
    world.shard.receive(at(0), id, &[0xc0, 0]);
    assert!(world.sent(id).is_empty());
    assert_eq!(world.shard.unread_bytes(id), 2);
    world.answer();
    assert!(world.shard.may_read(id));
    world.shard.receive(at(0), id, &[]);
    assert_eq!(world.sent(id), [&CONNACK[..], &[0xd0, 0]].concat());
}

#[test]
fn a_verdict_for_a_connection_that_is_gone_is_for_nobody() {
    let mut world = world(&[("alice", "1")], |_| {});
    let gone = world.log_in("c", "alice", "1");
    world.shard.closed(at(0), gone);
    // In its place, and without a password.
    let next = world.shard.open(at(0), "192.0.2.9:1", &Arc::default());
    assert_eq!(next.slot, gone.slot);
    world.answer();
    assert!(world.sent(next).is_empty());
    assert_eq!(world.shard.sessions(), 0);
    // Nor does a second verdict change anything for one that is served.
    let served = world.log_in("d", "alice", "1");
    world.answer();
    assert_eq!(world.sent(served), CONNACK);
    world.shard.verified(at(0), served, Verdict::WrongPassword);
    world.shard.receive(at(0), served, &[0xc0, 0]);
    assert_eq!(world.sent(served), [0xd0, 0]);
}

#[test]
fn a_password_that_is_compared_too_long_ends_with_connect_timeout() {
    let mut world = world(&[("alice", "1")], |_| {});
    let id = world.log_in("c", "alice", "1");
    world.shard.tick(at(10_000));
    assert!(world.shard.is_closing(id));
    world.answer();
    assert!(world.sent(id).is_empty());
    assert_eq!(world.shard.sessions(), 0);
}

#[test]
fn a_password_that_was_changed_while_it_was_compared_is_none() {
    for (now_known, answer) in [
        (&[("alice", "2")][..], REFUSED),
        (&[("bob", "1")], REFUSED),
        (&[], REFUSED),
        (&[("alice", "1"), ("bob", "2")], CONNACK),
    ] {
        let mut world = world(&[("alice", "1")], |_| {});
        let id = world.log_in("c", "alice", "1");
        world.shard.reauthenticate_all(at(0), passwords(now_known));
        world.answer();
        assert_eq!(world.sent(id), answer, "{now_known:?}");
    }
}

#[test]
fn after_a_reload_only_those_have_to_go_who_would_not_come_in() {
    let mut world = world(&[("alice", "1"), ("bob", "1"), ("carl", "1")], |settings| {
        settings.security.allow_anonymous = true;
    });
    let mut clients = BTreeMap::new();
    for user in ["alice", "bob", "carl"] {
        let id = world.log_in(user, user, "1");
        world.answer();
        assert_eq!(world.sent(id), CONNACK);
        clients.insert(user, id);
    }
    let nobody = world.open(&connect("nobody", None));
    assert_eq!(world.sent(nobody), CONNACK);
    // alice is gone, bob has another password, of carl and nobody nothing has changed.
    let known = passwords(&[("bob", "2"), ("carl", "1"), ("dora", "1")]);
    world.shard.reauthenticate_all(at(0), known);
    let closing = |world: &World, user| world.shard.is_closing(clients[user]);
    assert!(closing(&world, "alice") && closing(&world, "bob"));
    assert!(!closing(&world, "carl") && !world.shard.is_closing(nobody));
}

/// Where certificates say who somebody is, no password file has a say in it.
#[test]
fn a_reload_of_passwords_leaves_those_alone_who_came_with_a_certificate() {
    let mut world = world(&[("alice", "1")], |_| {});
    let id = world.open_certified(&certified("device", u64::MAX), |_| {});
    world.shard.receive(at(0), id, &connect("c", None));
    assert_eq!(world.sent(id), CONNACK);
    world
        .shard
        .reauthenticate_all(at(0), passwords(&[("bob", "1")]));
    assert!(!world.shard.is_closing(id));
}

#[test]
fn t6_a_connection_ends_in_the_second_after_its_certificate() {
    let mut world = world(&[], |_| {});
    let client = certified("device", WALL + 10);
    let id = world.open_certified(&client, |_| {});
    world.shard.receive(at(0), id, &connect("c", None));
    assert_eq!(world.sent(id), CONNACK);
    for (time, is_over) in [(9_999, false), (10_999, false), (11_000, true)] {
        world.shard.tick(at(time));
        assert_eq!(world.shard.is_closing(id), is_over, "{time}");
    }
}

#[test]
fn t6_a_clock_that_was_set_back_ends_no_certificate_early() {
    let mut world = world(&[], |_| {});
    let id = world.open_certified(&certified("device", WALL + 10), |_| {});
    let moment = |monotonic: u64, wall: u64| Now {
        monotonic: 1_000 + monotonic,
        wall: WALL * 1000 + wall,
    };
    world.shard.receive(at(0), id, &connect("c", None));
    world.shard.tick(moment(11_000, 1_000));
    assert!(!world.shard.is_closing(id));
    world.shard.tick(moment(20_999, 10_999));
    assert!(!world.shard.is_closing(id));
    world.shard.tick(moment(21_000, 11_000));
    assert!(world.shard.is_closing(id));
}

#[test]
fn t6_who_has_a_void_certificate_goes_wherever_it_is_and_nobody_else() {
    let mut world = world(&[], |_| {});
    let revoked = certified("one", u64::MAX);
    let served = world.open_certified(&revoked, |_| {});
    world.shard.receive(at(0), served, &connect("a", None));
    let greeting = world.open_certified(&revoked, |_| {});
    let other = world.open_certified(&certified("two", u64::MAX), |_| {});
    revoked.make_void(Void::Revoked);
    world.shard.part_with_void(at(0));
    assert!(world.shard.is_closing(served) && world.shard.is_closing(greeting));
    assert!(!world.shard.is_closing(other));
    // One that was on its way from another shard.
    let late = world.open_certified(&revoked, |_| {});
    assert!(world.shard.is_closing(late));
}

#[test]
fn t5_a_client_id_is_bound_to_the_name_of_the_certificate() {
    let mut world = world(&[], |_| {});
    // 3.1.1: identifier rejected.
    let rejected = vec![0x20, 2, 0, 2];
    for (id, from, answer) in [
        ("device", CertificateName::CommonName, CONNACK.to_vec()),
        ("device", CertificateName::Uri, rejected.clone()),
        ("by-uri", CertificateName::Uri, CONNACK.to_vec()),
        ("by-uri", CertificateName::Dns, REFUSED.to_vec()),
        ("other", CertificateName::CommonName, rejected),
    ] {
        let connection = world.open_certified(&certified("device", u64::MAX), |tls| {
            tls.bind_client_id = true;
            tls.identity_from = from;
        });
        let packet = connect(id, None);
        world.shard.receive(at(0), connection, &packet);
        assert_eq!(world.sent(connection), answer, "{id} {from:?}");
    }
    assert_eq!(world.shard.counters().client_ids_not_bound, 2);
}

/// The client of a listener that takes the user from the certificate.
fn certified(name: &str, not_after: u64) -> Arc<Client> {
    let identity = Identity {
        common_name: Some(name.into()),
        subject: format!("CN={name}").into(),
        dns_names: Vec::new(),
        uris: vec!["device:by-uri".into()],
        serial: "1".into(),
    };
    Arc::new(Client::named(identity, not_after))
}

#[test]
fn a_refusal_that_has_to_wait_comes_late_and_reads_nothing() {
    let mut world = world(&[("alice", "1")], |_| {});
    // From many addresses, so that none of them is refused unseen.
    let mut last = None;
    for host in 0..30 {
        let id = world
            .shard
            .open(at(0), format!("192.0.2.{host}:1").as_str(), &Arc::default());
        let packet = connect("c", Some(("alice", "x")));
        world.shard.receive(at(0), id, &packet);
        world.answer();
        last = Some(id);
    }
    let id = last.unwrap();
    assert!(world.sent(id).is_empty() && !world.shard.may_read(id));
    world.shard.tick(at(999));
    assert!(world.sent(id).is_empty());
    world.shard.tick(at(1000));
    assert_eq!(world.sent(id), REFUSED);
    assert!(world.shard.is_closing(id));
}

#[test]
fn users_that_are_configured_and_not_loaded_let_nobody_in() {
    let mut world = world(&[], |settings| {
        settings.security.password_file = Some("elsewhere".into());
        settings.security.allow_anonymous = true;
    });
    let id = world.log_in("c", "alice", "1");
    assert_eq!(world.sent(id), REFUSED);
}

#[test]
fn logins_are_counted() {
    let mut world = world(&[("alice", "1")], |_| {});
    for password in ["1", "2", "3"] {
        world.log_in("c", "alice", password);
        world.answer();
    }
    let counters = world.shard.counters();
    assert_eq!((counters.logins_accepted, counters.logins_refused), (1, 2));
}

impl World {
    fn open(&mut self, packet: &[u8]) -> ConnectionId {
        let id = self.shard.open(at(0), "192.0.2.1:1", &Arc::default());
        self.shard.receive(at(0), id, packet);
        id
    }

    fn open_certified(
        &mut self,
        client: &Arc<Client>,
        change: impl Fn(&mut TlsSettings),
    ) -> ConnectionId {
        let mut tls = TlsSettings {
            use_subject_as_username: true,
            ..TlsSettings::default()
        };
        change(&mut tls);
        let listener = ListenerSettings {
            tls: Some(tls),
            ..ListenerSettings::default()
        };
        let id = self.shard.open(at(0), "192.0.2.1:1", &Arc::new(listener));
        self.shard.identify(at(0), id, client);
        id
    }

    fn log_in(&mut self, client_id: &str, user: &str, password: &str) -> ConnectionId {
        self.open(&connect(client_id, Some((user, password))))
    }

    /// Gives every verdict that is awaited.
    fn answer(&mut self) {
        let requests = std::mem::take(&mut *self.slow.0.lock().unwrap());
        for request in requests {
            let verdict = request.verify();
            self.shard.verified(at(0), request.connection, verdict);
        }
    }

    fn sent(&mut self, id: ConnectionId) -> Vec<u8> {
        self.shard.end_turn(at(0));
        take(&mut self.shard, at(0), id)
    }
}

fn at(milliseconds: u64) -> Now {
    Now {
        monotonic: 1_000 + milliseconds,
        wall: WALL * 1000 + milliseconds,
    }
}

fn passwords(users: &[(&str, &str)]) -> Arc<Passwords> {
    let line = |(user, password): &(&str, &str)| {
        let hash = Hash::make(Cost::Sha512, &[1; 12], password.as_bytes());
        format!("{user}:{hash}\n")
    };
    let text: String = users.iter().map(line).collect();
    let file = PasswordFile::parse(text.as_bytes()).unwrap();
    let files = [(PathBuf::from("passwd"), Arc::new(file))];
    Arc::new(Passwords::new(files.into()))
}

fn world(users: &[(&str, &str)], change: impl Fn(&mut Settings)) -> World {
    let mut settings = Settings::default();
    settings.security.allow_anonymous = false;
    settings.security.password_file = Some("passwd".into());
    change(&mut settings);
    let settings = Arc::new(settings);
    let slow = Arc::new(Slow::default());
    let shared = Shared {
        exchange: Arc::new(Exchange::new(&settings, 1, 7)),
        post: Arc::new(PostOffice::new(1, settings.mail_bytes_max)),
        methods: std::iter::empty().collect(),
        auth: Auth {
            passwords: passwords(users),
            verifier: Arc::clone(&slow) as Arc<dyn Verifier>,
            backoff: Arc::new(Backoff::new(7, 5)),
        },
        authorization: Default::default(),
        journal: None,
        hash_seed: 7,
        client_id_seed: [7; 32],
        settings,
    };
    World {
        shard: Shard::new(0, shared),
        slow,
    }
}

/// 3.1.1, clean.
fn connect(client_id: &str, user: Option<(&str, &str)>) -> Vec<u8> {
    let mut body = b"\0\x04MQTT\x04".to_vec();
    body.extend([if user.is_some() { 0xc2 } else { 2 }, 0, 60]);
    let mut texts = vec![client_id];
    texts.extend(
        user.into_iter()
            .flat_map(|(user, password)| [user, password]),
    );
    for text in texts {
        body.extend([0, text.len() as u8]);
        body.extend(text.as_bytes());
    }
    [&[0x10, body.len() as u8][..], &body].concat()
}
