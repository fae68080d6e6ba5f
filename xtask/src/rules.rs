//! docs/rules.md: the contract's rules in words, and below each the tests that show it, found by
//! their comments.
//!
//! A test says `// shows U5` or `// shows U5, B3: why`, above itself or inside. `cargo xtask rules`
//! writes the lists; the step `rules` fails where they are stale, where a rule has no test, and
//! where a test names a rule that there is none of. (`// regression 8: the story` is for the
//! reader: docs/regressions.md names the test of each.)

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use crate::context::Context;
use crate::outcome::Outcome;
use crate::scan;

const DOCUMENT: &str = "docs/rules.md";

/// A rule that needs no test says so in its text.
const LATER: &str = "(not built yet)";

/// Rule to tests, each as file and name.
type Shown = BTreeMap<String, BTreeSet<(String, String)>>;

/// The step.
pub(crate) fn check(context: &Context) -> Result<Outcome, String> {
    let (old, new, wrong) = generate(context)?;
    if old != new {
        return Err(format!("{DOCUMENT} is stale; run cargo xtask rules"));
    }
    if wrong.is_empty() { Ok(Outcome::Passed) } else { Err(wrong.join("\n!!! ")) }
}

/// The task: writes the document anew.
pub(crate) fn task() -> Result<ExitCode, String> {
    let context = Context::find()?;
    let (old, new, wrong) = generate(&context)?;
    wrong.iter().for_each(|why| println!("{why}"));
    if old != new {
        fs::write(context.root.join(DOCUMENT), new).map_err(|e| format!("{DOCUMENT}: {e}"))?;
        println!("{DOCUMENT} written");
    }
    Ok(ExitCode::SUCCESS)
}

/// The document as it is and as it should be, and what no writing can mend.
fn generate(context: &Context) -> Result<(String, String, Vec<String>), String> {
    let mut shown = Shown::new();
    for path in scan::files(&context.root.join("crates"), "rs")? {
        let name = format!("crates/{}", path.display());
        collect(&name, &scan::read(&context.root, Path::new(&name))?, &mut shown);
    }
    let old = scan::read(&context.root, Path::new(DOCUMENT))?;
    let (new, wrong) = fill(&old, &shown);
    println!("{} rules have tests", shown.len());
    Ok((old, new, wrong))
}

/// Finds the tests of one file.
fn collect(file: &str, source: &str, shown: &mut Shown) {
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    for (at, line) in lines.iter().enumerate() {
        let rules = named(line);
        if rules.is_empty() {
            continue;
        }
        // Above its test, with nothing but attributes and comments between; else inside of it.
        let below = lines[at..]
            .iter()
            .find(|line| !(line.is_empty() || line.starts_with("//") || line.starts_with("#[")));
        let test = below
            .and_then(|line| function(line))
            .or_else(|| lines[..at].iter().rev().find_map(|line| function(line)));
        for rule in rules {
            shown
                .entry(rule)
                .or_default()
                .extend(test.map(|test| (file.to_owned(), test.to_owned())));
        }
    }
}

/// The rules that a comment names.
fn named(line: &str) -> Vec<String> {
    let Some(list) = line.strip_prefix("// shows ") else { return Vec::new() };
    let words = list.split([':', ';']).next().unwrap_or("").split(',').map(str::trim);
    words.take_while(|word| is_rule(word)).map(str::to_owned).collect()
}

/// Such as `U5`.
fn is_rule(word: &str) -> bool {
    let mut chars = word.chars();
    chars.next().is_some_and(|c| c.is_ascii_uppercase())
        && !chars.as_str().is_empty()
        && chars.all(|c| c.is_ascii_digit())
}

/// The name of the function that a line begins.
fn function(line: &str) -> Option<&str> {
    let rest = line
        .strip_prefix("fn ")
        .or_else(|| line.strip_prefix("pub fn "))
        .or_else(|| line.strip_prefix("pub(crate) fn "))?;
    Some(rest.split(['(', '<']).next().unwrap_or(rest))
}

/// Puts the tests below their rules: `- **U5** ...`, then one indented line a test.
fn fill(document: &str, shown: &Shown) -> (String, Vec<String>) {
    let mut out = String::new();
    let mut wrong = Vec::new();
    let mut known = BTreeSet::new();
    for line in document.lines().filter(|line| !line.starts_with("  - `")) {
        out.push_str(line);
        out.push('\n');
        let Some((rule, text)) = line.strip_prefix("- **").and_then(|rest| rest.split_once("**"))
        else {
            continue;
        };
        known.insert(rule);
        let tests = shown.get(rule).into_iter().flatten();
        tests.clone().for_each(|(file, test)| out.push_str(&format!("  - `{test}` in `{file}`\n")));
        if tests.count() == 0 && !text.contains(LATER) {
            wrong.push(format!("{DOCUMENT}: {rule} has no test"));
        }
    }
    let unknown = shown.iter().filter(|(rule, _)| !known.contains(rule.as_str()));
    wrong.extend(
        unknown.map(|(rule, tests)| format!("{DOCUMENT} has no {rule}, which {tests:?} show")),
    );
    (out, wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "\
// shows U5, B3: two of them
#[test]
fn above() {}

fn inside(n: u32) {
    // shows B1
    // regression 8: a story
    let x = 1;
}

// shows G5; regression 24: both
fn both<T>() {}

// shows nothing of the kind
// see U7
fn none() {}
";

    #[test]
    fn tests_are_found_by_the_rules_that_they_name() {
        let mut shown = Shown::new();
        collect("f.rs", SOURCE, &mut shown);
        let found: Vec<(&str, &str)> = shown
            .iter()
            .flat_map(|(rule, tests)| tests.iter().map(|(_, test)| (rule.as_str(), test.as_str())))
            .collect();
        let wanted = [("B1", "inside"), ("B3", "above"), ("G5", "both"), ("U5", "above")];
        assert_eq!(found, wanted);
    }

    #[test]
    fn the_document_is_filled_again_to_the_same_and_gaps_are_named() {
        let mut shown = Shown::new();
        collect("f.rs", SOURCE, &mut shown);
        let document = "# Rules\n- **U5** text\n  - `old` in `g.rs`\n\
                        - **T7** text\n- **F1** text (not built yet)\n";
        let (once, wrong) = fill(document, &shown);
        assert_eq!(
            once,
            "# Rules\n- **U5** text\n  - `above` in `f.rs`\n\
             - **T7** text\n- **F1** text (not built yet)\n"
        );
        assert_eq!(fill(&once, &shown).0, once);
        assert!(
            wrong.iter().any(|why| why.contains("T7 has no test"))
                && wrong.iter().any(|why| why.contains("has no B1")),
            "{wrong:?}"
        );
        assert!(!wrong.iter().any(|why| why.contains("F1")), "{wrong:?}");
    }
}
