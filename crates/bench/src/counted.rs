//! Instructions beside nanoseconds: the same work once more under callgrind, which counts what a
//! shared machine cannot disturb.
//!
//! A program that is to be counted starts itself again under valgrind ([`counts_of`]). There each
//! figure is [`collect_inside`] and then [`figure_is_complete`]: callgrind collects inside of the
//! one, and writes out what it has at the beginning of the other, so that the figures are found in
//! the order in which they were made. Rejected: client requests to valgrind, whose crates bring C
//! headers and unsafe code with them, for the same two marks; the difference between two runs of
//! different length, which would make all scenes four times; the processor's own counters, which
//! virtual machines often do not have.

use std::error::Error;
use std::fs;
use std::hint::black_box;
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Command, Stdio};

/// Instructions of one operation of a case and of its baseline.
#[derive(Debug, Clone, PartialEq)]
pub struct Count {
    /// The row's case.
    pub case: String,
    /// Of the case.
    pub value: f64,
    /// Of its baseline.
    pub baseline: f64,
}

/// Runs `work`; what callgrind counts is what happens within.
// Never inlined, and found by its name: callgrind is told to collect while this function runs.
#[inline(never)]
pub fn collect_inside(work: &mut dyn FnMut()) {
    work();
    // Lest the call become a jump, after which nothing returns here.
    black_box(());
}

/// What has been counted since the last call is one figure.
// Found by its name as well.
#[inline(never)]
pub fn figure_is_complete() {
    black_box(());
}

/// Counts a figure in a program that callgrind runs. Answers of how many operations it is, which is
/// all that the program itself can know of it, and what its rows contain there. `work` runs once
/// before it is counted, which brings what it needs to where it needs it; it answers how many
/// operations it made.
pub fn figure(work: &mut dyn FnMut() -> usize) -> f64 {
    work();
    let mut operations = 0;
    collect_inside(&mut || operations = work());
    figure_is_complete();
    operations as f64
}

/// As [`figure`], of operations each of which needs a preparation that is not counted. A handful of
/// instructions of the counting itself is in each.
pub fn each(times: usize, mut prepare: impl FnMut(), mut operation: impl FnMut()) -> f64 {
    prepare();
    operation();
    for _ in 0..times {
        prepare();
        collect_inside(&mut operation);
    }
    figure_is_complete();
    times as f64
}

/// Has `program` run under callgrind with these arguments, with which it prints rows of operations
/// as JSON: for each the figure of the value is counted first, then that of the baseline. `None`,
/// and a loud word, where there is no valgrind.
///
/// # Errors
/// The program fails there, or callgrind has not counted what the program says.
pub fn counts_of(program: &Path, arguments: &[&str]) -> Result<Option<Vec<Count>>, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let mut command = Command::new("valgrind");
    command
        .args([
            "--tool=callgrind",
            "--quiet",
            "--toggle-collect=*collect_inside*",
            "--dump-before=*figure_is_complete*",
        ])
        .arg(format!("--callgrind-out-file={}", folder.path().join("figure").display()))
        .arg(program)
        .args(arguments)
        .stderr(Stdio::inherit());
    eprintln!("counting instructions under valgrind, which takes a minute or two");
    let output = match command.output() {
        Ok(output) => output,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            eprintln!(
                "SKIPPED: instruction counts, which need valgrind (apt-get install valgrind)"
            );
            return Ok(None);
        }
        Err(error) => return Err(format!("valgrind: {error}").into()),
    };
    if !output.status.success() {
        return Err(format!("valgrind ended with {}", output.status).into());
    }
    let figure = |number: usize| {
        fs::read_to_string(folder.path().join(format!("figure.{number}")))
            .ok()
            .and_then(|dump| instructions(&dump))
    };
    together(&serde_json::from_slice(&output.stdout)?, figure).map(Some)
}

/// Two figures for each row, in order, numbered from 1.
fn together(
    rows: &serde_json::Value,
    figure: impl Fn(usize) -> Option<f64>,
) -> Result<Vec<Count>, Box<dyn Error>> {
    let rows = rows.as_array().ok_or("the counted program printed no rows")?;
    let one = |(number, row): (usize, &serde_json::Value)| {
        let case = row["case"].as_str()?.to_owned();
        let value = figure(2 * number + 1)? / row["value"].as_f64()?;
        let baseline = figure(2 * number + 2)? / row["baseline"].as_f64()?;
        Some(Count { case, value, baseline })
    };
    let counts: Option<Vec<Count>> = rows.iter().enumerate().map(one).collect();
    let counts = counts.ok_or("callgrind has not written a figure for each row")?;
    if figure(2 * rows.len() + 1).is_some() {
        return Err(format!(
            "callgrind has written more figures than the {} of the rows",
            2 * rows.len()
        )
        .into());
    }
    if let Some(none) = counts.iter().find(|count| !(count.value > 0.0 && count.baseline > 0.0)) {
        return Err(format!(
            "callgrind has counted nothing for `{}`: are the program's symbols there?",
            none.case
        )
        .into());
    }
    Ok(counts)
}

/// The sum that a dump of callgrind names.
fn instructions(dump: &str) -> Option<f64> {
    dump.lines()
        .find_map(|line| line.strip_prefix("totals: ").or_else(|| line.strip_prefix("summary: ")))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_row_gets_its_two_figures_by_operation_and_a_figure_too_few_or_too_many_is_an_error() {
        let rows = json!([
            {"case": "a", "value": 10.0, "baseline": 5.0},
            {"case": "b", "value": 1.0, "baseline": 1.0},
        ]);
        let figures =
            |last: usize| move |number: usize| (number <= last).then_some(number as f64 * 10.0);
        let counts = together(&rows, figures(4)).unwrap();
        let expected = [("a", 1.0, 4.0), ("b", 30.0, 40.0)];
        assert_eq!(
            counts,
            expected.map(|(case, value, baseline)| Count {
                case: case.to_owned(),
                value,
                baseline
            })
        );
        assert!(together(&rows, figures(3)).is_err());
        assert!(together(&rows, figures(5)).is_err());
        assert!(together(&rows, |number| (number <= 4).then_some(0.0)).is_err());
    }

    #[test]
    fn the_sum_of_a_dump_is_found() {
        assert_eq!(
            instructions("version: 1\nevents: Ir\n\nfn=(1) f\n1 5\n\ntotals: 1234\n"),
            Some(1234.0)
        );
        assert_eq!(instructions("events: Ir\n"), None);
    }
}
