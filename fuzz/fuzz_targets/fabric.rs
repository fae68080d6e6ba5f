//! A description of a fabric, in TOML.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sva_fuzz::fabric::toml(data));
