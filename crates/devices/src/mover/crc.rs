//! The two CRC kernels.
//!
//! The polynomial is that of CRC32C. Unless the flags say otherwise, the seed is inverted and
//! reflected before the computation, the result after it, and each byte is taken least significant
//! bit first (section 8.3.10). The `crc32c` crate works on the reflected form and inverts at both
//! ends. So each flag becomes a change of the crate's input or output; with seed 0 and no flags
//! there is none.

use super::copy::read_chunks;
use super::operation::CrcParameters;
use super::outcome::Progress;
use super::scratch::Scratch;
use crate::job::{JobAccess, TransferCause, Transferred};
use crate::spec::crc_flag;

/// A CRC that is being computed, in the form that the `crc32c` crate takes.
struct Crc {
    sum: u32,
    flags: u8,
}

impl Crc {
    fn new(flags: u8, seed: u32) -> Self {
        let bypass = flags & crc_flag::BYPASS_INVERSION != 0;
        Self { sum: if bypass { !seed.reverse_bits() } else { seed }, flags }
    }

    fn update(&mut self, bytes: &[u8]) {
        if self.flags & crc_flag::BYPASS_DATA_REFLECTION == 0 {
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
        let bypass = self.flags & crc_flag::BYPASS_INVERSION != 0;
        if bypass { (!self.sum).reverse_bits() } else { self.sum }
    }
}

pub(super) fn generate(
    access: &JobAccess<'_>,
    scratch: &mut Scratch,
    source: u64,
    len: u32,
    parameters: CrcParameters,
) -> Progress {
    compute(access, scratch, source, len, parameters, |_, bytes| Transferred::all(bytes.len()))
}

pub(super) fn copy(
    access: &JobAccess<'_>,
    scratch: &mut Scratch,
    source: u64,
    destination: u64,
    len: u32,
    parameters: CrcParameters,
) -> Progress {
    compute(access, scratch, source, len, parameters, |at, bytes| {
        access.write(destination + u64::from(at), bytes)
    })
}

/// Computes the CRC of the bytes that `sink` takes. After a partial completion it is the seed for
/// the rest.
fn compute(
    access: &JobAccess<'_>,
    scratch: &mut Scratch,
    source: u64,
    len: u32,
    parameters: CrcParameters,
    mut sink: impl FnMut(u32, &[u8]) -> Transferred,
) -> Progress {
    let seed = match seed(access, parameters) {
        Ok(seed) => seed,
        Err(cause) => return Progress::up_to(0, Some(cause)),
    };
    let mut crc = Crc::new(parameters.flags, seed);
    let (done, cause) = read_chunks(access, &mut scratch.first, source, len, |at, bytes| {
        let taken = sink(at, bytes);
        crc.update(&bytes[..taken.done]);
        taken
    });
    Progress { value: crc.value(), ..Progress::up_to(done, cause) }
}

fn seed(access: &JobAccess<'_>, parameters: CrcParameters) -> Result<u32, TransferCause> {
    let Some(address) = parameters.seed_address else { return Ok(parameters.seed) };
    let mut seed = [0; 4];
    access.read(address, &mut seed).all_or_nothing()?;
    Ok(u32::from_le_bytes(seed))
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
            seed: u32,
            data in proptest::collection::vec(any::<u8>(), 0..1200),
            cut in 0usize..1200,
            flags in (0u8..4).prop_map(|n| n << 1),
        ) {
            let mut crc = Crc::new(flags, seed);
            let (head, tail) = data.split_at(cut.min(data.len()));
            crc.update(head);
            let mut rest = Crc::new(flags, crc.value());
            rest.update(tail);
            prop_assert_eq!(rest.value(), reference(seed, &data, flags));
        }
    }
}
