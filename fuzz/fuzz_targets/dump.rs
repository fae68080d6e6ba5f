//! A saved dump of a machine: the same reader, which tells the two apart, from other seeds.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sva_fuzz::machine::text(data));
