//! What systemd is told, and the sockets that it hands over.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::process::{Command, Stdio};

use harness::{Running, binary};

use crate::installed::system_program;
use crate::world::{LIMIT, World, accepted, connect, ping};

#[test]
fn the_service_manager_is_told_what_happens() {
    let mut world = World::new("allow_anonymous = true\n");
    let path = world.directory.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(LIMIT)).unwrap();
    let mut command = Command::new(binary());
    command.args(["--ephemeral", "-c"]).arg(world.file());
    command
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "300000");
    let broker = Running::alone(&mut command);
    wait_for_notice(&manager, "READY=1");
    wait_for_notice(&manager, "WATCHDOG=1");
    world.write("allow_anonymous = true\nconnections_max = 9\n");
    broker.signal("-HUP");
    wait_for_notice(&manager, "RELOADING=1");
    wait_for_notice(&manager, "READY=1");
    broker.signal("-TERM");
    wait_for_notice(&manager, "STOPPING=1");
}

#[track_caller]
fn wait_for_notice(manager: &UnixDatagram, expected: &str) {
    let mut buffer = [0; 4096];
    loop {
        let length = manager
            .recv(&mut buffer)
            .unwrap_or_else(|_| panic!("no {expected}"));
        let text = String::from_utf8_lossy(&buffer[..length]);
        if text.lines().any(|line| line == expected) {
            return;
        }
    }
}

/// A file that does not start a broker: nobody is told that it is ready.
#[test]
fn a_broker_that_does_not_start_is_never_ready() {
    let mut world = World::new("");
    world.write("nonsense = 1\n");
    let path = world.directory.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    let mut command = Command::new(binary());
    command.args(["--ephemeral", "-c"]).arg(world.file());
    let (status, _) = Running::alone(command.env("NOTIFY_SOCKET", &path)).wait();
    assert_eq!(status.code(), Some(3));
    manager.set_nonblocking(true).unwrap();
    let mut buffer = [0; 4096];
    let told = manager.recv(&mut buffer);
    assert!(told.is_err(), "{:?}", String::from_utf8_lossy(&buffer));
}

/// As systemd does it: descriptors from 3 on, LISTEN_FDS and LISTEN_PID.
#[test]
fn sockets_that_are_handed_over_are_those_of_the_listeners() {
    let world = World::new("");
    let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, world.port)).unwrap();
    let path = world.directory.path().join("socket");
    let unix = UnixListener::bind(&path).unwrap();
    let toml = format!(
        "allow_anonymous = true\nhttp_listener = \"off\"\n\
         [[listeners]]\naddress = \"127.0.0.1:{}\"\n[[listeners]]\npath = \"{}\"\n",
        world.port,
        path.display()
    );
    fs::write(world.file(), &toml).unwrap();
    // They come before the broker does, and are served when it is there.
    let mut early = world.greet(1);
    let mut early_unix = UnixStream::connect(&path).unwrap();
    early_unix.set_read_timeout(Some(LIMIT)).unwrap();
    early_unix.write_all(&connect(2)).unwrap();
    let mut broker = activated(
        &["-c", world.file().to_str().unwrap()],
        tcp.try_clone().unwrap(),
        unix.try_clone().unwrap(),
    );
    broker.wait_for(" running");
    accepted(&mut early);
    let mut head = [0; 4];
    early_unix.read_exact(&mut head).unwrap();
    assert_eq!((head[0], head[3]), (0x20, 0));
    // A reload does not let go of them.
    fs::write(world.file(), format!("connections_max = 50\n{toml}")).unwrap();
    broker.signal("-HUP");
    broker.wait_for("Config reloaded.");
    ping(&mut early);
    ping(&mut world.connect(3));
    let (status, log) = broker.terminate();
    assert!(status.success(), "{log}");
    assert!(!log.contains("belongs to no listener"), "{log}");
    // The service manager keeps its socket: who comes now waits for the next broker.
    assert!(path.exists());
    let mut late = world.greet(4);
    let mut broker = activated(&["-c", world.file().to_str().unwrap()], tcp, unix);
    broker.wait_for(" running");
    accepted(&mut late);
}

/// Without a file the sockets are the listeners, and only from this machine are anonymous clients let in.
#[test]
fn sockets_that_no_listener_asks_for_are_listeners_or_are_closed_with_a_warning() {
    let mut world = World::new("allow_anonymous = true\n");
    let other = world.port;
    let path = world.directory.path().join("socket");
    let sockets = || {
        let _ = fs::remove_file(&path);
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, other)).unwrap();
        (tcp, UnixListener::bind(&path).unwrap())
    };
    let (tcp, unix) = sockets();
    let mut broker = activated(&["--http-listener", "off"], tcp, unix);
    broker.wait_for(" running");
    ping(&mut world.connect(1));
    drop(broker);
    world.port = harness::free_port();
    world.write("allow_anonymous = true\n");
    let (tcp, unix) = sockets();
    let mut broker = activated(&["-c", world.file().to_str().unwrap()], tcp, unix);
    broker.wait_for(" running");
    let log = broker.log();
    let warnings = log.matches("belongs to no listener; closing it").count();
    assert_eq!(warnings, 2, "{log}");
    // A process that another test starts at this moment may have a copy of ours for a while.
    harness::wait_until("nobody listens there", LIMIT, || {
        TcpStream::connect((Ipv4Addr::LOCALHOST, other)).is_err()
    });
    ping(&mut world.connect(1));
}

#[test]
fn systemd_itself_can_activate_it() {
    let Some(activate) = system_program("systemd-socket-activate") else {
        return;
    };
    let world = World::new("allow_anonymous = true\n");
    let mut command = Command::new(activate);
    command.arg(format!("--listen=127.0.0.1:{}", world.port));
    command.arg(binary());
    command.args(["--ephemeral", "-c"]).arg(world.file());
    let mut broker = Running::alone(&mut command);
    broker.wait_for("Listening on 127.0.0.1:");
    // It starts with the first who comes.
    ping(&mut world.connect(1));
    broker.wait_for(" running");
    let (status, log) = broker.terminate();
    assert!(status.success(), "{log}");
}

/// A broker that finds these two as its descriptors 3 and 4.
fn activated(arguments: &[&str], tcp: TcpListener, unix: UnixListener) -> Running {
    let script = "exec 3<&0 4<&1 </dev/null >/dev/null
        export LISTEN_FDS=2 LISTEN_PID=$$
        exec \"$0\" --ephemeral \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(binary()).args(arguments);
    // Standard input and output are the only ones that a child may be given.
    command.stdin(Stdio::from(OwnedFd::from(tcp)));
    command.stdout(Stdio::from(OwnedFd::from(unix)));
    Running::of(&mut command)
}
