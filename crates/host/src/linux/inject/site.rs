//! Where in a process's own memory the calls made in its name find what they need. Nothing is ever
//! mapped or written there.

use sva_core::Segment;

use crate::linux::procfs::{self, PAGE, USER_END};
use crate::linux::sys::{self, Tid};

/// The bytes of the `syscall` instruction.
const SYSCALL: [u8; 2] = [0x0f, 0x05];

/// A `syscall` instruction, and a string that calls need.
#[derive(Debug)]
pub(crate) struct SyscallSite {
    /// Address of the instruction.
    pub(crate) instruction: u64,
    /// Address of the string "/".
    pub(crate) root_path: Option<u64>,
}

impl SyscallSite {
    /// Searches the pages that are present, 16 MiB at most. Reading an absent page could wait for
    /// ever for whoever provides it (userfaultfd, a file system in user space). Not to be called on
    /// a thread that others wait for, because the process can still delay it.
    pub(crate) fn find(tid: Tid) -> Option<Self> {
        const SEARCHED: u64 = 16 << 20;
        let mut instruction = None;
        let mut root_path = None;
        let mut mappings = procfs::mappings(tid).ok()?;
        // Only what cannot be written. The vdso first: every process has it and none unmaps it.
        // Then constants, where strings are.
        mappings
            .retain(|mapping| mapping.read && !mapping.write && mapping.range.last() < USER_END);
        mappings.sort_by_key(|mapping| (mapping.name != "[vdso]", mapping.execute));
        let mut left = SEARCHED;
        let mut buffer = vec![0_u8; 64 << 10];
        for mapping in mappings {
            let mut from = mapping.range.first();
            while from < mapping.range.last() && left > 0 {
                let len = (buffer.len() as u64).min(mapping.range.last() - from + 1);
                let piece = Segment { address: from, len };
                // The kernel provides the vdso, so reading it never waits.
                let present = if mapping.name == "[vdso]" {
                    piece.len
                } else {
                    procfs::present_bytes(tid, piece).unwrap_or(0)
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
                    instruction = find(SYSCALL);
                }
                root_path = root_path.or_else(|| find([b'/', 0]));
                if let (Some(instruction), Some(_)) = (instruction, root_path) {
                    return Some(Self { instruction, root_path });
                }
                from += read as u64;
                left = left.saturating_sub(read as u64);
            }
        }
        instruction.map(|instruction| Self { instruction, root_path })
    }

    /// Whether the instruction is still there.
    pub(crate) fn is_valid(&self, tid: Tid) -> bool {
        let mut code = [0; 2];
        let piece = Segment { address: self.instruction, len: 2 };
        sys::read_memory(tid, &[piece], &mut code).is_ok() && code == SYSCALL
    }
}
