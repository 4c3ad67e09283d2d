//! cargo-fuzz's way into `targets::decode_then_encode_then_decode`.
#![no_main]

#[path = "../targets.rs"]
#[allow(dead_code)]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::decode_then_encode_then_decode(data));
