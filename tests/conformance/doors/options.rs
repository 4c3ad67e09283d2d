//! What holds for the clients of one listener.

use std::net::Ipv4Addr;

use harness::{Broker, Client, Connect, bytes};

use super::with_listener;

/// A broker with a plain listener, and a second one with these keys. Gives the address of that.
fn two_listeners(keys: &str) -> (Broker, std::net::SocketAddr) {
    let text = format!(
        "allow_anonymous = true\n[[listeners]]\naddress = \"127.0.0.1:{{port}}\"\n\
         [[listeners]]\naddress = \"127.0.0.1:{{second_port}}\"\n{keys}\n"
    );
    let mut broker = Broker::options().toml(&text).start();
    // The harness waits for the first listener only.
    broker.wait_for_log(" running");
    let second = (Ipv4Addr::LOCALHOST, broker.second_port).into();
    (broker, second)
}

#[track_caller]
fn connect_at(address: std::net::SocketAddr, connect: &Connect) -> Client {
    let mut client = Client::open_at(address);
    client.send(&connect.bytes());
    let connack = client.receive_packet();
    assert_eq!(connack[3], 0, "{connack:02x?}");
    client.connack = connack;
    client
}

#[test]
fn topics_lie_below_the_mount_point_and_nothing_outside_is_seen() {
    let (broker, mounted) = two_listeners("mount_point = \"house/\"");
    let mut outside = Client::connect_v4(&broker, "outside");
    outside.send_words("82 r6 m1 s1 '#' 01");
    outside.expect("90 r3 m1 01");
    let mut inside = connect_at(mounted, &Connect::v4("inside"));
    inside.send_words("82 r6 m1 s1 '#' 01");
    inside.expect("90 r3 m1 01");

    // From inside to both, from outside to the one that is meant.
    inside.send_words("32 r9 s4 'door' m7 'x'");
    inside.expect("32 r9 s4 'door' m1 'x' 40 r2 m7");
    outside.expect("32 r15 s10 'house/door' m1 'x'");
    outside.send_words("40 r2 m1");
    inside.send_words("40 r2 m1");
    outside.send_words("30 r14 s10 'house/lamp' 'on'");
    outside.expect("30 r14 s10 'house/lamp' 'on'");
    inside.expect("30 r8 s4 'lamp' 'on'");
    outside.send_words("30 r10 s6 'garden' 'on'");
    outside.expect("30 r10 s6 'garden' 'on'");
    inside.expect_nothing_until_pingresp();

    // A filter that was mounted is taken back by its own name.
    inside.send_words("a2 r5 m2 s1 '#'");
    inside.expect("b0 r2 m2");
    inside.send_words("30 r7 s4 'door' 'y'");
    outside.expect("30 r13 s10 'house/door' 'y'");
    inside.expect_nothing_until_pingresp();

    // Shared subscriptions share what is below the mount point.
    inside.send_words("82 r16 m3 s11 '$share/g/do' 00");
    inside.expect("90 r3 m3 00");
    outside.send_words("30 r11 s8 'house/do' 'z'");
    outside.expect("30 r11 s8 'house/do' 'z'");
    inside.expect("30 r5 s2 'do' 'z'");
}

#[test]
fn retained_messages_and_wills_are_mounted() {
    let (broker, mounted) = two_listeners("mount_point = \"house/\"");
    let mut outside = Client::connect_v4(&broker, "outside");
    outside.send_words("82 r12 m1 s7 'house/#' 00");
    outside.expect("90 r3 m1 00");
    let mut inside = connect_at(
        mounted,
        &Connect::v4("inside").will("gone", "sad", 0, false),
    );
    inside.send_words("31 r9 s6 'window' 'o'");
    outside.expect("30 r15 s12 'house/window' 'o'");
    drop(inside);
    outside.expect("30 r15 s10 'house/gone' 'sad'");
    let mut later = connect_at(mounted, &Connect::v4("later"));
    later.send_words("82 r6 m1 s1 '+' 00");
    later.expect("90 r3 m1 00 31 r9 s6 'window' 'o'");
}

#[test]
fn aliases_are_of_the_topics_that_the_client_knows() {
    let (broker, mounted) = two_listeners(
        "mount_point = \"house/\"\ntopic_alias_maximum = 3\ntopic_alias_maximum_outbound = 2",
    );
    let mut outside = Client::connect_v4(&broker, "outside");
    outside.send_words("82 r12 m1 s7 'house/#' 00");
    outside.expect("90 r3 m1 00");
    let mut inside = connect_at(mounted, &Connect::v5("inside").properties("22 00 05"));
    // Topic Alias Maximum 3.
    assert!(
        inside.connack.windows(3).any(|bytes| bytes == [0x22, 0, 3]),
        "{:02x?}",
        inside.connack
    );
    inside.send_words("82 r9 m1 00 s3 'a/#' 00");
    inside.expect("90 r4 m1 00 00");
    // Alias 3 for a/b; then the alias alone.
    inside.send_words("30 r10 s3 'a/b' 03 23 00 03 'x'");
    outside.expect("30 r12 s9 'house/a/b' 'x'");
    inside.expect("30 r10 s3 'a/b' 03 23 00 01 'x'");
    inside.send_words("30 r7 s0 03 23 00 03 'y'");
    outside.expect("30 r12 s9 'house/a/b' 'y'");
    inside.expect("30 r7 s0 03 23 00 01 'y'");
    // One more than the listener allows.
    inside.send_words("30 r10 s3 'a/b' 03 23 00 04 'x'");
    inside.expect("e0 01 94");
    inside.expect_close();
}

#[test]
fn a_session_that_comes_back_elsewhere_sees_nothing_outside_of_the_mount_point() {
    let (broker, mounted) = two_listeners("mount_point = \"house/\"");
    let mut client = Client::connect(&broker, &Connect::v4("wanders").clean(false));
    client.send_words("82 r6 m1 s1 '#' 01");
    client.expect("90 r3 m1 01");
    client.disconnect();
    let mut publisher = Client::connect_v4(&broker, "publisher");
    publisher.send_words("32 r10 s6 'garden' m1");
    publisher.expect("40 r2 m1");
    publisher.send_words("32 r14 s10 'house/door' m2");
    publisher.expect("40 r2 m2");
    let mut client = connect_at(mounted, &Connect::v4("wanders").clean(false));
    client.expect("32 r8 s4 'door' m1");
    client.send_words("40 r2 m1");
    client.expect_nothing_until_pingresp();
}

#[test]
fn a_topic_that_is_too_long_below_the_mount_point_is_refused() {
    let (_broker, mounted) = two_listeners("mount_point = \"house/\"");
    let mut client = connect_at(mounted, &Connect::v5("long"));
    let publish = format!("32 r65538 s65533 '{}' m1 00", "x".repeat(65_533));
    client.send_words(&publish);
    client.expect("40 r3 m1 90");
}

#[test]
fn the_listeners_maximum_qos_holds() {
    let (_broker, address) = two_listeners("maximum_qos = 1");
    let mut client = connect_at(address, &Connect::v5("client"));
    assert!(
        client.connack.ends_with(&[0x24, 1]),
        "{:02x?}",
        client.connack
    );
    client.send_words("82 r7 m1 00 s1 't' 02");
    client.expect("90 r4 m1 00 01");
    client.send_words("34 r6 s1 't' m1 00");
    client.expect("e0 01 9b");
    client.expect_close();
    let mut will = Client::open_at(address);
    will.send(&Connect::v5("will").will("w", "x", 2, false).bytes());
    assert_eq!(will.receive_packet()[3], 0x9b);
}

#[test]
fn other_protocol_versions_are_refused() {
    let broker = with_listener("protocol_versions = [\"3.1.1\"]").start();
    Client::connect_v4(&broker, "accepted");
    let mut v5 = Client::open(&broker);
    v5.send(&Connect::v5("five").bytes());
    v5.expect("20 03 00 84 00");
    v5.expect_close();
    let mut v3 = Client::open(&broker);
    v3.send(&Connect::v3("three").bytes());
    v3.expect("20 02 00 01");
    v3.expect_close();
}

#[test]
fn the_user_name_is_the_client_id_where_a_listener_says_so() {
    let mut broker = with_listener("use_username_as_client_id = true").start();
    let mut first = Client::open(&broker);
    first.send_words("10 r19 s4 'MQTT' 04 82 00 3c s2 'id' s3 'ann'");
    first.expect("20 02 00 00");
    broker.wait_for_log(" as ann ");
    // The same user under another client id takes the session over.
    let mut second = Client::open(&broker);
    second.send_words("10 r19 s4 'MQTT' 04 82 00 3c s2 'xx' s3 'ann'");
    second.expect("20 02 00 00");
    first.expect_close();
    // A 5.0 client without an id is told which one it has.
    let mut told = Client::open(&broker);
    told.send_words("10 r18 s4 'MQTT' 05 82 00 3c 00 s0 s3 'bob'");
    let connack = told.receive_packet();
    let assigned = bytes("12 s3 'bob'");
    assert!(
        connack.windows(assigned.len()).any(|part| part == assigned),
        "{connack:02x?}"
    );
    // However it comes, it is one client: whichever thread accepts it, it finds the session.
    for _ in 0..4 {
        let mut again = Client::open(&broker);
        again.send_words("10 r18 s4 'MQTT' 05 82 00 3c 00 s0 s3 'bob'");
        assert_eq!(again.receive_packet()[3], 0);
        told.expect("e0 01 8e");
        told.expect_close();
        told = again;
    }
    for (connect, connack) in [
        ("10 r14 s4 'MQTT' 04 02 00 3c s2 'id'", "20 02 00 05"),
        ("10 r15 s4 'MQTT' 05 02 00 3c 00 s2 'id'", "20 03 00 87 00"),
        ("10 r16 s4 'MQTT' 04 82 00 3c s2 'id' s0", "20 02 00 05"),
    ] {
        let mut nobody = Client::open(&broker);
        nobody.send_words(connect);
        nobody.expect(connack);
        nobody.expect_close();
    }
}

#[test]
fn client_ids_that_are_made_up_begin_as_the_listener_says() {
    let broker = with_listener("auto_id_prefix = \"browser-\"").start();
    let mut client = Client::open(&broker);
    client.send_words("10 r13 s4 'MQTT' 05 02 00 3c 00 s0");
    let connack = client.receive_packet();
    let begins = b"browser-";
    assert!(
        connack.windows(begins.len()).any(|part| part == begins),
        "{connack:02x?}"
    );
}

#[test]
fn one_connection_too_many_of_a_listener_is_closed_unread() {
    let (broker, address) = two_listeners("connections_max = 2");
    let first = connect_at(address, &Connect::v4("first"));
    let _second = connect_at(address, &Connect::v4("second"));
    let mut third = Client::open_at(address);
    third.expect_close();
    // The other listener has its own count, and a place that is free again is given away.
    Client::connect_v4(&broker, "elsewhere");
    first.disconnect();
    harness::wait_until("a place is free", harness::PATIENCE, || {
        let mut again = Client::open_at(address);
        again.send(&Connect::v4("again").bytes());
        again.try_receive_packet().is_ok()
    });
}
