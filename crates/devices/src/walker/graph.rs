//! Breadth-first search over a graph in compressed sparse row form.
//!
//! The search goes level by level. The frontier is sorted, so that consecutive vertices share one
//! piece of the row array and one of the column array. The pieces of a whole frontier go into as
//! few gathers as the chunk size permits. The process may change the arrays meanwhile: every number
//! is checked where it is used, and the edges that are visited in all are bounded by the edge count
//! that the submitter gave.

use std::ops::Range;

use sva_core::port::DmaCause;
use sva_core::{AddrRange, Pasid, Segment};

use super::engine::Walker;
use crate::job::{JobAccess, TransferCause};

/// The width of the numbers in an array; they are little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IndexWidth {
    /// 4 bytes.
    U32,
    /// 8 bytes.
    U64,
}

impl IndexWidth {
    /// The width in bytes.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::U32 => 4,
            Self::U64 => 8,
        }
    }

    fn read(self, bytes: &[u8]) -> u64 {
        bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }
}

/// A graph to search: the neighbours of vertex `v` are `columns[rows[v]..rows[v + 1]]`.
#[derive(Debug, Clone, Copy)]
pub struct GraphSearch {
    /// Address of the row offsets, `vertices + 1` of them.
    pub rows: u64,
    /// Their width.
    pub row_width: IndexWidth,
    /// Address of the column indices.
    pub columns: u64,
    /// Their width.
    pub column_width: IndexWidth,
    /// How many vertices there are.
    pub vertices: u32,
    /// How many column indices there are.
    pub edges: u64,
    /// Where the search begins.
    pub source: u32,
    /// Address to write the distances to, 4 bytes a vertex, little-endian;
    /// [`SearchReport::UNREACHED`] for vertices that cannot be reached.
    pub distances: Option<u64>,
}

/// What a search found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchReport {
    /// Edges from the source to each vertex, or [`Self::UNREACHED`].
    pub distances: Vec<u32>,
    /// Vertices that can be reached, the source among them.
    pub reached: u32,
    /// The largest distance.
    pub depth: u32,
    /// Edges visited.
    pub edges: u64,
}

impl SearchReport {
    /// The distance of a vertex that cannot be reached.
    pub const UNREACHED: u32 = u32::MAX;
}

/// Why a search ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SearchError {
    /// More vertices than the walker's limit, or no memory for them.
    #[error("{vertices} vertices; this walker takes {max}, memory permitting")]
    TooManyVertices {
        /// Vertices asked for.
        vertices: u32,
        /// The walker's limit.
        max: u32,
    },
    /// The source is not a vertex.
    #[error("the source {source_vertex} is none of the {vertices} vertices")]
    NoSuchSource {
        /// The source.
        source_vertex: u32,
        /// Vertices in the graph.
        vertices: u32,
    },
    /// An array would pass the last address.
    #[error("{len:#x} bytes at {address:#x} pass the last address")]
    Wraps {
        /// Where the array begins.
        address: u64,
        /// Bytes in it; saturated.
        len: u64,
    },
    /// A transaction failed.
    #[error("after {reached} vertices: {cause}")]
    Dma {
        /// Vertices reached.
        reached: u32,
        /// The cause; a fault names the exact address.
        #[source]
        cause: DmaCause,
    },
    /// The row offsets of a vertex contradict each other or the edge count.
    #[error(
        "the row offsets {start} and {end} of vertex {vertex} do not lie in order \
         within {edges} edges"
    )]
    RowOffsets {
        /// The vertex.
        vertex: u32,
        /// Where its neighbours begin.
        start: u64,
        /// Where they end.
        end: u64,
        /// Edges in the graph.
        edges: u64,
    },
    /// A column index is not a vertex.
    #[error("column index {edge} is {column}, but there are {vertices} vertices")]
    Column {
        /// Which index.
        edge: u64,
        /// Its value.
        column: u64,
        /// Vertices in the graph.
        vertices: u32,
    },
    /// The rows together have more neighbours than there are edges: they changed while they were
    /// read.
    #[error("the rows overlap: more than {edges} edges")]
    TooManyEdges {
        /// Edges in the graph.
        edges: u64,
    },
    /// The PASID is being unbound.
    #[error("stopped after {reached} vertices: the PASID is being unbound")]
    Stopped {
        /// Vertices reached.
        reached: u32,
    },
}

impl Walker {
    /// Searches the graph and, where asked, writes the distances into the process.
    ///
    /// # Errors
    /// [`SearchError`]. Distances are written only after the search is through.
    pub fn search_graph(
        &self,
        pasid: Option<Pasid>,
        graph: &GraphSearch,
    ) -> Result<SearchReport, SearchError> {
        let (vertices, max) = (graph.vertices, self.config.max_vertices);
        if vertices > max {
            return Err(SearchError::TooManyVertices { vertices, max });
        }
        if graph.source >= vertices {
            return Err(SearchError::NoSuchSource { source_vertex: graph.source, vertices });
        }
        graph.check_arrays()?;
        let mut distances = Vec::new();
        distances
            .try_reserve_exact(vertices as usize)
            .map_err(|_| SearchError::TooManyVertices { vertices, max })?;
        distances.resize(vertices as usize, SearchReport::UNREACHED);
        let job = self.begin(pasid);
        let access = JobAccess::resolving(&job);
        let report = SearchReport { distances, reached: 0, depth: 0, edges: 0 };
        let mut search =
            Search { graph, access, chunk: self.config.chunk, report, buffer: Vec::new() };
        search.all()?;
        search.write_distances()?;
        Ok(search.report)
    }
}

impl GraphSearch {
    fn check_arrays(&self) -> Result<(), SearchError> {
        let rows = (u64::from(self.vertices) + 1) * self.row_width.bytes();
        let columns = self.edges.saturating_mul(self.column_width.bytes());
        let out = self.distances.map(|address| (address, u64::from(self.vertices) * 4));
        for (address, len) in [(self.rows, rows), (self.columns, columns)].into_iter().chain(out) {
            if len > 0 && AddrRange::new(address, len).is_none() {
                return Err(SearchError::Wraps { address, len });
            }
        }
        Ok(())
    }
}

/// The state of a search.
struct Search<'a> {
    graph: &'a GraphSearch,
    access: JobAccess<'a>,
    chunk: usize,
    report: SearchReport,
    buffer: Vec<u8>,
}

impl Search<'_> {
    fn all(&mut self) -> Result<(), SearchError> {
        let mut frontier = Vec::new();
        self.reach(self.graph.source, 0, &mut frontier);
        while !frontier.is_empty() {
            frontier.sort_unstable();
            frontier = self.level(&frontier)?;
        }
        Ok(())
    }

    fn reach(&mut self, vertex: u32, distance: u32, next: &mut Vec<u32>) {
        let entry = &mut self.report.distances[vertex as usize];
        if *entry == SearchReport::UNREACHED {
            *entry = distance;
            self.report.reached += 1;
            self.report.depth = distance;
            next.push(vertex);
        }
    }

    /// Visits the edges of a frontier, which is sorted; returns the next frontier.
    fn level(&mut self, frontier: &[u32]) -> Result<Vec<u32>, SearchError> {
        let distance = self.report.distances[frontier[0] as usize] + 1;
        let mut next = Vec::new();
        // As many vertices as fit if no two are consecutive: each of them needs two offsets then.
        let at_once = (self.chunk / (2 * self.graph.row_width.bytes() as usize)).max(1);
        for part in frontier.chunks(at_once) {
            let edges = self.edge_ranges(part)?;
            self.neighbours(&edges, distance, &mut next)?;
        }
        Ok(next)
    }

    /// The checked ranges of the column array for these vertices: one range for each run of
    /// consecutive vertices.
    fn edge_ranges(&mut self, vertices: &[u32]) -> Result<Vec<Range<u64>>, SearchError> {
        let width = self.graph.row_width.bytes();
        let runs: Vec<&[u32]> = vertices.chunk_by(|a, b| a + 1 == *b).collect();
        let offsets = |run: &&[u32]| Segment {
            address: self.graph.rows + u64::from(run[0]) * width,
            len: (run.len() as u64 + 1) * width,
        };
        let pieces: Vec<_> = runs.iter().map(offsets).collect();
        self.gather(&pieces)?;
        let mut values =
            self.buffer.chunks_exact(width as usize).map(|bytes| self.graph.row_width.read(bytes));
        let edges = self.graph.edges;
        let mut ranges = Vec::with_capacity(runs.len());
        for run in runs {
            let first = values.next().unwrap_or(0);
            let mut start = first;
            for (vertex, end) in run.iter().zip(&mut values) {
                if start > end || end > edges {
                    return Err(SearchError::RowOffsets { vertex: *vertex, start, end, edges });
                }
                start = end;
            }
            ranges.push(first..start);
        }
        self.report.edges += ranges.iter().map(|range| range.end - range.start).sum::<u64>();
        if self.report.edges > edges {
            Err(SearchError::TooManyEdges { edges })
        } else {
            Ok(ranges)
        }
    }

    /// Reads the column indices in these ranges, a chunk at a time.
    fn neighbours(
        &mut self,
        ranges: &[Range<u64>],
        distance: u32,
        next: &mut Vec<u32>,
    ) -> Result<(), SearchError> {
        let most = self.chunk as u64 / self.graph.column_width.bytes();
        let mut batch: Vec<Range<u64>> = Vec::new();
        let mut room = most;
        for range in ranges {
            let mut rest = range.clone();
            while !rest.is_empty() {
                let take = room.min(rest.end - rest.start);
                batch.push(rest.start..rest.start + take);
                rest.start += take;
                room -= take;
                if room == 0 {
                    self.visit(&batch, distance, next)?;
                    batch.clear();
                    room = most;
                }
            }
        }
        self.visit(&batch, distance, next)
    }

    fn visit(
        &mut self,
        batch: &[Range<u64>],
        distance: u32,
        next: &mut Vec<u32>,
    ) -> Result<(), SearchError> {
        let width = self.graph.column_width;
        let piece = |edges: &Range<u64>| Segment {
            address: self.graph.columns + edges.start * width.bytes(),
            len: (edges.end - edges.start) * width.bytes(),
        };
        let pieces: Vec<_> = batch.iter().map(piece).collect();
        self.gather(&pieces)?;
        let buffer = std::mem::take(&mut self.buffer);
        let edges = batch.iter().cloned().flatten();
        for (edge, bytes) in edges.zip(buffer.chunks_exact(width.bytes() as usize)) {
            let column = width.read(bytes);
            match u32::try_from(column) {
                Ok(vertex) if vertex < self.graph.vertices => self.reach(vertex, distance, next),
                _ => {
                    return Err(SearchError::Column {
                        edge,
                        column,
                        vertices: self.graph.vertices,
                    });
                }
            }
        }
        self.buffer = buffer;
        Ok(())
    }

    /// Reads the pieces into the buffer.
    fn gather(&mut self, pieces: &[Segment]) -> Result<(), SearchError> {
        let len: u64 = pieces.iter().map(|piece| piece.len).sum();
        self.buffer.resize(len as usize, 0);
        if len == 0 {
            return Ok(());
        }
        self.access
            .gather(pieces, &mut self.buffer)
            .all_or_nothing()
            .map_err(|cause| self.error(cause))
    }

    fn write_distances(&mut self) -> Result<(), SearchError> {
        let Some(address) = self.graph.distances else { return Ok(()) };
        let per_chunk = self.chunk / 4;
        for (at, distances) in self.report.distances.chunks(per_chunk).enumerate() {
            let address = address + (at * per_chunk * 4) as u64;
            self.buffer.clear();
            self.buffer.extend(distances.iter().flat_map(|distance| distance.to_le_bytes()));
            self.access
                .write(address, &self.buffer)
                .all_or_nothing()
                .map_err(|cause| self.error(cause))?;
        }
        Ok(())
    }

    fn error(&self, cause: TransferCause) -> SearchError {
        let reached = self.report.reached;
        match cause {
            TransferCause::Dma(cause) => SearchError::Dma { reached, cause },
            TransferCause::Stopped => SearchError::Stopped { reached },
        }
    }
}
