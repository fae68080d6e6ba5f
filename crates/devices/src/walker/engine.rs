//! The walker and its settings.

use std::sync::Arc;

use sva_core::{DmaPort, Pasid};

use crate::job::{Job, JobTracker, PortPool};

/// Settings of a walker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct WalkerConfig {
    /// The largest payload of a list node in bytes. Default: 64 KiB.
    pub max_payload: u32,
    /// The most vertices of a graph; a search takes up to 12 bytes of memory for each. Default:
    /// 2^24.
    pub max_vertices: u32,
    /// Bytes that are gathered at a time, 64 to 2^30. Default: 256 KiB.
    pub chunk: usize,
}

impl Default for WalkerConfig {
    fn default() -> Self {
        Self { max_payload: 64 << 10, max_vertices: 1 << 24, chunk: 256 << 10 }
    }
}

impl WalkerConfig {
    /// Sets the largest payload of a list node in bytes.
    pub fn max_payload(self, bytes: u32) -> Self {
        Self { max_payload: bytes, ..self }
    }

    /// Sets the most vertices of a graph.
    pub fn max_vertices(self, vertices: u32) -> Self {
        Self { max_vertices: vertices, ..self }
    }

    /// Sets how many bytes are gathered at a time.
    pub fn chunk(self, bytes: usize) -> Self {
        Self { chunk: bytes, ..self }
    }
}

/// A bus master that follows pointers. Any number of threads may use it at once.
pub struct Walker {
    ports: PortPool,
    jobs: Arc<JobTracker>,
    pub(super) config: WalkerConfig,
}

impl Walker {
    /// A walker that issues its transactions through `port`, which is the port of the device that
    /// `jobs` was plugged in with.
    pub fn new(port: DmaPort, jobs: Arc<JobTracker>, config: WalkerConfig) -> Self {
        let config = WalkerConfig { chunk: config.chunk.clamp(64, 1 << 30), ..config };
        Self { ports: PortPool::new(port), jobs, config }
    }

    pub(super) fn begin(&self, pasid: Option<Pasid>) -> Job<'_> {
        self.jobs.begin(&self.ports, pasid)
    }
}
