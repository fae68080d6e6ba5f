//! Making a patch, or making one anew when the code has moved on: `--edit` lays out a copy of the
//! tree with as much of the patch as still applies, `--save` writes what has been changed there.
//!
//! A patch names the blobs that it was made from, by which git merges it into what they have
//! become. The copy is a repository whose index holds the tree without the patch.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
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
    run(context, &folder, &["init", "--quiet"])?;
    borrow_objects(context, &folder)?;
    run(context, &folder, &["add", "--all"])?;
    if let Some(patch) = patches.get(&number) {
        lay_out(context, &tree, patch)?;
    }
    println!("make the defect in {}", folder.display());
    println!("then: cargo xtask mutate --save {number} [SHORT-NAME]");
    Ok(())
}

/// Lets the copy find the blobs of the working tree's repository, where it is in one.
fn borrow_objects(context: &Context, folder: &Path) -> Result<(), String> {
    let words = ["rev-parse", "--path-format=absolute", "--git-path", "objects"];
    let said =
        context.capture(Command::new("git").args(words).current_dir(&context.root), LIMIT)?;
    if !said.status.is_some_and(|status| status.success()) {
        return Ok(());
    }
    let alternates = folder.join(".git/objects/info/alternates");
    fs::write(&alternates, said.stdout).map_err(|e| format!("{}: {e}", alternates.display()))
}

/// Puts in what still applies of a patch, and says what is left to do by hand.
fn lay_out(context: &Context, tree: &Tree, patch: &Patch) -> Result<(), String> {
    let folder = &tree.context.root;
    let base = run(context, folder, &["write-tree"])?;
    let whole = context.root.join(&patch.path);
    let whole = whole.to_string_lossy();
    if let Err(why) = run(context, folder, &["apply", "-p1", "--3way", &whole]) {
        println!("{} does not apply cleanly:\n{why}", patch.path.display());
        let conflicts = run(context, folder, &["diff", "--name-only", "--diff-filter=U"])?;
        if conflicts.is_empty() {
            // The blobs are not there: every part by itself, wherever one line around it still
            // fits; the rest as `.rej` files, which are named below.
            let words = ["apply", "-p1", "-C1", "--recount", "--reject", &whole];
            let _ = run(context, folder, &words);
        }
        for file in conflicts.lines() {
            println!("resolve the conflicts in {file}");
        }
    }
    // A merge has put its result into the index.
    run(context, folder, &["read-tree", base.trim()])?;
    for left in scan::files(folder, "rej")? {
        println!("put this in by hand, and remove the file: {}", left.display());
    }
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
    run(context, &folder, &["add", "--all", "--intent-to-add"])?;
    let words =
        ["diff", "--no-color", "--no-ext-diff", "--no-renames", "--unified=3", "--full-index"];
    let diff = run(context, &folder, &words)?;
    if diff.is_empty() {
        return Err(format!("nothing is changed in {}", folder.display()));
    }
    if diff.lines().any(|line| line.starts_with("+<<<<<<< ")) {
        return Err(format!("conflicts are left in {}; resolve them", folder.display()));
    }
    let introduction = old.map_or_else(
        || format!("Puts defect {number} of docs/regressions.md back in.\n\n"),
        |patch| patch.introduction.clone(),
    );
    let whole = context.root.join(FOLDER);
    fs::create_dir_all(&whole).map_err(|e| format!("{}: {e}", whole.display()))?;
    fs::write(context.root.join(&path), introduction + &diff)
        .map_err(|e| format!("{}: {e}", path.display()))?;
    if let Some(old) = old.filter(|old| old.path != path) {
        fs::remove_file(context.root.join(&old.path))
            .map_err(|e| format!("{}: {e}", old.path.display()))?;
    }
    println!("{} written; try it: cargo xtask mutate --only {number}", path.display());
    Ok(())
}

fn name(number: u8) -> String {
    format!("edit-{number:02}")
}

fn folder(context: &Context, number: u8) -> PathBuf {
    context.target.join("mutate").join(name(number))
}

/// What a git command in the copy prints; its complaint where it fails.
fn run(context: &Context, folder: &Path, words: &[&str]) -> Result<String, String> {
    let said = context.capture(&mut git(folder, words), LIMIT)?;
    if said.status.is_some_and(|status| status.success()) {
        Ok(said.stdout)
    } else {
        Err(said.stderr.trim_end().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::super::patches;
    use super::*;

    const OLD: &str = "one\ntwo\nthree\nfour\nfive\nsix\nseven\n";

    struct Work {
        _folder: tempfile::TempDir,
        context: Context,
    }

    impl Work {
        /// A repository with a file and the patch of it that turns `four` into `4`.
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let root = folder.path().join("work");
            fs::create_dir_all(root.join(FOLDER)).expect("a folder");
            let context = Context { root: root.clone(), target: root.join("target") };
            let work = Self { _folder: folder, context };
            work.write(".gitignore", "/target\n");
            work.write("a.rs", OLD);
            work.git(&["init", "-q"]);
            work.git(&["add", "."]);
            work.write("a.rs", &OLD.replace("four", "4"));
            let diff = work.git(&["diff", "--full-index"]);
            work.write("xtask/mutations/01-four.patch", &format!("Why.\n\n{diff}"));
            work
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.context.root.join(name), text).expect("a file");
        }

        fn git(&self, words: &[&str]) -> String {
            run(&self.context, &self.context.root, words).expect("git succeeds")
        }

        fn patches(&self) -> BTreeMap<u8, Patch> {
            patches::read(&self.context).expect("patches")
        }

        fn edited(&self) -> PathBuf {
            folder(&self.context, 1).join("a.rs")
        }
    }

    #[test]
    fn a_patch_whose_surroundings_have_changed_is_merged_and_saved() {
        let work = Work::new();
        let new = OLD.replace("two", "2");
        work.write("a.rs", &new);
        assert!(!patches::check(&work.context, &work.patches(), &[]).expect("git runs").is_empty());
        begin(&work.context, &work.patches(), 1).expect("it is laid out");
        let edited = fs::read_to_string(work.edited()).expect("the file");
        assert_eq!(edited, new.replace("four", "4"));
        save(&work.context, &work.patches(), 1, None).expect("it is saved");
        let path = work.context.root.join("xtask/mutations/01-four.patch");
        let patch = fs::read_to_string(path).expect("the patch");
        assert!(patch.starts_with("Why.\n\ndiff --git") && patch.contains("\n+4\n"), "{patch}");
        assert!(patch.contains("\n 2\n") && patch.contains("\nindex "), "{patch}");
    }

    #[test]
    fn conflicts_have_to_be_resolved_before_a_patch_is_saved() {
        let work = Work::new();
        work.write("a.rs", &OLD.replace("four", "IV"));
        begin(&work.context, &work.patches(), 1).expect("it is laid out");
        let edited = fs::read_to_string(work.edited()).expect("the file");
        assert!(edited.contains("<<<<<<< "), "{edited}");
        let refused = save(&work.context, &work.patches(), 1, None);
        assert!(refused.is_err_and(|why| why.contains("conflicts are left")));
        fs::write(work.edited(), OLD.replace("four", "4!")).expect("the file");
        save(&work.context, &work.patches(), 1, Some("number")).expect("it is saved");
        let saved = &work.patches()[&1];
        assert!(saved.path.ends_with("01-number.patch"), "{:?}", saved.path);
        let text = fs::read_to_string(work.context.root.join(&saved.path)).expect("the patch");
        assert!(text.contains("\n-IV\n+4!\n"), "{text}");
    }

    #[test]
    fn without_the_blobs_the_parts_that_do_not_fit_are_left_beside_their_files() {
        let work = Work::new();
        let path = "xtask/mutations/01-four.patch";
        let patch = fs::read_to_string(work.context.root.join(path)).expect("the patch");
        let nameless = patch.lines().filter(|line| !line.starts_with("index "));
        work.write(path, &(nameless.collect::<Vec<_>>().join("\n") + "\n"));
        work.write("a.rs", &OLD.replace("four", "IV"));
        begin(&work.context, &work.patches(), 1).expect("it is laid out");
        let refused = save(&work.context, &work.patches(), 1, None);
        assert!(refused.is_err_and(|why| why.contains("a.rs.rej")));
    }
}
