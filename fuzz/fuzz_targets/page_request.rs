//! The messages of the page request interface, bit by bit.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sva_fuzz::messages::page_request(data));
