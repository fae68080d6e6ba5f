//! Linked lists.

use sva_core::port::DmaCause;
use sva_core::{Pasid, Segment};

use super::Walker;
use crate::access::{Halt, JobPort};

/// A list to walk: each node holds the 8-byte address of the next one, little-endian; 0 ends the
/// list.
#[derive(Debug, Clone, Copy)]
pub struct ListWalk {
    /// The address of the first node, or 0.
    pub head: u64,
    /// Where in a node the address of the next one is.
    pub next_offset: u64,
    /// Where in a node its payload is.
    pub payload_offset: u64,
    /// Bytes of payload in a node; may be 0.
    pub payload_len: u32,
    /// The most nodes.
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
    /// The payload is larger than the walker takes.
    #[error("{len} bytes of payload in a node; this walker takes {max}")]
    PayloadTooLarge {
        /// Bytes asked for.
        len: u32,
        /// Bytes possible.
        max: u32,
    },
    /// A node could not be read: a wild pointer, for one.
    #[error("node {node:#x}, number {index}: {cause}")]
    Dma {
        /// The node's address.
        node: u64,
        /// How many nodes came before it.
        index: u64,
        /// Why; a fault names the exact address.
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
    #[error("given up after {nodes} nodes: the PASID is being unbound")]
    Stopped {
        /// Nodes visited.
        nodes: u64,
    },
}

impl Walker {
    /// Walks the list, one transaction a node, and shows each node's address and payload to
    /// `visit`.
    ///
    /// A cycle is found by Brent's algorithm: no memory, and less than three times the nodes before
    /// and in the cycle are visited. Rejected: a set of the nodes seen, which the process could
    /// make as large as its list.
    ///
    /// # Errors
    /// [`ListError`]; the nodes before have been shown, in a cycle some more than once.
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
        let run = self.in_flight.begin(&self.ports, pasid);
        let access = JobPort::resolving(&run);
        let mut buffer = vec![0; 8 + len as usize];
        let mut report = ListReport { nodes: 0, checksum: 0 };
        let mut node = walk.head;
        // The node to come back to, how long ago it was, and when to take another one.
        let (mut marked, mut since, mut until) = (0, 0u64, 1u64);
        while node != 0 {
            if node == marked {
                return Err(ListError::Cycle { node, length: since });
            }
            if report.nodes == walk.max_nodes {
                return Err(ListError::TooLong { max: walk.max_nodes, next: node });
            }
            if since == until {
                (marked, since, until) = (node, 0, until.saturating_mul(2));
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
    /// Reads the next pointer and the payload of one node; answers the pointer.
    fn read_node(
        &self,
        access: &JobPort<'_>,
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
        read.whole().map_err(|halt| match halt {
            Halt::Dma(cause) => ListError::Dma { node, index, cause },
            Halt::Stopped => ListError::Stopped { nodes: index },
        })?;
        let mut pointer = [0; 8];
        pointer.copy_from_slice(&buffer[..8]);
        Ok(u64::from_le_bytes(pointer))
    }
}
