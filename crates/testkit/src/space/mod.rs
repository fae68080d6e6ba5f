//! An address space made of memory: exact, synchronous, and ended when its owner says so.
//!
//! One reader-writer lock guards the table of pages, the frames and their contents, and is held
//! over each access, so that a change that has returned has no access through the table as it was
//! behind it (rule T2). What devices have kept of the table is another matter: each change that
//! takes something away tells the watchers and waits for them, see [`Change`]. Copies from the
//! space share the lock, copies into it do not: slow and certainly right, which is what a reference
//! is for. The lock is given up only to resolve an absent page, as a processor gives up an
//! instruction; no other lock is taken under it. Watchers and the resolver run with no lock held.

mod change;
mod memory;
mod memory_space;
mod provider;

pub use change::Change;
pub use memory::{StaleAccess, StaleReason};
pub use memory_space::MemorySpace;

#[cfg(all(test, not(loom)))]
mod tests;
