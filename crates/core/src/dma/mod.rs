//! The data path: how the transactions of a device reach memory.
//!
//! A [`DmaPort`] issues transactions as one device. It caches translations in a first-level TLB of
//! its own ([`tlb`]), in front of the IOTLB that all ports share ([`lookup`]); [`cache`] holds
//! everything that a port caches. A transaction that misses both levels is a [`walk`]. It
//! enters the gate of the device and passes the windows of peers. With a PASID it enters the gate
//! of the PASID entry and accesses the space. Without a PASID it goes through the domain of the
//! group. An [`AtsPort`] translates by ATS and caches translations in the ATC of its device
//! ([`ats`]).
//!
//! This layer uses `types`, `quiesce`, `api`, `protocol`, `iotlb` and `table`. It does not use
//! `control`, and no other layer uses it. No lock is held while a space or a peer is accessed:
//! unbind, unmap and removal wait for the access by gates, read guards and pins. No access takes
//! the control lock. It is taken, for a short step, by the last access that leaves a shut gate and
//! by the drop of a pin that a change waits for.

mod atomic;
mod atomic_access;
pub(crate) mod ats;
mod buffer;
mod cache;
mod frame_slice;
mod lookup;
mod master;
mod pasid_cache;
mod pin;
mod pin_pool;
mod port;
mod port_trait;
mod tlb;
mod translated;
mod value;
mod walk;

pub use atomic::AtomicWord;
pub use ats::{AtsPort, TranslationGuard, TranslationRequestError};
pub use pin::Pin;
pub use port::DmaPort;
pub use port_trait::Port;
