//! What a process has in its memory that the calls made in its name need: nothing of ours is ever
//! mapped or written there.

use sva_core::Segment;

use crate::mapping::{self, PAGE};
use crate::regions;
use crate::sys::{self, Tid};

/// Places in the process's own memory that the calls need.
#[derive(Debug)]
pub(crate) struct Landmarks {
    /// A `syscall` instruction.
    pub(crate) instruction: u64,
    /// The string "/".
    pub(crate) root: Option<u64>,
}

impl Landmarks {
    /// Looks for them in what is present: elsewhere a read could wait for whoever provides the page
    /// (userfaultfd, a file system in user space), for ever. Still, not to be called on a thread
    /// that others wait for.
    pub(crate) fn find(tid: Tid) -> Option<Self> {
        const SEARCHED: u64 = 16 << 20;
        let mut instruction = None;
        let mut root = None;
        let mut mappings = regions::plain(tid).ok()?;
        // Of what cannot be written; the vdso first, since everybody has it and nobody unmaps it.
        mappings.retain(|mapping| mapping.read && !mapping.write && mapping.range.last() < 1 << 63);
        // Then constants, where strings are.
        mappings.sort_by_key(|mapping| (mapping.name != "[vdso]", mapping.execute));
        let mut left = SEARCHED;
        let mut buffer = vec![0_u8; 64 << 10];
        for mapping in mappings {
            let mut from = mapping.range.first();
            while from < mapping.range.last() && left > 0 {
                let piece = Segment {
                    address: from,
                    len: (buffer.len() as u64).min(mapping.range.last() - from + 1),
                };
                // The vdso comes from the kernel.
                let present = if mapping.name == "[vdso]" {
                    piece.len
                } else {
                    mapping::present_bytes(tid, piece).unwrap_or(0)
                };
                if present == 0 {
                    from += PAGE;
                    left = left.saturating_sub(PAGE);
                    continue;
                }
                let piece = Segment { len: present, ..piece };
                let Some(room) = buffer.get_mut(..piece.len as usize) else { break };
                let Ok(read @ 1..) = sys::read_memory(tid, &[piece], room) else { break };
                let find = |pattern: [u8; 2]| {
                    room.get(..read)?
                        .windows(2)
                        .position(|pair| pair == pattern)
                        .map(|at| from + at as u64)
                };
                if mapping.execute && instruction.is_none() {
                    instruction = find([0x0f, 0x05]);
                }
                root = root.or_else(|| find([b'/', 0]));
                if let (Some(instruction), Some(_)) = (instruction, root) {
                    return Some(Self { instruction, root });
                }
                from += read as u64;
                left = left.saturating_sub(read as u64);
            }
        }
        instruction.map(|instruction| Self { instruction, root })
    }

    /// Whether the instruction is still there.
    pub(crate) fn still_holds(&self, tid: Tid) -> bool {
        let mut code = [0; 2];
        sys::read_memory(tid, &[Segment { address: self.instruction, len: 2 }], &mut code).is_ok()
            && code == [0x0f, 0x05]
    }
}
