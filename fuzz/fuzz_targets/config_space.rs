//! The configuration space of one function.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sva_fuzz::machine::config_space(data));
