//! A process's mappings, as a device may use them.

use std::fmt;
use std::fs;
use std::io;

use sva_core::{Access, AddrRange, HostFailure};

use crate::sys::Tid;

/// Why a device cannot use a mapping in a given way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Unusable {
    /// The process itself may not read it.
    NotReadable,
    /// The process itself may not write it.
    NotWritable,
    /// It is not memory that can be pinned: a device's registers, or pages that belong to the
    /// kernel (VM_IO, VM_PFNMAP).
    NotMemory,
    /// Executing is not offered to devices.
    Execute,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotReadable => "the process may not read it",
            Self::NotWritable => "the process may not write it",
            Self::NotMemory => "it is not ordinary memory",
            Self::Execute => "devices may not execute",
        })
    }
}

/// One mapping of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    /// Its addresses.
    pub range: AddrRange,
    /// The process may read it.
    pub read: bool,
    /// The process may write it.
    pub write: bool,
    /// The process may execute it.
    pub execute: bool,
    /// Writes are shared with other processes that map the same memory.
    pub shared: bool,
    /// Bytes from the start of the file to the first address; 0 where no file is mapped.
    pub offset: u64,
    /// As the kernel prints it: a path (a newline in it as `\012`, ` (deleted)` after it where the
    /// file has no name any more), a name in brackets such as `[heap]`, or nothing.
    pub name: String,
    memory: bool,
}

impl Region {
    /// Why a device cannot access it in this way; `None` where it can.
    pub fn unusable(&self, access: Access) -> Option<Unusable> {
        match access {
            Access::Execute => Some(Unusable::Execute),
            _ if !self.memory => Some(Unusable::NotMemory),
            Access::Read if !self.read => Some(Unusable::NotReadable),
            Access::Write if !self.write => Some(Unusable::NotWritable),
            Access::Read | Access::Write => None,
        }
    }

    /// Whether `name` names this mapping: the whole name, the path without ` (deleted)`, or the
    /// last part of either.
    fn is_named(&self, name: &str) -> bool {
        let whole = self.name.as_str();
        let path = whole.strip_suffix(" (deleted)").unwrap_or(whole);
        [whole, path].iter().any(|&known| {
            known == name || known.starts_with('/') && known.rsplit('/').next() == Some(name)
        })
    }

    /// Reads the first line of a mapping in `maps` or `smaps`; `None` for a line of another kind.
    fn parse(line: &str) -> Option<Self> {
        // The name is separated by spaces and may contain more of them.
        let mut rest = line;
        let mut word = || {
            let (word, after) = rest.split_once(' ').unwrap_or((rest, ""));
            rest = after;
            (!word.is_empty()).then_some(word)
        };
        let (first, end) = word()?.split_once('-')?;
        let hex = |text| u64::from_str_radix(text, 16).ok();
        let range = AddrRange::inclusive(hex(first)?, hex(end)?.checked_sub(1)?)?;
        let flags: [u8; 4] = word()?.as_bytes().try_into().ok()?;
        let offset = hex(word()?)?;
        let _device = word()?;
        let _inode = word()?;
        let name = rest.trim_start_matches(' ').to_owned();
        let [read, write, execute, shared] = flags;
        let region = Self {
            range,
            read: read == b'r',
            write: write == b'w',
            execute: execute == b'x',
            shared: shared == b's',
            offset,
            // Outside the half of the addresses that is the process's own.
            memory: range.last() < 1 << 63,
            name,
        };
        Some(region)
    }
}

/// Why a process's mappings cannot be told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegionsError {
    /// There is no such process.
    #[error("there is no process {pid}; ps -e lists those that run")]
    NoSuchProcess {
        /// The number asked for.
        pid: u32,
    },
    /// The kernel does not let us look.
    #[error(
        "no right to see the mappings of process {pid}; run as its user, or with CAP_SYS_PTRACE"
    )]
    NotPermitted {
        /// The number asked for.
        pid: u32,
    },
    /// It has exited, or is a thread of the kernel.
    #[error("process {pid} has no address space")]
    NoMemory {
        /// The number asked for.
        pid: u32,
    },
    /// The space has ended.
    #[error("the address space has ended")]
    Ended,
    /// The machine below failed.
    #[error(transparent)]
    Host(HostFailure),
}

/// The mappings of process `pid` at the moment, sorted by address. `pid` may be any task's number.
///
/// The answer is about the process that has the number *now*; for a bound space see
/// [`HostSpace::regions`](crate::HostSpace::regions).
///
/// # Errors
/// The process is not there, not ours to see, or has no memory.
pub fn regions(pid: u32) -> Result<Vec<Region>, RegionsError> {
    let host = |source| RegionsError::Host(HostFailure { call: "read /proc/PID/smaps", source });
    let number = Tid::try_from(pid).map_err(|_| RegionsError::NoSuchProcess { pid })?;
    match detailed(number) {
        Ok(regions) if regions.is_empty() => Err(RegionsError::NoMemory { pid }),
        Ok(regions) => Ok(regions),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOENT) => Err(RegionsError::NoSuchProcess { pid }),
            Some(libc::EACCES | libc::EPERM) => Err(RegionsError::NotPermitted { pid }),
            Some(libc::ESRCH) => Err(RegionsError::NoMemory { pid }),
            _ => Err(host(error)),
        },
    }
}

/// The mappings without what only `smaps` knows (cheap).
pub(crate) fn plain(tid: Tid) -> io::Result<Vec<Region>> {
    let text = fs::read(format!("/proc/{tid}/maps"))?;
    Ok(String::from_utf8_lossy(&text).lines().filter_map(Region::parse).collect())
}

/// The mappings with whether they are ordinary memory (walks the page tables).
pub(crate) fn detailed(tid: Tid) -> io::Result<Vec<Region>> {
    let text = match fs::read(format!("/proc/{tid}/smaps")) {
        // Built without it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return plain(tid),
        text => text?,
    };
    Ok(parse_detailed(&String::from_utf8_lossy(&text)))
}

fn parse_detailed(text: &str) -> Vec<Region> {
    let mut regions: Vec<Region> = Vec::new();
    for line in text.lines() {
        if let Some(region) = Region::parse(line) {
            regions.push(region);
        } else if let (Some(flags), Some(region)) =
            (line.strip_prefix("VmFlags:"), regions.last_mut())
        {
            region.memory &=
                !flags.split_ascii_whitespace().any(|flag| matches!(flag, "io" | "pf"));
        }
    }
    regions
}

/// Why a name does not give one mapping.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FindError {
    /// No mapping has the name.
    #[error("no mapping is named `{name}`; `sva regions` lists the names")]
    Unknown {
        /// The name asked for.
        name: String,
    },
    /// Several have it.
    #[error("{} mappings are named `{name}`; take one as `{name}#0` to `{name}#{}`, in order of their addresses", .ranges.len(), .ranges.len().saturating_sub(1))]
    Ambiguous {
        /// The name asked for.
        name: String,
        /// Where they are, sorted.
        ranges: Vec<AddrRange>,
    },
}

/// The one mapping that `name` stands for: a name in brackets (`[heap]`, `[stack]`), a file's path,
/// or the last part of the path. A file is mostly mapped in several parts with different
/// permissions: `name#N` is the N-th of them in order of addresses, counted from 0.
///
/// # Errors
/// None has the name, or several have it and no number was given.
pub fn find<'a>(regions: &'a [Region], name: &str) -> Result<&'a Region, FindError> {
    let named =
        |wanted: &str| regions.iter().filter(|region| region.is_named(wanted)).collect::<Vec<_>>();
    match named(name).as_slice() {
        [one] => return Ok(one),
        [] => {}
        several => {
            let ranges = several.iter().map(|region| region.range).collect();
            return Err(FindError::Ambiguous { name: name.to_owned(), ranges });
        }
    }
    let numbered = name
        .rsplit_once('#')
        .and_then(|(name, number)| named(name).get(number.parse::<usize>().ok()?).copied());
    numbered.ok_or_else(|| FindError::Unknown { name: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::{FindError, Region, Unusable, find, parse_detailed};
    use sva_core::Access;

    const SMAPS: &str = "\
55d0-55e0 r--p 00000000 fe:00 42                         /opt/a b/lib x.so (deleted)
Size:                  4 kB
VmFlags: rd mr mw me
55e0-55f0 r-xp 00001000 fe:00 42                         /opt/a b/lib x.so (deleted)
AnonHugePages:         0 kB
VmFlags: rd ex mr mw me
6000-7000 rw-p 00000000 00:00 0                          [heap]
VmFlags: rd wr mr mw me ac
8000-9000 rw-s 00000000 00:05 9                          /dev/x\\012y
VmFlags: rd wr sh io pf
9000-a000 ---p 00000000 00:00 0 
VmFlags: mr mw me
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
VmFlags: ex
";

    #[test]
    fn mappings_are_read_with_names_that_contain_spaces() {
        let regions = parse_detailed(SMAPS);
        assert_eq!(regions.len(), 6);
        let names: Vec<_> = regions.iter().map(|region| region.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "/opt/a b/lib x.so (deleted)",
                "/opt/a b/lib x.so (deleted)",
                "[heap]",
                "/dev/x\\012y",
                "",
                "[vsyscall]"
            ]
        );
        assert_eq!(
            (regions[1].range.first(), regions[1].range.last(), regions[1].offset),
            (0x55e0, 0x55ef, 0x1000)
        );
        assert!(regions[3].shared && !regions[2].shared);
    }

    #[test]
    fn a_region_says_why_a_device_cannot_use_it() {
        let regions = parse_detailed(SMAPS);
        let why = |index: usize, access| regions[index].unusable(access);
        assert_eq!(why(0, Access::Read), None);
        assert_eq!(why(0, Access::Write), Some(Unusable::NotWritable));
        assert_eq!(why(2, Access::Write), None);
        assert_eq!(why(2, Access::Execute), Some(Unusable::Execute));
        assert_eq!(why(3, Access::Read), Some(Unusable::NotMemory));
        assert_eq!(why(4, Access::Read), Some(Unusable::NotReadable));
        assert_eq!(why(5, Access::Read), Some(Unusable::NotMemory));
    }

    #[test]
    fn a_name_stands_for_one_mapping_or_is_refused() {
        let regions = parse_detailed(SMAPS);
        let first = |name: &str| find(&regions, name).map(|region| region.range.first());
        assert_eq!(first("[heap]"), Ok(0x6000));
        assert_eq!(first("lib x.so#1"), Ok(0x55e0));
        assert_eq!(first("/opt/a b/lib x.so#0"), Ok(0x55d0));
        assert!(
            matches!(first("lib x.so"), Err(FindError::Ambiguous { ranges, .. }) if ranges.len() == 2)
        );
        assert_eq!(first("lib x.so#2"), Err(FindError::Unknown { name: "lib x.so#2".into() }));
        assert!(matches!(first("heap"), Err(FindError::Unknown { .. })));
    }

    #[test]
    fn a_line_that_is_no_mapping_is_passed_over() {
        for line in [
            "",
            "Size: 4 kB",
            "5-4 rw-p 0 0 0",
            "5-0 rw-p 0 0 0",
            "5-6 rw 0 0 0",
            "x-y rw-p 0 0:0 0",
        ] {
            assert_eq!(Region::parse(line), None, "{line}");
        }
    }
}
