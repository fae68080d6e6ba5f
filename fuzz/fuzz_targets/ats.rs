//! The messages of ATS, bit by bit.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sva_fuzz::messages::ats(data));
