//! The documents: every path that they name exists, and every link in them leads somewhere.

use std::path::{Path, PathBuf};

use crate::context::Context;
use crate::outcome::Outcome;
use crate::scan;

/// Documents that must be there.
const REQUIRED: &[&str] = &[
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "docs/design.md",
    "docs/glossary.md",
];

/// Top folders: a path in backquotes that begins with one is checked.
const TOP: &[&str] = &["crates/", "docs/", "xtask/", ".ci/", "fuzz/"];

/// The step.
pub(crate) fn check(context: &Context) -> Result<Outcome, String> {
    let mut wrong: Vec<String> = REQUIRED
        .iter()
        .filter(|name| !context.root.join(name).exists())
        .map(|name| format!("{name} is missing"))
        .collect();
    let documents = scan::files(&context.root, "md")?;
    let mut checked = 0;
    for document in &documents {
        let text = without_fences(&scan::read(&context.root, document)?);
        for (line, target) in links(&text) {
            checked += 1;
            wrong.extend(
                broken_link(&context.root, document, &target)
                    .map(|why| format!("{}:{line}: {why}", document.display())),
            );
        }
        for (line, path) in named_paths(&text) {
            checked += 1;
            if !exists(&context.root, &path) {
                wrong.push(format!("{}:{line}: {path} does not exist", document.display()));
            }
        }
    }
    println!("{} documents, {checked} links and paths", documents.len());
    if wrong.is_empty() { Ok(Outcome::Passed) } else { Err(wrong.join("\n!!! ")) }
}

/// The text with the lines of fenced code blocks emptied.
fn without_fences(text: &str) -> String {
    let mut inside = false;
    let kept = text.lines().map(|line| {
        let fence = line.trim_start().starts_with("```");
        inside ^= fence;
        if fence || inside { "" } else { line }
    });
    kept.collect::<Vec<_>>().join("\n")
}

/// `[text](target)` with the number of its line; what stands in backquotes is no link.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let plain: String = line
            .split('`')
            .enumerate()
            .map(|(n, part)| if n % 2 == 0 { part } else { "" })
            .collect();
        found.extend(
            plain
                .split("](")
                .skip(1)
                .filter_map(|rest| rest.split_once(')'))
                .map(|(target, _)| (number + 1, target.to_owned())),
        );
    }
    found
}

/// Paths in backquotes that begin with a top folder.
fn named_paths(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let quoted = line.split('`').skip(1).step_by(2);
        let paths = quoted.filter(|word| {
            TOP.iter().any(|top| word.starts_with(top)) && !word.contains([' ', '<', '*', '{'])
        });
        found.extend(
            paths.map(|path| (number + 1, path.split("::").next().unwrap_or(path).to_owned())),
        );
    }
    found
}

/// A path as documents write it: `crates/host/src/sys.rs` or `crates/host/src/sys.rs:12`.
fn exists(root: &Path, path: &str) -> bool {
    let path = path.split(':').next().unwrap_or(path);
    root.join(path).exists()
}

fn broken_link(root: &Path, document: &Path, target: &str) -> Option<String> {
    let target = target.split_whitespace().next().unwrap_or("");
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) =
        target.split_once('#').map_or((target, None), |(path, anchor)| (path, Some(anchor)));
    let file: PathBuf = if path.is_empty() {
        document.to_path_buf()
    } else {
        document.parent().unwrap_or(Path::new("")).join(path)
    };
    if !root.join(&file).exists() {
        return Some(format!("{target} leads nowhere"));
    }
    let anchor = anchor.filter(|_| file.extension().is_some_and(|e| e == "md"))?;
    let text = without_fences(&scan::read(root, &file).ok()?);
    let found = text.lines().filter(|line| line.starts_with('#')).any(|line| slug(line) == anchor);
    (!found).then(|| format!("{target}: no such heading"))
}

/// The anchor that a heading gets.
fn slug(heading: &str) -> String {
    let words = heading.trim_start_matches('#').trim().to_lowercase();
    words
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_paths_are_found_with_their_lines() {
        let text = without_fences(
            "a [b](c.md#d)\n```\n[x](y) `crates/z`\n```\n\
             see `crates/core/src/lib.rs` and `[no](link)`",
        );
        assert_eq!(links(&text), [(1, "c.md#d".to_owned())]);
        assert_eq!(named_paths(&text), [(5, "crates/core/src/lib.rs".to_owned())]);
    }

    #[test]
    fn a_heading_gets_the_anchor_that_renderers_give_it() {
        assert_eq!(slug("## Lock order, and `why`"), "lock-order-and-why");
    }
}
