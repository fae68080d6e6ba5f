//! Linked lists.

use sva_core::port::DmaCause;
use sva_core::{Pasid, Segment};

use super::engine::Walker;
use crate::job::{JobAccess, TransferCause};

/// A list to walk: each node holds the 8-byte address of the next one, little-endian; 0 ends the
/// list.
#[derive(Debug, Clone, Copy)]
pub struct ListWalk {
    /// The address of the first node, or 0.
    pub head: u64,
    /// Offset of the next node's address in a node, in bytes.
    pub next_offset: u64,
    /// Offset of the payload in a node, in bytes.
    pub payload_offset: u64,
    /// Bytes of payload in a node; may be 0.
    pub payload_len: u32,
    /// The most nodes that are visited.
    pub max_nodes: u64,
}

/// What a walk found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListReport {
    /// Nodes in the list.
    pub nodes: u64,
    /// The CRC32C of all payloads one after the other.
    pub checksum: u32,
}

/// Why a walk ended before the list did.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListError {
    /// The payload is larger than the walker's limit.
    #[error("{len} bytes of payload in a node; this walker takes {max}")]
    PayloadTooLarge {
        /// Bytes asked for.
        len: u32,
        /// The walker's limit in bytes.
        max: u32,
    },
    /// A node could not be read, for example because of a wild pointer.
    #[error("node {node:#x}, number {index}: {cause}")]
    Dma {
        /// The node's address.
        node: u64,
        /// How many nodes came before it.
        index: u64,
        /// The cause; a fault names the exact address.
        #[source]
        cause: DmaCause,
    },
    /// A field of the node would lie past the last address.
    #[error("node {node:#x}, number {index}, does not fit below the last address")]
    Wraps {
        /// The node's address.
        node: u64,
        /// How many nodes came before it.
        index: u64,
    },
    /// The list comes back to a node.
    #[error("the list comes back to node {node:#x} every {length} nodes")]
    Cycle {
        /// A node of the cycle.
        node: u64,
        /// Nodes in the cycle.
        length: u64,
    },
    /// The list has more nodes than asked for.
    #[error("more than {max} nodes; the next one would be {next:#x}")]
    TooLong {
        /// Nodes asked for.
        max: u64,
        /// The address of the one after them.
        next: u64,
    },
    /// The PASID is being unbound.
    #[error("stopped after {nodes} nodes: the PASID is being unbound")]
    Stopped {
        /// Nodes visited.
        nodes: u64,
    },
}

impl Walker {
    /// Walks the list, one transaction a node, and passes each node's address and payload to
    /// `visit`. May block to resolve page faults.
    ///
    /// A cycle is found by Brent's algorithm, which takes no memory and visits less than three
    /// times the nodes before and in the cycle. Rejected: a set of the nodes seen, which the
    /// process could make as large as its list.
    ///
    /// # Errors
    /// [`ListError`]; the nodes before it have been visited, in a cycle some of them more than
    /// once.
    pub fn walk_list(
        &self,
        pasid: Option<Pasid>,
        walk: &ListWalk,
        mut visit: impl FnMut(u64, &[u8]),
    ) -> Result<ListReport, ListError> {
        let (len, max) = (walk.payload_len, self.config.max_payload);
        if len > max {
            return Err(ListError::PayloadTooLarge { len, max });
        }
        let job = self.begin(pasid);
        let access = JobAccess::resolving(&job);
        let mut buffer = vec![0; 8 + len as usize];
        let mut report = ListReport { nodes: 0, checksum: 0 };
        let mut node = walk.head;
        // Brent's algorithm: the node that a cycle has to come back to, the nodes visited since,
        // and after how many of them another node takes its place.
        let (mut marked, mut since, mut limit) = (0, 0u64, 1u64);
        while node != 0 {
            if node == marked {
                return Err(ListError::Cycle { node, length: since });
            }
            if report.nodes == walk.max_nodes {
                return Err(ListError::TooLong { max: walk.max_nodes, next: node });
            }
            if since == limit {
                (marked, since, limit) = (node, 0, limit.saturating_mul(2));
            }
            let next = walk.read_node(&access, node, report.nodes, &mut buffer)?;
            let payload = &buffer[8..];
            visit(node, payload);
            report.nodes += 1;
            report.checksum = crc32c::crc32c_append(report.checksum, payload);
            since += 1;
            node = next;
        }
        Ok(report)
    }
}

impl ListWalk {
    /// Reads the next pointer and the payload of one node into `buffer`; returns the pointer.
    fn read_node(
        &self,
        access: &JobAccess<'_>,
        node: u64,
        index: u64,
        buffer: &mut [u8],
    ) -> Result<u64, ListError> {
        let field = |offset: u64, len: u64| {
            let segment = Segment { address: node.checked_add(offset)?, len };
            (!segment.wraps()).then_some(segment)
        };
        let fields =
            field(self.next_offset, 8).zip(field(self.payload_offset, self.payload_len.into()));
        let (next, payload) = fields.ok_or(ListError::Wraps { node, index })?;
        let read = if payload.len == 0 {
            access.gather(&[next], buffer)
        } else {
            access.gather(&[next, payload], buffer)
        };
        read.all_or_nothing().map_err(|cause| match cause {
            TransferCause::Dma(cause) => ListError::Dma { node, index, cause },
            TransferCause::Stopped => ListError::Stopped { nodes: index },
        })?;
        let mut pointer = [0; 8];
        pointer.copy_from_slice(&buffer[..8]);
        Ok(u64::from_le_bytes(pointer))
    }
}
