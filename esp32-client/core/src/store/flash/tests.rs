//! The ring against a model, with the power cut at any step of any write or erase.

use alloc::vec::Vec;

use embedded_storage::nor_flash::NorFlashErrorKind;
use proptest::prelude::*;

use super::memory::MemoryFlash;
use super::*;
use crate::store::ram::RamStore;

const SECTOR: usize = 512;
type Flash = MemoryFlash<SECTOR>;

#[test]
fn records_come_back_in_order_after_a_restart() {
    let mut ring = FlashRing::open(Flash::new(4)).unwrap();
    for number in 1..=10_u8 {
        assert_eq!(
            ring.append(&[number; 20]).unwrap(),
            Sequence::new(number.into())
        );
    }
    let mut ring = FlashRing::open(ring.into_flash()).unwrap();
    assert_eq!(ring.pending(), 10);
    assert_eq!(ring.next_sequence(), Sequence::new(11));
    let expected: Vec<(u64, Vec<u8>)> = (1..=10_u8)
        .map(|number| (number.into(), vec![number; 20]))
        .collect();
    assert_eq!(all(&mut ring), expected);
}

#[test]
fn the_oldest_are_evicted_and_counted_over_restarts() {
    let mut ring = FlashRing::open(Flash::new(3)).unwrap();
    for _ in 0..100 {
        ring.append(&[7; 40]).unwrap();
    }
    let (evicted, pending) = (ring.evicted(), ring.pending());
    assert!(evicted > 0);
    assert_eq!(evicted + pending, 100);
    let mut ring = FlashRing::open(ring.into_flash()).unwrap();
    assert_eq!((ring.evicted(), ring.pending()), (evicted, pending));
    let numbers: Vec<u64> = all(&mut ring).iter().map(|(number, _)| *number).collect();
    let expected: Vec<u64> = (evicted + 1..=100).collect();
    assert_eq!(numbers, expected);
}

#[test]
fn numbers_go_on_when_everything_was_delivered() {
    let mut ring = FlashRing::open(Flash::new(2)).unwrap();
    for _ in 0..50 {
        let sequence = ring.append(b"reading").unwrap();
        ring.release(sequence).unwrap();
    }
    assert_eq!((ring.pending(), ring.evicted()), (0, 0));
    let mut ring = FlashRing::open(ring.into_flash()).unwrap();
    assert_eq!((ring.pending(), ring.evicted()), (0, 0));
    assert_eq!(ring.append(b"reading").unwrap(), Sequence::new(51));
}

#[test]
fn at_most_eight_releases_are_forgotten() {
    let mut ring = FlashRing::open(Flash::new(8)).unwrap();
    for _ in 0..40 {
        ring.append(b"reading").unwrap();
    }
    for number in 1..=39 {
        ring.release(Sequence::new(number)).unwrap();
        let mut again = FlashRing::open(ring.flash.clone()).unwrap();
        let first = all(&mut again).first().unwrap().0;
        assert!(
            first <= number + 1 && first + u64::from(MARK_EVERY) > number,
            "{first} after {number}"
        );
    }
}

#[test]
fn a_flipped_bit_costs_one_record() {
    let mut ring = FlashRing::open(Flash::new(2)).unwrap();
    for number in 0..6_u8 {
        ring.append(&[number; 20]).unwrap();
    }
    let flash = ring.into_flash();
    for bit in (HEADER_BYTES * 8)..(HEADER_BYTES + 6 * 36) * 8 {
        let mut flash = flash.clone();
        flash.bytes_mut()[bit / 8] ^= 1 << (bit % 8);
        let mut ring = FlashRing::open(flash).unwrap();
        let read = all(&mut ring);
        assert!(read.len() >= 5, "bit {bit}: {}", read.len());
        for (number, value) in read {
            assert_eq!(value, [u8::try_from(number - 1).unwrap(); 20], "bit {bit}");
        }
    }
}

#[test]
fn a_value_that_ends_like_erased_flash_is_not_written_over() {
    let mut ring = FlashRing::open(Flash::new(2)).unwrap();
    ring.append(&[0xff; 40]).unwrap();
    let mut ring = FlashRing::open(ring.into_flash()).unwrap();
    ring.append(&[1; 40]).unwrap();
    assert_eq!(all(&mut ring), [(1, vec![0xff; 40]), (2, vec![1; 40])]);
}

#[test]
fn bounds_of_flash_and_records_are_errors() {
    assert_eq!(
        FlashRing::open(Flash::new(1)).map(|_| ()),
        Err(FlashError::Geometry)
    );
    let mut ring = FlashRing::open(Flash::new(2)).unwrap();
    let most = ring.record_bytes_max();
    assert_eq!(ring.append(&vec![0; most + 1]), Err(FlashError::TooLarge));
    assert_eq!(ring.append(&vec![0; most]), Ok(Sequence::FIRST));
}

#[test]
fn flash_that_holds_something_else_is_begun_anew() {
    let mut flash = Flash::new(2);
    flash.bytes_mut().fill(0x42);
    let mut ring = FlashRing::open(flash).unwrap();
    assert_eq!(ring.append(b"reading"), Ok(Sequence::FIRST));
    assert_eq!(all(&mut ring).len(), 1);
}

#[test]
fn a_ring_in_memory_evicts_the_oldest_by_number_and_by_bytes() {
    let mut store = RamStore::new(3, 1000);
    for _ in 0..5 {
        store.append(b"reading").unwrap();
    }
    assert_eq!((store.pending(), store.evicted()), (3, 2));
    let mut value = Vec::new();
    assert_eq!(
        store.read(Sequence::FIRST, &mut value),
        Ok(Some(Sequence::new(3)))
    );
    let mut store = RamStore::new(100, 100);
    for _ in 0..5 {
        store.append(&[0; 10]).unwrap();
    }
    assert_eq!((store.pending(), store.evicted()), (2, 3));
    assert!(store.append(&[0; 100]).is_err());
    assert_eq!(
        store.pending(),
        2,
        "nothing is evicted for what cannot be taken"
    );
    store.release(Sequence::new(4)).unwrap();
    assert_eq!(
        (store.pending(), store.next_sequence()),
        (1, Sequence::new(6))
    );
}

#[derive(Clone, Debug)]
enum Step {
    Append(usize),
    Release(u64),
    Restart,
    PowerCut(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0_usize..200).prop_map(Step::Append),
        3 => (0_u64..12).prop_map(Step::Release),
        1 => Just(Step::Restart),
        3 => (0_usize..160).prop_map(Step::PowerCut),
    ]
}

proptest! {
    /// Against a list of what was written: what is read is a run of it up to its end, nothing released before the last marks, every
    /// number once and with its own value, and what is missing was evicted.
    #[test]
    fn the_ring_keeps_its_word_when_the_power_goes(
        sectors in 2_usize..6,
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut ring = FlashRing::open(Flash::new(sectors)).unwrap();
        // What append has promised, by number, and what it may have written all the same.
        let mut promised: Vec<(u64, Vec<u8>)> = Vec::new();
        let mut perhaps: Vec<(u64, Vec<u8>)> = Vec::new();
        let mut released = 0;
        for step in steps {
            match step {
                Step::Append(length) => {
                    let number = ring.next_sequence().get();
                    let value = value_of(number, length);
                    match ring.append(&value) {
                        Ok(sequence) => {
                            prop_assert_eq!(sequence.get(), number, "given at write time, without a gap");
                            promised.push((number, value));
                        }
                        Err(FlashError::Medium(NorFlashErrorKind::Other)) => perhaps.push((number, value)),
                        Err(error) => prop_assert!(false, "{error:?}"),
                    }
                }
                Step::Release(many) => {
                    let through = (released + many).min(ring.next_sequence().get() - 1);
                    if ring.release(Sequence::new(through)).is_ok() {
                        released = released.max(through);
                    }
                }
                Step::Restart => ring = reopen(ring),
                Step::PowerCut(steps) => {
                    ring.flash.cut_power_after(steps);
                    for length in [30, 100, 5] {
                        let number = ring.next_sequence().get();
                        let value = value_of(number, length);
                        match ring.append(&value) {
                            Ok(_) => promised.push((number, value)),
                            Err(_) => perhaps.push((number, value)),
                        }
                    }
                    ring = reopen(ring);
                }
            }
            let read = all(&mut ring);
            let numbers: Vec<u64> = read.iter().map(|(number, _)| *number).collect();
            prop_assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{numbers:?}");
            for (number, value) in &read {
                let known = promised.iter().chain(&perhaps).any(|(own, content)| own == number && content == value);
                prop_assert!(known, "{number} was never written so");
            }
            // Everything that was promised, is not released and is not older than what was evicted.
            let evicted_through = ring.evicted_through.get();
            for (number, _) in &promised {
                let gone = *number <= released || *number <= evicted_through;
                prop_assert!(gone || numbers.contains(number), "{number} is lost; {numbers:?}, evicted through {evicted_through}");
            }
            prop_assert!(ring.next_sequence().get() > promised.last().map_or(0, |last| last.0));
            prop_assert_eq!(ring.pending(), u64::try_from(read.len()).unwrap());
        }
    }

    #[test]
    fn no_content_of_the_flash_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), SECTOR * 2), seal in any::<bool>()) {
        let mut flash = Flash::new(2);
        flash.bytes_mut().copy_from_slice(&bytes);
        if seal {
            // A good header before bad records.
            let header = Header { number: u64::MAX, next: Sequence::new(u64::MAX), released: Sequence::new(3), evicted: u64::MAX,
                evicted_through: Sequence::new(0) };
            flash.bytes_mut()[..HEADER_BYTES].copy_from_slice(&header.bytes());
        }
        let mut ring = FlashRing::open(flash).unwrap();
        let _ = all(&mut ring);
        for _ in 0..20 {
            let _ = ring.append(&[1; 50]);
        }
        let _ = ring.release(Sequence::new(u64::MAX));
    }
}

fn reopen(ring: FlashRing<Flash>) -> FlashRing<Flash> {
    let mut flash = ring.into_flash();
    flash.restore_power();
    FlashRing::open(flash).unwrap()
}

fn value_of(number: u64, length: usize) -> Vec<u8> {
    let seed = number.to_le_bytes();
    (0..length)
        .map(|index| seed[index % 8].wrapping_add(u8::try_from(index % 251).unwrap()))
        .collect()
}

fn all(ring: &mut FlashRing<Flash>) -> Vec<(u64, Vec<u8>)> {
    let mut read = Vec::new();
    let mut from = Sequence::new(0);
    let mut value = Vec::new();
    while let Some(sequence) = ring.read(from, &mut value).unwrap() {
        read.push((sequence.get(), value.clone()));
        from = sequence.next();
    }
    read
}
