//! `sva topology`: a real machine's groups and readiness for shared virtual addressing, explained,
//! drawn and compared.
//!
//! Each row may use what stands above it, and no row below.
//!
//! | module | what it holds |
//! |---|---|
//! | `source` | where the machine comes from |
//! | `analysis` | the machine, its groups and its readiness |
//! | `replace` | files that are written as a whole |
//! | `unknown` | what could not be read, and what is odd |
//! | `sva` | the readiness table, and all gates of one device |
//! | `json` | the object of `--json` (docs/topology.md) |
//! | `sva_json` | the object of `--sva --json` |
//! | `diff` | `sva topology diff` |

mod analysis;
mod diff;
mod json;
mod replace;
mod source;
mod sva;
mod sva_json;
mod unknown;

use std::path::Path;

use sva_topology::{groups, picture, read};

use crate::args::{TopologyArgs, TopologyCommand};
use crate::drawing;
use crate::error::Error;
use crate::output::Output;
use crate::report;
use crate::terminal::{Role, Terminal};

use analysis::Analysis;

/// What `sva topology` prints. Notes go to standard error where standard output takes a file.
///
/// # Errors
/// The machine cannot be read, a function is not there, a file cannot be written.
pub(crate) fn text(args: &TopologyArgs, output: Output) -> Result<String, Error> {
    let terminal = output.terminal;
    if let Some(TopologyCommand::Diff(args)) = &args.command {
        return diff::text(args, terminal);
    }
    let (reading, matched) = match args.dmesg.as_deref() {
        None => (source::reading(args.from.as_deref())?, None),
        Some(log) => source::reading_with(args.from.as_deref(), log)
            .map(|(reading, matched)| (reading, Some(matched)))?,
    };
    let analysis = Analysis::new(reading, args.policy);
    let machine = &analysis.machine;
    let explained = args.explain.map(|bdf| source::find(machine, bdf)).transpose()?;
    let pair = match args.why_not[..] {
        [a, b] => Some((source::find(machine, a)?, source::find(machine, b)?)),
        _ => None,
    };
    let mut notes = unknown::lines(machine, &analysis.grouping);
    notes.extend(matched.as_ref().and_then(unknown::of_log));
    if let Some(content) = write_files(args, &analysis)? {
        notes.iter().for_each(|line| output.note(&format!("note: {line}")));
        return Ok(content);
    }
    if args.json {
        let asked = json::Asked::new(&analysis, explained, pair);
        return if args.sva {
            report::object(&sva_json::Object::new(&analysis, notes, asked))
        } else {
            report::object(&json::Object::new(&analysis, notes, asked))
        };
    }
    Ok(parts(args, &analysis, explained, pair, &notes, terminal).join("\n"))
}

/// The parts of the text for people; `explained` and `pair` are indexes of functions.
fn parts(
    args: &TopologyArgs,
    analysis: &Analysis,
    explained: Option<usize>,
    pair: Option<(usize, usize)>,
    notes: &[String],
    terminal: Terminal,
) -> Vec<String> {
    let Analysis { machine, grouping, readiness, .. } = analysis;
    let asked = explained.is_some() || pair.is_some() || args.sva;
    let written = args.save.is_some() || args.svg.is_some() || args.html.is_some();
    let mut parts = Vec::new();
    if !written || asked {
        parts.extend(self_check(analysis, terminal));
    }
    if !asked && !written {
        let drawn = picture::text_within(machine, grouping, terminal.columns_or_standard());
        // The legend below the tree is prose.
        let (tree, legend) = drawn.rsplit_once("\n\n").unwrap_or((&drawn, ""));
        parts.push(drawing::coloured(tree, terminal.palette) + "\n");
        parts.push(terminal.wrapped(legend, "  "));
    }
    parts.extend(explained.map(|function| explanation(analysis, function, terminal)));
    parts.extend(pair.map(|(a, b)| {
        sentences(&groups::why_not(machine, grouping, a, b).lines(machine), terminal)
    }));
    if args.sva {
        parts.push(sva::table(machine, grouping, readiness, terminal));
    }
    if !notes.is_empty() {
        let label = terminal.palette.paint(Role::Warning, "note");
        let note = |line| terminal.wrapped(&format!("{label}: {line}\n"), "  ");
        parts.push(notes.iter().map(note).collect());
    }
    parts
}

/// A line each, with the numbers of groups in their colours.
fn sentences(lines: &[String], terminal: Terminal) -> String {
    let line = |line: &String| {
        let indent = " ".repeat(line.len() - line.trim_start_matches(' ').len() + 2);
        drawing::coloured(&terminal.wrapped(line, &indent), terminal.palette) + "\n"
    };
    lines.iter().map(line).collect()
}

/// Writes what was asked for; answers what goes to standard output, which then is all that does.
fn write_files(args: &TopologyArgs, analysis: &Analysis) -> Result<Option<String>, Error> {
    let Analysis { reading, machine, grouping, .. } = analysis;
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
fn self_check(analysis: &Analysis, terminal: Terminal) -> Option<String> {
    let Analysis { check, machine, grouping, .. } = analysis;
    if check.compared == 0 {
        return None;
    }
    if check.agrees() {
        let text = format!("The kernel's own groups of {} functions are the same.", check.compared);
        return Some(terminal.palette.paint(Role::Good, text) + "\n");
    }
    let head =
        format!("The kernel's own groups differ from those of the policy {}:", grouping.policy());
    let mut out = terminal.palette.paint(Role::Warning, head) + "\n";
    for difference in &check.differences {
        let line = format!("  {}\n", difference.describe(machine));
        out.push_str(&terminal.wrapped(&line, "    "));
    }
    Some(out)
}

fn explanation(analysis: &Analysis, function: usize, terminal: Terminal) -> String {
    let Analysis { machine, grouping, readiness, .. } = analysis;
    let mut out = sentences(&groups::explain(machine, grouping, function).lines(machine), terminal);
    if let Some(row) = readiness.iter().find(|row| row.function == function) {
        out.push('\n');
        out.push_str(&sva::gates(row, terminal));
    }
    out
}
