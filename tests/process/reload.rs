//! SIGHUP: all of it is taken or nothing, and only those have to go who would not be let in any more.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::Command;

use harness::{Running, binary, certs, free_port};

use crate::world::{LIMIT, World, accepted, connect, ping};

#[test]
fn a_reload_under_1000_clients_disconnects_nobody() {
    let mut world = World::new("allow_anonymous = true\nconnections_max = 2000\n");
    let mut broker = world.start(&[]);
    let mut clients: Vec<TcpStream> = (0..1000).map(|number| world.greet(number)).collect();
    clients.iter_mut().for_each(accepted);
    world.write("allow_anonymous = true\nconnections_max = 3000\nqueue_messages_max = 7\n");
    broker.signal("-HUP");
    broker.wait_for("Config reloaded.");
    for client in &mut clients {
        client.write_all(b"\xc0\0").unwrap();
    }
    for client in &mut clients {
        let mut answer = [0; 2];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [0xd0, 0]);
    }
}

#[test]
fn t18_a_bad_file_keeps_everything_as_it_was_and_names_the_line() {
    let mut world = World::new("allow_anonymous = true\n");
    let mut broker = world.start(&[]);
    let mut client = world.connect(1);
    world.write("allow_anonymous = false\nnonsense = 1\n");
    broker.signal("-HUP");
    let log = broker.wait_for("The config was not reloaded: everything stays as it was.");
    assert!(log.contains("unknown key 'nonsense'"), "{log}");
    let place = format!("{}:2", world.file().display());
    assert!(log.contains(&place), "{log}");
    ping(&mut client);
    // Anonymous clients are still let in.
    ping(&mut world.connect(2));
}

#[test]
fn r17_a_reload_without_a_descriptor_left_keeps_the_old_rules() {
    let mut world = World::new("allow_anonymous = false\n");
    let binary = binary().display();
    let script = format!("ulimit -n 48; exec {binary} -c {}", world.file().display());
    let mut broker = Running::alone(Command::new("sh").args(["-c", &script]));
    broker.wait_for(" running");
    let mut waiting = Vec::new();
    for _ in 0..60 {
        waiting.push(TcpStream::connect((Ipv4Addr::LOCALHOST, world.port)).unwrap());
    }
    broker.wait_for("No file descriptor is left");
    world.write("allow_anonymous = true\n");
    broker.signal("-HUP");
    broker.wait_for("Reloading config.");
    drop(waiting);
    // Whether the reload found a descriptor or not, it is all of it or nothing.
    let log = broker.wait_for("onfig ");
    let is_open = log.contains("Config reloaded.");
    let mut answer = [0; 4];
    // Until those who left have made room, whoever comes is closed.
    harness::wait_until("there is room", LIMIT, || {
        let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, world.port)).unwrap();
        client.set_read_timeout(Some(LIMIT)).unwrap();
        client.write_all(&connect(1)).is_ok() && client.read_exact(&mut answer).is_ok()
    });
    assert_eq!(answer[3], if is_open { 0 } else { 0x87 }, "{log}");
}

/// One shard accepts on its own thread, several have it done for them.
#[test]
fn listeners_come_and_go_with_a_reload() {
    for shards in [1, 2] {
        let settings = format!("allow_anonymous = true\nshards = {shards}\n");
        let mut world = World::new(&settings);
        let mut broker = world.start(&[]);
        let old = world.port;
        world.port = free_port();
        world.write(&settings);
        broker.signal("-HUP");
        broker.wait_for("Config reloaded.");
        ping(&mut world.connect(1));
        wait_until_closed(old);
        // A port that was given up can be had again.
        world.port = old;
        world.write(&settings);
        broker.signal("-HUP");
        broker.wait_for("Config reloaded.");
        ping(&mut world.connect(1));
        broker.signal("-TERM");
        broker.wait_for(" terminating");
        wait_until_closed(old);
    }
}

/// A process that another test starts at this moment may have a copy of the socket for a while.
#[track_caller]
fn wait_until_closed(port: u16) {
    harness::wait_until("nobody listens there", LIMIT, || {
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err()
    });
}

/// The listeners of a file whose first is that of the world.
fn write(world: &World, others: &str, first: &str) {
    let text = format!(
        "allow_anonymous = true\nconnections_max = 2000\nhttp_listener = \"off\"\n\
         [[listeners]]\naddress = \"127.0.0.1:{}\"\n{first}\n{others}",
        world.port
    );
    fs::write(world.file(), text).unwrap();
}

/// Thousand clients of four listeners: one stays as it is, one is removed, one lets nobody in without a name any more, and one does
/// not speak to their version any more.
#[test]
fn whose_listener_is_gone_or_another_has_to_go_and_nobody_else() {
    let mut world = World::new("");
    let others = [free_port(), free_port(), free_port()];
    let listener =
        |port: u16, keys: &str| format!("[[listeners]]\naddress = \"127.0.0.1:{port}\"\n{keys}\n");
    let before: String = others.iter().map(|port| listener(*port, "")).collect();
    write(&world, &before, "");
    let mut broker = world.start(&[]);
    let first = world.port;
    let mut clients: Vec<(u16, TcpStream)> = Vec::new();
    for number in 0..1000 {
        let port = match number % 10 {
            0 => others[0],
            1 => others[1],
            2 => others[2],
            _ => first,
        };
        world.port = port;
        clients.push((port, world.greet(number)));
    }
    world.port = first;
    clients.iter_mut().for_each(|(_, client)| accepted(client));
    let after = listener(others[1], "allow_anonymous = false")
        + &listener(others[2], "protocol_versions = [\"3.1.1\"]");
    write(&world, &after, "");
    broker.signal("-HUP");
    broker.wait_for("Config reloaded.");
    for (port, client) in &mut clients {
        if *port == first {
            ping(client);
        } else {
            // Administrative action, and the close.
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).unwrap();
            assert_eq!(answer, [0xe0, 1, 0x98], "{port}");
        }
    }
    wait_until_closed(others[0]);
    ping(&mut world.connect(2000));
}

/// On the port that is open already; a certificate that cannot be read changes nothing.
#[test]
fn a_listener_gets_tls_and_loses_it_where_it_is() {
    let world = World::new("");
    let authority = world.directory.path().join("authority");
    for arguments in [&["init"][..], &["server", "localhost"]] {
        let mut command = Command::new(certs());
        command.args(arguments).arg("--dir").arg(&authority);
        assert!(command.output().unwrap().status.success());
    }
    let certificate = authority.join("servers/localhost.crt");
    let tls = |key: &str| {
        format!(
            "[listeners.tls]\ncertificate_file = {certificate:?}\nkey_file = {:?}\n",
            authority.join(key)
        )
    };
    write(&world, "", "");
    let mut broker = world.start(&[]);
    let mut plain = world.connect(1);
    write(&world, "", &tls("servers/nobody.key"));
    broker.signal("-HUP");
    broker.wait_for("The config was not reloaded: everything stays as it was.");
    ping(&mut plain);
    ping(&mut world.connect(2));

    write(&world, "", &tls("servers/localhost.key"));
    broker.signal("-HUP");
    broker.wait_for("Config reloaded.");
    let mut answer = Vec::new();
    plain.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, [0xe0, 1, 0x98]);
    let mut refused = world.greet(3);
    let mut answer = Vec::new();
    // A reset is a refusal, too.
    let _ = refused.read_to_end(&mut answer);
    assert_ne!(answer.first(), Some(&0x20), "{answer:02x?}");
    let publish = || {
        let mut command = Command::new("timeout");
        command.args([
            "20",
            "mosquitto_pub",
            "-h",
            "localhost",
            "-q",
            "1",
            "-t",
            "a",
            "-m",
            "x",
        ]);
        command.arg("-p").arg(world.port.to_string());
        command.arg("--cafile").arg(authority.join("ca.crt"));
        command.output().expect("mosquitto_pub is installed")
    };
    let output = publish();
    assert!(output.status.success(), "{output:?}");

    write(&world, "", "");
    broker.signal("-HUP");
    broker.wait_for("Config reloaded.");
    ping(&mut world.connect(4));
    assert!(!publish().status.success());
}

/// What is spoken on a port may change, and the API comes and goes as other listeners do.
#[test]
fn a_listener_of_http_api_is_opened_made_another_and_closed() {
    let world = World::new("allow_anonymous = true\n");
    let second = free_port();
    let mut broker = world.start(&[]);
    let mut client = world.connect(1);
    let plain = fs::read_to_string(world.file()).unwrap();
    let mut reload = |more: &str, said: &str| {
        fs::write(world.file(), format!("{plain}{more}")).unwrap();
        broker.signal("-HUP");
        broker.wait_for(said);
    };
    let listener = format!("[[listeners]]\naddress = \"127.0.0.1:{second}\"\n");
    reload(
        &format!("{listener}protocol = \"http_api\"\n"),
        "http api listen socket on port",
    );
    let ask = || {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, second)).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
            .write_all(b"GET /api/v1/version HTTP/1.1\r\nHost: x\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    };
    assert!(ask().starts_with("HTTP/1.1 200 "));
    reload(&listener, "Closing listen socket");
    harness::wait_until("MQTT is spoken there", LIMIT, || {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, second)).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut answer = [0];
        // The one that closes may have taken it.
        stream.write_all(&connect(2)).is_ok()
            && stream.read_exact(&mut answer).is_ok()
            && answer == [0x20]
    });
    fs::write(world.file(), &plain).unwrap();
    broker.signal("-HUP");
    wait_until_closed(second);
    ping(&mut client);
}
