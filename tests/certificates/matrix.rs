//! Every kind of certificate, on every door, in both versions of TLS, fresh and with a session from elsewhere: who should not be let in is
//! not, hears which alert it is, and leaves one line in the log.

use std::time::Duration;

use harness::{Broker, Connect};
use rcgen::{DnType, ExtendedKeyUsagePurpose};
use rustls::SupportedProtocolVersion;
use rustls::client::Tls12Resumption;
use rustls::version::{TLS12, TLS13};
use time::OffsetDateTime;

use crate::forger::{Draft, Forger, Papers, REVOKED};
use crate::guest::{Door, Guest, Reception};

/// A kind of certificate, and what becomes of its owner.
struct Kind {
    name: &'static str,
    papers: Option<Papers>,
    expected: Expected,
}

#[derive(Clone, Copy)]
enum Expected {
    /// Let in under this name.
    In(&'static str),
    /// The alerts of TLS 1.2 and 1.3, and what the log says.
    Out([u8; 2], &'static str),
    /// The library closes without an alert.
    Closed(&'static str),
}

#[test]
fn t6_of_all_kinds_of_certificates_only_the_valid_ones_come_in() {
    let world = World::new();
    let mut faults = Vec::new();
    for kind in kinds(&world.forger) {
        for version in VERSIONS {
            for door in [Door::Tcp, Door::Web] {
                let guest = Guest::new(version, kind.papers.as_ref());
                faults.extend(world.fault(&kind, &guest, version, door));
                // What it gets at the door that asks for nothing helps at no other.
                for _ in 0..2 {
                    let elsewhere = guest.visit(world.port(Place::Open), Door::Tcp);
                    let came_in = matches!(elsewhere.reception, Reception::In { .. });
                    assert!(came_in, "{}: {:?}", kind.name, elsewhere.reception);
                }
                faults.extend(world.fault(&kind, &guest, version, door));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn t6_a_session_of_a_door_for_others_is_worth_nothing_at_ours() {
    let world = World::new();
    let papers = world.forger.other.sign(&Draft::named("stranger"));
    for version in VERSIONS {
        for tls12 in RESUMPTIONS {
            for (there, here) in [(Place::Others, Door::Tcp), (Place::Others, Door::Web)] {
                let guest = Guest::resuming(version, Some(&papers), tls12);
                for resumed in [false, true] {
                    let there = guest.visit(world.port(there), Door::Tcp);
                    assert_eq!(there.reception, Reception::In { resumed });
                }
                let at_ours = guest.visit(world.port(Place::of(here)), here);
                assert_eq!(at_ours.reception, Reception::Alert(UNKNOWN_CA));
            }
        }
    }
}

#[test]
fn t5_a_resumed_session_is_that_of_the_certificate_it_began_with() {
    let mut world = World::new();
    let names = ["gauge-1", "gauge-2", "gauge-3"];
    let papers = names.map(|name| world.forger.trusted.sign(&Draft::named(name)));
    for version in VERSIONS {
        for tls12 in RESUMPTIONS {
            for door in [Door::Tcp, Door::Web] {
                let guests = papers
                    .each_ref()
                    .map(|papers| Guest::resuming(version, Some(papers), tls12));
                for resumed in [false, true, true] {
                    for (guest, name) in guests.iter().zip(names) {
                        // Who claims to be somebody else is not.
                        // A client id of each: it belongs to whoever has it.
                        let connect = Connect::v4(name).username("admin").password("admin");
                        let visit = guest.visit_with(world.port(Place::of(door)), door, &connect);
                        assert_eq!(visit.reception, Reception::In { resumed }, "{version:?}");
                        let line =
                            format!("from {} as {name} (p4, c1, k60, u'{name}').", visit.address);
                        world.broker.wait_for_log(&line);
                    }
                }
            }
        }
    }
    assert!(!world.broker.log().contains("u'admin'"));
}

#[test]
fn t5_of_a_subject_no_part_is_taken_for_another() {
    let forger = Forger::new();
    let listener = format!(
        "{LISTENER}{}use_subject_as_username = true\n",
        forger.strict()
    );
    let mut broker = Broker::options().toml(&listener).start();
    let organization = DnType::OrganizationName;
    let two = |first: (DnType, &str), second: (DnType, &str)| {
        let mut draft = Draft::named("");
        draft.names = vec![(first.0, first.1.into()), (second.0, second.1.into())];
        draft
    };
    let drafts = [
        (
            two(
                (organization.clone(), "plant"),
                (DnType::CommonName, "gauge"),
            ),
            "CN=gauge,O=plant",
        ),
        (Draft::named("gauge,O=plant"), "CN=gauge\\,O=plant"),
        (
            two((DnType::CommonName, "plant"), (organization, "gauge")),
            "O=gauge,CN=plant",
        ),
        (Draft::named("gauge;O=plant"), "CN=gauge\\;O=plant"),
    ];
    for (draft, subject) in drafts {
        let papers = forger.trusted.sign(&draft);
        for version in VERSIONS {
            let guest = Guest::new(version, Some(&papers));
            for resumed in [false, true] {
                let visit = guest.visit(broker.port, Door::Tcp);
                assert_eq!(visit.reception, Reception::In { resumed }, "{subject}");
                broker.wait_for_log(&visit.line(&subject.escape_debug().to_string()));
            }
        }
    }
}

#[test]
fn t6_a_certificate_that_was_revoked_since_resumes_nothing() {
    let mut world = World::new();
    let mut draft = Draft::named("gauge-8");
    draft.serial = 8;
    let papers = world.forger.trusted.sign(&draft);
    let mut guests = Vec::new();
    for version in VERSIONS {
        for tls12 in RESUMPTIONS {
            for door in [Door::Tcp, Door::Web] {
                let guest = Guest::resuming(version, Some(&papers), tls12);
                for resumed in [false, true] {
                    let visit = guest.visit(world.port(Place::of(door)), door);
                    assert_eq!(visit.reception, Reception::In { resumed });
                }
                guests.push((guest, door));
            }
        }
    }
    world.forger.revoke(&[REVOKED, draft.serial]);
    crate::reload(&mut world.broker, 1);
    for (guest, door) in guests {
        let visit = guest.visit(world.port(Place::of(door)), door);
        // Nothing is resumed under another list, so it is a whole handshake that fails.
        assert_eq!(visit.reception, Reception::Alert(CERTIFICATE_REVOKED));
        let fault = world.fault_of_line(&visit.address.to_string(), "Revoked");
        assert_eq!(fault, None);
    }
}

#[test]
fn t6_a_certificate_that_has_expired_since_resumes_nothing() {
    let world = World::new();
    let mut draft = Draft::named("gauge-7");
    // The end of a certificate is a whole second.
    draft.to = OffsetDateTime::now_utc() + Duration::from_secs(10);
    let papers = world.forger.trusted.sign(&draft);
    let mut guests = Vec::new();
    for version in VERSIONS {
        for tls12 in RESUMPTIONS {
            for door in [Door::Tcp, Door::Web] {
                let guest = Guest::resuming(version, Some(&papers), tls12);
                let visit = guest.visit(world.port(Place::of(door)), door);
                assert_eq!(visit.reception, Reception::In { resumed: false });
                guests.push((guest, door));
            }
        }
    }
    let is_over = || OffsetDateTime::now_utc() > draft.to + Duration::from_secs(1);
    harness::wait_until("the certificate ends", harness::PATIENCE, is_over);
    for (guest, door) in guests {
        let visit = guest.visit(world.port(Place::of(door)), door);
        // The handshake of a resumed session is over before the certificate is looked at: close_notify.
        let is_out = matches!(visit.reception, Reception::Alert(_) | Reception::Close(_));
        assert!(is_out, "{:?}", visit.reception);
        let fault = world.fault_of_line(&visit.address.to_string(), "xpired");
        assert_eq!(fault, None);
    }
}

/// All that a person could come with.
fn kinds(forger: &Forger) -> Vec<Kind> {
    let (now, trusted) = (OffsetDateTime::now_utc(), &forger.trusted);
    let changed = |change: &dyn Fn(&mut Draft)| {
        let mut draft = Draft::named("gauge-7");
        change(&mut draft);
        draft
    };
    let named = |name: &str| trusted.sign(&Draft::named(name));
    let two_names = changed(&|draft| {
        let also = DnType::CustomDnType(vec![2, 5, 4, 3]);
        draft.names.push((also, "admin".into()));
    });
    let weak = |bits| trusted.sign_rsa(&Draft::named("gauge-rsa"), bits, forger.directory());
    let of = |expected, kinds: Vec<(&'static str, Papers)>| {
        kinds.into_iter().map(move |(name, papers)| Kind {
            name,
            papers: Some(papers),
            expected,
        })
    };
    let valid = named("gauge-7");
    let expired = changed(&|draft| draft.to = now - Duration::from_secs(3600));
    let early = changed(&|draft| draft.from = now + Duration::from_secs(3600));
    let server = changed(&|draft| draft.purpose = ExtendedKeyUsagePurpose::ServerAuth);
    let revoked = changed(&|draft| draft.serial = REVOKED);
    let odd_name = Expected::Out([CERTIFICATE_UNKNOWN; 2], "not plain text");
    let mut kinds = vec![Kind {
        name: "none",
        papers: None,
        expected: Expected::Out([CERTIFICATE_REQUIRED; 2], "sent no certificates"),
    }];
    kinds.extend(of(Expected::In("gauge-7"), vec![("valid", valid.clone())]));
    kinds.extend(of(
        Expected::In("gauge-rsa"),
        vec![("valid, RSA", weak(2048))],
    ));
    let date = [CERTIFICATE_EXPIRED; 2];
    kinds.extend(of(
        Expected::Out(date, "certificate expired"),
        vec![("expired", trusted.sign(&expired))],
    ));
    kinds.extend(of(
        Expected::Out(date, "certificate not valid yet"),
        vec![("not yet valid", trusted.sign(&early))],
    ));
    kinds.extend(of(
        Expected::Out([UNKNOWN_CA; 2], "UnknownIssuer"),
        vec![
            ("wrong CA", forger.other.sign(&changed(&|_| {}))),
            ("self-signed", Papers::self_signed(&changed(&|_| {}))),
        ],
    ));
    kinds.extend(of(
        Expected::Out([DECRYPT_ERROR; 2], "BadSignature"),
        vec![(
            "wrong CA of the same name",
            forger.namesake.sign(&changed(&|_| {})),
        )],
    ));
    kinds.extend(of(
        Expected::Out([UNSUPPORTED_CERTIFICATE; 2], "extended key usage"),
        vec![("wrong EKU", trusted.sign(&server))],
    ));
    kinds.extend(of(
        Expected::Out([CERTIFICATE_REVOKED; 2], "Revoked"),
        vec![("revoked", trusted.sign(&revoked))],
    ));
    kinds.extend(of(
        odd_name,
        vec![
            ("NUL in CN", named("admin\0.evil")),
            ("empty CN", named("")),
            (
                "non-UTF-8 CN",
                trusted.sign_patched(&Draft::named("admin-QQ"), b"-QQ", &[b'-', 0xff, 0xfe]),
            ),
            (
                "CN in another character set",
                // TeletexString, which has no é of its own.
                trusted.sign_patched(
                    &Draft::named("admin-Q"),
                    b"\x0c\x07admin-Q",
                    b"\x14\x07admin-\xe9",
                ),
            ),
        ],
    ));
    kinds.extend(of(
        Expected::Out([CERTIFICATE_UNKNOWN; 2], "more than one common name"),
        vec![("two CNs", trusted.sign(&two_names))],
    ));
    kinds.extend(of(
        Expected::Out([CERTIFICATE_UNKNOWN; 2], "wildcard"),
        vec![
            ("wildcard CN", named("*")),
            ("wildcard CN, part of it", named("*.plant.example")),
            ("wildcard CN of MQTT", named("#")),
            ("wildcard CN of MQTT, one level", named("+")),
        ],
    ));
    kinds.extend(of(
        Expected::Closed("HandshakePayloadTooLarge"),
        vec![("huge chain", valid.with_others_behind(100, 2_000))],
    ));
    kinds.extend(of(
        Expected::Out([CERTIFICATE_UNKNOWN; 2], "weak: 1024 bits"),
        vec![("weak key", weak(1024))],
    ));
    kinds.extend(of(
        Expected::Out([CERTIFICATE_UNKNOWN; 2], "101 certificates"),
        vec![("long chain", valid.with_others_behind(100, 100))],
    ));
    kinds
}

struct World {
    forger: Forger,
    broker: Broker,
    ports: [u16; 4],
}

#[derive(Clone, Copy)]
enum Place {
    Tcp,
    Web,
    Open,
    Others,
}

impl Place {
    fn of(door: Door) -> Self {
        match door {
            Door::Tcp => Self::Tcp,
            Door::Web => Self::Web,
            Door::Http => unreachable!("it has no such listener"),
        }
    }
}

impl World {
    fn new() -> Self {
        let forger = Forger::new();
        let name = "use_identity_as_username = true\n";
        let toml = format!(
            "{LISTENER}{strict}{name}\
             [[listeners]]\naddress = \"127.0.0.1:{{second_port}}\"\nprotocol = \"websocket\"\n{strict}{name}\
             [[listeners]]\naddress = \"127.0.0.1:0\"\n{open}\
             [[listeners]]\naddress = \"127.0.0.1:0\"\n{others}",
            strict = forger.strict(),
            open = forger.open(),
            others = forger.strict_about_others(),
        );
        let broker = Broker::options().toml(&toml).start();
        let opens = "listen socket on port ";
        let all_open = || broker.log().matches(opens).count() == 4;
        harness::wait_until("all listeners are open", harness::PATIENCE, all_open);
        let log = broker.log();
        let opened = log.lines().filter_map(|line| {
            let (_, port) = line.split_once(opens)?;
            port.split_once('.')?.0.parse().ok()
        });
        let opened: Vec<u16> = opened.collect();
        let ports = opened[..4].try_into().expect("there are four listeners");
        Self {
            forger,
            broker,
            ports,
        }
    }

    fn port(&self, place: Place) -> u16 {
        self.ports[place as usize]
    }

    /// What is not as it should be.
    fn fault(
        &self,
        kind: &Kind,
        guest: &Guest,
        version: &'static SupportedProtocolVersion,
        door: Door,
    ) -> Option<String> {
        let visit = guest.visit(self.port(Place::of(door)), door);
        let address = visit.address.to_string();
        let fault = match kind.expected {
            Expected::In(name) => {
                let line = visit.line(name);
                self.wait_for_line(&line);
                let is_in = matches!(visit.reception, Reception::In { .. });
                (!is_in).then(|| format!("{:?}", visit.reception))
            }
            Expected::Closed(reason) => match visit.reception {
                Reception::Close(_) => self.fault_of_line(&address, reason),
                reception => Some(format!("{reception:?}")),
            },
            Expected::Out(alerts, reason) => {
                let alert = alerts[usize::from(version == &TLS13)];
                if visit.reception == Reception::Alert(alert) {
                    self.fault_of_line(&address, reason)
                } else {
                    Some(format!("{:?} and not {alert}", visit.reception))
                }
            }
        };
        fault.map(|fault| format!("{}, {version:?}, {door:?}: {fault}", kind.name))
    }

    /// Whether there is not exactly one line that says who was refused, and why.
    fn fault_of_line(&self, address: &str, reason: &str) -> Option<String> {
        self.wait_for_line(&format!("Connection from {address} "));
        let log = self.broker.log();
        let of_it = |line: &&str| line.contains(address) && !line.contains("New connection from");
        let lines: Vec<&str> = log.lines().filter(of_it).collect();
        let is_good =
            matches!(&lines[..], [line] if line.contains("rejected") && line.contains(reason));
        (!is_good).then(|| format!("not one line about {reason:?} but {lines:#?}"))
    }

    #[track_caller]
    fn wait_for_line(&self, text: &str) {
        let holds = || self.broker.log().contains(text);
        harness::wait_until(text, harness::PATIENCE, holds);
    }
}

const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];
/// They differ in TLS 1.2 only.
const RESUMPTIONS: [Tls12Resumption; 2] = [
    Tls12Resumption::SessionIdOnly,
    Tls12Resumption::SessionIdOrTickets,
];
const LISTENER: &str = "allow_anonymous = true\n[[listeners]]\naddress = \"127.0.0.1:{port}\"\n";

// RFC 8446, 6.
const UNSUPPORTED_CERTIFICATE: u8 = 43;
const CERTIFICATE_REVOKED: u8 = 44;
const CERTIFICATE_EXPIRED: u8 = 45;
const CERTIFICATE_UNKNOWN: u8 = 46;
const UNKNOWN_CA: u8 = 48;
const DECRYPT_ERROR: u8 = 51;
const CERTIFICATE_REQUIRED: u8 = 116;
