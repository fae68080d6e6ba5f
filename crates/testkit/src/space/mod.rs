//! An address space made of memory: exact, synchronous, and ended when its owner says so.
//!
//! One reader-writer lock guards the table of pages, the frames and their contents. It is held over
//! each access by address, so that no such access through the old table is under way when a change
//! returns. Devices keep translations of their own: each change that takes something away tells the
//! watchers and waits for them, see [`Change`]. Reads hold the lock shared, writes exclusively:
//! slow and simple, as a reference should be. The lock is released only to resolve an absent page,
//! as a processor restarts an instruction after a page fault. No other lock is taken under it.
//! Watchers and the resolver run with no lock held.
//!
//! Layers, from the bottom: `memory`, `memory_space`; then `provider` and `change`.

mod change;
mod memory;
mod memory_space;
mod provider;

pub use change::Change;
pub use memory::{StaleAccess, StaleReason};
pub use memory_space::MemorySpace;

#[cfg(all(test, not(loom)))]
mod tests;
