//! Atomic operations (rule T6; PCIe 6.0, section 6.15).
//!
//! They are made by the processor on the very memory that the space's owner sees, and so are atomic
//! against its own; where the memory cannot be accessed in place they are refused. They carry a
//! PASID: without one they are refused too.

#![expect(
    clippy::disallowed_types,
    reason = "these are the space's memory, not state of ours that a model would have to see"
)]

use std::sync::atomic::{AtomicU32, AtomicU64};

use vm_memory::VolatileSlice;

use super::memo::Need;
use super::{DmaPort, Learner};
use crate::fault::{Access, DmaError, FaultReason};
use crate::ids::Pasid;
use crate::sync::atomic::Ordering;

/// Times that one page is brought in before an operation gives up: one that is taken away as fast
/// as it comes would hold it for ever.
const ROUNDS: u32 = 1000;

/// What an atomic operation works on: 4 or 8 bytes, as the processor orders them.
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
    /// Adds to the word at `address`, wrapping, and answers what it was (FetchAdd).
    ///
    /// # Errors
    /// See [`DmaError`]; nothing was changed. [`FaultReason::Misaligned`], and
    /// [`FaultReason::NoAtomics`] where the memory is not accessed in place or there is no PASID.
    #[inline]
    pub fn fetch_add<T: AtomicWord>(
        &self,
        pasid: Option<Pasid>,
        address: u64,
        value: T,
    ) -> Result<T, DmaError> {
        self.atomic::<T, _>(pasid, address, |memory| T::fetch_add(memory, value))
    }

    /// Puts a word at `address`, and answers what was there (Swap).
    ///
    /// # Errors
    /// As [`fetch_add`](Self::fetch_add).
    #[inline]
    pub fn swap<T: AtomicWord>(
        &self,
        pasid: Option<Pasid>,
        address: u64,
        value: T,
    ) -> Result<T, DmaError> {
        self.atomic::<T, _>(pasid, address, |memory| T::swap(memory, value))
    }

    /// Puts `new` at `address` where `current` is there (CAS). Answers what was there: `Ok` where
    /// it was replaced, `Err` where it was another.
    ///
    /// # Errors
    /// As [`fetch_add`](Self::fetch_add).
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
            && let Some(done) = self
                .remembered(pasid, address, len, Need::ATOMIC, |place| operate(&place.memory()?))
        {
            return Ok(done);
        }
        self.atomic_the_long_way(pasid, address, len as u64, &mut operate)
    }

    #[cold]
    fn atomic_the_long_way<R>(
        &self,
        pasid: Option<Pasid>,
        address: u64,
        len: u64,
        operate: &mut dyn FnMut(&VolatileSlice<'_>) -> Option<R>,
    ) -> Result<R, DmaError> {
        let abort = |reason| Err(self.path.fault(0, pasid, address, Access::Write, reason));
        if !address.is_multiple_of(len) {
            return abort(FaultReason::Misaligned);
        }
        let Some(pasid) = pasid else { return abort(FaultReason::NoAtomics) };
        for _ in 0..ROUNDS {
            if let Some(done) = self
                .hit(pasid, address, len as usize, Need::ATOMIC, |place| operate(&place.memory()?))
            {
                return Ok(done);
            }
            self.path.prepare_atomic(pasid, address, len, Learner::of(self))?;
        }
        abort(FaultReason::NotPresent)
    }
}
