//! Addresses, sizes and places on the bus, as people write them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sva_fuzz::fabric::number(data));
