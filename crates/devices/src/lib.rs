//! Software bus masters: a data [`mover`] that executes descriptors, and a [`walker`] that follows
//! pointers.
//!
//! Both issue all their transactions through a [`DmaPort`](sva_core::DmaPort) and know neither
//! providers nor topologies. What they read from a bound process (descriptors, pointers, offsets)
//! is untrusted (rule S2): it is copied once, checked, and bounded before it is used.
#![forbid(unsafe_code)]

mod access;
mod in_flight;
pub mod mover;
mod ports;
pub mod spec;
pub mod walker;

pub use in_flight::InFlight;
pub use mover::{
    Abandoned, Completion, DataMover, DataMoverConfig, Delivery, TransferCause, TransferError,
};
pub use spec::{CompletionRecord, Descriptor, Flags, Opcode, Status};
pub use walker::{
    GraphSearch, IndexWidth, ListError, ListReport, ListWalk, SearchError, SearchReport, Walker,
    WalkerConfig,
};
