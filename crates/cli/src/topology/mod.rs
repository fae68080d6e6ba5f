//! `sva topology`: a real machine's groups and readiness for shared virtual addressing, explained,
//! drawn and compared.
//!
//! | module | what lives there |
//! |---|---|
//! | `source` | where the machine comes from |
//! | `replace` | files that are written as a whole |
//! | `sva` | the readiness table, and all gates of one device |
//! | `unknown` | what could not be read, and what is odd |
//! | `json` | the object of `--json` (docs/topology.md) |
//! | `sva_json` | the object of `--sva --json` |
//! | `diff` | `sva topology diff` |

mod diff;
mod json;
mod replace;
mod source;
mod sva;
mod sva_json;
mod unknown;

use std::fmt::Write as _;
use std::path::Path;

use sva_topology::groups::{self, Grouping, SelfCheck};
use sva_topology::machine::{Machine, Reading};
use sva_topology::ready::{self, Readiness};
use sva_topology::{picture, read};

use crate::args::{TopologyArgs, TopologyCommand};
use crate::error::Error;
use crate::report;
use crate::voice::Voice;

/// Everything that is known of one machine.
struct Subject {
    reading: Reading,
    machine: Machine,
    grouping: Grouping,
    check: SelfCheck,
    readiness: Vec<Readiness>,
}

/// What `sva topology` prints.
///
/// # Errors
/// The machine cannot be read, a function is not there, a file cannot be written.
pub(crate) fn text(args: &TopologyArgs) -> Result<String, Error> {
    if let Some(TopologyCommand::Diff(args)) = &args.command {
        return diff::text(args);
    }
    let (reading, matched) = match args.dmesg.as_deref() {
        None => (source::reading(args.from.as_deref())?, None),
        Some(log) => source::reading_with(args.from.as_deref(), log)
            .map(|(reading, matched)| (reading, Some(matched)))?,
    };
    let machine = reading.machine();
    let grouping = Grouping::compute(&machine, args.policy);
    let check = groups::self_check(&machine, &grouping);
    let readiness = ready::readiness(&machine, &grouping);
    let subject = Subject { reading, machine, grouping, check, readiness };
    let explained = args.explain.map(|bdf| source::find(&subject.machine, bdf)).transpose()?;
    let pair = match args.why_not[..] {
        [a, b] => Some((source::find(&subject.machine, a)?, source::find(&subject.machine, b)?)),
        _ => None,
    };
    let mut notes = unknown::lines(&subject.machine, &subject.grouping);
    notes.extend(matched.as_ref().and_then(unknown::of_log));
    if let Some(written) = write_files(args, &subject)? {
        notes.iter().for_each(|line| Voice::default().note(&format!("note: {line}")));
        return Ok(written);
    }
    if args.json {
        let asked = json::Asked::new(&subject, explained, pair);
        return if args.sva {
            report::object(&sva_json::Object::new(&subject, notes, asked))
        } else {
            report::object(&json::Object::new(&subject, notes, asked))
        };
    }
    let asked = explained.is_some() || pair.is_some() || args.sva;
    let written = args.save.is_some() || args.svg.is_some() || args.html.is_some();
    let mut parts = Vec::new();
    if !written || asked {
        parts.extend(self_check(&subject));
    }
    if !asked && !written {
        parts.push(picture::text(&subject.machine, &subject.grouping));
    }
    parts.extend(explained.map(|function| explanation(&subject, function)));
    parts.extend(pair.map(|(a, b)| {
        groups::why_not(&subject.machine, &subject.grouping, a, b)
            .lines(&subject.machine)
            .join("\n")
            + "\n"
    }));
    if args.sva {
        parts.push(sva::table(&subject.machine, &subject.grouping, &subject.readiness));
    }
    if !notes.is_empty() {
        parts.push(notes.iter().map(|line| format!("note: {line}\n")).collect());
    }
    Ok(parts.join("\n"))
}

/// Writes what was asked for; answers what goes to standard output, which then is all that does.
fn write_files(args: &TopologyArgs, subject: &Subject) -> Result<Option<String>, Error> {
    let Subject { reading, machine, grouping, .. } = subject;
    let files: [(Option<&Path>, &dyn Fn() -> String); 3] = [
        (args.save.as_deref(), &|| read::save(reading)),
        (args.svg.as_deref(), &|| picture::svg(machine, grouping)),
        (args.html.as_deref(), &|| picture::html(machine, grouping)),
    ];
    let to_output = files.iter().filter(|(path, _)| path.is_some_and(source::is_standard)).count();
    if to_output > 1
        || to_output == 1
            && (args.json || args.sva || args.explain.is_some() || !args.why_not.is_empty())
    {
        return Err(Error::OutputTwice);
    }
    let mut output = None;
    for (path, content) in
        files.into_iter().filter_map(|(path, content)| path.map(|path| (path, content())))
    {
        if source::is_standard(path) {
            output = Some(content);
        } else {
            replace::replace(path, content.as_bytes())
                .map_err(|source| Error::File { path: path.to_path_buf(), source })?;
        }
    }
    Ok(output)
}

/// How the groups compare with the kernel's own, differences first; none where there is nothing to
/// compare with.
fn self_check(subject: &Subject) -> Option<String> {
    let Subject { check, machine, grouping, .. } = subject;
    if check.compared == 0 {
        return None;
    }
    if check.agrees() {
        return Some(format!(
            "The kernel's own groups of {} functions are the same.\n",
            check.compared
        ));
    }
    let mut out =
        format!("The kernel's own groups differ from those of the policy {}:\n", grouping.policy());
    for difference in &check.differences {
        let _ = writeln!(out, "  {}", difference.describe(machine));
    }
    Some(out)
}

fn explanation(subject: &Subject, function: usize) -> String {
    let Subject { machine, grouping, readiness, .. } = subject;
    let mut out = String::new();
    for line in groups::explain(machine, grouping, function).lines(machine) {
        let _ = writeln!(out, "{line}");
    }
    if let Some(row) = readiness.iter().find(|row| row.function == function) {
        let _ = write!(out, "\n{}", sva::gates(row));
    }
    out
}

impl TopologyArgs {
    /// Whether an object is asked for, here or in the subcommand.
    pub(crate) fn json(&self) -> bool {
        match &self.command {
            Some(TopologyCommand::Diff(args)) => args.json,
            None => self.json,
        }
    }
}
