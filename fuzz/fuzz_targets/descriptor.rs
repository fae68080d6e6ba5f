//! A descriptor of the data mover, and the memory that it works on.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sva_fuzz::devices::descriptor(data));
