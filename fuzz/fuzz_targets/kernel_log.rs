//! A kernel log, which is added to a machine that was read before.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sva_fuzz::machine::kernel_log(data));
