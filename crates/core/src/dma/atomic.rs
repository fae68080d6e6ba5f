//! Atomic operations (PCIe 6.0, section 6.15).
//!
//! The processor executes them on the memory that the owner of the space uses, so they are atomic
//! with the owner's own accesses too. They are refused if the memory cannot be accessed in place,
//! and without a PASID.

#![expect(
    clippy::disallowed_types,
    reason = "these are the space's memory, not state of ours that a model would have to see"
)]

use std::sync::atomic::{AtomicU32, AtomicU64};

use sva_sync::atomic::Ordering;
use vm_memory::VolatileSlice;

use super::cache::PortCache;
use super::port::DmaPort;
use crate::api::fault::{DmaError, FaultReason};
use crate::types::access::Access;
use crate::types::ids::Pasid;

/// How often one page is made present before an operation fails. Without a limit a page that is
/// reclaimed as fast as it is made present would block the operation forever.
const MAX_RESOLVES: u32 = 1000;

/// The operand of an atomic operation: 4 or 8 bytes, in the byte order of the processor.
pub trait AtomicWord: Copy + sealed::Word {}

impl AtomicWord for u32 {}
impl AtomicWord for u64 {}

mod sealed {
    use vm_memory::VolatileMemory;

    use super::{AtomicU32, AtomicU64, Ordering, VolatileSlice};

    pub trait Word: Sized {
        fn fetch_add(memory: &VolatileSlice<'_>, value: Self) -> Option<Self>;
        fn swap(memory: &VolatileSlice<'_>, value: Self) -> Option<Self>;
        fn compare_exchange(
            memory: &VolatileSlice<'_>,
            current: Self,
            new: Self,
        ) -> Option<Result<Self, Self>>;
    }

    macro_rules! word {
        ($word:ty, $atomic:ty) => {
            impl Word for $word {
                fn fetch_add(memory: &VolatileSlice<'_>, value: Self) -> Option<Self> {
                    Some(
                        memory
                            .get_atomic_ref::<$atomic>(0)
                            .ok()?
                            .fetch_add(value, Ordering::SeqCst),
                    )
                }

                fn swap(memory: &VolatileSlice<'_>, value: Self) -> Option<Self> {
                    Some(memory.get_atomic_ref::<$atomic>(0).ok()?.swap(value, Ordering::SeqCst))
                }

                fn compare_exchange(
                    memory: &VolatileSlice<'_>,
                    current: Self,
                    new: Self,
                ) -> Option<Result<Self, Self>> {
                    let word = memory.get_atomic_ref::<$atomic>(0).ok()?;
                    Some(word.compare_exchange(current, new, Ordering::SeqCst, Ordering::SeqCst))
                }
            }
        };
    }

    word!(u32, AtomicU32);
    word!(u64, AtomicU64);
}

impl DmaPort {
    /// Adds `value` to the word at `address`, wrapping on overflow, and returns the previous word
    /// (FetchAdd; PCIe 6.0, section 6.15). `address` must be aligned to the size of the word. The
    /// call may block while a page is made present.
    ///
    /// # Errors
    /// See [`DmaError`]; nothing was changed. [`FaultReason::Misaligned`] if the address is not
    /// aligned. [`FaultReason::NoAtomics`] if the memory cannot be accessed in place or there is no
    /// PASID.
    #[inline]
    pub fn fetch_add<T: AtomicWord>(
        &self,
        pasid: Option<Pasid>,
        address: u64,
        value: T,
    ) -> Result<T, DmaError> {
        self.atomic::<T, _>(pasid, address, |memory| T::fetch_add(memory, value))
    }

    /// Replaces the word at `address` by `value`, and returns the previous word (Swap; PCIe 6.0,
    /// section 6.15).
    ///
    /// # Errors
    /// See [`fetch_add`](Self::fetch_add).
    #[inline]
    pub fn swap<T: AtomicWord>(
        &self,
        pasid: Option<Pasid>,
        address: u64,
        value: T,
    ) -> Result<T, DmaError> {
        self.atomic::<T, _>(pasid, address, |memory| T::swap(memory, value))
    }

    /// Replaces the word at `address` by `new` if it equals `current` (CAS; PCIe 6.0, section
    /// 6.15). Returns the previous word: as `Ok` if it was replaced, as `Err` if it was different.
    ///
    /// # Errors
    /// See [`fetch_add`](Self::fetch_add).
    #[inline]
    pub fn compare_exchange<T: AtomicWord>(
        &self,
        pasid: Option<Pasid>,
        address: u64,
        current: T,
        new: T,
    ) -> Result<Result<T, T>, DmaError> {
        self.atomic::<T, _>(pasid, address, |memory| T::compare_exchange(memory, current, new))
    }

    #[inline]
    fn atomic<T, R>(
        &self,
        pasid: Option<Pasid>,
        address: u64,
        mut operate: impl FnMut(&VolatileSlice<'_>) -> Option<R>,
    ) -> Result<R, DmaError> {
        let len = size_of::<T>();
        if let Some(pasid) = pasid
            && let Some(done) =
                self.first_level_slice(pasid, address, len, Access::ATOMIC, |slice| {
                    operate(&slice.memory()?)
                })
        {
            return Ok(done);
        }
        self.atomic_miss(pasid, address, len as u64, &mut operate)
    }

    /// Executes an operation on a word that the first level does not translate.
    #[cold]
    fn atomic_miss<R>(
        &self,
        pasid: Option<Pasid>,
        address: u64,
        len: u64,
        operate: &mut dyn FnMut(&VolatileSlice<'_>) -> Option<R>,
    ) -> Result<R, DmaError> {
        let access = Access::ATOMIC;
        let abort = |reason| Err(self.master.fault(0, pasid, address, Access::WRITE, reason));
        if !address.is_multiple_of(len) {
            return abort(FaultReason::Misaligned);
        }
        let Some(pasid) = pasid else { return abort(FaultReason::NoAtomics) };
        for _ in 0..MAX_RESOLVES {
            let done = self.second_level_slice(pasid, address, len as usize, access, |slice| {
                operate(&slice.memory()?)
            });
            if let Some(done) = done {
                return Ok(done);
            }
            self.master.prepare_atomic(pasid, address, len, &mut |entry, pieces| {
                PortCache::cache_transfer(&self.cache, &self.master, entry, pieces, access)
            })?;
        }
        abort(FaultReason::NotPresent)
    }
}
