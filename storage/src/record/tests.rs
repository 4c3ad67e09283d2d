//! Every record comes back as it was, and nothing that is not a record is taken for one.

use std::fmt::Debug;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn a_message_comes_back(
        text in (".{0,40}", option::of(".{0,20}")),
        bytes in (vec(any::<u8>(), 0..300), vec(any::<u8>(), 0..40)),
        numbers in (any::<u64>(), any::<u64>(), option::of(any::<u64>())),
        flags in (0_u8..3, any::<bool>()),
        owners in vec((1_u64..1000, any::<u64>(), 0_u8..3, any::<bool>(), vec(any::<u32>(), 0..40)), 0..20),
    ) {
        let message = StoredMessage {
            message_id: numbers.0,
            topic: text.0.into(),
            payload: bytes.0.into(),
            properties: bytes.1.into(),
            qos: qos(flags.0).unwrap(),
            retain: flags.1,
            expires_at: numbers.2,
            sequence: numbers.1,
            publisher: text.1.clone().map(Into::into),
            publisher_user: text.1.map(Into::into),
        };
        let mut owner = 0;
        let entries: Vec<(u64, u64, OwnerEntry)> = owners
            .into_iter()
            .map(|(step, number, qos_bits, retain, subscription_identifiers)| {
                owner += step;
                let entry = OwnerEntry {
                    owner: Owner::session("a"),
                    qos: qos(qos_bits).unwrap(),
                    retain,
                    subscription_identifiers,
                };
                (owner, number, entry)
            })
            .collect();
        let listed: Vec<ListedOwner> = entries
            .iter()
            .map(|(owner, number, entry)| ListedOwner {
                owner: *owner,
                number: *number,
                qos: entry.qos,
                retain: entry.retain,
                subscription_identifiers: entry.subscription_identifiers.clone(),
            })
            .collect();

        let mut row = Vec::new();
        let rows = entries.iter().map(|(owner, number, entry)| (*owner, *number, entry));
        write_message(&mut row, &message, rows);
        let open = || MessageRow::open(message.message_id, &row).unwrap();
        let (read_owners, read) = open().read().unwrap();
        prop_assert_eq!(&read, &message);
        prop_assert_eq!(&read_owners, &listed);
        let mut walked = Vec::new();
        let body = open().owners(|owner, number| walked.push((owner, number))).unwrap();
        prop_assert_eq!(&body.read().unwrap(), &message);
        prop_assert_eq!(walked.len(), listed.len());
        for owner in &listed {
            let (found, _) = open().read_for(owner.owner).unwrap();
            prop_assert_eq!(found.as_ref(), Some(owner));
        }
        prop_assert!(open().read_for(0).unwrap().0.is_none());

        let mut row = Vec::new();
        write_retained(&mut row, &message);
        prop_assert_eq!(read_retained(message.topic.as_bytes(), &row).unwrap(), message);
    }

    /// With the right checksum, so that the fields are looked at.
    #[test]
    fn no_fields_make_a_reader_panic(content in vec(any::<u8>(), 0..80), key in vec(any::<u8>(), 0..20)) {
        for (tag, read) in readers() {
            let message_key = 7_u64.to_be_bytes();
            let key = if tag == Tag::Message || tag == Tag::Cursor { &message_key[..] } else { &key };
            let mut row = Vec::new();
            write(&mut row, tag, key, |out| out.extend_from_slice(&content));
            let _ = read(key, &row);
        }
        let _ = read_group_key(&key);
        let _ = read_owned_key(&key);
        let _ = read_owned_text_key(&key);
    }

    #[test]
    fn a_number_comes_back(number: u64) {
        let mut out = Vec::new();
        put_varint(&mut out, number);
        let mut reader = Reader { rest: &out };
        prop_assert_eq!(reader.varint(), Ok(number));
        prop_assert_eq!(reader.end(), Ok(()));
    }
}

#[test]
fn every_flipped_bit_and_every_cut_is_found_out() {
    for (tag, key, row) in samples() {
        let (_, read) = readers()
            .into_iter()
            .find(|(reader, _)| *reader == tag)
            .unwrap();
        assert_eq!(read(&key, &row), Ok(()), "{tag:?}");
        for length in 0..row.len() {
            assert!(
                read(&key, &row[..length]).is_err(),
                "{tag:?} cut to {length}"
            );
        }
        for bit in 0..row.len() * 8 {
            let mut flipped = row.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(
                read(&key, &flipped).is_err(),
                "{tag:?} with bit {bit} flipped"
            );
        }
    }
}

#[test]
fn a_record_under_another_key_or_in_another_table_is_found_out() {
    for (tag, key, row) in samples() {
        for (other, read) in readers() {
            if other == tag {
                continue;
            }
            assert!(read(&key, &row).is_err(), "{tag:?} is taken for {other:?}");
        }
        if tag == Tag::Store {
            continue;
        }
        let mut other_key = key.clone();
        if let Some(last) = other_key.last_mut() {
            *last ^= 1;
        }
        let (_, read) = readers()
            .into_iter()
            .find(|(reader, _)| *reader == tag)
            .unwrap();
        assert!(read(&other_key, &row).is_err(), "{tag:?} under another key");
    }
}

#[test]
fn a_record_of_a_later_version_is_refused() {
    let mut row = vec![VERSION + 1, 0, 0];
    let sum = checksum(Tag::Cursor, &1_u64.to_be_bytes(), &row);
    row.extend_from_slice(&sum.to_le_bytes());
    assert_eq!(
        CursorRecord::read(1, &row),
        Err(Broken("it was written by a later version"))
    );
}

type Read = fn(&[u8], &[u8]) -> Result<(), Broken>;

/// Reads a record of each table from a key and a row.
fn readers() -> Vec<(Tag, Read)> {
    fn done<T: Debug>(read: Result<T, Broken>) -> Result<(), Broken> {
        read.map(drop)
    }
    fn number(key: &[u8]) -> u64 {
        key.try_into().map_or(0, u64::from_be_bytes)
    }
    vec![
        (Tag::Store, |_, row| done(StoreRecord::read(row))),
        (Tag::Session, |key, row| done(read_session(key, row))),
        (Tag::Group, |key, row| done(read_group(key, row))),
        (Tag::Cursor, |key, row| {
            done(CursorRecord::read(number(key), row))
        }),
        (Tag::Block, |key, row| done(read_block(key, row, 64))),
        (Tag::Moved, |key, row| done(MovedRecord::read(key, row))),
        (Tag::Message, |key, row| {
            done(MessageRow::open(number(key), row).and_then(MessageRow::read))
        }),
        (Tag::Subscription, |key, row| {
            done(read_subscription(key, row))
        }),
        (Tag::Received, |key, row| done(read_received(key, row))),
        (Tag::Retained, |key, row| done(read_retained(key, row))),
    ]
}

/// One full record of each table, with its key.
fn samples() -> Vec<(Tag, Vec<u8>, Vec<u8>)> {
    let owner = OwnerRecord {
        owner: 300,
        first: 7,
    };
    let message = Arc::new(StoredMessage {
        message_id: 1_000_000,
        topic: "a/topic".into(),
        payload: Bytes::from_static(b"payload"),
        properties: Bytes::from_static(&[1, 0]),
        qos: QoS::ExactlyOnce,
        retain: true,
        expires_at: Some(5),
        sequence: 6,
        publisher: Some("p".into()),
        publisher_user: Some("u".into()),
    });
    let entry = OwnerEntry {
        owner: Owner::session("a"),
        qos: QoS::AtLeastOnce,
        retain: true,
        subscription_identifiers: (0..40).collect(),
    };
    let flight = FlightRecord {
        number: 70,
        message_id: 99,
        order: 3,
        packet_id: 12,
        released: true,
    };
    let will = WillRecord {
        topic: "w".into(),
        payload: Bytes::from_static(b"will"),
        properties: Bytes::new(),
        qos: QoS::AtLeastOnce,
        retain: false,
        message_expiry_interval: Some(9),
        delay: 8,
        fires_at: Some(7),
    };
    let session = SessionRecord {
        protocol_version: ProtocolVersion::V5,
        session_expiry_interval: 60,
        expires_at: Some(1),
        will: Some(will),
        user: Some("user".into()),
    };
    let moved = MovedRecord {
        message_id: 5,
        qos: QoS::ExactlyOnce,
        retain: false,
        subscription_identifiers: vec![1],
        came_from: Some((Owner::group("g", "t"), 4)),
    };
    let subscription = SubscriptionRecord {
        qos: QoS::AtLeastOnce,
        no_local: true,
        retain_as_published: true,
        retain_handling: RetainHandling::DoNotSend,
        subscription_identifier: Some(3),
    };
    let store = StoreRecord {
        operations: 1000,
        next_owner: 12,
        number_floor: 3,
        message_id_max: 99,
        clock: Some(ClockRecord { broker: 1, wall: 2 }),
        messages: 5,
        sessions: 6,
    };
    let owned = owned_key(300, 1).to_vec();
    let number = |number: u64| number.to_be_bytes().to_vec();
    let sample = |tag, key: Vec<u8>, write: &dyn Fn(&mut Vec<u8>, &[u8])| {
        let mut row = Vec::new();
        write(&mut row, &key);
        (tag, key, row)
    };
    vec![
        sample(Tag::Store, STORE_KEY.to_vec(), &|row, _| store.write(row)),
        sample(Tag::Session, b"client".to_vec(), &|row, key| {
            write_session(row, key, owner, &session);
        }),
        sample(Tag::Group, group_key("g", "t/+"), &|row, key| {
            write_group(row, key, owner)
        }),
        sample(Tag::Cursor, number(300), &|row, _| {
            CursorRecord { head: 5, next: 500 }.write(row, 300);
        }),
        sample(Tag::Block, owned.clone(), &|row, key| {
            write_block(row, key, 5, std::iter::once((&70, &flight)));
        }),
        sample(Tag::Moved, owned.clone(), &|row, key| moved.write(row, key)),
        sample(Tag::Message, number(1_000_000), &|row, _| {
            write_message(row, &message, [(300, 5, &entry)].into_iter());
        }),
        sample(
            Tag::Subscription,
            owned_text_key(300, "t/+"),
            &|row, key| {
                write_subscription(row, key, &subscription);
            },
        ),
        sample(Tag::Received, owned, &|row, key| {
            write_received(row, key, &[1, 2, 3, 4])
        }),
        sample(Tag::Retained, b"a/topic".to_vec(), &|row, _| {
            write_retained(row, &message)
        }),
    ]
}
