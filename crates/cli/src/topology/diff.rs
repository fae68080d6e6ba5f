//! `sva topology diff`: two dumps, or one under two policies.

use std::fmt::{Display, Write as _};

use serde::Serialize;
use serde_json::{Value, json};
use sva_core::Bdf;
use sva_topology::diff::{AcsChange, Difference, Membership, ReadinessChange, Regrouped, Side};
use sva_topology::groups::{Grouping, Policy};
use sva_topology::ready::Verdict;
use sva_topology::{AcsBits, machine::Machine};

use super::source;
use crate::args::DiffArgs;
use crate::error::Error;
use crate::report;
use crate::terminal::{Role, Terminal};

/// What `sva topology diff` prints.
///
/// # Errors
/// A file cannot be read, or is no dump.
pub(super) fn text(args: &DiffArgs, terminal: Terminal) -> Result<String, Error> {
    let second = args.after.as_deref().unwrap_or(&args.before);
    if args.after.as_deref().is_some_and(source::is_standard) && source::is_standard(&args.before) {
        return Err(Error::StandardInputTwice);
    }
    let before = source::reading(Some(&args.before))?.machine();
    let after =
        if args.after.is_some() { Some(source::reading(Some(second))?.machine()) } else { None };
    let after: &Machine = after.as_ref().unwrap_or(&before);
    let (first_policy, second_policy) = match args.policies[..] {
        [first, second] => (first, second),
        _ => (args.policy, args.policy),
    };
    let groupings =
        (Grouping::compute(&before, first_policy), Grouping::compute(after, second_policy));
    let difference = Difference::between(
        Side { machine: &before, grouping: &groupings.0 },
        Side { machine: after, grouping: &groupings.1 },
    );
    if args.json {
        report::object(&object(&difference, first_policy, second_policy))
    } else {
        Ok(sentences(&difference, terminal))
    }
}

fn sentences(difference: &Difference, terminal: Terminal) -> String {
    if difference.is_empty() {
        return "no difference\n".to_owned();
    }
    let palette = terminal.palette;
    let mut out = String::new();
    for (what, functions) in [
        ("only in A", &difference.removed),
        ("only in B", &difference.added),
        ("another device", &difference.replaced),
    ] {
        if !functions.is_empty() {
            let _ = writeln!(out, "{}: {}", palette.paint(Role::Heading, what), list(functions));
        }
    }
    let mut change = |what: &str, of: &dyn Display, before: String, after: String| {
        let what = palette.paint(Role::Heading, what);
        let (a, b) = (palette.paint(Role::Bad, "A"), palette.paint(Role::Good, "B"));
        let _ = writeln!(out, "{what} {of}\n  {a}: {before}\n  {b}: {after}");
    };
    for Regrouped { members, before, after, .. } in &difference.regrouped {
        let (before, after) = (membership(before.as_ref()), membership(after.as_ref()));
        change("regrouped:", &list(members), before, after);
    }
    for AcsChange { function, before, after, .. } in &difference.acs {
        change("ACS of", function, acs(*before), acs(*after));
    }
    for ReadinessChange { function, before, after, .. } in &difference.readiness {
        change("shared addressing of", function, verdict(*before), verdict(*after));
    }
    terminal.wrapped(&out, "    ")
}

fn list(functions: &[Bdf]) -> String {
    functions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn membership(membership: Option<&Membership>) -> String {
    let Some(membership) = membership else { return "in no group".to_owned() };
    let rest = membership.others - membership.some.len();
    match (membership.others, rest) {
        (0, _) => format!("group {}, with no other", membership.group),
        (_, 0) => format!("group {}, with {}", membership.group, list(&membership.some)),
        _ => format!("group {}, with {} and {rest} more", membership.group, list(&membership.some)),
    }
}

fn acs(bits: Option<(AcsBits, AcsBits)>) -> String {
    bits.map_or_else(
        || "no capability".to_owned(),
        |(implemented, enabled)| format!("implements {implemented}; enabled {enabled}"),
    )
}

fn verdict(verdict: Verdict) -> String {
    match verdict.gate() {
        None => verdict.word().to_owned(),
        Some(gate) => format!("{}: {gate}", verdict.word()),
    }
}

/// The object that `--json` prints (docs/topology.md).
fn object(difference: &Difference, before: Policy, after: Policy) -> impl Serialize {
    json!({
        "added": texts(&difference.added),
        "removed": texts(&difference.removed),
        "replaced": texts(&difference.replaced),
        "regrouped": difference.regrouped.iter().map(regrouped).collect::<Vec<_>>(),
        "acs": difference.acs.iter().map(acs_change).collect::<Vec<_>>(),
        "sva": difference.readiness.iter().map(readiness_change).collect::<Vec<_>>(),
        "policies": [before.to_string(), after.to_string()],
    })
}

fn texts(functions: &[Bdf]) -> Vec<String> {
    functions.iter().map(ToString::to_string).collect()
}

fn regrouped(regrouped: &Regrouped) -> Value {
    let side = |side: &Option<Membership>| {
        side.as_ref().map(|Membership { group, others, some }| {
            json!({ "group": group, "others": others, "some": texts(some) })
        })
    };
    json!({
        "members": texts(&regrouped.members),
        "before": side(&regrouped.before),
        "after": side(&regrouped.after),
    })
}

fn acs_change(change: &AcsChange) -> Value {
    let names = |bits: AcsBits| bits.names().collect::<Vec<_>>();
    let side = |bits: Option<(AcsBits, AcsBits)>| {
        bits.map(|(implemented, enabled)| {
            json!({ "implemented": names(implemented), "enabled": names(enabled) })
        })
    };
    json!({
        "bdf": change.function.to_string(),
        "before": side(change.before),
        "after": side(change.after),
    })
}

fn readiness_change(change: &ReadinessChange) -> Value {
    let side = |verdict: Verdict| {
        let gate = verdict.gate().map(|gate| gate.word());
        json!({ "verdict": verdict.word(), "gate": gate })
    };
    json!({
        "bdf": change.function.to_string(),
        "before": side(change.before),
        "after": side(change.after),
    })
}
