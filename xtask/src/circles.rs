//! Imports go round in no circle, neither between files nor between folders, and point downwards
//! where a crate has layers.
//!
//! Each file is a node; an edge leads to each file that defines an item which its code names.
//! Rejected: `cargo modules dependencies --acyclic`, see docs/design/ci.md.

mod graph;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::ExitCode;

use crate::context::Context;
use crate::outcome::Outcome;
use crate::source::{self, Edge, Modules};
use graph::Graph;

/// The folders of a crate that has layers, lowest first. A folder may use those of its own rank and
/// of the ranks before it.
const LAYERS: &[(&str, &[&[&str]])] = &[(
    "crates/core",
    &[&["types"], &["quiesce"], &["api"], &["protocol", "iotlb"], &["table"], &["dma", "control"]],
)];

/// The step.
pub(crate) fn check(context: &Context) -> Result<Outcome, String> {
    examine(context, &[]).map(|()| Outcome::Passed)
}

/// The task, for the crates in these folders; for all where there are none.
pub(crate) fn task(folders: &[&str]) -> Result<ExitCode, String> {
    let outcome = examine(&Context::find()?, folders);
    Ok(outcome
        .inspect_err(|why| println!("{why}"))
        .map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS))
}

fn examine(context: &Context, only: &[&str]) -> Result<(), String> {
    let mut wrong = Vec::new();
    let (mut files, mut edges) = (0, 0);
    let crates = source::crates(&context.root)?;
    if let Some(unknown) =
        only.iter().find(|folder| crates.iter().all(|krate| krate.folder != **folder))
    {
        return Err(format!("there is no crate in `{unknown}`"));
    }
    for krate in crates.iter().filter(|krate| only.is_empty() || only.contains(&&*krate.folder)) {
        let ranks = LAYERS.iter().find(|(folder, _)| *folder == krate.folder);
        for modules in &krate.roots {
            let found = source::edges(modules);
            files += modules.files.len();
            edges += found.len();
            let circles = circles(modules, &found);
            wrong.extend(circles.iter().map(|text| format!("{}: {text}", krate.folder)));
            if let Some((_, ranks)) = ranks {
                wrong.extend(upward(modules, &found, ranks));
            }
        }
    }
    println!("{files} files, {edges} edges between them");
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n!!! ")) }
}

/// How many circles of files a crate has.
pub(crate) fn count(krate: &source::Krate) -> usize {
    krate.roots.iter().map(|modules| by_file(&source::edges(modules)).circles().len()).sum()
}

type Edges = BTreeMap<(usize, usize), Edge>;

fn by_file(edges: &Edges) -> Graph<usize> {
    Graph::new(edges.keys().copied())
}

/// The circles of files and of folders, in words.
fn circles(modules: &Modules, edges: &Edges) -> Vec<String> {
    let mut found = Vec::new();
    let files = by_file(edges);
    for circle in files.circles() {
        let mut text = format!("a circle of {} files:", circle.len());
        for round in files.rounds(&circle) {
            for (from, to) in round {
                text.push_str(&hop(modules, edges, from, to));
            }
            text.push_str("\n    --");
        }
        found.push(text);
    }
    let place = |file: usize| room(modules, file);
    let mut witnesses: BTreeMap<(&str, &str), (usize, usize)> = BTreeMap::new();
    for &(from, to) in edges.keys() {
        if let (Some(a), Some(b)) = (place(from), place(to))
            && a != b
        {
            witnesses.entry((a, b)).or_insert((from, to));
        }
    }
    let folders = Graph::new(witnesses.keys().copied());
    for circle in folders.circles() {
        let names: Vec<&str> = circle.iter().copied().collect();
        let mut text = format!("a circle of {} folders: {}", names.len(), names.join(", "));
        for round in folders.rounds(&circle) {
            for (from, to) in round {
                let (from_file, to_file) = witnesses[&(from, to)];
                text.push_str(&hop(modules, edges, from_file, to_file));
            }
            text.push_str("\n    --");
        }
        found.push(text);
    }
    found
}

/// `\n    file:line -> file (path)`.
fn hop(modules: &Modules, edges: &Edges, from: usize, to: usize) -> String {
    let Edge { line, path } = &edges[&(from, to)];
    let [from, to] = [from, to].map(|file| modules.files[file].display());
    format!("\n    {from}:{line} -> {to} ({path})")
}

/// The edges from a lower layer to a higher one, in words.
fn upward(modules: &Modules, edges: &Edges, ranks: &[&[&str]]) -> Vec<String> {
    let rank = |file: usize| {
        let room = room(modules, file)?;
        ranks.iter().position(|rank| rank.contains(&room))
    };
    let up = edges
        .keys()
        .filter(|(from, to)| rank(*from).zip(rank(*to)).is_some_and(|(from, to)| from < to));
    let lines: BTreeSet<String> = up
        .map(|&(from, to)| format!("an import points upwards:{}", hop(modules, edges, from, to)))
        .collect();
    lines.into_iter().collect()
}

/// The module below the root that a file belongs to, whether it is a folder or a file: `iommu` of
/// `src/iommu.rs` and of `src/iommu/bind.rs`. The root has none.
fn room(modules: &Modules, file: usize) -> Option<&str> {
    let root = modules.files.first()?;
    let path = &modules.files[file];
    let below = path.strip_prefix(root.parent()?).ok()?;
    let first = Path::new(below.components().next()?.as_os_str());
    (path != root).then(|| first.file_stem()?.to_str()).flatten()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn modules(files: &[(&str, &str)]) -> (tempfile::TempDir, Modules) {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            let path = folder.path().join("src").join(name);
            fs::create_dir_all(path.parent().expect("below src")).expect("a folder");
            fs::write(path, text).expect("a file");
        }
        let modules = Modules::read(folder.path(), Path::new("src/lib.rs")).expect("it parses");
        (folder, modules)
    }

    #[test]
    fn a_circle_is_shown_hop_by_hop_and_a_circle_of_folders_too() {
        let (_folder, modules) = modules(&[
            ("lib.rs", "mod a; mod b; pub use a::low::Low;"),
            ("a/mod.rs", "pub mod low; pub mod high;"),
            ("a/low.rs", "pub struct Low;"),
            ("a/high.rs", "use crate::b::B;\npub struct High(B);"),
            ("b.rs", "\nuse crate::Low;\npub struct B(Low);"),
        ]);
        let edges = source::edges(&modules);
        assert!(by_file(&edges).circles().is_empty());
        let found = circles(&modules, &edges);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("a circle of 2 folders: a, b"));
        assert!(found[0].contains("src/b.rs:2 -> src/a/low.rs (crate::Low)"), "{}", found[0]);
        assert!(found[0].contains("src/a/high.rs:1 -> src/b.rs (crate::b::B)"), "{}", found[0]);
    }

    #[test]
    fn files_that_name_one_another_are_a_circle() {
        let (_folder, modules) = modules(&[
            ("lib.rs", "mod a; mod b;"),
            ("a.rs", "pub struct A(crate::b::B);"),
            ("b.rs", "pub struct B; impl B { fn f(_: super::a::A) {} }"),
        ]);
        let found = circles(&modules, &source::edges(&modules));
        assert!(found[0].starts_with("a circle of 2 files:"), "{found:?}");
        assert!(found[0].contains("src/a.rs:1 -> src/b.rs"), "{found:?}");
        assert!(found[0].contains("src/b.rs:1 -> src/a.rs"), "{found:?}");
    }

    #[test]
    fn only_an_import_from_a_lower_rank_points_upwards() {
        let (_folder, modules) = modules(&[
            ("lib.rs", "mod low; mod side; mod high; mod other;"),
            ("low/mod.rs", "pub struct Low; use crate::high::High;"),
            ("side/mod.rs", "use crate::low::Low; pub struct Side;"),
            ("high/mod.rs", "use crate::side::Side; pub struct High;"),
            ("other.rs", "use crate::high::High;"),
        ]);
        let found = upward(&modules, &source::edges(&modules), &[&["low", "side"], &["high"]]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("src/low/mod.rs:1 -> src/high/mod.rs"));
    }
}
