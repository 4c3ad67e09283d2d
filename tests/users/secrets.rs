//! What must not be seen: files for their owner only (T3), and no secret in the log (T17).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use harness::{Client, Connect, Running, TemporaryDirectory, binary, free_port, packet};

use crate::world::{ALICE, world};

/// With a umask that takes nothing away.
#[test]
fn t3_nothing_that_the_broker_writes_can_be_read_by_everybody() {
    let directory = TemporaryDirectory::new("modes");
    fs::create_dir(directory.path()).unwrap();
    let at = |name: &str| directory.path().join(name);
    let port = free_port();
    fs::write(at("passwd"), ALICE).unwrap();
    fs::set_permissions(at("passwd"), fs::Permissions::from_mode(0o600)).unwrap();
    let toml = format!(
        "data_directory = {:?}\npassword_file = {:?}\nlog_destinations = [\"stderr\", \"file:{}\"]\npid_file = {:?}\n\
         http_listener = \"off\"\n[[listeners]]\naddress = \"127.0.0.1:{port}\"\n",
        at("data"),
        at("passwd"),
        at("log").display(),
        at("pid"),
    );
    fs::write(at("nightjar.toml"), toml).unwrap();
    let script = "umask 000; exec \"$0\" \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(binary());
    let mut broker = Running::alone(command.arg("-c").arg(at("nightjar.toml")));
    broker.wait_for(" running");
    let mut client = Client::open_at((std::net::Ipv4Addr::LOCALHOST, port).into());
    let connect = Connect::v4("c").clean(false);
    client.send(&connect.username("alice").password("secret").bytes());
    client.expect("20 02 00 00");
    client.send(&packet("33", "s't' m1 'kept'"));
    client.expect("40 02 m1");
    let backup = Command::new("sh")
        .args(["-c", script])
        .arg(binary())
        .args(["store", "backup", "--data"])
        .args([at("data"), at("backup")])
        .output()
        .unwrap();
    assert!(backup.status.success(), "{backup:?}");
    for (name, allowed) in [
        ("data", 0o700),
        ("data/nightjar.redb", 0o600),
        ("data/nightjar.lock", 0o600),
        ("data/nightjar.sock", 0o600),
        ("backup", 0o600),
        ("log", 0o640),
        // The number of a process is no secret, and whoever may write it may have it killed.
        ("pid", 0o644),
    ] {
        let mode = mode(&at(name));
        assert_eq!(mode & !allowed, 0, "{name}: {mode:o}");
    }
    let (status, log) = broker.terminate();
    assert!(status.success(), "{log}");
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// Everything is logged, every packet, and every place where a client may write something is used.
#[test]
fn t17_the_log_has_no_password_no_payload_and_no_property() {
    let mut world = world("log_level = \"all\"\nreason_strings = true\nshards = 2");
    const SECRET: &str = "geheim";
    let properties = format!("11 L600 26 s'{SECRET}' s'{SECRET}'");
    let will = |connect: Connect| {
        connect
            .properties(&properties)
            .will("will", format!("{SECRET} will"), 1, false)
            .will_properties(&format!(
                "03 s'{SECRET}' 08 s'answer' 09 s'{SECRET}' 26 s'k' s'{SECRET}'"
            ))
    };
    let own = |connect: Connect| connect.username("alice").password("secret");
    let mut reader = world.accepts(&own(Connect::v5("reader")));
    reader.send(&packet("82", "m1 00 s'#' 02"));
    reader.expect("90 04 m1 00 02");
    let mut writer = world.accepts(&own(will(Connect::v5("writer").clean(false))));
    for (first, id) in [("30", ""), ("33", "m1"), ("34", "m2")] {
        let section = harness::hex(&harness::properties(&format!(
            "03 s'{SECRET}' 08 s'answer' 09 s'{SECRET}' 26 s'k' s'{SECRET}'"
        )));
        writer.send(&packet(
            first,
            &format!("s't' {id} {section} '{SECRET} payload'"),
        ));
        assert_eq!(reader.receive_packet()[0] >> 4, 3);
        // As nobody acknowledges, it waits, and is looked at again.
    }
    // What is wrong with a packet is told without what is in it.
    for wrong in [
        packet("36", &format!("s't' m1 00 '{SECRET}'")),
        packet("30", &format!("s'a/#' 00 '{SECRET}'")),
        packet("f0", &format!("18 00 '{SECRET}'")),
        packet("00", &format!("'{SECRET}'")),
        [&[0x30, 0xff, 0xff, 0xff, 0xff][..], SECRET.as_bytes()].concat(),
    ] {
        let mut client = world.accepts(&own(Connect::v5("wrong")));
        client.send(&wrong);
        client.receive_to_close();
    }
    let section = format!("15 s'SCRAM-SHA-512' 16 s'n,,n=alice,r={SECRET}'");
    let mut scram = Client::open(&world.broker);
    scram.send(&Connect::v5("scram").properties(&section).bytes());
    assert_eq!(scram.receive_packet()[0], 0xf0);
    let proof = harness::hex(&harness::properties(&format!(
        "15 s'SCRAM-SHA-512' 16 s'c=biws,r=x,p={SECRET}'"
    )));
    scram.send(&packet("f0", &format!("18 {proof}")));
    scram.receive_to_close();
    for password in ["geheim", "\u{1}geheim", ""] {
        world.refuses(&Connect::v4("c").username("alice").password(password));
        world.refuses(&Connect::v4("c").username("zoe").password(password));
    }
    // Its will is published, and its session goes on.
    drop(writer);
    world
        .broker
        .wait_for_log("Client writer closed its connection.");
    let mut back = world.accepts(&own(will(Connect::v5("writer").clean(false))));
    back.expect_nothing_until_pingresp();
    fs::write(world.passwords(), format!("alice:{SECRET}\n{SECRET}\n")).unwrap();
    let id = world.broker.process_id().unwrap().to_string();
    assert!(
        Command::new("kill")
            .args(["-HUP", &id])
            .status()
            .unwrap()
            .success()
    );
    world.broker.wait_for_log("The config was not reloaded");
    world.broker.terminate();
    let log = world.broker.log();
    assert!(log.contains("Received PUBLISH from writer"), "{log}");
    for secret in [SECRET, "secret"] {
        let found: Vec<&str> = log.lines().filter(|line| line.contains(secret)).collect();
        // A line of a password file that is no user has no name but itself; it is told by its number.
        assert!(found.is_empty(), "{found:#?}");
    }
}
