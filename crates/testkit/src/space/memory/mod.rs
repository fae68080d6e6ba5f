//! What a [`MemorySpace`](crate::MemorySpace) is made of: a table that leads from addresses to
//! frames, the frames, and the changes under way. Takes no lock.

mod audit;
mod change;
mod frames;
mod state;
mod taken;

pub use audit::{StaleAccess, StaleReason};
pub(super) use state::Memory;
pub(super) use taken::Taken;
