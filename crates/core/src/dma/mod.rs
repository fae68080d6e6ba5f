//! The data path: how a device's transactions reach memory.
//!
//! A [`DmaPort`] issues transactions as one device. It caches translations in a first-level TLB of
//! its own ([`tlb`]) and finds more in the IOTLB, which all ports share; [`cache`] holds what a port
//! caches. What misses both is a [walk](walk): through the device's gate, past the windows of peers,
//! by PASID to the table entry and through its gate to the space, or without PASID by the domain of
//! the group. No lock is held while a space or a peer is accessed; the gates are what unbind, unmap
//! and removal wait for. An [`AtsPort`] translates for itself ([`ats`]).
//!
//! It uses `types`, `quiesce`, `api`, `protocol`, `iotlb` and `table`.

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
mod ports;
mod tlb;
mod translated;
mod value;
mod walk;

pub use atomic::AtomicWord;
pub use ats::{AtsPort, TranslationGuard, TranslationRequestError};
pub use pin::Pin;
pub use port::DmaPort;
pub use ports::Port;
