//! The walker: follows the pointers of a bound process, as an accelerator for lists and graphs
//! would.
//!
//! What it reads is untrusted (rule S2): a wild pointer, a cycle, or offsets that contradict each
//! other end the walk with an error that names the place. Memory and work are bounded by what the
//! submitter said and by [`WalkerConfig`], never by what the process says.

mod graph;
mod list;

use std::sync::Arc;

use sva_core::DmaPort;

use crate::in_flight::InFlight;
use crate::ports::Ports;

pub use graph::{GraphSearch, IndexWidth, SearchError, SearchReport};
pub use list::{ListError, ListReport, ListWalk};

/// What a walker can do.
#[derive(Debug, Clone, Copy)]
pub struct WalkerConfig {
    /// The largest payload of a list node in bytes. 64 KiB where nothing is said.
    pub max_payload: u32,
    /// The most vertices of a graph; a search needs 12 bytes for each, at most. 2^24 where nothing
    /// is said.
    pub max_vertices: u32,
    /// Bytes that are gathered at a time, at least 64. 256 KiB where nothing is said.
    pub chunk: usize,
}

impl Default for WalkerConfig {
    fn default() -> Self {
        Self { max_payload: 64 << 10, max_vertices: 1 << 24, chunk: 256 << 10 }
    }
}

/// A bus master that follows pointers. Any number of threads may use it at once.
pub struct Walker {
    ports: Ports,
    in_flight: Arc<InFlight>,
    config: WalkerConfig,
}

impl Walker {
    /// A walker behind `port`, which is the port of the device that `in_flight` was plugged in
    /// with.
    pub fn new(port: DmaPort, in_flight: Arc<InFlight>, config: WalkerConfig) -> Self {
        Self {
            ports: Ports::new(port),
            in_flight,
            config: WalkerConfig { chunk: config.chunk.max(64), ..config },
        }
    }
}
