//! `sva topology --sva`: which devices can share a process's address space, as a table, and gate by
//! gate for one of them.

use std::fmt::Write as _;

use sva_topology::groups::Grouping;
use sva_topology::machine::{Basis, Fact, Machine, PciFunction, Source};
use sva_topology::ready::{Check, Finding, Gate, Outcome, Readiness, Verdict};

/// How much of a device's name is shown.
const NAME: usize = 26;

/// The table.
pub(super) fn table(machine: &Machine, grouping: &Grouping, rows: &[Readiness]) -> String {
    if rows.is_empty() {
        return "no device here could issue requests for a process\n".to_owned();
    }
    let mut out = format!(
        "{:<13}  {:<NAME$}  PASID  ATS  PRI  prefix  RR+UF  IOMMU  enabled  group  verdict\n",
        "device", "name"
    );
    for row in rows {
        let Some(function) = machine.functions().get(row.function) else { continue };
        line(&mut out, function, grouping.of(row.function), row);
    }
    for Check { gate, finding, .. } in disabled_by_settings(rows) {
        let _ = write!(out, "\nshut by a setting of this machine: {gate}: {finding}");
    }
    let count =
        |wanted: fn(&Verdict) -> bool| rows.iter().filter(|row| wanted(&row.verdict())).count();
    let ready = count(|verdict| matches!(verdict, Verdict::Ready));
    let unknown = match count(|verdict| matches!(verdict, Verdict::Unknown(_))) {
        0 => String::new(),
        unknown => format!("; of {unknown} it is not known"),
    };
    let _ = writeln!(
        out,
        "\n{ready} of {} devices can share a process's address space{unknown}",
        rows.len()
    );
    out.push_str("yes passed, no failed, off switched off, - no such capability, ? not known, * assumed; --explain BDF shows all gates of a device\n");
    out
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

fn line(out: &mut String, function: &PciFunction, group: Option<u32>, row: &Readiness) {
    let pasid = row.check(Gate::Pasid).map_or_else(|| "?".to_owned(), pasid_cell);
    let group = group.map_or_else(|| "none".to_owned(), |group| group.to_string());
    let _ = writeln!(
        out,
        "{:<13}  {:<NAME$}  {:>5}  {:<3}  {:<3}  {:<6}  {:<5}  {:<5}  {:<7}  {:>5}  {}",
        function.bdf.to_string(),
        shortened(function.name.as_deref().unwrap_or("?")),
        pasid,
        capability(&function.ats, |ats| ats.enabled),
        capability(&function.pri, |pri| pri.enabled),
        cell(row.check(Gate::Prefix)),
        cell(row.check(Gate::Redirect)),
        iommu_cell(row),
        cell(row.check(Gate::Enabled)),
        group,
        verdict(row),
    );
}

/// The end of a name, which tells devices of one vendor apart. It is foreign text: what a terminal
/// would obey is replaced.
fn shortened(name: &str) -> String {
    let printable = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    let length = name.chars().count();
    let skipped = if length > NAME { length - NAME + 1 } else { 0 };
    (skipped > 0)
        .then_some('…')
        .into_iter()
        .chain(name.chars().skip(skipped).map(printable))
        .collect()
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
pub(super) fn verdict(row: &Readiness) -> String {
    let finding = row.decisive().map(|check| check.finding.to_string()).unwrap_or_default();
    match row.verdict() {
        Verdict::Ready => "ready".to_owned(),
        Verdict::SwitchedOff(gate)
            if row.checks.iter().all(|check| check.outcome() != Outcome::Unknown) =>
        {
            format!("capable, but off: {gate}: {finding}")
        }
        Verdict::SwitchedOff(gate) => format!("off: {gate}: {finding}"),
        Verdict::Fails(gate) => format!("no: {gate}: {finding}"),
        Verdict::Unknown(gate) => format!("not known: {gate}: {finding}"),
    }
}

/// All gates of one device, a line each.
pub(super) fn gates(row: &Readiness) -> String {
    let mut out = format!("Sharing a process's address space: {}\n", verdict(row));
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
        let _ = writeln!(
            out,
            "  {:<7}  {:<31}  {}{known}",
            check.outcome().word(),
            check.gate.to_string(),
            check.finding
        );
    }
    out
}
