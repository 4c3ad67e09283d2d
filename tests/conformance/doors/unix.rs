//! A Unix socket: its file's life, and MQTT over it.

use std::io::{Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use harness::{Broker, Connect, Options, TemporaryDirectory, bytes};

/// A broker on a Unix socket and, opened behind that, on a port.
fn options(path: &Path) -> Options {
    Broker::options().toml(&format!(
        "allow_anonymous = true\n[[listeners]]\npath = \"{}\"\n[[listeners]]\naddress = \"127.0.0.1:{{port}}\"\n",
        path.display()
    ))
}

#[track_caller]
fn speak(path: &Path, client_id: &str) -> UnixStream {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(harness::PATIENCE)).unwrap();
    stream.write_all(&Connect::v4(client_id).bytes()).unwrap();
    expect(&mut stream, "20 02 00 00");
    stream
}

#[track_caller]
fn expect(stream: &mut UnixStream, words: &str) {
    let expected = bytes(words);
    let mut received = vec![0; expected.len()];
    stream.read_exact(&mut received).unwrap();
    assert_eq!(received, expected);
}

#[test]
fn mqtt_is_spoken_over_a_unix_socket_and_its_file_goes_with_the_broker() {
    let directory = TemporaryDirectory::new("doors-unix");
    std::fs::create_dir(directory.path()).unwrap();
    let path = directory.path().join("mqtt.sock");
    let mut broker = options(&path).start();
    broker.wait_for_log(&format!(
        "Opening unix listen socket on path {}.",
        path.display()
    ));
    assert!(
        std::fs::symlink_metadata(&path)
            .unwrap()
            .file_type()
            .is_socket()
    );
    let mut one = speak(&path, "one");
    broker.wait_for_log(&format!(
        "New client connected from {} as one ",
        path.display()
    ));
    let mut two = speak(&path, "two");
    one.write_all(&bytes("82 r6 m1 s1 't' 00")).unwrap();
    expect(&mut one, "90 r3 m1 00");
    two.write_all(&bytes("32 r7 s1 't' m1 'hi'")).unwrap();
    expect(&mut two, "40 r2 m1");
    expect(&mut one, "30 r5 s1 't' 'hi'");
    assert!(broker.terminate().success());
    assert!(!path.exists(), "the socket's file is left");
}

#[test]
fn a_socket_left_by_a_killed_broker_is_replaced_and_a_live_one_is_not() {
    let directory = TemporaryDirectory::new("doors-unix-stale");
    std::fs::create_dir(directory.path()).unwrap();
    let path = directory.path().join("mqtt.sock");
    let mut killed = options(&path).start();
    killed.kill();
    assert!(path.exists());
    let alive = options(&path).start();
    speak(&path, "served");
    let refused = std::panic::catch_unwind(|| options(&path).start());
    assert!(refused.is_err(), "two brokers on one socket");
    speak(&path, "still served");
    drop(alive);
}
