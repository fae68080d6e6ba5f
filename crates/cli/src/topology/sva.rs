//! `sva topology --sva`: which devices can share a process's address space, as a table, and gate by
//! gate for one of them.

use std::fmt::Write as _;

use sva_topology::groups::Grouping;
use sva_topology::machine::{Basis, Fact, Machine, PciFunction, Source};
use sva_topology::ready::{Check, Finding, Gate, Outcome, Readiness, Verdict};

use crate::terminal::{Palette, Role, Terminal, padded, shortened, width, wrapped};

/// Columns of a device's name.
const NAME: usize = 26;

/// The least columns that a name has in its own column, and a verdict in a line with the rest.
const LEAST_NAME: usize = 16;
const LEAST_VERDICT: usize = 48;

/// The head of each column but name and verdict, and whether it is flush right.
const HEADS: [(&str, bool); 9] = [
    ("device", false),
    ("PASID", true),
    ("ATS", false),
    ("PRI", false),
    ("prefix", false),
    ("RR+UF", false),
    ("IOMMU", false),
    ("enabled", false),
    ("group", true),
];

/// Columns of an address with its segment.
const ADDRESS: usize = 13;

/// How a row is laid out.
#[derive(Clone, Copy)]
struct Layout {
    /// Columns of the name; none where it stands in a line of its own, with the verdict.
    name: Option<usize>,
    /// Columns of the line; none where nothing limits it.
    line: Option<usize>,
}

impl Layout {
    /// Columns of all cells but name and verdict, with two spaces between them.
    const CELLS: usize = 68;

    fn of(terminal: Terminal) -> Self {
        let Some(columns) = terminal.columns() else {
            return Self { name: Some(NAME), line: None };
        };
        let left = columns.saturating_sub(Self::CELLS + 2);
        let name = (left >= LEAST_NAME).then(|| left.min(NAME));
        Self { name, line: Some(columns) }
    }

    /// The cells and the name in one line, without the verdict.
    fn line(&self, cells: &[String; HEADS.len()], name: &str) -> String {
        let mut line = String::new();
        for (n, (cell, (head, is_right))) in cells.iter().zip(HEADS).enumerate() {
            let columns = if n == 0 { ADDRESS } else { head.len() };
            let space = " ".repeat(columns.saturating_sub(width(cell)));
            let (before, behind) = if is_right { (space.as_str(), "") } else { ("", &*space) };
            let gap = if n == 0 { "" } else { "  " };
            let _ = write!(line, "{gap}{before}{cell}{behind}");
            if let (0, Some(columns)) = (n, self.name) {
                let _ = write!(line, "  {}", padded(&shortened(name, columns), columns));
            }
        }
        line
    }

    /// The verdict behind the line where there is room, or below it.
    fn with_verdict(&self, line: &str, name: &str, verdict: &str) -> String {
        const BELOW: &str = "    ";
        let used = width(line) + 2;
        match self.line {
            None => format!("{line}  {verdict}\n"),
            Some(columns) if columns >= used + LEAST_VERDICT => {
                let indent = " ".repeat(used);
                wrapped(&format!("{line}  {verdict}"), columns, &indent) + "\n"
            }
            Some(columns) => {
                let name = match self.name {
                    Some(_) => String::new(),
                    None => shortened(name, columns - BELOW.len() - 2) + ": ",
                };
                let below = wrapped(&format!("{BELOW}{name}{verdict}"), columns, BELOW);
                format!("{}\n{below}\n", line.trim_end())
            }
        }
    }
}

/// The table.
pub(super) fn table(
    machine: &Machine,
    grouping: &Grouping,
    rows: &[Readiness],
    terminal: Terminal,
) -> String {
    if rows.is_empty() {
        return "no device here could issue requests for a process\n".to_owned();
    }
    let (layout, palette) = (Layout::of(terminal), terminal.palette);
    let head = layout.line(&HEADS.map(|(head, _)| head.to_owned()), "name");
    let head = layout.with_verdict(&head, "name", "verdict");
    let mut out = palette.paint(Role::Heading, head.trim_end()) + "\n";
    for row in rows {
        let Some(function) = machine.functions().get(row.function) else { continue };
        let name = function.name.as_deref().unwrap_or("?");
        let line = layout.line(&cells(function, grouping.of(row.function), row, palette), name);
        out.push_str(&layout.with_verdict(&line, name, &verdict(row, palette)));
    }
    for Check { gate, finding, .. } in disabled_by_settings(rows) {
        let label = palette.paint(Role::Warning, "shut by a setting of this machine");
        out.push('\n');
        out.push_str(&terminal.wrapped(&format!("{label}: {gate}: {finding}"), "  "));
    }
    let _ = writeln!(out, "\n{}", count(rows));
    let legend = "yes passed, no failed, off switched off, - no such capability, ? not known, \
                  * assumed; --explain BDF shows all gates of a device";
    out.push_str(&terminal.wrapped(legend, "  "));
    out.push('\n');
    out
}

/// How many devices are ready.
fn count(rows: &[Readiness]) -> String {
    let count =
        |wanted: fn(&Verdict) -> bool| rows.iter().filter(|row| wanted(&row.verdict())).count();
    let ready = count(|verdict| matches!(verdict, Verdict::Ready));
    let unknown = match count(|verdict| matches!(verdict, Verdict::Unknown(_))) {
        0 => String::new(),
        unknown => format!("; of {unknown} it is not known"),
    };
    format!("{ready} of {} devices can share a process's address space{unknown}", rows.len())
}

/// The gates that settings of the machine shut for its devices, whatever else stops those: the
/// kernel's options, and an IOMMU that is not used. Each finding once.
pub(super) fn disabled_by_settings(rows: &[Readiness]) -> impl Iterator<Item = &Check> {
    let mut shut: Vec<&Check> = Vec::new();
    for check in rows.iter().flat_map(|row| &row.checks) {
        let of_machine = matches!(check.gate, Gate::InUse | Gate::IommuPasid | Gate::Ats)
            && check.outcome() == Outcome::Off;
        if of_machine && !shut.iter().any(|known| known.finding == check.finding) {
            shut.push(check);
        }
    }
    shut.into_iter()
}

fn cells(
    function: &PciFunction,
    group: Option<u32>,
    row: &Readiness,
    palette: Palette,
) -> [String; HEADS.len()] {
    let judged = |cell: &str| palette.paint(role_of_cell(cell), cell);
    let pasid = row.check(Gate::Pasid).map_or_else(|| "?".to_owned(), pasid_cell);
    let group = match group {
        Some(group) => palette.paint(Role::Group(group), group),
        None => palette.paint(Role::Warning, "none"),
    };
    [
        function.bdf.to_string(),
        pasid,
        capability(&function.ats, |ats| ats.enabled).to_owned(),
        capability(&function.pri, |pri| pri.enabled).to_owned(),
        judged(&cell(row.check(Gate::Prefix))),
        judged(&cell(row.check(Gate::Redirect))),
        judged(&iommu_cell(row)),
        judged(&cell(row.check(Gate::Enabled))),
        group,
    ]
}

/// What a cell of a gate says.
fn role_of_cell(cell: &str) -> Role {
    match cell {
        "yes" => Role::Good,
        "no" => Role::Bad,
        "off" | "yes*" => Role::Warning,
        _ => Role::Faint,
    }
}

fn pasid_cell(check: &Check) -> String {
    match check.finding {
        Finding::Pasid { width: Some(bits), .. } => format!("{bits}{}", star(check.source)),
        Finding::Pasid { width: None, .. } => "yes".to_owned(),
        Finding::PasidNotSeen => "?".to_owned(),
        _ => "-".to_owned(),
    }
}

/// `on`, `off`, `-` for none, `?` for not known.
fn capability<T: Copy>(fact: &Fact<Option<T>>, enabled: impl Fn(T) -> Fact<bool>) -> &'static str {
    match (fact.value.map(enabled), fact.source) {
        (Some(Fact { source: Source::Assumed(_), .. }), _) => "yes",
        (Some(Fact { value: true, .. }), _) => "on",
        (Some(Fact { value: false, .. }), _) => "off",
        (None, Source::Assumed(_)) => "?",
        (None, _) => "-",
    }
}

fn cell(check: Option<&Check>) -> String {
    let Some(check) = check else { return "-".to_owned() };
    match check.outcome() {
        Outcome::Pass | Outcome::Limited => format!("yes{}", star(check.source)),
        Outcome::Off => "off".to_owned(),
        Outcome::Fail => "no".to_owned(),
        Outcome::Unknown => "?".to_owned(),
    }
}

/// The five gates of the IOMMU in one word: the worst of them.
fn iommu_cell(row: &Readiness) -> String {
    let gates = [Gate::Iommu, Gate::InUse, Gate::Translated, Gate::IommuPasid, Gate::FirstStage];
    let rank = |check: &&Check| match check.outcome() {
        Outcome::Fail => 3,
        Outcome::Off => 2,
        Outcome::Unknown => 1,
        Outcome::Pass | Outcome::Limited => 0,
    };
    cell(gates.iter().filter_map(|gate| row.check(*gate)).max_by_key(rank))
}

fn star(source: Source) -> &'static str {
    if matches!(source, Source::Assumed(_)) { "*" } else { "" }
}

/// The verdict in words, with the finding that it rests on.
fn verdict(row: &Readiness, palette: Palette) -> String {
    let finding = row.decisive().map(|check| check.finding.to_string()).unwrap_or_default();
    let all_known = row.checks.iter().all(|check| check.outcome() != Outcome::Unknown);
    let (role, word, gate) = match row.verdict() {
        Verdict::Ready => return palette.paint(Role::Good, "ready"),
        Verdict::SwitchedOff(gate) if all_known => (Role::Warning, "capable, but off", gate),
        Verdict::SwitchedOff(gate) => (Role::Warning, "off", gate),
        Verdict::Fails(gate) => (Role::Bad, "no", gate),
        Verdict::Unknown(gate) => (Role::Faint, "not known", gate),
    };
    format!("{}: {gate}: {finding}", palette.paint(role, word))
}

/// All gates of one device, a line each.
pub(super) fn gates(row: &Readiness, terminal: Terminal) -> String {
    let palette = terminal.palette;
    let head = format!("Sharing a process's address space: {}\n", verdict(row, palette));
    let mut out = terminal.wrapped(&head, "  ");
    for check in &row.checks {
        let known = match (check.outcome(), check.source) {
            // That it was not said is the finding itself.
            (_, Source::Read) | (Outcome::Unknown, Source::Assumed(Basis::NotPrinted)) => {
                String::new()
            }
            (Outcome::Unknown, source) => {
                source.basis().map(|basis| format!(" [{basis}]")).unwrap_or_default()
            }
            (_, source) => format!(" [{source}]"),
        };
        let role = match check.outcome() {
            Outcome::Pass => Role::Good,
            Outcome::Limited | Outcome::Off => Role::Warning,
            Outcome::Fail => Role::Bad,
            Outcome::Unknown => Role::Faint,
        };
        let line = format!(
            "  {}  {:<31}  {}{known}\n",
            padded(&palette.paint(role, check.outcome().word()), 7),
            check.gate.to_string(),
            check.finding
        );
        out.push_str(&terminal.wrapped(&line, &" ".repeat(44)));
    }
    out
}
