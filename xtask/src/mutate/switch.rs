//! Defects that are switched in the sources: `mutation::is_on(7)` (crates/core/src/mutation.rs).
//!
//! A row without a patch has switches of its number in exactly the files that it names.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::table::{DOCUMENT, Row};
use crate::context::Context;
use crate::scan;

/// What is wrong between the switches in the sources and the rows without a patch.
pub(super) fn check<'a>(
    context: &Context,
    rows: impl Iterator<Item = &'a Row>,
) -> Result<Vec<String>, String> {
    let mut switches: BTreeMap<u8, BTreeSet<String>> = BTreeMap::new();
    for path in scan::files(&context.root.join("crates"), "rs")? {
        let name = format!("crates/{}", path.display());
        let code = scan::code_only(&scan::read(&context.root, Path::new(&name))?);
        for number in numbers_switched(&code) {
            switches.entry(number).or_default().insert(name.clone());
        }
    }
    Ok(disagreements(rows, &switches))
}

/// The numbers in `is_on(7)`.
fn numbers_switched(code: &str) -> impl Iterator<Item = u8> {
    code.split("is_on(")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .filter_map(|number| number.parse().ok())
}

/// Where rows and switches do not name one another. A switch may come before the test.
fn disagreements<'a>(
    rows: impl Iterator<Item = &'a Row>,
    switches: &BTreeMap<u8, BTreeSet<String>>,
) -> Vec<String> {
    let none = BTreeSet::new();
    let mut wrong = Vec::new();
    for Row { number, test, mutation } in rows {
        let there = switches.get(number).unwrap_or(&none);
        wrong.extend(mutation.difference(there).map(|file| {
            format!("{DOCUMENT}: row {number}: no patch, and no is_on({number}) in {file}")
        }));
        let unnamed = there.difference(mutation).filter(|_| test.is_some());
        wrong.extend(unnamed.map(|file| {
            format!("{file}: is_on({number}), which row {number} of {DOCUMENT} does not name")
        }));
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::super::table::Test;
    use super::*;

    #[test]
    fn a_switch_without_a_row_and_a_row_without_a_switch_are_named() {
        let code = "if mutation::is_on(3) { f(); }\nif is_on(number) { g(); } is_on(31)";
        assert_eq!(numbers_switched(code).collect::<Vec<_>>(), [3, 31]);
        let files = |name: &str| BTreeSet::from([name.to_owned()]);
        let switches = BTreeMap::from([(3, files("a.rs")), (4, files("a.rs"))]);
        let test = Test { name: "t".to_owned(), file: "t.rs".to_owned(), hangs: false };
        let rows = [
            Row { number: 3, test: Some(test), mutation: files("c.rs") },
            Row { number: 4, test: None, mutation: BTreeSet::new() },
        ];
        let wrong = disagreements(rows.iter(), &switches);
        assert_eq!(wrong.len(), 2, "{wrong:?}");
        let named = |part: &str| wrong.iter().any(|why| why.contains(part));
        assert!(named("no is_on(3) in c.rs") && named("a.rs: is_on(3)"), "{wrong:?}");
    }
}
