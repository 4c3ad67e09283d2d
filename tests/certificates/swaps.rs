//! The server's certificate, the authorities and the list of what was revoked are replaced again and again under clients that are connected:
//! who is still good is not dropped.
//!
//! `SWAPS=100 CLIENTS=500 cargo test -p nightjar-tests --test certificates swaps` is the full size.

use std::io::{Read, Write};

use harness::{Broker, Connect, raise_file_limit};
use rustls::version::{TLS12, TLS13};

use crate::forger::{Authority, Draft, Forger, REVOKED};
use crate::guest::{Door, Guest, Reception, Visit};
use crate::{number, reload};

#[test]
fn t6_while_certificates_and_lists_are_replaced_nobody_who_is_good_is_dropped() {
    raise_file_limit();
    let (swaps, clients) = (number("SWAPS", 10), number("CLIENTS", 60));
    let forger = Forger::new();
    let mut broker = Broker::options()
        .toml(&format!(
            "allow_anonymous = true\n\
             [[listeners]]\naddress = \"127.0.0.1:{{second_port}}\"\nprotocol = \"websocket\"\n{strict}\
             [[listeners]]\naddress = \"127.0.0.1:{{port}}\"\n{strict}",
            strict = forger.strict()
        ))
        .start();
    let doors = [
        (&TLS12, Door::Tcp),
        (&TLS13, Door::Tcp),
        (&TLS12, Door::Web),
        (&TLS13, Door::Web),
    ];
    let come = |broker: &Broker, guest: &Guest, door: Door, id: &str| {
        let port = match door {
            Door::Tcp => broker.port,
            Door::Web => broker.second_port,
            Door::Http => unreachable!("it has no such listener"),
        };
        let connect = Connect::v4(id).keep_alive(0);
        guest.visit_with(port, door, &connect)
    };
    let mut inside = Vec::new();
    for number in 0..clients {
        let (version, door) = doors[number % doors.len()];
        let id = format!("device-{number}");
        let mut draft = Draft::named(&id);
        draft.serial = 1000 + number as u64;
        let guest = Guest::new(version, Some(&forger.trusted.sign(&draft)));
        let visit = come(&broker, &guest, door, &id);
        assert_eq!(visit.reception, Reception::In { resumed: false });
        inside.push((guest, door, visit));
    }
    let others = [
        forger.other.pem().to_owned(),
        Authority::new("a third").pem().to_owned(),
    ];
    let mut revoked = vec![REVOKED];
    for swap in 0..swaps {
        let (certificate, key) = forger.trusted.server();
        forger.write("server.key", &key);
        forger.write("server.crt", &certificate);
        // Ours stays one of them, at another place each time.
        let mut bundle = vec![forger.trusted.pem()];
        bundle.insert(swap % 2, &others[swap % others.len()]);
        forger.write("ca.crt", &bundle.concat());
        // Numbers that nobody here has.
        revoked.push(1_000_000 + swap as u64);
        forger.revoke(&revoked);
        reload(&mut broker, swap + 1);
        let (version, door) = doors[swap % doors.len()];
        let late = Guest::new(version, Some(&forger.trusted.sign(&Draft::named("late"))));
        let visit = come(&broker, &late, door, "late");
        assert_eq!(visit.reception, Reception::In { resumed: false });
        let shown = visit.stream.conn.peer_certificates();
        let shown = shown.and_then(|chain| chain.first()).expect("TLS has one");
        assert!(
            certificate_holds(&certificate, shown),
            "swap {swap}: the one before is shown"
        );
        if swap % 10 == 9 {
            everybody_answers(&mut inside);
        }
    }
    everybody_answers(&mut inside);
    // And each may come again.
    for (number, (guest, door, visit)) in inside.into_iter().enumerate() {
        drop(visit);
        let again = come(&broker, &guest, door, &format!("device-{number}"));
        assert!(
            matches!(again.reception, Reception::In { .. }),
            "{:?}",
            again.reception
        );
    }
    let log = broker.log();
    assert!(!log.contains("Error"), "{log}");
    assert!(broker.is_alive());
}

#[track_caller]
fn everybody_answers(inside: &mut [(Guest, Door, Visit)]) {
    for (_, door, visit) in &mut *inside {
        let (question, answer): (Vec<u8>, &[u8]) = match door {
            Door::Tcp => (vec![0xc0, 0], &[0xd0, 0]),
            Door::Http => unreachable!("it has no such listener"),
            Door::Web => (harness::web_frame(0x82, &[0xc0, 0]), &[0x82, 2, 0xd0, 0]),
        };
        visit.stream.write_all(&question).expect("it is open");
        let mut received = vec![0; answer.len()];
        visit.stream.read_exact(&mut received).expect("it is open");
        assert_eq!(received, answer);
    }
}

fn certificate_holds(pem: &str, der: &[u8]) -> bool {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    let read = CertificateDer::from_pem_slice(pem.as_bytes());
    read.is_ok_and(|read| read.as_ref() == der)
}
