//! Drives the fuzz targets (`fuzz/targets.rs`) with a seeded mutator, on stable.
//!
//! `FUZZ_SECONDS` is how long each target runs (2 where it is not set, 30 in CI), `FUZZ_SEED` where the mutator begins. A failure
//! prints the seed and the input as a byte string.

mod common;
#[path = "../fuzz/targets.rs"]
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use nightjar_codec::{Limits, Place, ProtocolVersion, decode};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;

#[test]
fn fuzz_decode_any() {
    drive(targets::decode_any, &packets(), Mutator::packet);
}

#[test]
fn fuzz_decode_then_encode_then_decode() {
    drive(
        targets::decode_then_encode_then_decode,
        &packets(),
        Mutator::packet,
    );
}

#[test]
fn fuzz_publish_ref_agrees() {
    let mut publishes = packets();
    publishes.retain(|packet| packet[1] >> 4 == 3);
    drive(targets::publish_ref_agrees, &publishes, Mutator::packet);
}

#[test]
fn fuzz_topic_match_agrees() {
    let topics: Vec<_> = TOPICS.iter().map(|text| text.as_bytes().to_vec()).collect();
    drive(targets::topic_match_agrees, &topics, Mutator::topics);
}

/// A mutator whose inputs all end at the fixed header would find nothing.
#[test]
fn mutated_packets_reach_the_bodies() {
    let corpus = packets();
    let mut mutator = Mutator { state: 1 };
    let (mut accepted, mut refused_inside) = (0, 0);
    for _ in 0..10_000 {
        let input = mutator.packet(&corpus);
        let Some((selector, packet)) = input.split_first() else {
            continue;
        };
        let version = VERSIONS[usize::from(selector % 3)];
        match decode(packet, version, &Limits::PROTOCOL) {
            Ok(_) => accepted += 1,
            Err(error) if !matches!(error.place, Place::FixedHeader(_)) => refused_inside += 1,
            _ => {}
        }
    }
    println!("of 10000: {accepted} accepted, {refused_inside} refused behind the fixed header");
    assert!(accepted > 1_000 && refused_inside > 3_000);
}

fn drive(target: fn(&[u8]), corpus: &[Vec<u8>], mutate: fn(&mut Mutator, &[Vec<u8>]) -> Vec<u8>) {
    let seed = setting("FUZZ_SEED").unwrap_or(0x6e69_6768_746a_6172);
    let seconds = setting("FUZZ_SECONDS").unwrap_or(2);
    let end = now() + Duration::from_secs(seconds);
    let mut mutator = Mutator { state: seed };
    let mut runs = 0_u64;
    for input in corpus {
        run(target, input, seed);
    }
    loop {
        for _ in 0..1_000 {
            let input = mutate(&mut mutator, corpus);
            run(target, &input, seed);
        }
        runs += 1_000;
        if now() >= end {
            break;
        }
    }
    println!("{runs} inputs in {seconds} s, FUZZ_SEED={seed}");
}

fn run(target: fn(&[u8]), input: &[u8], seed: u64) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(input))) {
        println!("FUZZ_SEED={seed}, input: b\"{}\"", input.escape_ascii());
        resume_unwind(panic);
    }
}

fn setting(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name}={value} is no number")),
    )
}

/// The one thing here that reads a clock: when to stop.
#[allow(clippy::disallowed_methods)]
fn now() -> Instant {
    Instant::now()
}

/// Valid packets of every type and version, the same in every run, behind the byte that chooses the version.
fn packets() -> Vec<Vec<u8>> {
    let mut runner = TestRunner::deterministic();
    let mut corpus = Vec::new();
    for (selector, version) in (0_u8..).zip(VERSIONS) {
        let strategy = common::packet(version);
        for _ in 0..300 {
            let packet = strategy.new_tree(&mut runner).unwrap().current();
            let mut bytes = vec![selector];
            packet.encode(version, &mut bytes).unwrap();
            // Long payloads cost time and teach nothing.
            if bytes.len() < 1_000 {
                corpus.push(bytes);
            }
        }
    }
    corpus
}

/// In the order in which the targets choose them.
const VERSIONS: [ProtocolVersion; 3] = [
    ProtocolVersion::V5,
    ProtocolVersion::V3_1_1,
    ProtocolVersion::V3_1,
];

const TOPICS: &[&str] = &[
    "#\na",
    "+\na",
    "a/#\na",
    "a/+/b\na/x/b",
    "+/+/#\n/a",
    "$SYS/#\n$SYS/a",
    "$share/g/a/+\na/b",
    "a//b\na//b",
    "/\n/",
    "é/+\né/\u{10000}",
];

struct Mutator {
    state: u64,
}

impl Mutator {
    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    fn pick<'a>(&mut self, corpus: &'a [Vec<u8>]) -> &'a [u8] {
        let index = self.below(corpus.len());
        &corpus[index]
    }

    fn packet(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut input = self.pick(corpus).to_vec();
        for _ in 0..=self.below(3) {
            self.change(&mut input, corpus, INTERESTING);
        }
        // Without a true Remaining Length most inputs would end at the fixed header.
        if self.below(4) > 0 {
            repair_remaining_length(&mut input);
        }
        input
    }

    fn topics(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut input = self.pick(corpus).to_vec();
        for _ in 0..=self.below(6) {
            self.change(&mut input, corpus, b"/+#$a\n");
        }
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, corpus: &[Vec<u8>], alphabet: &[u8]) {
        let at = self.below(input.len());
        let end = (at + self.below(16)).min(input.len());
        let byte = alphabet[self.below(alphabet.len())];
        match self.below(8) {
            0 if !input.is_empty() => input[at] ^= 1 << self.below(8),
            1 if !input.is_empty() => input[at] = byte,
            2 if !input.is_empty() => input[at] = self.next() as u8,
            3 => input.insert(at, byte),
            4 => drop(input.drain(at..end)),
            5 => {
                let copy = input[at..end].to_vec();
                let to = self.below(input.len() + 1);
                input.splice(to..to, copy);
            }
            6 => input.truncate(at),
            _ => {
                let other = self.pick(corpus);
                let from = self.below(other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
        }
        input.truncate(4_096);
    }
}

const INTERESTING: &[u8] = &[
    0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x08, 0x09, 0x0b, 0x10, 0x11, 0x15, 0x16, 0x1f, 0x20, 0x21,
    0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x28, 0x29, 0x2a, 0x2b, 0x2f, 0x30, 0x32, 0x40, 0x62, 0x7f,
    0x80, 0x82, 0x84, 0xa2, 0xc0, 0xe0, 0xed, 0xf0, 0xff,
];

/// Writes the length of what is there into a fixed header of one length byte, or of two.
fn repair_remaining_length(input: &mut Vec<u8>) {
    if input.len() < 3 {
        return;
    }
    let long = input[2] >= 0x80;
    let body = input.len() - if long { 4 } else { 3 }.min(input.len());
    if body < 0x80 {
        if long && input.len() > 3 {
            input.remove(3);
        }
        input[2] = body as u8;
    } else {
        if !long {
            input.insert(3, 0);
        }
        input[2] = (body & 0x7f) as u8 | 0x80;
        input[3] = (body >> 7) as u8;
    }
}
