//! `/proc/PID/maps` and `/proc/PID/smaps`: all mappings of a process.

use std::fs;
use std::io;

use sva_core::AddrRange;

use crate::linux::sys::Tid;
use crate::region::Region;

/// One past the last address of the process's own half. A process may see pages above it that
/// belong to the kernel (`[vsyscall]`).
pub(crate) const USER_END: u64 = 1 << 63;

/// All mappings, without what only `smaps` tells. Cheap.
pub(crate) fn mappings(tid: Tid) -> io::Result<Vec<Region>> {
    let text = fs::read(format!("/proc/{tid}/maps"))?;
    Ok(String::from_utf8_lossy(&text).lines().filter_map(parse_line).collect())
}

/// All mappings, with whether they are ordinary memory. The kernel walks the page tables for it.
pub(crate) fn mappings_with_flags(tid: Tid) -> io::Result<Vec<Region>> {
    let text = match fs::read(format!("/proc/{tid}/smaps")) {
        // The kernel was built without it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return mappings(tid),
        text => text?,
    };
    Ok(parse_smaps(&String::from_utf8_lossy(&text)))
}

fn parse_smaps(text: &str) -> Vec<Region> {
    let mut regions: Vec<Region> = Vec::new();
    for line in text.lines() {
        if let Some(region) = parse_line(line) {
            regions.push(region);
        } else if let (Some(flags), Some(region)) =
            (line.strip_prefix("VmFlags:"), regions.last_mut())
        {
            region.is_memory &=
                !flags.split_ascii_whitespace().any(|flag| matches!(flag, "io" | "pf"));
        }
    }
    regions
}

/// Parses the first line of a mapping in `maps` or `smaps`; `None` for a line of another kind.
fn parse_line(line: &str) -> Option<Region> {
    // Spaces separate the name from the rest, and it may contain more of them.
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
    Some(Region {
        range,
        read: read == b'r',
        write: write == b'w',
        execute: execute == b'x',
        shared: shared == b's',
        offset,
        is_memory: range.last() < USER_END,
        name,
    })
}

#[cfg(test)]
mod tests {
    use super::{parse_line, parse_smaps};
    use crate::region::{FindError, Unusable, find};
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
        let regions = parse_smaps(SMAPS);
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
        let regions = parse_smaps(SMAPS);
        let why = |index: usize, access| regions[index].unusable(access);
        assert_eq!(why(0, Access::READ), None);
        assert_eq!(why(0, Access::WRITE), Some(Unusable::NotWritable));
        assert_eq!(why(2, Access::WRITE), None);
        assert_eq!(why(2, Access::EXECUTE), Some(Unusable::Execute));
        assert_eq!(why(3, Access::READ), Some(Unusable::NotMemory));
        assert_eq!(why(4, Access::READ), Some(Unusable::NotReadable));
        assert_eq!(why(5, Access::READ), Some(Unusable::NotMemory));
    }

    #[test]
    fn a_name_stands_for_one_mapping_or_is_refused() {
        let regions = parse_smaps(SMAPS);
        let first = |name: &str| find(&regions, name).map(|region| region.range.first());
        assert_eq!(first("[heap]"), Ok(0x6000));
        assert_eq!(first("lib x.so#1"), Ok(0x55e0));
        assert_eq!(first("/opt/a b/lib x.so#0"), Ok(0x55d0));
        assert!(matches!(
            first("lib x.so"),
            Err(FindError::Ambiguous { ranges, .. }) if ranges.len() == 2
        ));
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
            assert_eq!(parse_line(line), None, "{line}");
        }
    }
}
