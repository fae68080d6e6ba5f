//! A list and a graph in memory, for the walker.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sva_fuzz::devices::walk(data));
