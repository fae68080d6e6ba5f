//! An access under a guard, and what a guard has to do.

use std::hint::black_box;

/// A way to mark an access as in flight. It has two readers, 0 and 1, each of which is one thread.
pub(crate) trait AccessGuard: Sync {
    /// One access of one reader; `number` tells it from the one before.
    fn during(&self, reader: usize, number: u64, access: impl FnMut());
}

/// What is accessed.
pub(super) type Block = [u8; 64];

/// Waits until each access that had begun is over.
pub(crate) trait Wait: AccessGuard {
    /// Spins until then. What begins meanwhile need not be waited for.
    fn wait(&self);
}

/// Copies a block again and again.
pub(super) fn copies(guard: &impl AccessGuard, reader: usize, accesses: usize) -> usize {
    let (source, mut target): (Block, Block) = ([7; 64], [0; 64]);
    for number in 0..accesses as u64 {
        guard.during(reader, number, || {
            target = *black_box(&source);
            black_box(&mut target);
        });
    }
    accesses
}
