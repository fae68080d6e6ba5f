//! Copies of the working tree, to which patches are applied.
//!
//! A copy holds what git follows and what it would, with all changes that are not committed. It
//! lies in the build folder and stays there, and so does what is built from it: bringing it up to
//! date writes only what differs, so that the next build is an incremental one.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::context::Context;

const LIMIT: Duration = Duration::from_secs(60);

/// A copy.
pub(super) struct Tree {
    /// Its top, and where it is built.
    pub(super) context: Context,
}

impl Tree {
    /// Makes the copy `name` in the build folder, or brings it up to date.
    pub(super) fn copy(from: &Context, name: &str) -> Result<Self, String> {
        let folder = from.target.join("mutate");
        let context = Context { root: folder.join(name), target: folder.join("build") };
        let tree = Self { context };
        tree.restore(from)?;
        Ok(tree)
    }

    /// Makes every file what it is in the working tree, and removes all others.
    pub(super) fn restore(&self, from: &Context) -> Result<(), String> {
        let wanted = tracked(from)?;
        for path in &wanted {
            let (source, copy) = (from.root.join(path), self.context.root.join(path));
            let new = fs::read(&source).map_err(|e| format!("{}: {e}", source.display()))?;
            if fs::read(&copy).is_ok_and(|old| old == new) {
                continue;
            }
            let written = copy
                .parent()
                .map_or(Ok(()), fs::create_dir_all)
                .and_then(|()| fs::write(&copy, new));
            written.map_err(|e| format!("{}: {e}", copy.display()))?;
        }
        self.remove_others(Path::new(""), &wanted)
    }

    fn remove_others(&self, folder: &Path, wanted: &BTreeSet<PathBuf>) -> Result<(), String> {
        let absolute = self.context.root.join(folder);
        let entries =
            fs::read_dir(&absolute).map_err(|e| format!("{}: {e}", absolute.display()))?;
        for entry in entries {
            let entry = entry.map_err(|e| format!("{}: {e}", absolute.display()))?;
            let path = folder.join(entry.file_name());
            let kind = entry.file_type().map_err(|e| format!("{}: {e}", path.display()))?;
            if kind.is_dir() && entry.file_name() != ".git" {
                self.remove_others(&path, wanted)?;
            } else if kind.is_file() && !wanted.contains(&path) {
                fs::remove_file(entry.path()).map_err(|e| format!("{}: {e}", path.display()))?;
            }
        }
        Ok(())
    }

    /// Applies a patch, which lies in the working tree; its own words where it does not apply.
    pub(super) fn apply(&self, from: &Context, patch: &Path) -> Result<(), String> {
        let patch = from.root.join(patch);
        let mut command = git(&self.context.root, &["apply", "-p1"]);
        let said = from.capture(command.arg(&patch), LIMIT)?;
        if said.status.is_some_and(|status| status.success()) {
            Ok(())
        } else {
            Err(format!("{} does not apply:\n{}", patch.display(), said.stderr.trim_end()))
        }
    }
}

/// What git follows, and what is neither followed nor ignored; what is there of it.
fn tracked(context: &Context) -> Result<BTreeSet<PathBuf>, String> {
    let words = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    // Of a workspace that lies inside a folder that git follows, the workspace alone.
    let said =
        context.capture(Command::new("git").args(words).current_dir(&context.root), LIMIT)?;
    if !said.status.is_some_and(|status| status.success()) {
        return Err(format!("git ls-files: {}", said.stderr.trim_end()));
    }
    let paths = said.stdout.split('\0').filter(|path| !path.is_empty()).map(PathBuf::from);
    Ok(paths.filter(|path| context.root.join(path).is_file()).collect())
}

/// A git command in `folder`, which looks for no repository above it.
pub(super) fn git(folder: &Path, words: &[&str]) -> Command {
    let mut command = Command::new("git");
    command.args(words).current_dir(folder);
    if let Some(above) = folder.parent() {
        command.env("GIT_CEILING_DIRECTORIES", above);
    }
    for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX"] {
        command.env_remove(name);
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, name: &str, text: &str) {
        fs::write(folder.join(name), text).expect("a file");
    }

    fn run(folder: &Path, words: &[&str]) {
        assert!(git(folder, words).status().expect("git runs").success(), "{words:?}");
    }

    #[test]
    fn a_copy_has_uncommitted_changes_and_is_restored_after_a_patch() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().join("work");
        fs::create_dir(&root).expect("a folder");
        let from = Context { root: root.clone(), target: root.join("target") };
        run(&root, &["init", "-q"]);
        write(&root, ".gitignore", "/target\n");
        write(&root, "a.rs", "one\ntwo\n");
        write(&root, "b.rs", "b\n");
        run(&root, &["add", "."]);
        write(&root, "a.rs", "one\nthree\n");
        write(&root, "new.rs", "n\n");
        let patch = "--- a/a.rs\n+++ b/a.rs\n@@ -1,2 +1,2 @@\n one\n-three\n+four\n\
                     --- /dev/null\n+++ b/made.rs\n@@ -0,0 +1 @@\n+m\n";
        write(&root, "1.patch", patch);
        let tree = Tree::copy(&from, "tree").expect("it is copied");
        let copy = tree.context.root.clone();
        let text = |name: &str| fs::read_to_string(copy.join(name)).ok();
        assert_eq!(text("a.rs").as_deref(), Some("one\nthree\n"));
        assert_eq!(text("new.rs").as_deref(), Some("n\n"));
        let before = fs::metadata(copy.join("b.rs")).and_then(|file| file.modified()).ok();
        tree.apply(&from, Path::new("1.patch")).expect("it applies");
        assert_eq!(text("a.rs").as_deref(), Some("one\nfour\n"));
        assert!(text("made.rs").is_some());
        assert!(tree.apply(&from, Path::new("1.patch")).is_err_and(|why| why.contains("a.rs")));
        tree.restore(&from).expect("it is restored");
        assert_eq!(text("a.rs").as_deref(), Some("one\nthree\n"));
        assert!(text("made.rs").is_none());
        let after = fs::metadata(copy.join("b.rs")).and_then(|file| file.modified()).ok();
        assert_eq!(before, after, "what is the same is not written");
    }
}
