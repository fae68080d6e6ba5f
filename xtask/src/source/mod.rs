//! The workspace's Rust code, parsed: crates, their files and their modules.
//!
//! `scan` gives text, `modules` the tree of modules with the names in each, `paths` what every path
//! in the code leads to. Code that is built for tests only is left out.

mod cfg;
mod modules;
mod paths;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::{Path, PathBuf};

pub(crate) use cfg::is_test_only;
pub(crate) use modules::{Modules, attributes};
pub(crate) use paths::{Edge, edges};

/// One crate of the workspace.
pub(crate) struct Krate {
    /// From the top of the workspace: `crates/core`.
    pub(crate) folder: String,
    /// The programs and the library, each with modules of its own: `src/lib.rs`, `src/main.rs`.
    pub(crate) roots: Vec<Modules>,
}

/// The folders of all crates, from the top of the workspace, sorted.
pub(crate) fn crate_folders(root: &Path) -> Result<Vec<String>, String> {
    let crates = root.join("crates");
    let entries = fs::read_dir(&crates).map_err(|e| format!("{}: {e}", crates.display()))?;
    let mut folders = vec!["xtask".to_owned()];
    for entry in entries {
        let entry = entry.map_err(|e| format!("{}: {e}", crates.display()))?;
        if entry.path().join("Cargo.toml").is_file() {
            folders.push(format!("crates/{}", entry.file_name().to_string_lossy()));
        }
    }
    folders.sort();
    Ok(folders)
}

/// All crates, parsed.
pub(crate) fn crates(root: &Path) -> Result<Vec<Krate>, String> {
    crate_folders(root)?.into_iter().map(|folder| krate(root, folder)).collect()
}

fn krate(root: &Path, folder: String) -> Result<Krate, String> {
    let roots: Vec<PathBuf> = ["src/lib.rs", "src/main.rs"]
        .iter()
        .map(|name| Path::new(&folder).join(name))
        .filter(|path| root.join(path).is_file())
        .collect();
    let roots = roots.iter().map(|path| Modules::read(root, path)).collect::<Result<_, _>>()?;
    Ok(Krate { folder, roots })
}
