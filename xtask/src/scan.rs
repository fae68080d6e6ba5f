//! Reads the repository's own text: which files there are, and Rust code without its comments and
//! strings.

use std::fs;
use std::path::{Path, PathBuf};

/// All files below `root` that end in `.extension`, sorted, relative to it; build folders and
/// hidden ones left out.
pub(crate) fn files(root: &Path, extension: &str) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let absolute = root.join(&folder);
        let entries =
            fs::read_dir(&absolute).map_err(|e| format!("{}: {e}", absolute.display()))?;
        for entry in entries {
            let entry = entry.map_err(|e| format!("{}: {e}", absolute.display()))?;
            let kind = entry.file_type().map_err(|e| format!("{}: {e}", entry.path().display()))?;
            let name = entry.file_name();
            let path = folder.join(&name);
            let hidden = name.to_string_lossy().starts_with('.');
            if kind.is_dir() && !hidden && name != "target" {
                folders.push(path);
            } else if kind.is_file() && path.extension().is_some_and(|e| e == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// `root/path` as text.
pub(crate) fn read(root: &Path, path: &Path) -> Result<String, String> {
    fs::read_to_string(root.join(path)).map_err(|e| format!("{}: {e}", path.display()))
}
