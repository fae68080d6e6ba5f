//! The patches of xtask/mutations, each of which puts one defect back in.
//!
//! `07-short-name.patch` is what `git apply` takes, with an introduction before the first file, and
//! belongs to row 7. It changes exactly the files that its row names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::table::{DOCUMENT, Row};
use super::tree;
use crate::context::Context;

/// Where they are, from the top of the workspace.
pub(super) const FOLDER: &str = "xtask/mutations";

/// One patch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Patch {
    /// From the top of the workspace.
    pub(super) path: PathBuf,
    /// What stands before the first file.
    pub(super) introduction: String,
    /// The files that it changes, makes or removes.
    pub(super) files: BTreeSet<String>,
}

/// All of them, by number.
pub(super) fn read(context: &Context) -> Result<BTreeMap<u8, Patch>, String> {
    let folder = context.root.join(FOLDER);
    let mut patches = BTreeMap::new();
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(patches),
        Err(e) => return Err(format!("{FOLDER}: {e}")),
    };
    for entry in entries {
        let name = entry.map_err(|e| format!("{FOLDER}: {e}"))?.file_name();
        let name = name.to_string_lossy();
        if !name.ends_with(".patch") {
            continue;
        }
        let path = PathBuf::from(FOLDER).join(&*name);
        let number = number_of(&name)
            .ok_or(format!("{}: the name is not NN-short-name.patch", path.display()))?;
        let text = fs::read_to_string(context.root.join(&path))
            .map_err(|e| format!("{}: {e}", path.display()))?;
        let (introduction, files) = parse(&text);
        if files.is_empty() {
            return Err(format!("{}: no file is changed", path.display()));
        }
        let patch = Patch { path, introduction, files };
        if let Some(other) = patches.insert(number, patch) {
            return Err(format!("{} is not the only patch {number}", other.path.display()));
        }
    }
    Ok(patches)
}

fn number_of(name: &str) -> Option<u8> {
    let (number, rest) = name.split_once('-')?;
    let named = rest.len() > ".patch".len() && number.len() == 2;
    number.parse().ok().filter(|number| named && *number > 0)
}

/// The introduction, and the files of a unified diff.
fn parse(text: &str) -> (String, BTreeSet<String>) {
    let begins = |line: &&str| line.starts_with("diff --git ") || line.starts_with("--- ");
    let introduction: String =
        text.split_inclusive('\n').take_while(|line| !begins(line)).collect();
    let mut files = BTreeSet::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        // A removed line that begins with `-- ` looks like the head of a file; no `+++` follows.
        let (Some(old), Some(new)) =
            (line.strip_prefix("--- "), lines.peek().and_then(|next| next.strip_prefix("+++ ")))
        else {
            continue;
        };
        let names = [old.strip_prefix("a/"), new.strip_prefix("b/")];
        files.extend(names.into_iter().flatten().map(str::to_owned));
    }
    (introduction, files)
}

/// What is wrong with the patches: rows without one, those without a row, those that change other
/// files than their row says, and those that do not apply to the working tree.
pub(super) fn check(
    context: &Context,
    patches: &BTreeMap<u8, Patch>,
    rows: &[Row],
) -> Result<Vec<String>, String> {
    let mut wrong = disagreements(patches, rows);
    for (number, patch) in patches {
        let mut git = tree::git(&context.root, &["apply", "--check", "-p1"]);
        let said = context.capture(git.arg(&patch.path), Duration::from_secs(60))?;
        if !said.status.is_some_and(|status| status.success()) {
            wrong.push(format!(
                "{} does not apply; repair it: cargo xtask mutate --edit {number}\n{}",
                patch.path.display(),
                said.stderr.trim_end()
            ));
        }
    }
    Ok(wrong)
}

/// Where rows and patches do not name one another.
fn disagreements(patches: &BTreeMap<u8, Patch>, rows: &[Row]) -> Vec<String> {
    let mut wrong = Vec::new();
    for row in rows.iter().filter(|row| row.test.is_some()) {
        let Row { number, .. } = row;
        if !patches.contains_key(number) {
            wrong.push(format!(
                "{DOCUMENT}: row {number} has no patch; make it: cargo xtask mutate --edit {number}"
            ));
        }
    }
    for (number, patch) in patches {
        let name = patch.path.display();
        match rows.iter().find(|row| row.number == *number) {
            None => wrong.push(format!("{name}: {DOCUMENT} has no row {number}")),
            Some(row) if row.mutation != patch.files => wrong.push(format!(
                "{name} changes {:?}, row {number} of {DOCUMENT} names {:?}",
                patch.files, row.mutation
            )),
            Some(_) => {}
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::super::table::Test;
    use super::*;

    #[test]
    fn rows_and_patches_that_do_not_name_one_another_are_named() {
        let files = |name: &str| BTreeSet::from([name.to_owned()]);
        let patch = |name: &str| Patch {
            path: PathBuf::from(name),
            introduction: String::new(),
            files: files("a.rs"),
        };
        let row = |number, file: &str| {
            let test = Test { name: "t".to_owned(), file: "t.rs".to_owned(), hangs: false };
            Row { number, test: Some(test), mutation: files(file) }
        };
        let rows = [
            row(1, "a.rs"),
            row(2, "b.rs"),
            row(3, "a.rs"),
            Row { number: 4, test: None, mutation: BTreeSet::new() },
        ];
        let patches = [(1, "1.patch"), (2, "2.patch"), (5, "5.patch")];
        let patches = patches.into_iter().map(|(number, name)| (number, patch(name))).collect();
        let wrong = disagreements(&patches, &rows);
        assert_eq!(wrong.len(), 3, "{wrong:?}");
        let named = |part: &str| wrong.iter().any(|why| why.contains(part));
        assert!(named("row 3 has no patch") && named("2.patch changes"), "{wrong:?}");
        assert!(named("has no row 5"), "{wrong:?}");
    }

    #[test]
    fn a_patch_is_named_by_its_number_and_a_word() {
        assert_eq!(number_of("07-two-looks.patch"), Some(7));
        for wrong in ["7-two-looks.patch", "07.patch", "07-.patch", "00-none.patch", "a-b.patch"] {
            assert_eq!(number_of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_files_of_a_patch_are_those_in_its_heads() {
        let text = "Why.\n\ndiff --git a/x/y.rs b/x/y.rs\n--- a/x/y.rs\n+++ b/x/y.rs\n\
                    @@ -1,2 +1 @@\n--- a/no.rs\n a\n\
                    diff --git a/new.rs b/new.rs\nnew file mode 100644\n--- /dev/null\n\
                    +++ b/new.rs\n@@ -0,0 +1 @@\n+a\n";
        let (introduction, files) = parse(text);
        assert_eq!(introduction, "Why.\n\n");
        assert_eq!(files, BTreeSet::from(["x/y.rs".to_owned(), "new.rs".to_owned()]));
    }
}
