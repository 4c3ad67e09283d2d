//! `$SYS`: every topic of Mosquitto's is here, and its text has the same shape; log lines below `$SYS/broker/log` too.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use harness::{
    Client, Connect, PATIENCE, Running, TemporaryDirectory, binary, free_port, now, packet, program,
};

/// Topics and their last texts.
type Topics = BTreeMap<String, String>;

#[test]
fn every_topic_of_mosquitto_is_here_with_the_same_shape() {
    let Some(mosquitto) = program("mosquitto") else {
        return;
    };
    // Some of theirs come with the second interval or the third.
    let until = now() + Duration::from_secs(4);
    let theirs = topics_of(&mosquitto, |topics| topics.len() > 50 && now() > until);
    assert!(theirs.len() > 50, "{theirs:?}");
    let ours = topics_of(binary(), |topics| {
        theirs.keys().all(|topic| topics.contains_key(topic))
    });
    for (topic, text) in &theirs {
        let Some(own) = ours.get(topic) else {
            panic!("no {topic}, which is {text:?} there; here are {ours:#?}");
        };
        assert_eq!(
            shape(topic, own),
            shape(topic, text),
            "{topic}: {own:?} and {text:?}"
        );
    }
    // What 2.1 has besides.
    for topic in [
        "packet/out/count",
        "packet/out/bytes",
        "connections/socket/count",
    ] {
        let own = ours.get(&format!("$SYS/broker/{topic}"));
        assert!(
            own.is_some_and(|own| own.parse::<u64>().is_ok()),
            "{topic}: {own:?}"
        );
    }
}

/// Everything below `$SYS` of a broker that has something to tell, until that is enough or too long.
fn topics_of(broker: &std::path::Path, is_enough: impl Fn(&Topics) -> bool) -> Topics {
    let directory = TemporaryDirectory::new("sys");
    fs::create_dir(directory.path()).unwrap();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let conf = directory.path().join("mosquitto.conf");
    let text = format!(
        "user root\nlistener {} 127.0.0.1\nallow_anonymous true\nsys_interval 1\nlog_dest stderr\nlog_dest topic\n\
         log_type all\n",
        address.port()
    );
    fs::write(&conf, text).unwrap();
    let mut running = Running::alone(Command::new(broker).arg("-c").arg(&conf));
    running.wait_for(" running");
    let mut client = Client::open_at(address);
    client.send(&Connect::v4("reader").bytes());
    client.expect("20 02 00 00");
    client.send(&packet("82", "m1 s'$SYS/#' 00"));
    let mut topics = Topics::new();
    let mut other = Client::open_at(address);
    other.send(&Connect::v4("other").bytes());
    other.expect("20 02 00 00");
    other.send(&packet("82", "m1 s'some/filter' 01"));
    other.expect("90 03 m1 01");
    other.send(&packet("a2", "m2 s'some/filter'"));
    other.expect("b0 02 m2");
    other.send(&packet("31", "s'kept' 'x'"));
    other.send(&[0xe0, 0]);
    let until = now() + PATIENCE;
    while !is_enough(&topics) && now() < until {
        client.send(&[0xc0, 0]);
        loop {
            let packet = client.receive_packet();
            if packet[0] == 0xd0 {
                break;
            }
            if packet[0] >> 4 == 3 {
                let (topic, text) = parts(&packet);
                // The first of these is from before anybody came, and the last is as long as the other's.
                topics.insert(topic, text);
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    topics
}

/// Topic and text of a PUBLISH of QoS 0.
fn parts(packet: &[u8]) -> (String, String) {
    // Short packets: one or two bytes of Remaining Length.
    let body = if packet[1] < 0x80 {
        &packet[2..]
    } else {
        &packet[3..]
    };
    let (topic, text) = body[2..].split_at(usize::from(u16::from_be_bytes([body[0], body[1]])));
    let string = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (string(topic), string(text))
}

/// What a text looks like: runs of digits are `N`, and words stay but for the name and version of the broker.
fn shape(topic: &str, text: &str) -> String {
    if topic == "$SYS/broker/version" {
        let words: Vec<&str> = text.split(' ').collect();
        return match words[..] {
            [_, "version", number] if number.split('.').count() == 3 => "NAME version N.N.N".into(),
            _ => text.into(),
        };
    }
    if topic.starts_with("$SYS/broker/log/") {
        // Which line was the last of its kind is not settled.
        return "a line".into();
    }
    let mut shape = String::new();
    for (place, part) in text.split('.').enumerate() {
        if place > 0 {
            // Two decimals are two decimals.
            shape.push_str(&format!(".{}", "D".repeat(part.len())));
            continue;
        }
        let digits = part.bytes().take_while(u8::is_ascii_digit).count();
        if digits > 0 {
            shape.push('N');
        }
        shape.push_str(&part[digits..]);
    }
    shape
}
