//! Files that are written as a whole or not at all.

use std::fs::{self, Metadata, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};
use std::path::Path;

use tempfile::Builder;

/// Folders whose names lead to open files and devices, which only they can be written by.
const DIRECT: [&str; 2] = ["/dev", "/proc"];

/// Writes `content` to the file at `path`: beside it and then in its place, so that a full disk or
/// an interrupt leaves the old one. A new file has the mode that the umask leaves, another one
/// keeps mode and owner. What is no regular file is written itself, and so is a file in a folder
/// that takes no new one.
///
/// # Errors
/// What the kernel answers; also where the old file may not be written.
pub(super) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let old = fs::metadata(path).ok();
    if old.as_ref().is_some_and(|old| !old.is_file())
        || DIRECT.iter().any(|folder| path.starts_with(folder))
    {
        return fs::write(path, content);
    }
    if old.is_some() {
        // The folder's permission to rename is none to write this file.
        fs::OpenOptions::new().write(true).open(path)?;
    }
    // What a link leads to is replaced, not the link.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    match beside(&target, content, old.as_ref()) {
        Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::NotFound) => {
            fs::write(path, content)
        }
        written => written,
    }
}

fn beside(target: &Path, content: &[u8], old: Option<&Metadata>) -> io::Result<()> {
    let folder =
        target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = Builder::new()
        .prefix(".sva-")
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder)?;
    file.write_all(content)?;
    if let Some(old) = old {
        keep(file.as_file(), old)?;
    }
    // Some file systems find out only now that the disk is full.
    file.as_file().sync_all()?;
    file.persist(target).map(drop).map_err(|error| error.error)
}

/// Gives the new file the old one's owner, where that is permitted, and mode.
fn keep(file: &fs::File, old: &Metadata) -> io::Result<()> {
    let _ = fchown(file, Some(old.uid()), Some(old.gid()));
    file.set_permissions(Permissions::from_mode(old.mode() & 0o777))
}
