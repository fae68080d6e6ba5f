//! The two CRC kernels.
//!
//! The polynomial is that of CRC32C. The seed is inverted and reflected before, the result after,
//! and each byte is taken least significant bit first, unless the flags say otherwise (section
//! 8.3.10). The `crc32c` crate works on the reflected form and inverts at both ends, so that each
//! flag turns into a change of its input or output: with seed 0 and no flags the two agree.

use super::copy::forward;
use super::{Progress, Scratch};
use crate::access::{JobPort, Part};
use crate::spec::crc_flag;

/// How a CRC is to be computed.
#[derive(Debug, Clone, Copy)]
pub(super) struct CrcRule {
    pub(super) seed: u32,
    /// Read the seed from here instead.
    pub(super) seed_address: Option<u64>,
    /// [`crc_flag`].
    pub(super) flags: u8,
}

/// A CRC under way, in the crate's form.
struct Crc {
    sum: u32,
    rule: CrcRule,
}

impl Crc {
    fn new(rule: CrcRule, seed: u32) -> Self {
        let bypass = rule.flags & crc_flag::BYPASS_INVERSION != 0;
        Self { sum: if bypass { !seed.reverse_bits() } else { seed }, rule }
    }

    fn update(&mut self, bytes: &[u8]) {
        if self.rule.flags & crc_flag::BYPASS_DATA_REFLECTION == 0 {
            self.sum = crc32c::crc32c_append(self.sum, bytes);
            return;
        }
        let mut reversed = [0; 512];
        for bytes in bytes.chunks(reversed.len()) {
            for (to, from) in reversed.iter_mut().zip(bytes) {
                *to = from.reverse_bits();
            }
            self.sum = crc32c::crc32c_append(self.sum, &reversed[..bytes.len()]);
        }
    }

    fn value(&self) -> u32 {
        let bypass = self.rule.flags & crc_flag::BYPASS_INVERSION != 0;
        if bypass { (!self.sum).reverse_bits() } else { self.sum }
    }
}

pub(super) fn generate(
    access: &JobPort<'_>,
    scratch: &mut Scratch,
    source: u64,
    len: u32,
    rule: CrcRule,
) -> Progress {
    run(access, scratch, source, len, rule, |_, bytes| Part { done: bytes.len(), halt: None })
}

pub(super) fn copy(
    access: &JobPort<'_>,
    scratch: &mut Scratch,
    source: u64,
    destination: u64,
    len: u32,
    rule: CrcRule,
) -> Progress {
    run(access, scratch, source, len, rule, |at, bytes| {
        access.write(destination + u64::from(at), bytes)
    })
}

/// The CRC of the bytes that `sink` took. After a partial completion it is the seed to go on with.
fn run(
    access: &JobPort<'_>,
    scratch: &mut Scratch,
    source: u64,
    len: u32,
    rule: CrcRule,
    mut sink: impl FnMut(u32, &[u8]) -> Part,
) -> Progress {
    let seed = match seed(access, rule) {
        Ok(seed) => seed,
        Err(part) => return Progress::up_to(0, part.halt),
    };
    let mut crc = Crc::new(rule, seed);
    let (done, halt) = forward(access, &mut scratch.first, source, len, |at, bytes| {
        let taken = sink(at, bytes);
        crc.update(&bytes[..taken.done]);
        taken
    });
    Progress { value: crc.value(), ..Progress::up_to(done, halt) }
}

fn seed(access: &JobPort<'_>, rule: CrcRule) -> Result<u32, Part> {
    let Some(address) = rule.seed_address else { return Ok(rule.seed) };
    let mut seed = [0; 4];
    let read = access.read(address, &mut seed);
    if read.halt.is_some() { Err(read) } else { Ok(u32::from_le_bytes(seed)) }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// One bit at a time, most significant first, as the specification words it.
    fn reference(seed: u32, data: &[u8], flags: u8) -> u32 {
        let outer = |value: u32| {
            if flags & crc_flag::BYPASS_INVERSION != 0 { value } else { (!value).reverse_bits() }
        };
        let mut remainder = outer(seed);
        for byte in data {
            let byte = if flags & crc_flag::BYPASS_DATA_REFLECTION != 0 {
                *byte
            } else {
                byte.reverse_bits()
            };
            remainder ^= u32::from(byte) << 24;
            for _ in 0..8 {
                remainder = (remainder << 1) ^ if remainder >> 31 == 1 { 0x1edc_6f41 } else { 0 };
            }
        }
        outer(remainder)
    }

    // shows the descriptor semantics of the DSA specification; no rule of the contract
    #[test]
    fn the_check_value_of_crc32c_comes_out() {
        assert_eq!(reference(0, b"123456789", 0), 0xe306_9283);
    }

    proptest! {
        // shows the descriptor semantics of the DSA specification; no rule of the contract
        #[test]
        fn every_combination_of_flags_equals_the_bitwise_definition(
            seed: u32, data in proptest::collection::vec(any::<u8>(), 0..1200), cut in 0usize..1200, flags in (0u8..4).prop_map(|n| n << 1)
        ) {
            let rule = CrcRule { seed, seed_address: None, flags };
            let mut crc = Crc::new(rule, seed);
            let (head, tail) = data.split_at(cut.min(data.len()));
            crc.update(head);
            let mut rest = Crc::new(rule, crc.value());
            rest.update(tail);
            prop_assert_eq!(rest.value(), reference(seed, &data, flags));
        }
    }
}
