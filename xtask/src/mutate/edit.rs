//! Making a patch, or making one anew when the code has moved on: `--edit` lays out a copy of the
//! tree with as much of the patch as still applies, `--save` writes what has been changed there.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::patches::{FOLDER, Patch};
use super::tree::{Tree, git};
use crate::context::Context;
use crate::scan;

const LIMIT: Duration = Duration::from_secs(60);

/// Lays the copy out.
pub(super) fn begin(
    context: &Context,
    patches: &BTreeMap<u8, Patch>,
    number: u8,
) -> Result<(), String> {
    let folder = folder(context, number);
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    }
    let tree = Tree::copy(context, &name(number))?;
    run(context, &tree, &["init", "--quiet"])?;
    run(context, &tree, &["add", "--all"])?;
    if let Some(patch) = patches.get(&number) {
        let whole = context.root.join(&patch.path);
        let whole = whole.to_string_lossy();
        // Every part by itself, wherever one line around it still fits; the rest as `.rej` files.
        let words = ["apply", "-p1", "-C1", "--recount", "--reject", &whole];
        if let Err(why) = run(context, &tree, &words) {
            println!("{} applies in part only:\n{why}", patch.path.display());
        }
        for left in scan::files(&tree.context.root, "rej")? {
            println!("put this in by hand, and remove the file: {}", left.display());
        }
    }
    println!("make the defect in {}", folder.display());
    println!("then: cargo xtask mutate --save {number} [SHORT-NAME]");
    Ok(())
}

/// Writes the patch of what was changed in the copy.
pub(super) fn save(
    context: &Context,
    patches: &BTreeMap<u8, Patch>,
    number: u8,
    short: Option<&str>,
) -> Result<(), String> {
    let folder = folder(context, number);
    if !folder.is_dir() {
        return Err(format!("nothing is being edited: cargo xtask mutate --edit {number} first"));
    }
    let target = context.target.join("mutate/build");
    let tree = Tree { context: Context { root: folder.clone(), target } };
    if let [left, ..] = &scan::files(&folder, "rej")?[..] {
        return Err(format!("{} is left; put it in by hand and remove it", left.display()));
    }
    let old = patches.get(&number);
    let path = match (short, old) {
        (Some(short), _) => PathBuf::from(FOLDER).join(format!("{number:02}-{short}.patch")),
        (None, Some(old)) => old.path.clone(),
        (None, None) => return Err("a new patch needs a short name".to_owned()),
    };
    // New files too.
    run(context, &tree, &["add", "--all", "--intent-to-add"])?;
    let words = ["diff", "--no-color", "--no-ext-diff", "--no-renames", "--unified=3"];
    let diff = run(context, &tree, &words)?;
    if diff.is_empty() {
        return Err(format!("nothing is changed in {}", folder.display()));
    }
    let introduction = old.map_or_else(
        || format!("Puts defect {number} of docs/regressions.md back in.\n\n"),
        |patch| patch.introduction.clone(),
    );
    let whole = context.root.join(FOLDER);
    fs::create_dir_all(&whole).map_err(|e| format!("{}: {e}", whole.display()))?;
    fs::write(context.root.join(&path), introduction + &without_hashes(&diff))
        .map_err(|e| format!("{}: {e}", path.display()))?;
    if let Some(old) = old.filter(|old| old.path != path) {
        fs::remove_file(context.root.join(&old.path))
            .map_err(|e| format!("{}: {e}", old.path.display()))?;
    }
    println!("{} written; try it: cargo xtask mutate --only {number}", path.display());
    Ok(())
}

/// The hashes of whole files say nothing about the patch, and change with every other change.
fn without_hashes(diff: &str) -> String {
    diff.split_inclusive('\n').filter(|line| !line.starts_with("index ")).collect()
}

fn name(number: u8) -> String {
    format!("edit-{number:02}")
}

fn folder(context: &Context, number: u8) -> PathBuf {
    context.target.join("mutate").join(name(number))
}

/// What a git command in the copy prints; its complaint where it fails.
fn run(context: &Context, tree: &Tree, words: &[&str]) -> Result<String, String> {
    let folder: &Path = &tree.context.root;
    let said = context.capture(&mut git(folder, words), LIMIT)?;
    if said.status.is_some_and(|status| status.success()) {
        Ok(said.stdout)
    } else {
        Err(said.stderr.trim_end().to_owned())
    }
}
