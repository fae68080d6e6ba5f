//! An address space whose memory is accessed in place: the fast provider of the test kit.
//!
//! [`MemorySpace`](crate::MemorySpace) is the slow reference that knows whether an access was
//! permitted. This one is built as a real provider is: all of its memory is one mapping of this
//! process, a frame is an offset in it, and a device that keeps a translation accesses the memory
//! with no lock and no call. Only the protocol of changes keeps accesses off pages that serve
//! something else ([`ArenaChange`]).
//!
//! One reader-writer lock guards the table and the free frames. The provider's own copies hold it
//! for reading, so that a change waits for them. No other lock is taken under it; watchers and the
//! resolver run with no lock held. Memory is zeroed and poisoned with no lock held, by the one
//! thread that has taken the frames and not used or freed them yet.
//!
//! Layers, from the bottom: `memory`, `state`, `arena_space`; then `provider` and `change`.

mod arena_space;
mod change;
mod memory;
mod provider;
mod state;

pub use arena_space::ArenaSpace;
pub use change::ArenaChange;

#[cfg(all(test, not(loom)))]
mod tests;
