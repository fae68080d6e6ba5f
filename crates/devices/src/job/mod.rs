//! Jobs: the work that a device model has in flight, each for the process that asked for it.
//!
//! A device model needs two things for every job. Its transactions must reach the owner that the
//! PASID had when the job began, even if the PASID is reused meanwhile; and the job has to end when
//! that owner is unbound. [`JobTracker`] does both. It is plugged in with the device, as its
//! [`DeviceOps`](sva_core::DeviceOps), and begins a [`Job`] for each descriptor, command or request
//! that the device executes.
//!
//! The module uses no other of the crate. Inside, from low to high: `transfer`, `ports`, `tracker`,
//! `access`.

mod access;
mod ports;
mod tracker;
mod transfer;

pub(crate) use access::{JobAccess, PAGE};
pub use ports::PortPool;
pub use tracker::{Job, JobTracker};
pub(crate) use transfer::Transferred;
pub use transfer::{TransferCause, TransferError};
