//! The data mover: executes descriptors against the memory of whatever is bound to their PASID.
//!
//! A descriptor is decoded first: `decode` reads nothing but its 64 bytes and answers an operation
//! whose ranges are sound, or the status that rejects it. Then a kernel performs the operation,
//! which moves bytes in chunks through buffers of the mover's own. Then the completion record is
//! written, status last. Nothing that was checked is read again from the process: a process that
//! changes its descriptors meanwhile, or has them overwritten by their own completion records,
//! changes nothing.
//!
//! Submission is synchronous. [`DataMover::execute`] returns when the descriptor is complete and
//! hands the completion to the submitter as well, so that a submitter outside of the process needs
//! no memory in it. Work is linear in the transfer size, buffers are bounded by
//! [`DataMoverConfig::chunk`], and an unbind of the PASID is noticed between two chunks.
//!
//! Inside, from low to high: `scratch`, `config`, `completion`, `operation`; `decode`, `outcome`;
//! the kernels (`copy`, `compare`, `crc`, `delta`) and their dispatch; `batch`, `engine`,
//! `transfer`. The module uses `job` and `spec`.

mod batch;
mod compare;
mod completion;
mod config;
mod copy;
mod crc;
mod decode;
mod delta;
mod engine;
mod kernels;
mod operation;
mod outcome;
mod scratch;
mod transfer;

pub use completion::{Aborted, Completion, RecordWrite};
pub use config::{DataMoverConfig, InterruptHandler};
pub use engine::DataMover;
