//! The files of one function of a live machine.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sva_fuzz::machine::sysfs(data));
