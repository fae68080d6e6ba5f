//! An address space whose memory is accessed in place: the fast provider of the test kit.
//!
//! [`MemorySpace`](crate::MemorySpace) is the slow reference that knows whether an access was
//! permitted. This one is what a real provider looks like: all of its memory is one mapping of this
//! process, a frame is a number in it, and whoever has kept a translation accesses the memory with
//! no lock and no call. So nothing but the protocol of changes keeps an access off pages that have
//! found another use ([`ArenaChange`]).
//!
//! One reader-writer lock guards the table and the free frames. The provider's own copies share it
//! for reading, which makes them synchronous by themselves (rule T2). No other lock is taken
//! under it; watchers and the resolver run with no lock held. Memory is zeroed and poisoned with no
//! lock held: whoever does it has the frames for itself.

mod arena_space;
mod change;
mod memory;
mod provider;
mod state;

pub use arena_space::ArenaSpace;
pub use change::ArenaChange;

#[cfg(all(test, not(loom)))]
mod tests;
