//! The child's side of the demonstration: a process of its own with random data in its memory,
//! which recomputes itself what devices do to it.
//!
//! It answers lines on its standard output to lines on its standard input, and exits when that
//! ends, so that no child outlives the demonstration. Its memory consists of atomics, because
//! devices change it while the program runs.
//!
//! | question | answer |
//! |---|---|
//! | (at the start) | `ready`, and what `buffer` answers where the command line asks for one |
//! | `buffer BYTES SEED` | number, address |
//! | `fresh BYTES` | number, address (of a page) of a buffer whose pages nobody has touched |
//! | `crc NUMBER OFFSET BYTES` | CRC32C |
//! | `free NUMBER` | (nothing): the buffer's memory is given back to the kernel |
//! | `list NODES SEED` | head, offset of the next pointer, offset and bytes of the payload |
//! | `walk` | nodes, CRC32C of the payloads |
//! | `graph VERTICES EDGES SEED` | address of rows, of columns, of distances |
//! | `search SOURCE` | vertices reached, depth, distances in memory that are not those it finds |
//! | `constant` | address, bytes, CRC32C of memory that it may only read |
//! | `exec BYTES SEED` | the start of the new image |
#![expect(
    clippy::disallowed_types,
    reason = "memory for devices: nothing is synchronised by it, and its layout is the plain one"
)]

use std::collections::{HashMap, VecDeque};
use std::hint::black_box;
use std::io::{self, Write};
use std::mem::offset_of;
use std::ops::Range;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::str::SplitAsciiWhitespace;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use fastrand::Rng;
use zerocopy::FromZeros as _;

/// Requests that only Linux has. Where one is refused, the demonstration shows less, and nothing
/// wrong.
#[cfg(target_os = "linux")]
mod kernel {
    use nix::sys::personality::{self, Persona};

    pub(super) fn disable_huge_pages() {
        let _refused = nix::sys::prctl::set_thp_disable(true);
    }

    pub(super) fn disable_address_randomisation() {
        let _refused =
            personality::get().and_then(|now| personality::set(now | Persona::ADDR_NO_RANDOMIZE));
    }
}

/// Elsewhere no child is started: the demonstration ends before, for want of live processes.
#[cfg(not(target_os = "linux"))]
mod kernel {
    pub(super) fn disable_huge_pages() {}

    pub(super) fn disable_address_randomisation() {}
}

/// The first word of the command line that makes the command a child.
pub(crate) const WORD: &str = "demo-child";

/// What the kernel executes, also where the file was replaced meanwhile.
pub(super) const SELF: &str = "/proc/self/exe";

/// The distance of a vertex that cannot be reached.
const UNREACHED: u32 = u32::MAX;

/// A page that the process may read and not write: a constant of its program.
#[repr(align(4096))]
struct Page([u8; 4096]);
static CONSTANT: Page = Page([0x5a; 4096]);

/// A node of the list, as C would write it.
#[repr(C)]
struct Node {
    key: AtomicU64,
    next: AtomicU64,
    payload: [AtomicU64; 6],
}

/// A graph in compressed sparse row form, and the distances that a device found.
struct Graph {
    rows: Vec<AtomicU64>,
    columns: Vec<AtomicU32>,
    distances: Vec<AtomicU32>,
}

/// Memory of which some words are for devices.
struct Buffer {
    memory: Vec<AtomicU64>,
    words: Range<usize>,
}

#[derive(Default)]
struct Memory {
    buffers: Vec<Option<Buffer>>,
    /// Nodes by their addresses.
    nodes: HashMap<u64, Box<Node>>,
    head: u64,
    graph: Option<Graph>,
}

/// Runs as a child until standard input ends. `words` is the command line after [`WORD`].
pub(crate) fn main(words: &[String]) -> u8 {
    let mut memory = Memory::default();
    let first = if words.is_empty() {
        Some(String::new())
    } else {
        memory.answer(&format!("buffer {}", words.join(" ")))
    };
    let Some(first) = first else { return 2 };
    let mut answer = format!("ready {first}");
    let mut lines = io::stdin().lines();
    loop {
        let mut out = io::stdout().lock();
        if writeln!(out, "{}", answer.trim_end()).and_then(|()| out.flush()).is_err() {
            return 0;
        }
        let Some(Ok(line)) = lines.next() else { return 0 };
        match memory.answer(&line) {
            Some(text) => answer = text,
            None => return 2,
        }
    }
}

fn number<T: std::str::FromStr>(words: &mut SplitAsciiWhitespace<'_>) -> Option<T> {
    words.next()?.parse().ok()
}

impl Memory {
    /// What to say to a line; nothing where it is no question.
    fn answer(&mut self, line: &str) -> Option<String> {
        let mut words = line.split_ascii_whitespace();
        let question = words.next()?;
        let words = &mut words;
        Some(match question {
            "buffer" => {
                let memory = random_words(number::<usize>(words)? / 8, number(words)?);
                let address = memory.as_ptr() as u64;
                let words = 0..memory.len();
                self.buffers.push(Some(Buffer { memory, words }));
                format!("{} {address}", self.buffers.len() - 1)
            }
            "fresh" => {
                // One touch is to make one page. Where it is refused there are fewer faults to be
                // seen, and no other difference.
                kernel::disable_huge_pages();
                let len = number::<usize>(words)?;
                // So large that the allocator gets it from the kernel, zero and untouched; a page
                // more than asked for, to begin at one.
                let memory = AtomicU64::new_vec_zeroed(len / 8 + 512).ok()?;
                let skipped = memory.as_ptr().align_offset(4096);
                let address = memory.as_ptr().wrapping_add(skipped) as u64;
                self.buffers.push(Some(Buffer { memory, words: skipped..skipped + len / 8 }));
                format!("{} {address}", self.buffers.len() - 1)
            }
            "crc" => {
                let buffer = self.buffers.get(number::<usize>(words)?)?.as_ref()?;
                let (offset, len) = (number::<usize>(words)?, number::<usize>(words)?);
                crc(buffer
                    .memory
                    .get(buffer.words.clone())?
                    .get(offset / 8..offset.checked_add(len)? / 8)?)
                .to_string()
            }
            "free" => {
                self.buffers.get_mut(number::<usize>(words)?)?.take()?;
                String::new()
            }
            "list" => self.build_list(number(words)?, &mut Rng::with_seed(number(words)?)),
            "walk" => self.walk_list(),
            "graph" => self.build_graph(
                number(words)?,
                number(words)?,
                &mut Rng::with_seed(number(words)?),
            ),
            "search" => self.graph.as_ref()?.search(number(words)?)?,
            "constant" => {
                // What the memory holds, and not what the compiler knows of the constant.
                let page = black_box(&CONSTANT);
                format!("{} {} {}", page.0.as_ptr() as u64, page.0.len(), crc32c::crc32c(&page.0))
            }
            // Returns only where it fails.
            "exec" => {
                // Where it is refused (some container runtimes do), the new image lies elsewhere,
                // and the parent sees it.
                kernel::disable_address_randomisation();
                let _refused = Command::new(SELF).arg(WORD).args(words).exec();
                return None;
            }
            _ => return None,
        })
    }

    /// Nodes in random order all over the heap.
    fn build_list(&mut self, nodes: usize, rng: &mut Rng) -> String {
        let node = |_| {
            Box::new(Node {
                key: word(rng),
                next: AtomicU64::new(0),
                payload: std::array::from_fn(|_| word(rng)),
            })
        };
        let mut boxes: Vec<Box<Node>> = (0..nodes).map(node).collect();
        rng.shuffle(&mut boxes);
        self.head = 0;
        self.nodes.clear();
        for node in boxes {
            node.next.store(self.head, Relaxed);
            self.head = &raw const *node as u64;
            self.nodes.insert(self.head, node);
        }
        format!(
            "{} {} {} {}",
            self.head,
            offset_of!(Node, next),
            offset_of!(Node, payload),
            size_of::<[AtomicU64; 6]>()
        )
    }

    /// Follows the pointers; each is the address of a node that it has.
    fn walk_list(&self) -> String {
        let (mut count, mut checksum, mut at) = (0, 0, self.head);
        while let Some(node) = self.nodes.get(&at).filter(|_| count < self.nodes.len()) {
            checksum = append(checksum, &node.payload);
            count += 1;
            at = node.next.load(Relaxed);
        }
        format!("{count} {checksum}")
    }

    /// A random graph in which most vertices can be reached from the first.
    fn build_graph(&mut self, vertices: u32, edges: usize, rng: &mut Rng) -> String {
        let mut neighbours = vec![Vec::new(); vertices as usize];
        for edge in 0..edges {
            // The first vertex gets some in any case: a search that begins at a dead end would show
            // nothing.
            let from = if edge < 16 { 0 } else { rng.usize(..vertices as usize) };
            neighbours[from].push(rng.u32(..vertices));
        }
        let offsets = neighbours.iter().scan(0, |end, row| {
            *end += row.len() as u64;
            Some(AtomicU64::new(*end))
        });
        let rows = std::iter::once(AtomicU64::new(0)).chain(offsets).collect();
        let columns = neighbours.iter().flatten().map(|&vertex| AtomicU32::new(vertex)).collect();
        let distances = (0..vertices).map(|_| AtomicU32::new(0)).collect();
        let graph = self.graph.insert(Graph { rows, columns, distances });
        format!(
            "{} {} {}",
            graph.rows.as_ptr() as u64,
            graph.columns.as_ptr() as u64,
            graph.distances.as_ptr() as u64
        )
    }
}

impl Graph {
    /// Breadth first, one vertex at a time; compares with what is in the memory for distances.
    fn search(&self, source: u32) -> Option<String> {
        let mut found = vec![UNREACHED; self.distances.len()];
        *found.get_mut(source as usize)? = 0;
        let mut queue = VecDeque::from([source as usize]);
        while let Some(vertex) = queue.pop_front() {
            let row = self.rows[vertex].load(Relaxed) as usize
                ..self.rows[vertex + 1].load(Relaxed) as usize;
            for neighbour in self.columns[row].iter().map(|column| column.load(Relaxed) as usize) {
                if found[neighbour] == UNREACHED {
                    found[neighbour] = found[vertex] + 1;
                    queue.push_back(neighbour);
                }
            }
        }
        let reached = found.iter().filter(|distance| **distance != UNREACHED);
        let wrong = found
            .iter()
            .zip(&self.distances)
            .filter(|(found, there)| **found != there.load(Relaxed))
            .count();
        Some(format!("{} {} {wrong}", reached.clone().count(), reached.max()?))
    }
}

fn word(rng: &mut Rng) -> AtomicU64 {
    AtomicU64::new(rng.u64(..))
}

fn random_words(count: usize, seed: u64) -> Vec<AtomicU64> {
    let mut rng = Rng::with_seed(seed);
    (0..count).map(|_| word(&mut rng)).collect()
}

/// The CRC32C of words as they lie in memory.
fn crc(words: &[AtomicU64]) -> u32 {
    words.chunks(512).fold(0, append)
}

/// The CRC32C of a buffer as long as nobody has written to it.
pub(super) fn untouched(len: u64, seed: u64) -> u32 {
    crc(&random_words(len as usize / 8, seed))
}

/// Continues a CRC32C with at most 512 words.
fn append(checksum: u32, words: &[AtomicU64]) -> u32 {
    let mut bytes = [0; 4096];
    for (piece, word) in bytes.chunks_exact_mut(8).zip(words) {
        piece.copy_from_slice(&word.load(Relaxed).to_ne_bytes());
    }
    crc32c::crc32c_append(checksum, &bytes[..words.len() * 8])
}
