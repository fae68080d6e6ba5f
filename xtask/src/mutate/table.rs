//! docs/regressions.md, read as a list: one row a scenario, with the test that finds it and the
//! files in which it is put back in.

use std::collections::BTreeSet;
use std::path::Path;

use crate::context::Context;
use crate::scan;

pub(super) const DOCUMENT: &str = "docs/regressions.md";

/// Scenarios that there are, numbered from 1.
const SCENARIOS: u8 = 30;

/// In the place of a test, or of a mutation too: what would prevent the scenario is not there yet.
const LATER: &str = "(not built yet)";

/// After a test: it finds the defect by not ending.
const HANGS: &str = "(by a hang)";

/// One scenario.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) number: u8,
    /// None where there is nothing to show yet.
    pub(super) test: Option<Test>,
    /// The files that the defect is put into, from the top of the workspace. There is one at least
    /// where there is a test.
    pub(super) mutation: BTreeSet<String>,
}

/// What shows that the scenario cannot come back unnoticed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Test {
    /// Without its modules.
    pub(super) name: String,
    /// From the top of the workspace.
    pub(super) file: String,
    /// It finds the defect by not ending.
    pub(super) hangs: bool,
}

/// The rows, or all that is wrong with them.
pub(super) fn read(context: &Context) -> Result<Vec<Row>, String> {
    let (rows, wrong) = parse(&scan::read(&context.root, Path::new(DOCUMENT))?);
    if wrong.is_empty() { Ok(rows) } else { Err(wrong.join("\n!!! ")) }
}

/// The rows of the table, and which lines are none that they should be.
fn parse(document: &str) -> (Vec<Row>, Vec<String>) {
    let mut rows = Vec::new();
    let mut wrong = Vec::new();
    for (at, line) in document.lines().enumerate() {
        let cells: Vec<&str> = line.trim().trim_matches('|').split('|').map(str::trim).collect();
        let Some(number) =
            cells.first().filter(|_| line.starts_with('|')).and_then(|cell| cell.parse().ok())
        else {
            continue;
        };
        match row(number, &cells) {
            Ok(row) if usize::from(number) == rows.len() + 1 => rows.push(row),
            Ok(_) => wrong.push(format!(
                "{DOCUMENT}:{}: row {number} where row {} should be",
                at + 1,
                rows.len() + 1
            )),
            Err(why) => wrong.push(format!("{DOCUMENT}:{}: row {number}: {why}", at + 1)),
        }
    }
    if wrong.is_empty() && rows.len() != usize::from(SCENARIOS) {
        wrong.push(format!("{DOCUMENT} has {} of {SCENARIOS} rows", rows.len()));
    }
    (rows, wrong)
}

/// `| number | scenario | what prevents it | test | mutation |`.
fn row(number: u8, cells: &[&str]) -> Result<Row, String> {
    let [_, scenario, prevention, test, mutation] = *cells else {
        return Err(format!("{} cells, not 5", cells.len()));
    };
    if scenario.is_empty() || prevention.is_empty() {
        return Err("an empty cell".to_owned());
    }
    let mutation = match mutation {
        LATER => BTreeSet::new(),
        place => quoted(place)
            .into_iter()
            .filter(|word| word.starts_with("crates/"))
            .map(str::to_owned)
            .collect(),
    };
    if test == LATER {
        return Ok(Row { number, test: None, mutation });
    }
    let [name, file] = quoted(test)[..] else {
        return Err(format!("the test is written `name` in `file`, or {LATER}"));
    };
    if mutation.is_empty() {
        return Err("no file with the mutation".to_owned());
    }
    let test = Test { name: name.to_owned(), file: file.to_owned(), hangs: test.ends_with(HANGS) };
    Ok(Row { number, test: Some(test), mutation })
}

/// What stands in backquotes.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(rows: impl Iterator<Item = String>) -> String {
        format!("| | what | why |\n|---|---|---|\n{}\n", rows.collect::<Vec<_>>().join("\n"))
    }

    fn later(number: u8) -> String {
        format!("| {number} | a story | a wall | (not built yet) | (not built yet) |")
    }

    #[test]
    fn a_row_names_its_test_and_its_mutation_or_says_that_they_are_not_there() {
        let first = "| 1 | a story | a wall | `a_test` in `crates/a/tests/t.rs` (by a hang) | \
                     `crates/a/src/lib.rs`: `f` |";
        let (rows, wrong) =
            parse(&document(std::iter::once(first.to_owned()).chain((2..=SCENARIOS).map(later))));
        assert_eq!((rows.len(), &wrong[..]), (usize::from(SCENARIOS), &[][..]));
        let test =
            Test { name: "a_test".to_owned(), file: "crates/a/tests/t.rs".to_owned(), hangs: true };
        assert_eq!(
            rows[0],
            Row {
                number: 1,
                test: Some(test),
                mutation: BTreeSet::from(["crates/a/src/lib.rs".to_owned()])
            }
        );
        assert_eq!(rows[1], Row { number: 2, test: None, mutation: BTreeSet::new() });
    }

    #[test]
    fn rows_that_are_missing_doubled_or_half_filled_are_named() {
        let wrong = |rows: Vec<String>| parse(&document(rows.into_iter())).1.join("\n");
        assert!(wrong((1..SCENARIOS).map(later).collect()).contains("29 of 30"));
        assert!(wrong(vec![later(1), later(1)]).contains("row 1 where row 2 should be"));
        assert!(
            wrong(vec!["| 1 | a story | a wall | (not built yet) |".to_owned()])
                .contains("4 cells")
        );
        let half = "| 1 | a story | a wall | `a_test` in `crates/a/tests/t.rs` | (not built yet) |";
        assert!(wrong(vec![half.to_owned()]).contains("no file with the mutation"));
        assert!(
            wrong(vec!["| 1 | a story | | (not built yet) | (not built yet) |".to_owned()])
                .contains("empty")
        );
    }
}
