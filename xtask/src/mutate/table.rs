//! docs/regressions.md, read as a list: one row a scenario, with the test that finds it and the
//! files in which it is put back in.
//!
//! A row that names a file without the switch of its number is wrong, and so is a switch that no
//! row names: the document says what the code does.

use std::collections::{BTreeMap, BTreeSet};
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
    /// The files with the switch of this number, from the top of the workspace. There is one at
    /// least where there is a test.
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
    let (rows, mut wrong) = parse(&scan::read(&context.root, Path::new(DOCUMENT))?);
    let mut switches: BTreeMap<u8, BTreeSet<String>> = BTreeMap::new();
    for path in scan::files(&context.root.join("crates"), "rs")? {
        let name = format!("crates/{}", path.display());
        let code = scan::code_only(&scan::read(&context.root, Path::new(&name))?);
        for number in numbers_switched(&code) {
            switches.entry(number).or_default().insert(name.clone());
        }
    }
    wrong.extend(disagreements(&rows, &switches));
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

/// The numbers in `is_on(7)`.
fn numbers_switched(code: &str) -> impl Iterator<Item = u8> {
    code.split("is_on(")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .filter_map(|number| number.parse().ok())
}

/// Where rows and switches do not name one another. A switch may come before the test.
fn disagreements(rows: &[Row], switches: &BTreeMap<u8, BTreeSet<String>>) -> Vec<String> {
    let none = BTreeSet::new();
    let mut wrong = Vec::new();
    for Row { number, test, mutation } in rows {
        let there = switches.get(number).unwrap_or(&none);
        wrong.extend(mutation.difference(there).map(|file| {
            format!("{DOCUMENT}: row {number}: there is no is_on({number}) in {file}")
        }));
        let unnamed = there.difference(mutation).filter(|_| test.is_some());
        wrong.extend(unnamed.map(|file| {
            format!("{file}: is_on({number}), which row {number} of {DOCUMENT} does not name")
        }));
    }
    let unknown =
        switches.iter().filter(|(number, _)| rows.iter().all(|row| row.number != **number));
    wrong.extend(unknown.map(|(number, files)| {
        format!("is_on({number}) in {files:?}, for which {DOCUMENT} has no row")
    }));
    wrong
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
        let first = "| 1 | a story | a wall | `a_test` in `crates/a/tests/t.rs` (by a hang) | `crates/a/src/lib.rs`: `f` |";
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

    #[test]
    fn a_switch_without_a_row_and_a_row_without_a_switch_are_named() {
        let code = "if mutation::is_on(3) { f(); }\nif is_on(number) { g(); } is_on(31)";
        assert_eq!(numbers_switched(code).collect::<Vec<_>>(), [3, 31]);
        let files = |name: &str| BTreeSet::from([name.to_owned()]);
        let switches =
            BTreeMap::from([(3, files("a.rs")), (4, files("a.rs")), (31, files("b.rs"))]);
        let test = Test { name: "t".to_owned(), file: "t.rs".to_owned(), hangs: false };
        let rows = [
            Row { number: 3, test: Some(test), mutation: files("c.rs") },
            Row { number: 4, test: None, mutation: BTreeSet::new() },
        ];
        let wrong = disagreements(&rows, &switches);
        assert_eq!(wrong.len(), 3, "{wrong:?}");
        let named = |part: &str| wrong.iter().any(|why| why.contains(part));
        assert!(
            named("no is_on(3) in c.rs") && named("a.rs: is_on(3)") && named("is_on(31)"),
            "{wrong:?}"
        );
    }
}
