//! The buffers that kernels move bytes through.

use sva_sync::Mutex;

/// How many idle pairs of buffers are kept.
const MAX_IDLE: usize = 4;

/// The buffers of one descriptor that is being executed, of one chunk each.
pub(super) struct Scratch {
    pub(super) first: Box<[u8]>,
    pub(super) second: Box<[u8]>,
}

/// Buffers for any number of threads.
pub(super) struct ScratchPool {
    chunk: usize,
    /// Locked for a push or a pop only.
    idle: Mutex<Vec<Scratch>>,
}

impl ScratchPool {
    /// Buffers of `chunk` bytes.
    pub(super) fn new(chunk: usize) -> Self {
        Self { chunk, idle: Mutex::new(Vec::new()) }
    }

    pub(super) fn take(&self) -> Scratch {
        let buffer = || vec![0; self.chunk].into_boxed_slice();
        let idle = self.idle.lock().pop();
        idle.unwrap_or_else(|| Scratch { first: buffer(), second: buffer() })
    }

    pub(super) fn put_back(&self, scratch: Scratch) {
        let mut idle = self.idle.lock();
        if idle.len() < MAX_IDLE {
            idle.push(scratch);
        }
    }
}
