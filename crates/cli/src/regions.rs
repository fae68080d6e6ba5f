//! `sva regions`: a process's mappings, as a device may use them.

use std::fmt::Write as _;

use serde::Serialize;
use sva_core::Access;
use sva_host::Region;

use crate::args::RegionsArgs;
use crate::error::Error;
use crate::report;

/// One mapping as `--json` shows it (docs/cli.md).
#[derive(Serialize)]
struct Shape<'a> {
    start: String,
    end: String,
    rights: String,
    offset: String,
    name: &'a str,
    device: &'static str,
    why: Option<String>,
}

/// What `sva regions` prints.
///
/// # Errors
/// The process is gone, or not ours to look at.
pub(crate) fn text(args: &RegionsArgs) -> Result<String, Error> {
    let regions = sva_host::regions(args.pid)?;
    if args.json {
        return report::object(&regions.iter().map(Shape::of).collect::<Vec<_>>());
    }
    let mut out = format!("{:16}  {:16}  {:>9}  rights  device  name\n", "start", "end", "size");
    for region in &regions {
        let Shape { rights, device, why, .. } = Shape::of(region);
        let (first, size) = (region.range.first(), size(region.range.len()));
        let end = region.range.last().wrapping_add(1);
        let why = why.map_or_else(String::new, |why| format!("  ({why})"));
        let line = format!(
            "{first:016x}  {end:016x}  {size:>9}  {rights:6}  {device:6}  {}{why}",
            printable(&region.name)
        );
        let _ = writeln!(out, "{}", line.trim_end());
    }
    Ok(out)
}

impl<'a> Shape<'a> {
    fn of(region: &'a Region) -> Self {
        let flag = |set: bool, letter| if set { letter } else { '-' };
        let rights = [
            flag(region.read, 'r'),
            flag(region.write, 'w'),
            flag(region.execute, 'x'),
            if region.shared { 's' } else { 'p' },
        ];
        let (read, write) = (region.unusable(Access::READ), region.unusable(Access::WRITE));
        Self {
            start: format!("{:#x}", region.range.first()),
            end: format!("{:#x}", region.range.last().wrapping_add(1)),
            rights: rights.iter().collect(),
            offset: format!("{:#x}", region.offset),
            name: &region.name,
            device: match (read, write) {
                (None, None) => "rw",
                (None, Some(_)) => "r",
                (Some(_), None) => "w",
                (Some(_), Some(_)) => "",
            },
            why: read.filter(|_| write.is_some()).map(|why| why.to_string()),
        }
    }
}

/// A file's name may hold what a terminal would obey.
fn printable(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Bytes with the unit in which they are a whole number below 10,000, or the largest.
fn size(bytes: u64) -> String {
    let units = [(0, "B"), (10, "K"), (20, "M"), (30, "G"), (40, "T")];
    let fits = |shift: u32| bytes.trailing_zeros() >= shift || bytes == 0;
    let (shift, unit) = units.into_iter().rfind(|(shift, _)| fits(*shift)).unwrap_or((0, "B"));
    format!("{}{unit}", bytes >> shift)
}
