//! `sva regions`: a process's mappings, as a device may use them.

use serde::Serialize;
use sva_core::Access;
use sva_host::Region;

use crate::args::RegionsArgs;
use crate::error::Error;
use crate::report;
use crate::terminal::{Role, Terminal, padded, shortened, width};

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
/// The process is gone, or belongs to somebody else.
pub(crate) fn text(args: &RegionsArgs, terminal: Terminal) -> Result<String, Error> {
    let regions = sva_host::regions(args.pid)?;
    if args.json {
        return report::object(&regions.iter().map(Shape::of).collect::<Vec<_>>());
    }
    let head = format!("{:16}  {:16}  {:>9}  rights  device  name", "start", "end", "size");
    let mut out = terminal.palette.paint(Role::Heading, head) + "\n";
    regions.iter().for_each(|region| out.push_str(&row(region, terminal)));
    Ok(out)
}

/// A row of the table. On a terminal the name is shortened to the columns that are left, and the
/// reason stands below where it does not fit.
fn row(region: &Region, terminal: Terminal) -> String {
    /// Columns of all cells before the name.
    const CELLS: usize = 63;
    const LEAST_NAME: usize = 12;
    let Shape { rights, device, why, .. } = Shape::of(region);
    let (first, size) = (region.range.first(), size(region.range.len()));
    let end = region.range.last().wrapping_add(1);
    let role = if device == "rw" { Role::Good } else { Role::Warning };
    let device = padded(&terminal.palette.paint(role, device), 6);
    let columns = terminal
        .columns()
        .map_or(usize::MAX, |columns| columns.saturating_sub(CELLS).max(LEAST_NAME));
    let name = shortened(&region.name, columns);
    let left = columns.saturating_sub(width(&name));
    let why = match why.map(|why| format!("({why})")) {
        None => String::new(),
        Some(why) if left >= width(&why) + 2 => format!("  {}", faint(&why, terminal)),
        Some(why) => format!("\n    {}", faint(&why, terminal)),
    };
    let line = format!("{first:016x}  {end:016x}  {size:>9}  {rights:6}  {device}  {name}{why}");
    format!("{}\n", line.trim_end())
}

fn faint(text: &str, terminal: Terminal) -> String {
    terminal.palette.paint(Role::Faint, text)
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

/// Bytes with the unit in which they are a whole number below 10,000, or the largest.
fn size(bytes: u64) -> String {
    let units = [(0, "B"), (10, "K"), (20, "M"), (30, "G"), (40, "T")];
    let fits = |shift: u32| bytes.trailing_zeros() >= shift || bytes == 0;
    let (shift, unit) = units.into_iter().rfind(|(shift, _)| fits(*shift)).unwrap_or((0, "B"));
    format!("{}{unit}", bytes >> shift)
}
