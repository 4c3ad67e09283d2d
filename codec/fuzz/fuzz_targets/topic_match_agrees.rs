//! cargo-fuzz's way into `targets::topic_match_agrees`.
#![no_main]

#[path = "../targets.rs"]
#[allow(dead_code)]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::topic_match_agrees(data));
